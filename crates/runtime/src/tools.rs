//! The tools of an attempt, those of the run itself, and the rules its role has for them.
//!
//! **Invariant:** rules come from the registry file, and from nowhere else.
//! **Invariant:** a tool that no rule could ever allow is not offered.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crewline_engine::{
    act::{ASK_PERSON, Condition, Entry, GIVE_UP, HAND_OFF, Limits, Look, Policy, Rule, Test, Verdict},
    plan::WISHES_MAX,
};
use crewline_memory::{Filter, Query};
use crewline_models::{Registry, ToolTest, ToolVerdict};
use crewline_tools::{Effect as ToolEffect, Outcome, Review, Tool, ToolCall, ToolSpec};
use crewline_types::{Clock, Effect, MemoryId, MemoryMarks, MemoryRecord, MemoryType, Role, ToolOutcome};
use serde_json::{Value, json};

use crate::{
    actor::ask,
    assignment::{Assignment, Failure},
    attempt::Deps,
    brief::{RunBrief, TaskBrief},
    create_task, journal, memory, planning,
    recorded::Recorded,
    remote,
    rooms::Rooms,
    workshop::Place,
};

/// How often a task is handed to another role.
const HANDOFFS_MAX: usize = 4;
/// Characters of each part of what is handed over.
const HANDED_CHARS_MAX: usize = 4_000;
/// The parts of what is handed over, with what each says.
const HANDED: [(&str, &str, &str); 4] = [
    ("decided", "Decided", "What was decided, and why."),
    ("tried", "Tried", "What was tried, and what came of it."),
    ("rejected", "Rejected", "What was ruled out, and why."),
    ("open", "Open", "What is still open: questions, and what is to be done next."),
];
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
    let mut entries: Vec<Entry> = entries.collect();
    for server in remote::servers_of(registry, role) {
        // What no rule speaks of is asked about; a rule for all tools, or all of the server, speaks of them.
        let all = format!("{}.*", server.name);
        let start = format!("{}.", server.name);
        let is_covered = |entry: &Entry| entry.tool.strip_suffix('*').is_some_and(|it| start.starts_with(it));
        if !entries.iter().any(is_covered) {
            entries.push(Entry { tool: all, rules: vec![Rule { verdict: Verdict::Ask, when: Vec::new() }] });
        }
    }
    let limits = &tools.limits;
    let limits = Limits {
        steps_max: limits.steps_max.unwrap_or(Limits::default().steps_max),
        tokens_max: limits.tokens_max,
        cost_max: limits.cost_max,
        time_max: limits.time_max,
    };
    (Policy { entries }, limits)
}

/// The roles that may go on with a task of `role`: all that have tools, as they go on with its files.
fn others(registry: &Registry, role: &Role) -> Vec<Role> {
    registry.roles().into_iter().filter(|it| it != role && registry.tools(it).is_some()).collect()
}

/// Whom a call of `handoff` names, and what they are told.
pub fn handed_over(arguments: &Value) -> (Role, String) {
    let part = |name: &str| arguments[name].as_str().unwrap_or_default().trim();
    let said = HANDED.iter().filter(|(name, ..)| !part(name).is_empty());
    let said: Vec<String> = said.map(|(name, title, _)| format!("{title}: {}", part(name))).collect();
    (Role::from(part("role")), said.join("\n"))
}

/// What a call does outside, as the database keeps it.
pub fn effect_of(spec: &ToolSpec) -> Effect {
    match spec.effect {
        ToolEffect::Read => Effect::Read,
        ToolEffect::Repeatable => Effect::Repeatable,
        ToolEffect::Unsafe => Effect::Unsafe,
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

    fn of(made: crewline_tools::Observation) -> Self {
        let outcome = match made.outcome {
            Outcome::Ok => ToolOutcome::Ok,
            Outcome::Failed => ToolOutcome::Failed,
            Outcome::Invalid => ToolOutcome::Invalid,
            Outcome::Refused => ToolOutcome::Refused,
            Outcome::Timeout => ToolOutcome::Timeout,
        };
        Self { text: made.text, outcome }
    }
}

/// The tools of one attempt: those of the run itself, those of its workspace, and those of other servers.
pub struct Toolbox {
    own: BTreeMap<Arc<str>, RunTool>,
    /// Those outside the run; none where there is neither a workspace nor a server.
    tools: Option<crewline_tools::Toolbox>,
    /// Where it works on files, when its run has a workspace.
    pub place: Option<Place>,
}

impl Toolbox {
    /// The tools that an attempt of the role may ever call; none where its role has no tools.
    pub async fn of(
        assignment: &Assignment,
        deps: &Deps,
        recorded: &Recorded,
        policy: &Policy,
    ) -> Result<Self, Failure> {
        let registry = assignment.models.registry();
        let Some(rules) = registry.tools(&assignment.task.role) else {
            return Ok(Self { own: BTreeMap::new(), tools: None, place: None });
        };
        let others = others(&registry, &assignment.task.role);
        let planned = planning::planner_rules(&registry).roles;
        let tools = Kind::ALL.iter().map(|kind| {
            let roles = if *kind == Kind::CreateTask { &planned } else { &others };
            RunTool::of(*kind, assignment, deps, recorded, roles)
        });
        let tools = tools.filter(|tool| policy.may_ever(&tool.spec.name));
        let tools = tools.filter(|tool| tool.kind != Kind::HandOff || !others.is_empty());
        let own = tools.map(|tool| (Arc::clone(&tool.spec.name), tool)).collect();
        // First, as it may have to wait for a person: then there is no view yet.
        let remote = remote::tools_of(assignment, deps, policy).await?;
        let place = Place::of(assignment, deps, recorded, rules).await?;
        let mut tools = match &place {
            Some(place) => Some(place.tools(assignment, deps, rules, policy).await?),
            None => None,
        };
        let mut others: Vec<Box<dyn Tool>> = Vec::new();
        if let Some(pages) = deps.workshop.pages(assignment, deps, rules, policy).await? {
            others.push(Box::new(pages));
        }
        others.extend(remote.into_iter().map(|it| Box::new(it) as Box<dyn Tool>));
        for tool in others {
            let tools = match &mut tools {
                Some(tools) => tools,
                None => tools.insert(deps.workshop.tools_without_place(assignment.run.run)?),
            };
            if let Err(error) = tools.add_boxed(tool) {
                tracing::warn!(error.code = error.code(), %error, "a tool is left out");
            }
        }
        Ok(Self { own, tools, place })
    }

    /// The tools: those of the run, then the others, each by name.
    pub fn specs(&self) -> impl Iterator<Item = &Arc<ToolSpec>> {
        let others = self.tools.iter().flat_map(crewline_tools::Toolbox::specs);
        self.own.values().map(|tool| &tool.spec).chain(others)
    }

    /// One of them.
    pub fn spec(&self, name: &str) -> Option<&Arc<ToolSpec>> {
        match self.own.get(name) {
            Some(tool) => Some(&tool.spec),
            None => self.tools.as_ref()?.spec(name),
        }
    }

    /// All that is wrong with a call; empty when it can be made.
    pub fn problems(&self, name: &str, arguments: &Value) -> Vec<String> {
        match self.spec(name) {
            Some(spec) => spec.problems(arguments),
            None => vec!["there is no such tool".to_owned()],
        }
    }

    /// What the tool itself says of a call whose arguments are those it takes.
    pub fn look(&self, name: &str, arguments: &Value) -> Look {
        match self.tools.as_ref().filter(|tools| tools.spec(name).is_some()) {
            Some(tools) => match tools.review(name, arguments) {
                Review::Ready => Look::Fine,
                Review::Ask(_) => Look::Ask,
                Review::Refuse(why) => Look::Refuse(why),
            },
            None => Look::Fine,
        }
    }

    /// Makes a call.
    pub async fn call(&self, call: ToolCall<'_>) -> Observation {
        match (self.own.get(call.name), &self.tools) {
            (Some(tool), _) => {
                let problems = tool.spec.problems(call.arguments);
                if !problems.is_empty() {
                    return Observation { text: problems.join("\n- "), outcome: ToolOutcome::Invalid };
                }
                tool.call(call.arguments).await
            }
            (None, Some(tools)) => Observation::of(tools.call(call).await),
            (None, None) => Observation { text: "there is no such tool".to_owned(), outcome: ToolOutcome::Invalid },
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
    CreateTask,
    HandOff,
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
        Self::CreateTask,
        Self::HandOff,
        Self::AskPerson,
        Self::GiveUp,
    ];

    fn spec(self, roles: &[Role]) -> ToolSpec {
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
                ToolEffect::Read,
            ),
            Self::Progress => (
                "progress",
                "Tells people who watch how far you are. Use it seldom.",
                one("text", "A line."),
                ToolEffect::Read,
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
                ToolEffect::Read,
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
                ToolEffect::Repeatable,
            ),
            Self::Share => (
                "share",
                "Tells the other specialists something that they will need.",
                one("text", "What they need to know."),
                ToolEffect::Repeatable,
            ),
            Self::CreateTask => return create_task::spec(roles),
            Self::HandOff => {
                let part = |about: &str| json!({"type": "string", "maxLength": HANDED_CHARS_MAX, "description": about});
                let mut properties: serde_json::Map<String, Value> =
                    HANDED.iter().map(|(name, _, about)| ((*name).to_owned(), part(about))).collect();
                let roles: Vec<&str> = roles.iter().map(Role::as_str).collect();
                properties.insert("role".to_owned(), json!({"type": "string", "enum": roles}));
                (
                    HAND_OFF,
                    "Hands this task to another role, which goes on from the files as you leave them and knows what you say \
                     here. Use it when the work that is left is theirs.",
                    json!({
                        "type": "object", "required": ["role", "decided", "tried", "rejected", "open"],
                        "additionalProperties": false, "properties": properties
                    }),
                    ToolEffect::Repeatable,
                )
            }
            Self::AskPerson => (
                ASK_PERSON,
                "Asks a person a question. The work waits for the answer: ask only what you can not find out.",
                one("question", "The question."),
                ToolEffect::Read,
            ),
            Self::GiveUp => (
                GIVE_UP,
                "Ends the work without a result, when it can not be done.",
                one("reason", "Why it can not be done."),
                ToolEffect::Read,
            ),
        };
        ToolSpec::new(name, description, parameters, effect)
    }
}

/// The tools that a run itself offers to a specialist; they ask about `roles`.
pub fn run_tools(roles: &[Role]) -> Vec<ToolSpec> {
    Kind::ALL.iter().map(|kind| kind.spec(roles)).collect()
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
    /// How often the task was handed on already.
    handoffs: usize,
    /// How many further tasks were asked for already.
    wishes: AtomicUsize,
}

impl RunTool {
    fn of(kind: Kind, assignment: &Assignment, deps: &Deps, recorded: &Recorded, roles: &[Role]) -> Self {
        Self {
            kind,
            spec: Arc::new(kind.spec(roles)),
            handoffs: recorded.handoffs(),
            wishes: recorded.made(create_task::NAME).into(),
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
            Kind::CreateTask if self.wishes.fetch_add(1, Ordering::Relaxed) < WISHES_MAX => {
                Observation::ok("it is asked for; the manager decides when this task is done. Go on with your own work")
            }
            Kind::CreateTask => {
                Observation::failed(format!("this task asked for {WISHES_MAX} others already, and may for no more"))
            }
            // The attempt ends with it; the manager does the rest.
            Kind::HandOff if self.handoffs < HANDOFFS_MAX => Observation::ok("it is handed over"),
            Kind::HandOff => Observation::failed(format!(
                "the task was handed on {HANDOFFS_MAX} times already, and is not any more: finish it, or give up"
            )),
            // The loop does what these ask for; they never get here.
            Kind::AskPerson | Kind::GiveUp => Observation::failed("this is no call that can be made"),
        }
    }
}
