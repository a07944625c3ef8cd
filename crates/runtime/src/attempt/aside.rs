//! A call beside that of the answer: recorded, reserved and charged like any other, under its own purpose and role.
//!
//! **Invariant:** nothing is sent that is not recorded and reserved. The call that it is about stays open for its verdicts until
//! the attempt's next change.

use std::sync::Arc;

use crewline_models::ChatRequest;
use crewline_store::{CallEnd, NewCall};
use crewline_types::{
    CallId, ErrorKind, ModelSpec, Role, Text,
    event::{CallOutcome, ErrorNote},
};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    accept::without_thinking,
    call::{charged, end_calls, hash_of, note_failure},
    climb::Climb,
    money::{self, Ends},
};
use crate::{
    assignment::Failure,
    metrics,
    progress::{EndedCall, OpenCall, Progress},
};

/// What is asked.
pub(super) struct Aside<'a> {
    /// The name in the database.
    pub(super) purpose: &'static str,
    pub(super) role: &'a Role,
    pub(super) model: &'a Arc<ModelSpec>,
    /// With the schema that the answer must follow.
    pub(super) request: &'a ChatRequest,
}

/// Asks; the answer as JSON, or why there is none. The outer error ends the attempt. The number of the climb names the call.
pub(super) async fn ask(climb: &Climb<'_>, aside: &Aside<'_>) -> Result<Result<Value, String>, Failure> {
    let Climb { assignment, deps, recorded, number, .. } = *climb;
    let Aside { purpose, role, model, request } = *aside;
    let input_hash = hash_of(&request.messages);
    if let Some((reply, _)) = recorded.find(&model.alias, input_hash) {
        metrics::answer_reused(&model.alias);
        return Ok(read(request, &reply.text));
    }
    let run = &assignment.run;
    let input_tokens = request.input_tokens();
    let output_tokens_max = model.output_tokens_max.min(request.output_tokens_max);
    let worst = model.price.map(|price| price.of_tokens(input_tokens, output_tokens_max.into()));
    let id = CallId { attempt: assignment.attempt, number };
    let provider = Arc::clone(&model.provider);
    let by = Some(role.clone());
    let open = OpenCall { id, by, model: model.alias.clone(), provider, worst, input_tokens, is_sent: false };
    let intent = || {
        let mut change = run.change(assignment.attempt, deps.clock.now());
        change.calls.push(NewCall {
            id,
            purpose,
            model: model.alias.as_str().into(),
            provider: (*model.provider).into(),
            input_hash,
            reserved: worst,
        });
        // What earlier judges said is not bought again either; the call that they judge is not over yet.
        let ended = assignment.obligation.note(Progress::take_asides);
        end_calls(&mut change, assignment.attempt, role, ended.clone());
        (change, ended)
    };
    Box::pin(money::begin(climb, &open, Ends::Asides, None, intent)).await?;
    let request = ChatRequest { output_tokens_max, ..request.clone() };
    let started = Instant::now();
    let answer = assignment.models.chat(&model.alias, &request).await;
    let elapsed = started.elapsed();
    let (end, kept, result) = match answer {
        Ok(reply) => {
            let cost = model.price.map(|price| price.of(&reply.usage));
            run.purse.ended(id, cost);
            deps.health.succeeded(&model.alias);
            if let Some(cost) = cost {
                metrics::cost(&model.alias, cost);
            }
            let text = Text::from(without_thinking(&reply.text).trim());
            let result = read(&request, &text.body);
            let error = result.as_ref().err().map(|message| ErrorNote {
                code: "model.bad_reply".into(),
                kind: ErrorKind::Invalid,
                message: message.as_str().into(),
            });
            let outcome = if error.is_none() { CallOutcome::Ok } else { CallOutcome::Invalid };
            let end = CallEnd { id, outcome, usage: reply.usage, cost, elapsed, reply: Some(text.hash), error };
            (end, Some(text), result)
        }
        Err(error) => {
            let (usage, cost) = charged(&error, model.price, input_tokens, worst);
            run.purse.ended(id, cost);
            note_failure(deps, model, &error);
            let message = error.to_string();
            let note = ErrorNote { code: error.code().into(), kind: error.kind(), message: message.as_str().into() };
            let end = CallEnd { id, outcome: error.outcome(), usage, cost, elapsed, reply: None, error: Some(note) };
            (end, None, Err(message))
        }
    };
    assignment.obligation.note(|progress| {
        progress.open = None;
        progress.spent.add(&end);
        progress.ended.calls.push(EndedCall {
            end,
            by: Some(role.clone()),
            model: model.alias.clone(),
            provider: Arc::clone(&model.provider),
            reply: kept,
            asked: Vec::new(),
            checks: Vec::new(),
        });
    });
    Ok(result)
}

/// The value that the answer must be.
fn read(request: &ChatRequest, answer: &str) -> Result<Value, String> {
    match &request.schema {
        Some(schema) => schema.check(without_thinking(answer)).map_err(|problems| problems.join("; ")),
        None => Ok(Value::String(answer.to_owned())),
    }
}
