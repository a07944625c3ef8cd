//! What happened.

use crewline_types::{Event, Timestamp};
use sea_orm::entity::prelude::*;

use super::{opt, small, unsigned};
use crate::{Error, commit::run_id};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "events")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub run_id: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub seq: i64,
    pub created_at: i64,
    pub task_id: Option<String>,
    pub attempt: Option<i64>,
    pub kind: String,
    pub payload: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl TryFrom<Model> for Event {
    type Error = Error;

    fn try_from(row: Model) -> Result<Self, Error> {
        let fields = row.payload.strip_prefix('{').unwrap_or_default();
        let comma = if fields == "}" { "" } else { "," };
        let json = format!(r#"{{"type":"{}"{comma}{fields}"#, row.kind);
        Ok(Self {
            seq: unsigned(row.seq),
            at: Timestamp(row.created_at),
            run: run_id(&row.run_id)?,
            task: opt("events.task_id", row.task_id, |it| it.parse().ok())?,
            attempt: row.attempt.map(|it| small("events.attempt", it)).transpose()?,
            body: serde_json::from_str(&json).map_err(|_| Error::corrupt("events.payload", &json))?,
        })
    }
}
