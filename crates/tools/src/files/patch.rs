//! Unified diffs: made for people and models, applied for models.
//!
//! Models count badly, so the counts in a hunk's head are made anew from its lines. Everything else must fit exactly.

use std::fmt::Write as _;

use diffy::{DiffOptions, Patch};

use crate::workspace::FilePath;

/// The difference between two texts, with three lines around each change.
pub(crate) fn diff(path: &FilePath, old: &str, new: &str) -> String {
    let name = |side: &str| format!("{side}/{path}");
    let mut options = DiffOptions::new();
    options.set_original_filename(name("a")).set_modified_filename(name("b"));
    options.create_patch(old, new).to_string()
}

/// One side of the difference of a file.
pub(crate) enum Side {
    /// There is no such file.
    Nothing,
    /// A text.
    Text(String),
    /// So many bytes of something else.
    Bytes(u64),
}

/// The difference between two states of a file, as one part of a larger diff.
pub(crate) fn file_diff(path: &FilePath, old: &Side, new: &Side) -> String {
    let text = |side: &Side| match side {
        Side::Nothing => Some(String::new()),
        Side::Text(text) => Some(text.clone()),
        Side::Bytes(_) => None,
    };
    let name = |side: &Side, letter: &str| match side {
        Side::Nothing => "/dev/null".to_owned(),
        Side::Text(_) | Side::Bytes(_) => format!("{letter}/{path}"),
    };
    let head = format!("diff --git a/{path} b/{path}\n");
    let (Some(old_text), Some(new_text)) = (text(old), text(new)) else {
        let size = |side: &Side| match side {
            Side::Nothing => 0,
            Side::Text(text) => text.len() as u64,
            Side::Bytes(size) => *size,
        };
        return format!("{head}Binary files differ: {} bytes, then {} bytes\n", size(old), size(new));
    };
    if old_text == new_text {
        return format!("{head}mode changed, or an empty file\n");
    }
    let mut options = DiffOptions::new();
    options.set_original_filename(name(old, "a")).set_modified_filename(name(new, "b"));
    format!("{head}{}", options.create_patch(&old_text, &new_text))
}

/// Two changes of one text brought together; else the text with both, marked.
pub(crate) fn merge(base: &str, ours: &str, theirs: &str) -> Result<String, String> {
    diffy::merge(base, ours, theirs)
}

/// The text after a patch, or why it does not fit.
pub(crate) fn apply(path: &FilePath, text: &str, patch: &str) -> Result<String, String> {
    let counted = count(patch)?;
    let patch = Patch::from_str(&counted).map_err(|error| format!("the patch is no unified diff: {error}"))?;
    diffy::apply(text, &patch)
        .map_err(|error| format!("the patch does not fit `{path}`: {error}; its context lines must be as in the file"))
}

/// The same patch with right counts, without what stands before its first hunk.
fn count(patch: &str) -> Result<String, String> {
    let mut hunks: Vec<Hunk<'_>> = Vec::new();
    for line in patch.lines() {
        if let Some(start) = line.strip_prefix("@@") {
            hunks.push(Hunk { start: start_of(start), lines: Vec::new() });
            continue;
        }
        let Some(hunk) = hunks.last_mut() else { continue };
        match line.bytes().next() {
            Some(b' ' | b'-' | b'+' | b'\\') => hunk.lines.push(line),
            // Editors and models strip the blank of an empty context line.
            None => hunk.lines.push(" "),
            Some(_) => {
                return Err(
                    "the patch has lines that begin with none of ` `, `-`, `+`; give one file's diff only".into()
                );
            }
        }
    }
    if hunks.is_empty() {
        return Err("the patch has no hunk (`@@ -1,3 +1,4 @@`)".to_owned());
    }
    let mut out = String::from("--- a\n+++ b\n");
    let mut shift = 0_i64;
    for hunk in &mut hunks {
        // An empty line at the end is the end of the text, not context.
        while hunk.lines.last() == Some(&" ") {
            hunk.lines.pop();
        }
        let count = |signs: &[u8]| hunk.lines.iter().filter(|it| signs.contains(&it.as_bytes()[0])).count();
        let (old, new) = (count(b" -"), count(b" +"));
        let start = if old == 0 { hunk.start } else { hunk.start.max(1) };
        let start_new = i64::try_from(start).unwrap_or(1).saturating_add(shift).max(i64::from(new > 0));
        let _ = writeln!(out, "@@ -{start},{old} +{start_new},{new} @@");
        for line in &hunk.lines {
            out.push_str(line);
            out.push('\n');
        }
        shift += i64::try_from(new).unwrap_or(0) - i64::try_from(old).unwrap_or(0);
    }
    Ok(out)
}

struct Hunk<'a> {
    /// The first line of the old text.
    start: u64,
    lines: Vec<&'a str>,
}

/// The old line of ` -12,3 +12,4 @@`; 1 where it says none.
fn start_of(head: &str) -> u64 {
    let digits: String = head.trim_start().trim_start_matches('-').chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> FilePath {
        FilePath::parse("a.txt").unwrap()
    }

    #[test]
    fn a_diff_can_be_applied_again() {
        let old = (0..50).map(|line| format!("line {line}\n")).collect::<Vec<_>>().concat();
        let new = old.replace("line 3\n", "line three\nand more\n").replace("line 40\n", "");
        let diff = diff(&path(), &old, &new);
        assert!(diff.starts_with("--- a/a.txt\n+++ b/a.txt\n@@ -1,7 +1,8 @@\n"), "{diff}");
        assert_eq!(apply(&path(), &old, &diff).unwrap(), new);
    }

    #[test]
    fn wrong_counts_and_bare_hunks_are_mended() {
        let old = "a\nb\n\nc\nd\n";
        for patch in [
            "--- a/a.txt\n+++ b/a.txt\n@@ -1,9 +1,1 @@\n a\n-b\n+B\n\n c\n",
            "@@ @@\n a\n-b\n+B\n",
            "diff --git a/a.txt b/a.txt\nindex 1..2\n--- a/a.txt\n+++ b/a.txt\n@@ -2 +2 @@\n-b\n+B\n",
        ] {
            assert_eq!(apply(&path(), old, patch).unwrap(), "a\nB\n\nc\nd\n", "{patch}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for patch in ["", "no diff", "@@ -1 +1 @@\n-x\n+y\n", "@@ -1,1 +1,1 @@\n-a\n+b\n@@@\nwhat\n"] {
            assert!(apply(&path(), "a\n", patch).is_err(), "{patch}");
        }
    }
}
