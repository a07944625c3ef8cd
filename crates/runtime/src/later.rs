//! What came of checked answers later: whether work that built on them held, and what people did with them.
//!
//! **Invariant:** an answer about which nothing was heard later has no outcome; silence is no praise.

use std::collections::{HashMap, HashSet};

use crewline_types::{
    Event, EventBody, LinkKind, Task, TaskId, TaskStatus, TextHash,
    event::{CheckResult, TaskAction},
};

/// What an answer turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Later {
    /// Work that built on it passed a command, or somebody took it although it was rejected.
    Good,
    /// It was taken back or made again, work that built on it failed its command, or somebody wrote another result.
    Bad,
}

/// A checked answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its task.
    pub task: TaskId,
    /// Where its event stands in the run.
    pub seq: u64,
    /// Names its text.
    pub reply: Option<TextHash>,
    /// What the checks said.
    pub checks: Vec<CheckResult>,
}

impl Answer {
    fn is_accepted(&self) -> bool {
        self.checks.iter().all(|it| it.passed)
    }

    fn command(&self) -> Option<bool> {
        let mut commands = self.checks.iter().filter(|it| &*it.verifier == "command").map(|it| it.passed).peekable();
        commands.peek()?;
        Some(commands.all(|it| it))
    }
}

/// All that is known of a run.
pub struct Seen<'a> {
    /// Its tasks.
    pub tasks: &'a [Task],
    /// Their links.
    pub links: &'a [(TaskId, TaskId, LinkKind)],
    /// Its checked answers, in their order.
    pub answers: &'a [Answer],
    /// What people did to its tasks.
    pub by_hand: &'a [Event],
    /// Tasks that a person had made again from the same inputs, in another run.
    pub made_again: &'a HashSet<TaskId>,
}

/// What came of each of the answers, in their order.
pub fn outcomes(seen: &Seen<'_>) -> Vec<Option<Later>> {
    let tasks: HashMap<TaskId, &Task> = seen.tasks.iter().map(|task| (task.id, task)).collect();
    let mut last: HashMap<TaskId, usize> = HashMap::new();
    for (place, answer) in seen.answers.iter().enumerate() {
        last.insert(answer.task, place);
    }
    // What the commands of tasks that require a task say in the end.
    let mut above: HashMap<TaskId, Vec<Later>> = HashMap::new();
    for (from, to, kind) in seen.links {
        let (LinkKind::Requires, Some(task), Some(place)) = (kind, tasks.get(from), last.get(from)) else { continue };
        let verdict = match (task.status, seen.answers[*place].command()) {
            (TaskStatus::Completed, Some(true)) => Later::Good,
            (TaskStatus::Failed, Some(false)) => Later::Bad,
            _ => continue,
        };
        above.entry(*to).or_default().push(verdict);
    }
    let of = |answer: &Answer, place: usize| {
        let task = tasks.get(&answer.task)?;
        let by_hand = || by_hand(seen.by_hand, answer);
        if !answer.is_accepted() {
            return match (task.status, task.result, answer.reply) {
                (TaskStatus::Completed, Some(result), Some(reply)) if result == reply => Some(Later::Good),
                (TaskStatus::Completed, Some(_), _) if by_hand().any(|it| it == TaskAction::Completed) => {
                    Some(Later::Bad)
                }
                _ => None,
            };
        }
        // Of several accepted answers the last one is the result.
        if last.get(&answer.task) != Some(&place) {
            return None;
        }
        let was_taken_back =
            by_hand().any(|it| matches!(it, TaskAction::Reopened | TaskAction::Failed | TaskAction::Deleted));
        let verdicts = above.get(&answer.task).map_or(&[][..], Vec::as_slice);
        if was_taken_back || seen.made_again.contains(&answer.task) || verdicts.contains(&Later::Bad) {
            return Some(Later::Bad);
        }
        verdicts.contains(&Later::Good).then_some(Later::Good)
    };
    seen.answers.iter().enumerate().map(|(place, answer)| of(answer, place)).collect()
}

/// What people did to the task after the answer.
fn by_hand<'a>(events: &'a [Event], answer: &'a Answer) -> impl Iterator<Item = TaskAction> + 'a {
    let later = events.iter().filter(|it| it.task == Some(answer.task) && it.seq > answer.seq);
    later.filter_map(|event| match event.body {
        EventBody::TaskChanged { action, .. } => Some(action),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use crewline_types::{Role, Timestamp};

    use super::*;

    fn id(name: &str) -> TaskId {
        format!("{name:0<8}").parse().unwrap()
    }

    fn task(name: &str, status: TaskStatus, result: Option<&str>) -> Task {
        Task {
            position: 1,
            status,
            attempts: 1,
            result: result.map(TextHash::of),
            ..Task::new(id(name), "rrrrrrrr".parse().unwrap(), name, Role::from("coder"), Timestamp(0))
        }
    }

    fn answer(name: &str, seq: u64, reply: &str, verdicts: &[(&str, bool)]) -> Answer {
        let check = |(verifier, passed): &(&str, bool)| CheckResult {
            criterion: "c".into(),
            verifier: (*verifier).into(),
            passed: *passed,
            evidence: "e".into(),
        };
        Answer { task: id(name), seq, reply: Some(TextHash::of(reply)), checks: verdicts.iter().map(check).collect() }
    }

    fn hand(name: &str, seq: u64, action: TaskAction) -> Event {
        let body = EventBody::TaskChanged { key: name.into(), action, agent: "ada".into(), detail: "".into() };
        Event { seq, at: Timestamp(0), run: "rrrrrrrr".parse().unwrap(), task: Some(id(name)), attempt: None, body }
    }

    #[track_caller]
    fn check(tasks: &[Task], answers: &[Answer], by_hand: &[Event], again: &[&str], expected: &[Option<Later>]) {
        let made_again = again.iter().map(|name| id(name)).collect();
        let links = [(id("b"), id("a"), LinkKind::Requires)];
        let seen = Seen { tasks, links: &links, answers, by_hand, made_again: &made_again };
        assert_eq!(outcomes(&seen), expected);
    }

    #[test]
    fn commands_of_later_tasks_tell_what_an_answer_was_worth() {
        let a = answer("a", 1, "x", &[("regex", true)]);
        let done = |status| [task("a", TaskStatus::Completed, Some("x")), task("b", status, None)];
        let with = |passed| [a.clone(), answer("b", 2, "y", &[("command", passed)])];
        check(&done(TaskStatus::Completed), &with(true), &[], &[], &[Some(Later::Good), None]);
        check(&done(TaskStatus::Failed), &with(false), &[], &[], &[Some(Later::Bad), None]);
        check(&done(TaskStatus::Pending), std::slice::from_ref(&a), &[], &[], &[None]);
        let words = [a.clone(), answer("b", 2, "y", &[("regex", true)])];
        check(&done(TaskStatus::Completed), &words, &[], &[], &[None, None]);
    }

    #[test]
    fn people_say_what_an_answer_was_worth() {
        let tasks = [task("a", TaskStatus::Completed, Some("x"))];
        let accepted = [answer("a", 5, "x", &[("regex", true)])];
        check(&tasks, &accepted, &[hand("a", 6, TaskAction::Reopened)], &[], &[Some(Later::Bad)]);
        check(&tasks, &accepted, &[hand("a", 4, TaskAction::Reopened)], &[], &[None]);
        check(&tasks, &accepted, &[], &["a"], &[Some(Later::Bad)]);
        let rejected = |reply| [answer("a", 5, reply, &[("regex", false)])];
        let completed = [hand("a", 6, TaskAction::Completed)];
        check(&tasks, &rejected("x"), &completed, &[], &[Some(Later::Good)]);
        check(&tasks, &rejected("y"), &completed, &[], &[Some(Later::Bad)]);
        check(&tasks, &rejected("y"), &[], &[], &[None]);
    }
}
