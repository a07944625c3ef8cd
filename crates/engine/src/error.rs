//! What the engine refuses, as one enum for callers that do not care which part refused.
//!
//! **Invariant:** every error carries its data; the texts are made here and nowhere else.

use crewline_types::ErrorKind;

use crate::{plan::Problem, schedule::Cycle, wallet::Refused};

/// A refusal of the engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The plan can not run as it is.
    #[error("the plan is not valid: {}", join(problems))]
    Plan {
        /// All of its problems.
        problems: Vec<Problem>,
    },
    /// The graph can not run.
    #[error(transparent)]
    Graph(#[from] Cycle),
    /// The money is not there.
    #[error(transparent)]
    Wallet(#[from] Refused),
}

impl Error {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Plan { .. } => ErrorKind::Invalid,
            Self::Graph(error) => error.kind(),
            Self::Wallet(error) => error.kind(),
        }
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Plan { .. } => "plan.invalid",
            Self::Graph(error) => error.code(),
            Self::Wallet(error) => error.code(),
        }
    }

    /// Whether the same request may pass later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Plan { .. } => false,
            Self::Graph(error) => error.is_retryable(),
            Self::Wallet(error) => error.is_retryable(),
        }
    }
}

impl From<Vec<Problem>> for Error {
    fn from(problems: Vec<Problem>) -> Self {
        Self::Plan { problems }
    }
}

fn join(problems: &[Problem]) -> String {
    let lines: Vec<&str> = problems.iter().map(|it| it.message.as_str()).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_error_names_every_problem() {
        let problem = |message: &str| Problem { code: "cycle", task: None, message: message.to_owned() };
        let error = Error::from(vec![problem("one"), problem("two")]);
        assert_eq!(error.to_string(), "the plan is not valid: one; two");
        assert_eq!((error.kind(), error.code(), error.is_retryable()), (ErrorKind::Invalid, "plan.invalid", false));
    }
}
