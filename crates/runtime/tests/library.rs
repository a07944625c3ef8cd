//! The outbox of memory: every memory reaches the vector store once, whatever happens in between.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests, too")]

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crewline_memory::{Embedded, Embedder, Hybrid, Qdrant, QdrantOptions, Query, VectorStore};
use crewline_runtime::{Drained, Library};
use crewline_store::Store;
use crewline_testkit::{Illness, QdrantServer};
use crewline_types::{MemoryId, MemoryMarks, MemoryRecord, MemoryType, ProjectScope, Timestamp, time::ManualClock};

const DIMENSIONS: usize = 16;

/// A vector from the words of a text, and how many were made.
fn embedder() -> (Embedder, Arc<AtomicUsize>) {
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let embedder = Embedder::of("test", DIMENSIONS, move |text| {
        count.fetch_add(1, Ordering::Relaxed);
        let mut vector = vec![0.01; DIMENSIONS];
        for word in text.split_whitespace() {
            vector[word.bytes().map(usize::from).sum::<usize>() % DIMENSIONS] += 1.0;
        }
        Ok(vector)
    });
    (embedder, made)
}

fn record(project: &str, text: &str) -> MemoryRecord {
    let kind = MemoryType::TaskSummary;
    MemoryRecord {
        id: MemoryId::of(project, None, kind.as_str(), text),
        project: project.into(),
        run: None,
        task: None,
        kind,
        agent: "coder".into(),
        created_at: Timestamp(1),
        text: text.into(),
        source_ids: Vec::new(),
        marks: MemoryMarks::default(),
    }
}

fn records(count: usize) -> Vec<MemoryRecord> {
    (0..count).map(|n| record(["p", "q"][n % 2], &format!("memory number {n}"))).collect()
}

fn library(store: &Store, server: Option<&QdrantServer>, embedder: &Embedder) -> Library {
    let remote = server.map(|server| {
        let model = embedder.model().to_owned();
        let options = QdrantOptions { url: server.url(), api_key: None, model, dimensions: DIMENSIONS };
        Qdrant::new(options).unwrap().patient_for(Duration::from_mins(1))
    });
    let index = Hybrid::new(Embedded::new(), remote);
    Library::new(store.clone(), index, Some(embedder.clone()), Arc::new(ManualClock::default()))
}

async fn drain_all(library: &Library) -> usize {
    let mut carried = 0;
    loop {
        let step = library.drain().await.unwrap();
        carried += step.carried;
        if !step.has_more {
            return carried;
        }
    }
}

fn ids(records: &[MemoryRecord]) -> BTreeSet<String> {
    records.iter().map(|record| record.id.to_string()).collect()
}

/// The ids of the server's points, as memories print theirs.
fn points(server: &QdrantServer) -> Vec<String> {
    server.points().into_iter().map(|id| id.replace('-', "")).collect()
}

#[tokio::test]
async fn a_flapping_store_gets_everything_once() {
    let seed = 11;
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("c.db").display());
    let server = QdrantServer::start().await.unwrap();
    let (embedder, _) = embedder();
    let all = records(300);
    let mut left = all.as_slice();
    let mut store = Store::open(&url).await.unwrap();
    let mut library = library(&store, Some(&server), &embedder);
    let mut failures = 0;
    for _ in 0..60 {
        let (now, later) = left.split_at(left.len().min(random.usize(0..20)));
        library.add(now.to_vec()).await.unwrap();
        left = later;
        server.set(*random.choice(&[Illness::None, Illness::None, Illness::Down, Illness::Failing][..]).unwrap());
        if random.u8(..8) == 0 {
            // The process dies in the middle of a step and another begins.
            tokio::select! {
                biased;
                _ = library.drain() => {}
                () = tokio::task::yield_now() => {}
            }
            store = Store::open(&url).await.unwrap();
            library = self::library(&store, Some(&server), &embedder);
        } else if library.drain().await.is_err() {
            failures += 1;
        }
    }
    assert!(failures > 5, "{failures} failures show nothing");
    server.set(Illness::None);
    library.add(left.to_vec()).await.unwrap();
    drain_all(&library).await;
    let found = points(&server);
    assert_eq!(found.len(), all.len(), "none twice");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), ids(&all), "none lost");
    assert_eq!(store.memory_outbox_depth().await.unwrap(), 0);
}

#[tokio::test]
async fn vectors_follow_to_another_place_and_back() {
    let store = Store::open("sqlite::memory:").await.unwrap();
    let server = QdrantServer::start().await.unwrap();
    let (embedder, made) = embedder();
    let all = records(100);
    let here = library(&store, None, &embedder);
    here.add(all.clone()).await.unwrap();
    assert_eq!(drain_all(&here).await, 100);
    let there = library(&store, Some(&server), &embedder);
    assert_eq!(drain_all(&there).await, 100, "switching fills the outbox");
    assert_eq!(made.load(Ordering::Relaxed), 100, "vectors that are known are not made again");
    assert_eq!(points(&server).into_iter().collect::<BTreeSet<_>>(), ids(&all));
    assert_eq!(drain_all(&library(&store, Some(&server), &embedder)).await, 0, "once");
    there.add(vec![record("p", "made there")]).await.unwrap();
    drain_all(&there).await;
    let back = library(&store, None, &embedder);
    assert_eq!(drain_all(&back).await, 101);
    assert_eq!(store.vector_page(&ProjectScope::of("p"), "test", 0).await.unwrap().iter().count(), 51);

    // The same answers from both.
    let scope = ProjectScope::of("p");
    for text in ["memory number 42", "made there", "number", "nothing of all that"] {
        let mut answers = Vec::new();
        for library in [&back, &there] {
            library.load(&scope).await.unwrap();
            let query = Query { text: text.to_owned(), limit: 7, ..Query::default() };
            let hits = library.recall(&scope, query).await.unwrap().hits;
            answers.push(hits.into_iter().map(|hit| hit.record.id).collect::<Vec<_>>());
        }
        assert_eq!(answers[0].len(), 7, "{text}");
        assert_eq!(answers[0], answers[1], "{text}");
    }
}

#[tokio::test]
async fn a_lost_collection_is_filled_again() {
    let store = Store::open("sqlite::memory:").await.unwrap();
    let server = QdrantServer::start().await.unwrap();
    let (embedder, _) = embedder();
    let library = library(&store, Some(&server), &embedder);
    library.add(records(10)).await.unwrap();
    drain_all(&library).await;
    server.lose_collection();
    // A call meets the loss; the drain makes the collection again.
    let query = Query { vector: Some(vec![1.0; DIMENSIONS]), limit: 1, ..Query::default() };
    library.index().remote().unwrap().search(&ProjectScope::of("p"), &query).await.unwrap_err();
    assert_eq!(drain_all(&library).await, 10);
    assert_eq!(points(&server).len(), 10);
}

#[tokio::test]
async fn a_loss_that_a_question_finds_is_known_to_the_next_process() {
    let store = Store::open("sqlite::memory:").await.unwrap();
    let server = QdrantServer::start().await.unwrap();
    let (embedder, _) = embedder();
    let scope = ProjectScope::of("p");
    let first = library(&store, Some(&server), &embedder);
    first.add(records(10)).await.unwrap();
    drain_all(&first).await;
    server.lose_collection();
    // A process that asks one question and ends.
    let asking = library(&store, Some(&server), &embedder);
    asking.load(&scope).await.unwrap();
    let query = Query { text: "memory number 4".to_owned(), limit: 3, ..Query::default() };
    assert_eq!(asking.recall(&scope, query).await.unwrap().hits.len(), 3);
    assert!(server.points().is_empty() && asking.index().remote().unwrap().is_missing().await.unwrap());
    drop(asking);
    assert_eq!(drain_all(&library(&store, Some(&server), &embedder)).await, 10);
    assert_eq!(points(&server).len(), 10);
}

#[tokio::test]
async fn what_is_forgotten_during_an_outage_is_forgotten_there_later() {
    let store = Store::open("sqlite::memory:").await.unwrap();
    let server = QdrantServer::start().await.unwrap();
    let (embedder, _) = embedder();
    let library = library(&store, Some(&server), &embedder);
    let all = records(10);
    library.add(all.clone()).await.unwrap();
    drain_all(&library).await;
    server.set(Illness::Down);
    store.forget_memories(&ProjectScope::of("p"), &[all[0].id, all[2].id]).await.unwrap();
    library.drain().await.unwrap_err();
    server.set(Illness::None);
    assert_eq!(library.drain().await.unwrap(), Drained::default());
    assert_eq!(points(&server).len(), 8);
    assert!(store.memory_forgotten(10).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_another_process_remembers_is_found_and_what_it_forgot_is_not() {
    let store = Store::open("sqlite::memory:").await.unwrap();
    let server = QdrantServer::start().await.unwrap();
    let (embedder, _) = embedder();
    let (one, other) = (library(&store, Some(&server), &embedder), library(&store, Some(&server), &embedder));
    let scope = ProjectScope::of("p");
    one.add(vec![record("p", "a red fox")]).await.unwrap();
    drain_all(&one).await;
    for library in [&one, &other] {
        library.load(&scope).await.unwrap();
    }
    let (whale, crow) = (record("p", "a blue whale"), record("p", "a black crow"));
    other.add(vec![whale.clone(), crow.clone(), record("q", "a blue whale")]).await.unwrap();
    let found = async |text: &str| {
        let query = Query { text: text.to_owned(), limit: 9, ..Query::default() };
        let hits = one.recall(&scope, query).await.unwrap().hits;
        hits.into_iter().map(|hit| hit.record.id).collect::<Vec<_>>()
    };
    assert_eq!(found("whale").await.len(), 1, "it waits in the outbox");
    drain_all(&other).await;
    // Forgotten, and the vector store does not know it yet.
    other.forget(&scope, &[crow.id]).await.unwrap();
    let ids = found("whale").await;
    assert_eq!((ids[0], ids.len()), (whale.id, 2), "no other project's, none that is forgotten");
    assert!(!found("crow").await.contains(&crow.id));
    assert_eq!(one.index().local().count(&scope), 2);
}

#[tokio::test]
async fn points_of_an_older_scheme_are_carried_again() {
    let store = Store::open("sqlite::memory:").await.unwrap();
    let server = QdrantServer::start().await.unwrap();
    let (embedder, _) = embedder();
    let library = library(&store, Some(&server), &embedder);
    library.add(records(10)).await.unwrap();
    drain_all(&library).await;
    assert_eq!(server.worded(), 10);
    let target = library.target().unwrap();
    assert!(!store.memory_target(&target).await.unwrap(), "it is there already");
    assert!(store.memory_target(target.split_once('#').unwrap().0).await.unwrap(), "words were not kept before");
    assert_eq!(drain_all(&self::library(&store, Some(&server), &embedder)).await, 10);
}
