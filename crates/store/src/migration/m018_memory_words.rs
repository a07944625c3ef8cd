//! The words of memories, so that a project is opened without taking its texts apart.

/// See the file's head.
pub(super) const SCHEMA: &str = "
-- The words of a project's memories behind one row, up to another. Rows are long: not clustered.
CREATE TABLE memory_words (
    project TEXT NOT NULL,
    after_row {bigint} NOT NULL,
    through_row {bigint} NOT NULL CHECK (through_row > after_row),
    words {bytes} NOT NULL,
    PRIMARY KEY (project, through_row, after_row)
){table};

-- Raised by each forgetting, so that words that were read before it are not kept after it.
CREATE TABLE memory_epochs (
    project TEXT NOT NULL PRIMARY KEY,
    epoch {bigint} NOT NULL CHECK (epoch >= 0)
){clustered};
";
