//! `crewline ps`: the runs of the database.

use std::time::Duration;

use clap::Args;
use crewline_runtime::RunSummary;
use crewline_types::{Clock, RunStatus, SystemClock, Timestamp};

use crate::{
    app::App,
    args::Output,
    console::Console,
    error::Error,
    exit::Exit,
    settings::{Settings, parse_time},
    view::{Align, Style, clean, duration, fit, table},
};

/// Runs looked at, unless more are asked for.
const RUNS_MAX: u32 = 1_000;
/// Columns of a goal.
const GOAL: usize = 60;

/// What `crewline ps` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline ps                 runs that are active or can be resumed
  crewline ps --all -o json   every run
  crewline ps --status failed,cancelled --since 7d
  crewline ps --all --ids | xargs -n1 crewline show

Only runs of one project with `--project NAME`.")]
pub(crate) struct PsArgs {
    /// Show runs that are over, too
    #[arg(short, long)]
    all: bool,
    /// Only runs that are in one of these states, such as failed,cancelled
    #[arg(long, value_name = "STATUS", value_delimiter = ',', value_parser = parse_status, conflicts_with = "all")]
    status: Vec<RunStatus>,
    /// Only runs that were launched within this time, such as 2h or 7d
    #[arg(long, value_name = "DUR", value_parser = parse_time)]
    since: Option<Duration>,
    /// Only print ids, one a line
    #[arg(long)]
    ids: bool,
    /// Runs to look at, newest first
    #[arg(long, value_name = "N", default_value_t = RUNS_MAX, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// Runs the command.
pub(crate) async fn run(args: PsArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let runs = app.handle.runs(settings.project.as_deref(), args.limit).await;
    app.stop().await;
    let mut runs = runs?;
    let total = runs.len();
    let now = SystemClock.now();
    match &*args.status {
        [] if args.all => {}
        [] => runs.retain(|run| is_open(run.status)),
        wanted => runs.retain(|run| wanted.contains(&run.status)),
    }
    runs.retain(|run| args.since.is_none_or(|within| now.since(run.created_at) <= within));
    if args.ids {
        let ids: Vec<&str> = runs.iter().map(|run| run.run.as_str()).collect();
        if !ids.is_empty() {
            console.data(&ids.join("\n"))?;
        }
        return Ok(Exit::Ok);
    }
    if runs.is_empty() && console.output == Output::Table {
        console.note("no runs");
    } else {
        console.list(&runs, |style| rows(&runs, now, style))?;
    }
    if runs.is_empty() && total > 0 && args.status.is_empty() && args.since.is_none() {
        console.hint("no run is active or can be resumed; `crewline ps --all` shows those that are over");
    }
    Ok(Exit::Ok)
}

fn parse_status(text: &str) -> Result<RunStatus, String> {
    RunStatus::parse(&text.trim().to_ascii_lowercase().replace('-', "_"))
        .ok_or_else(|| "give running, completed, failed, cancelled, interrupted or limit_reached".to_owned())
}

/// Whether something can still happen.
fn is_open(status: RunStatus) -> bool {
    match status {
        RunStatus::Running | RunStatus::Interrupted | RunStatus::LimitReached => true,
        RunStatus::Completed | RunStatus::Failed | RunStatus::Cancelled => false,
    }
}

fn rows(runs: &[RunSummary], now: Timestamp, style: Style) -> String {
    let columns = [
        ("RUN", Align::Left),
        ("STATUS", Align::Left),
        ("AGE", Align::Right),
        ("TIME", Align::Right),
        ("PROJECT", Align::Left),
        ("GOAL", Align::Left),
    ];
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            vec![
                run.run.to_string(),
                match run.parked {
                    0 => run.status.as_str().to_owned(),
                    parked => format!("{}, {parked} parked", run.status.as_str()),
                },
                duration(now.since(run.created_at)),
                run.finished_at.map_or_else(|| "-".to_owned(), |at| duration(at.since(run.created_at))),
                clean(&run.project).into_owned(),
                fit(&clean(&run.goal), GOAL).into_owned(),
            ]
        })
        .collect();
    table(style, &columns, &rows)
}
