//! The seam for providers: the normalised request into the words of a protocol, and its replies back.
//!
//! A provider translates and does nothing else: [`crate::providers`] connects, waits, limits and counts for all of them. A new one
//! is one file in `providers/`, one value of `type` in the registry, and one wire format in the testkit; the conformance suite in
//! `tests/conformance` runs on it.
//!
//! **Invariant:** a provider has no IO, no clock and no state: the same bytes give the same answer.

use reqwest::header::{HeaderName, HeaderValue};
use secrecy::SecretString;

use crate::{
    ChatRequest, ModelConfig,
    providers::{Answer, Fault},
};

/// A protocol.
pub(crate) trait ModelProvider: Send + Sync {
    /// The path of chat below the base address.
    fn chat_path(&self) -> &'static str;

    /// The path of the list of models below the base address.
    fn list_path(&self) -> &'static str;

    /// The header that carries the key; `None` when the key is no text for a header.
    fn key_header(&self, key: &SecretString) -> Option<(HeaderName, HeaderValue)>;

    /// Headers of every request beside the key.
    fn fixed_headers(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// How a stream is cut into events.
    fn framing(&self) -> Framing {
        Framing::Events
    }

    /// The body of a chat request.
    fn chat_body(&self, outgoing: &Outgoing<'_>) -> Result<Vec<u8>, serde_json::Error>;

    /// Reads a whole reply.
    fn read_whole(&self, body: &[u8], answer: &mut Answer<'_>) -> Result<(), Fault>;

    /// Reads one event of a stream.
    fn read_event(&self, data: &[u8], answer: &mut Answer<'_>) -> Result<(), Fault>;

    /// Reads the list of models; `None` when it is none.
    fn read_list(&self, body: &[u8]) -> Option<Vec<ListedModel>>;

    /// How vectors are asked for; `None` when the protocol has none.
    fn embedding(&self) -> Option<&dyn Embedding> {
        None
    }
}

/// How a protocol asks for vectors.
pub(crate) trait Embedding: Send + Sync {
    /// The path below the base address.
    fn path(&self) -> &'static str;

    /// The body for these texts.
    fn body(&self, model: &str, texts: &[&str]) -> serde_json::Value;

    /// Reads the vectors, in the order of the texts, and the tokens of the input where they are told.
    fn read(&self, body: &[u8]) -> Result<(Vec<Vec<f32>>, Option<u64>), Fault>;
}

/// How a stream is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Server-sent events.
    Events,
    /// One JSON document a line.
    Lines,
}

/// A request on its way out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    pub(crate) model: &'a ModelConfig,
    pub(crate) request: &'a ChatRequest,
    pub(crate) is_streaming: bool,
}

impl Outgoing<'_> {
    /// Tokens of the answer that are asked for.
    pub(crate) fn output_tokens_max(&self) -> u32 {
        self.request.output_tokens_max.clamp(1, self.model.spec.output_tokens_max)
    }

    /// The temperature to ask for, if any.
    pub(crate) fn temperature(&self) -> Option<f32> {
        self.request.temperature.or(self.model.temperature)
    }

    /// The schema, where the model enforces one.
    pub(crate) fn native_schema(&self) -> Option<&crate::OutputSchema> {
        self.request.schema.as_deref().filter(|_| self.model.spec.has_json_schema)
    }

    /// Whether a standard field of this name is ours to write, because `params` has none.
    pub(crate) fn is_ours(&self, name: &str) -> bool {
        !self.model.params.contains_key(name)
    }

    /// An empty buffer with room for the body.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        let texts: usize = self.request.messages.iter().map(|it| it.text.len() + 64).sum();
        // Escapes make text longer; an eighth more saves nearly every second growth.
        Vec::with_capacity(texts + texts / 8 + 256)
    }
}

/// A model a provider offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedModel {
    /// Its identifier.
    pub id: String,
    /// Its context window, when the provider says.
    pub context_window: Option<u32>,
}
