//! Success criteria that a program or a judge checks: a bad answer leads to the next model, with the evidence.

use std::sync::atomic::{AtomicU64, Ordering};

use crewline_testkit::{Gate, Script, StubReply, StubRequest, StubServer, TestApp, app::finish};
use serde_json::{Value, json};

use crate::{
    app,
    resume::{only_run, wait_for_calls},
    run_args, signal,
    workers::wait_until,
};

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
    let later = json!({"good_accepted": 0, "good_rejected": 0, "bad_accepted": 0, "bad_rejected": 0});
    let length = json!({
        "answers": 2, "accepted": 2, "accepted_in_vain": 1, "rejected_alone": 0, "later": later,
        "true_accept_rate": null, "false_accept_rate": null
    });
    assert_eq!((&shown["length"], &shown["regex"]["accepted"]), (&length, &json!(1)));
    let id = run.events()[0]["run"].as_str().unwrap().to_owned();
    let logs = app.run(["logs", &id]).expect_code(0);
    assert!(logs.stdout.contains("1/3 checks") && logs.stdout.contains("3/3 checks"), "{}", logs.stdout);
}

#[test]
fn what_people_do_later_tells_what_a_check_is_worth() {
    let server = StubServer::start(Script::text("Kafka."));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &plan(&json!([{"check": {"type": "contains", "text": "Kafka"}}])));
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    let later = || -> Value {
        let shown = app.run(["route", "verifiers", "-o", "json"]).expect_code(0);
        serde_json::from_str::<Value>(&shown.stdout).unwrap()["contains"]["later"].clone()
    };
    assert_eq!(later()["bad_accepted"], 0, "nothing was heard of it");
    let id = run.events()[0]["run"].as_str().unwrap().to_owned();
    app.run(["rerun", &format!("{id}/a"), "-o", "jsonl", "--out", "again"]).expect_code(0);
    assert_eq!(later()["bad_accepted"], 1, "somebody wanted another answer");
    let table = app.run(["route", "verifiers"]).expect_code(0).stdout;
    assert!(table.contains("BAD") && table.contains("1 of 1"), "{table}");
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
        (json!({"type": "judge", "rubric": "it is good"}), "no role `judge`"),
        (json!({"type": "shell", "run": "rm -rf /"}), "unknown variant"),
    ] {
        app.write("plan.json", &plan(&json!([{"criterion": "c", "check": check}])));
        let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(3);
        assert!(run.stderr.contains(part), "{}", run.stderr);
    }
    assert_eq!(server.calls(), 0);
}

fn with_judge(app: &TestApp, server: &StubServer, chain: &str, policies: &str) {
    let registry = server.registry().replace("roles:", &format!("roles:\n  judge: {{chain: [{chain}]}}"));
    app.write("crewline.yaml", &format!("{registry}policies: {{{policies}}}\n"));
}

const RUBRIC: &str = "it names a broker and says why";

fn judged_plan(app: &TestApp) {
    app.write("plan.json", &plan(&json!([{"check": {"type": "judge", "rubric": RUBRIC}}])));
}

/// Answers the tasks; a judge accepts what has a reason.
fn writer_and_judge(request: &StubRequest) -> StubReply {
    if !request.contains("You judge whether") {
        return StubReply::text(if request.model == "cheap" { "Kafka." } else { "Kafka, because it is durable." });
    }
    let pass = request.contains("because");
    StubReply::json(&json!({"reason": if pass { "it says why" } else { "no reason is given" }, "pass": pass}))
}

#[test]
fn a_judge_that_did_not_write_the_answer_decides_whether_it_is_accepted() {
    let server = StubServer::start(Script::new(writer_and_judge));
    let app = app();
    with_judge(&app, &server, "cheap, strong", "attempts_max: 1");
    judged_plan(&app);
    let run = app.run(run_args(&["--plan", "plan.json", "--max-cost", "1"])).expect_code(0);
    let calls = run.events_of("model_call");
    let seen: Vec<(&str, &str, &str)> = calls
        .iter()
        .map(|it| (it["role"].as_str().unwrap(), it["model"].as_str().unwrap(), it["outcome"].as_str().unwrap()))
        .collect();
    // Each answer is judged by the model that did not write it.
    let expected =
        [("coder", "cheap", "invalid"), ("judge", "strong", "ok"), ("coder", "strong", "ok"), ("judge", "cheap", "ok")];
    assert_eq!(seen, expected);
    assert_eq!(calls[0]["checks"][0]["evidence"], "no reason is given [judged by `strong`]");
    assert_eq!((&calls[0]["error"]["code"], &calls[2]["checks"][0]["passed"]), (&json!("check.failed"), &json!(true)));
    let asked = server.requests();
    assert!(asked.iter().filter(|it| it.contains("You judge whether")).all(|it| it.contains(RUBRIC)));
    assert!(asked[2].contains("no reason is given"), "the next model hears why");
    let finished = &run.events_of("run_finished")[0];
    let cost: f64 = calls.iter().map(|it| it["cost_usd"].as_f64().unwrap()).sum();
    assert!((finished["cost_usd"].as_f64().unwrap() - cost).abs() < 1e-9, "the judge is paid by the task: {finished}");
    let shown: Value =
        serde_json::from_str(&app.run(["route", "verifiers", "-o", "json"]).expect_code(0).stdout).unwrap();
    assert_eq!((&shown["judge"]["answers"], &shown["judge"]["accepted"]), (&json!(2), &json!(1)));
    let explained = app.run(["route", "explain", "--role", "coder", "--text", "x"]).expect_code(0);
    assert!(!explained.stdout.contains("2 of 2"), "a judge's calls are not the role's answers: {}", explained.stdout);
}

#[test]
fn the_only_model_judges_itself_and_says_so() {
    let server = StubServer::start(Script::new(writer_and_judge));
    let app = app();
    with_judge(&app, &server, "strong", "attempts_max: 1");
    judged_plan(&app);
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    let calls = run.events_of("model_call");
    let evidence = calls[2]["checks"][0]["evidence"].as_str().unwrap();
    assert_eq!(evidence, "it says why [judged by `strong`, which wrote it: no other is configured]");
}

#[test]
fn an_answer_without_a_judge_is_rejected_unless_the_policy_accepts_it() {
    let server = StubServer::start(Script::new(|request: &StubRequest| {
        if request.contains("You judge whether") {
            StubReply::status(400)
        } else {
            StubReply::text("Kafka, because it is durable.")
        }
    }));
    for (policy, code, part, answers) in [
        ("attempts_max: 1", 1, "there is no verdict: ", 2),
        ("attempts_max: 1, on_judge_error: reject", 1, "there is no verdict: ", 2),
        ("attempts_max: 1, on_judge_error: accept", 0, "accepted without a judge: ", 1),
    ] {
        let app = app();
        with_judge(&app, &server, "strong, cheap", policy);
        judged_plan(&app);
        let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(code);
        let calls = run.events_of("model_call");
        let written: Vec<&Value> = calls.iter().filter(|it| it["role"] == "coder").collect();
        assert_eq!(written.len(), answers, "{policy}");
        let evidence = written[0]["checks"][0]["evidence"].as_str().unwrap();
        assert!(evidence.starts_with(part), "{policy}: {evidence}");
    }
}

#[test]
fn an_answer_that_is_judged_counts_with_what_it_cost() {
    let server = StubServer::start(Script::new(writer_and_judge));
    let app = app();
    with_judge(&app, &server, "cheap", "attempts_max: 1");
    judged_plan(&app);
    // The worst case of a call fits beside what the answer cost, not beside its worst case.
    for cap in ["--max-cost", "--max-project-cost"] {
        let run =
            app.run(run_args(&["--plan", "plan.json", cap, "0.1", "--project", cap.trim_matches('-')])).expect_code(0);
        assert!(run.events_of("model_call").iter().any(|it| it["role"] == "judge"));
    }
}

#[test]
fn a_kill_while_a_judge_is_asked_buys_neither_the_answer_nor_an_earlier_verdict_again() {
    let gate = Gate::after(0);
    let shut = gate.clone();
    let server = StubServer::start(Script::new(move |request: &StubRequest| {
        if !request.contains("You judge whether") {
            return StubReply::text("Kafka, because it is durable.");
        }
        let verdict = StubReply::json(&json!({"reason": "it does", "pass": true}));
        if request.contains("it is short") { verdict.behind(&shut) } else { verdict }
    }));
    let app = app();
    with_judge(&app, &server, "strong", "");
    let judge = |rubric| json!({"check": {"type": "judge", "rubric": rubric}});
    app.write("plan.json", &plan(&json!([judge(RUBRIC), judge("it is short")])));
    let child = app.spawn(run_args(&["--plan", "plan.json", "--max-cost", "1"]));
    wait_for_calls(&server, 3);
    signal(child.id(), "KILL");
    finish(child, TestApp::LIMIT);
    gate.open();
    let id = only_run(&app);
    app.run(["resume", &id, "-o", "jsonl", "--out", "out"]).expect_code(0);
    let asked = server.requests();
    let with = |part: &str| asked.iter().filter(|it| it.contains("You judge whether") && it.contains(part)).count();
    assert_eq!((asked.len(), with(RUBRIC), with("it is short")), (4, 1, 2), "only what was under way is asked again");
    let calls = app.run(["logs", &id, "-o", "jsonl"]).expect_code(0).events_of("model_call");
    let seen: Vec<(&str, &str)> =
        calls.iter().map(|it| (it["role"].as_str().unwrap(), it["outcome"].as_str().unwrap())).collect();
    assert_eq!(seen, [("judge", "ok"), ("coder", "ok"), ("judge", "lost"), ("judge", "ok")]);
    let usage = &calls[1]["usage"];
    assert_ne!(usage["estimated"], true, "the answer costs what it cost: {usage}");
}

#[test]
fn what_memory_learns_meanwhile_buys_no_recorded_answer_again() {
    let verdicts = AtomicU64::new(0);
    // The other task ends when the first one has been told what it is told.
    let gate = Gate::after(0);
    let shut = gate.clone();
    let server = StubServer::start(Script::new(move |request: &StubRequest| {
        if request.contains("You judge whether") {
            let verdict = StubReply::json(&json!({"reason": "it does", "pass": true}));
            let is_first = verdicts.fetch_add(1, Ordering::Relaxed) == 0;
            return if is_first { StubReply::hang() } else { verdict };
        }
        if request.contains("Compare the brokers.") {
            return StubReply::text("Name of a broker: NATS, a broker.").behind(&shut);
        }
        StubReply::text("Kafka, because it is durable.")
    }));
    let app = app();
    with_judge(&app, &server, "strong", "");
    let mut plan: Value =
        serde_json::from_str(&plan(&json!([{"check": {"type": "judge", "rubric": RUBRIC}}]))).unwrap();
    plan["tasks"].as_array_mut().unwrap().push(json!({
        "id": "b", "title": "B", "description": "Compare the brokers.", "role": "coder", "depends_on": []
    }));
    app.write("plan.json", &plan.to_string());
    let child = app.spawn(run_args(&["--plan", "plan.json"]));
    wait_for_calls(&server, 3);
    gate.open();
    let id = only_run(&app);
    let is_completed = || {
        let shown = app.run(["show", &id, "-o", "json"]).expect_code(0);
        let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
        shown["tasks"].as_array().unwrap().iter().any(|it| it["key"] == "b" && it["status"] == "completed")
    };
    wait_until("the other task's end", is_completed);
    signal(child.id(), "KILL");
    finish(child, TestApp::LIMIT);
    let preview = app.run(["context", "preview", &format!("{id}/a")]).expect_code(0);
    assert!(preview.stdout.contains("memory"), "asked now, it would be told of the other: {}", preview.stdout);

    app.run(["resume", &id, "-o", "jsonl", "--out", "out"]).expect_code(0);
    let asked = server.requests();
    let own = asked.iter().filter(|it| !it.contains("You judge whether") && it.contains("Name a broker.")).count();
    assert_eq!((asked.len(), own), (5, 1), "only the judge is asked again, and then the document");
    let told = app.run(["context", "snapshots", &format!("{id}/a"), "-o", "json"]).expect_code(0);
    let told: Value = serde_json::from_str(&told.stdout).unwrap();
    let bundles: Vec<&Value> = told.as_array().unwrap().iter().map(|it| &it["bundle"]).collect();
    assert!(
        bundles.len() == 2 && bundles[0] == bundles[1],
        "the answer was made from what the first was told: {told:#}"
    );
}
