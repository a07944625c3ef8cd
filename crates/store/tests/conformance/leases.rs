//! Who may write a run.

use std::time::Duration;

use crewline_store::{Claim, Error, RunEnd, Wished};
use crewline_types::{ErrorKind, RunStatus};

use crate::common::{Crew, Place, at};

on_both! {
    claims_are_exclusive
    a_finished_run_is_not_claimed
    settings_are_replaced
}

async fn claims_are_exclusive(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let (store, run) = (&crew.store, crew.run);
    let minute = Duration::from_mins(1);
    assert_eq!(crew.epoch, 1);
    let error = store.claim_run(run, "other", minute, Claim::IfFree).await.unwrap_err();
    let Error::Held { run: held, owner, until } = &error else { panic!("{error:?}") };
    assert_eq!((held, owner.as_str(), error.kind()), (&run, "test", ErrorKind::Conflict));
    assert_eq!(store.run(run).await.unwrap().unwrap().lease_until, Some(*until));
    // The owner itself may claim again; a lease of no length has ended at once.
    assert_eq!(store.claim_run(run, "test", Duration::ZERO, Claim::IfFree).await.unwrap(), 2);
    assert_eq!(store.claim_run(run, "other", minute, Claim::IfFree).await.unwrap(), 3);
    assert_eq!(store.claim_run(run, "third", minute, Claim::Force).await.unwrap(), 4);
    // Only the newest epoch renews.
    let error = store.renew_run(run, 3, minute).await.unwrap_err();
    assert!(matches!(error, Error::Stale { epoch: 3, .. }), "{error:?}");
    store.renew_run(run, 4, Duration::ZERO).await.unwrap();
    assert_eq!(store.claim_run(run, "test", minute, Claim::IfFree).await.unwrap(), 5);
    let before = store.run(run).await.unwrap().unwrap().lease_until.unwrap();
    store.renew_run(run, 5, Duration::MAX).await.unwrap();
    assert!(store.run(run).await.unwrap().unwrap().lease_until.unwrap() > before);
    // Of many at once, one gets it.
    store.renew_run(run, 5, Duration::ZERO).await.unwrap();
    let second = place.open().await;
    let names: Vec<String> = (0..8).map(|n| format!("n{n}")).collect();
    let claims = names.iter().enumerate().map(|(n, name)| {
        let store = if n % 2 == 0 { store } else { &second };
        store.claim_run(run, name, minute, Claim::IfFree)
    });
    let won = futures::future::join_all(claims).await;
    assert_eq!(won.iter().filter(|it| it.is_ok()).count(), 1, "{won:?}");
    let missing = "zzzzzzzz".parse().unwrap();
    let error = store.claim_run(missing, "x", minute, Claim::Force).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::NotFound, "store.not_found"));
}

async fn a_finished_run_is_not_claimed(place: &Place) {
    for (seed, status) in [
        (1, RunStatus::Interrupted),
        (2, RunStatus::LimitReached),
        (3, RunStatus::Completed),
        (4, RunStatus::Failed),
        (5, RunStatus::Cancelled),
    ] {
        let crew = Crew::new(place, "p", seed).await;
        let mut end = crew.change();
        end.run_status = Some(RunEnd { status, finished_at: at(9), error: Some("{}".into()) });
        crew.done(end).await;
        let error = crew.store.renew_run(crew.run, crew.epoch, Duration::ZERO).await.unwrap_err();
        assert!(matches!(error, Error::Stale { .. }));
        let claimed = crew.store.claim_run(crew.run, "other", Duration::from_mins(1), Claim::IfFree).await;
        let row = crew.store.run(crew.run).await.unwrap().unwrap();
        if matches!(status, RunStatus::Interrupted | RunStatus::LimitReached) {
            assert_eq!(claimed.unwrap(), 2);
            assert_eq!((row.status, row.finished_at, row.error), (RunStatus::Running, None, None));
        } else {
            assert!(matches!(claimed, Err(Error::Finished { status: found, .. }) if found == status));
            assert_eq!((row.status, row.epoch), (status, 1));
        }
    }
}

async fn settings_are_replaced(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    crew.store.configure_run(crew.run, crew.epoch, r#"{"x":1}"#, Wished::Kept).await.unwrap();
    let error = crew.store.configure_run(crew.run, crew.epoch + 1, "{}", Wished::Kept).await.unwrap_err();
    assert!(matches!(error, Error::Stale { .. }));
    assert_eq!(crew.store.run(crew.run).await.unwrap().unwrap().settings, r#"{"x":1}"#);
}
