//! A process that works.

use std::time::Duration;

use crewline_types::Timestamp;
use sea_orm::entity::prelude::*;

use super::{hash, opt, parse, small};
use crate::{Error, NodeKind, NodeRow};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "nodes")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub kind: String,
    pub version: String,
    pub roles: Option<String>,
    pub slots: i64,
    pub busy: i64,
    pub registry: Vec<u8>,
    pub is_draining: bool,
    pub started_at: i64,
    pub seen_at: i64,
    pub lease_us: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl TryFrom<Model> for NodeRow {
    type Error = Error;

    fn try_from(row: Model) -> Result<Self, Error> {
        Ok(Self {
            kind: parse("nodes.kind", &row.kind, NodeKind::parse)?,
            version: row.version,
            roles: opt("nodes.roles", row.roles, |it| serde_json::from_str(it).ok())?,
            slots: small("nodes.slots", row.slots)?,
            busy: small("nodes.busy", row.busy)?,
            registry: hash("nodes.registry", &row.registry)?,
            is_draining: row.is_draining,
            started_at: Timestamp(row.started_at),
            seen_at: Timestamp(row.seen_at),
            lease: Duration::from_micros(row.lease_us.unsigned_abs()),
            id: row.id,
        })
    }
}
