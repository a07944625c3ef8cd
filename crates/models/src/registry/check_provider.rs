//! What a provider in the file means: its address, its key, its headers, its server.
//!
//! **Invariant:** a secret is read only from `env:` or `file:`; one written in clear is marked to be blanked.

use std::{borrow::Cow, fs, path::PathBuf, sync::Arc, time::Duration};

use crewline_types::model::Locality;
use reqwest::{
    Url,
    header::{HeaderName, HeaderValue},
};
use secrecy::SecretString;

use super::{
    Key, ManagedConfig, Problem, ProviderConfig,
    check::Check,
    file::{self, ProviderType},
    shape::{list, suggestion},
};
use crate::egress::locality;

/// Bytes a file with a key may have.
const KEY_FILE_MAX: u64 = 64 << 10;
const PLACEHOLDERS: [&str; 4] = ["{model}", "{port}", "{threads}", "{data_dir}"];

impl Check<'_> {
    pub(super) fn provider(
        &mut self,
        name: &str,
        entry: &file::Provider,
        is_used: bool,
        env_names: &Arc<[String]>,
    ) -> ProviderConfig {
        let path = ["providers", name];
        let managed = entry.managed.as_ref().map(|managed| self.managed(name, managed, env_names));
        let base_url = match (&entry.base_url, &managed) {
            (Some(url), _) => url.trim_end_matches('/').to_owned(),
            (None, Some(_)) if entry.kind == ProviderType::Ollama => "http://127.0.0.1:{port}".to_owned(),
            (None, Some(_)) => "http://127.0.0.1:{port}/v1".to_owned(),
            (None, None) => {
                if entry.kind.home().is_none() {
                    let help = format!("as `base_url: {}`", entry.kind.example());
                    self.report_key(&path, format!("`providers.{name}` lacks `base_url`"), help);
                }
                entry.kind.home().unwrap_or_default().to_owned()
            }
        };
        let url = if base_url.is_empty() { None } else { self.url(name, &base_url, entry.kind, managed.is_some()) };
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
        let headers: Vec<_> =
            entry.headers.iter().filter_map(|(header, value)| self.header(name, header, value, is_used)).collect();
        let mut secrets: Vec<SecretString> = Vec::new();
        if let Key::Known(key) = &key {
            secrets.push(key.clone());
        }
        let hidden = headers.iter().filter(|(_, value)| value.is_sensitive());
        secrets.extend(hidden.filter_map(|(_, value)| Some(SecretString::from(value.to_str().ok()?.to_owned()))));
        ProviderConfig {
            name: name.into(),
            kind: entry.kind,
            base_url,
            locality,
            is_streaming: entry.stream.unwrap_or(managed.is_some()),
            managed,
            key,
            headers,
            secrets,
        }
    }

    fn url(&mut self, name: &str, base_url: &str, kind: ProviderType, is_managed: bool) -> Option<Url> {
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
            Ok(url) if kind.call_paths().iter().any(|it| url.path().ends_with(it)) => {
                let end = kind.call_paths().iter().find(|it| url.path().ends_with(*it)).copied().unwrap_or_default();
                (format!("ends in `{end}`, which is added to it").into(), "leave that out")
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
        self.header_at(&["providers", provider, "headers", header], header, value, is_used)
    }

    /// The header that stands at `path`.
    pub(super) fn header_at(
        &mut self,
        path: &[&str],
        header: &str,
        value: &str,
        is_used: bool,
    ) -> Option<(HeaderName, HeaderValue)> {
        let Ok(header_name) = header.parse::<HeaderName>() else {
            self.report_key(path, format!("`{header}` is not the name of a header"), "letters, digits and `-`");
            return None;
        };
        if ["content-type", "content-length", "host", "transfer-encoding", "connection"].contains(&header_name.as_str())
        {
            self.report_key(path, format!("the header `{header}` is set by crewline itself"), "leave it out");
            return None;
        }
        let is_secret =
            ["authorization", "key", "token", "secret", "cookie"].iter().any(|it| header_name.as_str().contains(it));
        let is_reference = value.starts_with("env:") || value.starts_with("file:");
        let value = match self.secret(value) {
            Secret::Known(value) => value,
            Secret::Clear if is_secret => {
                self.blanks.push(self.root.span_at(path));
                self.report(
                    path,
                    format!("the header `{header}` holds a secret in clear"),
                    "write `env:NAME` or `file:PATH`",
                );
                return None;
            }
            Secret::Clear => value.to_owned(),
            Secret::Missing { reason, help } => {
                let problem = Problem::new(self.text, self.root.span_at(path), reason, help);
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
                path,
                format!("the header `{header}` has a line break or control character"),
                "one line of ASCII",
            );
            return None;
        };
        value.set_sensitive(is_secret || is_reference);
        Some((header_name, value))
    }

    /// What a reference leads to; `None` for a text in clear, and what is wrong with what to do about it.
    pub(super) fn value_of(&self, text: &str) -> Result<Option<String>, (String, String)> {
        match self.secret(text) {
            Secret::Known(value) => Ok(Some(value)),
            Secret::Clear => Ok(None),
            Secret::Missing { reason, help } => Err((reason, help)),
        }
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

    /// A path of the file: below the home for `~/`, else relative to the registry.
    pub(super) fn resolve(&self, path: &str) -> Result<PathBuf, String> {
        Ok(match path.strip_prefix("~/") {
            Some(rest) => PathBuf::from((self.env)("HOME").ok_or("`HOME` is not set")?).join(rest),
            None => self.folder.map_or_else(|| PathBuf::from(path), |folder| folder.join(path)),
        })
    }

    pub(super) fn read(&self, path: &str, size_max: u64) -> Result<String, String> {
        let path = self.resolve(path)?;
        let metadata = fs::metadata(&path).map_err(|error| error.to_string())?;
        if !metadata.is_file() {
            return Err("it is not a file".into());
        }
        if metadata.len() > size_max {
            return Err(format!("it is larger than {} KiB", size_max >> 10));
        }
        fs::read_to_string(&path).map_err(|error| error.to_string())
    }
}

/// The environment variables that hold keys.
pub(super) fn env_names(file: &file::File) -> Vec<String> {
    let values = file.providers.values().flat_map(|it| it.api_key.iter().chain(it.headers.values()));
    let values = values.chain(file.mcp_servers.values().flat_map(|it| it.env.values().chain(it.headers.values())));
    values.filter_map(|it| it.strip_prefix("env:")).map(|it| it.trim().to_owned()).collect()
}

enum Secret {
    Known(String),
    Clear,
    Missing { reason: String, help: String },
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
