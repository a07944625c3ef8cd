//! Which needs make a graph that can run.
//!
//! **Invariant:** a graph whose needs stand before their tasks costs one look at each need, and no allocation.

use crewline_types::ErrorKind;

use super::{NONE, to_u32};

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

/// Refuses the needs of new tasks, the first of which has the index `base`. No old task needs a new one yet, so a circle can
/// only be among the new ones.
pub(super) fn refuse_bad(base: u32, needs: &[&[u32]]) -> Result<(), Cycle> {
    let end = base.saturating_add(to_u32(needs.len()));
    let mut is_in_order = true;
    for (node, list) in (base..).zip(needs) {
        for &need in *list {
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
    let mut dependents: Vec<Vec<u32>> = vec![Vec::new(); needs.len()];
    let mut open_needs = vec![0_u32; needs.len()];
    for (index, list) in (0_u32..).zip(needs) {
        for need in list.iter().filter_map(local) {
            dependents[need].push(index);
            open_needs[index as usize] += 1;
        }
    }
    let mut free: Vec<u32> = (0..to_u32(needs.len())).filter(|it| open_needs[*it as usize] == 0).collect();
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
    let (mut path, mut seen) = (vec![start], vec![NONE; needs.len()]);
    seen[start] = 0;
    let mut at = start;
    while let Some(next) = needs[at].iter().filter_map(local).find(|it| open_needs[*it] > 0) {
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
