//! The order of the candidates: the base score of vectors and words, and what is known beside them.
//!
//! A short memory says little alone, so its neighbours and its task speak for it; a long one needs nobody. Who said it
//! counts when the question asks for somebody's words. A summary speaks for what it was made from. What a person has
//! marked counts as marked. [`Weights`] says how much of each.
//!
//! **Invariant:** pure; the same candidates give the same order, wherever their similarities come from.
//! **Invariant:** only candidates are ranked, and only candidates speak for others.

use std::{collections::HashMap, sync::Arc};

use crewline_types::{MemoryId, MemoryRecord, TaskId, memory::IMPORTANCE};

use crate::{
    Hit, Weights, Why,
    address::{Address, Party},
    fuse::{Candidate, fuse},
    ranking::{Ranking, Standing},
    tasks::{Tasks, id_in},
    top::Ranked,
};

/// What ranking sees of an index.
pub(crate) struct View<'a> {
    pub(crate) records: &'a [Option<Arc<MemoryRecord>>],
    pub(crate) tokens: &'a [u32],
    pub(crate) slots: &'a HashMap<MemoryId, u32>,
    pub(crate) tasks: &'a Tasks,
    /// The oldest and the newest memory, in microseconds since 1970.
    pub(crate) ages: (i64, i64),
}

/// The best `depth` of `candidates`, which are in the order of their slots.
pub(crate) fn rank(
    view: &View<'_>,
    candidates: &[Candidate],
    address: &Address,
    weights: &Weights,
    depth: usize,
) -> Ranking {
    let base = fuse(candidates, weights.dense);
    let of_slot = |slot: u32| {
        let at = candidates.binary_search_by_key(&slot, |candidate| candidate.slot).ok()?;
        Some(base[at])
    };
    let record = |slot: u32| view.records.get(slot as usize)?.as_ref();
    let mut of_task: HashMap<TaskId, f32> = HashMap::new();
    let mut of_source: HashMap<u32, f32> = HashMap::new();
    for (candidate, score) in candidates.iter().zip(&base) {
        let Some(record) = record(candidate.slot) else { continue };
        if let Some(task) = record.task {
            *of_task.entry(task).or_default() += score;
        }
        for slot in record.source_ids.iter().filter_map(|id| view.slots.get(id)) {
            let best = of_source.entry(*slot).or_default();
            *best = best.max(*score);
        }
    }
    let short = |tokens: f32| ((weights.short_tokens - tokens) / weights.short_tokens).max(0.0);
    let short_slot = |slot: u32| short(view.tokens.get(slot as usize).map_or(0.0, |tokens| *tokens as f32));
    let context = |record: &MemoryRecord, slot: u32| {
        let mut sum = weights.summary * of_source.get(&slot).copied().unwrap_or(0.0);
        let own = short_slot(slot);
        if own > 0.0
            && let Some(place) = view.tasks.place(record, slot, id_in(view.records))
        {
            for (neighbour, weight) in [(place.previous, weights.previous), (place.next, weights.next)] {
                if let Some(slot) = neighbour {
                    sum += weight * own * short_slot(slot) * of_slot(slot).unwrap_or(0.0);
                }
            }
        }
        if let Some(task) = record.task
            && let Some((count, mean)) = view.tasks.size(task)
        {
            sum += weights.task * short(mean) * of_task.get(&task).copied().unwrap_or(0.0) / count as f32;
        }
        sum
    };
    let mut ranked: Vec<(Ranked, Why, f32)> = candidates
        .iter()
        .zip(&base)
        .filter_map(|(candidate, score)| {
            let record = record(candidate.slot)?;
            let why = Why {
                dense: candidate.dense,
                sparse: candidate.sparse,
                agent: of_party(address.party(&record.agent), weights),
                context: context(record, candidate.slot),
                marks: of_marks(record, view.ages, weights),
                rerank: 0.0,
                repeats: 0.0,
            };
            let fit = score + why.agent + why.context;
            let score = (fit + why.marks).max(0.0);
            let created_at = record.created_at.0;
            Some((Ranked { score, created_at, id: record.id, slot: candidate.slot }, why, fit))
        })
        .collect();
    ranked.sort_unstable_by_key(|(ranked, ..)| *ranked);
    let standing = |(ranked, why, fit): (Ranked, Why, f32)| {
        let hit = Hit { record: Arc::clone(record(ranked.slot)?), score: ranked.score, why };
        Some(Standing { hit, fit })
    };
    Ranking::new(ranked.into_iter().take(depth).filter_map(standing).collect())
}

fn of_party(party: Party, weights: &Weights) -> f32 {
    match party {
        Party::Named => weights.named,
        Party::Asker => weights.asker,
        Party::Person => weights.person,
        Party::Answerer => weights.answerer,
        Party::Other => 0.0,
    }
}

fn of_marks(record: &MemoryRecord, (oldest, newest): (i64, i64), weights: &Weights) -> f32 {
    let marks = &record.marks;
    let importance = (f32::from(marks.importance) - f32::from(IMPORTANCE)) / f32::from(IMPORTANCE);
    let span = newest.saturating_sub(oldest);
    let age = if span > 0 { record.created_at.0.saturating_sub(oldest) as f32 / span as f32 } else { 0.0 };
    let when = |is: bool, weight: f32| if is { weight } else { 0.0 };
    weights.importance * importance
        + weights.recency * age
        + when(marks.pinned, weights.pinned)
        + when(marks.superseded_by.is_some(), weights.superseded)
}

#[cfg(test)]
mod tests {
    use crewline_types::{MemoryMarks, ProjectScope};

    use crate::{Embedded, Query, Weights, conformance::record};

    use super::*;

    fn said(agent: &str, text: &str, at: i64) -> MemoryRecord {
        let task = Some("aaaaaaaa".parse().unwrap());
        MemoryRecord { agent: agent.into(), task, ..record("p", text, at) }
    }

    fn order(weights: Weights, records: &[MemoryRecord], question: &str) -> Vec<String> {
        let (store, scope) = (Embedded::with_weights(weights), ProjectScope::of("p"));
        for record in records {
            store.insert(&scope, record.clone()).unwrap();
        }
        let query = Query { text: question.to_owned(), limit: 10, ..Query::default() };
        store.search(&scope, &query).into_iter().map(|hit| hit.record.text.to_string()).collect()
    }

    #[test]
    fn who_said_it_counts_when_the_question_asks_for_it() {
        let records = [said("Anna", "the sunset was red", 1), said("Ben", "the sunset was red, Anna", 2)];
        let weights = Weights { named: 0.3, ..Weights::plain() };
        assert_eq!(order(weights, &records, "sunset Ben")[0], "the sunset was red, Anna");
        assert_eq!(order(weights, &records, "Which sunset did Anna see?")[0], "the sunset was red");
    }

    #[test]
    fn short_neighbours_speak_for_each_other_and_long_ones_do_not() {
        let long = "word ".repeat(200);
        for (filler, first) in [("", "blue"), (long.as_str(), "blue sky blue")] {
            let records = [
                said("a", &format!("which colour did you paint? {filler}"), 1),
                said("b", &format!("blue {filler}"), 2),
                said("a", "I saw other things, blue", 9),
            ];
            let weights = Weights { previous: 0.8, ..Weights::plain() };
            let found = order(weights, &records, "painted colour blue");
            let at = |start: &str| found.iter().position(|text| text.starts_with(start)).unwrap();
            assert_eq!(at("blue") < at("I saw"), first == "blue", "{found:?}");
        }
    }

    #[test]
    fn marks_count() {
        let plain = said("a", "the port is 80", 1);
        let mut old = said("a", "the port is 81", 2);
        let mut pinned = said("a", "the port is 82", 3);
        old.marks.superseded_by = Some(pinned.id);
        pinned.marks = MemoryMarks { pinned: true, ..MemoryMarks::default() };
        let found = order(Weights::plain(), &[plain, old, pinned], "port");
        assert_eq!(found, ["the port is 82", "the port is 80", "the port is 81"]);
    }

    #[test]
    fn what_repeats_ranks_lower() {
        let records = [
            said("a", "the port of the harbour is closed", 1),
            said("a", "The port of the harbour: it is closed.", 2),
            said("a", "a port for parcels on the way to the harbour", 3),
        ];
        let found = order(Weights { repeats: -2.0, ..Weights::plain() }, &records, "port harbour closed");
        assert_eq!(found[1], "a port for parcels on the way to the harbour");
        let found = order(Weights::plain(), &records, "port harbour closed");
        assert_eq!(found[2], "a port for parcels on the way to the harbour");
    }

    #[test]
    fn a_summary_speaks_for_its_sources() {
        let (left, right) = (said("a", "port one", 1), said("a", "port two", 2));
        let mut summary = said("a", "the port of the harbour", 3);
        summary.source_ids = vec![right.id];
        let weights = Weights { summary: 0.3, ..Weights::plain() };
        let found = order(weights, &[left, right, summary], "port");
        let at = |text: &str| found.iter().position(|it| it == text).unwrap();
        assert!(at("port two") < at("port one"), "{found:?}");
    }
}
