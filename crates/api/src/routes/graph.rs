//! The routes of a run's tasks, of what they are told and what they changed, and of INDEX.md.

use axum::{
    Router,
    routing::{get, post},
};

use super::{changes, context, index, tasks};
use crate::App;

/// All of them.
pub(crate) fn routes() -> Router<App> {
    const RUN: &str = "/api/v1/runs/{id}";
    const TASK: &str = "/api/v1/runs/{id}/tasks/{task}";
    let run = |rest: &str| format!("{RUN}{rest}");
    let task = |rest: &str| format!("{TASK}{rest}");
    Router::new()
        .route("/api/v1/next", get(tasks::next))
        .route(&run("/tasks"), get(tasks::list).post(tasks::add))
        .route(&run("/links"), get(tasks::links).post(tasks::link).delete(tasks::unlink))
        .route(&run("/artifacts"), get(changes::artifacts))
        .route(&run("/index"), get(index::show).put(index::edit))
        .route(&run("/index/versions"), get(index::versions))
        .route(TASK, get(tasks::show).patch(tasks::update).delete(tasks::delete))
        .route(&task("/move"), post(tasks::relocate))
        .route(&task("/mark"), post(tasks::mark))
        .route(&task("/skip"), post(tasks::skip))
        .route(&task("/notes"), post(tasks::note))
        .route(&task("/progress"), post(tasks::progress))
        .route(&task("/feedback"), post(tasks::feedback))
        .route(&task("/diff"), get(changes::diff))
        .route(&task("/revert"), post(changes::revert))
        .route(&task("/prompt"), get(context::prompt))
        .route(&task("/context"), get(context::snapshots))
        .route(&task("/context/{attempt}"), get(context::snapshot))
        .route(&task("/context/preview"), post(context::preview))
        .route(&task("/context/approve"), post(context::approve).delete(context::revoke))
        .route(&task("/context/pin"), post(context::pin))
        .route(&task("/context/unpin"), post(context::unpin))
        .route(&task("/context/exclude"), post(context::exclude))
}
