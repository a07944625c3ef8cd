//! `/api/v1/runs`: launch, list, show; pause, cancel, kill.

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use crewline_runtime::Wish;
use crewline_types::RunId;
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

/// `POST /api/v1/runs/{id}/pause`: nothing more starts; `resume` continues the run.
pub(crate) async fn pause(app: State<App>, id: Result<Path<String>, PathRejection>) -> Result<StatusCode, Problem> {
    ask(&app, id, Wish::Pause).await
}

/// `POST /api/v1/runs/{id}/cancel`: nothing more starts, what runs ends, the run is over.
pub(crate) async fn cancel(app: State<App>, id: Result<Path<String>, PathRejection>) -> Result<StatusCode, Problem> {
    ask(&app, id, Wish::Cancel).await
}

/// `POST /api/v1/runs/{id}/kill`: what runs is aborted, the run is over.
pub(crate) async fn kill(app: State<App>, id: Result<Path<String>, PathRejection>) -> Result<StatusCode, Problem> {
    ask(&app, id, Wish::Kill).await
}

async fn ask(app: &App, id: Result<Path<String>, PathRejection>, wish: Wish) -> Result<StatusCode, Problem> {
    let run = find(app, id).await?;
    app.handle.ask_to(run, wish).await?;
    Ok(StatusCode::ACCEPTED)
}

/// The run that `id`, or its shortest unique prefix, names.
pub(crate) async fn find(app: &App, id: Result<Path<String>, PathRejection>) -> Result<RunId, Problem> {
    let Path(id) = id?;
    Ok(app.handle.find_run(&id).await?)
}
