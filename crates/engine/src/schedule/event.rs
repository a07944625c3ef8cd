//! What goes into a graph and comes out of it: tasks, limits, events, actions.
//!
//! **Invariant:** plain data; what follows from an event is decided in [`super::Dag`].

use std::time::Duration;

use crewline_types::Priority;

/// A task as the schedule sees it; its index is its place in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What the strategy says, as [`super::Graph::urgencies`] gives it: higher goes first, before any priority.
    pub urgency: u64,
    /// Higher goes first.
    pub priority: Priority,
    /// The indexes of the tasks it needs.
    pub needs: Vec<u32>,
    /// Where it is; [`Stage::Running`] is read as waiting: what still runs elsewhere is told by [`super::Dag::adopt`].
    pub stage: Stage,
    /// Attempts so far. A task loaded as waiting always gets one more: an attempt that a crash ended did not fail.
    pub attempts: u32,
}

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Waits for the tasks it needs, a place, or its retry time.
    Waiting,
    /// An attempt runs.
    Running,
    /// Waits for a person; it takes no place.
    Parked,
    /// Has a result.
    Done,
    /// Will never have a result.
    Failed,
    /// Needs a task that will never have a result.
    Blocked,
}

/// Whether the beginning of an attempt that runs elsewhere is recorded; it counts among [`Node::attempts`] from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// It is the last of the attempts so far.
    Recorded,
    /// It would be the next.
    Not,
}

/// The bounds of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tasks running at once; zero is read as one.
    pub parallel_max: usize,
    /// Tries per task; zero is read as one.
    pub attempts_max: u32,
    /// The wait before the second try; it doubles with each further one.
    pub retry_delay_base: Duration,
    /// The longest wait between two tries.
    pub retry_delay_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            parallel_max: 16,
            attempts_max: 3,
            retry_delay_base: Duration::from_secs(1),
            retry_delay_max: Duration::from_mins(1),
        }
    }
}

impl Limits {
    /// How long to wait after `attempt` failed: base · 2^(attempt − 1), at most `retry_delay_max`.
    pub fn retry_delay(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        self.retry_delay_base.saturating_mul(1 << doublings).min(self.retry_delay_max)
    }
}

/// What happened outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The run may begin.
    Begin,
    /// An attempt has a result.
    Succeeded {
        /// The task.
        node: u32,
        /// The attempt, as [`Action::Dispatch`] named it.
        attempt: u32,
    },
    /// An attempt failed.
    AttemptFailed {
        /// The task.
        node: u32,
        /// The attempt, as [`Action::Dispatch`] named it.
        attempt: u32,
        /// Whether another try may help.
        retry: Retry,
    },
    /// An attempt was lost (its worker died, or it was aborted): it is made again at once and does not count as a try.
    AttemptLost {
        /// The task.
        node: u32,
        /// The attempt, as [`Action::Dispatch`] named it.
        attempt: u32,
    },
    /// An attempt found that it can not be made now. It does not count as a try; the task waits for [`Event::RetryDue`].
    AttemptParked {
        /// The task.
        node: u32,
        /// The attempt, as [`Action::Dispatch`] named it.
        attempt: u32,
    },
    /// An attempt can not go on before a person has decided something: it does not count as a try.
    Parked {
        /// The task.
        node: u32,
        /// The attempt, as [`Action::Dispatch`] named it.
        attempt: u32,
    },
    /// The person has decided.
    Resumed {
        /// The task.
        node: u32,
    },
    /// The delay of [`Action::RetryAfter`] has passed, or the reason of [`Event::AttemptParked`] is gone.
    RetryDue {
        /// The task.
        node: u32,
    },
    /// The time has come that a task was kept back for with [`super::Dag::plan`].
    Due {
        /// The task.
        node: u32,
    },
    /// Finish what runs, start nothing.
    Drain,
}

/// Whether another try may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// As long as tries are left.
    May,
    /// The same try would fail again.
    Never,
}

/// What the caller must do, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start this attempt of this task.
    Dispatch {
        /// The task.
        node: u32,
        /// 1 for the first.
        attempt: u32,
    },
    /// The attempt failed, another follows: send [`Event::RetryDue`] after this delay. While draining it is given too (the
    /// task goes back to waiting), and the event then does nothing.
    RetryAfter {
        /// The task.
        node: u32,
        /// How long to wait.
        delay: Duration,
    },
    /// The task failed for good.
    Fail {
        /// The task.
        node: u32,
    },
    /// The task can never run.
    Block {
        /// The task.
        node: u32,
        /// The task that failed, the first cause; for a graph loaded with blocked tasks, the blocked one.
        because: u32,
    },
    /// Nothing happens before [`Event::Resumed`]: all that is left waits for a person. Said whenever that becomes so.
    Wait,
    /// Nothing more will happen; always the last action.
    Finish(Finish),
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finish {
    /// Every task is done.
    AllDone,
    /// Some failed or are blocked, all others are done.
    SomeFailed,
    /// Drained while tasks were waiting.
    Drained,
}
