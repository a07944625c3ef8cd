//! The events of a run as they happen: from the database, then live.
//!
//! **Invariant:** a watcher sees every event once, in order; one that falls behind, or watches a run of another process,
//! reads the database.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use crewline_store::Store;
use crewline_types::{Event, EventBody, RunId, RunStatus, event::ErrorNote};
use tokio::sync::broadcast;

use crate::{
    Error,
    hub::{Hub, News},
};

/// Events of one page read from the database.
const PAGE: u32 = 512;
/// How often a watcher looks into the database although nobody told it to.
const POLL: Duration = Duration::from_secs(1);

/// The events of a run, one after the other, without gaps.
pub struct Watch {
    store: Store,
    live: broadcast::Receiver<News>,
    run: RunId,
    after: u64,
    buffer: VecDeque<Event>,
    /// Why the run's manager gave up before anybody watched.
    gave_up: Option<Arc<ErrorNote>>,
    must_read: bool,
    is_over: bool,
}

impl Watch {
    pub(crate) fn new(store: Store, hub: &Hub, run: RunId, after: u64) -> Self {
        let (live, gave_up) = hub.subscribe(run);
        Self { store, live, run, after, buffer: VecDeque::new(), gave_up, must_read: true, is_over: false }
    }

    /// The next event; `None` when the run has ended and all its events were seen, or after the error that ended the watch.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        loop {
            if let Some(event) = self.buffer.pop_front() {
                self.after = event.seq;
                // A run that was resumed has an end in the middle of its history.
                self.is_over = matches!(event.body, EventBody::RunFinished { .. })
                    && self.buffer.is_empty()
                    && !self.must_read
                    && self.live.is_empty();
                return Some(Ok(event));
            }
            if self.is_over {
                return None;
            }
            if self.must_read {
                if let Err(error) = self.read().await {
                    self.is_over = true;
                    return Some(Err(error));
                }
                if self.is_over || !self.buffer.is_empty() {
                    continue;
                }
            }
            if let Some(note) = self.gave_up.take() {
                return Some(Err(self.given_up(&note)));
            }
            match tokio::time::timeout(POLL, self.live.recv()).await {
                Ok(Ok(News::Event(event))) if event.seq == self.after + 1 => self.buffer.push_back((*event).clone()),
                Ok(Ok(News::Event(event))) if event.seq <= self.after => {}
                Ok(Ok(News::GaveUp(note))) => return Some(Err(self.given_up(&note))),
                // A hint, a gap, an overrun, or silence: the database is the truth.
                Ok(Ok(News::Event(_) | News::Hint) | Err(broadcast::error::RecvError::Lagged(_))) | Err(_) => {
                    self.must_read = true;
                }
                Ok(Err(broadcast::error::RecvError::Closed)) => {
                    tokio::time::sleep(POLL).await;
                    self.must_read = true;
                }
            }
        }
    }

    fn given_up(&mut self, note: &ErrorNote) -> Error {
        self.is_over = true;
        Error::GaveUp { run: self.run, note: note.clone() }
    }

    /// Reads a page; when there is none, asks whether there will be another.
    async fn read(&mut self) -> Result<(), Error> {
        let events = self.store.events(self.run, self.after, PAGE).await?;
        self.must_read = events.len() == PAGE as usize;
        self.buffer.extend(events);
        if self.buffer.is_empty() {
            let not_found = || Error::NotFound { what: "run", id: self.run.to_string() };
            let row = self.store.run(self.run).await?.ok_or_else(not_found)?;
            self.is_over = row.status != RunStatus::Running && row.last_seq <= self.after;
        }
        Ok(())
    }
}
