//! The call for a summary of a run that is under way: whoever takes it records its end, the scribe with the summary or the manager
//! with the end of the run.
//!
//! **Invariant:** a run that has ended has no call for a summary without an end, and counts what all of them cost.

use std::{
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    journal::Refusal,
    progress::{Ended, OpenCall, Progress, Spent},
};

/// The calls for summaries of a run.
#[derive(Debug, Default)]
pub struct SummaryCalls(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    open: Option<OpenCall>,
    spent: Spent,
    is_closed: bool,
}

/// What the manager records at the end of a run.
#[derive(Debug)]
pub struct Closed {
    /// What all calls for summaries cost.
    pub all: Spent,
    /// What of it is not recorded yet.
    pub open: Spent,
    /// The end of the call that was under way.
    pub ended: Ended,
}

impl SummaryCalls {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the beginning of a call on by `record`, before anybody can hand on the end of the run; `None` when that was done, or
    /// when a call is under way.
    pub fn begin<F>(&self, call: OpenCall, record: impl FnOnce() -> F) -> Option<F>
    where
        F: Future<Output = Result<(), Refusal>>,
    {
        let mut state = self.lock();
        let may_begin = state.open.is_none() && !state.is_closed;
        may_begin.then(|| {
            state.open = Some(call);
            record()
        })
    }

    /// The call is recorded and goes out; `false` when the run has ended meanwhile.
    pub fn sent(&self) -> bool {
        let mut state = self.lock();
        let open = state.open.as_mut().map(|open| open.is_sent = true);
        open.is_some()
    }

    /// The call was not recorded. Where that is not certain its end is recorded with that of the run.
    pub fn refused(&self, refusal: &Refusal) {
        match refusal {
            Refusal::Stale | Refusal::OverBudget { .. } | Refusal::Failed { .. } => self.lock().open = None,
            Refusal::Unknown => {}
        }
    }

    /// Hands the end of the call on by `record`, before anybody can hand on the end of the run; `None` when that was done, and the
    /// end of the call with it.
    pub fn end<F>(&self, spent: Spent, record: impl FnOnce() -> F) -> Option<F>
    where
        F: Future<Output = Result<(), Refusal>>,
    {
        let mut state = self.lock();
        state.open.take()?;
        state.spent += spent;
        Some(record())
    }

    /// The run ends: no call is begun any more, and that which is under way is cut off.
    pub fn close(&self) -> Closed {
        let mut state = self.lock();
        state.is_closed = true;
        let (open, ended) = Progress { open: state.open.take(), ..Progress::default() }.close();
        state.spent += open;
        Closed { all: state.spent, open, ended }
    }
}
