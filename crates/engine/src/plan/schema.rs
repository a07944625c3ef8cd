//! The JSON Schema a planner's answer must follow, where the provider enforces one.
//!
//! **Invariant:** an answer that follows it has no cycle, no unknown id, no unknown role: each task may only name tasks before
//! it. Uses the small part of JSON Schema that grammars of small local servers take.

use crewline_types::Role;
use serde_json::{Map, Value, json};

use super::Rules;

/// Tasks of the schema at most; its size grows with the square.
pub const SCHEMA_TASKS_MAX: usize = 24;

/// Rules, and words of the glossary, at most.
const PREFACE_LINES_MAX: usize = 8;

/// An object with the keys `t1` … `tN`, of which the first `tasks_min` must be there (`t1` in any case).
pub fn schema(rules: &Rules, tasks_min: usize) -> Value {
    let count = rules.tasks_max.clamp(1, SCHEMA_TASKS_MAX);
    let required = tasks_min.clamp(1, count);
    let mut roles: Vec<&str> = rules.roles.iter().map(Role::as_str).collect();
    if roles.is_empty() {
        roles.push(rules.default_role.as_str());
    }
    let keys: Vec<String> = (1..=count).map(|it| format!("t{it}")).collect();
    let mut properties = Map::new();
    for (index, key) in keys.iter().enumerate() {
        properties.insert(key.clone(), task(&roles, &keys[..index]));
    }
    // What holds for every task; a planner may leave it out.
    for key in ["rules", "glossary"] {
        let line = json!({"type": "string", "maxLength": 200});
        properties.insert(key.to_owned(), json!({"type": "array", "items": line, "maxItems": PREFACE_LINES_MAX}));
    }
    json!({"type": "object", "properties": properties, "required": keys[..required], "additionalProperties": false})
}

fn task(roles: &[&str], earlier: &[String]) -> Value {
    let items = if earlier.is_empty() { json!({"type": "string"}) } else { json!({"type": "string", "enum": earlier}) };
    json!({
        "type": "object",
        "properties": {
            "title": {"type": "string", "minLength": 3, "maxLength": 80},
            "description": {"type": "string", "minLength": 10, "maxLength": 400},
            "role": {"type": "string", "enum": roles},
            "depends_on": {"type": "array", "items": items, "maxItems": earlier.len()},
        },
        "required": ["title", "description", "role", "depends_on"],
        "additionalProperties": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_may_name_earlier_ones_only() {
        let rules = Rules {
            roles: vec!["coder".into(), "writer".into()],
            default_role: "writer".into(),
            tasks_max: 12,
            roles_open: false,
        };
        let schema = schema(&rules, 2);
        let keys: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            ["t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "t9", "t10", "t11", "t12", "rules", "glossary"]
        );
        assert_eq!(schema["required"], json!(["t1", "t2"]));
        let depends_on = |key: &str| schema["properties"][key]["properties"]["depends_on"].clone();
        assert_eq!(depends_on("t1"), json!({"type": "array", "items": {"type": "string"}, "maxItems": 0}));
        assert_eq!(
            depends_on("t3"),
            json!({"type": "array", "items": {"type": "string", "enum": ["t1", "t2"]}, "maxItems": 2})
        );
        assert_eq!(schema["properties"]["t2"]["properties"]["role"]["enum"], json!(["coder", "writer"]));
        let large = super::schema(&Rules { tasks_max: 1_000, roles: vec![], ..rules }, 0);
        assert_eq!(large["required"], json!(["t1"]));
        assert_eq!(large["properties"].as_object().unwrap().len(), SCHEMA_TASKS_MAX + 2);
        assert_eq!(large["properties"]["t1"]["properties"]["role"]["enum"], json!(["writer"]));
    }
}
