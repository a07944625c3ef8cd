//! Looks for a shorter timetable than the one at hand.
//!
//! First the plan is scheduled back and forth: what ends last is taken first from behind, then what starts first from before
//! (Li and Willis 1992, "An iterative scheduling technique for resource-constrained project scheduling"). Then, for plans
//! that are not too large, [`search`] looks at all that can be shorter, as far as its limit goes.
//!
//! **Invariant:** the result is never longer than what was given.

use std::num::NonZeroUsize;

use super::{
    Graph,
    graph::places,
    list,
    search::{self, TASKS_MAX},
    to_u32,
};

/// Times a plan is scheduled back and forth at most.
const ROUNDS_MAX: usize = 12;
/// Tasks and needs that all rounds together look at, at most.
const WORK_MAX: usize = 4_000_000;
/// What is shorter by less than this share is not shorter.
pub(super) const NOISE: f64 = 1e-9;

/// The shortest timetable that was found, as starts.
pub(super) fn improve(graph: &Graph, workers: NonZeroUsize, starts: Vec<f64>) -> Vec<f64> {
    let bound = lower_bound(graph, workers);
    let mut best = Best { makespan: graph.makespan(&starts), starts, bound };
    let size = graph.len() + graph.needs.iter().map(Vec::len).sum::<usize>();
    back_and_forth(graph, workers, ROUNDS_MAX.min(WORK_MAX / size.max(1)), &mut best);
    if !best.is_shortest() && graph.len() <= TASKS_MAX {
        search::search(graph, workers, &mut best);
    }
    best.starts
}

/// The shortest timetable so far.
pub(super) struct Best {
    pub(super) starts: Vec<f64>,
    pub(super) makespan: f64,
    /// No timetable is shorter.
    bound: f64,
}

impl Best {
    /// Whether a timetable of this length is no gain.
    pub(super) fn is_beyond(&self, makespan: f64) -> bool {
        makespan >= self.makespan * (1.0 - NOISE)
    }

    pub(super) fn is_shortest(&self) -> bool {
        self.is_beyond(self.bound)
    }

    pub(super) fn offer(&mut self, graph: &Graph, starts: Vec<f64>) -> bool {
        let makespan = graph.makespan(&starts);
        if self.is_beyond(makespan) {
            return false;
        }
        (self.starts, self.makespan) = (starts, makespan);
        true
    }
}

fn back_and_forth(graph: &Graph, workers: NonZeroUsize, rounds: usize, best: &mut Best) {
    let reversed = graph.reversed();
    let mut starts = best.starts.clone();
    for _ in 0..rounds {
        if best.is_shortest() {
            return;
        }
        let ends: Vec<f64> = starts.iter().zip(&graph.seconds).map(|(start, seconds)| -(start + seconds)).collect();
        let from_behind = list::starts(&reversed, &ranks(&ends), workers);
        let ends: Vec<f64> =
            from_behind.iter().zip(&graph.seconds).map(|(start, seconds)| -(start + seconds)).collect();
        starts = list::starts(graph, &ranks(&ends), workers);
        if !best.offer(graph, starts.clone()) {
            return;
        }
    }
}

/// Places of tasks by a number, the lowest first; of equals the lower index.
fn ranks(by: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..to_u32(by.len())).collect();
    order.sort_by(|one, two| by[*one as usize].total_cmp(&by[*two as usize]));
    places(&order)
}

/// What every timetable takes at least: the longest way from when it may begin, and the work of all tasks that neither start early nor end late.
fn lower_bound(graph: &Graph, workers: NonZeroUsize) -> f64 {
    let (heads, tails) = (graph.heads(), graph.tails());
    let mut bound = heads.iter().zip(&tails).map(|(head, tail)| head + tail).fold(0.0, f64::max);
    let after: Vec<f64> = tails.iter().zip(&graph.seconds).map(|(tail, seconds)| tail - seconds).collect();
    for by in [&heads, &after] {
        // Tasks with the longest way before (or after) them first: their work lies behind (or before) the shortest of these.
        let mut order: Vec<usize> = (0..by.len()).collect();
        order.sort_by(|one, two| by[*two].total_cmp(&by[*one]));
        let mut work = 0.0;
        for task in order {
            work += graph.seconds[task];
            bound = bound.max(by[task] + work / workers.get() as f64);
        }
    }
    bound
}
