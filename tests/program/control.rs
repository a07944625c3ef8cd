//! Pausing, cancelling and killing a run from another process.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    time::Duration,
};

use crewline_testkit::{Gate, Running, Script, StubReply, StubServer, TestApp, app::finish};
use serde_json::Value;

use crate::{
    app, fan,
    resume::{interrupt, only_run, texts, wait_for_calls},
    run_args, signal,
    workers::wait_until,
};

/// Tasks of [`running`]: more than can be done before a slow machine looks for the next wish.
const TASKS: u64 = 102;

/// Answers that wait at the gate, and then take their time.
fn slow(gate: &Gate) -> StubServer {
    StubServer::start(Script::default().behind(gate).latency(Duration::from_millis(300)))
}

/// A fan, running; its first tasks are being worked on.
fn running(app: &TestApp, server: &StubServer, calls: u64) -> (Running, String) {
    app.registry(server);
    app.write("plan.json", &fan(100).to_string());
    let child = app.spawn(run_args(&["--plan", "plan.json", "--concurrency", "2"]));
    wait_for_calls(server, calls);
    (child, only_run(app))
}

fn report(app: &TestApp, run: &str) -> Value {
    serde_json::from_str(&app.run(["show", run, "-o", "json"]).expect_code(0).stdout).unwrap()
}

#[test]
fn pause_lets_what_runs_end_and_resume_goes_on() {
    let gate = Gate::after(1);
    let server = slow(&gate);
    let app = app();
    let (child, id) = running(&app, &server, 3);
    app.run(["pause", "--no-wait", &id]).expect_code(0);
    gate.open();
    let paused = app.run(["pause", &id[..5]]).expect_code(0);
    assert_eq!(paused.stdout.trim(), format!("{id} interrupted"));
    let run = finish(child, TestApp::LIMIT).expect_code(130);
    assert_eq!(run.events().last().unwrap()["status"], "interrupted");
    assert_eq!(run.events().last().unwrap()["tasks"]["in_progress"], 0);
    assert!(run.stderr.contains(&format!("crewline resume {id}")), "{}", run.stderr);
    app.run(["pause", &id]).expect_code(0);

    let rest = StubServer::start(Script::default());
    app.registry(&rest);
    let resumed = app.run(["resume", &id, "-o", "jsonl", "--out", "out"]).expect_code(0);
    assert_eq!(resumed.events().last().unwrap()["tasks"]["completed"], TASKS);
    assert_eq!((server.calls() + rest.calls(), server.hung_up()), (TASKS, 0), "no task ran twice");
}

#[test]
fn cancel_lets_what_runs_end_and_ends_the_run() {
    let gate = Gate::after(1);
    let server = slow(&gate);
    let app = app();
    let (child, id) = running(&app, &server, 3);
    app.run(["cancel", "--no-wait", &id]).expect_code(0);
    gate.open();
    let cancelled = app.run(["cancel", &id, "-o", "json"]).expect_code(0);
    let stopped: Value = serde_json::from_str(&cancelled.stdout).unwrap();
    assert_eq!(stopped[0]["status"], "cancelled");
    let run = finish(child, TestApp::LIMIT).expect_code(130);
    let last = run.events().pop().unwrap();
    assert_eq!(last["status"], "cancelled");
    assert_eq!(last["tasks"]["pending"], 0, "{last}");
    let calls = server.calls();
    let completed = last["tasks"]["completed"].as_u64().unwrap();
    assert_eq!(calls, completed, "what ran was let to its end, and nothing more was started");
    let report = report(&app, &id);
    assert_eq!(report["counts"]["completed"], completed);
    assert_eq!(report["counts"]["cancelled"], TASKS - completed);
    assert_eq!(server.hung_up(), 0, "no call was broken off");

    for command in ["resume", "cancel", "kill", "pause", "retry"] {
        let refused = app.run([command, &id]).expect_code(9);
        assert!(refused.stderr.contains("cancelled"), "{command}: {}", refused.stderr);
    }
}

#[test]
fn kill_aborts_what_runs() {
    // The second call is never answered.
    let server = StubServer::start(Script::default().behind(&Gate::after(1)));
    let app = app();
    let (child, id) = running(&app, &server, 3);
    let killed = app.run(["kill", &id]).expect_code(0);
    assert_eq!(killed.stdout.trim(), format!("{id} cancelled"));
    let run = finish(child, TestApp::LIMIT).expect_code(130);
    let last = run.events().pop().unwrap();
    assert_eq!((&last["status"], &last["tasks"]["cancelled"]), (&"cancelled".into(), &(TASKS - 1).into()));
    wait_until("the end of the calls", || server.hung_up() == 2);
    // 4,096 tokens of output at two dollars a million, and the question.
    let least = 0.008_192;
    let calls = run.events_of("model_call");
    let aborted: Vec<&Value> = calls.iter().filter(|call| call["outcome"] != "ok").collect();
    assert_eq!((calls.len(), aborted.len()), (3, 2), "{calls:#?}");
    for call in aborted {
        assert_eq!((&call["estimated"], call["cost_usd"].as_f64() > Some(least)), (&true.into(), true), "{call}");
    }
    let cost: f64 = calls.iter().map(|call| call["cost_usd"].as_f64().unwrap()).sum();
    assert!((last["cost_usd"].as_f64().unwrap() - cost).abs() < 1e-9, "the run is charged with it: {last}");
}

#[test]
fn a_run_that_lost_its_process_is_stopped_by_who_asks() {
    for (command, status, code) in [("kill", "cancelled", 9), ("cancel", "cancelled", 9), ("pause", "interrupted", 0)] {
        let gate = Gate::after(2);
        let server = StubServer::start(Script::default().behind(&gate));
        let app = app();
        let (child, id) = running(&app, &server, 4);
        signal(child.id(), "KILL");
        finish(child, TestApp::LIMIT);
        gate.open();
        let calls = server.calls();
        let stopped = app.run([command, &id]).expect_code(0);
        assert_eq!(stopped.stdout.trim(), format!("{id} {status}"), "{}", stopped.stderr);
        assert_eq!(server.calls(), calls, "{command}: no model is called");
        let report = report(&app, &id);
        assert_eq!(report["status"], status);
        assert_eq!(report["counts"]["in_progress"], 0, "{command}");
        let open = report["tasks"].as_array().unwrap().iter().flat_map(|task| task["attempts"].as_array().unwrap());
        let open = open.flat_map(|attempt| attempt["calls"].as_array().unwrap());
        assert!(open.clone().all(|call| call["outcome"].is_string()), "{command}: every call has an end");
        app.run(["resume", &id, "--out", "out"]).expect_code(code);
    }
}

#[test]
fn what_was_stopped_before_is_ended_for_good() {
    let gate = Gate::after(1);
    let server = StubServer::start(Script::default().behind(&gate));
    let app = app();
    let (mut child, id) = running(&app, &server, 3);
    interrupt(&mut child);
    gate.open();
    finish(child, TestApp::LIMIT).expect_code(130);
    assert_eq!(app.run(["cancel", &id]).expect_code(0).stdout.trim(), format!("{id} cancelled"));
    assert_eq!(report(&app, &id)["counts"]["pending"], 0);
}

#[test]
fn a_run_without_a_plan_is_stopped_before_it_is_planned() {
    let server = StubServer::start(Script::default().on_call(1, StubReply::hang()));
    let app = app();
    app.registry(&server);
    let child = app.spawn(run_args(&["Describe the tide"]));
    wait_for_calls(&server, 1);
    signal(child.id(), "KILL");
    finish(child, TestApp::LIMIT);
    let id = only_run(&app);
    assert_eq!(app.run(["cancel", &id]).expect_code(0).stdout.trim(), format!("{id} cancelled"));
    assert_eq!(server.calls(), 1, "nobody is asked for a plan again");
}

#[test]
fn nobody_is_stopped_by_a_misspelt_id() {
    let gate = Gate::after(0);
    let server = StubServer::start(Script::default().behind(&gate));
    let app = app();
    let (child, id) = running(&app, &server, 1);
    app.run(["kill", &id, "zzzzzzzz"]).expect_code(5);
    gate.open();
    finish(child, TestApp::LIMIT).expect_code(0);
    let late = app.run(["cancel", &id]).expect_code(9);
    assert!(late.stderr.contains("run.finished"), "{}", late.stderr);
}

#[test]
fn without_waiting_the_wish_is_done_all_the_same() {
    let gate = Gate::after(0);
    let server = slow(&gate);
    let app = app();
    let (child, id) = running(&app, &server, 1);
    assert_eq!(app.run(["cancel", "--no-wait", &id]).expect_code(0).stdout.trim(), format!("{id} running"));
    gate.open();
    let run = finish(child, TestApp::LIMIT).expect_code(130);
    assert_eq!(run.events().last().unwrap()["status"], "cancelled");
}

/// Whether a process answers SIGTERM by itself.
fn listens(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << 14) != 0
}

#[test]
fn one_signal_right_at_the_start_stops_a_run() {
    let server = StubServer::start(Script::default().latency(Duration::from_millis(500)));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(300).to_string());
    app.run(["ps"]).expect_code(0);
    let file = app.path("data/crewline.db");
    // Before, while and after the run is loaded.
    for stage in ["listens", "has a run", "has asked"] {
        let (calls, runs) = (server.calls(), texts(&file, "SELECT id FROM runs").len());
        let child = app.spawn(run_args(&["--plan", "plan.json"]));
        wait_until(stage, || match stage {
            "listens" => listens(child.id()),
            "has a run" => texts(&file, "SELECT id FROM runs").len() > runs,
            _ => server.calls() > calls,
        });
        signal(child.id(), "TERM");
        let run = finish(child, Duration::from_mins(1)).expect_code(130);
        assert_eq!(run.events().last().unwrap()["status"], "interrupted", "{stage}");
        assert!(server.calls() <= calls + 1, "{stage}: only the first task has begun");
    }
}

#[test]
fn one_signal_before_a_run_is_loaded_stops_it_when_it_is() {
    use sea_orm::{ConnectOptions, ConnectionTrait, Database};
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(300).to_string());
    app.run(["ps"]).expect_code(0);
    let url = format!("sqlite:{}", app.path("data/crewline.db").display());
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let database = executor.block_on(async {
        let database = Database::connect(ConnectOptions::new(url).max_connections(1).to_owned()).await.unwrap();
        // Nothing of a run can be recorded.
        database.execute_unprepared("BEGIN IMMEDIATE").await.unwrap();
        database
    });
    let child = app.spawn(run_args(&["--plan", "plan.json"]));
    wait_until("a process that listens", || listens(child.id()));
    signal(child.id(), "TERM");
    executor.block_on(async { database.execute_unprepared("ROLLBACK").await.unwrap() });
    let run = finish(child, TestApp::LIMIT).expect_code(130);
    let last = run.events().pop().unwrap();
    assert_eq!((&last["status"], server.calls()), (&"interrupted".into(), 0), "{}", run.stderr);
    let resumed = app.run(["resume", last["run"].as_str().unwrap(), "--max-steps", "2", "--out", "out"]);
    resumed.expect_code(7);
}

/// Freezes a process while it does not write, so that others may.
fn freeze(app: &TestApp, pid: u32) {
    use sea_orm::{ConnectionTrait, Database};
    let url = format!("sqlite:{}", app.path("data/crewline.db").display());
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    wait_until("a moment without a write", || {
        signal(pid, "STOP");
        let is_free = executor.block_on(async {
            let database = Database::connect(&url).await.unwrap();
            let is_free = database.execute_unprepared("BEGIN IMMEDIATE; ROLLBACK").await.is_ok();
            database.close().await.unwrap();
            is_free
        });
        if !is_free {
            signal(pid, "CONT");
        }
        is_free
    });
}

#[test]
fn who_waits_for_a_frozen_process_is_told_which() {
    for (command, status) in [("pause", "interrupted"), ("kill", "cancelled")] {
        let gate = Gate::after(1);
        let server = slow(&gate);
        let app = app();
        app.registry(&server);
        app.write("plan.json", &fan(100).to_string());
        let spawn = |args: &[&str]| {
            let mut command = app.command(args);
            command.env("CREWLINE_QUEUE__LEASE", "1s").stdout(Stdio::piped()).stderr(Stdio::piped());
            Running::from(command.spawn().unwrap())
        };
        let child = spawn(&run_args(&["--plan", "plan.json", "--concurrency", "2"]));
        wait_for_calls(&server, 3);
        let (pid, id) = (child.id(), only_run(&app));
        freeze(&app, pid);
        let refused = finish(spawn(&[command, &id]), TestApp::LIMIT);
        signal(pid, "CONT");
        let refused = refused.expect_code(9);
        for part in ["run.frozen", &format!(":{pid},"), &format!("kill -CONT {pid}"), &format!("kill -9 {pid}")] {
            assert!(refused.stderr.contains(part), "{command}: {part}: {}", refused.stderr);
        }
        // It does what it was asked meanwhile.
        gate.open();
        let run = finish(child, TestApp::LIMIT).expect_code(130);
        assert_eq!(run.events().last().unwrap()["status"], status);
    }
}

#[test]
fn who_waits_is_told_what_is_waited_for() {
    let gate = Gate::after(1);
    let server = StubServer::start(Script::default().behind(&gate));
    let app = app();
    let (child, id) = running(&app, &server, 3);
    let pid = child.id();
    let mut waiting = app.spawn(["pause", &id]);
    let mut errors = BufReader::new(waiting.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("has not ended after") {
        assert_ne!(errors.read_line(&mut said).unwrap(), 0, "it ended: {said}");
    }
    assert!(said.contains(&format!(":{pid}: 2")), "{said}");
    gate.open();
    finish(waiting, TestApp::LIMIT).expect_code(0);
    finish(child, TestApp::LIMIT).expect_code(130);
}
