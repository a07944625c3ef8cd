//! The current summaries of a project are found without reading its memories.

/// See the file's head.
pub(super) const SCHEMA: &str = "
CREATE INDEX memories_project_summaries ON memories (project)
    WHERE kind = 'project_summary' AND superseded_by IS NULL;
CREATE INDEX memories_rolling_summaries ON memories (task_id)
    WHERE kind = 'rolling_summary' AND superseded_by IS NULL;
";
