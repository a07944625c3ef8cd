//! What a specialist reads before it works: chosen, fitted to a budget of tokens, and rendered.
//!
//! **Invariant:** a bundle never exceeds its budget, measured on what [`render`] writes: with [`estimate_tokens`] by
//! [`assemble`], with the tokenizer that is given by [`fit`].
//! **Invariant:** the same items, in any order, give the same bundle byte for byte.
//! **Invariant:** every item leaves a line of provenance, in or out, with the reason.

mod assemble;
mod budget;
mod digest;
mod fit;
pub mod kept;
mod neighbours;
mod render;
mod share;
mod summarise;

use std::{borrow::Cow, sync::Arc};

use crewline_types::{Text, TextHash};
use serde::{Deserialize, Serialize};

pub use assemble::{assemble, assemble_without};
pub use budget::{estimate_tokens, trim_to};
pub use digest::{Rolled, Section, handoff, roll};
pub use fit::{Counter, counted, fit};
pub use neighbours::{BESIDE, Before, Place, Plan, above_hash, done_before, neighbours, quoted};
pub use render::{fenced, render};
pub use summarise::summarise;

/// Tokens that [`render`] adds to a part besides its source, type, title and text, with the shortest fence.
pub const PART_OVERHEAD_TOKENS: u32 = 27;

/// How close an item is to the task. The budget goes to the first tier first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// `INDEX.md`: the goal, the structure, the rules of all.
    Index,
    /// Pinned by a person.
    Pinned,
    /// Made by a task that this one requires.
    Requires,
    /// Made by a task that this one refers to.
    Refers,
    /// About the tasks above and beside it in the plan.
    Siblings,
    /// Recalled from memory.
    Retrieved,
    /// Added by hand.
    Manual,
}

/// Something that may go into the bundle.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// How close it is.
    pub tier: Tier,
    /// Where it is from: `task:k3v9x0ab`, `memory:…`, `index`.
    pub source: Arc<str>,
    /// What it is: `result`, `task_summary`, `index`.
    pub kind: Arc<str>,
    /// One line.
    pub title: Arc<str>,
    /// The text.
    pub text: Text,
    /// Higher goes first within its tier; what is no number counts as zero.
    pub score: f32,
}

/// What a specialist reads.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Bundle {
    /// In reading order.
    pub parts: Vec<Part>,
    /// Tokens of the rendered bundle.
    pub tokens: u32,
    /// A line per item, in the order in which they were considered.
    pub provenance: Vec<Provenance>,
}

/// A piece of the bundle, already fitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// How close it is.
    pub tier: Tier,
    /// Where it is from; one line.
    pub source: Arc<str>,
    /// What it is; one line.
    pub kind: Arc<str>,
    /// One line; may be empty.
    pub title: Arc<str>,
    /// The whole text, or what is left of it.
    pub text: Arc<str>,
    /// Tokens of the rendered part, with its heading and fence.
    pub tokens: u32,
}

/// Why an item is in or out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Where it is from.
    pub source: Arc<str>,
    /// What it is.
    pub kind: Arc<str>,
    /// One line; may be empty.
    #[serde(default = "no_title")]
    pub title: Arc<str>,
    /// How close it is.
    pub tier: Tier,
    /// Its score.
    pub score: f32,
    /// Tokens of the rendered part; 0 when left out.
    pub tokens: u32,
    /// How much of it is in.
    pub form: Form,
    /// Why.
    pub reason: Cow<'static, str>,
    /// Names the whole text.
    pub text: TextHash,
}

fn no_title() -> Arc<str> {
    Arc::from("")
}

/// How much of an item is in the bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// All of it.
    Whole,
    /// Its most telling sentences.
    Summary,
    /// Its beginning.
    Trimmed,
    /// Nothing.
    LeftOut,
}

#[cfg(test)]
pub(crate) mod tests;
