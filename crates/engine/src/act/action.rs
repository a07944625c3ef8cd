//! The action protocol: how a model without tool calls of its own asks for them, as one JSON object an answer.
//!
//! **Invariant:** an answer that is not such an object is the final text, so that a model that ignores the protocol still
//! gives a result, and never a call.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Call, Offered};

/// The name of the action that ends the work.
pub const FINAL: &str = "final";

/// The JSON Schema of an answer.
pub fn schema(tools: &[Offered]) -> Value {
    let mut names: Vec<&str> = tools.iter().map(|it| &*it.name).collect();
    names.push(FINAL);
    json!({
        "type": "object",
        "properties": {
            "action": {"type": "string", "enum": names, "description": "the tool to call, or `final`"},
            "arguments": {"type": "object", "description": "the tool's arguments; left out with `final`"},
            "text": {"type": "string", "description": "with `final`: the whole result"}
        },
        "required": ["action"]
    })
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// The result.
    Final(String),
    /// One call.
    Call(Call),
}

/// Reads an answer.
pub fn read(text: &str) -> Said {
    let Some(object) = object_in(text) else { return Said::Final(text.to_owned()) };
    match object.get("action").and_then(Value::as_str) {
        None => Said::Final(text.to_owned()),
        Some(FINAL) => {
            let said = ["text", "answer", "result"].iter().find_map(|it| object.get(*it));
            Said::Final(match said {
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => String::new(),
            })
        }
        Some(name) => {
            // Some put the arguments beside the action.
            let arguments = match object.get("arguments").or_else(|| object.get("args")) {
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => {
                    let rest: Map<String, Value> = object
                        .iter()
                        .filter(|(key, _)| !matches!(key.as_str(), "action" | "text" | "thought"))
                        .map(|(key, value)| (key.clone(), value.clone()))
                        .collect();
                    Value::Object(rest).to_string()
                }
            };
            Said::Call(Call { id: "action".into(), name: Arc::from(name), arguments: arguments.into() })
        }
    }
}

/// The JSON object an answer is, bare or in a fence; text around it makes it an answer that only speaks of one.
fn object_in(text: &str) -> Option<Map<String, Value>> {
    let text = text.trim();
    let inner = match text.strip_prefix("```") {
        Some(rest) => rest.strip_suffix("```")?.trim_start_matches("json").trim(),
        None => text,
    };
    match serde_json::from_str(inner) {
        Ok(Value::Object(object)) => Some(object),
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_read_and_all_else_is_text() {
        let call = |text: &str| match read(text) {
            Said::Call(call) => format!("{} {}", call.name, call.arguments),
            Said::Final(text) => format!("= {text}"),
        };
        assert_eq!(call(r#"{"action":"read_file","arguments":{"path":"a"}}"#), r#"read_file {"path":"a"}"#);
        assert_eq!(call("```json\n{\"action\":\"x\",\"path\":\"a\"}\n```"), r#"x {"path":"a"}"#);
        assert_eq!(call(r#"{"action":"final","text":"done"}"#), "= done");
        assert_eq!(call("just text"), "= just text");
        assert_eq!(call(r#"I would say {"action":"x"}"#), r#"= I would say {"action":"x"}"#);
        assert_eq!(call(r#"{"text":"no action"}"#), r#"= {"text":"no action"}"#);
    }
}
