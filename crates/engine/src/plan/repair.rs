//! The forgiving way from a document to a plan: what small models get wrong is put right, and said.
//!
//! **Invariant:** deterministic: the same document and rules give the same plan and the same report.
//! **Invariant:** every change is a [`Repair`]; only blanks around words are trimmed in silence.
//! **Invariant:** the result is what [`check`](super::check) would accept.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use crewline_types::Role;
use serde::{Serialize, Serializer};

use super::{Document, DocumentTask, Plan, Problem, Rules, check, cycle, roles, words};

/// Characters of a title at most.
const TITLE_CHARS_MAX: usize = 200;
/// Characters of a description at most.
const DESCRIPTION_CHARS_MAX: usize = 8_000;
/// Criteria of a task at most.
const CRITERIA_MAX: usize = 16;

/// A plan and what had to be changed to get it.
#[derive(Debug, Clone, PartialEq)]
pub struct Repaired {
    /// The plan.
    pub plan: Plan,
    /// The changes, in the order they were made.
    pub repairs: Vec<Repair>,
}

/// One change; its `Display` is the line shown to people. Tasks are named by their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// A role that does not exist became one that does.
    RoleReplaced {
        /// The task.
        task: String,
        /// What was written.
        from: String,
        /// What it became.
        to: Role,
        /// Whether it resembles what was written; otherwise it is the default.
        is_near: bool,
    },
    /// A dependency that closed a cycle was dropped.
    CycleCut {
        /// The task that had it.
        task: String,
        /// What it depended on.
        need: String,
        /// The way round, as `` `a` → `b` → `a` ``.
        path: String,
    },
    /// A dependency on itself was dropped.
    SelfDependencyDropped {
        /// The task.
        task: String,
    },
    /// A dependency on a task that does not exist was dropped.
    UnknownDependencyDropped {
        /// The task.
        task: String,
        /// What was written.
        need: String,
    },
    /// A dependency was written differently from the id it meant.
    DependencyRead {
        /// The task.
        task: String,
        /// What was written.
        from: String,
        /// The id.
        to: String,
    },
    /// A task that says the same as an earlier one with the same id was dropped.
    DuplicateDropped {
        /// The id.
        task: String,
    },
    /// A task had the id of an earlier one.
    Renamed {
        /// The id it had.
        from: String,
        /// The id it got.
        to: String,
    },
    /// A task had no id.
    IdGiven {
        /// The id it got.
        task: String,
    },
    /// A title was missing and was made from the description.
    TitleGiven {
        /// The task.
        task: String,
    },
    /// A task said nothing and was dropped.
    BlankDropped {
        /// Its place in the document, from 1.
        place: usize,
    },
    /// A text was too long.
    Shortened {
        /// The task.
        task: String,
        /// Which: `id`, `title`, `description` or `success_criteria`.
        field: &'static str,
        /// What is allowed.
        max: usize,
    },
    /// A duration was negative or no number, and was dropped.
    DurationDropped {
        /// The task.
        task: String,
    },
    /// Tasks beyond the limit were cut.
    TasksCut {
        /// How many the document had.
        from: usize,
        /// How many are left.
        to: usize,
    },
}

impl Repair {
    /// The change as one word.
    pub fn code(&self) -> &'static str {
        match self {
            Self::RoleReplaced { .. } => "role_replaced",
            Self::CycleCut { .. } => "cycle_cut",
            Self::SelfDependencyDropped { .. } => "self_dependency_dropped",
            Self::UnknownDependencyDropped { .. } => "unknown_dependency_dropped",
            Self::DependencyRead { .. } => "dependency_read",
            Self::DuplicateDropped { .. } => "duplicate_dropped",
            Self::Renamed { .. } => "renamed",
            Self::IdGiven { .. } => "id_given",
            Self::TitleGiven { .. } => "title_given",
            Self::BlankDropped { .. } => "blank_dropped",
            Self::Shortened { .. } => "shortened",
            Self::DurationDropped { .. } => "duration_dropped",
            Self::TasksCut { .. } => "tasks_cut",
        }
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RoleReplaced { task, from, to, is_near: true } => {
                write!(out, "task `{task}`: role `{from}` does not exist, the nearest is `{to}`")
            }
            Self::RoleReplaced { task, from, to, is_near: false } => {
                write!(out, "task `{task}`: role `{from}` does not exist, `{to}` does it")
            }
            Self::CycleCut { task, need, path } => {
                write!(out, "task `{task}`: dropped the dependency on `{need}`, which closed the cycle {path}")
            }
            Self::SelfDependencyDropped { task } => write!(out, "task `{task}`: dropped the dependency on itself"),
            Self::UnknownDependencyDropped { task, need } => {
                write!(out, "task `{task}`: dropped the dependency on `{need}`, which is not a task")
            }
            Self::DependencyRead { task, from, to } => {
                write!(out, "task `{task}`: read the dependency `{from}` as `{to}`")
            }
            Self::DuplicateDropped { task } => write!(out, "task `{task}`: dropped a repetition"),
            Self::Renamed { from, to } => write!(out, "task `{from}`: the id was taken, this one is now `{to}`"),
            Self::IdGiven { task } => write!(out, "task `{task}`: had no id"),
            Self::TitleGiven { task } => write!(out, "task `{task}`: had no title, made one from the description"),
            Self::BlankDropped { place } => write!(out, "dropped task number {place}, which says nothing"),
            Self::Shortened { task, field, max } => write!(out, "task `{task}`: shortened `{field}` to {max}"),
            Self::DurationDropped { task } => write!(out, "task `{task}`: dropped a duration below zero"),
            Self::TasksCut { from, to } => write!(out, "cut the plan from {from} tasks to {to}, the most allowed"),
        }
    }
}

impl Serialize for Repair {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Makes a plan of whatever is usable. An error means that no task was.
pub fn repair(document: &Document, rules: &Rules) -> Result<Repaired, Vec<Problem>> {
    let mut repairs = Vec::new();
    let mut tasks = usable_tasks(document, &mut repairs);
    if tasks.is_empty() {
        let message = "`tasks`: the plan has no task that says anything; give at least one".to_owned();
        return Err(vec![Problem::new("empty_plan", None, message)]);
    }
    give_ids(&mut tasks, &mut repairs);
    let tasks_max = rules.tasks_max.max(1);
    if tasks.len() > tasks_max {
        repairs.push(Repair::TasksCut { from: tasks.len(), to: tasks_max });
        tasks.truncate(tasks_max);
    }
    for task in &mut tasks {
        repair_fields(task, &mut repairs);
    }
    let roles: Vec<Role> = tasks.iter().map(|task| repair_role(task, rules, &mut repairs)).collect();
    let needs = repair_dependencies(&tasks, &mut repairs);
    let planned = tasks.iter().zip(needs).zip(roles);
    let plan = Plan {
        tasks: planned.map(|((task, needs), role)| check::planned(task, needs, role)).collect(),
        preface: document.preface.clone(),
    };
    Ok(Repaired { plan, repairs })
}

/// Tasks that say something, each with a title and with its fields trimmed.
fn usable_tasks(document: &Document, repairs: &mut Vec<Repair>) -> Vec<DocumentTask> {
    let mut tasks = Vec::with_capacity(document.tasks.len());
    for (index, task) in document.tasks.iter().enumerate() {
        let mut task = task.clone();
        task.id = words::one_line(&task.id).into_owned();
        task.title = words::one_line(&task.title).into_owned();
        if task.title.is_empty() {
            task.title = words::title_from(&task.description);
            if task.title.is_empty() {
                repairs.push(Repair::BlankDropped { place: index + 1 });
                continue;
            }
            let name = if task.id.is_empty() { format!("t{}", index + 1) } else { short(&task.id) };
            repairs.push(Repair::TitleGiven { task: name });
        }
        tasks.push(task);
    }
    tasks
}

fn short(text: &str) -> String {
    words::shorten(text, check::NAME_CHARS_MAX).into_owned()
}

/// Makes ids unique. The first task with an id keeps it.
fn give_ids(tasks: &mut Vec<DocumentTask>, repairs: &mut Vec<Repair>) {
    for task in tasks.iter_mut().filter(|it| !check::is_name(&it.id)) {
        task.id = short(&task.id);
        repairs.push(Repair::Shortened { task: task.id.clone(), field: "id", max: check::NAME_CHARS_MAX });
    }
    let mut taken: HashSet<String> = tasks.iter().map(|it| it.id.clone()).collect();
    let mut first: HashMap<String, usize> = HashMap::with_capacity(tasks.len());
    let mut kept: Vec<DocumentTask> = Vec::with_capacity(tasks.len());
    for (place, mut task) in (1..).zip(std::mem::take(tasks)) {
        if task.id.is_empty() {
            task.id = free_name(&taken, |number| format!("t{}", place + number));
            taken.insert(task.id.clone());
            repairs.push(Repair::IdGiven { task: task.id.clone() });
        } else if let Some(other) = first.get(&task.id) {
            let other = &kept[*other];
            if (&other.title, &other.description) == (&task.title, &task.description) {
                repairs.push(Repair::DuplicateDropped { task: task.id });
                continue;
            }
            let to = free_name(&taken, |number| format!("{}-{}", task.id, number + 2));
            taken.insert(to.clone());
            // What it requires under its old name is the first one, unless it meant itself.
            repairs.push(Repair::Renamed { from: std::mem::replace(&mut task.id, to.clone()), to });
        }
        first.entry(task.id.clone()).or_insert(kept.len());
        kept.push(task);
    }
    *tasks = kept;
}

fn free_name(taken: &HashSet<String>, name: impl Fn(usize) -> String) -> String {
    // One of so many names is free, because fewer are taken.
    (0..=taken.len()).map(name).find(|it| !taken.contains(it)).unwrap_or_default()
}

fn repair_fields(task: &mut DocumentTask, repairs: &mut Vec<Repair>) {
    let id = task.id.clone();
    for (field, text, max) in
        [("title", &mut task.title, TITLE_CHARS_MAX), ("description", &mut task.description, DESCRIPTION_CHARS_MAX)]
    {
        if let std::borrow::Cow::Owned(shorter) = words::shorten(text, max) {
            *text = shorter;
            repairs.push(Repair::Shortened { task: id.clone(), field, max });
        }
    }
    task.success_criteria.retain(|it| !it.criterion.trim().is_empty());
    if task.success_criteria.len() > CRITERIA_MAX {
        task.success_criteria.truncate(CRITERIA_MAX);
        repairs.push(Repair::Shortened { task: id.clone(), field: "success_criteria", max: CRITERIA_MAX });
    }
    if task.duration.is_some_and(|it| !check::is_duration(it)) {
        task.duration = None;
        repairs.push(Repair::DurationDropped { task: id });
    }
}

fn repair_role(task: &DocumentTask, rules: &Rules, repairs: &mut Vec<Repair>) -> Role {
    let Some(name) = task.role.as_deref().map(str::trim).filter(|it| !it.is_empty()) else {
        return rules.default_role.clone();
    };
    if let Some(role) = rules.roles.iter().find(|it| it.as_str() == name) {
        return role.clone();
    }
    if rules.roles_open && check::is_name(name) {
        return Role::from(name);
    }
    let near = roles::nearest(name, &rules.roles);
    let to = near.unwrap_or(&rules.default_role).clone();
    // Only the case was different: nothing to tell.
    if !to.as_str().eq_ignore_ascii_case(name) {
        let from = words::one_line(&words::shorten(name, 40)).into_owned();
        repairs.push(Repair::RoleReplaced { task: task.id.clone(), from, to: to.clone(), is_near: near.is_some() });
    }
    to
}

fn repair_dependencies(tasks: &[DocumentTask], repairs: &mut Vec<Repair>) -> Vec<Vec<u32>> {
    let mut by_id: HashMap<&str, u32> = HashMap::with_capacity(tasks.len());
    let mut by_fold: HashMap<String, Option<u32>> = HashMap::with_capacity(tasks.len());
    for (index, task) in (0_u32..).zip(tasks) {
        by_id.entry(&task.id).or_insert(index);
        // Two ids that fold to the same are not told apart.
        by_fold.entry(words::fold(&task.id)).and_modify(|it| *it = None).or_insert(Some(index));
    }
    let id = |index: u32| tasks.get(index as usize).map_or("", |it| it.id.as_str());
    let mut needs: Vec<Vec<u32>> = Vec::with_capacity(tasks.len());
    for (index, task) in (0_u32..).zip(tasks) {
        let mut list: Vec<u32> = Vec::new();
        let mut seen = HashSet::new();
        for written in &task.depends_on {
            let written = written.trim();
            let found = by_id.get(written).copied().or_else(|| {
                let index = by_fold.get(&words::fold(written)).copied().flatten()?;
                let from = words::shorten(written, 40).into_owned();
                repairs.push(Repair::DependencyRead { task: task.id.clone(), from, to: id(index).to_owned() });
                Some(index)
            });
            match found {
                Some(need) if need == index => repairs.push(Repair::SelfDependencyDropped { task: task.id.clone() }),
                Some(need) if seen.insert(need) => list.push(need),
                Some(_) => {}
                None => {
                    let need = words::one_line(&words::shorten(written, 40)).into_owned();
                    repairs.push(Repair::UnknownDependencyDropped { task: task.id.clone(), need });
                }
            }
        }
        needs.push(list);
    }
    for closing in cycle::closing(&needs) {
        needs[closing.task as usize].retain(|it| *it != closing.need);
        let (task, need) = (id(closing.task).to_owned(), id(closing.need).to_owned());
        repairs.push(Repair::CycleCut { task, need, path: check::arrows(&closing, id) });
    }
    needs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules() -> Rules {
        Rules {
            roles: ["coder", "tester", "writer"].map(Role::from).to_vec(),
            default_role: "writer".into(),
            tasks_max: 8,
            roles_open: false,
        }
    }

    fn task(id: &str, title: &str, depends_on: &[&str]) -> DocumentTask {
        DocumentTask {
            id: id.to_owned(),
            title: title.to_owned(),
            depends_on: depends_on.iter().map(ToString::to_string).collect(),
            ..DocumentTask::default()
        }
    }

    /// The plan as `key<needs:role`, and the report.
    fn run(tasks: Vec<DocumentTask>) -> (String, Vec<String>) {
        let Repaired { plan, repairs } = repair(&Document { tasks, ..Document::default() }, &rules()).unwrap();
        let key = |it: &u32| plan.tasks[*it as usize].key.to_string();
        let shown: Vec<String> = plan
            .tasks
            .iter()
            .map(|it| format!("{}<{}:{}", it.key, it.depends_on.iter().map(key).collect::<Vec<_>>().join(","), it.role))
            .collect();
        (shown.join(" "), repairs.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_is_right_stays() {
        let (plan, repairs) = run(vec![task("a", "A", &[]), task("b", "B", &["a", "a"])]);
        assert_eq!((plan.as_str(), repairs.len()), ("a<:writer b<a:writer", 0));
    }

    #[test]
    fn bad_edges_are_dropped_and_told() {
        let (plan, repairs) =
            run(vec![task("t1", "A", &["t2", "t1"]), task("t2", "B", &["t1", "T3", "t99"]), task("t3", "C", &["t2"])]);
        assert_eq!(plan, "t1<t2:writer t2<t3:writer t3<:writer");
        assert_eq!(
            repairs,
            [
                "task `t1`: dropped the dependency on itself",
                "task `t2`: read the dependency `T3` as `t3`",
                "task `t2`: dropped the dependency on `t99`, which is not a task",
                "task `t2`: dropped the dependency on `t1`, which closed the cycle `t2` → `t1` → `t2`",
                "task `t3`: dropped the dependency on `t2`, which closed the cycle `t3` → `t2` → `t3`",
            ]
        );
    }

    #[test]
    fn roles_become_known_ones() {
        let with = |id: &str, role: &str| DocumentTask { role: Some(role.into()), ..task(id, "x", &[]) };
        let (plan, repairs) =
            run(vec![with("a", "Coder"), with("b", "QA"), with("c", "wizard"), with("d", " "), with("e", "codr")]);
        assert_eq!(plan, "a<:coder b<:tester c<:writer d<:writer e<:coder");
        assert_eq!(
            repairs,
            [
                "task `b`: role `QA` does not exist, the nearest is `tester`",
                "task `c`: role `wizard` does not exist, `writer` does it",
                "task `e`: role `codr` does not exist, the nearest is `coder`",
            ]
        );
    }

    #[test]
    fn ids_become_unique() {
        let (plan, repairs) = run(vec![
            task("a", "A", &[]),
            task("a", "A", &[]),
            task("a", "another A", &["a"]),
            task("a-2", "B", &[]),
            task("", "C", &["a-2"]),
            task("t5", "D", &[]),
        ]);
        assert_eq!(plan, "a<:writer a-3<a:writer a-2<:writer t6<a-2:writer t5<:writer");
        assert_eq!(
            repairs,
            [
                "task `a`: dropped a repetition",
                "task `a`: the id was taken, this one is now `a-3`",
                "task `t6`: had no id",
            ]
        );
    }

    #[test]
    fn blank_and_long_texts_are_put_right() {
        let mut described = task("b", " ", &[]);
        described.description = "Find the cause. Then fix it.".into();
        let mut long = task("c", &"ä".repeat(300), &["b"]);
        long.description = "x".repeat(9_000);
        long.duration = Some(-1.0);
        let document = Document { tasks: vec![task("a", "", &[]), described, long], ..Document::default() };
        let Repaired { plan, repairs } = repair(&document, &rules()).unwrap();
        assert_eq!(&*plan.tasks[0].title, "Find the cause");
        assert_eq!(plan.tasks[1].title.chars().count(), 200);
        assert_eq!(plan.tasks[1].description.chars().count(), 8_000);
        let codes: Vec<&str> = repairs.iter().map(Repair::code).collect();
        assert_eq!(codes, ["blank_dropped", "title_given", "shortened", "shortened", "duration_dropped"]);
        let nothing = Document { tasks: vec![task("a", "", &[])], ..Document::default() };
        assert_eq!(repair(&nothing, &rules()).unwrap_err()[0].code, "empty_plan");
    }

    #[test]
    fn too_many_tasks_are_cut() {
        let tasks = (0..20).map(|it| task(&format!("t{it}"), "x", &["t19"])).collect();
        let (plan, repairs) = run(tasks);
        assert_eq!(plan.split(' ').count(), 8);
        assert_eq!(repairs[0], "cut the plan from 20 tasks to 8, the most allowed");
        assert_eq!(repairs.len(), 9);
    }

    fn hostile_task() -> impl Strategy<Value = DocumentTask> {
        let id = prop_oneof!["[a-c]", "t[1-4]", ".{0,4}", Just(String::new())];
        let role = proptest::option::of(prop_oneof!["coder", "[a-z ]{0,12}", ".{0,80}"]);
        let text = prop_oneof!["[a-z ]{0,20}", ".{0,20}", Just(String::new())];
        let needs = proptest::collection::vec(prop_oneof!["[a-cA-C]", "t[1-4]", ".{0,3}"], 0..4);
        (id, text.clone(), text, role, needs, proptest::option::of(any::<f64>())).prop_map(
            |(id, title, description, role, depends_on, duration)| DocumentTask {
                id,
                title,
                description,
                role,
                depends_on,
                duration,
                ..DocumentTask::default()
            },
        )
    }

    proptest! {
        #![proptest_config(crate::cases::cases(1_000))]

        #[test]
        fn a_repaired_plan_passes_the_check(tasks in proptest::collection::vec(hostile_task(), 0..12)) {
            let document = Document { tasks, ..Document::default() };
            let Ok(Repaired { plan, repairs }) = repair(&document, &rules()) else { return Ok(()) };
            let again = Document {
                tasks: plan
                    .tasks
                    .iter()
                    .map(|it| DocumentTask {
                        id: it.key.to_string(),
                        title: it.title.to_string(),
                        description: it.description.to_string(),
                        role: Some(it.role.to_string()),
                        depends_on: it.depends_on.iter().map(|at| plan.tasks[*at as usize].key.to_string()).collect(),
                        success_criteria: it.success_criteria.clone(),
                        priority: Some(it.priority),
                        duration: it.duration,
                        times: it.times,
                        place: None,
                    })
                    .collect(),
                ..Document::default()
            };
            prop_assert_eq!(check(&again, &rules()), Ok(plan.clone()));
            prop_assert_eq!(repair(&document, &rules()), Ok(Repaired { plan: plan.clone(), repairs: repairs.clone() }));
            // A document that passes the check is not changed.
            if let Ok(strict) = check(&document, &rules()) {
                prop_assert_eq!(&strict, &plan);
                prop_assert!(repairs.is_empty(), "{:?}", repairs);
            }
        }
    }
}
