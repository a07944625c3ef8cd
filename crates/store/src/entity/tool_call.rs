//! One call of a tool.

use std::time::Duration;

use crewline_types::{AttemptId, CallId, Effect, TaskId, Timestamp, ToolCallId, ToolOutcome};
use sea_orm::entity::prelude::*;

use super::{hash, opt, opt_hash, parse, small, unsigned};
use crate::{Error, ToolCallRow};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "tool_calls")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub task: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub attempt: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub call: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub place: i64,
    pub asked_as: String,
    pub tool: String,
    pub arguments: Vec<u8>,
    pub digest: Vec<u8>,
    pub effect: String,
    pub started_at: i64,
    pub begun_by: Option<i64>,
    pub outcome: Option<String>,
    pub output: Option<Vec<u8>>,
    pub elapsed_us: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub(crate) fn into_domain(self, task: TaskId) -> Result<ToolCallRow, Error> {
        let attempt = AttemptId { task, number: small("tool_calls.attempt", self.attempt)? };
        let call = CallId { attempt, number: small("tool_calls.call", self.call)? };
        Ok(ToolCallRow {
            id: ToolCallId { call, place: small("tool_calls.place", self.place)? },
            asked_as: self.asked_as,
            tool: self.tool,
            arguments: hash("tool_calls.arguments", &self.arguments)?,
            digest: hash("tool_calls.digest", &self.digest)?,
            effect: parse("tool_calls.effect", &self.effect, Effect::parse)?,
            started_at: Timestamp(self.started_at),
            begun_by: self.begun_by.map(|it| small("tool_calls.begun_by", it)).transpose()?,
            outcome: opt("tool_calls.outcome", self.outcome, ToolOutcome::parse)?,
            output: opt_hash("tool_calls.output", self.output.as_deref())?,
            elapsed: Duration::from_micros(self.elapsed_us.map_or(0, unsigned)),
        })
    }
}
