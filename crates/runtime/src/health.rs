//! Which models answer at the moment: a circuit breaker per model, shared by all runs of the process.
//!
//! **Invariant:** one success closes a breaker; an open one sends calls to the other models of a chain, it never loses one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crewline_engine::route::{
    self,
    breaker::{Breaker, Pass, Rules},
};
use crewline_models::Registry;
use crewline_types::{ModelAlias, Timestamp};

/// The breakers of a registry's models. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Health(Arc<HashMap<ModelAlias, Mutex<Breaker>>>);

impl Health {
    /// Every model is up.
    pub fn new(registry: &Registry) -> Self {
        let closed = || Mutex::new(Breaker::new(Rules::default()));
        Self(Arc::new(registry.models().map(|it| (it.spec.alias.clone(), closed())).collect()))
    }

    fn breaker(&self, model: &ModelAlias) -> Option<MutexGuard<'_, Breaker>> {
        self.0.get(model).map(|it| it.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a call may be made at `now`; a model that failed often may be asked once in a while, to see.
    pub fn admits(&self, model: &ModelAlias, now: Timestamp) -> bool {
        self.breaker(model).is_none_or(|mut it| match it.admit(now) {
            Pass::Yes | Pass::Probe => true,
            Pass::Not { .. } => false,
        })
    }

    /// A call failed; the provider may have said when to come back.
    pub fn failed(&self, model: &ModelAlias, now: Timestamp, retry_after: Option<Duration>) {
        if let Some(mut breaker) = self.breaker(model) {
            breaker.failed(now, retry_after);
        }
    }

    /// A call succeeded.
    pub fn succeeded(&self, model: &ModelAlias) {
        if let Some(mut breaker) = self.breaker(model) {
            breaker.succeeded();
        }
    }

    /// How a model is at `now`.
    pub fn of(&self, model: &ModelAlias, now: Timestamp) -> route::Health {
        match self.breaker(model).map(|it| it.look(now)) {
            Some(Pass::Not { .. }) => {
                route::Health::Down { reason: "it failed several times in a row, or asked to wait" }
            }
            Some(Pass::Yes | Pass::Probe) | None => route::Health::Up,
        }
    }
}
