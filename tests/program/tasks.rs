//! A run's tasks in the hands of people and outside agents: written, linked, taken, completed, and left to the crew.

use std::{collections::BTreeMap, time::Duration};

use crewline_testkit::{Finished, Script, StubReply, StubServer, TestApp, app::finish};
use crewline_types::{Clock as _, SystemClock, Timestamp};
use serde_json::{Value, json};

use crate::{app, run_args};

struct Project {
    app: TestApp,
    server: StubServer,
    run: String,
}

impl Project {
    fn of(script: Script, args: &[&str]) -> Self {
        let server = StubServer::start(script);
        let app = app();
        app.registry(&server);
        let run = Self::begun(&app, args);
        Self { app, server, run }
    }

    fn begun(app: &TestApp, args: &[&str]) -> String {
        let mut line = vec!["plan", "-o", "json"];
        line.extend(args);
        let made = app.run(line).expect_code(0);
        serde_json::from_str::<Value>(&made.stdout).unwrap()["run"].as_str().unwrap().to_owned()
    }

    fn run(&self, line: &[&str]) -> Finished {
        let line: Vec<String> = line.iter().map(|it| it.replace("RUN", &self.run)).collect();
        self.app.run(line)
    }

    fn json(&self, line: &[&str]) -> Value {
        let mut line = line.to_vec();
        line.extend(["-o", "json"]);
        serde_json::from_str(&self.run(&line).expect_code(0).stdout).unwrap()
    }

    /// Status by key, also of what was deleted.
    fn statuses(&self) -> BTreeMap<String, String> {
        let tasks = self.json(&["task", "ls", "RUN", "--all"]);
        let of = |task: &Value| (task["key"].as_str().unwrap().into(), task["status"].as_str().unwrap().into());
        tasks.as_array().unwrap().iter().map(of).collect()
    }

    fn status(&self) -> Value {
        self.json(&["show", "RUN"])["status"].clone()
    }
}

#[test]
fn a_project_of_forty_linked_tasks_is_driven_by_the_command_line() {
    let project = Project::of(Script::default(), &["--empty", "Move to the new office"]);
    // Task n requires every third one before it, and refers to the one before.
    for number in 1..=40_u32 {
        let (key, title) = (format!("n{number}"), format!("Step {number}"));
        let needs: Vec<String> =
            (1..number).filter(|it| (number - it) % 3 == 0).take(3).map(|it| format!("n{it}")).collect();
        let mut line = vec!["task", "add", "RUN", &title, "--key", &key, "--role", "writer"];
        for need in &needs {
            line.extend(["--requires", need]);
        }
        let refers = format!("n{}", number.saturating_sub(1));
        if number > 1 {
            line.extend(["--refers", &refers]);
        }
        project.run(&line).expect_code(0);
    }
    assert_eq!(project.json(&["link", "ls", "RUN"]).as_array().unwrap().len(), 39 + 37 + 34 + 31);
    let refused = project.run(&["link", "add", "RUN/n1", "n40"]).expect_code(3);
    assert!(refused.stderr.contains("n1 → n40 → ") && refused.stderr.contains("→ n1"), "{}", refused.stderr);

    let mut done: Vec<String> = Vec::new();
    loop {
        let next = project.json(&["next", "RUN", "--agent", "ada", "--start"]);
        let Some(key) = next["task"]["key"].as_str().map(str::to_owned) else { break };
        assert_eq!((&next["task"]["status"], &next["task"]["assignee"]), (&json!("in_progress"), &json!("ada")));
        for link in next["task"]["links"].as_array().unwrap().iter().filter(|link| link["kind"] == "requires") {
            let need = link["to"].as_str().unwrap().to_owned();
            assert!(done.contains(&need), "{key} came before {need}");
        }
        let file = format!("{key}.md");
        project.app.write(&file, &format!("# {key}\n\nmade by hand\n"));
        let task = format!("RUN/{key}");
        let marked =
            project.json(&["mark", &task, "completed", "--result", &file, "--meta", "tool=pen", "--agent", "ada"]);
        assert_eq!(marked["run_status"], if done.len() == 39 { "completed" } else { "interrupted" });
        done.push(key);
    }
    assert_eq!(done.len(), 40);
    assert_eq!(done[..3], ["n1", "n2", "n3"], "ties are broken by place");
    assert_eq!(project.status(), "completed");
    let task = project.json(&["task", "show", "RUN/n7"]);
    assert_eq!((&task["last_agent"], &task["metadata"]["tool"]), (&json!("ada"), &json!("pen")));
    project.run(&["show", "RUN", "--out", "out"]).expect_code(0);
    let made = std::fs::read_dir(project.app.path("out/tasks")).unwrap().count();
    assert_eq!(made, 40);
    assert_eq!(project.server.calls(), 0, "no model was asked");
}

const PLAN: &str = "
goal: Two into one
tasks:
  - {id: a, title: Task a, description: Do a., role: writer}
  - {id: b, title: Task b, description: Do b., role: writer}
  - {id: c, title: Task c, description: Do c., role: writer, depends_on: [a, b]}
";

fn planned(script: Script) -> Project {
    let server = StubServer::start(script);
    let app = app();
    app.registry(&server);
    app.write("plan.yaml", PLAN);
    let run = Project::begun(&app, &["plan.yaml"]);
    Project { app, server, run }
}

#[test]
fn what_is_done_by_hand_and_by_the_crew_comes_together() {
    let project = planned(Script::text("# made by a model\n"));
    assert_eq!(project.status(), "interrupted");
    project.app.write("a.md", "# By hand\n\nwords-of-a-person\n");
    project
        .run(&["task", "complete", "RUN/a", "--result", "a.md", "--summary", "short", "--actual", "1.5"])
        .expect_code(0);
    let task = project.json(&["task", "show", "RUN/a"]);
    assert_eq!((&task["completion_summary"], &task["actual_hours"]), (&json!("short"), &json!(1.5)));
    project.run(&["resume", "RUN", "-o", "jsonl", "--out", "out"]).expect_code(0);
    let asked: Vec<bool> = ["Do a.", "Do b.", "Do c."]
        .iter()
        .map(|words| project.server.requests().iter().any(|request| request.contains(&format!("\n{words}"))))
        .collect();
    assert_eq!(asked, [false, true, true], "the task that was done by hand was not made again");
    let last = project.server.requests().iter().find(|request| request.contains("Do c.")).unwrap().clone();
    assert!(last.contains("words-of-a-person"), "the result made by hand is what the others build on");
    assert_eq!(project.status(), "completed");
}

/// A time that comes soon, but not before the next command or two have begun on this machine.
fn soon(app: &TestApp) -> Timestamp {
    let took = app.run(["ps"]).expect_code(0).elapsed;
    SystemClock.now().after(Duration::from_secs(1) + 10 * took)
}

#[test]
fn a_task_is_not_begun_before_its_time_and_then_begins_by_itself() {
    let project = planned(Script::text("# made\n\nwords\n"));
    let later = SystemClock.now().after(Duration::from_hours(1)).to_string();
    project.run(&["task", "update", "RUN/a", "--planned-for", &later]).expect_code(0);
    project.run(&["task", "update", "RUN/b", "--deadline", "2020-01-01T00:00:00Z"]).expect_code(0);
    let next = project.json(&["next", "RUN"]);
    assert_eq!((&next["task"]["key"], &next["planned"]), (&json!("b"), &json!(1)), "{next:#}");
    assert!(project.run(&["show", "RUN"]).expect_code(0).stdout.contains("overdue b: its deadline was 2020"));
    let soon = soon(&project.app).to_string();
    project.run(&["task", "update", "RUN/a", "--planned-for", &soon]).expect_code(0);
    let run = project.run(&["resume", "RUN", "-o", "jsonl", "--out", "out"]).expect_code(0);
    let of = |kind: &str, key: &str| -> Vec<Value> {
        run.events_of(kind).into_iter().filter(|event| event["key"] == key).collect()
    };
    let until = of("task_planned", "a")[0]["until"].as_str().unwrap().to_owned();
    let begun = of("task_started", "a")[0]["at"].as_str().unwrap().to_owned();
    assert!(begun >= until, "{begun} is before {until}");
    let other = of("task_started", "b")[0]["at"].as_str().unwrap().to_owned();
    assert!(other < begun, "the others do not wait");
    assert_eq!(of("task_overdue", "b").len(), 1);
    assert_eq!(project.status(), "completed");
}

#[test]
fn a_plan_file_tells_when_tasks_begin_and_are_due() {
    let server = StubServer::start(Script::text("# made\n\nwords\n"));
    let app = app();
    app.registry(&server);
    let soon = soon(&app).to_string();
    let plan = json!({"goal": "g", "tasks": [
        {"id": "a", "title": "A", "planned_for": soon, "deadline": "3000-01-01T00:00:00Z"},
        {"id": "b", "title": "B", "deadline": "2020-01-01T00:00:00Z"}
    ]});
    app.write("plan.json", &plan.to_string());
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    let begun = run.events_of("task_started").into_iter().find(|it| it["key"] == "a").unwrap();
    let until = run.events_of("task_planned")[0]["until"].as_str().unwrap().to_owned();
    assert!(begun["at"].as_str().unwrap() >= until.as_str(), "{begun} is before {until}");
    assert_eq!(run.events_of("task_overdue")[0]["key"], "b");
    let id = run.events()[0]["run"].as_str().unwrap().to_owned();
    let shown = app.run(["plan", "export", &id, "-o", "json"]).expect_code(0).stdout;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["tasks"][0]["deadline"], "3000-01-01T00:00:00.000Z", "{shown:#}");
    assert_eq!(shown["tasks"][1].get("planned_for"), None);
    for (time, part) in [
        (
            json!("tomorrow"),
            "`tasks[0].planned_for`: `\"tomorrow\"` is not allowed: a time such as `2026-12-24T18:00:00Z`",
        ),
        (json!("3001-01-01T00:00:00Z"), "is before its `planned_for`"),
    ] {
        let mut wrong = plan.clone();
        wrong["tasks"][0]["planned_for"] = time;
        app.write("wrong.json", &wrong.to_string());
        let refused = app.run(run_args(&["--plan", "wrong.json"])).expect_code(3);
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
}

#[test]
fn consequences_are_in_the_same_transaction() {
    let project = planned(Script::default());
    let of = |project: &Project| ["a", "b", "c"].map(|key| project.statuses()[key].clone());
    let changed = project.json(&["mark", "RUN/a", "failed", "-m", "no paper"]);
    let keys: Vec<&str> = changed["tasks"].as_array().unwrap().iter().map(|it| it["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["a", "c"]);
    assert!(changed["tasks"][1]["reason"].as_str().unwrap().contains("requires `a`"), "{changed:#}");
    assert_eq!(of(&project), ["failed", "pending", "blocked"]);
    let early = project.run(&["mark", "RUN/c", "in_progress"]).expect_code(9);
    assert!(early.stderr.contains("task.state"), "{}", early.stderr);
    // Done after all: who waited goes on.
    project.run(&["mark", "RUN/a", "done", "--agent", "ada"]).expect_code(0);
    assert_eq!(of(&project), ["completed", "pending", "pending"]);
    let waits = project.run(&["mark", "RUN/c", "running"]).expect_code(9);
    assert!(waits.stderr.contains("`c` waits for b") && waits.stderr.contains("task.not_ready"), "{}", waits.stderr);
    // A task that is done is not done again.
    project.run(&["mark", "RUN/a", "pending"]).expect_code(9);
    project.run(&["task", "delete", "RUN/b"]).expect_code(0);
    assert_eq!(of(&project), ["completed", "cancelled", "blocked"]);
    project.run(&["link", "rm", "RUN/c", "b"]).expect_code(0);
    assert_eq!(of(&project), ["completed", "cancelled", "pending"]);
    project.run(&["task", "skip", "RUN/c", "-m", "no need"]).expect_code(0);
    assert_eq!(project.status(), "completed");
    // More work opens it again.
    project.run(&["task", "add", "RUN", "One more", "--requires", "a"]).expect_code(0);
    assert_eq!(project.status(), "interrupted");
    project.run(&["note", "RUN/c", "nobody", "asked", "--agent", "bob"]).expect_code(0);
    let shown = project.json(&["task", "show", "RUN/c"]);
    assert_eq!((&shown["notes"][0]["agent"], &shown["notes"][0]["text"]), (&json!("bob"), &json!("nobody asked")));
    // Every change is an event with who made it.
    let events = project.run(&["logs", "RUN", "-o", "jsonl"]).expect_code(0).events();
    let changes: Vec<(&str, &str)> = events
        .iter()
        .filter(|event| event["type"] == "task_changed")
        .map(|event| (event["action"].as_str().unwrap(), event["agent"].as_str().unwrap()))
        .collect();
    for wanted in [
        ("failed", "person"),
        ("completed", "ada"),
        ("unblocked", "ada"),
        ("deleted", "person"),
        ("unlinked", "person"),
        ("skipped", "person"),
        ("added", "person"),
        ("noted", "bob"),
    ] {
        assert!(changes.contains(&wanted), "{wanted:?} in {changes:?}");
    }
    let seqs: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
}

#[test]
fn a_task_with_others_below_it_is_done_when_they_are() {
    let project = planned(Script::new(|request| {
        let key = ["x", "y", "a", "b", "c"].into_iter().find(|key| request.contains(&format!("Do {key}.")));
        StubReply::text(format!("# {0}\n\nwords-of-{0}\n", key.unwrap_or("none")))
    }));
    for key in ["x", "y"] {
        let (title, words) = (format!("Part {key}"), format!("Do {key}."));
        project
            .run(&["task", "add", "RUN", &title, "--key", key, "--parent", "b", "--description", &words])
            .expect_code(0);
    }
    let deep = |key: &str, parent: &str| project.run(&["task", "add", "RUN", "Deep", "--key", key, "--parent", parent]);
    deep("z", "x").expect_code(0);
    assert!(deep("zz", "z").expect_code(3).stderr.contains("3 levels"));
    project.run(&["task", "delete", "RUN/z"]).expect_code(0);
    let inside = project.run(&["link", "add", "RUN/x", "c"]).expect_code(3);
    assert!(inside.stderr.contains("→"), "what is below b can not require what requires b: {}", inside.stderr);
    let work = project.run(&["mark", "RUN/b", "completed"]).expect_code(9);
    assert!(work.stderr.contains("task.state"), "{}", work.stderr);
    // With nothing below it any more, it has work of its own again.
    assert_eq!(project.json(&["task", "show", "RUN/x"])["kind"], "atomic");
    project.run(&["mark", "RUN/x", "completed"]).expect_code(0);
    let both = project.json(&["mark", "RUN/y", "completed"]);
    let keys: Vec<&str> = both["tasks"].as_array().unwrap().iter().map(|it| it["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["b", "y"], "the one above is done in the same transaction");
    let index = project.run(&["index", "show", "RUN"]).expect_code(0).stdout;
    assert!(index.contains("] Task b: Part x: done. Part y: done."), "and INDEX.md tells of it: {index}");
    project.run(&["task", "add", "RUN", "Late", "--parent", "b"]).expect_code(0);
    assert_eq!(project.statuses()["b"], "pending");
}

#[test]
fn the_tree_is_run_by_the_crew() {
    let project = planned(Script::new(|request| {
        let key = ["x", "y", "a", "b", "c"].into_iter().find(|key| request.contains(&format!("Do {key}.")));
        StubReply::text(format!("# {0}\n\nwords-of-{0}\n", key.unwrap_or("none")))
    }));
    for key in ["x", "y"] {
        let (title, words) = (format!("Part {key}"), format!("Do {key}."));
        project
            .run(&["task", "add", "RUN", &title, "--key", key, "--parent", "b", "--description", &words])
            .expect_code(0);
    }
    project.run(&["task", "move", "RUN/y", "--before", "x"]).expect_code(0);
    project.run(&["resume", "RUN", "-o", "jsonl", "--out", "out"]).expect_code(0);
    assert!(project.statuses().values().all(|status| status == "completed"));
    let requests = project.server.requests();
    assert!(
        !requests.iter().any(|request| request.contains("# Your task: Task b\n")),
        "a task with others below it asks nobody"
    );
    let part = requests.iter().find(|request| request.contains("# Your task: Part x\n")).unwrap();
    assert!(part.contains("This task is part of: Task b") && part.contains("- `y` Part y (independent)"), "{part:?}");
    let last = requests.iter().find(|request| request.contains("Do c.")).unwrap();
    assert!(last.contains("words-of-x") && last.contains("words-of-y"), "its result is made from theirs");
    assert!(last.contains("Done so far:\n- [task:") && last.contains("] Task b: "), "INDEX.md tells of it: {last:?}");
    assert!(!part.contains("Done so far"), "what is done later is told to nobody before");
    let versions = project.json(&["index", "history", "RUN"]);
    assert_eq!(versions.as_array().unwrap().last().unwrap()["agent"], "crew", "{versions:#}");
    project.run(&["replay", "RUN", "-o", "jsonl", "--out", "replayed"]).expect_code(0);
    assert_eq!(project.server.requests().len(), requests.len(), "a replay makes nothing anew");
    let text = project.json(&["show", "RUN/b"])["text"].as_str().unwrap().to_owned();
    assert!(text.find("Part y").unwrap() < text.find("Part x").unwrap(), "in the order of the plan: {text}");
}

#[test]
fn wrong_changes_leave_nothing_behind() {
    let project = planned(Script::default());
    let before = project.json(&["task", "ls", "RUN", "--all"]);
    for (line, code, words) in [
        (vec!["task", "add", "RUN", " "], 3, "`title` must not be blank"),
        (vec!["task", "add", "RUN", "X", "--key", "a"], 9, "task.key_taken"),
        (vec!["task", "add", "RUN", "X", "--key", "a b"], 3, "is no key"),
        (vec!["task", "add", "RUN", "X", "--requires", "nobody"], 5, "task.not_found"),
        (vec!["task", "add", "RUN", "X", "--priority", "11"], 2, "1 to 10"),
        (vec!["task", "add", "RUN", "X", "--deadline", "tomorrow"], 2, "RFC 3339"),
        (vec!["task", "update", "RUN/a"], 2, "nothing is to be changed"),
        (vec!["task", "update", "RUN/a", "--estimate", "-1"], 2, "unexpected argument"),
        (vec!["task", "move", "RUN/a", "--below", "a"], 3, "below itself"),
        (vec!["mark", "RUN/a", "ready"], 2, "pending, in_progress"),
        (vec!["mark", "RUN/a", "failed", "--result", "plan.yaml"], 3, "a result belongs"),
        (vec!["link", "add", "RUN/a", "c"], 3, "a → c → a"),
        (vec!["link", "add", "RUN/a", "a"], 3, "a → a"),
        (vec!["link", "rm", "RUN/a", "b"], 5, "task.no_link"),
        (vec!["note", "RUN/a", " "], 3, "a note has"),
        (vec!["task", "show", "RUN/nobody"], 5, "task.not_found"),
    ] {
        let run = project.run(&line).expect_code(code);
        assert!(run.stderr.contains(words) && run.stdout.is_empty(), "{line:?}: {}", run.stderr);
    }
    assert_eq!(project.json(&["task", "ls", "RUN", "--all"]), before);
    project
        .run(&["task", "update", "RUN/a", "--measurable", "at least 3 words", "--criterion", "it reads well"])
        .expect_code(0);
    project.app.write("short.md", "two words");
    let refused = project.run(&["task", "complete", "RUN/a", "--result", "short.md", "--validate"]).expect_code(3);
    assert!(refused.stderr.contains("`at least 3 words` is not met"), "{}", refused.stderr);
    project.app.write("long.md", "three words now");
    project.run(&["task", "complete", "RUN/a", "--result", "long.md", "--validate"]).expect_code(0);
}

#[test]
fn a_run_that_somebody_works_on_is_left_alone() {
    let project = planned(Script::new(|_| StubReply::hang()));
    let child = project.app.spawn(["resume", &project.run, "-o", "jsonl", "--out", "out"]);
    while project.server.calls() == 0 {
        std::thread::yield_now();
    }
    for line in [
        vec!["mark", "RUN/c", "completed"],
        vec!["task", "add", "RUN", "One more"],
        vec!["link", "rm", "RUN/c", "a"],
        vec!["index", "edit", "RUN", "--file", "plan.yaml"],
    ] {
        let held = project.run(&line).expect_code(9);
        assert!(held.stderr.contains("run.held") && held.stderr.contains("is being worked on"), "{}", held.stderr);
    }
    crate::signal(child.id(), "INT");
    crate::signal(child.id(), "INT");
    finish(child, TestApp::LIMIT);
    project.run(&["link", "rm", "RUN/c", "a"]).expect_code(0);
}

#[test]
fn a_plan_is_edited_as_the_document_it_is() {
    let project = planned(Script::default());
    let exported = project.run(&["plan", "export", "RUN"]).expect_code(0).stdout;
    project.app.write("same.yaml", &exported);
    let same = project.json(&["plan", "edit", "RUN", "--file", "same.yaml"]);
    assert!(same["tasks"].as_array().unwrap().is_empty(), "{same:#}");
    let mut plan = project.json(&["plan", "export", "RUN"]);
    plan["tasks"][1]["title"] = "Task b, better".into();
    plan["tasks"].as_array_mut().unwrap().push(json!({"id": "d", "title": "Task d", "depends_on": ["c"]}));
    let edit = |plan: &Value, code: i32| {
        project.app.write("edited.json", &plan.to_string());
        project.run(&["plan", "edit", "RUN", "--file", "edited.json"]).expect_code(code)
    };
    let run = edit(&plan, 0);
    assert!(
        run.stderr.contains("Task b, better") && run.stderr.contains('+'),
        "the difference is shown: {}",
        run.stderr
    );
    let shown = project.run(&["plan", "show", "RUN"]).expect_code(0).stdout;
    assert!(shown.contains("Task b, better") && shown.contains("Task d"), "{shown}");
    let mut bad = plan.clone();
    bad["tasks"][3]["colour"] = "red".into();
    assert!(edit(&bad, 3).stderr.contains("colour"));
    let mut circle = plan.clone();
    circle["tasks"][0]["depends_on"] = json!(["d"]);
    assert!(edit(&circle, 3).stdout.is_empty());
    plan["tasks"].as_array_mut().unwrap().remove(1);
    plan["tasks"][1]["depends_on"] = json!(["a"]);
    edit(&plan, 0);
    let statuses = project.statuses();
    assert_eq!((statuses["b"].as_str(), statuses["c"].as_str()), ("cancelled", "pending"));
    // An editor of one's own.
    let mut command = project.app.command(["plan", "edit", &project.run]);
    command.env("EDITOR", "sed -i s/Task.d/Something/");
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    finish(command.spawn().unwrap(), TestApp::LIMIT).expect_code(0);
    assert!(project.run(&["plan", "show", "RUN"]).stdout.contains("Something"));
}

#[test]
fn a_model_proposes_a_plan_and_nothing_is_run() {
    let plan = json!({"t1": {"title": "One", "description": "Do one.", "role": "writer", "depends_on": []}, "t2": {"title": "Two", "description": "Do two.", "role": "writer", "depends_on": ["t1"]}});
    let server = StubServer::start(Script::plan(&plan));
    let app = app();
    app.registry(&server);
    let run = app.run(["plan", "Something good", "-o", "json"]).expect_code(0);
    let value: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(value["tasks"][1]["links"][0]["to"], "t1");
    assert_eq!(server.calls(), 1);
    app.run(["plan", " "]).expect_code(2);
}

#[test]
fn the_index_has_versions_and_keeps_what_a_person_wrote() {
    let project = planned(Script::text("# made\n"));
    let first = project.run(&["index", "show", "RUN"]).expect_code(0).stdout;
    assert!(first.starts_with("Goal: Two into one"), "{first}");
    project.app.write("INDEX.md", &format!("# Rules\nBe kind.\n\n{first}\n# Glossary\nfoo: bar\n"));
    project.run(&["index", "edit", "RUN", "--file", "INDEX.md", "--agent", "ada"]).expect_code(0);
    project.run(&["task", "add", "RUN", "Task d", "--key", "d", "--role", "writer"]).expect_code(0);
    let text = project.run(&["index", "show", "RUN"]).expect_code(0).stdout;
    assert!(text.starts_with("# Rules\nBe kind.") && text.contains("Task d") && text.ends_with("foo: bar\n"), "{text}");
    let history = project.json(&["index", "history", "RUN"]);
    let agents: Vec<&str> = history.as_array().unwrap().iter().map(|it| it["agent"].as_str().unwrap()).collect();
    assert_eq!(agents, ["crew", "ada", "person"]);
    assert_eq!(project.run(&["index", "show", "RUN", "--version", "1"]).expect_code(0).stdout, first);
    project.run(&["index", "show", "RUN", "--version", "9"]).expect_code(5);
    project.run(&["resume", "RUN", "-o", "jsonl", "--out", "out"]).expect_code(0);
    assert!(project.server.requests().iter().all(|request| request.contains("Be kind.")), "it is in every bundle");
}

#[test]
fn what_looks_hard_is_broken_up_level_by_level() {
    let task = |title: &str, description: &str| json!({"title": title, "description": description, "role": "writer", "depends_on": []});
    // Five of the words that speak for a hard task, and a long text: complexity 40.
    let hard = "Analyse, design, debug, refactor and verify it. ".repeat(20);
    let first = json!({"t1": task("Large", &hard), "t2": task("Small", "Write a line.")}).to_string();
    let parts = json!({"t1": task("Part one", &hard), "t2": task("Part two", "Write two lines.")}).to_string();
    let whole = json!({"t1": task("Part one", "Do it at once.")}).to_string();
    let server = StubServer::start(Script::new(move |request| {
        let text = match request {
            it if it.contains("This is one task of a larger goal") && it.contains("\nPart one\n") => &whole,
            it if it.contains("This is one task of a larger goal") => &parts,
            _ => &first,
        };
        StubReply::text(text.clone())
    }));
    let app = app();
    app.registry(&server);
    let made = app.run(["plan", "Build the shop", "--decompose", "-o", "json"]).expect_code(0);
    let made: Value = serde_json::from_str(&made.stdout).unwrap();
    let kinds: BTreeMap<&str, &str> = made["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["key"].as_str().unwrap(), it["kind"].as_str().unwrap()))
        .collect();
    let expected =
        [("synthesis", "synthesis"), ("t1", "composite"), ("t1.t1", "atomic"), ("t1.t2", "atomic"), ("t2", "atomic")];
    assert_eq!(kinds, BTreeMap::from(expected), "only what looks hard, and only what has parts");
    assert_eq!(server.calls(), 3, "the plan, the task, and the part that stays whole");
    let run = made["run"].as_str().unwrap();
    app.run(["decompose", run, "--complexity", "100"]).expect_code(0);
    assert_eq!(server.calls(), 3, "nothing looks that hard");
    app.run(["decompose", run, "--complexity", "101"]).expect_code(2);
}

#[test]
fn what_is_broken_up_by_one_command_costs_no_more_than_its_cap() {
    let parts = json!({
        "t1": {"title": "One", "description": "Do x.", "role": "writer", "depends_on": []},
        "t2": {"title": "Two", "description": "Do y.", "role": "writer", "depends_on": []}
    });
    let server = StubServer::start(Script::text(parts.to_string()));
    let app = app();
    app.registry(&server);
    let hard = "Analyse, design, debug, refactor and verify it. ".repeat(20);
    let task =
        |place: usize| json!({"id": format!("h{place}"), "title": "Large", "description": hard, "depends_on": []});
    app.write("plan.json", &json!({"goal": "g", "tasks": (0..8).map(task).collect::<Vec<_>>()}).to_string());
    let planned: Value =
        serde_json::from_str(&app.run(["plan", "plan.json", "-o", "json"]).expect_code(0).stdout).unwrap();
    let run = planned["run"].as_str().unwrap();
    // The worst case of one planning is some $0.01; what one costs is a tenth of that.
    let capped = app.run(["decompose", run, "--complexity", "40", "--max-cost", "0.0125"]).expect_code(7);
    assert!((1..8).contains(&server.calls()), "{} plannings: {}", server.calls(), capped.stderr);
    let costs: Value = serde_json::from_str(&app.run(["cost", "-o", "json"]).expect_code(0).stdout).unwrap();
    let spent: f64 = costs.as_array().unwrap().iter().map(|it| it["cost_usd"].as_f64().unwrap()).sum();
    assert!(spent > 0.0 && spent <= 0.0125, "{costs}");
    app.run(["decompose", run, "--complexity", "40"]).expect_code(0);
    assert_eq!(server.calls(), 8, "the rest is broken up without a cap");
}

#[test]
fn a_model_breaks_a_task_into_smaller_ones() {
    let plan = json!({"t1": {"title": "First half", "description": "Do x.", "role": "writer", "depends_on": []}, "t2": {"title": "Second half", "description": "Do y.", "role": "writer", "depends_on": ["t1"]}});
    let answer = plan.to_string();
    let project = planned(Script::new(move |request| {
        if request.contains("Plan the work") {
            StubReply::text(answer.clone())
        } else {
            StubReply::text("# x\n\nwords\n")
        }
    }));
    let asked = project.run(&["decompose", "RUN/b"]).expect_code(0);
    assert!(asked.stderr.contains("planned in run"), "{}", asked.stderr);
    let request = project.server.requests()[0].text();
    assert!(
        request.contains("Do b.") && request.contains("- Task c"),
        "the planner knows the task and the others: {request}"
    );
    let tasks = project.json(&["task", "ls", "RUN"]);
    let task = |key: &str| tasks.as_array().unwrap().iter().find(|task| task["key"] == key).unwrap().clone();
    assert_eq!((&task("b")["kind"], &task("b.t2")["parent"]), (&json!("composite"), &json!("b")));
    assert_eq!(task("b.t2")["links"][0]["to"], "b.t1");
    // Again: the ones of before go.
    project.run(&["decompose", "RUN/b"]).expect_code(0);
    let statuses = project.statuses();
    assert_eq!((statuses["b.t1"].as_str(), statuses["b.2.t1"].as_str()), ("cancelled", "pending"), "{statuses:?}");
    project.run(&["resume", "RUN", "-o", "jsonl", "--out", "out"]).expect_code(0);
    let calls = project.server.calls();
    project.run(&["decompose", "RUN/a"]).expect_code(9);
    assert_eq!(project.server.calls(), calls, "nobody was asked in vain");
    // One task again, in a new run; what a person made is taken over.
    project.server.reset();
    let again = project.run(&["rerun", "RUN/b", "--subtree", "-o", "jsonl", "--out", "again"]).expect_code(0);
    let started: Vec<Value> = again.events_of("task_started").iter().map(|event| event["key"].clone()).collect();
    assert_eq!(started, [json!("b.2.t1"), json!("b.2.t2"), json!("c")]);
}

#[test]
fn a_second_planning_extends_the_plan() {
    let plan = json!({"t1": {"title": "Costs", "description": "Find them.", "role": "writer", "depends_on": []}, "t2": {"title": "Sum", "description": "Add them.", "role": "writer", "depends_on": ["t1"]}});
    let answer = plan.to_string();
    let project = planned(Script::new(move |request| {
        if request.contains("Plan the work") {
            StubReply::text(answer.clone())
        } else {
            StubReply::text("# x\n\nwords\n")
        }
    }));
    project.run(&["mark", "RUN/a", "completed"]).expect_code(0);
    project.run(&["plan", "extend", "RUN", "Cover the costs, too"]).expect_code(0);
    let request = project.server.requests()[0].text();
    for words in ["Cover the costs, too", "- Task a (completed)", "- Task c (pending)", "Its INDEX.md:", "Two into one"]
    {
        assert!(request.contains(words), "{words}: {request}");
    }
    let tasks = project.json(&["task", "ls", "RUN"]);
    let links = |key: &str| {
        let tasks = tasks.as_array().unwrap();
        tasks.iter().find(|task| task["key"] == key).unwrap()["links"].clone()
    };
    assert_eq!(links("more.t1"), json!([{"kind": "refers", "to": "c"}]), "it is told what was made so far");
    assert_eq!(links("more.t2"), json!([{"kind": "requires", "to": "more.t1"}]));
    project.run(&["plan", "extend", "RUN"]).expect_code(0);
    assert_eq!(project.statuses()["more.2.t1"], "pending", "keys of before stay taken");
    project.run(&["resume", "RUN", "-o", "jsonl", "--out", "out"]).expect_code(0);
    assert_eq!(project.status(), "completed");
}

#[test]
fn a_plan_is_approved_by_the_name_of_its_run() {
    let server = StubServer::start(Script::text("# made\n\nwords\n"));
    let app = app();
    app.registry(&server);
    app.write("plan.yaml", PLAN);
    let asked =
        app.run(["run", "--plan", "plan.yaml", "--approve", "plan", "-o", "jsonl", "--out", "out", "--no-input"]);
    let run = asked.expect_code(8).events()[0]["run"].as_str().unwrap().to_owned();
    let said = app.run(["plan", "approve", &run, "-m", "keep it short"]).expect_code(0);
    assert!(said.stdout.contains("approved"), "{}", said.stdout);
    let again = app.run(["plan", "approve", &run]).expect_code(5);
    assert!(again.stderr.contains("plan to approve"), "{}", again.stderr);
    app.run(["resume", &run, "-o", "jsonl", "--out", "out"]).expect_code(0);
    assert_eq!(server.calls(), 3);
}
