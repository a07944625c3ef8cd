//! Texts to vectors: all-MiniLM-L6-v2 on ONNX Runtime, both found in the data directory at run time.
//!
//! The model lives on one thread of its own, started by the first text and ended when the last handle is dropped.
//! Every text is a run of its own: on one thread a run of eight is no faster (and slower when it must pad), takes more
//! memory, makes queries wait longer, and with dynamically quantised weights a vector would depend on its neighbours.
//!
//! **Invariant:** a text has the same vector whatever is embedded before, after or beside it.
//! **Invariant:** a query waits for at most one document text, however many are queued.
//! **Invariant:** the queue is bounded in texts; a full one refuses, it never grows.

mod files;

use std::{collections::VecDeque, fmt, path::Path, sync::Arc, time::Duration};

use tokio::sync::oneshot;

use self::files::{DIMENSIONS, Files, MODEL};
use crate::{
    Error,
    host::{AfterPanic, Desk, Host, Jobs},
};

/// Texts that may wait.
const QUEUE_MAX: usize = 4_096;

/// What the vectors are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Somebody waits: goes before all documents.
    Query,
    /// To be remembered.
    Document,
}

/// The embedding model. Cloning shares it; nothing is loaded before the first text.
#[derive(Clone)]
pub struct Embedder {
    host: Arc<Host<Queue>>,
    model: Arc<str>,
    dimensions: usize,
}

impl fmt::Debug for Embedder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Embedder").field("model", &self.model).finish_non_exhaustive()
    }
}

impl Embedder {
    /// Looks for ONNX Runtime in `dir/runtime` and for the model in `dir/models/all-MiniLM-L6-v2`. `None` when one of
    /// them is not there. Nothing is loaded yet.
    pub fn find(dir: &Path) -> Result<Option<Self>, Error> {
        Ok(Files::find(dir)?.map(|files| Self::with_loader(move || files.load())))
    }

    /// Another model: `embed` makes the vectors, each of `dimensions` floats, on the embedder's thread.
    pub fn of(
        model: &str,
        dimensions: usize,
        embed: impl Fn(&str) -> Result<Vec<f32>, Error> + Clone + Send + Sync + 'static,
    ) -> Self {
        let load = move || Ok(Box::new(embed.clone()) as Model);
        Self { model: model.into(), dimensions, ..Self::with_loader(load) }
    }

    /// The model's name; vectors of different models can not be compared.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Floats of a vector.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// One vector of length one for each text, in the same order. Texts beyond 256 word pieces are cut.
    ///
    /// Dropping the future takes the texts out of the queue. Some 50 ms a text of that length; the caller sets the limit.
    pub async fn embed(&self, texts: Vec<Arc<str>>, purpose: Purpose) -> Result<Vec<Vec<f32>>, Error> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        self.submit(texts, purpose)?.await.map_err(|_| Error::Stopped)?
    }

    /// Refuses further texts and waits until the thread has ended, at most for `limit`. True when it has. Blocks;
    /// a process should call it before it exits, because the library's clean-up does not wait for its threads.
    pub fn close(&self, limit: Duration) -> bool {
        self.host.close(limit)
    }

    fn with_loader(load: impl Fn() -> Result<Model, Error> + Send + Sync + 'static) -> Self {
        let host = Host::new("crewline-embed", AfterPanic::StartAgain, move |desk| work(desk, &load));
        Self { host: Arc::new(host), model: MODEL.into(), dimensions: DIMENSIONS }
    }

    fn submit(&self, texts: Vec<Arc<str>>, purpose: Purpose) -> Result<oneshot::Receiver<Answer>, Error> {
        let (reply, answer) = oneshot::channel();
        self.host.put(|queue| {
            if queue.waiting + texts.len() > QUEUE_MAX {
                return Err(Error::Busy { waiting: queue.waiting });
            }
            queue.waiting += texts.len();
            let job = Job { vectors: Vec::with_capacity(texts.len()), texts, reply };
            match purpose {
                Purpose::Query => queue.queries.push_back(job),
                Purpose::Document => queue.documents.push_back(job),
            }
            Ok(answer)
        })
    }
}

type Model = Box<dyn FnMut(&str) -> Result<Vec<f32>, Error>>;
type Answer = Result<Vec<Vec<f32>>, Error>;

#[derive(Default)]
struct Queue {
    queries: VecDeque<Job>,
    documents: VecDeque<Job>,
    /// Texts of both.
    waiting: usize,
}

impl Jobs for Queue {
    fn clear(&mut self) {
        self.queries.clear();
        self.documents.clear();
        self.waiting = 0;
    }
}

impl Queue {
    fn query(&mut self) -> Option<Job> {
        let job = self.queries.pop_front()?;
        self.waiting = self.waiting.saturating_sub(job.texts.len());
        Some(job)
    }

    fn document(&mut self) -> Option<Job> {
        let job = self.documents.pop_front()?;
        self.waiting = self.waiting.saturating_sub(job.texts.len());
        Some(job)
    }
}

struct Job {
    texts: Vec<Arc<str>>,
    vectors: Vec<Vec<f32>>,
    reply: oneshot::Sender<Answer>,
}

/// What the thread does next.
enum Next {
    /// All of a query.
    Query(Job),
    /// The next text of a document.
    Document(Job),
}

/// The thread: queries first, then documents text by text.
fn work(desk: &Desk<Queue>, load: &dyn Fn() -> Result<Model, Error>) {
    let mut model: Option<Model> = None;
    let mut begun: Option<Job> = None;
    while let Some(next) = desk.next(|queue| match queue.query() {
        Some(query) => Some(Next::Query(query)),
        None => begun.take().or_else(|| queue.document()).map(Next::Document),
    }) {
        match next {
            Next::Query(mut query) => {
                while let Step::More(rest) = step(query, &mut model, load) {
                    query = rest;
                }
            }
            Next::Document(job) => {
                if let Step::More(rest) = step(job, &mut model, load) {
                    begun = Some(rest);
                }
            }
        }
    }
}

enum Step {
    More(Job),
    Done,
}

/// Embeds the next text of `job`, and answers when it was the last.
fn step(mut job: Job, model: &mut Option<Model>, load: &dyn Fn() -> Result<Model, Error>) -> Step {
    if job.reply.is_closed() {
        return Step::Done;
    }
    let run = match model {
        Some(run) => run,
        None => match load() {
            Ok(loaded) => model.insert(loaded),
            Err(error) => {
                // Nobody waits any more when this fails.
                let _ = job.reply.send(Err(error));
                return Step::Done;
            }
        },
    };
    match run(&job.texts[job.vectors.len()]) {
        Ok(vector) => job.vectors.push(vector),
        Err(error) => {
            let _ = job.reply.send(Err(error));
            return Step::Done;
        }
    }
    if job.vectors.len() < job.texts.len() {
        return Step::More(job);
    }
    let _ = job.reply.send(Ok(job.vectors));
    Step::Done
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::{Mutex, mpsc},
        thread,
    };

    use super::*;

    /// An embedder whose texts wait for the test: it announces each text and goes on when told.
    fn gated() -> (Embedder, mpsc::Receiver<String>, mpsc::Sender<()>) {
        let (announce, announced) = mpsc::channel();
        let (go, gate) = mpsc::channel();
        let gate = Mutex::new(Some(gate));
        let embedder = Embedder::with_loader(move || {
            let (announce, gate) = (announce.clone(), gate.lock().unwrap().take().unwrap());
            Ok(Box::new(move |text| {
                announce.send(text.to_owned()).unwrap();
                gate.recv().map_err(|_| Error::Stopped)?;
                Ok(vec![text.len() as f32])
            }))
        });
        (embedder, announced, go)
    }

    fn texts(all: &[&str]) -> Vec<Arc<str>> {
        all.iter().map(|text| Arc::from(*text)).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_query_goes_before_waiting_documents() {
        let (embedder, announced, go) = gated();
        let documents = embedder.submit(texts(&["d1", "d2", "d3"]), Purpose::Document).unwrap();
        assert_eq!(announced.recv().unwrap(), "d1");
        let more = embedder.submit(texts(&["d4"]), Purpose::Document).unwrap();
        let query = embedder.submit(texts(&["query"]), Purpose::Query).unwrap();
        go.send(()).unwrap();
        for expect in ["query", "d2", "d3", "d4"] {
            assert_eq!(announced.recv().unwrap(), expect);
            go.send(()).unwrap();
        }
        assert_eq!(query.await.unwrap().unwrap(), [[5.0]]);
        assert_eq!(documents.await.unwrap().unwrap(), [[2.0], [2.0], [2.0]]);
        assert_eq!(more.await.unwrap().unwrap(), [[2.0]]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_queue_is_bounded_and_an_abandoned_job_is_skipped() {
        let (embedder, announced, go) = gated();
        let first = embedder.submit(texts(&["first"]), Purpose::Document).unwrap();
        assert_eq!(announced.recv().unwrap(), "first");
        let abandoned = embedder.submit(vec!["x".into(); QUEUE_MAX], Purpose::Document).unwrap();
        let error = embedder.submit(texts(&["more"]), Purpose::Query).unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), ("memory.busy", true));
        drop(abandoned);
        go.send(()).unwrap();
        first.await.unwrap().unwrap();
        // The room comes back as soon as the thread takes the abandoned job out.
        let last = loop {
            match embedder.submit(texts(&["last"]), Purpose::Query) {
                Ok(last) => break last,
                Err(_) => thread::yield_now(),
            }
        };
        assert_eq!(announced.recv().unwrap(), "last");
        go.send(()).unwrap();
        last.await.unwrap().unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn dropping_the_last_handle_ends_the_thread() {
        let (embedder, announced, go) = gated();
        let desk = embedder.host.desk();
        let running = embedder.submit(texts(&["one", "two"]), Purpose::Document).unwrap();
        announced.recv().unwrap();
        drop(embedder.clone());
        assert!(!desk.is_closed(), "a clone keeps it alive");
        drop(embedder);
        go.send(()).unwrap();
        assert!(running.await.is_err(), "the rest is not embedded");
        desk.until_ended();
        assert!(desk.is_closed());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn close_waits_for_the_thread() {
        let (embedder, announced, go) = gated();
        let running = embedder.submit(texts(&["one"]), Purpose::Document).unwrap();
        announced.recv().unwrap();
        assert!(!embedder.close(Duration::ZERO), "it is in the middle of a text");
        go.send(()).unwrap();
        assert!(embedder.close(Duration::from_mins(1)));
        assert!(running.await.unwrap().is_ok(), "the text in hand was finished");
        assert_eq!(embedder.embed(texts(&["late"]), Purpose::Query).await.unwrap_err().code(), "memory.stopped");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_is_an_error_and_the_next_text_starts_again() {
        let embedder = Embedder::with_loader(|| {
            Ok(Box::new(|text| {
                assert_ne!(text, "bad");
                Ok(vec![1.0])
            }))
        });
        let error = embedder.embed(texts(&["bad"]), Purpose::Query).await.unwrap_err();
        assert_eq!(error.code(), "memory.stopped");
        embedder.host.desk().until_ended();
        assert_eq!(embedder.embed(texts(&["good"]), Purpose::Query).await.unwrap(), [[1.0]]);
    }

    #[tokio::test]
    async fn broken_files_are_typed_errors() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("models").join(MODEL);
        fs::create_dir_all(&model).unwrap();
        fs::create_dir_all(dir.path().join("runtime")).unwrap();
        for file in [model.join("model.onnx"), model.join("tokenizer.json"), dir.path().join("runtime/onnxruntime.dll")]
        {
            fs::write(file, "not what it says").unwrap();
        }
        let embedder = Embedder::find(dir.path()).unwrap().unwrap();
        let error = embedder.embed(texts(&["text"]), Purpose::Query).await.unwrap_err();
        // The library may be loaded already, by another test of this process.
        assert!(["memory.runtime_library", "memory.model_files"].contains(&error.code()), "{error}");
        assert!(error.hint().is_some());
    }
}
