//! The door: who may ask for what. One middleware stands before every route, the event streams and the tools below `/mcp`.
//!
//! On loopback nobody needs a key as long as none was made; from then on, and outside loopback always, each request has one.
//! `/healthz` and `/readyz` are for probes and need none; `/metrics` needs one that reads, and `--metrics-addr` serves it
//! without.
//!
//! **Invariant:** what is not known to be harmless needs the scope `run`; a new route is never open by being forgotten.
//! **Invariant:** a request without a key is served only when its `Host` and `Origin` name this machine. One with a key is
//! not a browser's doing: no page of another site can send it.

use std::sync::Arc;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, Method, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use crewline_runtime::{Admission, Handle, KeyView};
use crewline_types::KeyScope;

use crate::{
    Problem, guard,
    metrics::{self, Refused},
};

/// Where the server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// On this machine only.
    Loopback,
    /// Where others may come from.
    Public,
}

/// What the door asks.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) handle: Handle,
    pub(crate) reach: Reach,
}

/// Who was let in.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// Somebody on this machine, while nobody needs a key.
    Anyone,
    /// Whoever has this key.
    Key(Arc<KeyView>),
}

impl Caller {
    /// Why what needs `scope` is refused, if it is.
    pub(crate) fn check(&self, scope: KeyScope) -> Result<(), Problem> {
        match self {
            Self::Anyone => Ok(()),
            Self::Key(key) if key.scopes.allows(scope) => Ok(()),
            Self::Key(key) => {
                metrics::refused(Refused::Scope);
                Err(Problem::no_scope(&key.name, scope))
            }
        }
    }

    /// Who decides, as it is recorded: what a caller says of themselves, behind the key they came with.
    pub(crate) fn who(&self, said: Option<&str>, otherwise: &str) -> String {
        match (self, said) {
            (Self::Anyone, said) => said.unwrap_or(otherwise).to_owned(),
            (Self::Key(key), None) => format!("key:{}", key.name),
            (Self::Key(key), Some(said)) => format!("key:{}:{said}", key.name),
        }
    }
}

/// Lets a request in, or says why not.
pub(crate) async fn check(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    if matches!(request.uri().path(), "/healthz" | "/readyz") {
        return next.run(request).await;
    }
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let scope = needed(request.method(), route);
    // A body can not be shared between threads, so only what is asked about it is.
    let (headers, uri) = (request.headers().clone(), request.uri().clone());
    match admit(&door, &headers, &uri, scope).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

async fn admit(door: &Door, headers: &HeaderMap, uri: &Uri, scope: KeyScope) -> Result<Caller, Problem> {
    let token = match bearer(headers) {
        Token::None => None,
        Token::Some(token) => Some(token),
        Token::Strange => return Err(refuse(Refused::KeyRefused, Problem::key_refused())),
    };
    match door.handle.admit_request(token).await? {
        Admission::Open if door.reach == Reach::Loopback => {
            let foreign = |detail| refuse(Refused::Foreign, Problem::foreign(detail));
            guard::is_local_request(headers, uri).map_err(foreign)?;
            Ok(Caller::Anyone)
        }
        Admission::Open | Admission::Missing => Err(refuse(Refused::KeyMissing, Problem::key_missing())),
        Admission::Refused => Err(refuse(Refused::KeyRefused, Problem::key_refused())),
        Admission::Key(key) => {
            let caller = Caller::Key(key.into());
            caller.check(scope)?;
            Ok(caller)
        }
    }
}

fn refuse(reason: Refused, problem: Problem) -> Problem {
    metrics::refused(reason);
    problem
}

/// What `method` of `route` needs.
fn needed(method: &Method, route: Option<&str>) -> KeyScope {
    /// They decide in a person's place.
    const DECIDING: [&str; 2] = ["/api/v1/approvals/{id}", "/api/v1/runs/{id}/tasks/{task}/context/approve"];
    /// They look, whatever their method. Each tool below `/mcp` asks for what it needs.
    const LOOKING: [&str; 2] = ["/mcp", "/api/v1/runs/{id}/tasks/{task}/context/preview"];
    let is_look = matches!(*method, Method::GET | Method::HEAD) || route.is_some_and(|route| LOOKING.contains(&route));
    if is_look {
        KeyScope::Read
    } else if route.is_some_and(|route| DECIDING.contains(&route)) {
        KeyScope::Approve
    } else {
        KeyScope::Run
    }
}

/// What a request shows at the door.
#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    None,
    Some(&'a str),
    /// It shows something that is no token.
    Strange,
}

fn bearer(headers: &HeaderMap) -> Token<'_> {
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = shown.next() else { return Token::None };
    let token = value.to_str().ok().and_then(|text| text.split_once(' '));
    match token {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && shown.next().is_none() => {
            Token::Some(token.trim())
        }
        Some(_) | None => Token::Strange,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_to_be_harmless_needs_the_scope_run() {
        let task = "/api/v1/runs/{id}/tasks/{task}";
        for (method, route, scope) in [
            (Method::GET, Some("/api/v1/runs".to_owned()), KeyScope::Read),
            (Method::HEAD, None, KeyScope::Read),
            (Method::POST, Some("/mcp".to_owned()), KeyScope::Read),
            (Method::POST, Some(format!("{task}/context/preview")), KeyScope::Read),
            (Method::POST, Some("/api/v1/approvals/{id}".to_owned()), KeyScope::Approve),
            (Method::GET, Some("/api/v1/approvals".to_owned()), KeyScope::Read),
            (Method::DELETE, Some(format!("{task}/context/approve")), KeyScope::Approve),
            (Method::POST, Some("/api/v1/runs".to_owned()), KeyScope::Run),
            (Method::DELETE, Some(task.to_owned()), KeyScope::Run),
            (Method::OPTIONS, Some("/api/v1/runs".to_owned()), KeyScope::Run),
            (Method::POST, None, KeyScope::Run),
        ] {
            assert_eq!(needed(&method, route.as_deref()), scope, "{method} {route:?}");
        }
    }

    #[test]
    fn a_token_comes_alone_and_as_a_bearer() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            format!("{:?}", bearer(&headers))
        };
        assert_eq!(of(&[]), "None");
        assert_eq!(of(&["Bearer abc"]), "Some(\"abc\")");
        assert_eq!(of(&["bearer  abc "]), "Some(\"abc\")");
        for strange in [&["abc"][..], &["Basic abc"], &["Bearer abc", "Bearer def"], &[""]] {
            assert_eq!(of(strange), "Strange", "{strange:?}");
        }
    }
}
