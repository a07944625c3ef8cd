//! Criteria of success that a program can tell.
//!
//! **Invariant:** a measurable criterion that is not understood is a problem, never passed over.

use crewline_types::Criterion;

/// What is understood, for people.
const KNOWN: &str =
    "`contains \"…\"`, `does not contain \"…\"`, `at least N words`, `at most N lines` (or characters), or `is JSON`";

/// What of the measurable criteria `text` does not meet: a line each. The others are for people, or have a check of their own.
pub fn check(criteria: &[Criterion], text: &str) -> Vec<String> {
    let measurable = criteria.iter().filter(|it| it.measurable && it.check.is_none());
    measurable.filter_map(|it| problem(it.criterion.trim(), text)).collect()
}

fn problem(criterion: &str, text: &str) -> Option<String> {
    let is_met = match understood(criterion) {
        None => return Some(format!("`{criterion}` can not be checked: it is none of {KNOWN}")),
        Some(Rule::Contains(wanted)) => text.contains(wanted),
        Some(Rule::Lacks(unwanted)) => !text.contains(unwanted),
        Some(Rule::AtLeast(unit, least)) => count(unit, text) >= least,
        Some(Rule::AtMost(unit, most)) => count(unit, text) <= most,
        Some(Rule::Json) => serde_json::from_str::<serde_json::Value>(text).is_ok(),
    };
    (!is_met).then(|| format!("`{criterion}` is not met"))
}

enum Rule<'a> {
    Contains(&'a str),
    Lacks(&'a str),
    AtLeast(Unit, usize),
    AtMost(Unit, usize),
    Json,
}

#[derive(Clone, Copy)]
enum Unit {
    Words,
    Lines,
    Characters,
}

fn count(unit: Unit, text: &str) -> usize {
    match unit {
        Unit::Words => text.split_whitespace().count(),
        Unit::Lines => text.lines().filter(|line| !line.trim().is_empty()).count(),
        Unit::Characters => text.chars().count(),
    }
}

fn understood(criterion: &str) -> Option<Rule<'_>> {
    let quoted = |rest: &'_ str| -> Option<(usize, usize)> {
        let open = rest.find('"')?;
        let close = rest.rfind('"').filter(|close| *close > open + 1)?;
        Some((open + 1, close))
    };
    if let Some(rest) = criterion.strip_prefix("does not contain ") {
        return quoted(rest).map(|(from, to)| Rule::Lacks(&rest[from..to]));
    }
    if let Some(rest) = criterion.strip_prefix("contains ") {
        return quoted(rest).map(|(from, to)| Rule::Contains(&rest[from..to]));
    }
    if criterion.eq_ignore_ascii_case("is json") {
        return Some(Rule::Json);
    }
    let (is_least, rest) = match (criterion.strip_prefix("at least "), criterion.strip_prefix("at most ")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return None,
    };
    let (number, unit) = rest.split_once(' ')?;
    let number: usize = number.parse().ok()?;
    let unit = match unit.trim() {
        "word" | "words" => Unit::Words,
        "line" | "lines" => Unit::Lines,
        "character" | "characters" => Unit::Characters,
        _ => return None,
    };
    Some(if is_least { Rule::AtLeast(unit, number) } else { Rule::AtMost(unit, number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_understood_is_checked() {
        for (criterion, met, not_met) in [
            ("contains \"a table\"", "here is a table", "here is none"),
            ("does not contain \"TODO\"", "done", "TODO: all"),
            ("at least 3 words", "one two three", "one two"),
            ("at most 2 lines", "one\n\ntwo\n", "one\ntwo\nthree"),
            ("at most 3 characters", "äöü", "four"),
            ("is JSON", "{\"a\": 1}", "{a: 1}"),
        ] {
            let criteria = [Criterion { criterion: criterion.into(), measurable: true, check: None }];
            assert_eq!(check(&criteria, met), Vec::<String>::new(), "{criterion}");
            assert_eq!(check(&criteria, not_met), [format!("`{criterion}` is not met")]);
        }
    }

    #[test]
    fn what_is_not_understood_is_said_and_what_is_for_people_is_left_to_them() {
        for criterion in
            ["it reads well", "contains nothing quoted", "at least many words", "contains \"\"", "at least 3 pages"]
        {
            let mut criteria = [Criterion { criterion: criterion.into(), measurable: true, check: None }];
            assert!(check(&criteria, "text")[0].contains("can not be checked"), "{criterion}");
            criteria[0].measurable = false;
            assert!(check(&criteria, "text").is_empty());
        }
    }
}
