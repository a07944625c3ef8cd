//! Tasks that are planned for a time, and deadlines that pass.
//!
//! **Invariant:** a task is not begun before the time it, or a task above it, is planned for; then it begins by itself.
//! **Invariant:** a deadline stops nothing: it is told once that it has passed, and again when the run is taken up anew.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crewline_engine::schedule;
use crewline_types::{
    TaskDetails, TaskId, TaskStatus, Timestamp,
    event::{EventBody, NewEvent},
};
use ractor::ActorRef;

use super::{Message, State, run::Running};
use crate::actor::remind;

/// The longest wait between two looks at the clock: a machine that sleeps sets its timers late.
const LOOK_MAX: Duration = Duration::from_mins(10);

impl Running {
    /// Takes over what people said about times.
    pub(super) fn set_times(&mut self, details: &HashMap<TaskId, TaskDetails>) {
        for entry in &mut self.tasks {
            let said = details.get(&entry.brief.id);
            entry.planned_for = said.and_then(|it| it.planned_for);
            entry.deadline = said.and_then(|it| it.deadline);
        }
    }

    /// When a task may begin: not before it is planned for, nor any task above it.
    fn begins_at(&self, node: u32) -> Option<Timestamp> {
        let parent = |node: &u32| self.tasks[*node as usize].parent;
        // The tree is shallower than the list is long.
        let above = std::iter::successors(Some(node), parent).take(self.tasks.len());
        above.filter_map(|node| self.tasks[node as usize].planned_for).max()
    }

    /// Keeps back what is not to begin yet; what it says is to be recorded.
    pub(super) fn keep_back(&mut self, now: Timestamp) -> Vec<NewEvent> {
        let mut events = Vec::new();
        for node in 0..u32::try_from(self.tasks.len()).unwrap_or(u32::MAX) {
            let Some(until) = self.begins_at(node).filter(|at| *at > now) else { continue };
            if self.dag.as_mut().is_some_and(|dag| dag.plan(node)) {
                let brief = &self.tasks[node as usize].brief;
                let body = EventBody::TaskPlanned { key: Arc::clone(&brief.key), until };
                events.push(NewEvent::of_task(now, brief.id, None, body));
            }
        }
        events
    }

    /// Tasks whose time has come since the last look.
    fn due(&mut self, now: Timestamp) -> Vec<u32> {
        let since = self.looked_at.replace(now);
        let nodes = 0..u32::try_from(self.tasks.len()).unwrap_or(u32::MAX);
        let is_due = |node: &u32| self.begins_at(*node).is_some_and(|at| at <= now && since.is_none_or(|it| at > it));
        nodes.filter(is_due).collect()
    }

    /// What is to be said of deadlines that have passed.
    fn overdue(&mut self, now: Timestamp) -> Vec<NewEvent> {
        let mut events = Vec::new();
        for entry in &mut self.tasks {
            let Some(deadline) = entry.deadline.filter(|at| *at <= now) else { continue };
            entry.deadline = None;
            if !entry.status.is_final() {
                let (task_id, key) = (entry.brief.id, Arc::clone(&entry.brief.key));
                tracing::warn!(%task_id, %deadline, "a task is overdue");
                events.push(NewEvent::of_task(now, task_id, None, EventBody::TaskOverdue { key, deadline }));
            }
        }
        events
    }

    /// The next time that matters.
    fn next_time(&self, now: Timestamp) -> Option<Timestamp> {
        let is_open = |status: TaskStatus| !status.is_final();
        let open = self.tasks.iter().filter(|entry| is_open(entry.status));
        open.flat_map(|entry| [entry.planned_for, entry.deadline]).flatten().filter(|at| *at > now).min()
    }
}

impl State {
    /// Begins what may begin now, tells of deadlines that have passed, and looks again when the next time comes.
    pub(super) fn look_at_clock(&mut self, myself: &ActorRef<Message>) {
        let now = self.args.deps.clock.now();
        self.next_time = None;
        let Some(run) = self.run.as_mut().filter(|run| !run.is_ending && run.dag.is_some()) else { return };
        let (due, events) = (run.due(now), run.overdue(now));
        if let Some(at) = run.next_time(now) {
            let wait = at.since(now).min(LOOK_MAX);
            self.next_time = Some(remind(myself, wait, || Message::LookAtClock));
        }
        self.tell(myself, events, now);
        for node in due {
            self.apply(myself, schedule::Event::Due { node });
        }
    }
}
