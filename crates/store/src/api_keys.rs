//! Keys of the HTTP API.
//!
//! **Invariant:** of keys that are not revoked, no two have the same name, whoever makes them at once.
//! **Invariant:** a revoked key stays revoked.

use crewline_types::{KeyId, KeyScopes, Timestamp};
use sea_orm::{ColumnTrait as _, EntityTrait as _, PaginatorTrait as _, QueryFilter as _, QueryOrder as _};

use crate::{
    Error, Store, entity,
    sql::{
        Args, Bulk,
        Type::{Bytes, Int, Text},
    },
};

/// Adds keys: id, name, hash, scopes, created, by, expires. One whose name is taken is left out.
static INSERT_KEYS: Bulk = Bulk::new(
    "INSERT INTO api_keys (id, name, hash, scopes, created_at, created_by, expires_at) SELECT * FROM ",
    &[Text, Text, Bytes, Text, Int, Text, Int],
    " WHERE v.column1 IS NOT NULL ON CONFLICT DO NOTHING",
);

/// Revokes keys: id, time.
static REVOKE_KEYS: Bulk = Bulk::new(
    "UPDATE api_keys AS k SET revoked_at = v.column2 FROM ",
    &[Text, Int],
    " WHERE k.id = v.column1 AND k.revoked_at IS NULL",
);

/// Says when keys were used: id, time.
static USE_KEYS: Bulk = Bulk::new(
    "UPDATE api_keys AS k SET used_at = v.column2 FROM ",
    &[Text, Int],
    " WHERE k.id = v.column1 AND (k.used_at IS NULL OR k.used_at < v.column2)",
);

/// A key of the HTTP API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Names it.
    pub id: KeyId,
    /// What people call it.
    pub name: String,
    /// BLAKE3 of its secret.
    pub hash: [u8; 32],
    /// What it allows.
    pub scopes: KeyScopes,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: String,
    /// When it stops to be one; never, when there is no such time.
    pub expires_at: Option<Timestamp>,
    /// When it was used last, to the minute.
    pub used_at: Option<Timestamp>,
    /// When it was taken back.
    pub revoked_at: Option<Timestamp>,
}

impl Store {
    /// Adds a key, and says whether its name was free.
    pub async fn add_api_key(&self, key: &ApiKey) -> Result<bool, Error> {
        let add = |args: &mut Args, key: &&ApiKey| {
            args.text(key.id.as_str());
            args.text(&key.name);
            args.bytes(&key.hash);
            args.text(&key.scopes.to_string());
            args.int(key.created_at.0);
            args.text(&key.created_by);
            args.int_or_null(key.expires_at.map(|at| at.0));
        };
        Ok(self.write_alone(&INSERT_KEYS, &[key], add).await? == 1)
    }

    /// All keys, the oldest first, revoked ones too.
    pub async fn api_keys(&self) -> Result<Vec<ApiKey>, Error> {
        let rows = entity::api_key::Entity::find()
            .order_by_asc(entity::api_key::Column::CreatedAt)
            .order_by_asc(entity::api_key::Column::Id)
            .all(self.reader().await?)
            .await?;
        rows.into_iter().map(ApiKey::try_from).collect()
    }

    /// The key with this id.
    pub async fn api_key(&self, id: KeyId) -> Result<Option<ApiKey>, Error> {
        let row = entity::api_key::Entity::find_by_id(id.as_str()).one(self.reader().await?).await?;
        row.map(ApiKey::try_from).transpose()
    }

    /// Whether there is a key that is not revoked. One that has expired counts: time alone opens no door.
    pub async fn has_api_keys(&self) -> Result<bool, Error> {
        let valid = entity::api_key::Entity::find().filter(entity::api_key::Column::RevokedAt.is_null());
        Ok(valid.count(self.reader().await?).await? > 0)
    }

    /// Takes a key back, and says whether it was one.
    pub async fn revoke_api_key(&self, id: KeyId, at: Timestamp) -> Result<bool, Error> {
        Ok(self.write_alone(&REVOKE_KEYS, &[(id, at)], add_time).await? == 1)
    }

    /// Says that a key was used.
    pub async fn use_api_key(&self, id: KeyId, at: Timestamp) -> Result<(), Error> {
        self.write_alone(&USE_KEYS, &[(id, at)], add_time).await?;
        Ok(())
    }
}

fn add_time(args: &mut Args, (id, at): &(KeyId, Timestamp)) {
    args.text(id.as_str());
    args.int(at.0);
}
