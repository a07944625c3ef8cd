//! The registry file as it is written; the JSON Schema comes from these types.
//!
//! **Invariant:** the doc comments here are the descriptions people see in their editor.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use crewline_types::time::parse_duration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{
    mcp::McpEntry,
    routes::RouteEntry,
    shadow::ShadowEntry,
    tools::{RoleCommands, Rules, StepsEntry},
};

/// The crewline registry: providers, models, roles and policies.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// The version of this format: 1.
    #[schemars(range(min = 1, max = 1))]
    #[expect(dead_code, reason = "the schema says what it must be")]
    pub(crate) version: u32,
    /// Who answers: a name of your choice for each endpoint.
    pub(crate) providers: BTreeMap<String, Provider>,
    /// The models: a name of your choice for each (its alias).
    pub(crate) models: BTreeMap<String, Model>,
    /// The roles and the models they ask. `default` is for roles that are not named.
    pub(crate) roles: BTreeMap<String, RoleEntry>,
    /// Servers whose tools specialists may call (Model Context Protocol): a name of your choice for each.
    #[serde(default)]
    pub(crate) mcp_servers: BTreeMap<String, McpEntry>,
    /// What holds for all runs.
    #[serde(default)]
    pub(crate) policies: PoliciesEntry,
}

/// One endpoint.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Provider {
    /// The protocol it speaks.
    #[serde(rename = "type")]
    pub(crate) kind: ProviderType,
    /// Its address up to and including `/v1` (for `ollama`, without it). May be left out for a managed server, and for `anthropic`,
    /// `openai_responses` and a local `ollama`.
    #[serde(default)]
    pub(crate) base_url: Option<String>,
    /// Where the key is: `env:NAME` or `file:PATH`. Local servers need none.
    #[serde(default)]
    #[schemars(regex(pattern = r"^(env|file):.+$"))]
    pub(crate) api_key: Option<String>,
    /// Further headers; a value may be `env:NAME` or `file:PATH`.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// Whether answers are streamed. Default: true for a managed server, else false.
    #[serde(default)]
    pub(crate) stream: Option<bool>,
    /// A server that crewline starts on loopback when it is needed, and stops at the end.
    #[serde(default)]
    pub(crate) managed: Option<Managed>,
}

/// The protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProviderType {
    /// `POST /chat/completions` as OpenAI, OpenRouter, vLLM, TGI, LM Studio, llama.cpp and Ollama's OpenAI door have it.
    OpenaiCompatible,
    /// `POST /responses` as OpenAI has it.
    OpenaiResponses,
    /// `POST /messages` as Anthropic has it.
    Anthropic,
    /// `POST /api/chat`, Ollama's own protocol: it sets the context window.
    Ollama,
}

impl ProviderType {
    /// Where a provider of this type is when the file does not say.
    pub(crate) fn home(self) -> Option<&'static str> {
        match self {
            Self::OpenaiCompatible => None,
            Self::OpenaiResponses => Some("https://api.openai.com/v1"),
            Self::Anthropic => Some("https://api.anthropic.com/v1"),
            Self::Ollama => Some("http://127.0.0.1:11434"),
        }
    }

    /// An example of its address.
    pub(crate) fn example(self) -> &'static str {
        self.home().unwrap_or("http://127.0.0.1:8080/v1")
    }

    /// The ends of an address that are the address of one call.
    pub(crate) fn call_paths(self) -> &'static [&'static str] {
        match self {
            Self::OpenaiCompatible => &["/chat/completions"],
            Self::OpenaiResponses => &["/responses", "/chat/completions"],
            Self::Anthropic => &["/messages"],
            Self::Ollama => &["/api/chat", "/api", "/v1"],
        }
    }
}

/// How a local server is started.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Managed {
    /// The program and its arguments; `{model}`, `{port}`, `{threads}` and `{data_dir}` are filled in.
    #[schemars(length(min = 1))]
    pub(crate) command: Vec<String>,
    /// The path that answers 200 once the server is ready. Default: `/health`.
    #[serde(default)]
    pub(crate) health: Option<String>,
    /// How long a start may take. Default: `60s`.
    #[serde(default)]
    pub(crate) start_timeout: Option<Span>,
    /// The model file for `{model}`; may contain `{data_dir}`.
    #[serde(default)]
    pub(crate) model: Option<String>,
}

/// One model.
#[expect(clippy::struct_field_names, reason = "the names people write")]
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Model {
    /// The name of its provider in this file.
    pub(crate) provider: String,
    /// Its identifier at the provider.
    pub(crate) model: String,
    /// Tokens of prompt and answer together.
    #[schemars(range(min = 1))]
    pub(crate) context_window: u32,
    /// Tokens of an answer at most. Default: the lesser of 4096 and a quarter of the window.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(crate) output_tokens_max: Option<u32>,
    /// How its tokens are counted: `o200k` (OpenAI's since GPT-4o), `cl100k` (GPT-4, GPT-3.5), the path of its `tokenizer.json`
    /// relative to this file, or `estimate`. Default: as the name of an OpenAI model says, else `estimate`.
    #[serde(default)]
    pub(crate) tokenizer: Option<String>,
    /// What it can do. Default: `[json_schema]`.
    #[serde(default)]
    pub(crate) capabilities: Option<Vec<Capability>>,
    /// What it costs; without it the price is unknown, and `--max-cost` refuses the model.
    #[serde(default)]
    pub(crate) price: Option<PriceEntry>,
    /// The limits of a call on time.
    #[serde(default)]
    pub(crate) timeouts: TimeoutsEntry,
    /// The limits of the model.
    #[serde(default)]
    pub(crate) limits: LimitsEntry,
    /// Merged into the request as it is (`repeat_penalty`, `top_p`, …); null leaves a standard field out.
    #[serde(default)]
    pub(crate) params: BTreeMap<String, serde_json::Value>,
    /// 0 to 1: an answer that the model itself is less sure of leads to the next model. Needs a provider that gives token
    /// probabilities (`logprobs`), of type `openai_compatible`.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    pub(crate) confidence_min: Option<f64>,
    /// 0 to 2, when neither the role nor the request says.
    #[serde(default)]
    #[schemars(range(min = 0, max = 2))]
    pub(crate) temperature: Option<f32>,
}

/// What a model can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Capability {
    /// Its answers follow a JSON Schema.
    JsonSchema,
    /// It calls tools.
    Tools,
    /// It reads images.
    Vision,
    /// It reasons before it answers.
    Reasoning,
}

/// US dollars for a million tokens.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PriceEntry {
    /// Dollars for a million tokens of prompt.
    #[schemars(range(min = 0))]
    pub(crate) input_per_million: f64,
    /// Dollars for a million tokens of answer.
    #[schemars(range(min = 0))]
    pub(crate) output_per_million: f64,
}

/// Limits on time, as `500ms`, `30s`, `2m`, `1h`; a bare number is seconds.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimeoutsEntry {
    /// Until the connection stands. Default: `5s`.
    #[serde(default)]
    pub(crate) connect: Option<Span>,
    /// Until the first token, when streaming. Default: `60s`.
    #[serde(default)]
    pub(crate) first_token: Option<Span>,
    /// Between two tokens, when streaming. Default: `30s`.
    #[serde(default)]
    pub(crate) idle: Option<Span>,
    /// The whole call. Default: `300s`.
    #[serde(default)]
    pub(crate) total: Option<Span>,
}

/// Limits of a model.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitsEntry {
    /// Calls at once. Default: no limit of its own.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(crate) concurrency: Option<u32>,
    /// Requests within any minute. Default: no limit of its own.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(crate) rpm: Option<NonZeroU32>,
    /// Tokens of prompt and answer together within any minute. Default: no limit of its own.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(crate) tpm: Option<NonZeroU32>,
}

/// One role.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RoleEntry {
    /// Models from cheap to expensive; the next is asked when one fails. Default: the chain of `default`.
    #[serde(default)]
    pub(crate) chain: Option<Vec<String>>,
    /// What the role is told; the roles manager, coder, tester, researcher and writer have shipped texts.
    #[serde(default)]
    pub(crate) instructions: Option<String>,
    /// A file with what the role is told, relative to this file.
    #[serde(default)]
    pub(crate) instructions_file: Option<String>,
    /// Attempts of this role at once. Default: no limit of its own.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(crate) slots: Option<u32>,
    /// 0 to 2.
    #[serde(default)]
    #[schemars(range(min = 0, max = 2))]
    pub(crate) temperature: Option<f32>,
    /// Tokens of an answer at most, where that is less than the model's.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(crate) output_tokens_max: Option<u32>,
    /// Where the chain begins for tasks of some kind, size or tag; the first rule that holds decides.
    #[serde(default)]
    pub(crate) routes: Vec<RouteEntry>,
    /// A model that gets copies of the role's questions, to compare it with those of the chain. Its answers are never used.
    #[serde(default)]
    pub(crate) shadow: Option<ShadowEntry>,
    /// The tools of the role and what it may do with them. A tool that is not named may only look inside the workspace. Without
    /// `tools` the role has none; `default` can not have any.
    #[serde(default)]
    pub(crate) tools: Option<Rules>,
    /// What one attempt with tools may consume.
    #[serde(default)]
    pub(crate) limits: Option<StepsEntry>,
    /// What the role may run with the tool `run_command`; without it, or outside a workspace, there is no such tool.
    #[serde(default)]
    pub(crate) commands: Option<RoleCommands>,
    /// The hosts that the role may read with the tool `http_fetch`, as `docs.rs`, `*.python.org` (all below it) or
    /// `example.com:8080`; without it, or offline, there is no such tool.
    #[serde(default)]
    pub(crate) hosts: Vec<String>,
}

impl RoleEntry {
    /// The models that are asked: those of its chain, and its candidate.
    pub(crate) fn asked(&self) -> impl Iterator<Item = &String> {
        self.chain.iter().flatten().chain(self.shadow.iter().map(|it| &it.model))
    }
}

/// What holds for all runs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PoliciesEntry {
    /// Attempts a task gets. Default: 2.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100))]
    pub(crate) attempts_max: Option<u32>,
    /// Tasks a plan may have. Default: 8.
    #[serde(default)]
    #[schemars(range(min = 1, max = 10_000))]
    pub(crate) plan_tasks_max: Option<u32>,
    /// Tasks a plan should have at least, for models that stop after the first one: asked for where the provider enforces a
    /// schema. Default: 1.
    #[serde(default)]
    #[schemars(range(min = 1, max = 24))]
    pub(crate) plan_tasks_min: Option<u32>,
    /// How long a task waits when no model of its chain serves anybody, before it fails. Default: `1h`.
    #[serde(default)]
    pub(crate) outage_max: Option<Span>,
    /// What becomes of an answer that no judge could be asked about. Default: `reject`.
    #[serde(default)]
    pub(crate) on_judge_error: Option<OnJudgeError>,
    /// The wait between two attempts.
    #[serde(default)]
    pub(crate) retry: RetryEntry,
}

/// What becomes of an answer that no judge could be asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnJudgeError {
    /// It counts as accepted.
    Accept,
    /// It counts as rejected: the next model is asked.
    #[default]
    Reject,
}

/// The wait between two attempts: it doubles from `delay` up to `delay_max`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetryEntry {
    /// Before the second attempt. Default: `500ms`.
    #[serde(default)]
    pub(crate) delay: Option<Span>,
    /// At most. Default: `30s`.
    #[serde(default)]
    pub(crate) delay_max: Option<Span>,
}

/// A duration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span(pub(crate) Duration);

impl Span {
    /// The forms that are allowed.
    pub(crate) const FORMS: &str = "a duration is written `500ms`, `30s`, `2m` or `1h`; a bare number is seconds";

    pub(crate) fn read(value: &serde_json::Value) -> Option<Self> {
        let duration = match value {
            serde_json::Value::String(text) => parse_duration(text)?,
            serde_json::Value::Number(number) => Duration::try_from_secs_f64(number.as_f64()?).ok()?,
            _ => return None,
        };
        (!duration.is_zero() && duration <= Duration::from_hours(24 * 365)).then_some(Self(duration))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        Self::read(&value).ok_or_else(|| D::Error::custom(Self::FORMS))
    }
}

impl JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A duration above zero: `500ms`, `30s`, `2m`, `1h`; a bare number is seconds.",
            "type": ["string", "number"],
            "exclusiveMinimum": 0,
            "pattern": r"^\s*([0-9.]+\s*(ms|s|sec|m|min|h|d)?\s*)+$",
        })
    }
}
