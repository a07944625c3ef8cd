//! Chat completions as OpenAI, OpenRouter, vLLM, TGI, Ollama, LM Studio and llama.cpp have them.

use std::borrow::Cow;

use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer, de::IgnoredAny, ser::SerializeMap};

use super::{
    answer::{Answer, Counted, Fault},
    params::{self, Function, NamedSchema},
    reply::{Complaint, Content},
};
use crate::{
    ChatMessage, Finish, ListedModel, ModelProvider, OutputSchema, Speaker, ToolCall, ToolChoice, ToolSet,
    provider::{Embedding, Outgoing},
};

/// Chat completions.
pub(super) struct OpenAiCompatible;

impl ModelProvider for OpenAiCompatible {
    fn chat_path(&self) -> &'static str {
        "chat/completions"
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
        let reply: Reply<'_> = serde_json::from_slice(body)?;
        let Some(choice) = reply.choices.into_iter().flatten().next() else {
            return Err(match reply.error {
                Some(complaint) => complaint.into(),
                None => Fault::Bad("it has no choices".to_owned()),
            });
        };
        let Some(message) = choice.message else { return Err(Fault::Bad("its choice has no message".to_owned())) };
        answer.named(reply.model.as_deref());
        answer.usage = reply.usage.map(UsageReply::counted);
        message.add_to(answer)?;
        if let Some(logprobs) = choice.logprobs {
            logprobs.add_to(answer);
        }
        answer.finish = Some(choice.finish_reason.as_deref().map_or(Finish::Stop, finish));
        Ok(())
    }

    fn read_event(&self, data: &[u8], answer: &mut Answer<'_>) -> Result<(), Fault> {
        if data == b"[DONE]" {
            answer.is_done = true;
            return Ok(());
        }
        let chunk: Reply<'_> = serde_json::from_slice(data)?;
        if let Some(complaint) = chunk.error {
            return Err(complaint.into());
        }
        answer.named(chunk.model.as_deref());
        if let Some(usage) = chunk.usage {
            answer.usage = Some(usage.counted());
        }
        let Some(choice) = chunk.choices.into_iter().flatten().next() else { return Ok(()) };
        if let Some(message) = choice.message {
            message.add_to(answer)?;
        }
        if let Some(logprobs) = choice.logprobs {
            logprobs.add_to(answer);
        }
        if let Some(reason) = choice.finish_reason {
            answer.finish = Some(finish(&reason));
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

/// `Authorization: Bearer KEY`.
pub(super) fn bearer(key: &SecretString) -> Option<(HeaderName, HeaderValue)> {
    let value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret())).ok()?;
    Some((AUTHORIZATION, value))
}

/// How a provider names the limit on the answer's tokens: api.openai.com wants its own name for its newer models.
fn limit_field(base_url: &str) -> &'static str {
    if base_url.starts_with("https://api.openai.com") { "max_completion_tokens" } else { "max_tokens" }
}

struct Body<'a>(&'a Outgoing<'a>);

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Outgoing { model, request, is_streaming } = *self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("model", &model.model)?;
        map.serialize_entry("messages", &Messages(&request.messages))?;
        if self.0.is_ours("max_tokens") && self.0.is_ours("max_completion_tokens") {
            map.serialize_entry(limit_field(&model.provider.base_url), &self.0.output_tokens_max())?;
        }
        if let Some(temperature) = self.0.temperature().filter(|_| self.0.is_ours("temperature")) {
            map.serialize_entry("temperature", &temperature)?;
        }
        if let Some(schema) = self.0.native_schema() {
            map.serialize_entry("response_format", &ResponseFormat(schema))?;
        }
        if let Some(tools) = request.tools.as_deref() {
            map.serialize_entry("tools", &Tools(tools))?;
            map.serialize_entry("tool_choice", &Choice(&tools.choice))?;
        }
        if model.confidence_min.is_some() && self.0.is_ours("logprobs") {
            map.serialize_entry("logprobs", &true)?;
        }
        map.serialize_entry("stream", &is_streaming)?;
        if is_streaming {
            map.serialize_entry("stream_options", &StreamOptions { include_usage: true })?;
        }
        params::write(&mut map, model, |_| true)?;
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
        match message.speaker {
            Speaker::Tool => {
                map.serialize_entry("content", &message.text)?;
                map.serialize_entry("tool_call_id", message.tool_calls.first().map_or("", |it| &it.id))?;
            }
            Speaker::Assistant if !message.tool_calls.is_empty() => {
                map.serialize_entry("content", &Some(&*message.text).filter(|it| !it.is_empty()))?;
                map.serialize_entry("tool_calls", &ToolCalls(&message.tool_calls))?;
            }
            Speaker::System | Speaker::User | Speaker::Assistant => map.serialize_entry("content", &message.text)?,
        }
        map.end()
    }
}

struct ToolCalls<'a>(&'a [ToolCall]);

impl Serialize for ToolCalls<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Call<'a> {
            id: &'a str,
            #[serde(rename = "type")]
            kind: &'static str,
            function: Called<'a>,
        }
        #[derive(Serialize)]
        struct Called<'a> {
            name: &'a str,
            arguments: &'a str,
        }
        serializer.collect_seq(self.0.iter().map(|it| Call {
            id: &it.id,
            kind: "function",
            function: Called { name: &it.name, arguments: &it.arguments },
        }))
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
        serializer.collect_seq(self.0.tools.iter().map(|it| Tool { kind: "function", function: it.into() }))
    }
}

struct Choice<'a>(&'a ToolChoice);

impl Serialize for Choice<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            ToolChoice::Auto => serializer.serialize_str("auto"),
            ToolChoice::None => serializer.serialize_str("none"),
            ToolChoice::Required => serializer.serialize_str("required"),
            ToolChoice::Named(name) => {
                serde_json::json!({"type": "function", "function": {"name": name}}).serialize(serializer)
            }
        }
    }
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

struct ResponseFormat<'a>(&'a OutputSchema);

impl Serialize for ResponseFormat<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("type", "json_schema")?;
        map.serialize_entry("json_schema", &NamedSchema::from(self.0))?;
        map.end()
    }
}

/// A whole reply, or one chunk of a stream.
#[derive(Debug, Default, Deserialize)]
struct Reply<'a> {
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    choices: Option<Vec<ChoiceReply<'a>>>,
    #[serde(default)]
    usage: Option<UsageReply>,
    #[serde(borrow, default)]
    error: Option<Complaint<'a>>,
}

#[derive(Debug, Deserialize)]
struct ChoiceReply<'a> {
    #[serde(borrow, default, alias = "delta")]
    message: Option<MessageReply<'a>>,
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
    #[serde(default)]
    logprobs: Option<LogprobsReply>,
}

/// Probabilities of tokens. Older servers have other forms, in which nothing is known.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum LogprobsReply {
    Known { content: Vec<TokenReply> },
    Other(IgnoredAny),
}

#[derive(Debug, Deserialize)]
struct TokenReply {
    logprob: f64,
}

impl LogprobsReply {
    fn add_to(self, answer: &mut Answer<'_>) {
        match self {
            Self::Known { content } => content.into_iter().for_each(|token| answer.add_logprob(token.logprob)),
            Self::Other(IgnoredAny) => {}
        }
    }
}

#[derive(Debug, Default, Deserialize)]
struct MessageReply<'a> {
    #[serde(borrow, default)]
    content: Content<'a>,
    #[serde(borrow, default, alias = "reasoning")]
    reasoning_content: Content<'a>,
    #[serde(borrow, default)]
    refusal: Content<'a>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<ToolReply<'a>>>,
}

#[derive(Debug, Deserialize)]
struct ToolReply<'a> {
    #[serde(default)]
    index: Option<u64>,
    #[serde(borrow, default)]
    id: Content<'a>,
    #[serde(borrow, default)]
    function: FunctionReply<'a>,
}

#[derive(Debug, Default, Deserialize)]
struct FunctionReply<'a> {
    #[serde(borrow, default)]
    name: Content<'a>,
    #[serde(borrow, default)]
    arguments: Content<'a>,
}

impl MessageReply<'_> {
    fn add_to(self, answer: &mut Answer<'_>) -> Result<(), Fault> {
        answer.add_reasoning(&self.reasoning_content.0)?;
        answer.add_text(&self.content.0)?;
        answer.add_refusal(&self.refusal.0)?;
        for (place, tool) in self.tool_calls.into_iter().flatten().enumerate() {
            let index = tool.index.unwrap_or(place as u64);
            answer.add_tool(index, &tool.id.0, &tool.function.name.0, &tool.function.arguments.0)?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct UsageReply {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
    #[serde(default)]
    total_tokens: Option<u64>,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(default)]
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct CompletionDetails {
    #[serde(default)]
    reasoning_tokens: Option<u64>,
}

impl UsageReply {
    fn counted(self) -> Counted {
        let (input, mut output) = (self.prompt_tokens.unwrap_or(0), self.completion_tokens.unwrap_or(0));
        let reasoning = self.completion_tokens_details.and_then(|it| it.reasoning_tokens).unwrap_or(0);
        // Some providers count reasoning beside the completion; the total tells.
        let beside = input.saturating_add(output).saturating_add(reasoning);
        if reasoning > 0 && self.total_tokens == Some(beside) {
            output = output.saturating_add(reasoning);
        }
        let cached = self.prompt_tokens_details.and_then(|it| it.cached_tokens).unwrap_or(0);
        Counted { input, output, cached, reasoning }
    }
}

/// Why an answer ended, from the provider's word.
fn finish(reason: &str) -> Finish {
    match reason {
        "stop" | "eos" | "eos_token" | "end_turn" | "stop_sequence" | "" => Finish::Stop,
        "length" | "max_tokens" | "model_length" => Finish::Length,
        "tool_calls" | "function_call" => Finish::ToolCalls,
        "content_filter" | "safety" | "refusal" => Finish::Filtered,
        _ => Finish::Other,
    }
}

/// Reads the answer of `GET /models`.
pub(crate) fn parse_list(body: &[u8]) -> Option<Vec<ListedModel>> {
    #[derive(Deserialize)]
    struct List {
        data: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        id: String,
        /// vLLM.
        #[serde(default)]
        max_model_len: Option<u32>,
        /// OpenRouter.
        #[serde(default)]
        context_length: Option<u32>,
        /// LM Studio.
        #[serde(default)]
        loaded_context_length: Option<u32>,
        /// llama.cpp.
        #[serde(default)]
        meta: Option<Meta>,
    }
    #[derive(Deserialize)]
    struct Meta {
        #[serde(default)]
        n_ctx: Option<u32>,
    }
    let list: List = serde_json::from_slice(body).ok()?;
    let entries = list.data.into_iter().map(|it| ListedModel {
        context_window: it
            .max_model_len
            .or(it.loaded_context_length)
            .or(it.context_length)
            .or(it.meta.and_then(|meta| meta.n_ctx))
            .filter(|it| *it > 0),
        id: it.id,
    });
    Some(entries.collect())
}

/// `POST /embeddings`.
pub(super) struct Embeddings;

impl Embedding for Embeddings {
    fn path(&self) -> &'static str {
        "embeddings"
    }

    fn body(&self, model: &str, texts: &[&str]) -> serde_json::Value {
        serde_json::json!({"model": model, "input": texts, "encoding_format": "float"})
    }

    fn read(&self, body: &[u8]) -> Result<(Vec<Vec<f32>>, Option<u64>), Fault> {
        #[derive(Deserialize)]
        struct Vectors<'a> {
            #[serde(default)]
            data: Option<Vec<One>>,
            #[serde(default)]
            usage: Option<UsageReply>,
            #[serde(borrow, default)]
            error: Option<Complaint<'a>>,
        }
        #[derive(Deserialize)]
        struct One {
            #[serde(default)]
            index: usize,
            embedding: Vec<f32>,
        }
        let reply: Vectors<'_> = serde_json::from_slice(body)?;
        if let Some(complaint) = reply.error {
            return Err(complaint.into());
        }
        let Some(mut data) = reply.data else { return Err(Fault::Bad("it has no vectors".to_owned())) };
        data.sort_by_key(|it| it.index);
        let tokens = reply.usage.and_then(|it| it.prompt_tokens);
        Ok((data.into_iter().map(|it| it.embedding).collect(), tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasoning_beside_the_completion_is_output() {
        let read = |json: &str| serde_json::from_str::<UsageReply>(json).unwrap().counted();
        let inside = read(
            r#"{"prompt_tokens":5,"completion_tokens":9,"total_tokens":14,"completion_tokens_details":{"reasoning_tokens":4}}"#,
        );
        assert_eq!((inside.output, inside.reasoning), (9, 4));
        let beside = read(
            r#"{"prompt_tokens":5,"completion_tokens":9,"total_tokens":18,"completion_tokens_details":{"reasoning_tokens":4}}"#,
        );
        assert_eq!((beside.output, beside.reasoning), (13, 4));
    }

    #[test]
    fn confidence_is_the_mean_probability_of_the_tokens() {
        let read = |logprobs: &str| {
            let body = format!(r#"{{"choices":[{{"message":{{"content":"yes"}},"logprobs":{logprobs}}}]}}"#);
            let mut answer = Answer::new(tokio::time::Instant::now(), 1_000, None);
            OpenAiCompatible.read_whole(body.as_bytes(), &mut answer).unwrap();
            answer.confidence()
        };
        let half = 0.5_f64.ln();
        let known =
            read(&format!(r#"{{"content":[{{"token":"y","logprob":{half}}},{{"token":"es","logprob":{half}}}]}}"#));
        assert!((known.unwrap() - 0.5).abs() < 1e-9);
        let impossible = read(r#"{"content":[{"logprob":-9999.0},{"logprob":0.0}]}"#);
        assert!((impossible.unwrap() - (-10.0_f64).exp()).abs() < 1e-9);
        for unknown in ["null", "{}", r#"{"content":[]}"#, r#"{"tokens":["y"],"token_logprobs":[-0.1]}"#, "3"] {
            assert_eq!(read(unknown), None, "{unknown}");
        }
        let chunk = r#"{"choices":[{"delta":{"content":"y"},"logprobs":{"content":[{"logprob":0.0}]}}]}"#;
        let mut answer = Answer::new(tokio::time::Instant::now(), 1_000, None);
        OpenAiCompatible.read_event(chunk.as_bytes(), &mut answer).unwrap();
        assert_eq!(answer.confidence(), Some(1.0));
    }
}
