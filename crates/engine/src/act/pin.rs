//! Whether a tool of another server is still what was agreed to.
//!
//! The first time a server is seen, all its tools are taken as they are: a person has named it in the registry. From then on a
//! tool that says something else of itself, and one that comes later, are a person's to agree to.
//!
//! **Invariant:** a tool is offered as it was agreed to, or not at all.

use std::{collections::HashMap, hash::BuildHasher};

use crewline_types::TextHash;

/// How a tool stands to what was agreed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing of its server was agreed to yet.
    First,
    /// It is what was agreed to.
    Same,
    /// Something else was agreed to.
    Changed,
    /// Others of its server were agreed to.
    Added,
}

impl Standing {
    /// Whether a person has to agree first.
    pub fn needs_a_yes(self) -> bool {
        match self {
            Self::First | Self::Same => false,
            Self::Changed | Self::Added => true,
        }
    }

    /// The name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "new",
            Self::Same => "agreed",
            Self::Changed => "changed",
            Self::Added => "added",
        }
    }
}

/// How `tool` stands, when `agreed` is what was agreed to of its server.
pub fn standing<S: BuildHasher>(agreed: &HashMap<&str, TextHash, S>, tool: &str, hash: TextHash) -> Standing {
    match agreed.get(tool) {
        Some(pinned) if *pinned == hash => Standing::Same,
        Some(_) => Standing::Changed,
        None if agreed.is_empty() => Standing::First,
        None => Standing::Added,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_agreed_to_stays_the_same() {
        let (one, two) = (TextHash::of("one"), TextHash::of("two"));
        let agreed = HashMap::from([("read", one)]);
        assert_eq!(standing(&HashMap::new(), "read", one), Standing::First);
        assert_eq!(standing(&agreed, "read", one), Standing::Same);
        assert_eq!(standing(&agreed, "read", two), Standing::Changed);
        assert_eq!(standing(&agreed, "write", one), Standing::Added);
    }
}
