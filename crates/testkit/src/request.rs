//! What the stub server was asked: one chat completion request, for scripts and assertions.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// One message of a request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StubMessage {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Its text; the text parts joined when it came in parts.
    #[serde(rename = "content", default, deserialize_with = "content")]
    pub text: String,
}

/// One chat completion request.
#[derive(Debug, Clone, PartialEq)]
pub struct StubRequest {
    /// Which call of this server it is, from 1.
    pub number: u64,
    /// When it was complete, counted from the start of the server.
    pub at: Duration,
    /// The model asked for.
    pub model: String,
    /// The conversation.
    pub messages: Vec<StubMessage>,
    /// The JSON Schema of the answer, when one was given.
    pub schema: Option<Value>,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// Whether the stream should end with the usage.
    pub stream_usage: bool,
    /// The answer's limit in tokens.
    pub tokens_max: Option<u64>,
    /// The `authorization` header.
    pub authorization: Option<String>,
    /// The body as it came.
    pub body: Bytes,
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    model: String,
    #[serde(default)]
    messages: Vec<StubMessage>,
    response_format: Option<Value>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

impl StubRequest {
    pub(crate) fn parse(body: Bytes, number: u64, at: Duration) -> Result<Self, serde_json::Error> {
        let parsed: Body = serde_json::from_slice(&body)?;
        Ok(Self {
            number,
            at,
            model: parsed.model,
            messages: parsed.messages,
            schema: parsed.response_format.and_then(|mut format| match format.pointer_mut("/json_schema/schema") {
                Some(schema) => Some(schema.take()),
                None => (format.get("type")? == "json_object").then(|| Value::Object(serde_json::Map::default())),
            }),
            stream: parsed.stream,
            stream_usage: parsed.stream_options.is_some_and(|options| options.include_usage),
            tokens_max: parsed.max_tokens.or(parsed.max_completion_tokens),
            authorization: None,
            body,
        })
    }

    /// Whether the answer must be JSON.
    pub fn has_schema(&self) -> bool {
        self.schema.is_some()
    }

    /// Whether any message contains `needle`.
    pub fn contains(&self, needle: &str) -> bool {
        self.messages.iter().any(|message| message.text.contains(needle))
    }

    /// The texts of all messages, a line between them.
    pub fn text(&self) -> String {
        self.messages.iter().map(|message| message.text.as_str()).collect::<Vec<_>>().join("\n")
    }

    /// The first line of the last message that somebody asked, without blanks around it.
    pub fn first_line(&self) -> &str {
        let last = self.messages.iter().rev().find(|message| message.role == "user").or(self.messages.last());
        last.map_or("", |message| message.text.trim_start().lines().next().unwrap_or("").trim_end())
    }

    /// The deterministic size of the prompt: a token for every four bytes of text, rounded up.
    pub fn input_tokens(&self) -> u64 {
        let bytes: usize = self.messages.iter().map(|message| message.text.len()).sum();
        tokens(bytes)
    }
}

/// A token for every four bytes, rounded up.
pub(crate) fn tokens(bytes: usize) -> u64 {
    bytes.div_ceil(4) as u64
}

/// A text, or a list of parts of which some are texts.
fn content<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Content {
        Text(String),
        Parts(Vec<Part>),
        Nothing(()),
    }
    #[derive(Deserialize)]
    struct Part {
        #[serde(default)]
        text: String,
    }
    Ok(match Content::deserialize(deserializer)? {
        Content::Text(text) => text,
        Content::Parts(parts) => parts.into_iter().map(|part| part.text).collect(),
        Content::Nothing(()) => String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> StubRequest {
        StubRequest::parse(Bytes::copy_from_slice(json.as_bytes()), 1, Duration::ZERO).unwrap()
    }

    #[test]
    fn reads_texts_parts_and_limits() {
        let request = parse(
            r#"{"model":"m","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":[{"type":"text","text":"\n One \nTwo"}]},
                {"role":"assistant","content":null}],"stream":true,"stream_options":{"include_usage":true},"max_completion_tokens":7,"extra":1}"#,
        );
        assert_eq!(request.first_line(), "One");
        assert_eq!((request.stream, request.stream_usage, request.tokens_max), (true, true, Some(7)));
        assert!(request.contains("Two") && !request.contains("Three") && !request.has_schema());
        assert_eq!(request.input_tokens(), 5);
    }

    #[test]
    fn reads_the_schema() {
        let request = parse(
            r#"{"response_format":{"type":"json_schema","json_schema":{"name":"p","schema":{"type":"object"}}}}"#,
        );
        assert_eq!(request.schema.unwrap()["type"], "object");
        assert!(parse(r#"{"response_format":{"type":"json_object"}}"#).has_schema());
        assert!(!parse(r#"{"response_format":{"type":"text"}}"#).has_schema());
    }
}
