//! The limit on size before every route, and what tells a request of this machine from that of a foreign page.
//!
//! **Invariant:** without keys, a request is served only when its `Host`, and its `Origin` if any, name this machine.
//! This is what keeps a web page (or a name rebound to 127.0.0.1) from driving a crew through the visitor's browser.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{BODY_BYTES_MAX, Problem};

/// Refuses a body that says it is too large before any of it is read. One that does not say is cut off while it is read.
pub(crate) async fn size_limit(request: Request, next: Next) -> Response {
    let length = text(request.headers(), &header::CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    if length.is_some_and(|length| length > BODY_BYTES_MAX) {
        return Problem::too_large().into_response();
    }
    next.run(request).await
}

/// Whether a request comes from this machine and for it; why not, otherwise.
pub(crate) fn is_local_request(headers: &HeaderMap, uri: &Uri) -> Result<(), &'static str> {
    // A request as to a proxy carries the name in the URI, any other in the header.
    let host = uri.authority().map(axum::http::uri::Authority::as_str).or_else(|| text(headers, &header::HOST));
    if !host.is_some_and(is_local) {
        return Err("the server answers to the names of this machine only (127.0.0.1, [::1], localhost)");
    }
    match text(headers, &header::ORIGIN) {
        Some(origin) if !origin.split_once("://").is_some_and(|(_, host)| is_local(host)) => {
            Err("the server does not answer to pages of other sites")
        }
        Some(_) | None => Ok(()),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether `host[:port]` names this machine.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(host: &str, origin: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_this_machine_is_served() {
        let uri = Uri::from_static("/api/v1/runs");
        for (host, origin) in [
            ("127.0.0.1:7420", None),
            ("localhost", None),
            ("[::1]:7420", None),
            ("LOCALHOST:7420", Some("http://localhost:7420")),
        ] {
            assert_eq!(is_local_request(&headers(host, origin), &uri), Ok(()), "{host} {origin:?}");
        }
        for (host, origin) in [
            ("evil.example:7420", None),
            ("127.0.0.1.evil.example", None),
            ("127.0.0.1:7420", Some("https://evil.example")),
            ("127.0.0.1:7420", Some("null")),
        ] {
            assert!(is_local_request(&headers(host, origin), &uri).is_err(), "{host} {origin:?}");
        }
        assert!(is_local_request(&HeaderMap::new(), &uri).is_err());
    }
}
