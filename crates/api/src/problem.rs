//! RFC 9457 problem bodies: `type`, `title`, `status`, `detail`, and our `code`.
//!
//! **Invariant:** this is the one place that maps an error's kind to an HTTP status.

use axum::{
    Json,
    extract::rejection::{JsonRejection, PathRejection, QueryRejection},
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use crewline_types::{ErrorKind, KeyScope};
use serde::Serialize;

/// An error as a response shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    /// Names the sort of problem; `docs/errors.md` has a section for each code.
    #[serde(rename = "type")]
    pub uri: Box<str>,
    /// The kind of failure.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What happened, for people.
    pub detail: Box<str>,
    /// The stable code.
    pub code: Box<str>,
    /// The next step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<Box<str>>,
    /// Each thing that is wrong with the input, when there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<serde_json::Value>,
    /// What to show at the door, as `WWW-Authenticate`.
    #[serde(skip)]
    challenge: Option<Challenge>,
}

/// What is missing at the door.
#[derive(Debug, Clone, Copy)]
enum Challenge {
    Key,
    ValidKey,
    Scope(KeyScope),
}

impl Challenge {
    /// As RFC 6750 writes it.
    fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Key => r#"Bearer realm="crewline""#,
            Self::ValidKey => r#"Bearer realm="crewline", error="invalid_token""#,
            Self::Scope(KeyScope::Read) => r#"Bearer realm="crewline", error="insufficient_scope", scope="read""#,
            Self::Scope(KeyScope::Run) => r#"Bearer realm="crewline", error="insufficient_scope", scope="run""#,
            Self::Scope(KeyScope::Approve) => r#"Bearer realm="crewline", error="insufficient_scope", scope="approve""#,
        })
    }
}

impl Problem {
    /// A problem of `kind` with our `code`.
    pub fn new(kind: ErrorKind, code: &str, detail: impl Into<String>) -> Self {
        Self::with_status(status_of(kind), title_of(kind), code, detail)
    }

    fn with_status(status: StatusCode, title: &'static str, code: &str, detail: impl Into<String>) -> Self {
        Self {
            uri: format!("urn:crewline:error:{code}").into(),
            title,
            status: status.as_u16(),
            detail: detail.into().into_boxed_str(),
            code: code.into(),
            hint: None,
            errors: Vec::new(),
            challenge: None,
        }
    }

    /// Adds the next step.
    #[must_use]
    pub fn hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.map(String::into_boxed_str);
        self
    }

    /// The body is larger than we read.
    pub(crate) fn too_large() -> Self {
        let detail = format!("the body has more than {} MiB", crate::BODY_BYTES_MAX >> 20);
        Self::with_status(StatusCode::PAYLOAD_TOO_LARGE, "invalid request", "api.body_too_large", detail)
    }

    /// No response began in time.
    pub(crate) fn timeout() -> Self {
        Self::new(ErrorKind::Timeout, "api.timeout", "the request took too long")
    }

    /// The body did not come in time.
    pub(crate) fn slow_body() -> Self {
        let detail = "the body of the request did not come in time";
        Self::with_status(StatusCode::REQUEST_TIMEOUT, "timeout", "api.slow_body", detail)
    }

    /// As many streams are open as may be.
    pub(crate) fn many_streams() -> Self {
        let hint = "close some, or ask `GET /api/v1/runs/RUN` now and then";
        Self::new(ErrorKind::Unavailable, "api.many_streams", "too many event streams are open")
            .hint(Some(hint.to_owned()))
    }

    /// A key is needed, and none came with the request.
    pub(crate) fn key_missing() -> Self {
        let problem =
            Self::with_status(StatusCode::UNAUTHORIZED, "no key", "api.key_missing", "this server needs a key");
        let hint = "send `Authorization: Bearer KEY`; `crewline keys create NAME` makes one";
        problem.hint(Some(hint.to_owned())).challenge(Challenge::Key)
    }

    /// What came with the request is no key. It says no more: whether it ever was one is nobody's business.
    pub(crate) fn key_refused() -> Self {
        let problem = Self::with_status(StatusCode::UNAUTHORIZED, "no key", "api.key_refused", "the key is not valid");
        let hint = "`crewline keys ls --all` shows which keys have expired or were revoked";
        problem.hint(Some(hint.to_owned())).challenge(Challenge::ValidKey)
    }

    /// The key does not allow what was asked for.
    pub(crate) fn no_scope(name: &str, scope: KeyScope) -> Self {
        let word = scope.as_str();
        let detail = format!("the key `{name}` does not have the scope `{word}`");
        Self::with_status(StatusCode::FORBIDDEN, "forbidden", "api.scope", detail)
            .hint(Some(format!("`crewline keys create NAME --scope {word}` makes one that has")))
            .challenge(Challenge::Scope(scope))
    }

    fn challenge(mut self, challenge: Challenge) -> Self {
        self.challenge = Some(challenge);
        self
    }

    /// A foreign page or name tried to use a server that has no keys.
    pub(crate) fn foreign(detail: &'static str) -> Self {
        Self::with_status(StatusCode::FORBIDDEN, "forbidden", "api.foreign_origin", detail)
    }
}

impl From<crewline_runtime::Error> for Problem {
    fn from(error: crewline_runtime::Error) -> Self {
        let mut problem = Self::new(error.kind(), error.code(), chain(&error)).hint(error.hint());
        problem.errors = error.details();
        if status_of(error.kind()).is_server_error() {
            tracing::warn!(error.code = error.code(), "request failed");
        }
        problem
    }
}

/// The error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        let (status, code) = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => return Self::too_large(),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "api.media_type"),
            _ => (StatusCode::BAD_REQUEST, "api.invalid_body"),
        };
        Self::with_status(status, "invalid request", code, rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(ErrorKind::Invalid, "api.invalid_query", rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::new(ErrorKind::Invalid, "api.invalid_path", rejection.body_text())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let challenge = self.challenge;
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::REQUEST_TIMEOUT {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(challenge) = challenge {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge.header());
        }
        response
    }
}

/// Nothing is served at this path.
pub(crate) async fn no_route(uri: Uri) -> Problem {
    Problem::new(ErrorKind::NotFound, "api.no_route", format!("nothing is served at `{}`", uri.path()))
}

/// The path exists, the method does not.
pub(crate) async fn no_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("`{method}` is not allowed at `{}`", uri.path());
    Problem::with_status(StatusCode::METHOD_NOT_ALLOWED, "method not allowed", "api.method", detail)
}

/// Kind → HTTP status.
pub(crate) fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Busy => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        // A provider refused *our* key: the client's own request is not at fault.
        ErrorKind::Auth => StatusCode::BAD_GATEWAY,
        ErrorKind::Limit => StatusCode::PAYMENT_REQUIRED,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn title_of(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid => "invalid request",
        ErrorKind::NotFound => "not found",
        ErrorKind::Conflict => "conflict",
        ErrorKind::Busy => "too many requests",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Auth => "the provider refused the key",
        ErrorKind::Limit => "a limit is reached",
        ErrorKind::Internal => "internal error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_rfc_9457_with_our_code() {
        let problem =
            Problem::new(ErrorKind::NotFound, "run.not_found", "no run `abc`").hint(Some("`crewline ps`".into()));
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(json["type"], "urn:crewline:error:run.not_found");
        assert_eq!(json["status"], 404);
        assert_eq!(json["title"], "not found");
        assert_eq!(json["code"], "run.not_found");
        assert_eq!(json["hint"], "`crewline ps`");
        assert!(json.get("errors").is_none());
        let response = problem.into_response();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn who_has_no_key_is_told_what_to_show() {
        for (problem, status, challenge) in [
            (Problem::key_missing(), 401, r#"Bearer realm="crewline""#),
            (Problem::key_refused(), 401, r#"Bearer realm="crewline", error="invalid_token""#),
            (
                Problem::no_scope("ci", KeyScope::Approve),
                403,
                r#"Bearer realm="crewline", error="insufficient_scope", scope="approve""#,
            ),
        ] {
            assert!(serde_json::to_value(&problem).unwrap().get("challenge").is_none());
            let response = problem.into_response();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()[header::WWW_AUTHENTICATE], challenge);
        }
    }

    #[test]
    fn a_busy_server_says_when_to_come_back() {
        let response = Problem::new(ErrorKind::Busy, "run.busy", "").into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(response.headers().contains_key(header::RETRY_AFTER));
    }
}
