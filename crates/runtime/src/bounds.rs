//! The bounds of the runtime, each reached: who comes too late is told so, and nothing is lost.

use std::time::Duration;

use crewline_store::{Change, Claim, NewRun, Store};
use crewline_testkit::{Gate, Script};
use crewline_types::{
    ErrorKind, Event, EventBody, IdSource, RunId, RunStatus, TaskId, TextHash, Timestamp,
    event::{ErrorNote, NewEvent},
};

use crate::{
    Error, Limits,
    hub::Hub,
    survival::{chain_and_fan, request, world_with},
    watch::Watch,
};

/// More events than a subscriber may be behind.
const MANY: u64 = 3_000;

#[tokio::test]
async fn more_runs_than_admitted_are_refused_and_leave_nothing() {
    let limits = Limits { runs_max: 1, ..Limits::default() };
    let gate = Gate::after(0);
    let world = world_with(Script::default().behind(&gate), limits, |registry| registry).await;
    let first = world.handle.launch(request(chain_and_fan(2))).await.unwrap();
    let refused = world.handle.launch(request(chain_and_fan(2))).await.unwrap_err();
    assert!(matches!(refused, Error::Busy { active: 1 }), "{refused}");
    assert!(refused.is_retryable());
    assert_eq!(world.handle.runs(None, 9).await.unwrap().len(), 1, "nothing is recorded of it");
    gate.open();
    world.events(first).await;
    while world.handle.drain(first).await.is_ok() {
        tokio::task::yield_now().await;
    }
    // Of those that come at once, too, as many are taken as there are places.
    let handle = &world.handle;
    let launches = futures::future::join_all((0..8).map(|_| handle.launch(request(chain_and_fan(2))))).await;
    let runs: Vec<RunId> = launches.into_iter().filter_map(Result::ok).collect();
    assert_eq!(runs.len(), 1);
    world.events(runs[0]).await;
    assert_eq!(world.handle.runs(None, 9).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_role_without_a_place_answers_busy_and_is_asked_again() {
    let limits = Limits { queue_max: 1, ..Limits::default() };
    let change = |registry: String| {
        let roles = "roles:\n  coder: {chain: [cheap], slots: 1}\n";
        let policies = "policies: {attempts_max: 100, retry: {delay: 100ms, delay_max: 200ms}}\n";
        registry.replace("roles:\n", roles) + policies
    };
    // After four answers there are three at once: one works, one waits, one is told to come back.
    let gate = Gate::after(4);
    let world = world_with(Script::default().behind(&gate), limits, change).await;
    let run = world.handle.launch(request(chain_and_fan(12))).await.unwrap();
    let is_busy = |event: &Event| matches!(&event.body, EventBody::TaskFailed { error, will_retry: true, .. } if &*error.code == "attempt.busy");
    let mut watch = world.handle.watch(run, 0);
    while !is_busy(&watch.next().await.expect("the bound is reached").unwrap()) {}
    gate.open();
    let events = world.events(run).await;
    let Some(EventBody::RunFinished { status, tasks, .. }) = events.last().map(|event| &event.body) else { panic!() };
    assert_eq!(*status, RunStatus::Completed);
    assert_eq!(world.server.calls(), u64::from(tasks.total), "who was told to come back had made no call");
    assert_eq!(world.server.peak_in_flight(), 1);
}

#[tokio::test]
async fn who_waits_for_an_answer_does_not_keep_others_from_being_asked() {
    let limits = Limits { preparing_max: 0, ..Limits::default() };
    let gate = Gate::after(3);
    let world = world_with(Script::default().behind(&gate), limits, |registry| registry).await;
    let run = world.handle.launch(request(chain_and_fan(12))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.server.calls(), 0, "there is no place to be prepared at");
    world.handle.deps().preparing.add_permits(1);
    // One is prepared at a time, and several are under way.
    let several = async {
        while world.server.peak_in_flight() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), several).await.unwrap();
    gate.open();
    let events = world.events(run).await;
    let Some(EventBody::RunFinished { status, tasks, .. }) = events.last().map(|event| &event.body) else { panic!() };
    assert_eq!(*status, RunStatus::Completed);
    assert_eq!(world.server.calls(), u64::from(tasks.total));
}

/// A run that is claimed, in a database of its own.
async fn claimed_run(folder: &tempfile::TempDir) -> (Store, RunId, u64) {
    let store = Store::open(&format!("sqlite:{}", folder.path().join("crewline.db").display())).await.unwrap();
    let (run, _, epoch) = claimed_run_in(&store, &mut IdSource::seeded(1)).await;
    (store, run, epoch)
}

/// A run that is claimed, with its root task and its epoch.
pub(crate) async fn claimed_run_in(store: &Store, ids: &mut IdSource) -> (RunId, TaskId, u64) {
    let (id, root, at) = (RunId::new(ids), TaskId::new(ids), Timestamp(0));
    let run = NewRun {
        id,
        project: "p".into(),
        goal: "g".into(),
        settings: "{}".into(),
        registry: TextHash::of(""),
        key: None,
        at,
    };
    store.create_run(&run, &crate::launch::root_task(id, root, "g", at)).await.unwrap();
    (id, root, store.claim_run(id, "me", Duration::from_mins(1), Claim::IfFree).await.unwrap())
}

#[tokio::test]
async fn a_watcher_that_comes_late_hears_that_the_manager_gave_up() {
    let folder = tempfile::tempdir().unwrap();
    let (store, run, epoch) = claimed_run(&folder).await;
    let mut change = Change::new(run, epoch, Timestamp(1));
    change.events = vec![NewEvent::of_run(
        Timestamp(1),
        EventBody::AwaitingApproval { what: "x".into(), approval: None, kind: None },
    )];
    store.commit(&[change]).await.unwrap();
    let hub = Hub::default();
    let note = ErrorNote { code: "store.disk_full".into(), kind: ErrorKind::Unavailable, message: "full".into() };
    hub.give_up(run, note);

    let mut watch = Watch::new(store, &hub, run, 0);
    assert_eq!(watch.next().await.unwrap().unwrap().seq, 1, "what is recorded comes first");
    let told = watch.next().await.unwrap().unwrap_err();
    assert_eq!(told.code(), "run.stopped");
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_watcher_that_falls_behind_reads_what_it_missed() {
    let folder = tempfile::tempdir().unwrap();
    let (store, run, epoch) = claimed_run(&folder).await;
    let hub = Hub::default();
    let mut watch = Watch::new(store.clone(), &hub, run, 0);
    let mut seen = Vec::new();
    for part in 0..MANY / 500 {
        let mut change = Change::new(run, epoch, Timestamp(1));
        let note = || {
            NewEvent::of_run(Timestamp(1), EventBody::AwaitingApproval { what: "x".into(), approval: None, kind: None })
        };
        change.events = std::iter::repeat_with(note).take(500).collect();
        if part == MANY / 500 - 1 {
            change.run_status =
                Some(crewline_store::RunEnd { status: RunStatus::Interrupted, finished_at: Timestamp(2), error: None });
        }
        let committed = store.commit(&[change]).await.unwrap().remove(0);
        let crewline_store::Committed::Done { events } = committed else { panic!("{committed:?}") };
        hub.publish(events);
        // It looks now and then, and far too seldom.
        seen.push(watch.next().await.unwrap().unwrap().seq);
    }
    while let Some(event) = watch.next().await {
        seen.push(event.unwrap().seq);
    }
    assert_eq!(seen, (1..=MANY).collect::<Vec<_>>(), "each once, in order");
}
