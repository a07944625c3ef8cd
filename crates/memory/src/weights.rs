//! What each signal counts in a ranking. The shipped weights are tuned; see `docs/memory.md`.
//!
//! **Invariant:** every weight is a finite number; a file with anything else is refused whole.

use serde::{Deserialize, Serialize};

use crate::Error;

/// The file `cargo xtask tune-memory` writes.
const SHIPPED: &str = include_str!("../weights.json");

/// What each signal counts. `dense` and the words share 1; everything else is added to that.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default = "Weights::plain")]
pub struct Weights {
    /// The vectors' share of the base score, 0 … 1; the words have the rest.
    pub dense: f32,
    /// The memory's agent is named in the question.
    pub named: f32,
    /// The question is about the asking person, and a person said it.
    pub asker: f32,
    /// A person said it, and the question does not say whose words it is about.
    pub person: f32,
    /// The question is about what was answered, and somebody else than the person said it.
    pub answerer: f32,
    /// Share of the base score of the memory before it in the task, when both are short.
    pub previous: f32,
    /// Share of the base score of the memory behind it in the task, when both are short.
    pub next: f32,
    /// Share of the mean base score of its task, when the task's memories are short.
    pub task: f32,
    /// Tokens from which a memory is not short any more; half as many are half short.
    pub short_tokens: f32,
    /// Share of the best base score of the summaries made from it.
    pub summary: f32,
    /// It is pinned.
    pub pinned: f32,
    /// Its importance, 0 … 1.
    pub importance: f32,
    /// A newer memory has taken its place.
    pub superseded: f32,
    /// Added to the newest memory of the project, nothing to the oldest, in between by age.
    pub recency: f32,
    /// A reranker's share in how well a memory fits, 0 … 1, where there is one; at 0 it is not asked.
    pub rerank: f32,
    /// Added to what says again, word for word, what a better memory says; less when fewer words are the same.
    pub repeats: f32,
}

impl Default for Weights {
    /// The tuned weights this version ships.
    fn default() -> Self {
        // A test reads the same text.
        Self::parse(SHIPPED).unwrap_or_else(|_| Self::plain())
    }
}

impl Weights {
    /// Vectors and words alone, and what people have set by hand.
    pub fn plain() -> Self {
        Self {
            dense: 0.5,
            named: 0.0,
            asker: 0.0,
            person: 0.0,
            answerer: 0.0,
            previous: 0.0,
            next: 0.0,
            task: 0.0,
            short_tokens: 120.0,
            summary: 0.0,
            pinned: 0.2,
            importance: 0.0,
            superseded: -0.3,
            recency: 0.0,
            // Whoever installs a reranker wants it to count.
            rerank: 0.5,
            repeats: 0.0,
        }
    }

    /// Reads a weights file (JSON); a weight it does not name is that of [`Self::plain`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        let weights: Self = serde_json::from_str(text).map_err(|error| Error::Weights { reason: error.to_string() })?;
        weights.check()?;
        Ok(weights)
    }

    fn check(&self) -> Result<(), Error> {
        let refuse = |reason: &str| Err(Error::Weights { reason: reason.to_owned() });
        if !(0.0..=1.0).contains(&self.dense) {
            return refuse("`dense` must lie between 0 and 1");
        }
        if !(0.0..=1.0).contains(&self.rerank) {
            return refuse("`rerank` must lie between 0 and 1");
        }
        if !self.short_tokens.is_finite() || self.short_tokens < 1.0 {
            return refuse("`short_tokens` must be 1 or more");
        }
        let rest = [
            self.named,
            self.asker,
            self.person,
            self.answerer,
            self.previous,
            self.next,
            self.task,
            self.summary,
            self.pinned,
            self.importance,
            self.superseded,
            self.recency,
            self.repeats,
        ];
        if rest.iter().any(|weight| !weight.is_finite() || weight.abs() > 10.0) {
            return refuse("a weight must lie between -10 and 10");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_is_sound() {
        assert_eq!(Weights::parse(SHIPPED).unwrap(), Weights::default());
    }

    #[test]
    fn other_files_are_refused_with_a_reason() {
        for (text, reason) in [
            ("{\"dense\": 2}", "dense"),
            ("{\"rerank\": -0.1}", "rerank"),
            ("{\"short_tokens\": 0}", "short_tokens"),
            ("{\"named\": 11}", "between -10 and 10"),
            ("{\"nmaed\": 1}", "unknown field"),
            ("[", "EOF"),
        ] {
            let error = Weights::parse(text).unwrap_err();
            assert_eq!(error.code(), "memory.weights");
            assert!(error.to_string().contains(reason), "{error}");
        }
        assert_eq!(Weights::parse("{}").unwrap(), Weights::plain());
    }
}
