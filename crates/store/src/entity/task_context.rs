//! What an attempt was told.

use crewline_types::{AttemptId, TaskId, Timestamp};
use sea_orm::entity::prelude::*;

use super::{opt_hash, small};
use crate::{ContextRow, Error};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "task_contexts")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub task: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub attempt: i64,
    pub tokens: i64,
    pub budget: i64,
    pub items: String,
    pub created_at: i64,
    pub bundle: Option<Vec<u8>>,
    pub prompt: Option<Vec<u8>>,
    pub tokenizer: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub(crate) fn into_domain(self, task: TaskId) -> Result<ContextRow, Error> {
        Ok(ContextRow {
            id: AttemptId { task, number: small("task_contexts.attempt", self.attempt)? },
            tokens: small("task_contexts.tokens", self.tokens)?,
            budget: small("task_contexts.budget", self.budget)?,
            items: self.items,
            bundle: opt_hash("task_contexts.bundle", self.bundle.as_deref())?,
            prompt: opt_hash("task_contexts.prompt", self.prompt.as_deref())?,
            tokenizer: self.tokenizer.map(Into::into),
            at: Timestamp(self.created_at),
        })
    }
}
