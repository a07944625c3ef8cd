//! `crewline doctor`: checks that everything a run needs is there.
//!
//! **Invariant:** a check changes nothing: no database is made, no managed server is started; a server of tools that is a program is
//! started, asked and ended.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use crewline_memory::{Embedder, Reranker};
use crewline_models::{Mode, Models, Options, ProviderConfig, Registry, mcp::McpError, tokens::Tokenizer};
use crewline_store::Store;
use crewline_tools::{Network, Runner};
use futures::future::join_all;
use serde::Serialize;

use super::remote_tools;
use crate::{
    app,
    console::Console,
    error::Error,
    exit::Exit,
    machine,
    settings::{Reranking, Settings, process_env},
    view::{Align, Style, clean, table},
};

/// How long a provider may take to answer.
const PROVIDER_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a reranker may take to be loaded.
const RERANKER_TIME_MAX: Duration = Duration::from_secs(30);
/// Free bytes below which a run may fail soon.
const DISK_LOW: u64 = 1 << 30;
/// Free bytes below which a run will fail.
const DISK_FULL: u64 = 64 << 20;

/// What `crewline doctor` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline doctor
  crewline doctor -o json | jq '.[] | select(.state != \"ok\")'

Exits with 1 when something is broken.")]
pub(crate) struct DoctorArgs {}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// As it should be.
    Ok,
    /// Runs work, but not as well as they could.
    Warning,
    /// Runs will fail.
    Broken,
}

#[derive(Debug, Serialize)]
struct Check {
    name: String,
    state: State,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Check {
    fn new(name: impl Into<String>, state: State, detail: impl Into<String>) -> Self {
        Self { name: name.into(), state, detail: detail.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }
}

/// Runs the command.
pub(crate) async fn run(_: DoctorArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut checks = vec![data_dir(&settings.data_dir), disk(&settings.data_dir), database(settings).await];
    match app::find_registry(settings).and_then(|path| Ok(Registry::load(&path, &process_env)?)) {
        Ok(registry) => {
            checks.push(registry_check(&registry));
            checks.push(commands(&registry));
            checks.extend(tokenizers(&registry));
            let registry = Arc::new(registry);
            checks.extend(providers(Arc::clone(&registry), settings).await);
            checks.extend(remote_tools::look(&registry, settings).await.into_iter().map(tool_server));
        }
        Err(error) => checks.push(broken("registry", &error)),
    }
    checks.push(embedding(&settings.data_dir));
    checks.push(reranking(settings).await);
    checks.push(confinement().await);
    checks.push(Check::new("machine", State::Ok, machine::lines(&machine::look().await?).join("; ")));
    console.list(&checks, |style| rows(&checks, style))?;
    for check in checks.iter().filter(|check| check.state != State::Ok) {
        if let Some(hint) = &check.hint {
            console.hint(&format!("{}: {hint}", check.name));
        }
    }
    let is_broken = checks.iter().any(|check| check.state == State::Broken);
    Ok(if is_broken { Exit::Failed } else { Exit::Ok })
}

/// Whether commands of tools can be confined.
async fn confinement() -> Check {
    let Ok(helper) = std::env::current_exe() else {
        return Check::new("confinement", State::Warning, "this program cannot find itself");
    };
    let found = Runner::find(&helper).await.confinement();
    let missing = found.missing(Network::None);
    if missing.is_empty() {
        return Check::new("confinement", State::Ok, found.to_string());
    }
    Check::new("confinement", State::Warning, format!("{found}; it has no {}", missing.join(", no ")))
        .hint("commands of tools are run only when a person agrees, or the policy says `unconfined: run`".to_owned())
}

fn broken(name: impl Into<String>, error: &Error) -> Check {
    let text = error.to_string();
    let cause = std::error::Error::source(error).map(ToString::to_string).filter(|cause| !text.contains(cause));
    let detail = cause.map_or_else(|| text.clone(), |cause| format!("{text}: {cause}"));
    Check::new(name, State::Broken, detail).hint(error.hint())
}

fn data_dir(dir: &Path) -> Check {
    match crate::out::check_writable(dir) {
        Ok(()) => Check::new("data directory", State::Ok, dir.display().to_string()),
        Err(source) => broken("data directory", &Error::DataDir { path: dir.to_owned(), source }),
    }
}

fn disk(dir: &Path) -> Check {
    let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("."));
    let Ok(stat) = rustix::fs::statvfs(existing) else {
        return Check::new("disk space", State::Warning, "unknown");
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let detail = format!("{} MB free", free / 1_000_000);
    let state = match free {
        ..DISK_FULL => State::Broken,
        DISK_FULL..DISK_LOW => State::Warning,
        DISK_LOW.. => State::Ok,
    };
    Check::new("disk space", state, detail).hint("free some space, or use another `--data-dir`".to_owned())
}

async fn database(settings: &Settings) -> Check {
    if settings.database.is_none() && !settings.data_dir.join("crewline.db").exists() {
        return Check::new("database", State::Ok, "will be made by the first run");
    }
    match Store::open(&settings.database_url()).await {
        Ok(store) => Check::new("database", State::Ok, format!("{:?}", store.backend()).to_lowercase()),
        Err(error) => broken("database", &error.into()),
    }
}

fn registry_check(registry: &Registry) -> Check {
    match registry.warnings() {
        [] => Check::new("registry", State::Ok, registry.name()),
        [first, rest @ ..] => {
            let more = if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
            let detail = format!("{}:{}:{}: {}{more}", registry.name(), first.line, first.column, first.message);
            Check::new("registry", State::Warning, detail).hint(first.help.clone())
        }
    }
}

/// Whether the rules of commands and hosts can be read.
fn commands(registry: &Registry) -> Check {
    match crewline_runtime::check_rules(registry) {
        Ok(()) => Check::new("rules of roles", State::Ok, "commands and hosts can be read"),
        Err(error) => broken("rules of roles", &crewline_models::Error::from(error).into()),
    }
}

/// Whether the files of tokenizers can be used, when the registry names some.
fn tokenizers(registry: &Registry) -> Option<Check> {
    let files = registry.models().filter(|it| matches!(it.tokenizer, Tokenizer::File(_))).count();
    match registry.check_tokenizers() {
        Ok(()) if files == 0 => None,
        Ok(()) => Some(Check::new("tokenizers", State::Ok, format!("{files} models count by their own file"))),
        Err(error) => Some(broken("tokenizers", &crewline_models::Error::from(error).into())),
    }
}

/// Whether a server of tools answers.
fn tool_server((name, found): (String, Result<(usize, usize), McpError>)) -> Check {
    match found {
        Ok((tools, 0)) => Check::new(name, State::Ok, format!("offers {tools} tools")),
        Ok((tools, refused)) => {
            Check::new(name, State::Warning, format!("offers {tools} tools; {refused} more can not be used"))
                .hint("`crewline tools ls` says why".to_owned())
        }
        Err(error) => Check::new(name, State::Broken, error.to_string()).hint(error.hint().to_owned()),
    }
}

async fn providers(registry: Arc<Registry>, settings: &Settings) -> Vec<Check> {
    let options = Options { data_dir: settings.data_dir.clone(), mode: Mode::Online, ..Options::default() };
    let models = match Models::new(registry.clone(), options) {
        Ok(models) => models,
        Err(error) => return vec![broken("providers", &error.into())],
    };
    join_all(registry.providers().map(|config| provider(&models, config))).await
}

async fn provider(models: &Models, config: &ProviderConfig) -> Check {
    let name = format!("provider {}", clean(&config.name));
    if let Some((reason, help)) = config.key_problem() {
        return Check::new(name, State::Broken, reason).hint(help.to_owned());
    }
    if config.managed.is_some() {
        return Check::new(name, State::Ok, "started when it is needed");
    }
    match tokio::time::timeout(PROVIDER_TIME_MAX, models.list(&config.name)).await {
        Ok(Ok(listed)) => {
            Check::new(name, State::Ok, format!("{} offers {} models", clean(&config.base_url), listed.len()))
        }
        // Chat may work where nothing lists models.
        Ok(Err(error @ (crewline_models::Error::NotFound { .. } | crewline_models::Error::BadReply { .. }))) => {
            Check::new(name, State::Warning, format!("it answers, but does not list its models: {error}"))
        }
        Ok(Err(error)) => broken(name, &error.into()),
        Err(_) => Check::new(name, State::Broken, format!("no answer within {PROVIDER_TIME_MAX:?}"))
            .hint("check that the server is up and its `base_url` is right".to_owned()),
    }
}

fn embedding(dir: &Path) -> Check {
    match Embedder::find(dir) {
        Ok(Some(embedder)) => Check::new("embedding model", State::Ok, embedder.model()),
        Ok(None) => Check::new("embedding model", State::Warning, "not there: memory is searched by words only")
            .hint("`crewline setup --local` installs one".to_owned()),
        Err(error) => broken("embedding model", &error.into()),
    }
}

/// Whether a reranker is there, and can be loaded: that it can is known only then.
async fn reranking(settings: &Settings) -> Check {
    const NAME: &str = "reranker";
    let found = match &settings.reranker {
        Reranking::Off => return Check::new(NAME, State::Ok, "turned off"),
        Reranking::Named(folder) => Reranker::open(folder, &settings.data_dir).map(Some),
        Reranking::IfThere => Reranker::find(&settings.data_dir),
    };
    let checked = match found {
        Ok(None) => return Check::new(NAME, State::Ok, "none: memories keep the order of the search"),
        Ok(Some(reranker)) => {
            let (reranker, begun) = (reranker.patient_for(RERANKER_TIME_MAX), Instant::now());
            let checked = reranker
                .check()
                .await
                .map(|()| format!("{} is loaded in {} ms", clean(reranker.name()), begun.elapsed().as_millis()));
            app::close_models(None, Some(reranker)).await;
            checked
        }
        Err(error) => Err(error),
    };
    match (checked, &settings.reranker) {
        (Ok(detail), _) => Check::new(NAME, State::Ok, detail),
        // Runs go on without the one that nobody has named.
        (Err(error), Reranking::IfThere) => Check { state: State::Warning, ..broken(NAME, &error.into()) },
        (Err(error), Reranking::Named(_) | Reranking::Off) => broken(NAME, &error.into()),
    }
}

fn rows(checks: &[Check], style: Style) -> String {
    let rows: Vec<Vec<String>> = checks
        .iter()
        .map(|check| {
            let state = match check.state {
                State::Ok => "ok",
                State::Warning => "warning",
                State::Broken => "broken",
            };
            vec![check.name.clone(), state.to_owned(), clean(&check.detail).into_owned()]
        })
        .collect();
    table(style, &[("CHECK", Align::Left), ("STATE", Align::Left), ("DETAIL", Align::Left)], &rows)
}
