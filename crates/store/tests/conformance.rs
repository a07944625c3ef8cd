//! What the store promises, on SQLite always and on PostgreSQL when `CREWLINE_TEST_POSTGRES` names a server.
//!
//! **Invariant:** every test has a database of its own, which is gone afterwards, also when the test fails.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers are tests, too")]

mod common;

use std::{collections::HashMap, sync::Arc, task::Poll, time::Duration};

use common::{Place, at, task_of};
use crewline_store::{
    AttemptEnd, AttemptStatus, CallEnd, Change, Claim, Committed, Error, NewAttempt, NewCall, NewContext, RunEnd,
    Store, Transition,
};
use crewline_types::{
    AttemptId, CallId, ErrorKind, EventBody, IdSource, MemoryId, MemoryRecord, MemoryType, MicroUsd, ProjectScope,
    Role, RunId, RunStatus, Task, TaskCounts, TaskId, TaskKind, TaskStatus, Text, TextHash, Timestamp, Usage,
    event::{CallOutcome, ErrorNote, NewEvent, PlanEntry},
    task::LinkKind,
};
use futures::FutureExt as _;

macro_rules! on_both {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test] async fn $name() { super::common::on_sqlite(|place| super::$name(place).boxed()).await; })*
            use futures::FutureExt as _;
        }
        mod postgres {
            $(#[tokio::test] async fn $name() { super::common::on_postgres(|place| super::$name(place).boxed()).await; })*
            use futures::FutureExt as _;
        }
    };
}

on_both! {
    opening_twice_changes_nothing
    a_newer_schema_is_refused
    the_full_life_of_a_run
    a_stale_transition_writes_nothing
    a_stale_epoch_writes_nothing
    an_unknown_task_makes_a_change_stale
    a_refused_row_fails_the_whole_batch
    event_numbers_have_no_gaps
    changes_of_one_task_keep_their_order
    a_run_ends_once
    a_repeated_memory_is_one_record
    memories_are_drained
    vectors_round_trip
    a_thousand_changes_in_one_commit
    projects_are_isolated
    claims_are_exclusive
    a_finished_run_is_not_claimed
    settings_are_replaced
    a_batch_of_many_runs
    any_character_is_kept
    the_largest_numbers_are_kept
    every_event_round_trips
    a_dropped_commit_is_whole_or_nothing
    late_ends_do_nothing
    the_database_answers
}

/// A run with its root task, claimed; and how to make changes to it.
struct Crew {
    store: Store,
    run: RunId,
    epoch: u64,
    root: TaskId,
    ids: IdSource,
}

impl Crew {
    async fn new(place: &Place, project: &str, seed: u64) -> Self {
        let store = place.open().await;
        Self::on(store, project, seed).await
    }

    async fn on(store: Store, project: &str, seed: u64) -> Self {
        let mut ids = IdSource::seeded(seed);
        let (run, root) = (RunId::new(&mut ids), TaskId::new(&mut ids));
        let task = Task { kind: TaskKind::Root, ..task_of(run, root, 0) };
        store.create_run(&common::run_of(run, project), &task).await.unwrap();
        let epoch = store.claim_run(run, "test", Duration::from_mins(1), Claim::IfFree).await.unwrap();
        Self { store, run, epoch, root, ids }
    }

    fn change(&self) -> Change {
        Change::new(self.run, self.epoch, at(5))
    }

    /// Records `count` pending tasks.
    async fn tasks(&mut self, count: u32) -> Vec<TaskId> {
        let ids: Vec<TaskId> = (0..count).map(|_| TaskId::new(&mut self.ids)).collect();
        let mut change = self.change();
        change.tasks = (1..).zip(&ids).map(|(position, id)| task_of(self.run, *id, position)).collect();
        self.done(change).await;
        ids
    }

    async fn done(&self, change: Change) -> Vec<u64> {
        match self.store.commit(&[change]).await.unwrap().remove(0) {
            Committed::Done { events } => events.iter().map(|event| event.seq).collect(),
            Committed::Stale => panic!("stale"),
        }
    }

    async fn status(&self, task: TaskId) -> (TaskStatus, u32) {
        let tasks = self.store.tasks(self.run).await.unwrap();
        let task = tasks.iter().find(|it| it.id == task).unwrap();
        (task.status, task.attempts)
    }

    fn start(&self, task: TaskId, attempt: u32) -> Change {
        let mut change = self.change();
        change.transitions.push(Transition {
            attempts_from: attempt - 1,
            attempts_to: attempt,
            ..step(task, TaskStatus::Pending, TaskStatus::InProgress)
        });
        change.events.push(note(task));
        change
    }

    fn finish(&self, task: TaskId, attempt: u32) -> Change {
        let mut change = self.change();
        change.transitions.push(Transition {
            attempts_from: attempt,
            attempts_to: attempt,
            ..step(task, TaskStatus::InProgress, TaskStatus::Completed)
        });
        change.events.push(note(task));
        change
    }
}

fn step(task: TaskId, from: TaskStatus, to: TaskStatus) -> Transition {
    Transition {
        task,
        from,
        to,
        attempts_from: 0,
        attempts_to: 0,
        result: None,
        reason: None,
        model: None,
        usage: Usage::default(),
        cost: MicroUsd::ZERO,
    }
}

fn note(task: TaskId) -> NewEvent {
    NewEvent::of_task(at(6), task, Some(1), EventBody::AwaitingApproval { what: "x".into() })
}

fn usage(input: u64, output: u64) -> Usage {
    Usage { input_tokens: input, output_tokens: output, cached_tokens: 1, reasoning_tokens: 2, estimated: true }
}

fn memory(project: &str, run: Option<RunId>, task: Option<TaskId>, text: &str) -> MemoryRecord {
    MemoryRecord {
        id: MemoryId::of(project, task, "task_summary", text),
        project: project.into(),
        run,
        task,
        kind: MemoryType::TaskSummary,
        agent: "coder".into(),
        created_at: at(7),
        text: text.into(),
        source_ids: Vec::new(),
    }
}

fn is_done(committed: &Committed) -> bool {
    matches!(committed, Committed::Done { .. })
}

async fn opening_twice_changes_nothing(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let (again, once_more) = tokio::join!(place.open(), place.open());
    for store in [again, once_more] {
        assert_eq!(store.run(crew.run).await.unwrap(), crew.store.run(crew.run).await.unwrap());
    }
    assert_eq!(place.count("seaql_migrations").await, 1);
}

async fn a_newer_schema_is_refused(place: &Place) {
    drop(place.open().await);
    place.execute("INSERT INTO seaql_migrations (version, applied_at) VALUES ('m999_later', 0)").await;
    let error = Store::open(&place.url).await.unwrap_err();
    assert!(
        matches!(&error, Error::NewerSchema { found, known, .. } if found == "m999_later" && known == "m001_initial"),
        "{error:?}"
    );
    assert_eq!((error.kind(), error.code()), (ErrorKind::Conflict, "store.newer_schema"));
}

async fn the_full_life_of_a_run(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(2).await;
    let attempt = AttemptId { task: tasks[0], number: 1 };
    let call = CallId { attempt, number: 1 };
    let (result, index) = (Text::from("the result"), Text::from("# Index"));

    let mut start = crew.start(tasks[0], 1);
    start.links.push((tasks[1], tasks[0], LinkKind::Requires));
    start.attempts.push(NewAttempt { id: attempt, role: Role::from("coder"), model: "cheap".into() });
    start.calls.push(NewCall {
        id: call,
        purpose: "task",
        model: "cheap".into(),
        provider: "stub".into(),
        input_hash: TextHash::of("in"),
        reserved: Some(MicroUsd(7)),
    });
    start.contexts.push(NewContext { id: attempt, tokens: 10, budget: 20, items: "[]".into() });
    assert_eq!(crew.done(start).await, [1]);

    let row = &crew.store.calls(crew.run).await.unwrap()[0];
    assert_eq!((row.outcome, row.cost, row.started_at), (None, None, at(5)));
    let row = &crew.store.attempts(crew.run).await.unwrap()[0];
    assert_eq!((row.status, row.finished_at), (AttemptStatus::Running, None));

    let mut finish = crew.finish(tasks[0], 1);
    finish.at = at(9);
    finish.transitions[0].result = Some(result.hash);
    finish.transitions[0].model = Some("cheap".into());
    finish.transitions[0].usage = usage(100, 50);
    finish.transitions[0].cost = MicroUsd(7);
    finish.attempts_ended.push(AttemptEnd {
        id: attempt,
        ok: true,
        model: "strong".into(),
        usage: usage(100, 50),
        cost: MicroUsd(7),
        error: None,
    });
    let why = ErrorNote { code: "model.odd".into(), kind: ErrorKind::Timeout, message: "slow\0".into() };
    finish.calls_ended.push(CallEnd {
        id: call,
        outcome: CallOutcome::Ok,
        usage: usage(100, 50),
        cost: Some(MicroUsd(7)),
        elapsed: Duration::from_micros(1_234),
        reply: Some(result.hash),
        error: Some(why.clone()),
    });
    finish.texts = vec![result.clone(), index.clone(), result.clone()];
    finish.index = Some(index.hash);
    // The same text as the result: it is kept once.
    finish.memories.push(memory("p", Some(crew.run), Some(tasks[0]), "the result"));
    finish.events.push(note(tasks[0]));
    assert_eq!(crew.done(finish).await, [2, 3]);
    assert_eq!(place.count("memories WHERE text IS NULL").await, 1);

    let found = crew.store.tasks(crew.run).await.unwrap();
    assert_eq!(found.iter().map(|it| it.id).collect::<Vec<_>>(), [crew.root, tasks[0], tasks[1]]);
    let expected = Task {
        status: TaskStatus::Completed,
        attempts: 1,
        result: Some(result.hash),
        model: Some("cheap".into()),
        usage: usage(100, 50),
        cost: MicroUsd(7),
        started_at: Some(at(5)),
        finished_at: Some(at(9)),
        ..task_of(crew.run, tasks[0], 1)
    };
    assert_eq!(found[1], expected);
    assert_eq!(found[2], task_of(crew.run, tasks[1], 2));
    assert_eq!(crew.store.links(crew.run).await.unwrap(), [(tasks[1], tasks[0], LinkKind::Requires)]);

    let row = crew.store.attempts(crew.run).await.unwrap().remove(0);
    assert_eq!((row.id, row.status, row.model.as_str()), (attempt, AttemptStatus::Succeeded, "strong"));
    assert_eq!((row.usage, row.cost, row.finished_at), (usage(100, 50), MicroUsd(7), Some(at(9))));
    let row = crew.store.calls(crew.run).await.unwrap().remove(0);
    assert_eq!((row.id, row.outcome, row.elapsed), (call, Some(CallOutcome::Ok), Duration::from_micros(1_234)));
    assert_eq!((row.reply, row.cost, row.error), (Some(result.hash), Some(MicroUsd(7)), Some(why)));
    assert_eq!((row.purpose.as_str(), row.provider.as_str(), row.input_hash), ("task", "stub", TextHash::of("in")));
    let row = crew.store.contexts(tasks[0]).await.unwrap().remove(0);
    assert_eq!((row.id, row.tokens, row.budget, row.items.as_str(), row.at), (attempt, 10, 20, "[]", at(5)));
    let texts = crew.store.texts(&[result.hash, index.hash, TextHash::of("none")]).await.unwrap();
    assert_eq!(texts, HashMap::from([(result.hash, result.body), (index.hash, index.body)]));
    let events = crew.store.events(crew.run, 1, 10).await.unwrap();
    assert_eq!(events.iter().map(|it| it.seq).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(events[0].body, EventBody::AwaitingApproval { what: "x".into() });
    assert_eq!((events[0].task, events[0].attempt, events[0].at), (Some(tasks[0]), Some(1), at(6)));
    assert_eq!(crew.store.events(crew.run, 0, 1).await.unwrap().len(), 1);

    let mut end = crew.change();
    end.run_status = Some(RunEnd { status: RunStatus::Failed, finished_at: at(11), error: Some("{}".into()) });
    crew.done(end).await;
    let row = crew.store.run(crew.run).await.unwrap().unwrap();
    assert_eq!((row.status, row.finished_at, row.error.as_deref()), (RunStatus::Failed, Some(at(11)), Some("{}")));
    assert_eq!((row.index, row.last_seq, row.owner.as_ref(), row.lease_until), (Some(index.hash), 3, None, None));
    assert_eq!((&*row.project, &*row.goal, row.settings.as_str()), ("p", "the goal", "{}"));
    assert_eq!(row.registry, TextHash::of("registry"));
    assert_eq!(crew.store.runs(Some("p"), 10).await.unwrap(), [row]);
    assert_eq!(crew.store.runs(Some("q"), 10).await.unwrap(), []);
}

async fn a_stale_transition_writes_nothing(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(3).await;
    crew.done(crew.start(tasks[0], 1)).await;

    // The same start again, with something of everything.
    let mut stale = crew.start(tasks[0], 1);
    let new = TaskId::new(&mut crew.ids);
    let attempt = AttemptId { task: tasks[1], number: 1 };
    stale.transitions.push(crew.start(tasks[1], 1).transitions.remove(0));
    stale.tasks.push(task_of(crew.run, new, 9));
    stale.links.push((tasks[1], tasks[2], LinkKind::Refers));
    stale.attempts.push(NewAttempt { id: attempt, role: Role::from("coder"), model: "m".into() });
    stale.calls.push(NewCall {
        id: CallId { attempt, number: 1 },
        purpose: "task",
        model: "m".into(),
        provider: "p".into(),
        input_hash: TextHash::of(""),
        reserved: Some(MicroUsd(7)),
    });
    stale.contexts.push(NewContext { id: attempt, tokens: 1, budget: 1, items: "[]".into() });
    stale.texts.push(Text::from("stale"));
    stale.memories.push(memory("p", None, None, "stale"));
    stale.index = Some(TextHash::of("stale"));
    stale.run_status = Some(RunEnd { status: RunStatus::Failed, finished_at: at(1), error: None });
    // A wrong attempt and a wrong status are stale, too.
    let wrong_attempt = crew.finish(tasks[0], 2);
    let wrong_status = crew.finish(tasks[1], 0);

    let before = place.counts().await;
    let answer = crew.store.commit(&[stale, crew.start(tasks[2], 1), wrong_attempt, wrong_status]).await.unwrap();
    assert_eq!(answer[0], Committed::Stale);
    assert!(matches!(&answer[1], Committed::Done { events } if events.len() == 1 && events[0].seq == 2));
    assert_eq!(answer[2..], [Committed::Stale, Committed::Stale]);

    let mut after = place.counts().await;
    *after.get_mut("events").unwrap() -= 1;
    assert_eq!(after, before);
    assert_eq!(crew.status(tasks[0]).await, (TaskStatus::InProgress, 1));
    assert_eq!(crew.status(tasks[1]).await, (TaskStatus::Pending, 0));
    assert_eq!(crew.status(tasks[2]).await, (TaskStatus::InProgress, 1));
    let row = crew.store.run(crew.run).await.unwrap().unwrap();
    assert_eq!((row.status, row.index, row.last_seq), (RunStatus::Running, None, 2));
}

async fn a_stale_epoch_writes_nothing(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(2).await;
    let mut old = crew.start(tasks[0], 1);
    old.texts.push(Text::from("old"));
    let mut eventless = Change::new(crew.run, crew.epoch, at(1));
    eventless.texts.push(Text::from("eventless"));
    let epoch = crew.store.claim_run(crew.run, "other", Duration::from_mins(1), Claim::Force).await.unwrap();
    assert_eq!(epoch, crew.epoch + 1);
    crew.epoch = epoch;
    let new = crew.start(tasks[1], 1);
    let mut future = crew.start(tasks[0], 1);
    future.epoch += 1;
    let answer = crew.store.commit(&[old, new, eventless, future]).await.unwrap();
    assert_eq!(answer.iter().map(is_done).collect::<Vec<_>>(), [false, true, false, false]);
    assert_eq!(place.count("texts").await, 0);
    assert_eq!(crew.status(tasks[0]).await, (TaskStatus::Pending, 0));
    let unknown = Change::new("zzzzzzzz".parse().unwrap(), 1, at(1));
    assert_eq!(crew.store.commit(&[unknown]).await.unwrap(), [Committed::Stale]);
    assert_eq!(crew.store.commit(&[]).await.unwrap(), []);
}

async fn an_unknown_task_makes_a_change_stale(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let mut other = Crew::on(crew.store.clone(), "p", 2).await;
    let (mine, theirs) = (crew.tasks(1).await[0], other.tasks(1).await[0]);
    let nobody = TaskId::new(&mut crew.ids);
    let mut attempt = crew.change();
    attempt.attempts.push(NewAttempt {
        id: AttemptId { task: nobody, number: 1 },
        role: Role::from("coder"),
        model: "m".into(),
    });
    attempt.events.push(note(nobody));
    let changes = [attempt, crew.start(nobody, 1), crew.start(theirs, 1), crew.start(mine, 1)];
    let answer = crew.store.commit(&changes).await.unwrap();
    assert_eq!(answer.iter().map(is_done).collect::<Vec<_>>(), [false, false, false, true]);
    assert_eq!(other.status(theirs).await, (TaskStatus::Pending, 0));
    assert_eq!(crew.store.run(crew.run).await.unwrap().unwrap().last_seq, 1);
}

async fn a_refused_row_fails_the_whole_batch(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(2).await;
    let attempt =
        NewAttempt { id: AttemptId { task: tasks[0], number: 1 }, role: Role::from("coder"), model: "m".into() };
    let mut first = crew.start(tasks[0], 1);
    first.attempts.push(attempt.clone());
    crew.done(first).await;
    let mut again = crew.change();
    again.attempts.push(attempt);
    let error = crew.store.commit(&[crew.start(tasks[1], 1), again]).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Internal, "store.internal"), "{error:?}");
    assert_eq!(crew.status(tasks[1]).await, (TaskStatus::Pending, 0));
    let mut running = crew.change();
    running.run_status = Some(RunEnd { status: RunStatus::Running, finished_at: at(1), error: None });
    assert_eq!(crew.store.commit(&[running]).await.unwrap_err().kind(), ErrorKind::Internal);
    // The store goes on.
    assert_eq!(crew.done(crew.start(tasks[1], 1)).await, [2]);
}

async fn event_numbers_have_no_gaps(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let mut other = Crew::on(crew.store.clone(), "q", 2).await;
    let second = place.open().await;
    let (mine, theirs) = (crew.tasks(100).await, other.tasks(100).await);
    let batches: Vec<[Change; 3]> = mine
        .iter()
        .zip(&theirs)
        // Every third start is repeated and thus stale; it must not take a number.
        .map(|(mine, theirs)| [crew.start(*mine, 1), other.start(*theirs, 1), crew.start(*mine, 1)])
        .collect();
    let commits = batches.iter().flat_map(|batch| {
        let store = if batch[0].transitions[0].task.as_str() < "i" { &crew.store } else { &second };
        [store.commit(&batch[..1]), store.commit(&batch[1..])]
    });
    let answers = futures::future::join_all(commits).await;
    let mut seqs = HashMap::<RunId, Vec<u64>>::new();
    for answer in answers.into_iter().flat_map(Result::unwrap) {
        if let Committed::Done { events } = answer {
            for event in events {
                seqs.entry(event.run).or_default().push(event.seq);
            }
        }
    }
    for run in [crew.run, other.run] {
        let given = seqs.get_mut(&run).unwrap();
        given.sort_unstable();
        assert_eq!(*given, (1..=100).collect::<Vec<u64>>());
        let events = crew.store.events(run, 0, 1_000).await.unwrap();
        assert_eq!(events.iter().map(|it| it.seq).collect::<Vec<_>>(), *given);
    }
}

async fn changes_of_one_task_keep_their_order(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(3).await;
    // Two changes of a batch, and two transitions of one change; a third of each is stale.
    let mut both = crew.start(tasks[1], 1);
    both.transitions.push(crew.finish(tasks[1], 1).transitions.remove(0));
    let mut twice = both.clone();
    twice.transitions.rotate_left(1);
    twice.transitions.iter_mut().for_each(|it| it.task = tasks[2]);
    let answer = crew
        .store
        .commit(&[crew.start(tasks[0], 1), crew.finish(tasks[0], 1), both, crew.finish(tasks[0], 1), twice])
        .await
        .unwrap();
    assert_eq!(answer.iter().map(is_done).collect::<Vec<_>>(), [true, true, true, false, false]);
    assert_eq!(crew.status(tasks[0]).await, (TaskStatus::Completed, 1));
    assert_eq!(crew.status(tasks[1]).await, (TaskStatus::Completed, 1));
    assert_eq!(crew.status(tasks[2]).await, (TaskStatus::Pending, 0));
    assert_eq!(crew.store.run(crew.run).await.unwrap().unwrap().last_seq, 3);

    // A batch may make a task, begin it and end it.
    let new = TaskId::new(&mut crew.ids);
    let mut make = crew.change();
    make.tasks.push(task_of(crew.run, new, 9));
    make.links.push((new, tasks[0], LinkKind::Requires));
    let answer = crew.store.commit(&[make, crew.start(new, 1), crew.finish(new, 1)]).await.unwrap();
    assert!(answer.iter().all(is_done));
    assert_eq!(crew.status(new).await, (TaskStatus::Completed, 1));

    // Back from a final status: `finished_at` goes, `started_at` stays.
    let mut retry = crew.change();
    retry.at = at(50);
    retry.transitions.push(Transition {
        attempts_from: 1,
        attempts_to: 2,
        ..step(new, TaskStatus::Completed, TaskStatus::InProgress)
    });
    crew.done(retry).await;
    let task = crew.store.tasks(crew.run).await.unwrap().pop().unwrap();
    assert_eq!((task.started_at, task.finished_at), (Some(at(5)), None));
}

async fn a_run_ends_once(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let mut end = crew.change();
    end.run_status = Some(RunEnd { status: RunStatus::Interrupted, finished_at: at(8), error: None });
    end.events.push(NewEvent::of_run(at(8), EventBody::SummaryReady { kind: "x".into() }));
    let mut again = end.clone();
    again.run_status = Some(RunEnd { status: RunStatus::Failed, finished_at: at(9), error: None });
    let answer = crew.store.commit(&[end.clone(), again]).await.unwrap();
    assert_eq!(answer.iter().map(is_done).collect::<Vec<_>>(), [true, false]);
    assert_eq!(crew.store.commit(&[end]).await.unwrap(), [Committed::Stale]);
    let row = crew.store.run(crew.run).await.unwrap().unwrap();
    assert_eq!((row.status, row.last_seq, row.finished_at), (RunStatus::Interrupted, 1, Some(at(8))));
}

async fn a_repeated_memory_is_one_record(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let mut change = crew.change();
    change.memories = vec![memory("p", None, None, "one"), memory("p", None, None, "one")];
    crew.done(change.clone()).await;
    change.memories.push(MemoryRecord {
        kind: MemoryType::Other("sonnet".into()),
        source_ids: vec![MemoryId(1), MemoryId(u128::MAX)],
        run: Some(crew.run),
        task: Some(crew.root),
        ..memory("p", None, Some(crew.root), "two")
    });
    crew.done(change.clone()).await;
    let scope = ProjectScope::of("p");
    let found = crew.store.memories(&scope, 0, 10).await.unwrap();
    let records: Vec<_> = found.iter().map(|(_, record)| record.clone()).collect();
    assert_eq!(records, [change.memories[0].clone(), change.memories[2].clone()]);
    assert!(found[0].0 < found[1].0);
    let later = crew.store.memories(&scope, found[0].0, 10).await.unwrap();
    assert_eq!(later, found[1..]);
    assert_eq!(crew.store.memories(&scope, 0, 1).await.unwrap(), found[..1]);
}

async fn memories_are_drained(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let mut change = crew.change();
    change.memories = (0..5).map(|n| memory("p", None, None, &format!("text {n}"))).collect();
    crew.done(change.clone()).await;
    assert_eq!(crew.store.memory_outbox_depth().await.unwrap(), 5);
    let first: Vec<MemoryId> = crew.store.memory_outbox(2).await.unwrap().iter().map(|(_, record)| record.id).collect();
    assert_eq!(first, [change.memories[0].id, change.memories[1].id]);
    crew.store.memory_done("m", &first, None).await.unwrap();
    crew.store.memory_done("m", &[MemoryId(7), first[0]], None).await.unwrap();
    crew.store.memory_done("m", &[], None).await.unwrap();
    assert_eq!(crew.store.memory_outbox_depth().await.unwrap(), 3);
    let rest = crew.store.memory_outbox(10).await.unwrap();
    assert_eq!(rest.iter().map(|(_, it)| it.id).collect::<Vec<_>>(), [2, 3, 4].map(|n| change.memories[n].id));
    // A repeated write does not come back to the outbox.
    crew.done(change).await;
    assert_eq!(crew.store.memory_outbox_depth().await.unwrap(), 3);
    assert_eq!(crew.store.memories(&ProjectScope::of("p"), 0, 10).await.unwrap().len(), 5);
}

async fn vectors_round_trip(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let mut change = crew.change();
    change.memories = (0..3).map(|n| memory("p", None, None, &format!("text {n}"))).collect();
    change.memories.push(memory("q", None, None, "text 0"));
    crew.done(change.clone()).await;
    let ids: Vec<MemoryId> = change.memories.iter().map(|it| it.id).collect();
    let vectors = vec![vec![0.0, -1.5, f32::MIN_POSITIVE], vec![f32::MAX], vec![], vec![3.0]];
    crew.store.memory_done("mini", &ids, Some(&vectors)).await.unwrap();
    let found = crew.store.vectors(&ProjectScope::of("p"), "mini").await.unwrap();
    assert_eq!(found, [0, 1, 2].map(|n| (ids[n], vectors[n].clone())));
    assert_eq!(crew.store.vectors(&ProjectScope::of("p"), "other").await.unwrap(), []);
    assert_eq!(crew.store.vectors(&ProjectScope::of("q"), "mini").await.unwrap(), [(ids[3], vec![3.0])]);
    // Replaced, also when an id is named twice or is not there.
    let new = [vec![1.0], vec![2.0], vec![2.0]];
    crew.store.memory_done("mini", &[ids[0], MemoryId(7), ids[0]], Some(&new)).await.unwrap();
    assert_eq!(crew.store.vectors(&ProjectScope::of("p"), "mini").await.unwrap()[0], (ids[0], vec![2.0]));
    assert_eq!(crew.store.memory_outbox_depth().await.unwrap(), 0);
    let error = crew.store.memory_done("mini", &ids, Some(&new)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

async fn a_thousand_changes_in_one_commit(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(1_000).await;
    let changes: Vec<Change> = tasks.iter().map(|task| crew.start(*task, 1)).collect();
    let answer = crew.store.commit(&changes).await.unwrap();
    assert!(answer.iter().all(is_done));
    let found = crew.store.tasks(crew.run).await.unwrap();
    assert_eq!(found.iter().filter(|it| it.status == TaskStatus::InProgress).count(), 1_000);
    // A store that meets the tasks for the first time looks them up.
    let changes: Vec<Change> = tasks.iter().map(|task| crew.finish(*task, 1)).collect();
    let answer = place.open().await.commit(&changes).await.unwrap();
    assert!(answer.iter().all(is_done));
    assert_eq!(crew.store.run(crew.run).await.unwrap().unwrap().last_seq, 2_000);
}

async fn projects_are_isolated(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let mut change = crew.change();
    let mut twin = memory("q", None, None, "the same text");
    // Even with the same id.
    twin.id = memory("p", None, None, "the same text").id;
    change.memories = vec![memory("p", None, None, "the same text"), twin.clone()];
    crew.done(change.clone()).await;
    for (project, record) in [("p", &change.memories[0]), ("q", &twin)] {
        let found = crew.store.memories(&ProjectScope::of(project), 0, 10).await.unwrap();
        assert_eq!(found.iter().map(|(_, it)| it).collect::<Vec<_>>(), [record]);
    }
    assert_eq!(crew.store.memories(&ProjectScope::of("P"), 0, 10).await.unwrap(), []);
    assert_eq!(crew.store.memories(&ProjectScope::of("p%"), 0, 10).await.unwrap(), []);
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

async fn settings_are_replaced(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    crew.store.configure_run(crew.run, crew.epoch, r#"{"x":1}"#).await.unwrap();
    let error = crew.store.configure_run(crew.run, crew.epoch + 1, "{}").await.unwrap_err();
    assert!(matches!(error, Error::Stale { .. }));
    assert_eq!(crew.store.run(crew.run).await.unwrap().unwrap().settings, r#"{"x":1}"#);
}

async fn a_batch_of_many_runs(place: &Place) {
    let store = place.open().await;
    let mut changes = Vec::new();
    for seed in 0..300 {
        let crew = Crew::on(store.clone(), "p", seed).await;
        let mut change = crew.change();
        change.epoch += u64::from(seed == 150);
        change.events.push(note(crew.root));
        changes.push(change);
    }
    let answer = store.commit(&changes).await.unwrap();
    assert_eq!(answer.iter().filter(|it| is_done(it)).count(), 299);
    assert_eq!(answer[150], Committed::Stale);
    assert_eq!(place.count("events WHERE seq = 1").await, 299);
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

async fn any_character_is_kept(place: &Place) {
    let odd = "ünï 日本語 🦀 '\"\\ \u{202e} \u{1} \u{feff} ? $1 %s";
    let crew = Crew::new(place, odd, 1).await;
    let mut change = crew.change();
    let task = TaskId::new(&mut IdSource::seeded(99));
    change.tasks.push(Task { title: odd.into(), description: "a\0b".into(), ..task_of(crew.run, task, 1) });
    change.texts = vec![Text::from(odd), Text::from("nul\0nul"), Text::from("")];
    change.memories = vec![memory(odd, None, None, odd), memory(odd, None, None, "m\0")];
    change.events.push(NewEvent::of_run(at(1), EventBody::AwaitingApproval { what: format!("{odd}\0").into() }));
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
        EventBody::TaskStarted { key: text.clone(), title: text.clone(), role: role.clone(), model: text.clone() },
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
        },
        EventBody::TaskCompleted {
            key: text.clone(),
            role: role.clone(),
            model: text.clone(),
            usage: usage(3, 4),
            cost_usd: MicroUsd(1_234_567),
            elapsed_ms: u64::MAX,
        },
        EventBody::TaskFailed { key: text.clone(), role, error: error.clone(), will_retry: true },
        EventBody::TaskBlocked { key: text.clone(), reason: text.clone() },
        EventBody::AwaitingApproval { what: text.clone() },
        EventBody::MemoryStored { memory: text.clone(), kind: text.clone() },
        EventBody::SummaryReady { kind: text.clone() },
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

async fn a_dropped_commit_is_whole_or_nothing(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(60).await;
    for (polls, task) in tasks.iter().enumerate() {
        let mut change = crew.start(*task, 1);
        change.texts.push(Text::from(task.as_str()));
        let changes = [change];
        let mut commit = std::pin::pin!(crew.store.commit(&changes));
        for _ in 0..polls {
            if matches!(futures::poll!(commit.as_mut()), Poll::Ready(_)) {
                break;
            }
            // A real wait, so that the database gets on between the polls.
            crew.store.check().now_or_never();
            tokio::time::sleep(Duration::from_micros(50)).await;
        }
    }
    let last = TaskId::new(&mut crew.ids);
    let mut change = crew.change();
    change.tasks.push(task_of(crew.run, last, 99));
    crew.done(change).await;
    let texts = crew.store.texts(&tasks.iter().map(|it| TextHash::of(it.as_str())).collect::<Vec<_>>()).await.unwrap();
    let events = crew.store.events(crew.run, 0, 1_000).await.unwrap();
    let started = crew.store.tasks(crew.run).await.unwrap();
    let started: Vec<TaskId> =
        started.iter().filter(|it| it.status == TaskStatus::InProgress).map(|it| it.id).collect();
    assert_eq!(events.iter().map(|it| it.task.unwrap()).collect::<Vec<_>>(), started);
    assert_eq!(texts.len(), started.len());
    assert!(started.iter().all(|it| texts.contains_key(&TextHash::of(it.as_str()))));
    assert!(!started.contains(&tasks[0]));
}

async fn late_ends_do_nothing(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let task = crew.tasks(1).await[0];
    let attempt = AttemptId { task, number: 1 };
    let call = CallId { attempt, number: 1 };
    let mut start = crew.change();
    start.attempts.push(NewAttempt { id: attempt, role: Role::from("r"), model: "m".into() });
    start.calls.push(NewCall {
        id: call,
        purpose: "task",
        model: "m".into(),
        provider: "p".into(),
        input_hash: TextHash::of(""),
        reserved: Some(MicroUsd(7)),
    });
    let mut end = crew.change();
    end.attempts_ended.push(AttemptEnd {
        id: attempt,
        ok: false,
        model: "m".into(),
        usage: Usage::default(),
        cost: MicroUsd::ZERO,
        error: None,
    });
    end.calls_ended.push(CallEnd {
        id: call,
        outcome: CallOutcome::Lost,
        usage: Usage::default(),
        cost: None,
        elapsed: Duration::ZERO,
        reply: None,
        error: None,
    });
    let mut late = end.clone();
    late.attempts_ended[0].ok = true;
    late.calls_ended[0].outcome = CallOutcome::Ok;
    // Beginning and end may come in one batch.
    assert!(crew.store.commit(&[start, end]).await.unwrap().iter().all(is_done));
    crew.done(late).await;
    assert_eq!(crew.store.attempts(crew.run).await.unwrap()[0].status, AttemptStatus::Failed);
    assert_eq!(crew.store.calls(crew.run).await.unwrap()[0].outcome, Some(CallOutcome::Lost));
}

async fn the_database_answers(place: &Place) {
    let store = place.open().await;
    store.check().await.unwrap();
    assert!(!format!("{store:?}").contains("postgres@"));
}

#[tokio::test]
async fn memory_only() {
    let store = Store::open("sqlite::memory:").await.unwrap();
    let mut crew = Crew::on(store, "p", 1).await;
    let tasks = crew.tasks(3).await;
    crew.done(crew.start(tasks[0], 1)).await;
    let changes = [crew.start(tasks[1], 1)];
    // A commit that is dropped does not keep readers from the only connection.
    for polls in 0..20 {
        let mut commit = std::pin::pin!(crew.store.commit(&changes));
        for _ in 0..polls {
            if matches!(futures::poll!(commit.as_mut()), Poll::Ready(_)) {
                break;
            }
            tokio::time::sleep(Duration::from_micros(50)).await;
        }
    }
    assert_eq!(crew.status(tasks[0]).await, (TaskStatus::InProgress, 1));
    crew.store.check().await.unwrap();
    assert_eq!(crew.status(tasks[2]).await, (TaskStatus::Pending, 0));
}
