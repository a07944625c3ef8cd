//! Success criteria that a program checks: a bad answer leads to the next model, with the evidence.

use crewline_testkit::{Script, StubReply, StubServer};
use serde_json::{Value, json};

use crate::{app, run_args};

fn plan(criteria: &Value) -> String {
    json!({"goal": "g", "tasks": [{
        "id": "a", "title": "A", "description": "Name a broker.", "role": "coder", "depends_on": [],
        "success_criteria": criteria
    }]})
    .to_string()
}

#[test]
fn an_answer_that_fails_a_criterion_leads_to_the_next_model() {
    let script = Script::default()
        .on_model("cheap", StubReply::text("I do not know, sorry."))
        .on_model("strong", StubReply::text("Kafka, with a score: 8."));
    let server = StubServer::start(script);
    let app = app();
    app.registry(&server);
    let criteria = json!([
        "it is useful",
        {"criterion": "a broker is named", "check": {"type": "regex", "pattern": "Kafka|NATS|RabbitMQ"}},
        {"check": {"type": "number", "pattern": "score: ([0-9]+)", "min": 7}},
        {"check": {"type": "length", "max": 50}}
    ]);
    app.write("plan.json", &plan(&criteria));
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    let calls = run.events_of("model_call");
    assert_eq!((&calls[0]["model"], &calls[0]["outcome"]), (&json!("cheap"), &json!("invalid")));
    assert_eq!(calls[0]["error"]["code"], "check.failed");
    let checks = calls[0]["checks"].as_array().unwrap();
    assert_eq!(checks.iter().map(|it| it["passed"].as_bool().unwrap()).collect::<Vec<_>>(), [false, false, true]);
    assert_eq!((&checks[0]["verifier"], &checks[0]["evidence"]), (&json!("regex"), &json!("no match")));
    let strong = calls.iter().find(|it| it["model"] == "strong").unwrap();
    assert!(strong["checks"].as_array().unwrap().iter().all(|it| it["passed"] == true), "{strong}");
    assert_eq!(run.events_of("task_completed")[0]["model"], "strong");
    let told = server.requests().last().unwrap().contains("a broker is named (no match)");
    assert!(told, "the next model hears what was wrong");
    let shown = app.run(["route", "verifiers", "-o", "json"]).expect_code(0);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    let length = json!({"answers": 2, "accepted": 2, "accepted_in_vain": 1, "rejected_alone": 0});
    assert_eq!((&shown["length"], &shown["regex"]["accepted"]), (&length, &json!(1)));
    let id = run.events()[0]["run"].as_str().unwrap().to_owned();
    let logs = app.run(["logs", &id]).expect_code(0);
    assert!(logs.stdout.contains("1/3 checks") && logs.stdout.contains("3/3 checks"), "{}", logs.stdout);
}

#[test]
fn a_task_whose_answers_all_fail_its_criteria_fails() {
    let server = StubServer::start(Script::text("no"));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &plan(&json!([{"check": {"type": "contains", "text": "yes"}}])));
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(1);
    let failed = run.events_of("task_failed");
    assert_eq!(failed.last().unwrap()["error"]["code"], "check.failed");
    assert!(failed.last().unwrap()["error"]["message"].as_str().unwrap().contains("it contains `yes`"), "{failed:?}");
    assert_eq!(server.calls(), 4, "two attempts, two models");
}

#[test]
fn a_check_that_can_not_be_made_is_refused_before_anything_is_asked() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    for (check, part) in [
        (json!({"type": "regex", "pattern": "("}), "no regular expression"),
        (json!({"type": "json_schema", "schema": {"type": "nothing"}}), "not usable"),
        (json!({"type": "length"}), "`min`"),
        (json!({"type": "command", "run": "rm -rf /"}), "unknown field"),
        (json!({"type": "command", "program": "ls"}), "no workspace"),
        (json!({"type": "shell", "run": "rm -rf /"}), "unknown variant"),
    ] {
        app.write("plan.json", &plan(&json!([{"criterion": "c", "check": check}])));
        let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(3);
        assert!(run.stderr.contains(part), "{}", run.stderr);
    }
    assert_eq!(server.calls(), 0);
}
