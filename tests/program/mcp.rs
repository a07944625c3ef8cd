//! `crewline mcp`: what another agent sees through the Model Context Protocol, spoken here line by line.

use std::{
    io::{BufRead, BufReader, Write},
    process::{ChildStdin, ChildStdout, Stdio},
    time::Duration,
};

use crewline_testkit::{Running, Script, StubServer, TestApp, app::finish, client::free_port};
use serde_json::{Value, json};

use crate::{app, run_args, serve::wait_until_ready};

/// The tools that are promised.
const TOOLS: [&str; 13] = [
    "approve",
    "memory_search",
    "memory_store",
    "run_cancel",
    "run_list",
    "run_result",
    "run_start",
    "run_status",
    "task_list",
    "task_mark",
    "task_next",
    "task_note",
    "task_show",
];

struct Client {
    child: Running,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    asked: u64,
}

impl Client {
    /// Starts the server and shakes hands.
    fn start(app: &TestApp) -> Self {
        let mut command = app.command(["mcp"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Running::from(command.spawn().unwrap());
        let (to, from) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut client = Self { child, to, from, asked: 0 };
        let hello = client.ask(
            "initialize",
            &json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}),
        );
        assert_eq!(hello["result"]["serverInfo"]["name"], "crewline", "{hello}");
        client.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        client
    }

    fn say(&mut self, message: &Value) {
        let to = self.to.as_mut().unwrap();
        writeln!(to, "{message}").unwrap();
        to.flush().unwrap();
    }

    /// Every line of stdout is a message of the protocol, and the next answer is that to this question.
    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.asked += 1;
        let id = self.asked;
        self.say(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        loop {
            let mut line = String::new();
            assert_ne!(self.from.read_line(&mut line).unwrap(), 0, "the server ended");
            let message: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if message["id"] == id {
                return message;
            }
        }
    }

    /// What a tool answers, and whether it is an error.
    fn call(&mut self, tool: &str, arguments: &Value) -> (Value, bool) {
        let answer = self.ask("tools/call", &json!({"name": tool, "arguments": arguments}));
        let result = &answer["result"];
        assert!(result.is_object(), "{answer}");
        let said: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
        assert_eq!(said, result["structuredContent"], "the text says what the structure says");
        (said, result["isError"] == true)
    }

    fn get(&mut self, tool: &str, arguments: &Value) -> Value {
        let (answer, is_error) = self.call(tool, arguments);
        assert!(!is_error, "{tool}: {answer}");
        answer
    }

    /// Waits until a run has ended.
    fn end_of(&mut self, run: &str) -> String {
        for _ in 0..1_200 {
            let state = self.get("run_status", &json!({"run": run}));
            if state["status"] != "running" {
                return state["status"].as_str().unwrap().to_owned();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("run {run} did not end");
    }

    /// The client goes, and the server ends by itself.
    fn go(mut self) {
        self.to = None;
        let done = finish(self.child, Duration::from_mins(1));
        done.expect_code(0);
    }
}

#[test]
fn another_agent_launches_a_crew_and_reads_its_result() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let mut client = Client::start(&app);

    let listed = client.ask("tools/list", &json!({}));
    let tools = listed["result"]["tools"].as_array().unwrap();
    let mut names: Vec<&str> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, TOOLS);
    for tool in tools {
        assert_eq!(tool["inputSchema"]["type"], "object", "{tool}");
        assert_eq!(tool["outputSchema"]["type"], "object", "{tool}");
        assert!(!tool.to_string().contains(r#""format":"uint"#), "no format that JSON Schema does not have: {tool}");
        assert!(tool["description"].as_str().unwrap().ends_with('.'), "{tool}");
    }

    let launched = client.get("run_start", &json!({"goal": "Describe the tide"}));
    let run = launched["run"].as_str().unwrap().to_owned();
    assert_eq!(client.end_of(&run), "completed");
    let result = client.get("run_result", &json!({"run": run}));
    assert!(!result["page"]["text"].as_str().unwrap().is_empty(), "{result}");
    assert_eq!(result["page"]["next_offset"], Value::Null);

    let tasks = client.get("task_list", &json!({"run": &run[..6]}));
    let last = tasks["tasks"].as_array().unwrap().last().unwrap().clone();
    let shown = client.get("task_show", &json!({"run": run, "task": last["key"]}));
    assert_eq!(shown["task"]["id"], last["id"]);
    let runs = client.get("run_list", &json!({}));
    assert_eq!(runs["runs"][0]["run"], *run);

    let (refused, is_error) = client.call("run_cancel", &json!({"run": run}));
    assert!(is_error);
    assert_eq!(refused["code"], "run.finished", "{refused}");
    client.go();
    app.run(["show", &run]).expect_code(0);
}

#[test]
fn outside_agents_take_tasks_and_complete_them() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let task = |id: &str, needs: &[&str]| json!({"id": id, "title": id, "description": "Do it.", "role": "writer", "depends_on": needs});
    app.write("plan.json", &json!({"goal": "g", "tasks": [task("one", &[]), task("two", &["one"])]}).to_string());
    let planned = app.run(run_args(&["--plan", "plan.json", "--approve", "plan"])).expect_code(8);
    let run = planned.events()[0]["run"].as_str().unwrap().to_owned();
    let mut client = Client::start(&app);

    let (refused, is_error) = client.call("task_next", &json!({"run": run, "start": true}));
    assert!(is_error && refused["detail"].as_str().unwrap().contains("agent"), "{refused}");
    let next = client.get("task_next", &json!({"run": run, "agent": "ada", "start": true}));
    assert_eq!((&next["task"]["key"], &next["task"]["status"]), (&json!("one"), &json!("in_progress")));
    client.get("task_note", &json!({"run": run, "task": "one", "text": "half done", "agent": "ada"}));
    let marked = json!({"run": run, "task": "one", "status": "completed", "result": "It is one.", "agent": "ada"});
    let changed = client.get("task_mark", &marked);
    assert_eq!(changed["tasks"][0]["status"], "completed", "{changed}");
    let shown = client.get("task_show", &json!({"run": run, "task": "one"}));
    assert_eq!(shown["page"]["text"], "It is one.");
    let next = client.get("task_next", &json!({"run": run}));
    assert_eq!((&next["planned"], &next["planned_for"]), (&json!(0), &Value::Null), "{next}");
    assert_eq!((&next["task"]["key"], &next["task"]["depends_on"]), (&json!("two"), &json!(["one"])));
    let (refused, is_error) = client.call("task_mark", &json!({"run": run, "task": "none", "status": "failed"}));
    assert!(is_error && refused["code"] == "task.not_found", "{refused}");
    client.go();
}

#[test]
fn a_decision_is_recorded_with_who_made_it() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let task = json!({"id": "a", "title": "A", "description": "Do it.", "role": "writer", "depends_on": []});
    app.write("plan.json", &json!({"goal": "g", "tasks": [task]}).to_string());
    let run = app.run(run_args(&["--plan", "plan.json", "--approve", "plan"])).expect_code(8);
    let run = run.events()[0]["run"].as_str().unwrap().to_owned();
    let mut client = Client::start(&app);
    let yes = json!({"approval": run, "decision": "approve", "by": "ada", "message": "fine"});
    let settled = client.get("approve", &yes);
    assert_eq!((&settled["state"], &settled["by"]), (&json!("approved"), &json!("mcp:ada")), "{settled}");
    let again = json!({"approval": settled["approval"], "decision": "reject"});
    let (refused, is_error) = client.call("approve", &again);
    assert!(is_error && refused["code"] == "approval.decided", "{refused}");
    client.go();
    let asked = app.run(["approvals", &run, "--all", "-o", "json"]).expect_code(0);
    let asked: Value = serde_json::from_str(&asked.stdout).unwrap();
    assert_eq!((&asked[0]["decided_by"], &asked[0]["message"]), (&json!("mcp:ada"), &json!("fine")));
}

#[test]
fn a_server_has_the_same_tools_over_http() {
    let stub = StubServer::start(Script::default());
    let app = app();
    app.registry(&stub);
    let port = free_port().unwrap();
    let child = app.spawn(["serve", "--addr", &format!("127.0.0.1:{port}")]);
    wait_until_ready(port);
    // Another crewline is the client.
    let other = crate::app();
    let text = stub.registry();
    other.write("crewline.yaml", &format!("{text}mcp_servers:\n  crew: {{url: \"http://127.0.0.1:{port}/mcp\"}}\n"));
    let listed = other.run(["tools", "ls", "-o", "json"]).expect_code(0);
    let listed: Vec<Value> = serde_json::from_str(&listed.stdout).unwrap();
    let names: Vec<&str> = listed.iter().filter_map(|it| it["name"].as_str().unwrap().strip_prefix("crew.")).collect();
    assert_eq!(names, TOOLS);
    let stored = ["tools", "call", "crew.memory_store", "--args", "{\"text\": \"Brokers need disks.\"}"];
    let stored = other.run(stored).expect_code(0);
    assert!(stored.stdout.contains("is_new"), "{}", stored.stdout);
    let bad = other.run(["tools", "call", "crew.run_status", "--args", "{\"run\": \"nothing\"}"]).expect_code(1);
    assert!(bad.stdout.contains("run.not_found"), "{}", bad.stdout);
    // What holds for the API holds here: a page of another site gets nothing.
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();
    let foreign = format!(
        "POST /mcp HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\ncontent-length: {}\r\n\r\n{hello}",
        hello.len()
    );
    assert_eq!(crate::serve::http(port, &foreign).unwrap().0, 403);
    crate::signal(child.id(), "TERM");
    finish(child, TestApp::LIMIT).expect_code(0);
}

#[test]
fn memory_is_that_of_the_named_project() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let mut client = Client::start(&app);

    let text = "The broker was refused because it loses messages when a node restarts.";
    let stored = client.get("memory_store", &json!({"text": text, "project": "a", "agent": "reviewer"}));
    assert_eq!(stored["is_new"], true);
    let again = client.get("memory_store", &json!({"text": text, "project": "a"}));
    assert_eq!((&again["id"], &again["is_new"]), (&stored["id"], &json!(false)));

    let found = client.get("memory_search", &json!({"query": "why was the broker refused", "project": "a"}));
    assert_eq!(found["memories"][0]["id"], stored["id"], "{found}");
    assert_eq!(found["memories"][0]["agent"], "reviewer");
    for other in [json!({"query": "why was the broker refused", "project": "b"}), json!({"query": "broker refused"})] {
        assert_eq!(client.get("memory_search", &other)["memories"], json!([]));
    }
    client.go();
}

#[test]
fn bad_input_is_an_answer_not_an_end() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let mut client = Client::start(&app);

    for (tool, arguments, code) in [
        ("run_start", json!({}), "api.invalid_body"),
        ("run_start", json!({"goal": "g", "max_cost_usd": -1}), "api.invalid_body"),
        ("run_start", json!({"goal": "g", "plan": {"tasks": [{"id": "a", "depends_on": ["z"]}]}}), "plan.invalid"),
        ("run_status", json!({"run": "nothing"}), "run.not_found"),
        ("memory_store", json!({"text": "   "}), "memory.size"),
        ("memory_store", json!({"text": "x".repeat(20_000)}), "memory.size"),
    ] {
        let (answer, is_error) = client.call(tool, &arguments);
        assert!(is_error, "{tool}: {answer}");
        assert_eq!(answer["code"], code, "{tool}: {answer}");
        assert!(answer["detail"].as_str().is_some_and(|it| !it.is_empty()));
    }
    // What does not fit the schema is refused by the protocol, with what does not fit.
    let answer = client.ask("tools/call", &json!({"name": "run_start", "arguments": {"goal": "g", "max_cots": 1}}));
    assert!(answer.to_string().contains("max_cots"), "{answer}");
    let answer = client.ask("tools/call", &json!({"name": "no_such_tool", "arguments": {}}));
    assert!(answer["error"].is_object(), "{answer}");
    client.go();
}

#[test]
fn a_client_that_goes_leaves_its_runs_to_be_continued() {
    let server = StubServer::start(Script::default().latency(Duration::from_secs(3)));
    let app = app();
    app.registry(&server);
    let mut client = Client::start(&app);
    let run = client.get("run_start", &json!({"goal": "Describe the tide"}))["run"].as_str().unwrap().to_owned();
    client.go();
    let runs: Value = serde_json::from_str(&app.run(["ps", "--all", "-o", "json"]).expect_code(0).stdout).unwrap();
    assert_eq!(runs[0]["run"], *run, "{runs}");
    assert_ne!(runs[0]["status"], "completed");
}
