//! Strategies (G6): which of the tasks that are ready goes first.

use serde::{Deserialize, Serialize};

/// In which order ready tasks run. A task never runs before those it needs, whatever the strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// What has the longest way to the end first, when durations are known; then the higher priority, then the place in the
    /// plan.
    #[default]
    Dag,
    /// Level by level: what is fewer steps from a beginning first, then the higher priority, then the place in the plan.
    Bfs,
    /// Branch by branch: all that one task needs, then that task, then the next branch; branches by priority, then by place.
    Postorder,
}

impl Strategy {
    /// All of them, the default first.
    pub const ALL: [Self; 3] = [Self::Dag, Self::Bfs, Self::Postorder];

    /// The name used on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dag => "dag",
            Self::Bfs => "bfs",
            Self::Postorder => "postorder",
        }
    }

    /// The inverse of [`Self::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }
}
