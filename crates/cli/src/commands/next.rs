//! `crewline next`, `mark` and `note`: a run's tasks in the hands of outside agents.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use crewline_runtime::TaskCommand;
use crewline_types::TaskStatus;

use crate::{
    app::App,
    commands::{
        context::find,
        task::{By, change, one, parse_status, read_result, warn_overdue},
    },
    console::Console,
    error::Error,
    exit::Exit,
    settings::Settings,
};

/// What `crewline next` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline next k3v9 -o json | jq -r .task.key
  crewline next --agent ada --start     take the next task of the project's open runs

Prints the task that can be worked on and goes first, by the run's strategy, then priority, then place. With `-o json`, `task` is
null when nothing is ready. One that is assigned to somebody else, or planned for later, is not taken.")]
pub(crate) struct NextArgs {
    /// The run [default: the project's runs that are not over and that nobody works on]
    #[arg(value_name = "RUN")]
    run: Option<String>,
    /// Who asks
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Mark it as in progress for the one who asks
    #[arg(long, requires = "agent")]
    start: bool,
}

/// What `crewline mark` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline mark k3v9/compare in_progress --agent ada
  crewline mark k3v9/compare completed --result compare.md --meta tokens=1200 --agent ada
  crewline mark k3v9/compare failed -m \"the service is gone\"
  crewline mark k3v9/compare pending             to be done again

Who required a task that is completed goes on in the same transaction; who required one that failed is blocked.")]
pub(crate) struct MarkArgs {
    /// The task
    #[arg(value_name = "TASK")]
    task: String,
    /// pending, in_progress, blocked, completed, failed or cancelled
    #[arg(value_name = "STATUS", value_parser = parse_status)]
    status: TaskStatus,
    /// Why, or what came of it
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// The file with its result; `-` is stdin
    #[arg(long, value_name = "FILE")]
    result: Option<PathBuf>,
    /// Anything else that shall be kept
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_meta)]
    meta: Vec<(String, String)>,
    #[command(flatten)]
    by: By,
}

/// What `crewline note` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  crewline note k3v9/compare \"the second candidate has no licence\" --agent ada")]
pub(crate) struct NoteArgs {
    /// The task
    #[arg(value_name = "TASK")]
    task: String,
    /// What is noted
    #[arg(value_name = "TEXT", required = true)]
    text: Vec<String>,
    #[command(flatten)]
    by: By,
}

fn parse_meta(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        Some(_) | None => Err("give a name, `=` and a value".into()),
    }
}

/// Runs `crewline next`.
pub(crate) async fn next(args: NextArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let done = take(&args, &app, settings, console).await;
    app.stop().await;
    done
}

async fn take(args: &NextArgs, app: &App, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let run = match &args.run {
        Some(run) => Some(app.handle.find_run(run).await?),
        None => None,
    };
    let mut next = app.handle.next_task(settings.project(), run, args.agent.as_deref()).await?;
    if let (true, Some(agent), Some(task)) = (args.start, &args.agent, &next.task) {
        let (run, id) = (task.run, task.id);
        let to = TaskStatus::InProgress;
        let command =
            TaskCommand::Mark { task: id.to_string(), to, result: None, note: None, metadata: BTreeMap::new() };
        app.handle.change_tasks(run, &[command], agent).await?;
        next.task = Some(app.handle.task_view(run, id).await?);
    }
    warn_overdue(&next.task, console);
    console.value(&next, |style| {
        if let Some(task) = &next.task {
            return format!("{} {}\n{}", style.dim("run"), task.run, one(task, style));
        }
        let first = next.planned_for.map(|at| format!(", {} planned, the first for {at}", next.planned));
        let (now, later, never) = (next.in_progress, next.waiting, next.blocked);
        let planned = first.unwrap_or_default();
        format!("nothing is ready: {now} in progress, {later} waiting, {never} blocked{planned}")
    })?;
    Ok(Exit::Ok)
}

/// Runs `crewline mark`.
pub(crate) async fn mark(args: MarkArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let result = args.result.as_deref().map(read_result).transpose()?;
    let app = App::read_only(settings).await?;
    let done = async {
        let (run, task) = find(&app, &args.task).await?;
        let command = TaskCommand::Mark {
            task: task.to_string(),
            to: args.status,
            result,
            note: args.message,
            metadata: args.meta.into_iter().collect(),
        };
        change(&app, run, command, &args.by, console).await
    };
    let done = done.await;
    app.stop().await;
    done
}

/// Runs `crewline note`.
pub(crate) async fn note(args: NoteArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let done = async {
        let (run, task) = find(&app, &args.task).await?;
        let command = TaskCommand::Note { task: task.to_string(), text: args.text.join(" ") };
        change(&app, run, command, &args.by, console).await
    };
    let done = done.await;
    app.stop().await;
    done
}
