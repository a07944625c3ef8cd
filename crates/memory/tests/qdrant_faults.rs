//! A vector store that is ill: what a caller sees, and that nothing is lost or shown that should not be.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests, too")]

use std::time::Duration;

use crewline_memory::{Embedded, Hybrid, Point, Qdrant, QdrantOptions, Query, VectorStore};
use crewline_testkit::{Illness, QdrantServer};
use crewline_types::{MemoryId, MemoryMarks, MemoryRecord, MemoryType, ProjectScope, Timestamp};

const PATIENCE: Duration = Duration::from_secs(2);

fn qdrant(server: &QdrantServer, dimensions: usize) -> Qdrant {
    let options = QdrantOptions { url: server.url(), api_key: None, model: "test".to_owned(), dimensions };
    Qdrant::new(options).unwrap().patient_for(PATIENCE)
}

async fn prepared(server: &QdrantServer, dimensions: usize) -> Qdrant {
    let qdrant = qdrant(server, dimensions);
    qdrant.prepare().await.unwrap();
    qdrant
}

fn point(project: &str, text: &str, vector: Vec<f32>) -> Point {
    let kind = MemoryType::TaskSummary;
    let record = MemoryRecord {
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
    };
    Point { id: record.id, record, vector: Some(vector) }
}

fn question() -> Query {
    Query { text: "fox".to_owned(), vector: Some(vec![1.0, 0.0]), limit: 5, ..Query::default() }
}

#[tokio::test]
async fn every_illness_has_its_error_and_passes() {
    let server = QdrantServer::start().await.unwrap();
    let (qdrant, scope) = (prepared(&server, 2).await, ProjectScope::of("p"));
    qdrant.upsert(&scope, vec![point("p", "red fox", vec![1.0, 0.0])]).await.unwrap();
    for (illness, code, retryable) in [
        (Illness::Down, "memory.unavailable", true),
        (Illness::Slow, "memory.timeout", true),
        (Illness::Failing, "memory.rejected", false),
        (Illness::Locked, "memory.refused", false),
    ] {
        server.set(illness);
        for error in [
            qdrant.search(&scope, &question()).await.unwrap_err(),
            qdrant.upsert(&scope, vec![point("p", "blue whale", vec![0.0, 1.0])]).await.unwrap_err(),
            qdrant.check().await.unwrap_err(),
        ] {
            assert_eq!((error.code(), error.is_retryable()), (code, retryable), "{illness:?}: {error}");
        }
        server.set(Illness::None);
        assert_eq!(qdrant.search(&scope, &question()).await.unwrap().len(), 1, "well again after {illness:?}");
    }
}

#[tokio::test]
async fn words_answer_through_every_illness() {
    let server = QdrantServer::start().await.unwrap();
    let scope = ProjectScope::of("p");
    for illness in [Illness::Down, Illness::Slow, Illness::Failing] {
        server.set(Illness::None);
        let hybrid = Hybrid::new(Embedded::new(), Some(prepared(&server, 2).await));
        let points = vec![point("p", "red fox", vec![1.0, 0.0]), point("p", "red dog", vec![0.9, 0.1])];
        hybrid.upsert(&scope, points).await.unwrap();
        assert_eq!(hybrid.search(&scope, &question()).await.unwrap().len(), 2);
        server.set(illness);
        for _ in 0..2 {
            let hits = hybrid.search(&scope, &question()).await.unwrap();
            assert_eq!(hits.iter().map(|hit| &*hit.record.text).collect::<Vec<_>>(), ["red fox"], "{illness:?}");
        }
    }
}

#[tokio::test]
async fn a_collection_of_another_model_is_refused_with_the_fix() {
    let server = QdrantServer::start().await.unwrap();
    let (qdrant, scope) = (qdrant(&server, 2), ProjectScope::of("p"));
    server.make_collection(qdrant.collection(), 3);
    let error = qdrant.check().await.unwrap_err();
    assert_eq!(error.code(), "memory.mismatch");
    assert!(error.to_string().contains("3 dimensions") && error.hint().unwrap().contains("delete"), "{error}");
    let error = qdrant.upsert(&scope, vec![point("p", "red fox", vec![1.0, 0.0])]).await.unwrap_err();
    assert_eq!(error.code(), "memory.mismatch");
    assert!(server.points().is_empty());
    // Of the right name, asked with vectors of another length.
    let other = QdrantServer::start().await.unwrap();
    let error = self::qdrant(&other, 2).upsert(&scope, vec![point("p", "red fox", vec![1.0])]).await.unwrap_err();
    assert_eq!(error.code(), "memory.mismatch");
}

#[tokio::test]
async fn a_collection_without_words_is_refused_with_the_fix() {
    let server = QdrantServer::start().await.unwrap();
    let (qdrant, scope) = (qdrant(&server, 2), ProjectScope::of("p"));
    server.make_collection(qdrant.collection(), 2);
    for error in [
        qdrant.check().await.unwrap_err(),
        qdrant.upsert(&scope, vec![point("p", "red fox", vec![1.0, 0.0])]).await.unwrap_err(),
        qdrant.search(&scope, &question()).await.unwrap_err(),
    ] {
        assert_eq!(error.code(), "memory.mismatch");
        assert!(error.to_string().contains("no sparse vector named `text`"), "{error}");
        assert!(error.hint().unwrap().contains("crewline memory migrate"), "{error}");
    }
    assert!(server.points().is_empty());
}

#[tokio::test]
async fn a_question_is_one_round_trip() {
    let server = QdrantServer::start().await.unwrap();
    let scope = ProjectScope::of("p");
    let (alone, hybrid) = (qdrant(&server, 2), Hybrid::new(Embedded::new(), Some(prepared(&server, 2).await)));
    let points = vec![point("p", "red fox", vec![1.0, 0.0]), point("p", "blue whale", vec![0.0, 1.0])];
    hybrid.upsert(&scope, points).await.unwrap();
    assert_eq!(server.worded(), 2);
    alone.check().await.unwrap();
    let stores: [&dyn VectorStore; 2] = [&alone, &hybrid];
    for store in stores {
        let before = server.requests();
        let hits = store.search(&scope, &question()).await.unwrap();
        assert_eq!(server.requests() - before, 1);
        assert_eq!(&*hits[0].record.text, "red fox");
        assert!(hits[0].why.dense.is_some() && hits[0].why.sparse.is_some() && hits[1].why.sparse.is_none());
    }
}

#[tokio::test]
async fn a_lost_collection_is_made_again_only_by_who_fills_it() {
    let server = QdrantServer::start().await.unwrap();
    let (qdrant, scope) = (qdrant(&server, 2), ProjectScope::of("p"));
    let fox = || vec![point("p", "red fox", vec![1.0, 0.0])];
    qdrant.check().await.unwrap();
    assert!(qdrant.is_missing().await.unwrap(), "a look does not make it");
    qdrant.prepare().await.unwrap();
    assert!(!qdrant.is_lost());
    qdrant.upsert(&scope, fox()).await.unwrap();
    server.lose_collection();
    for _ in 0..2 {
        for error in
            [qdrant.search(&scope, &question()).await.unwrap_err(), qdrant.upsert(&scope, fox()).await.unwrap_err()]
        {
            assert_eq!((error.code(), error.is_retryable()), ("memory.no_collection", true));
            assert!(error.hint().unwrap().contains("crewline memory reindex"));
        }
        qdrant.forget(&scope, &[fox()[0].id]).await.unwrap();
    }
    assert!(qdrant.is_lost() && qdrant.is_missing().await.unwrap(), "whoever fills it must know");
    qdrant.prepare().await.unwrap();
    assert!(!qdrant.is_lost());
}

#[tokio::test]
async fn words_answer_beside_a_collection_of_another_model() {
    let server = QdrantServer::start().await.unwrap();
    let (qdrant, scope) = (qdrant(&server, 2), ProjectScope::of("p"));
    server.make_collection(qdrant.collection(), 3);
    let hybrid = Hybrid::new(Embedded::new(), Some(qdrant));
    hybrid.local().insert(&scope, point("p", "red fox", vec![1.0, 0.0]).record).unwrap();
    for _ in 0..2 {
        let hits = hybrid.search(&scope, &question()).await.unwrap();
        assert_eq!(hits.iter().map(|hit| &*hit.record.text).collect::<Vec<_>>(), ["red fox"]);
    }
    // A question whose vector is of another length is a defect of the caller, and no outage.
    let query = Query { vector: Some(vec![1.0, 0.0, 0.0]), ..question() };
    assert_eq!(hybrid.search(&scope, &query).await.unwrap_err().code(), "memory.mismatch");
}

#[tokio::test]
async fn ties_are_ranked_alike_in_both_stores() {
    let server = QdrantServer::start().await.unwrap();
    let scope = ProjectScope::of("p");
    let there = Hybrid::new(Embedded::new(), Some(prepared(&server, 3).await));
    let here = Hybrid::new(Embedded::new(), None);
    // The same angle to the question by other roads: sums of floats that differ in their last digits.
    let mut points = Vec::new();
    for n in 1..60_u8 {
        let (length, side) = (f32::from(n) * 0.37, if n % 2 == 0 { 1.0 } else { -1.0 });
        let vector = vec![length * 0.3, length * 0.1 * side, length * 0.7];
        points.push(point("p", &format!("memory {}", "x".repeat(n.into())), vector));
    }
    there.upsert(&scope, points.clone()).await.unwrap();
    points.reverse();
    here.upsert(&scope, points).await.unwrap();
    let query = Query { text: "memory".to_owned(), vector: Some(vec![0.2, 0.0, 0.9]), limit: 50, ..Query::default() };
    let (one, other) = (here.search(&scope, &query).await.unwrap(), there.search(&scope, &query).await.unwrap());
    let ids = |hits: &[crewline_memory::Hit]| hits.iter().map(|hit| hit.record.id).collect::<Vec<_>>();
    assert_eq!(one.len(), 50);
    assert_eq!(ids(&one), ids(&other));
}
