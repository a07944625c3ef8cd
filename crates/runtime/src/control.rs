//! Asking a run to pause, to be cancelled or to be killed, whichever process manages it.
//!
//! The wish is written into the run's row; its manager's process looks there once a second. Where nobody manages the run,
//! the one who asks claims it and does what is asked.
//!
//! **Invariant:** what is asked is in the database before anybody relies on it: no message is needed for it to happen.
//! **Invariant:** nobody waits for a process that does not work: whose lease ends while it holds the run is named.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crewline_store::{Backend, RunRow, Wish};
use crewline_types::{RunId, RunStatus};

use crate::{
    Error, Handle, Limits,
    handle::Why,
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
        self.ask_for(run, wish).await.map(drop)
    }

    async fn ask_for(&self, run: RunId, wish: Wish) -> Result<Asked, Error> {
        let row = self.row(run).await?;
        match (row.status, wish) {
            (status @ (RunStatus::Completed | RunStatus::Failed | RunStatus::Cancelled), _) => {
                return Err(Error::Finished { run, status });
            }
            (RunStatus::Interrupted | RunStatus::LimitReached, Wish::Pause) => return Ok(Asked::Here),
            (RunStatus::Interrupted | RunStatus::LimitReached, Wish::Cancel | Wish::Kill) => {}
            (RunStatus::Running, _) => {
                self.store().wish(run, wish).await?;
            }
        }
        // Sooner than by a look at the row.
        if self.told(run, wish).await? {
            return Ok(Asked::Here);
        }
        match self.holder(row).await? {
            Hold::Ours(lock) => {
                self.start_manager(run, lock, Why::ToStop(halt_of(wish))).await?;
                Ok(Asked::Here)
            }
            Hold::Theirs(owner) => Ok(Asked::Elsewhere(owner)),
        }
    }

    /// Asks like [`Self::ask_to`] and waits until it is done; answers how the run ended. It may have ended otherwise.
    ///
    /// A process that holds the run and does not work is [`Error::Frozen`]; a run in which nothing happens for longer than
    /// anything may take is [`Error::NotStopped`]. Either way the wish stays recorded.
    pub async fn stop(&self, run: RunId, wish: Wish) -> Result<RunStatus, Error> {
        let mut patience = Patience::new(wish, &self.limits());
        let mut asked = self.ask_for(run, wish).await?;
        loop {
            for _ in 0..LOOKS {
                let row = self.row(run).await?;
                if is_done(row.status, wish) {
                    return Ok(row.status);
                }
                patience.see(run, row.last_seq)?;
                tokio::time::sleep(LOOK).await;
            }
            let is_orphan = self.store().orphaned_runs().await?.contains(&run);
            patience.hear(run, &asked, is_orphan)?;
            asked = match self.ask_for(run, wish).await {
                Ok(asked) => asked,
                Err(Error::Finished { status, .. }) => return Ok(status),
                Err(error) => return Err(error),
            };
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

    async fn holder(&self, row: RunRow) -> Result<Hold, Error> {
        let is_free = self.store().backend() == Backend::Sqlite
            || row.status != RunStatus::Running
            || self.store().orphaned_runs().await?.contains(&row.id);
        if !is_free {
            return Ok(Hold::Theirs(row.owner.unwrap_or_default()));
        }
        let lock = match row.status {
            RunStatus::Running => self.lock(row.id),
            // Its manager here may be about to let it go.
            _ => self.take(row.id).await,
        };
        match lock {
            Ok(lock) => Ok(Hold::Ours(lock)),
            Err(Error::Held { owner, .. }) => Ok(Hold::Theirs(owner)),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn row(&self, run: RunId) -> Result<RunRow, Error> {
        self.store().run(run).await?.ok_or_else(|| Error::NotFound { what: "run", id: run.to_string() })
    }
}

/// Who does what is asked of a run.
enum Asked {
    /// This process, or nothing is to be done.
    Here,
    /// Another one, which has to look at the run's row.
    Elsewhere(String),
}

/// Who has a run.
enum Hold {
    /// This process, with the run's lock.
    Ours(Arc<RunLock>),
    /// Another one.
    Theirs(String),
}

/// How long the end of a run is waited for.
struct Patience {
    wish: Wish,
    /// What holds a run renews its lease, or claims it, in less.
    renewal: Duration,
    /// Since when somebody holds the run without a lease.
    silent_since: Option<Instant>,
    /// No step of a run takes longer.
    step: Duration,
    /// The last event, and when it was seen.
    last: (u64, Instant),
}

impl Patience {
    fn new(wish: Wish, limits: &Limits) -> Self {
        // Whoever has the run may be gone; the next one hears of it, records what was under way, and then the end.
        let ending = limits.lease + 3 * limits.commit;
        let step = match wish {
            Wish::Kill => ending,
            Wish::Pause | Wish::Cancel => ending + limits.attempt,
        };
        Self { wish, renewal: limits.lease / 2, silent_since: None, step, last: (0, Instant::now()) }
    }

    /// Takes note of the run's last event.
    fn see(&mut self, run: RunId, seq: u64) -> Result<(), Error> {
        if seq != self.last.0 {
            self.last = (seq, Instant::now());
        }
        if self.last.1.elapsed() < self.step { Ok(()) } else { Err(Error::NotStopped { run, limit: self.step }) }
    }

    /// Takes note of who is to do it, and whether the run's lease has ended all the same.
    fn hear(&mut self, run: RunId, asked: &Asked, is_orphan: bool) -> Result<(), Error> {
        match asked {
            Asked::Elsewhere(owner) if is_orphan => {
                let since = self.silent_since.get_or_insert_with(Instant::now);
                if since.elapsed() < self.renewal {
                    return Ok(());
                }
                Err(Error::Frozen { run, owner: owner.clone(), wish: self.wish })
            }
            Asked::Elsewhere(_) | Asked::Here => {
                self.silent_since = None;
                Ok(())
            }
        }
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

#[cfg(test)]
mod tests {
    use crewline_testkit::Script;

    use super::*;
    use crate::survival::{chain_and_fan, request, world_with};

    const LIMIT: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn who_holds_a_run_and_does_not_work_is_not_waited_for() {
        let limits = Limits { lease: Duration::from_secs(1), ..Limits::default() };
        let world = world_with(Script::default(), limits, |registry| registry).await;
        let run = world.handle.submit(request(chain_and_fan(2))).await.unwrap();
        // Nobody renews the lease of who has the lock.
        let lock = world.handle.lock(run).unwrap();
        let frozen = tokio::time::timeout(LIMIT, world.handle.stop(run, Wish::Pause)).await.unwrap().unwrap_err();
        assert!(matches!(&frozen, Error::Frozen { owner, wish: Wish::Pause, .. } if owner == "test:1"), "{frozen}");
        let hint = frozen.hint().unwrap();
        assert!(hint.contains("`kill -CONT 1`") && hint.contains("`kill -9 1`"), "{hint}");
        assert_eq!(world.handle.row(run).await.unwrap().wish, Some(Wish::Pause));
        // It has ended.
        drop(lock);
        assert_eq!(world.handle.stop(run, Wish::Pause).await.unwrap(), RunStatus::Interrupted);
        assert_eq!(world.server.calls(), 0);
    }

    #[test]
    fn patience_ends_when_nothing_happens() {
        let (run, limits) = ("aaaaaaaa".parse().unwrap(), Limits::default());
        let other = Asked::Elsewhere("host:12".into());
        let mut patience = Patience::new(Wish::Cancel, &limits);
        let ago = |time| Instant::now().checked_sub(time).unwrap();
        for seq in [1, 2] {
            patience.last.1 = ago(limits.attempt);
            patience.see(run, seq).unwrap();
        }
        patience.see(run, 2).unwrap();
        patience.last.1 = ago(patience.step);
        let error = patience.see(run, 2).unwrap_err();
        assert!(matches!(error, Error::NotStopped { limit, .. } if limit > limits.attempt), "{error}");
        assert!(Patience::new(Wish::Kill, &limits).step < limits.attempt, "nothing is let to its end");

        // A lease that has just ended may be renewed yet, or the run be claimed by whoever has its lock.
        patience.hear(run, &other, true).unwrap();
        patience.silent_since = Some(ago(patience.renewal));
        patience.hear(run, &other, false).unwrap();
        patience.hear(run, &other, true).unwrap();
        patience.silent_since = Some(ago(patience.renewal));
        patience.hear(run, &Asked::Here, true).unwrap();
        patience.hear(run, &other, true).unwrap();
        patience.silent_since = Some(ago(patience.renewal));
        assert!(matches!(patience.hear(run, &other, true), Err(Error::Frozen { .. })));
    }
}
