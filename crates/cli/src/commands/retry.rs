//! `crewline retry`: try failed tasks again, in the run they failed in.

use std::fmt::Write as _;

use clap::Args;
use crewline_models::Mode;
use crewline_runtime::Overrides;
use crewline_types::ModelAlias;

use crate::{
    app::{self, App, Ops},
    commands::{
        resume::limits,
        run::{Common, models_mode},
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

/// What `crewline retry` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline retry t7c2m1xq                  the failed task, and what it blocked
  crewline retry k3v9/t2 --model strong    by its key; only this model is asked
  crewline retry k3v9                      every failed task of the run

The run goes on with everything that this makes possible. A blocked task means the failed tasks that block it. A completed
task is never run again: `crewline replay RUN --from TASK` makes a new run.")]
pub(crate) struct RetryArgs {
    /// The task (its id, the beginning of it, or RUN/KEY), or a run
    #[arg(value_name = "TASK")]
    what: String,
    /// Ask only this model
    #[arg(long, value_name = "ALIAS")]
    model: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
pub(crate) async fn run(args: RetryArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let registry = app::load_registry(settings, console)?;
    let out = OutDir::prepare(args.common.out.clone())?;
    let offline = args.common.offline || RunDefaults::load(&process_env)?.offline;
    let mode = offline.then_some(crewline_runtime::Mode::Offline);
    let mut ops = Ops::open(args.common.metrics_addr, console)?;
    let models = mode.map_or(Mode::Online, models_mode);
    let app = App::start(settings, registry, models).await?;
    ops.start(&app.handle);
    let ended = retry(&args, &out, mode, &app, settings, console).await;
    app.stop().await;
    ended
}

async fn retry(
    args: &RetryArgs,
    out: &OutDir,
    mode: Option<crewline_runtime::Mode>,
    app: &App,
    settings: &Settings,
    console: &Console,
) -> Result<Exit, Error> {
    let mut signals = Signals::listen()?;
    let what = app.handle.find(&args.what).await?;
    let limits = limits(&args.common, what.run(), &app.store).await?;
    let overrides = Overrides { limits, concurrency: args.common.concurrency, mode };
    let model = args.model.as_deref().map(ModelAlias::from);
    let retried = app.handle.retry(what, model.as_ref(), &overrides).await?;
    let mut text = format!("run {} tries {} again", retried.run, retried.failed.join(", "));
    if !retried.unblocked.is_empty() {
        _ = write!(text, ", and then {}", retried.unblocked.join(", "));
    }
    console.note(&crate::view::fit(&text, 400));
    let run = retried.run;
    let board = Board::of_report(&app.handle.report(run).await?);
    let after_seq = retried.after_seq;
    Follow { settings, console, handle: &app.handle, run, out: Some(out), after_seq, board }
        .until_end(&mut signals)
        .await
}
