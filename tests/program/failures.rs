//! Models that fail: the next rung is asked, and when none is left the run says why.

use std::time::Duration;

use crewline_testkit::{Script, StubReply, StubServer};

use crate::{app, fan, run_args};

#[test]
fn the_next_rung_answers() {
    for (name, reply) in [
        ("status 500", StubReply::status(500)),
        ("rate limit", StubReply::status(429).retry_after(Duration::from_secs(1))),
        ("closed connection", StubReply::close()),
        ("not json", StubReply::malformed()),
        ("empty answer", StubReply::text("")),
    ] {
        let server = StubServer::start(Script::default().on_model("cheap", reply));
        let app = app();
        app.registry(&server);
        app.write("plan.json", &fan(1).to_string());
        let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
        let calls = run.events_of("model_call");
        let ok: Vec<_> = calls.iter().filter(|it| it["outcome"] == "ok").collect();
        assert_eq!(ok.len(), 3, "{name}");
        assert!(ok.iter().all(|it| it["model"] == "strong"), "{name}");
        assert!(calls.iter().any(|it| it["model"] == "cheap" && it["error"]["code"].is_string()), "{name}");
        let completed = run.events_of("task_completed");
        assert!(completed.iter().all(|it| it["model"] == "strong"), "{name}");
    }
}

#[test]
fn a_hanging_model_is_left_after_its_limit() {
    let server = StubServer::start(Script::default().on_model("cheap", StubReply::hang()));
    let app = app();
    let registry = server.registry().replace("model: cheap, ", "model: cheap, timeouts: {total: 300ms}, ");
    app.write("crewline.yaml", &registry);
    app.write("plan.json", &fan(1).to_string());
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    assert!(run.events_of("model_call").iter().any(|it| it["outcome"] == "timeout"), "{}", run.stdout);
    assert!(run.elapsed < Duration::from_secs(30));
}

#[test]
fn a_failed_task_blocks_its_dependents_only() {
    let server = StubServer::start(Script::default().on_text("Break", StubReply::status(500)));
    let app = app();
    app.registry(&server);
    app.write(
        "plan.json",
        r#"{"goal": "g", "tasks": [
            {"id": "bad", "title": "Bad", "description": "Break.", "role": "coder", "depends_on": []},
            {"id": "after", "title": "After", "description": "Needs the bad one.", "role": "coder", "depends_on": ["bad"]},
            {"id": "good", "title": "Good", "description": "Fine.", "role": "coder", "depends_on": []},
            {"id": "better", "title": "Better", "description": "Also fine.", "role": "coder", "depends_on": ["good"]}]}"#,
    );
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(1);
    let last = run.events().pop().unwrap();
    assert_eq!(last["status"], "failed");
    assert_eq!(last["tasks"]["completed"], 2);
    assert_eq!(last["tasks"]["failed"], 1);
    assert_eq!(last["tasks"]["blocked"], 2, "the dependent and the synthesis");
    assert!(last["error"]["message"].as_str().unwrap().contains("bad"), "{last}");
    assert!(!run.events_of("task_failed").is_empty());
    assert!(app.path("out/INDEX.md").is_file(), "what was made is written all the same");
    assert!(std::fs::read_to_string(app.path("out/RESULT.md")).unwrap().contains("failed"));
}

#[test]
fn an_unreachable_model_is_a_backend_error() {
    let url = {
        let server = StubServer::start(Script::default());
        server.registry()
    };
    let app = app();
    app.write("crewline.yaml", &url);
    let run = app.run(run_args(&["Describe the tide"])).expect_code(6);
    assert!(run.stderr.contains("127.0.0.1"), "the place is named: {}", run.stderr);
    let last = run.events().pop().unwrap();
    assert_eq!((&last["type"], &last["status"]), (&"run_finished".into(), &"failed".into()));
}

#[test]
fn offline_never_calls_out() {
    let app = app();
    app.write(
        "crewline.yaml",
        "version: 1\nproviders:\n  far: {type: openai_compatible, base_url: \"https://models.example.com/v1\"}\n\
         models:\n  far: {provider: far, model: m, context_window: 8192}\nroles:\n  default: {chain: [far]}\n",
    );
    let run = app.run(run_args(&["Describe the tide", "--offline"]));
    assert!(matches!(run.code, Some(3 | 6)), "{:?} {}", run.code, run.stderr);
    assert!(run.stderr.contains("offline"), "{}", run.stderr);
}

#[test]
fn a_prompt_that_is_too_long_goes_to_a_larger_window() {
    let server = StubServer::start(Script::default().on_model("cheap", StubReply::too_long()));
    let app = app();
    let registry = server
        .registry()
        .replace("chain: [cheap, strong]", "chain: [cheap, same, large]")
        .replace("roles:", "  same: {provider: stub, model: same, context_window: 32768}\n  large: {provider: stub, model: large, context_window: 131072}\nroles:");
    app.write("crewline.yaml", &registry);
    app.write("plan.json", &fan(0).to_string());
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    let mut models: Vec<_> = run.events_of("model_call").iter().map(|it| it["model"].to_string()).collect();
    models.sort_unstable();
    assert_eq!(models, [["\"cheap\""; 3], ["\"large\""; 3]].concat(), "not merely the next one");
}
