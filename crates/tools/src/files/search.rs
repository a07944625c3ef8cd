//! `search_files`.
//!
//! **Invariant:** a search ends: it is bounded in time, files, matches and what a pattern may cost.

use std::{
    fmt::Write as _,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use regex::RegexBuilder;
use serde_json::{Value, json};

use super::{Place, path_of};
use crate::{
    Effect, Observation, ToolSpec,
    workspace::{FileError, Kind, Visit},
};

/// Lines that are shown at most.
const MATCHES_MAX: usize = 200;
/// Characters of a line that are shown.
const LINE_CHARS_MAX: usize = 300;
/// Bytes of a file that is searched.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Bytes a compiled pattern may take.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// How long a search may take.
const TIME_MAX: Duration = Duration::from_secs(20);

pub(super) fn spec() -> Arc<ToolSpec> {
    static SPEC: LazyLock<Arc<ToolSpec>> = LazyLock::new(|| {
        Arc::new(ToolSpec::new(
            "search_files",
            "Searches the text files of the workspace line by line; answers with `path:line: text`.",
            json!({
                "type": "object", "required": ["pattern"], "additionalProperties": false,
                "properties": {
                    "pattern": {"type": "string", "minLength": 1, "maxLength": 1000, "description": "A regular expression."},
                    "path": {"type": "string", "description": "Below this directory (default: the workspace)."},
                    "glob": {"type": "string", "description": "Only files like this: `*.rs`, `src/**/*.py`."},
                    "ignore_case": {"type": "boolean"},
                    "literal": {"type": "boolean", "description": "`pattern` is the text itself, not an expression."}
                }
            }),
            Effect::Read,
        ))
    });
    Arc::clone(&SPEC)
}

/// Files whose path a pattern fits; a pattern without `/` fits names at any depth.
pub(super) fn matcher(glob: Option<&str>) -> Result<GlobSet, String> {
    let mut set = GlobSetBuilder::new();
    if let Some(glob) = glob {
        let glob = if glob.contains('/') { glob.trim_start_matches("./").to_owned() } else { format!("**/{glob}") };
        let built = GlobBuilder::new(&glob).literal_separator(true).build();
        set.add(built.map_err(|error| format!("`glob` is no pattern of file names: {error}"))?);
    }
    set.build().map_err(|error| format!("`glob` is no pattern of file names: {error}"))
}

pub(super) fn call(place: &Place, _key: &str, arguments: &Value) -> Result<Observation, FileError> {
    let path = path_of(place, arguments)?;
    let pattern = arguments["pattern"].as_str().unwrap_or_default();
    let is_on = |name: &str| arguments[name].as_bool().unwrap_or(false);
    let pattern = if is_on("literal") { regex::escape(pattern) } else { pattern.to_owned() };
    let regex = RegexBuilder::new(&pattern)
        .case_insensitive(is_on("ignore_case"))
        .size_limit(PATTERN_BYTES_MAX)
        .dfa_size_limit(PATTERN_BYTES_MAX)
        .build();
    let (regex, glob) = match (regex, matcher(arguments["glob"].as_str())) {
        (Ok(regex), Ok(glob)) => (regex, glob),
        (Err(error), _) => return Ok(Observation::invalid(format!("`pattern` is no regular expression: {error}"))),
        (Ok(_), Err(problem)) => return Ok(Observation::invalid(problem)),
    };
    let started = Instant::now();
    let (mut lines, mut count, mut files, mut end) = (String::new(), 0, 0, None);
    let visited = place.tree.walk(&path, |entry| {
        if entry.kind != Kind::File || (!glob.is_empty() && !glob.is_match(entry.path.as_str())) {
            return Visit::Go;
        }
        if started.elapsed() > TIME_MAX {
            end = Some(format!("stopped after {} seconds", TIME_MAX.as_secs()));
            return Visit::Stop;
        }
        // What can not be read is not searched: too large, a hard link, gone, no rights.
        let Ok(bytes) = place.tree.read_up_to(&entry.path, FILE_BYTES_MAX) else { return Visit::Go };
        let Ok(text) = str::from_utf8(&bytes) else { return Visit::Go };
        files += 1;
        for (index, line) in text.lines().enumerate() {
            if !regex.is_match(line) {
                continue;
            }
            if count == MATCHES_MAX {
                end = Some(format!("more than {MATCHES_MAX} lines: ask for less"));
                return Visit::Stop;
            }
            count += 1;
            let shown: String = line.chars().take(LINE_CHARS_MAX).collect();
            let _ = writeln!(lines, "{}:{}: {shown}", entry.path, index + 1);
        }
        Visit::Go
    });
    match visited {
        Ok(()) => {}
        Err(FileError::TooMuch { what, limit }) => end = Some(format!("more than {limit} {what}: name a directory")),
        Err(error) => return Err(error),
    }
    if count == 0 {
        let end = end.map_or_else(String::new, |it| format!(" ({it})"));
        return Ok(Observation::ok(format!("no line of {files} text files{end}")));
    }
    if let Some(end) = end {
        let _ = writeln!(lines, "[{end}]");
    }
    Ok(Observation::data(lines))
}
