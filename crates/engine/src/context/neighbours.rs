//! What a task is told of its place in the plan: the tasks above it, and the ones beside it, a line each.
//!
//! **Invariant:** only what the plan says goes in, and what must be done before the attempt can begin: whatever else is done by
//! then, the same plan and the same results give the same bytes.
//! **Invariant:** keys stand for tasks, never ids: a replay of the plan is told the same.

use std::{collections::BTreeSet, fmt::Write as _};

use crewline_types::{Criterion, Text, TextHash};

use super::{Item, Tier, trim_to};

/// Tasks beside one that it is told of, the nearest of them.
const BESIDE_MAX: usize = 12;
/// Tasks above one; a tree is shallow.
const ABOVE_MAX: usize = 8;
/// Tasks that are looked at to find what is done before one.
const BEFORE_MAX: usize = 1_024;
/// Lines of a result in which its first sentence is looked for.
const LINES_MAX: usize = 64;
/// Tokens of a title, of what a task beside has made, of what one above is about, and of one of its criteria.
const TITLE_TOKENS: u32 = 24;
const LINE_TOKENS: u32 = 32;
const ABOVE_TOKENS: u32 = 400;
const CRITERION_TOKENS: u32 = 60;
const CRITERIA_MAX: usize = 12;

/// Names the item that tells of the tasks beside one.
pub const BESIDE: &str = "siblings";

/// A task of a plan.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its name inside the plan.
    pub key: &'a str,
    /// A line.
    pub title: &'a str,
    /// What is to be done.
    pub description: &'a str,
    /// How to tell that it is done.
    pub criteria: &'a [Criterion],
    /// The task above it, when it is not the root.
    pub parent: Option<u32>,
    /// What it requires, with what follows from the tree.
    pub needs: &'a [u32],
    /// What it refers to.
    pub refers: &'a [u32],
    /// What it made, when that is there.
    pub result: Option<&'a str>,
    /// Whether nobody is to do it any more.
    pub is_cancelled: bool,
}

/// A plan: its tasks by their place, the first at 0.
pub trait Plan {
    /// The task there.
    fn place(&self, index: u32) -> Option<Place<'_>>;

    /// What the task there requires, with what follows from the tree. It is asked for hundreds of tasks for each that begins.
    fn needs(&self, index: u32) -> Option<&[u32]>;
}

/// What the task `of` is told of those above and beside it.
pub fn neighbours(plan: &impl Plan, of: u32) -> Vec<Item> {
    let mut items = above(plan, of);
    items.extend(beside(plan, of));
    items
}

/// Names what [`neighbours`] tells of the tasks above: they say what the work is for, so an attempt depends on it.
pub fn above_hash(plan: &impl Plan, of: u32) -> Option<TextHash> {
    let items = above(plan, of);
    if items.is_empty() {
        return None;
    }
    let mut text = String::new();
    for item in items {
        // Writing into memory can not fail.
        let _ = write!(text, "{}:{}{}:{}", item.title.len(), item.title, item.text.body.len(), item.text.body);
    }
    Some(TextHash::of(&text))
}

/// The tasks above, the nearest first.
fn above(plan: &impl Plan, of: u32) -> Vec<Item> {
    let mut items = Vec::new();
    let mut at = plan.place(of).and_then(|place| place.parent);
    while let Some(place) = at.and_then(|index| plan.place(index)).filter(|_| items.len() < ABOVE_MAX) {
        let mut text = trim_to(place.description.trim(), ABOVE_TOKENS).to_owned();
        if !place.criteria.is_empty() {
            text.push_str("\n\nIt is done when:\n");
            for criterion in place.criteria.iter().take(CRITERIA_MAX) {
                let _ = writeln!(text, "- {}", line(&criterion.criterion, CRITERION_TOKENS));
            }
        }
        items.push(Item {
            tier: Tier::Siblings,
            source: format!("plan:{}", place.key).into(),
            kind: "ancestor".into(),
            title: format!("This task is part of: {}", line(place.title, TITLE_TOKENS)).into(),
            text: Text::from(text),
            // Before the tasks beside, and the nearest first.
            score: 1.0 / (1 + items.len()) as f32 + 1.0,
        });
        at = place.parent;
    }
    items
}

/// The nearest tasks beside, but for those whose results it is given anyway.
fn nearest(plan: &impl Plan, of: u32) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let Some(place) = plan.place(of) else { return found };
    let mut told = [place.needs, place.refers].concat();
    told.sort_unstable();
    let is_beside = |index: u32| {
        let other = plan.place(index)?;
        let is_told = told.binary_search(&index).is_ok();
        (other.parent == place.parent && !other.is_cancelled && !is_told).then_some(index)
    };
    for distance in 1_u32.. {
        let (before, after) = (of.checked_sub(distance), of.checked_add(distance));
        let after = after.filter(|index| plan.place(*index).is_some());
        if before.is_none() && after.is_none() || found.len() >= BESIDE_MAX {
            break;
        }
        found.extend(before.and_then(is_beside));
        if found.len() < BESIDE_MAX {
            found.extend(after.and_then(is_beside));
        }
    }
    found
}

/// The tasks beside whose results [`neighbours`] quotes.
pub fn quoted(plan: &impl Plan, of: u32) -> Vec<u32> {
    let found = nearest(plan, of);
    if found.is_empty() {
        return Vec::new();
    }
    let done = done_before(plan, of);
    found.into_iter().filter(|index| done.contains(*index)).collect()
}

fn beside(plan: &impl Plan, of: u32) -> Option<Item> {
    let found = nearest(plan, of);
    if found.is_empty() {
        return None;
    }
    let done = done_before(plan, of);
    let mut text = String::new();
    for index in found {
        let Some(other) = plan.place(index) else { continue };
        let is_done = done.contains(index);
        let state = if is_done {
            "done"
        } else if other.needs.contains(&of) {
            "waits for this task"
        } else {
            "independent"
        };
        let _ = write!(text, "- `{}` {} ({state})", line(other.key, TITLE_TOKENS), line(other.title, TITLE_TOKENS));
        if let Some(said) = other.result.filter(|_| is_done).map(first_sentence).filter(|it| !it.is_empty()) {
            let _ = write!(text, ": {said}");
        }
        text.push('\n');
    }
    Some(Item {
        tier: Tier::Siblings,
        source: BESIDE.into(),
        kind: "siblings".into(),
        title: "Tasks beside this one, which others do".into(),
        text: Text::from(text),
        score: 1.0,
    })
}

/// The tasks that are done before one begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Before {
    /// A bit for each place.
    places: Vec<u64>,
    count: usize,
}

impl Before {
    /// Whether the task there is one of them.
    pub fn contains(&self, index: u32) -> bool {
        self.places.get(index as usize / 64).is_some_and(|word| word & bit(index) != 0)
    }

    /// Their places in the plan, in its order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let words = (0_u32..).zip(&self.places);
        words.flat_map(|(at, word)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at * 64 + bit))
    }

    fn insert(&mut self, index: u32) -> bool {
        let word = index as usize / 64;
        if word >= self.places.len() {
            self.places.resize(word + 1, 0);
        }
        let is_new = self.places[word] & bit(index) == 0;
        self.places[word] |= bit(index);
        self.count += usize::from(is_new);
        is_new
    }

    fn remove(&mut self, index: u32) {
        if self.contains(index) {
            self.places[index as usize / 64] &= !bit(index);
            self.count -= 1;
        }
    }
}

fn bit(index: u32) -> u64 {
    1 << (index % 64)
}

/// What must be done when `of` begins. Of a huge plan only the nearest is looked at.
pub fn done_before(plan: &impl Plan, of: u32) -> Before {
    let mut found = Before::default();
    let mut level = vec![of];
    while !level.is_empty() && found.count < BEFORE_MAX {
        let mut next = Vec::new();
        for needs in level.iter().filter_map(|index| plan.needs(*index)) {
            // A place that the plan does not have gets no bit: it could be any number.
            next.extend(needs.iter().filter(|index| plan.needs(**index).is_some() && found.insert(**index)));
        }
        if found.count > BEFORE_MAX {
            next.sort_unstable();
            let over = next.split_off(next.len() - (found.count - BEFORE_MAX));
            for index in over {
                found.remove(index);
            }
        }
        level = next;
    }
    found
}

/// The first sentence that is no heading and no fence.
fn first_sentence(text: &str) -> String {
    let is_said = |line: &&str| line.contains(char::is_alphanumeric) && !line.starts_with(['#', '`']);
    let first = text.lines().map(str::trim).take(LINES_MAX).find(is_said).unwrap_or_default();
    let end = [". ", "! ", "? "].iter().filter_map(|it| first.find(it)).min().map_or(first.len(), |at| at + 1);
    line(&first[..end], LINE_TOKENS)
}

/// At most so many tokens of a text, as one line.
fn line(text: &str, tokens_max: u32) -> String {
    let is_bad = |it: char| it.is_control() || matches!(it, '\u{2028}' | '\u{2029}');
    let line = trim_to(text.trim(), tokens_max).replace(is_bad, " ");
    trim_to(line.trim(), tokens_max).to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Task {
        key: String,
        text: String,
        parent: Option<u32>,
        needs: Vec<u32>,
        is_cancelled: bool,
    }

    impl Plan for Vec<Task> {
        fn place(&self, index: u32) -> Option<Place<'_>> {
            self.get(index as usize).map(|task| Place {
                key: &task.key,
                title: &task.text,
                description: &task.text,
                criteria: &[],
                parent: task.parent,
                needs: &task.needs,
                refers: &[],
                result: Some("# Heading\n\n```\ncode\n```"),
                is_cancelled: task.is_cancelled,
            })
        }

        fn needs(&self, index: u32) -> Option<&[u32]> {
            self.get(index as usize).map(|task| &*task.needs)
        }
    }

    fn task(key: &str, parent: Option<u32>, needs: &[u32]) -> Task {
        let text = format!("Do {key}");
        Task { key: key.into(), text, parent, needs: needs.to_vec(), is_cancelled: false }
    }

    #[test]
    fn a_task_is_told_what_is_above_and_beside_it() {
        let mut plan = vec![
            task("a", None, &[]),
            task("b", None, &[0]),
            task("c", None, &[1]),
            task("d", None, &[2]),
            task("e", None, &[]),
            task("f", None, &[]),
            task("g", Some(5), &[]),
            task("h", Some(6), &[]),
        ];
        let items = neighbours(&plan, 2);
        let [item] = items.as_slice() else { panic!("{items:?}") };
        // What it requires is given as a whole.
        assert_eq!(
            &*item.text.body,
            "- `a` Do a (done): code\n- `d` Do d (waits for this task)\n- `e` Do e (independent)\n- `f` Do f (independent)\n"
        );
        let sources: Vec<String> = neighbours(&plan, 7).iter().map(|item| item.source.to_string()).collect();
        assert_eq!(sources, ["plan:g", "plan:f"]);
        assert_eq!(quoted(&plan, 2), [0]);
        assert!(above_hash(&plan, 7).is_some() && above_hash(&plan, 2).is_none());
        assert_ne!(above_hash(&plan, 7), above_hash(&plan, 6));
        plan[0].is_cancelled = true;
        assert!(!neighbours(&plan, 2)[0].text.body.contains("`a`"));
    }

    #[test]
    fn of_a_huge_plan_the_nearest_are_done_before() {
        // Each needs the two before it and one that no plan has; the last one needs thousands at once.
        let mut plan: Vec<Task> = (0..3_000_u32)
            .map(|it| task(&format!("t{it}"), None, &[it.saturating_sub(1), it.saturating_sub(2), u32::MAX]))
            .collect();
        let done = done_before(&plan, 2_000);
        assert!(done.iter().eq(976..2_000), "{done:?}");
        assert!(done_before(&plan, 3).iter().eq(0..3));
        plan.push(task("last", None, &(0..3_000).collect::<Vec<u32>>()));
        let done = done_before(&plan, 3_000);
        assert!(done.iter().eq(0..1_024), "{done:?}");
        assert!(!done.contains(3_000) && !done.contains(u32::MAX));
    }

    #[test]
    fn the_nearest_are_told_of() {
        let plan: Vec<Task> = (0..100).map(|it| task(&format!("t{it}"), None, &[])).collect();
        let body = neighbours(&plan, 50)[0].text.body.to_string();
        assert_eq!(body.lines().count(), BESIDE_MAX);
        assert!(body.starts_with("- `t44`") && body.contains("- `t56`") && !body.contains("`t50`"), "{body}");
        assert_eq!(neighbours(&plan, 0)[0].text.body.lines().count(), BESIDE_MAX);
        assert!(neighbours(&plan, 100).is_empty());
    }

    proptest! {
        #![proptest_config(crate::cases::cases(500))]

        #[test]
        fn any_plan_gives_short_lines(
            texts in prop::collection::vec(crate::context::tests::hostile_text(), 1..30),
            parents in prop::collection::vec(prop::option::of(0_u32..40), 30),
            needs in prop::collection::vec(prop::collection::vec(0_u32..40, 0..4), 30),
            of in 0_u32..30,
        ) {
            // Neither circles nor what does not exist may hurt.
            let plan: Vec<Task> = texts
                .into_iter()
                .zip(parents.into_iter().zip(needs))
                .map(|(text, (parent, needs))| Task { key: text.clone(), text, parent, needs, is_cancelled: false })
                .collect();
            for item in neighbours(&plan, of) {
                prop_assert!(crate::context::estimate_tokens(&item.text.body) <= 1_600);
                if item.kind.as_ref() == "siblings" {
                    prop_assert!(item.text.body.lines().count() <= BESIDE_MAX);
                }
            }
            prop_assert_eq!(neighbours(&plan, of), neighbours(&plan, of));
        }
    }
}
