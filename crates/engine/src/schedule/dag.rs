//! The graph of a run that is going on.
//!
//! **Invariant:** an event touches only the task it is about and the edges that leave it.

mod grow;

use std::{cmp::Reverse, collections::BinaryHeap};

use crewline_types::Priority;

use super::{Action, Begun, Cycle, Event, Finish, Limits, Node, Retry, Stage};

/// What goes first among those that are ready; of equals the lower index.
type Rank = (u64, Priority);

#[derive(Debug)]
struct Slot {
    rank: Rank,
    stage: Stage,
    attempt: u32,
    /// Attempts that were lost; they are no tries.
    lost_attempts: u32,
    /// Needs that are not done yet.
    open_needs: u32,
    /// Waits for its retry time.
    is_held: bool,
    /// Is not to begin yet.
    is_planned: bool,
    /// The first and last edge to a task that needs this one.
    first: u32,
    last: u32,
}

/// An edge to a task that needs the one whose list it is in. One list for all tasks: no allocation per task.
#[derive(Debug)]
struct Edge {
    to: u32,
    next: u32,
}

/// The tasks of one run.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug)]
pub struct Dag {
    slots: Vec<Slot>,
    edges: Vec<Edge>,
    limits: Limits,
    ready: BinaryHeap<(Rank, Reverse<u32>)>,
    /// Loaded as waiting though a need of theirs is lost; blocked as soon as the run begins.
    doomed: Vec<(u32, u32)>,
    running: usize,
    /// Wait for a person.
    parked: usize,
    /// Wait for their retry time.
    held: usize,
    /// Wait for nothing but the time they are planned for.
    planned: usize,
    /// Whether [`Action::Wait`] was said and nothing happened since.
    is_waiting: bool,
    /// Waiting, running or parked.
    open: usize,
    /// Failed or blocked.
    lost: usize,
    /// Attempts that were taken over; they may be more than run at once now.
    adopted_max: usize,
    has_begun: bool,
    is_draining: bool,
    is_ended: bool,
    #[cfg(test)]
    pub(super) visits: u64,
}

impl Dag {
    /// Makes a graph of `nodes`. Nothing runs before [`Event::Begin`].
    pub fn new(nodes: Vec<Node>, limits: Limits) -> Result<Self, Cycle> {
        let limits =
            Limits { parallel_max: limits.parallel_max.max(1), attempts_max: limits.attempts_max.max(1), ..limits };
        let mut dag = Self {
            slots: Vec::with_capacity(nodes.len()),
            edges: Vec::with_capacity(nodes.iter().map(|it| it.needs.len()).sum()),
            limits,
            ready: BinaryHeap::new(),
            doomed: Vec::new(),
            running: 0,
            parked: 0,
            held: 0,
            planned: 0,
            is_waiting: false,
            open: 0,
            lost: 0,
            adopted_max: 0,
            has_begun: false,
            is_draining: false,
            is_ended: false,
            #[cfg(test)]
            visits: 0,
        };
        dag.extend(nodes)?;
        Ok(dag)
    }

    /// Applies one event and says what to do now.
    pub fn apply(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.is_ended {
            return actions;
        }
        match event {
            Event::Begin if self.has_begun => return actions,
            Event::Begin => {
                self.has_begun = true;
                self.block_doomed(&mut actions);
            }
            Event::Succeeded { node, attempt } => {
                if !self.is_current(node, attempt) {
                    return actions;
                }
                self.succeed(node);
            }
            Event::AttemptFailed { node, attempt, retry } => {
                if !self.is_current(node, attempt) {
                    return actions;
                }
                self.fail(node, attempt, retry, &mut actions);
            }
            Event::AttemptLost { node, attempt } => {
                if !self.is_current(node, attempt) {
                    return actions;
                }
                self.running -= 1;
                let slot = &mut self.slots[node as usize];
                slot.stage = Stage::Waiting;
                slot.lost_attempts += 1;
                self.ready.push((slot.rank, Reverse(node)));
            }
            Event::AttemptParked { node, attempt } => {
                if !self.is_current(node, attempt) {
                    return actions;
                }
                self.running -= 1;
                self.held += 1;
                let slot = &mut self.slots[node as usize];
                slot.stage = Stage::Waiting;
                slot.lost_attempts += 1;
                slot.is_held = true;
            }
            Event::Parked { node, attempt } => {
                if !self.is_current(node, attempt) {
                    return actions;
                }
                self.running -= 1;
                self.parked += 1;
                let slot = &mut self.slots[node as usize];
                slot.stage = Stage::Parked;
                slot.lost_attempts += 1;
            }
            Event::Resumed { node } => {
                let Some(slot) = self.slots.get_mut(node as usize).filter(|it| it.stage == Stage::Parked) else {
                    return actions;
                };
                slot.stage = Stage::Waiting;
                self.parked -= 1;
                self.is_waiting = false;
                if slot.open_needs == 0 {
                    self.ready.push((slot.rank, Reverse(node)));
                }
            }
            Event::RetryDue { node } => {
                let is_draining = self.is_draining;
                let Some(slot) = self.slots.get_mut(node as usize).filter(|it| it.is_held && !is_draining) else {
                    return actions;
                };
                slot.is_held = false;
                self.held -= 1;
                self.ready.push((slot.rank, Reverse(node)));
            }
            Event::Due { node } => {
                let Some(slot) = self.slots.get_mut(node as usize).filter(|it| it.is_planned) else { return actions };
                slot.is_planned = false;
                if slot.stage == Stage::Waiting && slot.open_needs == 0 {
                    self.planned -= 1;
                    self.ready.push((slot.rank, Reverse(node)));
                }
            }
            Event::Drain if self.is_draining => return actions,
            Event::Drain => self.is_draining = true,
        }
        self.advance(&mut actions);
        self.assert_invariants();
        actions
    }

    /// Keeps a waiting task back until [`Event::Due`], before [`Event::Begin`]; false when it can not wait.
    pub fn plan(&mut self, node: u32) -> bool {
        let has_begun = self.has_begun;
        let Some(slot) = self.slots.get_mut(node as usize) else { return false };
        if has_begun || slot.stage != Stage::Waiting || slot.is_planned {
            return false;
        }
        slot.is_planned = true;
        if slot.open_needs == 0 {
            self.planned += 1;
            self.ready.retain(|(_, Reverse(ready))| *ready != node);
        }
        true
    }

    /// Takes over an attempt that runs elsewhere, before [`Event::Begin`]; false when the task can not be running, or when
    /// what is recorded of it does not fit this attempt: what it makes could not be recorded.
    pub fn adopt(&mut self, node: u32, attempt: u32, begun: Begun) -> bool {
        let has_begun = self.has_begun;
        let Some(slot) = self.slots.get_mut(node as usize) else { return false };
        let is_current = match begun {
            Begun::Recorded => attempt == slot.attempt,
            Begun::Not => attempt == slot.attempt.saturating_add(1),
        };
        if has_begun || slot.stage != Stage::Waiting || slot.open_needs > 0 || attempt == 0 || !is_current {
            return false;
        }
        slot.stage = Stage::Running;
        slot.attempt = attempt;
        if std::mem::take(&mut slot.is_planned) {
            self.planned -= 1;
        }
        self.running += 1;
        self.adopted_max = self.adopted_max.max(self.running);
        self.ready.retain(|(_, Reverse(ready))| *ready != node);
        true
    }

    /// Where a task is; one that does not exist is blocked.
    pub fn stage(&self, node: u32) -> Stage {
        self.slots.get(node as usize).map_or(Stage::Blocked, |it| it.stage)
    }

    /// Tasks running now.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Tasks that could run now but for `parallel_max`: the depth of the queue.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// The last attempt of a task; 0 before the first.
    pub fn attempt(&self, node: u32) -> u32 {
        self.slots.get(node as usize).map_or(0, |it| it.attempt)
    }

    /// The number of tasks.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no task at all.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether the end was announced.
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }

    fn is_current(&self, node: u32, attempt: u32) -> bool {
        self.slots.get(node as usize).is_some_and(|it| it.stage == Stage::Running && it.attempt == attempt)
    }

    fn succeed(&mut self, node: u32) {
        self.running -= 1;
        self.open -= 1;
        let slot = &mut self.slots[node as usize];
        slot.stage = Stage::Done;
        let mut next = slot.first;
        while let Some(edge) = self.edges.get(next as usize) {
            next = edge.next;
            let to = edge.to;
            #[cfg(test)]
            {
                self.visits += 1;
            }
            let slot = &mut self.slots[to as usize];
            slot.open_needs -= 1;
            if slot.open_needs == 0 && slot.stage == Stage::Waiting {
                if slot.is_planned {
                    self.planned += 1;
                } else {
                    self.ready.push((slot.rank, Reverse(to)));
                }
            }
        }
    }

    fn fail(&mut self, node: u32, attempt: u32, retry: Retry, actions: &mut Vec<Action>) {
        self.running -= 1;
        let slot = &mut self.slots[node as usize];
        let is_retried = match retry {
            Retry::May => attempt.saturating_sub(slot.lost_attempts) < self.limits.attempts_max,
            Retry::Never => false,
        };
        if is_retried {
            slot.stage = Stage::Waiting;
            slot.is_held = true;
            self.held += 1;
            actions.push(Action::RetryAfter { node, delay: self.limits.retry_delay(attempt) });
        } else {
            slot.stage = Stage::Failed;
            self.open -= 1;
            self.lost += 1;
            actions.push(Action::Fail { node });
            self.block_dependents(node, node, actions);
        }
    }

    fn block_doomed(&mut self, actions: &mut Vec<Action>) {
        for (node, because) in std::mem::take(&mut self.doomed) {
            if self.block(node, because, actions) {
                self.block_dependents(node, because, actions);
            }
        }
    }

    /// True when the task was waiting until now.
    fn block(&mut self, node: u32, because: u32, actions: &mut Vec<Action>) -> bool {
        let slot = &mut self.slots[node as usize];
        match slot.stage {
            Stage::Waiting => {}
            Stage::Parked => self.parked -= 1,
            Stage::Running | Stage::Done | Stage::Failed | Stage::Blocked => return false,
        }
        slot.stage = Stage::Blocked;
        if std::mem::take(&mut slot.is_planned) && slot.open_needs == 0 {
            self.planned -= 1;
        }
        self.open -= 1;
        self.lost += 1;
        actions.push(Action::Block { node, because });
        true
    }

    fn block_dependents(&mut self, node: u32, because: u32, actions: &mut Vec<Action>) {
        let mut found = vec![node];
        while let Some(node) = found.pop() {
            let mut next = self.slots[node as usize].first;
            while let Some(edge) = self.edges.get(next as usize) {
                next = edge.next;
                let to = edge.to;
                #[cfg(test)]
                {
                    self.visits += 1;
                }
                if self.block(to, because, actions) {
                    found.push(to);
                }
            }
        }
    }

    fn advance(&mut self, actions: &mut Vec<Action>) {
        if self.has_begun && !self.is_draining {
            while self.running < self.limits.parallel_max {
                let Some((_, Reverse(node))) = self.ready.pop() else { break };
                let slot = &mut self.slots[node as usize];
                slot.stage = Stage::Running;
                slot.attempt += 1;
                self.running += 1;
                actions.push(Action::Dispatch { node, attempt: slot.attempt });
            }
        }
        let finish = if self.open == 0 && (self.has_begun || self.is_draining) {
            if self.lost == 0 { Finish::AllDone } else { Finish::SomeFailed }
        } else if self.is_draining && self.running == 0 {
            Finish::Drained
        } else {
            let is_waiting =
                self.has_begun && self.running == 0 && self.held == 0 && self.planned == 0 && self.parked > 0;
            if is_waiting && !self.is_waiting {
                actions.push(Action::Wait);
            }
            self.is_waiting = is_waiting;
            return;
        };
        self.is_ended = true;
        actions.push(Action::Finish(finish));
    }

    fn assert_invariants(&self) {
        debug_assert!(self.running <= self.limits.parallel_max.max(self.adopted_max));
        debug_assert!(self.running <= self.open && self.open + self.lost <= self.slots.len());
        debug_assert!(
            self.is_ended || !self.has_begun || self.running + self.held + self.planned + self.parked > 0,
            "the run is stuck"
        );
    }
}
