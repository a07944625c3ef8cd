//! What each run sent to which host, and what it received from there.

/// See the file's head.
pub(super) const SCHEMA: &str = "
CREATE TABLE traffic (
    run_id {id} NOT NULL,
    host TEXT NOT NULL,
    sent_bytes {bigint} NOT NULL CHECK (sent_bytes >= 0),
    received_bytes {bigint} NOT NULL CHECK (received_bytes >= 0),
    PRIMARY KEY (run_id, host)
){clustered};
";
