//! The runtime's metrics; names and labels as `docs/metrics.md` lists them.
//!
//! **Invariant:** labels come from closed sets: roles and models of the registry, outcomes; never an id or free text.

use std::time::Duration;

use crewline_types::{
    MicroUsd, ModelAlias, RunStatus, ToolOutcome,
    event::{CheckResult, TaskAction},
};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Describes all metrics of this crate to the recorder.
pub fn describe() {
    describe_counter!("crewline_runs_total", "Runs that ended, by outcome.");
    describe_gauge!("crewline_runs_active", "Runs that have a manager in this process.");
    describe_counter!("crewline_tasks_total", "Tasks that became final, by role and outcome.");
    describe_histogram!("crewline_task_duration_seconds", "From a task's first start to its end.");
    describe_gauge!("crewline_llm_cost_usd_total", "Cost of answered calls whose model has a price.");
    describe_counter!("crewline_checks_total", "Verdicts of criteria on answers, by kind of check.");
    describe_counter!("crewline_llm_fallbacks_total", "Steps from one model of a chain to the next.");
    describe_counter!("crewline_shadow_calls_total", "Copies of questions for candidates, by what came of them.");
    describe_gauge!("crewline_shadow_cost_usd_total", "Cost of copies of questions for candidates.");
    describe_gauge!("crewline_llm_breaker_state", "Breakers of models that failed: 0 closed, 1 half open, 2 open.");
    describe_counter!("crewline_llm_answers_reused_total", "Recorded answers of lost attempts that were used again.");
    describe_counter!(
        "crewline_tool_calls_refused_total",
        "Calls of tools that were asked for and not made, by outcome."
    );
    describe_counter!(
        "crewline_tasks_asked_for_total",
        "Further tasks that specialists asked for, by what was decided."
    );
    describe_gauge!("crewline_approvals_pending", "Questions to people that nobody has decided.");
    describe_gauge!("crewline_worker_attempts", "Claimed attempts that this process works on.");
    describe_counter!("crewline_claims_lost_total", "Claims whose worker let its lease run out.");
    describe_counter!("crewline_tasks_reused_total", "Results that were taken over from the run that is replayed.");
    describe_counter!("crewline_tasks_parked_total", "Times a task waited because its whole chain was down.");
    describe_counter!("crewline_actor_restarts_total", "Actors that were started again.");
    describe_counter!("crewline_memory_left_out_total", "Memories of runs that say nothing, or nothing new.");
    describe_counter!("crewline_memory_summaries_total", "Summaries that runs made, by kind.");
    describe_histogram!("crewline_memory_opening_duration_seconds", "Duration of opening a project's memory.");
    describe_gauge!("crewline_memory_outbox_depth", "Memories that are not yet in the vector store.");
    describe_gauge!(
        "crewline_memory_outbox_oldest_seconds",
        "Age of the oldest memory that is not in the vector store."
    );
}

/// A run began or ended in this process.
pub fn runs_active(count: usize) {
    gauge!("crewline_runs_active").set(count as f64);
}

/// A run ended.
pub fn run_ended(status: RunStatus) {
    counter!("crewline_runs_total", "outcome" => status.as_str()).increment(1);
}

/// A task became final; a role that the registry does not name counts as `other` (see `Deps::role_label`).
pub fn task_ended(role: &str, outcome: &'static str, took: Duration) {
    counter!("crewline_tasks_total", "role" => role.to_owned(), "outcome" => outcome).increment(1);
    histogram!("crewline_task_duration_seconds", "role" => role.to_owned()).record(took.as_secs_f64());
}

/// Verdicts of checks were recorded.
pub fn checked(checks: &[CheckResult]) {
    for check in checks {
        let outcome = if check.passed { "accepted" } else { "rejected" };
        counter!("crewline_checks_total", "check" => check.verifier.to_string(), "outcome" => outcome).increment(1);
    }
}

/// An answered call had a price.
pub fn cost(model: &ModelAlias, cost: MicroUsd) {
    // A counter of this exporter is an integer, and a call costs less than a dollar.
    gauge!("crewline_llm_cost_usd_total", "model" => model.as_str().to_owned()).increment(cost.as_usd());
}

/// What came of a copy of a question for a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// The checks accept the answer.
    Accepted,
    /// They do not.
    Rejected,
    /// No answer came.
    Failed,
    /// It was not sent: the candidate is busy, down or too small, or the money is spent.
    Dropped,
}

impl Copied {
    fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// A copy of a question for a candidate ended, or was not sent.
pub fn copied(model: &ModelAlias, what: Copied) {
    let (model, outcome) = (model.as_str().to_owned(), what.as_str());
    counter!("crewline_shadow_calls_total", "model" => model, "outcome" => outcome).increment(1);
}

/// What a copy cost.
pub fn copied_cost(model: &ModelAlias, cost: MicroUsd) {
    // A counter of this exporter is an integer, and a call costs less than a dollar.
    gauge!("crewline_shadow_cost_usd_total", "model" => model.as_str().to_owned()).increment(cost.as_usd());
}

/// A model's breaker is closed (0), half open (1) or open (2).
pub fn breaker(model: &ModelAlias, state: Breaker) {
    let value = match state {
        Breaker::Closed => 0.0,
        Breaker::HalfOpen => 1.0,
        Breaker::Open => 2.0,
    };
    gauge!("crewline_llm_breaker_state", "model" => model.as_str().to_owned()).set(value);
}

/// Where a breaker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// Calls pass.
    Closed,
    /// One call passes, to see.
    HalfOpen,
    /// None passes.
    Open,
}

/// A chain went on to its next model.
pub fn fallback(from: &ModelAlias, to: &ModelAlias, reason: &str) {
    counter!(
        "crewline_llm_fallbacks_total",
        "from" => from.as_str().to_owned(), "to" => to.as_str().to_owned(), "reason" => reason.to_owned()
    )
    .increment(1);
}

/// An answer that a lost attempt had recorded was used instead of a call.
pub fn answer_reused(model: &ModelAlias) {
    counter!("crewline_llm_answers_reused_total", "model" => model.as_str().to_owned()).increment(1);
}

/// A call of a tool was asked for and is not made.
pub fn tool_not_made(outcome: ToolOutcome) {
    counter!("crewline_tool_calls_refused_total", "outcome" => outcome.as_str()).increment(1);
}

/// A specialist's wish for a further task was decided on.
pub fn task_asked_for(decision: TaskAction) {
    counter!("crewline_tasks_asked_for_total", "outcome" => decision.as_str()).increment(1);
}

/// How many questions wait for people.
pub fn approvals_pending(count: u64) {
    gauge!("crewline_approvals_pending").set(count as f64);
}

/// How many claimed attempts this worker has.
pub fn worker_busy(count: usize) {
    gauge!("crewline_worker_attempts").set(count as f64);
}

/// Claims were found whose worker let its lease run out.
pub fn claims_lost(count: u64) {
    counter!("crewline_claims_lost_total").increment(count);
}

/// An actor was started again.
pub fn restart(actor: &'static str) {
    counter!("crewline_actor_restarts_total", "actor" => actor).increment(1);
}

/// How many memories wait for the vector store.
pub fn outbox_depth(depth: u64) {
    gauge!("crewline_memory_outbox_depth").set(depth as f64);
}

/// A project's memory was opened.
pub fn memory_opened(took: Duration) {
    histogram!("crewline_memory_opening_duration_seconds").record(took.as_secs_f64());
}

/// Something is not kept in memory: it is `chatter`, or `repeated`.
pub fn left_out(reason: &'static str) {
    counter!("crewline_memory_left_out_total", "reason" => reason).increment(1);
}

/// A summary of this kind was made.
pub fn summary(kind: &str) {
    counter!("crewline_memory_summaries_total", "kind" => kind.to_owned()).increment(1);
}

/// A task waits because its whole chain is down.
pub fn parked() {
    counter!("crewline_tasks_parked_total").increment(1);
}

/// A result was taken over instead of being made.
pub fn task_reused() {
    counter!("crewline_tasks_reused_total").increment(1);
}

/// How old the oldest of them is; zero when none waits.
pub fn outbox_oldest(age: Duration) {
    gauge!("crewline_memory_outbox_oldest_seconds").set(age.as_secs_f64());
}
