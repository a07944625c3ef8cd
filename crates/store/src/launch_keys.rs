//! The keys that runs were launched with, so that a launch that is asked for again makes no second run.
//!
//! **Invariant:** a key is recorded with its run or not at all, and of launches with one key a single one makes a run.

use crewline_types::{RunId, TextHash};
use sea_orm::{ConnectionTrait as _, Statement};

use crate::{
    Error, Store,
    commit::run_id,
    entity::hash,
    sql::{
        Args, Bulk,
        Type::{Bytes, Text},
    },
    tx::Tx,
};

/// Adds keys that are free: name, request, run.
pub(crate) static INSERT_LAUNCH_KEYS: Bulk = Bulk::new(
    "INSERT INTO launch_keys (name, request, run_id) SELECT v.column1, v.column2, v.column3 FROM ",
    &[Text, Bytes, Text],
    " WHERE v.column1 IS NOT NULL ON CONFLICT DO NOTHING",
);

/// Deletes the keys of runs.
pub(crate) static DELETE_LAUNCH_KEYS: Bulk =
    Bulk::new("DELETE FROM launch_keys WHERE run_id IN (SELECT column1 FROM ", &[Text], " WHERE column1 IS NOT NULL)");

/// Makes a launch that is asked for again the same launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchKey {
    /// Who launches, and their key.
    pub name: String,
    /// Names what is asked for.
    pub request: TextHash,
}

/// Records the key of a run; [`Error::LaunchKeyTaken`] when another run has it.
pub(crate) async fn take(tx: &mut Tx, run: RunId, key: &LaunchKey) -> Result<(), Error> {
    let add = |args: &mut Args, key: &&LaunchKey| {
        args.text(&key.name);
        args.bytes(&key.request.0);
        args.text(run.as_str());
    };
    let taken = tx.write(&INSERT_LAUNCH_KEYS, &[key], add).await?;
    if taken == 1 { Ok(()) } else { Err(Error::LaunchKeyTaken) }
}

impl Store {
    /// The run that was launched with the key of this name, and what names its request.
    pub async fn launched(&self, name: &str) -> Result<Option<(RunId, TextHash)>, Error> {
        let reader = self.reader().await?;
        let statement = Statement::from_sql_and_values(
            reader.get_database_backend(),
            "SELECT run_id, request FROM launch_keys WHERE name = $1",
            [name.into()],
        );
        let Some(row) = reader.query_one_raw(statement).await? else { return Ok(None) };
        let (run, request): (String, Vec<u8>) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
        Ok(Some((run_id(&run)?, hash("launch_keys.request", &request)?)))
    }
}
