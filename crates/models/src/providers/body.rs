//! The request body of chat completions, written once, straight from borrowed parts.
//!
//! **Invariant:** a field of `params` replaces ours of the same name; null leaves it out.

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{ChatMessage, ChatRequest, ModelConfig, OutputSchema};

/// How a provider names the limit on the answer's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LimitField {
    /// Understood by nearly all.
    MaxTokens,
    /// What api.openai.com wants for its newer models.
    MaxCompletionTokens,
}

impl LimitField {
    fn as_str(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

pub(super) struct Body<'a> {
    pub(super) model: &'a ModelConfig,
    pub(super) request: &'a ChatRequest,
    pub(super) is_streaming: bool,
    pub(super) limit_field: LimitField,
}

impl Body<'_> {
    /// The bytes to send.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let texts: usize = self.request.messages.iter().map(|it| it.text.len() + 64).sum();
        // Escapes make text longer; an eighth more saves nearly every second growth.
        let mut bytes = Vec::with_capacity(texts + texts / 8 + 256);
        serde_json::to_writer(&mut bytes, self)?;
        Ok(bytes)
    }
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let params = &self.model.params;
        let is_ours = |name: &str| params.is_empty() || !params.contains_key(name);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("model", &self.model.model)?;
        map.serialize_entry("messages", &Messages(&self.request.messages))?;
        let limit = self.limit_field.as_str();
        if is_ours("max_tokens") && is_ours("max_completion_tokens") {
            let spec = &self.model.spec;
            map.serialize_entry(limit, &self.request.output_tokens_max.clamp(1, spec.output_tokens_max))?;
        }
        if let Some(temperature) = self.request.temperature.or(self.model.temperature)
            && is_ours("temperature")
        {
            map.serialize_entry("temperature", &temperature)?;
        }
        if let Some(schema) = &self.request.schema
            && self.model.spec.has_json_schema
        {
            map.serialize_entry("response_format", &ResponseFormat(schema))?;
        }
        map.serialize_entry("stream", &self.is_streaming)?;
        if self.is_streaming {
            map.serialize_entry("stream_options", &StreamOptions { include_usage: true })?;
        }
        for (name, value) in params {
            if !value.is_null() {
                map.serialize_entry(name, value)?;
            }
        }
        map.end()
    }
}

struct Messages<'a>(&'a [ChatMessage]);

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|it| Message { role: it.speaker.as_str(), content: &it.text }))
    }
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

struct ResponseFormat<'a>(&'a OutputSchema);

impl Serialize for ResponseFormat<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Inner<'a> {
            name: &'a str,
            schema: &'a serde_json::Value,
            strict: bool,
        }
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("type", "json_schema")?;
        let inner = Inner { name: &self.0.name, schema: &self.0.schema, strict: false };
        map.serialize_entry("json_schema", &inner)?;
        map.end()
    }
}
