//! Where a run comes from: the run it repeats, and the tasks whose results it took over.
//!
//! **Invariant:** both name what may have been removed since; nothing but reports and replays reads them.

/// See the file's head.
pub(super) const SCHEMA: &str = "
ALTER TABLE runs ADD COLUMN parent_run {id};
ALTER TABLE runs ADD COLUMN origin TEXT CHECK (origin IS NULL OR origin = 'replay' OR origin = 'fork');
ALTER TABLE tasks ADD COLUMN copied_from {id};
";
