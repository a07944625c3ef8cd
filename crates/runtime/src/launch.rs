//! Launching a run: its row, its plan if it has one, and its manager.
//!
//! **Invariant:** a launched run is a row before it is a message; whoever has its id can find it after a crash.

use std::{collections::BTreeMap, num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use crewline_engine::{plan::Document, route::Mode, schedule::Strategy};
use crewline_store::{Change, LaunchKey, NewRun, RunEnd, Transition};
use crewline_types::{
    EventBody, Role, RunId, RunLimits, RunStatus, Task, TaskCounts, TaskId, TaskKind, TaskStatus, Usage,
    event::NewEvent,
};

use crate::{
    Error, Handle,
    handle::Why,
    lock::RunLock,
    planning::{self, Author, Below},
    settings::{Approve, Settings},
    verify,
};

/// What a run is launched with.
#[derive(Debug, Clone)]
pub struct RunRequest {
    /// The namespace of its memory.
    pub project: String,
    /// What is wanted.
    pub goal: String,
    /// A plan, instead of planning.
    pub plan: Option<Document>,
    /// The hard limits.
    pub limits: RunLimits,
    /// Attempts at once.
    pub concurrency: NonZeroUsize,
    /// Which of the tasks that are ready goes first.
    pub strategy: Strategy,
    /// Which hosts may be asked.
    pub mode: Mode,
    /// Refuse a plan that needs repair.
    pub strict_plan: bool,
    /// Stop when the plan is recorded; `resume` runs it.
    pub stop_after_plan: bool,
    /// What a person wants to be asked about.
    pub approve: Approve,
    /// The folder that its specialists work in, when they may.
    pub workspace: Option<PathBuf>,
}

/// What came of a launch that may have been asked for before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launched {
    /// The run is new.
    Now(RunId),
    /// The run is there since the first time.
    Before(RunId),
}

impl Handle {
    /// Records a run and starts its manager.
    pub async fn launch(&self, request: RunRequest) -> Result<RunId, Error> {
        let place = self.admit()?;
        let (node, lease) = (self.node(), self.limits().lease);
        let owner = Some((&*node, lease));
        let recorded = self.record(&request, owner).await?;
        self.start_manager(recorded.id, recorded.lock, Why::Admitted(place)).await?;
        Ok(recorded.id)
    }

    /// Like [`Self::launch`], but launches once: what is asked for again with the same key is the run that is there.
    pub async fn launch_once(&self, request: RunRequest, key: LaunchKey) -> Result<Launched, Error> {
        if let Some(run) = self.launched(&key).await? {
            return Ok(Launched::Before(run));
        }
        let place = self.admit()?;
        let (node, lease) = (self.node(), self.limits().lease);
        let owner = Some((&*node, lease));
        match self.record_as(&request, owner, Begin::Running, Some(key.clone())).await {
            Ok(recorded) => {
                self.start_manager(recorded.id, recorded.lock, Why::Admitted(place)).await?;
                Ok(Launched::Now(recorded.id))
            }
            // Somebody with the same key was faster.
            Err(Error::Store(taken @ crewline_store::Error::LaunchKeyTaken)) => {
                self.launched(&key).await?.map(Launched::Before).ok_or(taken.into())
            }
            Err(error) => Err(error),
        }
    }

    /// The run that was launched with `key`; an error when something else was asked for then.
    async fn launched(&self, key: &LaunchKey) -> Result<Option<RunId>, Error> {
        match self.store().launched(&key.name).await? {
            Some((run, request)) if request != key.request => Err(Error::LaunchKeyReused { run }),
            found => Ok(found.map(|(run, _)| run)),
        }
    }

    /// Records a run and leaves it to whoever manages runs on this database.
    pub async fn submit(&self, request: RunRequest) -> Result<RunId, Error> {
        Ok(self.record(&request, None).await?.id)
    }

    /// Records a run with its plan, if there is one, and leaves it at rest: nobody plans or runs it until it is resumed.
    pub async fn propose(&self, request: RunRequest) -> Result<RunId, Error> {
        let request = RunRequest { stop_after_plan: true, ..request };
        Ok(self.record_as(&request, None, Begin::AtRest, None).await?.id)
    }

    async fn record(&self, request: &RunRequest, owner: Option<(&str, Duration)>) -> Result<RecordedRun, Error> {
        self.record_as(request, owner, Begin::Running, None).await
    }

    /// Records a run with its plan, if there is one, or not at all: a crash must not leave one that a model would plan.
    async fn record_as(
        &self,
        request: &RunRequest,
        owner: Option<(&str, Duration)>,
        begin: Begin,
        key: Option<LaunchKey>,
    ) -> Result<RecordedRun, Error> {
        let workspace = match (&request.workspace, begin) {
            (Some(_), _) => verify::Workspace::There,
            (None, Begin::Running) => verify::Workspace::Missing,
            // People and other agents may do its work.
            (None, Begin::AtRest) => verify::Workspace::Unknown,
        };
        let plan = match &request.plan {
            Some(document) => Some(self.checked(document, workspace)?),
            None => None,
        };
        self.refuse_unpriced(&request.limits)?;
        let at = self.deps().clock.now();
        let (id, root_id) = {
            let mut ids = self.ids();
            (RunId::new(&mut ids), TaskId::new(&mut ids))
        };
        let lock = self.lock(id)?;
        let settings = Settings {
            limits: request.limits,
            concurrency: request.concurrency,
            strategy: request.strategy,
            offline: matches!(request.mode, Mode::Offline),
            strict_plan: request.strict_plan,
            stop_after_plan: request.stop_after_plan,
            approve: request.approve,
            workspace: request.workspace.clone(),
            models: BTreeMap::new(),
        };
        let run = NewRun {
            id,
            project: request.project.as_str().into(),
            goal: request.goal.as_str().into(),
            settings: settings.text(),
            registry: self.deps().registry().hash(),
            key,
            at,
        };
        let root = root_task(id, root_id, &request.goal, at);
        let mut change = Change::new(id, 0, at);
        change.events.push(NewEvent::of_run(
            at,
            EventBody::RunStarted { project: run.project.clone(), goal: run.goal.clone(), resumed: false },
        ));
        if let Some(plan) = plan {
            let below = Below { run: id, root: root_id, goal: &request.goal, at };
            let rows = planning::rows(below, &plan, Author::Person, &mut self.ids(), self.limits().index_tokens);
            change.transitions.push(Transition::new(root_id, TaskStatus::Pending, TaskStatus::InProgress));
            change.index = Some(rows.index.hash);
            change.texts.push(rows.index);
            change.events.push(NewEvent::of_run(at, EventBody::PlanReady { tasks: rows.entries, repairs: Vec::new() }));
            change.tasks = rows.tasks;
            change.details = rows.details;
            change.links = rows.links;
        }
        if begin == Begin::AtRest {
            end_at_once(&mut change);
        }
        let events = self.store().create_run_with(&run, &root, None, owner, &change).await?;
        self.publish(events);
        Ok(RecordedRun { id, lock })
    }
}

/// How a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// Somebody manages it, or will.
    Running,
    /// It waits to be resumed.
    AtRest,
}

/// The run is interrupted from its first transaction on.
fn end_at_once(change: &mut Change) {
    let mut tasks = TaskCounts::default();
    for task in &change.tasks {
        tasks.add(task.status);
    }
    let status = RunStatus::Interrupted;
    change.run_status = Some(RunEnd { status, finished_at: change.at, error: None });
    change.events.push(NewEvent::of_run(
        change.at,
        EventBody::RunFinished {
            status,
            tasks,
            cost_usd: crewline_types::MicroUsd::ZERO,
            unpriced_calls: 0,
            usage: Usage::default(),
            elapsed_ms: 0,
            error: None,
        },
    ));
}

/// A run that has a row, and whose manager is not started yet.
struct RecordedRun {
    id: RunId,
    lock: Arc<RunLock>,
}

pub(crate) fn root_task(run: RunId, id: TaskId, goal: &str, at: crewline_types::Timestamp) -> Task {
    Task {
        kind: TaskKind::Root,
        title: "Plan the work".into(),
        description: goal.into(),
        ..Task::new(id, run, "root", Role::manager(), at)
    }
}
