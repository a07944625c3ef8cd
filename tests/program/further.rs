//! A specialist asks for further tasks: the manager decides, others wait for what entered the plan, and a crash makes it neither twice
//! nor not at all.

use std::{collections::BTreeMap, time::Duration};

use crewline_testkit::{Gate, Script, StubReply, StubRequest, StubServer, TestApp, app::finish};
use serde_json::{Value, json};

use crate::{
    app,
    handoff::{action, end, results},
    resume::{only_run, wait_for_calls},
    run_args, signal,
    workers::{LONG, World, wait_until},
};

const ROLES: &str = "roles:\n  coder: {tools: {create_task: allow}}\n  tester: {tools: {create_task: allow}}\n  \
                     writer: {tools: {note: allow}}";

fn set_up(app: &TestApp, server: &StubServer, tasks: &[(&str, &str, &[&str])]) {
    app.write("crewline.yaml", &server.registry().replace("roles:", ROLES));
    app.write("plan.json", &plan(tasks).to_string());
}

/// A plan of tasks by key, role and needs.
fn plan(tasks: &[(&str, &str, &[&str])]) -> Value {
    let task = |(key, role, needs): &(&str, &str, &[&str])| json!({"id": key, "title": format!("Part {key}"), "description": "Do it.", "role": role, "depends_on": needs});
    json!({"goal": "g", "tasks": tasks.iter().map(task).collect::<Vec<_>>()})
}

/// Two tasks, of which the first asks for others.
const PAIR: [(&str, &str, &[&str]); 2] = [("a", "coder", &[]), ("b", "writer", &["a"])];

fn run_line() -> Vec<&'static str> {
    run_args(&["--plan", "plan.json"])
}

/// The title of the task that a request is about.
fn title(request: &StubRequest) -> String {
    let text = request.text();
    let (_, rest) = text.split_once("# Your task: ").unwrap_or_default();
    rest.lines().next().unwrap_or_default().to_owned()
}

fn wish(title: &str, dependents_wait: bool) -> Value {
    json!({
        "title": title, "description": "Look whether it holds.", "role": "tester", "criteria": ["It says yes or no."],
        "dependents_wait": dependents_wait
    })
}

/// The first task asks once, and its words are known.
fn asks_once(request: &StubRequest) -> StubReply {
    match (&*title(request), results(request)) {
        ("Part a", 0) => action("create_task", &wish("Check it", true)),
        ("Part a", _) => end("Made by a."),
        ("Check it", _) => end("Checked: yes."),
        _ => end("The document."),
    }
}

fn tasks(app: &TestApp, run: &str) -> BTreeMap<String, Value> {
    let report: Value = serde_json::from_str(&app.run(["show", run, "--json"]).expect_code(0).stdout).unwrap();
    let tasks = report["tasks"].as_array().unwrap().iter();
    tasks.map(|it| (it["key"].as_str().unwrap().to_owned(), it.clone())).collect()
}

fn completed(events: &[Value]) -> Vec<&str> {
    events.iter().filter(|it| it["type"] == "task_completed").map(|it| it["key"].as_str().unwrap()).collect()
}

/// What was decided on wishes: the task, and what was said.
fn decided<'a>(events: &'a [Value], action: &str) -> Vec<(&'a str, &'a str)> {
    let changes = events.iter().filter(|it| it["type"] == "task_changed" && it["action"] == action);
    changes.map(|it| (it["key"].as_str().unwrap(), it["detail"].as_str().unwrap())).collect()
}

#[test]
fn what_is_asked_for_enters_the_plan_and_others_wait_for_it() {
    let server = StubServer::start(Script::new(asks_once));
    let app = app();
    set_up(&app, &server, &PAIR);
    let run = app.run(run_line()).expect_code(0);
    let events = run.events();
    assert_eq!(completed(&events), ["a", "a+1", "b"]);
    assert_eq!(decided(&events, "added"), [("a+1", "asked for by `a`: Check it")]);
    let asked = |name: &str| server.requests().into_iter().rfind(|it| title(it) == name).unwrap();
    let check = asked("Check it");
    for part in ["Look whether it holds.", "It says yes or no.", "Made by a."] {
        assert!(check.contains(part), "{part}");
    }
    assert!(asked("Part a").contains("the manager decides when this task is done"));
    assert!(asked("Part b").contains("Checked: yes."), "it is told what it waited for");

    let id = only_run(&app);
    let tasks = tasks(&app, &id);
    let (author, new) = (&tasks["a"]["id"], &tasks["a+1"]["id"]);
    assert_eq!((&tasks["a+1"]["created_by"], &tasks["a+1"]["depends_on"]), (author, &json!([author])));
    assert!(tasks["b"]["depends_on"].as_array().unwrap().contains(new) && tasks["b"]["created_by"].is_null());
    let shown = app.run(["show", &format!("{id}/a+1")]).expect_code(0).stdout;
    assert!(shown.contains("asked by") && shown.contains(author.as_str().unwrap()), "{shown}");

    // A replay knows the task by its key, and takes all results over.
    let before = server.calls();
    let again = app.run(["replay", &id, "-o", "jsonl", "--out", "again"]).expect_code(0);
    assert_eq!(server.calls(), before, "nothing is asked again");
    let mut taken = completed(&again.events()).iter().map(ToString::to_string).collect::<Vec<_>>();
    taken.sort();
    assert_eq!(taken, ["a", "a+1", "b"]);
    // Where the author is asked again, it asks for the same, which is there.
    let line = ["replay", &id, "--from", "a", "--model", "strong", "-o", "jsonl", "--out", "from"];
    let from = app.run(line).expect_code(0);
    let events = from.events();
    assert!(decided(&events, "added").is_empty());
    assert_eq!(decided(&events, "refused"), [("a", "`Check it`: it is in the plan already, as `a+1`")]);
}

#[test]
fn the_final_document_waits_for_what_nobody_else_waits_for() {
    let server = StubServer::start(Script::new(|request: &StubRequest| match (&*title(request), results(request)) {
        ("Part a", 0) => action("create_task", &wish("Check it", false)),
        ("Check it", _) => end("Checked: yes."),
        _ => end("Fine."),
    }));
    let app = app();
    // Two last tasks: what they make is put together by one that the plan does not name.
    set_up(&app, &server, &[("a", "coder", &[]), ("b", "writer", &["a"]), ("c", "writer", &["a"])]);
    app.run(run_line()).expect_code(0);
    let tasks = tasks(&app, &only_run(&app));
    let new = &tasks["a+1"]["id"];
    let waits = |key: &str| tasks[key]["depends_on"].as_array().unwrap().contains(new);
    assert!(waits("synthesis") && !waits("b") && !waits("c"));
    let last = server.requests().pop().unwrap();
    assert!(title(&last) == "Write the final document" && last.contains("Checked: yes."));
}

#[test]
fn what_is_too_much_is_refused_with_the_reason() {
    // Whoever may, asks for five, and so does each that was asked for.
    let server = StubServer::start(Script::new(|request: &StubRequest| match (&*title(request), results(request)) {
        ("Part b", _) => end("The document."),
        (_, 5) => end("Fine."),
        (name, number) => action("create_task", &wish(&format!("{name} {number}"), true)),
    }));
    let app = app();
    set_up(&app, &server, &PAIR);
    let run = app.run(run_line()).expect_code(0);
    let events = run.events();
    assert_eq!(decided(&events, "added").len(), 16);
    let refused = decided(&events, "refused");
    let count = |why: &str| refused.iter().filter(|(_, detail)| detail.ends_with(why)).count();
    assert_eq!(count("a run takes 16 further tasks at most"), 4);
    assert_eq!(count("a task that is 2 steps from the plan leads to no others"), 12 * 4);
    assert_eq!(refused.len(), 4 + 12 * 4);
    let calls = run.events_of("tool_call");
    let failed = calls.iter().filter(|it| it["outcome"] == "failed").count();
    assert_eq!(failed, 17, "the fifth of each is not taken");
    let id = only_run(&app);
    let shown = app.run(["show", &id]).expect_code(0).stdout;
    assert!(shown.contains("a run takes 16 further tasks at most"), "{shown}");
    let index = std::fs::read_to_string(app.path("out/INDEX.md")).unwrap();
    assert!(index.contains("Tasks that did not enter the plan"), "{index}");
    let (author, _) = refused.iter().find(|(_, detail)| detail.ends_with("leads to no others")).unwrap();
    let task = app.run(["task", "show", &format!("{id}/{author}"), "--json"]).expect_code(0).stdout;
    assert!(task.contains("leads to no others"), "{task}");
}

#[test]
fn nothing_enters_the_plan_that_there_is_no_room_for() {
    for (tasks, flags, why) in [
        (&PAIR[..], ["--max-steps", "2"], "the run's `max_steps` leaves no attempt for it"),
        (&PAIR[..1], ["--max-steps", "9"], "nothing comes after a task that no other waits for"),
    ] {
        let server = StubServer::start(Script::new(asks_once));
        let app = app();
        set_up(&app, &server, tasks);
        let run = app.run(run_line().iter().chain(&flags)).expect_code(0);
        let events = run.events();
        assert_eq!(decided(&events, "refused"), [("a", &*format!("`Check it`: {why}"))]);
        assert_eq!(completed(&events).len(), tasks.len());
    }
}

#[test]
fn without_a_rule_there_is_no_such_tool_and_a_rule_that_asks_is_asked() {
    let server = StubServer::start(Script::new(asks_once));
    let app = app();
    for (rule, code, added) in [("note: allow", 0, 0), ("create_task: ask", 8, 0)] {
        set_up(&app, &server, &PAIR);
        let text = std::fs::read_to_string(app.path("crewline.yaml")).unwrap();
        app.write(
            "crewline.yaml",
            &text.replace("coder: {tools: {create_task: allow}}", &format!("coder: {{tools: {{{rule}}}}}")),
        );
        let run = app.run(run_line()).expect_code(code);
        assert_eq!(decided(&run.events(), "added").len(), added, "{rule}");
        let outcomes: Vec<Value> = run.events_of("tool_call").iter().map(|it| it["outcome"].clone()).collect();
        assert_eq!(outcomes, if code == 0 { vec![json!("invalid")] } else { Vec::new() }, "{rule}");
    }
    let id = only_run(&app);
    app.run(["approve", &id]).expect_code(0);
    let done = app.run(["resume", &id, "-o", "jsonl", "--out", "out"]).expect_code(0);
    assert_eq!(decided(&done.events(), "added").len(), 1);
}

#[test]
fn a_crash_makes_it_neither_twice_nor_not_at_all() {
    // The author's last word, or the first of what it asked for, does not come.
    for (stuck, calls) in [("Part a", 2), ("Check it", 3)] {
        let server = StubServer::start(Script::new(move |request: &StubRequest| {
            let is_last = title(request) == stuck && (stuck != "Part a" || results(request) == 1);
            if is_last { StubReply::hang() } else { asks_once(request) }
        }));
        let app = app();
        set_up(&app, &server, &PAIR);
        let child = app.spawn(run_line());
        wait_for_calls(&server, calls);
        signal(child.id(), "KILL");
        assert_eq!(finish(child, TestApp::LIMIT).code, None);
        let again = StubServer::start(Script::new(asks_once));
        set_up(&app, &again, &PAIR);
        let id = only_run(&app);
        app.run(["resume", &id, "--out", "out"]).expect_code(0);
        let keys: Vec<String> = tasks(&app, &id).into_keys().filter(|key| key.starts_with('a')).collect();
        assert_eq!(keys, ["a", "a+1"], "{stuck}");
        assert_eq!(again.calls(), 5 - calls, "{stuck}: no answer is bought twice but the one that did not come");
    }
}

#[test]
fn kills_at_any_time_leave_one_task_for_one_wish() {
    for round in 0..12 {
        // After so many answers, and a moment more, in which the process does what follows from the last one.
        let (answers, moment) = (round % 4, Duration::from_millis(7 * round / 4));
        let gate = Gate::after(usize::try_from(answers).unwrap());
        let server = StubServer::start(Script::new(asks_once).behind(&gate));
        let app = app();
        set_up(&app, &server, &PAIR);
        let child = app.spawn(run_line());
        wait_for_calls(&server, answers.max(1));
        std::thread::sleep(moment);
        signal(child.id(), "KILL");
        assert_eq!(finish(child, TestApp::LIMIT).code, None);
        gate.open();
        let id = only_run(&app);
        app.run(["resume", &id, "--out", "out"]).expect_code(0);
        let tasks = tasks(&app, &id);
        let keys: Vec<&String> = tasks.keys().filter(|key| key.starts_with(['a', 'b'])).collect();
        assert_eq!(keys, ["a", "a+1", "b"], "round {round}");
        assert!(tasks.values().all(|it| it["status"] == "completed"), "round {round}: {tasks:?}");
    }
}

#[test]
fn a_worker_asks_for_a_task_and_its_manager_decides() {
    let Some(mut world) = World::new("further", Script::new(asks_once)) else { return };
    world.app.write("crewline.yaml", &world.server.registry().replace("roles:", ROLES));
    world.serve("0");
    world.start(&["worker", "--slots", "1"], LONG);
    let run = world.submit(&plan(&PAIR));
    wait_until("the end of the run", || world.show(&run)["status"] == "completed");
    let report = world.show(&run);
    let of = |key: &str| report["tasks"].as_array().unwrap().iter().find(|it| it["key"] == key).unwrap().clone();
    assert_eq!((&of("a+1")["status"], &of("a+1")["created_by"]), (&json!("completed"), &of("a")["id"]));
    assert!(of("b")["depends_on"].as_array().unwrap().contains(&of("a+1")["id"]));
}
