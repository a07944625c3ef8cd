//! Specialists that work in a workspace: a small repository with a failing test is repaired through the real tools, what is not
//! allowed is not done, commands check what was done, others' changes are kept, and a crash never runs a command twice.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crewline_testkit::{Script, StubReply, StubRequest, StubServer, TestApp, app::finish};
use serde_json::{Value, json};

use crate::{app, resume::only_run, run_args, signal};

fn action(name: &str, arguments: &Value) -> StubReply {
    StubReply::json(&json!({"action": name, "arguments": arguments}))
}

fn end(text: &str) -> StubReply {
    StubReply::json(&json!({"action": "final", "text": text}))
}

/// How many calls of tools came back so far.
fn results(request: &StubRequest) -> usize {
    request.text().matches("Result of `").count()
}

fn git(dir: &Path, args: &[&str]) {
    let done = Command::new("git").current_dir(dir).args(args).output().unwrap();
    assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A registry whose coder may edit `src` and run `command`, and whose tester may only run it.
fn registry(app: &TestApp, server: &StubServer, command: &str) {
    let commands = format!("commands: {{allow: [\"{command}\"], unconfined: run}}");
    let roles = format!(
        "roles:\n  coder: {{tools: {{edit_file: {{allow: {{path: {{under: [src]}}}}}}, run_command: allow}}, {commands}}}\n  \
         tester: {{tools: {{run_command: allow}}, {commands}}}"
    );
    app.write("crewline.yaml", &server.registry().replace("roles:", &roles));
}

/// A plan of one task.
fn plan(app: &TestApp, role: &str) {
    let task = json!({"id": "a", "title": "A", "description": "Do it.", "role": role, "depends_on": []});
    app.write("plan.json", &json!({"goal": "g", "tasks": [task]}).to_string());
}

/// A repository whose one test fails.
fn broken_repository(app: &TestApp) -> PathBuf {
    let dir = app.path("project");
    app.write("project/src/answer.txt", "answer=41\n");
    app.write("project/test.sh", "grep -qx answer=42 src/answer.txt && echo passed || { echo expected 42; exit 1; }\n");
    git(&dir, &["init", "-q"]);
    git(&dir, &["add", "."]);
    git(&dir, &["-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-q", "-m", "broken"]);
    dir
}

fn answer(dir: &Path) -> String {
    fs::read_to_string(dir.join("src/answer.txt")).unwrap()
}

fn calls(events: &[Value]) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    events.iter().map(|it| (text(&it["tool"]), text(&it["outcome"]))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(tool, outcome)| ((*tool).to_owned(), (*outcome).to_owned())).collect()
}

#[test]
fn a_failing_test_is_repaired_through_the_real_tools() {
    let server = StubServer::start(Script::new(|request: &StubRequest| {
        let test = json!({"program": "sh", "args": ["test.sh"]});
        if request.contains("Make test.sh pass.") {
            return match results(request) {
                0 | 4 => action("run_command", &test),
                1 => action("read_file", &json!({"path": "src/answer.txt"})),
                // What its rules do not allow comes first, as models do.
                2 => action("edit_file", &json!({"path": "test.sh", "old": "42", "new": "41", "all": true})),
                3 => action("edit_file", &json!({"path": "src/answer.txt", "old": "answer=41", "new": "answer=42"})),
                _ => end("The answer is 42 now."),
            };
        }
        match results(request) {
            0 => action("run_command", &test),
            _ if request.contains("exit code 0") => end("The test passes."),
            _ => action("give_up", &json!({"reason": "the test fails"})),
        }
    }));
    let app = app();
    let dir = broken_repository(&app);
    registry(&app, &server, "sh test.sh");
    app.write(
        "plan.json",
        &json!({"goal": "Repair it", "tasks": [
            {"id": "repair", "title": "Repair", "description": "Make test.sh pass.", "role": "coder", "depends_on": []},
            {"id": "check", "title": "Check", "description": "Run the test.", "role": "tester", "depends_on": ["repair"]}
        ]})
        .to_string(),
    );
    let run = app.run(run_args(&["--plan", "plan.json", "--workspace", "project"])).expect_code(0);
    let expected = [
        ("run_command", "failed"),
        ("read_file", "ok"),
        ("edit_file", "refused"),
        ("edit_file", "ok"),
        ("run_command", "ok"),
        // The tester, in a view of its own that has what was merged.
        ("run_command", "ok"),
    ];
    assert_eq!(calls(&run.events_of("tool_call")), pairs(&expected));
    assert_eq!(answer(&dir), "answer=42\n");
    assert!(fs::read_to_string(dir.join("test.sh")).unwrap().contains("answer=42"), "the test is as it was");
    assert!(Command::new("sh").arg("test.sh").current_dir(&dir).status().unwrap().success());
    assert_eq!(names(&app, "views"), 0, "no view is left");
}

/// A plan of one task for the coder, done when `sh test.sh` ends with exit code 0.
fn checked_plan(app: &TestApp, role: &str, program: &str, args: &[&str]) {
    let check = json!({"criterion": "the test passes", "check": {"type": "command", "program": program, "args": args}});
    let task = json!({
        "id": "a", "title": "A", "description": "Do it.", "role": role, "depends_on": [], "success_criteria": [check]
    });
    app.write("plan.json", &json!({"goal": "g", "tasks": [task]}).to_string());
}

fn edit(old: &str, new: &str) -> StubReply {
    action("edit_file", &json!({"path": "src/answer.txt", "old": old, "new": new}))
}

/// The verdicts of the command on each final answer, with the model that gave it.
fn verdicts(calls: &[Value]) -> Vec<(&str, bool)> {
    let checked = calls.iter().filter(|it| it["checks"].as_array().is_some_and(|checks| !checks.is_empty()));
    checked.map(|it| (it["model"].as_str().unwrap(), it["checks"][0]["passed"].as_bool().unwrap())).collect()
}

#[test]
fn tests_that_fail_twice_lead_to_the_next_model_which_goes_on_with_the_work() {
    let server = StubServer::start(Script::new(|request: &StubRequest| {
        let rejected = request.text().matches("it is not accepted yet").count();
        match (request.model.as_str(), results(request), rejected) {
            ("cheap", 0, _) => edit("answer=41", "answer=40"),
            ("cheap", 1, 1) => edit("answer=40", "answer=43"),
            ("strong", 2, _) => edit("answer=43", "answer=42"),
            _ => end("The test passes."),
        }
    }));
    let app = app();
    let dir = broken_repository(&app);
    registry(&app, &server, "sh test.sh");
    checked_plan(&app, "coder", "sh", &["test.sh"]);
    let run = app.run(run_args(&["--plan", "plan.json", "--workspace", "project"])).expect_code(0);
    let calls = run.events_of("model_call");
    assert_eq!(verdicts(&calls), [("cheap", false), ("cheap", false), ("strong", true)]);
    let failed = calls.iter().find(|it| it["outcome"] == "invalid").unwrap();
    assert_eq!(
        (&failed["error"]["code"], &failed["checks"][0]["verifier"]),
        (&json!("check.failed"), &json!("command"))
    );
    assert_eq!(failed["checks"][0]["evidence"], "expected 42\n[exit code 1]");
    let told = server.requests().iter().filter(|it| it.contains("expected 42\n[exit code 1]")).count();
    assert!(told >= 4, "both models are told what the command found, {told}");
    assert_eq!(run.events_of("task_started").len(), 1, "it is one attempt in one view");
    assert_eq!(run.events_of("task_completed")[0]["model"], "strong");
    assert_eq!(answer(&dir), "answer=42\n");
    assert_eq!(names(&app, "views"), 0, "no view is left");
    let shown: Value =
        serde_json::from_str(&app.run(["route", "verifiers", "-o", "json"]).expect_code(0).stdout).unwrap();
    assert_eq!((&shown["command"]["answers"], &shown["command"]["accepted"]), (&json!(3), &json!(1)));
}

#[test]
fn what_a_command_never_accepts_is_not_merged() {
    let server = StubServer::start(Script::new(|request: &StubRequest| match results(request) {
        0 => edit("answer=41", "answer=40"),
        _ => end("The test passes."),
    }));
    let app = app();
    let dir = broken_repository(&app);
    registry(&app, &server, "sh test.sh");
    checked_plan(&app, "coder", "sh", &["test.sh"]);
    let run = app.run(run_args(&["--plan", "plan.json", "--workspace", "project"])).expect_code(1);
    let expected = [("cheap", false), ("cheap", false), ("strong", false), ("strong", false)];
    assert_eq!(verdicts(&run.events_of("model_call")), expected.repeat(2), "two attempts");
    assert_eq!(run.events_of("task_failed")[0]["error"]["code"], "check.failed");
    assert_eq!((answer(&dir).as_str(), names(&app, "views")), ("answer=41\n", 0));
}

#[test]
fn a_command_that_no_attempt_could_run_is_refused_with_the_plan() {
    let server = StubServer::start(Script::default());
    let app = app();
    broken_repository(&app);
    registry(&app, &server, "sh test.sh");
    for (role, args, line, part) in [
        ("coder", &["test.sh"][..], &[][..], "--workspace"),
        ("writer", &["test.sh"], &["--workspace", "project"], "role `writer` has no tools"),
        ("coder", &["-c", "true"], &["--workspace", "project"], "`commands.allow` of role `coder`"),
    ] {
        checked_plan(&app, role, "sh", args);
        let run = app.run(run_args(&[&["--plan", "plan.json"], line].concat())).expect_code(3);
        assert!(run.stderr.contains(part), "{}", run.stderr);
    }
    checked_plan(&app, "coder", " ", &[]);
    let run = app.run(run_args(&["--plan", "plan.json", "--workspace", "project"])).expect_code(3);
    assert!(run.stderr.contains("`program` is empty"), "{}", run.stderr);
    assert_eq!(server.calls(), 0);
}

#[test]
fn a_command_outside_the_allow_list_is_refused() {
    let server = StubServer::start(Script::new(|request: &StubRequest| match results(request) {
        0 => action("run_command", &json!({"program": "rm", "args": ["-r", "src"]})),
        1 => action("run_command", &json!({"program": "sh", "args": ["-c", "rm -r src"]})),
        2 => action("write_file", &json!({"path": "src/answer.txt", "content": ""})),
        3 => action("http_fetch", &json!({"url": "https://example.com/"})),
        _ => end("Nothing more."),
    }));
    let app = app();
    let dir = broken_repository(&app);
    registry(&app, &server, "sh test.sh");
    plan(&app, "tester");
    let run = app.run(run_args(&["--plan", "plan.json", "--workspace", "project"])).expect_code(0);
    let expected =
        [("run_command", "refused"), ("run_command", "refused"), ("write_file", "invalid"), ("http_fetch", "invalid")];
    assert_eq!(calls(&run.events_of("tool_call")), pairs(&expected));
    assert_eq!(answer(&dir), "answer=41\n");
}

#[test]
fn a_command_that_a_rule_asks_about_waits_for_a_yes() {
    let server = StubServer::start(Script::new(|request: &StubRequest| match results(request) {
        0 => action("run_command", &json!({"program": "sh", "args": ["test.sh"]})),
        _ => end("It fails."),
    }));
    let app = app();
    broken_repository(&app);
    let role = "{tools: {run_command: allow}, commands: {ask: [\"sh test.sh\"], unconfined: run}}";
    app.write("crewline.yaml", &server.registry().replace("roles:", &format!("roles:\n  tester: {role}")));
    plan(&app, "tester");
    let waits = app.run(run_args(&["--plan", "plan.json", "--workspace", "project"])).expect_code(8);
    assert!(waits.events_of("tool_call").is_empty());
    let id = only_run(&app);
    app.run(["approve", &id]).expect_code(0);
    let run = app.run(["resume", &id, "-o", "jsonl", "--out", "out"]).expect_code(0);
    assert_eq!(calls(&run.events_of("tool_call")), pairs(&[("run_command", "failed")]));
    assert!(server.requests().last().unwrap().contains("expected 42"), "it was run");
}

#[test]
fn without_a_workspace_there_are_no_tools_for_one() {
    let server = StubServer::start(Script::new(|request: &StubRequest| match results(request) {
        0 => action("run_command", &json!({"program": "sh", "args": ["test.sh"]})),
        _ => end("Nothing more."),
    }));
    let app = app();
    registry(&app, &server, "sh test.sh");
    plan(&app, "tester");
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    assert_eq!(calls(&run.events_of("tool_call")), pairs(&[("run_command", "invalid")]));
    assert!(!server.requests()[0].contains("Runs a program"), "the tool is not offered");
    for line in [["--workspace", "nowhere"], ["--workspace", "plan.json"]] {
        app.run(run_args(&[&["--plan", "plan.json"], &line[..]].concat())).expect_code(2);
    }
    app.run(["run", "x", "--workspace", ".", "--detach"]).expect_code(2);
    registry(&app, &server, "");
    let refused = app.run(["registry", "check"]).expect_code(3);
    assert!(refused.stderr.contains("registry.invalid"), "{}", refused.stderr);
}

#[test]
fn what_a_task_changed_is_shown_and_taken_back() {
    let server = StubServer::start(Script::new(|request: &StubRequest| {
        let is_first = request.contains("Make it 42.");
        let (old, new) = if is_first { ("answer=41", "answer=42") } else { ("answer=42", "answer=43") };
        match results(request) {
            0 => action("edit_file", &json!({"path": "src/answer.txt", "old": old, "new": new})),
            _ => end("It is done."),
        }
    }));
    let app = app();
    let dir = broken_repository(&app);
    registry(&app, &server, "sh test.sh");
    let task = |id: &str, text: &str, needs: &[&str]| json!({"id": id, "title": id, "description": text, "role": "coder", "depends_on": needs});
    let tasks = [task("one", "Make it 42.", &[]), task("two", "Make it 43.", &["one"])];
    app.write("plan.json", &json!({"goal": "g", "tasks": tasks}).to_string());
    app.run(run_args(&["--plan", "plan.json", "--workspace", "project"])).expect_code(0);
    let id = only_run(&app);
    let json = |line: &[&str], code: i32| -> Value {
        let line: Vec<String> = line.iter().map(|it| it.replace("RUN", &id)).collect();
        serde_json::from_str(&app.run(&line).expect_code(code).stdout).unwrap()
    };
    let diff = json(&["diff", "RUN/one", "-o", "json"], 0);
    assert_eq!((&diff[0]["attempt"], &diff[0]["files"]), (&json!(1), &json!(["src/answer.txt"])));
    assert!(
        diff[0]["diff"].as_str().unwrap().contains(
            "-answer=41
+answer=42"
        ),
        "{diff}"
    );
    let files = json(&["artifacts", "RUN", "-o", "json"], 0);
    assert_eq!(files["files"][0]["tasks"], json!(["one", "two"]));

    over_http(&app, &id);
    assert_eq!(answer(&dir), "answer=43\n", "a conflict changes nothing");
    let refused = json(&["revert", "RUN/one", "-o", "json"], 9);
    assert_eq!((&refused["files"], &refused["conflicts"][0]["path"]), (&json!([]), &json!("src/answer.txt")));
    assert_eq!(
        answer(&dir),
        "answer=43
",
        "a conflict changes nothing"
    );
    json(&["revert", "RUN/two", "-o", "json"], 0);
    assert_eq!(
        answer(&dir),
        "answer=42
"
    );
    json(&["revert", "RUN/one", "-o", "json"], 0);
    assert_eq!(
        answer(&dir),
        "answer=41
"
    );
    let shown = json(&["task", "show", "RUN/one", "-o", "json"], 0);
    assert!(shown.to_string().contains("its changes were taken back: src/answer.txt"), "{shown}");

    let held = fs::File::open(&dir).unwrap();
    held.try_lock().unwrap();
    let refused = app.run(["revert", &format!("{id}/one")]).expect_code(6);
    assert!(refused.stderr.contains("workspace.busy"), "{}", refused.stderr);
}

/// The same that the command line shows.
fn over_http(app: &TestApp, run: &str) {
    let port = crate::serve::free_port();
    let child = app.spawn(["serve", "--addr", &format!("127.0.0.1:{port}")]);
    crate::serve::wait_until_ready(port);
    let run = format!("/runs/{run}");
    let (status, diff) = crate::serve::ask(port, "GET", &format!("{run}/tasks/one/diff"), &Value::Null);
    assert_eq!((status, &diff[0]["files"]), (200, &json!(["src/answer.txt"])));
    let (status, files) = crate::serve::ask(port, "GET", &format!("{run}/artifacts"), &Value::Null);
    assert_eq!((status, &files["files"][0]["tasks"]), (200, &json!(["one", "two"])));
    let (status, refused) = crate::serve::ask(port, "POST", &format!("{run}/tasks/one/revert"), &json!({"by": "ann"}));
    assert_eq!((status, &refused["code"]), (409, &json!("task.revert_conflict")));
    assert_eq!(refused["errors"][0]["path"], "src/answer.txt", "{refused}");
    assert_eq!(crate::serve::ask(port, "GET", &format!("{run}/tasks/none/diff"), &Value::Null).0, 404);
    signal(child.id(), "TERM");
    finish(child, TestApp::LIMIT).expect_code(0);
}

#[test]
fn what_others_changed_meanwhile_is_not_overwritten() {
    let app = app();
    let dir = broken_repository(&app);
    let (file, meddled) = (dir.join("src/answer.txt"), AtomicUsize::new(0));
    let server = StubServer::start(Script::new(move |request: &StubRequest| {
        if results(request) == 0 {
            let old = if meddled.load(Ordering::SeqCst) == 0 { "answer=41" } else { "answer=40" };
            return action("edit_file", &json!({"path": "src/answer.txt", "old": old, "new": "answer=42"}));
        }
        // Somebody changes the same line between the edit and the merge.
        if meddled.fetch_add(1, Ordering::SeqCst) == 0 {
            fs::write(&file, "answer=40\n").unwrap();
        }
        end("Done.")
    }));
    registry(&app, &server, "sh test.sh");
    plan(&app, "coder");
    let run = app.run(run_args(&["--plan", "plan.json", "--workspace", "project"])).expect_code(0);
    let failed = run.events_of("task_failed");
    assert_eq!((failed.len(), &failed[0]["error"]["code"]), (1, &json!("attempt.conflict")));
    assert!(failed[0]["error"]["message"].as_str().unwrap().contains("+answer=42"), "{}", failed[0]);
    assert_eq!(answer(&dir), "answer=42\n", "the second try began as the workspace was then");
    let questions: Vec<String> = server.requests().iter().filter(|it| results(it) == 0).map(|it| it.text()).collect();
    assert_eq!(questions.len(), 2);
    assert!(!questions[0].contains("could not be merged"));
    let told = &questions[1][questions[1].find("could not be merged").unwrap()..];
    for part in ["never an instruction", "```", "src/answer.txt", "-answer=41", "+answer=42"] {
        assert!(told.contains(part), "{part} is missing in {told}");
    }
}

/// Every `log.txt` below the data directory, by its lines.
fn lines(app: &TestApp) -> usize {
    fn count(dir: &Path) -> usize {
        let Ok(entries) = fs::read_dir(dir) else { return 0 };
        let of = |path: PathBuf| match path.is_dir() {
            true => count(&path),
            false if path.ends_with("log.txt") => fs::read_to_string(&path).map_or(0, |it| it.lines().count()),
            false => 0,
        };
        entries.flatten().map(|entry| of(entry.path())).sum()
    }
    count(&app.path("data/workspaces"))
}

/// How many entries the folder `name` of the only workspace has.
fn names(app: &TestApp, name: &str) -> usize {
    let state = fs::read_dir(app.path("data/workspaces")).unwrap().next().unwrap().unwrap().path();
    fs::read_dir(state.join(name)).map_or(0, Iterator::count)
}

#[test]
fn a_command_of_unknown_outcome_is_not_run_again_by_itself() {
    let server = StubServer::start(Script::new(|request: &StubRequest| match results(request) {
        0 => action("run_command", &json!({"program": "sh", "args": ["slow.sh"]})),
        _ => end("It is over."),
    }));
    let app = app();
    registry(&app, &server, "sh slow.sh");
    app.write("project/slow.sh", "echo once >> log.txt\nsleep 100\n");
    plan(&app, "tester");
    let child = app.spawn(run_args(&["--plan", "plan.json", "--workspace", "project"]));
    for _ in 0..3_000 {
        if lines(&app) > 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(lines(&app), 1, "the command runs");
    signal(child.id(), "KILL");
    assert_eq!(finish(child, TestApp::LIMIT).code, None);

    let id = only_run(&app);
    let pruned = |line: &[&str]| -> Value {
        let line = [&["prune", "--keep", "0", "--json", "--yes"], line].concat();
        serde_json::from_str(&app.run(&line).expect_code(0).stdout).unwrap()
    };
    assert_eq!(pruned(&[])["views"], json!([]), "a run that can go on keeps what it needs");
    for _ in 0..2 {
        let waits = app.run(["resume", &id, "-o", "jsonl", "--out", "out", "--no-input"]).expect_code(8);
        assert!(waits.events_of("tool_call").is_empty());
        assert_eq!(lines(&app), 1, "it is not run again without a person's word");
    }
    let asked: Value = serde_json::from_str(&app.run(["approvals", &id, "-o", "json"]).expect_code(0).stdout).unwrap();
    assert_eq!((asked.as_array().unwrap().len(), &asked[0]["kind"]), (1, &json!("again")));
    app.run(["reject", &id, "-m", "it was done"]).expect_code(0);
    let run = app.run(["resume", &id, "-o", "jsonl", "--out", "out"]).expect_code(0);
    assert_eq!(calls(&run.events_of("tool_call")), pairs(&[("run_command", "unknown")]));
    assert!(server.requests().last().unwrap().contains("it was done"));
    assert_eq!(server.calls(), 2, "no answer is bought twice");
    let log = fs::read_to_string(app.path("project/log.txt")).unwrap();
    assert_eq!((log.as_str(), lines(&app)), ("once\n", 0), "what it did before the crash is merged once");

    // What another process may have left, and what is no view.
    let state = fs::read_dir(app.path("data/workspaces")).unwrap().next().unwrap().unwrap().path();
    for name in ["zzzzzzzz-1", "mine"] {
        app.write(state.join("views").join(name).join("file").to_str().unwrap(), "12345");
    }
    let shown = pruned(&["--dry-run"]);
    assert_eq!(
        (&shown["views"][0]["attempt"], &shown["views"][0]["bytes"]),
        (&json!("zzzzzzzz-1"), &json!(5)),
        "{shown}"
    );
    assert_eq!(names(&app, "views"), 2, "a dry run removes nothing");
    assert_eq!(pruned(&[])["deleted"]["views"], 1);
    assert_eq!(names(&app, "views"), 1, "what is no view stays");
}

#[test]
fn the_view_of_a_run_that_was_ended_is_pruned_with_its_work_tree() {
    let server = StubServer::start(Script::new(|_: &StubRequest| StubReply::hang()));
    let app = app();
    let dir = broken_repository(&app);
    registry(&app, &server, "sh test.sh");
    plan(&app, "coder");
    let child = app.spawn(run_args(&["--plan", "plan.json", "--workspace", "project"]));
    crate::workers::wait_until("a question", || server.calls() > 0);
    signal(child.id(), "KILL");
    assert_eq!(finish(child, TestApp::LIMIT).code, None);
    assert_eq!((names(&app, "views"), trees(&dir)), (1, 2));
    app.run(["cancel", &only_run(&app)]).expect_code(0);
    let gone = app.run(["prune", "--keep", "100", "--json", "--yes"]).expect_code(0);
    let gone: Value = serde_json::from_str(&gone.stdout).unwrap();
    assert_eq!((&gone["runs"], &gone["deleted"]["views"]), (&json!([]), &json!(1)), "{gone}");
    assert_eq!((names(&app, "views"), trees(&dir)), (0, 1), "the repository knows no other work tree any more");
}

/// How many work trees the repository knows.
fn trees(dir: &Path) -> usize {
    let done = Command::new("git").current_dir(dir).args(["worktree", "list"]).output().unwrap();
    String::from_utf8(done.stdout).unwrap().lines().count()
}
