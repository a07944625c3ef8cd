//! Ids: eight lower-case alphanumeric characters (T1), and the ids derived from them.
//!
//! **Invariant:** an id is `Copy`, costs no allocation and prints as its eight characters.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Characters of a short id.
const LEN: usize = 8;
const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// The text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}: {expected}")]
pub struct IdError {
    /// What was given, shortened.
    pub text: String,
    /// What was wanted, as `a task id`.
    pub what: &'static str,
    /// The form that is allowed.
    pub expected: &'static str,
}

impl IdError {
    fn new(text: &str, what: &'static str, expected: &'static str) -> Self {
        Self { text: text.chars().take(40).collect(), what, expected }
    }
}

macro_rules! short_id {
    ($(#[$meta:meta])* $name:ident, $what:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; LEN]);

        impl $name {
            /// The eight characters.
            pub fn as_str(&self) -> &str {
                // Construction admits ASCII only.
                str::from_utf8(&self.0).unwrap_or("????????")
            }

            /// A fresh id.
            pub fn new(ids: &mut IdSource) -> Self {
                Self(ids.next())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse(text).map(Self).ok_or_else(|| {
                    IdError::new(text, $what, "eight lower-case letters or digits, such as `k3v9x0ab`")
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.pad(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <std::borrow::Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

short_id!(
    /// Names a task; unique in a database.
    TaskId, "a task id"
);
short_id!(
    /// Names a run; unique in a database.
    RunId, "a run id"
);
short_id!(
    /// Names what a person is asked; unique in a database.
    ApprovalId, "an approval id"
);
short_id!(
    /// Names an API key; unique in a database, and no secret.
    KeyId, "the id of a key"
);

impl ApprovalId {
    /// The id of what is asked about `subject` of a run: asked again, it is the same.
    pub fn of(run: RunId, subject: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(run.as_str().as_bytes());
        hasher.update(subject.as_bytes());
        let mut bytes = hasher.finalize_xof();
        Self(std::array::from_fn(|_| {
            let mut eight = [0; 8];
            bytes.fill(&mut eight);
            // The remainder of 64 bits is as good as even.
            usize::try_from(u64::from_le_bytes(eight) % ALPHABET.len() as u64).map_or(b'0', |place| ALPHABET[place])
        }))
    }
}

fn parse(text: &str) -> Option<[u8; LEN]> {
    let bytes: [u8; LEN] = text.as_bytes().try_into().ok()?;
    bytes.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase()).then_some(bytes)
}

/// Names a memory: the content hash of its text within its project, so a repeated write is one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemoryId(pub u128);

impl MemoryId {
    /// The id of `text` remembered as `kind` for `task` of `project`.
    pub fn of(project: &str, task: Option<TaskId>, kind: &str, text: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        // Lengths keep `ab` + `c` apart from `a` + `bc`.
        for part in [project, task.as_ref().map_or("", TaskId::as_str), kind, text] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for MemoryId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", self.0)
    }
}

impl FromStr for MemoryId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || IdError::new(text, "a memory id", "32 lower-case hexadecimal digits");
        if text.len() != 32 {
            return Err(error());
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| error())
    }
}

impl Serialize for MemoryId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MemoryId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// One try of one task. Prints as `k3v9x0ab.2`; the number is the task's fencing token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId {
    /// The task that is tried.
    pub task: TaskId,
    /// 1 for the first try.
    pub number: u32,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.task, self.number)
    }
}

/// One request to a model within an attempt. Prints as `k3v9x0ab.2.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId {
    /// The attempt that called.
    pub attempt: AttemptId,
    /// 1 for the first call of the attempt.
    pub number: u32,
}

impl fmt::Display for CallId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.attempt, self.number)
    }
}

impl Serialize for CallId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One call of a tool that a model's answer asks for. Prints as `k3v9x0ab.2.1.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ToolCallId {
    /// The call of the model.
    pub call: CallId,
    /// Its place in the answer, from 0.
    pub place: u32,
}

impl fmt::Display for ToolCallId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.call, self.place)
    }
}

impl Serialize for ToolCallId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where fresh ids come from; seeded, so a test or a replay can repeat them.
#[derive(Debug, Clone)]
pub struct IdSource(fastrand::Rng);

impl IdSource {
    /// Ids that nobody can foresee.
    pub fn random() -> Self {
        Self(fastrand::Rng::new())
    }

    /// The same ids for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    fn next(&mut self) -> [u8; LEN] {
        std::array::from_fn(|_| ALPHABET[self.0.usize(..ALPHABET.len())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_ids_round_trip() {
        let id = TaskId::new(&mut IdSource::seeded(7));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(serde_json::from_str::<TaskId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
    }

    #[test]
    fn what_is_asked_again_has_the_same_id() {
        let run = RunId::new(&mut IdSource::seeded(1));
        let id = ApprovalId::of(run, "k3v9x0ab.1.1.0");
        assert_eq!(id, ApprovalId::of(run, "k3v9x0ab.1.1.0"));
        assert_ne!(id, ApprovalId::of(run, "k3v9x0ab.1.1.1"));
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn bad_ids_are_refused() {
        for bad in ["", "short", "UPPERCAS", "k3v9x0a!", "k3v9x0abc", "äöüä"] {
            assert!(bad.parse::<TaskId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_ids_keep_scopes_apart() {
        let one = MemoryId::of("a", None, "x", "text");
        assert_eq!(one, MemoryId::of("a", None, "x", "text"));
        assert_ne!(one, MemoryId::of("b", None, "x", "text"));
        assert_ne!(MemoryId::of("ab", None, "c", ""), MemoryId::of("a", None, "bc", ""));
        assert_eq!(one.to_string().parse(), Ok(one));
    }
}
