//! Which sources an output cites, as `[task:k3v9x0ab]`, and whether it was given them.
//!
//! **Invariant:** the work is one pass over the text; what merely looks like a citation is none.

use std::collections::BTreeSet;

use crewline_types::TaskId;
use serde::Serialize;

use crate::context::{Form, Provenance, Tier};

/// What is to be said of the citations of an output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Citations {
    /// The tasks it cites.
    pub cited: Vec<TaskId>,
    /// Of these the ones that were not in its bundle: it can not know what they made.
    pub unknown: Vec<TaskId>,
    /// The tasks it requires, whose results were in its bundle, and that it does not cite.
    pub ignored: Vec<TaskId>,
}

impl Citations {
    /// Whether all is as it should be.
    pub fn is_fine(&self) -> bool {
        self.unknown.is_empty() && self.ignored.is_empty()
    }
}

/// The tasks that `text` cites, each once.
pub fn cited(text: &str) -> BTreeSet<TaskId> {
    const OPEN: &str = "task:";
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices(OPEN) {
        let before = text[..at].chars().next_back();
        let rest = &text[at + OPEN.len()..];
        // In brackets, alone or in a list: `[task:a]`, `[task:a, task:b]`.
        let is_in_list = before == Some('[') || before.is_some_and(|it| matches!(it, ' ' | ',' | ';'));
        let Some(id) = rest.get(..8).filter(|_| is_in_list) else { continue };
        let is_closed = rest[8..].chars().next().is_some_and(|it| matches!(it, ']' | ',' | ';' | ' '));
        let line = text[..at].rfind('\n').map_or(0, |it| it + 1);
        let is_open = text[line..at].rfind('[') > text[line..at].rfind(']');
        if is_closed
            && is_open
            && let Ok(id) = id.parse()
        {
            found.insert(id);
        }
    }
    found
}

/// Compares what `text` cites with what it was given.
pub fn check(text: &str, given: &[Provenance]) -> Citations {
    let cited = cited(text);
    let source = |item: &Provenance| item.source.strip_prefix("task:").and_then(|id| id.parse::<TaskId>().ok());
    let told = || given.iter().filter(|item| item.form != Form::LeftOut);
    let known: BTreeSet<TaskId> = told().filter_map(source).collect();
    // INDEX.md names every task of the plan, but not what it made.
    let required: BTreeSet<TaskId> = told().filter(|item| item.tier == Tier::Requires).filter_map(source).collect();
    Citations {
        unknown: cited.difference(&known).copied().collect(),
        ignored: required.difference(&cited).copied().collect(),
        cited: cited.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(tier: Tier, form: Form, id: &str) -> Provenance {
        Provenance {
            source: format!("task:{id}").into(),
            kind: "task_output".into(),
            title: "".into(),
            tier,
            score: 1.0,
            tokens: 1,
            form,
            reason: "fits".into(),
            text: crewline_types::TextHash::of(""),
        }
    }

    fn ids(text: &str) -> Vec<String> {
        cited(text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn citations_are_read() {
        assert_eq!(
            ids("It is so [task:aaaaaaaa], and so [task:bbbbbbbb; task:cccccccc]."),
            ["aaaaaaaa", "bbbbbbbb", "cccccccc"]
        );
        assert_eq!(ids("[task:aaaaaaaa][task:aaaaaaaa]"), ["aaaaaaaa"]);
        for none in [
            "task:aaaaaaaa",
            "[task:AAAAAAAA]",
            "[task:aaaa]",
            "[subtask:aaaaaaaa]",
            "[task:aaaaaaaab]",
            "[x] task:aaaaaaaa, y",
            "[task:üüüü]",
            "[task:",
        ] {
            assert_eq!(ids(none), Vec::<String>::new(), "{none}");
        }
    }

    #[test]
    fn what_was_not_given_and_what_is_ignored_is_found() {
        let given = [
            item(Tier::Requires, Form::Whole, "aaaaaaaa"),
            item(Tier::Requires, Form::Summary, "bbbbbbbb"),
            item(Tier::Requires, Form::LeftOut, "cccccccc"),
            item(Tier::Refers, Form::Whole, "dddddddd"),
        ];
        let found = check("One [task:aaaaaaaa], two [task:cccccccc], three [task:eeeeeeee].", &given);
        let of = |list: &[TaskId]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(of(&found.unknown), ["cccccccc", "eeeeeeee"]);
        assert_eq!(of(&found.ignored), ["bbbbbbbb"]);
        assert!(!found.is_fine());
        assert!(check("[task:aaaaaaaa] [task:bbbbbbbb]", &given).is_fine());
    }
}
