//! Servers of tools that the registry names (the Model Context Protocol, through the official Rust SDK): connected when their
//! tools are first needed, kept while the process lives.
//!
//! It stands here because this crate owns the registry, the HTTP client, the rules of egress and the guard of processes.
//!
//! **Invariant:** nothing but the registry names a server.
//! **Invariant:** one connection to a server in a process; who needs it while it is made waits for it.
//! **Invariant:** a server that keeps ending is left alone: the pause doubles, and starts within ten minutes are bounded.
//! **Invariant:** a call is sent once.

mod error;
mod link;
mod process;
mod reply;
mod tool;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::Duration,
};

use serde_json::{Map, Value};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

pub use self::{
    error::McpError,
    link::CALL_KEY,
    reply::McpReply,
    tool::{McpTool, McpTools},
};
use self::{
    link::Link,
    process::{Launcher, folder},
};
use crate::{Mode, Options, Tally, metrics, registry::McpServerConfig};

/// Starts within [`WINDOW`].
const STARTS_MAX: usize = 8;
const WINDOW: Duration = Duration::from_mins(10);
/// The pause after the first failure; it doubles.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_mins(1);
/// A pause up to this is waited for; a longer one is told.
const PATIENCE: Duration = Duration::from_secs(3);
/// Calls in a row without an answer, after which a connection is given up.
const TIMEOUTS_MAX: u32 = 2;

/// The servers of a process. Cheap to clone.
#[derive(Clone)]
pub struct McpServers {
    inner: Arc<Inner>,
    mode: Mode,
    /// Who is told of the bytes of its questions, beside the metrics.
    tally: Option<Tally>,
}

struct Inner {
    launcher: Launcher,
    /// By name; a connection that was made offline is another one.
    servers: StdMutex<Servers>,
}

type Servers = HashMap<(Arc<str>, Mode), Arc<Server>>;

impl fmt::Debug for McpServers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("McpServers").field("mode", &self.mode).finish_non_exhaustive()
    }
}

struct Server {
    config: Arc<McpServerConfig>,
    mode: Mode,
    state: Mutex<State>,
}

/// What a server was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    Tools,
    Call,
}

#[derive(Default)]
struct State {
    link: Option<Arc<Link>>,
    starts: VecDeque<Instant>,
    /// Failures since something was answered.
    failures: u32,
    /// Calls in a row that were not answered.
    timeouts: u32,
    down_until: Option<Instant>,
    last: String,
}

impl McpServers {
    /// Connects to nothing yet.
    pub fn new(options: &Options) -> Self {
        let launcher = Launcher { guard: options.guard.clone(), folder: folder(&options.data_dir), env: options.env };
        let inner = Arc::new(Inner { launcher, servers: StdMutex::default() });
        Self { inner, mode: options.mode, tally: None }
    }

    /// The same for a run that may be offline: what the process may not reach, none of its runs may.
    pub fn in_mode(&self, mode: Mode) -> Self {
        let mode = if self.mode == Mode::Offline { Mode::Offline } else { mode };
        Self { mode, ..self.clone() }
    }

    /// The same servers, of whose questions `tally` is told what they send and receive.
    #[must_use]
    pub fn tallied(&self, tally: Tally) -> Self {
        Self { tally: Some(tally), ..self.clone() }
    }

    /// The server as the registry has it now. One that changed is connected to anew, and the old connection ends with its calls.
    fn server(&self, config: &Arc<McpServerConfig>) -> Arc<Server> {
        let mut servers = self.inner.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Arc::clone(&config.name), self.mode);
        match servers.get(&key) {
            Some(server) if server.config.is_same(config) => Arc::clone(server),
            Some(_) | None => {
                let server = Arc::new(Server { config: Arc::clone(config), mode: self.mode, state: Mutex::default() });
                servers.insert(key, Arc::clone(&server));
                server
            }
        }
    }

    /// The tools of a server as they are now.
    pub async fn tools(&self, config: &Arc<McpServerConfig>) -> Result<McpTools, McpError> {
        let server = self.server(config);
        let tally = self.tally.as_ref();
        let link = server.link(&self.inner, tally).await?;
        let found = link.tools(tally).await;
        server.seen(&link, found.as_ref().err(), Question::Tools).await;
        found
    }

    /// Calls a tool that was offered with this hash. The server is told `key`: the same for what may be the same call again.
    pub async fn call(
        &self,
        config: &Arc<McpServerConfig>,
        tool: &McpTool,
        key: &str,
        arguments: Map<String, Value>,
    ) -> Result<McpReply, McpError> {
        let server = self.server(config);
        let tally = self.tally.as_ref();
        let link = server.link(&self.inner, tally).await?;
        let answer = async {
            if link.is_dirty() {
                let now = link.tools(tally).await?;
                let hash = now.tool(&tool.name).map(|it| it.hash);
                if hash != Some(tool.hash) {
                    return Err(changed(config, tool));
                }
            }
            link.call(&tool.own_name, key, arguments, tally).await
        };
        let answer = answer.await;
        server.seen(&link, answer.as_ref().err(), Question::Call).await;
        answer
    }

    /// Ends all connections, and the processes behind them.
    pub async fn shutdown(&self) {
        let servers: Vec<_> =
            self.inner.servers.lock().unwrap_or_else(PoisonError::into_inner).drain().map(|it| it.1).collect();
        futures::future::join_all(servers.iter().map(|server| async {
            let link = server.state.lock().await.link.take();
            if let Some(link) = link {
                link.close().await;
            }
        }))
        .await;
    }
}

fn changed(config: &McpServerConfig, tool: &McpTool) -> McpError {
    McpError::Changed { server: config.name.to_string(), tool: tool.own_name.to_string() }
}

impl Server {
    /// The connection; made when there is none.
    async fn link(&self, inner: &Inner, tally: Option<&Tally>) -> Result<Arc<Link>, McpError> {
        let mut state = self.state.lock().await;
        if let Some(link) = &state.link {
            if !link.is_closed() {
                return Ok(Arc::clone(link));
            }
            let link = state.link.take();
            state.failed("it ended".to_owned());
            if let Some(link) = link {
                link.close().await;
            }
        }
        let now = Instant::now();
        while state.starts.front().is_some_and(|it| now.duration_since(*it) > WINDOW) {
            state.starts.pop_front();
        }
        let pause = match state.starts.front() {
            Some(first) if state.starts.len() >= STARTS_MAX => WINDOW.saturating_sub(now.duration_since(*first)),
            _ => state.down_until.map_or(Duration::ZERO, |it| it.saturating_duration_since(now)),
        };
        if pause > PATIENCE {
            let times = state.starts.len();
            return Err(McpError::Down {
                server: self.config.name.to_string(),
                times,
                pause,
                last: state.last.clone(),
            });
        }
        sleep(pause).await;
        state.starts.push_back(Instant::now());
        let opened = Link::open(&self.config, &inner.launcher, self.mode, tally).await;
        metrics::mcp_connected(&self.config.name, opened.is_ok());
        match opened {
            Ok(link) => {
                let link = Arc::new(link);
                state.link = Some(Arc::clone(&link));
                state.timeouts = 0;
                tracing::info!(server = %self.config.name, "server of tools is connected");
                Ok(link)
            }
            Err(error) => {
                tracing::warn!(server = %self.config.name, error.code = error.code(), "server of tools is not connected");
                state.failed(error.to_string());
                Err(error)
            }
        }
    }

    /// Takes note of how a question ended.
    async fn seen(&self, link: &Arc<Link>, error: Option<&McpError>, question: Question) {
        let mut state = self.state.lock().await;
        let is_current = state.link.as_ref().is_some_and(|it| Arc::ptr_eq(it, link));
        if !is_current {
            return;
        }
        match error {
            None | Some(McpError::Refused { .. } | McpError::Changed { .. }) => {
                state.failures = 0;
                // A server may list its tools and never answer a call.
                if question == Question::Call {
                    state.timeouts = 0;
                }
                return;
            }
            Some(McpError::Timeout { .. }) => {
                state.timeouts += 1;
                if state.timeouts < TIMEOUTS_MAX {
                    return;
                }
            }
            Some(_) => {}
        }
        let link = state.link.take();
        state.failed(error.map(ToString::to_string).unwrap_or_default());
        drop(state);
        if let Some(link) = link {
            link.close().await;
        }
    }
}

impl State {
    fn failed(&mut self, last: String) {
        self.failures = self.failures.saturating_add(1);
        let pause = PAUSE.saturating_mul(1_u32.checked_shl(self.failures - 1).unwrap_or(u32::MAX)).min(PAUSE_MAX);
        self.down_until = Some(Instant::now() + pause);
        self.last = last;
    }
}
