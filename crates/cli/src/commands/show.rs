//! `crewline show`: a run's tasks, models, cost and result.

use std::path::PathBuf;

use clap::Args;

use crate::{app::App, console::Console, error::Error, exit::Exit, settings::Settings, summary};

/// What `crewline show` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline show k3v9x0ab
  crewline show k3v9 -o json | jq .cost_usd
  crewline show k3v9 --out docs      write its documents again")]
pub(crate) struct ShowArgs {
    /// The run, or the beginning of its id
    #[arg(value_name = "RUN")]
    run: String,
    /// Write its documents to this directory, too
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub(crate) async fn run(args: ShowArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let shown = show(&args, &app, console).await;
    app.stop().await;
    shown
}

async fn show(args: &ShowArgs, app: &App, console: &Console) -> Result<Exit, Error> {
    let run = app.handle.find_run(&args.run).await?;
    let report = app.handle.report(run).await?;
    if let Some(out) = &args.out {
        app.handle.write_documents(&report, out).await?;
        console.note(&format!("its documents are in {}", out.display()));
    }
    console.value(&report, |style| summary::detailed(&report, style))?;
    Ok(Exit::Ok)
}
