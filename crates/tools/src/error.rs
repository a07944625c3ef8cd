//! What can go wrong with tools outside a call. Within a call it is an [`crate::Observation`].

use std::{io, path::PathBuf};

use crewline_types::ErrorKind;

use crate::workspace::{FileError, GitError};

/// Why tools can not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tool can not be offered to a model.
    #[error("tool `{name}` is not usable: {reason}")]
    Invalid {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Two tools have one name.
    #[error("there are two tools `{name}`")]
    Duplicate {
        /// Their name.
        name: String,
    },
    /// A rule of commands can not be read.
    #[error("`{rule}` is no rule of commands: {reason}")]
    Rule {
        /// The rule.
        rule: String,
        /// What is wrong.
        reason: String,
    },
    /// A directory can not be a workspace.
    #[error("`{}` cannot be used as a workspace", path.display())]
    Workspace {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What a workspace needs beside its files can not be kept or read.
    #[error("`{}` cannot be kept or read", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is in the way of reading a whole workspace, or of writing it.
    #[error(transparent)]
    File(#[from] FileError),
    /// The repository of the workspace does not do what it should.
    #[error(transparent)]
    Git(#[from] GitError),
    /// An attempt's name is none.
    #[error("`{attempt}` is no name of an attempt")]
    Attempt {
        /// What was given.
        attempt: String,
    },
    /// There is nothing to take back.
    #[error("attempt `{attempt}` has changed nothing in the workspace")]
    NothingMerged {
        /// The attempt.
        attempt: String,
    },
    /// Another process works in the workspace.
    #[error("another process works in `{}`", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// The process is ending.
    #[error("the program is ending")]
    Ending,
    /// What tools gave back can not be kept or read.
    #[error("the output of a tool in `{}` cannot be kept or read", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } | Self::Rule { .. } | Self::Workspace { .. } | Self::Git(_) | Self::Attempt { .. } => {
                ErrorKind::Invalid
            }
            Self::Duplicate { .. } => ErrorKind::Conflict,
            Self::Busy { .. } => ErrorKind::Busy,
            Self::Output { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorKind::NotFound,
            Self::File(FileError::TooMuch { .. } | FileError::TooLarge { .. }) => ErrorKind::Limit,
            Self::Output { .. } | Self::State { .. } | Self::Ending | Self::File(_) => ErrorKind::Unavailable,
            Self::NothingMerged { .. } => ErrorKind::NotFound,
        }
    }

    /// The stable code; `docs/errors.md` has a section for each.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "tool.invalid",
            Self::Duplicate { .. } => "tool.duplicate",
            Self::Rule { .. } => "tool.rule",
            Self::Output { .. } => "tool.output",
            Self::Workspace { .. } => "workspace.unusable",
            Self::State { .. } => "workspace.state",
            Self::File(_) => "workspace.file",
            Self::Git(_) => "workspace.git",
            Self::Attempt { .. } => "workspace.attempt",
            Self::NothingMerged { .. } => "workspace.nothing_merged",
            Self::Busy { .. } => "workspace.busy",
            Self::Ending => "workspace.ending",
        }
    }

    /// Whether the same may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Output { .. } | Self::State { .. } | Self::File(_) | Self::Busy { .. } | Self::Ending => true,
            Self::Invalid { .. }
            | Self::Duplicate { .. }
            | Self::Rule { .. }
            | Self::Workspace { .. }
            | Self::Git(_)
            | Self::Attempt { .. }
            | Self::NothingMerged { .. } => false,
        }
    }

    /// The next step for a person.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Invalid { .. } => {
                Some("a name is 1 to 64 letters, digits, `_`, `-` and `.`; parameters are a JSON Schema of an object")
            }
            Self::Duplicate { .. } => Some("give one of them another name"),
            Self::Rule { .. } => Some("write it as `PROGRAM PATTERN…`, such as `cargo test **`"),
            Self::Workspace { .. } => Some("name another directory with `--workspace DIR`, beside the data directory"),
            Self::File(FileError::TooMuch { .. } | FileError::TooLarge { .. }) => {
                Some("use a smaller directory, or let git ignore what is built")
            }
            Self::Busy { .. } => Some("wait until the other run has ended, or end it: `crewline ps` shows the runs"),
            Self::Git(_) => Some("check the repository with `git status` and `git fsck`"),
            Self::File(_) | Self::Attempt { .. } | Self::NothingMerged { .. } | Self::Ending => None,
            Self::Output { .. } | Self::State { .. } => {
                Some("check the free space and the rights of the data directory")
            }
        }
    }
}
