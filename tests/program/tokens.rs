//! Tokens counted as the model counts them.

use crewline_testkit::{Finished, Gate, Script, StubReply, StubServer, TestApp, app::finish};
use serde_json::{Value, json};

use crate::{
    app,
    resume::{only_run, wait_for_calls},
    run_args, signal,
};

/// Tokens of the window, and of it for the answer.
const WINDOW: (u32, u32) = (4_096, 512);

/// a → c; what `a` makes fills the window of `c` several times.
fn plan() -> Value {
    let task = |id: &str, needs: &[&str], criteria: Value| json!({"id": id, "title": format!("Task {id}"), "description": format!("Do {id}."), "role": "writer", "depends_on": needs, "success_criteria": criteria});
    json!({"goal": "One from another", "tasks": [
        task("a", &[], json!([])),
        task("c", &["a"], json!([{"check": {"type": "regex", "pattern": "accepted"}}])),
    ]})
}

fn long() -> String {
    let line =
        |it: usize| format!("{it}. The crew decided that internationalization of part {it} waits for the index.\n");
    (0..600).map(line).collect()
}

fn registry(app: &TestApp, server: &StubServer, tokenizer: &str) {
    let window = format!("context_window: {}, output_tokens_max: {}", WINDOW.0, WINDOW.1);
    let text = server.registry().replace("context_window: 32768", &format!("{window}, tokenizer: {tokenizer}"));
    app.write("crewline.yaml", &text);
}

fn json_of(finished: Finished) -> Value {
    serde_json::from_str(&finished.expect_code(0).stdout).unwrap()
}

#[test]
fn a_context_is_counted_as_its_model_counts() {
    let script = || {
        Script::new(|request| StubReply::text(if request.contains("Do a.") { long() } else { "accepted".to_owned() }))
    };
    let mut lengths = Vec::new();
    for (tokenizer, words) in [("estimate", "estimated from above"), ("cl100k", "counted as cl100k")] {
        let server = StubServer::start(script());
        let app = app();
        registry(&app, &server, tokenizer);
        app.write("plan.json", &plan().to_string());
        let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
        let task = format!("{}/c", run.events()[0]["run"].as_str().unwrap());
        let shown = json_of(app.run(["context", "show", &task, "-o", "json"]));
        assert_eq!((&shown["tokenizer"], &shown["estimated"]), (&json!(tokenizer), &json!(tokenizer == "estimate")));
        let tokens = |it: &str| shown[it].as_u64().unwrap();
        assert!((tokens("budget") * 9 / 10..=tokens("budget")).contains(&tokens("tokens")), "{shown:#}");
        let preview = json_of(app.run(["context", "preview", &task, "-o", "json"]));
        assert_eq!((&preview["bundle"], &preview["tokenizer"]), (&shown["bundle"], &shown["tokenizer"]));
        lengths.push(preview["text"].as_str().unwrap().len());
        let prompt = json_of(app.run(["prompt", "render", &task, "-o", "json"]));
        assert_eq!(prompt["tokenizer"], tokenizer);
        let all = prompt["tokens"].as_u64().unwrap();
        assert!(all <= u64::from(WINDOW.0 - WINDOW.1), "{all}");
        for command in [&["context", "show"][..], &["context", "preview"], &["prompt", "render"]] {
            let text = app.run(command.iter().copied().chain([&*task])).expect_code(0).stdout;
            assert!(text.contains(words), "{command:?}: {text}");
        }
        // What was approved is what was looked at, whoever counts later.
        json_of(app.run(["context", "approve", &task, "-o", "json"]));
        registry(&app, &server, "o200k");
        let approved = json_of(app.run(["context", "preview", &task, "-o", "json"]));
        assert_eq!((&approved["bundle"], &approved["tokens"]), (&preview["bundle"], &preview["tokens"]));
        assert_eq!((&approved["approved"], &approved["tokenizer"]), (&json!(true), &json!(tokenizer)));
    }
    assert!(lengths[1] > lengths[0] * 5 / 4, "what is counted leaves more room: {lengths:?}");
}

#[test]
fn a_bought_answer_outlives_a_change_of_the_tokenizer() {
    // What `cheap` says of `c` is rejected and recorded; the process dies while `strong` is asked.
    let gate = Gate::after(0);
    let shut = gate.clone();
    let script = Script::new(move |request| match (request.contains("Do a."), request.model == "strong") {
        (true, _) => StubReply::text(long()),
        (false, false) => StubReply::text("no"),
        (false, true) => StubReply::text("accepted").behind(&shut),
    });
    let server = StubServer::start(script);
    let app = app();
    registry(&app, &server, "o200k");
    app.write("plan.json", &plan().to_string());
    let child = app.spawn(run_args(&["--plan", "plan.json"]));
    wait_for_calls(&server, 3);
    signal(child.id(), "KILL");
    assert_eq!(finish(child, TestApp::LIMIT).code, None);
    gate.open();

    registry(&app, &server, "estimate");
    app.run(["resume", &only_run(&app), "-o", "jsonl", "--out", "out"]).expect_code(0);
    let asked: Vec<String> = server.requests().iter().map(|it| it.model.clone()).collect();
    assert_eq!(asked, ["cheap", "cheap", "strong", "strong"], "only the lost answer is asked for again");
}

#[test]
fn a_wrong_tokenizer_is_told_with_its_place() {
    let server = StubServer::start(Script::default());
    let app = app();
    registry(&app, &server, "o200");
    let wrong = app.run(["registry", "check"]).expect_code(3);
    for words in ["crewline.yaml:5:", "there is no tokenizer `o200`", "did you mean `o200k`?"] {
        assert!(wrong.stderr.contains(words), "{words}: {}", wrong.stderr);
    }
    // A file is looked at by its name for a run, and read for a check.
    app.write("tokenizer.json", "{}");
    registry(&app, &server, "tokenizer.json");
    let broken = app.run(["registry", "check"]).expect_code(3);
    assert!(broken.stderr.contains("cannot be used: it is no tokenizer"), "{}", broken.stderr);
}
