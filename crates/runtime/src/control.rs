//! Asking a run to pause, to be cancelled or to be killed, whichever process manages it.
//!
//! The wish is written into the run's row; its manager's process looks there once a second. Where nobody manages the run,
//! the one who asks claims it and does what is asked.
//!
//! **Invariant:** what is asked is in the database before anybody relies on it: no message is needed for it to happen.

use std::{sync::Arc, time::Duration};

use crewline_store::{Backend, RunRow, Wish};
use crewline_types::{RunId, RunStatus};

use crate::{
    Error, Handle,
    lock::RunLock,
    manager::{self, Halt},
};

/// How often the run's row is looked at while its end is waited for.
const LOOK: Duration = Duration::from_millis(100);
/// Looks before it is asked again: whoever had heard the wish may have died since.
const LOOKS: u32 = 20;

impl Handle {
    /// Asks the manager of `run` to pause, cancel or kill it, and returns when that is recorded. Where nobody manages the
    /// run, this process begins to do it.
    pub async fn ask_to(&self, run: RunId, wish: Wish) -> Result<(), Error> {
        if self.told(run, wish).await? {
            return Ok(());
        }
        let row = self.row(run).await?;
        match (row.status, wish) {
            (status @ (RunStatus::Completed | RunStatus::Failed | RunStatus::Cancelled), _) => {
                return Err(Error::Finished { run, status });
            }
            (RunStatus::Interrupted | RunStatus::LimitReached, Wish::Pause) => return Ok(()),
            (RunStatus::Interrupted | RunStatus::LimitReached, Wish::Cancel | Wish::Kill) => {}
            (RunStatus::Running, _) => {
                self.store().wish(run, wish).await?;
            }
        }
        match self.free(&row).await {
            Ok(Some(lock)) => self.start_manager(run, lock, Some(halt_of(wish))).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Asks like [`Self::ask_to`] and waits until it is done; answers how the run ended. It may have ended otherwise.
    pub async fn stop(&self, run: RunId, wish: Wish) -> Result<RunStatus, Error> {
        self.ask_to(run, wish).await?;
        loop {
            for _ in 0..LOOKS {
                let status = self.row(run).await?.status;
                if is_done(status, wish) {
                    return Ok(status);
                }
                tokio::time::sleep(LOOK).await;
            }
            match self.ask_to(run, wish).await {
                Ok(()) => {}
                Err(Error::Finished { status, .. }) => return Ok(status),
                Err(error) => return Err(error),
            }
        }
    }

    /// Tells the manager of `run` in this process; `false` when there is none.
    async fn told(&self, run: RunId, wish: Wish) -> Result<bool, Error> {
        match self.to_manager(run, message_of(wish)).await {
            Ok(()) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What holds the run, when nobody else does.
    async fn free(&self, row: &RunRow) -> Result<Option<Arc<RunLock>>, Error> {
        let is_free = self.store().backend() == Backend::Sqlite
            || row.status != RunStatus::Running
            || self.store().orphaned_runs().await?.contains(&row.id);
        if !is_free {
            return Ok(None);
        }
        match self.lock(row.id) {
            Ok(lock) => Ok(Some(lock)),
            Err(Error::Held { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn row(&self, run: RunId) -> Result<RunRow, Error> {
        self.store().run(run).await?.ok_or_else(|| Error::NotFound { what: "run", id: run.to_string() })
    }
}

/// What a wish is for a manager.
pub fn message_of(wish: Wish) -> manager::Message {
    match wish {
        Wish::Pause => manager::Message::Drain,
        Wish::Cancel => manager::Message::Cancel,
        Wish::Kill => manager::Message::Kill,
    }
}

/// What a wish is for a manager that is not loaded yet.
pub fn halt_of(wish: Wish) -> Halt {
    match wish {
        Wish::Pause => Halt::Drain,
        Wish::Cancel => Halt::Cancel,
        Wish::Kill => Halt::Kill,
    }
}

fn is_done(status: RunStatus, wish: Wish) -> bool {
    match (status, wish) {
        (RunStatus::Running, _) | (RunStatus::Interrupted | RunStatus::LimitReached, Wish::Cancel | Wish::Kill) => {
            false
        }
        (RunStatus::Completed | RunStatus::Failed | RunStatus::Cancelled, _)
        | (RunStatus::Interrupted | RunStatus::LimitReached, Wish::Pause) => true,
    }
}
