//! The first schema: projects, runs, tasks, what was tried, what was said, what is remembered.
//!
//! Times are microseconds UTC, money is micro-dollars, ids are their eight characters, hashes their 16 bytes.
//! A task also has a `number`, which the tables below it use: it is short, and rows of tasks that were planned
//! together lie together, so that a batch touches few pages.
//!
//! **Invariant:** CHECK constraints say what a state implies. Lists are written with OR, the most frequent first: SQLite
//! builds a table for each `IN`, which costs 2 µs a row.
//! **Invariant:** foreign keys only where rows are written seldom; `attempts` and below get their `task` from a lookup,
//! so a row without its task can not be written.

/// See the file's head.
pub(super) const SCHEMA: &str = "
CREATE TABLE projects (
    name TEXT NOT NULL PRIMARY KEY,
    created_at {bigint} NOT NULL
){table};

CREATE TABLE runs (
    id {id} NOT NULL PRIMARY KEY,
    project TEXT NOT NULL REFERENCES projects (name),
    goal TEXT NOT NULL,
    status TEXT NOT NULL CHECK (
        status = 'running' OR status = 'completed' OR status = 'failed' OR status = 'cancelled'
        OR status = 'interrupted' OR status = 'limit_reached'
    ),
    settings TEXT NOT NULL,
    registry {bytes} NOT NULL,
    -- The fencing token of its manager: raised by every claim.
    epoch {bigint} NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    owner TEXT,
    lease_until {bigint},
    index_hash {bytes},
    last_seq {bigint} NOT NULL DEFAULT 0 CHECK (last_seq >= 0),
    created_at {bigint} NOT NULL,
    finished_at {bigint},
    error TEXT,
    CHECK ((status = 'running') = (finished_at IS NULL)),
    CHECK ((owner IS NULL) = (lease_until IS NULL)),
    CHECK (status = 'running' OR owner IS NULL)
){table};

CREATE INDEX runs_project ON runs (project);

CREATE TABLE tasks (
    number {serial},
    id {id} NOT NULL UNIQUE,
    run_id {id} NOT NULL REFERENCES runs (id),
    parent_id {id},
    key TEXT NOT NULL,
    position {bigint} NOT NULL,
    kind TEXT NOT NULL CHECK (
        kind = 'atomic' OR kind = 'root' OR kind = 'composite' OR kind = 'synthesis'
    ),
    title TEXT NOT NULL,
    description TEXT NOT NULL,
    role TEXT NOT NULL,
    priority {bigint} NOT NULL CHECK (priority BETWEEN 1 AND 10),
    status TEXT NOT NULL CHECK (
        status = 'in_progress' OR status = 'completed' OR status = 'pending' OR status = 'failed'
        OR status = 'blocked' OR status = 'awaiting_approval' OR status = 'cancelled'
    ),
    success_criteria TEXT NOT NULL,
    attempts {bigint} NOT NULL CHECK (attempts >= 0),
    result {bytes},
    reason TEXT,
    model TEXT,
    input_tokens {bigint} NOT NULL,
    output_tokens {bigint} NOT NULL,
    cached_tokens {bigint} NOT NULL,
    reasoning_tokens {bigint} NOT NULL,
    estimated {bool} NOT NULL,
    cost_micro_usd {bigint} NOT NULL,
    created_at {bigint} NOT NULL,
    started_at {bigint},
    finished_at {bigint},
    CHECK (
        (status = 'completed' OR status = 'failed' OR status = 'cancelled') = (finished_at IS NOT NULL)
    )
){table};
CREATE INDEX tasks_run ON tasks (run_id);

CREATE TABLE task_links (
    from_task {bigint} NOT NULL,
    to_task {bigint} NOT NULL,
    kind TEXT NOT NULL CHECK (
        kind = 'requires' OR kind = 'refers' OR kind = 'duplicates' OR kind = 'relates_to'
    ),
    PRIMARY KEY (from_task, to_task, kind)
){clustered};

CREATE TABLE attempts (
    task {bigint} NOT NULL,
    number {bigint} NOT NULL CHECK (number >= 1),
    role TEXT NOT NULL,
    model TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status = 'running' OR status = 'succeeded' OR status = 'failed'),
    input_tokens {bigint} NOT NULL DEFAULT 0,
    output_tokens {bigint} NOT NULL DEFAULT 0,
    cached_tokens {bigint} NOT NULL DEFAULT 0,
    reasoning_tokens {bigint} NOT NULL DEFAULT 0,
    estimated {bool} NOT NULL DEFAULT FALSE,
    cost_micro_usd {bigint} NOT NULL DEFAULT 0,
    -- JSON of an ErrorNote.
    error TEXT,
    started_at {bigint} NOT NULL,
    finished_at {bigint},
    PRIMARY KEY (task, number),
    CHECK ((status = 'running') = (finished_at IS NULL))
){clustered};

CREATE TABLE calls (
    task {bigint} NOT NULL,
    attempt {bigint} NOT NULL,
    number {bigint} NOT NULL CHECK (number >= 1),
    purpose TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    input_hash {bytes} NOT NULL,
    -- The worst case; NULL when the model has no price.
    reserved_micro_usd {bigint},
    -- NULL until it returned.
    outcome TEXT CHECK (
        outcome = 'ok' OR outcome = 'error' OR outcome = 'timeout' OR outcome = 'rate_limited'
        OR outcome = 'invalid' OR outcome = 'cancelled' OR outcome = 'lost'
    ),
    input_tokens {bigint} NOT NULL DEFAULT 0,
    output_tokens {bigint} NOT NULL DEFAULT 0,
    cached_tokens {bigint} NOT NULL DEFAULT 0,
    reasoning_tokens {bigint} NOT NULL DEFAULT 0,
    estimated {bool} NOT NULL DEFAULT FALSE,
    -- NULL when the model has no price.
    cost_micro_usd {bigint},
    elapsed_us {bigint},
    reply {bytes},
    error TEXT,
    started_at {bigint} NOT NULL,
    PRIMARY KEY (task, attempt, number),
    CHECK ((outcome IS NULL) = (elapsed_us IS NULL))
){clustered};

-- Rows may be long: not clustered.
CREATE TABLE task_contexts (
    task {bigint} NOT NULL,
    attempt {bigint} NOT NULL,
    tokens {bigint} NOT NULL,
    budget {bigint} NOT NULL,
    -- JSON: where every part came from.
    items TEXT NOT NULL,
    created_at {bigint} NOT NULL,
    PRIMARY KEY (task, attempt)
){table};

CREATE TABLE texts (
    hash {bytes} NOT NULL PRIMARY KEY,
    body TEXT NOT NULL
){table};

CREATE TABLE events (
    run_id {id} NOT NULL,
    seq {bigint} NOT NULL CHECK (seq >= 1),
    created_at {bigint} NOT NULL,
    task_id {id},
    attempt {bigint},
    kind TEXT NOT NULL,
    -- JSON of an EventBody without its `type`, which is `kind`.
    payload TEXT NOT NULL,
    PRIMARY KEY (run_id, seq)
){clustered};

CREATE TABLE memories (
    seq {serial},
    id {bytes} NOT NULL,
    project TEXT NOT NULL,
    run_id {id},
    task_id {id},
    kind TEXT NOT NULL,
    agent TEXT NOT NULL,
    created_at {bigint} NOT NULL,
    -- Its text, or the hash of one of `texts`: nothing long is stored twice.
    text TEXT,
    text_hash {bytes},
    -- The ids it was made from, 16 bytes each.
    source_ids {bytes},
    -- Whether the vector store has it.
    drained {bool} NOT NULL DEFAULT FALSE,
    UNIQUE (id, project),
    CHECK ((text IS NULL) <> (text_hash IS NULL))
){table};
CREATE INDEX memories_project ON memories (project{,seq});
CREATE INDEX memories_outbox ON memories {outbox};

-- Little-endian 32-bit floats.
CREATE TABLE memory_vectors (
    memory {bigint} NOT NULL REFERENCES memories (seq) ON DELETE CASCADE,
    model TEXT NOT NULL,
    vector {bytes} NOT NULL,
    PRIMARY KEY (memory, model)
){table};
";
