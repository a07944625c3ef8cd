//! What people change of a run's graph, and the versions of its INDEX.md.
//!
//! **Invariant:** a change by hand is fenced by the run's epoch and last event: whoever was faster is never overwritten.

use std::collections::HashMap;

use crewline_types::{LinkKind, RunId, Task, TaskDetails, TaskId, TextHash, Timestamp};
use sea_orm::{ConnectionTrait as _, Statement};

use crate::{
    Error, Store,
    change::{Change, RunMove},
    commit::{Numbers, task_id},
    entity::hash,
    sql::{
        Args, Bulk,
        Type::{Bytes, Int, Text},
    },
    tx::Tx,
};

/// Sets what people may change of tasks.
pub(crate) static EDIT_TASKS: Bulk = Bulk::new(
    "UPDATE tasks AS t SET parent_id = v.column2, position = v.column3, kind = v.column4, title = v.column5, \
     description = v.column6, role = v.column7, priority = v.column8, success_criteria = v.column9, \
     duration_ms = v.column10 FROM ",
    &[Int, Text, Int, Text, Text, Text, Text, Int, Text, Int],
    " WHERE t.number = v.column1",
);

/// Sets the details of tasks.
pub(crate) static DETAIL_TASKS: Bulk =
    Bulk::new("UPDATE tasks AS t SET details = v.column2 FROM ", &[Int, Text], " WHERE t.number = v.column1");

/// Takes links away.
pub(crate) static DELETE_LINKS: Bulk = Bulk::new(
    "DELETE FROM task_links WHERE (from_task, to_task, kind) IN (SELECT column1, column2, column3 FROM ",
    &[Int, Int, Text],
    " WHERE column1 IS NOT NULL)",
);

/// Lets runs that are not running go from one end to another: run, from, to, when.
pub(crate) static MOVE_RUNS: Bulk = Bulk::new(
    "UPDATE runs AS r SET status = v.column3, finished_at = v.column4, error = NULL FROM ",
    &[Text, Text, Text, Int],
    " WHERE r.id = v.column1 AND r.status = v.column2 AND r.status <> 'running'",
);

/// Keeps the versions of INDEX.md: run, hash, agent, when.
pub(crate) static INSERT_INDEX_VERSIONS: Bulk = Bulk::new(
    "INSERT INTO index_versions (run_id, version, hash, agent, created_at) \
     SELECT v.column1, COALESCE((SELECT MAX(i.version) FROM index_versions AS i WHERE i.run_id = v.column1), 0) + 1, \
     v.column2, v.column3, v.column4 FROM ",
    &[Text, Bytes, Text, Int],
    " WHERE v.column1 IS NOT NULL",
);

/// Deletes the versions of INDEX.md of runs.
pub(crate) static DELETE_INDEX_VERSIONS: Bulk = Bulk::new(
    "DELETE FROM index_versions WHERE run_id IN (SELECT column1 FROM ",
    &[Text],
    " WHERE column1 IS NOT NULL)",
);

/// A version of a run's INDEX.md.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct IndexVersion {
    /// From 1.
    pub version: u32,
    /// Names its text.
    pub text: TextHash,
    /// Who wrote it; `crew` when it came with a plan.
    pub agent: String,
    /// When.
    pub at: Timestamp,
}

impl Store {
    /// What people said about the tasks of a run; a task of which nothing was said is left out.
    pub async fn details(&self, run: RunId) -> Result<HashMap<TaskId, TaskDetails>, Error> {
        let reader = self.reader().await?;
        let statement = Statement::from_sql_and_values(
            reader.get_database_backend(),
            "SELECT id, details FROM tasks WHERE run_id = $1 AND details IS NOT NULL",
            [run.as_str().into()],
        );
        let rows = reader.query_all_raw(statement).await?;
        rows.iter()
            .map(|row| {
                let (id, text): (String, String) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
                let details = serde_json::from_str(&text).map_err(|_| Error::corrupt("tasks.details", &text))?;
                Ok((task_id(&id)?, details))
            })
            .collect()
    }

    /// The versions of a run's INDEX.md, oldest first.
    pub async fn index_versions(&self, run: RunId) -> Result<Vec<IndexVersion>, Error> {
        let reader = self.reader().await?;
        let statement = Statement::from_sql_and_values(
            reader.get_database_backend(),
            "SELECT version, hash, agent, created_at FROM index_versions WHERE run_id = $1 ORDER BY version",
            [run.as_str().into()],
        );
        let rows = reader.query_all_raw(statement).await?;
        rows.iter()
            .map(|row| {
                Ok(IndexVersion {
                    version: u32::try_from(row.try_get_by_index::<i64>(0)?).unwrap_or(u32::MAX),
                    text: hash("index_versions.hash", &row.try_get_by_index::<Vec<u8>>(1)?)?,
                    agent: row.try_get_by_index(2)?,
                    at: Timestamp(row.try_get_by_index(3)?),
                })
            })
            .collect()
    }
}

/// Writes what people changed; new links and tasks are not of it.
pub(crate) async fn write(tx: &mut Tx, changes: &[&Change], numbers: &Numbers) -> Result<(), Error> {
    let number = |task: &TaskId| numbers.get(task).copied();
    let edits: Vec<(i64, &Task)> =
        changes.iter().flat_map(|it| &it.edits).filter_map(|task| Some((number(&task.id)?, task))).collect();
    tx.write(&EDIT_TASKS, &edits, |args, (number, task)| add_edit(args, *number, task)).await?;
    let details: Vec<(i64, &TaskDetails)> =
        changes.iter().flat_map(|it| &it.details).filter_map(|(task, it)| Some((number(task)?, it))).collect();
    tx.write(&DETAIL_TASKS, &details, |args, (number, details)| {
        args.int(*number);
        args.owned(serde_json::to_string(details).unwrap_or_default());
    })
    .await?;
    let links: Vec<(i64, i64, LinkKind)> = changes
        .iter()
        .flat_map(|it| &it.links_removed)
        .filter_map(|(from, to, kind)| Some((number(from)?, number(to)?, *kind)))
        .collect();
    tx.write(&DELETE_LINKS, &links, |args, (from, to, kind)| {
        args.int(*from);
        args.int(*to);
        args.word(kind.as_str());
    })
    .await?;
    let moves: Vec<(RunId, &RunMove)> =
        changes.iter().filter_map(|it| Some((it.run, it.run_moved.as_ref()?))).collect();
    tx.write(&MOVE_RUNS, &moves, |args, (run, it)| {
        args.text(run.as_str());
        args.word(it.from.as_str());
        args.word(it.to.as_str());
        args.int(it.at.0);
    })
    .await?;
    let versions: Vec<(RunId, TextHash, &str, Timestamp)> = changes
        .iter()
        .filter_map(|it| Some((it.run, it.index?, it.index_by.as_deref().unwrap_or("crew"), it.at)))
        .collect();
    for version in versions {
        // One at a time: each sees the ones before.
        tx.write(&INSERT_INDEX_VERSIONS, &[version], |args, (run, hash, agent, at)| {
            args.text(run.as_str());
            args.bytes(&hash.0);
            args.text(agent);
            args.int(at.0);
        })
        .await?;
    }
    Ok(())
}

fn add_edit(args: &mut Args, number: i64, task: &Task) {
    args.int(number);
    args.text_or_null(task.parent.as_ref().map(TaskId::as_str));
    args.int(task.position.into());
    args.word(task.kind.as_str());
    args.shared(&task.title);
    args.shared(&task.description);
    args.word(task.role.as_str());
    args.int(task.priority.get().into());
    args.text(&serde_json::to_string(&task.success_criteria).unwrap_or_default());
    args.int_or_null(task.duration.map(|it| i64::try_from(it.as_millis()).unwrap_or(i64::MAX)));
}
