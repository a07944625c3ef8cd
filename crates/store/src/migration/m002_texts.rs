//! When a text was last written, so that one nobody needs can be told from one that is about to be needed.

/// See the file's head.
pub(super) const SCHEMA: &str = "ALTER TABLE texts ADD COLUMN touched_at {bigint} NOT NULL DEFAULT 0;";
