//! A model server that does as its script says: OpenAI-compatible chat completions on a loopback port.
//!
//! It runs on a thread of its own with its own runtime, so that it neither waits for the tested program nor takes its
//! turns, and so that its CPU time can be told apart ([`StubServer::cpu_time`]).
//!
//! **Invariant:** every request is counted before it is answered; dropping the server closes its connections.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, sync::oneshot, task::JoinSet};

use crate::{
    Script, StubReply, StubRequest,
    http::{self, Connection},
    request::tokens,
    script::Action,
};

/// Pieces of a streamed answer at most.
const PIECES: usize = 8;

/// A running server; dropping it stops it.
#[derive(Debug)]
pub struct StubServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    script: Script,
    started: Instant,
    calls: AtomicU64,
    in_flight: AtomicU64,
    in_flight_peak: AtomicU64,
    hung_up: AtomicU64,
    requests: Mutex<Vec<Arc<StubRequest>>>,
    thread_id: Mutex<Option<u32>>,
}

impl StubServer {
    /// Starts a server on a free loopback port.
    ///
    /// # Panics
    /// When no port can be opened: a test can only stop there.
    pub fn start(script: Script) -> Self {
        match Self::start_on(0, script) {
            Ok(server) => server,
            Err(error) => panic_now(&error),
        }
    }

    /// Starts a server on this loopback port; 0 chooses a free one.
    pub fn start_on(port: u16, script: Script) -> std::io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            script,
            started: Instant::now(),
            calls: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            in_flight_peak: AtomicU64::new(0),
            hung_up: AtomicU64::new(0),
            requests: Mutex::default(),
            thread_id: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let served = Arc::clone(&shared);
        let thread = thread::Builder::new().name("stub-server".into()).spawn(move || {
            *lock(&served.thread_id) = thread_id();
            runtime.block_on(async {
                // A failed bind was reported already; registering with this runtime cannot fail for want of a port.
                if let Ok(listener) = TcpListener::from_std(listener) {
                    tokio::select! {
                        () = accept(listener, &served) => {}
                        _ = stopped => {}
                    }
                }
            });
        })?;
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// The base URL for a registry: `http://127.0.0.1:<port>/v1`.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Chat completion requests so far.
    pub fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::Relaxed)
    }

    /// The most requests that were being answered at one time.
    pub fn peak_in_flight(&self) -> u64 {
        self.shared.in_flight_peak.load(Ordering::Relaxed)
    }

    /// Clients that went away before they were answered.
    pub fn hung_up(&self) -> u64 {
        self.shared.hung_up.load(Ordering::Relaxed)
    }

    /// The requests so far, in the order they came; none when the script only counts.
    pub fn requests(&self) -> Vec<Arc<StubRequest>> {
        lock(&self.shared.requests).clone()
    }

    /// Forgets what was asked so far, and counts from one again.
    pub fn reset(&self) {
        lock(&self.shared.requests).clear();
        self.shared.calls.store(0, Ordering::Relaxed);
        self.shared.hung_up.store(0, Ordering::Relaxed);
        self.shared.in_flight_peak.store(0, Ordering::Relaxed);
    }

    /// CPU time the server used so far, for benchmarks that count the tested program only. `None` where the system does
    /// not tell.
    pub fn cpu_time(&self) -> Option<Duration> {
        let id = (*lock(&self.shared.thread_id))?;
        // Documented in the kernel's sched-stats: the first number is nanoseconds on the CPU.
        let text = std::fs::read_to_string(format!("/proc/self/task/{id}/schedstat")).ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    }

    /// The smallest registry that uses this server: models `cheap` and `strong`, roles `default` and `manager`.
    pub fn registry(&self) -> String {
        let url = self.url();
        format!(
            "version: 1\n\
             providers:\n  stub: {{type: openai_compatible, base_url: \"{url}\"}}\n\
             models:\n  \
               cheap:  {{provider: stub, model: cheap,  context_window: 32768, price: {{input_per_million: 1.0, output_per_million: 2.0}}}}\n  \
               strong: {{provider: stub, model: strong, context_window: 32768, price: {{input_per_million: 5.0, output_per_million: 15.0}}}}\n\
             roles:\n  default: {{chain: [cheap, strong]}}\n  manager: {{chain: [cheap, strong]}}\n"
        )
    }
}

impl Drop for StubServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Gone already when the thread has ended.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[expect(clippy::panic, reason = "a helper of tests, which end here")]
fn panic_now(error: &std::io::Error) -> ! {
    panic!("the stub server does not start: {error}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This thread's number in `/proc`.
fn thread_id() -> Option<u32> {
    std::fs::read_link("/proc/thread-self").ok()?.file_name()?.to_str()?.parse().ok()
}

async fn accept(listener: TcpListener, shared: &Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let shared = Arc::clone(shared);
                    connections.spawn(async move { converse(Connection::new(stream), &shared).await });
                }
                // Out of descriptors: they come back when a connection ends.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers request after request until the client goes away or the script closes the connection.
async fn converse(mut connection: Connection, shared: &Shared) -> Option<()> {
    loop {
        let request = connection.request().await?;
        let closes = request.closes;
        let path = request.path.split('?').next().unwrap_or("");
        if request.is_post && path.ends_with("/chat/completions") {
            complete(&mut connection, request, shared).await?;
        } else {
            let text = other(request.is_post, path);
            connection.write(text.as_bytes()).await?;
        }
        if closes {
            return None;
        }
    }
}

/// What model servers have beside completions.
fn other(is_post: bool, path: &str) -> String {
    const JSON: &str = "application/json";
    match path {
        "/health" if !is_post => http::reply(200, JSON, "", r#"{"status":"ok"}"#),
        "/v1/models" | "/models" if !is_post => {
            let models =
                r#"{"object":"list","data":[{"id":"cheap","object":"model"},{"id":"strong","object":"model"}]}"#;
            http::reply(200, JSON, "", models)
        }
        _ => http::reply(404, JSON, "", r#"{"error":{"message":"there is nothing here","type":"not_found"}}"#),
    }
}

async fn complete(connection: &mut Connection, request: http::Request, shared: &Shared) -> Option<()> {
    let number = shared.calls.fetch_add(1, Ordering::Relaxed) + 1;
    let mut parsed = match StubRequest::parse(request.body, number, shared.started.elapsed()) {
        Ok(parsed) => parsed,
        Err(error) => {
            let message = serde_json::Value::String(format!("the body is not a chat completion request: {error}"));
            let body = format!(r#"{{"error":{{"message":{message},"type":"invalid_request_error"}}}}"#);
            return connection.write(http::reply(400, "application/json", "", &body).as_bytes()).await;
        }
    };
    parsed.authorization = request.authorization;
    let _flight = Flight::start(shared);
    let reply = shared.script.decide(&parsed);
    let asked = Arc::new(parsed);
    if shared.script.records {
        lock(&shared.requests).push(Arc::clone(&asked));
    }
    answer(connection, &asked, &reply, shared).await
}

/// Counts a request as being answered.
struct Flight<'a>(&'a Shared);

impl<'a> Flight<'a> {
    fn start(shared: &'a Shared) -> Self {
        let now = shared.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        shared.in_flight_peak.fetch_max(now, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn answer(connection: &mut Connection, asked: &StubRequest, reply: &StubReply, shared: &Shared) -> Option<()> {
    if let Some(gate) = &reply.gate {
        unless_gone(connection, gate.wait(), shared).await?;
    }
    pause(connection, reply.latency, shared).await?;
    match &reply.action {
        Action::Answer { text, finish, between } if asked.stream => {
            stream(connection, asked, text, finish, *between, shared).await
        }
        Action::Answer { text, finish, .. } => connection.write(whole(asked, text, finish).as_bytes()).await,
        Action::CutStream { text, pieces } => {
            connection.write(http::STREAM_HEAD.as_bytes()).await?;
            for piece in split(text).take(*pieces) {
                connection.write(http::event(&chunk(asked, &delta(piece), "null")).as_bytes()).await?;
            }
            None
        }
        Action::Status { status, body, retry_after } => {
            let extra = retry_after.map(|delay| format!("retry-after: {}\r\n", delay.as_secs())).unwrap_or_default();
            connection.write(http::reply(*status, "application/json", &extra, body).as_bytes()).await
        }
        Action::Raw { content_type, body } => {
            connection.write(http::reply(200, content_type, "", body).as_bytes()).await
        }
        Action::Hang => {
            connection.gone().await;
            shared.hung_up.fetch_add(1, Ordering::Relaxed);
            None
        }
        Action::Close => None,
    }
}

/// Waits, unless the client goes away before.
async fn pause(connection: &mut Connection, time: Duration, shared: &Shared) -> Option<()> {
    if time.is_zero() {
        return Some(());
    }
    unless_gone(connection, tokio::time::sleep(time), shared).await
}

async fn unless_gone(connection: &mut Connection, wait: impl Future<Output = ()>, shared: &Shared) -> Option<()> {
    tokio::select! {
        () = wait => Some(()),
        () = connection.gone() => {
            shared.hung_up.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

fn quoted(text: &str) -> String {
    // A string always serialises.
    serde_json::to_string(text).unwrap_or_default()
}

fn usage(asked: &StubRequest, text: &str) -> String {
    let (input, output) = (asked.input_tokens(), tokens(text.len()));
    let total = input + output;
    format!(r#"{{"prompt_tokens":{input},"completion_tokens":{output},"total_tokens":{total}}}"#)
}

fn whole(asked: &StubRequest, text: &str, finish: &str) -> String {
    let (number, model, content, usage) = (asked.number, quoted(&asked.model), quoted(text), usage(asked, text));
    let body = format!(
        r#"{{"id":"chatcmpl-{number}","object":"chat.completion","created":0,"model":{model},"choices":[{{"index":0,"message":{{"role":"assistant","content":{content}}},"finish_reason":"{finish}"}}],"usage":{usage}}}"#
    );
    http::reply(200, "application/json", "", &body)
}

async fn stream(
    connection: &mut Connection,
    asked: &StubRequest,
    text: &str,
    finish: &str,
    between: Duration,
    shared: &Shared,
) -> Option<()> {
    let mut out = http::STREAM_HEAD.to_owned();
    out.push_str(&http::event(&chunk(asked, r#"{"role":"assistant","content":""}"#, "null")));
    for piece in split(text) {
        out.push_str(&http::event(&chunk(asked, &delta(piece), "null")));
        if !between.is_zero() {
            connection.write(out.as_bytes()).await?;
            out.clear();
            pause(connection, between, shared).await?;
        }
    }
    out.push_str(&http::event(&chunk(asked, "{}", &format!(r#""{finish}""#))));
    if asked.stream_usage {
        let (number, model, usage) = (asked.number, quoted(&asked.model), usage(asked, text));
        out.push_str(&http::event(&format!(
            r#"{{"id":"chatcmpl-{number}","object":"chat.completion.chunk","created":0,"model":{model},"choices":[],"usage":{usage}}}"#
        )));
    }
    out.push_str(&http::event("[DONE]"));
    out.push_str(http::STREAM_END);
    connection.write(out.as_bytes()).await
}

fn delta(piece: &str) -> String {
    format!(r#"{{"content":{}}}"#, quoted(piece))
}

fn chunk(asked: &StubRequest, delta: &str, finish: &str) -> String {
    let (number, model) = (asked.number, quoted(&asked.model));
    format!(
        r#"{{"id":"chatcmpl-{number}","object":"chat.completion.chunk","created":0,"model":{model},"choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]}}"#
    )
}

/// The text in at most [`PIECES`] pieces, never inside a character.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let size = text.len().div_ceil(PIECES).max(1);
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, tail) = rest.split_at(rest.ceil_char_boundary(size));
        rest = tail;
        Some(piece)
    })
}
