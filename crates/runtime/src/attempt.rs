//! The work of one attempt: recall, assemble the context, climb the chain of models until an answer is accepted.
//!
//! **Invariant:** a call is recorded before it is sent; its end is recorded with the next change of the attempt.
//! **Invariant:** the worst case of a call is reserved before it is sent; a call whose answer is lost is charged in full.

use std::{collections::HashSet, sync::Arc, time::Duration};

use crewline_engine::{
    context::{self, Item, Tier},
    plan, wallet,
};
use crewline_memory::{Filter, Hit, Query};
use crewline_models::{ChatMessage, ChatReply, ChatRequest, Finish, Models, Registry};
use crewline_store::{CallEnd, Change, NewAttempt, NewCall, NewContext, Transition};
use crewline_types::{
    CallId, Clock, ErrorKind, MicroUsd, ModelSpec, Role, TaskStatus, Text, TextHash, Usage,
    event::{CallOutcome, ErrorNote, EventBody, NewEvent},
};

use crate::{
    actor::ask,
    assignment::{Assignment, EndedCall, Failure, OpenCall, Output, PlanOutput, RunBrief, Work},
    config::Limits,
    health::Health,
    journal::{self, Refusal},
    memory, metrics,
    prompt::Prompts,
    rooms::Rooms,
};

/// What every attempt works with.
pub struct Deps {
    /// The actors.
    pub rooms: Rooms,
    /// The models.
    pub models: Models,
    /// Roles, chains and instructions.
    pub registry: Arc<Registry>,
    /// The roles that the registry names.
    pub roles: HashSet<Role>,
    /// The prompt templates.
    pub prompts: Prompts,
    /// Which models answer.
    pub health: Health,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// The bounds.
    pub limits: Limits,
}

impl Deps {
    /// The role as a metric's label: plan files may name any role, and labels come from closed sets.
    pub fn role_label<'a>(&self, role: &'a Role) -> &'a str {
        if self.roles.contains(role) { role.as_str() } else { "other" }
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
    /// What the model has to be told when it is asked again.
    problem: Option<String>,
}

async fn climb(assignment: &mut Assignment, deps: &Deps) -> Result<Output, Failure> {
    let mut items = std::mem::take(&mut assignment.sources);
    recall(assignment, deps, &mut items).await;
    let instructions = deps.registry.instructions(&assignment.task.role).unwrap_or(GENERAL_INSTRUCTIONS).to_owned();

    let mut rungs: std::collections::VecDeque<Arc<ModelSpec>> = std::mem::take(&mut assignment.rungs).into();
    let mut problem: Option<String> = None;
    let mut last = Miss {
        note: ErrorNote {
            code: "route.no_model".into(),
            kind: ErrorKind::Unavailable,
            message: "no model of the chain may be asked".into(),
        },
        may_retry: false,
        problem: None,
    };
    let mut may_retry = false;
    let mut previous: Option<Arc<ModelSpec>> = None;
    let mut number = 0;
    while let Some(model) = rungs.pop_front() {
        number += 1;
        if let Some(from) = &previous {
            metrics::fallback(&from.alias, &model.alias, &last.note.code);
        }
        match ask_model(assignment, deps, &items, &instructions, &model, number, problem.as_deref()).await? {
            Ok(output) => return Ok(output),
            Err(miss) => {
                may_retry |= miss.may_retry;
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
                last = miss;
                previous = Some(model);
            }
        }
    }
    if let (Work::Plan { is_strict: false, rules, .. }, Some(_), Some(model)) = (&assignment.work, &problem, &previous)
    {
        return Ok(last_resort(assignment, rules, model, &last.note));
    }
    Err(Failure::Models { error: last.note, may_retry })
}

/// Instructions of a role that has none.
const GENERAL_INSTRUCTIONS: &str = "You are a careful specialist in a crew of language-model agents.";

/// One task that is the goal itself, when no model gave a usable plan.
fn last_resort(assignment: &Assignment, rules: &plan::Rules, model: &ModelSpec, note: &ErrorNote) -> Output {
    let plan = plan::single_task(&assignment.run.goal, rules);
    let repairs = vec![format!("no usable plan came back ({}), so the goal is one task", note.message)];
    Output { text: Text::from(""), plan: Some(PlanOutput { plan, repairs }), model: model.alias.clone() }
}

/// Adds what memory knows; an attempt goes on without memory when it does not answer.
async fn recall(assignment: &Assignment, deps: &Deps, items: &mut Vec<Item>) {
    let Some(memory) = deps.rooms.memory.current() else { return };
    let task = &assignment.task;
    let text = match assignment.work {
        Work::Plan { .. } => assignment.run.goal.to_string(),
        Work::Text => format!("{} {}", task.title, task.description),
    };
    let mut known: Vec<crewline_types::TaskId> =
        items.iter().filter_map(|it| it.source.strip_prefix("task:")?.parse().ok()).collect();
    known.push(task.id);
    let query = Query {
        text,
        vector: None,
        filter: Filter { exclude_tasks: known, ..Filter::default() },
        limit: deps.limits.recall_top,
    };
    let scope = assignment.run.scope.clone();
    match ask(&memory, deps.limits.recall, |reply| memory::Message::Recall(scope, query, reply)).await {
        Ok(hits) => items.extend(hits.into_iter().map(recalled)),
        Err(error) => tracing::warn!(task_id = %task.id, %error, "recall failed, going on without memory"),
    }
}

fn recalled(hit: Hit) -> Item {
    let record = hit.record;
    let source = match record.task {
        Some(task) => format!("task:{task}"),
        None => format!("memory:{}", record.id),
    };
    Item {
        tier: Tier::Retrieved,
        source: source.into(),
        kind: record.kind.as_str().into(),
        title: record.agent.clone(),
        text: Text { hash: TextHash::of(&record.text), body: Arc::clone(&record.text) },
        score: hit.score,
    }
}

/// Money reserved for a call; charged in full when dropped after the call was sent.
struct Held<'a> {
    run: &'a RunBrief,
    reservation: Option<wallet::Reservation>,
    worst: Option<MicroUsd>,
}

impl Held<'_> {
    fn settle(mut self, actual: Option<MicroUsd>) {
        if let Some(reservation) = self.reservation.take() {
            self.run.with_wallet(|wallet| wallet.settle(reservation, actual));
        }
    }

    fn refund(mut self) {
        if let Some(reservation) = self.reservation.take() {
            self.run.with_wallet(|wallet| wallet.refund(reservation));
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            let worst = self.worst;
            self.run.with_wallet(|wallet| wallet.settle(reservation, worst));
        }
    }
}

/// Asks one model. The outer error ends the attempt, the inner one leads to the next rung.
async fn ask_model(
    assignment: &Assignment,
    deps: &Deps,
    items: &[Item],
    instructions: &str,
    model: &ModelSpec,
    number: u32,
    problem: Option<&str>,
) -> Result<Result<Output, Miss>, Failure> {
    let run = &*assignment.run;
    let task = &*assignment.task;
    let fixed = deps.prompts.fixed_tokens(run, task, instructions, problem);
    let Some(budget) = model.input_tokens_max().checked_sub(fixed) else {
        return Ok(Err(too_large(model, fixed)));
    };
    let bundle = context::assemble(items, budget);
    let context = if bundle.parts.is_empty() { String::new() } else { context::render(&bundle) };
    let messages = deps
        .prompts
        .render(run, task, &assignment.work, instructions, &context, problem)
        .map_err(|error| Failure::Models { error: note_of(&error), may_retry: false })?;
    let input_tokens: u64 = messages.iter().map(|it| u64::from(context::estimate_tokens(&it.text)) + 8).sum();

    let role_max = deps.registry.output_tokens_max(&task.role).unwrap_or(u32::MAX);
    let output_tokens_max = model.output_tokens_max.min(role_max);
    let worst = model.price.map(|price| price.of_tokens(input_tokens, output_tokens_max.into()));
    let reservation = run
        .with_wallet(|wallet| wallet.reserve(worst))
        .map_err(|refused| Failure::OverBudget { message: refused.to_string() })?;
    let held = Held { run, reservation: Some(reservation), worst };

    let call = CallId { attempt: assignment.attempt, number };
    let open =
        OpenCall { id: call, model: model.alias.clone(), provider: Arc::clone(&model.provider), worst, input_tokens };
    let intent = intent(assignment, deps, model, &bundle, budget, &messages, &open);
    if let Err(refusal) = journal::record(&deps.rooms.journal, intent).await {
        held.refund();
        return Err(match refusal {
            Refusal::Stale => Failure::Stale,
            Refusal::Failed { code, kind, message } => Failure::Store { code, kind, message },
            Refusal::Unknown => Failure::Lost,
        });
    }
    assignment.obligation.note(|progress| {
        progress.is_started = true;
        progress.open = Some(open.clone());
    });

    let schema = match &assignment.work {
        Work::Plan { schema, .. } => Some(Arc::clone(schema)),
        Work::Text => None,
    };
    let request =
        ChatRequest { messages, output_tokens_max, schema, temperature: deps.registry.temperature(&task.role) };
    let started = deps.clock.now();
    let answer = deps.models.chat(&model.alias, &request).await;
    let elapsed = deps.clock.now().since(started);

    let (ended, result) = match answer {
        Ok(reply) => {
            let cost = model.price.map(|price| price.of(&reply.usage));
            held.settle(cost);
            deps.health.succeeded(&model.alias);
            if let Some(cost) = cost {
                metrics::cost(&model.alias, cost);
            }
            accept(assignment, model, &reply, call, cost, elapsed)
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
            deps.health.failed(&model.alias, deps.clock.now(), error.retry_after());
            let note =
                ErrorNote { code: error.code().into(), kind: error.kind(), message: full_message(&error).into() };
            let end = CallEnd { id: call, outcome, usage, cost, elapsed, reply: None, error: Some(note.clone()) };
            (end, Err(Miss { may_retry: error.is_retryable(), note, problem: None }))
        }
    };
    assignment.obligation.note(|progress| {
        progress.open = None;
        progress.spent.add(&ended);
        progress.ended.push(EndedCall {
            end: ended,
            model: model.alias.clone(),
            provider: Arc::clone(&model.provider),
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
        note: ErrorNote { code: "model.context_overflow".into(), kind: ErrorKind::Invalid, message: message.into() },
        may_retry: false,
        problem: None,
    }
}

/// The change that must be durable before the call is sent.
fn intent(
    assignment: &Assignment,
    deps: &Deps,
    model: &ModelSpec,
    bundle: &context::Bundle,
    budget: u32,
    messages: &[ChatMessage],
    open: &OpenCall,
) -> Change {
    let (run, task, attempt) = (&assignment.run, &assignment.task, assignment.attempt);
    let at = deps.clock.now();
    let mut change = Change::new(run.run, run.epoch, at);
    let (is_started, ended) =
        assignment.obligation.note(|progress| (progress.is_started, std::mem::take(&mut progress.ended)));
    if !is_started {
        change.transitions.push(Transition {
            attempts_from: attempt.number - 1,
            attempts_to: attempt.number,
            ..Transition::new(task.id, TaskStatus::Pending, TaskStatus::InProgress)
        });
        change.attempts.push(NewAttempt { id: attempt, role: task.role.clone(), model: model.alias.as_str().into() });
        change.contexts.push(NewContext {
            id: attempt,
            tokens: bundle.tokens,
            budget,
            items: serde_json::to_string(&bundle.provenance).unwrap_or_default(),
        });
        if task.kind != crewline_types::TaskKind::Root {
            change.events.push(NewEvent::of_task(
                at,
                task.id,
                Some(attempt.number),
                EventBody::TaskStarted {
                    key: Arc::clone(&task.key),
                    title: Arc::clone(&task.title),
                    role: task.role.clone(),
                    model: model.alias.as_str().into(),
                },
            ));
        }
    }
    end_calls(&mut change, assignment.attempt, &task.role, ended);
    let mut hasher = String::new();
    for message in messages {
        hasher.push_str(&message.text);
        hasher.push('\u{1e}');
    }
    change.calls.push(NewCall {
        id: open.id,
        purpose: purpose(assignment, open.id.number),
        model: model.alias.as_str().into(),
        provider: (*model.provider).into(),
        input_hash: TextHash::of(&hasher),
        reserved: open.worst,
    });
    change
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
    for EndedCall { end, model, provider } in ended {
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
            },
        ));
        change.calls_ended.push(end);
    }
}

/// Checks what the model said.
fn accept(
    assignment: &Assignment,
    model: &ModelSpec,
    reply: &ChatReply,
    call: CallId,
    cost: Option<MicroUsd>,
    elapsed: Duration,
) -> (CallEnd, Result<Output, Miss>) {
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
    let verdict = match (&assignment.work, reply.finish) {
        (_, Finish::Filtered) => Err(("model.refused", "the provider's filter stopped the answer".to_owned())),
        (Work::Text, _) if text.body.is_empty() => Err(("model.empty", "the answer is empty".to_owned())),
        (Work::Text, _) => Ok(None),
        (Work::Plan { rules, is_strict, .. }, _) => check_plan(&text.body, rules, *is_strict).map(Some),
    };
    let result = match verdict {
        Ok(plan) => Ok(Output { text, plan, model: model.alias.clone() }),
        Err((code, message)) => {
            // The text of a rejected answer is not kept: nothing refers to it.
            end.reply = None;
            end.outcome = CallOutcome::Invalid;
            let note = ErrorNote { code: code.into(), kind: ErrorKind::Invalid, message: message.as_str().into() };
            end.error = Some(note.clone());
            let problem = matches!(assignment.work, Work::Plan { .. }).then_some(message);
            let may_retry = code != "plan.invalid";
            Err(Miss { note, may_retry, problem })
        }
    };
    (end, result)
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
fn without_thinking(text: &str) -> &str {
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
