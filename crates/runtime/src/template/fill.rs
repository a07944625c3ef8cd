//! Fills the blanks of a document.
//!
//! **Invariant:** keys are never filled, only texts.

use std::collections::BTreeSet;

use crewline_engine::plan::Problem;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde_json::{Map, Value};

use super::{parameter::scope, problem};

/// Bytes that all texts of a filled document have at most.
const BYTES_MAX: usize = 4 * 1024 * 1024;

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment
}

/// Blanks without a parameter, parameters without a blank, and texts that are no template.
pub(super) fn check_blanks(document: &Value, declared: &[&str]) -> Vec<Problem> {
    let environment = environment();
    let mut problems = Vec::new();
    let mut used: BTreeSet<String> = BTreeSet::new();
    texts(document, "", &mut |path, text| match environment.template_from_str(text) {
        Ok(template) => {
            for name in template.undeclared_variables(false) {
                if !declared.contains(&name.as_str()) && !is_global(&environment, &name) {
                    problems.push(problem(format!("`{path}`: there is no parameter `{name}`")));
                }
                used.insert(name);
            }
        }
        Err(error) => problems.push(problem(format!("`{path}`: {error}"))),
    });
    for name in declared.iter().filter(|it| !used.contains(**it)) {
        problems.push(problem(format!("`parameters.{name}` fills no blank; use it or drop it")));
    }
    problems
}

fn is_global(environment: &Environment<'_>, name: &str) -> bool {
    environment.globals().any(|(global, _)| global == name)
}

fn texts(value: &Value, path: &str, see: &mut impl FnMut(&str, &str)) {
    match value {
        Value::String(text) => see(path, text),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                texts(item, &format!("{path}[{index}]"), see);
            }
        }
        Value::Object(map) => {
            for (key, item) in map {
                let dot = if path.is_empty() { "" } else { "." };
                texts(item, &format!("{path}{dot}{key}"), see);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The document with its blanks filled.
pub(super) fn fill(document: &Value, values: &Map<String, Value>) -> Result<Value, Vec<Problem>> {
    let mut fill = Fill { environment: environment(), values, scope: scope(values), problems: Vec::new(), bytes: 0 };
    let filled = fill.value(document, "", "");
    if fill.bytes > BYTES_MAX {
        fill.problems.push(problem(format!("the filled plan has more than {BYTES_MAX} bytes")));
    }
    if fill.problems.is_empty() { Ok(filled) } else { Err(fill.problems) }
}

struct Fill<'a> {
    environment: Environment<'static>,
    values: &'a Map<String, Value>,
    scope: minijinja::Value,
    problems: Vec<Problem>,
    bytes: usize,
}

impl Fill<'_> {
    fn value(&mut self, value: &Value, key: &str, path: &str) -> Value {
        match value {
            Value::String(text) => self.text(text, key, path),
            Value::Array(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    list.push(self.value(item, key, &format!("{path}[{index}]")));
                }
                list.into()
            }
            Value::Object(map) => {
                let mut filled = Map::new();
                for (key, item) in map {
                    let dot = if path.is_empty() { "" } else { "." };
                    let item = self.value(item, key, &format!("{path}{dot}{key}"));
                    filled.insert(key.clone(), item);
                }
                filled.into()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }

    fn text(&mut self, text: &str, key: &str, path: &str) -> Value {
        // Where a number or a list belongs, a text that is one blank becomes what fills it.
        if matches!(key, "duration" | "priority" | "depends_on" | "success_criteria")
            && let Some(name) = text.trim().strip_prefix("{{").and_then(|it| it.strip_suffix("}}"))
            && let Some(value) = self.values.get(name.trim())
        {
            return value.clone();
        }
        if self.bytes > BYTES_MAX {
            return Value::Null;
        }
        match self.environment.render_str(text, &self.scope) {
            Ok(text) => {
                self.bytes += text.len();
                text.into()
            }
            Err(error) => {
                self.problems.push(problem(format!("`{path}`: {error}")));
                Value::Null
            }
        }
    }
}
