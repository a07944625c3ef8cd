//! What the start and the end of a task cost in CPU time, in batches of 64, and how large the database becomes.
//!
//! `cargo run --release -p crewline-store --example commit_cost [URL]`; without a URL on SQLite files that are removed.
//! CPU is that of this process: a PostgreSQL server's own is not in it. Linux only: reads `/proc/self/task`.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::{
    error::Error,
    fs,
    time::{Duration, Instant},
};

use crewline_store::{
    AttemptEnd, CallEnd, Change, Claim, Committed, NewAttempt, NewCall, NewContext, NewRun, Store, Transition,
};
use crewline_types::{
    AttemptId, CallId, EventBody, IdSource, MemoryId, MemoryRecord, MemoryType, MicroUsd, Role, RunId, Task, TaskId,
    TaskKind, TaskStatus, Text, TextHash, Timestamp, Usage,
    event::{CallOutcome, NewEvent},
    task::LinkKind,
};

const BATCH: usize = 64;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What is left out, to see what it costs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    Events,
    Texts,
    Calls,
    Attempts,
    Contexts,
    Transitions,
    Everything,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let url = std::env::args().nth(1);
    for count in [1_000, 10_000] {
        measure(url.as_deref(), count, "all", Without::Nothing).await?;
    }
    for (name, without) in [
        ("all", Without::Nothing),
        ("without events", Without::Events),
        ("without texts and memories", Without::Texts),
        ("without calls", Without::Calls),
        ("without attempts", Without::Attempts),
        ("without contexts", Without::Contexts),
        ("without transitions", Without::Transitions),
        ("epoch check only", Without::Everything),
    ] {
        measure(url.as_deref(), 2_000, name, without).await?;
    }
    Ok(())
}

async fn measure(url: Option<&str>, count: usize, name: &str, without: Without) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("crewline.db");
    let own = format!("sqlite:{}", file.display());
    let store = Store::open(url.unwrap_or(&own)).await?;
    let mut ids = IdSource::random();
    let (run, root) = (RunId::new(&mut ids), TaskId::new(&mut ids));
    let new = NewRun {
        id: run,
        project: "website".into(),
        goal: "write the documentation of the new interface".into(),
        settings: r#"{"concurrency":64,"limits":{}}"#.into(),
        registry: TextHash::of("registry"),
        key: None,
        at: Timestamp(1_700_000_000_000_000),
    };
    store.create_run(&new, &task(run, root, 0)).await?;
    let epoch = store.claim_run(run, "host:1", Duration::from_mins(10), Claim::IfFree).await?;
    let tasks: Vec<TaskId> = (0..count).map(|_| TaskId::new(&mut ids)).collect();
    let at = Timestamp(1_700_000_001_000_000);
    let mut plan = Change::new(run, epoch, at);
    plan.tasks = (1..).zip(&tasks).map(|(position, id)| task(run, *id, position)).collect();
    plan.links = tasks.iter().map(|id| (*id, root, LinkKind::Requires)).collect();
    let cpu = cpu_time()?;
    commit(&store, &[plan]).await?;
    let planned = cpu_time()?.saturating_sub(cpu);

    let batches: Vec<(Vec<Change>, Vec<Change>)> = tasks
        .chunks(BATCH)
        .map(|chunk| {
            let of = |make: fn(RunId, u64, TaskId) -> Change| {
                chunk.iter().map(|id| leave_out(make(run, epoch, *id), without)).collect()
            };
            (of(start), of(finish))
        })
        .collect();
    let (begun, before) = (Instant::now(), cpu_time()?);
    for (starts, finishes) in &batches {
        commit(&store, starts).await?;
        commit(&store, finishes).await?;
    }
    let (wall, cpu) = (begun.elapsed(), cpu_time()?.saturating_sub(before));
    drop(store);
    let per = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
    let size = fs::metadata(&file).map_or(0, |it| it.len()) as f64 / count as f64;
    let log = fs::metadata(file.with_extension("db-wal")).map_or(0, |it| it.len());
    println!(
        "{count:6} tasks, {name:26}: {:5.1} µs CPU per task (planning {:4.1}), wall {:4.0} ms, {size:5.0} bytes per task, log {log}",
        per(cpu),
        per(planned),
        wall.as_secs_f64() * 1e3,
    );
    Ok(())
}

async fn commit(store: &Store, changes: &[Change]) -> Outcome<()> {
    let answer = store.commit(changes).await?;
    if answer.iter().any(|it| matches!(it, Committed::Stale)) {
        return Err("a change is stale".into());
    }
    Ok(())
}

fn leave_out(mut change: Change, without: Without) -> Change {
    if matches!(without, Without::Events | Without::Everything) {
        change.events.clear();
    }
    if matches!(without, Without::Texts | Without::Everything) {
        change.texts.clear();
        change.memories.clear();
    }
    if matches!(without, Without::Calls | Without::Everything) {
        change.calls.clear();
        change.calls_ended.clear();
    }
    if matches!(without, Without::Attempts | Without::Everything) {
        change.attempts.clear();
        change.attempts_ended.clear();
    }
    if matches!(without, Without::Contexts | Without::Everything) {
        change.contexts.clear();
    }
    if matches!(without, Without::Transitions | Without::Everything) {
        change.transitions.clear();
    }
    change
}

fn transition(task: TaskId, from: TaskStatus, to: TaskStatus, attempts_from: u32) -> Transition {
    Transition {
        task,
        from,
        to,
        attempts_from,
        attempts_to: 1,
        result: None,
        reason: None,
        model: None,
        usage: Usage::default(),
        cost: MicroUsd::ZERO,
    }
}

fn start(run: RunId, epoch: u64, task: TaskId) -> Change {
    let at = Timestamp(1_700_000_002_000_000);
    let attempt = AttemptId { task, number: 1 };
    let mut change = Change::new(run, epoch, at);
    change.transitions.push(transition(task, TaskStatus::Pending, TaskStatus::InProgress, 0));
    change.attempts.push(NewAttempt {
        id: attempt,
        role: Role::from("researcher"),
        model: "cheap".into(),
        input_hash: None,
    });
    change.calls.push(NewCall {
        id: CallId { attempt, number: 1 },
        purpose: "task",
        model: "cheap".into(),
        provider: "stub".into(),
        input_hash: TextHash::of(task.as_str()),
        reserved: Some(MicroUsd(2_000)),
    });
    let item = format!(
        r#"{{"source":"task:{task}","kind":"result","tier":"requires","score":1.0,"tokens":120,"form":"whole","reason":"required","text":"{}"}}"#,
        TextHash::of("x")
    );
    change.contexts.push(NewContext {
        id: attempt,
        tokens: 300,
        budget: 8_000,
        items: format!("[{item},{item}]"),
        bundle: None,
        prompt: None,
        tokenizer: None,
    });
    change.events.push(NewEvent::of_task(
        at,
        task,
        Some(1),
        EventBody::TaskStarted {
            key: "t123".into(),
            title: "describe one of the many parts".into(),
            role: Role::from("researcher"),
            model: "cheap".into(),
            route: [].into(),
        },
    ));
    change
}

fn finish(run: RunId, epoch: u64, task: TaskId) -> Change {
    let at = Timestamp(1_700_000_003_000_000);
    let attempt = AttemptId { task, number: 1 };
    let call = CallId { attempt, number: 1 };
    let usage = Usage { input_tokens: 812, output_tokens: 143, ..Usage::default() };
    let cost = MicroUsd(1_098);
    let result = Text::from(format!("The result of {task}. {}", "What it found is told here. ".repeat(18)));
    let summary = format!("In short {task}: {}", "what it found. ".repeat(12));
    let mut change = Change::new(run, epoch, at);
    change.transitions.push(Transition {
        result: Some(result.hash),
        model: Some("cheap".into()),
        usage,
        cost,
        ..transition(task, TaskStatus::InProgress, TaskStatus::Completed, 1)
    });
    change.attempts_ended.push(AttemptEnd { id: attempt, ok: true, model: "cheap".into(), usage, cost, error: None });
    change.calls_ended.push(CallEnd {
        id: call,
        outcome: CallOutcome::Ok,
        usage,
        cost: Some(cost),
        elapsed: Duration::from_millis(50),
        reply: Some(result.hash),
        error: None,
    });
    change.memories.push(MemoryRecord {
        id: MemoryId::of("website", Some(task), "task_summary", &summary),
        project: "website".into(),
        run: Some(run),
        task: Some(task),
        kind: MemoryType::TaskSummary,
        agent: "researcher".into(),
        created_at: at,
        text: summary.into(),
        source_ids: Vec::new(),
        marks: crewline_types::MemoryMarks::default(),
    });
    change.texts.push(result);
    change.events.push(NewEvent::of_task(
        at,
        task,
        Some(1),
        EventBody::ModelCall {
            call: call.to_string().into(),
            role: Role::from("researcher"),
            model: "cheap".into(),
            provider: "stub".into(),
            outcome: CallOutcome::Ok,
            usage,
            cost_usd: Some(cost),
            elapsed_ms: 50,
            error: None,
            checks: Vec::new(),
        },
    ));
    change.events.push(NewEvent::of_task(
        at,
        task,
        Some(1),
        EventBody::TaskCompleted {
            key: "t123".into(),
            role: Role::from("researcher"),
            model: "cheap".into(),
            usage,
            cost_usd: cost,
            elapsed_ms: 52,
            copied_from: None,
        },
    ));
    change
}

fn task(run: RunId, id: TaskId, position: u32) -> Task {
    let at = Timestamp(1_700_000_001_000_000);
    Task {
        position,
        kind: if position == 0 { TaskKind::Root } else { TaskKind::Atomic },
        title: "describe one of the many parts".into(),
        description: "Look at the part, say what it is for, how it is used and what to look out for.".into(),
        ..Task::new(id, run, format!("t{position}"), Role::from("researcher"), at)
    }
}

/// CPU time of all threads.
fn cpu_time() -> Outcome<Duration> {
    let mut nanos = 0;
    for thread in fs::read_dir("/proc/self/task")? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        nanos += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}
