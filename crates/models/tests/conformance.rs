//! The conformance suite: what every provider must do, run on each of them.
//!
//! A provider joins by a [`Wire`] of the testkit: how its registry type is called, how its servers write answers, streams and errors,
//! and what they were asked.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]

use std::{sync::Arc, time::Duration};

use crewline_models::{
    ChatMessage, ChatReply, ChatRequest, Error, Finish, Listener, Mode, Models, Options, OutputSchema, Phase, Piece,
    Registry, Speaker, Tool, ToolCall, ToolChoice, ToolSet, runtimes::LoadOptions,
};
use crewline_testkit::{
    FaultServer,
    fault::{Step, chunk, chunked_end, chunked_head, response},
    wire::{ChatCompletions, End, Messages, OllamaChat, Responses, WIRES, Wire, Wired},
};
use crewline_types::{ErrorKind, ModelAlias, Usage, event::CallOutcome};

#[derive(Clone, Copy)]
enum Way {
    Whole,
    Streamed,
}

const JSON: &str = "application/json";
const KEY: &str = "sk-topsecret";

/// The limits of the tests: those that must pass are short, the others long.
struct Limits {
    first_token: &'static str,
    idle: &'static str,
    total: &'static str,
}

const LONG: Limits = Limits { first_token: "30s", idle: "30s", total: "30s" };

fn models_of(wire: &dyn Wire, way: Way, port: u16, limits: &Limits, extra: &str) -> Models {
    let text = format!(
        "version: 1\nproviders:\n  p: {{type: {}, base_url: \"http://127.0.0.1:{port}{}\", api_key: \"env:KEY\", stream: {}}}\n\
         models:\n  m: {{provider: p, model: asked, context_window: 1000, output_tokens_max: 100, \
         timeouts: {{connect: 5s, first_token: {}, idle: {}, total: {}}}{extra}}}\nroles:\n  default: {{chain: [m]}}\n",
        wire.registry_type(),
        wire.base_path(),
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
        tools: None,
    }
}

/// A whole answer; `usage` is input, output, cached, reasoning.
fn whole(wire: &dyn Wire, text: &str, usage: Option<[u64; 4]>) -> String {
    wire.whole(&Wired { text, usage, ..Wired::default() })
}

/// A whole stream.
fn stream(wire: &dyn Wire, pieces: &[&str], usage: Option<[u64; 4]>) -> String {
    let text = pieces.concat();
    wire.stream(pieces, &Wired { text: &text, usage, ..Wired::default() })
}

fn alias() -> ModelAlias {
    "m".into()
}

/// Asks once a server that does `steps`.
async fn ask(wire: &dyn Wire, way: Way, limits: &Limits, steps: Vec<Step>) -> Result<ChatReply, Error> {
    let server = FaultServer::start(move |_| steps.clone()).await;
    let models = models_of(wire, way, server.port, limits, "");
    let result =
        tokio::time::timeout(Duration::from_secs(20), models.chat(&alias(), &question())).await.expect("no limit held");
    if let Err(error) = &result {
        let shown = format!("{error} {error:?} {:?}", error.hint());
        assert!(!shown.contains(KEY), "{shown}");
    }
    result
}

async fn plain(wire: &dyn Wire) {
    let body = whole(wire, "Hallo \"du\"\n日", Some([12, 5, 3, 2]));
    let server = FaultServer::start(move |_| vec![response("200 OK", JSON, "", &body)]).await;
    let models = models_of(wire, Way::Whole, server.port, &LONG, ", temperature: 0.5, params: {top_k: 7}");
    for _ in 0..3 {
        let reply = models.chat(&alias(), &question()).await.unwrap();
        assert_eq!(reply.text, "Hallo \"du\"\n日");
        let [has_cache, has_reasoning] = wire.usage_details();
        let usage = Usage {
            input_tokens: 12,
            output_tokens: 5,
            cached_tokens: if has_cache { 3 } else { 0 },
            reasoning_tokens: if has_reasoning { 2 } else { 0 },
            estimated: false,
        };
        assert_eq!(
            (reply.usage, reply.finish, reply.model.as_str(), reply.first_token),
            (usage, Finish::Stop, "served", None)
        );
    }
    let received = server.received();
    assert!(received.iter().all(|it| it.connection == 0), "the connection is used again");
    let first = &received[0];
    assert!(first.head.starts_with(&format!("POST {} HTTP/1.1", wire.chat_path())), "{}", first.head);
    let (key_header, before) = wire.key_header();
    assert_eq!(first.header(key_header), Some(format!("{before}{KEY}").as_str()));
    assert_eq!(first.head.matches(KEY).count(), 1, "the key stands in one header only");
    assert_eq!(first.header("content-type"), Some(JSON));
    assert_eq!(wire.conversation(&first.body), ["system: Be \"brief\".\n", "user: Grüße 日本?"]);
    assert_eq!(first.body["model"], "asked");
    let top_k =
        if first.body.get("options").is_some() { &first.body["options"]["top_k"] } else { &first.body["top_k"] };
    assert_eq!(
        (wire.tokens_max(&first.body), wire.temperature(&first.body), top_k),
        (&50.into(), &0.5.into(), &7.into())
    );
    assert_eq!(first.body["stream"], false);
}

async fn with_schema(wire: &dyn Wire) {
    let body = whole(wire, "{}", None);
    let server = FaultServer::start(move |_| vec![response("200 OK", JSON, "", &body)]).await;
    let schema = serde_json::json!({"type": "object", "properties": {"b": {}, "a": {}}});
    let output = OutputSchema { name: "plan".into(), schema: schema.clone() };
    let request =
        ChatRequest { schema: Some(Arc::new(output)), output_tokens_max: 5_000, temperature: Some(0.0), ..question() };
    models_of(wire, Way::Whole, server.port, &LONG, "").chat(&alias(), &request).await.unwrap();
    models_of(wire, Way::Whole, server.port, &LONG, ", capabilities: []").chat(&alias(), &request).await.unwrap();
    models_of(wire, Way::Whole, server.port, &LONG, ", params: {temperature: null}")
        .chat(&alias(), &request)
        .await
        .unwrap();
    let received = server.received();
    assert_eq!(wire.schema(&received[0].body), Some(&schema));
    assert_eq!(wire.conversation(&received[0].body)[1], "user: Grüße 日本?");
    assert_eq!((wire.tokens_max(&received[0].body), wire.temperature(&received[0].body)), (&100.into(), &0.0.into()));
    // A model that enforces no schema is told it in words.
    assert_eq!(wire.schema(&received[1].body), None);
    let told = &wire.conversation(&received[1].body)[1];
    assert!(told.starts_with("user: Grüße 日本?\n\n") && told.contains(&schema.to_string()), "{told}");
    assert!(wire.temperature(&received[2].body).is_null());
}

/// An answer that does not follow its schema, and the one question that repairs it.
async fn a_schema_in_words_is_repaired_once(wire: &dyn Wire) {
    let answers = ["Sure: {\"a\": \"one\"}", "```json\n{\"a\": 1}\n```"].map(|it| whole(wire, it, None));
    let server = FaultServer::start(move |number| vec![response("200 OK", JSON, "", &answers[number])]).await;
    let schema = serde_json::json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}});
    let output = Arc::new(OutputSchema { name: "plan".into(), schema });
    let request = ChatRequest { schema: Some(Arc::clone(&output)), ..question() };
    let models = models_of(wire, Way::Whole, server.port, &LONG, ", capabilities: []");
    let first = models.chat(&alias(), &request).await.unwrap();
    let problems = output.check(&first.text).unwrap_err();
    let second = models.chat(&alias(), &request.repair(&first.text, &problems)).await.unwrap();
    assert_eq!(output.check(&second.text).unwrap(), serde_json::json!({"a": 1}));
    let lines = wire.conversation(&server.received()[1].body);
    assert!(lines[2].starts_with("assistant: Sure:") && lines[3].contains("`/a`"), "{lines:?}");
}

fn tools() -> Vec<Tool> {
    let parameters = serde_json::json!({"type": "object", "properties": {"path": {"type": "string"}}});
    ["read_file", "list_files"]
        .map(|name| Tool { name: name.into(), description: format!("It does {name}."), parameters: parameters.clone() })
        .into()
}

async fn tools_are_called(wire: &dyn Wire) {
    let calls = [("id-1", "read_file", r#"{"path":"a \"b\""}"#), ("id-2", "list_files", "{}")];
    let answer = Wired { calls: &calls, usage: Some([30, 7, 0, 0]), ..Wired::default() };
    let expected: Vec<ToolCall> = calls
        .iter()
        .map(|(id, name, arguments)| ToolCall {
            id: (*id).into(),
            name: (*name).into(),
            arguments: (*arguments).into(),
        })
        .collect();
    let request =
        ChatRequest { tools: Some(Arc::new(ToolSet { tools: tools(), choice: ToolChoice::Auto })), ..question() };
    for (way, steps) in [
        (Way::Whole, vec![response("200 OK", JSON, "", wire.whole(&answer))]),
        (Way::Streamed, vec![chunked_head(wire.stream_type()), chunk(wire.stream(&[], &answer)), chunked_end()]),
    ] {
        let server = FaultServer::start(move |_| steps.clone()).await;
        let models = models_of(wire, way, server.port, &LONG, "");
        let reply = models.chat(&alias(), &request).await.unwrap();
        let values = |calls: &[ToolCall]| -> Vec<(String, String, serde_json::Value)> {
            let value = |it: &ToolCall| serde_json::from_str(&it.arguments).unwrap();
            calls.iter().map(|it| (it.id.to_string(), it.name.to_string(), value(it))).collect()
        };
        assert_eq!(values(&reply.tool_calls), values(&expected));
        assert_eq!((reply.finish, reply.text.as_str()), (Finish::ToolCalls, ""));
        assert!(!reply.usage.estimated && reply.usage.output_tokens == 7);
        let (sent, _) = wire.tools(&server.received()[0].body);
        let known: Vec<_> = tools().into_iter().map(|it| (it.name, it.parameters)).collect();
        assert_eq!(sent, known);

        // What the tools gave back goes into the next question.
        let mut next = request.clone();
        next.messages.push(ChatMessage::called("", reply.tool_calls.clone()));
        for (call, result) in reply.tool_calls.iter().zip(["text of a", "a, b"]) {
            next.messages.push(ChatMessage::tool_result(call.clone(), result));
        }
        models.chat(&alias(), &next).await.unwrap();
        let lines = wire.conversation(&server.received()[1].body);
        let ids = if wire.registry_type() == "ollama" { ["read_file", "list_files"] } else { ["id-1", "id-2"] };
        assert_eq!(
            lines[2..],
            [
                r#"call read_file {"path":"a \"b\""}"#.to_owned(),
                "call list_files {}".to_owned(),
                format!("result {} text of a", ids[0]),
                format!("result {} a, b", ids[1]),
            ]
        );
    }
}

async fn tools_can_be_demanded(wire: &dyn Wire) {
    let body = whole(wire, "no", None);
    let server = FaultServer::start(move |_| vec![response("200 OK", JSON, "", &body)]).await;
    let models = models_of(wire, Way::Whole, server.port, &LONG, "");
    let choices = [ToolChoice::Auto, ToolChoice::None, ToolChoice::Required, ToolChoice::Named("list_files".into())];
    for choice in choices {
        let set = ToolSet { tools: tools(), choice };
        models.chat(&alias(), &ChatRequest { tools: Some(Arc::new(set)), ..question() }).await.unwrap();
    }
    let seen: Vec<_> = server.received().iter().map(|it| wire.tools(&it.body)).collect();
    match wire.registry_type() {
        // It has no word for a choice, so the tools themselves are chosen.
        "ollama" => assert_eq!(seen.iter().map(|it| it.0.len()).collect::<Vec<_>>(), [2, 0, 2, 1]),
        "anthropic" => {
            let kinds: Vec<_> = seen.iter().map(|it| it.1["type"].as_str().unwrap()).collect();
            assert_eq!((kinds, &seen[3].1["name"]), (vec!["auto", "none", "any", "tool"], &"list_files".into()));
        }
        _ => {
            let words: Vec<_> = seen[..3].iter().map(|it| it.1.as_str().unwrap()).collect();
            assert_eq!(words, ["auto", "none", "required"]);
            assert!(seen[3].1.to_string().contains("list_files"));
        }
    }
}

async fn ends_have_reasons(wire: &dyn Wire) {
    for (end, finish) in [(End::Stop, Finish::Stop), (End::Length, Finish::Length), (End::Filtered, Finish::Filtered)] {
        if end == End::Filtered && !wire.has_filter() {
            continue;
        }
        let answer = Wired { text: "so far", end, ..Wired::default() };
        let streamed = wire.stream(&["so ", "far"], &answer);
        for (way, steps) in [
            (Way::Whole, vec![response("200 OK", JSON, "", wire.whole(&answer))]),
            (Way::Streamed, vec![chunked_head(wire.stream_type()), chunk(streamed), chunked_end()]),
        ] {
            let reply = ask(wire, way, &LONG, steps).await.unwrap();
            assert_eq!((reply.text.as_str(), reply.finish), ("so far", finish));
        }
    }
}

async fn a_listener_hears_the_pieces(wire: &dyn Wire) {
    let text = stream(wire, &["Grü", "ße"], None);
    let head = wire.stream_type();
    let server = FaultServer::start(move |_| vec![chunked_head(head), chunk(&text), chunked_end()]).await;
    // Streaming is asked for, whatever the registry says.
    let models = models_of(wire, Way::Whole, server.port, &LONG, "");
    let heard = std::sync::Mutex::new(Vec::new());
    let hear = |piece: Piece<'_>| match piece {
        Piece::Text(text) => heard.lock().unwrap().push(text.to_owned()),
        Piece::Reasoning(text) => panic!("{text}"),
    };
    let reply = models.chat_stream(&alias(), &question(), Listener(&hear)).await.unwrap();
    assert_eq!(reply.text, "Grüße");
    assert_eq!(*heard.lock().unwrap(), ["Grü", "ße"]);
    assert_eq!(server.received()[0].body["stream"], true);
}

async fn vectors(wire: &dyn Wire) {
    let server_port = |steps: Vec<Step>| async move { FaultServer::start(move |_| steps.clone()).await };
    let Some((path, body)) = wire.embeddings(&[&[1.0, 0.5], &[0.0, -1.0]], 9) else {
        let models = models_of(wire, Way::Whole, 1, &LONG, "");
        assert_eq!(models.embed(&alias(), &["a"]).await.unwrap_err().code(), "model.unsupported");
        return;
    };
    let server = server_port(vec![response("200 OK", JSON, "", &body)]).await;
    let models = models_of(wire, Way::Whole, server.port, &LONG, "");
    let reply = models.embed(&alias(), &["first", "second"]).await.unwrap();
    assert_eq!(reply.vectors, [vec![1.0, 0.5], vec![0.0, -1.0]]);
    assert_eq!((reply.usage.input_tokens, reply.usage.estimated), (9, false));
    let received = server.received();
    assert!(received[0].head.starts_with(&format!("POST {path} ")), "{}", received[0].head);
    assert_eq!(received[0].body["input"], serde_json::json!(["first", "second"]));
    // Fewer vectors than texts are no answer, and errors are those of chat.
    assert_eq!(models.embed(&alias(), &["a", "b", "c"]).await.unwrap_err().code(), "model.bad_reply");
    let error = wire.error("slow down", "some_code");
    let server = server_port(vec![response("429 Too Many Requests", JSON, "retry-after: 2\r\n", error)]).await;
    let models = models_of(wire, Way::Whole, server.port, &LONG, "");
    let error = models.embed(&alias(), &["a"]).await.unwrap_err();
    assert_eq!((error.code(), error.retry_after()), ("model.rate_limited", Some(Duration::from_secs(2))));
}

async fn streamed(wire: &dyn Wire) {
    let text = stream(wire, &["Grü", "ße ", "日本"], Some([9, 4, 0, 0]));
    // Every cut, also inside characters; each piece travels on its own.
    for size in [1, 2, 3, 7, 64, 4_096] {
        let mut steps = vec![chunked_head(wire.stream_type())];
        steps.extend(text.as_bytes().chunks(size).map(chunk));
        steps.push(chunked_end());
        let reply = ask(wire, Way::Streamed, &LONG, steps).await.unwrap();
        assert_eq!((reply.text.as_str(), reply.finish, reply.model.as_str()), ("Grüße 日本", Finish::Stop, "served"));
        assert_eq!((reply.usage.input_tokens, reply.usage.output_tokens, reply.usage.estimated), (9, 4, false));
        assert!(reply.first_token.is_some_and(|it| it <= reply.elapsed));
    }
}

async fn streamed_connections_are_used_again(wire: &dyn Wire) {
    let (head, text) = (wire.stream_type(), stream(wire, &["a"], None));
    let server = FaultServer::start(move |_| vec![chunked_head(head), chunk(&text), chunked_end()]).await;
    let models = models_of(wire, Way::Streamed, server.port, &LONG, "");
    for _ in 0..3 {
        models.chat(&alias(), &question()).await.unwrap();
    }
    assert!(server.received().iter().all(|it| it.connection == 0 && it.body["stream"] == true));
}

async fn a_stream_without_its_last_line(wire: &dyn Wire) {
    let text = stream(wire, &["all ", "there"], None).replace("data: [DONE]\n\n", "");
    let reply = ask(wire, Way::Streamed, &LONG, vec![chunked_head(wire.stream_type()), chunk(&text), chunked_end()])
        .await
        .unwrap();
    assert_eq!(reply.text, "all there");
    // The last event may even lack its empty line.
    let steps = vec![chunked_head(wire.stream_type()), chunk(text.trim_end()), chunked_end()];
    assert_eq!(ask(wire, Way::Streamed, &LONG, steps).await.unwrap().text, "all there");
}

async fn a_stream_that_breaks_off(wire: &dyn Wire) {
    let piece = wire.piece("half");
    for end in [vec![chunked_end()], vec![Step::Close], vec![Step::Reset]] {
        let mut steps = vec![chunked_head(wire.stream_type()), chunk(&piece)];
        steps.extend(end);
        let error = ask(wire, Way::Streamed, &LONG, steps).await.unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), ("model.interrupted", true), "{error}");
    }
    let error =
        ask(wire, Way::Streamed, &LONG, vec![chunked_head(wire.stream_type()), chunked_end()]).await.unwrap_err();
    assert_eq!(error.code(), "model.bad_reply", "{error}");
}

async fn an_error_inside_a_stream(wire: &dyn Wire) {
    let mut events = vec![wire.error_event("the GPU is gone")];
    if wire.registry_type() != "ollama" {
        events.push("event: error\ndata: {\"message\": \"the GPU is gone\"}\n\n".to_owned());
    }
    for event in events {
        let steps = vec![chunked_head(wire.stream_type()), chunk(wire.piece("half")), chunk(event), Step::Hang];
        let error = ask(wire, Way::Streamed, &LONG, steps).await.unwrap_err();
        assert_eq!(error.code(), "model.upstream");
        assert!(error.to_string().contains("the GPU is gone"), "{error}");
    }
}

async fn usage_that_is_missing(wire: &dyn Wire) {
    for (way, steps) in [
        (Way::Whole, vec![response("200 OK", JSON, "", whole(wire, "Hallo du", None))]),
        (
            Way::Streamed,
            vec![chunked_head(wire.stream_type()), chunk(stream(wire, &["Hallo du"], None)), chunked_end()],
        ),
        (Way::Whole, vec![response("200 OK", JSON, "", whole(wire, "Hallo du", Some([0; 4])))]),
    ] {
        let usage = ask(wire, way, &LONG, steps).await.unwrap().usage;
        assert!(usage.estimated && usage.input_tokens >= 8 && usage.output_tokens >= 2, "{usage:?}");
    }
}

async fn usage_that_can_not_be(wire: &dyn Wire) {
    for figure in ["18446744073709551615", "-1", "1e300", "99999999999999999999999", "\"many\"", "[1]"] {
        let usage = Some([777_777, 5, 0, 0]);
        let body = whole(wire, "fine", usage).replace("777777", figure);
        let events = stream(wire, &["fine"], usage).replace("777777", figure);
        for (way, steps) in [
            (Way::Whole, vec![response("200 OK", JSON, "", body)]),
            (Way::Streamed, vec![chunked_head(wire.stream_type()), chunk(events), chunked_end()]),
        ] {
            let error = ask(wire, way, &LONG, steps).await.unwrap_err();
            assert_eq!(error.code(), "model.bad_reply", "{figure}: {error}");
        }
    }
}

async fn errors_have_types(wire: &dyn Wire) {
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

async fn refusals(wire: &dyn Wire) {
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

async fn rate_limits_say_when(wire: &dyn Wire) {
    for (headers, expected) in [
        ("retry-after: 7\r\n", Some(Duration::from_secs(7))),
        ("retry-after-ms: 1500\r\n", Some(Duration::from_millis(1_500))),
        ("", None),
    ] {
        let steps = vec![response("429 Too Many Requests", JSON, headers, wire.error("slow", "some_code"))];
        assert_eq!(ask(wire, Way::Whole, &LONG, steps).await.unwrap_err().retry_after(), expected);
    }
}

fn assert_timeout(error: &Error, expected: Phase) {
    let Error::Timeout { phase, limit, .. } = error else { panic!("{error}") };
    assert_eq!((*phase, *limit), (expected, Duration::from_millis(120)));
    assert!(error.is_retryable() && error.outcome() == CallOutcome::Timeout && error.hint().is_some());
}

async fn a_hang_before_the_head(wire: &dyn Wire) {
    let limits = Limits { total: "120ms", ..LONG };
    assert_timeout(&ask(wire, Way::Whole, &limits, vec![Step::Hang]).await.unwrap_err(), Phase::Total);
    assert_timeout(&ask(wire, Way::Streamed, &limits, vec![Step::Hang]).await.unwrap_err(), Phase::Total);
    let limits = Limits { first_token: "120ms", ..LONG };
    assert_timeout(&ask(wire, Way::Streamed, &limits, vec![Step::Hang]).await.unwrap_err(), Phase::FirstToken);
}

async fn a_stall_in_the_body(wire: &dyn Wire) {
    let half = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"choices\"".to_vec();
    let limits = Limits { total: "120ms", ..LONG };
    let steps = vec![Step::Send(half), Step::Hang];
    assert_timeout(&ask(wire, Way::Whole, &limits, steps).await.unwrap_err(), Phase::Total);

    // Neither comments nor an empty first event are tokens.
    let limits = Limits { first_token: "120ms", ..LONG };
    let steps = vec![chunked_head(wire.stream_type()), chunk(": busy\n\n"), chunk(wire.piece("")), Step::Hang];
    assert_timeout(&ask(wire, Way::Streamed, &limits, steps).await.unwrap_err(), Phase::FirstToken);

    let limits = Limits { idle: "120ms", ..LONG };
    let steps = vec![chunked_head(wire.stream_type()), chunk(wire.piece("half")), Step::Hang];
    assert_timeout(&ask(wire, Way::Streamed, &limits, steps).await.unwrap_err(), Phase::Idle);
}

async fn a_reset_in_the_body(wire: &dyn Wire) {
    let half = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"choices\"".to_vec();
    for end in [Step::Reset, Step::Close] {
        let error = ask(wire, Way::Whole, &LONG, vec![Step::Send(half.clone()), end]).await.unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), ("model.interrupted", true), "{error}");
    }
    // Before the head as well.
    let error = ask(wire, Way::Whole, &LONG, vec![Step::Reset]).await.unwrap_err();
    assert_eq!(error.code(), "model.interrupted", "{error}");
}

async fn replies_that_are_too_large(wire: &dyn Wire) {
    let line = chunk("x".repeat(200 << 10));
    let mut steps = vec![chunked_head(wire.stream_type()), chunk(&wire.piece("begun")[..8])];
    steps.extend(vec![line; 6]);
    steps.push(Step::Hang);
    let error = ask(wire, Way::Streamed, &LONG, steps).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 1_048_576, .. }), "{error}");
    assert_eq!(error.outcome(), CallOutcome::Invalid);

    let huge = whole(wire, &"x".repeat(9 << 20), None);
    let error = ask(wire, Way::Whole, &LONG, vec![response("200 OK", JSON, "", &huge)]).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 2_097_152, .. }), "{error}");
    let mut steps = vec![chunked_head(JSON)];
    steps.extend(huge.as_bytes().chunks(1 << 20).map(chunk));
    steps.push(Step::Hang);
    let error = ask(wire, Way::Whole, &LONG, steps).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 2_097_152, .. }), "{error}");
    // Many small events count as well.
    let piece = wire.piece(&"y".repeat(100 << 10));
    let mut steps = vec![chunked_head(wire.stream_type())];
    steps.extend(vec![chunk(piece); 90]);
    steps.push(Step::Hang);
    let error = ask(wire, Way::Streamed, &LONG, steps).await.unwrap_err();
    assert_eq!(error.code(), "model.too_large", "{error}");
}

async fn replies_that_are_none(wire: &dyn Wire) {
    let mut not_utf8 = whole(wire, "@@", None).into_bytes();
    let at = not_utf8.iter().position(|it| *it == b'@').unwrap();
    not_utf8[at] = 0xff;
    for body in [
        not_utf8,
        wire.hollow().into(),
        b"".to_vec(),
        b"null".to_vec(),
        b"{\"choices\": 7}".to_vec(),
        b"{".to_vec(),
        b"<html>hello".to_vec(),
    ] {
        for way in [Way::Whole, Way::Streamed] {
            let error = ask(wire, way, &LONG, vec![response("200 OK", JSON, "", &body)]).await.unwrap_err();
            let seen = (error.code(), error.outcome(), error.is_retryable());
            assert_eq!(seen, ("model.bad_reply", CallOutcome::Invalid, true), "{error}");
        }
    }
    let mut event = wire.piece("@@").into_bytes();
    let at = event.iter().position(|it| *it == b'@').unwrap();
    event[at] = 0xff;
    let error = ask(wire, Way::Streamed, &LONG, vec![chunked_head(wire.stream_type()), chunk(event), Step::Hang])
        .await
        .unwrap_err();
    assert_eq!(error.code(), "model.bad_reply", "{error}");
    let error = ask(wire, Way::Whole, &LONG, vec![response("200 OK", JSON, "", wire.error("overloaded", "some_code"))])
        .await
        .unwrap_err();
    assert_eq!(error.code(), "model.upstream", "{error}");
}

async fn content_types_that_are_wrong(wire: &dyn Wire) {
    // Streaming was asked for, but a whole answer came; the other way round; and both under a false name.
    let (whole, events) = (whole(wire, "fine", None), stream(wire, &["fi", "ne"], None));
    for (way, content_type, body) in [
        (Way::Streamed, JSON, &whole),
        (Way::Streamed, wire.stream_type(), &whole),
        (Way::Streamed, "text/plain", &whole),
        (Way::Whole, wire.stream_type(), &events),
        (Way::Whole, "text/plain", &events),
        (Way::Streamed, JSON, &events),
    ] {
        let reply = ask(wire, way, &LONG, vec![response("200 OK", content_type, "", body)]).await.unwrap();
        assert_eq!((reply.text.as_str(), reply.finish), ("fine", Finish::Stop));
    }
}

async fn nobody_listens(wire: &dyn Wire) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = models_of(wire, Way::Whole, port, &LONG, "").chat(&alias(), &question()).await.unwrap_err();
    assert_eq!((error.code(), error.kind(), error.is_retryable()), ("model.unreachable", ErrorKind::Unavailable, true));
    let hint = error.hint().unwrap();
    assert!(hint.contains(&format!("start the server at `http://127.0.0.1:{port}{}`", wire.base_path())), "{hint}");
}

async fn a_dropped_call_closes_its_connection(wire: &dyn Wire) {
    for steps in [vec![Step::Hang], vec![chunked_head(wire.stream_type()), chunk(wire.piece("half")), Step::Hang]] {
        let server = FaultServer::start(move |_| steps.clone()).await;
        let models = models_of(wire, Way::Streamed, server.port, &LONG, "");
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

async fn concurrency_is_bounded(wire: &dyn Wire) {
    let body = whole(wire, "ok", None);
    let server =
        FaultServer::start(move |_| vec![Step::Pause(Duration::from_millis(30)), response("200 OK", JSON, "", &body)])
            .await;
    let models = models_of(wire, Way::Whole, server.port, &LONG, ", limits: {concurrency: 2}");
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
    ($($module:ident $wire:ident)*: $tests:tt) => {
        $(conformance! { @ $module $wire $tests })*
    };
    (@ $module:ident $wire:ident { $($test:ident)* }) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test(&super::$wire).await;
                }
            )*
        }
    };
}

conformance! {
    openai_compatible ChatCompletions openai_responses Responses anthropic Messages ollama OllamaChat:
    {
        plain with_schema a_schema_in_words_is_repaired_once tools_are_called tools_can_be_demanded ends_have_reasons
        a_listener_hears_the_pieces vectors streamed streamed_connections_are_used_again a_stream_that_breaks_off
        an_error_inside_a_stream usage_that_is_missing usage_that_can_not_be errors_have_types refusals rate_limits_say_when
        a_hang_before_the_head a_stall_in_the_body a_reset_in_the_body replies_that_are_too_large replies_that_are_none
        content_types_that_are_wrong nobody_listens a_dropped_call_closes_its_connection concurrency_is_bounded
    }
}

#[tokio::test]
async fn streams_may_lack_their_last_line() {
    a_stream_without_its_last_line(&ChatCompletions).await;
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
        (r#"{"content":"a"}"#, "something new", ("a", Finish::Other)),
    ] {
        let body = format!(r#"{{"choices":[{{"message":{message},"finish_reason":"{finish}"}}]}}"#);
        let reply = ask(&ChatCompletions, Way::Whole, &LONG, vec![response("200 OK", JSON, "", body)]).await.unwrap();
        assert_eq!((reply.text.as_str(), reply.finish), expected, "{message}");
        let event = format!("data: {{\"choices\":[{{\"delta\":{message},\"finish_reason\":\"{finish}\"}}]}}\n\n");
        let steps = vec![chunked_head(ChatCompletions.stream_type()), chunk(event), chunked_end()];
        let reply = ask(&ChatCompletions, Way::Streamed, &LONG, steps).await.unwrap();
        assert_eq!((reply.text.as_str(), reply.finish), expected, "{message}");
    }
}

/// Anthropic models answer a schema by a tool; what it is called with is the answer.
#[tokio::test]
async fn a_schema_as_a_tool() {
    let schema = OutputSchema { name: "plan".into(), schema: serde_json::json!({"type": "object"}) };
    let request = ChatRequest { schema: Some(Arc::new(schema)), ..question() };
    for arguments in [r#"{"a":[1,"ü"]}"#, "{}"] {
        let calls = [("id", "crewline_answer", arguments)];
        let answer = Wired { calls: &calls, ..Wired::default() };
        let steps = [
            vec![response("200 OK", JSON, "", Messages.whole(&answer))],
            vec![chunked_head(Messages.stream_type()), chunk(Messages.stream(&[], &answer)), chunked_end()],
        ];
        for steps in steps {
            let server = FaultServer::start(move |_| steps.clone()).await;
            let models = models_of(&Messages, Way::Whole, server.port, &LONG, "");
            let reply = models.chat(&alias(), &request).await.unwrap();
            assert_eq!((reply.text.as_str(), reply.finish), (arguments, Finish::Stop));
            assert_eq!(reply.tool_calls, []);
        }
    }
}

#[tokio::test]
async fn a_call_without_a_name_is_no_call() {
    let body = r#"{"choices":[{"message":{"content":null,"tool_calls":[{"id":"1"}]},"finish_reason":"tool_calls"}]}"#;
    let error = ask(&ChatCompletions, Way::Whole, &LONG, vec![response("200 OK", JSON, "", body)]).await.unwrap_err();
    assert_eq!(error.code(), "model.bad_reply", "{error}");
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
    let models = models_of(&ChatCompletions, Way::Whole, address.port(), &LONG, "");
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
    let server = FaultServer::start(move |number| match number {
        0 => vec![response("200 OK", JSON, "", body)],
        1 => vec![response("404 Not Found", JSON, "", "")],
        2 => vec![response("401 Unauthorized", JSON, "", "")],
        _ => vec![response("200 OK", "text/html", "", "<html>")],
    })
    .await;
    let models = models_of(&ChatCompletions, Way::Whole, server.port, &LONG, "");
    let listed = models.list("p").await.unwrap();
    let listed: Vec<_> = listed.iter().map(|it| (it.id.as_str(), it.context_window)).collect();
    assert_eq!(listed, [("a", Some(4_096)), ("b", Some(2_048)), ("c", None)]);
    assert_eq!(models.list("p").await.unwrap(), []);
    assert_eq!(models.list("p").await.unwrap_err().kind(), ErrorKind::Auth);
    assert_eq!(models.list("p").await.unwrap_err().code(), "model.unreachable");
    assert_eq!(models.list("x").await.unwrap_err().code(), "model.unknown_provider");
    assert!(server.received()[0].head.starts_with("GET /v1/models "));
}

/// Another registry is taken at once; calls under way end with the one they began with.
#[tokio::test]
async fn a_registry_is_exchanged_under_calls() {
    let body = whole(&ChatCompletions, "fine", None);
    let pause = Step::Pause(Duration::from_millis(200));
    let server = FaultServer::start(move |_| vec![pause.clone(), response("200 OK", JSON, "", &body)]).await;
    let registry = |model: &str, alias: &str| {
        let text = format!(
            "version: 1\nproviders:\n  p: {{type: openai_compatible, base_url: \"http://127.0.0.1:{}/v1\"}}\nmodels:\n  \
             {alias}: {{provider: p, model: {model}, context_window: 1000, limits: {{concurrency: 1}}}}\n\
             roles:\n  default: {{chain: [{alias}]}}\n",
            server.port
        );
        Arc::new(Registry::parse(&text, "test", &|_| None).unwrap())
    };
    let models = Models::new(registry("old", "m"), Options::default()).unwrap();
    let other = models.clone();
    let (alias, question) = (alias(), question());
    let call = other.chat(&alias, &question);
    let exchange = async {
        server.wait_for_requests(1).await;
        models.reload(registry("new", "m")).unwrap();
        // The one place is still taken by the call under way.
        models.chat(&alias, &question).await.unwrap();
    };
    let (first, ()) = tokio::join!(call, exchange);
    assert_eq!(first.unwrap().text, "fine");
    let asked: Vec<_> = server.received().iter().map(|it| (it.body["model"].clone(), it.connection)).collect();
    assert_eq!(asked, [("old".into(), 0), ("new".into(), 0)], "the provider did not change, so its connection stays");
    models.reload(registry("new", "n")).unwrap();
    assert_eq!(other.chat(&alias, &question).await.unwrap_err().code(), "model.unknown");
    assert_eq!(other.registry().models().count(), 1);
}

/// A key goes to its provider's origin only, whatever the provider answers.
#[tokio::test]
async fn redirects_are_not_followed() {
    let thief = FaultServer::start(|_| vec![response("200 OK", JSON, "", "{}")]).await;
    for wire in WIRES {
        for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"] {
            let location = format!("location: http://127.0.0.1:{}/v1\r\n", thief.port);
            let server = FaultServer::start(move |_| vec![response(status, JSON, &location, "{}")]).await;
            let models = models_of(wire, Way::Whole, server.port, &LONG, "");
            models.chat(&alias(), &question()).await.unwrap_err();
            models.list("p").await.unwrap_err();
            models.embed(&alias(), &["a"]).await.unwrap_err();
            models.runtime("p").await.unwrap_err();
            models.load("p", "m", LoadOptions::default()).await.unwrap_err();
            assert!(!server.received().is_empty());
        }
    }
    assert_eq!(thief.received().len(), 0);
}
