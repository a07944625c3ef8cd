//! Why a command could not be done, and what to do next.
//!
//! **Invariant:** every error has a kind (hence an exit code) and a code; the hint is shown last.

use std::{io, net::SocketAddr, path::PathBuf};

use crewline_engine::plan::Problem;
use crewline_models::{detect::NEXT_STEPS, setup::SetupError};
use crewline_types::ErrorKind;

use crate::{document::Syntax, exit::Exit, outcomes::BadLine, settings::quote};

/// What to do when there is nothing that could answer.
fn next_steps() -> String {
    let mut text = String::from("do one of these:");
    for step in NEXT_STEPS {
        text.push_str("\n  - ");
        text.push_str(step);
    }
    text.push_str("\n  - name a registry of your own with `--registry FILE`");
    text
}

/// Why a command could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The command line is wrong in a way the parser can not see.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// The next step.
        hint: &'static str,
    },
    /// A variable of the environment has a value that is not allowed.
    #[error("`{value}` is not allowed for {name}: {expected}")]
    Variable {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// Nobody said where data should live.
    #[error("there is no home directory to keep data in")]
    NoHome,
    /// No registry was named and none is in the usual places.
    #[error("there is no registry of models")]
    NoRegistry {
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// The data directory can not be made or written.
    #[error("the data directory `{}` cannot be used", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file can not be read.
    #[error("`{}` cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of a file is not what it should be.
    #[error("`{}`, line {line}: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// There is no such memory.
    #[error("project `{project}` has no memory `{id}`")]
    NoMemory {
        /// What was given.
        id: String,
        /// Where it was looked for.
        project: String,
    },
    /// A result does not meet the measurable criteria of its task.
    #[error("the result of `{task}` does not meet its criteria: {}", problems.join("; "))]
    Criteria {
        /// The task.
        task: String,
        /// What is not met, a line each.
        problems: Vec<String>,
    },
    /// A file can not be written.
    #[error("`{}` cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The output directory can not be written.
    #[error("the output directory `{}` cannot be written", path.display())]
    Out {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A plan file is neither JSON nor YAML.
    #[error("plan `{}` cannot be read: {}", .0.name, .0.message)]
    Syntax(Box<Syntax>),
    /// A file of another program can not be made into a registry.
    #[error("`{}` cannot be made into a registry: {message}", path.display())]
    Import {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// A plan file is not a plan we run.
    #[error("plan `{name}` is not valid: {} {}", problems.len(), if problems.len() == 1 { "problem" } else { "problems" })]
    Plan {
        /// The file.
        name: String,
        /// All that is wrong.
        problems: Vec<Problem>,
    },
    /// A file of recorded outcomes has lines that can not be used.
    #[error("outcomes `{}` cannot be used: {} {}", path.display(), problems.len(), if problems.len() == 1 { "bad line" } else { "bad lines" })]
    Outcomes {
        /// The file.
        path: PathBuf,
        /// What is wrong, in the order of the file.
        problems: Vec<BadLine>,
    },
    /// A file of recorded outcomes has no such split.
    #[error("outcomes `{}` have no split `{name}`", path.display())]
    NoSplit {
        /// The file.
        path: PathBuf,
        /// The split.
        name: String,
        /// The splits there are, and how many questions each has.
        there: String,
    },
    /// A template, or what should fill it, is not valid.
    #[error("template `{name}` cannot be used: {} {}", problems.len(), if problems.len() == 1 { "problem" } else { "problems" })]
    Template {
        /// Its name or file.
        name: String,
        /// All that is wrong.
        problems: Vec<Problem>,
    },
    /// There is no such template.
    #[error("there is no template `{name}`")]
    NoTemplate {
        /// What was asked for.
        name: String,
        /// Those that are there.
        known: Vec<String>,
    },
    /// A file is there and would be overwritten.
    #[error("`{}` exists", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Nothing that could answer was found.
    #[error("found no model to use on this machine")]
    NothingFound,
    /// A question would have to be asked.
    #[error("{what} needs a yes")]
    NeedsYes {
        /// What.
        what: &'static str,
    },
    /// An address can not be listened on.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The API would be open to everyone.
    #[error("{addr} is not a loopback address, and there is no key")]
    PublicBind {
        /// The address.
        addr: SocketAddr,
    },
    /// The database is a file, and this needs one that processes share.
    #[error("`{database}` cannot be shared with other processes")]
    NotShared {
        /// Where it is.
        database: String,
    },
    /// The system refused a resource.
    #[error("cannot {what}")]
    System {
        /// A verb and its object.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Metrics could not be set up.
    #[error("metrics cannot be recorded: {message}")]
    Metrics {
        /// Why.
        message: String,
    },
    /// A result could not be turned into text.
    #[error("the result cannot be written as text: {message}")]
    Encode {
        /// Why.
        message: String,
    },
    /// Stdout failed; a broken pipe is no news.
    #[error("cannot write to stdout")]
    Stdout(#[source] io::Error),
    /// The run ended, but its events did not say how.
    #[error("the events of run `{run}` ended too early")]
    Lost {
        /// The run.
        run: String,
    },
    /// A graph that can not run, though its plan was checked.
    #[error(transparent)]
    Graph(#[from] crewline_engine::schedule::Cycle),
    /// The runtime failed.
    #[error(transparent)]
    Runtime(#[from] crewline_runtime::Error),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] crewline_store::Error),
    /// The registry or a model failed.
    #[error(transparent)]
    Models(#[from] crewline_models::Error),
    /// Memory failed.
    #[error(transparent)]
    Memory(#[from] crewline_memory::Error),
    /// The local parts could not be installed.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The server failed.
    #[error(transparent)]
    Api(#[from] crewline_api::Error),
    /// Tools or a workspace failed.
    #[error(transparent)]
    Tools(#[from] crewline_tools::Error),
    /// The tool needs a run.
    #[error("`{name}` can only be called in a run")]
    RunTool {
        /// What was given.
        name: String,
    },
    /// There is no such tool.
    #[error("there is no tool `{name}`")]
    NoTool {
        /// What was given.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
}

impl Error {
    /// How the process ends.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage { .. } => Exit::Usage,
            Self::Stdout(source) if source.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
            _ => self.kind().into(),
        }
    }

    /// What kind of failure this is.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Usage { .. }
            | Self::Variable { .. }
            | Self::NoHome
            | Self::NoRegistry { .. }
            | Self::DataDir { .. }
            | Self::Read { .. }
            | Self::Line { .. }
            | Self::Write { .. }
            | Self::Out { .. }
            | Self::Syntax(_)
            | Self::Import { .. }
            | Self::Plan { .. }
            | Self::Outcomes { .. }
            | Self::NoSplit { .. }
            | Self::Template { .. }
            | Self::Criteria { .. }
            | Self::NothingFound
            | Self::NeedsYes { .. }
            | Self::PublicBind { .. }
            | Self::RunTool { .. }
            | Self::NotShared { .. } => ErrorKind::Invalid,
            Self::NoMemory { .. } | Self::NoTemplate { .. } | Self::NoTool { .. } => ErrorKind::NotFound,
            Self::Exists { .. } => ErrorKind::Conflict,
            Self::Bind { .. } => ErrorKind::Unavailable,
            Self::System { .. } | Self::Metrics { .. } | Self::Encode { .. } | Self::Stdout(_) | Self::Lost { .. } => {
                ErrorKind::Internal
            }
            Self::Graph(error) => error.kind(),
            Self::Runtime(error) => error.kind(),
            Self::Store(error) => error.kind(),
            // A registry that was named and is not there is a matter of configuration.
            Self::Models(error @ crewline_models::Error::Read { .. }) => match error.kind() {
                ErrorKind::NotFound => ErrorKind::Invalid,
                kind => kind,
            },
            Self::Models(error) => error.kind(),
            Self::Memory(error) => error.kind(),
            Self::Setup(error) => error.kind(),
            Self::Api(error) => error.kind(),
            Self::Tools(error) => error.kind(),
        }
    }

    /// The stable code; `docs/errors.md` has a section for each.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Usage { .. } => "cli.usage",
            Self::Variable { .. } => "cli.variable",
            Self::NoHome => "cli.no_home",
            Self::NoRegistry { .. } => "registry.missing",
            Self::DataDir { .. } => "cli.data_dir",
            Self::Read { .. } => "cli.read",
            Self::Line { .. } => "cli.line",
            Self::NoMemory { .. } => "cli.no_memory",
            Self::Criteria { .. } => "cli.criteria",
            Self::Write { .. } => "cli.write",
            Self::Out { .. } => "cli.out",
            Self::Syntax(_) => "plan.syntax",
            Self::Import { .. } => "registry.import",
            Self::Plan { .. } => "plan.invalid",
            Self::Outcomes { .. } => "outcomes.invalid",
            Self::NoSplit { .. } => "outcomes.no_split",
            Self::Template { .. } => "template.invalid",
            Self::NoTemplate { .. } => "template.not_found",
            Self::Exists { .. } => "cli.exists",
            Self::NothingFound => "init.nothing_found",
            Self::NeedsYes { .. } => "cli.needs_yes",
            Self::Bind { .. } => "api.bind",
            Self::PublicBind { .. } => "api.public_bind",
            Self::NotShared { .. } => "worker.not_shared",
            Self::System { .. } => "cli.system",
            Self::Metrics { .. } => "cli.metrics",
            Self::Encode { .. } => "cli.encode",
            Self::Stdout(_) => "cli.stdout",
            Self::Lost { .. } => "run.events_lost",
            Self::Graph(error) => error.code(),
            Self::Runtime(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Models(error) => error.code(),
            Self::Memory(error) => error.code(),
            Self::Setup(error) => error.code(),
            Self::Api(error) => error.code(),
            Self::Tools(error) => error.code(),
            Self::RunTool { .. } => "tool.in_run",
            Self::NoTool { .. } => "tool.unknown",
        }
    }

    /// The next step for a person, where there is one.
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Usage { hint, .. } => (*hint).to_owned(),
            Self::Variable { name, .. } => format!("correct {name}, or unset it"),
            Self::NoHome => "name one with `--data-dir DIR` or CREWLINE_DATA_DIR".into(),
            Self::NoRegistry { looked } => {
                let looked: Vec<String> = looked.iter().map(|path| format!("`{}`", path.display())).collect();
                format!("{}\nlooked for {}", next_steps(), looked.join(", "))
            }
            Self::NothingFound => next_steps(),
            Self::DataDir { .. } => "name another with `--data-dir DIR`".into(),
            Self::Out { .. } => "name another with `--out DIR`".into(),
            Self::Syntax(_) | Self::Plan { .. } => {
                "a plan is {\"goal\", \"tasks\": [{\"id\", \"title\", \"description\", \"role\", \"depends_on\": […]}]}"
                    .into()
            }
            Self::Outcomes { .. } => {
                "a line is {\"id\", \"text\", \"task\", \"split\", \"outcomes\": {MODEL: {\"correct\": 0 to 1, \"cost\": DOLLARS}}}".into()
            }
            Self::NoSplit { there, .. } => format!("there are: {there}; `--train-split` and `--test-split` name others"),
            Self::Import { .. } => "it must be the configuration of a LiteLLM proxy, with a `model_list`".into(),
            Self::Template { name, .. } => format!("`crewline template show {}` prints its parameters", quote(name)),
            Self::NoTemplate { known, .. } => format!("there are {}; a file is named by its path", known.join(", ")),
            Self::Exists { .. } => "`--force` overwrites it, `--registry FILE` names another".into(),
            Self::NeedsYes { .. } => "add `--yes`".into(),
            Self::Bind { .. } => "another process may use it; `--addr` and `--metrics-addr` name another".into(),
            Self::PublicBind { addr } => {
                format!("make one with `crewline keys create NAME --scope run`, or listen on 127.0.0.1:{}", addr.port())
            }
            Self::NotShared { .. } => "name a PostgreSQL database with `--database URL`".into(),
            Self::Lost { run } => format!("`crewline show {run}` shows what is recorded"),
            Self::Models(crewline_models::Error::Registry(_)) => {
                "`crewline registry schema` prints all that is allowed".into()
            }
            Self::Models(crewline_models::Error::Read { path, source }) if source.kind() == io::ErrorKind::NotFound => {
                format!("`crewline init --registry {}` writes one", quote(&path.display().to_string()))
            }
            Self::Runtime(error) => return error.hint(),
            Self::Models(error) => return error.hint(),
            Self::Setup(error) => return Some(error.hint()),
            Self::NoMemory { .. } => {
                "`crewline memory ls` lists them; another project is named with `--project`".into()
            }
            Self::Criteria { .. } => "mend the result, or complete the task without `--validate`".into(),
            Self::Line { .. } => "each line is one JSON object; `--help` shows its fields".into(),
            Self::Read { .. }
            | Self::Write { .. }
            | Self::System { .. }
            | Self::Metrics { .. }
            | Self::Encode { .. }
            | Self::Stdout(_)
            | Self::Graph(_)
            | Self::Store(_)
            | Self::Api(_) => return None,
            Self::Memory(error) => return error.hint().map(str::to_owned),
            Self::Tools(error) => return error.hint().map(str::to_owned),
            Self::RunTool { name } => format!("`crewline tools show {name}` shows what a specialist is told of it"),
            Self::NoTool { known, .. } => format!("there are {}", known.join(", ")),
        })
    }

    /// Each thing that is wrong with a plan.
    pub(crate) fn plan_problems(&self) -> &[Problem] {
        match self {
            Self::Plan { problems, .. }
            | Self::Template { problems, .. }
            | Self::Runtime(crewline_runtime::Error::Plan { problems }) => problems,
            _ => &[],
        }
    }

    /// Each line that is wrong in a file of outcomes.
    pub(crate) fn bad_lines(&self) -> &[BadLine] {
        match self {
            Self::Outcomes { problems, .. } => problems,
            _ => &[],
        }
    }

    /// Whether there is nothing left to say.
    pub(crate) fn is_quiet(&self) -> bool {
        matches!(self, Self::Stdout(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_pipe_is_no_error() {
        let error = Error::Stdout(io::ErrorKind::BrokenPipe.into());
        assert!(error.is_quiet());
        assert_eq!(error.exit(), Exit::Ok);
        let error = Error::Stdout(io::ErrorKind::StorageFull.into());
        assert!(!error.is_quiet());
        assert_eq!(error.exit(), Exit::Failed);
    }

    #[test]
    fn a_missing_registry_says_exactly_what_to_do() {
        let error = Error::NoRegistry { looked: vec!["crewline.yaml".into()] };
        assert_eq!(error.exit(), Exit::Invalid);
        let hint = error.hint().unwrap();
        for step in ["OPENAI_API_KEY", "OPENROUTER_API_KEY", "crewline init", "Ollama", "crewline setup --local"] {
            assert!(hint.contains(step), "{step} is missing in {hint}");
        }
        assert!(hint.contains("looked for `crewline.yaml`"));
    }
}
