//! Reads the plan out of what a model said.
//!
//! Takes prose and thinking around the JSON, fences, several blocks, cut-off ends, and every shape seen from small models:
//! `{"tasks": […]}`, `{"plan": {"tasks": …}}`, `{"plan": […]}`, `{"steps": […]}`, `{"tasks": {"t1": {…}}}`, `{"t1": {…}}`,
//! a bare list, objects one after the other, a list of texts.
//!
//! **Invariant:** the first block that holds whole tasks wins; a list of mere texts is the last choice.
//! **Invariant:** a task that was cut off is left out. What a dependency can not be matched with stays as it was written.

use std::collections::HashMap;

use crewline_types::{Criterion, Priority};
use serde::Deserialize as _;
use serde_json::{Map, Value};

use super::{Document, DocumentTask, Preface, Problem, Times, document::name_of, lenient, preface, words};

/// Places in a text where a block may begin: a bound on the work that a hostile answer can cause.
const STARTS_MAX: usize = 256;
/// How deep a plan may be wrapped.
const WRAPPED_MAX: usize = 4;

const CONTAINERS: [&str; 14] = [
    "tasks", "plan", "steps", "subtasks", "tasklist", "todo", "todos", "actions", "items", "nodes", "result",
    "response", "output", "data",
];
const ID: [&str; 5] = ["id", "taskid", "key", "identifier", "number"];
const TITLE: [&str; 7] = ["title", "name", "task", "taskname", "summary", "heading", "step"];
const DESCRIPTION: [&str; 12] = [
    "description",
    "details",
    "detail",
    "instructions",
    "instruction",
    "objective",
    "prompt",
    "desc",
    "content",
    "action",
    "text",
    "goal",
];
const ROLE: [&str; 9] =
    ["role", "agent", "assignee", "owner", "assignedto", "worker", "specialist", "responsible", "assignedrole"];
const DEPENDS_ON: [&str; 10] = [
    "dependson",
    "dependencies",
    "dependency",
    "deps",
    "requires",
    "needs",
    "after",
    "prerequisites",
    "blockedby",
    "parents",
];
const CRITERIA: [&str; 5] = ["successcriteria", "acceptancecriteria", "criteria", "successcriterion", "donewhen"];
const DURATION: [&str; 3] = ["duration", "durationseconds", "seconds"];
const RULES: [&str; 3] = ["rules", "globalrules", "constraints"];
const GLOSSARY: [&str; 3] = ["glossary", "terms", "definitions"];
const DECISIONS: [&str; 2] = ["decisions", "decided"];
/// Words for no dependency.
const NOTHING: [&str; 8] = ["", "none", "null", "na", "nothing", "no", "nodependencies", "nil"];

/// Reads a model's answer. The document is not checked; [`repair`](super::repair) or [`check`](super::check) comes next.
pub fn parse_reply(text: &str) -> Result<Document, Vec<Problem>> {
    let after_thinking = ["</think>", "</thinking>", "</reasoning>"]
        .iter()
        .filter_map(|tag| text.rfind(tag).map(|at| at + tag.len()))
        .max()
        .map(|at| &text[at..]);
    let mut was_empty = false;
    for part in after_thinking.into_iter().chain([text]) {
        let scan = Scan::of(part);
        was_empty |= scan.was_empty;
        if let Some(plan) = scan.best() {
            return Ok(document(plan));
        }
    }
    let problem = if was_empty {
        Problem::new("empty_plan", None, "the answer holds an empty list of tasks; give at least one".to_owned())
    } else {
        let shown = words::one_line(&words::shorten(text.trim(), 60)).into_owned();
        let message =
            format!("the answer holds no JSON with tasks (it begins `{shown}`); answer with the JSON object only");
        Problem::new("no_plan", None, message)
    };
    Err(vec![problem])
}

/// Tasks as they were written.
#[derive(Default)]
struct Raw {
    goal: Option<String>,
    preface: Preface,
    /// With the key under which each stood, if any.
    tasks: Vec<(Option<String>, Value)>,
    /// The tasks are mere texts.
    is_texts: bool,
    /// One task by itself: others may follow as separate blocks.
    is_single: bool,
}

#[derive(Default)]
struct Scan {
    whole: Option<Raw>,
    cut: Option<Raw>,
    singles: Raw,
    texts: Option<Raw>,
    was_empty: bool,
}

impl Scan {
    fn of(text: &str) -> Self {
        let mut scan = Self::default();
        let (mut at, mut starts) = (0, 0);
        while let Some(start) = text.get(at..).and_then(|it| it.find(['{', '['])).map(|it| it + at) {
            at = start + 1;
            starts += 1;
            if starts > STARTS_MAX || scan.whole.is_some() {
                break;
            }
            let Some(parsed) = lenient::parse(text, start) else { continue };
            scan.was_empty |= is_empty_plan(&parsed.value);
            let is_cut =
                parsed.end >= text.len() && !text.trim_end().ends_with(['}', ']']) || is_cut_off(&parsed.value);
            let Some(raw) = tasks_of(&parsed.value, 0) else {
                // Something that ran to the end of the text may have been a stray bracket.
                if !is_cut {
                    at = parsed.end;
                }
                continue;
            };
            at = parsed.end;
            if raw.is_single {
                scan.singles.tasks.extend(raw.tasks);
            } else if raw.is_texts {
                scan.texts.get_or_insert(raw);
            } else if is_cut {
                scan.cut.get_or_insert(raw);
            } else {
                scan.whole = Some(raw);
            }
        }
        scan
    }

    fn best(self) -> Option<Raw> {
        let singles = Some(self.singles).filter(|it| !it.tasks.is_empty());
        self.whole.or(self.cut).or(singles).or(self.texts)
    }
}

fn is_cut_off(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.contains_key(lenient::CUT),
        Value::Array(list) => list.last().is_some_and(is_cut_off),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn is_empty_plan(value: &Value) -> bool {
    value.as_object().is_some_and(|map| {
        map.iter().any(|(key, value)| {
            CONTAINERS.contains(&words::fold(key).as_str())
                && match value {
                    Value::Array(list) => list.is_empty(),
                    Value::Object(map) => map.is_empty() || is_empty_plan(value),
                    Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
                }
        })
    })
}

fn tasks_of(value: &Value, depth: usize) -> Option<Raw> {
    if depth > WRAPPED_MAX {
        return None;
    }
    match value {
        Value::Object(map) => tasks_of_map(map, depth),
        Value::Array(list) => tasks_of_list(list, depth),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn tasks_of_map(map: &Map<String, Value>, depth: usize) -> Option<Raw> {
    let keys: Vec<(String, &Value)> = map.iter().map(|(key, value)| (words::fold(key), value)).collect();
    let goal = || find(&keys, &["goal", "objective"]).and_then(Value::as_str).map(str::to_owned);
    for container in CONTAINERS {
        let inner = find(&keys, &[container]).and_then(|it| tasks_of(it, depth + 1));
        if let Some(mut inner) = inner {
            inner.goal = inner.goal.or_else(goal);
            if inner.preface.is_empty() {
                inner.preface = preface_of(&keys);
            }
            inner.is_single = false;
            return Some(inner);
        }
    }
    let named = || map.iter().filter(|(key, value)| is_task(value) && key.as_str() != lenient::CUT && !is_preface(key));
    let count = named().count();
    let is_numbered = named().any(|(key, _)| number_in(key).is_some());
    let is_single = map.contains_key(lenient::CUT) || is_task_map(map);
    if count >= 2 || count == 1 && (is_numbered || !is_task_map(map)) {
        let tasks = named().map(|(key, value)| (Some(key.clone()), value.clone())).collect();
        return Some(Raw { goal: goal(), tasks, preface: preface_of(&keys), ..Raw::default() });
    }
    if is_single {
        // Cut off and alone: not a whole task.
        return (!map.contains_key(lenient::CUT)).then(|| Raw {
            tasks: vec![(None, Value::Object(map.clone()))],
            is_single: true,
            ..Raw::default()
        });
    }
    let texts: Vec<(Option<String>, Value)> = map
        .iter()
        .filter(|(key, value)| number_in(key).is_some() && value.as_str().is_some_and(|it| !it.trim().is_empty()))
        .map(|(key, value)| (Some(key.clone()), value.clone()))
        .collect();
    if !texts.is_empty() {
        return Some(Raw { goal: goal(), tasks: texts, is_texts: true, ..Raw::default() });
    }
    map.values().filter_map(|it| tasks_of(it, depth + 1)).find(|it| !it.is_texts && !it.is_single)
}

/// Whether the key names what holds for all tasks, and no task.
fn is_preface(key: &str) -> bool {
    let key = words::fold(key);
    RULES.iter().chain(&GLOSSARY).chain(&DECISIONS).any(|it| **it == *key)
}

/// What holds for all tasks, as far as it can be read.
fn preface_of(keys: &[(String, &Value)]) -> Preface {
    let texts = |names: &[&str]| find(keys, names).and_then(preface::texts).unwrap_or_default();
    Preface {
        rules: texts(&RULES),
        glossary: find(keys, &GLOSSARY).and_then(preface::glossary).unwrap_or_default(),
        decisions: texts(&DECISIONS),
    }
}

fn tasks_of_list(list: &[Value], depth: usize) -> Option<Raw> {
    if list.iter().any(is_task) {
        let tasks = list.iter().filter(|it| it.is_object() && !is_cut_off(it)).map(unwrapped).collect();
        return Some(Raw { tasks, ..Raw::default() }).filter(|it| !it.tasks.is_empty());
    }
    let mut raw = Raw::default();
    // A list of phases, each with tasks of its own.
    for inner in list.iter().filter(|it| it.is_object()).filter_map(|it| tasks_of(it, depth + 1)) {
        raw.is_texts |= inner.is_texts;
        raw.tasks.extend(inner.tasks);
    }
    if raw.tasks.is_empty() {
        let is_text = |it: &&Value| it.as_str().is_some_and(|it| !it.trim().is_empty());
        raw.tasks = list.iter().filter(is_text).map(|it| (None, it.clone())).collect();
        raw.is_texts = true;
    }
    Some(raw).filter(|it| !it.tasks.is_empty())
}

/// `{"t1": {…}}` within a list is the task `t1`, and `{"task": {…}}` is the task.
fn unwrapped(value: &Value) -> (Option<String>, Value) {
    if let Value::Object(map) = value
        && map.len() == 1
        && let Some((key, inner)) = map.iter().next()
        && is_task(inner)
    {
        let is_word = ["task", "step", "item"].contains(&words::fold(key).as_str());
        return ((!is_word).then(|| key.clone()), inner.clone());
    }
    (None, value.clone())
}

fn is_task(value: &Value) -> bool {
    value.as_object().filter(|map| !map.contains_key(lenient::CUT)).is_some_and(|map| {
        is_task_map(map) || map.len() == 1 && map.values().all(|it| it.as_object().is_some_and(is_task_map))
    })
}

fn is_task_map(map: &Map<String, Value>) -> bool {
    map.iter().any(|(key, value)| {
        let key = words::fold(key);
        (TITLE.contains(&key.as_str()) || DESCRIPTION.contains(&key.as_str()) && key != "goal")
            && text_of(value).is_some()
    })
}

/// The number of `t3`, `3`, `task_3`, `Step 3`.
fn number_in(text: &str) -> Option<usize> {
    let folded = words::fold(text);
    let digits = folded.trim_start_matches(|it: char| !it.is_ascii_digit());
    let prefix = &folded[..folded.len() - digits.len()];
    let is_known = ["", "t", "task", "step", "subtask", "taskid", "id", "no", "number"].contains(&prefix);
    if is_known { digits.parse().ok() } else { None }
}

fn find<'a>(keys: &[(String, &'a Value)], names: &[&str]) -> Option<&'a Value> {
    names.iter().find_map(|name| keys.iter().find(|(key, value)| key == name && !value.is_null()).map(|(_, it)| *it))
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(list) if !list.is_empty() => {
            let lines: Option<Vec<String>> = list.iter().map(|it| it.as_str().map(|it| format!("- {it}"))).collect();
            lines.map(|it| it.join("\n"))
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A task whose dependencies are not matched yet.
struct Draft {
    task: DocumentTask,
    needs: Vec<Need>,
}

enum Need {
    Number(u64),
    Text(String),
}

fn document(raw: Raw) -> Document {
    let mut drafts: Vec<Draft> = raw.tasks.iter().map(|(key, value)| draft(key.as_deref(), value)).collect();
    let is_taken = |id: &str, drafts: &[Draft]| drafts.iter().any(|it| it.task.id == id);
    for index in 0..drafts.len() {
        let id = format!("t{}", index + 1);
        // What is taken stays blank, and the repair finds a free one.
        if drafts[index].task.id.is_empty() && !is_taken(&id, &drafts) {
            drafts[index].task.id = id;
        }
    }
    let names = Names::of(&drafts);
    let tasks = drafts
        .into_iter()
        .map(|Draft { mut task, needs }| {
            for need in needs {
                names.resolve(need, &mut task.depends_on);
            }
            task
        })
        .collect();
    Document { goal: raw.goal, preface: raw.preface, tasks }
}

fn draft(key: Option<&str>, value: &Value) -> Draft {
    let Value::Object(map) = value else {
        let description = text_of(value).unwrap_or_default();
        let title = words::title_from(&description);
        let id = key.unwrap_or_default().trim().to_owned();
        return Draft { task: DocumentTask { id, title, description, ..DocumentTask::default() }, needs: Vec::new() };
    };
    let keys: Vec<(String, &Value)> = map.iter().map(|(key, value)| (words::fold(key), value)).collect();
    let mut id = find(&keys, &ID).and_then(name_of);
    let mut titles: Vec<&str> = TITLE.into_iter().filter(|name| find(&keys, &[name]).is_some()).collect();
    // A number that is called a step, and a name beside a title, are ids.
    for name in ["step", "task", "name"] {
        let value = find(&keys, &[name]);
        let is_id = match name {
            "name" => titles.len() > 1 && titles.contains(&"name") && !titles.contains(&"step"),
            _ => value.is_some_and(Value::is_number),
        };
        if is_id {
            titles.retain(|it| *it != name);
            id = id.or_else(|| value.and_then(name_of));
        }
    }
    let title = titles.first().and_then(|name| find(&keys, &[name])).and_then(text_of);
    let description = find(&keys, &DESCRIPTION).and_then(text_of).unwrap_or_default();
    // A title that was given as blank stays so, and is told.
    let title = title.unwrap_or_else(|| words::title_from(&description));
    let task = DocumentTask {
        id: id.or_else(|| key.map(|it| it.trim().to_owned())).unwrap_or_default(),
        title,
        description,
        role: find(&keys, &ROLE).and_then(role_of),
        depends_on: Vec::new(),
        success_criteria: find(&keys, &CRITERIA).map(criteria_of).unwrap_or_default(),
        priority: find(&keys, &["priority"]).and_then(|it| Priority::deserialize(it).ok()),
        duration: find(&keys, &DURATION).and_then(|it| it.as_f64().or_else(|| it.as_str()?.trim().parse().ok())),
        // No model decides when a person's machine begins to work.
        times: Times::default(),
        place: None,
    };
    let mut needs = Vec::new();
    if let Some(value) = find(&keys, &DEPENDS_ON) {
        collect_needs(value, 0, &mut needs);
    }
    Draft { task, needs }
}

fn role_of(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.first()?.as_str()?.to_owned(),
        Value::Object(map) => map.get("name").or_else(|| map.get("role"))?.as_str()?.to_owned(),
        Value::Null | Value::Bool(_) | Value::Number(_) => return None,
    };
    Some(text.trim().to_owned()).filter(|it| !it.is_empty())
}

fn criteria_of(value: &Value) -> Vec<Criterion> {
    let list = match value {
        Value::Array(list) => &list[..],
        other => std::slice::from_ref(other),
    };
    let one = |it: &Value| match it {
        Value::String(text) => Some(Criterion { criterion: text.trim().to_owned(), measurable: false, check: None }),
        Value::Object(map) => {
            let criterion = map.get("criterion").or_else(|| map.get("description"))?.as_str()?.trim().to_owned();
            let measurable = map.get("measurable").and_then(Value::as_bool).unwrap_or(false);
            // What is checked, and how, is for people to say.
            Some(Criterion { criterion, measurable, check: None })
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
    };
    list.iter().filter_map(one).filter(|it| !it.criterion.is_empty()).collect()
}

fn collect_needs(value: &Value, depth: usize, needs: &mut Vec<Need>) {
    match value {
        Value::String(text) => needs.push(Need::Text(text.trim().to_owned())),
        Value::Number(number) => match number.as_u64() {
            Some(number) => needs.push(Need::Number(number)),
            None => needs.push(Need::Text(number.to_string())),
        },
        Value::Array(list) if depth < 2 => list.iter().for_each(|it| collect_needs(it, depth + 1, needs)),
        Value::Object(map) => {
            let keys: Vec<(String, &Value)> = map.iter().map(|(key, value)| (words::fold(key), value)).collect();
            match find(&keys, &ID).or_else(|| find(&keys, &TITLE)).and_then(name_of) {
                Some(name) => needs.push(Need::Text(name)),
                // `{"t1": true}`
                None => needs.extend(map.keys().filter(|it| *it != lenient::CUT).map(|it| Need::Text(it.clone()))),
            }
        }
        Value::Null | Value::Bool(_) | Value::Array(_) => {}
    }
}

/// What the tasks of a document are called.
struct Names {
    ids: Vec<String>,
    by_name: HashMap<String, usize>,
    /// The first task is called 0.
    is_zero_based: bool,
}

impl Names {
    fn of(drafts: &[Draft]) -> Self {
        let ids: Vec<String> = drafts.iter().map(|it| it.task.id.clone()).collect();
        let mut by_name = HashMap::with_capacity(ids.len() * 2);
        // Ids go before titles, whatever the order.
        for (index, id) in ids.iter().enumerate().filter(|(_, id)| !id.is_empty()) {
            by_name.entry(words::fold(id)).or_insert(index);
        }
        for (index, draft) in drafts.iter().enumerate() {
            by_name.entry(words::fold(&draft.task.title)).or_insert(index);
        }
        let is_zero = |it: &Need| matches!(it, Need::Number(0));
        let is_zero_based = !by_name.contains_key("0") && drafts.iter().flat_map(|it| &it.needs).any(is_zero);
        Self { ids, by_name, is_zero_based }
    }

    fn resolve(&self, need: Need, found: &mut Vec<String>) {
        let text = match need {
            Need::Number(number) => {
                let id = usize::try_from(number).ok().and_then(|it| self.numbered(it));
                found.push(id.map_or_else(|| number.to_string(), str::to_owned));
                return;
            }
            Need::Text(text) => text,
        };
        if NOTHING.contains(&words::fold(&text).as_str()) {
            return;
        }
        if let Some(id) = self.one(&text) {
            found.push(id.to_owned());
            return;
        }
        let parts = text.split([',', ';', '\n', '&']).flat_map(|it| it.split(" and ")).map(str::trim);
        for part in parts.filter(|it| !NOTHING.contains(&words::fold(it).as_str())) {
            // `t1: Collect the facts`, `t1 (facts)`
            let head = || part.split_once([':', '(', ' ']).and_then(|(head, _)| self.one(head));
            found.push(self.one(part).or_else(head).map_or_else(|| part.to_owned(), str::to_owned));
        }
    }

    fn one(&self, text: &str) -> Option<&str> {
        if let Some(id) = self.ids.iter().find(|it| *it == text && !text.is_empty()) {
            return Some(id);
        }
        self.by_name
            .get(&words::fold(text))
            .and_then(|it| self.ids.get(*it))
            .map(String::as_str)
            .or_else(|| number_in(text).and_then(|it| self.numbered(it)))
            .filter(|it| !it.is_empty())
    }

    fn numbered(&self, number: usize) -> Option<&str> {
        let names = [number.to_string(), format!("t{number}")];
        let named = names.iter().filter(|_| !self.is_zero_based).find_map(|it| self.by_name.get(it)).copied();
        let place = if self.is_zero_based { Some(number) } else { number.checked_sub(1) };
        named.or(place).and_then(|it| self.ids.get(it)).map(String::as_str).filter(|it| !it.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The tasks as `id=title<needs`.
    fn read(text: &str) -> String {
        let document = parse_reply(text).unwrap_or_else(|it| panic!("{text}: {it:?}"));
        let shown = |it: &DocumentTask| format!("{}={}<{}", it.id, it.title, it.depends_on.join(","));
        document.tasks.iter().map(shown).collect::<Vec<_>>().join(" | ")
    }

    fn code(text: &str) -> &'static str {
        parse_reply(text).unwrap_err()[0].code
    }

    #[test]
    fn every_shape_is_read() {
        let expected = "t1=A< | t2=B<t1";
        for text in [
            r#"{"tasks":[{"id":"t1","title":"A","depends_on":[]},{"id":"t2","title":"B","depends_on":["t1"]}]}"#,
            r#"{"plan":{"tasks":[{"id":"t1","title":"A"},{"id":"t2","title":"B","dependencies":["t1"]}]}}"#,
            r#"{"plan":[{"key":"t1","title":"A"},{"key":"t2","title":"B","deps":["t1"]}]}"#,
            r#"{"steps":[{"name":"A"},{"name":"B","dependsOn":"t1"}]}"#,
            r#"{"tasks":{"t1":{"title":"A"},"t2":{"title":"B","requires":["t1"]}}}"#,
            r#"{"t1":{"title":"A","depends_on":null},"t2":{"title":"B","needs":["t1"]}}"#,
            r#"[{"task":"A"},{"task":"B","after":[1]}]"#,
            r#"[{"name":"t1","title":"A"},{"name":"t2","title":"B","depends_on":"A"}]"#,
            r#"[{"t1":{"title":"A"}},{"t2":{"title":"B","depends_on":["T1"]}}]"#,
            r#"{"tasks":[{"task":{"id":"t1","title":"A"}},{"task":{"id":"t2","title":"B","depends_on":["Task 1"]}}]}"#,
            r#"{"goal":"x","response":{"result":{"tasks":[{"summary":"A"},{"summary":"B","depends_on":[{"id":"t1"}]}]}}}"#,
            r#"[{"step":1,"title":"A"},{"step":2,"title":"B","depends_on":[1]}]"#,
            r#"[{"title":"A"},{"title":"B","depends_on":[0]}]"#,
            r#"[{"phase":1,"tasks":[{"id":"t1","title":"A"}]},{"phase":2,"tasks":[{"id":"t2","title":"B","depends_on":["t1: A"]}]}]"#,
            "{\"id\":\"t1\",\"title\":\"A\"}\n{\"id\":\"t2\",\"title\":\"B\",\"depends_on\":[\"t1\"]}",
        ] {
            assert_eq!(read(text).replace("1=A< | 2=B<1", expected), expected, "{text}");
        }
        assert_eq!(read(r#"["Collect the facts. All of them.", "Write"]"#), "t1=Collect the facts< | t2=Write<");
        assert_eq!(read(r#"{"t1": "A", "t2": "B"}"#), expected.replace("<t1", "<"));
    }

    #[test]
    fn what_stands_around_is_left_out() {
        for text in [
            "Sure! Here is the plan:\n```json\n{\"tasks\": [{\"id\": \"t1\", \"title\": \"A\"},]}\n```\nGood luck [1]!",
            "<think>Maybe {\"tasks\":[{\"id\":\"x\",\"title\":\"wrong\"}]}?</think>{\"tasks\":[{\"title\":\"A\"}]}",
            "<think>{\"tasks\":[{\"title\":\"A\"}]}</think> That is it.",
            "First [see note], e.g. {braces}.\n{\"note\": \"hm\"}\n{\"t1\": {\"title\": \"A\"}}\n{\"t1\": {\"title\": \"B\"}}",
            "[\"an\", \"aside\"] {\"tasks\": [{\"title\": \"A\"}]}",
            "\u{feff}{\"tasks\": [{\"title\": \"A\"}]}",
        ] {
            assert_eq!(read(text), "t1=A<", "{text}");
        }
    }

    #[test]
    fn a_cut_off_end_keeps_what_is_whole() {
        let whole = r#"{"tasks": [{"id": "t1", "title": "A"}, {"id": "t2", "title": "B", "depends_on": ["t1"]}]}"#;
        let mut seen = Vec::new();
        for end in 0..=whole.len() {
            let found = parse_reply(&whole[..end]).map_or(0, |it| it.tasks.len());
            if seen.last() != Some(&found) {
                seen.push(found);
            }
        }
        assert_eq!(seen, [0, 1, 2]);
        assert_eq!(read("```json\n{\"t1\": {\"title\": \"A\"}, \"t2\": {\"title\": \"B\", \"descr"), "t1=A<");
        // A whole block goes before one that was cut off.
        assert_eq!(read("{\"tasks\": [{\"title\": \"A\"}]} or {\"tasks\": [{\"title\": \"B\"}, {\"ti"), "t1=A<");
    }

    #[test]
    fn fields_have_many_names() {
        let text = r#"[{"id": 7, "Name": "A", "instructions": ["one", "two"], "Assignee": "dev", "Success Criteria": "works",
            "priority": "high", "duration": "90"}, {"objective": "Explain it. Briefly.", "agent": ["writer"],
            "acceptance_criteria": [{"criterion": "short", "measurable": true}, ""], "priority": 99, "Depends On": "7, A and 1"}]"#;
        let document = parse_reply(text).unwrap();
        let [one, two] = &document.tasks[..] else { panic!("{document:?}") };
        assert_eq!((one.id.as_str(), one.title.as_str(), one.description.as_str()), ("7", "A", "- one\n- two"));
        assert_eq!(
            (one.role.as_deref(), one.priority.map(Priority::get), one.duration),
            (Some("dev"), Some(8), Some(90.0))
        );
        assert_eq!(one.success_criteria[0].criterion, "works");
        assert_eq!((two.id.as_str(), two.title.as_str(), two.role.as_deref()), ("t2", "Explain it", Some("writer")));
        assert_eq!((two.success_criteria.len(), two.priority), (1, None));
        assert_eq!(two.depends_on, ["7", "7", "7"]);
    }

    #[test]
    fn dependencies_are_matched_or_kept() {
        let plan = |needs: &str| {
            let text = format!(
                r#"[{{"id":"alpha","title":"Collect facts, all"}},{{"id":"beta","title":"B"}},{{"id":"c","title":"C","needs":{needs}}}]"#
            );
            parse_reply(&text).unwrap().tasks[2].depends_on.join("|")
        };
        for (needs, expected) in [
            (r#"["alpha"]"#, "alpha"),
            ("[1, 2]", "alpha|beta"),
            (r#""alpha, beta""#, "alpha|beta"),
            (r#""collect facts, all""#, "alpha"),
            (r#"["Step 2"]"#, "beta"),
            (r#"["none"]"#, ""),
            (r#""N/A""#, ""),
            (r#"["unknown", 9]"#, "unknown|9"),
            (r#"{"alpha": true}"#, "alpha"),
        ] {
            assert_eq!(plan(needs), expected, "{needs}");
        }
    }

    #[test]
    fn no_plan_says_why() {
        assert_eq!(code("I can not help with that."), "no_plan");
        assert_eq!(code(""), "no_plan");
        assert_eq!(code("{\"answer\": 42}"), "no_plan");
        assert_eq!(code("{\"tasks\": []}"), "empty_plan");
        assert_eq!(code("{\"plan\": {\"tasks\": []}}"), "empty_plan");
        assert_eq!(code(&"[".repeat(50_000)), "no_plan");
    }

    proptest! {
        #![proptest_config(crate::cases::cases(1_000))]

        #[test]
        fn nothing_a_model_says_is_too_bad(
            words in proptest::collection::vec(
                prop_oneof![
                    Just("{"), Just("}"), Just("["), Just("]"), Just(","), Just(":"), Just("\""), Just("\"tasks\":["),
                    Just("\"id\":\"t1\""), Just("\"title\":\"A\""), Just("\"t2\":{"), Just("\"depends_on\":"), Just("1"),
                    Just("<think>"), Just("</think>"), Just("```json\n"), Just("ä"), Just("\\u"), Just("\\"), Just("// "),
                ],
                0..40,
            ),
        ) {
            let text = words.concat();
            if let Ok(document) = parse_reply(&text) {
                prop_assert!(!document.tasks.is_empty());
                let shown = format!("{document:?}");
                prop_assert!(!shown.contains("0cut"), "{}", shown);
            }
            let text: String = "{\"tasks\":[{\"title\":\"A\"},".to_owned() + &text;
            let _ = parse_reply(&text);
        }
    }
}
