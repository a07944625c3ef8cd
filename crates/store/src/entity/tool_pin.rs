//! A tool of another server as it was agreed to.

use crewline_types::Timestamp;
use sea_orm::entity::prelude::*;

use super::hash;
use crate::{Error, ToolPin};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "tool_pins")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub server: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub origin: Vec<u8>,
    #[sea_orm(primary_key, auto_increment = false)]
    pub tool: String,
    pub hash: Vec<u8>,
    pub definition: String,
    pub pinned_at: i64,
    pub pinned_by: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl TryFrom<Model> for ToolPin {
    type Error = Error;

    fn try_from(row: Model) -> Result<Self, Error> {
        Ok(Self {
            server: row.server,
            origin: hash("tool_pins.origin", &row.origin)?,
            tool: row.tool,
            hash: hash("tool_pins.hash", &row.hash)?,
            definition: row.definition,
            at: Timestamp(row.pinned_at),
            by: row.pinned_by,
        })
    }
}
