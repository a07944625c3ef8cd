//! Writes a bundle as the context section of a prompt.
//!
//! **Invariant:** the text of a part stands in a fence longer than any run of backticks in it, so no text ends its own fence.

use std::fmt::Write as _;

use super::Bundle;

/// The shortest fence.
pub(super) const FENCE_MIN: u32 = 3;

/// The context section: each part with its source, type and title, and its text fenced as data.
pub fn render(bundle: &Bundle) -> String {
    let size = |it: &super::Part| it.text.len() + it.source.len() + it.kind.len() + it.title.len() + 64;
    let mut out = String::with_capacity(bundle.parts.iter().map(size).sum());
    for part in &bundle.parts {
        render_part(&mut out, &part.source, &part.kind, &part.title, &part.text);
    }
    out
}

/// One part: its source, type and title, and its text fenced as data.
pub(super) fn render_part(out: &mut String, source: &str, kind: &str, title: &str, text: &str) {
    let _ = writeln!(out, "Source: {source}\nType: {kind}");
    if !title.is_empty() {
        let _ = writeln!(out, "Title: {title}");
    }
    let fence = fence_len(text);
    out.push_str("Excerpt:\n");
    push_fence(out, fence);
    out.push_str(text);
    out.push('\n');
    push_fence(out, fence);
    out.push('\n');
}

/// A text in a fence that it can not end itself.
pub fn fenced(text: &str) -> String {
    let fence = fence_len(text);
    let mut out = String::with_capacity(text.len() + 2 * fence as usize + 3);
    push_fence(&mut out, fence);
    out.push_str(text);
    out.push('\n');
    out.extend(std::iter::repeat_n('`', fence as usize));
    out
}

fn push_fence(out: &mut String, len: u32) {
    out.extend(std::iter::repeat_n('`', len as usize));
    out.push('\n');
}

/// Backticks of the fence around `text`.
pub(super) fn fence_len(text: &str) -> u32 {
    if !text.contains('`') {
        return FENCE_MIN;
    }
    let (mut longest, mut run) = (0_u32, 0_u32);
    for byte in text.bytes() {
        run = if byte == b'`' { run.saturating_add(1) } else { 0 };
        longest = longest.max(run);
    }
    longest.saturating_add(1).max(FENCE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{PART_OVERHEAD_TOKENS, Part, Tier, estimate_tokens};

    fn part(title: &str, text: &str) -> Part {
        let (source, kind) = ("task:k3v9x0ab".into(), "result".into());
        Part { tier: Tier::Requires, source, kind, title: title.into(), text: text.into(), tokens: 0 }
    }

    fn shown(part: Part) -> String {
        render(&Bundle { parts: vec![part], ..Bundle::default() })
    }

    #[test]
    fn a_part_is_fenced_as_data() {
        assert_eq!(
            shown(part("The result", "It works.")),
            "Source: task:k3v9x0ab\nType: result\nTitle: The result\nExcerpt:\n```\nIt works.\n```\n\n"
        );
        assert_eq!(
            shown(part("", "a\n````\nb")),
            "Source: task:k3v9x0ab\nType: result\nExcerpt:\n`````\na\n````\nb\n`````\n\n"
        );
    }

    #[test]
    fn the_overhead_is_what_is_written() {
        let words = ["task:k3v9x0ab", "result", "The result", "It works."].map(estimate_tokens);
        let rendered = estimate_tokens(&shown(part("The result", "It works.")));
        assert_eq!(rendered, words.iter().sum::<u32>() + PART_OVERHEAD_TOKENS);
    }
}
