//! Bad input: the place, the fix, the exit code; nothing half written.

use crewline_testkit::{Script, StubServer, TestApp};

use crate::{app, run_args};

fn with_registry(text: &str) -> (TestApp, crewline_testkit::Finished) {
    let app = app();
    app.write("crewline.yaml", text);
    let run = app.run(run_args(&["goal"]));
    (app, run)
}

#[test]
fn no_registry_says_what_to_do() {
    let app = app();
    let run = app.run(run_args(&["goal"])).expect_code(3);
    for way in ["crewline init", "crewline setup --local", "OPENAI_API_KEY"] {
        assert!(run.stderr.contains(way), "{way} is missing in: {}", run.stderr);
    }
    assert!(!app.path("out").exists());
}

#[test]
fn registry_mistakes_have_a_place_and_a_fix() {
    let good = StubServer::start(Script::default()).registry();
    for (name, text, wanted) in [
        ("unknown key", good.replace("roles:", "rolls:"), "roles"),
        ("unknown model", good.replace("chain: [cheap, strong]}\n  manager", "chain: [cheep]}\n  manager"), "cheap"),
        ("unknown provider", good.replace("provider: stub, model: cheap", "provider: stab, model: cheap"), "stub"),
        ("missing env", good.replace("base_url:", "api_key: \"env:NO_SUCH_KEY\", base_url:"), "NO_SUCH_KEY"),
        ("key in clear", good.replace("base_url:", "api_key: \"sk-123456\", base_url:"), "env:"),
        ("wrong type", good.replace("context_window: 32768", "context_window: many"), "context_window"),
        ("empty", String::new(), "crewline init"),
    ] {
        let (app, run) = with_registry(&text);
        assert_eq!(run.code, Some(3), "{name}: {}", run.stderr);
        assert!(run.stderr.contains(wanted), "{name}: {}", run.stderr);
        assert!(run.stderr.contains("crewline.yaml"), "{name}: {}", run.stderr);
        assert!(!run.stderr.contains("sk-123456") || name != "key in clear", "a key is never shown: {}", run.stderr);
        assert!(!app.path("out").exists(), "{name}: nothing is half written");
        assert!(run.stdout.is_empty(), "{name}: stdout is for data");
    }
}

#[test]
fn plan_files_are_refused_with_all_their_problems() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    for (name, text, wanted) in [
        (
            "cycle",
            r#"{"goal":"g","tasks":[{"id":"a","title":"A","description":"d","role":"writer","depends_on":["b"]},{"id":"b","title":"B","description":"d","role":"writer","depends_on":["a"]}]}"#,
            "circle",
        ),
        (
            "self",
            r#"{"goal":"g","tasks":[{"id":"a","title":"A","description":"d","role":"writer","depends_on":["a"]}]}"#,
            "a",
        ),
        (
            "unknown id",
            r#"{"goal":"g","tasks":[{"id":"a","title":"A","description":"d","role":"writer","depends_on":["z"]}]}"#,
            "z",
        ),
        (
            "repeated id",
            r#"{"goal":"g","tasks":[{"id":"a","title":"A","description":"d","role":"writer","depends_on":[]},{"id":"a","title":"B","description":"e","role":"writer","depends_on":[]}]}"#,
            "a",
        ),
        ("empty", r#"{"goal":"g","tasks":[]}"#, "task"),
        ("not a plan", "[1, 2", "plan.json"),
    ] {
        app.write("plan.json", text);
        let run = app.run(run_args(&["--plan", "plan.json"]));
        assert_eq!(run.code, Some(3), "{name}: {}", run.stderr);
        assert!(run.stderr.contains(wanted), "{name}: {}", run.stderr);
    }
    let missing = app.run(run_args(&["--plan", "missing.json"]));
    assert!(matches!(missing.code, Some(2 | 3 | 5)), "{:?}", missing.code);
    assert!(missing.stderr.contains("missing.json"));
    assert_eq!(server.calls(), 0);
}

#[test]
fn a_plan_file_has_a_limit() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    app.write("plan.json", &" ".repeat(16 * 1024 * 1024 + 1));
    let run = app.run(run_args(&["--plan", "plan.json"]));
    assert!(matches!(run.code, Some(3)) && run.stderr.contains("16 MiB"), "{:?} {}", run.code, run.stderr);
    assert_eq!(server.calls(), 0);
}

#[test]
fn usage_mistakes_exit_with_2() {
    let app = app();
    for args in [
        vec!["run", "g", "--concurrency", "0"],
        vec!["run", "g", "--max-time", "soon"],
        vec!["frobnicate"],
        vec!["run", "g", "--max-cost=-1"],
    ] {
        let run = app.run(&args);
        assert_eq!(run.code, Some(2), "{args:?}: {}", run.stderr);
    }
}

#[test]
fn an_output_folder_that_is_a_file_is_refused_at_once() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    app.write("out", "I am a file");
    let run = app.run(run_args(&["goal"]));
    assert!(matches!(run.code, Some(1..=3)), "{:?}", run.code);
    assert!(run.stderr.contains("out"), "{}", run.stderr);
    assert_eq!(server.calls(), 0, "nothing was spent");
}
