//! What a manager does with the report of an attempt.
//!
//! **Invariant:** a report that is not of the current attempt changes nothing.

use std::{collections::HashMap, sync::Arc};

use crewline_engine::schedule::{self, Action, Finish, Retry, Stage};
use crewline_store::{AttemptEnd, NewAttempt, Transition};
use crewline_types::{
    AttemptId, RunStatus, TaskStatus,
    event::{CallOutcome, ErrorNote, EventBody, NewEvent},
};
use ractor::{ActorProcessingErr, ActorRef};

use crate::{
    actor::remind,
    assignment::{Failure, Output, Report},
    attempt::end_calls,
    config::Dispatch,
    metrics,
    planning::{self, Author, Below},
    progress::Progress,
    purse::Cap,
    scribe::events_of,
};

use super::{
    Distrust, Message, Recorded, State,
    further::Asked,
    park,
    run::{AfterPlanning, LOSS_PAUSE, LOSSES_MAX, limit_reached},
};

impl State {
    pub(super) fn on_reported(&mut self, myself: &ActorRef<Message>, report: Report) -> Result<(), ActorProcessingErr> {
        let Some(run) = &mut self.run else { return Ok(()) };
        for answered in report.progress.ended.calls.iter().filter(|it| it.end.outcome == CallOutcome::Ok) {
            run.has_answer = true;
            run.answered.insert(answered.model.clone());
        }
        run.unpriced += report.progress.spent.unpriced;
        if report.attempt.task == run.root.brief.id {
            if report.attempt.number == run.root_attempt && run.dag.is_none() && !run.is_ending {
                return self.on_plan_reported(myself, report);
            }
            return Ok(());
        }
        let Some(&node) = run.by_id.get(&report.attempt.task) else { return Ok(()) };
        let is_current = run
            .dag
            .as_ref()
            .is_some_and(|dag| dag.stage(node) == Stage::Running && dag.attempt(node) == report.attempt.number);
        if !is_current {
            return Ok(());
        }
        let Report { attempt, progress, result } = report;
        match result {
            Ok(output) => self.complete(myself, node, attempt, progress, output),
            Err(failure) => return self.fail(myself, node, attempt, progress, &failure),
        }
        Ok(())
    }

    fn on_plan_reported(&mut self, myself: &ActorRef<Message>, report: Report) -> Result<(), ActorProcessingErr> {
        let at = self.args.deps.clock.now();
        let Some(run) = &mut self.run else { return Ok(()) };
        let Report { attempt, progress, result } = report;
        let is_started = progress.is_started;
        let (spent, ended) = progress.close();
        run.root.spent.usage += spent.usage;
        run.root.spent.cost += spent.cost;
        let role = run.root.brief.role.clone();
        let mut change = run.change(at);
        end_calls(&mut change, attempt, &role, ended);
        let mut end = AttemptEnd {
            id: attempt,
            ok: true,
            model: String::new(),
            usage: spent.usage,
            cost: spent.cost,
            error: None,
        };
        let failure = match result {
            Ok(Output { plan: Some(made), text, model, wishes: _ }) => {
                let below = Below { run: run.brief.run, root: run.root.brief.id, goal: &run.brief.goal, at };
                let rows = {
                    let mut ids = self.args.ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    let tokens = self.args.deps.limits.index_tokens;
                    planning::rows(below, &made.plan, Author::Planner, &mut ids, tokens)
                };
                end.model = model.as_str().into();
                change.attempts_ended.push(end);
                change.transitions.push(Transition {
                    attempts_from: attempt.number,
                    attempts_to: attempt.number,
                    usage: spent.usage,
                    cost: spent.cost,
                    model: Some(model.as_str().into()),
                    ..Transition::new(attempt.task, TaskStatus::InProgress, TaskStatus::InProgress)
                });
                change.texts.extend([text, rows.index.clone()]);
                change.index = Some(rows.index.hash);
                run.adopt(&rows.tasks, &rows.links, HashMap::new());
                run.set_index(Some(rows.index));
                change
                    .events
                    .push(NewEvent::of_run(at, EventBody::PlanReady { tasks: rows.entries, repairs: made.repairs }));
                change.tasks = rows.tasks;
                change.links = rows.links;
                self.record(myself, change, Recorded::Plan);
                return Ok(());
            }
            Ok(Output { plan: None, .. }) => Failure::Lost,
            Err(failure) => failure,
        };
        let note = failure.note();
        end.ok = false;
        end.error = Some(note.clone());
        let from = if is_started { TaskStatus::InProgress } else { TaskStatus::Pending };
        if !is_started {
            change.attempts.push(NewAttempt { id: attempt, role, model: String::new(), input_hash: None });
        }
        change.attempts_ended.push(end);
        let mut transition = Transition {
            attempts_from: if is_started { attempt.number } else { attempt.number - 1 },
            attempts_to: attempt.number,
            usage: spent.usage,
            cost: spent.cost,
            reason: Some(note.message.to_string()),
            ..Transition::new(attempt.task, from, TaskStatus::Pending)
        };
        let health = self.args.deps.health.clone();
        let next = run.after_planning_failed(&failure, attempt.number, &health, at);
        match next {
            AfterPlanning::Again(pause) => {
                change.transitions.push(transition);
                self.record(myself, change, Recorded::Note);
                self.pauses.insert(u32::MAX, remind(myself, pause, || Message::RetryDue(u32::MAX)));
            }
            AfterPlanning::Parked => {
                if let Failure::Down(outage) = &failure {
                    transition.reason = Some(park::reason(outage));
                    change.events.push(park::event(&run.root.brief, attempt.number, outage, at));
                }
                change.transitions.push(transition);
                self.record(myself, change, Recorded::Note);
                self.look_at_parked(myself);
            }
            AfterPlanning::Stop(stop) => {
                if stop.status == RunStatus::Failed {
                    transition.to = TaskStatus::Failed;
                    run.root.status = TaskStatus::Failed;
                }
                change.transitions.push(transition);
                run.stop.get_or_insert(stop);
                self.record(myself, change, Recorded::Note);
                self.end(myself, Finish::Drained);
            }
            AfterPlanning::Distrust => return Err(Distrust(note.message.to_string()).into()),
        }
        Ok(())
    }

    /// Records a result; its dependents start when that is done.
    fn complete(
        &mut self,
        myself: &ActorRef<Message>,
        node: u32,
        attempt: AttemptId,
        progress: Progress,
        output: Output,
    ) {
        let at = self.args.deps.clock.now();
        let Some(run) = &mut self.run else { return };
        let (spent, ended) = progress.close();
        let mut change = run.change_of(attempt, at);
        let entry = &mut run.tasks[node as usize];
        entry.spent.usage += spent.usage;
        entry.spent.cost += spent.cost;
        let brief = Arc::clone(&entry.brief);
        let model: Arc<str> = output.model.as_str().into();
        end_calls(&mut change, attempt, &brief.role, ended);
        run.lot.forget(node);
        run.answered.insert(output.model.clone());
        if self.args.deps.dispatch == Dispatch::Queue {
            // A worker asked it; here that may be the first sign that it is back.
            self.args.deps.health.succeeded(&output.model);
        }
        change.transitions.push(Transition {
            attempts_from: attempt.number,
            attempts_to: attempt.number,
            result: Some(output.text.hash),
            model: Some(model.to_string()),
            usage: spent.usage,
            cost: spent.cost,
            ..Transition::new(brief.id, TaskStatus::InProgress, TaskStatus::Completed)
        });
        change.attempts_ended.push(AttemptEnd {
            id: attempt,
            ok: true,
            model: model.to_string(),
            usage: spent.usage,
            cost: spent.cost,
            error: None,
        });
        let took = at.since(entry.started_at.unwrap_or(at));
        change.events.push(NewEvent::of_task(
            at,
            brief.id,
            Some(attempt.number),
            EventBody::TaskCompleted {
                key: Arc::clone(&brief.key),
                role: brief.role.clone(),
                model,
                usage: entry.spent.usage,
                cost_usd: entry.spent.cost,
                elapsed_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                copied_from: None,
            },
        ));
        entry.result = Some(output.text.clone());
        if !output.wishes.is_empty() {
            let registry = self.args.deps.registry();
            let mut ids = self.args.ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            run.grow(&Asked { node, attempt, wishes: &output.wishes }, &registry, &mut ids, &mut change);
        }
        metrics::task_ended(self.args.deps.role_label(&brief.role), "completed", took);
        let deps = &self.args.deps;
        let memories = if deps.rules.is_chatter(&output.text.body) {
            metrics::left_out("chatter");
            Vec::new()
        } else {
            run.memories(node, &output.text, deps.limits, at)
        };
        change.events.extend(events_of(&memories, at));
        run.tasks[node as usize].memories.clone_from(&memories);
        change.memories = memories;
        change.texts.push(output.text);
        self.record(myself, change, Recorded::Result(node, attempt.number));
        self.perform(myself);
        if self.parking.is_some() {
            self.look_at_parked(myself);
        }
    }

    fn fail(
        &mut self,
        myself: &ActorRef<Message>,
        node: u32,
        attempt: AttemptId,
        progress: Progress,
        failure: &Failure,
    ) -> Result<(), ActorProcessingErr> {
        let at = self.args.deps.clock.now();
        let Some(run) = &mut self.run else { return Ok(()) };
        let note = failure.note();
        let mut is_lost = false;
        let mut parked = None;
        let event = match failure {
            Failure::Awaiting { .. } => schedule::Event::Parked { node, attempt: attempt.number },
            // No try of the task: whoever goes on begins where this one ended.
            Failure::HandedOver { .. } => schedule::Event::AttemptLost { node, attempt: attempt.number },
            Failure::Down(outage) => match run.park(node, outage, &self.args.deps.health, at) {
                Ok(()) => {
                    parked = Some(outage);
                    run.steps -= u32::from(!progress.is_started && run.steps > 0);
                    schedule::Event::AttemptParked { node, attempt: attempt.number }
                }
                Err(retry) => schedule::Event::AttemptFailed { node, attempt: attempt.number, retry },
            },
            Failure::Stale => return Err(Distrust(note.message.to_string()).into()),
            Failure::Store { .. } => {
                self.give_up(myself, &note);
                return Ok(());
            }
            // Only this task has spent its share: the others go on.
            Failure::OverBudget { cap: Cap::Task, .. } => {
                schedule::Event::AttemptFailed { node, attempt: attempt.number, retry: Retry::Never }
            }
            Failure::OverBudget { cap, message } => {
                run.stop.get_or_insert_with(|| limit_reached(cap.limit(), message.clone()));
                is_lost = true;
                schedule::Event::AttemptLost { node, attempt: attempt.number }
            }
            Failure::Lost if run.stop.is_some() || run.tasks[node as usize].losses < LOSSES_MAX => {
                run.tasks[node as usize].losses += 1;
                is_lost = true;
                schedule::Event::AttemptLost { node, attempt: attempt.number }
            }
            Failure::Models { may_retry: false, .. } | Failure::Lost => {
                schedule::Event::AttemptFailed { node, attempt: attempt.number, retry: Retry::Never }
            }
            Failure::Models { may_retry: true, .. } | Failure::Busy | Failure::TimedOut => {
                schedule::Event::AttemptFailed { node, attempt: attempt.number, retry: Retry::May }
            }
        };
        let is_started = progress.is_started;
        let (spent, ended) = progress.close();
        let mut change = run.change_of(attempt, at);
        let entry = &mut run.tasks[node as usize];
        entry.spent.usage += spent.usage;
        entry.spent.cost += spent.cost;
        let brief = Arc::clone(&entry.brief);
        end_calls(&mut change, attempt, &brief.role, ended);
        if !is_started {
            change.attempts.push(NewAttempt {
                id: attempt,
                role: brief.role.clone(),
                model: String::new(),
                input_hash: None,
            });
        }
        change.attempts_ended.push(AttemptEnd {
            id: attempt,
            ok: false,
            model: String::new(),
            usage: spent.usage,
            cost: spent.cost,
            error: Some(note.clone()),
        });
        let mut transition = Transition {
            attempts_from: if is_started { attempt.number } else { attempt.number - 1 },
            attempts_to: attempt.number,
            usage: spent.usage,
            cost: spent.cost,
            reason: Some(parked.map_or_else(|| note.message.to_string(), park::reason)),
            ..Transition::new(
                brief.id,
                if is_started { TaskStatus::InProgress } else { TaskStatus::Pending },
                TaskStatus::Pending,
            )
        };
        if let Failure::Awaiting { .. } = failure {
            entry.status = TaskStatus::AwaitingApproval;
            transition.to = entry.status;
            change.transitions.push(transition);
            self.record(myself, change, Recorded::Note);
            self.apply(myself, event);
            self.look_at_approvals(myself);
            return Ok(());
        }
        if let Failure::HandedOver { to, summary } = failure {
            change.transitions.push(transition);
            entry.status = TaskStatus::Pending;
            run.lot.forget(node);
            run.hand_over(node, attempt, to, summary, &mut change);
            // Whoever goes on reads what was left, so it is recorded before.
            self.record(myself, change, Recorded::HandedOver(node, attempt.number));
            return Ok(());
        }
        if is_lost && run.stop.is_none() {
            // Not at once: what lost this attempt may need a moment to come back.
            change.transitions.push(transition);
            entry.status = TaskStatus::Pending;
            let pause = LOSS_PAUSE * entry.losses;
            self.record(myself, change, Recorded::Note);
            let number = attempt.number;
            self.pauses.insert(node, remind(myself, pause, move || Message::LossDue(node, number)));
            return Ok(());
        }
        let is_final = {
            let Some(dag) = &mut run.dag else { return Ok(()) };
            if is_lost {
                dag.apply(schedule::Event::Drain);
            }
            let actions = dag.apply(event);
            let is_final = actions.iter().any(|it| matches!(it, Action::Fail { node: failed } if *failed == node));
            run.pending_actions.extend(actions);
            is_final
        };
        let entry = &mut run.tasks[node as usize];
        entry.status = if is_final { TaskStatus::Failed } else { TaskStatus::Pending };
        transition.to = entry.status;
        change.transitions.push(transition);
        if let Some(outage) = parked {
            change.events.push(park::event(&brief, attempt.number, outage, at));
        } else if !is_lost {
            run.lot.forget(node);
            change.events.push(NewEvent::of_task(
                at,
                brief.id,
                Some(attempt.number),
                EventBody::TaskFailed {
                    key: Arc::clone(&brief.key),
                    role: brief.role.clone(),
                    error: note.clone(),
                    will_retry: !is_final,
                },
            ));
        }
        if is_final {
            let took = at.since(entry.started_at.unwrap_or(at));
            metrics::task_ended(self.args.deps.role_label(&brief.role), "failed", took);
            run.first_failure.get_or_insert(ErrorNote {
                message: format!("task `{}` ({}) failed: {}", brief.key, brief.title, note.message).into(),
                ..note
            });
        }
        self.record(myself, change, Recorded::Note);
        self.perform(myself);
        if parked.is_some() || self.parking.is_some() {
            self.look_at_parked(myself);
        }
        Ok(())
    }
}
