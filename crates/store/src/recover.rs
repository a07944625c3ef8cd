//! What who takes over has to know: runs nobody works on, attempts that were begun, answers that are recorded.

use std::{collections::HashMap, sync::Arc};

use crewline_types::{
    AttemptId, CallId, RunId, RunStatus, TaskId, TextHash,
    event::{CallOutcome, ErrorNote},
};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait as _, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Statement,
};

use crate::{Backend, CallRow, Error, Store, commit::run_id, entity};

/// Tasks in one statement.
const TASKS_MAX: usize = 500;

/// What is recorded of an attempt that has no report.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenAttempt {
    /// The attempt.
    pub id: AttemptId,
    /// Whether it was begun.
    pub is_started: bool,
    /// Its calls, in order.
    pub calls: Vec<CallRow>,
}

/// A recorded answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The call.
    pub call: CallId,
    /// What for.
    pub purpose: String,
    /// The model's name in the registry.
    pub model: String,
    /// Names what was asked.
    pub input_hash: TextHash,
    /// Names everything that its attempt depended on but memories.
    pub given: Option<TextHash>,
    /// How the call ended.
    pub outcome: CallOutcome,
    /// The code of what was wrong with it.
    pub error: Option<Arc<str>>,
    /// The answer.
    pub reply: Arc<str>,
}

/// The attempts before one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Before {
    /// Those right before it that were not finished, the latest first.
    pub unfinished: Vec<u32>,
    /// Those before them, the latest first, each with why it made no result.
    pub earlier: Vec<(u32, Option<ErrorNote>)>,
}

impl Store {
    /// What is recorded of attempts, in the order they are named.
    pub async fn open_attempts(&self, ids: &[AttemptId]) -> Result<Vec<OpenAttempt>, Error> {
        let mut found: HashMap<AttemptId, OpenAttempt> =
            ids.iter().map(|id| (*id, OpenAttempt { id: *id, is_started: false, calls: Vec::new() })).collect();
        let mut tasks: Vec<TaskId> = ids.iter().map(|id| id.task).collect();
        tasks.sort_unstable();
        tasks.dedup();
        for chunk in tasks.chunks(TASKS_MAX) {
            let tasks = self.numbers_of_tasks(chunk).await?;
            let numbers: Vec<i64> = tasks.keys().copied().collect();
            let attempts = entity::attempt::Entity::find()
                .filter(entity::attempt::Column::Task.is_in(numbers.iter().copied()))
                .all(self.reader().await?)
                .await?;
            for row in attempts {
                if let Some(task) = tasks.get(&row.task)
                    && let Some(attempt) = found.get_mut(&row.into_domain(*task)?.id)
                {
                    attempt.is_started = true;
                }
            }
            let calls = entity::call::Entity::find()
                .filter(entity::call::Column::Task.is_in(numbers))
                .order_by_asc(entity::call::Column::Task)
                .order_by_asc(entity::call::Column::Attempt)
                .order_by_asc(entity::call::Column::Number)
                .all(self.reader().await?)
                .await?;
            for row in calls {
                if let Some(task) = tasks.get(&row.task) {
                    let call = row.into_domain(*task)?;
                    if let Some(attempt) = found.get_mut(&call.id.attempt) {
                        attempt.calls.push(call);
                    }
                }
            }
        }
        Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
    }

    /// The answers that were recorded by the attempts right before `attempt`, as far back as they ended with one of the
    /// error codes `unfinished` or not at all: the latest attempt first, in the order of its calls.
    pub async fn answers_before(&self, attempt: AttemptId, unfinished: &[&str]) -> Result<Vec<Answer>, Error> {
        let tasks = self.numbers_of_tasks(&[attempt.task]).await?;
        let Some(number) = tasks.keys().next() else { return Ok(Vec::new()) };
        let numbers: Vec<i64> =
            self.unfinished_before(attempt, unfinished).await?.unfinished.into_iter().map(i64::from).collect();
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        let attempts = entity::attempt::Entity::find()
            .filter(entity::attempt::Column::Task.eq(*number))
            .filter(entity::attempt::Column::Number.is_in(numbers.iter().copied()))
            .all(self.reader().await?)
            .await?;
        let mut given = HashMap::with_capacity(attempts.len());
        for row in attempts {
            let row = row.into_domain(attempt.task)?;
            given.insert(row.id, row.input_hash);
        }
        let condition = Condition::all()
            .add(entity::call::Column::Task.eq(*number))
            .add(entity::call::Column::Attempt.is_in(numbers))
            .add(entity::call::Column::Reply.is_not_null());
        let rows = entity::call::Entity::find()
            .filter(condition)
            .order_by_desc(entity::call::Column::Attempt)
            .order_by_asc(entity::call::Column::Number)
            .all(self.reader().await?)
            .await?;
        let mut calls = Vec::with_capacity(rows.len());
        for row in rows {
            calls.push(row.into_domain(attempt.task)?);
        }
        let hashes: Vec<TextHash> = calls.iter().filter_map(|call| call.reply).collect();
        let texts = self.texts(&hashes).await?;
        let mut answers = Vec::with_capacity(calls.len());
        for call in calls {
            if let Some(hash) = call.reply {
                // One that was judged still when its attempt was lost is judged again.
                let outcome = call.outcome.unwrap_or(CallOutcome::Ok);
                let reply = texts.get(&hash).ok_or_else(|| Error::corrupt("calls.reply", &call.id.to_string()))?;
                let (input_hash, reply) = (call.input_hash, Arc::clone(reply));
                let error = call.error.map(|it| it.code);
                let given = given.get(&call.id.attempt).copied().flatten();
                let (purpose, model) = (call.purpose, call.model);
                answers.push(Answer { call: call.id, purpose, model, input_hash, given, outcome, error, reply });
            }
        }
        Ok(answers)
    }

    /// The attempts right before `attempt`, as far back as they ended with one of the error codes `unfinished` or not at
    /// all, and all those before.
    pub async fn unfinished_before(&self, attempt: AttemptId, unfinished: &[&str]) -> Result<Before, Error> {
        let tasks = self.numbers_of_tasks(&[attempt.task]).await?;
        let mut before = Before::default();
        let Some(number) = tasks.keys().next() else { return Ok(before) };
        let attempts = entity::attempt::Entity::find()
            .filter(entity::attempt::Column::Task.eq(*number))
            .filter(entity::attempt::Column::Number.lt(attempt.number))
            .order_by_desc(entity::attempt::Column::Number)
            .all(self.reader().await?)
            .await?;
        for row in attempts {
            let row = row.into_domain(attempt.task)?;
            // One whose end is not recorded, although there is a later one, was lost too.
            let is_unfinished = |note: &ErrorNote| unfinished.contains(&&*note.code);
            let is_unfinished = row.finished_at.is_none() || row.error.as_ref().is_some_and(is_unfinished);
            if is_unfinished && before.earlier.is_empty() {
                before.unfinished.push(row.id.number);
            } else {
                before.earlier.push((row.id.number, row.error));
            }
        }
        Ok(before)
    }

    /// The runs that are running and that nobody holds, by id.
    pub async fn orphaned_runs(&self) -> Result<Vec<RunId>, Error> {
        let reader = self.reader().await?;
        let statement = Statement::from_string(reader.get_database_backend(), orphans(self.backend()));
        let rows = reader.query_all_raw(statement).await?;
        rows.iter().map(|row| run_id(&row.try_get_by_index::<String>(0)?)).collect()
    }

    /// The runs that are running, whoever holds them.
    pub async fn running_runs(&self) -> Result<Vec<RunId>, Error> {
        let rows: Vec<String> = entity::run::Entity::find()
            .select_only()
            .column(entity::run::Column::Id)
            .filter(entity::run::Column::Status.eq(RunStatus::Running.as_str()))
            .into_tuple()
            .all(self.reader().await?)
            .await?;
        rows.iter().map(|id| run_id(id)).collect()
    }

    pub(crate) async fn numbers_of_tasks(&self, tasks: &[TaskId]) -> Result<HashMap<i64, TaskId>, Error> {
        let rows: Vec<(i64, String)> = entity::task::Entity::find()
            .select_only()
            .column(entity::task::Column::Number)
            .column(entity::task::Column::Id)
            .filter(entity::task::Column::Id.is_in(tasks.iter().map(TaskId::as_str)))
            .into_tuple()
            .all(self.reader().await?)
            .await?;
        rows.into_iter().map(|(number, id)| Ok((number, crate::commit::task_id(&id)?))).collect()
    }
}

fn orphans(backend: Backend) -> String {
    crate::sql::dialect(
        "SELECT r.id FROM runs AS r WHERE r.status = 'running' AND (r.lease_until IS NULL OR r.lease_until <= NOW_MICROS) \
         ORDER BY r.id",
        backend,
    )
}
