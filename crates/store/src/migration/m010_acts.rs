//! Calls of tools, what a person is asked, and the prompts that a later attempt goes on with.
//!
//! That a call of a tool begins is written before it is made, and its outcome after: one that was begun and has no outcome
//! may have been made.
//!
//! **Invariant:** what a person decided is never overwritten, and says who, when and of what exactly.

/// See the file's head.
pub(super) const SCHEMA: &str = "
CREATE TABLE tool_calls (
    task {bigint} NOT NULL,
    attempt {bigint} NOT NULL,
    call {bigint} NOT NULL,
    -- In the answer, from 0.
    place {bigint} NOT NULL CHECK (place >= 0),
    -- The model's own name for it.
    asked_as TEXT NOT NULL,
    tool TEXT NOT NULL,
    -- A text, as the model wrote it.
    arguments {bytes} NOT NULL,
    -- Names tool and arguments.
    digest {bytes} NOT NULL,
    effect TEXT NOT NULL CHECK (effect = 'read' OR effect = 'repeatable' OR effect = 'unsafe'),
    started_at {bigint} NOT NULL,
    -- The attempt that was about to make it; NULL as long as none was.
    begun_by {bigint},
    -- NULL until it is known.
    outcome TEXT CHECK (
        outcome = 'ok' OR outcome = 'failed' OR outcome = 'refused' OR outcome = 'invalid' OR outcome = 'timeout'
        OR outcome = 'unknown'
    ),
    -- What the model is told of it.
    output {bytes},
    elapsed_us {bigint},
    PRIMARY KEY (task, attempt, call, place),
    CHECK ((outcome IS NULL) = (elapsed_us IS NULL)),
    CHECK ((outcome IS NULL) = (output IS NULL))
){clustered};

CREATE TABLE approvals (
    id {id} NOT NULL PRIMARY KEY,
    run_id {id} NOT NULL REFERENCES runs (id),
    -- NULL: about the run as a whole.
    task_id {id},
    kind TEXT NOT NULL CHECK (
        kind = 'tool' OR kind = 'plan' OR kind = 'context' OR kind = 'again' OR kind = 'question'
    ),
    -- A line for people.
    subject TEXT NOT NULL,
    -- A text: what exactly.
    detail {bytes} NOT NULL,
    -- Names what exactly.
    digest {bytes} NOT NULL,
    state TEXT NOT NULL CHECK (state = 'pending' OR state = 'approved' OR state = 'rejected'),
    created_at {bigint} NOT NULL,
    decided_at {bigint},
    decided_by TEXT,
    message TEXT,
    CHECK ((state = 'pending') = (decided_at IS NULL)),
    CHECK ((decided_at IS NULL) = (decided_by IS NULL))
){table};
CREATE INDEX approvals_run ON approvals (run_id);
CREATE INDEX approvals_pending ON approvals (created_at) WHERE state = 'pending';

-- The question an attempt began with, for the one that goes on with it.
ALTER TABLE task_contexts ADD COLUMN prompt {bytes};
";
