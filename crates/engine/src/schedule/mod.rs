//! Which tasks run next: a graph, events in, actions out. And, when durations are known, when each would run.
//!
//! [`Dag`] is the graph of a run that is going on; [`Graph`] is the same graph before anything happened: its critical path,
//! its timetable, and the order in which [`Dag`] takes tasks that are ready.
//!
//! **Invariant:** a task runs only after all tasks it needs are done, and never again once it is done.
//! **Invariant:** at most `limits.parallel_max` tasks run at once, those that were taken over aside; among those that are ready
//! the more urgent goes first, then the higher priority, then the lower index, so a schedule is deterministic.
//! **Invariant:** a failed task blocks the tasks that need it, directly or through others, each once, and no others.
//! **Invariant:** every edge is looked at once when its need is done or lost, so an event costs what it touches.
//! **Invariant:** a task that waits for another may get a further need; a circle is never closed.
//! **Invariant:** late and repeated events do nothing; the end is announced once.

mod cycle;
mod dag;
mod event;
mod graph;
mod improve;
mod list;
mod search;
#[cfg(test)]
pub(crate) mod simulation;
mod strategy;
mod timetable;
#[cfg(test)]
#[expect(clippy::float_cmp, reason = "times are promised to the last digit")]
mod timetable_tests;

pub use cycle::Cycle;
pub use dag::Dag;
pub use event::{Action, Begun, Event, Finish, Limits, Node, Retry, Stage};
pub use graph::{CriticalPath, Graph, Job};
pub use strategy::Strategy;
pub use timetable::{Slot, Timetable};

/// Ends a list of edges.
const NONE: u32 = u32::MAX;

fn to_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
