//! What tasks changed in the workspace of their run: `…/tasks/{task}/diff`, `…/tasks/{task}/revert`, `…/artifacts`.
//!
//! **Invariant:** what does not fit changes nothing, and says where.

use axum::{
    Extension, Json,
    extract::{
        Path, State,
        rejection::{JsonRejection, PathRejection},
    },
};
use crewline_runtime::{Artifacts, Reverted, TaskChange};
use crewline_types::ErrorKind;
use serde::Deserialize;

use super::tasks::{AGENT, TaskPath, find};
use crate::{App, Problem, door::Caller};

/// `POST /api/v1/runs/{id}/tasks/{task}/revert`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NewRevert {
    /// Who takes it back.
    by: Option<String>,
}

/// `GET /api/v1/runs/{id}/tasks/{task}/diff`: attempt by attempt; empty when the task merged nothing.
pub(crate) async fn diff(State(app): State<App>, path: TaskPath) -> Result<Json<Vec<TaskChange>>, Problem> {
    let (run, task) = find(&app, path).await?;
    Ok(Json(app.handle.changes_of_task(run, task).await?))
}

/// `POST /api/v1/runs/{id}/tasks/{task}/revert`: takes the task's changes back, or answers with what later work touched.
pub(crate) async fn revert(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    path: TaskPath,
    body: Result<Json<NewRevert>, JsonRejection>,
) -> Result<Json<Reverted>, Problem> {
    let ((run, task), Json(body)) = (find(&app, path).await?, body?);
    let reverted = app.handle.revert_task(run, task, &caller.who(body.by.as_deref(), AGENT)).await?;
    if reverted.conflicts.is_empty() {
        return Ok(Json(reverted));
    }
    let files: Vec<&str> = reverted.conflicts.iter().map(|it| it.path.as_str()).collect();
    let detail = format!("later work touched the same in {}", files.join(", "));
    let mut problem = Problem::new(ErrorKind::Conflict, "task.revert_conflict", detail);
    problem.errors = reverted.conflicts.iter().filter_map(|it| serde_json::to_value(it).ok()).collect();
    Err(problem.hint(Some("take the later task's changes back first".to_owned())))
}

/// `GET /api/v1/runs/{id}/artifacts`: the files that the run changed, and which tasks did.
pub(crate) async fn artifacts(
    State(app): State<App>,
    run: Result<Path<String>, PathRejection>,
) -> Result<Json<Artifacts>, Problem> {
    let run = super::runs::find(&app, run).await?;
    Ok(Json(app.handle.artifacts(run).await?))
}
