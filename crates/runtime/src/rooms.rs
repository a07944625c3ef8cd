//! Where the current instance of each actor is found.
//!
//! **Invariant:** an address is replaced before the new instance is told anything, so nobody keeps a dead one for long.

use std::sync::{Arc, PoisonError, RwLock};

use ractor::{ActorRef, Message};

use crate::{actor::tell, journal, memory, router, scribe, shadow, warden, worker};

/// The address of an actor that may be restarted.
#[derive(Debug)]
pub struct Room<M>(Arc<RwLock<Option<ActorRef<M>>>>);

impl<M> Clone for Room<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M> Default for Room<M> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<M: Message> Room<M> {
    /// Who is in now; `None` between a crash and the restart.
    pub fn current(&self) -> Option<ActorRef<M>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Moves the next instance in.
    pub fn enter(&self, actor: ActorRef<M>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(actor);
    }

    /// Sends `message` to whoever is in; dropped (and so reported by its owner) when nobody is.
    pub fn tell(&self, message: M) {
        if let Some(actor) = self.current() {
            tell(&actor, message);
        }
    }
}

/// The actors that every run shares.
#[derive(Debug, Clone, Default)]
pub struct Rooms {
    /// Makes changes durable.
    pub journal: Room<journal::Message>,
    /// Keeps what was learnt.
    pub memory: Room<memory::Message>,
    /// Sums up what tasks make.
    pub scribe: Room<scribe::Message>,
    /// Asks candidates copies of questions.
    pub shadow: Room<shadow::Message>,
    /// Picks models and hands work to specialists.
    pub router: Room<router::Message>,
    /// Claims what managers elsewhere offer; only in a process that works for others.
    pub worker: Room<worker::Message>,
    /// Watches a database that others share; only in a process that has joined them.
    pub warden: Room<warden::Message>,
}
