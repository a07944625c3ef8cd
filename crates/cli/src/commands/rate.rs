//! `crewline task progress` and `task feedback`: how far a task is, and what people say of the result.

use clap::Args;
use crewline_runtime::TaskCommand;

use crate::{
    app::App,
    commands::{
        context::find,
        task::{By, change},
    },
    console::Console,
    error::Error,
    exit::Exit,
};

/// What `crewline task progress` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  crewline task progress k3v9/compare 40 \"two of five candidates\" --agent ada")]
pub(crate) struct ProgressArgs {
    /// The task
    #[arg(value_name = "TASK")]
    task: String,
    /// How much of it is done: 0 to 100
    #[arg(value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    percent: u8,
    /// What is done
    #[arg(value_name = "TEXT")]
    text: Option<String>,
    #[command(flatten)]
    by: By,
}

/// What `crewline task feedback` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  crewline task feedback k3v9/compare --quality 4 --timeliness 5 -m \"sources are missing\"")]
pub(crate) struct FeedbackArgs {
    /// The task
    #[arg(value_name = "TASK")]
    task: String,
    /// How good the result is: 1 to 5
    #[arg(long, value_name = "RATING", value_parser = clap::value_parser!(u8).range(1..=5))]
    quality: u8,
    /// Whether it came in time: 1 to 5
    #[arg(long, value_name = "RATING", value_parser = clap::value_parser!(u8).range(1..=5))]
    timeliness: u8,
    /// Say more
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    #[command(flatten)]
    by: By,
}

/// Runs `crewline task progress`.
pub(crate) async fn progress(args: ProgressArgs, app: &App, console: &Console) -> Result<Exit, Error> {
    let (run, task) = find(app, &args.task).await?;
    let command = TaskCommand::Progress { task: task.to_string(), percent: args.percent, text: args.text };
    change(app, run, command, &args.by, console).await
}

/// Runs `crewline task feedback`.
pub(crate) async fn feedback(args: FeedbackArgs, app: &App, console: &Console) -> Result<Exit, Error> {
    let (run, task) = find(app, &args.task).await?;
    let FeedbackArgs { quality, timeliness, message, by, .. } = args;
    let command = TaskCommand::Feedback { task: task.to_string(), quality, timeliness, text: message };
    change(app, run, command, &by, console).await
}
