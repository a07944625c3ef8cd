//! Root: supervises everything; starts what is missing, restarts what died, and gives up when that does not help.
//!
//! **Invariant:** each actor is restarted at most `restarts_max` times per window. After that a manager's run is given up; for
//! an actor that all runs need the root fails, and with it the runtime, so that a person sees it.
//! **Invariant:** a manager that stopped by itself is done; one that failed is loaded anew from the database.

mod restarts;
mod wishes;

use std::{collections::HashMap, sync::Arc, time::Duration};

use crewline_store::Wish;
use crewline_types::{RunId, event::ErrorNote};
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};

use crate::{
    Error,
    actor::{Outcome, WorkGuard, tell},
    attempt::Deps,
    journal::{self, Journal},
    library::Library,
    manager::{self, Manager},
    memory::Memory,
    metrics,
    router::Router,
    scribe::{self, Scribe},
    shadow::Shadow,
    warden::{self, Warden},
    worker::{self, Worker},
};

use self::restarts::Restarts;

/// How often the database is looked at for what others wish of our runs.
const WISH_PAUSE: Duration = Duration::from_secs(1);

/// The root actor; all data is in [`State`].
#[derive(Debug)]
pub struct Root;

/// What you can tell the root.
pub enum Message {
    /// Starts a manager for a run.
    Launch(Box<manager::Args>, RpcReplyPort<()>),
    /// Passes a message on to a run's manager; answers whether there is one.
    ToManager(RunId, manager::Message, RpcReplyPort<bool>),
    /// Answers how many runs are active.
    Active(RpcReplyPort<usize>),
    /// Passes a message on to a run's manager, if there is one.
    Hint(RunId, manager::Message),
    /// Passes a message on to every manager.
    ToManagers(fn() -> manager::Message),
    /// Starts the worker of this process.
    Work(worker::Args, RpcReplyPort<()>),
    /// Starts the watch over a shared database.
    Watch(Box<warden::Args>, RpcReplyPort<()>),
    /// Somebody may wish something of our runs.
    LookForWishes,
    /// Internal: what they wish.
    Wished(Outcome<Result<Vec<(RunId, Wish)>, crewline_store::Error>>),
    /// Internal: the pause before a restart is over.
    Restart(Child),
    /// Internal: a run whose manager failed again and again is recorded as interrupted, or not.
    GivenUp(RunId, ErrorNote, Outcome<Result<(), Error>>),
    /// For tests: the current manager of a run.
    #[cfg(test)]
    Manager(RunId, RpcReplyPort<Option<ActorRef<manager::Message>>>),
}

/// What the root keeps alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Child {
    /// The journal.
    Journal,
    /// Memory.
    Memory,
    /// The scribe.
    Scribe,
    /// Who asks candidates.
    Shadow,
    /// The router.
    Router,
    /// The worker, where there is one.
    Worker,
    /// The watch over a shared database.
    Warden,
    /// The manager of a run.
    Manager(RunId),
}

impl Child {
    fn name(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Memory => "memory",
            Self::Scribe => "scribe",
            Self::Shadow => "shadow",
            Self::Router => "router",
            Self::Worker => "worker",
            Self::Warden => "warden",
            Self::Manager(_) => "manager",
        }
    }
}

/// What the root is started with.
pub struct Args {
    /// What attempts work with, and where the shared actors are found.
    pub deps: Arc<Deps>,
    /// For the journal.
    pub journal: journal::Args,
    /// For memory.
    pub memory: Library,
}

/// The children.
pub struct State {
    args: Args,
    children: HashMap<ActorId, Child>,
    managers: HashMap<RunId, (manager::Args, Option<ActorRef<manager::Message>>)>,
    worker: Option<worker::Args>,
    warden: Option<warden::Args>,
    restarts: Restarts,
    /// What goes on for a child that is not there.
    pauses: HashMap<Child, WorkGuard>,
    /// The next look for wishes, or the one that goes on.
    wishes: Option<WorkGuard>,
}

impl Actor for Root {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Message>, args: Args) -> Result<State, ActorProcessingErr> {
        let mut state = State {
            args,
            children: HashMap::new(),
            managers: HashMap::new(),
            worker: None,
            warden: None,
            restarts: Restarts::default(),
            pauses: HashMap::new(),
            wishes: None,
        };
        for child in [Child::Scribe, Child::Journal, Child::Memory, Child::Shadow, Child::Router] {
            state.start(&myself, child).await?;
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Launch(args, reply) => state.on_launch(&myself, *args, reply).await?,
            Message::ToManager(run, message, reply) => state.on_to_manager(run, message, reply),
            Message::Active(reply) => {
                reply.send(state.managers.len()).ok();
            }
            Message::Hint(run, message) => state.on_hint(run, message),
            Message::ToManagers(message) => state.on_to_managers(message),
            Message::Work(args, reply) => {
                state.worker = Some(args);
                state.start(&myself, Child::Worker).await?;
                reply.send(()).ok();
            }
            Message::Watch(args, reply) => {
                state.warden = Some(*args);
                state.start(&myself, Child::Warden).await?;
                reply.send(()).ok();
            }
            Message::LookForWishes => state.on_look_for_wishes(&myself),
            Message::Wished(outcome) => state.on_wished(&myself, outcome),
            Message::Restart(child) => state.on_restart(&myself, child).await?,
            Message::GivenUp(run, note, outcome) => state.on_given_up(run, note, outcome),
            #[cfg(test)]
            Message::Manager(run, reply) => {
                reply.send(state.managers.get(&run).and_then(|(_, it)| it.clone())).ok();
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            // A killed actor arrives here too, with the reason `killed`; an orderly stop of ours gives none.
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                state.on_gone(&myself, &cell, reason.is_none(), reason.as_deref().unwrap_or("stopped"))
            }
            SupervisionEvent::ActorFailed(cell, error) => state.on_gone(&myself, &cell, false, &error.to_string()),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => Ok(()),
        }
    }
}

impl State {
    async fn start(&mut self, myself: &ActorRef<Message>, child: Child) -> Result<(), ActorProcessingErr> {
        let root = myself.get_cell();
        let rooms = &self.args.deps.rooms;
        let id = match child {
            Child::Journal => {
                let (journal, _) = Actor::spawn_linked(None, Journal, self.args.journal.clone(), root).await?;
                rooms.journal.enter(journal.clone());
                journal.get_id()
            }
            Child::Memory => {
                let (memory, _) = Actor::spawn_linked(None, Memory, self.args.memory.clone(), root).await?;
                rooms.memory.enter(memory.clone());
                memory.get_id()
            }
            Child::Scribe => {
                let (deps, library) = (Arc::clone(&self.args.deps), self.args.memory.clone());
                let args = scribe::Args { deps, library };
                let (scribe, _) = Actor::spawn_linked(None, Scribe, args, root).await?;
                rooms.scribe.enter(scribe.clone());
                scribe.get_id()
            }
            Child::Shadow => {
                let (shadow, _) = Actor::spawn_linked(None, Shadow, Arc::clone(&self.args.deps), root).await?;
                rooms.shadow.enter(shadow.clone());
                shadow.get_id()
            }
            Child::Router => {
                let (router, _) = Actor::spawn_linked(None, Router, Arc::clone(&self.args.deps), root).await?;
                rooms.router.enter(router.clone());
                router.get_id()
            }
            Child::Worker => {
                let Some(args) = self.worker.clone() else { return Ok(()) };
                let (worker, _) = Actor::spawn_linked(None, Worker, args, root).await?;
                rooms.worker.enter(worker.clone());
                worker.get_id()
            }
            Child::Warden => {
                let Some(args) = self.warden.clone() else { return Ok(()) };
                let (warden, _) = Actor::spawn_linked(None, Warden, args, root).await?;
                rooms.warden.enter(warden.clone());
                warden.get_id()
            }
            Child::Manager(run) => {
                let Some((args, current)) = self.managers.get_mut(&run) else { return Ok(()) };
                let (manager, _) = Actor::spawn_linked(None, Manager, args.clone(), root).await?;
                *current = Some(manager.clone());
                manager.get_id()
            }
        };
        self.children.insert(id, child);
        Ok(())
    }

    async fn on_launch(
        &mut self,
        myself: &ActorRef<Message>,
        args: manager::Args,
        reply: RpcReplyPort<()>,
    ) -> Result<(), ActorProcessingErr> {
        let run = args.run;
        let child = Child::Manager(run);
        self.managers.insert(run, (args, None));
        self.restarts.forget(child);
        if let Err(error) = self.start(myself, child).await {
            self.on_failed(myself, child, &error.to_string())?;
        }
        self.watch_wishes(myself);
        metrics::runs_active(self.managers.len());
        reply.send(()).ok();
        Ok(())
    }

    fn on_to_manager(&self, run: RunId, message: manager::Message, reply: RpcReplyPort<bool>) {
        let manager = self.managers.get(&run).and_then(|(_, manager)| manager.as_ref());
        if let Some(manager) = manager {
            tell(manager, message);
        }
        reply.send(manager.is_some()).ok();
    }

    fn on_hint(&self, run: RunId, message: manager::Message) {
        if let Some(manager) = self.managers.get(&run).and_then(|(_, manager)| manager.as_ref()) {
            tell(manager, message);
        }
    }

    fn on_to_managers(&self, message: fn() -> manager::Message) {
        for manager in self.managers.values().filter_map(|(_, manager)| manager.as_ref()) {
            tell(manager, message());
        }
    }

    fn on_gone(
        &mut self,
        myself: &ActorRef<Message>,
        cell: &ActorCell,
        is_orderly: bool,
        reason: &str,
    ) -> Result<(), ActorProcessingErr> {
        let Some(child) = self.children.remove(&cell.get_id()) else { return Ok(()) };
        match (child, is_orderly) {
            (Child::Manager(run), true) => {
                self.managers.remove(&run);
                self.restarts.forget(child);
                metrics::runs_active(self.managers.len());
                return Ok(());
            }
            // It was told to end.
            (Child::Worker, true) => {
                self.worker = None;
                return Ok(());
            }
            (
                Child::Journal
                | Child::Memory
                | Child::Scribe
                | Child::Shadow
                | Child::Router
                | Child::Warden
                | Child::Manager(_)
                | Child::Worker,
                _,
            ) => {}
        }
        self.on_failed(myself, child, reason)
    }

    async fn on_restart(&mut self, myself: &ActorRef<Message>, child: Child) -> Result<(), ActorProcessingErr> {
        self.pauses.remove(&child);
        match self.start(myself, child).await {
            Ok(()) => Ok(()),
            Err(error) => self.on_failed(myself, child, &error.to_string()),
        }
    }
}
