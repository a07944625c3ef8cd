//! What tasks changed in the workspace of their run: shown, listed, and taken back.
//!
//! **Invariant:** what is taken back fits whole, or nothing is changed: what later work did to the same lines stays.
//! **Invariant:** nothing is taken back while somebody works on the run, or on its workspace.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use crewline_tools::{Conflict, ConflictReason, Merge};
use crewline_types::{RunId, TaskId};
use serde::Serialize;

use crate::{Error, Handle, settings::Settings, tasks::TaskCommand};

/// What one attempt of a task changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskChange {
    /// The run.
    pub run: RunId,
    /// The task.
    pub task: TaskId,
    /// Its name inside the plan.
    pub key: Arc<str>,
    /// Which of its attempts.
    pub attempt: u32,
    /// The files.
    pub files: Vec<String>,
    /// The last commit it made, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// A unified diff.
    pub diff: String,
}

/// A file that a run changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Artifact {
    /// Its path in the workspace.
    pub path: String,
    /// Whether it is there now.
    pub exists: bool,
    /// Its length now, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The keys of the tasks that changed it, in their order.
    pub tasks: Vec<Arc<str>>,
}

/// The files that a run changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Artifacts {
    /// The run.
    pub run: RunId,
    /// Its workspace; none when it was launched without one.
    pub workspace: Option<PathBuf>,
    /// By path.
    pub files: Vec<Artifact>,
}

/// What came of taking a task's changes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reverted {
    /// The run.
    pub run: RunId,
    /// The task.
    pub task: TaskId,
    /// Files that are as they were before the task; empty on a conflict.
    pub files: Vec<String>,
    /// Where later work touched the same; nothing was changed then.
    pub conflicts: Vec<RevertConflict>,
    /// What was, or would have been, changed.
    pub diff: String,
}

/// Where later work touched the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RevertConflict {
    /// The file.
    pub path: String,
    /// Why it does not fit.
    pub reason: ConflictReason,
    /// Both sides, in a text with marks, where the file is one.
    pub marked: String,
}

impl From<Conflict> for RevertConflict {
    fn from(conflict: Conflict) -> Self {
        Self { path: conflict.path.to_string(), reason: conflict.reason, marked: conflict.marked }
    }
}

impl Handle {
    /// The workspace that a run was launched with.
    async fn workspace_of(&self, run: RunId) -> Result<Option<Arc<std::path::Path>>, Error> {
        let row = self.row(run).await?;
        Ok(Settings::of(&row)?.workspace.as_deref().map(Into::into))
    }

    /// What a task changed in its run's workspace, attempt by attempt; empty when it merged nothing.
    pub async fn changes_of_task(&self, run: RunId, task: TaskId) -> Result<Vec<TaskChange>, Error> {
        let Some(root) = self.workspace_of(run).await? else { return Ok(Vec::new()) };
        let tasks = self.store().tasks(run).await?;
        let Some(row) = tasks.iter().find(|it| it.id == task) else {
            return Err(Error::NotFound { what: "task", id: task.to_string() });
        };
        self.changes(&root, row).await
    }

    async fn changes(
        &self,
        root: &Arc<std::path::Path>,
        task: &crewline_types::Task,
    ) -> Result<Vec<TaskChange>, Error> {
        let workspace = self.deps().workshop.look(root).await?;
        let mut changes = Vec::new();
        for attempt in 1..=task.attempts {
            let name = format!("{}-{attempt}", task.id);
            if let Some(merged) = workspace.merged(&name).await? {
                changes.push(TaskChange {
                    run: task.run,
                    task: task.id,
                    key: Arc::clone(&task.key),
                    attempt,
                    files: merged.files.iter().map(ToString::to_string).collect(),
                    commit: merged.commit,
                    diff: merged.diff,
                });
            }
        }
        Ok(changes)
    }

    /// The files that a run changed in its workspace.
    pub async fn artifacts(&self, run: RunId) -> Result<Artifacts, Error> {
        let Some(root) = self.workspace_of(run).await? else {
            return Ok(Artifacts { run, workspace: None, files: Vec::new() });
        };
        let mut by_path: BTreeMap<String, Vec<Arc<str>>> = BTreeMap::new();
        for task in self.store().tasks(run).await? {
            for change in self.changes(&root, &task).await? {
                for file in change.files {
                    let tasks = by_path.entry(file).or_default();
                    if tasks.last() != Some(&change.key) {
                        tasks.push(Arc::clone(&change.key));
                    }
                }
            }
        }
        let files = by_path.into_iter().map(|(path, tasks)| {
            // The path was written by the merge: it is one of the workspace.
            let metadata = std::fs::symlink_metadata(root.join(&path)).ok();
            Artifact { path, exists: metadata.is_some(), bytes: metadata.map(|it| it.len()), tasks }
        });
        Ok(Artifacts { run, workspace: Some(root.to_path_buf()), files: files.collect() })
    }

    /// Takes back what a task changed in its run's workspace, its last attempt first. What later work did to the same lines
    /// is a conflict, and then nothing of that attempt is changed.
    pub async fn revert_task(&self, run: RunId, task: TaskId, by: &str) -> Result<Reverted, Error> {
        let held = self.hold(run).await?;
        let changes = self.changes_of_task(run, task).await?;
        let mut reverted = Reverted { run, task, files: Vec::new(), conflicts: Vec::new(), diff: String::new() };
        let Some(root) = self.workspace_of(run).await?.filter(|_| !changes.is_empty()) else {
            return Err(Error::NothingChanged { run, task });
        };
        let (workspace, _held) = self.deps().workshop.alone(&root).await?;
        for change in changes.iter().rev() {
            match workspace.revert(&format!("{task}-{}", change.attempt)).await? {
                Merge::Merged(merged) => {
                    reverted.files.extend(merged.files.iter().map(ToString::to_string));
                    reverted.diff.push_str(&merged.diff);
                }
                Merge::Conflict { conflicts, diff } => {
                    reverted.conflicts = conflicts.into_iter().map(RevertConflict::from).collect();
                    reverted.diff = diff;
                    break;
                }
            }
        }
        drop(held);
        if !reverted.files.is_empty() {
            let text = format!("its changes were taken back: {}", reverted.files.join(", "));
            let note = TaskCommand::Note { task: task.to_string(), text };
            if let Err(error) = self.change_tasks(run, &[note], by).await {
                tracing::warn!(error.code = error.code(), %error, "that changes were taken back is not noted");
            }
        }
        Ok(reverted)
    }
}
