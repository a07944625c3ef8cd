//! What may be done to the tasks of a run.

use std::{collections::BTreeMap, time::Duration};

use crewline_types::{Criterion, LinkKind, Priority, Role, TaskStatus, Timestamp};

/// One thing that is done. Tasks are named by their key, their id or the beginning of it.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskCommand {
    /// A new task.
    Add {
        /// Its name inside the plan; the next free `t<number>` when left out.
        key: Option<String>,
        /// Its fields; a title is needed.
        fields: Box<TaskFields>,
        /// The task above it; the root when left out.
        parent: Option<String>,
        /// What it requires.
        requires: Vec<String>,
        /// What it refers to.
        refers: Vec<String>,
    },
    /// Other values of fields.
    Update {
        /// The task.
        task: String,
        /// What is given is set.
        fields: Box<TaskFields>,
    },
    /// Another place in the tree or the order.
    Move {
        /// The task.
        task: String,
        /// Where to.
        to: Place,
    },
    /// The task, and what is below it, is cancelled.
    Delete {
        /// The task.
        task: String,
        /// Who required it requires it no longer; otherwise they are blocked.
        unlink: bool,
    },
    /// The task counts as done, without a result.
    Skip {
        /// The task.
        task: String,
        /// Why.
        why: Option<String>,
    },
    /// The task goes where somebody says.
    Mark {
        /// The task.
        task: String,
        /// Where to.
        to: TaskStatus,
        /// Its result, when it is completed.
        result: Option<String>,
        /// Why, or what came of it.
        note: Option<String>,
        /// Anything else that shall be kept.
        metadata: BTreeMap<String, String>,
    },
    /// Something is noted.
    Note {
        /// The task.
        task: String,
        /// What.
        text: String,
    },
    /// How much of it is done.
    Progress {
        /// The task.
        task: String,
        /// 0 to 100.
        percent: u8,
        /// What is done.
        text: Option<String>,
    },
    /// What somebody says of its result.
    Feedback {
        /// The task.
        task: String,
        /// How good it is: 1 to 5.
        quality: u8,
        /// Whether it came in time: 1 to 5.
        timeliness: u8,
        /// More of it.
        text: Option<String>,
    },
    /// A link.
    Link {
        /// From.
        from: String,
        /// To.
        to: String,
        /// What it means.
        kind: LinkKind,
    },
    /// No link any more.
    Unlink {
        /// From.
        from: String,
        /// To.
        to: String,
        /// What it meant; all kinds when left out.
        kind: Option<LinkKind>,
    },
}

/// Another place of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Below this task, after what is there.
    Below(String),
    /// Right before this task in the order, with the same task above.
    Before(String),
    /// Right after this task in the order, with the same task above.
    After(String),
}

/// Fields of a task; what is not given stays as it is, or has its default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskFields {
    /// A line.
    pub title: Option<String>,
    /// What is to be done.
    pub description: Option<String>,
    /// Who does it.
    pub role: Option<Role>,
    /// How much it matters.
    pub priority: Option<Priority>,
    /// How long it should take; zero takes it away.
    pub duration: Option<Duration>,
    /// How to tell that it is done.
    pub criteria: Option<Vec<Criterion>>,
    /// Who works on it, or shall.
    pub assignee: Option<String>,
    /// Not before; the inner nothing takes it away.
    pub planned_for: Option<Option<Timestamp>>,
    /// Not after; the inner nothing takes it away.
    pub deadline: Option<Option<Timestamp>>,
    /// What it should take.
    pub estimated_hours: Option<f64>,
    /// What it took.
    pub actual_hours: Option<f64>,
}

impl TaskFields {
    /// Whether a field is given that a specialist is told.
    pub(super) fn has_work(&self) -> bool {
        self.title.is_some()
            || self.description.is_some()
            || self.role.is_some()
            || self.priority.is_some()
            || self.duration.is_some()
            || self.criteria.is_some()
    }
}
