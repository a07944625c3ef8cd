//! What a server costs before it does anything, and how soon a run goes on whose process was killed.

use std::{
    thread,
    time::{Duration, Instant},
};

use crewline_testkit::{Script, StubServer, TestApp, client};
use serde_json::json;

use crate::{
    measure::{Figure, Running, status_mib},
    task,
};

/// How long a server is left alone before its memory is looked at.
const REST: Duration = Duration::from_secs(2);
/// Tasks of the run that is killed, what one call takes, and after how many calls it is killed.
const TASKS: usize = 400;
const LATENCY: Duration = Duration::from_millis(20);
const CALLS: u64 = 200;

/// Waits until the server on `port` is ready.
pub fn wait_until_ready(port: u16) {
    let from = Instant::now();
    while !client::get(port, "/readyz").is_ok_and(|(status, _)| status == 200) {
        assert!(from.elapsed() < Duration::from_mins(1), "the server becomes ready");
        thread::sleep(Duration::from_millis(1));
    }
}

pub fn figures(runs: usize) -> Vec<Figure> {
    let (mut firsts, mut readies, mut memories, mut own) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let server = StubServer::start(Script::text("A short result.").counting_only());
        let app = TestApp::new(env!("CARGO_BIN_EXE_crewline"));
        app.registry(&server);
        // The first start makes the database, the second finds one.
        for times in [&mut firsts, &mut readies] {
            let port = client::free_port().expect("a port");
            let begun = Instant::now();
            let running = Running::start(app.command(["serve", "--addr", &format!("127.0.0.1:{port}")]));
            wait_until_ready(port);
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            thread::sleep(REST);
            memories.extend(status_mib(&running.0, "VmRSS:"));
            own.extend(status_mib(&running.0, "RssAnon:"));
        }
    }
    vec![
        Figure::new("`serve`: start to ready, no database yet", "ms", "≤ 50 ms", firsts),
        Figure::new("`serve`: start to ready", "ms", "≤ 50 ms", readies),
        Figure::new("`serve`: idle memory, no embedder", "MiB", "≤ 15 MiB", memories),
        Figure::new("`serve`: of which not pages of a file", "MiB", "", own),
    ]
}

pub fn resume(runs: usize) -> Vec<Figure> {
    let (mut firsts, mut repeated) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let server = StubServer::start(Script::text("A short result.").latency(LATENCY).counting_only());
        let app = TestApp::new(env!("CARGO_BIN_EXE_crewline"));
        app.registry(&server);
        let tasks: Vec<_> = (0..TASKS).map(|n| task(&format!("t{n}"), &[])).collect();
        app.write("plan.json", &json!({"goal": "Measure a resume", "tasks": tasks}).to_string());
        let running = Running::start(app.command(["run", "--plan", "plan.json", "--out", "out", "-q", "--no-input"]));
        wait_for(|| server.calls() >= CALLS);
        // Dropping it kills it.
        drop(running);
        let run = app.run(["ps", "--all", "--ids"]).expect_code(0).stdout.trim().to_owned();
        let (before, begun) = (server.calls(), Instant::now());
        let running = Running::start(app.command(["resume", &run, "--out", "out", "-q", "--no-input"]));
        wait_for(|| server.calls() > before);
        firsts.push(begun.elapsed().as_secs_f64() * 1e3);
        let mut running = running;
        assert!(running.0.wait().expect("it ends").success(), "the run completes");
        // A plan with several last tasks gets one that puts them together.
        repeated.push(server.calls() as f64 - (TASKS + 1) as f64);
    }
    let what = format!("`resume` after `kill -9` amid {TASKS} tasks: start to the next call");
    vec![
        Figure::new(what, "ms", "≤ 3000 ms", firsts),
        Figure::new("the same: calls that were repeated, 16 were under way", "calls", "≤ 16", repeated),
    ]
}

fn wait_for(is_so: impl Fn() -> bool) {
    let from = Instant::now();
    while !is_so() {
        assert!(from.elapsed() < Duration::from_mins(1), "it does not happen");
        thread::sleep(Duration::from_micros(500));
    }
}
