//! Further tasks that specialists ask for while they work: which of them enter the plan.
//!
//! **Invariant:** what enters is bounded: for its author, for the run, in how far it is from the plan, and by what is left to
//! spend.
//! **Invariant:** a wish needs its author only, which is done when it is decided on: it closes no circle.

use std::{fmt, sync::Arc};

use crewline_types::{Criterion, Role};
use serde::{Deserialize, Serialize};

use super::{Document, DocumentTask, Planned, Rules, check};

/// Tasks that one task may lead to.
pub const WISHES_MAX: usize = 4;
/// Tasks of a run that were asked for.
const OF_RUN_MAX: usize = 16;
/// How far a task may be from the plan: one that is asked for by a task that was asked for is two away.
const DEPTH_MAX: u32 = 2;

/// A further task that a specialist asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// A line.
    pub title: String,
    /// What is to be done.
    pub description: String,
    /// Who shall do it.
    pub role: Role,
    /// How to tell that it is done.
    pub criteria: Vec<String>,
    /// Whether the tasks that need its author's shall wait for it, too.
    pub is_awaited: bool,
}

/// What is left for tasks that one task asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Tasks that were asked for by the same author.
    pub of_author: usize,
    /// Tasks of the run that were asked for.
    pub of_run: usize,
    /// How far the author is from the plan: 0 for a task of the plan itself.
    pub depth: u32,
    /// Tasks of the run.
    pub tasks: usize,
    /// Attempts that may still begin beyond those that waiting tasks need; none without a limit.
    pub attempts: Option<u32>,
    /// Whether any money is left.
    pub has_money: bool,
    /// Whether no task waits for the author.
    pub is_last: bool,
}

/// Why a wish does not enter the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Its author asked for the same before, and it is there.
    Known {
        /// Its key.
        key: Arc<str>,
    },
    /// It is no task that a plan could hold.
    Invalid {
        /// What is wrong.
        problem: String,
    },
    /// The run has as many tasks as it may.
    Full {
        /// So many.
        tasks_max: usize,
    },
    /// Its author asked for as many as it may.
    OfAuthor,
    /// The tasks of the run asked for as many as they may.
    OfRun,
    /// It is too far from the plan.
    TooDeep,
    /// No task waits for its author: the final document is written by then.
    AfterLast,
    /// No attempt is left for it.
    NoAttempts,
    /// No money is left for it.
    NoMoney,
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known { key } => write!(out, "it is in the plan already, as `{key}`"),
            Self::Invalid { problem } => out.write_str(problem),
            Self::Full { tasks_max } => write!(out, "the plan takes {tasks_max} tasks at most"),
            Self::OfAuthor => write!(out, "a task may lead to {WISHES_MAX} others at most"),
            Self::OfRun => write!(out, "a run takes {OF_RUN_MAX} further tasks at most"),
            Self::TooDeep => write!(out, "a task that is {DEPTH_MAX} steps from the plan leads to no others"),
            Self::AfterLast => out.write_str("nothing comes after a task that no other waits for"),
            Self::NoAttempts => out.write_str("the run's `max_steps` leaves no attempt for it"),
            Self::NoMoney => out.write_str("no money is left for it"),
        }
    }
}

/// Decides on a wish, and gives the task that it becomes, with `key`. `known` tells the key of a task that the same author asked
/// for in the same words.
pub fn admit(
    wish: &Wish,
    key: &str,
    room: Room,
    rules: &Rules,
    known: impl FnOnce(&Planned) -> Option<Arc<str>>,
) -> Result<Planned, Refusal> {
    let Room { of_author, of_run, depth, tasks, attempts, has_money, is_last } = room;
    let planned = planned(wish, key, rules)?;
    if let Some(key) = known(&planned) {
        return Err(Refusal::Known { key });
    }
    if is_last {
        return Err(Refusal::AfterLast);
    }
    if depth >= DEPTH_MAX {
        return Err(Refusal::TooDeep);
    }
    if of_author >= WISHES_MAX {
        return Err(Refusal::OfAuthor);
    }
    if of_run >= OF_RUN_MAX {
        return Err(Refusal::OfRun);
    }
    if tasks >= rules.tasks_max {
        return Err(Refusal::Full { tasks_max: rules.tasks_max });
    }
    if attempts == Some(0) {
        return Err(Refusal::NoAttempts);
    }
    if !has_money {
        return Err(Refusal::NoMoney);
    }
    Ok(planned)
}

/// The task as a plan would hold it: the same rules for words and roles.
fn planned(wish: &Wish, key: &str, rules: &Rules) -> Result<Planned, Refusal> {
    let criteria = wish.criteria.iter().map(|it| it.trim()).filter(|it| !it.is_empty());
    let task = DocumentTask {
        id: key.to_owned(),
        title: wish.title.clone(),
        description: wish.description.clone(),
        role: Some(wish.role.to_string()),
        success_criteria: criteria
            .map(|it| Criterion { criterion: it.to_owned(), measurable: false, check: None })
            .collect(),
        ..DocumentTask::default()
    };
    let document = Document { tasks: vec![task], ..Document::default() };
    let invalid = |problem: String| Refusal::Invalid { problem };
    let plan = check(&document, rules).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        invalid(lines.join("; "))
    })?;
    plan.tasks.into_iter().next().ok_or_else(|| invalid("it is no task".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(title: &str, role: &str) -> Wish {
        let criteria = vec!["It is short.".into(), " ".into()];
        Wish { title: title.into(), description: "Do it.".into(), role: role.into(), criteria, is_awaited: false }
    }

    const ROOM: Room =
        Room { of_author: 0, of_run: 0, depth: 0, tasks: 3, attempts: None, has_money: true, is_last: false };

    fn rules() -> Rules {
        let roles = vec![Role::from("coder"), Role::from("writer")];
        Rules { roles, default_role: "writer".into(), tasks_max: 9, roles_open: false }
    }

    fn decide(wish: &Wish, room: Room) -> Result<Planned, Refusal> {
        admit(wish, "a+1", room, &rules(), |_| None)
    }

    #[test]
    fn a_wish_becomes_a_task_as_a_plan_would_hold_it() {
        let task = decide(&wish(" Look\n again ", "coder"), ROOM).unwrap();
        assert_eq!((&*task.key, &*task.title, &*task.description), ("a+1", "Look again", "Do it."));
        assert_eq!(task.role, Role::from("coder"));
        // A model's words never become a command that is run.
        let expected = Criterion { criterion: "It is short.".into(), measurable: false, check: None };
        assert_eq!(task.success_criteria, [expected]);
        let known = admit(&wish("Look", "coder"), "a+2", ROOM, &rules(), |_| Some("a+1".into()));
        assert_eq!(known, Err(Refusal::Known { key: "a+1".into() }));
    }

    #[test]
    fn every_bound_refuses() {
        for (room, refusal) in [
            (Room { of_author: WISHES_MAX, ..ROOM }, Refusal::OfAuthor),
            (Room { of_run: OF_RUN_MAX, ..ROOM }, Refusal::OfRun),
            (Room { depth: DEPTH_MAX, ..ROOM }, Refusal::TooDeep),
            (Room { is_last: true, ..ROOM }, Refusal::AfterLast),
            (Room { attempts: Some(0), ..ROOM }, Refusal::NoAttempts),
            (Room { has_money: false, ..ROOM }, Refusal::NoMoney),
            (Room { tasks: 9, ..ROOM }, Refusal::Full { tasks_max: 9 }),
        ] {
            assert_eq!(decide(&wish("Look", "coder"), room), Err(refusal));
        }
        let least = Room { of_author: 3, of_run: 15, depth: 1, tasks: 8, attempts: Some(1), ..ROOM };
        assert!(decide(&wish("Look", "coder"), least).is_ok());
    }

    #[test]
    fn what_no_plan_could_hold_is_refused_with_the_reason() {
        for (title, role, reason) in [(" \n", "coder", "title"), ("Look", "manager", "`manager` is not a role")] {
            let Err(Refusal::Invalid { problem }) = decide(&wish(title, role), ROOM) else { panic!("{title}") };
            assert!(problem.contains(reason), "{problem}");
        }
    }
}
