//! `crewline run`: plan a goal (or take a plan), run it, write the documents.
//!
//! **Invariant:** everything that can be wrong with the input is found before anything is recorded or called.

use std::{
    io::IsTerminal,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use crewline_engine::plan::DocumentTask;
use crewline_models::Registry;
use crewline_runtime::{Approve, Document, Mode, RunRequest, Strategy};
use crewline_store::NodeKind;
use crewline_types::{Clock as _, MicroUsd, RunId, RunLimits, SystemClock, TaskKind};
use serde::Serialize;

use crate::{
    app::{self, App, Ops, Part},
    args::Output,
    commands::{
        approve,
        preview::Preview,
        schedule::{Order, strategies, warn_overdue},
        wait_for,
    },
    console::Console,
    document,
    error::Error,
    exit::Exit,
    follow::Follow,
    live::Board,
    out::OutDir,
    settings::{RunDefaults, Settings, parse_time, parse_usd, process_env},
    signals::Signals,
};

/// Attempts of a run in flight unless told otherwise.
pub(crate) const CONCURRENCY: NonZeroUsize = NonZeroUsize::MIN.saturating_add(15);
/// Bytes of a goal at most; more belongs into files.
const GOAL_BYTES_MAX: usize = 256 * 1024;

/// What `crewline run` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline run \"Write a guide to our release process\" --out guide
  crewline run --plan plan.yaml --concurrency 4 --max-cost 0.50
  git log -20 | crewline run - -o json
  crewline run \"Compare three message brokers\" --dry-run
  crewline run \"Make the tests pass\" --workspace . --approve tools
  crewline run --plan plan.yaml --detach --database postgres://crew@db/crewline")]
pub(crate) struct RunArgs {
    /// What is to be reached; `-` reads it from stdin
    #[arg(value_name = "GOAL")]
    goal: Option<String>,
    /// Run this plan (JSON or YAML) instead of making one; `-` reads it from stdin
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
    /// Which of the tasks that are ready goes first
    #[arg(long, value_name = "STRATEGY", value_parser = strategies(), default_value = "dag")]
    strategy: Strategy,
    /// Plan, check, estimate and print the timetable; run nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Refuse a plan that would need repair
    #[arg(long)]
    strict_plan: bool,
    /// Ask a person about the plan, the context of each task, or each change by a tool: plan, context, tools, a list, or none
    #[arg(long, value_name = "WHAT", default_value = "none")]
    approve: Approve,
    /// Let specialists whose roles have the tools read and change files and run commands in this folder
    #[arg(long, value_name = "DIR", conflicts_with = "detach")]
    workspace: Option<PathBuf>,
    /// Leave the run to the servers on the shared database, print its id and return
    #[arg(short, long, conflicts_with_all = ["dry_run", "out", "metrics_addr"])]
    detach: bool,
}

/// What `run` and `resume` share.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Where the documents go [default: crewline-out/RUN]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Stop before more than this is spent; every model needs a price
    #[arg(long, value_name = "USD", value_parser = parse_usd)]
    pub(crate) max_cost: Option<MicroUsd>,
    /// Fail a task before more than this is spent on it
    #[arg(long, value_name = "USD", value_parser = parse_usd)]
    pub(crate) max_task_cost: Option<MicroUsd>,
    /// Stop before more than this is spent on all runs of the project, earlier ones included
    #[arg(long, value_name = "USD", value_parser = parse_usd)]
    pub(crate) max_project_cost: Option<MicroUsd>,
    /// Stop after this many attempts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_steps: Option<u32>,
    /// Stop after this time, such as 90s, 15m or 1h30m
    #[arg(long, value_name = "DUR", value_parser = parse_time)]
    pub(crate) max_time: Option<Duration>,
    /// Attempts in flight at once [default: 16]
    #[arg(long, value_name = "N")]
    pub(crate) concurrency: Option<NonZeroUsize>,
    /// Use models on this machine or a private network only
    #[arg(long)]
    pub(crate) offline: bool,
    /// Serve /metrics, /healthz and /readyz while running
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics_addr: Option<SocketAddr>,
}

/// Runs the command.
pub(crate) fn run(args: RunArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let defaults = RunDefaults::load(&process_env)?;
    let (goal, plan) = input(&args)?;
    let registry = app::load_registry(settings, console)?;
    let offline = args.common.offline || defaults.offline;
    let concurrency = args.common.concurrency.or(defaults.concurrency).unwrap_or(CONCURRENCY);
    let order = Order { workers: Some(concurrency), strategy: args.strategy };
    if let (true, Some(plan)) = (args.dry_run, &plan) {
        return preview_file(plan, order, &args, &registry, console);
    }
    let out = if args.detach { OutDir::Default } else { OutDir::prepare(args.common.out.clone())? };
    let request = RunRequest {
        project: settings.project().to_owned(),
        goal,
        plan,
        limits: RunLimits {
            cost_max: args.common.max_cost.or(defaults.cost_max),
            task_cost_max: args.common.max_task_cost.or(defaults.task_cost_max),
            project_cost_max: args.common.max_project_cost.or(defaults.project_cost_max),
            steps_max: args.common.max_steps.or(defaults.steps_max),
            time_max: args.common.max_time.or(defaults.time_max),
        },
        concurrency,
        strategy: args.strategy,
        mode: if offline { Mode::Offline } else { Mode::Online },
        strict_plan: args.strict_plan,
        stop_after_plan: args.dry_run,
        approve: args.approve,
        workspace: args.workspace.as_deref().map(workspace).transpose()?,
    };
    if args.detach {
        return wait_for(submit(request, args, registry, settings, console));
    }
    wait_for(launch(request, args, out, registry, settings, console))
}

/// What `run --detach` prints.
#[derive(Debug, Serialize)]
struct Submitted {
    run: RunId,
}

async fn submit(
    request: RunRequest,
    args: RunArgs,
    registry: Arc<Registry>,
    settings: &Settings,
    console: &Console,
) -> Result<Exit, Error> {
    let app = App::start_as(settings, registry, models_mode(request.mode), Part::Worker).await?;
    let run = app.handle.submit(request).await.map_err(|error| named(error, &args));
    let nodes = app.handle.nodes().await.unwrap_or_default();
    app.stop().await;
    let submitted = Submitted { run: run? };
    console.value(&submitted, |_| submitted.run.to_string())?;
    if !nodes.iter().any(|node| node.kind == NodeKind::Server && node.state == "alive") {
        console.hint("no server shares this database now; `crewline serve` on it runs what waits");
    }
    Ok(Exit::Ok)
}

async fn launch(
    request: RunRequest,
    args: RunArgs,
    out: OutDir,
    registry: Arc<Registry>,
    settings: &Settings,
    console: &Console,
) -> Result<Exit, Error> {
    let mut ops = Ops::open(args.common.metrics_addr, console)?;
    let app = App::start(settings, registry.clone(), models_mode(request.mode)).await?;
    ops.start(&app.handle);
    let ended = follow(request, &args, out, &registry, &app, settings, console).await;
    let has_vectors = app.has_vectors();
    app.stop().await;
    let exit = ended?;
    if !has_vectors && exit == Exit::Ok && !args.dry_run {
        hint_vectors(console);
    }
    Ok(exit)
}

async fn follow(
    request: RunRequest,
    args: &RunArgs,
    out: OutDir,
    registry: &Registry,
    app: &App,
    settings: &Settings,
    console: &Console,
) -> Result<Exit, Error> {
    let mut signals = Signals::listen()?;
    let order = Order { workers: Some(request.concurrency), strategy: request.strategy };
    let run = app.handle.launch(request).await.map_err(|error| named(error, args))?;
    let follow = Follow {
        settings,
        console,
        handle: &app.handle,
        run,
        out: (!args.dry_run).then_some(&out),
        after_seq: 0,
        board: Board::default(),
    };
    let exit = follow.until_end(&mut signals).await?;
    if !args.dry_run {
        return approve::go_on(exit, run, &out, app, settings, console, &mut signals).await;
    }
    let report = app.handle.report(run).await?;
    let tasks = report.tasks.iter().filter(|task| task.kind != TaskKind::Root);
    let keys: std::collections::HashMap<_, _> =
        report.tasks.iter().map(|task| (task.id, task.key.to_string())).collect();
    let tasks: Vec<DocumentTask> = tasks
        .map(|task| DocumentTask {
            id: task.key.to_string(),
            title: task.title.to_string(),
            description: task.title.to_string(),
            role: Some(task.role.to_string()),
            depends_on: task.depends_on.iter().filter_map(|id| keys.get(id).cloned()).collect(),
            ..DocumentTask::default()
        })
        .collect();
    if tasks.is_empty() {
        // There is no plan; why has been said by the events, and the code says it too.
        return Ok(exit);
    }
    let document = Document { goal: Some(report.goal.to_string()), tasks, ..Document::default() };
    let preview = Preview::of(&document, "plan", order, registry, SystemClock.now())?;
    if console.output != Output::Jsonl {
        console.value(&preview, |style| preview.table(style))?;
    }
    if !console.is_quiet {
        console.hint(&format!("run this plan with: {}", settings.resume_command(run, out.named())));
    }
    Ok(Exit::Ok)
}

/// Says once that memory could be better.
pub(crate) fn hint_vectors(console: &Console) {
    if !console.is_quiet {
        console.hint("memory was searched by words only; `crewline setup --local` adds an embedding model");
    }
}

/// The mode of the models for the mode of a run.
pub(crate) fn models_mode(mode: Mode) -> crewline_models::Mode {
    match mode {
        Mode::Online => crewline_models::Mode::Online,
        Mode::Offline => crewline_models::Mode::Offline,
    }
}

/// The goal and the plan, wherever they come from.
fn input(args: &RunArgs) -> Result<(String, Option<Document>), Error> {
    let from_stdin = args.goal.as_deref() == Some("-");
    if from_stdin && args.plan.as_deref() == Some(Path::new("-")) {
        return Err(Error::Usage {
            message: "goal and plan cannot both come from stdin".into(),
            hint: "name a file for one of them",
        });
    }
    if from_stdin && std::io::stdin().is_terminal() {
        return Err(Error::Usage {
            message: "stdin is a terminal, so there is no goal to read".into(),
            hint: "pipe the goal in, or give it as an argument",
        });
    }
    let plan = args.plan.as_deref().map(document::read_plan).transpose()?;
    let goal = match &args.goal {
        Some(_) if from_stdin => Some(document::read_stdin()?),
        Some(goal) => Some(goal.clone()),
        None => plan.as_ref().and_then(|plan| plan.goal.clone()),
    };
    let goal = goal.map(|goal| goal.trim().to_owned()).filter(|goal| !goal.is_empty());
    match goal {
        Some(goal) if goal.len() <= GOAL_BYTES_MAX => Ok((goal, plan)),
        Some(_) => Err(Error::Usage {
            message: format!("the goal has more than {GOAL_BYTES_MAX} bytes"),
            hint: "say what is to be reached; large material belongs into files",
        }),
        None => Err(Error::Usage {
            message: "there is no goal".into(),
            hint: "give it as an argument (`crewline run \"…\"`), with `-` from stdin, or as `goal` in the plan file",
        }),
    }
}

/// The folder as every process finds it; it must be there.
fn workspace(dir: &Path) -> Result<PathBuf, Error> {
    let refused = |message: String| Error::Usage { message, hint: "name a folder that exists" };
    let path = dir.canonicalize().map_err(|error| refused(format!("workspace `{}`: {error}", dir.display())))?;
    if path.is_dir() { Ok(path) } else { Err(refused(format!("workspace `{}` is not a folder", dir.display()))) }
}

/// A refused plan, with the name of its file.
fn named(error: crewline_runtime::Error, args: &RunArgs) -> Error {
    match (error, &args.plan) {
        (crewline_runtime::Error::Plan { problems }, Some(path)) => {
            Error::Plan { name: path.display().to_string(), problems }
        }
        (error, _) => error.into(),
    }
}

/// `--dry-run` with a plan file: nothing is recorded, nothing is called.
fn preview_file(
    plan: &Document,
    order: Order,
    args: &RunArgs,
    registry: &Registry,
    console: &Console,
) -> Result<Exit, Error> {
    let name = args.plan.as_ref().map_or_else(|| "plan".to_owned(), |path| path.display().to_string());
    let preview = Preview::of(plan, &name, order, registry, SystemClock.now())?;
    console.value(&preview, |style| preview.table(style))?;
    warn_overdue(&preview.overdue, console);
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(line: &[&str]) -> Result<RunArgs, clap::Error> {
        let line = ["crewline", "run"].iter().chain(line);
        match Cli::try_parse_from(line)?.command {
            Command::Run(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_documented_flags_are_there() {
        let args = parse(&[
            "goal",
            "--out",
            "o",
            "--max-cost",
            "0.5",
            "--max-task-cost",
            "0.1",
            "--max-project-cost",
            "20",
            "--max-steps",
            "9",
            "--max-time",
            "15m",
            "--concurrency",
            "4",
            "--strategy",
            "bfs",
            "--offline",
            "--dry-run",
            "--strict-plan",
            "--no-input",
            "-o",
            "jsonl",
            "-q",
            "--color",
            "never",
            "--no-progress",
            "--metrics-addr",
            "127.0.0.1:0",
            "--registry",
            "r",
            "--project",
            "p",
            "--data-dir",
            "d",
        ])
        .unwrap();
        assert_eq!(args.common.max_cost, Some(MicroUsd(500_000)));
        assert_eq!(args.common.max_time, Some(Duration::from_mins(15)));
        assert!(args.dry_run && args.strict_plan && args.common.offline);
    }

    #[test]
    fn wrong_values_are_usage_errors() {
        for line in [
            &["g", "--max-cost", "-1"][..],
            &["g", "--max-cost", "much"],
            &["g", "--max-task-cost", "-1"],
            &["g", "--max-steps", "0"],
            &["g", "--max-time", "0s"],
            &["g", "--concurrency", "0"],
            &["g", "--strategy", "best"],
            &["g", "--metrics-addr", "nowhere"],
            &["g", "h"],
        ] {
            assert!(parse(line).unwrap_err().use_stderr(), "{line:?}");
        }
    }

    #[test]
    fn a_run_needs_a_goal() {
        for line in [&[][..], &["  "]] {
            let error = input(&parse(line).unwrap()).unwrap_err();
            assert_eq!(error.exit(), Exit::Usage, "{line:?}");
        }
        assert_eq!(input(&parse(&[" g "]).unwrap()).unwrap().0, "g");
    }
}
