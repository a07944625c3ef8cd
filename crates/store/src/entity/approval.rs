//! Something that a person is, or was, asked.

use crewline_types::{ApprovalKind, ApprovalState, Timestamp};
use sea_orm::entity::prelude::*;

use super::{hash, parse};
use crate::{
    ApprovalRow, Error,
    commit::{run_id, task_id},
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "approvals")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub run_id: String,
    pub task_id: Option<String>,
    pub kind: String,
    pub subject: String,
    pub detail: Vec<u8>,
    pub digest: Vec<u8>,
    pub state: String,
    pub created_at: i64,
    pub decided_at: Option<i64>,
    pub decided_by: Option<String>,
    pub message: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl TryFrom<Model> for ApprovalRow {
    type Error = Error;

    fn try_from(row: Model) -> Result<Self, Error> {
        Ok(Self {
            id: row.id.parse().map_err(|_| Error::corrupt("approvals.id", &row.id))?,
            run: run_id(&row.run_id)?,
            task: row.task_id.as_deref().map(task_id).transpose()?,
            kind: parse("approvals.kind", &row.kind, ApprovalKind::parse)?,
            subject: row.subject,
            detail: hash("approvals.detail", &row.detail)?,
            digest: hash("approvals.digest", &row.digest)?,
            state: parse("approvals.state", &row.state, ApprovalState::parse)?,
            created_at: Timestamp(row.created_at),
            decided_at: row.decided_at.map(Timestamp),
            decided_by: row.decided_by,
            message: row.message,
        })
    }
}
