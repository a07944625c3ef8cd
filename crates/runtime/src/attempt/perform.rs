//! What comes of the calls of one answer: asked about, made, or told why not.
//!
//! **Invariant:** a call is made only after its intent is committed, and at most once without a person's word when it is not
//! safe to be repeated.
//! **Invariant:** nothing of an answer is made before a person has decided on all of it that waits for one.
//! **Invariant:** a person's yes covers the one call it was given for, with these arguments, and no other.

use std::{sync::Arc, time::Duration};

use crewline_engine::act::{ASK_PERSON, Fate, HAND_OFF, Planned, Protocol};
use crewline_models::ToolCall;
use crewline_store::{ApprovalRow, NewApproval, NewToolCall, ToolCallEnd};
use crewline_tools::Approval;
use crewline_types::{ApprovalId, ApprovalKind, ApprovalState, Effect, Text, ToolCallId, ToolOutcome};
use futures::future::join_all;
use serde_json::json;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::{Deps, act::asked_event, call::end_calls, climb::Said, talk::Turn};
use crate::{
    assignment::{Assignment, Failure},
    create_task, metrics,
    progress::{EndedTool, Progress},
    recorded::Recorded,
    tools::{self, Toolbox},
};

/// Characters of a subject that people are shown.
const SUBJECT_CHARS_MAX: usize = 200;

/// What calls are made with.
pub(super) struct Performer<'a> {
    pub(super) assignment: &'a Assignment,
    pub(super) deps: &'a Deps,
    pub(super) recorded: &'a Recorded,
    pub(super) toolbox: &'a Toolbox,
}

/// What is to be done about one call.
enum Due {
    /// Nothing: it is known what the model is told of it.
    Known(Text),
    /// The same, and that has to be recorded.
    Told(ToolOutcome, Text),
    /// It is made.
    Make,
    /// A person decides.
    Ask(NewApproval, Text),
}

/// A line that tells people of a call.
fn subject(words: &str, planned: &Planned) -> String {
    let text = format!("{words}`{}` {}", planned.call.name, planned.arguments);
    text.chars().take(SUBJECT_CHARS_MAX).collect()
}

impl Performer<'_> {
    /// Does what is due, and gives back what the model is told.
    pub(super) async fn perform(
        &self,
        said: &Said,
        protocol: Protocol,
        planned: Vec<Planned>,
    ) -> Result<Turn, Failure> {
        let Some(call) = said.call else { return Err(Failure::Lost) };
        let id_of = |place: usize| ToolCallId { call, place: u32::try_from(place).unwrap_or(u32::MAX) };
        let mut due: Vec<Due> = planned.iter().enumerate().map(|(place, it)| self.due(id_of(place), it)).collect();
        let waits = due.iter().any(|it| matches!(it, Due::Ask(..)));
        if !said.is_recorded {
            let rows = planned.iter().zip(&due).enumerate();
            let rows = rows.map(|(place, (it, due))| {
                let is_begun = !waits && matches!(due, Due::Make);
                self.row(id_of(place), it, is_begun)
            });
            self.attach(call, rows.collect());
        }
        if waits {
            return Err(self.ask(due).await?);
        }
        for (place, it) in due.iter_mut().enumerate() {
            if let Due::Told(outcome, text) = it {
                let (outcome, text) = (*outcome, text.clone());
                let end = ToolCallEnd { id: id_of(place), outcome, output: text.hash, elapsed: Duration::ZERO };
                self.ended(end, &planned[place], text.clone());
                metrics::tool_not_made(outcome);
                *it = Due::Known(text);
            }
        }
        let to_make: Vec<usize> =
            due.iter().enumerate().filter(|(_, it)| matches!(it, Due::Make)).map(|(place, _)| place).collect();
        if !to_make.is_empty() {
            self.begin(said, &to_make, &id_of).await?;
        }
        self.make_all(&mut due, &planned, &to_make, &id_of).await;
        let handed =
            planned.iter().enumerate().find(|(place, it)| &*it.call.name == HAND_OFF && self.is_made(id_of(*place)));
        if let Some((_, it)) = handed {
            let (to, summary) = tools::handed_over(&it.arguments);
            return Err(Failure::HandedOver { to, summary });
        }
        let asked = planned.iter().enumerate().filter(|(_, it)| &*it.call.name == create_task::NAME);
        let wishes = asked.filter(|(place, _)| self.is_made(id_of(*place)));
        let wishes = wishes.map(|(_, it)| create_task::read(&it.arguments)).collect();
        let results = planned.into_iter().zip(due).map(|(it, due)| {
            let text = match due {
                Due::Known(text) | Due::Told(_, text) => text,
                Due::Make | Due::Ask(..) => Text::from(""),
            };
            let call = ToolCall { id: it.call.id, name: it.call.name, arguments: it.call.arguments };
            (call, text)
        });
        Ok(Turn { protocol, text: said.text.clone(), results: results.collect(), note: None, wishes })
    }

    /// What is to be done about a call.
    fn due(&self, id: ToolCallId, planned: &Planned) -> Due {
        let recorded = self.recorded.tool(id);
        // What happened happened, whatever the rules say now.
        if let Some(output) = recorded.filter(|it| it.row.outcome.is_some()).and_then(|it| it.output.as_ref()) {
            return Due::Known(Text { hash: crewline_types::TextHash::of(output), body: Arc::clone(output) });
        }
        let name = &planned.call.name;
        match &planned.fate {
            Fate::Refuse { reason } => Due::Told(
                ToolOutcome::Refused,
                Text::from(format!("`{name}` was not called, it is not allowed: {reason}")),
            ),
            Fate::Unknown => {
                let known: Vec<&str> = self.toolbox.specs().map(|it| &*it.name).collect();
                let text = format!("there is no tool `{name}`; there are: {}", known.join(", "));
                Due::Told(ToolOutcome::Invalid, Text::from(text))
            }
            Fate::Invalid { problem, is_repair } => {
                let mut text = format!("`{name}` was not called, its arguments are not valid:\n- {problem}");
                if let Some(spec) = self.toolbox.spec(name).filter(|_| *is_repair) {
                    text = format!("{text}\nCall it again with arguments that follow this schema: {}", spec.parameters);
                }
                Due::Told(ToolOutcome::Invalid, Text::from(text))
            }
            Fate::TooMany => Due::Told(
                ToolOutcome::Refused,
                Text::from(format!("`{name}` was not called: the answer asked for too many calls at once")),
            ),
            Fate::Ask if &**name == ASK_PERSON => self.question(id, planned),
            Fate::Ask => {
                let subject = subject("", planned);
                match self.decision(&id.to_string(), planned) {
                    Some((ApprovalState::Approved, _)) => self.repeat_or(id, planned),
                    Some((ApprovalState::Rejected, row)) => {
                        let why = row.message.as_deref().unwrap_or("no reason given");
                        let text = format!("a person refused this call of `{name}`: {why}");
                        Due::Told(ToolOutcome::Refused, Text::from(text))
                    }
                    Some((ApprovalState::Pending, _)) | None => {
                        self.asking(&id.to_string(), ApprovalKind::Tool, subject, planned)
                    }
                }
            }
            Fate::Run => self.repeat_or(id, planned),
        }
    }

    /// A call that may have been made already is made again only when that does no harm, or a person says so.
    fn repeat_or(&self, id: ToolCallId, planned: &Planned) -> Due {
        let begun_by = self.recorded.tool(id).and_then(|it| it.row.begun_by);
        let effect = self.effect(planned);
        let (Some(begun_by), Effect::Unsafe) = (begun_by, effect) else { return Due::Make };
        let about = format!("again:{id}:{begun_by}");
        let name = &planned.call.name;
        match self.decision(&about, planned) {
            Some((ApprovalState::Approved, _)) => Due::Make,
            Some((ApprovalState::Rejected, row)) => {
                let why = row.message.as_deref().map(|it| format!(": {it}")).unwrap_or_default();
                let text = format!(
                    "nobody knows whether this call of `{name}` was made before a crash; a person decided not to make it again{why}"
                );
                Due::Told(ToolOutcome::Unknown, Text::from(text))
            }
            Some((ApprovalState::Pending, _)) | None => {
                let subject = subject("may have been made before a crash; make it again? ", planned);
                self.asking(&about, ApprovalKind::Again, subject, planned)
            }
        }
    }

    fn question(&self, id: ToolCallId, planned: &Planned) -> Due {
        match self.decision(&id.to_string(), planned) {
            Some((ApprovalState::Approved, row)) => {
                let answer = row.message.as_deref().unwrap_or("yes");
                Due::Told(ToolOutcome::Ok, Text::from(format!("the person answers: {answer}")))
            }
            Some((ApprovalState::Rejected, row)) => {
                let why = row.message.as_deref().unwrap_or("no reason given");
                Due::Told(ToolOutcome::Refused, Text::from(format!("the person does not answer: {why}")))
            }
            Some((ApprovalState::Pending, _)) | None => {
                let question = planned.arguments.get("question").and_then(serde_json::Value::as_str);
                let subject = question.unwrap_or_default().chars().take(SUBJECT_CHARS_MAX).collect();
                self.asking(&id.to_string(), ApprovalKind::Question, subject, planned)
            }
        }
    }

    /// What a person said about exactly this call.
    fn decision(&self, about: &str, planned: &Planned) -> Option<(ApprovalState, &ApprovalRow)> {
        let row = self.recorded.approval(self.question_id(about, planned))?;
        (row.digest == planned.digest).then_some((row.state, row))
    }

    /// Names a question about a call. One that was asked about another call has this name for good: then there is a new one, or
    /// its answer would be taken for an answer to this one and found not to be, again and again.
    fn question_id(&self, about: &str, planned: &Planned) -> ApprovalId {
        let run = self.assignment.run.run;
        let id = ApprovalId::of(run, about);
        match self.recorded.approval(id) {
            Some(row) if row.digest != planned.digest => ApprovalId::of(run, &format!("{about}:{}", planned.digest)),
            Some(_) | None => id,
        }
    }

    fn asking(&self, about: &str, kind: ApprovalKind, subject: String, planned: &Planned) -> Due {
        let detail = json!({
            "tool": &*planned.call.name,
            "arguments": planned.arguments,
            "task": self.assignment.task.id,
            "role": self.assignment.task.role,
        });
        let detail = Text::from(detail.to_string());
        let approval = NewApproval {
            id: self.question_id(about, planned),
            task: Some(self.assignment.task.id),
            kind,
            subject,
            detail: detail.hash,
            digest: planned.digest,
        };
        Due::Ask(approval, detail)
    }

    /// Whether a call succeeded, now or in an earlier attempt.
    fn is_made(&self, id: ToolCallId) -> bool {
        let is_ok = |end: &ToolCallEnd| end.id == id && end.outcome == ToolOutcome::Ok;
        self.recorded.tool(id).is_some_and(|it| it.row.outcome == Some(ToolOutcome::Ok))
            || self.assignment.obligation.note(|progress| progress.ended.tools.iter().any(|it| is_ok(&it.end)))
    }

    fn effect(&self, planned: &Planned) -> Effect {
        self.toolbox.spec(&planned.call.name).map_or(Effect::Read, |spec| tools::effect_of(spec))
    }

    fn row(&self, id: ToolCallId, planned: &Planned, is_begun: bool) -> (NewToolCall, Text) {
        let arguments = Text::from(&*planned.call.arguments);
        let row = NewToolCall {
            id,
            asked_as: planned.call.id.to_string(),
            tool: planned.call.name.to_string(),
            arguments: arguments.hash,
            digest: planned.digest,
            effect: self.effect(planned),
            is_begun,
        };
        (row, arguments)
    }

    /// Puts the calls that an answer asks for beside its end, so that both are recorded together.
    fn attach(&self, call: crewline_types::CallId, rows: Vec<(NewToolCall, Text)>) {
        self.assignment.obligation.note(|progress| {
            if let Some(ended) = progress.ended.calls.iter_mut().find(|it| it.end.id == call) {
                ended.asked = rows;
            }
        });
    }

    fn ended(&self, end: ToolCallEnd, planned: &Planned, output: Text) {
        let tool = Arc::clone(&planned.call.name);
        self.assignment.obligation.note(|progress| progress.ended.tools.push(EndedTool { end, tool, output }));
    }

    /// Records what is known so far and what a person is asked; the answer is how the attempt ends.
    async fn ask(&self, due: Vec<Due>) -> Result<Failure, Failure> {
        let Self { assignment, deps, .. } = self;
        let mut change = assignment.run.change(assignment.attempt, deps.clock.now());
        let mut what = Vec::new();
        for it in due {
            let Due::Ask(approval, detail) = it else { continue };
            what.push(approval.subject.clone());
            if self.recorded.approval(approval.id).is_none() {
                change.events.push(asked_event(assignment, change.at, &approval));
            }
            change.texts.push(detail);
            change.approvals.push(approval);
        }
        self.commit(change).await?;
        Ok(Failure::Awaiting { what: what.join("; ") })
    }

    /// Records that these calls are about to be made.
    async fn begin(&self, said: &Said, places: &[usize], id_of: &impl Fn(usize) -> ToolCallId) -> Result<(), Failure> {
        let Self { assignment, deps, .. } = self;
        let mut change = assignment.run.change(assignment.attempt, deps.clock.now());
        if said.is_recorded {
            let by = assignment.attempt.number;
            change.tool_calls_begun = places.iter().map(|place| (id_of(*place), by)).collect();
        }
        self.commit(change).await
    }

    /// Records `change` with everything that ended before it.
    async fn commit(&self, mut change: crewline_store::Change) -> Result<(), Failure> {
        let Self { assignment, deps, .. } = self;
        let ended = assignment.obligation.note(Progress::take_ended);
        end_calls(&mut change, assignment.attempt, &assignment.task.role, ended.clone());
        if let Err(refusal) = assignment.run.record(&deps.rooms.journal, change).await {
            assignment.obligation.note(|progress| progress.not_recorded(&refusal, ended));
            return Err(Failure::of(refusal));
        }
        Ok(())
    }

    /// Makes the calls in their order; neighbours that may run beside each other do.
    async fn make_all(
        &self,
        due: &mut [Due],
        planned: &[Planned],
        places: &[usize],
        id_of: &impl Fn(usize) -> ToolCallId,
    ) {
        let is_parallel =
            |place: usize| self.toolbox.spec(&planned[place].call.name).is_some_and(|spec| spec.is_parallel);
        let mut rest = places;
        while let Some(first) = rest.first() {
            let count = if is_parallel(*first) { rest.iter().take_while(|it| is_parallel(**it)).count() } else { 1 };
            let (now, later) = rest.split_at(count);
            let made = now.iter().map(|place| self.make(id_of(*place), &planned[*place]));
            for (place, text) in now.iter().zip(join_all(made).await) {
                due[*place] = Due::Known(text);
            }
            rest = later;
        }
    }

    async fn make(&self, id: ToolCallId, planned: &Planned) -> Text {
        let started = Instant::now();
        let name = &*planned.call.name;
        let title = format!("execute_tool {name}");
        let span = tracing::info_span!(
            "execute_tool",
            otel.name = &*title,
            gen_ai.operation.name = "execute_tool",
            gen_ai.tool.name = name,
            outcome = tracing::field::Empty,
            error.type = tracing::field::Empty,
        );
        // One that a rule or the tool itself asks about comes this far with a person's yes only.
        let approval = if planned.fate == Fate::Ask { Approval::Given } else { Approval::Missing };
        let key = id.to_string();
        let call = crewline_tools::ToolCall { key: &key, name, arguments: &planned.arguments, approval };
        let observation = self.toolbox.call(call).instrument(span.clone()).await;
        let outcome = observation.outcome;
        span.record("outcome", outcome.as_str());
        if outcome != ToolOutcome::Ok {
            span.record("error.type", outcome.as_str());
        }
        let text = Text::from(observation.text.replace('\0', "\u{fffd}"));
        let elapsed = started.elapsed();
        self.ended(ToolCallEnd { id, outcome, output: text.hash, elapsed }, planned, text.clone());
        text
    }
}
