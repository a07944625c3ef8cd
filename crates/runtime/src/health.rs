//! Which models answer at the moment: a circuit breaker per model, shared by all runs of the process.
//!
//! **Invariant:** one success closes a breaker; an open one sends calls to the other models of a chain, it never loses one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crewline_engine::route::{
    self,
    breaker::{Breaker, Pass, Rules},
};
use crewline_models::{Error, Registry};
use crewline_types::{ModelAlias, Timestamp};

use crate::metrics;

/// The models that were asked. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<HashMap<ModelAlias, Known>>>);

/// What is known of a model.
#[derive(Debug)]
struct Known {
    breaker: Breaker,
    /// Whether anything ever came back from its provider.
    was_reached: bool,
    /// Its last failure, until it answers.
    last_words: Option<String>,
}

impl Health {
    /// Runs `work` on what is known of a model; one that was never asked is closed.
    fn with<R>(&self, model: &ModelAlias, work: impl FnOnce(&mut Known) -> R) -> R {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Known { breaker: Breaker::new(Rules::default()), was_reached: false, last_words: None };
        match all.get_mut(model) {
            Some(known) => work(known),
            None => work(all.entry(model.clone()).or_insert_with(new)),
        }
    }

    /// Forgets the models that the registry no longer has.
    pub fn keep(&self, registry: &Registry) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|alias, _| registry.model(alias.as_str()).is_some());
    }

    /// Asks to make a call at `now`; a model that failed often may be asked once in a while, to see.
    pub fn admit(&self, model: &ModelAlias, now: Timestamp) -> Pass {
        let pass = self.with(model, |it| it.breaker.admit(now));
        if pass == Pass::Probe {
            metrics::breaker(model, metrics::Breaker::HalfOpen);
        }
        pass
    }

    /// What [`Self::admit`] would say; nothing changes.
    pub fn pass(&self, model: &ModelAlias, now: Timestamp) -> Pass {
        self.with(model, |it| it.breaker.look(now))
    }

    /// A call failed; the provider may have said when to come back.
    pub fn failed(&self, model: &ModelAlias, now: Timestamp, error: &Error) {
        let pass = self.with(model, |it| {
            it.was_reached |= !error.is_unreached();
            it.last_words = Some(error.to_string());
            it.breaker.failed(now, error.retry_after());
            it.breaker.look(now)
        });
        if matches!(pass, Pass::Not { .. }) {
            metrics::breaker(model, metrics::Breaker::Open);
        }
    }

    /// Its whole chain is down, here or (`until`) at a worker; answers when it may be asked again.
    pub fn trip(&self, model: &ModelAlias, now: Timestamp, until: Option<Timestamp>) -> Timestamp {
        let pass = self.with(model, |it| {
            it.breaker.trip(now, until);
            it.breaker.look(now)
        });
        metrics::breaker(model, metrics::Breaker::Open);
        match pass {
            Pass::Not { until } => until,
            Pass::Yes | Pass::Probe => now,
        }
    }

    /// A call succeeded.
    pub fn succeeded(&self, model: &ModelAlias) {
        let is_news = self.with(model, |it| {
            it.was_reached = true;
            it.last_words = None;
            it.breaker.succeeded()
        });
        if is_news {
            metrics::breaker(model, metrics::Breaker::Closed);
        }
    }

    /// Whether anything ever came back from its provider, be it an error.
    pub fn was_reached(&self, model: &ModelAlias) -> bool {
        self.with(model, |it| it.was_reached)
    }

    /// Why it is down, for people.
    pub fn last_words(&self, model: &ModelAlias) -> String {
        self.with(model, |it| it.last_words.clone()).unwrap_or_else(|| format!("`{model}` does not answer"))
    }

    /// How a model is at `now`.
    pub fn of(&self, model: &ModelAlias, now: Timestamp) -> route::Health {
        match self.pass(model, now) {
            Pass::Not { .. } => route::Health::Down { reason: "it failed several times in a row, or asked to wait" },
            Pass::Yes | Pass::Probe => route::Health::Up,
        }
    }
}
