//! `kill -9` while commands run, again and again: none is run twice by itself, and what each did is kept.

use std::{path::Path, time::Duration};

use crewline_testkit::{Script, StubReply, StubRequest, StubServer, TestApp, app::finish};
use serde_json::{Value, json};

use crate::{app, resume::only_run, run_args, signal};

/// How often `name` was noted below `dir`.
fn notes(dir: &Path, name: &str) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let of = |path: std::path::PathBuf| match path.is_dir() {
        true => notes(&path, name),
        false if path.ends_with(name) => std::fs::read_to_string(&path).map_or(0, |it| it.lines().count()),
        false => 0,
    };
    entries.flatten().map(|entry| of(entry.path())).sum()
}

/// One task after the other runs a command that never ends; each time the process is killed while it runs.
fn kill_while_commands_run(kills: usize) {
    let server = StubServer::start(Script::new(|request: &StubRequest| {
        let said = request.text();
        if !said.contains("You have tools.") {
            return StubReply::text("All of it was run.");
        }
        if said.contains("Result of `") {
            return StubReply::json(&json!({"action": "final", "text": "It is over."}));
        }
        let (_, rest) = said.split_once("Run command ").unwrap();
        let number = &rest[..rest.find('.').unwrap()];
        let arguments = json!({"program": "sh", "args": ["slow.sh", number]});
        StubReply::json(&json!({"action": "run_command", "arguments": arguments}))
    }));
    let app = app();
    let role = "roles:\n  doer: {tools: {run_command: allow}, commands: {allow: [\"sh slow.sh *\"], unconfined: run}}";
    app.write("crewline.yaml", &server.registry().replace("roles:", role));
    app.write("project/slow.sh", "echo once >> \"log-$1\"\nsleep 100\n");
    let tasks = (0..kills).map(|number| {
        let what = format!("Run command {number}.");
        json!({"id": format!("t{number}"), "title": "T", "description": what, "role": "doer", "depends_on": []})
    });
    app.write("plan.json", &json!({"goal": "g", "tasks": tasks.collect::<Vec<_>>()}).to_string());
    let views = app.path("data/workspaces");
    let first = run_args(&["--plan", "plan.json", "--workspace", "project", "--concurrency", "1"]);
    let mut child = app.spawn(first);
    let log = |number: usize| format!("log-{number}");
    for number in 0..kills {
        crate::workers::wait_until("the command", || notes(&views, &log(number)) > 0);
        signal(child.id(), "KILL");
        assert_eq!(finish(child, TestApp::LIMIT).code, None);
        child = app.spawn(["resume", &only_run(&app), "-o", "jsonl", "--out", "out", "--no-input"]);
    }
    let waits = finish(child, Duration::from_mins(2)).expect_code(8);
    assert!(waits.events_of("tool_call").is_empty(), "no command is made again without a person's word");
    let id = only_run(&app);
    let asked: Value = serde_json::from_str(&app.run(["approvals", &id, "--json"]).expect_code(0).stdout).unwrap();
    let asked = asked.as_array().unwrap();
    assert_eq!(asked.len(), kills, "of each it is asked");
    for it in asked {
        assert_eq!(it["kind"], "again");
        app.run(["reject", it["id"].as_str().unwrap(), "-m", "it was done"]).expect_code(0);
    }
    let done = app.run(["resume", &id, "-o", "jsonl", "--out", "out"]).expect_code(0);
    let of_ours = |it: &Value| it["key"].as_str().is_some_and(|key| key.starts_with('t'));
    assert_eq!(done.events_of("task_completed").iter().filter(|it| of_ours(it)).count(), kills, "no result is lost");
    let unknown = done.events_of("tool_call").into_iter().filter(|it| it["outcome"] == "unknown");
    assert_eq!(unknown.count(), kills);
    for number in 0..kills {
        let log = std::fs::read_to_string(app.path("project").join(log(number))).unwrap();
        assert_eq!(log, "once\n", "command {number} was run once, and what it did is merged");
    }
    let asked = server.requests().iter().filter(|it| it.contains("You have tools.")).count();
    assert_eq!(asked, 2 * kills, "no answer is bought twice");
}

#[test]
fn no_kill_repeats_a_command_or_loses_what_it_did() {
    kill_while_commands_run(15);
}

#[test]
#[ignore = "the same a hundred times takes minutes: `cargo test --workspace --test program kills:: -- --ignored`"]
fn a_hundred_kills_repeat_no_command_and_lose_nothing() {
    kill_while_commands_run(100);
}
