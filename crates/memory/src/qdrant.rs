//! Vectors in a Qdrant server, over gRPC: one collection per embedding model, all projects in it.
//!
//! **Invariant:** every query, deletion and reset carries a `must` filter on the project.
//! **Invariant:** every call has a limit on time, and ends in a typed error.
//! **Invariant:** a collection of another dimension, distance or kind of sparse vectors is refused, never written to.

mod ask;
mod collection;
mod wire;
mod words;

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crewline_types::{MemoryId, ProjectScope};
use futures::{FutureExt, future::BoxFuture};
use prost::Message;
use qdrant_client::{
    QdrantError,
    qdrant::{Condition, DeletePointsBuilder, Filter as Conditions, PointStruct, UpsertPointsBuilder},
};

pub(crate) use self::ask::Similar;
use self::wire::{Status, collection_name, conditions, point_id, to_point};
use crate::{Error, Filter, Hit, Point, Query, VectorStore, metrics::HostMeter, store::belongs};

const CONNECT_LIMIT: Duration = Duration::from_secs(3);
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// Points of one request.
const BATCH: usize = 64;

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
/// As a [`VectorStore`] of its own it ranks by the server's numbers alone; [`Hybrid`](crate::Hybrid) ranks as the index
/// in the process does.
#[derive(Clone)]
pub struct Qdrant {
    client: qdrant_client::Qdrant,
    url: Arc<str>,
    collection: Arc<str>,
    dimensions: usize,
    limit: Duration,
    meter: HostMeter,
    is_ready: Arc<AtomicBool>,
    /// Whether the collection was missing when it was last asked for.
    is_lost: Arc<AtomicBool>,
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
        let meter = HostMeter::new(host_of(&url));
        Ok(Self {
            client,
            url: url.into(),
            collection: collection.into(),
            dimensions,
            limit: REQUEST_LIMIT,
            meter,
            is_ready: Arc::default(),
            is_lost: Arc::default(),
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

    /// The server and the collection, without a password, and how words are kept there: where the vectors are.
    pub fn place(&self) -> String {
        let server = self.url.split_once("://").map_or(&*self.url, |(_, rest)| rest);
        let server = server.rsplit_once('@').map_or(server, |(_, host)| host);
        format!("{}/{}#{}", server.trim_end_matches('/'), self.collection, words::SCHEME)
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
        if self.is_missing().await? {
            return Ok(());
        }
        let request = DeletePointsBuilder::new(&*self.collection).points(conditions).wait(true).build();
        self.carried("delete", request.encoded_len(), self.client.delete_points(request)).await.map(|_| ())
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

    /// The same for calls that bring texts or vectors there or back: their `sent` bytes and those of the answer are counted.
    async fn carried<T: Message>(
        &self,
        operation: &'static str,
        sent: usize,
        call: impl Future<Output = Result<T, QdrantError>> + Send,
    ) -> Result<T, Error> {
        let answer = self.limited(operation, call).await;
        match &answer {
            Ok(answer) => self.meter.passed(sent, answer.encoded_len()),
            Err(Error::Unavailable { .. }) => {}
            Err(_) => self.meter.passed(sent, 0),
        }
        answer
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
                self.is_ready.store(false, Ordering::Release);
                self.missing()
            }
            Status::Wrong => Error::Rejected { url, operation, reason },
        }
    }
}

/// The host of an address, without name, port and path.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let server = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let server = server.rsplit_once('@').map_or(server, |(_, host)| host);
    match server.split_once(']') {
        Some((address, _)) => &server[..=address.len()],
        None => server.split(':').next().unwrap_or_default(),
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
                let request = UpsertPointsBuilder::new(&*self.collection, batch).wait(true).build();
                self.carried("upsert", request.encoded_len(), self.client.upsert_points(request)).await?;
            }
            Ok(())
        }
        .boxed()
    }

    /// Searches by vector and by words, as far as the query has them, in one round trip.
    fn search<'a>(&'a self, scope: &'a ProjectScope, query: &'a Query) -> BoxFuture<'a, Result<Vec<Hit>, Error>> {
        self.find(scope, query).boxed()
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
            // One that is missing is made by whoever fills it.
            self.is_missing().await.map(|_| ())
        }
        .boxed()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(super) fn qdrant(url: &str) -> Result<Qdrant, Error> {
        Qdrant::new(QdrantOptions {
            url: url.to_owned(),
            api_key: Some("secret".to_owned()),
            model: "All MiniLM/L6.v2".to_owned(),
            dimensions: 2,
        })
    }

    #[test]
    fn a_host_is_named_without_the_rest() {
        for (url, host) in [
            ("http://localhost:6334", "localhost"),
            ("https://name:secret@q.example/", "q.example"),
            ("http://[::1]:6334/x", "[::1]"),
            ("http://", ""),
        ] {
            assert_eq!(host_of(url), host);
        }
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
}
