//! The task whose specialist asked for another.

/// See the file's head.
pub(super) const SCHEMA: &str = "
ALTER TABLE tasks ADD COLUMN created_by {id};
";
