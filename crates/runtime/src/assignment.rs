//! One attempt's work on its way from the manager to a specialist, and the report that comes back.
//!
//! **Invariant:** every assignment yields exactly one [`Report`], wherever it is lost: the [`Obligation`] it carries
//! reports when dropped.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crewline_engine::{context::Item, plan, route::Mode};
use crewline_models::{Models, OutputSchema, Tally};
use crewline_store::{CallEnd, Change, Fence, NewToolCall, Payer, ProjectMax, ToolCallEnd};
use crewline_types::{
    AttemptId, CallId, Criterion, ErrorKind, MicroUsd, ModelAlias, ModelSpec, ProjectScope, Role, RunId, Task, TaskId,
    TaskKind, Text, TextHash, Timestamp, Traffic, Usage,
    event::{CallOutcome, Candidate, CheckResult, ErrorNote},
};
use ractor::ActorRef;

use crate::{
    actor::tell,
    journal::{self, Refusal},
    manager,
    outage::Outage,
    purse::{Cap, Purse},
    rooms::Room,
    settings::Approve,
    summary_call::SummaryCalls,
    worker,
};

/// What all attempts of a run share.
#[derive(Debug)]
pub struct RunBrief {
    /// The run.
    pub run: RunId,
    /// Who answers for its attempts, and so what every write is fenced by.
    pub post: Post,
    /// The goal.
    pub goal: Arc<str>,
    /// The project's memory.
    pub scope: ProjectScope,
    /// Which hosts may be asked.
    pub mode: Mode,
    /// The only model that is asked for a task, by the task's key.
    pub models: BTreeMap<String, ModelAlias>,
    /// What a person wants to be asked about.
    pub approve: Approve,
    /// The folder that its specialists work in, when it has one.
    pub workspace: Option<Arc<Path>>,
    /// The keys of its tasks, as a worker needs them; its manager has the tasks themselves.
    pub keys: HashMap<TaskId, Arc<str>>,
    /// The money of the run and its tasks.
    pub purse: Purse,
    /// What all calls of the run may cost, where other machines spend it, too: the database counts.
    pub cost_max: Option<MicroUsd>,
    /// What all runs of the project may cost together; the database counts.
    pub project_max: Option<MicroUsd>,
    /// What one task may cost.
    pub task_max: Option<MicroUsd>,
    /// Its calls for summaries.
    pub summaries: SummaryCalls,
}

/// Where attempts of a run are made.
#[derive(Debug, Clone)]
pub enum Post {
    /// In the process of the run's manager.
    Manager {
        /// The manager's lease epoch.
        epoch: u64,
    },
    /// In a worker's, which has claimed them.
    Worker {
        /// The worker.
        node: Arc<str>,
    },
}

impl RunBrief {
    /// The run, when its manager is in this process and asked for the attempt.
    pub fn managed(&self) -> Option<RunId> {
        match self.post {
            Post::Manager { .. } => Some(self.run),
            Post::Worker { .. } => None,
        }
    }

    /// What follows once `change` is recorded: nothing is held any more for the calls that it ends, or whose answer it keeps, or
    /// whose attempt it ends.
    pub fn settling(self: &Arc<Self>, change: &Change) -> impl FnOnce() + Send + use<> {
        let ended = change.calls_ended.iter().map(|it| (it.id, it.cost));
        let answered = change.calls_answered.iter().map(|it| (it.id, it.cost));
        let (run, calls) = (Arc::clone(self), ended.chain(answered).collect::<Vec<_>>());
        let attempts: Vec<AttemptId> = change.attempts_ended.iter().map(|it| it.id).collect();
        move || {
            if !calls.is_empty() || !attempts.is_empty() {
                run.purse.recorded(&calls, &attempts);
            }
        }
    }

    /// The beginning of a call was refused. Where that is not certain its money stays held, as it may be found open.
    pub fn not_begun(&self, call: CallId, refusal: &Refusal) {
        match refusal {
            Refusal::Stale | Refusal::OverBudget { .. } | Refusal::Failed { .. } => {
                self.purse.refund(call);
            }
            Refusal::Unknown => {}
        }
    }

    /// Records `change`, waits for the commit, and settles its calls.
    pub fn record(
        self: &Arc<Self>,
        journal: &Room<journal::Message>,
        change: Change,
    ) -> impl Future<Output = Result<(), Refusal>> + Send + use<> {
        let then = self.settling(&change);
        journal::record_and(journal, change, then)
    }

    /// An empty change of `attempt`, fenced.
    pub fn change(&self, attempt: AttemptId, at: Timestamp) -> Change {
        let project = |max| ProjectMax { project: self.scope.project().into(), max };
        let project_max = self.project_max.map(project);
        let fence = match &self.post {
            Post::Manager { epoch } => Fence::from(*epoch),
            Post::Worker { node } => Fence::Claim { attempt, node: Arc::clone(node) },
        };
        Change { cost_max: self.cost_max, project_max, ..Change::new(self.run, fence, at) }
    }
}

/// What an attempt needs to know of its task.
#[derive(Debug, Clone)]
pub struct TaskBrief {
    /// The task.
    pub id: TaskId,
    /// Its name inside the plan.
    pub key: Arc<str>,
    /// A line.
    pub title: Arc<str>,
    /// What is to be done.
    pub description: Arc<str>,
    /// Who does it.
    pub role: Role,
    /// What it is in the tree.
    pub kind: TaskKind,
    /// The criteria of success.
    pub success_criteria: Vec<Criterion>,
}

impl TaskBrief {
    /// What an attempt needs to know of `task`.
    pub fn of(task: &Task) -> Self {
        Self {
            id: task.id,
            key: Arc::clone(&task.key),
            title: Arc::clone(&task.title),
            description: Arc::clone(&task.description),
            role: task.role.clone(),
            kind: task.kind,
            success_criteria: task.success_criteria.clone(),
        }
    }
}

/// What kind of answer is wanted.
#[derive(Debug, Clone)]
pub enum Work {
    /// A plan of the goal.
    Plan {
        /// What a plan may hold.
        rules: Arc<plan::Rules>,
        /// The form the answer must have.
        schema: Arc<OutputSchema>,
        /// Refuse a plan that needs repair.
        is_strict: bool,
    },
    /// The task's text.
    Text,
}

/// A call that is recorded as sent and not yet as ended.
#[derive(Debug, Clone)]
pub struct OpenCall {
    /// Names the call.
    pub id: CallId,
    /// Who asks, when it is not the task's role.
    pub by: Option<Role>,
    /// The model that was asked.
    pub model: ModelAlias,
    /// The provider that was asked.
    pub provider: Arc<str>,
    /// The worst case, charged when the answer is lost.
    pub worst: Option<MicroUsd>,
    /// Tokens sent, estimated.
    pub input_tokens: u64,
    /// Whether it was sent: it is recorded before.
    pub is_sent: bool,
}

/// How far an attempt came; shared with its obligation, so that a lost attempt can tell.
#[derive(Debug, Default)]
pub struct Progress {
    /// Whether the attempt is recorded as started.
    pub is_started: bool,
    /// The call that is under way.
    pub open: Option<OpenCall>,
    /// What ended and is not yet recorded as such.
    pub ended: Ended,
    /// What all ended calls consumed, recorded or not.
    pub spent: Spent,
    /// What its requests sent and received since that was last asked.
    pub tally: Tally,
}

impl Progress {
    /// What is to be recorded now.
    pub fn take_ended(&mut self) -> Ended {
        let mut ended = std::mem::take(&mut self.ended);
        ended.traffic += &self.tally.take();
        ended
    }

    /// The calls beside that of the answer, and the traffic. The call that they are about is not over yet.
    pub fn take_asides(&mut self) -> Ended {
        let Ended { calls, tools, traffic } = self.take_ended();
        let (asides, rest) = calls.into_iter().partition(|it| it.by.is_some());
        self.ended = Ended { calls: rest, tools, traffic: Traffic::default() };
        Ended { calls: asides, tools: Vec::new(), traffic }
    }

    /// A call's beginning was refused, and the ends of earlier calls with it.
    pub fn not_recorded(&mut self, refusal: &Refusal, ended: Ended) {
        match refusal {
            Refusal::Stale | Refusal::OverBudget { .. } | Refusal::Failed { .. } => {
                self.open = None;
                self.ended.calls.extend(ended.calls);
                self.ended.tools.extend(ended.tools);
                self.ended.traffic += &ended.traffic;
            }
            // They may be recorded; what is not is found open by whoever loads the run.
            Refusal::Unknown => {}
        }
    }

    /// What the attempt consumed, and what of it is not recorded as ended; a call that is still open is cancelled.
    pub fn close(mut self) -> (Spent, Ended) {
        let mut ended = self.take_ended();
        let Self { open, mut spent, .. } = self;
        if let Some(OpenCall { id, by, model, provider, worst, input_tokens, is_sent }) = open {
            let (input_tokens, cost) = if is_sent {
                // What the provider bills for an aborted call is unknown: the worst case is never too little.
                (input_tokens, worst)
            } else {
                (0, worst.map(|_| MicroUsd::ZERO))
            };
            let end = CallEnd {
                id,
                outcome: CallOutcome::Cancelled,
                usage: Usage { input_tokens, estimated: true, ..Usage::default() },
                cost,
                elapsed: Duration::ZERO,
                reply: None,
                error: None,
            };
            spent.add(&end);
            ended.calls.push(EndedCall {
                end,
                by,
                model,
                provider,
                reply: None,
                asked: Vec::new(),
                checks: Vec::new(),
            });
        }
        (spent, ended)
    }
}

/// What ended and is not yet recorded as such.
#[derive(Debug, Clone, Default)]
pub struct Ended {
    /// Calls of models.
    pub calls: Vec<EndedCall>,
    /// Calls of tools.
    pub tools: Vec<EndedTool>,
    /// What they sent and received.
    pub traffic: Traffic,
}

/// A call of a tool that ended, with what its event shows.
#[derive(Debug, Clone)]
pub struct EndedTool {
    /// What the database keeps.
    pub end: ToolCallEnd,
    /// The tool, as the model named it.
    pub tool: Arc<str>,
    /// What the model is told.
    pub output: Text,
}

/// A call that ended, with what its event shows.
#[derive(Debug, Clone)]
pub struct EndedCall {
    /// What the database keeps.
    pub end: CallEnd,
    /// Who asked, when it was not the task's role.
    pub by: Option<Role>,
    /// The model that was asked.
    pub model: ModelAlias,
    /// The provider that was asked.
    pub provider: Arc<str>,
    /// The answer, when it is kept.
    pub reply: Option<Text>,
    /// The calls of tools that the answer asks for: they are recorded with it, or the answer means something else.
    pub asked: Vec<(NewToolCall, Text)>,
    /// What the task's checks say of it.
    pub checks: Vec<CheckResult>,
}

/// One attempt's work.
#[derive(Debug)]
pub struct Assignment {
    /// The try.
    pub attempt: AttemptId,
    /// What the run's attempts share.
    pub run: Arc<RunBrief>,
    /// The task.
    pub task: Arc<TaskBrief>,
    /// What the plan gives to the context; memory is added by the specialist.
    pub sources: Vec<Item>,
    /// What kind of answer is wanted.
    pub work: Work,
    /// The models as they were when the attempt began, and their registry.
    pub models: Models,
    /// Names everything it depends on but what memory recalls.
    pub input_hash: Option<TextHash>,
    /// Models to ask, in this order; filled in by the router.
    pub rungs: Vec<Arc<ModelSpec>>,
    /// Why they stand in this order; filled in by the router.
    pub route: Arc<[Candidate]>,
    /// Owes one report.
    pub obligation: Obligation,
}

/// Who gets the report of an attempt.
#[derive(Debug, Clone)]
pub enum ReportTo {
    /// The run's manager.
    Manager(ActorRef<manager::Message>),
    /// The worker that claimed it.
    Worker(ActorRef<worker::Message>),
}

impl ReportTo {
    fn tell(&self, report: Report) {
        match self {
            Self::Manager(manager) => tell(manager, manager::Message::Reported(Box::new(report))),
            Self::Worker(worker) => tell(worker, worker::Message::Reported(Box::new(report))),
        }
    }
}

/// Owes exactly one report about an attempt.
pub struct Obligation {
    attempt: AttemptId,
    progress: Arc<Mutex<Progress>>,
    report_to: Option<ReportTo>,
}

impl Obligation {
    /// The obligation to report `attempt` to `report_to`.
    pub fn new(attempt: AttemptId, report_to: ReportTo) -> Self {
        Self { attempt, progress: Arc::default(), report_to: Some(report_to) }
    }

    /// Notes how far the attempt came.
    pub fn note<R>(&self, change: impl FnOnce(&mut Progress) -> R) -> R {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who is to be told what the attempt's requests send and receive.
    pub fn tally(&self) -> Tally {
        self.note(|progress| progress.tally.clone())
    }

    /// Settles the obligation.
    pub fn report(mut self, result: Result<Output, Failure>) {
        self.send(result);
    }

    fn send(&mut self, result: Result<Output, Failure>) {
        if let Some(to) = self.report_to.take() {
            let progress = std::mem::take(&mut *self.progress.lock().unwrap_or_else(PoisonError::into_inner));
            to.tell(Report { attempt: self.attempt, progress, result });
        }
    }
}

impl Drop for Obligation {
    fn drop(&mut self) {
        self.send(Err(Failure::Lost));
    }
}

impl fmt::Debug for Obligation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Obligation({})", self.attempt)
    }
}

/// The end of one attempt.
#[derive(Debug)]
pub struct Report {
    /// The try that ended.
    pub attempt: AttemptId,
    /// What of it is not recorded yet.
    pub progress: Progress,
    /// The answer, or why there is none.
    pub result: Result<Output, Failure>,
}

/// What an attempt made.
#[derive(Debug)]
pub struct Output {
    /// The text, or the plan as the model wrote it.
    pub text: Text,
    /// The plan, when one was wanted.
    pub plan: Option<PlanOutput>,
    /// The model that made it.
    pub model: ModelAlias,
    /// Further tasks that it asked for.
    pub wishes: Vec<plan::Wish>,
}

/// A plan that can be run.
#[derive(Debug)]
pub struct PlanOutput {
    /// The plan.
    pub plan: plan::Plan,
    /// What had to be repaired, a line each.
    pub repairs: Vec<String>,
}

/// The error code of an attempt that was lost: its recorded answers are used by the next one.
pub const LOST: &str = "attempt.lost";

/// The error code of an attempt that waits for a person: its recorded answers are used by the next one.
pub const AWAITING: &str = "attempt.awaiting";

/// The error code of an attempt that handed its task to another role: the next one is told what it left.
pub const HANDED_OVER: &str = "attempt.handed_over";

/// The codes of attempts that the next one goes on with.
pub const UNFINISHED: [&str; 2] = [LOST, AWAITING];

/// Why an attempt made nothing.
#[derive(Debug, Clone)]
pub enum Failure {
    /// A person must decide first; what they are asked is recorded.
    Awaiting {
        /// What they are asked, for people.
        what: String,
    },
    /// Another role shall go on with the task.
    HandedOver {
        /// The role.
        to: Role,
        /// What it is told.
        summary: String,
    },
    /// Every model of the chain failed.
    Models {
        /// The last error.
        error: ErrorNote,
        /// Whether another attempt may help.
        may_retry: bool,
    },
    /// No model of the chain serves anybody now.
    Down(Outage),
    /// The run's money does not cover the next call.
    OverBudget {
        /// Whose money it is.
        cap: Cap,
        /// For people.
        message: String,
    },
    /// The attempt is no longer the current one, or the manager is not.
    Stale,
    /// The database did not take the change.
    Store {
        /// The store's code.
        code: &'static str,
        /// What kind of failure it is.
        kind: ErrorKind,
        /// For people.
        message: String,
    },
    /// All slots and the queue of the role are taken.
    Busy,
    /// The attempt took longer than allowed.
    TimedOut,
    /// The attempt panicked, was aborted or its specialist died: it is tried again and does not count as a failure.
    Lost,
}

impl Failure {
    /// What a refused change means for the attempt that asked for it.
    pub fn of(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Stale => Self::Stale,
            Refusal::OverBudget { whose: Payer::Run, may_pass: _ } => {
                let message = "the run's cost limit does not cover the next call".into();
                Self::OverBudget { cap: Cap::Run, message }
            }
            Refusal::OverBudget { whose: Payer::Project, may_pass: _ } => {
                let message = "what all runs of the project may cost does not cover the next call".into();
                Self::OverBudget { cap: Cap::Project, message }
            }
            Refusal::Failed { code, kind, message } => Self::Store { code, kind, message },
            Refusal::Unknown => Self::Lost,
        }
    }

    /// As events and reports show it.
    pub fn note(&self) -> ErrorNote {
        let (code, kind, message): (&str, ErrorKind, String) = match self {
            Self::Models { error, .. } | Self::Down(Outage { error, .. }) => return error.clone(),
            Self::OverBudget { cap, message } => {
                let code = match cap {
                    Cap::Run => "budget.cost",
                    Cap::Task | Cap::Project => cap.code(),
                };
                (code, ErrorKind::Limit, message.clone())
            }
            Self::Awaiting { what } => (AWAITING, ErrorKind::Conflict, what.clone()),
            Self::HandedOver { to, summary } => {
                (HANDED_OVER, ErrorKind::Conflict, format!("handed to `{to}`.\n{summary}"))
            }
            Self::Stale => ("attempt.stale", ErrorKind::Conflict, "another attempt took over".into()),
            Self::Store { code, kind, message } => (code, *kind, message.clone()),
            Self::Busy => ("attempt.busy", ErrorKind::Busy, "all slots and the queue of the role are taken".into()),
            Self::TimedOut => ("attempt.timeout", ErrorKind::Timeout, "the attempt took longer than allowed".into()),
            Self::Lost => (LOST, ErrorKind::Internal, "the attempt was lost and is tried again".into()),
        };
        ErrorNote { code: code.into(), kind, message: message.into() }
    }
}

/// What calls consumed together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// Tokens.
    pub usage: Usage,
    /// Cost of the priced calls.
    pub cost: MicroUsd,
    /// Calls without a price.
    pub unpriced: u64,
}

impl std::ops::AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.usage += other.usage;
        self.cost += other.cost;
        self.unpriced += other.unpriced;
    }
}

impl Spent {
    /// Adds a call.
    pub fn add(&mut self, end: &CallEnd) {
        self.usage += end.usage;
        match end.cost {
            Some(cost) => self.cost += cost,
            None => self.unpriced += 1,
        }
    }
}
