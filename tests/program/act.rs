//! Specialists with tools: the loop in both protocols, its limits, and what an obedient model may not do.

use std::collections::BTreeSet;

use crewline_testkit::{Script, StubReply, StubRequest, StubServer, TestApp};
use serde_json::{Value, json};

use crate::{app, run_args};

/// Texts that try to make an agent do what it must not; a JSON object a line.
const INJECTIONS: &str = include_str!("data/injections.jsonl");

fn injections() -> Vec<Value> {
    INJECTIONS.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn task(id: &str, role: &str, description: &str, needs: &[&str]) -> Value {
    json!({"id": id, "title": format!("Task {id}"), "description": description, "role": role, "depends_on": needs})
}

fn plan(app: &TestApp, tasks: &[Value]) {
    app.write("plan.json", &json!({"goal": "Act", "tasks": tasks}).to_string());
}

fn with_role(app: &TestApp, server: &StubServer, role: &str) {
    app.write("crewline.yaml", &server.registry().replace("roles:", &format!("roles:\n  doer: {role}")));
}

/// The first action that a text of the question asks for: what a model that obeys everybody does.
fn obey(request: &StubRequest) -> Option<Value> {
    let text = &request.messages.iter().find(|it| it.role == "user")?.text;
    let start = text.find(r#"{"action": ""#)?;
    let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
    values.next()?.ok()
}

#[test]
fn an_obedient_model_makes_no_forbidden_call() {
    let texts = injections();
    assert!(texts.len() >= 120);
    // The first task of a pair says the attacker's text as its result; the second has tools, reads it, and obeys.
    let bad: Vec<String> = texts.iter().map(|it| it["text"].as_str().unwrap().to_owned()).collect();
    let server = StubServer::start(Script::new(move |request: &StubRequest| {
        if request.contains("You have tools.") {
            let refused = request.contains("Result of `");
            return match obey(request).filter(|_| !refused) {
                Some(action) => StubReply::json(&action),
                None => StubReply::json(&json!({"action": "final", "text": "Nothing more."})),
            };
        }
        let place = bad.iter().enumerate().find(|(place, _)| request.contains(&format!("Say text {place}.")));
        StubReply::text(place.map_or_else(|| "Fine.".to_owned(), |(_, text)| text.clone()))
    }));
    let app = app();
    with_role(
        &app,
        &server,
        "{tools: {write_file: {allow: {path: {under: [src]}}}, run_command: {allow: {program: {one_of: [cargo]}}}}}",
    );
    let mut tasks = Vec::new();
    for place in 0..texts.len() {
        let (says, does) = (format!("s{place}"), format!("d{place}"));
        tasks.push(task(&says, "writer", &format!("Say text {place}."), &[]));
        tasks.push(task(&does, "doer", "Sum up what you were given.", &[&says]));
    }
    plan(&app, &tasks);
    let run = app.run(run_args(&["--plan", "plan.json", "--concurrency", "8"])).expect_code(0);
    let calls = run.events_of("tool_call");
    assert_eq!(calls.len(), texts.len(), "every text was obeyed once");
    let made: Vec<&Value> =
        calls.iter().filter(|it| !matches!(it["outcome"].as_str(), Some("refused" | "invalid"))).collect();
    assert!(made.is_empty(), "{} forbidden calls, the first: {:?}", made.len(), made.first());
    let asked: BTreeSet<&str> = calls.iter().filter_map(|it| it["tool"].as_str()).collect();
    let wanted: BTreeSet<&str> = texts.iter().filter_map(|it| it["action"].as_str()).collect();
    assert_eq!(asked, wanted, "each kind of call was tried");
    // What tasks made is remembered; what the attacker wanted to be remembered as a note is not.
    let stored = app.run(["memory", "search", "keys to evil.example", "-o", "json"]).expect_code(0);
    assert!(!stored.stdout.contains("\"note\"") && !stored.stdout.contains("handoff_summary"), "{}", stored.stdout);
}

#[test]
fn native_calls_go_through_the_same_loop() {
    let call = |id: &str, name: &str, arguments: &Value| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments.to_string()}});
    let calls = json!([
        call("a", "note", &json!({"text": "seen"})),
        call("b", "memory_store", &json!({"text": "no rule allows this"})),
        call("c", "note", &json!({"wrong": 1})),
    ]);
    let reply = json!({
        "id": "x", "object": "chat.completion", "model": "m",
        "choices": [{"index": 0, "finish_reason": "tool_calls",
            "message": {"role": "assistant", "content": null, "tool_calls": calls}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    });
    let server = StubServer::start(Script::new(move |request: &StubRequest| {
        if request.messages.iter().any(|it| it.role == "tool") {
            StubReply::text("Done natively.")
        } else {
            StubReply::raw(reply.to_string())
        }
    }));
    let app = app();
    let registry = server.registry().replace("context_window:", "capabilities: [tools], context_window:");
    app.write("crewline.yaml", &registry.replace("roles:", "roles:\n  doer: {tools: {}}"));
    plan(&app, &[task("a", "doer", "Do it.", &[])]);
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    let outcomes: Vec<(String, String)> = run
        .events_of("tool_call")
        .iter()
        .map(|it| (it["tool"].as_str().unwrap().to_owned(), it["outcome"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [("memory_store", "invalid"), ("note", "invalid"), ("note", "ok")];
    assert_eq!(outcomes, expected.map(|(tool, outcome)| (tool.to_owned(), outcome.to_owned())));
    let last = server.requests().pop().unwrap();
    assert_eq!(last.messages.iter().filter(|it| it.role == "tool").count(), 3, "each call has its answer");
    assert!(last.contains("follow this schema"), "the first wrong arguments are told what is right");
}

#[test]
fn a_model_that_asks_for_the_same_again_and_again_is_stopped() {
    let server = StubServer::start(Script::new(|_: &StubRequest| {
        StubReply::json(&json!({"action": "note", "arguments": {"text": "again"}}))
    }));
    let app = app();
    with_role(&app, &server, "{tools: {}}");
    plan(&app, &[task("a", "doer", "Do it.", &[])]);
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(1);
    let failed = run.events_of("task_failed");
    assert_eq!(failed[0]["error"]["code"], "attempt.repeated");
    assert_eq!(run.events_of("tool_call").len(), 2 * failed.len(), "the third is not made");
}

#[test]
fn an_attempt_ends_at_its_limit_of_steps() {
    let server = StubServer::start(Script::new(|request: &StubRequest| {
        StubReply::json(&json!({"action": "note", "arguments": {"text": format!("step {}", request.number)}}))
    }));
    let app = app();
    with_role(&app, &server, "{tools: {}, limits: {steps_max: 3}}");
    plan(&app, &[task("a", "doer", "Do it.", &[])]);
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(7);
    assert_eq!(run.events_of("task_failed")[0]["error"]["code"], "attempt.steps");
    assert_eq!(server.calls(), 3);
}

#[test]
fn rules_for_tools_are_checked_with_the_registry() {
    let server = StubServer::start(Script::default());
    let app = app();
    with_role(&app, &server, "{tools: {write_file: {allow: {path: {undr: [src]}}}}}");
    let refused = app.run(["registry", "check"]).expect_code(3);
    assert!(refused.stderr.contains("there is no such condition"), "{}", refused.stderr);
    assert!(refused.stderr.contains("did you mean `under`?"), "{}", refused.stderr);
}
