//! Journal: makes changes durable in groups; whatever arrives while a commit runs, or waits for its turn, shares one.
//!
//! **Invariant:** an [`Ack`] answers exactly once, and `Ok` only after the commit.
//! **Invariant:** the changes of a run are committed in the order they arrived; at most one commit runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crewline_store::{Change, Committed, Payer, Store, Turn};
use crewline_types::{ErrorKind, RunId};
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
    /// A cost limit does not cover its calls.
    #[error("a cost limit does not cover the call")]
    OverBudget {
        /// Whose limit.
        whose: Payer,
        /// Whether it may cover them once calls that are open now have ended.
        may_pass: bool,
    },
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

impl Refusal {
    /// Whether the same change may be recorded once calls that are open now have ended.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::OverBudget { may_pass: true, .. })
    }
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
    /// Internal: a commit ended, or the commits that it was divided into.
    Committed(Outcome<Vec<Ended>>),
}

/// Who is to be answered, and how the commit ended.
#[derive(Debug)]
pub struct Ended {
    acks: Vec<Ack>,
    result: Result<Vec<Committed>, crewline_store::Error>,
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

/// Changes that wait. The commit that runs takes them when it is its turn.
#[derive(Clone, Default)]
struct Queue(Arc<Mutex<Vec<(Change, Ack)>>>);

impl Queue {
    fn push(&self, change: Change, ack: Ack) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((change, ack));
    }

    /// Those who wait for a change of one of `runs`.
    fn take_of(&self, runs: &BTreeSet<RunId>) -> Vec<Ack> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extract_if(.., |(change, _)| runs.contains(&change.run)).map(|(_, ack)| ack).collect()
    }

    fn take_all(&self) -> Vec<Ack> {
        let waiting = mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().map(|(_, ack)| ack).collect()
    }

    /// The runs of the changes that come next.
    fn runs(&self) -> BTreeSet<RunId> {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.iter().take(BATCH_MAX).map(|(change, _)| change.run).collect()
    }

    /// The first changes that can be written in this turn.
    fn take(&self, turn: &Turn) -> (Vec<Change>, Vec<Ack>) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extract_if(.., |(change, _)| turn.covers(change.run)).take(BATCH_MAX).unzip()
    }
}

/// Changes that wait, and the commit that runs.
pub struct State {
    args: Args,
    queue: Queue,
    running: Option<WorkGuard>,
}

impl Actor for Journal {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, _myself: ActorRef<Message>, args: Args) -> Result<State, ActorProcessingErr> {
        Ok(State { args, queue: Queue::default(), running: None })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Record(change, ack) => state.on_record(&myself, *change, ack),
            Message::Committed(outcome) => state.on_committed(&myself, outcome),
        }
        Ok(())
    }
}

impl State {
    fn on_record(&mut self, myself: &ActorRef<Message>, change: Change, ack: Ack) {
        self.queue.push(change, ack);
        self.commit_next(myself);
    }

    fn on_committed(&mut self, myself: &ActorRef<Message>, outcome: Outcome<Vec<Ended>>) {
        self.running = None;
        match outcome {
            Outcome::Done(commits) => {
                for ended in commits {
                    self.on_ended(ended);
                }
            }
            // Whether the transaction took place is unknown; the acks said so when they dropped. Who still waited for a turn
            // has waited as long.
            Outcome::TimedOut | Outcome::Crashed | Outcome::Cancelled => {
                tracing::error!("commit did not end in time");
                drop(self.queue.take_all());
            }
        }
        self.commit_next(myself);
    }

    fn on_ended(&self, Ended { acks, result }: Ended) {
        let results = match result {
            Ok(results) => results,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(error.code = error.code(), %error, cause, changes = acks.len(), "commit failed");
                for ack in acks {
                    ack.answer(Err(Refusal::Failed {
                        code: error.code(),
                        kind: error.kind(),
                        message: error.to_string(),
                    }));
                }
                return;
            }
        };
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
                Committed::OverBudget { whose, may_pass } => {
                    answers.push((ack, Err(Refusal::OverBudget { whose, may_pass })));
                }
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

    fn commit_next(&mut self, myself: &ActorRef<Message>) {
        if self.running.is_some() {
            return;
        }
        let runs = self.queue.runs();
        if runs.is_empty() {
            return;
        }
        let work = commit(self.args.store.clone(), self.queue.clone(), runs);
        self.running = Some(pipe_to_self(myself, self.args.commit_limit, work, Message::Committed));
    }
}

async fn commit(store: Store, queue: Queue, runs: BTreeSet<RunId>) -> Vec<Ended> {
    match store.turn(runs.clone()).await {
        Ok(turn) => {
            let (changes, acks) = queue.take(&turn);
            let is_alone = changes.iter().all(|change| change.run == changes[0].run);
            match store.commit_in(turn, &changes).await {
                // A change that the database refuses is a defect, and may be one of its run's only.
                Err(error) if error.kind() == ErrorKind::Internal && !is_alone => {
                    tracing::warn!(error.code = error.code(), %error, "each run is committed by itself");
                    by_run(&store, changes, acks).await
                }
                result => vec![Ended { acks, result }],
            }
        }
        // Others may not be hindered by what these runs are.
        Err(error) => vec![Ended { acks: queue.take_of(&runs), result: Err(error) }],
    }
}

async fn by_run(store: &Store, changes: Vec<Change>, acks: Vec<Ack>) -> Vec<Ended> {
    let mut runs = BTreeMap::<RunId, (Vec<Change>, Vec<Ack>)>::new();
    for (change, ack) in changes.into_iter().zip(acks) {
        let (changes, acks) = runs.entry(change.run).or_default();
        changes.push(change);
        acks.push(ack);
    }
    let mut commits = Vec::with_capacity(runs.len());
    for (changes, acks) in runs.into_values() {
        commits.push(Ended { result: store.commit(&changes).await, acks });
    }
    commits
}

/// Records `change` and waits for the commit.
pub async fn record(journal: &Room<Message>, change: Change) -> Result<(), Refusal> {
    record_and(journal, change, || {}).await
}

/// The same, and once it is recorded `then`, also when nobody waits any more.
///
/// The journal has the change when this returns, also before its answer is waited for.
pub fn record_and<F: FnOnce() + Send + 'static>(
    journal: &Room<Message>,
    change: Change,
    then: F,
) -> impl Future<Output = Result<(), Refusal>> + Send + use<F> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let ack = Ack::new(move |result: Result<(), Refusal>| {
        if result.is_ok() {
            then();
        }
        sender.send(result).ok();
    });
    journal.tell(Message::Record(Box::new(change), ack));
    // The ack answers exactly once, also when the journal dies: this wait ends with the commit limit.
    async move { receiver.await.unwrap_or(Err(Refusal::Unknown)) }
}

#[cfg(test)]
mod tests {
    use crewline_types::{
        IdSource, Timestamp,
        event::{EventBody, NewEvent},
    };

    use super::*;
    use crate::bounds::claimed_run_in;

    #[tokio::test]
    async fn a_change_that_the_database_refuses_is_not_told_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("sqlite:{}", folder.path().join("crewline.db").display())).await.unwrap();
        let mut ids = IdSource::seeded(1);
        let (queue, mut runs) = (Queue::default(), Vec::new());
        for name in ["first", "broken", "last"] {
            let (run, root, epoch) = claimed_run_in(&store, &mut ids).await;
            let mut change = Change::new(run, epoch, Timestamp(1));
            let body = EventBody::AwaitingApproval { what: name.into(), approval: None, kind: None };
            change.events.push(NewEvent::of_run(Timestamp(1), body));
            if name == "broken" {
                // It is there already.
                change.tasks.push(crate::launch::root_task(run, root, "g", Timestamp(1)));
            }
            queue.push(change, Ack::new(drop));
            runs.push(run);
        }
        let commits = commit(store.clone(), queue.clone(), queue.runs()).await;
        assert_eq!(commits.iter().filter(|it| it.result.is_ok() && it.acks.len() == 1).count(), 2);
        assert_eq!(commits.iter().filter(|it| it.result.is_err() && it.acks.len() == 1).count(), 1);
        for (run, seqs) in runs.iter().zip([1, 0, 1]) {
            assert_eq!(store.run(*run).await.unwrap().unwrap().last_seq, seqs);
        }
    }

    #[tokio::test]
    async fn a_transaction_takes_so_many_changes_and_the_next_one_the_rest() {
        let store = Store::open("sqlite::memory:").await.unwrap();
        let (queue, run) = (Queue::default(), RunId::new(&mut IdSource::seeded(1)));
        for _ in 0..BATCH_MAX + 88 {
            queue.push(Change::new(run, 1, Timestamp(0)), Ack::new(drop));
        }
        let turn = store.turn(queue.runs()).await.unwrap();
        assert_eq!(queue.take(&turn).0.len(), 512);
        assert_eq!(queue.take(&turn).0.len(), 88);
    }

    #[test]
    fn the_trouble_of_some_runs_is_not_told_to_others() {
        let queue = Queue::default();
        let [one, other]: [RunId; 2] = ["aaaaaaaa", "bbbbbbbb"].map(|id| id.parse().unwrap());
        for run in [one, other, one] {
            queue.push(Change::new(run, 1, Timestamp(0)), Ack::new(|_| {}));
        }
        assert_eq!(queue.take_of(&[one].into()).len(), 2);
        assert_eq!(queue.runs(), [other].into());
    }
}
