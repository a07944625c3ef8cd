//! Hard limits of a run: money, steps, time. Exit code 7, and the way to go on.

use std::time::Duration;

use crewline_testkit::{Script, StubServer};

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
