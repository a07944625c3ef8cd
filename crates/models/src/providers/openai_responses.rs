//! OpenAI responses (`POST /responses`). Nothing is stored at the provider: the conversation is sent each time.

use std::borrow::Cow;

use reqwest::header::{HeaderName, HeaderValue};
use secrecy::SecretString;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};

use super::{
    answer::{Answer, Counted, Fault},
    openai_compatible::{Embeddings, bearer, parse_list},
    params::{self, Function, NamedSchema},
    reply::{Complaint, Content},
};
use crate::{
    ChatMessage, Finish, ListedModel, ModelProvider, OutputSchema, Speaker, ToolChoice, ToolSet,
    provider::{Embedding, Outgoing},
};

/// OpenAI responses.
pub(super) struct OpenAiResponses;

impl ModelProvider for OpenAiResponses {
    fn chat_path(&self) -> &'static str {
        "responses"
    }

    fn list_path(&self) -> &'static str {
        "models"
    }

    fn key_header(&self, key: &SecretString) -> Option<(HeaderName, HeaderValue)> {
        bearer(key)
    }

    fn chat_body(&self, outgoing: &Outgoing<'_>) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = outgoing.buffer();
        serde_json::to_writer(&mut bytes, &Body(outgoing))?;
        Ok(bytes)
    }

    fn read_whole(&self, body: &[u8], answer: &mut Answer<'_>) -> Result<(), Fault> {
        serde_json::from_slice::<Response<'_>>(body)?.add_to(answer)
    }

    fn read_event(&self, data: &[u8], answer: &mut Answer<'_>) -> Result<(), Fault> {
        let event: Event<'_> = serde_json::from_slice(data)?;
        match event.kind.as_ref() {
            "response.created" => answer.named(event.response.unwrap_or_default().model.as_deref()),
            "response.output_text.delta" => answer.add_text(&event.delta.0)?,
            "response.refusal.delta" => answer.add_refusal(&event.delta.0)?,
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
                answer.add_reasoning(&event.delta.0)?;
            }
            "response.output_item.added" | "response.output_item.done" => {
                if let Some(item) = event.item.filter(|it| it.kind == "function_call") {
                    item.add_to(event.output_index, answer)?;
                }
            }
            "response.function_call_arguments.delta" => answer.add_tool(event.output_index, "", "", &event.delta.0)?,
            "response.completed" | "response.incomplete" | "response.failed" => {
                event.response.unwrap_or_default().add_to(answer)?;
                answer.is_done = true;
            }
            "error" => {
                let plain = || Complaint::new(event.message.unwrap_or_default(), &event.code.unwrap_or_default());
                return Err(event.error.unwrap_or_else(plain).into());
            }
            _ => {}
        }
        Ok(())
    }

    fn read_list(&self, body: &[u8]) -> Option<Vec<ListedModel>> {
        parse_list(body)
    }

    fn embedding(&self) -> Option<&dyn Embedding> {
        Some(&Embeddings)
    }
}

struct Body<'a>(&'a Outgoing<'a>);

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Outgoing { model, request, is_streaming } = *self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("model", &model.model)?;
        map.serialize_entry("input", &Input(&request.messages))?;
        if self.0.is_ours("max_output_tokens") {
            // It takes no fewer than 16.
            map.serialize_entry("max_output_tokens", &self.0.output_tokens_max().max(16))?;
        }
        if let Some(temperature) = self.0.temperature().filter(|_| self.0.is_ours("temperature")) {
            map.serialize_entry("temperature", &temperature)?;
        }
        if let Some(schema) = self.0.native_schema() {
            map.serialize_entry("text", &Text { format: Format(schema) })?;
        }
        if let Some(tools) = request.tools.as_deref() {
            map.serialize_entry("tools", &Tools(tools))?;
            map.serialize_entry("tool_choice", &Choice(&tools.choice))?;
        }
        if self.0.is_ours("store") {
            map.serialize_entry("store", &false)?;
        }
        map.serialize_entry("stream", &is_streaming)?;
        params::write(&mut map, model, |_| true)?;
        map.end()
    }
}

struct Input<'a>(&'a [ChatMessage]);

impl Serialize for Input<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let items = self.0.iter().flat_map(|message| {
            let said = match message.speaker {
                Speaker::Tool => Some(Item::Result {
                    kind: "function_call_output",
                    call_id: message.tool_calls.first().map_or("", |it| &it.id),
                    output: &message.text,
                }),
                Speaker::Assistant if message.text.is_empty() && !message.tool_calls.is_empty() => None,
                Speaker::System | Speaker::User | Speaker::Assistant => {
                    Some(Item::Said { role: message.speaker.as_str(), content: &message.text })
                }
            };
            let calls = message.tool_calls.iter().filter(|_| message.speaker != Speaker::Tool);
            let calls = calls.map(|it| Item::Call {
                kind: "function_call",
                call_id: &it.id,
                name: &it.name,
                arguments: &it.arguments,
            });
            said.into_iter().chain(calls)
        });
        serializer.collect_seq(items)
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Item<'a> {
    Said {
        role: &'static str,
        content: &'a str,
    },
    Call {
        #[serde(rename = "type")]
        kind: &'static str,
        call_id: &'a str,
        name: &'a str,
        arguments: &'a str,
    },
    Result {
        #[serde(rename = "type")]
        kind: &'static str,
        call_id: &'a str,
        output: &'a str,
    },
}

#[derive(Serialize)]
struct Text<'a> {
    format: Format<'a>,
}

struct Format<'a>(&'a OutputSchema);

impl Serialize for Format<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Flat<'a> {
            #[serde(rename = "type")]
            kind: &'static str,
            #[serde(flatten)]
            schema: NamedSchema<'a>,
        }
        Flat { kind: "json_schema", schema: self.0.into() }.serialize(serializer)
    }
}

struct Tools<'a>(&'a ToolSet);

impl Serialize for Tools<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Tool<'a> {
            #[serde(rename = "type")]
            kind: &'static str,
            #[serde(flatten)]
            function: Function<'a>,
            strict: bool,
        }
        let tools = self.0.tools.iter();
        serializer.collect_seq(tools.map(|it| Tool { kind: "function", function: it.into(), strict: false }))
    }
}

struct Choice<'a>(&'a ToolChoice);

impl Serialize for Choice<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            ToolChoice::Auto => serializer.serialize_str("auto"),
            ToolChoice::None => serializer.serialize_str("none"),
            ToolChoice::Required => serializer.serialize_str("required"),
            ToolChoice::Named(name) => serde_json::json!({"type": "function", "name": name}).serialize(serializer),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
struct Response<'a> {
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    status: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    output: Option<Vec<OutputItem<'a>>>,
    #[serde(borrow, default)]
    incomplete_details: Option<Incomplete<'a>>,
    #[serde(default)]
    usage: Option<UsageReply>,
    #[serde(borrow, default)]
    error: Option<Complaint<'a>>,
}

#[derive(Debug, Deserialize)]
struct Incomplete<'a> {
    #[serde(borrow, default)]
    reason: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
struct OutputItem<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    content: Option<Vec<Part<'a>>>,
    #[serde(borrow, default)]
    summary: Option<Vec<Part<'a>>>,
    #[serde(borrow, default)]
    call_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    arguments: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
struct Part<'a> {
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    refusal: Option<Cow<'a, str>>,
}

impl Response<'_> {
    /// Adds a whole response; of one that was streamed, what is not there yet.
    fn add_to(self, answer: &mut Answer<'_>) -> Result<(), Fault> {
        if let Some(complaint) = self.error {
            return Err(complaint.into());
        }
        if self.status.is_none() && self.output.is_none() {
            return Err(Fault::Bad("it has no output".to_owned()));
        }
        answer.named(self.model.as_deref());
        if answer.is_empty() {
            for (index, item) in (0_u64..).zip(self.output.into_iter().flatten()) {
                item.add_to(index, answer)?;
            }
        }
        if let Some(usage) = self.usage {
            answer.usage = Some(usage.counted());
        }
        let reason = self.incomplete_details.and_then(|it| it.reason);
        answer.finish = match (self.status.as_deref(), reason.as_deref()) {
            (Some("completed"), _) => Some(Finish::Stop),
            (Some("incomplete"), Some("content_filter")) => Some(Finish::Filtered),
            (Some("incomplete"), _) => Some(Finish::Length),
            (Some("failed"), _) => return Err(Fault::Bad("it failed without an error".to_owned())),
            // Cancelled, or still under way: not an answer.
            (_, _) => None,
        };
        Ok(())
    }
}

impl OutputItem<'_> {
    fn add_to(self, index: u64, answer: &mut Answer<'_>) -> Result<(), Fault> {
        match self.kind.as_ref() {
            "message" => {
                for part in self.content.into_iter().flatten() {
                    answer.add_text(part.text.as_deref().unwrap_or_default())?;
                    answer.add_refusal(part.refusal.as_deref().unwrap_or_default())?;
                }
            }
            "reasoning" => {
                for part in self.summary.into_iter().flatten() {
                    answer.add_reasoning(part.text.as_deref().unwrap_or_default())?;
                }
            }
            "function_call" => {
                let (id, name) = (self.call_id.unwrap_or_default(), self.name.unwrap_or_default());
                // A streamed call is told again when it is done, whole: only what is new of it is taken.
                let is_known = answer.tools.iter().any(|it| it.index == index && !it.arguments.is_empty());
                let arguments = self.arguments.filter(|_| !is_known).unwrap_or_default();
                answer.add_tool(index, &id, &name, &arguments)?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// An event of a stream; each kind has some of the fields.
#[derive(Debug, Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(default)]
    output_index: u64,
    #[serde(borrow, default)]
    delta: Content<'a>,
    #[serde(borrow, default)]
    item: Option<OutputItem<'a>>,
    #[serde(borrow, default)]
    response: Option<Response<'a>>,
    #[serde(borrow, default)]
    message: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    code: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    error: Option<Complaint<'a>>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct UsageReply {
    #[serde(default)]
    input_tokens: u64,
    #[serde(default)]
    output_tokens: u64,
    #[serde(default)]
    input_tokens_details: Option<Details>,
    #[serde(default)]
    output_tokens_details: Option<Details>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct Details {
    #[serde(default)]
    cached_tokens: u64,
    #[serde(default)]
    reasoning_tokens: u64,
}

impl UsageReply {
    fn counted(self) -> Counted {
        Counted {
            input: self.input_tokens,
            output: self.output_tokens,
            cached: self.input_tokens_details.unwrap_or_default().cached_tokens,
            reasoning: self.output_tokens_details.unwrap_or_default().reasoning_tokens,
        }
    }
}
