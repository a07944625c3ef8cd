//! What the embedding model takes, in a process of its own: other tests beside it would count as well.

mod model;

use std::time::{Duration, Instant};

use crewline_memory::Purpose;

use crate::model::{embedder, texts};

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
