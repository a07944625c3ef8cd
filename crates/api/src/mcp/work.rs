//! Tasks and decisions in the hands of outside agents: `task_next`, `task_mark`, `task_note`, `approve`.
//!
//! **Invariant:** a task changes hands only while nobody works on its run, as by hand.
//! **Invariant:** a decision is recorded once, with who said it, and covers what it was asked about and nothing else.

use std::collections::BTreeMap;

use crewline_runtime::{Changed, Decided, Decision, Next, TaskCommand, TaskView};
use crewline_types::{ErrorKind, LinkKind, TaskStatus};
use rmcp::{
    handler::server::wrapper::{Json, Parameters},
    model::Extensions,
    schemars::{self, JsonSchema},
    tool, tool_router,
};
use serde::{Deserialize, Serialize};

use super::{Mcp, Refusal, caller_of, refusal, refused};
use crate::Problem;

/// The tool that decides in a person's place.
pub(super) const APPROVE: &str = "approve";

/// Who asks for a task.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NextArgs {
    /// The run: its id or unique beginning. When left out: the project's runs that are not over and that nobody works on.
    run: Option<String>,
    /// The project, when no run is named.
    project: Option<String>,
    /// Who asks. A task that is assigned to somebody else is not given.
    agent: Option<String>,
    /// Mark it as in progress for `agent`, which must be given then.
    #[serde(default)]
    start: bool,
}

/// A task and where it goes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MarkArgs {
    /// The run: its id or unique beginning.
    run: String,
    /// The key of the task in its plan, or its id.
    task: String,
    /// Where to.
    status: Mark,
    /// The result, with `completed`.
    result: Option<String>,
    /// Why, or what came of it.
    message: Option<String>,
    /// Anything else that shall be kept.
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    /// Who says so; `mcp` when left out.
    agent: Option<String>,
}

/// Where a task may go.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// To be done, or done again.
    Pending,
    /// Somebody works on it.
    InProgress,
    /// It can not be done now.
    Blocked,
    /// Done.
    Completed,
    /// Not done, and not to be.
    Failed,
    /// Not wanted any more.
    Cancelled,
}

impl From<Mark> for TaskStatus {
    fn from(mark: Mark) -> Self {
        match mark {
            Mark::Pending => Self::Pending,
            Mark::InProgress => Self::InProgress,
            Mark::Blocked => Self::Blocked,
            Mark::Completed => Self::Completed,
            Mark::Failed => Self::Failed,
            Mark::Cancelled => Self::Cancelled,
        }
    }
}

/// A task and what is noted on it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoteArgs {
    /// The run: its id or unique beginning.
    run: String,
    /// The key of the task in its plan, or its id.
    task: String,
    /// What is noted.
    text: String,
    /// Who notes it; `mcp` when left out.
    agent: Option<String>,
}

/// What is decided.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproveArgs {
    /// What waits: the id of the approval or its unique beginning; or a run or task that waits for one answer only.
    approval: String,
    /// What is said.
    decision: Word,
    /// The reason; the answer to a question.
    message: Option<String>,
    /// Who decides; recorded behind `mcp:`.
    by: Option<String>,
}

/// What is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// Yes.
    Approve,
    /// No.
    Reject,
    /// The message, to a question.
    Answer,
}

/// The next task.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NextTask {
    /// The task that can be worked on and goes first; null when nothing is ready.
    task: Option<WorkTask>,
    /// Tasks that are ready.
    ready: usize,
    /// Tasks that would be, but are planned for later.
    planned: usize,
    /// When the first of them may be begun, in RFC 3339; null when none is planned.
    planned_for: Option<String>,
    /// Tasks that somebody works on.
    in_progress: usize,
    /// Tasks that wait for others.
    waiting: usize,
    /// Tasks that are blocked.
    blocked: usize,
}

/// A task to be worked on.
#[derive(Debug, Serialize, JsonSchema)]
pub struct WorkTask {
    /// Its run.
    run: String,
    /// Its id.
    id: String,
    /// Its name in the plan.
    key: String,
    /// Its title.
    title: String,
    /// What is to be done.
    description: String,
    /// Who does it.
    role: String,
    /// Where it is.
    status: String,
    /// The keys of the tasks it requires; `task_show` gives what they made.
    depends_on: Vec<String>,
    /// How to tell that it is done.
    success_criteria: Vec<String>,
}

impl From<TaskView> for WorkTask {
    fn from(task: TaskView) -> Self {
        let requires = task.links.iter().filter(|it| it.kind == LinkKind::Requires).map(|it| it.to.to_string());
        Self {
            run: task.run.to_string(),
            id: task.id.to_string(),
            key: task.key.to_string(),
            title: task.title.to_string(),
            description: task.description.to_string(),
            role: task.role.as_str().to_owned(),
            status: task.status.as_str().to_owned(),
            depends_on: requires.collect(),
            success_criteria: task.success_criteria.iter().map(|it| it.criterion.clone()).collect(),
        }
    }
}

impl From<Next> for NextTask {
    fn from(next: Next) -> Self {
        Self {
            task: next.task.map(WorkTask::from),
            ready: next.ready,
            planned: next.planned,
            planned_for: next.planned_for.map(|at| at.to_string()),
            in_progress: next.in_progress,
            waiting: next.waiting,
            blocked: next.blocked,
        }
    }
}

/// What followed from a change.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ChangedTasks {
    /// The run.
    run: String,
    /// Where it is now.
    run_status: String,
    /// The tasks whose status changed.
    tasks: Vec<ChangedLine>,
}

/// A task whose status changed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ChangedLine {
    /// Its id.
    id: String,
    /// Its name in the plan.
    key: String,
    /// Where it is now.
    status: String,
    /// Why, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl From<Changed> for ChangedTasks {
    fn from(changed: Changed) -> Self {
        let tasks = changed.tasks.into_iter().map(|it| ChangedLine {
            id: it.id.to_string(),
            key: it.key.to_string(),
            status: it.status.as_str().to_owned(),
            reason: it.reason,
        });
        Self {
            run: changed.run.to_string(),
            run_status: changed.run_status.as_str().to_owned(),
            tasks: tasks.collect(),
        }
    }
}

/// What was decided.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Settled {
    /// The id of the approval.
    approval: String,
    /// The run.
    run: String,
    /// What it was about, in a line.
    subject: String,
    /// `approved` or `rejected`.
    state: String,
    /// Who decided.
    by: Option<String>,
    /// Questions of the run that still wait.
    pending: usize,
    /// Whether the run goes on by itself; else `crewline resume` continues it.
    goes_on: bool,
}

impl From<Decided> for Settled {
    fn from(decided: Decided) -> Self {
        let asked = decided.asked;
        Self {
            approval: asked.id.to_string(),
            run: asked.run.to_string(),
            subject: asked.subject,
            state: asked.state.as_str().to_owned(),
            by: asked.decided_by,
            pending: decided.pending,
            goes_on: decided.goes_on,
        }
    }
}

#[tool_router(router = work_routes, vis = "pub(super)")]
impl Mcp {
    #[tool(
        name = "task_next",
        description = "The task that can be worked on and goes first, of a run that nobody works on. With `start` it is marked \
                       as in progress for `agent`.",
        annotations(title = "Next task", read_only_hint = false, destructive_hint = false, idempotent_hint = false)
    )]
    async fn task_next(&self, Parameters(args): Parameters<NextArgs>) -> Result<Json<NextTask>, Refusal> {
        let run = match &args.run {
            Some(run) => Some(self.find(run).await?),
            None => None,
        };
        let project = args.project.as_deref().unwrap_or(&self.project);
        let agent = args.agent.as_deref();
        if args.start && agent.is_none() {
            let problem = Problem::new(ErrorKind::Invalid, "api.invalid_body", "`start` needs an `agent`");
            return Err(refusal(&problem));
        }
        let mut next = self.handle.next_task(project, run, agent).await.map_err(refused)?;
        if let (true, Some(agent), Some(task)) = (args.start, agent, &next.task) {
            let (run, id) = (task.run, task.id);
            let command = TaskCommand::Mark {
                task: id.to_string(),
                to: TaskStatus::InProgress,
                result: None,
                note: None,
                metadata: BTreeMap::new(),
            };
            self.handle.change_tasks(run, &[command], agent).await.map_err(refused)?;
            next.task = Some(self.handle.task_view(run, id).await.map_err(refused)?);
        }
        Ok(Json(next.into()))
    }

    #[tool(
        name = "task_mark",
        description = "Says where a task of a run that nobody works on is now, with its result when it is completed. Who \
                       required it goes on.",
        annotations(title = "Mark a task", read_only_hint = false, destructive_hint = false, idempotent_hint = true)
    )]
    async fn task_mark(&self, Parameters(args): Parameters<MarkArgs>) -> Result<Json<ChangedTasks>, Refusal> {
        let run = self.find(&args.run).await?;
        let task = self.handle.find_task(run, &args.task).await.map_err(refused)?;
        let command = TaskCommand::Mark {
            task: task.to_string(),
            to: args.status.into(),
            result: args.result,
            note: args.message,
            metadata: args.metadata,
        };
        let agent = args.agent.as_deref().unwrap_or(super::AGENT);
        Ok(Json(self.handle.change_tasks(run, &[command], agent).await.map_err(refused)?.into()))
    }

    #[tool(
        name = "task_note",
        description = "Keeps a note with a task of a run that nobody works on.",
        annotations(
            title = "Note on a task",
            read_only_hint = false,
            destructive_hint = false,
            idempotent_hint = false
        )
    )]
    async fn task_note(&self, Parameters(args): Parameters<NoteArgs>) -> Result<Json<ChangedTasks>, Refusal> {
        let run = self.find(&args.run).await?;
        let task = self.handle.find_task(run, &args.task).await.map_err(refused)?;
        let command = TaskCommand::Note { task: task.to_string(), text: args.text };
        let agent = args.agent.as_deref().unwrap_or(super::AGENT);
        Ok(Json(self.handle.change_tasks(run, &[command], agent).await.map_err(refused)?.into()))
    }

    #[tool(
        name = "approve",
        description = "Decides on something that waits for a person, and lets the run go on. Ask the person first: what is said \
                       here is recorded as their word, once, and holds for exactly what was asked.",
        annotations(title = "Decide", read_only_hint = false, destructive_hint = true, idempotent_hint = false)
    )]
    async fn approve(
        &self,
        Parameters(args): Parameters<ApproveArgs>,
        extensions: Extensions,
    ) -> Result<Json<Settled>, Refusal> {
        let decision = match args.decision {
            Word::Approve => Decision::Approve,
            Word::Reject => Decision::Reject,
            Word::Answer if args.message.is_none() => {
                let problem = Problem::new(ErrorKind::Invalid, "api.invalid_body", "an answer needs a `message`");
                return Err(refusal(&problem));
            }
            Word::Answer => Decision::Answer,
        };
        let asked = self.handle.find_approval(&args.approval).await.map_err(refused)?;
        let said = args.by.map_or_else(|| super::AGENT.to_owned(), |name| format!("{}:{name}", super::AGENT));
        let caller = caller_of(&extensions).map_err(|problem| refusal(&problem))?;
        let by = caller.who(Some(&said), &said);
        let decided = self.handle.settle(asked.id, &decision, &by, args.message).await.map_err(refused)?;
        Ok(Json(decided.into()))
    }
}
