//! What is not worth remembering, and what is remembered already.
//!
//! The rule, to be read and changed: a text is chatter when it has fewer than [`Rules::words_min`] words that say something
//! (stop words and courtesies do not), unless it holds a number, an identifier or code. Two texts say the same when they
//! share [`Rules::same_min`] of their words and all of their numbers.
//!
//! **Invariant:** pure; nothing is deleted here, only left out or counted.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{Error, text};

/// What people say to be kind.
const COURTESIES: &str = "absolutely alright awesome bye certainly cheers cool fine glad good goodbye great hello help hey \
    hi hmm interesting let know like nice no oh ok okay perfect please pleased question sounds sure talk thank thanks \
    welcome well wonderful wow yeah yep yes";
/// Bytes of a text that are looked at: one that says nothing in so many is long, and kept.
const LOOK_MAX: usize = 2_048;

/// What long-term memory leaves out, and what it counts instead of keeping it twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Words that must say something; 0 keeps everything.
    pub words_min: usize,
    /// Words that say nothing, beside stop words; in any form.
    pub courtesies: Courtesies,
    /// The share of all words of two texts that both must have to say the same; above 1, nothing is ever the same.
    pub same_min: f64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            words_min: 3,
            courtesies: COURTESIES.split_ascii_whitespace().map(str::to_owned).collect::<Vec<String>>().into(),
            same_min: 0.9,
        }
    }
}

/// Words of courtesy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub struct Courtesies {
    words: Vec<String>,
    /// What any form of them is told by; made once, as every result is looked at.
    terms: BTreeSet<String>,
}

impl Courtesies {
    /// The words as they were given.
    pub fn words(&self) -> &[String] {
        &self.words
    }
}

impl From<Vec<String>> for Courtesies {
    fn from(words: Vec<String>) -> Self {
        Self { terms: terms_of(&words.join(" ")), words }
    }
}

impl From<Courtesies> for Vec<String> {
    fn from(courtesies: Courtesies) -> Self {
        courtesies.words
    }
}

impl Rules {
    /// Reads a file of rules (JSON); what it does not name is as shipped.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let rules: Self = serde_json::from_str(text).map_err(|error| Error::Rules { reason: error.to_string() })?;
        if !rules.same_min.is_finite() || rules.same_min <= 0.0 {
            return Err(Error::Rules { reason: "`same_min` must be above 0".to_owned() });
        }
        Ok(rules)
    }

    /// Whether a text is not worth a place in long-term memory.
    pub fn is_chatter(&self, text: &str) -> bool {
        let tells = |byte: u8| byte.is_ascii_digit() || byte == b'_';
        if self.words_min == 0 || text.len() > LOOK_MAX || text.contains("```") || text.bytes().any(tells) {
            return false;
        }
        let says = |term: &&String| !text::is_stop(term) && !self.courtesies.terms.contains(*term);
        terms_of(text).iter().filter(says).count() < self.words_min
    }

    /// Whether two texts with these terms say the same. A number, or a word such as `not`, makes another statement.
    pub(crate) fn is_same(&self, left: &BTreeSet<String>, right: &BTreeSet<String>) -> bool {
        let shared = left.intersection(right).count();
        let all = left.len() + right.len() - shared;
        if all == 0 || (shared as f64) < self.same_min * all as f64 {
            return false;
        }
        left.symmetric_difference(right).all(|term| {
            !term.bytes().any(|byte| byte.is_ascii_digit()) && !["not", "no", "never", "don"].contains(&&**term)
        })
    }
}

/// The different terms of a text.
pub(crate) fn terms_of(text: &str) -> BTreeSet<String> {
    let mut terms = BTreeSet::new();
    text::terms(text, &mut String::new(), |term| {
        terms.insert(term.to_owned());
    });
    terms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chatter_is_left_out_and_facts_are_kept() {
        let rules = Rules::default();
        for text in ["Thanks!", "Sounds good, let me know", "", "Hello there, how are you?", "ok", "Great question!"] {
            assert!(rules.is_chatter(text), "{text}");
        }
        for text in [
            "Port 80",
            "use max_len",
            "The parser must refuse empty plans",
            "```\nx\n```",
            "Thanks, the deployment of staging failed again",
        ] {
            assert!(!rules.is_chatter(text), "{text}");
        }
    }

    #[test]
    fn the_rule_can_be_changed() {
        let strict = Rules::parse(r#"{"words_min": 5, "courtesies": ["roger"]}"#).unwrap();
        assert!(strict.is_chatter("Roger, the red fox jumps"));
        assert!(!Rules::parse(r#"{"words_min": 0}"#).unwrap().is_chatter("ok"));
        for (text, reason) in [
            ("{\"same_min\": 0}", "above 0"),
            ("{\"words\": 1}", "unknown field"),
            ("[", "EOF"),
            ("{\"words_min\": -1}", "-1"),
        ] {
            let error = Rules::parse(text).unwrap_err();
            assert_eq!(error.code(), "memory.rules");
            assert!(error.to_string().contains(reason), "{error}");
        }
        assert_eq!(Rules::parse("{}").unwrap(), Rules::default());
    }

    #[test]
    fn the_same_in_nearly_the_same_words() {
        let rules = Rules::default();
        let same = |left: &str, right: &str| rules.is_same(&terms_of(left), &terms_of(right));
        let long = "the parser refuses a plan whose tasks depend on each other in a circle and names the circle";
        assert!(same(long, &long.replace("refuses", "refused")));
        assert!(same("Red fox.", "red foxes"));
        assert!(!same("the port is 80", "the port is 81"));
        assert!(!same(&format!("{long} 7"), long));
        assert!(!same(&format!("{long} never"), long));
        assert!(!same("", ""));
    }
}
