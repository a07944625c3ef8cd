//! What can go wrong with the server itself; a request's errors are [`crate::Problem`]s.

use crewline_types::ErrorKind;

/// The server can not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An MCP client does not speak the protocol.
    #[error("the MCP client was not understood: {message}")]
    Protocol {
        /// What it said.
        message: String,
    },
}

impl Error {
    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Protocol { .. } => ErrorKind::Invalid,
        }
    }

    /// The stable code; `docs/errors.md` has a section for each.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Protocol { .. } => "mcp.protocol",
        }
    }

    /// Whether the same may work later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Protocol { .. } => false,
        }
    }
}
