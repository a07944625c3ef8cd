//! What kind of failure an error is; each crate's `Error` answers one of these.
//!
//! **Invariant:** only the API maps a kind to an HTTP status, only the CLI maps it to an exit code.

use serde::{Deserialize, Serialize};

/// The closed set of failure kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The input is wrong; the same input fails again.
    Invalid,
    /// The named thing does not exist.
    NotFound,
    /// Somebody else was faster, or the state does not allow it.
    Conflict,
    /// A bound is reached; later it may work.
    Busy,
    /// A backend does not answer.
    Unavailable,
    /// A limit on time passed.
    Timeout,
    /// A key is missing or refused.
    Auth,
    /// A budget or a limit of the run is reached.
    Limit,
    /// A defect of ours.
    Internal,
}

impl ErrorKind {
    /// The name used in events, logs and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Auth => "auth",
            Self::Limit => "limit",
            Self::Internal => "internal",
        }
    }

    /// The inverse of [`Self::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "invalid" => Self::Invalid,
            "not_found" => Self::NotFound,
            "conflict" => Self::Conflict,
            "busy" => Self::Busy,
            "unavailable" => Self::Unavailable,
            "timeout" => Self::Timeout,
            "auth" => Self::Auth,
            "limit" => Self::Limit,
            "internal" => Self::Internal,
            _ => return None,
        })
    }
}
