//! Hands committed events to those who watch a run.
//!
//! **Invariant:** a watcher that falls behind loses nothing: it is told so and reads the database.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crewline_types::{Event, RunId, event::ErrorNote};
use tokio::sync::broadcast;

/// Events a watcher may be behind before it has to read the database.
const BEHIND_MAX: usize = 1_024;

/// What a watcher is told.
#[derive(Debug, Clone)]
pub enum News {
    /// An event is committed.
    Event(Arc<Event>),
    /// Another process committed events: the database has them.
    Hint,
    /// The run's manager gave up; no further event comes from this process.
    GaveUp(Arc<ErrorNote>),
}

/// The channels of the runs that are watched. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Hub(Arc<Mutex<HashMap<RunId, broadcast::Sender<News>>>>);

impl Hub {
    /// Receives what is committed from now on.
    pub fn subscribe(&self, run: RunId) -> broadcast::Receiver<News> {
        let mut channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        channels.entry(run).or_insert_with(|| broadcast::channel(BEHIND_MAX).0).subscribe()
    }

    /// Passes on committed events; without a watcher nothing is copied.
    pub fn publish(&self, events: Vec<Event>) {
        let mut channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if channels.is_empty() {
            return;
        }
        for event in events {
            let run = event.run;
            if let Some(channel) = channels.get(&run)
                && channel.send(News::Event(Arc::new(event))).is_err()
            {
                channels.remove(&run);
            }
        }
    }

    /// Tells the watchers of `run` to look into the database.
    pub fn hint(&self, run: RunId) {
        let channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&run) {
            channel.send(News::Hint).ok();
        }
    }

    /// Tells the watchers of `run` that its manager gave up.
    pub fn give_up(&self, run: RunId, error: ErrorNote) {
        let channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&run) {
            channel.send(News::GaveUp(Arc::new(error))).ok();
        }
    }
}
