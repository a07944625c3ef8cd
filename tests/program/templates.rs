//! Templates and composite plans, from the command line to a run.

use std::io::Write as _;

use crewline_testkit::{Running, Script, StubServer, app::finish};
use serde_json::{Value, json};

use crate::{app, run_args};

const PARTS: &str = "
goal: Review it
tasks:
  - {id: read, title: Read it, role: tester}
  - {id: judge, title: Judge it, depends_on: [read]}
";

const MAIN: &str = "
goal: Build and review
tasks:
  - id: build
    title: Build it
    role: coder
    tasks:
      - {id: code, title: Write the code}
      - {id: docs, title: Write the docs, role: writer}
  - {id: review, document: parts/review.yaml, depends_on: [build]}
";

#[test]
fn a_composite_plan_runs() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    app.write("parts/review.yaml", PARTS);
    app.write("plan.yaml", MAIN);
    let run = app.run(run_args(&["--plan", "plan.yaml"])).expect_code(0);
    let plan = run.events_of("plan_ready")[0]["tasks"].clone();
    let task = |key: &str| plan.as_array().unwrap().iter().find(|it| it["key"] == key).unwrap().clone();
    assert_eq!(task("build.docs")["role"], "writer");
    assert_eq!(task("build.code")["role"], "coder");
    let needs = task("review.read")["depends_on"].clone();
    assert_eq!(needs, json!([task("build.code")["id"], task("build.docs")["id"]]));
}

#[test]
fn links_out_of_the_folder_and_in_circles_are_refused_with_their_place() {
    let app = app();
    app.write("secret.yaml", PARTS);
    app.write("plans/loop.yaml", "tasks: [{id: a, document: back.yaml}]");
    app.write("plans/back.yaml", "tasks: [{id: b, document: loop.yaml}]");
    let plan = "tasks:\n  - {id: a, document: ../secret.yaml}\n  - {id: b, document: loop.yaml}\n  - {id: c, document: \"https://example.com/x\"}\n";
    app.write("plans/plan.yaml", plan);
    let run = app.run(["schedule", "--plan", "plans/plan.yaml", "--workers", "2", "-o", "json"]).expect_code(3);
    let value: Value = serde_json::from_str(&run.stdout).unwrap();
    let codes: Vec<&str> = value["errors"].as_array().unwrap().iter().map(|it| it["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["invalid_link", "link_cycle", "invalid_link"], "{}", run.stdout);
    for wanted in
        ["`tasks[0].document`: `../secret.yaml` leads out", "`back.yaml: tasks[0].document`", "is not followed"]
    {
        assert!(run.stdout.contains(wanted), "{wanted}: {}", run.stdout);
    }
    // A mistake in a linked document names that document.
    app.write("plans/loop.yaml", "tasks: [{id: a, title: A, depends_on: [z]");
    let run = app.run(["schedule", "--plan", "plans/plan.yaml", "--workers", "2"]).expect_code(3);
    assert!(run.stderr.contains("loop.yaml"), "{}", run.stderr);
}

#[test]
fn templates_are_listed_shown_filled_and_run() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let list = app.run(["template", "list", "-o", "json"]).expect_code(0);
    let names: Vec<String> = serde_json::from_str::<Value>(&list.stdout)
        .unwrap()
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names.len(), 8, "{names:?}");
    for name in &names {
        app.run(["template", "check", name]).expect_code(0);
        let shown = app.run(["template", "show", name]).expect_code(0);
        assert!(shown.stdout.contains("must be given"), "{}", shown.stdout);
    }
    let filled = app.run([
        "template",
        "apply",
        "research-report",
        "--set",
        "question=Which broker fits?",
        "--set",
        "pages=2",
        "-o",
        "json",
    ]);
    let filled = filled.expect_code(0);
    assert!(
        filled.stdout.contains("Which broker fits?") && filled.stdout.contains("about 2 pages"),
        "{}",
        filled.stdout
    );
    let mut command = app.command(run_args(&["--plan", "-"]));
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = Running::from(command.spawn().unwrap());
    child.stdin.take().unwrap().write_all(filled.stdout.as_bytes()).unwrap();
    let run = finish(child, std::time::Duration::from_mins(1)).expect_code(0);
    assert_eq!(run.events().last().unwrap()["tasks"]["completed"], 4);
    // What is printed for people is a plan as well.
    let yaml = app.run(["template", "apply", "research-report", "--set", "question=Which broker fits?"]).expect_code(0);
    app.write("plan.yaml", &yaml.stdout);
    app.run(["schedule", "--plan", "plan.yaml", "--workers", "1"]).expect_code(0);
}

#[test]
fn wrong_values_and_templates_are_refused() {
    let app = app();
    let run =
        app.run(["template", "apply", "code-review", "--set", "severity=none", "--set", "colour=red"]).expect_code(3);
    for wanted in [
        "`severity`",
        "all, important, critical",
        "`colour` is not a parameter",
        "`code` must be given",
        "[template.invalid]",
    ] {
        assert!(run.stderr.contains(wanted), "{wanted}: {}", run.stderr);
    }
    assert!(run.stdout.is_empty());
    let run = app.run(["template", "show", "nonsense"]).expect_code(5);
    assert!(run.stderr.contains("research-report"), "{}", run.stderr);
    app.write(
        "mine.yaml",
        "title: Mine\nparameters: {who: {type: string}}\ntasks: [{id: a, title: \"For {{ nobody }}\"}]\n",
    );
    let run = app.run(["template", "check", "mine.yaml"]).expect_code(3);
    assert!(
        run.stderr.contains("there is no parameter `nobody`") && run.stderr.contains("fills no blank"),
        "{}",
        run.stderr
    );
    app.write("values.yaml", "code: fn a() {}\nfocus: speed\n");
    let run = app
        .run(["template", "apply", "code-review", "--values", "values.yaml", "--set", "focus=safety"])
        .expect_code(0);
    assert!(run.stdout.contains("focus on safety"), "{}", run.stdout);
}
