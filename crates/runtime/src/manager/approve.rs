//! What a manager does about people who are asked.
//!
//! **Invariant:** what was decided is read from the database; a message only makes a manager look sooner.
//! **Invariant:** a run that waits for nothing but people ends, and can be resumed.

use crewline_engine::schedule::{self, Finish, Stage};
use crewline_store::{ApprovalFilter, ApprovalRow, Transition};
use crewline_types::{ApprovalState, ErrorKind, RunStatus, TaskStatus, event::ErrorNote};
use ractor::ActorRef;

use super::{Message, Recorded, State, run::Stop};
use crate::{
    actor::{Outcome, WorkGuard, pipe_to_self, remind},
    approvals::AWAITING_APPROVAL,
    metrics,
    plan_question::PlanQuestion,
};

/// What people were asked in the run, how many questions wait in all runs, and the plan, when it waits for a yes.
pub type Looked = Outcome<Result<(Vec<ApprovalRow>, u64, Option<PlanQuestion>), crewline_store::Error>>;

impl State {
    /// Begins to run the plan, or asks a person whether it is to be run.
    pub(super) fn begin(&mut self, myself: &ActorRef<Message>) {
        let Some(run) = &mut self.run else { return };
        // A plan whose tasks are all done, as that of a replay may be, is not about to be run.
        let is_open = run.tasks.iter().any(|task| !task.status.is_final());
        if run.settings.approve.plan && run.stop.is_none() && is_open {
            run.is_plan_held = true;
            self.look_at_approvals(myself);
        } else {
            self.apply(myself, schedule::Event::Begin);
        }
    }

    /// Reads what was decided.
    pub(super) fn look_at_approvals(&mut self, myself: &ActorRef<Message>) {
        let Some(run) = &self.run else { return };
        if self.deciding.as_ref().is_some_and(|it| !it.is_finished()) {
            self.must_decide_again = true;
            return;
        }
        let (store, id, is_plan_held) = (self.args.store.clone(), run.brief.run, run.is_plan_held);
        let work = async move {
            let asked = store.approvals(ApprovalFilter { run: Some(id), is_pending: false }).await?;
            let pending = store.approvals_pending().await?;
            let plan = if is_plan_held { Some(PlanQuestion::recorded(&store, id).await?) } else { None };
            Ok((asked, pending, plan))
        };
        self.deciding = Some(pipe_to_self(myself, self.args.deps.limits.commit, work, Message::Approvals));
    }

    /// Looks now and then as long as a task waits for a person.
    pub(super) fn watch_approvals(&mut self, myself: &ActorRef<Message>) {
        if self.next_decision.as_ref().is_none_or(WorkGuard::is_finished) {
            self.next_decision = Some(remind(myself, self.args.deps.limits.poll, || Message::Decided));
        }
    }

    pub(super) fn on_approvals(&mut self, myself: &ActorRef<Message>, looked: Looked) {
        self.deciding = None;
        let (asked, plan) = match looked {
            Outcome::Done(Ok((asked, pending, plan))) => {
                metrics::approvals_pending(pending);
                (asked, plan)
            }
            Outcome::Done(Err(error)) => {
                tracing::warn!(error.code = error.code(), %error, "approvals could not be read, trying again");
                self.watch_approvals(myself);
                return;
            }
            Outcome::Crashed | Outcome::TimedOut | Outcome::Cancelled => {
                tracing::warn!("approvals were not read in time, trying again");
                self.watch_approvals(myself);
                return;
            }
        };
        if std::mem::take(&mut self.must_decide_again) {
            self.look_at_approvals(myself);
            return;
        }
        let Some(run) = &mut self.run else { return };
        if run.is_ending {
            return;
        }
        let decided = asked.iter().filter(|row| row.state != ApprovalState::Pending).count() as u64;
        if run.is_plan_held {
            match plan {
                Some(plan) => self.decide_on_plan(myself, plan, &asked, decided),
                // It was held meanwhile.
                None => self.look_at_approvals(myself),
            }
            return;
        }
        let is_parked = |stage| stage == Stage::Parked;
        let parked: Vec<u32> = match &run.dag {
            Some(dag) => (0..u32::try_from(run.tasks.len()).unwrap_or(u32::MAX))
                .filter(|node| is_parked(dag.stage(*node)))
                .collect(),
            None => Vec::new(),
        };
        if parked.is_empty() {
            return;
        }
        let at = self.args.deps.clock.now();
        let mut change = run.change(at);
        let mut going_on = Vec::new();
        for node in &parked {
            let id = run.tasks[*node as usize].brief.id;
            let waits = asked.iter().any(|row| row.task == Some(id) && row.state == ApprovalState::Pending);
            if !waits {
                let attempts = run.dag.as_ref().map_or(0, |dag| dag.attempt(*node));
                change.transitions.push(Transition {
                    attempts_from: attempts,
                    attempts_to: attempts,
                    ..Transition::new(id, TaskStatus::AwaitingApproval, TaskStatus::Pending)
                });
                run.tasks[*node as usize].status = TaskStatus::Pending;
                going_on.push(*node);
            }
        }
        if going_on.is_empty() {
            if run.is_waiting {
                self.end_awaiting(myself, decided);
            } else {
                self.watch_approvals(myself);
            }
            return;
        }
        run.is_waiting = false;
        self.record(myself, change, Recorded::Note);
        let all = going_on.len() == parked.len();
        for node in going_on {
            self.apply(myself, schedule::Event::Resumed { node });
        }
        if !all {
            self.watch_approvals(myself);
        }
    }

    fn decide_on_plan(&mut self, myself: &ActorRef<Message>, plan: PlanQuestion, asked: &[ApprovalRow], decided: u64) {
        let at = self.args.deps.clock.now();
        let Some(run) = &mut self.run else { return };
        match plan.asked(run.brief.run, asked).map(|row| (row.state, row)) {
            Some((ApprovalState::Approved, _)) => {
                run.is_plan_held = false;
                self.apply(myself, schedule::Event::Begin);
            }
            Some((ApprovalState::Rejected, row)) => {
                let why = row.message.as_deref().unwrap_or("no reason given");
                let message = format!("the plan was rejected: {why}").into();
                let note = ErrorNote { code: "approval.rejected".into(), kind: ErrorKind::Conflict, message };
                run.stop = Some(Stop { status: RunStatus::Failed, error: Some(note) });
                self.end(myself, Finish::Drained);
            }
            Some((ApprovalState::Pending, _)) => self.end_awaiting(myself, decided),
            None => {
                let mut change = run.change(at);
                plan.ask(&mut change);
                self.record(myself, change, Recorded::Note);
                self.end_awaiting(myself, decided);
            }
        }
    }

    /// All that is left waits for people.
    pub(super) fn on_wait(&mut self, myself: &ActorRef<Message>) {
        if let Some(run) = &mut self.run {
            run.is_waiting = true;
        }
        self.look_at_approvals(myself);
    }

    /// Ends the run, unless more than `decided` of its questions are decided by then.
    fn end_awaiting(&mut self, myself: &ActorRef<Message>, decided: u64) {
        let Some(run) = &mut self.run else { return };
        let message = "the run waits for a person to decide".into();
        let note = ErrorNote { code: AWAITING_APPROVAL.into(), kind: ErrorKind::Conflict, message };
        if run.stop.is_none() {
            run.decided = Some(decided);
            run.stop = Some(Stop { status: RunStatus::Interrupted, error: Some(note) });
        }
        self.end(myself, Finish::Drained);
    }
}
