//! What a recall gives back.

use std::{cmp::Ordering, sync::Arc};

use crewline_types::MemoryRecord;

/// Why a memory was found.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct Why {
    /// Cosine similarity of the embeddings, −1 … 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense: Option<f32>,
    /// BM25 of the words, above zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparse: Option<f32>,
    /// What was added because of who said it.
    #[serde(skip_serializing_if = "is_zero")]
    pub agent: f32,
    /// What was added because of its neighbours, its task and the summaries made from it.
    #[serde(skip_serializing_if = "is_zero")]
    pub context: f32,
    /// What was added because of its marks and its age: pinned, important, superseded, recent.
    #[serde(skip_serializing_if = "is_zero")]
    pub marks: f32,
    /// What a reranker that read it beside the question added or took off.
    #[serde(skip_serializing_if = "is_zero")]
    pub rerank: f32,
    /// What was taken off because a memory above it says nearly the same.
    #[serde(skip_serializing_if = "is_zero")]
    pub repeats: f32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &f32) -> bool {
    *value == 0.0
}

/// A memory that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// The memory.
    pub record: Arc<MemoryRecord>,
    /// How well it fits, 0 … 1, the best of an answer 1; comparable within one answer only.
    pub score: f32,
    /// Why it was found.
    pub why: Why,
}

impl Hit {
    /// The order of an answer, which is that of [`Ranked`](crate::top::Ranked): score descending, then the older memory, then
    /// the lower id.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        let by_age = |hit: &Self| (hit.record.created_at, hit.record.id);
        other.score.total_cmp(&self.score).then_with(|| by_age(self).cmp(&by_age(other)))
    }
}
