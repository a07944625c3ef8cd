//! `crewline pause`, `cancel` and `kill`: stop runs, whichever process works on them.
//!
//! **Invariant:** what is asked is recorded before the command waits: leaving it early takes nothing back.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use clap::Args;
use crewline_runtime::{Error as RuntimeError, Wish};
use crewline_types::{RunId, RunStatus};
use serde::Serialize;

use crate::{
    app::App, console::Console, error::Error, exit::Exit, settings::Settings, signals::Signals, view::duration,
};

/// Wait for the end of a run before it is told that it goes on; it doubles each time.
const TELL_FIRST: Duration = Duration::from_secs(2);
/// The longest wait between two such lines.
const TELL_PAUSE_MAX: Duration = Duration::from_mins(1);

/// What `crewline pause` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline pause k3v9x0ab
  crewline pause k3v9 && crewline resume k3v9 --concurrency 2

Nothing more starts, what runs is let to its end, and the run can be resumed.")]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    stop: StopArgs,
}

/// What `crewline cancel` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline cancel k3v9x0ab
  crewline cancel k3v9 m2p1 --no-wait

Nothing more starts, what runs is let to its end, and the run is over. What was made is kept.")]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    stop: StopArgs,
}

/// What `crewline kill` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline kill k3v9x0ab
  crewline ps -o jsonl | jq -r .run | xargs crewline kill

What runs is aborted at once, and the run is over. What was made is kept; calls that were under way are charged at their
worst case.")]
pub(crate) struct KillArgs {
    #[command(flatten)]
    stop: StopArgs,
}

/// What all three take.
#[derive(Debug, Args)]
struct StopArgs {
    /// The runs, or the beginnings of their ids
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<String>,
    /// Return when it is recorded; do not wait until it is done
    #[arg(long)]
    no_wait: bool,
}

/// Runs `crewline pause`.
pub(crate) async fn pause(args: PauseArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    run(&args.stop, Wish::Pause, settings, console).await
}

/// Runs `crewline cancel`.
pub(crate) async fn cancel(args: CancelArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    run(&args.stop, Wish::Cancel, settings, console).await
}

/// Runs `crewline kill`.
pub(crate) async fn kill(args: KillArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    run(&args.stop, Wish::Kill, settings, console).await
}

/// What became of a run.
#[derive(Debug, Serialize)]
struct Stopped {
    run: RunId,
    status: RunStatus,
}

async fn run(args: &StopArgs, wish: Wish, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let stopped = stop_all(args, wish, &app, console).await;
    app.stop().await;
    stopped
}

async fn stop_all(args: &StopArgs, wish: Wish, app: &App, console: &Console) -> Result<Exit, Error> {
    let mut signals = Signals::listen()?;
    // All are found before any is stopped: a misspelt id stops nothing.
    let mut runs = Vec::with_capacity(args.runs.len());
    for text in &args.runs {
        let run = app.handle.find_run(text).await?;
        if !runs.contains(&run) {
            runs.push(run);
        }
    }
    let mut stopped = Vec::with_capacity(runs.len());
    let mut first_error = None;
    for run in runs {
        let ended = tokio::select! {
            ended = stop(run, args, wish, app, console) => ended,
            () = signals.next() => {
                console.hint("what was asked is recorded, and will be done");
                return Ok(Exit::Interrupted);
            }
        };
        match ended {
            Ok(status) => stopped.push(Stopped { run, status }),
            Err(error) => {
                if first_error.replace(error).is_some() {
                    tracing::debug!(run_id = %run, "another run could not be stopped");
                }
            }
        }
    }
    console.list(&stopped, |_| {
        let lines = stopped.iter().map(|it| format!("{} {}", it.run, it.status.as_str()));
        lines.collect::<Vec<_>>().join("\n")
    })?;
    first_error.map_or(Ok(Exit::Ok), Err)
}

async fn stop(run: RunId, args: &StopArgs, wish: Wish, app: &App, console: &Console) -> Result<RunStatus, Error> {
    if args.no_wait {
        app.handle.ask_to(run, wish).await?;
        return Ok(app.store.run(run).await?.map_or(RunStatus::Running, |row| row.status));
    }
    if wish != Wish::Kill && app.store.run(run).await?.is_some_and(|row| row.status == RunStatus::Running) {
        console.note(&format!("run {run} finishes what it is doing; Ctrl-C leaves it to that"));
    }
    match (waited(run, wish, app, console).await?, wish) {
        // It ended by itself before anybody could stop it.
        (status @ (RunStatus::Completed | RunStatus::Failed), _) => Err(RuntimeError::Finished { run, status }.into()),
        (status, _) => Ok(status),
    }
}

/// Stops the run, and tells now and then what is waited for.
async fn waited(run: RunId, wish: Wish, app: &App, console: &Console) -> Result<RunStatus, Error> {
    let begun = Instant::now();
    let mut ended = pin!(app.handle.stop(run, wish));
    let mut pause = TELL_FIRST;
    loop {
        match tokio::time::timeout(pause, &mut ended).await {
            Ok(ended) => return Ok(ended?),
            Err(_) => pause = (2 * pause).min(TELL_PAUSE_MAX),
        }
        let (report, row) = (app.handle.report(run).await?, app.store.run(run).await?);
        let owner = row.and_then(|row| row.owner).map_or_else(String::new, |owner| format!(" at {owner}"));
        let (waited, tasks) = (duration(begun.elapsed()), report.counts.in_progress);
        console.note(&format!("run {run} has not ended after {waited}, tasks under way{owner}: {tasks}"));
    }
}
