//! The main job: a goal in, documents out.

use std::fs;

use crewline_testkit::{Gate, Script, StubReply, StubServer, TestApp, app::finish};
use serde_json::{Value, json};

use crate::{app, fan, run_args, workers::wait_until};

#[test]
fn a_slow_task_holds_up_nothing_beside_it() {
    let gate = Gate::after(0);
    let script = Script::default().on_text("# Your task: slow\n", StubReply::text("At last.").behind(&gate));
    let server = StubServer::start(script);
    let app = app();
    app.registry(&server);
    let task = |id: &str, needs: &[&str]| json!({"id": id, "title": id, "description": id, "role": "writer", "depends_on": needs});
    let mut tasks = vec![task("slow", &[]), task("f0", &[])];
    tasks.extend((1..8).map(|n| task(&format!("f{n}"), &[&format!("f{}", n - 1)])));
    tasks.push(task("last", &["slow", "f7"]));
    app.write("plan.json", &json!({"goal": "g", "tasks": tasks}).to_string());
    let child = app.spawn(run_args(&["--plan", "plan.json", "--concurrency", "2"]));
    let id =
        || serde_json::from_str::<Value>(&app.run(["ps", "--all", "-o", "json"]).stdout).unwrap()[0]["run"].clone();
    // All of the other branch is made, one after the other, while the slow one is not answered.
    wait_until("the fast branch", || server.calls() == 9);
    let shown = || {
        let shown = app.run(["show", id().as_str().unwrap(), "-o", "json"]).expect_code(0);
        serde_json::from_str::<Value>(&shown.stdout).unwrap()
    };
    wait_until("its results", || shown()["counts"]["completed"] == 8);
    assert_eq!((server.calls(), &shown()["counts"]["in_progress"]), (9, &json!(1)), "the last one needs both");
    gate.open();
    finish(child, TestApp::LIMIT).expect_code(0);
    assert_eq!(server.calls(), 10);
}

#[test]
fn a_goal_becomes_documents() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let run = app.run(run_args(&["Describe the tide"])).expect_code(0);

    let events = run.events();
    assert_eq!(events[0]["type"], "run_started");
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["status"]), (&"run_finished".into(), &"completed".into()));
    // The stub plans three tasks; the document is written from them by a fourth.
    assert_eq!(last["tasks"]["completed"], 4);
    assert_eq!(last["tasks"]["total"], 4);
    assert_eq!(server.calls(), 5, "one to plan, one a task, one for the document");
    for (seq, event) in (1..).zip(&events) {
        assert_eq!(event["seq"], seq, "seq has no gaps");
        assert_eq!(event["run"], last["run"]);
    }
    let position = |kind: &str| events.iter().position(|it| it["type"] == kind).unwrap();
    assert!(position("plan_ready") < position("task_started"));
    assert!(position("task_started") < position("task_completed"));
    assert_eq!(run.events_of("task_completed").len(), 4);
    assert_eq!(run.events_of("model_call").len(), 5);

    let result = fs::read_to_string(app.path("out/RESULT.md")).unwrap();
    assert!(!result.trim().is_empty());
    assert!(fs::read_to_string(app.path("out/INDEX.md")).unwrap().contains("Describe the tide"));
    assert_eq!(fs::read_dir(app.path("out/tasks")).unwrap().count(), 4);
    let report: Value = serde_json::from_slice(&fs::read(app.path("out/report.json")).unwrap()).unwrap();
    assert_eq!(report["status"], "completed");
    assert_eq!(report["calls"], 5);
    assert_eq!(report["cost_usd"], last["cost_usd"]);
    let cost: f64 = run.events_of("model_call").iter().map(|it| it["cost_usd"].as_f64().unwrap()).sum();
    assert!((cost - last["cost_usd"].as_f64().unwrap()).abs() < 1e-9, "the cost is the sum of its calls");
    assert!(cost > 0.0);
}

#[test]
fn a_plan_file_costs_exactly_one_call_a_task() {
    let gate = Gate::after(1);
    let server = StubServer::start(Script::default().behind(&gate));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(100).to_string());
    let child = app.spawn(run_args(&["--plan", "plan.json", "--concurrency", "100"]));
    wait_until("all independent tasks at once", || server.peak_in_flight() == 100);
    gate.open();
    let run = finish(child, TestApp::LIMIT).expect_code(0);
    assert_eq!(server.calls(), 102);
    let last = run.events().pop().unwrap();
    assert_eq!(last["tasks"]["completed"], 102);
    assert_eq!(fs::read_dir(app.path("out/tasks")).unwrap().count(), 102);
}

#[test]
fn concurrency_is_a_bound() {
    let gate = Gate::after(1);
    let server = StubServer::start(Script::default().behind(&gate));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(20).to_string());
    let child = app.spawn(run_args(&["--plan", "plan.json", "--concurrency", "3"]));
    wait_until("three calls at once", || server.peak_in_flight() == 3);
    gate.open();
    finish(child, TestApp::LIMIT).expect_code(0);
    assert_eq!(server.peak_in_flight(), 3);
}

#[test]
fn required_outputs_reach_the_prompt() {
    let server =
        StubServer::start(Script::default().on_text("Say what matters", StubReply::text("The answer is ZEBRA-42.")));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(2).to_string());
    app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    let middle: Vec<_> = server.requests().into_iter().filter(|it| it.contains("Work on one part")).collect();
    assert_eq!(middle.len(), 2);
    for request in middle {
        assert!(request.contains("ZEBRA-42"), "the output of the required task is in the prompt");
        assert!(request.contains("A fan"), "so is the goal");
        assert!(request.contains("index"), "so is the index");
    }
}

#[test]
fn memory_of_one_run_reaches_the_next_of_its_project_only() {
    let server = StubServer::start(
        Script::default().on_text("Say what matters", StubReply::text("The harbour gauge is QUOKKA-7.")),
    );
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(1).to_string());
    app.write(
        "ask.json",
        r#"{"goal": "Ask", "tasks": [{"id": "a", "title": "Harbour gauge", "description": "What is the harbour gauge?", "role": "writer", "depends_on": []}]}"#,
    );
    app.run(run_args(&["--plan", "plan.json", "--project", "sea"])).expect_code(0);
    server.reset();
    app.run(run_args(&["--plan", "ask.json", "--project", "sea"])).expect_code(0);
    assert!(server.requests()[0].contains("QUOKKA-7"), "what the first run learnt is recalled");
    server.reset();
    app.run(run_args(&["--plan", "ask.json", "--project", "land"])).expect_code(0);
    assert!(!server.requests()[0].contains("QUOKKA-7"), "another project never sees it");
}

#[test]
fn dry_run_runs_nothing() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(3).to_string());
    app.run(["run", "--plan", "plan.json", "--dry-run", "-o", "json"]).expect_code(0);
    assert_eq!(server.calls(), 0, "a plan file needs no model to be checked");
    app.run(["run", "Describe the tide", "--dry-run", "-o", "json"]).expect_code(0);
    assert_eq!(server.calls(), 1, "planning needs one call, and nothing else is called");
}

#[test]
fn json_output_is_the_report() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let run = app.run(["run", "Describe the tide", "-o", "json", "--out", "out", "-q"]).expect_code(0);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["status"], "completed");
    assert_eq!(report["tasks"].as_array().unwrap().len(), 5, "the root task is listed too");
}

#[test]
fn plain_lines_when_piped() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let run = app.run(["run", "Describe the tide", "--out", "out"]).expect_code(0);
    assert!(!run.stderr.contains('\u{1b}'), "no colour and no cursor movement: {}", run.stderr);
    assert!(!run.stdout.contains('\u{1b}'));
    assert!(run.stdout.contains("RESULT.md"), "{}", run.stdout);
}
