//! `/api/v1/runs`: launch, list, show; pause, cancel, kill.

use axum::{
    Extension, Json,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use crewline_runtime::{LaunchKey, Launched, Wish};
use crewline_types::{ErrorKind, RunId, TextHash};
use serde::Deserialize;

use crate::{
    App, Problem,
    door::Caller,
    dto::{self, NewRun, RunDetail, RunItem, RunList},
};

/// Runs in one page when the client does not say.
const PAGE: u32 = 50;
/// Runs in one page at most.
const PAGE_MAX: u32 = 500;

/// Makes a launch that is sent again the same launch (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that a run was there already.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Characters of a key at most.
const KEY_CHARS_MAX: usize = 255;

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
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Json<NewRun>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(body) = body?;
    let key = launch_key(&caller, &headers, &body)?;
    let request = body.into_request()?;
    let launched = match key {
        Some(key) => app.handle.launch_once(request, key).await?,
        None => Launched::Now(app.handle.launch(request).await?),
    };
    let (Launched::Now(run) | Launched::Before(run)) = launched;
    let location = format!("/api/v1/runs/{run}");
    let body = dto::Launched { run, events: format!("{location}/events") };
    let mut response = (StatusCode::CREATED, [(header::LOCATION, location)], Json(body)).into_response();
    if matches!(launched, Launched::Before(_)) {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// What the caller calls this launch, so that it is made once; keys of others are others.
fn launch_key(caller: &Caller, headers: &HeaderMap, body: &NewRun) -> Result<Option<LaunchKey>, Problem> {
    let invalid = |detail: String| Problem::new(ErrorKind::Invalid, "api.idempotency_key", detail);
    let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = given.next() else { return Ok(None) };
    let text = value.to_str().map(str::trim).unwrap_or_default();
    // The draft has it between quotes; few clients do.
    let text = text.strip_prefix('"').and_then(|it| it.strip_suffix('"')).unwrap_or(text);
    if text.is_empty() || text.len() > KEY_CHARS_MAX || given.next().is_some() {
        let detail = format!("`Idempotency-Key` must come once, with 1 to {KEY_CHARS_MAX} printable ASCII characters");
        return Err(invalid(detail));
    }
    let name = match caller {
        Caller::Anyone => format!("/{text}"),
        Caller::Key(key) => format!("{}/{text}", key.id),
    };
    let request = serde_json::to_string(body).map_err(|error| invalid(error.to_string()))?;
    Ok(Some(LaunchKey { name, request: TextHash::of(&request) }))
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
