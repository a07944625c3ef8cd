//! Keys of the HTTP API: what names one, what it allows, and the hash of its secret.
//!
//! **Invariant:** the secret itself is nowhere in the database.

/// See the file's head.
pub(super) const SCHEMA: &str = "
CREATE TABLE api_keys (
    id {id} PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    -- BLAKE3 of the secret.
    hash {bytes} NOT NULL CHECK (length(hash) = 32),
    -- Words with commas between them.
    scopes TEXT NOT NULL,
    created_at {bigint} NOT NULL,
    created_by TEXT NOT NULL,
    expires_at {bigint},
    -- To the minute.
    used_at {bigint},
    revoked_at {bigint}
){table};
-- A name is free again when its key is revoked.
CREATE UNIQUE INDEX api_keys_name ON api_keys (name) WHERE revoked_at IS NULL;
";
