//! Scribe: sums up what the tasks of a run make while it goes on: a task that says much, and the project.
//!
//! The journal tells it what was committed; that is a hint. What a project's summary lacks is read from the database, so
//! what one process missed the next one sums up.
//!
//! **Invariant:** no task waits for a summary; the end of a run waits for the last one at most [`Limits::summary`], or
//! [`Limits::model_summary`] where a model writes it.
//! **Invariant:** at most one summary of a project is in the making here, and none of a run that is closed.
//! **Invariant:** a summary, what it takes the place of, and its event are one change of the run.
//!
//! [`Limits::summary`]: crate::Limits::summary
//! [`Limits::model_summary`]: crate::Limits::model_summary

use std::{collections::HashMap, sync::Arc, time::Duration};

use crewline_store::Change;
use crewline_types::{
    EventBody, MemoryId, MemoryMarks, MemoryRecord, MemoryType, ProjectScope, Role, RunId, TaskId, event::NewEvent,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::{
    actor::{Outcome, WorkGuard, pipe_to_self, remind, tell},
    attempt::Deps,
    brief::{Post, RunBrief},
    hierarchy::{Made, version_of},
    journal::Refusal,
    library::Library,
    manager, memory, metrics,
    progress::Spent,
    summariser::{self, Root},
};

/// How long completed tasks of a project are collected before its summary is made again.
const PAUSE: Duration = Duration::from_secs(5);
/// So many of them are not waited for.
const PENDING_MAX: usize = 64;
/// Limit of making one summary, and longer than the call of a model for it may take.
const WORK_LIMIT: Duration = Duration::from_mins(2);

/// The scribe actor; all data is in [`State`].
#[derive(Debug)]
pub struct Scribe;

/// What you can tell a scribe.
#[derive(Debug)]
pub enum Message {
    /// A run whose plan is recorded is managed in this process.
    Opened(Arc<RunBrief>, Root),
    /// Changes were committed.
    Happened(Vec<Happening>),
    /// A run is about to end: sums up what is new, then tells its manager.
    Close(RunId, ActorRef<manager::Message>),
    /// A run is managed by somebody else, or by nobody.
    Left(RunId),
    /// Internal: the pause is over.
    Due(ProjectScope),
    /// Internal: a project is summed up.
    SummedUp(ProjectScope, Outcome<Result<Option<Made>, crate::Error>>),
    /// Internal: a task is summed up.
    Rolled(RunId, TaskId, Outcome<Result<Option<Made>, crate::Error>>),
}

/// What a commit tells the scribe.
#[derive(Debug)]
pub struct Happening {
    /// The run.
    pub run: RunId,
    /// The task.
    pub task: TaskId,
    /// What happened to it.
    pub what: What,
}

/// What happened to a task.
#[derive(Debug)]
pub enum What {
    /// An attempt began.
    Began {
        /// The task's title.
        title: Arc<str>,
        /// Who tries.
        role: Role,
    },
    /// A model answered with so many tokens.
    Said(u64),
    /// It is completed, and this sums it up.
    Completed(MemoryId),
}

/// What of these committed events a scribe wants to know.
pub fn happenings(events: &[crewline_types::Event]) -> Vec<Happening> {
    let of = |event: &crewline_types::Event| {
        let what = match &event.body {
            EventBody::TaskStarted { title, role, .. } => What::Began { title: Arc::clone(title), role: role.clone() },
            EventBody::ModelCall { usage, .. } => What::Said(usage.output_tokens),
            EventBody::SummaryReady { kind, memory, .. } if &**kind == MemoryType::TaskSummary.as_str() => {
                What::Completed(memory.parse().ok()?)
            }
            EventBody::RunStarted { .. }
            | EventBody::PlanReady { .. }
            | EventBody::TaskCompleted { .. }
            | EventBody::TaskFailed { .. }
            | EventBody::TaskParked { .. }
            | EventBody::TaskPlanned { .. }
            | EventBody::TaskOverdue { .. }
            | EventBody::TaskBlocked { .. }
            | EventBody::ToolCall { .. }
            | EventBody::AwaitingApproval { .. }
            | EventBody::MemoryStored { .. }
            | EventBody::SummaryReady { .. }
            | EventBody::BudgetReached { .. }
            | EventBody::TaskChanged { .. }
            | EventBody::IndexChanged { .. }
            | EventBody::RunFinished { .. } => return None,
        };
        Some(Happening { run: event.run, task: event.task?, what })
    };
    events.iter().filter_map(of).collect()
}

/// The events that tell of memories which are committed with them.
pub fn events_of(records: &[MemoryRecord], at: crewline_types::Timestamp) -> Vec<NewEvent> {
    let mut events = Vec::with_capacity(2 * records.len());
    for record in records {
        let (memory, kind): (Arc<str>, Arc<str>) = (record.id.to_string().into(), record.kind.as_str().into());
        let event = |body| NewEvent { at, task: record.task, attempt: None, body };
        events.push(event(EventBody::MemoryStored { memory: Arc::clone(&memory), kind: Arc::clone(&kind) }));
        let is_summary = match record.kind {
            MemoryType::TaskSummary
            | MemoryType::HandoffSummary
            | MemoryType::ProjectSummary
            | MemoryType::RollingSummary => true,
            MemoryType::RawInteraction | MemoryType::DesignDoc | MemoryType::CodeSnippet | MemoryType::Other(_) => {
                false
            }
        };
        if is_summary {
            metrics::summary(record.kind.as_str());
            events.push(event(EventBody::SummaryReady { memory, kind, version: version_of(record) }));
        }
    }
    events
}

/// What a scribe is started with.
#[derive(Clone)]
pub struct Args {
    /// What it works with.
    pub deps: Arc<Deps>,
    /// Memory.
    pub library: Library,
}

/// The runs that go on, and the projects they belong to.
pub struct State {
    args: Args,
    runs: HashMap<RunId, Open>,
    projects: HashMap<ProjectScope, Project>,
}

/// A run that goes on.
struct Open {
    brief: Arc<RunBrief>,
    root: Root,
    tasks: HashMap<TaskId, Progress>,
    /// Waits for the last summary.
    closing: Option<ActorRef<manager::Message>>,
}

/// A task that is worked on.
struct Progress {
    title: Arc<str>,
    role: Role,
    /// Tokens it has said since it was summed up.
    tokens: u64,
    /// Sums it up now, or takes that back.
    work: Option<WorkGuard>,
    /// What it said so far is in memory.
    is_rolled: bool,
    /// Sums its result up.
    result: Option<MemoryId>,
}

/// A project with something new.
#[derive(Default)]
struct Project {
    pending: usize,
    /// The run that the next summary is recorded with.
    run: Option<RunId>,
    due: Option<WorkGuard>,
    work: Option<WorkGuard>,
}

impl Project {
    fn is_idle(&self) -> bool {
        self.pending == 0 && self.work.is_none()
    }
}

impl Actor for Scribe {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, _myself: ActorRef<Message>, args: Args) -> Result<State, ActorProcessingErr> {
        Ok(State { args, runs: HashMap::new(), projects: HashMap::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Opened(brief, root) => state.on_opened(&myself, brief, root),
            Message::Happened(happenings) => state.on_happened(&myself, happenings),
            Message::Close(run, manager) => state.on_close(&myself, run, manager),
            Message::Left(run) => state.on_left(&myself, run),
            Message::Due(scope) => state.on_due(&myself, &scope),
            // Whoever cut it off may have begun anew.
            Message::SummedUp(_, Outcome::Cancelled) | Message::Rolled(_, _, Outcome::Cancelled) => {}
            Message::SummedUp(scope, outcome) => state.on_summed_up(&myself, &scope, outcome),
            Message::Rolled(run, task, outcome) => state.on_rolled(&myself, run, task, outcome),
        }
        Ok(())
    }
}

impl State {
    fn on_opened(&mut self, myself: &ActorRef<Message>, brief: Arc<RunBrief>, root: Root) {
        // What an earlier manager of the run asked for is stale.
        self.on_left(myself, brief.run);
        let open = Open { root, tasks: HashMap::new(), closing: None, brief };
        self.runs.insert(open.brief.run, open);
    }

    fn on_happened(&mut self, myself: &ActorRef<Message>, happenings: Vec<Happening>) {
        let mut loud = Vec::new();
        for Happening { run, task, what } in happenings {
            let Some(open) = self.runs.get_mut(&run) else { continue };
            match what {
                What::Began { title, role } => {
                    let new = Progress { title, role, tokens: 0, work: None, is_rolled: false, result: None };
                    open.tasks.entry(task).or_insert(new);
                }
                What::Said(tokens) => {
                    if let Some(progress) = open.tasks.get_mut(&task) {
                        progress.tokens += tokens;
                        loud.push((run, task));
                    }
                }
                What::Completed(summary) => self.on_completed(myself, run, task, summary),
            }
        }
        for (run, task) in loud {
            self.roll(myself, run, task);
        }
    }

    fn on_completed(&mut self, myself: &ActorRef<Message>, run: RunId, task: TaskId, summary: MemoryId) {
        let Some(open) = self.runs.get_mut(&run) else { return };
        let scope = open.brief.scope.clone();
        if let Some(progress) = open.tasks.get_mut(&task) {
            progress.result = Some(summary);
        }
        self.settle(myself, run, task);
        let project = self.projects.entry(scope.clone()).or_default();
        project.pending += 1;
        project.run = Some(run);
        if project.pending >= PENDING_MAX {
            self.sum_up(myself, &scope);
        } else if project.due.is_none() {
            project.due = Some(remind(myself, PAUSE, move || Message::Due(scope)));
        }
    }

    /// Lets go of a task that is completed; what it said on the way is in its result.
    fn settle(&mut self, myself: &ActorRef<Message>, run: RunId, task: TaskId) {
        let Some(open) = self.runs.get_mut(&run) else { return };
        let Some(progress) = open.tasks.get_mut(&task) else { return };
        let (Some(summary), None) = (progress.result, &progress.work) else { return };
        if !std::mem::take(&mut progress.is_rolled) {
            open.tasks.remove(&task);
            return;
        }
        let (args, scope) = (self.args.clone(), open.brief.scope.clone());
        let work = async move { retire(&args, &scope, task, summary).await.map(|()| None) };
        progress.work =
            Some(pipe_to_self(myself, WORK_LIMIT, work, move |outcome| Message::Rolled(run, task, outcome)));
    }

    fn on_due(&mut self, myself: &ActorRef<Message>, scope: &ProjectScope) {
        if let Some(project) = self.projects.get_mut(scope) {
            project.due = None;
        }
        self.sum_up(myself, scope);
        self.tidy(scope);
    }

    /// Lets go of a project with nothing new and nothing due.
    fn tidy(&mut self, scope: &ProjectScope) {
        if self.projects.get(scope).is_some_and(|it| it.is_idle() && it.due.is_none()) {
            self.projects.remove(scope);
        }
    }

    /// Makes the next version of a project's summary, unless one is in the making.
    fn sum_up(&mut self, myself: &ActorRef<Message>, scope: &ProjectScope) {
        let Some(project) = self.projects.get_mut(scope) else { return };
        if project.work.is_some() || project.pending == 0 {
            return;
        }
        project.pending = 0;
        let is_closing = |open: &&Open| open.closing.is_some() && open.brief.scope == *scope;
        let open = self.runs.values().find(is_closing).or_else(|| self.runs.get(&project.run?));
        let open = open.map(|open| (Arc::clone(&open.brief), open.root));
        let (args, of) = (self.args.clone(), scope.clone());
        let work = async move { sum_up(&args, &of, open).await };
        let of = scope.clone();
        project.work = Some(pipe_to_self(myself, WORK_LIMIT, work, move |outcome| Message::SummedUp(of, outcome)));
    }

    fn on_summed_up(
        &mut self,
        myself: &ActorRef<Message>,
        scope: &ProjectScope,
        outcome: Outcome<Result<Option<Made>, crate::Error>>,
    ) {
        let Some(project) = self.projects.get_mut(scope) else { return };
        project.work = None;
        let made = done(outcome).flatten();
        if let Some(made) = made {
            self.args.deps.rooms.memory.tell(memory::Message::Summed(scope.clone(), Box::new(made)));
        }
        if project.pending >= PENDING_MAX {
            self.sum_up(myself, scope);
        }
        self.tidy(scope);
        self.close_of(myself, scope);
    }

    /// Lets the runs of a project end that wait for its summary.
    fn close_of(&mut self, myself: &ActorRef<Message>, scope: &ProjectScope) {
        let of: Vec<RunId> =
            self.runs.iter().filter(|(_, open)| open.brief.scope == *scope).map(|(run, _)| *run).collect();
        for run in of {
            self.close(myself, run);
        }
    }

    fn on_close(&mut self, myself: &ActorRef<Message>, run: RunId, manager: ActorRef<manager::Message>) {
        match self.runs.get_mut(&run) {
            Some(open) => open.closing = Some(manager),
            None => tell(&manager, manager::Message::Closed),
        }
        self.close(myself, run);
    }

    /// Tells the manager of a run that is about to end, when nothing is left to sum up.
    fn close(&mut self, myself: &ActorRef<Message>, run: RunId) {
        let Some(open) = self.runs.get(&run) else { return };
        let Some(manager) = open.closing.clone() else { return };
        let scope = open.brief.scope.clone();
        if self.projects.get(&scope).is_some_and(|it| !it.is_idle()) {
            self.sum_up(myself, &scope);
        } else if open.tasks.values().all(|it| it.work.is_none()) {
            self.runs.remove(&run);
            tell(&manager, manager::Message::Closed);
        }
    }

    /// A call for a summary of a run that has ended would be nobody's.
    fn on_left(&mut self, myself: &ActorRef<Message>, run: RunId) {
        if let Some(open) = self.runs.remove(&run)
            && let Some(project) = self.projects.get_mut(&open.brief.scope)
            && project.run == Some(run)
            && project.work.take().is_some()
        {
            project.pending += 1;
            self.close_of(myself, &open.brief.scope);
        }
    }

    /// Sums a task up that has said much since it was summed up.
    fn roll(&mut self, myself: &ActorRef<Message>, run: RunId, task: TaskId) {
        let deps = &self.args.deps;
        let Some(open) = self.runs.get_mut(&run) else { return };
        let Some(progress) = open.tasks.get_mut(&task) else { return };
        if progress.tokens < deps.limits.rolling_tokens || progress.work.is_some() || progress.result.is_some() {
            return;
        }
        progress.tokens = 0;
        let about = MemoryRecord {
            id: MemoryId(0),
            project: open.brief.scope.project().into(),
            run: Some(run),
            task: Some(task),
            kind: MemoryType::RollingSummary,
            agent: progress.role.as_str().into(),
            created_at: deps.clock.now(),
            text: Arc::clone(&progress.title),
            source_ids: Vec::new(),
            marks: MemoryMarks::default(),
        };
        let (args, brief) = (self.args.clone(), Arc::clone(&open.brief));
        let work = async move {
            let Some(made) = args.library.rolling(&about, args.deps.limits.summary_tokens).await? else {
                return Ok(None);
            };
            record(&args, &brief.scope, Some(&brief), made).await
        };
        progress.work =
            Some(pipe_to_self(myself, WORK_LIMIT, work, move |outcome| Message::Rolled(run, task, outcome)));
    }

    fn on_rolled(
        &mut self,
        myself: &ActorRef<Message>,
        run: RunId,
        task: TaskId,
        outcome: Outcome<Result<Option<Made>, crate::Error>>,
    ) {
        let made = done(outcome).flatten();
        let Some(open) = self.runs.get_mut(&run) else { return };
        if let Some(progress) = open.tasks.get_mut(&task) {
            progress.work = None;
            progress.is_rolled |= made.is_some();
        }
        if let Some(made) = made {
            let scope = open.brief.scope.clone();
            self.args.deps.rooms.memory.tell(memory::Message::Summed(scope, Box::new(made)));
        }
        self.settle(myself, run, task);
        self.close(myself, run);
    }
}

/// What work came to; what it did not come to is tried again with the next task.
fn done<T>(outcome: Outcome<Result<T, crate::Error>>) -> Option<T> {
    match outcome {
        Outcome::Done(Ok(made)) => Some(made),
        Outcome::Done(Err(error)) => {
            tracing::warn!(error.code = error.code(), %error, "no summary was made");
            None
        }
        Outcome::Crashed | Outcome::TimedOut | Outcome::Cancelled => {
            tracing::warn!("no summary was made in time");
            None
        }
    }
}

/// Makes and records the next version of a project's summary: the extract first, whatever a model makes of it then.
async fn sum_up(
    args: &Args,
    scope: &ProjectScope,
    open: Option<(Arc<RunBrief>, Root)>,
) -> Result<Option<Made>, crate::Error> {
    let Some(draft) = args.library.draft(scope).await? else { return Ok(None) };
    let brief = open.as_ref().map(|(brief, _)| brief);
    if let Some((brief, root)) = &open
        && let Some(written) = summariser::write(&args.deps, brief, *root, &draft).await?
    {
        let made = record_with(args, scope, brief, written.change, written.made, Some(written.spent)).await?;
        if made.is_some() {
            return Ok(made);
        }
    }
    let (tokens_max, at) = (args.deps.limits.project_tokens, args.deps.clock.now());
    let made = tokio::task::spawn_blocking(move || draft.extract(tokens_max, at))
        .await
        .map_err(|_| crate::Error::Actor(crate::actor::AskError::Gone))?;
    record(args, scope, brief, made).await
}

/// Records what was made with the run that made it, as long as that goes on; without it otherwise.
async fn record(
    args: &Args,
    scope: &ProjectScope,
    brief: Option<&Arc<RunBrief>>,
    made: Made,
) -> Result<Option<Made>, crate::Error> {
    if let Some(brief) = brief.filter(|_| made.record.is_some())
        && let Post::Manager { epoch } = brief.post
    {
        let change = Change::new(brief.run, epoch, args.deps.clock.now());
        return record_with(args, scope, brief, change, Some(made), None).await;
    }
    args.library.keep(scope, &made).await?;
    Ok(Some(made))
}

/// Records what was made together with `change`; with what a call for it cost, when `change` ends one.
async fn record_with(
    args: &Args,
    scope: &ProjectScope,
    brief: &Arc<RunBrief>,
    mut change: Change,
    made: Option<Made>,
    spent: Option<Spent>,
) -> Result<Option<Made>, crate::Error> {
    let (run, at) = (change.run, change.at);
    if let Some(Made { record: Some(record), is_same, .. }) = &made {
        change.superseded = made.as_ref().map(Made::superseded).unwrap_or_default();
        change.memories.push(record.clone());
        if !is_same {
            change.events.extend(events_of(&change.memories, at));
        }
    }
    let record = || brief.record(&args.deps.rooms.journal, change);
    let recorded = match spent {
        Some(spent) => match brief.summaries.end(spent, record) {
            Some(recorded) => recorded.await,
            // The run has ended, and the call with it.
            None => Err(Refusal::Stale),
        },
        None => record().await,
    };
    match recorded {
        Ok(()) => Ok(made),
        // Another process has the run: the summary is of the project, and is kept without it.
        Err(Refusal::Stale | Refusal::OverBudget { .. }) => {
            if let Some(made) = &made {
                args.library.keep(scope, made).await?;
            }
            Ok(made)
        }
        Err(refusal @ (Refusal::Failed { .. } | Refusal::Unknown)) => {
            tracing::warn!(run_id = %run, error = %refusal, "a summary is not recorded");
            Ok(None)
        }
    }
}

/// The summary of a task takes the place of what was summed up on its way.
async fn retire(args: &Args, scope: &ProjectScope, task: TaskId, summary: MemoryId) -> Result<(), crate::Error> {
    let heads = args.library.store().rolling_summaries(scope, task).await?;
    let superseded: Vec<MemoryId> = heads.iter().map(|head| head.id).collect();
    let of = |old: &MemoryId| crewline_store::Superseded { project: scope.project().into(), old: *old, new: summary };
    let rows: Vec<_> = superseded.iter().map(of).collect();
    args.library.store().replace_memories(&[], &rows).await?;
    args.library.index().local().remove(scope, &superseded);
    Ok(())
}
