//! Kills every actor of a run in turn: the run completes, and no result is made twice.

use std::{collections::HashMap, num::NonZeroUsize, path::Path, sync::Arc, time::Duration};

use crewline_engine::{plan::Document, route::Mode, schedule::Strategy};
use crewline_models::{Models, Options, Registry};
use crewline_store::Store;
use crewline_testkit::{Script, StubServer};
use crewline_types::{Clock, Event, EventBody, Role, RunId, RunLimits, RunStatus, SystemClock, TaskStatus};

use crate::{Config, Dispatch, Handle, Limits, MemoryConfig, RunRequest, actor::ask, root, router};

const LIMIT: Duration = Duration::from_mins(1);

pub(crate) struct World {
    pub(crate) server: StubServer,
    pub(crate) handle: Handle,
    folder: tempfile::TempDir,
}

async fn world(script: Script) -> World {
    world_with(script, Limits::default(), |registry| registry).await
}

/// A world with these limits, and a registry that is changed like that.
pub(crate) async fn world_with(script: Script, limits: Limits, change: impl Fn(String) -> String) -> World {
    world_of(script, limits, Dispatch::Local, change).await
}

/// The same, whose attempts are made like that.
pub(crate) async fn world_of(
    script: Script,
    limits: Limits,
    dispatch: Dispatch,
    change: impl Fn(String) -> String,
) -> World {
    tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_test_writer().try_init().ok();
    let server = StubServer::start(script);
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(SystemClock);
    let handle = process(folder.path(), &change(server.registry()), ("test:1", clock), dispatch, limits).await;
    World { server, handle, folder }
}

/// What one process has, with its name and its clock.
async fn process(
    folder: &Path,
    registry: &str,
    (node, clock): (&str, Arc<dyn Clock>),
    dispatch: Dispatch,
    limits: Limits,
) -> Handle {
    let registry = Arc::new(Registry::parse(registry, "crewline.yaml", &|_| None).unwrap());
    let options = Options { data_dir: folder.into(), mode: crewline_models::Mode::Online, ..Options::default() };
    let models = Models::new(registry, options).unwrap();
    let url = format!("sqlite:{}", folder.join("crewline.db").display());
    Handle::start(Config {
        store: Store::open(&url).await.unwrap(),
        models,
        reloader: None,
        memory: MemoryConfig::default(),
        clock,
        node: node.into(),
        locks: Some(folder.join("locks")),
        prompts: None,
        tools: crate::ToolsConfig { folder: folder.join("workspaces"), helper: None },
        dispatch,
        limits,
    })
    .await
    .unwrap()
}

/// Two processes on one database, each with its clock.
pub(crate) async fn two_processes(script: Script, limits: Limits, clocks: [Arc<dyn Clock>; 2]) -> (World, Handle) {
    let server = StubServer::start(script);
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = clocks;
    let registry = server.registry();
    let handle = process(folder.path(), &registry, ("test:1", one), Dispatch::Queue, limits).await;
    let other = process(folder.path(), &registry, ("test:2", two), Dispatch::Queue, limits).await;
    (World { server, handle, folder }, other)
}

pub(crate) fn chain_and_fan(width: usize) -> Document {
    let mut tasks =
        vec![serde_json::json!({"id": "a", "title": "A", "description": "a", "role": "coder", "depends_on": []})];
    for n in 0..width {
        let need = if n == 0 { "a".to_owned() } else { format!("m{}", n / 2) };
        let task = serde_json::json!({"id": format!("m{n}"), "title": "M", "description": "m", "role": "coder", "depends_on": [need]});
        tasks.push(task);
    }
    let value = serde_json::json!({"goal": "g", "tasks": tasks});
    crewline_engine::plan::document_from_value(&value).unwrap()
}

pub(crate) fn request(plan: Document) -> RunRequest {
    RunRequest {
        project: "p".into(),
        goal: "g".into(),
        plan: Some(plan),
        limits: RunLimits::default(),
        concurrency: NonZeroUsize::new(3).unwrap(),
        strategy: Strategy::default(),
        mode: Mode::Online,
        approve: crate::Approve::default(),
        workspace: None,
        strict_plan: false,
        stop_after_plan: false,
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Victim {
    Specialist,
    Router,
    Journal,
    Memory,
    Scribe,
    Manager,
}

impl World {
    pub(crate) async fn kill(&self, victim: Victim, run: RunId) {
        let rooms = &self.handle.rooms();
        match victim {
            Victim::Specialist => {
                let Some(router) = rooms.router.current() else { return };
                let found = ask(&router, LIMIT, |reply| router::Message::Specialist(Role::from("coder"), reply)).await;
                if let Ok(Some(specialist)) = found {
                    specialist.kill();
                }
            }
            Victim::Router => rooms.router.current().unwrap().kill(),
            Victim::Journal => rooms.journal.current().unwrap().kill(),
            Victim::Memory => rooms.memory.current().unwrap().kill(),
            Victim::Scribe => rooms.scribe.current().unwrap().kill(),
            Victim::Manager => {
                let found = ask(self.handle.root_actor(), LIMIT, |reply| root::Message::Manager(run, reply)).await;
                if let Ok(Some(manager)) = found {
                    manager.kill();
                }
            }
        }
    }

    pub(crate) async fn events(&self, run: RunId) -> Vec<Event> {
        let mut watch = self.handle.watch(run, 0);
        let mut events = Vec::new();
        while let Some(event) = tokio::time::timeout(LIMIT, watch.next()).await.expect("the run goes on") {
            events.push(event.unwrap());
        }
        events
    }
}

async fn survives(victims: &[Victim]) {
    let world = world(Script::default().latency(Duration::from_millis(15))).await;
    let width = 24;
    let run = world.handle.launch(request(chain_and_fan(width))).await.unwrap();
    let mut watch = world.handle.watch(run, 0);
    let mut done = 0;
    let mut killed = 0;
    let mut events = Vec::new();
    while let Some(event) = tokio::time::timeout(LIMIT, watch.next()).await.expect("the run goes on") {
        let event = event.unwrap();
        if matches!(event.body, EventBody::TaskCompleted { .. }) {
            done += 1;
            // Every third result somebody dies.
            if done % 3 == 0 && killed < victims.len() {
                world.kill(victims[killed], run).await;
                killed += 1;
            }
        }
        events.push(event);
    }
    assert_eq!(killed, victims.len());
    let Some(EventBody::RunFinished { status, tasks, .. }) = events.last().map(|it| &it.body) else {
        panic!("the run did not finish: {events:?}")
    };
    assert_eq!((*status, tasks.completed), (RunStatus::Completed, tasks.total), "{victims:?}");
    let mut completed: HashMap<_, u32> = HashMap::new();
    for event in &events {
        if let (EventBody::TaskCompleted { .. }, Some(task)) = (&event.body, event.task) {
            *completed.entry(task).or_default() += 1;
        }
    }
    assert!(completed.values().all(|count| *count == 1), "a task completed twice: {completed:?}");
    assert_eq!(events.iter().map(|it| it.seq).collect::<Vec<_>>(), (1..=events.len() as u64).collect::<Vec<_>>());
    let report = world.handle.report(run).await.unwrap();
    assert!(report.tasks.iter().all(|task| task.status == TaskStatus::Completed), "{report:?}");
    let calls = world.server.calls();
    assert!(calls <= u64::from(tasks.total) + 3 * victims.len() as u64, "{calls} calls for {} tasks", tasks.total);
    world.handle.shutdown(Duration::from_secs(5)).await;
    drop(world.folder);
}

#[tokio::test]
async fn a_killed_specialist_is_survived() {
    survives(&[Victim::Specialist, Victim::Specialist]).await;
}

#[tokio::test]
async fn a_killed_router_is_survived() {
    survives(&[Victim::Router, Victim::Router]).await;
}

#[tokio::test]
async fn a_killed_journal_is_survived() {
    survives(&[Victim::Journal, Victim::Journal]).await;
}

#[tokio::test]
async fn killed_memory_is_survived() {
    survives(&[Victim::Memory, Victim::Memory]).await;
}

#[tokio::test]
async fn a_killed_scribe_is_survived() {
    survives(&[Victim::Scribe, Victim::Scribe]).await;
}

#[tokio::test]
async fn a_killed_manager_is_survived() {
    survives(&[Victim::Manager, Victim::Manager]).await;
}

#[tokio::test]
async fn a_run_whose_manager_keeps_failing_ends_alone() {
    let limits = Limits { restarts_max: 3, ..Limits::default() };
    let world = world_with(Script::default().latency(Duration::from_millis(50)), limits, |registry| registry).await;
    let handle = &world.handle;
    let other = handle.launch(request(chain_and_fan(12))).await.unwrap();
    let poisoned = handle.launch(request(chain_and_fan(12))).await.unwrap();
    let all_fail = async {
        while handle.row(poisoned).await.unwrap().status == RunStatus::Running {
            world.kill(Victim::Manager, poisoned).await;
        }
    };
    tokio::time::timeout(LIMIT, all_fail).await.expect("it is given up");
    let events = world.events(poisoned).await;
    let Some(EventBody::RunFinished { status, error: Some(error), .. }) = events.last().map(|it| &it.body) else {
        panic!("the run has no end with a reason: {events:?}")
    };
    assert_eq!((*status, &*error.code), (RunStatus::Interrupted, "runtime.restarts"));
    assert_eq!(handle.report(poisoned).await.unwrap().error.unwrap().code, error.code);

    let is_completed = |events: &[Event]| match events.last().map(|it| &it.body) {
        Some(EventBody::RunFinished { status: RunStatus::Completed, tasks, .. }) => tasks.completed == tasks.total,
        _ => false,
    };
    let events = world.events(other).await;
    assert!(is_completed(&events), "the other run goes on: {events:?}");
    handle.is_ready().await.unwrap();
    // What made it fail may be gone: then it goes on where it was.
    let after = loop {
        match handle.resume(poisoned, crate::Overrides::default()).await {
            Ok(after) => break after,
            // Its end is recorded a moment before its lock is let go of.
            Err(crate::Error::Held { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    let mut watch = handle.watch(poisoned, after);
    let mut events = Vec::new();
    while let Some(event) = tokio::time::timeout(LIMIT, watch.next()).await.expect("the run goes on") {
        events.push(event.unwrap());
    }
    assert!(is_completed(&events), "{events:?}");
}

#[tokio::test]
async fn everybody_may_die_in_turn() {
    survives(&[Victim::Manager, Victim::Journal, Victim::Specialist, Victim::Router, Victim::Memory, Victim::Manager])
        .await;
}

#[tokio::test]
async fn abort_leaves_a_run_that_resumes() {
    let world = world(Script::default().latency(Duration::from_millis(200))).await;
    let run = world.handle.launch(request(chain_and_fan(6))).await.unwrap();
    let mut watch = world.handle.watch(run, 0);
    while let Some(Ok(event)) = watch.next().await {
        if matches!(event.body, EventBody::TaskStarted { .. }) {
            break;
        }
    }
    world.handle.abort(run).await.unwrap();
    let events = world.events(run).await;
    let Some(EventBody::RunFinished { status, tasks, .. }) = events.last().map(|it| &it.body) else {
        panic!("{events:?}")
    };
    assert_eq!((*status, tasks.in_progress), (RunStatus::Interrupted, 0));
    // Its manager has recorded the end and is about to let the run go.
    let held = world.handle.take(run).await.unwrap();
    let resume = world.handle.resume(run, crate::Overrides::default());
    let let_go = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        drop(held);
    };
    let (after, ()) = tokio::join!(resume, let_go);
    let after = after.unwrap();
    assert_eq!(after, events.last().unwrap().seq);
    let events = world.events(run).await;
    let Some(EventBody::RunFinished { status, .. }) = events.last().map(|it| &it.body) else { panic!("{events:?}") };
    assert_eq!(*status, RunStatus::Completed);
}
