//! What the server holds, and what it answers.

use std::collections::HashMap;

use prost::Message;
use qdrant_client::qdrant::{
    BatchResult, CollectionExists, CollectionExistsRequest, CollectionExistsResponse, CollectionOperationResponse,
    CreateCollection, CreateFieldIndexCollection, DeletePoints, GetCollectionInfoRequest, GetCollectionInfoResponse,
    HealthCheckReply, PointsOperationResponse, QueryBatchPoints, QueryBatchResponse, QueryPoints, QueryResponse,
    UpdateResult, UpsertPoints, points_selector::PointsSelectorOneOf,
};

use super::collection::Collection;

/// A gRPC status other than success.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) code: u16,
    pub(super) message: String,
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
            let collection = Collection::new(request.vectors_config, request.sparse_vectors_config);
            collections.insert(request.collection_name, collection);
            Ok(done())
        }
        "/qdrant.Points/CreateFieldIndex" => {
            let request: CreateFieldIndexCollection = read(message)?;
            let kind = request.field_type.unwrap_or_default();
            of(collections, &request.collection_name)?.index(request.field_name, kind);
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
            of(collections, &request.collection_name)?.delete(&filter);
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

pub(super) fn wrong(message: &str) -> Status {
    Status { code: 3, message: message.to_owned() }
}
