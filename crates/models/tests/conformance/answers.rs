//! Answers: plain ones, ones that follow a schema, how they end, in pieces, and vectors.

use std::{sync::Arc, time::Duration};

use crewline_models::{ChatRequest, Finish, Listener, OutputSchema, Piece};
use crewline_testkit::{
    FaultServer,
    fault::{Step, chunk, chunked_end, chunked_head, response},
    wire::{End, Wire, Wired},
};
use crewline_types::Usage;

use crate::common::{JSON, KEY, LONG, Way, alias, ask, models_of, question, stream, whole};

pub(crate) async fn plain(wire: &dyn Wire) {
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

pub(crate) async fn with_schema(wire: &dyn Wire) {
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
pub(crate) async fn a_schema_in_words_is_repaired_once(wire: &dyn Wire) {
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

pub(crate) async fn ends_have_reasons(wire: &dyn Wire) {
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
            // Nobody counted it: what was cut at its limit was as long as that.
            let usage = reply.usage;
            assert!(
                usage.estimated && (usage.output_tokens >= 50) == (finish == Finish::Length),
                "{finish:?} {usage:?}"
            );
        }
    }
}

pub(crate) async fn a_listener_hears_the_pieces(wire: &dyn Wire) {
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

pub(crate) async fn vectors(wire: &dyn Wire) {
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
