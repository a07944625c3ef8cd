//! What a recall gives back, and how candidates become it.
//!
//! **Invariant:** hits are ordered by score, then the older memory first, so equal input gives equal output.

use std::sync::Arc;

use crewline_types::MemoryRecord;

use crate::{
    fuse::{Candidate, fuse},
    top::Ranked,
};

/// Why a memory was found.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct Why {
    /// Cosine similarity of the embeddings, −1 … 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense: Option<f32>,
    /// BM25 of the words, above zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparse: Option<f32>,
}

/// A memory that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// The memory.
    pub record: Arc<MemoryRecord>,
    /// How well it fits, 0 … 1; comparable within one answer only.
    pub score: f32,
    /// Why it was found.
    pub why: Why,
}

/// The best `limit` of `candidates`. `record` finds the record of a slot.
pub(crate) fn hits<'a>(
    candidates: &[Candidate],
    limit: usize,
    record: impl Fn(u32) -> Option<&'a Arc<MemoryRecord>>,
) -> Vec<Hit> {
    let mut ranked: Vec<(Ranked, Why)> = candidates
        .iter()
        .zip(fuse(candidates))
        .filter_map(|(candidate, score)| {
            let created_at = record(candidate.slot)?.created_at.0;
            let why = Why { dense: candidate.dense, sparse: candidate.sparse };
            Some((Ranked { score, created_at, slot: candidate.slot }, why))
        })
        .collect();
    ranked.sort_unstable_by_key(|(ranked, _)| *ranked);
    ranked
        .into_iter()
        .take(limit)
        .filter_map(|(ranked, why)| Some(Hit { record: Arc::clone(record(ranked.slot)?), score: ranked.score, why }))
        .collect()
}
