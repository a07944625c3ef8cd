//! The keys that runs were launched with, so that a launch that is asked for again makes no second run.

/// See the file's head.
pub(super) const SCHEMA: &str = "
CREATE TABLE launch_keys (
    -- Who launched, and the key.
    name TEXT NOT NULL PRIMARY KEY,
    -- Names what was asked for.
    request {bytes} NOT NULL,
    run_id {id} NOT NULL
){clustered};
CREATE INDEX launch_keys_run ON launch_keys (run_id);
";
