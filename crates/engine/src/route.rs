//! Which models are asked, in which order, and why.
//!
//! **Invariant:** the order of the chain is kept (cheap → expensive); only a model that is down moves, to the end.
//! **Invariant:** offline, a model outside this machine and its private network is never a rung.
//! **Invariant:** every model of the chain is either a rung or skipped, with a reason.

use std::sync::Arc;

use crewline_types::{MicroUsd, ModelAlias, ModelSpec, model::Locality};

/// What is to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Tokens of the prompt.
    pub input_tokens: u32,
    /// Whether the answer must follow a schema.
    pub needs_schema: bool,
    /// Which models may be asked.
    pub mode: Mode,
}

/// Which models may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// Any.
    #[default]
    Online,
    /// Those of this machine and its private network.
    Offline,
}

/// How a model is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Answers, as far as is known.
    Up,
    /// Better not asked now.
    Down {
        /// Why.
        reason: &'static str,
    },
}

/// The models to ask, first to last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Asked in this order until one answers well.
    pub rungs: Vec<Rung>,
    /// Not asked.
    pub skipped: Vec<Skipped>,
}

/// A model to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rung {
    /// The model.
    pub model: Arc<ModelSpec>,
    /// Why it stands where it stands.
    pub reason: &'static str,
}

/// A model that is not asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The model.
    pub alias: ModelAlias,
    /// Why.
    pub reason: String,
}

/// Decides whom to ask. `rungs` is empty when no model of the chain can take the request; `skipped` then says why.
pub fn choose(request: &Request, chain: &[Arc<ModelSpec>], health: impl Fn(&ModelAlias) -> Health) -> Decision {
    let mut rungs: Vec<Rung> = Vec::with_capacity(chain.len());
    let mut down: Vec<Rung> = Vec::new();
    let mut skipped = Vec::new();
    for model in chain {
        if let Some(reason) = obstacle(*request, model) {
            skipped.push(Skipped { alias: model.alias.clone(), reason });
            continue;
        }
        match health(&model.alias) {
            Health::Up => {
                let reason = match (request.needs_schema && !model.has_json_schema, rungs.is_empty()) {
                    (true, _) => "next of the chain; does not enforce the schema, so its answer is checked",
                    (false, true) => "first of the chain that can take the request",
                    (false, false) => "next of the chain",
                };
                rungs.push(Rung { model: Arc::clone(model), reason });
            }
            Health::Down { reason } => down.push(Rung { model: Arc::clone(model), reason }),
        }
    }
    // A model that is down is still better than none.
    rungs.append(&mut down);
    Decision { rungs, skipped }
}

/// The most a call of `model` with so long a prompt may cost; `None` when the model has no price.
pub fn worst_cost(model: &ModelSpec, input_tokens: u32) -> Option<MicroUsd> {
    model.price.map(|price| price.of_tokens(u64::from(input_tokens), u64::from(model.output_tokens_max)))
}

fn obstacle(request: Request, model: &ModelSpec) -> Option<String> {
    let is_refused = match (request.mode, model.locality) {
        (Mode::Offline, Locality::Remote) => true,
        (Mode::Offline, Locality::Loopback | Locality::Private) | (Mode::Online, _) => false,
    };
    if is_refused {
        return Some(format!("offline, and provider `{}` is not on this machine or a private network", model.provider));
    }
    let input_tokens_max = model.input_tokens_max();
    if request.input_tokens > input_tokens_max {
        return Some(format!(
            "the prompt has about {} tokens, and the window of {} less {} for the answer leaves {input_tokens_max}",
            request.input_tokens, model.context_window, model.output_tokens_max
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crewline_types::{Price, model::Timeouts};

    use super::*;

    fn model(alias: &str, locality: Locality, has_json_schema: bool) -> Arc<ModelSpec> {
        let second = Duration::from_secs(1);
        Arc::new(ModelSpec {
            alias: alias.into(),
            provider: "stub".into(),
            context_window: 1_000,
            output_tokens_max: 200,
            has_json_schema,
            price: Some(Price { input_per_million: MicroUsd(1_000_000), output_per_million: MicroUsd(2_000_000) }),
            locality,
            timeouts: Timeouts { connect: second, first_token: second, idle: second, total: second },
            concurrency_max: None,
        })
    }

    fn aliases(decision: &Decision) -> Vec<&str> {
        decision.rungs.iter().map(|it| it.model.alias.as_str()).collect()
    }

    const ASK: Request = Request { input_tokens: 100, needs_schema: false, mode: Mode::Online };

    #[test]
    fn the_chain_keeps_its_order_and_the_down_go_last() {
        let chain = ["a", "b", "c"].map(|it| model(it, Locality::Remote, true));
        let decision = choose(&ASK, &chain, |_| Health::Up);
        assert_eq!(aliases(&decision), ["a", "b", "c"]);
        let sick = |alias: &ModelAlias| match alias.as_str() {
            "a" => Health::Down { reason: "too many failures" },
            _ => Health::Up,
        };
        let decision = choose(&ASK, &chain, sick);
        assert_eq!(aliases(&decision), ["b", "c", "a"]);
        assert_eq!(decision.rungs[2].reason, "too many failures");
        let decision = choose(&ASK, &chain, |_| Health::Down { reason: "down" });
        assert_eq!(aliases(&decision), ["a", "b", "c"]);
        assert!(decision.skipped.is_empty());
    }

    #[test]
    fn offline_drops_what_is_remote() {
        let chain = [
            model("far", Locality::Remote, true),
            model("near", Locality::Private, true),
            model("here", Locality::Loopback, true),
        ];
        let decision = choose(&Request { mode: Mode::Offline, ..ASK }, &chain, |_| Health::Up);
        assert_eq!(aliases(&decision), ["near", "here"]);
        assert_eq!(decision.skipped[0].alias.as_str(), "far");
        assert!(decision.skipped[0].reason.contains("offline"));
        // Even when nothing else is up.
        let decision = choose(&Request { mode: Mode::Offline, ..ASK }, &chain[..1], |_| Health::Up);
        assert!(decision.rungs.is_empty());
    }

    #[test]
    fn a_prompt_that_does_not_fit_is_not_sent() {
        let chain = [model("small", Locality::Remote, true)];
        assert_eq!(choose(&Request { input_tokens: 800, ..ASK }, &chain, |_| Health::Up).rungs.len(), 1);
        let decision = choose(&Request { input_tokens: 801, ..ASK }, &chain, |_| Health::Up);
        assert!(decision.rungs.is_empty());
        assert!(decision.skipped[0].reason.contains("leaves 800"), "{}", decision.skipped[0].reason);
    }

    #[test]
    fn a_missing_schema_is_a_reason_not_an_obstacle() {
        let chain = [model("loose", Locality::Remote, false), model("strict", Locality::Remote, true)];
        let decision = choose(&Request { needs_schema: true, ..ASK }, &chain, |_| Health::Up);
        assert_eq!(aliases(&decision), ["loose", "strict"]);
        assert!(decision.rungs[0].reason.contains("schema"));
        assert_eq!(decision.rungs[1].reason, "next of the chain");
    }

    #[test]
    fn the_worst_cost_takes_the_longest_answer() {
        assert_eq!(worst_cost(&model("a", Locality::Remote, true), 100), Some(MicroUsd(500)));
    }
}
