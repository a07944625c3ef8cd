//! Journal: makes changes durable in groups; whatever arrives while a commit runs shares the next one.
//!
//! **Invariant:** an [`Ack`] answers exactly once, and `Ok` only after the commit.
//! **Invariant:** changes are committed in the order they arrived; at most one commit runs.

use std::{fmt, time::Duration};

use crewline_store::{Change, Committed, Store};
use crewline_types::ErrorKind;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::{
    actor::{Outcome, WorkGuard, pipe_to_self},
    hub::Hub,
    rooms::Room,
    scribe,
};

/// Changes of one transaction at most.
const BATCH_MAX: usize = 512;

/// Why a change is not recorded.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// Somebody else was faster: the attempt or the manager is no longer the current one.
    #[error("the change is stale")]
    Stale,
    /// The run's cost limit does not cover its calls.
    #[error("the run's cost limit does not cover the call")]
    OverBudget,
    /// What the project has left does not cover a call of it.
    #[error("the project's cost limit does not cover the call")]
    OverProject,
    /// The database failed; nothing of the change is written.
    #[error("{message}")]
    Failed {
        /// The store's stable code.
        code: &'static str,
        /// What kind of failure it is.
        kind: ErrorKind,
        /// For people.
        message: String,
    },
    /// The journal ended before it answered; the change may or may not be written.
    #[error("the journal is gone, the change may or may not be recorded")]
    Unknown,
}

/// Answers the sender of a change, exactly once, also when it is dropped on the way.
pub struct Ack(Option<Answer>);

type Answer = Box<dyn FnOnce(Result<(), Refusal>) + Send>;

impl Ack {
    /// Calls `answer` with how the change ended.
    pub fn new(answer: impl FnOnce(Result<(), Refusal>) + Send + 'static) -> Self {
        Self(Some(Box::new(answer)))
    }

    fn answer(mut self, result: Result<(), Refusal>) {
        if let Some(answer) = self.0.take() {
            answer(result);
        }
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        if let Some(answer) = self.0.take() {
            answer(Err(Refusal::Unknown));
        }
    }
}

impl fmt::Debug for Ack {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Ack")
    }
}

/// The journal actor; all data is in [`State`].
#[derive(Debug)]
pub struct Journal;

/// What you can tell a journal.
#[derive(Debug)]
pub enum Message {
    /// Makes a change durable.
    Record(Box<Change>, Ack),
    /// Internal: a commit ended.
    Committed(Vec<Ack>, Outcome<Result<Vec<Committed>, crewline_store::Error>>),
}

/// What a journal is started with.
#[derive(Clone)]
pub struct Args {
    /// The database.
    pub store: Store,
    /// Gets the committed events.
    pub hub: Hub,
    /// Is told what happened.
    pub scribe: Room<scribe::Message>,
    /// Limit of one commit.
    pub commit_limit: Duration,
}

/// Changes that wait, and the commit that runs.
pub struct State {
    args: Args,
    changes: Vec<Change>,
    acks: Vec<Ack>,
    running: Option<WorkGuard>,
}

impl Actor for Journal {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, _myself: ActorRef<Message>, args: Args) -> Result<State, ActorProcessingErr> {
        Ok(State { args, changes: Vec::new(), acks: Vec::new(), running: None })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Record(change, ack) => state.on_record(&myself, *change, ack),
            Message::Committed(acks, outcome) => state.on_committed(&myself, acks, outcome),
        }
        Ok(())
    }
}

impl State {
    fn on_record(&mut self, myself: &ActorRef<Message>, change: Change, ack: Ack) {
        self.changes.push(change);
        self.acks.push(ack);
        self.commit_next(myself);
    }

    fn on_committed(
        &mut self,
        myself: &ActorRef<Message>,
        acks: Vec<Ack>,
        outcome: Outcome<Result<Vec<Committed>, crewline_store::Error>>,
    ) {
        self.running = None;
        match outcome {
            Outcome::Done(Ok(results)) => {
                debug_assert_eq!(results.len(), acks.len());
                let mut events = Vec::new();
                let mut answers = Vec::with_capacity(acks.len());
                for (ack, result) in acks.into_iter().zip(results) {
                    match result {
                        Committed::Done { events: committed } => {
                            events.extend(committed);
                            answers.push((ack, Ok(())));
                        }
                        Committed::Stale => answers.push((ack, Err(Refusal::Stale))),
                        Committed::OverBudget => answers.push((ack, Err(Refusal::OverBudget))),
                        Committed::OverProject => answers.push((ack, Err(Refusal::OverProject))),
                    }
                }
                let happenings = scribe::happenings(&events);
                if !happenings.is_empty() {
                    // Before the managers hear of it: what they tell the scribe next follows on this.
                    self.args.scribe.tell(scribe::Message::Happened(happenings));
                }
                for (ack, answer) in answers {
                    ack.answer(answer);
                }
                self.args.hub.publish(events);
            }
            Outcome::Done(Err(error)) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(error.code = error.code(), %error, cause, changes = acks.len(), "commit failed");
                for ack in acks {
                    ack.answer(Err(Refusal::Failed {
                        code: error.code(),
                        kind: error.kind(),
                        message: error.to_string(),
                    }));
                }
            }
            // Whether the transaction took place is unknown; the acks say so when they drop.
            Outcome::TimedOut | Outcome::Crashed | Outcome::Cancelled => {
                tracing::error!(changes = acks.len(), "commit did not end in time");
            }
        }
        self.commit_next(myself);
    }

    fn commit_next(&mut self, myself: &ActorRef<Message>) {
        if self.running.is_some() || self.changes.is_empty() {
            return;
        }
        let count = self.changes.len().min(BATCH_MAX);
        let changes: Vec<Change> = self.changes.drain(..count).collect();
        let acks: Vec<Ack> = self.acks.drain(..count).collect();
        let store = self.args.store.clone();
        let work = async move { store.commit(&changes).await };
        self.running =
            Some(pipe_to_self(myself, self.args.commit_limit, work, move |outcome| Message::Committed(acks, outcome)));
    }
}

/// Records `change` and waits for the commit.
pub async fn record(journal: &Room<Message>, change: Change) -> Result<(), Refusal> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let ack = Ack::new(move |result| {
        sender.send(result).ok();
    });
    journal.tell(Message::Record(Box::new(change), ack));
    // The ack answers exactly once, also when the journal dies: this wait ends with the commit limit.
    receiver.await.unwrap_or(Err(Refusal::Unknown))
}
