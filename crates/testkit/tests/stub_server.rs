//! The stub server over real connections: what it answers, counts and remembers.
#![expect(clippy::unwrap_used, reason = "helpers of tests, which end here")]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use crewline_testkit::{Script, StubReply, StubServer};
use serde_json::{Value, json};

struct Client(TcpStream);

impl Client {
    fn of(server: &StubServer) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self(stream)
    }

    fn send(&mut self, body: &Value) {
        let body = body.to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.0.write_all(format!("{head}{body}").as_bytes()).unwrap();
    }

    /// Status line with headers, and the body; `None` when the connection was closed.
    fn receive(&mut self) -> Option<(String, String)> {
        let (mut bytes, mut byte) = (Vec::new(), [0]);
        while !bytes.ends_with(b"\r\n\r\n") {
            if self.0.read(&mut byte).ok()? == 0 {
                return None;
            }
            bytes.push(byte[0]);
        }
        let head = String::from_utf8(bytes).unwrap();
        let mut body = Vec::new();
        if let Some(length) = head.split("content-length: ").nth(1) {
            body = vec![0; length.split("\r\n").next().unwrap().parse().unwrap()];
            self.0.read_exact(&mut body).unwrap();
        } else {
            while !body.ends_with(b"0\r\n\r\n") {
                if self.0.read(&mut byte).ok()? == 0 {
                    return None;
                }
                body.push(byte[0]);
            }
        }
        Some((head, String::from_utf8(body).unwrap()))
    }

    fn ask(&mut self, body: &Value) -> (String, Value) {
        self.send(body);
        let (head, body) = self.receive().unwrap();
        (head, serde_json::from_str(&body).unwrap())
    }
}

fn question(text: &str) -> Value {
    json!({"model": "cheap", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]})
}

fn content(reply: &Value) -> &str {
    reply["choices"][0]["message"]["content"].as_str().unwrap()
}

#[test]
fn one_connection_serves_many_and_all_is_recorded() {
    let server = StubServer::start(Script::default());
    let mut client = Client::of(&server);
    for number in 1..=3 {
        let (head, reply) = client.ask(&question(&format!("Question {number}\nmore")));
        assert!(head.starts_with("HTTP/1.1 200 OK"));
        assert_eq!(content(&reply), format!("Result of: Question {number}"));
        assert_eq!(reply["usage"], json!({"prompt_tokens": 6, "completion_tokens": 6, "total_tokens": 12}));
    }
    let requests = server.requests();
    assert_eq!((server.calls(), requests.len(), server.peak_in_flight()), (3, 3, 1));
    assert_eq!(requests[1].number, 2);
    assert_eq!(requests[1].model, "cheap");
    assert!(requests[1].contains("Question 2") && requests[0].at <= requests[2].at);
    assert_eq!(requests[0].authorization.as_deref(), Some("Bearer k"));
    server.reset();
    assert_eq!((server.calls(), server.requests().len()), (0, 0));
}

#[test]
fn a_schema_gets_a_plan() {
    let task = json!({"type": "object", "properties": {"title": {"type": "string"}}});
    let schema = json!({"type": "object", "properties": {"t1": task, "t2": task, "t3": task, "t4": task}});
    let mut body = question("Plan it");
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "plan", "schema": schema}});
    let server = StubServer::start(Script::default());
    let (_, reply) = Client::of(&server).ask(&body);
    let plan: Value = serde_json::from_str(content(&reply)).unwrap();
    assert_eq!(plan["t3"]["title"], "Task 3");
    assert!(plan.get("t4").is_none());
    assert!(server.requests()[0].has_schema());
    let given = StubServer::start(Script::plan(&json!({"t1": {"depends_on": ["t1"]}})));
    let (_, reply) = Client::of(&given).ask(&body);
    assert_eq!(content(&reply), r#"{"t1":{"depends_on":["t1"]}}"#);
}

#[test]
fn the_first_rule_that_fits_wins() {
    let script = Script::text("rest")
        .on_call(2, StubReply::status(429).retry_after(Duration::from_secs(7)))
        .on_model("strong", StubReply::text("strong").finish("length"))
        .on_text("needle", StubReply::malformed());
    let server = StubServer::start(script);
    let mut client = Client::of(&server);
    assert_eq!(content(&client.ask(&question("a")).1), "rest");
    let (head, reply) = client.ask(&question("needle"));
    assert!(head.starts_with("HTTP/1.1 429 ") && head.contains("retry-after: 7\r\n"), "{head}");
    assert_eq!(reply["error"]["code"], 429);
    client.send(&question("a needle"));
    let (head, body) = client.receive().unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && serde_json::from_str::<Value>(&body).is_err());
    let mut strong = question("needle");
    strong["model"] = json!("strong");
    let (_, reply) = client.ask(&strong);
    assert_eq!((content(&reply), reply["choices"][0]["finish_reason"].as_str()), ("strong", Some("length")));
}

#[test]
fn a_stream_carries_the_whole_text_and_the_usage() {
    let server = StubServer::start(Script::text("Grüße an alle 👋 hier und dort"));
    let mut body = question("hi");
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let mut client = Client::of(&server);
    client.send(&body);
    let (head, stream) = client.receive().unwrap();
    assert!(head.contains("text/event-stream"));
    let events: Vec<&str> = stream.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(events.last(), Some(&"[DONE]"));
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "Grüße an alle 👋 hier und dort");
    assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], "stop");
    assert_eq!(chunks[chunks.len() - 1]["usage"]["completion_tokens"], 9);
    // The connection goes on after a stream.
    assert_eq!(content(&client.ask(&question("again")).1), "Grüße an alle 👋 hier und dort");
}

#[test]
fn failures_are_as_scripted() {
    let script = Script::default()
        .on_text("close", StubReply::close())
        .on_text("cut", StubReply::cut_stream("one two three", 2))
        .on_text("hang", StubReply::hang());
    let server = StubServer::start(script);
    let mut client = Client::of(&server);
    client.send(&question("close"));
    assert!(client.receive().is_none());
    let mut client = Client::of(&server);
    client.send(&question("cut"));
    assert!(client.receive().is_none(), "the stream has no end");
    let mut client = Client::of(&server);
    client.send(&question("hang"));
    while server.calls() < 3 {
        std::thread::yield_now();
    }
    drop(client);
    let started = Instant::now();
    while server.hung_up() == 0 {
        assert!(started.elapsed() < Duration::from_secs(10), "nobody noticed");
        std::thread::yield_now();
    }
}

#[test]
fn latency_is_waited_and_calls_run_side_by_side() {
    let server = StubServer::start(Script::text("late").latency(Duration::from_millis(80)));
    let started = Instant::now();
    let mut clients: Vec<Client> = (0..20).map(|_| Client::of(&server)).collect();
    for client in &mut clients {
        client.send(&question("x"));
    }
    for client in &mut clients {
        client.receive().unwrap();
    }
    assert!(started.elapsed() >= Duration::from_millis(80));
    // One after the other they would take 1.6 s; all were under way before the first was due.
    assert!(server.peak_in_flight() > 1, "{}", server.peak_in_flight());
}

#[test]
fn nonsense_is_refused_and_other_paths_answer() {
    let server = StubServer::start(Script::default());
    let mut client = Client::of(&server);
    client.0.write_all(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 3\r\n\r\n{x}").unwrap();
    assert!(client.receive().unwrap().0.starts_with("HTTP/1.1 400"));
    client.0.write_all(b"GET /health HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(client.receive().unwrap().1, r#"{"status":"ok"}"#);
    client.0.write_all(b"GET /v1/models HTTP/1.1\r\n\r\nGET /nothing HTTP/1.1\r\n\r\n").unwrap();
    assert!(client.receive().unwrap().1.contains("strong"));
    assert!(client.receive().unwrap().0.starts_with("HTTP/1.1 404"));
}

/// How much of a benchmark is the stub: `cargo test -p crewline-testkit --release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_request() {
    let server = StubServer::start(Script::default().counting_only());
    let mut client = Client::of(&server);
    let body = question(&"context ".repeat(500));
    let calls = 5_000;
    for _ in 0..calls {
        client.send(&body);
        let mut buffer = [0; 4096];
        assert!(client.0.read(&mut buffer).unwrap() > 0);
    }
    println!("{:?} of CPU per request", server.cpu_time().map(|time| time / calls));
}
