//! Whether the writers of a batch may write: managers by their epoch, workers by their claim.
//!
//! **Invariant:** a run's row is held from here to the end of the transaction, so writers of one run take turns.
//! **Invariant:** a claim holds whichever manager the run has; it ends with its report, its loss or its withdrawal.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crewline_types::{AttemptId, RunId};

use super::{Batch, Fate, Numbers, Seqs, Stop, run_id};
use crate::{
    Backend, Error, Fence,
    sql::{Args, clamp, clean, rows_max},
    statements as sql,
    tx::Tx,
};

/// What the runs' rows say.
pub(super) struct Fenced {
    /// The `seq` before the first event of each run.
    pub(super) seqs: Seqs,
    /// What each run has cost; `None` until somebody wanted to know.
    pub(super) charged: BTreeMap<RunId, Option<i64>>,
    /// The transaction's name, where it has one.
    pub(super) transaction: Option<String>,
}

/// What a batch wants of one run's row.
#[derive(Default)]
struct Wanted {
    /// The newest of its managers' epochs; `None` when only claims write.
    epoch: Option<u64>,
    /// Numbers for the events of that manager and of all claims.
    events: i64,
}

impl Batch<'_> {
    /// A report is the last thing a claim writes: what comes after it in the same batch is stale.
    pub(super) fn refuse_after_reports(&mut self) {
        let mut reported = BTreeSet::<AttemptId>::new();
        for (index, change) in self.changes.iter().enumerate() {
            if let Fence::Claim { attempt, .. } = &change.fence {
                if reported.contains(attempt) {
                    self.fates[index] = Fate::Stale;
                } else if change.report.is_some() {
                    reported.insert(*attempt);
                }
            }
        }
    }

    /// Checks epochs, and gives out event numbers.
    pub(super) async fn fence_runs(&mut self, tx: &mut Tx, is_locked: bool) -> Result<Fenced, Stop> {
        let mut wanted = BTreeMap::<RunId, Wanted>::new();
        for (_, change) in self.live() {
            let wanted = wanted.entry(change.run).or_default();
            wanted.epoch = wanted.epoch.max(change.epoch());
        }
        for (_, change) in self.live() {
            if let Some(wanted) = wanted.get_mut(&change.run)
                && (change.epoch().is_none() || change.epoch() == wanted.epoch)
            {
                wanted.events = wanted.events.saturating_add(clamp(change.events.len() as u64));
            }
        }
        let rows: Vec<(RunId, Wanted)> = wanted.into_iter().collect();
        let fenced = ask_runs(tx, &rows, is_locked).await?;
        let epochs: BTreeMap<RunId, Option<u64>> = rows.into_iter().map(|(run, wanted)| (run, wanted.epoch)).collect();
        let mut is_again = false;
        for (change, fate) in self.changes.iter().zip(&mut self.fates).filter(|(_, fate)| **fate == Fate::Live) {
            let is_newest = epochs.get(&change.run).is_some_and(|epoch| *epoch == change.epoch());
            if let Some(seq) = fenced.seqs.get(&change.run) {
                let is_late = change.last_seq.is_some_and(|last| clamp(last) != *seq);
                if !is_newest && change.epoch().is_some() {
                    *fate = Fate::Stale;
                } else if is_late {
                    // Its numbers were given out already, and must not be.
                    *fate = Fate::Stale;
                    is_again = true;
                }
            } else if is_newest {
                *fate = Fate::Stale;
            } else {
                // The newest manager does not hold the run; an older one may, and claims do.
                is_again = true;
            }
        }
        if is_again { Err(Stop::Again) } else { Ok(fenced) }
    }

    /// Checks claims.
    pub(super) async fn fence_claims(&mut self, tx: &mut Tx, numbers: &Numbers) -> Result<(), Stop> {
        let mut claims = BTreeSet::<(i64, u32, &str, RunId)>::new();
        for (_, change) in self.live() {
            if let Fence::Claim { attempt, node } = &change.fence
                && let Some(number) = numbers.get(&attempt.task)
            {
                claims.insert((*number, attempt.number, node, change.run));
            }
        }
        if claims.is_empty() {
            return Ok(());
        }
        let rows: Vec<(i64, u32, &str, RunId)> = claims.into_iter().collect();
        let add = |args: &mut Args, (task, attempt, node, run): &(i64, u32, &str, RunId)| {
            args.int(*task);
            args.int((*attempt).into());
            args.word(node);
            args.word(run.as_str());
        };
        let mut held = HashSet::<(i64, i64, String, RunId)>::with_capacity(rows.len());
        tx.ask(&sql::FENCE_CLAIMS, &rows, add, |row| {
            held.insert((row.int(0)?, row.int(1)?, row.text(2)?.to_owned(), run_id(row.text(3)?)?));
            Ok(())
        })
        .await?;
        if held.len() == rows.len() {
            return Ok(());
        }
        for (index, change) in self.changes.iter().enumerate() {
            if let Fence::Claim { attempt, node } = &change.fence
                && let Some(number) = numbers.get(&attempt.task)
                && !held.contains(&(*number, attempt.number.into(), clean(node).into_owned(), change.run))
            {
                self.fates[index] = Fate::Stale;
            }
        }
        Err(Stop::Again)
    }
}

async fn ask_runs(tx: &mut Tx, rows: &[(RunId, Wanted)], is_locked: bool) -> Result<Fenced, Error> {
    if tx.backend() == Backend::Postgres && rows.len() > 1 && !is_locked {
        tx.ask(&sql::LOCK_RUNS, rows, |args, (run, _)| args.text(run.as_str()), |_| Ok(())).await?;
    }
    let statement = match tx.backend() {
        Backend::Sqlite if tx.is_begun() => &sql::FENCE_RUNS,
        Backend::Sqlite if rows.len() <= rows_max(Backend::Sqlite) => &sql::BEGIN_AND_FENCE_RUNS,
        Backend::Sqlite => {
            tx.begin_now().await?;
            &sql::FENCE_RUNS
        }
        Backend::Postgres => &sql::FENCE_RUNS,
    };
    let add = |args: &mut Args, (run, wanted): &(RunId, Wanted)| {
        args.text(run.as_str());
        args.int_or_null(wanted.epoch.map(clamp));
        args.int(wanted.events);
    };
    let mut fenced = Fenced { seqs: Seqs::new(), charged: BTreeMap::new(), transaction: None };
    tx.ask(statement, rows, add, |row| {
        let run = run_id(row.text(0)?)?;
        fenced.seqs.insert(run, row.int(1)?);
        fenced.charged.insert(run, row.int_or_null(2)?);
        fenced.transaction = row.text_or_null(3)?.map(str::to_owned);
        Ok(())
    })
    .await?;
    for (run, wanted) in rows {
        if let Some(seq) = fenced.seqs.get_mut(run) {
            *seq -= wanted.events;
        }
    }
    Ok(fenced)
}
