//! `crewline plan extend`: a second planning, which adds what a plan lacks.

use std::fmt::Write as _;

use crewline_engine::{context::trim_to, plan::Document};
use crewline_runtime::{Mode, TaskCommand, TaskFields, TaskView};
use crewline_types::{LinkKind, RunLimits, TaskKind, TaskStatus};

use crate::{
    app::App,
    commands::{
        decompose::{Answer, Wanted},
        task::changes,
    },
    console::Console,
    error::Error,
    exit::Exit,
    settings::Settings,
    view::clean,
};

/// Other tasks that the planner is told of.
const OTHERS_MAX: usize = 200;
/// Tokens of INDEX.md that it is told.
const INDEX_TOKENS: u32 = 4_000;
/// Results that a new task is told of at most.
const REFERS_MAX: usize = 12;

/// What is to be added to which plan, and by whom.
pub(crate) struct Extend<'a> {
    pub(crate) run: &'a str,
    pub(crate) what: Option<&'a str>,
    pub(crate) agent: &'a str,
    pub(crate) limits: RunLimits,
    pub(crate) mode: Mode,
}

/// Asks the planner for what the plan lacks, and adds it.
pub(crate) async fn extend(args: Extend<'_>, app: &App, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let run = app.handle.find_run(args.run).await?;
    let views = app.handle.task_views(run).await?;
    let report = app.handle.report(run).await?;
    let index = match app.handle.index(run, None).await {
        Ok(index) => Some(index.body),
        // A run without a plan has none.
        Err(crewline_runtime::Error::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let goal = goal(&report.goal, args.what, index.as_deref(), &views);
    let wanted = Wanted { project: report.project.to_string(), goal, limits: args.limits, mode: args.mode };
    let (planning, plan) = match wanted.ask(app, settings, console).await? {
        Answer::Plan(run, plan) => (run, plan),
        Answer::None(exit) => return Ok(exit),
    };
    let changed = app.handle.change_tasks(run, &commands(&views, &plan), args.agent).await?;
    console.note(&format!("planned in run {planning}"));
    console.value(&changed, |style| changes(&changed, style))?;
    Ok(Exit::Ok)
}

/// What the planner is asked for.
fn goal(goal: &str, what: Option<&str>, index: Option<&str>, views: &[TaskView]) -> String {
    let mut text = match what {
        Some(what) => format!("{}\n\nThis extends a plan whose goal is: {}\n", what.trim(), first_line(goal)),
        None => format!("{goal}\n\nThe plan below is not enough: plan what it lacks, and only that.\n"),
    };
    let others: Vec<&TaskView> = views.iter().filter(|view| view.status != TaskStatus::Cancelled).collect();
    if !others.is_empty() {
        text.push_str("\nThe plan has these tasks already; do not plan them again:\n");
        for other in others.iter().take(OTHERS_MAX) {
            // Writing into memory can not fail.
            let _ = writeln!(text, "- {} ({})", clean(&other.title), other.status);
        }
    }
    if let Some(index) = index {
        let _ = write!(text, "\nIts INDEX.md:\n{}\n", trim_to(index, INDEX_TOKENS));
    }
    text
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// What adds the tasks of `plan`: those that require no other of them are told what the plan has made so far.
fn commands(views: &[TaskView], plan: &Document) -> Vec<TaskCommand> {
    let is_taken = |key: &str| views.iter().any(|view| &*view.key == key);
    let rounds = 1..=u32::try_from(views.len()).unwrap_or(u32::MAX).saturating_add(1);
    let is_free = |round: &u32| !plan.tasks.iter().any(|task| is_taken(&key(&task.id, *round)));
    let round = rounds.into_iter().find(is_free).unwrap_or(1);
    let ends = ends(views);
    let mut commands = Vec::new();
    for task in &plan.tasks {
        let title = Some(task.title.trim()).filter(|it| !it.is_empty()).unwrap_or(&task.id).to_owned();
        let description = Some(task.description.clone()).filter(|it| !it.trim().is_empty());
        let role = task.role.as_deref().map(Into::into);
        let fields = Box::new(TaskFields { title: Some(title), description, role, ..TaskFields::default() });
        let refers = if task.depends_on.is_empty() { ends.clone() } else { Vec::new() };
        let key = Some(key(&task.id, round));
        commands.push(TaskCommand::Add { key, fields, parent: None, requires: Vec::new(), refers });
    }
    for task in &plan.tasks {
        for need in &task.depends_on {
            let (from, to) = (key(&task.id, round), key(need, round));
            commands.push(TaskCommand::Link { from, to, kind: LinkKind::Requires });
        }
    }
    commands
}

/// The tasks that no other requires, but for the one that writes the final document.
fn ends(views: &[TaskView]) -> Vec<String> {
    let is_work = |view: &&TaskView| view.kind == TaskKind::Atomic && view.status != TaskStatus::Cancelled;
    let is_required = |view: &TaskView| {
        let others = views.iter().filter(is_work);
        let mut links = others.flat_map(|other| &other.links).filter(|link| link.kind == LinkKind::Requires);
        links.any(|link| link.to == view.key)
    };
    let ends = views.iter().filter(is_work).filter(|view| !is_required(view));
    ends.map(|view| view.key.to_string()).take(REFERS_MAX).collect()
}

fn key(id: &str, round: u32) -> String {
    if round == 1 { format!("more.{}", id.trim()) } else { format!("more.{round}.{}", id.trim()) }
}
