//! Fits a bundle to a budget that the model's own tokenizer counts.
//!
//! The estimate decides what goes in and where texts are cut, since it is cheap; the tokenizer says how much that is in truth.
//! What the estimate may spend is moved until the truth is a little below the budget.
//!
//! **Invariant:** only what may get in is counted: the candidates beyond it are estimated, once.

use super::{
    Bundle, Form, Item,
    assemble::{Entry, Verdict, bundle, choose, entries},
    budget::estimate_tokens,
    render::{render, render_part},
};

/// What the estimate may spend at most, in budgets: texts that the tokenizer finds shorter still do not fill theirs.
const ASKED_MAX: u32 = 4;
/// Tries to come closer; each counts what is in.
const ROUNDS: u32 = 5;
/// A bundle that leaves no more than this part of its budget is full.
const SLACK: u32 = 12;
/// The part of the budget that is kept free, so that the next try fits.
const MARGIN: u64 = 24;
/// The part of the budget that the first try leaves besides.
const GUESS: u32 = 24;
/// Items that tell before the first try how far the estimate is off, and bytes of each.
const SAMPLES: usize = 24;
const SAMPLE_BYTES: usize = 256;

/// A model's own tokenizer. It is asked for the same texts again, so it should remember them.
#[derive(Clone, Copy)]
pub struct Counter<'a> {
    /// Tokens of a text.
    pub count: &'a dyn Fn(&str) -> u32,
    /// Whether parts, as [`render`] writes them, count together what they count alone.
    pub adds_up: bool,
}

/// Like [`super::assemble_without`], with a budget in tokens of `counter`: what [`render`] writes never has more of them.
pub fn fit(items: &[Item], is_excluded: &dyn Fn(&Item) -> bool, tokens_max: u32, counter: Counter<'_>) -> Bundle {
    let asked_max = tokens_max.saturating_mul(ASKED_MAX);
    let mut entries = entries(items, is_excluded, asked_max);
    let open: Vec<usize> = (0..entries.len()).filter(|it| entries[*it].is_open()).collect();
    let decide = |entries: &mut [Entry<'_>], asked: u32| {
        for index in &open {
            entries[*index].verdict = Verdict::Open;
        }
        choose(entries, asked);
    };
    // What was asked for: the most that fits, and the least that does not.
    let (mut fits, mut fails) = (0_u32, asked_max.saturating_add(1));
    let all = open.iter().fold(0_u32, |sum, it| sum.saturating_add(entries[*it].whole()));
    let mut asked = tokens_max;
    if all > tokens_max {
        // What comes too late to get in has no say.
        let mut before = 0_u32;
        let first = open.iter().take_while(|it| {
            let is_early = before < tokens_max.saturating_mul(2);
            before = before.saturating_add(entries[**it].whole());
            is_early
        });
        let first = first.count();
        let (estimated, counted) = sample(&entries, &open[..first], counter);
        // What goes in is shorter than the samples, and the lines around it weigh more.
        let aim = tokens_max - tokens_max / GUESS;
        asked = scaled(aim, estimated, counted).clamp(tokens_max.min(1), asked_max);
    }
    for round in 1.. {
        decide(&mut entries, asked);
        let tokens = tokens_of(&entries, counter);
        if tokens <= tokens_max {
            fits = asked;
            if is_all_in(&entries) || tokens >= tokens_max - tokens_max / SLACK {
                break;
            }
        } else {
            fails = asked;
        }
        let is_found = fits > 0 || tokens_max == 0;
        if is_found && round >= ROUNDS || fails - fits <= 1 {
            break;
        }
        let scaled = scaled(tokens_max, asked, tokens);
        let middle = fits + (fails - fits) / 2;
        // After that it is halved, so that it ends.
        asked = if scaled > fits && scaled < fails && round < ROUNDS { scaled } else { middle };
    }
    if asked != fits {
        decide(&mut entries, fits);
    }
    counted(bundle(&entries), counter)
}

/// What the estimate may spend for a budget, a little less, when it said `estimated` of what counts `counted`.
fn scaled(tokens_max: u32, estimated: u32, counted: u32) -> u32 {
    let scaled = u64::from(tokens_max) * u64::from(estimated) / u64::from(counted.max(1)) * (MARGIN - 1) / MARGIN;
    u32::try_from(scaled).unwrap_or(u32::MAX)
}

/// Tokens of the beginnings of some items, estimated and counted.
fn sample(entries: &[Entry<'_>], from: &[usize], counter: Counter<'_>) -> (u32, u32) {
    let (mut text, mut estimated, mut counted) = (String::new(), 0_u32, 0_u32);
    for index in from.iter().step_by(from.len().div_ceil(SAMPLES).max(1)) {
        let entry = &entries[*index];
        let body = &entry.item.text.body;
        text.clear();
        let beginning = &body[..body.floor_char_boundary(SAMPLE_BYTES)];
        render_part(&mut text, &entry.source, &entry.kind, &entry.title, beginning);
        estimated = estimated.saturating_add(estimate_tokens(&text));
        counted = counted.saturating_add((counter.count)(&text));
    }
    (estimated, counted)
}

/// The bundle with the tokens that `counter` counts.
pub fn counted(mut bundle: Bundle, counter: Counter<'_>) -> Bundle {
    let mut sum = 0_u32;
    let mut of_items = bundle.provenance.iter_mut().filter(|it| it.form != Form::LeftOut);
    let mut text = String::new();
    for part in &mut bundle.parts {
        text.clear();
        render_part(&mut text, &part.source, &part.kind, &part.title, &part.text);
        part.tokens = (counter.count)(&text);
        sum = sum.saturating_add(part.tokens);
        if let Some(item) = of_items.next() {
            item.tokens = part.tokens;
        }
    }
    bundle.tokens = if counter.adds_up || bundle.parts.is_empty() { sum } else { (counter.count)(&render(&bundle)) };
    bundle
}

/// Tokens of what is in.
fn tokens_of(entries: &[Entry<'_>], counter: Counter<'_>) -> u32 {
    let (mut text, mut sum) = (String::new(), 0_u32);
    for entry in entries {
        let body = match &entry.verdict {
            Verdict::Whole(_) => &entry.item.text.body,
            Verdict::Short { text, .. } => text,
            Verdict::Open | Verdict::Out(_) => continue,
        };
        if counter.adds_up {
            text.clear();
        }
        render_part(&mut text, &entry.source, &entry.kind, &entry.title, body);
        if counter.adds_up {
            sum = sum.saturating_add((counter.count)(&text));
        }
    }
    if counter.adds_up || text.is_empty() { sum } else { (counter.count)(&text) }
}

fn is_all_in(entries: &[Entry<'_>]) -> bool {
    entries.iter().all(|it| matches!(it.verdict, Verdict::Whole(_) | Verdict::Out(_)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::context::{Tier, tests::hostile_item};

    /// Tokenizers that are far from the estimate, to either side, and one that does not add up.
    fn count(kind: u8, text: &str) -> u32 {
        let tokens = match kind {
            0 => text.len(),
            1 => text.len() / 9,
            2 => 2 * text.chars().count() + text.matches('\n').count(),
            _ => text.len().pow(2) / 400,
        };
        u32::try_from(tokens).unwrap()
    }

    fn item(source: &str, score: f32, text: &str) -> Item {
        let (kind, title) = ("result".into(), "".into());
        Item { tier: Tier::Requires, source: source.into(), kind, title, text: text.into(), score }
    }

    proptest! {
        #![proptest_config(crate::cases::cases(2_000))]

        #[test]
        fn a_fitted_bundle_never_exceeds_its_budget(
            items in proptest::collection::vec(hostile_item(), 0..12),
            tokens_max in prop_oneof![0_u32..100, 100_u32..3_000],
            kind in 0_u8..4,
        ) {
            let count = |text: &str| count(kind, text);
            let counter = Counter { count: &count, adds_up: false };
            let bundle = fit(&items, &|_| false, tokens_max, counter);
            let text = render(&bundle);
            prop_assert!(count(&text) <= tokens_max, "{} > {}", count(&text), tokens_max);
            prop_assert_eq!(bundle.tokens, count(&text));
            prop_assert_eq!(bundle.provenance.len(), items.len());
            let left_out = bundle.provenance.iter().filter(|it| it.form == Form::LeftOut).count();
            prop_assert_eq!(left_out + bundle.parts.len(), items.len());
            let mut turned = items.clone();
            turned.reverse();
            prop_assert_eq!(render(&fit(&turned, &|_| false, tokens_max, counter)), text);
        }
    }

    #[test]
    fn what_the_tokenizer_finds_short_fills_the_budget() {
        let texts: Vec<String> = (0..40_u8).map(|it| format!("{} ", char::from(b'a' + it % 26)).repeat(300)).collect();
        let items: Vec<Item> =
            texts.iter().enumerate().map(|(at, text)| item(&format!("task:{at}"), at as f32, text)).collect();
        let budget = 2_000;
        for (kind, adds_up) in [(0, false), (1, false), (2, false), (0, true), (2, true)] {
            let count = |text: &str| count(kind, text);
            let bundle = fit(&items, &|_| false, budget, Counter { count: &count, adds_up });
            assert!(bundle.tokens <= budget && bundle.tokens > budget * 4 / 5, "{kind}: {}", bundle.tokens);
            assert_eq!(bundle.tokens, count(&render(&bundle)), "{kind}");
        }
    }

    #[test]
    fn what_all_fits_is_counted_and_whole() {
        let count = |text: &str| count(1, text);
        let counter = Counter { count: &count, adds_up: false };
        let items = [item("task:a", 1.0, &"word ".repeat(400)), item("task:b", 0.5, "short")];
        let bundle = fit(&items, &|_| false, 300, counter);
        assert!(bundle.provenance.iter().all(|it| it.form == Form::Whole), "{:?}", bundle.provenance);
        assert!(estimate_tokens(&render(&bundle)) > 300, "the estimate alone would have cut it");
        let estimated = crate::context::assemble(&items, 10_000);
        assert_eq!(counted(estimated, counter), bundle);
    }

    #[test]
    fn what_comes_too_late_to_get_in_has_no_say() {
        let count = |text: &str| count(0, text);
        let counter = Counter { count: &count, adds_up: true };
        let mut items = vec![item("task:a", 1.0, &"Some sentence of it. ".repeat(900))];
        let alone = render(&fit(&items, &|_| false, 500, counter));
        assert!(alone.contains("task:a"));
        items.push(Item { tier: Tier::Retrieved, ..item("memory:b", 1.0, &"中文 ".repeat(200)) });
        assert_eq!(render(&fit(&items, &|_| false, 500, counter)), alone);
    }
}
