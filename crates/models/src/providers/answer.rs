//! What has come of an answer so far, in the normalised form, whatever the protocol.
//!
//! **Invariant:** what is kept of an answer never passes `size_max` bytes.
//! **Invariant:** an answer without an end is not a reply.

use std::{sync::Arc, time::Duration};

use crewline_types::Usage;
use tokio::time::Instant;

use super::reply::Complaint;
use crate::{
    ChatReply, ChatRequest, Finish, ToolCall,
    request::{Listener, Piece, estimate_tokens},
};

/// Calls of tools in one answer at most.
const TOOL_CALLS_MAX: usize = 128;
/// The least logarithm of a token's probability that counts.
const LOGPROB_MIN: f64 = -20.0;
/// Tokens beyond what can be checked that a provider may report: templates, pictures, tools of its own.
const USAGE_SLACK: u64 = 1_000_000;

/// Why what came is no answer.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The provider says that it failed.
    Complaint(Complaint<'static>),
    /// It is not what the protocol says.
    Bad(String),
    /// It is larger than so many bytes.
    TooLarge(usize),
}

impl From<Complaint<'_>> for Fault {
    fn from(complaint: Complaint<'_>) -> Self {
        Self::Complaint(complaint.into_owned())
    }
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Self::Bad(error.to_string())
    }
}

/// Tokens as a provider reports them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) input: u64,
    /// Reasoning included.
    pub(crate) output: u64,
    pub(crate) cached: u64,
    pub(crate) reasoning: u64,
}

/// A call of a tool, as far as it has come.
#[derive(Debug, Default)]
pub(crate) struct ToolDraft {
    /// Where the provider counts it.
    pub(crate) index: u64,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments: String,
}

/// What has come of an answer.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) text: String,
    pub(crate) reasoning: String,
    pub(crate) refusal: String,
    pub(crate) model: String,
    pub(crate) tools: Vec<ToolDraft>,
    pub(crate) usage: Option<Counted>,
    pub(crate) finish: Option<Finish>,
    /// The provider has said that nothing more comes.
    pub(crate) is_done: bool,
    pub(crate) first_token: Option<Duration>,
    /// The sum of the logarithms of its tokens' probabilities, and how many of them are known.
    logprobs: (f64, u32),
    started: Instant,
    kept: usize,
    size_max: usize,
    listener: Option<Listener<'a>>,
}

impl<'a> Answer<'a> {
    pub(crate) fn new(started: Instant, size_max: usize, listener: Option<Listener<'a>>) -> Self {
        Self {
            text: String::new(),
            reasoning: String::new(),
            refusal: String::new(),
            model: String::new(),
            tools: Vec::new(),
            usage: None,
            finish: None,
            is_done: false,
            first_token: None,
            logprobs: (0.0, 0),
            started,
            kept: 0,
            size_max,
            listener,
        }
    }

    fn keep(&mut self, piece: &str) -> Result<(), Fault> {
        self.kept += piece.len();
        if self.kept > self.size_max {
            return Err(Fault::TooLarge(self.size_max));
        }
        if self.first_token.is_none() {
            self.first_token = Some(self.started.elapsed());
        }
        Ok(())
    }

    /// A token of the answer has such a probability; what is none is not counted.
    pub(crate) fn add_logprob(&mut self, logprob: f64) {
        if logprob <= 0.0 {
            let (sum, count) = self.logprobs;
            // A token that was all but impossible must not outweigh all the others.
            self.logprobs = (sum + logprob.max(LOGPROB_MIN), count.saturating_add(1));
        }
    }

    /// The geometric mean of the tokens' probabilities.
    pub(crate) fn confidence(&self) -> Option<f64> {
        let (sum, count) = self.logprobs;
        (count > 0).then(|| (sum / f64::from(count)).exp())
    }

    pub(crate) fn add_text(&mut self, piece: &str) -> Result<(), Fault> {
        if piece.is_empty() {
            return Ok(());
        }
        self.keep(piece)?;
        self.text.push_str(piece);
        if let Some(Listener(hear)) = self.listener {
            hear(Piece::Text(piece));
        }
        Ok(())
    }

    pub(crate) fn add_reasoning(&mut self, piece: &str) -> Result<(), Fault> {
        if piece.is_empty() {
            return Ok(());
        }
        self.keep(piece)?;
        self.reasoning.push_str(piece);
        if let Some(Listener(hear)) = self.listener {
            hear(Piece::Reasoning(piece));
        }
        Ok(())
    }

    pub(crate) fn add_refusal(&mut self, piece: &str) -> Result<(), Fault> {
        if piece.is_empty() {
            return Ok(());
        }
        self.keep(piece)?;
        self.refusal.push_str(piece);
        Ok(())
    }

    /// The call the provider counts as `index`; begins it when it is new.
    pub(crate) fn tool(&mut self, index: u64) -> Result<&mut ToolDraft, Fault> {
        let place = match self.tools.iter().position(|it| it.index == index) {
            Some(place) => place,
            None if self.tools.len() >= TOOL_CALLS_MAX => {
                return Err(Fault::Bad(format!("it calls more than {TOOL_CALLS_MAX} tools")));
            }
            None => {
                self.tools.push(ToolDraft { index, ..ToolDraft::default() });
                self.tools.len() - 1
            }
        };
        // It was found, or pushed, just now.
        self.tools.get_mut(place).ok_or_else(|| Fault::Bad("it calls no tool".to_owned()))
    }

    /// Adds to a call; what is named again is what it was.
    pub(crate) fn add_tool(&mut self, index: u64, id: &str, name: &str, arguments: &str) -> Result<(), Fault> {
        self.keep(arguments)?;
        let tool = self.tool(index)?;
        if tool.id.is_empty() {
            tool.id.push_str(id);
        }
        if tool.name.is_empty() {
            tool.name.push_str(name);
        }
        tool.arguments.push_str(arguments);
        Ok(())
    }

    /// The model's name, as the provider first said it.
    pub(crate) fn named(&mut self, model: Option<&str>) {
        if let (Some(model), true) = (model, self.model.is_empty()) {
            self.model.push_str(model);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.reasoning.is_empty() && self.refusal.is_empty() && self.tools.is_empty()
    }

    /// The reply, once the answer has ended. `sent` and `size` are the bytes of request and reply.
    pub(crate) fn into_reply(
        self,
        request: &ChatRequest,
        model: &str,
        sent: usize,
        size: usize,
    ) -> Result<ChatReply, Fault> {
        let usage = self.checked_usage(request, sent)?;
        let finish = self.finish.unwrap_or(Finish::Stop);
        let confidence = self.confidence();
        let tool_calls = self.tools.into_iter().enumerate().map(finished).collect::<Result<Vec<_>, _>>()?;
        let finish = match finish {
            Finish::Stop | Finish::ToolCalls | Finish::Other if !tool_calls.is_empty() => Finish::ToolCalls,
            // The only tool was the one that stands for a schema.
            Finish::ToolCalls => Finish::Stop,
            Finish::Stop | Finish::Length | Finish::Filtered | Finish::Other => finish,
        };
        let (text, finish) = if !self.text.is_empty() {
            (self.text, finish)
        } else if !self.refusal.is_empty() {
            (self.refusal, Finish::Filtered)
        } else if finish == Finish::Stop {
            // Some servers file the whole answer of a reasoning model under its reasoning.
            (self.reasoning, finish)
        } else {
            (self.text, finish)
        };
        Ok(ChatReply {
            text,
            tool_calls,
            usage,
            finish,
            model: if self.model.is_empty() { model.to_owned() } else { self.model },
            first_token: self.first_token,
            confidence,
            elapsed: self.started.elapsed(),
            size,
        })
    }

    /// The usage that is reported of an answer that the model has ended, if it can be true: before that it grows.
    pub(crate) fn counted(&self, request: &ChatRequest, sent: usize) -> Option<Usage> {
        let usage = self.finish.and_then(|_| self.checked_usage(request, sent).ok());
        usage.filter(|it| !it.estimated)
    }

    /// The usage that is reported, if it can be true; for what is not counted, what it may have been.
    fn checked_usage(&self, request: &ChatRequest, sent: usize) -> Result<Usage, Fault> {
        let Counted { mut input, mut output, cached, mut reasoning } = self.usage.unwrap_or_default();
        let is_input_counted = input > 0;
        if !is_input_counted {
            input = request.input_tokens();
        }
        // Some count the question only, or count the answer before it is there.
        let is_output_counted = output > 0 || (is_input_counted && self.is_empty());
        if !is_output_counted {
            reasoning = estimate_tokens(&self.reasoning);
            let called: u64 = self.tools.iter().map(|it| estimate_tokens(&it.arguments)).sum();
            output = estimate_tokens(&self.text) + estimate_tokens(&self.refusal) + reasoning + called;
            if self.finish == Some(Finish::Length) {
                output = output.max(request.output_tokens_max.into());
            }
        }
        // A token is at least a byte of the prompt; an answer has its limit.
        let input_max = sent as u64 + USAGE_SLACK;
        let output_max = 16 * u64::from(request.output_tokens_max) + USAGE_SLACK;
        for (what, is_counted, tokens, tokens_max) in
            [("input", is_input_counted, input, input_max), ("output", is_output_counted, output, output_max)]
        {
            if is_counted && tokens > tokens_max {
                return Err(Fault::Bad(format!("it reports {tokens} tokens of {what}, which can not be")));
            }
        }
        Ok(Usage {
            input_tokens: input,
            output_tokens: output,
            cached_tokens: cached.min(input),
            reasoning_tokens: reasoning.min(output),
            estimated: !(is_input_counted && is_output_counted),
        })
    }
}

fn finished((place, draft): (usize, ToolDraft)) -> Result<ToolCall, Fault> {
    if draft.name.is_empty() {
        return Err(Fault::Bad("it calls a tool without a name".to_owned()));
    }
    let id = if draft.id.is_empty() { format!("call_{place}") } else { draft.id };
    let arguments: Arc<str> = if draft.arguments.trim().is_empty() { "{}".into() } else { draft.arguments.into() };
    Ok(ToolCall { id: id.into(), name: draft.name.into(), arguments })
}
