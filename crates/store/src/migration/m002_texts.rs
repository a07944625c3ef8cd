//! When a text was last written, so that one nobody needs can be told from one that is about to be needed.

use sea_orm_migration::prelude::*;

use super::{backend_of, dialect};

/// See the file's head.
#[derive(DeriveMigrationName)]
pub(super) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(&dialect(SCHEMA, backend_of(manager))).await?;
        Ok(())
    }
}

const SCHEMA: &str = "ALTER TABLE texts ADD COLUMN touched_at {bigint} NOT NULL DEFAULT 0;";
