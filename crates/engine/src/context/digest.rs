//! Summaries made of more than one thing: many texts rolled up into one, and what one role hands to the next.
//!
//! Both are extracts, so nothing is in them that was not said. Decisions go before everything else: a project must know
//! years later what was decided, what was refused, and why.
//!
//! **Invariant:** pure and deterministic; a digest never has more tokens than allowed.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
};

use super::{
    budget::{estimate_tokens, estimate_within, trim_to},
    summarise::{Kind, Unit, summarise, units},
};

/// The share of the budget, in percent, that decisions may take before anything else is looked at.
const DECISIONS_SHARE: u32 = 60;
/// Lines of one list of a hand-off.
const LINES_MAX: usize = 6;
/// Tokens of one line of a list.
const LINE_TOKENS_MAX: u32 = 48;
/// Files that a hand-off names.
const FILES_MAX: usize = 12;
/// Tokens of the heading of a section.
const TITLE_TOKENS_MAX: u32 = 24;

/// Words of a decision.
const DECIDED: [&str; 14] = [
    "adopt",
    "adopted",
    "agreed",
    "choose",
    "chose",
    "chosen",
    "conclusion",
    "decide",
    "decided",
    "decision",
    "recommend",
    "recommended",
    "selected",
    "settled",
];
/// Words of what was not taken.
const REJECTED: [&str; 13] = [
    "abandoned",
    "against",
    "avoid",
    "considered",
    "declined",
    "discarded",
    "dismissed",
    "dropped",
    "instead",
    "refused",
    "reject",
    "rejected",
    "unsuitable",
];
/// Words of what is not known yet.
const OPEN: [&str; 10] =
    ["open", "pending", "tbd", "todo", "unclear", "undecided", "unknown", "unresolved", "question", "questions"];

/// One text of many.
#[derive(Debug, Clone, Copy)]
pub struct Section<'a> {
    /// Its heading in the summary.
    pub title: &'a str,
    /// What it says.
    pub text: &'a str,
}

/// Many texts in one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rolled {
    /// A heading and the most telling lines of each text that is in, in the order of the texts.
    pub text: String,
    /// The places of the texts that are in.
    pub used: Vec<usize>,
}

/// The most telling lines of many texts under at most `tokens_max` tokens; of equals, those of later texts.
pub fn roll(sections: &[Section<'_>], tokens_max: u32) -> Rolled {
    let titles: Vec<String> = sections.iter().map(|it| heading(it.title)).collect();
    let mut all: Vec<(usize, Unit<'_>)> = Vec::new();
    for (place, section) in sections.iter().enumerate() {
        let found = units(section.text, tokens_max).into_iter().filter(|unit| unit.kind != Kind::Heading);
        all.extend(found.map(|unit| (place, unit)));
    }
    let count = u32::try_from(sections.len()).unwrap_or(u32::MAX).max(1);
    let worth = |(place, unit): &(usize, Unit<'_>)| {
        // Up to half as much again for the newest.
        let age_bonus = u32::try_from(*place).unwrap_or(u32::MAX).saturating_add(1).saturating_mul(50) / count;
        unit.score.saturating_mul(100 + age_bonus) / unit.tokens.saturating_add(16)
    };
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_unstable_by_key(|it| (Reverse(worth(&all[*it])), *it));
    let mut taken: BTreeMap<(usize, usize), &str> = BTreeMap::new();
    let mut opened = HashSet::new();
    let mut said = HashSet::new();
    let mut left = tokens_max;
    let decisions_floor = tokens_max - tokens_max.saturating_mul(DECISIONS_SHARE) / 100;
    for (only_decisions, floor) in [(true, decisions_floor), (false, 0)] {
        for &index in &order {
            let (place, unit) = &all[index];
            if only_decisions && !has_word(unit.text, &DECIDED) && !has_word(unit.text, &REJECTED) {
                continue;
            }
            let head = if opened.contains(place) { 0 } else { estimate_tokens(&titles[*place]) + 2 };
            let cost = unit.tokens.saturating_add(1).saturating_add(head);
            if cost > left.saturating_sub(floor) || !said.insert(unit.text) {
                continue;
            }
            left -= cost;
            opened.insert(*place);
            taken.insert((*place, index), unit.text);
        }
    }
    if let (true, Some(&index)) = (taken.is_empty(), order.first()) {
        // Nothing fits whole: the beginning of the best.
        let (place, unit) = &all[index];
        let piece = trim_to(unit.text, left.saturating_sub(estimate_tokens(&titles[*place]) + 3));
        if !piece.trim().is_empty() {
            taken.insert((*place, index), piece);
        }
    }
    let mut rolled = Rolled::default();
    for ((place, index), text) in taken {
        if rolled.used.last() != Some(&place) {
            if !rolled.text.is_empty() {
                rolled.text.push_str("\n\n");
            }
            rolled.text.push_str(&titles[place]);
            rolled.text.push('\n');
            rolled.used.push(place);
        } else if index > 0 && all[index - 1].0 == place && all[index - 1].1.line == all[index].1.line {
            rolled.text.push(' ');
        } else {
            rolled.text.push('\n');
        }
        rolled.text.push_str(text);
    }
    if estimate_within(&rolled.text, tokens_max) > tokens_max {
        rolled.text = trim_to(&rolled.text, tokens_max).to_owned();
    }
    rolled
}

/// What one role tells the next of its result: what was decided, what was refused and why, what is open, which files
/// there are, and a summary of the rest.
pub fn handoff(from: &str, to: &str, title: &str, text: &str, tokens_max: u32) -> String {
    let head = trim_to(&format!("Hand-off from {from} to {to}: {title}"), tokens_max).to_owned();
    let mut lists: [(&str, Vec<&str>); 3] =
        [("Decided:", Vec::new()), ("Rejected:", Vec::new()), ("Open:", Vec::new())];
    // Half of the budget for the lists, the other for the summary of the rest.
    let mut left = tokens_max.saturating_sub(estimate_tokens(&head)) / 2;
    let mut rest = String::new();
    let mut under = None;
    let mut last_line = 0;
    for unit in units(text, u32::MAX / 2) {
        let subject = match unit.kind {
            Kind::Heading => {
                under = subject_of_heading(unit.text);
                None
            }
            Kind::Code => None,
            Kind::Prose => subject_of(unit.text).or(under),
        };
        if let Some(subject) = subject {
            let list = &mut lists[subject as usize].1;
            let line = trim_to(unit.text.trim_start_matches(['-', '*', ' ']), LINE_TOKENS_MAX);
            let cost = estimate_tokens(line) + 4;
            if list.len() < LINES_MAX && cost <= left && !list.contains(&line) {
                left -= cost;
                list.push(line);
                continue;
            }
        }
        rest.push_str(if unit.line == last_line { " " } else { "\n" });
        last_line = unit.line;
        rest.push_str(unit.text);
    }
    let mut out = head;
    let files = files(text);
    let has_lists = lists.iter().any(|(_, lines)| !lines.is_empty());
    for (name, lines) in lists.iter().filter(|(_, lines)| !lines.is_empty()) {
        out.push_str("\n\n");
        out.push_str(name);
        for line in lines {
            out.push_str("\n- ");
            out.push_str(line);
        }
    }
    if !files.is_empty() {
        let names = files.join(", ");
        let line = format!("\n\nFiles: {names}");
        if estimate_tokens(&out) + estimate_tokens(&line) + 1 < tokens_max {
            out.push_str(&line);
        }
    }
    let body = if has_lists { rest.trim() } else { text };
    let summary = summarise(body, tokens_max.saturating_sub(estimate_tokens(&out) + 4));
    if !summary.trim().is_empty() {
        out.push_str("\n\n");
        out.push_str(summary.trim());
    }
    if estimate_within(&out, tokens_max) > tokens_max { trim_to(&out, tokens_max).to_owned() } else { out }
}

/// The list a sentence belongs to; its number is its place among the lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Decided = 0,
    Rejected = 1,
    Open = 2,
}

fn subject_of(sentence: &str) -> Option<Subject> {
    if sentence.ends_with('?') {
        Some(Subject::Open)
    } else if has_word(sentence, &DECIDED) {
        Some(Subject::Decided)
    } else if has_word(sentence, &REJECTED) {
        Some(Subject::Rejected)
    } else if has_word(sentence, &OPEN) {
        Some(Subject::Open)
    } else {
        None
    }
}

fn subject_of_heading(text: &str) -> Option<Subject> {
    if has_word(text, &OPEN) {
        Some(Subject::Open)
    } else if has_word(text, &REJECTED) || has_word(text, &["alternatives"]) {
        Some(Subject::Rejected)
    } else if has_word(text, &DECIDED) || has_word(text, &["decisions"]) {
        Some(Subject::Decided)
    } else {
        None
    }
}

fn has_word(text: &str, words: &[&str]) -> bool {
    text.split_ascii_whitespace().any(|word| {
        let core = word.trim_matches(|it: char| !it.is_alphanumeric());
        words.iter().any(|it| it.eq_ignore_ascii_case(core))
    })
}

/// One line that can head a section.
fn heading(title: &str) -> String {
    let line = title.split(['\n', '\r']).next().unwrap_or_default().trim().trim_start_matches('#').trim_start();
    format!("## {}", trim_to(line, TITLE_TOKENS_MAX))
}

/// The files a text names, each once, in its order.
fn files(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for word in
        text.split(|it: char| it.is_whitespace() || matches!(it, '`' | '"' | '\'' | '(' | ')' | '[' | ']' | ','))
    {
        let word = word.trim_end_matches(['.', ':', ';', '!', '?', '*']).trim_start_matches('*');
        if is_file(word) && !found.contains(&word) {
            found.push(word);
            if found.len() == FILES_MAX {
                break;
            }
        }
    }
    found
}

/// `lib.rs`, `src/lib.rs`, `docs/`; not `1.2`, `e.g`, `and/or`, `https://example.com`.
fn is_file(word: &str) -> bool {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || matches!(it, '/' | '.' | '_' | '-');
    if word.len() > 120 || word.contains("//") || !word.chars().all(is_plain) {
        return false;
    }
    let (folder, name) = word.rsplit_once('/').unwrap_or(("", word));
    if name.is_empty() {
        return folder.len() > 1;
    }
    let Some((stem, extension)) = name.rsplit_once('.') else { return false };
    let is_host = folder.is_empty() && matches!(extension, "com" | "org" | "net" | "io");
    (stem.len() > 1 || !folder.is_empty())
        && (1..=5).contains(&extension.len())
        && extension.bytes().all(|it| it.is_ascii_lowercase())
        && !is_host
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::context::tests::hostile_text;

    const RESULT: &str = "# Storage\n\
        The rows of the crew are in one file, see `crates/store/src/open.rs` and docs/limits.md.\n\
        We decided to use SQLite because it needs no server.\n\
        PostgreSQL was rejected for one machine: it must be installed first.\n\
        Should the file be encrypted?\n\
        \n\
        ## Open questions\n\
        - How large may it grow\n\
        \n\
        ## Rejected alternatives\n\
        - MongoDB, for want of transactions across documents\n";

    #[test]
    fn a_hand_off_tells_what_was_decided_refused_and_left_open() {
        let text = handoff("coder", "tester", "Choose the storage", RESULT, 260);
        assert!(text.starts_with("Hand-off from coder to tester: Choose the storage\n"), "{text}");
        let decided = text.find("Decided:\n- We decided to use SQLite because it needs no server.").expect(&text);
        let rejected = text.find("Rejected:\n").expect(&text);
        let open = text.find("Open:\n- Should the file be encrypted?\n- How large may it grow").expect(&text);
        assert!(decided < rejected && rejected < open, "{text}");
        assert!(text.contains("- MongoDB, for want of transactions across documents"), "{text}");
        assert!(text.contains("Files: crates/store/src/open.rs, docs/limits.md"), "{text}");
        assert!(text.contains("The rows of the crew are in one file"), "the rest is summed up: {text}");
        assert_eq!(text.matches("needs no server").count(), 1, "nothing is said twice: {text}");
    }

    #[test]
    fn a_hand_off_without_decisions_is_a_summary() {
        assert_eq!(handoff("a", "b", "T", "The sky is blue.", 100), "Hand-off from a to b: T\n\nThe sky is blue.");
    }

    #[test]
    fn files_are_told_from_other_words() {
        for (word, is) in [
            ("lib.rs", true),
            ("src/lib.rs", true),
            ("docs/", true),
            ("a/b.c", true),
            ("1.2", false),
            ("e.g", false),
            ("and/or", false),
            ("https://example.com/a.rs", false),
            ("example.com", false),
        ] {
            assert_eq!(is_file(word), is, "{word}");
        }
    }

    #[test]
    fn a_roll_keeps_decisions_of_every_source_and_says_which_are_in() {
        let filler = "Some people like one thing and some people like another thing, as people say. ".repeat(8);
        let old = format!("{filler}We decided against MongoDB because it has no transactions.");
        let new = format!("{filler}The limit is 40 GB for `crewline.db`.");
        let empty = "";
        let sections = [
            Section { title: "Storage", text: &old },
            Section { title: "Nothing", text: empty },
            Section { title: "Limits", text: &new },
        ];
        let rolled = roll(&sections, 110);
        assert_eq!(rolled.used, [0, 2], "{rolled:?}");
        assert!(rolled.text.starts_with("## Storage\n"), "{}", rolled.text);
        assert!(
            rolled.text.contains("no transactions") && rolled.text.contains("The limit is 40 GB"),
            "{}",
            rolled.text
        );
        assert_eq!(roll(&[], 70), Rolled::default());
        let endless = "word ".repeat(400);
        let rolled = roll(&[Section { title: "Long", text: &endless }], 40);
        assert!(rolled.text.starts_with("## Long\nword word"), "what fits is better than nothing: {rolled:?}");
        assert_eq!(roll(&sections, 0), Rolled::default());
    }

    #[test]
    fn what_two_sources_say_is_there_once() {
        let said = "We decided to use one port: 8443.";
        let sections = [Section { title: "A", text: said }, Section { title: "B", text: said }];
        let rolled = roll(&sections, 200);
        assert_eq!(rolled.text.matches("8443").count(), 1, "{rolled:?}");
        assert_eq!(rolled.used, [1], "of equals, the later");
    }

    proptest! {
        #![proptest_config(crate::cases::cases(500))]

        #[test]
        fn digests_fit(texts in proptest::collection::vec(hostile_text(), 0..6), tokens_max in 0_u32..200) {
            let sections: Vec<Section<'_>> = texts.iter().map(|text| Section { title: text, text }).collect();
            let rolled = roll(&sections, tokens_max);
            prop_assert!(estimate_tokens(&rolled.text) <= tokens_max, "{rolled:?}");
            prop_assert_eq!(&rolled, &roll(&sections, tokens_max));
            prop_assert!(rolled.used.is_sorted());
            for text in &texts {
                let handed = handoff("a", "b", text, text, tokens_max);
                prop_assert!(estimate_tokens(&handed) <= tokens_max, "{handed:?}");
            }
        }
    }
}
