//! What a crew costs beside its models: the whole program against an upstream in this process.
//!
//! One task, then N in parallel, then one that needs them all; durable on SQLite, a fresh data directory each time. The
//! figures are the program's own (user + system time, peak memory); the upstream's are not in them.
//!
//! `cargo bench -p crewline-cli --bench crew [-- --runs 5]`

#![allow(clippy::expect_used, reason = "a benchmark ends where it fails")]

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crewline_testkit::{Script, StubServer, TestApp};
use nix::sys::resource::{UsageWho, getrusage};

/// What one run of the program used.
struct Used {
    cpu: Duration,
    wall: Duration,
    peak_mib: f64,
}

fn children_cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the system tells");
    let time = |it: nix::sys::time::TimeVal| {
        Duration::from_micros(u64::try_from(it.tv_sec() * 1_000_000 + it.tv_usec()).unwrap_or_default())
    };
    time(usage.user_time()) + time(usage.system_time())
}

/// Runs `command` to its end, watching its peak memory in `/proc`.
fn measure(command: &mut Command) -> Used {
    let before = children_cpu();
    let start = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts");
    let status_file = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0_u64;
    let status = loop {
        if let Ok(text) = std::fs::read_to_string(&status_file)
            && let Some(line) = text.lines().find(|line| line.starts_with("VmHWM:"))
        {
            peak_kib = line.split_whitespace().nth(1).and_then(|it| it.parse().ok()).unwrap_or(peak_kib);
        }
        match child.try_wait().expect("it can be waited for") {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    assert!(status.success(), "the crew failed: {status}");
    Used { cpu: children_cpu().saturating_sub(before), wall: start.elapsed(), peak_mib: peak_kib as f64 / 1024.0 }
}

/// The folder is given back so that it lives until the end: ext4 looks for a free inode among all that were deleted in the
/// last seconds, which would make every run pay for the clean-up of the one before.
fn crew(width: usize, latency: Duration) -> (Used, TestApp) {
    let server = StubServer::start(Script::text("A short result.").latency(latency).counting_only());
    let app = TestApp::new(env!("CARGO_BIN_EXE_crewline"));
    app.registry(&server);
    let middle: Vec<String> = (0..width).map(|n| format!("m{n}")).collect();
    let task = |id: &str, needs: &[String]| {
        serde_json::json!({
            "id": id, "title": format!("Task {id}"), "description": "Write one sentence about your part of the goal.",
            "role": "writer", "depends_on": needs
        })
    };
    let mut tasks = vec![task("first", &[])];
    tasks.extend(middle.iter().map(|id| task(id, &["first".to_owned()])));
    tasks.push(task("last", &middle));
    let plan = serde_json::json!({"goal": "Measure the crew", "tasks": tasks}).to_string();
    app.write("plan.json", &plan);
    let concurrency = width.to_string();
    let mut command = app.command([
        "run",
        "--plan",
        "plan.json",
        "--out",
        "out",
        "--concurrency",
        &concurrency,
        "-q",
        "--no-progress",
        "--no-input",
    ]);
    let used = measure(&mut command);
    assert_eq!(server.calls(), width as u64 + 2, "exactly one call a task");
    (used, app)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[expect(clippy::print_stdout, reason = "a benchmark's result is its output")]
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let runs: usize =
        args.iter().position(|it| it == "--runs").and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(5);
    println!("crew 1 → N → 1, SQLite, medians of {runs} runs\n");
    println!("{:>6} {:>10} {:>14} {:>10} {:>12}", "N", "upstream", "CPU per task", "wall", "peak memory");
    let mut folders = Vec::new();
    for (width, latency) in [(100, 0), (100, 50), (1_000, 0), (1_000, 50)] {
        let mut used = Vec::new();
        for _ in 0..runs {
            let (run, folder) = crew(width, Duration::from_millis(latency));
            used.push(run);
            folders.push(folder);
        }
        let cpu = median(used.iter().map(|it| it.cpu.as_secs_f64() * 1e3 / (width + 2) as f64).collect());
        let wall = median(used.iter().map(|it| it.wall.as_secs_f64()).collect());
        let peak = median(used.iter().map(|it| it.peak_mib).collect());
        println!("{width:>6} {latency:>7} ms {cpu:>11.3} ms {wall:>8.3} s {peak:>8.1} MiB");
    }
    let app = TestApp::new(env!("CARGO_BIN_EXE_crewline"));
    let start: Vec<f64> =
        (0..runs.max(5)).map(|_| measure(&mut app.command(["--version"])).wall.as_secs_f64()).collect();
    println!("\nstart to `--version`: {:.1} ms (polled every 2 ms)", median(start) * 1e3);
}
