//! What a run was launched with, as its row keeps it.

use std::{collections::BTreeMap, num::NonZeroUsize, path::PathBuf, str::FromStr};

use crewline_engine::{route::Mode, schedule::Strategy};
use crewline_store::RunRow;
use crewline_types::{ModelAlias, RunLimits};
use serde::{Deserialize, Serialize};

use crate::{Error, Overrides};

/// What a person wants to be asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approve {
    /// Whether a plan is to be run.
    #[serde(default)]
    pub plan: bool,
    /// Whether a task is to be given its context.
    #[serde(default)]
    pub context: bool,
    /// Whether a tool may change something.
    #[serde(default)]
    pub tools: bool,
}

impl Approve {
    /// Nothing at all.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl FromStr for Approve {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut approve = Self::default();
        for word in text.split(',').map(str::trim) {
            match word {
                "plan" => approve.plan = true,
                "context" => approve.context = true,
                "tools" => approve.tools = true,
                "none" if text.trim() == "none" => {}
                _ => {
                    let word: String = word.chars().take(40).collect();
                    return Err(format!("`{word}` is not one of plan, context, tools and none"));
                }
            }
        }
        Ok(approve)
    }
}

/// What a run was launched with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// The hard limits.
    pub limits: RunLimits,
    /// Attempts at once.
    pub concurrency: NonZeroUsize,
    /// Which of the tasks that are ready goes first.
    #[serde(default)]
    pub strategy: Strategy,
    /// Local models only.
    pub offline: bool,
    /// Refuse a plan that needs repair.
    pub strict_plan: bool,
    /// Stop when the plan is recorded.
    pub stop_after_plan: bool,
    /// What a person wants to be asked about.
    #[serde(default, skip_serializing_if = "Approve::is_nothing")]
    pub approve: Approve,
    /// The folder that its specialists work in; without one they have no tools for files and commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<PathBuf>,
    /// The only model that is asked for a task, by the task's key; for all others the role's chain is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, ModelAlias>,
}

impl Settings {
    /// As the run's row keeps it.
    pub fn text(&self) -> String {
        // Plain numbers and flags always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Those of a run's row.
    pub fn of(row: &RunRow) -> Result<Self, Error> {
        serde_json::from_str(&row.settings).map_err(|error| Error::Settings { run: row.id, message: error.to_string() })
    }

    /// Takes over what a person wants to be different.
    pub fn change(&mut self, overrides: &Overrides) {
        self.limits = overrides.limits.unwrap_or(self.limits);
        self.concurrency = overrides.concurrency.unwrap_or(self.concurrency);
        self.offline = overrides.mode.map_or(self.offline, |mode| matches!(mode, Mode::Offline));
    }

    /// Which hosts may be asked.
    pub fn mode(&self) -> Mode {
        if self.offline { Mode::Offline } else { Mode::Online }
    }
}
