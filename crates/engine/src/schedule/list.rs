//! List scheduling: whenever a worker is free, the first of the tasks that are ready starts.
//!
//! **Invariant:** no worker is idle while a task is ready, as in [`super::Dag`]. A task that may not begin yet is not ready.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    num::NonZeroUsize,
};

use super::{Graph, to_u32};

/// When each task starts, with tasks that are ready taken in the order of `ranks`. O((tasks + needs) · log tasks).
pub(super) fn starts(graph: &Graph, ranks: &[u32], workers: NonZeroUsize) -> Vec<f64> {
    let mut starts = vec![0.0; graph.len()];
    let mut open_needs: Vec<u32> = graph.needs.iter().map(|it| to_u32(it.len())).collect();
    let rank = |task: u32| Reverse((ranks[task as usize], task));
    let mut ready = BinaryHeap::new();
    // By the bits of a time: they sort as the numbers do, for none is negative.
    let release = |task: u32| Reverse((graph.releases[task as usize].to_bits(), task));
    let mut waiting: BinaryHeap<_> =
        (0..to_u32(graph.len())).filter(|it| open_needs[*it as usize] == 0).map(release).collect();
    let mut running: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    let (mut now, mut free) = (0.0_f64, workers.get());
    loop {
        while let Some(Reverse((at, task))) = waiting.peek().copied()
            && at <= now.to_bits()
        {
            waiting.pop();
            ready.push(rank(task));
        }
        while free > 0
            && let Some(Reverse((_, task))) = ready.pop()
        {
            starts[task as usize] = now;
            free -= 1;
            running.entry((now + graph.seconds[task as usize]).to_bits()).or_default().push(task);
        }
        let next_end = running.first_key_value().map(|(end, _)| *end);
        let next_release = waiting.peek().map(|Reverse((at, _))| *at).filter(|_| free > 0);
        let Some(next) = next_end.into_iter().chain(next_release).min() else { return starts };
        now = f64::from_bits(next);
        let tasks = running.remove(&next).unwrap_or_default();
        free += tasks.len();
        for to in tasks.iter().flat_map(|it| &graph.dependents[*it as usize]) {
            open_needs[*to as usize] -= 1;
            if open_needs[*to as usize] == 0 {
                waiting.push(release(*to));
            }
        }
    }
}
