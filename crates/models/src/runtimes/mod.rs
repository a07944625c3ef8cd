//! Local model servers that keep several models: what they have, what is loaded, and how that is changed.
//!
//! Ollama is known by its type; LM Studio and llama.cpp's router mode by what they answer. All others only list their models.
//!
//! **Invariant:** asking changes nothing: a managed server is not started to be asked.

mod gpu;
mod host;
mod llama_cpp;
mod lm_studio;
mod ollama;

use std::time::Duration;

use reqwest::{StatusCode, Url};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout_at};

pub use self::{gpu::Gpu, host::Host};
use crate::{
    Error,
    providers::{LineBuffer, Transport, below, excerpt, root_cause},
    registry::ProviderType,
};

/// How long a question may take.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// How long a model may take to load.
const LOAD_LIMIT: Duration = Duration::from_mins(10);
/// How long a download may take.
const PULL_LIMIT: Duration = Duration::from_hours(12);
/// Characters of an answer that an error shows.
const EXCERPT_MAX: usize = 200;

/// What kind of server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuntimeKind {
    /// Ollama.
    Ollama,
    /// LM Studio, its REST interface v1.
    LmStudio,
    /// llama.cpp's server in router mode.
    LlamaCpp,
    /// A server that crewline starts when it is needed.
    Managed,
    /// Anything that lists its models and does no more.
    Other,
}

/// Whether a model is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadState {
    /// It is.
    Loaded,
    /// It soon will be.
    Loading,
    /// It is not.
    Unloaded,
    /// The server does not say.
    Unknown,
}

/// A model on a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuntimeModel {
    /// Its identifier there.
    pub id: String,
    /// Whether it is in memory.
    pub state: LoadState,
    /// Bytes on the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Bytes in memory, that of the graphics card included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Bytes in the memory of the graphics card.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vram_bytes: Option<u64>,
    /// Its window: as it is loaded, else what it may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_window: Option<u32>,
    /// When it will be unloaded, as the server says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

impl RuntimeModel {
    fn new(id: String, state: LoadState) -> Self {
        Self {
            id,
            state,
            size_bytes: None,
            memory_bytes: None,
            vram_bytes: None,
            context_window: None,
            expires_at: None,
        }
    }
}

/// What a server has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuntimeStatus {
    /// What it is.
    pub kind: RuntimeKind,
    /// Its models, in its order.
    pub models: Vec<RuntimeModel>,
}

/// How a model is loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// The window it gets, where the server takes one.
    pub context_window: Option<u32>,
    /// How long it stays without being asked, where the server takes that.
    pub keep_alive: Option<Duration>,
}

/// How far a download is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// What is being done.
    pub status: String,
    /// Bytes that are there.
    pub completed: Option<u64>,
    /// Bytes there will be.
    pub total: Option<u64>,
}

/// The server behind a provider.
pub(crate) struct Runtime<'a>(pub(crate) &'a Transport);

impl Runtime<'_> {
    /// What it has.
    pub(crate) async fn status(&self) -> Result<RuntimeStatus, Error> {
        if self.0.managed().is_some() {
            return Ok(RuntimeStatus { kind: RuntimeKind::Managed, models: Vec::new() });
        }
        match self.kind().await? {
            RuntimeKind::Ollama => ollama::status(self).await,
            RuntimeKind::LmStudio => lm_studio::status(self).await,
            RuntimeKind::LlamaCpp => llama_cpp::status(self).await,
            kind @ (RuntimeKind::Managed | RuntimeKind::Other) => {
                let listed = self.0.list().await?.into_iter().map(|it| RuntimeModel {
                    context_window: it.context_window,
                    ..RuntimeModel::new(it.id, LoadState::Unknown)
                });
                Ok(RuntimeStatus { kind, models: listed.collect() })
            }
        }
    }

    /// Loads a model, and waits until it is there.
    pub(crate) async fn load(&self, model: &str, options: LoadOptions) -> Result<(), Error> {
        match self.kind().await? {
            RuntimeKind::Ollama => ollama::load(self, model, options).await,
            RuntimeKind::LmStudio => lm_studio::load(self, model, options).await,
            RuntimeKind::LlamaCpp => llama_cpp::load(self, model).await,
            RuntimeKind::Managed | RuntimeKind::Other => Err(self.unsupported("models to load or unload by hand")),
        }
    }

    /// Takes a model out of memory.
    pub(crate) async fn unload(&self, model: &str) -> Result<(), Error> {
        match self.kind().await? {
            RuntimeKind::Ollama => ollama::unload(self, model).await,
            RuntimeKind::LmStudio => lm_studio::unload(self, model).await,
            RuntimeKind::LlamaCpp => llama_cpp::unload(self, model).await,
            RuntimeKind::Managed | RuntimeKind::Other => Err(self.unsupported("models to load or unload by hand")),
        }
    }

    /// Downloads a model.
    pub(crate) async fn pull(&self, model: &str, hear: &(dyn Fn(PullProgress) + Send + Sync)) -> Result<(), Error> {
        match self.kind().await? {
            RuntimeKind::Ollama => ollama::pull(self, model, hear).await,
            RuntimeKind::LmStudio | RuntimeKind::LlamaCpp | RuntimeKind::Managed | RuntimeKind::Other => {
                Err(self.unsupported("downloads that crewline could start"))
            }
        }
    }

    async fn kind(&self) -> Result<RuntimeKind, Error> {
        if self.0.managed().is_some() {
            return Ok(RuntimeKind::Managed);
        }
        match self.0.config.kind {
            ProviderType::Ollama => return Ok(RuntimeKind::Ollama),
            ProviderType::OpenaiCompatible => {}
            ProviderType::OpenaiResponses | ProviderType::Anthropic => return Ok(RuntimeKind::Other),
        }
        if lm_studio::is_it(self).await? {
            Ok(RuntimeKind::LmStudio)
        } else if llama_cpp::is_it(self).await? {
            Ok(RuntimeKind::LlamaCpp)
        } else {
            Ok(RuntimeKind::Other)
        }
    }

    fn unsupported(&self, what: &'static str) -> Error {
        Error::Unsupported { provider: self.0.config.name.to_string(), what }
    }

    /// A path of the server itself, beside what its OpenAI door has below `/v1`.
    async fn url(&self, path: &str) -> Result<Url, Error> {
        let mut root = self.0.endpoint().await?.base.clone();
        let kept = root.path().trim_end_matches('/').trim_end_matches("/v1").to_owned();
        root.set_path(&kept);
        Ok(below(&root, path))
    }

    async fn get(&self, path: &str) -> Result<(StatusCode, Vec<u8>), Error> {
        self.0.admit()?;
        let client = self.0.client(ASK_LIMIT).await?;
        self.0.exchange(client, self.0.get(self.url(path).await?), ASK_LIMIT).await
    }

    /// A document that must be there.
    async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let (status, body) = self.get(path).await?;
        self.check(status, &body, path).await?;
        serde_json::from_slice(&body).map_err(|error| self.failed(format!("`/{path}` has an unknown form: {error}")))
    }

    async fn post(&self, path: &str, model: &str, body: &serde_json::Value) -> Result<Vec<u8>, Error> {
        self.0.admit()?;
        let client = self.0.client(ASK_LIMIT).await?;
        let request = self.0.post(self.url(path).await?, body.to_string().into_bytes());
        let (status, body) = self.0.exchange(client, request, LOAD_LIMIT).await?;
        self.check(status, &body, model).await?;
        Ok(body)
    }

    /// Posts, and hears the lines of the answer as they come.
    async fn post_lines(
        &self,
        path: &str,
        model: &str,
        body: &serde_json::Value,
        hear: &mut (dyn FnMut(&[u8]) -> Result<(), Error> + Send),
    ) -> Result<(), Error> {
        self.0.admit()?;
        let client = self.0.client(ASK_LIMIT).await?;
        let request = self.0.post(self.url(path).await?, body.to_string().into_bytes());
        let mut passing = self.0.passing(&request, None);
        let end = Instant::now() + PULL_LIMIT;
        let late = |_| self.failed(format!("no end within {PULL_LIMIT:?}"));
        let broken = |error: reqwest::Error| self.failed(root_cause(&error));
        let response = timeout_at(end, client.execute(request)).await.map_err(late)?;
        let mut response = response.inspect_err(|error| passing.failed(error)).map_err(broken)?;
        let status = response.status();
        let mut lines = LineBuffer::default();
        while let Some(chunk) = timeout_at(end, response.chunk()).await.map_err(late)?.map_err(broken)? {
            passing.received(chunk.len());
            lines.feed(&chunk);
            while let Some(line) =
                lines.next_line().map_err(|_| self.failed("its answer has a line that is too long".to_owned()))?
            {
                let line = lines.bytes(&line);
                self.check(status, line, model).await?;
                if !line.trim_ascii().is_empty() {
                    hear(line)?;
                }
            }
        }
        let rest = lines.rest();
        let rest = lines.bytes(&rest);
        self.check(status, rest, model).await?;
        if rest.trim_ascii().is_empty() { Ok(()) } else { hear(rest) }
    }

    async fn check(&self, status: StatusCode, body: &[u8], what: &str) -> Result<(), Error> {
        let message = excerpt(body, EXCERPT_MAX, self.0.secrets());
        match status.as_u16() {
            200..=299 => Ok(()),
            401 | 403 => Err(Error::KeyMissing {
                provider: self.0.config.name.to_string(),
                reason: format!("the provider refuses it (HTTP {})", status.as_u16()),
                help: "check the key behind `api_key`".into(),
            }),
            404 => Err(Error::NotFound { model: what.into(), url: self.url("").await?.to_string(), message }),
            status => Err(self.failed(format!("HTTP {status}: {message}"))),
        }
    }

    fn failed(&self, message: String) -> Error {
        Error::Unreachable {
            provider: self.0.config.name.to_string(),
            base_url: self.0.config.base_url.clone(),
            message,
        }
    }
}
