//! What a role may do with tools: allow, ask or deny, with conditions on the arguments.
//!
//! **Invariant:** a rule that is not understood is an error of the file, never a rule that is left out.
//! **Invariant:** all problems are reported, each in its place.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crewline_types::MicroUsd;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::{
    check::Check,
    file::{self, Span},
    shape::{list, suggestion},
    spans::{Entry, Node, Value},
};

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolVerdict {
    /// The call is made.
    Allow,
    /// A person decides.
    Ask,
    /// The call is not made.
    Deny,
}

/// What must hold for an argument.
#[derive(Debug, Clone, PartialEq)]
pub enum ToolTest {
    /// It is one of these values.
    OneOf(Vec<serde_json::Value>),
    /// A text, or every text of a list, matches one of these patterns (`*`: any characters).
    Matches(Vec<String>),
    /// A list of texts begins with these.
    BeginsWith(Vec<String>),
    /// A path is in one of these folders of the workspace.
    Under(Vec<String>),
    /// A number is at most this.
    AtMost(f64),
}

/// A verdict, and for which arguments it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolRule {
    /// What is decided.
    pub verdict: ToolVerdict,
    /// Arguments and what must hold for them; none: it always holds.
    pub when: Vec<(String, ToolTest)>,
}

/// The rules for the tools with a name; the first that holds decides.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolEntry {
    /// A tool's name, or the beginning of some with a `*` at the end.
    pub tool: String,
    /// In their order.
    pub rules: Vec<ToolRule>,
}

/// What one attempt with tools may consume; `None` where the file does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepLimits {
    /// Answers of models.
    pub steps_max: Option<u32>,
    /// Tokens sent and received.
    pub tokens_max: Option<u64>,
    /// Money.
    pub cost_max: Option<MicroUsd>,
    /// Time.
    pub time_max: Option<Duration>,
}

/// What commands may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CommandNetwork {
    /// Nothing.
    #[default]
    None,
    /// Servers that they start themselves.
    Loopback,
    /// All that this machine reaches.
    Host,
}

/// What is done with a command where the kernel can not confine it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CommandUnconfined {
    /// A person is asked, each time.
    #[default]
    Ask,
    /// It is run with what there is.
    Run,
    /// It is not run.
    Refuse,
}

/// What a role may run with `run_command`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleCommands {
    /// Rules such as `cargo test **` or `pytest -q *`: the program, then a pattern for each argument; `**` at the end: any more.
    #[serde(default)]
    pub allow: Vec<String>,
    /// The same, for what a person must agree to.
    #[serde(default)]
    pub ask: Vec<String>,
    /// What commands may reach. Default: `none`.
    #[serde(default)]
    pub network: CommandNetwork,
    /// What is done where the kernel can not confine them. Default: `ask`.
    #[serde(default)]
    pub unconfined: CommandUnconfined,
    /// Folders where programs are looked for before the system's.
    #[serde(default)]
    pub path: Vec<PathBuf>,
    /// Files and folders outside the workspace that commands may read and run.
    #[serde(default)]
    pub readable: Vec<PathBuf>,
    /// Variables of their environment; nothing of crewline's own is passed on.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Time of one command. Default: `2m`.
    #[serde(default, deserialize_with = "time")]
    #[schemars(with = "Option<Span>")]
    pub time_max: Option<Duration>,
}

fn time<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    Ok(Option::<Span>::deserialize(deserializer)?.map(|it| it.0))
}

/// What a role may do with tools.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RoleTools {
    /// In the order of the file.
    pub entries: Vec<ToolEntry>,
    /// What one attempt may consume.
    pub limits: StepLimits,
    /// What `run_command` may run; without it there is no such tool.
    pub commands: Option<RoleCommands>,
    /// What `http_fetch` may read; without it there is no such tool.
    pub hosts: Vec<String>,
}

/// Rules as the file writes them; read from the tree, which knows the places.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct RulesEntry(serde_json::Value);

impl RulesEntry {
    /// Whether anything is written.
    pub(crate) fn is_written(&self) -> bool {
        !self.0.is_null()
    }
}

impl JsonSchema for RulesEntry {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ToolRules".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`allow`, `ask` or `deny`; or one of them with conditions on arguments, as `{allow: {path: {under: [src]}}}`; or a list of these, of which the first that holds decides. Without one that holds the call is denied. Conditions: `one_of`, `matches` (`*`: any characters), `begins_with`, `under`, `at_most`.",
            "examples": [
                "allow",
                {"allow": {"path": {"under": ["src", "tests"]}}},
                [{"deny": {"arguments": {"matches": ["--force*"]}}}, {"allow": {"program": {"one_of": ["cargo"]}}}, "ask"]
            ]
        })
    }
}

/// What one attempt with tools may consume.
#[expect(clippy::struct_field_names, reason = "the names people write")]
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StepsEntry {
    /// Answers of models. Default: 24.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000))]
    pub(crate) steps_max: Option<u32>,
    /// Tokens sent and received. Default: no limit of its own.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(crate) tokens_max: Option<u32>,
    /// US dollars. Default: no limit of its own.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub(crate) cost_max: Option<f64>,
    /// Time. Default: no limit of its own.
    #[serde(default)]
    pub(crate) time_max: Option<Span>,
}

const VERDICTS: [&str; 3] = ["allow", "ask", "deny"];
const TESTS: [&str; 5] = ["one_of", "matches", "begins_with", "under", "at_most"];
const FORMS: &str = "`allow`, `ask`, `deny`, or one of them with conditions, as `{allow: {path: {under: [src]}}}`";
/// Characters of a name, and rules of a tool, at most.
const NAME_MAX: usize = 64;
const RULES_MAX: usize = 64;

impl Check<'_> {
    /// The rules of a role; `None` when it has no tools.
    pub(super) fn tools(&mut self, role: &str, entry: &file::RoleEntry) -> Option<RoleTools> {
        let root = self.root;
        let node = root.entry("roles")?.node.entry(role)?.node.entry("tools").map(|it| &it.node);
        let limits = self.step_limits(role, entry);
        let Some(node) = node else {
            let written = [
                ("limits", entry.limits.is_some()),
                ("commands", entry.commands.is_some()),
                ("hosts", !entry.hosts.is_empty()),
            ];
            for (key, is_written) in written {
                if is_written {
                    let help = "it is for attempts with tools: add `tools:`, `{}` is enough";
                    self.report_key(&["roles", role, key], format!("`roles.{role}` has {key} and no tools"), help);
                }
            }
            return None;
        };
        if role == "default" {
            let help = "a plan may name any role: give tools to the roles that shall have them";
            self.report_key(&["roles", role, "tools"], "`roles.default` can not have tools".into(), help);
            return None;
        }
        let Value::Map(tools) = &node.value else { return None };
        let is_read = entry.tools.as_ref().is_some_and(|rules| rules.values().all(RulesEntry::is_written));
        if !is_read {
            self.report(&["roles", role, "tools"], format!("`roles.{role}.tools` has a tool without a rule"), FORMS);
            return None;
        }
        let mut entries = Vec::with_capacity(tools.len());
        for tool in tools {
            let name = &tool.key;
            let plain = name.strip_suffix('*').unwrap_or(name);
            let is_word = |it: char| it.is_ascii_alphanumeric() || matches!(it, '_' | '-' | '.');
            if name.is_empty() || name.len() > NAME_MAX || !plain.chars().all(is_word) {
                let help = "a tool's name has letters, digits, `_`, `-` and `.`; a `*` at the end stands for any more";
                self.place(&tool.key_span, "this is no tool's name".to_owned(), help);
                continue;
            }
            let rules = match &tool.node.value {
                Value::List(items) if items.len() > RULES_MAX => {
                    self.place(&tool.node.span, format!("a tool has at most {RULES_MAX} rules"), FORMS);
                    continue;
                }
                Value::List(items) if items.is_empty() => {
                    self.place(&tool.key_span, format!("`{name}` has no rule"), FORMS);
                    continue;
                }
                Value::List(items) => items.iter().filter_map(|item| self.rule(item)).collect(),
                _ => self.rule(&tool.node).into_iter().collect(),
            };
            entries.push(ToolEntry { tool: name.clone(), rules });
        }
        Some(RoleTools { entries, limits, commands: entry.commands.clone(), hosts: entry.hosts.clone() })
    }

    fn step_limits(&mut self, role: &str, entry: &file::RoleEntry) -> StepLimits {
        let Some(limits) = &entry.limits else { return StepLimits::default() };
        let cost_max = limits.cost_max.and_then(MicroUsd::from_usd);
        if limits.cost_max.is_some() && cost_max.is_none() {
            self.report(
                &["roles", role, "limits", "cost_max"],
                format!("`roles.{role}.limits.cost_max` is not an amount of dollars"),
                "an amount of dollars, as 0.25",
            );
        }
        StepLimits {
            steps_max: limits.steps_max,
            tokens_max: limits.tokens_max.map(u64::from),
            cost_max,
            time_max: limits.time_max.map(|it| it.0),
        }
    }

    fn place(&mut self, span: &std::ops::Range<usize>, message: String, help: impl Into<String>) {
        self.problems.push(super::Problem::new(self.text, span.clone(), message, help));
    }

    fn rule(&mut self, node: &Node) -> Option<ToolRule> {
        match &node.value {
            Value::Text(word) => {
                let verdict = verdict(word);
                if verdict.is_none() {
                    let help = suggestion(word, VERDICTS.into_iter(), FORMS);
                    self.place(&node.span, "this is no rule".to_owned(), help);
                }
                verdict.map(|verdict| ToolRule { verdict, when: Vec::new() })
            }
            Value::Map(entries) => {
                let [entry] = &**entries else {
                    self.place(&node.span, "a rule has one verdict".to_owned(), FORMS);
                    return None;
                };
                let Some(verdict) = verdict(&entry.key) else {
                    let help = suggestion(&entry.key, VERDICTS.into_iter(), FORMS);
                    self.place(&entry.key_span, "this is no rule".to_owned(), help);
                    return None;
                };
                let when = self.conditions(entry)?;
                Some(ToolRule { verdict, when })
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::List(_) => {
                self.place(&node.span, format!("a rule is not {}", node.kind()), FORMS);
                None
            }
        }
    }

    fn conditions(&mut self, verdict: &Entry) -> Option<Vec<(String, ToolTest)>> {
        let help = "arguments with what must hold for them, as `{path: {under: [src]}}`";
        let Value::Map(arguments) = &verdict.node.value else {
            self.place(&verdict.node.span, format!("conditions are not {}", verdict.node.kind()), help);
            return None;
        };
        if arguments.is_empty() {
            self.place(&verdict.key_span, "there is no condition".to_owned(), help);
            return None;
        }
        let mut when = Vec::with_capacity(arguments.len());
        for (place, argument) in arguments.iter().enumerate() {
            if arguments[..place].iter().any(|it| it.key == argument.key) {
                self.place(&argument.key_span, format!("`{}` is there twice", argument.key), "keep one");
                continue;
            }
            if let Some(test) = self.test(&argument.node) {
                when.push((argument.key.clone(), test));
            }
        }
        // One that is not understood is reported; what is left of the rule must not hold for more.
        (when.len() == arguments.len()).then_some(when)
    }

    fn test(&mut self, node: &Node) -> Option<ToolTest> {
        let known = list(TESTS.into_iter());
        let Value::Map(entries) = &node.value else {
            self.place(&node.span, format!("a condition is not {}", node.kind()), format!("one of {known}"));
            return None;
        };
        let [entry] = &**entries else {
            self.place(&node.span, "an argument has one condition".to_owned(), format!("one of {known}"));
            return None;
        };
        let value = entry.node.to_json();
        let texts = || -> Option<Vec<String>> {
            let items = value.as_array()?;
            (!items.is_empty()).then(|| items.iter().map(|it| it.as_str().map(str::to_owned)).collect())?
        };
        let test = match entry.key.as_str() {
            "one_of" => value.as_array().filter(|it| !it.is_empty()).map(|it| ToolTest::OneOf(it.clone())),
            "matches" => texts().map(ToolTest::Matches),
            "begins_with" => texts().map(ToolTest::BeginsWith),
            "under" => texts().map(ToolTest::Under),
            "at_most" => value.as_f64().map(ToolTest::AtMost),
            other => {
                let help = suggestion(other, TESTS.into_iter(), &format!("there are {known}"));
                self.place(&entry.key_span, "there is no such condition".to_owned(), help);
                return None;
            }
        };
        if test.is_none() {
            let help = if entry.key == "at_most" { "a number" } else { "a list with at least one text: `[a, b]`" };
            self.place(&entry.node.span, format!("`{}` does not take this", entry.key), help);
        }
        test
    }
}

fn verdict(word: &str) -> Option<ToolVerdict> {
    Some(match word {
        "allow" => ToolVerdict::Allow,
        "ask" => ToolVerdict::Ask,
        "deny" => ToolVerdict::Deny,
        _ => return None,
    })
}

/// The rules of the file, by tool.
pub(crate) type Rules = BTreeMap<String, RulesEntry>;

#[cfg(test)]
mod tests {
    use super::super::Registry;
    use super::*;

    const BASE: &str = "version: 1\nproviders:\n  p: {type: ollama}\nmodels:\n  m: {provider: p, model: m, context_window: 1000}\n\
         roles:\n  default: {chain: [m]}\n  coder:\n";

    fn parse(role: &str) -> Result<Registry, super::super::Invalid> {
        Registry::parse(&format!("{BASE}{role}"), "test", &|_| None)
    }

    #[test]
    fn rules_are_read_in_their_forms() {
        let role = "    tools:\n      read_file: allow\n      write_file: {allow: {path: {under: [src]}}}\n      git_*: [{deny: {n: {at_most: 3}}}, ask]\n    limits: {steps_max: 3, tokens_max: 10, cost_max: 0.5, time_max: 2m}\n";
        let registry = parse(role).unwrap();
        let tools = registry.tools(&"coder".into()).unwrap();
        let rule = |verdict, when: &[(&str, ToolTest)]| ToolRule {
            verdict,
            when: when.iter().map(|(name, test)| ((*name).to_owned(), test.clone())).collect(),
        };
        let rules: Vec<(&str, &[ToolRule])> = tools.entries.iter().map(|it| (&*it.tool, &*it.rules)).collect();
        assert_eq!(
            rules,
            [
                ("read_file", &[rule(ToolVerdict::Allow, &[])][..]),
                ("write_file", &[rule(ToolVerdict::Allow, &[("path", ToolTest::Under(vec!["src".into()]))])]),
                ("git_*", &[rule(ToolVerdict::Deny, &[("n", ToolTest::AtMost(3.0))]), rule(ToolVerdict::Ask, &[])]),
            ]
        );
        assert_eq!(
            tools.limits,
            StepLimits {
                steps_max: Some(3),
                tokens_max: Some(10),
                cost_max: Some(MicroUsd(500_000)),
                time_max: Some(Duration::from_mins(2)),
            }
        );
        assert!(registry.tools(&"writer".into()).is_none());
        assert!(parse("    tools: {}\n").unwrap().tools(&"coder".into()).is_some());
    }

    #[test]
    fn what_is_not_understood_is_refused_in_its_place() {
        for (role, message) in [
            ("    tools: {t: alow}\n", "this is no rule"),
            ("    tools: {t: 3}\n", "a rule is not a whole number"),
            ("    tools: {t: []}\n", "`t` has no rule"),
            ("    tools: {t: {allow: {}}}\n", "there is no condition"),
            ("    tools: {t: {allow: {p: {under: src}}}}\n", "`under` does not take this"),
            ("    tools: {t: {allow: {p: {undr: [src]}}}}\n", "there is no such condition"),
            ("    tools: {t: {allow: {p: {under: [a], at_most: 1}}}}\n", "an argument has one condition"),
            ("    tools: {t: {allow: {p: {under: [a]}}, deny: {p: {under: [b]}}}}\n", "a rule has one verdict"),
            ("    tools: {t: {allow: yes}}\n", "conditions are not"),
            ("    tools: {\"a b\": allow}\n", "this is no tool's name"),
            ("    tools: {t: allow, t: deny}\n", "`roles.coder.tools.t` is there twice"),
            ("    limits: {steps_max: 3}\n", "has limits and no tools"),
        ] {
            let error = parse(role).unwrap_err();
            let found: Vec<&str> = error.problems.iter().map(|it| it.message.as_str()).collect();
            assert!(found.iter().any(|it| it.contains(message)), "{role}: {found:?}");
            assert!(error.problems.iter().all(|it| it.line == 9), "{role}: {error}");
        }
    }
}
