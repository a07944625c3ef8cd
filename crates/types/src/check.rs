//! What a program can tell of an answer: the executable part of a success criterion.
//!
//! **Invariant:** a check is data, and only a person writes one: what a planning model says is never a check.
//! **Invariant:** a check names no file and no host. One that names a command is made only where the rules of the role allow
//! that command.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

/// A check of an answer, as a plan file writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Check {
    /// The answer is JSON that follows a JSON Schema; text around it is forgiven.
    JsonSchema {
        /// The schema; references to other documents are not followed.
        schema: Value,
    },
    /// A regular expression matches.
    Regex {
        /// The expression; `(?m)`, `(?i)` and `(?s)` set its modes.
        pattern: String,
        /// It must not match.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        absent: bool,
    },
    /// A text stands in the answer.
    Contains {
        /// The text.
        text: String,
        /// Capitals and small letters are the same.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        ignore_case: bool,
        /// It must not stand there.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        absent: bool,
    },
    /// The answer is neither too short nor too long.
    Length {
        /// What is counted.
        #[serde(default)]
        unit: Unit,
        /// At least so many.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min: Option<u32>,
        /// At most so many.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<u32>,
    },
    /// A number of the answer is neither too small nor too large.
    Number {
        /// Finds it: the first group of a regular expression, or its whole match.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pattern: Option<String>,
        /// Finds it: its place in an answer that is JSON, as `/scores/0` (RFC 6901).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pointer: Option<String>,
        /// At least this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min: Option<Number>,
        /// At most this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<Number>,
    },
    /// A command that is run where the attempt works ends with exit code 0.
    Command {
        /// The program; there is no shell.
        program: String,
        /// Its arguments.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        args: Vec<String>,
    },
    /// A judge, which is another model, says that the answer meets a rubric.
    Judge {
        /// What must hold, and how to tell.
        rubric: String,
    },
}

/// What a length is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// What stands between blanks.
    #[default]
    Words,
    /// Unicode scalar values.
    Characters,
    /// Lines that are not blank.
    Lines,
}

impl Unit {
    /// The name, as plan files write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Words => "words",
            Self::Characters => "characters",
            Self::Lines => "lines",
        }
    }
}

impl Check {
    /// The name of its kind, as plan files write it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::JsonSchema { .. } => "json_schema",
            Self::Regex { .. } => "regex",
            Self::Contains { .. } => "contains",
            Self::Length { .. } => "length",
            Self::Number { .. } => "number",
            Self::Command { .. } => "command",
            Self::Judge { .. } => "judge",
        }
    }

    /// Whether the answer alone tells. What is left needs an attempt: its workspace, its money.
    pub fn reads_answer_only(&self) -> bool {
        match self {
            Self::JsonSchema { .. }
            | Self::Regex { .. }
            | Self::Contains { .. }
            | Self::Length { .. }
            | Self::Number { .. } => true,
            Self::Command { .. } | Self::Judge { .. } => false,
        }
    }

    /// What a judge is asked, of a check by one.
    pub fn rubric(&self) -> Option<&str> {
        match self {
            Self::Judge { rubric } => Some(rubric),
            Self::JsonSchema { .. }
            | Self::Regex { .. }
            | Self::Contains { .. }
            | Self::Length { .. }
            | Self::Number { .. }
            | Self::Command { .. } => None,
        }
    }

    /// The program and its arguments, of a check that runs one.
    pub fn command(&self) -> Option<(&str, &[String])> {
        match self {
            Self::Command { program, args } => Some((program, args)),
            Self::JsonSchema { .. }
            | Self::Regex { .. }
            | Self::Contains { .. }
            | Self::Length { .. }
            | Self::Number { .. }
            | Self::Judge { .. } => None,
        }
    }
}

/// For people and models: what must hold.
impl fmt::Display for Check {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JsonSchema { schema } => write!(out, "it is JSON that follows this JSON Schema: {schema}"),
            Self::Regex { pattern, absent: false } => write!(out, "it matches the regular expression `{pattern}`"),
            Self::Regex { pattern, absent: true } => {
                write!(out, "it does not match the regular expression `{pattern}`")
            }
            Self::Contains { text, absent: false, .. } => write!(out, "it contains `{text}`"),
            Self::Contains { text, absent: true, .. } => write!(out, "it does not contain `{text}`"),
            Self::Length { unit, min, max } => {
                out.write_str("it has ")?;
                bounds(out, min.as_ref(), max.as_ref())?;
                write!(out, " {}", unit.as_str())
            }
            Self::Number { pattern, pointer, min, max } => {
                let place = pointer.as_deref().or(pattern.as_deref()).unwrap_or_default();
                write!(out, "its number at `{place}` is ")?;
                bounds(out, min.as_ref(), max.as_ref())
            }
            Self::Command { program, args } => {
                write!(out, "`{program}")?;
                for arg in args {
                    let is_plain = !arg.is_empty() && !arg.contains(char::is_whitespace);
                    if is_plain { write!(out, " {arg}")? } else { write!(out, " '{arg}'")? }
                }
                out.write_str("` ends with exit code 0")
            }
            Self::Judge { rubric } => out.write_str(rubric),
        }
    }
}

fn bounds<T: fmt::Display>(out: &mut fmt::Formatter<'_>, min: Option<&T>, max: Option<&T>) -> fmt::Result {
    match (min, max) {
        (Some(min), Some(max)) => write!(out, "{min} to {max}"),
        (Some(min), None) => write!(out, "at least {min}"),
        (None, Some(max)) => write!(out, "at most {max}"),
        (None, None) => out.write_str("any number of"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_read_strictly_and_written_back() {
        for (text, shown) in [
            (r#"{"type":"contains","text":"Rust"}"#, "it contains `Rust`"),
            (r#"{"type":"regex","pattern":"^#","absent":true}"#, "it does not match the regular expression `^#`"),
            (r#"{"type":"length","unit":"lines","max":3}"#, "it has at most 3 lines"),
            (r#"{"type":"number","pointer":"/score","min":0.5,"max":1}"#, "its number at `/score` is 0.5 to 1"),
            (r#"{"type":"judge","rubric":"it is kind"}"#, "it is kind"),
            (
                r#"{"type":"command","program":"cargo","args":["test","a b"]}"#,
                "`cargo test 'a b'` ends with exit code 0",
            ),
        ] {
            let check: Check = serde_json::from_str(text).unwrap();
            assert_eq!(check.to_string(), shown);
            assert_eq!(serde_json::to_string(&check).unwrap(), text);
        }
        for bad in [r#"{"type":"contains"}"#, r#"{"type":"contains","text":"a","case":1}"#, r#"{"type":"shell"}"#] {
            assert!(serde_json::from_str::<Check>(bad).is_err(), "{bad}");
        }
    }
}
