//! Hard limits of a run: money, steps, time. Exit code 7, and the way to go on.

use std::time::Duration;

use crewline_testkit::{Script, StubReply, StubServer, TestApp, app::finish};

use crate::{app, fan, run_args};

#[test]
fn money_is_never_overspent() {
    let server = StubServer::start(Script::text("word ".repeat(200)));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(50).to_string());
    let args = run_args(&["--plan", "plan.json", "--max-cost", "0.05", "--concurrency", "50"]);
    let run = app.run(args).expect_code(7);
    let last = run.events().pop().unwrap();
    assert_eq!(last["status"], "limit_reached");
    assert!(last["cost_usd"].as_f64().unwrap() <= 0.05, "{last}");
    assert!(last["tasks"]["completed"].as_u64().unwrap() >= 1, "{last}");
    assert_eq!(run.events_of("budget_reached").len(), 1);
    assert!(run.stderr.contains("resume"), "the way to go on is told: {}", run.stderr);
}

#[test]
fn an_answer_that_breaks_off_is_paid_for() {
    for reply in [StubReply::cut_stream("word ".repeat(200), 3), StubReply::close(), StubReply::malformed()] {
        let server = StubServer::start(Script::default().on_model("cheap", reply));
        let app = app();
        app.registry(&server);
        app.write("plan.json", &fan(1).to_string());
        let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
        let calls = run.events_of("model_call");
        let broken: Vec<_> = calls.iter().filter(|it| it["outcome"] != "ok").collect();
        assert!(!broken.is_empty(), "{calls:?}");
        // 4,096 tokens of output at two dollars a million.
        let least = 0.008;
        for call in broken {
            assert!(call["cost_usd"].as_f64().unwrap() > least, "the worst case: {call}");
            assert_eq!(call["estimated"], true, "{call}");
        }
        let cost: f64 = calls.iter().map(|it| it["cost_usd"].as_f64().unwrap()).sum();
        let told = run.events_of("run_finished")[0]["cost_usd"].as_f64().unwrap();
        assert!((told - cost).abs() < 1e-9, "{told} {cost}");

        // The cap counts it, too.
        let before = server.calls();
        let run = app.run(run_args(&["--plan", "plan.json", "--max-cost", "0.03"])).expect_code(7);
        let told = run.events_of("run_finished")[0]["cost_usd"].as_f64().unwrap();
        let asked = server.calls() - before;
        assert!(asked > 0 && asked as f64 * least <= told && told <= 0.03, "{asked} calls, {told}");
    }
}

#[test]
fn an_answer_that_is_refused_costs_nothing() {
    let server = StubServer::start(Script::default().on_model("cheap", StubReply::status(500)));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(1).to_string());
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    let calls = run.events_of("model_call");
    let refused: Vec<_> = calls.iter().filter(|it| it["outcome"] != "ok").collect();
    assert!(!refused.is_empty());
    assert!(refused.iter().all(|it| it["cost_usd"] == 0.0 && it["estimated"] != true), "{refused:?}");
}

#[test]
fn a_cap_needs_prices() {
    let server = StubServer::start(Script::default());
    let app = app();
    let registry = server.registry().replace(", price: {input_per_million: 1.0, output_per_million: 2.0}", "");
    app.write("crewline.yaml", &registry);
    let run = app.run(run_args(&["Describe the tide", "--max-cost", "1"])).expect_code(3);
    assert!(run.stderr.contains("cheap") && run.stderr.contains("price"), "{}", run.stderr);
    assert_eq!(server.calls(), 0);
}

#[test]
fn steps_are_counted() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(10).to_string());
    let run = app.run(run_args(&["--plan", "plan.json", "--max-steps", "4"])).expect_code(7);
    assert_eq!(server.calls(), 4);
    assert_eq!(run.events().last().unwrap()["tasks"]["completed"], 4);
}

#[test]
fn time_is_up() {
    let server = StubServer::start(Script::default().latency(Duration::from_mins(5)));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(2).to_string());
    let run = app.run(run_args(&["--plan", "plan.json", "--max-time", "1s"])).expect_code(7);
    assert!(run.elapsed < Duration::from_secs(30), "{:?}", run.elapsed);
    assert_eq!(run.events().last().unwrap()["status"], "limit_reached");
}

#[test]
fn a_task_that_has_spent_its_share_fails_and_the_others_go_on() {
    let server = StubServer::start(
        Script::default().when(|request| request.model == "cheap" && request.contains("Break"), StubReply::text("")),
    );
    let app = app();
    app.registry(&server);
    app.write(
        "plan.json",
        r#"{"goal": "g", "tasks": [
            {"id": "dear", "title": "Dear", "description": "Break.", "role": "coder", "depends_on": []},
            {"id": "good", "title": "Good", "description": "Fine.", "role": "coder", "depends_on": []}]}"#,
    );
    // A call of `cheap` fits, one of `strong` does not.
    let run = app.run(run_args(&["--plan", "plan.json", "--max-task-cost", "0.02"])).expect_code(7);
    let failed = run.events_of("task_failed");
    assert_eq!(failed[0]["error"]["code"], "budget.max_task_cost", "{failed:?}");
    assert_eq!(failed[0]["will_retry"], false);
    assert!(run.events_of("model_call").iter().all(|it| it["model"] == "cheap"));
    let last = run.events().pop().unwrap();
    assert_eq!((&last["status"], &last["tasks"]["completed"]), (&"failed".into(), &1.into()));
    let id = last["run"].as_str().unwrap();
    app.run(["retry", id, "--max-task-cost", "1", "--out", "out"]).expect_code(0);
}

#[test]
fn a_project_is_never_overspent_by_runs_at_the_same_time() {
    let server = StubServer::start(Script::text("word ".repeat(200)));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(50).to_string());
    let args = ["--plan", "plan.json", "--max-project-cost", "0.06", "--concurrency", "20", "--out"];
    let with = |out: &'static str| {
        let mut line = vec!["run", "-o", "jsonl", "--no-input"];
        line.extend(args);
        line.push(out);
        line
    };
    let both = [app.spawn(with("one")), app.spawn(with("two"))];
    let ended: Vec<_> = both.into_iter().map(|it| finish(it, TestApp::LIMIT)).collect();
    let mut spent = 0.0;
    for run in &ended {
        assert_eq!(run.code, Some(7), "{}", run.stderr);
        let last = run.events().pop().unwrap();
        assert_eq!(
            (&last["status"], &last["error"]["code"]),
            (&"limit_reached".into(), &"budget.max_project_cost".into())
        );
        spent += last["cost_usd"].as_f64().unwrap();
    }
    assert!(spent > 0.0 && spent <= 0.06, "{spent}");
    // What is spent stays spent, for later runs as well; another project has its own.
    let third = app.run(with("three")).expect_code(7);
    assert!(spent + third.events().pop().unwrap()["cost_usd"].as_f64().unwrap() <= 0.06);
    let mut other = with("four");
    other.extend(["--project", "other", "--max-steps", "1"]);
    let other = app.run(other).expect_code(7);
    assert_eq!(other.events().pop().unwrap()["error"]["code"], "budget.max_steps");
}
