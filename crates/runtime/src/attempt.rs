//! The work of one attempt: recall, assemble the context, climb the chain of models until an answer is accepted.
//!
//! **Invariant:** a call is recorded before it is sent; its end is recorded with the next change of the attempt.
//! **Invariant:** the worst case of a call is reserved before it is sent; a call whose answer is lost is charged in full.
//! **Invariant:** an answer that a lost attempt got and recorded is used, not bought again.

use std::{sync::Arc, time::Duration};

use crewline_engine::{
    context, plan,
    route::{self, breaker::Pass},
    wallet,
};
use crewline_memory::Rules;
use crewline_models::{ChatMessage, ChatReply, ChatRequest, Finish, Models, Registry, request::form_tokens};
use crewline_store::{CallEnd, Change, NewAttempt, NewCall, NewContext, Store, Transition};
use crewline_types::{
    CallId, Clock, ErrorKind, MicroUsd, ModelSpec, Role, TaskStatus, Text, TextHash, Usage,
    event::{CallOutcome, CheckResult, ErrorNote, EventBody, NewEvent},
};

use crate::{
    again,
    assignment::{Assignment, EndedCall, Failure, OpenCall, Output, PlanOutput, RunBrief, Work},
    config::{Dispatch, Limits},
    curated::{self, Curated},
    experience::Experience,
    health::Health,
    journal, metrics,
    outage::Findings,
    prompt::Prompts,
    recorded::Answers,
    rooms::Rooms,
    verify,
};

/// What every attempt works with.
pub struct Deps {
    /// The actors.
    pub rooms: Rooms,
    /// The models.
    pub models: Models,
    /// The prompt templates.
    pub prompts: Prompts,
    /// Which models answer.
    pub health: Health,
    /// What is recorded.
    pub store: Store,
    /// What memory keeps.
    pub rules: Rules,
    /// What came of earlier calls.
    pub experience: Experience,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Who makes attempts.
    pub dispatch: Dispatch,
    /// The bounds.
    pub limits: Limits,
}

impl Deps {
    /// The role as a metric's label: plan files may name any role, and labels come from closed sets.
    pub fn role_label<'a>(&self, role: &'a Role) -> &'a str {
        if self.registry().has_role(role) { role.as_str() } else { "other" }
    }

    /// Roles, chains and instructions as they are now. An attempt keeps those it began with: [`Assignment::models`].
    pub fn registry(&self) -> Arc<Registry> {
        self.models.registry()
    }
}

/// Works on `assignment` and reports it.
pub async fn run(mut assignment: Assignment, deps: Arc<Deps>) {
    let result = match tokio::time::timeout(deps.limits.attempt, climb(&mut assignment, &deps)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::TimedOut),
    };
    assignment.obligation.report(result);
}

/// Why one rung did not lead to an answer.
struct Miss {
    note: ErrorNote,
    may_retry: bool,
    /// What the provider's error was, when it was one.
    error: Option<crewline_models::Error>,
    /// What the model has to be told when it is asked again.
    problem: Option<String>,
}

async fn climb(assignment: &mut Assignment, deps: &Deps) -> Result<Output, Failure> {
    let sources = std::mem::take(&mut assignment.sources);
    let told = curated::of_attempt(assignment, deps, sources).await?;
    let answers = Answers::of_lost_attempts(&deps.store, assignment.attempt).await;
    let instructions = instructions(&assignment.models.registry(), &assignment.task.role).to_owned();

    let mut rungs = std::mem::take(&mut assignment.rungs);
    // The order may be another one than that of the attempt that was lost; what it bought is used first.
    rungs.sort_by_key(|it| answers.place(&it.alias).unwrap_or(usize::MAX));
    let mut rungs: std::collections::VecDeque<Arc<ModelSpec>> = rungs.into();
    let mut problem: Option<String> = None;
    let mut last = Miss {
        note: ErrorNote {
            code: "route.no_model".into(),
            kind: ErrorKind::Unavailable,
            message: "no model of the chain may be asked".into(),
        },
        may_retry: false,
        error: None,
        problem: None,
    };
    let mut may_retry = false;
    let mut previous: Option<Arc<ModelSpec>> = None;
    let (mut number, mut repeated) = (0, 0);
    let mut found = Findings::default();
    while let Some(model) = rungs.pop_front() {
        let is_known = answers.place(&model.alias).is_some();
        let pass = if is_known { Pass::Yes } else { deps.health.admit(&model.alias, deps.clock.now()) };
        // The last one is asked in any case, unless all others are down, too: an answer that may come is better than none.
        if matches!(pass, Pass::Not { .. }) && (!rungs.is_empty() || found.is_down()) {
            found.shut(&model);
            repeated = 0;
            continue;
        }
        number += 1;
        if let Some(from) = previous.as_ref().filter(|from| from.alias != model.alias) {
            metrics::fallback(&from.alias, &model.alias, &last.note.code);
        }
        let asked = Asked { told: &told, instructions: &instructions, number, problem: problem.as_deref() };
        match ask_model(assignment, deps, asked, &model, &answers).await? {
            Ok(output) => return Ok(output),
            Err(miss) => {
                may_retry |= miss.may_retry;
                let error = miss.error.as_ref();
                found.missed(&model, pass == Pass::Probe, error);
                if let Some(pause) = error.and_then(|it| again::pause(it, repeated, rungs.is_empty(), fastrand::f64()))
                {
                    tokio::time::sleep(pause).await;
                    repeated += 1;
                    last = miss;
                    previous = Some(Arc::clone(&model));
                    rungs.push_front(model);
                    continue;
                }
                repeated = 0;
                if &*miss.note.code == OVERFLOW {
                    route::after_overflow(rungs.make_contiguous(), &model);
                }
                if let (Work::Plan { is_strict: false, rules, .. }, Some(text)) = (&assignment.work, &miss.problem) {
                    if problem.is_some() {
                        // The one repair request did not help either.
                        return Ok(last_resort(assignment, rules, &model, &miss.note));
                    }
                    problem = Some(text.clone());
                    if rungs.is_empty() {
                        rungs.push_back(Arc::clone(&model));
                    }
                }
                if matches!(assignment.work, Work::Text) {
                    problem = miss.problem.clone().or(problem);
                }
                last = miss;
                previous = Some(model);
            }
        }
    }
    if let (Work::Plan { is_strict: false, rules, .. }, Some(_), Some(model)) = (&assignment.work, &problem, &previous)
    {
        return Ok(last_resort(assignment, rules, model, &last.note));
    }
    let heard = (number > 0).then(|| last.note.clone());
    let down = found.failure(&deps.health, deps.clock.now(), heard);
    Err(down.unwrap_or(Failure::Models { error: last.note, may_retry }))
}

/// The code of a prompt that is too long for a model.
const OVERFLOW: &str = "model.context_overflow";

/// Instructions of a role that has none.
const GENERAL_INSTRUCTIONS: &str = "You are a careful specialist in a crew of language-model agents.";

/// What the registry tells `role`.
pub fn instructions<'a>(registry: &'a Registry, role: &Role) -> &'a str {
    registry.instructions(role).unwrap_or(GENERAL_INSTRUCTIONS)
}

/// One task that is the goal itself, when no model gave a usable plan.
fn last_resort(assignment: &Assignment, rules: &plan::Rules, model: &ModelSpec, note: &ErrorNote) -> Output {
    let plan = plan::single_task(&assignment.run.goal, rules);
    let repairs = vec![format!("no usable plan came back ({}), so the goal is one task", note.message)];
    Output { text: Text::from(""), plan: Some(PlanOutput { plan, repairs }), model: model.alias.clone() }
}

/// Money reserved for a call; charged in full when dropped after the call was sent.
struct Held<'a> {
    run: &'a RunBrief,
    hold: Option<wallet::Hold>,
    worst: Option<MicroUsd>,
}

impl Held<'_> {
    fn settle(mut self, actual: Option<MicroUsd>) {
        if let Some(hold) = self.hold.take() {
            self.run.purse.settle(hold, actual);
        }
    }

    fn refund(mut self) {
        if let Some(hold) = self.hold.take() {
            self.run.purse.refund(hold);
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            self.run.purse.settle(hold, self.worst);
        }
    }
}

/// What one call asks.
#[derive(Clone, Copy)]
struct Asked<'a> {
    told: &'a Curated,
    instructions: &'a str,
    number: u32,
    /// What was wrong with the answer before.
    problem: Option<&'a str>,
}

/// Asks one model. The outer error ends the attempt, the inner one leads to the next rung.
async fn ask_model(
    assignment: &Assignment,
    deps: &Deps,
    asked: Asked<'_>,
    model: &ModelSpec,
    answers: &Answers,
) -> Result<Result<Output, Miss>, Failure> {
    let Asked { told, instructions, number, problem } = asked;
    let run = &*assignment.run;
    let task = &*assignment.task;
    let schema = match &assignment.work {
        Work::Plan { schema, .. } => Some(Arc::clone(schema)),
        Work::Text => None,
    };
    // A schema is part of the prompt, whether the provider enforces it or the model is told it in words.
    let form = u32::try_from(form_tokens(schema.as_deref(), None)).unwrap_or(u32::MAX);
    let fixed = deps.prompts.fixed_tokens(run, task, instructions, problem).saturating_add(form);
    let Some(budget) = model.input_tokens_max().checked_sub(fixed) else {
        return Ok(Err(too_large(model, fixed)));
    };
    let bundle = told.bundle(budget);
    let context = if bundle.parts.is_empty() { String::new() } else { context::render(&bundle) };
    let messages = deps
        .prompts
        .render(run, task, &assignment.work, instructions, &context, problem)
        .map_err(|error| Failure::Models { error: note_of(&error), may_retry: false })?;
    let input_hash = hash_of(&messages);
    if let Some(reply) = answers.find(&model.alias, input_hash) {
        metrics::answer_reused(&model.alias);
        if !assignment.obligation.note(|progress| progress.is_started) {
            let mut change = run.change(assignment.attempt, deps.clock.now());
            start(&mut change, assignment, model, &bundle, budget);
            journal::record(&deps.rooms.journal, change).await.map_err(Failure::of)?;
            assignment.obligation.note(|progress| progress.is_started = true);
        }
        let call = CallId { attempt: assignment.attempt, number };
        return Ok(accept(assignment, model, &reply, call, None, Duration::ZERO).result);
    }
    let said: u64 = messages.iter().map(|it| u64::from(context::estimate_tokens(&it.text)) + 8).sum();
    let input_tokens = said + u64::from(form);

    let registry = assignment.models.registry();
    let role_max = registry.output_tokens_max(&task.role).unwrap_or(u32::MAX);
    let output_tokens_max = model.output_tokens_max.min(role_max);
    let worst = model.price.map(|price| price.of_tokens(input_tokens, output_tokens_max.into()));
    let hold = run
        .purse
        .reserve(task.id, worst)
        .map_err(|(cap, refused)| Failure::OverBudget { cap, message: format!("{cap}: {refused}") })?;
    let held = Held { run, hold: Some(hold), worst };

    let call = CallId { attempt: assignment.attempt, number };
    let open = OpenCall {
        id: call,
        model: model.alias.clone(),
        provider: Arc::clone(&model.provider),
        worst,
        input_tokens,
        is_sent: false,
    };
    let (intent, ended) = intent(assignment, deps, model, &bundle, budget, input_hash, &open);
    // An attempt that is aborted while this is on its way must not leave a call behind that nobody ends.
    assignment.obligation.note(|progress| progress.open = Some(open.clone()));
    if let Err(refusal) = journal::record(&deps.rooms.journal, intent).await {
        held.refund();
        assignment.obligation.note(|progress| progress.not_recorded(&refusal, ended));
        return Err(Failure::of(refusal));
    }
    assignment.obligation.note(|progress| {
        progress.is_started = true;
        progress.open = Some(OpenCall { is_sent: true, ..open });
    });

    let request =
        ChatRequest { messages, output_tokens_max, schema, temperature: registry.temperature(&task.role), tools: None };
    let started = deps.clock.now();
    let answer = assignment.models.chat(&model.alias, &request).await;
    let elapsed = deps.clock.now().since(started);

    let Accepted { end: ended, kept, result, checks } = match answer {
        Ok(reply) => {
            let cost = model.price.map(|price| price.of(&reply.usage));
            held.settle(cost);
            deps.health.succeeded(&model.alias);
            if let Some(cost) = cost {
                metrics::cost(&model.alias, cost);
            }
            let accepted = accept(assignment, model, &reply, call, cost, elapsed);
            deps.experience.answered(&task.role, task.kind, &model.alias, accepted.result.is_ok());
            accepted
        }
        Err(error) => {
            let outcome = error.outcome();
            // An answer that was under way when we gave up may have been billed: money is never under-reported.
            let (usage, cost) = match outcome {
                CallOutcome::Timeout | CallOutcome::Cancelled | CallOutcome::Lost => {
                    (Usage { input_tokens, estimated: true, ..Usage::default() }, worst)
                }
                CallOutcome::Error | CallOutcome::RateLimited | CallOutcome::Invalid | CallOutcome::Ok => {
                    (Usage::default(), Some(MicroUsd::ZERO))
                }
            };
            held.settle(cost);
            // A prompt that is refused or too long says nothing of how the model is.
            if !matches!(error, crewline_models::Error::ContextOverflow { .. } | crewline_models::Error::Refused { .. })
            {
                deps.health.failed(&model.alias, deps.clock.now(), &error);
            }
            let note =
                ErrorNote { code: error.code().into(), kind: error.kind(), message: full_message(&error).into() };
            let end = CallEnd { id: call, outcome, usage, cost, elapsed, reply: None, error: Some(note.clone()) };
            let miss = Miss { may_retry: error.is_retryable(), note, error: Some(error), problem: None };
            Accepted { end, kept: None, result: Err(miss), checks: Vec::new() }
        }
    };
    assignment.obligation.note(|progress| {
        progress.open = None;
        progress.spent.add(&ended);
        progress.ended.push(EndedCall {
            end: ended,
            model: model.alias.clone(),
            provider: Arc::clone(&model.provider),
            reply: kept,
            checks,
        });
    });
    Ok(result)
}

/// Message and hint of a model's error in one line: the hint is what helps a person.
fn full_message(error: &crewline_models::Error) -> String {
    match error.hint() {
        Some(hint) => format!("{error}: {hint}"),
        None => error.to_string(),
    }
}

fn note_of(error: &crate::Error) -> ErrorNote {
    ErrorNote { code: error.code().into(), kind: error.kind(), message: error.to_string().into() }
}

fn too_large(model: &ModelSpec, tokens: u32) -> Miss {
    let message = format!(
        "the task alone has about {tokens} tokens and `{}` takes {} beside its answer",
        model.alias,
        model.input_tokens_max()
    );
    Miss {
        note: ErrorNote { code: OVERFLOW.into(), kind: ErrorKind::Invalid, message: message.into() },
        may_retry: false,
        error: None,
        problem: None,
    }
}

/// The change that must be durable before the call is sent, and the ends of earlier calls that it records.
fn intent(
    assignment: &Assignment,
    deps: &Deps,
    model: &ModelSpec,
    bundle: &context::Bundle,
    budget: u32,
    input_hash: TextHash,
    open: &OpenCall,
) -> (Change, Vec<EndedCall>) {
    let mut change = assignment.run.change(assignment.attempt, deps.clock.now());
    let (is_started, ended) =
        assignment.obligation.note(|progress| (progress.is_started, std::mem::take(&mut progress.ended)));
    if !is_started {
        start(&mut change, assignment, model, bundle, budget);
    }
    end_calls(&mut change, assignment.attempt, &assignment.task.role, ended.clone());
    change.calls.push(NewCall {
        id: open.id,
        purpose: purpose(assignment, open.id.number),
        model: model.alias.as_str().into(),
        provider: (*model.provider).into(),
        input_hash,
        reserved: open.worst,
    });
    (change, ended)
}

/// Adds the beginning of the attempt, and what it is told, to `change`.
fn start(change: &mut Change, assignment: &Assignment, model: &ModelSpec, bundle: &context::Bundle, budget: u32) {
    let (task, attempt) = (&assignment.task, assignment.attempt);
    change.transitions.push(Transition {
        attempts_from: attempt.number - 1,
        attempts_to: attempt.number,
        ..Transition::new(task.id, TaskStatus::Pending, TaskStatus::InProgress)
    });
    change.attempts.push(NewAttempt {
        id: attempt,
        role: task.role.clone(),
        model: model.alias.as_str().into(),
        input_hash: assignment.input_hash,
    });
    change.contexts.push(NewContext {
        id: attempt,
        tokens: bundle.tokens,
        budget,
        items: serde_json::to_string(&bundle.provenance).unwrap_or_default(),
        bundle: Some(TextHash::of(&context::render(bundle))),
    });
    if task.kind != crewline_types::TaskKind::Root {
        change.events.push(NewEvent::of_task(
            change.at,
            task.id,
            Some(attempt.number),
            EventBody::TaskStarted {
                key: Arc::clone(&task.key),
                title: Arc::clone(&task.title),
                role: task.role.clone(),
                model: model.alias.as_str().into(),
                route: Arc::clone(&assignment.route),
            },
        ));
    }
}

/// Names what is asked.
pub fn hash_of(messages: &[ChatMessage]) -> TextHash {
    let mut all = String::new();
    for message in messages {
        all.push_str(&message.text);
        all.push('\u{1e}');
    }
    TextHash::of(&all)
}

fn purpose(assignment: &Assignment, number: u32) -> &'static str {
    match (&assignment.work, assignment.task.kind) {
        (Work::Plan { .. }, _) if number == 1 => "plan",
        (Work::Plan { .. }, _) => "plan_again",
        (Work::Text, crewline_types::TaskKind::Synthesis) => "synthesis",
        (
            Work::Text,
            crewline_types::TaskKind::Root | crewline_types::TaskKind::Composite | crewline_types::TaskKind::Atomic,
        ) => "task",
    }
}

/// Adds the ends of calls and their events to `change`.
pub fn end_calls(change: &mut Change, attempt: crewline_types::AttemptId, role: &Role, ended: Vec<EndedCall>) {
    for EndedCall { end, model, provider, reply, checks } in ended {
        change.events.push(NewEvent::of_task(
            change.at,
            attempt.task,
            Some(attempt.number),
            EventBody::ModelCall {
                call: end.id.to_string().into(),
                role: role.clone(),
                model: model.as_str().into(),
                provider,
                outcome: end.outcome,
                usage: end.usage,
                cost_usd: end.cost,
                elapsed_ms: u64::try_from(end.elapsed.as_millis()).unwrap_or(u64::MAX),
                error: end.error.clone(),
                checks,
            },
        ));
        change.calls_ended.push(end);
        change.texts.extend(reply);
    }
}

/// What became of a call.
struct Accepted {
    end: CallEnd,
    /// The text of a rejected answer, which nothing else keeps.
    kept: Option<Text>,
    result: Result<Output, Miss>,
    checks: Vec<CheckResult>,
}

/// Checks what the model said.
fn accept(
    assignment: &Assignment,
    model: &ModelSpec,
    reply: &ChatReply,
    call: CallId,
    cost: Option<MicroUsd>,
    elapsed: Duration,
) -> Accepted {
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
    let verdict = match (&assignment.work, reply.finish) {
        (_, Finish::Filtered) => Err(("model.refused", "the provider's filter stopped the answer".to_owned())),
        (Work::Text, _) if text.body.is_empty() => Err(("model.empty", "the answer is empty".to_owned())),
        (Work::Text, _) => {
            checks = verify::verdicts(&assignment.task.success_criteria, &text.body);
            verify::rejection(&checks).map_or(Ok(None), |message| Err((verify::REJECTED, message)))
        }
        (Work::Plan { rules, is_strict, .. }, _) => check_plan(&text.body, rules, *is_strict).map(Some),
    };
    let miss = match verdict {
        Ok(plan) => {
            let result = Ok(Output { text, plan, model: model.alias.clone() });
            return Accepted { end, kept: None, result, checks };
        }
        Err((code, message)) => {
            end.outcome = CallOutcome::Invalid;
            let note = ErrorNote { code: code.into(), kind: ErrorKind::Invalid, message: message.as_str().into() };
            end.error = Some(note.clone());
            let is_told = matches!(assignment.work, Work::Plan { .. }) || code == verify::REJECTED;
            let problem = is_told.then_some(message);
            let may_retry = code != "plan.invalid";
            Miss { note, may_retry, error: None, problem }
        }
    };
    Accepted { end, kept: Some(text), result: Err(miss), checks }
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
