//! Whatever a column may hold comes back as it was.

use std::sync::Arc;

use crewline_store::{Committed, NewAttempt};
use crewline_types::{
    AttemptId, ErrorKind, EventBody, IdSource, MicroUsd, ProjectScope, Role, RunStatus, Task, TaskCounts, TaskId,
    TaskKind, Text, TextHash, Timestamp, Usage,
    event::{CallOutcome, Candidate, CheckResult, ErrorNote, NewEvent, PlanEntry},
};

use crate::{
    common::{Crew, Place, at, task_of},
    memories::memory,
};

on_both! {
    any_character_is_kept
    the_largest_numbers_are_kept
    every_event_round_trips
}

async fn any_character_is_kept(place: &Place) {
    let odd = "ünï 日本語 🦀 '\"\\ \u{202e} \u{1} \u{feff} ? $1 %s";
    let crew = Crew::new(place, odd, 1).await;
    let mut change = crew.change();
    let task = TaskId::new(&mut IdSource::seeded(99));
    change.tasks.push(Task { title: odd.into(), description: "a\0b".into(), ..task_of(crew.run, task, 1) });
    change.texts = vec![Text::from(odd), Text::from("nul\0nul"), Text::from("")];
    change.memories = vec![memory(odd, None, None, odd), memory(odd, None, None, "m\0")];
    change.events.push(NewEvent::of_run(
        at(1),
        EventBody::AwaitingApproval { what: format!("{odd}\0").into(), approval: None, kind: None },
    ));
    crew.done(change.clone()).await;
    let found = crew.store.tasks(crew.run).await.unwrap().pop().unwrap();
    assert_eq!((&*found.title, &*found.description), (odd, "a\u{fffd}b"));
    let hashes: Vec<TextHash> = change.texts.iter().map(|it| it.hash).collect();
    let texts = crew.store.texts(&hashes).await.unwrap();
    assert_eq!(hashes.iter().map(|it| &*texts[it]).collect::<Vec<_>>(), [odd, "nul\u{fffd}nul", ""]);
    let found = crew.store.memories(&ProjectScope::of(odd), 0, 10).await.unwrap();
    assert_eq!(found.iter().map(|(_, it)| &*it.text).collect::<Vec<_>>(), [odd, "m\u{fffd}"]);
    assert_eq!(crew.store.events(crew.run, 0, 10).await.unwrap()[0].body, change.events[0].body);
    assert_eq!(crew.store.runs(Some(odd), 10).await.unwrap().len(), 1);
    assert_eq!(crew.store.runs(Some("a\0"), 10).await.unwrap().len(), 0);
}

async fn the_largest_numbers_are_kept(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let task = crew.tasks(1).await[0];
    let most = i64::MAX.unsigned_abs();
    let huge = Usage {
        input_tokens: u64::MAX,
        output_tokens: most,
        cached_tokens: 0,
        reasoning_tokens: most - 1,
        estimated: false,
    };
    let mut start = crew.start(task, 1);
    start.at = Timestamp(i64::MIN);
    start.transitions[0].usage = huge;
    start.transitions[0].cost = MicroUsd(u64::MAX);
    start.attempts.push(NewAttempt {
        id: AttemptId { task, number: u32::MAX },
        role: Role::from("r"),
        model: "m".into(),
        input_hash: None,
    });
    crew.done(start).await;
    let mut finish = crew.finish(task, 1);
    finish.at = Timestamp(i64::MAX);
    finish.transitions[0].usage = Usage { estimated: true, ..huge };
    finish.transitions[0].cost = MicroUsd(1);
    crew.done(finish).await;
    let found = crew.store.tasks(crew.run).await.unwrap().pop().unwrap();
    assert_eq!((found.started_at, found.finished_at), (Some(Timestamp(i64::MIN)), Some(Timestamp(i64::MAX))));
    let sum =
        Usage { input_tokens: most, output_tokens: most, cached_tokens: 0, reasoning_tokens: most, estimated: true };
    assert_eq!((found.usage, found.cost), (sum, MicroUsd(most)));
    assert_eq!(crew.store.attempts(crew.run).await.unwrap()[0].id.number, u32::MAX);
    assert_eq!(crew.store.events(crew.run, u64::MAX, u32::MAX).await.unwrap(), []);
}

async fn every_event_round_trips(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let error = ErrorNote { code: "a.b".into(), kind: ErrorKind::Auth, message: "{\"type\":\"x\"}".into() };
    let role = Role::from("coder");
    let text: Arc<str> = "type\",\"".into();
    let bodies = [
        EventBody::RunStarted { project: text.clone(), goal: text.clone(), resumed: true },
        EventBody::PlanReady {
            tasks: vec![PlanEntry {
                id: crew.root,
                key: text.clone(),
                title: text.clone(),
                role: role.clone(),
                kind: TaskKind::Atomic,
                depends_on: vec![crew.root],
            }],
            repairs: vec!["r".into()],
        },
        EventBody::TaskStarted {
            key: text.clone(),
            title: text.clone(),
            role: role.clone(),
            model: text.clone(),
            route: [Candidate { model: text.clone(), may_be_asked: false, reason: text.clone() }].into(),
        },
        EventBody::ModelCall {
            call: text.clone(),
            role: role.clone(),
            model: text.clone(),
            provider: text.clone(),
            outcome: CallOutcome::RateLimited,
            usage: usage(1, 2),
            cost_usd: None,
            elapsed_ms: 3,
            error: Some(error.clone()),
            checks: vec![CheckResult {
                criterion: text.clone(),
                verifier: text.clone(),
                passed: true,
                evidence: text.clone(),
            }],
        },
        EventBody::TaskCompleted {
            key: text.clone(),
            role: role.clone(),
            model: text.clone(),
            usage: usage(3, 4),
            cost_usd: MicroUsd(1_234_567),
            elapsed_ms: u64::MAX,
            copied_from: None,
        },
        EventBody::TaskParked {
            key: text.clone(),
            role: role.clone(),
            models: vec![text.clone()],
            error: error.clone(),
            until: Timestamp(5_000_000),
        },
        EventBody::TaskFailed { key: text.clone(), role, error: error.clone(), will_retry: true },
        EventBody::TaskPlanned { key: text.clone(), until: Timestamp(5_000_000) },
        EventBody::TaskOverdue { key: text.clone(), deadline: Timestamp(6_000_000) },
        EventBody::TaskBlocked { key: text.clone(), reason: text.clone() },
        EventBody::AwaitingApproval {
            what: text.clone(),
            approval: Some(crewline_types::ApprovalId::of("aaaaaaaa".parse().unwrap(), "x")),
            kind: Some(crewline_types::ApprovalKind::Tool),
        },
        EventBody::MemoryStored { memory: text.clone(), kind: text.clone() },
        EventBody::SummaryReady { memory: text.clone(), kind: text.clone(), version: 2 },
        EventBody::BudgetReached { limit: text.clone(), message: text },
        EventBody::RunFinished {
            status: RunStatus::Failed,
            tasks: TaskCounts::default(),
            cost_usd: MicroUsd(1),
            unpriced_calls: 2,
            usage: usage(5, 6),
            elapsed_ms: 7,
            error: Some(error),
        },
    ];
    let mut change = crew.change();
    change.events = bodies.into_iter().map(|body| NewEvent::of_run(at(1), body)).collect();
    let Committed::Done { events } = crew.store.commit(&[change]).await.unwrap().remove(0) else { panic!() };
    assert_eq!(crew.store.events(crew.run, 0, 100).await.unwrap(), events);
    assert_eq!(place.count("events WHERE payload LIKE '{\"type\"%'").await, 0);
}

pub(crate) fn usage(input: u64, output: u64) -> Usage {
    Usage { input_tokens: input, output_tokens: output, cached_tokens: 1, reasoning_tokens: 2, estimated: true }
}
