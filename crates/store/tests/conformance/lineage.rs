//! Runs that are made from others, runs that go on after they failed, runs that are cancelled; finding by ids.

use std::time::Duration;

use crewline_store::{
    AttemptEnd, Change, Claim, Committed, Error, Lineage, NewAttempt, NewContext, Origin, RunEnd, Transition, Wish,
    Wished,
};
use crewline_types::{
    AttemptId, EventBody, IdSource, MicroUsd, RunId, RunStatus, TaskId, TaskStatus, Text, TextHash, Usage,
    event::NewEvent, task::LinkKind,
};

use crate::common::{Crew, Place, at, root_of, run_of, task_of};

const MINUTE: Duration = Duration::from_mins(1);

on_both! {
    a_child_is_there_as_a_whole
    a_first_change_that_does_not_fit_leaves_no_run
    a_failed_run_is_opened_again
    a_cancelled_run_leaves_no_open_task
    a_wish_outlives_its_managers_restart
    a_run_that_was_brought_to_rest_is_not_claimed_again
    ids_are_found_by_their_beginning
}

async fn a_child_is_there_as_a_whole(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let parent_task = crew.tasks(1).await[0];
    let store = &crew.store;
    let mut ids = IdSource::seeded(77);
    let (run, root) = (RunId::new(&mut ids), TaskId::new(&mut ids));
    let tasks: Vec<TaskId> = (0..300).map(|_| TaskId::new(&mut ids)).collect();
    let attempt = AttemptId { task: tasks[0], number: 1 };
    let result = Text::from("the result");

    let mut change = Change::new(run, 0, at(5));
    change.tasks = (1..).zip(&tasks).map(|(position, id)| task_of(run, *id, position)).collect();
    change.tasks[0].status = TaskStatus::Completed;
    change.tasks[0].attempts = 1;
    change.tasks[0].result = Some(result.hash);
    change.tasks[0].finished_at = Some(at(5));
    change.links.push((tasks[1], tasks[0], LinkKind::Requires));
    let input_hash = Some(TextHash::of("inputs"));
    change.attempts.push(NewAttempt { id: attempt, role: "coder".into(), model: "m".into(), input_hash });
    change.attempts_ended.push(AttemptEnd {
        id: attempt,
        ok: true,
        model: "m".into(),
        usage: Usage::default(),
        cost: MicroUsd::ZERO,
        error: None,
    });
    change.contexts.push(NewContext {
        id: attempt,
        tokens: 7,
        budget: 9,
        items: "[]".into(),
        bundle: None,
        prompt: None,
        tokenizer: None,
    });
    change.copied.push((tasks[0], parent_task));
    change.texts.push(result);
    change.index = Some(TextHash::of("index"));
    change
        .events
        .push(NewEvent::of_run(at(5), EventBody::RunStarted { project: "p".into(), goal: "g".into(), resumed: false }));
    let lineage = Lineage { parent: crew.run, origin: Origin::Replay };
    let events =
        store.create_run_with(&run_of(run, "p"), &root_of(run, root), Some(lineage), None, &change).await.unwrap();
    assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1]);

    let row = store.run(run).await.unwrap().unwrap();
    assert_eq!((row.status, row.lineage, row.last_seq), (RunStatus::Running, Some(lineage), 1));
    assert_eq!((row.owner, row.index), (None, Some(TextHash::of("index"))));
    assert_eq!(store.run(crew.run).await.unwrap().unwrap().lineage, None);
    let found = store.tasks(run).await.unwrap();
    assert_eq!(found.len(), 301);
    assert_eq!(found[1].status, TaskStatus::Completed);
    assert_eq!(store.links(run).await.unwrap(), [(tasks[1], tasks[0], LinkKind::Requires)]);
    assert_eq!(store.copies(run).await.unwrap(), [(tasks[0], parent_task)].into());
    assert!(store.copies(crew.run).await.unwrap().is_empty());
    assert_eq!(store.attempts(run).await.unwrap()[0].input_hash, input_hash);
    let contexts = store.contexts_of_run(run).await.unwrap();
    assert_eq!((contexts.len(), contexts[0].id, contexts[0].tokens), (1, attempt, 7));
    // It is claimed like any other, and goes on from there.
    let epoch = store.claim_run(run, "me", MINUTE, Claim::IfFree).await.unwrap();
    let mut change = Change::new(run, epoch, at(6));
    change
        .transitions
        .push(Transition { attempts_to: 1, ..Transition::new(tasks[1], TaskStatus::Pending, TaskStatus::InProgress) });
    assert!(matches!(store.commit(&[change]).await.unwrap()[..], [Committed::Done { .. }]));
}

async fn a_first_change_that_does_not_fit_leaves_no_run(place: &Place) {
    let store = place.open().await;
    let mut ids = IdSource::seeded(78);
    let (run, root) = (RunId::new(&mut ids), TaskId::new(&mut ids));
    let before = place.counts().await;
    let mut change = Change::new(run, 0, at(5));
    change.transitions.push(Transition::new(TaskId::new(&mut ids), TaskStatus::Pending, TaskStatus::InProgress));
    let error = store.create_run_with(&run_of(run, "p"), &root_of(run, root), None, None, &change).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    assert_eq!(place.counts().await, before);
    // The connection is as good as before.
    let owner = Some(("me", MINUTE));
    let nothing = Change::new(run, 0, at(5));
    store.create_run_with(&run_of(run, "p"), &root_of(run, root), None, owner, &nothing).await.unwrap();
    let row = store.run(run).await.unwrap().unwrap();
    assert_eq!((row.owner.as_deref(), row.epoch), (Some("me"), 1), "it is held from the beginning");
    let refused = store.claim_run(run, "somebody else", MINUTE, Claim::IfFree).await.unwrap_err();
    assert!(matches!(refused, Error::Held { .. }), "{refused}");
}

async fn a_failed_run_is_opened_again(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let store = &crew.store;
    let mut end = crew.change();
    end.run_status = Some(RunEnd { status: RunStatus::Failed, finished_at: at(9), error: Some("{}".into()) });
    crew.done(end).await;
    let refused = store.claim_run(crew.run, "me", MINUTE, Claim::Force).await.unwrap_err();
    assert!(matches!(refused, Error::Finished { status: RunStatus::Failed, .. }), "{refused}");
    store.reopen_run(crew.run).await.unwrap();
    let row = store.run(crew.run).await.unwrap().unwrap();
    assert_eq!((row.status, row.error), (RunStatus::Interrupted, None));
    store.reopen_run(crew.run).await.unwrap();
    store.claim_run(crew.run, "me", MINUTE, Claim::IfFree).await.unwrap();

    let other = Crew::on(store.clone(), "p", 2).await;
    let mut end = other.change();
    end.run_status = Some(RunEnd { status: RunStatus::Completed, finished_at: at(9), error: None });
    other.done(end).await;
    let refused = store.reopen_run(other.run).await.unwrap_err();
    assert!(matches!(refused, Error::Finished { status: RunStatus::Completed, .. }), "{refused}");
}

async fn a_cancelled_run_leaves_no_open_task(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(3).await;
    let mut change = crew.change();
    change
        .transitions
        .push(Transition { attempts_to: 1, ..Transition::new(tasks[0], TaskStatus::Pending, TaskStatus::Completed) });
    crew.done(change).await;
    let mut end = crew.change();
    end.run_status = Some(RunEnd { status: RunStatus::Cancelled, finished_at: at(9), error: None });
    crew.done(end).await;
    let found = crew.store.tasks(crew.run).await.unwrap();
    let of = |id: TaskId| found.iter().find(|task| task.id == id).unwrap();
    assert_eq!(of(tasks[0]).status, TaskStatus::Completed, "what is done stays done");
    for task in &tasks[1..] {
        assert_eq!((of(*task).status, of(*task).finished_at), (TaskStatus::Cancelled, Some(at(9))));
        assert_eq!(of(*task).reason.as_deref(), Some("the run was cancelled"));
    }
}

async fn a_wish_outlives_its_managers_restart(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let store = &crew.store;
    let owner = store.run(crew.run).await.unwrap().unwrap().owner.unwrap();
    store.wish(crew.run, Wish::Cancel).await.unwrap();
    store.claim_run(crew.run, &owner, MINUTE, Claim::IfFree).await.unwrap();
    assert_eq!(store.wishes(&[crew.run]).await.unwrap(), [(crew.run, Wish::Cancel)]);
    // Nor does it go with its manager: whoever takes the run over fulfils it.
    let epoch = store.claim_run(crew.run, "somebody else", MINUTE, Claim::Force).await.unwrap();
    assert_eq!(
        store.run(crew.run).await.unwrap().unwrap().wish,
        Some(Wish::Cancel),
        "who claims it reads it with its row"
    );
    store.configure_run(crew.run, epoch, "{}", Wished::Kept).await.unwrap();
    assert_eq!(store.wishes(&[crew.run]).await.unwrap(), [(crew.run, Wish::Cancel)]);
    let refused = store.configure_run(crew.run, epoch - 1, "{}", Wished::Forgotten).await.unwrap_err();
    assert!(matches!(refused, Error::Stale { .. }), "{refused}");
    // Until a person wants the run to go on, or it has ended.
    store.configure_run(crew.run, epoch, "{}", Wished::Forgotten).await.unwrap();
    assert_eq!(store.wishes(&[crew.run]).await.unwrap(), []);
    store.wish(crew.run, Wish::Pause).await.unwrap();
    let mut end = Change::new(crew.run, epoch, at(9));
    end.run_status = Some(RunEnd { status: RunStatus::Interrupted, finished_at: at(9), error: None });
    crew.done(end).await;
    store.claim_run(crew.run, "somebody else", MINUTE, Claim::IfFree).await.unwrap();
    assert_eq!(store.wishes(&[crew.run]).await.unwrap(), []);
}

async fn a_run_that_was_brought_to_rest_is_not_claimed_again(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let store = &crew.store;
    let end = async |epoch| {
        let mut end = Change::new(crew.run, epoch, at(9));
        end.run_status = Some(RunEnd { status: RunStatus::Interrupted, finished_at: at(9), error: None });
        crew.done(end).await;
    };
    let had = store.claim_run(crew.run, "me", MINUTE, Claim::Force).await.unwrap();
    let had = store.claim_again(crew.run, "me", MINUTE, Claim::IfFree, had).await.unwrap();
    // By its owner, who may not have heard that it is recorded.
    end(had).await;
    let refused = store.claim_again(crew.run, "me", MINUTE, Claim::Force, had).await.unwrap_err();
    assert!(matches!(refused, Error::Stale { .. }), "{refused}");
    let had = store.claim_run(crew.run, "me", MINUTE, Claim::IfFree).await.unwrap();
    // By others.
    let other = store.claim_run(crew.run, "somebody else", MINUTE, Claim::Force).await.unwrap();
    let refused = store.claim_again(crew.run, "me", MINUTE, Claim::IfFree, had).await.unwrap_err();
    assert!(matches!(refused, Error::Held { .. }), "{refused}");
    end(other).await;
    for force in [Claim::IfFree, Claim::Force] {
        let refused = store.claim_again(crew.run, "me", MINUTE, force, had).await.unwrap_err();
        assert!(matches!(refused, Error::Stale { .. }), "{refused}");
    }
    assert_eq!(store.run(crew.run).await.unwrap().unwrap().status, RunStatus::Interrupted);
    store.claim_run(crew.run, "me", MINUTE, Claim::IfFree).await.unwrap();
}

async fn ids_are_found_by_their_beginning(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(40).await;
    let store = &crew.store;
    for id in &tasks {
        for len in 1..=8 {
            let prefix = &id.as_str()[..len];
            let found = store.find_tasks(prefix, 100).await.unwrap();
            let mut expected: Vec<_> = tasks.iter().filter(|it| it.as_str().starts_with(prefix)).collect();
            expected.sort_unstable();
            let found: Vec<_> = found.iter().map(|(task, _)| task).filter(|it| tasks.contains(it)).collect();
            assert_eq!(found, expected, "{prefix}");
        }
    }
    assert_eq!(store.find_runs(&crew.run.as_str()[..3], 9).await.unwrap(), [crew.run]);
    assert_eq!(store.find_tasks(tasks[0].as_str(), 9).await.unwrap(), [(tasks[0], crew.run)]);
    for nothing in ["", "%", "_", "a b", "ABC", "123456789", "'"] {
        assert!(store.find_tasks(nothing, 9).await.unwrap().is_empty(), "{nothing}");
        assert!(store.find_runs(nothing, 9).await.unwrap().is_empty(), "{nothing}");
    }
}
