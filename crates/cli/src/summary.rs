//! A finished run, for people: where the documents are, what each model did, what it took.

use std::{fmt::Write as _, path::Path, time::Duration};

use crewline_runtime::{HostReport, Report, ShadowReport, TaskReport};
use crewline_types::{Clock as _, RunStatus, SystemClock, TaskCounts, TaskKind, TaskStatus, Timestamp, task::PARKED};

use crate::view::{Align, Style, bytes, clean, cost, count, duration, fit, table, tokens};

/// Columns of a title in a table.
const TITLE: usize = 48;
/// Hosts that are listed.
const HOSTS_MAX: usize = 10;

/// What `run` and `resume` print at the end. `out` is where the documents were written.
pub(crate) fn finished(report: &Report, out: Option<&Path>, style: Style) -> String {
    let mut text = String::new();
    if let Some(out) = out {
        for (label, file) in [("result", "RESULT.md"), ("index", "INDEX.md"), ("report", "report.json")] {
            let path = out.join(file);
            if path.exists() {
                _ = writeln!(text, "{} {}", style.bold(&format!("{label:<8}")), path.display());
            }
        }
        text.push('\n');
    }
    if !report.models.is_empty() {
        text.push_str(&models(report, style));
        text.push_str("\n\n");
    }
    text.push_str(&hosts(report, style));
    text.push_str(&totals(report));
    text
}

/// What `show` prints.
pub(crate) fn detailed(report: &Report, style: Style) -> String {
    let mut text = String::new();
    _ = writeln!(text, "{} {}", style.bold("run     "), report.run);
    _ = writeln!(text, "{} {}", style.bold("goal    "), clean(&report.goal));
    _ = writeln!(text, "{} {}", style.bold("project "), clean(&report.project));
    _ = writeln!(text, "{} {}", style.bold("status  "), status(report.status, style));
    if let (Some(parent), Some(origin)) = (report.parent_run, report.origin) {
        let copied = report.tasks.iter().filter(|task| task.copied_from.is_some()).count();
        _ = writeln!(text, "{} {} of {parent}, {copied} results taken over", style.bold("made as "), origin.as_str());
    }
    _ = writeln!(text, "{} {}", style.bold("started "), report.started_at);
    if let Some(error) = &report.error {
        _ = writeln!(text, "{} {} [{}]", style.bold("error   "), clean(&error.message), error.code);
    }
    for repair in &report.repairs {
        _ = writeln!(text, "{} {}", style.bold("repaired"), clean(repair));
    }
    for wish in &report.refused {
        _ = writeln!(text, "{} {}", style.bold("refused "), clean(wish));
    }
    text.push('\n');
    let columns = [
        ("TASK", Align::Left),
        ("KEY", Align::Left),
        ("ROLE", Align::Left),
        ("STATUS", Align::Left),
        ("MODEL", Align::Left),
        ("TRIES", Align::Right),
        ("TIME", Align::Right),
        ("TOKENS", Align::Right),
        ("COST", Align::Right),
        ("TITLE", Align::Left),
    ];
    let rows: Vec<Vec<String>> = report.tasks.iter().map(row).collect();
    text.push_str(&table(style, &columns, &rows));
    text.push_str("\n\n");
    if !report.models.is_empty() {
        text.push_str(&models(report, style));
        text.push_str("\n\n");
    }
    text.push_str(&hosts(report, style));
    text.push_str(&totals(report));
    for task in report.tasks.iter().filter(|task| task.kind != TaskKind::Root) {
        if let (TaskStatus::Failed | TaskStatus::Blocked, Some(reason)) = (task.status, &task.reason) {
            _ = write!(text, "\n{} {}: {}", style.red(task.status.as_str()), clean(&task.key), clean(reason));
        }
    }
    text.push_str(&times(report, SystemClock.now(), style));
    for task in &report.tasks {
        let waits = task.reason.as_ref().and_then(|reason| reason.strip_prefix(PARKED));
        if let (TaskStatus::Pending, Some(reason)) = (task.status, waits) {
            _ = write!(text, "\n{} {}: {}", style.yellow("parked"), clean(&task.key), clean(reason));
        }
    }
    text
}

/// What is planned for later, and what is overdue.
fn times(report: &Report, now: Timestamp, style: Style) -> String {
    let mut text = String::new();
    for task in report.tasks.iter().filter(|task| !task.status.is_final()) {
        if let Some(at) = task.planned_for.filter(|at| *at > now && task.status == TaskStatus::Pending) {
            _ = write!(text, "\n{} {}: not before {at}", style.yellow("planned"), clean(&task.key));
        }
        if let Some(at) = task.deadline.filter(|at| *at < now) {
            _ = write!(text, "\n{} {}: its deadline was {at}", style.red("overdue"), clean(&task.key));
        }
    }
    text
}

/// What `show` prints of one task. `text` is its result.
pub(crate) fn task(task: &TaskReport, text: Option<&str>, style: Style) -> String {
    let mut shown = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            _ = writeln!(shown, "{} {}", style.bold(&format!("{name:<8}")), clean(value));
        }
    };
    line("task", task.id.as_str());
    line("key", &task.key);
    line("title", &task.title);
    line("role", task.role.as_str());
    line("status", task.status.as_str());
    line("reason", task.reason.as_deref().unwrap_or_default());
    line("model", task.model.as_deref().unwrap_or_default());
    line("from", &task.copied_from.map(|id| format!("taken over from {id}")).unwrap_or_default());
    line("asked by", &task.created_by.map(|id| id.to_string()).unwrap_or_default());
    line("planned", &task.planned_for.map(|at| format!("not before {at}")).unwrap_or_default());
    line("deadline", &task.deadline.map(|at| at.to_string()).unwrap_or_default());
    line("spent", &format!("{} tokens, {}", tokens(&task.usage), cost(task.cost_usd, 0)));
    for attempt in &task.attempts {
        let error = attempt.error.as_ref().map(|it| format!(": {} [{}]", it.message, it.code)).unwrap_or_default();
        let status = attempt.status.as_str();
        line("attempt", &format!("{} {status} with {} calls{error}", attempt.number, attempt.calls.len()));
    }
    if let Some(text) = text {
        shown.push('\n');
        for words in text.trim_end().lines() {
            shown.push_str(&clean(words));
            shown.push('\n');
        }
    }
    shown.truncate(shown.trim_end().len());
    shown
}

fn row(task: &TaskReport) -> Vec<String> {
    vec![
        task.id.to_string(),
        clean(&task.key).into_owned(),
        clean(task.role.as_str()).into_owned(),
        task.status.as_str().to_owned(),
        clean(task.model.as_deref().unwrap_or("-")).into_owned(),
        task.attempts.len().to_string(),
        task.elapsed_ms.map_or_else(|| "-".to_owned(), |ms| duration(Duration::from_millis(ms))),
        tokens(&task.usage),
        cost(task.cost_usd, 0),
        fit(&clean(&task.title), TITLE).into_owned(),
    ]
}

fn models(report: &Report, style: Style) -> String {
    let columns = [
        ("MODEL", Align::Left),
        ("PROVIDER", Align::Left),
        ("CALLS", Align::Right),
        ("FAILED", Align::Right),
        ("TOKENS", Align::Right),
        ("COST", Align::Right),
    ];
    let rows: Vec<Vec<String>> = report
        .models
        .iter()
        .map(|model| {
            vec![
                clean(&model.model).into_owned(),
                clean(&model.provider).into_owned(),
                count(model.calls),
                count(model.failed_calls),
                tokens(&model.usage),
                cost(model.cost_usd, model.unpriced_calls),
            ]
        })
        .collect();
    table(style, &columns, &rows)
}

/// Which hosts were asked, those first that most was sent to; nothing when none was.
fn hosts(report: &Report, style: Style) -> String {
    if report.hosts.is_empty() {
        return String::new();
    }
    let columns = [("HOST", Align::Left), ("WHERE", Align::Left), ("SENT", Align::Right), ("RECEIVED", Align::Right)];
    let mut hosts: Vec<&HostReport> = report.hosts.iter().collect();
    hosts.sort_by_key(|it| std::cmp::Reverse(it.sent_bytes));
    let row = |it: &&HostReport| {
        vec![
            clean(&it.host).into_owned(),
            it.host_class.as_str().to_owned(),
            bytes(it.sent_bytes),
            bytes(it.received_bytes),
        ]
    };
    let rows: Vec<Vec<String>> = hosts.iter().take(HOSTS_MAX).map(row).collect();
    let mut text = table(style, &columns, &rows);
    if let more @ 1.. = hosts.len().saturating_sub(HOSTS_MAX) {
        _ = write!(text, "\n{}", style.dim(&format!("and {more} more, in the report as JSON")));
    }
    text.push_str("\n\n");
    text
}

fn totals(report: &Report) -> String {
    format!(
        "{} · {} calls · {} tokens · {} · {}",
        tasks(&report.counts),
        count(report.calls),
        tokens(&report.usage),
        cost(report.cost_usd, report.unpriced_calls),
        duration(Duration::from_millis(report.elapsed_ms)),
    ) + &report.shadow.map(copies).unwrap_or_default()
}

/// What candidates were asked beside the run: its own figures do not have it.
fn copies(shadow: ShadowReport) -> String {
    format!(" · {} {} for candidates, {}", count(shadow.calls), plural(shadow.calls), cost(shadow.cost_usd, 0))
}

fn plural(copies: u64) -> &'static str {
    if copies == 1 { "copy" } else { "copies" }
}

/// `4 of 5 tasks completed, 1 failed`.
pub(crate) fn tasks(counts: &TaskCounts) -> String {
    let mut text = format!("{} of {} tasks completed", counts.completed, counts.total);
    for (number, word) in [
        (counts.failed, "failed"),
        (counts.blocked, "blocked"),
        (counts.cancelled, "cancelled"),
        (counts.awaiting_approval, "awaiting approval"),
        (counts.in_progress, "in progress"),
        (counts.pending, "pending"),
    ] {
        if number > 0 {
            _ = write!(text, ", {number} {word}");
        }
    }
    text
}

/// A run's status with its colour.
pub(crate) fn status(status: RunStatus, style: Style) -> String {
    match status {
        RunStatus::Running => style.cyan(status.as_str()),
        RunStatus::Completed => style.green(status.as_str()),
        RunStatus::Failed | RunStatus::Cancelled => style.red(status.as_str()),
        RunStatus::Interrupted | RunStatus::LimitReached => style.yellow(status.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_there_is_counted() {
        let counts = TaskCounts { total: 5, completed: 3, failed: 1, blocked: 1, ..TaskCounts::default() };
        assert_eq!(tasks(&counts), "3 of 5 tasks completed, 1 failed, 1 blocked");
    }
}
