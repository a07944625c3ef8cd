//! `write_file`.

use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};

use super::{Place, path_of};
use crate::{Effect, Observation, ToolSpec, workspace::FileError};

pub(super) fn spec() -> Arc<ToolSpec> {
    static SPEC: LazyLock<Arc<ToolSpec>> = LazyLock::new(|| {
        Arc::new(ToolSpec::new(
            "write_file",
            "Writes a whole text file of the workspace; makes it, and the directories above it, where they are missing. \
             `edit_file` changes a part of one.",
            json!({
                "type": "object", "required": ["path", "content"], "additionalProperties": false,
                "properties": {
                    "path": {"type": "string", "description": "Relative to the workspace."},
                    "content": {"type": "string", "description": "All of the file."}
                }
            }),
            Effect::Repeatable,
        ))
    });
    Arc::clone(&SPEC)
}

pub(super) fn call(place: &Place, _key: &str, arguments: &Value) -> Result<Observation, FileError> {
    let path = path_of(place, arguments)?;
    let content = arguments["content"].as_str().unwrap_or_default();
    let written = place.tree.write(&path, content.as_bytes())?;
    let what = if written.is_new { "made" } else { "replaced" };
    Ok(Observation::ok(format!("`{path}` is {what}: {} bytes, {} lines", written.size, content.lines().count())))
}
