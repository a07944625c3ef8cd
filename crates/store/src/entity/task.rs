//! A task.

use std::time::Duration;

use crewline_types::{MicroUsd, Priority, Task, TaskKind, Timestamp};
use sea_orm::entity::prelude::*;

use super::{opt, opt_hash, parse, small, unsigned, usage};
use crate::{
    Error,
    commit::{run_id, task_id},
    packed::{bit, hex_or_null},
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, serde::Deserialize)]
#[sea_orm(table_name = "tasks")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub number: i64,
    pub id: String,
    pub run_id: String,
    pub parent_id: Option<String>,
    pub key: String,
    pub position: i64,
    pub kind: String,
    pub title: String,
    pub description: String,
    pub role: String,
    pub priority: i64,
    pub status: String,
    pub success_criteria: String,
    pub attempts: i64,
    #[serde(deserialize_with = "hex_or_null")]
    pub result: Option<Vec<u8>>,
    pub reason: Option<String>,
    pub model: Option<String>,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub cached_tokens: i64,
    pub reasoning_tokens: i64,
    #[serde(deserialize_with = "bit")]
    pub estimated: bool,
    pub cost_micro_usd: i64,
    pub created_at: i64,
    pub started_at: Option<i64>,
    pub finished_at: Option<i64>,
    pub copied_from: Option<String>,
    pub duration_ms: Option<i64>,
    pub created_by: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl TryFrom<Model> for Task {
    type Error = Error;

    fn try_from(row: Model) -> Result<Self, Error> {
        Ok(Self {
            id: task_id(&row.id)?,
            run: run_id(&row.run_id)?,
            parent: opt("tasks.parent_id", row.parent_id, |it| it.parse().ok())?,
            key: row.key.into(),
            position: small("tasks.position", row.position)?,
            kind: parse("tasks.kind", &row.kind, TaskKind::parse)?,
            title: row.title.into(),
            description: row.description.into(),
            role: row.role.into(),
            priority: Priority::new(small("tasks.priority", row.priority)?)
                .ok_or_else(|| Error::corrupt("tasks.priority", &row.priority.to_string()))?,
            duration: row.duration_ms.map(|it| Duration::from_millis(unsigned(it))),
            status: parse("tasks.status", &row.status, |it| it.parse().ok())?,
            success_criteria: serde_json::from_str(&row.success_criteria)
                .map_err(|_| Error::corrupt("tasks.success_criteria", &row.success_criteria))?,
            attempts: small("tasks.attempts", row.attempts)?,
            result: opt_hash("tasks.result", row.result.as_deref())?,
            reason: row.reason,
            model: row.model,
            usage: usage(row.input_tokens, row.output_tokens, row.cached_tokens, row.reasoning_tokens, row.estimated),
            cost: MicroUsd(unsigned(row.cost_micro_usd)),
            created_at: Timestamp(row.created_at),
            started_at: row.started_at.map(Timestamp),
            finished_at: row.finished_at.map(Timestamp),
            created_by: opt("tasks.created_by", row.created_by, |it| it.parse().ok())?,
        })
    }
}
