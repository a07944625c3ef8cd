//! What `crewline init` finds on this machine, and the registry it writes from it.
//!
//! **Invariant:** only loopback is asked, each server for at most 300 ms, all at once.
//! **Invariant:** a key is looked for, never read out: the registry names its environment variable.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use crewline_types::model::Locality;
use futures::future::join_all;
use tokio::time::timeout;

use crate::{
    ListedModel, Mode,
    providers::{http_client, parse_list},
    setup::{LOCAL_CONTEXT_WINDOW, LOCAL_MODEL, LOCAL_PARALLEL, LocalParts},
};

/// How long a server may take to list its models.
const ASK_LIMIT: Duration = Duration::from_millis(300);
/// Bytes of a list of models that are read.
const LIST_MAX: usize = 4 << 20;
/// Models of one server that the registry names.
const MODELS_MAX: usize = 3;

/// The servers that are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// Port 11434.
    Ollama,
    /// Port 1234.
    LmStudio,
    /// Port 8000.
    Vllm,
    /// Port 8080.
    LlamaServer,
}

impl ServerKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ollama, Self::LmStudio, Self::Vllm, Self::LlamaServer];

    /// The name people know.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ollama => "Ollama",
            Self::LmStudio => "LM Studio",
            Self::Vllm => "vLLM",
            Self::LlamaServer => "llama-server",
        }
    }

    /// The name in the registry.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::LmStudio => "lm_studio",
            Self::Vllm => "vllm",
            Self::LlamaServer => "llama_server",
        }
    }

    /// The protocol to ask it by, and the end of its address.
    fn protocol(self) -> (&'static str, &'static str) {
        match self {
            // Its own protocol sets the context window; its OpenAI door cuts prompts to a small default.
            Self::Ollama => ("ollama", ""),
            Self::LmStudio | Self::Vllm | Self::LlamaServer => ("openai_compatible", "/v1"),
        }
    }

    /// The port it usually has.
    pub fn port(self) -> u16 {
        match self {
            Self::Ollama => 11_434,
            Self::LmStudio => 1_234,
            Self::Vllm => 8_000,
            Self::LlamaServer => 8_080,
        }
    }

    /// The window to assume when the server does not say; both defaults of these servers are small.
    fn context_window(self) -> u32 {
        match self {
            Self::Ollama | Self::LmStudio => 4_096,
            Self::Vllm | Self::LlamaServer => 8_192,
        }
    }
}

/// A key in the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFound {
    /// `OPENAI_API_KEY`.
    OpenAi,
    /// `ANTHROPIC_API_KEY`.
    Anthropic,
    /// `OPENROUTER_API_KEY`.
    OpenRouter,
}

impl KeyFound {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::OpenAi, Self::Anthropic, Self::OpenRouter];

    /// The environment variable.
    pub fn variable(self) -> &'static str {
        match self {
            Self::OpenAi => "OPENAI_API_KEY",
            Self::Anthropic => "ANTHROPIC_API_KEY",
            Self::OpenRouter => "OPENROUTER_API_KEY",
        }
    }
}

/// A server that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFound {
    /// Which.
    pub kind: ServerKind,
    /// Its address.
    pub base_url: String,
    /// Its models, in its order.
    pub models: Vec<ListedModel>,
}

/// The local model that crewline can start itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedParts {
    /// The server's command with `{model}`, `{port}` and `{threads}`.
    pub command: Vec<String>,
    /// The model file.
    pub model: PathBuf,
    /// The name the server gives the model.
    pub name: String,
    /// Tokens of prompt and answer of one request.
    pub context_window: u32,
    /// Requests at once.
    pub parallel: u32,
}

impl ManagedParts {
    /// What `crewline setup --local` has installed; `None` when model or server is missing.
    pub fn of(parts: &LocalParts) -> Option<Self> {
        Some(Self {
            command: parts.server.clone()?,
            model: parts.instruct.clone()?,
            name: LOCAL_MODEL.to_owned(),
            context_window: LOCAL_CONTEXT_WINDOW,
            parallel: LOCAL_PARALLEL,
        })
    }
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Keys in the environment.
    pub keys: Vec<KeyFound>,
    /// Servers on this machine.
    pub servers: Vec<ServerFound>,
    /// The local model of the data directory.
    pub managed: Option<ManagedParts>,
    /// The data directory, which the registry writes as `{data_dir}`.
    pub data_dir: PathBuf,
}

impl Found {
    /// Whether a registry can be written from it.
    pub fn is_usable(&self) -> bool {
        !self.keys.is_empty()
            || self.servers.iter().any(|it| chat_models(it).next().is_some())
            || self.managed.is_some()
    }
}

/// What to do when nothing was found, a line each.
pub const NEXT_STEPS: [&str; 3] = [
    "set `OPENAI_API_KEY`, `ANTHROPIC_API_KEY` or `OPENROUTER_API_KEY`, then run `crewline init`",
    "start Ollama, LM Studio, vLLM or llama-server, then run `crewline init`",
    "run `crewline setup --local` for a small model without any key, then `crewline init`",
];

/// Looks for keys, for servers on this machine, and for the local model of the data directory.
pub fn detect(env: &dyn Fn(&str) -> Option<String>, data_dir: &Path) -> impl Future<Output = Found> + Send + use<> {
    let is_set = |key: &KeyFound| env(key.variable()).is_some_and(|it| !it.trim().is_empty());
    let keys = KeyFound::ALL.into_iter().filter(is_set).collect();
    let data_dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let managed = ManagedParts::of(&LocalParts::find(&data_dir));
    async move {
        let servers = servers(ServerKind::ALL.map(|kind| (kind, kind.port()))).await;
        Found { keys, servers, managed, data_dir }
    }
}

/// Asks servers for their models, all at once.
async fn servers(places: impl IntoIterator<Item = (ServerKind, u16)>) -> Vec<ServerFound> {
    let Ok(client) = http_client(Locality::Loopback, false, Mode::Offline, ASK_LIMIT) else { return Vec::new() };
    let asked = places.into_iter().map(|(kind, port)| {
        let client = &client;
        async move {
            let root = format!("http://127.0.0.1:{port}");
            let base_url = format!("{root}{}", kind.protocol().1);
            let fetch = async {
                // All of them have this list, whatever else they speak.
                let mut response = client.get(format!("{root}/v1/models")).send().await.ok()?;
                let mut body = Vec::new();
                while let Some(chunk) = response.chunk().await.ok()? {
                    body.extend_from_slice(&chunk);
                    if body.len() > LIST_MAX {
                        return None;
                    }
                }
                response.status().is_success().then_some(body)
            };
            let body = timeout(ASK_LIMIT, fetch).await.ok()??;
            Some(ServerFound { kind, models: parse_list(&body)?, base_url })
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// The models of a server that seem to chat.
fn chat_models(server: &ServerFound) -> impl Iterator<Item = &ListedModel> {
    let is_other = |id: &str| ["embed", "rerank", "whisper", "tts", "bge-", "minilm"].iter().any(|it| id.contains(it));
    server.models.iter().filter(move |it| !is_other(&it.id.to_ascii_lowercase())).take(MODELS_MAX)
}

/// A model of the registry that is written.
struct Line {
    alias: String,
    text: String,
}

/// The registry for what was found; `None` when nothing was.
pub fn registry_yaml(found: &Found) -> Option<String> {
    if !found.is_usable() {
        return None;
    }
    let mut providers = String::new();
    let mut models: Vec<Line> = Vec::new();
    let mut aliases = BTreeSet::new();
    for server in &found.servers {
        write_server(server, &mut providers, &mut models, &mut aliases);
    }
    for key in &found.keys {
        write_key(*key, &mut providers, &mut models, &mut aliases);
    }
    // A very small model helps only where there is no better one.
    let is_managed_only = models.is_empty();
    if let (true, Some(parts)) = (is_managed_only, &found.managed) {
        write_managed(parts, &found.data_dir, &mut providers, &mut models);
    }
    let chain = models.iter().map(|it| quote(&it.alias)).collect::<Vec<_>>().join(", ");
    let mut text = String::from(
        "# The crewline registry: who answers, which models, which role asks which model.\n\
         # `crewline registry check` checks it, `crewline registry schema` prints its JSON Schema.\n\
         version: 1\n\nproviders:\n",
    );
    text.push_str(&providers);
    text.push_str(
        "\n# Prices are US dollars for a million tokens. Without a price, `--max-cost` refuses a model.\nmodels:\n",
    );
    for model in &models {
        text.push_str(&model.text);
    }
    let _ = write!(
        text,
        "\n# Models from cheap to expensive: the next one is asked when one fails.\n\
         roles:\n  default: {{chain: [{chain}]}}\n  manager: {{chain: [{chain}]}}\n\
         \npolicies:\n  attempts_max: 2\n  plan_tasks_max: {}\n{}",
        if is_managed_only { 4 } else { 8 },
        if is_managed_only {
            "  # A small model tends to stop after the first task; its provider enforces the schema that asks for more.\n  \
             plan_tasks_min: 3\n"
        } else {
            ""
        }
    );
    Some(text)
}

fn write_server(server: &ServerFound, providers: &mut String, models: &mut Vec<Line>, aliases: &mut BTreeSet<String>) {
    let name = server.kind.name();
    let mut is_first = true;
    for model in chat_models(server) {
        if std::mem::take(&mut is_first) {
            let _ = write!(
                providers,
                "  # {}, found on this machine.\n  {name}:\n    type: {}\n    base_url: {}\n",
                server.kind.label(),
                server.kind.protocol().0,
                quote(&server.base_url)
            );
        }
        let alias = alias(&model.id, aliases);
        let (window, note) = match model.context_window {
            Some(window) => (window.max(512), ""),
            None => (server.kind.context_window(), "  # the server does not say: set what it really has"),
        };
        let text = format!(
            "  {}:\n    provider: {name}\n    model: {}\n    context_window: {window}{note}\n    \
             price: {{input_per_million: 0, output_per_million: 0}}\n    \
             timeouts: {{first_token: 5m, idle: 2m, total: 10m}}\n    limits: {{concurrency: 4}}\n",
            quote(&alias),
            quote(&model.id)
        );
        models.push(Line { alias, text });
    }
}

fn write_key(key: KeyFound, providers: &mut String, models: &mut Vec<Line>, aliases: &mut BTreeSet<String>) {
    struct Known {
        id: &'static str,
        window: u32,
        output: u32,
        price: (f64, f64),
    }
    const OPENAI: [Known; 2] = [
        Known { id: "gpt-4.1-mini", window: 1_000_000, output: 16_384, price: (0.4, 1.6) },
        Known { id: "gpt-4.1", window: 1_000_000, output: 16_384, price: (2.0, 8.0) },
    ];
    const ANTHROPIC: [Known; 2] = [
        Known { id: "claude-haiku-4-5", window: 200_000, output: 16_384, price: (1.0, 5.0) },
        Known { id: "claude-sonnet-4-5", window: 200_000, output: 16_384, price: (3.0, 15.0) },
    ];
    const OPENROUTER: [Known; 2] = [
        Known { id: "openai/gpt-4.1-mini", window: 1_000_000, output: 16_384, price: (0.4, 1.6) },
        Known { id: "anthropic/claude-sonnet-4.5", window: 200_000, output: 16_384, price: (3.0, 15.0) },
    ];
    let (name, kind, base_url, known) = match key {
        KeyFound::OpenAi => ("openai", "openai_compatible", "https://api.openai.com/v1", &OPENAI),
        KeyFound::Anthropic => ("anthropic", "anthropic", "https://api.anthropic.com/v1", &ANTHROPIC),
        KeyFound::OpenRouter => ("openrouter", "openai_compatible", "https://openrouter.ai/api/v1", &OPENROUTER),
    };
    let _ = write!(
        providers,
        "  {name}:\n    type: {kind}\n    base_url: {base_url}\n    api_key: env:{}\n",
        key.variable()
    );
    for Known { id, window, output, price } in known {
        let alias = alias(id, aliases);
        let text = format!(
            "  {}:\n    provider: {name}\n    model: {id}\n    context_window: {window}\n    output_tokens_max: {output}\n    \
             price: {{input_per_million: {:?}, output_per_million: {:?}}}  # check with the provider\n",
            quote(&alias),
            price.0,
            price.1
        );
        models.push(Line { alias, text });
    }
}

fn write_managed(parts: &ManagedParts, data_dir: &Path, providers: &mut String, models: &mut Vec<Line>) {
    let data_dir = data_dir.display().to_string();
    let portable =
        |text: &str| if data_dir.is_empty() { text.to_owned() } else { text.replace(&data_dir, "{data_dir}") };
    let command = parts.command.iter().map(|it| quote(&portable(it))).collect::<Vec<_>>().join(", ");
    let _ = write!(
        providers,
        "  # A small model on this machine; crewline starts and stops its server.\n  local:\n    type: openai_compatible\n    \
         managed:\n      command: [{command}]\n      model: {}\n      health: /health\n      start_timeout: 2m\n",
        quote(&portable(&parts.model.display().to_string()))
    );
    let text = format!(
        "  local:\n    provider: local\n    model: {}\n    context_window: {}\n    output_tokens_max: 256\n    \
         # It runs here and costs nothing.\n    price: {{input_per_million: 0, output_per_million: 0}}\n    \
         timeouts: {{first_token: 5m, idle: 2m, total: 10m}}\n    limits: {{concurrency: {}}}\n    \
         params: {{repeat_penalty: 1.1}}\n    temperature: 0.2\n",
        quote(&parts.name),
        parts.context_window,
        parts.parallel
    );
    models.push(Line { alias: "local".to_owned(), text });
}

/// A free alias for a model identifier.
pub(crate) fn alias(id: &str, taken: &mut BTreeSet<String>) -> String {
    let base: String = id
        .rsplit('/')
        .next()
        .unwrap_or(id)
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
        .take(48)
        .collect();
    let base = if base.is_empty() { "model".to_owned() } else { base };
    let mut alias = base.clone();
    let mut number = 2;
    while !taken.insert(alias.clone()) {
        alias = format!("{base}-{number}");
        number += 1;
    }
    alias
}

/// A YAML text in double quotes where it needs them.
pub(crate) fn quote(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_ascii_lowercase().as_str());
    if is_plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests;
