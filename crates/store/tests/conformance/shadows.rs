//! Copies of questions for candidates: begun within their money, ended once, counted apart.

use std::time::Duration;

use crewline_store::{CallEnd, CostBy, NewShadow, ShadowSum};
use crewline_types::{
    AttemptId, CallId, ErrorKind, HostBytes, MicroUsd, TaskId, Traffic, Usage,
    event::{CallOutcome, ErrorNote},
};

use crate::common::{Crew, Place, at, call, first};

on_both! {
    copies_hold_what_they_may_cost
    many_at_once_hold_it_too
    a_copy_ends_once_and_counts_apart
}

fn copy(crew: &Crew, task: TaskId) -> NewShadow {
    NewShadow {
        attempt: first(task),
        run: crew.run,
        role: "coder".into(),
        incumbent: "m".into(),
        incumbent_outcome: CallOutcome::Ok,
        incumbent_cost: Some(MicroUsd(70)),
        incumbent_elapsed: Duration::from_millis(30),
        model: "candidate".into(),
        provider: "p".into(),
        reserved: MicroUsd(40),
        cost_max: MicroUsd(100),
        is_judged: true,
        at: at(9),
    }
}

fn end(attempt: AttemptId, outcome: CallOutcome, cost: u64) -> CallEnd {
    let error = (outcome != CallOutcome::Ok).then(|| ErrorNote {
        code: "check.failed".into(),
        kind: ErrorKind::Invalid,
        message: "no".into(),
    });
    CallEnd {
        id: CallId { attempt, number: 1 },
        outcome,
        usage: Usage { input_tokens: 10, output_tokens: 3, ..Usage::default() },
        cost: Some(MicroUsd(cost)),
        elapsed: Duration::from_millis(20),
        reply: None,
        error,
    }
}

async fn copies_hold_what_they_may_cost(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(4).await;
    let begin = async |it: NewShadow| crew.store.begin_shadow(&it).await.unwrap();
    assert!(begin(copy(&crew, tasks[0])).await);
    assert!(!begin(copy(&crew, tasks[0])).await, "an attempt's question is copied once");
    assert!(begin(copy(&crew, tasks[1])).await);
    assert!(!begin(copy(&crew, tasks[2])).await, "40 + 40 + 40 is more than 100");
    assert!(begin(NewShadow { role: "writer".into(), ..copy(&crew, tasks[2]) }).await, "each role has its own money");
    // One that cost less than its worst case makes room; one that is open does not.
    let passed = Traffic::default();
    assert!(crew.store.end_shadow(crew.run, &end(first(tasks[0]), CallOutcome::Ok, 20), &passed).await.unwrap());
    assert!(begin(copy(&crew, tasks[3])).await, "20 + 40 + 40 is 100");
    let sum = crew.store.shadow_sum(crew.run).await.unwrap();
    assert_eq!(sum, ShadowSum { calls: 4, open: 3, accepted: 1, cost: MicroUsd(140) });
}

async fn many_at_once_hold_it_too(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(30).await;
    let others = [place.open().await, place.open().await];
    let all = tasks.iter().zip(others.iter().cycle()).map(|(task, store)| {
        let new = NewShadow { cost_max: MicroUsd(400), ..copy(&crew, *task) };
        async move { store.begin_shadow(&new).await.unwrap() }
    });
    let begun = futures::future::join_all(all).await;
    assert_eq!(begun.iter().filter(|it| **it).count(), 10, "as many as 400 are enough for, whoever asks");
    assert_eq!(crew.store.shadow_sum(crew.run).await.unwrap().cost, MicroUsd(400));
}

async fn a_copy_ends_once_and_counts_apart(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(5).await;
    let mut start = crew.start(tasks[0], 1);
    start.calls.push(call(first(tasks[0]), 1, Some(MicroUsd(90))));
    crew.done(start).await;
    let mut ended = crew.change();
    ended.calls_ended.push(end(first(tasks[0]), CallOutcome::Ok, 70));
    crew.done(ended).await;
    let new = |task, incumbent_outcome, is_judged| NewShadow {
        incumbent_outcome,
        is_judged,
        cost_max: MicroUsd(1_000),
        ..copy(&crew, task)
    };
    let passed = Traffic::from_iter([("h".into(), HostBytes { sent: 7, received: 2 })]);
    for (task, incumbent, is_judged, outcome) in [
        (tasks[0], CallOutcome::Ok, true, Some(CallOutcome::Ok)),
        (tasks[1], CallOutcome::Ok, false, Some(CallOutcome::Invalid)),
        (tasks[2], CallOutcome::Invalid, true, Some(CallOutcome::Ok)),
        (tasks[3], CallOutcome::Ok, true, Some(CallOutcome::Timeout)),
        (tasks[4], CallOutcome::Ok, true, None),
    ] {
        assert!(crew.store.begin_shadow(&new(task, incumbent, is_judged)).await.unwrap());
        if let Some(outcome) = outcome {
            let end_it = async |end: CallEnd| crew.store.end_shadow(crew.run, &end, &passed).await.unwrap();
            assert!(end_it(end(first(task), outcome, 20)).await);
            assert!(!end_it(end(first(task), CallOutcome::Lost, 0)).await, "an end stays");
        }
    }
    let sums = crew.store.traffic(crew.run).await.unwrap();
    assert_eq!(sums, Traffic::from_iter([("h".into(), HostBytes { sent: 4 * 7, received: 4 * 2 })]), "each end once");
    let rows = crew.store.shadows(100).await.unwrap();
    let row = &rows[0];
    assert_eq!((rows.len(), &*row.role, &*row.incumbent, &*row.model), (1, "coder", "m", "candidate"));
    assert_eq!((row.copies, row.open, row.failed), (5, 1, 1));
    assert_eq!((row.both, row.only_candidate, row.only_incumbent, row.neither), (1, 1, 1, 0));
    assert_eq!((row.cost, row.incumbent_cost), (MicroUsd(4 * 20 + 40), MicroUsd(5 * 70)));
    assert_eq!((row.elapsed, row.incumbent_elapsed), (Duration::from_millis(60), Duration::from_millis(90)));
    assert_eq!(crew.store.shadows(2).await.unwrap()[0].copies, 2, "a limit is kept");

    let by = async |by| crew.store.costs(Some("p"), by, 10).await.unwrap();
    let by_model = by(CostBy::Model).await;
    let of = |model: &str| by_model.iter().find(|it| it.key == model).unwrap();
    assert_eq!((of("m").calls, of("m").cost, of("m").shadow_calls), (1, MicroUsd(70), 0));
    let candidate = of("candidate");
    assert_eq!((candidate.calls, candidate.cost, candidate.usage), (0, MicroUsd::ZERO, Usage::default()));
    assert_eq!((candidate.shadow_calls, candidate.shadow_cost), (5, MicroUsd(120)));
    let by_run = &by(CostBy::Run).await[0];
    assert_eq!((by_run.cost, by_run.shadow_cost), (MicroUsd(70), MicroUsd(120)));

    // What is learned from: the answers of calls, and those of copies that were checked like them.
    let answers = crew.store.answers(100).await.unwrap();
    let of = |model: &str| answers.iter().find(|it| it.model == model).map(|it| (it.accepted, it.rejected));
    assert_eq!((of("m"), of("candidate")), (Some((1, 0)), Some((2, 0))));

    crew.done({
        let mut last = crew.change();
        last.run_status = Some(crewline_store::RunEnd {
            status: crewline_types::RunStatus::Completed,
            finished_at: at(10),
            error: None,
        });
        last
    })
    .await;
    assert_eq!(crew.store.delete_runs(&[crew.run]).await.unwrap().runs, 1);
    assert_eq!(place.count("shadows").await, 0, "nothing is left of a run that was pruned");
}
