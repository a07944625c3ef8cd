//! The tool `create_task`: a specialist asks for a further task. What becomes of it is decided when its own task is done.

use crewline_engine::plan::{WISHES_MAX, Wish};
use crewline_tools::{Effect, ToolSpec};
use crewline_types::Role;
use serde_json::{Value, json};

/// Its name.
pub const NAME: &str = "create_task";

/// What a model is told of it; `roles` may be asked for.
pub fn spec(roles: &[Role]) -> ToolSpec {
    let roles: Vec<&str> = roles.iter().map(Role::as_str).collect();
    let text =
        |most: u32, about: &str| json!({"type": "string", "minLength": 1, "maxLength": most, "description": about});
    let description = format!(
        "Asks for a further task, which begins when yours is done and is told what you made. The manager decides then whether it \
         enters the plan; at most {WISHES_MAX} do. Use it for work that the plan forgot, not for parts of your own."
    );
    let parameters = json!({
        "type": "object", "required": ["title", "description", "role"], "additionalProperties": false,
        "properties": {
            "title": text(200, "A line."),
            "description": text(8_000, "What is to be done, and all that is needed to know of it."),
            "role": {"type": "string", "enum": roles},
            "criteria": {
                "type": "array", "maxItems": 8, "items": text(500, "A sentence."),
                "description": "How to tell that it is done."
            },
            "dependents_wait": {
                "type": "boolean", "description": "Whether the tasks that wait for yours shall wait for it, too."
            }
        }
    });
    ToolSpec::new(NAME, &description, parameters, Effect::Repeatable)
}

/// What a call asks for; its arguments follow the schema.
pub fn read(arguments: &Value) -> Wish {
    let text = |name: &str| arguments[name].as_str().unwrap_or_default().to_owned();
    let criteria = arguments["criteria"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Wish {
        title: text("title"),
        description: text("description"),
        role: Role::from(text("role").as_str()),
        criteria: criteria.map(ToOwned::to_owned).collect(),
        is_awaited: arguments["dependents_wait"].as_bool().unwrap_or_default(),
    }
}
