//! The last steps of a recall: what a reranker says of the best, what repeats, and the score as others see it.
//!
//! A cross-encoder's numbers have no common scale, so its best of those it read gets the room of the best fit among them,
//! its worst that of the first memory it did not read. So it decides among what it read, and what it did not read stays behind
//! that. What a person has marked is added afterwards, as without it.
//!
//! **Invariant:** pure; without scores of a reranker the order is that of [`rank`](crate::rank::rank).
//! **Invariant:** nothing is dropped but what is behind the last wanted one.

use std::sync::Arc;

use crate::{Hit, Weights, diversity};

/// A candidate with what is known of it.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    /// Its score is not yet divided by the best.
    pub(crate) hit: Hit,
    /// How well it fits the question, without its marks.
    pub(crate) fit: f32,
}

/// The best candidates in the order of their scores, best first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ranking(Vec<Standing>);

impl Ranking {
    /// What is kept of a ranking, so that `limit` hits can be made of it and a reranker can read the best `read`.
    pub(crate) fn depth(limit: usize, read: usize) -> usize {
        limit.saturating_add(diversity::RESERVE).max(read)
    }

    /// `standings` are in order.
    pub(crate) fn new(standings: Vec<Standing>) -> Self {
        Self(standings)
    }

    /// The texts of the best `count`.
    pub(crate) fn texts(&self, count: usize) -> Vec<Arc<str>> {
        self.0.iter().take(count).map(|standing| Arc::clone(&standing.hit.record.text)).collect()
    }

    /// The best `limit`. `scores` are those of a reranker for the best so many; greater is better.
    pub(crate) fn finish(mut self, scores: &[f32], weights: &Weights, limit: usize) -> Vec<Hit> {
        self.rerank(scores, weights.rerank);
        let mut hits: Vec<Hit> = self.0.into_iter().map(|standing| standing.hit).collect();
        diversity::demote(&mut hits, weights.repeats, limit);
        hits.truncate(limit);
        let best = hits.first().map_or(0.0, |hit| hit.score);
        for hit in &mut hits {
            hit.score = if best > 0.0 { hit.score / best } else { 0.0 };
        }
        hits
    }

    fn rerank(&mut self, scores: &[f32], weight: f32) {
        let scores = &scores[..scores.len().min(self.0.len())];
        let (head, tail) = self.0.split_at_mut(scores.len());
        let worst = scores.iter().copied().fold(f32::INFINITY, f32::min);
        let span = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max) - worst;
        // Without a difference it has said nothing.
        if weight <= 0.0 || span <= 0.0 || !span.is_finite() {
            return;
        }
        let most = head.iter().map(|standing| standing.fit).fold(0.0, f32::max);
        let least = tail.first().map_or(0.0, |standing| standing.hit.score).min(most);
        for (standing, score) in head.iter_mut().zip(scores) {
            let Standing { hit, fit } = standing;
            let found = least + (most - least) * (score - worst) / span;
            let mixed = (1.0 - weight) * *fit + weight * found;
            hit.why.rerank = mixed - *fit;
            hit.score = (mixed + hit.why.marks).max(0.0);
        }
        self.0.sort_unstable_by(|left, right| left.hit.order(&right.hit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Why, conformance::record};

    /// Memories whose texts, fits and marks are given, in this order.
    fn ranking(all: &[(&str, f32, f32)]) -> Ranking {
        let standing = |(at, (text, fit, marks)): (i64, &(&str, f32, f32))| Standing {
            hit: Hit {
                record: Arc::new(record("p", text, at)),
                score: (fit + marks).max(0.0),
                why: Why { marks: *marks, ..Why::default() },
            },
            fit: *fit,
        };
        Ranking::new((0..).zip(all).map(standing).collect())
    }

    fn order(all: &[(&str, f32, f32)], scores: &[f32], weight: f32, limit: usize) -> Vec<String> {
        let weights = Weights { rerank: weight, ..Weights::plain() };
        let hits = ranking(all).finish(scores, &weights, limit);
        assert!(hits.first().is_none_or(|hit| (hit.score - 1.0).abs() < 1e-6), "{hits:?}");
        assert!(hits.is_sorted_by(|left, right| left.score >= right.score), "{hits:?}");
        hits.into_iter().map(|hit| hit.record.text.to_string()).collect()
    }

    const FOUR: [(&str, f32, f32); 4] = [("a", 1.0, 0.0), ("b", 0.8, 0.0), ("c", 0.6, 0.0), ("d", 0.4, 0.0)];

    #[test]
    fn a_reranker_decides_among_what_it_read() {
        assert_eq!(order(&FOUR, &[-9.0, 0.0, 9.0], 1.0, 4), ["c", "b", "a", "d"], "`d` was not read");
        assert_eq!(order(&FOUR, &[-9.0, 0.0, 2.0, 9.0], 1.0, 4), ["d", "c", "b", "a"]);
        assert_eq!(order(&FOUR, &[-9.0, 0.0, 2.0, 9.0], 1.0, 2), ["d", "c"], "from behind the last wanted one");
    }

    #[test]
    fn both_count_their_share() {
        assert_eq!(order(&FOUR, &[0.1, 0.2], 0.0, 4), ["a", "b", "c", "d"]);
        assert_eq!(order(&FOUR, &[0.0, 1.0, 0.5, 0.0], 0.5, 4), ["b", "c", "a", "d"]);
        // A small difference in fit, and a great one for the reranker.
        assert_eq!(order(&[("a", 1.0, 0.0), ("b", 1.0, 0.0)], &[0.1, 0.2], 0.5, 2), ["b", "a"]);
    }

    #[test]
    fn the_parts_of_a_score_add_up() {
        let weights = Weights { rerank: 0.5, ..Weights::plain() };
        let hits = ranking(&FOUR).finish(&[1.0, 3.0, 2.0], &weights, 4);
        let found: Vec<(&str, f32)> = hits.iter().map(|hit| (&*hit.record.text, hit.why.rerank)).collect();
        // The best fit is 1.0, the first that was not read has 0.4.
        assert_eq!(found.iter().map(|it| it.0).collect::<Vec<_>>(), ["b", "a", "c", "d"]);
        for ((_, rerank), expect) in found.iter().zip([0.1, -0.3, 0.05, 0.0]) {
            assert!((rerank - expect).abs() < 1e-6, "{found:?}");
        }
    }

    #[test]
    fn what_says_nothing_changes_nothing() {
        for scores in [&[][..], &[5.0], &[5.0, 5.0, 5.0], &[f32::NAN, f32::NAN], &[0.0, f32::INFINITY]] {
            assert_eq!(order(&FOUR, scores, 1.0, 4), ["a", "b", "c", "d"], "{scores:?}");
        }
        assert!(Ranking::default().finish(&[1.0, 2.0], &Weights::default(), 5).is_empty());
        assert_eq!(order(&FOUR[..1], &[1.0, 2.0], 1.0, 5), ["a"], "more scores than memories");
    }

    #[test]
    fn marks_count_as_without_a_reranker() {
        // Among equals the pinned one stays above, and the superseded one falls behind what was not read.
        let all = [("pinned", 0.5, 0.2), ("plain", 0.5, 0.0), ("rest", 0.4, 0.0), ("old", 0.5, -0.3)];
        assert_eq!(order(&all, &[1.0, 1.0, 0.0], 1.0, 4), ["pinned", "plain", "rest", "old"]);
        let old = [("old", 0.9, -0.3), ("plain", 0.5, 0.0), ("rest", 0.45, 0.0)];
        assert_eq!(order(&old, &[1.0, 0.0], 1.0, 3), ["old", "plain", "rest"]);
        assert_eq!(order(&old, &[0.0, 1.0], 1.0, 3), ["plain", "rest", "old"]);
    }

    #[test]
    fn what_repeats_is_known_after_the_reranking() {
        let all = [("the port is 80", 1.0, 0.0), ("a red fox", 0.9, 0.0), ("the port is 80!", 0.8, 0.0)];
        let weights = Weights { rerank: 1.0, repeats: -0.5, ..Weights::plain() };
        let hits = ranking(&all).finish(&[0.0, 0.9, 1.0], &weights, 3);
        let texts: Vec<&str> = hits.iter().map(|hit| &*hit.record.text).collect();
        assert_eq!(texts, ["the port is 80!", "a red fox", "the port is 80"]);
        assert!(hits[2].why.repeats < 0.0 && hits[0].why.repeats == 0.0, "{hits:?}");
    }
}
