//! Rules: per role and tool allow, ask or deny, with conditions on the arguments.
//!
//! The entry with the most specific name decides, and in it the first rule whose conditions hold; when none does, the call
//! is denied. A tool without an entry is allowed only when it does nothing but look inside the workspace.
//!
//! **Invariant:** a condition on an argument that is missing does not hold.
//! **Invariant:** what can not be judged, because it is of another type than a condition speaks of, is never allowed by it.

use std::{
    fmt,
    path::{Component, Path},
};

use serde_json::Value;

/// Tools that are allowed without a rule: they look inside the workspace or the run, and leave both as they are.
const HARMLESS: [&str; 11] = [
    "read_file",
    "list_files",
    "search_files",
    "read_output",
    "git_status",
    "git_diff",
    "git_log",
    "note",
    "progress",
    "memory_search",
    "give_up",
];

/// Whether a tool needs no rule.
pub fn is_harmless(tool: &str) -> bool {
    HARMLESS.contains(&tool)
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// The call is made.
    Allow,
    /// A person decides.
    Ask,
    /// The call is not made.
    Deny,
}

impl Verdict {
    /// The word used in the registry and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        }
    }
}

/// What must hold for an argument.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// The argument; a dot goes into an object: `options.depth`.
    pub argument: String,
    /// What must hold.
    pub test: Test,
}

/// A test of one argument.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// It is one of these values.
    OneOf(Vec<Value>),
    /// A text that matches one of these patterns as a whole (`*`: any characters); a list whose every text does.
    Matches(Vec<String>),
    /// A list of texts that begins with these.
    BeginsWith(Vec<String>),
    /// A relative path in one of these folders of the workspace; `.` is the workspace.
    Under(Vec<String>),
    /// A number of at most this.
    AtMost(f64),
}

/// A verdict and when it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// What is decided.
    pub verdict: Verdict,
    /// All must hold; none: always.
    pub when: Vec<Condition>,
}

/// The rules of the tools with a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// A tool's name, or the beginning of some with a `*` at the end.
    pub tool: String,
    /// In their order.
    pub rules: Vec<Rule>,
}

/// The rules of a role.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policy {
    /// In any order.
    pub entries: Vec<Entry>,
}

/// A verdict and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// What is decided.
    pub verdict: Verdict,
    /// Why.
    pub because: Because,
}

/// Why a verdict is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// A rule says so: the place of its entry, and its place in it.
    Rule(usize, usize),
    /// There is an entry for the tool, and none of its rules holds.
    NoRuleHolds(usize),
    /// No entry is about the tool, and it only looks.
    Harmless,
    /// No entry is about the tool.
    NotListed,
}

impl fmt::Display for Because {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Rule(..) => "a rule of the role decides so",
            Self::NoRuleHolds(_) => "none of the role's rules for the tool allows these arguments",
            Self::Harmless => "it only looks",
            Self::NotListed => "the role's rules do not list the tool",
        })
    }
}

impl Policy {
    /// The entry that is about `tool`: its name, or the longest beginning of it.
    fn entry(&self, tool: &str) -> Option<(usize, &Entry)> {
        let rank = |entry: &Entry| match entry.tool.strip_suffix('*') {
            None if entry.tool == tool => Some(usize::MAX),
            Some(start) if tool.starts_with(start) => Some(start.len()),
            None | Some(_) => None,
        };
        let ranked = self.entries.iter().enumerate().filter_map(|(place, entry)| Some((rank(entry)?, place, entry)));
        // Of two with the same name the first one counts.
        ranked.rev().max_by_key(|(rank, ..)| *rank).map(|(_, place, entry)| (place, entry))
    }

    /// Whether a call of `tool` with some arguments may be made or asked for; others need not be offered to a model.
    pub fn may_ever(&self, tool: &str) -> bool {
        match self.entry(tool) {
            Some((_, entry)) => entry.rules.iter().any(|rule| rule.verdict != Verdict::Deny),
            None => is_harmless(tool),
        }
    }

    /// What is decided of one call.
    pub fn decide(&self, tool: &str, arguments: &Value) -> Decision {
        let Some((place, entry)) = self.entry(tool) else {
            return if is_harmless(tool) {
                Decision { verdict: Verdict::Allow, because: Because::Harmless }
            } else {
                Decision { verdict: Verdict::Deny, because: Because::NotListed }
            };
        };
        let holds = |rule: &Rule| rule.when.iter().all(|it| it.holds(rule.verdict, arguments));
        match entry.rules.iter().position(holds) {
            Some(rule) => Decision { verdict: entry.rules[rule].verdict, because: Because::Rule(place, rule) },
            None => Decision { verdict: Verdict::Deny, because: Because::NoRuleHolds(place) },
        }
    }
}

impl Condition {
    /// Whether a rule with this verdict holds as far as this condition goes: what would be refused for one text of a list is
    /// refused for the list, and what can not be told is refused.
    fn holds(&self, verdict: Verdict, arguments: &Value) -> bool {
        let mut value = arguments;
        for part in self.argument.split('.') {
            let Some(inner) = value.get(part) else { return false };
            value = inner;
        }
        match verdict {
            Verdict::Allow | Verdict::Ask => self.test.is_met(value, Of::Every) == Some(true),
            Verdict::Deny => self.test.is_met(value, Of::Any) != Some(false),
        }
    }
}

/// How many texts of a list must match.
#[derive(Debug, Clone, Copy)]
enum Of {
    Every,
    Any,
}

impl Test {
    /// `None` when the value is of a type this says nothing about.
    fn is_met(&self, value: &Value, of: Of) -> Option<bool> {
        match self {
            Self::OneOf(all) => Some(all.contains(value)),
            Self::Matches(patterns) => {
                let matches = |text: &str| patterns.iter().any(|pattern| matches(pattern, text));
                let texts = match value {
                    Value::Array(items) => items.iter().map(Value::as_str).collect::<Option<Vec<_>>>()?,
                    Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                        vec![value.as_str()?]
                    }
                };
                Some(match of {
                    Of::Every => texts.into_iter().all(matches),
                    Of::Any => texts.into_iter().any(matches),
                })
            }
            Self::BeginsWith(words) => {
                let items = value.as_array()?;
                let is_same = |(word, item): (&String, &Value)| item.as_str() == Some(word);
                Some(items.len() >= words.len() && words.iter().zip(items).all(is_same))
            }
            Self::Under(folders) => {
                // A path that leaves the workspace is in none of its folders, and one nobody may use.
                let path = plain_path(value.as_str()?)?;
                Some(folders.iter().filter_map(|it| plain_path(it)).any(|folder| path.starts_with(&folder)))
            }
            Self::AtMost(most) => value.as_f64().map(|it| it <= *most),
        }
    }
}

/// The parts of a relative path that never leaves its root; none for any other.
fn plain_path(text: &str) -> Option<Vec<&str>> {
    // What is a separator on one system is a character of a name on another: neither is let through.
    if text.contains(['\\', '\0', ':']) {
        return None;
    }
    let mut parts = Vec::new();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str()?),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts)
}

/// Whether the whole of `text` matches `pattern`, where `*` stands for any characters. Linear in both but for the last star.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(c) if *c == text[seen] => {
                at += 1;
                seen += 1;
            }
            Some(_) | None => match star {
                Some((place, eaten)) => {
                    star = Some((place, eaten + 1));
                    at = place + 1;
                    seen = eaten + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(verdict: Verdict, argument: &str, test: Test) -> Rule {
        Rule { verdict, when: vec![Condition { argument: argument.into(), test }] }
    }

    fn policy(entries: Vec<(&str, Vec<Rule>)>) -> Policy {
        Policy { entries: entries.into_iter().map(|(tool, rules)| Entry { tool: tool.into(), rules }).collect() }
    }

    #[test]
    fn without_rules_only_looking_is_allowed() {
        let none = Policy::default();
        for tool in HARMLESS {
            assert_eq!(none.decide(tool, &json!({})).verdict, Verdict::Allow);
        }
        for tool in ["write_file", "run_command", "http_fetch", "git_commit", "memory_store", "x.y", ""] {
            assert_eq!(none.decide(tool, &json!({})), Decision { verdict: Verdict::Deny, because: Because::NotListed });
            assert!(!none.may_ever(tool));
        }
    }

    #[test]
    fn the_most_specific_entry_decides_and_its_first_rule_that_holds() {
        let always = |verdict| vec![Rule { verdict, when: Vec::new() }];
        let rules = policy(vec![
            ("*", always(Verdict::Ask)),
            ("git_*", always(Verdict::Allow)),
            ("git_commit", always(Verdict::Deny)),
            (
                "run_command",
                vec![
                    rule(Verdict::Deny, "arguments", Test::Matches(vec!["*--force*".into()])),
                    rule(Verdict::Allow, "program", Test::OneOf(vec![json!("cargo")])),
                ],
            ),
        ]);
        let verdict = |tool, arguments| rules.decide(tool, &arguments).verdict;
        assert_eq!(verdict("git_log", json!({})), Verdict::Allow);
        assert_eq!(verdict("git_commit", json!({})), Verdict::Deny);
        assert_eq!(verdict("read_file", json!({})), Verdict::Ask);
        assert_eq!(verdict("run_command", json!({"program": "cargo", "arguments": ["test"]})), Verdict::Allow);
        assert_eq!(verdict("run_command", json!({"program": "rm"})), Verdict::Deny);
        assert_eq!(verdict("run_command", json!({"program": "cargo", "arguments": ["--force"]})), Verdict::Deny);
    }

    #[test]
    fn tests_hold_for_what_they_say_only() {
        let met = |test: &Test, value: Value| test.is_met(&value, Of::Every) == Some(true);
        let under = Test::Under(vec!["src".into()]);
        for good in ["src", "src/a.rs", "./src/b/c.rs"] {
            assert!(met(&under, json!(good)), "{good}");
        }
        for bad in ["srcs/a", "a", "../src/a", "src/../a", "/src/a", "", "src\\..\\a", "C:/src", "src/\0"] {
            assert!(!met(&under, json!(bad)), "{bad}");
        }
        assert!(met(&Test::Under(vec![".".into()]), json!("a/b")));
        assert!(!met(&Test::Under(vec![".".into()]), json!("../b")));
        let begins = Test::BeginsWith(vec!["test".into(), "--lib".into()]);
        assert!(met(&begins, json!(["test", "--lib", "x"])));
        assert!(!met(&begins, json!(["test"])) && !met(&begins, json!("test --lib")));
        assert!(met(&Test::AtMost(3.0), json!(3)) && !met(&Test::AtMost(3.0), json!("3")));
        assert!(matches("*.rs", "a.rs") && matches("a*b*c", "a__b_bc") && !matches("*.rs", "a.rs\n"));
        assert!(matches("", "") && !matches("", "x") && matches("*", ""));
    }

    #[test]
    fn a_denial_holds_for_one_bad_text_of_a_list_and_for_what_it_can_not_judge() {
        let rules = policy(vec![(
            "run_command",
            vec![
                rule(Verdict::Deny, "arguments", Test::Matches(vec!["--force*".into()])),
                rule(Verdict::Deny, "folder", Test::Under(vec!["secret".into()])),
                Rule { verdict: Verdict::Allow, when: Vec::new() },
            ],
        )]);
        let verdict = |arguments| rules.decide("run_command", &arguments).verdict;
        assert_eq!(verdict(json!({"arguments": ["push", "--force-with-lease"]})), Verdict::Deny);
        assert_eq!(verdict(json!({"arguments": ["push", 7]})), Verdict::Deny);
        assert_eq!(verdict(json!({"folder": "a/../secret"})), Verdict::Deny);
        assert_eq!(verdict(json!({"arguments": ["push"], "folder": "a"})), Verdict::Allow);
    }

    proptest::proptest! {
        #![proptest_config(crate::cases::cases(2_000))]
        #[test]
        fn a_path_under_a_folder_never_leaves_it(path in r"(\.|\.\.|/|a|b|src|\\|:){0,8}") {
            if (Test::Under(vec!["src".into()])).is_met(&json!(path), Of::Every) == Some(true) {
                let parts = plain_path(&path).unwrap();
                proptest::prop_assert!(parts.first() == Some(&"src") && !parts.contains(&".."));
                proptest::prop_assert!(!path.starts_with('/'));
            }
        }
    }
}
