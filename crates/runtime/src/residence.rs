//! Which models local servers have in memory: asked in the background, and only where it can change who is asked.
//!
//! **Invariant:** nobody waits for a server here: what is not known is `None`, and the chain keeps its order.
//! **Invariant:** at most one question to a provider at a time, and one every [`FRESH`] at most.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crewline_models::{Models, Registry, runtimes::LoadState};
use crewline_types::{Clock, ModelAlias, ModelSpec, Timestamp, model::Locality};

/// What is newer is not asked for again.
const FRESH: Duration = Duration::from_secs(15);
/// What is older is not believed.
const KNOWN: Duration = Duration::from_mins(1);

/// What is known of the local servers. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Residence(Arc<Mutex<HashMap<Arc<str>, Known>>>);

#[derive(Debug, Default)]
struct Known {
    is_asking: bool,
    asked_at: Option<Timestamp>,
    /// By the model's identifier at the provider.
    loaded: HashMap<String, bool>,
}

impl Residence {
    fn with<R>(&self, work: impl FnOnce(&mut HashMap<Arc<str>, Known>) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is known of the local models of `chain`; asks their servers, so that more is known next time.
    pub fn of(&self, models: &Models, chain: &[Arc<ModelSpec>], clock: &Arc<dyn Clock>) -> HashMap<ModelAlias, bool> {
        let local = || chain.iter().filter(|it| is_here(it));
        let has_choice = local().any(|one| local().any(|it| it.alias != one.alias && it.price == one.price));
        if !has_choice {
            return HashMap::new();
        }
        let (now, registry) = (clock.now(), models.registry());
        let mut found = HashMap::new();
        for model in local() {
            if self.must_ask(&model.provider, now) {
                self.ask(models.clone(), Arc::clone(&model.provider), Arc::clone(clock));
            }
            if let Some(is_loaded) = self.look(&registry, model, now) {
                found.insert(model.alias.clone(), is_loaded);
            }
        }
        found
    }

    /// Whether it is due, and from now on being asked.
    fn must_ask(&self, provider: &Arc<str>, now: Timestamp) -> bool {
        self.with(|all| {
            let known = all.entry(Arc::clone(provider)).or_default();
            let is_due = !known.is_asking && known.asked_at.is_none_or(|at| now.since(at) >= FRESH);
            known.is_asking |= is_due;
            is_due
        })
    }

    fn look(&self, registry: &Registry, model: &ModelSpec, now: Timestamp) -> Option<bool> {
        let id = &registry.config(model.alias.as_str())?.model;
        self.with(|all| {
            let known = all.get(&model.provider)?;
            known.asked_at.filter(|at| now.since(*at) < KNOWN)?;
            known.loaded.get(id).copied()
        })
    }

    #[expect(clippy::disallowed_methods, reason = "no actor waits for it, and it ends within the client's limits")]
    fn ask(&self, models: Models, provider: Arc<str>, clock: Arc<dyn Clock>) {
        let all = self.clone();
        // The question itself is bound by the client's limits; a run that ends does not wait for it.
        tokio::spawn(async move {
            let loaded = match models.runtime(&provider).await {
                Ok(status) => status.models.into_iter().filter_map(|it| Some((it.id, is_loaded(it.state)?))).collect(),
                Err(error) => {
                    tracing::debug!(provider = &*provider, error.code = error.code(), "no word of what is loaded");
                    HashMap::new()
                }
            };
            all.learn(provider, loaded, clock.now());
        });
    }

    fn learn(&self, provider: Arc<str>, loaded: HashMap<String, bool>, now: Timestamp) {
        self.with(|all| all.insert(provider, Known { is_asking: false, asked_at: Some(now), loaded }));
    }
}

fn is_here(model: &ModelSpec) -> bool {
    match model.locality {
        Locality::Loopback | Locality::Private => true,
        Locality::Remote => false,
    }
}

fn is_loaded(state: LoadState) -> Option<bool> {
    match state {
        LoadState::Loaded | LoadState::Loading => Some(true),
        LoadState::Unloaded => Some(false),
        LoadState::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTRY: &str = "version: 1\nproviders: {p: {type: ollama}}\nmodels:\n  a: {provider: p, model: m1, context_window: 4096}\n  \
                            b: {provider: p, model: m2, context_window: 4096}\nroles:\n  default: {chain: [a, b]}\n";

    #[test]
    fn a_server_is_asked_once_in_a_while_and_believed_for_a_minute() {
        let registry = Registry::parse(REGISTRY, "r", &|_| None).unwrap();
        let model = registry.model("a").unwrap();
        let (residence, provider) = (Residence::default(), Arc::clone(&model.provider));
        let at = |seconds: i64| Timestamp(seconds * 1_000_000);
        assert!(residence.must_ask(&provider, at(0)));
        assert!(!residence.must_ask(&provider, at(100)), "it is being asked");
        assert_eq!(residence.look(&registry, model, at(0)), None);
        residence.learn(Arc::clone(&provider), [("m1".to_owned(), true)].into(), at(100));
        assert_eq!(residence.look(&registry, model, at(110)), Some(true));
        assert!(!residence.must_ask(&provider, at(114)));
        assert!(residence.must_ask(&provider, at(115)));
        assert_eq!(residence.look(&registry, model, at(161)), None, "too old");
        assert_eq!(residence.look(&registry, registry.model("b").unwrap(), at(110)), None);
    }
}
