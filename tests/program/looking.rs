//! Looking at runs: `logs`, `tree`, `graph`, `diff`, and ids that are pasted anywhere.

use std::io::{BufRead as _, BufReader, Read as _};

use crewline_testkit::{
    Gate, Script, StubReply, StubServer, TestApp,
    app::{Finished, finish},
};
use serde_json::Value;

use crate::{app, fan, run_args, workers::wait_until};

/// Runs a fan of `width` and answers its id.
fn made(app: &TestApp, width: usize) -> String {
    app.write("plan.json", &fan(width).to_string());
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    run.events()[0]["run"].as_str().unwrap().to_owned()
}

fn json(app: &TestApp, args: &[&str]) -> Value {
    let run = app.run(args).expect_code(0);
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.stdout))
}

#[test]
fn logs_are_the_events() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(2).to_string());
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    let id = run.events()[0]["run"].as_str().unwrap().to_owned();

    let all = app.run(["logs", &id, "-o", "jsonl"]).expect_code(0);
    assert_eq!(all.events(), run.events(), "what was printed while it ran");
    let list = json(&app, &["logs", &id, "-o", "json"]);
    assert_eq!(list.as_array().unwrap().len(), run.events().len());
    let later = app.run(["logs", &id, "--since", "5", "-o", "jsonl"]).expect_code(0);
    assert_eq!(later.events()[0]["seq"], 6);
    let last = app.run(["logs", &id, "-n", "1", "-o", "jsonl"]).expect_code(0);
    assert_eq!((last.events().len(), &last.events()[0]["type"]), (1, &"run_finished".into()));
    let followed = app.run(["logs", &id, "-f", "-o", "jsonl"]).expect_code(0);
    assert_eq!(followed.events(), run.events(), "a run that is over is not waited for");

    let one = app.run(["logs", &id, "--task", "m0", "-o", "jsonl"]).expect_code(0).events();
    assert_eq!(
        one.iter().map(|it| it["type"].as_str().unwrap()).collect::<Vec<_>>(),
        ["task_started", "model_call", "task_completed", "memory_stored", "summary_ready"]
    );
    let task = one[0]["task"].as_str().unwrap();
    for way in [&["logs", task][..], &["logs", &format!("{id}/m0")]] {
        let text = app.run(way).expect_code(0).stdout;
        assert_eq!(text.lines().count(), 5, "{way:?}: {text}");
        assert!(text.contains("m0") && text.contains("task_completed"), "{text}");
    }
    app.run(["logs", &id, "-f", "-o", "json"]).expect_code(2);
}

#[test]
fn logs_follow_a_run_of_another_process() {
    let gate = Gate::after(1);
    let server = StubServer::start(Script::default().behind(&gate));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(3).to_string());
    let child = app.spawn(run_args(&["--plan", "plan.json", "--concurrency", "1"]));
    crate::resume::wait_for_calls(&server, 2);
    let id = crate::resume::only_run(&app);
    let mut follower = app.spawn(["logs", &id, "-f", "-o", "jsonl"]);
    let mut lines = BufReader::new(follower.stdout.take().unwrap());
    let mut followed = String::new();
    while !followed.contains("task_completed") {
        assert_ne!(lines.read_line(&mut followed).unwrap(), 0, "it ended: {followed}");
    }
    // What comes from now on is not there yet.
    gate.open();
    lines.read_to_string(&mut followed).unwrap();
    let followed = Finished { stdout: followed, ..finish(follower, TestApp::LIMIT) }.expect_code(0);
    let run = finish(child, TestApp::LIMIT).expect_code(0);
    assert_eq!(followed.events(), run.events(), "every event once, in order");
}

#[test]
fn a_tree_has_every_task_and_attempt() {
    let server = StubServer::start(Script::default().on_text("Work on one part", StubReply::status(500)));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(1).to_string());
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(1);
    let id = run.events()[0]["run"].as_str().unwrap().to_owned();

    let text = app.run(["tree", &id]).expect_code(0).stdout;
    for words in ["first First completed", "m0 Part m0 failed", "last Last blocked", "← first"] {
        assert!(text.contains(words), "{words} is missing in:\n{text}");
    }
    assert!(!text.contains("attempt 1"), "{text}");
    let deep = app.run(["tree", &id, "--attempts"]).expect_code(0).stdout;
    assert!(deep.contains("attempt 1 failed") && deep.contains("task cheap error"), "{deep}");
    let tree = json(&app, &["tree", &id, "-o", "json"]);
    assert_eq!(tree[0]["kind"], "root");
    assert_eq!(tree[0]["children"].as_array().unwrap().len(), 3);
    assert_eq!(tree[0]["children"][2]["depends_on"][0], "m0");
}

#[test]
fn a_graph_is_drawn_in_three_ways() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let id = made(&app, 2);
    let mermaid = app.run(["graph", &id]).expect_code(0).stdout;
    assert!(mermaid.starts_with("flowchart TD\n"), "{mermaid}");
    assert!(mermaid.contains("n0 --> n1") && mermaid.contains("n2 --> n3"), "{mermaid}");
    let dot = app.run(["graph", &id, "--format", "dot"]).expect_code(0).stdout;
    assert!(dot.starts_with("digraph ") && dot.contains("n0 -> n1;"), "{dot}");
    let graph = json(&app, &["graph", &id, "--format", "json"]);
    assert_eq!(graph["nodes"].as_array().unwrap().len(), 4);
    assert_eq!(graph["edges"].as_array().unwrap().len(), 4);
    assert_eq!(json(&app, &["graph", &id, "-o", "json"]), graph);
}

#[test]
fn runs_are_compared_by_task() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let one = made(&app, 2);
    let two = made(&app, 3);
    let same = app.run(["diff", &one, &one, "-o", "json"]).expect_code(0);
    let same: Value = serde_json::from_str(&same.stdout).unwrap();
    assert_eq!(same["is_same"], true);
    let run = app.run(["diff", &one, &two, "-o", "json"]).expect_code(1);
    let diff: Value = serde_json::from_str(&run.stdout).unwrap();
    let verdicts: Vec<(&str, &str)> = diff["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| (task["key"].as_str().unwrap(), task["result"].as_str().unwrap()))
        .collect();
    assert_eq!(verdicts, [("first", "same"), ("m0", "same"), ("m1", "same"), ("last", "same"), ("m2", "only_right")]);
    let text = app.run(["diff", &one, &two]).expect_code(1).stdout;
    assert!(text.contains("only_right") && text.contains("- | completed"), "{text}");
    let text = app.run(["diff", &one, &two, "--text", "--task", "m2"]).expect_code(1).stdout;
    assert!(text.contains(&format!("+++ {two}/m2")) && text.contains("\n+Result of"), "{text}");
    app.run(["diff", &one, &two, "--task", "nothing"]).expect_code(5);
}

#[test]
fn ids_are_found_by_what_is_unique_of_them() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let id = made(&app, 1);
    let report = json(&app, &["show", &id, "-o", "json"]);
    let task = report["tasks"][1]["id"].as_str().unwrap();
    for way in [&id[..4], task, &task[..4]] {
        let shown = json(&app, &["show", way, "-o", "json"]);
        assert_eq!(shown["run"], id.as_str(), "{way}");
    }
    for way in ["", "zzzzzzzz", "no-such-run", "k3v9x0ab9"] {
        let run = app.run(["show", way]).expect_code(5);
        assert!(run.stderr.contains("run.not_found"), "{way}: {}", run.stderr);
    }
    let run = app.run(["logs", &id, "--task", "nothing"]).expect_code(5);
    assert!(run.stderr.contains("task.not_found"), "{}", run.stderr);
}

#[test]
fn runs_are_listed_by_what_they_are() {
    let server = StubServer::start(Script::default().on_text("Break", StubReply::status(500)));
    let app = app();
    app.registry(&server);
    let good = made(&app, 1);
    app.write(
        "bad.json",
        r#"{"goal": "g", "tasks": [{"id": "a", "title": "A", "description": "Break.", "role": "coder", "depends_on": []}]}"#,
    );
    let bad = app.run(run_args(&["--plan", "bad.json"])).expect_code(6).events()[0]["run"].as_str().unwrap().to_owned();
    let ids = |args: &[&str]| {
        let mut line = vec!["ps", "--ids"];
        line.extend(args);
        let run = app.run(line).expect_code(0);
        run.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(ids(&["--all"]), [bad.clone(), good.clone()], "newest first");
    assert!(ids(&[]).is_empty());
    assert_eq!(ids(&["--status", "failed"]), std::slice::from_ref(&bad));
    assert_eq!(ids(&["--status", "completed,limit-reached"]), std::slice::from_ref(&good));
    assert_eq!(ids(&["--status", "completed,failed", "--since", "1h"]), [bad, good]);
    let refused = app.run(["ps", "--status", "done"]).expect_code(2);
    assert!(refused.stderr.contains("limit_reached"), "{}", refused.stderr);
}

#[test]
fn a_task_is_shown_with_what_it_made() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let id = made(&app, 1);
    let shown = json(&app, &["show", &format!("{id}/m0"), "-o", "json"]);
    assert_eq!(
        (&shown["run"], &shown["key"], &shown["status"]),
        (&id.as_str().into(), &"m0".into(), &"completed".into())
    );
    assert!(shown["text"].as_str().unwrap().starts_with("Result of"), "{shown}");
    assert_eq!(shown["attempts"][0]["calls"][0]["outcome"], "ok");
    let text = app.run(["show", shown["id"].as_str().unwrap()]).expect_code(0).stdout;
    assert!(text.contains("\nResult of") && text.contains("attempt  1 succeeded with 1 calls"), "{text}");
}

/// Whether a process handles SIGINT, the second bit (proc_pid_status(5)).
fn minds_interrupts(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() & 0b10 != 0
}

#[test]
fn a_run_of_another_process_is_watched() {
    let gate = Gate::after(0);
    let server = StubServer::start(Script::default().behind(&gate));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(2).to_string());
    let child = app.spawn(run_args(&["--plan", "plan.json", "--concurrency", "1"]));
    crate::resume::wait_for_calls(&server, 1);
    let id = crate::resume::only_run(&app);
    let left = app.spawn(["watch", &id]);
    wait_until("the watcher minds an interrupt", || minds_interrupts(left.id()));
    crate::signal(left.id(), "INT");
    finish(left, TestApp::LIMIT).expect_code(130);
    let watcher = app.spawn(["watch", &id]);
    wait_until("the next watcher", || minds_interrupts(watcher.id()));
    gate.open();
    let watched = finish(watcher, TestApp::LIMIT).expect_code(0);
    assert!(watched.stderr.contains("last completed") && watched.stdout.contains("4 of 4"), "{watched:?}");
    finish(child, TestApp::LIMIT).expect_code(0);
    let over = app.run(["watch", &id, "-o", "json"]).expect_code(0);
    assert_eq!(serde_json::from_str::<Value>(&over.stdout).unwrap()["status"], "completed");
}
