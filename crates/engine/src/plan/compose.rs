//! Composite documents: tasks that hold sub-tasks, in place or in another document, made into one flat list.
//!
//! A sub-task is called by the ids above it and its own, with points between: `review.read`. What it requires is looked up
//! among its neighbours first, then further out. Who requires a task with sub-tasks requires those of them that no other of
//! them requires; what such a task requires, each of its sub-tasks does.
//!
//! **Invariant:** a document without sub-tasks and links is passed on as it is.
//! **Invariant:** at most [`DEPTH_MAX`] levels and [`FILE_TASKS_MAX`] tasks, however documents link each other.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{
    Document, FILE_TASKS_MAX, Problem,
    document::{self, name_of, needs_key, shown},
    words,
};

/// Levels of tasks at most.
const DEPTH_MAX: usize = 8;
/// Characters of what is told to a sub-task about the task it is part of.
const ABOVE_CHARS_MAX: usize = 2_000;

/// Documents that link each other, read beforehand.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// What each document holds, by its name.
    pub documents: HashMap<String, Value>,
    /// Where a link leads: the name of the document that has it, and its text → the name of another, or why not.
    pub links: HashMap<(String, String), Result<String, String>>,
}

/// Reads a document with all that it links to.
pub fn compose(entry: &str, sources: &Sources) -> Result<Document, Vec<Problem>> {
    match sources.documents.get(entry) {
        Some(value) => of_value(entry, value, sources),
        None => of_value(entry, &Value::Null, sources),
    }
}

pub(super) fn of_value(entry: &str, value: &Value, sources: &Sources) -> Result<Document, Vec<Problem>> {
    let is_flat = tasks_of(value).iter().all(|it| !is_composite(it));
    if is_flat {
        return document::read(value, &[], Vec::new());
    }
    let mut tree = Tree { sources, nodes: Vec::new(), by_name: HashMap::new(), problems: Vec::new(), is_full: false };
    let scope =
        Scope { above: None, path: String::new(), document: entry.to_owned(), open: vec![entry.to_owned()], depth: 1 };
    tree.list(tasks_of(value), &scope);
    let (tasks, places) = tree.flatten();
    let mut flat = value.as_object().cloned().unwrap_or_default();
    flat.insert("tasks".to_owned(), Value::Array(tasks));
    document::read(&Value::Object(flat), &places, tree.problems)
}

/// The links of a document, in its order.
pub fn links(value: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    let mut stack: Vec<&Value> = tasks_of(value).iter().rev().collect();
    while let Some(task) = stack.pop() {
        found.extend(task.get("document").and_then(Value::as_str));
        stack.extend(tasks_of(task).iter().rev());
    }
    found
}

fn tasks_of(value: &Value) -> &[Value] {
    value.get("tasks").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn is_composite(task: &Value) -> bool {
    ["tasks", "document"].iter().any(|it| task.get(it).is_some_and(|it| !it.is_null()))
}

/// Where a list of tasks stands.
struct Scope {
    /// The node that holds the list.
    above: Option<usize>,
    /// Its path within its document.
    path: String,
    document: String,
    /// The documents that are being read, the entry first.
    open: Vec<String>,
    depth: usize,
}

struct Node {
    above: Option<usize>,
    /// With the ids above it.
    name: String,
    /// Where it stands, as people see it.
    place: String,
    value: Map<String, Value>,
    children: Vec<usize>,
    is_leaf: bool,
    /// The nodes it names in `depends_on`.
    needs: Vec<usize>,
}

struct Tree<'a> {
    sources: &'a Sources,
    /// Each before its children.
    nodes: Vec<Node>,
    by_name: HashMap<String, usize>,
    problems: Vec<Problem>,
    is_full: bool,
}

impl Tree<'_> {
    fn problem(&mut self, code: &'static str, task: &str, message: String) {
        self.problems.push(Problem::new(code, Some(task), message));
    }

    fn list(&mut self, tasks: &[Value], scope: &Scope) {
        for (index, task) in tasks.iter().enumerate() {
            let path = format!("{}tasks[{index}]", scope.path);
            let is_entry = scope.open.len() == 1;
            let place = if is_entry { path.clone() } else { format!("{}: {path}", scope.document) };
            self.task(task, &path, place, scope);
        }
    }

    fn task(&mut self, task: &Value, path: &str, place: String, scope: &Scope) {
        if self.nodes.len() >= FILE_TASKS_MAX {
            if !self.is_full {
                self.is_full = true;
                let message = format!("the plan has more than {FILE_TASKS_MAX} tasks");
                self.problem("too_many_tasks", "", message);
            }
            return;
        }
        let Value::Object(map) = task else {
            let allowed = "a task is an object with `id` and `title` or `description`";
            self.problem("invalid_field", "", format!("`{place}`: {} is not allowed: {allowed}", shown(task)));
            return;
        };
        let id = map.get("id").and_then(name_of).unwrap_or_default();
        let name = match scope.above {
            Some(above) if !id.is_empty() => format!("{}.{id}", self.nodes[above].name),
            Some(_) | None => id.clone(),
        };
        let at = self.nodes.len();
        let is_leaf = !is_composite(task);
        let others = scope.above.map(|it| &self.nodes[it].children);
        let is_first = !self.by_name.contains_key(&name);
        if !is_leaf && id.is_empty() {
            let message = format!("`{place}.id` is missing; a task with sub-tasks is named by it");
            self.problem("missing_id", "", message);
        } else if !is_first && (!is_leaf || others.is_some_and(|it| it.iter().any(|it| !self.nodes[*it].is_leaf))) {
            let message = format!("`{place}.id`: `{}` is there already; ids are unique", words::shorten(&name, 60));
            self.problem("duplicate_id", &name, message);
        }
        if is_first && !name.is_empty() {
            self.by_name.insert(name.clone(), at);
        }
        if let Some(above) = scope.above {
            self.nodes[above].children.push(at);
        }
        self.nodes.push(Node {
            above: scope.above,
            name,
            place,
            value: map.clone(),
            children: Vec::new(),
            is_leaf,
            needs: Vec::new(),
        });
        if !is_leaf {
            self.composite(at, task, path, scope);
        }
    }

    fn composite(&mut self, at: usize, task: &Value, path: &str, scope: &Scope) {
        let (name, place) = (self.nodes[at].name.clone(), self.nodes[at].place.clone());
        self.check_keys(at, &name, &place);
        let (inner, link) =
            (task.get("tasks").filter(|it| !it.is_null()), task.get("document").filter(|it| !it.is_null()));
        if scope.depth >= DEPTH_MAX {
            let message = format!("`{place}`: sub-tasks are {DEPTH_MAX} levels deep at most");
            return self.problem("too_deep", &name, message);
        }
        match (inner, link) {
            (Some(_), Some(_)) => {
                let message = format!("`{place}` has `tasks` and `document`; give one of them");
                self.problem("invalid_field", &name, message);
            }
            (Some(Value::Array(tasks)), None) if !tasks.is_empty() => {
                let (document, open) = (scope.document.clone(), scope.open.clone());
                self.list(
                    tasks,
                    &Scope { above: Some(at), path: format!("{path}."), document, open, depth: scope.depth + 1 },
                );
            }
            (Some(Value::Array(_)), None) => {
                self.problem("empty_plan", &name, format!("`{place}.tasks`: there is no sub-task; give at least one"));
            }
            (Some(other), None) => {
                let message = format!("`{place}.tasks`: {} is not allowed: a list of tasks", shown(other));
                self.problem("invalid_field", &name, message);
            }
            (None, Some(Value::String(link))) => self.linked(at, link, &name, &place, scope),
            (None, Some(other)) => {
                let message = format!(
                    "`{place}.document`: {} is not allowed: a relative path or a `file://` address",
                    shown(other)
                );
                self.problem("invalid_field", &name, message);
            }
            (None, None) => {}
        }
    }

    fn linked(&mut self, at: usize, link: &str, name: &str, place: &str, scope: &Scope) {
        let link_shown = words::shorten(link, 80).into_owned();
        let refuse = |reason: &str| format!("`{place}.document`: `{link_shown}` {reason}");
        let sources = self.sources;
        let target = match sources.links.get(&(scope.document.clone(), link.to_owned())) {
            Some(Ok(target)) => target,
            Some(Err(reason)) => return self.problem("invalid_link", name, refuse(reason)),
            None => {
                return self.problem(
                    "invalid_link",
                    name,
                    refuse("can not be followed from here: only plan files link"),
                );
            }
        };
        if let Some(from) = scope.open.iter().position(|it| it == target) {
            let round: Vec<String> =
                scope.open[from..].iter().chain([target]).map(|it| format!("`{}`", words::shorten(it, 80))).collect();
            let reason = format!("closes a circle of documents: {}", round.join(" → "));
            return self.problem("link_cycle", name, refuse(&reason));
        }
        let Some(value) = sources.documents.get(target) else {
            return self.problem("invalid_link", name, refuse("was not read"));
        };
        match value.get("tasks") {
            Some(Value::Array(tasks)) if !tasks.is_empty() => {
                let title = value.get("goal").and_then(Value::as_str);
                if let (Some(title), None) = (title, self.nodes[at].value.get("title")) {
                    self.nodes[at].value.insert("title".to_owned(), title.into());
                }
                let open = scope.open.iter().chain([target]).cloned().collect();
                let depth = scope.depth + 1;
                self.list(
                    tasks,
                    &Scope { above: Some(at), path: String::new(), document: target.clone(), open, depth },
                );
            }
            _ => self.problem("empty_plan", name, refuse("has no task")),
        }
    }

    /// A task with sub-tasks is done when they are: it has no work, no criteria and no duration of its own.
    fn check_keys(&mut self, at: usize, name: &str, place: &str) {
        const KNOWN: [&str; 9] =
            ["id", "title", "description", "role", "depends_on", "deps", "priority", "tasks", "document"];
        let keys: Vec<String> =
            self.nodes[at].value.keys().filter(|it| !KNOWN.contains(&it.as_str())).cloned().collect();
        for key in keys {
            let key = words::shorten(&key, 40);
            let message = format!("`{place}.{key}` is not allowed on a task with sub-tasks; give it to them");
            self.problem("unknown_field", name, message);
        }
    }

    /// The leaves as tasks of a flat document, and their places.
    fn flatten(&mut self) -> (Vec<Value>, Vec<String>) {
        for at in 0..self.nodes.len() {
            self.resolve(at);
        }
        let covered = self.covered();
        let (mut tasks, mut places) = (Vec::new(), Vec::new());
        for at in 0..self.nodes.len() {
            if self.nodes[at].is_leaf {
                tasks.push(Value::Object(self.leaf(at, &covered)));
                places.push(self.nodes[at].place.clone());
            }
        }
        (tasks, places)
    }

    /// Looks up what a task requires; what is not there is told here.
    fn resolve(&mut self, at: usize) {
        let key = needs_key(&self.nodes[at].value);
        let Some(Value::Array(list)) = self.nodes[at].value.get(key).cloned() else {
            if self.nodes[at].value.get(key).is_some_and(|it| !it.is_null()) && !self.nodes[at].is_leaf {
                let (name, place) = (self.nodes[at].name.clone(), self.nodes[at].place.clone());
                self.problem("invalid_field", &name, format!("`{place}.{key}` is a list of task ids"));
            }
            return;
        };
        let (mut needs, mut strange) = (Vec::new(), Vec::new());
        for (index, written) in list.into_iter().enumerate() {
            let Some(id) = name_of(&written) else {
                strange.push(written);
                continue;
            };
            let (name, place) = (self.nodes[at].name.clone(), format!("{}.{key}[{index}]", self.nodes[at].place));
            let id_shown = words::shorten(&id, 40).into_owned();
            match self.lookup(at, &id) {
                Some(need) if self.is_within(at, need) => {
                    let reason = if need == at { "requires itself" } else { "is what this task is part of" };
                    self.problem("self_dependency", &name, format!("`{place}`: `{id_shown}` {reason}; drop it"));
                }
                Some(need) => needs.push(need),
                None => {
                    let hint = words::nearest(&id, self.by_name.keys().map(String::as_str).filter(|it| *it != name));
                    let hint = hint.map(|it| format!("; did you mean `{it}`?")).unwrap_or_default();
                    let message = format!("`{place}`: `{id_shown}` is not the id of a task{hint}");
                    self.problem("unknown_dependency", &name, message);
                }
            }
        }
        self.nodes[at].needs = needs;
        // What is no id at all is left for the strict reading to refuse.
        if self.nodes[at].is_leaf {
            self.nodes[at].value.insert(key.to_owned(), Value::Array(strange));
        }
    }

    /// The task of this name, looked for from the neighbours outwards.
    fn lookup(&self, at: usize, id: &str) -> Option<usize> {
        let mut above = self.nodes[at].above;
        while let Some(scope) = above {
            if let Some(found) = self.by_name.get(&format!("{}.{id}", self.nodes[scope].name)) {
                return Some(*found);
            }
            above = self.nodes[scope].above;
        }
        self.by_name.get(id).copied()
    }

    /// Whether `at` is `other` or part of it.
    fn is_within(&self, at: usize, other: usize) -> bool {
        self.above(at).any(|it| it == other)
    }

    /// The task and all it is part of.
    fn above(&self, at: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(at), |it| self.nodes[*it].above)
    }

    /// For each task the tasks it is part of within which somebody requires it.
    fn covered(&self) -> HashSet<(usize, usize)> {
        let mut covered = HashSet::new();
        for (at, node) in self.nodes.iter().enumerate() {
            for need in &node.needs {
                covered.extend(
                    self.above(at).filter(|it| *it != *need && self.is_within(*need, *it)).map(|it| (it, *need)),
                );
            }
        }
        covered
    }

    /// The leaves of a task that nothing else in it requires.
    fn ends(&self, of: usize, covered: &HashSet<(usize, usize)>) -> Vec<usize> {
        let (mut ends, mut stack) = (Vec::new(), vec![of]);
        while let Some(at) = stack.pop() {
            if covered.contains(&(of, at)) {
                continue;
            }
            if self.nodes[at].is_leaf {
                ends.push(at);
            }
            stack.extend(self.nodes[at].children.iter().rev());
        }
        ends
    }

    fn leaf(&self, at: usize, covered: &HashSet<(usize, usize)>) -> Map<String, Value> {
        let node = &self.nodes[at];
        let mut value = node.value.clone();
        if !node.name.is_empty() && value.get("id").and_then(name_of).is_some_and(|it| !it.is_empty()) {
            value.insert("id".to_owned(), node.name.clone().into());
        }
        let needs = self.above(at).flat_map(|it| &self.nodes[it].needs).flat_map(|it| self.ends(*it, covered));
        let mut seen = HashSet::new();
        let needs = needs.filter(|it| seen.insert(*it)).map(|it| Value::from(self.nodes[it].name.clone()));
        let needs: Vec<Value> = needs.collect();
        match value.get_mut(needs_key(&node.value)) {
            Some(Value::Array(list)) => list.extend(needs),
            Some(Value::Null) | None => _ = value.insert("depends_on".to_owned(), needs.into()),
            Some(_) => {}
        }
        for above in self.above(at).skip(1) {
            for key in ["role", "priority"] {
                let inherited = self.nodes[above].value.get(key).filter(|it| !it.is_null());
                if let (Some(inherited), true) = (inherited, value.get(key).is_none_or(Value::is_null)) {
                    value.insert(key.to_owned(), inherited.clone());
                }
            }
        }
        self.tell_what_is_above(at, &mut value);
        value
    }

    /// A specialist sees one task only, so each says what it is part of.
    fn tell_what_is_above(&self, at: usize, value: &mut Map<String, Value>) {
        let text = |map: &Map<String, Value>, key: &str| {
            map.get(key).and_then(Value::as_str).map(str::trim).filter(|it| !it.is_empty()).map(str::to_owned)
        };
        let Some(own) = text(value, "description").or_else(|| text(value, "title")) else { return };
        let mut above = String::new();
        for it in self.above(at).skip(1) {
            let map = &self.nodes[it].value;
            let lines: Vec<String> = [text(map, "title"), text(map, "description")].into_iter().flatten().collect();
            if !lines.is_empty() {
                above.push_str("\n\nThis is part of: ");
                above.push_str(&lines.join(". "));
            }
        }
        if !above.is_empty() {
            // A title that is made from the description must not speak of what is above.
            if text(value, "title").is_none() && !value.contains_key("title") {
                value.insert("title".to_owned(), words::title_from(&own).into());
            }
            value.insert("description".to_owned(), format!("{own}{}", words::shorten(&above, ABOVE_CHARS_MAX)).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::{Rules, check, document_from_value};

    /// The plan as `id<needs`.
    fn shape(document: &Document) -> Vec<String> {
        let plan = check(document, &Rules::open()).unwrap();
        let key = |it: &u32| plan.tasks[*it as usize].key.to_string();
        let line = |it: &crate::plan::Planned| {
            format!("{}<{}", it.key, it.depends_on.iter().map(key).collect::<Vec<_>>().join(","))
        };
        plan.tasks.iter().map(line).collect()
    }

    fn problems(result: Result<Document, Vec<Problem>>) -> Vec<String> {
        result.unwrap_err().iter().map(|it| format!("{} [{}]", it.message, it.code)).collect()
    }

    fn sources(documents: &[(&str, Value)], links: &[(&str, &str, Result<&str, &str>)]) -> Sources {
        let owned = |it: &Result<&str, &str>| it.map(str::to_owned).map_err(str::to_owned);
        Sources {
            documents: documents.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            links: links.iter().map(|(from, link, to)| (((*from).to_owned(), (*link).to_owned()), owned(to))).collect(),
        }
    }

    #[test]
    fn sub_tasks_become_tasks() {
        let document = document_from_value(&json!({"tasks": [
            {"id": "read", "title": "Read"},
            {"id": "build", "title": "Build it", "description": "In Rust.", "role": "coder", "priority": 8, "depends_on": ["read"],
             "tasks": [
                {"id": "parse", "title": "Parse"},
                {"id": "emit", "title": "Emit", "depends_on": ["parse"], "role": "tester"},
                {"id": "docs", "title": "Docs", "depends_on": ["read"]},
             ]},
            {"id": "ship", "title": "Ship", "depends_on": ["build", "build.parse"]},
        ]}))
        .unwrap();
        assert_eq!(
            shape(&document),
            [
                "read<",
                "build.parse<read",
                "build.emit<build.parse,read",
                "build.docs<read",
                "ship<build.emit,build.docs,build.parse"
            ]
        );
        let [_, parse, emit, _, ship] = &document.tasks[..] else { panic!() };
        assert_eq!((parse.role.as_deref(), parse.priority.unwrap().get()), (Some("coder"), 8));
        assert_eq!(emit.role.as_deref(), Some("tester"));
        assert_eq!(parse.description, "Parse\n\nThis is part of: Build it. In Rust.");
        assert_eq!((parse.title.as_str(), ship.description.as_str()), ("Parse", ""));
    }

    #[test]
    fn names_are_looked_up_from_the_inside_out() {
        let document = document_from_value(&json!({"tasks": [
            {"id": "a", "title": "A"},
            {"id": "b", "tasks": [
                {"id": "a", "title": "Inner"},
                {"id": "c", "title": "C", "depends_on": ["a"]},
                {"id": "d", "tasks": [{"id": "e", "title": "E", "depends_on": ["c"]}, {"id": "f", "title": "F", "depends_on": ["e"]}]},
            ]},
            {"id": "g", "title": "G", "depends_on": ["b"]},
        ]}))
        .unwrap();
        assert_eq!(shape(&document), ["a<", "b.a<", "b.c<b.a", "b.d.e<b.c", "b.d.f<b.d.e", "g<b.d.f"]);
    }

    #[test]
    fn documents_link_documents() {
        let main = json!({"goal": "All", "tasks": [
            {"id": "r", "document": "parts/review.yaml"},
            {"id": "s", "document": "parts/review.yaml", "depends_on": ["r"]},
        ]});
        let part = json!({"goal": "Review", "tasks": [{"id": "x", "title": "X"}, {"id": "y", "title": "Y", "depends_on": ["x"]}]});
        assert_eq!(links(&main), ["parts/review.yaml", "parts/review.yaml"]);
        let sources = sources(
            &[("main.yaml", main), ("parts/review.yaml", part)],
            &[("main.yaml", "parts/review.yaml", Ok("parts/review.yaml"))],
        );
        let document = compose("main.yaml", &sources).unwrap();
        assert_eq!(shape(&document), ["r.x<", "r.y<r.x", "s.x<r.y", "s.y<s.x,r.y"]);
        assert!(
            document.tasks[0].description.ends_with("This is part of: Review"),
            "{}",
            document.tasks[0].description
        );
    }

    #[test]
    fn circles_and_bad_links_are_refused() {
        let to = |link: &str| json!({"tasks": [{"id": "a", "document": link}]});
        let all = sources(
            &[("m", to("n")), ("n", to("o")), ("o", to("n"))],
            &[("m", "n", Ok("n")), ("n", "o", Ok("o")), ("o", "n", Ok("n"))],
        );
        let found = problems(compose("m", &all));
        assert!(
            found[0].contains("`o: tasks[0].document`: `n` closes a circle of documents: `n` → `o` → `n`"),
            "{found:?}"
        );
        assert!(found[0].ends_with("[link_cycle]"));
        let outside = sources(&[("m", to("../x"))], &[("m", "../x", Err("is outside"))]);
        assert!(problems(compose("m", &outside))[0].contains("`../x` is outside [invalid_link]"));
        assert!(problems(document_from_value(&to("x")))[0].contains("only plan files link"));
    }

    #[test]
    fn all_problems_come_at_once_with_their_place() {
        let part = json!({"tasks": [{"id": "x", "title": "X", "depends_on": ["nope"], "duration": -1}]});
        let main = json!({"tasks": [
            {"id": "a", "title": "A", "duration": 5, "tasks": [
                {"id": "b", "title": "B", "depends_on": ["a"]},
                {"id": "c", "title": "C", "depends_on": ["d"], "colour": "red"},
                {"id": "d", "title": "D", "depends_on": ["c"]},
                {"id": "d", "title": " "},
            ]},
            {"id": "e", "tasks": [], "document": "p"},
            {"id": "f", "tasks": []},
            {"tasks": [{"id": "g", "title": "G"}]},
            {"id": "p", "document": "p"},
        ]});
        let sources = sources(&[("m", main), ("p", part)], &[("m", "p", Ok("p"))]);
        let found = problems(compose("m", &sources));
        for wanted in [
            "`tasks[0].duration` is not allowed on a task with sub-tasks",
            "`tasks[0].tasks[0].depends_on[0]`: `a` is what this task is part of; drop it [self_dependency]",
            "`tasks[0].tasks[1].colour` is not a known key",
            "`a.d` → `a.c` → `a.d`",
            "`tasks[0].tasks[3].id`: `a.d` is the id of `tasks[0].tasks[2]` already",
            "`tasks[0].tasks[3].title` is blank",
            "`tasks[1]` has `tasks` and `document`",
            "`tasks[2].tasks`: there is no sub-task",
            "`tasks[3].id` is missing; a task with sub-tasks",
            "`p: tasks[0].depends_on[0]`: `nope` is not the id of a task",
            "`p: tasks[0].duration`: -1 is not allowed",
        ] {
            assert_eq!(found.iter().filter(|it| it.contains(wanted)).count(), 1, "{wanted}: {found:#?}");
        }
        assert_eq!(found.len(), 11, "{found:#?}");
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let mut task = json!({"id": "x", "title": "X"});
        for _ in 0..20 {
            task = json!({"id": "x", "tasks": [task]});
        }
        assert!(problems(document_from_value(&json!({"tasks": [task]})))[0].contains("8 levels deep"));
        // Each of seven documents links the next one twenty times: a billion tasks, if they were all made.
        let names: Vec<String> = (0..8).map(|it| format!("d{it}")).collect();
        let documents: Vec<(&str, Value)> = names
            .iter()
            .enumerate()
            .map(|(level, name)| {
                let task = |it: usize| match names.get(level + 1).filter(|_| level < 7) {
                    Some(next) => json!({"id": format!("t{it}"), "document": next}),
                    None => json!({"id": format!("t{it}"), "title": "T"}),
                };
                (name.as_str(), json!({"tasks": (0..20).map(task).collect::<Vec<_>>()}))
            })
            .collect();
        let links: Vec<(&str, &str, Result<&str, &str>)> =
            names.windows(2).map(|it| (it[0].as_str(), it[1].as_str(), Ok(it[1].as_str()))).collect();
        let found = compose("d0", &sources(&documents, &links)).unwrap_err();
        assert!(found.iter().any(|it| it.code == "too_many_tasks"));
    }
}
