//! Remembers what was counted: INDEX.md is in every bundle, and a result in that of each task that requires it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use crewline_types::TextHash;

/// Bytes of a text below which counting is cheaper than remembering.
const TEXT_MIN: usize = 64;
/// Counts of one generation; two are kept.
const COUNTS_MAX: usize = 8_192;

/// A tokenizer, and what it counted last.
#[derive(Debug)]
pub(super) struct Cached<T> {
    tokenizer: T,
    counts: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<TextHash, u32>,
    old: HashMap<TextHash, u32>,
}

impl<T> Cached<T> {
    pub(super) fn new(tokenizer: T) -> Self {
        Self { tokenizer, counts: Mutex::default() }
    }

    pub(super) fn count(&self, text: &str, count: impl Fn(&T, &str) -> usize) -> u32 {
        let counted = || u32::try_from(count(&self.tokenizer, text)).unwrap_or(u32::MAX);
        if text.len() < TEXT_MIN {
            return counted();
        }
        let hash = TextHash::of(text);
        if let Some(tokens) = self.with(|it| it.get(hash)) {
            return tokens;
        }
        let tokens = counted();
        self.with(|it| it.put(hash, tokens));
        tokens
    }

    fn with<R>(&self, act: impl FnOnce(&mut Generations) -> R) -> R {
        act(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Generations {
    fn get(&mut self, hash: TextHash) -> Option<u32> {
        if let Some(tokens) = self.young.get(&hash) {
            return Some(*tokens);
        }
        let tokens = self.old.remove(&hash)?;
        self.put(hash, tokens);
        Some(tokens)
    }

    fn put(&mut self, hash: TextHash, tokens: u32) {
        if self.young.len() >= COUNTS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, tokens);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_is_bounded() {
        let (cached, made) = (Cached::new(()), Cell::new(0));
        let count = |text: &str| {
            cached.count(text, |(), text| {
                made.set(made.get() + 1);
                text.len()
            })
        };
        let text = |it: usize| format!("{it:>400}");
        for round in 0..3 * COUNTS_MAX {
            assert_eq!((count(&text(0)), count(&text(round))), (400, 400));
        }
        assert_eq!(made.get(), 3 * COUNTS_MAX, "the one that is used is counted once");
        let kept = cached.with(|it| it.young.len() + it.old.len());
        assert!(kept <= 2 * COUNTS_MAX, "{kept}");
        count("short");
        count("short");
        assert_eq!(made.get(), 3 * COUNTS_MAX + 2);
    }
}
