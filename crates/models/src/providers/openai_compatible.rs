//! `POST {base_url}/chat/completions` as OpenAI, OpenRouter, vLLM, Ollama, LM Studio and llama.cpp have it; streamed or not.
//!
//! **Invariant:** a body is read up to [`REPLY_MAX`] bytes, and no further.
//! **Invariant:** what a reply is, is decided by its first byte, not by what its header claims.

use std::{borrow::Cow, sync::Arc, time::Duration};

use ::metrics::Counter;
use bytes::Bytes;
use futures::future::BoxFuture;
use reqwest::{
    Client, Method, Request, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::{
    sync::OnceCell,
    time::{Instant, timeout, timeout_at},
};

use super::{
    body::{Body, LimitField},
    http::{self, ERROR_BODY_MAX, embedded_error, excerpt, host_of, status_error, transport_error},
    reply::{Message, Reply, UsageReply, finish},
    sse::{SseEvent, SseParser},
};
use crate::{
    ChatReply, ChatRequest, Error, Finish, ListedModel, Mode, ModelConfig, ModelProvider, Phase, ProviderConfig,
    managed::Managed, metrics, registry::Key, request::estimate_usage,
};

/// Bytes of a reply at most.
pub const REPLY_MAX: usize = 8 << 20;
/// Characters of a bad reply that an error shows.
const EXCERPT_MAX: usize = 160;
/// How long the list of models may take.
const LIST_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait for the end of a stream after its last event, so that the connection can be used again.
const TAIL_LIMIT: Duration = Duration::from_millis(20);

/// A provider that speaks chat completions.
pub struct OpenAiCompatible {
    config: Arc<ProviderConfig>,
    managed: Option<Managed>,
    fixed: Option<Endpoint>,
    headers: HeaderMap,
    mode: Mode,
    /// One client for each limit on connecting.
    clients: Vec<(Duration, OnceCell<Client>)>,
    bytes_sent: Counter,
}

#[derive(Clone)]
struct Endpoint {
    base_url: Arc<str>,
    chat: Url,
    models: Url,
    limit_field: LimitField,
}

impl Endpoint {
    fn new(base: &Url) -> Self {
        let base_url: Arc<str> = base.as_str().trim_end_matches('/').into();
        let below = |path: &str| {
            let mut url = base.clone();
            url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
            url
        };
        let limit_field = match base.host_str() {
            Some("api.openai.com") => LimitField::MaxCompletionTokens,
            _ => LimitField::MaxTokens,
        };
        Self { base_url, chat: below("chat/completions"), models: below("models"), limit_field }
    }
}

impl OpenAiCompatible {
    /// A provider whose models connect within one of `connect_limits`; `managed` when crewline starts it.
    pub fn new(
        config: Arc<ProviderConfig>,
        mode: Mode,
        managed: Option<Managed>,
        connect_limits: impl IntoIterator<Item = Duration>,
    ) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        for (name, value) in &config.headers {
            headers.append(name, value.clone());
        }
        if let Key::Known(key) = &config.key
            && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret()))
        {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut limits: Vec<Duration> = connect_limits.into_iter().collect();
        if limits.is_empty() {
            limits.push(Duration::from_secs(5));
        }
        limits.sort_unstable();
        limits.dedup();
        let fixed = if managed.is_some() { None } else { config.url(None).map(|url| Endpoint::new(&url)) };
        Self {
            fixed,
            managed,
            headers,
            mode,
            clients: limits.into_iter().map(|limit| (limit, OnceCell::new())).collect(),
            bytes_sent: metrics::egress(config.locality),
            config,
        }
    }

    /// Refuses before any byte leaves.
    fn admit(&self) -> Result<(), Error> {
        let provider = || self.config.name.to_string();
        if self.mode == Mode::Offline && self.config.locality == crewline_types::model::Locality::Remote {
            return Err(Error::Offline { provider: provider(), host: host_of(&self.config.base_url) });
        }
        match self.config.key_problem() {
            None => Ok(()),
            Some((reason, help)) => {
                Err(Error::KeyMissing { provider: provider(), reason: reason.to_owned(), help: help.to_owned() })
            }
        }
    }

    async fn endpoint(&self) -> Result<Cow<'_, Endpoint>, Error> {
        match (&self.fixed, &self.managed) {
            (Some(endpoint), _) => Ok(Cow::Borrowed(endpoint)),
            (None, Some(managed)) => Ok(Cow::Owned(Endpoint::new(&managed.ensure().await?))),
            (None, None) => Err(Error::Client { message: format!("`{}` is not a URL", self.config.base_url) }),
        }
    }

    async fn client(&self, connect: Duration) -> Result<&Client, Error> {
        // The limits are sorted: the first that is long enough, else the longest.
        let place = self.clients.iter().position(|it| it.0 >= connect).unwrap_or(self.clients.len() - 1);
        let (limit, cell) = &self.clients[place];
        if let Some(client) = cell.get() {
            return Ok(client);
        }
        let (locality, limit, mode) = (self.config.locality, *limit, self.mode);
        let is_tls = self.config.base_url.starts_with("https:");
        cell.get_or_try_init(|| async move {
            if !is_tls {
                return http::client(locality, is_tls, mode, limit);
            }
            // Root certificates are read from disk.
            let built = tokio::task::spawn_blocking(move || http::client(locality, is_tls, mode, limit)).await;
            built.unwrap_or_else(|error| Err(Error::Client { message: error.to_string() }))
        })
        .await
    }

    fn key(&self) -> Option<&SecretString> {
        match &self.config.key {
            Key::Known(key) => Some(key),
            Key::None | Key::Missing { .. } => None,
        }
    }

    async fn answer(&self, model: &ModelConfig, request: &ChatRequest) -> Result<ChatReply, Error> {
        self.admit()?;
        let endpoint = self.endpoint().await?;
        let client = self.client(model.spec.timeouts.connect).await?;
        let started = Instant::now();
        let total = model.spec.timeouts.total;
        let exchange = Exchange {
            model,
            request,
            endpoint: &endpoint,
            key: self.key(),
            is_streaming: self.config.is_streaming,
            started,
        };
        let body = exchange.body()?;
        self.bytes_sent.increment(body.len() as u64);
        let mut http_request = Request::new(Method::POST, endpoint.chat.clone());
        http_request.headers_mut().clone_from(&self.headers);
        *http_request.body_mut() = Some(body.into());
        match timeout_at(started + total, exchange.run(client, http_request)).await {
            Ok(result) => result,
            Err(_) => Err(exchange.timed_out(Phase::Total, total)),
        }
    }

    async fn listed(&self) -> Result<Vec<ListedModel>, Error> {
        self.admit()?;
        let endpoint = self.endpoint().await?;
        let client = self.client(Duration::from_secs(5)).await?;
        let provider = self.config.name.to_string();
        let base_url = endpoint.base_url.to_string();
        let unreachable =
            |message: String| Error::Unreachable { provider: provider.clone(), base_url: base_url.clone(), message };
        let mut http_request = Request::new(Method::GET, endpoint.models.clone());
        http_request.headers_mut().clone_from(&self.headers);
        http_request.headers_mut().remove(CONTENT_TYPE);
        let fetch = async {
            let mut response =
                client.execute(http_request).await.map_err(|error| unreachable(http::root_cause(&error)))?;
            let status = response.status();
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(http::root_cause(&error)))? {
                body.extend_from_slice(&chunk);
                if body.len() > REPLY_MAX {
                    break;
                }
            }
            Ok::<_, Error>((status, body))
        };
        let (status, body) =
            timeout(LIST_LIMIT, fetch).await.map_err(|_| unreachable(format!("no answer within {LIST_LIMIT:?}")))??;
        match status.as_u16() {
            200 => parse_list(&body).ok_or_else(|| unreachable("the list of models has an unknown form".to_owned())),
            // A server may have no list and answer all the same.
            404 | 405 | 501 => Ok(Vec::new()),
            401 | 403 => Err(Error::KeyMissing {
                provider: provider.clone(),
                reason: format!("the provider refuses it (HTTP {})", status.as_u16()),
                help: "check the key behind `api_key`".into(),
            }),
            status => Err(unreachable(format!("HTTP {status}: {}", excerpt(&body, EXCERPT_MAX)))),
        }
    }
}

/// Reads the answer of `GET /models`.
pub(crate) fn parse_list(body: &[u8]) -> Option<Vec<ListedModel>> {
    #[derive(Deserialize)]
    struct List {
        data: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        id: String,
        /// vLLM.
        #[serde(default)]
        max_model_len: Option<u32>,
        /// OpenRouter.
        #[serde(default)]
        context_length: Option<u32>,
        /// LM Studio.
        #[serde(default)]
        loaded_context_length: Option<u32>,
        /// llama.cpp.
        #[serde(default)]
        meta: Option<Meta>,
    }
    #[derive(Deserialize)]
    struct Meta {
        #[serde(default)]
        n_ctx: Option<u32>,
    }
    let list: List = serde_json::from_slice(body).ok()?;
    let entries = list.data.into_iter().map(|it| ListedModel {
        context_window: it
            .max_model_len
            .or(it.loaded_context_length)
            .or(it.context_length)
            .or(it.meta.and_then(|meta| meta.n_ctx))
            .filter(|it| *it > 0),
        id: it.id,
    });
    Some(entries.collect())
}

impl ModelProvider for OpenAiCompatible {
    fn chat<'a>(&'a self, model: &'a ModelConfig, request: &'a ChatRequest) -> BoxFuture<'a, Result<ChatReply, Error>> {
        Box::pin(self.answer(model, request))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ListedModel>, Error>> {
        Box::pin(self.listed())
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if let Some(managed) = &self.managed {
                managed.shutdown().await;
            }
        })
    }
}

/// One call on the wire.
struct Exchange<'a> {
    model: &'a ModelConfig,
    request: &'a ChatRequest,
    endpoint: &'a Endpoint,
    key: Option<&'a SecretString>,
    is_streaming: bool,
    started: Instant,
}

impl Exchange<'_> {
    fn body(&self) -> Result<Vec<u8>, Error> {
        let Self { model, request, is_streaming, .. } = *self;
        Body { model, request, is_streaming, limit_field: self.endpoint.limit_field }
            .to_bytes()
            .map_err(|error| Error::Client { message: error.to_string() })
    }

    fn timed_out(&self, phase: Phase, limit: Duration) -> Error {
        Error::Timeout { model: self.model.spec.alias.clone(), phase, limit }
    }

    fn bad(&self, what: &str, body: &[u8]) -> Error {
        let excerpt = excerpt(body, EXCERPT_MAX);
        let message = if excerpt.is_empty() { what.to_owned() } else { format!("{what}: {excerpt}") };
        Error::BadReply { model: self.model.spec.alias.clone(), message }
    }

    fn too_large(&self, limit: usize) -> Error {
        Error::TooLarge { model: self.model.spec.alias.clone(), limit }
    }

    fn transport(&self, error: &reqwest::Error) -> Error {
        transport_error(error, self.model, &self.endpoint.base_url)
    }

    async fn run(&self, client: &Client, request: Request) -> Result<ChatReply, Error> {
        let first_token = self.model.spec.timeouts.first_token;
        let sent = client.execute(request);
        let sent = if self.is_streaming {
            timeout_at(self.started + first_token, sent)
                .await
                .map_err(|_| self.timed_out(Phase::FirstToken, first_token))?
        } else {
            sent.await
        };
        let response = sent.map_err(|error| self.transport(&error))?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(response).await);
        }
        self.read(response).await
    }

    async fn refused(&self, mut response: Response) -> Error {
        let mut body = Vec::new();
        // What can not be read of an error's body is no news.
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk[..chunk.len().min(ERROR_BODY_MAX - body.len())]);
            if body.len() >= ERROR_BODY_MAX {
                break;
            }
        }
        status_error(response.status(), response.headers(), &body, self.model, self.endpoint.chat.as_str(), self.key)
    }

    async fn read(&self, mut response: Response) -> Result<ChatReply, Error> {
        let claims_events = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|it| it.to_str().ok())
            .is_some_and(|it| it.trim_start().to_ascii_lowercase().starts_with("text/event-stream"));
        if response.content_length().is_some_and(|it| it > REPLY_MAX as u64) {
            return Err(self.too_large(REPLY_MAX));
        }
        let mut answer = Answer::default();
        let mut whole: Whole = Whole::Empty;
        let mut parser = SseParser::default();
        let mut form = None;
        let mut size = 0;
        let mut deadline =
            self.is_streaming.then(|| (Phase::FirstToken, self.started + self.model.spec.timeouts.first_token));
        while let Some(chunk) = self.chunk(&mut response, deadline).await? {
            size += chunk.len();
            if size > REPLY_MAX {
                return Err(self.too_large(REPLY_MAX));
            }
            let is_events = match form {
                Some(is_events) => is_events,
                None => match chunk.iter().find(|it| !it.is_ascii_whitespace()) {
                    None => continue,
                    Some(first) => {
                        *form.insert(!matches!(first, b'{' | b'[') && (claims_events || begins_event(&chunk)))
                    }
                },
            };
            if !is_events {
                whole.push(chunk);
                continue;
            }
            parser.feed(&chunk);
            let mut is_alive = false;
            while let Some(event) = parser.next_event().map_err(|_| self.too_large(super::sse::LINE_MAX))? {
                is_alive = true;
                self.event(&event, &mut answer)?;
            }
            if answer.is_done {
                // Reading to the end lets the connection be used again; a server that does not end is not waited for.
                let _ = timeout(TAIL_LIMIT, response.chunk()).await;
                break;
            }
            if is_alive && answer.first_token.is_some() && self.is_streaming {
                deadline = Some((Phase::Idle, Instant::now() + self.model.spec.timeouts.idle));
            }
        }
        if form == Some(true) {
            if !answer.is_done
                && let Some(event) = parser.last_event()
            {
                self.event(&event, &mut answer)?;
            }
            return self.finish_stream(answer);
        }
        self.parse(whole.as_slice())
    }

    async fn chunk(&self, response: &mut Response, deadline: Option<(Phase, Instant)>) -> Result<Option<Bytes>, Error> {
        let next = response.chunk();
        let result = match deadline {
            None => next.await,
            Some((phase, at)) => timeout_at(at, next).await.map_err(|_| {
                let timeouts = &self.model.spec.timeouts;
                let limit = if phase == Phase::FirstToken { timeouts.first_token } else { timeouts.idle };
                self.timed_out(phase, limit)
            })?,
        };
        result.map_err(|error| self.transport(&error))
    }

    fn event(&self, event: &SseEvent<'_>, answer: &mut Answer) -> Result<(), Error> {
        if event.data == b"[DONE]" {
            answer.is_done = true;
            return Ok(());
        }
        if event.data.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        if event.is_error {
            let complaint = serde_json::from_slice(event.data).unwrap_or_default();
            return Err(embedded_error(&complaint, self.model, self.endpoint.chat.as_str(), self.key));
        }
        let chunk: Reply<'_> =
            serde_json::from_slice(event.data).map_err(|error| self.bad(&format!("{error}"), event.data))?;
        if let Some(complaint) = &chunk.error {
            return Err(embedded_error(complaint, self.model, self.endpoint.chat.as_str(), self.key));
        }
        if let (Some(model), true) = (&chunk.model, answer.model.is_empty()) {
            answer.model.push_str(model);
        }
        if chunk.usage.is_some() {
            answer.usage = chunk.usage;
        }
        let Some(choice) = chunk.choices.into_iter().flatten().next() else { return Ok(()) };
        if let Some(message) = &choice.message {
            answer.text.push_str(&message.content.0);
            answer.reasoning.push_str(&message.reasoning_content.0);
            answer.refusal.push_str(&message.refusal.0);
            if answer.first_token.is_none() && !answer.is_empty() {
                answer.first_token = Some(self.started.elapsed());
            }
        }
        if let Some(reason) = choice.finish_reason {
            answer.finish = Some(finish(Some(&reason)));
        }
        Ok(())
    }

    fn finish_stream(&self, answer: Answer) -> Result<ChatReply, Error> {
        if answer.finish.is_none() && !answer.is_done {
            if answer.is_empty() {
                return Err(self.bad("the stream has no answer", b""));
            }
            let message = "the stream ended before the answer did".to_owned();
            return Err(Error::Interrupted { model: self.model.spec.alias.clone(), message });
        }
        Ok(self.reply(answer))
    }

    fn parse(&self, body: &[u8]) -> Result<ChatReply, Error> {
        if body.is_empty() {
            return Err(self.bad("it is empty", body));
        }
        let reply: Reply<'_> = serde_json::from_slice(body).map_err(|error| self.bad(&error.to_string(), body))?;
        let mut choices = reply.choices.into_iter().flatten();
        let Some(choice) = choices.next() else {
            return Err(match &reply.error {
                Some(complaint) => embedded_error(complaint, self.model, self.endpoint.chat.as_str(), self.key),
                None => self.bad("it has no choices", body),
            });
        };
        let Some(Message { content, reasoning_content, refusal }) = choice.message else {
            return Err(self.bad("its choice has no message", body));
        };
        Ok(self.reply(Answer {
            text: content.0.into_owned(),
            reasoning: reasoning_content.0.into_owned(),
            refusal: refusal.0.into_owned(),
            model: reply.model.map(Cow::into_owned).unwrap_or_default(),
            usage: reply.usage,
            finish: Some(finish(choice.finish_reason.as_deref())),
            first_token: None,
            is_done: true,
        }))
    }

    fn reply(&self, answer: Answer) -> ChatReply {
        let finish = answer.finish.unwrap_or(Finish::Stop);
        let usage = answer.usage.and_then(UsageReply::usage);
        let usage = usage.unwrap_or_else(|| {
            let mut usage = estimate_usage(self.request, &answer.text);
            usage.reasoning_tokens = crate::request::estimate_tokens(&answer.reasoning);
            usage.output_tokens += usage.reasoning_tokens;
            usage
        });
        let (text, finish) = if !answer.text.is_empty() {
            (answer.text, finish)
        } else if !answer.refusal.is_empty() {
            (answer.refusal, Finish::Filtered)
        } else if finish == Finish::Stop {
            // Some servers file the whole answer of a reasoning model under its reasoning.
            (answer.reasoning, finish)
        } else {
            (answer.text, finish)
        };
        ChatReply {
            text,
            usage,
            finish,
            model: if answer.model.is_empty() { self.model.model.clone() } else { answer.model },
            first_token: answer.first_token,
            elapsed: self.started.elapsed(),
        }
    }
}

/// Whether a text begins as an event stream does.
fn begins_event(chunk: &[u8]) -> bool {
    let chunk = chunk.trim_ascii_start();
    [&b"data:"[..], b"event:", b"id:", b"retry:", b":"].iter().any(|it| chunk.starts_with(it))
}

/// What has come of an answer.
#[derive(Default)]
struct Answer {
    text: String,
    reasoning: String,
    refusal: String,
    model: String,
    usage: Option<UsageReply>,
    finish: Option<Finish>,
    first_token: Option<Duration>,
    is_done: bool,
}

impl Answer {
    fn is_empty(&self) -> bool {
        self.text.is_empty() && self.reasoning.is_empty() && self.refusal.is_empty()
    }
}

/// A body that is read as a whole; the common case of one chunk is not copied.
enum Whole {
    Empty,
    One(Bytes),
    Many(Vec<u8>),
}

impl Whole {
    fn push(&mut self, chunk: Bytes) {
        match self {
            Self::Empty => *self = Self::One(chunk),
            Self::One(first) => {
                let mut all = Vec::with_capacity((first.len() + chunk.len()) * 2);
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
