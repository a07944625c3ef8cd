//! How long a process may be silent before it counts as lost, so that whoever looks need not know its settings.

use sea_orm_migration::prelude::*;

/// See the file's head.
#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // What an older version shows has the default lease.
        let mut lease = ColumnDef::new("lease_us");
        let table =
            Table::alter().table("nodes").add_column(lease.big_integer().not_null().default(30_000_000)).to_owned();
        manager.alter_table(table).await
    }
}
