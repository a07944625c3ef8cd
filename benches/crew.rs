//! What a crew costs beside its models: the whole program against an upstream in this process, and the floor beside it.
//!
//! One task, then N in parallel, then one that needs them all; durable on SQLite, a fresh data directory each time. The
//! figures are the program's own (user + system time, peak memory); the upstream's are not in them.

use std::time::Duration;

use crewline_testkit::{Script, StubServer, TestApp};
use serde_json::json;

use crate::{
    measure::{Figure, Used, measure, own},
    task,
};

/// N, the upstream's latency, and what is wanted of CPU per task, wall and peak memory.
type Case = (usize, u64, &'static str, &'static str, &'static str);

const CASES: [Case; 4] = [
    (100, 0, "≤ 0.20 ms", "", ""),
    (1_000, 0, "≤ 0.15 ms, ratio ≤ 2", "", "≤ 60 MiB"),
    (100, 50, "≤ 0.20 ms", "≤ 0.25 s", ""),
    (1_000, 50, "≤ 0.15 ms, ratio ≤ 2", "≤ 0.60 s", "≤ 60 MiB"),
];

pub fn figures(runs: usize) -> Vec<Figure> {
    let mut figures = Vec::new();
    // ext4 looks for a free inode among all that were deleted in the last seconds, which would make every run pay for the
    // clean-up of the one before: the folders stay until the end.
    let mut folders = Vec::new();
    for (width, latency, cpu, wall, peak) in CASES {
        let (mut floor, mut used) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            let app = TestApp::new(env!("CARGO_BIN_EXE_crewline"));
            floor.push(least(&app, width, latency));
            used.push(crew(&app, width, latency));
            folders.push(app);
        }
        let per_task = |all: &[Used]| all.iter().map(|it| it.cpu.as_secs_f64() * 1e3 / (width + 2) as f64).collect();
        let walls = |all: &[Used]| all.iter().map(|it| it.wall.as_secs_f64()).collect();
        let peaks = |all: &[Used]| all.iter().map(|it| it.peak_mib).collect();
        let of = |what: &str| format!("{what}, crew 1 → {width} → 1, upstream {latency} ms");
        figures.extend([
            Figure::new(of("CPU per task"), "ms", cpu, per_task(&used)).over(per_task(&floor)),
            Figure::new(of("wall"), "s", wall, walls(&used)).over(walls(&floor)),
            Figure::new(of("peak memory"), "MiB", peak, peaks(&used)).over(peaks(&floor)),
        ]);
    }
    figures
}

fn upstream(latency: u64) -> StubServer {
    StubServer::start(Script::text("A short result.").latency(Duration::from_millis(latency)).counting_only())
}

fn least(app: &TestApp, width: usize, latency: u64) -> Used {
    let server = upstream(latency);
    let folder = app.dir().display().to_string();
    let used = measure(&mut own(&["floor".to_owned(), server.url(), width.to_string(), folder]));
    assert_eq!(server.calls(), width as u64 + 2, "exactly one call a task");
    used
}

fn crew(app: &TestApp, width: usize, latency: u64) -> Used {
    let server = upstream(latency);
    app.registry(&server);
    let middle: Vec<String> = (0..width).map(|n| format!("m{n}")).collect();
    let mut tasks = vec![task("first", &[])];
    tasks.extend(middle.iter().map(|id| task(id, &["first".to_owned()])));
    tasks.push(task("last", &middle));
    app.write("plan.json", &json!({"goal": "Measure the crew", "tasks": tasks}).to_string());
    let concurrency = width.to_string();
    let words = ["run", "--plan", "plan.json", "--out", "out", "--concurrency", &concurrency, "-q", "--no-input"];
    let used = measure(&mut app.command(words));
    assert_eq!(server.calls(), width as u64 + 2, "exactly one call a task");
    used
}
