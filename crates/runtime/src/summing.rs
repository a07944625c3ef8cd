//! What runs leave behind: summaries of tasks, of a project, of what a task says on its way.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crewline_engine::plan::Document;
use crewline_testkit::{Script, StubReply, StubRequest, script::default_reply};
use crewline_types::{
    Event, EventBody, MemoryMarks, MemoryRecord, MemoryType, ProjectScope, RunId, RunStatus, TaskKind,
    event::CallOutcome,
};

use crate::{
    Library, Limits,
    hierarchy::version_of,
    survival::{Victim, World, request, world_with},
};

const RESULT: &str = "We decided to use port 8443 because 443 is taken. The file is `src/port.rs`.";

fn plan(titles: &[(&str, &str, &[&str])]) -> Document {
    let task = |(index, (title, role, needs)): (usize, &(&str, &str, &[&str]))| serde_json::json!({"id": format!("t{index}"), "title": title, "description": format!("{title} now!"), "role": role, "depends_on": needs});
    let tasks: Vec<_> = titles.iter().enumerate().map(task).collect();
    crewline_engine::plan::document_from_value(&serde_json::json!({"goal": "g", "tasks": tasks})).unwrap()
}

fn library(world: &World) -> Library {
    Library::new(
        world.handle.store().clone(),
        crewline_memory::Hybrid::new(crewline_memory::Embedded::new(), None),
        None,
        std::sync::Arc::new(crewline_types::SystemClock),
    )
}

async fn all(world: &World) -> Vec<MemoryRecord> {
    let all = library(world).all(&ProjectScope::of("p")).await.unwrap();
    all.into_iter().map(|(_, record)| record).collect()
}

fn of_kind<'a>(all: &'a [MemoryRecord], kind: &MemoryType) -> Vec<&'a MemoryRecord> {
    all.iter().filter(|it| it.kind == *kind).collect()
}

fn summaries(events: &[Event]) -> Vec<(&str, u32)> {
    let mut found = Vec::new();
    for event in events {
        if let EventBody::SummaryReady { kind, version, .. } = &event.body {
            found.push((&**kind, *version));
        }
    }
    found
}

#[tokio::test]
async fn a_run_leaves_summaries_that_can_be_followed_down_and_up() {
    let script = Script::default().on_text("Choose the port now!", StubReply::text(RESULT));
    let world = world_with(script, Limits::default(), |registry| registry).await;
    let doc = plan(&[("Choose the port", "coder", &[]), ("Test the port", "tester", &["t0"])]);
    let run = world.handle.launch(request(doc)).await.unwrap();
    let events = world.events(run).await;
    let found = summaries(&events);
    for expected in [("task_summary", 1), ("handoff_summary", 1), ("project_summary", 1)] {
        assert!(found.contains(&expected), "{expected:?} in {found:?}");
    }
    assert!(matches!(events.last().unwrap().body, EventBody::RunFinished { .. }), "it is the last");

    let all = all(&world).await;
    let stored: HashSet<String> = events
        .iter()
        .filter_map(|event| match &event.body {
            EventBody::MemoryStored { memory, .. } => Some(memory.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(stored, all.iter().map(|it| it.id.to_string()).collect(), "every memory was told of");
    let project = of_kind(&all, &MemoryType::ProjectSummary);
    assert_eq!(project.len(), 1);
    assert!(project[0].text.contains("We decided to use port 8443 because 443 is taken."), "{}", project[0].text);
    let tasks = of_kind(&all, &MemoryType::TaskSummary);
    assert!(!project[0].source_ids.is_empty());
    assert!(project[0].source_ids.iter().all(|id| tasks.iter().any(|it| it.id == *id)), "down to the tasks");
    let handed = of_kind(&all, &MemoryType::HandoffSummary);
    assert!(handed[0].text.contains("Decided:\n- We decided to use port 8443"), "{}", handed[0].text);
    assert!(handed[0].text.contains("Files: src/port.rs"), "{}", handed[0].text);
    assert!(tasks.iter().any(|it| handed[0].source_ids == [it.id]));
}

#[tokio::test]
async fn the_next_run_makes_the_next_version() {
    let script = Script::default()
        .on_text("Choose the port now!", StubReply::text(RESULT))
        .on_text("Choose the host now!", StubReply::text("We decided to listen on 127.0.0.1 only."));
    let world = world_with(script, Limits::default(), |registry| registry).await;
    for title in ["Choose the port", "Choose the host"] {
        let run = world.handle.launch(request(plan(&[(title, "coder", &[])]))).await.unwrap();
        world.events(run).await;
    }
    let all = all(&world).await;
    let versions = of_kind(&all, &MemoryType::ProjectSummary);
    let (old, new) = (versions[0], versions[1]);
    assert_eq!((version_of(old), version_of(new)), (1, 2));
    assert_eq!((old.marks.superseded_by, new.marks.superseded_by), (Some(new.id), None));
    assert!(new.text.contains("8443") && new.text.contains("127.0.0.1"), "{}", new.text);
    assert_eq!(new.source_ids.len(), 2);

    // Searches find the newest version only.
    let (library, scope) = (library(&world), ProjectScope::of("p"));
    library.load(&scope).await.unwrap();
    assert!(library.index().local().get(&scope, old.id).is_none());
    assert!(library.index().local().get(&scope, new.id).is_some());
    assert!(library.draft(&scope).await.unwrap().is_none(), "nothing is new");
}

#[tokio::test]
async fn what_is_forgotten_or_superseded_leaves_the_summaries() {
    let script = Script::default()
        .on_text("Choose the port now!", StubReply::text(RESULT))
        .on_text("Choose the host now!", StubReply::text("We decided to listen on 127.0.0.1 only."));
    let world = world_with(script, Limits::default(), |registry| registry).await;
    let doc = plan(&[("Choose the port", "coder", &[]), ("Choose the host", "tester", &["t0"])]);
    let run = world.handle.launch(request(doc)).await.unwrap();
    world.events(run).await;
    let (library, scope) = (library(&world), ProjectScope::of("p"));
    let before = all(&world).await;
    let host = before.iter().find(|it| it.kind == MemoryType::TaskSummary && it.text.contains("127.0.0.1")).unwrap();
    let port = before.iter().find(|it| it.kind == MemoryType::TaskSummary && it.text.contains("8443")).unwrap();

    // A newer statement takes the place of one: what was made from it is made again.
    let newer = MemoryRecord {
        id: crewline_types::MemoryId(7),
        kind: MemoryType::Other("note".into()),
        text: "Choose the host\n\nWe decided to listen on every address.".into(),
        marks: MemoryMarks::default(),
        ..host.clone()
    };
    library.add(vec![newer.clone()]).await.unwrap();
    library.supersede(&scope, host.id, newer.id).await.unwrap();
    let stale = all(&world).await;
    assert!(of_kind(&stale, &MemoryType::ProjectSummary)[0].marks.stale);
    library.refresh(&scope, 600).await.unwrap();
    let after = all(&world).await;
    let current: Vec<_> = of_kind(&after, &MemoryType::ProjectSummary)
        .into_iter()
        .filter(|it| it.marks.superseded_by.is_none())
        .collect();
    assert_eq!(current.len(), 1);
    assert!(current[0].text.contains("every address") && !current[0].text.contains("127.0.0.1"), "{}", current[0].text);
    assert!(!current[0].marks.stale && current[0].source_ids.contains(&newer.id));

    // What is forgotten is gone from every version and every hand-off.
    let (gone, made) = library.forget_all(&scope, &[port.id], 600).await.unwrap();
    assert!(gone.len() >= 4, "the summary, its hand-off, two versions: {gone:?}");
    let left = all(&world).await;
    assert!(left.iter().all(|it| !it.text.contains("8443")), "{left:?}");
    let project = of_kind(&left, &MemoryType::ProjectSummary);
    assert_eq!(project.len(), 1);
    assert_eq!(made, [project[0].id]);
    assert!(project[0].text.contains("every address"), "{}", project[0].text);
}

#[tokio::test]
async fn a_task_that_says_much_is_summed_up_on_its_way() {
    let long = "We rejected the second broker because it loses messages. ".repeat(20);
    let limits = Limits { rolling_tokens: 50, ..Limits::default() };
    let change = |registry: String| registry + "policies: {attempts_max: 1}\n";
    // An answer that the provider's filter stopped is recorded, and is no result.
    let filtered = StubReply::text(long).finish("content_filter");
    let world = world_with(Script::default().on_text("Choose the broker", filtered), limits, change).await;
    let run = world.handle.launch(request(plan(&[("Choose the broker", "coder", &[])]))).await.unwrap();
    let events = world.events(run).await;
    let Some(EventBody::RunFinished { status, .. }) = events.last().map(|event| &event.body) else { panic!() };
    assert_eq!(*status, RunStatus::Failed, "{events:?}");
    assert!(summaries(&events).contains(&("rolling_summary", 1)), "{events:?}");
    let all = all(&world).await;
    let current: Vec<_> =
        of_kind(&all, &MemoryType::RollingSummary).into_iter().filter(|it| it.marks.superseded_by.is_none()).collect();
    assert_eq!(current.len(), 1);
    assert!(current[0].text.starts_with("Choose the broker (so far)\n"), "{}", current[0].text);
    assert!(current[0].text.contains("it loses messages"), "{}", current[0].text);
    assert!(current[0].marks.metadata["calls"].contains('.'), "{:?}", current[0].marks.metadata);
}

#[tokio::test]
async fn a_run_ends_without_its_scribe() {
    let limits = Limits { summary: Duration::from_millis(50), ..Limits::default() };
    let world = world_with(Script::default(), limits, |registry| registry).await;
    let rooms = world.handle.rooms();
    let run = world.handle.launch(request(plan(&[("One", "coder", &[])]))).await.unwrap();
    rooms.scribe.current().unwrap().kill();
    let events = world.events(run).await;
    assert!(matches!(events.last().unwrap().body, EventBody::RunFinished { status: RunStatus::Completed, .. }));
}

/// A registry in which a model writes summaries.
fn with_summariser(registry: &str) -> String {
    registry.replace("roles:\n", "roles:\n  summariser: {chain: [cheap]}\n")
}

#[tokio::test]
async fn a_model_writes_the_summary_where_one_is_named() {
    let script = Script::default()
        .on_text("Sum this up", StubReply::text("# Port\nIt is 8443, because 443 is taken."))
        .on_text("Choose the port now!", StubReply::text(RESULT));
    let world = world_with(script, Limits::default(), |it| with_summariser(&it)).await;
    let run = world.handle.launch(request(plan(&[("Choose the port", "coder", &[])]))).await.unwrap();
    let events = world.events(run).await;
    let all = all(&world).await;
    let project = of_kind(&all, &MemoryType::ProjectSummary);
    assert_eq!(project.len(), 1, "{events:?}");
    assert_eq!((&*project[0].agent, &*project[0].text), ("cheap", "# Port\nIt is 8443, because 443 is taken."));
    let task = of_kind(&all, &MemoryType::TaskSummary)[0];
    assert_eq!(project[0].source_ids, [task.id]);
    let asked = world.server.requests().into_iter().find(|it| it.contains("Sum this up")).unwrap();
    assert!(asked.contains("We decided to use port 8443"), "it was given what the task made");

    // The call is the run's, and so is its cost.
    let report = world.handle.report(run).await.unwrap();
    let calls: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.body {
            EventBody::ModelCall { cost_usd, .. } => *cost_usd,
            _ => None,
        })
        .collect();
    assert_eq!((calls.len(), report.calls), (2, 2));
    let Some(EventBody::RunFinished { cost_usd, .. }) = events.last().map(|event| &event.body) else { panic!() };
    assert_eq!(*cost_usd, calls.iter().copied().sum());
    assert_eq!(report.cost_usd, *cost_usd);
    let root = report.tasks.iter().find(|task| task.kind == TaskKind::Root).unwrap();
    assert!(root.cost_usd > crewline_types::MicroUsd::ZERO, "whoever goes on with the run knows what it cost");
}

#[tokio::test]
async fn a_model_that_fails_leaves_the_extract() {
    let script = Script::default()
        .on_text("Sum this up", StubReply::status(500))
        .on_text("Choose the port now!", StubReply::text(RESULT));
    let world = world_with(script, Limits::default(), |it| with_summariser(&it)).await;
    let run = world.handle.launch(request(plan(&[("Choose the port", "coder", &[])]))).await.unwrap();
    let events = world.events(run).await;
    assert!(matches!(events.last().unwrap().body, EventBody::RunFinished { status: RunStatus::Completed, .. }));
    let all = all(&world).await;
    let project = of_kind(&all, &MemoryType::ProjectSummary);
    assert_eq!((project.len(), &*project[0].agent), (1, "summariser"));
    assert!(project[0].text.contains("We decided to use port 8443"), "{}", project[0].text);
}

/// Every call of the run has an end, and all of them together cost what the run says; how the calls for summaries ended.
async fn settled_summaries(world: &World, run: RunId) -> Vec<CallOutcome> {
    let store = world.handle.store();
    assert_eq!(store.integrity().await.unwrap(), []);
    let calls = store.calls(run).await.unwrap();
    let cost = calls.iter().map(|it| it.cost.unwrap()).sum();
    let report = world.handle.report(run).await.unwrap();
    let root = report.tasks.iter().find(|task| task.kind == TaskKind::Root).unwrap();
    let events = world.events(run).await;
    let Some(EventBody::RunFinished { cost_usd, .. }) = events.last().map(|event| &event.body) else { panic!() };
    assert_eq!((*cost_usd, report.cost_usd), (cost, cost), "{calls:#?}");
    let summaries: Vec<_> = calls.iter().filter(|it| it.purpose == "summary").collect();
    assert_eq!(root.cost_usd, summaries.iter().map(|it| it.cost.unwrap()).sum(), "{calls:#?}");
    for call in &summaries {
        let (reserved, is_answered) = (call.reserved.unwrap(), call.outcome == Some(CallOutcome::Ok));
        assert_eq!(call.cost == Some(reserved), !is_answered, "one that is cut off costs the worst case: {call:#?}");
    }
    summaries.iter().map(|it| it.outcome.unwrap()).collect()
}

#[tokio::test]
async fn a_summary_that_the_end_of_a_run_cuts_off_is_paid_for() {
    let script = Script::default().on_text("Sum this up", StubReply::hang());
    let limits = Limits { model_summary: Duration::from_millis(300), ..Limits::default() };
    let world = world_with(script, limits, |it| with_summariser(&it)).await;
    let run = world.handle.launch(request(plan(&[("Choose the port", "coder", &[])]))).await.unwrap();
    world.events(run).await;
    assert_eq!(settled_summaries(&world, run).await, [CallOutcome::Cancelled]);
}

#[tokio::test]
async fn a_summary_that_a_crash_cuts_off_is_paid_for() {
    let has_hung = AtomicBool::new(false);
    let script = Script::new(move |request: &StubRequest| {
        if request.contains("Sum this up") && !has_hung.swap(true, Ordering::SeqCst) {
            return StubReply::hang();
        }
        default_reply(request)
    });
    let world = world_with(script, Limits::default(), |it| with_summariser(&it)).await;
    let run = world.handle.launch(request(plan(&[("Choose the port", "coder", &[])]))).await.unwrap();
    while world.server.calls() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.kill(Victim::Manager, run).await;
    world.events(run).await;
    assert_eq!(settled_summaries(&world, run).await, [CallOutcome::Lost, CallOutcome::Ok]);
}
