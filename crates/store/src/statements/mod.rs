//! The statements that write, each over many rows at once.
//!
//! **Invariant:** every one leaves padding rows (all NULL) out.
//! **Invariant:** sums never overflow: they end at the largest number there is.

mod acts;
mod prune;
mod queue;

pub(crate) use acts::*;
pub(crate) use prune::*;
pub(crate) use queue::*;

use crate::sql::{
    Bulk, Group,
    Type::{Bool, Bytes, Int, Text},
};

/// Locks the rows of runs in the order of their ids (PostgreSQL only; SQLite locks the database).
pub(crate) static LOCK_RUNS: Bulk =
    Bulk::new("SELECT r.id FROM runs AS r WHERE r.id IN (SELECT column1 FROM ", &[Text], ") ORDER BY r.id FOR UPDATE");

/// Whether a manager of the epoch `column2` may write.
#[cfg(not(feature = "unfenced"))]
macro_rules! epoch_holds {
    () => {
        "r.epoch = v.column2"
    };
}

/// The control of `cargo xtask chaos`: an older manager writes, too.
#[cfg(feature = "unfenced")]
macro_rules! epoch_holds {
    () => {
        "r.epoch >= v.column2"
    };
}

macro_rules! fence_runs {
    ($begin:literal) => {
        Bulk::new(
            concat!($begin, "UPDATE runs AS r SET last_seq = r.last_seq + v.column3 FROM "),
            &[Text, Int, Int],
            concat!(
                " WHERE r.id = v.column1 AND (v.column2 IS NULL OR ",
                epoch_holds!(),
                ") RETURNING id, last_seq, charged_micro_usd, TRANSACTION_ID"
            ),
        )
    };
}

/// Checks epochs (NULL: only claims write) and gives out event numbers: run, epoch, events.
pub(crate) static FENCE_RUNS: Bulk = fence_runs!("");

/// The same, beginning the transaction with it (SQLite only).
pub(crate) static BEGIN_AND_FENCE_RUNS: Bulk = fence_runs!("BEGIN IMMEDIATE; ");

/// How a transaction ended (PostgreSQL only): its name.
pub(crate) static TRANSACTION_STATUS: Bulk =
    Bulk::new("SELECT pg_xact_status(column1::xid8) FROM ", &[Text], " WHERE column1 IS NOT NULL");

/// Tells other processes (PostgreSQL only): what.
pub(crate) static NOTIFY: Bulk =
    Bulk::new("SELECT pg_notify('crewline', column1) FROM ", &[Text], " WHERE column1 IS NOT NULL");

/// Ends runs; column5: only while no more of their questions than this are decided.
pub(crate) static END_RUNS: Bulk = Bulk::new(
    "UPDATE runs AS r SET status = v.column2, finished_at = v.column3, error = v.column4, owner = NULL, \
     lease_until = NULL, wish = NULL FROM ",
    &[Text, Text, Int, Text, Int],
    " WHERE r.id = v.column1 AND r.status = 'running' AND (v.column5 IS NULL OR v.column5 >= \
     (SELECT COUNT(*) FROM approvals AS a WHERE a.run_id = r.id AND a.state <> 'pending')) RETURNING id",
);

/// Sets the INDEX.md of runs.
pub(crate) static INDEX_RUNS: Bulk =
    Bulk::new("UPDATE runs AS r SET index_hash = v.column2 FROM ", &[Text, Bytes], " WHERE r.id = v.column1");

/// Creates projects.
pub(crate) static INSERT_PROJECTS: Bulk = Bulk::new(
    "INSERT INTO projects (name, created_at) SELECT column1, column2 FROM ",
    &[Text, Int],
    " WHERE column1 IS NOT NULL ON CONFLICT DO NOTHING",
);

/// Creates runs.
pub(crate) static INSERT_RUNS: Bulk = Bulk::new(
    "INSERT INTO runs (id, project, goal, status, settings, registry, created_at) \
     SELECT column1, column2, column3, 'running', column4, column5, column6 FROM ",
    &[Text, Text, Text, Text, Bytes, Int],
    " WHERE column1 IS NOT NULL",
);

/// Takes a run: id, owner, lease, whether by force, the newest epoch that a run at rest may have. A wish is for whoever manages
/// the run, until it ends.
pub(crate) static CLAIM_RUN: Bulk = Bulk::new(
    "UPDATE runs AS r SET epoch = r.epoch + 1, owner = v.column2, lease_until = NOW_MICROS + v.column3, \
     status = 'running', finished_at = NULL, error = NULL, \
     wish = CASE WHEN r.status = 'running' THEN r.wish END FROM ",
    &[Text, Text, Int, Bool, Int],
    " WHERE r.id = v.column1 \
     AND (r.status = 'running' OR r.status IN ('interrupted', 'limit_reached') AND r.epoch < v.column5) \
     AND (v.column4 OR r.owner IS NULL OR r.owner = v.column2 OR r.lease_until <= NOW_MICROS) RETURNING epoch",
);

/// Lets failed runs be claimed again.
pub(crate) static REOPEN_RUNS: Bulk = Bulk::new(
    "UPDATE runs AS r SET status = 'interrupted', error = NULL FROM ",
    &[Text],
    " WHERE r.id = v.column1 AND r.status = 'failed'",
);

/// Says where a run comes from: run, parent, how.
pub(crate) static SET_LINEAGE: Bulk = Bulk::new(
    "UPDATE runs AS r SET parent_run = v.column2, origin = v.column3 FROM ",
    &[Text, Text, Text],
    " WHERE r.id = v.column1",
);

/// Ends what is left of cancelled runs: run, when.
pub(crate) static CANCEL_TASKS: Bulk = Bulk::new(
    "UPDATE tasks AS t SET status = 'cancelled', finished_at = v.column2, reason = 'the run was cancelled' FROM ",
    &[Text, Int],
    " WHERE t.run_id = v.column1 AND t.status IN ('pending', 'in_progress', 'blocked', 'awaiting_approval')",
);

/// Gives tasks to other roles: task, role.
pub(crate) static HAND_OVER: Bulk =
    Bulk::new("UPDATE tasks AS t SET role = v.column2 FROM ", &[Int, Text], " WHERE t.number = v.column1");

/// Says where results come from: task, the id of the one that made it.
pub(crate) static MARK_COPIED: Bulk =
    Bulk::new("UPDATE tasks AS t SET copied_from = v.column2 FROM ", &[Int, Text], " WHERE t.number = v.column1");

/// Keeps a run: id, epoch, lease.
pub(crate) static RENEW_RUN: Bulk = Bulk::new(
    "UPDATE runs AS r SET lease_until = NOW_MICROS + v.column3 FROM ",
    &[Text, Int, Int],
    " WHERE r.id = v.column1 AND r.epoch = v.column2 AND r.owner IS NOT NULL",
);

/// Lets go of a run: id, epoch.
pub(crate) static RELEASE_RUN: Bulk = Bulk::new(
    "UPDATE runs AS r SET owner = NULL, lease_until = NULL FROM ",
    &[Text, Int],
    " WHERE r.id = v.column1 AND r.epoch = v.column2 AND r.status = 'running'",
);

/// Replaces what runs were launched with: id, epoch, settings, whether a wish stays.
pub(crate) static CONFIGURE_RUN: Bulk = Bulk::new(
    "UPDATE runs AS r SET settings = v.column3, wish = CASE WHEN v.column4 THEN r.wish END FROM ",
    &[Text, Int, Text, Bool],
    " WHERE r.id = v.column1 AND r.epoch = v.column2",
);

/// Creates tasks.
pub(crate) static INSERT_TASKS: Bulk = Bulk::new(
    "INSERT INTO tasks (id, run_id, parent_id, key, position, kind, title, description, role, priority, status, \
     success_criteria, attempts, result, reason, model, input_tokens, output_tokens, cached_tokens, reasoning_tokens, \
     estimated, cost_micro_usd, created_at, started_at, finished_at, duration_ms, created_by) \
     SELECT column1, column2, column3, column4, column5, column6, column7, column8, column9, column10, column11, \
     column12, column13, column14, column15, column16, column17, column18, column19, column20, column21, column22, \
     column23, column24, column25, column26, column27 FROM ",
    &[
        Text, Text, Text, Text, Int, Text, Text, Text, Text, Int, Text, Text, Int, Bytes, Text, Text, Int, Int, Int,
        Int, Bool, Int, Int, Int, Int, Int, Text,
    ],
    " WHERE column1 IS NOT NULL RETURNING id, number",
);

/// Finds the numbers of tasks.
pub(crate) static FIND_NUMBERS: Bulk =
    Bulk::new("SELECT t.id, t.number FROM tasks AS t WHERE t.id IN (SELECT column1 FROM ", &[Text], ")");

macro_rules! move_tasks {
    ($returning:literal) => {
        Bulk::new(
            "UPDATE tasks AS t SET status = v.column4, attempts = v.column6, result = v.column7, \
             reason = v.column8, model = v.column9, started_at = COALESCE(t.started_at, v.column10), \
             finished_at = v.column11, \
             input_tokens = LEAST(t.input_tokens, 9223372036854775807 - v.column12) + v.column12, \
             output_tokens = LEAST(t.output_tokens, 9223372036854775807 - v.column13) + v.column13, \
             cached_tokens = LEAST(t.cached_tokens, 9223372036854775807 - v.column14) + v.column14, \
             reasoning_tokens = LEAST(t.reasoning_tokens, 9223372036854775807 - v.column15) + v.column15, \
             estimated = t.estimated OR v.column16, \
             cost_micro_usd = LEAST(t.cost_micro_usd, 9223372036854775807 - v.column17) + v.column17 FROM ",
            &[Int, Text, Text, Text, Int, Int, Bytes, Text, Text, Int, Int, Int, Int, Int, Int, Bool, Int],
            concat!(
                " WHERE t.number = v.column1 AND t.run_id = v.column2 AND t.status = v.column3 ",
                "AND t.attempts = v.column5",
                $returning
            ),
        )
    };
}

/// Moves tasks: number, run, from, to, attempts from, attempts to, …; the count of rows tells whether all applied.
pub(crate) static MOVE_TASKS: Bulk = move_tasks!("");

/// The same, telling which applied; for when not all did.
pub(crate) static MOVE_TASKS_NAMED: Bulk = move_tasks!(" RETURNING number");

/// Links tasks.
pub(crate) static INSERT_LINKS: Bulk = Bulk::new(
    "INSERT INTO task_links (from_task, to_task, kind) SELECT column1, column2, column3 FROM ",
    &[Int, Int, Text],
    " WHERE column1 IS NOT NULL ON CONFLICT DO NOTHING",
);

/// Begins attempts.
pub(crate) static INSERT_ATTEMPTS: Bulk = Bulk::new(
    "INSERT INTO attempts (task, number, role, model, status, started_at, input_hash) \
     SELECT column1, column2, column3, column4, 'running', column5, column6 FROM ",
    &[Int, Int, Text, Text, Int, Bytes],
    " WHERE column1 IS NOT NULL",
);

/// Ends attempts.
pub(crate) static END_ATTEMPTS: Bulk = Bulk::new(
    "UPDATE attempts AS a SET status = v.column3, model = v.column4, input_tokens = v.column5, \
     output_tokens = v.column6, cached_tokens = v.column7, reasoning_tokens = v.column8, estimated = v.column9, \
     cost_micro_usd = v.column10, error = v.column11, finished_at = v.column12 FROM ",
    &[Int, Int, Text, Text, Int, Int, Int, Int, Bool, Int, Text, Int],
    " WHERE a.task = v.column1 AND a.number = v.column2 AND a.status = 'running'",
);

/// What calls of runs have cost: run. A call counts with a million dollars at most, so that the sum fits.
pub(crate) static SUM_CALLS: Bulk = Bulk::new(
    "SELECT t.run_id, CAST(SUM(LEAST(1000000000000, \
     CASE WHEN c.outcome IS NULL AND c.reply IS NULL THEN COALESCE(c.reserved_micro_usd, 0) \
     ELSE COALESCE(c.cost_micro_usd, 0) END)) AS BIGINT) FROM ",
    &[Text],
    " JOIN tasks AS t ON t.run_id = v.column1 JOIN calls AS c ON c.task = t.number GROUP BY t.run_id",
);

/// What all runs of projects have cost: project. The sum that a run keeps, else that of its calls.
pub(crate) static SUM_PROJECTS: Bulk = Bulk::new(
    "SELECT r.project, CAST(SUM(COALESCE(r.charged_micro_usd, (SELECT SUM(LEAST(1000000000000, \
     CASE WHEN c.outcome IS NULL AND c.reply IS NULL THEN COALESCE(c.reserved_micro_usd, 0) \
     ELSE COALESCE(c.cost_micro_usd, 0) END)) FROM tasks AS t JOIN calls AS c ON c.task = t.number WHERE t.run_id = r.id), 0)) AS BIGINT) FROM ",
    &[Text],
    " JOIN runs AS r ON r.project = v.column1 GROUP BY r.project",
);

/// Keeps others from adding to a project until the transaction ends: project. PostgreSQL only.
pub(crate) static LOCK_PROJECT: Bulk = Bulk::new(
    "SELECT pg_advisory_xact_lock(hashtextextended(v.column1, 7103271)) FROM ",
    &[Text],
    " WHERE v.column1 IS NOT NULL",
);

/// What calls without an end count with: task, attempt, call. One whose answer is recorded counts with what it cost.
pub(crate) static OPEN_CALLS: Bulk = Bulk::new(
    "SELECT c.task, c.attempt, c.number, COALESCE(CASE WHEN c.reply IS NULL THEN c.reserved_micro_usd ELSE c.cost_micro_usd END, \
     0) FROM ",
    &[Int, Int, Int],
    " JOIN calls AS c ON c.task = v.column1 AND c.attempt = v.column2 AND c.number = v.column3 WHERE c.outcome IS NULL",
);

/// What is reserved for the open calls of runs: run.
pub(crate) static OPEN_IN_RUNS: Bulk = Bulk::new(
    "SELECT r.id, CAST(COALESCE((SELECT SUM(LEAST(1000000000000, COALESCE(c.reserved_micro_usd, 0))) \
     FROM tasks AS t JOIN calls AS c ON c.task = t.number \
     WHERE t.run_id = r.id AND c.outcome IS NULL AND c.reply IS NULL), 0) AS BIGINT) FROM ",
    &[Text],
    " JOIN runs AS r ON r.id = v.column1",
);

/// The same of projects, for the calls that somebody makes, the run's manager or a worker: nobody ends others soon.
pub(crate) static OPEN_IN_PROJECTS: Bulk = Bulk::new(
    "SELECT r.project, CAST(COALESCE(SUM((SELECT SUM(LEAST(1000000000000, COALESCE(c.reserved_micro_usd, 0))) \
     FROM tasks AS t JOIN calls AS c ON c.task = t.number \
     WHERE t.run_id = r.id AND c.outcome IS NULL AND c.reply IS NULL AND (r.lease_until > NOW_MICROS OR EXISTS ( \
     SELECT 1 FROM offers AS o WHERE o.task = c.task AND o.attempt = c.attempt AND o.lease_until > NOW_MICROS)))), 0) \
     AS BIGINT) FROM ",
    &[Text],
    " JOIN runs AS r ON r.project = v.column1 AND r.status = 'running' GROUP BY r.project",
);

/// Keeps what runs have cost: run, sum.
pub(crate) static CHARGE_RUNS: Bulk =
    Bulk::new("UPDATE runs AS r SET charged_micro_usd = v.column2 FROM ", &[Text, Int], " WHERE r.id = v.column1");

/// Begins calls.
pub(crate) static INSERT_CALLS: Bulk = Bulk::new(
    "INSERT INTO calls (task, attempt, number, purpose, model, provider, input_hash, started_at, reserved_micro_usd) \
     SELECT column1, column2, column3, column4, column5, column6, column7, column8, column9 FROM ",
    &[Int, Int, Int, Text, Text, Text, Bytes, Int, Int],
    " WHERE column1 IS NOT NULL",
);

/// Keeps answers of calls that are open still.
pub(crate) static ANSWER_CALLS: Bulk = Bulk::new(
    "UPDATE calls AS c SET input_tokens = v.column4, output_tokens = v.column5, cached_tokens = v.column6, \
     reasoning_tokens = v.column7, estimated = v.column8, cost_micro_usd = v.column9, reply = v.column10 FROM ",
    &[Int, Int, Int, Int, Int, Int, Int, Bool, Int, Bytes],
    " WHERE c.task = v.column1 AND c.attempt = v.column2 AND c.number = v.column3 AND c.outcome IS NULL",
);

/// Ends calls.
pub(crate) static END_CALLS: Bulk = Bulk::new(
    "UPDATE calls AS c SET outcome = v.column4, input_tokens = v.column5, output_tokens = v.column6, \
     cached_tokens = v.column7, reasoning_tokens = v.column8, estimated = v.column9, cost_micro_usd = v.column10, \
     elapsed_us = v.column11, reply = v.column12, error = v.column13 FROM ",
    &[Int, Int, Int, Text, Int, Int, Int, Int, Bool, Int, Int, Bytes, Text],
    " WHERE c.task = v.column1 AND c.attempt = v.column2 AND c.number = v.column3 AND c.outcome IS NULL",
);

/// Keeps what attempts were told.
pub(crate) static INSERT_CONTEXTS: Bulk = Bulk::new(
    "INSERT INTO task_contexts (task, attempt, tokens, budget, items, created_at, bundle, prompt, tokenizer) \
     SELECT column1, column2, column3, column4, column5, column6, column7, column8, column9 FROM ",
    &[Int, Int, Int, Int, Text, Int, Bytes, Bytes, Text],
    " WHERE column1 IS NOT NULL",
);

/// Keeps large texts: hash, text, time. One that is there already is marked as written, five minutes apart at least.
pub(crate) static INSERT_TEXTS: Bulk = Bulk::new(
    "INSERT INTO texts (hash, body, touched_at) SELECT column1, column2, column3 FROM ",
    &[Bytes, Text, Int],
    " WHERE column1 IS NOT NULL ON CONFLICT (hash) DO UPDATE SET touched_at = excluded.touched_at \
     WHERE texts.touched_at < excluded.touched_at - 300000000",
);

macro_rules! insert_events {
    ($commit:literal) => {
        Bulk::new(
            "INSERT INTO events (run_id, seq, created_at, task_id, attempt, kind, payload) \
             SELECT column1, column2, column3, column4, column5, column6, column7 FROM ",
            &[Text, Int, Int, Text, Int, Text, Text],
            concat!(" WHERE column1 IS NOT NULL", $commit),
        )
    };
}

/// Appends events.
pub(crate) static INSERT_EVENTS: Bulk = insert_events!("");

/// The same, ending the transaction with it (SQLite only).
pub(crate) static INSERT_EVENTS_AND_COMMIT: Bulk = insert_events!("; COMMIT");

/// Remembers.
pub(crate) static INSERT_MEMORIES: Bulk = Bulk::new(
    "INSERT INTO memories (id, project, run_id, task_id, kind, agent, created_at, text, text_hash, source_ids) \
     SELECT column1, column2, column3, column4, column5, column6, column7, column8, column9, column10 FROM ",
    &[Bytes, Text, Text, Text, Text, Text, Int, Text, Bytes, Bytes],
    " WHERE column1 IS NOT NULL ON CONFLICT DO NOTHING",
);

/// Marks memories as handed to the vector store.
pub(crate) static DRAIN_MEMORIES: Bulk =
    Bulk::new("UPDATE memories AS m SET drained = TRUE FROM ", &[Bytes], " WHERE m.id = v.column1");

/// Keeps vectors: memory id, model, vector.
pub(crate) static INSERT_VECTORS: Bulk = Bulk::new(
    "INSERT INTO memory_vectors (memory, model, vector) SELECT m.seq, v.column2, v.column3 FROM ",
    &[Bytes, Text, Bytes],
    " JOIN memories AS m ON m.id = v.column1 WHERE TRUE \
     ON CONFLICT (memory, model) DO UPDATE SET vector = excluded.vector",
);

/// What begins with an attempt.
pub(crate) static BEGINNINGS: Group<3> = Group::new([&INSERT_ATTEMPTS, &INSERT_CALLS, &INSERT_CONTEXTS]);

/// What comes with an attempt's end.
pub(crate) static ENDS: Group<4> = Group::new([&END_ATTEMPTS, &END_CALLS, &INSERT_TEXTS, &INSERT_MEMORIES]);

#[cfg(test)]
mod tests {
    use sea_orm::{
        ConnectionTrait as _, DbBackend, Statement,
        sqlx::{self, AssertSqlSafe, Row as _},
    };

    use super::*;
    use crate::{Backend, Store, tx::Pool};

    /// The statements of both databases that find rows by key.
    const BOTH: &[&Bulk] = &[
        &FENCE_RUNS,
        &END_RUNS,
        &INDEX_RUNS,
        &INSERT_PROJECTS,
        &INSERT_RUNS,
        &CLAIM_RUN,
        &REOPEN_RUNS,
        &SET_LINEAGE,
        &CANCEL_TASKS,
        &MARK_COPIED,
        &CONFIGURE_RUN,
        &RENEW_RUN,
        &INSERT_TASKS,
        &FIND_NUMBERS,
        &MOVE_TASKS,
        &MOVE_TASKS_NAMED,
        &INSERT_LINKS,
        &INSERT_ATTEMPTS,
        &END_ATTEMPTS,
        &INSERT_CALLS,
        &ANSWER_CALLS,
        &END_CALLS,
        &INSERT_CONTEXTS,
        &INSERT_TEXTS,
        &INSERT_EVENTS,
        &INSERT_MEMORIES,
        &DRAIN_MEMORIES,
        &INSERT_VECTORS,
        &SUM_CALLS,
        &SUM_PROJECTS,
        &OPEN_CALLS,
        &OPEN_IN_RUNS,
        &OPEN_IN_PROJECTS,
        &CHARGE_RUNS,
        &INSERT_OFFERS,
        &DELETE_OFFERS,
        &DELETE_OFFERS_OF_RUNS,
        &WITHDRAW_OFFERS,
        &FENCE_CLAIMS,
        &REPORT_CLAIMS,
        &RENEW_CLAIMS,
        &RELEASE_CLAIMS,
        &REAP_CLAIMS,
        &WISH,
        &BEAT_NODE,
        &DELETE_NODES,
        &CLOSE_RUNS,
        &SOME_TASKS,
        &DELETE_LINKS_OF_TASKS,
        &DELETE_OFFERS_OF_TASKS,
        &DELETE_CONTEXTS_OF_TASKS,
        &DELETE_CHOICES_OF_TASKS,
        &crate::choice::INSERT_CHOICES,
        &crate::graph::EDIT_TASKS,
        &crate::graph::DETAIL_TASKS,
        &crate::graph::DELETE_LINKS,
        &crate::graph::MOVE_RUNS,
        &crate::graph::INSERT_INDEX_VERSIONS,
        &crate::graph::DELETE_INDEX_VERSIONS,
        &DELETE_CALLS_OF_TASKS,
        &DELETE_ATTEMPTS_OF_TASKS,
        &DELETE_TASKS,
        &DELETE_EVENTS,
        &DELETE_RUNS,
        &DELETE_TEXTS,
        &INSERT_TOOL_CALLS,
        &BEGIN_TOOL_CALLS,
        &END_TOOL_CALLS,
        &INSERT_APPROVALS,
        &WITHDRAW_APPROVALS,
        &DECIDE,
        &GO_ON,
        &DELETE_TOOL_CALLS_OF_TASKS,
        &DELETE_APPROVALS,
        &crate::memory_edit::INSERT_FORGOTTEN,
        &crate::memory_edit::FORGET_MEMORIES,
        &crate::memory_words::RAISE_EPOCH,
        &crate::memory_words::HOLD_EPOCH,
        &crate::memory_words::DELETE_WORDS_OF,
        &crate::memory_words::DELETE_WORDS,
        &crate::memory_words::INSERT_WORDS,
        &crate::traffic::ADD_TRAFFIC,
        &crate::traffic::DELETE_TRAFFIC,
        &crate::launch_keys::INSERT_LAUNCH_KEYS,
        &crate::launch_keys::DELETE_LAUNCH_KEYS,
    ];

    /// A statement that reads a whole table would cost more with every task there is.
    #[tokio::test]
    async fn no_statement_scans_a_table() {
        let store = Store::open("sqlite::memory:").await.unwrap();
        let mut bad = Vec::new();
        let own = [&BEGIN_AND_FENCE_RUNS, &INSERT_EVENTS_AND_COMMIT, &CLAIM_OFFERS_SQLITE];
        for bulk in BOTH.iter().copied().chain(own) {
            let text = bulk.text(Backend::Sqlite, 64).0;
            let text = text.trim_start_matches("BEGIN IMMEDIATE; ").trim_end_matches("; COMMIT");
            let explain = Statement::from_string(DbBackend::Sqlite, format!("EXPLAIN QUERY PLAN {text}"));
            for row in store.reader().await.unwrap().query_all_raw(explain).await.unwrap() {
                let step: String = row.try_get_by_index(3).unwrap();
                let is_scan = step.strip_prefix("SCAN ").is_some_and(|of| !is_small(of));
                if is_scan || step.contains("AUTOMATIC") {
                    bad.push(format!("{step}: {}", &text[..text.find('?').unwrap()]));
                }
            }
        }
        assert!(bad.is_empty(), "{bad:#?}");
    }

    /// PostgreSQL keeps the plan that it makes first, for tables that are empty then: nor may that walk along an index.
    #[tokio::test]
    async fn no_statement_scans_a_table_of_postgres() {
        #[expect(clippy::disallowed_methods, reason = "the one setting of these tests")]
        let Ok(server) = std::env::var("CREWLINE_TEST_POSTGRES") else { return };
        let name = format!("crewline_plans_{}", std::process::id());
        let admin = sea_orm::Database::connect(&server).await.unwrap();
        admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
        let (base, _) = server.rsplit_once('/').unwrap();
        let store = Store::open(&format!("{base}/{name}")).await.unwrap();
        let bad = scans_of(&store).await;
        store.close(std::time::Duration::from_secs(5)).await;
        admin.execute_unprepared(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
        assert!(bad.is_empty(), "{bad:#?}");
    }

    async fn scans_of(store: &Store) -> Vec<String> {
        let Pool::Postgres(pool) = store.inner.writer.pool() else { panic!("a store on PostgreSQL") };
        let mut connection = pool.acquire().await.unwrap();
        let mut bad = Vec::new();
        for bulk in BOTH.iter().copied().chain([&CLAIM_OFFERS_POSTGRES, &LOCK_OFFERS]) {
            for rows in [1, 256] {
                let text = bulk.text(Backend::Postgres, rows).0;
                let nulls = vec!["NULL"; text.matches('$').count()].join(",");
                sqlx::raw_sql(AssertSqlSafe(format!("PREPARE p AS {text}"))).execute(&mut *connection).await.unwrap();
                let explain = format!("EXPLAIN (COSTS OFF) EXECUTE p({nulls})");
                let plan = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(&mut *connection).await.unwrap();
                let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
                sqlx::raw_sql("DEALLOCATE p").execute(&mut *connection).await.unwrap();
                for (at, step) in plan.iter().enumerate() {
                    let step = step.trim();
                    let is_walk = step.contains("Index") && step.contains("Scan using") && !is_open_only(step) && {
                        let mut details = plan[at + 1..].iter().take_while(|it| !it.contains("->"));
                        !details.any(|it| it.contains("Index Cond"))
                    };
                    if step.contains("Seq Scan") || is_walk {
                        bad.push(format!("{rows} rows, {step}: {}", &text[..text.find('$').unwrap()]));
                    }
                }
            }
        }
        bad
    }

    /// What is managed, offered, or asked of a person, at the moment: as much as is being worked on, not as much as there ever was.
    fn is_open_only(step: &str) -> bool {
        ["runs_running", "offers_pkey", "offers_of_node", "approvals_pending"]
            .iter()
            .any(|index| step.contains(&format!("using {index} ")))
    }

    /// The rows that were handed in, and what is found from them.
    fn is_small(of: &str) -> bool {
        ["v", "wanted", "every", "roles", "held", "picked", "late", "CONSTANT ROW"].contains(&of)
            || of.starts_with("64")
    }
}
