//! The index of one project: records, words and vectors, by slot.
//!
//! **Invariant:** slots grow; a slot of a forgotten record is never given again until the index is compacted.
//! **Invariant:** records are shared, texts are not copied.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use crewline_types::{MemoryId, MemoryMarks, MemoryRecord};

use crate::{
    Error, Filter, Query, Weights,
    address::Address,
    bm25::{Bm25, Scratch},
    chunk::estimate_tokens,
    dense::{self, Dense},
    fuse::Candidate,
    junk::{self, Rules},
    planes::Probe,
    rank::{View, rank},
    ranking::Ranking,
    store::Rule,
    tasks::{Tasks, id_in},
    top::{Ranked, Top},
};

/// Candidates that each side puts forward, when there are two.
pub(crate) const CANDIDATES: usize = 200;
/// Memories that are compared word by word with a new one.
const TWINS: usize = 8;
/// Empty slots from which compaction is worth it.
const EMPTY_MAX: usize = 1_024;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What happened to memories that may be on their way here.
#[derive(Default)]
pub(crate) struct Meanwhile {
    gone: Vec<MemoryId>,
    marks: HashMap<MemoryId, MemoryMarks>,
    vectors: HashMap<MemoryId, Vec<f32>>,
}

/// The index of one project.
#[derive(Default)]
pub(crate) struct Project {
    name: Arc<str>,
    records: Vec<Option<Arc<MemoryRecord>>>,
    /// Tokens of each record, by slot.
    tokens: Vec<u32>,
    slots: HashMap<MemoryId, u32>,
    /// Who has spoken, and how often.
    agents: HashMap<Arc<str>, usize>,
    pub(crate) tasks: Tasks,
    /// The oldest and the newest memory there ever was here.
    ages: Option<(i64, i64)>,
    pub(crate) words: Bm25,
    pub(crate) vectors: Dense,
    pub(crate) is_loaded: bool,
    /// What is missed by whoever reads it from the database at this time.
    pub(crate) meanwhile: Option<Meanwhile>,
    /// Known to the database, and not to be found: older versions.
    left_out: HashSet<MemoryId>,
}

impl Project {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Memories.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// A rough number of microseconds that a query takes.
    pub(crate) fn query_micros(&self) -> usize {
        100 + self.records.len() / 40 + self.vectors.len() * self.vectors.dimensions() / 4_000
    }

    pub(crate) fn get(&self, id: MemoryId) -> Option<&Arc<MemoryRecord>> {
        self.record(*self.slots.get(&id)?)
    }

    pub(crate) fn text(&self, slot: u32) -> Option<&str> {
        self.record(slot).map(|record| &*record.text)
    }

    /// Whether it is here, or is not to be found.
    pub(crate) fn knows(&self, id: MemoryId) -> bool {
        self.slots.contains_key(&id) || self.left_out.contains(&id)
    }

    pub(crate) fn leave_out(&mut self, ids: &[MemoryId]) {
        self.left_out.extend(ids);
    }

    /// Adds a record; false when it is there already.
    pub(crate) fn insert(&mut self, record: Arc<MemoryRecord>) -> bool {
        let Some(slot) = self.place(record) else { return false };
        self.index_words([slot]);
        true
    }

    /// Gives a record a slot; none when it is there already.
    pub(crate) fn place(&mut self, record: Arc<MemoryRecord>) -> Option<u32> {
        // A project of four thousand million memories is out of reach of an index in memory.
        let slot = u32::try_from(self.records.len()).unwrap_or(u32::MAX);
        match self.slots.entry(record.id) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(entry) => entry.insert(slot),
        };
        let record = self.sharing(record);
        let tokens = u32::try_from(estimate_tokens(&record.text)).unwrap_or(u32::MAX);
        self.tasks.add(&record, slot, tokens, id_in(&self.records));
        *self.agents.entry(Arc::clone(&record.agent)).or_default() += 1;
        let at = record.created_at.0;
        self.ages = Some(self.ages.map_or((at, at), |(oldest, newest)| (oldest.min(at), newest.max(at))));
        self.tokens.push(tokens);
        self.records.push(Some(record));
        Some(slot)
    }

    /// Adds the words of records that have a slot.
    pub(crate) fn index_words(&mut self, slots: impl IntoIterator<Item = u32>) {
        let records = &self.records;
        let text = |slot: u32| Some((slot, &*records.get(slot as usize)?.as_ref()?.text));
        self.words.add(slots.into_iter().filter_map(text));
    }

    /// The record with the names that others have as well: each was read by itself.
    fn sharing(&self, mut record: Arc<MemoryRecord>) -> Arc<MemoryRecord> {
        if let Some(own) = Arc::get_mut(&mut record) {
            if own.project == self.name {
                own.project = Arc::clone(&self.name);
            }
            if let Some((agent, _)) = self.agents.get_key_value(&own.agent) {
                own.agent = Arc::clone(agent);
            }
        }
        record
    }

    /// Sets the marks of a record; false when there is no such record.
    pub(crate) fn mark(&mut self, id: MemoryId, marks: MemoryMarks) -> bool {
        if let Some(meanwhile) = &mut self.meanwhile {
            meanwhile.marks.insert(id, marks.clone());
        }
        let Some(record) = self.slots.get(&id).and_then(|slot| self.records.get_mut(*slot as usize)?.as_mut()) else {
            return false;
        };
        Arc::make_mut(record).marks = marks;
        true
    }

    /// Sets the vector of a record; false when there is no such record.
    pub(crate) fn set_vector(&mut self, id: MemoryId, vector: Vec<f32>) -> Result<bool, Error> {
        let Some(&slot) = self.slots.get(&id) else {
            if let Some(meanwhile) = &mut self.meanwhile {
                meanwhile.vectors.insert(id, vector);
            }
            return Ok(false);
        };
        self.check_dimensions(vector.len())?;
        let unit = dense::unit(vector).ok_or(Error::Vector { id })?;
        self.vectors.set(slot, &unit);
        Ok(true)
    }

    /// Refuses vectors of another model.
    pub(crate) fn check_dimensions(&self, dimensions: usize) -> Result<(), Error> {
        if self.vectors.fits(dimensions) {
            return Ok(());
        }
        Err(Error::Mismatch {
            collection: self.name.to_string(),
            found: format!("vectors of {} dimensions", self.vectors.dimensions()),
            wanted: format!("{dimensions}"),
        })
    }

    pub(crate) fn remove(&mut self, id: MemoryId) -> bool {
        if let Some(meanwhile) = &mut self.meanwhile {
            meanwhile.gone.push(id);
            meanwhile.marks.remove(&id);
            meanwhile.vectors.remove(&id);
        }
        let Some(slot) = self.slots.remove(&id) else { return false };
        if let Some(record) = self.records[slot as usize].take() {
            self.words.remove(slot, &record.text);
            self.tasks.remove(&record, slot, self.tokens[slot as usize], id_in(&self.records));
            if let Some(count) = self.agents.get_mut(&record.agent) {
                *count -= 1;
                if *count == 0 {
                    self.agents.remove(&record.agent);
                }
            }
        }
        self.vectors.remove(slot);
        let empty = self.records.len() - self.slots.len();
        if empty > EMPTY_MAX && empty > self.slots.len() {
            self.compact();
        }
        true
    }

    fn compact(&mut self) {
        let old = std::mem::replace(self, Self::new(&self.name));
        (self.is_loaded, self.left_out, self.meanwhile) = (old.is_loaded, old.left_out, old.meanwhile);
        for (slot, record) in (0..).zip(old.records) {
            let Some(record) = record else { continue };
            let new = u32::try_from(self.records.len()).unwrap_or(u32::MAX);
            self.insert(record);
            if let Some(unit) = old.vectors.vector(slot) {
                self.vectors.set(new, &unit);
            }
        }
    }

    /// Takes in what was read of it from the database. What came here since that began is newer. Says how many vectors
    /// did not fit.
    pub(crate) fn join(&mut self, mut read: Self) -> usize {
        let Meanwhile { gone, marks, vectors } = self.meanwhile.take().unwrap_or_default();
        for id in gone {
            read.remove(id);
        }
        read.left_out = std::mem::take(&mut self.left_out);
        read.is_loaded = true;
        let here = std::mem::replace(self, read);
        let mut unfit = 0;
        for (slot, record) in (0..).zip(here.records) {
            let Some(record) = record else { continue };
            let id = record.id;
            self.insert(record);
            if let Some(unit) = here.vectors.vector(slot) {
                unfit += usize::from(self.set_vector(id, unit).is_err());
            }
        }
        for (id, vector) in vectors {
            unfit += usize::from(self.set_vector(id, vector).is_err());
        }
        for (id, marks) in marks {
            self.mark(id, marks);
        }
        unfit
    }

    /// The best memories: as many as the query wants and a reranker reads. `remote` holds the similarities that another
    /// store found, instead of our own vectors.
    pub(crate) fn search(
        &self,
        query: &Query,
        remote: Option<&[(MemoryId, f32)]>,
        weights: &Weights,
        read: usize,
    ) -> Ranking {
        if query.limit == 0 {
            return Ranking::default();
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let rule = Rule::new(&query.filter);
            let address = self.score_words(query, scratch);
            let dense = match remote {
                Some(similar) => Similar::Given(self.known(similar, &rule)),
                None => self.probe_of(query).map_or(Similar::None, Similar::Own),
            };
            let depth = query.limit.max(CANDIDATES);
            let near = self.best_by_vectors(&dense, &rule, depth);
            let mut chosen = self.best_by_words(scratch, &rule, depth);
            chosen.extend(near.iter().map(|(slot, _)| *slot));
            chosen.sort_unstable();
            chosen.dedup();
            let candidates: Vec<Candidate> = chosen
                .into_iter()
                .map(|slot| Candidate {
                    slot,
                    dense: by_slot(&near, slot).or_else(|| self.similarity(&dense, slot)),
                    sparse: Some(scratch.scores[slot as usize]).filter(|score| *score > 0.0),
                })
                .collect();
            let view = View {
                records: &self.records,
                tokens: &self.tokens,
                slots: &self.slots,
                tasks: &self.tasks,
                ages: self.ages.unwrap_or_default(),
            };
            rank(&view, &candidates, &address, weights, Ranking::depth(query.limit, read))
        })
    }

    /// What the words put forward, for a store that knows the vectors.
    pub(crate) fn candidates(&self, query: &Query) -> Vec<MemoryId> {
        SCRATCH.with_borrow_mut(|scratch| {
            self.score_words(query, scratch);
            let slots = self.best_by_words(scratch, &Rule::new(&query.filter), query.limit.max(CANDIDATES));
            slots.into_iter().filter_map(|slot| Some(self.record(slot)?.id)).collect()
        })
    }

    /// A memory of the same type that says the same in nearly the same words.
    pub(crate) fn twin(&self, record: &MemoryRecord, rules: &Rules) -> Option<&Arc<MemoryRecord>> {
        if rules.same_min > 1.0 {
            return None;
        }
        let own = junk::terms_of(&record.text);
        let slots = SCRATCH.with_borrow_mut(|scratch| {
            self.words.score(&record.text, &[], self.records.len(), scratch);
            let mut top = Top::new(TWINS, scratch.touched.len());
            let filter = Filter { kinds: vec![record.kind.clone()], ..Filter::default() };
            let rule = Rule::new(&filter);
            for &slot in &scratch.touched {
                self.offer(&mut top, &rule, slot, scratch.scores[slot as usize]);
            }
            top.into_sorted()
        });
        slots
            .into_iter()
            .filter_map(|ranked| self.record(ranked.slot))
            .find(|other| other.id != record.id && rules.is_same(&own, &junk::terms_of(&other.text)))
    }

    fn score_words(&self, query: &Query, scratch: &mut Scratch) -> Address {
        let address = Address::of(&query.text, self.agents.keys());
        self.words.score(&query.text, &address.names, self.records.len(), scratch);
        address
    }

    fn record(&self, slot: u32) -> Option<&Arc<MemoryRecord>> {
        self.records.get(slot as usize)?.as_ref()
    }

    fn probe_of(&self, query: &Query) -> Option<Probe> {
        let vector = query.vector.as_ref()?;
        if self.vectors.len() == 0 || vector.len() != self.vectors.dimensions() {
            return None;
        }
        dense::unit(vector.clone()).map(Probe::new)
    }

    /// Given similarities by slot, ascending, without what is unknown here or filtered out.
    fn known(&self, similar: &[(MemoryId, f32)], rule: &Rule<'_>) -> Vec<(u32, f32)> {
        let mut known: Vec<(u32, f32)> = similar
            .iter()
            .filter_map(|(id, score)| Some((*self.slots.get(id)?, dense::rounded(*score))))
            .filter(|(slot, _)| self.admits(rule, *slot))
            .collect();
        known.sort_unstable_by_key(|(slot, _)| *slot);
        known.dedup_by_key(|(slot, _)| *slot);
        known
    }

    fn admits(&self, rule: &Rule<'_>, slot: u32) -> bool {
        rule.is_open() || self.record(slot).is_some_and(|record| rule.admits(record))
    }

    fn best_by_words(&self, scratch: &Scratch, rule: &Rule<'_>, depth: usize) -> Vec<u32> {
        let mut top = Top::new(depth, scratch.touched.len());
        for &slot in &scratch.touched {
            self.offer(&mut top, rule, slot, scratch.scores[slot as usize]);
        }
        top.into_sorted().into_iter().map(|ranked| ranked.slot).collect()
    }

    /// Similarities by slot, ascending.
    fn best_by_vectors(&self, dense: &Similar, rule: &Rule<'_>, depth: usize) -> Vec<(u32, f32)> {
        let mut top = Top::new(depth, self.slots.len());
        match dense {
            Similar::None => {}
            Similar::Own(probe) => {
                let admits = |slot| self.admits(rule, slot);
                self.vectors.near(probe, depth, admits, |slot, score| self.offer(&mut top, rule, slot, score));
            }
            Similar::Given(known) => {
                for &(slot, score) in known {
                    self.offer(&mut top, rule, slot, score);
                }
            }
        }
        let mut near: Vec<_> = top.into_sorted().into_iter().map(|ranked| (ranked.slot, ranked.score)).collect();
        near.sort_unstable_by_key(|(slot, _)| *slot);
        near
    }

    /// The score is asked first: most candidates never need their record.
    fn offer(&self, top: &mut Top, rule: &Rule<'_>, slot: u32, score: f32) {
        if !top.may_enter(score) {
            return;
        }
        if let Some(record) = self.record(slot)
            && (rule.is_open() || rule.admits(record))
        {
            top.offer(Ranked { score, created_at: record.created_at.0, id: record.id, slot });
        }
    }

    fn similarity(&self, dense: &Similar, slot: u32) -> Option<f32> {
        match dense {
            Similar::None => None,
            Similar::Own(probe) => self.vectors.similarity(slot, probe),
            Similar::Given(known) => by_slot(known, slot),
        }
    }
}

/// The score of a slot among scores by slot, ascending.
fn by_slot(scores: &[(u32, f32)], slot: u32) -> Option<f32> {
    scores.binary_search_by_key(&slot, |(slot, _)| *slot).ok().map(|at| scores[at].1)
}

/// Where the dense side of a query comes from.
enum Similar {
    None,
    /// The query's vector, compared with our own rows.
    Own(Probe),
    /// By slot, ascending.
    Given(Vec<(u32, f32)>),
}
