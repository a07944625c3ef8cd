//! `crewline decompose`: a task becomes several below it.

use std::fmt::Write as _;

use clap::Args;
use crewline_engine::plan::Document;
use crewline_runtime::{Approve, Mode, RunRequest, Strategy, TaskCommand, TaskFields, TaskView, Wish};
use crewline_types::{LinkKind, RunId, RunLimits, TaskKind, TaskStatus};

use crate::{
    app::{self, App},
    commands::{
        context::find,
        plan::limits_of,
        run::{CONCURRENCY, models_mode},
        task::{By, changes},
    },
    console::Console,
    error::Error,
    exit::Exit,
    follow::Follow,
    live::Board,
    settings::{RunDefaults, Settings, process_env},
    signals::Signals,
    view::clean,
};

/// Other tasks that the planner is told of.
const OTHERS_MAX: usize = 200;

/// What `crewline decompose` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  crewline decompose k3v9/build

A planner model breaks the task into smaller ones, which stand below it; it is done when they are. It is told what the plan has
already. Tasks that stood below it before and were not begun are cancelled. The call is recorded, with its cost, in a planning
run of its own, whose id is printed.")]
pub(crate) struct DecomposeArgs {
    /// The task (its id, the beginning of it, or RUN/KEY)
    #[arg(value_name = "TASK")]
    task: String,
    /// Use models on this machine or a private network only
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    by: By,
}

/// Runs the command.
pub(crate) async fn run(args: DecomposeArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let defaults = RunDefaults::load(&process_env)?;
    let mode = if args.offline || defaults.offline { Mode::Offline } else { Mode::Online };
    let registry = app::load_registry(settings, console)?;
    let app = App::start(settings, registry, models_mode(mode)).await?;
    let limits = limits_of(&defaults);
    let done = decompose(&args, limits, mode, &app, settings, console).await;
    app.stop().await;
    done
}

async fn decompose(
    args: &DecomposeArgs,
    limits: RunLimits,
    mode: Mode,
    app: &App,
    settings: &Settings,
    console: &Console,
) -> Result<Exit, Error> {
    let (run, task) = find(app, &args.task).await?;
    let views = app.handle.task_views(run).await?;
    let view = views.iter().find(|view| view.id == task).ok_or_else(|| Error::Usage {
        message: "the root task is the plan itself".into(),
        hint: "name a task of the plan",
    })?;
    refuse_begun(run, view)?;
    let report = app.handle.report(run).await?;
    let wanted = Wanted { project: report.project.to_string(), goal: goal(&report.goal, view, &views), limits, mode };
    let (planning, plan) = match wanted.ask(app, settings, console).await? {
        Answer::Plan(run, plan) => (run, plan),
        Answer::None(exit) => return Ok(exit),
    };
    let commands = commands(view, &views, &plan);
    let changed = app.handle.change_tasks(run, &commands, &args.by.agent).await?;
    console.note(&format!("planned in run {planning}"));
    console.value(&changed, |style| changes(&changed, style))?;
    Ok(Exit::Ok)
}

/// What a planner is asked for, besides a run's own planning.
pub(crate) struct Wanted {
    pub(crate) project: String,
    pub(crate) goal: String,
    pub(crate) limits: RunLimits,
    pub(crate) mode: Mode,
}

/// What the planner said.
pub(crate) enum Answer {
    /// A plan, made in this run.
    Plan(RunId, Document),
    /// None; why has been said.
    None(Exit),
}

impl Wanted {
    /// Asks the planner, in a run of its own: the call is recorded, with its cost.
    pub(crate) async fn ask(self, app: &App, settings: &Settings, console: &Console) -> Result<Answer, Error> {
        let Self { project, goal, limits, mode } = self;
        let request = RunRequest {
            project,
            goal,
            plan: None,
            limits,
            concurrency: CONCURRENCY,
            strategy: Strategy::default(),
            mode,
            strict_plan: false,
            stop_after_plan: true,
            approve: Approve::default(),
            workspace: None,
        };
        let mut signals = Signals::listen()?;
        let run = app.handle.launch(request).await?;
        let people = console.for_people();
        let (handle, board) = (&app.handle, Board::default());
        let exit = Follow { settings, console: &people, handle, run, out: None, after_seq: 0, board }
            .until_end(&mut signals)
            .await?;
        let plan = app.handle.plan_document(run).await?;
        if plan.tasks.is_empty() {
            return Ok(Answer::None(exit));
        }
        // It was for its plan only; nobody shall resume it.
        app.handle.stop(run, Wish::Cancel).await?;
        Ok(Answer::Plan(run, plan))
    }
}

/// Before a model is paid: what can not be decomposed.
fn refuse_begun(run: RunId, view: &TaskView) -> Result<(), Error> {
    match (view.kind, view.status) {
        (TaskKind::Atomic | TaskKind::Composite, TaskStatus::Pending | TaskStatus::Blocked) => Ok(()),
        (_, status) => Err(crewline_runtime::Error::TaskState {
            run,
            task: view.key.to_string(),
            status,
            what: "decomposed: it was begun, or writes the final document",
        }
        .into()),
    }
}

/// What the planner is asked for.
fn goal(goal: &str, view: &TaskView, views: &[TaskView]) -> String {
    let mut text = format!(
        "{}\n\n{}\n\nThis is one task of a larger goal: {}\n",
        view.title,
        view.description,
        goal.lines().next().unwrap_or_default()
    );
    let others: Vec<&TaskView> = views
        .iter()
        .filter(|other| other.id != view.id && other.parent.as_ref() != Some(&view.key))
        .filter(|other| other.status != TaskStatus::Cancelled)
        .collect();
    if !others.is_empty() {
        text.push_str("\nThe plan has these other tasks already; do not plan them again:\n");
        for other in others.iter().take(OTHERS_MAX) {
            // Writing into memory can not fail.
            let _ = writeln!(text, "- {}", clean(&other.title));
        }
    }
    text
}

/// What puts the tasks of `plan` below the task.
fn commands(view: &TaskView, views: &[TaskView], plan: &Document) -> Vec<TaskCommand> {
    let below = views.iter().filter(|it| it.parent.as_ref() == Some(&view.key));
    let open = below.filter(|it| matches!(it.status, TaskStatus::Pending | TaskStatus::Blocked));
    let mut commands: Vec<TaskCommand> =
        open.map(|it| TaskCommand::Delete { task: it.id.to_string(), unlink: true }).collect();
    // Keys of what was decomposed before stay taken.
    let is_taken = |key: &str| views.iter().any(|it| &*it.key == key);
    let rounds = 1..=u32::try_from(views.len()).unwrap_or(u32::MAX).saturating_add(1);
    let is_free = |round: &u32| !plan.tasks.iter().any(|task| is_taken(&key(view, &task.id, *round)));
    let round = rounds.into_iter().find(is_free).unwrap_or(1);
    for task in &plan.tasks {
        let title = Some(task.title.trim()).filter(|it| !it.is_empty()).unwrap_or(&task.id).to_owned();
        let description = Some(task.description.clone()).filter(|it| !it.trim().is_empty());
        let role = Some(task.role.as_deref().map_or_else(|| view.role.clone(), Into::into));
        let fields = Box::new(TaskFields { title: Some(title), description, role, ..TaskFields::default() });
        let key = Some(key(view, &task.id, round));
        let parent = Some(view.id.to_string());
        commands.push(TaskCommand::Add { key, fields, parent, requires: Vec::new(), refers: Vec::new() });
    }
    for task in &plan.tasks {
        for need in &task.depends_on {
            let (from, to) = (key(view, &task.id, round), key(view, need, round));
            commands.push(TaskCommand::Link { from, to, kind: LinkKind::Requires });
        }
    }
    commands
}

fn key(view: &TaskView, id: &str, round: u32) -> String {
    if round == 1 { format!("{}.{}", view.key, id.trim()) } else { format!("{}.{round}.{}", view.key, id.trim()) }
}
