//! Finding runs and tasks by the beginning of their ids.

use std::collections::HashMap;

use crewline_types::{RunId, TaskId, TaskStatus, task::PARKED};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::{
    Backend, Error, Store,
    commit::{run_id, task_id},
    entity,
};

/// Characters of an id.
const ID_LEN: usize = 8;
/// Runs in one statement.
const RUNS_MAX: usize = 500;

impl Store {
    /// The runs whose ids begin with `prefix`, at most `limit`, by id.
    pub async fn find_runs(&self, prefix: &str, limit: u32) -> Result<Vec<RunId>, Error> {
        let Some(condition) = self.begins_with(entity::run::Column::Id, prefix) else { return Ok(Vec::new()) };
        let ids: Vec<String> = entity::run::Entity::find()
            .select_only()
            .column(entity::run::Column::Id)
            .filter(condition)
            .order_by_asc(entity::run::Column::Id)
            .limit(u64::from(limit))
            .into_tuple()
            .all(self.reader().await?)
            .await?;
        ids.iter().map(|id| run_id(id)).collect()
    }

    /// The tasks whose ids begin with `prefix`, each with its run, at most `limit`, by id.
    pub async fn find_tasks(&self, prefix: &str, limit: u32) -> Result<Vec<(TaskId, RunId)>, Error> {
        let Some(condition) = self.begins_with(entity::task::Column::Id, prefix) else { return Ok(Vec::new()) };
        let ids: Vec<(String, String)> = entity::task::Entity::find()
            .select_only()
            .column(entity::task::Column::Id)
            .column(entity::task::Column::RunId)
            .filter(condition)
            .order_by_asc(entity::task::Column::Id)
            .limit(u64::from(limit))
            .into_tuple()
            .all(self.reader().await?)
            .await?;
        ids.iter().map(|(task, run)| Ok((task_id(task)?, run_id(run)?))).collect()
    }

    /// How many tasks of each of `runs` wait for their models; runs without one are left out.
    pub async fn parked(&self, runs: &[RunId]) -> Result<HashMap<RunId, u64>, Error> {
        let mut parked = HashMap::new();
        for some in runs.chunks(RUNS_MAX) {
            let rows: Vec<(String, i64)> = entity::task::Entity::find()
                .select_only()
                .column(entity::task::Column::RunId)
                .column_as(entity::task::Column::Id.count(), "parked")
                .filter(entity::task::Column::RunId.is_in(some.iter().map(RunId::as_str)))
                .filter(entity::task::Column::Status.eq(TaskStatus::Pending.as_str()))
                .filter(entity::task::Column::Reason.starts_with(PARKED))
                .group_by(entity::task::Column::RunId)
                .into_tuple()
                .all(self.reader().await?)
                .await?;
            for (run, count) in rows {
                parked.insert(run_id(&run)?, u64::try_from(count).unwrap_or_default());
            }
        }
        Ok(parked)
    }

    /// `None` when no id begins like that.
    fn begins_with(&self, column: impl ColumnTrait, prefix: &str) -> Option<Condition> {
        let is_id = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if prefix.is_empty() || prefix.len() > ID_LEN || !prefix.bytes().all(is_id) {
            return None;
        }
        Some(match (self.backend(), prefix.len()) {
            (_, ID_LEN) => Condition::all().add(column.eq(prefix)),
            // Its text columns compare bytes, so that the index answers.
            (Backend::Sqlite, len) => {
                let last = format!("{prefix}{}", "z".repeat(ID_LEN - len));
                Condition::all().add(column.gte(prefix)).add(column.lte(last))
            }
            // There the order of letters is a matter of the database's locale.
            (Backend::Postgres, _) => Condition::all().add(column.starts_with(prefix)),
        })
    }
}
