//! A remote store's vectors and the local words, ranked as one, and the best of them read again.
//!
//! The local index of the project puts its candidates forward, the remote store adds its own, by vector and by words, and
//! tells the similarity of all in one round trip. Words are scored and both are fused here, exactly as without a remote
//! store: its IDF counts the points of all projects, and those that are deleted but not yet swept. A reranker, if there is
//! one, then reads the best, wherever their vectors are.
//!
//! **Invariant:** a remote store that fails, or whose collection is of another model, never fails a recall: the answer
//! comes from the local index alone.
//! **Invariant:** a reranker that fails or is late never fails a recall: what it has not read keeps its place.
//! **Invariant:** what the local index of the project does not hold is never an answer.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crewline_types::{MemoryId, ProjectScope};
use futures::{FutureExt, future::BoxFuture};

use crate::{
    Embedded, Error, Hit, Point, Qdrant, Query, Reranker, VectorStore, metrics, project::CANDIDATES, qdrant::Similar,
    ranking::Ranking, reranker::Scored,
};

/// After a failure the remote store is left alone for this long, so that an outage does not slow every recall.
const PAUSE: Duration = Duration::from_secs(5);

/// The local index, a remote store for the vectors if there is one, and a reranker if there is one. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Hybrid {
    local: Embedded,
    remote: Option<Qdrant>,
    reranker: Option<Reranker>,
    /// Whether a failure of the reranker was told.
    is_told: Arc<AtomicBool>,
    /// When the remote store may be asked again, after it failed.
    paused_until: Arc<Mutex<Option<Instant>>>,
}

/// What a question has found, before a reranker has read the best of it.
#[derive(Debug)]
pub struct Found {
    ranking: Ranking,
    /// What the remote store puts forward that the local index does not hold: somebody else has remembered it, or the
    /// database has let go of it.
    pub strangers: Vec<MemoryId>,
}

/// What a question has found.
#[derive(Debug)]
pub struct Answer {
    /// Best first.
    pub hits: Vec<Hit>,
    /// What the reranker did; none without one.
    pub reading: Option<Reading>,
}

/// What a reranker did for a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Memories it was to read.
    pub wanted: usize,
    /// Those that it has read in time.
    pub read: usize,
    /// How long it was waited for.
    pub elapsed: Duration,
}

impl Hybrid {
    /// Puts the two together. Without `remote`, vectors are searched where the words are.
    pub fn new(local: Embedded, remote: Option<Qdrant>) -> Self {
        Self { local, remote, reranker: None, is_told: Arc::default(), paused_until: Arc::default() }
    }

    /// The same with a reranker.
    #[must_use]
    pub fn reranked(self, reranker: Option<Reranker>) -> Self {
        Self { reranker, ..self }
    }

    /// What reads the best of an answer again.
    pub fn reranker(&self) -> Option<&Reranker> {
        self.reranker.as_ref()
    }

    /// The local index: whoever owns the database loads projects into it.
    pub fn local(&self) -> &Embedded {
        &self.local
    }

    /// The remote store.
    pub fn remote(&self) -> Option<&Qdrant> {
        self.remote.as_ref()
    }

    /// What the question finds; [`Self::finish`] makes hits of it.
    pub async fn find(&self, scope: &ProjectScope, query: &Query) -> Result<Found, Error> {
        let read = self.reading().map_or(0, Reranker::read);
        if self.remote.is_none() {
            self.local.check_dimensions(scope, query)?;
        }
        let (dense, strangers) = match self.similar(scope, query).await? {
            Some(similar) => {
                let near = similar.dense.iter().map(|(id, _)| *id);
                let strangers = self.local.unknown(scope, near.chain(similar.by_words));
                (Some(similar.dense), strangers)
            }
            None => (None, Vec::new()),
        };
        Ok(Found { ranking: self.local.rank_aside(scope, query, dense, read).await?, strangers })
    }

    /// The best hits of what was found, after the reranker has read it, if there is one.
    pub async fn finish(&self, query: &Query, found: Found) -> Answer {
        let (scores, reading) = match self.reading() {
            Some(reranker) => self.read(reranker, query, found.ranking.texts(reranker.read())).await,
            None => (Vec::new(), None),
        };
        Answer { hits: found.ranking.finish(&scores, self.local.weights(), query.limit), reading }
    }

    async fn read(&self, reranker: &Reranker, query: &Query, texts: Vec<Arc<str>>) -> (Vec<f32>, Option<Reading>) {
        let wanted = texts.len();
        // One alone is the first in any order.
        if wanted < 2 {
            return (Vec::new(), None);
        }
        let begun = Instant::now();
        let Scored { scores, failure } = reranker.score(&query.text, texts).await;
        let elapsed = begun.elapsed();
        metrics::reranked(elapsed);
        if let Some(error) = failure {
            self.tell(&error);
        }
        let reading = Reading { wanted, read: scores.len(), elapsed };
        (scores, Some(reading))
    }

    /// The reranker, when what it says counts.
    fn reading(&self) -> Option<&Reranker> {
        self.reranker.as_ref().filter(|_| self.local.weights().rerank > 0.0)
    }

    /// Once in the log, always in the metrics: under load every question may be late.
    fn tell(&self, error: &Error) {
        metrics::rerank_failed(error);
        if self.is_told.swap(true, Ordering::Relaxed) {
            tracing::debug!(error.code = error.code(), %error, "memories are not all reranked");
        } else {
            tracing::warn!(error.code = error.code(), %error, "memories are not all reranked; said once");
        }
    }

    async fn similar(&self, scope: &ProjectScope, query: &Query) -> Result<Option<Similar>, Error> {
        let (Some(remote), Some(vector)) = (&self.remote, &query.vector) else { return Ok(None) };
        // No outage: another model made the question's vector, and no pause mends that.
        remote.check_dimensions(vector)?;
        if query.limit == 0 || self.is_paused() {
            return Ok(None);
        }
        let known = self.local.candidates_aside(scope, query).await?;
        let depth = query.limit.max(CANDIDATES);
        match remote.similar(scope, vector, query, depth, &known).await {
            Ok(similar) => {
                self.resume();
                Ok(Some(similar))
            }
            Err(error) => {
                self.pause(&error);
                Ok(None)
            }
        }
    }

    fn is_paused(&self) -> bool {
        self.paused_until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }

    fn pause(&self, error: &Error) {
        let mut paused = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        if paused.is_none() {
            tracing::warn!(error.code = error.code(), %error, "recall goes on without the vector store");
        }
        *paused = Some(Instant::now() + PAUSE);
    }

    fn resume(&self) {
        if self.paused_until.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            tracing::info!("the vector store answers again");
        }
    }
}

impl VectorStore for Hybrid {
    /// The vectors go to the remote store if there is one, and are not kept here as well.
    fn upsert<'a>(&'a self, scope: &'a ProjectScope, mut points: Vec<Point>) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            if let Some(remote) = &self.remote {
                remote.upsert(scope, points.clone()).await?;
                for point in &mut points {
                    point.vector = None;
                }
            }
            self.local.upsert(scope, points).await
        }
        .boxed()
    }

    fn search<'a>(&'a self, scope: &'a ProjectScope, query: &'a Query) -> BoxFuture<'a, Result<Vec<Hit>, Error>> {
        async move {
            let found = self.find(scope, query).await?;
            Ok(self.finish(query, found).await.hits)
        }
        .boxed()
    }

    fn forget<'a>(&'a self, scope: &'a ProjectScope, ids: &'a [MemoryId]) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            self.local.forget(scope, ids).await?;
            match &self.remote {
                Some(remote) => remote.forget(scope, ids).await,
                None => Ok(()),
            }
        }
        .boxed()
    }

    fn reset<'a>(&'a self, scope: &'a ProjectScope) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            self.local.reset(scope).await?;
            match &self.remote {
                Some(remote) => remote.reset(scope).await,
                None => Ok(()),
            }
        }
        .boxed()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), Error>> {
        match &self.remote {
            Some(remote) => remote.check(),
            None => self.local.check(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{QdrantOptions, conformance::record};

    #[tokio::test]
    async fn an_outage_leaves_the_words() {
        // A port that was free a moment ago and that nobody listens on.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let remote = Qdrant::new(QdrantOptions {
            url: format!("http://127.0.0.1:{port}"),
            api_key: None,
            model: "test".to_owned(),
            dimensions: 2,
        })
        .unwrap();
        let hybrid = Hybrid::new(Embedded::new(), Some(remote.clone()));
        let scope = ProjectScope::of("p");
        hybrid.local().insert(&scope, record("p", "red fox", 1)).unwrap();
        let query = Query { text: "fox".to_owned(), vector: Some(vec![1.0, 0.0]), limit: 3, ..Query::default() };
        for _ in 0..2 {
            let hits = hybrid.search(&scope, &query).await.unwrap();
            assert_eq!(hits.len(), 1);
            assert!(hybrid.is_paused());
        }
        let error = remote.check().await.unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), ("memory.unavailable", true), "{error}");
    }
}
