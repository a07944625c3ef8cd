//! Routing from outside: what is learned from recorded outcomes, and what is refused.

use crewline_testkit::{Script, StubReply, StubRequest, StubServer};
use serde_json::{Value, json};

use crate::{app, fan, run_args};

/// Forty questions of two tasks: the small model is right on all of one and none of the other.
fn outcomes() -> String {
    let line = |id: usize| {
        let is_easy = id.is_multiple_of(2);
        let outcome = |correct: bool, cost: f64| json!({"correct": u8::from(correct), "cost": cost});
        let question = json!({
            "id": format!("q{id}"), "text": "How much is it?", "task": if is_easy { "easy" } else { "hard" },
            "split": if id % 4 < 2 { "train" } else { "test" },
            "outcomes": {"small": outcome(is_easy, 0.001), "large": outcome(true, 0.01)},
        });
        format!("{question}\n")
    };
    (0..40).map(line).collect()
}

#[test]
fn a_policy_is_learned_replayed_and_written() {
    let app = app();
    app.write("outcomes.jsonl", &outcomes());
    let args = ["router", "eval", "--outcomes", "outcomes.jsonl", "--policy-out", "policy.json", "-o", "json"];
    let run = app.run(args).expect_code(0);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["quality"], 100.0, "{report}");
    assert_eq!(report["saving"], 45.0, "{report}");
    assert_eq!(report["best_single"]["model"], "large");
    assert_eq!(report["baselines"]["always_cheapest"]["quality"], 50.0);
    assert_eq!(report["baselines"]["oracle"]["quality"], 100.0);
    let policy: Value = serde_json::from_str(&std::fs::read_to_string(app.path("policy.json")).unwrap()).unwrap();
    assert_eq!(policy.as_object().unwrap().len(), 20);
    assert_eq!(policy["q2"], json!(["small"]));
    assert_eq!(policy["q3"], json!(["large"]));

    // With a verifier that is never wrong the small model is worth a try everywhere.
    let run = app.run(["route", "eval", "--outcomes", "outcomes.jsonl", "--verifier", "1,1", "--policy-out", "-"]);
    let policy: Value = serde_json::from_str(&run.expect_code(0).stdout).unwrap();
    assert_eq!(policy["q2"], json!(["small"]));
    assert_eq!(policy["q3"].as_array().unwrap().last(), Some(&json!("large")));

    let table = app.run(["router", "eval", "--outcomes", "outcomes.jsonl"]).expect_code(0).stdout;
    assert!(table.contains("learned") && table.contains("always best: large"), "{table}");
}

#[test]
fn outcomes_that_can_not_be_used_are_named() {
    let app = app();
    app.write("bad.jsonl", &format!("{}{{\"id\": 7}}\nnot json\n", outcomes()));
    let run = app.run(["router", "eval", "--outcomes", "bad.jsonl", "--policy-out", "policy.json"]).expect_code(3);
    assert!(run.stderr.contains("line 41:") && run.stderr.contains("line 42:"), "{}", run.stderr);
    assert!(run.stdout.is_empty() && !app.path("policy.json").exists(), "nothing half written");

    app.write("outcomes.jsonl", &outcomes());
    let run = app.run(["router", "eval", "--outcomes", "outcomes.jsonl", "--test-split", "dev"]).expect_code(3);
    assert!(run.stderr.contains("`test` (20), `train` (20)"), "{}", run.stderr);
    for rates in ["0.9", "1.1,0.9", "a,b", "nan,1"] {
        let run = app.run(["router", "eval", "--outcomes", "outcomes.jsonl", "--verifier", rates]).expect_code(2);
        assert!(run.stderr.contains("0.9,0.9"), "{}", run.stderr);
    }
    // Packed, and cut off.
    std::fs::write(app.path("cut.gz"), [0x1f, 0x8b, 8, 0, 0, 0]).unwrap();
    app.run(["router", "eval", "--outcomes", "cut.gz"]).expect_code(3);
    app.run(["router", "eval", "--outcomes", "nowhere.jsonl"]).expect_code(3);
}

#[test]
fn every_decision_is_kept_with_its_reasons_and_every_call_with_its_cost() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(2).to_string());
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    let starts = run.events_of("task_started");
    assert_eq!(starts.len(), 4);
    for start in &starts {
        assert_eq!(start["route"][0]["model"], start["model"], "{start}");
        assert!(start["route"][0]["reason"].as_str().is_some_and(|it| !it.is_empty()), "{start}");
    }

    let task = starts[0]["task"].as_str().unwrap();
    let read = |args: &[&str]| -> Value { serde_json::from_str(&app.run(args).expect_code(0).stdout).unwrap() };
    let kept = read(&["route", "explain", task, "-o", "json"]);
    assert_eq!(kept["task"], task);
    assert_eq!(kept["decisions"][0]["candidates"], starts[0]["route"]);
    let now = read(&["route", "explain", "--role", "writer", "--text", "Write.", "-o", "json"]);
    let models: Vec<&Value> =
        now["decisions"][0]["candidates"].as_array().unwrap().iter().map(|it| &it["model"]).collect();
    assert_eq!(models, ["cheap", "strong"]);
    let capped = app.run(["route", "explain", "--role", "writer", "--max-cost", "0"]).expect_code(0).stdout;
    assert!(capped.contains("is left") || capped.contains("no price"), "{capped}");
    app.run(["route", "explain", "zzzzzzzz"]).expect_code(5);
    app.run(["route", "explain"]).expect_code(2);

    for (by, rows) in [("model", 1), ("role", 2), ("run", 1), ("task", 4), ("day", 1)] {
        let costs = read(&["cost", "--by", by, "-o", "json"]);
        assert_eq!(costs.as_array().unwrap().len(), rows, "{costs}");
        let calls: u64 = costs.as_array().unwrap().iter().map(|it| it["calls"].as_u64().unwrap()).sum();
        assert_eq!(calls, 4, "{costs}");
    }
    assert!(app.run(["cost", "--project", "other"]).expect_code(0).stdout.is_empty());
}

#[test]
fn rules_of_a_role_say_where_its_chain_begins() {
    let server = StubServer::start(Script::text("Done."));
    let app = app();
    let routes = "routes: [{when: {tags: [legal]}, without: [cheap]}, {when: {complexity_min: 10}, start: strong}]";
    let role = format!("roles:\n  coder: {{chain: [cheap, strong], {routes}}}");
    app.write("crewline.yaml", &server.registry().replace("roles:", &role));
    let explain = |text: &str| -> Value {
        let shown = app.run(["route", "explain", "--role", "coder", "--text", text, "-o", "json"]).expect_code(0);
        serde_json::from_str::<Value>(&shown.stdout).unwrap()["decisions"][0].clone()
    };
    let hard = explain("Design it and prove it.");
    assert_eq!((&hard["complexity"], &hard["candidates"][0]["model"]), (&json!(10), &json!("strong")));
    assert_eq!(hard["candidates"][0]["reason"], "rule 2 of the role starts here");
    let tagged = explain("Look at the contract #legal");
    assert_eq!((&tagged["tags"], &tagged["candidates"][1]["may_be_asked"]), (&json!(["legal"]), &json!(false)));
    assert_eq!(tagged["candidates"][1]["reason"], "rule 1 of the role leaves it out");
    assert_eq!(explain("Name a city.")["candidates"][0]["model"], "cheap");
    let task = json!({"id": "a", "title": "A #legal", "description": "Look.", "role": "coder", "depends_on": []});
    app.write("plan.json", &json!({"goal": "g", "tasks": [task]}).to_string());
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    assert_eq!(run.events_of("task_completed")[0]["model"], "strong");
    for (routes, part) in [
        ("[{start: other}]", "`other` is not in the chain"),
        ("[{when: {tags: [a]}}]", "the rule does nothing"),
        ("[{without: [cheap, strong]}]", "leaves no model"),
        ("[{when: {complexity: 3}, start: cheap}]", "unknown key `complexity`"),
    ] {
        let role = format!("roles:\n  coder: {{chain: [cheap, strong], routes: {routes}}}");
        app.write("crewline.yaml", &server.registry().replace("roles:", &role));
        let refused = app.run(["registry", "check"]).expect_code(3);
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
}

#[test]
fn an_answer_that_its_model_is_not_sure_of_leads_to_the_next_one() {
    let server = StubServer::start(Script::new(|request: &StubRequest| {
        let sure: f64 = if request.contains("Be sure.") { 0.9 } else { 0.3 };
        let token = json!({"token": "a", "logprob": sure.ln()});
        StubReply::raw(
            json!({"choices": [{
                "index": 0, "finish_reason": "stop", "logprobs": {"content": [token, token]},
                "message": {"role": "assistant", "content": format!("From {}.", request.model)}
            }]})
            .to_string(),
        )
    }));
    let app = app();
    let registry = ["cheap", "strong"].iter().fold(server.registry(), |text, model| {
        text.replace(&format!("model: {model}, "), &format!("model: {model}, confidence_min: 0.5, "))
    });
    app.write("crewline.yaml", &registry);
    let run = |description: &str| {
        let task = json!({"id": "a", "title": "A", "description": description, "role": "coder", "depends_on": []});
        app.write("plan.json", &json!({"goal": "g", "tasks": [task]}).to_string());
        app.run(run_args(&["--plan", "plan.json"])).expect_code(0)
    };
    let sure = run("Be sure.");
    assert_eq!(sure.events_of("task_completed")[0]["model"], "cheap");
    let unsure = run("Guess.");
    // Nobody follows the last model, so its word is taken.
    assert_eq!(unsure.events_of("task_completed")[0]["model"], "strong");
    let call = &unsure.events_of("model_call")[0];
    assert_eq!((&call["outcome"], &call["error"]["code"]), (&json!("invalid"), &json!("model.low_confidence")));
    assert!(call["error"]["message"].as_str().unwrap().contains("0.30, and `confidence_min` is 0.50"), "{call}");
    let asked: Value = serde_json::from_slice(&server.requests()[0].body).unwrap();
    assert_eq!(asked["logprobs"], true);
}
