//! A new run with everything it begins with, in one transaction.
//!
//! **Invariant:** a run is there with its plan or not at all: no crash leaves one that would be planned again.

use std::time::Duration;

use crewline_types::{Event, Task};

use super::{Batch, Fate, Numbers, Stop};
use crate::{
    Error, Lineage, NewRun, Store,
    change::Change,
    hints::News,
    launch_keys,
    rows::add_event,
    run::{Claim, NewClaim, add_claim, add_run},
    sql::Args,
    statements as sql,
    tx::{By, Tx},
};

impl Store {
    /// Records a run, its root task and all of `change`, which has the epoch 0, and answers the events. `owner` holds the
    /// run from the beginning, for so long; without one nobody does, and servers are told that it waits.
    pub async fn create_run_with(
        &self,
        run: &NewRun,
        root: &Task,
        lineage: Option<Lineage>,
        owner: Option<(&str, Duration)>,
        change: &Change,
    ) -> Result<Vec<Event>, Error> {
        change.check()?;
        let mut tx = self.inner.writer.begin_by(By::Itself).await?;
        let written = async {
            let mut numbers = Numbers::new();
            begin_run(&mut tx, run, root, &mut numbers).await?;
            if let Some(lineage) = lineage {
                tx.write(&sql::SET_LINEAGE, &[lineage], |args, lineage| add_lineage(args, run, *lineage)).await?;
            }
            let mut batch = Batch { changes: std::slice::from_ref(change), fates: vec![Fate::Live], is_careful: false };
            let (numbers, seqs, _) = batch.apply(&mut tx, true, numbers).await.map_err(|stop| match stop {
                Stop::Again => Error::Invalid { what: "the first change of a run does not fit it" },
                Stop::Failed(error) => error,
            })?;
            let (rows, events) = batch.number_events(seqs);
            tx.write(&sql::INSERT_EVENTS, &rows, add_event).await?;
            if let Some((owner, lease)) = owner {
                let claim = NewClaim { run: run.id, owner, lease, force: Claim::IfFree, had: None };
                tx.ask(&sql::CLAIM_RUN, &[claim], add_claim, |_| Ok(())).await?;
            }
            Ok::<_, Error>((numbers, events))
        };
        match written.await {
            Ok((numbers, events)) => {
                tx.commit().await?;
                self.check_file()?;
                self.keep_numbers(&numbers);
                if owner.is_none() && change.run_status.is_none() {
                    self.tell(&News { has_orphan: true, ..News::default() }).await;
                }
                Ok(events.into_iter().flatten().collect())
            }
            Err(error) => {
                tx.rollback(&error).await;
                Err(error)
            }
        }
    }
}

/// Writes the run with its key, its root task, and its project when it is not there yet.
pub(crate) async fn begin_run(tx: &mut Tx, run: &NewRun, root: &Task, numbers: &mut Numbers) -> Result<(), Error> {
    if let Some(key) = &run.key {
        launch_keys::take(tx, run.id, key).await?;
    }
    let rows = std::slice::from_ref(run);
    tx.write(&sql::INSERT_PROJECTS, rows, |args, run| {
        args.shared(&run.project);
        args.int(run.at.0);
    })
    .await?;
    tx.write(&sql::INSERT_RUNS, rows, add_run).await?;
    super::insert_tasks(tx, &[root], numbers).await
}

fn add_lineage(args: &mut Args, run: &NewRun, lineage: Lineage) {
    args.text(run.id.as_str());
    args.text(lineage.parent.as_str());
    args.text(lineage.origin.as_str());
}
