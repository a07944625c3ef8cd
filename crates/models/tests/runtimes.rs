//! Local servers that keep several models: what is asked of them, and what their answers mean.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use crewline_models::{
    Models, Options, Registry,
    runtimes::{LoadOptions, LoadState, RuntimeKind},
};
use crewline_testkit::{
    FaultServer,
    fault::{Step, chunk, chunked_end, chunked_head, response},
};

const JSON: &str = "application/json";

fn models(kind: &str, port: u16, path: &str) -> Models {
    let text = format!(
        "version: 1\nproviders:\n  p: {{type: {kind}, base_url: \"http://127.0.0.1:{port}{path}\"}}\nmodels:\n  \
         m: {{provider: p, model: m, context_window: 1000}}\nroles:\n  default: {{chain: [m]}}\n"
    );
    Models::new(Arc::new(Registry::parse(&text, "test", &|_| None).unwrap()), Options::default()).unwrap()
}

fn ok(body: &str) -> Vec<Step> {
    vec![response("200 OK", JSON, "", body)]
}

fn not_found() -> Vec<Step> {
    vec![response("404 Not Found", JSON, "", r#"{"error":"model 'x' not found"}"#)]
}

#[tokio::test]
async fn ollama() {
    let server = FaultServer::answering(|_, asked| match asked.line() {
        "GET /api/tags" => ok(r#"{"models":[{"name":"a:8b","size":4700000000},{"name":"b"}]}"#),
        "GET /api/ps" => ok(
            r#"{"models":[{"name":"a:8b","size":6000000000,"size_vram":5000000000,"expires_at":"2026-01-01T00:00:00Z","context_length":8192}]}"#,
        ),
        "POST /api/generate" if asked.body["model"] == "a:8b" => ok(r#"{"done":true}"#),
        "POST /api/pull" if asked.body["model"] == "good" => vec![
            chunked_head("application/x-ndjson"),
            chunk("{\"status\":\"pulling\",\"total\":10,\"completed\":4}\n{\"status\":"),
            chunk("\"success\"}\n"),
            chunked_end(),
        ],
        "POST /api/pull" if asked.body["model"] == "half" => {
            vec![chunked_head("application/x-ndjson"), chunk("{\"status\":\"pulling\"}\n"), chunked_end()]
        }
        "POST /api/pull" => ok(r#"{"error":"pull model manifest: file does not exist"}"#),
        _ => not_found(),
    })
    .await;
    let models = models("ollama", server.port, "");
    let status = models.runtime("p").await.unwrap();
    assert_eq!(status.kind, RuntimeKind::Ollama);
    let [a, b] = status.models.as_slice() else { panic!("{status:?}") };
    assert_eq!((a.state, a.memory_bytes, a.vram_bytes), (LoadState::Loaded, Some(6_000_000_000), Some(5_000_000_000)));
    assert_eq!((a.context_window, a.size_bytes), (Some(8_192), Some(4_700_000_000)));
    assert_eq!((b.state, b.size_bytes), (LoadState::Unloaded, None));

    let options = LoadOptions { context_window: Some(16_384), keep_alive: Some(Duration::from_mins(30)) };
    models.load("p", "a:8b", options).await.unwrap();
    models.unload("p", "a:8b").await.unwrap();
    let bodies: Vec<_> = server.received().iter().skip(2).map(|it| it.body.clone()).collect();
    assert_eq!((&bodies[0]["keep_alive"], &bodies[0]["options"]["num_ctx"]), (&"1800s".into(), &16_384.into()));
    assert_eq!(bodies[1]["keep_alive"], 0);
    let error = models.load("p", "x", LoadOptions::default()).await.unwrap_err();
    assert_eq!(error.code(), "model.not_found");

    let heard = Mutex::new(Vec::new());
    models.pull("p", "good", &|progress| heard.lock().unwrap().push(progress)).await.unwrap();
    let heard = heard.into_inner().unwrap();
    assert_eq!((heard[0].completed, heard[0].total, heard[1].status.as_str()), (Some(4), Some(10), "success"));
    for (model, text) in [("half", "before it was whole"), ("bad", "does not exist")] {
        let error = models.pull("p", model, &|_| {}).await.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[tokio::test]
async fn lm_studio() {
    let server = FaultServer::answering(|_, asked| match asked.line() {
        "GET /api/v1/models" => ok(r#"{"models":[
                {"type":"llm","key":"org/a","size_bytes":5,"max_context_length":131072,
                 "loaded_instances":[{"id":"org/a","config":{"context_length":4096}},{"id":"org/a:2","config":{}}]},
                {"type":"llm","key":"org/b","size_bytes":6,"max_context_length":32768,"loaded_instances":[]}]}"#),
        "POST /api/v1/models/load" => ok(r#"{"status":"loaded","instance_id":"org/b"}"#),
        "POST /api/v1/models/unload" => ok("{}"),
        _ => not_found(),
    })
    .await;
    let models = models("openai_compatible", server.port, "/v1");
    let status = models.runtime("p").await.unwrap();
    assert_eq!(status.kind, RuntimeKind::LmStudio);
    let seen: Vec<_> = status.models.iter().map(|it| (it.id.as_str(), it.state, it.context_window)).collect();
    assert_eq!(seen, [("org/a", LoadState::Loaded, Some(4_096)), ("org/b", LoadState::Unloaded, Some(32_768))]);
    let options = LoadOptions { context_window: Some(8_192), keep_alive: None };
    models.load("p", "org/b", options).await.unwrap();
    // What is loaded is not loaded a second time.
    models.load("p", "org/a", options).await.unwrap();
    models.unload("p", "org/a").await.unwrap();
    let posts: Vec<_> =
        server.received().into_iter().filter(|it| it.line().starts_with("POST")).map(|it| it.body).collect();
    let expected = serde_json::json!([
        {"model": "org/b", "context_length": 8_192}, {"instance_id": "org/a"}, {"instance_id": "org/a:2"}
    ]);
    assert_eq!(serde_json::Value::from(posts), expected);
    assert_eq!(models.pull("p", "x", &|_| {}).await.unwrap_err().code(), "model.unsupported");
}

#[tokio::test]
async fn llama_cpp_in_router_mode() {
    let looks = Mutex::new(0);
    let server = FaultServer::answering(move |_, asked| match asked.line() {
        "GET /models" => {
            let mut looks = looks.lock().unwrap();
            *looks += 1;
            let state = if *looks < 5 { "loading" } else { "loaded" };
            ok(&format!(
                r#"{{"data":[{{"id":"a","status":{{"value":"{state}","args":[]}}}},{{"id":"b","status":{{"value":"unloaded","failed":true}}}}]}}"#
            ))
        }
        "POST /models/load" | "POST /models/unload" => ok(r#"{"success":true}"#),
        _ => not_found(),
    })
    .await;
    let models = models("openai_compatible", server.port, "/v1");
    let status = models.runtime("p").await.unwrap();
    assert_eq!(status.kind, RuntimeKind::LlamaCpp);
    let seen: Vec<_> = status.models.iter().map(|it| (it.id.as_str(), it.state)).collect();
    assert_eq!(seen, [("a", LoadState::Loading), ("b", LoadState::Unloaded)]);
    models.load("p", "a", LoadOptions::default()).await.unwrap();
    assert!(models.load("p", "b", LoadOptions::default()).await.unwrap_err().to_string().contains("cannot be loaded"));
    models.unload("p", "a").await.unwrap();
}

#[tokio::test]
async fn anything_else_lists_its_models() {
    let server = FaultServer::answering(|_, asked| match asked.line() {
        "GET /v1/models" => ok(r#"{"data":[{"id":"a","max_model_len":4096}]}"#),
        // A server with one model has the list here as well, without a status.
        "GET /models" => ok(r#"{"data":[{"id":"a"}]}"#),
        _ => not_found(),
    })
    .await;
    let models = models("openai_compatible", server.port, "/v1");
    let status = models.runtime("p").await.unwrap();
    assert_eq!((status.kind, status.models.len()), (RuntimeKind::Other, 1));
    assert_eq!((status.models[0].state, status.models[0].context_window), (LoadState::Unknown, Some(4_096)));
    let error = models.load("p", "a", LoadOptions::default()).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("model.unsupported", false));
    assert_eq!(models.runtime("x").await.unwrap_err().code(), "model.unknown_provider");
}
