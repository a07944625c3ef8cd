//! One request to a model.

use std::time::Duration;

use crewline_types::{AttemptId, CallId, MicroUsd, TaskId, Timestamp, event::CallOutcome};
use sea_orm::entity::prelude::*;

use super::{hash, note, opt, opt_hash, small, unsigned, usage};
use crate::{
    CallRow, Error,
    packed::{bit, hex, hex_or_null},
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, serde::Deserialize)]
#[sea_orm(table_name = "calls")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub task: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub attempt: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub number: i64,
    pub purpose: String,
    pub model: String,
    pub provider: String,
    #[serde(deserialize_with = "hex")]
    pub input_hash: Vec<u8>,
    pub reserved_micro_usd: Option<i64>,
    pub outcome: Option<String>,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub cached_tokens: i64,
    pub reasoning_tokens: i64,
    #[serde(deserialize_with = "bit")]
    pub estimated: bool,
    pub cost_micro_usd: Option<i64>,
    pub elapsed_us: Option<i64>,
    #[serde(deserialize_with = "hex_or_null")]
    pub reply: Option<Vec<u8>>,
    pub error: Option<String>,
    pub started_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub(crate) fn into_domain(self, task: TaskId) -> Result<CallRow, Error> {
        let attempt = AttemptId { task, number: small("calls.attempt", self.attempt)? };
        Ok(CallRow {
            id: CallId { attempt, number: small("calls.number", self.number)? },
            purpose: self.purpose,
            model: self.model,
            provider: self.provider,
            outcome: opt("calls.outcome", self.outcome, CallOutcome::parse)?,
            usage: usage(
                self.input_tokens,
                self.output_tokens,
                self.cached_tokens,
                self.reasoning_tokens,
                self.estimated,
            ),
            cost: self.cost_micro_usd.map(|cost| MicroUsd(unsigned(cost))),
            elapsed: Duration::from_micros(self.elapsed_us.map_or(0, unsigned)),
            reserved: self.reserved_micro_usd.map(|cost| MicroUsd(unsigned(cost))),
            input_hash: hash("calls.input_hash", &self.input_hash)?,
            reply: opt_hash("calls.reply", self.reply.as_deref())?,
            error: note("calls.error", self.error.as_deref())?,
            started_at: Timestamp(self.started_at),
        })
    }
}
