//! Shortens a text to its most telling lines and sentences.
//!
//! **Invariant:** extractive and deterministic: every line of the summary stands in the text, in the same order.
//! **Invariant:** the summary never has more tokens than allowed; a text that fits comes back as it is.

use std::{cmp::Reverse, collections::HashSet};

use super::budget::{estimate_within, trim_to};

/// Words around which decisions are made; the sentences that later tasks need most.
const DECISIONS: [&str; 26] = [
    "decided",
    "decision",
    "decide",
    "because",
    "rejected",
    "reject",
    "instead",
    "must",
    "chosen",
    "chose",
    "choose",
    "agreed",
    "therefore",
    "required",
    "requires",
    "recommend",
    "recommended",
    "conclusion",
    "failed",
    "error",
    "risk",
    "warning",
    "important",
    "accepted",
    "assumption",
    "cannot",
];

/// Words that make a sentence tell a little more.
const HINTS: [&str; 16] = [
    "never", "always", "only", "result", "results", "fails", "note", "however", "but", "not", "should", "limit",
    "open", "todo", "versus", "except",
];

/// A lone piece is cut to what is left only when at least so much is left.
const PIECE_TOKENS_MIN: u32 = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Heading,
    Prose,
    /// A line of a code block, or a block that is small.
    Code,
}

pub(super) struct Unit<'a> {
    pub(super) text: &'a str,
    /// Pieces of the same line are joined by a space, others by a line break.
    pub(super) line: usize,
    pub(super) kind: Kind,
    pub(super) score: u32,
    pub(super) tokens: u32,
}

/// The text itself when it has at most `tokens_max` tokens, otherwise its most telling lines and sentences.
pub fn summarise(text: &str, tokens_max: u32) -> String {
    if estimate_within(text, tokens_max) <= tokens_max {
        return text.to_owned();
    }
    let units = units(text, tokens_max);
    let mut order: Vec<usize> = (0..units.len()).collect();
    // Telling and short goes first; of equals the earlier.
    order.sort_unstable_by_key(|it| (Reverse(units[*it].score * 1_000 / (units[*it].tokens.saturating_add(16))), *it));
    let mut chosen: Vec<Option<&str>> = vec![None; units.len()];
    let (mut left, mut headings_left) = (tokens_max, tokens_max / 3);
    let mut seen = HashSet::new();
    for &index in &order {
        let unit = &units[index];
        // The line break before it is paid for, needed or not.
        let cost = unit.tokens.saturating_add(1);
        if cost > left || unit.kind == Kind::Heading && cost > headings_left || !seen.insert(unit.text) {
            continue;
        }
        if unit.kind == Kind::Heading {
            headings_left -= cost;
        }
        left -= cost;
        chosen[index] = Some(unit.text);
    }
    let nothing = left == tokens_max;
    if nothing || left >= PIECE_TOKENS_MIN && left > tokens_max / 8 {
        let is_open = |it: &&usize| chosen[**it].is_none() && !seen.contains(units[**it].text);
        let best = order.iter().filter(is_open).max_by_key(|it| (units[**it].score, Reverse(**it)));
        if let Some(&best) = best {
            let piece = trim_to(units[best].text, left.saturating_sub(1));
            chosen[best] = Some(piece).filter(|it| !it.is_empty());
        }
    }
    let out = join(&units, &chosen);
    if out.is_empty() { trim_to(text, tokens_max).to_owned() } else { out }
}

fn join(units: &[Unit<'_>], chosen: &[Option<&str>]) -> String {
    let mut out = String::new();
    let mut last = None;
    for (unit, text) in units.iter().zip(chosen) {
        let Some(text) = text else { continue };
        match last {
            None => {}
            Some(line) if line == unit.line => out.push(' '),
            Some(_) => out.push('\n'),
        }
        last = Some(unit.line);
        out.push_str(text);
    }
    out
}

pub(super) fn units(text: &str, tokens_max: u32) -> Vec<Unit<'_>> {
    let mut units = Vec::new();
    // Where the open code block began: its line, its first byte, and the units before it.
    let mut block: Option<(usize, usize)> = None;
    let (mut is_first, mut at) = (true, 0);
    for (line, raw) in text.split_inclusive('\n').enumerate() {
        let start = at;
        at += raw.len();
        let shown = raw.trim();
        let is_fence = shown.starts_with("```") || shown.starts_with("~~~");
        match (block, is_fence) {
            (None, true) => block = Some((start, units.len())),
            (Some((from, count)), true) => {
                block = None;
                let whole = text[from..at].trim();
                let tokens = estimate_within(whole, tokens_max);
                if tokens <= tokens_max / 3 {
                    // Small enough to stay in one piece, with its fences.
                    units.truncate(count);
                    units.push(Unit { text: whole, line, kind: Kind::Code, score: 40 + signals(whole), tokens });
                }
            }
            (Some(_), false) => push(&mut units, raw.trim_end(), line, Kind::Code, 4, tokens_max),
            (None, false) if shown.is_empty() => {}
            (None, false) if is_heading(shown) => {
                push(&mut units, shown, line, Kind::Heading, 40, tokens_max);
                is_first = true;
            }
            (None, false) => {
                for (place, sentence) in sentences(shown).enumerate() {
                    let bonus = match (is_first, place) {
                        (true, _) if units.is_empty() => 30,
                        (true, _) => 20,
                        (false, 0) => 6,
                        (false, _) => 0,
                    };
                    is_first = false;
                    push(&mut units, sentence, line, Kind::Prose, 10 + bonus, tokens_max);
                }
            }
        }
    }
    units
}

fn push<'a>(units: &mut Vec<Unit<'a>>, text: &'a str, line: usize, kind: Kind, base: u32, tokens_max: u32) {
    if !text.trim().is_empty() {
        units.push(Unit { text, line, kind, score: base + signals(text), tokens: estimate_within(text, tokens_max) });
    }
}

fn is_heading(line: &str) -> bool {
    let is_bold = line.starts_with("**") && (line.ends_with("**") || line.ends_with(":**"));
    let is_label = line.len() <= 60 && line.ends_with(':') && !line.starts_with(['-', '*']);
    line.starts_with('#') || is_bold && line.len() <= 80 || is_label
}

/// The first letters of the words above, by their lengths, a bit for each: most words are none of them.
const FIRST_LETTERS: [u32; 12] = {
    let mut letters = [0; 12];
    let mut index = 0;
    while index < DECISIONS.len() + HINTS.len() {
        let word = if index < DECISIONS.len() { DECISIONS[index] } else { HINTS[index - DECISIONS.len()] };
        letters[word.len()] |= 1 << (word.as_bytes()[0] & 0x1F);
        index += 1;
    }
    letters
};

fn may_signal(word: &str) -> bool {
    let letters = FIRST_LETTERS.get(word.len()).copied().unwrap_or_default();
    word.bytes().next().is_some_and(|it| letters >> (it & 0x1F) & 1 == 1)
}

/// How much a piece tells: decisions, figures, names.
fn signals(text: &str) -> u32 {
    let (mut decisions, mut hints, mut figures, mut names) = (0_u32, 0_u32, 0_u32, 0_u32);
    for word in text.split_ascii_whitespace().take(200) {
        let is_bare = |it: Option<u8>| it.is_some_and(|it| it.is_ascii_alphanumeric());
        let is_core = is_bare(word.bytes().next()) && is_bare(word.bytes().next_back());
        let core = if is_core { word } else { word.trim_matches(|it: char| !it.is_alphanumeric()) };
        if may_signal(core) {
            let is = |it: &&str| it.eq_ignore_ascii_case(core);
            decisions += u32::from(DECISIONS.iter().any(&is));
            hints += u32::from(HINTS.iter().any(is));
        }
        // Most words are letters alone: neither figures nor names.
        if !word.starts_with('`') && core.bytes().all(|it| it.is_ascii_lowercase()) {
            continue;
        }
        if core.bytes().any(|it| it.is_ascii_digit()) {
            figures += 1;
        }
        if word.starts_with('`') || is_name(core) {
            names += 1;
        }
    }
    decisions.min(3) * 14 + hints.min(2) * 5 + figures.min(4) * 6 + names.min(4) * 6
}

/// `snake_case`, `camelCase`, `a::b`, `src/lib.rs`, `v1.2`.
fn is_name(word: &str) -> bool {
    let is_joint = |it: u8| matches!(it, b'_' | b'/' | b'.' | b':');
    word.as_bytes().windows(2).any(|it| {
        it[0].is_ascii_lowercase() && it[1].is_ascii_uppercase()
            || it[0].is_ascii_alphanumeric() && is_joint(it[1])
            || it[0] == b':' && it[1] == b':'
    })
}

/// Splits a line after `.`, `!`, `?` that end a sentence.
fn sentences(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        let text = rest;
        if text.is_empty() {
            return None;
        }
        let mut ends = text.char_indices().filter(|(_, it)| matches!(it, '.' | '!' | '?' | '。' | '！' | '？'));
        let end = ends.find_map(|(at, mark)| {
            let after = at + mark.len_utf8();
            if mark.len_utf8() > 1 {
                return Some(after);
            }
            let follows = text[after..].trim_start();
            let is_gap = follows.len() < text.len() - after;
            let word = text[..at].rsplit(' ').next().unwrap_or_default();
            // `e.g.`, `Dr.`, `1.` do not end a sentence.
            let is_short = mark == '.' && (word.len() <= 2 || word.contains('.'));
            let begins = follows.chars().next().is_some_and(|it| !it.is_lowercase());
            (is_gap && begins && !is_short).then_some(after)
        });
        let (one, other) = text.split_at(end.unwrap_or(text.len()));
        rest = other.trim_start();
        Some(one.trim_end())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::context::{estimate_tokens as size, tests::hostile_text};

    const REPORT: &str = "# Storage\n\
        This report looks at where the crew keeps its rows. It was a long discussion with many turns and much coffee.\n\
        Some people like one thing and some people like another thing, as people do.\n\
        We decided to use SQLite because it needs no server. MongoDB was rejected.\n\
        The weather was nice and everybody was happy to be there on that day.\n\
        \n\
        ## Limits\n\
        There are limits, as always in life, and one learns to live with them over time.\n\
        The file `crewline.db` must stay below 40 GB, see docs/limits.md for the figures.\n\
        Later somebody told a story about a fish that had nothing to do with it.\n";

    #[test]
    fn what_tells_most_is_kept_in_order() {
        let summary = summarise(REPORT, 90);
        for kept in
            ["# Storage", "We decided to use SQLite because it needs no server.", "MongoDB was rejected.", "40 GB"]
        {
            assert!(summary.contains(kept), "{kept}:\n{summary}");
        }
        assert!(!summary.contains("fish") && !summary.contains("weather"), "{summary}");
        assert!(summary.find("SQLite") < summary.find("40 GB"));
        assert!(summary.contains("no server. MongoDB was rejected."), "sentences of a line stay on it:\n{summary}");
        assert!(size(&summary) <= 90);
    }

    #[test]
    fn small_code_blocks_stay_whole() {
        let text =
            format!("{REPORT}\n```rust\nfn open(path: &Path) -> Store\n```\n{}", "More words follow here. ".repeat(40));
        let summary = summarise(&text, 120);
        assert!(summary.contains("```rust\nfn open(path: &Path) -> Store\n```"), "{summary}");
        let long = format!("```\n{}```\n", "let value = compute(1);\nlet other = compute(2);\n".repeat(50));
        assert_eq!(summarise(&long, 60), "let value = compute(1);\nlet other = compute(2);");
    }

    #[test]
    fn a_text_without_borders_is_cut() {
        let text = "word ".repeat(500);
        let summary = summarise(&text, 50);
        assert!(size(&summary) > 30 && size(&summary) <= 50, "{summary}");
        assert_eq!(summarise(&text, 0), "");
        assert_eq!(summarise("short", 10), "short");
    }

    #[test]
    fn sentences_end_where_they_end() {
        let split = |it| sentences(it).collect::<Vec<_>>().join("|");
        assert_eq!(
            split("One. Two! Three? four. e.g. This one, v1.2 of Dr. Who."),
            "One.|Two!|Three? four. e.g. This one, v1.2 of Dr. Who."
        );
        assert_eq!(split("一。二"), "一。|二");
        assert_eq!(split("1. First"), "1. First");
    }

    proptest! {
        #![proptest_config(crate::cases::cases(2_000))]

        #[test]
        fn a_summary_fits_and_stands_in_the_text(text in hostile_text(), tokens_max in 0_u32..120) {
            let summary = summarise(&text, tokens_max);
            prop_assert!(size(&summary) <= tokens_max, "{} > {}: {:?}", size(&summary), tokens_max, summary);
            prop_assert_eq!(&summary, &summarise(&text, tokens_max));
            if size(&text) <= tokens_max {
                prop_assert_eq!(&summary, &text);
            }
            // In the same order, and nothing that is not there.
            let mut rest = text.chars();
            for it in summary.chars().filter(|it| !it.is_whitespace()) {
                prop_assert!(rest.any(|other| other == it), "{:?} of {:?} is not in {:?}", it, summary, text);
            }
        }
    }
}
