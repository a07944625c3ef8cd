//! A run: one execution of a project's plan, its limits and how it stands.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{MicroUsd, TaskStatus};

/// Where a run is in its life.
///
/// `running` → any other, by its manager only. `interrupted` and `limit_reached` → `running` by `resume`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// A manager works on it, or will after a restart.
    Running,
    /// Every task is completed.
    Completed,
    /// At least one task failed for good.
    Failed,
    /// A person ended it.
    Cancelled,
    /// Drained by a signal; `resume` continues it.
    Interrupted,
    /// A budget or limit of the run was reached; `resume` with a higher one continues it.
    LimitReached,
}

impl RunStatus {
    /// The name used in events and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::LimitReached => "limit_reached",
        }
    }

    /// The inverse of [`Self::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "running" => Self::Running,
            "completed" => Self::Completed,
            "failed" => Self::Failed,
            "cancelled" => Self::Cancelled,
            "interrupted" => Self::Interrupted,
            "limit_reached" => Self::LimitReached,
            _ => return None,
        })
    }
}

/// The hard limits of a run; `None` means no limit of that kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RunLimits {
    /// Money, reserved before each call.
    #[serde(default)]
    pub cost_max: Option<MicroUsd>,
    /// Cost of all calls of one task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_cost_max: Option<MicroUsd>,
    /// Cost of all calls of all runs of the project, earlier ones included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_cost_max: Option<MicroUsd>,
    /// Attempts started.
    #[serde(default)]
    pub steps_max: Option<u32>,
    /// Wall time since the run (or its resumption) began.
    #[serde(default)]
    pub time_max: Option<Duration>,
}

/// How many tasks of a run are where; the root task is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TaskCounts {
    /// All tasks.
    pub total: u32,
    /// Not started.
    pub pending: u32,
    /// Being worked on.
    pub in_progress: u32,
    /// A requirement failed.
    pub blocked: u32,
    /// Waiting for a person.
    pub awaiting_approval: u32,
    /// Done.
    pub completed: u32,
    /// Failed for good.
    pub failed: u32,
    /// Ended by a person.
    pub cancelled: u32,
}

impl TaskCounts {
    /// Counts one more task.
    pub fn add(&mut self, status: TaskStatus) {
        self.total += 1;
        *match status {
            TaskStatus::Pending => &mut self.pending,
            TaskStatus::InProgress => &mut self.in_progress,
            TaskStatus::Blocked => &mut self.blocked,
            TaskStatus::AwaitingApproval => &mut self.awaiting_approval,
            TaskStatus::Completed => &mut self.completed,
            TaskStatus::Failed => &mut self.failed,
            TaskStatus::Cancelled => &mut self.cancelled,
        } += 1;
    }
}
