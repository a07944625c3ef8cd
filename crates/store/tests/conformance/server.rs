//! What a PostgreSQL server does to a store: it goes away and comes back, loses answers, ends deadlocks.

use std::{
    cell::Cell,
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use crewline_store::{Change, Error, NewOffer, OfferState, Store, Wished, Withdraw};
use crewline_types::{AttemptId, IdSource, Role, RunId, TaskId};
use futures::FutureExt as _;
use sea_orm::{ConnectionTrait as _, Database};

use crate::{
    common::{Crew, Place, at, first, is_done, on_postgres, on_postgres_alone},
    proxy::{Cut, Proxy},
};

const MINUTE: Duration = Duration::from_mins(1);
/// Longer than a single statement is tried again; a commit is tried for half a minute.
const LONGER: Duration = Duration::from_millis(2_500);

#[tokio::test]
async fn a_lost_answer_to_commit_is_asked_for() {
    on_postgres(|place| lost_answers(place).boxed_local()).await;
}

async fn lost_answers(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(30).await;
    crew.offer(&tasks, &["coder"]).await;
    let proxy = Proxy::to(&place.url).await;
    let far = Store::open(&proxy.url).await.unwrap();
    let mut events = 0;
    for (n, (task, cut)) in tasks.iter().zip([Cut::Before, Cut::During, Cut::After].iter().cycle()).enumerate() {
        let attempt = far.claim_offers("w", None, 1, MINUTE).await.unwrap()[0].id;
        assert_eq!(attempt, first(*task));
        // A worker's intent, its report, or a manager's change.
        let changes: Vec<Change> = match n % 5 {
            0 | 1 => vec![crew.intent("w", attempt)],
            2 => vec![crew.intent("w", attempt), crew.report("w", attempt, "{}")],
            _ => vec![crew.start(*task, 1), crew.finish(*task, 1)],
        };
        proxy.cut(*cut);
        let answer = far.commit(&changes).await.unwrap();
        assert!(answer.iter().all(is_done), "{cut:?}: {answer:?}");
        events += changes.iter().map(|change| change.events.len()).sum::<usize>();
        assert_eq!(proxy.cuts(), n + 1);
    }
    let found = crew.store.events(crew.run, 0, 1_000).await.unwrap();
    assert_eq!(found.iter().map(|it| it.seq).collect::<Vec<_>>(), (1..=events as u64).collect::<Vec<_>>());
    // These tasks have no results, and nothing else is missing.
    assert!(crew.store.integrity().await.unwrap().iter().all(|it| it.rule == "task.result"));
    // What is refused is refused once more, whatever is lost.
    proxy.cut(Cut::After);
    let answer = far.commit(&[crew.intent("w", first(tasks[0])), crew.change()]).await.unwrap();
    assert_eq!(answer.iter().map(is_done).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test]
async fn a_withdrawal_whose_answer_is_lost_is_known() {
    on_postgres(|place| lost_withdrawals(place).boxed_local()).await;
}

async fn lost_withdrawals(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let proxy = Proxy::to(&place.url).await;
    let far = Store::open(&proxy.url).await.unwrap();
    for cut in [Cut::Before, Cut::During, Cut::After] {
        let tasks = crew.tasks(2).await;
        crew.offer(&tasks, &["coder"]).await;
        proxy.cut(cut);
        let mut withdrawn = far.withdraw_offers(crew.run, crew.epoch, Withdraw::Free).await.unwrap();
        withdrawn.sort_unstable();
        let mut expected = tasks.iter().map(|task| first(*task)).collect::<Vec<_>>();
        expected.sort_unstable();
        assert_eq!(withdrawn, expected, "{cut:?}");
    }
    assert_eq!(proxy.cuts(), 3);
}

#[tokio::test]
async fn a_server_that_comes_back_is_waited_for() {
    on_postgres(|place| coming_back(place).boxed_local()).await;
}

async fn coming_back(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(2).await;
    let proxy = Proxy::to(&place.url).await;
    let far = Store::open(&proxy.url).await.unwrap();
    assert!(is_done(&far.commit(&[crew.start(tasks[0], 1)]).await.unwrap()[0]));
    proxy.close(true);
    // Short questions are answered soon, also when the answer is that nobody is there.
    let error = far.renew_claims("w", MINUTE).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }) && error.is_retryable(), "{error:?}");
    let change = [crew.start(tasks[1], 1)];
    let mut commit = std::pin::pin!(far.commit(&change));
    let early = tokio::time::timeout(Duration::from_millis(300), commit.as_mut()).await;
    assert!(early.is_err(), "{early:?}");
    proxy.close(false);
    assert!(is_done(&commit.await.unwrap()[0]));
}

#[tokio::test]
async fn a_server_that_is_away_is_asked_less_and_less() {
    on_postgres(|place| less_and_less(place).boxed_local()).await;
}

async fn less_and_less(place: &Place) {
    // More than a single statement has time for.
    const TRIES: usize = 9;
    let mut crew = Crew::new(place, "p", 1).await;
    let task = crew.tasks(1).await[0];
    let proxy = Proxy::to(&place.url).await;
    let far = Store::open(&proxy.url).await.unwrap();
    assert!(is_done(&far.commit(&[crew.change()]).await.unwrap()[0]));
    proxy.close(true);
    let change = [crew.start(task, 1)];
    let back = async {
        while proxy.refused().len() < TRIES {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        proxy.close(false);
    };
    let both = async { tokio::join!(far.commit(&change), back) };
    let (answer, ()) = tokio::time::timeout(MINUTE, both).await.unwrap();
    assert!(is_done(&answer.unwrap()[0]));
    let refused = proxy.refused();
    // A pause begins after the try before it was refused, so each is at least as long as it is meant to be.
    let pauses: Vec<Duration> = refused.windows(2).map(|it| it[1] - it[0]).collect();
    let least = (0..).map(|it| Duration::from_millis((20 << it).min(1_000)));
    assert!(pauses.iter().zip(least).all(|(pause, least)| *pause >= least), "{pauses:?}");
}

#[tokio::test]
async fn what_comes_up_while_others_write_is_written_in_the_same_turn() {
    on_postgres(|place| turns(place).boxed_local()).await;
}

async fn turns(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(4).await;
    crew.offer(&tasks, &["coder"]).await;
    let runs = BTreeSet::from([crew.run]);
    let far = place.open().await;
    let ours = crew.store.turn(runs.clone()).await.unwrap();
    let mut theirs = std::pin::pin!(far.turn(runs.clone()));
    let early = tokio::time::timeout(Duration::from_millis(300), theirs.as_mut()).await;
    assert!(early.is_err(), "{early:?}");
    // A process that waits for its turn claims and renews meanwhile.
    let claimed = far.claim_offers("w", None, 2, MINUTE).await.unwrap();
    assert_eq!(far.renew_claims("w", MINUTE).await.unwrap().len(), 2);
    let answer = crew.store.commit_in(ours, &[crew.start(tasks[2], 1), crew.start(tasks[3], 1)]).await.unwrap();
    assert!(answer.iter().all(is_done), "{answer:?}");
    let theirs = theirs.await.unwrap();
    let stranger = RunId::new(&mut IdSource::seeded(2));
    assert!(theirs.covers(crew.run) && !theirs.covers(stranger), "{theirs:?}");
    let intents: Vec<Change> = claimed.iter().map(|offer| crew.intent("w", offer.id)).collect();
    let answer = far.commit_in(theirs, &intents).await.unwrap();
    assert!(answer.iter().all(is_done), "{answer:?}");
    // One that is not needed is given back at once.
    let unused = far.turn(runs.clone()).await.unwrap();
    assert!(far.commit_in(unused, &[]).await.unwrap().is_empty());
    let next = tokio::time::timeout(Duration::from_secs(15), crew.store.turn(runs)).await;
    assert!(is_done(&crew.store.commit_in(next.unwrap().unwrap(), &[crew.change()]).await.unwrap()[0]));
}

#[tokio::test]
async fn connections_that_are_ended_lose_nothing() {
    on_postgres_alone(|place| ended_connections(place).boxed_local()).await;
}

async fn ended_connections(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(200).await;
    crew.offer(&tasks, &["coder"]).await;
    let stores = futures::future::join_all((0..3).map(|_| place.open())).await;
    let done = Cell::new(0_u32);
    let worker = async |n: usize, store: &Store| {
        let name = format!("w{n}");
        loop {
            let claimed = retried(async || store.claim_offers(&name, None, 3, MINUTE).await).await;
            if claimed.is_empty() {
                // A claim whose answer was lost is held without being known.
                let held = retried(async || store.renew_claims(&name, MINUTE).await).await;
                if held.is_empty() {
                    return;
                }
                retried(async || store.release_claims(&name, &held).await).await;
            }
            for offer in claimed {
                let changes = [crew.intent(&name, offer.id), crew.report(&name, offer.id, &name)];
                assert!(store.commit(&changes).await.unwrap().iter().all(is_done));
                done.update(|it| it + 1);
            }
        }
    };
    let admin = Database::connect(&place.url).await.unwrap();
    let killer = async {
        loop {
            // In the middle of something: after some more attempts are done, and a while that differs.
            let (seen, pause) = (done.get(), u64::from(done.get() % 7));
            while done.get() < seen + 8 {
                tokio::time::sleep(Duration::from_millis(1 + pause)).await;
            }
            admin
                .execute_unprepared(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE application_name = 'crewline' AND datname = current_database() AND pid <> pg_backend_pid()",
                )
                .await
                .unwrap();
        }
    };
    let workers = futures::future::join_all(stores.iter().enumerate().map(|(n, store)| worker(n, store)));
    tokio::select! {
        _ = workers => {}
        () = killer => {}
    }
    assert_eq!(done.get(), 200);
    let again = place.open().await;
    assert_eq!(again.events(crew.run, 0, 1_000).await.unwrap().len(), 200);
    let offers = again.open_offers(crew.run).await.unwrap();
    assert_eq!(offers.iter().filter(|it| matches!(it.state, OfferState::Reported(_))).count(), 200);
}

/// Does what its caller would do after an error that may pass.
async fn retried<T>(ask: impl AsyncFn() -> Result<T, Error>) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
    }
}

#[tokio::test]
async fn a_deadlock_is_answered_by_doing_it_again() {
    on_postgres_alone(|place| deadlock(place).boxed_local()).await;
}

async fn deadlock(place: &Place) {
    let (mut one, mut two) = (Crew::new(place, "p", 1).await, Crew::new(place, "p", 2).await);
    if one.run > two.run {
        std::mem::swap(&mut one, &mut two);
    }
    // A stranger locks the runs the other way round, and never looks for deadlocks itself.
    let stranger = Database::connect(&place.url).await.unwrap();
    let lock = |run| format!("SELECT 1 FROM runs WHERE id = '{run}' FOR UPDATE");
    let tx = sea_orm::TransactionTrait::begin(&stranger).await.unwrap();
    tx.execute_unprepared("SET LOCAL deadlock_timeout = '10min'").await.unwrap();
    tx.execute_unprepared(&lock(two.run)).await.unwrap();
    let stranger = async {
        // Once the commit has the first run and waits for the second.
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        while place.number(waits).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tx.execute_unprepared(&lock(one.run)).await.unwrap();
        tx.commit().await.unwrap();
    };
    let changes = [one.change(), two.change()];
    let (answer, ()) = tokio::join!(one.store.commit(&changes), stranger);
    assert!(answer.unwrap().iter().all(is_done));
    assert_eq!(deadlocks(place).await, 1);
}

#[tokio::test]
async fn who_is_slow_is_waited_for_longer_than_one_lock_may_take() {
    on_postgres(|place| slow_locks(place).boxed_local()).await;
}

async fn slow_locks(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let mark = if place.url.contains('?') { '&' } else { '?' };
    let hasty = Store::open(&format!("{}{mark}options[lock_timeout]=100ms", place.url)).await.unwrap();
    let stranger = Database::connect(&place.url).await.unwrap();
    let tx = sea_orm::TransactionTrait::begin(&stranger).await.unwrap();
    tx.execute_unprepared(&format!("SELECT 1 FROM runs WHERE id = '{}' FOR UPDATE", crew.run)).await.unwrap();
    // Who has little time is told.
    let error = hasty.configure_run(crew.run, crew.epoch, "{}", Wished::Kept).await;
    assert!(error.is_err(), "{error:?}");
    // A turn, and a commit without one.
    let change = [crew.change()];
    let mut turn = std::pin::pin!(hasty.turn(BTreeSet::from([crew.run])));
    assert!(tokio::time::timeout(LONGER, turn.as_mut()).await.is_err());
    tx.commit().await.unwrap();
    let turn = turn.await.unwrap();
    assert!(is_done(&hasty.commit_in(turn, &change).await.unwrap()[0]));
    let tx = sea_orm::TransactionTrait::begin(&stranger).await.unwrap();
    tx.execute_unprepared(&format!("SELECT 1 FROM runs WHERE id = '{}' FOR UPDATE", crew.run)).await.unwrap();
    let mut commit = std::pin::pin!(hasty.commit(&change));
    assert!(tokio::time::timeout(LONGER, commit.as_mut()).await.is_err());
    tx.commit().await.unwrap();
    assert!(is_done(&commit.await.unwrap()[0]));
}

#[tokio::test]
async fn runs_are_locked_one_after_the_other_by_their_ids() {
    on_postgres(|place| one_after_the_other(place).boxed_local()).await;
}

async fn one_after_the_other(place: &Place) {
    let (store, mut crews) = (place.open().await, Vec::new());
    for seed in 1..=6 {
        crews.push(Crew::on(store.clone(), "p", seed).await);
    }
    // The batch names them in the opposite order.
    crews.sort_unstable_by_key(|crew| std::cmp::Reverse(crew.run));
    let changes: Vec<Change> = crews.iter().map(Crew::change).collect();
    let runs: BTreeSet<RunId> = crews.iter().map(|crew| crew.run).collect();
    let far = place.open().await;
    let stranger = Database::connect(&place.url).await.unwrap();
    for (n, held) in runs.iter().enumerate() {
        for is_turn in [false, true] {
            let tx = sea_orm::TransactionTrait::begin(&stranger).await.unwrap();
            tx.execute_unprepared(&format!("SELECT 1 FROM runs WHERE id = '{held}' FOR UPDATE")).await.unwrap();
            let writes = async {
                if is_turn {
                    let turn = far.turn(runs.clone()).await.unwrap();
                    return far.commit_in(turn, &changes).await.unwrap();
                }
                far.commit(&changes).await.unwrap()
            };
            let looks = async {
                // Who waits for this one has those before it, and none of those after it.
                let free = expect_waiting(place, "runs", "id").await;
                assert_eq!(free, runs.iter().skip(n + 1).map(ToString::to_string).collect::<Vec<_>>(), "{held}");
                tx.commit().await.unwrap();
            };
            let (answer, ()) = tokio::join!(writes, looks);
            assert!(answer.iter().all(is_done), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn runs_are_locked_before_offers_and_these_by_their_ids() {
    on_postgres(|place| runs_before_offers(place).boxed_local()).await;
}

async fn runs_before_offers(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(4).await;
    crew.offer(&tasks, &["coder"]).await;
    let far = place.open().await;
    let claimed = far.claim_offers("w", None, 9, MINUTE).await.unwrap();
    assert_eq!(claimed.len(), 4);
    let intents: Vec<Change> = claimed.iter().rev().map(|offer| crew.intent("w", offer.id)).collect();
    assert!(far.commit(&intents).await.unwrap().iter().all(is_done));
    let all = place.texts("SELECT task::TEXT FROM offers ORDER BY offers.task").await;
    let stranger = Database::connect(&place.url).await.unwrap();
    let tx = sea_orm::TransactionTrait::begin(&stranger).await.unwrap();
    tx.execute_unprepared("SELECT 1 FROM runs FOR UPDATE").await.unwrap();
    // A worker, and whoever takes back what workers have.
    let report = |attempt| {
        let mut change = crew.report("w", attempt, "{}");
        change.report = None;
        change
    };
    let late: Vec<Change> = claimed.iter().rev().map(|offer| report(offer.id)).collect();
    let looks = async {
        assert_eq!(expect_waiting(place, "offers", "task").await, all, "who waits for a run has no offer");
        tx.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(far.commit(&late), looks);
    assert!(answer.unwrap().iter().all(is_done));
    for (n, held) in all.iter().enumerate() {
        let tx = sea_orm::TransactionTrait::begin(&stranger).await.unwrap();
        tx.execute_unprepared(&format!("SELECT 1 FROM offers WHERE task = {held} FOR UPDATE")).await.unwrap();
        let looks = async {
            assert_eq!(expect_waiting(place, "offers", "task").await, all[n + 1..], "{held}");
            assert!(free(place, "runs", "id").await.is_empty(), "who waits for an offer has its run");
            tx.commit().await.unwrap();
        };
        let (answer, ()) = tokio::join!(far.commit(&late), looks);
        assert!(answer.unwrap().iter().all(is_done));
        // Who renews has no run at all.
        let tx = sea_orm::TransactionTrait::begin(&stranger).await.unwrap();
        tx.execute_unprepared(&format!("SELECT 1 FROM offers WHERE task = {held} FOR UPDATE")).await.unwrap();
        let looks = async {
            assert_eq!(expect_waiting(place, "offers", "task").await, all[n + 1..], "{held}");
            assert_eq!(free(place, "runs", "id").await.len(), 1);
            tx.commit().await.unwrap();
        };
        let (renewed, ()) = tokio::join!(far.renew_claims("w", MINUTE), looks);
        assert_eq!(renewed.unwrap().len(), 4);
    }
}

/// Waits until somebody waits for a row of this test's tables; answers which rows of one of them nobody has.
async fn expect_waiting(place: &Place, table: &str, key: &str) -> Vec<String> {
    // Who waits for a row waits for the end of the transaction that has it, which names no table: its own locks do.
    let waits = "SELECT count(*) FROM pg_locks AS w JOIN pg_locks AS t USING (pid) \
                 WHERE NOT w.granted AND t.locktype = 'relation' AND t.relation IN ('runs'::regclass, 'offers'::regclass)";
    let waiting = async {
        while place.number(waits).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(MINUTE, waiting).await.unwrap();
    free(place, table, key).await
}

/// The rows that nobody has locked.
async fn free(place: &Place, table: &str, key: &str) -> Vec<String> {
    place.texts(&format!("SELECT {key}::TEXT FROM {table} ORDER BY {table}.{key} FOR UPDATE SKIP LOCKED")).await
}

async fn deadlocks(place: &Place) -> i64 {
    // The counters reach the view a moment after the transaction.
    place.execute("SELECT pg_stat_clear_snapshot()").await;
    for _ in 0..1_000 {
        let count = place.number("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").await;
        if count > 0 {
            return count;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    0
}

#[tokio::test]
async fn heartbeats_and_completions_do_not_wait_in_a_circle() {
    on_postgres_alone(|place| circles(place).boxed_local()).await;
}

async fn circles(place: &Place) {
    const TASKS: u32 = 400;
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(TASKS).await;
    let mut shuffled = tasks.clone();
    shuffled.sort_unstable();
    crew.offer(&shuffled, &["a", "b"]).await;
    let stores = futures::future::join_all((0..6).map(|_| place.open())).await;
    let is_over = Cell::new(false);
    let worker = async |name: &str, store: &Store| {
        while !is_over.get() {
            let claimed = store.claim_offers(name, None, 20, MINUTE).await.unwrap();
            let mut changes: Vec<Change> = claimed.iter().rev().map(|offer| crew.intent(name, offer.id)).collect();
            changes.extend(claimed.iter().map(|offer| crew.report(name, offer.id, "{}")));
            assert!(store.commit(&changes).await.unwrap().iter().all(is_done));
            if claimed.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    let beat = async |store: &Store| {
        while !is_over.get() {
            for name in ["w0", "w1"] {
                store.renew_claims(name, MINUTE).await.unwrap();
            }
            store.reap_claims().await.unwrap();
        }
    };
    let manager = async |store: &Store| {
        let mut settled = HashSet::<TaskId>::new();
        while settled.len() < TASKS as usize {
            let reports = store.offer_reports(crew.run).await.unwrap();
            let mut changes = Vec::new();
            for offer in reports.into_iter().rev() {
                assert!(matches!(offer.state, OfferState::Reported(_)), "{offer:?}");
                assert!(settled.insert(offer.id.task), "a task is completed once");
                let mut change = crew.finish(offer.id.task, offer.id.number);
                change.offers_settled.push(offer.id);
                changes.push(change);
            }
            assert!(store.commit(&changes).await.unwrap().iter().all(is_done));
        }
        is_over.set(true);
    };
    tokio::join!(
        worker("w0", &stores[0]),
        worker("w1", &stores[1]),
        beat(&stores[2]),
        beat(&stores[3]),
        beat(&stores[4]),
        manager(&stores[5]),
    );
    assert_eq!(place.number("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").await, 0);
    assert_eq!(crew.store.open_offers(crew.run).await.unwrap(), []);
    assert_eq!(crew.store.run(crew.run).await.unwrap().unwrap().last_seq, u64::from(2 * TASKS));
}

#[tokio::test]
async fn a_claim_reads_the_offers_it_claims() {
    on_postgres_alone(|place| claim_costs(place).boxed_local()).await;
}

/// A claim must not read the queue: with twenty thousand offers, it reads about as many rows as it claims.
async fn claim_costs(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(500).await;
    for number in 1..=40 {
        let mut change = crew.change();
        change.at = at(number.into());
        change.offers = tasks
            .iter()
            .map(|task| NewOffer {
                id: AttemptId { task: *task, number },
                role: Role::from("coder"),
                rank: 0,
                told: String::new(),
            })
            .collect();
        crew.done(change).await;
    }
    // The statistics reach the view when the session ends.
    let reads = "SELECT COALESCE(SUM(seq_tup_read + idx_tup_fetch), 0)::BIGINT FROM pg_stat_user_tables \
                 WHERE relname = 'offers'";
    let before = place.number(reads).await;
    for roles in [None, Some([Role::from("tester"), Role::from("coder")])] {
        let store = place.open().await;
        let claimed = store.claim_offers("w", roles.as_ref().map(<[Role; 2]>::as_slice), 4, MINUTE).await.unwrap();
        assert_eq!(claimed.len(), 4);
        drop(store);
    }
    tokio::time::timeout(Duration::from_secs(20), async {
        while place.number(reads).await == before {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
    let read = place.number(reads).await - before;
    assert!(read < 100, "{read} rows were read for 8 claims");
}
