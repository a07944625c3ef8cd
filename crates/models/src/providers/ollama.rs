//! Ollama's own protocol (`POST /api/chat`): unlike its OpenAI door it sets the context window, and never cuts a prompt silently.

use std::borrow::Cow;

use reqwest::header::{HeaderName, HeaderValue};
use secrecy::SecretString;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;

use super::{
    answer::{Answer, Counted, Fault},
    openai_compatible::bearer,
    params::{self, Arguments, Function},
    reply::Complaint,
};
use crate::{
    ChatMessage, Finish, ListedModel, ModelProvider, Speaker, ToolCall, ToolChoice, ToolSet,
    provider::{Embedding, Framing, Outgoing},
};

/// Ollama.
pub(super) struct Ollama;

impl ModelProvider for Ollama {
    fn chat_path(&self) -> &'static str {
        "api/chat"
    }

    fn list_path(&self) -> &'static str {
        "api/tags"
    }

    fn key_header(&self, key: &SecretString) -> Option<(HeaderName, HeaderValue)> {
        bearer(key)
    }

    fn framing(&self) -> Framing {
        Framing::Lines
    }

    fn chat_body(&self, outgoing: &Outgoing<'_>) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = outgoing.buffer();
        serde_json::to_writer(&mut bytes, &Body(outgoing))?;
        Ok(bytes)
    }

    fn read_whole(&self, body: &[u8], answer: &mut Answer<'_>) -> Result<(), Fault> {
        // A stream that was not asked for is the same documents, one after the other.
        for document in serde_json::Deserializer::from_slice(body).into_iter::<Reply<'_>>() {
            document?.add_to(answer)?;
        }
        Ok(())
    }

    fn read_event(&self, data: &[u8], answer: &mut Answer<'_>) -> Result<(), Fault> {
        serde_json::from_slice::<Reply<'_>>(data)?.add_to(answer)
    }

    fn read_list(&self, body: &[u8]) -> Option<Vec<ListedModel>> {
        #[derive(Deserialize)]
        struct Tags {
            models: Vec<Tag>,
        }
        #[derive(Deserialize)]
        struct Tag {
            name: String,
        }
        let tags: Tags = serde_json::from_slice(body).ok()?;
        Some(tags.models.into_iter().map(|it| ListedModel { id: it.name, context_window: None }).collect())
    }

    fn embedding(&self) -> Option<&dyn Embedding> {
        Some(&Embed)
    }
}

struct Body<'a>(&'a Outgoing<'a>);

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Outgoing { model, request, is_streaming } = *self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("model", &model.model)?;
        map.serialize_entry("messages", &Messages(&request.messages))?;
        map.serialize_entry("options", &Options(self.0))?;
        if let Some(schema) = self.0.native_schema() {
            map.serialize_entry("format", &schema.schema)?;
        }
        // It has no word for a choice: tools that must not be called are not shown.
        if let Some(tools) = request.tools.as_deref().filter(|it| it.choice != ToolChoice::None) {
            map.serialize_entry("tools", &Tools(tools))?;
        }
        map.serialize_entry("stream", &is_streaming)?;
        // Options of the model stand in `options`; these three stand beside it.
        for name in BESIDE {
            if let Some(value) = model.params.get(name).filter(|it| !it.is_null()) {
                map.serialize_entry(name, value)?;
            }
        }
        map.end()
    }
}

/// What stands beside `options` in a request.
const BESIDE: [&str; 3] = ["keep_alive", "think", "truncate"];

struct Options<'a>(&'a Outgoing<'a>);

impl Serialize for Options<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let model = self.0.model;
        let mut map = serializer.serialize_map(None)?;
        if self.0.is_ours("num_ctx") {
            map.serialize_entry("num_ctx", &model.spec.context_window)?;
        }
        if self.0.is_ours("num_predict") {
            map.serialize_entry("num_predict", &self.0.output_tokens_max())?;
        }
        if let Some(temperature) = self.0.temperature().filter(|_| self.0.is_ours("temperature")) {
            map.serialize_entry("temperature", &temperature)?;
        }
        params::write(&mut map, model, |name| !BESIDE.contains(&name))?;
        map.end()
    }
}

struct Messages<'a>(&'a [ChatMessage]);

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Message))
    }
}

struct Message<'a>(&'a ChatMessage);

impl Serialize for Message<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let message = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("role", message.speaker.as_str())?;
        map.serialize_entry("content", &message.text)?;
        match message.speaker {
            Speaker::Tool => {
                map.serialize_entry("tool_name", message.tool_calls.first().map_or("", |it| &it.name))?;
            }
            Speaker::System | Speaker::User | Speaker::Assistant if message.tool_calls.is_empty() => {}
            Speaker::System | Speaker::User | Speaker::Assistant => {
                map.serialize_entry("tool_calls", &Calls(&message.tool_calls))?;
            }
        }
        map.end()
    }
}

struct Calls<'a>(&'a [ToolCall]);

impl Serialize for Calls<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Call<'a> {
            function: Called<'a>,
        }
        #[derive(Serialize)]
        struct Called<'a> {
            name: &'a str,
            arguments: Arguments<'a>,
        }
        serializer.collect_seq(
            self.0.iter().map(|it| Call { function: Called { name: &it.name, arguments: Arguments(&it.arguments) } }),
        )
    }
}

struct Tools<'a>(&'a ToolSet);

impl Serialize for Tools<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Tool<'a> {
            #[serde(rename = "type")]
            kind: &'static str,
            function: Function<'a>,
        }
        let shown = self.0.tools.iter().filter(|it| match &self.0.choice {
            ToolChoice::Named(name) => it.name == *name,
            ToolChoice::Auto | ToolChoice::None | ToolChoice::Required => true,
        });
        serializer.collect_seq(shown.map(|it| Tool { kind: "function", function: it.into() }))
    }
}

#[derive(Debug, Deserialize)]
struct Reply<'a> {
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    message: Option<MessageReply<'a>>,
    #[serde(default)]
    done: bool,
    #[serde(borrow, default)]
    done_reason: Option<Cow<'a, str>>,
    #[serde(default)]
    prompt_eval_count: Option<u64>,
    #[serde(default)]
    eval_count: Option<u64>,
    #[serde(borrow, default)]
    error: Option<Complaint<'a>>,
}

#[derive(Debug, Deserialize)]
struct MessageReply<'a> {
    #[serde(borrow, default)]
    content: Cow<'a, str>,
    #[serde(borrow, default)]
    thinking: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<CallReply<'a>>>,
}

#[derive(Debug, Deserialize)]
struct CallReply<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    function: FunctionReply<'a>,
}

#[derive(Debug, Deserialize)]
struct FunctionReply<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
}

impl Reply<'_> {
    fn add_to(self, answer: &mut Answer<'_>) -> Result<(), Fault> {
        if let Some(complaint) = self.error {
            return Err(complaint.into());
        }
        answer.named(self.model.as_deref());
        if let Some(message) = self.message {
            answer.add_reasoning(message.thinking.as_deref().unwrap_or_default())?;
            answer.add_text(&message.content)?;
            // Each call comes whole; its number is its place in the answer.
            for call in message.tool_calls.into_iter().flatten() {
                let index = answer.tools.len() as u64;
                let arguments = call.function.arguments.map(RawValue::get).unwrap_or_default();
                answer.add_tool(index, call.id.as_deref().unwrap_or_default(), &call.function.name, arguments)?;
            }
        }
        if self.done {
            answer.finish = Some(match self.done_reason.as_deref() {
                Some("stop") | None => Finish::Stop,
                Some("length") => Finish::Length,
                Some(_) => Finish::Other,
            });
            answer.usage = Some(Counted {
                input: self.prompt_eval_count.unwrap_or(0),
                output: self.eval_count.unwrap_or(0),
                ..Counted::default()
            });
            answer.is_done = true;
        }
        Ok(())
    }
}

/// `POST /api/embed`.
struct Embed;

impl Embedding for Embed {
    fn path(&self) -> &'static str {
        "api/embed"
    }

    fn body(&self, model: &str, texts: &[&str]) -> serde_json::Value {
        serde_json::json!({"model": model, "input": texts})
    }

    fn read(&self, body: &[u8]) -> Result<(Vec<Vec<f32>>, Option<u64>), Fault> {
        #[derive(Deserialize)]
        struct Vectors<'a> {
            #[serde(default)]
            embeddings: Option<Vec<Vec<f32>>>,
            #[serde(default)]
            prompt_eval_count: Option<u64>,
            #[serde(borrow, default)]
            error: Option<Complaint<'a>>,
        }
        let reply: Vectors<'_> = serde_json::from_slice(body)?;
        match (reply.error, reply.embeddings) {
            (Some(complaint), _) => Err(complaint.into()),
            (None, Some(vectors)) => Ok((vectors, reply.prompt_eval_count)),
            (None, None) => Err(Fault::Bad("it has no vectors".to_owned())),
        }
    }
}
