//! Warden: this process's watch over a database that others share.
//!
//! It shows that the process lives, marks claims lost whose worker does not, takes over runs whose manager is gone, and
//! passes the database's hints on to whom they concern.
//!
//! **Invariant:** a hint only makes sooner what a poll would do; losing every hint loses nothing.

use std::{sync::Arc, time::Duration};

use crewline_store::{Hint, Hints, NodeRow};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::Mutex;

use crate::{
    Handle,
    actor::{Outcome, WorkGuard, ask, pipe_to_self, remind},
    manager, metrics, worker,
};

/// How long one wait for a hint lasts before it is begun anew.
const HINT_LIMIT: Duration = Duration::from_mins(5);
/// A process that was not seen for so many of its leases is not shown any more.
pub(crate) const FORGOTTEN_AFTER: u32 = 4;
/// Wait for the worker to say how busy it is.
const BUSY_LIMIT: Duration = Duration::from_secs(1);

/// The warden actor; all data is in [`State`].
#[derive(Debug)]
pub struct Warden;

/// What you can tell a warden.
pub enum Message {
    /// This process ends what it has and takes nothing more.
    Drain,
    /// Internal: it is time to look.
    Beat,
    /// Internal: everything was looked at.
    Beaten(Outcome<()>),
    /// Internal: the database gave a hint.
    Hinted(Outcome<Hint>),
}

/// Which runs a process takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakeOver {
    /// Those that nobody manages.
    Orphans,
    /// None: it works only.
    Nothing,
}

/// What a warden is started with.
#[derive(Clone)]
pub struct Args {
    /// The runtime.
    pub handle: Handle,
    /// This process, as others see it.
    pub node: NodeRow,
    /// Which runs it takes over.
    pub take_over: TakeOver,
}

/// The watch.
pub struct State {
    args: Args,
    hints: Option<Arc<Mutex<Hints>>>,
    beat: Option<WorkGuard>,
    must_beat_again: bool,
    next_beat: Option<WorkGuard>,
    listening: Option<WorkGuard>,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("warden::Message")
    }
}

impl Actor for Warden {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Message>, args: Args) -> Result<State, ActorProcessingErr> {
        let hints = args.handle.store().hints()?.map(|hints| Arc::new(Mutex::new(hints)));
        let mut state = State { args, hints, beat: None, must_beat_again: false, next_beat: None, listening: None };
        state.on_beat(&myself);
        state.listen(&myself);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Drain => {
                state.args.node.is_draining = true;
                state.args.take_over = TakeOver::Nothing;
                state.on_beat(&myself);
            }
            Message::Beat => state.on_beat(&myself),
            Message::Beaten(outcome) => state.on_beaten(&myself, &outcome),
            Message::Hinted(outcome) => state.on_hinted(&myself, &outcome),
        }
        Ok(())
    }
}

impl State {
    fn on_beat(&mut self, myself: &ActorRef<Message>) {
        if self.beat.is_some() {
            self.must_beat_again = true;
            return;
        }
        let args = self.args.clone();
        let limit = args.handle.limits().lease;
        self.beat = Some(pipe_to_self(myself, limit, async move { beat(args).await }, Message::Beaten));
    }

    fn on_beaten(&mut self, myself: &ActorRef<Message>, outcome: &Outcome<()>) {
        self.beat = None;
        match outcome {
            Outcome::Done(()) | Outcome::Cancelled => {}
            Outcome::Crashed | Outcome::TimedOut => tracing::warn!("the shared database was not looked at in time"),
        }
        if std::mem::take(&mut self.must_beat_again) {
            self.on_beat(myself);
        }
        self.next_beat = Some(remind(myself, self.args.handle.limits().lease / 3, || Message::Beat));
    }

    fn listen(&mut self, myself: &ActorRef<Message>) {
        let Some(hints) = self.hints.clone() else { return };
        let work = async move { hints.lock().await.next().await };
        self.listening = Some(pipe_to_self(myself, HINT_LIMIT, work, Message::Hinted));
    }

    fn on_hinted(&mut self, myself: &ActorRef<Message>, outcome: &Outcome<Hint>) {
        match outcome {
            Outcome::Done(hint) => self.pass_on(myself, *hint),
            Outcome::TimedOut | Outcome::Crashed | Outcome::Cancelled => {}
        }
        self.listen(myself);
    }

    fn pass_on(&mut self, myself: &ActorRef<Message>, hint: Hint) {
        let handle = self.args.handle.clone();
        match hint {
            Hint::Work => handle.tell_worker(worker::Message::Look),
            Hint::Reports(run) => handle.hint_manager(run, manager::Message::Look),
            Hint::Wish(run) => {
                handle.tell_worker(worker::Message::Check);
                handle.hint_manager(run, manager::Message::Look);
            }
            Hint::Events(run) => handle.hint_events(run),
            Hint::Orphan => self.on_beat(myself),
            Hint::Lost => {
                self.on_beat(myself);
                handle.tell_worker(worker::Message::Look);
                handle.hint_managers();
            }
        }
    }
}

/// Shows that this process lives, and forgets those that have not been seen for long.
async fn show(handle: &Handle, node: &NodeRow) -> Result<(), crewline_store::Error> {
    let store = handle.store();
    store.beat_node(node).await?;
    store.forget_nodes(FORGOTTEN_AFTER).await?;
    Ok(())
}

/// Looks at everything that others may have left.
async fn beat(args: Args) {
    let Args { handle, mut node, take_over } = args;
    node.registry = handle.deps().registry().hash();
    if let Some(worker) = handle.worker() {
        let busy = ask(&worker, BUSY_LIMIT, worker::Message::Busy).await.unwrap_or_default();
        node.busy = u32::try_from(busy).unwrap_or(u32::MAX);
    }
    let store = handle.store();
    if let Err(error) = show(&handle, &node).await {
        tracing::warn!(error.code = error.code(), %error, "this process could not be shown as alive");
        return;
    }
    match store.reap_claims().await {
        Ok(0) => {}
        Ok(lost) => {
            metrics::claims_lost(lost);
            tracing::warn!(attempts = lost, "claims of workers that do not answer are lost");
        }
        Err(error) => tracing::warn!(error.code = error.code(), %error, "claims were not looked at"),
    }
    if take_over == TakeOver::Orphans
        && let Err(error) = handle.take_over().await
    {
        tracing::warn!(error.code = error.code(), %error, "runs without a manager were not looked at");
    }
}
