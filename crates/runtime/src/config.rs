//! What the runtime is started with, and its limits.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crewline_memory::{Embedder, Qdrant, Reranker, Rules, Weights};
use crewline_models::{Models, Reloader};
use crewline_store::Store;
use crewline_types::Clock;

/// What the runtime is started with.
pub struct Config {
    /// The database.
    pub store: Store,
    /// The models of the registry.
    pub models: Models,
    /// Takes the registry file over when it changes; a process without one keeps what it began with.
    pub reloader: Option<Reloader>,
    /// What memory is made of.
    pub memory: MemoryConfig,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Names this start of this process in leases.
    pub node: String,
    /// Folder of the run locks; only where the database is a file of this machine.
    pub locks: Option<PathBuf>,
    /// Folder whose `*.j2` files replace the shipped prompts.
    pub prompts: Option<PathBuf>,
    /// What tools work with.
    pub tools: ToolsConfig,
    /// Who makes the attempts of the runs that this process manages.
    pub dispatch: Dispatch,
    /// The bounds of the runtime.
    pub limits: Limits,
}

/// What tools work with.
#[derive(Debug)]
pub struct ToolsConfig {
    /// Below it lies what workspaces need beside their files: views, notes of merges, outputs.
    pub folder: PathBuf,
    /// The own program, which confines commands; without it none are run.
    pub helper: Option<PathBuf>,
}

/// Who makes the attempts of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dispatch {
    /// The specialists of the manager's own process.
    #[default]
    Local,
    /// Any worker on the same database: attempts are offered as rows, and claimed.
    Queue,
}

/// What memory is made of; with none of the first three, recall is BM25 over the database.
#[derive(Default)]
pub struct MemoryConfig {
    /// Makes vectors.
    pub embedder: Option<Embedder>,
    /// Keeps vectors when shared.
    pub qdrant: Option<Qdrant>,
    /// Reads the best of an answer again.
    pub reranker: Option<Reranker>,
    /// What each signal counts in a ranking.
    pub weights: Weights,
    /// What is kept, and what is not.
    pub rules: Rules,
}

/// The bounds of the runtime; every wait and queue is bounded by one of these.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Runs at once.
    pub runs_max: usize,
    /// Assignments that may wait for a slot of one role.
    pub queue_max: usize,
    /// Calls at once that are prepared, or recorded before they are sent. A thousand attempts that are ready together would all
    /// be prepared before the first is answered, each on a connection of its own.
    pub preparing_max: usize,
    /// Wait for a recall; after it the attempt goes on without memory.
    pub recall: Duration,
    /// Wait for a commit.
    pub commit: Duration,
    /// One attempt, all its calls together.
    pub attempt: Duration,
    /// Lease of a manager on its run, and of a worker on what it claimed; renewed at a third of it.
    pub lease: Duration,
    /// How often the database is looked at for what no hint told.
    pub poll: Duration,
    /// Restarts of one actor within [`Limits::restart_window`].
    pub restarts_max: usize,
    /// The window that restarts are counted in.
    pub restart_window: Duration,
    /// Memories recalled for a task.
    pub recall_top: usize,
    /// Tokens of one summary kept in memory.
    pub summary_tokens: u32,
    /// Tokens of what one role hands to the next.
    pub handoff_tokens: u32,
    /// Tokens of the summary of a project.
    pub project_tokens: u32,
    /// Tokens that a task says before it is summed up while it goes on.
    pub rolling_tokens: u64,
    /// Wait for the project's summary at the end of a run.
    pub summary: Duration,
    /// The same, where a model writes it.
    pub model_summary: Duration,
    /// Tokens of INDEX.md in a prompt.
    pub index_tokens: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            runs_max: 256,
            queue_max: 100_000,
            preparing_max: 64,
            recall: Duration::from_secs(2),
            commit: Duration::from_mins(1),
            attempt: Duration::from_hours(2),
            lease: Duration::from_secs(30),
            poll: Duration::from_secs(1),
            restarts_max: 20,
            restart_window: Duration::from_mins(1),
            recall_top: 5,
            summary_tokens: 200,
            handoff_tokens: 320,
            project_tokens: 600,
            rolling_tokens: 2_000,
            summary: Duration::from_secs(2),
            model_summary: Duration::from_mins(1),
            index_tokens: 600,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_is_a_second() {
        assert_eq!(Limits::default().poll, Duration::from_secs(1));
    }
}
