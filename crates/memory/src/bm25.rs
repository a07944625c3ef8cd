//! BM25 over an inverted index that grows and shrinks record by record.
//!
//! Scores follow Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), with
//! k1 = 1.2, b = 0.75, the inverse document frequency ln(1 + (N - n + 0.5) / (n + 0.5)) and the measured mean length.
//!
//! **Invariant:** texts are not copied: a term is a keyed 64-bit hash, so hostile texts can not make terms collide.
//! **Invariant:** scores do not depend on the key: terms are summed in the order of the query.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState},
    mem,
};

use crate::{
    postings::{Packed, Posting, Postings},
    segment::Segment,
    text,
};

const K1: f32 = 1.2;
const B: f32 = 0.75;
/// From this many documents on, a term in more than half of them says nothing.
const COMMON_DOCS_MIN: usize = 50;
/// A query's rarest terms that are looked up; the rest of a long text is left out.
const QUERY_TERMS_MAX: usize = 64;
/// Terms from which those found are filed: two megabytes of them.
const FOUND_MAX: usize = 1 << 17;
/// Terms that room is kept for, until the next document.
const FOUND_KEPT: usize = 1 << 10;

/// A hash map key that is a hash already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// The index of one project.
#[derive(Default)]
pub(crate) struct Bm25 {
    /// Term hash to its documents, mostly by ascending slot.
    postings: HashMap<u64, Postings, BuildHasherDefault<Identity>>,
    keys: RandomState,
    documents: usize,
    /// Terms of each document, by slot; it saturates.
    lengths: Vec<u16>,
    /// Terms of all documents.
    length_total: u64,
    hashes: Vec<u64>,
    buffer: String,
    found: Vec<Found>,
}

/// A term in a document that is being added.
struct Found {
    hash: u64,
    slot: u32,
}

/// A term of a segment.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct FoundIn {
    hash: u64,
    /// The place of the segment.
    segment: u32,
    /// The place of the term in it.
    at: u32,
}

/// Space for one query, kept between queries.
#[derive(Default)]
pub(crate) struct Scratch {
    /// Scores by slot; zero for all that are not `touched`.
    pub(crate) scores: Vec<f32>,
    /// Slots with a score.
    pub(crate) touched: Vec<u32>,
    buffer: String,
    hashes: Vec<u64>,
    /// Hashes of the query's words that are looked up only if there are no others.
    spare: Vec<u64>,
}

impl Scratch {
    /// Zeroes what the last query touched.
    pub(crate) fn clear(&mut self) {
        for slot in self.touched.drain(..) {
            self.scores[slot as usize] = 0.0;
        }
    }
}

impl Bm25 {
    /// Adds documents, term by term: a list is looked up once for many of them.
    pub(crate) fn add<'a>(&mut self, documents: impl IntoIterator<Item = (u32, &'a str)>) {
        let mut found = mem::take(&mut self.found);
        for (slot, text) in documents {
            let first = found.len();
            text::terms(text, &mut self.buffer, |term| {
                found.push(Found { hash: self.keys.hash_one(term), slot });
            });
            self.count(slot, found.len() - first);
            if found.len() >= FOUND_MAX {
                self.file(&mut found);
            }
        }
        self.file(&mut found);
        found.shrink_to(FOUND_KEPT);
        self.found = found;
    }

    /// Writes what was found into the lists.
    fn file(&mut self, found: &mut Vec<Found>) {
        found.sort_unstable_by_key(|it| (it.hash, it.slot));
        for of_term in found.chunk_by(|left, right| left.hash == right.hash) {
            let mut postings = of_term
                .chunk_by(|left, right| left.slot == right.slot)
                .map(|same| Posting { slot: same[0].slot, frequency: u16::try_from(same.len()).unwrap_or(u16::MAX) });
            let list = match self.postings.entry(of_term[0].hash) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => match postings.next() {
                    Some(first) => entry.insert(Postings::new(first)),
                    None => continue,
                },
            };
            for posting in postings {
                list.push(posting);
            }
        }
        found.clear();
    }

    fn count(&mut self, slot: u32, terms: usize) {
        let at = slot as usize;
        if self.lengths.len() <= at {
            self.lengths.resize(at + 1, 0);
        }
        self.lengths[at] = u16::try_from(terms).unwrap_or(u16::MAX);
        self.documents += 1;
        self.length_total += terms as u64;
    }

    /// Adds the documents of segments, each under the slot that stands at its place; those without one are left out. The lists
    /// of all segments are put together term by term, so that each is written once and takes no more room than it needs.
    pub(crate) fn add_segments(&mut self, segments: &[(&Segment<'_>, Vec<Option<u32>>)]) {
        let mut found = Vec::new();
        for (number, (segment, slots)) in (0..).zip(segments) {
            for (document, slot) in segment.documents().iter().zip(slots) {
                if let Some(slot) = slot {
                    self.count(*slot, document.length as usize);
                }
            }
            segment.terms(|term, at| {
                // A segment of more than four gigabytes is not kept.
                let at = u32::try_from(at).unwrap_or(u32::MAX);
                found.push(FoundIn { hash: self.keys.hash_one(term), segment: number, at });
            });
        }
        found.sort_unstable();
        let of_terms = || found.chunk_by(|left, right| left.hash == right.hash);
        let is_new = |of_term: &&[FoundIn]| !self.postings.contains_key(&of_term[0].hash);
        let new = of_terms().filter(is_new).count();
        self.postings.reserve(new);
        let mut packed = Packed::default();
        for of_term in of_terms() {
            packed.clear();
            for FoundIn { segment, at, .. } in of_term {
                let (segment, slots) = &segments[*segment as usize];
                for it in segment.occurrences(*at as usize) {
                    if let Some(slot) = slots.get(it.document as usize).copied().flatten() {
                        packed.push(Posting { slot, frequency: it.frequency });
                    }
                }
            }
            match self.postings.entry(of_term[0].hash) {
                Entry::Occupied(mut entry) => packed.iter().for_each(|posting| entry.get_mut().push(posting)),
                Entry::Vacant(entry) => drop(packed.kept().map(|list| entry.insert(list))),
            }
        }
    }

    /// Takes a document out. `text` must be the text it was added with.
    pub(crate) fn remove(&mut self, slot: u32, text: &str) {
        let mut hashes = self.hash(text);
        hashes.sort_unstable();
        for same in hashes.chunk_by(|left, right| left == right) {
            if let Entry::Occupied(mut entry) = self.postings.entry(same[0]) {
                match entry.get().without(slot) {
                    Some(left) => drop(entry.insert(left)),
                    None => drop(entry.remove()),
                }
            }
        }
        self.documents = self.documents.saturating_sub(1);
        self.length_total = self.length_total.saturating_sub(hashes.len() as u64);
        self.hashes = hashes;
    }

    fn hash(&mut self, text: &str) -> Vec<u64> {
        let mut hashes = mem::take(&mut self.hashes);
        hashes.clear();
        text::terms(text, &mut self.buffer, |term| hashes.push(self.keys.hash_one(term)));
        hashes
    }

    /// Adds up the scores of all documents that hold a term of `query`. `slots` is the number of slots ever given.
    /// Stop words, and the terms of `spare`, count only when the query has no other word that is known.
    pub(crate) fn score(&self, query: &str, spare: &[String], slots: usize, scratch: &mut Scratch) {
        scratch.clear();
        if scratch.scores.len() < slots {
            scratch.scores.resize(slots, 0.0);
        }
        let lists = self.lists(query, spare, scratch);
        if lists.is_empty() {
            return;
        }
        let documents = self.documents as f32;
        let mean = (self.length_total as f32 / documents).max(1.0);
        let (base, slope) = (K1 * (1.0 - B), K1 * B / mean);
        for list in lists {
            let found = list.len() as f32;
            let weight = ((documents - found + 0.5) / (found + 0.5)).ln_1p() * (K1 + 1.0);
            for posting in list.iter() {
                let (at, frequency) = (posting.slot as usize, f32::from(posting.frequency));
                let score = weight * frequency / (frequency + base + slope * f32::from(self.lengths[at]));
                let sum = &mut scratch.scores[at];
                if *sum == 0.0 {
                    scratch.touched.push(posting.slot);
                }
                *sum += score;
            }
        }
    }

    /// The posting lists that count for `query`, in the order of its words.
    fn lists(&self, query: &str, spare: &[String], scratch: &mut Scratch) -> Vec<&Postings> {
        let Scratch { buffer, hashes, spare: spares, .. } = scratch;
        hashes.clear();
        spares.clear();
        text::terms(query, buffer, |term| {
            let hash = self.keys.hash_one(term);
            if text::is_stop(term) || spare.iter().any(|it| it == term) { spares.push(hash) } else { hashes.push(hash) }
        });
        let mut lists = self.known(hashes);
        if lists.is_empty() {
            lists = self.known(spares);
        }
        if self.documents > COMMON_DOCS_MIN && lists.iter().any(|list| list.len() * 2 <= self.documents) {
            lists.retain(|list| list.len() * 2 <= self.documents);
        }
        if lists.len() > QUERY_TERMS_MAX {
            lists.sort_by_key(|list| list.len());
            lists.truncate(QUERY_TERMS_MAX);
        }
        lists
    }

    fn known(&self, hashes: &[u64]) -> Vec<&Postings> {
        let mut lists: Vec<&Postings> = Vec::with_capacity(hashes.len().min(2 * QUERY_TERMS_MAX));
        for (at, hash) in hashes.iter().enumerate() {
            if let Some(list) = self.postings.get(hash)
                && !hashes[..at].contains(hash)
            {
                lists.push(list);
            }
        }
        lists
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(index: &Bm25, query: &str, slots: usize) -> Vec<f32> {
        let mut scratch = Scratch::default();
        index.score(query, &[], slots, &mut scratch);
        scratch.scores
    }

    fn index(texts: &[&str]) -> Bm25 {
        let mut index = Bm25::default();
        for (slot, text) in (0..).zip(texts) {
            index.add([(slot, *text)]);
        }
        index
    }

    #[test]
    fn follows_the_formula() {
        let index = index(&["red fox", "red red dog runs", "blue whale"]);
        let found = scores(&index, "red", 3);
        // N = 3, n = 2, mean length 8/3.
        let idf = (1.0_f32 + 1.5 / 2.5).ln();
        let part = |tf: f32, length: f32| idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * length * 3.0 / 8.0));
        for (found, expect) in found.iter().zip([part(1.0, 2.0), part(2.0, 4.0), 0.0]) {
            assert!((found - expect).abs() < 1e-6, "{found} {expect}");
        }
    }

    #[test]
    fn removing_is_the_inverse_of_adding() {
        let texts = ["red fox", "red red dog runs", "blue whale"];
        let mut grown = index(&texts);
        grown.add([(3, "a red herring and a fox")]);
        grown.remove(3, "a red herring and a fox");
        assert_eq!(scores(&grown, "red fox herring", 4)[..3], scores(&index(&texts), "red fox herring", 3));
        assert_eq!(grown.postings.len(), index(&texts).postings.len());
    }

    #[test]
    fn documents_may_be_added_together_or_one_by_one() {
        let long = "red fox ".repeat(FOUND_MAX);
        let texts = ["red fox and red dog", &long, "", "blue fox", "red"];
        let mut together = Bm25::default();
        together.add((0..).zip(texts));
        let apart = index(&texts);
        for query in ["red", "fox blue", "dog"] {
            assert_eq!(scores(&together, query, texts.len()), scores(&apart, query, texts.len()));
        }
        assert!(together.found.capacity() < FOUND_MAX, "a long document leaves no room behind");
    }

    #[test]
    fn a_segment_adds_what_its_texts_would() {
        let texts = ["red fox and red dog", "", "blue fox", "red", "red dog runs"];
        let segment = Segment::of((10..).zip(texts));
        let mut whole = index(&["red first"]);
        let second = Segment::of([(20, "dog den"), (21, "den")]);
        whole.add_segments(&[
            (&segment, vec![Some(1), Some(2), Some(3), Some(4), Some(5)]),
            (&second, vec![Some(6), Some(7)]),
        ]);
        let apart = index(&["red first", texts[0], texts[1], texts[2], texts[3], texts[4], "dog den", "den"]);
        // Two of them are gone since.
        let mut part = Bm25::default();
        part.add_segments(&[(&segment, vec![None, Some(0), Some(1), None, Some(2)])]);
        let rest = index(&[texts[1], texts[2], texts[4]]);
        for query in ["red", "fox blue", "dog", "runs", "den"] {
            assert_eq!(scores(&whole, query, 8), scores(&apart, query, 8), "{query}");
            assert_eq!(scores(&part, query, 3), scores(&rest, query, 3), "{query}");
        }
        assert_eq!((part.postings.len(), part.documents), (rest.postings.len(), rest.documents));
        part.remove(2, texts[4]);
        assert_eq!(scores(&part, "red dog runs fox", 2), scores(&index(&texts[1..3]), "red dog runs fox", 2));
    }

    #[test]
    fn common_words_are_skipped_unless_there_is_nothing_else() {
        let texts: Vec<String> = (0..60).map(|n| format!("blue word number{n}")).collect();
        let index = index(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        let mut scratch = Scratch::default();
        index.score("blue number7", &[], 60, &mut scratch);
        assert_eq!(scratch.touched, [7]);
        index.score("blue word", &[], 60, &mut scratch);
        assert_eq!(scratch.touched.len(), 60);
        index.score("blue nowhere", &[], 60, &mut scratch);
        assert_eq!(scratch.touched.len(), 60);
    }

    #[test]
    fn a_long_query_is_cut_to_its_rarest_words() {
        let many = (0..200).map(|n| format!("w{n}")).collect::<Vec<_>>().join(" ");
        let index = index(&[&many, "w0 w1", "rare w0"]);
        let mut scratch = Scratch::default();
        index.score(&format!("{many} rare"), &[], 3, &mut scratch);
        assert!(scratch.scores[0] > 0.0);
        assert_eq!(index.lists(&many, &[], &mut scratch).len(), QUERY_TERMS_MAX);
    }

    #[test]
    fn stop_words_and_spare_words_count_only_alone() {
        let index = index(&["where was the fox", "anna was here", "fox den"]);
        assert_eq!(scores(&index, "where was the fox", 3), scores(&index, "fox", 3));
        assert!(scores(&index, "where was", 3)[0] > 0.0);
        let mut scratch = Scratch::default();
        index.score("anna fox", &["anna".to_owned()], 3, &mut scratch);
        assert!(scratch.scores[1] <= 0.0);
        index.score("anna", &["anna".to_owned()], 3, &mut scratch);
        assert!(scratch.scores[1] > 0.0);
    }

    #[test]
    fn repeated_words_of_a_query_count_once() {
        let index = index(&["red fox", "blue whale"]);
        assert_eq!(scores(&index, "fox fox foxes", 2), scores(&index, "fox", 2));
    }
}
