//! The summary of a project by a model, where the registry names a role `summariser`.
//!
//! **Invariant:** the call is the run's: recorded before it is sent, reserved in its wallet, and part of its cost.
//! **Invariant:** what was made is given to the model as data, and what it writes is a text and nothing else.
//! **Invariant:** a model that does not answer leaves the extract.

use std::{sync::Arc, time::Duration};

use crewline_engine::{
    context::{self, Item, Tier},
    route::{self, Request, Traits, View},
};
use crewline_models::{ChatRequest, Finish, Registry, Tally};
use crewline_store::{CallEnd, Change, NewCall, Transition};
use crewline_types::{
    AttemptId, CallId, ErrorKind, MicroUsd, ModelSpec, Role, TaskId, TaskKind, TaskStatus, Text, TextHash, Usage,
    event::{CallOutcome, ErrorNote},
};
use tokio::time::Instant;

use crate::{
    attempt::{Deps, charged, end_calls, hash_of, instructions},
    brief::{Post, RunBrief},
    hierarchy::{Draft, Made},
    journal,
    progress::{Ended, EndedCall, OpenCall, Spent},
};

/// The role whose models write summaries.
pub const ROLE: &str = "summariser";
/// What calls for a summary are recorded as.
const PURPOSE: &str = "summary";
/// Words that a token of a summary stands for, in hundredths.
const WORDS_PER_TOKEN: u32 = 70;
/// Tokens of the prompt beside the sources.
const PROMPT_TOKENS: u32 = 400;
/// The longest wait for an answer.
const CALL_LIMIT: Duration = Duration::from_secs(90);
/// How much longer than asked for an answer may be.
const EXCESS_MAX: u32 = 2;

/// The root task of a run, under which its summaries are charged.
#[derive(Debug, Clone, Copy)]
pub struct Root {
    /// The task.
    pub task: TaskId,
    /// Its attempts so far; none when the plan came from a file.
    pub attempts: u32,
}

/// What a model wrote, and what is to be recorded with it.
pub struct Written {
    /// The summary, when the answer was one.
    pub made: Option<Made>,
    /// The end of the call.
    pub change: Change,
    /// What it cost.
    pub spent: Spent,
}

/// Whether summaries are written by a model.
pub fn is_wanted(deps: &Deps) -> bool {
    deps.registry().has_role(&Role::from(ROLE))
}

/// Asks the first model of the role that may be asked. None when no call was made.
pub async fn write(deps: &Deps, brief: &RunBrief, root: Root, draft: &Draft) -> Result<Option<Written>, crate::Error> {
    let (Post::Manager { epoch }, true) = (&brief.post, is_wanted(deps)) else { return Ok(None) };
    let role = Role::from(ROLE);
    let tally = Tally::default();
    let models = deps.models.pinned().tallied(tally.clone());
    let registry = models.registry();
    let Some(model) = choose(deps, &registry, brief, root, draft) else { return Ok(None) };
    let tokens_max = deps.limits.project_tokens;
    let Some(budget) = model.input_tokens_max().checked_sub(PROMPT_TOKENS) else { return Ok(None) };
    let (items, ids): (Vec<Item>, Vec<_>) = draft.sources().iter().map(|it| (item(it), it.id)).unzip();
    let bundle = context::assemble(&items, budget);
    if bundle.parts.is_empty() {
        return Ok(None);
    }
    let messages =
        deps.prompts.summary(instructions(&registry, &role), &context::render(&bundle), words(tokens_max))?;
    let input_tokens: u64 = messages.iter().map(|it| u64::from(context::estimate_tokens(&it.text)) + 8).sum();
    let output_tokens_max = model.output_tokens_max.min(tokens_max * EXCESS_MAX);
    let worst = model.price.map(|price| price.of_tokens(input_tokens, output_tokens_max.into()));
    let last = deps.store.last_call(root.task).await?;
    let call = match last {
        Some(CallId { attempt, number }) => CallId { attempt, number: number + 1 },
        None => CallId { attempt: AttemptId { task: root.task, number: root.attempts.max(1) }, number: 1 },
    };
    let open = OpenCall {
        id: call,
        by: Some(role.clone()),
        model: model.alias.clone(),
        provider: Arc::clone(&model.provider),
        worst,
        input_tokens,
        is_sent: false,
    };
    // A summary is never what a run is stopped for.
    if brief.purse.reserve(call, worst).is_err() {
        return Ok(None);
    }
    let mut intent = brief.change(call.attempt, deps.clock.now());
    intent.calls.push(NewCall {
        id: call,
        purpose: PURPOSE,
        model: model.alias.as_str().into(),
        provider: (*model.provider).into(),
        input_hash: hash_of(&messages),
        reserved: worst,
    });
    let Some(recorded) = brief.summaries.begin(open, || journal::record_and(&deps.rooms.journal, intent, || {})) else {
        brief.purse.refund(call);
        return Ok(None);
    };
    if let Err(refusal) = recorded.await {
        brief.not_begun(call, &refusal);
        brief.summaries.refused(&refusal);
        tracing::warn!(run_id = %brief.run, error = %refusal, "no model is asked for a summary");
        return Ok(None);
    }
    if !brief.summaries.sent() {
        return Ok(None);
    }
    let temperature = registry.temperature(&role);
    let request = ChatRequest { messages, output_tokens_max, schema: None, temperature, tools: None };
    let begun = Instant::now();
    let answer = tokio::time::timeout(CALL_LIMIT, models.chat(&model.alias, &request)).await;
    let elapsed = begun.elapsed();
    let (end, text) = match answer {
        Ok(Ok(reply)) => {
            let text = Text::from(crate::attempt::without_thinking(&reply.text).trim());
            let is_fine = reply.finish != Finish::Filtered && !text.body.is_empty();
            let cost = model.price.map(|price| price.of(&reply.usage));
            deps.health.succeeded(&model.alias);
            (
                end_of(call, reply.usage, cost, elapsed, if is_fine { CallOutcome::Ok } else { CallOutcome::Invalid }),
                Some(text).filter(|_| is_fine),
            )
        }
        Ok(Err(error)) => {
            let outcome = error.outcome();
            let (usage, cost) = charged(&error, model.price, input_tokens, worst);
            deps.health.failed(&model.alias, deps.clock.now(), &error);
            let message = error.to_string().into();
            let note = ErrorNote { code: error.code().into(), kind: error.kind(), message };
            (CallEnd { error: Some(note), ..end_of(call, usage, cost, elapsed, outcome) }, None)
        }
        Err(_) => {
            let message = format!("the answer did not come within {CALL_LIMIT:?}").into();
            let note = ErrorNote { code: "model.timeout".into(), kind: ErrorKind::Timeout, message };
            // What the provider bills for an aborted call is unknown: the worst case is never too little.
            let usage = Usage { input_tokens, estimated: true, ..Usage::default() };
            (CallEnd { error: Some(note), ..end_of(call, usage, worst, elapsed, CallOutcome::Timeout) }, None)
        }
    };
    brief.purse.ended(call, end.cost);
    let mut spent = Spent::default();
    spent.add(&end);
    let at = deps.clock.now();
    let mut change = Change::new(brief.run, *epoch, at);
    // The run's own row of its cost, so that whoever goes on with it knows.
    change.transitions.push(charge(root.task, root.attempts, &spent));
    let ended = EndedCall {
        end: CallEnd { reply: text.as_ref().map(|it| it.hash), ..end },
        by: Some(role.clone()),
        model: model.alias.clone(),
        provider: Arc::clone(&model.provider),
        reply: text.clone(),
        checks: Vec::new(),
        asked: Vec::new(),
    };
    let ended = Ended { calls: vec![ended], tools: Vec::new(), traffic: tally.take() };
    end_calls(&mut change, call.attempt, &role, ended);
    let made = text.map(|text| {
        let text = context::summarise(&text.body, tokens_max);
        let used: Vec<TextHash> = bundle.provenance.iter().filter(|it| it.tokens > 0).map(|it| it.text).collect();
        let sources = items.iter().zip(&ids).filter(|(item, _)| used.contains(&item.text.hash)).map(|(_, id)| *id);
        draft.made(text, sources.collect(), model.alias.as_str(), at)
    });
    Ok(Some(Written { made, change, spent }))
}

/// Charges a run's root task for calls.
pub fn charge(task: TaskId, attempts: u32, spent: &Spent) -> Transition {
    Transition {
        attempts_from: attempts,
        attempts_to: attempts,
        usage: spent.usage,
        cost: spent.cost,
        ..Transition::new(task, TaskStatus::InProgress, TaskStatus::InProgress)
    }
}

fn end_of(id: CallId, usage: Usage, cost: Option<MicroUsd>, elapsed: Duration, outcome: CallOutcome) -> CallEnd {
    CallEnd { id, outcome, usage, cost, elapsed, reply: None, error: None }
}

fn words(tokens: u32) -> u32 {
    tokens * WORDS_PER_TOKEN / 100
}

fn item(record: &crewline_types::MemoryRecord) -> Item {
    Item {
        tier: Tier::Requires,
        source: format!("memory:{}", record.id).into(),
        kind: record.kind.as_str().into(),
        title: Arc::clone(&record.agent),
        text: Text { hash: TextHash::of(&record.text), body: Arc::clone(&record.text) },
        // Later ones hold where they conflict.
        score: record.created_at.0 as f32,
    }
}

fn choose(deps: &Deps, registry: &Registry, brief: &RunBrief, root: Root, draft: &Draft) -> Option<Arc<ModelSpec>> {
    let role = &Role::from(ROLE);
    let input: u32 = draft.sources().iter().map(|it| context::estimate_tokens(&it.text)).fold(0, u32::saturating_add);
    let traits = Traits::default();
    let request = Request { role, kind: TaskKind::Synthesis, input_tokens: input, mode: brief.mode, traits: &traits };
    let now = deps.clock.now();
    let remaining = brief.purse.remaining(root.task);
    let decision = deps.experience.with(|learned| {
        let chain = registry.chain(role);
        let view = View {
            chain,
            health: &|alias| deps.health.of(alias, now),
            remaining,
            learned: Some(learned),
            rules: &[],
            is_loaded: route::NOBODY_KNOWS,
        };
        route::choose(&request, &view)
    });
    decision.rungs.into_iter().next().map(|rung| rung.model)
}
