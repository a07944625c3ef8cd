//! `crewline decompose`: a task becomes several below it.

use std::{collections::HashSet, fmt::Write as _};

use clap::Args;
use crewline_engine::plan::Document;
use crewline_runtime::{Approve, DEPTH_MAX, Mode, RunRequest, Strategy, TaskCommand, TaskFields, TaskView, Wish};
use crewline_types::{LinkKind, MicroUsd, RunId, RunLimits, TaskId, TaskKind, TaskStatus};

use crate::{
    app::{self, App},
    commands::{
        context::find,
        plan::limits_of,
        run::{CONCURRENCY, models_mode},
        task::{By, changes, many},
    },
    console::Console,
    error::Error,
    exit::Exit,
    follow::Follow,
    live::Board,
    settings::{RunDefaults, Settings, parse_usd, process_env},
    signals::Signals,
    view::{clean, cost},
};

/// Times that a planner is asked by one command.
const CALLS_MAX: usize = 20;
/// Other tasks that the planner is told of.
const OTHERS_MAX: usize = 200;

/// What `crewline decompose` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline decompose k3v9/build
  crewline decompose k3v9 --complexity 40     every open task of the run that looks at least so hard
  crewline decompose k3v9 --complexity 40 --max-cost 0.10

A planner model breaks the task into smaller ones, which stand below it; it is done when they are. It is told what the plan has
already. Tasks that stood below it before and were not begun are cancelled. The call is recorded, with its cost, in a planning
run of its own, whose id is printed.

By complexity it goes on with what came of it, down to three levels below the root, and asks twenty times at most. How hard a task
looks is told by its length, its criteria, what it requires and some words; it is told of each one that is broken up.")]
pub(crate) struct DecomposeArgs {
    /// The task (its id, the beginning of it, or RUN/KEY); the run with `--complexity`
    #[arg(value_name = "TASK")]
    task: String,
    /// Break up all open tasks of a run that look at least so hard: 0 to 100
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=100))]
    complexity: Option<u8>,
    /// Stop before more than this is spent on all planning of this command together; every model needs a price
    #[arg(long, value_name = "USD", value_parser = parse_usd)]
    max_cost: Option<MicroUsd>,
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
    let limits = RunLimits { cost_max: args.max_cost.or(limits.cost_max), ..limits };
    let breaker = Breaker { limits, mode, agent: &args.by.agent, app: &app, settings, console };
    let done = match args.complexity {
        None => breaker.one(&args.task).await,
        Some(complexity) => breaker.named(&args.task, complexity).await,
    };
    app.stop().await;
    done
}

/// Breaks tasks into smaller ones.
pub(crate) struct Breaker<'a> {
    /// Of each planning run; the cost is that of all together.
    pub(crate) limits: RunLimits,
    pub(crate) mode: Mode,
    /// Who does this.
    pub(crate) agent: &'a str,
    pub(crate) app: &'a App,
    pub(crate) settings: &'a Settings,
    pub(crate) console: &'a Console,
}

impl Breaker<'_> {
    async fn one(&self, name: &str) -> Result<Exit, Error> {
        let (run, task) = find(self.app, name).await?;
        let views = self.app.handle.task_views(run).await?;
        let view = views.iter().find(|view| view.id == task).ok_or_else(|| Error::Usage {
            message: "the root task is the plan itself".into(),
            hint: "name a task of the plan",
        })?;
        refuse_begun(run, view)?;
        let plan = match self.ask(run, view, &views, self.limits.cost_max).await? {
            Answer::Plan(planning, plan) => {
                self.console.note(&format!("planned in run {planning}"));
                plan
            }
            Answer::None(exit) => return Ok(exit),
        };
        let commands = commands(view, &views, &plan);
        let changed = self.app.handle.change_tasks(run, &commands, self.agent).await?;
        self.console.value(&changed, |style| changes(&changed, style))?;
        Ok(Exit::Ok)
    }

    async fn named(&self, run: &str, complexity: u8) -> Result<Exit, Error> {
        let run = self.app.handle.find_run(run).await?;
        let exit = self.hard_ones(run, complexity, MicroUsd::ZERO).await?;
        let views = self.app.handle.task_views(run).await?;
        self.console.list(&views, |style| many(&views, style))?;
        Ok(exit)
    }

    /// Breaks up what looks at least so hard, level by level. A task that the planner sees no parts of stays whole. So much is
    /// `spent` already.
    pub(crate) async fn hard_ones(&self, run: RunId, complexity: u8, mut spent: MicroUsd) -> Result<Exit, Error> {
        let mut asked: HashSet<TaskId> = HashSet::new();
        loop {
            let views = self.app.handle.task_views(run).await?;
            let is_hard = |view: &&TaskView| {
                view.kind == TaskKind::Atomic
                    && matches!(view.status, TaskStatus::Pending | TaskStatus::Blocked)
                    && !asked.contains(&view.id)
                    && level(view, &views) < DEPTH_MAX
                    && view.complexity() >= complexity
            };
            let Some(view) = views.iter().find(is_hard) else { return Ok(Exit::Ok) };
            if asked.len() == CALLS_MAX {
                let message = format!("the planner was asked {CALLS_MAX} times; `{}` and others stay whole", view.key);
                self.console.warn(&message);
                return Ok(Exit::Ok);
            }
            let left = self.limits.cost_max.map(|max| MicroUsd(max.0.saturating_sub(spent.0)));
            if left == Some(MicroUsd::ZERO) {
                self.console.warn(&format!(
                    "{} is spent; `{}` and others stay whole",
                    cost(spent, 0),
                    clean(&view.key)
                ));
                return Ok(Exit::Limit);
            }
            asked.insert(view.id);
            let (planning, plan) = match self.ask(run, view, &views, left).await? {
                Answer::Plan(planning, plan) => (planning, plan),
                Answer::None(exit) => return Ok(exit),
            };
            spent += self.app.handle.report(planning).await?.cost_usd;
            let (key, hard) = (clean(&view.key), view.complexity());
            if plan.tasks.len() < 2 {
                self.console.note(&format!("`{key}` (complexity {hard}) stays whole, by run {planning}"));
                continue;
            }
            self.app.handle.change_tasks(run, &commands(view, &views, &plan), self.agent).await?;
            let parts = plan.tasks.len();
            self.console.note(&format!("`{key}` (complexity {hard}) has {parts} parts now, planned in run {planning}"));
        }
    }

    /// Asks the planner, for no more than `cost_max`.
    async fn ask(
        &self,
        run: RunId,
        view: &TaskView,
        views: &[TaskView],
        cost_max: Option<MicroUsd>,
    ) -> Result<Answer, Error> {
        let report = self.app.handle.report(run).await?;
        let goal = goal(&report.goal, view, views);
        let limits = RunLimits { cost_max, ..self.limits };
        let wanted = Wanted { project: report.project.to_string(), goal, limits, mode: self.mode };
        wanted.ask(self.app, self.settings, self.console).await
    }
}

/// How far below the root a task stands.
fn level(view: &TaskView, views: &[TaskView]) -> usize {
    let above = |view: &&TaskView| views.iter().find(|it| Some(&it.key) == view.parent.as_ref());
    std::iter::successors(Some(view), above).take(views.len()).count()
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
