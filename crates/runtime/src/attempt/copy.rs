//! A question that a candidate of the role is asked as well: its answer is checked, counted and dropped.
//!
//! **Invariant:** nothing here reaches the attempt: a copy is made of a question whose own call has ended, and tells nobody but the
//! database how it went.
//! **Invariant:** nothing is sent that is not recorded, with its worst case within what copies may cost.

use std::{sync::Arc, time::Duration};

use crewline_engine::route::{self, Mode, breaker::Pass};
use crewline_models::{ChatRequest, Models, Shadow, Tally};
use crewline_store::{CallEnd, NewShadow};
use crewline_types::{
    AttemptId, CallId, ErrorKind, MicroUsd, ModelAlias, RunId, Usage,
    event::{CallOutcome, ErrorNote},
    model::Locality,
};
use tokio::time::Instant;

use super::{
    Deps,
    accept::{Wanted, accept},
    call::{charged, note_failure},
    climb::{Climb, Question},
    review::must_review,
};
use crate::{
    assignment::{Assignment, Work},
    brief::TaskBrief,
    metrics::{self, Copied},
    shadow,
};

/// A copy of a question.
#[derive(Debug)]
pub struct Copy {
    /// The candidate, and what bounds it.
    pub shadow: Shadow,
    attempt: AttemptId,
    run: RunId,
    task: Arc<TaskBrief>,
    work: Work,
    models: Models,
    request: ChatRequest,
    /// Whether all checks of the task are made on a copy.
    is_judged: bool,
    incumbent: Incumbent,
}

/// The call whose question it is.
#[derive(Debug)]
struct Incumbent {
    model: ModelAlias,
    outcome: CallOutcome,
    cost: Option<MicroUsd>,
    elapsed: Duration,
}

/// The candidate that gets a copy of this question, when the draw says so. The first question of an attempt counts: what follows
/// it tells of what went wrong before.
pub(super) fn drawn(climb: &Climb<'_>, question: Question<'_>) -> Option<Shadow> {
    let Assignment { attempt, run, task, models, .. } = climb.assignment;
    let registry = models.registry();
    let shadow = registry.shadow(&task.role)?;
    let is_first = climb.number == 1 && matches!(question, Question::Task { .. });
    let may_be_asked = run.mode == Mode::Online || shadow.model.locality != Locality::Remote;
    let is_copied = is_first && may_be_asked && route::shadow::is_drawn(run.run, *attempt, shadow.share);
    is_copied.then(|| shadow.clone())
}

/// Hands a copy of `request` on, whose call has ended.
pub(super) fn send(climb: &Climb<'_>, shadow: Shadow, request: ChatRequest, model: &ModelAlias, end: &CallEnd) {
    let Climb { assignment, deps, .. } = *climb;
    let copy = Copy {
        shadow,
        attempt: assignment.attempt,
        run: assignment.run.run,
        task: Arc::clone(&assignment.task),
        work: assignment.work.clone(),
        models: assignment.models.clone(),
        request,
        is_judged: !must_review(assignment),
        incumbent: Incumbent { model: model.clone(), outcome: end.outcome, cost: end.cost, elapsed: end.elapsed },
    };
    deps.rooms.shadow.tell(shadow::Message::Copy(Box::new(copy)));
}

/// Asks the candidate, and records what came of it.
pub async fn ask(copy: Copy, deps: Arc<Deps>) -> Copied {
    let model = Arc::clone(&copy.shadow.model);
    let input_tokens = copy.request.input_tokens();
    let output_tokens_max = model.output_tokens_max.min(copy.request.output_tokens_max);
    let Some(price) = model.price else { return Copied::Dropped };
    let is_too_long = input_tokens > u64::from(model.input_tokens_max());
    if is_too_long || matches!(deps.health.admit(&model.alias, deps.clock.now()), Pass::Not { .. }) {
        return Copied::Dropped;
    }
    let worst = price.of_tokens(input_tokens, output_tokens_max.into());
    let new = NewShadow {
        attempt: copy.attempt,
        run: copy.run,
        role: copy.shadow.role.as_str().to_owned(),
        incumbent: copy.incumbent.model.as_str().to_owned(),
        incumbent_outcome: copy.incumbent.outcome,
        incumbent_cost: copy.incumbent.cost,
        incumbent_elapsed: copy.incumbent.elapsed,
        model: model.alias.as_str().to_owned(),
        provider: model.provider.to_string(),
        reserved: worst,
        cost_max: copy.shadow.cost_max,
        is_judged: copy.is_judged,
        at: deps.clock.now(),
    };
    match deps.store.begin_shadow(&new).await {
        Ok(true) => {}
        Ok(false) => return Copied::Dropped,
        Err(error) => {
            tracing::warn!(error.code = error.code(), %error, "a copy for a candidate is not recorded, and not sent");
            return Copied::Dropped;
        }
    }
    let request = ChatRequest { output_tokens_max, ..copy.request };
    let tally = Tally::default();
    let models = copy.models.tallied(tally.clone());
    let started = Instant::now();
    let answer = tokio::time::timeout(copy.shadow.time_max, models.chat(&model.alias, &request)).await;
    let elapsed = started.elapsed();
    let id = CallId { attempt: copy.attempt, number: 1 };
    let (end, copied) = match answer {
        Ok(Ok(reply)) => {
            deps.health.succeeded(&model.alias);
            let cost = Some(price.of(&reply.usage));
            let wanted = Wanted::Result(&copy.work);
            let verdict = accept(&copy.task.success_criteria, wanted, None, &reply, id, cost, elapsed);
            let is_accepted = verdict.result.is_ok();
            if copy.is_judged {
                deps.experience.answered(&copy.task.role, copy.task.kind, &model.alias, is_accepted);
            }
            (verdict.end, if is_accepted { Copied::Accepted } else { Copied::Rejected })
        }
        Ok(Err(error)) => {
            note_failure(&deps, &model, &error);
            let (usage, cost) = charged(&error, Some(price), input_tokens, Some(worst));
            let note = ErrorNote { code: error.code().into(), kind: error.kind(), message: error.to_string().into() };
            (
                CallEnd { id, outcome: error.outcome(), usage, cost, elapsed, reply: None, error: Some(note) },
                Copied::Failed,
            )
        }
        Err(_) => {
            let note = ErrorNote {
                code: "model.timeout".into(),
                kind: ErrorKind::Timeout,
                message: "the copy took longer than the role's `shadow.time_max`".into(),
            };
            // What the provider bills for an aborted call is unknown: the worst case is never too little.
            let usage = Usage { input_tokens, estimated: true, ..Usage::default() };
            let (outcome, cost) = (CallOutcome::Timeout, Some(worst));
            (CallEnd { id, outcome, usage, cost, elapsed, reply: None, error: Some(note) }, Copied::Failed)
        }
    };
    metrics::copied_cost(&model.alias, end.cost.unwrap_or_default());
    if let Err(error) = deps.store.end_shadow(copy.run, &end, &tally.take()).await {
        tracing::warn!(error.code = error.code(), %error, "the end of a copy is not recorded: it counts with its worst case");
    }
    copied
}
