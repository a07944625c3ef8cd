//! Memory: answers recalls from the project's index and carries new memories from the outbox into the vector store.
//!
//! **Invariant:** the database holds every memory; the index and the vectors are rebuilt from it.
//! **Invariant:** a recall never waits for the outbox, and an attempt never waits for an embedding of a document.

use std::{collections::HashMap, time::Duration};

use crewline_memory::{Embedder, Hit, Hybrid, Point, Purpose, Query, VectorStore};
use crewline_store::Store;
use crewline_types::{MemoryId, MemoryRecord, ProjectScope};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use crate::{
    actor::{Outcome, WorkGuard, pipe_to_self, remind},
    metrics,
};

/// Memories that one step of the drain carries.
const DRAIN_BATCH: u32 = 64;
/// Rows of one page when a project is loaded.
const LOAD_PAGE: u32 = 4_096;
/// Limit of loading a project, and of one drain step.
const WORK_LIMIT: Duration = Duration::from_mins(5);
/// The first pause after a failed drain; it doubles.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause after a failed drain.
const PAUSE_MAX: Duration = Duration::from_mins(1);
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
    /// New memories are committed: makes them findable.
    Remember(ProjectScope, Vec<MemoryRecord>),
    /// Answers when the outbox is empty, or can not be emptied now.
    Flush(RpcReplyPort<()>),
    /// Internal: a project is loaded.
    Loaded(ProjectScope, Outcome<Result<(), crate::Error>>),
    /// Internal: a recall that needed background work is answered.
    Answered(u64),
    /// Internal: a drain step ended; how many it carried.
    Drained(Outcome<Result<usize, crate::Error>>),
    /// Internal: the pause after a failed drain is over.
    DrainDue,
}

/// What memory is started with.
#[derive(Clone)]
pub struct Args {
    /// The database.
    pub store: Store,
    /// The index of the words, and where the vectors are; outlives a restart.
    pub index: Hybrid,
    /// Makes vectors.
    pub embedder: Option<Embedder>,
}

type Waiting = (Query, RpcReplyPort<Vec<Hit>>);

/// Projects being loaded, recalls being answered, and the drain.
pub struct State {
    args: Args,
    loading: HashMap<ProjectScope, (WorkGuard, Vec<Waiting>)>,
    answering: HashMap<u64, WorkGuard>,
    answers: u64,
    drain: Option<WorkGuard>,
    has_more: bool,
    failures: u32,
    flushing: Vec<RpcReplyPort<()>>,
}

impl Actor for Memory {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Message>, args: Args) -> Result<State, ActorProcessingErr> {
        let mut state = State {
            args,
            loading: HashMap::new(),
            answering: HashMap::new(),
            answers: 0,
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
            Message::Remember(scope, records) => state.on_remember(&myself, &scope, records),
            Message::Flush(reply) => state.on_flush(&myself, reply),
            Message::Loaded(scope, outcome) => state.on_loaded(&myself, &scope, outcome),
            Message::Answered(number) => state.on_answered(number),
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
        if self.args.index.local().is_loaded(scope) {
            self.answer(myself, scope, query, reply);
        } else if let Some((_, waiting)) = self.loading.get_mut(scope) {
            // A dropped reply port tells the attempt to go on without memory.
            if waiting.len() < WAITING_MAX {
                waiting.push((query, reply));
            }
        } else {
            let (args, of) = (self.args.clone(), scope.clone());
            let work = async move { load(&args, &of).await };
            let of = scope.clone();
            let guard = pipe_to_self(myself, WORK_LIMIT, work, move |outcome| Message::Loaded(of, outcome));
            self.loading.insert(scope.clone(), (guard, vec![(query, reply)]));
        }
    }

    fn answer(
        &mut self,
        myself: &ActorRef<Message>,
        scope: &ProjectScope,
        mut query: Query,
        reply: RpcReplyPort<Vec<Hit>>,
    ) {
        let index = &self.args.index;
        let count = index.local().count(scope);
        if count == 0 {
            reply.send(Vec::new()).ok();
            return;
        }
        if self.args.embedder.is_none() && count <= INLINE_MAX {
            reply.send(index.local().search(scope, &query)).ok();
            return;
        }
        let (index, embedder, scope) = (index.clone(), self.args.embedder.clone(), scope.clone());
        let work = async move {
            if let Some(embedder) = embedder {
                match embedder.embed(vec![query.text.as_str().into()], Purpose::Query).await {
                    Ok(vectors) => query.vector = vectors.into_iter().next(),
                    Err(error) => tracing::warn!(error.code = error.code(), %error, "recall by words alone"),
                }
            }
            match index.search(&scope, &query).await {
                Ok(hits) => {
                    reply.send(hits).ok();
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

    fn on_answered(&mut self, number: u64) {
        self.answering.remove(&number);
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

    fn on_remember(&mut self, myself: &ActorRef<Message>, scope: &ProjectScope, records: Vec<MemoryRecord>) {
        for record in records {
            if let Err(error) = self.args.index.local().insert(scope, record) {
                tracing::warn!(error.code = error.code(), %error, "memory is not indexed");
            }
        }
        self.has_more = true;
        self.drain_next(myself);
    }

    fn on_flush(&mut self, myself: &ActorRef<Message>, reply: RpcReplyPort<()>) {
        self.flushing.push(reply);
        self.drain_next(myself);
    }

    /// Carries the next memories of the outbox, one step at a time.
    fn drain_next(&mut self, myself: &ActorRef<Message>) {
        if self.drain.is_some() {
            return;
        }
        if !self.has_more || self.args.embedder.is_none() {
            for reply in self.flushing.drain(..) {
                reply.send(()).ok();
            }
            return;
        }
        let args = self.args.clone();
        self.drain = Some(pipe_to_self(myself, WORK_LIMIT, async move { drain(&args).await }, Message::Drained));
    }

    fn on_drained(&mut self, myself: &ActorRef<Message>, outcome: Outcome<Result<usize, crate::Error>>) {
        self.drain = None;
        match outcome {
            Outcome::Done(Ok(carried)) => {
                self.failures = 0;
                self.has_more = carried == DRAIN_BATCH as usize;
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

/// Reads a project's memories and vectors into the index.
async fn load(args: &Args, scope: &ProjectScope) -> Result<(), crate::Error> {
    let mut vectors: HashMap<MemoryId, Vec<f32>> = match (&args.embedder, args.index.remote()) {
        (Some(embedder), None) => args.store.vectors(scope, embedder.model()).await?.into_iter().collect(),
        (Some(_), Some(_)) | (None, _) => HashMap::new(),
    };
    let mut records = Vec::new();
    let mut after = 0;
    loop {
        let page = args.store.memories(scope, after, LOAD_PAGE).await?;
        let is_last = page.len() < LOAD_PAGE as usize;
        for (seq, record) in page {
            after = seq;
            let vector = vectors.remove(&record.id);
            records.push((record, vector));
        }
        if is_last {
            break;
        }
    }
    let (index, scope) = (args.index.local().clone(), scope.clone());
    if records.len() <= INLINE_MAX / 64 {
        index.load(&scope, records)?;
        return Ok(());
    }
    tokio::task::spawn_blocking(move || index.load(&scope, records))
        .await
        .map_err(|_| crate::Error::Actor(crate::actor::AskError::Gone))??;
    Ok(())
}

/// Embeds the oldest memories of the outbox and puts them into the vector store; says how many.
async fn drain(args: &Args) -> Result<usize, crate::Error> {
    let Some(embedder) = &args.embedder else { return Ok(0) };
    let rows = args.store.memory_outbox(DRAIN_BATCH).await?;
    metrics::outbox_depth(args.store.memory_outbox_depth().await?);
    let carried = rows.len();
    if carried == 0 {
        return Ok(0);
    }
    let texts = rows.iter().map(|(_, record)| record.text.clone()).collect();
    let vectors = embedder.embed(texts, Purpose::Document).await?;
    let ids: Vec<MemoryId> = rows.iter().map(|(_, record)| record.id).collect();
    let mut by_project: HashMap<ProjectScope, Vec<Point>> = HashMap::new();
    for ((_, record), vector) in rows.into_iter().zip(&vectors) {
        let scope = ProjectScope::of(&record.project);
        by_project.entry(scope).or_default().push(Point { id: record.id, record, vector: Some(vector.clone()) });
    }
    for (scope, points) in by_project {
        match args.index.remote() {
            Some(remote) => remote.upsert(&scope, points).await?,
            // A project nobody has asked for is loaded with its vectors when somebody does.
            None if args.index.local().is_loaded(&scope) => args.index.local().upsert(&scope, points).await?,
            None => {}
        }
    }
    let kept = args.index.remote().is_none().then_some(vectors.as_slice());
    args.store.memory_done(embedder.model(), &ids, kept).await?;
    Ok(carried)
}
