//! What is not worth remembering, and what is remembered already.
//!
//! The rule, to be read and changed: a text is chatter when it has fewer than [`CONTENT_MIN`] words that say something
//! (stop words and courtesies do not), unless it holds a number, an identifier or code. Two texts say the same when
//! they share [`SHARED_MIN`] of their words and all of their numbers.
//!
//! **Invariant:** pure; nothing is deleted here, only left out or counted.

use std::collections::BTreeSet;

use crate::text;

/// Words that must say something.
const CONTENT_MIN: usize = 3;
/// The share of all words of two texts that both have.
const SHARED_MIN: f64 = 0.9;
/// What people say to be kind.
const COURTESIES: &str = "absolutely alright awesome bye certainly cheers cool fine glad good goodbye great hello help hey \
    hi hmm interesting let know like nice no oh ok okay perfect please pleased question sounds sure talk thank thanks \
    welcome well wonderful wow yeah yep yes";

/// Whether a text is not worth a place in long-term memory.
pub fn is_chatter(text: &str) -> bool {
    if text.contains("```") || text.bytes().any(|byte| byte.is_ascii_digit() || byte == b'_') {
        return false;
    }
    let mut courtesies = BTreeSet::new();
    text::terms(COURTESIES, &mut String::new(), |term| {
        courtesies.insert(term.to_owned());
    });
    let said = terms_of(text);
    said.iter().filter(|term| !text::is_stop(term) && !courtesies.contains(*term)).count() < CONTENT_MIN
}

/// The different terms of a text.
pub(crate) fn terms_of(text: &str) -> BTreeSet<String> {
    let mut terms = BTreeSet::new();
    text::terms(text, &mut String::new(), |term| {
        terms.insert(term.to_owned());
    });
    terms
}

/// Whether two texts with these terms say the same. A number, or a word such as `not`, makes another statement.
pub(crate) fn is_same(left: &BTreeSet<String>, right: &BTreeSet<String>) -> bool {
    let shared = left.intersection(right).count();
    let all = left.len() + right.len() - shared;
    if all == 0 || (shared as f64) < SHARED_MIN * all as f64 {
        return false;
    }
    left.symmetric_difference(right).all(|term| {
        !term.bytes().any(|byte| byte.is_ascii_digit()) && !["not", "no", "never", "don"].contains(&&**term)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chatter_is_left_out_and_facts_are_kept() {
        for text in ["Thanks!", "Sounds good, let me know", "", "Hello there, how are you?", "ok", "Great question!"] {
            assert!(is_chatter(text), "{text}");
        }
        for text in [
            "Port 80",
            "use max_len",
            "The parser must refuse empty plans",
            "```\nx\n```",
            "Thanks, the deployment of staging failed again",
        ] {
            assert!(!is_chatter(text), "{text}");
        }
    }

    #[test]
    fn the_same_in_nearly_the_same_words() {
        let same = |left: &str, right: &str| is_same(&terms_of(left), &terms_of(right));
        let long = "the parser refuses a plan whose tasks depend on each other in a circle and names the circle";
        assert!(same(long, &long.replace("refuses", "refused")));
        assert!(same("Red fox.", "red foxes"));
        assert!(!same("the port is 80", "the port is 81"));
        assert!(!same(&format!("{long} 7"), long));
        assert!(!same(&format!("{long} never"), long));
        assert!(!same("", ""));
    }
}
