//! `crewline prune`: forget old runs, and remove what attempts left that are no more.
//!
//! **Invariant:** a run that is running is never pruned; nothing is pruned without a yes.

use std::time::Duration;

use clap::Args;
use crewline_runtime::DeadView;
use crewline_types::{Clock, RunId, RunStatus, SystemClock, Timestamp};
use serde::Serialize;

use crate::{
    app::App,
    console::{self, Console},
    error::Error,
    exit::Exit,
    settings::{Settings, parse_time},
    view::{Align, Style, clean, count, duration, fit, table},
};

/// Runs looked at.
const RUNS_MAX: u32 = 1_000_000;
/// Columns of a goal.
const GOAL: usize = 60;

/// What `crewline prune` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline prune --older-than 30d --dry-run
  crewline prune --keep 100 --project blog --yes
  crewline prune --keep 20 --older-than 7d     older than a week, and not among the last 20

Forgets runs that are over, with their tasks, calls, contexts and events, and the texts nothing else needs. Memories stay.
Only runs of one project with `--project NAME`. Views of workspaces below the data directory go, too, when their run is over or
gone: what a crash left of attempts.")]
#[group(id = "which", required = true, multiple = true, args = ["keep", "older_than"])]
pub(crate) struct PruneArgs {
    /// Keep the last N runs
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// Only runs that ended longer ago than this, such as 12h or 30d
    #[arg(long, value_name = "DUR", value_parser = parse_time)]
    older_than: Option<Duration>,
    /// Also runs that could be resumed
    #[arg(short, long)]
    all: bool,
    /// Only show what would be forgotten
    #[arg(long)]
    dry_run: bool,
}

/// What was, or would be, forgotten.
#[derive(Debug, Serialize)]
struct Pruned {
    dry_run: bool,
    runs: Vec<Old>,
    /// Views of attempts that nothing goes on with.
    views: Vec<DeadView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<Amount>,
}

#[derive(Debug, Serialize)]
struct Old {
    run: RunId,
    project: String,
    status: RunStatus,
    finished_at: Option<Timestamp>,
    goal: String,
}

#[derive(Debug, Serialize)]
struct Amount {
    runs: u64,
    tasks: u64,
    texts: u64,
    bytes: u64,
    views: u64,
}

/// Runs the command.
pub(crate) async fn run(args: PruneArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let pruned = prune(&args, &app, settings, console).await;
    app.stop().await;
    pruned
}

async fn prune(args: &PruneArgs, app: &App, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let now = SystemClock.now();
    let runs = app.store.runs(settings.project.as_deref(), RUNS_MAX).await?;
    let old: Vec<Old> = runs
        .into_iter()
        .skip(args.keep.unwrap_or(0))
        .filter(|run| may_go(run.status, args.all))
        .filter(|run| {
            let ended = run.finished_at.unwrap_or(run.created_at);
            args.older_than.is_none_or(|age| now.since(ended) > age)
        })
        .map(|run| Old {
            run: run.id,
            project: run.project.to_string(),
            status: run.status,
            finished_at: run.finished_at,
            goal: run.goal.to_string(),
        })
        .collect();
    let ids: Vec<RunId> = old.iter().map(|run| run.run).collect();
    let views = app.handle.dead_views(&ids).await?;
    let mut pruned = Pruned { dry_run: args.dry_run, runs: old, views, deleted: None };
    let is_empty = pruned.runs.is_empty() && pruned.views.is_empty();
    if !args.dry_run && !is_empty {
        let (runs, views) = (count(pruned.runs.len() as u64), count(pruned.views.len() as u64));
        let question = format!("Forget {runs} runs and remove {views} views for good?");
        match console::ask(settings, &question) {
            Some(true) => {}
            Some(false) => return Ok(Exit::Interrupted),
            None => return Err(Error::NeedsYes { what: "forgetting runs" }),
        }
        // While their runs are there it is known which repositories have to forget them.
        let views = app.handle.remove_views(&pruned.views).await?.len() as u64;
        let deleted = app.store.delete_runs(&ids).await?;
        pruned.deleted = Some(Amount {
            runs: deleted.runs,
            tasks: deleted.tasks,
            texts: deleted.texts,
            bytes: deleted.bytes,
            views,
        });
    }
    console.value(&pruned, |style| show(&pruned, now, style))?;
    if is_empty {
        console.note("nothing to forget");
    }
    Ok(Exit::Ok)
}

fn may_go(status: RunStatus, all: bool) -> bool {
    match status {
        RunStatus::Running => false,
        RunStatus::Completed | RunStatus::Failed | RunStatus::Cancelled => true,
        RunStatus::Interrupted | RunStatus::LimitReached => all,
    }
}

fn show(pruned: &Pruned, now: Timestamp, style: Style) -> String {
    if pruned.runs.is_empty() && pruned.views.is_empty() {
        return String::new();
    }
    let columns = [
        ("RUN", Align::Left),
        ("STATUS", Align::Left),
        ("ENDED", Align::Right),
        ("PROJECT", Align::Left),
        ("GOAL", Align::Left),
    ];
    let rows: Vec<Vec<String>> = pruned
        .runs
        .iter()
        .map(|run| {
            vec![
                run.run.to_string(),
                run.status.as_str().to_owned(),
                run.finished_at.map_or_else(|| "-".to_owned(), |at| duration(now.since(at))),
                clean(&run.project).into_owned(),
                fit(&clean(&run.goal), GOAL).into_owned(),
            ]
        })
        .collect();
    let end = match &pruned.deleted {
        Some(amount) => format!(
            "forgot {} runs, {} tasks and {} texts ({} bytes), removed {} views",
            count(amount.runs),
            count(amount.tasks),
            count(amount.texts),
            count(amount.bytes),
            count(amount.views)
        ),
        None => format!(
            "would forget {} runs and remove {} views",
            count(pruned.runs.len() as u64),
            count(pruned.views.len() as u64)
        ),
    };
    let views = pruned.views.iter().map(|view| {
        let path = view.path.display().to_string();
        format!("{}  {} bytes  {}", view.attempt, count(view.bytes), clean(&path))
    });
    let views = views.collect::<Vec<_>>().join("\n");
    let parts = [if rows.is_empty() { String::new() } else { table(style, &columns, &rows) }, views, end];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_over_goes() {
        for (status, without, with) in [
            (RunStatus::Running, false, false),
            (RunStatus::Completed, true, true),
            (RunStatus::Failed, true, true),
            (RunStatus::Cancelled, true, true),
            (RunStatus::Interrupted, false, true),
            (RunStatus::LimitReached, false, true),
        ] {
            assert_eq!((may_go(status, false), may_go(status, true)), (without, with), "{status:?}");
        }
    }
}
