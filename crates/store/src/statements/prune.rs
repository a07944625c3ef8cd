//! The statements that forget runs and texts.

use crate::sql::{
    Bulk,
    Type::{Bytes, Int, Text},
};

/// Holds runs that are not running, and sees to it that nobody takes one up again.
pub(crate) static CLOSE_RUNS: Bulk = Bulk::new(
    "UPDATE runs AS r SET status = CASE WHEN r.status = 'interrupted' OR r.status = 'limit_reached' \
     THEN 'cancelled' ELSE r.status END FROM ",
    &[Text],
    " WHERE r.id = v.column1 AND r.status <> 'running'",
);

/// Some tasks of a run: run, at most.
pub(crate) static SOME_TASKS: Bulk = Bulk::new(
    "WITH wanted AS (SELECT column1 AS run, column2 AS at_most FROM ",
    &[Text, Int],
    " WHERE column1 IS NOT NULL) SELECT t.number FROM wanted JOIN tasks AS t ON t.run_id = wanted.run \
     LIMIT (SELECT MIN(at_most) FROM wanted)",
);

macro_rules! delete_by_task {
    ($name:ident, $table:literal, $column:literal) => {
        #[doc = concat!("Deletes from `", $table, "` by the number of the task.")]
        pub(crate) static $name: Bulk = Bulk::new(
            concat!("DELETE FROM ", $table, " WHERE ", $column, " IN (SELECT column1 FROM "),
            &[Int],
            " WHERE column1 IS NOT NULL)",
        );
    };
}

delete_by_task!(DELETE_LINKS_OF_TASKS, "task_links", "from_task");
delete_by_task!(DELETE_OFFERS_OF_TASKS, "offers", "task");
delete_by_task!(DELETE_CONTEXTS_OF_TASKS, "task_contexts", "task");
delete_by_task!(DELETE_CHOICES_OF_TASKS, "context_choices", "task");
delete_by_task!(DELETE_CALLS_OF_TASKS, "calls", "task");
delete_by_task!(DELETE_SHADOWS_OF_TASKS, "shadows", "task");
delete_by_task!(DELETE_TOOL_CALLS_OF_TASKS, "tool_calls", "task");
delete_by_task!(DELETE_ATTEMPTS_OF_TASKS, "attempts", "task");
delete_by_task!(DELETE_TASKS, "tasks", "number");

/// Deletes the events of runs.
pub(crate) static DELETE_EVENTS: Bulk =
    Bulk::new("DELETE FROM events WHERE run_id IN (SELECT column1 FROM ", &[Text], " WHERE column1 IS NOT NULL)");

/// Deletes runs.
pub(crate) static DELETE_RUNS: Bulk =
    Bulk::new("DELETE FROM runs WHERE id IN (SELECT column1 FROM ", &[Text], " WHERE column1 IS NOT NULL)");

/// Deletes texts that were not written since: hash, time (the same in each row).
pub(crate) static DELETE_TEXTS: Bulk = Bulk::new(
    "WITH wanted AS (SELECT column1 AS hash, column2 AS before FROM ",
    &[Bytes, Int],
    " WHERE column1 IS NOT NULL) DELETE FROM texts WHERE hash IN (SELECT wanted.hash FROM wanted) \
     AND touched_at < (SELECT MIN(wanted.before) FROM wanted) RETURNING CAST(OCTET_LENGTH(body) AS BIGINT)",
);
