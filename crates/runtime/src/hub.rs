//! Hands committed events to those who watch a run.
//!
//! **Invariant:** a watcher that falls behind loses nothing: it is told so and reads the database.
//! **Invariant:** that a manager gave up is heard also by those who come to watch after it: nothing in the database says so.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crewline_types::{Event, RunId, event::ErrorNote};
use tokio::sync::broadcast;

/// Events a watcher may be behind before it has to read the database.
const BEHIND_MAX: usize = 1_024;
/// Runs that were given up and are remembered; the database tells of older ones that nobody works on them.
const GIVEN_UP_MAX: usize = 256;

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
pub struct Hub(Arc<Mutex<Channels>>);

#[derive(Debug, Default)]
struct Channels {
    watched: HashMap<RunId, broadcast::Sender<News>>,
    /// The runs whose manager gave up and was not started again; the latest last.
    given_up: VecDeque<(RunId, Arc<ErrorNote>)>,
}

impl Hub {
    /// Receives what is committed from now on. The second is there when the run's manager gave up before.
    pub fn subscribe(&self, run: RunId) -> (broadcast::Receiver<News>, Option<Arc<ErrorNote>>) {
        let mut channels = self.channels();
        // After the last event of a run nothing tells that its watchers have gone.
        channels.watched.retain(|_, channel| channel.receiver_count() > 0);
        let receiver = channels.watched.entry(run).or_insert_with(|| broadcast::channel(BEHIND_MAX).0).subscribe();
        let gave_up = channels.given_up.iter().find(|(it, _)| *it == run).map(|(_, note)| Arc::clone(note));
        (receiver, gave_up)
    }

    /// Passes on committed events; without a watcher nothing is copied.
    pub fn publish(&self, events: Vec<Event>) {
        let mut channels = self.channels();
        if channels.watched.is_empty() {
            return;
        }
        for event in events {
            let run = event.run;
            if let Some(channel) = channels.watched.get(&run)
                && channel.send(News::Event(Arc::new(event))).is_err()
            {
                channels.watched.remove(&run);
            }
        }
    }

    /// Tells the watchers of `run` to look into the database: another process works on it.
    pub fn hint(&self, run: RunId) {
        let mut channels = self.channels();
        channels.given_up.retain(|(it, _)| *it != run);
        if let Some(channel) = channels.watched.get(&run) {
            channel.send(News::Hint).ok();
        }
    }

    /// A manager is started for `run`: what an earlier one gave up is taken up again.
    pub fn begin(&self, run: RunId) {
        self.channels().given_up.retain(|(it, _)| *it != run);
    }

    /// Tells the watchers of `run`, those of now and those to come, that its manager gave up.
    pub fn give_up(&self, run: RunId, error: ErrorNote) {
        let error = Arc::new(error);
        let mut channels = self.channels();
        channels.given_up.retain(|(it, _)| *it != run);
        channels.given_up.push_back((run, Arc::clone(&error)));
        if channels.given_up.len() > GIVEN_UP_MAX {
            channels.given_up.pop_front();
        }
        if let Some(channel) = channels.watched.get(&run) {
            channel.send(News::GaveUp(error)).ok();
        }
    }

    fn channels(&self) -> MutexGuard<'_, Channels> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use crewline_types::ErrorKind;

    use super::*;

    fn note(message: &str) -> ErrorNote {
        ErrorNote { code: "store.disk_full".into(), kind: ErrorKind::Unavailable, message: message.into() }
    }

    #[test]
    fn who_comes_after_the_end_hears_of_it() {
        let (hub, run) = (Hub::default(), "aaaaaaaa".parse().unwrap());
        let (mut early, none) = hub.subscribe(run);
        assert!(none.is_none());
        hub.give_up(run, note("full"));
        assert!(matches!(early.try_recv(), Ok(News::GaveUp(it)) if &*it.message == "full"));

        let (mut late, gave_up) = hub.subscribe(run);
        assert_eq!(&*gave_up.unwrap().message, "full");
        assert!(late.try_recv().is_err(), "it is told once");

        hub.begin(run);
        assert!(hub.subscribe(run).1.is_none(), "somebody works on it again");
    }

    #[test]
    fn what_nobody_watches_any_more_is_forgotten() {
        let hub = Hub::default();
        let [gone, watched, new] = ["aaaaaaaa", "bbbbbbbb", "cccccccc"].map(|id| id.parse().unwrap());
        drop(hub.subscribe(gone));
        let (mut receiver, _) = hub.subscribe(watched);
        drop(hub.subscribe(new));
        assert!(!hub.channels().watched.contains_key(&gone));
        hub.hint(watched);
        assert!(matches!(receiver.try_recv(), Ok(News::Hint)));
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let hub = Hub::default();
        let runs: Vec<RunId> = (0..GIVEN_UP_MAX + 2).map(|it| format!("r{it:07}").parse().unwrap()).collect();
        for run in &runs {
            hub.give_up(*run, note("full"));
            hub.give_up(*run, note("full again"));
        }
        assert_eq!(hub.channels().given_up.len(), GIVEN_UP_MAX);
        assert!(hub.subscribe(runs[1]).1.is_none());
        assert!(hub.subscribe(runs[2]).1.is_some());
    }
}
