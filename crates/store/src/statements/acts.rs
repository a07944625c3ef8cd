//! The statements of calls of tools and of what a person is asked.
//!
//! **Invariant:** an outcome and a decision are written once.

use crate::sql::{
    Bulk,
    Type::{Bytes, Int, Text},
};

/// Calls of tools that are asked for: task, attempt, call, place, the model's name, tool, arguments, digest, effect, time,
/// the attempt that is about to make them.
pub(crate) static INSERT_TOOL_CALLS: Bulk = Bulk::new(
    "INSERT INTO tool_calls (task, attempt, call, place, asked_as, tool, arguments, digest, effect, started_at, \
     begun_by) SELECT column1, column2, column3, column4, column5, column6, column7, column8, column9, column10, \
     column11 FROM ",
    &[Int, Int, Int, Int, Text, Text, Bytes, Bytes, Text, Int, Int],
    " WHERE column1 IS NOT NULL",
);

/// Begins calls of tools: task, attempt, call, place, the attempt that is about to make them.
pub(crate) static BEGIN_TOOL_CALLS: Bulk = Bulk::new(
    "UPDATE tool_calls AS c SET begun_by = v.column5 FROM ",
    &[Int, Int, Int, Int, Int],
    " WHERE c.task = v.column1 AND c.attempt = v.column2 AND c.call = v.column3 AND c.place = v.column4 \
     AND c.outcome IS NULL",
);

/// Ends calls of tools: task, attempt, call, place, outcome, output, duration.
pub(crate) static END_TOOL_CALLS: Bulk = Bulk::new(
    "UPDATE tool_calls AS c SET outcome = v.column5, output = v.column6, elapsed_us = v.column7 FROM ",
    &[Int, Int, Int, Int, Text, Bytes, Int],
    " WHERE c.task = v.column1 AND c.attempt = v.column2 AND c.call = v.column3 AND c.place = v.column4 \
     AND c.outcome IS NULL",
);

/// Asks: id, run, task, kind, subject, detail, digest, time. What was asked before stays.
pub(crate) static INSERT_APPROVALS: Bulk = Bulk::new(
    "INSERT INTO approvals (id, run_id, task_id, kind, subject, detail, digest, state, created_at) \
     SELECT column1, column2, column3, column4, column5, column6, column7, 'pending', column8 FROM ",
    &[Text, Text, Text, Text, Text, Bytes, Bytes, Int],
    " WHERE column1 IS NOT NULL ON CONFLICT DO NOTHING",
);

/// Deletes what is pending: id.
pub(crate) static WITHDRAW_APPROVALS: Bulk = Bulk::new(
    "DELETE FROM approvals WHERE state = 'pending' AND id IN (SELECT column1 FROM ",
    &[Text],
    " WHERE column1 IS NOT NULL)",
);

/// Decides what is pending: id, state, who, message, time.
pub(crate) static DECIDE: Bulk = Bulk::new(
    "UPDATE approvals AS a SET state = v.column2, decided_by = v.column3, message = v.column4, decided_at = v.column5 \
     FROM ",
    &[Text, Text, Text, Text, Int],
    " WHERE a.id = v.column1 AND a.state = 'pending'",
);

/// Lets a run that was interrupted be taken up by whoever manages runs: run, how its error looks. That is asked for each run by itself:
/// else PostgreSQL may compare all runs.
pub(crate) static GO_ON: Bulk = Bulk::new(
    "UPDATE runs AS r SET status = 'running', finished_at = NULL, error = NULL FROM ",
    &[Text, Text],
    " WHERE r.id = v.column1 AND r.status = 'interrupted' AND (SELECT MAX(e.error) FROM runs AS e WHERE e.id = v.column1) LIKE v.column2",
);

/// Deletes what was asked in runs.
pub(crate) static DELETE_APPROVALS: Bulk =
    Bulk::new("DELETE FROM approvals WHERE run_id IN (SELECT column1 FROM ", &[Text], " WHERE column1 IS NOT NULL)");
