//! Launches with a key: of those with the same one, a single one makes a run.

use crewline_store::{Change, Error, LaunchKey, NewRun, Store};
use crewline_types::{IdSource, RunId, TaskId, TextHash};

use crate::common::{Place, at, root_of, run_of};

on_both! {
    a_key_has_one_run
    of_launches_at_once_one_makes_a_run
}

fn key(name: &str) -> LaunchKey {
    LaunchKey { name: name.into(), request: TextHash::of("what is asked for") }
}

async fn launch(store: &Store, ids: &mut IdSource, name: &str) -> Result<RunId, Error> {
    let (run, root) = (RunId::new(ids), TaskId::new(ids));
    let new = NewRun { key: Some(key(name)), ..run_of(run, "p") };
    store.create_run_with(&new, &root_of(run, root), None, None, &Change::new(run, 0, at(5))).await.map(|_| run)
}

async fn a_key_has_one_run(place: &Place) {
    let store = place.open().await;
    let mut ids = IdSource::seeded(90);
    assert_eq!(store.launched("a/1").await.unwrap(), None);
    let run = launch(&store, &mut ids, "a/1").await.unwrap();
    let before = place.counts().await;
    let error = launch(&store, &mut ids, "a/1").await.unwrap_err();
    assert!(matches!(error, Error::LaunchKeyTaken), "{error}");
    assert_eq!(place.counts().await, before, "the second one leaves nothing");
    assert_eq!(store.launched("a/1").await.unwrap(), Some((run, key("").request)));
    let other = launch(&store, &mut ids, "b/1").await.unwrap();
    assert_eq!(store.launched("b/1").await.unwrap().unwrap().0, other);
    // Its key goes with a run, and is free again.
    place.execute("UPDATE runs SET status = 'completed', finished_at = 1").await;
    assert_eq!(store.delete_runs(&[run]).await.unwrap().runs, 1);
    assert_eq!(store.launched("a/1").await.unwrap(), None);
    assert_eq!(store.launched("b/1").await.unwrap().unwrap().0, other);
    launch(&store, &mut ids, "a/1").await.unwrap();
}

async fn of_launches_at_once_one_makes_a_run(place: &Place) {
    let stores = [place.open().await, place.open().await, place.open().await];
    for round in 0..20_u64 {
        let name = format!("a/{round}");
        let launches = (0..).zip(&stores).map(|(number, store)| {
            let (name, mut ids) = (name.clone(), IdSource::seeded(round * 10 + number));
            async move { launch(store, &mut ids, &name).await }
        });
        let ended = futures::future::join_all(launches).await;
        let (made, refused): (Vec<_>, Vec<_>) = ended.into_iter().partition(Result::is_ok);
        assert!(refused.iter().all(|it| matches!(it, Err(Error::LaunchKeyTaken))), "{refused:?}");
        let [Ok(run)] = made[..] else { panic!("{made:?}") };
        assert_eq!(stores[0].launched(&name).await.unwrap().unwrap().0, run);
    }
}
