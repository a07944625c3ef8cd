//! Keys of the HTTP API: made by hand, asked for at the door, and not found anywhere afterwards.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use crewline_testkit::{Running, Script, StubServer, TestApp, app::finish};
use serde_json::{Value, json};

use crate::{
    app,
    serve::{free_port, wait_until_ready},
};

/// Makes a key and gives what is shown of it.
fn create(app: &TestApp, arguments: &[&str]) -> String {
    let made = app.run(["keys", "create"].iter().chain(arguments)).expect_code(0);
    let token = made.stdout.trim().to_owned();
    assert!(token.starts_with("crewline_") && token.len() == 82, "stdout is the key and nothing else: {token}");
    assert!(!made.stderr.contains(&token), "it is shown once");
    token
}

struct Server {
    child: Running,
    port: u16,
}

impl Server {
    fn start(app: &TestApp, host: &str) -> Self {
        let port = free_port();
        let child = app.spawn(["serve", "--addr", &format!("{host}:{port}")]);
        wait_until_ready(port);
        Self { child, port }
    }

    /// Status, the header that says what to show, and the body.
    fn ask_as(&self, host: &str, token: Option<&str>, line: &str, body: &Value) -> (u16, String, String) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let shown = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
        let accept = "accept: application/json, text/event-stream\r\ncontent-type: application/json\r\n";
        let length = body.len();
        let request = format!(
            "{line} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{shown}{accept}content-length: {length}\r\n\r\n{body}"
        );
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let challenge = head.lines().find_map(|line| line.strip_prefix("www-authenticate: ")).unwrap_or_default();
        (status, challenge.to_owned(), body.to_owned())
    }

    fn ask(&self, token: Option<&str>, line: &str, body: &Value) -> (u16, String, String) {
        self.ask_as("localhost", token, line, body)
    }

    /// The status, and the code of the problem.
    fn code(&self, token: Option<&str>, line: &str, body: &Value) -> (u16, String) {
        let (status, _, answer) = self.ask(token, line, body);
        let problem: Value = answer
            .find('{')
            .zip(answer.rfind('}'))
            .and_then(|(start, end)| serde_json::from_str(&answer[start..=end]).ok())
            .unwrap_or_default();
        (status, problem["code"].as_str().unwrap_or_default().to_owned())
    }

    /// What a tool below `/mcp` answers.
    fn call(&self, token: &str, tool: &str, arguments: &Value) -> Value {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": tool, "arguments": arguments}});
        let (status, _, answer) = self.ask(Some(token), "POST /mcp", &message);
        assert_eq!(status, 200, "{answer}");
        let (start, end) = (answer.find('{').unwrap(), answer.rfind('}').unwrap());
        serde_json::from_str::<Value>(&answer[start..=end]).unwrap()["result"]["structuredContent"].clone()
    }

    fn stop(self) {
        crate::signal(self.child.id(), "TERM");
        finish(self.child, TestApp::LIMIT).expect_code(0);
    }
}

#[test]
fn keys_are_made_listed_and_taken_back() {
    let app = app();
    assert!(app.run(["keys", "ls"]).expect_code(0).stderr.contains("there is no key"));
    let token = create(&app, &["ci", "--scope", "run,approve", "--expires", "90d"]);
    let listed = app.run(["keys", "ls", "--json"]).expect_code(0).stdout;
    let keys: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(
        (&keys[0]["name"], &keys[0]["scopes"], &keys[0]["state"], &keys[0]["used_at"]),
        (&json!("ci"), &json!(["read", "run", "approve"]), &json!("active"), &Value::Null)
    );
    assert!(keys[0]["expires_at"].is_string());
    let secret = token.rsplit('_').next().unwrap();
    assert!(!listed.contains(secret));
    let taken = app.run(["keys", "create", "ci"]).expect_code(9);
    assert!(taken.stderr.contains("key.name_taken"), "{}", taken.stderr);
    for bad in ["", " ", "a\nb", &"x".repeat(65)] {
        assert!(app.run(["keys", "create", bad]).expect_code(3).stderr.contains("key.name"), "{bad}");
    }
    app.run(["keys", "create", "x", "--scope", "admin"]).expect_code(2);
    app.run(["keys", "create", "x", "--expires", "0s"]).expect_code(2);
    app.run(["keys", "revoke", "nobody"]).expect_code(5);
    let made: Value =
        serde_json::from_str(&app.run(["keys", "create", "phone", "--json"]).expect_code(0).stdout).unwrap();
    assert_eq!((&made["name"], &made["scopes"]), (&json!("phone"), &json!(["read"])));
    assert!(made["token"].as_str().unwrap().starts_with("crewline_"));
    let id = made["id"].as_str().unwrap();
    let gone = app.run(["keys", "revoke", &id[..6]]).expect_code(0);
    assert!(!gone.stderr.contains("no key is left"), "{}", gone.stderr);
    assert!(app.run(["keys", "revoke", "ci"]).expect_code(0).stderr.contains("no key is left"));
    assert!(app.run(["keys", "ls"]).expect_code(0).stderr.contains("there is no key"));
    assert_eq!(app.run(["keys", "ls", "--all", "-o", "jsonl"]).expect_code(0).stdout.lines().count(), 2);
    create(&app, &["ci"]);
    // Nothing that was written has the secret.
    let mut files = vec![app.path("data")];
    let mut seen = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            seen += bytes.len();
            let has = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!has, "{} has the secret", path.display());
        }
    }
    assert!(seen > 0);
}

#[test]
fn a_server_asks_for_keys_once_there_is_one() {
    let stub = StubServer::start(Script::default());
    let app = app();
    app.registry(&stub);
    let server = Server::start(&app, "127.0.0.1");
    let none = &Value::Null;
    assert_eq!(server.ask(None, "GET /api/v1/runs", none).0, 200, "nobody needs a key before there is one");
    let (status, _, body) = server.ask_as("evil.example", None, "GET /api/v1/runs", none);
    assert_eq!((status, body.contains("api.foreign_origin")), (403, true), "{body}");
    let made_up = format!("crewline_k3v9x0ab_{}", "0".repeat(64));
    assert_eq!(server.code(Some(&made_up), "GET /api/v1/runs", none), (401, "api.key_refused".into()));

    let [reads, runs, decides] = ["read", "run", "approve"].map(|scope| create(&app, &[scope, "--scope", scope]));
    let goal = &json!({"goal": "Describe the tide"});
    let paths = ["GET /api/v1/runs", "GET /api/v1/runs/zz/events", "GET /metrics", "GET /nowhere", "POST /mcp"];
    for line in paths {
        let (status, challenge, body) = server.ask(None, line, none);
        assert_eq!((status, challenge.as_str()), (401, r#"Bearer realm="crewline""#), "{line}: {body}");
        assert!(body.contains("api.key_missing"), "{line}: {body}");
    }
    for line in ["GET /healthz", "GET /readyz"] {
        assert_eq!(server.ask_as("any.example", None, line, none).0, 200, "probes need no key");
    }
    let wrong = format!("{}{}", &reads[..81], if reads.ends_with('0') { '1' } else { '0' });
    for bad in [&made_up, &wrong, "", "crewline_", "x"] {
        let (status, challenge, body) = server.ask(Some(bad), "GET /api/v1/runs", none);
        assert_eq!((status, challenge.contains("invalid_token")), (401, true), "{bad}: {body}");
    }
    assert_eq!(server.ask(Some(&reads), "GET /api/v1/runs", none).0, 200);
    let (status, _, body) = server.ask_as("crew.example:7420", Some(&reads), "GET /metrics", none);
    assert_eq!(status, 200, "who has a key may call the server by any name: {body}");
    for reason in ["foreign", "key_missing", "key_refused"] {
        assert!(body.contains(&format!("crewline_api_requests_refused_total{{reason=\"{reason}\"}}")), "{body}");
    }

    // Each scope is for what it says.
    let (status, challenge, body) = server.ask(Some(&reads), "POST /api/v1/runs", goal);
    assert_eq!((status, body.contains("api.scope")), (403, true), "{body}");
    assert_eq!(challenge, r#"Bearer realm="crewline", error="insufficient_scope", scope="run""#);
    assert_eq!(stub.calls(), 0);
    let approve = &json!({"decision": "approve"});
    let deciding = "POST /api/v1/approvals/zzzzzzzz";
    assert_eq!(server.code(Some(&runs), deciding, approve), (403, "api.scope".into()));
    assert_eq!(server.code(Some(&decides), deciding, approve), (404, "approval.not_found".into()));
    assert_eq!(server.code(Some(&decides), "POST /api/v1/runs", goal), (403, "api.scope".into()));
    let said = &json!({"approval": "zzzzzzzz", "decision": "approve"});
    assert_eq!(server.call(&reads, "run_start", goal)["code"], "api.scope");
    assert_eq!(server.call(&decides, "memory_store", &json!({"text": "x"}))["code"], "api.scope");
    assert_eq!(server.call(&runs, "approve", said)["code"], "api.scope");
    assert_eq!(server.call(&decides, "approve", said)["code"], "approval.not_found");
    assert_eq!(server.call(&reads, "run_list", &json!({}))["runs"], json!([]));
    let launched = server.call(&runs, "run_start", goal);
    let (status, _, events) =
        server.ask(Some(&reads), &format!("GET /api/v1/runs/{}/events", launched["run"].as_str().unwrap()), none);
    assert!(status == 200 && events.contains("run_finished"), "{events}");

    // What is taken back, or has had its time, holds no longer; that alone lets nobody else in.
    let listed: Value = serde_json::from_str(&app.run(["keys", "ls", "--json"]).expect_code(0).stdout).unwrap();
    assert!(listed.as_array().unwrap().iter().all(|key| key["used_at"].is_string()), "{listed}");
    let short = create(&app, &["short", "--expires", "1s"]);
    for name in ["read", "run", "approve"] {
        app.run(["keys", "revoke", name]).expect_code(0);
    }
    assert_eq!(server.code(Some(&reads), "GET /api/v1/runs", none), (401, "api.key_refused".into()));
    crate::workers::wait_until("the end of a key", || server.ask(Some(&short), "GET /api/v1/runs", none).0 == 401);
    assert_eq!(server.code(None, "GET /api/v1/runs", none), (401, "api.key_missing".into()));
    app.run(["keys", "revoke", "short"]).expect_code(0);
    assert_eq!(server.ask(None, "GET /api/v1/runs", none).0, 200, "no key is left");
    server.stop();
}

#[test]
fn outside_loopback_everybody_needs_a_key() {
    let stub = StubServer::start(Script::default());
    let app = app();
    app.registry(&stub);
    let refused = app.run(["serve", "--addr", "0.0.0.0:0"]).expect_code(3);
    for part in ["api.public_bind", "crewline keys create NAME --scope run"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    let token = create(&app, &["ci", "--scope", "run"]);
    let server = Server::start(&app, "0.0.0.0");
    let none = &Value::Null;
    assert_eq!(server.code(None, "GET /api/v1/runs", none), (401, "api.key_missing".into()));
    let (status, _, body) = server.ask_as("crew.example", Some(&token), "GET /api/v1/runs", none);
    assert_eq!(status, 200, "{body}");
    app.run(["keys", "revoke", "ci"]).expect_code(0);
    assert_eq!(server.code(Some(&token), "GET /api/v1/runs", none), (401, "api.key_refused".into()));
    assert_eq!(server.code(None, "GET /api/v1/runs", none), (401, "api.key_missing".into()), "the door stays shut");
    server.stop();
}

#[test]
fn a_decision_names_the_key_it_came_with() {
    let stub = StubServer::start(Script::default());
    let app = app();
    app.registry(&stub);
    let plan = json!({"goal": "One", "tasks": [{"id": "a", "title": "Task a", "role": "writer"}]});
    app.write("plan.json", &plan.to_string());
    app.run(["run", "--plan", "plan.json", "--approve", "plan", "--no-input"]).expect_code(8);
    let waiting: Value = serde_json::from_str(&app.run(["approvals", "--json"]).expect_code(0).stdout).unwrap();
    let id = waiting[0]["id"].as_str().unwrap();
    let token = create(&app, &["phone", "--scope", "approve"]);
    let server = Server::start(&app, "127.0.0.1");
    let said = json!({"decision": "approve", "by": "ann"});
    assert_eq!(server.ask(Some(&token), &format!("POST /api/v1/approvals/{id}"), &said).0, 200);
    let all: Value = serde_json::from_str(&app.run(["approvals", "--all", "--json"]).expect_code(0).stdout).unwrap();
    assert_eq!(all[0]["decided_by"], "key:phone:ann", "{all}");
    server.stop();
}
