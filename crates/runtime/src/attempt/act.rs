//! The loop of a role with tools: answer, calls, observations, and again, until the answer is final.
//!
//! **Invariant:** an attempt ends within its limits of steps, tokens, money and time.
//! **Invariant:** what waits for a person waits in the database: the attempt ends, and the next one goes on from there.

use std::sync::Arc;

use crewline_engine::{
    act::{self, Call, History, Limits, Look, Policy, Protocol, Rules, Spent, Step, StopCode},
    context::estimate_tokens,
};
use crewline_store::NewApproval;
use crewline_types::{
    ApprovalId, ApprovalKind, ApprovalState, ErrorKind, Text, Timestamp,
    event::{ErrorNote, EventBody, NewEvent},
};

use super::{
    call::{self, Told, pack},
    climb::{Climb, Question, Said},
    note_of,
    perform::Performer,
    review::review,
    talk::{Offer, Talk, Turn, keep, protocol_of},
};
use crate::{
    assignment::{Assignment, Failure, HANDED_OVER, Output, Work},
    curated::Curated,
    journal,
    tokens::Tokens,
    tools::{self, Toolbox},
    workshop::CONFLICT,
};

/// The part of a model's window that what an earlier attempt left may take: one of so many.
const TOLD_SHARE: u32 = 4;

/// Whether the attempt needs the loop: its role has tools, or a person wants to see what it is told.
pub(super) fn must_act(assignment: &Assignment) -> bool {
    match assignment.work {
        Work::Plan { .. } => false,
        Work::Text => {
            assignment.models.registry().tools(&assignment.task.role).is_some() || assignment.run.approve.context
        }
    }
}

/// Works step by step.
pub(super) async fn act(climb: &mut Climb<'_>, curated: &Arc<Curated>) -> Result<Output, Failure> {
    let (assignment, deps) = (climb.assignment, climb.deps);
    let started = deps.clock.now();
    let role = &assignment.task.role;
    let (policy, limits) = tools::rules_of(&assignment.models.registry(), role);
    let toolbox = Toolbox::of(assignment, deps, climb.recorded, &policy).await?;
    let done = work(climb, curated, &policy, &limits, &toolbox, started).await;
    if let (Err(Failure::Models { .. } | Failure::OverBudget { .. } | Failure::Down(_)), Some(place)) =
        (&done, &toolbox.place)
    {
        // The next try begins as the workspace is then.
        place.discard().await;
    }
    done
}

async fn work(
    climb: &mut Climb<'_>,
    curated: &Arc<Curated>,
    policy: &Policy,
    limits: &Limits,
    toolbox: &Toolbox,
    started: Timestamp,
) -> Result<Output, Failure> {
    let (assignment, deps) = (climb.assignment, climb.deps);
    let specs: Vec<_> = toolbox.specs().map(Arc::clone).collect();
    let offer = Offer::of(&specs, &deps.prompts).map_err(|error| failed(&note_of(&error)))?;
    climb.problem = told_before(climb)?;
    let told = question(climb, curated, offer.tokens()).await?;
    let not_readable = || failed(&note("attempt.prompt", ErrorKind::Internal, "the recorded question is not readable"));
    let mut talk = Talk::new(offer, told).ok_or_else(not_readable)?;
    if assignment.run.approve.context {
        approve_context(climb, &talk.told).await?;
    }
    let mut history = History::default();
    let mut steps = 0;
    loop {
        let spent = assignment.obligation.note(|progress| progress.spent);
        let spent = Spent {
            steps,
            tokens: spent.usage.input_tokens.saturating_add(spent.usage.output_tokens),
            cost: spent.cost,
            time: deps.clock.now().since(started),
        };
        if let Some(limit) = limits.reached(&spent) {
            return Err(stopped(StopCode::Limit(limit), &limit_text(limits, &spent)));
        }
        steps += 1;
        let said = climb.next(Question::Step { talk: &talk }).await?;
        let protocol = protocol_of(&assignment.models.registry(), &said.model);
        match step(&said, protocol, &talk.offer, policy, assignment, &mut history, toolbox) {
            Step::Final(text) if text.trim().is_empty() => {
                let text = "the answer is empty";
                return Err(Failure::Models { error: note("model.empty", ErrorKind::Invalid, text), may_retry: true });
            }
            Step::Final(text) => {
                if let Some(rejected) = review(climb, Some(toolbox), &said, &text).await? {
                    climb.rejected(&rejected)?;
                    talk.push(Turn::rejected(protocol, said.text, rejected.told));
                    continue;
                }
                if let Some(place) = &toolbox.place {
                    place.merge().await?;
                }
                return Ok(Output {
                    text: Text::from(text.trim()),
                    plan: None,
                    model: said.model.alias.clone(),
                    wishes: talk.wishes(),
                });
            }
            Step::GiveUp { code, reason } => return Err(stopped(code, &reason)),
            Step::Tools(planned) | Step::HandOff(planned) | Step::NeedsApproval(planned) | Step::AskPerson(planned) => {
                let performer = Performer { assignment, deps, recorded: climb.recorded, toolbox };
                talk.push(performer.perform(&said, protocol, planned).await?);
            }
        }
    }
}

fn step(
    said: &Said,
    protocol: Protocol,
    offer: &Offer,
    policy: &Policy,
    assignment: &Assignment,
    history: &mut History,
    toolbox: &Toolbox,
) -> Step {
    let calls: Vec<Call> = said
        .tool_calls
        .iter()
        .map(|it| Call { id: Arc::clone(&it.id), name: offer.own_name(&it.name), arguments: Arc::clone(&it.arguments) })
        .collect();
    let rules = Rules { protocol, tools: &offer.tools, policy, asks_person: assignment.run.approve.tools };
    act::decide(act::Said { text: &said.text.body, calls: &calls }, &rules, history, |tool, arguments| {
        let problems = toolbox.problems(tool, arguments);
        if problems.is_empty() { toolbox.look(tool, arguments) } else { Look::Invalid(problems.join("\n- ")) }
    })
}

/// What earlier attempts left to this one: what the last one changed, when others had changed the same, and what was handed
/// over. Each takes a quarter of the smallest window at most.
fn told_before(climb: &Climb<'_>) -> Result<Option<String>, Failure> {
    let room = climb.rungs.iter().map(|model| model.input_tokens_max()).min().unwrap_or_default() / TOLD_SHARE;
    let fitting = |note: &ErrorNote| {
        let mut text = note.message.to_string();
        while estimate_tokens(&text) > room {
            text = text.chars().take(text.chars().count() / 2).collect();
        }
        text
    };
    let (recorded, prompts) = (climb.recorded, &climb.deps.prompts);
    let last = recorded.failed();
    let conflict = last.filter(|it| &*it.code == CONFLICT).map(|it| prompts.conflict(&fitting(it)));
    let is_kept = last.is_some_and(|it| &*it.code == HANDED_OVER);
    let handed = recorded.handed_over().map(|it| prompts.handed_over(&fitting(it), is_kept));
    let said: Result<Vec<String>, _> = handed.into_iter().chain(conflict).collect();
    let said = said.map_err(|error| failed(&note_of(&error)))?;
    Ok((!said.is_empty()).then(|| said.join("\n\n")))
}

/// The question: the one an unfinished attempt began with, else packed for the first model that takes it.
async fn question(climb: &Climb<'_>, curated: &Arc<Curated>, form: u32) -> Result<Told, Failure> {
    if let Some((row, prompt)) = climb.recorded.begun_with() {
        let (tokens, budget, items, tokenizer) = (row.tokens, row.budget, row.items.clone(), row.tokenizer.clone());
        return Ok(Told { tokens, budget, items, bundle: row.bundle, prompt: Some(prompt.clone()), tokenizer });
    }
    let registry = climb.assignment.models.registry();
    let mut last = None;
    for model in climb.rungs.iter().map(Arc::clone).collect::<Vec<_>>() {
        let tokens = Tokens::of(&registry, &model).await;
        match pack(climb, curated, &model, form, &tokens).await? {
            Ok((messages, told)) => return Ok(Told { prompt: Some(keep(&messages)), ..told }),
            Err(miss) => last = Some(miss.note),
        }
    }
    let none = || note("route.no_model", ErrorKind::Unavailable, "no model of the chain may be asked");
    Err(failed(&last.unwrap_or_else(none)))
}

/// Goes on when a person agreed to exactly this question.
async fn approve_context(climb: &Climb<'_>, told: &Told) -> Result<(), Failure> {
    let (assignment, deps) = (climb.assignment, climb.deps);
    let Some(prompt) = &told.prompt else { return Ok(()) };
    let task = &assignment.task;
    let id = ApprovalId::of(assignment.run.run, &format!("context:{}:{}", task.id, prompt.hash));
    if let Some(row) = climb.recorded.approval(id).filter(|row| row.digest == prompt.hash) {
        match row.state {
            ApprovalState::Approved => return Ok(()),
            ApprovalState::Rejected => {
                let why = row.message.as_deref().unwrap_or("no reason given");
                let text = format!("the context was rejected: {why}");
                return Err(failed(&note("approval.rejected", ErrorKind::Conflict, &text)));
            }
            ApprovalState::Pending => {}
        }
    }
    let subject = format!("context of `{}` ({}): {} tokens", task.key, task.title, told.tokens);
    let Some(model) = climb.rungs.front() else { return Ok(()) };
    call::begin(assignment, deps, model, told).await?;
    let mut change = assignment.run.change(assignment.attempt, deps.clock.now());
    let approval = NewApproval {
        id,
        task: Some(task.id),
        kind: ApprovalKind::Context,
        subject: subject.clone(),
        detail: prompt.hash,
        digest: prompt.hash,
    };
    change.texts.push(prompt.clone());
    if climb.recorded.approval(id).is_none() {
        change.events.push(asked_event(assignment, change.at, &approval));
    }
    change.approvals.push(approval);
    journal::record(&deps.rooms.journal, change).await.map_err(Failure::of)?;
    Err(Failure::Awaiting { what: subject })
}

/// What watchers are told of a question to a person.
pub fn asked_event(assignment: &Assignment, at: Timestamp, approval: &NewApproval) -> NewEvent {
    let body = EventBody::AwaitingApproval {
        what: approval.subject.as_str().into(),
        approval: Some(approval.id),
        kind: Some(approval.kind),
    };
    NewEvent::of_task(at, assignment.task.id, Some(assignment.attempt.number), body)
}

fn note(code: &str, kind: ErrorKind, message: &str) -> ErrorNote {
    ErrorNote { code: code.into(), kind, message: message.into() }
}

fn failed(note: &ErrorNote) -> Failure {
    Failure::Models { error: note.clone(), may_retry: false }
}

/// A specialist that stops may do better in another attempt, but not with a limit that is as tight.
fn stopped(code: StopCode, reason: &str) -> Failure {
    let (kind, may_retry) = match code {
        StopCode::GaveUp | StopCode::Repeated => (ErrorKind::Conflict, true),
        StopCode::Limit(_) => (ErrorKind::Limit, false),
    };
    Failure::Models { error: note(code.code(), kind, reason), may_retry }
}

fn limit_text(limits: &Limits, spent: &Spent) -> String {
    format!(
        "the attempt was stopped at its limit: {} of {} steps, {} tokens, {} USD, {} s",
        spent.steps,
        limits.steps_max,
        spent.tokens,
        spent.cost.as_usd(),
        spent.time.as_secs()
    )
}
