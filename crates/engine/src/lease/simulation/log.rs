//! What some seeds did, written down for the store's tests: one line for each operation, with the answer.
//!
//! **Invariant:** the file is what these seeds do now; `CREWLINE_UPDATE=1` writes it anew.
//! **Invariant:** each of the seeds loses, gives back, withdraws, refuses and fails something.

use super::{Micros, Op, Queue, SECOND, simulate};

/// Between two looks at everything.
const LOOK_EVERY: usize = 10;

/// So many runs, of the first seeds that are fit for it.
const RUNS: usize = 4;

/// A database is not done at once: no lease may end this shortly before or after somebody looks.
const MARGIN: Micros = SECOND / 2;

fn is_clear(queue: &Queue, op: &Op) -> bool {
    let is_far = |until: Micros| (until - queue.now).abs() > MARGIN;
    match op {
        Op::Manage { .. } => queue.owner.is_none_or(|(_, until)| is_far(until)),
        Op::Reap => queue.offers.values().all(|offer| is_far(offer.until)),
        _ => true,
    }
}

/// What one seed did; none when it is not fit.
fn lines_of(seed: u64) -> Option<String> {
    let world = simulate(seed);
    let words = ["stale", "release", "withdraw", "lost", "reported", "failed"];
    let mut lines = vec![serde_json::json!({"seed": seed, "tasks": world.needs.len()}).to_string()];
    let mut queue = Queue::new(world.needs.len());
    for (index, (op, answer)) in world.log.into_iter().enumerate() {
        if !is_clear(&queue, &op) {
            return None;
        }
        assert_eq!(queue.apply(&op), answer);
        lines.push(serde_json::to_string(&(&op, &answer)).unwrap());
        if index % LOOK_EVERY == 0 || op == (Op::End { epoch: queue.epoch }) {
            lines.push(serde_json::to_string(&(Op::Load, queue.apply(&Op::Load))).unwrap());
        }
    }
    let text = lines.join("\n") + "\n";
    words.iter().all(|word| text.contains(word)).then_some(text)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the one setting of this test")]
fn the_store_is_compared_with_what_happens_here() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../store/tests/data/leases.jsonl");
    let lines: String = (0..10_000).filter_map(lines_of).take(RUNS).collect();
    if std::env::var("CREWLINE_UPDATE").is_ok() {
        std::fs::write(path, &lines).unwrap();
    }
    let known = std::fs::read_to_string(path).unwrap_or_default();
    assert!(known == lines, "`leases.jsonl` is of other rules; CREWLINE_UPDATE=1 writes it anew");
}
