//! `crewline task`: a run's tasks in a person's hands.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use crewline_runtime::{Changed, Place, TaskCommand, TaskFields, TaskView};
use crewline_types::{Criterion, Priority, RunId, TaskId, TaskKind, TaskStatus, Timestamp, time::parse_duration};

use crate::{
    app::App,
    commands::{
        context::find,
        rate::{FeedbackArgs, ProgressArgs, feedback, progress},
    },
    console::Console,
    document::{read_file, read_stdin},
    error::Error,
    exit::Exit,
    settings::Settings,
    view::{Align, Style, clean, fit, table},
};

/// Who changes something when nobody is named.
pub(crate) const PERSON: &str = "person";

/// What `crewline task` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline task add k3v9 \"Measure the queue\" --key measure --role tester --requires build
  crewline task ls k3v9 --ready
  crewline task complete k3v9/measure --result measure.md --summary \"2 ms at the 99th percentile\"
  crewline task move k3v9/measure --below checks

A TASK is its id, the beginning of it, or RUN/KEY. A run that a process works on is not changed: pause it first. All that one
command does is one transaction, with what follows from it: who required a task that is done goes on, who required one that
is cancelled is blocked, and a task with others below it is done when they are.")]
pub(crate) struct TaskArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one of them")]
enum Action {
    /// Add a task
    #[command(after_help = "Examples:
  crewline task add k3v9 \"Compare them\" --requires collect --requires measure --priority high
  crewline task add k3v9 \"Write the code\" --key code --parent build --deadline 2026-12-01T12:00:00Z")]
    Add(AddArgs),
    /// Show a task with its links and notes
    #[command(after_help = "Example:
  crewline task show k3v9/compare -o json")]
    Show {
        /// The task
        #[arg(value_name = "TASK")]
        task: String,
    },
    /// List the tasks of a run
    #[command(after_help = "Examples:
  crewline task ls k3v9
  crewline task ls k3v9 --status blocked")]
    Ls {
        /// The run
        #[arg(value_name = "RUN")]
        run: String,
        /// Only those with this status
        #[arg(long, value_name = "STATUS", value_parser = parse_status)]
        status: Option<TaskStatus>,
        /// Only those that can be worked on now
        #[arg(long)]
        ready: bool,
        /// Also those that were deleted
        #[arg(short, long)]
        all: bool,
    },
    /// Change fields of a task
    #[command(after_help = "Examples:
  crewline task update k3v9/compare --priority critical --assignee ada
  crewline task update k3v9/compare --title \"Compare all four\"")]
    Update {
        /// The task
        #[arg(value_name = "TASK")]
        task: String,
        /// Its line
        #[arg(long, value_name = "TEXT")]
        title: Option<String>,
        #[command(flatten)]
        fields: FieldArgs,
        /// What it took, in hours
        #[arg(long, value_name = "HOURS")]
        actual: Option<f64>,
        #[command(flatten)]
        by: By,
    },
    /// Put a task elsewhere in the tree or the order
    #[command(after_help = "Examples:
  crewline task move k3v9/code --below build
  crewline task move k3v9/code --after docs")]
    #[command(group = clap::ArgGroup::new("place").required(true))]
    Move {
        /// The task
        #[arg(value_name = "TASK")]
        task: String,
        /// Below this task; `root` is above all
        #[arg(long, value_name = "KEY", group = "place")]
        below: Option<String>,
        /// Right before this task
        #[arg(long, value_name = "KEY", group = "place")]
        before: Option<String>,
        /// Right after this task
        #[arg(long, value_name = "KEY", group = "place")]
        after: Option<String>,
        #[command(flatten)]
        by: By,
    },
    /// Cancel a task and what is below it; its history stays
    #[command(after_help = "Examples:
  crewline task delete k3v9/compare            who required it is blocked
  crewline task delete k3v9/compare --unlink   who required it goes on without it")]
    Delete {
        /// The task
        #[arg(value_name = "TASK")]
        task: String,
        /// Take it away from the tasks that require it
        #[arg(long)]
        unlink: bool,
        #[command(flatten)]
        by: By,
    },
    /// Let a task count as done without a result
    #[command(after_help = "Example:
  crewline task skip k3v9/compare -m \"there is only one candidate\"")]
    Skip {
        /// The task
        #[arg(value_name = "TASK")]
        task: String,
        /// Why
        #[arg(short, long, value_name = "TEXT")]
        message: Option<String>,
        #[command(flatten)]
        by: By,
    },
    /// Say how much of a task is done
    Progress(ProgressArgs),
    /// Rate the result of a task
    Feedback(FeedbackArgs),
    /// Complete a task, with its result
    #[command(after_help = "Examples:
  crewline task complete k3v9/compare --result compare.md --summary \"the second one\" --actual 1.5
  crewline task complete k3v9/compare --result - --validate < compare.md

`--validate` checks the measurable criteria of success against the result. It understands `contains \"…\"`, `does not contain
\"…\"`, `at least N words` (or lines, characters), `at most N words`, `is JSON`.")]
    Complete {
        /// The task
        #[arg(value_name = "TASK")]
        task: String,
        /// The file with its result; `-` is stdin
        #[arg(long, value_name = "FILE")]
        result: Option<PathBuf>,
        /// What came of it, in a few words
        #[arg(long, value_name = "TEXT")]
        summary: Option<String>,
        /// What it took, in hours
        #[arg(long, value_name = "HOURS")]
        actual: Option<f64>,
        /// Refuse a result that does not meet the measurable criteria
        #[arg(long)]
        validate: bool,
        #[command(flatten)]
        by: By,
    },
}

/// Who does something.
#[derive(Debug, Args)]
pub(crate) struct By {
    /// Who does this
    #[arg(long, value_name = "NAME", default_value = PERSON)]
    pub(crate) agent: String,
}

#[derive(Debug, Args)]
struct AddArgs {
    /// The run
    #[arg(value_name = "RUN")]
    run: String,
    /// Its line
    #[arg(value_name = "TITLE")]
    title: String,
    /// Its name inside the plan [default: the next free t<number>]
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// The task above it
    #[arg(long, value_name = "KEY")]
    parent: Option<String>,
    /// A task that must be done before
    #[arg(long, value_name = "KEY")]
    requires: Vec<String>,
    /// A task whose result it should see
    #[arg(long, value_name = "KEY")]
    refers: Vec<String>,
    #[command(flatten)]
    fields: FieldArgs,
    #[command(flatten)]
    by: By,
}

#[derive(Debug, Args)]
struct FieldArgs {
    /// What is to be done
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Who does it
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
    /// 1 to 10, or low, medium, high, critical
    #[arg(long, value_name = "PRIORITY", value_parser = parse_priority)]
    priority: Option<Priority>,
    /// How long it should take, such as 90s or 2h
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    duration: Option<Duration>,
    /// How to tell that it is done
    #[arg(long, value_name = "TEXT")]
    criterion: Vec<String>,
    /// The same, for a program to check
    #[arg(long, value_name = "TEXT")]
    measurable: Vec<String>,
    /// Who shall work on it
    #[arg(long, value_name = "NAME")]
    assignee: Option<String>,
    /// Not before, as 2026-12-01T12:00:00Z
    #[arg(long, value_name = "TIMESTAMP", value_parser = parse_at)]
    planned_for: Option<Timestamp>,
    /// Not after
    #[arg(long, value_name = "TIMESTAMP", value_parser = parse_at)]
    deadline: Option<Timestamp>,
    /// What it should take, in hours
    #[arg(long, value_name = "HOURS")]
    estimate: Option<f64>,
}

pub(crate) fn parse_status(text: &str) -> Result<TaskStatus, String> {
    text.parse().map_err(|error: crewline_types::task::FieldError| error.allowed.to_owned())
}

fn parse_priority(text: &str) -> Result<Priority, String> {
    text.parse().map_err(|error: crewline_types::task::FieldError| error.allowed.to_owned())
}

fn parse_time(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "give a number of seconds, or a time such as 90s, 15m or 1h30m".into())
}

/// Reads a time.
pub(crate) fn parse_at(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| "give an RFC 3339 time, such as 2026-12-01T12:00:00Z".into())
}

impl FieldArgs {
    fn fields(self, title: Option<String>, actual: Option<f64>) -> TaskFields {
        let said = |measurable: bool| move |criterion: String| Criterion { criterion, measurable, check: None };
        let criteria: Vec<Criterion> =
            self.criterion.into_iter().map(said(false)).chain(self.measurable.into_iter().map(said(true))).collect();
        TaskFields {
            title,
            description: self.description,
            role: self.role.map(Into::into),
            priority: self.priority,
            duration: self.duration,
            criteria: (!criteria.is_empty()).then_some(criteria),
            assignee: self.assignee,
            planned_for: self.planned_for.map(Some),
            deadline: self.deadline.map(Some),
            estimated_hours: self.estimate,
            actual_hours: actual,
        }
    }
}

/// Runs the command.
pub(crate) async fn run(args: TaskArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let done = act(args.action, &app, console).await;
    app.stop().await;
    done
}

async fn act(action: Action, app: &App, console: &Console) -> Result<Exit, Error> {
    match action {
        Action::Add(args) => add(args, app, console).await,
        Action::Show { task } => {
            let (run, task) = find(app, &task).await?;
            let view = app.handle.task_view(run, task).await?;
            warn_overdue([&view], console);
            console.value(&view, |style| one(&view, style))?;
            Ok(Exit::Ok)
        }
        Action::Ls { run, status, ready, all } => {
            let run = app.handle.find_run(&run).await?;
            let mut views = app.handle.task_views(run).await?;
            warn_overdue(&views, console);
            views.retain(|view| {
                status.is_none_or(|status| view.status == status)
                    && (!ready || view.ready)
                    && (all || status.is_some() || view.status != TaskStatus::Cancelled)
            });
            console.list(&views, |style| many(&views, style))?;
            Ok(Exit::Ok)
        }
        Action::Update { task, title, fields, actual, by } => {
            let (run, task) = find(app, &task).await?;
            let fields = Box::new(fields.fields(title, actual));
            if *fields == TaskFields::default() {
                return Err(Error::Usage {
                    message: "nothing is to be changed".into(),
                    hint: "name a field and its new value",
                });
            }
            change(app, run, TaskCommand::Update { task: task.to_string(), fields }, &by, console).await
        }
        Action::Move { task, below, before, after, by } => {
            let (run, task) = find(app, &task).await?;
            let to = match (below, before, after) {
                (Some(key), _, _) => Place::Below(name(app, &key).await?),
                (_, Some(key), _) => Place::Before(name(app, &key).await?),
                (_, _, key) => Place::After(name(app, &key.unwrap_or_default()).await?),
            };
            change(app, run, TaskCommand::Move { task: task.to_string(), to }, &by, console).await
        }
        Action::Delete { task, unlink, by } => {
            let (run, task) = find(app, &task).await?;
            change(app, run, TaskCommand::Delete { task: task.to_string(), unlink }, &by, console).await
        }
        Action::Skip { task, message, by } => {
            let (run, task) = find(app, &task).await?;
            change(app, run, TaskCommand::Skip { task: task.to_string(), why: message }, &by, console).await
        }
        Action::Progress(args) => progress(args, app, console).await,
        Action::Feedback(args) => feedback(args, app, console).await,
        Action::Complete { task, result, summary, actual, validate, by } => {
            let (run, task) = find(app, &task).await?;
            let result = result.map(|path| read_result(&path)).transpose()?;
            if validate {
                check(app, run, task, result.as_deref().unwrap_or_default()).await?;
            }
            let mut commands = Vec::new();
            if actual.is_some() {
                let fields = Box::new(TaskFields { actual_hours: actual, ..TaskFields::default() });
                commands.push(TaskCommand::Update { task: task.to_string(), fields });
            }
            let to = TaskStatus::Completed;
            let (note, metadata) = (summary, std::collections::BTreeMap::new());
            commands.push(TaskCommand::Mark { task: task.to_string(), to, result, note, metadata });
            let changed = app.handle.change_tasks(run, &commands, &by.agent).await?;
            console.value(&changed, |style| changes(&changed, style))?;
            Ok(Exit::Ok)
        }
    }
}

async fn add(args: AddArgs, app: &App, console: &Console) -> Result<Exit, Error> {
    let run = app.handle.find_run(&args.run).await?;
    let command = TaskCommand::Add {
        key: args.key,
        fields: Box::new(args.fields.fields(Some(args.title), None)),
        parent: args.parent,
        requires: args.requires,
        refers: args.refers,
    };
    change(app, run, command, &args.by, console).await
}

/// The text of a result.
pub(crate) fn read_result(path: &std::path::Path) -> Result<String, Error> {
    if path == std::path::Path::new("-") { read_stdin() } else { read_file(path) }
}

/// Refuses a result that does not meet the measurable criteria of a task.
async fn check(app: &App, run: RunId, task: TaskId, result: &str) -> Result<(), Error> {
    let view = app.handle.task_view(run, task).await?;
    let problems = crewline_runtime::unmet(&view.success_criteria, result);
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::Criteria { task: view.key.to_string(), problems })
}

/// Does one thing and prints what came of it.
pub(crate) async fn change(
    app: &App,
    run: RunId,
    command: TaskCommand,
    by: &By,
    console: &Console,
) -> Result<Exit, Error> {
    let changed = app.handle.change_tasks(run, &[command], &by.agent).await?;
    console.value(&changed, |style| changes(&changed, style))?;
    Ok(Exit::Ok)
}

/// The name of a task inside its run, of what may be a key or RUN/KEY.
pub(crate) async fn name(app: &App, text: &str) -> Result<String, Error> {
    if text.contains('/') { Ok(find(app, text).await?.1.to_string()) } else { Ok(text.to_owned()) }
}

/// Says which tasks are late.
pub(crate) fn warn_overdue<'a>(views: impl IntoIterator<Item = &'a TaskView>, console: &Console) {
    for view in views.into_iter().filter(|view| view.overdue) {
        let deadline = view.details.deadline.map(|at| at.to_string()).unwrap_or_default();
        console.warn(&format!("{} ({}) was due at {deadline}", clean(&view.key), fit(&clean(&view.title), 60)));
    }
}

pub(crate) fn changes(changed: &Changed, style: Style) -> String {
    let mut text = format!("run {} is {}", changed.run, changed.run_status.as_str());
    for task in &changed.tasks {
        let _ = write!(text, "\n{} {} {}", task.id, style.bold(&clean(&task.key)), task.status);
        if let Some(reason) = &task.reason {
            let _ = write!(text, ": {}", fit(&clean(reason), 200));
        }
    }
    text
}

pub(crate) fn many(views: &[TaskView], style: Style) -> String {
    if views.is_empty() {
        return "no tasks".into();
    }
    let columns = [
        ("TASK", Align::Left),
        ("KEY", Align::Left),
        ("STATUS", Align::Left),
        ("PRI", Align::Right),
        ("ROLE", Align::Left),
        ("TITLE", Align::Left),
        ("LINKS", Align::Left),
    ];
    let rows: Vec<Vec<String>> = views
        .iter()
        .map(|view| {
            let status = if view.ready { "ready".to_owned() } else { view.status.to_string() };
            vec![
                view.id.to_string(),
                clean(&view.key).into_owned(),
                status,
                view.priority.get().to_string(),
                clean(view.role.as_str()).into_owned(),
                fit(&clean(&view.title), 50).into_owned(),
                fit(&clean(&links(view)), 60).into_owned(),
            ]
        })
        .collect();
    table(style, &columns, &rows)
}

fn links(view: &TaskView) -> String {
    let links: Vec<String> = view.links.iter().map(|link| format!("{} {}", link.kind.as_str(), link.to)).collect();
    links.join(", ")
}

pub(crate) fn one(view: &TaskView, style: Style) -> String {
    let mut lines = vec![
        format!("{} {} · {}", style.bold(&clean(&view.key)), view.id, clean(&view.title)),
        format!(
            "{}{} · {} · priority {} · {}",
            view.status,
            if view.ready { " (ready)" } else { "" },
            clean(view.role.as_str()),
            view.priority.get(),
            match view.kind {
                TaskKind::Composite => "done when the tasks below it are",
                TaskKind::Synthesis => "writes the final document",
                TaskKind::Root | TaskKind::Atomic => "one piece of work",
            }
        ),
    ];
    let mut add = |name: &str, value: Option<String>| {
        lines.extend(value.map(|value| format!("{} {}", style.dim(&format!("{name:<12}")), clean(&value))));
    };
    let details = &view.details;
    add("description", Some(view.description.to_string()).filter(|text| **text != *view.title));
    add("parent", view.parent.as_ref().map(ToString::to_string));
    add("links", Some(links(view)).filter(|text| !text.is_empty()));
    add("why", view.reason.clone());
    add("assignee", details.assignee.clone());
    add("planned for", details.planned_for.map(|at| at.to_string()));
    add("deadline", details.deadline.map(|at| at.to_string()));
    add("estimate", details.estimated_hours.map(|it| format!("{it} h")));
    add("took", details.actual_hours.map(|it| format!("{it} h")));
    add("summary", details.completion_summary.clone());
    add(
        "progress",
        details.progress.as_ref().map(|it| {
            let text = it.text.as_ref().map(|text| format!(": {text}")).unwrap_or_default();
            format!("{} %{text}", it.percent)
        }),
    );
    for it in &details.feedback {
        let text = it.text.as_ref().map(|text| format!(": {text}")).unwrap_or_default();
        let ratings = format!("quality {}, timeliness {}", it.quality, it.timeliness);
        add("feedback", Some(format!("{} {ratings}{text}", it.agent)));
    }
    add("changed by", details.last_agent.clone());
    for criterion in &view.success_criteria {
        add(if criterion.measurable { "measurable" } else { "criterion" }, Some(criterion.criterion.clone()));
    }
    for (key, value) in &details.metadata {
        add(key, Some(value.clone()));
    }
    for note in &view.notes {
        add("note", Some(format!("{} {}: {}", note.at, note.agent, note.text)));
    }
    lines.join("\n")
}
