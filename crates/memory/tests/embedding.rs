//! The real embedding model. Needs its files in `CREWLINE_TEST_MODELS`, or where `cargo xtask test` puts them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use crewline_memory::{Embedder, Purpose};

/// The model, or nothing with a note.
#[expect(clippy::unwrap_used, clippy::print_stdout, reason = "a helper of tests")]
fn embedder() -> Option<Embedder> {
    #[expect(clippy::disallowed_methods, reason = "tests have no settings")]
    let dir = std::env::var_os("CREWLINE_TEST_MODELS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/crewline-test-data"), PathBuf::from);
    let found = Embedder::find(&dir).unwrap();
    if found.is_none() {
        println!("skipped: no embedding model in {}", dir.display());
    }
    found
}

fn texts(all: &[&str]) -> Vec<Arc<str>> {
    all.iter().map(|text| Arc::from(*text)).collect()
}

fn cosine(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

#[tokio::test]
async fn vectors_mean_something() {
    let Some(embedder) = embedder() else { return };
    let all = texts(&["a cat sleeps", "a kitten naps", "the tax law of 1986"]);
    let vectors = embedder.embed(all.clone(), Purpose::Document).await.unwrap();
    for vector in &vectors {
        assert_eq!(vector.len(), embedder.dimensions());
        assert!((cosine(vector, vector) - 1.0).abs() < 1e-5);
    }
    let (near, far) = (cosine(&vectors[0], &vectors[1]), cosine(&vectors[0], &vectors[2]));
    assert!(near > far + 0.3, "{near} {far}");

    // The same text has the same vector, whatever stands beside it.
    let alone = embedder.embed(vec![Arc::clone(&all[1])], Purpose::Query).await.unwrap();
    assert_eq!(alone[0], vectors[1]);
}

#[tokio::test]
async fn odd_texts_have_vectors() {
    let Some(embedder) = embedder() else { return };
    let long = "a long story about nothing ".repeat(20_000);
    let vectors = embedder.embed(texts(&["", "🚀", "漢字", &long, "\0"]), Purpose::Document).await.unwrap();
    assert_eq!(vectors.len(), 5);
}

#[tokio::test]
async fn figures() {
    let Some(embedder) = embedder() else { return };
    let begun = Instant::now();
    embedder.embed(texts(&["first"]), Purpose::Query).await.unwrap();
    println!("load and first text: {:?}", begun.elapsed());

    let words = "the crew plans its tasks and writes what it decided into the shared memory of the project ";
    let count = 40_u32;
    let document = words.repeat(8);
    let begun = Instant::now();
    embedder.embed(texts(&vec![document.as_str(); count as usize]), Purpose::Document).await.unwrap();
    println!("a document of {} words: {:?}", document.split_whitespace().count(), begun.elapsed() / count);

    let begun = Instant::now();
    for _ in 0..count {
        embedder.embed(texts(&["what did the crew decide about the shared memory?"]), Purpose::Query).await.unwrap();
    }
    println!("a query of 9 words: {:?}", begun.elapsed() / count);
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        for line in status.lines().filter(|line| line.starts_with("VmHWM") || line.starts_with("VmRSS")) {
            println!("{line}");
        }
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
        assert!(peak.is_none_or(|kilobytes: u64| kilobytes < 300_000), "the process peaked at {peak:?} kB");
    }
    assert!(embedder.close(Duration::from_mins(1)));
}
