//! A data set in a scratch library: written the way memories are written, asked the way crews ask.
//!
//! **Invariant:** a scratch project never meets a project of the user: its database is its own, and in a shared vector
//! store its name is.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use crewline_memory::{
    Embedded, Embedder, Filter, Hit, Hybrid, Qdrant, Query, Reranker, VectorStore, Weights, estimate_tokens,
};
use crewline_runtime::{Library, Recalled};
use crewline_store::Store;
use crewline_types::{
    Clock, IdSource, MemoryId, MemoryMarks, MemoryRecord, MemoryType, ProjectScope, SystemClock, TaskId,
};
use tempfile::TempDir;

use super::dataset::{Memory, Question, read_lines};
use crate::{console::Console, error::Error};

/// Memories that are written at once.
const WRITE_BATCH: usize = 512;

/// Where a scratch library lives, and what it is made of.
pub(super) struct Parts<'a> {
    pub(super) embedder: Option<Embedder>,
    pub(super) qdrant: Option<Qdrant>,
    pub(super) reranker: Option<Reranker>,
    pub(super) weights: Weights,
    /// A folder that is kept; a temporary one otherwise.
    pub(super) scratch: Option<&'a Path>,
}

/// A data set that is loaded.
pub(super) struct Bench {
    pub(super) library: Library,
    pub(super) questions: Vec<Question>,
    /// Tokens of each memory of the data set.
    pub(super) tokens: HashMap<String, u64>,
    /// Which memories of the data set are one record.
    names: HashMap<MemoryId, Vec<String>>,
    scopes: BTreeMap<String, ProjectScope>,
    _dir: Option<TempDir>,
}

impl Bench {
    /// Reads both files, writes all memories and waits until every vector is made. A failure leaves nothing in a shared
    /// vector store.
    pub(super) async fn load(
        memories: &Path,
        questions: &Path,
        parts: Parts<'_>,
        console: &Console,
    ) -> Result<Self, Error> {
        let mut memories: Vec<Memory> = read_lines(memories)?;
        let questions: Vec<Question> = read_lines(questions)?;
        // Stable: memories without a number keep their place in the file.
        memories.sort_by_key(|memory| memory.seq.unwrap_or(u64::MAX));
        let (dir, path) = folder(parts.scratch)?;
        let store = Store::open(&format!("sqlite:{}", path.join("eval.db").display())).await?;
        let index = Hybrid::new(Embedded::with_weights(parts.weights), parts.qdrant).reranked(parts.reranker);
        let is_shared = index.remote().is_some();
        let library = Library::new(store, index, parts.embedder, Arc::new(SystemClock));
        let mut bench = Self {
            library,
            questions,
            tokens: HashMap::new(),
            names: HashMap::new(),
            scopes: BTreeMap::new(),
            _dir: dir,
        };
        let records = bench.records(&memories, is_shared)?;
        console.note(&format!("{} memories of {} projects", records.len(), bench.scopes.len()));
        let filled = bench.fill(&records, console).await;
        if filled.is_err()
            && let Err(error) = bench.clean_up().await
        {
            console.warn(&format!("what was loaded before it failed may still be in the vector store: {error}"));
        }
        filled.map(|()| bench)
    }

    async fn fill(&self, records: &[MemoryRecord], console: &Console) -> Result<(), Error> {
        for batch in records.chunks(WRITE_BATCH) {
            self.library.add(batch.to_vec()).await?;
        }
        let mut carried = 0;
        loop {
            let drained = self.library.drain().await?;
            let before = carried / 1_024;
            carried += drained.carried;
            if carried / 1_024 > before {
                console.note(&format!("{carried} vectors"));
            }
            if !drained.has_more {
                break;
            }
        }
        for scope in self.scopes.values() {
            self.library.load(scope).await?;
        }
        Ok(())
    }

    fn records(&mut self, memories: &[Memory], is_shared: bool) -> Result<Vec<MemoryRecord>, Error> {
        // The same names in the same order get the same ids, so a kept scratch folder is met again.
        let mut ids = IdSource::seeded(1);
        let mut tasks: HashMap<(&str, &str), TaskId> = HashMap::new();
        let mut seen = HashSet::new();
        let now = SystemClock.now();
        let mut records = Vec::with_capacity(memories.len());
        for (at, memory) in (0_i64..).zip(memories) {
            if !seen.insert(&memory.id) {
                return Err(Error::Usage {
                    message: format!("memory `{}` is there twice", memory.id),
                    hint: "give every memory an id of its own",
                });
            }
            let scope = self.scopes.entry(memory.project.clone()).or_insert_with(|| {
                let unique = if is_shared { format!("eval-{}-", std::process::id()) } else { String::new() };
                ProjectScope::of(&format!("{unique}{}", memory.project))
            });
            let task = memory
                .task
                .as_deref()
                .map(|task| *tasks.entry((&memory.project, task)).or_insert_with(|| TaskId::new(&mut ids)));
            let kind = MemoryType::from(memory.kind.as_deref().unwrap_or("raw_interaction"));
            let created_at = memory.created_at.as_deref().and_then(|text| text.parse().ok());
            let id = MemoryId::of(scope.project(), task, kind.as_str(), &memory.text);
            self.names.entry(id).or_default().push(memory.id.clone());
            let tokens = memory.tokens.unwrap_or_else(|| estimate_tokens(&memory.text) as u64);
            self.tokens.insert(memory.id.clone(), tokens);
            records.push(MemoryRecord {
                id,
                project: scope.project().into(),
                run: None,
                task,
                kind,
                agent: memory.agent.as_deref().unwrap_or("user").into(),
                // Without a time, the order of the file is the order of time.
                created_at: created_at.unwrap_or(crewline_types::Timestamp(now.0.saturating_add(at))),
                text: memory.text.as_str().into(),
                source_ids: Vec::new(),
                marks: MemoryMarks::default(),
            });
        }
        Ok(records)
    }

    /// Asks one question; an unknown project has no memories.
    pub(super) async fn ask(&self, question: &Question, limit: usize) -> Result<Recalled, Error> {
        let Some(scope) = self.scopes.get(&question.project) else { return Ok(Recalled::default()) };
        Ok(self.library.recall(scope, query(question, None, limit)).await?)
    }

    /// Asks with a vector that was made before, and other weights.
    pub(super) fn rank(
        &self,
        question: &Question,
        vector: Option<&[f32]>,
        weights: Weights,
        limit: usize,
    ) -> Vec<String> {
        let Some(scope) = self.scopes.get(&question.project) else { return Vec::new() };
        let index = self.library.index().local().weighed(weights);
        self.ids(&index.search(scope, &query(question, vector, limit)), limit)
    }

    /// The data set's ids of hits, best first.
    pub(super) fn ids(&self, hits: &[Hit], limit: usize) -> Vec<String> {
        let names = hits.iter().filter_map(|hit| self.names.get(&hit.record.id)).flatten();
        names.take(limit).cloned().collect()
    }

    /// Takes what was written out of a shared vector store.
    pub(super) async fn clean_up(&self) -> Result<(), Error> {
        if let Some(remote) = self.library.index().remote() {
            for scope in self.scopes.values() {
                remote.reset(scope).await?;
            }
        }
        Ok(())
    }
}

fn query(question: &Question, vector: Option<&[f32]>, limit: usize) -> Query {
    Query { text: question.text.clone(), vector: vector.map(<[f32]>::to_vec), filter: Filter::default(), limit }
}

fn folder(scratch: Option<&Path>) -> Result<(Option<TempDir>, PathBuf), Error> {
    let failed = |path: &Path, source| Error::Write { path: path.to_owned(), source };
    if let Some(path) = scratch {
        std::fs::create_dir_all(path).map_err(|source| failed(path, source))?;
        return Ok((None, path.to_owned()));
    }
    let dir = tempfile::tempdir().map_err(|source| failed(&std::env::temp_dir(), source))?;
    let path = dir.path().to_owned();
    Ok((Some(dir), path))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crewline_memory::QdrantOptions;
    use crewline_testkit::{Illness, QdrantServer};
    use serde_json::json;

    use super::*;

    const WORDS: [&str; 12] = [
        "cache", "broker", "queue", "index", "parser", "token", "graph", "budget", "lease", "shard", "vector", "merge",
    ];

    /// A direction that follows from the words of a text.
    fn embedder() -> Embedder {
        Embedder::of("bench", WORDS.len(), |text| {
            Ok(WORDS.iter().map(|word| 0.1 + text.matches(word).count() as f32).collect())
        })
    }

    fn write(folder: &Path) -> [PathBuf; 2] {
        let mut random = fastrand::Rng::with_seed(5);
        let mut some =
            |count: usize| (0..count).map(|_| WORDS[random.usize(..WORDS.len())]).collect::<Vec<_>>().join(" ");
        let memories: Vec<String> = (0..120)
            .map(|n| {
                json!({"id": format!("m{n}"), "project": (["one", "two"][n % 2]), "task": format!("t{}", n / 8), "seq": n,
                       "created_at": format!("2026-01-01T00:{:02}:{:02}Z", n / 60, n % 60), "text": some(6)})
                .to_string()
            })
            .collect();
        let questions: Vec<String> = (0..20)
            .map(|n| json!({"id": format!("q{n}"), "project": (["one", "two"][n % 2]), "text": some(3)}).to_string())
            .collect();
        let paths = [folder.join("memories.jsonl"), folder.join("questions.jsonl")];
        std::fs::write(&paths[0], memories.join("\n")).unwrap();
        std::fs::write(&paths[1], questions.join("\n")).unwrap();
        paths
    }

    /// What every question finds.
    async fn answers(
        [memories, questions]: &[PathBuf; 2],
        qdrant: Option<Qdrant>,
        reranker: Option<Reranker>,
    ) -> (Vec<Vec<String>>, Bench) {
        let is_reranked = reranker.is_some();
        let parts = Parts { embedder: Some(embedder()), qdrant, reranker, weights: Weights::default(), scratch: None };
        let bench = Bench::load(memories, questions, parts, &Console::fallback()).await.unwrap();
        let mut found = Vec::new();
        for question in &bench.questions {
            let recalled = bench.ask(question, 10).await.unwrap();
            assert!(recalled.hits.iter().any(|hit| hit.why.dense.is_some()), "{question:?}: by words alone");
            assert_eq!(recalled.reading.is_some_and(|reading| reading.read == 32), is_reranked);
            found.push(bench.ids(&recalled.hits, 10));
        }
        (found, bench)
    }

    #[tokio::test]
    async fn qdrant_gives_the_run_that_the_database_gives() {
        let folder = tempfile::tempdir().unwrap();
        let paths = write(folder.path());
        let server = QdrantServer::start().await.unwrap();
        let qdrant = || {
            let options =
                QdrantOptions { url: server.url(), api_key: None, model: "bench".into(), dimensions: WORDS.len() };
            Some(Qdrant::new(options).unwrap())
        };
        let (own, _bench) = answers(&paths, None, None).await;
        let (shared, bench) = answers(&paths, qdrant(), None).await;
        assert_eq!(own, shared);
        assert!(own.iter().all(|ids| ids.len() == 10));
        assert_eq!(server.points().len(), 120, "every vector is there");
        bench.clean_up().await.unwrap();
        // What reads the best again does not see where the vectors are.
        let reranker = || {
            let patient = std::time::Duration::from_mins(1);
            Some(Reranker::of("by length", |_, text| Ok(text.len() as f32)).patient_for(patient))
        };
        let (reranked, _bench) = answers(&paths, None, reranker()).await;
        let (shared, bench) = answers(&paths, qdrant(), reranker()).await;
        assert_eq!(reranked, shared);
        assert_ne!(reranked, own);
        bench.clean_up().await.unwrap();
        assert_eq!(server.points().len(), 0, "nothing stays in a server that others use");
        server.set(Illness::Down);
        let parts = Parts {
            embedder: Some(embedder()),
            qdrant: qdrant(),
            reranker: None,
            weights: Weights::default(),
            scratch: None,
        };
        let loaded = Bench::load(&paths[0], &paths[1], parts, &Console::fallback()).await;
        assert!(loaded.is_err(), "figures of a server that is down would be those of words alone");
    }

    #[tokio::test]
    async fn a_load_that_fails_leaves_nothing_in_a_server() {
        let folder = tempfile::tempdir().unwrap();
        let [memories, questions] = write(folder.path());
        let server = Arc::new(QdrantServer::start().await.unwrap());
        let options =
            QdrantOptions { url: server.url(), api_key: None, model: "bench".into(), dimensions: WORDS.len() };
        // The first batch of vectors gets there.
        let (made, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let embedder = {
            let (most, server) = (Arc::clone(&most), Arc::clone(&server));
            Embedder::of("bench", WORDS.len(), move |_| {
                most.fetch_max(server.points().len(), Ordering::Relaxed);
                if made.fetch_add(1, Ordering::Relaxed) < 100 {
                    return Ok(vec![1.0; WORDS.len()]);
                }
                Err(crewline_memory::Error::Stopped)
            })
        };
        let qdrant = Some(Qdrant::new(options).unwrap());
        let parts =
            Parts { embedder: Some(embedder), qdrant, reranker: None, weights: Weights::default(), scratch: None };
        assert!(Bench::load(&memories, &questions, parts, &Console::fallback()).await.is_err());
        assert_eq!((most.load(Ordering::Relaxed), server.points().len()), (64, 0));
    }
}
