//! A key of the HTTP API.

use crewline_types::Timestamp;
use sea_orm::entity::prelude::*;

use super::parse;
use crate::{ApiKey, Error};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "api_keys")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub name: String,
    pub hash: Vec<u8>,
    pub scopes: String,
    pub created_at: i64,
    pub created_by: String,
    pub expires_at: Option<i64>,
    pub used_at: Option<i64>,
    pub revoked_at: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl TryFrom<Model> for ApiKey {
    type Error = Error;

    fn try_from(row: Model) -> Result<Self, Error> {
        let hash = <[u8; 32]>::try_from(&*row.hash);
        Ok(Self {
            id: row.id.parse().map_err(|_| Error::corrupt("api_keys.id", &row.id))?,
            name: row.name,
            hash: hash.map_err(|_| Error::corrupt("api_keys.hash", &format!("{} bytes", row.hash.len())))?,
            scopes: parse("api_keys.scopes", &row.scopes, |text| text.parse().ok())?,
            created_at: Timestamp(row.created_at),
            created_by: row.created_by,
            expires_at: row.expires_at.map(Timestamp),
            used_at: row.used_at.map(Timestamp),
            revoked_at: row.revoked_at.map(Timestamp),
        })
    }
}
