//! What a key of the HTTP API allows.
//!
//! **Invariant:** every key may read; nothing else follows from anything but its own word.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Serialize, Serializer};

words!(
    /// What a request needs.
    KeyScope {
        /// Look at runs, tasks and memories.
        Read = "read",
        /// Launch, change and end runs; store memories.
        Run = "run",
        /// Decide in a person's place.
        Approve = "approve",
    }
);

/// What a key allows; reading always.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyScopes(BTreeSet<KeyScope>);

impl KeyScopes {
    /// These, and reading.
    pub fn new(scopes: impl IntoIterator<Item = KeyScope>) -> Self {
        Self(scopes.into_iter().chain([KeyScope::Read]).collect())
    }

    /// Whether what needs `scope` is allowed.
    pub fn allows(&self, scope: KeyScope) -> bool {
        self.0.contains(&scope)
    }
}

impl fmt::Display for KeyScopes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, scope) in self.0.iter().enumerate() {
            out.write_str(if place == 0 { "" } else { "," })?;
            out.write_str(scope.as_str())?;
        }
        Ok(())
    }
}

/// Words that are no scopes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is no scope: there are read, run and approve")]
pub struct BadScope {
    /// The first of them.
    pub word: String,
}

impl FromStr for KeyScopes {
    type Err = BadScope;

    fn from_str(text: &str) -> Result<Self, BadScope> {
        let read = |word: &str| KeyScope::parse(word).ok_or_else(|| BadScope { word: word.chars().take(40).collect() });
        text.split(',').map(read).collect::<Result<Vec<_>, _>>().map(Self::new)
    }
}

impl Serialize for KeyScopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_allows_itself_and_reading() {
        let scopes = KeyScopes::new([KeyScope::Approve]);
        assert_eq!([KeyScope::Read, KeyScope::Run, KeyScope::Approve].map(|it| scopes.allows(it)), [true, false, true]);
        assert_eq!(scopes.to_string(), "read,approve");
        assert_eq!(scopes.to_string().parse(), Ok(scopes));
        for (text, word) in [("", ""), ("read,admin", "admin"), ("read, run", " run")] {
            assert_eq!(text.parse::<KeyScopes>(), Err(BadScope { word: word.into() }), "{text}");
        }
    }
}
