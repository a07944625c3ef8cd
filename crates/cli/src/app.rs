//! Opens what a command needs: data directory, registry, database, models, memory, and the runtime on top.
//!
//! **Invariant:** this is the one place that wires the rooms together.
//! **Invariant:** a command that only reads needs no registry, and never loads an embedding model.

use std::{
    fs::DirBuilder,
    io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crewline_api::{Limits, MetricsText};
use crewline_memory::{Embedder, Qdrant, QdrantOptions, Reranker, Rules, Weights};
use crewline_models::{
    Mode, Models, Options, Registry, Reloader,
    requests::{Detail, Redactor, RequestLog},
};
use crewline_runtime::{Config, Dispatch, Handle, MemoryConfig, ToolsConfig, check_rules};
use crewline_store::{Backend, Store};
use crewline_types::{IdSource, RunId, SystemClock};
use rustix::process::{Resource, getrlimit};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinSet,
};

use crate::{
    console::Console,
    error::Error,
    metrics::Recorder,
    reload,
    settings::{Reranking, Settings, process_env},
    signals::hangup,
};

/// How long a process may take to save what is left once its work is done.
pub(crate) const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the thread of a model of memory may take to end; its library must not be torn down under it.
const MODEL_TIME_MAX: Duration = Duration::from_secs(2);
/// How long the database may take to put its log away.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(5);

/// Clients that may wait for being accepted; who comes beyond tries again after a second.
const BACKLOG: u32 = 1_024;

/// The registry of a command that reads only: it names no model that could be called.
const INERT_REGISTRY: &str = "version: 1
providers:
  none: {type: openai_compatible, base_url: \"http://127.0.0.1:9/v1\"}
models:
  none: {provider: none, model: none, context_window: 1024}
roles:
  default: {chain: [none]}
";

/// An executor; only commands that wait for something make one.
///
/// One thread carries a crew: waiting is most of its work, and the database and the embedder have threads of their own.
pub(crate) fn executor() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System { what: "start the executor", source })
}

/// The part a process plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Part {
    /// It runs its own crew.
    #[default]
    Alone,
    /// It manages runs for others, who may work on them from other machines.
    Server,
    /// It works on the runs of servers, or gives them one.
    Worker,
}

/// The runtime and what must outlive it.
pub(crate) struct App {
    /// The runtime.
    pub(crate) handle: Handle,
    /// The database beneath it.
    pub(crate) store: Store,
    embedder: Option<Embedder>,
    reranker: Option<Reranker>,
}

/// Where the runs of a database are locked: beside its file, for processes with other data folders may share it.
fn locks_of(store: &Store, settings: &Settings) -> PathBuf {
    let file = store.file().and_then(|file| file.canonicalize().ok());
    let folder = file.as_deref().and_then(Path::parent).unwrap_or(&settings.data_dir);
    folder.join("locks")
}

impl App {
    /// Everything a run needs.
    pub(crate) async fn start(settings: &Settings, registry: Arc<Registry>, mode: Mode) -> Result<Self, Error> {
        Self::start_as(settings, registry, mode, Part::default()).await
    }

    /// Everything a part in a larger crew needs.
    pub(crate) async fn start_as(
        settings: &Settings,
        registry: Arc<Registry>,
        mode: Mode,
        part: Part,
    ) -> Result<Self, Error> {
        let embedder = Embedder::find(&settings.data_dir)?;
        let qdrant = qdrant(settings, embedder.as_ref())?;
        let (weights, rules) = (weights(settings)?, rules(settings)?);
        let memory = MemoryConfig { embedder, qdrant, reranker: reranker(settings)?, weights, rules };
        Self::with(settings, registry, mode, memory, part).await
    }

    /// What a look at the database needs.
    pub(crate) async fn read_only(settings: &Settings) -> Result<Self, Error> {
        let registry = Registry::parse(INERT_REGISTRY, "none", &|_| None).map_err(crewline_models::Error::from)?;
        Self::with(settings, Arc::new(registry), Mode::Offline, MemoryConfig::default(), Part::default()).await
    }

    /// What calls of tools by hand need.
    pub(crate) async fn for_tools(settings: &Settings, registry: Arc<Registry>, mode: Mode) -> Result<Self, Error> {
        Self::with(settings, registry, mode, MemoryConfig::default(), Part::default()).await
    }

    async fn with(
        settings: &Settings,
        registry: Arc<Registry>,
        mode: Mode,
        memory: MemoryConfig,
        part: Part,
    ) -> Result<Self, Error> {
        // Models and the database both speak TLS; a second install is refused and means nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        make_data_dir(&settings.data_dir)?;
        let store = Store::open(&settings.database_url()).await?;
        if part == Part::Worker && store.backend() == Backend::Sqlite {
            return Err(Error::NotShared { database: store.target().to_owned() });
        }
        let requests = request_log(settings)?;
        let models = Models::new(
            registry,
            Options {
                data_dir: settings.data_dir.clone(),
                guard: std::env::current_exe().ok(),
                mode,
                env: Some(process_env),
                requests,
            },
        )?;
        let reloader = match part {
            Part::Alone => None,
            Part::Server | Part::Worker => {
                Some(Reloader::new(models.clone(), find_registry(settings)?, process_env, check_rules))
            }
        };
        let (embedder, reranker) = (memory.embedder.clone(), memory.reranker.clone());
        let handle = Handle::start(Config {
            locks: match store.backend() {
                Backend::Sqlite => Some(locks_of(&store, settings)),
                Backend::Postgres => None,
            },
            store: store.clone(),
            models,
            reloader,
            memory,
            clock: Arc::new(SystemClock),
            node: node(),
            prompts: settings.prompts_dir(),
            tools: ToolsConfig { folder: settings.data_dir.join("workspaces"), helper: std::env::current_exe().ok() },
            dispatch: match (part, store.backend()) {
                (Part::Server | Part::Worker, Backend::Postgres) => Dispatch::Queue,
                (Part::Alone, _) | (Part::Server | Part::Worker, Backend::Sqlite) => Dispatch::Local,
            },
            limits: settings.limits(),
        })
        .await?;
        Ok(Self { handle, store, embedder, reranker })
    }

    /// Whether memory has vectors.
    pub(crate) fn has_vectors(&self) -> bool {
        self.embedder.is_some()
    }

    /// Whether other machines may share the database.
    pub(crate) fn is_shared(&self) -> bool {
        self.store.backend() == Backend::Postgres
    }

    /// Saves what is left and stops what was started.
    pub(crate) async fn stop(self) {
        self.handle.shutdown(SHUTDOWN_TIME_MAX).await;
        close_models(self.embedder, self.reranker).await;
        self.store.close(CLOSE_TIME_MAX).await;
    }
}

/// Ends the threads of the models of memory before the process ends.
pub(crate) async fn close_models(embedder: Option<Embedder>, reranker: Option<Reranker>) {
    // The waits block; nothing else is left to do on this executor.
    let closed = tokio::task::spawn_blocking(move || {
        let embedder = embedder.is_none_or(|it| it.close(MODEL_TIME_MAX));
        reranker.is_none_or(|it| it.close(MODEL_TIME_MAX)) && embedder
    });
    if !matches!(closed.await, Ok(true)) {
        tracing::debug!("the thread of a model did not end in time");
    }
}

/// What reads the best of memory again. One that is named must be there; of the one in the data directory only a warning says
/// that it can not be used.
pub(crate) fn reranker(settings: &Settings) -> Result<Option<Reranker>, Error> {
    let found = match &settings.reranker {
        Reranking::Off => None,
        Reranking::Named(folder) => Some(Reranker::open(folder, &settings.data_dir)?),
        Reranking::IfThere => Reranker::find(&settings.data_dir).unwrap_or_else(|error| {
            tracing::warn!(error.code = error.code(), %error, "memories are not reranked");
            None
        }),
    };
    Ok(match (found, settings.reranker_read) {
        (Some(reranker), Some(count)) => Some(reranker.reading(count)),
        (found, _) => found,
    })
}

/// The Qdrant server that is configured, if it can be used.
pub(crate) fn qdrant(settings: &Settings, embedder: Option<&Embedder>) -> Result<Option<Qdrant>, Error> {
    let Some(url) = &settings.qdrant else { return Ok(None) };
    let Some(embedder) = embedder else {
        tracing::warn!("there is no embedding model, so qdrant is not used");
        return Ok(None);
    };
    let options = QdrantOptions {
        url: url.clone(),
        api_key: settings.qdrant_key.clone(),
        model: embedder.model().to_owned(),
        dimensions: embedder.dimensions(),
    };
    Ok(Some(Qdrant::new(options)?))
}

/// What memory ranks by: `memory-weights.json` of the data directory, else the shipped weights.
pub(crate) fn weights(settings: &Settings) -> Result<Weights, Error> {
    let path = settings.data_dir.join("memory-weights.json");
    if path.is_file() { read_weights(&path) } else { Ok(Weights::default()) }
}

/// What memory keeps: `memory-rules.json` of the data directory, else the shipped rules.
pub(crate) fn rules(settings: &Settings) -> Result<Rules, Error> {
    let path = settings.data_dir.join("memory-rules.json");
    if !path.is_file() {
        return Ok(Rules::default());
    }
    let text = std::fs::read_to_string(&path).map_err(|source| Error::Read { path, source })?;
    Ok(Rules::parse(&text)?)
}

/// The weights of a file.
pub(crate) fn read_weights(path: &Path) -> Result<Weights, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(Weights::parse(&text)?)
}

/// The log of requests, when `CREWLINE_REQUESTS__LOG` asks for one: `requests.jsonl` beside the other logs.
fn request_log(settings: &Settings) -> Result<Option<Arc<RequestLog>>, Error> {
    const NAME: &str = "CREWLINE_REQUESTS__LOG";
    let value = process_env(NAME).unwrap_or_default();
    let detail = match value.as_str() {
        "" | "off" => return Ok(None),
        "metadata" => Detail::Metadata,
        "full" => Detail::Full,
        _ => return Err(Error::Variable { name: NAME, value, expected: "give one of off, metadata, full".into() }),
    };
    let patterns = match process_env("CREWLINE_REQUESTS__REDACT").filter(|it| !it.is_empty()) {
        Some(path) => {
            let path = PathBuf::from(path);
            let text = std::fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
            Some((path, text))
        }
        None => None,
    };
    let lines = || patterns.iter().flat_map(|(_, text)| text.lines()).map(str::trim);
    let is_pattern = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let redactor = Redactor::new(lines().filter(is_pattern)).map_err(|bad| {
        let line = lines().position(|line| line == bad.pattern).unwrap_or_default() + 1;
        let name = patterns.as_ref().map(|(path, _)| path.display().to_string()).unwrap_or_default();
        let message = format!("`{name}`, line {line}: {bad}");
        Error::Usage { message, hint: "write one regular expression a line; `#` begins a comment" }
    })?;
    let path = settings.data_dir.join("logs").join("requests.jsonl");
    let log = RequestLog::open(&path, detail, redactor).map_err(|source| Error::Write { path, source })?;
    Ok(Some(Arc::new(log)))
}

/// Names one start of one process, for leases: `host-random:pid`. Containers may share both the host's name and the pid.
fn node() -> String {
    let system = rustix::system::uname();
    let start = RunId::new(&mut IdSource::random());
    format!("{}-{start}:{}", system.nodename().to_string_lossy(), std::process::id())
}

/// Makes the data directory, for its owner only.
pub(crate) fn make_data_dir(dir: &Path) -> Result<(), Error> {
    let error = |source: io::Error| Error::DataDir { path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(error)
}

/// The registry file that holds: the named one, else the first that exists.
pub(crate) fn find_registry(settings: &Settings) -> Result<PathBuf, Error> {
    if let Some(path) = &settings.registry {
        return Ok(path.clone());
    }
    let candidates = settings.registry_candidates();
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(Error::NoRegistry { looked: candidates }),
    }
}

/// The registry that holds; its oddities are shown once.
pub(crate) fn load_registry(settings: &Settings, console: &Console) -> Result<Arc<Registry>, Error> {
    let registry = Registry::load(&find_registry(settings)?, &process_env)?;
    check_rules(&registry).map_err(crewline_models::Error::from)?;
    for warning in registry.warnings() {
        if console.is_quiet {
            break;
        }
        let place = format!("{}:{}:{}", registry.name(), warning.line, warning.column);
        let help = warning.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
        console.warn(&format!("{place}: {}{help}", warning.message));
    }
    Ok(Arc::new(registry))
}

/// Listens on `addr`.
pub(crate) fn bind(addr: SocketAddr) -> Result<TcpListener, Error> {
    let listen = || {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Else the address of a server that has just ended is taken for a while.
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| Error::Bind { addr, source })
}

/// What a server of this process takes on.
pub(crate) fn limits() -> Limits {
    Limits::within(getrlimit(Resource::Nofile).current)
}

/// Health and metrics: recorded when wanted, served beside the work until dropped.
pub(crate) struct Ops {
    listener: Option<TcpListener>,
    recorder: Option<Arc<Recorder>>,
    tasks: JoinSet<()>,
}

impl Ops {
    /// Takes the address, if there is one, and records metrics then. Do this before the runtime starts.
    pub(crate) fn open(addr: Option<SocketAddr>, console: &Console) -> Result<Self, Error> {
        match addr {
            Some(_) => Self::recording(addr, console),
            None => Ok(Self { listener: None, recorder: None, tasks: JoinSet::new() }),
        }
    }

    /// Records metrics in any case.
    pub(crate) fn recording(addr: Option<SocketAddr>, console: &Console) -> Result<Self, Error> {
        let listener = match addr {
            Some(addr) => {
                let listener = bind(addr)?;
                let at = listener.local_addr().unwrap_or(addr);
                console.note(&format!("metrics at http://{at}/metrics"));
                Some(listener)
            }
            None => None,
        };
        Ok(Self { listener, recorder: Some(Arc::new(Recorder::install()?)), tasks: JoinSet::new() })
    }

    /// What `/metrics` answers.
    pub(crate) fn metrics(&self) -> Option<MetricsText> {
        self.recorder.as_ref().map(|recorder| recorder.text())
    }

    /// Begins to take the registry file over whenever it changes.
    pub(crate) fn keep_registry(&mut self, handle: &Handle) -> Result<(), Error> {
        let hangup = hangup()?;
        self.tasks.spawn(reload::keep(handle.clone(), hangup));
        Ok(())
    }

    /// Begins to keep histograms small, and to answer where there is an address.
    pub(crate) fn start(&mut self, handle: &Handle) {
        if let Some(recorder) = self.recorder.clone() {
            self.tasks.spawn(async move { recorder.upkeep().await });
        }
        let Some(listener) = self.listener.take() else { return };
        let router = crewline_api::ops_router(handle.clone(), self.metrics());
        self.tasks.spawn(crewline_api::serve(listener, router, limits().few(), std::future::pending()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inert_registry_is_valid() {
        Registry::parse(INERT_REGISTRY, "none", &|_| None).unwrap();
    }

    #[test]
    fn every_start_has_a_name_of_its_own() {
        assert_ne!(node(), node(), "the host and the pid are the same");
    }

    #[test]
    fn the_data_directory_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = std::env::temp_dir().join(format!("crewline-app-{}", std::process::id())).join("data");
        make_data_dir(&dir).unwrap();
        make_data_dir(&dir).unwrap();
        assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::remove_dir_all(dir.parent().unwrap()).unwrap();
    }
}
