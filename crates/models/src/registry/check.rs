//! What the file means: references, keys, addresses, limits; and the snapshot made of it.
//!
//! **Invariant:** a check reports and goes on, so that one look at the errors is enough.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    path::Path,
    sync::Arc,
    time::Duration,
};

use crewline_types::{MicroUsd, ModelAlias, ModelSpec, Price, Role, TextHash, model::Timeouts};

use super::{
    Invalid, ModelConfig, Policies, Problem, ProviderConfig, Registry, RetryPolicy, RoleConfig, SHIPPED_ROLES,
    check_provider,
    file::{self, Capability, File},
    shape::{self, list, suggestion},
    spans::{self, Node, TEXT_MAX},
};
use crate::RateLimits;

/// Bytes a file with instructions may have.
const INSTRUCTIONS_MAX: u64 = 256 << 10;
/// Characters a name may have.
const NAME_MAX: usize = 64;
/// Fields of the request that crewline itself must set.
const RESERVED_PARAMS: [&str; 13] = [
    "model",
    "messages",
    "input",
    "system",
    "stream",
    "stream_options",
    "response_format",
    "format",
    "text",
    "tools",
    "tool_choice",
    "options",
    "n",
];

pub(super) fn too_large(name: &str) -> Invalid {
    let message = format!("the file is larger than {} KiB", TEXT_MAX >> 10);
    let problem = Problem::new("", 0..0, message, "a registry is a short text; is this the right file?");
    Invalid { name: name.to_owned(), source: String::new(), problems: vec![problem] }
}

pub(super) fn registry(
    text: &str,
    name: &str,
    env: &dyn Fn(&str) -> Option<String>,
    folder: Option<&Path>,
) -> Result<Registry, Invalid> {
    if text.len() > TEXT_MAX {
        return Err(too_large(name));
    }
    let invalid = |problems| Invalid { name: name.to_owned(), source: redact(text), problems };
    if text
        .lines()
        .all(|line| line.trim_start_matches('\u{feff}').trim().is_empty() || line.trim_start().starts_with('#'))
    {
        let help = "`crewline init` writes a registry from what it finds on this machine";
        return Err(invalid(vec![Problem::new(text, 0..0, "the file is empty".to_owned(), help)]));
    }
    let root = spans::parse(text).map_err(|problem| invalid(vec![*problem]))?;
    let mut problems = Vec::new();
    let shape = shape::check(text, &root, &super::json_schema(), &mut problems);
    let mut check = Check { text, root: &root, env, folder, problems, warnings: Vec::new(), blanks: Vec::new() };
    let registry = shape.and_then(|shape| check.file(shape)).and_then(|file| check.build(&file, name));
    let Check { mut problems, warnings, blanks, .. } = check;
    if let (Some(mut registry), true) = (registry, problems.is_empty()) {
        registry.warnings = warnings;
        return Ok(registry);
    }
    if problems.is_empty() {
        problems.push(Problem::new(
            text,
            0..0,
            "the file is not a registry".to_owned(),
            "see `crewline registry schema`",
        ));
    }
    problems.sort_by(|a, b| (a.span.start, &a.message).cmp(&(b.span.start, &b.message)));
    let mut source = redact(text);
    for blank in blanks {
        if let Some(clear) = source.get(blank.clone()) {
            let stars: String = clear
                .chars()
                .flat_map(|c| std::iter::repeat_n(if c == '\n' { c } else { '*' }, c.len_utf8()))
                .collect();
            source.replace_range(blank, &stars);
        }
    }
    Err(Invalid { name: name.to_owned(), source, problems })
}

/// Blanks what stands behind `api_key:` and is no reference; keeps the length.
pub(super) fn redact(text: &str) -> String {
    let mut source = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("api_key") {
        let (before, tail) = rest.split_at(at + "api_key".len());
        source.push_str(before);
        rest = tail;
        let start = tail.len() - tail.trim_start_matches(['"', '\'', ' ', ':']).len();
        if !tail[..start].contains(':') {
            continue;
        }
        let value = &tail[start..];
        let end = start + value.find(['\n', ',', '}', '"', '\'']).unwrap_or(value.len());
        source.push_str(&tail[..start]);
        let value = &tail[start..end];
        if value.starts_with("env:") || value.starts_with("file:") {
            source.push_str(value);
        } else {
            source.extend(std::iter::repeat_n('*', value.len()));
        }
        rest = &tail[end..];
    }
    source.push_str(rest);
    source
}

pub(super) struct Check<'a> {
    pub(super) text: &'a str,
    pub(super) root: &'a Node,
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) folder: Option<&'a Path>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    /// Secrets written in clear.
    pub(super) blanks: Vec<Range<usize>>,
}

impl<'a> Check<'a> {
    pub(super) fn report(&mut self, path: &[&str], message: String, help: impl Into<String>) {
        self.problems.push(Problem::new(self.text, self.root.span_at(path), message, help));
    }

    pub(super) fn report_key(&mut self, path: &[&str], message: String, help: impl Into<String>) {
        self.problems.push(Problem::new(self.text, self.root.key_span_at(path), message, help));
    }

    /// The names below a key of the top, in their order, the broken ones included.
    pub(super) fn names(&self, section: &str) -> Vec<&'a str> {
        let root: &'a Node = self.root;
        let mut names: Vec<&'a str> = Vec::new();
        for name in root.entry(section).into_iter().flat_map(|it| it.node.keys()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    fn file(&mut self, mut shape: serde_json::Value) -> Option<File> {
        let top = shape.as_object_mut()?;
        let empty = serde_json::Value::Object(serde_json::Map::new());
        for section in ["providers", "models", "roles"] {
            top.entry(section).or_insert_with(|| empty.clone());
        }
        top.entry("version").or_insert_with(|| 1.into());
        match serde_json::from_value(shape) {
            Ok(file) => Some(file),
            Err(error) => {
                let help = "see `crewline registry schema`";
                self.report(&[], format!("the file does not follow the schema: {error}"), help);
                None
            }
        }
    }

    fn build(&mut self, file: &File, name: &str) -> Option<Registry> {
        for section in ["providers", "models", "roles"] {
            for name in self.names(section) {
                if let Some(problem) = name_problem(name) {
                    let help = format!("a name has 1 to {NAME_MAX} letters, digits and `-_.:/@`");
                    let span = self.root.key_span_at(&[section, name]);
                    self.problems.push(Problem::new(
                        self.text,
                        span,
                        format!("the name in `{section}` {problem}"),
                        help,
                    ));
                }
            }
        }
        let chained = chained(file);
        let env_names: Arc<[String]> = check_provider::env_names(file).into();
        let mut providers = HashMap::new();
        for name in self.names("providers") {
            if let Some(entry) = file.providers.get(name) {
                let is_used = chained.contains(name);
                providers.insert(name.to_owned(), Arc::new(self.provider(name, entry, is_used, &env_names)));
            }
        }
        let mut models = Vec::new();
        for alias in self.names("models") {
            if let Some(model) = file.models.get(alias).and_then(|entry| self.model(alias, entry, &providers)) {
                models.push(Arc::new(model));
            }
        }
        if file.models.is_empty() && self.root.entry("models").is_some() && self.problems.is_empty() {
            self.report_key(&["models"], "there is no model".into(), "name at least one below `models:`");
        }
        let places: HashMap<ModelAlias, usize> =
            models.iter().enumerate().map(|(place, model)| (model.spec.alias.clone(), place)).collect();
        let (default, by_role) = self.roles(file, &models, &places);
        let mut roles: Vec<Role> =
            self.names("roles").into_iter().filter(|it| *it != "default").map(Role::from).collect();
        for shipped in SHIPPED_ROLES {
            if !roles.iter().any(|it| it.as_str() == shipped) {
                roles.push(shipped.into());
            }
        }
        let mcp_servers = self.mcp_servers(file);
        let policies = policies(&file.policies);
        if policies.plan_tasks_min > policies.plan_tasks_max {
            let help = "ask for as many tasks as a plan may have, or fewer";
            self.report(&["policies", "plan_tasks_min"], "`plan_tasks_min` is above `plan_tasks_max`".into(), help);
        }
        if policies.retry.delay_max < policies.retry.delay {
            let help = "`delay_max` is at least `delay`";
            self.report(&["policies", "retry"], "`policies.retry.delay_max` is below `delay`".into(), help);
        }
        Some(Registry {
            name: name.to_owned(),
            text: self.text.into(),
            hash: TextHash::of(self.text),
            providers: self.names("providers").iter().filter_map(|it| providers.get(*it).cloned()).collect(),
            models,
            places,
            roles,
            by_role,
            default: default?,
            policies,
            mcp_servers,
            warnings: Vec::new(),
        })
    }

    fn model(
        &mut self,
        alias: &str,
        entry: &file::Model,
        providers: &HashMap<String, Arc<ProviderConfig>>,
    ) -> Option<ModelConfig> {
        let path = |field: &'static str| ["models", alias, field];
        let provider = providers.get(&entry.provider).cloned();
        if provider.is_none()
            && !self.names("providers").is_empty()
            && !self.names("providers").contains(&entry.provider.as_str())
        {
            let names = self.names("providers");
            let help = suggestion(
                &entry.provider,
                names.iter().copied(),
                &format!("there are {}", list(names.iter().copied())),
            );
            self.report(&path("provider"), format!("there is no provider `{}`", entry.provider), help);
        }
        if entry.model.trim().is_empty() {
            self.report(
                &path("model"),
                format!("`models.{alias}.model` is empty"),
                "the identifier at the provider, as `gpt-4.1-mini`",
            );
        }
        let output_tokens_max = entry.output_tokens_max.unwrap_or_else(|| (entry.context_window / 4).clamp(1, 4_096));
        if output_tokens_max >= entry.context_window {
            let message = format!("`models.{alias}.output_tokens_max` leaves no room for a prompt");
            let help = format!("it must be below `context_window`, which is {}", entry.context_window);
            let field = if entry.output_tokens_max.is_some() { "output_tokens_max" } else { "context_window" };
            self.report(&path(field), message, help);
        }
        for name in entry.params.keys().filter(|it| RESERVED_PARAMS.contains(&it.as_str())) {
            let span = self.root.key_span_at(&["models", alias, "params", name]);
            let message = format!("`{name}` is set by crewline itself");
            self.problems.push(Problem::new(self.text, span, message, "leave it out of `params`"));
        }
        let price = entry.price.as_ref().and_then(|price| {
            let known = MicroUsd::from_usd(price.input_per_million)
                .zip(MicroUsd::from_usd(price.output_per_million))
                .map(|(input_per_million, output_per_million)| Price { input_per_million, output_per_million });
            if known.is_none() {
                let help = "dollars for a million tokens, as `{input_per_million: 0.4, output_per_million: 1.6}`";
                self.report(&path("price"), format!("`models.{alias}.price` is not an amount of dollars"), help);
            }
            known
        });
        let capabilities = entry.capabilities.as_deref().unwrap_or(&[Capability::JsonSchema]);
        let seconds = |span: Option<file::Span>, default: u64| span.map_or(Duration::from_secs(default), |it| it.0);
        let tokenizer = self.tokenizer(alias, entry);
        let provider = provider?;
        if entry.confidence_min.is_some() && provider.kind != file::ProviderType::OpenaiCompatible {
            let message = format!("`models.{alias}.confidence_min` needs token probabilities");
            self.report(&path("confidence_min"), message, "only a provider of type `openai_compatible` gives them");
        }
        let spec = ModelSpec {
            alias: alias.into(),
            provider: Arc::clone(&provider.name),
            context_window: entry.context_window,
            output_tokens_max,
            has_json_schema: capabilities.contains(&Capability::JsonSchema),
            price,
            locality: provider.locality,
            timeouts: Timeouts {
                connect: seconds(entry.timeouts.connect, 5),
                first_token: seconds(entry.timeouts.first_token, 60),
                idle: seconds(entry.timeouts.idle, 30),
                total: seconds(entry.timeouts.total, 300),
            },
            concurrency_max: entry.limits.concurrency,
        };
        Some(ModelConfig {
            spec: Arc::new(spec),
            provider,
            tokenizer,
            model: entry.model.clone(),
            params: entry.params.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            temperature: entry.temperature,
            rates: RateLimits { requests: entry.limits.rpm, tokens: entry.limits.tpm },
            has_tools: capabilities.contains(&Capability::Tools),
            has_vision: capabilities.contains(&Capability::Vision),
            confidence_min: entry.confidence_min,
        })
    }

    fn roles(
        &mut self,
        file: &File,
        models: &[Arc<ModelConfig>],
        places: &HashMap<ModelAlias, usize>,
    ) -> (Option<RoleConfig>, HashMap<Role, RoleConfig>) {
        let known = self.names("models");
        let has_roles = self.root.entry("roles").is_some();
        let raw_default = self.root.entry("roles").and_then(|it| it.node.entry("default"));
        let is_chain_written = raw_default.is_some_and(|it| it.node.entry("chain").is_some());
        let default_chain = match file.roles.get("default").map(|it| &it.chain) {
            Some(Some(chain)) => Some(self.chain("default", chain, &known, models, places)),
            Some(None) if !is_chain_written => {
                self.report_key(&["roles", "default"], "`roles.default` lacks `chain`".into(), example_chain(&known));
                None
            }
            // A broken `chain` or `default`, or missing `roles`, is reported already.
            Some(None) => None,
            None if !has_roles || self.names("roles").contains(&"default") => None,
            None => {
                let help = format!("roles that are not named use it; {}", example_chain(&known));
                self.report_key(&["roles"], "`roles` lacks `default`".into(), help);
                None
            }
        };
        let empty: Arc<[Arc<ModelSpec>]> = Arc::from([]);
        let default_chain = default_chain.unwrap_or(empty);
        let mut default = None;
        let mut by_role = HashMap::new();
        for name in self.names("roles") {
            let Some(entry) = file.roles.get(name) else { continue };
            let chain = match &entry.chain {
                Some(chain) if name != "default" => self.chain(name, chain, &known, models, places),
                _ => Arc::clone(&default_chain),
            };
            let tools = self.tools(name, entry);
            if let Some(tools) = &tools {
                self.mcp_rules(name, tools, file);
            }
            let config = RoleConfig {
                routes: self.routes(name, &entry.routes, &chain),
                shadow: self.shadow(name, entry.shadow.as_ref(), &chain, models, places),
                chain,
                instructions: self.instructions(name, entry),
                slots: entry.slots,
                temperature: entry.temperature,
                output_tokens_max: entry.output_tokens_max,
                tools,
            };
            if name == "default" {
                default = Some(config);
            } else {
                by_role.insert(Role::from(name), config);
            }
        }
        (default, by_role)
    }

    fn chain(
        &mut self,
        role: &str,
        chain: &[String],
        known: &[&str],
        models: &[Arc<ModelConfig>],
        places: &HashMap<ModelAlias, usize>,
    ) -> Arc<[Arc<ModelSpec>]> {
        if chain.is_empty() {
            // Entries of a wrong type are reported already.
            let is_written_empty = self.root.entry("roles").and_then(|it| it.node.entry(role)).is_some_and(|role| {
                role.node.entry("chain").is_some_and(|it| it.node.to_json().as_array().is_some_and(Vec::is_empty))
            });
            if is_written_empty {
                self.report(&["roles", role, "chain"], format!("`roles.{role}.chain` is empty"), example_chain(known));
            }
        }
        let mut specs: Vec<Arc<ModelSpec>> = Vec::with_capacity(chain.len());
        for (at, alias) in chain.iter().enumerate() {
            let place = self.place_in_chain(role, alias, chain[..at].iter().filter(|it| *it == alias).count());
            let path = ["roles", role, "chain", &place];
            if chain[..at].contains(alias) {
                self.report(
                    &path,
                    format!("model `{alias}` is twice in the chain of `{role}`"),
                    "name each model once",
                );
            } else if let Some(model) = places.get(alias.as_str()).and_then(|place| models.get(*place)) {
                specs.push(Arc::clone(&model.spec));
            } else if !known.is_empty() && !known.contains(&alias.as_str()) {
                let help =
                    suggestion(alias, known.iter().copied(), &format!("there are {}", list(known.iter().copied())));
                self.report(&path, format!("there is no model `{alias}`"), help);
            }
        }
        specs.into()
    }

    /// Where an alias stands in a chain as it is written; `chain` lacks what has a wrong type.
    fn place_in_chain(&self, role: &str, alias: &str, earlier: usize) -> String {
        let roles = self.root.entry("roles").and_then(|it| it.node.entry(role));
        let items = match roles.and_then(|it| it.node.entry("chain")).map(|it| &it.node.value) {
            Some(spans::Value::List(items)) => items.as_slice(),
            _ => &[],
        };
        let fits = |node: &Node| matches!(&node.value, spans::Value::Text(text) if text == alias);
        let place = items.iter().enumerate().filter(|it| fits(it.1)).nth(earlier);
        place.map_or_else(String::new, |it| it.0.to_string())
    }

    fn instructions(&mut self, role: &str, entry: &file::RoleEntry) -> Option<Arc<str>> {
        let path = ["roles", role, "instructions_file"];
        match (&entry.instructions, &entry.instructions_file) {
            (Some(_), Some(_)) => {
                let message = format!("`roles.{role}` has both `instructions` and `instructions_file`");
                self.report(&path, message, "keep one");
                None
            }
            (Some(text), None) => Some(text.trim().into()),
            (None, Some(file)) => match self.read(file, INSTRUCTIONS_MAX) {
                Ok(text) => Some(text.trim().into()),
                Err(reason) => {
                    let help = "the path is relative to the registry; the file is UTF-8 text";
                    self.report(&path, format!("`{file}` cannot be read: {reason}"), help);
                    None
                }
            },
            (None, None) => None,
        }
    }
}

/// The providers whose models are asked.
fn chained(file: &File) -> BTreeSet<&str> {
    let aliases = file.roles.values().flat_map(file::RoleEntry::asked);
    aliases.filter_map(|alias| file.models.get(alias)).map(|model| model.provider.as_str()).collect()
}

fn policies(entry: &file::PoliciesEntry) -> Policies {
    Policies {
        attempts_max: entry.attempts_max.unwrap_or(2),
        plan_tasks_max: entry.plan_tasks_max.unwrap_or(8),
        plan_tasks_min: entry.plan_tasks_min.unwrap_or(1),
        on_judge_error: entry.on_judge_error.unwrap_or_default(),
        outage_max: entry.outage_max.map_or(Duration::from_hours(1), |it| it.0),
        retry: RetryPolicy {
            delay: entry.retry.delay.map_or(Duration::from_millis(500), |it| it.0),
            delay_max: entry.retry.delay_max.map_or(Duration::from_secs(30), |it| it.0),
        },
    }
}

fn name_problem(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("is empty")
    } else if name.chars().count() > NAME_MAX {
        Some("is too long")
    } else if !name.chars().all(|c| c.is_alphanumeric() || "-_.:/@".contains(c)) {
        Some("has a character that is not allowed")
    } else {
        None
    }
}

fn example_chain(known: &[&str]) -> String {
    format!("models from cheap to expensive, as `chain: [{}]`", known.first().unwrap_or(&"cheap"))
}
