//! Interruptions and crashes: what is recorded stays, what is done is not done again.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::Child,
    sync::{Arc, Mutex},
    time::Duration,
};

use crewline_testkit::{
    Gate, Script, StubReply, StubRequest, StubServer, TestApp,
    app::finish,
    client::{free_port, post_with},
    script::default_reply,
};
use crewline_types::MicroUsd;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, Statement, TryGetable};
use serde_json::{Value, json};

use crate::{app, fan, run_args, serve::wait_until_ready, signal, workers::wait_until};

/// Waits until the server has been asked `calls` times.
pub(crate) fn wait_for_calls(server: &StubServer, calls: u64) {
    wait_until(&format!("call {calls}"), || server.calls() >= calls);
}

pub(crate) fn only_run(app: &TestApp) -> String {
    let ps = app.run(["ps", "--all", "-o", "json"]).expect_code(0);
    let runs: Value = serde_json::from_str(&ps.stdout).unwrap();
    runs[0]["run"].as_str().unwrap().to_owned()
}

/// Asks a process to stop, and waits until it says that it heard; what it says until then is its answer.
pub(crate) fn interrupt(child: &mut Child) -> String {
    signal(child.id(), "INT");
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("continue later with") {
        assert_ne!(errors.read_line(&mut said).unwrap(), 0, "it ended: {said}");
    }
    // Nobody reads the rest: a pipe that nobody empties would hold the process up.
    std::thread::spawn(move || errors.read_to_end(&mut Vec::new()));
    said
}

#[test]
fn interrupt_drains_and_tells_how_to_go_on() {
    let gate = Gate::after(1);
    let server = StubServer::start(Script::default().behind(&gate));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(6).to_string());
    let mut child = app.spawn(run_args(&["--plan", "plan.json", "--concurrency", "2"]));
    wait_for_calls(&server, 3);
    let said = interrupt(&mut child);
    gate.open();
    let run = finish(child, TestApp::LIMIT).expect_code(130);
    let last = run.events().pop().unwrap();
    assert_eq!(last["status"], "interrupted");
    assert_eq!(last["tasks"]["in_progress"], 0, "what ran was let to its end");
    let id = last["run"].as_str().unwrap();
    assert!(said.contains(&format!("crewline resume {id}")), "{said}");
    assert_eq!(server.calls(), 3, "nothing more was started");

    let resumed = app.run(["resume", id, "-o", "jsonl", "--out", "out"]).expect_code(0);
    assert_eq!(resumed.events().last().unwrap()["tasks"]["completed"], 8);
    assert_eq!(server.calls(), 8, "no task ran twice");
}

/// Starts a fan of twelve with two at once, and kills its process while the fourth and the fifth call are under way.
fn killed(app: &TestApp, gate: &Gate, server: &StubServer) -> String {
    app.registry(server);
    app.write("plan.json", &fan(12).to_string());
    let child = app.spawn(run_args(&["--plan", "plan.json", "--concurrency", "2"]));
    wait_for_calls(server, 5);
    signal(child.id(), "KILL");
    assert_eq!(finish(child, TestApp::LIMIT).code, None);
    gate.open();
    only_run(app)
}

fn executor() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The first column that a query of a file gives, by a connection that nobody else has.
fn column<T: TryGetable>(file: &Path, query: &str) -> Vec<T> {
    executor().block_on(async {
        let database = Database::connect(format!("sqlite:{}", file.display())).await.unwrap();
        let rows =
            database.query_all_raw(Statement::from_string(database.get_database_backend(), query)).await.unwrap();
        database.close().await.unwrap();
        rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
    })
}

fn numbers(file: &Path, query: &str) -> Vec<i64> {
    column(file, query)
}

pub(crate) fn texts(file: &Path, query: &str) -> Vec<String> {
    column(file, query)
}

/// What was reserved for the calls of a run that have no end.
fn reserved(app: &TestApp, run: &str) -> Vec<MicroUsd> {
    let query = format!(
        "SELECT c.reserved_micro_usd FROM calls AS c JOIN tasks AS t ON t.number = c.task \
         WHERE t.run_id = '{run}' AND c.outcome IS NULL"
    );
    let found = numbers(&app.path("data/crewline.db"), &query);
    found.into_iter().map(|it| MicroUsd(it.cast_unsigned())).collect()
}

#[test]
fn a_call_is_recorded_when_its_model_is_asked() {
    let app = app();
    let file = app.path("data/crewline.db");
    let found = Arc::new(Mutex::new(Vec::new()));
    let (looked, finds) = (file.clone(), Arc::clone(&found));
    // The model itself looks whether it is known that it is asked, before it answers.
    let server = StubServer::start(Script::new(move |request: &StubRequest| {
        let text = request.messages.iter().map(|it| it.text.as_str()).collect::<String>();
        let heading = text.split_once("# Your task: ").unwrap().1;
        let title = heading.lines().next().unwrap().to_owned();
        let query = format!(
            "SELECT c.reserved_micro_usd FROM calls AS c JOIN tasks AS t ON t.number = c.task \
             WHERE t.title = '{title}' AND c.outcome IS NULL AND c.reply IS NULL"
        );
        let file = looked.clone();
        let open = std::thread::spawn(move || numbers(&file, &query)).join().unwrap();
        finds.lock().unwrap().push((title, open));
        default_reply(request)
    }));
    app.registry(&server);
    app.write("plan.json", &fan(8).to_string());
    app.run(run_args(&["--plan", "plan.json", "--concurrency", "4"])).expect_code(0);
    let found = found.lock().unwrap();
    assert_eq!(found.len(), 10);
    for (title, open) in found.iter() {
        // With the worst case that is reserved for it: 4,096 tokens of output at two dollars a million.
        assert!(matches!(open[..], [reserved] if reserved > 8_192), "{title}: {open:?}");
    }
    assert!(numbers(&file, "SELECT 1 FROM calls WHERE outcome IS NULL").is_empty(), "each has an end");
}

#[test]
fn nothing_is_told_of_a_result_before_it_is_committed() {
    let gate = Gate::after(0);
    let server = StubServer::start(Script::default().behind(&gate));
    let app = app();
    app.registry(&server);
    let task = |id: &str, needs: &[&str]| json!({"id": id, "title": id, "description": id, "role": "writer", "depends_on": needs});
    let tasks = [task("first", &[]), task("beside", &[]), task("last", &["first", "beside"])];
    app.write("plan.json", &json!({"goal": "g", "tasks": tasks}).to_string());
    let mut child = app.spawn(run_args(&["--plan", "plan.json"]));
    let lines = Arc::new(Mutex::new(Vec::new()));
    let (out, told) = (BufReader::new(child.stdout.take().unwrap()), Arc::clone(&lines));
    let reader = std::thread::spawn(move || out.lines().for_each(|line| told.lock().unwrap().push(line.unwrap())));
    let completed = || lines.lock().unwrap().iter().filter(|it| it.contains("task_completed")).count();
    wait_for_calls(&server, 2);
    let file = app.path("data/crewline.db");
    let url = format!("sqlite:{}", file.display());
    executor().block_on(async {
        let database = Database::connect(ConnectOptions::new(url).max_connections(1).to_owned()).await.unwrap();
        database.execute_unprepared("BEGIN IMMEDIATE").await.unwrap();
        // Both are answered, and nobody may write.
        gate.open();
        for _ in 0..15 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!((completed(), server.calls()), (0, 2), "neither an event nor what needs it");
        }
        let (file, query) = (file.clone(), "SELECT 1 FROM tasks WHERE status = 'completed'");
        let read = std::thread::spawn(move || numbers(&file, query)).join().unwrap();
        assert!(read.is_empty(), "nor can others read it");
        database.execute_unprepared("COMMIT").await.unwrap();
    });
    finish(child, TestApp::LIMIT).expect_code(0);
    reader.join().unwrap();
    assert_eq!((completed(), server.calls()), (3, 3));
}

#[test]
fn kill_loses_nothing_and_repeats_only_what_was_in_flight() {
    let gate = Gate::after(3);
    let server = StubServer::start(Script::default().behind(&gate));
    let app = app();
    let id = killed(&app, &gate, &server);
    let reserved = reserved(&app, &id);
    assert_eq!(reserved.len(), 2, "what was under way is recorded, and has no end");

    let resumed = app.run(["resume", &id, "-o", "jsonl", "--out", "out"]).expect_code(0);
    assert_eq!(resumed.events()[0]["resumed"], true);
    let last = resumed.events().pop().unwrap();
    assert_eq!(last["tasks"]["completed"], 14);
    assert_eq!(server.calls(), 14 + 2, "the calls in flight are repeated, and no other");

    let calls = app.run(["logs", &id, "-o", "jsonl"]).expect_code(0).events_of("model_call");
    let cost = |it: &Value| -> MicroUsd { serde_json::from_value(it["cost_usd"].clone()).unwrap() };
    let (lost, answered): (Vec<&Value>, Vec<&Value>) = calls.iter().partition(|call| call["outcome"] == "lost");
    assert_eq!((lost.len(), answered.len()), (2, 14), "every call has one end: {calls:#?}");
    assert!(answered.iter().all(|call| call["outcome"] == "ok" && call["estimated"] != true), "{answered:#?}");
    assert!(lost.iter().all(|call| call["estimated"] == true), "{lost:#?}");
    let mut charged: Vec<MicroUsd> = lost.iter().map(|call| cost(call)).collect();
    let mut expected = reserved;
    charged.sort_unstable();
    expected.sort_unstable();
    assert_eq!(charged, expected, "what is lost is charged with what was reserved for it");
    assert_eq!(cost(&last), calls.iter().map(cost).sum::<MicroUsd>(), "and the run with all of it");

    let again = app.run(["resume", &id, "--out", "out"]).expect_code(9);
    assert!(again.stderr.contains("completed"), "{}", again.stderr);
}

#[test]
fn a_server_continues_what_was_killed() {
    let gate = Gate::after(3);
    let server = StubServer::start(Script::default().behind(&gate));
    let app = app();
    let id = killed(&app, &gate, &server);
    let child = app.spawn(["serve", "--addr", "127.0.0.1:0"]);
    let logged = app.run(["logs", &id, "-f", "-o", "jsonl"]).expect_code(0);
    signal(child.id(), "TERM");
    finish(child, TestApp::LIMIT).expect_code(0);
    let last = logged.events().pop().unwrap();
    assert_eq!((&last["status"], &last["tasks"]["completed"]), (&"completed".into(), &14.into()));
    assert_eq!(server.calls(), 14 + 2, "the calls in flight are repeated, and no other");
}

#[test]
fn what_a_server_is_asked_of_its_own_run_outlives_it() {
    let gate = Gate::after(1);
    let server = StubServer::start(Script::default().behind(&gate));
    let app = app();
    app.registry(&server);
    let port = free_port().unwrap();
    let address = format!("127.0.0.1:{port}");
    let child = app.spawn(["serve", "--addr", &address]);
    wait_until_ready(port);
    let body = json!({"goal": "g", "plan": fan(100), "concurrency": 2}).to_string();
    let launched = post_with(port, "/api/v1/runs", &[], &body).unwrap();
    let id = serde_json::from_str::<Value>(&launched.body).unwrap()["run"].as_str().unwrap().to_owned();
    wait_for_calls(&server, 3);
    let cancelled = post_with(port, &format!("/api/v1/runs/{id}/cancel"), &[], "").unwrap();
    assert_eq!(cancelled.status, 202, "{}", cancelled.body);
    // It lets what runs end, and is killed meanwhile.
    signal(child.id(), "KILL");
    assert_eq!(finish(child, TestApp::LIMIT).code, None);
    gate.open();
    let child = app.spawn(["serve", "--addr", "127.0.0.1:0"]);
    let logged = app.run(["logs", &id, "-f", "-o", "jsonl"]).expect_code(0);
    signal(child.id(), "TERM");
    finish(child, TestApp::LIMIT).expect_code(0);
    assert_eq!(logged.events().last().unwrap()["status"], "cancelled");
    assert_eq!(server.calls(), 3, "nothing more is begun");
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
    let gate = Gate::after(0);
    let server = StubServer::start(Script::default().behind(&gate));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(1).to_string());
    let child = app.spawn(run_args(&["--plan", "plan.json"]));
    wait_for_calls(&server, 1);
    let id = only_run(&app);
    let second = app.run(["resume", &id]).expect_code(9);
    assert!(second.stderr.contains("being worked on"), "{}", second.stderr);
    // Nor has it another one where the rest is elsewhere.
    let database = format!("sqlite:{}", app.path("data/crewline.db").display());
    let third = app.run(["resume", &id, "--data-dir", "elsewhere", "--database", &database]).expect_code(9);
    assert!(third.stderr.contains("being worked on"), "{}", third.stderr);
    gate.open();
    finish(child, TestApp::LIMIT).expect_code(0);
    assert_eq!(server.calls(), 3);
}

#[test]
fn a_recorded_answer_is_not_bought_again() {
    // The first answer is no plan, and recorded as that; the process dies while it waits for the second.
    let script = Script::default().on_call(1, StubReply::text("I would rather not say.")).on_call(2, StubReply::hang());
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

#[test]
fn a_database_that_is_removed_under_a_run_stops_it() {
    let gate = Gate::after(0);
    let server = StubServer::start(Script::default().behind(&gate));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(2).to_string());
    let child = app.spawn(run_args(&["--plan", "plan.json"]));
    wait_until("a call", || server.calls() == 1);
    std::fs::rename(app.path("data"), app.path("elsewhere")).unwrap();
    gate.open();
    let ended = finish(child, TestApp::LIMIT).expect_code(6);
    assert!(ended.stderr.contains("was removed or replaced"), "{}", ended.stderr);
    assert!(ended.stderr.contains("store.removed"), "{}", ended.stderr);
    assert_eq!(server.calls(), 1, "nothing more is bought");
    // What had been recorded goes on.
    std::fs::remove_dir_all(app.path("data")).ok();
    std::fs::rename(app.path("elsewhere"), app.path("data")).unwrap();
    let resumed = app.run(["resume", &only_run(&app), "-o", "jsonl"]).expect_code(0);
    assert_eq!(resumed.events().last().unwrap()["status"], "completed");
}
