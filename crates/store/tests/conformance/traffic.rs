//! What runs sent to hosts: added up by run and host, with the change that says it or not at all.

use crewline_store::{Change, Committed, RunEnd};
use crewline_types::{HostBytes, RunStatus, Traffic};

use crate::common::{Crew, Place, at};

on_both! {
    bytes_are_added_up_by_run_and_host
    what_is_stale_adds_nothing
    a_sum_stays_a_number
}

fn passed(hosts: &[(&str, u64, u64)]) -> Traffic {
    hosts
        .iter()
        .map(|(host, sent, received)| ((*host).into(), HostBytes { sent: *sent, received: *received }))
        .collect()
}

fn change(crew: &Crew, hosts: &[(&str, u64, u64)]) -> Change {
    Change { traffic: passed(hosts), ..crew.change() }
}

async fn bytes_are_added_up_by_run_and_host(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let other = Crew::on(crew.store.clone(), "p", 2).await;
    assert!(crew.store.traffic(crew.run).await.unwrap().is_empty());
    let batch = [
        change(&crew, &[("b.example", 1, 2), ("127.0.0.1", 10, 20)]),
        change(&crew, &[("b.example", 3, 4)]),
        change(&crew, &[]),
        change(&other, &[("b.example", 100, 0)]),
    ];
    for _ in 0..2 {
        let done = crew.store.commit(&batch).await.unwrap();
        assert!(done.iter().all(|it| matches!(it, Committed::Done { .. })), "{done:?}");
    }
    let store = place.open().await;
    assert_eq!(store.traffic(crew.run).await.unwrap(), passed(&[("127.0.0.1", 20, 40), ("b.example", 8, 12)]));
    assert_eq!(store.traffic(other.run).await.unwrap(), passed(&[("b.example", 200, 0)]));

    let end = RunEnd { status: RunStatus::Completed, finished_at: at(10), error: None };
    crew.done(Change { run_status: Some(end), ..crew.change() }).await;
    assert_eq!(crew.store.delete_runs(&[crew.run]).await.unwrap().runs, 1);
    assert_eq!(place.count("traffic").await, 1, "what is left is the other run's");
}

async fn what_is_stale_adds_nothing(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let late = Change::new(crew.run, crew.epoch - 1, at(5));
    let late = Change { traffic: passed(&[("h", 5, 5)]), ..late };
    let done = crew.store.commit(&[late, change(&crew, &[("h", 1, 1)])]).await.unwrap();
    assert!(matches!(done[..], [Committed::Stale, Committed::Done { .. }]), "{done:?}");
    assert_eq!(crew.store.traffic(crew.run).await.unwrap(), passed(&[("h", 1, 1)]));
}

async fn a_sum_stays_a_number(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    for _ in 0..20 {
        crew.done(change(&crew, &[("h", u64::MAX, 1)])).await;
    }
    assert_eq!(crew.store.traffic(crew.run).await.unwrap(), passed(&[("h", 1_000_000_000_000_000_000, 20)]));
}
