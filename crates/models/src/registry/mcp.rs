//! Servers of tools (the Model Context Protocol) that the file names; there are no others.
//!
//! **Invariant:** a server is a program with its arguments, or an address: never both, and never something a model wrote.
//! **Invariant:** what is safe to be repeated is what the file says, whatever a server says of itself.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crewline_types::{Role, TextHash, model::Locality};
use reqwest::{
    Url,
    header::{HeaderName, HeaderValue},
};
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{
    Problem,
    check::Check,
    file::{File, Span},
    shape::{list, suggestion},
    tools::RoleTools,
};
use crate::egress::locality;

/// Letters of a name at most: a tool is called `server.tool`, and providers take 64 of all.
const NAME_MAX: usize = 24;
/// Servers at most.
const SERVERS_MAX: usize = 32;
/// Words in the name of a variable that say that its value is a secret.
const SECRET_WORDS: [&str; 5] = ["KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL"];

/// One server of tools.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct McpEntry {
    /// The program and its arguments; it speaks on its standard input and output.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(crate) command: Option<Vec<String>>,
    /// Variables of its environment; a value may be `env:NAME` or `file:PATH`. Nothing of crewline's own but `PATH`, `HOME` and
    /// the like is passed on.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    /// The address of a server that speaks streamable HTTP, instead of a `command`.
    #[serde(default)]
    pub(crate) url: Option<String>,
    /// Headers of its requests; a value may be `env:NAME` or `file:PATH`.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// The roles that have its tools. Default: all that have `tools`. A tool that a role's rules do not name is asked about.
    #[serde(default)]
    pub(crate) roles: Option<Vec<String>>,
    /// Tools that only read, or may be made again without harm; a `*` at the end stands for any more. After a crash a person
    /// decides about a call of any other.
    #[serde(default)]
    pub(crate) repeatable: Vec<String>,
    /// How long a start may take, until its tools are known. Default: `30s`.
    #[serde(default)]
    pub(crate) start_timeout: Option<Span>,
    /// How long a call may take. Default: `60s`.
    #[serde(default)]
    pub(crate) call_timeout: Option<Span>,
}

/// A server of tools.
#[derive(Debug)]
pub struct McpServerConfig {
    /// Its name: the first part of the names of its tools.
    pub name: Arc<str>,
    /// How it is reached.
    pub reach: McpReach,
    /// The roles that have its tools; `None`: all that have tools.
    pub roles: Option<Vec<Role>>,
    /// Names of tools, or beginnings with a `*`, whose calls may be made again.
    pub repeatable: Vec<String>,
    /// How long a start may take.
    pub start_timeout: Duration,
    /// How long a call may take.
    pub call_timeout: Duration,
    /// What is blanked wherever the server repeats it.
    pub(crate) secrets: Vec<SecretString>,
}

/// How a server of tools is reached.
#[derive(Debug)]
pub enum McpReach {
    /// A program that crewline starts.
    Command {
        /// The program and its arguments.
        command: Vec<String>,
        /// What its environment has beside the usual.
        env: Vec<(String, SecretString)>,
    },
    /// An address.
    Http {
        /// The address.
        url: Url,
        /// Where it is.
        locality: Locality,
        /// Sent with each request.
        headers: Vec<(HeaderName, HeaderValue)>,
    },
}

impl McpServerConfig {
    /// Names the program or address behind the name: tools that were pinned for another one do not count.
    pub fn origin(&self) -> TextHash {
        match &self.reach {
            McpReach::Command { command, .. } => TextHash::of(&format!("command:{command:?}")),
            McpReach::Http { url, .. } => TextHash::of(&format!("url:{url}")),
        }
    }

    /// How it is reached, for people; never a secret.
    pub fn place(&self) -> String {
        match &self.reach {
            McpReach::Command { command, .. } => command.join(" "),
            McpReach::Http { url, .. } => url.to_string(),
        }
    }

    /// Whether calls of `tool` (the server's own name of it) may be made again when nobody knows how they ended.
    pub fn may_repeat(&self, tool: &str) -> bool {
        self.repeatable.iter().any(|it| match it.strip_suffix('*') {
            Some(start) => tool.starts_with(start),
            None => it == tool,
        })
    }

    /// Whether `role` has its tools, when it has tools at all.
    pub fn is_for(&self, role: &Role) -> bool {
        self.roles.as_ref().is_none_or(|it| it.contains(role))
    }

    /// Whether another registry has the very same server, secrets included.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let secrets = |it: &Self| it.secrets.iter().map(|it| it.expose_secret().to_owned()).collect::<Vec<_>>();
        let reach = match (&self.reach, &other.reach) {
            (McpReach::Command { command, env }, McpReach::Command { command: other, env: others }) => {
                let pairs = |env: &[(String, SecretString)]| {
                    env.iter().map(|(name, value)| (name.clone(), value.expose_secret().to_owned())).collect::<Vec<_>>()
                };
                command == other && pairs(env) == pairs(others)
            }
            (McpReach::Http { url, headers, .. }, McpReach::Http { url: other, headers: others, .. }) => {
                url == other && headers == others
            }
            (McpReach::Command { .. }, McpReach::Http { .. }) | (McpReach::Http { .. }, McpReach::Command { .. }) => {
                false
            }
        };
        reach
            && (&self.name, self.start_timeout, self.call_timeout)
                == (&other.name, other.start_timeout, other.call_timeout)
            && secrets(self) == secrets(other)
    }
}

impl Check<'_> {
    /// The servers of tools, in the order of the file.
    pub(super) fn mcp_servers(&mut self, file: &File) -> Vec<Arc<McpServerConfig>> {
        let names = self.names("mcp_servers");
        if names.len() > SERVERS_MAX {
            let message = format!("there are more than {SERVERS_MAX} servers of tools");
            self.report_key(&["mcp_servers"], message, "leave out what no role uses");
        }
        let mut servers = Vec::new();
        for name in names {
            let Some(entry) = file.mcp_servers.get(name) else { continue };
            let is_word = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_');
            let is_name = !name.is_empty()
                && name.len() <= NAME_MAX
                && name.bytes().all(is_word)
                && !name.contains("__")
                && !name.ends_with('_');
            if !is_name {
                let message = "this is no name of a server of tools".to_owned();
                let help = format!(
                    "1 to {NAME_MAX} letters, digits, `-` and single `_`: its tools are called `{}.tool`",
                    if name.is_empty() { "server" } else { "my-server" }
                );
                self.report_key(&["mcp_servers", name], message, help);
            }
            if let Some(server) = self.mcp_server(name, entry, file) {
                servers.push(Arc::new(server));
            }
        }
        servers
    }

    fn mcp_server(&mut self, name: &str, entry: &McpEntry, file: &File) -> Option<McpServerConfig> {
        let mut secrets = Vec::new();
        let reach = match (&entry.command, &entry.url) {
            (Some(_), Some(_)) => {
                let message = format!("`mcp_servers.{name}` has both `command` and `url`");
                self.report_key(&["mcp_servers", name, "url"], message, "keep one");
                None
            }
            (None, None) => {
                let help = "the program and its arguments as `command: [my-server, --stdio]`, or `url: https://…/mcp`";
                let message = format!("`mcp_servers.{name}` has neither `command` nor `url`");
                self.report_key(&["mcp_servers", name], message, help);
                None
            }
            (Some(command), None) => self.mcp_command(name, command, entry, &mut secrets),
            (None, Some(url)) => self.mcp_http(name, url, entry, &mut secrets),
        };
        for (at, tool) in entry.repeatable.iter().enumerate() {
            let plain = tool.strip_suffix('*').unwrap_or(tool);
            if tool.is_empty() || plain.contains(['*', ' ']) {
                let path = ["mcp_servers", name, "repeatable", &at.to_string()];
                let message = format!("`{tool}` is no name of a tool");
                self.report(&path, message, "the server's own name of it; a `*` at the end stands for any more");
            }
        }
        let roles = entry.roles.as_ref().map(|it| self.mcp_roles(name, it, file));
        Some(McpServerConfig {
            name: name.into(),
            reach: reach?,
            roles,
            repeatable: entry.repeatable.clone(),
            start_timeout: entry.start_timeout.map_or(Duration::from_secs(30), |it| it.0),
            call_timeout: entry.call_timeout.map_or(Duration::from_mins(1), |it| it.0),
            secrets,
        })
    }

    fn mcp_roles(&mut self, name: &str, roles: &[String], file: &File) -> Vec<Role> {
        let with_tools: Vec<&str> =
            file.roles.iter().filter(|(_, it)| it.tools.is_some()).map(|(role, _)| role.as_str()).collect();
        for (at, role) in roles.iter().enumerate().filter(|(_, role)| !with_tools.contains(&role.as_str())) {
            let path = ["mcp_servers", name, "roles", &at.to_string()];
            let known = if with_tools.is_empty() {
                "no role has `tools` yet; `tools: {}` is enough".to_owned()
            } else {
                format!("roles with `tools` are {}", list(with_tools.iter().copied()))
            };
            let help = suggestion(role, with_tools.iter().copied(), &known);
            self.report(&path, format!("`{role}` is no role with tools"), help);
        }
        roles.iter().map(|it| Role::from(it.as_str())).collect()
    }

    fn mcp_command(
        &mut self,
        name: &str,
        command: &[String],
        entry: &McpEntry,
        secrets: &mut Vec<SecretString>,
    ) -> Option<McpReach> {
        if !entry.headers.is_empty() {
            let path = ["mcp_servers", name, "headers"];
            self.report_key(&path, format!("`mcp_servers.{name}` is a program, and has headers"), "use `env:`");
        }
        if command.first().is_none_or(|it| it.trim().is_empty()) {
            let path = ["mcp_servers", name, "command"];
            self.report(&path, format!("`mcp_servers.{name}.command` is empty"), "the program, then its arguments");
            return None;
        }
        let mut env = Vec::with_capacity(entry.env.len());
        for (variable, value) in &entry.env {
            let path = ["mcp_servers", name, "env", variable];
            let is_name = !variable.is_empty() && variable.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_');
            if !is_name {
                self.report_key(&path, format!("`{variable}` is no name of a variable"), "letters, digits and `_`");
                continue;
            }
            let is_secret = SECRET_WORDS.iter().any(|it| variable.to_ascii_uppercase().contains(it));
            if let Some(value) = self.mcp_value(&path, value, is_secret, secrets) {
                env.push((variable.clone(), value));
            }
        }
        Some(McpReach::Command { command: command.to_vec(), env })
    }

    fn mcp_http(
        &mut self,
        name: &str,
        text: &str,
        entry: &McpEntry,
        secrets: &mut Vec<SecretString>,
    ) -> Option<McpReach> {
        if !entry.env.is_empty() {
            let path = ["mcp_servers", name, "env"];
            self.report_key(&path, format!("`mcp_servers.{name}` is an address, and has `env`"), "use `headers:`");
        }
        let path = ["mcp_servers", name, "url"];
        let example = "as `https://mcp.example.com/mcp` or `http://127.0.0.1:8931/mcp`";
        let problem = match text.parse::<Url>() {
            Err(error) => format!("is not a URL: {error}"),
            Ok(url) if !matches!(url.scheme(), "http" | "https") => {
                "must begin with `http://` or `https://`".to_owned()
            }
            Ok(url) if url.host_str().is_none_or(str::is_empty) => "names no host".to_owned(),
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                self.blanks.push(self.root.span_at(&path));
                "holds a user name or password; use `headers:`".to_owned()
            }
            Ok(url) if url.fragment().is_some() => "has a `#` part".to_owned(),
            Ok(url) => {
                let locality = locality(&url);
                let headers: Vec<_> =
                    entry.headers.iter().filter_map(|(header, value)| self.mcp_header(name, header, value)).collect();
                let hidden = headers.iter().filter(|(_, value)| value.is_sensitive());
                secrets.extend(hidden.filter_map(|(_, it)| Some(SecretString::from(it.to_str().ok()?.to_owned()))));
                if url.scheme() == "http" && locality == Locality::Remote {
                    let span = self.root.span_at(&path);
                    let message = format!("`mcp_servers.{name}` is asked in clear over `http`");
                    self.warnings.push(Problem::new(self.text, span, message, "use `https`"));
                }
                return Some(McpReach::Http { url, locality, headers });
            }
        };
        self.report(&path, format!("`mcp_servers.{name}.url` {problem}"), example);
        None
    }

    fn mcp_header(&mut self, server: &str, header: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
        let path = ["mcp_servers", server, "headers", header];
        let reserved = ["accept", "mcp-session-id", "mcp-protocol-version", "last-event-id"];
        if reserved.contains(&header.to_ascii_lowercase().as_str()) {
            self.report_key(&path, format!("the header `{header}` is set by crewline itself"), "leave it out");
            return None;
        }
        self.header_at(&path, header, value, true)
    }

    /// A value in clear, or what a reference leads to. One that is missing is a warning: the server tells when it needs it.
    fn mcp_value(
        &mut self,
        path: &[&str],
        text: &str,
        is_secret: bool,
        secrets: &mut Vec<SecretString>,
    ) -> Option<SecretString> {
        match self.value_of(text) {
            Ok(Some(value)) => {
                let value = SecretString::from(value);
                secrets.push(value.clone());
                Some(value)
            }
            Ok(None) if is_secret && !text.is_empty() => {
                self.blanks.push(self.root.span_at(path));
                let message = format!("`{}` holds a secret in clear", path.join("."));
                self.report(path, message, "write `env:NAME` or `file:PATH`");
                None
            }
            Ok(None) => Some(SecretString::from(text.to_owned())),
            Err((reason, help)) => {
                self.report(path, reason, help);
                None
            }
        }
    }

    /// Refuses rules of a role for tools of a server that the file does not name, or that the role does not have.
    pub(super) fn mcp_rules(&mut self, role: &str, tools: &RoleTools, file: &File) {
        let known: Vec<&str> = file.mcp_servers.keys().map(String::as_str).collect();
        for entry in &tools.entries {
            let Some((server, _)) = entry.tool.split_once('.') else { continue };
            let path = ["roles", role, "tools", &entry.tool];
            match file.mcp_servers.get(server) {
                None => {
                    let all = if known.is_empty() {
                        "name it below `mcp_servers:`".to_owned()
                    } else {
                        format!("there are {}", list(known.iter().copied()))
                    };
                    let help = suggestion(server, known.iter().copied(), &all);
                    self.report_key(&path, format!("there is no server of tools `{server}`"), help);
                }
                Some(found) if found.roles.as_ref().is_some_and(|it| !it.iter().any(|it| it == role)) => {
                    let help = format!("add `{role}` to `mcp_servers.{server}.roles`, or leave the rule out");
                    self.report_key(&path, format!("`{role}` does not have the tools of `{server}`"), help);
                }
                Some(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Invalid, Registry};

    fn parse(servers: &str) -> Result<Registry, Invalid> {
        let text = format!(
            "version: 1\nproviders:\n  p: {{type: ollama}}\nmodels:\n  m: {{provider: p, model: m, context_window: 1000}}\n\
             roles:\n  default: {{chain: [m]}}\n  coder: {{tools: {{web.*: allow}}}}\nmcp_servers:\n{servers}"
        );
        Registry::parse(&text, "test", &|name| (name == "T").then(|| "very secret".to_owned()))
    }

    const WEB: &str =
        "  web: {url: \"http://127.0.0.1:1/mcp\", headers: {Authorization: env:T}, repeatable: [get_*]}\n";

    #[test]
    fn servers_are_read_in_both_forms() {
        let registry =
            parse(&format!("{WEB}  fs: {{command: [srv, -x], env: {{A_TOKEN: env:T, B: plain}}}}\n")).unwrap();
        let servers: Vec<String> = registry.mcp_servers().map(|it| format!("{} {}", it.name, it.place())).collect();
        assert_eq!(servers, ["web http://127.0.0.1:1/mcp", "fs srv -x"]);
        let web = registry.mcp_servers().next().unwrap();
        assert!(web.may_repeat("get_page") && !web.may_repeat("post_page"));
        assert!(!format!("{registry:?} {web:?}").contains("very secret"));
        assert!(web.is_for(&"coder".into()));
    }

    #[test]
    fn what_can_not_be_a_server_is_refused_in_its_place() {
        for (servers, message) in [
            ("  fs: {}\n", "has neither `command` nor `url`"),
            ("  fs: {command: [a], url: \"http://x\"}\n", "has both"),
            ("  fs: {command: [\"\"]}\n", "is empty"),
            ("  fs: {command: [a], env: {API_KEY: clear}}\n", "holds a secret in clear"),
            ("  fs: {command: [a], env: {API_KEY: env:NONE}}\n", "`env:NONE` is not set"),
            ("  fs: {command: [a], env: {\"a b\": x}}\n", "no name of a variable"),
            ("  fs: {command: [a], headers: {a: b}}\n", "is a program, and has headers"),
            ("  fs: {url: \"ftp://x\"}\n", "must begin with"),
            ("  fs: {url: \"http://u:p@x/\"}\n", "holds a user name"),
            ("  fs: {url: \"http://x/\", headers: {Mcp-Session-Id: b}}\n", "is set by crewline itself"),
            ("  fs: {url: \"http://x/\", headers: {Authorization: clear}}\n", "holds a secret in clear"),
            ("  a.b: {command: [a]}\n", "no name of a server of tools"),
            ("  a__b: {command: [a]}\n", "no name of a server of tools"),
            ("  fs: {command: [a], roles: [codr]}\n", "`codr` is no role with tools"),
            ("  fs: {command: [a], repeatable: [\"a*b\"]}\n", "no name of a tool"),
        ] {
            let error = parse(&format!("{WEB}{servers}")).unwrap_err();
            let found: Vec<&str> = error.problems.iter().map(|it| it.message.as_str()).collect();
            assert!(found.iter().any(|it| it.contains(message)), "{servers}: {found:?}");
            assert!(error.problems.iter().all(|it| it.line == 11), "{servers}: {error}");
            assert!(error.problems.iter().all(|it| it.help.is_some()), "{servers}: {error}");
            assert!(!error.source.contains("clear") && !error.source.contains("u:p"), "{}", error.source);
        }
    }

    #[test]
    fn a_rule_for_a_server_that_is_not_there_is_refused() {
        let error = parse("  wob: {command: [a]}\n").unwrap_err();
        assert_eq!(error.problems[0].message, "there is no server of tools `web`");
        let error = parse("  web: {command: [a], roles: []}\n").unwrap_err();
        assert_eq!(error.problems[0].message, "`coder` does not have the tools of `web`");
    }
}
