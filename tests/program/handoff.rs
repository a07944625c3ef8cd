//! A specialist hands its task to another role: what it left is there, what it said is told, and a crash in between loses neither
//! nor does anything twice.

use std::path::Path;

use crewline_testkit::{Script, StubReply, StubRequest, StubServer, TestApp, app::finish};
use serde_json::{Value, json};

use crate::{
    app,
    resume::only_run,
    run_args, signal,
    workers::{LONG, World, wait_until},
};

pub(crate) fn action(name: &str, arguments: &Value) -> StubReply {
    StubReply::json(&json!({"action": name, "arguments": arguments}))
}

pub(crate) fn end(text: &str) -> StubReply {
    StubReply::json(&json!({"action": "final", "text": text}))
}

/// How many calls of tools came back so far.
pub(crate) fn results(request: &StubRequest) -> usize {
    request.text().matches("Result of `").count()
}

fn to(role: &str) -> Value {
    json!({
        "role": role, "decided": "The answer is 42.", "tried": "41 does not fit.", "rejected": "Asking twice.",
        "open": "Whether ``` it ``` holds."
    })
}

/// Whether the one who asks was handed the task.
fn is_handed(request: &StubRequest) -> bool {
    request.contains("Another specialist began this task")
}

const ROLES: &str = "roles:\n  coder: {tools: {write_file: allow, handoff: {allow: {role: {one_of: [tester]}}}}}\n  \
                     tester: {tools: {write_file: allow, run_command: allow, handoff: allow}, commands: {allow: [\"sh \
                     slow.sh\"], unconfined: run}}";

fn set_up(app: &TestApp, server: &StubServer, roles: &str, role: &str) {
    app.write("crewline.yaml", &server.registry().replace("roles:", roles));
    app.write("project/README", "nothing yet\n");
    let task = json!({"id": "a", "title": "A", "description": "Do it.", "role": role, "depends_on": []});
    app.write("plan.json", &json!({"goal": "g", "tasks": [task]}).to_string());
}

fn run_line() -> Vec<String> {
    let line = run_args(&["--plan", "plan.json", "--workspace", "project"]);
    line.into_iter().map(ToString::to_string).collect()
}

fn handed_over(events: &[Value]) -> Vec<String> {
    let handed = events.iter().filter(|it| it["action"] == "handed_over");
    handed.map(|it| format!("{} {}", it["agent"].as_str().unwrap(), it["detail"].as_str().unwrap())).collect()
}

#[test]
fn another_role_goes_on_from_what_was_left_and_said() {
    let server = StubServer::start(Script::new(|request: &StubRequest| {
        if is_handed(request) {
            return match results(request) {
                0 => action("read_file", &json!({"path": "answer.txt"})),
                _ => end("It is done."),
            };
        }
        match results(request) {
            0 => action("write_file", &json!({"path": "answer.txt", "content": "answer=42\n"})),
            // What the rules do not allow is refused, and the work goes on.
            1 => action("handoff", &to("writer")),
            _ => action("handoff", &to("tester")),
        }
    }));
    let app = app();
    set_up(&app, &server, ROLES, "coder");
    let run = app.run(run_line()).expect_code(0);
    let calls: Vec<String> = run
        .events_of("tool_call")
        .iter()
        .map(|it| format!("{} {}", it["tool"].as_str().unwrap(), it["outcome"].as_str().unwrap()))
        .collect();
    assert_eq!(calls, ["write_file ok", "handoff invalid", "handoff ok", "read_file ok"]);
    assert!(run.events_of("task_failed").is_empty(), "it is no failure");
    assert_eq!(handed_over(&run.events_of("task_changed")), ["coder to tester"]);
    let question = server.requests().into_iter().find(|it| is_handed(it)).unwrap().text();
    let told = &question[question.find("Another specialist").unwrap()..];
    for part in [
        "The files are as they left them.",
        "never an instruction",
        "````",
        "Decided: The answer is 42.",
        "Tried: 41 does not fit.",
        "Rejected: Asking twice.",
        "Open: Whether ``` it ``` holds.",
    ] {
        assert!(told.contains(part), "{part} is missing in {told}");
    }
    assert_eq!(
        std::fs::read_to_string(app.path("project/answer.txt")).unwrap(),
        "answer=42\n",
        "merged once it was done"
    );
    let id = only_run(&app);
    let task: Value =
        serde_json::from_str(&app.run(["task", "show", &format!("{id}/a"), "--json"]).expect_code(0).stdout).unwrap();
    assert_eq!((&task["role"], &task["status"]), (&json!("tester"), &json!("completed")));
    let kept = app.run(["memory", "ls", "--json"]).expect_code(0).stdout;
    assert!(kept.contains("hands `A` to tester") && kept.contains("41 does not fit."), "{kept}");
}

#[test]
fn a_task_is_handed_on_a_few_times_only() {
    let server = StubServer::start(Script::new(|request: &StubRequest| match results(request) {
        0 if request.contains(r#""enum":["tester"]"#) => action("handoff", &to("tester")),
        0 => action("handoff", &to("coder")),
        _ => end("Then I do it myself."),
    }));
    let app = app();
    let rule = ROLES.replace("{allow: {role: {one_of: [tester]}}}", "allow");
    set_up(&app, &server, &rule, "coder");
    let run = app.run(run_line()).expect_code(0);
    let expected = ["coder to tester", "tester to coder", "coder to tester", "tester to coder"];
    assert_eq!(handed_over(&run.events_of("task_changed")), expected);
    let last = run.events_of("tool_call").last().unwrap().clone();
    assert_eq!((&last["tool"], &last["outcome"]), (&json!("handoff"), &json!("failed")));
    assert!(server.requests().last().unwrap().contains("handed on 4 times already"));
}

/// An answer in the provider's own form with calls of tools.
fn native(request: &StubRequest, calls: &[(&str, Value)]) -> StubReply {
    let calls: Vec<Value> = (0..)
        .zip(calls)
        .map(|(index, (name, arguments)): (u32, _)| {
            json!({"index": index, "id": format!("call_{index}"), "type": "function",
                "function": {"name": name, "arguments": arguments.to_string()}})
        })
        .collect();
    let message = json!({"role": "assistant", "content": null, "tool_calls": calls});
    if request.stream {
        let event = json!({"choices": [{"index": 0, "delta": message, "finish_reason": "tool_calls"}]});
        return StubReply::raw_stream(format!("data: {event}\n\ndata: [DONE]\n\n"));
    }
    StubReply::raw(json!({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}).to_string())
}

/// Every `log.txt` below `dir`, by its lines.
fn lines(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let of = |path: std::path::PathBuf| match path.is_dir() {
        true => lines(&path),
        false if path.ends_with("log.txt") => std::fs::read_to_string(&path).map_or(0, |it| it.lines().count()),
        false => 0,
    };
    entries.flatten().map(|entry| of(entry.path())).sum()
}

#[test]
fn a_crash_between_intent_and_outcome_hands_over_once() {
    let server = StubServer::start(Script::new(|request: &StubRequest| {
        if is_handed(request) {
            return StubReply::text("It is done.");
        }
        // The hand-off is made, and not known to be made while the command beside it runs.
        let slow = json!({"program": "sh", "args": ["slow.sh"]});
        native(request, &[("handoff", to("coder")), ("run_command", slow)])
    }));
    let app = app();
    set_up(&app, &server, ROLES, "tester");
    let text = std::fs::read_to_string(app.path("crewline.yaml")).unwrap();
    let text = text.replace("model: cheap, ", "model: cheap, capabilities: [tools], ");
    app.write("crewline.yaml", &text.replace("model: strong,", "model: strong, capabilities: [tools],"));
    app.write("project/slow.sh", "echo once >> log.txt\nsleep 100\n");
    let child = app.spawn(run_line());
    wait_until("the command", || lines(&app.path("data/workspaces")) > 0);
    signal(child.id(), "KILL");
    assert_eq!(finish(child, TestApp::LIMIT).code, None);
    let id = only_run(&app);
    let waits = app.run(["resume", &id, "-o", "jsonl", "--out", "out", "--no-input"]).expect_code(8);
    assert!(waits.events_of("task_changed").is_empty(), "a person decides on the command first");
    app.run(["reject", &id]).expect_code(0);
    let done = app.run(["resume", &id, "-o", "jsonl", "--out", "out"]).expect_code(0);
    assert_eq!(handed_over(&done.events_of("task_changed")), ["tester to coder"]);
    assert_eq!(server.calls(), 2, "no answer is bought twice");
    let log = std::fs::read_to_string(app.path("project/log.txt")).unwrap();
    assert_eq!(log, "once\n", "the command was run once, and its view went on");
}

#[test]
fn a_crash_after_the_hand_over_leaves_the_task_with_the_new_role() {
    let server = StubServer::start(Script::new(|request: &StubRequest| {
        if is_handed(request) { StubReply::hang() } else { action("handoff", &to("tester")) }
    }));
    let app = app();
    set_up(&app, &server, ROLES, "coder");
    let child = app.spawn(run_line());
    wait_until("the new role", || server.requests().iter().any(|it| is_handed(it)));
    signal(child.id(), "KILL");
    assert_eq!(finish(child, TestApp::LIMIT).code, None);
    let again = StubServer::start(Script::new(|request: &StubRequest| {
        assert!(is_handed(request), "who goes on knows what was handed over");
        end("It is done.")
    }));
    set_up(&app, &again, ROLES, "coder");
    let id = only_run(&app);
    let done = app.run(["resume", &id, "-o", "jsonl", "--out", "out"]).expect_code(0);
    assert!(handed_over(&done.events_of("task_changed")).is_empty(), "it was handed over before the crash");
    assert_eq!(again.calls(), 1);
    let report: Value = serde_json::from_str(&app.run(["show", &id, "--json"]).expect_code(0).stdout).unwrap();
    let task = report["tasks"].as_array().unwrap().iter().find(|it| it["key"] == "a").unwrap();
    assert_eq!((&task["role"], &task["status"]), (&json!("tester"), &json!("completed")), "{task}");
}

#[test]
fn a_worker_hands_over_to_another_role() {
    let script = Script::new(|request: &StubRequest| match results(request) {
        _ if is_handed(request) => end("It is done."),
        _ if request.contains(r#""enum":["tester"]"#) => action("handoff", &to("tester")),
        _ => StubReply::text("Fine."),
    });
    let Some(mut world) = World::new("handoff", script) else { return };
    let roles = "roles:\n  coder: {tools: {handoff: ask}}\n  tester: {tools: {handoff: allow}}";
    world.app.write("crewline.yaml", &world.server.registry().replace("roles:", roles));
    world.serve("0");
    world.start(&["worker", "--slots", "1"], LONG);
    let task = json!({"id": "a", "title": "A", "description": "Do it.", "role": "coder", "depends_on": []});
    let run = world.submit(&json!({"goal": "g", "tasks": [task]}));
    // A rule that asks is asked first, and the yes hands over.
    let ask = |args: &[&str]| {
        let args = [args, &["--database", &world.database.url]].concat();
        world.app.run(args).expect_code(0).stdout
    };
    wait_until("the question", || ask(&["approvals", &run, "-o", "json"]).contains("handoff"));
    assert!(!world.server.requests().iter().any(|it| is_handed(it)));
    ask(&["approve", &run]);
    wait_until("the end of the run", || world.show(&run)["status"] == "completed");
    let report = world.show(&run);
    let task = report["tasks"].as_array().unwrap().iter().find(|it| it["key"] == "a").unwrap();
    assert_eq!((&task["role"], &task["status"]), (&json!("tester"), &json!("completed")), "{task}");
    let asked = world.server.requests().iter().filter(|it| it.contains(r#""enum":["tester"]"#)).count();
    assert_eq!(asked, 1, "no answer is bought twice");
}
