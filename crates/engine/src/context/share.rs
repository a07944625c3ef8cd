//! Divides a budget among the items of one tier when not all of them fit whole.
//!
//! **Invariant:** the tokens of the parts that are in never exceed the budget that was given.

use super::{
    Form,
    assemble::{Entry, Verdict},
    budget::{estimate_tokens, trim_to},
    render::{FENCE_MIN, fence_len},
    summarise::summarise,
};

/// Tokens of text below which a part is not worth its heading.
const TEXT_TOKENS_MIN: u32 = 12;
/// Tokens of text below which a recalled memory is not shortened but left out.
const RECALLED_TOKENS_MIN: u32 = 32;

/// Max–min fairness: what is small is whole, and what is large gets an equal share of the rest. When there is not even room
/// for the least of each, the first by rank are in. Returns the tokens used.
pub(super) fn fairly(entries: &mut [Entry<'_>], budget: u32) -> u32 {
    let mut kept: Vec<usize> = Vec::with_capacity(entries.len());
    let (mut least, mut heads) = (0_u32, 0_u32);
    for (index, entry) in entries.iter().enumerate().filter(|(_, it)| it.is_open()) {
        let sum = least.saturating_add(entry.head).saturating_add(entry.demand.min(TEXT_TOKENS_MIN));
        if sum <= budget {
            least = sum;
            heads += entry.head;
            kept.push(index);
        }
    }
    let mut by_demand = kept.clone();
    by_demand.sort_unstable_by_key(|it| (entries[*it].demand, *it));
    let mut left = budget - heads;
    let mut large = by_demand.len();
    for &index in &by_demand {
        let demand = entries[index].demand;
        if u64::from(demand) * large as u64 > u64::from(left) {
            break;
        }
        left -= demand;
        large -= 1;
        entries[index].verdict = Verdict::Whole("fits");
    }
    kept.retain(|it| entries[*it].is_open());
    for &index in &kept {
        let entry = &mut entries[index];
        // What one did not use goes to the others.
        let part = left / u32::try_from(large).unwrap_or(u32::MAX).max(1);
        large -= 1;
        if let Some((verdict, used)) = shorten(entry, part, "shortened to a fair share") {
            left -= used;
            entry.verdict = verdict;
        }
    }
    used(entries)
}

/// Packs by rank: what fits is whole, then what did not fit is shortened to what is left. Returns the tokens used.
pub(super) fn by_rank(entries: &mut [Entry<'_>], budget: u32) -> u32 {
    let mut left = budget;
    for entry in entries.iter_mut().filter(|it| it.is_open()) {
        let whole = entry.whole();
        if whole <= left {
            left -= whole;
            entry.verdict = Verdict::Whole("fits");
        }
    }
    for entry in entries.iter_mut().filter(|it| it.is_open()) {
        let Some(room) = left.checked_sub(entry.head).filter(|it| *it >= RECALLED_TOKENS_MIN) else { continue };
        if let Some((verdict, used)) = shorten(entry, room, "shortened to what was left") {
            left -= used + entry.head;
            entry.verdict = verdict;
        }
    }
    used(entries)
}

fn used(entries: &[Entry<'_>]) -> u32 {
    let tokens = |it: &Entry<'_>| match &it.verdict {
        Verdict::Whole(_) => it.whole(),
        Verdict::Short { tokens, .. } => *tokens,
        Verdict::Open | Verdict::Out(_) => 0,
    };
    entries.iter().map(tokens).sum()
}

/// Fits the text of an entry, with its fence, into `room` tokens; gives the tokens used besides the heading.
fn shorten(entry: &Entry<'_>, room: u32, reason: &'static str) -> Option<(Verdict, u32)> {
    const ROUNDS: u32 = 4;
    let body: &str = &entry.item.text.body;
    let mut budget = room;
    // A long fence takes room from the text, and less text may need a shorter fence.
    for _ in 0..ROUNDS {
        let summary = summarise(body, budget);
        let text = summary.trim_matches('\n');
        if text.trim().is_empty() {
            return None;
        }
        let cost = estimate_tokens(text) + (fence_len(text) - FENCE_MIN).saturating_mul(2);
        if cost <= room {
            // A summary that is the beginning of the text is what trimming gives.
            let form = if body.trim_start().starts_with(text) { Form::Trimmed } else { Form::Summary };
            let tokens = entry.head.saturating_add(cost);
            return Some((Verdict::Short { text: text.into(), tokens, form, reason }, cost));
        }
        budget = budget.saturating_sub(cost - room);
    }
    // Nothing but backticks, or nearly so: a third of the room for the text leaves enough for any fence.
    let text = trim_to(body, room / 3);
    let cost = estimate_tokens(text) + (fence_len(text) - FENCE_MIN).saturating_mul(2);
    let tokens = entry.head.saturating_add(cost);
    (cost <= room && !text.trim().is_empty()).then(|| {
        let form = Form::Trimmed;
        (Verdict::Short { text: text.into(), tokens, form, reason }, cost)
    })
}
