//! One call on the wire: sent, waited for, read within its limits; the same for every protocol.
//!
//! **Invariant:** what a call holds of its answer stays below 8 MB, whatever the server sends.
//! **Invariant:** what a reply is, is decided by its first bytes, not by what its header claims.
//! **Invariant:** an answer that did not end is an error, never a reply.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Client, Request, Response, StatusCode, header::CONTENT_TYPE};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    answer::{Answer, Fault},
    http::{ERROR_BODY_MAX, embedded_error, excerpt, status_error, transport_error},
    lines::{LINE_MAX, LineBuffer},
    reply::Complaint,
    sse::SseParser,
    transport::{Endpoint, Transport},
};
use crate::{
    ChatReply, Error, ModelConfig, Phase,
    provider::{Framing, Outgoing},
    request::Listener,
    traffic::{Passing, Tally},
};

/// Bytes of a whole reply, and of what is kept of a stream, at most.
pub(crate) const REPLY_MAX: usize = 2 << 20;
/// Bytes of a stream at most: each token of it comes in an envelope of some hundred bytes.
const STREAM_MAX: usize = 256 << 20;
/// Bytes of an answer that a token may have; a server that ignores the limit on tokens runs into this one.
const TOKEN_BYTES_MAX: usize = 32;
/// Bytes of an answer that any limit on tokens allows: reasoning does not count everywhere.
const ANSWER_MIN: usize = 256 << 10;
/// Characters of a bad reply that an error shows.
pub(super) const EXCERPT_MAX: usize = 160;
/// How long to wait for the end of a stream after its last event, so that the connection can be used again.
const TAIL_LIMIT: Duration = Duration::from_millis(20);

/// One call on the wire.
pub(super) struct Exchange<'a> {
    pub(super) outgoing: Outgoing<'a>,
    pub(super) transport: &'a Transport,
    pub(super) endpoint: &'a Endpoint,
    pub(super) started: Instant,
    pub(super) listener: Option<Listener<'a>>,
    /// Who is told of the bytes, beside the metrics.
    pub(super) tally: Option<&'a Tally>,
}

impl<'a> Exchange<'a> {
    pub(super) async fn chat(&self, client: &Client) -> Result<ChatReply, Error> {
        let body = self.transport.provider.chat_body(&self.outgoing);
        let body = body.map_err(|error| Error::Client { message: error.to_string() })?;
        let sent = body.len();
        let request = self.transport.post(self.endpoint.chat.clone(), body);
        let total = self.model().spec.timeouts.total;
        match timeout_at(self.started + total, self.run(client, request, sent)).await {
            Ok(result) => result,
            Err(_) => Err(self.timed_out(Phase::Total)),
        }
    }

    fn model(&self) -> &'a ModelConfig {
        self.outgoing.model
    }

    fn timed_out(&self, phase: Phase) -> Error {
        let timeouts = &self.model().spec.timeouts;
        let limit = match phase {
            Phase::FirstToken => timeouts.first_token,
            Phase::Idle => timeouts.idle,
            Phase::Connect => timeouts.connect,
            Phase::Total | Phase::Queue | Phase::Upstream => timeouts.total,
        };
        Error::Timeout { model: self.model().spec.alias.clone(), phase, limit }
    }

    fn transport_error(&self, error: &reqwest::Error) -> Error {
        transport_error(error, self.model(), self.endpoint.base_url())
    }

    /// What it means that `body` is no answer.
    fn fault(&self, fault: Fault, body: &[u8]) -> Error {
        let model = self.model();
        match fault {
            Fault::Complaint(complaint) => {
                embedded_error(&complaint, model, self.endpoint.chat.as_str(), self.transport.secrets())
            }
            Fault::Bad(what) => {
                let excerpt = excerpt(body, EXCERPT_MAX, self.transport.secrets());
                let message = if excerpt.is_empty() { what } else { format!("{what}: {excerpt}") };
                Error::BadReply { model: model.spec.alias.clone(), message }
            }
            Fault::TooLarge(limit) => Error::TooLarge { model: model.spec.alias.clone(), limit },
        }
    }

    fn too_large(&self, limit: usize) -> Error {
        self.fault(Fault::TooLarge(limit), b"")
    }

    async fn run(&self, client: &Client, request: Request, sent: usize) -> Result<ChatReply, Error> {
        let mut passing = self.transport.passing(&request, self.tally);
        let pending = client.execute(request);
        let response = if self.outgoing.is_streaming {
            let first_token = self.model().spec.timeouts.first_token;
            let pending = timeout_at(self.started + first_token, pending).await;
            pending.map_err(|_| self.timed_out(Phase::FirstToken))?
        } else {
            pending.await
        };
        let response = response.map_err(|error| {
            passing.failed(&error);
            self.transport_error(&error)
        })?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(response, &mut passing).await);
        }
        self.read(response, sent, &mut passing).await
    }

    async fn refused(&self, mut response: Response, passing: &mut Passing<'_>) -> Error {
        let mut body = Vec::new();
        // What can not be read of an error's body is no news.
        while let Ok(Some(chunk)) = response.chunk().await {
            passing.received(chunk.len());
            body.extend_from_slice(&chunk[..chunk.len().min(ERROR_BODY_MAX - body.len())]);
            if body.len() >= ERROR_BODY_MAX {
                break;
            }
        }
        let url = self.endpoint.chat.as_str();
        status_error(response.status(), response.headers(), &body, self.model(), url, self.transport.secrets())
    }

    /// Bytes that are kept of the answer at most.
    fn answer_max(&self) -> usize {
        let tokens = self.outgoing.output_tokens_max() as usize;
        (ANSWER_MIN + tokens.saturating_mul(TOKEN_BYTES_MAX)).min(REPLY_MAX)
    }

    async fn read(&self, mut response: Response, sent: usize, passing: &mut Passing<'_>) -> Result<ChatReply, Error> {
        let claims_stream = claims_stream(&response);
        let length = response.content_length();
        if length.is_some_and(|it| it > STREAM_MAX as u64 || (it > REPLY_MAX as u64 && !claims_stream)) {
            return Err(self.too_large(REPLY_MAX));
        }
        let mut answer = Answer::new(self.started, self.answer_max(), self.listener);
        let size = match self.receive(&mut response, &mut answer, claims_stream, passing).await {
            Ok(size) => size,
            Err(error) => return Err(self.midway(error, &answer, sent)),
        };
        let usage = answer.counted(self.outgoing.request, sent);
        let reply = answer.into_reply(self.outgoing.request, &self.model().model, sent, size);
        reply.map_err(|fault| match (self.fault(fault, b""), usage) {
            (error, None) => error,
            (error, usage) => Error::Midway { error: Box::new(error), usage },
        })
    }

    /// What a failure is when so much of the answer had come: more than a refusal, which costs nothing.
    fn midway(&self, error: Error, answer: &Answer<'_>, sent: usize) -> Error {
        let usage = answer.counted(self.outgoing.request, sent);
        let has_begun = !answer.is_empty() || answer.usage.is_some();
        if usage.is_some() || (has_begun && !error.may_be_billed()) {
            Error::Midway { error: Box::new(error), usage }
        } else {
            error
        }
    }

    /// Reads a whole answer; tells how many bytes it had.
    async fn receive(
        &self,
        response: &mut Response,
        answer: &mut Answer<'_>,
        claims_stream: bool,
        passing: &mut Passing<'_>,
    ) -> Result<usize, Error> {
        let length = response.content_length();
        let mut form = Form::Unknown;
        let mut size = 0;
        let mut deadline = self
            .outgoing
            .is_streaming
            .then(|| (Phase::FirstToken, self.started + self.model().spec.timeouts.first_token));
        while let Some(chunk) = self.chunk(response, deadline).await? {
            size += chunk.len();
            passing.received(chunk.len());
            if let Form::Unknown = form {
                if chunk.trim_ascii_start().is_empty() && size < LINE_MAX {
                    continue;
                }
                form = self.form_of(&chunk, claims_stream);
            }
            let is_alive = match &mut form {
                Form::Unknown => false,
                Form::Whole(whole) => {
                    whole.push(chunk, length);
                    if size > REPLY_MAX {
                        return Err(self.too_large(REPLY_MAX));
                    }
                    false
                }
                Form::Events(parser) => {
                    parser.feed(&chunk);
                    self.events(parser, answer)?
                }
                Form::Lines(lines) => {
                    lines.feed(&chunk);
                    self.lines(lines, answer)?
                }
            };
            if size > STREAM_MAX {
                return Err(self.too_large(STREAM_MAX));
            }
            if answer.is_done {
                // Reading to the end lets the connection be used again; a server that does not end is not waited for.
                if let Ok(Ok(Some(tail))) = timeout(TAIL_LIMIT, response.chunk()).await {
                    passing.received(tail.len());
                }
                break;
            }
            if is_alive && answer.first_token.is_some() && self.outgoing.is_streaming {
                deadline = Some((Phase::Idle, Instant::now() + self.model().spec.timeouts.idle));
            }
        }
        self.finish(form, answer)?;
        Ok(size)
    }

    async fn chunk(&self, response: &mut Response, deadline: Option<(Phase, Instant)>) -> Result<Option<Bytes>, Error> {
        let next = response.chunk();
        let result = match deadline {
            None => next.await,
            Some((phase, at)) => timeout_at(at, next).await.map_err(|_| self.timed_out(phase))?,
        };
        result.map_err(|error| self.transport_error(&error))
    }

    fn form_of(&self, chunk: &[u8], claims_stream: bool) -> Form {
        let begins_json = matches!(chunk.trim_ascii_start().first(), Some(b'{' | b'['));
        match self.transport.provider.framing() {
            Framing::Lines if begins_json && self.outgoing.is_streaming => Form::Lines(LineBuffer::default()),
            Framing::Events if !begins_json && (claims_stream || begins_event(chunk)) => {
                Form::Events(SseParser::default())
            }
            Framing::Lines | Framing::Events => Form::Whole(Whole::Empty),
        }
    }

    /// Reads the events that are whole; tells whether there were any.
    fn events(&self, parser: &mut SseParser, answer: &mut Answer<'_>) -> Result<bool, Error> {
        let mut is_alive = false;
        while let Some(event) = parser.next_event().map_err(|_| self.too_large(LINE_MAX))? {
            is_alive = true;
            self.event(event.data, event.is_error, answer)?;
        }
        Ok(is_alive)
    }

    fn lines(&self, lines: &mut LineBuffer, answer: &mut Answer<'_>) -> Result<bool, Error> {
        let mut is_alive = false;
        while let Some(line) = lines.next_line().map_err(|_| self.too_large(LINE_MAX))? {
            is_alive = true;
            self.event(lines.bytes(&line), false, answer)?;
        }
        Ok(is_alive)
    }

    fn event(&self, data: &[u8], is_error: bool, answer: &mut Answer<'_>) -> Result<(), Error> {
        if data.trim_ascii().is_empty() || answer.is_done {
            return Ok(());
        }
        let read = if is_error {
            Err(Fault::from(serde_json::from_slice::<Complaint<'_>>(data).unwrap_or_default()))
        } else {
            self.transport.provider.read_event(data, answer)
        };
        read.map_err(|fault| self.fault(fault, data))
    }

    fn finish(&self, form: Form, answer: &mut Answer<'_>) -> Result<(), Error> {
        match form {
            Form::Unknown => Err(self.fault(Fault::Bad("it is empty".to_owned()), b"")),
            Form::Whole(whole) => {
                let body = whole.as_slice();
                let read = self.transport.provider.read_whole(body, answer);
                read.map_err(|fault| self.fault(fault, body))?;
                answer.first_token = None;
                self.ended(answer)
            }
            Form::Events(mut parser) => {
                if let Some(event) = parser.last_event().map_err(|_| self.too_large(LINE_MAX))? {
                    self.event(event.data, event.is_error, answer)?;
                }
                self.ended(answer)
            }
            Form::Lines(mut lines) => {
                let rest = lines.rest();
                self.event(lines.bytes(&rest), false, answer)?;
                self.ended(answer)
            }
        }
    }

    fn ended(&self, answer: &Answer<'_>) -> Result<(), Error> {
        if answer.finish.is_some() || answer.is_done {
            return Ok(());
        }
        if answer.is_empty() {
            return Err(self.fault(Fault::Bad("it has no answer".to_owned()), b""));
        }
        let message = "it ended before the model did".to_owned();
        Err(Error::Interrupted { model: self.model().spec.alias.clone(), message })
    }
}

/// What a body has turned out to be.
enum Form {
    Unknown,
    Whole(Whole),
    Events(SseParser),
    Lines(LineBuffer),
}

fn claims_stream(response: &Response) -> bool {
    let claim = response.headers().get(CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let claim = claim.trim_start().to_ascii_lowercase();
    claim.starts_with("text/event-stream") || claim.starts_with("application/x-ndjson")
}

/// Whether a text begins as an event stream does.
fn begins_event(chunk: &[u8]) -> bool {
    let chunk = chunk.trim_ascii_start();
    [&b"data:"[..], b"event:", b"id:", b"retry:", b":"].iter().any(|it| chunk.starts_with(it))
}

/// A body that is read as a whole; the common case of one chunk is not copied.
enum Whole {
    Empty,
    One(Bytes),
    Many(Vec<u8>),
}

impl Whole {
    /// Adds a chunk of a body of `length` bytes, where that is known.
    fn push(&mut self, chunk: Bytes, length: Option<u64>) {
        match self {
            Self::Empty => *self = Self::One(chunk),
            Self::One(first) => {
                let known = length.and_then(|it| usize::try_from(it).ok()).filter(|it| *it <= REPLY_MAX);
                let mut all = Vec::with_capacity(known.unwrap_or((first.len() + chunk.len()) * 2));
                all.extend_from_slice(first);
                all.extend_from_slice(&chunk);
                *self = Self::Many(all);
            }
            Self::Many(all) => all.extend_from_slice(&chunk),
        }
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Empty => b"",
            Self::One(bytes) => bytes,
            Self::Many(bytes) => bytes,
        }
    }
}
