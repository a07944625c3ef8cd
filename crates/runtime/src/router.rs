//! Router: picks the chain of models for an assignment and hands it to the role's specialist.
//!
//! **Invariant:** an assignment that can not be handed on is reported, never dropped silently.
//! **Invariant:** one specialist per role; a dead one is replaced by the next assignment of its role.

use std::{collections::HashMap, sync::Arc};

use crewline_engine::{
    context::{Tier, estimate_tokens},
    route::{self, Decision, Request, Traits, View},
};
use crewline_types::{AttemptId, ErrorKind, Role, RunId, event::ErrorNote};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::{
    actor::tell,
    assignment::{Assignment, Failure},
    attempt::Deps,
    explain::candidates,
    metrics,
    specialist::{self, Specialist},
};

/// The router actor; all data is in [`State`].
#[derive(Debug)]
pub struct Router;

/// What you can tell a router.
#[derive(Debug)]
pub enum Message {
    /// Routes one assignment.
    Assign(Box<Assignment>),
    /// Drops everything that a run's manager asked for, running or waiting.
    CancelRun(RunId),
    /// Drops these attempts, running or waiting.
    CancelAttempts(Arc<[AttemptId]>),
    /// For tests: the specialist of a role.
    #[cfg(test)]
    Specialist(Role, ractor::RpcReplyPort<Option<ActorRef<specialist::Message>>>),
}

/// The specialists by role.
pub struct State {
    deps: Arc<Deps>,
    /// With the slots each was told of.
    specialists: HashMap<Role, (ActorRef<specialist::Message>, usize)>,
}

impl Actor for Router {
    type Msg = Message;
    type State = State;
    type Arguments = Arc<Deps>;

    async fn pre_start(&self, _myself: ActorRef<Message>, deps: Arc<Deps>) -> Result<State, ActorProcessingErr> {
        Ok(State { deps, specialists: HashMap::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Assign(assignment) => state.on_assign(&myself, *assignment).await,
            Message::CancelRun(run) => state.on_cancel_run(run),
            Message::CancelAttempts(attempts) => state.on_cancel_attempts(&attempts),
            #[cfg(test)]
            Message::Specialist(role, reply) => {
                reply.send(state.specialists.get(&role).map(|(it, _)| it.clone())).ok();
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.on_supervision(&event);
        Ok(())
    }
}

impl State {
    async fn on_assign(&mut self, myself: &ActorRef<Message>, mut assignment: Assignment) {
        let decision = self.choose(&assignment);
        if decision.rungs.is_empty() {
            let skipped: Vec<String> =
                decision.skipped.iter().map(|it| format!("`{}`: {}", it.alias, it.reason)).collect();
            let message = format!("no model may be asked for role `{}`: {}", assignment.task.role, skipped.join("; "));
            let note =
                ErrorNote { code: "route.no_model".into(), kind: ErrorKind::Unavailable, message: message.into() };
            assignment.obligation.report(Err(Failure::Models { error: note, may_retry: false }));
            return;
        }
        assignment.route = candidates(&decision);
        assignment.rungs = decision.rungs.into_iter().map(|rung| rung.model).collect();
        match self.specialist(myself, &assignment.task.role).await {
            Ok(specialist) => tell(&specialist, specialist::Message::Run(Box::new(assignment))),
            Err(error) => {
                // The assignment drops here, and its obligation reports it as lost.
                tracing::error!(role = %assignment.task.role, %error, "specialist did not start");
            }
        }
    }

    fn choose(&self, assignment: &Assignment) -> Decision {
        let (deps, task) = (&self.deps, &assignment.task);
        let own = assignment.run.models.get(&*task.key);
        let registry = assignment.models.registry();
        // A person's word for this task goes before the rules of its role.
        let rules = if own.is_some() { &[][..] } else { registry.routes(&task.role) };
        let input_tokens = estimate_tokens(&task.description);
        let traits = if rules.is_empty() {
            Traits::default()
        } else {
            let requires = assignment.sources.iter().filter(|it| it.tier == Tier::Requires).count();
            let criteria = task.success_criteria.len();
            Traits::of(&task.title, &task.description, input_tokens, criteria, requires)
        };
        let request =
            Request { role: &task.role, kind: task.kind, input_tokens, mode: assignment.run.mode, traits: &traits };
        let chain = match own.and_then(|alias| registry.model(alias.as_str())) {
            Some(model) => std::slice::from_ref(model),
            None => registry.chain(&task.role),
        };
        let now = deps.clock.now();
        let remaining = assignment.run.purse.remaining(task.id);
        let loaded = deps.residence.of(&assignment.models, chain, &deps.clock);
        deps.experience.with(|learned| {
            let view = View {
                chain,
                health: &|alias| deps.health.of(alias, now),
                remaining,
                learned: Some(learned),
                rules,
                is_loaded: &|alias| loaded.get(alias).copied(),
            };
            route::choose(&request, &view)
        })
    }

    async fn specialist(
        &mut self,
        myself: &ActorRef<Message>,
        role: &Role,
    ) -> Result<ActorRef<specialist::Message>, ractor::SpawnErr> {
        let slots = self.deps.registry().slots(role).map_or(usize::MAX, |slots| slots as usize);
        if let Some((specialist, given)) = self.specialists.get_mut(role) {
            if *given != slots {
                *given = slots;
                tell(specialist, specialist::Message::Resize(slots));
            }
            return Ok(specialist.clone());
        }
        let args = specialist::Args { deps: Arc::clone(&self.deps), slots, queue_max: self.deps.limits.queue_max };
        let (specialist, _) = Actor::spawn_linked(None, Specialist, args, myself.get_cell()).await?;
        self.specialists.insert(role.clone(), (specialist.clone(), slots));
        Ok(specialist)
    }

    fn on_cancel_run(&self, run: RunId) {
        for (specialist, _) in self.specialists.values() {
            tell(specialist, specialist::Message::CancelRun(run));
        }
    }

    fn on_cancel_attempts(&self, attempts: &Arc<[AttemptId]>) {
        for (specialist, _) in self.specialists.values() {
            tell(specialist, specialist::Message::CancelAttempts(Arc::clone(attempts)));
        }
    }

    fn on_supervision(&mut self, event: &SupervisionEvent) {
        match event {
            SupervisionEvent::ActorTerminated(cell, ..) | SupervisionEvent::ActorFailed(cell, _) => {
                metrics::restart("specialist");
                self.specialists.retain(|_, (it, _)| it.get_id() != cell.get_id());
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
    }
}
