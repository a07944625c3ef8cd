//! The door: one handle for all models of a registry.
//!
//! **Invariant:** a model is asked within its `limits`, whoever asks.
//! **Invariant:** a call keeps the registry it began with, whatever is loaded meanwhile.
//! **Invariant:** a handle starts no server and opens no connection before the first call that needs one.

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use crewline_types::ModelAlias;

use crate::{
    ChatReply, ChatRequest, EmbedReply, Error, ListedModel, Listener, Mode, ModelConfig, Registry,
    gate::{Gate, Limits},
    managed::Managed,
    mcp::McpServers,
    metrics,
    metrics::ModelMetrics,
    providers::Transport,
    request::estimate_tokens,
    requests::RequestLog,
    runtimes::{LoadOptions, PullProgress, Runtime, RuntimeStatus},
    traffic::Tally,
};

/// What the handle is given.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where managed servers keep logs and find their files (`{data_dir}`).
    pub data_dir: PathBuf,
    /// The own program, which knows the hidden subcommand `managed-guard`. Without it a managed server survives `kill -9` of crewline.
    pub guard: Option<PathBuf>,
    /// Whether remote hosts may be reached.
    pub mode: Mode,
    /// Reads the environment, for what servers of tools are given of it.
    pub env: Option<crate::Env>,
    /// Where requests are logged, if they are.
    pub requests: Option<Arc<RequestLog>>,
}

/// The models of a registry. Cheap to clone; all clones change together.
#[derive(Clone)]
pub struct Models {
    shared: Arc<Shared>,
    /// Who is told of the bytes of its calls, beside the metrics.
    tally: Option<Tally>,
}

struct Shared {
    options: Arc<Options>,
    mcp: McpServers,
    current: RwLock<Arc<Inner>>,
}

/// What belongs to one registry. A call keeps the one it began with.
struct Inner {
    registry: Arc<Registry>,
    lanes: HashMap<ModelAlias, Lane>,
    providers: HashMap<Arc<str>, Arc<Transport>>,
}

struct Lane {
    config: Arc<ModelConfig>,
    provider: Arc<Transport>,
    gate: Arc<Gate>,
    /// Registered at the first call, so that a recorder installed after start-up is not missed.
    metrics: OnceLock<ModelMetrics>,
}

impl fmt::Debug for Models {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Models")
            .field("registry", &self.registry())
            .field("mode", &self.mode())
            .finish_non_exhaustive()
    }
}

impl Models {
    /// A handle for the models of `registry`.
    pub fn new(registry: Arc<Registry>, options: Options) -> Result<Self, Error> {
        metrics::describe();
        let inner = Inner::new(registry, &options, None)?;
        let mcp = McpServers::new(&options);
        let current = RwLock::new(Arc::new(inner));
        Ok(Self { shared: Arc::new(Shared { options: Arc::new(options), mcp, current }), tally: None })
    }

    /// Takes another registry, at once for all clones. Calls under way end with the one they began with; providers that did not
    /// change keep their connections and their servers. On an error nothing changes.
    pub fn reload(&self, registry: Arc<Registry>) -> Result<(), Error> {
        let mut current = self.shared.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(Inner::new(registry, &self.shared.options, Some(&current))?);
        Ok(())
    }

    /// The models as they are now; a later [`Self::reload`] of this handle does not change them.
    #[must_use]
    pub fn pinned(&self) -> Self {
        let Shared { options, mcp, .. } = &*self.shared;
        let current = RwLock::new(self.current());
        let shared = Shared { options: Arc::clone(options), mcp: mcp.clone(), current };
        Self { shared: Arc::new(shared), tally: self.tally.clone() }
    }

    /// The same models, of whose calls `tally` is told what they send and receive.
    #[must_use]
    pub fn tallied(&self, tally: Tally) -> Self {
        Self { shared: Arc::clone(&self.shared), tally: Some(tally) }
    }

    fn current(&self) -> Arc<Inner> {
        Arc::clone(&self.shared.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The registry behind it.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.current().registry)
    }

    /// Whether remote hosts may be reached.
    pub fn mode(&self) -> Mode {
        self.shared.options.mode
    }

    /// The servers of tools.
    pub fn mcp(&self) -> &McpServers {
        &self.shared.mcp
    }

    /// Asks a model. Dropping the future cancels the call and closes its connection.
    pub async fn chat(&self, model: &ModelAlias, request: &ChatRequest) -> Result<ChatReply, Error> {
        self.ask(model, request, None).await
    }

    /// The same, as a stream: `listener` hears the pieces as they come. Only the reply is an answer; a call may still fail.
    pub async fn chat_stream(
        &self,
        model: &ModelAlias,
        request: &ChatRequest,
        listener: Listener<'_>,
    ) -> Result<ChatReply, Error> {
        self.ask(model, request, Some(listener)).await
    }

    async fn ask(
        &self,
        model: &ModelAlias,
        request: &ChatRequest,
        listener: Option<Listener<'_>>,
    ) -> Result<ChatReply, Error> {
        let inner = self.current();
        let lane = inner.lane(model)?;
        let metrics = lane.metrics.get_or_init(|| ModelMetrics::new(&lane.config));
        let output_tokens_max = request.output_tokens_max.min(lane.config.spec.output_tokens_max);
        let turn = lane.gate.turn(model, request.input_tokens() + u64::from(output_tokens_max)).await?;
        metrics.waited(turn.waited);
        let meter = metrics.call();
        let result = lane.provider.chat(&lane.config, request, listener, self.tally.as_ref()).await;
        meter.end(&result);
        if let Some(log) = &self.shared.options.requests {
            log.record(model, &lane.config.spec.provider, request, &result);
        }
        if let Ok(reply) = &result {
            turn.used(&reply.usage);
        }
        match &result {
            Ok(reply) => tracing::debug!(
                %model,
                provider = %lane.config.spec.provider,
                tokens_in = reply.usage.input_tokens,
                tokens_out = reply.usage.output_tokens,
                elapsed_ms = reply.elapsed.as_millis(),
                "model answered"
            ),
            Err(error) => tracing::debug!(
                %model,
                provider = %lane.config.spec.provider,
                error.code = error.code(),
                "model call failed"
            ),
        }
        result
    }

    /// Vectors for texts, from a model that makes them.
    pub async fn embed(&self, model: &ModelAlias, texts: &[&str]) -> Result<EmbedReply, Error> {
        let inner = self.current();
        let lane = inner.lane(model)?;
        let tokens = texts.iter().map(|text| estimate_tokens(text)).sum();
        let turn = lane.gate.turn(model, tokens).await?;
        let reply = lane.provider.embed(&lane.config, texts).await?;
        turn.used(&reply.usage);
        Ok(reply)
    }

    /// What a provider offers: whether it is there and takes the key. Starts a managed server.
    pub async fn list(&self, provider: &str) -> Result<Vec<ListedModel>, Error> {
        self.current().transport(provider)?.list().await
    }

    /// What a provider has, and what of it is loaded. Starts nothing.
    pub async fn runtime(&self, provider: &str) -> Result<RuntimeStatus, Error> {
        Runtime(self.current().transport(provider)?).status().await
    }

    /// Loads a model of a local server, and waits until it is there.
    pub async fn load(&self, provider: &str, model: &str, options: LoadOptions) -> Result<(), Error> {
        Runtime(self.current().transport(provider)?).load(model, options).await
    }

    /// Takes a model of a local server out of memory.
    pub async fn unload(&self, provider: &str, model: &str) -> Result<(), Error> {
        Runtime(self.current().transport(provider)?).unload(model).await
    }

    /// Lets a local server download a model; `hear` is told how far it is.
    pub async fn pull(
        &self,
        provider: &str,
        model: &str,
        hear: &(dyn Fn(PullProgress) + Send + Sync),
    ) -> Result<(), Error> {
        Runtime(self.current().transport(provider)?).pull(model, hear).await
    }

    /// Stops the servers that were started. A later call starts them again.
    pub async fn shutdown(&self) {
        let inner = self.current();
        let servers = inner.providers.values().filter_map(|it| it.managed());
        let models = futures::future::join_all(servers.map(Managed::shutdown));
        futures::future::join(models, self.shared.mcp.shutdown()).await;
    }
}

impl Inner {
    /// What a registry needs; what `earlier` has of it is taken over.
    fn new(registry: Arc<Registry>, options: &Options, earlier: Option<&Self>) -> Result<Self, Error> {
        let mut providers: HashMap<Arc<str>, Arc<Transport>> = HashMap::new();
        for config in registry.providers() {
            let own = registry.models().filter(|it| it.provider.name == config.name);
            let connect_limits: Vec<Duration> = own.map(|it| it.spec.timeouts.connect).collect();
            let kept = earlier
                .and_then(|it| it.providers.get(&config.name))
                .filter(|it| it.serves(config, connect_limits.iter().copied()));
            let transport = kept.map_or_else(
                || {
                    let managed = Managed::new(config, &options.data_dir, options.guard.as_deref());
                    Arc::new(Transport::new(Arc::clone(config), options.mode, managed, connect_limits))
                },
                Arc::clone,
            );
            providers.insert(Arc::clone(&config.name), transport);
        }
        let mut lanes = HashMap::new();
        for config in registry.models() {
            let Some(provider) = providers.get(&config.provider.name) else {
                return Err(Error::UnknownProvider { provider: config.provider.name.to_string() });
            };
            let limits = Limits { concurrency: config.spec.concurrency_max, rates: config.rates };
            // Calls under way and those of the last minute count on, unless the limits themselves changed.
            let kept = earlier.and_then(|it| it.lanes.get(&config.spec.alias));
            let kept = kept.filter(|it| it.gate.limits() == limits).map(|it| Arc::clone(&it.gate));
            let lane = Lane {
                config: Arc::clone(config),
                provider: Arc::clone(provider),
                gate: kept.unwrap_or_else(|| Arc::new(Gate::new(limits))),
                metrics: OnceLock::new(),
            };
            lanes.insert(config.spec.alias.clone(), lane);
        }
        Ok(Self { registry, lanes, providers })
    }

    fn lane(&self, model: &ModelAlias) -> Result<&Lane, Error> {
        self.lanes.get(model).ok_or_else(|| Error::UnknownModel { alias: model.clone() })
    }

    fn transport(&self, provider: &str) -> Result<&Transport, Error> {
        let found = self.providers.get(provider).map(Arc::as_ref);
        found.ok_or_else(|| Error::UnknownProvider { provider: provider.to_owned() })
    }
}
