//! What is tried again by the store itself: a transaction that lost a deadlock, one that waited too long for a lock, and one
//! whose server went away.
//!
//! **Invariant:** only what is known not to be recorded is tried again, or what does no harm when it is done twice.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    Backend, Error, Store,
    sql::{Args, Bulk},
    tx::{By, Row},
};

/// Deadlocks in a row that are answered by doing it again.
const DEADLOCKS_MAX: u32 = 3;

/// How long a commit waits for a server that is being restarted, and for locks of others.
pub(crate) const RETURN_LIMIT: Duration = Duration::from_secs(30);

/// The same for a single statement: who asks for a lease can not wait long.
pub(crate) const RETURN_LIMIT_ALONE: Duration = Duration::from_secs(2);

/// Pauses between tries to reach a server.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Counts tries.
pub(crate) struct Retry {
    deadlocks: u32,
    pause: Duration,
    begun: Instant,
    limit: Duration,
}

impl Retry {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { deadlocks: 0, pause: PAUSE_FIRST, begun: Instant::now(), limit }
    }

    /// Returns when it is to be tried again, or with the error when it is not.
    pub(crate) async fn after(&mut self, backend: Backend, error: Error) -> Result<(), Error> {
        if error.is_deadlock() && self.deadlocks < DEADLOCKS_MAX {
            self.deadlocks += 1;
            return Ok(());
        }
        // Who waited for a lock in vain has written nothing, and somebody who is slow is no reason to give a run up.
        let is_locked = matches!(error, Error::Locked { .. });
        let may_return = backend == Backend::Postgres && matches!(error, Error::Unavailable { .. });
        if !(is_locked || may_return) || self.begun.elapsed() + self.pause > self.limit {
            return Err(error);
        }
        tracing::debug!(error.code = error.code(), %error, "the database went away or is locked, trying again");
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }
}

impl Store {
    /// Runs one writing statement, which is a transaction by itself, and reads its answer. It may be run twice.
    pub(crate) async fn ask_alone<T: Sync, R: Send>(
        &self,
        bulk: &'static Bulk,
        rows: &[T],
        add: impl Fn(&mut Args, &T) + Sync,
        read: impl Fn(&Row) -> Result<R, Error> + Send + Sync,
    ) -> Result<Vec<R>, Error> {
        let mut retry = Retry::new(RETURN_LIMIT_ALONE);
        loop {
            let mut answer = Vec::new();
            let asked = async {
                let mut tx = self.aside().begin_by(By::Nothing).await?;
                let take = |row: &Row| {
                    answer.push(read(row)?);
                    Ok(())
                };
                match tx.ask(bulk, rows, &add, take).await {
                    Ok(()) => {
                        tx.finished();
                        Ok(())
                    }
                    Err(error) => {
                        tx.rollback(&error).await;
                        Err(error)
                    }
                }
            };
            match asked.await {
                Ok(()) => return Ok(answer),
                Err(error) => retry.after(self.backend(), error).await?,
            }
        }
    }

    /// Runs one writing statement, which is a transaction by itself, and says how many rows it touched. It may be run
    /// twice.
    pub(crate) async fn write_alone<T: Sync>(
        &self,
        bulk: &'static Bulk,
        rows: &[T],
        add: impl Fn(&mut Args, &T) + Sync,
    ) -> Result<u64, Error> {
        let mut retry = Retry::new(RETURN_LIMIT_ALONE);
        loop {
            let written = async {
                let mut tx = self.aside().begin_by(By::Nothing).await?;
                match tx.write(bulk, rows, &add).await {
                    Ok(touched) => {
                        tx.finished();
                        Ok(touched)
                    }
                    Err(error) => {
                        tx.rollback(&error).await;
                        Err(error)
                    }
                }
            };
            match written.await {
                Ok(touched) => return Ok(touched),
                Err(error) => retry.after(self.backend(), error).await?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long it is tried again for, and the pauses meanwhile.
    async fn pauses(backend: Backend, limit: Duration, error: impl Fn() -> Error) -> Vec<Duration> {
        let mut retry = Retry::new(limit);
        let mut pauses = Vec::new();
        loop {
            let before = Instant::now();
            if retry.after(backend, error()).await.is_err() {
                return pauses;
            }
            pauses.push(before.elapsed());
        }
    }

    fn is_growing(pauses: &[Duration]) -> bool {
        pauses.windows(2).all(|it| it[1] == (it[0] * 2).min(PAUSE_MAX))
    }

    fn locked() -> Error {
        Error::Locked { source: crate::error::Cause("somebody else writes".into()) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_is_tried_again_for_half_a_minute_with_growing_pauses() {
        let away = || Error::unavailable("nobody is there");
        for pauses in [
            pauses(Backend::Postgres, RETURN_LIMIT, away).await,
            pauses(Backend::Postgres, RETURN_LIMIT, locked).await,
            pauses(Backend::Sqlite, RETURN_LIMIT, locked).await,
        ] {
            assert_eq!(pauses[..3], [20, 40, 80].map(Duration::from_millis));
            assert!(is_growing(&pauses), "{pauses:?}");
            assert_eq!(pauses.last(), Some(&Duration::from_secs(1)), "they do not grow for ever");
            let all: Duration = pauses.iter().sum();
            assert!((29..=30).contains(&all.as_secs()), "{all:?}");
        }
        assert!(pauses(Backend::Sqlite, RETURN_LIMIT, away).await.is_empty(), "a file does not come back");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_little_time_is_told_after_two_seconds() {
        let all: Duration = pauses(Backend::Postgres, RETURN_LIMIT_ALONE, locked).await.iter().sum();
        assert!((1..=2).contains(&all.as_secs()), "{all:?}");
    }
}
