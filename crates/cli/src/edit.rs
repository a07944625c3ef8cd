//! A text in the person's own editor.

use std::{io::Write as _, path::Path, process::Command};

use similar::TextDiff;

use crate::{
    console::Console,
    document::{read_file, read_stdin},
    error::Error,
    settings::process_env,
    view::clean,
};

/// Lines of a difference that are shown.
const LINES_MAX: usize = 200;

/// The text as the person wants it: from `file`, or from the editor that `VISUAL` or `EDITOR` names. The name ends with
/// `suffix`, so that an editor knows what it is.
pub(crate) fn edited(text: &str, file: Option<&Path>, suffix: &str) -> Result<String, Error> {
    match file {
        Some(path) if path == Path::new("-") => return read_stdin(),
        Some(path) => return read_file(path),
        None => {}
    }
    let Some(editor) = ["VISUAL", "EDITOR"].into_iter().find_map(process_env).filter(|it| !it.trim().is_empty()) else {
        return Err(Error::Usage {
            message: "there is no editor".into(),
            hint: "set EDITOR, or give the new text with `--file FILE`",
        });
    };
    let write_error = |source| Error::Write { path: std::env::temp_dir(), source };
    // Gone with its handle, whatever the editor does.
    let mut copy = tempfile::Builder::new().prefix("crewline-").suffix(suffix).tempfile().map_err(write_error)?;
    copy.write_all(text.as_bytes()).map_err(write_error)?;
    let words = shell_words::split(&editor).unwrap_or_else(|_| vec![editor.clone()]);
    let Some((program, arguments)) = words.split_first() else { return Ok(text.to_owned()) };
    match Command::new(program).args(arguments).arg(copy.path()).status() {
        Ok(status) if status.success() => read_file(copy.path()),
        Ok(_) | Err(_) => Err(Error::Usage {
            message: format!("the editor `{}` did not end well", clean(&editor)),
            hint: "nothing was changed",
        }),
    }
}

/// Shows what differs, on stderr.
pub(crate) fn show_difference(old: &str, new: &str, console: &Console) {
    if console.is_quiet {
        return;
    }
    let diff = TextDiff::from_lines(old, new);
    let text = diff.unified_diff().context_radius(2).header("before", "after").to_string();
    for line in text.lines().take(LINES_MAX) {
        console.note(&clean(line));
    }
}
