//! What the plan gives to an offered attempt: only its manager knows what follows from the tree.

use sea_orm_migration::prelude::*;

/// See the file's head.
#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let told = ColumnDef::new("told").text().not_null().default("").to_owned();
        manager.alter_table(Table::alter().table("offers").add_column(told).to_owned()).await
    }
}
