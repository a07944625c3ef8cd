//! What was said in an attempt with tools: the question, and each step with what came of its calls.
//!
//! The same conversation is put into the words of whichever model is asked next: native calls of tools, or the action protocol.
//!
//! **Invariant:** the same question and the same steps give the same messages for the same model: recorded answers are found
//! by them.
//! **Invariant:** what a tool gave back stands in a fence that it can not end.

use std::{borrow::Cow, sync::Arc};

use crewline_engine::{
    act::{Offered, Protocol, action},
    context::{estimate_tokens, fenced},
    plan::Wish,
};
use crewline_models::{ChatMessage, OutputSchema, Registry, Speaker, Tool, ToolCall, ToolSet, request::form_tokens};
use crewline_tools::ToolSpec;
use crewline_types::{ModelSpec, Text};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::call::{Prepared, Told};
use crate::{Error, prompt::Prompts, tokens::Tokens, tools::effect_of};

/// Tokens that a chat template puts around a message.
const MESSAGE_TOKENS: u32 = 8;

/// What stands for an observation that there was no room for.
const LEFT_OUT: &str = "[left out to save room: call the tool again when it is needed]";

/// The tools that a model is offered, in both forms.
pub(super) struct Offer {
    pub(super) tools: Vec<Offered>,
    native: Option<Arc<ToolSet>>,
    schema: Option<Arc<OutputSchema>>,
    native_words: String,
    action_words: String,
}

impl Offer {
    /// Puts `specs` into both forms.
    pub(super) fn of(specs: &[Arc<ToolSpec>], prompts: &Prompts) -> Result<Self, Error> {
        let tools: Vec<Offered> = specs
            .iter()
            .map(|spec| Offered {
                name: Arc::clone(&spec.name),
                effect: effect_of(spec),
                is_parallel: spec.is_parallel,
            })
            .collect();
        if tools.is_empty() {
            let (native_words, action_words) = (String::new(), String::new());
            return Ok(Self { tools, native: None, schema: None, native_words, action_words });
        }
        let native = ToolSet {
            tools: specs
                .iter()
                .map(|spec| Tool {
                    name: provider_name(&spec.name).into_owned(),
                    description: spec.description.to_string(),
                    parameters: spec.parameters.clone(),
                })
                .collect(),
            ..ToolSet::default()
        };
        let schema = OutputSchema { name: "action".into(), schema: action::schema(&tools) };
        let native_words = prompts.tools(&[])?;
        let listed: Vec<(&str, &str, String)> =
            specs.iter().map(|it| (&*it.name, &*it.description, it.parameters.to_string())).collect();
        let action_words = prompts.tools(&listed)?;
        Ok(Self { tools, native: Some(Arc::new(native)), schema: Some(Arc::new(schema)), native_words, action_words })
    }

    /// The name of a tool here, when a model wrote it as providers take it.
    pub(super) fn own_name(&self, said: &Arc<str>) -> Arc<str> {
        let is_offered = |name: &str| self.tools.iter().any(|it| *it.name == *name);
        match said.split_once(PROVIDER_DOT) {
            Some((server, tool)) if !is_offered(said) && is_offered(&format!("{server}.{tool}")) => {
                format!("{server}.{tool}").into()
            }
            Some(_) | None => Arc::clone(said),
        }
    }

    /// Tokens that the tools take in a prompt, in whichever form takes more.
    pub(super) fn tokens(&self) -> u32 {
        let native = form_tokens(None, self.native.as_deref()) + u64::from(estimate_tokens(&self.native_words));
        let action = form_tokens(self.schema.as_deref(), None) + u64::from(estimate_tokens(&self.action_words));
        u32::try_from(native.max(action)).unwrap_or(u32::MAX)
    }
}

/// What stands for the dot of `server.tool` in calls of a provider's own form: they take letters, digits, `_` and `-`.
const PROVIDER_DOT: &str = "__";

/// The name of a tool as providers take it.
fn provider_name(name: &str) -> Cow<'_, str> {
    if name.contains('.') { name.replacen('.', PROVIDER_DOT, 1).into() } else { name.into() }
}

/// The call as its provider takes it.
fn provider_call(call: &ToolCall) -> ToolCall {
    ToolCall { name: provider_name(&call.name).into(), ..call.clone() }
}

/// One step and what came of it.
pub(super) struct Turn {
    /// The form it was said in.
    pub(super) protocol: Protocol,
    /// What the model said.
    pub(super) text: Text,
    /// Its calls, each with what the model is told of it.
    pub(super) results: Vec<(ToolCall, Text)>,
    /// What the model is told of a final answer that was not accepted.
    pub(super) note: Option<Text>,
    /// Further tasks that were asked for.
    pub(super) wishes: Vec<Wish>,
}

impl Turn {
    /// A final answer that was not accepted.
    pub(super) fn rejected(protocol: Protocol, text: Text, note: Text) -> Self {
        Self { protocol, text, results: Vec::new(), note: Some(note), wishes: Vec::new() }
    }
}

/// The conversation.
pub(super) struct Talk {
    pub(super) offer: Offer,
    pub(super) told: Told,
    first: Vec<ChatMessage>,
    turns: Vec<Turn>,
}

/// A message as the database keeps it.
#[derive(Serialize, Deserialize)]
struct Kept {
    speaker: String,
    text: String,
}

/// The question as a text.
pub(super) fn keep(messages: &[ChatMessage]) -> Text {
    let kept: Vec<Kept> = messages
        .iter()
        .map(|it| Kept { speaker: it.speaker.as_str().into(), text: it.text.replace('\0', "\u{fffd}") })
        .collect();
    // Two texts always serialise.
    Text::from(serde_json::to_string(&kept).unwrap_or_default())
}

/// The inverse of [`keep`].
fn read(text: &str) -> Option<Vec<ChatMessage>> {
    let kept: Vec<Kept> = serde_json::from_str(text).ok()?;
    let speaker = |name: &str| match name {
        "system" => Some(Speaker::System),
        "user" => Some(Speaker::User),
        _ => None,
    };
    kept.into_iter().map(|it| Some(ChatMessage::new(speaker(&it.speaker)?, it.text))).collect()
}

/// How `model` asks for calls.
pub(super) fn protocol_of(registry: &Registry, model: &ModelSpec) -> Protocol {
    match registry.config(model.alias.as_str()) {
        Some(config) if config.has_tools => Protocol::Native,
        Some(_) | None => Protocol::Action,
    }
}

impl Talk {
    /// A conversation that begins with the question in `told`; `None` when that is not readable.
    pub(super) fn new(offer: Offer, told: Told) -> Option<Self> {
        let first = read(&told.prompt.as_ref()?.body)?;
        Some(Self { offer, told, first, turns: Vec::new() })
    }

    pub(super) fn push(&mut self, turn: Turn) {
        self.turns.push(turn);
    }

    /// Further tasks that were asked for so far.
    pub(super) fn wishes(&self) -> Vec<Wish> {
        self.turns.iter().flat_map(|turn| turn.wishes.iter().cloned()).collect()
    }

    /// The conversation for `model`, or how many tokens it has that do not fit. The oldest observations give way when there
    /// is no room for all.
    pub(super) async fn prepare(
        &self,
        registry: &Registry,
        model: &ModelSpec,
        tokens: &Tokens,
    ) -> Result<Prepared, u32> {
        let protocol = protocol_of(registry, model);
        let (schema, tools, words) = match protocol {
            Protocol::Native => (None, self.offer.native.clone(), &self.offer.native_words),
            Protocol::Action => (self.offer.schema.clone(), None, &self.offer.action_words),
        };
        let mut messages = self.first.clone();
        if let Some(system) = messages.first_mut().filter(|_| !words.is_empty()) {
            system.text = format!("{}\n\n{words}", system.text).into();
        }
        let form = u32::try_from(form_tokens(schema.as_deref(), tools.as_deref())).unwrap_or(u32::MAX);
        let room = model.input_tokens_max().saturating_sub(form);
        let fixed = tokens.of_messages(&messages, MESSAGE_TOKENS).await;
        let mut left_out = 0;
        loop {
            let said = self.said(protocol, left_out);
            let all = fixed.saturating_add(tokens.of_messages(&said, MESSAGE_TOKENS).await);
            if all <= room {
                messages.extend(said);
                return Ok(Prepared { messages, told: self.told.clone(), schema, tools });
            }
            if left_out >= self.turns.len() {
                return Err(all.saturating_add(form));
            }
            left_out += 1;
        }
    }

    /// The steps in the words of `protocol`, the first `left_out` without their observations.
    fn said(&self, protocol: Protocol, left_out: usize) -> Vec<ChatMessage> {
        let mut messages = Vec::with_capacity(2 * self.turns.len());
        for (place, turn) in self.turns.iter().enumerate() {
            if let Some(note) = &turn.note {
                messages.push(ChatMessage::new(Speaker::Assistant, Arc::clone(&turn.text.body)));
                messages.push(ChatMessage::new(Speaker::User, Arc::clone(&note.body)));
                continue;
            }
            let told = |text: &Text| if place < left_out { LEFT_OUT.to_owned() } else { fenced(&text.body) };
            match protocol {
                Protocol::Native => {
                    let calls: Vec<ToolCall> = turn.results.iter().map(|(call, _)| provider_call(call)).collect();
                    let text = match turn.protocol {
                        Protocol::Native => Arc::clone(&turn.text.body),
                        Protocol::Action => "".into(),
                    };
                    messages.push(ChatMessage::called(text, calls));
                    let results = turn.results.iter();
                    messages
                        .extend(results.map(|(call, text)| ChatMessage::tool_result(provider_call(call), told(text))));
                }
                Protocol::Action => {
                    let text = match turn.protocol {
                        Protocol::Action => turn.text.body.to_string(),
                        Protocol::Native => {
                            let lines: Vec<String> = turn.results.iter().map(|(call, _)| as_action(call)).collect();
                            lines.join("\n")
                        }
                    };
                    messages.push(ChatMessage::new(Speaker::Assistant, text));
                    let results: Vec<String> = turn
                        .results
                        .iter()
                        .map(|(call, text)| format!("Result of `{}`:\n{}", call.name, told(text)))
                        .collect();
                    messages.push(ChatMessage::new(Speaker::User, results.join("\n\n")));
                }
            }
        }
        messages
    }
}

fn as_action(call: &ToolCall) -> String {
    let arguments = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!(&*call.arguments));
    json!({"action": &*call.name, "arguments": arguments}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_dot_is_written_as_providers_take_it() {
        let spec =
            |name: &str| Arc::new(ToolSpec::new(name, "d", json!({"type": "object"}), crewline_tools::Effect::Read));
        let specs = [spec("git_log"), spec("s.a__b"), spec("s.read")];
        let offer = Offer::of(&specs, &Prompts::load(None).unwrap()).unwrap();
        let native = offer.native.as_ref().unwrap();
        let names: Vec<&str> = native.tools.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["git_log", "s__a__b", "s__read"]);
        for (said, own) in [
            ("git_log", "git_log"),
            ("s__read", "s.read"),
            ("s.read", "s.read"),
            ("s__a__b", "s.a__b"),
            ("s__other", "s__other"),
            ("t__read", "t__read"),
        ] {
            assert_eq!(&*offer.own_name(&said.into()), own);
        }
    }

    #[test]
    fn a_question_is_read_as_it_was_kept() {
        let messages = [ChatMessage::new(Speaker::System, "s"), ChatMessage::new(Speaker::User, "u\n\"q\"")];
        assert_eq!(read(&keep(&messages).body).unwrap(), messages);
        assert!(read("{}").is_none() && read(r#"[{"speaker":"tool","text":""}]"#).is_none());
    }
}
