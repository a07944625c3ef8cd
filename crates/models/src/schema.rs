//! The form of an answer: a JSON Schema, how a model is told of it, and whether an answer follows it.
//!
//! **Invariant:** a schema is never fetched: a reference to another document is an error of the schema.

use serde_json::Value;

/// Problems of an answer that are told.
const PROBLEMS_MAX: usize = 8;
/// Places in an answer where its value may begin.
const STARTS_MAX: usize = 8;

/// The JSON Schema an answer must follow.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputSchema {
    /// Letters, digits, `_` and `-`; at most 64.
    pub name: String,
    /// The schema.
    pub schema: Value,
}

impl OutputSchema {
    /// What a model is told that does not enforce schemas.
    pub fn instruction(&self) -> String {
        format!(
            "Answer with one JSON value that follows this JSON Schema, and with nothing else (no explanation, no code \
             fence):\n{}",
            self.schema
        )
    }

    /// Why it is no schema, if it is none.
    pub fn problem(&self) -> Option<String> {
        let built = jsonschema::validator_for(&self.schema);
        built.err().map(|error| format!("the schema `{}` is not usable: {error}", self.name))
    }

    /// The value of an answer, or all that is wrong with it (eight lines at most).
    ///
    /// Text around the value (a code fence, a sentence before it) is forgiven: models that were told in words add it.
    pub fn check(&self, answer: &str) -> Result<Value, Vec<String>> {
        let value = value_of(answer).map_err(|problem| vec![problem])?;
        let validator = jsonschema::validator_for(&self.schema)
            .map_err(|error| vec![format!("the schema `{}` is not usable: {error}", self.name)])?;
        let problems: Vec<String> = validator
            .iter_errors(&value)
            .take(PROBLEMS_MAX)
            .map(|error| {
                let place = error.instance_path().to_string();
                let place = if place.is_empty() { "the answer".to_owned() } else { format!("`{place}`") };
                let message: String = error.to_string().chars().take(300).collect();
                format!("{place}: {message}")
            })
            .collect();
        if problems.is_empty() { Ok(value) } else { Err(problems) }
    }
}

/// The JSON value in a text: all of it, or what stands from its first bracket.
fn value_of(answer: &str) -> Result<Value, String> {
    let answer = answer.trim();
    let whole = match serde_json::from_str(answer) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    for (start, _) in answer.match_indices(['{', '[']).take(STARTS_MAX) {
        let mut values = serde_json::Deserializer::from_str(&answer[start..]).into_iter::<Value>();
        if let Some(Ok(value)) = values.next() {
            return Ok(value);
        }
    }
    Err(format!("it is not JSON: {whole}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> OutputSchema {
        let schema = json!({
            "type": "object", "required": ["a"], "additionalProperties": false, "properties": {"a": {"type": "integer"}}
        });
        OutputSchema { name: "s".into(), schema }
    }

    #[test]
    fn answers_are_found_and_checked() {
        for (answer, expected) in [
            (r#"{"a": 1}"#, Ok(())),
            ("```json\n{\"a\": 1}\n```", Ok(())),
            ("Here it is [as asked]: {\"a\": 1}.", Ok(())),
            ("Here it is: {\"a\": 1} and more", Ok(())),
            (r#"{"a": "1"}"#, Err("`/a`: ")),
            (r#"{"a": 1, "b": 2}"#, Err("the answer: ")),
            ("{}", Err("the answer: ")),
            ("no idea", Err("it is not JSON")),
            ("", Err("it is not JSON")),
            ("{\"a\": 1", Err("it is not JSON")),
        ] {
            match (schema().check(answer), expected) {
                (Ok(_), Ok(())) => {}
                (Err(problems), Err(start)) => assert!(problems[0].starts_with(start), "{answer}: {problems:?}"),
                (found, _) => panic!("{answer}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_schema_that_points_elsewhere_is_not_fetched() {
        let schema = OutputSchema { name: "s".into(), schema: json!({"$ref": "http://127.0.0.1:9/schema.json"}) };
        assert!(schema.check("{}").unwrap_err()[0].contains("not usable"));
    }
}
