//! `serve` and `--metrics-addr`: health, readiness, metrics, and a run over HTTP.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use crewline_testkit::{Script, StubServer, TestApp, app::finish};
use serde_json::Value;

use crate::app;

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn http(port: u16, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut status = String::new();
    reader.read_line(&mut status).unwrap();
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    let body = rest.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
    Some((status.split(' ').nth(1)?.parse().ok()?, body))
}

pub(crate) fn get(port: u16, path: &str) -> Option<(u16, String)> {
    http(port, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
}

/// Waits until the server at `port` takes work.
pub(crate) fn wait_until_ready(port: u16) {
    let is_ready = || get(port, "/readyz").is_some_and(|(status, _)| status == 200);
    crate::workers::wait_until("a server that is ready", is_ready);
}

#[test]
fn a_run_over_http() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let port = free_port();
    let child = app.spawn(["serve", "--addr", &format!("127.0.0.1:{port}")]);
    wait_until_ready(port);
    assert_eq!(get(port, "/healthz").unwrap().0, 200);

    let body = r#"{"goal": "Describe the tide"}"#;
    let (status, answer) = http(
        port,
        &format!("POST /api/v1/runs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
    )
    .unwrap();
    assert!((200..300).contains(&status), "{status} {answer}");
    let start = answer.find('{').unwrap();
    let end = answer.rfind('}').unwrap();
    let run: Value = serde_json::from_str(&answer[start..=end]).unwrap();
    let id = run["run"].as_str().unwrap().to_owned();
    let (status, events) = get(port, &format!("/api/v1/runs/{id}/events")).unwrap();
    assert_eq!(status, 200);
    assert!(events.contains("run_finished") && events.contains("completed"), "{events}");

    let (_, metrics) = get(port, "/metrics").unwrap();
    for name in [
        "crewline_runs_total",
        "crewline_tasks_total",
        "crewline_llm_requests_total",
        "crewline_llm_cost_usd_total",
        "crewline_store_commit_duration_seconds",
        "crewline_build_info",
    ] {
        assert!(metrics.contains(name), "{name} is missing in:\n{metrics}");
    }
    assert!(!metrics.contains(&id), "no id is a label");
    for line in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert_eq!(
            kind == "counter",
            name.ends_with("_total"),
            "counters end in _total, and nothing else does: {line}"
        );
    }
    let (status, problem) = get(port, "/api/v1/runs/zzzzzzzz").unwrap();
    assert_eq!(status, 404, "{problem}");

    std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    finish(child, TestApp::LIMIT);
}

#[test]
fn a_bind_outside_loopback_is_refused() {
    let app = app();
    let server = StubServer::start(Script::default());
    app.registry(&server);
    let run = app.run(["serve", "--addr", "0.0.0.0:0"]).expect_code(3);
    assert!(run.stderr.contains("loopback"), "{}", run.stderr);
}

pub(crate) fn post(port: u16, path: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let (status, answer) = http(port, &request).unwrap();
    let json = answer.find('{').zip(answer.rfind('}'));
    (status, json.map(|(start, end)| serde_json::from_str(&answer[start..=end]).unwrap()).unwrap_or_default())
}

#[test]
fn runs_are_stopped_over_http() {
    let server = StubServer::start(Script::default().latency(Duration::from_millis(300)));
    let app = app();
    app.registry(&server);
    let port = free_port();
    let child = app.spawn(["serve", "--addr", &format!("127.0.0.1:{port}")]);
    wait_until_ready(port);
    let body = serde_json::json!({"goal": "A fan", "plan": crate::fan(30), "concurrency": 2}).to_string();
    let (status, launched) = post(port, "/api/v1/runs", &body);
    assert_eq!(status, 201, "{launched}");
    let id = launched["run"].as_str().unwrap();
    let status_of = || {
        let (_, answer) = get(port, &format!("/api/v1/runs/{id}")).unwrap();
        let (start, end) = (answer.find('{').unwrap(), answer.rfind('}').unwrap());
        serde_json::from_str::<Value>(&answer[start..=end]).unwrap()["status"].as_str().unwrap().to_owned()
    };
    crate::resume::wait_for_calls(&server, 2);
    assert_eq!(post(port, &format!("/api/v1/runs/{id}/pause"), "").0, 202);
    let (_, events) = get(port, &format!("/api/v1/runs/{id}/events")).unwrap();
    assert!(events.contains("run_finished") && events.contains("interrupted"), "{events}");
    assert_eq!(status_of(), "interrupted");
    assert_eq!(post(port, &format!("/api/v1/runs/{}/kill", &id[..5]), "").0, 202);
    crate::workers::wait_until("the end of the run", || status_of() == "cancelled");
    for verb in ["pause", "cancel", "kill"] {
        let (status, problem) = post(port, &format!("/api/v1/runs/{id}/{verb}"), "");
        assert_eq!((status, &problem["code"]), (409, &"run.finished".into()), "{verb}");
        assert_eq!(post(port, &format!("/api/v1/runs/zzzzzzzz/{verb}"), "").0, 404);
    }
    crate::signal(child.id(), "TERM");
    finish(child, TestApp::LIMIT);
}
