//! `crewline resume`: continue a run that was interrupted or reached a limit.

use std::path::Path;

use clap::Args;
use crewline_runtime::{Error as RuntimeError, Mode, Overrides};
use crewline_store::Store;
use crewline_types::{RunId, RunLimits, RunStatus};

use crate::{
    app::{self, App, Ops},
    commands::{
        approve,
        run::{Common, hint_vectors, models_mode},
    },
    console::Console,
    error::Error,
    exit::Exit,
    follow::Follow,
    live::Board,
    out::OutDir,
    settings::{RunDefaults, Settings, process_env},
    signals::Signals,
};

/// What `crewline resume` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline resume k3v9x0ab
  crewline resume k3v9 --max-cost 2.00 --out guide

A run that completed, but lost its process before its documents were written, gets them.
Limits that are not given stay as they were.")]
pub(crate) struct ResumeArgs {
    /// The run, or the beginning of its id
    #[arg(value_name = "RUN")]
    run: String,
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
pub(crate) async fn run(args: ResumeArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let registry = app::load_registry(settings, console)?;
    let out = OutDir::prepare(args.common.out.clone())?;
    let offline = args.common.offline || RunDefaults::load(&process_env)?.offline;
    let mode = offline.then_some(Mode::Offline);
    let mut ops = Ops::open(args.common.metrics_addr, console)?;
    let app = App::start(settings, registry, models_mode(mode.unwrap_or(Mode::Online))).await?;
    ops.start(&app.handle);
    let ended = resume(&args, &out, mode, &app, settings, console).await;
    let has_vectors = app.has_vectors();
    app.stop().await;
    let exit = ended?;
    if !has_vectors && exit == Exit::Ok {
        hint_vectors(console);
    }
    Ok(exit)
}

async fn resume(
    args: &ResumeArgs,
    out: &OutDir,
    mode: Option<Mode>,
    app: &App,
    settings: &Settings,
    console: &Console,
) -> Result<Exit, Error> {
    let mut signals = Signals::listen()?;
    let run = app.handle.find_run(&args.run).await?;
    let overrides =
        Overrides { limits: limits(&args.common, run, &app.store).await?, concurrency: args.common.concurrency, mode };
    let after_seq = match app.handle.resume(run, overrides).await {
        Ok(seq) => seq,
        Err(error @ RuntimeError::Finished { status: RunStatus::Completed, .. }) => {
            let at = out.of(run);
            if has_documents(&at, run) {
                console.note(&format!("its documents are in {}", at.display()));
                return Err(error.into());
            }
            // The process ended after the run and before its documents: the end is shown again, which writes them.
            let row = app.store.run(run).await?;
            row.map_or(0, |row| row.last_seq.saturating_sub(1))
        }
        Err(error) => return Err(error.into()),
    };
    let board = Board::of_report(&app.handle.report(run).await?);
    let follow = Follow { settings, console, handle: &app.handle, run, out: Some(out), after_seq, board };
    let exit = follow.until_end(&mut signals).await?;
    approve::go_on(exit, run, out, app, settings, console, &mut signals).await
}

/// Whether the documents of the completed run are in `dir`; the report is written last.
fn has_documents(dir: &Path, run: RunId) -> bool {
    #[derive(serde::Deserialize)]
    struct Written {
        run: RunId,
        status: RunStatus,
    }
    let Ok(text) = std::fs::read_to_string(dir.join("report.json")) else { return false };
    serde_json::from_str(&text).is_ok_and(|it: Written| it.run == run && it.status == RunStatus::Completed)
}

/// What the run's row keeps of how it was launched, as far as it matters here.
#[derive(Default, serde::Deserialize)]
struct Recorded {
    limits: RunLimits,
}

/// The limits the run had, with those that are given now. `None` when none is given.
pub(crate) async fn limits(common: &Common, run: RunId, store: &Store) -> Result<Option<RunLimits>, Error> {
    let costs = common.max_cost.or(common.max_task_cost).or(common.max_project_cost);
    if costs.is_none() && common.max_steps.is_none() && common.max_time.is_none() {
        return Ok(None);
    }
    let row = store.run(run).await?;
    let recorded: Recorded = row.and_then(|row| serde_json::from_str(&row.settings).ok()).unwrap_or_default();
    Ok(Some(RunLimits {
        cost_max: common.max_cost.or(recorded.limits.cost_max),
        task_cost_max: common.max_task_cost.or(recorded.limits.task_cost_max),
        project_cost_max: common.max_project_cost.or(recorded.limits.project_cost_max),
        steps_max: common.max_steps.or(recorded.limits.steps_max),
        time_max: common.max_time.or(recorded.limits.time_max),
    }))
}
