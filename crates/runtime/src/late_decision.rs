//! A person may decide just while the run that waits for it ends.

use std::time::Duration;

use crewline_store::{ApprovalFilter, NewDecision};
use crewline_testkit::Script;
use crewline_types::{ApprovalState, EventBody, RunStatus, Timestamp};

use crate::{
    Approve, Limits,
    actor::tell,
    detour::Detour,
    survival::{chain_and_fan, request, world_with},
};

const LIMIT: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_run_whose_plan_is_approved_elsewhere_while_it_ends_goes_on() {
    let world = world_with(Script::default(), Limits::default(), |registry| registry).await;
    let (journal, mut ends) = Detour::of(&world.handle, |change| change.run_status.is_some()).await;
    let approve = Approve { plan: true, ..Approve::default() };
    let run = world.handle.launch(crate::RunRequest { approve, ..request(chain_and_fan(2)) }).await.unwrap();
    let end = tokio::time::timeout(LIMIT, ends.recv()).await.expect("the run ends, as it waits for a person").unwrap();

    // Another process records it, and finds that the run has a manager.
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
    let yes = NewDecision {
        id: tokio::time::timeout(LIMIT, asked).await.expect("the question is recorded"),
        state: ApprovalState::Approved,
        by: "somebody".into(),
        message: None,
        at: Timestamp(1),
    };
    assert_eq!(store.decide(&yes).await.unwrap(), Some(run));
    tell(&journal, end);

    let events = world.events(run).await;
    let Some(EventBody::RunFinished { status, .. }) = events.last().map(|it| &it.body) else { panic!("{events:?}") };
    assert_eq!(*status, RunStatus::Completed);
    let ends = events.iter().filter(|it| matches!(it.body, EventBody::RunFinished { .. })).count();
    assert_eq!(ends, 1, "it was never said to be over");
}
