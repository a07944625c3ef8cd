//! Exit codes: what a script can rely on.
//!
//! **Invariant:** this is the one place that maps an error's kind or a run's status to an exit code.

use std::process::ExitCode;

use crewline_runtime::AWAITING_APPROVAL;
use crewline_types::{ErrorKind, RunStatus, event::ErrorNote};

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Ok,
    /// The run failed, or something else did.
    Failed,
    /// The command line is wrong.
    Usage,
    /// Configuration, registry or plan is invalid.
    Invalid,
    /// A key is missing or refused.
    Auth,
    /// The named thing does not exist.
    NotFound,
    /// A provider or backend does not answer.
    Unavailable,
    /// A budget or limit is reached.
    Limit,
    /// A person must decide.
    Awaiting,
    /// The state does not allow it.
    Conflict,
    /// Ended by a signal or a person.
    Interrupted,
}

impl Exit {
    /// The number.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Invalid => 3,
            Self::Auth => 4,
            Self::NotFound => 5,
            Self::Unavailable => 6,
            Self::Limit => 7,
            Self::Awaiting => 8,
            Self::Conflict => 9,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Invalid => Self::Invalid,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Conflict => Self::Conflict,
            ErrorKind::Busy | ErrorKind::Unavailable | ErrorKind::Timeout => Self::Unavailable,
            ErrorKind::Auth => Self::Auth,
            ErrorKind::Limit => Self::Limit,
            ErrorKind::Internal => Self::Failed,
        }
    }
}

/// How a run ended → exit code. `error` is what `run_finished` carries.
pub(crate) fn of_run(status: RunStatus, error: Option<&ErrorNote>) -> Exit {
    match status {
        RunStatus::Completed => Exit::Ok,
        RunStatus::Failed => error.map_or(Exit::Failed, of_failure),
        RunStatus::LimitReached => Exit::Limit,
        RunStatus::Interrupted if error.is_some_and(|note| &*note.code == AWAITING_APPROVAL) => Exit::Awaiting,
        // Somebody interrupted it, unless it says why it stopped.
        RunStatus::Interrupted => error.map_or(Exit::Interrupted, of_failure),
        RunStatus::Cancelled => Exit::Interrupted,
        // The stream of events ended without an end.
        RunStatus::Running => Exit::Failed,
    }
}

fn of_failure(error: &ErrorNote) -> Exit {
    if error.code.starts_with("plan.") {
        return Exit::Invalid;
    }
    match error.kind {
        ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Busy => Exit::Unavailable,
        ErrorKind::Auth => Exit::Auth,
        ErrorKind::Limit => Exit::Limit,
        ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::Internal => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_documented_codes() {
        for (kind, code) in [
            (ErrorKind::Invalid, 3),
            (ErrorKind::NotFound, 5),
            (ErrorKind::Conflict, 9),
            (ErrorKind::Busy, 6),
            (ErrorKind::Unavailable, 6),
            (ErrorKind::Timeout, 6),
            (ErrorKind::Auth, 4),
            (ErrorKind::Limit, 7),
            (ErrorKind::Internal, 1),
        ] {
            assert_eq!(Exit::from(kind).code(), code, "{kind:?}");
        }
    }

    #[test]
    fn runs_have_the_documented_codes() {
        let note = |code: &str, kind| ErrorNote { code: code.into(), kind, message: "m".into() };
        for (status, error, code) in [
            (RunStatus::Completed, None, 0),
            (RunStatus::Failed, None, 1),
            (RunStatus::Failed, Some(note("model.invalid_output", ErrorKind::Invalid)), 1),
            (RunStatus::Failed, Some(note("model.unreachable", ErrorKind::Unavailable)), 6),
            (RunStatus::Failed, Some(note("model.timeout", ErrorKind::Timeout)), 6),
            (RunStatus::Failed, Some(note("model.auth", ErrorKind::Auth)), 4),
            (RunStatus::Failed, Some(note("plan.invalid", ErrorKind::Invalid)), 3),
            (RunStatus::LimitReached, None, 7),
            (RunStatus::Interrupted, None, 130),
            (RunStatus::Interrupted, Some(note("runtime.restarts", ErrorKind::Internal)), 1),
            (RunStatus::Interrupted, Some(note(AWAITING_APPROVAL, ErrorKind::Conflict)), 8),
            (RunStatus::Cancelled, None, 130),
        ] {
            assert_eq!(of_run(status, error.as_ref()).code(), code, "{status:?} {error:?}");
        }
    }
}
