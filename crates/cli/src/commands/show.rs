//! `crewline show`: a run's tasks, models, cost and result; or one of its tasks.

use std::path::PathBuf;

use clap::Args;
use crewline_runtime::{Error as RuntimeError, Found, TaskReport};
use crewline_types::{RunId, TaskKind};
use serde::Serialize;

use crate::{app::App, console::Console, error::Error, exit::Exit, settings::Settings, summary};

/// What `crewline show` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline show k3v9x0ab
  crewline show k3v9 -o json | jq .cost_usd
  crewline show k3v9 --out docs      write its documents again
  crewline show k3v9/t2              one task: its attempts, calls and result
  crewline show t7c2 -o json | jq -r .text")]
pub(crate) struct ShowArgs {
    /// The run or the task (its id, the beginning of it, or RUN/KEY)
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
    let found = match app.handle.find(&args.run).await {
        // A run goes before a task whose id begins alike.
        Err(RuntimeError::Ambiguous { .. }) => Found::Run(app.handle.find_run(&args.run).await?),
        found => found?,
    };
    let report = app.handle.report(found.run()).await?;
    if let Some(out) = &args.out {
        app.handle.write_documents(&report, out).await?;
        console.note(&format!("its documents are in {}", out.display()));
    }
    match report.tasks.iter().find(|task| Some(task.id) == found.task()) {
        Some(task) => {
            let text = match task.result {
                Some(hash) if task.kind != TaskKind::Root => app.store.texts(&[hash]).await?.remove(&hash),
                Some(_) | None => None,
            };
            let shown = ShownTask { run: report.run, task, text: text.as_deref() };
            console.value(&shown, |style| summary::task(task, text.as_deref(), style))?;
        }
        None => console.value(&report, |style| summary::detailed(&report, style))?,
    }
    Ok(Exit::Ok)
}

/// A task, and what it made.
#[derive(Debug, Serialize)]
struct ShownTask<'a> {
    run: RunId,
    #[serde(flatten)]
    task: &'a TaskReport,
    text: Option<&'a str>,
}
