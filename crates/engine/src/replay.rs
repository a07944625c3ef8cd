//! What of a recorded run a new one may take over: the name of everything an attempt depends on, and the decision per task.
//!
//! Two attempts with the same [`input_hash`] were asked for the same thing; only what memory recalled may differ, and what
//! the plan says in a line of the tasks beside. Tasks are matched by their key, never by their place or id: ids are new in
//! every run, so texts are compared by [`with_names`].
//!
//! **Invariant:** a task is reused only when everything it was made from is reused too.
//! **Invariant:** a task that nothing asked to run anew is reused or refused, never run again silently.

use std::{borrow::Cow, fmt::Write as _};

use crewline_types::{Criterion, Role, TaskId, TaskKind, TextHash};

/// Everything an attempt depends on but what memory recalls.
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    /// The task's name inside the plan.
    pub key: &'a str,
    /// What it is in the tree.
    pub kind: TaskKind,
    /// Who does it.
    pub role: &'a Role,
    /// What the registry tells that role.
    pub instructions: &'a str,
    /// The task's line.
    pub title: &'a str,
    /// What is to be done.
    pub description: &'a str,
    /// The criteria of success.
    pub criteria: &'a [Criterion],
    /// The run's goal.
    pub goal: &'a str,
    /// INDEX.md with keys for ids, see [`index_hash`].
    pub index: Option<TextHash>,
    /// What the tasks above it say, see [`above_hash`](crate::context::above_hash).
    pub above: Option<TextHash>,
    /// Keys and results of the tasks it requires, in any order.
    pub requires: Vec<(&'a str, TextHash)>,
    /// Keys and results of the tasks it refers to, as far as they were there, in any order.
    pub refers: Vec<(&'a str, TextHash)>,
}

/// Names `inputs`.
pub fn input_hash(inputs: &Inputs<'_>) -> TextHash {
    let Inputs { key, kind, role, instructions, title, description, criteria, goal, index, above, requires, refers } =
        inputs;
    let mut text = String::with_capacity(256 + instructions.len() + description.len() + goal.len());
    // A length before each field: no two inputs have the same text.
    let mut field = |value: &str| {
        // Writing into memory can not fail.
        let _ = write!(text, "{}:{value};", value.len());
    };
    for value in ["crewline input 1", *key, kind.as_str(), role.as_str(), *instructions, *title, *description, *goal] {
        field(value);
    }
    field(&criteria.len().to_string());
    for criterion in *criteria {
        field(&criterion.criterion);
        let measurable = if criterion.measurable { "measurable" } else { "" };
        match &criterion.check {
            Some(check) => field(&format!("{measurable} {}", serde_json::to_string(check).unwrap_or_default())),
            None => field(measurable),
        }
    }
    field(&index.map(|hash| hash.to_string()).unwrap_or_default());
    for made in [requires, refers] {
        let mut made = made.clone();
        made.sort_unstable();
        made.dedup();
        field(&made.len().to_string());
        for (key, result) in made {
            field(key);
            field(&result.to_string());
        }
    }
    // Most tasks have none above them but the root.
    if let Some(above) = above {
        field(&above.to_string());
    }
    TextHash::of(&text)
}

/// Names an INDEX.md, whatever ids its tasks have: `name` gives the key of a task of the run.
pub fn index_hash<'a>(text: &str, name: impl Fn(TaskId) -> Option<&'a str>) -> TextHash {
    TextHash::of(&with_names(text, name))
}

/// `text` with each id that `name` knows replaced by what it says.
pub fn with_names<'a, 'n>(text: &'a str, name: impl Fn(TaskId) -> Option<&'n str>) -> Cow<'a, str> {
    let mut made = String::new();
    let mut copied = 0;
    let mut word = 0;
    let bytes = text.as_bytes();
    for at in 0..=bytes.len() {
        if bytes.get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte >= 0x80) {
            continue;
        }
        // A word ends here. Both ends are beside ASCII, so they are borders of characters.
        if at - word == 8
            && let Some(new) = text[word..at].parse().ok().and_then(&name)
        {
            made.push_str(&text[copied..word]);
            made.push_str(new);
            copied = at;
        }
        word = at + 1;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    made.push_str(&text[copied..]);
    Cow::Owned(made)
}

/// A task of the recorded run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The indexes of the tasks whose results it was or would be given.
    pub needs: Vec<u32>,
    /// What is recorded of it.
    pub record: Record,
    /// Whether it shall run anew in any case.
    pub is_forced: bool,
}

/// What is recorded of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Record {
    /// It has no result.
    None,
    /// It has one, made from the same inputs as it would be now.
    Same,
    /// It has one, made from other inputs, or nobody recorded from which.
    Other,
}

/// What becomes of a task in the new run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Its result is taken over.
    Reuse,
    /// It runs, unless its inputs turn out to be those of the recorded result.
    Run,
}

/// How far a record is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Reuse what has the same inputs, also after `from`; refuse when something before `from` has others.
    Verify,
    /// Take what is before `from` as it is; run everything from there on.
    Trust,
}

/// What becomes of each of `nodes` when `from` and what depends on it may run anew.
///
/// The error lists the tasks that do not depend on `from` and whose recorded inputs are others.
pub fn decide(nodes: &[Node], from: &[u32], rule: Rule) -> Result<Vec<Verdict>, Vec<u32>> {
    let mut users = vec![Vec::new(); nodes.len()];
    for (index, node) in (0_u32..).zip(nodes) {
        for need in &node.needs {
            if let Some(users) = users.get_mut(*need as usize) {
                users.push(index);
            }
        }
    }
    let after = reach(&users, from.to_vec());
    if rule == Rule::Verify {
        let others: Vec<u32> = (0_u32..)
            .zip(nodes)
            .filter(|(index, node)| node.record == Record::Other && !after[*index as usize])
            .map(|(index, _)| index)
            .collect();
        if !others.is_empty() {
            return Err(others);
        }
    }
    let runs = |(index, node): &(u32, &Node)| match (node.record, rule) {
        (Record::None, _) | (Record::Other, Rule::Verify) => true,
        (Record::Same, Rule::Verify) => node.is_forced,
        (Record::Same | Record::Other, Rule::Trust) => node.is_forced || after[*index as usize],
    };
    let first: Vec<u32> = (0_u32..).zip(nodes).filter(runs).map(|(index, _)| index).collect();
    let live = reach(&users, first);
    Ok(live.into_iter().map(|is_live| if is_live { Verdict::Run } else { Verdict::Reuse }).collect())
}

/// The tasks of `open` and all that use what they make, directly or through others.
fn reach(users: &[Vec<u32>], mut open: Vec<u32>) -> Vec<bool> {
    let mut is_reached = vec![false; users.len()];
    while let Some(index) = open.pop() {
        let Some(seen) = is_reached.get_mut(index as usize) else { continue };
        if !std::mem::replace(seen, true) {
            open.extend_from_slice(&users[index as usize]);
        }
    }
    is_reached
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn inputs<'a>(role: &'a Role, criteria: &'a [Criterion]) -> Inputs<'a> {
        Inputs {
            key: "t1",
            kind: TaskKind::Atomic,
            role,
            instructions: "Be exact.",
            title: "Title",
            description: "What to do",
            criteria,
            goal: "Goal",
            index: Some(TextHash::of("index")),
            above: None,
            requires: vec![("a", TextHash::of("one")), ("b", TextHash::of("two"))],
            refers: vec![("c", TextHash::of("three"))],
        }
    }

    #[test]
    fn every_input_counts_and_their_order_does_not() {
        let (role, other) = (Role::from("writer"), Role::from("coder"));
        let criteria = [Criterion { criterion: "short".into(), measurable: true, check: None }];
        let base = inputs(&role, &criteria);
        let turned = Inputs { requires: base.requires.iter().rev().copied().collect(), ..base.clone() };
        assert_eq!(input_hash(&base), input_hash(&turned));
        let mut seen = HashSet::from([input_hash(&base)]);
        let loose = [Criterion { criterion: "short".into(), measurable: false, check: None }];
        for changed in [
            Inputs { key: "t2", ..base.clone() },
            Inputs { kind: TaskKind::Synthesis, ..base.clone() },
            Inputs { role: &other, ..base.clone() },
            Inputs { instructions: "Be quick.", ..base.clone() },
            Inputs { title: "TitleWhat to do", description: "", ..base.clone() },
            Inputs { description: "What not to do", ..base.clone() },
            Inputs { criteria: &loose, ..base.clone() },
            Inputs { criteria: &[], ..base.clone() },
            Inputs { goal: "Another", ..base.clone() },
            Inputs { index: None, ..base.clone() },
            Inputs { above: Some(TextHash::of("above")), ..base.clone() },
            Inputs { requires: vec![("a", TextHash::of("one"))], ..base.clone() },
            Inputs { requires: vec![("a", TextHash::of("two")), ("b", TextHash::of("one"))], ..base.clone() },
            Inputs { refers: vec![], ..base.clone() },
            Inputs { requires: vec![], refers: base.requires.clone(), ..base.clone() },
        ] {
            assert!(seen.insert(input_hash(&changed)), "{changed:?}");
        }
    }

    #[test]
    fn ids_in_texts_become_names() {
        let (one, two): (TaskId, TaskId) = ("aaaaaaaa".parse().unwrap(), "k3v9x0ab".parse().unwrap());
        let name = |id| {
            if id == one {
                Some("first")
            } else if id == two {
                Some("t2")
            } else {
                None
            }
        };
        let text = "- [task:aaaaaaaa] Übung (writer), after k3v9x0ab, unknown1\naaaaaaaab äaaaaaaaa aaaaaaaa";
        let named = "- [task:first] Übung (writer), after t2, unknown1\naaaaaaaab äaaaaaaaa first";
        assert_eq!(with_names(text, name), named);
        assert!(matches!(with_names("nothing here", name), Cow::Borrowed(_)));
        assert_eq!(index_hash(text, name), TextHash::of(named));
    }

    fn node(needs: &[u32], record: Record) -> Node {
        Node { needs: needs.to_vec(), record, is_forced: false }
    }

    #[test]
    fn what_comes_before_is_reused_or_refused() {
        use {Record::*, Verdict::*};
        // 0 → 1 → 3, 0 → 2
        let nodes = |of: [Record; 4]| vec![node(&[], of[0]), node(&[0], of[1]), node(&[0], of[2]), node(&[1], of[3])];
        let same = nodes([Same; 4]);
        assert_eq!(decide(&same, &[], Rule::Verify).unwrap(), [Reuse; 4]);
        assert_eq!(decide(&same, &[1], Rule::Verify).unwrap(), [Reuse; 4]);
        assert_eq!(decide(&same, &[1], Rule::Trust).unwrap(), [Reuse, Run, Reuse, Run]);
        let edited = nodes([Same, Other, Same, Same]);
        assert_eq!(decide(&edited, &[1], Rule::Verify).unwrap(), [Reuse, Run, Reuse, Run]);
        assert_eq!(decide(&edited, &[], Rule::Verify).unwrap_err(), [1]);
        assert_eq!(decide(&edited, &[2], Rule::Verify).unwrap_err(), [1]);
        assert_eq!(decide(&edited, &[2], Rule::Trust).unwrap(), [Reuse, Reuse, Run, Reuse]);
        let failed = nodes([Same, None, Same, None]);
        assert_eq!(decide(&failed, &[], Rule::Verify).unwrap(), [Reuse, Run, Reuse, Run]);
        let mut forced = same.clone();
        forced[0].is_forced = true;
        assert_eq!(decide(&forced, &[0], Rule::Verify).unwrap(), [Run; 4]);
    }

    proptest! {
        #[test]
        fn what_is_reused_was_made_from_what_is_reused(
            nodes in prop::collection::vec((prop::collection::vec(0_u32..20, 0..4), 0_u8..3, prop::bool::weighted(0.1)), 1..20),
            from in prop::collection::vec(0_u32..20, 0..3),
            trust in any::<bool>(),
        ) {
            let nodes: Vec<Node> = nodes
                .into_iter()
                .map(|(needs, record, is_forced)| Node {
                    needs,
                    record: [Record::None, Record::Same, Record::Other][usize::from(record)],
                    is_forced,
                })
                .collect();
            let rule = if trust { Rule::Trust } else { Rule::Verify };
            if let Ok(verdicts) = decide(&nodes, &from, rule) {
                for (node, verdict) in nodes.iter().zip(&verdicts) {
                    if *verdict == Verdict::Reuse {
                        prop_assert!(node.record != Record::None && !node.is_forced);
                        prop_assert!(trust || node.record == Record::Same);
                        let needs = node.needs.iter().filter_map(|need| verdicts.get(*need as usize));
                        prop_assert!(needs.into_iter().all(|it| *it == Verdict::Reuse));
                    }
                }
            }
        }

        #[test]
        fn any_text_keeps_what_is_no_id(text in "\\PC{0,60}") {
            prop_assert_eq!(with_names(&text, |_| None).into_owned(), text);
        }
    }
}
