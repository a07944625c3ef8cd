//! The current summaries of a project are found without reading its memories.

use sea_orm_migration::prelude::*;

/// See the file's head.
#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(SCHEMA).await?;
        Ok(())
    }
}

const SCHEMA: &str = "
CREATE INDEX memories_project_summaries ON memories (project)
    WHERE kind = 'project_summary' AND superseded_by IS NULL;
CREATE INDEX memories_rolling_summaries ON memories (task_id)
    WHERE kind = 'rolling_summary' AND superseded_by IS NULL;
";
