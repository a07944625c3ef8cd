//! A memory that says again what a better one says makes room for others.
//!
//! **Invariant:** pure; it looks at texts only, so the order is the same wherever the vectors are.
//! **Invariant:** nothing is dropped: what repeats ranks lower.

use crate::{Why, top::Ranked};

/// The share of common words from which a memory repeats another.
const ALIKE_MIN: f32 = 0.5;
/// Memories behind the last wanted one that may take the place of one that repeats.
const RESERVE: usize = 16;

/// Moves what repeats down by up to `weight` (below zero), among the first `limit` and a few behind them. `ranked` is in
/// order, and is so again.
pub(crate) fn demote<'a>(
    ranked: &mut [(Ranked, Why)],
    text: impl Fn(u32) -> Option<&'a str>,
    weight: f32,
    limit: usize,
) {
    let count = ranked.len().min(limit.saturating_add(RESERVE));
    let head = &mut ranked[..count];
    if weight >= 0.0 || head.len() < 2 {
        return;
    }
    let words: Vec<Vec<u64>> = head.iter().map(|(ranked, _)| words_of(text(ranked.slot).unwrap_or(""))).collect();
    for (at, (ranked, why)) in head.iter_mut().enumerate().skip(1) {
        let most = words[..at].iter().map(|above| alike(above, &words[at])).fold(0.0, f32::max);
        let share = (most - ALIKE_MIN) / (1.0 - ALIKE_MIN);
        if share > 0.0 {
            why.repeats = weight * share;
            ranked.score = (ranked.score + why.repeats).max(0.0);
        }
    }
    head.sort_unstable_by_key(|(ranked, _)| *ranked);
}

/// Hashes of the different words of a text (FNV-1a), sorted. Whole runs of letters and digits, whatever their case: endings
/// need no care here, and dozens of texts are read for each question.
fn words_of(body: &str) -> Vec<u64> {
    const START: u64 = 0xcbf2_9ce4_8422_2325;
    let mut words = Vec::with_capacity(body.len() / 5);
    let mut hash = START;
    for byte in body.bytes().chain([b' ']) {
        if byte.is_ascii_alphanumeric() || !byte.is_ascii() {
            hash = (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3);
        } else if hash != START {
            words.push(hash);
            hash = START;
        }
    }
    words.sort_unstable();
    words.dedup();
    words
}

/// The share of all words that both have, 0 … 1; 0 at once when their numbers are too unlike to matter.
fn alike(left: &[u64], right: &[u64]) -> f32 {
    let (few, many) = if left.len() < right.len() { (left, right) } else { (right, left) };
    if (few.len() as f32) <= ALIKE_MIN * many.len() as f32 {
        return 0.0;
    }
    let (mut shared, mut at) = (0_usize, 0);
    for word in few {
        while many.get(at).is_some_and(|other| other < word) {
            at += 1;
        }
        shared += usize::from(many.get(at) == Some(word));
    }
    shared as f32 / (few.len() + many.len() - shared) as f32
}

#[cfg(test)]
mod tests {
    use crewline_types::MemoryId;

    use super::*;

    /// The places of the texts after the demotion, from scores 1.0, 0.9, 0.8 and so on.
    fn order(texts: &[&str], weight: f32, limit: usize) -> Vec<(u32, f32)> {
        let mut ranked: Vec<(Ranked, Why)> = (0..)
            .zip(texts)
            .map(|(slot, _)| {
                let ranked = Ranked { score: 1.0 - slot as f32 / 10.0, created_at: 0, id: MemoryId(slot.into()), slot };
                (ranked, Why::default())
            })
            .collect();
        demote(&mut ranked, |slot| texts.get(slot as usize).copied(), weight, limit);
        ranked.into_iter().map(|(ranked, why)| (ranked.slot, why.repeats)).collect()
    }

    #[test]
    fn what_repeats_goes_behind_what_is_new() {
        let texts = ["the port of staging is 8080", "The port of staging: is 8080!", "a red fox", "a blue whale"];
        assert_eq!(order(&texts, -0.3, 4), [(0, 0.0), (2, 0.0), (3, 0.0), (1, -0.3)]);
        assert_eq!(order(&texts, -0.05, 4), [(0, 0.0), (1, -0.05), (2, 0.0), (3, 0.0)]);
        assert_eq!(order(&texts, 0.0, 4).iter().map(|it| it.0).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn only_what_has_most_words_in_common_repeats() {
        // Three of five words.
        let found = order(&["one two three four", "one two three five"], -1.0, 2);
        assert!((found[1].1 + 0.2).abs() < 1e-6, "{found:?}");
        assert!(order(&["one two three four", "one two six five"], -1.0, 2)[1].1 >= 0.0);
        assert!(order(&["", ""], -1.0, 2)[1].1 >= 0.0);
    }

    #[test]
    fn far_behind_nothing_is_looked_at() {
        let texts = vec!["the same words"; 60];
        let found = order(&texts, -0.001, 10);
        assert_eq!(found.iter().filter(|(_, repeats)| *repeats < 0.0).count(), 25);
    }
}
