//! `/api/v1/approvals`: what people are asked, and what they say.

use axum::{
    Extension, Json,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
};
use crewline_runtime::{Asked, Decided, Decision};
use crewline_types::ErrorKind;
use serde::{Deserialize, Serialize};

use crate::{App, Problem, door::Caller};

/// What a list may be narrowed by.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    run: Option<String>,
    /// What was decided, too.
    #[serde(default)]
    all: bool,
}

/// `GET /api/v1/approvals`.
#[derive(Debug, Serialize)]
pub(crate) struct ApprovalList {
    /// The oldest first.
    approvals: Vec<Asked>,
}

/// `POST /api/v1/approvals/{id}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewDecision {
    /// `approve`, `reject` or `answer`.
    decision: Word,
    /// Who decides.
    #[serde(default)]
    by: Option<String>,
    /// What they say; the answer to a question.
    #[serde(default)]
    message: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Approve,
    Reject,
    Answer,
}

/// `GET /api/v1/approvals`
pub(crate) async fn list(
    State(app): State<App>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<ApprovalList>, Problem> {
    let Query(query) = query?;
    let run = match &query.run {
        Some(text) => Some(app.handle.find_run(text).await?),
        None => None,
    };
    Ok(Json(ApprovalList { approvals: app.handle.approvals(run, !query.all).await? }))
}

/// `POST /api/v1/approvals/{id}`: decides, and lets the run go on.
pub(crate) async fn decide(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
    body: Result<Json<NewDecision>, JsonRejection>,
) -> Result<Json<Decided>, Problem> {
    let (Path(id), Json(body)) = (id?, body?);
    let decision = match body.decision {
        Word::Approve => Decision::Approve,
        Word::Reject => Decision::Reject,
        Word::Answer if body.message.is_none() => {
            return Err(Problem::new(ErrorKind::Invalid, "api.invalid_body", "an answer needs a `message`"));
        }
        Word::Answer => Decision::Answer,
    };
    let asked = app.handle.find_approval(&id).await?;
    let by = caller.who(body.by.as_deref(), "http");
    Ok(Json(app.handle.settle(asked.id, &decision, &by, body.message).await?))
}
