//! What a role's rules are asked about a task: how hard it looks, and which tags it has.
//!
//! **Invariant:** the same text gives the same complexity and tags, on every machine.

use crewline_types::{Complexity, RouteWhen, TaskKind};

/// What is known of a task before anybody is asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Traits {
    /// How hard it looks.
    pub complexity: Complexity,
    /// Its tags, in small letters.
    pub tags: Vec<String>,
}

/// Beginnings of words that speak for a hard task.
const HARD_WORDS: [&str; 16] = [
    "analy",
    "architect",
    "concurren",
    "debug",
    "deriv",
    "design",
    "migrat",
    "optimi",
    "proof",
    "prove",
    "reason",
    "refactor",
    "security",
    "strateg",
    "trade-off",
    "verif",
];
/// Tags of a task at most.
const TAGS_MAX: usize = 32;

impl Traits {
    /// Of a task with such a title and description, whose description has so many tokens.
    pub fn of(title: &str, description: &str, tokens: u32, criteria: usize, requires: usize) -> Self {
        let mut tags = Vec::new();
        for tag in [title, description].into_iter().flat_map(tags_of) {
            if tags.len() < TAGS_MAX && !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        Self { complexity: complexity(description, tokens, criteria, requires), tags }
    }

    /// Whether a rule holds.
    pub fn fit(&self, when: &RouteWhen, kind: TaskKind, tokens: u32) -> bool {
        (when.kinds.is_empty() || when.kinds.contains(&kind))
            && (when.tags.is_empty() || when.tags.iter().any(|tag| self.tags.contains(&tag.to_lowercase())))
            && when.tokens_min.is_none_or(|min| tokens >= min)
            && when.tokens_max.is_none_or(|max| tokens <= max)
            && when.complexity_min.is_none_or(|min| self.complexity >= min)
            && when.complexity_max.is_none_or(|max| self.complexity <= max)
    }
}

/// How hard a task looks: 10 for each doubling of its tokens beyond 50 (40 at most), 5 for each criterion and each task that it
/// requires (20 at most for either), 5 for each of the words that speak for a hard task (20 at most).
fn complexity(text: &str, tokens: u32, criteria: usize, requires: usize) -> Complexity {
    let doublings = (tokens / 50).checked_ilog2().unwrap_or(0);
    let each = |count: usize| u32::try_from(count.min(4)).unwrap_or(4) * 5;
    let lower = text.to_lowercase();
    let mut hard = [false; HARD_WORDS.len()];
    for word in lower.split(|it: char| !it.is_alphanumeric() && it != '-') {
        for (place, start) in HARD_WORDS.iter().enumerate() {
            hard[place] |= word.starts_with(start);
        }
    }
    let hard = hard.into_iter().filter(|it| *it).count();
    let score = (doublings * 10).min(40) + each(criteria) + each(requires) + each(hard);
    Complexity::new(u8::try_from(score).unwrap_or(Complexity::MAX))
}

/// The words that begin with `#` and a letter, without it.
fn tags_of(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split_whitespace().filter_map(|word| {
        let tag = word.trim_start_matches(['(', '[', '"', '\'']).strip_prefix('#')?;
        let end = tag.find(|it: char| !it.is_alphanumeric() && it != '-' && it != '_').unwrap_or(tag.len());
        let tag = &tag[..end];
        tag.starts_with(char::is_alphabetic).then(|| tag.to_lowercase())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complexity_grows_with_size_criteria_needs_and_hard_words() {
        let of = |text: &str, tokens, criteria, requires| complexity(text, tokens, criteria, requires).score();
        assert_eq!(of("Name a city.", 4, 0, 0), 0);
        assert_eq!(of("Name a city.", 99, 0, 0), 0);
        assert_eq!(of("Name a city.", 100, 0, 0), 10);
        assert_eq!(of("Name a city.", 1_000_000, 0, 0), 40);
        assert_eq!(of("Name a city.", 4, 2, 1), 15);
        assert_eq!(of("Design it, and prove that the design holds.", 12, 0, 0), 10);
        assert_eq!(of("Analyse, design, debug, refactor and verify it.", 100_000, 9, 9), 100);
    }

    #[test]
    fn tags_are_words_that_begin_with_a_hash() {
        let traits = Traits::of("Close #12 #Security", "# Title\nA (#security-review), c# and #", 9, 0, 0);
        assert_eq!(traits.tags, ["security", "security-review"]);
    }

    #[test]
    fn all_that_is_given_must_hold() {
        let when = RouteWhen {
            kinds: vec![TaskKind::Synthesis],
            tags: vec!["Legal".into(), "urgent".into()],
            tokens_min: Some(10),
            complexity_max: Some(Complexity::new(50)),
            ..RouteWhen::default()
        };
        let traits = |score, tag: &str| Traits { complexity: Complexity::new(score), tags: vec![tag.to_owned()] };
        assert!(traits(50, "legal").fit(&when, TaskKind::Synthesis, 10));
        assert!(!traits(50, "legal").fit(&when, TaskKind::Atomic, 10));
        assert!(!traits(50, "legal").fit(&when, TaskKind::Synthesis, 9));
        assert!(!traits(51, "legal").fit(&when, TaskKind::Synthesis, 10));
        assert!(!traits(50, "other").fit(&when, TaskKind::Synthesis, 10));
        assert!(Traits::default().fit(&RouteWhen::default(), TaskKind::Root, 0));
    }
}
