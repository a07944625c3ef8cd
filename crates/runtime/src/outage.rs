//! What an attempt found of its chain: whether it is down as a whole, and who is waited for.
//!
//! **Invariant:** models that never answered and can not even be reached are a mistake in the registry, or were never started:
//! nobody waits for those.

use crewline_engine::route::outage::{Sign, is_down};
use crewline_models::Error;
use crewline_types::{ErrorKind, ModelAlias, ModelSpec, Timestamp, event::ErrorNote};
use serde::{Deserialize, Serialize};

use crate::{assignment::Failure, health::Health};

/// A chain that is down as a whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outage {
    /// What was heard last.
    pub error: ErrorNote,
    /// Its models, and when each may be asked again.
    pub models: Vec<(ModelAlias, Timestamp)>,
    /// Whether any of them was ever reached by this process.
    pub was_reached: bool,
}

impl Outage {
    /// When the first of its models may be asked again.
    pub fn until(&self) -> Timestamp {
        self.models.iter().map(|(_, until)| *until).min().unwrap_or_default()
    }
}

/// What asking the models of a chain led to, one after the other; the last word of each counts.
#[derive(Debug, Default)]
pub struct Findings(Vec<(ModelAlias, Sign)>);

impl Findings {
    /// Its breaker let no call pass.
    pub fn shut(&mut self, model: &ModelSpec) {
        self.note(model, Sign::Shut);
    }

    /// It was asked and gave nothing useful; `error` when the call itself failed.
    pub fn missed(&mut self, model: &ModelSpec, was_probe: bool, error: Option<&Error>) {
        let sign = match error {
            Some(error) if error.is_outage() => Sign::NoService,
            Some(error) if was_probe && error.is_retryable() => Sign::Probed,
            Some(_) | None => Sign::Other,
        };
        self.note(model, sign);
    }

    fn note(&mut self, model: &ModelSpec, sign: Sign) {
        match self.0.iter_mut().find(|(alias, _)| *alias == model.alias) {
            Some((_, known)) => *known = sign,
            None => self.0.push((model.alias.clone(), sign)),
        }
    }

    /// Whether none of them serves anybody, as far as they were asked.
    pub fn is_down(&self) -> bool {
        is_down(self.0.iter().map(|(_, sign)| *sign))
    }

    /// The failure of the attempt when all are down. `last` is what was heard last, if any was asked.
    pub fn failure(self, health: &Health, now: Timestamp, last: Option<ErrorNote>) -> Option<Failure> {
        if self.0.is_empty() || !self.is_down() {
            return None;
        }
        let was_reached = self.0.iter().any(|(alias, _)| health.was_reached(alias));
        let error = last.unwrap_or_else(|| {
            let told: Vec<String> = self.0.iter().map(|(alias, _)| health.last_words(alias)).collect();
            ErrorNote {
                code: "route.down".into(),
                kind: ErrorKind::Unavailable,
                message: format!("no model of the chain serves anybody now: {}", told.join("; ")).into(),
            }
        });
        let wait = |(alias, _): (ModelAlias, Sign)| {
            let until = if was_reached { health.trip(&alias, now, None) } else { now };
            (alias, until)
        };
        let models = self.0.into_iter().map(wait).collect();
        Some(Failure::Down(Outage { error, models, was_reached }))
    }
}

#[cfg(test)]
mod tests {
    use crewline_engine::route::breaker::Pass;

    use super::*;

    fn spec(alias: &str) -> std::sync::Arc<ModelSpec> {
        let text = format!(
            "version: 1\nproviders:\n  p: {{type: ollama}}\nmodels:\n  {alias}: {{provider: p, model: m, context_window: 999}}\n\
             roles:\n  default: {{chain: [{alias}]}}\n"
        );
        let registry = crewline_models::Registry::parse(&text, "crewline.yaml", &|_| None).unwrap();
        std::sync::Arc::clone(registry.model(alias).unwrap())
    }

    fn unreachable() -> Error {
        Error::Unreachable { provider: "p".into(), base_url: "http://127.0.0.1:9".into(), message: "refused".into() }
    }

    #[test]
    fn only_a_chain_that_was_there_is_waited_for() {
        let (a, b, now) = (spec("a"), spec("b"), Timestamp(1_000_000));
        let health = Health::default();
        let found = || {
            let mut found = Findings::default();
            found.missed(&a, false, Some(&unreachable()));
            found
        };
        health.failed(&a.alias, now, &unreachable());
        let Some(Failure::Down(never)) = found().failure(&health, now, None) else { panic!() };
        assert!(!never.was_reached);
        assert!(never.error.message.contains("127.0.0.1:9"), "{}", never.error.message);
        assert_eq!(health.pass(&a.alias, now), Pass::Yes, "it is asked again at once");

        let busy = Error::RateLimited { model: b.alias.clone(), retry_after: None, message: "slow down".into() };
        health.failed(&b.alias, now, &busy);
        let mut both = found();
        both.missed(&b, false, Some(&busy));
        let Some(Failure::Down(outage)) = both.failure(&health, now, None) else { panic!() };
        assert!(outage.was_reached);
        assert!(outage.until() > now);
        assert!(matches!(health.pass(&a.alias, now), Pass::Not { .. }), "nobody asks it for a moment");

        let mut bad = found();
        bad.missed(&b, false, None);
        assert!(!bad.is_down(), "an answer that is no good is no outage");
        assert!(bad.failure(&health, now, None).is_none());
    }
}
