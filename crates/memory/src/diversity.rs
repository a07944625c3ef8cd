//! A memory that says again what a better one says makes room for others.
//!
//! **Invariant:** pure; it looks at texts only, so the order is the same wherever the vectors are.
//! **Invariant:** nothing is dropped: what repeats ranks lower.

use std::collections::HashMap;

use crate::Hit;

/// The share of common words from which a memory repeats another.
const ALIKE_MIN: f32 = 0.5;
/// A word and what is between it and the next.
const WORD_BYTES: usize = 6;
/// Memories behind the last wanted one that may take the place of one that repeats.
pub(crate) const RESERVE: usize = 16;

/// Moves what repeats down by up to `weight` (below zero), among the first `limit` and a few behind them. `hits` are in
/// order, and are so again.
pub(crate) fn demote(hits: &mut [Hit], weight: f32, limit: usize) {
    let count = hits.len().min(limit.saturating_add(RESERVE));
    let head = &mut hits[..count];
    if weight >= 0.0 || head.len() < 2 {
        return;
    }
    let bytes = head.iter().map(|hit| hit.record.text.len()).sum::<usize>();
    let mut words = Words::with_room(bytes / WORD_BYTES);
    for hit in head.iter_mut() {
        let most = words.add(&hit.record.text);
        let share = (most - ALIKE_MIN) / (1.0 - ALIKE_MIN);
        if share > 0.0 {
            hit.why.repeats = weight * share;
            hit.score = (hit.score + hit.why.repeats).max(0.0);
        }
    }
    head.sort_unstable_by(Hit::order);
}

/// Which texts hold which words.
struct Words {
    /// Of each word, the place where it was found last.
    last: HashMap<u64, usize>,
    places: Vec<Place>,
    /// The different words of each text.
    counts: Vec<usize>,
    /// How many of the words of each text the one being added has as well.
    shared: Vec<usize>,
}

/// A word in a text.
struct Place {
    text: usize,
    /// Where the word was found before.
    before: Option<usize>,
}

impl Words {
    fn with_room(words: usize) -> Self {
        let (last, places) = (HashMap::with_capacity(words), Vec::with_capacity(words));
        Self { last, places, counts: Vec::new(), shared: Vec::new() }
    }

    /// Adds a text, and says the greatest share of common words with one that was added before, 0 … 1.
    fn add(&mut self, body: &str) -> f32 {
        let Self { last, places, counts, shared } = self;
        let text = counts.len();
        shared.clear();
        shared.resize(text, 0);
        let mut count = 0;
        words_of(body, |word| {
            let before = last.get(&word).copied();
            let mut next = before;
            while let Some(place) = next.map(|at| &places[at]) {
                if place.text == text {
                    return;
                }
                shared[place.text] += 1;
                next = place.before;
            }
            count += 1;
            last.insert(word, places.len());
            places.push(Place { text, before });
        });
        let share = |(shared, other): (&usize, &usize)| *shared as f32 / (count + other - shared).max(1) as f32;
        let most = shared.iter().zip(counts.iter()).map(share).fold(0.0, f32::max);
        counts.push(count);
        most
    }
}

/// Calls `each` with the hash (FNV-1a) of every word of a text. Whole runs of letters and digits, whatever their case: endings
/// need no care here, and dozens of texts are read for each question.
fn words_of(body: &str, mut each: impl FnMut(u64)) {
    const START: u64 = 0xcbf2_9ce4_8422_2325;
    let mut hash = START;
    for byte in body.bytes().chain([b' ']) {
        if byte.is_ascii_alphanumeric() || !byte.is_ascii() {
            hash = (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3);
        } else if hash != START {
            each(hash);
            hash = START;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Why, conformance::record};

    /// The places of the texts after the demotion, from scores 1.0, 0.9, 0.8 and so on.
    fn order(texts: &[&str], weight: f32, limit: usize) -> Vec<(i64, f32)> {
        let mut hits: Vec<Hit> = (0_u8..)
            .zip(texts)
            .map(|(at, text)| {
                let record = Arc::new(record("p", text, at.into()));
                Hit { record, score: 1.0 - f32::from(at) / 10.0, why: Why::default() }
            })
            .collect();
        demote(&mut hits, weight, limit);
        hits.into_iter().map(|hit| (hit.record.created_at.0, hit.why.repeats)).collect()
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
