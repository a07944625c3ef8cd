//! A project on its way from the database into the index: its memories, its words and its vectors are put together aside, so
//! that nobody waits for them, and are taken in at once.
//!
//! **Invariant:** what comes to the index while this goes on is in it afterwards, and what is forgotten meanwhile is not.
//! **Invariant:** an opening that is given up leaves nothing behind.

use std::{
    fmt,
    sync::{Arc, PoisonError},
};

use crewline_types::{MemoryRecord, ProjectScope};
use tokio::sync::OwnedMutexGuard;

use crate::{
    Embedded, Error, Segment, Vectors,
    embedded::Shared,
    project::{Meanwhile, Project},
    store::belongs,
};

/// A project that is being read from the database, by one at a time.
pub struct Opening {
    index: Embedded,
    scope: ProjectScope,
    /// Where it goes to.
    shared: Arc<Shared>,
    project: Project,
    /// The row of each memory, by slot; they grow.
    rows: Vec<u64>,
    /// Whether the words of a memory are here, by slot.
    has_words: Vec<bool>,
    _turn: OwnedMutexGuard<()>,
}

impl fmt::Debug for Opening {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Opening").field("scope", &self.scope).field("rows", &self.rows.len()).finish_non_exhaustive()
    }
}

impl Opening {
    /// Begins; none when the project is here.
    pub(crate) fn new(
        index: &Embedded,
        scope: &ProjectScope,
        shared: Arc<Shared>,
        turn: OwnedMutexGuard<()>,
    ) -> Option<Self> {
        {
            let mut project = shared.project.write().unwrap_or_else(PoisonError::into_inner);
            if project.is_loaded {
                return None;
            }
            project.meanwhile = Some(Meanwhile::default());
        }
        Some(Self {
            index: index.clone(),
            scope: scope.clone(),
            shared,
            project: Project::new(scope.project()),
            rows: Vec::new(),
            has_words: Vec::new(),
            _turn: turn,
        })
    }

    /// The name of the project.
    pub fn project(&self) -> &str {
        self.scope.project()
    }

    /// Adds the memory in `row`, which is greater than all before. Takes a microsecond.
    pub fn add(&mut self, row: u64, record: MemoryRecord) -> Result<(), Error> {
        belongs(&self.scope, &record)?;
        if self.project.place(Arc::new(record)).is_some() {
            self.rows.push(row);
        }
        Ok(())
    }

    /// The texts of the memories behind the row `after`, up to the row `through`, each with its row.
    pub fn texts(&self, after: u64, through: u64) -> impl Iterator<Item = (u64, &str)> {
        let (first, end) =
            (self.rows.partition_point(|it| *it <= after), self.rows.partition_point(|it| *it <= through));
        (first..end).filter_map(|slot| Some((self.rows[slot], self.project.text(u32::try_from(slot).ok()?)?)))
    }

    /// Adds the words of memories that were added, from segments that do not overlap. A hundred thousand memories take
    /// some hundred milliseconds.
    pub fn add_words(&mut self, segments: &[Segment<'_>]) {
        self.has_words.resize(self.rows.len(), false);
        let slots = |segment: &Segment<'_>| {
            let rows = segment.documents().iter().map(|document| self.rows.binary_search(&document.row).ok());
            rows.map(|slot| u32::try_from(slot?).ok()).collect::<Vec<_>>()
        };
        let placed: Vec<_> = segments.iter().map(|segment| (segment, slots(segment))).collect();
        for slot in placed.iter().flat_map(|(_, slots)| slots).flatten() {
            self.has_words[*slot as usize] = true;
        }
        self.project.words.add_segments(&placed);
    }

    /// Takes all that was added into the index: words that no segment had come from the texts, which takes some 20 µs each. A
    /// vector that does not fit is left out with a warning. False when the project was dropped from the index meanwhile.
    pub fn finish(mut self, vectors: Vectors) -> bool {
        self.has_words.resize(self.rows.len(), false);
        let wordless: Vec<u32> =
            (0..).zip(&self.has_words).filter(|(_, has_words)| !**has_words).map(|(slot, _)| slot).collect();
        self.project.index_words(wordless);
        self.project.tasks.shrink();
        let rows = &self.rows;
        let (vectors, stored) = vectors.placed(|row| rows.binary_search(&row).ok()?.try_into().ok());
        self.project.vectors = vectors;
        if !self.index.holds(&self.scope, &self.shared) {
            return false;
        }
        let read = std::mem::take(&mut self.project);
        let here = self.shared.project.write().unwrap_or_else(PoisonError::into_inner).join(read);
        if stored + here > 0 {
            let (project_id, unfit) = (self.scope.project(), stored + here);
            tracing::warn!(project_id, unfit, "stored vectors are of another model");
        }
        true
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.shared.project.write().unwrap_or_else(PoisonError::into_inner).meanwhile = None;
    }
}
