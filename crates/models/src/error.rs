//! What can go wrong with models, as data.
//!
//! **Invariant:** no error holds a key; texts of providers are shortened and scrubbed before they come here.

use std::{io, path::PathBuf, time::Duration};

use crewline_types::{ErrorKind, ModelAlias, Usage, event::CallOutcome};

use crate::registry::Invalid;

/// The part of a call that took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Waiting for a place among the calls a model takes at once.
    Queue,
    /// Until the connection stands.
    Connect,
    /// Until the first token.
    FirstToken,
    /// Between two tokens.
    Idle,
    /// The whole call.
    Total,
    /// The provider itself gave up.
    Upstream,
}

impl Phase {
    /// The name, as in the registry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Connect => "connect",
            Self::FirstToken => "first_token",
            Self::Idle => "idle",
            Self::Total => "total",
            Self::Upstream => "upstream",
        }
    }
}

/// Why a managed server does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ManagedFailure {
    /// The program or the model file is missing, or may not be run.
    CannotRun,
    /// It ended before it was ready.
    Exited,
    /// It was not ready in time.
    NotReady,
    /// It ended again and again.
    KeepsEnding,
}

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry has problems.
    #[error(transparent)]
    Registry(#[from] Invalid),
    /// A file can not be read.
    #[error("cannot read `{path}`: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The registry has no such model.
    #[error("the registry has no model `{alias}`")]
    UnknownModel {
        /// What was asked for.
        alias: ModelAlias,
    },
    /// The registry has no such provider.
    #[error("the registry has no provider `{provider}`")]
    UnknownProvider {
        /// What was asked for.
        provider: String,
    },
    /// The key of a provider is not there.
    #[error("the key of provider `{provider}` is missing: {reason}")]
    KeyMissing {
        /// The provider.
        provider: String,
        /// What is wrong with its reference.
        reason: String,
        /// The next step.
        help: String,
    },
    /// The run is offline and the endpoint is not on this machine or a private network.
    #[error("provider `{provider}` at `{host}` is remote and this run is offline")]
    Offline {
        /// The provider.
        provider: String,
        /// Its host.
        host: String,
    },
    /// A limit on time passed.
    #[error("{}", timeout_text(model, *phase, *limit))]
    Timeout {
        /// The model.
        model: ModelAlias,
        /// Which limit.
        phase: Phase,
        /// Its value.
        limit: Duration,
    },
    /// The key is refused.
    #[error("the provider of model `{model}` refuses the key (HTTP {status}): {message}")]
    Auth {
        /// The model.
        model: ModelAlias,
        /// 401 or 403.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The model or the path does not exist there.
    #[error("model `{model}` is not found at `{url}`: {message}")]
    NotFound {
        /// The model.
        model: ModelAlias,
        /// The address that was asked.
        url: String,
        /// What it said.
        message: String,
    },
    /// Too many requests.
    #[error("model `{model}` is rate limited: {message}")]
    RateLimited {
        /// The model.
        model: ModelAlias,
        /// When to come back, as the provider says.
        retry_after: Option<Duration>,
        /// What it said.
        message: String,
    },
    /// Prompt and answer do not fit the model's window.
    #[error("the prompt is too long for model `{model}`: {message}")]
    ContextOverflow {
        /// The model.
        model: ModelAlias,
        /// What it said.
        message: String,
    },
    /// The provider does not take the request as it is.
    #[error("the provider of model `{model}` refuses the request (HTTP {status}): {message}")]
    Refused {
        /// The model.
        model: ModelAlias,
        /// The status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// A filter of the provider does not let the question or the answer pass.
    #[error("the provider of model `{model}` filters the content: {message}")]
    Filtered {
        /// The model.
        model: ModelAlias,
        /// What it said.
        message: String,
    },
    /// The provider has too much to do.
    #[error("the provider of model `{model}` is overloaded (HTTP {status}): {message}")]
    Overloaded {
        /// The model.
        model: ModelAlias,
        /// The status; 200 when it said so inside an answer.
        status: u16,
        /// When to come back, as the provider says.
        retry_after: Option<Duration>,
        /// What it said.
        message: String,
    },
    /// The protocol of the provider has no such call.
    #[error("provider `{provider}` has no {what}")]
    Unsupported {
        /// The provider.
        provider: String,
        /// What was asked for.
        what: &'static str,
    },
    /// The provider failed.
    #[error("the provider of model `{model}` failed (HTTP {status}): {message}")]
    Upstream {
        /// The model.
        model: ModelAlias,
        /// The status; 200 when the failure came inside an answer.
        status: u16,
        /// What it said, at most 300 characters.
        message: String,
    },
    /// No connection.
    #[error("provider `{provider}` at `{base_url}` is unreachable: {message}")]
    Unreachable {
        /// The provider.
        provider: String,
        /// Its address.
        base_url: String,
        /// The cause.
        message: String,
    },
    /// The connection ended before the answer did.
    #[error("the answer of model `{model}` broke off: {message}")]
    Interrupted {
        /// The model.
        model: ModelAlias,
        /// The cause.
        message: String,
    },
    /// The answer is too large.
    #[error("the answer of model `{model}` is larger than {limit} bytes")]
    TooLarge {
        /// The model.
        model: ModelAlias,
        /// The limit in bytes.
        limit: usize,
    },
    /// The answer is not what the protocol says.
    #[error("the answer of model `{model}` is not what its protocol says: {message}")]
    BadReply {
        /// The model.
        model: ModelAlias,
        /// What is wrong, with an excerpt.
        message: String,
    },
    /// The same failure of a call whose answer had begun, or whose tokens the provider had counted.
    #[error("{error}")]
    Midway {
        /// What went wrong.
        error: Box<Error>,
        /// What the provider counted, when it had ended its answer.
        usage: Option<Usage>,
    },
    /// A server that crewline starts does not run.
    #[error("the local server of provider `{provider}` {status}{}", last_line(log_tail))]
    ManagedFailed {
        /// The provider.
        provider: String,
        /// Why.
        failure: ManagedFailure,
        /// For people, as `ended before it was ready (exit status: 1)`.
        status: String,
        /// The last lines of its log.
        log_tail: String,
        /// Its log.
        log: PathBuf,
    },
    /// The HTTP client can not be built (no root certificates, for example).
    #[error("the HTTP client cannot be built: {message}")]
    Client {
        /// The cause.
        message: String,
    },
}

fn timeout_text(model: &ModelAlias, phase: Phase, limit: Duration) -> String {
    match phase {
        Phase::Upstream => format!("the provider of model `{model}` answered that it took too long"),
        Phase::Queue => format!("model `{model}` had no place for another call within {limit:?}"),
        Phase::Connect | Phase::FirstToken | Phase::Idle | Phase::Total => {
            format!("model `{model}` passed its limit of {limit:?} (`timeouts.{}`)", phase.as_str())
        }
    }
}

fn last_line(log: &str) -> String {
    log.lines().rev().find(|line| !line.trim().is_empty()).map_or_else(String::new, |line| format!(": {}", line.trim()))
}

impl Error {
    /// The failure itself, however far the answer was.
    pub fn cause(&self) -> &Self {
        if let Self::Midway { error, .. } = self { error } else { self }
    }

    /// Whether the provider may bill the call: it had the question, and did not refuse it.
    pub fn may_be_billed(&self) -> bool {
        match self {
            Self::Interrupted { .. } | Self::TooLarge { .. } | Self::BadReply { .. } | Self::Midway { .. } => true,
            Self::Timeout { phase, .. } => match phase {
                Phase::FirstToken | Phase::Idle | Phase::Total | Phase::Upstream => true,
                Phase::Queue | Phase::Connect => false,
            },
            Self::Registry(_)
            | Self::Read { .. }
            | Self::UnknownModel { .. }
            | Self::UnknownProvider { .. }
            | Self::KeyMissing { .. }
            | Self::Offline { .. }
            | Self::Auth { .. }
            | Self::NotFound { .. }
            | Self::RateLimited { .. }
            | Self::ContextOverflow { .. }
            | Self::Refused { .. }
            | Self::Filtered { .. }
            | Self::Overloaded { .. }
            | Self::Unsupported { .. }
            | Self::Upstream { .. }
            | Self::Unreachable { .. }
            | Self::ManagedFailed { .. }
            | Self::Client { .. } => false,
        }
    }

    /// What the provider counted of a call that failed, when it had ended its answer.
    pub fn usage(&self) -> Option<Usage> {
        if let Self::Midway { usage, .. } = self { *usage } else { None }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Midway { error, .. } => error.kind(),
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorKind::NotFound,
            Self::Registry(_)
            | Self::Read { .. }
            | Self::ContextOverflow { .. }
            | Self::Refused { .. }
            | Self::Filtered { .. }
            | Self::Unsupported { .. } => ErrorKind::Invalid,
            Self::UnknownModel { .. } | Self::UnknownProvider { .. } | Self::NotFound { .. } => ErrorKind::NotFound,
            Self::KeyMissing { .. } | Self::Auth { .. } => ErrorKind::Auth,
            Self::Timeout { .. } => ErrorKind::Timeout,
            Self::RateLimited { .. } | Self::Overloaded { .. } => ErrorKind::Busy,
            Self::Offline { .. }
            | Self::Upstream { .. }
            | Self::Unreachable { .. }
            | Self::Interrupted { .. }
            | Self::TooLarge { .. }
            | Self::BadReply { .. }
            | Self::ManagedFailed { .. } => ErrorKind::Unavailable,
            Self::Client { .. } => ErrorKind::Internal,
        }
    }

    /// The stable code; `docs/errors.md` has a section for each.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Midway { error, .. } => error.code(),
            Self::Registry(_) => "registry.invalid",
            Self::Read { .. } => "registry.unreadable",
            Self::UnknownModel { .. } => "model.unknown",
            Self::UnknownProvider { .. } => "model.unknown_provider",
            Self::KeyMissing { .. } => "model.key_missing",
            Self::Offline { .. } => "model.offline",
            Self::Timeout { .. } => "model.timeout",
            Self::Auth { .. } => "model.auth",
            Self::NotFound { .. } => "model.not_found",
            Self::RateLimited { .. } => "model.rate_limited",
            Self::ContextOverflow { .. } => "model.context_overflow",
            Self::Refused { .. } => "model.refused",
            Self::Filtered { .. } => "model.filtered",
            Self::Overloaded { .. } => "model.overloaded",
            Self::Unsupported { .. } => "model.unsupported",
            Self::Upstream { .. } => "model.upstream",
            Self::Unreachable { .. } => "model.unreachable",
            Self::Interrupted { .. } => "model.interrupted",
            Self::TooLarge { .. } => "model.too_large",
            Self::BadReply { .. } => "model.bad_reply",
            Self::ManagedFailed { .. } => "model.managed_failed",
            Self::Client { .. } => "model.client",
        }
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Midway { error, .. } => error.is_retryable(),
            Self::Timeout { .. }
            | Self::RateLimited { .. }
            | Self::Overloaded { .. }
            | Self::Upstream { .. }
            | Self::Unreachable { .. }
            | Self::Interrupted { .. }
            | Self::TooLarge { .. }
            | Self::BadReply { .. } => true,
            Self::ManagedFailed { failure, .. } => match failure {
                ManagedFailure::Exited | ManagedFailure::NotReady => true,
                ManagedFailure::CannotRun | ManagedFailure::KeepsEnding => false,
            },
            Self::Registry(_)
            | Self::Read { .. }
            | Self::UnknownModel { .. }
            | Self::UnknownProvider { .. }
            | Self::KeyMissing { .. }
            | Self::Offline { .. }
            | Self::Auth { .. }
            | Self::NotFound { .. }
            | Self::ContextOverflow { .. }
            | Self::Refused { .. }
            | Self::Filtered { .. }
            | Self::Unsupported { .. }
            | Self::Client { .. } => false,
        }
    }

    /// Whether it says that the provider serves nobody at the moment, rather than that it could not answer this question.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Midway { error, .. } => error.is_outage(),
            Self::RateLimited { .. } | Self::Overloaded { .. } | Self::Unreachable { .. } => true,
            Self::Timeout { phase, .. } => match phase {
                Phase::Connect => true,
                Phase::Queue | Phase::FirstToken | Phase::Idle | Phase::Total | Phase::Upstream => false,
            },
            Self::Upstream { status, .. } => matches!(status, 502..=504),
            Self::Registry(_)
            | Self::Read { .. }
            | Self::UnknownModel { .. }
            | Self::UnknownProvider { .. }
            | Self::KeyMissing { .. }
            | Self::Offline { .. }
            | Self::Auth { .. }
            | Self::NotFound { .. }
            | Self::ContextOverflow { .. }
            | Self::Refused { .. }
            | Self::Filtered { .. }
            | Self::Unsupported { .. }
            | Self::Interrupted { .. }
            | Self::TooLarge { .. }
            | Self::BadReply { .. }
            | Self::ManagedFailed { .. }
            | Self::Client { .. } => false,
        }
    }

    /// Whether nothing at all came back from the provider.
    pub fn is_unreached(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Timeout { phase: Phase::Connect | Phase::Queue, .. }
                | Self::Offline { .. }
                | Self::KeyMissing { .. }
                | Self::ManagedFailed { .. }
                | Self::Client { .. }
        )
    }

    /// How the call counts in events and metrics.
    pub fn outcome(&self) -> CallOutcome {
        match self {
            Self::Midway { error, .. } => error.outcome(),
            Self::Timeout { .. } => CallOutcome::Timeout,
            Self::RateLimited { .. } => CallOutcome::RateLimited,
            Self::TooLarge { .. } | Self::BadReply { .. } => CallOutcome::Invalid,
            Self::Registry(_)
            | Self::Read { .. }
            | Self::UnknownModel { .. }
            | Self::UnknownProvider { .. }
            | Self::KeyMissing { .. }
            | Self::Offline { .. }
            | Self::Auth { .. }
            | Self::NotFound { .. }
            | Self::ContextOverflow { .. }
            | Self::Refused { .. }
            | Self::Filtered { .. }
            | Self::Overloaded { .. }
            | Self::Unsupported { .. }
            | Self::Upstream { .. }
            | Self::Unreachable { .. }
            | Self::Interrupted { .. }
            | Self::ManagedFailed { .. }
            | Self::Client { .. } => CallOutcome::Error,
        }
    }

    /// When to come back, if the provider says so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Midway { error, .. } => error.retry_after(),
            Self::RateLimited { retry_after, .. } | Self::Overloaded { retry_after, .. } => *retry_after,
            Self::Registry(_)
            | Self::Read { .. }
            | Self::UnknownModel { .. }
            | Self::UnknownProvider { .. }
            | Self::KeyMissing { .. }
            | Self::Offline { .. }
            | Self::Timeout { .. }
            | Self::Auth { .. }
            | Self::NotFound { .. }
            | Self::ContextOverflow { .. }
            | Self::Refused { .. }
            | Self::Filtered { .. }
            | Self::Unsupported { .. }
            | Self::Upstream { .. }
            | Self::Unreachable { .. }
            | Self::Interrupted { .. }
            | Self::TooLarge { .. }
            | Self::BadReply { .. }
            | Self::ManagedFailed { .. }
            | Self::Client { .. } => None,
        }
    }

    /// The next step for a person.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Midway { error, .. } => return error.hint(),
            Self::Registry(_) => "`crewline registry check` lists all problems of a registry".into(),
            Self::Read { path, source } if source.kind() == io::ErrorKind::NotFound => {
                format!("`crewline init --registry {}` writes one", path.display())
            }
            Self::UnknownModel { .. } | Self::UnknownProvider { .. } => {
                "`crewline registry show` lists what the registry has".into()
            }
            Self::KeyMissing { help, .. } => help.clone(),
            Self::Offline { .. } => {
                "run without `--offline`, or put a local model into the role's chain (`crewline setup --local`)".into()
            }
            Self::Timeout { model, phase, .. } => match phase {
                Phase::Queue => format!("raise `models.{model}.limits.concurrency`, or lower `--concurrency`"),
                Phase::Connect => "check that the server is up and its `base_url` is right".into(),
                Phase::FirstToken | Phase::Idle | Phase::Total => {
                    format!("raise `models.{model}.timeouts.{}` in the registry", phase.as_str())
                }
                Phase::Upstream => "the provider is overloaded; try later, or add a model to the role's chain".into(),
            },
            Self::Auth { .. } => {
                "check the key behind `api_key` of the provider, and that it may use this model".into()
            }
            Self::NotFound { model, .. } => format!(
                "check `models.{model}.model`, and that `base_url` ends as the provider says (usually in `/v1`)"
            ),
            Self::RateLimited { model, .. } => {
                format!("lower `models.{model}.limits.concurrency`, or add a model of another provider to the chain")
            }
            Self::ContextOverflow { model, .. } => {
                format!("set `models.{model}.context_window` to what the server really has")
            }
            Self::Refused { model, .. } => {
                format!("compare `models.{model}.params` and `capabilities` with what the provider accepts")
            }
            Self::Filtered { .. } => "rephrase the task, or add a model of another provider to the role's chain".into(),
            Self::Overloaded { .. } => "try later, or add a model of another provider to the role's chain".into(),
            Self::Unsupported { .. } => "use a model of another provider for it".into(),
            Self::Unreachable { base_url, .. } => {
                format!(
                    "start the server at `{base_url}`, or correct `base_url`; `crewline doctor` checks all providers"
                )
            }
            Self::ManagedFailed { log, failure, .. } => match failure {
                ManagedFailure::CannotRun => "`crewline setup --local` installs a local model and its server".into(),
                ManagedFailure::NotReady => {
                    format!("raise `managed.start_timeout` in the registry; its log is `{}`", log.display())
                }
                ManagedFailure::Exited | ManagedFailure::KeepsEnding => format!("its log is `{}`", log.display()),
            },
            Self::Client { .. } => "install the system's root certificates (Debian: `ca-certificates`)".into(),
            Self::Read { .. }
            | Self::Upstream { .. }
            | Self::Interrupted { .. }
            | Self::TooLarge { .. }
            | Self::BadReply { .. } => return None,
        })
    }
}
