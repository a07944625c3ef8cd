//! English word endings off: the stemmer of Porter, "An algorithm for suffix stripping" (1980).
//!
//! Words of other languages are cut by the same rules on both sides, text and query, so they still meet.
//!
//! **Invariant:** only lower-case ASCII letters are cut; anything else is left as it is.

/// Longest first, because the first that fits decides.
const STEP2: [(&str, &str); 20] = [
    ("ational", "ate"),
    ("ization", "ize"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("tional", "tion"),
    ("biliti", "ble"),
    ("entli", "ent"),
    ("ousli", "ous"),
    ("ation", "ate"),
    ("alism", "al"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("abli", "able"),
    ("alli", "al"),
    ("ator", "ate"),
    ("eli", "e"),
];
const STEP3: [(&str, &str); 7] =
    [("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ness", ""), ("ful", "")];
const STEP4: [&str; 19] = [
    "ement", "ance", "ence", "able", "ible", "ment", "ant", "ent", "ion", "ism", "ate", "iti", "ous", "ive", "ize",
    "al", "er", "ic", "ou",
];

/// Cuts the ending off `word`, which is lower-case.
pub(crate) fn stem(word: &mut String) {
    if word.len() <= 2 || !word.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return;
    }
    plural(word);
    past(word);
    if word.ends_with('y') && has_vowel(head(word, 1)) {
        replace(word, 1, "i");
    }
    if let Some((end, new)) = STEP2.iter().find(|(end, _)| word.ends_with(end))
        && measure(head(word, end.len())) > 0
    {
        replace(word, end.len(), new);
    }
    if let Some((end, new)) = STEP3.iter().find(|(end, _)| word.ends_with(end))
        && measure(head(word, end.len())) > 0
    {
        replace(word, end.len(), new);
    }
    if let Some(end) = STEP4.iter().find(|end| word.ends_with(**end)) {
        let head = head(word, end.len());
        if measure(head) > 1 && (*end != "ion" || head.ends_with(['s', 't'])) {
            replace(word, end.len(), "");
        }
    }
    if word.ends_with('e') {
        let head = head(word, 1);
        let count = measure(head);
        if count > 1 || (count == 1 && !ends_short(head)) {
            replace(word, 1, "");
        }
    }
    if word.ends_with("ll") && measure(word) > 1 {
        replace(word, 1, "");
    }
}

fn plural(word: &mut String) {
    if word.ends_with("sses") || word.ends_with("ies") {
        replace(word, 2, "");
    } else if word.ends_with('s') && !word.ends_with("ss") {
        replace(word, 1, "");
    }
}

fn past(word: &mut String) {
    if word.ends_with("eed") {
        if measure(head(word, 3)) > 0 {
            replace(word, 1, "");
        }
        return;
    }
    let Some(end) = ["ed", "ing"].iter().find(|end| word.ends_with(**end)) else { return };
    if !has_vowel(head(word, end.len())) {
        return;
    }
    replace(word, end.len(), "");
    if word.ends_with("at") || word.ends_with("bl") || word.ends_with("iz") {
        word.push('e');
    } else if ends_double(word) && !word.ends_with(['l', 's', 'z']) {
        replace(word, 1, "");
    } else if measure(word) == 1 && ends_short(word) {
        word.push('e');
    }
}

fn head(word: &str, cut: usize) -> &str {
    &word[..word.len() - cut]
}

fn replace(word: &mut String, cut: usize, new: &str) {
    word.truncate(word.len() - cut);
    word.push_str(new);
}

/// A `y` is a vowel behind a consonant.
fn is_vowel(bytes: &[u8], at: usize) -> bool {
    match bytes[at] {
        b'a' | b'e' | b'i' | b'o' | b'u' => true,
        b'y' => at > 0 && !is_vowel(bytes, at - 1),
        _ => false,
    }
}

fn has_vowel(word: &str) -> bool {
    (0..word.len()).any(|at| is_vowel(word.as_bytes(), at))
}

/// How often a consonant follows a vowel.
fn measure(word: &str) -> usize {
    let bytes = word.as_bytes();
    let mut before = false;
    let mut count = 0;
    for at in 0..bytes.len() {
        // `is_vowel` looks back over a run of `y` only.
        let here = is_vowel(bytes, at);
        count += usize::from(before && !here);
        before = here;
    }
    count
}

fn ends_double(word: &str) -> bool {
    let bytes = word.as_bytes();
    let len = bytes.len();
    len >= 2 && bytes[len - 1] == bytes[len - 2] && !is_vowel(bytes, len - 1)
}

/// Consonant, vowel, consonant, of which the last is none of w, x, y: `hop`, but not `snow`.
fn ends_short(word: &str) -> bool {
    let bytes = word.as_bytes();
    let len = bytes.len();
    len >= 3
        && !is_vowel(bytes, len - 3)
        && is_vowel(bytes, len - 2)
        && !is_vowel(bytes, len - 1)
        && !matches!(bytes[len - 1], b'w' | b'x' | b'y')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stemmed(word: &str) -> String {
        let mut word = word.to_owned();
        stem(&mut word);
        word
    }

    /// The examples of the paper, and what they become when all steps have run.
    #[test]
    fn the_papers_examples() {
        for (word, expect) in [
            ("caresses", "caress"),
            ("ponies", "poni"),
            ("ties", "ti"),
            ("cats", "cat"),
            ("feed", "feed"),
            ("agreed", "agre"),
            ("plastered", "plaster"),
            ("bled", "bled"),
            ("motoring", "motor"),
            ("sing", "sing"),
            ("conflated", "conflat"),
            ("troubled", "troubl"),
            ("sized", "size"),
            ("hopping", "hop"),
            ("falling", "fall"),
            ("hissing", "hiss"),
            ("filing", "file"),
            ("happy", "happi"),
            ("sky", "sky"),
            ("relational", "relat"),
            ("conditional", "condit"),
            ("rational", "ration"),
            ("digitizer", "digit"),
            ("vietnamization", "vietnam"),
            ("decisiveness", "decis"),
            ("hopefulness", "hope"),
            ("sensibiliti", "sensibl"),
            ("triplicate", "triplic"),
            ("electrical", "electr"),
            ("goodness", "good"),
            ("allowance", "allow"),
            ("replacement", "replac"),
            ("adoption", "adopt"),
            ("effective", "effect"),
            ("probate", "probat"),
            ("rate", "rate"),
            ("controll", "control"),
            ("roll", "roll"),
            ("generalizations", "gener"),
            ("oscillators", "oscil"),
        ] {
            assert_eq!(stemmed(word), expect, "{word}");
        }
    }

    #[test]
    fn what_is_no_word_stays() {
        for word in ["", "is", "q3", "node_modules", "straßen", "v2ing"] {
            assert_eq!(stemmed(word), word);
        }
    }

    #[test]
    fn any_letters_are_survived() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..20_000 {
            let word: String =
                (0..random.usize(..12)).map(|_| *random.choice(b"aeiyslzdtngbr").unwrap() as char).collect();
            assert!(stemmed(&word).len() <= word.len() + 1, "{word}");
        }
    }
}
