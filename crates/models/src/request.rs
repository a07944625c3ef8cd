//! The one normalised request and reply that every provider understands.
//!
//! **Invariant:** nothing here names a provider, an endpoint or a key.

use std::{sync::Arc, time::Duration};

use crewline_types::Usage;

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Speaker {
    /// Instructions.
    System,
    /// The question.
    User,
    /// An earlier answer of the model.
    Assistant,
}

impl Speaker {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message of the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who says it.
    pub speaker: Speaker,
    /// What is said.
    pub text: Arc<str>,
}

impl ChatMessage {
    /// A message.
    pub fn new(speaker: Speaker, text: impl Into<Arc<str>>) -> Self {
        Self { speaker, text: text.into() }
    }
}

/// The JSON Schema an answer must follow.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputSchema {
    /// Letters, digits, `_` and `-`; at most 64.
    pub name: String,
    /// The schema.
    pub schema: serde_json::Value,
}

/// One question to a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The conversation, oldest first.
    pub messages: Vec<ChatMessage>,
    /// Tokens of the answer at most; never sent above the model's own limit.
    pub output_tokens_max: u32,
    /// The form of the answer; sent only to models that enforce schemas.
    pub schema: Option<Arc<OutputSchema>>,
    /// 0 to 2; `None` leaves it to the registry, then to the provider.
    pub temperature: Option<f32>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The model was done.
    Stop,
    /// The limit on tokens cut it.
    Length,
    /// A filter or a refusal ended it.
    Filtered,
    /// Anything else the provider says.
    Other,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatReply {
    /// What the model said; may be empty when reasoning used up the limit.
    pub text: String,
    /// Tokens; `estimated` when the provider did not count.
    pub usage: Usage,
    /// Why it ended.
    pub finish: Finish,
    /// The model that answered, as the provider names it.
    pub model: String,
    /// From sending to the first token; only known when streaming.
    pub first_token: Option<Duration>,
    /// From sending to the end, without the wait for a place.
    pub elapsed: Duration,
}

/// A guess at the tokens of `text` that errs high: 3.5 ASCII characters or one other character a token.
pub fn estimate_tokens(text: &str) -> u64 {
    let ascii = text.bytes().filter(u8::is_ascii).count();
    let others = if ascii == text.len() { 0 } else { text.chars().filter(|c| !c.is_ascii()).count() };
    (ascii * 2).div_ceil(7) as u64 + others as u64
}

/// The usage of a call whose provider sent none.
pub(crate) fn estimate_usage(request: &ChatRequest, answer: &str) -> Usage {
    /// The tokens a chat template puts around a message.
    const MESSAGE_OVERHEAD: u64 = 4;
    Usage {
        input_tokens: request.messages.iter().map(|it| estimate_tokens(&it.text) + MESSAGE_OVERHEAD).sum(),
        output_tokens: estimate_tokens(answer),
        estimated: true,
        ..Usage::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_err_high() {
        assert_eq!(estimate_tokens(""), 0);
        assert_eq!(estimate_tokens("abcdefg"), 2);
        assert_eq!(estimate_tokens("日本語"), 3);
        assert!(estimate_tokens("The quick brown fox jumps over the lazy dog.") >= 10);
    }
}
