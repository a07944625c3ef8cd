//! A run's tasks in the hands of people and outside agents: adding, changing, linking, taking and completing them.
//!
//! Commands are applied in order to what is recorded, what follows from them is settled, and all of it is written in one
//! transaction, or none of it.
//!
//! **Invariant:** a run that a process works on is not touched: whoever changes a graph by hand has it for themselves.
//! **Invariant:** `requires` stays acyclic; a link that would close a circle is refused with the way round.
//! **Invariant:** nothing is deleted: a task that is deleted is cancelled, and every change is an event that says who made it.

mod apply;
mod command;
mod draft;
mod finish;
mod plan;
mod rate;
mod view;

pub use apply::DEPTH_MAX;
pub use command::{Place, TaskCommand, TaskFields};
pub use plan::document_of;
pub use view::{Next, TaskView};

use std::sync::Arc;

use crewline_engine::criteria;
use crewline_store::{Backend, Committed};
use crewline_types::{Criterion, RunId, RunStatus, TaskId, TaskStatus};
use serde::Serialize;

use crate::{
    Error, Handle,
    lock::RunLock,
    plan_question::{self, PlanQuestion},
    verify,
};

use draft::Draft;

/// What of the criteria that a program can tell `text` does not meet: a line each.
pub fn unmet(criteria: &[Criterion], text: &str) -> Vec<String> {
    let mut unmet = Vec::new();
    for criterion in criteria {
        let mut criterion = criterion.clone();
        if criterion.measurable && criterion.check.is_none() {
            criterion.check = criteria::check_of(&criterion.criterion);
            if criterion.check.is_none() {
                let (words, known) = (&criterion.criterion, criteria::KNOWN);
                unmet.push(format!("`{words}` can not be checked: it is none of {known}"));
            }
        }
        if criterion.check.as_ref().is_some_and(|check| !check.reads_answer_only()) {
            unmet.push(format!("`{}` is checked by attempts only, and not by hand", criterion.criterion));
        }
        let failed = verify::verdicts(&[criterion], text).into_iter().filter(|it| !it.passed);
        unmet.extend(failed.map(|it| format!("`{}` is not met: {}", it.criterion, it.evidence)));
    }
    unmet
}

/// What came of changing a run by hand.
#[derive(Debug, Clone, Serialize)]
pub struct Changed {
    /// The run.
    pub run: RunId,
    /// Where it is now.
    pub run_status: RunStatus,
    /// The tasks that are new or whose status changed, in the order of the plan.
    pub tasks: Vec<ChangedTask>,
}

/// A task that is new, or whose status changed.
#[derive(Debug, Clone, Serialize)]
pub struct ChangedTask {
    /// Its id.
    pub id: TaskId,
    /// Its name inside the plan.
    pub key: Arc<str>,
    /// Where it is now.
    pub status: TaskStatus,
    /// Why, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Handle {
    /// Does all of `commands` to a run that nobody works on, or nothing.
    pub async fn change_tasks(&self, run: RunId, commands: &[TaskCommand], agent: &str) -> Result<Changed, Error> {
        let _held = self.hold(run).await?;
        let mut draft = self.draft(run, agent).await?;
        for command in commands {
            draft.apply(command, &mut self.ids())?;
        }
        self.write(draft).await
    }

    /// What a run's tasks are, as a draft of what they shall be.
    async fn draft(&self, run: RunId, agent: &str) -> Result<Draft, Error> {
        let row = self.row(run).await?;
        if row.status == RunStatus::Cancelled {
            return Err(Error::Finished { run, status: row.status });
        }
        let tasks = self.store().tasks(run).await?;
        let links = self.store().links(run).await?;
        let details = self.store().details(run).await?;
        let index = match row.index {
            Some(hash) => self.store().texts(&[hash]).await?.remove(&hash),
            None => None,
        };
        let deps = self.deps();
        Draft::new(draft::Recorded { row, tasks, links, details, index }, deps.clock.now(), agent)
    }

    async fn write(&self, draft: Draft) -> Result<Changed, Error> {
        let run = draft.run();
        let waiting = plan_question::waiting(self.store(), run).await?;
        let plan = PlanQuestion::of(&draft.tasks, &draft.links, &draft.details);
        let (change, changed) = draft.finish(self.deps().limits.index_tokens);
        let Some(mut change) = change else { return Ok(changed) };
        plan.ask_anew(&mut change, &waiting);
        match self.store().commit(&[change]).await?.pop() {
            Some(Committed::Done { events }) => {
                self.publish(events);
                Ok(changed)
            }
            Some(Committed::Stale | Committed::OverBudget { .. }) | None => {
                Err(Error::Held { run, owner: "another process that was faster".into() })
            }
        }
    }

    /// Sees to it that nobody works on the run. The lock keeps others of this process, or of this machine, away until it is dropped;
    /// on a shared database the change is refused when somebody was faster.
    pub(crate) async fn hold(&self, run: RunId) -> Result<Arc<RunLock>, Error> {
        let row = self.row(run).await?;
        if self.store().backend() == Backend::Sqlite {
            return self.lock(run);
        }
        let is_free = row.owner.is_none()
            || row.status != RunStatus::Running
            || self.store().orphaned_runs().await?.contains(&run);
        if is_free { self.lock(run) } else { Err(Error::Held { run, owner: row.owner.unwrap_or_default() }) }
    }
}
