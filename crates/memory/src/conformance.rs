//! One suite for every vector store: the embedded one and our copy of Qdrant always, a Qdrant server when `QDRANT_URL`
//! names one.
//!
//! **Invariant:** a store that passes can be put in the place of any other.

use std::sync::Arc;

use crewline_testkit::QdrantServer;
use crewline_types::{MemoryId, MemoryMarks, MemoryRecord, MemoryType, ProjectScope, TaskId, Timestamp};
use futures::FutureExt as _;

use crate::{Embedded, Error, Filter, Hit, Hybrid, Point, Qdrant, QdrantOptions, Query, VectorStore, Vectors, dense};

const DIMENSIONS: usize = 8;

/// A record with a made-up author.
pub(crate) fn record(project: &str, text: &str, at: i64) -> MemoryRecord {
    let kind = MemoryType::TaskSummary;
    MemoryRecord {
        id: MemoryId::of(project, None, kind.as_str(), text),
        project: project.into(),
        run: None,
        task: None,
        kind,
        agent: "coder".into(),
        created_at: Timestamp(at),
        text: text.into(),
        source_ids: Vec::new(),
        marks: MemoryMarks::default(),
    }
}

fn point(record: &MemoryRecord, vector: Vec<f32>) -> Point {
    Point { id: record.id, record: record.clone(), vector: Some(vector) }
}

/// A vector that points along axis `axis`, and a little along the next.
fn along(axis: usize) -> Vec<f32> {
    let mut vector = vec![0.0; DIMENSIONS];
    vector[axis % DIMENSIONS] = 1.0;
    vector[(axis + 1) % DIMENSIONS] = 0.25;
    vector
}

fn task(name: &str) -> TaskId {
    name.parse().unwrap()
}

fn texts(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|hit| &*hit.record.text).collect()
}

fn by_words(text: &str, limit: usize) -> Query {
    Query { text: text.to_owned(), limit, ..Query::default() }
}

fn by_vector(axis: usize, limit: usize) -> Query {
    Query { vector: Some(along(axis)), limit, ..Query::default() }
}

/// The suite.
async fn run(store: &dyn VectorStore) {
    let (a, b) = (ProjectScope::of("conformance-a"), ProjectScope::of("conformance-b"));
    store.check().await.unwrap();
    for scope in [&a, &b] {
        store.reset(scope).await.unwrap();
    }
    assert!(store.search(&a, &by_vector(0, 5)).await.unwrap().is_empty(), "an unknown project is empty");

    // A repeated write is one record; the first is kept.
    let mut fox = record("conformance-a", "the red fox jumps", 10);
    let whale = record("conformance-a", "a blue whale dives", 20);
    for _ in 0..2 {
        store.upsert(&a, vec![point(&fox, along(0)), point(&whale, along(3))]).await.unwrap();
    }
    let hits = store.search(&a, &by_vector(0, 5)).await.unwrap();
    assert_eq!(texts(&hits), ["the red fox jumps", "a blue whale dives"]);
    assert!((hits[0].why.dense.unwrap() - 1.0).abs() < 1e-5 && hits[0].why.sparse.is_none(), "{hits:?}");
    assert!((hits[0].score - 1.0).abs() < 1e-5);
    assert_eq!(*hits[0].record, fox, "all fields come back");
    assert_eq!(store.search(&a, &by_vector(3, 1)).await.unwrap().len(), 1, "the limit holds");
    assert!(store.search(&a, &by_vector(0, 0)).await.unwrap().is_empty());

    let hits = store.search(&a, &by_words("whales", 5)).await.unwrap();
    assert_eq!(texts(&hits), ["a blue whale dives"]);
    assert!(hits[0].why.dense.is_none() && hits[0].why.sparse.unwrap() > 0.0);
    // Both sides: what both like goes first.
    let both = Query { text: "red fox".to_owned(), ..by_vector(0, 5) };
    let hits = store.search(&a, &both).await.unwrap();
    assert_eq!(texts(&hits), ["the red fox jumps", "a blue whale dives"]);
    assert!((hits[0].score - 1.0).abs() < 1e-5 && hits[1].score < 0.5, "{hits:?}");

    // Two projects with identical texts never see each other.
    let twin = record("conformance-b", "the red fox jumps", 10);
    store.upsert(&b, vec![point(&twin, along(0))]).await.unwrap();
    for (scope, count) in [(&a, 2), (&b, 1)] {
        let hits = store.search(scope, &by_vector(0, 10)).await.unwrap();
        assert_eq!(hits.len(), count);
        assert!(hits.iter().all(|hit| &*hit.record.project == scope.project()));
    }
    store.forget(&b, &[fox.id]).await.unwrap();
    assert_eq!(store.search(&a, &by_vector(0, 10)).await.unwrap().len(), 2, "ids of another project are not forgotten");
    let error = store.upsert(&b, vec![point(&fox, along(0))]).await.unwrap_err();
    assert_eq!(error.code(), "memory.foreign_project");

    // How often others use a word does not change how rare it is here.
    let many = |project: &str, word: &str, count: usize| -> Vec<Point> {
        (0..count).map(|n| point(&record(project, &format!("{word} seen {n} times"), 50), along(5))).collect()
    };
    let (rivers, stone) = (many("conformance-a", "river", 4), many("conformance-a", "stone", 1));
    store.upsert(&a, rivers.iter().chain(&stone).cloned().collect()).await.unwrap();
    let first = |hits: Vec<Hit>| hits[0].record.id;
    assert_eq!(first(store.search(&a, &by_words("river stone", 9)).await.unwrap()), stone[0].id);
    let stones = many("conformance-b", "stone", 40);
    store.upsert(&b, stones.clone()).await.unwrap();
    assert_eq!(first(store.search(&a, &by_words("river stone", 9)).await.unwrap()), stone[0].id);
    let ids = |points: &[Point]| points.iter().map(|point| point.id).collect::<Vec<_>>();
    store.forget(&a, &[ids(&rivers), ids(&stone)].concat()).await.unwrap();
    store.forget(&b, &ids(&stones)).await.unwrap();

    // Filters.
    fox.text = "a fox of the first task".into();
    fox.id = MemoryId(1);
    fox.task = Some(task("aaaaaaaa"));
    fox.kind = MemoryType::Other("lesson".into());
    fox.agent = "tester".into();
    fox.created_at = Timestamp(30);
    let mut second = fox.clone();
    (second.id, second.text, second.task) = (MemoryId(2), "a fox of the second task".into(), Some(task("bbbbbbbb")));
    second.created_at = Timestamp(40);
    second.source_ids = vec![fox.id];
    store.upsert(&a, vec![point(&fox, along(0)), point(&second, along(0))]).await.unwrap();
    let first_only = ["a fox of the first task"];
    let of_tasks = ["a fox of the first task", "a fox of the second task"];
    for (filter, expect) in [
        (Filter { task: Some(task("aaaaaaaa")), ..Filter::default() }, &first_only[..]),
        (Filter { kinds: vec!["lesson".into(), "design_doc".into()], ..Filter::default() }, &of_tasks),
        (Filter { agent: Some("tester".into()), ..Filter::default() }, &of_tasks),
        (Filter { since: Some(Timestamp(30)), ..Filter::default() }, &of_tasks),
        (
            Filter { exclude_tasks: vec![task("bbbbbbbb")], agent: Some("tester".into()), ..Filter::default() },
            &first_only,
        ),
        (Filter { agent: Some("nobody".into()), ..Filter::default() }, &[]),
    ] {
        let query = Query { filter: filter.clone(), ..by_vector(0, 10) };
        assert_eq!(texts(&store.search(&a, &query).await.unwrap()), expect, "{filter:?}");
        let query = Query { filter: filter.clone(), ..by_words("fox", 10) };
        assert_eq!(texts(&store.search(&a, &query).await.unwrap()), expect, "{filter:?}");
    }
    // Without a task nothing is excluded by task.
    let filter = Filter { exclude_tasks: vec![task("aaaaaaaa"), task("bbbbbbbb")], ..Filter::default() };
    assert_eq!(store.search(&a, &Query { filter, ..by_vector(0, 10) }).await.unwrap().len(), 2);

    // A vector of another model is refused.
    let error =
        store.search(&a, &Query { vector: Some(vec![1.0; 3]), limit: 1, ..Query::default() }).await.unwrap_err();
    assert_eq!(error.code(), "memory.mismatch");
    assert!(error.hint().is_some());

    store.forget(&a, &[fox.id, second.id, MemoryId(77)]).await.unwrap();
    assert_eq!(store.search(&a, &by_vector(0, 10)).await.unwrap().len(), 2);
    store.reset(&a).await.unwrap();
    assert!(store.search(&a, &by_vector(0, 10)).await.unwrap().is_empty());
    assert_eq!(store.search(&b, &by_vector(0, 10)).await.unwrap().len(), 1, "the other project is untouched");
    store.reset(&b).await.unwrap();
}

/// Random memories, the same for the same seed; some without a vector.
fn crowd(project: &str, count: usize) -> Vec<Point> {
    let mut random = fastrand::Rng::with_seed(5);
    let words: Vec<String> = (0..200).map(|n| format!("word{n}")).collect();
    (0..count)
        .map(|n| {
            let text: Vec<&str> =
                (0..20).map(|_| words[random.usize(..200) * random.usize(..200) / 200].as_str()).collect();
            let mut record = record(project, &format!("{} number{n}", text.join(" ")), random.i64(..50));
            record.task = [None, Some(task("aaaaaaaa"))][random.usize(..2)];
            let vector = (0..DIMENSIONS).map(|_| random.f32() - 0.5).collect();
            Point { id: record.id, record, vector: (n % 10 > 0).then_some(vector) }
        })
        .collect()
}

fn questions() -> Vec<Query> {
    let mut random = fastrand::Rng::with_seed(6);
    (0..40)
        .map(|n| Query {
            text: (0..n % 8).map(|_| format!("word{}", random.usize(..200))).collect::<Vec<_>>().join(" "),
            vector: Some((0..DIMENSIONS).map(|_| random.f32() - 0.5).collect()),
            filter: Filter {
                exclude_tasks: if n % 2 == 0 { vec![task("aaaaaaaa")] } else { Vec::new() },
                ..Filter::default()
            },
            limit: 10,
        })
        .collect()
}

/// Same memories, same queries: same ranking.
fn assert_alike(left: &[Hit], right: &[Hit], query: &Query) {
    assert_eq!(texts(left), texts(right), "{query:?}");
    for (left, right) in left.iter().zip(right) {
        assert!((left.score - right.score).abs() < 1e-4, "{left:?} {right:?}");
    }
}

/// Opens a project of these memories.
fn opened(store: &Embedded, scope: &ProjectScope, stored: &[(&MemoryRecord, Option<Vec<f32>>)]) -> Result<bool, Error> {
    let mut opening = store.open(scope).now_or_never().unwrap()?.unwrap();
    let mut vectors = Vectors::default();
    for (row, (record, vector)) in (1..).zip(stored) {
        opening.add(row, (*record).clone())?;
        if let Some(vector) = vector {
            vectors.push(row, vector);
        }
    }
    Ok(opening.finish(vectors))
}

fn loaded(scope: &ProjectScope, points: &[Point]) -> Embedded {
    let store = Embedded::new();
    let stored: Vec<_> = points.iter().map(|point| (&point.record, point.vector.clone())).collect();
    assert!(opened(&store, scope, &stored).unwrap());
    store
}

#[tokio::test]
async fn embedded_conforms() {
    run(&Embedded::new()).await;
    run(&Hybrid::new(Embedded::new(), None)).await;
}

#[test]
fn given_similarities_rank_like_our_own() {
    let scope = ProjectScope::of("crowd");
    let points = crowd("crowd", 600);
    let own = loaded(&scope, &points);
    let words_only = loaded(&scope, &points.iter().cloned().map(|p| Point { vector: None, ..p }).collect::<Vec<_>>());
    for query in questions() {
        // What a remote store does: the nearest that pass the filter, and the words' candidates.
        let unit = dense::unit(query.vector.clone().unwrap()).unwrap();
        let mut near: Vec<(MemoryId, f32, bool)> = points
            .iter()
            .filter_map(|point| {
                let row = dense::unit(point.vector.clone()?)?;
                Some((
                    point.id,
                    dense::dot(&row, &unit),
                    query.filter.exclude_tasks.is_empty() || point.record.task.is_none(),
                ))
            })
            .collect();
        near.sort_by(|left, right| right.1.total_cmp(&left.1));
        let known = words_only.candidates(&scope, &query);
        let mut similar: Vec<_> = near.iter().filter(|(.., passes)| *passes).take(200).map(|n| (n.0, n.1)).collect();
        similar.extend(near.iter().filter(|(id, ..)| known.contains(id)).map(|n| (n.0, n.1)));
        similar.push((MemoryId(404), 1.0));
        let (left, right) = (own.search(&scope, &query), words_only.search_with(&scope, &query, Some(&similar)));
        assert_eq!(left.len(), 10);
        assert_alike(&left, &right, &query);
    }
}

#[test]
fn the_order_of_arrival_does_not_matter() {
    let scope = ProjectScope::of("crowd");
    let mut points = crowd("crowd", 300);
    for (at, point) in (0..).zip(&mut points) {
        point.record.created_at = Timestamp(at);
        // Many ties.
        point.vector = Some(along(usize::try_from(at).unwrap() / 50));
    }
    let forward = loaded(&scope, &points);
    points.reverse();
    let backward = Embedded::new();
    for point in &points {
        backward.insert(&scope, point.record.clone()).unwrap();
        backward.set_vectors(&scope, &[(point.id, point.vector.clone().unwrap())]).unwrap();
    }
    for query in questions() {
        assert_eq!(texts(&forward.search(&scope, &query)), texts(&backward.search(&scope, &query)), "{query:?}");
    }
}

#[test]
fn loading_joins_what_came_meanwhile_and_leaves_out_unfit_vectors() {
    let scope = ProjectScope::of("p");
    let store = Embedded::new();
    let early = Arc::new(record("p", "came before the load", 9));
    assert!(store.insert(&scope, Arc::clone(&early)).unwrap());
    assert!(!store.is_loaded(&scope), "only loading makes it complete");
    let old = record("p", "an old one", 1);
    let bad = record("p", "with a vector of another model", 2);
    let rows = [(&old, Some(vec![1.0, 0.0])), (&*early, None), (&bad, Some(vec![1.0; 3]))];
    assert!(opened(&store, &scope, &rows).unwrap());
    assert!(store.is_loaded(&scope));
    assert_eq!(store.count(&scope), 3);
    assert!(!store.insert(&scope, old.clone()).unwrap());
    let query = Query { vector: Some(vec![1.0, 0.0]), limit: 5, ..Query::default() };
    assert_eq!(texts(&store.search(&scope, &query)), ["an old one"]);
    assert_eq!(opened(&store, &ProjectScope::of("q"), &[(&old, None)]).unwrap_err().code(), "memory.foreign_project");
    assert_eq!(store.set_vectors(&scope, &[(early.id, vec![f32::NAN, 0.0])]).unwrap_err().code(), "memory.vector");
    store.unload(&scope);
    assert!(!store.is_loaded(&scope));
}

#[tokio::test]
async fn what_happens_while_a_project_is_opened_is_in_it() {
    let scope = ProjectScope::of("p");
    let store = Embedded::new();
    let records: Vec<MemoryRecord> = (0..5).map(|at| record("p", &format!("memory number{at}"), at)).collect();
    let mut opening = store.open(&scope).now_or_never().unwrap().unwrap().unwrap();
    assert!(store.is_begun(&scope));
    for (row, record) in (1..).zip(&records) {
        opening.add(row, record.clone()).unwrap();
    }
    let mut vectors = Vectors::default();
    vectors.push(2, &[0.0, 1.0]);
    // Nobody else opens it, and it has nothing yet.
    assert!(store.open(&scope).now_or_never().is_none());
    assert_eq!(store.count(&scope), 0);
    let new = record("p", "came meanwhile", 9);
    assert!(store.insert(&scope, new.clone()).unwrap());
    assert_eq!(store.set_vectors(&scope, &[(records[0].id, vec![1.0, 0.0])]).unwrap(), 0);
    let marks = MemoryMarks { repeats: 7, ..MemoryMarks::default() };
    assert!(!store.mark(&scope, records[0].id, marks.clone()) && !store.mark(&scope, records[3].id, marks.clone()));
    assert_eq!(store.remove(&scope, &[records[2].id, records[3].id, new.id, records[4].id]), 1);
    // Said again after it was forgotten.
    assert!(store.insert(&scope, records[3].clone()).unwrap());
    assert!(opening.finish(vectors));
    assert!(store.is_loaded(&scope) && store.open(&scope).now_or_never().unwrap().unwrap().is_none());
    let mut found = store.search(&scope, &by_words("memory meanwhile number0 number2 number3 number4", 9));
    found.sort_by_key(|hit| hit.record.created_at);
    assert_eq!(texts(&found), ["memory number0", "memory number1", "memory number3"]);
    assert_eq!(found.iter().map(|hit| hit.record.marks.repeats).collect::<Vec<_>>(), [7, 0, 0]);
    let near = Query { vector: Some(vec![1.0, 0.0]), limit: 5, ..Query::default() };
    let near = store.search(&scope, &near);
    assert_eq!(texts(&near)[..1], ["memory number0"]);
    assert!(near.iter().all(|hit| hit.record.id != records[3].id), "its vector went with it");
}

#[test]
fn an_opening_that_is_given_up_leaves_nothing() {
    let scope = ProjectScope::of("p");
    let store = Embedded::new();
    let (one, other) = (record("p", "one", 1), record("p", "other", 2));
    let mut opening = store.open(&scope).now_or_never().unwrap().unwrap().unwrap();
    opening.add(1, one.clone()).unwrap();
    store.remove(&scope, &[one.id]);
    drop(opening);
    assert_eq!(store.count(&scope), 0);
    assert!(opened(&store, &scope, &[(&one, None)]).unwrap());
    assert_eq!(store.count(&scope), 1, "what was forgotten before it was read is no matter");
    // Dropped from the index while it is opened.
    store.unload(&scope);
    let mut opening = store.open(&scope).now_or_never().unwrap().unwrap().unwrap();
    opening.add(1, one).unwrap();
    store.unload(&scope);
    store.insert(&scope, other).unwrap();
    assert!(!opening.finish(Vectors::default()));
    assert_eq!((store.count(&scope), store.is_loaded(&scope)), (1, false));
}

#[test]
fn forgetting_most_of_a_project_compacts_it() {
    let scope = ProjectScope::of("crowd");
    let points = crowd("crowd", 2_500);
    let store = loaded(&scope, &points);
    let (gone, kept) = points.split_at(1_800);
    let ids: Vec<MemoryId> = gone.iter().map(|point| point.id).collect();
    assert_eq!(store.remove(&scope, &ids), 1_800);
    let fresh = loaded(&scope, kept);
    assert_eq!(store.count(&scope), fresh.count(&scope));
    for query in questions() {
        assert_alike(&store.search(&scope, &query), &fresh.search(&scope, &query), &query);
    }
}

#[tokio::test]
async fn large_projects_leave_the_async_threads() {
    let scope = ProjectScope::of("crowd");
    let store = Embedded::new();
    VectorStore::upsert(&store, &scope, crowd("crowd", 21_000)).await.unwrap();
    assert_eq!(store.count(&scope), 21_000);
    let query = &questions()[7];
    let hits = VectorStore::search(&store, &scope, query).await.unwrap();
    assert_alike(&hits, &store.search(&scope, query), query);
}

#[tokio::test]
async fn our_copy_of_qdrant_conforms() {
    let server = QdrantServer::start().await.unwrap();
    qdrant_conforms(server.url()).await;
    assert_eq!(server.indexed(), ["agent", "created_at", "kind", "project", "task"], "every filtered field");
}

#[tokio::test]
async fn a_real_qdrant_conforms() {
    #[expect(clippy::disallowed_methods, reason = "tests have no settings")]
    let Ok(url) = std::env::var("QDRANT_URL") else {
        println!("skipped: QDRANT_URL is not set");
        return;
    };
    qdrant_conforms(url).await;
}

async fn qdrant_conforms(url: String) {
    let options = QdrantOptions { url, api_key: None, model: "conformance".to_owned(), dimensions: DIMENSIONS };
    let qdrant = Qdrant::new(options).unwrap();
    qdrant.prepare().await.unwrap();
    run(&qdrant).await;
    run(&Hybrid::new(Embedded::new(), Some(qdrant.clone()))).await;

    let scope = ProjectScope::of("crowd");
    let points = crowd("crowd", 600);
    let (own, remote) = (loaded(&scope, &points), Hybrid::new(Embedded::new(), Some(qdrant)));
    remote.reset(&scope).await.unwrap();
    remote.upsert(&scope, points).await.unwrap();
    for query in questions() {
        assert_alike(&own.search(&scope, &query), &remote.search(&scope, &query).await.unwrap(), &query);
    }
    remote.reset(&scope).await.unwrap();
}
