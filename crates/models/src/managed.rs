//! Local model servers that crewline starts when they are first needed, and that never outlive it.
//!
//! With a guard, three processes stand behind a server: crewline holds a pipe to the guard; the guard (this same program) ends the
//! server's process group when the pipe closes, which happens however crewline ends; the server itself asks the kernel to be killed
//! when the guard dies. So no single `kill -9` leaves an orphan.
//!
//! **Invariant:** one start serves all callers that wait for it; a caller that goes away hands the start to the next.
//! **Invariant:** a server binds to loopback only as far as its command says so; crewline talks to it on loopback only.
//! **Invariant:** the server sees no environment variable that holds a key of the registry.

use std::{
    collections::VecDeque,
    fmt, fs, io,
    io::{Read as _, Seek as _, SeekFrom},
    net::TcpListener,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use crewline_types::model::Locality;
use reqwest::{Client, StatusCode, Url};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    process::{Child, Command},
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

use crate::{
    Error, ManagedFailure, Mode, ProviderConfig,
    guard::{CANNOT_RUN, GUARD_COMMAND},
    providers::http_client,
    registry::ManagedConfig,
};

pub use crate::guard::managed_guard_main;

/// Starts within [`WINDOW`] before a server that keeps ending is given up for the rest of it.
const STARTS_MAX: usize = 5;
const WINDOW: Duration = Duration::from_mins(10);
/// Other ports that are tried when somebody else took the one that was free a moment ago.
const PORT_RETRIES: u32 = 2;
/// From SIGTERM to SIGKILL.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(2);
/// How long one question about health may take.
const HEALTH_LIMIT: Duration = Duration::from_secs(2);
/// Bytes of a log that are kept from earlier starts.
const LOG_MAX: u64 = 10 << 20;
const TAIL_LINES: usize = 20;
const TAIL_BYTES: u64 = 16 << 10;

/// A server that crewline starts. Cheap to clone.
#[derive(Clone)]
pub struct Managed(Arc<Inner>);

struct Inner {
    provider: Arc<ProviderConfig>,
    config: ManagedConfig,
    data_dir: PathBuf,
    guard: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: Option<Running>,
    client: Option<Client>,
    starts: VecDeque<Instant>,
}

struct Running {
    /// The guard when there is one, else the server. Dropping it closes the guard's pipe, or kills the server.
    child: Child,
    port: u16,
    is_ready: bool,
    started: Instant,
    /// Where the log of this start begins.
    log_from: u64,
}

impl fmt::Debug for Managed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Managed").field("provider", &self.0.provider.name).finish_non_exhaustive()
    }
}

impl Managed {
    /// The server of `provider`; `None` when it is not a managed one. Starts nothing.
    pub fn new(provider: &Arc<ProviderConfig>, data_dir: &Path, guard: Option<&Path>) -> Option<Self> {
        let config = provider.managed.clone()?;
        Some(Self(Arc::new(Inner {
            provider: Arc::clone(provider),
            config,
            data_dir: std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned()),
            guard: guard.map(Path::to_owned),
            state: Mutex::default(),
        })))
    }

    /// The address of the running server; starts it when it does not run.
    pub async fn ensure(&self) -> Result<Url, Error> {
        let inner = &*self.0;
        let mut state = inner.state.lock().await;
        let mut port_retries = 0;
        loop {
            let Some(running) = &mut state.running else {
                inner.start(&mut state)?;
                continue;
            };
            if let Some(status) = ended(&mut running.child) {
                let (was_ready, log_from) = (running.is_ready, running.log_from);
                state.running = None;
                if was_ready {
                    tracing::warn!(provider = %inner.provider.name, %status, "local model server ended and is started again");
                    continue;
                }
                let log_tail = inner.log_tail(log_from);
                if is_port_taken(&log_tail) && port_retries < PORT_RETRIES {
                    port_retries += 1;
                    // Not the server's fault: this start does not count.
                    state.starts.pop_back();
                    continue;
                }
                let failure =
                    if status.code() == Some(CANNOT_RUN) { ManagedFailure::CannotRun } else { ManagedFailure::Exited };
                return Err(inner.failed(failure, format!("ended before it was ready ({status})"), log_tail));
            }
            let port = running.port;
            if running.is_ready {
                return inner.url(port);
            }
            inner.wait_until_ready(&mut state, port).await?;
        }
    }

    /// Whether it runs and is ready, as far as was seen.
    pub async fn is_running(&self) -> bool {
        let mut state = self.0.state.lock().await;
        state.running.as_mut().is_some_and(|it| it.is_ready && ended(&mut it.child).is_none())
    }

    /// Ends the server: SIGTERM, and SIGKILL two seconds later. The next call starts it again.
    pub async fn shutdown(&self) {
        let Some(running) = self.0.state.lock().await.running.take() else { return };
        let Running { mut child, .. } = running;
        if child.stdin.take().is_none() {
            // Without a guard the server is the leader of its group.
            signal_group(&child, Signal::TERM);
            if timeout(STOP_LIMIT, child.wait()).await.is_err() {
                signal_group(&child, Signal::KILL);
            }
        }
        // The guard has seen the pipe close and does the same; it needs its own two seconds.
        if timeout(STOP_LIMIT * 2, child.wait()).await.is_err() {
            let _ = child.start_kill();
            let _ = timeout(STOP_LIMIT, child.wait()).await;
        }
    }
}

fn signal_group(child: &Child, signal: Signal) {
    if let Some(pid) = child.id().and_then(|it| i32::try_from(it).ok()).and_then(Pid::from_raw) {
        let _ = kill_process_group(pid, signal);
    }
}

fn ended(child: &mut Child) -> Option<ExitStatus> {
    match child.try_wait() {
        Ok(status) => status,
        // The child can not be asked: it is as good as gone.
        Err(_) => Some(ExitStatus::from_raw(0)),
    }
}

/// Whether a log says that the port was taken.
fn is_port_taken(log: &str) -> bool {
    let log = log.to_ascii_lowercase();
    ["address already in use", "address in use", "couldn't bind", "could not bind", "failed to bind", "eaddrinuse"]
        .iter()
        .any(|it| log.contains(it))
}

impl Inner {
    fn failed(&self, failure: ManagedFailure, status: String, log_tail: String) -> Error {
        Error::ManagedFailed {
            provider: self.provider.name.to_string(),
            failure,
            status,
            log_tail,
            log: self.log_path(),
        }
    }

    fn url(&self, port: u16) -> Result<Url, Error> {
        let url = self.provider.url(Some(port));
        url.ok_or_else(|| Error::Client { message: format!("`{}` is not a URL", self.provider.base_url) })
    }

    fn log_path(&self) -> PathBuf {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let name: String = self.provider.name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
        self.data_dir.join("logs").join(format!("managed-{name}.log"))
    }

    fn log_tail(&self, from: u64) -> String {
        let read = || -> io::Result<String> {
            let mut file = fs::File::open(self.log_path())?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(from.max(end.saturating_sub(TAIL_BYTES)).min(end)))?;
            let mut bytes = Vec::new();
            file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
        };
        read().unwrap_or_default()
    }

    fn open_log(&self) -> io::Result<(fs::File, u64)> {
        let path = self.log_path();
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&path)?;
        let mut size = file.metadata()?.len();
        if size > LOG_MAX {
            file.set_len(0)?;
            size = 0;
        }
        file.seek(SeekFrom::End(0))?;
        Ok((file, size))
    }

    /// The command with everything filled in.
    fn command(&self, port: u16) -> Result<Vec<String>, Error> {
        let data_dir = self.data_dir.display().to_string();
        let model = self.config.model.as_ref().map(|it| it.replace("{data_dir}", &data_dir)).unwrap_or_default();
        if !model.is_empty() && !Path::new(&model).is_file() {
            let status = format!("cannot run: there is no model file `{model}`");
            return Err(self.failed(ManagedFailure::CannotRun, status, String::new()));
        }
        let (port, threads) = (port.to_string(), threads().to_string());
        let filled = self.config.command.iter().map(|part| {
            part.replace("{data_dir}", &data_dir)
                .replace("{model}", &model)
                .replace("{port}", &port)
                .replace("{threads}", &threads)
        });
        Ok(filled.collect())
    }

    fn start(&self, state: &mut State) -> Result<(), Error> {
        let now = Instant::now();
        while state.starts.front().is_some_and(|it| now.duration_since(*it) > WINDOW) {
            state.starts.pop_front();
        }
        let port = free_port().map_err(|error| {
            self.failed(ManagedFailure::CannotRun, format!("finds no free port: {error}"), String::new())
        })?;
        let command = self.command(port)?;
        let (log, log_from) = self.open_log().map_err(|error| {
            let status = format!("cannot write its log `{}`: {error}", self.log_path().display());
            self.failed(ManagedFailure::CannotRun, status, String::new())
        })?;
        if state.starts.len() >= STARTS_MAX {
            let status = format!("ended {STARTS_MAX} times within {} minutes", WINDOW.as_secs() / 60);
            return Err(self.failed(ManagedFailure::KeepsEnding, status, self.log_tail(0)));
        }
        let child = self.spawn(&command, log).map_err(|error| {
            let program = self.guard.as_deref().map_or_else(|| command[0].clone(), |it| it.display().to_string());
            self.failed(ManagedFailure::CannotRun, format!("cannot run `{program}`: {error}"), String::new())
        })?;
        tracing::info!(provider = %self.provider.name, port, "local model server is starting");
        state.starts.push_back(now);
        state.running = Some(Running { child, port, is_ready: false, started: now, log_from });
        Ok(())
    }

    fn spawn(&self, words: &[String], log: fs::File) -> io::Result<Child> {
        let mut command = if let Some(guard) = &self.guard {
            let mut command = Command::new(guard);
            command.arg(GUARD_COMMAND).arg("--").args(words).stdin(Stdio::piped());
            command
        } else {
            let program = words.first().ok_or(io::ErrorKind::InvalidInput)?;
            let mut command = Command::new(program);
            command.args(&words[1..]).stdin(Stdio::null()).kill_on_drop(true);
            command
        };
        for name in self.config.env_removed.iter() {
            command.env_remove(name);
        }
        // Its own group: Ctrl-C on the terminal is for crewline, which may still need the server to finish.
        command.process_group(0).stdout(log.try_clone()?).stderr(log).spawn()
    }

    /// Waits until the server that starts is ready or ended; `Err` when it takes too long.
    async fn wait_until_ready(&self, state: &mut State, port: u16) -> Result<(), Error> {
        if state.client.is_none() {
            state.client = Some(http_client(Locality::Loopback, false, Mode::Offline, HEALTH_LIMIT)?);
        }
        let State { running: Some(running), client: Some(client), .. } = state else { return Ok(()) };
        let mut health = self.url(port)?;
        health.set_path(&self.config.health);
        let mut pause = Duration::from_millis(50);
        loop {
            let answer = timeout(HEALTH_LIMIT, client.get(health.clone()).send()).await;
            if ended(&mut running.child).is_some() {
                return Ok(());
            }
            if matches!(answer, Ok(Ok(response)) if response.status() == StatusCode::OK) {
                running.is_ready = true;
                let elapsed_ms = running.started.elapsed().as_millis();
                tracing::info!(provider = %self.provider.name, port, elapsed_ms, "local model server is ready");
                return Ok(());
            }
            if running.started.elapsed() >= self.config.start_timeout {
                let log_tail = self.log_tail(running.log_from);
                // Dropping it ends it: see `Running::child`.
                state.running = None;
                let status = format!("was not ready within {:?}", self.config.start_timeout);
                return Err(self.failed(ManagedFailure::NotReady, status, log_tail));
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(Duration::from_millis(500));
        }
    }
}

/// One thread on small machines: contended cores slow llama.cpp tenfold.
fn threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cores <= 2 { 1 } else { cores / 2 }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_seen_in_the_log() {
        assert!(is_port_taken("srv: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 1"));
        assert!(is_port_taken("OSError: [Errno 98] Address already in use"));
        assert!(!is_port_taken("failed to load model"));
    }
}
