//! An answer for any JSON Schema, always the same: what an obedient model would say.
//!
//! Where the schema asks for tasks under keys `t1…tN`, there are three: two that need nothing, and one that needs both
//! as far as its `depends_on` allows.
//!
//! **Invariant:** the answer fits the parts of JSON Schema that plans use: `type`, `properties`, `required`, `enum`,
//! `const`, `items`, `minItems`, `maxItems`, `minLength`, `maxLength`, `minimum`, `anyOf`, `oneOf`, `$ref` to `$defs`.

use serde_json::{Map, Value, json};

/// Tasks of a plan.
const TASKS: usize = 3;
/// Bounds schemas that refer to themselves.
const DEPTH_MAX: usize = 16;

/// An answer that fits `schema`.
pub fn answer(schema: &Value) -> Value {
    Fit { root: schema }.value(schema, &Place::default(), 0)
}

struct Fit<'a> {
    root: &'a Value,
}

/// Where in the answer a value goes.
#[derive(Default, Clone)]
struct Place {
    /// The property's name.
    name: String,
    /// Which task it is part of, from 1.
    task: Option<usize>,
    /// The keys of the tasks there are.
    keys: Vec<String>,
}

impl<'a> Fit<'a> {
    fn value(&self, schema: &'a Value, place: &Place, depth: usize) -> Value {
        let schema = self.resolve(schema);
        if depth > DEPTH_MAX {
            return Value::Null;
        }
        if let Some(constant) = schema.get("const") {
            return constant.clone();
        }
        if let Some(allowed) = schema.get("enum").and_then(Value::as_array) {
            // Nobody plans work for the planner.
            let chosen = allowed.iter().find(|value| !value.is_null() && **value != "manager");
            return chosen.or(allowed.first()).cloned().unwrap_or_default();
        }
        for choice in ["anyOf", "oneOf"] {
            if let Some(choices) = schema.get(choice).and_then(Value::as_array) {
                let real = choices.iter().find(|choice| !is_null(self.resolve(choice)));
                return real.map_or(Value::Null, |choice| self.value(choice, place, depth + 1));
            }
        }
        match kind(schema) {
            "object" => self.object(schema, place, depth),
            "array" => self.array(schema, place, depth),
            "string" => string(schema, place),
            "integer" => json!(schema.get("minimum").and_then(Value::as_i64).unwrap_or(1)),
            "number" => schema.get("minimum").cloned().unwrap_or_else(|| json!(1.0)),
            "boolean" => Value::Bool(false),
            _ => Value::Null,
        }
    }

    fn object(&self, schema: &'a Value, place: &Place, depth: usize) -> Value {
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
            return Value::Object(Map::default());
        };
        let tasks: Vec<&String> = properties.keys().filter(|key| is_task_key(key)).take(TASKS).collect();
        let required = |key: &str| {
            schema.get("required").and_then(Value::as_array).is_some_and(|keys| keys.iter().any(|name| name == key))
        };
        let mut object = Map::new();
        for (key, property) in properties {
            let task = tasks.iter().position(|name| *name == key).map(|position| position + 1);
            if is_task_key(key) && task.is_none() {
                if required(key) {
                    let value =
                        if self.allows_null(property) { Value::Null } else { self.value(property, place, depth + 1) };
                    object.insert(key.clone(), value);
                }
                continue;
            }
            let keys =
                if task.is_some() { tasks.iter().map(|key| (*key).clone()).collect() } else { place.keys.clone() };
            let inner = Place { name: key.clone(), task: task.or(place.task), keys };
            object.insert(key.clone(), self.value(property, &inner, depth + 1));
        }
        Value::Object(object)
    }

    fn array(&self, schema: &'a Value, place: &Place, depth: usize) -> Value {
        let bound = |name: &str| schema.get(name).and_then(Value::as_u64).and_then(|bound| usize::try_from(bound).ok());
        let (least, most) = (bound("minItems").unwrap_or(0), bound("maxItems").unwrap_or(usize::MAX));
        let Some(items) = schema.get("items").map(|items| self.resolve(items)) else {
            return Value::Array(Vec::new());
        };
        if let Some(allowed) = items.get("enum").and_then(Value::as_array) {
            let needs_all = place.task == Some(TASKS);
            let wanted =
                allowed.iter().filter(|value| needs_all && place.keys.iter().any(|key| *value == key.as_str()));
            let mut values: Vec<Value> = wanted.take(most).cloned().collect();
            if values.len() < least {
                values = allowed.iter().take(least).cloned().collect();
            }
            return Value::Array(values);
        }
        let is_task_list = place.task.is_none() && items.pointer("/properties/title").is_some();
        let count = if is_task_list { TASKS.clamp(least, most) } else { least };
        let item = |position: usize| {
            let task = if is_task_list { Some(position + 1) } else { place.task };
            self.value(items, &Place { task, ..place.clone() }, depth + 1)
        };
        Value::Array((0..count).map(item).collect())
    }

    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let target = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#'));
        target.and_then(|pointer| self.root.pointer(pointer)).unwrap_or(schema)
    }

    fn allows_null(&self, schema: &'a Value) -> bool {
        let schema = self.resolve(schema);
        let in_type =
            schema.get("type").and_then(Value::as_array).is_some_and(|kinds| kinds.iter().any(|kind| kind == "null"));
        let in_choice = ["anyOf", "oneOf"].iter().filter_map(|choice| schema.get(choice).and_then(Value::as_array));
        in_type || is_null(schema) || in_choice.flatten().any(|choice| is_null(self.resolve(choice)))
    }
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").is_some_and(|kind| kind == "null")
}

fn is_task_key(key: &str) -> bool {
    key.strip_prefix('t').is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn kind(schema: &Value) -> &str {
    match schema.get("type") {
        Some(Value::String(kind)) => kind,
        Some(Value::Array(kinds)) => {
            kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("null")
        }
        _ if schema.get("properties").is_some() => "object",
        _ if schema.get("items").is_some() => "array",
        _ => "string",
    }
}

fn string(schema: &Value, place: &Place) -> Value {
    let bound = |name: &str| schema.get(name).and_then(Value::as_u64).and_then(|bound| usize::try_from(bound).ok());
    let number = place.task.unwrap_or(1);
    let mut text = match place.name.as_str() {
        "title" => format!("Task {number}"),
        "description" => format!("Do part {number} of the work and say what came out."),
        "id" | "key" => format!("t{number}"),
        "" => "text".to_owned(),
        name => format!("{name} {number}"),
    };
    let most = bound("maxLength").unwrap_or(usize::MAX);
    if text.chars().count() > most {
        text = text.chars().take(most).collect();
    }
    for _ in text.chars().count()..bound("minLength").unwrap_or(0) {
        text.push('.');
    }
    Value::String(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(earlier: &[&str]) -> Value {
        json!({
            "type": "object",
            "required": ["title", "role", "depends_on"],
            "properties": {
                "title": {"type": "string", "maxLength": 4},
                "role": {"enum": ["manager", "coder"]},
                "depends_on": {"type": "array", "items": {"enum": earlier}, "maxItems": earlier.len()},
            },
        })
    }

    #[test]
    fn a_plan_has_three_tasks_the_last_needs_the_others() {
        let schema = json!({"type": "object", "required": ["t1"], "properties": {
            "t1": task(&[]), "t2": task(&["t1"]), "t3": task(&["t1", "t2"]), "t4": task(&["t1", "t2", "t3"]),
        }});
        let plan = answer(&schema);
        assert_eq!(plan.as_object().unwrap().len(), 3);
        assert_eq!(plan["t1"], json!({"title": "Task", "role": "coder", "depends_on": []}));
        assert_eq!(plan["t2"]["depends_on"], json!([]));
        assert_eq!(plan["t3"]["depends_on"], json!(["t1", "t2"]));
    }

    #[test]
    fn keys_that_must_be_there_are_null_when_they_may() {
        let nullable = json!({"anyOf": [{"$ref": "#/$defs/task"}, {"type": "null"}]});
        let schema = json!({
            "$defs": {"task": task(&[])},
            "type": "object",
            "required": ["t1", "t2", "t3", "t4", "t5"],
            "properties": {"t1": nullable, "t2": nullable, "t3": nullable, "t4": nullable, "t5": {"type": ["object", "null"]}},
        });
        let plan = answer(&schema);
        assert_eq!(plan["t3"]["role"], "coder");
        assert_eq!((&plan["t4"], &plan["t5"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn nested_and_listed_tasks() {
        let nested = json!({"type": "object", "properties": {"tasks": {"type": "object", "properties": {"t1": task(&[]), "t2": task(&["t1"])}}}});
        assert_eq!(answer(&nested)["tasks"].as_object().unwrap().len(), 2);
        let list = json!({"type": "object", "properties": {"tasks": {"type": "array", "minItems": 1, "items": {
            "type": "object", "properties": {"id": {"type": "string"}, "title": {"type": "string"}}}}}});
        assert_eq!(answer(&list)["tasks"][2], json!({"id": "t3", "title": "Task 3"}));
    }

    #[test]
    fn a_schema_of_itself_ends() {
        let schema = json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}}});
        assert!(answer(&schema).is_object());
    }
}
