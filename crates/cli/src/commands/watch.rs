//! `crewline watch`: the live view of a run that another process works on.
//!
//! **Invariant:** watching changes nothing: leaving the view leaves the run alone.

use clap::Args;
use crewline_types::{EventBody, RunId, RunStatus, event::ErrorNote};
use futures::StreamExt;

use crate::{
    app::App,
    args::Output,
    console::Console,
    error::Error,
    exit::{self, Exit},
    follow::Live,
    live::Board,
    settings::Settings,
    signals::Signals,
    summary,
};

/// What `crewline watch` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline watch k3v9x0ab
  crewline watch k3v9 -q && echo done

Ends with the run, and with the exit code that the run has; Ctrl-C leaves the run alone. `crewline logs -f` prints a line per
event instead.")]
pub(crate) struct WatchArgs {
    /// The run, or the beginning of its id
    #[arg(value_name = "RUN")]
    run: String,
}

/// Runs the command.
pub(crate) async fn run(args: WatchArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let watched = async {
        let run = app.handle.find_run(&args.run).await?;
        watch(run, &app, console).await
    }
    .await;
    app.stop().await;
    watched
}

async fn watch(run: RunId, app: &App, console: &Console) -> Result<Exit, Error> {
    let mut signals = Signals::listen()?;
    // What happens between the two is seen twice, and does no harm.
    let after = app.store.run(run).await?.map_or(0, |row| row.last_seq);
    let report = app.handle.report(run).await?;
    let mut end = (report.status, report.error.clone());
    let mut board = Board::of_report(&report);
    let events = futures::stream::unfold(app.handle.watch(run, after), |mut watch| async move {
        let event = watch.next().await?;
        Some((event, watch))
    });
    let mut events = std::pin::pin!(events);
    let mut live = Live::start(console);
    loop {
        let event = tokio::select! {
            biased;
            () = signals.next() => return Ok(Exit::Interrupted),
            () = live.next_frame() => {
                live.draw(&board);
                continue;
            }
            event = events.next() => event,
        };
        let Some(event) = event else { break };
        let event = event?;
        if !live.is_on()
            && !console.is_quiet
            && let Some(text) = board.plain(&event)
        {
            console.note(&text);
        }
        board.apply(&event);
        if let EventBody::RunFinished { status, error, .. } = &event.body {
            end = (*status, error.clone());
        }
        if console.output == Output::Jsonl {
            let line = serde_json::to_string(&event).map_err(|error| Error::Encode { message: error.to_string() })?;
            console.data(&line)?;
        }
    }
    live.end(&board);
    finish(run, end, app, console).await
}

async fn finish(
    run: RunId,
    (status, error): (RunStatus, Option<ErrorNote>),
    app: &App,
    console: &Console,
) -> Result<Exit, Error> {
    if console.output != Output::Jsonl {
        let report = app.handle.report(run).await?;
        console.value(&report, |style| summary::finished(&report, None, style))?;
    }
    Ok(exit::of_run(status, error.as_ref()))
}
