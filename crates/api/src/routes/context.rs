//! `/api/v1/runs/{id}/tasks/{task}/context` and `/prompt`: what a task is or was told, and a person in charge of it.
//!
//! **Invariant:** a look changes nothing and asks no model.

use axum::{
    Json,
    extract::{
        Path, State,
        rejection::{JsonRejection, PathRejection},
    },
};
use crewline_runtime::{Choice, Preview, PreviewRequest, RenderedPrompt, Snapshot};
use serde::{Deserialize, Serialize};

use super::tasks::{TaskPath, find};
use crate::{App, Problem};

/// Who decides, when the client does not say.
const AGENT: &str = "http";

type Body<T> = Result<Json<T>, JsonRejection>;

/// What a look may differ in from what an attempt would do.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Look {
    /// Tokens; what the window of the first model leaves when left out.
    budget: Option<u32>,
    /// Memories at most.
    k: Option<usize>,
    /// Items that are added by hand.
    manual: Vec<String>,
    /// Who approves.
    by: Option<String>,
}

impl Look {
    fn request(self) -> PreviewRequest {
        PreviewRequest { budget: self.budget, recall_top: self.k, manual: self.manual }
    }
}

/// A decision on an item.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OnItem {
    /// A task by key or id, `memory:` and the beginning of an id, `siblings`, or `plan:` and a key.
    item: String,
    #[serde(default)]
    by: Option<String>,
}

/// The answer to a decision.
#[derive(Debug, Serialize)]
pub(crate) struct DecidedOn {
    /// The item's name in the bundle.
    item: String,
    /// What holds for it now.
    choice: Choice,
}

/// The answer to taking an approval back.
#[derive(Debug, Serialize)]
pub(crate) struct Revoked {
    /// Whether there was one.
    revoked: bool,
}

/// `GET …/context`: what each attempt was told.
pub(crate) async fn snapshots(State(app): State<App>, path: TaskPath) -> Result<Json<Vec<Snapshot>>, Problem> {
    let (run, task) = find(&app, path).await?;
    Ok(Json(app.handle.snapshots(run, task).await?))
}

/// `GET …/context/{attempt}`: what one attempt was told.
pub(crate) async fn snapshot(
    State(app): State<App>,
    path: Result<Path<(String, String, u32)>, PathRejection>,
) -> Result<Json<Snapshot>, Problem> {
    let Path((run, task, attempt)) = path?;
    let (_, task) = find(&app, Ok(Path((run, task)))).await?;
    Ok(Json(app.handle.snapshot(&format!("{task}.{attempt}")).await?))
}

/// `POST …/context/preview`: what the next attempt would be told.
pub(crate) async fn preview(
    State(app): State<App>,
    path: TaskPath,
    body: Body<Look>,
) -> Result<Json<Preview>, Problem> {
    let ((run, task), Json(body)) = (find(&app, path).await?, body?);
    Ok(Json(app.handle.preview(run, task, &body.request()).await?))
}

/// `POST …/context/approve`: exactly the bundle that the preview shows.
pub(crate) async fn approve(
    State(app): State<App>,
    path: TaskPath,
    body: Body<Look>,
) -> Result<Json<Preview>, Problem> {
    let ((run, task), Json(mut body)) = (find(&app, path).await?, body?);
    let by = body.by.take();
    Ok(Json(app.handle.approve_context(run, task, &body.request(), by.as_deref().unwrap_or(AGENT)).await?))
}

/// `DELETE …/context/approve`: takes the approval back.
pub(crate) async fn revoke(State(app): State<App>, path: TaskPath) -> Result<Json<Revoked>, Problem> {
    let (_, task) = find(&app, path).await?;
    Ok(Json(Revoked { revoked: app.handle.revoke_context(task, AGENT).await? }))
}

/// `POST …/context/pin`
pub(crate) async fn pin(app: State<App>, path: TaskPath, body: Body<OnItem>) -> Result<Json<DecidedOn>, Problem> {
    decide(&app, path, body, Choice::Pin).await
}

/// `POST …/context/exclude`
pub(crate) async fn exclude(app: State<App>, path: TaskPath, body: Body<OnItem>) -> Result<Json<DecidedOn>, Problem> {
    decide(&app, path, body, Choice::Exclude).await
}

/// `POST …/context/unpin`: nothing is decided on the item any more.
pub(crate) async fn unpin(app: State<App>, path: TaskPath, body: Body<OnItem>) -> Result<Json<DecidedOn>, Problem> {
    decide(&app, path, body, Choice::None).await
}

async fn decide(app: &App, path: TaskPath, body: Body<OnItem>, choice: Choice) -> Result<Json<DecidedOn>, Problem> {
    let ((run, task), Json(body)) = (find(app, path).await?, body?);
    let by = body.by.as_deref().unwrap_or(AGENT);
    let item = app.handle.curate(run, task, &body.item, choice, by).await?;
    Ok(Json(DecidedOn { item, choice }))
}

/// `GET …/prompt`: the prompt that the next attempt would be sent.
pub(crate) async fn prompt(State(app): State<App>, path: TaskPath) -> Result<Json<RenderedPrompt>, Problem> {
    let (run, task) = find(&app, path).await?;
    Ok(Json(app.handle.render_prompt(run, task, &PreviewRequest::default()).await?))
}
