//! What differs between two registries, by meaning: order, comments and layout do not count.

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Registry, spans};

/// One value that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Its place, as `models.cheap.price`.
    pub path: String,
    /// What it was; null when it is new.
    pub before: Value,
    /// What it is; null when it is gone.
    pub after: Value,
}

/// What differs, in the order of the older file, then what is new.
pub(super) fn between(before: &Registry, after: &Registry) -> Vec<Difference> {
    let mut differences = Vec::new();
    compare("", &document(before), &document(after), &mut differences);
    differences
}

fn document(registry: &Registry) -> Value {
    // A registry was parsed from this text once.
    spans::parse(&registry.text).map(|it| it.to_json()).unwrap_or_default()
}

fn compare(path: &str, before: &Value, after: &Value, differences: &mut Vec<Difference>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            for (name, value) in old {
                compare(&below(name), value, new.get(name).unwrap_or(&Value::Null), differences);
            }
            for (name, value) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
                compare(&below(name), &Value::Null, value, differences);
            }
        }
        // A whole section that is new or gone is told entry by entry.
        (Value::Null, Value::Object(new)) if !path.contains('.') => {
            compare(path, &Value::Object(Map::new()), &Value::Object(new.clone()), differences);
        }
        (Value::Object(old), Value::Null) if !path.contains('.') => {
            compare(path, &Value::Object(old.clone()), &Value::Object(Map::new()), differences);
        }
        (before, after) if before == after => {}
        (before, after) => {
            differences.push(Difference { path: path.to_owned(), before: before.clone(), after: after.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Registry {
        Registry::parse(text, "test", &|_| None).unwrap()
    }

    #[test]
    fn only_meaning_counts() {
        let old = parse(
            "version: 1\nproviders:\n  p: {type: ollama}\nmodels:\n  a: {provider: p, model: a, context_window: 1000}\n  \
             b: {provider: p, model: b, context_window: 1000}\nroles:\n  default: {chain: [a, b]}\n",
        );
        let same = parse(
            "# A comment.\nroles:\n  default: {chain: [a, b]}\nmodels:\n  b: {model: b, provider: p, context_window: 1000}\n  \
             a:\n    provider: p\n    model: a\n    context_window: 1000\nproviders: {p: {type: ollama}}\nversion: 1\n",
        );
        assert_eq!(old.diff(&same), []);
        let new = parse(
            "version: 1\nproviders:\n  p: {type: ollama}\nmodels:\n  a: {provider: p, model: a, context_window: 2000}\n  \
             c: {provider: p, model: c, context_window: 1000}\nroles:\n  default: {chain: [a, c]}\npolicies: {attempts_max: 3}\n",
        );
        let paths: Vec<_> = old.diff(&new).into_iter().map(|it| it.path).collect();
        assert_eq!(
            paths,
            ["models.a.context_window", "models.b", "models.c", "roles.default.chain", "policies.attempts_max"]
        );
    }
}
