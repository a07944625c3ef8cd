//! What a run sent to which host, and what it received: told to the byte, and kept through a crash.

use std::sync::atomic::{AtomicUsize, Ordering};

use crewline_testkit::{Script, StubReply, StubRequest, StubServer, TestApp, ToolServer, app::finish};
use serde_json::{Value, json};

use crate::{app, resume::only_run, run_args, signal, workers::wait_until};

/// The bytes of a request: its address and its body.
fn bytes(request: &StubRequest) -> u64 {
    ("/v1/chat/completions".len() + request.body.len()) as u64
}

/// The bytes of all requests that a server got.
pub(crate) fn sent_to(server: &StubServer) -> u64 {
    server.requests().iter().map(|it| bytes(it)).sum()
}

/// The hosts that `show` lists for a run.
pub(crate) fn hosts(app: &TestApp, run: &str) -> Vec<Value> {
    let shown = app.run(["show", run, "-o", "json"]).expect_code(0);
    serde_json::from_str::<Value>(&shown.stdout).unwrap()["hosts"].as_array().unwrap().clone()
}

#[test]
fn a_report_says_what_went_to_which_host() {
    let tools = ToolServer::start().unwrap();
    let text = "a word ".repeat(200);
    let said = text.clone();
    let server = StubServer::start(Script::new(move |request: &StubRequest| {
        if request.contains("Result of `") {
            return StubReply::json(&json!({"action": "final", "text": "It is done."}));
        }
        StubReply::json(&json!({"action": "s.echo", "arguments": {"text": said}}))
    }));
    let app = app();
    let role = "roles:\n  keeper: {tools: {\"s.*\": allow}}";
    let registry = server.registry().replace("roles:", role);
    let url = tools.url().replace("127.0.0.1", "localhost");
    app.write("crewline.yaml", &format!("{registry}mcp_servers:\n  s: {{url: \"{url}\"}}\n"));
    let task = json!({"id": "only", "title": "Only", "description": "Do it.", "role": "keeper", "depends_on": []});
    app.write("plan.json", &json!({"goal": "g", "tasks": [task]}).to_string());
    let run = app.run(run_args(&["--plan", "plan.json", "--offline"])).expect_code(0);
    assert_eq!(run.events_of("tool_call")[0]["outcome"], "ok");

    let report: Value = serde_json::from_str(&std::fs::read_to_string(app.path("out/report.json")).unwrap()).unwrap();
    let [models, server_of_tools] = &report["hosts"].as_array().unwrap()[..] else { panic!("{report:#}") };
    assert_eq!((&models["host"], &models["host_class"]), (&json!("127.0.0.1"), &json!("loopback")));
    assert_eq!(models["sent_bytes"], sent_to(&server));
    assert!(models["received_bytes"].as_u64().unwrap() > 2 * 100, "{models}");
    assert_eq!((&server_of_tools["host"], &server_of_tools["host_class"]), (&json!("localhost"), &json!("loopback")));
    for way in ["sent_bytes", "received_bytes"] {
        let bytes = usize::try_from(server_of_tools[way].as_u64().unwrap()).unwrap();
        assert!((text.len()..text.len() + 4_000).contains(&bytes), "the text went there and back: {server_of_tools}");
    }

    let id = run.events()[0]["run"].as_str().unwrap().to_owned();
    assert_eq!(json!(hosts(&app, &id)), report["hosts"]);
    let shown = app.run(["show", &id]).expect_code(0).stdout;
    let line = shown.lines().find(|line| line.starts_with("localhost")).unwrap_or_else(|| panic!("{shown}"));
    assert!(line.contains("loopback") && line.ends_with("kB"), "{shown}");
}

#[test]
fn who_was_not_reached_is_not_listed() {
    let server = StubServer::start(Script::default());
    let app = app();
    let gone = "  gone: {type: openai_compatible, base_url: \"http://127.0.0.2:9/v1\"}\n";
    let model = "  away: {provider: gone, model: m, context_window: 32768}\n";
    let registry = server.registry().replace("models:\n", &format!("{gone}models:\n{model}"));
    app.write("crewline.yaml", &registry.replace("chain: [cheap, strong]", "chain: [away, cheap]"));
    let run = app.run(run_args(&["Describe the tide"])).expect_code(0);
    assert!(run.events_of("model_call").iter().any(|it| it["model"] == "away"), "it was asked first");
    let id = run.events()[0]["run"].as_str().unwrap().to_owned();
    let hosts = hosts(&app, &id);
    assert_eq!((hosts.len(), &hosts[0]["host"]), (1, &json!("127.0.0.1")), "{hosts:?}");
    assert_eq!(hosts[0]["sent_bytes"], sent_to(&server));
}

#[test]
fn a_kill_neither_loses_nor_repeats_what_was_recorded() {
    let seen = AtomicUsize::new(0);
    let server = StubServer::start(Script::new(move |_: &StubRequest| {
        if seen.fetch_add(1, Ordering::SeqCst) == 1 { StubReply::hang() } else { StubReply::text("Done.") }
    }));
    let app = app();
    app.registry(&server);
    let task = |id: &str, needs: &[&str]| json!({"id": id, "title": id, "description": "Do it.", "role": "writer", "depends_on": needs});
    let tasks = [task("one", &[]), task("two", &["one"]), task("three", &["two"])];
    app.write("plan.json", &json!({"goal": "g", "tasks": tasks}).to_string());
    let child = app.spawn(run_args(&["--plan", "plan.json"]));
    wait_until("the second call", || server.calls() == 2);
    signal(child.id(), "KILL");
    assert_eq!(finish(child, TestApp::LIMIT).code, None);
    let id = only_run(&app);
    let before = hosts(&app, &id);
    assert_eq!(before[0]["sent_bytes"], bytes(&server.requests()[0]), "the end of the second call is not known");

    app.run(["resume", &id, "-o", "jsonl", "--out", "out", "--no-input"]).expect_code(0);
    let after = hosts(&app, &id);
    let lost = bytes(&server.requests()[1]);
    assert_eq!(after[0]["sent_bytes"], sent_to(&server) - lost);
    assert!(after[0]["received_bytes"].as_u64() > before[0]["received_bytes"].as_u64());
}
