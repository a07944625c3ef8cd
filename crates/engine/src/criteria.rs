//! Criteria of success that say in words what a program can tell.
//!
//! **Invariant:** words become the same [`Check`] that a plan file could write; one place judges both.

use crewline_types::{Check, check::Unit};
use serde_json::Value;

/// What is understood, for people.
pub const KNOWN: &str =
    "`contains \"…\"`, `does not contain \"…\"`, `at least N words`, `at most N lines` (or characters), or `is JSON`";

/// The check that `criterion` says in words; none when it is not understood.
pub fn check_of(criterion: &str) -> Option<Check> {
    let criterion = criterion.trim();
    let quoted = |rest: &str| -> Option<String> {
        let open = rest.find('"')?;
        let close = rest.rfind('"').filter(|close| *close > open + 1)?;
        Some(rest[open + 1..close].to_owned())
    };
    if let Some(rest) = criterion.strip_prefix("does not contain ") {
        return Some(Check::Contains { text: quoted(rest)?, ignore_case: false, absent: true });
    }
    if let Some(rest) = criterion.strip_prefix("contains ") {
        return Some(Check::Contains { text: quoted(rest)?, ignore_case: false, absent: false });
    }
    if criterion.eq_ignore_ascii_case("is json") {
        return Some(Check::JsonSchema { schema: Value::Bool(true) });
    }
    let (is_least, rest) = match (criterion.strip_prefix("at least "), criterion.strip_prefix("at most ")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return None,
    };
    let (number, unit) = rest.split_once(' ')?;
    let number: u32 = number.parse().ok()?;
    let unit = match unit.trim() {
        "word" | "words" => Unit::Words,
        "line" | "lines" => Unit::Lines,
        "character" | "characters" => Unit::Characters,
        _ => return None,
    };
    let (min, max) = if is_least { (Some(number), None) } else { (None, Some(number)) };
    Some(Check::Length { unit, min, max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_checks() {
        for (criterion, says) in [
            ("contains \"a table\"", "it contains `a table`"),
            (" does not contain \"TODO\"", "it does not contain `TODO`"),
            ("at least 3 words", "it has at least 3 words"),
            ("at most 2 lines", "it has at most 2 lines"),
            ("at most 1 character", "it has at most 1 characters"),
        ] {
            assert_eq!(check_of(criterion).map(|it| it.to_string()).as_deref(), Some(says), "{criterion}");
        }
        assert_eq!(check_of("is JSON").map(|it| it.kind()), Some("json_schema"));
        for criterion in
            ["it reads well", "contains nothing quoted", "at least many words", "contains \"\"", "at least 3 pages"]
        {
            assert_eq!(check_of(criterion), None, "{criterion}");
        }
    }
}
