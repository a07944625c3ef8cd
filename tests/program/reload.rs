//! A registry that changes while `serve` runs: the next run has it, a bad file is refused, what holds stays.

use crewline_testkit::{Script, StubServer, TestApp, app::finish};
use serde_json::{Value, json};

use crate::{
    app,
    serve::{free_port, get, post, wait_until_ready},
    workers::wait_until,
};

/// Makes a run over HTTP and answers the models that made its results.
fn models_of_a_run(port: u16) -> Vec<String> {
    let plan = json!({"goal": "g", "tasks": [
        {"id": "a", "title": "A", "description": "Say a word.", "role": "coder", "depends_on": []}]});
    let (status, launched) = post(port, "/api/v1/runs", &json!({"goal": "g", "plan": plan}).to_string());
    assert_eq!(status, 201, "{launched}");
    let run = launched["run"].as_str().unwrap();
    let (_, events) = get(port, &format!("/api/v1/runs/{run}/events")).unwrap();
    let events = events.lines().filter_map(|line| line.strip_prefix("data: "));
    let events = events.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    events.filter(|it| it["type"] == "task_completed").map(|it| it["model"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_changed_registry_holds_for_the_next_run() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let port = free_port();
    let child = app.spawn(["serve", "--addr", &format!("127.0.0.1:{port}"), "-v"]);
    wait_until_ready(port);
    let reloads = |outcome: &str| {
        let (_, metrics) = get(port, "/metrics").unwrap();
        let name = format!("crewline_registry_reloads_total{{outcome=\"{outcome}\"}} ");
        let count = metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok());
        count.unwrap_or_default()
    };
    assert_eq!(models_of_a_run(port), ["cheap"]);

    // By the file: seen without being told.
    let fast = server.registry().replace("chain: [cheap, strong]", "chain: [fast]").replace("  cheap:", "  fast:");
    app.write("crewline.yaml", &fast);
    wait_until("the new registry", || reloads("applied") == 1);
    assert_eq!(models_of_a_run(port), ["fast"]);

    // A bad one is refused, and what held is still served.
    app.write("crewline.yaml", &fast.replace("chain: [fast]", "chain: [nobody]"));
    wait_until("the refusal", || reloads("refused") == 1);
    assert_eq!(models_of_a_run(port), ["fast"]);
    let (status, problem) = post(port, "/api/v1/registry/reload", "");
    assert_eq!((status, &problem["code"]), (422, &json!("registry.invalid")), "{problem}");
    assert!(problem["errors"][0]["line"].as_u64() > Some(0), "{problem}");
    assert!(problem["errors"][0]["message"].as_str().unwrap().contains("nobody"), "{problem}");
    assert_eq!(models_of_a_run(port), ["fast"]);

    // When asked over HTTP: at once.
    app.write("crewline.yaml", &fast.replace("chain: [fast]", "chain: [strong]"));
    let (status, reloaded) = post(port, "/api/v1/registry/reload", "");
    assert_eq!(status, 200, "{reloaded}");
    let paths: Vec<&str> =
        reloaded["differences"].as_array().unwrap().iter().filter_map(|it| it["path"].as_str()).collect();
    assert_eq!(paths, ["roles.default.chain", "roles.manager.chain"]);
    assert_eq!(models_of_a_run(port), ["strong"]);

    // By a signal, which must not end the process.
    let before = reloads("applied") + reloads("unchanged");
    crate::signal(child.id(), "HUP");
    wait_until("the signal", || reloads("applied") + reloads("unchanged") > before);
    assert_eq!(models_of_a_run(port), ["strong"]);

    crate::signal(child.id(), "TERM");
    let ended = finish(child, TestApp::LIMIT);
    assert!(ended.stderr.contains("crewline.yaml:") && ended.stderr.contains("nobody"), "{}", ended.stderr);
}
