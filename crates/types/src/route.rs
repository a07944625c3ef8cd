//! What a registry says of the way a task goes through a role's chain.

use std::fmt;

use crate::{ModelAlias, TaskKind};

/// A rule of a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRule {
    /// All of it must hold.
    pub when: RouteWhen,
    /// The model that is asked first; those before it in the chain follow when all others failed.
    pub start: Option<ModelAlias>,
    /// Models that are not asked.
    pub without: Vec<ModelAlias>,
}

/// When a rule holds. What is not given always holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteWhen {
    /// The task is of one of these kinds; empty: of any.
    pub kinds: Vec<TaskKind>,
    /// The task has one of these tags; empty: whatever it has.
    pub tags: Vec<String>,
    /// Tokens of the task at least.
    pub tokens_min: Option<u32>,
    /// Tokens of the task at most.
    pub tokens_max: Option<u32>,
    /// Complexity at least.
    pub complexity_min: Option<Complexity>,
    /// Complexity at most.
    pub complexity_max: Option<Complexity>,
}

/// How hard a task looks before anybody is asked: 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Complexity(u8);

impl Complexity {
    /// The least.
    pub const MIN: Self = Self(0);
    /// The greatest.
    pub const MAX: u8 = 100;

    /// A score; more than 100 is 100.
    pub fn new(score: u8) -> Self {
        Self(score.min(Self::MAX))
    }

    /// The score.
    pub fn score(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Complexity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)
    }
}
