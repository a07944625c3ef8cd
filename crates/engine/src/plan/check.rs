//! The strict way from a document to a plan.
//!
//! **Invariant:** nothing is changed silently but blanks around words; all problems are found in one go.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crewline_types::Role;

use super::{
    Document, DocumentTask, Plan, Planned, Problem, Rules, Times,
    cycle::{self, Closing},
    document::Bad,
    words,
};

/// Characters of an id or a role at most: they become file names, labels and columns of a table.
pub(super) const NAME_CHARS_MAX: usize = 64;
/// Seconds of a task at most.
const SECONDS_MAX: f64 = 1e12;
/// A suggestion looks at every id, so only the first problems get one.
const SUGGESTIONS_MAX: usize = 20;

/// Makes a plan of a document that has no problem.
pub fn check(document: &Document, rules: &Rules) -> Result<Plan, Vec<Problem>> {
    let mut problems = Vec::new();
    if document.tasks.len() > rules.tasks_max {
        let message = format!("the plan has {} tasks; at most {} are allowed", document.tasks.len(), rules.tasks_max);
        problems.push(Problem::new("too_many_tasks", None, message));
    }
    let needs = structure(document, &Bad::default(), &mut problems);
    let mut roles = Vec::with_capacity(document.tasks.len());
    for (index, task) in document.tasks.iter().enumerate() {
        roles.push(role(index, task, rules).unwrap_or_else(|problem| {
            problems.push(problem);
            rules.default_role.clone()
        }));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let tasks = document.tasks.iter().zip(needs).zip(roles);
    Ok(Plan {
        tasks: tasks.map(|((task, depends_on), role)| planned(task, depends_on, role)).collect(),
        preface: document.preface.clone(),
    })
}

/// A task that has no problem any more.
pub(super) fn planned(task: &DocumentTask, depends_on: Vec<u32>, role: Role) -> Planned {
    let title: Arc<str> = words::one_line(&task.title).into();
    let description = task.description.trim();
    Planned {
        key: task.id.trim().into(),
        description: if description.is_empty() { Arc::clone(&title) } else { description.into() },
        title,
        role,
        depends_on,
        success_criteria: task.success_criteria.clone(),
        priority: task.priority.unwrap_or_default(),
        duration: task.duration,
        times: task.times,
    }
}

fn role(index: usize, task: &DocumentTask, rules: &Rules) -> Result<Role, Problem> {
    let Some(name) = task.role.as_deref().map(str::trim).filter(|it| !it.is_empty()) else {
        return Ok(rules.default_role.clone());
    };
    if let Some(role) = rules.roles.iter().find(|it| it.as_str() == name) {
        return Ok(role.clone());
    }
    let shown = words::shorten(name, 40);
    if rules.roles_open {
        if is_name(name) {
            return Ok(Role::from(name));
        }
        let message =
            format!("`{}.role`: `{shown}` is not allowed: one line of at most 64 characters", task.place(index));
        return Err(Problem::new("invalid_field", Some(&task.id), message));
    }
    let known: Vec<&str> = rules.roles.iter().map(Role::as_str).collect();
    let hint = words::nearest(name, known.iter().copied()).map(|it| format!("; did you mean `{it}`?"));
    let message = format!(
        "`{}.role`: `{shown}` is not a role{} (known: {})",
        task.place(index),
        hint.unwrap_or_default(),
        known.iter().map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ")
    );
    Err(Problem::new("unknown_role", Some(&task.id), message))
}

pub(super) fn is_duration(seconds: f64) -> bool {
    (0.0..=SECONDS_MAX).contains(&seconds)
}

pub(super) fn is_name(text: &str) -> bool {
    !text.chars().any(char::is_control) && (text.len() <= NAME_CHARS_MAX || text.chars().count() <= NAME_CHARS_MAX)
}

/// Reports what is wrong whatever the rules are, and gives the dependencies as indexes.
pub(super) fn structure(document: &Document, bad: &Bad, problems: &mut Vec<Problem>) -> Vec<Vec<u32>> {
    let tasks = &document.tasks;
    if tasks.is_empty() && !bad.tasks {
        problems.push(Problem::new("empty_plan", None, "`tasks`: the plan has no task; give at least one".to_owned()));
    }
    let mut first: HashMap<&str, u32> = HashMap::with_capacity(tasks.len());
    for (index, task) in (0_u32..).zip(tasks) {
        let id = task.id.trim();
        let place = index as usize;
        let at = task.place(place);
        if id.is_empty() {
            if !bad.ids.contains(&place) {
                let message = format!("`{at}.id` is missing; give each task an id such as `t{}`", index + 1);
                problems.push(Problem::new("missing_id", None, message));
            }
        } else if !is_name(id) {
            let shown = words::shorten(id, 40);
            let message =
                format!("`{at}.id`: `{shown}` is not allowed: one line of at most {NAME_CHARS_MAX} characters");
            problems.push(Problem::new("invalid_field", Some(id), message));
        } else if let Some(other) = first.get(id) {
            let message = format!(
                "`{at}.id`: `{id}` is the id of `{}` already; ids are unique",
                tasks[*other as usize].place(*other as usize)
            );
            problems.push(Problem::new("duplicate_id", Some(id), message));
        }
        if !id.is_empty() {
            first.entry(id).or_insert(index);
        }
        if words::one_line(&task.title).is_empty() && !bad.titles.contains(&place) {
            let message = format!("`{at}.title` is blank; say in one line what the task makes");
            problems.push(Problem::new("blank_title", Some(id), message));
        }
        if let Some(duration) = task.duration.filter(|it| !is_duration(*it)) {
            let code =
                if duration > SECONDS_MAX && duration.is_finite() { "invalid_field" } else { "negative_duration" };
            let message = format!("`{at}.duration`: {duration} is not allowed: seconds, 0 to 10¹²");
            problems.push(Problem::new(code, Some(id), message));
        }
        if let Times { planned_for: Some(begin), deadline: Some(end) } = task.times
            && end < begin
        {
            let message = format!("`{at}.deadline`: {end} is before its `planned_for`, {begin}");
            problems.push(Problem::new("invalid_field", Some(id), message));
        }
    }
    let needs = edges(tasks, &first, bad, problems);
    for closing in cycle::closing(&needs) {
        problems.push(cycle_problem(tasks, &closing));
    }
    needs
}

fn edges(tasks: &[DocumentTask], first: &HashMap<&str, u32>, bad: &Bad, problems: &mut Vec<Problem>) -> Vec<Vec<u32>> {
    let mut suggestions = 0;
    let mut needs = Vec::with_capacity(tasks.len());
    let mut seen = HashSet::new();
    for (index, task) in (0_u32..).zip(tasks) {
        let at_task = task.place(index as usize);
        let mut list = Vec::with_capacity(task.depends_on.len());
        seen.clear();
        for (place, need) in task.depends_on.iter().enumerate() {
            let need = need.trim();
            let is_self = need == task.id.trim() && !need.is_empty();
            match first.get(need) {
                _ if is_self => {
                    let message = format!("`{at_task}.depends_on[{place}]`: `{need}` requires itself; drop it");
                    problems.push(Problem::new("self_dependency", Some(&task.id), message));
                }
                Some(at) => {
                    if seen.insert(*at) {
                        list.push(*at);
                    }
                }
                None if bad.needs.contains(&(index as usize, place)) => {}
                None => {
                    suggestions += 1;
                    let ids = tasks.iter().take(if suggestions > SUGGESTIONS_MAX { 0 } else { usize::MAX });
                    let ids = ids.map(|it| it.id.trim()).filter(|it| *it != task.id.trim());
                    let hint = words::nearest(need, ids).map(|it| format!("; did you mean `{it}`?"));
                    let message = format!(
                        "`{at_task}.depends_on[{place}]`: `{}` is not the id of a task{}",
                        words::shorten(need, 40),
                        hint.unwrap_or_default()
                    );
                    problems.push(Problem::new("unknown_dependency", Some(&task.id), message));
                }
            }
        }
        // A later task with the same id is a problem of its own; here it must not look like a circle.
        list.retain(|it| *it != index);
        needs.push(list);
    }
    needs
}

fn cycle_problem(tasks: &[DocumentTask], closing: &Closing) -> Problem {
    let id = |index: u32| tasks.get(index as usize).map_or("", |it| it.id.trim());
    let (task, need) = (id(closing.task), id(closing.need));
    let at = closing.task as usize;
    let at = tasks.get(at).map_or_else(String::new, |it| it.place(at).into_owned());
    let message = format!(
        "`{at}.depends_on`: tasks require each other in a circle: {}; drop `{need}` from the `depends_on` of `{task}`",
        arrows(closing, id)
    );
    Problem::new("cycle", Some(task), message)
}

/// The path that closes the cycle, as people see it.
pub(super) fn arrows<'a>(closing: &Closing, id: impl Fn(u32) -> &'a str) -> String {
    const STEPS_MAX: usize = 12;
    let path = &closing.path;
    let show = |it: &u32| format!("`{}`", id(*it));
    if path.len() <= STEPS_MAX {
        return path.iter().map(show).collect::<Vec<_>>().join(" → ");
    }
    let (head, tail) = (&path[..STEPS_MAX - 2], &path[path.len() - 2..]);
    let steps: Vec<String> = head
        .iter()
        .map(show)
        .chain([format!("… {} more …", path.len() - STEPS_MAX)])
        .chain(tail.iter().map(show))
        .collect();
    steps.join(" → ")
}

#[cfg(test)]
mod tests {
    use crewline_types::Timestamp;

    use super::*;

    fn rules() -> Rules {
        Rules {
            roles: vec!["coder".into(), "writer".into()],
            default_role: "writer".into(),
            tasks_max: 5,
            roles_open: false,
        }
    }

    fn task(id: &str, depends_on: &[&str]) -> DocumentTask {
        DocumentTask {
            id: id.to_owned(),
            title: format!("Do {id}"),
            depends_on: depends_on.iter().map(ToString::to_string).collect(),
            ..DocumentTask::default()
        }
    }

    fn document(tasks: Vec<DocumentTask>) -> Document {
        Document { tasks, ..Document::default() }
    }

    fn codes(tasks: Vec<DocumentTask>) -> Vec<&'static str> {
        check(&document(tasks), &rules()).unwrap_err().iter().map(|it| it.code).collect()
    }

    #[test]
    fn a_valid_document_becomes_a_plan() {
        let mut last = task(" t3 ", &["t2", "t1", "t2"]);
        last.role = Some("coder".into());
        last.description = " Details. ".into();
        let plan = check(&document(vec![task("t1", &[]), task("t2", &["t3b"]), last, task("t3b", &[])]), &rules());
        let plan = plan.unwrap();
        let [one, two, three, _] = &plan.tasks[..] else { panic!() };
        assert_eq!((&*one.key, &*one.title, &*one.description, one.role.as_str()), ("t1", "Do t1", "Do t1", "writer"));
        // A need may stand later in the document.
        assert_eq!((&two.depends_on[..], &three.depends_on[..]), (&[3][..], &[1, 0][..]));
        assert_eq!((&*three.key, &*three.description, three.role.as_str()), ("t3", "Details.", "coder"));
    }

    #[test]
    fn every_kind_of_problem_has_its_code() {
        assert_eq!(codes(vec![]), ["empty_plan"]);
        assert_eq!(codes(vec![task("a", &["b"]), task("b", &["a"])]), ["cycle"]);
        assert_eq!(codes(vec![task("a", &["a"])]), ["self_dependency"]);
        assert_eq!(codes(vec![task("a", &["z"])]), ["unknown_dependency"]);
        assert_eq!(codes(vec![task("a", &[]), task("a", &[])]), ["duplicate_id"]);
        assert_eq!(codes(vec![task("a", &[]), task("a", &["a"])]), ["duplicate_id", "self_dependency"]);
        assert_eq!(codes(vec![task(" ", &[])]), ["missing_id"]);
        assert_eq!(codes(vec![DocumentTask { title: " \n".into(), ..task("a", &[]) }]), ["blank_title"]);
        for duration in [-5.0, f64::NAN, f64::INFINITY] {
            assert_eq!(codes(vec![DocumentTask { duration: Some(duration), ..task("a", &[]) }]), ["negative_duration"]);
        }
        assert_eq!(codes(vec![DocumentTask { duration: Some(1e13), ..task("a", &[]) }]), ["invalid_field"]);
        let times = |begin, end| Times { planned_for: Some(Timestamp(begin)), deadline: Some(Timestamp(end)) };
        assert_eq!(codes(vec![DocumentTask { times: times(2, 1), ..task("a", &[]) }]), ["invalid_field"]);
        let fine = document(vec![DocumentTask { times: times(1, 1), ..task("a", &[]) }]);
        assert_eq!(check(&fine, &rules()).unwrap().tasks[0].times, times(1, 1));
        assert_eq!(codes((0..6).map(|it| task(&it.to_string(), &[])).collect()), ["too_many_tasks"]);
        assert_eq!(codes(vec![DocumentTask { role: Some("codr".into()), ..task("a", &[]) }]), ["unknown_role"]);
        assert_eq!(codes(vec![task(&"x".repeat(65), &[])]), ["invalid_field"]);
    }

    #[test]
    fn messages_name_the_place_and_the_way_out() {
        let tasks = vec![task("t1", &["t3"]), task("t2", &["t1"]), task("t3", &["t2", "t22"])];
        let problems = check(&document(tasks), &rules()).unwrap_err();
        let messages: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            messages,
            [
                "`tasks[2].depends_on[1]`: `t22` is not the id of a task; did you mean `t2`?",
                "`tasks[2].depends_on`: tasks require each other in a circle: `t3` → `t2` → `t1` → `t3`; \
                 drop `t2` from the `depends_on` of `t3`",
            ]
        );
        assert_eq!(problems[1].task.as_deref(), Some("t3"));
        let wrong = DocumentTask { role: Some("codr".into()), ..task("a", &[]) };
        assert_eq!(
            check(&document(vec![wrong]), &rules()).unwrap_err()[0].message,
            "`tasks[0].role`: `codr` is not a role; did you mean `coder`? (known: `coder`, `writer`)"
        );
    }

    #[test]
    fn plan_files_may_name_roles_of_their_own() {
        let rules = Rules { roles_open: true, ..rules() };
        let named = |role: &str| document(vec![DocumentTask { role: Some(role.into()), ..task("a", &[]) }]);
        assert_eq!(check(&named("astronomer"), &rules).unwrap().tasks[0].role.as_str(), "astronomer");
        assert_eq!(check(&named("a\nb"), &rules).unwrap_err()[0].code, "invalid_field");
    }

    #[test]
    fn a_long_cycle_is_shown_in_short() {
        let rules = Rules { tasks_max: 100, ..rules() };
        let ring = (0..100).map(|it| task(&format!("t{it}"), &[&format!("t{}", (it + 99) % 100)])).collect();
        let problems = check(&document(ring), &rules).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].message.contains("… 89 more …") && problems[0].message.len() < 300, "{}", problems[0]);
    }
}
