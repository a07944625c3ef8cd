//! What INDEX.md says of tasks with others below them that are done.
//!
//! **Invariant:** an attempt is told only of what must be done before it: a bundle never depends on who was faster.
//! **Invariant:** without its chapters an INDEX.md is what it was before the first of them.

use std::{borrow::Cow, fmt::Write as _};

use crewline_engine::context::{summarise, trim_to};
use crewline_types::TaskId;

/// What stands before the chapters.
const HEAD: &str = "\nDone so far:\n";
/// What each begins with.
const ENTRY: &str = "- [task:";
/// Tokens of what is said of one.
const CHAPTER_TOKENS: u32 = 80;
/// Chapters at most.
const CHAPTERS_MAX: usize = 200;

/// Whether `index` has chapters.
pub fn has(index: &str) -> bool {
    index.contains(HEAD)
}

/// `index` with what is to be said of a task that is done now.
pub fn with(index: &str, id: TaskId, title: &str, result: &str) -> String {
    let (before, entries, after) = parts(index);
    let mine = format!("{ENTRY}{id}]");
    let mut text = format!("{before}{HEAD}");
    let others = entries.split_inclusive('\n').filter(|line| !line.starts_with(&mine));
    for line in others.take(CHAPTERS_MAX - 1) {
        text.push_str(line);
    }
    let said = summarise(result, CHAPTER_TOKENS);
    let said = trim_to(&said, CHAPTER_TOKENS).split_whitespace().collect::<Vec<_>>().join(" ");
    // Writing into memory can not fail.
    let _ = writeln!(text, "{mine} {title}: {said}");
    text + after
}

/// `index` with those chapters only that `is_told` names.
pub fn only(index: &str, is_told: impl Fn(TaskId) -> bool) -> Cow<'_, str> {
    if !has(index) {
        return Cow::Borrowed(index);
    }
    let (before, entries, after) = parts(index);
    let id = |line: &str| line.strip_prefix(ENTRY).and_then(|rest| rest.get(..8)?.parse::<TaskId>().ok());
    let told: String = entries.split_inclusive('\n').filter(|line| id(line).is_some_and(&is_told)).collect();
    let head = if told.is_empty() { "" } else { HEAD };
    Cow::Owned(format!("{before}{head}{told}{after}"))
}

/// `index` without chapters.
pub fn without(index: &str) -> Cow<'_, str> {
    only(index, |_| false)
}

/// What stands before the chapters, the chapters, and what stands after them.
fn parts(index: &str) -> (&str, &str, &str) {
    let Some(at) = index.find(HEAD) else { return (index, "", "") };
    let rest = &index[at + HEAD.len()..];
    let len: usize = rest.split_inclusive('\n').take_while(|line| line.starts_with(ENTRY)).map(str::len).sum();
    (&index[..at], &rest[..len], &rest[len..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chapters_come_and_go() {
        let (one, two): (TaskId, TaskId) = ("aaaaaaaa".parse().unwrap(), "bbbbbbbb".parse().unwrap());
        for index in ["Goal: g\n\nTasks:\n- [task:aaaaaaaa] A (writer)\n", "Mine, without an end of its line", ""] {
            let first = with(index, one, "A", "# A\n\nIt was decided to use ropes.\n");
            let both = with(&first, two, "B", "Two\nlines of it.");
            assert!(both.starts_with(index) && both.contains("- [task:aaaaaaaa] A: "), "{both}");
            assert_eq!(both.lines().filter(|line| line.starts_with("- [task:bbbbbbbb] B: ")).count(), 1, "{both}");
            assert_eq!(without(&both), index);
            assert_eq!(only(&both, |id| id == one), first);
            assert_eq!(only(&both, |_| true), both);
            // Again: the newer one stays.
            let again = with(&both, one, "A", "Other.");
            assert!(again.contains("A: Other.") && !again.contains("ropes"), "{again}");
            let kept = format!("{both}## Mine\n- [x] y\n");
            assert_eq!(without(&kept), format!("{index}## Mine\n- [x] y\n"));
        }
        assert!(matches!(without("nothing here"), Cow::Borrowed(_)));
    }
}
