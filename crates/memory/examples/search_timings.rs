//! Prints what adding and recalling cost: `cargo run --release -p crewline-memory --example search_timings`.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use crewline_memory::{Embedded, Query};
use crewline_types::{MemoryId, MemoryMarks, MemoryRecord, MemoryType, ProjectScope, Timestamp};

const WORDS: usize = 50;
const QUERY_WORDS: usize = 15;
const DIMENSIONS: usize = 384;

#[expect(clippy::print_stdout, reason = "printing is what it is for")]
fn main() {
    for count in [1_000, 10_000, 100_000] {
        let scope = ProjectScope::of("timings");
        let store = Embedded::new();
        let mut random = fastrand::Rng::with_seed(count);
        let records: Vec<MemoryRecord> = (0..count).map(|n| record(n, &words(&mut random, WORDS))).collect();
        let ids: Vec<MemoryId> = records.iter().map(|record| record.id).collect();

        let begun = Instant::now();
        for record in records {
            let _ = black_box(store.insert(&scope, record));
        }
        let each = begun.elapsed() / u32::try_from(count).unwrap_or(1);
        println!("{count:>7} memories: add {each:?}");

        println!("{count:>7} memories: recall by words {:?}", median(&store, &scope, &mut random, false));
        for id in ids {
            let _ = store.set_vectors(&scope, &[(id, vector(&mut random))]);
        }
        println!("{count:>7} memories: recall by both  {:?}", median(&store, &scope, &mut random, true));
    }
}

fn median(store: &Embedded, scope: &ProjectScope, random: &mut fastrand::Rng, dense: bool) -> Duration {
    let mut times: Vec<Duration> = (0..101)
        .map(|_| {
            let query = Query {
                text: words(random, QUERY_WORDS),
                vector: dense.then(|| vector(random)),
                limit: 8,
                ..Query::default()
            };
            let begun = Instant::now();
            black_box(store.search(scope, &query));
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Words as common as in English: the n-th is about n times rarer than the first.
fn words(random: &mut fastrand::Rng, count: usize) -> String {
    let ranks = (0..count).map(|_| 20_000.0_f64.powf(random.f64()).floor());
    ranks.map(|rank| format!("word{rank}")).collect::<Vec<_>>().join(" ")
}

fn vector(random: &mut fastrand::Rng) -> Vec<f32> {
    (0..DIMENSIONS).map(|_| random.f32() - 0.5).collect()
}

fn record(at: u64, text: &str) -> MemoryRecord {
    MemoryRecord {
        id: MemoryId(u128::from(at)),
        project: "timings".into(),
        run: None,
        task: None,
        kind: MemoryType::TaskSummary,
        agent: "coder".into(),
        created_at: Timestamp(i64::try_from(at).unwrap_or(0)),
        text: text.into(),
        source_ids: Vec::new(),
        marks: MemoryMarks::default(),
    }
}
