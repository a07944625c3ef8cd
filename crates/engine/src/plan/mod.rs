//! Plans: from a file or a model's answer to a valid graph of tasks.
//!
//! A [`Document`] is what somebody wrote; a [`Plan`] is what can run. [`check`] goes from one to the other and refuses with
//! all problems at once; [`repair`] goes from one to the other and says what it changed.
//!
//! **Invariant:** a plan is never empty, its keys are unique, every index of `depends_on` is in range and there is no cycle.
//! **Invariant:** the order of the document is the order of the plan.
//! **Invariant:** every change that `repair` makes is in its report.

mod check;
mod compose;
mod cycle;
mod document;
mod lenient;
mod preface;
mod repair;
mod reply;
mod roles;
mod schema;
mod wish;
mod words;

use std::{fmt, sync::Arc};

use crewline_types::{Criterion, Priority, Role, Timestamp};
use serde::Serialize;

use crate::schedule::{Cycle, Graph, Job, Slot};

pub use check::check;
pub use compose::{Sources, compose, links};
pub use document::{Document, DocumentTask, document_from_value};
pub use preface::Preface;
pub use repair::{Repair, Repaired, repair};
pub use reply::parse_reply;
pub use schema::{SCHEMA_TASKS_MAX, schema};
pub use wish::{Refusal, Room, WISHES_MAX, Wish, admit};

/// What a plan may look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The roles that exist.
    pub roles: Vec<Role>,
    /// For tasks that name none.
    pub default_role: Role,
    /// Tasks at most.
    pub tasks_max: usize,
    /// Whether a role that is not among `roles` is kept as it is, as in plan files.
    pub roles_open: bool,
}

/// Tasks of a person's plan at most.
pub const FILE_TASKS_MAX: usize = 100_000;

impl Rules {
    /// Of a plan file when it is not known which roles there are.
    pub fn open() -> Self {
        Self { roles: Vec::new(), default_role: Role::from("default"), tasks_max: FILE_TASKS_MAX, roles_open: true }
    }
}

/// A valid plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Its tasks, in the order of the document.
    pub tasks: Vec<Planned>,
    /// What holds for all of them.
    pub preface: Preface,
}

impl Plan {
    /// The graph of its tasks. A plan that was checked is never refused.
    pub fn graph(&self) -> Result<Graph, Cycle> {
        let job = |it: &Planned| Job { needs: it.depends_on.clone(), priority: it.priority, duration: it.duration };
        Graph::new(self.tasks.iter().map(job).collect())
    }

    /// The same, when the plan begins at `from`: no task begins before the time it is planned for.
    pub fn graph_from(&self, from: Timestamp) -> Result<Graph, Cycle> {
        let release = |it: &Planned| it.times.planned_for.map_or(0.0, |at| at.since(from).as_secs_f64());
        Ok(self.graph()?.released(&self.tasks.iter().map(release).collect::<Vec<_>>()))
    }

    /// The tasks that end after their deadline in a timetable that begins at `from`, in the order of the plan.
    pub fn overdue(&self, slots: &[Slot], from: Timestamp) -> Vec<Overdue> {
        let late = |(task, (planned, slot)): (u32, (&Planned, &Slot))| {
            let deadline = planned.times.deadline?;
            // The beginning may be after the deadline already.
            let allowed = deadline.since(from).as_secs_f64() - from.since(deadline).as_secs_f64();
            let late = slot.end - allowed;
            // Times are told in milliseconds.
            (late >= 0.001).then_some(Overdue { task, deadline, late })
        };
        (0_u32..).zip(self.tasks.iter().zip(slots)).filter_map(late).collect()
    }
}

/// A task that ends after its deadline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overdue {
    /// Its index in the plan.
    pub task: u32,
    /// When it should be done.
    pub deadline: Timestamp,
    /// By how many seconds it is late.
    pub late: f64,
}

/// A task of a valid plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Its id in the document, unique in the plan.
    pub key: Arc<str>,
    /// One line, not blank.
    pub title: Arc<str>,
    /// What is to be done, not blank.
    pub description: Arc<str>,
    /// Who does it.
    pub role: Role,
    /// The tasks it requires, as indexes into the plan; none twice.
    pub depends_on: Vec<u32>,
    /// How to tell that it is done.
    pub success_criteria: Vec<Criterion>,
    /// How much it matters.
    pub priority: Priority,
    /// How long it takes, in seconds: 0 to 10¹².
    pub duration: Option<f64>,
    /// When it may begin, and when it should be done.
    pub times: Times,
}

/// When a task may begin, and when it should be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Times {
    /// Not before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planned_for: Option<Timestamp>,
    /// Not after; a warning when it passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
}

/// Something that is wrong with a document. The message names the place, the value and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What is wrong: `cycle`, `self_dependency`, `unknown_dependency`, `duplicate_id`, `missing_id`, `empty_plan`,
    /// `blank_title`, `negative_duration`, `too_many_tasks`, `unknown_role`, `unknown_field`, `invalid_field`,
    /// `invalid_check` or `no_plan`;
    /// of documents that link others `invalid_link`, `link_cycle` or `too_deep`.
    pub code: &'static str,
    /// The id of the task it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// For people.
    pub message: String,
}

impl Problem {
    fn new(code: &'static str, task: Option<&str>, message: String) -> Self {
        let task = task.map(str::trim).filter(|it| !it.is_empty()).map(|it| words::shorten(it, 80).into_owned());
        Self { code, task, message }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

/// The tasks that nobody requires, in the order of the plan.
pub fn sinks(plan: &Plan) -> Vec<u32> {
    let mut is_required = vec![false; plan.tasks.len()];
    for need in plan.tasks.iter().flat_map(|it| &it.depends_on) {
        if let Some(it) = is_required.get_mut(*need as usize) {
            *it = true;
        }
    }
    (0_u32..).zip(is_required).filter(|(_, is_required)| !is_required).map(|(index, _)| index).collect()
}

/// The last resort: the goal as one task.
pub fn single_task(goal: &str, rules: &Rules) -> Plan {
    let goal = if goal.trim().is_empty() { "Do what the project asks" } else { goal.trim() };
    Plan {
        tasks: vec![Planned {
            key: "t1".into(),
            title: words::title_from(goal).into(),
            description: goal.into(),
            role: rules.default_role.clone(),
            depends_on: Vec::new(),
            success_criteria: Vec::new(),
            priority: Priority::default(),
            duration: None,
            times: Times::default(),
        }],
        preface: Preface::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules { roles: vec!["coder".into()], default_role: "writer".into(), tasks_max: 9, roles_open: false }
    }

    #[test]
    fn sinks_are_what_nobody_requires() {
        let mut plan = single_task("Write a poem.\nIt has four lines.", &rules());
        assert_eq!(&*plan.tasks[0].title, "Write a poem");
        assert_eq!(plan.tasks[0].role.as_str(), "writer");
        let task = plan.tasks[0].clone();
        plan.tasks.push(Planned { key: "t2".into(), depends_on: vec![0], ..task.clone() });
        plan.tasks.push(Planned { key: "t3".into(), depends_on: vec![0], ..task });
        assert_eq!(sinks(&plan), [1, 2]);
    }

    #[test]
    fn a_problem_is_flat_json() {
        let problem = Problem::new("cycle", Some("t1"), "a message".into());
        let json = serde_json::to_string(&problem).unwrap();
        assert_eq!(json, r#"{"code":"cycle","task":"t1","message":"a message"}"#);
        assert_eq!(Problem::new("empty_plan", Some(" "), String::new()).task, None);
    }
}
