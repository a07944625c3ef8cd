//! A text as a sparse vector: one dimension per word, its value the part of BM25 that belongs to the text alone. The
//! server multiplies in how rare a word is (IDF).
//!
//! A dimension is a hash of the project *and* the word, so how often others use a word changes nothing for a project:
//! only the number of all points of the collection does, which the server takes for the number of documents.
//!
//! **Invariant:** the same project and text give the same vector on every machine and with every version, because
//! vectors are kept; another scheme needs another [`SCHEME`].

use std::collections::{BTreeMap, BTreeSet};

use crate::text;

/// Part of the name under which the database remembers where vectors are: with another scheme all are carried again.
pub(super) const SCHEME: &str = "words-1";

const K1: f32 = 1.2;
const B: f32 = 0.75;
/// The length of an ordinary memory, in words. The real mean changes with every memory, a vector that is kept can not.
const LENGTH: f32 = 128.0;
/// Words of a question that are asked for.
const QUESTION_WORDS_MAX: usize = 64;

/// The dimensions of one project.
struct Dimensions(u64);

impl Dimensions {
    fn of(project: &str) -> Self {
        // No byte of a text is 0xff, so `ab` + `c` is not `a` + `bc`.
        Self(fnv(fnv(0xcbf2_9ce4_8422_2325, project.as_bytes()), &[0xff]))
    }

    fn of_word(&self, word: &str) -> u32 {
        let mut hash = fnv(self.0, word.as_bytes());
        hash ^= hash >> 33;
        hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^= hash >> 33;
        // The upper half; the lower one of FNV is weaker.
        u32::try_from(hash >> 32).unwrap_or(u32::MAX)
    }
}

/// FNV-1a of 64 bits (Fowler, Noll and Vo), from `hash` on.
fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The vector of a memory: each dimension once.
pub(super) fn of_text(project: &str, memory: &str) -> BTreeMap<u32, f32> {
    let dimensions = Dimensions::of(project);
    let mut found: BTreeMap<u32, f32> = BTreeMap::new();
    let mut length = 0_f32;
    text::terms(memory, &mut String::new(), |term| {
        *found.entry(dimensions.of_word(term)).or_default() += 1.0;
        length += 1.0;
    });
    let norm = K1 * (1.0 - B + B * length / LENGTH);
    for frequency in found.values_mut() {
        *frequency = *frequency * (K1 + 1.0) / (*frequency + norm);
    }
    found
}

/// The vector of a question: words that say what is asked for, or all of it when there are none.
pub(super) fn of_question(project: &str, question: &str) -> Vec<(u32, f32)> {
    let dimensions = Dimensions::of(project);
    let (mut telling, mut others) = (BTreeSet::new(), BTreeSet::new());
    text::terms(question, &mut String::new(), |term| {
        let words = if text::is_stop(term) { &mut others } else { &mut telling };
        if words.len() < QUESTION_WORDS_MAX {
            words.insert(dimensions.of_word(term));
        }
    });
    let words = if telling.is_empty() { others } else { telling };
    words.into_iter().map(|dimension| (dimension, 1.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_that_are_kept_are_made_alike_for_ever() {
        let vector = of_text("p", "The red fox and the red whale");
        assert_eq!(vector.len(), 5);
        // Two of one word, in a text of seven: 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 7 / 128)).
        let red = of_question("p", "red")[0].0;
        assert!((vector[&red] - 1.872_3).abs() < 1e-3, "{vector:?}");
        assert_eq!(red, 1_816_772_602);
    }

    #[test]
    fn projects_share_no_dimension() {
        let words = (0..2_000).map(|n| format!("word{n}")).collect::<Vec<_>>().join(" ");
        let (one, other) = (of_text("p", &words), of_text("q", &words));
        assert!(one.len() >= 1_999);
        // Two random sets of 2,000 of 4,294,967,296 meet once in a thousand times.
        assert_eq!(one.keys().filter(|dimension| other.contains_key(dimension)).count(), 0);
    }

    #[test]
    fn questions_ask_for_what_says_something() {
        assert_eq!(of_question("p", "Where was the fox?"), of_question("p", "foxes, FOX"));
        assert_eq!(of_question("p", "where was it").len(), 3);
        assert!(of_question("p", "?!").is_empty() && of_text("p", "").is_empty());
        let many = (0..500).map(|n| format!("w{n}")).collect::<Vec<_>>().join(" ");
        assert_eq!(of_question("p", &many).len(), QUESTION_WORDS_MAX);
    }
}
