//! What clients are told of a tool's arguments and answers, in words that JSON Schema has.

use std::sync::Arc;

use rmcp::{handler::server::router::tool::ToolRouter, model::JsonObject};
use serde_json::Value;

/// `router` with schemas whose numbers have no format: those of Rust, such as `uint32`, are not in JSON Schema, and clients warn
/// of every one. What they say is in `minimum` as well.
pub(super) fn plain<S>(mut router: ToolRouter<S>) -> ToolRouter<S> {
    for route in router.map.values_mut() {
        plain_object(Arc::make_mut(&mut route.attr.input_schema));
        if let Some(schema) = &mut route.attr.output_schema {
            plain_object(Arc::make_mut(schema));
        }
    }
    router
}

fn plain_object(schema: &mut JsonObject) {
    let is_number = |of: &Value| of.as_str().is_some_and(|it| matches!(it, "integer" | "number"));
    let is_numeric = schema.get("type").is_some_and(|of| match of {
        Value::Array(types) => types.iter().any(is_number),
        of => is_number(of),
    });
    if is_numeric && schema.get("format").is_some_and(Value::is_string) {
        schema.remove("format");
    }
    for value in schema.values_mut() {
        plain_value(value);
    }
}

fn plain_value(value: &mut Value) {
    match value {
        Value::Object(object) => plain_object(object),
        Value::Array(values) => values.iter_mut().for_each(plain_value),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn formats_of_numbers_are_left_out_and_nothing_else() {
        let mut schema = json!({"properties": {
            "format": {"type": "string", "format": "date"},
            "count": {"type": ["integer", "null"], "format": "uint32", "minimum": 0},
            "many": {"type": "array", "items": {"type": "number", "format": "double"}},
        }});
        plain_value(&mut schema);
        assert_eq!(
            schema,
            json!({"properties": {
                "format": {"type": "string", "format": "date"},
                "count": {"type": ["integer", "null"], "minimum": 0},
                "many": {"type": "array", "items": {"type": "number"}},
            }})
        );
    }
}
