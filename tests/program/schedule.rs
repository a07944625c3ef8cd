//! Timetables and critical paths: what a program reads of them, and how a broken plan is refused.

use crewline_testkit::{Finished, Script, StubServer};
use serde_json::{Value, json};

use crate::{app, run_args};

/// A diamond beside a long task.
fn plan() -> Value {
    json!({"goal": "g", "tasks": [
        {"id": "a", "title": "A", "duration": 1.5},
        {"id": "b", "title": "B", "duration": 2, "depends_on": ["a"]},
        {"id": "c", "title": "C", "duration": 2, "depends_on": ["a"]},
        {"id": "d", "title": "D", "duration": 1, "depends_on": ["b", "c"]},
        {"id": "e", "title": "E \"quoted\"", "duration": 4},
    ]})
}

fn value(run: &Finished) -> Value {
    serde_json::from_str(&run.stdout).unwrap()
}

#[test]
fn a_plan_gets_its_timetable() {
    let app = app();
    app.write("plan.json", &plan().to_string());
    for (workers, makespan) in [("1", 10.5), ("2", 6.5), ("3", 4.5), ("unbounded", 4.5)] {
        let run = app.run(["schedule", "--plan", "plan.json", "--workers", workers, "-o", "json"]).expect_code(0);
        let value = value(&run);
        assert_eq!(value["makespan"], json!(makespan), "{workers} workers");
        assert_eq!(value["tasks"].as_object().unwrap().len(), 5);
        let (c, d) = (&value["tasks"]["c"], &value["tasks"]["d"]);
        assert!(c["end"].as_f64() <= d["start"].as_f64());
    }
    let run = app.run(["schedule", "--plan", "plan.json", "--workers", "2", "--strategy", "bfs"]).expect_code(0);
    assert!(run.stdout.contains("START") && run.stdout.contains("· bfs"), "{}", run.stdout);
    for line in [&["--workers", "0"][..], &["--workers", "2", "--strategy", "best"], &["--workers", "2", "-o", "dot"]] {
        app.run(["schedule", "--plan", "plan.json"].iter().chain(line)).expect_code(2);
    }
}

#[test]
fn a_timetable_knows_what_is_planned_for_later_and_what_will_be_late() {
    let app = app();
    let tasks = json!({"goal": "g", "tasks": [
        {"id": "a", "title": "A", "duration": 60},
        {"id": "b", "title": "B", "duration": 600, "depends_on": ["a"], "planned_for": "2026-12-01T09:00:00Z"},
        {"id": "c", "title": "C", "duration": 30, "depends_on": ["b"], "deadline": "2026-12-01T09:10:00Z"},
        {"id": "d", "title": "D", "duration": 30, "deadline": "2026-12-01T09:10:00Z"},
    ]});
    app.write("plan.json", &tasks.to_string());
    let schedule = |from: &str, output: &str| {
        app.run(["schedule", "--plan", "plan.json", "--workers", "1", "--from", from, "-o", output]).expect_code(0)
    };
    // It begins an hour before: the worker waits for `b`, and `c` is half a minute late.
    let early = schedule("2026-12-01T08:00:00Z", "json");
    let found = value(&early);
    assert_eq!(found["tasks"]["b"], json!({"start": 3600.0, "end": 4200.0}));
    assert_eq!(found["makespan"], json!(4230.0));
    assert_eq!(found["overdue"], json!([{"task": "c", "deadline": "2026-12-01T09:10:00.000Z", "late": 30.0}]));
    assert!(early.stderr.contains("warning: `c` would end 30.0 s after its deadline"), "{}", early.stderr);
    let late = schedule("2026-12-02T08:00:00Z", "json");
    assert_eq!(value(&late)["makespan"], json!(720.0), "what was planned for yesterday waits for nothing");
    assert_eq!(value(&late)["overdue"].as_array().unwrap().len(), 2);
    let shown = schedule("2026-12-01T08:00:00Z", "table").stdout;
    assert!(shown.contains("· from 2026-12-01T08:00:00.000Z"), "{shown}");
    app.registry(&StubServer::start(Script::default()));
    let preview = app.run(["run", "--plan", "plan.json", "--dry-run", "--concurrency", "1", "-o", "json"]);
    assert!(value(&preview.expect_code(0))["schedule"]["makespan"].as_f64() >= Some(720.0));
    app.run(["schedule", "--plan", "plan.json", "--workers", "1", "--from", "tomorrow"]).expect_code(2);
}

#[test]
fn a_broken_plan_is_refused_with_all_its_errors_on_stdout() {
    let app = app();
    let tasks = json!({"tasks": [
        {"id": "a", "title": "A", "depends_on": ["b"], "duration": -1},
        {"id": "b", "title": " ", "depends_on": ["a", "b", "z"]},
        {"id": "b", "title": "B"},
        {"title": "C"},
    ]});
    app.write("plan.json", &tasks.to_string());
    let run = app.run(["schedule", "--plan", "plan.json", "--workers", "2", "-o", "json"]).expect_code(3);
    let value = value(&run);
    let mut codes: Vec<&str> =
        value["errors"].as_array().unwrap().iter().map(|it| it["code"].as_str().unwrap()).collect();
    codes.sort_unstable();
    assert_eq!(
        codes,
        [
            "blank_title",
            "cycle",
            "duplicate_id",
            "missing_id",
            "negative_duration",
            "self_dependency",
            "unknown_dependency"
        ]
    );
    for error in value["errors"].as_array().unwrap() {
        assert!(error["message"].as_str().unwrap().contains("tasks["), "{error}");
    }
    assert!(run.stderr.contains("[plan.invalid]"), "{}", run.stderr);
    // Without `-o json` stdout stays empty.
    let run = app.run(["schedule", "--plan", "plan.json", "--workers", "2"]).expect_code(3);
    assert!(run.stdout.is_empty());
    app.write("plan.json", "{\"tasks\": [");
    let run = app.run(["critical-path", "--plan", "plan.json", "-o", "json"]).expect_code(3);
    assert!(run.stdout.contains("plan.syntax"), "{}", run.stdout);
}

#[test]
fn the_critical_path_is_shown_and_drawn() {
    let app = app();
    app.write("plan.json", &plan().to_string());
    let run = app.run(["critical-path", "--plan", "plan.json", "-o", "json"]).expect_code(0);
    let value = value(&run);
    assert_eq!((&value["length"], &value["path"]), (&json!(4.5), &json!(["a", "b", "d"])));
    assert_eq!(value["tasks"]["e"], json!({"start": 0.0, "end": 4.0, "slack": 0.5}));
    let run = app.run(["critical-path", "--plan", "plan.json", "-o", "text"]).expect_code(0);
    assert!(run.stdout.contains("a → b → d"), "{}", run.stdout);
    let run = app.run(["critical-path", "--plan", "plan.json", "-o", "dot"]).expect_code(0);
    assert!(run.stdout.starts_with("digraph") && run.stdout.contains(r#"E \"quoted\""#), "{}", run.stdout);
    let run = app.run(["critical-path", "--plan", "plan.json", "-o", "mermaid"]).expect_code(0);
    assert!(run.stdout.starts_with("flowchart") && run.stdout.contains("==>"), "{}", run.stdout);
}

#[test]
fn a_run_takes_the_longest_way_first_and_knows_it_afterwards() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    app.write("plan.json", &plan().to_string());
    let preview =
        app.run(["run", "--plan", "plan.json", "--dry-run", "--concurrency", "2", "-o", "json"]).expect_code(0);
    assert_eq!(value(&preview)["schedule"]["makespan"], json!(6.5));
    let order = |strategy: &str| {
        let mut args = run_args(&["--plan", "plan.json", "--concurrency", "1", "--strategy", strategy]);
        let out = format!("out-{strategy}");
        args[4] = &out;
        let run = app.run(args).expect_code(0);
        let started: Vec<String> =
            run.events_of("task_started").iter().map(|it| it["task"].as_str().unwrap().to_owned()).collect();
        let plan = run.events_of("plan_ready")[0]["tasks"].clone();
        let key = |id: &String| {
            let task = plan.as_array().unwrap().iter().find(|it| it["id"] == id.as_str()).unwrap();
            task["key"].as_str().unwrap().to_owned()
        };
        let run_id = run.events()[0]["run"].as_str().unwrap().to_owned();
        (started.iter().filter(|it| plan.to_string().contains(it.as_str())).map(key).collect::<Vec<_>>(), run_id)
    };
    assert_eq!(order("dag").0, ["a", "e", "b", "c", "d", "synthesis"]);
    assert_eq!(order("bfs").0, ["a", "e", "b", "c", "d", "synthesis"]);
    let (started, run) = order("postorder");
    assert_eq!(started, ["a", "b", "c", "d", "e", "synthesis"]);
    let shown = app.run(["critical-path", &run, "-o", "json"]).expect_code(0);
    assert!(value(&shown)["path"].as_array().unwrap().contains(&json!("synthesis")), "{}", shown.stdout);
}
