//! The chain of models: who is asked next, and when nobody is left.
//!
//! **Invariant:** a model that gave an accepted answer stays the first to be asked.

use std::{collections::VecDeque, sync::Arc};

use crewline_engine::{
    plan,
    route::{self, breaker::Pass},
};
use crewline_models::ToolCall;
use crewline_types::{CallId, ErrorKind, ModelAlias, ModelSpec, Text, event::ErrorNote};

use super::{
    Deps, call, instructions,
    money::{self, Ends},
    review::{Rejected, must_review, review},
    talk::Talk,
};
use crate::{
    again,
    assignment::{Assignment, Failure, PlanOutput, Work},
    curated::Curated,
    metrics,
    outage::Findings,
    recorded::Recorded,
};

/// The code of a prompt that is too long for a model.
pub(super) const OVERFLOW: &str = "model.context_overflow";

/// Why one rung did not lead to an answer.
#[derive(Debug)]
pub(super) struct Miss {
    pub(super) note: ErrorNote,
    pub(super) may_retry: bool,
    /// What the provider's error was, when it was one.
    pub(super) error: Option<crewline_models::Error>,
    /// What the model has to be told when it is asked again.
    pub(super) problem: Option<String>,
}

/// What is asked.
#[derive(Clone, Copy)]
pub(super) enum Question<'a> {
    /// The whole task, with as much of its context as the model takes.
    Task { told: &'a Arc<Curated> },
    /// The next step of a conversation.
    Step { talk: &'a Talk },
}

/// An answer that was accepted.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) model: Arc<ModelSpec>,
    pub(super) text: Text,
    pub(super) plan: Option<PlanOutput>,
    pub(super) tool_calls: Vec<ToolCall>,
    /// The call that it answers; none when nobody said it.
    pub(super) call: Option<CallId>,
    /// Whether it was recorded by an earlier attempt.
    pub(super) is_recorded: bool,
}

/// An attempt on its way through its chain.
pub(super) struct Climb<'a> {
    pub(super) assignment: &'a Assignment,
    pub(super) deps: &'a Deps,
    pub(super) recorded: &'a Recorded,
    pub(super) instructions: String,
    pub(super) rungs: VecDeque<Arc<ModelSpec>>,
    /// Calls so far, repeated ones too.
    pub(super) number: u32,
    /// Who gave the recorded answers that were used so far.
    pub(super) reused: Vec<ModelAlias>,
    /// What was wrong with the answer before.
    pub(super) problem: Option<String>,
    may_retry: bool,
    last: Miss,
    previous: Option<Arc<ModelSpec>>,
    /// Final answers of the model that is asked now which a command did not accept.
    failed_commands: u32,
}

/// How often a model hears what a command found, before the next one is asked.
const COMMAND_TRIES: u32 = 1;

impl<'a> Climb<'a> {
    pub(super) fn new(
        assignment: &'a Assignment,
        deps: &'a Deps,
        recorded: &'a Recorded,
        mut rungs: Vec<Arc<ModelSpec>>,
    ) -> Self {
        // The order may be another one than that of the attempt that was lost; what it bought is used first.
        rungs.sort_by_key(|it| recorded.place(&it.alias).unwrap_or(usize::MAX));
        Self {
            assignment,
            deps,
            recorded,
            instructions: instructions(&assignment.models.registry(), &assignment.task.role).to_owned(),
            rungs: rungs.into(),
            number: 0,
            reused: Vec::new(),
            problem: None,
            may_retry: false,
            last: Miss {
                note: ErrorNote {
                    code: "route.no_model".into(),
                    kind: ErrorKind::Unavailable,
                    message: "no model of the chain may be asked".into(),
                },
                may_retry: false,
                error: None,
                problem: None,
            },
            previous: None,
            failed_commands: 0,
        }
    }

    /// A final answer was not accepted. Whose work a command rejects hears it once and tries again; after that, and after any other
    /// check, the next model goes on with the work.
    pub(super) fn rejected(&mut self, rejected: &Rejected) -> Result<(), Failure> {
        let note = rejected.note.clone();
        if rejected.by_command && self.failed_commands < COMMAND_TRIES {
            self.failed_commands += 1;
            return Ok(());
        }
        self.failed_commands = 0;
        self.rungs.pop_front();
        self.last = Miss { note: note.clone(), may_retry: true, error: None, problem: None };
        self.may_retry = true;
        if self.rungs.is_empty() { Err(Failure::Models { error: note, may_retry: true }) } else { Ok(()) }
    }

    /// Asks model by model until one gives an answer that is accepted.
    pub(super) async fn next(&mut self, question: Question<'_>) -> Result<Said, Failure> {
        let Self { assignment, deps, recorded, .. } = *self;
        let mut repeated = 0;
        let mut found = Findings::default();
        let mut is_asked = false;
        while let Some(model) = self.rungs.pop_front() {
            let is_known = recorded.place(&model.alias).is_some();
            let pass = if is_known { Pass::Yes } else { deps.health.admit(&model.alias, deps.clock.now()) };
            // The last one is asked in any case, unless all others are down, too: an answer that may come is better than none.
            if matches!(pass, Pass::Not { .. }) && (!self.rungs.is_empty() || found.is_down()) {
                found.shut(&model);
                repeated = 0;
                continue;
            }
            self.number += 1;
            is_asked = true;
            if let Some(from) = self.previous.as_ref().filter(|from| from.alias != model.alias) {
                metrics::fallback(&from.alias, &model.alias, &self.last.note.code);
            }
            let mut answer = call::ask_model(self, question, &model).await?;
            if let (Ok(said), Question::Task { .. }, Work::Text) = (&answer, question, &assignment.work)
                && must_review(assignment)
                && let Some(Rejected { note, .. }) = Box::pin(review(self, None, said, &said.text.body)).await?
            {
                let problem = Some(note.message.to_string());
                answer = Err(Miss { note, may_retry: true, error: None, problem });
            }
            let miss = match answer {
                Ok(said) => {
                    self.previous = Some(Arc::clone(&model));
                    self.rungs.push_front(model);
                    return Ok(said);
                }
                Err(miss) => miss,
            };
            self.may_retry |= miss.may_retry;
            let error = miss.error.as_ref();
            found.missed(&model, pass == Pass::Probe, error);
            if let Some(pause) = error.and_then(|it| again::pause(it, repeated, self.rungs.is_empty(), fastrand::f64()))
            {
                // A crash meanwhile would charge it, and others may need the money that comes back.
                Box::pin(money::record_ended(self, Ends::All)).await?;
                tokio::time::sleep(pause).await;
                repeated += 1;
                self.last = miss;
                self.previous = Some(Arc::clone(&model));
                self.rungs.push_front(model);
                continue;
            }
            repeated = 0;
            if &*miss.note.code == OVERFLOW {
                route::after_overflow(self.rungs.make_contiguous(), &model);
            }
            if let (Work::Plan { is_strict: false, rules, .. }, Some(text)) = (&assignment.work, &miss.problem) {
                if self.problem.is_some() {
                    // The one repair request did not help either.
                    return Ok(last_resort(assignment, rules, &model, &miss.note));
                }
                self.problem = Some(text.clone());
                if self.rungs.is_empty() {
                    self.rungs.push_back(Arc::clone(&model));
                }
            }
            if matches!(assignment.work, Work::Text) {
                self.problem = miss.problem.clone().or_else(|| self.problem.take());
            }
            self.last = miss;
            self.previous = Some(model);
        }
        if let (Work::Plan { is_strict: false, rules, .. }, Some(_), Some(model)) =
            (&assignment.work, &self.problem, &self.previous)
        {
            return Ok(last_resort(assignment, rules, model, &self.last.note));
        }
        let heard = is_asked.then(|| self.last.note.clone());
        let down = found.failure(&deps.health, deps.clock.now(), heard);
        Err(down.unwrap_or(Failure::Models { error: self.last.note.clone(), may_retry: self.may_retry }))
    }
}

/// One task that is the goal itself, when no model gave a usable plan.
fn last_resort(assignment: &Assignment, rules: &plan::Rules, model: &Arc<ModelSpec>, note: &ErrorNote) -> Said {
    let plan = plan::single_task(&assignment.run.goal, rules);
    let repairs = vec![format!("no usable plan came back ({}), so the goal is one task", note.message)];
    Said {
        model: Arc::clone(model),
        text: Text::from(""),
        plan: Some(PlanOutput { plan, repairs }),
        tool_calls: Vec::new(),
        call: None,
        is_recorded: false,
    }
}
