//! Vectors in a Qdrant server, over gRPC: one collection per embedding model, all projects in it.
//!
//! **Invariant:** every query, deletion and reset carries a `must` filter on the project.
//! **Invariant:** every call has a limit on time, and ends in a typed error.
//! **Invariant:** a collection of another dimension or distance is refused, never written to.

mod wire;

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crewline_types::{MemoryId, MemoryRecord, ProjectScope};
use futures::{FutureExt, future::BoxFuture};
use qdrant_client::{
    QdrantError,
    qdrant::{
        CollectionInfo, Condition, CreateCollectionBuilder, CreateFieldIndexCollectionBuilder, DeletePointsBuilder,
        Distance, FieldType, Filter as Conditions, KeywordIndexParamsBuilder, Modifier, PointStruct, QueryBatchPoints,
        QueryPointsBuilder, SearchParamsBuilder, SparseVectorParamsBuilder, SparseVectorsConfigBuilder,
        UpsertPointsBuilder, VectorParamsBuilder, VectorsConfigBuilder, vectors_config::Config,
    },
};

use self::wire::{AGENT, CREATED_AT, DENSE, KIND, PROJECT, Status, TASK, collection_name, conditions};
use self::wire::{memory_id, point_id, to_point, to_record};
use crate::{
    Error, Filter, Hit, Point, Query, VectorStore, Why,
    dense::rounded,
    store::{Rule, belongs},
};

const CONNECT_LIMIT: Duration = Duration::from_secs(3);
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// Points of one request.
const BATCH: usize = 64;
/// Length of the candidate list of the graph search; more is slower and more exact.
const SEARCH_WIDTH_MIN: u64 = 256;

/// The sparse vector's name: part of the collection from the start, because it can not be added later.
const SPARSE: &str = "text";

/// Where the server is, and which model makes the vectors.
#[derive(Clone)]
pub struct QdrantOptions {
    /// The gRPC address, as `http://localhost:6334`.
    pub url: String,
    /// The server's key.
    pub api_key: Option<String>,
    /// The embedding model's name; part of the collection's name.
    pub model: String,
    /// Floats of a vector.
    pub dimensions: usize,
}

impl fmt::Debug for QdrantOptions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("QdrantOptions")
            .field("url", &self.url)
            .field("model", &self.model)
            .field("dimensions", &self.dimensions)
            .finish_non_exhaustive()
    }
}

/// One collection of a Qdrant server. Cloning shares the connection.
///
/// As a [`VectorStore`] of its own it searches by vector only; [`Hybrid`](crate::Hybrid) adds the words.
#[derive(Clone)]
pub struct Qdrant {
    client: qdrant_client::Qdrant,
    url: Arc<str>,
    collection: Arc<str>,
    dimensions: usize,
    limit: Duration,
    is_ready: Arc<AtomicBool>,
    /// Whether the collection was created by us and nobody has filled it yet.
    is_new: Arc<AtomicBool>,
}

impl fmt::Debug for Qdrant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Qdrant").field("url", &self.url).field("collection", &self.collection).finish_non_exhaustive()
    }
}

impl Qdrant {
    /// A client; the server is not contacted yet.
    pub fn new(options: QdrantOptions) -> Result<Self, Error> {
        let QdrantOptions { url, api_key, model, dimensions } = options;
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(Error::Address { url, reason: "it must begin with `http://` or `https://`".to_owned() });
        }
        let client = qdrant_client::Qdrant::from_url(&url)
            .api_key(api_key)
            .connect_timeout(CONNECT_LIMIT)
            .timeout(REQUEST_LIMIT)
            // The check prints to stdout and blocks.
            .skip_compatibility_check()
            .build()
            .map_err(|error| Error::Address { url: url.clone(), reason: error.to_string() })?;
        let collection = collection_name(&model, dimensions);
        Ok(Self {
            client,
            url: url.into(),
            collection: collection.into(),
            dimensions,
            limit: REQUEST_LIMIT,
            is_ready: Arc::default(),
            is_new: Arc::default(),
        })
    }

    /// Waits for an answer at most for `limit`, instead of five seconds.
    pub fn patient_for(self, limit: Duration) -> Self {
        Self { limit: limit.min(REQUEST_LIMIT), ..self }
    }

    /// The collection's name: `crewline_<model>_<dimensions>`.
    pub fn collection(&self) -> &str {
        &self.collection
    }

    /// The server and the collection, without a password: where the vectors are.
    pub fn place(&self) -> String {
        let server = self.url.split_once("://").map_or(&*self.url, |(_, rest)| rest);
        let server = server.rsplit_once('@').map_or(server, |(_, host)| host);
        format!("{}/{}", server.trim_end_matches('/'), self.collection)
    }

    /// Makes sure that the collection is there and fits.
    pub async fn prepare(&self) -> Result<(), Error> {
        self.ensure().await
    }

    /// Whether the collection was missing and had to be created since the last [`Self::accept_new`], so that all
    /// vectors must be carried to it again.
    pub fn is_new(&self) -> bool {
        self.is_new.load(Ordering::Acquire)
    }

    /// The outbox is full again.
    pub fn accept_new(&self) {
        self.is_new.store(false, Ordering::Release);
    }

    /// Similarities of the `depth` nearest memories and of all of `known`, in one round trip.
    pub async fn similar(
        &self,
        scope: &ProjectScope,
        vector: &[f32],
        filter: &Filter,
        depth: usize,
        known: &[MemoryId],
    ) -> Result<Vec<(MemoryId, f32)>, Error> {
        self.check_dimensions(vector)?;
        self.ensure().await?;
        let mut queries = vec![self.nearest(vector, conditions(scope, filter), depth).build()];
        if !known.is_empty() {
            let mut only_known = conditions(scope, &Filter::default());
            only_known.must.push(Condition::has_id(known.iter().map(|id| point_id(*id))));
            queries.push(self.nearest(vector, only_known, known.len()).build());
        }
        let batch = QueryBatchPoints {
            collection_name: self.collection.to_string(),
            query_points: queries,
            read_consistency: None,
            timeout: Some(REQUEST_LIMIT.as_secs()),
        };
        let answer = self.limited("query", self.client.query_batch(batch)).await?;
        let points = answer.result.into_iter().flat_map(|batch| batch.result);
        Ok(points.filter_map(|point| Some((memory_id(point.id?)?, point.score))).collect())
    }

    fn nearest(&self, vector: &[f32], conditions: Conditions, limit: usize) -> QueryPointsBuilder {
        let width = SEARCH_WIDTH_MIN.max(limit as u64);
        QueryPointsBuilder::new(&*self.collection)
            .query(vector.to_vec())
            .using(DENSE)
            .filter(conditions)
            .limit(limit as u64)
            .params(SearchParamsBuilder::default().hnsw_ef(width))
            .with_payload(false)
    }

    /// Creates the collection and its indexes when they are missing, and refuses one that does not fit.
    async fn ensure(&self) -> Result<(), Error> {
        if self.is_ready.load(Ordering::Acquire) {
            return Ok(());
        }
        let info = match self.info().await? {
            Some(info) => info,
            None => self.create().await?,
        };
        self.fits(&info)?;
        for (field, kind) in [
            (PROJECT, FieldType::Keyword),
            (KIND, FieldType::Keyword),
            (TASK, FieldType::Keyword),
            (AGENT, FieldType::Keyword),
            (CREATED_AT, FieldType::Integer),
        ] {
            if info.payload_schema.contains_key(field) {
                continue;
            }
            let mut index = CreateFieldIndexCollectionBuilder::new(&*self.collection, field, kind).wait(true);
            if field == PROJECT {
                index = index.field_index_params(KeywordIndexParamsBuilder::default().is_tenant(true));
            }
            self.limited("create index", self.client.create_field_index(index)).await?;
        }
        self.is_ready.store(true, Ordering::Release);
        Ok(())
    }

    async fn info(&self) -> Result<Option<CollectionInfo>, Error> {
        let exists = self.limited("look up collection", self.client.collection_exists(&*self.collection)).await?;
        if !exists {
            return Ok(None);
        }
        let answer = self.limited("read collection", self.client.collection_info(&*self.collection)).await?;
        Ok(answer.result)
    }

    async fn create(&self) -> Result<CollectionInfo, Error> {
        let mut dense = VectorsConfigBuilder::default();
        dense.add_named_vector_params(DENSE, VectorParamsBuilder::new(self.dimensions as u64, Distance::Cosine));
        let mut sparse = SparseVectorsConfigBuilder::default();
        sparse.add_named_vector_params(SPARSE, SparseVectorParamsBuilder::default().modifier(Modifier::Idf));
        let request =
            CreateCollectionBuilder::new(&*self.collection).vectors_config(dense).sparse_vectors_config(sparse);
        let created = self.limited("create collection", self.client.create_collection(request)).await;
        match (self.info().await?, created) {
            // Somebody else may have created it between our question and our request.
            (Some(info), created) => {
                if created.is_ok() {
                    self.is_new.store(true, Ordering::Release);
                }
                Ok(info)
            }
            (None, Err(error)) => Err(error),
            (None, Ok(_)) => Err(self.rejected("create collection", "the collection is still missing")),
        }
    }

    fn fits(&self, info: &CollectionInfo) -> Result<(), Error> {
        let config = info.config.as_ref().and_then(|config| config.params.as_ref());
        let dense = match config.and_then(|params| params.vectors_config.as_ref()?.config.as_ref()) {
            Some(Config::ParamsMap(named)) => named.map.get(DENSE),
            Some(Config::Params(_)) | None => None,
        };
        let found = match dense {
            None => format!("no vector named `{DENSE}`"),
            Some(dense) if dense.size != self.dimensions as u64 => format!("vectors of {} dimensions", dense.size),
            Some(dense) if dense.distance() != Distance::Cosine => {
                format!("distance `{}`", dense.distance().as_str_name())
            }
            Some(_) => return Ok(()),
        };
        Err(Error::Mismatch {
            collection: self.collection.to_string(),
            found,
            wanted: format!("cosine vectors of {} dimensions named `{DENSE}`", self.dimensions),
        })
    }

    /// Refuses vectors of another model.
    pub(crate) fn check_dimensions(&self, vector: &[f32]) -> Result<(), Error> {
        if vector.len() == self.dimensions {
            return Ok(());
        }
        Err(Error::Mismatch {
            collection: self.collection.to_string(),
            found: format!("vectors of {} dimensions", self.dimensions),
            wanted: format!("{}", vector.len()),
        })
    }

    async fn delete(&self, conditions: Conditions) -> Result<(), Error> {
        self.ensure().await?;
        let request = DeletePointsBuilder::new(&*self.collection).points(conditions).wait(true);
        self.limited("delete", self.client.delete_points(request)).await.map(|_| ())
    }

    /// Every call goes through here: the limit on time, and what the client's errors mean. Boxed, because the
    /// client's futures are 20 KB each.
    fn limited<'a, T: 'a>(
        &'a self,
        operation: &'static str,
        call: impl Future<Output = Result<T, QdrantError>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, Error>> {
        async move {
            match tokio::time::timeout(self.limit, call).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(error)) => Err(self.explain(operation, error)),
                Err(_) => Err(self.timeout(operation)),
            }
        }
        .boxed()
    }

    fn timeout(&self, operation: &'static str) -> Error {
        Error::Timeout { url: self.url.to_string(), operation, limit: self.limit }
    }

    fn rejected(&self, operation: &'static str, reason: &str) -> Error {
        Error::Rejected { url: self.url.to_string(), operation, reason: reason.to_owned() }
    }

    fn explain(&self, operation: &'static str, error: QdrantError) -> Error {
        let url = self.url.to_string();
        let status = match error {
            QdrantError::ResponseError { status } | QdrantError::ResourceExhaustedError { status, .. } => status,
            QdrantError::Io(error) => return Error::Unavailable { url, reason: error.to_string() },
            other => return self.rejected(operation, &other.to_string()),
        };
        let reason = status.message().to_owned();
        match Status::of(status.code() as i32, &reason) {
            Status::Slow => self.timeout(operation),
            Status::Down => Error::Unavailable { url, reason },
            Status::Auth => Error::Refused { url, reason },
            Status::Lost => {
                // The collection is gone: the next call makes it again.
                self.is_ready.store(false, Ordering::Release);
                Error::Unavailable { url, reason }
            }
            Status::Wrong => Error::Rejected { url, operation, reason },
        }
    }
}

impl VectorStore for Qdrant {
    /// Points without a vector are left out: the database has their texts.
    fn upsert<'a>(&'a self, scope: &'a ProjectScope, points: Vec<Point>) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            for point in &points {
                belongs(scope, &point.record)?;
                point.vector.as_deref().map_or(Ok(()), |vector| self.check_dimensions(vector))?;
            }
            self.ensure().await?;
            let mut points = points.into_iter().filter_map(to_point).peekable();
            while points.peek().is_some() {
                let batch: Vec<PointStruct> = points.by_ref().take(BATCH).collect();
                let request = UpsertPointsBuilder::new(&*self.collection, batch).wait(true);
                self.limited("upsert", self.client.upsert_points(request)).await?;
            }
            Ok(())
        }
        .boxed()
    }

    /// Searches by vector; a query without one finds nothing.
    fn search<'a>(&'a self, scope: &'a ProjectScope, query: &'a Query) -> BoxFuture<'a, Result<Vec<Hit>, Error>> {
        async move {
            let Some(vector) = query.vector.as_deref().filter(|_| query.limit > 0) else { return Ok(Vec::new()) };
            self.check_dimensions(vector)?;
            self.ensure().await?;
            let request = self.nearest(vector, conditions(scope, &query.filter), query.limit).with_payload(true);
            let answer = self.limited("query", self.client.query(request)).await?;
            let rule = Rule::new(&query.filter);
            let found = answer.result.into_iter().filter_map(|point| {
                let record = to_record(scope, &point).filter(|record| rule.admits(record))?;
                Some((rounded(point.score), Arc::new(record)))
            });
            let mut found: Vec<(f32, Arc<MemoryRecord>)> = found.collect();
            found.sort_by(|(left, older), (right, newer)| {
                right.total_cmp(left).then(older.created_at.cmp(&newer.created_at)).then(older.id.cmp(&newer.id))
            });
            let best = found.first().map_or(0.0, |(score, _)| *score);
            let hits = found.into_iter().map(|(dense, record)| Hit {
                record,
                score: if best > 0.0 { dense.max(0.0) / best } else { 0.0 },
                why: Why { dense: Some(dense), ..Why::default() },
            });
            Ok(hits.collect())
        }
        .boxed()
    }

    fn forget<'a>(&'a self, scope: &'a ProjectScope, ids: &'a [MemoryId]) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            if ids.is_empty() {
                return Ok(());
            }
            let mut conditions = conditions(scope, &Filter::default());
            conditions.must.push(Condition::has_id(ids.iter().map(|id| point_id(*id))));
            self.delete(conditions).await
        }
        .boxed()
    }

    fn reset<'a>(&'a self, scope: &'a ProjectScope) -> BoxFuture<'a, Result<(), Error>> {
        self.delete(conditions(scope, &Filter::default())).boxed()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            self.limited("health check", self.client.health_check()).await?;
            self.is_ready.store(false, Ordering::Release);
            self.ensure().await
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use qdrant_client::qdrant::{condition::ConditionOneOf, r#match::MatchValue};

    use crewline_types::{MemoryType, Timestamp};

    use super::*;

    fn qdrant(url: &str) -> Result<Qdrant, Error> {
        Qdrant::new(QdrantOptions {
            url: url.to_owned(),
            api_key: Some("secret".to_owned()),
            model: "All MiniLM/L6.v2".to_owned(),
            dimensions: 2,
        })
    }

    #[test]
    fn collections_are_named_by_model_and_dimension() {
        assert_eq!(qdrant("http://localhost:6334").unwrap().collection(), "crewline_all-minilm-l6-v2_2");
    }

    #[test]
    fn addresses_are_checked_and_keys_are_not_shown() {
        assert_eq!(qdrant("localhost:6334").unwrap_err().code(), "memory.address");
        assert_eq!(qdrant("http://").unwrap_err().code(), "memory.address");
        assert!(!format!("{:?}", qdrant("http://localhost:6334").unwrap()).contains("secret"));
    }

    #[test]
    fn every_query_is_bound_to_its_project() {
        let scope = ProjectScope::of("p");
        let filter = Filter {
            kinds: vec![MemoryType::TaskSummary, MemoryType::DesignDoc],
            since: Some(Timestamp(5)),
            exclude_tasks: vec!["aaaaaaaa".parse().unwrap()],
            ..Filter::default()
        };
        let qdrant = qdrant("http://localhost:6334").unwrap();
        let sent = qdrant.nearest(&[1.0, 0.0], conditions(&scope, &filter), 3).build().filter.unwrap();
        assert!(sent.should.is_empty() && sent.min_should.is_none());
        assert_eq!((sent.must.len(), sent.must_not.len()), (3, 1));
        let Some(ConditionOneOf::Field(field)) = &sent.must[0].condition_one_of else { panic!("{sent:?}") };
        assert_eq!(field.key, PROJECT);
        assert_eq!(field.r#match.clone().unwrap().match_value, Some(MatchValue::Keyword("p".to_owned())));
    }
}
