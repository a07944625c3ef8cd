//! What somebody in another process wishes of the runs that are managed here.
//!
//! **Invariant:** one question a second for all runs of this process, and none while it has no run.

use crewline_store::Wish;
use crewline_types::RunId;
use ractor::ActorRef;

use crate::{
    actor::{Outcome, pipe_to_self, remind, tell},
    control::message_of,
};

use super::{Message, State, WISH_PAUSE};

impl State {
    /// Looks now and then from now on, unless that goes on already.
    pub(super) fn watch_wishes(&mut self, myself: &ActorRef<Message>) {
        if self.wishes.is_none() {
            self.wishes = Some(remind(myself, WISH_PAUSE, || Message::LookForWishes));
        }
    }

    pub(super) fn on_look_for_wishes(&mut self, myself: &ActorRef<Message>) {
        if self.managers.is_empty() {
            self.wishes = None;
            return;
        }
        let runs: Vec<RunId> = self.managers.keys().copied().collect();
        let store = self.args.journal.store.clone();
        let work = async move { store.wishes(&runs).await };
        self.wishes = Some(pipe_to_self(myself, self.args.deps.limits.commit, work, Message::Wished));
    }

    pub(super) fn on_wished(
        &mut self,
        myself: &ActorRef<Message>,
        outcome: Outcome<Result<Vec<(RunId, Wish)>, crewline_store::Error>>,
    ) {
        match outcome {
            Outcome::Done(Ok(wishes)) => {
                for (run, wish) in wishes {
                    if let Some((_, Some(manager))) = self.managers.get(&run) {
                        // Told again until the run has ended: a manager that was restarted may have forgotten.
                        tell(manager, message_of(wish));
                    }
                }
            }
            Outcome::Done(Err(error)) => {
                tracing::warn!(error.code = error.code(), %error, "wishes could not be read, trying again");
            }
            Outcome::Crashed | Outcome::TimedOut | Outcome::Cancelled => {
                tracing::warn!("wishes were not read in time, trying again");
            }
        }
        self.wishes = Some(remind(myself, WISH_PAUSE, || Message::LookForWishes));
    }
}
