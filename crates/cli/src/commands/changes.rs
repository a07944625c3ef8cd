//! `crewline diff TASK`, `revert` and `artifacts`: what tasks changed in the workspace of their run.

use clap::Args;
use crewline_runtime::{Artifacts, Reverted, TaskChange};

use crate::{
    app::App,
    commands::{context::find, task::By},
    console::Console,
    error::Error,
    exit::Exit,
    settings::Settings,
    view::{Align, Style, clean, table},
};

/// What `crewline revert` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline diff k3v9/fix         what the task changed
  crewline revert k3v9/fix

What later work did to the same lines is a conflict: it is shown, and nothing is changed. Exits with 9 then.")]
pub(crate) struct RevertArgs {
    /// The task
    #[arg(value_name = "TASK")]
    task: String,
    #[command(flatten)]
    by: By,
}

/// What `crewline artifacts` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline artifacts k3v9
  crewline artifacts k3v9 -o json | jq -r '.files[] | select(.exists) | .path'")]
pub(crate) struct ArtifactsArgs {
    /// The run, or the beginning of its id
    #[arg(value_name = "RUN")]
    run: String,
}

/// Runs `crewline diff TASK`.
pub(crate) async fn diff(task: &str, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let found = async {
        let (run, task) = find(&app, task).await?;
        Ok::<_, Error>(app.handle.changes_of_task(run, task).await?)
    };
    let found = found.await;
    app.stop().await;
    let changes = found?;
    console.value(&changes, |style| text_of(&changes, style))?;
    Ok(Exit::Ok)
}

fn text_of(changes: &[TaskChange], style: Style) -> String {
    if changes.is_empty() {
        return "the task changed nothing in a workspace".to_owned();
    }
    let parts = changes.iter().map(|it| {
        let commit = it.commit.as_deref().map(|it| format!(", commit {it}")).unwrap_or_default();
        let head = format!("attempt {} of {}, {} files{commit}", it.attempt, clean(&it.key), it.files.len());
        format!("{}\n{}", style.dim(&head), clean(it.diff.trim_end()))
    });
    parts.collect::<Vec<_>>().join("\n\n")
}

/// Runs `crewline revert`.
pub(crate) async fn revert(args: RevertArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let done = async {
        let (run, task) = find(&app, &args.task).await?;
        Ok::<_, Error>(app.handle.revert_task(run, task, &args.by.agent).await?)
    };
    let done = done.await;
    app.stop().await;
    let reverted = done?;
    console.value(&reverted, |style| reverted_text(&reverted, style))?;
    for conflict in &reverted.conflicts {
        console.warn(&format!("later work touched the same in `{}`", clean(&conflict.path)));
    }
    Ok(if reverted.conflicts.is_empty() { Exit::Ok } else { Exit::Conflict })
}

fn reverted_text(reverted: &Reverted, style: Style) -> String {
    if reverted.conflicts.is_empty() {
        return format!("{}\n{}", style.bold("taken back"), clean(reverted.diff.trim_end()));
    }
    let marked = reverted.conflicts.iter().map(|it| format!("{}\n{}", style.bold(&clean(&it.path)), clean(&it.marked)));
    format!("nothing of this was changed:\n{}", marked.collect::<Vec<_>>().join("\n"))
}

/// Runs `crewline artifacts`.
pub(crate) async fn artifacts(args: ArtifactsArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let found = async {
        let run = app.handle.find_run(&args.run).await?;
        Ok::<_, Error>(app.handle.artifacts(run).await?)
    };
    let found = found.await;
    app.stop().await;
    let artifacts = found?;
    console.value(&artifacts, |style| files(&artifacts, style))?;
    Ok(Exit::Ok)
}

fn files(artifacts: &Artifacts, style: Style) -> String {
    let Some(workspace) = &artifacts.workspace else { return "the run has no workspace".to_owned() };
    let columns = [("FILE", Align::Left), ("BYTES", Align::Right), ("TASKS", Align::Left)];
    let rows: Vec<Vec<String>> = artifacts
        .files
        .iter()
        .map(|it| {
            let bytes = it.bytes.map_or_else(|| "gone".to_owned(), |bytes| bytes.to_string());
            vec![clean(&it.path).into_owned(), bytes, clean(&it.tasks.join(", ")).into_owned()]
        })
        .collect();
    let place = clean(&workspace.display().to_string()).into_owned();
    format!("{}\n{}", style.dim(&place), table(style, &columns, &rows))
}
