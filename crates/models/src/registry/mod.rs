//! The registry: one file, checked as a whole, then an immutable snapshot.
//!
//! `file` is the form on disk (its JSON Schema is generated from it), `spans` the tree with places, `shape` the check against the
//! schema, `check` (and `check_provider`) the check of meaning.
//!
//! **Invariant:** a `Registry` is valid: chains are not empty and name models that exist, models name providers that exist.
//! **Invariant:** all problems are reported at once, each with its place and what is allowed.
//! **Invariant:** a key is read from `env:` or `file:`; one written in clear is refused and blanked in what is shown.

mod check;
mod check_provider;
mod diff;
mod file;
mod mcp;
mod routes;
mod shadow;
mod shape;
mod spans;
mod tokenizer;
mod tools;
mod watch;

use std::{collections::HashMap, fmt, fmt::Write as _, ops::Range, path::Path, sync::Arc, time::Duration};

use crewline_types::{ErrorKind, ModelAlias, ModelSpec, Role, RouteRule, TextHash, model::Locality};
use reqwest::{
    Url,
    header::{HeaderName, HeaderValue},
};
use secrecy::{ExposeSecret, SecretString};

pub(crate) use self::file::ProviderType;
pub use self::{
    diff::Difference,
    file::OnJudgeError,
    mcp::{McpReach, McpServerConfig},
    shadow::Shadow,
    tools::{
        CommandNetwork, CommandUnconfined, RoleCommands, RoleTools, StepLimits, ToolEntry, ToolRule, ToolTest,
        ToolVerdict,
    },
    watch::RegistryFile,
};
use crate::{Error, RateLimits, tokens::Tokenizer};

/// Something wrong in a registry, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    /// In bytes of the text.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What is allowed, or what to do.
    pub help: Option<String>,
}

impl Problem {
    fn new(text: &str, span: Range<usize>, message: String, help: impl Into<String>) -> Self {
        let start = floor(text, span.start);
        let end = floor(text, span.end).max(start);
        let (line, column) = line_column(text, start);
        // A value may span lines; its first line shows the place.
        let end = text[start..end].find('\n').map_or(end, |it| start + it);
        let help = help.into();
        Self { line, column, span: start..end, message, help: (!help.is_empty()).then_some(help) }
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn line_column(text: &str, at: usize) -> (u32, u32) {
    let before = &text[..floor(text, at)];
    let line = before.bytes().filter(|it| *it == b'\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
}

/// A registry with problems. Prints as a line `name:line:column: message` for each, with its help.
#[derive(Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The name of the file.
    pub name: String,
    /// Its text, with keys written in clear blanked (of the same length).
    pub source: String,
    /// In the order of the file; at least one.
    pub problems: Vec<Problem>,
}

impl Invalid {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        "registry.invalid"
    }

    /// Never.
    pub fn is_retryable(&self) -> bool {
        false
    }
}

impl fmt::Debug for Invalid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Invalid").field("name", &self.name).field("problems", &self.problems).finish_non_exhaustive()
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, problem) in self.problems.iter().enumerate() {
            if place > 0 {
                out.write_char('\n')?;
            }
            write!(out, "{}:{}:{}: {}", self.name, problem.line, problem.column, problem.message)?;
            if let Some(help) = &problem.help {
                write!(out, " ({help})")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

/// A provider of the registry.
#[derive(Debug)]
pub struct ProviderConfig {
    /// Its name.
    pub name: Arc<str>,
    /// The protocol it speaks.
    pub(crate) kind: ProviderType,
    /// Its address without a slash at the end; `{port}` stands for the port of a managed server.
    pub base_url: String,
    /// Where it is.
    pub locality: Locality,
    /// Whether answers are streamed.
    pub is_streaming: bool,
    /// How crewline starts it; `None` when it is somebody else's.
    pub managed: Option<ManagedConfig>,
    pub(crate) key: Key,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// The key, and what else came from `env:` or `file:`: to be blanked wherever a provider repeats it.
    pub(crate) secrets: Vec<SecretString>,
}

impl ProviderConfig {
    /// Why its key can not be used, and what to do; `None` when it is there or not needed.
    pub fn key_problem(&self) -> Option<(&str, &str)> {
        match &self.key {
            Key::Missing { reason, help } => Some((reason, help)),
            Key::None | Key::Known(_) => None,
        }
    }

    /// Whether another registry has the very same provider, keys included.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (&self.name, self.kind, &self.base_url, self.is_streaming, &self.managed, &self.headers)
            == (&other.name, other.kind, &other.base_url, other.is_streaming, &other.managed, &other.headers)
            && self.key_problem() == other.key_problem()
            && self
                .secrets
                .iter()
                .map(ExposeSecret::expose_secret)
                .eq(other.secrets.iter().map(ExposeSecret::expose_secret))
    }

    /// Whether it sends a key.
    pub fn has_key(&self) -> bool {
        matches!(self.key, Key::Known(_))
    }

    pub(crate) fn url(&self, port: Option<u16>) -> Option<Url> {
        match port {
            Some(port) => self.base_url.replace("{port}", &port.to_string()).parse().ok(),
            None => self.base_url.parse().ok(),
        }
    }
}

/// A key. Its `Debug` text is redacted.
#[derive(Debug)]
pub(crate) enum Key {
    None,
    Known(SecretString),
    Missing { reason: String, help: String },
}

/// How a local server is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedConfig {
    /// Program and arguments with `{model}`, `{port}`, `{threads}` and `{data_dir}`.
    pub command: Vec<String>,
    /// The path that answers 200 once it is ready.
    pub health: String,
    /// How long a start may take.
    pub start_timeout: Duration,
    /// The file for `{model}`; may contain `{data_dir}`.
    pub model: Option<String>,
    /// Environment variables the server must not see: they hold keys.
    pub(crate) env_removed: Arc<[String]>,
}

/// A model of the registry as its provider sees it.
#[derive(Debug)]
pub struct ModelConfig {
    /// What the router sees of it.
    pub spec: Arc<ModelSpec>,
    /// Its provider.
    pub provider: Arc<ProviderConfig>,
    /// Its identifier at the provider.
    pub model: String,
    /// How its tokens are counted.
    pub tokenizer: Tokenizer,
    /// Merged into the request.
    pub params: serde_json::Map<String, serde_json::Value>,
    /// When the request does not say.
    pub temperature: Option<f32>,
    /// What it may be asked for in a minute.
    pub rates: RateLimits,
    /// Calls tools.
    pub has_tools: bool,
    /// Reads images.
    pub has_vision: bool,
    /// How sure of its answer the model must be, where another one could be asked.
    pub confidence_min: Option<f64>,
}

/// What holds for all runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policies {
    /// Attempts a task gets, at least 1.
    pub attempts_max: u32,
    /// Tasks a plan may have, at least 1.
    pub plan_tasks_max: u32,
    /// Tasks a planner's answer should have, at least 1 and at most `plan_tasks_max`.
    pub plan_tasks_min: u32,
    /// How long a task waits for a chain that is down as a whole.
    pub outage_max: Duration,
    /// What becomes of an answer that no judge could be asked about.
    pub on_judge_error: OnJudgeError,
    /// The wait between two attempts.
    pub retry: RetryPolicy,
}

/// The wait between two attempts: it doubles from `delay` up to `delay_max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Before the second attempt.
    pub delay: Duration,
    /// At most.
    pub delay_max: Duration,
}

#[derive(Debug)]
struct RoleConfig {
    chain: Arc<[Arc<ModelSpec>]>,
    routes: Arc<[RouteRule]>,
    shadow: Option<Shadow>,
    instructions: Option<Arc<str>>,
    slots: Option<u32>,
    temperature: Option<f32>,
    output_tokens_max: Option<u32>,
    tools: Option<RoleTools>,
}

/// An immutable snapshot of a valid registry.
pub struct Registry {
    name: String,
    text: Arc<str>,
    hash: TextHash,
    providers: Vec<Arc<ProviderConfig>>,
    models: Vec<Arc<ModelConfig>>,
    places: HashMap<ModelAlias, usize>,
    roles: Vec<Role>,
    by_role: HashMap<Role, RoleConfig>,
    default: RoleConfig,
    policies: Policies,
    mcp_servers: Vec<Arc<McpServerConfig>>,
    warnings: Vec<Problem>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Registry")
            .field("name", &self.name)
            .field("hash", &self.hash.to_string())
            .finish_non_exhaustive()
    }
}

/// The roles with shipped instructions.
pub const SHIPPED_ROLES: [&str; 5] = ["manager", "coder", "tester", "researcher", "writer"];

/// The shipped instructions of a role.
pub fn shipped_instructions(role: &str) -> Option<&'static str> {
    Some(match role {
        "manager" => include_str!("../roles/manager.md"),
        "coder" => include_str!("../roles/coder.md"),
        "tester" => include_str!("../roles/tester.md"),
        "researcher" => include_str!("../roles/researcher.md"),
        "writer" => include_str!("../roles/writer.md"),
        _ => return None,
    })
}

impl Registry {
    /// Reads a registry. `name` is shown in errors; files it names are relative to the current directory.
    pub fn parse(text: &str, name: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Invalid> {
        check::registry(text, name, env, None)
    }

    /// Reads a registry file; files it names are relative to its folder.
    pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let name = path.display().to_string();
        let read = |source| Error::Read { path: path.to_owned(), source };
        let metadata = std::fs::metadata(path).map_err(read)?;
        if metadata.is_file() && metadata.len() > spans::TEXT_MAX as u64 {
            return Err(check::too_large(&name).into());
        }
        let bytes = std::fs::read(path).map_err(read)?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let source = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let help = "save the file as UTF-8";
            let problem = Problem::new(&source, at..at + 1, "the file is not UTF-8 here".to_owned(), help);
            Invalid { name: name.clone(), source: check::redact(&source), problems: vec![problem] }
        })?;
        Ok(check::registry(&text, &name, env, path.parent())?)
    }

    /// The models of a role from cheap to expensive; those of `default` when the role is not named. Never empty.
    pub fn chain(&self, role: &Role) -> &[Arc<ModelSpec>] {
        &self.role(role).chain
    }

    /// The rules of a role on where its chain begins, in their order.
    pub fn routes(&self, role: &Role) -> &[RouteRule] {
        &self.role(role).routes
    }

    /// The candidate that gets copies of a role's questions.
    pub fn shadow(&self, role: &Role) -> Option<&Shadow> {
        self.role(role).shadow.as_ref()
    }

    /// What a role is told: from the file, else the shipped text, else nothing.
    pub fn instructions(&self, role: &Role) -> Option<&str> {
        let own = self.by_role.get(role).and_then(|it| it.instructions.as_deref());
        own.or_else(|| shipped_instructions(role.as_str())).or(self.default.instructions.as_deref())
    }

    /// The roles of the file in its order, then the shipped ones it does not name; without `default`.
    pub fn roles(&self) -> Vec<Role> {
        self.roles.clone()
    }

    /// Whether it names the role, or ships instructions for it.
    pub fn has_role(&self, role: &Role) -> bool {
        self.roles.contains(role)
    }

    /// Attempts of a role at once.
    pub fn slots(&self, role: &Role) -> Option<u32> {
        self.role(role).slots
    }

    /// The temperature of a role; models have their own when this is `None`.
    pub fn temperature(&self, role: &Role) -> Option<f32> {
        self.role(role).temperature
    }

    /// Tokens of an answer of a role, where that is less than the model's.
    pub fn output_tokens_max(&self, role: &Role) -> Option<u32> {
        self.role(role).output_tokens_max
    }

    /// What a role may do with tools; `None` when it has none, and answers at once.
    pub fn tools(&self, role: &Role) -> Option<&RoleTools> {
        // A plan may name any role: tools are for those that the file names.
        self.by_role.get(role)?.tools.as_ref()
    }

    fn role(&self, role: &Role) -> &RoleConfig {
        self.by_role.get(role).unwrap_or(&self.default)
    }

    /// What holds for all runs.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// A model as the router sees it.
    pub fn model(&self, alias: &str) -> Option<&Arc<ModelSpec>> {
        self.config(alias).map(|it| &it.spec)
    }

    /// A model as its provider sees it.
    pub fn config(&self, alias: &str) -> Option<&Arc<ModelConfig>> {
        self.places.get(alias).and_then(|place| self.models.get(*place))
    }

    /// All models, in the order of the file.
    pub fn models(&self) -> impl Iterator<Item = &Arc<ModelConfig>> {
        self.models.iter()
    }

    /// All providers, in the order of the file.
    pub fn providers(&self) -> impl Iterator<Item = &Arc<ProviderConfig>> {
        self.providers.iter()
    }

    /// The servers of tools, in the order of the file.
    pub fn mcp_servers(&self) -> impl Iterator<Item = &Arc<McpServerConfig>> {
        self.mcp_servers.iter()
    }

    /// The name given to [`Self::parse`], or the path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text it was read from. It holds references to keys, never keys.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// The hash of the text.
    pub fn hash(&self) -> TextHash {
        self.hash
    }

    /// The same as invalid: for rules that others read. Each problem has its place, what is wrong, and what to do.
    pub fn refused(&self, problems: &[(Vec<String>, String, String)]) -> Invalid {
        let root = spans::parse(&self.text).ok();
        let problems = problems.iter().map(|(path, message, help)| {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            let span = root.as_ref().map_or(0..0, |it| it.span_at(&path));
            Problem::new(&self.text, span, message.clone(), help.as_str())
        });
        Invalid { name: self.name.clone(), source: check::redact(&self.text), problems: problems.collect() }
    }

    /// What differs in `newer`, by meaning.
    pub fn diff(&self, newer: &Self) -> Vec<Difference> {
        diff::between(self, newer)
    }

    /// What is odd but allowed, such as the missing key of a provider that no chain uses.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }
}

/// The JSON Schema of the file, for `config/crewline.schema.json`.
pub fn json_schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(file::File).to_value();
    if let Some(map) = schema.as_object_mut() {
        map.insert("title".into(), "Crewline registry".into());
    }
    schema
}

#[cfg(test)]
mod tests;
