//! The store of vectors as others see it: points in, a query in, ranked hits out.
//!
//! **Invariant:** every call names its project; an implementation answers from that project only.
//! **Invariant:** writing a point twice leaves one.

use std::sync::Arc;

use crewline_types::{MemoryId, MemoryRecord, MemoryType, ProjectScope, TaskId, Timestamp};
use futures::future::BoxFuture;

use crate::{Error, Hit};

/// A memory on its way into a store.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Names the point; the record's id.
    pub id: MemoryId,
    /// The memory.
    pub record: MemoryRecord,
    /// Its embedding, of any length but zero; none when there is no embedding model.
    pub vector: Option<Vec<f32>>,
}

/// What must hold for a hit. An empty filter admits everything.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Filter {
    /// Only these types; empty for all.
    pub kinds: Vec<MemoryType>,
    /// Only what is about this task.
    pub task: Option<TaskId>,
    /// Only what this agent said.
    pub agent: Option<Arc<str>>,
    /// Only what is as old as this or younger.
    pub since: Option<Timestamp>,
    /// Nothing that is about one of these tasks.
    pub exclude_tasks: Vec<TaskId>,
}

/// A question to memory.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Query {
    /// What the words are compared with.
    pub text: String,
    /// The embedding of `text`, made by the model that made the vectors of the store; none recalls by words alone.
    pub vector: Option<Vec<f32>>,
    /// What must hold for a hit.
    pub filter: Filter,
    /// Hits wanted at most.
    pub limit: usize,
}

/// A place where vectors live.
pub trait VectorStore: Send + Sync {
    /// Adds points; those that are there already are kept, and get the vector if one is given.
    ///
    /// Every record must belong to the project of `scope`, or nothing is written.
    fn upsert<'a>(&'a self, scope: &'a ProjectScope, points: Vec<Point>) -> BoxFuture<'a, Result<(), Error>>;

    /// The best hits, best first.
    fn search<'a>(&'a self, scope: &'a ProjectScope, query: &'a Query) -> BoxFuture<'a, Result<Vec<Hit>, Error>>;

    /// Takes memories out; ids that are not there are no error.
    fn forget<'a>(&'a self, scope: &'a ProjectScope, ids: &'a [MemoryId]) -> BoxFuture<'a, Result<(), Error>>;

    /// Takes all memories of a project out.
    fn reset<'a>(&'a self, scope: &'a ProjectScope) -> BoxFuture<'a, Result<(), Error>>;

    /// Whether the store answers and fits the embedding model.
    fn check(&self) -> BoxFuture<'_, Result<(), Error>>;
}

/// Refuses records of another project.
pub(crate) fn belongs(scope: &ProjectScope, record: &MemoryRecord) -> Result<(), Error> {
    if &*record.project == scope.project() {
        return Ok(());
    }
    Err(Error::Foreign { id: record.id, found: record.project.to_string(), wanted: scope.project().to_owned() })
}

/// A filter made ready for many records.
pub(crate) struct Rule<'a> {
    filter: &'a Filter,
    /// Sorted: a synthesis leaves out a thousand tasks.
    exclude_tasks: Vec<TaskId>,
    is_open: bool,
}

impl<'a> Rule<'a> {
    pub(crate) fn new(filter: &'a Filter) -> Self {
        let mut exclude_tasks = filter.exclude_tasks.clone();
        exclude_tasks.sort_unstable();
        let is_open = filter.kinds.is_empty()
            && filter.task.is_none()
            && filter.agent.is_none()
            && filter.since.is_none()
            && exclude_tasks.is_empty();
        Self { filter, exclude_tasks, is_open }
    }

    /// Whether every record passes, so that none need be looked at.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(crate) fn admits(&self, record: &MemoryRecord) -> bool {
        let filter = self.filter;
        (filter.kinds.is_empty() || filter.kinds.contains(&record.kind))
            && filter.task.is_none_or(|task| record.task == Some(task))
            && filter.agent.as_ref().is_none_or(|agent| *agent == record.agent)
            && filter.since.is_none_or(|since| record.created_at >= since)
            && record.task.is_none_or(|task| self.exclude_tasks.binary_search(&task).is_err())
    }
}
