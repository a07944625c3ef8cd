//! Copies of questions that candidate models are asked, beside the calls of the run.
//!
//! They stand under no fence: none changes a task, and one outlives the attempt whose question it is.
//!
//! **Invariant:** an attempt's question is copied once at most; what was begun stays, and counts with its worst case until its
//! end is known.
//! **Invariant:** whatever begins, the copies of a role in a run do not exceed what they may cost.

use std::time::Duration;

use crewline_types::{AttemptId, MicroUsd, RunId, Timestamp, Traffic, Usage, event::CallOutcome};
use sea_orm::{ConnectionTrait as _, Statement};

use crate::{
    Backend, CallEnd, Error, Store,
    entity::{unsigned, usage},
    retry::{RETURN_LIMIT_ALONE, Retry},
    rows::{add_note, add_usage},
    sql::{
        Args, Bulk,
        Type::{Bool, Int, Text},
        clamp,
    },
    statements::LOCK_PROJECT,
    traffic,
    tx::Tx,
};

/// A copy counts with a million dollars at most, so that a sum fits.
const COPY_MAX: i64 = 1_000_000_000_000;

/// Begins a copy, when its money is there and it is the first of its attempt: task, attempt, incumbent, its outcome, cost and
/// time, candidate, provider, worst case, whether it is judged as a whole, time, role, what all may cost.
static BEGIN_SHADOW: Bulk = Bulk::new(
    "INSERT INTO shadows (task, attempt, run_id, role, incumbent, incumbent_outcome, incumbent_cost_micro_usd, \
     incumbent_elapsed_us, model, provider, reserved_micro_usd, is_judged, started_at) \
     SELECT t.number, v.column2, t.run_id, v.column12, v.column3, v.column4, v.column5, v.column6, v.column7, v.column8, \
     v.column9, v.column10, v.column11 FROM ",
    &[Text, Int, Text, Text, Int, Int, Text, Text, Int, Bool, Int, Text, Int],
    " JOIN tasks AS t ON t.id = v.column1 WHERE v.column1 IS NOT NULL AND v.column9 <= v.column13 - COALESCE((\
     SELECT SUM(COALESCE(s.cost_micro_usd, s.reserved_micro_usd)) FROM shadows AS s \
     WHERE s.run_id = t.run_id AND s.role = v.column12), 0) ON CONFLICT (task, attempt) DO NOTHING RETURNING task",
);

/// Ends a copy that is open: task, attempt, outcome, usage, cost, time, error.
static END_SHADOW: Bulk = Bulk::new(
    "UPDATE shadows AS s SET outcome = v.column3, input_tokens = v.column4, output_tokens = v.column5, \
     cached_tokens = v.column6, reasoning_tokens = v.column7, estimated = v.column8, cost_micro_usd = v.column9, \
     elapsed_us = v.column10, error = v.column11 FROM ",
    &[Text, Int, Text, Int, Int, Int, Int, Bool, Int, Int, Text],
    " JOIN tasks AS t ON t.id = v.column1 WHERE s.task = t.number AND s.attempt = v.column2 AND s.outcome IS NULL",
);

/// A copy that is about to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewShadow {
    /// The attempt whose question it is.
    pub attempt: AttemptId,
    /// The attempt's run.
    pub run: RunId,
    /// Who asked.
    pub role: String,
    /// The model of the chain that was asked.
    pub incumbent: String,
    /// How its call ended.
    pub incumbent_outcome: CallOutcome,
    /// What its call cost; none when it has no price.
    pub incumbent_cost: Option<MicroUsd>,
    /// How long its call took.
    pub incumbent_elapsed: Duration,
    /// The candidate.
    pub model: String,
    /// Who serves it.
    pub provider: String,
    /// The most it may cost.
    pub reserved: MicroUsd,
    /// What all copies of the role in the run may cost.
    pub cost_max: MicroUsd,
    /// Whether all checks of the task are made on a copy.
    pub is_judged: bool,
    /// Now.
    pub at: Timestamp,
}

/// What copies of a role's questions came to, beside the answers to the questions themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShadowRow {
    /// Who asked.
    pub role: String,
    /// The model of the chain.
    pub incumbent: String,
    /// The candidate.
    pub model: String,
    /// Copies, those included whose end is not known.
    pub copies: u64,
    /// Copies whose end is not known.
    pub open: u64,
    /// Copies that did not lead to an answer: an error, a limit on time.
    pub failed: u64,
    /// Both answers were accepted.
    pub both: u64,
    /// Only the candidate's was.
    pub only_candidate: u64,
    /// Only the one of the chain was.
    pub only_incumbent: u64,
    /// Neither was.
    pub neither: u64,
    /// Tokens of the copies.
    pub usage: Usage,
    /// What the copies cost; an open one counts with its worst case.
    pub cost: MicroUsd,
    /// What the calls of the chain cost whose questions these are, as far as they have a price.
    pub incumbent_cost: MicroUsd,
    /// How long the answered copies took together.
    pub elapsed: Duration,
    /// How long the calls of the chain took for these.
    pub incumbent_elapsed: Duration,
}

/// What the copies of a run came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShadowSum {
    /// Copies.
    pub calls: u64,
    /// Copies whose end is not known.
    pub open: u64,
    /// Copies whose answer was accepted.
    pub accepted: u64,
    /// What they cost; an open one counts with its worst case.
    pub cost: MicroUsd,
}

impl Store {
    /// Begins a copy; false when its money is not there, or the attempt's question was copied already.
    pub async fn begin_shadow(&self, new: &NewShadow) -> Result<bool, Error> {
        let mut tx = self.inner.writer.begin().await?;
        match begin(&mut tx, new).await {
            Ok(is_begun) => tx.commit().await.map(|()| is_begun),
            Err(error) => {
                tx.rollback(&error).await;
                Err(error)
            }
        }
    }

    /// Ends a copy of `run`, and adds what it sent and received; false when it had ended before, or its run is gone.
    pub async fn end_shadow(&self, run: RunId, end: &CallEnd, passed: &Traffic) -> Result<bool, Error> {
        let mut retry = Retry::new(RETURN_LIMIT_ALONE);
        loop {
            match self.try_end_shadow(run, end, passed).await {
                Ok(is_ended) => return Ok(is_ended),
                Err(error) => retry.after(self.backend(), error).await?,
            }
        }
    }

    async fn try_end_shadow(&self, run: RunId, end: &CallEnd, passed: &Traffic) -> Result<bool, Error> {
        let mut tx = self.inner.writer.begin().await?;
        let written = async {
            // An end stays, so that what is done again adds nothing.
            let is_ended = tx.write(&END_SHADOW, &[end], |args, end| add_end(args, end)).await? > 0;
            if is_ended {
                traffic::add(&mut tx, &traffic::rows([(run, passed)].into_iter())).await?;
            }
            Ok(is_ended)
        };
        match written.await {
            Ok(is_ended) => tx.commit().await.map(|()| is_ended),
            Err(error) => {
                tx.rollback(&error).await;
                Err(error)
            }
        }
    }

    /// How candidates compare, by role, model of the chain and candidate: the last `limit` copies.
    pub async fn shadows(&self, limit: u32) -> Result<Vec<ShadowRow>, Error> {
        let reader = self.reader().await?;
        let count = |what: &str| format!("CAST(SUM(CASE WHEN {what} THEN 1 ELSE 0 END) AS BIGINT)");
        let sum = |what: &str| format!("CAST(SUM({what}) AS BIGINT)");
        let is_answer = "outcome IN ('ok', 'invalid')";
        let columns = [
            "CAST(COUNT(*) AS BIGINT)".to_owned(),
            count("outcome IS NULL"),
            count("outcome NOT IN ('ok', 'invalid')"),
            count("outcome = 'ok' AND incumbent_outcome = 'ok'"),
            count("outcome = 'ok' AND incumbent_outcome <> 'ok'"),
            count("outcome = 'invalid' AND incumbent_outcome = 'ok'"),
            count("outcome = 'invalid' AND incumbent_outcome <> 'ok'"),
            sum("input_tokens"),
            sum("output_tokens"),
            sum("cached_tokens"),
            sum("reasoning_tokens"),
            count("estimated"),
            sum("COALESCE(cost_micro_usd, reserved_micro_usd)"),
            sum("COALESCE(incumbent_cost_micro_usd, 0)"),
            sum(&format!("CASE WHEN {is_answer} THEN elapsed_us ELSE 0 END")),
            sum(&format!("CASE WHEN {is_answer} THEN incumbent_elapsed_us ELSE 0 END")),
        ];
        let text = format!(
            "SELECT role, incumbent, model, {} FROM (SELECT * FROM shadows ORDER BY started_at DESC LIMIT $1) AS s \
             GROUP BY role, incumbent, model ORDER BY role, incumbent, model",
            columns.join(", ")
        );
        let statement = Statement::from_sql_and_values(reader.get_database_backend(), text, [i64::from(limit).into()]);
        let mut found = Vec::new();
        for row in reader.query_all_raw(statement).await? {
            let number = |place: usize| row.try_get_by_index::<i64>(3 + place);
            let [copies, open, failed, both, only_candidate, only_incumbent, neither] =
                [number(0)?, number(1)?, number(2)?, number(3)?, number(4)?, number(5)?, number(6)?].map(unsigned);
            found.push(ShadowRow {
                role: row.try_get_by_index(0)?,
                incumbent: row.try_get_by_index(1)?,
                model: row.try_get_by_index(2)?,
                copies,
                open,
                failed,
                both,
                only_candidate,
                only_incumbent,
                neither,
                usage: usage(number(7)?, number(8)?, number(9)?, number(10)?, number(11)? > 0),
                cost: MicroUsd(unsigned(number(12)?)),
                incumbent_cost: MicroUsd(unsigned(number(13)?)),
                elapsed: Duration::from_micros(unsigned(number(14)?)),
                incumbent_elapsed: Duration::from_micros(unsigned(number(15)?)),
            });
        }
        Ok(found)
    }

    /// What the copies of a run came to.
    pub async fn shadow_sum(&self, run: RunId) -> Result<ShadowSum, Error> {
        let reader = self.reader().await?;
        let statement = Statement::from_sql_and_values(
            reader.get_database_backend(),
            "SELECT CAST(COUNT(*) AS BIGINT), CAST(COALESCE(SUM(CASE WHEN outcome IS NULL THEN 1 ELSE 0 END), 0) AS BIGINT), \
             CAST(COALESCE(SUM(CASE WHEN outcome = 'ok' THEN 1 ELSE 0 END), 0) AS BIGINT), \
             CAST(COALESCE(SUM(COALESCE(cost_micro_usd, reserved_micro_usd)), 0) AS BIGINT) FROM shadows WHERE run_id = $1",
            [run.as_str().into()],
        );
        let Some(row) = reader.query_one_raw(statement).await? else { return Ok(ShadowSum::default()) };
        let number = |place| row.try_get_by_index::<i64>(place).map(unsigned);
        Ok(ShadowSum { calls: number(0)?, open: number(1)?, accepted: number(2)?, cost: MicroUsd(number(3)?) })
    }
}

async fn begin(tx: &mut Tx, new: &NewShadow) -> Result<bool, Error> {
    if tx.backend() == Backend::Postgres {
        // Two that see the same sum would both begin. SQLite has one writer at a time anyway.
        let name = format!("shadow {} {}", new.run, new.role);
        tx.ask(&LOCK_PROJECT, &[name], |args, name| args.text(name), |_| Ok(())).await?;
    }
    let mut is_begun = false;
    let take = |_: &_| {
        is_begun = true;
        Ok(())
    };
    tx.ask(&BEGIN_SHADOW, std::slice::from_ref(new), add_new, take).await?;
    Ok(is_begun)
}

fn money(amount: MicroUsd) -> i64 {
    clamp(amount.0).min(COPY_MAX)
}

fn add_end(args: &mut Args, end: &CallEnd) {
    args.text(end.id.attempt.task.as_str());
    args.int(end.id.attempt.number.into());
    args.word(end.outcome.as_str());
    add_usage(args, &end.usage);
    args.int(money(end.cost.unwrap_or_default()));
    args.int(i64::try_from(end.elapsed.as_micros()).unwrap_or(i64::MAX));
    add_note(args, end.error.as_ref());
}

fn add_new(args: &mut Args, new: &NewShadow) {
    args.text(new.attempt.task.as_str());
    args.int(new.attempt.number.into());
    args.text(&new.incumbent);
    args.word(new.incumbent_outcome.as_str());
    args.int_or_null(new.incumbent_cost.map(money));
    args.int(i64::try_from(new.incumbent_elapsed.as_micros()).unwrap_or(i64::MAX));
    args.text(&new.model);
    args.text(&new.provider);
    args.int(money(new.reserved));
    args.bool(new.is_judged);
    args.int(new.at.0);
    args.text(&new.role);
    args.int(clamp(new.cost_max.0));
}
