//! Which tasks run next: a graph, events in, actions out.
//!
//! **Invariant:** a task runs only after all tasks it needs are done, and never again once it is done.
//! **Invariant:** at most `limits.parallel_max` tasks run at once; among those that are ready the higher priority goes first,
//! then the lower index, so a schedule is deterministic.
//! **Invariant:** a failed task blocks the tasks that need it, directly or through others, each once, and no others.
//! **Invariant:** every edge is looked at once when its need is done or lost, so an event costs what it touches.
//! **Invariant:** late and repeated events do nothing; the end is announced once.

#[cfg(test)]
pub(crate) mod simulation;

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use crewline_types::{ErrorKind, Priority};

/// A task as the schedule sees it; its index is its place in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Higher goes first.
    pub priority: Priority,
    /// The indexes of the tasks it needs.
    pub needs: Vec<u32>,
    /// Where it is; [`Stage::Running`] is read as waiting, for whoever ran it is gone.
    pub stage: Stage,
    /// Attempts so far. A task loaded as waiting always gets one more: an attempt that a crash ended did not fail.
    pub attempts: u32,
}

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Waits for the tasks it needs, a place, or its retry time.
    Waiting,
    /// An attempt runs.
    Running,
    /// Has a result.
    Done,
    /// Will never have a result.
    Failed,
    /// Needs a task that will never have a result.
    Blocked,
}

/// The bounds of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tasks running at once; zero is read as one.
    pub parallel_max: usize,
    /// Tries per task; zero is read as one.
    pub attempts_max: u32,
    /// The wait before the second try; it doubles with each further one.
    pub retry_delay_base: Duration,
    /// The longest wait between two tries.
    pub retry_delay_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            parallel_max: 16,
            attempts_max: 3,
            retry_delay_base: Duration::from_secs(1),
            retry_delay_max: Duration::from_mins(1),
        }
    }
}

impl Limits {
    /// How long to wait after `attempt` failed: base · 2^(attempt − 1), at most `retry_delay_max`.
    pub fn retry_delay(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        self.retry_delay_base.saturating_mul(1 << doublings).min(self.retry_delay_max)
    }
}

/// What happened outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The run may begin.
    Begin,
    /// An attempt has a result.
    Succeeded {
        /// The task.
        node: u32,
        /// The attempt, as [`Action::Dispatch`] named it.
        attempt: u32,
    },
    /// An attempt failed.
    AttemptFailed {
        /// The task.
        node: u32,
        /// The attempt, as [`Action::Dispatch`] named it.
        attempt: u32,
        /// Whether another try may help.
        retry: Retry,
    },
    /// An attempt was lost (its worker died, or it was aborted): it is made again at once and does not count as a try.
    AttemptLost {
        /// The task.
        node: u32,
        /// The attempt, as [`Action::Dispatch`] named it.
        attempt: u32,
    },
    /// The delay of [`Action::RetryAfter`] has passed.
    RetryDue {
        /// The task.
        node: u32,
    },
    /// Finish what runs, start nothing.
    Drain,
}

/// Whether another try may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// As long as tries are left.
    May,
    /// The same try would fail again.
    Never,
}

/// What the caller must do, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start this attempt of this task.
    Dispatch {
        /// The task.
        node: u32,
        /// 1 for the first.
        attempt: u32,
    },
    /// The attempt failed, another follows: send [`Event::RetryDue`] after this delay. While draining it is given too (the
    /// task goes back to waiting), and the event then does nothing.
    RetryAfter {
        /// The task.
        node: u32,
        /// How long to wait.
        delay: Duration,
    },
    /// The task failed for good.
    Fail {
        /// The task.
        node: u32,
    },
    /// The task can never run.
    Block {
        /// The task.
        node: u32,
        /// The task that failed, the first cause; for a graph loaded with blocked tasks, the blocked one.
        because: u32,
    },
    /// Nothing more will happen; always the last action.
    Finish(Finish),
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finish {
    /// Every task is done.
    AllDone,
    /// Some failed or are blocked, all others are done.
    SomeFailed,
    /// Drained while tasks were waiting.
    Drained,
}

/// Why nodes are not a graph we run. Indexes are those of the whole graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cycle {
    /// A task needs itself, through others or directly.
    #[error("tasks need each other in a circle: {}", arrows(path))]
    Closed {
        /// The way round; the first task is also the last.
        path: Vec<u32>,
    },
    /// A task needs one that does not exist.
    #[error("task {node} needs task {need}, which does not exist")]
    Dangling {
        /// The task.
        node: u32,
        /// What it needs.
        need: u32,
    },
}

impl Cycle {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Closed { .. } | Self::Dangling { .. } => ErrorKind::Invalid,
        }
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Closed { .. } => "plan.cycle",
            Self::Dangling { .. } => "plan.unknown_dependency",
        }
    }

    /// Never: the same graph is refused again.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Closed { .. } | Self::Dangling { .. } => false,
        }
    }
}

fn arrows(path: &[u32]) -> String {
    path.iter().map(u32::to_string).collect::<Vec<_>>().join(" → ")
}

/// Ends a list of edges.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Slot {
    priority: Priority,
    stage: Stage,
    attempt: u32,
    /// Attempts that were lost; they are no tries.
    lost_attempts: u32,
    /// Needs that are not done yet.
    open_needs: u32,
    /// Waits for its retry time.
    is_held: bool,
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
#[derive(Debug)]
pub struct Dag {
    slots: Vec<Slot>,
    edges: Vec<Edge>,
    limits: Limits,
    ready: BinaryHeap<(Priority, Reverse<u32>)>,
    /// Loaded as waiting though a need of theirs is lost; blocked as soon as the run begins.
    doomed: Vec<(u32, u32)>,
    running: usize,
    /// Waiting or running.
    open: usize,
    /// Failed or blocked.
    lost: usize,
    has_begun: bool,
    is_draining: bool,
    is_ended: bool,
    #[cfg(test)]
    visits: u64,
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
            open: 0,
            lost: 0,
            has_begun: false,
            is_draining: false,
            is_ended: false,
            #[cfg(test)]
            visits: 0,
        };
        dag.extend(nodes)?;
        Ok(dag)
    }

    /// Appends `nodes`; they may need any task, old or new. An error leaves the graph as it was.
    ///
    /// A graph that had ended with all tasks done or lost goes on with the new ones and ends once more; a drained one
    /// starts nothing. Call this before the event that would end the run, and its end is announced only once.
    #[expect(clippy::needless_pass_by_value, reason = "the nodes become part of the graph")]
    pub fn extend(&mut self, nodes: Vec<Node>) -> Result<Vec<Action>, Cycle> {
        let base = to_u32(self.slots.len());
        refuse_bad_graph(base, &nodes)?;
        for node in &nodes {
            let stage = match node.stage {
                Stage::Waiting | Stage::Running => Stage::Waiting,
                Stage::Done | Stage::Failed | Stage::Blocked => node.stage,
            };
            match stage {
                Stage::Waiting | Stage::Running => self.open += 1,
                Stage::Failed | Stage::Blocked => self.lost += 1,
                Stage::Done => {}
            }
            let (priority, attempt) = (node.priority, node.attempts);
            self.slots.push(Slot {
                priority,
                stage,
                attempt,
                lost_attempts: 0,
                open_needs: 0,
                is_held: false,
                first: NONE,
                last: NONE,
            });
        }
        for (index, node) in (base..).zip(&nodes) {
            if self.slots[index as usize].stage == Stage::Waiting {
                self.link(index, &node.needs);
            }
        }
        let mut actions = Vec::new();
        if self.is_ended && !self.is_draining && self.open > 0 {
            self.is_ended = false;
        }
        if self.has_begun && !self.is_ended {
            self.block_doomed(&mut actions);
            self.advance(&mut actions);
        }
        self.assert_invariants();
        Ok(actions)
    }

    fn link(&mut self, index: u32, needs: &[u32]) {
        let mut lost = None;
        let mut open_needs = 0;
        for &need in needs {
            let edge = to_u32(self.edges.len());
            let slot = &mut self.slots[need as usize];
            match slot.stage {
                Stage::Done => {}
                Stage::Failed | Stage::Blocked => lost = lost.or(Some(need)),
                Stage::Waiting | Stage::Running => {
                    open_needs += 1;
                    let last = std::mem::replace(&mut slot.last, edge);
                    if last == NONE {
                        slot.first = edge;
                    } else {
                        self.edges[last as usize].next = edge;
                    }
                    self.edges.push(Edge { to: index, next: NONE });
                }
            }
        }
        let slot = &mut self.slots[index as usize];
        slot.open_needs = open_needs;
        if let Some(need) = lost {
            self.doomed.push((index, need));
        } else if open_needs == 0 {
            self.ready.push((slot.priority, Reverse(index)));
        }
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
                self.ready.push((slot.priority, Reverse(node)));
            }
            Event::RetryDue { node } => {
                let is_draining = self.is_draining;
                let Some(slot) = self.slots.get_mut(node as usize).filter(|it| it.is_held && !is_draining) else {
                    return actions;
                };
                slot.is_held = false;
                self.ready.push((slot.priority, Reverse(node)));
            }
            Event::Drain if self.is_draining => return actions,
            Event::Drain => self.is_draining = true,
        }
        self.advance(&mut actions);
        self.assert_invariants();
        actions
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
                self.ready.push((slot.priority, Reverse(to)));
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
        if slot.stage != Stage::Waiting {
            return false;
        }
        slot.stage = Stage::Blocked;
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
            return;
        };
        self.is_ended = true;
        actions.push(Action::Finish(finish));
    }

    fn assert_invariants(&self) {
        debug_assert!(self.running <= self.limits.parallel_max);
        debug_assert!(self.running <= self.open && self.open + self.lost <= self.slots.len());
        debug_assert!(
            self.is_ended || !self.has_begun || self.running > 0 || self.slots.iter().any(|it| it.is_held),
            "the run is stuck"
        );
    }
}

/// Old tasks never get new needs, so a circle can only be among the new ones.
fn refuse_bad_graph(base: u32, nodes: &[Node]) -> Result<(), Cycle> {
    let end = base.saturating_add(to_u32(nodes.len()));
    let mut is_in_order = true;
    for (node, it) in (base..).zip(nodes) {
        for &need in &it.needs {
            if need >= end {
                return Err(Cycle::Dangling { node, need });
            }
            is_in_order &= need < node;
        }
    }
    // Every need before its task: the usual case, and no circle can be.
    if is_in_order {
        return Ok(());
    }
    let local = |need: &u32| need.checked_sub(base).map(|it| it as usize);
    let mut dependents: Vec<Vec<u32>> = vec![Vec::new(); nodes.len()];
    let mut open_needs = vec![0_u32; nodes.len()];
    for (index, node) in (0_u32..).zip(nodes) {
        for need in node.needs.iter().filter_map(local) {
            dependents[need].push(index);
            open_needs[index as usize] += 1;
        }
    }
    let mut free: Vec<u32> = (0..to_u32(nodes.len())).filter(|it| open_needs[*it as usize] == 0).collect();
    while let Some(index) = free.pop() {
        for &to in &dependents[index as usize] {
            open_needs[to as usize] -= 1;
            if open_needs[to as usize] == 0 {
                free.push(to);
            }
        }
    }
    let Some(start) = open_needs.iter().position(|it| *it > 0) else { return Ok(()) };
    // Each task that is left needs another that is left, so going from need to need comes round.
    let (mut path, mut seen) = (vec![start], vec![NONE; nodes.len()]);
    seen[start] = 0;
    let mut at = start;
    while let Some(next) = nodes[at].needs.iter().filter_map(local).find(|it| open_needs[*it] > 0) {
        path.push(next);
        if seen[next] != NONE {
            path.drain(..seen[next] as usize);
            break;
        }
        seen[next] = to_u32(path.len() - 1);
        at = next;
    }
    Err(Cycle::Closed { path: path.into_iter().map(|it| base + to_u32(it)).collect() })
}

fn to_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
