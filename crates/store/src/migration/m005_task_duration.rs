//! How long a task should take, so that a run can order its tasks by the longest way to the end.

use sea_orm_migration::prelude::*;

/// See the file's head.
#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let table = Table::alter().table("tasks").add_column(ColumnDef::new("duration_ms").big_integer()).to_owned();
        manager.alter_table(table).await
    }
}
