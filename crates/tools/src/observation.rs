//! What a call came to, as the model is told.

use crate::Handle;

/// How a call ended; the closed set of labels, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Done.
    Ok,
    /// It was made and did not succeed.
    Failed,
    /// Its tool or its arguments are not what they must be; nothing was done.
    Invalid,
    /// It is not allowed so; nothing was done.
    Refused,
    /// A limit on time passed.
    Timeout,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Ok, Self::Failed, Self::Invalid, Self::Refused, Self::Timeout];

    /// The name in events, metrics and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Invalid => "invalid",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
        }
    }

    /// The inverse of [`Self::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }

    /// Whether nothing was done.
    pub fn did_nothing(self) -> bool {
        match self {
            Self::Invalid | Self::Refused => true,
            Self::Ok | Self::Failed | Self::Timeout => false,
        }
    }
}

/// Where a text comes from. Either way it is data; a prompt marks what strangers may have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trust {
    /// Crewline's own words.
    Own,
    /// Files, commands, web pages, other servers.
    Untrusted,
}

/// What a call came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// What the model reads; shortened when it was long.
    pub text: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Bytes the tool gave, before anything was left out.
    pub bytes_out: u64,
    /// Where all of it is, when something was left out.
    pub handle: Option<Handle>,
    /// Who may have written the text.
    pub trust: Trust,
}

impl Observation {
    fn new(outcome: Outcome, text: impl Into<String>, trust: Trust) -> Self {
        let text = text.into();
        Self { bytes_out: text.len() as u64, text, outcome, handle: None, trust }
    }

    /// It is done; the text is ours.
    pub fn ok(text: impl Into<String>) -> Self {
        Self::new(Outcome::Ok, text, Trust::Own)
    }

    /// It is done; the text is what others wrote.
    pub fn data(text: impl Into<String>) -> Self {
        Self::new(Outcome::Ok, text, Trust::Untrusted)
    }

    /// It did not succeed. The text says why, and what would.
    pub fn failed(text: impl Into<String>) -> Self {
        Self::new(Outcome::Failed, text, Trust::Own)
    }

    /// The call is not one that can be made.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::new(Outcome::Invalid, text, Trust::Own)
    }

    /// The call is not allowed.
    pub fn refused(text: impl Into<String>) -> Self {
        Self::new(Outcome::Refused, text, Trust::Own)
    }

    /// The call took too long.
    pub fn timeout(text: impl Into<String>) -> Self {
        Self::new(Outcome::Timeout, text, Trust::Own)
    }

    /// The same with words that others may have written.
    #[must_use]
    pub fn untrusted(self) -> Self {
        Self { trust: Trust::Untrusted, ..self }
    }

    /// Whether the model should do something else.
    pub fn is_error(&self) -> bool {
        self.outcome != Outcome::Ok
    }
}
