//! Offers: attempts that any worker may claim, and what becomes of them.
//!
//! A manager offers an attempt with a [`Change`](crate::Change); a worker claims it under a lease, writes with
//! [`Fence::Claim`](crate::Fence) and reports with its last write; the manager settles what is reported or lost.
//!
//! **Invariant:** an offer is claimed by one node at a time; one that is lost is never claimed again, its task gets
//! another attempt.
//! **Invariant:** leases are counted on the database's clock: two machines need not agree on the time.
//! **Invariant:** a claim of so many offers costs what these cost, however many are offered.

use std::{collections::BTreeSet, time::Duration};

use crewline_types::{AttemptId, Role, RunId, Timestamp};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, sea_query::Expr};

use crate::{
    Backend, Error, Store,
    commit::{run_id, task_id},
    entity::{self, small},
    hints::News,
    retry::{RETURN_LIMIT, Retry},
    run::lease_us,
    sql::Args,
    statements as sql,
    tx::{By, Row, Tx},
};

/// Claims that are marked lost by one statement.
const REAPED_MAX: i64 = 256;

/// A claimed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Its run.
    pub run: RunId,
    /// The attempt.
    pub id: AttemptId,
    /// Who can do it.
    pub role: Role,
    /// When it was offered, on the manager's clock.
    pub offered_at: Timestamp,
    /// What the plan gives to it, as its manager wrote it; empty when an older version offered it.
    pub told: String,
}

/// An offer that is not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOffer {
    /// The attempt.
    pub id: AttemptId,
    /// What became of it so far.
    pub state: OfferState,
}

/// Where an offer is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OfferState {
    /// Nobody has claimed it, or who had gave it back.
    Free,
    /// A node works on it.
    Claimed {
        /// The node.
        node: String,
    },
    /// The lease ran out before there was a report.
    Lost,
    /// Its node has reported.
    Reported(String),
}

/// Which offers a manager takes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdraw {
    /// Those that nobody has claimed.
    Free,
    /// All that nobody has reported.
    Unreported,
}

/// Whether others are called to what is free again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hurry {
    Now,
    Not,
}

impl Store {
    /// Claims free offers of `roles` (of any role, if there are none) for `node`: the lowest rank first, then by place in
    /// the plan.
    ///
    /// `node` names one start of one process. When the answer is lost on the way, claims may be held that the caller does
    /// not know of: [`Self::renew_claims`] names them, and [`Self::release_claims`] gives them back.
    pub async fn claim_offers(
        &self,
        node: &str,
        roles: Option<&[Role]>,
        max: u32,
        lease: Duration,
    ) -> Result<Vec<Offer>, Error> {
        self.claim_offers_not_of(&[], node, roles, max, lease).await
    }

    /// [`Self::claim_offers`], but for those of these runs.
    pub async fn claim_offers_not_of(
        &self,
        runs: &[RunId],
        node: &str,
        roles: Option<&[Role]>,
        max: u32,
        lease: Duration,
    ) -> Result<Vec<Offer>, Error> {
        let not_of = runs.iter().map(RunId::as_str).collect::<Vec<_>>().join(" ");
        let wanted: Vec<(Option<&str>,)> = match roles {
            Some(roles) => roles.iter().map(|role| (Some(role.as_str()),)).collect(),
            None => vec![(None,)],
        };
        let statement = match self.backend() {
            Backend::Sqlite => &sql::CLAIM_OFFERS_SQLITE,
            Backend::Postgres => &sql::CLAIM_OFFERS_POSTGRES,
        };
        let add = |args: &mut Args, (role,): &(Option<&str>,)| {
            args.text_or_null(*role);
            args.text(node);
            args.int(lease_us(lease));
            args.int(max.into());
            args.text(&not_of);
        };
        let read = |row: &Row| {
            let task = task_id(row.text(3)?)?;
            let number = row.int(1)?;
            let offer = Offer {
                run: run_id(row.text(4)?)?,
                id: AttemptId { task, number: small("offers.attempt", row.int(2)?)? },
                role: row.text(5)?.into(),
                offered_at: Timestamp(row.int(6)?),
                told: row.text(7)?.into(),
            };
            Ok((row.int(0)?, number, offer))
        };
        let mut claimed = self.ask_alone(statement, &wanted, add, read).await?;
        self.keep_numbers(&claimed.iter().map(|(_, number, offer)| (offer.id.task, *number)).collect());
        claimed.sort_unstable_by_key(|(rank, number, offer)| (*rank, *number, offer.id.number));
        Ok(claimed.into_iter().map(|(_, _, offer)| offer).collect())
    }

    /// Keeps all claims of `node` for another `lease` from now, and names them: those that are neither lost nor reported.
    pub async fn renew_claims(&self, node: &str, lease: Duration) -> Result<Vec<AttemptId>, Error> {
        let add = |args: &mut Args, (node, lease): &(&str, Duration)| {
            args.text(node);
            args.int(lease_us(*lease));
        };
        let read =
            |row: &Row| Ok(AttemptId { task: task_id(row.text(0)?)?, number: small("offers.attempt", row.int(1)?)? });
        self.ask_alone(&sql::RENEW_CLAIMS, &[(node, lease)], add, read).await
    }

    /// Gives claims of `node` back, and says how many it were: one that was not begun may be claimed by others, one that was
    /// is lost at once.
    pub async fn release_claims(&self, node: &str, claims: &[AttemptId]) -> Result<u64, Error> {
        self.release(node, claims, Hurry::Now).await
    }

    /// Like [`Self::release_claims`], but calls nobody to what is free again: who looks by itself finds it. For claims whose
    /// node can not work on them now, lest it be called to them again at once.
    pub async fn put_back_claims(&self, node: &str, claims: &[AttemptId]) -> Result<u64, Error> {
        self.release(node, claims, Hurry::Not).await
    }

    async fn release(&self, node: &str, claims: &[AttemptId], hurry: Hurry) -> Result<u64, Error> {
        let add = |args: &mut Args, claim: &AttemptId| {
            args.text(claim.task.as_str());
            args.int(claim.number.into());
            args.text(node);
        };
        let read = |row: &Row| Ok((run_id(row.text(0)?)?, row.int(1)? == 1));
        let released = self.ask_alone(&sql::RELEASE_CLAIMS, claims, add, read).await?;
        let has_work = hurry == Hurry::Now && released.iter().any(|(_, is_lost)| !is_lost);
        let reports: BTreeSet<RunId> = released.iter().filter(|(_, is_lost)| *is_lost).map(|(run, _)| *run).collect();
        if has_work || !reports.is_empty() {
            self.tell(&News { has_work, reports, ..News::default() }).await;
        }
        Ok(released.len() as u64)
    }

    /// Marks claims as lost whose lease has run out without a report; says how many it were. On PostgreSQL those whose
    /// node is writing at this moment are left for the next time.
    pub async fn reap_claims(&self) -> Result<u64, Error> {
        let mut count = 0;
        loop {
            let add = |args: &mut Args, most: &i64| args.int(*most);
            let runs = self.ask_alone(&sql::REAP_CLAIMS, &[REAPED_MAX], add, |row| run_id(row.text(0)?)).await?;
            count += runs.len() as u64;
            let is_last = (runs.len() as u64) < REAPED_MAX.unsigned_abs();
            if !runs.is_empty() {
                self.tell(&News { reports: runs.into_iter().collect(), ..News::default() }).await;
            }
            if is_last {
                return Ok(count);
            }
        }
    }

    /// The offers of a run that are not settled, by task and attempt.
    pub async fn open_offers(&self, run: RunId) -> Result<Vec<OpenOffer>, Error> {
        // By its tasks: this is asked when a manager loads them all.
        let condition = Condition::all().add(entity::offer::Column::Task.in_subquery(crate::query::numbers_of(run)));
        self.offers(condition).await
    }

    /// The offers of a run that its manager has to settle: the lost and the reported ones.
    pub async fn offer_reports(&self, run: RunId) -> Result<Vec<OpenOffer>, Error> {
        // Word for word what the index holds: with a parameter in it PostgreSQL would not use it.
        let answered = Condition::any()
            .add(entity::offer::Column::Report.is_not_null())
            .add(Expr::col(entity::offer::Column::IsLost));
        self.offers(Condition::all().add(entity::offer::Column::RunId.eq(run.as_str())).add(answered)).await
    }

    async fn offers(&self, condition: Condition) -> Result<Vec<OpenOffer>, Error> {
        entity::offer::Entity::find()
            .filter(condition)
            .order_by_asc(entity::offer::Column::Task)
            .order_by_asc(entity::offer::Column::Attempt)
            .all(self.reader().await?)
            .await?
            .into_iter()
            .map(OpenOffer::try_from)
            .collect()
    }

    /// Removes offers of a run and names them; whoever works on one is stale from then on. What is reported stays.
    /// [`Error::Stale`] when somebody else has claimed the run.
    pub async fn withdraw_offers(&self, run: RunId, epoch: u64, which: Withdraw) -> Result<Vec<AttemptId>, Error> {
        let mut retry = Retry::new(RETURN_LIMIT);
        let withdrawn = loop {
            match self.try_withdraw(run, epoch, which).await {
                Ok(Some(withdrawn)) => break withdrawn,
                Ok(None) => {}
                Err(error) => retry.after(self.backend(), error).await?,
            }
        };
        if !withdrawn.is_empty() {
            self.tell(&News { wishes: [run].into(), ..News::default() }).await;
        }
        Ok(withdrawn)
    }

    /// None when it turned out not to be recorded, and is to be done again: who withdraws must learn what it were.
    async fn try_withdraw(&self, run: RunId, epoch: u64, which: Withdraw) -> Result<Option<Vec<AttemptId>>, Error> {
        let mut tx = self.inner.writer.begin_by(By::Itself).await?;
        match withdraw(&mut tx, run, epoch, which).await {
            Ok((transaction, withdrawn)) => match (tx.commit().await, transaction) {
                (Ok(()), _) => Ok(Some(withdrawn)),
                (Err(Error::CommitUnknown { .. }), Some(id)) => Ok(self.was_committed(&id).await?.then_some(withdrawn)),
                (Err(error), _) => Err(error),
            },
            Err(error) => {
                tx.rollback(&error).await;
                Err(error)
            }
        }
    }
}

/// The transaction's name, where it has one, and what was withdrawn.
async fn withdraw(
    tx: &mut Tx,
    run: RunId,
    epoch: u64,
    which: Withdraw,
) -> Result<(Option<String>, Vec<AttemptId>), Error> {
    let mut held = None;
    let add = |args: &mut Args, (run, epoch): &(RunId, u64)| {
        args.text(run.as_str());
        args.count(*epoch);
        args.int(0);
    };
    tx.ask(&sql::FENCE_RUNS, &[(run, epoch)], add, |row| {
        held = Some(row.text_or_null(3)?.map(str::to_owned));
        Ok(())
    })
    .await?;
    let Some(transaction) = held else { return Err(Error::Stale { run, epoch }) };
    let add = |args: &mut Args, (run, which): &(RunId, Withdraw)| {
        args.text(run.as_str());
        args.bool(*which == Withdraw::Free);
    };
    let mut withdrawn = Vec::new();
    tx.ask(&sql::WITHDRAW_OFFERS, &[(run, which)], add, |row| {
        let number = small("offers.attempt", row.int(1)?)?;
        withdrawn.push(AttemptId { task: task_id(row.text(0)?)?, number });
        Ok(())
    })
    .await?;
    Ok((transaction, withdrawn))
}
