//! How far it goes: a plan of ten thousand tasks, two workers on PostgreSQL, and a server that works for half an hour.

use std::{
    path::Path,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use crewline_testkit::{Script, StubServer, TestApp, app::postgres, client};
use sea_orm::{ConnectionTrait as _, Database, Statement};
use serde_json::{Value, json};

use crate::{
    measure::{Figure, Running, measure, status_mib},
    server::wait_until_ready,
    task,
};

/// Tasks of the large plan, and what each needs on average.
const DAG_TASKS: usize = 10_000;
const DAG_NEEDS: usize = 3;
/// Tasks that two workers share.
const WORKERS_TASKS: u32 = 10_000;
/// Attempts that each of them makes at once.
const WORKER_SLOTS: usize = 64;
/// How often a soaking server is looked at.
const SAMPLE: Duration = Duration::from_secs(5);
/// What a soaking server does before it counts: caches fill, connections stand.
const WARM_UP: Duration = Duration::from_mins(2);

/// An upstream that answers at once.
fn upstream() -> StubServer {
    StubServer::start(Script::text("A short result.").counting_only())
}

/// A plan of 10,000 tasks, each needing some of the hundred before it; always the same one.
pub fn dag(runs: usize) -> Vec<Figure> {
    let mut rng = fastrand::Rng::with_seed(1);
    let keys: Vec<String> = (0..DAG_TASKS).map(|n| format!("t{n}")).collect();
    let tasks: Vec<Value> = (0..DAG_TASKS)
        .map(|n| {
            let first = n.saturating_sub(100);
            let count = rng.usize(0..=DAG_NEEDS * 2).min(n - first);
            task(&keys[n], &rng.choose_multiple(keys[first..n].iter().cloned(), count))
        })
        .collect();
    let links: usize = tasks.iter().filter_map(|it| it["depends_on"].as_array()).map(Vec::len).sum();
    let plan = json!({"goal": "Measure a large plan", "tasks": tasks}).to_string();
    let (mut walls, mut cpus, mut peaks, mut sizes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut folders = Vec::new();
    for _ in 0..runs {
        let server = upstream();
        let app = TestApp::new(env!("CARGO_BIN_EXE_crewline"));
        app.registry(&server);
        app.write("plan.json", &plan);
        let words = ["run", "--plan", "plan.json", "--out", "out", "--concurrency", "64", "-q", "--no-input"];
        let used = measure(&mut app.command(words));
        assert!(server.calls() >= DAG_TASKS as u64, "a call a task");
        walls.push(used.wall.as_secs_f64());
        cpus.push(used.cpu.as_secs_f64() * 1e3 / DAG_TASKS as f64);
        peaks.push(used.peak_mib);
        sizes.push(size_mib(&app.path("data")));
        folders.push(app);
    }
    let of = |what: &str| format!("{what}, {DAG_TASKS} tasks with {links} links, upstream 0 ms, 64 at once");
    vec![
        Figure::new(of("wall"), "s", "≤ 5 s", walls),
        Figure::new(of("CPU per task"), "ms", "", cpus),
        Figure::new(of("peak memory"), "MiB", "", peaks),
        Figure::new(of("database"), "MiB", "≤ 20 MiB", sizes),
    ]
}

/// The database with everything that belongs to it.
fn size_mib(data: &Path) -> f64 {
    let entries = std::fs::read_dir(data).expect("the data directory").flatten();
    let files = entries.filter(|it| it.file_name().to_string_lossy().starts_with("crewline.db"));
    files.map(|it| it.metadata().map_or(0, |it| it.len())).sum::<u64>() as f64 / 1_048_576.0
}

fn launch(port: u16, plan: &Value, concurrency: usize) -> String {
    let body = json!({"plan": plan, "concurrency": concurrency}).to_string();
    let (status, answer) = client::post(port, "/api/v1/runs", &body).expect("the server answers");
    assert_eq!(status, 201, "{answer}");
    let answer: Value = serde_json::from_str(answer.trim()).expect("JSON");
    answer["run"].as_str().expect("an id").to_owned()
}

/// A fan of trivial tasks, made by two workers; the server makes none.
pub fn workers(runs: usize) -> Vec<Figure> {
    // Without a server there is nothing to measure, and the table has no such row.
    let Some(server_url) = postgres() else { return Vec::new() };
    let tasks: Vec<Value> = (0..WORKERS_TASKS).map(|n| task(&format!("t{n}"), &[])).collect();
    let plan = json!({"goal": "Measure two workers", "tasks": tasks});
    let mut rates = Vec::new();
    for run in 0..runs {
        let name = format!("crewline_bench_{}_{run}", std::process::id());
        query(&server_url, &format!("CREATE DATABASE {name}"));
        let base = server_url.rsplit_once('/').map_or(&*server_url, |(base, _)| base);
        let url = format!("{base}/{name}");
        rates.push(share(&url, &plan));
        query(&server_url, &format!("DROP DATABASE {name} WITH (FORCE)"));
    }
    let what =
        format!("PostgreSQL, 2 workers of {WORKER_SLOTS} slots, {WORKERS_TASKS} trivial tasks: tasks per second");
    vec![Figure::new(what, "/s", "≥ 2000 /s", rates)]
}

/// Tasks per second, from the first start to the last end.
fn share(url: &str, plan: &Value) -> f64 {
    let upstream = upstream();
    let app = TestApp::new(env!("CARGO_BIN_EXE_crewline"));
    app.registry(&upstream);
    let port = client::free_port().expect("a port");
    let (addr, slots) = (format!("127.0.0.1:{port}"), WORKER_SLOTS.to_string());
    let _server = Running::start(app.command(["serve", "--database", url, "--addr", &addr, "--slots", "0"]));
    wait_until_ready(port);
    let _workers = [0, 1].map(|_| Running::start(app.command(["worker", "--database", url, "--slots", &slots])));
    let run = launch(port, plan, 1_024);
    let times = format!(
        "SELECT MIN(started_at), MAX(finished_at), COUNT(*) FILTER (WHERE status = 'completed') FROM tasks \
         WHERE run_id = '{run}' AND kind <> 'root'"
    );
    let from = Instant::now();
    loop {
        let row = &query(url, &times)[0];
        let completed: i64 = row.try_get_by(2).expect("a count");
        if completed >= i64::from(WORKERS_TASKS) {
            let time = |column: usize| row.try_get_by::<i64, _>(column).expect("a time") as f64 / 1e6;
            return completed as f64 / (time(1) - time(0));
        }
        assert!(from.elapsed() < Duration::from_mins(10), "only {completed} tasks are completed");
        thread::sleep(Duration::from_millis(200));
    }
}

fn query(url: &str, sql: &str) -> Vec<sea_orm::QueryResult> {
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an executor");
    executor.block_on(async {
        let connection = Database::connect(url).await.expect("the server answers");
        let backend = connection.get_database_backend();
        let rows =
            connection.query_all_raw(Statement::from_string(backend, sql)).await.expect("the statement is valid");
        connection.close().await.expect("it closes");
        rows
    })
}

/// What a server held at one moment.
struct Sample {
    hours: f64,
    rss_mib: f64,
    files: f64,
}

/// A server with SQLite that runs crews one after the other; memory and open files must not grow.
pub fn soak(time: Duration) -> Vec<Figure> {
    let upstream = StubServer::start(Script::text("A short result.").latency(Duration::from_millis(5)).counting_only());
    let app = TestApp::new(env!("CARGO_BIN_EXE_crewline"));
    app.registry(&upstream);
    let port = client::free_port().expect("a port");
    let server = Running::start(app.command(["serve", "--addr", &format!("127.0.0.1:{port}")]));
    wait_until_ready(port);
    let middle: Vec<String> = (0..50).map(|n| format!("m{n}")).collect();
    let mut tasks = vec![task("first", &[])];
    tasks.extend(middle.iter().map(|key| task(key, &["first".to_owned()])));
    tasks.push(task("last", &middle));
    let plan = json!({"goal": "Keep a server busy", "tasks": tasks});
    let start = Instant::now();
    let mut samples = Vec::new();
    let (mut runs, mut sampled) = (0_u64, Instant::now());
    while start.elapsed() < time {
        let run = launch(port, &plan, 16);
        loop {
            let (_, answer) = client::get(port, &format!("/api/v1/runs/{run}")).expect("the server answers");
            let answer: Value = serde_json::from_str(answer.trim()).expect("JSON");
            if answer["status"] == "completed" {
                break;
            }
            assert_eq!(answer["status"], "running", "run {runs} does not complete");
            thread::sleep(Duration::from_millis(20));
        }
        runs += 1;
        if sampled.elapsed() >= SAMPLE {
            sampled = Instant::now();
            samples.push(sample(&server.0, start.elapsed()));
        }
    }
    let warm = WARM_UP.min(time / 4).as_secs_f64() / 3600.0;
    samples.retain(|it| it.hours >= warm);
    let of = |what: &str| format!("{what}, `serve` for {} min, {runs} crews of 52 tasks", time.as_secs() / 60);
    vec![
        Figure::new(of("memory"), "MiB", "", samples.iter().map(|it| it.rss_mib).collect()),
        Figure::new(of("memory, slope"), "MiB/h", "flat", vec![slope(&samples, |it| it.rss_mib)]),
        Figure::new(of("open files"), "", "", samples.iter().map(|it| it.files).collect()),
        Figure::new(of("open files, slope"), "/h", "flat", vec![slope(&samples, |it| it.files)]),
    ]
}

fn sample(child: &Child, age: Duration) -> Sample {
    let files = std::fs::read_dir(format!("/proc/{}/fd", child.id())).map_or(0, Iterator::count);
    Sample {
        hours: age.as_secs_f64() / 3600.0,
        rss_mib: status_mib(child, "VmRSS:").unwrap_or(0.0),
        files: files as f64,
    }
}

/// The slope of the line through all samples with the least squares, per hour.
fn slope(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> f64 {
    let count = samples.len() as f64;
    let mean = |of: &dyn Fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(&|it| it.hours), mean(&value));
    let both: f64 = samples.iter().map(|it| (it.hours - x) * (value(it) - y)).sum();
    let alone: f64 = samples.iter().map(|it| (it.hours - x).powi(2)).sum();
    if alone > 0.0 { both / alone } else { 0.0 }
}
