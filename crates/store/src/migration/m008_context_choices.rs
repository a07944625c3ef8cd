//! What a person decided on the context of a task, and the name of each bundle that was sent.
//!
//! **Invariant:** a decision that is taken back stays as `none`: when something last changed can always be told.

/// See the file's head.
pub(super) const SCHEMA: &str = "
-- The hash of the bundle as it was sent; NULL before this migration.
ALTER TABLE task_contexts ADD COLUMN bundle {bytes};

-- Rows may be long: not clustered.
CREATE TABLE context_choices (
    task {bigint} NOT NULL,
    -- `task:<id>`, `memory:<id>`, or `bundle`.
    item TEXT NOT NULL,
    choice TEXT NOT NULL CHECK (choice = 'pin' OR choice = 'exclude' OR choice = 'none' OR choice = 'approved'),
    title TEXT NOT NULL,
    -- The text of a memory, or the JSON of an approved bundle.
    body TEXT,
    agent TEXT NOT NULL,
    created_at {bigint} NOT NULL,
    PRIMARY KEY (task, item),
    CHECK (choice <> 'approved' OR item = 'bundle'),
    CHECK (choice <> 'approved' OR body IS NOT NULL)
){table};
";
