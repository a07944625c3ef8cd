//! Where a run comes from: the run it repeats, and the tasks whose results it took over.
//!
//! **Invariant:** both name what may have been removed since; nothing but reports and replays reads them.

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

const SCHEMA: &str = "
ALTER TABLE runs ADD COLUMN parent_run {id};
ALTER TABLE runs ADD COLUMN origin TEXT CHECK (origin IS NULL OR origin = 'replay' OR origin = 'fork');
ALTER TABLE tasks ADD COLUMN copied_from {id};
";
