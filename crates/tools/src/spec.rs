//! A tool as models and policies see it.
//!
//! **Invariant:** a schema is never fetched: a reference to another document is an error of the schema.

use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use crate::Error;

/// Problems of arguments that are told.
const PROBLEMS_MAX: usize = 8;
/// Characters of one problem at most.
const PROBLEM_CHARS_MAX: usize = 300;
/// Characters of a name at most; what providers take.
const NAME_CHARS_MAX: usize = 64;

/// What a call does outside, hence whether it may be made again when nobody knows how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// It changes nothing.
    Read,
    /// Made twice it leaves what it leaves when made once.
    Repeatable,
    /// A second call may do harm: after an unknown outcome a person decides.
    Unsafe,
}

impl Effect {
    /// The name on the command line and in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Repeatable => "repeatable",
            Self::Unsafe => "unsafe",
        }
    }

    /// Whether a call without a recorded outcome may be made again.
    pub fn may_repeat(self) -> bool {
        match self {
            Self::Read | Self::Repeatable => true,
            Self::Unsafe => false,
        }
    }
}

/// A tool as models and policies see it.
#[derive(Debug)]
pub struct ToolSpec {
    /// Letters, digits, `_`, `-` and `.`; at most 64. A `.` stands in the tools of other servers only: `server.tool`.
    pub name: Arc<str>,
    /// When to call it and what it gives back.
    pub description: Arc<str>,
    /// The JSON Schema of its arguments: an object.
    pub parameters: Value,
    /// What a call does.
    pub effect: Effect,
    /// Whether calls of one step may run beside each other.
    pub is_parallel: bool,
    validator: OnceLock<Result<jsonschema::Validator, String>>,
}

impl ToolSpec {
    /// A tool. One that only reads may run beside others.
    pub fn new(name: &str, description: &str, parameters: Value, effect: Effect) -> Self {
        Self {
            name: name.into(),
            description: description.into(),
            parameters,
            effect,
            is_parallel: effect == Effect::Read,
            validator: OnceLock::new(),
        }
    }

    /// Whether it can be offered to a model.
    pub(crate) fn check_self(&self) -> Result<(), Error> {
        let invalid = |reason: &str| Error::Invalid { name: self.name.to_string(), reason: reason.to_owned() };
        let is_word = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'_' | b'-' | b'.');
        if self.name.is_empty() || self.name.len() > NAME_CHARS_MAX || !self.name.bytes().all(is_word) {
            return Err(invalid("its name is not 1 to 64 letters, digits, `_`, `-` and `.`"));
        }
        if self.parameters.get("type") != Some(&json!("object")) {
            return Err(invalid("its parameters are not of `type: object`"));
        }
        match self.validator() {
            Ok(_) => Ok(()),
            Err(reason) => Err(invalid(reason)),
        }
    }

    /// All that is wrong with arguments (eight lines at most); empty when they follow the schema.
    pub fn problems(&self, arguments: &Value) -> Vec<String> {
        let validator = match self.validator() {
            Ok(validator) => validator,
            Err(reason) => return vec![reason.clone()],
        };
        let describe = |error: jsonschema::ValidationError<'_>| {
            let place = error.instance_path().to_string();
            let place = if place.is_empty() { "the arguments".to_owned() } else { format!("`{place}`") };
            let message: String = error.to_string().chars().take(PROBLEM_CHARS_MAX).collect();
            format!("{place}: {message}")
        };
        validator.iter_errors(arguments).take(PROBLEMS_MAX).map(describe).collect()
    }

    /// Compiled once: the tools of this program are the same for all attempts.
    fn validator(&self) -> &Result<jsonschema::Validator, String> {
        self.validator.get_or_init(|| {
            jsonschema::validator_for(&self.parameters).map_err(|error| format!("its schema is not usable: {error}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, parameters: Value) -> ToolSpec {
        ToolSpec::new(name, "d", parameters, Effect::Read)
    }

    #[test]
    fn arguments_are_held_against_the_schema() {
        let spec = spec(
            "t",
            json!({
                "type": "object", "required": ["path"], "additionalProperties": false,
                "properties": {"path": {"type": "string"}, "limit": {"type": "integer", "minimum": 1}}
            }),
        );
        assert_eq!(spec.problems(&json!({"path": "a", "limit": 3})), Vec::<String>::new());
        for (arguments, start) in [
            (json!({}), "the arguments: "),
            (json!({"path": 1}), "`/path`: "),
            (json!({"path": "a", "limit": 0}), "`/limit`: "),
            (json!({"path": "a", "more": 0}), "the arguments: "),
            (json!("path"), "the arguments: "),
        ] {
            let problems = spec.problems(&arguments);
            assert!(problems.first().is_some_and(|it| it.starts_with(start)), "{arguments}: {problems:?}");
        }
    }

    #[test]
    fn a_tool_that_no_model_could_call_is_refused() {
        let object = || json!({"type": "object"});
        assert!(spec("read_file", object()).check_self().is_ok());
        assert!(spec("server.tool-2", object()).check_self().is_ok());
        for name in ["", "two words", "ünlaut", "a/b", &"a".repeat(65)] {
            assert!(spec(name, object()).check_self().is_err(), "{name}");
        }
        for parameters in [json!({}), json!(true), json!({"type": "object", "properties": {"a": {"type": "wrong"}}})] {
            assert!(spec("t", parameters.clone()).check_self().is_err(), "{parameters}");
        }
    }

    #[test]
    fn a_schema_that_points_elsewhere_is_not_fetched() {
        let spec = spec("t", json!({"type": "object", "$ref": "http://127.0.0.1:9/schema.json"}));
        assert!(spec.check_self().is_err());
        assert!(spec.problems(&json!({}))[0].contains("not usable"));
    }
}
