//! The door itself: connecting, staying offline, keys, lists, another registry, redirects.

use std::{sync::Arc, time::Duration};

use crewline_models::{Mode, Models, Options, Phase, Registry, Tally, runtimes::LoadOptions};
use crewline_testkit::{
    FaultServer,
    fault::{Step, response},
    wire::{ChatCompletions, WIRES},
};
use crewline_types::{ErrorKind, HostBytes, Traffic};

use crate::common::{JSON, LONG, Limits, Way, alias, assert_timeout, models_of, question, whole};

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

/// What passes is told however a call ends; what was not sent is not.
#[tokio::test]
async fn bytes_are_counted_however_a_call_ends() {
    let body = whole(&ChatCompletions, "fine", None);
    let size = body.len() as u64;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"id\"";
    let server = FaultServer::start(move |number| match number {
        0 => vec![response("200 OK", JSON, "", &body)],
        1 => vec![response("500 Oops", JSON, "", "{}")],
        _ => vec![Step::Send(head.into()), Step::Hang],
    })
    .await;
    let tally = Tally::default();
    let models_of = |limits, port| models_of(&ChatCompletions, Way::Whole, port, limits, "").tallied(tally.clone());
    let models = models_of(&LONG, server.port);
    let passed = |received| {
        let sent = "/v1/chat/completions".len() + server.received().last().unwrap().body.to_string().len();
        Traffic::from_iter([("127.0.0.1".into(), HostBytes { sent: sent as u64, received })])
    };
    models.chat(&alias(), &question()).await.unwrap();
    assert_eq!(tally.take(), passed(size));
    models.chat(&alias(), &question()).await.unwrap_err();
    assert_eq!(tally.take(), passed("{}".len() as u64));
    let hasty = models_of(&Limits { total: "120ms", ..LONG }, server.port);
    assert_timeout(&hasty.chat(&alias(), &question()).await.unwrap_err(), Phase::Total);
    assert_eq!(tally.take(), passed("{\"id\"".len() as u64));
    models.list("p").await.unwrap_err();
    assert!(tally.take().is_empty(), "it is nobody's call");

    let nobody = models_of(&LONG, 1);
    assert_eq!(nobody.chat(&alias(), &question()).await.unwrap_err().code(), "model.unreachable");
    assert!(tally.take().is_empty(), "nothing was sent");
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
