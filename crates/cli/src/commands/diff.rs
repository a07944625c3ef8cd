//! `crewline diff`: two runs side by side, task by task; or what one task changed.

use std::{fmt::Write as _, time::Duration};

use clap::Args;
use crewline_runtime::{Diff, Side, TaskDiff, Texts, Verdict};
use similar::{ChangeTag, TextDiff};

use super::changes;
use crate::{
    app::App,
    console::Console,
    error::Error,
    exit::Exit,
    settings::Settings,
    view::{Align, Style, clean, cost, count, duration, fit, table, tokens},
};

/// Columns of a title.
const TITLE: usize = 40;
/// How long two results are compared for the shortest difference; after it, a longer one is shown.
const COMPARE_LIMIT: Duration = Duration::from_secs(2);

/// What `crewline diff` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline diff k3v9 m2p1
  crewline diff k3v9/fix                      what a task changed in the workspace of its run
  crewline diff k3v9 m2p1 --task t2 --text    what changed in the result of one task
  crewline diff k3v9 m2p1 -o json | jq '.tasks[] | select(.result == \"different\") | .key'

Tasks are matched by their key. Like `diff`, it exits with 1 when something differs.")]
pub(crate) struct DiffArgs {
    /// The first run, or the beginning of its id; alone: a task, whose changes in its workspace are shown
    #[arg(value_name = "RUN|TASK")]
    left: String,
    /// The second run, or the beginning of its id
    #[arg(value_name = "RUN")]
    right: Option<String>,
    /// Only the task with this key
    #[arg(long, value_name = "KEY")]
    task: Option<String>,
    /// Show how results differ, line by line
    #[arg(long)]
    text: bool,
}

/// Runs the command.
pub(crate) async fn run(args: DiffArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let Some(right) = &args.right else {
        return changes::diff(&args.left, settings, console).await;
    };
    let app = App::read_only(settings).await?;
    let texts = if args.text { Texts::OfDifferent } else { Texts::None };
    let diff = async {
        let left = app.handle.find_run(&args.left).await?;
        let right = app.handle.find_run(right).await?;
        app.handle.diff(left, right, args.task.as_deref(), texts).await
    }
    .await;
    app.stop().await;
    let diff = diff?;
    console.value(&diff, |style| if args.text { unified(&diff, style) } else { overview(&diff, style) })?;
    let is_same = diff.tasks.iter().all(|task| task.result == Verdict::Same);
    Ok(if is_same { Exit::Ok } else { Exit::Failed })
}

fn overview(diff: &Diff, style: Style) -> String {
    let columns = [
        ("KEY", Align::Left),
        ("RESULT", Align::Left),
        ("STATUS", Align::Left),
        ("MODEL", Align::Left),
        ("TOKENS", Align::Left),
        ("COST", Align::Left),
        ("TITLE", Align::Left),
    ];
    let rows: Vec<Vec<String>> = diff.tasks.iter().map(row).collect();
    let whole = |name: &str, side: &crewline_runtime::RunSide| {
        format!(
            "{} {} · {} · {} calls · {} tokens · {} · {}",
            style.bold(name),
            side.run,
            side.status.as_str(),
            count(side.calls),
            tokens(&side.usage),
            cost(side.cost_usd, 0),
            duration(Duration::from_millis(side.elapsed_ms)),
        )
    };
    let mut text = format!("{}\n{}\n", whole("left ", &diff.left), whole("right", &diff.right));
    if diff.left.goal != diff.right.goal {
        text.push_str("their goals differ\n");
    }
    format!("{text}\n{}", table(style, &columns, &rows))
}

fn row(task: &TaskDiff) -> Vec<String> {
    let both = |of: fn(&Side) -> String| match (task.left.as_ref().map(of), task.right.as_ref().map(of)) {
        (Some(left), Some(right)) if left == right => left,
        (left, right) => {
            let shown = |side: Option<String>| side.unwrap_or_else(|| "-".into());
            format!("{} | {}", shown(left), shown(right))
        }
    };
    let title = task.left.as_ref().or(task.right.as_ref()).map_or("", |side| &side.title);
    vec![
        clean(&task.key).into_owned(),
        task.result.as_str().to_owned(),
        both(|side| side.status.to_string()),
        both(|side| clean(side.model.as_deref().unwrap_or("-")).into_owned()),
        both(|side| tokens(&side.usage)),
        both(|side| cost(side.cost_usd, 0)),
        fit(&clean(title), TITLE).into_owned(),
    ]
}

/// The results that differ, as unified diffs.
fn unified(diff: &Diff, style: Style) -> String {
    let mut text = String::new();
    for task in diff.tasks.iter().filter(|task| task.result != Verdict::Same) {
        let body = |side: &Option<Side>| side.as_ref().and_then(|side| side.text.clone()).unwrap_or_default();
        let (left, right) = (body(&task.left), body(&task.right));
        let key = clean(&task.key);
        text.push_str(&style.bold(&format!("--- {}/{key}\n+++ {}/{key}", diff.left.run, diff.right.run)));
        text.push('\n');
        if left == right {
            let status = |side: &Option<Side>| side.as_ref().map_or("not there", |side| side.status.as_str());
            _ = writeln!(text, " status: {} | {}", status(&task.left), status(&task.right));
            continue;
        }
        let compared = TextDiff::configure().timeout(COMPARE_LIMIT).diff_lines(&left, &right);
        for hunk in compared.unified_diff().context_radius(3).iter_hunks() {
            text.push_str(&style.cyan(&hunk.header().to_string()));
            text.push('\n');
            for change in hunk.iter_changes() {
                let line = clean(change.value().trim_end_matches('\n')).into_owned();
                let line = match change.tag() {
                    ChangeTag::Delete => style.red(&format!("-{line}")),
                    ChangeTag::Insert => style.green(&format!("+{line}")),
                    ChangeTag::Equal => format!(" {line}"),
                };
                text.push_str(&line);
                text.push('\n');
            }
        }
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use crewline_runtime::RunSide;
    use crewline_types::{MicroUsd, RunStatus, TaskStatus, Usage};

    use super::*;

    fn diff(left: Option<&str>, right: Option<&str>) -> Diff {
        let run = |id: &str| RunSide {
            run: id.parse().unwrap(),
            goal: "g".into(),
            status: RunStatus::Completed,
            calls: 1,
            usage: Usage::default(),
            cost_usd: MicroUsd::ZERO,
            elapsed_ms: 1,
        };
        let side = |text: &str| Side {
            title: "T".into(),
            status: TaskStatus::Completed,
            model: Some("cheap".into()),
            copied_from: None,
            attempts: 1,
            result: None,
            usage: Usage::default(),
            cost_usd: MicroUsd::ZERO,
            elapsed_ms: None,
            text: Some(text.into()),
        };
        Diff {
            left: run("aaaaaaaa"),
            right: run("bbbbbbbb"),
            is_same: false,
            tasks: vec![TaskDiff {
                key: "t1".into(),
                result: Verdict::Different,
                left: left.map(side),
                right: right.map(side),
            }],
        }
    }

    #[test]
    fn results_are_compared_line_by_line() {
        let text = unified(&diff(Some("a\nb\nc\n"), Some("a\nB\u{1b}[2J\nc\n")), Style::PLAIN);
        assert_eq!(text, "--- aaaaaaaa/t1\n+++ bbbbbbbb/t1\n@@ -1,3 +1,3 @@\n a\n-b\n+B [2J\n c");
        let text = unified(&diff(None, Some("new\n")), Style::PLAIN);
        assert!(text.ends_with("\n+new"), "{text}");
    }

    #[test]
    fn what_differs_stands_side_by_side() {
        let text = overview(&diff(None, Some("x")), Style::PLAIN);
        assert!(text.contains("- | completed") && text.contains("- | cheap"), "{text}");
    }
}
