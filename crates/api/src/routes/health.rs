//! `/healthz` (the process lives), `/readyz` (it can take work) and `/metrics`.

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use crewline_types::ErrorKind;

use crate::{App, Problem};

/// The process lives. Never looks at anything else, so that an orchestrator does not restart us for a slow database.
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// The store answers and admission is open; 503 with the reason otherwise.
pub(crate) async fn readyz(State(app): State<App>) -> Result<&'static str, Problem> {
    match app.handle.is_ready().await {
        Ok(()) => Ok("ready\n"),
        Err(error) => {
            let reason = Problem::from(error);
            Err(Problem::new(ErrorKind::Unavailable, &reason.code, reason.detail).hint(reason.hint.map(String::from)))
        }
    }
}

/// The metrics of this process.
pub(crate) async fn metrics(State(app): State<App>) -> Result<Response, Problem> {
    let Some(render) = &app.metrics else {
        return Err(Problem::new(ErrorKind::NotFound, "api.no_metrics", "this process records no metrics"));
    };
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render()).into_response())
}
