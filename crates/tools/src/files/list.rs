//! `list_files`.

use std::{
    fmt::Write as _,
    sync::{Arc, LazyLock},
};

use serde_json::{Value, json};

use super::{Place, path_of};
use crate::{
    Effect, Observation, ToolSpec,
    files::search::matcher,
    workspace::{FileError, Kind, Visit},
};

/// Names that are shown at most.
const NAMES_MAX: usize = 1000;

pub(super) fn spec() -> Arc<ToolSpec> {
    static SPEC: LazyLock<Arc<ToolSpec>> = LazyLock::new(|| {
        Arc::new(ToolSpec::new(
            "list_files",
            "Lists files and directories of the workspace, with the sizes of files.",
            json!({
                "type": "object", "additionalProperties": false,
                "properties": {
                    "path": {"type": "string", "description": "A directory (default: the workspace)."},
                    "depth": {"type": "integer", "minimum": 1, "maximum": 32, "description": "Levels to show (default 2)."},
                    "glob": {"type": "string", "description": "Only files like this, at any depth: `*.rs`, `src/**/test_*`."}
                }
            }),
            Effect::Read,
        ))
    });
    Arc::clone(&SPEC)
}

pub(super) fn call(place: &Place, _key: &str, arguments: &Value) -> Result<Observation, FileError> {
    let path = path_of(place, arguments)?;
    let glob = match matcher(arguments["glob"].as_str()) {
        Ok(glob) => glob,
        Err(problem) => return Ok(Observation::invalid(problem)),
    };
    let is_filtered = arguments["glob"].is_string();
    let depth = arguments["depth"].as_u64().unwrap_or(if is_filtered { 32 } else { 2 });
    let above = path.parts().count();
    let (mut lines, mut count, mut is_cut) = (String::new(), 0, false);
    place.tree.walk(&path, |entry| {
        let level = entry.path.parts().count() - above;
        let is_shown = !is_filtered || (entry.kind == Kind::File && glob.is_match(entry.path.as_str()));
        if is_shown {
            if count == NAMES_MAX {
                is_cut = true;
                return Visit::Stop;
            }
            count += 1;
            let _ = match entry.kind {
                Kind::Dir => writeln!(lines, "{}/", entry.path),
                Kind::File => writeln!(lines, "{}  {}", entry.path, entry.size),
                Kind::Link => writeln!(lines, "{}  (link, not followed)", entry.path),
                Kind::Other => writeln!(lines, "{}  (no file)", entry.path),
            };
        }
        if level as u64 >= depth { Visit::Skip } else { Visit::Go }
    })?;
    if is_cut {
        let _ = writeln!(lines, "[more than {NAMES_MAX}: name a directory or a `glob`]");
    }
    if count == 0 {
        return Ok(Observation::ok("there is nothing"));
    }
    Ok(Observation::data(lines))
}
