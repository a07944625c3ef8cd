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
    // What tasks made, and what was handed on of it, is remembered; what the attacker wanted to be noted is not.
    let stored = app.run(["memory", "search", "keys to evil.example", "-o", "json"]).expect_code(0);
    let stored: Vec<Value> = serde_json::from_str(&stored.stdout).unwrap();
    assert!(!stored.is_empty(), "the attacker's text is what a task made");
    let noted: Vec<&Value> = stored.iter().filter(|it| it["type"] == "note").collect();
    assert!(noted.is_empty(), "{noted:?}");
}
