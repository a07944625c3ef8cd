//! `/api/v1/runs/{id}/index`: INDEX.md of a run, its versions, and a person's own.

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
};
use crewline_runtime::{IndexText, IndexVersion};
use serde::{Deserialize, Serialize};

use crate::{App, Problem};

/// Which version is wanted; the last one when left out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VersionQuery {
    #[serde(default)]
    version: Option<u32>,
}

/// `PUT /api/v1/runs/{id}/index`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewIndex {
    /// The whole text.
    text: String,
    #[serde(default)]
    by: Option<String>,
}

/// The answer to a change.
#[derive(Debug, Serialize)]
pub(crate) struct Version {
    /// The version that holds now.
    version: u32,
}

/// `GET /api/v1/runs/{id}/index`
pub(crate) async fn show(
    State(app): State<App>,
    run: Result<Path<String>, PathRejection>,
    query: Result<Query<VersionQuery>, QueryRejection>,
) -> Result<Json<IndexText>, Problem> {
    let (run, Query(query)) = (super::runs::find(&app, run).await?, query?);
    Ok(Json(app.handle.index(run, query.version).await?))
}

/// `GET /api/v1/runs/{id}/index/versions`
pub(crate) async fn versions(
    State(app): State<App>,
    run: Result<Path<String>, PathRejection>,
) -> Result<Json<Vec<IndexVersion>>, Problem> {
    let run = super::runs::find(&app, run).await?;
    Ok(Json(app.handle.index_versions(run).await?))
}

/// `PUT /api/v1/runs/{id}/index`
pub(crate) async fn edit(
    State(app): State<App>,
    run: Result<Path<String>, PathRejection>,
    body: Result<Json<NewIndex>, JsonRejection>,
) -> Result<Json<Version>, Problem> {
    let (run, Json(body)) = (super::runs::find(&app, run).await?, body?);
    let version = app.handle.edit_index(run, &body.text, body.by.as_deref().unwrap_or("http")).await?;
    Ok(Json(Version { version }))
}
