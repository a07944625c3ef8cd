//! How the servers of each provider type write: answers, streams, errors; and what they were asked.
//!
//! **Invariant:** the formats are written down here from the providers' own documents, not from the code under test.

mod chat_completions;
mod messages;
mod ollama;
mod responses;

use serde_json::Value;

pub use self::{chat_completions::ChatCompletions, messages::Messages, ollama::OllamaChat, responses::Responses};

/// An answer in no format yet.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wired<'a> {
    /// Its text.
    pub text: &'a str,
    /// The tools it calls: id, name, arguments as JSON text.
    pub calls: &'a [(&'a str, &'a str, &'a str)],
    /// Tokens of input, output, cache and reasoning.
    pub usage: Option<[u64; 4]>,
    /// Why it ends.
    pub end: End,
}

/// Why an answer ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum End {
    /// The model was done.
    #[default]
    Stop,
    /// The limit cut it.
    Length,
    /// A filter stopped it.
    Filtered,
}

/// The format of a provider type.
pub trait Wire: Sync {
    /// The `type` in the registry.
    fn registry_type(&self) -> &'static str;
    /// What stands behind the port in `base_url`.
    fn base_path(&self) -> &'static str;
    /// The path that is asked.
    fn chat_path(&self) -> &'static str;
    /// The header that carries the key, and what stands before it.
    fn key_header(&self) -> (&'static str, &'static str);
    /// The content type of a stream.
    fn stream_type(&self) -> &'static str {
        "text/event-stream; charset=utf-8"
    }
    /// Whether usage tells how much came from a cache, and how much was reasoning.
    fn usage_details(&self) -> [bool; 2];
    /// Whether an answer can say that a filter stopped it.
    fn has_filter(&self) -> bool {
        true
    }
    /// A whole answer.
    fn whole(&self, answer: &Wired<'_>) -> String;
    /// What a stream begins with.
    fn start(&self) -> String;
    /// A piece of text in a stream.
    fn piece(&self, text: &str) -> String;
    /// A stream's end; calls of tools are part of it.
    fn end(&self, answer: &Wired<'_>) -> String;
    /// The body of an error, and its `code` or `type`.
    fn error(&self, message: &str, code: &str) -> String;
    /// An event that breaks a stream off.
    fn error_event(&self, message: &str) -> String;
    /// A reply without an answer in it.
    fn hollow(&self) -> String;
    /// The limit on tokens in a request.
    fn tokens_max<'a>(&self, body: &'a Value) -> &'a Value;
    /// The temperature in a request.
    fn temperature<'a>(&self, body: &'a Value) -> &'a Value {
        &body["temperature"]
    }
    /// The schema in a request.
    fn schema<'a>(&self, body: &'a Value) -> Option<&'a Value>;
    /// The conversation of a request, a line for each part: `role: text`, `call NAME ARGUMENTS`, `result ID TEXT`.
    fn conversation(&self, body: &Value) -> Vec<String>;
    /// The tools of a request: name and schema of the arguments; and the choice.
    fn tools(&self, body: &Value) -> (Vec<(String, Value)>, Value);
    /// Path and reply for vectors.
    fn embeddings(&self, vectors: &[&[f32]], tokens: u64) -> Option<(&'static str, String)>;

    /// A whole stream: a piece for each text, then the end of `answer`.
    fn stream(&self, pieces: &[&str], answer: &Wired<'_>) -> String {
        let pieces: String = pieces.iter().map(|it| self.piece(it)).collect();
        self.start() + &pieces + &self.end(answer)
    }
}

/// All formats.
pub const WIRES: [&dyn Wire; 4] = [&ChatCompletions, &Responses, &Messages, &OllamaChat];

fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

fn named_event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", text(&data["type"]))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Arguments as JSON, whether they are written as text or as themselves.
fn parsed(arguments: &str) -> Value {
    serde_json::from_str(arguments).unwrap_or_default()
}
