//! Which models answer at the moment: a circuit breaker per model, shared by all runs of the process.
//!
//! **Invariant:** one success closes a breaker; an open one is only an advice on order, never a lost call.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU32, Ordering},
    },
    time::Duration,
};

use crewline_engine::route;
use crewline_models::Registry;
use crewline_types::{ModelAlias, Timestamp};

/// Failures in a row that open a breaker.
const FAILURES_MAX: u32 = 5;
/// How long an open breaker stays open.
const COOLDOWN: Duration = Duration::from_secs(10);
/// The longest `Retry-After` that is honoured.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(2);

#[derive(Debug, Default)]
struct Breaker {
    failures: AtomicU32,
    open_until: AtomicI64,
}

/// The breakers of a registry's models. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Health(Arc<HashMap<ModelAlias, Breaker>>);

impl Health {
    /// Every model is up.
    pub fn new(registry: &Registry) -> Self {
        Self(Arc::new(registry.models().map(|it| (it.spec.alias.clone(), Breaker::default())).collect()))
    }

    /// A call failed; the provider may have said when to come back.
    pub fn failed(&self, model: &ModelAlias, now: Timestamp, retry_after: Option<Duration>) {
        let Some(breaker) = self.0.get(model) else { return };
        let failures = breaker.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let pause = match retry_after {
            Some(pause) => pause.min(RETRY_AFTER_MAX),
            None if failures >= FAILURES_MAX => COOLDOWN,
            None => return,
        };
        breaker.open_until.fetch_max(now.after(pause).0, Ordering::Relaxed);
    }

    /// A call succeeded.
    pub fn succeeded(&self, model: &ModelAlias) {
        if let Some(breaker) = self.0.get(model)
            && breaker.failures.load(Ordering::Relaxed) != 0
        {
            breaker.failures.store(0, Ordering::Relaxed);
            breaker.open_until.store(0, Ordering::Relaxed);
        }
    }

    /// How a model is at `now`.
    pub fn of(&self, model: &ModelAlias, now: Timestamp) -> route::Health {
        match self.0.get(model) {
            Some(breaker) if breaker.open_until.load(Ordering::Relaxed) > now.0 => {
                route::Health::Down { reason: "it failed several times in a row, or asked to wait" }
            }
            Some(_) | None => route::Health::Up,
        }
    }
}
