//! The file as a tree that knows where everything stands, so that every problem can be shown in its place.
//!
//! **Invariant:** a repeated key is kept here and reported by the check, never silently dropped.
//! **Invariant:** size, depth and alias expansion are bounded before anything else looks at the text.

use std::{fmt, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{DuplicateKeyPolicy, Location, MessageFormatter, Spanned, UserMessageFormatter};

use super::Problem;

/// Bytes a registry may have.
pub(crate) const TEXT_MAX: usize = 1 << 20;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) span: Range<usize>,
    pub(crate) value: Value,
}

/// A value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Range<usize>,
    pub(crate) node: Node,
}

impl Node {
    /// The entry of `key`; the first one when it is repeated.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The keys of a map, in their order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        let entries: &[Entry] = match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        };
        entries.iter().map(|entry| entry.key.as_str())
    }

    /// Where the value at `path` stands; the nearest thing above it when it is not there.
    pub(crate) fn span_at(&self, path: &[&str]) -> Range<usize> {
        self.find(path, |entry| entry.node.span.clone())
    }

    /// Where the key at `path` stands.
    pub(crate) fn key_span_at(&self, path: &[&str]) -> Range<usize> {
        self.find(path, |entry| entry.key_span.clone())
    }

    fn find(&self, path: &[&str], pick: impl Fn(&Entry) -> Range<usize>) -> Range<usize> {
        let (mut node, mut span) = (self, self.span.clone());
        for (depth, step) in path.iter().enumerate() {
            let next = match &node.value {
                Value::Map(_) => node.entry(step).map(|entry| {
                    let is_last = depth + 1 == path.len();
                    (&entry.node, if is_last { pick(entry) } else { entry.key_span.clone() })
                }),
                Value::List(items) => {
                    step.parse().ok().and_then(|place: usize| items.get(place)).map(|it| (it, it.span.clone()))
                }
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => None,
            };
            let Some((found, at)) = next else { break };
            (node, span) = (found, at);
        }
        span
    }

    /// The value without its places. The first of repeated keys counts.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(it) => (*it).into(),
            Value::Number(it) => serde_json::Value::Number(it.clone()),
            Value::Text(it) => it.as_str().into(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => {
                let mut map = serde_json::Map::with_capacity(entries.len());
                for entry in entries {
                    map.entry(entry.key.clone()).or_insert_with(|| entry.node.to_json());
                }
                map.into()
            }
        }
    }

    /// What it is, for people.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(it) if it.is_f64() => "a number",
            Value::Number(_) => "a whole number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

/// Reads the text; `Err` when it is not YAML.
pub(crate) fn parse(text: &str) -> Result<Node, Box<Problem>> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 32,
            flow_nesting_limit: 32,
            max_nodes: 50_000,
            max_events: 100_000,
            max_aliases: 1_000,
            max_documents: 1,
        },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        // A model named `n` is no boolean.
        strict_booleans: true,
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 20_000,
            max_replay_stack_depth: 8,
        },
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let span = error.location().map_or(0..0, |it| range(&it));
        let message = UserMessageFormatter.format_message(&error);
        let line = text.get(..span.start.min(text.len())).map_or("", |before| {
            let from = before.rfind('\n').map_or(0, |it| it + 1);
            text[from..].lines().next().unwrap_or_default()
        });
        let help = if line.contains('\t') {
            "this line has a tab; YAML is indented with spaces"
        } else {
            "the file is YAML: `key: value`, indented with spaces; texts with `: ` or `#` stand in quotes"
        };
        Box::new(Problem::new(text, span, format!("not valid YAML: {}", message.trim_end_matches('.')), help))
    })
}

fn range(location: &Location) -> Range<usize> {
    let span = location.span();
    let start = usize::try_from(span.byte_offset().unwrap_or_else(|| span.offset())).unwrap_or(0);
    let len = usize::try_from(span.byte_len().unwrap_or_else(|| span.len())).unwrap_or(0);
    start..start.saturating_add(len)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { span: range(&referenced), value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Node>()? {
            let text = match key.value {
                Value::Text(text) => text,
                Value::Number(number) => number.to_string(),
                Value::Bool(value) => value.to_string(),
                Value::Null => "null".to_owned(),
                Value::List(_) | Value::Map(_) => return Err(A::Error::custom("a key must be text")),
            };
            entries.push(Entry { key: text, key_span: key.span, node: map.next_value()? });
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_knows_its_place() {
        let text = "a: 1\nü:\n  - x\n  - {b: \"yes\", b: 2}\n";
        let node = parse(text).unwrap();
        let at = |path: &[&str]| &text[node.span_at(path)];
        assert_eq!(at(&["a"]), "1");
        assert_eq!(at(&["ü", "0"]), "x");
        assert_eq!(at(&["ü", "1", "b"]), "\"yes\"");
        assert_eq!(&text[node.key_span_at(&["ü"])], "ü");
        assert_eq!(node.to_json(), serde_json::json!({"a": 1, "ü": ["x", {"b": "yes"}]}));
        let Value::List(items) = &node.entry("ü").unwrap().node.value else { panic!() };
        assert_eq!(items[1].keys().collect::<Vec<_>>(), ["b", "b"]);
    }

    #[test]
    fn bombs_are_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let refs = format!("*a{}, ", level - 1).repeat(9);
            bomb = bomb
                + "a"
                + &level.to_string()
                + ": &a"
                + &level.to_string()
                + " ["
                + refs.trim_end_matches(", ")
                + "]\n";
        }
        assert!(parse(&bomb).is_err());
        assert!(parse(&"[".repeat(5_000)).is_err());
        assert!(parse(&(0..5_000).map(|it| " ".repeat(it) + "a:\n").collect::<String>()).is_err());
    }
}
