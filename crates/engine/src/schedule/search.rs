//! The shortest timetable of a small plan: branch and bound over active schedules.
//!
//! Tasks are placed in the order of their starts, each at once when its needs have ended and a worker is free. At each step
//! only those tasks are tried that start before another could have ended (Giffler and Thompson 1960, "Algorithms for solving
//! production-scheduling problems"): every other choice leaves a gap in which that one fits. A branch ends when the work that
//! is left can not be done before the best end so far, or when the same state was seen before.
//!
//! **Invariant:** at most [`LOOKS_MAX`] divided by the number of tasks are the steps; the same graph gives the same steps.

use std::{collections::HashSet, num::NonZeroUsize};

use super::{Graph, improve::Best, to_u32};

/// Tasks of a plan that is searched, at most.
pub(super) const TASKS_MAX: usize = 128;
/// Tasks looked at, at most, all branches together; a step looks at all tasks of the plan.
const LOOKS_MAX: usize = 4_000_000;
/// States remembered at most.
const SEEN_MAX: usize = 100_000;

/// Looks for a shorter timetable than `best`.
pub(super) fn search(graph: &Graph, workers: NonZeroUsize, best: &mut Best) {
    let tails = graph.tails();
    let mut by_tail: Vec<u32> = (0..to_u32(graph.len())).collect();
    by_tail.sort_by(|one, two| {
        let after = |it: &u32| tails[*it as usize] - graph.seconds[*it as usize];
        after(two).total_cmp(&after(one))
    });
    let mut search = Search {
        graph,
        best,
        tails,
        by_after: by_tail,
        starts: vec![0.0; graph.len()],
        ready_at: graph.releases.clone(),
        open_needs: graph.needs.iter().map(|it| to_u32(it.len())).collect(),
        is_placed: 0,
        steps_left: LOOKS_MAX / graph.len().max(1),
        seen: HashSet::new(),
    };
    search.place(&vec![0.0; workers.get()], 0.0, graph.len());
}

struct Search<'a> {
    graph: &'a Graph,
    best: &'a mut Best,
    tails: Vec<f64>,
    /// Tasks with the longest way after them first.
    by_after: Vec<u32>,
    starts: Vec<f64>,
    /// When each task may begin: when its needs have ended, as far as they are placed, and not before its release.
    ready_at: Vec<f64>,
    open_needs: Vec<u32>,
    /// A bit for each task.
    is_placed: u128,
    steps_left: usize,
    seen: HashSet<Box<[u64]>>,
}

impl Search<'_> {
    /// Places the tasks that are left. `free_at` is when each worker is free, sorted; nothing starts before `now` any more.
    fn place(&mut self, free_at: &[f64], now: f64, left: usize) {
        if left == 0 {
            self.best.offer(self.graph, self.starts.clone());
            return;
        }
        let free_at: Vec<f64> = free_at.iter().map(|it| it.max(now)).collect();
        if self.best.is_beyond(self.bound(&free_at)) || !self.is_new(&free_at) {
            return;
        }
        for (task, start) in self.choices(&free_at) {
            if self.steps_left == 0 || self.best.is_shortest() {
                return;
            }
            self.steps_left -= 1;
            let end = start + self.graph.seconds[task as usize];
            let mut free_at = free_at.clone();
            free_at[0] = end;
            free_at.sort_unstable_by(f64::total_cmp);
            let before = self.put(task, start, end);
            self.place(&free_at, start, left - 1);
            self.take(task, &before);
        }
    }

    /// Marks a task as placed and gives back what its dependents' readiness was.
    fn put(&mut self, task: u32, start: f64, end: f64) -> Vec<f64> {
        self.starts[task as usize] = start;
        self.is_placed |= 1 << task;
        let graph = self.graph;
        let dependents = &graph.dependents[task as usize];
        let before = dependents.iter().map(|it| self.ready_at[*it as usize]).collect();
        for to in dependents.iter().map(|it| *it as usize) {
            self.open_needs[to] -= 1;
            self.ready_at[to] = self.ready_at[to].max(end);
        }
        before
    }

    fn take(&mut self, task: u32, before: &[f64]) {
        self.is_placed &= !(1 << task);
        let graph = self.graph;
        for (to, before) in graph.dependents[task as usize].iter().map(|it| *it as usize).zip(before) {
            self.open_needs[to] += 1;
            self.ready_at[to] = *before;
        }
    }

    /// The tasks that may come next and when they start, the most promising first.
    fn choices(&self, free_at: &[f64]) -> Vec<(u32, f64)> {
        let mut ready: Vec<(u32, f64)> = (0..to_u32(self.graph.len()))
            .filter(|it| self.is_placed & (1 << it) == 0 && self.open_needs[*it as usize] == 0)
            .map(|it| (it, self.ready_at[it as usize].max(free_at[0])))
            .collect();
        let seconds = |it: u32| self.graph.seconds[it as usize];
        let first_end = ready.iter().map(|(task, start)| start + seconds(*task)).fold(f64::INFINITY, f64::min);
        // A task without a duration ends when it starts, and must not shut itself out.
        ready.retain(|(task, start)| *start < first_end || *start <= first_end && seconds(*task) <= 0.0);
        let key = |(task, start): &(u32, f64)| self.tails[*task as usize] - start;
        ready.sort_by(|one, two| key(two).total_cmp(&key(one)).then(seconds(two.0).total_cmp(&seconds(one.0))));
        let mut kept: Vec<(u32, f64)> = Vec::with_capacity(ready.len());
        for (task, start) in ready {
            // Of tasks that are alike one is enough.
            let is_alike = |other: u32| {
                seconds(other).total_cmp(&seconds(task)).is_eq()
                    && self.graph.dependents[other as usize] == self.graph.dependents[task as usize]
            };
            if !kept.iter().any(|(other, at)| at.total_cmp(&start).is_eq() && is_alike(*other)) {
                kept.push((task, start));
            }
        }
        kept
    }

    /// No way on from here ends before this.
    fn bound(&self, free_at: &[f64]) -> f64 {
        let mut bound = free_at.last().copied().unwrap_or(0.0);
        let (mut work, workers) = (free_at.iter().sum::<f64>(), free_at.len() as f64);
        for task in self.by_after.iter().map(|it| *it as usize).filter(|it| self.is_placed & (1 << it) == 0) {
            let seconds = self.graph.seconds[task];
            work += seconds;
            bound = bound
                .max(work / workers + self.tails[task] - seconds)
                .max(self.ready_at[task].max(free_at[0]) + self.tails[task]);
        }
        bound
    }

    /// Whether this state is seen for the first time.
    fn is_new(&mut self, free_at: &[f64]) -> bool {
        if self.seen.len() >= SEEN_MAX {
            return true;
        }
        let low = u64::try_from(self.is_placed & u128::from(u64::MAX)).unwrap_or_default();
        let high = u64::try_from(self.is_placed >> 64).unwrap_or_default();
        let mut state = vec![low, high];
        state.extend(free_at.iter().map(|it| it.to_bits()));
        // Every end of a placed task is before all workers are free, or is when one of them is.
        for (task, ready_at) in (0_u64..).zip(&self.ready_at) {
            if self.is_placed & (1 << task) == 0 && *ready_at > free_at[0] {
                state.extend([task, ready_at.to_bits()]);
            }
        }
        self.seen.insert(state.into())
    }
}
