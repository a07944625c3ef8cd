//! Sums over calls: what came of them, and what they cost.

use std::fmt;

use crewline_types::{Event, MicroUsd, RunId, TaskId, TaskKind, Usage};
use sea_orm::{ColumnTrait, ConnectionTrait as _, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Statement};

use crate::{
    Backend, Error, Store,
    entity::{self, parse, unsigned},
    sql::clean,
};

/// How often a model's answers were accepted and rejected, for one role and kind of task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerRow {
    /// Who asked.
    pub role: String,
    /// What the task is in the tree.
    pub kind: TaskKind,
    /// The model's name in the registry.
    pub model: String,
    /// Answers that were accepted.
    pub accepted: u64,
    /// Answers that were not what was asked for.
    pub rejected: u64,
}

/// What is paid for: the calls of runs, and the copies of their questions.
const CALLS_AND_SHADOWS: &str = "\
    SELECT task, model, started_at, cost_micro_usd, input_tokens, output_tokens, cached_tokens, reasoning_tokens, estimated, \
    0 AS shadow FROM calls UNION ALL \
    SELECT task, model, started_at, COALESCE(cost_micro_usd, reserved_micro_usd), input_tokens, output_tokens, cached_tokens, \
    reasoning_tokens, estimated, 1 FROM shadows";

/// What calls are added up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CostBy {
    /// The model that was asked.
    Model,
    /// The role that asked.
    Role,
    /// The run.
    Run,
    /// The task.
    Task,
    /// The day, in UTC, on which the call was sent.
    Day,
}

impl CostBy {
    fn column(self, backend: Backend) -> &'static str {
        match (self, backend) {
            (Self::Model, _) => "c.model",
            (Self::Role, _) => "t.role",
            (Self::Run, _) => "t.run_id",
            (Self::Task, _) => "t.id",
            (Self::Day, Backend::Sqlite) => "strftime('%Y-%m-%d', c.started_at / 1000000, 'unixepoch')",
            (Self::Day, Backend::Postgres) => {
                "to_char(to_timestamp(c.started_at / 1000000) AT TIME ZONE 'UTC', 'YYYY-MM-DD')"
            }
        }
    }
}

impl fmt::Display for CostBy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Model => "model",
            Self::Role => "role",
            Self::Run => "run",
            Self::Task => "task",
            Self::Day => "day",
        })
    }
}

/// What calls cost together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CostRow {
    /// What they have in common.
    pub key: String,
    /// Calls, those included whose end is not recorded.
    pub calls: u64,
    /// Calls without a known cost: no price, or no recorded end.
    pub unpriced: u64,
    /// Tokens; estimated when those of any call are.
    pub usage: Usage,
    /// Cost of the priced calls.
    pub cost: MicroUsd,
    /// Copies of questions for candidates, in none of the numbers above.
    pub shadow_calls: u64,
    /// What they cost; one whose end is not recorded counts with its worst case.
    pub shadow_cost: MicroUsd,
}

/// What the calls of one earlier task to one model consumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRow {
    /// Names the task in this database.
    pub task: i64,
    /// Who did it.
    pub role: String,
    /// Whether it was completed; otherwise it failed.
    pub is_done: bool,
    /// The model's name in the registry.
    pub model: String,
    /// Tokens sent.
    pub input_tokens: u64,
    /// Tokens received.
    pub output_tokens: u64,
    /// What it cost then; none when a call had no price.
    pub cost: Option<MicroUsd>,
    /// How long the calls took together, in milliseconds.
    pub millis: u64,
}

impl Store {
    /// What earlier tasks consumed, newest task first: at most `limit` rows, those of a task together.
    pub async fn history(&self, limit: u32) -> Result<Vec<HistoryRow>, Error> {
        let reader = self.reader().await?;
        let statement = Statement::from_sql_and_values(
            reader.get_database_backend(),
            "SELECT t.number, t.role, t.status, c.model, CAST(SUM(c.input_tokens) AS BIGINT), \
             CAST(SUM(c.output_tokens) AS BIGINT), CAST(SUM(c.cost_micro_usd) AS BIGINT), \
             CAST(SUM(CASE WHEN c.cost_micro_usd IS NULL THEN 1 ELSE 0 END) AS BIGINT), \
             CAST(SUM(COALESCE(c.elapsed_us, 0)) AS BIGINT) FROM tasks AS t JOIN calls AS c ON c.task = t.number \
             WHERE t.status IN ('completed', 'failed') AND t.kind IN ('atomic', 'synthesis') \
             GROUP BY t.number, t.role, t.status, t.finished_at, c.model \
             ORDER BY t.finished_at DESC, t.number, c.model LIMIT $1",
            [i64::from(limit).into()],
        );
        let mut found = Vec::new();
        for row in reader.query_all_raw(statement).await? {
            let status: String = row.try_get_by_index(2)?;
            let number = |index| row.try_get_by_index::<i64>(index).map(unsigned);
            let cost: Option<i64> = row.try_get_by_index(6)?;
            let is_priced = number(7)? == 0;
            found.push(HistoryRow {
                task: row.try_get_by_index(0)?,
                role: row.try_get_by_index(1)?,
                is_done: status == "completed",
                model: row.try_get_by_index(3)?,
                input_tokens: number(4)?,
                output_tokens: number(5)?,
                cost: cost.filter(|_| is_priced).map(|cost| MicroUsd(unsigned(cost))),
                millis: number(8)? / 1_000,
            });
        }
        Ok(found)
    }

    /// What came of the last `limit` answers, by role, kind of task and model; with those of copies that were checked like them.
    pub async fn answers(&self, limit: u32) -> Result<Vec<AnswerRow>, Error> {
        let reader = self.reader().await?;
        let statement = Statement::from_sql_and_values(
            reader.get_database_backend(),
            "SELECT t.role, t.kind, c.model, SUM(CASE WHEN c.outcome = 'ok' THEN 1 ELSE 0 END), \
             SUM(CASE WHEN c.outcome = 'ok' THEN 0 ELSE 1 END) \
             FROM (SELECT task, model, outcome, started_at FROM calls \
                   WHERE (outcome = 'ok' OR outcome = 'invalid') AND purpose <> 'judge' \
                   UNION ALL SELECT task, model, outcome, started_at FROM shadows \
                   WHERE (outcome = 'ok' OR outcome = 'invalid') AND is_judged \
                   ORDER BY 4 DESC LIMIT $1) AS c JOIN tasks AS t ON t.number = c.task \
             GROUP BY t.role, t.kind, c.model ORDER BY t.role, t.kind, c.model",
            [i64::from(limit).into()],
        );
        let mut found = Vec::new();
        for row in reader.query_all_raw(statement).await? {
            let kind: String = row.try_get_by_index(1)?;
            let (accepted, rejected): (i64, i64) = (row.try_get_by_index(3)?, row.try_get_by_index(4)?);
            found.push(AnswerRow {
                role: row.try_get_by_index(0)?,
                kind: parse("tasks.kind", &kind, TaskKind::parse)?,
                model: row.try_get_by_index(2)?,
                accepted: unsigned(accepted),
                rejected: unsigned(rejected),
            });
        }
        Ok(found)
    }

    /// What calls cost, of one project or of all, the dearest first; days in their order.
    pub async fn costs(&self, project: Option<&str>, by: CostBy, limit: u32) -> Result<Vec<CostRow>, Error> {
        let reader = self.reader().await?;
        let key = by.column(self.backend());
        let order = match by {
            CostBy::Day => "1 DESC",
            CostBy::Model | CostBy::Role | CostBy::Run | CostBy::Task => "4 DESC, 2 DESC, 1",
        };
        // Sums of a BIGINT are NUMERIC on PostgreSQL.
        let sum_where =
            |which: &str, what: &str| format!("CAST(SUM(CASE WHEN {which} THEN {what} ELSE 0 END) AS BIGINT)");
        let sum = |column: &str| sum_where("c.shadow = 0", &format!("COALESCE({column}, 0)"));
        let text = format!(
            "SELECT {key}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {} FROM ({CALLS_AND_SHADOWS}) AS c \
             JOIN tasks AS t ON t.number = c.task JOIN runs AS r ON r.id = t.run_id WHERE $1 = '' OR r.project = $1 \
             GROUP BY 1 ORDER BY {order} LIMIT $2",
            sum("1"),
            sum_where("c.shadow = 0 AND c.cost_micro_usd IS NULL", "1"),
            sum("c.cost_micro_usd"),
            sum("c.input_tokens"),
            sum("c.output_tokens"),
            sum("c.cached_tokens"),
            sum("c.reasoning_tokens"),
            sum_where("c.shadow = 0 AND c.estimated", "1"),
            sum_where("c.shadow = 1", "1"),
            sum_where("c.shadow = 1", "c.cost_micro_usd"),
        );
        let project = project.map(|it| clean(it).into_owned()).unwrap_or_default();
        let values = [project.into(), i64::from(limit).into()];
        let statement = Statement::from_sql_and_values(reader.get_database_backend(), text, values);
        let mut found = Vec::new();
        for row in reader.query_all_raw(statement).await? {
            let number = |index| row.try_get_by_index::<i64>(index).map(unsigned);
            found.push(CostRow {
                key: row.try_get_by_index(0)?,
                calls: number(1)?,
                unpriced: number(2)?,
                cost: MicroUsd(number(3)?),
                usage: Usage {
                    input_tokens: number(4)?,
                    output_tokens: number(5)?,
                    cached_tokens: number(6)?,
                    reasoning_tokens: number(7)?,
                    estimated: number(8)? > 0,
                },
                shadow_calls: number(9)?,
                shadow_cost: MicroUsd(number(10)?),
            });
        }
        Ok(found)
    }

    /// The last `limit` calls whose answers were checked by criteria, newest first.
    pub async fn checked_answers(&self, limit: u32) -> Result<Vec<Event>, Error> {
        entity::event::Entity::find()
            .filter(entity::event::Column::Kind.eq("model_call"))
            .filter(entity::event::Column::Payload.contains("\"checks\":["))
            .order_by_desc(entity::event::Column::CreatedAt)
            .order_by_asc(entity::event::Column::RunId)
            .order_by_desc(entity::event::Column::Seq)
            .limit(u64::from(limit))
            .all(self.reader().await?)
            .await?
            .into_iter()
            .map(Event::try_from)
            .collect()
    }

    /// How the attempts of a task began, in order.
    pub async fn task_starts(&self, run: RunId, task: TaskId) -> Result<Vec<Event>, Error> {
        entity::event::Entity::find()
            .filter(entity::event::Column::RunId.eq(run.as_str()))
            .filter(entity::event::Column::TaskId.eq(task.as_str()))
            .filter(entity::event::Column::Kind.eq("task_started"))
            .order_by_asc(entity::event::Column::Seq)
            .all(self.reader().await?)
            .await?
            .into_iter()
            .map(Event::try_from)
            .collect()
    }
}
