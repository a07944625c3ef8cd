//! Runs among processes, as far as one process can show it: polls alone, and what is taken over.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use crewline_store::{Change, Claim, Committed, RunEnd, Wish, Wished, Withdraw};
use crewline_testkit::{Gate, Script};
use crewline_types::{Clock, EventBody, RunId, RunStatus, SystemClock, TaskKind, Timestamp};

use crate::{
    Dispatch, Error, Limits, Post, RunRequest,
    actor::{Outcome, ask, tell},
    detour::Detour,
    handle::Why,
    journal::Message,
    manager::{self, Halt},
    root,
    survival::{World, chain_and_fan, request, two_processes, world_of, world_with},
};

const LIMIT: Duration = Duration::from_mins(1);

#[tokio::test]
async fn polls_alone_bring_a_run_to_its_end() {
    // SQLite gives no hint at all: what offers, claims and reports become, manager and worker have to find by themselves.
    let limits = Limits { poll: Duration::from_millis(20), ..Limits::default() };
    let world = world_of(Script::default(), limits, Dispatch::Queue, |registry| registry).await;
    let post = Post { slots: NonZeroUsize::new(2), roles: None, is_server: true };
    world.handle.join(post).await.unwrap();
    assert!(world.handle.store().hints().unwrap().is_none());
    let run = world.handle.launch(request(chain_and_fan(6))).await.unwrap();
    let events = world.events(run).await;
    let Some(EventBody::RunFinished { status, tasks, .. }) = events.last().map(|it| &it.body) else {
        panic!("{events:?}")
    };
    assert_eq!((*status, tasks.completed), (RunStatus::Completed, tasks.total));
    assert_eq!(world.server.calls(), u64::from(tasks.total));
}

#[tokio::test]
async fn what_a_worker_can_not_begin_is_given_back() {
    // Whatever is held without being begun is held for longer than the test may take.
    let limits = Limits { poll: Duration::from_millis(20), lease: Duration::from_hours(1), ..Limits::default() };
    let world = world_of(Script::default(), limits, Dispatch::Queue, |registry| registry).await;
    let store = world.handle.store();
    let broken = world.handle.launch(request(chain_and_fan(3))).await.unwrap();
    // Its manager has read what it needs, and offers.
    offered(&world, broken).await;
    let row = store.run(broken).await.unwrap().unwrap();
    store.configure_run(broken, row.epoch, "no settings", Wished::Kept).await.unwrap();
    // What can not be begun is offered first, and would take the worker's only place again and again.
    let post = Post { slots: NonZeroUsize::new(1), roles: None, is_server: true };
    world.handle.join(post).await.unwrap();
    let whole = world.handle.launch(request(chain_and_fan(3))).await.unwrap();
    world.events(whole).await;
    let calls = world.server.calls();
    assert_eq!(world.handle.report(whole).await.unwrap().status, RunStatus::Completed);
    let report = world.handle.report(broken).await.unwrap();
    assert!(report.tasks.iter().all(|task| task.kind == TaskKind::Root || task.attempts.is_empty()), "nothing is lost");
    store.configure_run(broken, row.epoch, &row.settings, Wished::Kept).await.unwrap();
    let events = world.events(broken).await;
    let Some(EventBody::RunFinished { status, tasks, .. }) = events.last().map(|it| &it.body) else {
        panic!("{events:?}")
    };
    assert_eq!((*status, tasks.completed), (RunStatus::Completed, tasks.total));
    assert_eq!(world.server.calls(), 2 * calls);
}

#[tokio::test]
async fn a_withdrawal_whose_answer_is_lost_is_found_when_the_run_is_loaded_anew() {
    for lost in [
        Outcome::TimedOut,
        Outcome::Crashed,
        Outcome::Done(Err(Error::from(crewline_store::Error::NotFound { run: "zzzzzzzz".parse().unwrap() }))),
    ] {
        let limits = Limits { poll: Duration::from_millis(20), ..Limits::default() };
        let world = world_of(Script::default(), limits, Dispatch::Queue, |registry| registry).await;
        let (store, run) = (world.handle.store(), world.handle.launch(request(chain_and_fan(3))).await.unwrap());
        offered(&world, run).await;
        let epoch = store.run(run).await.unwrap().unwrap().epoch;
        // Its manager took it back, and does not hear that it is gone.
        assert_eq!(store.withdraw_offers(run, epoch, Withdraw::Unreported).await.unwrap().len(), 1);
        let manager = ask(world.handle.root_actor(), LIMIT, |reply| root::Message::Manager(run, reply)).await;
        tell(&manager.unwrap().unwrap(), manager::Message::Recalled(lost));
        offered(&world, run).await;
        assert!(store.run(run).await.unwrap().unwrap().epoch > epoch, "it is loaded anew");
        let post = Post { slots: NonZeroUsize::new(2), roles: None, is_server: true };
        world.handle.join(post).await.unwrap();
        let events = world.events(run).await;
        let Some(EventBody::RunFinished { status, tasks, .. }) = events.last().map(|it| &it.body) else {
            panic!("{events:?}")
        };
        assert_eq!((*status, world.server.calls()), (RunStatus::Completed, u64::from(tasks.total)));
    }
}

/// A clock that is wrong.
#[derive(Debug)]
struct Wrong {
    hours: i64,
}

impl Clock for Wrong {
    fn now(&self) -> Timestamp {
        Timestamp(SystemClock.now().0 + self.hours * 3_600_000_000)
    }
}

#[tokio::test]
async fn clocks_of_processes_need_not_agree() {
    for hours in [24, -24] {
        let gate = Gate::after(1);
        // No lease ends in this test, on the clock that counts.
        let limits = Limits { poll: Duration::from_millis(20), lease: Duration::from_hours(1), ..Limits::default() };
        let clocks: [Arc<dyn Clock>; 2] = [Arc::new(Wrong { hours }), Arc::new(Wrong { hours: -hours })];
        let (world, other) = two_processes(Script::default().behind(&gate), limits, clocks).await;
        world.handle.join(Post { slots: None, roles: None, is_server: true }).await.unwrap();
        other.join(Post { slots: NonZeroUsize::new(2), roles: None, is_server: false }).await.unwrap();
        let run = world.handle.launch(request(chain_and_fan(6))).await.unwrap();
        asked(&world, 2).await;
        // Each looks for what others have left, and finds that they are there.
        for handle in [&world.handle, &other] {
            assert_eq!(handle.store().reap_claims().await.unwrap(), 0, "{hours}");
            assert_eq!(handle.take_over().await.unwrap(), [], "{hours}");
            let nodes = handle.nodes().await.unwrap();
            let states: Vec<&str> = nodes.iter().map(|node| node.state).collect();
            assert_eq!(states, ["alive", "alive"], "{hours}: {nodes:?}");
        }
        gate.open();
        let events = world.events(run).await;
        let Some(EventBody::RunFinished { status, tasks, .. }) = events.last().map(|it| &it.body) else {
            panic!("{events:?}")
        };
        assert_eq!((*status, world.server.calls()), (RunStatus::Completed, u64::from(tasks.total)), "{hours}");
        let report = world.handle.report(run).await.unwrap();
        let mut tasks = report.tasks.iter().filter(|task| task.kind != TaskKind::Root);
        assert!(tasks.all(|task| task.attempts.len() == 1), "nothing was lost: {report:?}");
    }
}

/// Records what `request` asks for, loses its process, takes it over; answers how it ended.
async fn taken_over(world: &World, request: RunRequest) -> RunStatus {
    let run = world.handle.submit(request).await.unwrap();
    take_over(world, run).await
}

/// Takes over the only run that nobody manages; answers how it ended.
async fn take_over(world: &World, run: RunId) -> RunStatus {
    assert_eq!(world.handle.take_over().await.unwrap(), [run]);
    let events = world.events(run).await;
    match events.last().map(|it| &it.body) {
        Some(EventBody::RunFinished { status, .. }) => *status,
        other => panic!("the run did not end: {other:?}"),
    }
}

#[tokio::test]
async fn a_run_that_is_taken_over_goes_as_far_as_it_was_launched_to_go() {
    let limits = Limits::default();
    for (stop_after_plan, status, calls) in [(true, RunStatus::Interrupted, 0), (false, RunStatus::Completed, 3)] {
        let world = world_with(Script::default(), limits, |registry| registry).await;
        // Its plan is recorded already.
        let asked = RunRequest { stop_after_plan, ..request(chain_and_fan(2)) };
        assert_eq!(taken_over(&world, asked).await, status);
        assert_eq!(world.server.calls(), calls);
    }
    // It is to be planned first.
    let world = world_with(Script::default(), limits, |registry| registry).await;
    let asked = RunRequest { plan: None, stop_after_plan: true, ..request(chain_and_fan(2)) };
    assert_eq!(taken_over(&world, asked).await, RunStatus::Interrupted);
    assert_eq!(world.server.calls(), 1, "it is planned, and no task is made");
}

#[tokio::test]
async fn what_is_wished_of_a_run_is_heard_before_whoever_takes_it_over_begins_a_task() {
    for (wish, status) in [
        (Wish::Pause, RunStatus::Interrupted),
        (Wish::Cancel, RunStatus::Cancelled),
        (Wish::Kill, RunStatus::Cancelled),
    ] {
        for plan in [Some(chain_and_fan(2)), None] {
            let world = world_with(Script::default(), Limits::default(), |registry| registry).await;
            let asked = RunRequest { plan, ..request(chain_and_fan(2)) };
            let run = world.handle.submit(asked).await.unwrap();
            assert!(world.handle.store().wish(run, wish).await.unwrap());
            assert_eq!(take_over(&world, run).await, status, "{wish:?}");
            assert_eq!(world.server.calls(), 0, "{wish:?}");
        }
    }
}

#[tokio::test]
async fn a_manager_that_is_started_again_leaves_a_run_at_rest_that_others_paused() {
    let gate = Gate::after(0);
    let world = world_with(Script::default().behind(&gate), Limits::default(), |registry| registry).await;
    let store = world.handle.store();
    let run = world.handle.launch(request(chain_and_fan(2))).await.unwrap();
    asked(&world, 1).await;
    // As whoever pauses a run whose process is silent; then that process goes on.
    let epoch = store.claim_run(run, "other:2", LIMIT, Claim::Force).await.unwrap();
    let mut end = Change::new(run, epoch, Timestamp(1));
    end.run_status = Some(RunEnd { status: RunStatus::Interrupted, finished_at: Timestamp(1), error: None });
    assert!(matches!(store.commit(&[end]).await.unwrap()[..], [Committed::Done { .. }]));
    let manager = async || ask(world.handle.root_actor(), LIMIT, |reply| root::Message::Manager(run, reply)).await;
    manager().await.unwrap().unwrap().kill();
    left(&world).await;
    let row = store.run(run).await.unwrap().unwrap();
    assert_eq!((row.status, row.epoch), (RunStatus::Interrupted, epoch));
}

/// Waits until a model was asked so often.
async fn asked(world: &World, calls: u64) {
    let asked = async {
        while world.server.calls() < calls {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, asked).await.expect("the calls");
}

/// Waits until the run has an offer.
async fn offered(world: &World, run: RunId) {
    let offered = async {
        while world.handle.store().open_offers(run).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, offered).await.expect("there is an offer");
}

/// Waits until no run is managed here.
async fn left(world: &World) {
    let gone = async {
        while ask(world.handle.root_actor(), LIMIT, root::Message::Active).await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.expect("the run is left");
}

#[tokio::test]
async fn a_run_whose_end_was_not_answered_stays_at_rest() {
    let gate = Gate::after(0);
    let world = world_with(Script::default().behind(&gate), Limits::default(), |registry| registry).await;
    let (_, mut ends) = Detour::of(&world.handle, |change| change.run_status.is_some()).await;
    let run = world.handle.launch(request(chain_and_fan(2))).await.unwrap();
    asked(&world, 1).await;
    let watched = world.events(run);
    let stopped = async {
        world.handle.drain(run).await.unwrap();
        gate.open();
        let Some(Message::Record(end, answer)) = ends.recv().await else { panic!("the run ends") };
        assert!(matches!(world.handle.store().commit(&[*end]).await.unwrap()[..], [Committed::Done { .. }]));
        drop(answer);
    };
    let (events, ()) = tokio::time::timeout(LIMIT, Box::pin(async { tokio::join!(watched, stopped) })).await.unwrap();
    let Some(EventBody::RunFinished { status, .. }) = events.last().map(|it| &it.body) else { panic!("{events:?}") };
    assert_eq!(*status, RunStatus::Interrupted);
    left(&world).await;
    assert_eq!(world.handle.report(run).await.unwrap().status, RunStatus::Interrupted);
    assert_eq!(world.server.calls(), 1, "nothing more is begun");
}

#[tokio::test]
async fn a_pause_leaves_a_run_alone_that_comes_to_rest_meanwhile() {
    let world = world_with(Script::default(), Limits::default(), |registry| registry).await;
    let store = world.handle.store();
    let run = world.handle.submit(request(chain_and_fan(2))).await.unwrap();
    let epoch = store.claim_run(run, "other:2", LIMIT, Claim::Force).await.unwrap();
    let mut end = Change::new(run, epoch, Timestamp(1));
    end.run_status = Some(RunEnd { status: RunStatus::LimitReached, finished_at: Timestamp(1), error: None });
    assert!(matches!(store.commit(&[end]).await.unwrap()[..], [Committed::Done { .. }]));
    // As whoever had read before that the run was running.
    let lock = world.handle.lock(run).unwrap();
    world.handle.start_manager(run, lock, Why::ToStop(Halt::Drain)).await.unwrap();
    left(&world).await;
    let row = store.run(run).await.unwrap().unwrap();
    assert_eq!((row.status, row.epoch), (RunStatus::LimitReached, epoch));
}
