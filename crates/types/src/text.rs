//! Large texts, stored once and named by their content.

use std::{fmt, sync::Arc};

/// The first 16 bytes of a text's BLAKE3 hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TextHash(pub [u8; 16]);

impl TextHash {
    /// The hash of `text`.
    pub fn of(text: &str) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
        Self(bytes)
    }

    /// Reads the bytes a database column holds.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for TextHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for TextHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl serde::Serialize for TextHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text and its hash; cloning shares the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Names the text.
    pub hash: TextHash,
    /// The text itself.
    pub body: Arc<str>,
}

impl From<String> for Text {
    fn from(body: String) -> Self {
        Self { hash: TextHash::of(&body), body: body.into() }
    }
}

impl From<&str> for Text {
    fn from(body: &str) -> Self {
        Self { hash: TextHash::of(body), body: body.into() }
    }
}
