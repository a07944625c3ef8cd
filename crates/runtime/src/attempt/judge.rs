//! A judge: another model that says whether an answer meets a rubric.
//!
//! **Invariant:** who wrote an answer does not judge it, where the chain of the role `judge` has another model.
//! **Invariant:** the answer that is judged stands in a fence that it can not end.

use std::sync::Arc;

use crewline_engine::{
    context::estimate_tokens,
    route::{self, Request, Traits, View, breaker::Pass},
};
use crewline_models::{ChatRequest, OnJudgeError, OutputSchema, Registry, request::form_tokens};
use crewline_types::{Check, Criterion, ModelSpec, Role, event::CheckResult};
use serde_json::{Value, json};

use super::{
    aside::{self, Aside},
    climb::Climb,
    instructions, note_of,
};
use crate::assignment::Failure;

/// The purpose of a judge's calls, in the database.
pub const JUDGE: &str = "judge";
/// Characters of a judge's reason that are kept.
const REASON_CHARS_MAX: usize = 600;

/// What the judge of one criterion says of an answer of `writer`.
pub(super) async fn judge(
    climb: &mut Climb<'_>,
    writer: &ModelSpec,
    criterion: &Criterion,
    check: &Check,
    answer: &str,
) -> Result<Option<CheckResult>, Failure> {
    let Some(rubric) = check.rubric() else { return Ok(None) };
    let registry = climb.assignment.models.registry();
    let (passed, evidence) = match ask(climb, &registry, writer, rubric, answer).await? {
        Ok(verdict) => verdict,
        Err(why) => match registry.policies().on_judge_error {
            OnJudgeError::Accept => (true, format!("accepted without a judge: {why}")),
            OnJudgeError::Reject => (false, format!("there is no verdict: {why}")),
        },
    };
    Ok(Some(CheckResult {
        criterion: criterion.criterion.as_str().into(),
        verifier: check.kind().into(),
        passed,
        evidence: evidence.into(),
    }))
}

/// The verdict and its reason, or why there is none. The outer error ends the attempt.
async fn ask(
    climb: &mut Climb<'_>,
    registry: &Registry,
    writer: &ModelSpec,
    rubric: &str,
    answer: &str,
) -> Result<Result<(bool, String), String>, Failure> {
    let (assignment, deps) = (climb.assignment, climb.deps);
    let role = Role::judge();
    let messages = deps
        .prompts
        .judge(&assignment.task, instructions(registry, &role), rubric, answer)
        .map_err(|error| Failure::Models { error: note_of(&error), may_retry: false })?;
    let schema = Arc::new(OutputSchema { name: "verdict".into(), schema: schema() });
    let words: u32 = messages.iter().map(|it| estimate_tokens(&it.text)).fold(16, u32::saturating_add);
    let form = u32::try_from(form_tokens(Some(&schema), None)).unwrap_or(u32::MAX);
    let rungs = rungs(climb, registry, &role, writer, words.saturating_add(form));
    let request = ChatRequest {
        messages,
        output_tokens_max: registry.output_tokens_max(&role).unwrap_or(u32::MAX),
        schema: Some(schema),
        temperature: registry.temperature(&role),
        tools: None,
    };
    let mut last = "no model of the chain of role `judge` may be asked".to_owned();
    for (place, model) in rungs.iter().enumerate() {
        let is_last = place + 1 == rungs.len();
        if matches!(deps.health.admit(&model.alias, deps.clock.now()), Pass::Not { .. }) && !is_last {
            last = deps.health.last_words(&model.alias);
            continue;
        }
        climb.number += 1;
        let aside = Aside { purpose: JUDGE, role: &role, model, request: &request };
        match aside::ask(climb, &aside).await? {
            Ok(value) => return Ok(Ok(verdict(&value, registry, model, writer))),
            Err(why) => last = why,
        }
    }
    Ok(Err(last))
}

/// The models to ask, first to last: the writer of the answer only when there is nobody else.
fn rungs(
    climb: &Climb<'_>,
    registry: &Registry,
    role: &Role,
    writer: &ModelSpec,
    input_tokens: u32,
) -> Vec<Arc<ModelSpec>> {
    let (assignment, deps) = (climb.assignment, climb.deps);
    let all = registry.chain(role);
    let others: Vec<Arc<ModelSpec>> = all.iter().filter(|it| !is_same(registry, it, writer)).map(Arc::clone).collect();
    let traits = Traits::default();
    let request =
        Request { role, kind: assignment.task.kind, input_tokens, mode: assignment.run.mode, traits: &traits };
    let now = deps.clock.now();
    let view = View {
        chain: if others.is_empty() { all } else { &others },
        health: &|alias| deps.health.of(alias, now),
        remaining: assignment.run.purse.remaining(assignment.task.id),
        learned: None,
        rules: &[],
        is_loaded: route::NOBODY_KNOWS,
    };
    route::choose(&request, &view).rungs.into_iter().map(|rung| rung.model).collect()
}

/// Whether two names of the registry are one model.
fn is_same(registry: &Registry, one: &ModelSpec, other: &ModelSpec) -> bool {
    let name = |spec: &ModelSpec| registry.config(spec.alias.as_str()).map(|it| it.model.clone());
    one.alias == other.alias || (one.provider == other.provider && name(one) == name(other))
}

fn schema() -> Value {
    json!({
        "type": "object", "required": ["reason", "pass"], "additionalProperties": false,
        "properties": {
            "reason": {"type": "string", "description": "One or two sentences: what decides it."},
            "pass": {"type": "boolean", "description": "Whether the result meets the rubric."}
        }
    })
}

fn verdict(value: &Value, registry: &Registry, judge: &ModelSpec, writer: &ModelSpec) -> (bool, String) {
    let reason: String = value["reason"].as_str().unwrap_or_default().chars().take(REASON_CHARS_MAX).collect();
    let whose = if is_same(registry, judge, writer) { ", which wrote it: no other is configured" } else { "" };
    (value["pass"] == true, format!("{} [judged by `{}`{whose}]", reason.trim(), judge.alias))
}
