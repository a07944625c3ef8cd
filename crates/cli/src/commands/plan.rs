//! `crewline plan`: a plan before it is run.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use crewline_runtime::{Approve, Decision, Mode, PlanForecast, Play, Range, RunRequest, Strategy};
use crewline_types::{ApprovalKind, Role, RunId, RunLimits};
use serde::Serialize;

use crate::{
    app::{self, App},
    commands::{
        approve::decide,
        decompose::Breaker,
        extend::{Extend, extend},
        run::{CONCURRENCY, models_mode},
        task::{PERSON, changes, many, warn_overdue},
    },
    console::{Console, encode},
    document::{parse_value, read_plan},
    edit::{edited, show_difference},
    error::Error,
    exit::Exit,
    follow::Follow,
    live::Board,
    settings::{RunDefaults, Settings, process_env},
    signals::Signals,
    view::{Align, Style, clean, count, table},
};

/// What `crewline plan` takes.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Examples:
  crewline plan \"Compare three message brokers\"   a model proposes a plan; nothing is run
  crewline plan plan.yaml                         record a plan of your own
  crewline plan \"Build the shop\" --decompose     the same, and what looks hard is broken into smaller tasks
  crewline plan --empty \"Move to the new office\"   a run without tasks, for `crewline task add`
  crewline plan plan.yaml --estimate              what it may cost and take; nothing is recorded
  crewline plan show k3v9
  crewline plan edit k3v9                         in your editor, as YAML
  crewline plan extend k3v9 \"the costs, too\"      a model adds what it lacks
  crewline resume k3v9                            run it

The plan is a run at rest: `crewline task`, `link`, `next` and `mark` work on it, `crewline resume` lets the crew do what is open.")]
pub(crate) struct PlanArgs {
    #[command(subcommand)]
    action: Option<Action>,
    /// The goal, or the file of a plan
    #[arg(value_name = "GOAL", required = true)]
    what: Option<String>,
    /// Record a run without tasks
    #[arg(long)]
    empty: bool,
    /// Break up tasks that look at least so hard (0 to 100) [default: 40], as `crewline decompose --complexity` does
    #[arg(long, value_name = "COMPLEXITY", num_args = 0..=1, require_equals = true, default_missing_value = "40",
        value_parser = clap::value_parser!(u8).range(0..=100), conflicts_with_all = ["empty", "estimate"])]
    decompose: Option<u8>,
    /// Say what the plan in a file may cost and how long it may take; nothing is recorded or asked
    #[arg(long, conflicts_with_all = ["empty", "offline", "strict_plan"])]
    estimate: bool,
    /// Attempts at once, for the estimate [default: that of a run]
    #[arg(long, value_name = "N", requires = "estimate")]
    concurrency: Option<NonZeroUsize>,
    /// Seed of the estimate's rounds of chance
    #[arg(long, value_name = "N", requires = "estimate", default_value_t = 1)]
    seed: u64,
    /// Use models on this machine or a private network only
    #[arg(long)]
    offline: bool,
    /// Refuse a plan of the model that would need repair
    #[arg(long)]
    strict_plan: bool,
    /// Which of the tasks that are ready goes first
    #[arg(long, value_name = "STRATEGY", value_parser = parse_strategy, default_value = "dag")]
    strategy: Strategy,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the plan of a run
    #[command(after_help = "Example:
  crewline plan show k3v9")]
    Show {
        /// The run
        #[arg(value_name = "RUN")]
        run: String,
    },
    /// Change the plan of a run in your editor, or by a file
    #[command(after_help = "Examples:
  crewline plan edit k3v9
  crewline plan edit k3v9 --file better.yaml

Tasks are matched by their ids. What is gone is cancelled, what is new is added; a task that is done can not be changed. The
document is checked like a plan file, and nothing is changed when anything is wrong with it.")]
    Edit {
        /// The run
        #[arg(value_name = "RUN")]
        run: String,
        /// The new plan (JSON or YAML); `-` reads it from stdin
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Who does this
        #[arg(long, value_name = "NAME", default_value = PERSON)]
        agent: String,
    },
    /// Approve the plan that a run waits with
    #[command(after_help = "Example:
  crewline run \"Write the guide\" --approve plan --detach
  crewline plan approve k3v9 -m \"but keep it short\"

The same as `crewline approve` with the id of what was asked. A plan of `crewline plan` waits for nobody: `crewline resume` runs it.")]
    Approve {
        /// The run
        #[arg(value_name = "RUN")]
        run: String,
        /// Say something with it
        #[arg(short, long, value_name = "TEXT")]
        message: Option<String>,
    },
    /// Let a model add what the plan of a run lacks
    #[command(after_help = "Examples:
  crewline plan extend k3v9
  crewline plan extend k3v9 \"cover the costs, too\"

The planner is told the goal, INDEX.md and the tasks that the plan has, so it adds to them. New tasks are told what was made so
far. The call is recorded, with its cost, in a planning run of its own, whose id is printed.")]
    Extend {
        /// The run
        #[arg(value_name = "RUN")]
        run: String,
        /// What is to be added
        #[arg(value_name = "WHAT")]
        what: Option<String>,
        /// Use models on this machine or a private network only
        #[arg(long)]
        offline: bool,
        /// Who does this
        #[arg(long, value_name = "NAME", default_value = PERSON)]
        agent: String,
    },
    /// Print the plan of a run as a file that can be run
    #[command(after_help = "Example:
  crewline plan export k3v9 > plan.yaml")]
    Export {
        /// The run
        #[arg(value_name = "RUN")]
        run: String,
    },
}

fn parse_strategy(text: &str) -> Result<Strategy, String> {
    Strategy::parse(text).ok_or_else(|| "it is dag, bfs or postorder".into())
}

/// Runs the command.
pub(crate) async fn run(args: PlanArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let Some(action) = &args.action else {
        return if args.estimate {
            estimate(&args, settings, console).await
        } else {
            propose(&args, settings, console).await
        };
    };
    if let Action::Approve { run, message } = action {
        return approve(run, message.clone(), settings, console).await;
    }
    let app = match action {
        // The roles of the registry tell whether a plan is valid.
        Action::Edit { .. } => {
            App::start(settings, app::load_registry(settings, console)?, crewline_models::Mode::Offline).await?
        }
        Action::Extend { offline, .. } => {
            App::start(settings, app::load_registry(settings, console)?, models_mode(mode_of(*offline)?)).await?
        }
        Action::Show { .. } | Action::Export { .. } | Action::Approve { .. } => App::read_only(settings).await?,
    };
    let done = act(action, &app, settings, console).await;
    app.stop().await;
    done
}

/// Approves the plan that the run waits with.
async fn approve(run: &str, message: Option<String>, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let found = async {
        let run = app.handle.find_run(run).await?;
        Ok::<_, Error>((run, app.handle.approvals(Some(run), true).await?))
    };
    let found = found.await;
    app.stop().await;
    let (run, asked) = found?;
    let plan = asked.into_iter().find(|it| it.kind == ApprovalKind::Plan);
    let plan =
        plan.ok_or_else(|| crewline_runtime::Error::NotFound { what: "plan to approve of run", id: run.to_string() })?;
    decide(plan.id.as_str(), &Decision::Approve, message, settings, console).await
}

fn mode_of(offline: bool) -> Result<Mode, Error> {
    let offline = offline || RunDefaults::load(&process_env)?.offline;
    Ok(if offline { Mode::Offline } else { Mode::Online })
}

async fn act(action: &Action, app: &App, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    match action {
        // Decided before anything was opened.
        Action::Approve { .. } => {}
        Action::Extend { run, what, offline, agent } => {
            let limits = limits_of(&RunDefaults::load(&process_env)?);
            let args = Extend { run, what: what.as_deref(), agent, limits, mode: mode_of(*offline)? };
            return extend(args, app, settings, console).await;
        }
        Action::Show { run } => {
            let run = app.handle.find_run(run).await?;
            let views = app.handle.task_views(run).await?;
            warn_overdue(&views, console);
            console.list(&views, |style| many(&views, style))?;
        }
        Action::Export { run } => {
            let run = app.handle.find_run(run).await?;
            let document = app.handle.plan_document(run).await?;
            let text = encode(serde_saphyr::to_string(&document))?;
            console.value(&document, |_| text)?;
        }
        Action::Edit { run, file, agent } => {
            let run = app.handle.find_run(run).await?;
            let old = encode(serde_saphyr::to_string(&app.handle.plan_document(run).await?))?;
            let new = edited(&old, file.as_deref(), ".yaml")?;
            let name = file.as_deref().map_or_else(|| "the plan".to_owned(), |path| path.display().to_string());
            let document = crewline_engine::plan::document_from_value(&parse_value(&name, &new)?)
                .map_err(|problems| Error::Plan { name: name.clone(), problems })?;
            let changed = app.handle.edit_plan(run, &document, agent).await.map_err(|error| match error {
                crewline_runtime::Error::Plan { problems } => Error::Plan { name, problems },
                error => error.into(),
            })?;
            let now = encode(serde_saphyr::to_string(&app.handle.plan_document(run).await?))?;
            show_difference(&old, &now, console);
            console.value(&changed, |style| changes(&changed, style))?;
        }
    }
    Ok(Exit::Ok)
}

/// The limits that a person always has.
pub(crate) fn limits_of(defaults: &RunDefaults) -> RunLimits {
    RunLimits {
        cost_max: defaults.cost_max,
        task_cost_max: defaults.task_cost_max,
        project_cost_max: defaults.project_cost_max,
        steps_max: defaults.steps_max,
        time_max: defaults.time_max,
    }
}

/// A plan that is recorded.
#[derive(Debug, Serialize)]
struct Proposed {
    run: RunId,
    tasks: Vec<crewline_runtime::TaskView>,
}

async fn estimate(args: &PlanArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let name = args.what.as_deref().unwrap_or_default();
    if name != "-" && !Path::new(name).is_file() {
        let hint = "an estimate needs the file of a plan; `crewline plan export RUN` makes one of a run";
        return Err(Error::Usage { message: format!("there is no file `{name}`"), hint });
    }
    let document = read_plan(Path::new(name))?;
    let defaults = RunDefaults::load(&process_env)?;
    let registry = app::load_registry(settings, console)?;
    let workers = args.concurrency.or(defaults.concurrency).unwrap_or(CONCURRENCY);
    let play = Play { workers, strategy: args.strategy, seed: args.seed };
    let app = App::read_only(settings).await?;
    let found = crewline_runtime::forecast(&document, &registry, &app.store, play).await;
    app.stop().await;
    let found = found.map_err(|error| match error {
        crewline_runtime::Error::Plan { problems } => Error::Plan { name: name.to_owned(), problems },
        error => error.into(),
    })?;
    console.value(&found, |style| forecast_table(&found, style))?;
    if !found.without_history.is_empty() && !console.is_quiet {
        let roles: Vec<&str> = found.without_history.iter().map(Role::as_str).collect();
        console.note(&format!("guessed from prices, for want of earlier tasks: {}", roles.join(", ")));
    }
    Ok(Exit::Ok)
}

fn forecast_table(found: &PlanForecast, style: Style) -> String {
    let columns = [
        ("TASK", Align::Left),
        ("ROLE", Align::Left),
        ("EARLIER TASKS", Align::Right),
        ("ON THE LONGEST WAY", Align::Right),
    ];
    let rows: Vec<Vec<String>> = found
        .tasks
        .iter()
        .map(|task| {
            vec![
                clean(&task.id).into_owned(),
                clean(task.role.as_str()).into_owned(),
                if task.samples == 0 { "–".to_owned() } else { count(task.samples as u64) },
                format!("{:.0} %", task.critical * 100.0),
            ]
        })
        .collect();
    let cost = found.cost_usd.map_or_else(
        || format!("unknown (no price for {})", found.unpriced.join(", ")),
        |it| format!("${:.4}, in nine of ten cases at most ${:.4}", it.p50, it.p90),
    );
    let seconds = |it: Range| format!("{:.1} s, in nine of ten cases at most {:.1} s", it.p50, it.p90);
    format!(
        "{}\n\ncost          {cost}\ntime          {}\nlongest way   {}\nall done      {:.0} % of {} rounds, {} at once",
        table(style, &columns, &rows),
        seconds(found.time_s),
        seconds(found.critical_path_s),
        found.done * 100.0,
        count(found.rounds as u64),
        found.workers,
    )
}

async fn propose(args: &PlanArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let what = args.what.as_deref().unwrap_or_default();
    let is_file = !args.empty && (what == "-" || Path::new(what).is_file());
    let plan = if is_file { Some(read_plan(Path::new(what))?) } else { None };
    let goal = match &plan {
        Some(plan) => plan.goal.clone().unwrap_or_else(|| "Do what the plan says".into()),
        None => what.trim().to_owned(),
    };
    if goal.trim().is_empty() {
        return Err(Error::Usage { message: "there is no goal".into(), hint: "say what is to be reached" });
    }
    let defaults = RunDefaults::load(&process_env)?;
    let mode = if args.offline || defaults.offline { Mode::Offline } else { Mode::Online };
    let is_planned = plan.is_some() || args.empty;
    let request = RunRequest {
        project: settings.project().to_owned(),
        goal,
        plan,
        limits: limits_of(&defaults),
        concurrency: defaults.concurrency.unwrap_or(CONCURRENCY),
        strategy: args.strategy,
        mode,
        strict_plan: args.strict_plan,
        stop_after_plan: true,
        approve: Approve::default(),
        workspace: None,
    };
    let registry = app::load_registry(settings, console)?;
    let app = App::start(settings, registry, models_mode(mode)).await?;
    let wanted = Wanted { is_planned, what, decompose: args.decompose };
    let done = record(request, wanted, &app, settings, console).await;
    app.stop().await;
    done
}

/// What is to become of a plan.
struct Wanted<'a> {
    /// Whether a person has made it.
    is_planned: bool,
    /// The goal, or the file.
    what: &'a str,
    /// How hard a task looks that is broken up.
    decompose: Option<u8>,
}

async fn record(
    request: RunRequest,
    wanted: Wanted<'_>,
    app: &App,
    settings: &Settings,
    console: &Console,
) -> Result<Exit, Error> {
    let (limits, mode) = (request.limits, request.mode);
    let run = if wanted.is_planned {
        app.handle.propose(request).await.map_err(|error| match error {
            crewline_runtime::Error::Plan { problems } => Error::Plan { name: wanted.what.to_owned(), problems },
            error => error.into(),
        })?
    } else {
        let mut signals = Signals::listen()?;
        let run = app.handle.launch(request).await?;
        let people = console.for_people();
        let handle = &app.handle;
        let follow =
            Follow { settings, console: &people, handle, run, out: None, after_seq: 0, board: Board::default() };
        let exit = follow.until_end(&mut signals).await?;
        if app.handle.task_views(run).await?.is_empty() {
            // Why there is no plan has been said.
            return Ok(exit);
        }
        run
    };
    if let Some(complexity) = wanted.decompose {
        let breaker = Breaker { limits, mode, agent: PERSON, app, settings, console };
        let exit = breaker.hard_ones(run, complexity, app.handle.report(run).await?.cost_usd).await?;
        if exit != Exit::Ok {
            return Ok(exit);
        }
    }
    let tasks = app.handle.task_views(run).await?;
    let proposed = Proposed { run, tasks };
    console.value(&proposed, |style| format!("{} {run}\n\n{}", style.bold("run"), many(&proposed.tasks, style)))?;
    if !console.is_quiet {
        console.hint(&format!(
            "change it with `crewline plan edit {run}`, run it with `{}`",
            settings.resume_command(run, None)
        ));
    }
    Ok(Exit::Ok)
}
