-- The newest schema of an SQLite file, as all migrations together make it: a new file gets it at once.
-- A test compares both, and says what differs.

CREATE TABLE "seaql_migrations" ( "version" varchar NOT NULL PRIMARY KEY, "applied_at" integer NOT NULL );

CREATE TABLE projects (
    name TEXT NOT NULL PRIMARY KEY,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE runs (
    id TEXT NOT NULL PRIMARY KEY,
    project TEXT NOT NULL REFERENCES projects (name),
    goal TEXT NOT NULL,
    status TEXT NOT NULL CHECK (
        status = 'running' OR status = 'completed' OR status = 'failed' OR status = 'cancelled'
        OR status = 'interrupted' OR status = 'limit_reached'
    ),
    settings TEXT NOT NULL,
    registry BLOB NOT NULL,
    -- The fencing token of its manager: raised by every claim.
    epoch INTEGER NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    owner TEXT,
    lease_until INTEGER,
    index_hash BLOB,
    last_seq INTEGER NOT NULL DEFAULT 0 CHECK (last_seq >= 0),
    created_at INTEGER NOT NULL,
    finished_at INTEGER,
    error TEXT,
    wish TEXT CHECK (wish IS NULL OR wish = 'pause' OR wish = 'cancel' OR wish = 'kill'),
    charged_micro_usd INTEGER,
    parent_run TEXT,
    origin TEXT CHECK (origin IS NULL OR origin = 'replay' OR origin = 'fork'),
    CHECK ((status = 'running') = (finished_at IS NULL)),
    CHECK ((owner IS NULL) = (lease_until IS NULL)),
    CHECK (status = 'running' OR owner IS NULL)
) STRICT;

CREATE INDEX runs_project ON runs (project);

CREATE TABLE tasks (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    run_id TEXT NOT NULL REFERENCES runs (id),
    parent_id TEXT,
    key TEXT NOT NULL,
    position INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (
        kind = 'atomic' OR kind = 'root' OR kind = 'composite' OR kind = 'synthesis'
    ),
    title TEXT NOT NULL,
    description TEXT NOT NULL,
    role TEXT NOT NULL,
    priority INTEGER NOT NULL CHECK (priority BETWEEN 1 AND 10),
    status TEXT NOT NULL CHECK (
        status = 'in_progress' OR status = 'completed' OR status = 'pending' OR status = 'failed'
        OR status = 'blocked' OR status = 'awaiting_approval' OR status = 'cancelled'
    ),
    success_criteria TEXT NOT NULL,
    attempts INTEGER NOT NULL CHECK (attempts >= 0),
    result BLOB,
    reason TEXT,
    model TEXT,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    cost_micro_usd INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    copied_from TEXT,
    "duration_ms" integer,
    details TEXT,
    created_by TEXT,
    CHECK (
        (status = 'completed' OR status = 'failed' OR status = 'cancelled') = (finished_at IS NOT NULL)
    )
) STRICT;

CREATE INDEX tasks_run ON tasks (run_id);

CREATE TABLE task_links (
    from_task INTEGER NOT NULL,
    to_task INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (
        kind = 'requires' OR kind = 'refers' OR kind = 'duplicates' OR kind = 'relates_to'
    ),
    PRIMARY KEY (from_task, to_task, kind)
) STRICT, WITHOUT ROWID;

CREATE TABLE attempts (
    task INTEGER NOT NULL,
    number INTEGER NOT NULL CHECK (number >= 1),
    role TEXT NOT NULL,
    model TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status = 'running' OR status = 'succeeded' OR status = 'failed'),
    input_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0,
    reasoning_tokens INTEGER NOT NULL DEFAULT 0,
    estimated INTEGER NOT NULL DEFAULT FALSE,
    cost_micro_usd INTEGER NOT NULL DEFAULT 0,
    -- JSON of an ErrorNote.
    error TEXT,
    started_at INTEGER NOT NULL,
    finished_at INTEGER,
    input_hash BLOB,
    PRIMARY KEY (task, number),
    CHECK ((status = 'running') = (finished_at IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE calls (
    task INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    number INTEGER NOT NULL CHECK (number >= 1),
    purpose TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    input_hash BLOB NOT NULL,
    -- The worst case; NULL when the model has no price.
    reserved_micro_usd INTEGER,
    -- NULL until it returned.
    outcome TEXT CHECK (
        outcome = 'ok' OR outcome = 'error' OR outcome = 'timeout' OR outcome = 'rate_limited'
        OR outcome = 'invalid' OR outcome = 'cancelled' OR outcome = 'lost'
    ),
    input_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0,
    reasoning_tokens INTEGER NOT NULL DEFAULT 0,
    estimated INTEGER NOT NULL DEFAULT FALSE,
    -- NULL when the model has no price.
    cost_micro_usd INTEGER,
    elapsed_us INTEGER,
    reply BLOB,
    error TEXT,
    started_at INTEGER NOT NULL,
    PRIMARY KEY (task, attempt, number),
    CHECK ((outcome IS NULL) = (elapsed_us IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE task_contexts (
    task INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    budget INTEGER NOT NULL,
    -- JSON: where every part came from.
    items TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    bundle BLOB,
    prompt BLOB,
    tokenizer TEXT,
    PRIMARY KEY (task, attempt)
) STRICT;

CREATE TABLE texts (
    hash BLOB NOT NULL PRIMARY KEY,
    body TEXT NOT NULL,
    touched_at INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE events (
    run_id TEXT NOT NULL,
    seq INTEGER NOT NULL CHECK (seq >= 1),
    created_at INTEGER NOT NULL,
    task_id TEXT,
    attempt INTEGER,
    kind TEXT NOT NULL,
    -- JSON of an EventBody without its `type`, which is `kind`.
    payload TEXT NOT NULL,
    PRIMARY KEY (run_id, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE memories (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL,
    project TEXT NOT NULL,
    run_id TEXT,
    task_id TEXT,
    kind TEXT NOT NULL,
    agent TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    -- Its text, or the hash of one of `texts`: nothing long is stored twice.
    text TEXT,
    text_hash BLOB,
    -- The ids it was made from, 16 bytes each.
    source_ids BLOB,
    -- Whether the vector store has it.
    drained INTEGER NOT NULL DEFAULT FALSE,
    importance INTEGER NOT NULL DEFAULT 500 CHECK (importance BETWEEN 0 AND 1000),
    pinned INTEGER NOT NULL DEFAULT FALSE,
    superseded_by BLOB,
    repeats INTEGER NOT NULL DEFAULT 0 CHECK (repeats >= 0),
    stale INTEGER NOT NULL DEFAULT FALSE,
    metadata TEXT,
    UNIQUE (id, project),
    CHECK ((text IS NULL) <> (text_hash IS NULL))
) STRICT;

CREATE INDEX memories_project ON memories (project);

CREATE INDEX memories_outbox ON memories (drained) WHERE drained = 0;

CREATE TABLE memory_vectors (
    memory INTEGER NOT NULL REFERENCES memories (seq) ON DELETE CASCADE,
    model TEXT NOT NULL,
    vector BLOB NOT NULL,
    PRIMARY KEY (memory, model)
) STRICT;

CREATE TABLE offers (
    task INTEGER NOT NULL,
    attempt INTEGER NOT NULL CHECK (attempt >= 1),
    -- Both are known from the task; who asks is spared the look-up.
    task_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    role TEXT NOT NULL,
    -- Lower ones are claimed first.
    rank INTEGER NOT NULL,
    -- Who has claimed it; NULL while it is free.
    node TEXT,
    lease_until INTEGER,
    is_lost INTEGER NOT NULL DEFAULT FALSE,
    -- JSON, for the manager.
    report TEXT,
    offered_at INTEGER NOT NULL,
    claimed_at INTEGER,
    "told" text NOT NULL DEFAULT '',
    PRIMARY KEY (task, attempt),
    CHECK ((node IS NULL) = (lease_until IS NULL)),
    CHECK ((node IS NULL) = (claimed_at IS NULL)),
    CHECK (node IS NOT NULL OR (report IS NULL AND NOT is_lost)),
    CHECK (report IS NULL OR NOT is_lost)
) STRICT, WITHOUT ROWID;

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
    slots INTEGER NOT NULL CHECK (slots >= 0),
    busy INTEGER NOT NULL CHECK (busy >= 0),
    registry BLOB NOT NULL,
    is_draining INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    "lease_us" integer NOT NULL DEFAULT 30000000
) STRICT;

CREATE INDEX runs_running ON runs (status) WHERE status = 'running';

CREATE TABLE memory_forgotten (
    id BLOB NOT NULL,
    project TEXT NOT NULL,
    PRIMARY KEY (id, project)
) STRICT;

CREATE TABLE memory_target (
    one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    name TEXT NOT NULL
) STRICT;

CREATE INDEX memories_project_summaries ON memories (project)
    WHERE kind = 'project_summary' AND superseded_by IS NULL;

CREATE INDEX memories_rolling_summaries ON memories (task_id)
    WHERE kind = 'rolling_summary' AND superseded_by IS NULL;

CREATE TABLE context_choices (
    task INTEGER NOT NULL,
    -- `task:<id>`, `memory:<id>`, or `bundle`.
    item TEXT NOT NULL,
    choice TEXT NOT NULL CHECK (choice = 'pin' OR choice = 'exclude' OR choice = 'none' OR choice = 'approved'),
    title TEXT NOT NULL,
    -- The text of a memory, or the JSON of an approved bundle.
    body TEXT,
    agent TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (task, item),
    CHECK (choice <> 'approved' OR item = 'bundle'),
    CHECK (choice <> 'approved' OR body IS NOT NULL)
) STRICT;

CREATE TABLE index_versions (
    run_id TEXT NOT NULL,
    version INTEGER NOT NULL CHECK (version >= 1),
    hash BLOB NOT NULL,
    agent TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (run_id, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE tool_calls (
    task INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    call INTEGER NOT NULL,
    -- In the answer, from 0.
    place INTEGER NOT NULL CHECK (place >= 0),
    -- The model's own name for it.
    asked_as TEXT NOT NULL,
    tool TEXT NOT NULL,
    -- A text, as the model wrote it.
    arguments BLOB NOT NULL,
    -- Names tool and arguments.
    digest BLOB NOT NULL,
    effect TEXT NOT NULL CHECK (effect = 'read' OR effect = 'repeatable' OR effect = 'unsafe'),
    started_at INTEGER NOT NULL,
    -- The attempt that was about to make it; NULL as long as none was.
    begun_by INTEGER,
    -- NULL until it is known.
    outcome TEXT CHECK (
        outcome = 'ok' OR outcome = 'failed' OR outcome = 'refused' OR outcome = 'invalid' OR outcome = 'timeout'
        OR outcome = 'unknown'
    ),
    -- What the model is told of it.
    output BLOB,
    elapsed_us INTEGER,
    PRIMARY KEY (task, attempt, call, place),
    CHECK ((outcome IS NULL) = (elapsed_us IS NULL)),
    CHECK ((outcome IS NULL) = (output IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE approvals (
    id TEXT NOT NULL PRIMARY KEY,
    run_id TEXT NOT NULL REFERENCES runs (id),
    -- NULL: about the run as a whole.
    task_id TEXT,
    kind TEXT NOT NULL CHECK (
        kind = 'tool' OR kind = 'plan' OR kind = 'context' OR kind = 'again' OR kind = 'question'
    ),
    -- A line for people.
    subject TEXT NOT NULL,
    -- A text: what exactly.
    detail BLOB NOT NULL,
    -- Names what exactly.
    digest BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state = 'pending' OR state = 'approved' OR state = 'rejected'),
    created_at INTEGER NOT NULL,
    decided_at INTEGER,
    decided_by TEXT,
    message TEXT,
    CHECK ((state = 'pending') = (decided_at IS NULL)),
    CHECK ((decided_at IS NULL) = (decided_by IS NULL))
) STRICT;

CREATE INDEX approvals_run ON approvals (run_id);

CREATE INDEX approvals_pending ON approvals (created_at) WHERE state = 'pending';

CREATE TABLE tool_pins (
    server TEXT NOT NULL,
    -- Names the program or address behind the name.
    origin BLOB NOT NULL,
    -- The server's own name of the tool.
    tool TEXT NOT NULL,
    hash BLOB NOT NULL,
    -- What the hash is of, for people to compare.
    definition TEXT NOT NULL,
    pinned_at INTEGER NOT NULL,
    -- Who agreed; `registry` when the server was new.
    pinned_by TEXT NOT NULL,
    PRIMARY KEY (server, origin, tool)
) STRICT, WITHOUT ROWID;

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    -- BLAKE3 of the secret.
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    -- Words with commas between them.
    scopes TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    expires_at INTEGER,
    -- To the minute.
    used_at INTEGER,
    revoked_at INTEGER
) STRICT;

CREATE UNIQUE INDEX api_keys_name ON api_keys (name) WHERE revoked_at IS NULL;

CREATE TABLE shadows (
    task INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    run_id TEXT NOT NULL,
    role TEXT NOT NULL,
    -- The model of the chain whose question it is, and what came of that call.
    incumbent TEXT NOT NULL,
    incumbent_outcome TEXT NOT NULL,
    incumbent_cost_micro_usd INTEGER,
    incumbent_elapsed_us INTEGER NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    -- The worst case: it counts until the cost is known.
    reserved_micro_usd INTEGER NOT NULL,
    -- Whether all of the task's checks are made on a copy: commands and judges are not.
    is_judged INTEGER NOT NULL,
    -- NULL until it returned.
    outcome TEXT CHECK (
        outcome = 'ok' OR outcome = 'error' OR outcome = 'timeout' OR outcome = 'rate_limited'
        OR outcome = 'invalid' OR outcome = 'cancelled' OR outcome = 'lost'
    ),
    input_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0,
    reasoning_tokens INTEGER NOT NULL DEFAULT 0,
    estimated INTEGER NOT NULL DEFAULT FALSE,
    cost_micro_usd INTEGER,
    elapsed_us INTEGER,
    error TEXT,
    started_at INTEGER NOT NULL,
    PRIMARY KEY (task, attempt),
    CHECK ((outcome IS NULL) = (elapsed_us IS NULL)),
    CHECK ((outcome IS NULL) = (cost_micro_usd IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX shadows_of_runs ON shadows (run_id, role);

CREATE TABLE traffic (
    run_id TEXT NOT NULL,
    host TEXT NOT NULL,
    sent_bytes INTEGER NOT NULL CHECK (sent_bytes >= 0),
    received_bytes INTEGER NOT NULL CHECK (received_bytes >= 0),
    PRIMARY KEY (run_id, host)
) STRICT, WITHOUT ROWID;

CREATE TABLE memory_words (
    project TEXT NOT NULL,
    after_row INTEGER NOT NULL,
    through_row INTEGER NOT NULL CHECK (through_row > after_row),
    words BLOB NOT NULL,
    PRIMARY KEY (project, through_row, after_row)
) STRICT;

CREATE TABLE memory_epochs (
    project TEXT NOT NULL PRIMARY KEY,
    epoch INTEGER NOT NULL CHECK (epoch >= 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE launch_keys (
    -- Who launched, and the key.
    name TEXT NOT NULL PRIMARY KEY,
    -- Names what was asked for.
    request BLOB NOT NULL,
    run_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX launch_keys_run ON launch_keys (run_id);
