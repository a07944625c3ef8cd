//! The statements of offers, claims, nodes and wishes.
//!
//! **Invariant:** rows of `runs` are locked before those of `offers`, and these by task and attempt; who only looks at
//! leases passes locked rows over. So nobody waits in a circle.
//! **Invariant:** an offer that is lost or reported is not claimed, renewed or released any more.

use crate::sql::{
    Bulk,
    Type::{Bool, Bytes, Int, Text},
};

/// Offers attempts: task, attempt, its id, run, role, rank, time, what the plan gives to it.
pub(crate) static INSERT_OFFERS: Bulk = Bulk::new(
    "INSERT INTO offers (task, attempt, task_id, run_id, role, rank, offered_at, told) \
     SELECT column1, column2, column3, column4, column5, column6, column7, column8 FROM ",
    &[Int, Int, Text, Text, Text, Int, Int, Text],
    " WHERE column1 IS NOT NULL",
);

/// Locks offers: task, attempt (PostgreSQL only; SQLite locks the database).
pub(crate) static LOCK_OFFERS: Bulk = Bulk::new(
    "SELECT o.task FROM ",
    &[Int, Int],
    " JOIN offers AS o ON o.task = v.column1 AND o.attempt = v.column2 ORDER BY o.task, o.attempt FOR UPDATE OF o",
);

/// Removes offers: task, attempt.
pub(crate) static DELETE_OFFERS: Bulk = Bulk::new(
    "DELETE FROM offers WHERE (task, attempt) IN (SELECT column1, column2 FROM ",
    &[Int, Int],
    " WHERE column1 IS NOT NULL)",
);

/// Removes what ended runs offer: run. An interrupted run keeps what is claimed: the next manager reads the reports.
pub(crate) static DELETE_OFFERS_OF_RUNS: Bulk = Bulk::new(
    "DELETE FROM offers WHERE (task, attempt) IN (SELECT o.task, o.attempt FROM ",
    &[Text],
    " JOIN runs AS r ON r.id = v.column1 JOIN tasks AS t ON t.run_id = r.id JOIN offers AS o ON o.task = t.number \
     WHERE r.status <> 'interrupted' OR o.node IS NULL ORDER BY o.task, o.attempt FOR_UPDATE_OF_O)",
);

/// Removes what a run offers and nobody has reported: run, whether free ones only.
pub(crate) static WITHDRAW_OFFERS: Bulk = Bulk::new(
    "DELETE FROM offers WHERE (task, attempt) IN (SELECT o.task, o.attempt FROM ",
    &[Text, Bool],
    " JOIN tasks AS t ON t.run_id = v.column1 JOIN offers AS o ON o.task = t.number \
     WHERE o.report IS NULL AND (o.node IS NULL OR NOT v.column2) \
     ORDER BY o.task, o.attempt FOR_UPDATE_OF_O) RETURNING task_id, attempt",
);

/// Which claims hold: task, attempt, node, run.
#[cfg(not(feature = "unfenced"))]
pub(crate) static FENCE_CLAIMS: Bulk = Bulk::new(
    "SELECT o.task, o.attempt, o.node, o.run_id FROM ",
    &[Int, Int, Text, Text],
    " JOIN offers AS o ON o.task = v.column1 AND o.attempt = v.column2 \
     WHERE o.node = v.column3 AND o.run_id = v.column4 AND o.report IS NULL AND NOT o.is_lost \
     ORDER BY o.task, o.attempt FOR_UPDATE_OF_O",
);

/// The control of `cargo xtask chaos`: all of them hold.
#[cfg(feature = "unfenced")]
pub(crate) static FENCE_CLAIMS: Bulk =
    Bulk::new("SELECT column1, column2, column3, column4 FROM ", &[Int, Int, Text, Text], " WHERE column1 IS NOT NULL");

/// Keeps the reports of claims that hold: task, attempt, report.
pub(crate) static REPORT_CLAIMS: Bulk = Bulk::new(
    "UPDATE offers AS o SET report = v.column3 FROM ",
    &[Int, Int, Text],
    " WHERE o.task = v.column1 AND o.attempt = v.column2",
);

macro_rules! claim_offers {
    ($first_of_each_role:literal, $picked:literal) => {
        Bulk::new(
            "WITH RECURSIVE wanted AS ( \
                 SELECT column1 AS role, column2 AS node, column3 AS lease, column4 AS at_most, column5 AS not_of FROM ",
            &[Text, Text, Int, Int, Text],
            concat!(
                " WHERE column2 IS NOT NULL), ",
                // Every role that is offered, by jumping from one to the next; empty unless any role is wanted.
                "every AS ( \
                     SELECT (SELECT MIN(role) FROM offers WHERE node IS NULL) AS role \
                     WHERE EXISTS (SELECT 1 FROM wanted WHERE role IS NULL) \
                     UNION ALL \
                     SELECT (SELECT MIN(o.role) FROM offers AS o WHERE o.node IS NULL AND o.role > every.role) \
                     FROM every WHERE every.role IS NOT NULL \
                 ), roles AS ( \
                     SELECT role FROM wanted WHERE role IS NOT NULL \
                     UNION SELECT role FROM every WHERE role IS NOT NULL \
                 ), picked AS MATERIALIZED (SELECT f.task AS t, f.attempt AS n FROM roles ",
                $first_of_each_role,
                " ORDER BY f.rank, f.task, f.attempt LIMIT (SELECT MIN(at_most) FROM wanted)) \
                 UPDATE offers AS o SET node = (SELECT MIN(node) FROM wanted), claimed_at = NOW_MICROS, \
                 lease_until = NOW_MICROS + (SELECT MIN(lease) FROM wanted) ",
                $picked,
                " RETURNING rank, task, attempt, task_id, run_id, role, offered_at, told"
            ),
        )
    };
}

/// Claims free offers: role (NULL: any), and the same in each row: node, lease, at most so many, the runs of which none is wanted.
pub(crate) static CLAIM_OFFERS_SQLITE: Bulk = claim_offers!(
    "JOIN offers AS f ON (f.task, f.attempt) IN ( \
         SELECT o.task, o.attempt FROM offers AS o WHERE o.role = roles.role AND o.node IS NULL \
         AND (SELECT MIN(not_of) FROM wanted) NOT LIKE '%' || o.run_id || '%' \
         ORDER BY o.rank, o.task, o.attempt LIMIT (SELECT MIN(at_most) FROM wanted))",
    "WHERE (o.task, o.attempt) IN (SELECT t, n FROM picked)"
);

/// The same; what somebody else is claiming at the moment is passed over.
pub(crate) static CLAIM_OFFERS_POSTGRES: Bulk = claim_offers!(
    "CROSS JOIN LATERAL ( \
         SELECT o.task, o.attempt, o.rank FROM offers AS o WHERE o.role = roles.role AND o.node IS NULL \
         AND (SELECT MIN(not_of) FROM wanted) NOT LIKE '%' || o.run_id || '%' \
         ORDER BY o.rank, o.task, o.attempt LIMIT (SELECT MIN(at_most) FROM wanted) FOR UPDATE SKIP LOCKED) AS f",
    "FROM picked WHERE o.task = picked.t AND o.attempt = picked.n"
);

/// Keeps a node's claims: node, lease.
pub(crate) static RENEW_CLAIMS: Bulk = Bulk::new(
    "WITH held AS MATERIALIZED (SELECT o.task AS t, o.attempt AS n, v.column2 AS lease FROM ",
    &[Text, Int],
    " JOIN offers AS o ON o.node = v.column1 WHERE o.report IS NULL AND NOT o.is_lost \
     ORDER BY o.task, o.attempt FOR_UPDATE_OF_O) \
     UPDATE offers AS o SET lease_until = NOW_MICROS + held.lease FROM held \
     WHERE o.task = held.t AND o.attempt = held.n RETURNING task_id, attempt",
);

/// Gives claims back: task, attempt, node. One that was begun is lost, others are free again.
pub(crate) static RELEASE_CLAIMS: Bulk = Bulk::new(
    "WITH held AS MATERIALIZED (SELECT o.task AS t, o.attempt AS n, \
     EXISTS (SELECT 1 FROM attempts AS a WHERE a.task = o.task AND a.number = o.attempt) AS was_begun FROM ",
    &[Text, Int, Text],
    " JOIN tasks AS t ON t.id = v.column1 JOIN offers AS o ON o.task = t.number AND o.attempt = v.column2 \
     WHERE o.node = v.column3 AND o.report IS NULL AND NOT o.is_lost \
     ORDER BY o.task, o.attempt FOR_UPDATE_OF_O) \
     UPDATE offers AS o SET is_lost = held.was_begun, node = CASE WHEN held.was_begun THEN o.node END, \
     lease_until = CASE WHEN held.was_begun THEN o.lease_until END, \
     claimed_at = CASE WHEN held.was_begun THEN o.claimed_at END FROM held \
     WHERE o.task = held.t AND o.attempt = held.n RETURNING run_id, CAST(CASE WHEN is_lost THEN 1 ELSE 0 END AS BIGINT)",
);

/// Marks claims whose lease has run out as lost: at most so many.
pub(crate) static REAP_CLAIMS: Bulk = Bulk::new(
    "WITH wanted AS (SELECT column1 AS at_most FROM ",
    &[Int],
    " WHERE column1 IS NOT NULL), late AS MATERIALIZED (SELECT o.task AS t, o.attempt AS n FROM offers AS o \
     WHERE o.lease_until <= (SELECT NOW_MICROS) AND o.report IS NULL AND NOT o.is_lost \
     ORDER BY o.lease_until LIMIT (SELECT MIN(at_most) FROM wanted) SKIP_LOCKED_OF_O) \
     UPDATE offers AS o SET is_lost = TRUE FROM late \
     WHERE o.task = late.t AND o.attempt = late.n RETURNING run_id",
);

/// Tells a run's manager what is asked of it: run, wish, its weight. A heavier one stays.
pub(crate) static WISH: Bulk = Bulk::new(
    "UPDATE runs AS r SET wish = CASE WHEN v.column3 < \
     (CASE r.wish WHEN 'kill' THEN 3 WHEN 'cancel' THEN 2 WHEN 'pause' THEN 1 ELSE 0 END) \
     THEN r.wish ELSE v.column2 END FROM ",
    &[Text, Text, Int],
    " WHERE r.id = v.column1 AND r.status = 'running'",
);

/// Says that a node lives: id, kind, version, roles, slots, busy, registry, whether it drains, start, lease.
pub(crate) static BEAT_NODE: Bulk = Bulk::new(
    "INSERT INTO nodes (id, kind, version, roles, slots, busy, registry, is_draining, started_at, lease_us, seen_at) \
     SELECT column1, column2, column3, column4, column5, column6, column7, column8, column9, column10, NOW_MICROS FROM ",
    &[Text, Text, Text, Text, Int, Int, Bytes, Bool, Int, Int],
    " WHERE column1 IS NOT NULL ON CONFLICT (id) DO UPDATE SET version = excluded.version, roles = excluded.roles, \
     slots = excluded.slots, busy = excluded.busy, registry = excluded.registry, \
     is_draining = excluded.is_draining, lease_us = excluded.lease_us, seen_at = excluded.seen_at",
);

/// Forgets nodes that were silent for so many of their leases.
pub(crate) static FORGET_NODES: Bulk = Bulk::new(
    "DELETE FROM nodes WHERE (NOW_MICROS - seen_at) / lease_us >= (SELECT MAX(column1) FROM ",
    &[Int],
    ") AND lease_us > 0",
);

/// Forgets nodes.
pub(crate) static DELETE_NODES: Bulk = Bulk::new("DELETE FROM nodes WHERE id IN (SELECT column1 FROM ", &[Text], ")");
