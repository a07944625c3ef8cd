//! Anthropic messages, version 2023-06-01 (`POST /messages`).
//!
//! A schema is sent as a tool that must be called: every model takes that, and any schema; what it is called with is the answer.

use std::borrow::Cow;

use reqwest::header::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;

use super::{
    answer::{Answer, Counted, Fault},
    params::{self, Arguments},
    reply::{Complaint, Content},
};
use crate::{
    ChatMessage, Finish, ListedModel, ModelProvider, OutputSchema, Speaker, ToolChoice, ToolSet, provider::Outgoing,
};

/// Anthropic messages.
pub(super) struct Anthropic;

/// The tool that stands for a schema; it is never sent beside other tools.
const ANSWER_TOOL: &str = "crewline_answer";

impl ModelProvider for Anthropic {
    fn chat_path(&self) -> &'static str {
        "messages"
    }

    fn list_path(&self) -> &'static str {
        "models"
    }

    fn key_header(&self, key: &SecretString) -> Option<(HeaderName, HeaderValue)> {
        Some((HeaderName::from_static("x-api-key"), HeaderValue::from_str(key.expose_secret()).ok()?))
    }

    fn fixed_headers(&self) -> &'static [(&'static str, &'static str)] {
        &[("anthropic-version", "2023-06-01")]
    }

    fn chat_body(&self, outgoing: &Outgoing<'_>) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = outgoing.buffer();
        serde_json::to_writer(&mut bytes, &Body(outgoing))?;
        Ok(bytes)
    }

    fn read_whole(&self, body: &[u8], answer: &mut Answer<'_>) -> Result<(), Fault> {
        let reply: Message<'_> = serde_json::from_slice(body)?;
        if let Some(complaint) = reply.error {
            return Err(complaint.into());
        }
        let Some(content) = reply.content else { return Err(Fault::Bad("it has no content".to_owned())) };
        answer.named(reply.model.as_deref());
        if let Some(usage) = reply.usage {
            usage.add_to(answer);
        }
        for (place, block) in (0_u64..).zip(content) {
            block.begin(place, Form::Whole, answer)?;
        }
        answer.finish = reply.stop_reason.as_deref().map(finish);
        Ok(())
    }

    fn read_event(&self, data: &[u8], answer: &mut Answer<'_>) -> Result<(), Fault> {
        let event: Event<'_> = serde_json::from_slice(data)?;
        let delta = event.delta.unwrap_or_default();
        match event.kind.as_ref() {
            "message_start" => {
                let message = event.message.unwrap_or_default();
                answer.named(message.model.as_deref());
                if let Some(usage) = message.usage {
                    // What it counts of the answer is what was there when it began.
                    UsageReply { output_tokens: None, ..usage }.add_to(answer);
                }
            }
            "content_block_start" => {
                if let Some(block) = event.content_block {
                    block.begin(event.index, Form::Begun, answer)?;
                }
            }
            "content_block_delta" => {
                answer.add_text(&delta.text.0)?;
                answer.add_reasoning(&delta.thinking.0)?;
                if answer.tools.iter().any(|it| it.index == event.index) {
                    answer.add_tool(event.index, "", "", &delta.partial_json.0)?;
                } else {
                    // The tool that stands for a schema.
                    answer.add_text(&delta.partial_json.0)?;
                }
            }
            "message_delta" => {
                if let Some(usage) = event.usage {
                    usage.add_to(answer);
                }
                if let Some(reason) = delta.stop_reason {
                    answer.finish = Some(finish(&reason));
                }
            }
            "message_stop" => answer.is_done = true,
            "error" => return Err(event.error.unwrap_or_default().into()),
            _ => {}
        }
        Ok(())
    }

    fn read_list(&self, body: &[u8]) -> Option<Vec<ListedModel>> {
        super::parse_list(body)
    }
}

struct Body<'a>(&'a Outgoing<'a>);

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Outgoing { model, request, is_streaming } = *self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("model", &model.model)?;
        if self.0.is_ours("max_tokens") {
            map.serialize_entry("max_tokens", &self.0.output_tokens_max())?;
        }
        let mut system = String::new();
        for message in request.messages.iter().filter(|it| it.speaker == Speaker::System) {
            if !system.is_empty() {
                system.push_str("\n\n");
            }
            system.push_str(&message.text);
        }
        if !system.is_empty() {
            map.serialize_entry("system", &system)?;
        }
        map.serialize_entry("messages", &Messages(&request.messages))?;
        if let Some(temperature) = self.0.temperature().filter(|_| self.0.is_ours("temperature")) {
            // Others go up to 2, this one up to 1.
            map.serialize_entry("temperature", &temperature.min(1.0))?;
        }
        match (self.0.native_schema(), request.tools.as_deref()) {
            (Some(schema), None) => {
                map.serialize_entry("tools", &[Tool::answer(schema)])?;
                map.serialize_entry("tool_choice", &Choice { kind: "tool", name: Some(ANSWER_TOOL) })?;
            }
            (_, Some(tools)) => {
                map.serialize_entry("tools", &Tools(tools))?;
                map.serialize_entry("tool_choice", &Choice::of(&tools.choice))?;
            }
            (None, None) => {}
        }
        map.serialize_entry("stream", &is_streaming)?;
        params::write(&mut map, model, |_| true)?;
        map.end()
    }
}

struct Messages<'a>(&'a [ChatMessage]);

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().filter(|it| it.speaker != Speaker::System).map(Said))
    }
}

struct Said<'a>(&'a ChatMessage);

impl Serialize for Said<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let message = self.0;
        let mut map = serializer.serialize_map(Some(2))?;
        let calls = &message.tool_calls;
        match message.speaker {
            Speaker::Tool => {
                map.serialize_entry("role", "user")?;
                let id = calls.first().map_or("", |it| &it.id);
                map.serialize_entry("content", &[Block::ToolResult { tool_use_id: id, content: &message.text }])?;
            }
            Speaker::Assistant if !calls.is_empty() => {
                map.serialize_entry("role", "assistant")?;
                let text = (!message.text.is_empty()).then_some(Block::Text { text: &message.text });
                let uses = calls.iter().map(|it| Block::ToolUse {
                    id: &it.id,
                    name: &it.name,
                    input: Arguments(&it.arguments),
                });
                map.serialize_entry("content", &text.into_iter().chain(uses).collect::<Vec<_>>())?;
            }
            Speaker::System | Speaker::User | Speaker::Assistant => {
                map.serialize_entry("role", message.speaker.as_str())?;
                map.serialize_entry("content", &message.text)?;
            }
        }
        map.end()
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block<'a> {
    Text { text: &'a str },
    ToolUse { id: &'a str, name: &'a str, input: Arguments<'a> },
    ToolResult { tool_use_id: &'a str, content: &'a str },
}

#[derive(Serialize)]
struct Tool<'a> {
    name: &'a str,
    description: &'a str,
    input_schema: &'a serde_json::Value,
}

impl<'a> Tool<'a> {
    /// The tool whose input is the answer.
    fn answer(schema: &'a OutputSchema) -> Self {
        Self { name: ANSWER_TOOL, description: "Give your answer with this tool.", input_schema: &schema.schema }
    }
}

struct Tools<'a>(&'a ToolSet);

impl Serialize for Tools<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.tools.iter().map(|it| Tool {
            name: &it.name,
            description: &it.description,
            input_schema: &it.parameters,
        }))
    }
}

#[derive(Serialize)]
struct Choice<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

impl<'a> Choice<'a> {
    fn of(choice: &'a ToolChoice) -> Self {
        match choice {
            ToolChoice::Auto => Self { kind: "auto", name: None },
            ToolChoice::None => Self { kind: "none", name: None },
            ToolChoice::Required => Self { kind: "any", name: None },
            ToolChoice::Named(name) => Self { kind: "tool", name: Some(name) },
        }
    }
}

#[derive(Debug, Default, Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    content: Option<Vec<ContentBlock<'a>>>,
    #[serde(borrow, default)]
    stop_reason: Option<Cow<'a, str>>,
    #[serde(default)]
    usage: Option<UsageReply>,
    #[serde(borrow, default)]
    error: Option<Complaint<'a>>,
}

/// A part of the content; of the kinds we do not know nothing is read.
#[derive(Debug, Deserialize)]
struct ContentBlock<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    thinking: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
}

/// How much of a block is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// All of it.
    Whole,
    /// Its kind and name; the rest follows, and an empty input stands for it.
    Begun,
}

impl ContentBlock<'_> {
    fn begin(&self, index: u64, form: Form, answer: &mut Answer<'_>) -> Result<(), Fault> {
        match self.kind.as_ref() {
            "text" => answer.add_text(self.text.as_deref().unwrap_or_default()),
            "thinking" => answer.add_reasoning(self.thinking.as_deref().unwrap_or_default()),
            "tool_use" => {
                let input = self.input.filter(|_| form == Form::Whole).map(RawValue::get).unwrap_or_default();
                match self.name.as_deref().unwrap_or_default() {
                    ANSWER_TOOL => answer.add_text(input),
                    name => answer.add_tool(index, self.id.as_deref().unwrap_or_default(), name, input),
                }
            }
            _ => Ok(()),
        }
    }
}

/// An event of a stream; each kind has some of the fields.
#[derive(Debug, Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(default)]
    index: u64,
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
    #[serde(borrow, default)]
    content_block: Option<ContentBlock<'a>>,
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    #[serde(default)]
    usage: Option<UsageReply>,
    #[serde(borrow, default)]
    error: Option<Complaint<'a>>,
}

#[derive(Debug, Default, Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    text: Content<'a>,
    #[serde(borrow, default)]
    thinking: Content<'a>,
    #[serde(borrow, default)]
    partial_json: Content<'a>,
    #[serde(borrow, default)]
    stop_reason: Option<Cow<'a, str>>,
}

#[expect(clippy::struct_field_names, reason = "the names on the wire")]
#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct UsageReply {
    #[serde(default)]
    input_tokens: Option<u64>,
    #[serde(default)]
    output_tokens: Option<u64>,
    #[serde(default)]
    cache_read_input_tokens: Option<u64>,
    #[serde(default)]
    cache_creation_input_tokens: Option<u64>,
}

impl UsageReply {
    /// Later figures replace earlier ones; the input is split by what the cache did.
    fn add_to(self, answer: &mut Answer<'_>) {
        let counted = answer.usage.get_or_insert(Counted::default());
        if let Some(input) = self.input_tokens {
            let cached = self.cache_read_input_tokens.unwrap_or(0);
            counted.cached = cached;
            counted.input = input.saturating_add(cached).saturating_add(self.cache_creation_input_tokens.unwrap_or(0));
        }
        if let Some(output) = self.output_tokens {
            counted.output = output;
        }
    }
}

/// Why an answer ended, from the provider's word.
fn finish(reason: &str) -> Finish {
    match reason {
        "end_turn" | "stop_sequence" => Finish::Stop,
        "max_tokens" | "model_context_window_exceeded" => Finish::Length,
        "tool_use" => Finish::ToolCalls,
        "refusal" => Finish::Filtered,
        _ => Finish::Other,
    }
}
