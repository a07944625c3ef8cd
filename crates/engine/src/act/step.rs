//! One step of a specialist: from the model's answer to one of a closed set of outcomes.
//!
//! **Invariant:** the same answer, offer, policy and history give the same step.
//! **Invariant:** every call of the answer comes back, in its order, with what becomes of it; none is made that was not
//! offered.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crewline_types::{Effect, MicroUsd, TextHash};
use serde_json::Value;

use super::{
    action,
    policy::{Decision, Policy, Verdict},
};

/// The same call with the same arguments is made this often in a row; asked for once more, the specialist is stopped.
const SAME_CALLS_MAX: u32 = 2;

/// Calls of one answer; more than these are refused.
const CALLS_MAX: usize = 16;

/// Tools that are no tools: the loop itself does what they ask.
pub const ASK_PERSON: &str = "ask_person";
/// The work ends without a result.
pub const GIVE_UP: &str = "give_up";
/// The work goes on with another role.
pub const HAND_OFF: &str = "handoff";

/// How a model asks for calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// In the provider's own form.
    Native,
    /// As a JSON object: [`action`].
    Action,
}

/// A call that a model asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The model's name for it.
    pub id: Arc<str>,
    /// The tool.
    pub name: Arc<str>,
    /// The text of a JSON object, as the model wrote it.
    pub arguments: Arc<str>,
}

/// A tool that was offered to the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// Its name.
    pub name: Arc<str>,
    /// What it does to the world.
    pub effect: Effect,
    /// Whether calls of it may run beside others.
    pub is_parallel: bool,
}

/// An answer of a model.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// Its text.
    pub text: &'a str,
    /// Its calls.
    pub calls: &'a [Call],
}

/// What a tool itself says of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// It can be made.
    Fine,
    /// Its arguments are not what the tool takes.
    Invalid(String),
    /// A person must agree.
    Ask,
    /// It is never made.
    Refuse(String),
}

/// What becomes of one call.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// It is made.
    Run,
    /// A person decides.
    Ask,
    /// It is not made, and the model is told why.
    Refuse {
        /// Why.
        reason: String,
    },
    /// No such tool was offered.
    Unknown,
    /// Its arguments are not what the tool takes. The first time the model is told what it takes.
    Invalid {
        /// What is wrong.
        problem: String,
        /// Whether this is the one repair.
        is_repair: bool,
    },
    /// Too many calls in one answer.
    TooMany,
}

/// A call and what becomes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// The call.
    pub call: Call,
    /// Its arguments; null when they are no JSON.
    pub arguments: Value,
    /// Names tool and arguments: what an approval is about.
    pub digest: TextHash,
    /// What becomes of it.
    pub fate: Fate,
}

/// The outcome of a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// The result.
    Final(String),
    /// Calls to be made, or refused, each with its fate; none waits for a person.
    Tools(Vec<Planned>),
    /// At least one of the calls waits for a person.
    NeedsApproval(Vec<Planned>),
    /// At least one of the calls is a question to a person.
    AskPerson(Vec<Planned>),
    /// The calls are made, and then another role goes on with the task.
    HandOff(Vec<Planned>),
    /// No result.
    GiveUp {
        /// Why, as a stable word.
        code: StopCode,
        /// Why, for people.
        reason: String,
    },
}

/// Why a specialist stops without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopCode {
    /// It said so itself.
    GaveUp,
    /// It asked for the same call again and again.
    Repeated,
    /// A limit of the attempt was reached.
    Limit(Limit),
}

/// A limit of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Steps.
    Steps,
    /// Tokens.
    Tokens,
    /// Money.
    Cost,
    /// Time.
    Time,
}

impl StopCode {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::GaveUp => "attempt.gave_up",
            Self::Repeated => "attempt.repeated",
            Self::Limit(Limit::Steps) => "attempt.steps",
            Self::Limit(Limit::Tokens) => "attempt.tokens",
            Self::Limit(Limit::Cost) => "attempt.cost",
            Self::Limit(Limit::Time) => "attempt.time",
        }
    }
}

/// What an attempt may consume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Answers of models.
    pub steps_max: u32,
    /// Tokens sent and received.
    pub tokens_max: Option<u64>,
    /// Money.
    pub cost_max: Option<MicroUsd>,
    /// Time.
    pub time_max: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { steps_max: 24, tokens_max: None, cost_max: None, time_max: None }
    }
}

/// What an attempt has consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// Answers of models.
    pub steps: u32,
    /// Tokens sent and received.
    pub tokens: u64,
    /// Money.
    pub cost: MicroUsd,
    /// Time.
    pub time: Duration,
}

impl Limits {
    /// The limit that another step would pass.
    pub fn reached(&self, spent: &Spent) -> Option<Limit> {
        if spent.steps >= self.steps_max {
            Some(Limit::Steps)
        } else if self.tokens_max.is_some_and(|max| spent.tokens >= max) {
            Some(Limit::Tokens)
        } else if self.cost_max.is_some_and(|max| spent.cost >= max) {
            Some(Limit::Cost)
        } else if self.time_max.is_some_and(|max| spent.time >= max) {
            Some(Limit::Time)
        } else {
            None
        }
    }
}

/// What earlier steps of the attempt asked for.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The last call, and how often it was asked for in a row.
    last: Option<(TextHash, u32)>,
    /// How often the arguments of a tool were not what it takes.
    invalid: HashMap<Arc<str>, u32>,
}

/// What a step is decided from, beside the answer.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// How the model asks.
    pub protocol: Protocol,
    /// What was offered to it.
    pub tools: &'a [Offered],
    /// What it may do.
    pub policy: &'a Policy,
    /// Whether a person wants to be asked before anything is changed.
    pub asks_person: bool,
}

/// Decides what follows from an answer. `look` tells what the tool itself says of a call of it.
pub fn decide(said: Said<'_>, rules: &Rules<'_>, history: &mut History, look: impl Fn(&str, &Value) -> Look) -> Step {
    let read;
    let (text, calls) = match rules.protocol {
        Protocol::Native => (said.text, said.calls),
        Protocol::Action => {
            read = action::read(said.text);
            match &read {
                action::Said::Final(text) => (text.as_str(), [].as_slice()),
                action::Said::Call(call) => ("", std::slice::from_ref(call)),
            }
        }
    };
    if calls.is_empty() {
        return Step::Final(text.to_owned());
    }
    let planned: Vec<Planned> =
        calls.iter().enumerate().map(|(place, call)| plan(place, call, rules, history, &look)).collect();
    for it in &planned {
        let count = match history.last {
            Some((digest, count)) if digest == it.digest => count + 1,
            Some(_) | None => 1,
        };
        history.last = Some((it.digest, count));
        if count > SAME_CALLS_MAX {
            let reason =
                format!("`{}` was asked for {count} times in a row with the same arguments", shown(&it.call.name));
            return Step::GiveUp { code: StopCode::Repeated, reason };
        }
    }
    let runs = |it: &&Planned| it.fate == Fate::Run;
    if let Some(leaving) = planned.iter().filter(runs).find(|it| &*it.call.name == GIVE_UP) {
        return Step::GiveUp { code: StopCode::GaveUp, reason: text_of(&leaving.arguments, "reason") };
    }
    let asks = |it: &Planned| it.fate == Fate::Ask;
    if planned.iter().any(|it| asks(it) && &*it.call.name == ASK_PERSON) {
        Step::AskPerson(planned)
    } else if planned.iter().any(asks) {
        Step::NeedsApproval(planned)
    } else if planned.iter().filter(runs).any(|it| &*it.call.name == HAND_OFF) {
        Step::HandOff(planned)
    } else {
        Step::Tools(planned)
    }
}

fn plan(
    place: usize,
    call: &Call,
    rules: &Rules<'_>,
    history: &mut History,
    look: &impl Fn(&str, &Value) -> Look,
) -> Planned {
    let parsed = serde_json::from_str::<Value>(&call.arguments);
    let arguments = parsed.as_ref().map_or(Value::Null, Clone::clone);
    let digest = match &parsed {
        Ok(value) => digest(&call.name, value),
        Err(_) => digest(&call.name, &Value::String(call.arguments.to_string())),
    };
    let fate = match rules.tools.iter().find(|it| *it.name == *call.name) {
        _ if place >= CALLS_MAX => Fate::TooMany,
        None => Fate::Unknown,
        Some(tool) => {
            let looked = match parsed {
                Ok(value) if value.is_object() => look(&call.name, &value),
                Ok(_) => Look::Invalid("the arguments are not an object".to_owned()),
                Err(error) => Look::Invalid(format!("the arguments are not JSON: {error}")),
            };
            match looked {
                Look::Invalid(problem) => {
                    let count = history.invalid.entry(Arc::clone(&call.name)).or_default();
                    *count += 1;
                    Fate::Invalid { problem, is_repair: *count == 1 }
                }
                Look::Refuse(reason) => Fate::Refuse { reason },
                Look::Ask => judged(tool, &arguments, rules).at_least_asked(),
                Look::Fine => judged(tool, &arguments, rules),
            }
        }
    };
    Planned { call: call.clone(), arguments, digest, fate }
}

fn judged(tool: &Offered, arguments: &Value, rules: &Rules<'_>) -> Fate {
    let Decision { verdict, because } = rules.policy.decide(&tool.name, arguments);
    match (verdict, tool.effect) {
        (Verdict::Deny, _) => Fate::Refuse { reason: because.to_string() },
        (Verdict::Ask, _) => Fate::Ask,
        (Verdict::Allow, _) if &*tool.name == ASK_PERSON => Fate::Ask,
        (Verdict::Allow, Effect::Repeatable | Effect::Unsafe) if rules.asks_person => Fate::Ask,
        (Verdict::Allow, Effect::Read | Effect::Repeatable | Effect::Unsafe) => Fate::Run,
    }
}

impl Fate {
    /// The same, but no call is made that nobody was asked about.
    fn at_least_asked(self) -> Self {
        match self {
            Self::Run => Self::Ask,
            Self::Ask | Self::Refuse { .. } | Self::Unknown | Self::Invalid { .. } | Self::TooMany => self,
        }
    }
}

fn text_of(arguments: &Value, name: &str) -> String {
    arguments.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A name from a model, short enough to be shown.
fn shown(name: &str) -> String {
    name.chars().take(64).collect()
}

/// Names a tool and its arguments: the same for the same values, however they were written.
pub fn digest(tool: &str, arguments: &Value) -> TextHash {
    // The length keeps a name that ends like arguments begin apart.
    TextHash::of(&format!("{}:{tool}{}", tool.len(), canonical(arguments)))
}

/// JSON with the keys of every object in order and no spaces.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            let entries: Vec<String> = keys
                .into_iter()
                .map(|key| {
                    format!("{}:{}", Value::String(key.clone()), map.get(key).map_or_else(String::new, canonical))
                })
                .collect();
            format!("{{{}}}", entries.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
