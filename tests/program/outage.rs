//! All models of a chain down: tasks wait, seldom ask, and go on when a model is back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crewline_testkit::{Gate, Script, StubReply, StubServer, TestApp, app::finish, client, script::default_reply};
use serde_json::Value;

use crate::{app, fan, run_args, workers::wait_until};

/// A server that serves nobody while `is_down`.
fn server(is_down: &Arc<AtomicBool>) -> StubServer {
    let is_down = Arc::clone(is_down);
    StubServer::start(Script::new(move |request| {
        if is_down.load(Ordering::Relaxed) { StubReply::status(503) } else { default_reply(request) }
    }))
}

#[test]
fn a_run_waits_for_its_models_and_goes_on() {
    let is_down = Arc::new(AtomicBool::new(true));
    let server = server(&is_down);
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(6).to_string());
    let child = app.spawn(run_args(&["--plan", "plan.json"]));
    let show = || app.run(["ps", "-o", "json"]).expect_code(0).stdout;
    wait_until("a task that waits", || {
        let runs: Value = serde_json::from_str(&show()).unwrap();
        runs[0]["parked"] == 1
    });
    let run = crate::resume::only_run(&app);
    let shown = app.run(["show", &run]).expect_code(0).stdout;
    assert!(shown.contains("parked first") && shown.contains("`cheap`, `strong`"), "{shown}");
    let tree = app.run(["tree", &run]).expect_code(0).stdout;
    assert!(tree.contains("parked: waits for `cheap`, `strong`"), "{tree}");

    let calls = server.calls();
    wait_until("another call", || server.calls() > calls);
    is_down.store(false, Ordering::Relaxed);
    let ended = finish(child, TestApp::LIMIT).expect_code(0);
    assert_eq!(ended.events().last().unwrap()["tasks"]["completed"], 8);
    let parked = ended.events_of("task_parked");
    assert!(!parked.is_empty());
    assert_eq!(parked[0]["models"], serde_json::json!(["cheap", "strong"]));
    assert!(parked[0]["error"]["code"].as_str().unwrap().starts_with("model."), "{}", parked[0]);
    assert!(ended.events_of("task_failed").is_empty(), "waiting is no failure");

    // Far below a call a second, whatever the first attempt asked at once.
    let events = ended.events();
    let before = events.iter().take_while(|event| event["type"] != "task_parked");
    let asked = before.filter(|event| event["type"] == "model_call").count();
    let requests = server.requests();
    let waited = requests[asked].at.saturating_sub(requests[asked - 1].at);
    assert!(waited >= Duration::from_secs(5), "{asked} calls, and the next one {waited:?} after them");
}

#[test]
fn planning_waits_as_well_until_the_time_is_up() {
    let is_down = Arc::new(AtomicBool::new(true));
    let server = server(&is_down);
    let app = app();
    app.registry(&server);
    let run = app.run(run_args(&["Describe the tide", "--max-time", "4s"])).expect_code(7);
    assert_eq!(run.events().last().unwrap()["status"], "limit_reached");
    assert_eq!(run.events_of("task_parked").len(), 1, "{}", run.stdout);
    assert!(server.calls() <= 5, "it asked {} times", server.calls());
}

#[test]
fn who_waits_too_long_fails() {
    let is_down = Arc::new(AtomicBool::new(true));
    let server = server(&is_down);
    let app = app();
    app.write("crewline.yaml", &format!("{}policies: {{outage_max: 1s}}\n", server.registry()));
    app.write("plan.json", &fan(1).to_string());
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(6);
    let failed = run.events_of("task_failed");
    assert_eq!((failed.len(), &failed[0]["will_retry"]), (1, &false.into()), "{}", run.stdout);
}

#[test]
fn a_server_that_goes_away_and_comes_back_loses_nothing() {
    let port = client::free_port().unwrap();
    // Two calls are under way when their server goes.
    let first = StubServer::start_on(port, Script::default().behind(&Gate::after(2))).unwrap();
    let app = app();
    app.registry(&first);
    app.write("plan.json", &fan(12).to_string());
    let child = app.spawn(run_args(&["--plan", "plan.json", "--concurrency", "2"]));
    crate::resume::wait_for_calls(&first, 4);
    drop(first);
    wait_until("a task that waits", || {
        let runs: Value = serde_json::from_str(&app.run(["ps", "-o", "json"]).expect_code(0).stdout).unwrap();
        runs[0]["parked"].as_u64() >= Some(1)
    });
    let second = StubServer::start_on(port, Script::default()).unwrap();
    let ended = finish(child, TestApp::LIMIT).expect_code(0);
    assert_eq!(ended.events().last().unwrap()["tasks"]["completed"], 14);
    assert!(second.calls() >= 10);
}
