//! What can go wrong with the database, and how the drivers' errors are told apart.
//!
//! **Invariant:** no message holds a password: a database is named by host, port and name only.

use std::{io, path::PathBuf};

use crewline_types::{ErrorKind, RunId, RunStatus, Timestamp};
use sea_orm::{ConnAcquireErr, DbErr, RuntimeErr, sqlx};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL names no database we know.
    #[error("`{url}` is not a database: {expected}")]
    Url {
        /// What was given, without a password.
        url: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// The database could not be opened.
    #[error("cannot open the database `{target}`")]
    Open {
        /// Where it is, without a password.
        target: String,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// A newer version of this program has changed the database.
    #[error("the database `{target}` has the migration `{found}`, this program knows up to `{known}`")]
    NewerSchema {
        /// Where it is.
        target: String,
        /// The migration nobody here knows.
        found: String,
        /// The newest one that is known here.
        known: String,
    },
    /// Somebody else writes for longer than we wait.
    #[error("the database is locked by another writer")]
    Locked {
        /// The driver's words.
        #[source]
        source: Cause,
    },
    /// The epoch is not the run's: another manager has it.
    #[error("epoch {epoch} of run `{run}` is stale")]
    Stale {
        /// The run.
        run: RunId,
        /// The epoch that was given.
        epoch: u64,
    },
    /// Another process works on the run.
    #[error("run `{run}` is held by `{owner}` until {until}")]
    Held {
        /// The run.
        run: RunId,
        /// Who has it.
        owner: String,
        /// When its lease ends unless it is renewed.
        until: Timestamp,
    },
    /// The run is over and can not be claimed.
    #[error("run `{run}` is over: `{}`", status.as_str())]
    Finished {
        /// The run.
        run: RunId,
        /// How it ended.
        status: RunStatus,
    },
    /// No such run.
    #[error("there is no run `{run}`")]
    NotFound {
        /// The id that was given.
        run: RunId,
    },
    /// Another run was launched with the key.
    #[error("another run was launched with the key")]
    LaunchKeyTaken,
    /// No space is left where the database is.
    #[error("no space is left for the database")]
    DiskFull {
        /// The driver's words.
        #[source]
        source: Cause,
    },
    /// The database's file was removed, or another took its place.
    #[error("`{}` was removed or replaced while it was in use", path.display())]
    Removed {
        /// The file.
        path: PathBuf,
    },
    /// The database does not answer.
    #[error("the database is not available")]
    Unavailable {
        /// The driver's words.
        #[source]
        source: Cause,
    },
    /// The answer to COMMIT was lost: the changes may be recorded or not. Read before writing again.
    #[error("the connection broke during a commit, its outcome is unknown")]
    CommitUnknown {
        /// The driver's words.
        #[source]
        source: Cause,
    },
    /// A row holds what it can not hold.
    #[error("`{what}` holds `{value}`, which nothing here writes")]
    Corrupt {
        /// The column.
        what: &'static str,
        /// What it holds, shortened.
        value: String,
    },
    /// The caller's arguments contradict each other.
    #[error("{what}")]
    Invalid {
        /// What is wrong.
        what: &'static str,
    },
    /// A file that must not be replaced.
    #[error("`{}` exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file that can not be written.
    #[error("cannot write `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database is no file that could be copied.
    #[error("only a database in a SQLite file can be backed up")]
    BackupElsewhere,
    /// A defect: a statement or a value the database refuses.
    #[error("the database refused a statement")]
    Internal {
        /// The driver's words.
        #[source]
        source: Cause,
    },
}

/// The driver's own error, behind a type of ours.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Cause(pub(crate) String);

impl Error {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Url { .. } | Self::Invalid { .. } | Self::BackupElsewhere => ErrorKind::Invalid,
            Self::Open { source, .. } => source.kind(),
            Self::NewerSchema { .. }
            | Self::Stale { .. }
            | Self::Held { .. }
            | Self::Finished { .. }
            | Self::LaunchKeyTaken
            | Self::Exists { .. } => ErrorKind::Conflict,
            Self::Locked { .. } => ErrorKind::Busy,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::DiskFull { .. }
            | Self::Removed { .. }
            | Self::Unavailable { .. }
            | Self::CommitUnknown { .. }
            | Self::File { .. } => ErrorKind::Unavailable,
            Self::Corrupt { .. } | Self::Internal { .. } => ErrorKind::Internal,
        }
    }

    /// The stable code; `docs/errors.md` has a section for each.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Url { .. } => "store.url",
            Self::Open { source, .. } => source.code(),
            Self::NewerSchema { .. } => "store.newer_schema",
            Self::Locked { .. } => "store.locked",
            Self::Stale { .. } => "store.stale",
            Self::Held { .. } => "store.held",
            Self::Finished { .. } => "store.finished",
            Self::NotFound { .. } => "store.not_found",
            Self::LaunchKeyTaken => "store.launch_key_taken",
            Self::DiskFull { .. } => "store.disk_full",
            Self::Removed { .. } => "store.removed",
            Self::Unavailable { .. } => "store.unavailable",
            Self::CommitUnknown { .. } => "store.commit_unknown",
            Self::Corrupt { .. } => "store.corrupt",
            Self::Invalid { .. } => "store.invalid",
            Self::Exists { .. } => "store.exists",
            Self::File { .. } => "store.file",
            Self::BackupElsewhere => "store.backup",
            Self::Internal { .. } => "store.internal",
        }
    }

    /// Whether the same call may succeed later without anything else being done.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Locked { .. } | Self::DiskFull { .. } | Self::Unavailable { .. } => true,
            Self::Open { source, .. } => source.is_retryable(),
            Self::Url { .. }
            | Self::NewerSchema { .. }
            | Self::Stale { .. }
            | Self::Held { .. }
            | Self::Finished { .. }
            | Self::NotFound { .. }
            | Self::LaunchKeyTaken
            | Self::Removed { .. }
            | Self::CommitUnknown { .. }
            | Self::Corrupt { .. }
            | Self::Invalid { .. }
            | Self::Exists { .. }
            | Self::File { .. }
            | Self::BackupElsewhere
            | Self::Internal { .. } => false,
        }
    }

    pub(crate) fn corrupt(what: &'static str, value: &str) -> Self {
        Self::Corrupt { what, value: value.chars().take(40).collect() }
    }

    pub(crate) fn internal(what: impl Into<String>) -> Self {
        Self::Internal { source: Cause(what.into()) }
    }

    pub(crate) fn unavailable(what: impl Into<String>) -> Self {
        Self::Unavailable { source: Cause(what.into()) }
    }

    /// The connection itself is at fault and must not be used again.
    pub(crate) fn breaks_connection(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::CommitUnknown { .. })
    }

    /// Two transactions waited for each other and this one was chosen to end; doing it again is right.
    pub(crate) fn is_deadlock(&self) -> bool {
        matches!(self, Self::Locked { source } if source.0.starts_with(DEADLOCK))
    }
}

/// Marks a lock error that comes from a deadlock or a serialisation failure.
const DEADLOCK: &str = "deadlock: ";

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        of_sqlx(&error)
    }
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        match &error {
            DbErr::Conn(RuntimeErr::SqlxError(inner))
            | DbErr::Exec(RuntimeErr::SqlxError(inner))
            | DbErr::Query(RuntimeErr::SqlxError(inner)) => of_sqlx(inner),
            DbErr::ConnectionAcquire(ConnAcquireErr::Timeout | ConnAcquireErr::ConnectionClosed) | DbErr::Conn(_) => {
                Self::unavailable(error.to_string())
            }
            // The driver's enum is not ours: whatever else it says is a defect.
            _ => Self::internal(error.to_string()),
        }
    }
}

fn of_sqlx(error: &sqlx::Error) -> Error {
    let words = error.to_string();
    match error {
        sqlx::Error::Io(cause) if cause.kind() == io::ErrorKind::StorageFull => {
            Error::DiskFull { source: Cause(words) }
        }
        sqlx::Error::Database(cause) => match cause.code() {
            Some(code) if code.len() == 5 && !code.starts_with("0x") => of_sqlstate(&code, words),
            Some(code) => match code.parse::<u32>() {
                Ok(number) => of_sqlite(number, words),
                Err(_) => Error::internal(words),
            },
            None => Error::internal(words),
        },
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => Error::unavailable(words),
        _ => Error::internal(words),
    }
}

/// <https://www.sqlite.org/rescode.html>; the low byte is the primary code.
fn of_sqlite(code: u32, words: String) -> Error {
    match code & 0xff {
        5 | 6 => Error::Locked { source: Cause(words) },
        13 => Error::DiskFull { source: Cause(words) },
        // Read-only, IO error, can not open.
        8 | 10 | 14 => Error::unavailable(words),
        // Malformed, not a database.
        11 | 26 => Error::corrupt("the database file", &words),
        _ => Error::internal(words),
    }
}

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn of_sqlstate(code: &str, words: String) -> Error {
    match code {
        "53100" => Error::DiskFull { source: Cause(words) },
        "40001" | "40P01" => Error::Locked { source: Cause(format!("{DEADLOCK}{words}")) },
        "55P03" => Error::Locked { source: Cause(words) },
        // Too many connections, no such database, wrong password; the server stops or starts. Or we were silent for too long
        // within a transaction, and the server has ended it with the session. Or a statement took too long.
        "53300" | "3D000" | "28P01" | "28000" | "25P03" | "57014" => Error::unavailable(words),
        // A message the server did not expect: a defect here or in the driver.
        "08P01" => Error::internal(words),
        _ if code.starts_with("08") || code.starts_with("57P") => Error::unavailable(words),
        _ => Error::internal(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_codes_become_kinds() {
        for (code, kind, ours) in [
            (5, ErrorKind::Busy, "store.locked"),
            (5 | 2 << 8, ErrorKind::Busy, "store.locked"),
            (13, ErrorKind::Unavailable, "store.disk_full"),
            (14, ErrorKind::Unavailable, "store.unavailable"),
            (26, ErrorKind::Internal, "store.corrupt"),
            (19, ErrorKind::Internal, "store.internal"),
        ] {
            let error = of_sqlite(code, String::new());
            assert_eq!((error.kind(), error.code()), (kind, ours), "{code}");
        }
        for (code, kind, ours) in [
            ("53100", ErrorKind::Unavailable, "store.disk_full"),
            ("40P01", ErrorKind::Busy, "store.locked"),
            ("57P01", ErrorKind::Unavailable, "store.unavailable"),
            ("08006", ErrorKind::Unavailable, "store.unavailable"),
            ("25P03", ErrorKind::Unavailable, "store.unavailable"),
            ("57014", ErrorKind::Unavailable, "store.unavailable"),
            ("55P03", ErrorKind::Busy, "store.locked"),
            ("08P01", ErrorKind::Internal, "store.internal"),
            ("23505", ErrorKind::Internal, "store.internal"),
        ] {
            let error = of_sqlstate(code, String::new());
            assert_eq!((error.kind(), error.code()), (kind, ours), "{code}");
        }
        assert!(of_sqlstate("40P01", String::new()).is_deadlock());
        assert!(!of_sqlstate("55P03", String::new()).is_deadlock());
    }
}
