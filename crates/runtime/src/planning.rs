//! Turns a valid plan into rows: tasks, links, the plan's event and INDEX.md.
//!
//! **Invariant:** the final document comes from one task, required by no other: the last one of a person's plan when
//! everything leads to it, else a synthesis task that is added here.

use std::{fmt::Write, sync::Arc, time::Duration};

use crewline_engine::{
    context::{estimate_tokens, trim_to},
    plan::{self, Plan, Planned, Preface, Rules, Times},
};
use crewline_models::Registry;
use crewline_types::{
    IdSource, LinkKind, Priority, Role, RunId, Task, TaskDetails, TaskId, TaskKind, Text, Timestamp, event::PlanEntry,
};

/// The rows of a plan.
pub struct Rows {
    /// The tasks, by position from 1.
    pub tasks: Vec<Task>,
    /// When some of them may begin, and should be done.
    pub details: Vec<(TaskId, TaskDetails)>,
    /// Their links.
    pub links: Vec<(TaskId, TaskId, LinkKind)>,
    /// The plan as its event shows it.
    pub entries: Vec<PlanEntry>,
    /// INDEX.md as prompts see it.
    pub index: Text,
}

/// Who wrote a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// A person: a single last task is meant to write the final document.
    Person,
    /// The planner, which is told that the final document is written afterwards.
    Planner,
}

/// The key of the added synthesis task.
const SYNTHESIS_KEY: &str = "synthesis";

/// What the rows of a plan hang on.
#[derive(Debug, Clone, Copy)]
pub struct Below<'a> {
    /// The run.
    pub run: RunId,
    /// Its root task.
    pub root: TaskId,
    /// Its goal.
    pub goal: &'a str,
    /// When the plan became valid.
    pub at: Timestamp,
}

/// Makes the rows of `plan`.
pub fn rows(below: Below<'_>, plan: &Plan, author: Author, ids: &mut IdSource, index_tokens: u32) -> Rows {
    let Below { run, root, goal, at } = below;
    let mut tasks: Vec<Task> = Vec::with_capacity(plan.tasks.len() + 1);
    let mut links = Vec::new();
    for (position, planned) in (1..).zip(&plan.tasks) {
        tasks.push(task(run, root, position, planned, at, ids));
    }
    for (task, planned) in tasks.iter().zip(&plan.tasks) {
        for need in &planned.depends_on {
            links.push((task.id, tasks[*need as usize].id, LinkKind::Requires));
        }
    }
    let timed = tasks.iter().zip(&plan.tasks).filter(|(_, planned)| planned.times != Times::default());
    let details = timed.map(|(task, planned)| {
        let Times { planned_for, deadline } = planned.times;
        (task.id, TaskDetails { planned_for, deadline, ..TaskDetails::default() })
    });
    let details = details.collect();
    let sinks = plan::sinks(plan);
    let needs_synthesis = match author {
        Author::Person => sinks.len() > 1,
        Author::Planner => plan.tasks.len() > 1,
    };
    if needs_synthesis {
        let planned = Planned {
            key: SYNTHESIS_KEY.into(),
            title: "Write the final document".into(),
            description: "Write the document that answers the goal from what the other tasks made.".into(),
            role: Role::from("writer"),
            depends_on: Vec::new(),
            success_criteria: Vec::new(),
            priority: Priority::default(),
            duration: None,
            times: Times::default(),
        };
        let position = u32::try_from(tasks.len() + 1).unwrap_or(u32::MAX);
        let task = Task { kind: TaskKind::Synthesis, ..task(run, root, position, &planned, at, ids) };
        let mut is_sink = vec![false; tasks.len()];
        for sink in sinks {
            is_sink[sink as usize] = true;
        }
        for (made, is_sink) in tasks.iter().zip(is_sink) {
            links.push((task.id, made.id, if is_sink { LinkKind::Requires } else { LinkKind::Refers }));
        }
        tasks.push(task);
    }
    let entries = entries(&tasks, &links);
    let index = Text::from(index(goal, &plan.preface, &entries, index_tokens));
    Rows { tasks, details, links, entries, index }
}

/// The row of a task that waits for its first attempt.
pub fn task(run: RunId, parent: TaskId, position: u32, planned: &Planned, at: Timestamp, ids: &mut IdSource) -> Task {
    Task {
        parent: Some(parent),
        position,
        title: Arc::clone(&planned.title),
        description: Arc::clone(&planned.description),
        priority: planned.priority,
        duration: planned.duration.and_then(|it| Duration::try_from_secs_f64(it).ok()),
        success_criteria: planned.success_criteria.clone(),
        ..Task::new(TaskId::new(ids), run, Arc::clone(&planned.key), planned.role.clone(), at)
    }
}

/// The plan as its event shows it.
pub fn entries(tasks: &[Task], links: &[(TaskId, TaskId, LinkKind)]) -> Vec<PlanEntry> {
    let mut entries: Vec<PlanEntry> = tasks
        .iter()
        .map(|task| PlanEntry {
            id: task.id,
            key: Arc::clone(&task.key),
            title: Arc::clone(&task.title),
            role: task.role.clone(),
            kind: task.kind,
            depends_on: Vec::new(),
        })
        .collect();
    let at: std::collections::HashMap<TaskId, usize> =
        tasks.iter().enumerate().map(|(index, task)| (task.id, index)).collect();
    for (from, to, kind) in links {
        if *kind == LinkKind::Requires
            && let Some(index) = at.get(from)
        {
            entries[*index].depends_on.push(*to);
        }
    }
    entries
}

/// INDEX.md as prompts see it: the goal, what holds for all tasks, and as much of the structure as fits `tokens_max`.
fn index(goal: &str, preface: &Preface, entries: &[PlanEntry], tokens_max: u32) -> String {
    let goal = trim_to(goal, tokens_max / 2);
    let preface = preface.text(tokens_max / 4);
    let text = format!("Goal: {goal}{preface}{LIST}");
    let used = estimate_tokens(&text);
    text + &list(entries, tokens_max.saturating_sub(used))
}

/// What stands before the list of tasks in INDEX.md.
const LIST: &str = "\n\nTasks:\n";

/// INDEX.md with another list of tasks; all around the list stays as it is. Without a list nothing changes, and without an
/// INDEX.md a new one is made.
pub fn index_with(old: Option<&str>, goal: &str, entries: &[PlanEntry], tokens_max: u32) -> String {
    let Some(old) = old else { return index(goal, &Preface::default(), entries, tokens_max) };
    let Some(at) = old.find(LIST) else { return old.to_owned() };
    let (head, rest) = old.split_at(at + LIST.len());
    let is_entry = |line: &str| line.starts_with("- [task:") || line.starts_with("- … and ");
    let after: usize = rest.split_inclusive('\n').take_while(|line| is_entry(line)).map(str::len).sum();
    format!("{head}{}{}", list(entries, tokens_max), &rest[after..])
}

fn list(entries: &[PlanEntry], tokens_max: u32) -> String {
    let (mut text, mut tokens) = (String::new(), 0);
    for (done, entry) in entries.iter().enumerate() {
        let mut line = format!("- [task:{}] {} ({})", entry.id, entry.title, entry.role);
        for (index, need) in entry.depends_on.iter().take(8).enumerate() {
            line.push_str(if index == 0 { ", after " } else { ", " });
            line.push_str(need.as_str());
        }
        if entry.depends_on.len() > 8 {
            write!(line, " and {} more", entry.depends_on.len() - 8).ok();
        }
        line.push('\n');
        tokens += estimate_tokens(&line) + 1;
        if tokens > tokens_max {
            writeln!(text, "- … and {} more tasks", entries.len() - done).ok();
            break;
        }
        text.push_str(&line);
    }
    text
}

/// What a person's plan may hold: roles are open, since one that is not named uses `default`.
pub fn file_rules(registry: &Registry) -> Rules {
    rules(registry.roles(), plan::FILE_TASKS_MAX, true)
}

/// What a plan made by the planner may hold: the manager and the judge are no specialists.
pub fn planner_rules(registry: &Registry) -> Rules {
    let roles =
        registry.roles().into_iter().filter(|role| *role != Role::manager() && *role != Role::judge()).collect();
    rules(roles, registry.policies().plan_tasks_max as usize, false)
}

fn rules(roles: Vec<Role>, tasks_max: usize, roles_open: bool) -> Rules {
    let general = Role::from("researcher");
    let default_role = if roles.contains(&general) { general } else { roles.first().cloned().unwrap_or(general) };
    Rules { roles, default_role, tasks_max, roles_open }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(needs: &[&[u32]]) -> Plan {
        let rules = Rules {
            roles: vec![Role::from("writer")],
            default_role: Role::from("writer"),
            tasks_max: 100,
            roles_open: false,
        };
        let mut plan = plan::single_task("goal", &rules);
        let one = plan.tasks.remove(0);
        for (index, needs) in needs.iter().enumerate() {
            let mut task = one.clone();
            task.key = format!("t{}", index + 1).into();
            task.depends_on = needs.to_vec();
            plan.tasks.push(task);
        }
        plan
    }

    fn below(goal: &str) -> Below<'_> {
        Below { run: "aaaaaaaa".parse().unwrap(), root: "bbbbbbbb".parse().unwrap(), goal, at: Timestamp(1) }
    }

    fn kinds(plan: &Plan, author: Author) -> Vec<TaskKind> {
        let rows = rows(below("goal"), plan, author, &mut IdSource::seeded(1), 500);
        rows.tasks.iter().map(|it| it.kind).collect()
    }

    #[test]
    fn one_last_task_writes_the_document() {
        let diamond = plan(&[&[], &[0], &[0], &[1, 2]]);
        assert_eq!(kinds(&diamond, Author::Person), [TaskKind::Atomic; 4]);
        assert_eq!(kinds(&diamond, Author::Planner).last(), Some(&TaskKind::Synthesis));
        assert_eq!(kinds(&plan(&[&[]]), Author::Planner), [TaskKind::Atomic]);
    }

    #[test]
    fn several_last_tasks_get_a_synthesis() {
        let kinds = kinds(&plan(&[&[], &[0], &[0]]), Author::Person);
        assert_eq!(kinds.len(), 4);
        assert_eq!(kinds[3], TaskKind::Synthesis);
    }

    #[test]
    fn a_new_list_keeps_what_stands_around_it() {
        let rows = rows(below("goal"), &plan(&[&[], &[0]]), Author::Person, &mut IdSource::seeded(1), 500);
        let one = index_with(None, "goal", &rows.entries[..1], 500);
        let mine = format!("# Rules\nBe kind.\n\n{one}\n## Glossary\n- [x] y\n");
        let two = index_with(Some(&mine), "goal", &rows.entries, 500);
        assert!(two.starts_with("# Rules\nBe kind.\n\nGoal: goal\n\nTasks:\n- [task:"), "{two}");
        assert!(two.ends_with("\n## Glossary\n- [x] y\n"), "{two}");
        assert_eq!(two.matches("- [task:").count(), 2);
        assert_eq!(index_with(Some(&two), "goal", &rows.entries[..1], 500), mine);
        assert_eq!(index_with(Some("mine alone"), "goal", &rows.entries, 500), "mine alone");
    }

    #[test]
    fn what_holds_for_all_tasks_stands_before_their_list() {
        let mut plan = plan(&[&[], &[0]]);
        plan.preface.rules.push("Metric units only".into());
        plan.preface.glossary.insert("crew".into(), "all on board".into());
        let rows = rows(below("goal"), &plan, Author::Person, &mut IdSource::seeded(1), 500);
        let head = "Goal: goal\n\nRules:\n- Metric units only\n\nGlossary:\n- crew: all on board\n\nTasks:\n- [task:";
        assert!(rows.index.body.starts_with(head), "{}", rows.index.body);
        assert!(index_with(Some(&rows.index.body), "goal", &[], 500).starts_with("Goal: goal\n\nRules:"));
    }

    #[test]
    fn index_is_bounded() {
        let many: Vec<&[u32]> = vec![&[]; 1_000];
        let goal = "word ".repeat(9_000);
        let rows = rows(below(&goal), &plan(&many), Author::Person, &mut IdSource::seeded(1), 300);
        assert!(estimate_tokens(&rows.index.body) <= 320, "{}", estimate_tokens(&rows.index.body));
        assert!(rows.index.body.contains("more tasks"));
    }
}
