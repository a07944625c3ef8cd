//! What a context costs: 1,000 candidates fitted to 8,000 tokens, estimated and counted.
//!
//! Cold, no candidate was counted before; warm, all were. The vocabulary is in memory in both.

use std::time::Instant;

use crewline_engine::context::{Counter, Item, Tier, assemble, fit};
use crewline_models::tokens::Tokenizer;

use crate::{
    measure::Figure,
    memory::{answers, cpu, say},
};

const CANDIDATES: usize = 1_000;
const BUDGET: u32 = 8_000;
/// Sets of candidates.
const SETS: usize = 20;

pub fn figures(runs: usize) -> Vec<Figure> {
    let all: Vec<Vec<(String, f64)>> = (0..runs).map(|_| answers(&["context".to_owned()])).collect();
    let of = |name: &str| -> Vec<f64> {
        all.iter().flatten().filter(|(said, _)| said == name).map(|(_, value)| *value).collect()
    };
    let row = |what: &str, unit, target, name: &str| Figure::new(what, unit, target, of(name));
    vec![
        row("a bundle of 8,000 tokens from 1,000 candidates, estimated, CPU", "ms", "≤ 5 ms", "estimated"),
        row("the same, counted as o200k, nothing counted before", "ms", "≤ 5 ms", "cold"),
        row("the same, counted before", "ms", "≤ 5 ms", "warm"),
        row("o200k: loading it", "ms", "", "load"),
    ]
}

pub fn run() {
    let mut random = fastrand::Rng::with_seed(7);
    let sets: Vec<Vec<Item>> = (0..SETS).map(|_| candidates(&mut random)).collect();
    let each = |make: &dyn Fn(&[Item])| {
        let before = cpu();
        for items in &sets {
            make(items);
        }
        cpu().saturating_sub(before).as_secs_f64() * 1e3 / SETS as f64
    };
    say("estimated", each(&|items| drop(std::hint::black_box(assemble(items, BUDGET)))));
    let begun = Instant::now();
    let tokenizer = Tokenizer::O200k.load().expect("it is shipped");
    // What the first text needs besides.
    tokenizer.count("A sentence, 2 words.\n");
    say("load", begun.elapsed().as_secs_f64() * 1e3);
    let count = |text: &str| tokenizer.count(text).expect("it counts");
    let counter = Counter { count: &count, adds_up: tokenizer.adds_up() };
    for name in ["cold", "warm"] {
        say(name, each(&|items| drop(std::hint::black_box(fit(items, &|_| false, BUDGET, counter)))));
    }
}

/// Candidates as `cargo run --release -p crewline-engine --example timings` has them.
fn candidates(random: &mut fastrand::Rng) -> Vec<Item> {
    let words = ["index", "task", "memory", "because", "router", "budget", "decided", "the", "of", "and", "latency"];
    let tiers = [Tier::Requires, Tier::Refers, Tier::Siblings, Tier::Retrieved];
    let mut candidate = |index: usize| {
        let mut text = String::new();
        for _ in 0..random.usize(40..240) {
            text.push_str(words[random.usize(..words.len())]);
            text.push_str(if random.u8(..12) == 0 { ". " } else { " " });
        }
        Item {
            tier: tiers[index % tiers.len()],
            source: format!("task:{index:08}").into(),
            kind: "result".into(),
            title: format!("Result {index}").into(),
            text: text.into(),
            score: (index % 100) as f32 / 100.0,
        }
    };
    (0..CANDIDATES).map(&mut candidate).collect()
}
