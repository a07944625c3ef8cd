//! One collection: its points, and the nearest of them, searched exactly.
//!
//! **Invariant:** sparse scores follow the server: a dot product, each word of the question weighed by the IDF over all
//! points of the collection when the collection says so (`lib/segment/src/data_types/query_context.rs` of Qdrant 1.18).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use qdrant_client::qdrant::{
    CollectionConfig, CollectionInfo, CollectionParams, Filter, Modifier, PayloadSchemaInfo, PointStruct,
    PrefetchQuery, Query, QueryPoints, ScoredPoint, SparseVectorConfig, Value, VectorParams, VectorParamsMap,
    VectorsConfig, query::Variant, vector::Vector, vector_input, vectors::VectorsOptions, vectors_config::Config,
    with_payload_selector::SelectorOptions,
};

use super::{
    answer::{Status, wrong},
    matching::{admits, key},
};

/// The names of the vectors of a point.
const DENSE: &str = "dense";
const WORDS: &str = "text";

/// A collection.
#[derive(Debug, Default)]
pub(super) struct Collection {
    vectors: Option<VectorsConfig>,
    sparse: Option<SparseVectorConfig>,
    indexes: BTreeMap<String, i32>,
    points: BTreeMap<String, Stored>,
}

#[derive(Debug)]
struct Stored {
    point: PointStruct,
    /// Of length one.
    vector: Vec<f32>,
    words: BTreeMap<u32, f32>,
}

/// What a point is compared with.
enum Wanted {
    /// Of length one.
    Dense(Vec<f32>),
    /// Weighed.
    Words(BTreeMap<u32, f32>),
}

impl Collection {
    pub(super) fn new(vectors: Option<VectorsConfig>, sparse: Option<SparseVectorConfig>) -> Self {
        Self { vectors, sparse, ..Self::default() }
    }

    /// One with dense vectors only.
    pub(super) fn of_size(size: u64) -> Self {
        let params = VectorParams { size, distance: 1, ..VectorParams::default() };
        let map = VectorParamsMap { map: HashMap::from([(DENSE.to_owned(), params)]) };
        Self::new(Some(VectorsConfig { config: Some(Config::ParamsMap(map)) }), None)
    }

    pub(super) fn ids(&self) -> Vec<String> {
        self.points.keys().cloned().collect()
    }

    /// Points that can be found by words.
    pub(super) fn worded(&self) -> usize {
        self.points.values().filter(|stored| !stored.words.is_empty()).count()
    }

    pub(super) fn indexed(&self) -> Vec<String> {
        self.indexes.keys().cloned().collect()
    }

    pub(super) fn index(&mut self, field: String, kind: i32) {
        self.indexes.insert(field, kind);
    }

    pub(super) fn delete(&mut self, filter: &Filter) {
        self.points.retain(|_, stored| !admits(filter, &stored.point));
    }

    fn size(&self, name: &str) -> Option<u64> {
        match self.vectors.as_ref()?.config.as_ref()? {
            Config::ParamsMap(named) => Some(named.map.get(name)?.size),
            Config::Params(params) => Some(params.size),
        }
    }

    /// Whether words are weighed by how rare they are; none when the collection has no words.
    fn weighs_words(&self) -> Option<bool> {
        Some(self.sparse.as_ref()?.map.get(WORDS)?.modifier() == Modifier::Idf)
    }

    pub(super) fn info(&self) -> CollectionInfo {
        let params = CollectionParams {
            vectors_config: self.vectors.clone(),
            sparse_vectors_config: self.sparse.clone(),
            ..CollectionParams::default()
        };
        let schema = |kind: &i32| PayloadSchemaInfo { data_type: *kind, ..PayloadSchemaInfo::default() };
        CollectionInfo {
            status: 1,
            config: Some(CollectionConfig { params: Some(params), ..CollectionConfig::default() }),
            payload_schema: self.indexes.iter().map(|(name, kind)| (name.clone(), schema(kind))).collect(),
            points_count: Some(self.points.len() as u64),
            ..CollectionInfo::default()
        }
    }

    pub(super) fn upsert(&mut self, points: Vec<PointStruct>) -> Result<(), Status> {
        for point in points {
            let Some(Vector::Dense(dense)) = vector_of(&point, DENSE) else {
                return Err(wrong("a point has no vector named `dense`"));
            };
            self.fits(dense.data.len())?;
            let vector = unit(&dense.data);
            let words = match vector_of(&point, WORDS) {
                None => BTreeMap::new(),
                Some(_) if self.weighs_words().is_none() => {
                    return Err(wrong("Wrong input: Not existing vector name error: text"));
                }
                Some(Vector::Sparse(sparse)) => words_of(&sparse.indices, &sparse.values)?,
                Some(_) => return Err(wrong("the vector named `text` is not sparse")),
            };
            self.points.insert(key(point.id.as_ref()), Stored { point, vector, words });
        }
        Ok(())
    }

    fn fits(&self, length: usize) -> Result<(), Status> {
        match self.size(DENSE) {
            Some(size) if size == length as u64 => Ok(()),
            size => Err(wrong(&format!("Vector dimension error: expected dim: {size:?}, got {length}"))),
        }
    }

    pub(super) fn query(&self, query: &QueryPoints) -> Result<Vec<ScoredPoint>, Status> {
        let wanted = self.wanted(query.query.as_ref(), query.using.as_deref())?;
        let mut among = None;
        for prefetch in &query.prefetch {
            among.get_or_insert_with(BTreeSet::new).extend(self.prefetched(prefetch)?);
        }
        let with_payload = query
            .with_payload
            .as_ref()
            .is_some_and(|selector| matches!(selector.selector_options, Some(SelectorOptions::Enable(true))));
        let found = self.nearest(&wanted, query.filter.as_ref(), among.as_ref(), query.limit);
        let points = found.into_iter().map(|(score, stored)| ScoredPoint {
            id: stored.point.id.clone(),
            score,
            payload: if with_payload { stored.point.payload.clone() } else { HashMap::<String, Value>::new() },
            ..ScoredPoint::default()
        });
        Ok(points.collect())
    }

    fn prefetched(&self, prefetch: &PrefetchQuery) -> Result<Vec<String>, Status> {
        if !prefetch.prefetch.is_empty() {
            return Err(wrong("a prefetch of a prefetch can not be asked for"));
        }
        let wanted = self.wanted(prefetch.query.as_ref(), prefetch.using.as_deref())?;
        let found = self.nearest(&wanted, prefetch.filter.as_ref(), None, prefetch.limit);
        Ok(found.into_iter().map(|(_, stored)| key(stored.point.id.as_ref())).collect())
    }

    fn wanted(&self, query: Option<&Query>, using: Option<&str>) -> Result<Wanted, Status> {
        let Some(Variant::Nearest(input)) = query.and_then(|query| query.variant.as_ref()) else {
            return Err(wrong("only nearest points can be asked for"));
        };
        match (&input.variant, using) {
            (Some(vector_input::Variant::Dense(dense)), Some(DENSE)) => {
                self.fits(dense.data.len())?;
                Ok(Wanted::Dense(unit(&dense.data)))
            }
            (Some(vector_input::Variant::Sparse(sparse)), Some(WORDS)) => {
                let mut words = words_of(&sparse.indices, &sparse.values)?;
                match self.weighs_words() {
                    None => return Err(wrong("Wrong input: Not existing vector name error: text")),
                    Some(false) => {}
                    Some(true) => self.weigh(&mut words),
                }
                Ok(Wanted::Words(words))
            }
            _ => Err(wrong("only the vectors named `dense` and `text` can be asked for")),
        }
    }

    fn weigh(&self, words: &mut BTreeMap<u32, f32>) {
        let all = self.worded() as f32;
        for (word, weight) in words {
            let having = self.points.values().filter(|stored| stored.words.contains_key(word)).count() as f32;
            *weight *= ((all - having + 0.5) / (having + 0.5)).ln_1p();
        }
    }

    fn nearest(
        &self,
        wanted: &Wanted,
        filter: Option<&Filter>,
        among: Option<&BTreeSet<String>>,
        limit: Option<u64>,
    ) -> Vec<(f32, &Stored)> {
        let mut found: Vec<(f32, &Stored)> = self
            .points
            .iter()
            .filter(|(key, _)| among.is_none_or(|among| among.contains(*key)))
            .filter(|(_, stored)| filter.is_none_or(|filter| admits(filter, &stored.point)))
            .filter_map(|(_, stored)| Some((score(wanted, stored)?, stored)))
            .collect();
        found.sort_by(|left, right| right.0.total_cmp(&left.0));
        found.truncate(usize::try_from(limit.unwrap_or(10)).unwrap_or(usize::MAX));
        found
    }
}

/// None when they have no word in common.
fn score(wanted: &Wanted, stored: &Stored) -> Option<f32> {
    match wanted {
        Wanted::Dense(wanted) => Some(stored.vector.iter().zip(wanted).map(|(left, right)| left * right).sum()),
        Wanted::Words(wanted) => {
            let mut common =
                wanted.iter().filter_map(|(word, weight)| Some(weight * stored.words.get(word)?)).peekable();
            common.peek()?;
            Some(common.sum())
        }
    }
}

fn words_of(indices: &[u32], values: &[f32]) -> Result<BTreeMap<u32, f32>, Status> {
    let words: BTreeMap<u32, f32> = indices.iter().copied().zip(values.iter().copied()).collect();
    if indices.len() != values.len() || words.len() != indices.len() {
        return Err(wrong("Validation error: indices must be unique, and as many as values"));
    }
    Ok(words)
}

fn vector_of<'a>(point: &'a PointStruct, name: &str) -> Option<&'a Vector> {
    let VectorsOptions::Vectors(named) = point.vectors.as_ref()?.vectors_options.as_ref()? else { return None };
    named.vectors.get(name)?.vector.as_ref()
}

fn unit(vector: &[f32]) -> Vec<f32> {
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    vector.iter().map(|value| value / norm).collect()
}
