//! Clients that take descriptors from a server, and what is left to the others and to its runs.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use crewline_testkit::{Running, Script, StubServer, TestApp, app::finish};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::{
    app,
    serve::{free_port, get, post, wait_until_ready},
    signal,
    workers::wait_until,
};

/// Starts a server that may have so many descriptors.
fn serve_with_descriptors(app: &TestApp, port: u16, most: u32) -> Running {
    let plain = app.command(["serve", "--addr", &format!("127.0.0.1:{port}")]);
    let limited = format!("ulimit -n {most}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &limited]).arg(plain.get_program()).args(plain.get_args()).current_dir(app.dir());
    command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap().into()
}

fn begin(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: loc").unwrap();
    stream
}

#[test]
fn half_heads_keep_nobody_from_an_answer() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let port = free_port();
    let child = serve_with_descriptors(&app, port, 256);
    wait_until_ready(port);
    let halves: Vec<TcpStream> = (0..300).map(|_| begin(port)).collect();
    assert_eq!(get(port, "/readyz").unwrap().0, 200);

    // A run has descriptors for its files, its database and its models.
    let (status, launched) = post(port, "/api/v1/runs", r#"{"goal": "Describe the tide"}"#);
    assert_eq!(status, 201, "{launched}");
    let id = launched["run"].as_str().unwrap();
    let (_, events) = get(port, &format!("/api/v1/runs/{id}/events")).unwrap();
    assert!(events.contains("run_finished") && events.contains("completed"), "{events}");

    let (_, metrics) = get(port, "/metrics").unwrap();
    let value = |series: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_else(|| panic!("{metrics}"));
        line.trim().parse().unwrap()
    };
    // A quarter of the descriptors are for connections.
    assert!((1.0..=64.0).contains(&value("crewline_api_connections ")), "{metrics}");
    assert!(value("crewline_api_connections_cut_total{reason=\"room\"} ") >= 300.0 - 64.0, "{metrics}");
    drop(halves);
    signal(child.id(), "TERM");
    finish(child, TestApp::LIMIT).expect_code(0);
}

#[test]
fn a_server_without_descriptors_answers_when_there_are_some() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let port = free_port();
    let mut command = app.command(["serve", "--addr", &format!("127.0.0.1:{port}")]);
    command.stdout(Stdio::piped()).stderr(File::create(app.path("log")).unwrap());
    let child = Running::from(command.spawn().unwrap());
    wait_until_ready(port);
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    let none = Rlimit { current: Some(0), maximum: rustix::process::getrlimit(Resource::Nofile).maximum };
    let before = prlimit(pid, Resource::Nofile, none).unwrap();
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    client.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let refusals = || {
        let log = std::fs::read_to_string(app.path("log")).unwrap();
        log.lines().filter(|line| line.contains("no connection can be accepted")).count()
    };
    wait_until("a refusal in the log", || refusals() > 0);
    prlimit(pid, Resource::Nofile, before).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(refusals(), 1, "it is told once");
    signal(child.id(), "TERM");
    finish(child, TestApp::LIMIT).expect_code(0);
}
