//! A graph of tasks before anything happened: what it takes at least, and which tasks that rests on.
//!
//! **Invariant:** everything here costs O(tasks + needs) but for sorting.

use std::cmp::Reverse;

use crewline_types::Priority;

use super::{Cycle, Strategy, cycle::refuse_bad, to_u32};

/// A task before anything happened; its index is its place in the list.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The indexes of the tasks it needs.
    pub needs: Vec<u32>,
    /// Higher goes first.
    pub priority: Priority,
    /// Seconds, when known; what is negative or no number is read as unknown.
    pub duration: Option<f64>,
}

/// Seconds that a task without a duration counts.
const UNKNOWN_SECONDS: f64 = 1.0;
/// Seconds of a task at most, so that no sum of them overflows.
const SECONDS_MAX: f64 = 1e15;
/// An urgency counts nanoseconds.
const PER_SECOND: f64 = 1e9;

/// The graph of a plan.
#[derive(Debug, Clone)]
pub struct Graph {
    pub(super) needs: Vec<Vec<u32>>,
    pub(super) dependents: Vec<Vec<u32>>,
    pub(super) priorities: Vec<Priority>,
    pub(super) seconds: Vec<f64>,
    /// When each task may begin, in seconds from the beginning.
    pub(super) releases: Vec<f64>,
    /// Every task after those it needs.
    order: Vec<u32>,
    unknown: usize,
}

/// The longest way through a graph.
#[derive(Debug, Clone, PartialEq)]
pub struct CriticalPath {
    /// Seconds from the beginning to the end, however many workers there are.
    pub length: f64,
    /// The tasks of one longest way, in the order in which they run.
    pub path: Vec<u32>,
    /// When each task can start at the earliest.
    pub earliest: Vec<f64>,
    /// What each task takes; one second when that is not known.
    pub seconds: Vec<f64>,
    /// By how much each task can be late without delaying the end; 0 on a longest way.
    pub slack: Vec<f64>,
}

impl Graph {
    /// Makes a graph, or says why it is none.
    pub fn new(jobs: Vec<Job>) -> Result<Self, Cycle> {
        let needs: Vec<&[u32]> = jobs.iter().map(|it| it.needs.as_slice()).collect();
        refuse_bad(0, &needs)?;
        let is_known = |it: &Option<f64>| it.is_some_and(|it| it.is_finite() && it >= 0.0);
        let unknown = jobs.iter().filter(|it| !is_known(&it.duration)).count();
        let mut graph = Self {
            needs: Vec::with_capacity(jobs.len()),
            dependents: vec![Vec::new(); jobs.len()],
            priorities: Vec::with_capacity(jobs.len()),
            seconds: Vec::with_capacity(jobs.len()),
            releases: vec![0.0; jobs.len()],
            order: Vec::with_capacity(jobs.len()),
            unknown,
        };
        for (index, mut job) in (0_u32..).zip(jobs) {
            job.needs.sort_unstable();
            job.needs.dedup();
            for need in &job.needs {
                graph.dependents[*need as usize].push(index);
            }
            graph.needs.push(job.needs);
            graph.priorities.push(job.priority);
            // `+ 0.0` makes a negative zero a zero.
            graph.seconds.push(
                job.duration.filter(|it| is_known(&Some(*it))).map_or(UNKNOWN_SECONDS, |it| it.min(SECONDS_MAX) + 0.0),
            );
        }
        graph.sort();
        Ok(graph)
    }

    fn sort(&mut self) {
        let mut open_needs: Vec<u32> = self.needs.iter().map(|it| to_u32(it.len())).collect();
        self.order.extend((0..to_u32(self.len())).filter(|it| open_needs[*it as usize] == 0));
        let mut head = 0;
        while let Some(&at) = self.order.get(head) {
            head += 1;
            for &to in &self.dependents[at as usize] {
                open_needs[to as usize] -= 1;
                if open_needs[to as usize] == 0 {
                    self.order.push(to);
                }
            }
        }
    }

    /// The same graph, whose tasks do not begin before these seconds, by their index; what is negative or no number is no bound.
    #[must_use]
    pub fn released(mut self, releases: &[f64]) -> Self {
        for (own, release) in self.releases.iter_mut().zip(releases) {
            *own = release.clamp(0.0, SECONDS_MAX);
            if own.is_nan() {
                *own = 0.0;
            }
        }
        self
    }

    /// The number of tasks.
    pub fn len(&self) -> usize {
        self.seconds.len()
    }

    /// Whether there is no task at all.
    pub fn is_empty(&self) -> bool {
        self.seconds.is_empty()
    }

    /// Tasks without a duration; each counts as one second.
    pub fn unknown(&self) -> usize {
        self.unknown
    }

    /// Whether the duration of any task is known.
    pub fn has_durations(&self) -> bool {
        self.unknown < self.len()
    }

    /// The same tasks with every need turned round; all may begin at once.
    pub(super) fn reversed(&self) -> Self {
        Self {
            needs: self.dependents.clone(),
            dependents: self.needs.clone(),
            releases: vec![0.0; self.len()],
            order: self.order.iter().rev().copied().collect(),
            ..self.clone()
        }
    }

    /// When each task can start at the earliest.
    pub(super) fn heads(&self) -> Vec<f64> {
        self.earliest(self.releases.clone())
    }

    /// The same, when none may start before these.
    fn earliest(&self, mut heads: Vec<f64>) -> Vec<f64> {
        for &at in &self.order {
            let end = heads[at as usize] + self.seconds[at as usize];
            for &to in &self.dependents[at as usize] {
                heads[to as usize] = end.max(heads[to as usize]);
            }
        }
        heads
    }

    /// Seconds from the start of each task to the end of the plan, at least.
    pub(super) fn tails(&self) -> Vec<f64> {
        let mut tails = self.seconds.clone();
        for &at in self.order.iter().rev() {
            let after = self.dependents[at as usize].iter().map(|to| tails[*to as usize]).fold(0.0, f64::max);
            tails[at as usize] += after;
        }
        tails
    }

    /// The longest way through the graph, whenever its tasks may begin.
    pub fn critical_path(&self) -> CriticalPath {
        let (earliest, tails) = (self.earliest(vec![0.0; self.len()]), self.tails());
        let longest = |among: &mut dyn Iterator<Item = u32>| {
            // Of equals the first.
            among.reduce(|best, it| if tails[it as usize] > tails[best as usize] { it } else { best })
        };
        let mut path = Vec::new();
        let mut next = longest(&mut (0..to_u32(self.len())).filter(|it| self.needs[*it as usize].is_empty()));
        while let Some(at) = next {
            path.push(at);
            next = longest(&mut self.dependents[at as usize].iter().copied());
        }
        let length = path.first().map_or(0.0, |it| tails[*it as usize]);
        // Sums in another order differ in their last digits, which is no slack.
        let noise = length * 1e-12;
        let slack = earliest.iter().zip(&tails).map(|(head, tail)| length - head - tail);
        let slack = slack.map(|it| if it <= noise { 0.0 } else { it }).collect();
        CriticalPath { length, path, earliest, seconds: self.seconds.clone(), slack }
    }

    /// What a strategy says of each task: among those that are ready the higher number goes first, before any priority.
    pub fn urgencies(&self, strategy: Strategy) -> Vec<u64> {
        match strategy {
            Strategy::Dag if self.has_durations() => self.tails().into_iter().map(nanoseconds).collect(),
            Strategy::Dag => vec![0; self.len()],
            Strategy::Bfs => self.levels().into_iter().map(|it| u64::MAX - it).collect(),
            Strategy::Postorder => self.postorder().into_iter().map(|it| u64::MAX - it).collect(),
        }
    }

    /// Places in the order of a strategy, 0 for what goes first.
    pub(super) fn ranks(&self, strategy: Strategy) -> Vec<u32> {
        let urgencies = self.urgencies(strategy);
        let key = |it: &u32| (Reverse(urgencies[*it as usize]), Reverse(self.priorities[*it as usize]), *it);
        let mut order: Vec<u32> = (0..to_u32(self.len())).collect();
        order.sort_unstable_by_key(key);
        places(&order)
    }

    fn levels(&self) -> Vec<u64> {
        let mut levels = vec![0_u64; self.len()];
        for &at in &self.order {
            let next = levels[at as usize] + 1;
            for &to in &self.dependents[at as usize] {
                levels[to as usize] = next.max(levels[to as usize]);
            }
        }
        levels
    }

    fn postorder(&self) -> Vec<u64> {
        let by_priority = |list: &mut Vec<u32>| list.sort_by_key(|it| (Reverse(self.priorities[*it as usize]), *it));
        let mut sinks: Vec<u32> =
            (0..to_u32(self.len())).filter(|it| self.dependents[*it as usize].is_empty()).collect();
        by_priority(&mut sinks);
        let (mut places, mut next) = (vec![0_u64; self.len()], 0);
        let mut is_seen = vec![false; self.len()];
        for sink in sinks {
            // The task and what it still has to visit, the next one last.
            let mut stack = vec![(sink, None)];
            while let Some((at, rest)) = stack.last_mut() {
                let at = *at as usize;
                let rest = rest.get_or_insert_with(|| {
                    let mut needs = self.needs[at].clone();
                    by_priority(&mut needs);
                    needs.reverse();
                    needs
                });
                match rest.pop() {
                    Some(need) if is_seen[need as usize] => {}
                    Some(need) => {
                        is_seen[need as usize] = true;
                        stack.push((need, None));
                    }
                    None => {
                        places[at] = next;
                        next += 1;
                        stack.pop();
                    }
                }
            }
        }
        places
    }
}

/// The place of each task in an order.
pub(super) fn places(order: &[u32]) -> Vec<u32> {
    let mut places = vec![0; order.len()];
    for (place, task) in (0_u32..).zip(order) {
        places[*task as usize] = place;
    }
    places
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "not negative; what is too large is the largest"
)]
fn nanoseconds(seconds: f64) -> u64 {
    (seconds * PER_SECOND) as u64
}
