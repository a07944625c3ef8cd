//! Servers and workers on one PostgreSQL database: many processes, one run, nothing lost and nothing made twice.

use std::{
    process::Child,
    time::{Duration, Instant},
};

use crewline_testkit::{Script, StubReply, StubServer, TestApp, app::finish};
use serde_json::{Value, json};

use crate::{app, fan, postgres::Database, signal};

/// A lease short enough that a test sees one end.
const SHORT: &str = "3s";
/// A lease that does not end in a test, however busy the machine is.
pub(crate) const LONG: &str = "5m";
/// The longest any of this may take.
const LIMIT: Duration = Duration::from_mins(1);

/// A database, a model server, and the processes that share them.
pub(crate) struct World {
    pub(crate) database: Database,
    pub(crate) server: StubServer,
    pub(crate) app: TestApp,
    children: Vec<Child>,
}

impl World {
    /// `None` where there is no PostgreSQL.
    pub(crate) fn new(name: &str, script: Script) -> Option<Self> {
        let database = Database::create(name)?;
        let server = StubServer::start(script);
        let app = app();
        app.registry(&server);
        Some(Self { database, server, app, children: Vec::new() })
    }

    pub(crate) fn start(&mut self, args: &[&str], lease: &str) -> u32 {
        let url = self.database.url.clone();
        self.start_on(&url, args, lease)
    }

    /// Starts a process that reaches the database by another way.
    pub(crate) fn start_on(&mut self, url: &str, args: &[&str], lease: &str) -> u32 {
        let mut all = args.to_vec();
        all.extend(["--database", url, "--lease", lease]);
        let child = self.app.spawn(all);
        let pid = child.id();
        self.children.push(child);
        pid
    }

    pub(crate) fn serve(&mut self, slots: &str) -> u32 {
        self.start(&["serve", "--addr", "127.0.0.1:0", "--slots", slots], SHORT)
    }

    pub(crate) fn submit(&self, plan: &Value) -> String {
        self.app.write("plan.json", &plan.to_string());
        let args = ["run", "--plan", "plan.json", "--detach", "-q", "--database", &self.database.url];
        self.app.run(args).expect_code(0).stdout.trim().to_owned()
    }

    pub(crate) fn show(&self, run: &str) -> Value {
        let shown = self.app.run(["show", run, "-o", "json", "--database", &self.database.url]).expect_code(0);
        serde_json::from_str(&shown.stdout).unwrap()
    }

    pub(crate) fn end_of(&self, run: &str) -> Value {
        wait_until("the end of the run", || self.show(run)["status"] != "running");
        self.show(run)
    }
}

pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LIMIT, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for mut child in std::mem::take(&mut self.children) {
            let _ = child.kill();
            let ended = finish(child, Duration::from_secs(5));
            if std::thread::panicking() {
                println!("--- a process wrote\n{}{}", ended.stdout, ended.stderr);
            }
        }
    }
}

#[test]
fn workers_share_a_run() {
    let Some(mut world) = World::new("share", Script::default().latency(Duration::from_millis(20))) else { return };
    world.serve("0");
    world.start(&["worker", "--slots", "3"], LONG);
    world.start(&["worker", "--slots", "3"], LONG);
    let run = world.submit(&fan(20));
    let end = world.end_of(&run);
    assert_eq!(end["status"], "completed", "{end:#}");
    assert_eq!(world.server.calls(), 22, "each task is one call");
    let nodes = world.app.run(["nodes", "-o", "json", "--database", &world.database.url]).expect_code(0);
    let nodes: Value = serde_json::from_str(&nodes.stdout).unwrap();
    let kinds: Vec<&str> = nodes.as_array().unwrap().iter().map(|node| node["kind"].as_str().unwrap()).collect();
    assert_eq!((kinds.len(), kinds.iter().filter(|kind| **kind == "worker").count()), (3, 2), "{nodes:#}");
}

#[test]
fn a_worker_is_told_what_follows_from_the_tree() {
    let Some(mut world) = World::new("tree", Script::text("# Found\n\nZEBRA-42 is the answer.\n")) else { return };
    world.serve("0");
    world.start(&["worker", "--slots", "2"], LONG);
    let task = |id: &str, needs: &[&str]| json!({"id": id, "title": format!("Task {id}"), "role": "writer", "depends_on": needs});
    let plan = json!({"goal": "Told", "tasks": [task("a", &[]), task("b", &["a"]), task("c", &["b"])]});
    world.app.write("plan.json", &plan.to_string());
    let ask = |args: &[&str]| {
        let mut args = args.to_vec();
        args.extend(["--database", &world.database.url]);
        world.app.run(args).expect_code(0).stdout
    };
    let run = ask(&["run", "--plan", "plan.json", "--approve", "plan", "--detach", "-q"]).trim().to_owned();
    wait_until("the question", || world.show(&run)["status"] != "running");
    for key in ["x", "y"] {
        ask(&["task", "add", &run, &format!("Part {key}"), "--key", key, "--parent", "b"]);
    }
    // The question is about the plan with them, and so is the yes.
    let pending = ask(&["approvals", &run, "-o", "json"]);
    assert!(pending.contains("a plan of 5 tasks") && !pending.contains("a plan of 3 tasks"), "{pending}");
    ask(&["approve", &run]);
    wait_until("the end of the run", || world.show(&run)["status"] == "completed");
    let shown: Value = serde_json::from_str(&ask(&["context", "show", &format!("{run}/x"), "-o", "json"])).unwrap();
    let items = shown["items"].as_array().unwrap();
    let tiers = |kind: &str| -> Vec<&str> {
        let of = items.iter().filter(|item| item["kind"] == kind);
        of.map(|item| item["tier"].as_str().unwrap()).collect()
    };
    assert_eq!(tiers("task_output"), ["requires"], "what `b` requires is given to those below it: {shown:#}");
    assert_eq!((tiers("ancestor"), tiers("siblings")), (vec!["siblings"], vec!["siblings"]));
    let part = world.server.requests().into_iter().find(|request| request.contains("# Your task: Part x\n")).unwrap();
    for words in ["ZEBRA-42", "This task is part of: Task b", "- `y` Part y (independent)"] {
        assert!(part.contains(words), "{words}: {part:?}");
    }
    // The one who looks finds the same inputs: nothing is made again.
    world.server.reset();
    let again = ["replay", &run, "-o", "jsonl", "--out", "again", "--database", &world.database.url];
    // It does not ask about its plan: there is nothing left to be run.
    let again = world.app.run(again).expect_code(0);
    assert_eq!(again.events_of("task_completed").len(), 5, "{}", again.stdout);
    assert_eq!(world.server.calls(), 0, "a replay takes everything over");
}

#[test]
fn a_worker_has_so_many_attempts_at_once() {
    let Some(mut world) = World::new("slots", Script::default().latency(Duration::from_millis(50))) else { return };
    world.serve("0");
    world.start(&["worker", "--slots", "2"], LONG);
    let run = world.submit(&fan(12));
    assert_eq!(world.end_of(&run)["status"], "completed");
    assert_eq!(world.server.peak_in_flight(), 2);
}

#[test]
fn a_killed_worker_is_shown_as_lost_and_then_forgotten() {
    let Some(mut world) = World::new("lost", Script::default()) else { return };
    world.serve("0");
    let victim = world.start(&["worker", "--slots", "2"], SHORT);
    let workers = || -> Vec<Value> {
        let nodes = world.app.run(["nodes", "-o", "json", "--database", &world.database.url]).expect_code(0);
        let nodes: Vec<Value> = serde_json::from_str(&nodes.stdout).unwrap();
        nodes.into_iter().filter(|node| node["kind"] == "worker").collect()
    };
    wait_until("the worker", || workers().iter().any(|node| node["state"] == "alive"));
    signal(victim, "KILL");
    // Whoever looks has another lease; the worker's own counts.
    wait_until("the loss", || workers().iter().any(|node| node["state"] == "lost"));
    wait_until("the end of it", || workers().is_empty());
    let nodes = world.app.run(["nodes", "-o", "json", "--database", &world.database.url]).expect_code(0);
    assert!(nodes.stdout.contains("\"server\""), "who lives is shown: {}", nodes.stdout);
}

#[test]
fn a_worker_serves_its_roles_only() {
    let Some(mut world) = World::new("roles", Script::default()) else { return };
    world.serve("0");
    world.start(&["worker", "--roles", "researcher"], LONG);
    let run = world.submit(&fan(3));
    wait_until("the researcher's task", || world.server.calls() == 1);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(world.server.calls(), 1, "nobody works for writers");
    assert_eq!(world.show(&run)["status"], "running");
    world.start(&["worker", "--roles", "writer,tester"], LONG);
    assert_eq!(world.end_of(&run)["status"], "completed");
}

#[test]
fn a_killed_worker_loses_only_its_claims() {
    let Some(mut world) = World::new("killed", Script::default().latency(Duration::from_millis(300))) else { return };
    world.serve("0");
    let victim = world.start(&["worker", "--slots", "2"], SHORT);
    world.start(&["worker", "--slots", "2"], LONG);
    let run = world.submit(&fan(12));
    wait_until("some calls", || world.server.calls() >= 4);
    signal(victim, "KILL");
    let end = world.end_of(&run);
    assert_eq!(end["status"], "completed", "{end:#}");
    assert!(world.server.calls() <= 14 + 2, "only what the killed worker had is repeated: {}", world.server.calls());
}

#[test]
fn a_frozen_worker_comes_too_late() {
    let Some(mut world) = World::new("frozen", Script::default().latency(Duration::from_millis(400))) else { return };
    world.serve("0");
    let frozen = world.start(&["worker", "--slots", "2"], SHORT);
    let run = world.submit(&fan(4));
    wait_until("a call", || world.server.calls() >= 1);
    signal(frozen, "STOP");
    world.start(&["worker", "--slots", "4"], LONG);
    wait_until("the repeated call", || world.server.calls() >= 2);
    signal(frozen, "CONT");
    let end = world.end_of(&run);
    assert_eq!(end["status"], "completed", "{end:#}");
    let completed: Vec<&Value> =
        end["tasks"].as_array().unwrap().iter().filter(|task| task["status"] == "completed").collect();
    assert_eq!(completed.len(), 7, "root and six tasks, each with one result: {end:#}");
}

#[test]
fn a_run_outlives_its_server() {
    let Some(mut world) = World::new("server", Script::default().latency(Duration::from_millis(200))) else { return };
    let first = world.serve("0");
    world.start(&["worker", "--slots", "2"], LONG);
    let run = world.submit(&fan(12));
    wait_until("some calls", || world.server.calls() >= 3);
    signal(first, "KILL");
    world.serve("0");
    let end = world.end_of(&run);
    assert_eq!(end["status"], "completed", "{end:#}");
    assert_eq!(world.server.calls(), 14, "the worker's claims outlive the manager: nothing is repeated");
}

#[test]
fn a_worker_that_is_told_to_stop_finishes_what_it_has_and_claims_nothing_more() {
    let Some(mut world) = World::new("drain", Script::default().latency(Duration::from_secs(3))) else { return };
    world.serve("0");
    let worker = world.start(&["worker", "--slots", "2"], LONG);
    let run = world.submit(&fan(2));
    wait_until("the first call", || world.server.calls() == 1);
    signal(worker, "TERM");
    finish(world.children.pop().unwrap(), LIMIT).expect_code(0);
    assert_eq!((world.server.calls(), world.server.hung_up()), (1, 0));

    world.start(&["worker", "--slots", "2"], LONG);
    assert_eq!(world.end_of(&run)["status"], "completed");
    assert_eq!(world.server.calls(), 4, "what it was making when it was told is used");
}

#[test]
fn who_works_alone_uses_what_workers_reported_and_takes_the_rest_back() {
    let script = Script::default().on_text("# Your task: Part m0\n", StubReply::hang());
    let Some(mut world) = World::new("alone", script.latency(Duration::from_millis(300))) else { return };
    let first = world.serve("0");
    world.start(&["worker", "--slots", "3"], LONG);
    let run = world.submit(&fan(6));
    // One call hangs, and before the others are answered their manager is gone.
    wait_until("some calls", || world.server.calls() >= 3);
    signal(first, "KILL");
    wait_until("the other calls", || world.server.calls() == 7);
    wait_until("their reports", || {
        let shown = world.show(&run);
        let attempts = shown["tasks"].as_array().unwrap().iter().flat_map(|task| task["attempts"].as_array().unwrap());
        let calls = attempts.flat_map(|attempt| attempt["calls"].as_array().unwrap());
        calls.filter(|call| call["outcome"] == "ok").count() == 6
    });
    let resume =
        ["resume", &run, "--out", "out", "--max-steps", "1", "-o", "json", "-q", "--database", &world.database.url];
    // It is held until the server's lease ends.
    wait_until("the end of the server's lease", || world.app.run(resume).code == Some(7));
    wait_until("the end of the hanging call", || world.server.hung_up() == 1);
    assert_eq!(world.server.calls(), 7, "what is recorded is not asked for again");
    let kept = world.show(&run);
    assert_eq!(kept["counts"]["completed"], 6, "the first and five parts: {kept:#}");
    // The worker goes on with what it is given, and nobody trips over what it had.
    let mended = StubServer::start(Script::default());
    world.app.registry(&mended);
    let resume = ["resume", &run, "--out", "out", "--max-steps", "99", "-q", "--database", &world.database.url];
    world.app.run(resume).expect_code(0);
    assert_eq!(mended.calls(), 2, "the part that was taken back, and the last task");
    let end = world.show(&run);
    for task in end["tasks"].as_array().unwrap().iter().filter(|task| task["kind"] != "root") {
        let expected = if task["key"] == "m0" { 2 } else { 1 };
        assert_eq!(task["attempts"].as_array().unwrap().len(), expected, "{task:#}");
    }
}

#[test]
fn what_was_taken_back_by_a_pause_is_made_by_the_next_server() {
    let Some(mut world) = World::new("paused", Script::default().on_call(1, StubReply::hang())) else { return };
    let first = world.serve("0");
    world.start(&["worker", "--slots", "2"], LONG);
    let run = world.submit(&fan(3));
    wait_until("a call", || world.server.calls() == 1);
    signal(first, "KILL");
    let paused = world.app.run(["pause", &run, "-q", "--database", &world.database.url]).expect_code(0);
    assert!(paused.stdout.contains("interrupted"), "{}", paused.stdout);
    wait_until("the end of the call", || world.server.hung_up() == 1);
    let task = |key: &str| -> Value {
        let shown = world.show(&run);
        let mut tasks = shown["tasks"].as_array().unwrap().iter();
        tasks.find(|task| task["key"] == key).unwrap().clone()
    };
    let first = task("first");
    assert_eq!((&first["status"], first["attempts"].as_array().unwrap().len()), (&"pending".into(), 1), "{first:#}");
    // As a decision of a person does that lets a run go on.
    world.database.execute("UPDATE runs SET status = 'running', finished_at = NULL");
    world.serve("0");
    let end = world.end_of(&run);
    assert_eq!(end["status"], "completed", "{end:#}");
    assert_eq!(world.server.calls(), 6, "the call that was broken off is made once more, every other once");
}

#[test]
fn a_wish_outlives_its_server() {
    let Some(mut world) = World::new("wish", Script::default().latency(Duration::from_millis(200))) else { return };
    let first = world.start(&["serve", "--addr", "127.0.0.1:0", "--slots", "1"], "6s");
    let run = world.submit(&fan(100));
    wait_until("some calls", || world.server.calls() >= 2);
    signal(first, "STOP");
    world.app.run(["cancel", "--no-wait", &run, "--database", &world.database.url]).expect_code(0);
    signal(first, "KILL");
    world.serve("1");
    let end = world.end_of(&run);
    assert_eq!(end["status"], "cancelled", "{end:#}");
    assert!(world.server.calls() < 50, "the next server does what was asked of the first: {}", world.server.calls());
}

#[test]
fn a_server_hands_its_runs_over() {
    let Some(mut world) = World::new("handover", Script::default().latency(Duration::from_millis(200))) else { return };
    let first = world.serve("2");
    let run = world.submit(&fan(6));
    wait_until("some calls", || world.server.calls() >= 3);
    signal(first, "TERM");
    world.serve("2");
    let end = world.end_of(&run);
    assert_eq!(end["status"], "completed", "{end:#}");
    assert_eq!(world.server.calls(), 8, "what ran was let to its end");
}

#[test]
fn a_cap_holds_across_workers() {
    let Some(mut world) = World::new("cap", Script::default().latency(Duration::from_millis(50))) else { return };
    world.serve("0");
    world.start(&["worker", "--slots", "4"], LONG);
    world.start(&["worker", "--slots", "4"], LONG);
    world.app.write("plan.json", &fan(30).to_string());
    let args =
        ["run", "--plan", "plan.json", "--detach", "-q", "--max-cost", "0.03", "--database", &world.database.url];
    let run = world.app.run(args).expect_code(0).stdout.trim().to_owned();
    let end = world.end_of(&run);
    assert_eq!(end["status"], "limit_reached", "{end:#}");
    assert!(end["cost_usd"].as_f64().unwrap() <= 0.03, "{end:#}");
}

#[test]
fn a_file_has_no_workers() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let refused = app.run(["worker"]).expect_code(3);
    assert!(
        refused.stderr.contains("worker.not_shared") && refused.stderr.contains("--database"),
        "{}",
        refused.stderr
    );
    app.run(["run", "goal", "--detach"]).expect_code(3);
}
