//! The memory of all projects without an actor around it: what the memory actor does, and what commands do that need
//! no run.
//!
//! **Invariant:** the database holds every memory; the index and the vectors are rebuilt from it.
//! **Invariant:** a collection of vectors is made only by the drain, after the outbox is full again.
//! **Invariant:** a memory leaves the outbox only after the vector store has it, so a crash in between writes it twice
//! under one id, which is once.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crewline_memory::{Embedded, Embedder, Hit, Hybrid, Point, Purpose, Query, Reading, VectorStore};
use crewline_store::Store;
use crewline_types::{Clock, MemoryId, MemoryMarks, MemoryRecord, ProjectScope, Timestamp};

use crate::{Error, hierarchy, metrics};

/// Memories that one step of the drain carries.
pub(crate) const DRAIN_BATCH: u32 = 64;
/// Rows of one page when all memories of a project are read.
const PAGE: u32 = 1_024;

/// The memory of all projects. Cloning shares it.
#[derive(Clone)]
pub struct Library {
    store: Store,
    index: Hybrid,
    embedder: Option<Embedder>,
    clock: Arc<dyn Clock>,
    /// Whether the database knows where the vectors are.
    is_aimed: Arc<AtomicBool>,
}

impl fmt::Debug for Library {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Library").field("store", &self.store).field("index", &self.index).finish_non_exhaustive()
    }
}

/// What a recall found, and how long each part of it took.
#[derive(Debug, Clone, Default)]
pub struct Recalled {
    /// Best first.
    pub hits: Vec<Hit>,
    /// Making the question's vector; zero without an embedding model.
    pub embedding: Duration,
    /// Finding and ranking.
    pub search: Duration,
    /// What the reranker did; none without one.
    pub reading: Option<Reading>,
}

/// What one step of the drain did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drained {
    /// Memories that the vector store has now.
    pub carried: usize,
    /// Whether there may be more.
    pub has_more: bool,
}

/// What became of a memory that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// It is new.
    Added,
    /// Word for word there already.
    Known,
    /// Said before in nearly the same words: counted there.
    Repeated,
}

/// What became of memories that were offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    /// New ones.
    pub added: usize,
    /// Word for word there already.
    pub known: usize,
    /// Said before in nearly the same words: counted there.
    pub repeated: usize,
}

impl Library {
    /// Puts the parts together: the database, the index of the words with the place of the vectors, and what makes
    /// vectors.
    pub fn new(store: Store, index: Hybrid, embedder: Option<Embedder>, clock: Arc<dyn Clock>) -> Self {
        Self { store, index, embedder, clock, is_aimed: Arc::default() }
    }

    /// The database.
    pub fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The index.
    pub fn index(&self) -> &Hybrid {
        &self.index
    }

    /// What makes vectors.
    pub fn embedder(&self) -> Option<&Embedder> {
        self.embedder.as_ref()
    }

    /// Where the vectors are, as the database remembers it; none without an embedding model.
    pub fn target(&self) -> Option<String> {
        let embedder = self.embedder.as_ref()?;
        Some(match self.index.remote() {
            Some(remote) => format!("qdrant:{}", remote.place()),
            None => format!("database:{}", embedder.model()),
        })
    }

    /// The answer to a question in a loaded project. Without a vector of the question it is found by words.
    pub async fn recall(&self, scope: &ProjectScope, mut query: Query) -> Result<Recalled, Error> {
        let begun = Instant::now();
        if let Some(embedder) = &self.embedder {
            match embedder.embed(vec![query.text.as_str().into()], Purpose::Query).await {
                Ok(vectors) => query.vector = vectors.into_iter().next(),
                Err(error) => tracing::warn!(error.code = error.code(), %error, "recall by words alone"),
            }
        }
        let embedding = begun.elapsed();
        let mut found = self.index.find(scope, &query).await?;
        if self.is_bereft() {
            // Whoever drains next must know, also when this process ends now.
            self.store.redrain_all().await?;
        }
        if !found.strangers.is_empty() && self.meet(scope, &found.strangers).await? {
            found = self.index.find(scope, &query).await?;
        }
        let search = begun.elapsed().saturating_sub(embedding);
        let answer = self.index.finish(&query, found).await;
        Ok(Recalled { hits: answer.hits, embedding, search, reading: answer.reading })
    }

    /// Takes in what another process has remembered since the project was loaded. The database decides: what it does not
    /// hold is forgotten, and waits to be forgotten by the vector store. True when there is something new.
    async fn meet(&self, scope: &ProjectScope, strangers: &[MemoryId]) -> Result<bool, Error> {
        let found = self.store.memories_by_id(scope, strangers).await?;
        let (old, new): (Vec<_>, Vec<_>) =
            found.into_iter().map(|(_, record)| record).partition(hierarchy::is_old_version);
        self.index.local().leave_out(scope, &old.iter().map(|record| record.id).collect::<Vec<_>>());
        let mut is_new = false;
        for record in new {
            is_new |= self.index.local().insert(scope, record)?;
        }
        Ok(is_new)
    }

    /// Adds memories: into the database first, then into the index if their project is loaded. Says which were new.
    pub async fn add(&self, records: Vec<MemoryRecord>) -> Result<Vec<bool>, Error> {
        let is_new = self.store.add_memories(&records).await?;
        for (record, is_new) in records.into_iter().zip(&is_new) {
            let scope = ProjectScope::of(&record.project);
            if *is_new && self.index.local().is_loaded(&scope) {
                self.index.local().insert(&scope, record)?;
            }
        }
        Ok(is_new)
    }

    /// Adds memories like [`Self::add`], but counts what was said before in nearly the same words instead of keeping it
    /// twice. Loads the projects.
    pub async fn remember(&self, records: Vec<MemoryRecord>) -> Result<Kept, Error> {
        let mut kept = Kept::default();
        for record in records {
            match self.note(record).await?.1 {
                Noted::Added => kept.added += 1,
                Noted::Known => kept.known += 1,
                Noted::Repeated => kept.repeated += 1,
            }
        }
        Ok(kept)
    }

    /// The same for one memory. Says under which id it is remembered.
    pub async fn note(&self, record: MemoryRecord) -> Result<(MemoryId, Noted), Error> {
        let scope = ProjectScope::of(&record.project);
        self.load(&scope).await?;
        if let Some(twin) = self.index.local().twin(&record) {
            let mut marks = twin.marks.clone();
            marks.repeats = marks.repeats.saturating_add(1);
            self.mark(&scope, vec![(twin.id, marks)]).await?;
            return Ok((twin.id, Noted::Repeated));
        }
        let id = record.id;
        let is_new = self.add(vec![record]).await? == [true];
        Ok((id, if is_new { Noted::Added } else { Noted::Known }))
    }

    /// Lets go of those of these new memories that say again what the project remembers, in nearly the same words: they are
    /// counted on the older one. Says how many. Loads the project.
    pub async fn merge(&self, scope: &ProjectScope, records: Vec<MemoryRecord>) -> Result<usize, Error> {
        self.load(scope).await?;
        let local = self.index.local();
        let index = local.clone();
        let (records, merged) = tokio::task::spawn_blocking(move || {
            let merged = repeats(&index, &records);
            (records, merged)
        })
        .await
        .map_err(|_| Error::Actor(crate::actor::AskError::Gone))?;
        if merged.is_empty() {
            return Ok(0);
        }
        let repointed: Vec<(MemoryId, Vec<MemoryId>)> = records
            .iter()
            .filter(|it| !merged.contains_key(&it.id) && it.source_ids.iter().any(|id| merged.contains_key(id)))
            .map(|it| (it.id, it.source_ids.iter().map(|id| *merged.get(id).unwrap_or(id)).collect()))
            .collect();
        let repeats: Vec<(MemoryId, MemoryId)> = merged.into_iter().collect();
        self.store.merge_memories(scope, &repeats, &repointed).await?;
        for (goes, stays) in &repeats {
            local.remove(scope, &[*goes]);
            if let Some(record) = local.get(scope, *stays) {
                let marks = MemoryMarks { repeats: record.marks.repeats.saturating_add(1), ..record.marks.clone() };
                local.mark(scope, *stays, marks);
            }
        }
        Ok(repeats.len())
    }

    /// Sets marks of memories, and says how many were there.
    pub async fn mark(&self, scope: &ProjectScope, marks: Vec<(MemoryId, MemoryMarks)>) -> Result<u64, Error> {
        let count = self.store.mark_memories(scope, &marks).await?;
        for (id, marks) in marks {
            self.index.local().mark(scope, id, marks);
        }
        Ok(count)
    }

    /// Says that `new` takes the place of `old`. Nothing is deleted: the old one ranks lower, and what was made from it
    /// becomes stale.
    pub async fn supersede(&self, scope: &ProjectScope, old: MemoryId, new: MemoryId) -> Result<(), Error> {
        let all: Vec<MemoryRecord> = self.all(scope).await?.into_iter().map(|(_, record)| record).collect();
        let derived = hierarchy::with_derivatives(&all, &[old]);
        let mut marks = Vec::new();
        for record in all.iter().filter(|it| derived.contains(&it.id)) {
            let mut changed = record.marks.clone();
            if record.id == old {
                changed.superseded_by = Some(new);
            } else {
                changed.stale = true;
            }
            marks.push((record.id, changed));
        }
        self.mark(scope, marks).await.map(|_| ())
    }

    /// All memories of a project with their places, oldest first.
    pub async fn all(&self, scope: &ProjectScope) -> Result<Vec<(u64, MemoryRecord)>, Error> {
        let mut all = Vec::new();
        loop {
            let after = all.last().map_or(0, |(seq, _)| *seq);
            let page = self.store.memories(scope, after, PAGE).await?;
            let is_last = page.len() < PAGE as usize;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// Takes memories out for good, and says how many were there. The vector store forgets with the next drain.
    pub async fn forget(&self, scope: &ProjectScope, ids: &[MemoryId]) -> Result<u64, Error> {
        let count = self.store.forget_memories(scope, ids).await?;
        self.index.local().remove(scope, ids);
        Ok(count)
    }

    /// Whether the vector store has lost its vectors since the last drain.
    pub(crate) fn is_bereft(&self) -> bool {
        self.index.remote().is_some_and(crewline_memory::Qdrant::is_lost)
    }

    /// Carries the oldest memories of the outbox into the vector store, and takes out of it what was forgotten.
    pub async fn drain(&self) -> Result<Drained, Error> {
        let Some(embedder) = &self.embedder else { return Ok(Drained::default()) };
        self.aim().await?;
        let forgot = self.forget_remotely().await?;
        let rows = self.store.memory_outbox(DRAIN_BATCH).await?;
        self.measure().await?;
        let carried = rows.len();
        if carried == 0 {
            return Ok(Drained { carried, has_more: forgot });
        }
        let ids: Vec<MemoryId> = rows.iter().map(|(_, record)| record.id).collect();
        // What another place has kept in the database need not be made again.
        let mut known = self.store.vectors_by_id(embedder.model(), &ids).await?;
        let missing: Vec<_> =
            rows.iter().filter(|(_, it)| !known.contains_key(&it.id)).map(|(_, it)| (it.id, it.text.clone())).collect();
        let texts = missing.iter().map(|(_, text)| Arc::clone(text)).collect();
        let made = embedder.embed(texts, Purpose::Document).await?;
        known.extend(missing.into_iter().map(|(id, _)| id).zip(made));
        let mut vectors = Vec::with_capacity(carried);
        let mut by_project: HashMap<ProjectScope, Vec<Point>> = HashMap::new();
        for (_, record) in rows {
            let vector = known.get(&record.id).cloned().unwrap_or_default();
            vectors.push(vector.clone());
            let scope = ProjectScope::of(&record.project);
            by_project.entry(scope).or_default().push(Point { id: record.id, record, vector: Some(vector) });
        }
        for (scope, points) in by_project {
            match self.index.remote() {
                Some(remote) => remote.upsert(&scope, points).await?,
                // A project nobody has asked for is loaded with its vectors when somebody does.
                None if self.index.local().is_begun(&scope) => self.index.local().upsert(&scope, points).await?,
                None => {}
            }
        }
        let kept = self.index.remote().is_none().then_some(vectors.as_slice());
        self.store.memory_done(embedder.model(), &ids, kept).await?;
        Ok(Drained { carried, has_more: forgot || carried == DRAIN_BATCH as usize })
    }

    /// Fills the outbox again when the vectors are to be at another place than before, or were lost where they were.
    async fn aim(&self) -> Result<(), Error> {
        if let Some(target) = self.target().filter(|_| !self.is_aimed.load(Ordering::Acquire)) {
            if self.store.memory_target(&target).await? {
                tracing::info!("the vectors have a new place; every memory is carried there");
            }
            self.is_aimed.store(true, Ordering::Release);
        }
        if let Some(remote) = self.index.remote()
            && remote.is_missing().await?
        {
            // The outbox first: a crash in between fills it once more. The other way round it would leave an empty collection
            // that nobody fills.
            self.store.redrain_all().await?;
            remote.prepare().await?;
        }
        Ok(())
    }

    /// True when there may be more to forget.
    async fn forget_remotely(&self) -> Result<bool, Error> {
        let forgotten = self.store.memory_forgotten(DRAIN_BATCH).await?;
        if forgotten.is_empty() {
            return Ok(false);
        }
        if let Some(remote) = self.index.remote() {
            let mut by_project: HashMap<&ProjectScope, Vec<MemoryId>> = HashMap::new();
            for (scope, id) in &forgotten {
                by_project.entry(scope).or_default().push(*id);
            }
            for (scope, ids) in by_project {
                remote.forget(scope, &ids).await?;
            }
        }
        self.store.memory_forgotten_done(&forgotten).await?;
        Ok(forgotten.len() == DRAIN_BATCH as usize)
    }

    async fn measure(&self) -> Result<(), Error> {
        metrics::outbox_depth(self.store.memory_outbox_depth().await?);
        let oldest = self.store.memory_outbox_oldest().await?;
        metrics::outbox_oldest(oldest.map_or(Duration::ZERO, |at| self.clock.now().since(at)));
        Ok(())
    }
}

/// Those of these new memories that say again what is known, each with what said it first.
fn repeats(index: &Embedded, records: &[MemoryRecord]) -> HashMap<MemoryId, MemoryId> {
    let mut merged: HashMap<MemoryId, MemoryId> = HashMap::new();
    for record in records.iter().filter(|record| !hierarchy::is_version(record)) {
        // Of two new ones that say the same, the later goes.
        let is_older = |twin: &MemoryRecord| {
            (twin.created_at, twin.id) < (record.created_at, record.id) && !merged.contains_key(&twin.id)
        };
        if let Some(twin) = index.twin(record).filter(|twin| is_older(twin)) {
            merged.insert(record.id, twin.id);
        }
    }
    merged
}
