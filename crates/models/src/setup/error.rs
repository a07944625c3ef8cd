//! What can go wrong while local parts are installed.
//!
//! **Invariant:** every error names what to do next ([`SetupError::hint`]).

use std::{
    io,
    path::{Path, PathBuf},
};

use crewline_types::ErrorKind;

use super::Part;

/// Why a local part could not be installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// There is no prebuilt part for this machine.
    #[error("there is no prebuilt {} for {platform}", part.label())]
    UnsupportedPlatform {
        /// The part.
        part: Part,
        /// This machine, as `macos aarch64`.
        platform: String,
    },
    /// There is no `python3` on the PATH.
    #[error("`python3` is not on the PATH")]
    PythonMissing,
    /// `python3` is too old to run the server.
    #[error("`python3` is version {found}, at least 3.10 is needed")]
    PythonTooOld {
        /// Its version.
        found: String,
    },
    /// `python3` has no pip.
    #[error("`python3` has no pip")]
    PipMissing,
    /// Another process installs into the same directory.
    #[error("another setup is writing to `{}`", path.display())]
    Busy {
        /// The data directory.
        path: PathBuf,
    },
    /// Nothing answers.
    #[error("`{from}` cannot be reached: {reason}")]
    Unreachable {
        /// A URL or a package with its version.
        from: String,
        /// What the system said.
        reason: String,
    },
    /// The source answers, but does not have it.
    #[error("`{from}` is not offered: {reason}")]
    NotOffered {
        /// A URL or a package with its version.
        from: String,
        /// What the source said.
        reason: String,
    },
    /// A helper program took too long.
    #[error("`{from}` was not there after {limit_s} s")]
    Timeout {
        /// A URL or a package with its version.
        from: String,
        /// The limit in seconds.
        limit_s: u64,
    },
    /// A helper program failed.
    #[error("`{command}` failed: {reason}")]
    Helper {
        /// What was run.
        command: String,
        /// The end of what it printed.
        reason: String,
    },
    /// What was fetched is not what was expected.
    #[error("`{}` from `{from}` has SHA-256 {found}, expected {expected}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Where it came from.
        from: String,
        /// The hash it must have, in hexadecimal.
        expected: String,
        /// The hash it has.
        found: String,
    },
    /// A package does not contain what it should.
    #[error("`{from}` has no `{}`", path.display())]
    EntryMissing {
        /// The package.
        from: String,
        /// The file that is not there.
        path: PathBuf,
    },
    /// The disk is full.
    #[error("no space is left for `{}`", path.display())]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// A verb, as `read`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
}

impl SetupError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            // The system's kinds, not ours: all others are told as they are.
            _ => Self::Io { action, path, source },
        }
    }

    /// Its kind.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnsupportedPlatform { .. } | Self::Mismatch { .. } | Self::EntryMissing { .. } => ErrorKind::Invalid,
            Self::PythonMissing
            | Self::PythonTooOld { .. }
            | Self::PipMissing
            | Self::Unreachable { .. }
            | Self::NotOffered { .. }
            | Self::Helper { .. }
            | Self::DiskFull { .. }
            | Self::Io { .. } => ErrorKind::Unavailable,
            Self::Busy { .. } => ErrorKind::Busy,
            Self::Timeout { .. } => ErrorKind::Timeout,
        }
    }

    /// Its stable code; `docs/errors.md` has a section for each.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnsupportedPlatform { .. } => "setup.unsupported_platform",
            Self::PythonMissing => "setup.python_missing",
            Self::PythonTooOld { .. } => "setup.python_too_old",
            Self::PipMissing => "setup.pip_missing",
            Self::Busy { .. } => "setup.busy",
            Self::Unreachable { .. } => "setup.unreachable",
            Self::NotOffered { .. } => "setup.not_offered",
            Self::Timeout { .. } => "setup.timeout",
            Self::Helper { .. } => "setup.helper_failed",
            Self::Mismatch { .. } => "setup.hash_mismatch",
            Self::EntryMissing { .. } => "setup.entry_missing",
            Self::DiskFull { .. } => "setup.disk_full",
            Self::Io { .. } => "setup.io",
        }
    }

    /// Whether the same call may succeed later without anybody changing anything here.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Unreachable { .. } | Self::Timeout { .. } => true,
            Self::UnsupportedPlatform { .. }
            | Self::PythonMissing
            | Self::PythonTooOld { .. }
            | Self::PipMissing
            | Self::NotOffered { .. }
            | Self::Helper { .. }
            | Self::Mismatch { .. }
            | Self::EntryMissing { .. }
            | Self::DiskFull { .. }
            | Self::Io { .. } => false,
        }
    }

    /// The next step.
    pub fn hint(&self) -> String {
        match self {
            Self::UnsupportedPlatform { part, .. } => match part {
                Part::Server => "install llama.cpp so that `llama-server` is on the PATH, or use Ollama or LM Studio: \
                                 `crewline init` finds them"
                    .into(),
                Part::OnnxRuntime => "memory works without it, by words instead of meaning; for a model of its own \
                                      run crewline on Linux x86-64 (glibc 2.28 or newer)"
                    .into(),
                Part::Embedding | Part::Instruct => "run crewline on Linux x86-64".into(),
            },
            Self::PythonMissing => {
                "install Python 3.10 or newer with pip, as by `apt-get install python3 python3-pip`".into()
            }
            Self::PythonTooOld { .. } => "put Python 3.10 or newer first on the PATH as `python3`".into(),
            Self::PipMissing => "install it, as by `apt-get install python3-pip` or `python3 -m ensurepip`".into(),
            Self::Busy { .. } => "wait until it ends, then run `crewline setup --local` again".into(),
            Self::Unreachable { .. } | Self::Timeout { .. } => {
                "check the network, the proxy and pip's own configuration (`python3 -m pip config list`), then run \
                 `crewline setup --local` again: what is complete is kept"
                    .into()
            }
            Self::NotOffered { .. } => {
                "check which index pip uses (`python3 -m pip config list`): a mirror may lack this version".into()
            }
            Self::Helper { command, .. } => format!("run `{command}` by hand to see more"),
            Self::Mismatch { .. } => {
                "nothing was installed; a mirror or proxy may have changed the file: try again from \
                                      another network, and report it if it stays"
                    .into()
            }
            Self::EntryMissing { .. } => "the package is not the one expected; check which index pip uses".into(),
            Self::DiskFull { path } => format!("free about 500 MB on the file system of `{}`", path.display()),
            Self::Io { .. } => {
                "check that the data directory exists and may be written, or choose another with --data-dir".into()
            }
        }
    }
}
