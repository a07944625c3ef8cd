//! The HTTP clients, and what their failures mean.
//!
//! **Invariant:** redirects are not followed: a key never leaves its provider's origin.
//! **Invariant:** an endpoint on this machine goes through no proxy, and loads no root certificates.

use std::{sync::Arc, time::Duration};

use crewline_types::model::Locality;
use reqwest::{Client, StatusCode, header::HeaderMap, redirect};
use secrecy::{ExposeSecret, SecretString};

use super::reply::Complaint;
use crate::{
    Error, Mode, ModelConfig, Phase,
    egress::{PrivateOnly, is_public_address},
};

/// Characters of a provider's text that an error keeps.
const MESSAGE_MAX: usize = 300;
/// Bytes of an error's body that are read.
pub(super) const ERROR_BODY_MAX: usize = 64 << 10;
/// Bytes a secret has at least; shorter ones are words that stand anywhere.
const SECRET_MIN: usize = 6;
/// A wait longer than this is no advice.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// Builds a client. Reads the system's root certificates when `is_tls`, which takes some milliseconds.
pub(crate) fn client(locality: Locality, is_tls: bool, mode: Mode, connect: Duration) -> Result<Client, Error> {
    let failed = |error: &dyn std::error::Error| Error::Client { message: root_cause(error) };
    // Some other part of the program may have installed it before: both are the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .user_agent(concat!("crewline/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(connect)
        .tcp_nodelay(true)
        .http1_only()
        .pool_max_idle_per_host(4_096)
        .pool_idle_timeout(Duration::from_secs(30));
    if !is_tls && locality != Locality::Remote {
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        builder = builder.tls_backend_preconfigured(config);
    }
    if locality == Locality::Loopback || mode == Mode::Offline {
        builder = builder.no_proxy();
    }
    if mode == Mode::Offline {
        builder = builder.dns_resolver(Arc::new(PrivateOnly));
    }
    builder.build().map_err(|error| failed(&error))
}

/// The innermost cause, which says most in fewest words.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// What it means that a request could not be sent, or its answer not be received.
pub(super) fn transport_error(error: &reqwest::Error, model: &ModelConfig, base_url: &str) -> Error {
    let spec = &model.spec;
    if is_public_address(error) {
        return Error::Offline { provider: spec.provider.to_string(), host: host_of(base_url) };
    }
    if error.is_connect() {
        if error.is_timeout() {
            return Error::Timeout { model: spec.alias.clone(), phase: Phase::Connect, limit: spec.timeouts.connect };
        }
        return Error::Unreachable {
            provider: spec.provider.to_string(),
            base_url: base_url.to_owned(),
            message: root_cause(error),
        };
    }
    Error::Interrupted { model: spec.alias.clone(), message: root_cause(error) }
}

pub(crate) fn host_of(base_url: &str) -> String {
    let url = base_url.parse::<reqwest::Url>().ok();
    url.and_then(|it| it.host_str().map(str::to_owned)).unwrap_or_else(|| base_url.to_owned())
}

/// What a status other than 200 means.
pub(super) fn status_error(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    model: &ModelConfig,
    url: &str,
    secrets: &[SecretString],
) -> Error {
    let complaint = serde_json::from_slice::<Complaint<'_>>(body).unwrap_or_default();
    let said = if complaint.message.is_empty() { body } else { complaint.message.as_bytes() };
    let message = excerpt(said, MESSAGE_MAX, secrets);
    let message = if message.is_empty() { reason(status) } else { message };
    complaint_error(status.as_u16(), &complaint.code, message, retry_after(headers), model, url)
}

/// What an error inside an answer means.
pub(super) fn embedded_error(
    complaint: &Complaint<'_>,
    model: &ModelConfig,
    url: &str,
    secrets: &[SecretString],
) -> Error {
    let status = complaint.status.filter(|it| (400..600).contains(it)).unwrap_or(200);
    let message = excerpt(complaint.message.as_bytes(), MESSAGE_MAX, secrets);
    let message = if message.is_empty() { "the provider sent an error without a message".to_owned() } else { message };
    complaint_error(status, &complaint.code, message, None, model, url)
}

fn complaint_error(
    status: u16,
    code: &str,
    message: String,
    retry_after: Option<Duration>,
    model: &ModelConfig,
    url: &str,
) -> Error {
    let alias = model.spec.alias.clone();
    let code = code.to_ascii_lowercase();
    match status_of(status, &code) {
        401 | 403 => Error::Auth { model: alias, status, message },
        404 => Error::NotFound { model: alias, url: url.to_owned(), message },
        // 524 and 598 are the words of proxies for 504.
        408 | 504 | 524 | 598 => {
            Error::Timeout { model: alias, phase: Phase::Upstream, limit: model.spec.timeouts.total }
        }
        429 => Error::RateLimited { model: alias, retry_after, message },
        OVERLOADED => Error::Overloaded { model: alias, status, retry_after, message },
        _ if is_overflow(status, &code, &message) => Error::ContextOverflow { model: alias, message },
        ..500 if is_filtered(&code) => Error::Filtered { model: alias, message },
        503 if retry_after.is_some() => Error::Overloaded { model: alias, status, retry_after, message },
        400..=499 => Error::Refused { model: alias, status, message },
        _ => Error::Upstream { model: alias, status, message },
    }
}

/// What Anthropic answers when it has too much to do.
const OVERLOADED: u16 = 529;

/// The status that says what the error's own code says: errors inside an answer have only that.
fn status_of(status: u16, code: &str) -> u16 {
    let has = |signs: &[&str]| signs.iter().any(|it| code.contains(it));
    if has(&["overloaded"]) {
        OVERLOADED
    } else if status >= 400 {
        status
    } else if has(&["rate_limit", "too_many_requests"]) {
        429
    } else if has(&["authentication_error", "invalid_api_key", "permission_error"]) {
        401
    } else if has(&["not_found"]) {
        404
    } else if has(&["invalid_request"]) {
        400
    } else {
        status
    }
}

/// Whether an error's code says that the content is not wanted.
fn is_filtered(code: &str) -> bool {
    ["content_filter", "content_policy", "contentfilter", "moderation", "safety_violation", "refusal"]
        .iter()
        .any(|it| code.contains(it))
}

fn reason(status: StatusCode) -> String {
    if status.is_redirection() {
        return "the server redirects, which is not followed".to_owned();
    }
    status.canonical_reason().unwrap_or("no message").to_owned()
}

fn is_overflow(status: u16, code: &str, message: &str) -> bool {
    /// What OpenAI, Anthropic, vLLM, llama.cpp, Ollama, LM Studio and OpenRouter write.
    const SIGNS: [&str; 13] = [
        "request_too_large",
        "context length",
        "context_length",
        "context window",
        "context size",
        "context_size",
        "maximum context",
        "prompt is too long",
        "too many tokens",
        "input is too long",
        "exceeds the available context",
        "reduce the length",
        "token limit",
    ];
    let text = format!("{code} {message}").to_ascii_lowercase();
    status != 501 && SIGNS.iter().any(|it| text.contains(it))
}

/// The beginning of a text, on one line, without control characters and without secrets: some servers repeat the key they refuse.
pub(crate) fn excerpt(bytes: &[u8], characters_max: usize, secrets: &[SecretString]) -> String {
    let mut text = String::from_utf8_lossy(&bytes[..bytes.len().min(ERROR_BODY_MAX)]);
    // Before the text is cut: half a key is a secret as well.
    for secret in secrets.iter().map(ExposeSecret::expose_secret) {
        if secret.len() >= SECRET_MIN && text.contains(secret) {
            text = text.replace(secret, "***").into();
        }
    }
    let mut short = String::new();
    let mut count = 0;
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|it| !it.is_empty()) {
        if count > 0 {
            short.push(' ');
            count += 1;
        }
        for c in word.chars() {
            if count >= characters_max {
                short.push('…');
                return short;
            }
            short.push(c);
            count += 1;
        }
    }
    short
}

/// `Retry-After` in seconds or as a date (judged by the server's own clock), or `retry-after-ms`.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|it| it.to_str().ok()).map(str::trim);
    let seconds = if let Some(ms) = text("retry-after-ms").and_then(|it| it.parse::<f64>().ok()) {
        ms / 1e3
    } else {
        let value = text("retry-after")?;
        match value.parse::<f64>() {
            Ok(seconds) => seconds,
            Err(_) => (http_date(value)? - http_date(text("date")?)?) as f64,
        }
    };
    Duration::try_from_secs_f64(seconds.max(0.0)).ok().map(|it| it.min(RETRY_AFTER_MAX))
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7).
fn http_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_once(", ")?.1.split([' ', ':']);
    let day: i64 = words.next()?.parse().ok()?;
    let name = words.next()?;
    let month = i64::try_from(MONTHS.iter().position(|it| *it == name)?).ok()? + 1;
    let year: i64 = words.next()?.parse().ok()?;
    let mut clock = || words.next()?.parse::<i64>().ok();
    let (hours, minutes, seconds) = (clock()?, clock()?, clock()?);
    if !(1970..10_000).contains(&year) {
        return None;
    }
    // Days from civil, with years that begin in March.
    let (shifted, index) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + (index * 153 + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hours * 3_600 + minutes * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_seconds() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(http_date("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        assert_eq!(http_date("tomorrow"), None);
    }

    #[test]
    fn retry_after_has_three_forms() {
        let read = |pairs: &[(&'static str, &str)]| {
            let headers = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            retry_after(&headers)
        };
        assert_eq!(read(&[("retry-after", "2")]), Some(Duration::from_secs(2)));
        assert_eq!(read(&[("retry-after", "0.5")]), Some(Duration::from_millis(500)));
        assert_eq!(read(&[("retry-after-ms", "250"), ("retry-after", "1")]), Some(Duration::from_millis(250)));
        let now = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(read(&[("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT"), now]), Some(Duration::from_secs(30)));
        assert_eq!(read(&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT"), now]), Some(Duration::ZERO));
        assert_eq!(read(&[("retry-after", "1e300")]), None);
        assert_eq!(read(&[("retry-after", "99999999")]), Some(RETRY_AFTER_MAX));
        assert_eq!(read(&[("retry-after", "soon")]), None);
    }

    #[test]
    fn excerpts_are_short_single_lines() {
        assert_eq!(excerpt(b" a\n\tb\x1b[0m ", 300, &[]), "a b [0m");
        assert_eq!(excerpt("ü".repeat(500).as_bytes(), 300, &[]).chars().count(), 301);
        assert_eq!(excerpt(b"\xff\xfe", 10, &[]), "\u{fffd}\u{fffd}");
    }

    #[test]
    fn a_client_for_tls_needs_no_set_up() {
        match client(Locality::Remote, true, Mode::Online, Duration::from_secs(1)) {
            // A machine without root certificates says so.
            Ok(_) | Err(Error::Client { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn secrets_are_blanked_before_a_text_is_cut() {
        let secrets = ["sk-secret-1", "other-secret", "no"].map(|it| SecretString::from(it.to_owned()));
        let text = "no: bad key sk-secret-1! sk-secret-1 other-secret";
        assert_eq!(excerpt(text.as_bytes(), 300, &secrets), "no: bad key ***! *** ***");
        assert_eq!(excerpt(text.as_bytes(), 15, &secrets), "no: bad key ***…");
    }
}
