//! Which role was meant.
//!
//! **Invariant:** the answer is one of the known roles or none; the same name always gives the same answer.

use crewline_types::Role;

use super::words;

/// Words that models use, and the shipped role that does the work.
const SYNONYMS: [(&str, &str); 42] = [
    ("developer", "coder"),
    ("dev", "coder"),
    ("programmer", "coder"),
    ("engineer", "coder"),
    ("implementer", "coder"),
    ("coding", "coder"),
    ("architect", "coder"),
    ("designer", "coder"),
    ("qa", "tester"),
    ("quality", "tester"),
    ("testing", "tester"),
    ("test", "tester"),
    ("verifier", "tester"),
    ("validator", "tester"),
    ("checker", "tester"),
    ("auditor", "tester"),
    ("reviewer", "tester"),
    ("analyst", "researcher"),
    ("analyzer", "researcher"),
    ("research", "researcher"),
    ("investigator", "researcher"),
    ("scientist", "researcher"),
    ("scholar", "researcher"),
    ("explorer", "researcher"),
    ("expert", "researcher"),
    ("specialist", "researcher"),
    ("historian", "researcher"),
    ("gatherer", "researcher"),
    ("editor", "writer"),
    ("author", "writer"),
    ("copywriter", "writer"),
    ("documenter", "writer"),
    ("documentation", "writer"),
    ("writing", "writer"),
    ("summarizer", "writer"),
    ("summariser", "writer"),
    ("synthesizer", "writer"),
    ("proofreader", "writer"),
    ("planner", "manager"),
    ("coordinator", "manager"),
    ("lead", "manager"),
    ("supervisor", "manager"),
];

/// Words that say little; any other word of the name goes first.
const GENERIC: [&str; 6] = ["engineer", "architect", "designer", "expert", "specialist", "lead"];

/// The known role that `name` most probably means.
pub(super) fn nearest<'a>(name: &str, known: &'a [Role]) -> Option<&'a Role> {
    let whole = words::fold(words::shorten(name, 80).trim_end_matches('…'));
    if whole.is_empty() {
        return None;
    }
    if let Some(role) = known.iter().find(|it| words::fold(it.as_str()) == whole) {
        return Some(role);
    }
    let lower = name.to_lowercase();
    let parts: Vec<&str> = lower.split(|it: char| !it.is_alphanumeric()).filter(|it| !it.is_empty()).collect();
    let by_synonym = |word: &str| {
        let (_, role) = SYNONYMS.iter().find(|(from, _)| *from == word)?;
        known.iter().find(|it| it.as_str() == *role)
    };
    // The last word says what somebody is: a senior Python developer is a developer.
    let by_part = |word: &&str| known.iter().find(|it| words::fold(it.as_str()) == *word).or_else(|| by_synonym(word));
    by_synonym(&whole)
        .or_else(|| parts.iter().rev().take(8).filter(|it| !GENERIC.contains(it)).find_map(by_part))
        .or_else(|| parts.iter().rev().take(8).find_map(by_part))
        .or_else(|| known.iter().find(|it| contains(&whole, &words::fold(it.as_str()))))
        .or_else(|| by_similarity(&whole, known))
}

fn contains(one: &str, other: &str) -> bool {
    let (short, long) = if one.len() < other.len() { (one, other) } else { (other, one) };
    short.len() >= 4 && long.contains(short)
}

fn by_similarity<'a>(name: &str, known: &'a [Role]) -> Option<&'a Role> {
    let mut best: Option<(f64, &Role)> = None;
    for role in known {
        let score = strsim::jaro_winkler(name, &words::fold(role.as_str()));
        if score >= 0.8 && best.is_none_or(|(other, _)| score > other) {
            best = Some((score, role));
        }
    }
    best.map(|(_, it)| it)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_understood() {
        let known = ["manager", "coder", "tester", "researcher", "writer", "data_steward"].map(Role::from);
        for (name, expected) in [
            ("Coder", Some("coder")),
            ("codr", Some("coder")),
            ("developer", Some("coder")),
            ("Senior Python Developer", Some("coder")),
            ("QA", Some("tester")),
            ("qa-engineer", Some("tester")),
            ("software engineer", Some("coder")),
            ("test writer", Some("writer")),
            ("Data Analyst", Some("researcher")),
            ("editor", Some("writer")),
            ("resercher", Some("researcher")),
            ("DataSteward", Some("data_steward")),
            ("technicalwriter", Some("writer")),
            ("plumber", None),
            ("", None),
            ("!!", None),
        ] {
            assert_eq!(nearest(name, &known).map(Role::as_str), expected, "{name}");
        }
        // A synonym of a role that does not exist here helps nobody.
        assert_eq!(nearest("developer", &known[..1]), None);
    }
}
