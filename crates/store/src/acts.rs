//! Calls of tools and what a person is asked: reading them, and deciding.
//!
//! **Invariant:** what was decided once is never decided otherwise.

use crewline_types::{
    ApprovalId, ApprovalKind, ApprovalState, Effect, RunId, TaskId, TextHash, Timestamp, ToolCallId, ToolOutcome,
};
use sea_orm::{ColumnTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait as _};

use crate::{
    Backend, Error, Store, entity,
    hints::News,
    query::{id_of, numbers_of},
    retry::{RETURN_LIMIT, Retry},
    sql::Args,
    statements as sql,
    tx::{By, Tx},
};

/// Approvals of a whole database that are read at once.
const APPROVALS_MAX: u64 = 1_000;

/// A call of a tool as the database holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCallRow {
    /// Its id.
    pub id: ToolCallId,
    /// The model's own name for it.
    pub asked_as: String,
    /// The tool.
    pub tool: String,
    /// The arguments, as the model wrote them.
    pub arguments: TextHash,
    /// Names tool and arguments.
    pub digest: TextHash,
    /// What the tool does to the world.
    pub effect: Effect,
    /// When it was asked for.
    pub started_at: Timestamp,
    /// The attempt that was about to make it last; `None` as long as none was.
    pub begun_by: Option<u32>,
    /// How it ended; `None` until that is known.
    pub outcome: Option<ToolOutcome>,
    /// What the model is told of it; there exactly when `outcome` is.
    pub output: Option<TextHash>,
    /// How long it took; zero until that is known.
    pub elapsed: std::time::Duration,
}

/// What a person is asked, as the database holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRow {
    /// Its id.
    pub id: ApprovalId,
    /// The run.
    pub run: RunId,
    /// The task; none when it is about the run as a whole.
    pub task: Option<TaskId>,
    /// What is asked.
    pub kind: ApprovalKind,
    /// A line for people.
    pub subject: String,
    /// What exactly.
    pub detail: TextHash,
    /// Names what exactly: a yes covers nothing else.
    pub digest: TextHash,
    /// What was decided.
    pub state: ApprovalState,
    /// When it was asked.
    pub created_at: Timestamp,
    /// When it was decided.
    pub decided_at: Option<Timestamp>,
    /// Who decided.
    pub decided_by: Option<String>,
    /// What they said.
    pub message: Option<String>,
}

/// What a person says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDecision {
    /// Of what.
    pub id: ApprovalId,
    /// The run in which it is asked.
    pub run: RunId,
    /// Yes or no.
    pub state: ApprovalState,
    /// Who.
    pub by: String,
    /// What they say.
    pub message: Option<String>,
    /// When.
    pub at: Timestamp,
    /// The error code of an end that it undoes: a run that is interrupted for that reason is one that whoever manages runs takes
    /// up.
    pub undoes: Option<&'static str>,
}

/// Which approvals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ApprovalFilter {
    /// Of this run only.
    pub run: Option<RunId>,
    /// Those that nobody has decided.
    pub is_pending: bool,
}

impl Store {
    /// The calls of tools that attempts of a task asked for, by attempt, call and place.
    pub async fn tool_calls_of(&self, task: TaskId) -> Result<Vec<ToolCallRow>, Error> {
        let number = entity::task::Entity::find()
            .select_only()
            .column(entity::task::Column::Number)
            .filter(entity::task::Column::Id.eq(task.as_str()))
            .into_query();
        let rows = entity::tool_call::Entity::find()
            .filter(entity::tool_call::Column::Task.in_subquery(number))
            .order_by_asc(entity::tool_call::Column::Attempt)
            .order_by_asc(entity::tool_call::Column::Call)
            .order_by_asc(entity::tool_call::Column::Place)
            .all(self.reader().await?)
            .await?;
        rows.into_iter().map(|row| row.into_domain(task)).collect()
    }

    /// The calls of tools of a run, by task, attempt, call and place.
    pub async fn tool_calls(&self, run: RunId) -> Result<Vec<ToolCallRow>, Error> {
        let ids = self.ids(run).await?;
        let rows = entity::tool_call::Entity::find()
            .filter(entity::tool_call::Column::Task.in_subquery(numbers_of(run)))
            .order_by_asc(entity::tool_call::Column::Task)
            .order_by_asc(entity::tool_call::Column::Attempt)
            .order_by_asc(entity::tool_call::Column::Call)
            .order_by_asc(entity::tool_call::Column::Place)
            .all(self.reader().await?)
            .await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            let task = id_of(&ids, row.task)?;
            found.push(row.into_domain(task)?);
        }
        Ok(found)
    }

    /// What people are or were asked, the oldest first: all of a run, or a thousand of the whole database.
    pub async fn approvals(&self, filter: ApprovalFilter) -> Result<Vec<ApprovalRow>, Error> {
        let mut query = entity::approval::Entity::find();
        query = match filter.run {
            // Its manager takes a question that it does not find for one that is decided.
            Some(run) => query.filter(entity::approval::Column::RunId.eq(run.as_str())),
            None => query.limit(APPROVALS_MAX),
        };
        if filter.is_pending {
            query = query.filter(entity::approval::Column::State.eq(ApprovalState::Pending.as_str()));
        }
        let rows = query
            .order_by_asc(entity::approval::Column::CreatedAt)
            .order_by_asc(entity::approval::Column::Id)
            .all(self.reader().await?)
            .await?;
        rows.into_iter().map(ApprovalRow::try_from).collect()
    }

    /// How many questions of the whole database nobody has decided.
    pub async fn approvals_pending(&self) -> Result<u64, Error> {
        let query = entity::approval::Entity::find();
        let query = query.filter(entity::approval::Column::State.eq(ApprovalState::Pending.as_str()));
        Ok(query.count(self.reader().await?).await?)
    }

    /// The approvals whose ids begin with `start`; two at most.
    pub async fn approvals_like(&self, start: &str) -> Result<Vec<ApprovalRow>, Error> {
        let rows = entity::approval::Entity::find()
            .filter(entity::approval::Column::Id.starts_with(start))
            .order_by_asc(entity::approval::Column::Id)
            .limit(2)
            .all(self.reader().await?)
            .await?;
        rows.into_iter().map(ApprovalRow::try_from).collect()
    }

    /// Records a decision; `false` when it is decided already, or was never asked. With the same transaction the run goes on that
    /// waited for it.
    ///
    /// Who reads the run's row afterwards sees the end that did not see the decision
    /// ([`decided_max`](crate::Change::decided_max)).
    pub async fn decide(&self, decision: &NewDecision) -> Result<bool, Error> {
        let mut retry = Retry::new(RETURN_LIMIT);
        let (is_new, goes_on) = loop {
            match self.try_decide(decision).await {
                Ok(decided) => break decided,
                Err(error) => retry.after(self.backend(), error).await?,
            }
        };
        self.check_file()?;
        if goes_on {
            self.tell(&News { has_orphan: true, ..News::default() }).await;
        }
        Ok(is_new)
    }

    async fn try_decide(&self, decision: &NewDecision) -> Result<(bool, bool), Error> {
        let mut tx = self.aside().begin_by(By::Itself).await?;
        match decide(&mut tx, decision, self.backend()).await {
            Ok(decided) => tx.commit().await.map(|()| decided),
            Err(error) => {
                tx.rollback(&error).await;
                Err(error)
            }
        }
    }
}

/// Whether it is decided now, and whether the run goes on for that.
async fn decide(tx: &mut Tx, decision: &NewDecision, backend: Backend) -> Result<(bool, bool), Error> {
    if backend == Backend::Postgres {
        // Whoever is ending the run at this moment counts what is decided.
        tx.ask(&sql::LOCK_RUNS, &[decision.run], |args, run| args.text(run.as_str()), |_| Ok(())).await?;
    }
    let add = |args: &mut Args, it: &&NewDecision| {
        args.text(it.id.as_str());
        args.word(it.state.as_str());
        args.text(&it.by);
        args.text_or_null(it.message.as_deref());
        args.int(it.at.0);
    };
    if tx.write(&sql::DECIDE, &[decision], add).await? == 0 {
        return Ok((false, false));
    }
    let ends: Vec<_> =
        decision.undoes.map(|code| (decision.run, format!("%\"code\":\"{code}\"%"))).into_iter().collect();
    let add = |args: &mut Args, (run, end): &(RunId, String)| {
        args.text(run.as_str());
        args.text(end);
    };
    Ok((true, tx.write(&sql::GO_ON, &ends, add).await? > 0))
}
