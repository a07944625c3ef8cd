//! A cross-encoder on the real ONNX Runtime, tiny but of the shape that real ones have.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test's helpers are tests, too")]

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use crewline_memory::{Embedded, Hybrid, Query, Reranker, Weights};
use crewline_testkit::{
    app::models,
    cross_encoder::{Shape, write},
};
use crewline_types::{MemoryId, MemoryMarks, MemoryRecord, MemoryType, ProjectScope, Timestamp};
use tempfile::TempDir;

const WORDS: [(&str, f32); 3] = [("gold", 9.0), ("silver", 4.0), ("rust", -9.0)];
const LONG: Duration = Duration::from_mins(1);

/// A data directory with the runtime, or nothing with a note.
fn data_dir() -> Option<(TempDir, PathBuf)> {
    let Some(models) = models() else {
        println!("skipped: `cargo xtask test` sets up ONNX Runtime");
        return None;
    };
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(models.join("runtime"), dir.path().join("runtime")).unwrap();
    let folder = dir.path().join("models/reranker");
    Some((dir, folder))
}

fn record(project: &str, text: &str, at: i64) -> MemoryRecord {
    MemoryRecord {
        id: MemoryId::of(project, None, "note", text),
        project: project.into(),
        run: None,
        task: None,
        kind: MemoryType::from("note"),
        agent: "user".into(),
        created_at: Timestamp(at),
        text: text.into(),
        source_ids: Vec::new(),
        marks: MemoryMarks::default(),
    }
}

/// The texts of an answer, and how many memories the reranker has read.
async fn found(index: &Hybrid, project: &str, text: &str, limit: usize) -> (Vec<String>, Option<usize>) {
    let query = Query { text: text.to_owned(), limit, ..Query::default() };
    let found = index.find(&ProjectScope::of(project), &query).await.unwrap();
    let answer = index.finish(&query, found).await;
    for hit in &answer.hits {
        assert_eq!(&*hit.record.project, project);
    }
    let texts = answer.hits.iter().map(|hit| hit.record.text.to_string()).collect();
    (texts, answer.reading.map(|reading| reading.read))
}

fn index(records: &[MemoryRecord], reranker: &Reranker) -> Hybrid {
    let local = Embedded::with_weights(Weights { rerank: 1.0, ..Weights::plain() });
    for record in records {
        local.insert(&ProjectScope::of(&record.project), record.clone()).unwrap();
    }
    Hybrid::new(local, None).reranked(Some(reranker.clone()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_model_says_decides_the_order() {
    let Some((dir, folder)) = data_dir() else { return };
    write(&folder, &WORDS, Shape::Rows).unwrap();
    let reranker = Reranker::find(dir.path()).unwrap().unwrap().patient_for(LONG);
    reranker.check().await.unwrap();
    let mut records = vec![
        record("p", "coin coin coin of Rust", 1),
        record("p", "coin of silver", 2),
        record("p", "a coin that is made of gold, they say", 3),
        record("other", "coin of gold gold gold", 4),
        record("alone", "coin", 5),
    ];
    let by_words = index(&records, &reranker).reranked(None);
    assert_eq!(found(&by_words, "p", "coin", 3).await.0[0], "coin coin coin of Rust");
    let reranked = index(&records, &reranker);
    let expect = ["a coin that is made of gold, they say", "coin of silver", "coin coin coin of Rust"];
    let (texts, read) = found(&reranked, "p", "coin", 3).await;
    assert_eq!((&texts[..], read), (&expect.map(str::to_owned)[..], Some(3)));
    // The words of the question are not those of a memory.
    assert_eq!(found(&reranked, "p", "coin rust rust rust", 1).await.0, ["a coin that is made of gold, they say"]);
    // One, and none, need no reading.
    assert_eq!(found(&reranked, "alone", "coin", 3).await, (vec!["coin".to_owned()], None));
    assert_eq!(found(&reranked, "alone", "nothing of it", 3).await, (Vec::new(), None));
    // A pin counts beside it, and what is superseded falls behind.
    records[1].marks.pinned = true;
    records[2].marks.superseded_by = Some(records[1].id);
    assert_eq!(found(&index(&records, &reranker), "p", "coin", 1).await.0, ["coin of silver"]);
    assert!(reranker.close(LONG));
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_texts_have_scores() {
    let Some((dir, folder)) = data_dir() else { return };
    write(&folder, &WORDS, Shape::Rows).unwrap();
    let reranker = Reranker::open(&folder, dir.path()).unwrap().patient_for(LONG);
    // What is behind the model's window does not count; in it, it does.
    let late = format!("coin {}gold", "word ".repeat(20_000));
    let early = format!("coin gold {}", "word ".repeat(20_000));
    let records: Vec<MemoryRecord> = (0..)
        .zip([late.as_str(), "coin 🚀 漢字 \0", early.as_str(), "coin silver"])
        .map(|(at, it)| record("p", it, at))
        .collect();
    let (texts, read) = found(&index(&records, &reranker), "p", "coin", 4).await;
    assert_eq!((texts[0] == early, &*texts[1], read), (true, "coin silver", Some(4)), "{texts:.60?}");
    // A question of the same length leaves room for the texts.
    let question = format!("coin {}", "word ".repeat(20_000));
    assert_eq!(found(&index(&records[1..], &reranker), "p", &question, 1).await.0, [early]);
    // A smaller window of the model's own is respected.
    let near = format!("coin {}gold", "word ".repeat(100));
    let records = [record("p", &near, 1), record("p", "coin silver", 2)];
    assert_eq!(found(&index(&records, &reranker), "p", "coin", 1).await.0[0], near);
    fs::write(folder.join("tokenizer_config.json"), r#"{"model_max_length": 64}"#).unwrap();
    let narrow = Reranker::open(&folder, dir.path()).unwrap().patient_for(LONG);
    assert_eq!(found(&index(&records, &narrow), "p", "coin", 1).await.0, ["coin silver"]);
    assert!(narrow.close(LONG) && reranker.close(LONG));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_model_is_an_error_and_the_order_stays() {
    let Some((dir, folder)) = data_dir() else { return };
    let records = [record("p", "coin coin", 1), record("p", "a coin of gold that is long", 2)];
    let garbage: &[u8] = &[0x08, 0xff, 0x13, 0x37];
    for (name, bytes) in [("model.onnx", garbage), ("tokenizer.json", b"{\"model\": 1}"), ("model.onnx", &[])] {
        write(&folder, &WORDS, Shape::Rows).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
        let reranker = match Reranker::open(&folder, dir.path()) {
            Ok(reranker) => reranker.patient_for(LONG),
            Err(error) => {
                assert_eq!((error.code(), bytes.len()), ("memory.reranker", 0), "{error}");
                continue;
            }
        };
        let (texts, read) = found(&index(&records, &reranker), "p", "coin", 2).await;
        assert_eq!((&*texts[0], read), ("coin coin", Some(0)), "{name}");
        assert_eq!(reranker.check().await.unwrap_err().code(), "memory.stopped", "it is tried once");
        let again = Reranker::open(&folder, dir.path()).unwrap().patient_for(LONG).check().await.unwrap_err();
        assert_eq!(again.code(), "memory.reranker", "{again}");
    }
    write(&folder, &WORDS, Shape::List).unwrap();
    let error = Reranker::open(&folder, dir.path()).unwrap().patient_for(LONG).check().await.unwrap_err();
    assert!(error.to_string().contains("it gives no score for each pair"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_best_are_read_and_a_late_answer_keeps_the_order() {
    let read = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&read);
    let reranker = Reranker::of("by length", move |_, text| {
        seen.lock().unwrap().push(text.to_owned());
        Ok(text.len() as f32)
    });
    let records: Vec<MemoryRecord> =
        (0_u8..50).map(|at| record("p", &format!("coin {}", "of words ".repeat(at.into())), at.into())).collect();
    let (texts, count) = found(&index(&records, &reranker.clone().reading(8)), "p", "coin", 50).await;
    assert_eq!((texts.len(), count, read.lock().unwrap().len()), (50, Some(8), 8));
    assert!(texts[..8].is_sorted_by_key(|text| std::cmp::Reverse(text.len())), "the eight are turned round");
    assert!(texts[8..].is_sorted_by_key(String::len), "the others are as before");
    assert_eq!(found(&index(&records, &reranker), "p", "coin", 3).await.1, Some(32));

    // It reads nothing until the test is over.
    let (_open, gate) = std::sync::mpsc::channel::<()>();
    let gate = Arc::new(std::sync::Mutex::new(gate));
    let slow = Reranker::of("slow", move |_, _| {
        let _ = gate.lock().unwrap().recv();
        Ok(1.0)
    });
    let (late, read) = found(&index(&records, &slow.patient_for(Duration::from_millis(20))), "p", "coin", 3).await;
    let unread = index(&records, &reranker).reranked(None);
    assert_eq!((late, read), (found(&unread, "p", "coin", 3).await.0, Some(0)));

    let off = Embedded::with_weights(Weights { rerank: 0.0, ..Weights::plain() });
    for record in &records {
        off.insert(&ProjectScope::of("p"), record.clone()).unwrap();
    }
    let off = Hybrid::new(off, None).reranked(Some(reranker));
    assert_eq!(found(&off, "p", "coin", 3).await.1, None, "a weight of 0 asks nobody");
}
