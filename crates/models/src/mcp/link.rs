//! One connection to a server of tools: what it offers, and calls.
//!
//! **Invariant:** every question has a limit on time, every message a limit on size.
//! **Invariant:** a server is asked for tools only. What it would like of its client (models, files, people, prompts) it does not get.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crewline_types::model::Locality;
use rmcp::{
    ClientHandler,
    model::{
        CallToolRequestParams, CallToolResponse, ClientCapabilities, ClientConfig, ClientRequest, Implementation,
        JsonObject, ListToolsRequest, PaginatedRequestParams, RequestParamsMeta as _, ServerResult,
    },
    service::{ClientInitializeError, NotificationContext, RoleClient, RunningService, ServiceError, serve_client},
    transport::{
        StreamableHttpClientTransport, async_rw::AsyncRwTransport,
        streamable_http_client::StreamableHttpClientTransportConfig,
    },
};
use serde::Serialize;
use tokio::time::timeout;

use super::{
    McpError, McpReply,
    process::{Bounded, Launcher, Process},
    reply,
    tool::{McpTools, Said, TOOLS_MAX, sort},
};
use crate::{
    Mode, Tally,
    egress::is_public_address,
    providers::{excerpt, http_client, root_cause},
    registry::{McpReach, McpServerConfig},
    traffic::{HostMeter, Passing, json_bytes},
};

/// The name of a call's key in the `_meta` of its request. The protocol wants a prefix that nobody else uses.
pub const CALL_KEY: &str = "io.github.crewline/idempotency-key";
/// Bytes of one message.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Pages of a list of tools.
const PAGES_MAX: usize = 32;
/// Characters of what a server says that an error keeps.
const SAID_CHARS_MAX: usize = 300;
/// How long a good-bye may take.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Hears what a server says unasked.
#[derive(Debug, Clone)]
struct Ear {
    is_dirty: Arc<AtomicBool>,
}

impl ClientHandler for Ear {
    fn get_info(&self) -> ClientConfig {
        ClientConfig::new(ClientCapabilities::default(), Implementation::new("crewline", env!("CARGO_PKG_VERSION")))
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.is_dirty.store(true, Ordering::Relaxed);
    }
}

/// A connection.
pub(super) struct Link {
    config: Arc<McpServerConfig>,
    service: RunningService<RoleClient, Ear>,
    process: Mutex<Option<Process>>,
    is_dirty: Arc<AtomicBool>,
    is_passed: Arc<AtomicBool>,
    /// None for a process of this machine.
    meter: Option<HostMeter>,
}

impl Link {
    /// Connects, within the server's `start_timeout`.
    pub(super) async fn open(
        config: &Arc<McpServerConfig>,
        launcher: &Launcher,
        mode: Mode,
        tally: Option<&Tally>,
    ) -> Result<Self, McpError> {
        let is_dirty = Arc::new(AtomicBool::new(false));
        let is_passed = Arc::new(AtomicBool::new(false));
        let ear = Ear { is_dirty: Arc::clone(&is_dirty) };
        let server = || config.name.to_string();
        let limit = config.start_timeout;
        match &config.reach {
            McpReach::Command { command, env } => {
                let start = |message: String| McpError::Start { server: server(), message };
                let (process, input, output) = launcher
                    .start(&config.name, command, env)
                    .map_err(|error| start(format!("cannot run: {error}")))?;
                let output = Bounded::new(output, MESSAGE_BYTES_MAX, Arc::clone(&is_passed));
                let transport =
                    AsyncRwTransport::new_client(output, input).with_max_line_length(MESSAGE_BYTES_MAX + 64);
                let service = match timeout(limit, serve_client(ear, transport)).await {
                    Ok(Ok(service)) => service,
                    Ok(Err(error)) => {
                        process.settle().await;
                        let message = with_tail(initialise_error(&error), &process.tail(&config.secrets));
                        process.end().await;
                        return Err(start(message));
                    }
                    Err(_) => {
                        let message = format!("it was not ready within {} s", limit.as_secs_f64());
                        return Err(start(with_tail(message, &process.tail(&config.secrets))));
                    }
                };
                let process = Mutex::new(Some(process));
                Ok(Self { config: Arc::clone(config), service, process, is_dirty, is_passed, meter: None })
            }
            McpReach::Http { url, locality, headers } => {
                let host = || url.host_str().unwrap_or_default().to_owned();
                if mode == Mode::Offline && *locality == Locality::Remote {
                    return Err(McpError::Offline { server: server(), host: host() });
                }
                let start = |message: String| McpError::Start { server: server(), message };
                let client = http_client(*locality, url.scheme() == "https", mode, limit)
                    .map_err(|error| start(error.to_string()))?;
                let mut settings = StreamableHttpClientTransportConfig::with_uri(url.as_str());
                settings.custom_headers = headers.iter().cloned().collect::<HashMap<_, _>>();
                settings.max_sse_event_size = MESSAGE_BYTES_MAX;
                // A call is never sent again by the transport: what became of the first one is not known.
                settings.reinit_on_expired_session = false;
                let transport = StreamableHttpClientTransport::with_client(client, settings);
                let meter = HostMeter::named(&host(), *locality);
                let mut passing = meter.exchange(tally, json_bytes(&ear.get_info()));
                let opened = timeout(limit, serve_client(ear, transport)).await;
                match &opened {
                    Ok(Ok(service)) => passing.received(service.peer_info().map_or(0, |it| json_bytes(&*it))),
                    Ok(Err(error)) => passing.failed(initialise_cause(error)),
                    Err(_) => {}
                }
                drop(passing);
                let service = match opened {
                    Ok(Ok(service)) => service,
                    Ok(Err(error)) if is_elsewhere(&error) => {
                        return Err(McpError::Offline { server: server(), host: host() });
                    }
                    Ok(Err(error)) => {
                        let said = initialise_error(&error);
                        return Err(start(excerpt(said.as_bytes(), SAID_CHARS_MAX, &config.secrets)));
                    }
                    Err(_) => return Err(start(format!("it was not ready within {} s", limit.as_secs_f64()))),
                };
                let (config, process) = (Arc::clone(config), Mutex::default());
                Ok(Self { config, service, process, is_dirty, is_passed, meter: Some(meter) })
            }
        }
    }

    /// Whether nothing can be asked any more.
    pub(super) fn is_closed(&self) -> bool {
        self.service.is_closed() || self.service.is_transport_closed()
    }

    /// Whether the server said that its tools changed since they were listed last.
    pub(super) fn is_dirty(&self) -> bool {
        self.is_dirty.load(Ordering::Relaxed)
    }

    /// All tools, as they are now.
    pub(super) async fn tools(&self, tally: Option<&Tally>) -> Result<McpTools, McpError> {
        let limit = self.config.start_timeout;
        self.is_dirty.store(false, Ordering::Relaxed);
        match timeout(limit, self.pages(tally)).await {
            Ok(found) => found,
            Err(_) => Err(McpError::Timeout { server: self.config.name.to_string(), limit }),
        }
    }

    /// Begins to count a question; none when it goes to a process of this machine.
    fn passing<'a>(&'a self, question: &impl Serialize, tally: Option<&'a Tally>) -> Option<Passing<'a>> {
        let meter = self.meter.as_ref()?;
        Some(meter.exchange(tally, json_bytes(question)))
    }

    async fn pages(&self, tally: Option<&Tally>) -> Result<McpTools, McpError> {
        let mut said = Vec::new();
        let mut cursor = None;
        for _ in 0..PAGES_MAX {
            // Not through the library's cache: how long an answer holds would be the server's word.
            let params = PaginatedRequestParams::default().with_cursor(cursor.take());
            let request = ClientRequest::ListToolsRequest(ListToolsRequest::with_param(params));
            let mut passing = self.passing(&request, tally);
            let answer = self.service.send_request(request).await;
            match (&mut passing, &answer) {
                (Some(passing), Ok(answer)) => passing.received(json_bytes(answer)),
                (Some(passing), Err(error)) => passing.failed(error),
                (None, _) => {}
            }
            let answer = answer.map_err(|error| self.failed(&error))?;
            let ServerResult::ListToolsResult(page) = answer else {
                return Err(self.protocol("a list of tools was asked for"));
            };
            said.extend(page.tools.into_iter().map(|tool| Said {
                name: tool.name.into_owned(),
                description: tool.description.unwrap_or_default().into_owned(),
                parameters: serde_json::Value::Object(Arc::unwrap_or_clone(tool.input_schema)),
            }));
            match page.next_cursor {
                Some(next) if said.len() <= TOOLS_MAX => cursor = Some(next),
                Some(_) | None => return Ok(sort(&self.config.name, said)),
            }
        }
        Err(self.protocol("its list of tools does not end"))
    }

    /// Calls a tool, by the server's own name of it. Dropping the future tells the server that nobody waits any more.
    pub(super) async fn call(
        &self,
        tool: &str,
        key: &str,
        arguments: JsonObject,
        tally: Option<&Tally>,
    ) -> Result<McpReply, McpError> {
        let limit = self.config.call_timeout;
        let mut params = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments);
        params.meta_or_default().insert(CALL_KEY.to_owned(), key.into());
        let mut passing = self.passing(&params, tally);
        let answer = timeout(limit, self.service.call_tool_once(params)).await;
        match (&mut passing, &answer) {
            (Some(passing), Ok(Ok(CallToolResponse::Complete(result)))) => passing.received(json_bytes(result)),
            (Some(passing), Ok(Err(error))) => passing.failed(error),
            (Some(_), Ok(Ok(_)) | Err(_)) | (None, _) => {}
        }
        match answer {
            Ok(Ok(CallToolResponse::Complete(result))) => Ok(reply::of(result)),
            Ok(Ok(_)) => Err(self.protocol("it wants to be asked again, which is not offered")),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_) => Err(McpError::Timeout { server: self.config.name.to_string(), limit }),
        }
    }

    fn protocol(&self, message: &str) -> McpError {
        McpError::Protocol { server: self.config.name.to_string(), message: message.to_owned() }
    }

    fn failed(&self, error: &ServiceError) -> McpError {
        let server = self.config.name.to_string();
        let clean = |text: &str| excerpt(text.as_bytes(), SAID_CHARS_MAX, &self.config.secrets);
        if self.is_passed.load(Ordering::Relaxed) || root_cause(error).contains("exceeded the maximum size") {
            return McpError::TooLarge { server, bytes_max: MESSAGE_BYTES_MAX };
        }
        match error {
            ServiceError::McpError(error) => McpError::Refused { server, message: clean(&error.message) },
            ServiceError::UnexpectedResponse => self.protocol("of another kind than the question"),
            other => {
                let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
                let tail = process.as_ref().map(|it| it.tail(&self.config.secrets)).unwrap_or_default();
                McpError::Gone { server, message: with_tail(clean(&root_cause(other)), &tail) }
            }
        }
    }

    /// Says good-bye, and ends its process.
    pub(super) async fn close(&self) {
        self.service.cancellation_token().cancel();
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(process) = process {
            let _ = timeout(END_LIMIT * 2, process.end()).await;
        }
    }
}

fn with_tail(message: String, tail: &str) -> String {
    if tail.is_empty() { message } else { format!("{message}; it said: {tail}") }
}

fn initialise_error(error: &ClientInitializeError) -> String {
    match error {
        ClientInitializeError::ConnectionClosed(_) => "it ended before it said what it is".to_owned(),
        ClientInitializeError::ExpectedInitResponse(_) | ClientInitializeError::ExpectedInitResult(_) => {
            "it does not speak the protocol".to_owned()
        }
        ClientInitializeError::TransportError { error, .. } => root_cause(&*error.error),
        other => root_cause(other),
    }
}

/// What the library's error is about.
fn initialise_cause(error: &ClientInitializeError) -> &(dyn std::error::Error + 'static) {
    match error {
        ClientInitializeError::TransportError { error, .. } => &*error.error,
        other => other,
    }
}

/// Whether a private name turned out to have a public address only.
fn is_elsewhere(error: &ClientInitializeError) -> bool {
    is_public_address(initialise_cause(error))
}
