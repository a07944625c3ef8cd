//! The work of one attempt: recall, assemble the context, climb the chain of models until an answer is accepted; for a role
//! with tools step by step, until the answer is final.
//!
//! `climb` goes through the chain, `call` makes one call, `money` reserves what it may cost, `accept` checks an answer, `act` is the
//! loop of a role with tools, `talk` what was said in it, `perform` makes calls of tools, `review` checks an answer with commands
//! and judges, too; `judge` asks a judge, by a call of `aside`; `copy` asks a candidate the same question, and keeps the comparison.
//!
//! **Invariant:** a call is recorded before it is sent; its end is recorded with the next change of the attempt.
//! **Invariant:** the worst case of a call is reserved before it is sent, until its end is recorded; a call whose answer is lost is
//! charged in full.
//! **Invariant:** an answer that a lost attempt got and recorded is used, not bought again.
//! **Invariant:** a call of a tool is recorded before it is made, and its outcome is used, not made again.

mod accept;
mod act;
mod aside;
mod call;
mod climb;
mod copy;
mod judge;
mod money;
mod perform;
mod review;
mod talk;

use std::sync::Arc;

use crewline_memory::Rules;
use crewline_models::{Models, Registry};
use crewline_store::Store;
use crewline_types::{Clock, Role, event::ErrorNote};
use tokio::sync::Semaphore;

use crate::{
    assignment::{Assignment, Failure, Output},
    choices::Choices,
    config::{Dispatch, Limits},
    curated,
    experience::Experience,
    health::Health,
    prompt::Prompts,
    recorded::Recorded,
    residence::Residence,
    rooms::Rooms,
    workshop::Workshop,
};

use self::climb::{Climb, Question};
pub use self::{
    accept::{REFUSED, without_thinking},
    act::asked_event,
    call::{charged, end_calls, hash_of},
    copy::{Copy, ask as ask_copy},
    judge::JUDGE,
    review::COMMAND,
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
    /// What persons decided on contexts.
    pub choices: Choices,
    /// What memory keeps.
    pub rules: Rules,
    /// What came of earlier calls.
    pub experience: Experience,
    /// What local servers have in memory.
    pub residence: Residence,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Who makes attempts.
    pub dispatch: Dispatch,
    /// The workspaces of runs, and what runs their commands.
    pub workshop: Workshop,
    /// Places of calls that are prepared.
    pub preparing: Semaphore,
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
pub async fn run(mut assignment: Box<Assignment>, deps: Arc<Deps>) {
    assignment.models = assignment.models.tallied(assignment.obligation.tally());
    let result = match tokio::time::timeout(deps.limits.attempt, work(&mut assignment, &deps)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::TimedOut),
    };
    assignment.obligation.report(result);
}

async fn work(assignment: &mut Assignment, deps: &Deps) -> Result<Output, Failure> {
    review::refuse_unusable(assignment)?;
    let sources = std::mem::take(&mut assignment.sources);
    let told = Arc::new(curated::of_attempt(assignment, deps, sources).await?);
    let recorded = Recorded::of_unfinished_attempts(&deps.store, assignment).await?;
    let rungs = std::mem::take(&mut assignment.rungs);
    let assignment = &*assignment;
    let mut climb = Climb::new(assignment, deps, &recorded, rungs);
    if act::must_act(assignment) {
        // What few attempts go through is boxed, here and where answers are reviewed: a thousand others wait at the same time.
        return Box::pin(act::act(&mut climb, &told)).await;
    }
    let said = climb.next(Question::Task { told: &told }).await?;
    Ok(Output { text: said.text, plan: said.plan, model: said.model.alias.clone(), wishes: Vec::new() })
}

/// Instructions of a role that has none.
const GENERAL_INSTRUCTIONS: &str = "You are a careful specialist in a crew of language-model agents.";

/// What the registry tells `role`.
pub fn instructions<'a>(registry: &'a Registry, role: &Role) -> &'a str {
    registry.instructions(role).unwrap_or(GENERAL_INSTRUCTIONS)
}

fn note_of(error: &crate::Error) -> ErrorNote {
    ErrorNote { code: error.code().into(), kind: error.kind(), message: error.to_string().into() }
}
