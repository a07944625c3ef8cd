//! The conformance suite: what every provider must do, run on each of them.
//!
//! A provider joins by a `Dialect`: how its registry type is called and how its servers write answers, streams and errors.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]

#[allow(dead_code, reason = "each test uses its part")]
mod server;

use std::{sync::Arc, time::Duration};

use crewline_models::{
    ChatMessage, ChatReply, ChatRequest, Error, Finish, Mode, Models, Options, OutputSchema, Phase, Registry, Speaker,
};
use crewline_types::{ErrorKind, ModelAlias, Usage, event::CallOutcome};
use server::{Server, Step, chunk, chunked_end, chunked_head, response};

/// How the servers of a provider type write.
trait Dialect: Sync {
    /// The `type` in the registry.
    fn registry_type(&self) -> &'static str;
    /// A whole answer; `usage` is input, output, cached, reasoning.
    fn answer(&self, text: &str, usage: Option<[u64; 4]>) -> String;
    /// The events of a streamed answer, the end included.
    fn stream(&self, pieces: &[&str], usage: Option<[u64; 4]>) -> String;
    /// One event of a stream that holds a piece of text.
    fn piece(&self, text: &str) -> String;
    /// The body of an error.
    fn error(&self, message: &str) -> String;
    /// An event that breaks a stream off.
    fn error_event(&self, message: &str) -> String;
    /// An answer without an answer in it.
    fn hollow(&self) -> String;
    /// The schema in a request.
    fn schema<'a>(&self, body: &'a serde_json::Value) -> Option<&'a serde_json::Value>;
    /// The texts of a request.
    fn texts(&self, body: &serde_json::Value) -> Vec<String>;
}

struct OpenAiCompatible;

impl OpenAiCompatible {
    fn usage(usage: Option<[u64; 4]>) -> serde_json::Value {
        usage.map_or(serde_json::Value::Null, |[input, output, cached, reasoning]| {
            serde_json::json!({
                "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
                "prompt_tokens_details": {"cached_tokens": cached},
                "completion_tokens_details": {"reasoning_tokens": reasoning},
            })
        })
    }
}

impl Dialect for OpenAiCompatible {
    fn registry_type(&self) -> &'static str {
        "openai_compatible"
    }

    fn answer(&self, text: &str, usage: Option<[u64; 4]>) -> String {
        let mut answer = serde_json::json!({
            "id": "x", "object": "chat.completion", "model": "served",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text, "tool_calls": null}, "finish_reason": "stop"}],
        });
        if usage.is_some() {
            answer["usage"] = Self::usage(usage);
        }
        answer.to_string()
    }

    fn stream(&self, pieces: &[&str], usage: Option<[u64; 4]>) -> String {
        let mut text =
            "data: {\"model\":\"served\",\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\n\n"
                .to_owned();
        for piece in pieces {
            text.push_str(&self.piece(piece));
        }
        text.push_str("data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n");
        if usage.is_some() {
            let last = serde_json::json!({"choices": [], "usage": Self::usage(usage)}).to_string();
            text = text + "data: " + &last + "\n\n";
        }
        text.push_str("data: [DONE]\n\n");
        text
    }

    fn piece(&self, text: &str) -> String {
        format!(
            "data: {}\n\n",
            serde_json::json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]})
        )
    }

    fn error(&self, message: &str) -> String {
        serde_json::json!({"error": {"message": message, "type": "some_error", "param": null, "code": null}})
            .to_string()
    }

    fn error_event(&self, message: &str) -> String {
        format!("data: {}\n\n", self.error(message))
    }

    fn hollow(&self) -> String {
        serde_json::json!({"object": "chat.completion", "choices": []}).to_string()
    }

    fn schema<'a>(&self, body: &'a serde_json::Value) -> Option<&'a serde_json::Value> {
        body.pointer("/response_format/json_schema/schema")
    }

    fn texts(&self, body: &serde_json::Value) -> Vec<String> {
        let texts = body["messages"].as_array().unwrap().iter();
        texts.map(|it| format!("{}: {}", it["role"].as_str().unwrap(), it["content"].as_str().unwrap())).collect()
    }
}

#[derive(Clone, Copy)]
enum Way {
    Whole,
    Streamed,
}

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream; charset=utf-8";
const KEY: &str = "sk-topsecret";

/// The limits of the tests: those that must pass are short, the others long.
struct Limits {
    first_token: &'static str,
    idle: &'static str,
    total: &'static str,
}

const LONG: Limits = Limits { first_token: "30s", idle: "30s", total: "30s" };

fn models_of(dialect: &dyn Dialect, way: Way, port: u16, limits: &Limits, extra: &str) -> Models {
    let text = format!(
        "version: 1\nproviders:\n  p: {{type: {}, base_url: \"http://127.0.0.1:{port}/v1\", api_key: \"env:KEY\", stream: {}}}\n\
         models:\n  m: {{provider: p, model: asked, context_window: 1000, output_tokens_max: 100, \
         timeouts: {{connect: 5s, first_token: {}, idle: {}, total: {}}}{extra}}}\nroles:\n  default: {{chain: [m]}}\n",
        dialect.registry_type(),
        matches!(way, Way::Streamed),
        limits.first_token,
        limits.idle,
        limits.total,
    );
    let registry = Registry::parse(&text, "test", &|_| Some(KEY.to_owned())).unwrap();
    Models::new(Arc::new(registry), Options::default()).unwrap()
}

fn question() -> ChatRequest {
    ChatRequest {
        messages: vec![
            ChatMessage::new(Speaker::System, "Be \"brief\".\n"),
            ChatMessage::new(Speaker::User, "Grüße 日本?"),
        ],
        output_tokens_max: 50,
        schema: None,
        temperature: None,
    }
}

fn alias() -> ModelAlias {
    "m".into()
}

/// Asks once a server that does `steps`.
async fn ask(dialect: &dyn Dialect, way: Way, limits: &Limits, steps: Vec<Step>) -> Result<ChatReply, Error> {
    let server = Server::start(move |_| steps.clone()).await;
    let models = models_of(dialect, way, server.port, limits, "");
    let result =
        tokio::time::timeout(Duration::from_secs(20), models.chat(&alias(), &question())).await.expect("no limit held");
    if let Err(error) = &result {
        let shown = format!("{error} {error:?} {:?}", error.hint());
        assert!(!shown.contains(KEY), "{shown}");
    }
    result
}

async fn plain(dialect: &dyn Dialect) {
    let body = dialect.answer("Hallo \"du\"\n日", Some([12, 5, 3, 2]));
    let server = Server::start(move |_| vec![response("200 OK", JSON, "", &body)]).await;
    let models = models_of(dialect, Way::Whole, server.port, &LONG, ", temperature: 0.5, params: {top_k: 7}");
    for _ in 0..3 {
        let reply = models.chat(&alias(), &question()).await.unwrap();
        assert_eq!(reply.text, "Hallo \"du\"\n日");
        let usage =
            Usage { input_tokens: 12, output_tokens: 5, cached_tokens: 3, reasoning_tokens: 2, estimated: false };
        assert_eq!(
            (reply.usage, reply.finish, reply.model.as_str(), reply.first_token),
            (usage, Finish::Stop, "served", None)
        );
    }
    let received = server.received();
    assert!(received.iter().all(|it| it.connection == 0), "the connection is used again");
    let first = &received[0];
    assert!(first.head.starts_with("POST /v1/chat/completions HTTP/1.1"), "{}", first.head);
    assert_eq!(first.header("authorization"), Some("Bearer sk-topsecret"));
    assert_eq!(first.header("content-type"), Some(JSON));
    assert_eq!(dialect.texts(&first.body), ["system: Be \"brief\".\n", "user: Grüße 日本?"]);
    assert_eq!(first.body["model"], "asked");
    assert_eq!(
        (&first.body["max_tokens"], &first.body["temperature"], &first.body["top_k"]),
        (&50.into(), &0.5.into(), &7.into())
    );
    assert_eq!(first.body["stream"], false);
}

async fn with_schema(dialect: &dyn Dialect) {
    let body = dialect.answer("{}", None);
    let server = Server::start(move |_| vec![response("200 OK", JSON, "", &body)]).await;
    let schema = serde_json::json!({"type": "object", "properties": {"b": {}, "a": {}}});
    let output = OutputSchema { name: "plan".into(), schema: schema.clone() };
    let request =
        ChatRequest { schema: Some(Arc::new(output)), output_tokens_max: 5_000, temperature: Some(0.0), ..question() };
    models_of(dialect, Way::Whole, server.port, &LONG, "").chat(&alias(), &request).await.unwrap();
    models_of(dialect, Way::Whole, server.port, &LONG, ", capabilities: []").chat(&alias(), &request).await.unwrap();
    models_of(dialect, Way::Whole, server.port, &LONG, ", params: {temperature: null, max_tokens: 7}")
        .chat(&alias(), &request)
        .await
        .unwrap();
    let received = server.received();
    assert_eq!(dialect.schema(&received[0].body), Some(&schema));
    assert_eq!((&received[0].body["max_tokens"], &received[0].body["temperature"]), (&100.into(), &0.0.into()));
    assert_eq!(dialect.schema(&received[1].body), None);
    assert_eq!((&received[2].body["max_tokens"], received[2].body.get("temperature")), (&7.into(), None));
}

async fn streamed(dialect: &dyn Dialect) {
    let text = dialect.stream(&["Grü", "ße ", "日本"], Some([9, 4, 0, 0]));
    // Every cut, also inside characters; each piece travels on its own.
    for size in [1, 2, 3, 7, 64, 4_096] {
        let mut steps = vec![chunked_head(EVENTS)];
        steps.extend(text.as_bytes().chunks(size).map(chunk));
        steps.push(chunked_end());
        let reply = ask(dialect, Way::Streamed, &LONG, steps).await.unwrap();
        assert_eq!((reply.text.as_str(), reply.finish, reply.model.as_str()), ("Grüße 日本", Finish::Stop, "served"));
        assert_eq!((reply.usage.input_tokens, reply.usage.output_tokens, reply.usage.estimated), (9, 4, false));
        assert!(reply.first_token.is_some_and(|it| it <= reply.elapsed));
    }
}

async fn streamed_connections_are_used_again(dialect: &dyn Dialect) {
    let text = dialect.stream(&["a"], None);
    let server = Server::start(move |_| vec![chunked_head(EVENTS), chunk(&text), chunked_end()]).await;
    let models = models_of(dialect, Way::Streamed, server.port, &LONG, "");
    for _ in 0..3 {
        models.chat(&alias(), &question()).await.unwrap();
    }
    assert!(server.received().iter().all(|it| it.connection == 0 && it.body["stream"] == true));
}

async fn a_stream_without_its_last_line(dialect: &dyn Dialect) {
    let text = dialect.stream(&["all ", "there"], None).replace("data: [DONE]\n\n", "");
    let reply =
        ask(dialect, Way::Streamed, &LONG, vec![chunked_head(EVENTS), chunk(&text), chunked_end()]).await.unwrap();
    assert_eq!(reply.text, "all there");
    // The last event may even lack its empty line.
    let steps = vec![chunked_head(EVENTS), chunk(text.trim_end()), chunked_end()];
    assert_eq!(ask(dialect, Way::Streamed, &LONG, steps).await.unwrap().text, "all there");
}

async fn a_stream_that_breaks_off(dialect: &dyn Dialect) {
    let piece = dialect.piece("half");
    for end in [vec![chunked_end()], vec![Step::Close], vec![Step::Reset]] {
        let mut steps = vec![chunked_head(EVENTS), chunk(&piece)];
        steps.extend(end);
        let error = ask(dialect, Way::Streamed, &LONG, steps).await.unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), ("model.interrupted", true), "{error}");
    }
    let error = ask(dialect, Way::Streamed, &LONG, vec![chunked_head(EVENTS), chunked_end()]).await.unwrap_err();
    assert_eq!(error.code(), "model.bad_reply", "{error}");
}

async fn an_error_inside_a_stream(dialect: &dyn Dialect) {
    for event in [
        dialect.error_event("the GPU is gone"),
        "event: error\ndata: {\"message\": \"the GPU is gone\"}\n\n".to_owned(),
    ] {
        let steps = vec![chunked_head(EVENTS), chunk(dialect.piece("half")), chunk(event), Step::Hang];
        let error = ask(dialect, Way::Streamed, &LONG, steps).await.unwrap_err();
        assert_eq!(error.code(), "model.upstream");
        assert!(error.to_string().contains("the GPU is gone"), "{error}");
    }
}

async fn usage_that_is_missing(dialect: &dyn Dialect) {
    for (way, steps) in [
        (Way::Whole, vec![response("200 OK", JSON, "", dialect.answer("Hallo du", None))]),
        (Way::Streamed, vec![chunked_head(EVENTS), chunk(dialect.stream(&["Hallo du"], None)), chunked_end()]),
        (Way::Whole, vec![response("200 OK", JSON, "", dialect.answer("Hallo du", Some([0; 4])))]),
    ] {
        let usage = ask(dialect, way, &LONG, steps).await.unwrap().usage;
        assert!(usage.estimated && usage.input_tokens >= 8 && usage.output_tokens >= 2, "{usage:?}");
    }
}

async fn refusals(dialect: &dyn Dialect) {
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
            let error = ask(dialect, way, &LONG, vec![response(status, JSON, headers, dialect.error(message))])
                .await
                .unwrap_err();
            let seen = (error.code(), error.kind(), error.outcome(), error.is_retryable());
            assert_eq!(seen, (code, kind, outcome, is_retryable), "{status}");
            assert!(error.to_string().len() < 500, "{status}: {error}");
        }
    }
    // An error page of a proxy, an empty body, a body that breaks off.
    for steps in [
        vec![response("502 Bad Gateway", "text/html", "", "<html>\n<h1>Bad gateway</h1>")],
        vec![response("500 Internal Server Error", "text/plain", "", "")],
        vec![Step::Send(b"HTTP/1.1 500 Oops\r\ncontent-length: 100\r\n\r\nhalf".to_vec()), Step::Close],
    ] {
        assert_eq!(ask(dialect, Way::Whole, &LONG, steps).await.unwrap_err().code(), "model.upstream");
    }
}

async fn rate_limits_say_when(dialect: &dyn Dialect) {
    for (headers, expected) in [
        ("retry-after: 7\r\n", Some(Duration::from_secs(7))),
        ("retry-after-ms: 1500\r\n", Some(Duration::from_millis(1_500))),
        ("", None),
    ] {
        let steps = vec![response("429 Too Many Requests", JSON, headers, dialect.error("slow"))];
        assert_eq!(ask(dialect, Way::Whole, &LONG, steps).await.unwrap_err().retry_after(), expected);
    }
}

fn assert_timeout(error: &Error, expected: Phase) {
    let Error::Timeout { phase, limit, .. } = error else { panic!("{error}") };
    assert_eq!((*phase, *limit), (expected, Duration::from_millis(120)));
    assert!(error.is_retryable() && error.outcome() == CallOutcome::Timeout && error.hint().is_some());
}

async fn a_hang_before_the_head(dialect: &dyn Dialect) {
    let limits = Limits { total: "120ms", ..LONG };
    assert_timeout(&ask(dialect, Way::Whole, &limits, vec![Step::Hang]).await.unwrap_err(), Phase::Total);
    assert_timeout(&ask(dialect, Way::Streamed, &limits, vec![Step::Hang]).await.unwrap_err(), Phase::Total);
    let limits = Limits { first_token: "120ms", ..LONG };
    assert_timeout(&ask(dialect, Way::Streamed, &limits, vec![Step::Hang]).await.unwrap_err(), Phase::FirstToken);
}

async fn a_stall_in_the_body(dialect: &dyn Dialect) {
    let half = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"choices\"".to_vec();
    let limits = Limits { total: "120ms", ..LONG };
    let steps = vec![Step::Send(half), Step::Hang];
    assert_timeout(&ask(dialect, Way::Whole, &limits, steps).await.unwrap_err(), Phase::Total);

    // Neither comments nor an empty first event are tokens.
    let limits = Limits { first_token: "120ms", ..LONG };
    let steps = vec![chunked_head(EVENTS), chunk(": busy\n\n"), chunk(dialect.piece("")), Step::Hang];
    assert_timeout(&ask(dialect, Way::Streamed, &limits, steps).await.unwrap_err(), Phase::FirstToken);

    let limits = Limits { idle: "120ms", ..LONG };
    let steps = vec![chunked_head(EVENTS), chunk(dialect.piece("half")), Step::Hang];
    assert_timeout(&ask(dialect, Way::Streamed, &limits, steps).await.unwrap_err(), Phase::Idle);
}

async fn a_reset_in_the_body(dialect: &dyn Dialect) {
    let half = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"choices\"".to_vec();
    for end in [Step::Reset, Step::Close] {
        let error = ask(dialect, Way::Whole, &LONG, vec![Step::Send(half.clone()), end]).await.unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), ("model.interrupted", true), "{error}");
    }
    // Before the head as well.
    let error = ask(dialect, Way::Whole, &LONG, vec![Step::Reset]).await.unwrap_err();
    assert_eq!(error.code(), "model.interrupted", "{error}");
}

async fn replies_that_are_too_large(dialect: &dyn Dialect) {
    let line = chunk("x".repeat(200 << 10));
    let mut steps = vec![chunked_head(EVENTS), chunk("data: ")];
    steps.extend(vec![line; 6]);
    steps.push(Step::Hang);
    let error = ask(dialect, Way::Streamed, &LONG, steps).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 1_048_576, .. }), "{error}");
    assert_eq!(error.outcome(), CallOutcome::Invalid);

    let huge = dialect.answer(&"x".repeat(9 << 20), None);
    let error = ask(dialect, Way::Whole, &LONG, vec![response("200 OK", JSON, "", &huge)]).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 8_388_608, .. }), "{error}");
    let mut steps = vec![chunked_head(JSON)];
    steps.extend(huge.as_bytes().chunks(1 << 20).map(chunk));
    steps.push(Step::Hang);
    let error = ask(dialect, Way::Whole, &LONG, steps).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 8_388_608, .. }), "{error}");
    // Many small events count as well.
    let piece = dialect.piece(&"y".repeat(100 << 10));
    let mut steps = vec![chunked_head(EVENTS)];
    steps.extend(vec![chunk(piece); 90]);
    steps.push(Step::Hang);
    let error = ask(dialect, Way::Streamed, &LONG, steps).await.unwrap_err();
    assert_eq!(error.code(), "model.too_large", "{error}");
}

async fn replies_that_are_none(dialect: &dyn Dialect) {
    let mut not_utf8 = dialect.answer("@@", None).into_bytes();
    let at = not_utf8.iter().position(|it| *it == b'@').unwrap();
    not_utf8[at] = 0xff;
    for body in [
        not_utf8,
        dialect.hollow().into(),
        b"".to_vec(),
        b"null".to_vec(),
        b"{\"choices\": 7}".to_vec(),
        b"{".to_vec(),
        b"<html>hello".to_vec(),
    ] {
        for way in [Way::Whole, Way::Streamed] {
            let error = ask(dialect, way, &LONG, vec![response("200 OK", JSON, "", &body)]).await.unwrap_err();
            let seen = (error.code(), error.outcome(), error.is_retryable());
            assert_eq!(seen, ("model.bad_reply", CallOutcome::Invalid, true), "{error}");
        }
    }
    let mut event = dialect.piece("@@").into_bytes();
    let at = event.iter().position(|it| *it == b'@').unwrap();
    event[at] = 0xff;
    let error =
        ask(dialect, Way::Streamed, &LONG, vec![chunked_head(EVENTS), chunk(event), Step::Hang]).await.unwrap_err();
    assert_eq!(error.code(), "model.bad_reply", "{error}");
    let error = ask(dialect, Way::Whole, &LONG, vec![response("200 OK", JSON, "", dialect.error("overloaded"))])
        .await
        .unwrap_err();
    assert_eq!(error.code(), "model.upstream", "{error}");
}

async fn content_types_that_are_wrong(dialect: &dyn Dialect) {
    // Streaming was asked for, but a whole answer came; the other way round; and both under a false name.
    let (whole, events) = (dialect.answer("fine", None), dialect.stream(&["fi", "ne"], None));
    for (way, content_type, body) in [
        (Way::Streamed, JSON, &whole),
        (Way::Streamed, EVENTS, &whole),
        (Way::Streamed, "text/plain", &whole),
        (Way::Whole, EVENTS, &events),
        (Way::Whole, "text/plain", &events),
        (Way::Streamed, JSON, &events),
    ] {
        let reply = ask(dialect, way, &LONG, vec![response("200 OK", content_type, "", body)]).await.unwrap();
        assert_eq!((reply.text.as_str(), reply.finish), ("fine", Finish::Stop));
    }
}

async fn nobody_listens(dialect: &dyn Dialect) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = models_of(dialect, Way::Whole, port, &LONG, "").chat(&alias(), &question()).await.unwrap_err();
    assert_eq!((error.code(), error.kind(), error.is_retryable()), ("model.unreachable", ErrorKind::Unavailable, true));
    let hint = error.hint().unwrap();
    assert!(hint.contains(&format!("start the server at `http://127.0.0.1:{port}/v1`")), "{hint}");
}

async fn a_dropped_call_closes_its_connection(dialect: &dyn Dialect) {
    for steps in [vec![Step::Hang], vec![chunked_head(EVENTS), chunk(dialect.piece("half")), Step::Hang]] {
        let server = Server::start(move |_| steps.clone()).await;
        let models = models_of(dialect, Way::Streamed, server.port, &LONG, "");
        {
            let (alias, question) = (alias(), question());
            let call = models.chat(&alias, &question);
            tokio::select! {
                result = call => panic!("{result:?}"),
                () = server.wait_for_requests(1) => {}
            }
        }
        server.wait_for_close().await;
    }
}

async fn concurrency_is_bounded(dialect: &dyn Dialect) {
    let body = dialect.answer("ok", None);
    let server =
        Server::start(move |_| vec![Step::Pause(Duration::from_millis(30)), response("200 OK", JSON, "", &body)]).await;
    let models = models_of(dialect, Way::Whole, server.port, &LONG, ", limits: {concurrency: 2}");
    let (alias, question) = (alias(), question());
    let calls = (0..8).map(|_| models.chat(&alias, &question));
    assert!(futures::future::join_all(calls).await.iter().all(Result::is_ok));
    // Two at once need two connections, and no third.
    assert_eq!(server.received().iter().map(|it| it.connection).max(), Some(1));
    // A cancelled call gives its place back.
    for _ in 0..4 {
        let _ = tokio::time::timeout(Duration::from_millis(1), models.chat(&alias, &question)).await;
    }
    models.chat(&alias, &question).await.unwrap();
}

macro_rules! conformance {
    ($dialect:ident: $($test:ident)*) => {
        $(
            #[tokio::test]
            async fn $test() {
                super::$test(&super::$dialect).await;
            }
        )*
    };
}

mod openai_compatible {
    conformance! { OpenAiCompatible:
        plain with_schema streamed streamed_connections_are_used_again a_stream_without_its_last_line a_stream_that_breaks_off
        an_error_inside_a_stream usage_that_is_missing refusals rate_limits_say_when a_hang_before_the_head a_stall_in_the_body
        a_reset_in_the_body replies_that_are_too_large replies_that_are_none content_types_that_are_wrong nobody_listens
        a_dropped_call_closes_its_connection concurrency_is_bounded
    }
}

/// What only chat completions have.
#[tokio::test]
async fn forms_of_a_message() {
    for (message, finish, expected) in [
        (r#"{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}"#, "stop", ("ab", Finish::Stop)),
        (r#"{"content":null,"reasoning_content":"thoughts"}"#, "stop", ("thoughts", Finish::Stop)),
        (r#"{"content":"","reasoning":"thoughts"}"#, "length", ("", Finish::Length)),
        (r#"{"content":"a","reasoning_content":"thoughts"}"#, "length", ("a", Finish::Length)),
        (r#"{"content":null,"refusal":"I will not"}"#, "stop", ("I will not", Finish::Filtered)),
        (r#"{"content":"a"}"#, "content_filter", ("a", Finish::Filtered)),
        (r#"{"content":null,"tool_calls":[{"id":"1"}]}"#, "tool_calls", ("", Finish::Other)),
    ] {
        let body = format!(r#"{{"choices":[{{"message":{message},"finish_reason":"{finish}"}}]}}"#);
        let reply = ask(&OpenAiCompatible, Way::Whole, &LONG, vec![response("200 OK", JSON, "", body)]).await.unwrap();
        assert_eq!((reply.text.as_str(), reply.finish), expected, "{message}");
        let event = format!("data: {{\"choices\":[{{\"delta\":{message},\"finish_reason\":\"{finish}\"}}]}}\n\n");
        let steps = vec![chunked_head(EVENTS), chunk(event), chunked_end()];
        let reply = ask(&OpenAiCompatible, Way::Streamed, &LONG, steps).await.unwrap();
        assert_eq!((reply.text.as_str(), reply.finish), expected, "{message}");
    }
}

#[tokio::test]
async fn connecting_has_a_limit() {
    // A listener that accepts nothing: once its queue is full, the kernel drops further attempts.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    loop {
        let connect = tokio::net::TcpStream::connect(address);
        match tokio::time::timeout(Duration::from_millis(300), connect).await {
            Ok(stream) => queued.push(stream.unwrap()),
            Err(_) => break,
        }
    }
    let models = models_of(&OpenAiCompatible, Way::Whole, address.port(), &LONG, "");
    drop(models);
    let text = format!(
        "version: 1\nproviders:\n  p: {{type: openai_compatible, base_url: \"http://{address}/v1\"}}\nmodels:\n  \
         m: {{provider: p, model: m, context_window: 1000, timeouts: {{connect: 120ms}}}}\nroles:\n  default: {{chain: [m]}}\n"
    );
    let registry = Registry::parse(&text, "test", &|_| None).unwrap();
    let models = Models::new(Arc::new(registry), Options::default()).unwrap();
    assert_timeout(&models.chat(&alias(), &question()).await.unwrap_err(), Phase::Connect);
}

#[tokio::test]
async fn offline_nothing_leaves() {
    let text = "version: 1\nproviders:\n  far: {type: openai_compatible, base_url: \"https://192.0.2.1/v1\"}\n  \
         named: {type: openai_compatible, base_url: \"http://nowhere.internal/v1\"}\n  \
         near: {type: openai_compatible, base_url: \"http://127.0.0.1:1/v1\"}\nmodels:\n  \
         far: {provider: far, model: m, context_window: 1000}\n  near: {provider: near, model: m, context_window: 1000}\n\
         roles:\n  default: {chain: [near, far]}\n";
    let registry = Arc::new(Registry::parse(text, "test", &|_| None).unwrap());
    let options = Options { mode: Mode::Offline, ..Options::default() };
    let models = Models::new(registry, options).unwrap();
    let error = models.chat(&"far".into(), &question()).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("model.offline", false));
    assert!(error.to_string().contains("192.0.2.1"), "{error}");
    assert_eq!(models.chat(&"near".into(), &question()).await.unwrap_err().code(), "model.unreachable");
    assert_eq!(models.list("far").await.unwrap_err().code(), "model.offline");
    assert_eq!(models.chat(&"none".into(), &question()).await.unwrap_err().code(), "model.unknown");
}

#[tokio::test]
async fn a_missing_key_is_found_before_the_call() {
    let text = "version: 1\nproviders:\n  p: {type: openai_compatible, base_url: \"http://127.0.0.1:1/v1\"}\n  \
         q: {type: openai_compatible, base_url: \"http://127.0.0.1:1/v1\", api_key: \"env:NOPE\"}\nmodels:\n  \
         m: {provider: p, model: m, context_window: 1000}\n  n: {provider: q, model: m, context_window: 1000}\n\
         roles:\n  default: {chain: [m]}\n";
    let registry = Arc::new(Registry::parse(text, "test", &|_| None).unwrap());
    let models = Models::new(registry, Options::default()).unwrap();
    let error = models.chat(&"n".into(), &question()).await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("model.key_missing", ErrorKind::Auth));
    assert!(error.hint().unwrap().contains("export NOPE="), "{:?}", error.hint());
}

#[tokio::test]
async fn the_list_of_models() {
    let body =
        r#"{"object":"list","data":[{"id":"a","max_model_len":4096},{"id":"b","meta":{"n_ctx":2048}},{"id":"c"}]}"#;
    let server = Server::start(move |number| match number {
        0 => vec![response("200 OK", JSON, "", body)],
        1 => vec![response("404 Not Found", JSON, "", "")],
        2 => vec![response("401 Unauthorized", JSON, "", "")],
        _ => vec![response("200 OK", "text/html", "", "<html>")],
    })
    .await;
    let models = models_of(&OpenAiCompatible, Way::Whole, server.port, &LONG, "");
    let listed = models.list("p").await.unwrap();
    let listed: Vec<_> = listed.iter().map(|it| (it.id.as_str(), it.context_window)).collect();
    assert_eq!(listed, [("a", Some(4_096)), ("b", Some(2_048)), ("c", None)]);
    assert_eq!(models.list("p").await.unwrap(), []);
    assert_eq!(models.list("p").await.unwrap_err().kind(), ErrorKind::Auth);
    assert_eq!(models.list("p").await.unwrap_err().code(), "model.unreachable");
    assert_eq!(models.list("x").await.unwrap_err().code(), "model.unknown_provider");
    assert!(server.received()[0].head.starts_with("GET /v1/models "));
}
