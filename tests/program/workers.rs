//! Servers and workers on one PostgreSQL database: many processes, one run, nothing lost and nothing made twice.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use crewline_testkit::{Finished, Gate, Running, Script, StubReply, StubServer, TestApp, app::finish};
use serde_json::{Value, json};

use crate::{app, fan, postgres::Database, signal};

/// A lease short enough that a test sees one end. A busy machine may end it at any time: only a server that makes no attempts has
/// one, which takes its runs over again and loses nothing.
const SHORT: &str = "3s";
/// A lease that does not end in a test, however busy the machine is, unless by [`World::end_leases`].
pub(crate) const LONG: &str = "5m";
/// The longest any of this may take.
const LIMIT: Duration = Duration::from_mins(1);

/// A database, a model server, and the processes that share them.
pub(crate) struct World {
    pub(crate) database: Database,
    pub(crate) server: StubServer,
    pub(crate) app: TestApp,
    children: RefCell<Vec<Running>>,
}

impl World {
    /// `None` where there is no PostgreSQL.
    pub(crate) fn new(name: &str, script: Script) -> Option<Self> {
        let database = Database::create(name)?;
        let server = StubServer::start(script);
        let app = app();
        app.registry(&server);
        Some(Self { database, server, app, children: RefCell::default() })
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
        self.children.borrow_mut().push(child);
        pid
    }

    pub(crate) fn serve(&mut self, slots: &str) -> u32 {
        self.start(&["serve", "--addr", "127.0.0.1:0", "--slots", slots], LONG)
    }

    /// Ends all leases of a process that is silent, as time would, and has the others look.
    pub(crate) fn end_leases(&self, pid: u32) {
        self.database.execute(&format!(
            "UPDATE runs SET lease_until = 0 WHERE owner LIKE '%:{pid}'; \
             UPDATE offers SET lease_until = 0 WHERE node LIKE '%:{pid}/%' AND report IS NULL; NOTIFY crewline, 'o'"
        ));
    }

    pub(crate) fn nodes(&self) -> Vec<Value> {
        let nodes = self.app.run(["nodes", "-o", "json", "--database", &self.database.url]).expect_code(0);
        serde_json::from_str(&nodes.stdout).unwrap()
    }

    /// Whether the only node of a kind has been told to stop.
    fn is_draining(&self, kind: &str) -> bool {
        self.nodes().iter().any(|node| node["kind"] == kind && node["state"] == "draining")
    }

    /// Waits until a process ends.
    pub(crate) fn ended(&self, pid: u32) -> Finished {
        let place = self.children.borrow().iter().position(|child| child.id() == pid).unwrap();
        let child = self.children.borrow_mut().remove(place);
        finish(child, LIMIT)
    }

    fn kill(&self, pid: u32) {
        signal(pid, "KILL");
        assert_eq!(self.ended(pid).code, None);
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

    /// How often somebody began to work on a run.
    fn begins(&self, run: &str) -> usize {
        let args = ["logs", run, "-o", "jsonl", "--database", &self.database.url];
        self.app.run(args).expect_code(0).events_of("run_started").len()
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
        for mut child in self.children.take() {
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
    let gate = Gate::after(1);
    let Some(mut world) = World::new("share", Script::default().behind(&gate)) else { return };
    world.serve("0");
    world.start(&["worker", "--slots", "3"], LONG);
    world.start(&["worker", "--slots", "3"], LONG);
    wait_until("all of them", || world.nodes().len() == 3);
    let run = world.submit(&fan(20));
    // More than one of them can hold at once.
    wait_until("six calls at once", || world.server.calls() == 7);
    gate.open();
    let end = world.end_of(&run);
    assert_eq!(end["status"], "completed", "{end:#}");
    assert_eq!(world.server.calls(), 22, "each task is one call");
    let nodes = world.nodes();
    let workers = nodes.iter().filter(|node| node["kind"] == "worker").count();
    assert_eq!((nodes.len(), workers), (3, 2), "{nodes:#?}");
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
    let gate = Gate::after(1);
    let Some(mut world) = World::new("slots", Script::default().behind(&gate)) else { return };
    world.serve("0");
    world.start(&["worker", "--slots", "2"], LONG);
    let run = world.submit(&fan(12));
    wait_until("two calls at once", || world.server.peak_in_flight() == 2);
    gate.open();
    assert_eq!(world.end_of(&run)["status"], "completed");
    assert_eq!(world.server.peak_in_flight(), 2);
}

#[test]
fn a_killed_worker_is_shown_as_lost_and_then_forgotten() {
    let Some(mut world) = World::new("lost", Script::default()) else { return };
    world.serve("0");
    let victim = world.start(&["worker", "--slots", "2"], LONG);
    let workers = || -> Vec<Value> { world.nodes().into_iter().filter(|node| node["kind"] == "worker").collect() };
    wait_until("the worker", || workers().iter().any(|node| node["state"] == "alive"));
    world.kill(victim);
    // As if it had been silent for so many of its leases. Whoever looks has another; the worker's own counts.
    let silent = |leases: u32| {
        let past = "UPDATE nodes SET seen_at = seen_at - lease_us";
        world.database.execute(&format!("{past} * {leases} WHERE id LIKE '%:{victim}'; NOTIFY crewline, 'o'"));
    };
    silent(1);
    wait_until("the loss", || workers().iter().any(|node| node["state"] == "lost"));
    silent(3);
    wait_until("the end of it", || workers().is_empty());
    assert!(world.nodes().iter().any(|node| node["kind"] == "server"), "who lives is shown");
}

#[test]
fn a_worker_serves_its_roles_only() {
    let Some(mut world) = World::new("roles", Script::default()) else { return };
    world.serve("0");
    world.start(&["worker", "--roles", "researcher", "--slots", "8"], LONG);
    // What comes last is offered together with what others are for.
    let mut plan = fan(3);
    let more =
        json!({"id": "more", "title": "More", "description": "Look.", "role": "researcher", "depends_on": ["first"]});
    plan["tasks"].as_array_mut().unwrap().push(more);
    let run = world.submit(&plan);
    wait_until("the researcher's tasks", || world.show(&run)["counts"]["completed"] == 2);
    let shown = world.show(&run);
    let attempts = |task: &Value| task["attempts"].as_array().unwrap().len();
    let tried = shown["tasks"].as_array().unwrap().iter().filter(|task| task["kind"] != "root" && attempts(task) > 0);
    assert_eq!((tried.count(), world.server.calls()), (2, 2), "nobody works for writers: {shown:#}");
    assert_eq!(shown["status"], "running");
    world.start(&["worker", "--roles", "writer,tester"], LONG);
    assert_eq!(world.end_of(&run)["status"], "completed");
}

#[test]
fn a_killed_worker_loses_only_its_claims() {
    let gate = Gate::after(1);
    let Some(mut world) = World::new("killed", Script::default().behind(&gate)) else { return };
    world.serve("0");
    let victim = world.start(&["worker", "--slots", "2"], LONG);
    let run = world.submit(&fan(12));
    wait_until("the victim's calls", || world.server.calls() == 3);
    world.start(&["worker", "--slots", "2"], LONG);
    wait_until("the other's calls", || world.server.calls() == 5);
    world.kill(victim);
    wait_until("the end of its calls", || world.server.hung_up() == 2);
    gate.open();
    let completed = || world.show(&run)["counts"]["completed"].as_u64().unwrap();
    wait_until("all that the other can make", || completed() == 11);
    assert_eq!(world.server.calls(), 13, "what the victim had is nobody else's until its leases end");
    world.end_leases(victim);
    let end = world.end_of(&run);
    assert_eq!(end["status"], "completed", "{end:#}");
    assert_eq!(world.server.calls(), 14 + 2, "only what the killed worker had is repeated");
    let mut lost = 0;
    // 4,096 tokens of output at two dollars a million.
    let is_worst = |call: &Value| call["estimated"] == true && call["cost_usd"].as_f64() > Some(0.008_192);
    for task in end["tasks"].as_array().unwrap().iter().filter(|task| task["kind"] != "root") {
        let attempts = task["attempts"].as_array().unwrap();
        lost += usize::from(attempts.len() == 2);
        let calls: Vec<&Value> = attempts.iter().flat_map(|it| it["calls"].as_array().unwrap()).collect();
        let outcomes: Vec<&Value> = calls.iter().map(|call| &call["outcome"]).collect();
        assert_eq!(outcomes, if attempts.len() == 2 { vec!["lost", "ok"] } else { vec!["ok"] }, "{task:#}");
        assert!(calls.iter().all(|call| is_worst(call) == (call["outcome"] == "lost")), "{task:#}");
    }
    assert_eq!(lost, 2, "{end:#}");
}

#[test]
fn a_report_that_the_database_refuses_is_a_loss() {
    let Some(mut world) = World::new("refused", Script::default()) else { return };
    world.serve("0");
    // As soon as its leases are renewed it gives back what it does not work on any more.
    world.start(&["worker", "--slots", "1"], SHORT);
    wait_until("both of them", || world.nodes().len() == 2);
    world.database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN RAISE check_violation; END $$; \
         CREATE TRIGGER refuse BEFORE UPDATE OF report ON offers FOR EACH ROW \
         WHEN (NEW.report IS NOT NULL AND NEW.attempt = 1) EXECUTE FUNCTION refuse()",
    );
    let task = json!({"id": "a", "title": "A", "description": "a", "role": "coder", "depends_on": []});
    let run = world.submit(&json!({"goal": "g", "tasks": [task]}));
    let end = world.end_of(&run);
    assert_eq!((&end["status"], world.server.calls()), (&"completed".into(), 2), "{end:#}");
    let tasks = end["tasks"].as_array().unwrap();
    let attempts = tasks.iter().find(|task| task["kind"] != "root").unwrap()["attempts"].as_array().unwrap();
    let outcomes: Vec<&Value> = attempts.iter().map(|it| &it["calls"][0]["outcome"]).collect();
    assert_eq!(outcomes, ["lost", "ok"]);
}

#[test]
fn a_frozen_worker_comes_too_late() {
    let gate = Gate::after(1);
    let Some(mut world) = World::new("frozen", Script::default().behind(&gate)) else { return };
    world.serve("0");
    let frozen = world.start(&["worker", "--slots", "2"], LONG);
    let run = world.submit(&fan(4));
    wait_until("its calls", || world.server.calls() == 3);
    signal(frozen, "STOP");
    world.end_leases(frozen);
    world.start(&["worker", "--slots", "4"], LONG);
    wait_until("the repeated calls", || world.server.calls() == 7);
    // The answers are there for it when it wakes up.
    gate.open();
    let end = world.end_of(&run);
    assert_eq!((&end["status"], world.server.calls()), (&"completed".into(), 8), "{end:#}");
    let events = || {
        let args = ["logs", &run, "-o", "jsonl", "--database", &world.database.url];
        world.app.run(args).expect_code(0).stdout
    };
    let before = (end, events());
    signal(frozen, "CONT");
    // It has written, or been refused, by the time that it has nothing more to do.
    signal(frozen, "TERM");
    world.ended(frozen).expect_code(0);
    assert_eq!((world.show(&run), events()), before, "who comes too late changes nothing");
    assert_eq!((world.server.calls(), before.0["counts"]["completed"].as_u64()), (8, Some(6)));
}

#[test]
fn a_run_outlives_its_server() {
    let gate = Gate::after(3);
    let Some(mut world) = World::new("server", Script::default().behind(&gate)) else { return };
    let first = world.start(&["serve", "--addr", "127.0.0.1:0", "--slots", "0"], SHORT);
    world.start(&["worker", "--slots", "2"], LONG);
    let run = world.submit(&fan(12));
    wait_until("some calls", || world.server.calls() == 5);
    world.kill(first);
    gate.open();
    // It looks for what the first has left until its lease has ended.
    world.start(&["serve", "--addr", "127.0.0.1:0", "--slots", "0"], SHORT);
    let end = world.end_of(&run);
    assert_eq!(end["status"], "completed", "{end:#}");
    assert_eq!(world.server.calls(), 14, "the worker's claims outlive the manager: nothing is repeated");
}

#[test]
fn a_worker_that_is_told_to_stop_finishes_what_it_has_and_claims_nothing_more() {
    let gate = Gate::after(0);
    let Some(mut world) = World::new("drain", Script::default().behind(&gate)) else { return };
    world.serve("0");
    let worker = world.start(&["worker", "--slots", "2"], LONG);
    let run = world.submit(&fan(2));
    wait_until("the first call", || world.server.calls() == 1);
    signal(worker, "TERM");
    wait_until("the word of it", || world.is_draining("worker"));
    gate.open();
    world.ended(worker).expect_code(0);
    assert_eq!((world.server.calls(), world.server.hung_up()), (1, 0));

    world.start(&["worker", "--slots", "2"], LONG);
    assert_eq!(world.end_of(&run)["status"], "completed");
    assert_eq!(world.server.calls(), 4, "what it was making when it was told is used");
}

#[test]
fn who_works_alone_uses_what_workers_reported_and_takes_the_rest_back() {
    let gate = Gate::after(1);
    let script = Script::default().on_text("# Your task: Part m0\n", StubReply::hang());
    let Some(mut world) = World::new("alone", script.behind(&gate)) else { return };
    let first = world.serve("0");
    world.start(&["worker", "--slots", "3"], LONG);
    let run = world.submit(&fan(6));
    // One call hangs, and before the others are answered their manager is gone.
    wait_until("some calls", || world.server.calls() == 4);
    world.kill(first);
    gate.open();
    wait_until("the other calls", || world.server.calls() == 7);
    wait_until("their reports", || {
        let shown = world.show(&run);
        let attempts = shown["tasks"].as_array().unwrap().iter().flat_map(|task| task["attempts"].as_array().unwrap());
        let calls = attempts.flat_map(|attempt| attempt["calls"].as_array().unwrap());
        calls.filter(|call| call["outcome"] == "ok").count() == 6
    });
    let resume =
        ["resume", &run, "--out", "out", "--max-steps", "1", "-o", "json", "-q", "--database", &world.database.url];
    world.app.run(resume).expect_code(9);
    world.end_leases(first);
    world.app.run(resume).expect_code(7);
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
    world.kill(first);
    world.end_leases(first);
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
    let gate = Gate::after(2);
    let script = Script::default().behind(&gate).latency(Duration::from_millis(200));
    let Some(mut world) = World::new("wish", script) else { return };
    let first = world.serve("1");
    // More than can be done before a slow machine looks for the next wish.
    let run = world.submit(&fan(100));
    wait_until("some calls", || world.server.calls() == 3);
    signal(first, "STOP");
    world.app.run(["cancel", "--no-wait", &run, "--database", &world.database.url]).expect_code(0);
    world.kill(first);
    gate.open();
    world.end_leases(first);
    world.serve("1");
    let end = world.end_of(&run);
    assert_eq!(end["status"], "cancelled", "{end:#}");
    assert!(world.server.calls() < 50, "the next server does what was asked of the first: {}", world.server.calls());
}

#[test]
fn a_server_hands_its_runs_over() {
    let gate = Gate::after(1);
    let Some(mut world) = World::new("handover", Script::default().behind(&gate)) else { return };
    let first = world.serve("2");
    let run = world.submit(&fan(6));
    wait_until("some calls", || world.server.calls() == 3);
    signal(first, "TERM");
    wait_until("the word of it", || world.is_draining("server"));
    world.serve("2");
    wait_until("the calls of the next one", || world.server.calls() == 5);
    gate.open();
    let end = world.end_of(&run);
    assert_eq!(end["status"], "completed", "{end:#}");
    assert_eq!((world.server.calls(), world.server.hung_up()), (8, 0), "what ran was let to its end");
    world.ended(first).expect_code(0);
}

#[test]
fn workers_do_not_notice_that_a_server_hands_its_runs_over() {
    let gate = Gate::after(1);
    let Some(mut world) = World::new("unnoticed", Script::default().behind(&gate)) else { return };
    let first = world.serve("0");
    world.start(&["worker", "--slots", "2"], LONG);
    let run = world.submit(&fan(6));
    wait_until("some calls", || world.server.calls() == 3);
    let before = world.begins(&run);
    signal(first, "TERM");
    // It waits for no worker.
    world.ended(first).expect_code(0);
    assert_eq!(world.begins(&run), before);
    world.serve("0");
    wait_until("the next server", || world.begins(&run) == before + 1);
    assert_eq!((world.server.calls(), world.server.hung_up()), (3, 0), "the calls under way are the same");
    gate.open();
    let end = world.end_of(&run);
    assert_eq!(end["status"], "completed", "{end:#}");
    assert_eq!((world.server.calls(), world.server.hung_up()), (8, 0), "none is made again");
    for task in end["tasks"].as_array().unwrap().iter().filter(|task| task["kind"] != "root") {
        let attempts = task["attempts"].as_array().unwrap();
        let numbers: Vec<&Value> = attempts.iter().map(|it| &it["number"]).collect();
        assert_eq!((numbers, attempts[0]["calls"].as_array().unwrap().len()), (vec![&json!(1)], 1), "{task:#}");
    }
}

#[test]
fn a_cap_is_one_for_all_workers() {
    let gate = Gate::after(0);
    let Some(mut world) = World::new("onecap", Script::default().behind(&gate)) else { return };
    world.serve("0");
    world.start(&["worker", "--slots", "4"], LONG);
    world.start(&["worker", "--slots", "4"], LONG);
    wait_until("all of them", || world.nodes().len() == 3);
    let task = |id: String, needs: &[String]| json!({"id": id, "title": "T", "description": "Work.", "role": "writer", "depends_on": needs});
    let parts: Vec<String> = (0..8).map(|n| format!("t{n}")).collect();
    let mut tasks: Vec<Value> = parts.iter().map(|id| task(id.clone(), &[])).collect();
    tasks.push(task("last".into(), &parts));
    world.app.write("plan.json", &json!({"goal": "g", "tasks": tasks}).to_string());
    // Four calls at their worst case fit beside each other; each worker has places for as many.
    let url = &world.database.url;
    let args = ["run", "--plan", "plan.json", "--detach", "-q", "--max-cost", "0.04", "--database", url];
    let run = world.app.run(args).expect_code(0).stdout.trim().to_owned();
    wait_until("eight claims", || {
        // They say how busy they are when they look at the database.
        world.database.execute("NOTIFY crewline, 'o'");
        let nodes = world.nodes();
        let workers = nodes.iter().filter(|node| node["kind"] == "worker");
        workers.map(|node| node["busy"].as_u64().unwrap()).collect::<Vec<_>>() == [4, 4]
    });
    wait_until("the calls that fit", || world.server.calls() >= 4);
    gate.open();
    let end = world.end_of(&run);
    assert_eq!(end["status"], "completed", "{end:#}");
    assert_eq!((world.server.calls(), world.server.peak_in_flight()), (9, 4), "both spend the same money");
}

#[test]
fn a_cap_holds_across_workers() {
    let Some(mut world) = World::new("cap", Script::default().latency(Duration::from_millis(50))) else { return };
    world.serve("0");
    world.start(&["worker", "--slots", "4"], LONG);
    world.start(&["worker", "--slots", "4"], LONG);
    world.app.write("plan.json", &fan(30).to_string());
    let run_with = |cap| {
        let args =
            ["run", "--plan", "plan.json", "--detach", "-q", "--max-cost", cap, "--database", &world.database.url];
        let run = world.app.run(args).expect_code(0).stdout.trim().to_owned();
        world.end_of(&run)
    };
    // Four calls at their worst case fit beside each other: the others wait.
    let end = run_with("0.04");
    assert_eq!(end["status"], "completed", "{end:#}");
    assert!(end["cost_usd"].as_f64().unwrap() <= 0.04, "{end:#}");
    let end = run_with("0.01");
    assert_eq!(end["status"], "limit_reached", "{end:#}");
    assert!(end["cost_usd"].as_f64().unwrap() <= 0.01, "{end:#}");
}

#[test]
fn a_run_that_is_cancelled_begins_no_call_that_waits_for_money_at_a_worker() {
    let gate = Gate::after(0);
    let Some(mut world) = World::new("waits", Script::default().behind(&gate)) else { return };
    world.serve("0");
    world.start(&["worker", "--slots", "5"], LONG);
    let task =
        |n| json!({"id": format!("t{n}"), "title": "T", "description": "Wait.", "role": "writer", "depends_on": []});
    let plan = json!({"goal": "g", "tasks": (0..5).map(task).collect::<Vec<_>>()});
    world.app.write("plan.json", &plan.to_string());
    let url = &world.database.url;
    // One call fits.
    let args = ["run", "--plan", "plan.json", "--detach", "-q", "--max-cost", "0.012", "--database", url];
    let run = world.app.run(args).expect_code(0).stdout.trim().to_owned();
    wait_until("the call that fits", || world.server.calls() == 1);
    world.app.run(["cancel", "--no-wait", &run, "--database", url]).expect_code(0);
    // When the server has heard what is asked of another one, it has heard this, too.
    let other = world.submit(&fan(1));
    world.app.run(["kill", &other, "--database", url]).expect_code(0);
    let is_tried =
        |task: &Value| task["kind"] != "root" && task["attempts"].as_array().is_some_and(|it| !it.is_empty());
    let tried = || world.show(&run)["tasks"].as_array().unwrap().iter().filter(|task| is_tried(task)).count();
    wait_until("the end of those that wait", || tried() == 5);
    gate.open();
    assert_eq!(world.end_of(&run)["status"], "cancelled");
    assert_eq!(world.server.requests().iter().filter(|it| it.contains("Wait.")).count(), 1);
}

#[test]
fn a_server_does_not_take_over_what_it_manages() {
    let gate = Gate::after(1);
    let Some(mut world) = World::new("own", Script::default().behind(&gate)) else { return };
    let server = world.serve("2");
    let run = world.submit(&fan(4));
    wait_until("some calls", || world.server.calls() == 3);
    // As if the database had been away for longer than the lease: others may take the run now, and it looks for such runs.
    for _ in 0..2 {
        let seen = || world.nodes()[0]["seen_at"].clone();
        let before = seen();
        world.database.execute(&format!(
            "UPDATE runs SET lease_until = 0 WHERE owner LIKE '%:{server}' AND status = 'running'; NOTIFY crewline, 'o'"
        ));
        // The second look begins when the first one is over.
        wait_until("a look", || seen() != before);
    }
    gate.open();
    assert_eq!(world.end_of(&run)["status"], "completed");
    assert_eq!(world.server.calls(), 6);
    let log = world.app.run(["logs", &run, "-o", "jsonl", "--database", &world.database.url]).expect_code(0);
    assert_eq!(log.events_of("run_started").len(), 2, "launched, and taken by the server once: {}", log.stdout);
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
