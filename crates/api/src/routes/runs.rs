//! `/api/v1/runs`: launch, list, show, cancel.

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use crewline_runtime::Error;
use crewline_types::{ErrorKind, RunId, RunStatus};
use serde::Deserialize;

use crate::{
    App, Problem,
    dto::{Launched, NewRun, RunDetail, RunItem, RunList},
};

/// Runs in one page when the client does not say.
const PAGE: u32 = 50;
/// Runs in one page at most.
const PAGE_MAX: u32 = 500;

/// What a list may be narrowed by.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    project: Option<String>,
    limit: Option<u32>,
}

/// `POST /api/v1/runs`
pub(crate) async fn launch(
    State(app): State<App>,
    body: Result<Json<NewRun>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(body) = body?;
    let run = app.handle.launch(body.into_request()?).await?;
    let location = format!("/api/v1/runs/{run}");
    let body = Launched { run, events: format!("{location}/events") };
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(body)).into_response())
}

/// `GET /api/v1/runs`
pub(crate) async fn list(
    State(app): State<App>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<RunList>, Problem> {
    let Query(query) = query?;
    let limit = query.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let runs = app.handle.runs(query.project.as_deref(), limit).await?;
    Ok(Json(RunList { runs: runs.into_iter().map(RunItem::from).collect() }))
}

/// `GET /api/v1/runs/{id}`
pub(crate) async fn show(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<RunDetail>, Problem> {
    let run = find(&app, id).await?;
    Ok(Json(app.handle.report(run).await?.into()))
}

/// `POST /api/v1/runs/{id}/cancel`
pub(crate) async fn cancel(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Problem> {
    let run = find(&app, id).await?;
    match app.handle.cancel(run).await {
        Ok(()) => Ok(StatusCode::ACCEPTED),
        Err(Error::NotFound { .. }) => {
            // A run that exists, but not here and now, is a conflict; one that does not exist says so itself.
            let status = app.handle.report(run).await?.status;
            let detail = match status {
                RunStatus::Running => format!("run `{run}` is being worked on by another process"),
                RunStatus::Completed
                | RunStatus::Failed
                | RunStatus::Cancelled
                | RunStatus::Interrupted
                | RunStatus::LimitReached => format!("run `{run}` is {}", status.as_str()),
            };
            Err(Problem::new(ErrorKind::Conflict, "run.not_active", detail))
        }
        Err(error) => Err(error.into()),
    }
}

/// The run that `id`, or its shortest unique prefix, names.
pub(crate) async fn find(app: &App, id: Result<Path<String>, PathRejection>) -> Result<RunId, Problem> {
    let Path(id) = id?;
    Ok(app.handle.find_run(&id).await?)
}
