//! Words for BM25: lower-cased and stemmed, identifiers whole and in parts, CJK as pairs of characters.
//!
//! **Invariant:** the same text gives the same terms in the same order, on every machine.

use std::{collections::HashSet, sync::LazyLock};

use crate::stem;

/// Words of English that say how something is asked, not what: a question is searched without them if it holds others.
const STOP: &str = "a about after again all also am an and any are as at be because been before being between both but by \
    can could d did do does doing don during each ever few for from further had has have having he her here hers him \
    his how i if in into is it its just ll m many me mine more most much my no nor not of on once only or other our \
    ours out over own re s same she should so some such t than that the their theirs them then there these they this \
    those through to too u under until up us ve very was we were what when where which while who whom why will with \
    would you your yours";

/// The stop words as [`terms`] gives them.
static STOP_TERMS: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let mut all = HashSet::new();
    terms(STOP, &mut String::new(), |term| {
        all.insert(term.to_owned());
    });
    all
});

/// Whether a term of [`terms`] says nothing about what is asked for.
pub(crate) fn is_stop(term: &str) -> bool {
    STOP_TERMS.contains(term)
}

/// Runs of letters and digits longer than this are data, not words: they are kept whole and not taken apart.
const WORD_BYTES_MAX: usize = 64;

/// Calls `each` for every term of `text`. `buffer` is scratch space that callers keep between calls.
pub(crate) fn terms(text: &str, buffer: &mut String, mut each: impl FnMut(&str)) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        // The common case first: skip what is not a word, byte by byte.
        if bytes[at].is_ascii() && !is_ascii_word(bytes[at]) {
            at += 1;
            continue;
        }
        let start = at;
        let mut shape = Shape::default();
        while at < bytes.len() {
            let byte = bytes[at];
            if byte.is_ascii() {
                if !is_ascii_word(byte) {
                    break;
                }
                shape.upper_inside |= byte.is_ascii_uppercase() && at > start;
                shape.underscore |= byte == b'_';
                at += 1;
                continue;
            }
            // Multi-byte characters start on a boundary here, so the slice is sound.
            let Some(char) = text[at..].chars().next() else { break };
            if !is_word(char) {
                break;
            }
            shape.wide = true;
            at += char.len_utf8();
        }
        if at == start {
            // A non-ASCII character that is no letter.
            at += text[at..].chars().next().map_or(1, char::len_utf8);
            continue;
        }
        let word = &text[start..at];
        if follows_apostrophe(bytes, start) && is_clitic(word) {
            continue;
        }
        emit(word, shape, buffer, &mut each);
    }
}

#[derive(Default, Clone, Copy)]
struct Shape {
    upper_inside: bool,
    underscore: bool,
    wide: bool,
}

fn emit(word: &str, shape: Shape, buffer: &mut String, each: &mut impl FnMut(&str)) {
    if shape.wide {
        return emit_wide(word, buffer, each);
    }
    if word.len() > WORD_BYTES_MAX {
        return emit_lower(word, Stem::No, buffer, each);
    }
    if !shape.underscore && !shape.upper_inside {
        return emit_lower(word, Stem::Yes, buffer, each);
    }
    let word = word.trim_matches('_');
    if word.is_empty() {
        return;
    }
    let mut rest = word;
    let first = next_part(rest);
    if first.len() == word.len() {
        // `IDs` is too short for the stemmer.
        let acronym = word.strip_suffix('s').filter(|rest| rest.bytes().all(|byte| byte.is_ascii_uppercase()));
        return emit_lower(acronym.unwrap_or(word), Stem::Yes, buffer, each);
    }
    emit_lower(word, Stem::No, buffer, each);
    while !rest.is_empty() {
        let part = next_part(rest);
        if !part.is_empty() {
            emit_lower(part, Stem::Yes, buffer, each);
        }
        rest = rest[part.len()..].trim_start_matches('_');
    }
}

/// The leading part of an ASCII identifier: `parse` of `parseReply`, `HTTP` of `HTTPReply`, `max` of `max_len`.
fn next_part(word: &str) -> &str {
    let bytes = word.as_bytes();
    for at in 1..bytes.len() {
        let (before, here, after) = (bytes[at - 1], bytes[at], bytes.get(at + 1));
        let rises = !before.is_ascii_uppercase() && here.is_ascii_uppercase();
        let acronym_ends = before.is_ascii_uppercase()
            && here.is_ascii_uppercase()
            && after.is_some_and(|after| after.is_ascii_lowercase() && !is_plural_of_acronym(&bytes[at + 1..]));
        if here == b'_' || rises || acronym_ends {
            return &word[..at];
        }
    }
    word
}

/// `IDs`, `URLs`: the small `s` belongs to the acronym.
fn is_plural_of_acronym(rest: &[u8]) -> bool {
    rest[0] == b's' && rest.get(1).is_none_or(|next| !next.is_ascii_lowercase())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stem {
    Yes,
    No,
}

fn emit_lower(word: &str, endings: Stem, buffer: &mut String, each: &mut impl FnMut(&str)) {
    buffer.clear();
    buffer.push_str(word);
    buffer.make_ascii_lowercase();
    if endings == Stem::Yes {
        stem::stem(buffer);
    }
    each(buffer);
}

/// Words with characters outside ASCII: CJK runs become pairs, the rest is lower-cased.
fn emit_wide(word: &str, buffer: &mut String, each: &mut impl FnMut(&str)) {
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let cjk = is_cjk(first);
        let end = rest.find(|char| is_cjk(char) != cjk).unwrap_or(rest.len());
        let (run, tail) = rest.split_at(end);
        rest = tail;
        if !cjk {
            buffer.clear();
            buffer.extend(run.chars().flat_map(char::to_lowercase));
            if buffer.is_ascii() {
                stem::stem(buffer);
            }
            each(buffer);
            continue;
        }
        let mut starts = run.char_indices().map(|(start, _)| start).chain([run.len()]);
        let (Some(mut before), Some(mut here)) = (starts.next(), starts.next()) else { continue };
        if here == run.len() {
            each(run);
        }
        for next in starts {
            each(&run[before..next]);
            (before, here) = (here, next);
        }
    }
}

fn is_ascii_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_word(char: char) -> bool {
    // Combining marks and joiners belong to the letter before them.
    char.is_alphanumeric() || matches!(char, '\u{0300}'..='\u{036f}' | '\u{200c}' | '\u{200d}')
}

fn is_cjk(char: char) -> bool {
    matches!(char, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

fn follows_apostrophe(bytes: &[u8], start: usize) -> bool {
    let before = &bytes[..start];
    let letter = |bytes: &[u8]| bytes.last().is_some_and(u8::is_ascii_alphanumeric);
    before.strip_suffix(b"'").or_else(|| before.strip_suffix("\u{2019}".as_bytes())).is_some_and(letter)
}

fn is_clitic(word: &str) -> bool {
    matches!(word, "s" | "t" | "d" | "m" | "ll" | "re" | "ve")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[&str]) {
        let mut found = Vec::new();
        terms(text, &mut String::new(), |term| found.push(term.to_owned()));
        assert_eq!(found, expect, "{text}");
    }

    #[test]
    fn words_are_lower_case_without_endings() {
        check("The Cats, and the queries!", &["the", "cat", "and", "the", "queri"]);
        check("painted paintings PAINTING", &["paint", "paint", "paint"]);
        check("", &[]);
        check(" \n--- ** ", &[]);
    }

    #[test]
    fn clitics_are_dropped() {
        check("Anna's dog doesn't, it\u{2019}s late", &["anna", "dog", "doesn", "it", "late"]);
        check("'s' t", &["s", "t"]);
    }

    #[test]
    fn identifiers_are_kept_whole_and_taken_apart() {
        check("parse_reply", &["parse_reply", "pars", "repli"]);
        check("parseHTTPReply2", &["parsehttpreply2", "pars", "http", "reply2"]);
        check("tokensMax", &["tokensmax", "token", "max"]);
        check("task IDs of API", &["task", "id", "of", "api"]);
        check("__init__ _ __", &["init"]);
        check("crewline::memory.rs", &["crewlin", "memori", "rs"]);
    }

    #[test]
    fn stop_words_are_known_by_their_terms() {
        let mut kept = Vec::new();
        terms("Why does this have what Anna's was before?", &mut String::new(), |term| {
            if !is_stop(term) {
                kept.push(term.to_owned());
            }
        });
        assert_eq!(kept, ["anna"]);
    }

    #[test]
    fn data_is_not_taken_apart() {
        let blob = "aB".repeat(40);
        check(&blob, &[&blob.to_lowercase()]);
    }

    #[test]
    fn other_scripts() {
        check("Ärger über Straßen", &["ärger", "über", "straßen"]);
        check("今日は天気", &["今日", "日は", "は天", "天気"]);
        check("東 Rust言語", &["東", "rust", "言語"]);
        check("🚀 привет—мир", &["привет", "мир"]);
    }
}
