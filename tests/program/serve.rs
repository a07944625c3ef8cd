//! `serve` and `--metrics-addr`: health, readiness, metrics, and a run over HTTP.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use crewline_testkit::{Gate, Script, StubServer, TestApp, app::finish, client};
use serde_json::{Value, json};

use crate::app;

pub(crate) fn free_port() -> u16 {
    client::free_port().unwrap()
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
    for way in ["egress", "ingress"] {
        let series = format!("crewline_{way}_bytes_total{{host_class=\"loopback\",host=\"127.0.0.1\"}}");
        assert!(metrics.contains(&series), "{metrics}");
    }
    let (_, detail) = get(port, &format!("/api/v1/runs/{id}")).unwrap();
    assert!(detail.contains(r#""hosts":[{"host":"127.0.0.1","host_class":"loopback","sent_bytes":"#), "{detail}");
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
    let gate = Gate::after(1);
    let server = StubServer::start(Script::default().behind(&gate).latency(Duration::from_millis(300)));
    let app = app();
    app.registry(&server);
    let port = free_port();
    let child = app.spawn(["serve", "--addr", &format!("127.0.0.1:{port}")]);
    wait_until_ready(port);
    let body = serde_json::json!({"goal": "A fan", "plan": crate::fan(100), "concurrency": 2}).to_string();
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
    gate.open();
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

/// Asks the server and reads the answer as JSON.
pub(crate) fn ask(port: u16, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!("{method} /api/v1{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    let length = body.len();
    let request = format!("{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}");
    let (status, answer) = http(port, &request).unwrap();
    // A long answer comes in pieces, whose lengths stand on lines of their own.
    let text: String =
        answer.lines().filter(|line| line.len() > 8 || !line.chars().all(|c| c.is_ascii_hexdigit())).collect();
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

#[test]
fn tasks_contexts_and_the_index_over_http() {
    let stub = StubServer::start(Script::text("# Made\n\nwords-of-it\n"));
    let app = app();
    app.registry(&stub);
    let plan = json!({"goal": "Two", "tasks": [
        {"id": "a", "title": "Task a", "role": "writer"}, {"id": "b", "title": "Task b", "role": "writer", "depends_on": ["a"]}]});
    app.write("plan.json", &plan.to_string());
    let made = app.run(["plan", "plan.json", "-o", "json"]).expect_code(0);
    let made: Value = serde_json::from_str(&made.stdout).unwrap();
    let run = format!("/runs/{}", made["run"].as_str().unwrap());
    let port = free_port();
    let child = app.spawn(["serve", "--addr", &format!("127.0.0.1:{port}")]);
    wait_until_ready(port);
    let ok = |method: &str, path: &str, body: Value| -> Value {
        let (status, answer) = ask(port, method, &format!("{run}{path}"), &body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer:#}");
        answer
    };
    let refused = |method: &str, path: &str, body: Value| -> (u16, String) {
        let (status, answer) = ask(port, method, &format!("{run}{path}"), &body);
        (status, answer["code"].as_str().unwrap_or_default().to_owned())
    };

    // Written, linked, taken and completed.
    let fields = json!({"title": "Task c", "priority": "high", "deadline": "2020-01-01T00:00:00Z"});
    ok("POST", "/tasks", json!({"key": "c", "fields": fields, "requires": ["a"], "by": "ada"}));
    assert_eq!(ok("GET", "/tasks/c", Value::Null)["overdue"], true);
    ok("PATCH", "/tasks/c", json!({"fields": {"title": "Task sea"}}));
    ok("POST", "/links", json!({"from": "b", "to": "c", "kind": "refers"}));
    assert_eq!(ok("GET", "/links", Value::Null).as_array().unwrap().len(), 3);
    assert_eq!(refused("POST", "/links", json!({"from": "a", "to": "b"})), (422, "task.circle".into()));
    assert_eq!(refused("POST", "/links", json!({"from": "a", "to": "b", "kind": "x"})).0, 422);
    ok("DELETE", "/links?from=b&to=c", Value::Null);
    let run_id = made["run"].as_str().unwrap();
    let next = ask(port, "GET", &format!("/next?run={run_id}"), &Value::Null).1;
    assert_eq!(next["task"]["key"], "a");
    ok("POST", "/tasks/a/notes", json!({"text": "a start", "by": "ada"}));
    let changed = ok("POST", "/tasks/a/mark", json!({"status": "done", "result": "ZEBRA-42 is it.", "by": "ada"}));
    assert_eq!(changed["tasks"][0]["status"], "completed");
    assert_eq!(ok("GET", "/tasks/a", Value::Null)["notes"][0]["text"], "a start");
    assert_eq!(refused("POST", "/tasks/a/mark", json!({"status": "strange"})), (400, "api.invalid_body".into()));
    assert_eq!(refused("GET", "/tasks/no-such", Value::Null).0, 404);
    ok("POST", "/tasks/a/feedback", json!({"quality": 4, "timeliness": 5, "text": "sound", "by": "bo"}));
    assert_eq!(
        refused("POST", "/tasks/a/feedback", json!({"quality": 6, "timeliness": 5})),
        (422, "task.field".into())
    );
    assert_eq!(refused("POST", "/tasks/b/progress", json!({"percent": 101})), (422, "task.field".into()));
    ok("POST", "/tasks/b/progress", json!({"percent": 40, "text": "begun"}));
    assert_eq!(ok("GET", "/tasks/b", Value::Null)["progress"]["percent"], 40);
    assert_eq!(ok("GET", "/tasks/a", Value::Null)["feedback"][0]["agent"], "bo");
    ok("POST", "/tasks/c/move", json!({"before": "b"}));
    ok("POST", "/tasks/c/skip", json!({"text": "no need"}));

    // Looked at, decided on, approved.
    let preview = ok("POST", "/tasks/b/context/preview", json!({"budget": 4_000}));
    assert!(preview["text"].as_str().unwrap().contains("ZEBRA-42") && preview["tokens"].as_u64().unwrap() <= 4_000);
    assert_eq!(ok("POST", "/tasks/b/context/exclude", json!({"item": "siblings"}))["choice"], "exclude");
    assert_eq!(ok("POST", "/tasks/b/context/pin", json!({"item": "a"}))["choice"], "pin");
    let shown = ok("POST", "/tasks/b/context/preview", json!({}));
    let pinned = shown["items"].as_array().unwrap().iter().find(|item| item["tier"] == "pinned").unwrap();
    assert_eq!(pinned["kind"], "task_output");
    assert_eq!(ok("POST", "/tasks/b/context/approve", json!({"by": "ada"}))["approved"], true);
    assert_eq!(refused("POST", "/tasks/b/context/unpin", json!({"item": "a"})).0, 409);
    assert_eq!(ok("DELETE", "/tasks/b/context/approve", Value::Null)["revoked"], true);
    assert_eq!(ok("GET", "/tasks/b/context", Value::Null), json!([]));
    assert!(ok("GET", "/tasks/b/prompt", Value::Null)["messages"][1]["text"].as_str().unwrap().contains("Task b"));

    // INDEX.md.
    let before = ok("GET", "/index", Value::Null);
    let text = format!("# Rules\nBe kind.\n\n{}", before["body"].as_str().unwrap());
    let version = ok("PUT", "/index", json!({"text": text}))["version"].as_u64().unwrap();
    assert!(version > before["version"].as_u64().unwrap());
    assert_eq!(ok("GET", "/index/versions", Value::Null).as_array().unwrap().len() as u64, version);
    assert!(ok("GET", "/index", Value::Null)["body"].as_str().unwrap().starts_with("# Rules"));
    let deleted = ok("DELETE", "/tasks/b?unlink=true", Value::Null);
    assert!(deleted["tasks"].as_array().unwrap().iter().any(|task| task["status"] == "cancelled"));
    assert_eq!(stub.calls(), 0, "no model was asked");
    crate::signal(child.id(), "TERM");
    finish(child, TestApp::LIMIT).expect_code(0);
}
