//! One call of a model: prepared, recorded, reserved, sent, and its end kept for the next change.
//!
//! **Invariant:** nothing is sent that is not recorded and reserved.

use std::{sync::Arc, time::Duration};

use crewline_engine::context;
use crewline_models::{ChatMessage, ChatReply, ChatRequest, OutputSchema, ToolCall, ToolSet, request::form_tokens};
use crewline_store::{CallEnd, Change, ContextRow, NewAttempt, NewCall, NewContext, Transition};
use crewline_types::{
    AttemptId, CallId, ErrorKind, MicroUsd, ModelSpec, Price, Role, TaskKind, TaskStatus, Text, TextHash, Usage,
    event::{ErrorNote, EventBody, NewEvent},
};
use tokio::time::Instant;

use super::{
    Deps,
    accept::{Verdict, Wanted, accept, doubt},
    climb::{Climb, Miss, OVERFLOW, Question, Said},
    copy,
    money::{self, Ends},
    note_of,
};
use crate::{
    assignment::{Assignment, Failure, Work},
    curated::Curated,
    journal, metrics,
    progress::{Ended, EndedCall, EndedTool, OpenCall},
    tokens::Tokens,
};

/// Characters of a tool's name that are kept.
const NAME_CHARS_MAX: usize = 128;

/// What an attempt is told, as its snapshot keeps it.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) tokens: u32,
    pub(super) budget: u32,
    /// Where every part came from, as JSON.
    pub(super) items: String,
    /// Names the bundle as it is sent.
    pub(super) bundle: Option<TextHash>,
    /// The whole question, where a later attempt may go on with it.
    pub(super) prompt: Option<Text>,
    /// The tokenizer that counted; none for an estimate.
    pub(super) tokenizer: Option<Arc<str>>,
}

impl Told {
    pub(super) fn of(bundle: &context::Bundle, budget: u32, tokens: &Tokens) -> Self {
        let items = context::kept::write(&bundle.provenance);
        let named = Some(TextHash::of(&context::render(bundle)));
        Self { tokens: bundle.tokens, budget, items, bundle: named, prompt: None, tokenizer: tokens.name().cloned() }
    }

    /// As an earlier attempt was told.
    fn of_row(row: &ContextRow) -> Self {
        let ContextRow { tokens, budget, items, bundle, tokenizer, .. } = row.clone();
        Self { tokens, budget, items, bundle, prompt: None, tokenizer }
    }
}

/// A question in the words of one model.
pub(super) struct Prepared {
    pub(super) messages: Vec<ChatMessage>,
    pub(super) told: Told,
    pub(super) schema: Option<Arc<OutputSchema>>,
    pub(super) tools: Option<Arc<ToolSet>>,
}

impl Prepared {
    /// Tokens of the prompt, estimated from above.
    fn input_tokens(&self) -> u64 {
        let said = self.messages.iter().map(|it| {
            let calls: u64 =
                it.tool_calls.iter().map(|call| u64::from(context::estimate_tokens(&call.arguments)) + 8).sum();
            u64::from(context::estimate_tokens(&it.text)) + 8 + calls
        });
        said.sum::<u64>() + form_tokens(self.schema.as_deref(), self.tools.as_deref())
    }
}

/// Packs the task and as much of its context as `model` takes beside `form` tokens of schema and tools.
pub(super) async fn pack(
    climb: &Climb<'_>,
    curated: &Arc<Curated>,
    model: &ModelSpec,
    form: u32,
    tokens: &Tokens,
) -> Result<Result<(Vec<ChatMessage>, Told), Miss>, Failure> {
    let Climb { assignment, deps, .. } = *climb;
    let instructions = climb.instructions.as_str();
    let problem = climb.problem.as_deref();
    let (run, task) = (&*assignment.run, &*assignment.task);
    let fixed = deps.prompts.fixed_tokens(run, task, instructions, problem, tokens).await.saturating_add(form);
    let Some(budget) = model.input_tokens_max().checked_sub(fixed) else {
        return Ok(Err(too_large(model, fixed)));
    };
    let told = Arc::clone(curated);
    let bundle = tokens.bundle(move |tokens| told.bundle(budget, tokens)).await;
    let context = if bundle.parts.is_empty() { String::new() } else { context::render(&bundle) };
    let messages = deps
        .prompts
        .render(run, task, &assignment.work, instructions, &context, problem)
        .map_err(|error| Failure::Models { error: note_of(&error), may_retry: false })?;
    Ok(Ok((messages, Told::of(&bundle, budget, tokens))))
}

async fn prepare(
    climb: &Climb<'_>,
    question: Question<'_>,
    model: &ModelSpec,
    tokens: &Tokens,
) -> Result<Result<Prepared, Miss>, Failure> {
    match question {
        Question::Task { told } => {
            let schema = match &climb.assignment.work {
                Work::Plan { schema, .. } => Some(Arc::clone(schema)),
                Work::Text => None,
            };
            // A schema is part of the prompt, whether the provider enforces it or the model is told it in words.
            let form = u32::try_from(form_tokens(schema.as_deref(), None)).unwrap_or(u32::MAX);
            let packed = pack(climb, told, model, form, tokens).await?;
            Ok(packed.map(|(messages, told)| Prepared { messages, told, schema, tools: None }))
        }
        Question::Step { talk } => {
            let registry = climb.assignment.models.registry();
            Ok(talk.prepare(&registry, model, tokens).await.map_err(|tokens| too_large(model, tokens)))
        }
    }
}

/// The question as `model` is asked it now. One that an unfinished attempt got an answer to is asked as it was then, even if
/// the registry counts otherwise since.
async fn put(climb: &Climb<'_>, question: Question<'_>, model: &ModelSpec) -> Result<Result<Prepared, Miss>, Failure> {
    let (recorded, registry) = (climb.recorded, climb.assignment.models.registry());
    let tokens = Tokens::of(&registry, model).await;
    let now = prepare(climb, question, model, &tokens).await?;
    let is_answered = |it: &Prepared| recorded.find(&model.alias, hash_of(&it.messages)).is_some();
    if recorded.place(&model.alias).is_some() && !now.as_ref().is_ok_and(is_answered) {
        for name in recorded.tokenizers_before(tokens.name()) {
            let Some(tokens) = Tokens::named(&registry, name).await else { continue };
            let then = prepare(climb, question, model, &tokens).await?;
            if then.as_ref().is_ok_and(is_answered) {
                return Ok(then);
            }
        }
    }
    Ok(now)
}

/// Asks one model. The outer error ends the attempt, the inner one leads to the next rung.
pub(super) async fn ask_model(
    climb: &mut Climb<'_>,
    question: Question<'_>,
    model: &Arc<ModelSpec>,
) -> Result<Result<Said, Miss>, Failure> {
    let Climb { assignment, deps, number, .. } = *climb;
    let run = &assignment.run;
    let task = &*assignment.task;
    let wanted = match question {
        Question::Task { .. } => Wanted::Result(&assignment.work),
        Question::Step { .. } => Wanted::Step,
    };
    // Nobody closes it. Who has a place waits for nobody but the journal until the call is recorded.
    let place = deps.preparing.acquire().await.ok();
    // Apart, so that the attempts that wait for an answer do not hold the room it takes.
    let prepared = match Box::pin(put(climb, question, model)).await? {
        Ok(prepared) => prepared,
        Err(miss) => return Ok(Err(miss)),
    };
    let input_hash = hash_of(&prepared.messages);
    let call = CallId { attempt: assignment.attempt, number };
    let purpose = purpose(assignment, wanted, number);
    if let Some((reply, recorded, told)) = answered(climb, question, model, &prepared, input_hash, purpose) {
        metrics::answer_reused(&model.alias);
        climb.reused.push(model.alias.clone());
        begin(assignment, deps, model, &told).await?;
        let doubt = doubt(&assignment.models.registry(), model, &reply, !climb.rungs.is_empty());
        let verdict = accept(&task.success_criteria, wanted, doubt, &reply, call, None, Duration::ZERO);
        return Ok(verdict.result.map(|it| Said {
            model: Arc::clone(model),
            text: it.text,
            plan: it.plan,
            tool_calls: reply.tool_calls,
            call: Some(recorded),
            is_recorded: true,
        }));
    }
    let input_tokens = prepared.input_tokens();
    let registry = assignment.models.registry();
    let role_max = registry.output_tokens_max(&task.role).unwrap_or(u32::MAX);
    let output_tokens_max = model.output_tokens_max.min(role_max);
    let worst = model.price.map(|price| price.of_tokens(input_tokens, output_tokens_max.into()));
    let open = OpenCall {
        id: call,
        by: None,
        model: model.alias.clone(),
        provider: Arc::clone(&model.provider),
        worst,
        input_tokens,
        is_sent: false,
    };
    let intent = || intent(assignment, deps, model, &prepared.told, input_hash, &open, purpose);
    Box::pin(money::begin(climb, &open, Ends::All, place, intent)).await?;
    assignment.obligation.note(|progress| progress.is_started = true);

    let Prepared { messages, schema, tools, .. } = prepared;
    let temperature = registry.temperature(&task.role);
    let request = ChatRequest { messages, output_tokens_max, schema, temperature, tools };
    let started = Instant::now();
    let answer = assignment.models.chat(&model.alias, &request).await;
    let elapsed = started.elapsed();

    let (ended, kept, checks, result) = match answer {
        Ok(mut reply) => {
            reply.tool_calls = reply.tool_calls.iter().map(cleaned).collect();
            let cost = model.price.map(|price| price.of(&reply.usage));
            run.purse.ended(call, cost);
            deps.health.succeeded(&model.alias);
            if let Some(cost) = cost {
                metrics::cost(&model.alias, cost);
            }
            let doubt = doubt(&registry, model, &reply, !climb.rungs.is_empty());
            let Verdict { end, kept, checks, result } =
                accept(&task.success_criteria, wanted, doubt, &reply, call, cost, elapsed);
            deps.experience.answered(&task.role, task.kind, &model.alias, result.is_ok());
            let said = result.map(|it| Said {
                model: Arc::clone(model),
                text: it.text,
                plan: it.plan,
                tool_calls: reply.tool_calls,
                call: Some(call),
                is_recorded: false,
            });
            (end, kept, checks, said)
        }
        Err(error) => {
            let outcome = error.outcome();
            let (usage, cost) = charged(&error, model.price, input_tokens, worst);
            run.purse.ended(call, cost);
            note_failure(deps, model, &error);
            let note =
                ErrorNote { code: error.code().into(), kind: error.kind(), message: full_message(&error).into() };
            let end = CallEnd { id: call, outcome, usage, cost, elapsed, reply: None, error: Some(note.clone()) };
            let miss = Miss { may_retry: error.is_retryable(), note, error: Some(error), problem: None };
            (end, None, Vec::new(), Err(miss))
        }
    };
    if let Some(shadow) = copy::drawn(climb, question) {
        copy::send(climb, shadow, request, &model.alias, &ended);
    }
    assignment.obligation.note(|progress| {
        progress.open = None;
        progress.spent.add(&ended);
        progress.ended.calls.push(EndedCall {
            end: ended,
            by: None,
            model: model.alias.clone(),
            provider: Arc::clone(&model.provider),
            reply: kept,
            asked: Vec::new(),
            checks,
        });
    });
    Ok(result)
}

/// The answer that an unfinished attempt recorded, its call, and what was told then. To a plain task that no person has decided on
/// memory may have other things to say since: what was bought is used nevertheless.
fn answered(
    climb: &Climb<'_>,
    question: Question<'_>,
    model: &ModelSpec,
    prepared: &Prepared,
    input_hash: TextHash,
    purpose: &str,
) -> Option<(ChatReply, CallId, Told)> {
    if let Some((reply, call)) = climb.recorded.find(&model.alias, input_hash) {
        return Some((reply, call, prepared.told.clone()));
    }
    let (Question::Task { told }, Work::Text) = (question, &climb.assignment.work) else { return None };
    let given = climb.assignment.input_hash.filter(|_| !told.is_decided())?;
    let place = climb.reused.iter().filter(|it| **it == model.alias).count();
    let (reply, call, then) = climb.recorded.find_given(&model.alias, purpose, given, place)?;
    Some((reply, call, Told::of_row(then)))
}

/// Tells of a failure who keeps the model's breaker. A prompt that is refused or too long says nothing of how the model is.
pub(super) fn note_failure(deps: &Deps, model: &ModelSpec, error: &crewline_models::Error) {
    if !matches!(error.cause(), crewline_models::Error::ContextOverflow { .. } | crewline_models::Error::Refused { .. })
    {
        deps.health.failed(&model.alias, deps.clock.now(), error);
    }
}

/// What a call that failed consumed. What the provider may bill is charged: as it counted, else with the worst case, so that money
/// is never under-reported.
pub fn charged(
    error: &crewline_models::Error,
    price: Option<Price>,
    input_tokens: u64,
    worst: Option<MicroUsd>,
) -> (Usage, Option<MicroUsd>) {
    match error.usage() {
        Some(usage) => (usage, price.map(|price| price.of(&usage))),
        None if error.may_be_billed() => (Usage { input_tokens, estimated: true, ..Usage::default() }, worst),
        None => (Usage::default(), Some(MicroUsd::ZERO)),
    }
}

/// A call as the database can hold it: what is read back later is the same.
fn cleaned(call: &ToolCall) -> ToolCall {
    let clean = |text: &str| text.replace('\0', "\u{fffd}");
    let name: String = call.name.chars().take(NAME_CHARS_MAX).collect();
    let id: String = call.id.chars().take(NAME_CHARS_MAX).collect();
    ToolCall { id: clean(&id).into(), name: clean(&name).into(), arguments: clean(&call.arguments).into() }
}

/// Message and hint of a model's error in one line: the hint is what helps a person.
fn full_message(error: &crewline_models::Error) -> String {
    match error.hint() {
        Some(hint) => format!("{error}: {hint}"),
        None => error.to_string(),
    }
}

pub(super) fn too_large(model: &ModelSpec, tokens: u32) -> Miss {
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
    told: &Told,
    input_hash: TextHash,
    open: &OpenCall,
    purpose: &'static str,
) -> (Change, Ended) {
    let mut change = assignment.run.change(assignment.attempt, deps.clock.now());
    let (is_started, ended) = assignment.obligation.note(|progress| (progress.is_started, progress.take_ended()));
    if !is_started {
        start(&mut change, assignment, model, told);
    }
    end_calls(&mut change, assignment.attempt, &assignment.task.role, ended.clone());
    change.calls.push(NewCall {
        id: open.id,
        purpose,
        model: model.alias.as_str().into(),
        provider: (*model.provider).into(),
        input_hash,
        reserved: open.worst,
    });
    (change, ended)
}

/// Records the beginning of the attempt, unless that was done.
pub(super) async fn begin(assignment: &Assignment, deps: &Deps, model: &ModelSpec, told: &Told) -> Result<(), Failure> {
    if assignment.obligation.note(|progress| progress.is_started) {
        return Ok(());
    }
    let mut change = assignment.run.change(assignment.attempt, deps.clock.now());
    start(&mut change, assignment, model, told);
    journal::record(&deps.rooms.journal, change).await.map_err(Failure::of)?;
    assignment.obligation.note(|progress| progress.is_started = true);
    Ok(())
}

/// Adds the beginning of the attempt, and what it is told, to `change`.
pub(super) fn start(change: &mut Change, assignment: &Assignment, model: &ModelSpec, told: &Told) {
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
        tokens: told.tokens,
        budget: told.budget,
        items: told.items.clone(),
        bundle: told.bundle,
        prompt: told.prompt.as_ref().map(|text| text.hash),
        tokenizer: told.tokenizer.clone(),
    });
    change.texts.extend(told.prompt.clone());
    if task.kind != TaskKind::Root {
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
        for call in &message.tool_calls {
            for part in [&call.id, &call.name, &call.arguments] {
                all.push('\u{1f}');
                all.push_str(part);
            }
        }
        all.push('\u{1e}');
    }
    TextHash::of(&all)
}

fn purpose(assignment: &Assignment, wanted: Wanted<'_>, number: u32) -> &'static str {
    match (wanted, &assignment.work, assignment.task.kind) {
        (Wanted::Step, ..) => "step",
        (Wanted::Result(_), Work::Plan { .. }, _) if number == 1 => "plan",
        (Wanted::Result(_), Work::Plan { .. }, _) => "plan_again",
        (Wanted::Result(_), Work::Text, TaskKind::Synthesis) => "synthesis",
        (Wanted::Result(_), Work::Text, TaskKind::Root | TaskKind::Composite | TaskKind::Atomic) => "task",
    }
}

/// Adds the ends of calls and their events to `change`.
pub fn end_calls(change: &mut Change, attempt: AttemptId, role: &Role, ended: Ended) {
    let Ended { calls, tools, traffic } = ended;
    change.traffic += &traffic;
    let millis = |elapsed: Duration| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    for EndedCall { end, by, model, provider, reply, asked, checks } in calls {
        metrics::checked(&checks);
        change.events.push(NewEvent::of_task(
            change.at,
            attempt.task,
            Some(attempt.number),
            EventBody::ModelCall {
                call: end.id.to_string().into(),
                role: by.unwrap_or_else(|| role.clone()),
                model: model.as_str().into(),
                provider,
                outcome: end.outcome,
                usage: end.usage,
                cost_usd: end.cost,
                elapsed_ms: millis(end.elapsed),
                error: end.error.clone(),
                checks,
            },
        ));
        change.calls_ended.push(end);
        change.texts.extend(reply);
        for (row, arguments) in asked {
            change.tool_calls.push(row);
            change.texts.push(arguments);
        }
    }
    for EndedTool { end, tool, output } in tools {
        change.events.push(NewEvent::of_task(
            change.at,
            attempt.task,
            Some(attempt.number),
            EventBody::ToolCall {
                call: end.id.to_string().into(),
                role: role.clone(),
                tool,
                outcome: end.outcome,
                elapsed_ms: millis(end.elapsed),
            },
        ));
        change.tool_calls_ended.push(end);
        change.texts.push(output);
    }
}
