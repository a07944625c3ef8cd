//! Where runs come from, and what they took over.

use std::{collections::HashMap, sync::Arc};

use crewline_types::{RunId, RunStatus, TaskId};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::{ContextRow, Error, Store, commit::task_id, entity, sql::Args, statements as sql};

/// How a run was made from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It takes over every result that was made from the same inputs.
    Replay,
    /// It takes over what came before a task, and makes the rest anew.
    Fork,
}

impl Origin {
    /// The name used in the database and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Fork => "fork",
        }
    }

    /// The inverse of [`Self::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "replay" => Self::Replay,
            "fork" => Self::Fork,
            _ => return None,
        })
    }
}

/// The run that another was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lineage {
    /// That run.
    pub parent: RunId,
    /// How.
    pub origin: Origin,
}

impl Store {
    /// The tasks of `run` whose results were taken over, each with the task that made it.
    pub async fn copies(&self, run: RunId) -> Result<HashMap<TaskId, TaskId>, Error> {
        let rows: Vec<(String, String)> = entity::task::Entity::find()
            .select_only()
            .column(entity::task::Column::Id)
            .column(entity::task::Column::CopiedFrom)
            .filter(entity::task::Column::RunId.eq(run.as_str()))
            .filter(entity::task::Column::CopiedFrom.is_not_null())
            .into_tuple()
            .all(self.reader().await?)
            .await?;
        rows.iter().map(|(task, from)| Ok((task_id(task)?, task_id(from)?))).collect()
    }

    /// The keys of a run's tasks.
    pub async fn keys(&self, run: RunId) -> Result<HashMap<TaskId, Arc<str>>, Error> {
        let rows: Vec<(String, String)> = entity::task::Entity::find()
            .select_only()
            .column(entity::task::Column::Id)
            .column(entity::task::Column::Key)
            .filter(entity::task::Column::RunId.eq(run.as_str()))
            .into_tuple()
            .all(self.reader().await?)
            .await?;
        rows.into_iter().map(|(task, key)| Ok((task_id(&task)?, key.into()))).collect()
    }

    /// What the attempts of a run were told, by task and attempt.
    pub async fn contexts_of_run(&self, run: RunId) -> Result<Vec<ContextRow>, Error> {
        let ids = self.ids(run).await?;
        let rows = entity::task_context::Entity::find()
            .filter(entity::task_context::Column::Task.in_subquery(crate::query::numbers_of(run)))
            .order_by_asc(entity::task_context::Column::Task)
            .order_by_asc(entity::task_context::Column::Attempt)
            .all(self.reader().await?)
            .await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            let task = crate::query::id_of(&ids, row.task)?;
            found.push(row.into_domain(task)?);
        }
        Ok(found)
    }

    /// Makes a failed run one that can be claimed again. [`Error::Finished`] when it is not failed and is over.
    pub async fn reopen_run(&self, run: RunId) -> Result<(), Error> {
        let add = |args: &mut Args, run: &RunId| args.text(run.as_str());
        if self.write_alone(&sql::REOPEN_RUNS, &[run], add).await? > 0 {
            return Ok(());
        }
        match self.run(run).await?.ok_or(Error::NotFound { run })?.status {
            RunStatus::Running | RunStatus::Interrupted | RunStatus::LimitReached | RunStatus::Failed => Ok(()),
            status @ (RunStatus::Completed | RunStatus::Cancelled) => Err(Error::Finished { run, status }),
        }
    }
}
