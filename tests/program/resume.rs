//! Interruptions and crashes: what is recorded stays, what is done is not done again.

use std::time::Duration;

use crewline_testkit::{Script, StubReply, StubServer, TestApp, app::finish};

use crate::{app, fan, run_args, signal};

/// Waits until the server has been asked `calls` times.
pub(crate) fn wait_for_calls(server: &StubServer, calls: u64) {
    for _ in 0..1_000 {
        if server.calls() >= calls {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the server was asked {} times only", server.calls());
}

pub(crate) fn only_run(app: &TestApp) -> String {
    let ps = app.run(["ps", "--all", "-o", "json"]).expect_code(0);
    let runs: serde_json::Value = serde_json::from_str(&ps.stdout).unwrap();
    runs[0]["run"].as_str().unwrap().to_owned()
}

#[test]
fn interrupt_drains_and_tells_how_to_go_on() {
    let server = StubServer::start(Script::default().latency(Duration::from_millis(300)));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(6).to_string());
    let child = app.spawn(run_args(&["--plan", "plan.json", "--concurrency", "2"]));
    wait_for_calls(&server, 2);
    signal(child.id(), "INT");
    let run = finish(child, TestApp::LIMIT).expect_code(130);
    let last = run.events().pop().unwrap();
    assert_eq!(last["status"], "interrupted");
    assert_eq!(last["tasks"]["in_progress"], 0, "what ran was let to its end");
    let id = last["run"].as_str().unwrap();
    assert!(run.stderr.contains(&format!("crewline resume {id}")), "{}", run.stderr);

    let resumed = app.run(["resume", id, "-o", "jsonl", "--out", "out"]).expect_code(0);
    assert_eq!(resumed.events().last().unwrap()["tasks"]["completed"], 8);
    assert_eq!(server.calls(), 8, "no task ran twice");
}

#[test]
fn kill_loses_nothing_and_repeats_only_what_was_in_flight() {
    let server = StubServer::start(Script::default().latency(Duration::from_millis(200)));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(12).to_string());
    let child = app.spawn(run_args(&["--plan", "plan.json", "--concurrency", "2"]));
    wait_for_calls(&server, 5);
    signal(child.id(), "KILL");
    assert_eq!(finish(child, TestApp::LIMIT).code, None);

    let id = only_run(&app);
    let resumed = app.run(["resume", &id, "-o", "jsonl", "--out", "out"]).expect_code(0);
    assert_eq!(resumed.events()[0]["resumed"], true);
    assert_eq!(resumed.events().last().unwrap()["tasks"]["completed"], 14);
    assert!(server.calls() <= 14 + 2, "at most the calls in flight are repeated: {}", server.calls());

    let again = app.run(["resume", &id, "--out", "out"]).expect_code(9);
    assert!(again.stderr.contains("completed"), "{}", again.stderr);
}

#[test]
fn a_server_continues_what_was_killed() {
    let server = StubServer::start(Script::default().latency(Duration::from_millis(200)));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(12).to_string());
    let child = app.spawn(run_args(&["--plan", "plan.json", "--concurrency", "2"]));
    wait_for_calls(&server, 5);
    signal(child.id(), "KILL");
    finish(child, TestApp::LIMIT);
    let id = only_run(&app);
    let child = app.spawn(["serve", "--addr", "127.0.0.1:0"]);
    let logged = app.run(["logs", &id, "-f", "-o", "jsonl"]).expect_code(0);
    signal(child.id(), "TERM");
    finish(child, TestApp::LIMIT).expect_code(0);
    let last = logged.events().pop().unwrap();
    assert_eq!((&last["status"], &last["tasks"]["completed"]), (&"completed".into(), &14.into()));
    assert!(server.calls() <= 14 + 2, "at most the calls in flight are repeated: {}", server.calls());
}

#[test]
fn a_completed_run_gets_the_documents_it_lost() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(2).to_string());
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    let id = only_run(&app);
    // As after a crash between the run's end and its documents: the report is the last of them.
    std::fs::remove_file(app.path("out/report.json")).unwrap();
    let resumed = app.run(["resume", &id, "-o", "jsonl", "--out", "out"]).expect_code(0);
    assert_eq!(resumed.events(), [run.events().pop().unwrap()], "its end is shown again");
    assert!(app.path("out/report.json").is_file());
    assert_eq!(server.calls(), 4, "nothing was asked again");

    let again = app.run(["resume", &id, "--out", "out"]).expect_code(9);
    assert!(again.stderr.contains("its documents are in out"), "{}", again.stderr);
    app.run(["resume", &id, "--out", "elsewhere"]).expect_code(0);
    assert!(app.path("elsewhere/RESULT.md").is_file());
}

#[test]
fn a_run_has_one_process() {
    let server = StubServer::start(Script::default().latency(Duration::from_millis(1_500)));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(1).to_string());
    let child = app.spawn(run_args(&["--plan", "plan.json"]));
    wait_for_calls(&server, 1);
    let id = only_run(&app);
    let second = app.run(["resume", &id]).expect_code(9);
    assert!(second.stderr.contains("being worked on"), "{}", second.stderr);
    finish(child, TestApp::LIMIT).expect_code(0);
    assert_eq!(server.calls(), 3);
}

#[test]
fn a_recorded_answer_is_not_bought_again() {
    // The first answer is no plan, and recorded as that; the process dies while it waits for the second.
    let script = Script::default()
        .on_call(1, StubReply::text("I would rather not say."))
        .on_call(2, StubReply::text("too late").after(Duration::from_secs(30)));
    let server = StubServer::start(script);
    let app = app();
    app.registry(&server);
    let child = app.spawn(run_args(&["Describe the tide"]));
    wait_for_calls(&server, 2);
    signal(child.id(), "KILL");
    assert_eq!(finish(child, TestApp::LIMIT).code, None);

    let id = only_run(&app);
    let resumed = app.run(["resume", &id, "-o", "jsonl", "--out", "out"]).expect_code(0);
    let tasks = resumed.events().last().unwrap()["tasks"]["completed"].as_u64().unwrap();
    assert_eq!(server.calls(), 2 + 1 + tasks, "the lost answer is asked for again, the recorded one is not");
    let asked = server.requests();
    assert_eq!(asked[2].messages, asked[1].messages, "the very question whose answer was lost");
}
