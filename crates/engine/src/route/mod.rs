//! Which models are asked, in which order, and why.
//!
//! **Invariant:** the order of the chain is kept (cheap → expensive) from the starting rung on; what stands below the start, is
//! down or too dear follows, so that it is asked only when nothing better is left.
//! **Invariant:** offline, a model outside this machine and its private network is never a rung.
//! **Invariant:** every model of the chain is either a rung or skipped, with a reason.

pub mod breaker;
pub mod learn;
pub mod outage;
mod rule;
pub mod shadow;
mod start;

use std::{fmt, sync::Arc};

use crewline_types::{MicroUsd, ModelAlias, ModelSpec, Role, RouteRule, TaskKind, model::Locality};

pub use rule::Traits;
pub use start::{Learned, Tally};

/// What is to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Who asks.
    pub role: &'a Role,
    /// What the task is in the tree.
    pub kind: TaskKind,
    /// Tokens of the prompt.
    pub input_tokens: u32,
    /// Which models may be asked.
    pub mode: Mode,
    /// How hard it looks, and its tags.
    pub traits: &'a Traits,
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

/// What the choice is made from.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The role's models, cheap → expensive.
    pub chain: &'a [Arc<ModelSpec>],
    /// How a model is doing.
    pub health: &'a dyn Fn(&ModelAlias) -> Health,
    /// What may still be spent; `None` without a cap.
    pub remaining: Option<MicroUsd>,
    /// What came of earlier calls.
    pub learned: Option<&'a Learned>,
    /// The role's rules, in their order.
    pub rules: &'a [RouteRule],
    /// Whether a local server has a model in memory; `None` where nobody knows.
    pub is_loaded: &'a dyn Fn(&ModelAlias) -> Option<bool>,
}

/// Of models about which no server was asked.
pub const NOBODY_KNOWS: &dyn Fn(&ModelAlias) -> Option<bool> = &|_| None;

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
    pub reason: Reason,
}

/// A model that is not asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The model.
    pub alias: ModelAlias,
    /// Why.
    pub reason: Obstacle,
}

/// Why a model stands where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The first that can take the request; nothing speaks for a later one.
    First,
    /// Asked when the one before it gave nothing useful.
    Next,
    /// Starting here was cheapest so far.
    Start {
        /// What came of its calls for the role and kind of task.
        tally: Tally,
    },
    /// Below the start: too often no use.
    Below {
        /// What came of its calls for the role and kind of task.
        tally: Tally,
    },
    /// A rule of the role starts here.
    Rule {
        /// The place of the rule, from 1.
        number: usize,
    },
    /// A rule of the role starts at a later one.
    BelowRule {
        /// The place of the rule, from 1.
        number: usize,
    },
    /// Its server has it in memory, and not the one that would go first.
    Loaded,
    /// It would have to be loaded, and another one that costs as much is.
    Unloaded,
    /// It does not answer well at the moment.
    Down(&'static str),
    /// Its worst case is more than what is left.
    Dear {
        /// The most a call may cost; `None` when it has no price.
        worst: Option<MicroUsd>,
        /// What is left.
        left: MicroUsd,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => out.write_str("first of the chain that can take the request"),
            Self::Next => out.write_str("next of the chain"),
            Self::Start { tally } => {
                write!(out, "starting here costs least: {} of {} answers accepted", tally.accepted, tally.answers())
            }
            Self::Below { tally } => write!(
                out,
                "below the start: {} of {} answers accepted; asked when all others failed",
                tally.accepted,
                tally.answers()
            ),
            Self::Rule { number } => write!(out, "rule {number} of the role starts here"),
            Self::BelowRule { number } => {
                write!(out, "rule {number} of the role starts at a later one; asked when all others failed")
            }
            Self::Loaded => out.write_str("its server has it loaded, and it costs as much as the first"),
            Self::Unloaded => out.write_str("its server would have to load it first"),
            Self::Down(reason) => write!(out, "{reason}; asked when all others failed"),
            Self::Dear { worst: Some(worst), left } => write!(out, "a call may cost {worst}, and {left} is left"),
            Self::Dear { worst: None, left } => write!(out, "it has no price, and only {left} may be spent"),
        }
    }
}

/// Why a model can not be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Offline, and it is elsewhere.
    Offline {
        /// Its provider.
        provider: Arc<str>,
    },
    /// A rule of the role leaves it out.
    Rule {
        /// The place of the rule, from 1.
        number: usize,
    },
    /// The prompt does not fit.
    Window {
        /// Tokens of the prompt.
        prompt: u32,
        /// Tokens of prompt and answer together.
        window: u32,
        /// Tokens kept for the answer.
        answer: u32,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offline { provider } => {
                write!(out, "offline, and provider `{provider}` is not on this machine or a private network")
            }
            Self::Rule { number } => write!(out, "rule {number} of the role leaves it out"),
            Self::Window { prompt, window, answer } => write!(
                out,
                "the prompt has about {prompt} tokens, and the window of {window} less {answer} for the answer leaves {}",
                window.saturating_sub(*answer)
            ),
        }
    }
}

/// Decides whom to ask. `rungs` is empty when no model of the chain can take the request; `skipped` then says why.
pub fn choose(request: &Request<'_>, view: &View<'_>) -> Decision {
    let mut rungs: Vec<Rung> = Vec::with_capacity(view.chain.len());
    let mut down: Vec<Rung> = Vec::new();
    let mut dear: Vec<Rung> = Vec::new();
    let mut skipped = Vec::new();
    let holds = |rule: &&RouteRule| request.traits.fit(&rule.when, request.kind, request.input_tokens);
    let rule = (1..).zip(view.rules).find(|(_, rule)| holds(rule));
    for model in view.chain {
        let left_out = rule.filter(|(_, rule)| rule.without.contains(&model.alias));
        let left_out = left_out.map(|(number, _)| Obstacle::Rule { number });
        if let Some(reason) = left_out.or_else(|| obstacle(*request, model)) {
            skipped.push(Skipped { alias: model.alias.clone(), reason });
            continue;
        }
        let rung = |reason| Rung { model: Arc::clone(model), reason };
        let worst = worst_cost(model, request.input_tokens);
        match (view.remaining, (view.health)(&model.alias)) {
            (Some(left), _) if worst.is_none_or(|it| it > left) => dear.push(rung(Reason::Dear { worst, left })),
            (_, Health::Down { reason }) => down.push(rung(Reason::Down(reason))),
            (_, Health::Up) => rungs.push(rung(Reason::Next)),
        }
    }
    let start = rule.and_then(|(number, rule)| Some((number, rule.start.as_ref()?)));
    let place = start.and_then(|(_, start)| rungs.iter().position(|it| it.model.alias == *start));
    match (start, place) {
        (Some((number, _)), Some(at)) => start_at_the_rule(number, at, &mut rungs),
        // The model of the rule can not be asked now: what was learned decides.
        (_, _) => start_at_the_best(request, view, &mut rungs),
    }
    prefer_loaded(view, &mut rungs);
    // A model that is down is still better than none; one that is too dear ends at the cap, so it comes last.
    rungs.append(&mut down);
    rungs.append(&mut dear);
    Decision { rungs, skipped }
}

fn start_at_the_rule(number: usize, at: usize, rungs: &mut [Rung]) {
    for rung in rungs.iter_mut().take(at) {
        rung.reason = Reason::BelowRule { number };
    }
    if let Some(rung) = rungs.get_mut(at) {
        rung.reason = Reason::Rule { number };
    }
    rungs.rotate_left(at);
}

/// Asks a local model that is loaded before the first one, when that costs as much and would have to be loaded.
fn prefer_loaded(view: &View<'_>, rungs: &mut [Rung]) {
    let Some(first) = rungs.first() else { return };
    // A rule is a person's word.
    let is_free = matches!(first.reason, Reason::First | Reason::Start { .. });
    if !is_free || !is_here(&first.model) || (view.is_loaded)(&first.model.alias) != Some(false) {
        return;
    }
    let is_as_good = |rung: &Rung| {
        is_here(&rung.model)
            && rung.model.price == first.model.price
            && matches!(rung.reason, Reason::Next)
            && (view.is_loaded)(&rung.model.alias) == Some(true)
    };
    if let Some(at) = rungs.iter().position(is_as_good) {
        rungs[0].reason = Reason::Unloaded;
        rungs[at].reason = Reason::Loaded;
        rungs[..=at].rotate_right(1);
    }
}

fn is_here(model: &ModelSpec) -> bool {
    match model.locality {
        Locality::Loopback | Locality::Private => true,
        Locality::Remote => false,
    }
}

/// Moves what stands below the learned start behind what follows it.
fn start_at_the_best(request: &Request<'_>, view: &View<'_>, rungs: &mut [Rung]) {
    let Some(first) = rungs.first_mut() else { return };
    first.reason = Reason::First;
    let Some(tallies) = view.learned.and_then(|it| it.of(request.role, request.kind)) else { return };
    let tally_of = |rung: &Rung| tallies.get(&rung.model.alias).copied().unwrap_or_default();
    let is_priced = rungs.iter().all(|it| it.model.price.is_some_and(|price| price.of_tokens(1_000, 1_000).0 > 0));
    let known: Vec<start::Known> = rungs
        .iter()
        .enumerate()
        .map(|(place, rung)| {
            // Without prices the order of the chain is all that is known of costs: twice as much with each step.
            let by_place = 2_f64.powi(i32::try_from(place.min(60)).unwrap_or(60));
            let price = rung.model.price.filter(|_| is_priced);
            let tokens = u64::from(request.input_tokens);
            let cost = price.map_or(by_place, |it| it.of_tokens(tokens, tokens.max(ANSWER_TOKENS)).0 as f64);
            start::Known { cost, tally: tally_of(rung) }
        })
        .collect();
    let at = start::start(&known);
    if at > 0 {
        for (rung, known) in rungs.iter_mut().zip(&known).take(at) {
            rung.reason = Reason::Below { tally: known.tally };
        }
    }
    if let (Some(rung), Some(known)) = (rungs.get_mut(at), known.get(at))
        && known.tally.answers() > 0
    {
        rung.reason = Reason::Start { tally: known.tally };
    }
    rungs.rotate_left(at);
}

/// The order of the models that are left after the prompt was too long for `model`: those that take a longer one go first. The
/// others stay: what a registry says of a window may be wrong.
pub fn after_overflow(left: &mut [Arc<ModelSpec>], model: &ModelSpec) {
    left.sort_by_key(|it| it.input_tokens_max() <= model.input_tokens_max());
}

/// Tokens of an answer, where a cost has to be guessed.
const ANSWER_TOKENS: u64 = 500;

/// The most a call of `model` with so long a prompt may cost; `None` when the model has no price.
pub fn worst_cost(model: &ModelSpec, input_tokens: u32) -> Option<MicroUsd> {
    model.price.map(|price| price.of_tokens(u64::from(input_tokens), u64::from(model.output_tokens_max)))
}

fn obstacle(request: Request<'_>, model: &ModelSpec) -> Option<Obstacle> {
    let is_refused = match (request.mode, model.locality) {
        (Mode::Offline, Locality::Remote) => true,
        (Mode::Offline, Locality::Loopback | Locality::Private) | (Mode::Online, _) => false,
    };
    if is_refused {
        return Some(Obstacle::Offline { provider: Arc::clone(&model.provider) });
    }
    (request.input_tokens > model.input_tokens_max()).then_some(Obstacle::Window {
        prompt: request.input_tokens,
        window: model.context_window,
        answer: model.output_tokens_max,
    })
}

#[cfg(test)]
mod tests;
