//! Offers, claims, reports; nodes and wishes.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crewline_store::{
    AttemptEnd, CallAnswer, CallEnd, Change, Claim, Committed, Error, Hint, NewOffer, NodeKind, NodeRow, Offer,
    OfferState, OpenOffer, RunEnd, Store, Wish, Wished, Withdraw,
};
use crewline_types::{
    AttemptId, CallId, ErrorKind, IdSource, MicroUsd, Role, RunId, RunStatus, TaskId, TaskStatus, Text, TextHash,
    Usage,
    event::{CallOutcome, ErrorNote},
};

use crate::common::{Crew, Place, at, call, first, is_done, root_of, run_of};

on_both! {
    an_offer_from_first_to_last
    claims_go_by_rank_and_role
    a_claim_has_one_owner
    a_claim_of_any_role_finds_every_role
    a_lost_claim_writes_nothing
    a_withdrawn_claim_writes_nothing
    a_claim_outlives_its_manager
    a_report_is_the_last_word
    a_claim_writes_its_own_attempt_only
    claims_can_be_given_back
    the_end_of_a_run_removes_its_offers
    recovery_reads_what_is_recorded
    orphans_are_found
    nodes_come_and_go
    silent_nodes_are_forgotten
    wishes_grow
}

const MINUTE: Duration = Duration::from_mins(1);

fn ids(offers: &[Offer]) -> Vec<AttemptId> {
    offers.iter().map(|offer| offer.id).collect()
}

async fn states(crew: &Crew) -> Vec<OfferState> {
    crew.store.open_offers(crew.run).await.unwrap().into_iter().map(|offer| offer.state).collect()
}

async fn an_offer_from_first_to_last(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let task = crew.tasks(1).await[0];
    crew.offer(&[task], &["coder"]).await;
    assert_eq!(states(&crew).await, [OfferState::Free]);

    let worker = place.open().await;
    let claimed = worker.claim_offers("w1", Some(&[Role::from("coder")]), 8, MINUTE).await.unwrap();
    assert_eq!(
        claimed,
        [Offer { run: crew.run, id: first(task), role: Role::from("coder"), offered_at: at(5), told: String::new() }]
    );
    assert_eq!(states(&crew).await, [OfferState::Claimed { node: "w1".into() }]);
    assert_eq!(worker.renew_claims("w1", MINUTE).await.unwrap(), [first(task)]);
    assert_eq!(worker.renew_claims("w2", MINUTE).await.unwrap(), []);

    // A second store, which has not met the task otherwise.
    let answer = worker.commit(&[crew.intent("w1", first(task))]).await.unwrap();
    assert!(is_done(&answer[0]));
    assert_eq!(crew.status(task).await, (TaskStatus::InProgress, 1));
    assert_eq!(crew.store.offer_reports(crew.run).await.unwrap(), []);
    let mut report = crew.report("w1", first(task), r#"{"ok":"ü\u0000"}"#);
    report.texts.push(Text::from("the result"));
    assert!(is_done(&worker.commit(&[report]).await.unwrap()[0]));
    assert_eq!(worker.renew_claims("w1", MINUTE).await.unwrap(), []);
    let reports = crew.store.offer_reports(crew.run).await.unwrap();
    let told = OfferState::Reported(r#"{"ok":"ü\u0000"}"#.into());
    assert_eq!(reports, [OpenOffer { id: first(task), state: told }]);

    let mut settle = crew.finish(task, 1);
    settle.offers_settled.push(first(task));
    assert_eq!(crew.done(settle).await, [2]);
    assert_eq!(states(&crew).await, []);
    assert_eq!(crew.status(task).await, (TaskStatus::Completed, 1));
}

async fn claims_go_by_rank_and_role(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(6).await;
    let mut change = crew.change();
    for (task, role, rank) in
        [(5, "coder", 1), (4, "tester", -3), (3, "coder", 1), (2, "writer", -9), (1, "coder", 7), (0, "tester", 1)]
    {
        change.offers.push(NewOffer {
            id: first(tasks[task]),
            role: Role::from(role),
            rank,
            told: format!("told of {role}"),
        });
    }
    crew.done(change).await;
    let of = |places: &[usize]| places.iter().map(|it| first(tasks[*it])).collect::<Vec<_>>();
    let roles = ["tester", "coder", "nobody", "coder"].map(Role::from);
    let claimed = crew.store.claim_offers("w", Some(&roles), 3, MINUTE).await.unwrap();
    assert_eq!(ids(&claimed), of(&[4, 0, 3]));
    assert_eq!(crew.store.claim_offers("w", Some(&[]), 3, MINUTE).await.unwrap(), []);
    assert_eq!(crew.store.claim_offers("w", Some(&roles), 0, MINUTE).await.unwrap(), []);
    assert_eq!(ids(&crew.store.claim_offers("v", Some(&roles), 9, MINUTE).await.unwrap()), of(&[5, 1]));
    assert_eq!(ids(&crew.store.claim_offers("v", None, 9, MINUTE).await.unwrap()), of(&[2]));
}

async fn a_claim_of_any_role_finds_every_role(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    assert_eq!(crew.store.claim_offers("w", None, 9, MINUTE).await.unwrap(), []);
    let tasks = crew.tasks(300).await;
    let roles: Vec<String> = (0..30).map(|n| format!("role {n}")).collect();
    crew.offer(&tasks, &roles.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut claimed = Vec::new();
    loop {
        let some = crew.store.claim_offers("w", None, 70, MINUTE).await.unwrap();
        if some.is_empty() {
            break;
        }
        claimed.extend(ids(&some));
    }
    assert_eq!(claimed, tasks.iter().map(|task| first(*task)).collect::<Vec<_>>());
}

async fn a_claim_has_one_owner(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(500).await;
    crew.offer(&tasks, &["a", "b", "c"]).await;
    let stores: Vec<Store> = futures::future::join_all((0..8).map(|_| place.open())).await;
    let roles =
        [vec!["a", "b"], vec!["b", "c"], vec!["c", "a"], vec![]].map(|it| it.into_iter().map(Role::from).collect());
    let left = AtomicUsize::new(500);
    let claimers = (0_usize..).zip(&stores).map(|(n, store)| {
        let (roles, left): (&Vec<Role>, _) = (&roles[n % 4], &left);
        async move {
            let roles = (!roles.is_empty()).then_some(roles.as_slice());
            let mut mine = Vec::new();
            // What somebody else is claiming is passed over, so an empty answer is no proof that nothing is left.
            while left.load(Ordering::Relaxed) > 0 {
                let some = store.claim_offers(&format!("w{n}"), roles, 7, MINUTE).await.unwrap();
                left.fetch_sub(some.len(), Ordering::Relaxed);
                mine.extend(ids(&some));
            }
            mine
        }
    });
    let claimed: Vec<AttemptId> = futures::future::join_all(claimers).await.into_iter().flatten().collect();
    let distinct: HashSet<AttemptId> = claimed.iter().copied().collect();
    assert_eq!((claimed.len(), distinct.len()), (500, 500));
}

async fn a_lost_claim_writes_nothing(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(3).await;
    crew.offer(&tasks, &["coder"]).await;
    crew.store.claim_offers("w", None, 2, Duration::ZERO).await.unwrap();
    // Until somebody says it is lost, a late claim holds.
    assert!(is_done(&crew.commit(crew.intent("w", first(tasks[0]))).await));
    assert_eq!(crew.store.reap_claims().await.unwrap(), 2);
    assert_eq!(crew.store.reap_claims().await.unwrap(), 0);
    assert_eq!(states(&crew).await, [OfferState::Lost, OfferState::Lost, OfferState::Free]);
    let before = place.counts().await;
    let mut late = crew.report("w", first(tasks[0]), "{}");
    late.texts.push(Text::from("late"));
    late.memories.clear();
    let answer = crew.store.commit(&[crew.intent("w", first(tasks[1])), late.clone()]).await.unwrap();
    assert_eq!(answer, [Committed::Stale, Committed::Stale]);
    assert_eq!(place.counts().await, before);
    assert_eq!(crew.store.renew_claims("w", MINUTE).await.unwrap(), []);
    assert_eq!(crew.store.release_claims("w", &[first(tasks[1])]).await.unwrap(), 0);
    // A lost one is not claimed again, the next attempt is.
    assert_eq!(ids(&crew.store.claim_offers("v", None, 9, MINUTE).await.unwrap()), [first(tasks[2])]);
    let second = AttemptId { task: tasks[1], number: 2 };
    let mut again = crew.change();
    again.offers_settled = vec![first(tasks[0]), first(tasks[1])];
    again.offers.push(NewOffer { id: second, role: Role::from("coder"), rank: 0, told: String::new() });
    crew.done(again).await;
    assert_eq!(ids(&crew.store.claim_offers("w", None, 9, MINUTE).await.unwrap()), [second]);
    // The old claim of the same node is another attempt.
    assert_eq!(crew.commit(late).await, Committed::Stale);
    assert_eq!(crew.commit(crew.intent("w", first(tasks[1]))).await, Committed::Stale);
}

async fn a_withdrawn_claim_writes_nothing(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let other = {
        let mut other = Crew::on(crew.store.clone(), "p", 2).await;
        let task = other.tasks(1).await[0];
        other.offer(&[task], &["x"]).await;
        other
    };
    let tasks = crew.tasks(2).await;
    crew.offer(&tasks, &["coder"]).await;
    crew.store.claim_offers("w", Some(&[Role::from("coder")]), 1, MINUTE).await.unwrap();
    assert!(is_done(&crew.commit(crew.intent("w", first(tasks[0]))).await));
    let error = crew.store.withdraw_offers(crew.run, crew.epoch + 1, Withdraw::Unreported).await.unwrap_err();
    assert!(matches!(error, Error::Stale { .. }), "{error:?}");
    let withdraw = async |which| crew.store.withdraw_offers(crew.run, crew.epoch, which).await.unwrap();
    assert_eq!(withdraw(Withdraw::Free).await, [first(tasks[1])]);
    assert_eq!(withdraw(Withdraw::Unreported).await, [first(tasks[0])]);
    assert_eq!(withdraw(Withdraw::Unreported).await, []);
    assert_eq!(crew.commit(crew.report("w", first(tasks[0]), "{}")).await, Committed::Stale);
    assert_eq!(states(&crew).await, []);
    assert_eq!(states(&other).await, [OfferState::Free]);
}

async fn a_claim_outlives_its_manager(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(2).await;
    crew.offer(&tasks, &["coder"]).await;
    crew.store.claim_offers("w", None, 2, MINUTE).await.unwrap();
    let mut old = crew.change();
    old.offers_settled.push(first(tasks[1]));
    crew.epoch = crew.store.claim_run(crew.run, "other", MINUTE, Claim::Force).await.unwrap();
    let mut new = crew.change();
    new.events = crew.start(tasks[1], 1).events;
    // Both managers and a worker in one batch: the old one alone is stale, and no event number is lost.
    let answer = crew.store.commit(&[old, crew.intent("w", first(tasks[0])), new.clone()]).await.unwrap();
    assert_eq!(answer.iter().map(is_done).collect::<Vec<_>>(), [false, true, true]);
    let mut future = new.clone();
    future.fence = (crew.epoch + 1).into();
    let answer = crew.store.commit(&[future.clone(), crew.intent("w", first(tasks[1])), new]).await.unwrap();
    assert_eq!(answer.iter().map(is_done).collect::<Vec<_>>(), [false, true, true]);
    let answer = crew.store.commit(&[future, crew.report("w", first(tasks[0]), "{}")]).await.unwrap();
    assert_eq!(answer.iter().map(is_done).collect::<Vec<_>>(), [false, true]);
    let events = crew.store.events(crew.run, 0, 99).await.unwrap();
    assert_eq!(events.iter().map(|it| it.seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(crew.store.run(crew.run).await.unwrap().unwrap().last_seq, 4);
}

async fn a_report_is_the_last_word(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(2).await;
    crew.offer(&tasks, &["coder"]).await;
    crew.store.claim_offers("w", None, 2, MINUTE).await.unwrap();
    let mut after = crew.report("w", first(tasks[0]), "again");
    after.texts.push(Text::from("after"));
    let mut tail = after.clone();
    tail.report = None;
    // In one batch, and later.
    let report = crew.report("w", first(tasks[0]), "once");
    let answer =
        crew.store.commit(&[crew.intent("w", first(tasks[0])), report, after.clone(), tail.clone()]).await.unwrap();
    assert_eq!(answer.iter().map(is_done).collect::<Vec<_>>(), [true, true, false, false]);
    assert_eq!(crew.store.commit(&[after, tail]).await.unwrap(), [Committed::Stale, Committed::Stale]);
    assert_eq!(states(&crew).await[0], OfferState::Reported("once".into()));
    assert_eq!(place.count("texts").await, 0);
    // A reported claim does not get lost.
    crew.store.renew_claims("w", Duration::ZERO).await.unwrap();
    assert_eq!(crew.store.reap_claims().await.unwrap(), 1);
    assert_eq!(states(&crew).await, [OfferState::Reported("once".into()), OfferState::Lost]);
}

async fn a_claim_writes_its_own_attempt_only(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let mut other = Crew::on(crew.store.clone(), "p", 2).await;
    let (tasks, foreign) = (crew.tasks(2).await, other.tasks(1).await[0]);
    crew.offer(&tasks, &["coder"]).await;
    crew.store.claim_offers("w", None, 2, MINUTE).await.unwrap();
    let fine = crew.intent("w", first(tasks[0]));
    let mut calls = fine.clone();
    calls.calls.push(call(first(tasks[1]), 1, None));
    let mut moves = fine.clone();
    moves.transitions[0].task = foreign;
    let mut ends = fine.clone();
    ends.run_status = Some(RunEnd { status: RunStatus::Failed, finished_at: at(9), error: None });
    let mut offers = fine.clone();
    offers.offers.push(NewOffer { id: first(foreign), role: Role::from("x"), rank: 0, told: String::new() });
    let mut manager = crew.change();
    manager.report = Some("{}".into());
    for bad in [calls, moves, ends, offers, manager] {
        let error = crew.store.commit(&[fine.clone(), bad]).await.unwrap_err();
        assert_eq!(error.code(), "store.invalid", "{error:?}");
    }
    // The run is not the offer's; the node is not the claim's; nobody has claimed it.
    let mut elsewhere = fine.clone();
    elsewhere.run = other.run;
    let stranger = crew.intent("v", first(tasks[0]));
    let nobody = crew.intent("w", AttemptId { task: tasks[0], number: 2 });
    let answer = crew.store.commit(&[elsewhere, stranger, nobody, fine]).await.unwrap();
    assert_eq!(answer.iter().map(is_done).collect::<Vec<_>>(), [false, false, false, true]);
}

async fn claims_can_be_given_back(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(3).await;
    crew.offer(&tasks, &["coder"]).await;
    let claims = ids(&crew.store.claim_offers("w", None, 3, MINUTE).await.unwrap());
    assert!(is_done(&crew.commit(crew.intent("w", claims[0])).await));
    assert_eq!(crew.store.release_claims("v", &claims).await.unwrap(), 0);
    assert_eq!(crew.store.release_claims("w", &claims[..2]).await.unwrap(), 2);
    // One that was begun is never handed on.
    let claimed = OfferState::Claimed { node: "w".into() };
    assert_eq!(states(&crew).await, [OfferState::Lost, OfferState::Free, claimed]);
    assert_eq!(crew.commit(crew.report("w", claims[0], "{}")).await, Committed::Stale);
    assert_eq!(crew.store.release_claims("w", &claims[..2]).await.unwrap(), 0);
    assert_eq!(crew.store.renew_claims("w", MINUTE).await.unwrap(), [claims[2]]);
    assert_eq!(ids(&crew.store.claim_offers("v", None, 3, MINUTE).await.unwrap()), [claims[1]]);
    assert_eq!(crew.commit(crew.intent("w", claims[1])).await, Committed::Stale);
    assert!(is_done(&crew.commit(crew.intent("v", claims[1])).await));
}

async fn the_end_of_a_run_removes_its_offers(place: &Place) {
    for (seed, status, left) in [
        (1, RunStatus::Completed, 0),
        (2, RunStatus::Failed, 0),
        (3, RunStatus::Cancelled, 0),
        (4, RunStatus::LimitReached, 0),
        (5, RunStatus::Interrupted, 1),
    ] {
        let mut crew = Crew::new(place, "p", seed).await;
        let tasks = crew.tasks(2).await;
        crew.offer(&tasks, &["coder"]).await;
        crew.store.claim_offers("w", None, 1, MINUTE).await.unwrap();
        let mut end = crew.change();
        end.run_status = Some(RunEnd { status, finished_at: at(9), error: None });
        crew.done(end).await;
        assert_eq!(states(&crew).await.len(), left, "{status:?}");
        // What is worked on while nobody manages the run is not in vain.
        let answer = crew.commit(crew.report("w", first(tasks[0]), "{}")).await;
        assert_eq!(is_done(&answer), left == 1, "{status:?}");
    }
}

async fn recovery_reads_what_is_recorded(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(3).await;
    crew.offer(&tasks, &["coder"]).await;
    crew.store.claim_offers("w", None, 3, MINUTE).await.unwrap();
    let attempt = first(tasks[1]);
    let mut intent = crew.intent("w", attempt);
    intent.calls[0].reserved = Some(MicroUsd(9));
    intent.calls.push(call(attempt, 2, None));
    intent.calls.push(call(attempt, 3, None));
    assert!(is_done(&crew.commit(intent).await));
    let mut next = crew.report("w", attempt, "{}");
    next.report = None;
    let reply = Text::from("the answer");
    for (number, outcome, reply) in [(1, CallOutcome::Invalid, Some(reply.hash)), (2, CallOutcome::Error, None)] {
        next.calls_ended.push(CallEnd {
            id: CallId { attempt, number },
            outcome,
            usage: Usage::default(),
            cost: Some(MicroUsd(3)),
            elapsed: Duration::from_millis(1),
            reply,
            error: None,
        });
    }
    next.texts.push(reply);
    assert!(is_done(&crew.commit(next).await));

    let unknown = AttemptId { task: crew.root, number: 3 };
    let asked = [first(tasks[2]), attempt, unknown];
    let found = crew.store.open_attempts(&asked).await.unwrap();
    assert_eq!(found.iter().map(|it| it.id).collect::<Vec<_>>(), asked);
    assert_eq!(found.iter().map(|it| it.is_started).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(found.iter().map(|it| it.calls.len()).collect::<Vec<_>>(), [0, 3, 0]);
    let open: Vec<u32> = found[1].calls.iter().filter(|it| it.outcome.is_none()).map(|it| it.id.number).collect();
    assert_eq!(open, [3]);
    let second = AttemptId { number: 2, ..attempt };
    assert_eq!(crew.store.answers_before(second, &["lost"]).await.unwrap().len(), 1, "its end is not recorded");
    let judged_still = Text::from("an answer that a judge looks at");
    let mut answer = crew.report("w", attempt, "{}");
    answer.report = None;
    answer.calls_answered.push(CallAnswer {
        id: CallId { attempt, number: 3 },
        usage: Usage { input_tokens: 5, ..Usage::default() },
        cost: Some(MicroUsd(2)),
        reply: judged_still.hash,
    });
    answer.texts.push(judged_still);
    assert!(is_done(&crew.commit(answer).await));
    let answered = &crew.store.open_attempts(&asked).await.unwrap()[1].calls[2];
    assert_eq!((answered.outcome, answered.cost, answered.usage.input_tokens), (None, Some(MicroUsd(2)), 5));
    let mut end = crew.change();
    end.attempts_ended.push(AttemptEnd {
        id: attempt,
        ok: false,
        model: "m".into(),
        usage: Usage::default(),
        cost: MicroUsd::ZERO,
        error: Some(ErrorNote { code: "lost".into(), kind: ErrorKind::Internal, message: "gone".into() }),
    });
    assert!(is_done(&crew.commit(end).await));
    assert_eq!(crew.store.answers_before(second, &["other"]).await.unwrap(), [], "it failed, and was not lost");
    let answers = crew.store.answers_before(second, &["lost"]).await.unwrap();
    assert_eq!(answers.len(), 2);
    assert_eq!((answers[1].call.number, answers[1].outcome), (3, CallOutcome::Ok));
    assert_eq!((answers[0].call.number, &*answers[0].reply, answers[0].model.as_str()), (1, "the answer", "m"));
    assert_eq!((answers[0].outcome, answers[0].input_hash), (CallOutcome::Invalid, TextHash::of("call")));
    assert_eq!(crew.store.answers_before(attempt, &["lost"]).await.unwrap(), []);
    assert_eq!(crew.store.answers_before(first("zzzzzzzz".parse().unwrap()), &["lost"]).await.unwrap(), []);
}

async fn orphans_are_found(place: &Place) {
    let crews = [Crew::new(place, "p", 1).await, Crew::new(place, "p", 2).await, Crew::new(place, "p", 3).await];
    let store = &crews[0].store;
    assert_eq!(store.orphaned_runs().await.unwrap(), []);
    store.renew_run(crews[1].run, crews[1].epoch, Duration::ZERO).await.unwrap();
    assert_eq!(store.orphaned_runs().await.unwrap(), [crews[1].run]);
    let mut end = crews[1].change();
    end.run_status = Some(RunEnd { status: RunStatus::Interrupted, finished_at: at(9), error: None });
    crews[1].done(end).await;
    assert_eq!(store.orphaned_runs().await.unwrap(), []);
    place.execute("UPDATE runs SET owner = NULL, lease_until = NULL WHERE status = 'running'").await;
    let mut both = [crews[0].run, crews[2].run];
    both.sort_unstable();
    assert_eq!(store.orphaned_runs().await.unwrap(), both);
}

async fn nodes_come_and_go(place: &Place) {
    let store = place.open().await;
    assert_eq!(store.nodes().await.unwrap().0, []);
    let mut worker = NodeRow {
        id: "host:7:1".into(),
        kind: NodeKind::Worker,
        version: "0.1.0".into(),
        roles: Some(vec![Role::from("coder"), Role::from("tester")]),
        slots: 4,
        busy: 0,
        registry: TextHash::of("registry"),
        is_draining: false,
        started_at: at(5),
        seen_at: at(0),
        lease: MINUTE,
    };
    let server = NodeRow { id: "a server".into(), kind: NodeKind::Server, roles: None, ..worker.clone() };
    store.beat_node(&worker).await.unwrap();
    store.beat_node(&server).await.unwrap();
    let first = store.nodes().await.unwrap().0;
    assert_eq!(first.iter().map(|it| it.id.as_str()).collect::<Vec<_>>(), ["a server", "host:7:1"]);
    assert_eq!(first[0], NodeRow { seen_at: first[0].seen_at, ..server });
    worker.busy = 3;
    worker.is_draining = true;
    store.beat_node(&worker).await.unwrap();
    let (second, now) = store.nodes().await.unwrap();
    assert_eq!(second[1], NodeRow { seen_at: second[1].seen_at, ..worker });
    assert!(second[1].seen_at >= first[1].seen_at && first[1].seen_at > at(0) && now >= second[1].seen_at);
    store.remove_node("a server").await.unwrap();
    store.remove_node("nobody").await.unwrap();
    assert_eq!(store.nodes().await.unwrap().0.len(), 1);
}

async fn silent_nodes_are_forgotten(place: &Place) {
    let store = place.open().await;
    let node = |id: &str, lease| NodeRow {
        id: id.into(),
        kind: NodeKind::Worker,
        version: "0.1.0".into(),
        roles: None,
        slots: 1,
        busy: 0,
        registry: TextHash::of("registry"),
        is_draining: false,
        started_at: at(5),
        seen_at: at(0),
        lease,
    };
    let microsecond = Duration::from_micros(1);
    store.beat_node(&node("brief", microsecond)).await.unwrap();
    store.beat_node(&node("patient", MINUTE)).await.unwrap();
    // Each by its own lease, on the database's clock.
    while store.forget_nodes(3).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    let left: Vec<String> = store.nodes().await.unwrap().0.into_iter().map(|it| it.id).collect();
    assert_eq!(left, ["patient"]);
    store.beat_node(&node("brief", MINUTE)).await.unwrap();
    assert_eq!(store.forget_nodes(3).await.unwrap(), 0, "whoever is heard of again is there again");
    assert_eq!(store.nodes().await.unwrap().0.len(), 2);
}

async fn wishes_grow(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let other = Crew::on(crew.store.clone(), "p", 2).await;
    let (store, runs) = (&crew.store, [crew.run, other.run]);
    assert_eq!(store.wishes(&runs).await.unwrap(), []);
    for (wish, now) in
        [(Wish::Pause, Wish::Pause), (Wish::Kill, Wish::Kill), (Wish::Cancel, Wish::Kill), (Wish::Kill, Wish::Kill)]
    {
        assert!(store.wish(crew.run, wish).await.unwrap());
        assert_eq!(store.wishes(&runs).await.unwrap(), [(crew.run, now)]);
    }
    assert!(!store.wish("zzzzzzzz".parse().unwrap(), Wish::Pause).await.unwrap());
    let epoch = store.claim_run(crew.run, "other", MINUTE, Claim::Force).await.unwrap();
    assert_eq!(store.wishes(&runs).await.unwrap(), [(crew.run, Wish::Kill)], "it is the next owner's to fulfil");
    store.configure_run(crew.run, epoch, "{}", Wished::Forgotten).await.unwrap();
    assert_eq!(store.wishes(&runs).await.unwrap(), []);
    assert!(store.wish(other.run, Wish::Cancel).await.unwrap());
    let mut end = other.change();
    end.run_status = Some(RunEnd { status: RunStatus::Cancelled, finished_at: at(9), error: None });
    other.done(end).await;
    assert_eq!(store.wishes(&runs).await.unwrap(), []);
    assert!(!store.wish(other.run, Wish::Pause).await.unwrap());
}

async fn hints_tell_what_happened(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let mut hints = place.open().await.hints().unwrap().unwrap();
    assert_eq!(hints.next().await, Hint::Lost);
    let task = crew.tasks(1).await[0];
    crew.offer(&[task], &["coder"]).await;
    assert_eq!(hints.next().await, Hint::Work);
    crew.store.claim_offers("w", None, 1, MINUTE).await.unwrap();
    crew.commit(crew.intent("w", first(task))).await;
    assert_eq!(hints.next().await, Hint::Events(crew.run));
    crew.commit(crew.report("w", first(task), "{}")).await;
    assert_eq!(hints.next().await, Hint::Reports(crew.run));
    crew.store.wish(crew.run, Wish::Pause).await.unwrap();
    assert_eq!(hints.next().await, Hint::Wish(crew.run));
    // A run that somebody holds from the beginning waits for nobody.
    let mut ids = IdSource::seeded(9);
    for owner in [Some(("me", MINUTE)), None] {
        let (run, root) = (RunId::new(&mut ids), TaskId::new(&mut ids));
        let begun = Change::new(run, 0, at(5));
        crew.store.create_run_with(&run_of(run, "p"), &root_of(run, root), None, owner, &begun).await.unwrap();
    }
    assert_eq!(hints.next().await, Hint::Orphan);
    crew.store.wish(crew.run, Wish::Cancel).await.unwrap();
    assert_eq!(hints.next().await, Hint::Wish(crew.run), "it was told once");
    // A connection that breaks is made again, and says that something may have been missed.
    place
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE query LIKE 'LISTEN%' AND datname = current_database()",
        )
        .await;
    assert_eq!(hints.next().await, Hint::Lost);
    crew.store.wish(crew.run, Wish::Kill).await.unwrap();
    assert_eq!(hints.next().await, Hint::Wish(crew.run));
}

#[tokio::test]
async fn postgres_tells_others() {
    use futures::FutureExt as _;
    crate::common::on_postgres_alone(|place| hints_tell_what_happened(place).boxed_local()).await;
}

#[tokio::test]
async fn sqlite_tells_nobody() {
    assert!(Store::open("sqlite::memory:").await.unwrap().hints().unwrap().is_none());
}
