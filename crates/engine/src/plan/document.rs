//! The task document: what a plan file holds, and what a model's answer is read into.
//!
//! **Invariant:** a plan file is read strictly: every unknown key and every wrong type is a problem that names its JSON path,
//! the value and what is allowed, and all of them are reported at once.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write as _, sync::Arc};

use crewline_types::{Criterion, Priority, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::{Map, Value};

use super::{Preface, Problem, Sources, Times, check, compose, preface, words};

/// A plan as somebody wrote it.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Document {
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// What holds for all of its tasks.
    #[serde(flatten)]
    pub preface: Preface,
    /// Its tasks.
    pub tasks: Vec<DocumentTask>,
}

/// A task as somebody wrote it.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct DocumentTask {
    /// Its name; blank when missing.
    pub id: String,
    /// One line; when missing it is made from the description.
    pub title: String,
    /// What is to be done; blank when missing.
    pub description: String,
    /// Who does it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The ids of the tasks it requires.
    pub depends_on: Vec<String>,
    /// How to tell that it is done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub success_criteria: Vec<Criterion>,
    /// How much it matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// How long it takes, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    /// When it may begin, and when it should be done.
    #[serde(flatten)]
    pub times: Times,
    /// Where it stands, as people see it, when that is not `tasks[…]` of its index.
    #[serde(skip)]
    pub place: Option<Arc<str>>,
}

impl DocumentTask {
    /// Where it stands, as people see it; `index` is its place in the list.
    pub(super) fn place(&self, index: usize) -> Cow<'_, str> {
        self.place.as_deref().map_or_else(|| format!("tasks[{index}]").into(), Cow::Borrowed)
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        document_from_value(&Value::deserialize(deserializer)?).map_err(|problems| {
            let mut text = String::new();
            for (index, problem) in problems.iter().enumerate() {
                let _ = write!(text, "{}{problem}", if index == 0 { "" } else { "; " });
            }
            D::Error::custom(text)
        })
    }
}

const KEYS: [&str; 5] = ["goal", "rules", "glossary", "decisions", "tasks"];
const TASK_KEYS: [&str; 10] = [
    "id",
    "title",
    "description",
    "role",
    "depends_on",
    "success_criteria",
    "priority",
    "duration",
    "planned_for",
    "deadline",
];

/// What people write instead.
const SYNONYMS: [(&str, &str); 19] = [
    ("notbefore", "planned_for"),
    ("due", "deadline"),
    ("duedate", "deadline"),
    ("steps", "tasks"),
    ("plan", "tasks"),
    ("objective", "goal"),
    ("deps", "depends_on"),
    ("dependencies", "depends_on"),
    ("requires", "depends_on"),
    ("needs", "depends_on"),
    ("after", "depends_on"),
    ("key", "id"),
    ("name", "title"),
    ("agent", "role"),
    ("assignee", "role"),
    ("owner", "role"),
    ("criteria", "success_criteria"),
    ("seconds", "duration"),
    ("details", "description"),
];

/// Reads a plan file that was parsed as JSON or YAML. What can be told without knowing the roles (a cycle, an unknown id) is
/// reported here only along with other problems; otherwise [`super::check`] does.
///
/// Sub-tasks become tasks of their own; links to other documents need [`super::compose`].
pub fn document_from_value(value: &Value) -> Result<Document, Vec<Problem>> {
    compose::of_value("", value, &Sources::default())
}

/// Reads a flat document, whose tasks stand at `places`, and refuses it if there are problems already.
pub(super) fn read(value: &Value, places: &[String], problems: Vec<Problem>) -> Result<Document, Vec<Problem>> {
    let had_problems = !problems.is_empty();
    let mut walk = Walk { problems, places, ..Walk::default() };
    let document = walk.document(value);
    // What was refused before is not missing.
    walk.bad.tasks |= had_problems && document.tasks.is_empty();
    if walk.problems.is_empty() {
        return Ok(document);
    }
    check::structure(&document, &walk.bad, &mut walk.problems);
    Err(walk.problems)
}

/// What was already reported, so that it is not reported once more as missing.
#[derive(Debug, Default)]
pub(super) struct Bad {
    pub(super) tasks: bool,
    /// Indexes of tasks.
    pub(super) ids: Vec<usize>,
    pub(super) titles: Vec<usize>,
    /// Indexes of tasks and places in their `depends_on`.
    pub(super) needs: Vec<(usize, usize)>,
}

#[derive(Default)]
struct Walk<'a> {
    problems: Vec<Problem>,
    bad: Bad,
    places: &'a [String],
}

impl Walk<'_> {
    fn invalid(&mut self, task: Option<&str>, path: &str, value: &Value, allowed: &str) {
        let message = format!("`{path}`: {} is not allowed: {allowed}", shown(value));
        self.problems.push(Problem::new("invalid_field", task, message));
    }

    fn unknown_keys(&mut self, map: &Map<String, Value>, path: &str, known: &[&str], task: Option<&str>) {
        for key in map.keys().filter(|it| !known.contains(&it.as_str())) {
            let folded = words::fold(key);
            let meant = known
                .iter()
                .copied()
                .find(|it| words::fold(it) == folded)
                .or_else(|| SYNONYMS.iter().find(|(it, to)| *it == folded && known.contains(to)).map(|(_, to)| *to))
                .or_else(|| words::nearest(key, known.iter().copied()));
            let hint = meant.map(|it| format!("; did you mean `{it}`?")).unwrap_or_default();
            let dot = if path.is_empty() { "" } else { "." };
            let key = words::shorten(key, 40);
            let allowed = known.iter().map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ");
            let message = format!("`{path}{dot}{key}` is not a known key{hint} (known here: {allowed})");
            self.problems.push(Problem::new("unknown_field", task, message));
        }
    }

    fn document(&mut self, value: &Value) -> Document {
        let Value::Object(map) = value else {
            self.bad.tasks = true;
            self.invalid(None, "$", value, "a plan is an object with `goal` and `tasks`");
            return Document::default();
        };
        self.unknown_keys(map, "", &KEYS, None);
        let goal = match map.get("goal") {
            None | Some(Value::Null) => None,
            Some(Value::String(goal)) => Some(goal.trim().to_owned()).filter(|it| !it.is_empty()),
            Some(other) => {
                self.invalid(None, "goal", other, "a text");
                None
            }
        };
        let preface = self.preface(map);
        let tasks = match map.get("tasks") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(tasks)) => {
                tasks.iter().enumerate().map(|(index, value)| self.task(index, value)).collect()
            }
            Some(other) => {
                self.bad.tasks = true;
                self.invalid(None, "tasks", other, "a list of tasks");
                Vec::new()
            }
        };
        Document { goal, preface, tasks }
    }

    fn preface(&mut self, map: &Map<String, Value>) -> Preface {
        let mut texts = |key: &str| {
            let value = map.get(key).unwrap_or(&Value::Null);
            preface::texts(value).unwrap_or_else(|| {
                self.invalid(None, key, value, "a list of texts");
                Vec::new()
            })
        };
        let (rules, decisions) = (texts("rules"), texts("decisions"));
        let value = map.get("glossary").unwrap_or(&Value::Null);
        let glossary = preface::glossary(value).unwrap_or_else(|| {
            self.invalid(None, "glossary", value, "words with their meanings, such as {\"crew\": \"all on board\"}");
            BTreeMap::new()
        });
        Preface { rules, glossary, decisions }
    }

    fn task(&mut self, index: usize, value: &Value) -> DocumentTask {
        let place: Option<Arc<str>> = self.places.get(index).map(|it| it.as_str().into());
        let path = place.as_deref().map_or_else(|| format!("tasks[{index}]"), str::to_owned);
        let Value::Object(map) = value else {
            self.bad.ids.push(index);
            self.bad.titles.push(index);
            self.invalid(None, &path, value, "a task is an object with `id` and `title` or `description`");
            return DocumentTask::default();
        };
        let id = match map.get("id") {
            None | Some(Value::Null) => String::new(),
            Some(it) => name_of(it).unwrap_or_else(|| {
                self.bad.ids.push(index);
                self.invalid(None, &format!("{path}.id"), it, "a text or a whole number");
                String::new()
            }),
        };
        let task = Some(id.as_str());
        let known = TASK_KEYS.map(|it| if it == "depends_on" { needs_key(map) } else { it });
        self.unknown_keys(map, &path, &known, task);
        let description = self.text(map, "description", &path, task).unwrap_or_default();
        let problems = self.problems.len();
        let title = self.text(map, "title", &path, task);
        if self.problems.len() > problems {
            self.bad.titles.push(index);
        }
        // Not given is made from the description; given as blank is a mistake, which `check` reports.
        let title = title.unwrap_or_else(|| words::title_from(&description));
        let role = self.text(map, "role", &path, task).map(|it| it.trim().to_owned()).filter(|it| !it.is_empty());
        let depends_on = self.depends_on(map.get(needs_key(map)), index, &path, task);
        let success_criteria = self.criteria(map.get("success_criteria"), &path, task);
        let priority = map.get("priority").filter(|it| !it.is_null()).and_then(|it| {
            Priority::deserialize(it)
                .map_err(|_| {
                    let allowed = "1 to 10, or `low`, `medium`, `high`, `critical`";
                    self.invalid(task, &format!("{path}.priority"), it, allowed);
                })
                .ok()
        });
        let duration = map.get("duration").filter(|it| !it.is_null()).and_then(|it| {
            let number = it.as_f64();
            if number.is_none() {
                self.invalid(task, &format!("{path}.duration"), it, "a number of seconds, 0 to 10¹²");
            }
            number
        });
        let times = Times {
            planned_for: self.time(map, "planned_for", &path, task),
            deadline: self.time(map, "deadline", &path, task),
        };
        DocumentTask { id, title, description, role, depends_on, success_criteria, priority, duration, times, place }
    }

    fn time(&mut self, map: &Map<String, Value>, key: &str, path: &str, task: Option<&str>) -> Option<Timestamp> {
        let value = map.get(key).filter(|it| !it.is_null())?;
        let time = value.as_str().and_then(|it| it.trim().parse().ok());
        if time.is_none() {
            self.invalid(task, &format!("{path}.{key}"), value, "a time such as `2026-12-24T18:00:00Z` (RFC 3339)");
        }
        time
    }

    fn text(&mut self, map: &Map<String, Value>, key: &str, path: &str, task: Option<&str>) -> Option<String> {
        match map.get(key) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(other) => {
                self.invalid(task, &format!("{path}.{key}"), other, "a text");
                None
            }
        }
    }

    fn depends_on(&mut self, value: Option<&Value>, task_index: usize, path: &str, task: Option<&str>) -> Vec<String> {
        let list = match value {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(list)) => list,
            Some(other) => {
                let allowed = match name_of(other) {
                    Some(id) => format!("a list of task ids, such as [\"{}\"]", words::shorten(&id, 40)),
                    None => "a list of task ids".to_owned(),
                };
                self.invalid(task, &format!("{path}.depends_on"), other, &allowed);
                return Vec::new();
            }
        };
        let mut ids = Vec::with_capacity(list.len());
        for (index, it) in list.iter().enumerate() {
            if name_of(it).is_none() {
                self.bad.needs.push((task_index, index));
                self.invalid(task, &format!("{path}.depends_on[{index}]"), it, "the id of a task");
            }
            // One that is wrong keeps its place, so that the paths of the others are right.
            ids.push(name_of(it).unwrap_or_default());
        }
        ids
    }

    fn criteria(&mut self, value: Option<&Value>, path: &str, task: Option<&str>) -> Vec<Criterion> {
        const ALLOWED: &str = "a text, or an object with `criterion`, `measurable` and `check`";
        let list = match value {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(list)) => list,
            Some(other) => {
                self.invalid(task, &format!("{path}.success_criteria"), other, "a list of criteria");
                return Vec::new();
            }
        };
        let mut criteria = Vec::with_capacity(list.len());
        for (index, it) in list.iter().enumerate() {
            let criterion = match it {
                Value::String(text) => Some(Criterion { criterion: text.clone(), measurable: false, check: None }),
                Value::Object(_) => match Criterion::deserialize(it) {
                    Ok(criterion) => Some(named(criterion)),
                    Err(error) if it.get("check").is_some() => {
                        let message = format!("`{path}.success_criteria[{index}]`: {error}");
                        self.problems.push(Problem::new("invalid_field", task, message));
                        continue;
                    }
                    Err(_) => None,
                },
                _ => None,
            };
            match criterion.filter(|it| !it.criterion.trim().is_empty()) {
                Some(criterion) => criteria.push(criterion),
                None => self.invalid(task, &format!("{path}.success_criteria[{index}]"), it, ALLOWED),
            }
        }
        criteria
    }
}

/// A check says by itself what must hold.
fn named(mut criterion: Criterion) -> Criterion {
    if let Some(check) = &criterion.check {
        criterion.measurable = true;
        if criterion.criterion.trim().is_empty() {
            criterion.criterion = check.to_string();
        }
    }
    criterion
}

/// `deps` is understood where `depends_on` is not given.
pub(super) fn needs_key(map: &Map<String, Value>) -> &'static str {
    if map.contains_key("deps") && !map.contains_key("depends_on") { "deps" } else { "depends_on" }
}

/// A text or a whole number as an id.
pub(super) fn name_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        Value::Number(_) | Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            format!("`{}`", words::shorten(&value.to_string(), 60))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn messages(value: &Value) -> Vec<String> {
        document_from_value(value).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_full_document_is_read() {
        let document = document_from_value(&json!({
            "goal": "Ship it",
            "tasks": [
                {"id": 1, "title": "One", "description": "Do one", "role": "coder", "depends_on": [],
                 "success_criteria": ["it runs", {"criterion": "tests pass", "measurable": true}],
                 "priority": "high", "duration": 1.5},
                {"id": "t2", "description": "Do two. Well.", "depends_on": [1], "priority": 3},
                {"id": "t3", "title": "Three", "depends_on": null, "role": null},
            ],
        }))
        .unwrap();
        assert_eq!(document.goal.as_deref(), Some("Ship it"));
        let [one, two, three] = &document.tasks[..] else { panic!() };
        assert_eq!((one.id.as_str(), one.priority.unwrap().get(), one.duration), ("1", 8, Some(1.5)));
        assert!(!one.success_criteria[0].measurable && one.success_criteria[1].measurable);
        let checks = json!([{"check": {"type": "contains", "text": "x"}}]);
        let checked = document_from_value(&json!({"tasks": [{"id": "a", "title": "A", "success_criteria": checks}]}));
        let criterion = checked.unwrap().tasks.remove(0).success_criteria.remove(0);
        assert_eq!((criterion.criterion.as_str(), criterion.measurable), ("it contains `x`", true));
        let checks = json!([{"check": {"type": "shell", "command": "rm"}}]);
        let refused = messages(&json!({"tasks": [{"id": "a", "title": "A", "success_criteria": checks}]}));
        assert!(refused[0].contains("success_criteria[0]") && refused[0].contains("shell"), "{refused:?}");
        assert_eq!((two.title.as_str(), two.depends_on.as_slice()), ("Do two. Well", &["1".to_owned()][..]));
        assert_eq!((three.description.as_str(), three.role.as_deref()), ("", None));
        let short = json!({"tasks": [{"id": "a", "title": "A"}, {"id": "b", "title": "B", "deps": ["a"]}]});
        assert_eq!(document_from_value(&short).unwrap().tasks[1].depends_on, ["a"]);
        let again: Document = serde_json::from_str(&serde_json::to_string(&document).unwrap()).unwrap();
        assert_eq!(again, document);
    }

    #[test]
    fn all_problems_come_at_once_with_their_path() {
        let found = messages(&json!({
            "gaol": "x",
            "tasks": [
                {"id": "a", "title": "A", "depends_on": ["b"], "deps": []},
                {"id": "b", "title": 7, "depends_on": ["a", 1.5, "z"], "priority": 11, "duration": "long"},
                {"title": "C", "success_criteria": [{"criterium": "x"}], "depends_on": "a"},
                "later",
            ],
        }));
        for expected in [
            "`gaol` is not a known key; did you mean `goal`? (known here: `goal`, `rules`, `glossary`, `decisions`, `tasks`)",
            "`tasks[0].deps` is not a known key; did you mean `depends_on`?",
            "`tasks[1].title`: `7` is not allowed: a text",
            "`tasks[1].depends_on[1]`: `1.5` is not allowed: the id of a task",
            "`tasks[1].priority`: `11` is not allowed: 1 to 10, or `low`, `medium`, `high`, `critical`",
            "`tasks[1].duration`: `\"long\"` is not allowed: a number of seconds, 0 to 10¹²",
            "`tasks[2].success_criteria[0]`: an object is not allowed: a text, or an object with `criterion`",
            "`tasks[2].depends_on`: `\"a\"` is not allowed: a list of task ids, such as [\"a\"]",
            "`tasks[3]`: `\"later\"` is not allowed: a task is an object",
            "`tasks[2].id` is missing",
            "`tasks[1].depends_on[2]`: `z` is not the id of a task",
            "`b` → `a` → `b`",
        ] {
            assert_eq!(found.iter().filter(|it| it.contains(expected)).count(), 1, "{expected}: {found:#?}");
        }
        assert_eq!(found.len(), 12, "{found:#?}");
    }

    #[test]
    fn what_is_no_plan_says_what_one_is() {
        assert_eq!(messages(&json!([])), ["`$`: a list is not allowed: a plan is an object with `goal` and `tasks`"]);
        assert_eq!(messages(&json!({"tasks": {}})), ["`tasks`: an object is not allowed: a list of tasks"]);
        // Missing or empty tasks are for `check`.
        assert!(document_from_value(&json!({})).unwrap().tasks.is_empty());
    }
}
