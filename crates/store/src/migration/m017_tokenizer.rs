//! Which tokenizer counted what an attempt was told; none where it was estimated.

/// See the file's head.
pub(super) const SCHEMA: &str = "
ALTER TABLE task_contexts ADD COLUMN tokenizer TEXT;
";
