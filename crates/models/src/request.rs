//! The one normalised request and reply that every provider understands.
//!
//! **Invariant:** nothing here names a provider, an endpoint or a key.

use std::{fmt, sync::Arc, time::Duration};

use crewline_types::Usage;

use crate::{OutputSchema, ToolCall, ToolSet};

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Speaker {
    /// Instructions.
    System,
    /// The question.
    User,
    /// An earlier answer of the model.
    Assistant,
    /// The result of a tool the model called.
    Tool,
}

impl Speaker {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// One message of the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who says it.
    pub speaker: Speaker,
    /// What is said; of a tool, its result.
    pub text: Arc<str>,
    /// The tools an assistant called with it; of a tool, the one call it answers. Empty for all others.
    pub tool_calls: Vec<ToolCall>,
}

impl ChatMessage {
    /// A message.
    pub fn new(speaker: Speaker, text: impl Into<Arc<str>>) -> Self {
        Self { speaker, text: text.into(), tool_calls: Vec::new() }
    }

    /// An earlier answer in which the model called tools.
    pub fn called(text: impl Into<Arc<str>>, tool_calls: Vec<ToolCall>) -> Self {
        Self { speaker: Speaker::Assistant, text: text.into(), tool_calls }
    }

    /// What a tool gave back for `call`.
    pub fn tool_result(call: ToolCall, result: impl Into<Arc<str>>) -> Self {
        Self { speaker: Speaker::Tool, text: result.into(), tool_calls: vec![call] }
    }
}

/// One question to a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The conversation, oldest first.
    pub messages: Vec<ChatMessage>,
    /// Tokens of the answer at most; never sent above the model's own limit.
    pub output_tokens_max: u32,
    /// The form of the answer. A model that enforces schemas is sent it as one, every other is told it in words.
    pub schema: Option<Arc<OutputSchema>>,
    /// 0 to 2; `None` leaves it to the registry, then to the provider.
    pub temperature: Option<f32>,
    /// The tools the model may call.
    pub tools: Option<Arc<ToolSet>>,
}

impl ChatRequest {
    /// The same with a further instruction, said where it is read last.
    #[must_use]
    pub fn with_instruction(&self, instruction: &str) -> Self {
        let mut request = self.clone();
        // Many templates take one system message only, and the end of the question is what weak models heed.
        let place = request.messages.iter().rposition(|it| it.speaker == Speaker::User);
        match place.and_then(|place| request.messages.get_mut(place)) {
            Some(message) => message.text = format!("{}\n\n{instruction}", message.text).into(),
            None => request.messages.push(ChatMessage::new(Speaker::User, instruction)),
        }
        request
    }

    /// The question after an answer that did not follow the schema: the answer, and what is wrong with it.
    ///
    /// It is a call of its own: whoever sends it records and reserves it as such, and does so once.
    #[must_use]
    pub fn repair(&self, answer: &str, problems: &[String]) -> Self {
        let mut request = self.clone();
        request.messages.push(ChatMessage::new(Speaker::Assistant, answer));
        let list = problems.join("\n- ");
        let text =
            format!("That answer does not follow the schema:\n- {list}\n\nGive the whole answer again, corrected.");
        request.messages.push(ChatMessage::new(Speaker::User, text));
        request
    }

    /// A guess at the tokens of the prompt that errs high: messages, tools and schema.
    pub fn input_tokens(&self) -> u64 {
        let messages = self.messages.iter().map(|it| {
            let calls: u64 = it.tool_calls.iter().map(|call| estimate_tokens(&call.arguments) + MESSAGE_OVERHEAD).sum();
            estimate_tokens(&it.text) + MESSAGE_OVERHEAD + calls
        });
        messages.sum::<u64>() + form_tokens(self.schema.as_deref(), self.tools.as_deref())
    }
}

/// The tokens a chat template puts around a message.
const MESSAGE_OVERHEAD: u64 = 4;

/// A guess at what a schema and tools add to a prompt.
pub fn form_tokens(schema: Option<&OutputSchema>, tools: Option<&ToolSet>) -> u64 {
    let schema = schema.map_or(0, |it| estimate_tokens(&it.instruction()));
    let tools = tools.into_iter().flat_map(|it| &it.tools).map(|tool| {
        estimate_tokens(&tool.description) + estimate_tokens(&tool.parameters.to_string()) + 4 * MESSAGE_OVERHEAD
    });
    schema + tools.sum::<u64>()
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The model was done.
    Stop,
    /// The limit on tokens cut it.
    Length,
    /// The model wants tools to be called.
    ToolCalls,
    /// A filter or a refusal ended it.
    Filtered,
    /// Anything else the provider says.
    Other,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatReply {
    /// What the model said; may be empty when reasoning used up the limit, or when it calls tools.
    pub text: String,
    /// The tools it wants to be called, in its order.
    pub tool_calls: Vec<ToolCall>,
    /// Tokens; `estimated` when the provider did not count.
    pub usage: Usage,
    /// Why it ended.
    pub finish: Finish,
    /// The model that answered, as the provider names it.
    pub model: String,
    /// From sending to the first token; only known when streaming.
    pub first_token: Option<Duration>,
    /// How sure the model was: the geometric mean of its tokens' probabilities, 0 to 1. `None` where the provider does not say.
    pub confidence: Option<f64>,
    /// From sending to the end, without the wait for a place.
    pub elapsed: Duration,
    /// Bytes of the answer's body.
    pub size: usize,
}

/// A piece of an answer as it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Of the answer.
    Text(&'a str),
    /// Of what the model thinks before it answers.
    Reasoning(&'a str),
}

/// Who is told of the pieces of an answer. What it hears is not yet an answer: only the reply is.
#[derive(Clone, Copy)]
pub struct Listener<'a>(pub &'a (dyn Fn(Piece<'_>) + Send + Sync));

impl fmt::Debug for Listener<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Listener")
    }
}

/// Vectors for texts.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbedReply {
    /// One for each text, in their order; all of one length.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of input; `estimated` when the provider did not count.
    pub usage: Usage,
    /// From sending to the end.
    pub elapsed: Duration,
}

/// A guess at the tokens of `text` that errs high: 3.5 ASCII characters or one other character a token.
pub fn estimate_tokens(text: &str) -> u64 {
    let ascii = text.bytes().filter(u8::is_ascii).count();
    let others = if ascii == text.len() { 0 } else { text.chars().filter(|c| !c.is_ascii()).count() };
    (ascii * 2).div_ceil(7) as u64 + others as u64
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

    #[test]
    fn an_instruction_ends_the_last_question() {
        let request = ChatRequest {
            messages: vec![ChatMessage::new(Speaker::User, "Q"), ChatMessage::new(Speaker::Assistant, "A")],
            output_tokens_max: 1,
            schema: None,
            temperature: None,
            tools: None,
        };
        assert_eq!(&*request.with_instruction("I").messages[0].text, "Q\n\nI");
        let empty = ChatRequest { messages: Vec::new(), ..request };
        assert_eq!(&*empty.with_instruction("I").messages[0].text, "I");
    }
}
