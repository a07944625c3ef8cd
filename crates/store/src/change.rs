//! What a manager or a worker asks to have recorded: one [`Change`] is one atomic bundle of rows of one run.
//!
//! **Invariant:** a change is written as a whole or not at all; its transitions and its fence guard everything in it.
//! **Invariant:** a claim writes what belongs to its attempt, and nothing else.

use std::{sync::Arc, time::Duration};

use crewline_types::{
    ApprovalId, ApprovalKind, AttemptId, CallId, Effect, Event, MemoryRecord, MicroUsd, Role, RunId, RunStatus, Task,
    TaskDetails, TaskId, TaskStatus, Text, TextHash, Timestamp, ToolCallId, ToolOutcome, Traffic, Usage,
    event::{CallOutcome, ErrorNote, NewEvent},
    task::LinkKind,
};

use crate::{ContextChoice, Error, summaries::Superseded};

/// Who writes, and what must still hold for it to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fence {
    /// The run's manager, as long as nobody else has claimed the run.
    Manager {
        /// Its fencing token, from `claim_run`.
        epoch: u64,
    },
    /// Who has claimed an offered attempt, until it has reported, or its claim is lost or withdrawn. Another manager of
    /// the run does not end it.
    Claim {
        /// The attempt.
        attempt: AttemptId,
        /// The name it was claimed under.
        node: Arc<str>,
    },
}

impl From<u64> for Fence {
    fn from(epoch: u64) -> Self {
        Self::Manager { epoch }
    }
}

/// One atomic bundle of rows of one run, guarded by its transitions and by its fence.
#[derive(Debug, Clone)]
pub struct Change {
    /// The run.
    pub run: RunId,
    /// Who writes.
    pub fence: Fence,
    /// When it happens.
    pub at: Timestamp,
    /// All must apply, else the change is stale and nothing of it is written. They are applied in this order.
    pub transitions: Vec<Transition>,
    /// The end of the run; applies only while it is running, else the change is stale.
    pub run_status: Option<RunEnd>,
    /// The run ends only while no more of its questions than this are decided, else the change is stale.
    pub decided_max: Option<u64>,
    /// New tasks; they exist before anything else of the change (and of later changes) is applied.
    pub tasks: Vec<Task>,
    /// New links as (from, to, kind): `from` requires `to`. A repeated one is ignored.
    pub links: Vec<(TaskId, TaskId, LinkKind)>,
    /// Attempts that begin.
    pub attempts: Vec<NewAttempt>,
    /// Attempts that end; one that has ended already stays as it is.
    pub attempts_ended: Vec<AttemptEnd>,
    /// Calls that are about to be sent.
    pub calls: Vec<NewCall>,
    /// Answers of calls that are judged still: kept with the call, which stays open.
    pub calls_answered: Vec<CallAnswer>,
    /// Calls that returned; one that has returned already stays as it is.
    pub calls_ended: Vec<CallEnd>,
    /// Calls of tools that a model asked for.
    pub tool_calls: Vec<NewToolCall>,
    /// Calls of tools, asked for earlier, that an attempt with this number is about to make.
    pub tool_calls_begun: Vec<(ToolCallId, u32)>,
    /// Calls of tools whose outcome is known; one whose outcome is known already stays as it is.
    pub tool_calls_ended: Vec<ToolCallEnd>,
    /// What requests of the run sent and received; added to what is known of each host.
    pub traffic: Traffic,
    /// What a person is asked; what was asked before is not asked again.
    pub approvals: Vec<NewApproval>,
    /// Questions that nobody has decided and that go; by managers only.
    pub approvals_withdrawn: Vec<ApprovalId>,
    /// What attempts were told.
    pub contexts: Vec<NewContext>,
    /// Large texts; one that is known already is not written again.
    pub texts: Vec<Text>,
    /// Memories; a repeated one is the same record, and gets marks that are not the usual ones.
    pub memories: Vec<MemoryRecord>,
    /// Memories whose place newer ones take; by managers only.
    pub superseded: Vec<Superseded>,
    /// Events; the store gives out their `seq`, in this order.
    pub events: Vec<NewEvent>,
    /// The run's new INDEX.md.
    pub index: Option<TextHash>,
    /// Tasks whose results were taken over, each with the task that made it.
    pub copied: Vec<(TaskId, TaskId)>,
    /// Tasks that another role goes on with; by managers only.
    pub handed_over: Vec<(TaskId, Role)>,
    /// Who wrote the new INDEX.md; the crew when nobody is named.
    pub index_by: Option<Arc<str>>,
    /// Tasks whose fields a person changed: tree, order, kind, words, role, priority, criteria and duration are written.
    pub edits: Vec<Task>,
    /// What people say about tasks.
    pub details: Vec<(TaskId, TaskDetails)>,
    /// Links that go; one that is not there is ignored.
    pub links_removed: Vec<(TaskId, TaskId, LinkKind)>,
    /// A run that is not running goes from one end to another.
    pub run_moved: Option<RunMove>,
    /// The run's last event must have this `seq`, else the change is stale: for who decides without holding the run.
    pub last_seq: Option<u64>,
    /// What is decided on contexts of its tasks from the beginning; by managers only.
    pub choices: Vec<ContextChoice>,
    /// Attempts that any worker may claim from now on; by managers only.
    pub offers: Vec<NewOffer>,
    /// Attempts whose offers are dealt with and go; by managers only.
    pub offers_settled: Vec<AttemptId>,
    /// The report of a claim, as JSON; by claims only, and the last thing one writes.
    pub report: Option<String>,
    /// What the run may cost: when its calls (ended: their cost, open: their reservation) exceed it with those of this
    /// change, the change is refused as [`Committed::OverBudget`]. A change without a new call is never refused.
    pub cost_max: Option<MicroUsd>,
    /// The same for all runs of its project together: refused as [`Committed::OverBudget`].
    pub project_max: Option<ProjectMax>,
}

/// What all runs of a project may cost together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectMax {
    /// The project.
    pub project: Arc<str>,
    /// The most its calls may cost.
    pub max: MicroUsd,
}

impl Change {
    /// A change of `run` at `at` with nothing in it.
    pub fn new(run: RunId, fence: impl Into<Fence>, at: Timestamp) -> Self {
        Self {
            run,
            fence: fence.into(),
            at,
            transitions: Vec::new(),
            run_status: None,
            decided_max: None,
            tasks: Vec::new(),
            links: Vec::new(),
            attempts: Vec::new(),
            attempts_ended: Vec::new(),
            calls: Vec::new(),
            calls_answered: Vec::new(),
            calls_ended: Vec::new(),
            tool_calls: Vec::new(),
            tool_calls_begun: Vec::new(),
            tool_calls_ended: Vec::new(),
            traffic: Traffic::default(),
            approvals: Vec::new(),
            approvals_withdrawn: Vec::new(),
            contexts: Vec::new(),
            texts: Vec::new(),
            memories: Vec::new(),
            superseded: Vec::new(),
            events: Vec::new(),
            index: None,
            copied: Vec::new(),
            handed_over: Vec::new(),
            choices: Vec::new(),
            index_by: None,
            edits: Vec::new(),
            details: Vec::new(),
            links_removed: Vec::new(),
            run_moved: None,
            last_seq: None,
            offers: Vec::new(),
            offers_settled: Vec::new(),
            report: None,
            cost_max: None,
            project_max: None,
        }
    }

    /// The manager's epoch; none when a claim writes.
    pub(crate) fn epoch(&self) -> Option<u64> {
        match &self.fence {
            Fence::Manager { epoch } => Some(*epoch),
            Fence::Claim { .. } => None,
        }
    }

    /// Whether everything in it is for its writer to write; a defect of the caller otherwise.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let is_fine = match &self.fence {
            Fence::Manager { .. } => self.report.is_none(),
            Fence::Claim { attempt, .. } => {
                self.offers.is_empty()
                    && self.offers_settled.is_empty()
                    && self.run_status.is_none()
                    && self.tasks.is_empty()
                    && self.links.is_empty()
                    && self.index.is_none()
                    && self.copied.is_empty()
                    && self.handed_over.is_empty()
                    && self.approvals_withdrawn.is_empty()
                    && self.superseded.is_empty()
                    && self.choices.is_empty()
                    && self.edits.is_empty()
                    && self.details.is_empty()
                    && self.links_removed.is_empty()
                    && self.run_moved.is_none()
                    && self.transitions.iter().all(|it| it.task == attempt.task)
                    && self.attempts.iter().all(|it| it.id == *attempt)
                    && self.attempts_ended.iter().all(|it| it.id == *attempt)
                    && self.calls.iter().all(|it| it.id.attempt == *attempt)
                    && self.calls_answered.iter().all(|it| it.id.attempt == *attempt)
                    && self.calls_ended.iter().all(|it| it.id.attempt == *attempt)
                    && self.tool_calls.iter().all(|it| it.id.call.attempt == *attempt)
                    // An attempt goes on with what earlier ones of its task began.
                    && self.tool_calls_begun.iter().all(|(id, by)| {
                        id.call.attempt.task == attempt.task && *by == attempt.number
                    })
                    && self.tool_calls_ended.iter().all(|it| it.id.call.attempt.task == attempt.task)
                    && self.approvals.iter().all(|it| it.task == Some(attempt.task))
                    && self.contexts.iter().all(|it| it.id == *attempt)
            }
        };
        if is_fine { Ok(()) } else { Err(Error::Invalid { what: "a change holds what its writer must not write" }) }
    }
}

/// An attempt that any worker may claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOffer {
    /// The attempt.
    pub id: AttemptId,
    /// Who can do it.
    pub role: Role,
    /// Lower ones are claimed first.
    pub rank: i64,
    /// What the plan gives to it, as its manager wrote it.
    pub told: String,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq)]
pub enum Committed {
    /// Recorded and durable.
    Done {
        /// Its events, with their `seq`.
        events: Vec<Event>,
    },
    /// Somebody else was faster; nothing of it was written.
    Stale,
    /// There is no money for the calls it begins; nothing of it was written.
    OverBudget {
        /// Whose money does not suffice.
        whose: Payer,
        /// Whether it may suffice once calls that are open now have ended.
        may_pass: bool,
    },
}

/// Who has a limit on cost that the database keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payer {
    /// A run.
    Run,
    /// All runs of a project together.
    Project,
}

/// A task goes from one status to another, if it still is where the manager thinks.
#[derive(Debug, Clone)]
pub struct Transition {
    /// The task.
    pub task: TaskId,
    /// Where it must be.
    pub from: TaskStatus,
    /// Where it goes. `started_at` is set by the first `in_progress`, `finished_at` exactly by final ones.
    pub to: TaskStatus,
    /// The attempts it must have had.
    pub attempts_from: u32,
    /// The attempts it has now.
    pub attempts_to: u32,
    /// Its result; overwritten.
    pub result: Option<TextHash>,
    /// Why it failed or is blocked; overwritten.
    pub reason: Option<String>,
    /// The model that made the result; overwritten.
    pub model: Option<String>,
    /// Added to what its attempts consumed.
    pub usage: Usage,
    /// Added to its cost.
    pub cost: MicroUsd,
}

impl Transition {
    /// A task that goes from `from` to `to` and had no attempt yet; set the other fields with `..`.
    pub fn new(task: TaskId, from: TaskStatus, to: TaskStatus) -> Self {
        Self {
            task,
            from,
            to,
            attempts_from: 0,
            attempts_to: 0,
            result: None,
            reason: None,
            model: None,
            usage: Usage::default(),
            cost: MicroUsd::ZERO,
        }
    }
}

/// How a run ends.
#[derive(Debug, Clone)]
pub struct RunEnd {
    /// Any status but `running`.
    pub status: RunStatus,
    /// When.
    pub finished_at: Timestamp,
    /// Why it did not complete, as JSON of an `ErrorNote`.
    pub error: Option<String>,
}

/// A run that is not running goes from one end to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunMove {
    /// Where it is; nothing happens when it is elsewhere.
    pub from: RunStatus,
    /// Where it goes; not `running`.
    pub to: RunStatus,
    /// When.
    pub at: Timestamp,
}

/// An attempt that begins, at the change's time.
#[derive(Debug, Clone)]
pub struct NewAttempt {
    /// Its id.
    pub id: AttemptId,
    /// Who tries.
    pub role: Role,
    /// The model that is asked first.
    pub model: String,
    /// Names everything it depends on but memories that were found; for a replay.
    pub input_hash: Option<TextHash>,
}

/// An attempt that ends, at the change's time.
#[derive(Debug, Clone)]
pub struct AttemptEnd {
    /// Its id.
    pub id: AttemptId,
    /// Whether it made a result.
    pub ok: bool,
    /// The model that answered last.
    pub model: String,
    /// Consumed by all its calls.
    pub usage: Usage,
    /// Cost of its priced calls.
    pub cost: MicroUsd,
    /// Why it failed.
    pub error: Option<ErrorNote>,
}

/// A call that is about to be sent.
#[derive(Debug, Clone)]
pub struct NewCall {
    /// Its id.
    pub id: CallId,
    /// `plan`, `task`, `repair` or `synthesis`.
    pub purpose: &'static str,
    /// The model's name in the registry.
    pub model: String,
    /// The provider's name in the registry.
    pub provider: String,
    /// Names what is asked.
    pub input_hash: TextHash,
    /// The worst case that is reserved for it; `None` when the model has no price.
    pub reserved: Option<MicroUsd>,
}

/// The answer of a call that is judged still: whoever takes over need not buy it again.
#[derive(Debug, Clone)]
pub struct CallAnswer {
    /// The call.
    pub id: CallId,
    /// Tokens.
    pub usage: Usage,
    /// Cost; `None` when the model has no price.
    pub cost: Option<MicroUsd>,
    /// The answer; the change has the text.
    pub reply: TextHash,
}

/// A call that returned.
#[derive(Debug, Clone)]
pub struct CallEnd {
    /// Its id.
    pub id: CallId,
    /// How.
    pub outcome: CallOutcome,
    /// Tokens.
    pub usage: Usage,
    /// Cost; `None` when the model has no price.
    pub cost: Option<MicroUsd>,
    /// How long it took.
    pub elapsed: Duration,
    /// The answer.
    pub reply: Option<TextHash>,
    /// Why it failed.
    pub error: Option<ErrorNote>,
}

/// A call of a tool that a model asked for, at the change's time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToolCall {
    /// Its id.
    pub id: ToolCallId,
    /// The model's own name for it.
    pub asked_as: String,
    /// The tool.
    pub tool: String,
    /// The arguments, as the model wrote them; the change has the text.
    pub arguments: TextHash,
    /// Names tool and arguments.
    pub digest: TextHash,
    /// What the tool does to the world.
    pub effect: Effect,
    /// Whether it is made as soon as this is recorded.
    pub is_begun: bool,
}

/// A call of a tool whose outcome is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCallEnd {
    /// Its id.
    pub id: ToolCallId,
    /// How it ended.
    pub outcome: ToolOutcome,
    /// What the model is told of it; the change has the text.
    pub output: TextHash,
    /// How long it took.
    pub elapsed: Duration,
}

/// Something that a person is asked, at the change's time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewApproval {
    /// Its id.
    pub id: ApprovalId,
    /// The task; none when it is about the run as a whole.
    pub task: Option<TaskId>,
    /// What is asked.
    pub kind: ApprovalKind,
    /// A line for people.
    pub subject: String,
    /// What exactly; the change has the text.
    pub detail: TextHash,
    /// Names what exactly: a yes covers nothing else.
    pub digest: TextHash,
}

/// What an attempt was told, and why.
#[derive(Debug, Clone)]
pub struct NewContext {
    /// The attempt.
    pub id: AttemptId,
    /// Tokens of the bundle.
    pub tokens: u32,
    /// Tokens it could have had.
    pub budget: u32,
    /// Where every part came from, as JSON.
    pub items: String,
    /// Names the bundle as it was sent.
    pub bundle: Option<TextHash>,
    /// The whole question, where a later attempt may have to go on with it; the change has the text.
    pub prompt: Option<TextHash>,
    /// The tokenizer that counted; none for an estimate.
    pub tokenizer: Option<Arc<str>>,
}
