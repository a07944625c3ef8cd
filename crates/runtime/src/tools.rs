//! The tools of an attempt, those of the run itself, and the rules its role has for them.
//!
//! **Invariant:** rules come from the registry file, and from nowhere else.
//! **Invariant:** a tool that no rule could ever allow is not offered.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crewline_engine::act::{ASK_PERSON, Condition, Entry, GIVE_UP, Limits, Policy, Rule, Test, Verdict};
use crewline_memory::{Filter, Query};
use crewline_models::{Registry, ToolTest, ToolVerdict};
use crewline_types::{Clock, Effect, MemoryId, MemoryMarks, MemoryRecord, MemoryType, Role, ToolOutcome};
use serde_json::{Value, json};

use crate::{
    actor::ask,
    assignment::{Assignment, RunBrief, TaskBrief},
    attempt::Deps,
    journal, memory,
    rooms::Rooms,
};

/// Problems of arguments that are told, and characters of one.
const PROBLEMS_MAX: usize = 8;
const PROBLEM_CHARS_MAX: usize = 300;
/// Memories that one search gives at most.
const SEARCH_MAX: u64 = 20;

/// The rules and limits of a role.
pub fn rules_of(registry: &Registry, role: &Role) -> (Policy, Limits) {
    let Some(tools) = registry.tools(role) else { return (Policy::default(), Limits::default()) };
    let test = |test: &ToolTest| match test.clone() {
        ToolTest::OneOf(values) => Test::OneOf(values),
        ToolTest::Matches(patterns) => Test::Matches(patterns),
        ToolTest::BeginsWith(words) => Test::BeginsWith(words),
        ToolTest::Under(folders) => Test::Under(folders),
        ToolTest::AtMost(most) => Test::AtMost(most),
    };
    let entries = tools.entries.iter().map(|entry| Entry {
        tool: entry.tool.clone(),
        rules: entry
            .rules
            .iter()
            .map(|rule| Rule {
                verdict: match rule.verdict {
                    ToolVerdict::Allow => Verdict::Allow,
                    ToolVerdict::Ask => Verdict::Ask,
                    ToolVerdict::Deny => Verdict::Deny,
                },
                when: rule
                    .when
                    .iter()
                    .map(|(argument, it)| Condition { argument: argument.clone(), test: test(it) })
                    .collect(),
            })
            .collect(),
    });
    let limits = &tools.limits;
    let limits = Limits {
        steps_max: limits.steps_max.unwrap_or(Limits::default().steps_max),
        tokens_max: limits.tokens_max,
        cost_max: limits.cost_max,
        time_max: limits.time_max,
    };
    (Policy { entries: entries.collect() }, limits)
}

/// A tool as models and policies see it.
#[derive(Debug)]
pub struct ToolSpec {
    /// Letters and `_`.
    pub name: Arc<str>,
    /// When to call it and what it gives back.
    pub description: Arc<str>,
    /// The JSON Schema of its arguments: an object.
    pub parameters: Value,
    /// What a call does.
    pub effect: Effect,
    /// Whether calls of one step may run beside each other.
    pub is_parallel: bool,
}

impl ToolSpec {
    /// All that is wrong with arguments; empty when they follow the schema.
    fn problems(&self, arguments: &Value) -> Vec<String> {
        match jsonschema::validator_for(&self.parameters) {
            Ok(validator) => {
                let cut = |text: String| text.chars().take(PROBLEM_CHARS_MAX).collect();
                validator.iter_errors(arguments).take(PROBLEMS_MAX).map(|error| cut(error.to_string())).collect()
            }
            Err(error) => vec![format!("the schema of the tool is not usable: {error}")],
        }
    }
}

/// What a call came to.
#[derive(Debug)]
pub struct Observation {
    /// What the model reads.
    pub text: String,
    /// How it ended.
    pub outcome: ToolOutcome,
}

impl Observation {
    fn ok(text: impl Into<String>) -> Self {
        Self { text: text.into(), outcome: ToolOutcome::Ok }
    }

    fn failed(text: impl Into<String>) -> Self {
        Self { text: text.into(), outcome: ToolOutcome::Failed }
    }
}

/// The tools of one attempt.
pub struct Toolbox(BTreeMap<Arc<str>, RunTool>);

impl Toolbox {
    /// The tools that an attempt of the role may ever call; none where its role has no tools.
    pub fn of(assignment: &Assignment, deps: &Deps, policy: &Policy) -> Self {
        if assignment.models.registry().tools(&assignment.task.role).is_none() {
            return Self(BTreeMap::new());
        }
        let tools = Kind::ALL.iter().map(|kind| RunTool::of(*kind, assignment, deps));
        let tools = tools.filter(|tool| policy.may_ever(&tool.spec.name));
        Self(tools.map(|tool| (Arc::clone(&tool.spec.name), tool)).collect())
    }

    /// The tools, by name.
    pub fn specs(&self) -> impl Iterator<Item = &Arc<ToolSpec>> {
        self.0.values().map(|tool| &tool.spec)
    }

    /// One of them.
    pub fn spec(&self, name: &str) -> Option<&Arc<ToolSpec>> {
        self.0.get(name).map(|tool| &tool.spec)
    }

    /// All that is wrong with a call; empty when it can be made.
    pub fn problems(&self, name: &str, arguments: &Value) -> Vec<String> {
        match self.0.get(name) {
            Some(tool) => tool.spec.problems(arguments),
            None => vec!["there is no such tool".to_owned()],
        }
    }

    /// Makes a call.
    pub async fn call(&self, name: &str, arguments: &Value) -> Observation {
        let problems = self.problems(name, arguments);
        match self.0.get(name) {
            Some(tool) if problems.is_empty() => tool.call(arguments).await,
            Some(_) | None => Observation { text: problems.join("\n- "), outcome: ToolOutcome::Invalid },
        }
    }
}

/// The tools of the run itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Note,
    Progress,
    MemorySearch,
    MemoryStore,
    Share,
    AskPerson,
    GiveUp,
}

impl Kind {
    const ALL: &[Self] = &[
        Self::Note,
        Self::Progress,
        Self::MemorySearch,
        Self::MemoryStore,
        Self::Share,
        Self::AskPerson,
        Self::GiveUp,
    ];

    fn spec(self) -> ToolSpec {
        let text = |about: &str| json!({"type": "string", "minLength": 1, "maxLength": 20_000, "description": about});
        let one = |name: &str, about: &str| {
            json!({
                "type": "object", "required": [name], "additionalProperties": false, "properties": {name: text(about)}
            })
        };
        let (name, description, parameters, effect) = match self {
            Self::Note => (
                "note",
                "Keeps a note with this task, for people who look at it later.",
                one("text", "What to keep."),
                Effect::Read,
            ),
            Self::Progress => (
                "progress",
                "Tells people who watch how far you are. Use it seldom.",
                one("text", "A line."),
                Effect::Read,
            ),
            Self::MemorySearch => (
                "memory_search",
                "Searches what the project remembers.",
                json!({
                    "type": "object", "required": ["query"], "additionalProperties": false,
                    "properties": {
                        "query": text("What to look for."),
                        "limit": {"type": "integer", "minimum": 1, "maximum": SEARCH_MAX}
                    }
                }),
                Effect::Read,
            ),
            Self::MemoryStore => (
                "memory_store",
                "Remembers a text for later tasks and runs of the project.",
                json!({
                    "type": "object", "required": ["text"], "additionalProperties": false,
                    "properties": {
                        "text": text("What to remember."),
                        "kind": {"type": "string", "enum": ["design_doc", "code_snippet", "note"]}
                    }
                }),
                Effect::Repeatable,
            ),
            Self::Share => (
                "share",
                "Tells the other specialists something that they will need.",
                one("text", "What they need to know."),
                Effect::Repeatable,
            ),
            Self::AskPerson => (
                ASK_PERSON,
                "Asks a person a question. The work waits for the answer: ask only what you can not find out.",
                one("question", "The question."),
                Effect::Read,
            ),
            Self::GiveUp => (
                GIVE_UP,
                "Ends the work without a result, when it can not be done.",
                one("reason", "Why it can not be done."),
                Effect::Read,
            ),
        };
        ToolSpec {
            name: name.into(),
            description: description.into(),
            parameters,
            effect,
            is_parallel: effect == Effect::Read,
        }
    }
}

/// A tool of the run itself.
struct RunTool {
    kind: Kind,
    spec: Arc<ToolSpec>,
    run: Arc<RunBrief>,
    task: Arc<TaskBrief>,
    attempt: crewline_types::AttemptId,
    rooms: Rooms,
    clock: Arc<dyn Clock>,
    recall: Duration,
}

impl RunTool {
    fn of(kind: Kind, assignment: &Assignment, deps: &Deps) -> Self {
        Self {
            kind,
            spec: Arc::new(kind.spec()),
            run: Arc::clone(&assignment.run),
            task: Arc::clone(&assignment.task),
            attempt: assignment.attempt,
            rooms: deps.rooms.clone(),
            clock: Arc::clone(&deps.clock),
            recall: deps.limits.recall,
        }
    }

    async fn search(&self, arguments: &Value) -> Observation {
        let Some(memory) = self.rooms.memory.current() else {
            return Observation::failed("memory does not answer now");
        };
        let limit = arguments["limit"].as_u64().unwrap_or(5).min(SEARCH_MAX);
        let query = Query {
            text: arguments["query"].as_str().unwrap_or_default().to_owned(),
            vector: None,
            filter: Filter::default(),
            limit: usize::try_from(limit).unwrap_or(1),
        };
        let scope = self.run.scope.clone();
        match ask(&memory, self.recall, |reply| memory::Message::Recall(scope, query, reply)).await {
            Ok(hits) if hits.is_empty() => Observation::ok("nothing is remembered about that"),
            Ok(hits) => {
                let all: Vec<String> = hits
                    .iter()
                    .map(|hit| {
                        let record = &hit.record;
                        let source = match record.task {
                            Some(task) => format!("task:{task}"),
                            None => format!("memory:{}", record.id),
                        };
                        format!("[{source}] {} by {}\n{}", record.kind, record.agent, record.text)
                    })
                    .collect();
                Observation::ok(all.join("\n\n"))
            }
            Err(_) => Observation::failed("memory does not answer now"),
        }
    }

    async fn store(&self, kind: MemoryType, text: &str) -> Observation {
        let project = self.run.scope.project();
        let at = self.clock.now();
        let record = MemoryRecord {
            id: MemoryId::of(project, Some(self.task.id), kind.as_str(), text),
            project: project.into(),
            run: Some(self.run.run),
            task: Some(self.task.id),
            kind,
            agent: self.task.role.as_str().into(),
            created_at: at,
            text: text.into(),
            source_ids: Vec::new(),
            marks: MemoryMarks::default(),
        };
        let mut change = self.run.change(self.attempt, at);
        change.cost_max = None;
        change.memories.push(record.clone());
        match journal::record(&self.rooms.journal, change).await {
            Ok(()) => {
                self.rooms.memory.tell(memory::Message::Remember(self.run.scope.clone(), vec![record]));
                Observation::ok("it is remembered")
            }
            Err(refusal) => Observation::failed(format!("it could not be remembered: {refusal}")),
        }
    }
}

impl RunTool {
    async fn call(&self, arguments: &Value) -> Observation {
        let text = arguments["text"].as_str().unwrap_or_default();
        match self.kind {
            // The call itself is kept with the task, and shown as an event.
            Kind::Note => Observation::ok("it is kept with the task"),
            Kind::Progress => Observation::ok("it is shown"),
            Kind::MemorySearch => self.search(arguments).await,
            Kind::MemoryStore => {
                let kind = arguments["kind"].as_str().unwrap_or("note");
                self.store(MemoryType::from(kind), text).await
            }
            Kind::Share => self.store(MemoryType::HandoffSummary, text).await,
            // The loop does what these ask for; they never get here.
            Kind::AskPerson | Kind::GiveUp => Observation::failed("this is no call that can be made"),
        }
    }
}
