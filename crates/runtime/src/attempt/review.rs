//! The checks of an answer: those of its text, commands in the attempt's view of the workspace, and judges.
//!
//! **Invariant:** a command is run only where the role's `commands` allow it without asking, and confined as its policy says.
//! **Invariant:** an answer that is not accepted merges nothing; what was found is recorded with its call.
//! **Invariant:** an answer that a command or a judge is about to look at is recorded before that.

use crewline_store::{CallAnswer, CallEnd};
use crewline_tools::{Approval, Observation, Outcome, Review, ToolCall};
use crewline_types::{
    Check, ErrorKind, Text,
    event::{CallOutcome, CheckResult, ErrorNote},
};
use serde_json::json;

use super::{
    climb::{Climb, Said},
    judge::judge,
    note_of,
};
use crate::{
    assignment::{Assignment, Failure},
    progress::EndedCall,
    tools::Toolbox,
    verify,
    workshop::Place,
};

/// Characters of an output that its evidence keeps.
const EVIDENCE_CHARS_MAX: usize = 600;
/// Characters of an output that the model is told.
const TOLD_CHARS_MAX: usize = 6_000;

/// An answer that is not accepted.
pub(super) struct Rejected {
    pub(super) note: ErrorNote,
    /// What the model is told.
    pub(super) told: Text,
    /// Whether a command failed: its output may be all that the same model needs.
    pub(super) by_command: bool,
}

/// Fails where a check of the task can not be made, before anything is asked.
pub(super) fn refuse_unusable(assignment: &Assignment) -> Result<(), Failure> {
    let registry = assignment.models.registry();
    let workspace = match &assignment.run.workspace {
        Some(_) => verify::Workspace::There,
        None => verify::Workspace::Missing,
    };
    let task = &assignment.task;
    let checks = task.success_criteria.iter().filter_map(|it| it.check.as_ref());
    for check in checks {
        if let Some(message) = verify::out_of_place(check, &task.role, &registry, workspace) {
            return Err(unavailable(&message));
        }
    }
    Ok(())
}

/// Whether a criterion of the task needs more than the answer.
pub(super) fn must_review(assignment: &Assignment) -> bool {
    let mut checks = assignment.task.success_criteria.iter().filter_map(|it| it.check.as_ref());
    checks.any(|check| !check.reads_answer_only())
}

/// Checks an answer; `None` when it is accepted. Only a role with tools has a toolbox.
pub(super) async fn review(
    climb: &mut Climb<'_>,
    toolbox: Option<&Toolbox>,
    said: &Said,
    text: &str,
) -> Result<Option<Rejected>, Failure> {
    let assignment = climb.assignment;
    let mut checks = verify::verdicts(&assignment.task.success_criteria, text);
    let mut told = verify::found(&checks);
    let mut by_command = false;
    // What costs nothing comes first: a command may take minutes, and a judge is paid.
    if checks.iter().all(|it| it.passed) {
        keep(climb, said).await?;
        let criteria = assignment.task.success_criteria.iter();
        for (place, criterion) in criteria.enumerate() {
            let Some(check @ Check::Command { .. }) = &criterion.check else { continue };
            let observation = run(climb, toolbox, said, place, check).await?;
            let passed = observation.outcome == Outcome::Ok;
            if !passed {
                by_command = true;
                told.push(format!("{}\n{}", criterion.criterion, tail(&observation.text, TOLD_CHARS_MAX)));
            }
            checks.push(CheckResult {
                criterion: criterion.criterion.as_str().into(),
                verifier: check.kind().into(),
                passed,
                evidence: tail(&observation.text, EVIDENCE_CHARS_MAX).into(),
            });
        }
    }
    if checks.iter().all(|it| it.passed) {
        for criterion in &assignment.task.success_criteria {
            let Some(check) = &criterion.check else { continue };
            checks.extend(judge(climb, &said.model, criterion, check, text).await?);
        }
        told.extend(verify::found(&checks));
    }
    let note = verify::rejection(&checks).map(|message| ErrorNote {
        code: verify::REJECTED.into(),
        kind: ErrorKind::Invalid,
        message: message.as_str().into(),
    });
    attach(climb, said, checks, note.as_ref());
    let Some(note) = note else { return Ok(None) };
    let words = climb.deps.prompts.rejected(&told.join("\n\n"));
    let words = words.map_err(|error| Failure::Models { error: note_of(&error), may_retry: false })?;
    Ok(Some(Rejected { note, told: Text::from(words), by_command }))
}

/// Records the answer before it is judged: whoever takes over after a crash has it, and does not buy it again.
async fn keep(climb: &Climb<'_>, said: &Said) -> Result<(), Failure> {
    let Climb { assignment, deps, .. } = climb;
    if said.is_recorded || !must_review(assignment) {
        return Ok(());
    }
    let mut change = assignment.run.change(assignment.attempt, deps.clock.now());
    assignment.obligation.note(|progress| {
        let ended = progress.ended.calls.iter().find(|it| Some(it.end.id) == said.call);
        let Some(EndedCall { end, .. }) = ended else { return };
        let CallEnd { id, usage, cost, .. } = *end;
        change.calls_answered.push(CallAnswer { id, usage, cost, reply: said.text.hash });
        change.texts.push(said.text.clone());
    });
    if change.calls_answered.is_empty() {
        return Ok(());
    }
    assignment.run.record(&deps.rooms.journal, change).await.map_err(Failure::of)
}

/// Keeps the verdicts with the call that gave the answer. One that an earlier attempt recorded has its verdicts already.
fn attach(climb: &Climb<'_>, said: &Said, checks: Vec<CheckResult>, note: Option<&ErrorNote>) {
    let Climb { assignment, deps, .. } = climb;
    if note.is_some() && !said.is_recorded {
        deps.experience.took_back(&assignment.task.role, assignment.task.kind, &said.model.alias);
    }
    assignment.obligation.note(|progress| {
        let ended = progress.ended.calls.iter_mut().find(|it| Some(it.end.id) == said.call);
        if let Some(ended) = ended.filter(|_| !said.is_recorded) {
            ended.checks = checks;
            if let Some(note) = note {
                ended.end.outcome = CallOutcome::Invalid;
                ended.end.error = Some(note.clone());
            }
        }
    });
}

async fn run(
    climb: &Climb<'_>,
    toolbox: Option<&Toolbox>,
    said: &Said,
    place: usize,
    check: &Check,
) -> Result<Observation, Failure> {
    let Some((program, args)) = check.command() else { return Err(unavailable("it is no command")) };
    let arguments = json!({"program": program, "args": args});
    let commands = toolbox.and_then(|it| it.place.as_ref()).and_then(|it: &Place| it.checks.as_ref());
    let Some(commands) = commands.filter(|it| it.spec(COMMAND).is_some()) else {
        return Err(unavailable("this program can not run commands here"));
    };
    match commands.review(COMMAND, &arguments) {
        Review::Ready => {}
        Review::Ask(why) => {
            let hint = "a check asks nobody; set `commands.unconfined: run` for the role, or leave the check out";
            return Err(unavailable(&format!("a person would have to agree to it ({why}): {hint}")));
        }
        Review::Refuse(why) => return Err(unavailable(&why)),
    }
    let attempt = climb.assignment.attempt;
    let call = said.call.map_or(climb.number, |it| it.number);
    let key = format!("{}-{}/check-{call}/{place}", attempt.task, attempt.number);
    let call = ToolCall { key: &key, name: COMMAND, arguments: &arguments, approval: Approval::Missing };
    let mut observation = commands.call(call).await;
    observation.text = observation.text.replace('\0', "\u{fffd}");
    Ok(observation)
}

/// The tool that runs commands.
pub const COMMAND: &str = "run_command";

fn unavailable(message: &str) -> Failure {
    let message = format!("a check of the task can not be made: {message}");
    let error = ErrorNote { code: "check.unavailable".into(), kind: ErrorKind::Invalid, message: message.into() };
    Failure::Models { error, may_retry: false }
}

/// The end of an output: what failed stands there.
fn tail(text: &str, chars_max: usize) -> String {
    let count = text.chars().count();
    if count <= chars_max {
        return text.to_owned();
    }
    let end: String = text.chars().skip(count - chars_max).collect();
    format!("…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_output_is_kept() {
        assert_eq!(tail("äöü", 3), "äöü");
        assert_eq!(tail("1äöü", 3), "…äöü");
    }
}
