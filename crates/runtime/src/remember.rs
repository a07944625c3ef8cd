//! Memory for whoever stands outside a run: asking what a project knows, and telling it something.
//!
//! **Invariant:** whoever asks names the project, and sees that project only.

use std::sync::Arc;

use crewline_memory::{Filter, Query};
use crewline_types::{MemoryId, MemoryMarks, MemoryRecord, MemoryType, ProjectScope};

use crate::{
    Error, Handle, Noted,
    actor::{AskError, ask},
    memory,
};

/// Memories that one question may bring at most.
pub const RECALL_MAX: u16 = 100;
/// Characters of one memory at most: what is longer is a document, and belongs to `crewline memory ingest`.
pub const MEMORY_CHARS_MAX: usize = 16_384;

/// A memory that answers a question.
#[derive(Debug, Clone)]
pub struct Remembered {
    /// How well it fits; comparable within one answer only.
    pub score: f32,
    /// The memory.
    pub record: Arc<MemoryRecord>,
}

impl Handle {
    /// What `project` knows about `text`, best first.
    pub async fn recall(&self, project: &str, text: &str, limit: u16) -> Result<Vec<Remembered>, Error> {
        let memory = self.deps().rooms.memory.current().ok_or(Error::Actor(AskError::Gone))?;
        let query = Query {
            text: text.to_owned(),
            vector: None,
            filter: Filter::default(),
            limit: usize::from(limit.clamp(1, RECALL_MAX)),
        };
        let scope = ProjectScope::of(project);
        let hits = ask(&memory, self.limits().recall, |reply| memory::Message::Recall(scope, query, reply)).await?;
        Ok(hits.into_iter().map(|hit| Remembered { score: hit.score, record: hit.record }).collect())
    }

    /// Tells `project` something. Says the id it is remembered under, and whether it was new: what was said before in nearly
    /// the same words is counted there.
    pub async fn remember(
        &self,
        project: &str,
        kind: MemoryType,
        agent: &str,
        text: &str,
    ) -> Result<(MemoryId, bool), Error> {
        let text = text.trim();
        if text.is_empty() || text.chars().count() > MEMORY_CHARS_MAX {
            return Err(Error::MemorySize { chars: text.chars().count(), most: MEMORY_CHARS_MAX });
        }
        let record = MemoryRecord {
            id: MemoryId::of(project, None, kind.as_str(), text),
            project: project.into(),
            run: None,
            task: None,
            kind,
            agent: agent.into(),
            created_at: self.deps().clock.now(),
            text: text.into(),
            source_ids: Vec::new(),
            marks: MemoryMarks::default(),
        };
        let memory = self.deps().rooms.memory.current().ok_or(Error::Actor(AskError::Gone))?;
        let note = |reply| memory::Message::Note(Box::new(record), reply);
        let (id, noted) = ask(&memory, self.limits().commit, note).await??;
        Ok((id, noted == Noted::Added))
    }
}
