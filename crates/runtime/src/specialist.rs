//! Specialist: runs at most `slots` attempts of its role at once; further ones wait in a bounded queue.
//!
//! **Invariant:** nothing starts while `running.len() >= slots`; `waiting.len() <= queue_max`.
//! **Invariant:** an attempt that is dropped, running or waiting, is reported by its own obligation.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crewline_types::{AttemptId, RunId};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::{
    actor::{Outcome, WorkGuard, pipe_to_self},
    assignment::{Assignment, Failure},
    attempt::{self, Deps},
};

/// The specialist actor; all data is in [`State`].
#[derive(Debug)]
pub struct Specialist;

/// What you can tell a specialist.
#[derive(Debug)]
pub enum Message {
    /// Takes on one assignment.
    Run(Box<Assignment>),
    /// Drops everything that a run's manager asked for.
    CancelRun(RunId),
    /// Drops these attempts, as far as they are here.
    CancelAttempts(Arc<[AttemptId]>),
    /// The registry gives the role other slots; what runs goes on.
    Resize(usize),
    /// Internal: an attempt's work ended and has reported itself.
    Finished(AttemptId, Outcome<()>),
}

/// What a specialist is started with.
pub struct Args {
    /// What its attempts work with.
    pub deps: Arc<Deps>,
    /// Attempts that run at once.
    pub slots: usize,
    /// Assignments that may wait.
    pub queue_max: usize,
}

/// Running and waiting attempts.
pub struct State {
    args: Args,
    /// With the run whose manager asked; what a worker asked for outlives its run's manager.
    running: HashMap<AttemptId, (WorkGuard, Option<RunId>)>,
    waiting: VecDeque<Box<Assignment>>,
}

impl Actor for Specialist {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, _myself: ActorRef<Message>, args: Args) -> Result<State, ActorProcessingErr> {
        Ok(State { args, running: HashMap::new(), waiting: VecDeque::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Run(assignment) => state.on_run(&myself, assignment),
            Message::CancelRun(run) => state.on_cancel_run(&myself, run),
            Message::CancelAttempts(attempts) => state.on_cancel_attempts(&myself, &attempts),
            Message::Resize(slots) => {
                state.args.slots = slots;
                state.start_waiting(&myself);
            }
            Message::Finished(attempt, outcome) => state.on_finished(&myself, attempt, &outcome),
        }
        Ok(())
    }
}

impl State {
    fn on_run(&mut self, myself: &ActorRef<Message>, assignment: Box<Assignment>) {
        if self.running.len() < self.args.slots {
            self.start(myself, assignment);
        } else if self.waiting.len() < self.args.queue_max {
            self.waiting.push_back(assignment);
        } else {
            assignment.obligation.report(Err(Failure::Busy));
        }
    }

    fn on_cancel_run(&mut self, myself: &ActorRef<Message>, run: RunId) {
        // Dropping a guard aborts the attempt, whose obligation then reports it.
        self.running.retain(|_, (_, of)| *of != Some(run));
        self.waiting.retain(|it| it.run.managed() != Some(run));
        self.start_waiting(myself);
    }

    fn on_cancel_attempts(&mut self, myself: &ActorRef<Message>, attempts: &[AttemptId]) {
        for attempt in attempts {
            self.running.remove(attempt);
        }
        self.waiting.retain(|it| !attempts.contains(&it.attempt));
        self.start_waiting(myself);
    }

    fn on_finished(&mut self, myself: &ActorRef<Message>, attempt: AttemptId, outcome: &Outcome<()>) {
        match outcome {
            Outcome::Done(()) | Outcome::Cancelled => {}
            Outcome::Crashed => tracing::error!(%attempt, "attempt panicked"),
            Outcome::TimedOut => tracing::warn!(%attempt, "attempt took longer than allowed"),
        }
        self.running.remove(&attempt);
        self.start_waiting(myself);
    }

    fn start_waiting(&mut self, myself: &ActorRef<Message>) {
        while self.running.len() < self.args.slots
            && let Some(next) = self.waiting.pop_front()
        {
            self.start(myself, next);
        }
    }

    fn start(&mut self, myself: &ActorRef<Message>, assignment: Box<Assignment>) {
        debug_assert!(self.running.len() < self.args.slots);
        let (attempt, run) = (assignment.attempt, assignment.run.managed());
        // The attempt keeps its own limit and reports it; this one is only the backstop.
        let limit = 2 * self.args.deps.limits.attempt;
        let work = attempt::run(assignment, Arc::clone(&self.args.deps));
        let guard = pipe_to_self(myself, limit, work, move |outcome| Message::Finished(attempt, outcome));
        self.running.insert(attempt, (guard, run));
    }
}
