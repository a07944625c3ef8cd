//! Keys of the HTTP API: made, listed, taken back, and asked for at the door.
//!
//! A key is `crewline_<id>_<secret>`: the id finds its row, the secret has 256 random bits. Its pattern is one of those that
//! the log of requests leaves out.
//!
//! **Invariant:** the secret leaves this module once, in [`MadeKey`]; the database has its hash.
//! **Invariant:** secrets are compared in constant time.

use std::{fmt::Write as _, time::Duration};

use crewline_store::ApiKey;
use crewline_types::{KeyId, KeyScopes, Timestamp};
use serde::Serialize;

use crate::{
    Error, Handle,
    find::{ambiguous, not_found},
};

/// What every key begins with.
const PREFIX: &str = "crewline_";
/// Bytes of a secret.
const SECRET_BYTES: usize = 32;
/// Characters of a name at most.
const NAME_CHARS_MAX: usize = 64;
/// A use is noted this often at most.
const USE_EVERY: Duration = Duration::from_mins(1);

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// What people call it.
    pub name: String,
    /// What it allows.
    pub scopes: KeyScopes,
    /// How long it holds; for good when left out.
    pub lifetime: Option<Duration>,
    /// Who makes it.
    pub by: String,
}

/// A key as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyView {
    /// Names it.
    pub id: KeyId,
    /// What people call it.
    pub name: String,
    /// What it allows.
    pub scopes: KeyScopes,
    /// `active`, `expired` or `revoked`.
    pub state: KeyState,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: String,
    /// When it stops to be one.
    pub expires_at: Option<Timestamp>,
    /// When it was used last, to the minute.
    pub used_at: Option<Timestamp>,
    /// When it was taken back.
    pub revoked_at: Option<Timestamp>,
}

/// Whether a key is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// It is.
    Active,
    /// Its time has passed.
    Expired,
    /// It was taken back.
    Revoked,
}

impl KeyState {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }

    fn of(key: &ApiKey, now: Timestamp) -> Self {
        if key.revoked_at.is_some() {
            Self::Revoked
        } else if key.expires_at.is_some_and(|at| at <= now) {
            Self::Expired
        } else {
            Self::Active
        }
    }
}

impl KeyView {
    fn of(key: ApiKey, now: Timestamp) -> Self {
        let state = KeyState::of(&key, now);
        let ApiKey { id, name, hash: _, scopes, created_at, created_by, expires_at, used_at, revoked_at } = key;
        Self { id, name, scopes, state, created_at, created_by, expires_at, used_at, revoked_at }
    }
}

/// A key and its secret, which nobody sees again.
#[derive(Serialize)]
pub struct MadeKey {
    /// The key.
    #[serde(flatten)]
    pub key: KeyView,
    /// What a client sends after `Authorization: Bearer`.
    pub token: String,
}

/// What the door says to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Nobody needs a key: none was made.
    Open,
    /// The key is one.
    Key(Box<KeyView>),
    /// A key is needed, and there is none with the request.
    Missing,
    /// What came with the request is no key, or none any more.
    Refused,
}

impl Handle {
    /// Makes a key. Its name is free, or that of a revoked one.
    pub async fn create_key(&self, new: NewKey) -> Result<MadeKey, Error> {
        let name = new.name.trim();
        if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
            return Err(Error::KeyName {
                name: name.chars().take(NAME_CHARS_MAX).collect(),
                chars_max: NAME_CHARS_MAX,
            });
        }
        let now = self.deps().clock.now();
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(|error| Error::Random { message: error.to_string() })?;
        let id = KeyId::new(&mut self.ids());
        let key = ApiKey {
            id,
            name: name.to_owned(),
            hash: *blake3::hash(&secret).as_bytes(),
            scopes: new.scopes,
            created_at: now,
            created_by: new.by,
            expires_at: new.lifetime.map(|time| now.after(time)),
            used_at: None,
            revoked_at: None,
        };
        if !self.store().add_api_key(&key).await? {
            return Err(Error::KeyNameTaken { name: key.name });
        }
        Ok(MadeKey { key: KeyView::of(key, now), token: token(id, &secret) })
    }

    /// The keys, the oldest first; those that are none any more only when `all` are wanted.
    pub async fn keys(&self, all: bool) -> Result<Vec<KeyView>, Error> {
        let now = self.deps().clock.now();
        let mut keys: Vec<KeyView> =
            self.store().api_keys().await?.into_iter().map(|key| KeyView::of(key, now)).collect();
        keys.retain(|key| all || key.state != KeyState::Revoked);
        Ok(keys)
    }

    /// Takes back the key that `text` names: the name of one that is not revoked, or the beginning of an id.
    pub async fn revoke_key(&self, text: &str) -> Result<KeyView, Error> {
        let text = text.trim();
        let mut found = self.keys(true).await?;
        if found.iter().any(|key| key.name == text && key.state != KeyState::Revoked) {
            found.retain(|key| key.name == text && key.state != KeyState::Revoked);
        } else {
            found.retain(|key| !text.is_empty() && key.id.as_str().starts_with(text));
        }
        if found.len() > 1 {
            return Err(ambiguous(text, found.iter().map(|key| format!("{} ({})", key.id, key.name))));
        }
        let key = found.pop().ok_or_else(|| not_found("key", text))?;
        let now = self.deps().clock.now();
        // Whoever was faster did the same.
        self.store().revoke_api_key(key.id, now).await?;
        let row = self.store().api_key(key.id).await?.ok_or_else(|| not_found("key", text))?;
        Ok(KeyView::of(row, now))
    }

    /// Whether a request that came without a key would be let in on this machine.
    pub async fn is_open(&self) -> Result<bool, Error> {
        Ok(!self.store().has_api_keys().await?)
    }

    /// What the door says to a request with this token. One that was made up is refused even when none is needed.
    pub async fn admit_request(&self, token: Option<&str>) -> Result<Admission, Error> {
        let Some(token) = token else {
            return Ok(if self.is_open().await? { Admission::Open } else { Admission::Missing });
        };
        let Some((id, secret)) = parse(token) else { return Ok(Admission::Refused) };
        let Some(key) = self.store().api_key(id).await? else { return Ok(Admission::Refused) };
        let now = self.deps().clock.now();
        // Both are hashes of this type, whose comparison takes the same time whatever they are.
        let is_same = blake3::hash(&secret) == blake3::Hash::from_bytes(key.hash);
        if !is_same || KeyState::of(&key, now) != KeyState::Active {
            return Ok(Admission::Refused);
        }
        if key.used_at.is_none_or(|at| now.since(at) >= USE_EVERY)
            && let Err(error) = self.store().use_api_key(id, now).await
        {
            tracing::debug!(error.code = error.code(), "the use of a key is not noted");
        }
        Ok(Admission::Key(Box::new(KeyView::of(key, now))))
    }
}

fn token(id: KeyId, secret: &[u8; SECRET_BYTES]) -> String {
    let mut text = format!("{PREFIX}{id}_");
    for byte in secret {
        // Writing into memory can not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn parse(token: &str) -> Option<(KeyId, [u8; SECRET_BYTES])> {
    let (id, hex) = token.strip_prefix(PREFIX)?.split_once('_')?;
    if hex.len() != 2 * SECRET_BYTES || !hex.bytes().all(|it| it.is_ascii_digit() || (b'a'..=b'f').contains(&it)) {
        return None;
    }
    let mut secret = [0; SECRET_BYTES];
    for (place, byte) in secret.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * place..2 * place + 2], 16).ok()?;
    }
    Some((id.parse().ok()?, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_written() {
        let id: KeyId = "k3v9x0ab".parse().unwrap();
        let secret = std::array::from_fn(|place| u8::try_from(place * 7).unwrap());
        let text = token(id, &secret);
        assert_eq!(parse(&text), Some((id, secret)));
        assert_eq!(text.len(), 9 + 8 + 1 + 64);
        for bad in [
            "",
            "crewline_",
            "k3v9x0ab",
            &text[1..],
            &text[..text.len() - 1],
            &text.to_uppercase(),
            &format!("{text}0"),
            &text.replace("k3v9x0ab", "K3V9X0AB"),
            &format!("crewline_k3v9x0ab_{}", "é".repeat(32)),
            &format!("crewline_k3v9x0ab_{}", "+1".repeat(32)),
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_pattern_of_a_key_is_left_out_of_logs() {
        let redactor = crewline_models::requests::Redactor::new([]).unwrap();
        let text = token("k3v9x0ab".parse().unwrap(), &[0xab; SECRET_BYTES]);
        for around in [text.clone(), format!("key={text};"), format!("\"{text}\""), format!("x {text}\n")] {
            assert!(!redactor.redact(&around).contains("abab"), "{around}");
        }
    }
}
