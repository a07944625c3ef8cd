//! Why the runtime could not do what it was asked to.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use crewline_engine::plan::Problem;
use crewline_store::Wish;
use crewline_types::{
    ApprovalId, ApprovalKind, ApprovalState, ErrorKind, RunId, RunStatus, TaskId, TaskStatus, event::ErrorNote,
};

use crate::Mismatch;

/// The runtime's error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plan can not be run.
    #[error("plan is not valid: {}", first(problems))]
    Plan {
        /// All that is wrong with it.
        problems: Vec<Problem>,
    },
    /// There is no such thing.
    #[error("no {what} `{id}`")]
    NotFound {
        /// What was looked for.
        what: &'static str,
        /// What was given.
        id: String,
    },
    /// The beginning of an id names more than one thing.
    #[error("`{prefix}` may be any of {}", candidates.join(", "))]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// What it may mean.
        candidates: Vec<String>,
    },
    /// A key can not be called that.
    #[error("`{name}` is no name of a key: it needs 1 to {chars_max} characters that can be printed")]
    KeyName {
        /// What was given.
        name: String,
        /// Characters at most.
        chars_max: usize,
    },
    /// Another key has the name.
    #[error("there is a key `{name}`")]
    KeyNameTaken {
        /// The name.
        name: String,
    },
    /// A launch has the key of another one.
    #[error("the idempotency key was used for another request, which launched run `{run}`")]
    LaunchKeyReused {
        /// The run that has the key.
        run: RunId,
    },
    /// The system has no random numbers.
    #[error("the system gives no random numbers: {message}")]
    Random {
        /// Why.
        message: String,
    },
    /// Another process works on the run.
    #[error("run `{run}` is being worked on by {owner}")]
    Held {
        /// The run.
        run: RunId,
        /// Who holds it.
        owner: String,
    },
    /// A process holds the run and does nothing: its lease has ended, and what is wished of the run waits for it.
    #[error("run `{run}` is held by {owner}, which does not work: its lease has ended")]
    Frozen {
        /// The run.
        run: RunId,
        /// Who holds it; its process id is behind the colon, where it is known.
        owner: String,
        /// What is recorded, and done when that process goes on.
        wish: Wish,
    },
    /// Nothing has happened in a run that is to be stopped for longer than anything may take.
    #[error("run `{run}` is not stopped, and nothing has happened in it for {limit:?}")]
    NotStopped {
        /// The run.
        run: RunId,
        /// How long.
        limit: Duration,
    },
    /// The run has ended and can not go on.
    #[error("run `{run}` is {}", status.as_str())]
    Finished {
        /// The run.
        run: RunId,
        /// How it ended.
        status: RunStatus,
    },
    /// A task can not be tried again, for it did not fail.
    #[error("task `{task}` is {status}, so there is nothing to try again")]
    NotFailed {
        /// Its run.
        run: RunId,
        /// Its key.
        task: String,
        /// Where it is.
        status: TaskStatus,
    },
    /// A task merged nothing into a workspace.
    #[error("task `{task}` of run `{run}` has changed nothing in a workspace")]
    NothingChanged {
        /// Its run.
        run: RunId,
        /// The task.
        task: TaskId,
    },
    /// Tools or a workspace failed.
    #[error(transparent)]
    Tools(#[from] crewline_tools::Error),
    /// A run has no failed task.
    #[error("no task of run `{run}` failed")]
    NothingFailed {
        /// The run.
        run: RunId,
    },
    /// A run has no plan that could be used again.
    #[error("run `{run}` has no plan yet, so there is nothing to take over")]
    NoPlan {
        /// The run.
        run: RunId,
    },
    /// Planning is not made again by a replay.
    #[error("the root task of run `{run}` plans, and a replay keeps the plan")]
    NotReplayable {
        /// The run.
        run: RunId,
    },
    /// Recorded results do not follow from what their tasks would be given now.
    #[error("{} of run `{run}` would be given other inputs than when it was made:{}", tasks_of(tasks), lines(tasks))]
    Mismatch {
        /// The run.
        run: RunId,
        /// The tasks, and what differs.
        tasks: Vec<Mismatch>,
    },
    /// A field can not be edited like that.
    #[error("{message}")]
    Edit {
        /// The field, the value and what is allowed.
        message: String,
    },
    /// Tasks would require each other in a circle.
    #[error("tasks would require each other in a circle: {}", path.join(" → "))]
    Circle {
        /// The keys of the way round; the first is also the last.
        path: Vec<String>,
    },
    /// A field of a task has a value that is not allowed.
    #[error("{message}")]
    TaskField {
        /// The field, the value and what is allowed.
        message: String,
    },
    /// A task is where that can not be done to it.
    #[error("task `{task}` is {status}, and so can not be {what}")]
    TaskState {
        /// Its run.
        run: RunId,
        /// Its key.
        task: String,
        /// Where it is.
        status: TaskStatus,
        /// What was asked for.
        what: &'static str,
    },
    /// A key names another task already.
    #[error("run `{run}` has a task `{key}` already")]
    KeyTaken {
        /// The run.
        run: RunId,
        /// The key.
        key: String,
    },
    /// A task waits for others.
    #[error("task `{task}` waits for {}", open.join(", "))]
    NotReady {
        /// Its key.
        task: String,
        /// The keys of what it waits for.
        open: Vec<String>,
    },
    /// A person can not decide that on a context.
    #[error("{message}")]
    ContextItem {
        /// What was asked for, and why not.
        message: String,
    },
    /// The context of a task is approved.
    #[error("the context of task `{task}` is approved, so nothing of it can be decided")]
    ContextLocked {
        /// Its run.
        run: RunId,
        /// Its key.
        task: String,
    },
    /// The context of a task can not be approved yet.
    #[error("the context of task `{task}` lacks the results of {}", missing.join(", "))]
    ContextIncomplete {
        /// Its key.
        task: String,
        /// The keys of the tasks that have no result.
        missing: Vec<String>,
    },
    /// A recorded context can not be read.
    #[error("context of task `{task}`: {message}")]
    Approved {
        /// The task.
        task: String,
        /// What is wrong.
        message: String,
    },
    /// A cap needs prices that the registry does not give.
    #[error("a cost limit needs a price for {}", models.join(", "))]
    Unpriced {
        /// The models without a price.
        models: Vec<String>,
    },
    /// This process has no registry file that could be read again.
    #[error("the registry of this process does not change")]
    FixedRegistry,
    /// As many runs as are allowed are active.
    #[error("{active} runs are active, no more are admitted")]
    Busy {
        /// How many.
        active: usize,
    },
    /// An actor did not answer.
    #[error("the runtime does not answer: {0}")]
    Actor(#[from] crate::actor::AskError),
    /// An actor could not be started.
    #[error("the runtime could not start: {0}")]
    Spawn(String),
    /// A file could not be written or read.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The recorded settings of a run can not be read.
    #[error("settings of run `{run}`: {message}")]
    Settings {
        /// The run.
        run: RunId,
        /// What is wrong.
        message: String,
    },
    /// A question is not answered with yes, and what is no question not with a text.
    #[error("approval `{id}` is about {}", match kind {
        ApprovalKind::Question => "a question, which needs an answer",
        ApprovalKind::Plan | ApprovalKind::Context | ApprovalKind::Tool | ApprovalKind::Again => "yes or no",
    })]
    NotAsked {
        /// What was named.
        id: ApprovalId,
        /// What it is about.
        kind: ApprovalKind,
    },
    /// It is decided already.
    #[error("approval `{id}` is {} already", state.as_str())]
    Decided {
        /// What was named.
        id: ApprovalId,
        /// How it was decided.
        state: ApprovalState,
    },
    /// The run's manager gave up; nothing acknowledged is lost.
    #[error("run `{run}` stopped: {}", note.message)]
    GaveUp {
        /// The run.
        run: RunId,
        /// Why.
        note: ErrorNote,
    },
    /// A prompt template is broken.
    #[error("prompt template `{name}`: {message}")]
    Prompt {
        /// The template.
        name: String,
        /// What is wrong, with the line.
        message: String,
    },
    /// A memory is empty, or too long for one.
    #[error("a memory has 1 to {most} characters, this has {chars}")]
    MemorySize {
        /// What was given.
        chars: usize,
        /// What is taken.
        most: usize,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] crewline_store::Error),
    /// A model or the registry failed.
    #[error(transparent)]
    Models(#[from] crewline_models::Error),
    /// Memory failed.
    #[error(transparent)]
    Memory(#[from] crewline_memory::Error),
}

/// Mismatches that are listed.
const LISTED_MAX: usize = 20;

fn tasks_of(tasks: &[Mismatch]) -> String {
    match tasks {
        [one] => format!("task `{}`", one.key),
        many => format!("{} tasks", many.len()),
    }
}

fn lines(tasks: &[Mismatch]) -> String {
    let mut text = String::new();
    for task in tasks.iter().take(LISTED_MAX) {
        // Writing into memory can not fail.
        let _ = write!(text, "\n  {}: {}", task.key, task.why);
    }
    if tasks.len() > LISTED_MAX {
        let _ = write!(text, "\n  and {} more", tasks.len() - LISTED_MAX);
    }
    text
}

/// How a process that does nothing goes on, or is ended.
fn thawing(owner: &str, wish: Wish) -> String {
    let wish = wish.as_str();
    match owner.rsplit_once(':').and_then(|(_, pid)| pid.parse::<u32>().ok()) {
        Some(pid) => format!(
            "the {wish} is recorded: `kill -CONT {pid}` lets that process go on and do it, after `kill -9 {pid}` ask again"
        ),
        None => format!("the {wish} is recorded: that process does it when it goes on; when it has ended, ask again"),
    }
}

fn first(problems: &[Problem]) -> String {
    match problems {
        [] => "unknown problem".into(),
        [only] => only.to_string(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
    }
}

impl Error {
    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Plan { .. }
            | Self::Ambiguous { .. }
            | Self::Unpriced { .. }
            | Self::Prompt { .. }
            | Self::Edit { .. }
            | Self::Circle { .. }
            | Self::TaskField { .. }
            | Self::ContextItem { .. }
            | Self::NotAsked { .. }
            | Self::NotReplayable { .. }
            | Self::KeyName { .. }
            | Self::LaunchKeyReused { .. }
            | Self::MemorySize { .. } => ErrorKind::Invalid,
            Self::NotFound { .. } | Self::NothingChanged { .. } => ErrorKind::NotFound,
            Self::Tools(error) => error.kind(),
            Self::Held { .. }
            | Self::Frozen { .. }
            | Self::Finished { .. }
            | Self::NotFailed { .. }
            | Self::NothingFailed { .. }
            | Self::NoPlan { .. }
            | Self::TaskState { .. }
            | Self::KeyTaken { .. }
            | Self::KeyNameTaken { .. }
            | Self::NotReady { .. }
            | Self::ContextLocked { .. }
            | Self::ContextIncomplete { .. }
            | Self::FixedRegistry
            | Self::Decided { .. }
            | Self::Mismatch { .. } => ErrorKind::Conflict,
            Self::Busy { .. } => ErrorKind::Busy,
            Self::NotStopped { .. } => ErrorKind::Timeout,
            Self::Actor(_)
            | Self::Spawn(_)
            | Self::Random { .. }
            | Self::Io { .. }
            | Self::Settings { .. }
            | Self::Approved { .. } => ErrorKind::Internal,
            Self::GaveUp { note, .. } => note.kind,
            Self::Store(error) => error.kind(),
            Self::Models(error) => error.kind(),
            Self::Memory(error) => error.kind(),
        }
    }

    /// The stable code; `docs/errors.md` has a section for each.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Plan { .. } => "plan.invalid",
            Self::NotFound { what: "task", .. } => "task.not_found",
            Self::NotFound { what: "model", .. } => "model.unknown",
            Self::NotFound { what: "link", .. } => "task.no_link",
            Self::NotFound { what: "version", .. } => "index.no_version",
            Self::NotFound { what: "attempt", .. } => "context.no_attempt",
            Self::NotFound { what: "memory" | "task or memory", .. } => "context.no_item",
            Self::NotFound { what: "approval", .. } => "approval.not_found",
            Self::NotFound { what: "key", .. } => "key.not_found",
            Self::KeyName { .. } => "key.name",
            Self::KeyNameTaken { .. } => "key.name_taken",
            Self::LaunchKeyReused { .. } => "run.key_reused",
            Self::Random { .. } => "key.random",
            Self::NotAsked { .. } => "approval.kind",
            Self::Decided { .. } => "approval.decided",
            Self::NotFound { .. } => "run.not_found",
            Self::Ambiguous { .. } => "run.ambiguous",
            Self::Held { .. } => "run.held",
            Self::Frozen { .. } => "run.frozen",
            Self::NotStopped { .. } => "run.not_stopped",
            Self::Finished { .. } => "run.finished",
            Self::NotFailed { .. } => "task.not_failed",
            Self::NothingFailed { .. } => "run.nothing_failed",
            Self::NothingChanged { .. } => "task.nothing_changed",
            Self::Tools(error) => error.code(),
            Self::NoPlan { .. } => "replay.no_plan",
            Self::NotReplayable { .. } => "replay.root",
            Self::Mismatch { .. } => "replay.mismatch",
            Self::Edit { .. } => "replay.edit",
            Self::Circle { .. } => "task.circle",
            Self::TaskField { .. } => "task.field",
            Self::TaskState { .. } => "task.state",
            Self::KeyTaken { .. } => "task.key_taken",
            Self::NotReady { .. } => "task.not_ready",
            Self::ContextItem { .. } => "context.item",
            Self::ContextLocked { .. } => "context.locked",
            Self::ContextIncomplete { .. } => "context.incomplete",
            Self::Approved { .. } => "context.corrupt",
            Self::Unpriced { .. } => "run.unpriced",
            Self::FixedRegistry => "registry.fixed",
            Self::Busy { .. } => "run.busy",
            Self::Actor(_) => "runtime.no_answer",
            Self::Spawn(_) => "runtime.start",
            Self::Io { .. } => "runtime.io",
            Self::Settings { .. } => "run.settings",
            Self::GaveUp { .. } => "run.stopped",
            Self::Prompt { .. } => "prompt.invalid",
            Self::MemorySize { .. } => "memory.size",
            Self::Store(error) => error.code(),
            Self::Models(error) => error.code(),
            Self::Memory(error) => error.code(),
        }
    }

    /// Whether the same request may work later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Actor(_) | Self::NotStopped { .. } => true,
            Self::Plan { .. }
            | Self::KeyName { .. }
            | Self::KeyNameTaken { .. }
            | Self::LaunchKeyReused { .. }
            | Self::Random { .. }
            | Self::NotFound { .. }
            | Self::Ambiguous { .. }
            | Self::Held { .. }
            | Self::Frozen { .. }
            | Self::Finished { .. }
            | Self::NotFailed { .. }
            | Self::NothingFailed { .. }
            | Self::NothingChanged { .. }
            | Self::NoPlan { .. }
            | Self::NotReplayable { .. }
            | Self::NotAsked { .. }
            | Self::Decided { .. }
            | Self::Mismatch { .. }
            | Self::Edit { .. }
            | Self::Circle { .. }
            | Self::TaskField { .. }
            | Self::TaskState { .. }
            | Self::KeyTaken { .. }
            | Self::NotReady { .. }
            | Self::ContextItem { .. }
            | Self::ContextLocked { .. }
            | Self::ContextIncomplete { .. }
            | Self::Approved { .. }
            | Self::Unpriced { .. }
            | Self::FixedRegistry
            | Self::Spawn(_)
            | Self::Io { .. }
            | Self::Settings { .. }
            | Self::GaveUp { .. }
            | Self::MemorySize { .. }
            | Self::Prompt { .. } => false,
            Self::Store(error) => error.is_retryable(),
            Self::Models(error) => error.is_retryable(),
            Self::Memory(error) => error.is_retryable(),
            Self::Tools(error) => error.is_retryable(),
        }
    }

    /// Each thing that is wrong with an input, with its place, where an input can have several.
    pub fn details(&self) -> Vec<serde_json::Value> {
        if let Self::Plan { problems } = self {
            return problems.iter().filter_map(|it| serde_json::to_value(it).ok()).collect();
        }
        if let Self::Models(crewline_models::Error::Registry(invalid)) = self {
            let detail = |it: &crewline_models::Problem| serde_json::json!({"line": it.line, "column": it.column, "message": it.message, "help": it.help});
            return invalid.problems.iter().map(detail).collect();
        }
        Vec::new()
    }

    /// The next step for a person, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { what: "key", .. } => Some("`crewline keys ls` lists the keys".into()),
            Self::KeyNameTaken { .. } => {
                Some("choose another name, or take it back with `crewline keys revoke`".into())
            }
            Self::LaunchKeyReused { .. } => Some("send a new `Idempotency-Key` with a new request".into()),
            Self::NotFound { what: "model", .. } => Some("`crewline registry show` lists the models".into()),
            Self::NotFound { what: "approval", .. } | Self::Decided { .. } => {
                Some("`crewline approvals` lists what waits for a decision, `--all` what was decided".into())
            }
            Self::NotAsked { id, kind: ApprovalKind::Question } => {
                Some(format!("it is a question: `crewline answer {id} \"…\"`"))
            }
            Self::NotAsked { id, .. } => Some(format!("`crewline approve {id}` or `crewline reject {id}`")),
            Self::NotFound { what: "task", .. } => Some("`crewline show RUN` lists the tasks of a run".into()),
            Self::NotFound { what: "link", .. } => Some("`crewline link ls RUN` lists the links of a run".into()),
            Self::NotFound { what: "version", .. } => Some("`crewline index history RUN` lists the versions".into()),
            Self::NotFound { what: "attempt", .. } => {
                Some("`crewline context preview TASK` shows what the next attempt would be told".into())
            }
            Self::NotFound { what: "memory" | "task or memory", .. } => {
                Some("`crewline show RUN` lists tasks, `crewline memory search` finds memories of the project".into())
            }
            Self::NotFound { what: "run or task", .. } => {
                Some("a task is named by its id or as RUN/KEY; `crewline ps --all` lists the runs".into())
            }
            Self::NotFound { .. } => Some("`crewline ps --all` lists the runs".into()),
            Self::Ambiguous { .. } => Some("give more characters of the id".into()),
            Self::Held { .. } => Some("wait for that process, or stop it: its lock goes with it".into()),
            Self::Frozen { owner, wish, .. } => Some(thawing(owner, *wish)),
            Self::NotStopped { run, .. } => {
                Some(format!("`crewline watch {run}` shows what it waits for; what was asked stays recorded"))
            }
            Self::Finished { run, status: RunStatus::Failed } => {
                Some(format!("`crewline retry {run}` tries its failed tasks again, `crewline retry TASK` one of them"))
            }
            Self::Finished { run, .. } => Some(format!("`crewline show {run}` shows what it made")),
            Self::NotFailed { run, task, status: TaskStatus::Completed } => {
                Some(format!("`crewline replay {run} --from {task}` makes a new run that may make it anew"))
            }
            Self::NotFailed { run, .. } => Some(format!("`crewline resume {run}` continues the run")),
            Self::NothingFailed { run } => Some(format!("`crewline show {run}` shows its tasks")),
            Self::NothingChanged { run, .. } => {
                Some(format!("`crewline artifacts {run}` lists the files that the run changed"))
            }
            Self::Tools(error) => error.hint().map(str::to_owned),
            Self::NoPlan { run } => Some(format!("`crewline resume {run}` goes on with planning")),
            Self::NotReplayable { .. } => Some("`crewline run` with the same goal plans anew".into()),
            Self::Mismatch { run, tasks } => {
                let from: Vec<String> = tasks.iter().take(3).map(|task| format!("--from {}", task.key)).collect();
                Some(format!(
                    "`crewline replay {run} {}{}` makes them anew, `crewline fork {run} --from TASK` takes what is recorded as it is",
                    from.join(" "),
                    if tasks.len() > 3 { " …" } else { "" }
                ))
            }
            Self::Circle { .. } => Some("take one of these links away first: `crewline link rm FROM TO`".into()),
            Self::TaskState { run, task, .. } => Some(format!("`crewline task show {run}/{task}` shows where it is")),
            Self::NotReady { .. } => Some("`crewline next` says which task can be worked on".into()),
            Self::ContextLocked { run, task } => {
                Some(format!("`crewline context approve {run}/{task} --revoke` takes the approval back"))
            }
            Self::ContextIncomplete { .. } => {
                Some("approve it when they are done; what is pinned or excluded holds without an approval".into())
            }
            Self::Unpriced { .. } => {
                Some("give each model a `price` in the registry (zero for a local one), or leave out --max-cost".into())
            }
            Self::GaveUp { run, .. } => {
                Some(format!("mend what the message says, then `crewline resume {run}`: what was recorded is kept"))
            }
            Self::MemorySize { .. } => Some("`crewline memory ingest FILE` cuts long documents into pieces".into()),
            Self::FixedRegistry => Some("only `crewline serve` and `crewline worker` read their file again".into()),
            Self::Models(error) => error.hint(),
            Self::Plan { .. }
            | Self::Busy { .. }
            | Self::Actor(_)
            | Self::Spawn(_)
            | Self::Io { .. }
            | Self::Settings { .. }
            | Self::Edit { .. }
            | Self::TaskField { .. }
            | Self::KeyTaken { .. }
            | Self::ContextItem { .. }
            | Self::Approved { .. }
            | Self::Prompt { .. }
            | Self::Store(_)
            | Self::KeyName { .. }
            | Self::Random { .. }
            | Self::Memory(_) => None,
        }
    }
}
