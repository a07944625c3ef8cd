//! Our types as Qdrant's messages, and back.
//!
//! **Invariant:** a filter always demands the project; a payload of another project is no record.

use std::collections::HashMap;

use crewline_types::{MemoryId, MemoryMarks, MemoryRecord, MemoryType, ProjectScope, Timestamp};
use qdrant_client::{
    Payload,
    qdrant::{
        Condition, Filter as Conditions, ListValue, PointId, PointStruct, Range, ScoredPoint, Value, Vector,
        point_id::PointIdOptions, value::Kind,
    },
};

use super::words;
use crate::{Filter, Point, store::belongs};

/// The dense vector's name.
pub(super) const DENSE: &str = "dense";
/// The sparse vector's name.
pub(super) const WORDS: &str = "text";
pub(super) const PROJECT: &str = "project";
pub(super) const KIND: &str = "kind";
pub(super) const TASK: &str = "task";
pub(super) const AGENT: &str = "agent";
pub(super) const CREATED_AT: &str = "created_at";
const RUN: &str = "run";
const TEXT: &str = "text";
const SOURCES: &str = "source_ids";

/// What a gRPC status means to us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Status {
    Slow,
    Down,
    Auth,
    Lost,
    Wrong,
}

impl Status {
    /// Codes: <https://grpc.io/docs/guides/status-codes/>.
    pub(super) fn of(code: i32, message: &str) -> Self {
        match code {
            4 => Self::Slow,
            // The client says `cancelled` when its own limit passes, and when the connection breaks under a request.
            1 if message.to_ascii_lowercase().contains("timeout") => Self::Slow,
            5 => Self::Lost,
            7 | 16 => Self::Auth,
            1 | 8 | 10 | 14 => Self::Down,
            // The client says `internal` when it can not connect, and `unknown` when the connection broke.
            13 if message.starts_with("Failed to connect") => Self::Down,
            2 if message.contains("transport error") => Self::Down,
            _ => Self::Wrong,
        }
    }
}

pub(super) fn collection_name(model: &str, dimensions: usize) -> String {
    let slug: String =
        model.chars().map(|char| if char.is_ascii_alphanumeric() { char.to_ascii_lowercase() } else { '-' }).collect();
    format!("crewline_{slug}_{dimensions}")
}

pub(super) fn conditions(scope: &ProjectScope, filter: &Filter) -> Conditions {
    let mut must = vec![Condition::matches(PROJECT, scope.project().to_owned())];
    if !filter.kinds.is_empty() {
        let kinds: Vec<String> = filter.kinds.iter().map(|kind| kind.as_str().to_owned()).collect();
        must.push(Condition::matches(KIND, kinds));
    }
    if let Some(task) = filter.task {
        must.push(Condition::matches(TASK, task.to_string()));
    }
    if let Some(agent) = &filter.agent {
        must.push(Condition::matches(AGENT, agent.to_string()));
    }
    if let Some(since) = filter.since {
        must.push(Condition::range(CREATED_AT, Range { gte: Some(since.0 as f64), ..Range::default() }));
    }
    let mut conditions = Conditions::must(must);
    if !filter.exclude_tasks.is_empty() {
        let tasks: Vec<String> = filter.exclude_tasks.iter().map(ToString::to_string).collect();
        conditions.must_not.push(Condition::matches(TASK, tasks));
    }
    conditions
}

/// The id's 16 bytes as a UUID.
pub(super) fn point_id(id: MemoryId) -> PointId {
    let hex = id.to_string();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]).into()
}

pub(super) fn memory_id(id: PointId) -> Option<MemoryId> {
    match id.point_id_options? {
        PointIdOptions::Uuid(uuid) => u128::from_str_radix(&uuid.replace('-', ""), 16).ok().map(MemoryId),
        PointIdOptions::Num(_) => None,
    }
}

pub(super) fn to_point(point: Point) -> Option<PointStruct> {
    let Point { id, record, vector } = point;
    let mut payload = Payload::with_capacity(8);
    payload.insert(PROJECT, &*record.project);
    payload.insert(KIND, record.kind.as_str());
    payload.insert(AGENT, &*record.agent);
    payload.insert(CREATED_AT, record.created_at.0);
    payload.insert(TEXT, &*record.text);
    if let Some(task) = record.task {
        payload.insert(TASK, task.as_str());
    }
    if let Some(run) = record.run {
        payload.insert(RUN, run.as_str());
    }
    if !record.source_ids.is_empty() {
        let values = record.source_ids.iter().map(|id| Value::from(id.to_string())).collect();
        payload.insert(SOURCES, Value::from(Kind::ListValue(ListValue { values })));
    }
    let mut vectors = HashMap::from([(DENSE.to_owned(), Vector::from(vector?))]);
    let (indices, values) = words::of_text(&record.project, &record.text).into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
    if !indices.is_empty() {
        vectors.insert(WORDS.to_owned(), Vector::new_sparse(indices, values));
    }
    Some(PointStruct::new(point_id(id), vectors, payload))
}

/// The record in a point's payload; none when it is not one of ours, or of another project.
pub(super) fn to_record(scope: &ProjectScope, point: &ScoredPoint) -> Option<MemoryRecord> {
    let text = |key: &str| match point.payload.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text.as_str()),
        _ => None,
    };
    let created_at = match point.payload.get(CREATED_AT)?.kind.as_ref()? {
        Kind::IntegerValue(micros) => Timestamp(*micros),
        _ => return None,
    };
    let source_ids = match point.payload.get(SOURCES).and_then(|value| value.kind.as_ref()) {
        Some(Kind::ListValue(list)) => list
            .values
            .iter()
            .filter_map(|value| match value.kind.as_ref()? {
                Kind::StringValue(id) => id.parse().ok(),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    let record = MemoryRecord {
        id: memory_id(point.id.clone()?)?,
        project: text(PROJECT)?.into(),
        run: text(RUN).and_then(|id| id.parse().ok()),
        task: text(TASK).and_then(|id| id.parse().ok()),
        kind: MemoryType::from(text(KIND)?),
        agent: text(AGENT)?.into(),
        created_at,
        text: text(TEXT)?.into(),
        source_ids,
        marks: MemoryMarks::default(),
    };
    belongs(scope, &record).ok().map(|()| record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::record;

    #[test]
    fn records_survive_the_payload() {
        let scope = ProjectScope::of("p");
        let mut record = record("p", "red fox", 7);
        record.task = Some("aaaaaaaa".parse().unwrap());
        record.run = Some("bbbbbbbb".parse().unwrap());
        record.source_ids = vec![MemoryId(1), MemoryId(u128::MAX)];
        let sent = to_point(Point { id: record.id, record: record.clone(), vector: Some(vec![1.0, 0.0]) }).unwrap();
        let found = ScoredPoint { id: sent.id, payload: sent.payload, ..ScoredPoint::default() };
        assert_eq!(to_record(&ProjectScope::of("q"), &found), None);
        assert_eq!(to_record(&scope, &found), Some(record));
    }

    #[test]
    fn statuses() {
        for (code, message, status) in [
            (4, "", Status::Slow),
            (14, "", Status::Down),
            (13, "Failed to connect to http://x", Status::Down),
            (13, "panic", Status::Wrong),
            (3, "wrong vector", Status::Wrong),
            (16, "", Status::Auth),
            (5, "no collection", Status::Lost),
        ] {
            assert_eq!(Status::of(code, message), status, "{code} {message}");
        }
    }
}
