//! List scheduling: whenever a worker is free, the first of the tasks that are ready starts.
//!
//! **Invariant:** no worker is idle while a task is ready, as in [`super::Dag`].

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
    let mut ready: BinaryHeap<_> =
        (0..to_u32(graph.len())).filter(|it| open_needs[*it as usize] == 0).map(rank).collect();
    // By the bits of their end: they sort as the numbers do, for none is negative.
    let mut running: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    let (mut now, mut free) = (0.0, workers.get());
    loop {
        while free > 0
            && let Some(Reverse((_, task))) = ready.pop()
        {
            starts[task as usize] = now;
            free -= 1;
            running.entry((now + graph.seconds[task as usize]).to_bits()).or_default().push(task);
        }
        let Some((end, tasks)) = running.pop_first() else { return starts };
        now = f64::from_bits(end);
        free += tasks.len();
        for to in tasks.iter().flat_map(|it| &graph.dependents[*it as usize]) {
            open_needs[*to as usize] -= 1;
            if open_needs[*to as usize] == 0 {
                ready.push(rank(*to));
            }
        }
    }
}
