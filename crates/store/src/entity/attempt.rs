//! One try of a task.

use crewline_types::{AttemptId, MicroUsd, TaskId, Timestamp};
use sea_orm::entity::prelude::*;

use super::{note, opt_hash, parse, small, unsigned, usage};
use crate::{
    AttemptRow, AttemptStatus, Error,
    packed::{bit, hex_or_null},
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, serde::Deserialize)]
#[sea_orm(table_name = "attempts")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub task: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub number: i64,
    pub role: String,
    pub model: String,
    pub status: String,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub cached_tokens: i64,
    pub reasoning_tokens: i64,
    #[serde(deserialize_with = "bit")]
    pub estimated: bool,
    pub cost_micro_usd: i64,
    pub error: Option<String>,
    pub started_at: i64,
    pub finished_at: Option<i64>,
    #[serde(deserialize_with = "hex_or_null")]
    pub input_hash: Option<Vec<u8>>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub(crate) fn into_domain(self, task: TaskId) -> Result<AttemptRow, Error> {
        Ok(AttemptRow {
            id: AttemptId { task, number: small("attempts.number", self.number)? },
            role: self.role.into(),
            model: self.model,
            status: parse("attempts.status", &self.status, AttemptStatus::parse)?,
            usage: usage(
                self.input_tokens,
                self.output_tokens,
                self.cached_tokens,
                self.reasoning_tokens,
                self.estimated,
            ),
            cost: MicroUsd(unsigned(self.cost_micro_usd)),
            error: note("attempts.error", self.error.as_deref())?,
            started_at: Timestamp(self.started_at),
            finished_at: self.finished_at.map(Timestamp),
            input_hash: opt_hash("attempts.input_hash", self.input_hash.as_deref())?,
        })
    }
}
