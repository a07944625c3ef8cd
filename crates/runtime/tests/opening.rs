//! Opening a memory: with the words that are kept it is the memory that the texts make, whatever happened in between.
//!
//! One test runs itself as the process that is killed: with a folder in its environment, [`a_process_that_opens`] opens until
//! it dies.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests, too")]
#![expect(clippy::disallowed_methods, reason = "the environment tells the child what to do")]

use std::{
    env,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use crewline_memory::{Embedded, Hybrid, Query, Segment};
use crewline_runtime::Library;
use crewline_store::{Span, Store};
use crewline_types::{MemoryId, MemoryMarks, MemoryRecord, MemoryType, ProjectScope, Timestamp, time::ManualClock};

/// Where the child finds its database.
const FOLDER: &str = "CREWLINE_TEST_OPENING_FOLDER";
/// Two full stretches and some.
const COUNT: u64 = 2 * 4_096 + 100;

async fn library(folder: &Path) -> Library {
    let store = Store::open(&format!("sqlite:{}", folder.join("c.db").display())).await.unwrap();
    Library::new(store, Hybrid::new(Embedded::new(), None), None, Arc::new(ManualClock::default()))
}

fn scope() -> ProjectScope {
    ProjectScope::of("p")
}

fn record(number: u64) -> MemoryRecord {
    let mut random = fastrand::Rng::with_seed(number);
    let words: Vec<String> = (0..random.u32(1..12)).map(|_| format!("word{}", random.u32(..300))).collect();
    let text = format!("{} secret{number}", words.join(" "));
    let kind = MemoryType::TaskSummary;
    MemoryRecord {
        id: MemoryId::of("p", None, kind.as_str(), &text),
        project: "p".into(),
        run: None,
        task: None,
        kind,
        agent: "coder".into(),
        created_at: Timestamp(i64::try_from(number).unwrap()),
        text: text.into(),
        source_ids: Vec::new(),
        marks: MemoryMarks::default(),
    }
}

async fn filled(folder: &Path) -> Vec<MemoryRecord> {
    let library = library(folder).await;
    let records: Vec<MemoryRecord> = (0..COUNT).map(record).collect();
    for some in records.chunks(1_000) {
        library.add(some.to_vec()).await.unwrap();
    }
    records
}

async fn opened(folder: &Path) -> Library {
    let library = library(folder).await;
    library.load(&scope()).await.unwrap();
    library
}

/// Who is found, and with which score.
fn found(library: &Library) -> Vec<Vec<(MemoryId, u32)>> {
    let ask = |text: String| {
        let query = Query { text, limit: 20, ..Query::default() };
        let hits = library.index().local().search(&scope(), &query);
        hits.iter().map(|hit| (hit.record.id, hit.score.to_bits())).collect()
    };
    (0..40).map(|n| ask(format!("word{n} word{} secret{}", n * 7, n * 200))).collect()
}

/// The same without anything kept.
fn expected(records: &[MemoryRecord]) -> Vec<Vec<(MemoryId, u32)>> {
    let index = Embedded::new();
    for record in records {
        index.insert(&scope(), record.clone()).unwrap();
    }
    let ask = |text: String| {
        let query = Query { text, limit: 20, ..Query::default() };
        index.search(&scope(), &query).iter().map(|hit| (hit.record.id, hit.score.to_bits())).collect()
    };
    (0..40).map(|n| ask(format!("word{n} word{} secret{}", n * 7, n * 200))).collect()
}

async fn spans(library: &Library) -> Vec<Span> {
    library.store().memory_words(&scope()).await.unwrap().spans
}

#[tokio::test]
async fn kept_words_find_what_texts_find() {
    let folder = tempfile::tempdir().unwrap();
    let records = filled(folder.path()).await;
    let expected = expected(&records);
    let first = opened(folder.path()).await;
    assert_eq!(found(&first), expected);
    let kept = spans(&first).await;
    assert_eq!(kept.len(), 2, "full stretches only: {kept:?}");
    let second = opened(folder.path()).await;
    assert_eq!(found(&second), expected);
    assert_eq!(spans(&second).await, kept);
    assert_eq!(second.keep_words(&scope()).await.unwrap(), 0, "nothing is missing");
}

#[tokio::test]
async fn who_writes_keeps_the_same_words_as_who_opens() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let records = filled(one.path()).await;
    filled(other.path()).await;
    let (writes, opens) = (library(one.path()).await, opened(other.path()).await);
    assert_eq!(writes.keep_words(&scope()).await.unwrap(), 2);
    let kept = spans(&writes).await;
    assert_eq!(kept, spans(&opens).await);
    for span in kept {
        let words = writes.store().words_of(&scope(), span).await.unwrap();
        assert!(words.is_some() && words == opens.store().words_of(&scope(), span).await.unwrap());
    }
    assert_eq!(found(&opened(one.path()).await), expected(&records));
}

#[tokio::test]
async fn what_is_forgotten_leaves_the_words_that_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut records = filled(folder.path()).await;
    let library = opened(folder.path()).await;
    let kept = spans(&library).await;
    let gone = records.remove(5_000);
    assert_eq!(library.forget(&scope(), &[gone.id]).await.unwrap(), 1);
    assert_eq!(spans(&library).await, kept[..1], "its words went with it");
    assert!(library.store().words_of(&scope(), kept[1]).await.unwrap().is_none());
    for _ in 0..2 {
        let again = opened(folder.path()).await;
        assert_eq!(found(&again), expected(&records));
        let query = Query { text: "secret5000".to_owned(), limit: 5, ..Query::default() };
        assert!(again.index().local().search(&scope(), &query).iter().all(|hit| hit.record.id != gone.id));
    }
    // The gap and what came behind it are one stretch now, which is full again.
    let again = spans(&library).await;
    assert_eq!(again.len(), 2);
    for span in again {
        let rows = library.store().memories_through(&scope(), span.after, span.through).await.unwrap();
        assert!(rows.iter().all(|(_, record)| record.id != gone.id));
        let of_the_rest = Segment::of(rows.iter().map(|(row, record)| (*row, &*record.text)));
        assert_eq!(library.store().words_of(&scope(), span).await.unwrap().unwrap(), of_the_rest.bytes());
    }
}

#[tokio::test]
async fn words_that_were_read_before_a_forgetting_are_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let records = filled(folder.path()).await;
    let (one, other) = (library(folder.path()).await, library(folder.path()).await);
    let before = one.store().memory_words(&scope()).await.unwrap();
    assert_eq!(other.forget(&scope(), &[records[7].id]).await.unwrap(), 1);
    let span = Span { after: 0, through: 4_096 };
    assert!(!one.store().keep_words(&scope(), before.epoch, span, b"old words", false).await.unwrap());
    assert_eq!(spans(&one).await, []);
}

#[tokio::test]
async fn broken_words_are_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let records = filled(folder.path()).await;
    let library = opened(folder.path()).await;
    let (kept, store) = (spans(&library).await, library.store());
    let whole = store.words_of(&scope(), kept[0]).await.unwrap().unwrap();
    let mut turned = whole.clone();
    *turned.last_mut().unwrap() ^= 1;
    for broken in [Vec::new(), b"no words".to_vec(), whole[..whole.len() / 2].to_vec(), turned] {
        let epoch = store.memory_words(&scope()).await.unwrap().epoch;
        assert!(store.keep_words(&scope(), epoch, kept[0], &broken, true).await.unwrap());
        assert_eq!(found(&opened(folder.path()).await), expected(&records));
        assert_eq!(store.words_of(&scope(), kept[0]).await.unwrap().unwrap(), whole);
    }
}

/// The process that is killed: opens until it dies, each time with one piece of words less.
#[tokio::test]
async fn a_process_that_opens() {
    let Some(folder) = env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    loop {
        let library = opened(folder).await;
        let Span { after, through } = spans(&library).await[0];
        // The row that a piece ends with may be gone.
        let rows = library.store().memories_through(&scope(), after, through).await.unwrap();
        library.forget(&scope(), &[rows[rows.len() - 1].1.id]).await.unwrap();
    }
}

#[tokio::test]
async fn openings_that_are_killed_leave_nothing_wrong() {
    let seed = 5;
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    for _ in 0..12 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "a_process_that_opens", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(random.u64(50..900))).await;
        assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
        // SIGKILL.
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let library = opened(folder.path()).await;
    let left: Vec<MemoryRecord> = library.all(&scope()).await.unwrap().into_iter().map(|(_, record)| record).collect();
    println!("{} memories, {} are left", COUNT, left.len());
    let expected = expected(&left);
    assert_eq!(found(&library), expected);
    assert_eq!(found(&opened(folder.path()).await), expected);
}

#[tokio::test]
async fn two_that_open_at_once_keep_words_once() {
    let folder = tempfile::tempdir().unwrap();
    let records = filled(folder.path()).await;
    let (one, other) = (library(folder.path()).await, library(folder.path()).await);
    let scope = scope();
    let (left, right) = tokio::join!(one.load(&scope), other.load(&scope));
    left.unwrap();
    right.unwrap();
    let expected = expected(&records);
    assert_eq!(found(&one), expected);
    assert_eq!(found(&other), expected);
    assert_eq!(spans(&one).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forgotten_while_a_project_is_opened_is_not_found() {
    let seed = 11;
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut records = filled(folder.path()).await;
    let begun = Instant::now();
    drop(opened(folder.path()).await);
    let takes = u64::try_from(begun.elapsed().as_micros()).unwrap();
    for _ in 0..12 {
        let library = library(folder.path()).await;
        let gone: Vec<MemoryId> = (0..3).map(|_| records.remove(random.usize(..records.len())).id).collect();
        let (scope, pause) = (scope(), Duration::from_micros(random.u64(..takes)));
        let forget = async {
            tokio::time::sleep(pause).await;
            library.forget(&scope, &gone).await
        };
        let (loaded, forgotten) = tokio::join!(library.load(&scope), forget);
        loaded.unwrap();
        assert_eq!(forgotten.unwrap(), 3);
        let index = library.index().local();
        assert!(index.is_loaded(&scope) && gone.iter().all(|id| index.get(&scope, *id).is_none()), "{pause:?}");
        assert_eq!(index.count(&scope), records.len());
        let expected = expected(&records);
        assert_eq!(found(&library), expected, "forgotten after {pause:?}");
        assert_eq!(found(&opened(folder.path()).await), expected, "forgotten after {pause:?}");
    }
}
