//! The HTTP door: routes, wire types, problem bodies and the event stream over the runtime's `Handle`.
//!
//! **Invariant:** this crate sees the runtime through `Handle` only: no store, no models, no actor.
//! **Invariant:** domain types never reach the wire by accident: every body is a type of [`dto`], made by an explicit `From`.
//! **Invariant:** what is served is behind the [`door`], but for what `--metrics-addr` serves.
//! **Invariant:** every request has a limit on time and size, and every connection a place ([`Limits`]).
//! **Invariant:** every error body is an RFC 9457 problem with our code.

mod door;
pub mod dto;
mod error;
mod guard;
mod limits;
pub mod mcp;
pub mod metrics;
mod problem;
mod routes;
mod server;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{get, post},
};
use crewline_runtime::Handle;

pub use door::Reach;
pub use error::Error;
pub use limits::Limits;
pub use problem::Problem;
pub use server::{HEAD_BYTES_MAX, serve};

/// Bytes of a request body at most; a plan of a thousand tasks is well below.
pub const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Renders the metrics of this process in the Prometheus text format.
pub type MetricsText = Arc<dyn Fn() -> String + Send + Sync>;

/// What every route can reach.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) handle: Handle,
    pub(crate) metrics: Option<MetricsText>,
}

/// The whole API: health, metrics, `/api/v1`, and the tools of `mcp` below `/mcp`, behind the door.
pub fn router(handle: Handle, metrics: Option<MetricsText>, mcp: mcp::Mcp, reach: Reach) -> Router {
    let door = door::Door { handle: handle.clone(), reach };
    let api = Router::new()
        .route("/api/v1/runs", post(routes::runs::launch).get(routes::runs::list))
        .route("/api/v1/runs/{id}", get(routes::runs::show))
        .route("/api/v1/runs/{id}/events", get(routes::events::stream))
        .route("/api/v1/runs/{id}/pause", post(routes::runs::pause))
        .route("/api/v1/runs/{id}/cancel", post(routes::runs::cancel))
        .route("/api/v1/runs/{id}/kill", post(routes::runs::kill))
        .route("/api/v1/registry/reload", post(routes::registry::reload))
        .route("/api/v1/approvals", get(routes::approvals::list))
        .route("/api/v1/approvals/{id}", post(routes::approvals::decide))
        .merge(routes::graph::routes())
        .merge(ops_routes())
        .with_state(App { handle, metrics })
        .route_service("/mcp", mcp::http_service(mcp));
    finish(api).layer(middleware::from_fn_with_state(door, door::check))
}

/// Health and metrics only, for `--metrics-addr`: nothing here shows or changes a run.
pub fn ops_router(handle: Handle, metrics: Option<MetricsText>) -> Router {
    finish(ops_routes().with_state(App { handle, metrics }))
}

fn ops_routes() -> Router<App> {
    Router::new()
        .route("/healthz", get(routes::health::healthz))
        .route("/readyz", get(routes::health::readyz))
        .route("/metrics", get(routes::health::metrics))
}

/// What holds for every route: problems instead of bare statuses, and a limit on size.
fn finish(router: Router) -> Router {
    router
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::no_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(guard::size_limit))
}

#[cfg(test)]
mod tests {
    use axum::{Json, extract::rejection::JsonRejection};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        sync::oneshot,
    };

    use super::*;

    async fn echo(body: Result<Json<serde_json::Value>, JsonRejection>) -> Result<Json<serde_json::Value>, Problem> {
        Ok(body?)
    }

    /// Sends one request to a router that is made like ours, and returns status, content type and body.
    async fn ask(request: &str) -> (u16, String, serde_json::Value) {
        let router = finish(Router::new().route("/echo", post(echo)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = serve(listener, router, Limits::within(None), async {
            stopped.await.ok();
        });
        let client = async {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut reply = String::new();
            stream.read_to_string(&mut reply).await.unwrap();
            stop.send(()).unwrap();
            reply
        };
        let ((), reply) = tokio::join!(server, client);
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
        (status, kind.to_owned(), serde_json::from_str(body).unwrap_or_default())
    }

    fn request(line: &str, host: &str, body: &str) -> String {
        let length = body.len();
        format!(
            "{line} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    }

    #[tokio::test]
    async fn every_error_is_a_problem() {
        for (line, host, body, status, code) in [
            ("GET /nowhere", "localhost", "", 404, "api.no_route"),
            ("DELETE /echo", "localhost", "", 405, "api.method"),
            ("POST /echo", "localhost", "{", 400, "api.invalid_body"),
        ] {
            let (got, kind, problem) = ask(&request(line, host, body)).await;
            assert_eq!((got, kind.as_str()), (status, "application/problem+json"), "{line}");
            assert_eq!(problem["code"], code, "{line}");
            assert_eq!(problem["status"], status, "{line}");
        }
        let (status, _, body) = ask(&request("POST /echo", "127.0.0.1", r#"{"a": 1}"#)).await;
        assert_eq!((status, &body["a"]), (200, &serde_json::json!(1)));
    }

    #[tokio::test]
    async fn a_body_has_a_limit() {
        // The length alone is enough: nothing of such a body is read.
        let head = request("POST /echo", "localhost", "");
        let head = head.replace("content-length: 0", &format!("content-length: {}", BODY_BYTES_MAX + 1));
        let (status, _, problem) = ask(&head).await;
        assert_eq!((status, &problem["code"]), (413, &serde_json::json!("api.body_too_large")));
    }
}
