//! Reading what a run did.
//!
//! **Invariant:** rows come in a fixed order: by place in the plan, attempt, call, `seq`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crewline_types::{
    AttemptId, CallId, Event, MicroUsd, Role, RunId, Task, TaskId, TextHash, Timestamp, Usage,
    event::{CallOutcome, ErrorNote},
    task::LinkKind,
};
use sea_orm::{
    ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait as _, sea_query::SelectStatement,
};

use crate::{
    Error, Store,
    commit::task_id,
    entity::{self, parse},
    sql::clamp,
};

/// Hashes in one statement.
const HASHES_MAX: usize = 500;

/// Where an attempt is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptStatus {
    /// Not ended, or the end was lost.
    Running,
    /// Made a result.
    Succeeded,
    /// Made none.
    Failed,
}

impl AttemptStatus {
    /// The name used in the database and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }

    /// The inverse of [`Self::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "running" => Self::Running,
            "succeeded" => Self::Succeeded,
            "failed" => Self::Failed,
            _ => return None,
        })
    }
}

/// An attempt as the database holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRow {
    /// Its id.
    pub id: AttemptId,
    /// Who tried.
    pub role: Role,
    /// The model that answered last.
    pub model: String,
    /// Where it is in its life.
    pub status: AttemptStatus,
    /// Consumed by all its calls.
    pub usage: Usage,
    /// Cost of its priced calls.
    pub cost: MicroUsd,
    /// Why it failed.
    pub error: Option<ErrorNote>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Names everything it depended on but memories that were found.
    pub input_hash: Option<TextHash>,
}

/// A call as the database holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct CallRow {
    /// Its id.
    pub id: CallId,
    /// `plan`, `task`, `repair` or `synthesis`.
    pub purpose: String,
    /// The model's name in the registry.
    pub model: String,
    /// The provider's name in the registry.
    pub provider: String,
    /// How it ended; `None` until it returned.
    pub outcome: Option<CallOutcome>,
    /// Tokens.
    pub usage: Usage,
    /// Cost; `None` when the model has no price or the call did not return.
    pub cost: Option<MicroUsd>,
    /// How long it took; zero until it returned.
    pub elapsed: Duration,
    /// Names what was asked.
    pub input_hash: TextHash,
    /// The worst case that was reserved for it; `None` when the model has no price.
    pub reserved: Option<MicroUsd>,
    /// The answer.
    pub reply: Option<TextHash>,
    /// Why it failed.
    pub error: Option<ErrorNote>,
    /// When it was about to be sent.
    pub started_at: Timestamp,
}

/// What an attempt was told, as the database holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextRow {
    /// The attempt.
    pub id: AttemptId,
    /// Tokens of the bundle.
    pub tokens: u32,
    /// Tokens it could have had.
    pub budget: u32,
    /// Where every part came from, as JSON.
    pub items: String,
    /// Names the bundle as it was sent; the hash of [`crewline_types::Text`]. Older versions did not record it.
    pub bundle: Option<TextHash>,
    /// The whole question, where a later attempt may have to go on with it.
    pub prompt: Option<TextHash>,
    /// The tokenizer that counted; none for an estimate.
    pub tokenizer: Option<Arc<str>>,
    /// When.
    pub at: Timestamp,
}

/// The numbers of the run's tasks, as a subquery.
pub(crate) fn numbers_of(run: RunId) -> SelectStatement {
    entity::task::Entity::find()
        .select_only()
        .column(entity::task::Column::Number)
        .filter(entity::task::Column::RunId.eq(run.as_str()))
        .into_query()
}

impl Store {
    /// The tasks of a run, by their place in the plan.
    pub async fn tasks(&self, run: RunId) -> Result<Vec<Task>, Error> {
        let item = self.row_of::<entity::task::Entity>("t");
        let from = "tasks AS t WHERE t.run_id = $1";
        let rows: Vec<entity::task::Model> = self.packed(&item, "t.position, t.number", from, run).await?;
        rows.into_iter().map(Task::try_from).collect()
    }

    /// The links between tasks of a run, as (from, to, kind).
    pub async fn links(&self, run: RunId) -> Result<Vec<(TaskId, TaskId, LinkKind)>, Error> {
        let item = self.array_of(&["t.id".into(), "u.id".into(), "l.kind".into()]);
        let from = "tasks AS t JOIN task_links AS l ON l.from_task = t.number JOIN tasks AS u ON u.number = l.to_task \
                    WHERE t.run_id = $1";
        let order = "l.from_task, l.to_task, l.kind";
        let rows: Vec<(String, String, String)> = self.packed(&item, order, from, run).await?;
        rows.iter()
            .map(|(from, to, kind)| {
                Ok((task_id(from)?, task_id(to)?, parse("task_links.kind", kind, LinkKind::parse)?))
            })
            .collect()
    }

    /// The attempts of a run, by task and number.
    pub async fn attempts(&self, run: RunId) -> Result<Vec<AttemptRow>, Error> {
        let item = self.array_of(&["t.id".into(), self.row_of::<entity::attempt::Entity>("a")]);
        let from = "tasks AS t JOIN attempts AS a ON a.task = t.number WHERE t.run_id = $1";
        let rows: Vec<(String, entity::attempt::Model)> = self.packed(&item, "a.task, a.number", from, run).await?;
        rows.into_iter().map(|(task, row)| row.into_domain(task_id(&task)?)).collect()
    }

    /// The calls of a run, by task, attempt and number.
    pub async fn calls(&self, run: RunId) -> Result<Vec<CallRow>, Error> {
        let item = self.array_of(&["t.id".into(), self.row_of::<entity::call::Entity>("c")]);
        let from = "tasks AS t JOIN calls AS c ON c.task = t.number WHERE t.run_id = $1";
        let order = "c.task, c.attempt, c.number";
        let rows: Vec<(String, entity::call::Model)> = self.packed(&item, order, from, run).await?;
        rows.into_iter().map(|(task, row)| row.into_domain(task_id(&task)?)).collect()
    }

    /// What the attempts of a task were told, by attempt.
    pub async fn contexts(&self, task: TaskId) -> Result<Vec<ContextRow>, Error> {
        let number = entity::task::Entity::find()
            .select_only()
            .column(entity::task::Column::Number)
            .filter(entity::task::Column::Id.eq(task.as_str()))
            .into_query();
        let rows = entity::task_context::Entity::find()
            .filter(entity::task_context::Column::Task.in_subquery(number))
            .order_by_asc(entity::task_context::Column::Attempt)
            .all(self.reader().await?)
            .await?;
        rows.into_iter().map(|row| row.into_domain(task)).collect()
    }

    /// Texts by hash; one that is not there is left out.
    pub async fn texts(&self, hashes: &[TextHash]) -> Result<HashMap<TextHash, Arc<str>>, Error> {
        let reader = self.reader().await?;
        let mut found = HashMap::with_capacity(hashes.len());
        for chunk in hashes.chunks(HASHES_MAX) {
            let rows = entity::text::Entity::find()
                .filter(entity::text::Column::Hash.is_in(chunk.iter().map(|hash| hash.0.to_vec())))
                .all(reader)
                .await?;
            for row in rows {
                found.insert(entity::hash("texts.hash", &row.hash)?, row.body.into());
            }
        }
        Ok(found)
    }

    /// The first event of a kind that a run has.
    pub async fn first_event(&self, run: RunId, kind: &str) -> Result<Option<Event>, Error> {
        let row = entity::event::Entity::find()
            .filter(entity::event::Column::RunId.eq(run.as_str()))
            .filter(entity::event::Column::Kind.eq(kind))
            .order_by_asc(entity::event::Column::Seq)
            .limit(1)
            .one(self.reader().await?)
            .await?;
        row.map(Event::try_from).transpose()
    }

    /// All events of a kind that a run has, in order.
    pub async fn events_of_kind(&self, run: RunId, kind: &str) -> Result<Vec<Event>, Error> {
        entity::event::Entity::find()
            .filter(entity::event::Column::RunId.eq(run.as_str()))
            .filter(entity::event::Column::Kind.eq(kind))
            .order_by_asc(entity::event::Column::Seq)
            .all(self.reader().await?)
            .await?
            .into_iter()
            .map(Event::try_from)
            .collect()
    }

    /// Events of a run after `after_seq`, in order.
    pub async fn events(&self, run: RunId, after_seq: u64, limit: u32) -> Result<Vec<Event>, Error> {
        entity::event::Entity::find()
            .filter(entity::event::Column::RunId.eq(run.as_str()))
            .filter(entity::event::Column::Seq.gt(clamp(after_seq)))
            .order_by_asc(entity::event::Column::Seq)
            .limit(u64::from(limit))
            .all(self.reader().await?)
            .await?
            .into_iter()
            .map(Event::try_from)
            .collect()
    }

    pub(crate) async fn ids(&self, run: RunId) -> Result<HashMap<i64, TaskId>, Error> {
        let rows: Vec<(i64, String)> = entity::task::Entity::find()
            .select_only()
            .column(entity::task::Column::Number)
            .column(entity::task::Column::Id)
            .filter(entity::task::Column::RunId.eq(run.as_str()))
            .into_tuple()
            .all(self.reader().await?)
            .await?;
        rows.into_iter().map(|(number, id)| Ok((number, task_id(&id)?))).collect()
    }
}

pub(crate) fn id_of(ids: &HashMap<i64, TaskId>, number: i64) -> Result<TaskId, Error> {
    ids.get(&number).copied().ok_or_else(|| Error::corrupt("tasks.number", &number.to_string()))
}
