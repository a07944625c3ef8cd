//! A model on a thread of its own, started by the first job and ended when its last handle is dropped.
//!
//! **Invariant:** there is one thread at most.
//! **Invariant:** a job that is not done is dropped, and its reply with it: whoever waits for that is told.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::Error;

/// Jobs that wait, in the order of the model they are for.
pub(crate) trait Jobs: Default + Send + 'static {
    /// Drops them all.
    fn clear(&mut self);
}

/// What comes after a thread that panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterPanic {
    /// The next job starts another.
    StartAgain,
    /// It would do so again: no other is started.
    GiveUp,
}

/// Where jobs are put, and where the thread takes them.
pub(crate) struct Desk<J> {
    state: Mutex<State<J>>,
    changed: Condvar,
}

#[derive(Default)]
struct State<J> {
    jobs: J,
    is_closed: bool,
    is_running: bool,
    /// No thread is started any more.
    is_given_up: bool,
}

/// What the thread does.
type Work<J> = dyn Fn(&Desk<J>) + Send + Sync;

/// The handle; dropping it ends the thread.
pub(crate) struct Host<J: Jobs> {
    desk: Arc<Desk<J>>,
    name: &'static str,
    after_panic: AfterPanic,
    work: Arc<Work<J>>,
}

impl<J: Jobs> Drop for Host<J> {
    fn drop(&mut self) {
        self.desk.close();
    }
}

impl<J: Jobs> Host<J> {
    /// `work` is what the thread does, until [`Desk::next`] has nothing more for it. Nothing is started yet.
    pub(crate) fn new(
        name: &'static str,
        after_panic: AfterPanic,
        work: impl Fn(&Desk<J>) + Send + Sync + 'static,
    ) -> Self {
        let desk = Arc::new(Desk { state: Mutex::default(), changed: Condvar::new() });
        Self { desk, name, after_panic, work: Arc::new(work) }
    }

    /// Lets `put` put a job to the others, and starts the thread unless it runs.
    pub(crate) fn put<T>(&self, put: impl FnOnce(&mut J) -> Result<T, Error>) -> Result<T, Error> {
        let mut state = self.desk.lock();
        if state.is_closed || state.is_given_up {
            return Err(Error::Stopped);
        }
        let answer = put(&mut state.jobs)?;
        if !state.is_running {
            let (desk, work, after_panic) = (Arc::clone(&self.desk), Arc::clone(&self.work), self.after_panic);
            let started = thread::Builder::new().name(self.name.to_owned()).spawn(move || {
                let end = End { desk, after_panic };
                work(&end.desk);
            });
            if started.is_err() {
                state.jobs.clear();
                return Err(Error::Busy { waiting: 0 });
            }
            state.is_running = true;
        }
        self.desk.changed.notify_all();
        Ok(answer)
    }

    /// Refuses further jobs and waits until the thread has ended, at most for `limit`. True when it has. Blocks.
    pub(crate) fn close(&self, limit: Duration) -> bool {
        self.desk.close();
        let until = Instant::now() + limit;
        let mut state = self.desk.lock();
        while state.is_running {
            let Some(left) = until.checked_duration_since(Instant::now()) else { return false };
            state = self.desk.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// For tests that look at it after the handle is gone.
    #[cfg(test)]
    pub(crate) fn desk(&self) -> Arc<Desk<J>> {
        Arc::clone(&self.desk)
    }
}

impl<J: Jobs> Desk<J> {
    /// Waits until `take` finds a job. None when there will be no more.
    pub(crate) fn next<T>(&self, mut take: impl FnMut(&mut J) -> Option<T>) -> Option<T> {
        let mut state = self.lock();
        loop {
            if state.is_closed {
                return None;
            }
            if let Some(job) = take(&mut state.jobs) {
                return Some(job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether the handle is closed or gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// No thread is started after this one.
    pub(crate) fn give_up(&self) {
        self.lock().is_given_up = true;
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.jobs.clear();
        self.changed.notify_all();
    }

    /// For tests: waits until no thread runs.
    #[cfg(test)]
    pub(crate) fn until_ended(&self) {
        drop(self.changed.wait_while(self.lock(), |state| state.is_running).unwrap_or_else(PoisonError::into_inner));
    }
}

/// Says that the thread has ended, also when it panicked.
struct End<J: Jobs> {
    desk: Arc<Desk<J>>,
    after_panic: AfterPanic,
}

impl<J: Jobs> Drop for End<J> {
    fn drop(&mut self) {
        let mut state = self.desk.lock();
        state.is_running = false;
        state.is_given_up |= self.after_panic == AfterPanic::GiveUp && thread::panicking();
        state.jobs.clear();
        self.desk.changed.notify_all();
    }
}
