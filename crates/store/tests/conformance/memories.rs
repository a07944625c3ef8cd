//! Memories, their vectors, and the outbox.

use std::collections::BTreeMap;

use crewline_store::{Span, Spans, Superseded};
use crewline_types::{ErrorKind, MemoryId, MemoryMarks, MemoryRecord, MemoryType, ProjectScope, RunId, TaskId};

use crate::common::{Crew, Place, at};

on_both! {
    a_repeated_memory_is_one_record
    memories_are_drained
    memories_are_added_marked_and_forgotten
    another_target_fills_the_outbox
    vectors_round_trip
    projects_are_isolated
    a_summary_takes_the_place_of_older_ones
    repeated_memories_are_merged
    words_are_kept_until_a_memory_of_theirs_is_forgotten
    words_of_before_a_forgetting_are_refused
}

pub(crate) fn memory(project: &str, run: Option<RunId>, task: Option<TaskId>, text: &str) -> MemoryRecord {
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
        marks: MemoryMarks::default(),
    }
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
    let vectors_of = async |project: &str, model: &str, after: u64| {
        let page = crew.store.vector_page(&ProjectScope::of(project), model, after).await.unwrap();
        let mut vectors: Vec<(u64, Vec<f32>)> = page.iter().map(|(row, vector)| (row, vector.to_vec())).collect();
        vectors.sort_by_key(|(row, _)| *row);
        assert_eq!(page.last(), vectors.last().map(|(row, _)| *row));
        vectors
    };
    let found = vectors_of("p", "mini", 0).await;
    let rows: Vec<u64> =
        crew.store.memories(&ProjectScope::of("p"), 0, 10).await.unwrap().iter().map(|it| it.0).collect();
    assert_eq!(found, [0, 1, 2].map(|n| (rows[n], vectors[n].clone())));
    assert_eq!(vectors_of("p", "other", 0).await, []);
    let other = crew.store.memories(&ProjectScope::of("q"), 0, 10).await.unwrap()[0].0;
    assert_eq!(vectors_of("q", "mini", 0).await, [(other, vec![3.0])]);
    let scope = ProjectScope::of("p");
    assert_eq!(vectors_of("p", "mini", rows[0]).await, found[1..], "behind a row");
    let through = crew.store.memories_through(&scope, rows[0], rows[1]).await.unwrap();
    assert_eq!(through.iter().map(|it| it.1.id).collect::<Vec<_>>(), [ids[1]]);
    // Replaced, also when an id is named twice or is not there.
    let new = [vec![1.0], vec![2.0], vec![2.0]];
    crew.store.memory_done("mini", &[ids[0], MemoryId(7), ids[0]], Some(&new)).await.unwrap();
    assert_eq!(vectors_of("p", "mini", 0).await[0], (rows[0], vec![2.0]));
    assert_eq!(crew.store.memory_outbox_depth().await.unwrap(), 0);
    let error = crew.store.memory_done("mini", &ids, Some(&new)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
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

async fn memories_are_added_marked_and_forgotten(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let scope = ProjectScope::of("p");
    let marks = MemoryMarks {
        importance: 900,
        pinned: true,
        superseded_by: Some(MemoryId(u128::MAX)),
        repeats: 3,
        stale: true,
        metadata: [("path".to_owned(), "a/b \"c\"".to_owned())].into(),
    };
    let one = MemoryRecord { marks: marks.clone(), ..memory("p", None, None, "one") };
    let two = memory("p", None, None, "two");
    let twin = memory("q", None, None, "one");
    let added = crew.store.add_memories(&[one.clone(), two.clone(), one.clone(), twin.clone()]).await.unwrap();
    assert_eq!(added, [true, true, false, true]);
    let again = MemoryRecord { marks: MemoryMarks::default(), ..one.clone() };
    assert_eq!(crew.store.add_memories(&[again]).await.unwrap(), [false], "what is there keeps its marks");
    let found = |scope: ProjectScope| {
        let store = crew.store.clone();
        async move { store.memories(&scope, 0, 10).await.unwrap().into_iter().map(|it| it.1).collect::<Vec<_>>() }
    };
    assert_eq!(found(scope.clone()).await, [one.clone(), two.clone()]);
    assert_eq!(
        crew.store.mark_memories(&scope, &[(two.id, marks.clone()), (twin.id, marks.clone())]).await.unwrap(),
        1
    );
    let marked = MemoryRecord { marks, ..two.clone() };
    assert_eq!(found(scope.clone()).await, [one.clone(), marked.clone()]);
    assert_eq!(found(ProjectScope::of("q")).await, std::slice::from_ref(&twin), "another project is not marked");
    let by_id = crew.store.memories_by_id(&scope, &[two.id, twin.id, MemoryId(7)]).await.unwrap();
    assert_eq!(by_id.iter().map(|it| &it.1).collect::<Vec<_>>(), [&marked]);
    assert_eq!(crew.store.memory_projects().await.unwrap(), [("p".to_owned(), 2), ("q".to_owned(), 1)]);

    crew.store.memory_done("m", &[one.id], Some(&[vec![1.0]])).await.unwrap();
    assert_eq!(crew.store.vectors_by_id("m", &[one.id, two.id]).await.unwrap(), [(one.id, vec![1.0])].into());
    assert_eq!(crew.store.forget_memories(&scope, &[one.id, twin.id, one.id]).await.unwrap(), 1);
    assert_eq!(found(scope.clone()).await, [marked]);
    assert_eq!(found(ProjectScope::of("q")).await.len(), 1, "another project forgets nothing");
    assert_eq!(crew.store.vector_page(&scope, "m", 0).await.unwrap().last(), None, "a vector goes with its memory");
    let forgotten = crew.store.memory_forgotten(10).await.unwrap();
    assert!(forgotten.contains(&(scope.clone(), one.id)), "{forgotten:?}");
    crew.store.memory_forgotten_done(&forgotten).await.unwrap();
    assert_eq!(crew.store.memory_forgotten(10).await.unwrap(), []);
    assert!(crew.store.add_memories(&[]).await.unwrap().is_empty());
}

async fn another_target_fills_the_outbox(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let records = [memory("p", None, None, "one"), memory("q", None, None, "two")];
    crew.store.add_memories(&records).await.unwrap();
    assert!(crew.store.memory_target("database:m").await.unwrap(), "the first target is a new one");
    let drain = || async {
        let rows = crew.store.memory_outbox(10).await.unwrap();
        let ids: Vec<MemoryId> = rows.iter().map(|(_, record)| record.id).collect();
        crew.store.memory_done("m", &ids, None).await.unwrap();
        ids.len()
    };
    assert_eq!(drain().await, 2);
    assert!(!crew.store.memory_target("database:m").await.unwrap());
    assert_eq!(crew.store.memory_outbox_depth().await.unwrap(), 0);
    assert_eq!(crew.store.memory_outbox_oldest().await.unwrap(), None);
    assert!(crew.store.memory_target("qdrant:host/c").await.unwrap());
    assert_eq!(crew.store.memory_outbox_oldest().await.unwrap(), Some(at(7)));
    assert_eq!(drain().await, 2);
    assert_eq!(crew.store.redrain_memories(&ProjectScope::of("q")).await.unwrap(), 1);
    assert_eq!(drain().await, 1);
    assert_eq!(crew.store.redrain_all().await.unwrap(), 2);
}

/// A summary with its version.
fn summary(kind: MemoryType, task: Option<TaskId>, text: &str, sources: &[MemoryId]) -> MemoryRecord {
    let metadata = BTreeMap::from([("version".to_owned(), "1".to_owned())]);
    MemoryRecord {
        id: MemoryId::of("p", task, kind.as_str(), text),
        kind,
        source_ids: sources.to_vec(),
        marks: MemoryMarks { metadata, ..MemoryMarks::default() },
        ..memory("p", None, task, text)
    }
}

async fn a_summary_takes_the_place_of_older_ones(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let scope = ProjectScope::of("p");
    let source = memory("p", None, None, "source");
    let old = summary(MemoryType::ProjectSummary, None, "old", &[source.id]);
    let rolling = summary(MemoryType::RollingSummary, Some(crew.root), "so far", &[]);
    let mut change = crew.change();
    change.memories = vec![source.clone(), old.clone(), rolling.clone()];
    crew.done(change).await;
    assert_eq!(crew.store.project_summaries(&scope).await.unwrap(), std::slice::from_ref(&old));
    assert_eq!(crew.store.rolling_summaries(&scope, crew.root).await.unwrap(), [rolling]);
    assert!(crew.store.project_summaries(&ProjectScope::of("q")).await.unwrap().is_empty());

    // With the run, and without it.
    let new = summary(MemoryType::ProjectSummary, None, "new", &[source.id]);
    let superseded =
        |old: &MemoryRecord, new: &MemoryRecord| Superseded { project: "p".into(), old: old.id, new: new.id };
    let mut change = crew.change();
    change.memories = vec![new.clone()];
    change.superseded = vec![superseded(&old, &new), superseded(&new, &new)];
    crew.done(change).await;
    assert_eq!(crew.store.project_summaries(&scope).await.unwrap(), std::slice::from_ref(&new));
    // What was said before comes back with its marks.
    crew.store.replace_memories(std::slice::from_ref(&old), &[superseded(&new, &old)]).await.unwrap();
    assert_eq!(crew.store.project_summaries(&scope).await.unwrap(), [old]);
    let kinds = crew.store.memories_of_kind(&scope, &MemoryType::ProjectSummary, 0, 9).await.unwrap();
    assert_eq!(kinds.len(), 2, "nothing is deleted");
    assert!(crew.store.memories_of_kind(&scope, &MemoryType::ProjectSummary, kinds[1].0, 9).await.unwrap().is_empty());
}

async fn repeated_memories_are_merged(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let scope = ProjectScope::of("p");
    let all: Vec<MemoryRecord> = ["one", "one again", "one more time"].map(|it| memory("p", None, None, it)).into();
    let made = summary(MemoryType::HandoffSummary, None, "made of it", &[all[1].id]);
    let other = memory("q", None, None, "one again");
    let mut change = crew.change();
    change.memories.clone_from(&all);
    change.memories.extend([made.clone(), other.clone()]);
    crew.done(change).await;
    let repeats = [(all[1].id, all[0].id), (all[2].id, all[0].id)];
    crew.store.merge_memories(&scope, &repeats, &[(made.id, vec![all[0].id])]).await.unwrap();
    let left: Vec<MemoryRecord> =
        crew.store.memories(&scope, 0, 9).await.unwrap().into_iter().map(|(_, it)| it).collect();
    assert_eq!(left.iter().map(|it| it.id).collect::<Vec<_>>(), [all[0].id, made.id]);
    assert_eq!((left[0].marks.repeats, &left[1].source_ids), (2, &vec![all[0].id]));
    assert_eq!(crew.store.memory_forgotten(9).await.unwrap().len(), 2, "the vector store forgets them too");
    assert_eq!(
        crew.store.memories(&ProjectScope::of("q"), 0, 9).await.unwrap().len(),
        1,
        "another project keeps its own"
    );
}

/// A project of four memories and their rows, and one of another project.
async fn four(place: &Place) -> (Crew, ProjectScope, Vec<(u64, MemoryId)>) {
    let crew = Crew::new(place, "p", 1).await;
    let scope = ProjectScope::of("p");
    let mut records: Vec<MemoryRecord> = (0..4).map(|n| memory("p", None, None, &format!("text {n}"))).collect();
    records.insert(2, memory("q", None, None, "text 0"));
    crew.store.add_memories(&records).await.unwrap();
    let rows = crew.store.memories(&scope, 0, 10).await.unwrap();
    (crew, scope, rows.into_iter().map(|(row, record)| (row, record.id)).collect())
}

async fn words_are_kept_until_a_memory_of_theirs_is_forgotten(place: &Place) {
    let (crew, scope, rows) = four(place).await;
    let store = &crew.store;
    assert_eq!(store.memory_words(&scope).await.unwrap(), Spans::default());
    assert_eq!(store.memory_row(&scope, 0, u64::MAX, 2).await.unwrap(), Some(rows[1].0));
    assert_eq!(store.memory_row(&scope, rows[0].0, rows[2].0, 3).await.unwrap(), None);
    let (one, two) = (Span { after: 0, through: rows[1].0 }, Span { after: rows[1].0, through: rows[3].0 });
    for (span, words) in [(two, &b"two"[..]), (one, b"one")] {
        assert!(store.keep_words(&scope, 0, span, words, false).await.unwrap());
    }
    let other = ProjectScope::of("q");
    assert!(store.keep_words(&other, 0, one, b"of q", false).await.unwrap());
    for overlap in [one, Span { after: 0, through: 1 }, Span { after: 1, through: rows[3].0 + 9 }] {
        assert!(!store.keep_words(&scope, 0, overlap, b"more", false).await.unwrap(), "{overlap:?}");
    }
    assert_eq!(store.memory_words(&scope).await.unwrap(), Spans { epoch: 0, spans: vec![one, two] });
    assert!(store.keep_words(&scope, 0, one, b"mended", true).await.unwrap());
    assert_eq!(store.words_of(&scope, one).await.unwrap().as_deref(), Some(&b"mended"[..]));
    // One of the first piece, and one that is not there.
    assert_eq!(store.forget_memories(&scope, &[rows[1].1, MemoryId(7)]).await.unwrap(), 1);
    assert_eq!(store.memory_words(&scope).await.unwrap(), Spans { epoch: 1, spans: vec![two] });
    assert_eq!(store.words_of(&scope, one).await.unwrap(), None);
    assert_eq!(
        store.words_of(&other, one).await.unwrap().as_deref(),
        Some(&b"of q"[..]),
        "another project keeps its own"
    );
    // What is merged goes, too.
    store.merge_memories(&scope, &[(rows[3].1, rows[0].1)], &[]).await.unwrap();
    assert_eq!(store.memory_words(&scope).await.unwrap(), Spans { epoch: 2, spans: Vec::new() });
}

async fn words_of_before_a_forgetting_are_refused(place: &Place) {
    let (crew, scope, _) = four(place).await;
    let other = place.open().await;
    for round in 0..8 {
        let epoch = crew.store.memory_words(&scope).await.unwrap().epoch;
        let record = memory("p", None, None, &format!("of round {round}"));
        crew.store.add_memories(std::slice::from_ref(&record)).await.unwrap();
        let row = crew.store.memories_by_id(&scope, &[record.id]).await.unwrap()[0].0;
        let span = Span { after: 0, through: row };
        let ids = [record.id];
        // At the same moment: whoever comes second knows of the first.
        let (gone, kept) = tokio::join!(
            other.forget_memories(&scope, &ids),
            crew.store.keep_words(&scope, epoch, span, b"words of what is forgotten", false)
        );
        assert_eq!(gone.unwrap(), 1);
        let after = crew.store.memory_words(&scope).await.unwrap();
        assert_eq!(after, Spans { epoch: epoch + 1, spans: Vec::new() }, "kept: {kept:?}");
        assert!(!crew.store.keep_words(&scope, epoch, span, b"too late", false).await.unwrap());
    }
}
