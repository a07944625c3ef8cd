//! What the stub server answers: rules in order, the first that fits wins, a deterministic answer otherwise.

use std::{fmt, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::sync::Semaphore;

use crate::{StubRequest, fit};

/// Holds answers back until a test lets them go: what happens meanwhile depends on no clock.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    /// A gate that lets so many answers pass, the first to be asked for first, and is shut then.
    pub fn after(answers: usize) -> Self {
        Self(Arc::new(Semaphore::new(answers)))
    }

    /// Lets so many more pass.
    pub fn pass(&self, answers: usize) {
        self.0.add_permits(answers);
    }

    /// Lets all pass from now on.
    pub fn open(&self) {
        self.0.close();
    }

    pub(crate) async fn wait(&self) {
        // It fails when the gate is open, and nothing is counted any more.
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }
}

/// What the server does with one request.
#[derive(Debug, Clone)]
pub struct StubReply {
    pub(crate) gate: Option<Gate>,
    pub(crate) latency: Duration,
    pub(crate) action: Action,
}

#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// A completion, whole or in pieces as the request asks.
    Answer { text: Arc<str>, finish: &'static str, between: Duration },
    /// Starts to stream, then closes the connection after so many pieces.
    CutStream { text: Arc<str>, pieces: usize },
    /// Another status than 200.
    Status { status: u16, body: Arc<str>, retry_after: Option<Duration> },
    /// Status 200 with exactly this body.
    Raw { content_type: &'static str, body: Arc<str> },
    /// No answer, until the client goes away.
    Hang,
    /// The connection is closed without an answer.
    Close,
}

impl StubReply {
    fn of(action: Action) -> Self {
        Self { gate: None, latency: Duration::ZERO, action }
    }

    /// A completion with this text.
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Self::of(Action::Answer { text: text.into(), finish: "stop", between: Duration::ZERO })
    }

    /// A completion whose text is this JSON; a plan, as a rule.
    pub fn json(value: &Value) -> Self {
        Self::text(value.to_string())
    }

    /// An error status with a body as providers send it.
    pub fn status(status: u16) -> Self {
        let body = format!(r#"{{"error":{{"message":"scripted status {status}","type":"stub","code":{status}}}}}"#);
        Self::of(Action::Status { status, body: body.into(), retry_after: None })
    }

    /// The prompt is too long, as OpenAI says it.
    pub fn too_long() -> Self {
        let body = r#"{"error":{"message":"This model's maximum context length is 4096 tokens.","type":"invalid_request_error","code":"context_length_exceeded"}}"#;
        Self::of(Action::Status { status: 400, body: body.into(), retry_after: None })
    }

    /// Status 200 and a body that breaks off in the middle of the JSON.
    pub fn malformed() -> Self {
        Self::raw(r#"{"id":"chatcmpl-1","choices":[{"index":0,"message":{"role":"assis"#)
    }

    /// Status 200 with exactly this body as JSON.
    pub fn raw(body: impl Into<Arc<str>>) -> Self {
        Self::of(Action::Raw { content_type: "application/json", body: body.into() })
    }

    /// Status 200 with exactly this body as an event stream.
    pub fn raw_stream(body: impl Into<Arc<str>>) -> Self {
        Self::of(Action::Raw { content_type: "text/event-stream", body: body.into() })
    }

    /// No answer, until the client goes away.
    pub fn hang() -> Self {
        Self::of(Action::Hang)
    }

    /// The connection is closed without an answer.
    pub fn close() -> Self {
        Self::of(Action::Close)
    }

    /// Streams so many pieces of `text`, then closes the connection.
    pub fn cut_stream(text: impl Into<Arc<str>>, pieces: usize) -> Self {
        Self::of(Action::CutStream { text: text.into(), pieces })
    }

    /// Answers so much later.
    #[must_use]
    pub fn after(mut self, latency: Duration) -> Self {
        self.latency += latency;
        self
    }

    /// Answers once the gate lets it pass; the latency begins then.
    #[must_use]
    pub fn behind(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// Ends a completion for this reason: `length`, `content_filter`.
    #[must_use]
    pub fn finish(mut self, reason: &'static str) -> Self {
        if let Action::Answer { finish, .. } = &mut self.action {
            *finish = reason;
        }
        self
    }

    /// Waits so long between two pieces of a stream.
    #[must_use]
    pub fn every(mut self, pause: Duration) -> Self {
        if let Action::Answer { between, .. } = &mut self.action {
            *between = pause;
        }
        self
    }

    /// Adds a `retry-after` header to a status.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        if let Action::Status { retry_after, .. } = &mut self.action {
            *retry_after = Some(delay);
        }
        self
    }
}

type Decide = dyn Fn(&StubRequest) -> StubReply + Send + Sync;
type Fits = dyn Fn(&StubRequest) -> bool + Send + Sync;

/// How the server answers: rules in order, then the rest.
#[derive(Clone)]
pub struct Script {
    rules: Vec<(Arc<Fits>, StubReply)>,
    rest: Arc<Decide>,
    gate: Option<Gate>,
    latency: Duration,
    pub(crate) records: bool,
}

impl fmt::Debug for Script {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Script")
            .field("rules", &self.rules.len())
            .field("latency", &self.latency)
            .finish_non_exhaustive()
    }
}

impl Default for Script {
    /// A request with a schema gets an answer that fits it ([`fit::answer`]: a plan of three tasks where a plan is asked
    /// for), any other `Result of: ` and the first line of the last user message.
    fn default() -> Self {
        Self::new(default_reply)
    }
}

/// The deterministic answer to any request.
pub fn default_reply(request: &StubRequest) -> StubReply {
    match &request.schema {
        Some(schema) => StubReply::json(&fit::answer(schema)),
        None => StubReply::text(format!("Result of: {}", request.first_line())),
    }
}

impl Script {
    /// Every request is decided by `decide`.
    pub fn new(decide: impl Fn(&StubRequest) -> StubReply + Send + Sync + 'static) -> Self {
        Self { rules: Vec::new(), rest: Arc::new(decide), gate: None, latency: Duration::ZERO, records: true }
    }

    /// Every request gets this text.
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        let reply = StubReply::text(text);
        Self::new(move |_| reply.clone())
    }

    /// Requests with a schema get this JSON, others the default.
    pub fn plan(plan: &Value) -> Self {
        Self::default().on_schema(StubReply::json(plan))
    }

    /// Requests that fit get `reply`; an earlier rule goes first.
    #[must_use]
    pub fn when(mut self, fits: impl Fn(&StubRequest) -> bool + Send + Sync + 'static, reply: StubReply) -> Self {
        self.rules.push((Arc::new(fits), reply));
        self
    }

    /// The call with this number, from 1, gets `reply`.
    #[must_use]
    pub fn on_call(self, number: u64, reply: StubReply) -> Self {
        self.when(move |request| request.number == number, reply)
    }

    /// Calls of this model get `reply`.
    #[must_use]
    pub fn on_model(self, model: impl Into<String>, reply: StubReply) -> Self {
        let model = model.into();
        self.when(move |request| request.model == model, reply)
    }

    /// Calls with this text in a message get `reply`.
    #[must_use]
    pub fn on_text(self, needle: impl Into<String>, reply: StubReply) -> Self {
        let needle = needle.into();
        self.when(move |request| request.contains(&needle), reply)
    }

    /// Calls that ask for JSON get `reply`.
    #[must_use]
    pub fn on_schema(self, reply: StubReply) -> Self {
        self.when(StubRequest::has_schema, reply)
    }

    /// Every answer comes so much later.
    #[must_use]
    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// Every answer waits at the gate, except where its rule names another.
    #[must_use]
    pub fn behind(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// Requests are counted, but not kept: for benchmarks.
    #[must_use]
    pub fn counting_only(mut self) -> Self {
        self.records = false;
        self
    }

    pub(crate) fn decide(&self, request: &StubRequest) -> StubReply {
        let rule = self.rules.iter().find(|(fits, _)| fits(request));
        let mut reply = rule.map_or_else(|| (self.rest)(request), |(_, reply)| reply.clone()).after(self.latency);
        reply.gate = reply.gate.or_else(|| self.gate.clone());
        reply
    }
}
