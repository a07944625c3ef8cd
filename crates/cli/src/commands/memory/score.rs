//! What a ranking is worth: recall, nDCG, MRR, and the evidence that fits into a token budget.
//!
//! **Invariant:** pure; every measure lies between 0 and 1.

use std::collections::HashMap;

use serde::Serialize;

/// Token budgets of the evidence measure.
const BUDGETS: [u64; 3] = [512, 1_024, 2_048];
/// Measures of one question, in the order of [`Means`].
pub(super) const MEASURES: usize = 7;

/// What one question's answer was worth: recall@5, recall@10, nDCG@10, MRR, ev@512, ev@1024, ev@2048.
pub(super) type Worth = [f64; MEASURES];

/// Means over questions, in percent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Means {
    /// Questions that have evidence.
    pub(super) queries: usize,
    #[serde(rename = "recall@5")]
    pub(super) recall_5: f64,
    #[serde(rename = "recall@10")]
    pub(super) recall_10: f64,
    #[serde(rename = "ndcg@10")]
    pub(super) ndcg_10: f64,
    pub(super) mrr: f64,
    #[serde(rename = "ev@512")]
    pub(super) ev_512: f64,
    #[serde(rename = "ev@1024")]
    pub(super) ev_1024: f64,
    #[serde(rename = "ev@2048")]
    pub(super) ev_2048: f64,
}

impl Means {
    /// The means of `worths`; all zero when there are none.
    pub(super) fn of<'a>(worths: impl Iterator<Item = &'a Worth>) -> Self {
        let mut sums = [0.0; MEASURES];
        let mut queries = 0;
        for worth in worths {
            queries += 1;
            for (sum, value) in sums.iter_mut().zip(worth) {
                *sum += value;
            }
        }
        let percent = |at: usize| {
            let mean = sums[at] / f64::from(u32::try_from(queries.max(1)).unwrap_or(u32::MAX)) * 100.0;
            (mean * 100.0).round() / 100.0
        };
        Self {
            queries,
            recall_5: percent(0),
            recall_10: percent(1),
            ndcg_10: percent(2),
            mrr: percent(3),
            ev_512: percent(4),
            ev_1024: percent(5),
            ev_2048: percent(6),
        }
    }
}

/// What the ids in `ranked`, best first, are worth. An id that does not fit into the rest of a budget is skipped.
pub(super) fn worth(relevant: &[Vec<String>], ranked: &[String], tokens: &HashMap<String, u64>) -> Worth {
    let evidence = relevant.len().max(1) as f64;
    let found = |ids: &[&String]| {
        relevant.iter().filter(|piece| piece.iter().any(|id| ids.contains(&id))).count() as f64 / evidence
    };
    let first = |count: usize| found(&ranked.iter().take(count).collect::<Vec<_>>());
    let packed = |budget: u64| {
        let mut left = budget;
        let mut ids = Vec::new();
        for id in ranked {
            let cost = tokens.get(id).copied().unwrap_or(0);
            if cost <= left {
                left -= cost;
                ids.push(id);
            }
        }
        found(&ids)
    };
    // A piece of evidence counts where it is found first.
    let mut ranks: Vec<usize> =
        relevant.iter().filter_map(|piece| ranked.iter().position(|id| piece.contains(id))).collect();
    ranks.sort_unstable();
    let gain = |rank: usize| 1.0 / (rank as f64 + 2.0).log2();
    let ideal: f64 = (0..relevant.len().min(10)).map(gain).sum();
    let gained: f64 = ranks.iter().filter(|rank| **rank < 10).map(|rank| gain(*rank)).sum();
    let ndcg = if ideal > 0.0 { (gained / ideal).min(1.0) } else { 0.0 };
    let mrr = ranks.first().map_or(0.0, |rank| 1.0 / (*rank as f64 + 1.0));
    let [small, middle, large] = BUDGETS.map(packed);
    [first(5), first(10), ndcg, mrr, small, middle, large]
}

/// The `share` quantile of `values`; zero when there are none.
pub(super) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length is an index")]
    let at = (share * last as f64).round() as usize;
    values.get(at).map_or(0.0, |value| (value * 1_000.0).round() / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn evidence_is_found_by_any_of_its_ids() {
        let relevant = [ids("a b"), ids("c")];
        let tokens = [("x", 500), ("b", 100), ("c", 400), ("a", 10)].map(|(id, cost)| (id.to_owned(), cost));
        let tokens = HashMap::from(tokens);
        let found = worth(&relevant, &ids("x b c a"), &tokens);
        // 512: x, then a (b and c do not fit); 1024: all.
        let dcg = 1.0 / 3.0_f64.log2() + 1.0 / 4.0_f64.log2();
        let expect = [1.0, 1.0, dcg / (1.0 + 1.0 / 3.0_f64.log2()), 0.5, 0.5, 1.0, 1.0];
        for (found, expect) in found.iter().zip(expect) {
            assert!((found - expect).abs() < 1e-9, "{found} {expect}");
        }
        assert!(worth(&relevant, &[], &tokens).iter().all(|value| *value <= 0.0));
    }

    #[test]
    fn means_are_percent() {
        let means = Means::of([[1.0; MEASURES], [0.0; MEASURES]].iter());
        assert_eq!(means.queries, 2);
        assert!((means.ev_1024 - 50.0).abs() < 1e-9);
        assert!((quantile(&mut [3.0, 1.0, 2.0], 0.5) - 2.0).abs() < 1e-9);
        assert!(quantile(&mut [], 0.5) <= 0.0);
    }
}
