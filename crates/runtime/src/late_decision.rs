//! A person may decide just while the run that waits for it ends.

use std::time::Duration;

use crewline_store::{ApprovalFilter, NewDecision};
use crewline_testkit::Script;
use crewline_types::{ApprovalId, ApprovalState, EventBody, RunId, RunStatus, Timestamp};

use crate::{
    Approve, Decision, Limits, RunRequest,
    actor::tell,
    detour::Detour,
    survival::{World, chain_and_fan, request, world_with},
};

const LIMIT: Duration = Duration::from_mins(1);

/// A run whose plan waits for a yes, once the question is recorded.
async fn asked(world: &World, run: RunId) -> ApprovalId {
    let store = world.handle.store();
    let asked = async {
        loop {
            let asked = store.approvals(ApprovalFilter { run: Some(run), is_pending: true }).await.unwrap();
            if let [asked] = &asked[..] {
                return asked.id;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, asked).await.expect("the question is recorded")
}

/// Waits until the run has ended.
async fn ended(world: &World, run: RunId) {
    let ended = async {
        while world.handle.report(run).await.unwrap().status == RunStatus::Running {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, ended).await.expect("it waits for a person");
}

fn waits_for_a_yes() -> RunRequest {
    RunRequest { approve: Approve { plan: true, ..Approve::default() }, ..request(chain_and_fan(2)) }
}

#[tokio::test]
async fn a_run_whose_plan_is_approved_elsewhere_while_it_ends_goes_on() {
    let world = world_with(Script::default(), Limits::default(), |registry| registry).await;
    let (journal, mut ends) = Detour::of(&world.handle, |change| change.run_status.is_some()).await;
    let run = world.handle.launch(waits_for_a_yes()).await.unwrap();
    let end = tokio::time::timeout(LIMIT, ends.recv()).await.expect("the run ends, as it waits for a person").unwrap();

    // Another process records it, and finds that the run has a manager.
    let store = world.handle.store();
    let yes = NewDecision {
        id: asked(&world, run).await,
        run,
        state: ApprovalState::Approved,
        by: "somebody".into(),
        message: None,
        at: Timestamp(1),
        undoes: None,
    };
    assert!(store.decide(&yes).await.unwrap());
    tell(&journal, end);

    let events = world.events(run).await;
    let Some(EventBody::RunFinished { status, .. }) = events.last().map(|it| &it.body) else { panic!("{events:?}") };
    assert_eq!(*status, RunStatus::Completed);
    let ends = events.iter().filter(|it| matches!(it.body, EventBody::RunFinished { .. })).count();
    assert_eq!(ends, 1, "it was never said to be over");
}

#[tokio::test]
async fn a_run_whose_manager_is_about_to_leave_is_gone_on_with() {
    let world = world_with(Script::default(), Limits::default(), |registry| registry).await;
    world.handle.keep_runs();
    let run = world.handle.launch(waits_for_a_yes()).await.unwrap();
    let id = asked(&world, run).await;
    ended(&world, run).await;
    // As its manager, which has recorded the end and not let the run go yet.
    let lock = world.handle.take(run).await.unwrap();
    let leaves = async {
        while world.handle.report(run).await.unwrap().status != RunStatus::Running {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(lock);
    };
    let both = Box::pin(async { tokio::join!(world.handle.settle(id, &Decision::Approve, "somebody", None), leaves) });
    let (decided, ()) = tokio::time::timeout(LIMIT, both).await.expect("it is taken up");
    assert!(decided.unwrap().goes_on);
    let done = async {
        while world.handle.report(run).await.unwrap().status != RunStatus::Completed {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, done).await.expect("it goes on");
}

#[tokio::test]
async fn a_run_that_is_decided_about_at_a_server_that_stops_is_taken_up_by_the_next() {
    let world = world_with(Script::default(), Limits::default(), |registry| registry).await;
    world.handle.keep_runs();
    let run = world.handle.launch(waits_for_a_yes()).await.unwrap();
    let id = asked(&world, run).await;
    ended(&world, run).await;
    world.handle.shutdown(Duration::from_secs(5)).await;
    let decided = world.handle.settle(id, &Decision::Approve, "somebody", None).await.unwrap();
    assert!(decided.goes_on);
    assert_eq!(world.handle.store().running_runs().await.unwrap(), [run], "whoever is started next goes on with it");
}
