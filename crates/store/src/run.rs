//! Runs and their leases.
//!
//! **Invariant:** a claim raises the epoch, so whoever had the run before writes nothing from then on.
//! **Invariant:** leases are counted on the database's clock: two machines need not agree on the time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crewline_types::{RunId, RunStatus, Task, TextHash, Timestamp};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::{
    Error, Lineage, Store, Wish,
    commit::begin_run,
    entity,
    hints::News,
    launch_keys::LaunchKey,
    sql::{Args, clean},
    statements as sql,
};

/// The longest lease: a hundred years.
const LEASE_MAX_US: i64 = 100 * 365 * 24 * 3_600 * 1_000_000;

/// A run to be created.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Its id.
    pub id: RunId,
    /// Its project; created when it is not there.
    pub project: Arc<str>,
    /// The goal.
    pub goal: Arc<str>,
    /// Its settings, as JSON.
    pub settings: String,
    /// Names the registry it began with.
    pub registry: TextHash,
    /// The key it is launched with: another run that has it is [`Error::LaunchKeyTaken`].
    pub key: Option<LaunchKey>,
    /// Now.
    pub at: Timestamp,
}

/// A run as the database holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRow {
    /// Its id.
    pub id: RunId,
    /// Its project.
    pub project: Arc<str>,
    /// The goal.
    pub goal: Arc<str>,
    /// Where it is in its life.
    pub status: RunStatus,
    /// Its settings, as JSON.
    pub settings: String,
    /// Names the registry it began with.
    pub registry: TextHash,
    /// The fencing token of its manager.
    pub epoch: u64,
    /// Who works on it.
    pub owner: Option<String>,
    /// Until when, unless it is renewed.
    pub lease_until: Option<Timestamp>,
    /// Its INDEX.md.
    pub index: Option<TextHash>,
    /// The `seq` of its last event.
    pub last_seq: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Why it did not complete, as JSON of an `ErrorNote`.
    pub error: Option<String>,
    /// What somebody wished of it while it was running.
    pub wish: Option<Wish>,
    /// The run it was made from.
    pub lineage: Option<Lineage>,
}

/// Whether a run is taken from an owner whose lease has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Only when nobody else holds it.
    IfFree,
    /// In any case; for when the owner is known to be gone.
    Force,
}

/// What becomes of what somebody wished of a run that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wished {
    /// It is still to be fulfilled.
    Kept,
    /// A person wants the run to go on instead.
    Forgotten,
}

impl Store {
    /// Records a run and its root task, and its project when it is not there yet. Nobody holds the run yet.
    pub async fn create_run(&self, run: &NewRun, root: &Task) -> Result<(), Error> {
        let mut tx = self.inner.writer.begin().await?;
        let created = async {
            let mut numbers = HashMap::new();
            begin_run(&mut tx, run, root, &mut numbers).await?;
            Ok::<_, Error>(numbers)
        };
        match created.await {
            Ok(numbers) => {
                tx.commit().await?;
                self.keep_numbers(&numbers);
                Ok(())
            }
            Err(error) => {
                tx.rollback(&error).await;
                Err(error)
            }
        }
    }

    /// Takes a run that is running, interrupted or at a limit, and answers its new epoch. It is running from then on.
    ///
    /// What somebody wished of a running run is the new owner's to fulfil.
    ///
    /// It is [`Error::Held`] while another owner's lease lasts, unless by [`Claim::Force`]; an owner may claim its own
    /// run again. A run that completed, failed or was cancelled is [`Error::Finished`].
    pub async fn claim_run(&self, run: RunId, owner: &str, lease: Duration, force: Claim) -> Result<u64, Error> {
        self.claim(NewClaim { run, owner, lease, force, had: None }).await
    }

    /// Like [`Self::claim_run`], for whoever had the run under the epoch `had` and goes on with it: one that is at rest under that
    /// or a later epoch was brought to rest by the caller or by others and is left so, which is [`Error::Stale`].
    pub async fn claim_again(
        &self,
        run: RunId,
        owner: &str,
        lease: Duration,
        force: Claim,
        had: u64,
    ) -> Result<u64, Error> {
        self.claim(NewClaim { run, owner, lease, force, had: Some(had) }).await
    }

    async fn claim(&self, claim: NewClaim<'_>) -> Result<u64, Error> {
        let (run, rows) = (claim.run, [claim]);
        let claimed = self.ask_alone(&sql::CLAIM_RUN, &rows, add_claim, |row| Ok(row.int(0)?.unsigned_abs())).await?;
        if let Some(epoch) = claimed.first() {
            return Ok(*epoch);
        }
        let row = self.run(run).await?.ok_or(Error::NotFound { run })?;
        match (row.status, row.owner, row.lease_until) {
            (RunStatus::Running, Some(owner), Some(until)) => Err(Error::Held { run, owner, until }),
            // It was let go of in between, or is at rest.
            (RunStatus::Running | RunStatus::Interrupted | RunStatus::LimitReached, _, _) => {
                Err(Error::Stale { run, epoch: row.epoch })
            }
            (status @ (RunStatus::Completed | RunStatus::Failed | RunStatus::Cancelled), _, _) => {
                Err(Error::Finished { run, status })
            }
        }
    }

    /// Replaces what a run was launched with. [`Error::Stale`] when somebody else has claimed it.
    pub async fn configure_run(&self, run: RunId, epoch: u64, settings: &str, wished: Wished) -> Result<(), Error> {
        let rows = [(run, epoch, settings)];
        let add = |args: &mut Args, (run, epoch, settings): &(RunId, u64, &str)| {
            args.text(run.as_str());
            args.count(*epoch);
            args.text(settings);
            args.bool(wished == Wished::Kept);
        };
        let touched = self.write_alone(&sql::CONFIGURE_RUN, &rows, add).await?;
        if touched == 1 { Ok(()) } else { Err(Error::Stale { run, epoch }) }
    }

    /// Keeps a run for another `lease` from now. [`Error::Stale`] when somebody else has claimed it, or it has ended.
    pub async fn renew_run(&self, run: RunId, epoch: u64, lease: Duration) -> Result<(), Error> {
        let rows = [(run, epoch, lease_us(lease))];
        let add = |args: &mut Args, (run, epoch, lease): &(RunId, u64, i64)| {
            args.text(run.as_str());
            args.count(*epoch);
            args.int(*lease);
        };
        let touched = self.write_alone(&sql::RENEW_RUN, &rows, add).await?;
        if touched == 1 { Ok(()) } else { Err(Error::Stale { run, epoch }) }
    }

    /// Lets go of a run that goes on, so that anybody may claim it. [`Error::Stale`] when somebody else has, or it ended.
    pub async fn release_run(&self, run: RunId, epoch: u64) -> Result<(), Error> {
        let add = |args: &mut Args, (run, epoch): &(RunId, u64)| {
            args.text(run.as_str());
            args.count(*epoch);
        };
        if self.write_alone(&sql::RELEASE_RUN, &[(run, epoch)], add).await? == 0 {
            return Err(Error::Stale { run, epoch });
        }
        self.tell(&News { has_orphan: true, ..News::default() }).await;
        Ok(())
    }

    /// A run.
    pub async fn run(&self, run: RunId) -> Result<Option<RunRow>, Error> {
        let row = entity::run::Entity::find_by_id(run.as_str()).one(self.reader().await?).await?;
        row.map(RunRow::try_from).transpose()
    }

    /// The runs of one project or of all, newest first.
    pub async fn runs(&self, project: Option<&str>, limit: u32) -> Result<Vec<RunRow>, Error> {
        let mut query = entity::run::Entity::find();
        if let Some(project) = project {
            query = query.filter(entity::run::Column::Project.eq(clean(project)));
        }
        query
            .order_by_desc(entity::run::Column::CreatedAt)
            .order_by_asc(entity::run::Column::Id)
            .limit(u64::from(limit))
            .all(self.reader().await?)
            .await?
            .into_iter()
            .map(RunRow::try_from)
            .collect()
    }
}

pub(crate) fn lease_us(lease: Duration) -> i64 {
    i64::try_from(lease.as_micros()).unwrap_or(i64::MAX).min(LEASE_MAX_US)
}

/// A claim to be made.
pub(crate) struct NewClaim<'a> {
    pub(crate) run: RunId,
    pub(crate) owner: &'a str,
    pub(crate) lease: Duration,
    pub(crate) force: Claim,
    /// The epoch it was had under before, if it was.
    pub(crate) had: Option<u64>,
}

pub(crate) fn add_claim(args: &mut Args, claim: &NewClaim<'_>) {
    args.text(claim.run.as_str());
    args.text(claim.owner);
    args.int(lease_us(claim.lease));
    args.bool(claim.force == Claim::Force);
    args.count(claim.had.unwrap_or(u64::MAX));
}

pub(crate) fn add_run(args: &mut Args, run: &NewRun) {
    args.text(run.id.as_str());
    args.shared(&run.project);
    args.shared(&run.goal);
    args.text(&run.settings);
    args.bytes(&run.registry.0);
    args.int(run.at.0);
}
