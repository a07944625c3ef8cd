//! `crewline tree`: a run's tasks below each other, with what was tried.

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use clap::Args;
use crewline_runtime::{AttemptReport, Report, TaskReport};
use crewline_types::{MicroUsd, TaskId, TaskKind, TaskStatus, event::CallOutcome, task::PARKED};
use serde::Serialize;

use crate::{
    app::App,
    console::Console,
    error::Error,
    exit::Exit,
    settings::Settings,
    summary,
    view::{Style, clean, cost, duration, fit, tokens},
};

/// Columns of a title.
const TITLE: usize = 60;

/// What `crewline tree` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline tree k3v9x0ab
  crewline tree k3v9 --attempts    every attempt and call below its task
  crewline tree k3v9 -o json")]
pub(crate) struct TreeArgs {
    /// The run, or the beginning of its id
    #[arg(value_name = "RUN")]
    run: String,
    /// Show attempts and calls, too
    #[arg(short, long)]
    attempts: bool,
}

/// Runs the command.
pub(crate) async fn run(args: TreeArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let report = async {
        let run = app.handle.find_run(&args.run).await?;
        app.handle.report(run).await
    }
    .await;
    app.stop().await;
    let report = report?;
    let tree = grow(&report, args.attempts);
    console.value(&tree, |style| draw(&report, &tree, style))?;
    Ok(Exit::Ok)
}

/// A task, and the tasks below it.
#[derive(Debug, Serialize)]
struct Branch<'a> {
    id: TaskId,
    key: &'a str,
    title: &'a str,
    role: &'a str,
    kind: TaskKind,
    status: TaskStatus,
    depends_on: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    cost_usd: MicroUsd,
    elapsed_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<&'a [AttemptReport]>,
    children: Vec<Branch<'a>>,
}

/// The tasks without a task above them, with all below; every task is in it once.
fn grow(report: &Report, has_attempts: bool) -> Vec<Branch<'_>> {
    let keys: HashMap<TaskId, &str> = report.tasks.iter().map(|task| (task.id, &*task.key)).collect();
    let mut below: HashMap<Option<TaskId>, Vec<&TaskReport>> = HashMap::new();
    for task in &report.tasks {
        let parent = task.parent.filter(|parent| keys.contains_key(parent) && *parent != task.id);
        below.entry(parent).or_default().push(task);
    }
    // Each group is taken out once, so that parents in a circle could not hang this.
    let mut grown = Vec::new();
    let mut open: Vec<(Branch<'_>, Vec<&TaskReport>)> = Vec::new();
    let root = below.remove(&None).unwrap_or_default();
    let mut waiting = root;
    waiting.reverse();
    loop {
        if let Some(task) = waiting.pop() {
            let branch = branch(task, &keys, has_attempts);
            let mut children = below.remove(&Some(task.id)).unwrap_or_default();
            children.reverse();
            open.push((branch, std::mem::replace(&mut waiting, children)));
        } else if let Some((done, rest)) = open.pop() {
            waiting = rest;
            match open.last_mut() {
                Some((parent, _)) => parent.children.push(done),
                None => grown.push(done),
            }
        } else {
            return grown;
        }
    }
}

fn branch<'a>(task: &'a TaskReport, keys: &HashMap<TaskId, &'a str>, has_attempts: bool) -> Branch<'a> {
    Branch {
        id: task.id,
        key: &task.key,
        title: &task.title,
        role: task.role.as_str(),
        kind: task.kind,
        status: task.status,
        depends_on: task.depends_on.iter().filter_map(|id| keys.get(id).copied()).collect(),
        model: task.model.as_deref(),
        cost_usd: task.cost_usd,
        elapsed_ms: task.elapsed_ms,
        reason: task.reason.as_deref(),
        attempts: has_attempts.then_some(&*task.attempts),
        children: Vec::new(),
    }
}

fn draw(report: &Report, tree: &[Branch<'_>], style: Style) -> String {
    let goal = fit(&clean(&report.goal), TITLE).into_owned();
    let mut lines =
        vec![format!("{} {} {goal}", style.bold(report.run.as_str()), summary::status(report.status, style))];
    for (place, branch) in tree.iter().enumerate() {
        draw_branch(&mut lines, branch, "", place + 1 == tree.len(), style);
    }
    lines.join("\n")
}

fn draw_branch(lines: &mut Vec<String>, branch: &Branch<'_>, before: &str, is_last: bool, style: Style) {
    let (arm, below) = arms(is_last);
    lines.push(format!("{}{}", style.dim(&format!("{before}{arm}")), label(branch, style)));
    let before = format!("{before}{below}");
    let attempts = branch.attempts.unwrap_or_default();
    for (place, attempt) in attempts.iter().enumerate() {
        let is_last = place + 1 == attempts.len() && branch.children.is_empty();
        draw_attempt(lines, attempt, &before, is_last, style);
    }
    for (place, child) in branch.children.iter().enumerate() {
        draw_branch(lines, child, &before, place + 1 == branch.children.len(), style);
    }
}

fn draw_attempt(lines: &mut Vec<String>, attempt: &AttemptReport, before: &str, is_last: bool, style: Style) {
    let (arm, below) = arms(is_last);
    let mut text = format!("attempt {} {}", attempt.number, attempt.status.as_str());
    if let Some(error) = &attempt.error {
        _ = write!(text, ": {} [{}]", error.message, error.code);
    }
    lines.push(format!("{}{}", style.dim(&format!("{before}{arm}")), clean(&text)));
    for (place, call) in attempt.calls.iter().enumerate() {
        let (arm, _) = arms(place + 1 == attempt.calls.len());
        let outcome = call.outcome.map_or("running", CallOutcome::as_str);
        let spent = call.cost_usd.map_or_else(|| "unpriced".to_owned(), |amount| cost(amount, 0));
        let took = duration(Duration::from_millis(call.elapsed_ms));
        let text = format!("{} {} {outcome} {} {spent} {took}", call.purpose, call.model, tokens(&call.usage));
        lines.push(format!("{}{}", style.dim(&format!("{before}{below}{arm}")), style.dim(&clean(&text))));
    }
}

fn arms(is_last: bool) -> (&'static str, &'static str) {
    if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") }
}

fn label(branch: &Branch<'_>, style: Style) -> String {
    let status = branch.status.as_str();
    let status = match branch.status {
        TaskStatus::Completed => style.green(status),
        TaskStatus::Failed | TaskStatus::Blocked | TaskStatus::Cancelled => style.red(status),
        TaskStatus::InProgress => style.cyan(status),
        TaskStatus::AwaitingApproval => style.yellow(status),
        TaskStatus::Pending => style.dim(status),
    };
    let title = fit(&clean(branch.title), TITLE).into_owned();
    let mut text = format!("{} {title} {status}", style.bold(&clean(branch.key)));
    let mut more = vec![clean(branch.role).into_owned()];
    more.extend(branch.model.map(|model| clean(model).into_owned()));
    more.extend(branch.elapsed_ms.map(|ms| duration(Duration::from_millis(ms))));
    if branch.cost_usd != MicroUsd::ZERO {
        more.push(cost(branch.cost_usd, 0));
    }
    text.push_str(&style.dim(&format!(" ({})", more.join(", "))));
    if !branch.depends_on.is_empty() {
        text.push_str(&style.dim(&format!(" ← {}", fit(&clean(&branch.depends_on.join(", ")), TITLE))));
    }
    let is_told = match branch.status {
        TaskStatus::Failed | TaskStatus::Blocked => true,
        TaskStatus::Pending => branch.reason.is_some_and(|it| it.starts_with(PARKED)),
        TaskStatus::InProgress | TaskStatus::AwaitingApproval | TaskStatus::Completed | TaskStatus::Cancelled => false,
    };
    if let Some(reason) = branch.reason.filter(|_| is_told) {
        _ = write!(text, ": {}", fit(&clean(reason), 2 * TITLE));
    }
    text
}
