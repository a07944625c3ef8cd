//! The one place that connects to a provider: its address, its clients, its headers, its key.
//!
//! **Invariant:** a key goes to its provider's origin only: the address comes from the registry, and redirects are not followed.
//! **Invariant:** offline, a provider that is not on this machine or a private network is refused before a name is resolved.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use crewline_types::model::Locality;
use reqwest::{
    Client, Method, Request, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use secrecy::SecretString;
use tokio::sync::OnceCell;

use super::http::{self, host_of};
use crate::{
    Error, Mode, ModelProvider, ProviderConfig,
    managed::Managed,
    registry::{Key, ProviderType},
    traffic::{HostMeter, Passing, Tally, sent_by},
};

/// The limit on connecting for what no model asks.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The way to one provider.
pub(crate) struct Transport {
    pub(crate) config: Arc<ProviderConfig>,
    pub(crate) provider: &'static dyn ModelProvider,
    managed: Option<Managed>,
    /// The paths below the address, unless the server is yet to be started.
    fixed: Option<Arc<Endpoint>>,
    headers: HeaderMap,
    mode: Mode,
    /// One client for each limit on connecting.
    clients: Vec<(Duration, OnceCell<Client>)>,
    /// Registered at the first request, so that a recorder installed after start-up is not missed.
    meter: OnceLock<HostMeter>,
}

/// Where a provider is.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) base: Url,
    pub(crate) chat: Url,
}

impl Endpoint {
    fn new(base: Url, provider: &dyn ModelProvider) -> Self {
        Self { chat: below(&base, provider.chat_path()), base }
    }

    /// The address as people write it.
    pub(crate) fn base_url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }
}

/// A path below an address.
pub(crate) fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url
}

/// Limits on connecting, each once, the shortest first.
fn limits(connect_limits: impl IntoIterator<Item = Duration>) -> Vec<Duration> {
    let mut limits: Vec<Duration> = connect_limits.into_iter().collect();
    if limits.is_empty() {
        limits.push(CONNECT_LIMIT);
    }
    limits.sort_unstable();
    limits.dedup();
    limits
}

/// The protocol of a type.
fn provider_of(kind: ProviderType) -> &'static dyn ModelProvider {
    match kind {
        ProviderType::OpenaiCompatible => &super::openai_compatible::OpenAiCompatible,
        ProviderType::OpenaiResponses => &super::openai_responses::OpenAiResponses,
        ProviderType::Anthropic => &super::anthropic::Anthropic,
        ProviderType::Ollama => &super::ollama::Ollama,
    }
}

impl Transport {
    /// The way to a provider whose models connect within one of `connect_limits`; `managed` when crewline starts it.
    pub(crate) fn new(
        config: Arc<ProviderConfig>,
        mode: Mode,
        managed: Option<Managed>,
        connect_limits: impl IntoIterator<Item = Duration>,
    ) -> Self {
        let provider = provider_of(config.kind);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream, application/x-ndjson"));
        for (name, value) in provider.fixed_headers() {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        for (name, value) in &config.headers {
            headers.append(name, value.clone());
        }
        if let Key::Known(key) = &config.key
            && let Some((name, mut value)) = provider.key_header(key)
        {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let fixed = if managed.is_some() { None } else { config.url(None) };
        Self {
            fixed: fixed.map(|url| Arc::new(Endpoint::new(url, provider))),
            provider,
            managed,
            headers,
            mode,
            clients: limits(connect_limits).into_iter().map(|limit| (limit, OnceCell::new())).collect(),
            meter: OnceLock::new(),
            config,
        }
    }

    /// Whether it is the way to this provider as well: nothing it is made of differs.
    pub(crate) fn serves(&self, config: &ProviderConfig, connect_limits: impl IntoIterator<Item = Duration>) -> bool {
        self.config.is_same(config) && self.clients.iter().map(|it| it.0).eq(limits(connect_limits))
    }

    /// Refuses before any byte leaves.
    pub(crate) fn admit(&self) -> Result<(), Error> {
        let provider = || self.config.name.to_string();
        if self.mode == Mode::Offline && self.config.locality == Locality::Remote {
            return Err(Error::Offline { provider: provider(), host: host_of(&self.config.base_url) });
        }
        match self.config.key_problem() {
            None => Ok(()),
            Some((reason, help)) => {
                Err(Error::KeyMissing { provider: provider(), reason: reason.to_owned(), help: help.to_owned() })
            }
        }
    }

    /// Where it is; starts a managed server.
    pub(crate) async fn endpoint(&self) -> Result<Arc<Endpoint>, Error> {
        match (&self.fixed, &self.managed) {
            (Some(endpoint), _) => Ok(Arc::clone(endpoint)),
            (None, Some(managed)) => Ok(Arc::new(Endpoint::new(managed.ensure().await?, self.provider))),
            (None, None) => Err(Error::Client { message: format!("`{}` is not a URL", self.config.base_url) }),
        }
    }

    /// The client for a limit on connecting.
    pub(crate) async fn client(&self, connect: Duration) -> Result<&Client, Error> {
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

    /// Begins to count what `request` sends and what comes back.
    pub(crate) fn passing<'a>(&'a self, request: &Request, tally: Option<&'a Tally>) -> Passing<'a> {
        // All its addresses have one host.
        let host = || request.url().host_str().unwrap_or_default();
        let meter = self.meter.get_or_init(|| HostMeter::named(host(), self.config.locality));
        meter.exchange(tally, sent_by(request))
    }

    /// A request with a body.
    pub(crate) fn post(&self, url: Url, body: Vec<u8>) -> Request {
        let mut request = Request::new(Method::POST, url);
        request.headers_mut().clone_from(&self.headers);
        *request.body_mut() = Some(body.into());
        request
    }

    /// A request without a body.
    pub(crate) fn get(&self, url: Url) -> Request {
        let mut request = Request::new(Method::GET, url);
        request.headers_mut().clone_from(&self.headers);
        request.headers_mut().remove(CONTENT_TYPE);
        request
    }

    /// What it is sent and nobody else may see.
    pub(crate) fn secrets(&self) -> &[SecretString] {
        &self.config.secrets
    }

    /// The server that crewline starts, if it is one.
    pub(crate) fn managed(&self) -> Option<&Managed> {
        self.managed.as_ref()
    }
}
