//! The thread and its waits, with models made of closures.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use super::*;

const LONG: Duration = Duration::from_mins(1);

/// A reranker whose pairs wait for the test: it announces each and goes on when told. A text's score is its length.
fn gated() -> (Reranker, std::sync::mpsc::Receiver<String>, std::sync::mpsc::Sender<()>) {
    let (announce, announced) = std::sync::mpsc::channel();
    let (go, gate) = std::sync::mpsc::channel();
    let gate = Mutex::new(Some(gate));
    let reranker = Reranker::with_loader("gated", move || {
        let (announce, gate) = (announce.clone(), gate.lock().unwrap().take().unwrap());
        Ok(Box::new(move |question, text| {
            announce.send(format!("{question}/{text}")).unwrap();
            gate.recv().map_err(|_| Error::Stopped)?;
            Ok(text.len() as f32)
        }))
    });
    (reranker.patient_for(LONG), announced, go)
}

fn texts(all: &[&str]) -> Vec<Arc<str>> {
    all.iter().map(|text| Arc::from(*text)).collect()
}

/// A question that waits in a task of its own.
#[expect(clippy::disallowed_methods, reason = "this room has no actors")]
fn ask(reranker: &Reranker, question: &'static str, all: &[&str]) -> tokio::task::JoinHandle<Scored> {
    let (reranker, texts) = (reranker.clone(), texts(all));
    tokio::spawn(async move { reranker.score(question, texts).await })
}

fn code(scored: &Scored) -> Option<&'static str> {
    scored.failure.as_ref().map(Error::code)
}

#[tokio::test(flavor = "multi_thread")]
async fn scores_stand_in_the_order_of_the_texts() {
    let reranker = Reranker::of("by length", |_, text| Ok(text.len() as f32));
    let scored = reranker.score("q", texts(&["one", "", "three"])).await;
    assert_eq!((scored.scores, scored.failure.is_none()), (vec![3.0, 0.0, 5.0], true));
    let nothing = reranker.score("q", Vec::new()).await;
    assert!(nothing.scores.is_empty() && nothing.failure.is_none());
    assert!(reranker.close(LONG));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_in_time_counts() {
    let (reranker, announced, go) = gated();
    let late = ask(&reranker.clone().patient_for(Duration::from_secs(2)), "q", &["a", "bb", "ccc"]);
    assert_eq!(announced.recv().unwrap(), "q/a");
    go.send(()).unwrap();
    assert_eq!(announced.recv().unwrap(), "q/bb");
    let scored = late.await.unwrap();
    assert_eq!((&scored.scores[..], code(&scored)), (&[1.0][..], Some("memory.rerank_late")));
    let text = scored.failure.unwrap().to_string();
    assert_eq!(text, "the reranker has read 1 of 3 memories within 2s");
    // The third is never read: nobody waits for it.
    let next = ask(&reranker, "next", &["d"]);
    go.send(()).unwrap();
    assert_eq!(announced.recv().unwrap(), "next/d");
    go.send(()).unwrap();
    assert_eq!(next.await.unwrap().scores, [1.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_question_is_read_first_and_the_oldest_makes_room() {
    let (reranker, announced, go) = gated();
    let first = ask(&reranker, "first", &["a"]);
    assert_eq!(announced.recv().unwrap(), "first/a");
    let answers: Vec<_> =
        (0..=WAITING_MAX).map(|at| reranker.submit(&format!("{at}"), texts(&["b"])).unwrap()).collect();
    let mut answers = answers.into_iter();
    let refused = answers.next().unwrap().recv().await.unwrap().unwrap_err();
    assert_eq!((refused.code(), refused.is_retryable()), ("memory.busy", true));
    go.send(()).unwrap();
    for at in (1..=WAITING_MAX).rev() {
        assert_eq!(announced.recv().unwrap(), format!("{at}/b"));
        go.send(()).unwrap();
    }
    assert_eq!(first.await.unwrap().scores, [1.0]);
    for mut waiting in answers {
        assert_eq!(waiting.recv().await.map(Result::ok), Some(Some(1.0)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_fails_counts_for_nothing() {
    let fail = |_: &str, text: &str| match text {
        "bad" => Err(Error::Reranking { reason: "no".to_owned() }),
        "nan" => Ok(f32::NAN),
        _ => Ok(1.0),
    };
    let reranker = Reranker::of("failing", fail).patient_for(LONG);
    for bad in ["bad", "nan"] {
        let scored = reranker.score("q", texts(&["good", bad, "good"])).await;
        assert_eq!((scored.scores.len(), code(&scored)), (0, Some("memory.reranking")), "{bad}");
    }
    assert_eq!(reranker.score("q", texts(&["good"])).await.scores, [1.0], "the next may do better");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_can_not_be_loaded_is_tried_once() {
    let tried = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tried);
    let reranker = Reranker::with_loader("broken", move || {
        count.fetch_add(1, Ordering::Relaxed);
        Err(Error::Reranker { path: "there".into(), reason: "broken".to_owned() })
    });
    assert_eq!(reranker.check().await.unwrap_err().code(), "memory.reranker");
    for _ in 0..3 {
        assert_eq!(reranker.check().await.unwrap_err().code(), "memory.stopped");
    }
    assert_eq!(tried.load(Ordering::Relaxed), 1);
    assert!(reranker.close(LONG));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_an_error_and_the_last() {
    let reranker = Reranker::of("panicking", |_, _| panic!("as the test wants it")).patient_for(LONG);
    for _ in 0..2 {
        assert_eq!(code(&reranker.score("q", texts(&["a", "b"])).await), Some("memory.stopped"));
        reranker.host.desk().until_ended();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_thread_ends_with_the_last_handle_and_when_it_is_closed() {
    let (reranker, announced, go) = gated();
    let closed = reranker.host.desk();
    let mut answers = reranker.submit("q", texts(&["a", "b"])).unwrap();
    announced.recv().unwrap();
    assert!(!reranker.close(Duration::ZERO), "it is in the middle of a text");
    go.send(()).unwrap();
    assert!(reranker.close(LONG));
    assert!(answers.recv().await.unwrap().is_ok() && answers.recv().await.is_none(), "the rest is not read");
    assert_eq!(reranker.check().await.unwrap_err().code(), "memory.stopped");
    drop(reranker);

    let (reranker, announced, go) = gated();
    let dropped = reranker.host.desk();
    let running = reranker.submit("q", texts(&["a"])).unwrap();
    announced.recv().unwrap();
    drop(reranker);
    go.send(()).unwrap();
    dropped.until_ended();
    assert!(closed.is_closed() && dropped.is_closed());
    drop(running);
}

#[test]
fn a_folder_that_is_not_there_needs_no_reranker() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Reranker::find(dir.path()).unwrap().is_none());
    std::fs::create_dir_all(dir.path().join("models").join(FOLDER)).unwrap();
    let error = Reranker::find(dir.path()).unwrap_err();
    assert_eq!(error.code(), "memory.runtime_library", "{error}");
}
