//! What the requests of a run sent to which host and received from there: one row for each, added up.
//!
//! **Invariant:** what a change adds is added once, with the rest of the change or not at all.
//! **Invariant:** rows are added to in the order of their keys, so that two transactions never wait for each other.

use std::collections::BTreeMap;

use crewline_types::{HostBytes, RunId, Traffic};
use sea_orm::{ConnectionTrait as _, Statement};

use crate::{
    Error, Store,
    entity::unsigned,
    sql::{
        Args, Bulk,
        Type::{Int, Text},
    },
    tx::Tx,
};

/// Adds to what is known: run, host, bytes sent, bytes received. A sum stays below what a column holds.
pub(crate) static ADD_TRAFFIC: Bulk = Bulk::new(
    "INSERT INTO traffic (run_id, host, sent_bytes, received_bytes) \
     SELECT v.column1, v.column2, v.column3, v.column4 FROM ",
    &[Text, Text, Int, Int],
    " WHERE v.column1 IS NOT NULL ON CONFLICT (run_id, host) DO UPDATE SET \
     sent_bytes = LEAST(traffic.sent_bytes + excluded.sent_bytes, 1000000000000000000), \
     received_bytes = LEAST(traffic.received_bytes + excluded.received_bytes, 1000000000000000000)",
);

/// Deletes what runs sent and received.
pub(crate) static DELETE_TRAFFIC: Bulk =
    Bulk::new("DELETE FROM traffic WHERE run_id IN (SELECT column1 FROM ", &[Text], " WHERE column1 IS NOT NULL)");

/// What one row adds at most, so that a sum fits.
const BYTES_MAX: u64 = 1_000_000_000_000_000_000;

/// What passed between a run and a host.
pub(crate) type Passed<'a> = ((RunId, &'a str), HostBytes);

/// The rows that say what passed: a statement must not touch one twice.
pub(crate) fn rows<'a>(passed: impl Iterator<Item = (RunId, &'a Traffic)>) -> Vec<Passed<'a>> {
    let mut sums = BTreeMap::new();
    for (run, traffic) in passed {
        for (host, bytes) in traffic {
            *sums.entry((run, &**host)).or_default() += *bytes;
        }
    }
    sums.into_iter().collect()
}

/// Adds what passed, with one statement; with none when nothing did.
pub(crate) async fn add(tx: &mut Tx, rows: &[Passed<'_>]) -> Result<(), Error> {
    let add = |args: &mut Args, ((run, host), bytes): &Passed<'_>| {
        args.word(run.as_str());
        args.word(host);
        args.count(bytes.sent.min(BYTES_MAX));
        args.count(bytes.received.min(BYTES_MAX));
    };
    tx.write(&ADD_TRAFFIC, rows, add).await.map(|_| ())
}

impl Store {
    /// What the requests of a run sent and received so far, by host.
    pub async fn traffic(&self, run: RunId) -> Result<Traffic, Error> {
        let reader = self.reader().await?;
        let statement = Statement::from_sql_and_values(
            reader.get_database_backend(),
            "SELECT host, sent_bytes, received_bytes FROM traffic WHERE run_id = $1",
            [run.as_str().into()],
        );
        let mut traffic = Traffic::default();
        for row in reader.query_all_raw(statement).await? {
            let host: String = row.try_get_by_index(0)?;
            let bytes =
                HostBytes { sent: unsigned(row.try_get_by_index(1)?), received: unsigned(row.try_get_by_index(2)?) };
            traffic.add(&host.into(), bytes);
        }
        Ok(traffic)
    }
}
