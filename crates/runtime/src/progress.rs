//! How far an attempt came: the call that is under way, what ended and is not recorded as such, what it consumed.
//!
//! **Invariant:** a call whose end is unknown is charged at its worst case.

use std::{sync::Arc, time::Duration};

use crewline_models::Tally;
use crewline_store::{CallEnd, NewToolCall, ToolCallEnd};
use crewline_types::{
    CallId, MicroUsd, ModelAlias, Role, Text, Traffic, Usage,
    event::{CallOutcome, CheckResult},
};

use crate::journal::Refusal;

/// A call that is recorded as sent and not yet as ended.
#[derive(Debug, Clone)]
pub struct OpenCall {
    /// Names the call.
    pub id: CallId,
    /// Who asks, when it is not the task's role.
    pub by: Option<Role>,
    /// The model that was asked.
    pub model: ModelAlias,
    /// The provider that was asked.
    pub provider: Arc<str>,
    /// The worst case, charged when the answer is lost.
    pub worst: Option<MicroUsd>,
    /// Tokens sent, estimated.
    pub input_tokens: u64,
    /// Whether it was sent: it is recorded before.
    pub is_sent: bool,
}

/// How far an attempt came; shared with its obligation, so that a lost attempt can tell.
#[derive(Debug, Default)]
pub struct Progress {
    /// Whether the attempt is recorded as started.
    pub is_started: bool,
    /// The call that is under way.
    pub open: Option<OpenCall>,
    /// What ended and is not yet recorded as such.
    pub ended: Ended,
    /// What all ended calls consumed, recorded or not.
    pub spent: Spent,
    /// What its requests sent and received since that was last asked.
    pub tally: Tally,
}

impl Progress {
    /// What is to be recorded now.
    pub fn take_ended(&mut self) -> Ended {
        let mut ended = std::mem::take(&mut self.ended);
        ended.traffic += &self.tally.take();
        ended
    }

    /// The calls beside that of the answer, and the traffic. The call that they are about is not over yet.
    pub fn take_asides(&mut self) -> Ended {
        let Ended { calls, tools, traffic } = self.take_ended();
        let (asides, rest) = calls.into_iter().partition(|it| it.by.is_some());
        self.ended = Ended { calls: rest, tools, traffic: Traffic::default() };
        Ended { calls: asides, tools: Vec::new(), traffic }
    }

    /// A call's beginning was refused, and the ends of earlier calls with it.
    pub fn not_recorded(&mut self, refusal: &Refusal, ended: Ended) {
        match refusal {
            Refusal::Stale | Refusal::OverBudget { .. } | Refusal::Failed { .. } => {
                self.open = None;
                self.ended.calls.extend(ended.calls);
                self.ended.tools.extend(ended.tools);
                self.ended.traffic += &ended.traffic;
            }
            // They may be recorded; what is not is found open by whoever loads the run.
            Refusal::Unknown => {}
        }
    }

    /// What the attempt consumed, and what of it is not recorded as ended; a call that is still open is cancelled.
    pub fn close(mut self) -> (Spent, Ended) {
        let mut ended = self.take_ended();
        let Self { open, mut spent, .. } = self;
        if let Some(OpenCall { id, by, model, provider, worst, input_tokens, is_sent }) = open {
            let (input_tokens, cost) = if is_sent {
                // What the provider bills for an aborted call is unknown: the worst case is never too little.
                (input_tokens, worst)
            } else {
                (0, worst.map(|_| MicroUsd::ZERO))
            };
            let end = CallEnd {
                id,
                outcome: CallOutcome::Cancelled,
                usage: Usage { input_tokens, estimated: true, ..Usage::default() },
                cost,
                elapsed: Duration::ZERO,
                reply: None,
                error: None,
            };
            spent.add(&end);
            ended.calls.push(EndedCall {
                end,
                by,
                model,
                provider,
                reply: None,
                asked: Vec::new(),
                checks: Vec::new(),
            });
        }
        (spent, ended)
    }
}

/// What ended and is not yet recorded as such.
#[derive(Debug, Clone, Default)]
pub struct Ended {
    /// Calls of models.
    pub calls: Vec<EndedCall>,
    /// Calls of tools.
    pub tools: Vec<EndedTool>,
    /// What they sent and received.
    pub traffic: Traffic,
}

/// A call of a tool that ended, with what its event shows.
#[derive(Debug, Clone)]
pub struct EndedTool {
    /// What the database keeps.
    pub end: ToolCallEnd,
    /// The tool, as the model named it.
    pub tool: Arc<str>,
    /// What the model is told.
    pub output: Text,
}

/// A call that ended, with what its event shows.
#[derive(Debug, Clone)]
pub struct EndedCall {
    /// What the database keeps.
    pub end: CallEnd,
    /// Who asked, when it was not the task's role.
    pub by: Option<Role>,
    /// The model that was asked.
    pub model: ModelAlias,
    /// The provider that was asked.
    pub provider: Arc<str>,
    /// The answer, when it is kept.
    pub reply: Option<Text>,
    /// The calls of tools that the answer asks for: they are recorded with it, or the answer means something else.
    pub asked: Vec<(NewToolCall, Text)>,
    /// What the task's checks say of it.
    pub checks: Vec<CheckResult>,
}

/// What calls consumed together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// Tokens.
    pub usage: Usage,
    /// Cost of the priced calls.
    pub cost: MicroUsd,
    /// Calls without a price.
    pub unpriced: u64,
}

impl std::ops::AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.usage += other.usage;
        self.cost += other.cost;
        self.unpriced += other.unpriced;
    }
}

impl Spent {
    /// Adds a call.
    pub fn add(&mut self, end: &CallEnd) {
        self.usage += end.usage;
        match end.cost {
            Some(cost) => self.cost += cost,
            None => self.unpriced += 1,
        }
    }
}
