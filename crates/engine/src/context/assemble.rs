//! Chooses what goes into a bundle: tier by tier, within each by score, whole where it fits.
//!
//! **Invariant:** items are ranked by tier, score, source, kind, title and hash, so their order in the input does not matter.
//! **Invariant:** texts are never hashed here and never copied when they are taken whole.

use std::{cmp::Ordering, sync::Arc};

use super::{
    Bundle, Form, Item, PART_OVERHEAD_TOKENS, Part, Provenance, Tier,
    budget::{estimate_tokens, estimate_within, trim_to},
    render::{FENCE_MIN, fence_len},
    share,
};

/// Tokens of a source, a kind and a title at most; the rest is cut.
const SOURCE_TOKENS_MAX: u32 = 48;
const KIND_TOKENS_MAX: u32 = 16;
const TITLE_TOKENS_MAX: u32 = 40;
/// What the line of a title costs besides the title.
const TITLE_LINE_TOKENS: u32 = 4;

/// An item that is being decided on.
pub(super) struct Entry<'a> {
    pub(super) item: &'a Item,
    pub(super) source: Arc<str>,
    pub(super) kind: Arc<str>,
    pub(super) title: Arc<str>,
    /// Tokens of the part without its text, with the shortest fence.
    pub(super) head: u32,
    /// Tokens of the whole text with what its fence costs more; at least the budget and one when it is larger than that.
    pub(super) demand: u32,
    pub(super) verdict: Verdict,
}

pub(super) enum Verdict {
    Open,
    Whole(&'static str),
    Short { text: Arc<str>, tokens: u32, form: Form, reason: &'static str },
    Out(&'static str),
}

impl Entry<'_> {
    /// Tokens of the part with its whole text.
    pub(super) fn whole(&self) -> u32 {
        self.head.saturating_add(self.demand)
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.verdict, Verdict::Open)
    }
}

/// Makes the bundle. Each tier takes what it needs of the budget before the next; the index leaves at least half of it to the
/// others when not all fits. Within a tier that does not fit, recalled memories are packed by score, and all other items share
/// the budget fairly: none gets more than another that still needs some.
pub fn assemble(items: &[Item], tokens_max: u32) -> Bundle {
    assemble_without(items, &|_| false, tokens_max)
}

/// Like [`assemble`], but leaves out what a person excluded, and says so.
pub fn assemble_without(items: &[Item], is_excluded: &dyn Fn(&Item) -> bool, tokens_max: u32) -> Bundle {
    let mut entries = entries(items, is_excluded, tokens_max);
    choose(&mut entries, tokens_max);
    bundle(&entries)
}

/// What is decided on, in order. Texts of more than `tokens_max` tokens are not looked at further.
pub(super) fn entries<'a>(items: &'a [Item], is_excluded: &dyn Fn(&Item) -> bool, tokens_max: u32) -> Vec<Entry<'a>> {
    let mut entries: Vec<Entry<'_>> = items.iter().map(|it| entry(it, tokens_max)).collect();
    for entry in &mut entries {
        if is_excluded(entry.item) {
            entry.verdict = Verdict::Out("excluded by a person");
        }
    }
    entries.sort_unstable_by(|one, other| rank(one.item, other.item));
    leave_out_repeated(&mut entries);
    entries
}

/// Decides on what is open, so that all together has at most `tokens_max` tokens.
pub(super) fn choose(entries: &mut [Entry<'_>], tokens_max: u32) {
    let open = |entries: &[Entry<'_>]| {
        entries.iter().filter(|it| it.is_open()).fold(0_u32, |sum, it| sum.saturating_add(it.whole()))
    };
    if open(entries) <= tokens_max {
        for entry in entries.iter_mut().filter(|it| it.is_open()) {
            entry.verdict = Verdict::Whole("fits");
        }
        return;
    }
    let mut left = tokens_max;
    let index_max = index_max(entries, tokens_max);
    for tier in entries.chunk_by_mut(|one, other| one.item.tier == other.item.tier) {
        let used = match tier.first().map(|it| it.item.tier) {
            Some(Tier::Retrieved) => share::by_rank(tier, left),
            Some(Tier::Pinned | Tier::Requires | Tier::Refers | Tier::Siblings | Tier::Manual) => {
                share::fairly(tier, left)
            }
            Some(Tier::Index) | None => share::fairly(tier, left.min(index_max)),
        };
        left = left.saturating_sub(used);
    }
}

/// What the index may take: all that pinned items and requirements leave, and at least half.
fn index_max(entries: &[Entry<'_>], tokens_max: u32) -> u32 {
    let mut others = entries.iter().filter(|it| it.is_open() && it.item.tier != Tier::Index).peekable();
    if others.peek().is_none() {
        return tokens_max;
    }
    let needed =
        others.filter(|it| it.item.tier <= Tier::Requires).fold(0_u32, |sum, it| sum.saturating_add(it.whole()));
    tokens_max.saturating_sub(needed).max(tokens_max / 2)
}

fn entry(item: &Item, tokens_max: u32) -> Entry<'_> {
    let (source, source_tokens) = one_line(&item.source, SOURCE_TOKENS_MAX);
    let (kind, kind_tokens) = one_line(&item.kind, KIND_TOKENS_MAX);
    let (title, title_tokens) = one_line(&item.title, TITLE_TOKENS_MAX);
    let title_line = if title.is_empty() { 0 } else { TITLE_LINE_TOKENS + title_tokens };
    let head = PART_OVERHEAD_TOKENS - TITLE_LINE_TOKENS + title_line + source_tokens + kind_tokens;
    let body = &item.text.body;
    let is_blank = body.trim().is_empty();
    let tokens = estimate_within(body, tokens_max);
    // The fence of a text that does not fit anyway is not looked at.
    let fence = if tokens > tokens_max { FENCE_MIN } else { fence_len(body) };
    let demand = tokens.saturating_add((fence - FENCE_MIN).saturating_mul(2));
    let verdict = if is_blank { Verdict::Out("empty") } else { Verdict::Open };
    Entry { item, source, kind, title, head, demand, verdict }
}

/// The text as one line of at most so many tokens, and its tokens. Shares the text when it is that already.
fn one_line(text: &Arc<str>, tokens_max: u32) -> (Arc<str>, u32) {
    let is_bad = |it: char| it.is_control() || matches!(it, '\u{2028}' | '\u{2029}');
    let is_plain = text.bytes().all(|it| (0x20..0x7F).contains(&it)) || !text.contains(is_bad);
    let tokens = estimate_within(text, tokens_max);
    if is_plain && tokens <= tokens_max && text.trim().len() == text.len() {
        return (Arc::clone(text), tokens);
    }
    // Cut first, so that the work is bounded.
    let line = trim_to(text.trim_start(), tokens_max).replace(is_bad, " ");
    let line = trim_to(line.trim(), tokens_max);
    (line.into(), estimate_tokens(line))
}

fn score(item: &Item) -> f32 {
    // Adding zero makes one zero of two.
    if item.score.is_finite() { item.score + 0.0 } else { 0.0 }
}

fn rank(one: &Item, other: &Item) -> Ordering {
    one.tier
        .cmp(&other.tier)
        .then_with(|| score(other).total_cmp(&score(one)))
        .then_with(|| one.source.cmp(&other.source))
        .then_with(|| one.kind.cmp(&other.kind))
        .then_with(|| one.title.cmp(&other.title))
        .then_with(|| one.text.hash.cmp(&other.text.hash))
}

/// The same text from the same source is needed once; a memory whose text is in a higher tier, from whatever source, is not
/// needed at all.
fn leave_out_repeated(entries: &mut [Entry<'_>]) {
    let mut order: Vec<usize> = (0..entries.len()).filter(|it| entries[*it].is_open()).collect();
    let hash = |it: usize| entries[it].item.text.hash;
    order.sort_unstable_by(|one, other| {
        hash(*one)
            .cmp(&hash(*other))
            .then_with(|| entries[*one].item.source.cmp(&entries[*other].item.source))
            .then(one.cmp(other))
    });
    let mut repeated = Vec::new();
    for group in order.chunk_by(|one, other| hash(*one) == hash(*other)).filter(|it| it.len() > 1) {
        let first = group.iter().copied().min().unwrap_or_default();
        let mut source = None;
        for &index in group {
            let item = entries[index].item;
            let is_same = source == Some(&item.source);
            if is_same || item.tier == Tier::Retrieved && index != first {
                repeated.push(index);
            }
            source = Some(&item.source);
        }
    }
    for index in repeated {
        entries[index].verdict = Verdict::Out("the same text is in already");
    }
}

/// The bundle as it was decided.
pub(super) fn bundle(entries: &[Entry<'_>]) -> Bundle {
    let mut bundle =
        Bundle { parts: Vec::with_capacity(entries.len()), tokens: 0, provenance: Vec::with_capacity(entries.len()) };
    for entry in entries {
        let (item, whole) = (entry.item, entry.whole());
        let (text, tokens, form, reason) = match &entry.verdict {
            Verdict::Whole(reason) => (Some(&item.text.body), whole, Form::Whole, *reason),
            Verdict::Short { text, tokens, form, reason } => (Some(text), *tokens, *form, *reason),
            Verdict::Out(reason) => (None, 0, Form::LeftOut, *reason),
            Verdict::Open => (None, 0, Form::LeftOut, "no budget left"),
        };
        bundle.provenance.push(Provenance {
            source: Arc::clone(&item.source),
            kind: Arc::clone(&item.kind),
            tier: item.tier,
            score: score(item),
            tokens,
            form,
            reason: reason.into(),
            title: Arc::clone(&entry.title),
            text: item.text.hash,
        });
        if let Some(text) = text {
            bundle.tokens += tokens;
            bundle.parts.push(Part {
                tier: item.tier,
                source: Arc::clone(&entry.source),
                kind: Arc::clone(&entry.kind),
                title: Arc::clone(&entry.title),
                text: Arc::clone(text),
                tokens,
            });
        }
    }
    bundle
}
