//! How a run ends: by itself, by a limit, or because somebody stops it.
//!
//! **Invariant:** a limit never takes the place of an earlier reason to stop; who aborts or cancels the run does.

use std::sync::Arc;

use crewline_engine::schedule::{self, Finish};
use crewline_store::{RunEnd, Transition, Withdraw};
use crewline_types::{
    AttemptId, RunStatus, TaskCounts, TaskStatus,
    event::{ErrorNote, EventBody, NewEvent},
};
use ractor::ActorRef;

use crate::{actor::remind, attempt::end_calls, progress::Spent, router, scribe, summariser};

use super::{
    Halt, Message, Recorded, State,
    run::{Stop, limit_reached},
};

impl State {
    /// Ends the run, once what it made is summed up.
    pub(super) fn end(&mut self, myself: &ActorRef<Message>, finish: Finish) {
        let Some(run) = &mut self.run else { return };
        if run.is_ending {
            return;
        }
        if run.is_handing_over && finish == Finish::Drained && run.stop.is_none() {
            self.release(myself);
            return;
        }
        run.is_ending = true;
        let deps = &self.args.deps;
        // Whoever stops a run does not wait for a model.
        let is_written = summariser::is_wanted(deps) && finish != Finish::Drained;
        let limit = if is_written { deps.limits.model_summary } else { deps.limits.summary };
        self.closing = Some((finish, remind(myself, limit, || Message::Closed)));
        deps.rooms.scribe.tell(scribe::Message::Close(run.brief.run, myself.clone()));
    }

    /// Records the end of the run; the manager stops when that is done.
    pub(super) fn on_closed(&mut self, myself: &ActorRef<Message>) {
        let Some((finish, _)) = self.closing.take() else { return };
        self.args.deps.rooms.scribe.tell(scribe::Message::Left(self.args.run));
        let at = self.args.deps.clock.now();
        let Some(run) = &mut self.run else { return };
        let summaries = run.brief.summaries.close();
        run.root.spent += summaries.all;
        let stop = run.stop.take();
        let (status, error) = match (finish, stop) {
            (Finish::AllDone, _) => (RunStatus::Completed, None),
            (Finish::SomeFailed | Finish::Drained, Some(stop)) => (stop.status, stop.error),
            (Finish::SomeFailed, None) => (RunStatus::Failed, run.failure()),
            (Finish::Drained, None) => (RunStatus::Interrupted, None),
        };
        let mut change = run.change(at);
        let root_to = match status {
            RunStatus::Completed => TaskStatus::Completed,
            RunStatus::Failed => TaskStatus::Failed,
            RunStatus::Cancelled => TaskStatus::Cancelled,
            RunStatus::Running | RunStatus::Interrupted | RunStatus::LimitReached => run.root.status,
        };
        let is_cut_off = !summaries.ended.calls.is_empty();
        if run.root.status == TaskStatus::InProgress && (root_to != TaskStatus::InProgress || is_cut_off) {
            let charge = summariser::charge(run.root.brief.id, run.root_attempt, &summaries.open);
            change.transitions.push(Transition { to: root_to, ..charge });
        }
        let attempt = AttemptId { task: run.root.brief.id, number: run.root_attempt };
        end_calls(&mut change, attempt, &summariser::ROLE.into(), summaries.ended);
        if let (RunStatus::LimitReached, Some(note)) = (status, &error) {
            let limit = note.code.strip_prefix("budget.").unwrap_or(&note.code).into();
            change
                .events
                .push(NewEvent::of_run(at, EventBody::BudgetReached { limit, message: Arc::clone(&note.message) }));
        }
        let mut tasks = TaskCounts::default();
        let mut spent = Spent { unpriced: run.unpriced, ..run.root.spent };
        for entry in &run.tasks {
            // The store cancels what is left of a cancelled run.
            let is_cancelled = status == RunStatus::Cancelled && !entry.status.is_final();
            tasks.add(if is_cancelled { TaskStatus::Cancelled } else { entry.status });
            spent.usage += entry.spent.usage;
            spent.cost += entry.spent.cost;
        }
        let elapsed = at.since(run.started_at);
        change.events.push(NewEvent::of_run(
            at,
            EventBody::RunFinished {
                status,
                tasks,
                cost_usd: spent.cost,
                unpriced_calls: spent.unpriced,
                usage: spent.usage,
                elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
                error: error.clone(),
            },
        ));
        change.run_status = Some(RunEnd {
            status,
            finished_at: at,
            error: error.as_ref().and_then(|note| serde_json::to_string(note).ok()),
        });
        change.decided_max = run.decided;
        self.record(myself, change, Recorded::End(status));
    }

    pub(super) fn on_drain(&mut self, myself: &ActorRef<Message>) {
        let Some(run) = &mut self.run else { return };
        run.stop.get_or_insert(Stop { status: RunStatus::Interrupted, error: None });
        // Whatever they decide: it ends because it is to.
        run.decided = None;
        run.brief.purse.close();
        self.recall_attempts(myself, Withdraw::Free);
        let is_planning_paused = self.pauses.remove(&u32::MAX).is_some() | self.unpark_planning();
        if is_planning_paused {
            self.end(myself, Finish::Drained);
        } else {
            self.apply(myself, schedule::Event::Drain);
        }
    }

    pub(super) fn on_halt(&mut self, myself: &ActorRef<Message>, halt: Halt) {
        let Some(run) = &mut self.run else {
            // Not loaded yet: it stops as soon as it is.
            self.early_halt = self.early_halt.max(Some(halt));
            return;
        };
        match halt {
            Halt::Drain => self.on_drain(myself),
            Halt::Abort => self.on_abort(myself, RunStatus::Interrupted),
            Halt::Cancel => {
                run.stop = Some(Stop { status: RunStatus::Cancelled, error: None });
                self.on_drain(myself);
            }
            Halt::Kill => self.on_abort(myself, RunStatus::Cancelled),
        }
    }

    /// Does what was asked before the run was loaded.
    pub(super) fn halt_early(&mut self, myself: &ActorRef<Message>) {
        if let Some(halt) = self.early_halt {
            self.on_halt(myself, halt);
        }
    }

    pub(super) fn on_abort(&mut self, myself: &ActorRef<Message>, status: RunStatus) {
        if let Some(run) = &mut self.run {
            run.stop = Some(Stop { status, error: None });
        }
        self.recall_attempts(myself, Withdraw::Unreported);
        // Attempts that wait for a retry are not running; their pauses end here.
        let lost: Vec<u32> = self.pauses.keys().copied().filter(|node| *node != u32::MAX).collect();
        self.on_drain(myself);
        for node in lost {
            if self.pauses.remove(&node).is_some()
                && let Some(attempt) = self.run.as_ref().and_then(|run| Some(run.dag.as_ref()?.attempt(node)))
            {
                self.apply(myself, schedule::Event::AttemptLost { node, attempt });
            }
        }
    }

    pub(super) fn on_deadline(&mut self, myself: &ActorRef<Message>) {
        let Some(run) = &mut self.run else { return };
        let time_max = run.settings.limits.time_max.unwrap_or_default();
        let stop = limit_reached("max_time", format!("the run took longer than {time_max:?}"));
        run.stop.get_or_insert(stop);
        self.recall_attempts(myself, Withdraw::Unreported);
        self.on_drain(myself);
    }

    /// The database does not take our writes: nothing more can be promised, so nothing more is started.
    pub(super) fn give_up(&mut self, myself: &ActorRef<Message>, note: &ErrorNote) {
        tracing::error!(run_id = %self.args.run, error.code = &*note.code, error = &*note.message, "run stops");
        self.args.deps.rooms.router.tell(router::Message::CancelRun(self.args.run));
        self.args.deps.rooms.scribe.tell(scribe::Message::Left(self.args.run));
        self.args.hub.give_up(self.args.run, note.clone());
        if let Some(run) = &mut self.run {
            run.is_ending = true;
        }
        myself.stop(None);
    }
}
