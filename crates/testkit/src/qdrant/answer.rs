//! What the server holds, and what it answers.

use std::collections::{BTreeMap, HashMap};

use prost::Message;
use qdrant_client::qdrant::{
    BatchResult, CollectionConfig, CollectionExists, CollectionExistsRequest, CollectionExistsResponse, CollectionInfo,
    CollectionOperationResponse, CollectionParams, CreateCollection, CreateFieldIndexCollection, DeletePoints,
    GetCollectionInfoRequest, GetCollectionInfoResponse, HealthCheckReply, PayloadSchemaInfo, PointStruct,
    PointsOperationResponse, QueryBatchPoints, QueryBatchResponse, QueryPoints, QueryResponse, ScoredPoint,
    SparseVectorConfig, UpdateResult, UpsertPoints, Value, VectorParams, VectorParamsMap, VectorsConfig,
    points_selector::PointsSelectorOneOf, query::Variant, vector::Vector, vector_input, vectors::VectorsOptions,
    vectors_config::Config, with_payload_selector::SelectorOptions,
};

use super::matching::{admits, key};

/// A gRPC status other than success.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) code: u16,
    pub(super) message: String,
}

/// A collection; its vectors have one name.
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
}

impl Collection {
    pub(super) fn of_size(size: u64) -> Self {
        let params = VectorParams { size, distance: 1, ..VectorParams::default() };
        let map = VectorParamsMap { map: HashMap::from([("dense".to_owned(), params)]) };
        Self { vectors: Some(VectorsConfig { config: Some(Config::ParamsMap(map)) }), ..Self::default() }
    }

    pub(super) fn ids(&self) -> Vec<String> {
        self.points.keys().cloned().collect()
    }

    pub(super) fn indexed(&self) -> Vec<String> {
        self.indexes.keys().cloned().collect()
    }

    fn size(&self, name: &str) -> Option<u64> {
        match self.vectors.as_ref()?.config.as_ref()? {
            Config::ParamsMap(named) => Some(named.map.get(name)?.size),
            Config::Params(params) => Some(params.size),
        }
    }

    fn info(&self) -> CollectionInfo {
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

    fn upsert(&mut self, points: Vec<PointStruct>) -> Result<(), Status> {
        for point in points {
            let vector = dense_of(&point).ok_or_else(|| wrong("a point has no vector named `dense`"))?;
            self.fits(vector.len())?;
            self.points.insert(key(point.id.as_ref()), Stored { vector: unit(&vector), point });
        }
        Ok(())
    }

    fn fits(&self, length: usize) -> Result<(), Status> {
        match self.size("dense") {
            Some(size) if size == length as u64 => Ok(()),
            size => Err(wrong(&format!("Vector dimension error: expected dim: {size:?}, got {length}"))),
        }
    }

    fn query(&self, query: &QueryPoints) -> Result<Vec<ScoredPoint>, Status> {
        let Some(Variant::Nearest(input)) = query.query.as_ref().and_then(|query| query.variant.as_ref()) else {
            return Err(wrong("only nearest points can be asked for"));
        };
        let Some(vector_input::Variant::Dense(dense)) = &input.variant else {
            return Err(wrong("only dense vectors can be asked for"));
        };
        self.fits(dense.data.len())?;
        let wanted = unit(&dense.data);
        let with_payload = query
            .with_payload
            .as_ref()
            .is_some_and(|selector| matches!(selector.selector_options, Some(SelectorOptions::Enable(true))));
        let mut found: Vec<ScoredPoint> = self
            .points
            .values()
            .filter(|stored| query.filter.as_ref().is_none_or(|filter| admits(filter, &stored.point)))
            .map(|stored| ScoredPoint {
                id: stored.point.id.clone(),
                score: stored.vector.iter().zip(&wanted).map(|(left, right)| left * right).sum(),
                payload: if with_payload { stored.point.payload.clone() } else { HashMap::<String, Value>::new() },
                ..ScoredPoint::default()
            })
            .collect();
        found.sort_by(|left, right| right.score.total_cmp(&left.score));
        found.truncate(usize::try_from(query.limit.unwrap_or(10)).unwrap_or(usize::MAX));
        Ok(found)
    }
}

/// The message that answers `message` at `path`.
pub(super) fn answer(
    path: &str,
    message: &[u8],
    collections: &mut HashMap<String, Collection>,
) -> Result<Vec<u8>, Status> {
    let done = || CollectionOperationResponse { result: true, time: 0.0 }.encode_to_vec();
    let updated = || {
        let result = Some(UpdateResult { operation_id: Some(0), status: 2 });
        PointsOperationResponse { result, ..PointsOperationResponse::default() }.encode_to_vec()
    };
    match path {
        "/qdrant.Qdrant/HealthCheck" => {
            let reply = HealthCheckReply { title: "fake".into(), version: "1.18.3".into(), commit: None };
            Ok(reply.encode_to_vec())
        }
        "/qdrant.Collections/CollectionExists" => {
            let name = read::<CollectionExistsRequest>(message)?.collection_name;
            let result = Some(CollectionExists { exists: collections.contains_key(&name) });
            Ok(CollectionExistsResponse { result, time: 0.0 }.encode_to_vec())
        }
        "/qdrant.Collections/Get" => {
            let name = read::<GetCollectionInfoRequest>(message)?.collection_name;
            let result = Some(of(collections, &name)?.info());
            Ok(GetCollectionInfoResponse { result, time: 0.0 }.encode_to_vec())
        }
        "/qdrant.Collections/Create" => {
            let request: CreateCollection = read(message)?;
            if collections.contains_key(&request.collection_name) {
                return Err(Status { code: 6, message: "Collection already exists!".to_owned() });
            }
            let collection = Collection {
                vectors: request.vectors_config,
                sparse: request.sparse_vectors_config,
                ..Collection::default()
            };
            collections.insert(request.collection_name, collection);
            Ok(done())
        }
        "/qdrant.Points/CreateFieldIndex" => {
            let request: CreateFieldIndexCollection = read(message)?;
            let kind = request.field_type.unwrap_or_default();
            of(collections, &request.collection_name)?.indexes.insert(request.field_name, kind);
            Ok(updated())
        }
        "/qdrant.Points/Upsert" => {
            let request: UpsertPoints = read(message)?;
            of(collections, &request.collection_name)?.upsert(request.points)?;
            Ok(updated())
        }
        "/qdrant.Points/Delete" => {
            let request: DeletePoints = read(message)?;
            let Some(PointsSelectorOneOf::Filter(filter)) = request.points.and_then(|it| it.points_selector_one_of)
            else {
                return Err(wrong("only a filter can say what to delete"));
            };
            of(collections, &request.collection_name)?.points.retain(|_, stored| !admits(&filter, &stored.point));
            Ok(updated())
        }
        "/qdrant.Points/Query" => {
            let request: QueryPoints = read(message)?;
            let result = of(collections, &request.collection_name)?.query(&request)?;
            Ok(QueryResponse { result, ..QueryResponse::default() }.encode_to_vec())
        }
        "/qdrant.Points/QueryBatch" => {
            let request: QueryBatchPoints = read(message)?;
            let collection = of(collections, &request.collection_name)?;
            let answers: Result<Vec<BatchResult>, Status> =
                request.query_points.iter().map(|query| Ok(BatchResult { result: collection.query(query)? })).collect();
            Ok(QueryBatchResponse { result: answers?, ..QueryBatchResponse::default() }.encode_to_vec())
        }
        other => Err(Status { code: 12, message: format!("{other} is not implemented") }),
    }
}

fn read<T: Message + Default>(message: &[u8]) -> Result<T, Status> {
    T::decode(message).map_err(|error| wrong(&error.to_string()))
}

fn of<'a>(collections: &'a mut HashMap<String, Collection>, name: &str) -> Result<&'a mut Collection, Status> {
    collections
        .get_mut(name)
        .ok_or_else(|| Status { code: 5, message: format!("Not found: Collection `{name}` doesn't exist!") })
}

fn wrong(message: &str) -> Status {
    Status { code: 3, message: message.to_owned() }
}

fn dense_of(point: &PointStruct) -> Option<Vec<f32>> {
    let VectorsOptions::Vectors(named) = point.vectors.as_ref()?.vectors_options.as_ref()? else { return None };
    let vector = named.vectors.get("dense")?;
    match &vector.vector {
        Some(Vector::Dense(dense)) => Some(dense.data.clone()),
        _ => None,
    }
}

fn unit(vector: &[f32]) -> Vec<f32> {
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    vector.iter().map(|value| value / norm).collect()
}
