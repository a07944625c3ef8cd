//! Why a server of tools can not be asked, or did not answer.

use std::time::Duration;

use crewline_types::ErrorKind;

/// Why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum McpError {
    /// The run is offline, and the server is not on this machine or a private network.
    #[error("`{server}` at `{host}` is not asked: the run is offline")]
    Offline {
        /// The server.
        server: String,
        /// Its host.
        host: String,
    },
    /// It does not start, or does not speak the protocol.
    #[error("`{server}` does not start: {message}")]
    Start {
        /// The server.
        server: String,
        /// Why, with the last it said of itself.
        message: String,
    },
    /// It ended too often and is left alone for a while.
    #[error("`{server}` ended or failed {times} times and is left alone for {} s: {last}", pause.as_secs().max(1))]
    Down {
        /// The server.
        server: String,
        /// How often.
        times: usize,
        /// How long it is left alone.
        pause: Duration,
        /// What happened last.
        last: String,
    },
    /// It took too long. Whether it did what it was asked to is not known.
    #[error("`{server}` did not answer within {} s", limit.as_secs_f64())]
    Timeout {
        /// The server.
        server: String,
        /// The limit.
        limit: Duration,
    },
    /// It went away before it answered. Whether it did what it was asked to is not known.
    #[error("`{server}` went away before it answered: {message}")]
    Gone {
        /// The server.
        server: String,
        /// Why, with the last it said of itself.
        message: String,
    },
    /// It sent more than is read.
    #[error("`{server}` sent a message of more than {} MiB and was disconnected", bytes_max >> 20)]
    TooLarge {
        /// The server.
        server: String,
        /// The limit.
        bytes_max: usize,
    },
    /// It refused the request.
    #[error("`{server}` refused: {message}")]
    Refused {
        /// The server.
        server: String,
        /// What it said.
        message: String,
    },
    /// It answered what the protocol does not have.
    #[error("`{server}` answered what is no answer: {message}")]
    Protocol {
        /// The server.
        server: String,
        /// What.
        message: String,
    },
    /// The tool is not what it was when it was offered.
    #[error("`{server}` changed its tool `{tool}` meanwhile: it was not called")]
    Changed {
        /// The server.
        server: String,
        /// The tool.
        tool: String,
    },
}

impl McpError {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Offline { .. } | Self::Refused { .. } => ErrorKind::Invalid,
            Self::Start { .. } | Self::Down { .. } | Self::Gone { .. } | Self::Protocol { .. } => {
                ErrorKind::Unavailable
            }
            Self::Timeout { .. } => ErrorKind::Timeout,
            Self::TooLarge { .. } => ErrorKind::Limit,
            Self::Changed { .. } => ErrorKind::Conflict,
        }
    }

    /// The stable code; `docs/errors.md` has a section for each.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Offline { .. } => "mcp.offline",
            Self::Start { .. } => "mcp.start",
            Self::Down { .. } => "mcp.down",
            Self::Timeout { .. } => "mcp.timeout",
            Self::Gone { .. } => "mcp.gone",
            Self::TooLarge { .. } => "mcp.too_large",
            Self::Refused { .. } => "mcp.refused",
            Self::Protocol { .. } => "mcp.answer",
            Self::Changed { .. } => "mcp.changed",
        }
    }

    /// Whether the same may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Start { .. }
            | Self::Down { .. }
            | Self::Timeout { .. }
            | Self::Gone { .. }
            | Self::Changed { .. } => true,
            Self::Offline { .. } | Self::TooLarge { .. } | Self::Refused { .. } | Self::Protocol { .. } => false,
        }
    }

    /// The next step for a person.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Offline { .. } => "run without `--offline`, or use a server on this machine",
            Self::Start { .. } | Self::Down { .. } => {
                "start it by hand as `mcp_servers` of the registry says; `crewline doctor` asks all"
            }
            Self::Timeout { .. } => "raise `call_timeout` or `start_timeout` of the server in the registry",
            Self::Gone { .. } | Self::Protocol { .. } => {
                "look at what the server says of itself; `crewline tools ls` asks it again"
            }
            Self::TooLarge { .. } => "ask it for less at once",
            Self::Refused { .. } => "check the arguments against `crewline tools show`",
            Self::Changed { .. } => "the next attempt asks a person about the change",
        }
    }
}
