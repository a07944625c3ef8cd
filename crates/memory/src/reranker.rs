//! A second reading of the best memories: a cross-encoder, which sees question and memory together.
//!
//! The model lives on one thread of its own, started by the first question and ended when the last handle is dropped.
//! Every pair is a run of its own, the best first, so that what was read when the time is up counts. Of several questions the
//! newest is read first: under load the oldest would be too late, and would take the others with it.
//!
//! **Invariant:** a pair has the same score whatever is read before, after or beside it.
//! **Invariant:** nobody waits longer than the limit, and what nobody waits for is not read.
//! **Invariant:** a model that can not be loaded, or panics, is tried once.

mod files;

use std::{collections::VecDeque, fmt, path::Path, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use self::files::Files;
use crate::{
    Error,
    host::{AfterPanic, Desk, Host, Jobs},
    onnx::find_library,
};

/// The folder that needs no setting, below `models`.
const FOLDER: &str = "reranker";
/// Questions that may wait.
const WAITING_MAX: usize = 64;
/// Memories of a question that are read.
const READ: usize = 32;
/// How long a question waits: half of what an attempt has for its recall.
const LIMIT: Duration = Duration::from_secs(1);

/// The reranking model. Cloning shares it; nothing is loaded before the first question.
#[derive(Clone)]
pub struct Reranker {
    host: Arc<Host<Questions>>,
    name: Arc<str>,
    limit: Duration,
    read: usize,
}

impl fmt::Debug for Reranker {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Reranker").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Reranker {
    /// The cross-encoder in `folder`, run by the ONNX Runtime in `dir/runtime`. Fails when something is not there, or does
    /// not look like what it should be. Nothing is loaded yet.
    pub fn open(folder: &Path, dir: &Path) -> Result<Self, Error> {
        let runtime = dir.join("runtime");
        let Some(library) = find_library(&runtime)? else {
            return Err(Error::Library { path: runtime, reason: "ONNX Runtime is not there".to_owned() });
        };
        let files = Files::of(folder, library)?;
        Ok(Self::with_loader(&folder.display().to_string(), move || files.load()))
    }

    /// The same for the folder `dir/models/reranker`. `None` when it does not exist.
    pub fn find(dir: &Path) -> Result<Option<Self>, Error> {
        let folder = dir.join("models").join(FOLDER);
        if folder.is_dir() { Self::open(&folder, dir).map(Some) } else { Ok(None) }
    }

    /// Another model: `score` says how well a text answers a question, greater is better, on the reranker's thread.
    pub fn of(name: &str, score: impl Fn(&str, &str) -> Result<f32, Error> + Clone + Send + Sync + 'static) -> Self {
        Self::with_loader(name, move || Ok(Box::new(score.clone()) as Model))
    }

    /// Waits at most for `limit`, instead of a second.
    #[must_use]
    pub fn patient_for(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Reads the best `count` of an answer, instead of 32.
    #[must_use]
    pub fn reading(self, count: usize) -> Self {
        Self { read: count, ..self }
    }

    /// Where the model is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Loads the model and lets it read something. A model that is loaded already answers within milliseconds.
    pub async fn check(&self) -> Result<(), Error> {
        self.score("what is it?", vec!["a text".into()]).await.failure.map_or(Ok(()), Err)
    }

    /// Refuses further questions and waits until the thread has ended, at most for `limit`. True when it has. Blocks;
    /// a process should call it before it exits, because the library's clean-up does not wait for its threads.
    pub fn close(&self, limit: Duration) -> bool {
        self.host.close(limit)
    }

    /// Memories of a question that it wants to read.
    pub(crate) fn read(&self) -> usize {
        self.read
    }

    /// How well the texts answer the question: a score for each, in the same order, as far as the time allows.
    pub(crate) async fn score(&self, question: &str, texts: Vec<Arc<str>>) -> Scored {
        let (limit, wanted) = (self.limit, texts.len());
        let until = tokio::time::Instant::now() + limit;
        let mut scores = Vec::with_capacity(wanted);
        let mut answers = match self.submit(question, texts) {
            Ok(answers) => answers,
            Err(error) => return Scored { scores, failure: Some(error) },
        };
        while scores.len() < wanted {
            let failure = match tokio::time::timeout_at(until, answers.recv()).await {
                Ok(Some(Ok(score))) => {
                    scores.push(score);
                    continue;
                }
                Ok(Some(Err(error))) => error,
                Ok(None) => Error::Stopped,
                Err(_) => return Scored { failure: Some(Error::Late { read: scores.len(), wanted, limit }), scores },
            };
            // What a model said before it failed is not to be trusted.
            return Scored { scores: Vec::new(), failure: Some(failure) };
        }
        Scored { scores, failure: None }
    }

    fn with_loader(name: &str, load: impl Fn() -> Result<Model, Error> + Send + Sync + 'static) -> Self {
        let host = Host::new("crewline-rerank", AfterPanic::GiveUp, move |desk| work(desk, &load));
        Self { host: Arc::new(host), name: name.into(), limit: LIMIT, read: READ }
    }

    fn submit(&self, question: &str, texts: Vec<Arc<str>>) -> Result<mpsc::Receiver<Result<f32, Error>>, Error> {
        let (reply, answers) = mpsc::channel(texts.len().max(1));
        self.host.put(|Questions(waiting)| {
            if waiting.len() >= WAITING_MAX
                && let Some(oldest) = waiting.pop_front()
            {
                // It has room for an answer to each text, and none was given; a caller who is gone needs none.
                let _ = oldest.reply.try_send(Err(Error::Busy { waiting: waiting.len() }));
            }
            waiting.push_back(Job { question: question.into(), texts, reply });
            Ok(answers)
        })
    }
}

/// What a reranker says of the best memories.
#[derive(Debug)]
pub(crate) struct Scored {
    /// Of the first so many; greater is better.
    pub(crate) scores: Vec<f32>,
    /// Why there are not more.
    pub(crate) failure: Option<Error>,
}

type Model = Box<dyn FnMut(&str, &str) -> Result<f32, Error>>;

/// The newest last.
#[derive(Default)]
struct Questions(VecDeque<Job>);

impl Jobs for Questions {
    fn clear(&mut self) {
        self.0.clear();
    }
}

impl Questions {
    /// The newest that somebody waits for; the others go.
    fn newest(&mut self) -> Option<Job> {
        std::iter::from_fn(|| self.0.pop_back()).find(|job| !job.reply.is_closed())
    }
}

struct Job {
    question: Box<str>,
    texts: Vec<Arc<str>>,
    /// Has room for all answers.
    reply: mpsc::Sender<Result<f32, Error>>,
}

/// The thread: question by question, text by text.
fn work(desk: &Desk<Questions>, load: &dyn Fn() -> Result<Model, Error>) {
    let mut model: Option<Model> = None;
    while let Some(Job { question, texts, reply }) = desk.next(Questions::newest) {
        let run = match &mut model {
            Some(run) => run,
            None => match load() {
                Ok(loaded) => model.insert(loaded),
                Err(error) => {
                    desk.give_up();
                    // Nobody waits any more when this fails; the same below.
                    let _ = reply.try_send(Err(error));
                    return;
                }
            },
        };
        for text in &texts {
            if reply.is_closed() || desk.is_closed() {
                break;
            }
            let answer = run(&question, text).and_then(checked);
            let has_failed = answer.is_err();
            let _ = reply.try_send(answer);
            if has_failed {
                break;
            }
        }
    }
}

fn checked(score: f32) -> Result<f32, Error> {
    if score.is_finite() { Ok(score) } else { Err(Error::Reranking { reason: format!("it gave {score} for a text") }) }
}

#[cfg(test)]
mod tests;
