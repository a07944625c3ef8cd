//! When each task of a plan would run on so many workers.
//!
//! **Invariant:** no two tasks of a worker overlap, no task starts before those it needs have ended nor before it may begin, and
//! the end of a task is its start plus its duration, to the last digit.
//! **Invariant:** the work is bounded, whatever the graph; the same graph gives the same timetable.

use std::num::NonZeroUsize;

use super::{Graph, Strategy, improve, list};

/// When each task runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Timetable {
    /// By the index of the task.
    pub slots: Vec<Slot>,
    /// When the last task ends.
    pub makespan: f64,
}

/// When a task runs, in seconds from the beginning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slot {
    /// When it starts.
    pub start: f64,
    /// When it ends.
    pub end: f64,
}

impl Graph {
    /// A timetable for so many workers; `None` is one for each task.
    ///
    /// With [`Strategy::Dag`] it starts from the order in which a run takes its tasks and looks for a shorter one; the shortest
    /// is found for most plans of up to some dozen tasks. The other strategies keep their order, as a run does.
    pub fn timetable(&self, workers: Option<NonZeroUsize>, strategy: Strategy) -> Timetable {
        let workers = workers.filter(|it| it.get() < self.len());
        let starts = match workers {
            None => self.heads(),
            Some(workers) => {
                let starts = list::starts(self, &self.ranks(strategy), workers);
                match strategy {
                    Strategy::Dag => improve::improve(self, workers, starts),
                    Strategy::Bfs | Strategy::Postorder => starts,
                }
            }
        };
        let slots =
            starts.iter().zip(&self.seconds).map(|(start, seconds)| Slot { start: *start, end: start + seconds });
        Timetable { slots: slots.collect(), makespan: self.makespan(&starts) }
    }

    /// When the last task ends.
    pub(super) fn makespan(&self, starts: &[f64]) -> f64 {
        starts.iter().zip(&self.seconds).map(|(start, seconds)| start + seconds).fold(0.0, f64::max)
    }
}
