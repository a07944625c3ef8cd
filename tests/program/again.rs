//! Doing it again: `retry` in the same run, `replay` and `fork` in a new one.

use std::{collections::BTreeMap, fs};

use crewline_testkit::{Finished, Gate, Script, StubReply, StubServer, TestApp, app::finish};
use serde_json::{Value, json};

use crate::{app, run_args, workers::wait_until};

/// a → b → d, a → c → d: `d` is the last.
fn diamond() -> Value {
    let task = |id: &str, words: &str, needs: &[&str]| json!({"id": id, "title": format!("Task {id}"), "description": words, "role": "writer", "depends_on": needs});
    json!({"goal": "A diamond", "tasks": [
        task("a", "Alpha words.", &[]), task("b", "Beta words.", &["a"]), task("c", "Gamma words.", &["a"]),
        task("d", "Delta words.", &["b", "c"])
    ]})
}

/// Every task says what it is.
fn script() -> Script {
    Script::new(|request| StubReply::text(answer(request, "")))
}

fn answer(request: &crewline_testkit::StubRequest, more: &str) -> String {
    let words = ["Alpha", "Beta", "Gamma", "Delta"].into_iter().find(|it| request.contains(&format!("{it} words")));
    format!("# {0}\n\nfrom-{0}{more}\n", words.unwrap_or("None"))
}

fn id_of(run: &Finished) -> String {
    run.events()[0]["run"].as_str().unwrap().to_owned()
}

fn report(app: &TestApp, run: &str) -> Value {
    serde_json::from_str(&app.run(["show", run, "-o", "json"]).expect_code(0).stdout).unwrap()
}

fn task<'a>(report: &'a Value, key: &str) -> &'a Value {
    report["tasks"].as_array().unwrap().iter().find(|task| task["key"] == key).unwrap()
}

/// The documents of tasks without the id in their names, and the result.
fn documents(app: &TestApp, dir: &str) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for file in fs::read_dir(app.path(dir).join("tasks")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap()[9..].to_owned();
        found.insert(name, fs::read(path).unwrap());
    }
    found.insert("RESULT.md".into(), fs::read(app.path(dir).join("RESULT.md")).unwrap());
    found
}

/// What the database has of a context: its tokens and budget, its items, and the hash of its bundle's bytes.
type Context = (i64, i64, String, Vec<u8>);

/// The contexts of a run by the keys of their tasks.
fn contexts(app: &TestApp, run: &str) -> BTreeMap<String, Context> {
    use sea_orm::{ConnectionTrait, Database, Statement};
    let url = format!("sqlite:{}", app.path("data/crewline.db").display());
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    executor.block_on(async {
        let database = Database::connect(url).await.unwrap();
        let text = format!(
            "SELECT t.key, c.tokens, c.budget, c.items, c.bundle FROM task_contexts AS c JOIN tasks AS t ON t.number = c.task \
             WHERE t.run_id = '{run}'"
        );
        let rows = database.query_all_raw(Statement::from_string(database.get_database_backend(), text)).await.unwrap();
        let found = rows.iter().map(|row| {
            let number = |column| row.try_get_by_index::<i64>(column).unwrap();
            let (key, items) = (row.try_get_by_index(0).unwrap(), row.try_get_by_index(3).unwrap());
            (key, (number(1), number(2), items, row.try_get_by_index(4).unwrap()))
        });
        let found = found.collect();
        database.close().await.unwrap();
        found
    })
}

struct Made {
    app: TestApp,
    server: StubServer,
    run: String,
}

fn made() -> Made {
    let server = StubServer::start(script());
    let app = app();
    app.registry(&server);
    app.write("plan.json", &diamond().to_string());
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    let run = id_of(&run);
    server.reset();
    Made { app, server, run }
}

impl Made {
    fn again(&self, args: &[&str]) -> Finished {
        let mut line = vec![args[0], &self.run, "-o", "jsonl", "--out", "again"];
        line.extend(&args[1..]);
        self.app.run(line)
    }

    /// What was asked since, by the first word that names a task.
    fn asked(&self) -> Vec<&'static str> {
        let requests = self.server.requests();
        let named = |request: &crewline_testkit::StubRequest| {
            ["Alpha", "Beta", "Gamma", "Delta"].into_iter().find(|it| request.contains(&format!("{it} words")))
        };
        let mut asked: Vec<&str> = requests.iter().filter_map(|request| named(request)).collect();
        asked.sort_unstable();
        asked
    }
}

#[test]
fn a_replay_of_the_same_makes_no_call_and_the_same_documents() {
    let made = made();
    let run = made.again(&["replay"]).expect_code(0);
    let child = id_of(&run);
    assert_ne!(child, made.run, "always a new run");
    assert_eq!(made.server.calls(), 0);
    let last = run.events().pop().unwrap();
    assert_eq!((&last["status"], &last["tasks"]["completed"]), (&"completed".into(), &4.into()));
    assert_eq!(last["cost_usd"], 0.0);
    assert_eq!(run.events_of("task_completed").len(), 4);
    assert!(run.events_of("task_completed").iter().all(|event| event["copied_from"].is_string()));

    assert_eq!(documents(&made.app, "out"), documents(&made.app, "again"));
    let (parents, children) = (contexts(&made.app, &made.run), contexts(&made.app, &child));
    assert_eq!(parents.len(), 4);
    assert_eq!(parents, children, "byte for byte");
    let (parent, shown) = (report(&made.app, &made.run), report(&made.app, &child));
    assert_eq!((&shown["parent_run"], &shown["origin"]), (&made.run.as_str().into(), &"replay".into()));
    assert_eq!(task(&shown, "b")["copied_from"], task(&parent, "b")["id"]);
    assert_ne!(task(&shown, "b")["id"], task(&parent, "b")["id"]);
    let diff = made.app.run(["diff", &made.run, &child, "-o", "json"]).expect_code(0);
    assert_eq!(serde_json::from_str::<Value>(&diff.stdout).unwrap()["is_same"], true);

    // From a task on it is the same, and so is a replay of the replay.
    made.again(&["replay", "--from", "b"]).expect_code(0);
    made.app.run(["replay", &child, "--out", "third"]).expect_code(0);
    assert_eq!(made.server.calls(), 0);
    assert_eq!(documents(&made.app, "out"), documents(&made.app, "third"));
}

/// Two tasks with others below them; one of these refers to a slower one, another to one that comes after it.
fn tree(app: &TestApp) -> String {
    let made = app.run(["plan", "--empty", "A tree", "-o", "json"]).expect_code(0);
    let run = serde_json::from_str::<Value>(&made.stdout).unwrap()["run"].as_str().unwrap().to_owned();
    for (key, words, links) in [
        ("first", "First", &[][..]),
        ("one", "Alpha words", &["--parent", "first"]),
        ("two", "Beta words", &["--parent", "first", "--requires", "one"]),
        ("then", "Then", &["--requires", "first"]),
        ("slow", "Gamma words", &["--parent", "then", "--description", "Take your time."]),
        ("quick", "Delta words", &["--parent", "then", "--refers", "slow"]),
        ("late", "Epsilon words", &["--parent", "then", "--requires", "slow"]),
        ("last", "Zeta words", &["--parent", "then", "--refers", "first"]),
    ] {
        app.run([&["task", "add", &run, words, "--key", key, "--role", "writer"], links].concat()).expect_code(0);
    }
    app.run(["link", "add", &format!("{run}/late"), "last", "--kind", "refers"]).expect_code(0);
    app.write("index.md", "Mine.\n");
    app.run(["index", "edit", &run, "--file", "index.md"]).expect_code(0);
    run
}

#[test]
fn a_replay_of_a_tree_makes_no_call() {
    let gate = Gate::after(0);
    let shut = gate.clone();
    let server = StubServer::start(Script::new(move |request| {
        let reply = StubReply::text(answer(request, ""));
        if request.contains("Take your time.") { reply.behind(&shut) } else { reply }
    }));
    let app = app();
    app.registry(&server);
    let run = tree(&app);
    let child = app.spawn(["resume", &run, "--out", "out"]);
    let is_done = |key: &str| task(&report(&app, &run), key)["status"] == "completed";
    wait_until("all that does not need the slow one", || is_done("quick") && is_done("last"));
    gate.open();
    finish(child, TestApp::LIMIT).expect_code(0);
    let sources = |key: &str| {
        let shown = app.run(["context", "show", &format!("{run}/{key}"), "-o", "json"]).expect_code(0);
        serde_json::from_str::<Value>(&shown.stdout).unwrap()["items"].to_string()
    };
    let id = |key: &str| task(&report(&app, &run), key)["id"].as_str().unwrap().to_owned();
    assert!(!sources("quick").contains(&format!("task:{}", id("slow"))), "it was not there yet");
    assert!(sources("late").contains(&format!("task:{}", id("last"))), "it was there already");
    server.reset();
    let replay = |args: &[&str]| {
        let again = app.run([&["replay", "-o", "jsonl", "--out", "again"], args].concat()).expect_code(0);
        id_of(&again)
    };
    let child = replay(&[&run]);
    let shown = report(&app, &child);
    assert_eq!(server.calls(), 0, "{shown}");
    // What is put together names the tasks of its own run.
    let of_models = |dir: &str| {
        let found =
            documents(&app, dir).into_iter().filter(|(_, text)| !String::from_utf8_lossy(text).contains("[task:"));
        found.collect::<BTreeMap<_, _>>()
    };
    assert_eq!((of_models("out").len(), of_models("out")), (6, of_models("again")));
    let index = app.run(["index", "show", &child]).expect_code(0).stdout;
    for key in ["first", "then"] {
        let id = task(&shown, key)["id"].as_str().unwrap();
        assert!(
            index.starts_with("Mine.") && index.contains(&format!("- [task:{id}] ")),
            "it tells that it is done: {index}"
        );
    }
    let result = fs::read_to_string(app.path("again/RESULT.md")).unwrap();
    assert!(result.contains(task(&shown, "last")["id"].as_str().unwrap()), "{result}");
    replay(&[&child]);
    replay(&[&run, "--from", "late"]);
    assert_eq!(server.calls(), 0);

    // The edited task says the same as before: what was put together from it is, too, and so is all that builds on that.
    replay(&[&run, "--from", "one", "--edit", "description=Alpha words, but others."]);
    assert_eq!(server.calls(), 1);
}

#[test]
fn an_edit_runs_what_it_changes_and_nothing_else() {
    let made = made();
    let run = made.again(&["replay", "--from", "b", "--edit", "description=Beta words, but others."]).expect_code(0);
    // The edited task says the same as before, so what depends on it has the same inputs.
    assert_eq!(made.asked(), ["Beta"]);
    assert_eq!(run.events_of("task_started").len(), 1);
    let shown = report(&made.app, &id_of(&run));
    assert!(task(&shown, "b")["copied_from"].is_null());
    for key in ["a", "c", "d"] {
        assert!(task(&shown, key)["copied_from"].is_string(), "{key}");
    }
    assert_eq!(documents(&made.app, "out")["RESULT.md"], documents(&made.app, "again")["RESULT.md"]);
}

#[test]
fn another_result_runs_what_depends_on_it() {
    let made = made();
    let other = StubServer::start(Script::new(|request| {
        StubReply::text(answer(request, if request.contains("Beta words") { "-anew" } else { "" }))
    }));
    made.app.registry(&other);
    let run = made.again(&["replay", "--from", "b", "--model", "strong"]).expect_code(0);
    assert_eq!(other.calls(), 2, "the task that was asked for, and the last one");
    let shown = report(&made.app, &id_of(&run));
    assert_eq!(task(&shown, "b")["model"], "strong");
    assert_eq!(task(&shown, "d")["model"], "cheap", "only that task has another model");
    let result = fs::read_to_string(made.app.path("again/RESULT.md")).unwrap();
    assert!(result.starts_with("# Delta"), "{result}");
    assert_eq!(report(&made.app, &made.run)["counts"]["completed"], 4, "the recorded run is as it was");
}

#[test]
fn changed_instructions_refuse_a_replay_and_name_the_tasks() {
    let made = made();
    let registry = made.server.registry();
    let changed = format!("{registry}\n")
        .replace("roles:\n", "roles:\n  writer: {chain: [cheap], instructions: \"Write in verse.\"}\n");
    assert_ne!(changed, registry);
    made.app.write("crewline.yaml", &changed);
    let refused = made.again(&["replay", "--from", "b"]).expect_code(9);
    assert!(refused.stderr.contains("replay.mismatch"), "{}", refused.stderr);
    for key in ["a", "c"] {
        assert!(refused.stderr.contains(&format!("{key}: the instructions of role `writer`")), "{}", refused.stderr);
    }
    assert!(!refused.stderr.contains("d: "), "what may differ is no reason: {}", refused.stderr);
    assert_eq!(made.server.calls(), 0);
    let runs: Value = serde_json::from_str(&made.app.run(["ps", "-a", "-o", "json"]).stdout).unwrap();
    assert_eq!(runs.as_array().unwrap().len(), 1, "nothing was begun");

    // From the first task on everything may differ, and does.
    made.again(&["replay", "--from", "a"]).expect_code(0);
    assert_eq!(made.asked(), ["Alpha", "Beta", "Delta", "Gamma"]);
    made.server.reset();
    // A fork takes what is recorded as it is.
    made.again(&["fork", "--from", "b"]).expect_code(0);
    assert_eq!(made.asked(), ["Beta", "Delta"]);
}

#[test]
fn a_fork_runs_everything_from_its_task_on() {
    let made = made();
    let run =
        made.again(&["fork", "--from", "c", "--edit", "role=researcher", "--edit", "title=Look it up"]).expect_code(0);
    assert_eq!(made.asked(), ["Delta", "Gamma"]);
    let shown = report(&made.app, &id_of(&run));
    assert_eq!(shown["origin"], "fork");
    assert_eq!((&task(&shown, "c")["role"], &task(&shown, "c")["title"]), (&"researcher".into(), &"Look it up".into()));
    assert!(task(&shown, "a")["copied_from"].is_string() && task(&shown, "d")["copied_from"].is_null());
    // Its ids are its own, also where the index names them.
    let child = task(&shown, "a")["id"].as_str().unwrap();
    for request in made.server.requests() {
        assert!(request.contains(&format!("- [task:{child}] Task a")), "{request:?}");
    }
}

#[test]
fn bad_wishes_are_refused_before_anything_is_made() {
    let made = made();
    for (args, code, words) in [
        (&["replay", "--from", "nothing"][..], 5, "task.not_found"),
        (&["replay", "--from", "root"], 3, "replay.root"),
        (&["replay", "--from", "b", "--edit", "status=completed"], 3, "title, description"),
        (&["replay", "--from", "b", "--edit", "title"], 3, "FIELD=VALUE"),
        (&["replay", "--from", "a", "--from", "b", "--edit", "title=x"], 3, "one task"),
        (&["replay", "--from", "b", "--model", "nobody"], 5, "nobody"),
        (&["replay", "--edit", "title=x"], 2, "--from"),
        (&["fork"], 2, "--from"),
        (&["retry"], 9, "run.finished"),
    ] {
        let refused = made.again(args).expect_code(code);
        assert!(refused.stderr.contains(words), "{args:?}: {}", refused.stderr);
    }
    let completed = made.app.run(["retry", &format!("{}/b", made.run)]).expect_code(9);
    assert!(completed.stderr.contains("replay") && completed.stderr.contains("--from b"), "{}", completed.stderr);
    let runs: Value = serde_json::from_str(&made.app.run(["ps", "-a", "-o", "json"]).stdout).unwrap();
    assert_eq!(runs.as_array().unwrap().len(), 1);
}

#[test]
fn a_failed_task_is_tried_again_in_its_run() {
    let server = StubServer::start(script().on_text("Beta words", StubReply::status(500)));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &diamond().to_string());
    let run = id_of(&app.run(run_args(&["--plan", "plan.json"])).expect_code(1));
    let failed = report(&app, &run);
    assert_eq!((&failed["counts"]["failed"], &failed["counts"]["blocked"]), (&1.into(), &1.into()));
    let id = task(&failed, "b")["id"].as_str().unwrap().to_owned();
    let resumed = app.run(["resume", &run]).expect_code(9);
    assert!(resumed.stderr.contains(&format!("crewline retry {run}")), "{}", resumed.stderr);

    // Still broken: it fails again, and what was completed is not made again.
    let again = app.run(["retry", &id, "-o", "jsonl", "--out", "out"]).expect_code(1);
    assert_eq!(again.events()[0]["resumed"], true);
    assert!(again.events().iter().all(|event| event["type"] != "task_completed"));

    let mended = StubServer::start(script());
    app.registry(&mended);
    let again = app.run(["retry", &id[..6], "-o", "jsonl", "--out", "out", "--model", "strong"]).expect_code(0);
    assert_eq!(again.events().last().unwrap()["tasks"]["completed"], 4);
    assert_eq!(mended.calls(), 2, "the failed task, and the one that it blocked");
    let done = report(&app, &run);
    assert_eq!((&task(&done, "b")["model"], &task(&done, "d")["model"]), (&"strong".into(), &"cheap".into()));
    assert_eq!((&done["status"], done["error"].is_null()), (&"completed".into(), true));
    let attempts = task(&done, "b")["attempts"].as_array().unwrap();
    assert!(attempts.len() >= 3, "every attempt is kept");
    assert_eq!(attempts.last().unwrap()["status"], "succeeded");
}

#[test]
fn a_blocked_task_or_a_run_means_what_failed() {
    for way in ["task", "run"] {
        let server = StubServer::start(script().on_text("Beta words", StubReply::status(500)));
        let app = app();
        app.registry(&server);
        app.write("plan.json", &diamond().to_string());
        let run = id_of(&app.run(run_args(&["--plan", "plan.json"])).expect_code(1));
        let mended = StubServer::start(script());
        app.registry(&mended);
        let what = if way == "task" { format!("{run}/d") } else { run.clone() };
        app.run(["retry", &what, "--out", "out"]).expect_code(0);
        assert_eq!(mended.calls(), 2, "{way}");
    }
}

#[test]
fn a_failed_planning_is_tried_again() {
    let server = StubServer::start(Script::default().on_schema(StubReply::status(500)));
    let app = app();
    app.registry(&server);
    let run = id_of(&app.run(run_args(&["Describe the tide"])).expect_code(6));
    let mended = StubServer::start(Script::default());
    app.registry(&mended);
    app.run(["replay", &run]).expect_code(9);
    let again = app.run(["retry", &run, "-o", "jsonl", "--out", "out"]).expect_code(0);
    assert_eq!(again.events().last().unwrap()["status"], "completed");
}

#[test]
fn a_replay_of_a_run_that_was_stopped_makes_what_is_missing() {
    let server = StubServer::start(script());
    let app = app();
    app.registry(&server);
    app.write("plan.json", &diamond().to_string());
    let run = id_of(&app.run(run_args(&["--plan", "plan.json", "--max-steps", "2"])).expect_code(7));
    server.reset();
    let again = app.run(["replay", &run, "--max-steps", "9", "-o", "jsonl", "--out", "out"]).expect_code(0);
    assert_eq!(again.events().last().unwrap()["tasks"]["completed"], 4);
    assert_eq!(server.calls(), 2);
    let resumed = app.run(["resume", &run, "--max-steps", "9", "--out", "out"]).expect_code(0);
    assert!(resumed.stdout.contains("4 of 4"), "{}", resumed.stdout);
}

#[test]
fn a_planned_run_is_replayed_with_its_plan() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let run = id_of(&app.run(run_args(&["Describe the tide"])).expect_code(0));
    server.reset();
    let again = app.run(["replay", &run, "-o", "jsonl", "--out", "again"]).expect_code(0);
    assert_eq!(server.calls(), 0, "not even for planning");
    assert_eq!(again.events().last().unwrap()["tasks"]["completed"], 4);
    assert_eq!(documents(&app, "out"), documents(&app, "again"));
}
