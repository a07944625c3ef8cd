//! How the domain's values become the arguments of `statements`, in the order of their columns.
//!
//! **Invariant:** the order here is the order there; the conformance suite reads every column back.

use crewline_types::{
    MemoryRecord, RunId, Task, TaskId, TaskStatus, Text, TextHash, Timestamp, ToolCallId, Usage,
    event::{ErrorNote, NewEvent},
};

use crate::{
    change::{
        AttemptEnd, CallAnswer, CallEnd, Change, NewApproval, NewAttempt, NewCall, NewContext, NewOffer, NewToolCall,
        ToolCallEnd, Transition,
    },
    sql::{Args, clamp},
};

/// An event that has its number.
pub(super) struct EventOf<'a> {
    pub(super) run: RunId,
    pub(super) seq: i64,
    pub(super) event: &'a NewEvent,
}

pub(super) fn add_event(args: &mut Args, EventOf { run, seq, event }: &EventOf<'_>) {
    args.word(run.as_str());
    args.int(*seq);
    args.int(event.at.0);
    args.text_or_null(event.task.as_ref().map(TaskId::as_str));
    args.int_or_null(event.attempt.map(i64::from));
    args.word(event.body.kind());
    args.owned(payload(event));
}

/// The text of the same change that a memory repeats.
pub(super) fn same_text(change: &Change, record: &MemoryRecord) -> Option<TextHash> {
    change.texts.iter().find(|text| text.body == record.text).map(|text| text.hash)
}

/// The event's JSON without its type, which has a column of its own.
fn payload(event: &NewEvent) -> String {
    // Serialising our own enum into memory can not fail.
    let mut json = serde_json::to_string(&event.body).unwrap_or_default();
    let tag = r#"{"type":""#.len() + event.body.kind().len() + 1;
    let end = if json.as_bytes().get(tag) == Some(&b',') { tag + 1 } else { tag };
    json.replace_range(1..end, "");
    json
}

pub(super) fn add_usage(args: &mut Args, usage: &Usage) {
    args.count(usage.input_tokens);
    args.count(usage.output_tokens);
    args.count(usage.cached_tokens);
    args.count(usage.reasoning_tokens);
    args.bool(usage.estimated);
}

pub(super) fn add_task(args: &mut Args, task: &Task) {
    args.text(task.id.as_str());
    args.word(task.run.as_str());
    args.text_or_null(task.parent.as_ref().map(TaskId::as_str));
    args.shared(&task.key);
    args.int(task.position.into());
    args.word(task.kind.as_str());
    args.shared(&task.title);
    args.shared(&task.description);
    args.word(task.role.as_str());
    args.int(task.priority.get().into());
    args.word(task.status.as_str());
    args.owned(serde_json::to_string(&task.success_criteria).unwrap_or_default());
    args.int(task.attempts.into());
    args.bytes_or_null(task.result.as_ref().map(|hash| hash.0.as_slice()));
    args.text_or_null(task.reason.as_deref());
    args.text_or_null(task.model.as_deref());
    add_usage(args, &task.usage);
    args.count(task.cost.0);
    args.int(task.created_at.0);
    args.int_or_null(task.started_at.map(|at| at.0));
    args.int_or_null(task.finished_at.map(|at| at.0));
    args.int_or_null(task.duration.map(|it| i64::try_from(it.as_millis()).unwrap_or(i64::MAX)));
    args.text_or_null(task.created_by.as_ref().map(TaskId::as_str));
}

/// A transition and where it comes from.
pub(super) struct Move<'a> {
    pub(super) index: usize,
    pub(super) change: &'a Change,
    pub(super) transition: &'a Transition,
    pub(super) number: i64,
}

pub(super) fn add_move(args: &mut Args, it: &Move<'_>) {
    let Transition { task: _, from, to, attempts_from, attempts_to, result, reason, model, usage, cost } =
        it.transition;
    let at = it.change.at.0;
    args.int(it.number);
    args.word(it.change.run.as_str());
    args.word(from.as_str());
    args.word(to.as_str());
    args.int((*attempts_from).into());
    args.int((*attempts_to).into());
    args.bytes_or_null(result.as_ref().map(|hash| hash.0.as_slice()));
    args.text_or_null(reason.as_deref());
    match model {
        Some(model) => args.word(model),
        None => args.no_text(),
    }
    args.int_or_null((*to == TaskStatus::InProgress).then_some(at));
    args.int_or_null(to.is_final().then_some(at));
    add_usage(args, usage);
    args.count(cost.0);
}

pub(super) fn add_attempt(args: &mut Args, (number, attempt, at): &(i64, &NewAttempt, Timestamp)) {
    args.int(*number);
    args.int(attempt.id.number.into());
    args.word(attempt.role.as_str());
    args.word(&attempt.model);
    args.int(at.0);
    args.bytes_or_null(attempt.input_hash.as_ref().map(|hash| hash.0.as_slice()));
}

pub(super) fn add_offer(args: &mut Args, (number, offer, run, at): &(i64, &NewOffer, RunId, Timestamp)) {
    args.int(*number);
    args.int(offer.id.number.into());
    args.text(offer.id.task.as_str());
    args.word(run.as_str());
    args.word(offer.role.as_str());
    args.int(offer.rank);
    args.int(at.0);
    args.text(&offer.told);
}

pub(super) fn add_attempt_end(args: &mut Args, (number, end, at): &(i64, &AttemptEnd, Timestamp)) {
    args.int(*number);
    args.int(end.id.number.into());
    args.word(if end.ok { "succeeded" } else { "failed" });
    args.word(&end.model);
    add_usage(args, &end.usage);
    args.count(end.cost.0);
    add_note(args, end.error.as_ref());
    args.int(at.0);
}

pub(super) fn add_call(args: &mut Args, (number, call, at): &(i64, &NewCall, Timestamp)) {
    args.int(*number);
    args.int(call.id.attempt.number.into());
    args.int(call.id.number.into());
    args.word(call.purpose);
    args.word(&call.model);
    args.word(&call.provider);
    args.bytes(&call.input_hash.0);
    args.int(at.0);
    args.int_or_null(call.reserved.map(|cost| clamp(cost.0)));
}

pub(super) fn add_call_answer(args: &mut Args, (number, answer): &(i64, &CallAnswer)) {
    args.int(*number);
    args.int(answer.id.attempt.number.into());
    args.int(answer.id.number.into());
    add_usage(args, &answer.usage);
    args.int_or_null(answer.cost.map(|cost| clamp(cost.0)));
    args.bytes(&answer.reply.0);
}

pub(super) fn add_call_end(args: &mut Args, (number, end): &(i64, &CallEnd)) {
    args.int(*number);
    args.int(end.id.attempt.number.into());
    args.int(end.id.number.into());
    args.word(end.outcome.as_str());
    add_usage(args, &end.usage);
    args.int_or_null(end.cost.map(|cost| clamp(cost.0)));
    args.int(i64::try_from(end.elapsed.as_micros()).unwrap_or(i64::MAX));
    args.bytes_or_null(end.reply.as_ref().map(|hash| hash.0.as_slice()));
    add_note(args, end.error.as_ref());
}

pub(super) fn add_note(args: &mut Args, note: Option<&ErrorNote>) {
    match note {
        Some(note) => args.owned(serde_json::to_string(note).unwrap_or_default()),
        None => args.no_text(),
    }
}

pub(super) fn add_text(args: &mut Args, (text, at): &(&Text, Timestamp)) {
    args.bytes(&text.hash.0);
    args.shared(&text.body);
    // The statement subtracts from it.
    args.int(at.0.max(0));
}

pub(super) fn add_context(args: &mut Args, (number, context, at): &(i64, &NewContext, Timestamp)) {
    args.int(*number);
    args.int(context.id.number.into());
    args.int(context.tokens.into());
    args.int(context.budget.into());
    args.text(&context.items);
    args.int(at.0);
    args.bytes_or_null(context.bundle.as_ref().map(|hash| hash.0.as_slice()));
    args.bytes_or_null(context.prompt.as_ref().map(|hash| hash.0.as_slice()));
    args.text_or_null(context.tokenizer.as_deref());
}

pub(super) fn add_tool_call(args: &mut Args, (number, call, at): &(i64, &NewToolCall, Timestamp)) {
    args.int(*number);
    args.int(call.id.call.attempt.number.into());
    args.int(call.id.call.number.into());
    args.int(call.id.place.into());
    args.text(&call.asked_as);
    args.word(&call.tool);
    args.bytes(&call.arguments.0);
    args.bytes(&call.digest.0);
    args.word(call.effect.as_str());
    args.int(at.0);
    args.int_or_null(call.is_begun.then(|| call.id.call.attempt.number.into()));
}

pub(super) fn add_tool_call_begun(args: &mut Args, (number, id, by): &(i64, ToolCallId, u32)) {
    args.int(*number);
    args.int(id.call.attempt.number.into());
    args.int(id.call.number.into());
    args.int(id.place.into());
    args.int((*by).into());
}

pub(super) fn add_tool_call_end(args: &mut Args, (number, end): &(i64, &ToolCallEnd)) {
    args.int(*number);
    args.int(end.id.call.attempt.number.into());
    args.int(end.id.call.number.into());
    args.int(end.id.place.into());
    args.word(end.outcome.as_str());
    args.bytes(&end.output.0);
    args.int(i64::try_from(end.elapsed.as_micros()).unwrap_or(i64::MAX));
}

pub(super) fn add_approval(args: &mut Args, (run, approval, at): &(RunId, &NewApproval, Timestamp)) {
    args.text(approval.id.as_str());
    args.word(run.as_str());
    args.text_or_null(approval.task.as_ref().map(TaskId::as_str));
    args.word(approval.kind.as_str());
    args.text(&approval.subject);
    args.bytes(&approval.detail.0);
    args.bytes(&approval.digest.0);
    args.int(at.0);
}

pub(super) fn add_memory(args: &mut Args, (record, same): &(&MemoryRecord, Option<TextHash>)) {
    args.bytes(&record.id.0.to_be_bytes());
    args.shared(&record.project);
    match &record.run {
        Some(run) => args.word(run.as_str()),
        None => args.no_text(),
    }
    args.text_or_null(record.task.as_ref().map(TaskId::as_str));
    args.word(record.kind.as_str());
    args.shared(&record.agent);
    args.int(record.created_at.0);
    if let Some(hash) = same {
        args.no_text();
        args.bytes(&hash.0);
    } else {
        args.shared(&record.text);
        args.bytes_or_null(None);
    }
    if record.source_ids.is_empty() {
        args.bytes_or_null(None);
    } else {
        let ids: Vec<u8> = record.source_ids.iter().flat_map(|id| id.0.to_be_bytes()).collect();
        args.bytes(&ids);
    }
}
