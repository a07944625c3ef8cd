//! Plans as small models write them: broken in every way, repaired visibly, or refused when asked to.

use crewline_testkit::{Finished, Script, StubReply, StubServer, TestApp};
use serde_json::{Value, json};

use crate::{app, run_args};

fn planned(reply: &str, extra: &[&str]) -> (TestApp, StubServer, Finished) {
    let server = StubServer::start(Script::default().on_schema(StubReply::text(reply)));
    let app = app();
    app.registry(&server);
    let mut args = run_args(&["Describe the tide"]);
    args.extend(extra);
    let run = app.run(args);
    (app, server, run)
}

fn repairs(run: &Finished) -> String {
    run.events_of("plan_ready")[0]["repairs"].to_string()
}

#[test]
fn a_cycle_is_cut_and_named() {
    let (_app, _server, run) = planned(
        r#"Sure! Here is the plan: {"tasks": [
            {"id": "t1", "title": "A", "description": "a", "role": "writer", "depends_on": ["t2"]},
            {"id": "t2", "title": "B", "description": "b", "role": "writer", "depends_on": ["t1", "t2", "t9"]}]} Good luck!"#,
        &[],
    );
    let run = run.expect_code(0);
    let repairs = repairs(&run);
    for word in ["t1", "t2", "t9"] {
        assert!(repairs.contains(word), "{repairs}");
    }
    assert_eq!(run.events().last().unwrap()["tasks"]["completed"], 3);
}

#[test]
fn invented_roles_and_repeated_ids_are_repaired() {
    let (_app, _server, run) = planned(
        r#"{"tasks": [
            {"id": "t1", "title": "A", "description": "a", "role": "wizard", "depends_on": []},
            {"id": "t1", "title": "B", "description": "b", "role": "writers", "depends_on": []}]}"#,
        &[],
    );
    let run = run.expect_code(0);
    assert!(repairs(&run).contains("wizard"));
    let plan = &run.events_of("plan_ready")[0]["tasks"];
    assert_eq!(plan[1]["role"], "writer");
    assert_eq!(plan.as_array().unwrap().len(), 3, "both tasks are kept, and a synthesis follows");
}

#[test]
fn no_plan_at_all_becomes_one_task_after_one_repair_request() {
    let (_app, server, run) = planned("I would rather talk about the weather.", &[]);
    let run = run.expect_code(0);
    let asked: Vec<_> = server.requests().into_iter().filter(|it| it.has_schema()).collect();
    assert_eq!(asked.len(), 2, "one repair request");
    assert!(asked[1].contains("could not be used"), "which tells what was wrong");
    assert_eq!(run.events().last().unwrap()["tasks"]["total"], 1);
    assert!(!run.events_of("plan_ready")[0]["repairs"].as_array().unwrap().is_empty(), "and it is visible");
}

#[test]
fn a_repaired_answer_is_used() {
    let good = r#"{"t1": {"title": "A", "description": "a", "role": "writer", "depends_on": []}}"#;
    let server =
        StubServer::start(Script::default().on_call(1, StubReply::text("no")).on_schema(StubReply::text(good)));
    let app = app();
    app.registry(&server);
    let run = app.run(run_args(&["Describe the tide"])).expect_code(0);
    assert_eq!(run.events_of("plan_ready")[0]["repairs"].as_array().unwrap().len(), 0);
    assert_eq!(run.events_of("plan_ready")[0]["tasks"][0]["title"], "A");
}

#[test]
fn strict_plans_are_refused() {
    let (_app, server, run) = planned(
        r#"{"tasks": [{"id": "t1", "title": "A", "description": "a", "role": "writer", "depends_on": ["t1"]}]}"#,
        &["--strict-plan"],
    );
    let run = run.expect_code(3);
    assert!(run.events_of("task_started").is_empty());
    let last = run.events().pop().unwrap();
    assert_eq!(last["status"], "failed");
    assert!(last["error"]["code"].as_str().unwrap().starts_with("plan."), "{last}");
    assert!(server.calls() <= 2);
}

#[test]
fn an_estimate_comes_from_earlier_tasks_at_the_prices_of_today() {
    let server = StubServer::start(Script::text("Done."));
    let app = app();
    app.registry(&server);
    let task = |id: &str, needs: &[&str]| json!({"id": id, "title": "T", "role": "coder", "depends_on": needs});
    let plan = json!({"goal": "g", "tasks": [task("a", &[]), task("b", &["a"]), task("c", &["b"])]});
    app.write("plan.json", &plan.to_string());
    let estimate = |more: &[&str]| -> Value {
        let line = [&["plan", "plan.json", "--estimate", "-o", "json"][..], more].concat();
        serde_json::from_str(&app.run(line).expect_code(0).stdout).unwrap()
    };
    let guessed = estimate(&[]);
    assert_eq!((&guessed["without_history"], &guessed["tasks"][0]["samples"]), (&json!(["coder"]), &json!(0)));
    assert!(guessed["cost_usd"]["p90"].as_f64().unwrap() >= guessed["cost_usd"]["p50"].as_f64().unwrap());
    assert_eq!(guessed, estimate(&[]), "the same seed gives the same estimate");
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    let spent = run.events_of("run_finished")[0]["cost_usd"].as_f64().unwrap();
    let known = estimate(&["--seed", "7", "--concurrency", "2"]);
    assert_eq!((&known["without_history"], &known["tasks"][2]["samples"]), (&json!([]), &json!(3)));
    let (p50, p90) = (known["cost_usd"]["p50"].as_f64().unwrap(), known["cost_usd"]["p90"].as_f64().unwrap());
    assert!(p50 > 0.0 && p50 <= p90 && p90 <= 3.0 * spent, "{p50} {p90} {spent}");
    assert_eq!((&known["done"], &known["tasks"][1]["critical"]), (&json!(1.0), &json!(1.0)));
    let shown = app.run(["plan", "plan.json", "--estimate"]).expect_code(0);
    assert!(shown.stdout.contains("longest way") && shown.stdout.contains("nine of ten"), "{}", shown.stdout);
    app.run(["plan", "a goal", "--estimate"]).expect_code(2);
    let runs: Value = serde_json::from_str(&app.run(["ps", "--all", "-o", "json"]).expect_code(0).stdout).unwrap();
    assert_eq!(runs.as_array().unwrap().len(), 1, "nothing is recorded");
}
