//! One attempt's work on its way from the manager to a specialist, and the report that comes back.
//!
//! **Invariant:** every assignment yields exactly one [`Report`], wherever it is lost: the [`Obligation`] it carries
//! reports when dropped.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use crewline_engine::{context::Item, plan};
use crewline_models::{Models, OutputSchema, Tally};
use crewline_store::Payer;
use crewline_types::{
    AttemptId, ErrorKind, ModelAlias, ModelSpec, Role, Text, TextHash,
    event::{Candidate, ErrorNote},
};
use ractor::ActorRef;

use crate::{
    actor::tell,
    brief::{RunBrief, TaskBrief},
    journal::Refusal,
    manager,
    outage::Outage,
    progress::Progress,
    purse::Cap,
    worker,
};

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
