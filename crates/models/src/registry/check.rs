//! What the file means: references, keys, addresses, limits; and the snapshot made of it.
//!
//! **Invariant:** a check reports and goes on, so that one look at the errors is enough.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crewline_types::{
    MicroUsd, ModelAlias, ModelSpec, Price, Role, TextHash,
    model::{Locality, Timeouts},
};
use reqwest::{
    Url,
    header::{HeaderName, HeaderValue},
};
use secrecy::SecretString;

use super::{
    Invalid, Key, ManagedConfig, ModelConfig, Policies, Problem, ProviderConfig, Registry, RetryPolicy, RoleConfig,
    SHIPPED_ROLES,
    file::{self, Capability, File, ProviderType},
    shape::{self, list, suggestion},
    spans::{self, Node, TEXT_MAX},
};
use crate::egress::locality;

/// Bytes a file with a key may have.
const KEY_FILE_MAX: u64 = 64 << 10;
/// Bytes a file with instructions may have.
const INSTRUCTIONS_MAX: u64 = 256 << 10;
/// Characters a name may have.
const NAME_MAX: usize = 64;
const PLACEHOLDERS: [&str; 4] = ["{model}", "{port}", "{threads}", "{data_dir}"];
/// Fields of the request that crewline itself must set.
const RESERVED_PARAMS: [&str; 6] = ["model", "messages", "stream", "stream_options", "response_format", "n"];

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

struct Check<'a> {
    text: &'a str,
    root: &'a Node,
    env: &'a dyn Fn(&str) -> Option<String>,
    folder: Option<&'a Path>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    /// Secrets written in clear.
    blanks: Vec<Range<usize>>,
}

impl<'a> Check<'a> {
    fn report(&mut self, path: &[&str], message: String, help: impl Into<String>) {
        self.problems.push(Problem::new(self.text, self.root.span_at(path), message, help));
    }

    fn report_key(&mut self, path: &[&str], message: String, help: impl Into<String>) {
        self.problems.push(Problem::new(self.text, self.root.key_span_at(path), message, help));
    }

    /// The names below a key of the top, in their order, the broken ones included.
    fn names(&self, section: &str) -> Vec<&'a str> {
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
        let env_names: Arc<[String]> = env_names(file).into();
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
        let policies = policies(&file.policies);
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
            warnings: Vec::new(),
        })
    }

    fn provider(
        &mut self,
        name: &str,
        entry: &file::Provider,
        is_used: bool,
        env_names: &Arc<[String]>,
    ) -> ProviderConfig {
        match entry.kind {
            ProviderType::OpenaiCompatible => {}
        }
        let path = ["providers", name];
        let managed = entry.managed.as_ref().map(|managed| self.managed(name, managed, env_names));
        let base_url = match (&entry.base_url, &managed) {
            (Some(url), _) => url.trim_end_matches('/').to_owned(),
            (None, Some(_)) => "http://127.0.0.1:{port}/v1".to_owned(),
            (None, None) => {
                self.report_key(
                    &path,
                    format!("`providers.{name}` lacks `base_url`"),
                    "as `base_url: http://127.0.0.1:8080/v1`",
                );
                String::new()
            }
        };
        let url = if base_url.is_empty() { None } else { self.url(name, &base_url, managed.is_some()) };
        let locality = url.as_ref().map_or(Locality::Remote, locality);
        let key = match &entry.api_key {
            None => Key::None,
            Some(reference) => self.key(name, reference, is_used),
        };
        if let (Some(url), Key::Known(_)) = (&url, &key)
            && url.scheme() == "http"
            && locality == Locality::Remote
        {
            let span = self.root.span_at(&["providers", name, "base_url"]);
            let message = format!("`providers.{name}` sends its key in clear over `http`");
            self.warnings.push(Problem::new(self.text, span, message, "use `https`"));
        }
        let headers =
            entry.headers.iter().filter_map(|(header, value)| self.header(name, header, value, is_used)).collect();
        ProviderConfig {
            name: name.into(),
            base_url,
            locality,
            is_streaming: entry.stream.unwrap_or(managed.is_some()),
            managed,
            key,
            headers,
        }
    }

    fn url(&mut self, name: &str, base_url: &str, is_managed: bool) -> Option<Url> {
        let path = ["providers", name, "base_url"];
        let parsed = base_url.replace("{port}", "1").parse::<Url>();
        let problem: (Cow<'static, str>, &str) = match &parsed {
            _ if is_managed && !base_url.contains("{port}") => (
                "of a managed server must contain `{port}`".into(),
                "leave `base_url` out, or write `http://127.0.0.1:{port}/v1`",
            ),
            _ if !is_managed && base_url.contains("{port}") => {
                ("has `{port}`, but the server is not managed".into(), "write the port, or add `managed:`")
            }
            Err(error) => (
                format!("is not a URL: {error}").into(),
                "as `https://api.openai.com/v1` or `http://127.0.0.1:11434/v1`",
            ),
            Ok(url) if !matches!(url.scheme(), "http" | "https") => {
                ("must begin with `http://` or `https://`".into(), "as `http://127.0.0.1:11434/v1`")
            }
            Ok(url) if url.host_str().is_none_or(str::is_empty) => {
                ("names no host".into(), "as `http://127.0.0.1:11434/v1`")
            }
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                self.blanks.push(self.root.span_at(&path));
                ("holds a user name or password".into(), "use `api_key: env:NAME` or `headers:`")
            }
            Ok(url) if url.query().is_some() || url.fragment().is_some() => {
                ("has a `?` or `#` part".into(), "keep the part up to and including `/v1`")
            }
            Ok(url) if url.path().ends_with("/chat/completions") => {
                ("is the address of one call".into(), "leave `/chat/completions` out; it is added")
            }
            Ok(url) if is_managed && locality(url) != Locality::Loopback => {
                ("of a managed server must be on this machine".into(), "as `http://127.0.0.1:{port}/v1`")
            }
            Ok(url) => return Some(url.clone()),
        };
        self.report(&path, format!("`providers.{name}.base_url` {}", problem.0), problem.1);
        None
    }

    fn managed(&mut self, name: &str, entry: &file::Managed, env_names: &Arc<[String]>) -> ManagedConfig {
        let path = ["providers", name, "managed", "command"];
        let place = format!("providers.{name}.managed");
        if entry.command.first().is_none_or(|it| it.trim().is_empty()) {
            self.report(
                &path,
                format!("`{place}.command` is empty"),
                "the program, then its arguments: `[llama-server, …]`",
            );
        } else if !entry.command.iter().any(|it| it.contains("{port}")) {
            let help = "crewline picks a free port and must tell the server, as `[…, --port, \"{port}\"]`";
            self.report(&path, format!("`{place}.command` lacks `{{port}}`"), help);
        }
        if entry.command.iter().any(|it| it.contains("{model}")) && entry.model.is_none() {
            self.report(
                &path,
                format!("`{place}.command` has `{{model}}`, but there is no `model`"),
                format!("add `model: FILE` to `{place}`"),
            );
        }
        for (at, part) in entry.command.iter().chain(&entry.model).enumerate() {
            for unknown in placeholders(part).filter(|it| !PLACEHOLDERS.contains(it)) {
                let at = at.to_string();
                let span = self.root.span_at(&["providers", name, "managed", "command", &at]);
                let help = suggestion(
                    unknown,
                    PLACEHOLDERS.into_iter(),
                    &format!("filled in are {}", list(PLACEHOLDERS.into_iter())),
                );
                self.problems.push(Problem::new(self.text, span, format!("unknown placeholder `{unknown}`"), help));
            }
        }
        let health = entry.health.clone().unwrap_or_else(|| "/health".into());
        if !health.starts_with('/') {
            let message = format!("`{place}.health` must begin with `/`");
            self.report(&["providers", name, "managed", "health"], message, "as `/health`");
        }
        ManagedConfig {
            command: entry.command.clone(),
            health,
            start_timeout: entry.start_timeout.map_or(Duration::from_mins(1), |it| it.0),
            model: entry.model.clone(),
            env_removed: Arc::clone(env_names),
        }
    }

    fn key(&mut self, name: &str, reference: &str, is_used: bool) -> Key {
        let path = ["providers", name, "api_key"];
        match self.secret(reference) {
            Secret::Known(key) if HeaderValue::from_str(&format!("Bearer {key}")).is_ok() => {
                Key::Known(SecretString::from(key))
            }
            Secret::Known(_) => {
                self.report(
                    &path,
                    format!("the key behind `{reference}` has a line break or control character"),
                    "store the key alone",
                );
                Key::None
            }
            Secret::Clear => {
                self.blanks.push(self.root.span_at(&path));
                let help = format!(
                    "write `env:NAME` or `file:PATH`, as `api_key: env:{}_API_KEY`; a key that was shared must be replaced",
                    env_name(name)
                );
                self.report(&path, format!("`providers.{name}.api_key` holds a key in clear"), help);
                Key::None
            }
            Secret::Missing { reason, help } => {
                let problem = Problem::new(self.text, self.root.span_at(&path), reason.clone(), help.clone());
                if is_used {
                    self.problems.push(problem);
                } else {
                    self.warnings.push(problem);
                }
                Key::Missing { reason, help }
            }
        }
    }

    fn header(
        &mut self,
        provider: &str,
        header: &str,
        value: &str,
        is_used: bool,
    ) -> Option<(HeaderName, HeaderValue)> {
        let path = ["providers", provider, "headers", header];
        let Ok(header_name) = header.parse::<HeaderName>() else {
            self.report_key(&path, format!("`{header}` is not the name of a header"), "letters, digits and `-`");
            return None;
        };
        if ["content-type", "content-length", "host", "transfer-encoding", "connection"].contains(&header_name.as_str())
        {
            self.report_key(&path, format!("the header `{header}` is set by crewline itself"), "leave it out");
            return None;
        }
        let is_secret =
            ["authorization", "key", "token", "secret", "cookie"].iter().any(|it| header_name.as_str().contains(it));
        let value = match self.secret(value) {
            Secret::Known(value) => value,
            Secret::Clear if is_secret => {
                self.blanks.push(self.root.span_at(&path));
                self.report(
                    &path,
                    format!("the header `{header}` holds a secret in clear"),
                    "write `env:NAME` or `file:PATH`",
                );
                return None;
            }
            Secret::Clear => value.to_owned(),
            Secret::Missing { reason, help } => {
                let problem = Problem::new(self.text, self.root.span_at(&path), reason, help);
                if is_used {
                    self.problems.push(problem);
                } else {
                    self.warnings.push(problem);
                }
                return None;
            }
        };
        let Ok(mut value) = HeaderValue::from_str(&value) else {
            self.report(
                &path,
                format!("the header `{header}` has a line break or control character"),
                "one line of ASCII",
            );
            return None;
        };
        value.set_sensitive(true);
        Some((header_name, value))
    }

    fn secret(&self, reference: &str) -> Secret {
        if let Some(name) = reference.strip_prefix("env:") {
            let help = format!("`export {name}=…` before you start crewline, or use `file:PATH`");
            return match (self.env)(name.trim()) {
                Some(value) if !value.trim().is_empty() => Secret::Known(value.trim().to_owned()),
                Some(_) => Secret::Missing { reason: format!("`env:{name}` is empty"), help },
                None => Secret::Missing { reason: format!("`env:{name}` is not set"), help },
            };
        }
        let Some(path) = reference.strip_prefix("file:") else { return Secret::Clear };
        match self.read(path, KEY_FILE_MAX) {
            Ok(text) if text.trim().is_empty() => Secret::Missing {
                reason: format!("`file:{path}` is empty"),
                help: "the file holds the key and nothing else".into(),
            },
            Ok(text) => Secret::Known(text.trim().to_owned()),
            Err(reason) => Secret::Missing {
                reason: format!("`file:{path}` cannot be read: {reason}"),
                help: "the path is relative to the registry; the file holds the key and nothing else".into(),
            },
        }
    }

    fn read(&self, path: &str, size_max: u64) -> Result<String, String> {
        let path = match path.strip_prefix("~/") {
            Some(rest) => PathBuf::from((self.env)("HOME").ok_or("`HOME` is not set")?).join(rest),
            None => self.folder.map_or_else(|| PathBuf::from(path), |folder| folder.join(path)),
        };
        let metadata = fs::metadata(&path).map_err(|error| error.to_string())?;
        if !metadata.is_file() {
            return Err("it is not a file".into());
        }
        if metadata.len() > size_max {
            return Err(format!("it is larger than {} KiB", size_max >> 10));
        }
        fs::read_to_string(&path).map_err(|error| error.to_string())
    }

    fn model(
        &mut self,
        alias: &str,
        entry: &file::Model,
        providers: &HashMap<String, Arc<ProviderConfig>>,
    ) -> Option<ModelConfig> {
        let path = |field: &'static str| ["models", alias, field];
        let provider = providers.get(&entry.provider).cloned();
        if provider.is_none() && self.root.entry("providers").is_some_and(|it| it.node.entry(&entry.provider).is_none())
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
        let provider = provider?;
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
            model: entry.model.clone(),
            params: entry.params.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            temperature: entry.temperature,
            has_tools: capabilities.contains(&Capability::Tools),
            has_vision: capabilities.contains(&Capability::Vision),
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
            let config = RoleConfig {
                chain,
                instructions: self.instructions(name, entry),
                slots: entry.slots,
                temperature: entry.temperature,
                output_tokens_max: entry.output_tokens_max,
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

enum Secret {
    Known(String),
    Clear,
    Missing { reason: String, help: String },
}

/// The providers whose models stand in a chain.
fn chained(file: &File) -> BTreeSet<&str> {
    let aliases = file.roles.values().filter_map(|role| role.chain.as_ref()).flatten();
    aliases.filter_map(|alias| file.models.get(alias)).map(|model| model.provider.as_str()).collect()
}

fn policies(entry: &file::PoliciesEntry) -> Policies {
    Policies {
        attempts_max: entry.attempts_max.unwrap_or(2),
        plan_tasks_max: entry.plan_tasks_max.unwrap_or(8),
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

/// The environment variables that hold keys.
fn env_names(file: &File) -> Vec<String> {
    let values = file.providers.values().flat_map(|it| it.api_key.iter().chain(it.headers.values()));
    values.filter_map(|it| it.strip_prefix("env:")).map(|it| it.trim().to_owned()).collect()
}

/// The `{words}` of a part of a command.
fn placeholders(part: &str) -> impl Iterator<Item = &str> {
    part.match_indices('{').filter_map(|(start, _)| {
        let end = start + part[start..].find('}')? + 1;
        let word = &part[start + 1..end - 1];
        (!word.is_empty() && word.bytes().all(|it| it.is_ascii_lowercase() || it == b'_')).then_some(&part[start..end])
    })
}

fn env_name(provider: &str) -> String {
    provider.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

fn example_chain(known: &[&str]) -> String {
    format!("models from cheap to expensive, as `chain: [{}]`", known.first().unwrap_or(&"cheap"))
}
