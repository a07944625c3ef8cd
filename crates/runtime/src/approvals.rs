//! What people are asked, and what they say.
//!
//! A run that waits for nothing but people ends as interrupted, with the code `run.awaiting_approval`: it costs no slot and no
//! process. A decision is recorded first; then whoever manages the run is told, or the run is taken up again.
//!
//! **Invariant:** a decision is recorded once, with who said it, when, and of what exactly.

use std::collections::HashMap;

use crewline_store::{ApprovalFilter, ApprovalRow, Backend, NewDecision, NodeKind};
use crewline_types::{ApprovalId, ApprovalKind, ApprovalState, RunId, RunStatus, TaskId, TextHash, Timestamp};
use serde::Serialize;

use crate::{Error, Handle, NodeSummary, Overrides, find::Found, manager, metrics};

/// The error code of a run that waits for people.
pub const AWAITING_APPROVAL: &str = "run.awaiting_approval";

/// Characters of a message at most.
const MESSAGE_CHARS_MAX: usize = 20_000;

/// Something that a person is, or was, asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// Names it; `approve`, `reject` and `answer` take it.
    pub id: ApprovalId,
    /// The run.
    pub run: RunId,
    /// The task; null when it is about the run as a whole.
    pub task: Option<TaskId>,
    /// What is asked.
    pub kind: ApprovalKind,
    /// A line.
    pub subject: String,
    /// Names what exactly: a yes covers nothing else.
    pub digest: TextHash,
    /// What was decided.
    pub state: ApprovalState,
    /// When it was asked.
    pub created_at: Timestamp,
    /// When it was decided.
    pub decided_at: Option<Timestamp>,
    /// Who decided.
    pub decided_by: Option<String>,
    /// What they said.
    pub message: Option<String>,
    /// What exactly: a tool with its arguments, a plan, a context.
    pub detail: String,
}

/// What a person says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Approve,
    /// No.
    Reject,
    /// This, to a question.
    Answer,
}

/// What came of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decided {
    /// What was decided.
    #[serde(flatten)]
    pub asked: Asked,
    /// Questions of the same run that still wait.
    pub pending: usize,
    /// Whether the run goes on by itself; else `resume` continues it.
    pub goes_on: bool,
}

impl Handle {
    /// What people are or were asked, the oldest first.
    pub async fn approvals(&self, run: Option<RunId>, is_pending: bool) -> Result<Vec<Asked>, Error> {
        let rows = self.store().approvals(ApprovalFilter { run, is_pending }).await?;
        self.with_details(rows).await
    }

    async fn with_details(&self, rows: Vec<ApprovalRow>) -> Result<Vec<Asked>, Error> {
        let hashes: Vec<TextHash> = rows.iter().map(|row| row.detail).collect();
        let texts = if hashes.is_empty() { HashMap::default() } else { self.store().texts(&hashes).await? };
        let asked = rows.into_iter().map(|row| Asked {
            id: row.id,
            run: row.run,
            task: row.task,
            kind: row.kind,
            subject: row.subject,
            digest: row.digest,
            state: row.state,
            created_at: row.created_at,
            decided_at: row.decided_at,
            decided_by: row.decided_by,
            message: row.message,
            detail: texts.get(&row.detail).map(ToString::to_string).unwrap_or_default(),
        });
        Ok(asked.collect())
    }

    /// The one question that `text` names: its id or the beginning of it; or a run or task that waits for one answer only.
    pub async fn find_approval(&self, text: &str) -> Result<Asked, Error> {
        let text = text.trim();
        let prefix = text.to_ascii_lowercase();
        let not_found = || Error::NotFound { what: "approval", id: text.chars().take(40).collect() };
        let mut found = if prefix.is_empty() { Vec::new() } else { self.store().approvals_like(&prefix).await? };
        if found.is_empty() {
            let (run, task) = match self.find(text).await {
                Ok(Found::Run(run)) => (run, None),
                Ok(Found::Task(run, task)) => (run, Some(task)),
                Err(Error::NotFound { .. }) => return Err(not_found()),
                Err(error) => return Err(error),
            };
            found = self.store().approvals(ApprovalFilter { run: Some(run), is_pending: true }).await?;
            found.retain(|row| task.is_none() || row.task == task);
        }
        if found.len() > 1 {
            let candidates = found.iter().map(|row| format!("{} ({})", row.id, row.subject)).collect();
            return Err(Error::Ambiguous { prefix: text.chars().take(40).collect(), candidates });
        }
        self.with_details(found).await?.pop().ok_or_else(not_found)
    }

    /// Records what a person says, and lets the run go on.
    pub async fn settle(
        &self,
        id: ApprovalId,
        decision: &Decision,
        by: &str,
        message: Option<String>,
    ) -> Result<Decided, Error> {
        let find = || async { self.store().approvals_like(id.as_str()).await.map(|mut rows| rows.pop()) };
        let not_found = || Error::NotFound { what: "approval", id: id.to_string() };
        let row = find().await?.ok_or_else(not_found)?;
        if *decision == Decision::Answer && row.kind != ApprovalKind::Question {
            return Err(Error::NotAsked { id, kind: row.kind });
        }
        if *decision == Decision::Approve && row.kind == ApprovalKind::Question && message.is_none() {
            return Err(Error::NotAsked { id, kind: row.kind });
        }
        // Somebody takes it up; else `resume` does, when a person likes.
        let is_taken_up = self.manages_runs() || self.has_server().await?;
        let is_new = self
            .store()
            .decide(&NewDecision {
                id,
                run: row.run,
                state: match decision {
                    Decision::Approve | Decision::Answer => ApprovalState::Approved,
                    Decision::Reject => ApprovalState::Rejected,
                },
                by: by.chars().take(200).collect(),
                message: message.map(|text| text.chars().take(MESSAGE_CHARS_MAX).collect()),
                at: self.deps().clock.now(),
                undoes: is_taken_up.then_some(AWAITING_APPROVAL),
            })
            .await?;
        let row = find().await?.ok_or_else(not_found)?;
        if !is_new {
            return Err(Error::Decided { id, state: row.state });
        }
        let goes_on = self.take_up(row.run).await?;
        let pending = self.store().approvals(ApprovalFilter { run: Some(row.run), is_pending: true }).await?.len();
        metrics::approvals_pending(self.store().approvals_pending().await?);
        let asked = self.with_details(vec![row]).await?.pop().ok_or_else(not_found)?;
        Ok(Decided { asked, pending, goes_on })
    }

    /// Lets whoever manages the run look at what was decided, and takes up a run that nobody manages now; `false` when it waits for
    /// `resume`.
    async fn take_up(&self, run: RunId) -> Result<bool, Error> {
        self.hint_manager(run, manager::Message::Decided);
        let row = self.row(run).await?;
        if row.status != RunStatus::Running {
            return Ok(false);
        }
        if row.owner.is_none()
            && self.manages_runs()
            && let Err(error) = self.resume(run, Overrides::default()).await
            && !matches!(error, Error::Held { .. })
        {
            // Others do, or this process when it is started again.
            tracing::warn!(run_id = %run, error.code = error.code(), %error, "the run is not taken up now");
        }
        Ok(true)
    }

    /// Whether a server on this database takes up what goes on.
    async fn has_server(&self) -> Result<bool, Error> {
        let is_server = |node: &NodeSummary| node.kind == NodeKind::Server && node.state == "alive";
        Ok(self.store().backend() == Backend::Postgres && self.nodes().await?.iter().any(is_server))
    }
}
