//! The door: one handle for all models of a registry.
//!
//! **Invariant:** a model never has more calls under way than its `limits.concurrency`.
//! **Invariant:** a handle starts no server and opens no connection before the first call that needs one.

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use crewline_types::ModelAlias;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    ChatReply, ChatRequest, Error, ListedModel, Mode, ModelConfig, ModelProvider, Phase, Registry, managed::Managed,
    metrics, metrics::ModelMetrics, providers::openai_compatible::OpenAiCompatible,
};

/// How long a call may wait for a place among the calls a model takes at once.
pub const QUEUE_LIMIT: Duration = Duration::from_hours(1);

/// What the handle is given.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where managed servers keep logs and find their files (`{data_dir}`).
    pub data_dir: PathBuf,
    /// The own program, which knows the hidden subcommand `managed-guard`. Without it a managed server survives `kill -9` of crewline.
    pub guard: Option<PathBuf>,
    /// Whether remote hosts may be reached.
    pub mode: Mode,
}

/// The models of one registry. Cheap to clone.
#[derive(Clone)]
pub struct Models(Arc<Inner>);

struct Inner {
    registry: Arc<Registry>,
    lanes: HashMap<ModelAlias, Lane>,
    providers: HashMap<Arc<str>, Arc<dyn ModelProvider>>,
    mode: Mode,
}

struct Lane {
    config: Arc<ModelConfig>,
    provider: Arc<dyn ModelProvider>,
    places: Option<Semaphore>,
    /// Registered at the first call, so that a recorder installed after start-up is not missed.
    metrics: OnceLock<ModelMetrics>,
}

impl fmt::Debug for Models {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Models")
            .field("registry", &self.0.registry)
            .field("mode", &self.0.mode)
            .finish_non_exhaustive()
    }
}

impl Models {
    /// A handle for the models of `registry`.
    pub fn new(registry: Arc<Registry>, options: Options) -> Result<Self, Error> {
        metrics::describe();
        let Options { data_dir, guard, mode } = options;
        let mut providers: HashMap<Arc<str>, Arc<dyn ModelProvider>> = HashMap::new();
        for config in registry.providers() {
            let own = registry.models().filter(|it| it.provider.name == config.name);
            let connect_limits: Vec<Duration> = own.map(|it| it.spec.timeouts.connect).collect();
            let managed = Managed::new(config, &data_dir, guard.as_deref());
            let provider = OpenAiCompatible::new(Arc::clone(config), mode, managed, connect_limits);
            providers.insert(Arc::clone(&config.name), Arc::new(provider));
        }
        let mut lanes = HashMap::new();
        for config in registry.models() {
            let Some(provider) = providers.get(&config.provider.name) else {
                return Err(Error::UnknownProvider { provider: config.provider.name.to_string() });
            };
            let lane = Lane {
                config: Arc::clone(config),
                provider: Arc::clone(provider),
                places: config.spec.concurrency_max.map(|it| Semaphore::new(it as usize)),
                metrics: OnceLock::new(),
            };
            lanes.insert(config.spec.alias.clone(), lane);
        }
        Ok(Self(Arc::new(Inner { registry, lanes, providers, mode })))
    }

    /// The registry behind it.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.0.registry
    }

    /// Whether remote hosts may be reached.
    pub fn mode(&self) -> Mode {
        self.0.mode
    }

    /// Asks a model. Dropping the future cancels the call and closes its connection.
    pub async fn chat(&self, model: &ModelAlias, request: &ChatRequest) -> Result<ChatReply, Error> {
        let Some(lane) = self.0.lanes.get(model) else {
            return Err(Error::UnknownModel { alias: model.clone() });
        };
        let _place = match &lane.places {
            None => None,
            Some(places) => match timeout(QUEUE_LIMIT, places.acquire()).await {
                // The semaphore is never closed.
                Ok(place) => place.ok(),
                Err(_) => {
                    return Err(Error::Timeout { model: model.clone(), phase: Phase::Queue, limit: QUEUE_LIMIT });
                }
            },
        };
        let meter = lane.metrics.get_or_init(|| ModelMetrics::new(&lane.config)).call();
        let result = lane.provider.chat(&lane.config, request).await;
        meter.end(&result);
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

    /// What a provider offers: whether it is there and takes the key. Starts a managed server.
    pub async fn list(&self, provider: &str) -> Result<Vec<ListedModel>, Error> {
        match self.0.providers.get(provider) {
            Some(provider) => provider.list().await,
            None => Err(Error::UnknownProvider { provider: provider.to_owned() }),
        }
    }

    /// Stops the servers that were started. A later call starts them again.
    pub async fn shutdown(&self) {
        futures::future::join_all(self.0.providers.values().map(|it| it.shutdown())).await;
    }
}
