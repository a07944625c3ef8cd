//! Attempts that are offered to any worker, the nodes that work, what a run is asked to do, and what it has cost so far.
//!
//! An offer is the durable mailbox of one attempt: free, then claimed under a lease, then reported or lost, then gone.
//!
//! **Invariant:** each question has an index of just the rows it is about, so that it costs what it answers.

/// See the file's head.
pub(super) const SCHEMA: &str = "
CREATE TABLE offers (
    task {bigint} NOT NULL,
    attempt {bigint} NOT NULL CHECK (attempt >= 1),
    -- Both are known from the task; who asks is spared the look-up.
    task_id {id} NOT NULL,
    run_id {id} NOT NULL,
    role TEXT NOT NULL,
    -- Lower ones are claimed first.
    rank {bigint} NOT NULL,
    -- Who has claimed it; NULL while it is free.
    node TEXT,
    lease_until {bigint},
    is_lost {bool} NOT NULL DEFAULT FALSE,
    -- JSON, for the manager.
    report TEXT,
    offered_at {bigint} NOT NULL,
    claimed_at {bigint},
    PRIMARY KEY (task, attempt),
    CHECK ((node IS NULL) = (lease_until IS NULL)),
    CHECK ((node IS NULL) = (claimed_at IS NULL)),
    CHECK (node IS NOT NULL OR (report IS NULL AND NOT is_lost)),
    CHECK (report IS NULL OR NOT is_lost)
){clustered};
CREATE INDEX offers_free ON offers (role, rank, task, attempt) WHERE node IS NULL;
CREATE INDEX offers_of_node ON offers (node) WHERE node IS NOT NULL AND report IS NULL AND NOT is_lost;
CREATE INDEX offers_leases ON offers (lease_until) WHERE lease_until IS NOT NULL AND report IS NULL AND NOT is_lost;
CREATE INDEX offers_answered ON offers (run_id) WHERE report IS NOT NULL OR is_lost;

CREATE TABLE nodes (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind = 'worker' OR kind = 'server'),
    version TEXT NOT NULL,
    -- JSON; NULL: every role.
    roles TEXT,
    slots {bigint} NOT NULL CHECK (slots >= 0),
    busy {bigint} NOT NULL CHECK (busy >= 0),
    registry {bytes} NOT NULL,
    is_draining {bool} NOT NULL,
    started_at {bigint} NOT NULL,
    seen_at {bigint} NOT NULL
){table};

-- What somebody asks of its manager.
ALTER TABLE runs ADD COLUMN wish TEXT CHECK (wish IS NULL OR wish = 'pause' OR wish = 'cancel' OR wish = 'kill');
-- The cost of its calls, an open one at its reservation; kept from the first call that has a limit on.
ALTER TABLE runs ADD COLUMN charged_micro_usd {bigint};
CREATE INDEX runs_running ON runs (status) WHERE status = 'running';

ALTER TABLE attempts ADD COLUMN input_hash {bytes};
";
