//! An attempt that is offered to any worker.

use crewline_types::AttemptId;
use sea_orm::entity::prelude::*;

use super::small;
use crate::{Error, OfferState, OpenOffer, commit::task_id};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "offers")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub task: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub attempt: i64,
    pub task_id: String,
    pub run_id: String,
    pub node: Option<String>,
    pub is_lost: bool,
    pub report: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl TryFrom<Model> for OpenOffer {
    type Error = Error;

    fn try_from(row: Model) -> Result<Self, Error> {
        let state = match (row.report, row.is_lost, row.node) {
            (Some(report), _, _) => OfferState::Reported(report),
            (None, true, _) => OfferState::Lost,
            (None, false, Some(node)) => OfferState::Claimed { node },
            (None, false, None) => OfferState::Free,
        };
        Ok(Self {
            id: AttemptId { task: task_id(&row.task_id)?, number: small("offers.attempt", row.attempt)? },
            state,
        })
    }
}
