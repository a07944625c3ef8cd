//! What may change about a memory, and what the vector store has still to be told.

/// See the file's head.
pub(super) const SCHEMA: &str = "
-- Thousandths.
ALTER TABLE memories ADD COLUMN importance {bigint} NOT NULL DEFAULT 500 CHECK (importance BETWEEN 0 AND 1000);
ALTER TABLE memories ADD COLUMN pinned {bool} NOT NULL DEFAULT FALSE;
-- The id of the memory that took its place, 16 bytes.
ALTER TABLE memories ADD COLUMN superseded_by {bytes};
ALTER TABLE memories ADD COLUMN repeats {bigint} NOT NULL DEFAULT 0 CHECK (repeats >= 0);
-- Whether one of its sources is gone or was superseded.
ALTER TABLE memories ADD COLUMN stale {bool} NOT NULL DEFAULT FALSE;
-- JSON of a map from text to text.
ALTER TABLE memories ADD COLUMN metadata TEXT;

-- Memories that are gone here and must still be taken out of the vector store.
CREATE TABLE memory_forgotten (
    id {bytes} NOT NULL,
    project TEXT NOT NULL,
    PRIMARY KEY (id, project)
){table};

-- Where the vectors are: one row. Another target begins with every memory in the outbox.
CREATE TABLE memory_target (
    one {bigint} NOT NULL PRIMARY KEY CHECK (one = 1),
    name TEXT NOT NULL
){table};
";
