//! What the schedule decides is done: attempts begin, wait, or are blocked by what failed.

use std::sync::Arc;

use crewline_engine::{
    plan,
    schedule::{self, Action, Finish},
};
use crewline_models::OutputSchema;
use crewline_store::Transition;
use crewline_types::{
    AttemptId, TaskStatus,
    event::{EventBody, NewEvent},
};
use ractor::ActorRef;

use crate::{
    actor::remind,
    assignment::{Assignment, Obligation, ReportTo, Work},
    config::Dispatch,
    planning,
    replay::{self, Given},
    router,
};

use super::{Message, Recorded, State, run::steps_reached};

impl State {
    /// Assigns the root task: planning.
    pub(super) fn plan(&mut self, myself: &ActorRef<Message>) {
        let Some(run) = &mut self.run else { return };
        if run.is_handing_over {
            self.release(myself);
            return;
        }
        if run.settings.limits.steps_max.is_some_and(|max| run.steps >= max) {
            run.stop.get_or_insert_with(|| steps_reached(run.steps));
        }
        if run.stop.is_some() {
            self.end(myself, Finish::Drained);
            return;
        }
        run.steps += 1;
        run.root_attempt += 1;
        let models = self.args.deps.models.pinned();
        let registry = models.registry();
        let rules = planning::planner_rules(&registry);
        let tasks_min = registry.policies().plan_tasks_min as usize;
        let schema = OutputSchema { name: "plan".into(), schema: plan::schema(&rules, tasks_min) };
        let attempt = AttemptId { task: run.root.brief.id, number: run.root_attempt };
        let given = Given { goal: &run.brief.goal, index: None, above: None, requires: Vec::new(), refers: Vec::new() };
        let input_hash = replay::input_hash(&registry, &run.root.brief, given);
        let assignment = Assignment {
            attempt,
            run: Arc::clone(&run.brief),
            task: Arc::clone(&run.root.brief),
            sources: Vec::new(),
            input_hash: Some(input_hash),
            work: Work::Plan { rules: Arc::new(rules), schema: Arc::new(schema), is_strict: run.settings.strict_plan },
            models,
            rungs: Vec::new(),
            route: [].into(),
            obligation: Obligation::new(attempt, ReportTo::Manager(myself.clone())),
        };
        self.args.deps.rooms.router.tell(router::Message::Assign(Box::new(assignment)));
    }

    /// Tells the schedule what happened and performs what it decides.
    pub(super) fn apply(&mut self, myself: &ActorRef<Message>, event: schedule::Event) {
        let Some(run) = &mut self.run else { return };
        let Some(dag) = &mut run.dag else { return };
        let actions = dag.apply(event);
        run.pending_actions.extend(actions);
        self.perform(myself);
    }

    pub(super) fn perform(&mut self, myself: &ActorRef<Message>) {
        while let Some(action) = self.run.as_mut().and_then(|run| run.pending_actions.pop_front()) {
            match action {
                Action::Dispatch { node, attempt } => self.dispatch(myself, node, attempt),
                Action::RetryAfter { node, delay } => {
                    self.pauses.insert(node, remind(myself, delay, move || Message::RetryDue(node)));
                }
                // The transition of the failed task itself is recorded with its attempt's end.
                Action::Fail { .. } => {}
                Action::Block { node, because } => self.block(myself, node, because),
                Action::Wait => self.on_wait(myself),
                Action::Finish(finish) => self.end(myself, finish),
            }
        }
        self.flush_offers(myself);
    }

    pub(super) fn dispatch(&mut self, myself: &ActorRef<Message>, node: u32, attempt: u32) {
        let now = self.args.deps.clock.now();
        let models = self.args.deps.models.pinned();
        let registry = models.registry();
        let Some(run) = &mut self.run else { return };
        if let Some(change) = run.reuse(node, attempt, &registry, now) {
            self.record(myself, change, Recorded::Result(node, attempt));
            return;
        }
        if let Some(change) = run.complete_composite(node, attempt, now) {
            self.record(myself, change, Recorded::Result(node, attempt));
            return;
        }
        if run.settings.limits.steps_max.is_some_and(|max| run.steps >= max) {
            run.stop.get_or_insert_with(|| steps_reached(run.steps));
            if let Some(dag) = &mut run.dag {
                run.pending_actions.extend(dag.apply(schedule::Event::Drain));
                run.pending_actions.extend(dag.apply(schedule::Event::AttemptLost { node, attempt }));
            }
            return;
        }
        run.steps += 1;
        let entry = &mut run.tasks[node as usize];
        entry.status = TaskStatus::InProgress;
        entry.started_at.get_or_insert(now);
        let id = AttemptId { task: entry.brief.id, number: attempt };
        if self.args.deps.dispatch == Dispatch::Queue {
            run.offer(node, id);
            return;
        }
        let assignment = Assignment {
            attempt: id,
            run: Arc::clone(&run.brief),
            task: Arc::clone(&run.tasks[node as usize].brief),
            sources: run.sources(node),
            input_hash: Some(run.input_hash(node, &registry)),
            work: Work::Text,
            models,
            rungs: Vec::new(),
            route: [].into(),
            obligation: Obligation::new(id, ReportTo::Manager(myself.clone())),
        };
        self.args.deps.rooms.router.tell(router::Message::Assign(Box::new(assignment)));
    }

    pub(super) fn block(&mut self, myself: &ActorRef<Message>, node: u32, because: u32) {
        let at = self.args.deps.clock.now();
        let Some(run) = &mut self.run else { return };
        let cause = Arc::clone(&run.tasks[because as usize].brief);
        let reason = format!("it requires `{}` ({}), which failed", cause.key, cause.title);
        let attempts = run.dag.as_ref().map_or(0, |dag| dag.attempt(node));
        let mut change = run.change(at);
        let entry = &mut run.tasks[node as usize];
        entry.status = TaskStatus::Blocked;
        change.transitions.push(Transition {
            attempts_from: attempts,
            attempts_to: attempts,
            reason: Some(reason.clone()),
            ..Transition::new(entry.brief.id, TaskStatus::Pending, TaskStatus::Blocked)
        });
        change.events.push(NewEvent::of_task(
            at,
            entry.brief.id,
            None,
            EventBody::TaskBlocked { key: Arc::clone(&entry.brief.key), reason: reason.into() },
        ));
        self.record(myself, change, Recorded::Note);
    }
}
