//! Tasks that wait because their whole chain of models is down.
//!
//! **Invariant:** a task that waits holds no place among the attempts of the run and uses up no try.
//! **Invariant:** nobody waits longer than `policies.outage_max`, nor past the limit on the run's time.

use std::sync::Arc;

use crewline_engine::schedule::{self, Retry};
use crewline_types::{
    Timestamp,
    event::{EventBody, NewEvent},
    task::PARKED,
};
use ractor::ActorRef;

use crate::{actor::remind, brief::TaskBrief, health::Health, metrics, outage::Outage};

use super::{Message, State, run::Running};

/// The place of the root task among those that wait.
pub(super) const ROOT: u32 = u32::MAX;

impl Running {
    /// Lets a task wait for its models; else says whether another attempt may help.
    pub(super) fn park(&mut self, node: u32, outage: &Outage, health: &Health, now: Timestamp) -> Result<(), Retry> {
        let has_answered = outage.models.iter().any(|(alias, _)| self.answered.contains(alias));
        if !outage.was_reached && !has_answered {
            return Err(Retry::May);
        }
        // A worker's breakers are not ours: what it found holds here as well.
        for (alias, until) in &outage.models {
            health.trip(alias, now, Some(*until));
        }
        let models = outage.models.iter().map(|(alias, _)| alias.clone()).collect();
        if self.lot.park(node, models, now, self.policies.outage_max) { Ok(()) } else { Err(Retry::Never) }
    }
}

/// Why a parked task is pending, as its row keeps it.
pub(super) fn reason(outage: &Outage) -> String {
    let models: Vec<String> = outage.models.iter().map(|(alias, _)| format!("`{alias}`")).collect();
    format!("{PARKED}waits for {} ({})", models.join(", "), outage.error.message)
}

/// The event of a task that waits.
pub(super) fn event(task: &TaskBrief, attempt: u32, outage: &Outage, at: Timestamp) -> NewEvent {
    metrics::parked();
    let body = EventBody::TaskParked {
        key: Arc::clone(&task.key),
        role: task.role.clone(),
        models: outage.models.iter().map(|(alias, _)| alias.as_str().into()).collect(),
        error: outage.error.clone(),
        until: outage.until(),
    };
    NewEvent::of_task(at, task.id, Some(attempt), body)
}

impl State {
    /// Wakes whoever may go on, and looks again later while somebody waits.
    pub(super) fn look_at_parked(&mut self, myself: &ActorRef<Message>) {
        let (now, health) = (self.args.deps.clock.now(), self.args.deps.health.clone());
        let Some(run) = self.run.as_mut().filter(|run| !run.is_ending && !run.lot.is_empty()) else {
            self.parking = None;
            return;
        };
        let look = run.lot.look(now, run.policies.outage_max, |model| health.pass(model, now));
        self.looks += 1;
        let turn = self.looks;
        self.parking = look.next.map(|at| remind(myself, at.since(now), move || Message::LookAtParked(turn)));
        for node in look.wake {
            if node == ROOT {
                self.plan(myself);
            } else {
                self.apply(myself, schedule::Event::RetryDue { node });
            }
        }
    }

    /// Whether planning waits for its models; it does no longer.
    pub(super) fn unpark_planning(&mut self) -> bool {
        let Some(run) = self.run.as_mut() else { return false };
        run.dag.is_none() && run.lot.forget(ROOT)
    }
}
