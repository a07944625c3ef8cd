//! What a durable task costs when nothing is asked of any model: the schedule decides, and its start and its end are
//! committed to SQLite with their attempt, their text and their events, in the groups that the journal would make.

use std::{collections::VecDeque, time::Duration};

use crewline_engine::schedule::{Action, Dag, Event, Limits, Node, Stage};
use crewline_store::{AttemptEnd, Change, Claim, Committed, NewAttempt, NewRun, Store, Transition};
use crewline_testkit::TestApp;
use crewline_types::{
    AttemptId, EventBody, IdSource, MicroUsd, Priority, Role, RunId, Task, TaskId, TaskKind, TaskStatus, Text,
    TextHash, Timestamp, Usage, event::NewEvent,
};

use crate::measure::{Figure, measure, own};

/// Tasks in parallel between the first and the last.
const WIDTH: usize = 10_000;
/// Changes that share a commit.
const GROUP: usize = 512;
const AT: Timestamp = Timestamp(1_700_000_000_000_000);

pub fn figures(runs: usize) -> Vec<Figure> {
    let per_task = |_| {
        let app = TestApp::new(env!("CARGO_BIN_EXE_crewline"));
        let folder = app.dir().display().to_string();
        let of = |width: usize| measure(&mut own(&["engine".to_owned(), width.to_string(), folder.clone()])).cpu;
        // Without the process itself, the schema and the run.
        let used = of(WIDTH).saturating_sub(of(0));
        used.as_secs_f64() * 1e3 / WIDTH as f64
    };
    let what = format!("CPU per durable task without a model call, {WIDTH} tasks");
    vec![Figure::new(what, "ms", "≤ 0.03 ms", (0..runs).map(per_task).collect())]
}

pub fn run(width: usize, folder: &str) {
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an executor");
    executor.block_on(work(width, &format!("{folder}/engine-{width}.db")));
}

async fn work(width: usize, file: &str) {
    let store = Store::open(&format!("sqlite:{file}")).await.expect("a database");
    let mut ids = IdSource::seeded(1);
    let (run, root) = (RunId::new(&mut ids), TaskId::new(&mut ids));
    let new = NewRun {
        id: run,
        project: "bench".into(),
        goal: "measure the engine".into(),
        settings: "{}".into(),
        registry: TextHash::of(""),
        key: None,
        at: AT,
    };
    store.create_run(&new, &task(run, root, 0)).await.expect("a run");
    let epoch = store.claim_run(run, "bench", Duration::from_mins(10), Claim::IfFree).await.expect("a claim");
    let tasks: Vec<TaskId> = (0..width + 2).map(|_| TaskId::new(&mut ids)).collect();
    let mut plan = Change::new(run, epoch, AT);
    plan.tasks = (1..).zip(&tasks).map(|(place, id)| task(run, *id, place)).collect();
    commit(&store, vec![plan]).await;
    let middle = 1..=u32::try_from(width).expect("few tasks");
    let mut needs = vec![Vec::new()];
    needs.extend(middle.clone().map(|_| vec![0]));
    needs.push(middle.collect());
    let node = |needs| Node { urgency: 0, priority: Priority::default(), needs, stage: Stage::Waiting, attempts: 0 };
    let limits = Limits { parallel_max: usize::MAX, ..Limits::default() };
    let mut dag = Dag::new(needs.into_iter().map(node).collect(), limits).expect("no circle");
    let mut actions: VecDeque<Action> = dag.apply(Event::Begin).into();
    while !actions.is_empty() {
        let begun: Vec<(u32, u32)> = actions
            .drain(..)
            .filter_map(|action| match action {
                Action::Dispatch { node, attempt } => Some((node, attempt)),
                _ => None,
            })
            .collect();
        for group in begun.chunks(GROUP) {
            let of = |make: fn(RunId, u64, TaskId) -> Change| {
                group.iter().map(|(node, _)| make(run, epoch, tasks[*node as usize])).collect()
            };
            commit(&store, of(start)).await;
            commit(&store, of(end)).await;
            for (node, attempt) in group {
                actions.extend(dag.apply(Event::Succeeded { node: *node, attempt: *attempt }));
            }
        }
    }
}

async fn commit(store: &Store, changes: Vec<Change>) {
    let answers = store.commit(&changes).await.expect("it is committed");
    assert!(answers.iter().all(|it| matches!(it, Committed::Done { .. })), "nothing is stale");
}

fn moved(task: TaskId, from: TaskStatus, to: TaskStatus, attempts_from: u32) -> Transition {
    Transition { attempts_from, attempts_to: 1, ..Transition::new(task, from, to) }
}

fn start(run: RunId, epoch: u64, task: TaskId) -> Change {
    let mut change = Change::new(run, epoch, AT);
    change.transitions.push(moved(task, TaskStatus::Pending, TaskStatus::InProgress, 0));
    let (id, model) = (AttemptId { task, number: 1 }, "none");
    change.attempts.push(NewAttempt { id, role: Role::from("writer"), model: model.into(), input_hash: None });
    let body = EventBody::TaskStarted {
        key: "t".into(),
        title: "a task".into(),
        role: Role::from("writer"),
        model: model.into(),
        route: [].into(),
    };
    change.events.push(NewEvent::of_task(AT, task, Some(1), body));
    change
}

fn end(run: RunId, epoch: u64, task: TaskId) -> Change {
    let mut change = Change::new(run, epoch, AT);
    let text = Text::from(format!("The result of {task}."));
    let (usage, cost, model) = (Usage::default(), MicroUsd::ZERO, "none");
    change.transitions.push(Transition {
        result: Some(text.hash),
        model: Some(model.into()),
        ..moved(task, TaskStatus::InProgress, TaskStatus::Completed, 1)
    });
    let id = AttemptId { task, number: 1 };
    change.attempts_ended.push(AttemptEnd { id, ok: true, model: model.into(), usage, cost, error: None });
    let body = EventBody::TaskCompleted {
        key: "t".into(),
        role: Role::from("writer"),
        model: model.into(),
        usage,
        cost_usd: cost,
        elapsed_ms: 1,
        copied_from: None,
    };
    change.events.push(NewEvent::of_task(AT, task, Some(1), body));
    change.texts.push(text);
    change
}

fn task(run: RunId, id: TaskId, position: u32) -> Task {
    Task {
        position,
        kind: if position == 0 { TaskKind::Root } else { TaskKind::Atomic },
        title: "a task".into(),
        description: "Write one sentence.".into(),
        ..Task::new(id, run, format!("t{position}"), Role::from("writer"), AT)
    }
}
