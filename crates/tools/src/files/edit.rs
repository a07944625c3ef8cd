//! `edit_file`: one exact replacement, or a unified patch.
//!
//! **Invariant:** an edit that is made again (after a crash) under the same key changes nothing more.
//! **Invariant:** an edit that does not fit exactly changes nothing: nothing is guessed.

use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};

use super::{Place, patch, path_of};
use crate::{
    Effect, Observation, ToolSpec,
    workspace::{FileError, FilePath},
};

/// Lines that are named when a text is there more than once.
const PLACES_MAX: usize = 10;

pub(super) fn spec() -> Arc<ToolSpec> {
    static SPEC: LazyLock<Arc<ToolSpec>> = LazyLock::new(|| {
        Arc::new(ToolSpec::new(
            "edit_file",
            "Changes a part of a text file: either `old` and `new` (`old` must be in the file exactly once, with the same \
             blanks; `all` replaces it everywhere), or `patch`, a unified diff of this one file. Answers with the diff.",
            json!({
                "type": "object", "required": ["path"], "additionalProperties": false,
                "properties": {
                    "path": {"type": "string", "description": "Relative to the workspace."},
                    "old": {"type": "string", "minLength": 1, "description": "The text to replace, as it stands in the file."},
                    "new": {"type": "string", "description": "What takes its place."},
                    "all": {"type": "boolean", "description": "Replace `old` wherever it is."},
                    "patch": {"type": "string", "minLength": 1, "description": "A unified diff, instead of `old` and `new`."}
                }
            }),
            Effect::Repeatable,
        ))
    });
    Arc::clone(&SPEC)
}

/// Why nothing was changed.
enum Stop {
    File(FileError),
    Say(Observation),
}

impl From<FileError> for Stop {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

pub(super) fn call(place: &Place, key: &str, arguments: &Value) -> Result<Observation, FileError> {
    let path = path_of(place, arguments)?;
    let edited = place.tree.edit(&path, |bytes| {
        let say = |text: String| Stop::Say(Observation::failed(text));
        let text = str::from_utf8(bytes).map_err(|_| say(format!("`{path}` is no text (it is not UTF-8)")))?;
        if place.journal.is_done(key, bytes) {
            return Err(Stop::Say(Observation::ok(format!("`{path}` has this change already"))));
        }
        let new = change(&path, text, arguments).map_err(say)?;
        if new == text {
            return Err(say(format!("that would not change `{path}`")));
        }
        let diff = patch::diff(&path, text, &new);
        // Before the file: a crash between the two leaves a note of what did not happen, which does no harm.
        place.journal.note(key, new.as_bytes()).map_err(|source| FileError::Io { path: path.clone(), source })?;
        Ok((new.into_bytes(), diff))
    });
    match edited {
        Ok(diff) => Ok(Observation::data(diff)),
        Err(Stop::File(error)) => Err(error),
        Err(Stop::Say(observation)) => Ok(observation),
    }
}

/// The text after the change, or why it can not be made.
fn change(path: &FilePath, text: &str, arguments: &Value) -> Result<String, String> {
    let get = |name: &str| arguments[name].as_str();
    match (get("old"), get("new"), get("patch")) {
        (Some(old), Some(new), None) => {
            let is_all = arguments["all"].as_bool().unwrap_or(false);
            replace(path, text, old, new, is_all)
        }
        (None, None, Some(patch)) => patch::apply(path, text, patch),
        _ => Err("give either `old` and `new`, or `patch`".to_owned()),
    }
}

fn replace(path: &FilePath, text: &str, old: &str, new: &str, is_all: bool) -> Result<String, String> {
    let mut places = text.match_indices(old).map(|(at, _)| at);
    match (places.next(), places.next()) {
        (None, _) => Err(missing(path, text, old)),
        (Some(_), None) => Ok(text.replacen(old, new, 1)),
        (Some(_), Some(_)) if is_all => Ok(text.replace(old, new)),
        (Some(_), Some(_)) => {
            let line = |at: usize| text[..at].matches('\n').count() + 1;
            let lines: Vec<String> =
                text.match_indices(old).take(PLACES_MAX).map(|(at, _)| line(at).to_string()).collect();
            Err(format!(
                "`old` is in `{path}` more than once (lines {}); give more of what stands around it, or `all`",
                lines.join(", ")
            ))
        }
    }
}

/// What helps when `old` is not there: the line that begins as it does, but for blanks.
fn missing(path: &FilePath, text: &str, old: &str) -> String {
    let first = old.lines().map(str::trim).find(|it| !it.is_empty()).unwrap_or_default();
    let near = text.lines().enumerate().find(|(_, line)| !first.is_empty() && line.trim() == first);
    match near {
        Some((index, line)) => {
            let line: String = line.chars().take(200).collect();
            format!(
                "`old` is not in `{path}`; line {} is {line:?}: blanks and the lines after it must be the same",
                index + 1
            )
        }
        None => format!("`old` is not in `{path}`; `read_file` shows what is"),
    }
}
