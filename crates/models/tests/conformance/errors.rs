//! What a provider refuses, and what each refusal means.

use std::time::Duration;

use crewline_testkit::{
    fault::{Step, response},
    wire::Wire,
};
use crewline_types::{ErrorKind, event::CallOutcome};

use crate::common::{JSON, LONG, Way, ask};

pub(crate) async fn errors_have_types(wire: &dyn Wire) {
    for (status, code, retry_after, expected, is_retryable) in [
        ("529 Overloaded", "some_code", "", "model.overloaded", true),
        ("503 Service Unavailable", "some_code", "retry-after: 3\r\n", "model.overloaded", true),
        ("500 Internal Server Error", "overloaded_error", "", "model.overloaded", true),
        ("400 Bad Request", "content_filter", "", "model.filtered", false),
        ("400 Bad Request", "content_policy_violation", "", "model.filtered", false),
        ("413 Payload Too Large", "request_too_large", "", "model.context_overflow", false),
    ] {
        // Ollama's errors have no code.
        if wire.registry_type() == "ollama" && code != "some_code" {
            continue;
        }
        let steps = vec![response(status, JSON, retry_after, wire.error("no", code))];
        let error = ask(wire, Way::Whole, &LONG, steps).await.unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), (expected, is_retryable), "{status} {code}");
        let wait = (!retry_after.is_empty()).then_some(Duration::from_secs(3));
        assert_eq!(error.retry_after(), wait, "{status}");
    }
}

pub(crate) async fn refusals(wire: &dyn Wire) {
    let long = "x".repeat(5_000);
    for (status, message, code, kind, outcome, is_retryable) in [
        ("401 Unauthorized", "no sk-topsecret here", "model.auth", ErrorKind::Auth, CallOutcome::Error, false),
        ("403 Forbidden", "no", "model.auth", ErrorKind::Auth, CallOutcome::Error, false),
        ("404 Not Found", "no such model", "model.not_found", ErrorKind::NotFound, CallOutcome::Error, false),
        ("408 Request Timeout", "late", "model.timeout", ErrorKind::Timeout, CallOutcome::Timeout, true),
        ("504 Gateway Timeout", "late", "model.timeout", ErrorKind::Timeout, CallOutcome::Timeout, true),
        ("429 Too Many Requests", "slow down", "model.rate_limited", ErrorKind::Busy, CallOutcome::RateLimited, true),
        (
            "400 Bad Request",
            "This model's maximum context length is 8192 tokens",
            "model.context_overflow",
            ErrorKind::Invalid,
            CallOutcome::Error,
            false,
        ),
        ("400 Bad Request", "unknown field", "model.refused", ErrorKind::Invalid, CallOutcome::Error, false),
        ("422 Unprocessable Entity", "unknown field", "model.refused", ErrorKind::Invalid, CallOutcome::Error, false),
        ("500 Internal Server Error", &long, "model.upstream", ErrorKind::Unavailable, CallOutcome::Error, true),
        ("502 Bad Gateway", "down", "model.upstream", ErrorKind::Unavailable, CallOutcome::Error, true),
        ("503 Service Unavailable", "down", "model.upstream", ErrorKind::Unavailable, CallOutcome::Error, true),
        ("302 Found", "", "model.upstream", ErrorKind::Unavailable, CallOutcome::Error, true),
    ] {
        for way in [Way::Whole, Way::Streamed] {
            let headers = "location: http://127.0.0.1:1/stolen\r\n";
            let error = ask(wire, way, &LONG, vec![response(status, JSON, headers, wire.error(message, "some_code"))])
                .await
                .unwrap_err();
            let seen = (error.code(), error.kind(), error.outcome(), error.is_retryable());
            assert_eq!(seen, (code, kind, outcome, is_retryable), "{status}");
            // A gateway that gave up may have asked a model.
            assert_eq!(error.may_be_billed(), code == "model.timeout", "{status}: nothing was answered");
            assert!(error.to_string().len() < 500, "{status}: {error}");
        }
    }
    // An error page of a proxy, an empty body, a body that breaks off.
    for steps in [
        vec![response("502 Bad Gateway", "text/html", "", "<html>\n<h1>Bad gateway</h1>")],
        vec![response("500 Internal Server Error", "text/plain", "", "")],
        vec![Step::Send(b"HTTP/1.1 500 Oops\r\ncontent-length: 100\r\n\r\nhalf".to_vec()), Step::Close],
    ] {
        assert_eq!(ask(wire, Way::Whole, &LONG, steps).await.unwrap_err().code(), "model.upstream");
    }
}

pub(crate) async fn rate_limits_say_when(wire: &dyn Wire) {
    for (headers, expected) in [
        ("retry-after: 7\r\n", Some(Duration::from_secs(7))),
        ("retry-after-ms: 1500\r\n", Some(Duration::from_millis(1_500))),
        ("", None),
    ] {
        let steps = vec![response("429 Too Many Requests", JSON, headers, wire.error("slow", "some_code"))];
        assert_eq!(ask(wire, Way::Whole, &LONG, steps).await.unwrap_err().retry_after(), expected);
    }
}
