//! `read_file`.

use std::{
    fmt::Write as _,
    sync::{Arc, LazyLock},
};

use serde_json::{Value, json};

use super::{Place, path_of, text_of};
use crate::{Effect, Observation, ToolSpec, workspace::FileError};

/// Lines that are shown unless the model asks for fewer.
const LINES_MAX: u64 = 2000;

pub(super) fn spec() -> Arc<ToolSpec> {
    static SPEC: LazyLock<Arc<ToolSpec>> = LazyLock::new(|| {
        Arc::new(ToolSpec::new(
            "read_file",
            "Reads a text file of the workspace. Large files are read in pieces with `line` and `lines`.",
            json!({
                "type": "object", "required": ["path"], "additionalProperties": false,
                "properties": {
                    "path": {"type": "string", "description": "Relative to the workspace."},
                    "line": {"type": "integer", "minimum": 1, "description": "The first line to show (default 1)."},
                    "lines": {
                        "type": "integer", "minimum": 1, "maximum": LINES_MAX,
                        "description": "How many lines to show (default 2000)."
                    }
                }
            }),
            Effect::Read,
        ))
    });
    Arc::clone(&SPEC)
}

pub(super) fn call(place: &Place, _key: &str, arguments: &Value) -> Result<Observation, FileError> {
    let path = path_of(place, arguments)?;
    let text = match text_of(&path, place.tree.read(&path)?) {
        Ok(text) => text,
        Err(no_text) => return Ok(no_text),
    };
    let first = arguments["line"].as_u64().unwrap_or(1);
    let wanted = arguments["lines"].as_u64().unwrap_or(LINES_MAX);
    let all = text.lines().count() as u64;
    if first == 1 && all <= wanted {
        return Ok(Observation::data(text));
    }
    if first > all {
        return Ok(Observation::failed(format!("`{path}` has {all} lines only")));
    }
    let skipped = usize::try_from(first - 1).unwrap_or(usize::MAX);
    let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
    let mut shown: String = text.split_inclusive('\n').skip(skipped).take(wanted).collect();
    let last = first + (shown.lines().count() as u64) - 1;
    if last < all {
        let _ = write!(shown, "[lines {first} to {last} of {all}]");
    }
    Ok(Observation::data(shown))
}
