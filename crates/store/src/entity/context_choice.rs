//! What a person decided on one item of a task's context.

use crewline_types::{TaskId, Timestamp};
use sea_orm::entity::prelude::*;

use super::parse;
use crate::{Choice, ContextChoice, Error};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "context_choices")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub task: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub item: String,
    pub choice: String,
    pub title: String,
    pub body: Option<String>,
    pub agent: String,
    pub created_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub(crate) fn into_domain(self, task: TaskId) -> Result<ContextChoice, Error> {
        Ok(ContextChoice {
            task,
            item: self.item,
            choice: parse("context_choices.choice", &self.choice, Choice::parse)?,
            title: self.title,
            body: self.body,
            agent: self.agent,
            at: Timestamp(self.created_at),
        })
    }
}
