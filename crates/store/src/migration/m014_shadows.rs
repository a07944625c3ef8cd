//! Copies of questions that candidate models were asked: what they cost, and how they compare. No answer is kept, and none is a
//! result.

/// See the file's head.
pub(super) const SCHEMA: &str = "
CREATE TABLE shadows (
    task {bigint} NOT NULL,
    attempt {bigint} NOT NULL,
    run_id {id} NOT NULL,
    role TEXT NOT NULL,
    -- The model of the chain whose question it is, and what came of that call.
    incumbent TEXT NOT NULL,
    incumbent_outcome TEXT NOT NULL,
    incumbent_cost_micro_usd {bigint},
    incumbent_elapsed_us {bigint} NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    -- The worst case: it counts until the cost is known.
    reserved_micro_usd {bigint} NOT NULL,
    -- Whether all of the task's checks are made on a copy: commands and judges are not.
    is_judged {bool} NOT NULL,
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
    cost_micro_usd {bigint},
    elapsed_us {bigint},
    error TEXT,
    started_at {bigint} NOT NULL,
    PRIMARY KEY (task, attempt),
    CHECK ((outcome IS NULL) = (elapsed_us IS NULL)),
    CHECK ((outcome IS NULL) = (cost_micro_usd IS NULL))
){clustered};
CREATE INDEX shadows_of_runs ON shadows (run_id, role);
";
