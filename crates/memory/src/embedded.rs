//! The store inside the process: an exact index of each project, built from the database when it is first asked.
//!
//! **Invariant:** indexes are kept by project, so no question can reach the memories of another.
//! **Invariant:** the index holds nothing that the database does not; dropping it loses nothing.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use crewline_types::{MemoryId, MemoryMarks, MemoryRecord, ProjectScope};
use futures::{FutureExt, future::BoxFuture};

use tokio::{sync::Mutex, time::timeout};

use crate::{
    Error, Hit, Opening, Point, Query, Rules, VectorStore, Weights, metrics, project::Project, ranking::Ranking,
    store::belongs,
};

/// Work that takes longer than this goes to a thread that may block, in microseconds.
const INLINE_MICROS_MAX: usize = 500;
/// What adding one memory costs, in microseconds, rounded up.
const INSERT_MICROS: usize = 20;

/// How long somebody waits who wants to open a project that is being opened.
const TURN_LIMIT: Duration = Duration::from_mins(1);

/// A project, and whose turn it is to open it.
pub(crate) struct Shared {
    pub(crate) project: RwLock<Project>,
    turn: Arc<Mutex<()>>,
}

/// The indexes of one database. Cloning shares them.
///
/// Calls without `async` answer at once: tens of microseconds for a project of a thousand memories, milliseconds for
/// a hundred thousand with vectors. The calls of [`VectorStore`] leave the async threads when it takes long.
#[derive(Clone, Default)]
pub struct Embedded {
    projects: Arc<RwLock<HashMap<Arc<str>, Arc<Shared>>>>,
    weights: Weights,
    rules: Arc<Rules>,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Embedded").finish_non_exhaustive()
    }
}

impl Embedded {
    /// No project is loaded yet; the shipped weights rank.
    pub fn new() -> Self {
        Self::default()
    }

    /// No project is loaded yet; `weights` rank.
    pub fn with_weights(weights: Weights) -> Self {
        Self { weights, ..Self::default() }
    }

    /// The same projects, with other rules of what is kept.
    pub fn ruled(&self, rules: Rules) -> Self {
        Self { rules: Arc::new(rules), ..self.clone() }
    }

    /// What is kept, and what is not.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The same projects, ranked by other weights.
    pub fn weighed(&self, weights: Weights) -> Self {
        Self { weights, ..self.clone() }
    }

    /// Whether all of the project is here.
    pub fn is_loaded(&self, scope: &ProjectScope) -> bool {
        self.with(scope, |project| project.is_loaded).unwrap_or(false)
    }

    /// Whether anything of the project is here, or is on its way here: whoever makes vectors gives them to it.
    pub fn is_begun(&self, scope: &ProjectScope) -> bool {
        self.project(scope).is_some()
    }

    /// Begins to open a project, whose memories come from the database; none when all of it is here. From now on whoever makes
    /// vectors gives them to it. Waits while another opens it.
    pub async fn open(&self, scope: &ProjectScope) -> Result<Option<Opening>, Error> {
        let shared = self.shared(scope);
        let turn = Arc::clone(&shared.turn);
        let turn = match Arc::clone(&turn).try_lock_owned() {
            Ok(turn) => turn,
            Err(_) => timeout(TURN_LIMIT, turn.lock_owned())
                .await
                .map_err(|_| Error::Opening { project: scope.project().to_owned(), limit: TURN_LIMIT })?,
        };
        Ok(Opening::new(self, scope, shared, turn))
    }

    /// Drops the project's index; the next [`Self::open`] builds it again.
    pub fn unload(&self, scope: &ProjectScope) {
        self.projects.write().unwrap_or_else(PoisonError::into_inner).remove(scope.project());
    }

    /// Adds a memory, which can be found by its words at once. False when it is there already.
    pub fn insert(&self, scope: &ProjectScope, record: impl Into<Arc<MemoryRecord>>) -> Result<bool, Error> {
        let record = record.into();
        belongs(scope, &record)?;
        let is_new = self.with_mut(scope, |project| project.insert(record));
        if is_new {
            metrics::written(1);
        }
        Ok(is_new)
    }

    /// Sets vectors of memories that are here already, and says how many were. Stops at the first that does not fit.
    pub fn set_vectors(&self, scope: &ProjectScope, vectors: &[(MemoryId, Vec<f32>)]) -> Result<usize, Error> {
        self.with_mut(scope, |project| {
            let mut set = 0;
            for (id, vector) in vectors {
                set += usize::from(project.set_vector(*id, vector.clone())?);
            }
            Ok(set)
        })
    }

    /// The best hits, best first. A query vector of another model is ignored.
    pub fn search(&self, scope: &ProjectScope, query: &Query) -> Vec<Hit> {
        self.search_with(scope, query, None)
    }

    /// Like [`Self::search`], with similarities that another store found instead of the vectors here. Ids that are
    /// unknown here, of another project or filtered out are dropped.
    pub fn search_with(&self, scope: &ProjectScope, query: &Query, similar: Option<&[(MemoryId, f32)]>) -> Vec<Hit> {
        self.rank(scope, query, similar, 0).finish(&[], &self.weights, query.limit)
    }

    /// The best memories before a reranker has read `read` of them; [`Ranking::finish`] makes hits of them.
    fn rank(&self, scope: &ProjectScope, query: &Query, similar: Option<&[(MemoryId, f32)]>, read: usize) -> Ranking {
        let begun = Instant::now();
        let search = |project: &Project| project.search(query, similar, &self.weights, read);
        let ranking = self.with(scope, search).unwrap_or_default();
        metrics::queried(begun.elapsed());
        ranking
    }

    /// What each signal counts.
    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Refuses a question whose vector is of another model than those here.
    pub(crate) fn check_dimensions(&self, scope: &ProjectScope, query: &Query) -> Result<(), Error> {
        let Some(vector) = &query.vector else { return Ok(()) };
        self.with(scope, |project| project.check_dimensions(vector.len())).unwrap_or(Ok(()))
    }

    /// The memories that the words of `query` put forward, best first, for a store that knows the vectors.
    pub fn candidates(&self, scope: &ProjectScope, query: &Query) -> Vec<MemoryId> {
        self.with(scope, |project| project.candidates(query)).unwrap_or_default()
    }

    /// One memory.
    pub fn get(&self, scope: &ProjectScope, id: MemoryId) -> Option<Arc<MemoryRecord>> {
        self.with(scope, |project| project.get(id).cloned()).flatten()
    }

    /// Those of `ids` that are not here and were not left out, each once.
    pub(crate) fn unknown(&self, scope: &ProjectScope, ids: impl Iterator<Item = MemoryId>) -> Vec<MemoryId> {
        let all: BTreeSet<MemoryId> = ids.collect();
        let unknown = |project: &Project| all.iter().copied().filter(|id| !project.knows(*id)).collect();
        self.with(scope, unknown).unwrap_or_default()
    }

    /// Says of memories that they are not to be found here, though a remote store may hold them.
    pub fn leave_out(&self, scope: &ProjectScope, ids: &[MemoryId]) {
        if !ids.is_empty() {
            self.with_mut(scope, |project| project.leave_out(ids));
        }
    }

    /// A memory of the same type that says the same as `record` in nearly the same words.
    pub fn twin(&self, record: &MemoryRecord) -> Option<Arc<MemoryRecord>> {
        self.with(&ProjectScope::of(&record.project), |project| project.twin(record, &self.rules).cloned()).flatten()
    }

    /// Memories of the project that are loaded.
    pub fn count(&self, scope: &ProjectScope) -> usize {
        self.with(scope, Project::len).unwrap_or(0)
    }

    /// Sets the marks of a memory; false when it is not here.
    pub fn mark(&self, scope: &ProjectScope, id: MemoryId, marks: MemoryMarks) -> bool {
        self.project(scope).is_some() && self.with_mut(scope, |project| project.mark(id, marks))
    }

    /// Takes memories out, and says how many were there.
    pub fn remove(&self, scope: &ProjectScope, ids: &[MemoryId]) -> usize {
        if self.project(scope).is_none() {
            return 0;
        }
        self.with_mut(scope, |project| ids.iter().filter(|id| project.remove(**id)).count())
    }

    /// Whether `shared` is the project that questions are asked of.
    pub(crate) fn holds(&self, scope: &ProjectScope, shared: &Arc<Shared>) -> bool {
        self.project(scope).is_some_and(|it| Arc::ptr_eq(&it, shared))
    }

    fn project(&self, scope: &ProjectScope) -> Option<Arc<Shared>> {
        self.projects.read().unwrap_or_else(PoisonError::into_inner).get(scope.project()).cloned()
    }

    /// The project, which is made if there is none.
    fn shared(&self, scope: &ProjectScope) -> Arc<Shared> {
        self.project(scope).unwrap_or_else(|| {
            let mut projects = self.projects.write().unwrap_or_else(PoisonError::into_inner);
            let name = scope.project();
            let new = || Arc::new(Shared { project: RwLock::new(Project::new(name)), turn: Arc::default() });
            Arc::clone(projects.entry(name.into()).or_insert_with(new))
        })
    }

    fn with<T>(&self, scope: &ProjectScope, read: impl FnOnce(&Project) -> T) -> Option<T> {
        let shared = self.project(scope)?;
        let project = shared.project.read().unwrap_or_else(PoisonError::into_inner);
        Some(read(&project))
    }

    fn with_mut<T>(&self, scope: &ProjectScope, write: impl FnOnce(&mut Project) -> T) -> T {
        let shared = self.shared(scope);
        let mut project = shared.project.write().unwrap_or_else(PoisonError::into_inner);
        write(&mut project)
    }

    /// [`Self::rank`], away from the async threads when it takes long.
    pub(crate) async fn rank_aside(
        &self,
        scope: &ProjectScope,
        query: &Query,
        similar: Option<Vec<(MemoryId, f32)>>,
        read: usize,
    ) -> Result<Ranking, Error> {
        let micros = self.with(scope, Project::query_micros).unwrap_or(0);
        if micros <= INLINE_MICROS_MAX {
            return Ok(self.rank(scope, query, similar.as_deref(), read));
        }
        let (this, scope, query) = (self.clone(), scope.clone(), query.clone());
        aside(move || this.rank(&scope, &query, similar.as_deref(), read)).await
    }

    /// [`Self::candidates`], away from the async threads when it takes long.
    pub(crate) async fn candidates_aside(&self, scope: &ProjectScope, query: &Query) -> Result<Vec<MemoryId>, Error> {
        let micros = self.with(scope, Project::query_micros).unwrap_or(0);
        if micros <= INLINE_MICROS_MAX {
            return Ok(self.candidates(scope, query));
        }
        let (this, scope, query) = (self.clone(), scope.clone(), query.clone());
        aside(move || this.candidates(&scope, &query)).await
    }

    fn upsert_all(&self, scope: &ProjectScope, points: Vec<Point>) -> Result<(), Error> {
        points.iter().try_for_each(|point| belongs(scope, &point.record))?;
        let written = self.with_mut(scope, |project| {
            let mut written = 0;
            for point in points {
                let id = point.record.id;
                written += usize::from(project.insert(Arc::new(point.record)));
                if let Some(vector) = point.vector {
                    project.set_vector(id, vector)?;
                }
            }
            Ok::<_, Error>(written)
        })?;
        metrics::written(written);
        Ok(())
    }
}

impl VectorStore for Embedded {
    fn upsert<'a>(&'a self, scope: &'a ProjectScope, points: Vec<Point>) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            if points.len() * INSERT_MICROS <= INLINE_MICROS_MAX {
                return self.upsert_all(scope, points);
            }
            let (this, scope) = (self.clone(), scope.clone());
            aside(move || this.upsert_all(&scope, points)).await?
        }
        .boxed()
    }

    fn search<'a>(&'a self, scope: &'a ProjectScope, query: &'a Query) -> BoxFuture<'a, Result<Vec<Hit>, Error>> {
        async move {
            self.check_dimensions(scope, query)?;
            let ranking = self.rank_aside(scope, query, None, 0).await?;
            Ok(ranking.finish(&[], &self.weights, query.limit))
        }
        .boxed()
    }

    fn forget<'a>(&'a self, scope: &'a ProjectScope, ids: &'a [MemoryId]) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            if ids.len() * INSERT_MICROS <= INLINE_MICROS_MAX {
                self.remove(scope, ids);
                return Ok(());
            }
            let (this, scope, ids) = (self.clone(), scope.clone(), ids.to_vec());
            aside(move || this.remove(&scope, &ids)).await.map(|_| ())
        }
        .boxed()
    }

    fn reset<'a>(&'a self, scope: &'a ProjectScope) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            self.unload(scope);
            Ok(())
        }
        .boxed()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), Error>> {
        async { Ok(()) }.boxed()
    }
}

/// Runs `work` on a thread that may block; it fails only when the runtime is shutting down.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Stopped)
}
