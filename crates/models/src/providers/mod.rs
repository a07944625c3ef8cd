//! The providers: one file for each protocol, and what they share.
//!
//! `transport` connects, `exchange` sends and waits, `answer` collects, `sse` and `lines` cut streams; a protocol only translates.

mod answer;
mod anthropic;
mod exchange;
mod http;
pub mod lines;
mod ollama;
mod openai_compatible;
mod openai_responses;
mod params;
mod reply;
pub mod sse;
mod transport;

use std::time::Duration;

use crewline_types::Usage;
use reqwest::{Client, Request, StatusCode};
use tokio::time::{Instant, timeout, timeout_at};

pub(crate) use self::{
    answer::{Answer, Fault},
    http::{client as http_client, excerpt, root_cause},
    lines::LineBuffer,
    openai_compatible::parse_list,
    transport::{Transport, below},
};
use self::{
    exchange::{EXCERPT_MAX, Exchange, REPLY_MAX},
    http::{embedded_error, status_error, transport_error},
};
use crate::{
    ChatReply, ChatRequest, EmbedReply, Error, ListedModel, ModelConfig, Phase,
    provider::Outgoing,
    request::{Listener, estimate_tokens},
    traffic::Tally,
};

/// How long the list of models may take.
const LIST_LIMIT: Duration = Duration::from_secs(10);
/// Texts that are embedded with one call.
const EMBED_BATCH: usize = 32;

impl Transport {
    /// Asks `model`. The limits on time are those of `model`.
    pub(crate) async fn chat(
        &self,
        model: &ModelConfig,
        request: &ChatRequest,
        listener: Option<Listener<'_>>,
        tally: Option<&Tally>,
    ) -> Result<ChatReply, Error> {
        self.admit()?;
        let endpoint = self.endpoint().await?;
        let client = self.client(model.spec.timeouts.connect).await?;
        let told = match &request.schema {
            Some(schema) if !model.spec.has_json_schema => Some(request.with_instruction(&schema.instruction())),
            Some(_) | None => None,
        };
        let is_streaming = self.config.is_streaming || listener.is_some();
        let outgoing = Outgoing { model, request: told.as_ref().unwrap_or(request), is_streaming };
        let started = Instant::now();
        let exchange = Exchange { outgoing, transport: self, endpoint: &endpoint, started, listener, tally };
        exchange.chat(client).await
    }

    /// The models it offers; a cheap way to see whether it is there and takes the key.
    pub(crate) async fn list(&self) -> Result<Vec<ListedModel>, Error> {
        let provider = self.config.name.to_string();
        let (status, body) = self.fetch(self.provider.list_path()).await?;
        let unreachable = |message| Error::Unreachable {
            provider: provider.clone(),
            base_url: self.config.base_url.clone(),
            message,
        };
        match status.as_u16() {
            200 => self
                .provider
                .read_list(&body)
                .ok_or_else(|| unreachable("the list of models has an unknown form".to_owned())),
            // A server may have no list and answer all the same.
            404 | 405 | 501 => Ok(Vec::new()),
            401 | 403 => Err(Error::KeyMissing {
                provider: provider.clone(),
                reason: format!("the provider refuses it (HTTP {})", status.as_u16()),
                help: "check the key behind `api_key`".into(),
            }),
            status => Err(unreachable(format!("HTTP {status}: {}", excerpt(&body, EXCERPT_MAX, self.secrets())))),
        }
    }

    /// A small document below the base address.
    async fn fetch(&self, path: &str) -> Result<(StatusCode, Vec<u8>), Error> {
        self.admit()?;
        let endpoint = self.endpoint().await?;
        let client = self.client(Duration::from_secs(5)).await?;
        self.exchange(client, self.get(below(&endpoint.base, path)), LIST_LIMIT).await
    }

    /// Sends a request that asks no model, and reads its answer.
    pub(crate) async fn exchange(
        &self,
        client: &Client,
        request: Request,
        limit: Duration,
    ) -> Result<(StatusCode, Vec<u8>), Error> {
        let unreachable = |message: String| Error::Unreachable {
            provider: self.config.name.to_string(),
            base_url: self.config.base_url.clone(),
            message,
        };
        let mut passing = self.passing(&request, None);
        let fetch = async {
            let response = client.execute(request).await.inspect_err(|error| passing.failed(error));
            let mut response = response.map_err(|error| unreachable(root_cause(&error)))?;
            let status = response.status();
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(root_cause(&error)))? {
                passing.received(chunk.len());
                body.extend_from_slice(&chunk);
                if body.len() > REPLY_MAX {
                    return Err(unreachable(format!("its answer is larger than {REPLY_MAX} bytes")));
                }
            }
            Ok((status, body))
        };
        timeout(limit, fetch).await.map_err(|_| unreachable(format!("no answer within {limit:?}")))?
    }

    /// Vectors for texts, in their order.
    pub(crate) async fn embed(&self, model: &ModelConfig, texts: &[&str]) -> Result<EmbedReply, Error> {
        self.admit()?;
        let Some(embedding) = self.provider.embedding() else {
            return Err(Error::Unsupported { provider: self.config.name.to_string(), what: "embeddings" });
        };
        let endpoint = self.endpoint().await?;
        let url = below(&endpoint.base, embedding.path());
        let client = self.client(model.spec.timeouts.connect).await?;
        let started = Instant::now();
        let (alias, limit) = (&model.spec.alias, model.spec.timeouts.total);
        let bad = |message: String| Error::BadReply { model: alias.clone(), message };
        let mut reply =
            EmbedReply { vectors: Vec::with_capacity(texts.len()), usage: Usage::default(), elapsed: Duration::ZERO };
        for batch in texts.chunks(EMBED_BATCH) {
            let body = serde_json::to_vec(&embedding.body(&model.model, batch))
                .map_err(|error| Error::Client { message: error.to_string() })?;
            let sent = body.len() as u64;
            let request = self.post(url.clone(), body);
            let mut passing = self.passing(&request, None);
            let ask = async {
                let response = client.execute(request).await.inspect_err(|error| passing.failed(error));
                let mut response = response.map_err(|error| transport_error(&error, model, endpoint.base_url()))?;
                let mut body = Vec::new();
                while let Some(chunk) =
                    response.chunk().await.map_err(|error| transport_error(&error, model, endpoint.base_url()))?
                {
                    passing.received(chunk.len());
                    body.extend_from_slice(&chunk);
                    if body.len() > REPLY_MAX {
                        return Err(Error::TooLarge { model: alias.clone(), limit: REPLY_MAX });
                    }
                }
                if response.status() != StatusCode::OK {
                    return Err(status_error(
                        response.status(),
                        response.headers(),
                        &body,
                        model,
                        url.as_str(),
                        self.secrets(),
                    ));
                }
                Ok(body)
            };
            let body = timeout_at(started + limit, ask).await.map_err(|_| Error::Timeout {
                model: alias.clone(),
                phase: Phase::Total,
                limit,
            })??;
            let (vectors, tokens) = embedding.read(&body).map_err(|fault| match fault {
                Fault::Complaint(complaint) => embedded_error(&complaint, model, url.as_str(), self.secrets()),
                Fault::Bad(message) => bad(message),
                Fault::TooLarge(limit) => Error::TooLarge { model: alias.clone(), limit },
            })?;
            let length = reply.vectors.first().or(vectors.first()).map_or(0, Vec::len);
            if vectors.len() != batch.len() || length == 0 || vectors.iter().any(|it| it.len() != length) {
                return Err(bad(format!("{} texts were sent, and {} vectors came", batch.len(), vectors.len())));
            }
            // A token is at least a byte of the text.
            reply.usage.estimated |= tokens.is_none_or(|it| it > sent);
            reply.usage.input_tokens += match tokens {
                Some(tokens) if tokens <= sent => tokens,
                Some(_) | None => batch.iter().map(|it| estimate_tokens(it)).sum(),
            };
            reply.vectors.extend(vectors);
        }
        reply.elapsed = started.elapsed();
        Ok(reply)
    }
}
