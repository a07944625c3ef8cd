//! What happened in a run: one vocabulary for `-o jsonl`, SSE and the log.
//!
//! **Invariant:** `seq` grows by one per event of a run, from 1, without gaps; the store gives it out.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    ApprovalId, ApprovalKind, ErrorKind, MicroUsd, Role, RunId, RunStatus, TaskCounts, TaskId, TaskKind, Timestamp,
    ToolOutcome, Usage,
};

/// One event of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its place in the run, from 1.
    pub seq: u64,
    /// When it happened.
    pub at: Timestamp,
    /// The run.
    pub run: RunId,
    /// The task it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// The attempt of that task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// What happened.
    #[serde(flatten)]
    pub body: EventBody,
}

/// An event that is not yet recorded: the store adds `seq`.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// When it happened.
    pub at: Timestamp,
    /// The task it is about.
    pub task: Option<TaskId>,
    /// The attempt of that task.
    pub attempt: Option<u32>,
    /// What happened.
    pub body: EventBody,
}

impl NewEvent {
    /// An event of the run as a whole.
    pub fn of_run(at: Timestamp, body: EventBody) -> Self {
        Self { at, task: None, attempt: None, body }
    }

    /// An event of a task.
    pub fn of_task(at: Timestamp, task: TaskId, attempt: Option<u32>, body: EventBody) -> Self {
        Self { at, task: Some(task), attempt, body }
    }
}

/// A task as `plan_ready` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanEntry {
    /// Its id.
    pub id: TaskId,
    /// Its name inside the plan.
    pub key: Arc<str>,
    /// Its title.
    pub title: Arc<str>,
    /// Who does it.
    pub role: Role,
    /// What it is in the tree.
    pub kind: TaskKind,
    /// The ids of the tasks it requires.
    pub depends_on: Vec<TaskId>,
}

/// A model of a role's chain, as the router saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The model's name in the registry.
    pub model: Arc<str>,
    /// Whether it is asked when those before it gave nothing useful.
    pub may_be_asked: bool,
    /// Why.
    pub reason: Arc<str>,
}

fn no_candidates() -> Arc<[Candidate]> {
    Arc::from([])
}

/// How a model call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallOutcome {
    /// Answered.
    Ok,
    /// The provider or the connection failed.
    Error,
    /// A limit on time passed.
    Timeout,
    /// Too many requests.
    RateLimited,
    /// Answered, but not what was asked for.
    Invalid,
    /// Aborted by us.
    Cancelled,
    /// A crash lost the answer.
    Lost,
}

impl CallOutcome {
    /// The name used in events, metrics and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::RateLimited => "rate_limited",
            Self::Invalid => "invalid",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }

    /// The inverse of [`Self::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "ok" => Self::Ok,
            "error" => Self::Error,
            "timeout" => Self::Timeout,
            "rate_limited" => Self::RateLimited,
            "invalid" => Self::Invalid,
            "cancelled" => Self::Cancelled,
            "lost" => Self::Lost,
            _ => return None,
        })
    }
}

/// What a criterion's check says of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// The criterion.
    pub criterion: Arc<str>,
    /// The kind of check: `regex`, `contains`, `length`, `number`, `json_schema`, `command` or `judge`.
    pub verifier: Arc<str>,
    /// Whether the answer passes.
    pub passed: bool,
    /// What was found.
    pub evidence: Arc<str>,
}

/// An error as events and reports show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorNote {
    /// The stable code (`model.timeout`); `docs/errors.md` has a section for each.
    pub code: Arc<str>,
    /// Its kind.
    pub kind: ErrorKind,
    /// For people.
    pub message: Arc<str>,
}

/// What was done to a task by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskAction {
    /// It is new.
    Added,
    /// A field has another value.
    Updated,
    /// It stands elsewhere in the tree or the order.
    Moved,
    /// It is cancelled.
    Deleted,
    /// It is done without a result.
    Skipped,
    /// It is done.
    Completed,
    /// Somebody works on it.
    Started,
    /// It failed.
    Failed,
    /// It is to be done again.
    Reopened,
    /// Nobody goes on with it for now.
    Blocked,
    /// What it requires is there after all.
    Unblocked,
    /// It links to another.
    Linked,
    /// It no longer does.
    Unlinked,
    /// Somebody noted something.
    Noted,
    /// Another role goes on with it.
    HandedOver,
    /// A further task that its specialist asked for does not enter the plan.
    Refused,
}

impl TaskAction {
    /// The name used in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Updated => "updated",
            Self::Moved => "moved",
            Self::Deleted => "deleted",
            Self::Skipped => "skipped",
            Self::Completed => "completed",
            Self::Started => "started",
            Self::Failed => "failed",
            Self::Reopened => "reopened",
            Self::Blocked => "blocked",
            Self::Unblocked => "unblocked",
            Self::Linked => "linked",
            Self::Unlinked => "unlinked",
            Self::Noted => "noted",
            Self::HandedOver => "handed_over",
            Self::Refused => "refused",
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventBody {
    /// The run began, or went on after a crash or an interruption.
    RunStarted {
        /// The project.
        project: Arc<str>,
        /// The goal.
        goal: Arc<str>,
        /// Whether it went on from what was recorded.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        resumed: bool,
    },
    /// The plan is valid and recorded.
    PlanReady {
        /// Its tasks.
        tasks: Vec<PlanEntry>,
        /// What had to be repaired, a line each.
        #[serde(default)]
        repairs: Vec<String>,
    },
    /// An attempt began.
    TaskStarted {
        /// The task's name inside the plan.
        key: Arc<str>,
        /// Its title.
        title: Arc<str>,
        /// Who does it.
        role: Role,
        /// The model that is asked first.
        model: Arc<str>,
        /// Every model of the role's chain and why it may be asked when, or not, in the order of asking.
        #[serde(default = "no_candidates", skip_serializing_if = "<[_]>::is_empty")]
        route: Arc<[Candidate]>,
    },
    /// A model call ended.
    ModelCall {
        /// The call's id.
        call: Arc<str>,
        /// Who asked.
        role: Role,
        /// The model's name in the registry.
        model: Arc<str>,
        /// The provider's name in the registry.
        provider: Arc<str>,
        /// How it ended.
        outcome: CallOutcome,
        /// Tokens.
        #[serde(flatten)]
        usage: Usage,
        /// Cost; null when the model has no price.
        cost_usd: Option<MicroUsd>,
        /// Duration in milliseconds.
        elapsed_ms: u64,
        /// Why it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<ErrorNote>,
        /// What the task's checks say of the answer.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        checks: Vec<CheckResult>,
    },
    /// A task has its result.
    TaskCompleted {
        /// The task's name inside the plan.
        key: Arc<str>,
        /// Who did it.
        role: Role,
        /// The model that made the result.
        model: Arc<str>,
        /// Tokens of all its attempts.
        #[serde(flatten)]
        usage: Usage,
        /// Cost of all its priced calls.
        cost_usd: MicroUsd,
        /// From its first start, in milliseconds.
        elapsed_ms: u64,
        /// The task of another run whose result it took over; it made no call then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        copied_from: Option<TaskId>,
    },
    /// An attempt failed.
    TaskFailed {
        /// The task's name inside the plan.
        key: Arc<str>,
        /// Who tried.
        role: Role,
        /// Why.
        error: ErrorNote,
        /// Whether another attempt follows.
        will_retry: bool,
    },
    /// No model of the task's chain serves anybody now; the task waits, and goes on by itself.
    TaskParked {
        /// The task's name inside the plan.
        key: Arc<str>,
        /// Who waits.
        role: Role,
        /// The models it waits for.
        models: Vec<Arc<str>>,
        /// What the last of them said.
        error: ErrorNote,
        /// When the first of them may be asked again; it may answer sooner.
        until: Timestamp,
    },
    /// The task is ready before the time it is planned for; it begins by itself then.
    TaskPlanned {
        /// The task's name inside the plan.
        key: Arc<str>,
        /// When it begins at the earliest.
        until: Timestamp,
    },
    /// The task's deadline has passed and it is not done.
    TaskOverdue {
        /// The task's name inside the plan.
        key: Arc<str>,
        /// The deadline.
        deadline: Timestamp,
    },
    /// A requirement of the task failed.
    TaskBlocked {
        /// The task's name inside the plan.
        key: Arc<str>,
        /// Why.
        reason: Arc<str>,
    },
    /// A person or an outside agent changed a task, or its specialist handed it to another role or asked for a further one.
    TaskChanged {
        /// The task's name inside the plan.
        key: Arc<str>,
        /// What was done.
        action: TaskAction,
        /// Who did it.
        agent: Arc<str>,
        /// For people; of a note, the note.
        detail: Arc<str>,
    },
    /// INDEX.md was rewritten by a person.
    IndexChanged {
        /// Which version this is.
        version: u32,
        /// Who wrote it.
        agent: Arc<str>,
    },
    /// A call of a tool ended.
    ToolCall {
        /// The call's id.
        call: Arc<str>,
        /// Who asked.
        role: Role,
        /// The tool, as the model named it.
        tool: Arc<str>,
        /// How it ended.
        outcome: ToolOutcome,
        /// Duration in milliseconds.
        elapsed_ms: u64,
    },
    /// A person must decide.
    AwaitingApproval {
        /// What about, in a line.
        what: Arc<str>,
        /// Names what is asked; `approve`, `reject` and `answer` take it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        approval: Option<ApprovalId>,
        /// What is asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<ApprovalKind>,
    },
    /// Something was remembered.
    MemoryStored {
        /// The memory's id.
        memory: Arc<str>,
        /// What it is.
        kind: Arc<str>,
    },
    /// A summary was made.
    SummaryReady {
        /// The summary's id in memory.
        memory: Arc<str>,
        /// What it is: `task_summary`, `handoff_summary`, `rolling_summary`, `project_summary`.
        kind: Arc<str>,
        /// How often it was made again, from 1.
        version: u32,
    },
    /// A budget or limit of the run was reached.
    BudgetReached {
        /// Which: `max_cost`, `max_project_cost`, `max_task_cost`, `max_steps` or `max_time`.
        limit: Arc<str>,
        /// For people.
        message: Arc<str>,
    },
    /// The run ended; always the last event.
    RunFinished {
        /// How.
        status: RunStatus,
        /// Where its tasks are.
        tasks: TaskCounts,
        /// Cost of all priced calls.
        cost_usd: MicroUsd,
        /// Calls whose model has no price.
        #[serde(default)]
        unpriced_calls: u64,
        /// Tokens.
        #[serde(flatten)]
        usage: Usage,
        /// Duration in milliseconds.
        elapsed_ms: u64,
        /// Why it did not complete.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<ErrorNote>,
    },
}

impl EventBody {
    /// The event's type, as it is serialised.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RunStarted { .. } => "run_started",
            Self::PlanReady { .. } => "plan_ready",
            Self::TaskStarted { .. } => "task_started",
            Self::ModelCall { .. } => "model_call",
            Self::TaskCompleted { .. } => "task_completed",
            Self::TaskFailed { .. } => "task_failed",
            Self::TaskParked { .. } => "task_parked",
            Self::TaskPlanned { .. } => "task_planned",
            Self::TaskOverdue { .. } => "task_overdue",
            Self::TaskBlocked { .. } => "task_blocked",
            Self::TaskChanged { .. } => "task_changed",
            Self::IndexChanged { .. } => "index_changed",
            Self::ToolCall { .. } => "tool_call",
            Self::AwaitingApproval { .. } => "awaiting_approval",
            Self::MemoryStored { .. } => "memory_stored",
            Self::SummaryReady { .. } => "summary_ready",
            Self::BudgetReached { .. } => "budget_reached",
            Self::RunFinished { .. } => "run_finished",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_flat_json() {
        let event = Event {
            seq: 3,
            at: Timestamp(0),
            run: "aaaaaaaa".parse().unwrap(),
            task: None,
            attempt: None,
            body: EventBody::RunFinished {
                status: RunStatus::Completed,
                tasks: TaskCounts::default(),
                cost_usd: MicroUsd(1_500),
                unpriced_calls: 0,
                usage: Usage::default(),
                elapsed_ms: 12,
                error: None,
            },
        };
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["type"], "run_finished");
        assert_eq!(json["status"], "completed");
        assert_eq!(json["cost_usd"], 0.0015);
        assert_eq!(serde_json::from_value::<Event>(json).unwrap(), event);
    }
}
