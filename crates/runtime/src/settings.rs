//! What a run was launched with, as its row keeps it.

use std::num::NonZeroUsize;

use crewline_engine::route::Mode;
use crewline_types::RunLimits;
use serde::{Deserialize, Serialize};

/// What a run was launched with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// The hard limits.
    pub limits: RunLimits,
    /// Attempts at once.
    pub concurrency: NonZeroUsize,
    /// Local models only.
    pub offline: bool,
    /// Refuse a plan that needs repair.
    pub strict_plan: bool,
    /// Stop when the plan is recorded.
    pub stop_after_plan: bool,
}

impl Settings {
    /// Which hosts may be asked.
    pub fn mode(&self) -> Mode {
        if self.offline { Mode::Offline } else { Mode::Online }
    }
}
