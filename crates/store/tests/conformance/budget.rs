//! What a run may cost when several machines spend its money.

use std::time::Duration;

use crewline_store::{CallAnswer, CallEnd, Change, Committed, Payer, ProjectMax};
use crewline_types::{AttemptId, CallId, MicroUsd, TaskId, Text, Usage, event::CallOutcome};

use crate::common::{Crew, Place, call, first, is_done};

const MINUTE: Duration = Duration::from_mins(1);

on_both! {
    a_cap_is_never_exceeded
    an_end_is_never_refused
    an_answer_counts_with_what_it_cost
    a_refusal_does_not_count
    a_sum_begins_with_what_is_there
    what_has_no_price_costs_nothing
    huge_costs_fit
    a_project_is_never_exceeded
    calls_of_workers_whose_manager_is_gone_count_for_their_project
}

/// Begins an attempt's first call under a cap.
fn begin(crew: &Crew, task: TaskId, reserved: u64, max: u64) -> Change {
    let mut change = crew.start(task, 1);
    change.attempts = crew.intent("", first(task)).attempts;
    change.calls.push(call(first(task), 1, Some(MicroUsd(reserved))));
    change.cost_max = Some(MicroUsd(max));
    change
}

fn end(attempt: AttemptId, number: u32, cost: Option<u64>) -> CallEnd {
    CallEnd {
        id: CallId { attempt, number },
        outcome: CallOutcome::Ok,
        usage: Usage::default(),
        cost: cost.map(MicroUsd),
        elapsed: Duration::ZERO,
        reply: None,
        error: None,
    }
}

fn over(whose: Payer, may_pass: bool) -> Committed {
    Committed::OverBudget { whose, may_pass }
}

/// The sum of all calls as the table has it.
async fn spent(crew: &Crew) -> u64 {
    let calls = crew.store.calls(crew.run).await.unwrap();
    calls.iter().map(|it| it.outcome.map_or(it.reserved, |_| it.cost).map_or(0, |cost| cost.0)).sum()
}

/// The sum as the run's row has it.
async fn charged(place: &Place) -> u64 {
    place.number("SELECT charged_micro_usd FROM runs").await.unsigned_abs()
}

async fn a_cap_is_never_exceeded(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(90).await;
    let stores = [place.open().await, place.open().await];
    // Every intent by itself, from two processes: of 100, 14 times 7 fit.
    let changes: Vec<[Change; 1]> = tasks[..60].iter().map(|task| [begin(&crew, *task, 7, 100)]).collect();
    let commits = changes.iter().zip(stores.iter().cycle()).map(|(change, store)| store.commit(change));
    let answers: Vec<Committed> =
        futures::future::join_all(commits).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|it| is_done(it)).count(), 14);
    assert_eq!(answers.iter().filter(|it| **it == over(Payer::Run, true)).count(), 46);
    assert_eq!((spent(&crew).await, charged(place).await), (98, 98));
    // A call that ends cheaper makes room, in the change that needs it and in later ones; in batches.
    let begun: Vec<TaskId> = tasks.iter().zip(&answers).filter(|(_, it)| is_done(it)).map(|(task, _)| *task).collect();
    let mut next = Vec::new();
    for task in &begun[..4] {
        let mut change = crew.change();
        change.calls_ended.push(end(first(*task), 1, Some(2)));
        change.calls.push(call(first(*task), 2, Some(MicroUsd(6))));
        change.cost_max = Some(MicroUsd(100));
        next.push(change);
    }
    next.extend(tasks[60..].iter().map(|task| begin(&crew, *task, 3, 100)));
    // 98 → +1 −5 … : 99, 100, then two that do not fit; 2 + 6 instead of 7 is one more each.
    let answer = stores[0].commit(&next).await.unwrap();
    assert_eq!(answer.iter().map(is_done).collect::<Vec<_>>()[..4], [true, true, false, false]);
    assert!(answer[4..].iter().all(|it| *it == over(Payer::Run, true)));
    assert_eq!((spent(&crew).await, charged(place).await), (100, 100));
    assert_eq!(crew.store.integrity().await.unwrap(), []);
}

async fn an_end_is_never_refused(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(2).await;
    assert!(is_done(&crew.commit(begin(&crew, tasks[0], 50, 50)).await));
    let mut dear = crew.change();
    dear.calls_ended.push(end(first(tasks[0]), 1, Some(80)));
    dear.cost_max = Some(MicroUsd(50));
    // It comes twice, and late once more; it counts once.
    let answer = crew.store.commit(&[dear.clone(), dear.clone()]).await.unwrap();
    assert!(answer.iter().all(is_done));
    assert!(is_done(&crew.commit(dear).await));
    assert_eq!((spent(&crew).await, charged(place).await), (80, 80));
    assert_eq!(crew.commit(begin(&crew, tasks[1], 1, 50)).await, over(Payer::Run, false));
    // A call that can not cost anything is not refused.
    assert!(is_done(&crew.commit(begin(&crew, tasks[1], 0, 50)).await));
}

async fn an_answer_counts_with_what_it_cost(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(3).await;
    assert!(is_done(&crew.commit(begin(&crew, tasks[0], 60, 100)).await));
    let answer = |number, cost| CallAnswer {
        id: CallId { attempt: first(tasks[0]), number },
        usage: Usage::default(),
        cost: Some(MicroUsd(cost)),
        reply: Text::from("r").hash,
    };
    let mut answered = crew.change();
    answered.texts.push(Text::from("r"));
    answered.calls_answered.push(answer(1, 20));
    crew.done(answered.clone()).await;
    assert_eq!(charged(place).await, 20);
    crew.done(answered).await;
    assert_eq!(charged(place).await, 20, "it counts once");
    assert_eq!(crew.commit(begin(&crew, tasks[1], 81, 100)).await, over(Payer::Run, false), "no more comes back");
    assert!(is_done(&crew.commit(begin(&crew, tasks[1], 80, 100)).await));
    let mut ended = crew.change();
    ended.calls_ended.push(end(first(tasks[0]), 1, Some(20)));
    crew.done(ended).await;
    assert_eq!((spent(&crew).await, charged(place).await), (100, 100));
    // All at once, in one batch and in one change.
    let mut cheap = crew.change();
    cheap.calls_ended.push(end(first(tasks[1]), 1, Some(10)));
    let all = Change { calls: vec![call(first(tasks[0]), 2, Some(MicroUsd(50)))], ..crew.change() };
    let mut rest = crew.change();
    rest.calls_answered.push(answer(2, 5));
    rest.calls_ended.push(end(first(tasks[0]), 2, Some(7)));
    assert!(crew.store.commit(&[cheap, all, rest]).await.unwrap().iter().all(is_done));
    assert_eq!((spent(&crew).await, charged(place).await), (37, 37));
    assert_eq!(crew.store.integrity().await.unwrap(), []);
}

async fn a_refusal_does_not_count(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(4).await;
    // The second is too dear, the third is stale and would have taken the rest; the fourth fits.
    let stale = Change { transitions: crew.finish(tasks[2], 1).transitions, ..begin(&crew, tasks[2], 5, 10) };
    let changes = [begin(&crew, tasks[0], 5, 10), begin(&crew, tasks[1], 6, 10), stale, begin(&crew, tasks[3], 5, 10)];
    let answer = crew.store.commit(&changes).await.unwrap();
    assert_eq!(answer.iter().map(is_done).collect::<Vec<_>>(), [true, false, false, true]);
    assert_eq!(answer[1..3], [over(Payer::Run, true), Committed::Stale]);
    let events = crew.store.events(crew.run, 0, 9).await.unwrap();
    assert_eq!(events.iter().map(|it| it.seq).collect::<Vec<_>>(), [1, 2]);
    assert_eq!((spent(&crew).await, charged(place).await), (10, 10));
}

async fn a_sum_begins_with_what_is_there(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let other = Crew::on(crew.store.clone(), "p", 2).await;
    let tasks = crew.tasks(4).await;
    for task in &tasks[..2] {
        let change = Change { cost_max: None, ..begin(&crew, *task, 30, 0) };
        assert!(is_done(&crew.commit(change).await));
    }
    let mut ended = crew.change();
    ended.calls_ended.push(end(first(tasks[0]), 1, Some(10)));
    crew.done(ended).await;
    assert_eq!(place.count("runs WHERE charged_micro_usd IS NULL").await, 2);
    assert_eq!(crew.commit(begin(&crew, tasks[2], 61, 100)).await, over(Payer::Run, true));
    assert_eq!(crew.commit(begin(&crew, tasks[2], 91, 100)).await, over(Payer::Run, false));
    assert!(is_done(&crew.commit(begin(&crew, tasks[2], 60, 100)).await));
    assert_eq!(spent(&crew).await, 100);
    // From now on also what has no cap of its own is counted, such as planning and what a manager closes.
    let mut closed = crew.change();
    closed.calls_ended.push(end(first(tasks[1]), 1, None));
    crew.done(closed).await;
    crew.done(Change { cost_max: None, ..begin(&crew, tasks[3], 4, 0) }).await;
    assert_eq!(spent(&crew).await, 74);
    assert_eq!(place.number("SELECT charged_micro_usd FROM runs WHERE charged_micro_usd IS NOT NULL").await, 74);
    assert_eq!(other.store.integrity().await.unwrap(), []);
}

async fn what_has_no_price_costs_nothing(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let task = crew.tasks(1).await[0];
    let mut change = begin(&crew, task, 0, 0);
    change.calls[0].reserved = None;
    change.calls_ended.push(end(first(task), 1, None));
    assert!(is_done(&crew.commit(change).await));
    assert_eq!(charged(place).await, 0);
}

async fn huge_costs_fit(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(3).await;
    for task in &tasks[..2] {
        crew.done(Change { cost_max: None, ..begin(&crew, *task, u64::MAX, 0) }).await;
    }
    assert!(matches!(crew.commit(begin(&crew, tasks[2], 1, 100)).await, Committed::OverBudget { .. }));
    assert!(is_done(&crew.commit(begin(&crew, tasks[2], u64::MAX, u64::MAX)).await));
}

async fn a_project_is_never_exceeded(place: &Place) {
    let mut crews = [Crew::new(place, "p", 1).await, Crew::on(place.open().await, "p", 2).await];
    let mut other = Crew::on(place.open().await, "q", 3).await;
    let cap = |project: &str| Some(ProjectMax { project: project.into(), max: MicroUsd(100) });
    let capped = |change: Change, project: &str| Change { cost_max: None, project_max: cap(project), ..change };
    // A call of a run without any cap counts as well.
    let first_of = crews[0].tasks(40).await;
    let second_of = crews[1].tasks(40).await;
    let free = Change { cost_max: None, ..begin(&crews[0], first_of[0], 30, 0) };
    assert!(is_done(&crews[0].commit(free).await));
    // Two runs in two processes at the same time, each call by itself: 10 times 7 fit beside the 30.
    let changes: Vec<(usize, [Change; 1])> = (1..40)
        .flat_map(|it| [(0, first_of[it]), (1, second_of[it])])
        .map(|(of, task)| (of, [capped(begin(&crews[of], task, 7, 0), "p")]))
        .collect();
    let commits = changes.iter().map(|(of, change)| crews[*of].store.commit(change));
    let answers: Vec<Committed> =
        futures::future::join_all(commits).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|it| is_done(it)).count(), 10, "{answers:?}");
    assert_eq!(answers.iter().filter(|it| **it == over(Payer::Project, true)).count(), 68);
    let both = spent(&crews[0]).await + spent(&crews[1]).await;
    assert_eq!(both, 100);
    // Another project has its own money.
    let task = other.tasks(1).await[0];
    assert!(is_done(&other.commit(capped(begin(&other, task, 100, 0), "q")).await));
    // What ends cheaper makes room for the other run.
    let mut ended = crews[0].change();
    ended.calls_ended.push(end(first(first_of[0]), 1, Some(4)));
    crews[0].done(ended).await;
    let next = capped(begin(&crews[1], second_of[0], 26, 0), "p");
    assert!(is_done(&crews[1].commit(next).await));
    assert_eq!(spent(&crews[0]).await + spent(&crews[1]).await, 100);
    assert_eq!(crews[0].store.integrity().await.unwrap(), []);
    // A run that nobody works on ends no calls.
    let task = crews[1].tasks(1).await[0];
    let next = capped(begin(&crews[1], task, 20, 0), "p");
    assert_eq!(crews[1].commit(next.clone()).await, over(Payer::Project, true));
    place.execute("UPDATE runs SET lease_until = 0").await;
    assert_eq!(crews[1].commit(next).await, over(Payer::Project, false));
}

async fn calls_of_workers_whose_manager_is_gone_count_for_their_project(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let mut other = Crew::on(place.open().await, "p", 2).await;
    let (tasks, others) = (crew.tasks(2).await, other.tasks(2).await);
    let capped = |change: Change| {
        let project_max = Some(ProjectMax { project: "p".into(), max: MicroUsd(100) });
        Change { cost_max: None, project_max, ..change }
    };
    crew.offer(&tasks, &["coder"]).await;
    let worker = place.open().await;
    assert_eq!(worker.claim_offers("w", None, 2, MINUTE).await.unwrap().len(), 2);
    // Its manager lets go of the run; the worker goes on, and begins another call meanwhile.
    let intent = |task, reserved| {
        let mut change = crew.intent("w", first(task));
        change.calls[0].reserved = Some(MicroUsd(reserved));
        [capped(change)]
    };
    assert!(is_done(&worker.commit(&intent(tasks[0], 40)).await.unwrap()[0]));
    crew.store.release_run(crew.run, crew.epoch).await.unwrap();
    assert_eq!(worker.commit(&intent(tasks[1], 61)).await.unwrap(), [over(Payer::Project, true)]);
    assert!(is_done(&worker.commit(&intent(tasks[1], 20)).await.unwrap()[0]));
    // What others may spend is what these leave, and more when they end.
    assert_eq!(other.commit(capped(begin(&other, others[0], 41, 0))).await, over(Payer::Project, true));
    assert_eq!(other.commit(capped(begin(&other, others[0], 101, 0))).await, over(Payer::Project, false));
    let mut ended = crew.report("w", first(tasks[0]), "{}");
    ended.calls_ended.push(end(first(tasks[0]), 1, Some(10)));
    assert!(is_done(&worker.commit(&[ended]).await.unwrap()[0]));
    assert!(is_done(&other.commit(capped(begin(&other, others[0], 70, 0))).await));
    assert_eq!(spent(&crew).await + spent(&other).await, 100);
    // When the worker is silent for longer than its lease nobody ends its call soon, and it still counts.
    place.execute("UPDATE offers SET lease_until = 0; UPDATE runs SET lease_until = 0 WHERE owner IS NOT NULL").await;
    assert_eq!(other.commit(capped(begin(&other, others[1], 1, 0))).await, over(Payer::Project, false));
    assert_eq!(crew.store.integrity().await.unwrap(), []);
}
