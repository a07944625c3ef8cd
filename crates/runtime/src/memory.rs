//! Memory: answers recalls from the project's index and carries new memories from the outbox into the vector store.
//!
//! **Invariant:** the database holds every memory; the index and the vectors are rebuilt from it.
//! **Invariant:** a recall never waits for the outbox, and an attempt never waits for an embedding of a document.

use std::{collections::HashMap, time::Duration};

use crewline_memory::{Hit, Query};
use crewline_types::{MemoryId, MemoryRecord, ProjectScope};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use crate::{
    actor::{Outcome, WorkGuard, pipe_to_self, remind},
    hierarchy::Made,
    library::{Drained, Library, Noted},
    metrics,
    opening::STRETCH,
};

/// Limit of loading a project, and of one drain step.
const WORK_LIMIT: Duration = Duration::from_mins(5);
/// The first pause after a failed drain; it doubles.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause after a failed drain.
const PAUSE_MAX: Duration = Duration::from_mins(1);
/// How long new memories are collected before they are compared with older ones.
const MERGE_PAUSE: Duration = Duration::from_millis(200);
/// Memories of a project that are searched by words without leaving the actor.
const INLINE_MAX: usize = 8_192;
/// Recalls that may wait for a project to be loaded.
const WAITING_MAX: usize = 100_000;

/// The memory actor; all data is in [`State`].
#[derive(Debug)]
pub struct Memory;

/// What you can tell memory.
#[derive(Debug)]
pub enum Message {
    /// Asks what is known.
    Recall(ProjectScope, Query, RpcReplyPort<Vec<Hit>>),
    /// Remembers what somebody says outside a run, or counts it where it was said before.
    Note(Box<MemoryRecord>, RpcReplyPort<Result<(MemoryId, Noted), crate::Error>>),
    /// New memories are committed: makes them findable.
    Remember(ProjectScope, Vec<MemoryRecord>),
    /// A summary is committed: makes it findable instead of its older versions.
    Summed(ProjectScope, Box<Made>),
    /// Answers when the outbox is empty, or can not be emptied now.
    Flush(RpcReplyPort<()>),
    /// Internal: a project is loaded.
    Loaded(ProjectScope, Outcome<Result<(), crate::Error>>),
    /// Internal: a recall that needed background work is answered.
    Answered(u64),
    /// Internal: new memories that repeat older ones are merged with them.
    Merged(Outcome<Result<usize, crate::Error>>),
    /// Internal: new memories were collected for long enough.
    MergeDue,
    /// Internal: what somebody said is remembered.
    Noted(u64),
    /// Internal: the words of what was remembered are kept.
    WordsKept(Outcome<Result<usize, crate::Error>>),
    /// Internal: a drain step ended.
    Drained(Outcome<Result<Drained, crate::Error>>),
    /// Internal: the pause after a failed drain is over.
    DrainDue,
}

type Waiting = (Query, RpcReplyPort<Vec<Hit>>);

/// Projects being loaded, recalls being answered, and the drain.
pub struct State {
    library: Library,
    loading: HashMap<ProjectScope, (WorkGuard, Vec<Waiting>)>,
    answering: HashMap<u64, WorkGuard>,
    answers: u64,
    /// New memories that were not yet compared with older ones.
    unmerged: HashMap<ProjectScope, Vec<MemoryRecord>>,
    /// The pause before they are.
    merge_due: Option<WorkGuard>,
    /// The comparison that goes on.
    merge: Option<WorkGuard>,
    /// New memories since their project's words were kept.
    wordless: HashMap<ProjectScope, usize>,
    /// The keeping of a project's words that goes on.
    keeping: Option<WorkGuard>,
    drain: Option<WorkGuard>,
    has_more: bool,
    failures: u32,
    flushing: Vec<RpcReplyPort<()>>,
}

impl Actor for Memory {
    type Msg = Message;
    type State = State;
    type Arguments = Library;

    async fn pre_start(&self, myself: ActorRef<Message>, library: Library) -> Result<State, ActorProcessingErr> {
        let mut state = State {
            library,
            loading: HashMap::new(),
            answering: HashMap::new(),
            answers: 0,
            unmerged: HashMap::new(),
            merge_due: None,
            merge: None,
            wordless: HashMap::new(),
            keeping: None,
            drain: None,
            has_more: true,
            failures: 0,
            flushing: Vec::new(),
        };
        state.drain_next(&myself);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Recall(scope, query, reply) => state.on_recall(&myself, &scope, query, reply),
            Message::Note(record, reply) => state.on_note(&myself, *record, reply),
            Message::Noted(number) => state.on_noted(&myself, number),
            Message::Remember(scope, records) => state.on_remember(&myself, &scope, records),
            Message::Summed(scope, made) => state.on_summed(&myself, &scope, &made),
            Message::Flush(reply) => state.on_flush(&myself, reply),
            Message::Loaded(scope, outcome) => state.on_loaded(&myself, &scope, outcome),
            Message::Answered(number) => state.on_answered(&myself, number),
            Message::Merged(outcome) => state.on_merged(&myself, outcome),
            Message::MergeDue => state.on_merge_due(&myself),
            Message::WordsKept(outcome) => state.on_words_kept(&myself, outcome),
            Message::Drained(outcome) => state.on_drained(&myself, outcome),
            Message::DrainDue => state.on_drain_due(&myself),
        }
        Ok(())
    }
}

impl State {
    fn on_recall(
        &mut self,
        myself: &ActorRef<Message>,
        scope: &ProjectScope,
        query: Query,
        reply: RpcReplyPort<Vec<Hit>>,
    ) {
        if self.library.index().local().is_loaded(scope) {
            self.answer(myself, scope, query, reply);
        } else if let Some((_, waiting)) = self.loading.get_mut(scope) {
            // A dropped reply port tells the attempt to go on without memory.
            if waiting.len() < WAITING_MAX {
                waiting.push((query, reply));
            }
        } else {
            let (library, of) = (self.library.clone(), scope.clone());
            let work = async move { library.load(&of).await };
            let of = scope.clone();
            let guard = pipe_to_self(myself, WORK_LIMIT, work, move |outcome| Message::Loaded(of, outcome));
            self.loading.insert(scope.clone(), (guard, vec![(query, reply)]));
        }
    }

    fn answer(
        &mut self,
        myself: &ActorRef<Message>,
        scope: &ProjectScope,
        query: Query,
        reply: RpcReplyPort<Vec<Hit>>,
    ) {
        let local = self.library.index().local();
        let count = local.count(scope);
        if count == 0 {
            reply.send(Vec::new()).ok();
            return;
        }
        let asks_models = self.library.embedder().is_some() || self.library.index().reranker().is_some();
        if !asks_models && count <= INLINE_MAX {
            reply.send(local.search(scope, &query)).ok();
            return;
        }
        let (library, scope) = (self.library.clone(), scope.clone());
        let work = async move {
            match library.recall(&scope, query).await {
                Ok(recalled) => {
                    reply.send(recalled.hits).ok();
                }
                // The port drops here, and the attempt goes on without memory.
                Err(error) => tracing::warn!(error.code = error.code(), %error, "recall failed"),
            }
        };
        self.answers += 1;
        let number = self.answers;
        let guard = pipe_to_self(myself, WORK_LIMIT, work, move |_| Message::Answered(number));
        self.answering.insert(number, guard);
    }

    fn on_answered(&mut self, myself: &ActorRef<Message>, number: u64) {
        self.answering.remove(&number);
        if self.library.is_bereft() {
            self.has_more = true;
            self.drain_next(myself);
        }
    }

    fn on_loaded(
        &mut self,
        myself: &ActorRef<Message>,
        scope: &ProjectScope,
        outcome: Outcome<Result<(), crate::Error>>,
    ) {
        let Some((_, waiting)) = self.loading.remove(scope) else { return };
        match outcome {
            Outcome::Done(Ok(())) => {
                for (query, reply) in waiting {
                    self.answer(myself, scope, query, reply);
                }
            }
            Outcome::Done(Err(error)) => {
                tracing::warn!(project_id = scope.project(), error.code = error.code(), %error, "memory is not loaded");
            }
            Outcome::Crashed | Outcome::TimedOut | Outcome::Cancelled => {
                tracing::warn!(project_id = scope.project(), "memory was not loaded in time");
            }
        }
    }

    fn on_note(
        &mut self,
        myself: &ActorRef<Message>,
        record: MemoryRecord,
        reply: RpcReplyPort<Result<(MemoryId, Noted), crate::Error>>,
    ) {
        let library = self.library.clone();
        let work = async move {
            reply.send(library.note(record).await).ok();
        };
        self.answers += 1;
        let number = self.answers;
        let guard = pipe_to_self(myself, WORK_LIMIT, work, move |_| Message::Noted(number));
        self.answering.insert(number, guard);
    }

    fn on_noted(&mut self, myself: &ActorRef<Message>, number: u64) {
        self.answering.remove(&number);
        self.has_more = true;
        self.drain_next(myself);
    }

    fn on_remember(&mut self, myself: &ActorRef<Message>, scope: &ProjectScope, records: Vec<MemoryRecord>) {
        for record in &records {
            if let Err(error) = self.library.index().local().insert(scope, record.clone()) {
                tracing::warn!(error.code = error.code(), %error, "memory is not indexed");
            }
        }
        *self.wordless.entry(scope.clone()).or_default() += records.len();
        self.keep_words(myself);
        self.unmerged.entry(scope.clone()).or_default().extend(records);
        self.merge_later(myself);
        self.has_more = true;
        self.drain_next(myself);
    }

    /// Keeps the words of a project that has grown by a stretch, one at a time, so that it opens quickly.
    fn keep_words(&mut self, myself: &ActorRef<Message>) {
        if self.keeping.is_some() {
            return;
        }
        let Some(scope) = self.wordless.iter().find(|(_, new)| **new >= STRETCH as usize).map(|(it, _)| it.clone())
        else {
            return;
        };
        self.wordless.remove(&scope);
        let library = self.library.clone();
        let work = async move { library.keep_words(&scope).await };
        self.keeping = Some(pipe_to_self(myself, WORK_LIMIT, work, Message::WordsKept));
    }

    fn on_words_kept(&mut self, myself: &ActorRef<Message>, outcome: Outcome<Result<usize, crate::Error>>) {
        self.keeping = None;
        match outcome {
            Outcome::Done(Ok(_)) => {}
            Outcome::Done(Err(error)) => {
                tracing::warn!(error.code = error.code(), %error, "words of memories are not kept");
            }
            Outcome::Crashed | Outcome::TimedOut | Outcome::Cancelled => {
                tracing::warn!("words of memories are not kept");
            }
        }
        self.keep_words(myself);
    }

    fn merge_later(&mut self, myself: &ActorRef<Message>) {
        if self.merge_due.is_none() && !self.unmerged.is_empty() {
            self.merge_due = Some(remind(myself, MERGE_PAUSE, || Message::MergeDue));
        }
    }

    fn on_merge_due(&mut self, myself: &ActorRef<Message>) {
        self.merge_due = None;
        self.merge_next(myself);
    }

    /// Merges what was collected, one project at a time.
    fn merge_next(&mut self, myself: &ActorRef<Message>) {
        if self.merge.is_some() {
            return;
        }
        let Some(scope) = self.unmerged.keys().next().cloned() else { return };
        let records = self.unmerged.remove(&scope).unwrap_or_default();
        let library = self.library.clone();
        let work = async move { library.merge(&scope, records).await };
        self.merge = Some(pipe_to_self(myself, WORK_LIMIT, work, Message::Merged));
    }

    fn on_merged(&mut self, myself: &ActorRef<Message>, outcome: Outcome<Result<usize, crate::Error>>) {
        self.merge = None;
        match outcome {
            Outcome::Done(Ok(count)) => (0..count).for_each(|_| metrics::left_out("repeated")),
            Outcome::Done(Err(error)) => {
                tracing::warn!(error.code = error.code(), %error, "repeated memories are kept twice");
            }
            Outcome::Crashed | Outcome::TimedOut | Outcome::Cancelled => {
                tracing::warn!("repeated memories are kept twice");
            }
        }
        if self.flushing.is_empty() {
            self.merge_later(myself);
        } else {
            self.merge_next(myself);
        }
        self.drain_next(myself);
    }

    fn on_summed(&mut self, myself: &ActorRef<Message>, scope: &ProjectScope, made: &Made) {
        if let Err(error) = self.library.take_in(scope, made) {
            tracing::warn!(error.code = error.code(), %error, "a summary is not indexed");
        }
        self.has_more = true;
        self.drain_next(myself);
    }

    fn on_flush(&mut self, myself: &ActorRef<Message>, reply: RpcReplyPort<()>) {
        self.flushing.push(reply);
        self.merge_next(myself);
        self.drain_next(myself);
    }

    /// Carries the next memories of the outbox, one step at a time.
    fn drain_next(&mut self, myself: &ActorRef<Message>) {
        if self.drain.is_some() {
            return;
        }
        if !self.has_more || self.library.embedder().is_none() {
            if self.merge.is_some() {
                // Whoever flushes waits for that, too.
                return;
            }
            for reply in self.flushing.drain(..) {
                reply.send(()).ok();
            }
            return;
        }
        let library = self.library.clone();
        self.drain = Some(pipe_to_self(myself, WORK_LIMIT, async move { library.drain().await }, Message::Drained));
    }

    fn on_drained(&mut self, myself: &ActorRef<Message>, outcome: Outcome<Result<Drained, crate::Error>>) {
        self.drain = None;
        match outcome {
            Outcome::Done(Ok(drained)) => {
                self.failures = 0;
                self.has_more = drained.has_more;
                self.drain_next(myself);
                return;
            }
            Outcome::Done(Err(error)) => {
                tracing::warn!(error.code = error.code(), %error, "memories wait in the outbox");
            }
            Outcome::Crashed | Outcome::TimedOut | Outcome::Cancelled => {
                tracing::warn!("memories wait in the outbox: the drain did not end");
            }
        }
        // Nobody waits for an outage to end; the outbox keeps everything.
        self.flushing.clear();
        let pause = PAUSE_MIN.saturating_mul(1 << self.failures.min(6)).min(PAUSE_MAX);
        self.failures += 1;
        self.drain = Some(remind(myself, pause, || Message::DrainDue));
    }

    fn on_drain_due(&mut self, myself: &ActorRef<Message>) {
        self.drain = None;
        self.has_more = true;
        self.drain_next(myself);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crewline_memory::{Embedded, Hybrid, Reranker, Weights};
    use crewline_store::Store;
    use crewline_types::{MemoryMarks, MemoryType, SystemClock, Timestamp};

    use super::*;
    use crate::actor::ask;

    #[tokio::test]
    async fn a_reranker_is_asked_also_without_an_embedding_model() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("sqlite:{}", folder.path().join("crewline.db").display())).await.unwrap();
        let local = Embedded::with_weights(Weights { rerank: 1.0, ..Weights::plain() });
        let reranker = Reranker::of("by length", |_, text| Ok(text.len() as f32)).patient_for(WORK_LIMIT);
        let index = Hybrid::new(local, None).reranked(Some(reranker));
        let library = Library::new(store, index, None, Arc::new(SystemClock));
        let records = [(1, "coin coin coin"), (2, "a coin that lies in the harbour")].map(|(at, text)| MemoryRecord {
            id: MemoryId::of("p", None, "note", text),
            project: "p".into(),
            run: None,
            task: None,
            kind: MemoryType::from("note"),
            agent: "user".into(),
            created_at: Timestamp(at),
            text: text.into(),
            source_ids: Vec::new(),
            marks: MemoryMarks::default(),
        });
        library.add(records.to_vec()).await.unwrap();
        let (memory, _) = Actor::spawn(None, Memory, library).await.unwrap();
        let query = Query { text: "coin".to_owned(), limit: 2, ..Query::default() };
        let recall = |reply| Message::Recall(ProjectScope::of("p"), query, reply);
        let hits = ask(&memory, WORK_LIMIT, recall).await.unwrap();
        let texts: Vec<&str> = hits.iter().map(|hit| &*hit.record.text).collect();
        assert_eq!(texts, ["a coin that lies in the harbour", "coin coin coin"]);
        memory.stop(None);
    }
}
