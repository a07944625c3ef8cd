//! Shadow: asks candidates copies of questions, beside the crew.
//!
//! **Invariant:** nobody waits for a copy: one that finds its candidate busy is dropped, and so is every one that comes while the
//! process stops.
//! **Invariant:** a role of the registry has one copy under way at most.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crewline_types::{ModelAlias, Role};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use crate::{
    actor::{Outcome, WorkGuard, pipe_to_self},
    attempt::{Copy, Deps, ask_copy},
    metrics::{self, Copied},
};

/// What recording a copy may take beside the call itself.
const RECORD_LIMIT: Duration = Duration::from_mins(2);

/// The shadow actor; all data is in [`State`].
#[derive(Debug)]
pub struct Shadow;

/// What you can tell a shadow.
#[derive(Debug)]
pub enum Message {
    /// Asks a candidate this question, too.
    Copy(Box<Copy>),
    /// Takes nothing more; answers when nothing is under way.
    Close(RpcReplyPort<()>),
    /// Internal: a copy for a role ended.
    Asked(Role, ModelAlias, Outcome<Copied>),
}

/// The copies under way, by the role whose candidate is asked.
pub struct State {
    deps: Arc<Deps>,
    under_way: HashMap<Role, WorkGuard>,
    is_closing: bool,
    closing: Option<RpcReplyPort<()>>,
}

impl Actor for Shadow {
    type Msg = Message;
    type State = State;
    type Arguments = Arc<Deps>;

    async fn pre_start(&self, _myself: ActorRef<Message>, deps: Arc<Deps>) -> Result<State, ActorProcessingErr> {
        Ok(State { deps, under_way: HashMap::new(), is_closing: false, closing: None })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Copy(copy) => state.on_copy(&myself, *copy),
            Message::Close(reply) => state.on_close(reply),
            Message::Asked(role, model, outcome) => state.on_asked(&role, &model, &outcome),
        }
        Ok(())
    }
}

impl State {
    fn on_copy(&mut self, myself: &ActorRef<Message>, copy: Copy) {
        let (role, model) = (copy.shadow.role.clone(), copy.shadow.model.alias.clone());
        if self.is_closing || self.under_way.contains_key(&role) {
            metrics::copied(&model, Copied::Dropped);
            return;
        }
        let limit = copy.shadow.time_max + RECORD_LIMIT;
        let work = ask_copy(copy, Arc::clone(&self.deps));
        let of = role.clone();
        let guard = pipe_to_self(myself, limit, work, move |outcome| Message::Asked(of, model, outcome));
        self.under_way.insert(role, guard);
    }

    fn on_close(&mut self, reply: RpcReplyPort<()>) {
        self.is_closing = true;
        self.closing = Some(reply);
        self.answer_when_done();
    }

    fn on_asked(&mut self, role: &Role, model: &ModelAlias, outcome: &Outcome<Copied>) {
        self.under_way.remove(role);
        let copied = match outcome {
            Outcome::Done(copied) => *copied,
            Outcome::Crashed | Outcome::TimedOut | Outcome::Cancelled => {
                tracing::warn!(%role, %model, "a copy for a candidate ended without a word: it counts with its worst case");
                Copied::Failed
            }
        };
        metrics::copied(model, copied);
        self.answer_when_done();
    }

    fn answer_when_done(&mut self) {
        if self.under_way.is_empty()
            && let Some(reply) = self.closing.take()
        {
            reply.send(()).ok();
        }
    }
}
