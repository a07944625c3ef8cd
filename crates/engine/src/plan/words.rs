//! Small things with words: one line, short titles, what was probably meant.
//!
//! **Invariant:** a text is never cut inside a character.

use std::borrow::Cow;

/// Characters of a title that is made from a description.
pub(super) const TITLE_CHARS_MAX: usize = 80;

/// At most `chars_max` characters, with `…` as the last when something was cut.
pub(super) fn shorten(text: &str, chars_max: usize) -> Cow<'_, str> {
    if text.len() <= chars_max || text.char_indices().nth(chars_max).is_none() {
        return Cow::Borrowed(text);
    }
    let end = text.char_indices().nth(chars_max.saturating_sub(1)).map_or(0, |(at, _)| at);
    let kept = &text[..end];
    // A word border that is near is better than the middle of a word.
    let border = kept.rfind(char::is_whitespace).filter(|at| *at >= end - end / 4).unwrap_or(end);
    Cow::Owned(format!("{}…", kept[..border].trim_end()))
}

/// Blanks and control characters become one space each run, and none at the ends.
pub(super) fn one_line(text: &str) -> Cow<'_, str> {
    let is_gap = |it: char| it.is_whitespace() || it.is_control();
    let text = text.trim_matches(is_gap);
    let mut was_gap = false;
    let is_clean = text.chars().all(|it| {
        let is_bad = is_gap(it) && (was_gap || it != ' ');
        was_gap = is_gap(it);
        !is_bad
    });
    if is_clean {
        return Cow::Borrowed(text);
    }
    let words: Vec<&str> = text.split(is_gap).filter(|it| !it.is_empty()).collect();
    Cow::Owned(words.join(" "))
}

/// A title for a description: its first line or sentence, shortened.
pub(super) fn title_from(description: &str) -> String {
    let line = description
        .lines()
        .map(|it| it.trim().trim_start_matches(['#', '*', '-', '>', ' ']))
        .find(|it| it.chars().any(char::is_alphanumeric))
        .unwrap_or_else(|| description.trim());
    let line = one_line(line);
    let sentence = line.find(". ").filter(|at| *at >= 8).map_or(&*line, |at| &line[..at]);
    let sentence = sentence.trim_end_matches(['.', ':', ' ']);
    shorten(if sentence.is_empty() { &line } else { sentence }, TITLE_CHARS_MAX).into_owned()
}

/// Lower-case letters and digits only, so that `Depends-On` and `depends_on` are the same word.
pub(super) fn fold(text: &str) -> String {
    text.chars().filter(|it| it.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// What was probably meant by `word`.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = shorten(word, 80).to_lowercase();
    let mut best: Option<(f64, &str)> = None;
    for candidate in candidates {
        let score = strsim::normalized_damerau_levenshtein(&word, &candidate.to_lowercase());
        // Of equals the first stays.
        if score >= 0.5 && best.is_none_or(|(other, _)| score > other) {
            best = Some((score, candidate));
        }
    }
    best.map(|(_, it)| it)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(shorten("short", 5), "short");
        assert_eq!(shorten("äöüäöü", 4), "äöü…");
        assert_eq!(shorten("several words that go on", 16), "several words…");
        assert_eq!(one_line(" a\n\tb  c\u{7}d "), "a b c d");
        assert!(matches!(one_line("a b"), Cow::Borrowed("a b")));
    }

    #[test]
    fn titles_come_from_the_first_sentence() {
        assert_eq!(title_from("## Build the parser\nIt reads JSON."), "Build the parser");
        assert_eq!(title_from("Build the parser. Then test it."), "Build the parser");
        assert_eq!(title_from("…"), "…");
        assert!(title_from(&"word ".repeat(100)).chars().count() <= TITLE_CHARS_MAX);
    }

    #[test]
    fn typos_are_understood() {
        assert_eq!(nearest("depend_on", ["id", "depends_on"]), Some("depends_on"));
        assert_eq!(nearest("t99", ["t1", "t9"]), Some("t9"));
        assert_eq!(nearest("xyz", ["id", "depends_on"]), None);
    }
}
