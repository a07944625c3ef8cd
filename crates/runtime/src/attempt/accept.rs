//! Whether an answer is one.
//!
//! **Invariant:** what is accepted is what was asked for; what is not says what was wrong with it.

use std::time::Duration;

use crewline_engine::plan;
use crewline_models::{ChatReply, Finish, Registry};
use crewline_store::CallEnd;
use crewline_types::{
    CallId, Criterion, ErrorKind, MicroUsd, ModelSpec, Text,
    event::{CallOutcome, CheckResult, ErrorNote},
};

use super::climb::Miss;
use crate::{
    assignment::{PlanOutput, Work},
    verify,
};

/// The code of an answer that the provider's filter stopped.
pub const REFUSED: &str = "model.refused";

/// What an answer must be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted<'a> {
    /// The whole result of a task.
    Result(&'a Work),
    /// A step: calls of tools, or a text.
    Step,
}

/// An accepted answer.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) text: Text,
    pub(super) plan: Option<PlanOutput>,
}

/// What became of a call.
pub(super) struct Verdict {
    pub(super) end: CallEnd,
    /// A text that nothing else keeps.
    pub(super) kept: Option<Text>,
    pub(super) checks: Vec<CheckResult>,
    pub(super) result: Result<Accepted, Miss>,
}

/// Why an answer that nothing else is wrong with is not believed: its model was not sure enough, and another could be asked.
pub(super) fn doubt(registry: &Registry, model: &ModelSpec, reply: &ChatReply, has_next: bool) -> Option<String> {
    let least = registry.config(model.alias.as_str())?.confidence_min.filter(|_| has_next)?;
    let sure = reply.confidence.filter(|sure| *sure < least)?;
    Some(format!("`{}` was not sure of its answer: {sure:.2}, and `confidence_min` is {least:.2}", model.alias))
}

/// Checks what the model said.
pub(super) fn accept(
    criteria: &[Criterion],
    wanted: Wanted<'_>,
    doubt: Option<String>,
    reply: &ChatReply,
    call: CallId,
    cost: Option<MicroUsd>,
    elapsed: Duration,
) -> Verdict {
    let text = Text::from(without_thinking(&reply.text).trim());
    let mut end = CallEnd {
        id: call,
        outcome: CallOutcome::Ok,
        usage: reply.usage,
        cost,
        elapsed,
        reply: Some(text.hash),
        error: None,
    };
    let mut checks = Vec::new();
    let verdict = match (wanted, reply.finish) {
        (_, Finish::Filtered) => Err((REFUSED, "the provider's filter stopped the answer".to_owned())),
        (Wanted::Step, _) if !reply.tool_calls.is_empty() => Ok(None),
        (Wanted::Step | Wanted::Result(Work::Text), _) if text.body.is_empty() => {
            Err(("model.empty", "the answer is empty".to_owned()))
        }
        (Wanted::Step, _) => Ok(None),
        (Wanted::Result(Work::Text), _) => {
            checks = verify::verdicts(criteria, &text.body);
            verify::rejection(&checks).map_or(Ok(None), |message| Err((verify::REJECTED, message)))
        }
        (Wanted::Result(Work::Plan { rules, is_strict, .. }), _) => check_plan(&text.body, rules, *is_strict).map(Some),
    };
    let verdict = match (verdict, doubt) {
        (Ok(_), Some(why)) => Err(("model.low_confidence", why)),
        (verdict, _) => verdict,
    };
    let miss = match verdict {
        Ok(plan) => {
            let kept = matches!(wanted, Wanted::Step).then(|| text.clone());
            return Verdict { end, kept, checks, result: Ok(Accepted { text, plan }) };
        }
        Err((code, message)) => {
            end.outcome = CallOutcome::Invalid;
            let note = ErrorNote { code: code.into(), kind: ErrorKind::Invalid, message: message.as_str().into() };
            end.error = Some(note.clone());
            let is_told = matches!(wanted, Wanted::Result(Work::Plan { .. })) || code == verify::REJECTED;
            let problem = is_told.then_some(message);
            let may_retry = code != "plan.invalid";
            Miss { note, may_retry, error: None, problem }
        }
    };
    Verdict { end, kept: Some(text), checks, result: Err(miss) }
}

fn check_plan(text: &str, rules: &plan::Rules, is_strict: bool) -> Result<PlanOutput, (&'static str, String)> {
    let lines = |problems: Vec<plan::Problem>| {
        let lines: Vec<String> = problems.iter().take(8).map(ToString::to_string).collect();
        lines.join("; ")
    };
    let document = plan::parse_reply(text).map_err(|problems| ("plan.unusable", lines(problems)))?;
    if is_strict {
        let plan = plan::check(&document, rules).map_err(|problems| ("plan.invalid", lines(problems)))?;
        return Ok(PlanOutput { plan, repairs: Vec::new() });
    }
    let repaired = plan::repair(&document, rules).map_err(|problems| ("plan.unusable", lines(problems)))?;
    let repairs = repaired.repairs.iter().map(ToString::to_string).collect();
    Ok(PlanOutput { plan: repaired.plan, repairs })
}

/// Drops what a reasoning model thought aloud before its answer.
pub fn without_thinking(text: &str) -> &str {
    let trimmed = text.trim_start();
    match trimmed.strip_prefix("<think>") {
        Some(rest) => rest.find("</think>").map_or(trimmed, |end| &rest[end + "</think>".len()..]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinking_is_dropped() {
        assert_eq!(without_thinking("<think>hm</think>\nyes"), "\nyes");
        assert_eq!(without_thinking("plain <think>"), "plain <think>");
        assert_eq!(without_thinking("<think>never ends"), "<think>never ends");
    }
}
