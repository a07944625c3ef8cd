//! A run.

use crewline_types::{RunStatus, Timestamp};
use sea_orm::entity::prelude::*;

use super::{hash, opt_hash, parse, unsigned};
use crate::{Error, Lineage, Origin, RunRow, Wish, commit::run_id};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "runs")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub project: String,
    pub goal: String,
    pub status: String,
    pub settings: String,
    pub registry: Vec<u8>,
    pub epoch: i64,
    pub owner: Option<String>,
    pub lease_until: Option<i64>,
    pub index_hash: Option<Vec<u8>>,
    pub last_seq: i64,
    pub created_at: i64,
    pub finished_at: Option<i64>,
    pub error: Option<String>,
    pub wish: Option<String>,
    pub parent_run: Option<String>,
    pub origin: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl TryFrom<Model> for RunRow {
    type Error = Error;

    fn try_from(row: Model) -> Result<Self, Error> {
        Ok(Self {
            id: run_id(&row.id)?,
            project: row.project.into(),
            goal: row.goal.into(),
            status: parse("runs.status", &row.status, RunStatus::parse)?,
            settings: row.settings,
            registry: hash("runs.registry", &row.registry)?,
            epoch: unsigned(row.epoch),
            owner: row.owner,
            lease_until: row.lease_until.map(Timestamp),
            index: opt_hash("runs.index_hash", row.index_hash.as_deref())?,
            last_seq: unsigned(row.last_seq),
            created_at: Timestamp(row.created_at),
            finished_at: row.finished_at.map(Timestamp),
            error: row.error,
            wish: row.wish.map(|it| parse("runs.wish", &it, Wish::parse)).transpose()?,
            lineage: match (row.parent_run, row.origin) {
                (Some(parent), Some(origin)) => {
                    Some(Lineage { parent: run_id(&parent)?, origin: parse("runs.origin", &origin, Origin::parse)? })
                }
                (_, _) => None,
            },
        })
    }
}
