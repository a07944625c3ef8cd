//! Memories, their vectors, and the outbox: memories the vector store does not have yet.
//!
//! **Invariant:** every question about content takes a [`ProjectScope`]; the outbox is the one queue over all projects.
//! **Invariant:** the database holds the texts; any vector store can be rebuilt from it.

use std::{collections::HashMap, sync::Arc};

use crewline_types::{MemoryId, MemoryMarks, MemoryRecord, MemoryType, ProjectScope, RunId, TaskId, Timestamp};
use sea_orm::{ConnectionTrait as _, FromQueryResult, QueryResult, Statement, Value};

use crate::{
    Backend, Error, Store,
    entity::{self, opt, small},
    sql::{Args, clamp, clean},
    statements as sql,
};

/// Ids in one statement.
const IDS_MAX: usize = 500;

const COLUMNS: &str = "m.seq, m.id, m.project, m.run_id, m.task_id, m.kind, m.agent, m.created_at, \
     COALESCE(m.text, t.body) AS text, m.source_ids, m.importance, m.pinned, m.superseded_by, m.repeats, m.stale, \
     m.metadata";

/// A memory with its text, wherever that is kept.
#[derive(FromQueryResult)]
struct MemoryRow {
    seq: i64,
    id: Vec<u8>,
    project: String,
    run_id: Option<String>,
    task_id: Option<String>,
    kind: String,
    agent: String,
    created_at: i64,
    text: Option<String>,
    source_ids: Option<Vec<u8>>,
    importance: i64,
    pinned: bool,
    superseded_by: Option<Vec<u8>>,
    repeats: i64,
    stale: bool,
    metadata: Option<String>,
}

impl Store {
    /// The memories of a project after the row `after`, oldest first, each with its row number.
    ///
    /// Row numbers grow; on PostgreSQL a row of another process may appear a moment later than one with a higher number.
    pub async fn memories(
        &self,
        scope: &ProjectScope,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(u64, MemoryRecord)>, Error> {
        let condition = "m.project = $1 AND m.seq > $2 ORDER BY m.seq LIMIT $3";
        let project = clean(scope.project()).into_owned();
        self.select(condition, vec![project.into(), clamp(after).into(), i64::from(limit).into()]).await
    }

    /// The memories of a project with these ids, in no order; ids that are not there are left out.
    pub async fn memories_by_id(
        &self,
        scope: &ProjectScope,
        ids: &[MemoryId],
    ) -> Result<Vec<(u64, MemoryRecord)>, Error> {
        let mut found = Vec::new();
        for ids in ids.chunks(IDS_MAX) {
            let condition = format!("m.project = $1 AND m.id IN ({})", marks_from(2, ids.len()));
            let mut values: Vec<Value> = vec![clean(scope.project()).into_owned().into()];
            values.extend(ids.iter().map(|id| Value::from(id.0.to_be_bytes().to_vec())));
            found.extend(self.select(&condition, values).await?);
        }
        Ok(found)
    }

    /// The projects that have memories, and how many each.
    pub async fn memory_projects(&self) -> Result<Vec<(String, u64)>, Error> {
        let reader = self.reader().await?;
        let text = "SELECT project, COUNT(*) FROM memories GROUP BY project ORDER BY project";
        let rows = reader.query_all_raw(Statement::from_string(reader.get_database_backend(), text)).await?;
        rows.iter()
            .map(|row| {
                let count: i64 = row.try_get_by_index(1)?;
                Ok((row.try_get_by_index(0)?, entity::unsigned(count)))
            })
            .collect()
    }

    /// When the oldest memory that the vector store does not have was made.
    pub async fn memory_outbox_oldest(&self) -> Result<Option<Timestamp>, Error> {
        let text = match self.backend() {
            Backend::Sqlite => "SELECT MIN(created_at) FROM memories WHERE drained = 0",
            Backend::Postgres => "SELECT MIN(created_at) FROM memories WHERE NOT drained",
        };
        let reader = self.reader().await?;
        let row = reader.query_one_raw(Statement::from_string(reader.get_database_backend(), text)).await?;
        let at: Option<i64> = row.map_or(Ok(None), |row| row.try_get_by_index(0))?;
        Ok(at.map(Timestamp))
    }

    /// Memories the vector store does not have yet, oldest first, each with its row number.
    pub async fn memory_outbox(&self, limit: u32) -> Result<Vec<(u64, MemoryRecord)>, Error> {
        let condition = match self.backend() {
            // Word for word the condition of the partial index.
            Backend::Sqlite => "m.drained = 0 ORDER BY m.seq LIMIT $1",
            Backend::Postgres => "NOT m.drained ORDER BY m.seq LIMIT $1",
        };
        self.select(condition, vec![i64::from(limit).into()]).await
    }

    /// How many memories the vector store does not have yet.
    pub async fn memory_outbox_depth(&self) -> Result<u64, Error> {
        let text = match self.backend() {
            Backend::Sqlite => "SELECT COUNT(*) FROM memories WHERE drained = 0",
            Backend::Postgres => "SELECT COUNT(*) FROM memories WHERE NOT drained",
        };
        let reader = self.reader().await?;
        let row = reader.query_one_raw(Statement::from_string(reader.get_database_backend(), text)).await?;
        let depth: i64 = row.map_or(Ok(0), |row| row.try_get_by_index(0))?;
        Ok(depth.unsigned_abs())
    }

    /// The vectors by one embedding model of a project's memories behind the row `after`, up to the row `through`.
    pub async fn vectors(
        &self,
        scope: &ProjectScope,
        model: &str,
        after: u64,
        through: u64,
    ) -> Result<Vec<(MemoryId, Vec<f32>)>, Error> {
        let reader = self.reader().await?;
        let values: [Value; 4] = [
            clean(scope.project()).into_owned().into(),
            clean(model).into_owned().into(),
            clamp(after).into(),
            clamp(through).into(),
        ];
        let statement = Statement::from_sql_and_values(
            reader.get_database_backend(),
            "SELECT m.id, v.vector FROM memories AS m JOIN memory_vectors AS v ON v.memory = m.seq AND v.model = $2 \
             WHERE m.project = $1 AND m.seq > $3 AND m.seq <= $4 ORDER BY m.seq",
            values,
        );
        reader.query_all_raw(statement).await?.iter().map(vector_of).collect()
    }

    /// The vectors by one embedding model of the memories with these ids.
    pub async fn vectors_by_id(&self, model: &str, ids: &[MemoryId]) -> Result<HashMap<MemoryId, Vec<f32>>, Error> {
        let mut vectors = HashMap::new();
        for ids in ids.chunks(IDS_MAX) {
            let reader = self.reader().await?;
            let mut values: Vec<Value> = vec![clean(model).into_owned().into()];
            values.extend(ids.iter().map(|id| Value::from(id.0.to_be_bytes().to_vec())));
            let statement = Statement::from_sql_and_values(
                reader.get_database_backend(),
                format!(
                    "SELECT m.id, v.vector FROM memories AS m JOIN memory_vectors AS v \
                     ON v.memory = m.seq AND v.model = $1 WHERE m.id IN ({})",
                    marks_from(2, ids.len())
                ),
                values,
            );
            for row in reader.query_all_raw(statement).await? {
                let (id, vector) = vector_of(&row)?;
                vectors.insert(id, vector);
            }
        }
        Ok(vectors)
    }

    /// Takes memories out of the outbox, and keeps their vectors by `model` when there are some, one for each id.
    /// An id that is not there is ignored; a vector that is there already is replaced.
    pub async fn memory_done(&self, model: &str, ids: &[MemoryId], vectors: Option<&[Vec<f32>]>) -> Result<(), Error> {
        if vectors.is_some_and(|vectors| vectors.len() != ids.len()) {
            return Err(Error::Invalid { what: "there must be one vector for each memory" });
        }
        if ids.is_empty() {
            return Ok(());
        }
        let rows: HashMap<MemoryId, &[f32]> =
            vectors.unwrap_or_default().iter().map(Vec::as_slice).zip(ids).map(|(vector, id)| (*id, vector)).collect();
        let rows: Vec<(MemoryId, &[f32])> = rows.into_iter().collect();
        let mut tx = self.inner.writer.begin().await?;
        let done = async {
            let add = |args: &mut Args, (id, vector): &(MemoryId, &[f32])| {
                args.bytes(&id.0.to_be_bytes());
                args.text(model);
                let bytes: Vec<u8> = vector.iter().flat_map(|it| it.to_le_bytes()).collect();
                args.bytes(&bytes);
            };
            tx.write(&sql::INSERT_VECTORS, &rows, add).await?;
            tx.write(&sql::DRAIN_MEMORIES, ids, |args, id| args.bytes(&id.0.to_be_bytes())).await?;
            Ok::<_, Error>(())
        };
        match done.await {
            Ok(()) => tx.commit().await,
            Err(error) => {
                tx.rollback(&error).await;
                Err(error)
            }
        }
    }

    pub(crate) async fn select(&self, condition: &str, values: Vec<Value>) -> Result<Vec<(u64, MemoryRecord)>, Error> {
        let reader = self.reader().await?;
        let statement = Statement::from_sql_and_values(
            reader.get_database_backend(),
            format!(
                "SELECT {COLUMNS} FROM memories AS m LEFT JOIN texts AS t ON t.hash = m.text_hash WHERE {condition}"
            ),
            values,
        );
        MemoryRow::find_by_statement(statement).all(reader).await?.into_iter().map(MemoryRow::into_domain).collect()
    }
}

impl MemoryRow {
    fn into_domain(self) -> Result<(u64, MemoryRecord), Error> {
        let id = memory_id(&self.id)?;
        let text = self.text.ok_or_else(|| Error::corrupt("memories.text_hash", &id.to_string()))?;
        let (sources, rest) = self.source_ids.as_deref().unwrap_or_default().as_chunks::<16>();
        if !rest.is_empty() {
            return Err(Error::corrupt("memories.source_ids", &id.to_string()));
        }
        let record = MemoryRecord {
            id,
            project: self.project.into(),
            run: opt("memories.run_id", self.run_id, |it| it.parse::<RunId>().ok())?,
            task: opt("memories.task_id", self.task_id, |it| it.parse::<TaskId>().ok())?,
            kind: MemoryType::from(self.kind.as_str()),
            agent: Arc::from(self.agent),
            created_at: Timestamp(self.created_at),
            text: text.into(),
            source_ids: sources.iter().map(|it| MemoryId(u128::from_be_bytes(*it))).collect(),
            marks: MemoryMarks {
                importance: small("memories.importance", self.importance)?,
                pinned: self.pinned,
                superseded_by: self.superseded_by.as_deref().map(memory_id).transpose()?,
                repeats: small("memories.repeats", self.repeats)?,
                stale: self.stale,
                metadata: opt("memories.metadata", self.metadata, |it| serde_json::from_str(it).ok())?
                    .unwrap_or_default(),
            },
        };
        Ok((entity::unsigned(self.seq), record))
    }
}

pub(crate) fn memory_id(bytes: &[u8]) -> Result<MemoryId, Error> {
    let bytes = bytes.try_into().map_err(|_| Error::corrupt("memories.id", &format!("{} bytes", bytes.len())))?;
    Ok(MemoryId(u128::from_be_bytes(bytes)))
}

/// `$2, $3 …`, for so many values.
fn marks_from(first: usize, count: usize) -> String {
    let marks: Vec<String> = (first..first + count).map(|number| format!("${number}")).collect();
    marks.join(", ")
}

/// An id and a vector.
fn vector_of(row: &QueryResult) -> Result<(MemoryId, Vec<f32>), Error> {
    let (id, bytes): (Vec<u8>, Vec<u8>) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
    let (floats, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Error::corrupt("memory_vectors.vector", &format!("{} bytes", bytes.len())));
    }
    Ok((memory_id(&id)?, floats.iter().map(|it| f32::from_le_bytes(*it)).collect()))
}
