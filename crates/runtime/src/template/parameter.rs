//! What may fill a blank.
//!
//! **Invariant:** a value that is accepted has the type of its parameter; a path is relative and never leads upwards.

use crewline_engine::plan::Problem;
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::problem;

/// Characters of a value at most.
const CHARS_MAX: usize = 64 * 1024;
/// Bytes that a pattern may take when it is compiled.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// A blank of a template.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Parameter {
    /// What the blanks call it.
    pub name: String,
    /// What it holds.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// What it is for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Whether it must be given; a parameter with a default never must.
    pub required: bool,
    /// What it is when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// A regular expression that a whole text, path or item matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// The least number, characters or items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// What an `enum` may be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// A value that shows what is meant, and that the template is checked with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub example: Option<Value>,
}

/// What a parameter holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A text.
    String,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// Yes or no.
    Boolean,
    /// One of some words.
    Enum,
    /// A relative path.
    Path,
    /// Texts.
    List,
}

/// What somebody gave.
#[derive(Debug, Clone, PartialEq)]
pub enum Given {
    /// As typed on a command line.
    Typed(String),
    /// As a file of values has it.
    Value(Value),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    #[serde(rename = "type")]
    kind: Kind,
    #[serde(default)]
    description: String,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    default: Option<Value>,
    #[serde(default)]
    pattern: Option<String>,
    #[serde(default)]
    min: Option<f64>,
    #[serde(default)]
    max: Option<f64>,
    #[serde(default)]
    values: Vec<String>,
    #[serde(default)]
    example: Option<Value>,
}

impl Parameter {
    pub(super) fn read(name: &str, value: &Value) -> Result<Self, Vec<Problem>> {
        let at = |message: String| problem(format!("`parameters.{name}`: {message}"));
        let spec = Spec::deserialize(value).map_err(|error| vec![at(error.to_string())])?;
        let Spec { kind, description, required, default, pattern, min, max, values, example } = spec;
        let name = name.to_owned();
        let it = Self { name, kind, description, required, default, pattern, min, max, values, example };
        let mut problems: Vec<Problem> = it.contradictions().into_iter().map(at).collect();
        if problems.is_empty() {
            for (key, value) in [("default", &it.default), ("example", &it.example)] {
                if let Some(value) = value
                    && let Err(reason) = it.accept(&Given::Value(value.clone()))
                {
                    problems.push(at(format!("`{key}`: {reason}")));
                }
            }
        }
        if problems.is_empty() { Ok(it) } else { Err(problems) }
    }

    fn contradictions(&self) -> Vec<String> {
        let mut found = Vec::new();
        let is_name = self.name.starts_with(|it: char| it.is_ascii_lowercase())
            && self.name.chars().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '_');
        if !is_name {
            found.push("a name begins with a letter and has lower-case letters, digits and `_` only".to_owned());
        }
        if self.required && self.default.is_some() {
            found.push("it is `required` and has a `default`; drop one of them".to_owned());
        }
        if matches!(self.kind, Kind::Enum) == self.values.is_empty() {
            found.push("`values` belong to an `enum`, and an `enum` needs them".to_owned());
        }
        let has_range = self.min.is_some() || self.max.is_some();
        if has_range && matches!(self.kind, Kind::Boolean | Kind::Enum) {
            found.push("`min` and `max` bound numbers, characters or items".to_owned());
        }
        if self.min.zip(self.max).is_some_and(|(min, max)| min > max) {
            found.push("`min` is above `max`".to_owned());
        }
        if self.pattern.is_some() && !matches!(self.kind, Kind::String | Kind::Path | Kind::List) {
            found.push("a `pattern` is for texts, paths and lists".to_owned());
        }
        if let Some(Err(reason)) = self.pattern.as_deref().map(whole) {
            found.push(reason);
        }
        found
    }

    /// Whether it must be given.
    pub fn is_required(&self) -> bool {
        self.required
    }

    /// A value to check the template with.
    pub(super) fn sample(&self) -> Value {
        if let Some(value) = self.example.as_ref().or(self.default.as_ref()) {
            return value.clone();
        }
        let least = self.min.unwrap_or(1.0).max(1.0).min(self.max.unwrap_or(f64::MAX));
        match self.kind {
            Kind::String | Kind::Path => "example".into(),
            #[expect(clippy::cast_possible_truncation, reason = "a sample")]
            Kind::Integer => Value::from(least.ceil() as i64),
            Kind::Number => least.into(),
            Kind::Boolean => true.into(),
            Kind::Enum => self.values.first().cloned().unwrap_or_default().into(),
            Kind::List => vec!["example"].into(),
        }
    }

    /// The value as the blanks get it, or what is allowed instead.
    pub fn accept(&self, given: &Given) -> Result<Value, String> {
        let value = match given {
            Given::Typed(text) => self.typed(text)?,
            Given::Value(value) => value.clone(),
        };
        let wrong = |allowed: &str| format!("{} is not allowed: {allowed}", shown(&value));
        match (self.kind, &value) {
            (Kind::String, Value::String(text)) => self.text(text, "characters")?,
            (Kind::String, _) => return Err(wrong("a text")),
            (Kind::Path, Value::String(text)) => {
                if !is_inner_path(text) {
                    return Err(wrong("a relative path that does not lead upwards"));
                }
                self.text(text, "characters")?;
            }
            (Kind::Path, _) => return Err(wrong("a path")),
            (Kind::Enum, Value::String(text)) if self.values.contains(text) => {}
            (Kind::Enum, _) => return Err(wrong(&format!("one of {}", self.values.join(", ")))),
            (Kind::Boolean, Value::Bool(_)) => {}
            (Kind::Boolean, _) => return Err(wrong("true or false")),
            (Kind::Integer, Value::Number(number)) if number.is_i64() || number.is_u64() => {
                self.number(number.as_f64())?;
            }
            (Kind::Integer, _) => return Err(wrong("a whole number")),
            (Kind::Number, Value::Number(number)) => self.number(number.as_f64())?,
            (Kind::Number, _) => return Err(wrong("a number")),
            (Kind::List, Value::Array(items)) => {
                for item in items {
                    let Value::String(item) = item else { return Err(wrong("a list of texts")) };
                    self.matches(item)?;
                }
                self.within(items.len() as f64, "items")?;
            }
            (Kind::List, _) => return Err(wrong("a list of texts")),
        }
        Ok(value)
    }

    fn typed(&self, text: &str) -> Result<Value, String> {
        let trimmed = text.trim();
        let parsed = match self.kind {
            Kind::String | Kind::Path | Kind::Enum => Some(text.into()),
            Kind::Integer => trimmed.parse::<i64>().ok().map(Value::from),
            Kind::Number => trimmed.parse::<f64>().ok().filter(|it| it.is_finite()).map(Value::from),
            Kind::Boolean => match trimmed.to_ascii_lowercase().as_str() {
                "true" | "yes" | "1" => Some(true.into()),
                "false" | "no" | "0" => Some(false.into()),
                _ => None,
            },
            Kind::List if trimmed.starts_with('[') => serde_json::from_str(trimmed).ok(),
            Kind::List => {
                let items = trimmed.split(',').map(str::trim).filter(|it| !it.is_empty());
                Some(items.map(Value::from).collect::<Vec<_>>().into())
            }
        };
        let allowed = match self.kind {
            Kind::Integer => "a whole number",
            Kind::Number => "a number",
            Kind::Boolean => "true or false",
            Kind::List => "a JSON list of texts, or texts with commas between",
            Kind::String | Kind::Path | Kind::Enum => "a text",
        };
        parsed.ok_or_else(|| format!("{} is not allowed: {allowed}", shown(&text.into())))
    }

    fn text(&self, text: &str, unit: &str) -> Result<(), String> {
        let chars = text.chars().count();
        if chars > CHARS_MAX {
            return Err(format!("it has {chars} characters, at most {CHARS_MAX} are allowed"));
        }
        self.within(chars as f64, unit)?;
        self.matches(text)
    }

    fn number(&self, number: Option<f64>) -> Result<(), String> {
        self.within(number.unwrap_or(f64::NAN), "")
    }

    fn within(&self, size: f64, unit: &str) -> Result<(), String> {
        let is_in = self.min.is_none_or(|it| size >= it) && self.max.is_none_or(|it| size <= it);
        if is_in && !size.is_nan() {
            return Ok(());
        }
        let bound = |name: &str, it: Option<f64>| it.map(|it| format!("{name} {it}"));
        let bounds: Vec<String> =
            [bound("at least", self.min), bound("at most", self.max)].into_iter().flatten().collect();
        Err(format!("{} is not allowed: {}", format!("{size} {unit}").trim_end(), bounds.join(" and ")))
    }

    fn matches(&self, text: &str) -> Result<(), String> {
        let Some(pattern) = &self.pattern else { return Ok(()) };
        if whole(pattern)?.is_match(text) {
            return Ok(());
        }
        Err(format!("{} does not match the pattern `{pattern}`", shown(&text.into())))
    }
}

/// The expression for a whole text.
fn whole(pattern: &str) -> Result<Regex, String> {
    regex::RegexBuilder::new(&format!("^(?:{pattern})$"))
        .size_limit(PATTERN_BYTES_MAX)
        .build()
        .map_err(|error| format!("`pattern`: {}", error.to_string().lines().last().unwrap_or("not an expression")))
}

fn is_inner_path(text: &str) -> bool {
    let path = std::path::Path::new(text);
    let is_inner = |it| matches!(it, std::path::Component::Normal(_) | std::path::Component::CurDir);
    !text.trim().is_empty() && !text.chars().any(char::is_control) && path.components().all(is_inner)
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}

/// What the blanks of a template see.
pub(super) fn in_template(value: &Value) -> minijinja::Value {
    match value {
        Value::String(text) => text.as_str().into(),
        Value::Bool(is) => (*is).into(),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(it), _) => it.into(),
            (None, Some(it)) => it.into(),
            (None, None) => number.as_f64().unwrap_or_default().into(),
        },
        Value::Array(items) => items.iter().map(in_template).collect::<Vec<_>>().into(),
        // No parameter accepts one.
        Value::Null | Value::Object(_) => ().into(),
    }
}

/// Values by the names of the blanks.
pub(super) fn scope(values: &Map<String, Value>) -> minijinja::Value {
    minijinja::Value::from_pairs(values.iter().map(|(name, value)| (name.clone(), in_template(value))))
}
