//! Questions to the server: the nearest by vector and by words, each with what the other side says of them, in one
//! round trip.
//!
//! **Invariant:** every part of a question carries the filter on the project.

use std::{collections::HashMap, sync::Arc};

use crewline_types::{MemoryId, MemoryRecord, ProjectScope};
use prost::Message as _;
use qdrant_client::qdrant::{
    BatchResult, Condition, Filter as Conditions, PrefetchQueryBuilder, Query as Wanted, QueryBatchPoints,
    QueryPointsBuilder, ScoredPoint, SearchParams, SearchParamsBuilder, VectorInput,
};

use super::{
    Qdrant, REQUEST_LIMIT,
    wire::{DENSE, WORDS, conditions, memory_id, point_id, to_record},
    words,
};
use crate::{
    Error, Filter, Hit, Query, Weights, Why,
    dense::rounded,
    fuse::{Candidate, fuse},
    project::CANDIDATES,
    store::Rule,
};

/// Length of the candidate list of the graph search; more is slower and more exact.
const SEARCH_WIDTH_MIN: u64 = 256;

/// What the server knows to a question whose memories the process has an index of.
#[derive(Debug, Default)]
pub(crate) struct Similar {
    /// Similarities, of the nearest and of those that were asked for by their ids; some twice.
    pub(crate) dense: Vec<(MemoryId, f32)>,
    /// What has its words, best first.
    pub(crate) by_words: Vec<MemoryId>,
}

/// One side of a question.
struct Side {
    input: VectorInput,
    using: &'static str,
}

impl Side {
    fn by_vector(vector: &[f32]) -> Self {
        Self { input: VectorInput::new_dense(vector), using: DENSE }
    }

    /// None when the question has no words.
    fn by_words(scope: &ProjectScope, question: &str) -> Option<Self> {
        let words = words::of_question(scope.project(), question);
        (!words.is_empty()).then(|| Self { input: VectorInput::from(words.as_slice()), using: WORDS })
    }

    fn wanted(&self) -> Wanted {
        Wanted::new_nearest(self.input.clone())
    }
}

impl Qdrant {
    /// The `depth` nearest memories by vector and by words, and the similarities of all of `known`.
    pub(crate) async fn similar(
        &self,
        scope: &ProjectScope,
        vector: &[f32],
        query: &Query,
        depth: usize,
        known: &[MemoryId],
    ) -> Result<Similar, Error> {
        self.check_dimensions(vector)?;
        self.ensure().await?;
        let filter = conditions(scope, &query.filter);
        let near = Side::by_vector(vector);
        let mut parts = vec![self.nearest(&near, filter.clone(), depth)];
        if !known.is_empty() {
            let mut only_known = conditions(scope, &Filter::default());
            only_known.must.push(Condition::has_id(known.iter().map(|id| point_id(*id))));
            parts.push(self.nearest(&near, only_known, known.len()));
        }
        let dense = parts.len();
        parts.extend(Side::by_words(scope, &query.text).map(|words| self.nearest(&words, filter, depth)));
        let mut answers = self.ask(parts).await?;
        let by_words = answers.split_off(dense.min(answers.len()));
        Ok(Similar { dense: scored(answers).collect(), by_words: scored(by_words).map(|(id, _)| id).collect() })
    }

    /// The best memories by vector and by words, as far as the question has them.
    pub(super) async fn find(&self, scope: &ProjectScope, query: &Query) -> Result<Vec<Hit>, Error> {
        let near = query.vector.as_deref().map(Side::by_vector);
        let words = Side::by_words(scope, &query.text);
        let sides: Vec<&Side> = near.iter().chain(&words).collect();
        if sides.is_empty() || query.limit == 0 {
            return Ok(Vec::new());
        }
        query.vector.as_deref().map_or(Ok(()), |vector| self.check_dimensions(vector))?;
        self.ensure().await?;
        let filter = conditions(scope, &query.filter);
        let depth = query.limit.max(CANDIDATES);
        let mut parts: Vec<QueryPointsBuilder> =
            sides.iter().map(|side| self.nearest(side, filter.clone(), depth).with_payload(true)).collect();
        if let [left, right] = sides[..] {
            // What each side thinks of what the other puts forward.
            parts.push(self.compared(left, right, &filter, depth));
            parts.push(self.compared(right, left, &filter, depth));
        }
        let using: Vec<&str> = sides.iter().chain(&sides).map(|side| side.using).collect();
        let answers = self.ask(parts).await?;
        let rule = Rule::new(&query.filter);
        let mut records: HashMap<MemoryId, Arc<MemoryRecord>> = HashMap::new();
        let mut scores: HashMap<MemoryId, Candidate> = HashMap::new();
        for (answer, using) in answers.into_iter().zip(using) {
            for point in answer.result {
                let Some(id) = point.id.clone().and_then(memory_id) else { continue };
                if let Some(record) = to_record(scope, &point).filter(|record| rule.admits(record)) {
                    records.entry(id).or_insert_with(|| Arc::new(record));
                }
                let candidate = scores.entry(id).or_insert(Candidate { slot: 0, dense: None, sparse: None });
                if using == DENSE {
                    candidate.dense = Some(rounded(point.score));
                } else {
                    candidate.sparse = Some(rounded(point.score));
                }
            }
        }
        let found = records.into_iter().filter_map(|(id, record)| Some((record, *scores.get(&id)?)));
        Ok(ranked(found.collect(), query.limit))
    }

    fn nearest(&self, side: &Side, filter: Conditions, limit: usize) -> QueryPointsBuilder {
        QueryPointsBuilder::new(self.collection())
            .query(side.wanted())
            .using(side.using)
            .filter(filter)
            .limit(limit as u64)
            .params(width(limit))
            .with_payload(false)
    }

    /// What `by` thinks of the nearest of `of`.
    fn compared(&self, by: &Side, of: &Side, filter: &Conditions, limit: usize) -> QueryPointsBuilder {
        let prefetch = PrefetchQueryBuilder::default()
            .query(of.wanted())
            .using(of.using)
            .filter(filter.clone())
            .limit(limit as u64)
            .params(width(limit));
        self.nearest(by, filter.clone(), limit).add_prefetch(prefetch)
    }

    async fn ask(&self, parts: Vec<QueryPointsBuilder>) -> Result<Vec<BatchResult>, Error> {
        let batch = QueryBatchPoints {
            collection_name: self.collection().to_owned(),
            query_points: parts.into_iter().map(QueryPointsBuilder::build).collect(),
            read_consistency: None,
            timeout: Some(REQUEST_LIMIT.as_secs()),
        };
        Ok(self.carried("query", batch.encoded_len(), self.client.query_batch(batch)).await?.result)
    }
}

fn width(limit: usize) -> SearchParams {
    SearchParamsBuilder::default().hnsw_ef(SEARCH_WIDTH_MIN.max(limit as u64)).build()
}

fn scored(answers: Vec<BatchResult>) -> impl Iterator<Item = (MemoryId, f32)> {
    let points = answers.into_iter().flat_map(|answer| answer.result);
    points.filter_map(|ScoredPoint { id, score, .. }| Some((memory_id(id?)?, score)))
}

/// Fused as the index in the process does it, without signals.
fn ranked(found: Vec<(Arc<MemoryRecord>, Candidate)>, limit: usize) -> Vec<Hit> {
    let candidates: Vec<Candidate> = found.iter().map(|(_, candidate)| *candidate).collect();
    let scores = fuse(&candidates, Weights::default().dense);
    let best = scores.iter().copied().fold(0.0, f32::max);
    let mut hits: Vec<Hit> = found
        .into_iter()
        .zip(scores)
        .map(|((record, candidate), score)| Hit {
            record,
            score: if best > 0.0 { score / best } else { 0.0 },
            why: Why { dense: candidate.dense, sparse: candidate.sparse, ..Why::default() },
        })
        .collect();
    hits.sort_by(Hit::order);
    hits.truncate(limit);
    hits
}

#[cfg(test)]
mod tests {
    use crewline_types::{MemoryType, Timestamp};
    use qdrant_client::qdrant::{condition::ConditionOneOf, r#match::MatchValue};

    use super::*;
    use crate::qdrant::{tests::qdrant, wire::PROJECT};

    fn assert_bound(conditions: &Conditions) {
        assert!(conditions.should.is_empty() && conditions.min_should.is_none());
        let Some(ConditionOneOf::Field(field)) = &conditions.must[0].condition_one_of else { panic!("{conditions:?}") };
        assert_eq!(field.key, PROJECT);
        assert_eq!(field.r#match.clone().unwrap().match_value, Some(MatchValue::Keyword("p".to_owned())));
    }

    #[test]
    fn every_part_of_a_question_is_bound_to_its_project() {
        let scope = ProjectScope::of("p");
        let filter = Filter {
            kinds: vec![MemoryType::TaskSummary, MemoryType::DesignDoc],
            since: Some(Timestamp(5)),
            exclude_tasks: vec!["aaaaaaaa".parse().unwrap()],
            ..Filter::default()
        };
        let qdrant = qdrant("http://localhost:6334").unwrap();
        let (near, words) = (Side::by_vector(&[1.0, 0.0]), Side::by_words(&scope, "red fox").unwrap());
        let filter = conditions(&scope, &filter);
        assert_eq!((filter.must.len(), filter.must_not.len()), (3, 1));
        for part in [
            qdrant.nearest(&near, filter.clone(), 3),
            qdrant.nearest(&words, filter.clone(), 3),
            qdrant.compared(&near, &words, &filter, 3),
        ] {
            let part = part.build();
            assert_bound(&part.filter.unwrap());
            for prefetch in part.prefetch {
                assert_bound(&prefetch.filter.unwrap());
            }
        }
    }
}
