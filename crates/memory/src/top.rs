//! The best k of many, by a bounded heap.
//!
//! **Invariant:** the order is total, and the same in every process: score descending, then the older record, then the
//! lower id.

use std::{cmp::Ordering, collections::BinaryHeap};

use crewline_types::MemoryId;

/// A scored slot of an index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ranked {
    pub(crate) score: f32,
    /// Microseconds since 1970.
    pub(crate) created_at: i64,
    pub(crate) id: MemoryId,
    pub(crate) slot: u32,
}

/// Greater means worse, so the top of a max-heap is what goes first.
impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.created_at.cmp(&other.created_at)).then(self.id.cmp(&other.id))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

/// Keeps the best `limit` of what it is offered.
pub(crate) struct Top {
    heap: BinaryHeap<Ranked>,
    limit: usize,
}

impl Top {
    pub(crate) fn new(limit: usize, expected: usize) -> Self {
        Self { heap: BinaryHeap::with_capacity(limit.min(expected)), limit }
    }

    /// Whether something with `score` may still get in; cheap, asked before anything else about a candidate.
    pub(crate) fn may_enter(&self, score: f32) -> bool {
        self.heap.len() < self.limit || self.heap.peek().is_some_and(|worst| score >= worst.score)
    }

    pub(crate) fn offer(&mut self, candidate: Ranked) {
        if self.heap.len() < self.limit {
            self.heap.push(candidate);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && candidate < *worst
        {
            *worst = candidate;
        }
    }

    /// Best first.
    pub(crate) fn into_sorted(self) -> Vec<Ranked> {
        self.heap.into_sorted_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_sorting() {
        let mut random = fastrand::Rng::with_seed(7);
        for limit in [0, 1, 3, 50, 300] {
            let all: Vec<_> = (0..200)
                .map(|slot| {
                    let (score, created_at) = (f32::from(random.u8(..20)), random.i64(..3));
                    Ranked { score, created_at, id: MemoryId(random.u128(..)), slot }
                })
                .collect();
            let mut top = Top::new(limit, all.len());
            for candidate in &all {
                if top.may_enter(candidate.score) {
                    top.offer(*candidate);
                }
            }
            let mut sorted = all;
            sorted.sort();
            sorted.truncate(limit);
            let slots = |ranked: Vec<Ranked>| ranked.into_iter().map(|ranked| ranked.slot).collect::<Vec<_>>();
            assert_eq!(slots(top.into_sorted()), slots(sorted), "limit {limit}");
        }
    }
}
