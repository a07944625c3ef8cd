//! Runs, their tasks, and what is written of them.

use std::{collections::HashMap, task::Poll, time::Duration};

use crewline_store::{
    AttemptEnd, AttemptStatus, CallEnd, Change, Claim, Committed, CostBy, Error, NewAttempt, NewCall, NewContext,
    RunEnd, Store, Transition,
};
use crewline_types::{
    AttemptId, CallId, ErrorKind, EventBody, MicroUsd, Role, RunId, RunStatus, Task, TaskId, TaskKind, TaskStatus,
    Text, TextHash, Usage,
    event::{CallOutcome, ErrorNote, NewEvent},
    task::LinkKind,
};
use futures::FutureExt as _;

use crate::{
    common::{Crew, Place, at, is_done, note, step, task_of},
    memories::memory,
    values::usage,
};

on_both! {
    opening_twice_changes_nothing
    a_newer_schema_is_refused
    the_full_life_of_a_run
    a_stale_transition_writes_nothing
    what_is_completed_keeps_its_result
    a_text_is_stored_once
    a_stale_epoch_writes_nothing
    an_unknown_task_makes_a_change_stale
    a_refused_row_fails_the_whole_batch
    event_numbers_have_no_gaps
    changes_of_one_task_keep_their_order
    a_run_ends_once
    a_thousand_changes_in_one_commit
    a_batch_of_many_runs
    a_dropped_commit_is_whole_or_nothing
    late_ends_do_nothing
    the_database_answers
    answers_and_costs_add_up
}

async fn opening_twice_changes_nothing(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let migrations = place.count("seaql_migrations").await;
    let (again, once_more) = tokio::join!(place.open(), place.open());
    for store in [again, once_more] {
        assert_eq!(store.run(crew.run).await.unwrap(), crew.store.run(crew.run).await.unwrap());
    }
    assert_eq!(place.count("seaql_migrations").await, migrations);
}

async fn a_newer_schema_is_refused(place: &Place) {
    drop(place.open().await);
    place.execute("INSERT INTO seaql_migrations (version, applied_at) VALUES ('m999_later', 0)").await;
    let error = Store::open(&place.url).await.unwrap_err();
    assert!(
        matches!(&error, Error::NewerSchema { found, known, .. } if found == "m999_later" && known.starts_with("m0")),
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
    start.attempts.push(NewAttempt {
        id: attempt,
        role: Role::from("coder"),
        model: "cheap".into(),
        input_hash: Some(TextHash::of("all")),
    });
    start.calls.push(NewCall {
        id: call,
        purpose: "task",
        model: "cheap".into(),
        provider: "stub".into(),
        input_hash: TextHash::of("in"),
        reserved: Some(MicroUsd(7)),
    });
    start.contexts.push(NewContext {
        id: attempt,
        tokens: 10,
        budget: 20,
        items: "[]".into(),
        bundle: None,
        prompt: None,
        tokenizer: Some("o200k".into()),
    });
    assert_eq!(crew.done(start).await, [1]);

    let row = &crew.store.calls(crew.run).await.unwrap()[0];
    assert_eq!((row.outcome, row.cost, row.started_at), (None, None, at(5)));
    let row = &crew.store.attempts(crew.run).await.unwrap()[0];
    assert_eq!((row.status, row.finished_at), (AttemptStatus::Running, None));
    assert_eq!(row.input_hash, Some(TextHash::of("all")));

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
    assert_eq!(row.tokenizer.as_deref(), Some("o200k"));
    let texts = crew.store.texts(&[result.hash, index.hash, TextHash::of("none")]).await.unwrap();
    assert_eq!(texts, HashMap::from([(result.hash, result.body), (index.hash, index.body)]));
    let events = crew.store.events(crew.run, 1, 10).await.unwrap();
    assert_eq!(events.iter().map(|it| it.seq).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(events[0].body, EventBody::AwaitingApproval { what: "x".into(), approval: None, kind: None });
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
    stale.attempts.push(NewAttempt { id: attempt, role: Role::from("coder"), model: "m".into(), input_hash: None });
    stale.calls.push(NewCall {
        id: CallId { attempt, number: 1 },
        purpose: "task",
        model: "m".into(),
        provider: "p".into(),
        input_hash: TextHash::of(""),
        reserved: Some(MicroUsd(7)),
    });
    stale.contexts.push(NewContext {
        id: attempt,
        tokens: 1,
        budget: 1,
        items: "[]".into(),
        bundle: None,
        prompt: None,
        tokenizer: None,
    });
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

async fn what_is_completed_keeps_its_result(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let task = crew.tasks(1).await[0];
    crew.done(crew.start(task, 1)).await;
    let with = |text: &str, from, attempt| {
        let mut change = crew.finish(task, attempt);
        change.transitions[0].from = from;
        change.transitions[0].result = Some(Text::from(text).hash);
        change.texts.push(Text::from(text));
        change
    };
    // The same result twice at once: it is recorded once.
    let twice = [with("first", TaskStatus::InProgress, 1), with("second", TaskStatus::InProgress, 1)];
    let answer = crew.store.commit(&twice).await.unwrap();
    assert_eq!(answer.iter().map(is_done).collect::<Vec<_>>(), [true, false]);
    let before = place.counts().await;
    for from in [TaskStatus::Pending, TaskStatus::InProgress, TaskStatus::Blocked, TaskStatus::Failed] {
        for attempt in 0..3 {
            assert_eq!(crew.commit(with("late", from, attempt)).await, Committed::Stale, "{from:?} {attempt}");
        }
    }
    for attempt in 1..3 {
        assert_eq!(crew.commit(crew.start(task, attempt)).await, Committed::Stale);
    }
    assert_eq!(place.counts().await, before);
    let row = crew.store.tasks(crew.run).await.unwrap().into_iter().find(|it| it.id == task).unwrap();
    assert_eq!((row.status, row.result), (TaskStatus::Completed, Some(Text::from("first").hash)));
}

async fn a_text_is_stored_once(place: &Place) {
    let crews = [Crew::new(place, "p", 1).await, Crew::on(place.open().await, "q", 2).await];
    let long = "a long text ".repeat(10_000);
    for crew in &crews {
        for _ in 0..3 {
            let mut changes = [crew.change(), crew.change()];
            for change in &mut changes {
                change.texts.extend([Text::from(long.as_str()), Text::from(long.as_str())]);
            }
            assert!(crew.store.commit(&changes).await.unwrap().iter().all(is_done));
        }
    }
    assert_eq!(place.count("texts").await, 1, "whoever says it, and however often");
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
    future.fence = (crew.epoch + 1).into();
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
        input_hash: None,
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
    let attempt = NewAttempt {
        id: AttemptId { task: tasks[0], number: 1 },
        role: Role::from("coder"),
        model: "m".into(),
        input_hash: None,
    };
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
    end.events
        .push(NewEvent::of_run(at(8), EventBody::AwaitingApproval { what: "x".into(), approval: None, kind: None }));
    let mut again = end.clone();
    again.run_status = Some(RunEnd { status: RunStatus::Failed, finished_at: at(9), error: None });
    let answer = crew.store.commit(&[end.clone(), again]).await.unwrap();
    assert_eq!(answer.iter().map(is_done).collect::<Vec<_>>(), [true, false]);
    assert_eq!(crew.store.commit(&[end]).await.unwrap(), [Committed::Stale]);
    let row = crew.store.run(crew.run).await.unwrap().unwrap();
    assert_eq!((row.status, row.last_seq, row.finished_at), (RunStatus::Interrupted, 1, Some(at(8))));
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

async fn a_batch_of_many_runs(place: &Place) {
    let store = place.open().await;
    let mut changes = Vec::new();
    for seed in 0..300 {
        let crew = Crew::on(store.clone(), "p", seed).await;
        let mut change = crew.change();
        change.fence = (crew.epoch + u64::from(seed == 150)).into();
        change.events.push(note(crew.root));
        changes.push(change);
    }
    let answer = store.commit(&changes).await.unwrap();
    assert_eq!(answer.iter().filter(|it| is_done(it)).count(), 299);
    assert_eq!(answer[150], Committed::Stale);
    assert_eq!(place.count("events WHERE seq = 1").await, 299);
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
    start.attempts.push(NewAttempt { id: attempt, role: Role::from("r"), model: "m".into(), input_hash: None });
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

async fn answers_and_costs_add_up(place: &Place) {
    let mut crew = Crew::new(place, "one", 31).await;
    let tasks = crew.tasks(2).await;
    let mut change = crew.start(tasks[0], 1);
    let id = |number| CallId { attempt: AttemptId { task: tasks[0], number: 1 }, number };
    for (number, model) in [(1, "cheap"), (2, "dear"), (3, "cheap"), (4, "cheap")] {
        change.calls.push(NewCall {
            id: id(number),
            purpose: "task",
            model: model.into(),
            provider: "stub".into(),
            input_hash: TextHash::of("asked"),
            reserved: Some(MicroUsd(900)),
        });
    }
    for (number, outcome, cost) in [
        (1, CallOutcome::Invalid, Some(MicroUsd(10))),
        (2, CallOutcome::Ok, Some(MicroUsd(700))),
        (3, CallOutcome::Timeout, None),
    ] {
        change.calls_ended.push(CallEnd {
            id: id(number),
            outcome,
            usage: Usage { input_tokens: 5, output_tokens: 2, estimated: number == 3, ..Usage::default() },
            cost,
            elapsed: Duration::from_millis(3),
            reply: None,
            error: None,
        });
    }
    crew.done(change).await;
    let other = Crew::on(crew.store.clone(), "two", 32).await;

    // Only answers count: a timeout says nothing of the model's skill.
    let answers = crew.store.answers(100).await.unwrap();
    let read: Vec<_> =
        answers.iter().map(|it| (it.role.as_str(), it.model.as_str(), it.accepted, it.rejected)).collect();
    assert_eq!(read, [("coder", "cheap", 0, 1), ("coder", "dear", 1, 0)]);
    assert_eq!(answers[0].kind, TaskKind::Atomic);
    assert_eq!(crew.store.answers(1).await.unwrap().iter().map(|it| it.accepted + it.rejected).sum::<u64>(), 1);

    let costs = async |project, by| crew.store.costs(project, by, 10).await.unwrap();
    let by_model = costs(None, CostBy::Model).await;
    assert_eq!(by_model.iter().map(|it| it.key.as_str()).collect::<Vec<_>>(), ["dear", "cheap"]);
    assert_eq!((by_model[1].calls, by_model[1].unpriced, by_model[1].cost), (3, 2, MicroUsd(10)));
    assert_eq!((by_model[1].usage.input_tokens, by_model[1].usage.estimated), (10, true));
    assert!(!by_model[0].usage.estimated);
    for (by, key) in [
        (CostBy::Role, "coder".to_owned()),
        (CostBy::Run, crew.run.to_string()),
        (CostBy::Task, tasks[0].to_string()),
        (CostBy::Day, "1970-01-01".to_owned()),
    ] {
        let rows = costs(Some("one"), by).await;
        assert_eq!((rows.len(), rows[0].key.as_str(), rows[0].cost), (1, key.as_str(), MicroUsd(710)), "{by}");
        assert!(costs(Some("two"), by).await.is_empty());
    }
    assert!(other.store.task_starts(crew.run, tasks[0]).await.unwrap().is_empty());
}
