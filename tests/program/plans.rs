//! Plans as small models write them: broken in every way, repaired visibly, or refused when asked to.

use crewline_testkit::{Finished, Script, StubReply, StubServer, TestApp};

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
