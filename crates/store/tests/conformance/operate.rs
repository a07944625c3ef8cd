//! What operators do: back up, doubt, forget.

use std::{collections::BTreeSet, time::Duration};

use crewline_store::{AttemptEnd, CallEnd, Deleted, Error, NewContext, RunEnd, Store};
use crewline_types::{
    CallId, MemoryId, MemoryRecord, MemoryType, MicroUsd, ProjectScope, RunStatus, TaskId, Text, Usage,
    event::CallOutcome,
};

use crate::common::{Crew, Place, at, first, is_done, on_sqlite};

on_both! {
    what_was_written_is_whole
    each_violation_is_named
    runs_are_forgotten_with_their_texts
    what_runs_is_not_forgotten
    a_long_run_is_forgotten_in_batches
}

const MINUTE: Duration = Duration::from_mins(1);

/// Does one task from offer to result; its answer is the result.
async fn work(crew: &Crew, task: TaskId, result: &str) {
    let (attempt, result) = (first(task), Text::from(result));
    crew.offer(&[task], &["coder"]).await;
    crew.store.claim_offers("w", None, 1, MINUTE).await.unwrap();
    let mut intent = crew.intent("w", attempt);
    intent.calls[0].reserved = Some(MicroUsd(9));
    intent.cost_max = Some(MicroUsd(1_000));
    intent.contexts.push(NewContext {
        id: attempt,
        tokens: 1,
        budget: 1,
        items: format!(r#"[{{"text":"{}"}}]"#, Text::from("told").hash),
        bundle: None,
        prompt: None,
        tokenizer: None,
    });
    assert!(is_done(&crew.commit(intent).await));
    assert!(is_done(&crew.commit(crew.report("w", attempt, "{}")).await));
    let mut finish = crew.finish(task, 1);
    finish.offers_settled.push(attempt);
    finish.transitions[0].result = Some(result.hash);
    finish.calls_ended.push(CallEnd {
        id: CallId { attempt, number: 1 },
        outcome: CallOutcome::Ok,
        usage: Usage::default(),
        cost: Some(MicroUsd(4)),
        elapsed: Duration::ZERO,
        reply: Some(result.hash),
        error: None,
    });
    finish.attempts_ended.push(AttemptEnd {
        id: attempt,
        ok: true,
        model: "m".into(),
        usage: Usage::default(),
        cost: MicroUsd(4),
        error: None,
    });
    finish.memories.push(MemoryRecord {
        id: MemoryId::of("p", Some(task), "task_summary", &result.body),
        project: "p".into(),
        run: Some(crew.run),
        task: Some(task),
        kind: MemoryType::TaskSummary,
        agent: "coder".into(),
        created_at: at(7),
        text: result.body.clone(),
        source_ids: Vec::new(),
        marks: crewline_types::MemoryMarks::default(),
    });
    finish.texts.push(result);
    crew.done(finish).await;
}

async fn end(crew: &Crew, status: RunStatus) {
    let mut end = crew.change();
    end.run_status = Some(RunEnd { status, finished_at: at(9), error: None });
    crew.done(end).await;
}

async fn rules(store: &Store) -> BTreeSet<&'static str> {
    store.integrity().await.unwrap().iter().map(|problem| problem.rule).collect()
}

async fn what_was_written_is_whole(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    assert_eq!(crew.store.integrity().await.unwrap(), []);
    for task in crew.tasks(3).await {
        work(&crew, task, task.as_str()).await;
        assert_eq!(crew.store.integrity().await.unwrap(), []);
    }
    end(&crew, RunStatus::Interrupted).await;
    assert_eq!(crew.store.integrity().await.unwrap(), []);
}

async fn each_violation_is_named(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(2).await;
    work(&crew, tasks[0], "result").await;
    for (damage, repair, rule) in [
        ("UPDATE runs SET last_seq = 9", "UPDATE runs SET last_seq = 2", "event.gap"),
        ("UPDATE events SET seq = 7 WHERE seq = 2", "UPDATE events SET seq = 2 WHERE seq = 7", "event.gap"),
        ("UPDATE runs SET charged_micro_usd = 5", "UPDATE runs SET charged_micro_usd = 4", "run.charged"),
        ("UPDATE attempts SET number = 2", "UPDATE attempts SET number = 1", "attempt.task"),
        (
            "UPDATE calls SET outcome = NULL, elapsed_us = NULL, cost_micro_usd = NULL, reserved_micro_usd = 4",
            "UPDATE calls SET outcome = 'ok', elapsed_us = 0, cost_micro_usd = 4",
            "call.open",
        ),
        ("INSERT INTO task_links VALUES (1, 77, 'refers')", "DELETE FROM task_links", "link.task"),
        ("UPDATE calls SET attempt = 3", "UPDATE calls SET attempt = 1", "call.attempt"),
        ("UPDATE task_contexts SET attempt = 3", "UPDATE task_contexts SET attempt = 1", "context.attempt"),
        (
            "INSERT INTO offers (task, attempt, task_id, run_id, role, rank, offered_at) \
             VALUES (77, 1, 'x', 'y', 'z', 0, 0)",
            "DELETE FROM offers",
            "offer.run",
        ),
    ] {
        place.execute(damage).await;
        let found = crew.store.integrity().await.unwrap();
        assert!(found.iter().any(|it| it.rule == rule), "{damage}: {found:?}");
        assert!(found.iter().all(|it| it.to_string().contains(it.rule)));
        place.execute(repair).await;
        assert_eq!(crew.store.integrity().await.unwrap(), [], "{repair}");
    }
    place.execute("DELETE FROM texts").await;
    assert_eq!(rules(&crew.store).await, ["text.task", "text.call", "text.memory"].into());
}

async fn runs_are_forgotten_with_their_texts(place: &Place) {
    let mut kept = Crew::new(place, "p", 1).await;
    let mut gone = Crew::on(kept.store.clone(), "p", 2).await;
    let mut texts = kept.change();
    texts.texts = vec![Text::from("told"), Text::from("nobody's")];
    kept.done(texts).await;
    let task = kept.tasks(1).await[0];
    work(&kept, task, "shared").await;
    end(&kept, RunStatus::Failed).await;
    let before = place.counts().await;
    assert_eq!(before["texts"], 3);

    let tasks = gone.tasks(2).await;
    work(&gone, tasks[0], "shared").await;
    work(&gone, tasks[1], "own").await;
    let mut index = gone.change();
    index.index = Some(Text::from("index").hash);
    index.texts.push(Text::from("index"));
    gone.done(index).await;
    end(&gone, RunStatus::LimitReached).await;
    let unknown = "zzzzzzzz".parse().unwrap();
    let deleted = kept.store.delete_runs(&[gone.run, unknown]).await.unwrap();
    // The memories of a run are its project's, with their texts.
    assert_eq!(deleted, Deleted { runs: 1, tasks: 3, texts: 2, bytes: 13 });
    let mut after = place.counts().await;
    assert_eq!(kept.store.memories(&ProjectScope::of("p"), 0, 9).await.unwrap().len(), 3);
    *after.get_mut("memories").unwrap() -= 2;
    // `nobody's` is gone, `own` is a memory's.
    assert_eq!(after["texts"], 3);
    *after.get_mut("runs").unwrap() += 1;
    *after.get_mut("tasks").unwrap() += 1;
    after.remove("events");
    let mut before = before;
    before.remove("events");
    assert_eq!(after, before);
    assert_eq!(kept.store.run(gone.run).await.unwrap(), None);
    assert_eq!(kept.store.integrity().await.unwrap(), []);
    assert_eq!(kept.store.delete_runs(&[gone.run]).await.unwrap(), Deleted::default());
    // A text that is written again is not about to be forgotten, however old it is.
    let young = Text::from("young");
    for micros in [1, i64::MAX] {
        let mut change = Crew::on(kept.store.clone(), "p", 7 + micros.unsigned_abs()).await.change();
        change.at = at(micros);
        change.texts.push(young.clone());
        kept.store.commit(&[change]).await.unwrap();
    }
    assert_eq!(kept.store.delete_runs(&[]).await.unwrap(), Deleted::default());
    place.execute("UPDATE texts SET touched_at = 0").await;
    assert_eq!(kept.store.delete_runs(&[]).await.unwrap(), Deleted { texts: 1, bytes: 5, ..Deleted::default() });
}

async fn what_runs_is_not_forgotten(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    assert_eq!(crew.store.delete_runs(&[crew.run]).await.unwrap(), Deleted::default());
    assert!(crew.store.run(crew.run).await.unwrap().is_some());
}

async fn a_long_run_is_forgotten_in_batches(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(600).await;
    crew.offer(&tasks, &["coder"]).await;
    crew.store.claim_offers("w", None, 600, MINUTE).await.unwrap();
    end(&crew, RunStatus::Interrupted).await;
    let deleted = crew.store.delete_runs(&[crew.run]).await.unwrap();
    assert_eq!(deleted, Deleted { runs: 1, tasks: 601, texts: 0, bytes: 0 });
    let counts = place.counts().await;
    assert!(counts.iter().all(|(table, rows)| *rows == 0 || *table == "projects"), "{counts:?}");
}

#[tokio::test]
async fn a_backup_is_a_whole_database() {
    use futures::FutureExt as _;
    on_sqlite(|place| a_backup_is_made_while_others_write(place).boxed_local()).await;
}

async fn a_backup_is_made_while_others_write(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(50).await;
    work(&crew, tasks[0], "result").await;
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("cöpy 'of'.db");
    let writing = async {
        for task in &tasks[1..] {
            work(&crew, *task, task.as_str()).await;
        }
    };
    let (backup, ()) = tokio::join!(crew.store.backup(&to), writing);
    backup.unwrap();
    let copy = Store::open(&format!("sqlite:{}", to.display())).await.unwrap();
    assert_eq!(copy.integrity().await.unwrap(), []);
    assert!(copy.run(crew.run).await.unwrap().unwrap().last_seq >= 2);
    assert_eq!(copy.tasks(crew.run).await.unwrap().len(), 51);
    drop(copy);

    let error = crew.store.backup(&to).await.unwrap_err();
    assert!(matches!(&error, Error::Exists { path } if *path == to), "{error:?}");
    let error = crew.store.backup(&folder.path().join("no/such/x.db")).await.unwrap_err();
    assert!(matches!(&error, Error::File { .. }) && error.code() == "store.file", "{error:?}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(".backup")), "{left:?}");
    let memory = Store::open("sqlite::memory:").await.unwrap();
    assert_eq!(memory.backup(&folder.path().join("y.db")).await.unwrap_err().code(), "store.backup");
}

#[tokio::test]
async fn what_a_killed_backup_left_goes_with_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("sqlite:{}", folder.path().join("crewline.db").display())).await.unwrap();
    let part = |name: &str, age| {
        let file = std::fs::File::create(folder.path().join(name)).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH + age).unwrap();
        file
    };
    let (past, future) = (Duration::from_hours(1), Duration::from_hours(24 * 365 * 200));
    drop(part(".backup-aaaaaa", past));
    // Somebody writes it; somebody is about to; it is no part.
    let written = part(".backup-bbbbbb", past);
    written.lock().unwrap();
    drop(part(".backup-cccccc", future));
    drop(part("backup-dddddd", past));
    store.backup(&folder.path().join("copy.db")).await.unwrap();
    let there = |name: &str| folder.path().join(name).exists();
    assert!(!there(".backup-aaaaaa"));
    assert!(there(".backup-bbbbbb") && there(".backup-cccccc") && there("backup-dddddd") && there("copy.db"));
}

#[tokio::test]
async fn what_is_written_to_a_file_that_was_removed_is_not_acknowledged() {
    use futures::FutureExt as _;
    on_sqlite(|place| a_removed_file_is_noticed(place).boxed_local()).await;
}

async fn a_removed_file_is_noticed(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let task = crew.tasks(1).await[0];
    let path = std::path::Path::new(place.url.strip_prefix("sqlite:").unwrap());
    let elsewhere = path.with_extension("old");
    let is_removed = |error: &Error| matches!(error, Error::Removed { path: gone } if gone == path);
    std::fs::rename(path, &elsewhere).unwrap();
    let error = crew.store.commit(&[crew.start(task, 1)]).await.unwrap_err();
    assert!(is_removed(&error) && !error.is_retryable(), "{error:?}");
    // Another file of that name is not it.
    std::fs::copy(&elsewhere, path).unwrap();
    assert!(is_removed(&crew.store.check().await.unwrap_err()));
    std::fs::rename(&elsewhere, path).unwrap();
    crew.store.check().await.unwrap();
}
