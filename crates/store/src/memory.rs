//! Memories, their vectors, and the outbox: memories the vector store does not have yet.
//!
//! **Invariant:** every question about content takes a [`ProjectScope`]; the outbox is the one queue over all projects.
//! **Invariant:** the database holds the texts; any vector store can be rebuilt from it.

use std::collections::HashMap;

use crewline_types::{MemoryId, MemoryMarks, MemoryRecord, MemoryType, ProjectScope, RunId, TaskId, Timestamp};
use sea_orm::{ConnectionTrait as _, QueryResult, Statement, Value};

use crate::{
    Backend, Error, Store,
    entity::{self, opt, small},
    sql::{Args, Recent, clean},
    statements as sql,
    tx::Row,
};

/// Ids in one statement.
const IDS_MAX: usize = 500;

/// Vectors in one row of an answer.
const VECTORS: usize = 256;

const COLUMNS: &str = "m.seq, m.id, m.project, m.run_id, m.task_id, m.kind, m.agent, m.created_at, \
     COALESCE(m.text, t.body) AS text, m.source_ids, m.importance, m.pinned, m.superseded_by, m.repeats, m.stale, \
     m.metadata";

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
        self.select(condition, 3, |args| {
            args.text(scope.project());
            args.count(after);
            args.int(i64::from(limit));
        })
        .await
    }

    /// The memories of a project behind the row `after`, up to the row `through`, oldest first, each with its row number.
    pub async fn memories_through(
        &self,
        scope: &ProjectScope,
        after: u64,
        through: u64,
    ) -> Result<Vec<(u64, MemoryRecord)>, Error> {
        let condition = "m.project = $1 AND m.seq > $2 AND m.seq <= $3 ORDER BY m.seq";
        self.select(condition, 3, |args| {
            args.text(scope.project());
            args.count(after);
            args.count(through);
        })
        .await
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
            let add = |args: &mut Args| {
                args.text(scope.project());
                for id in ids {
                    args.bytes(&id.0.to_be_bytes());
                }
            };
            found.extend(self.select(&condition, 1 + ids.len(), add).await?);
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
        self.select(condition, 1, |args| args.int(i64::from(limit))).await
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

    /// The vectors by one embedding model of a project's memories behind the row `after`, up to the row `through`, each with
    /// its row number, which grow.
    pub async fn vectors(
        &self,
        scope: &ProjectScope,
        model: &str,
        after: u64,
        through: u64,
    ) -> Result<Vec<(u64, Vec<f32>)>, Error> {
        // Many in one row: each row of its own would cost more than what is in it.
        let of_many = match self.backend() {
            Backend::Sqlite => {
                "SELECT group_concat(seq), group_concat(length(vector)), CAST(group_concat(vector, '') AS BLOB)"
            }
            Backend::Postgres => {
                "SELECT string_agg(seq::TEXT, ','), string_agg(length(vector)::TEXT, ','), string_agg(vector, ''::BYTEA)"
            }
        };
        let text = format!(
            "{of_many} FROM (SELECT m.seq, v.vector FROM memories AS m JOIN memory_vectors AS v ON v.memory = m.seq \
             AND v.model = $2 WHERE m.project = $1 AND m.seq > $3 AND m.seq <= $4 ORDER BY m.seq LIMIT $5) AS page"
        );
        let mut vectors: Vec<(u64, Vec<f32>)> = Vec::new();
        loop {
            let before = vectors.len();
            let after = vectors.last().map_or(after, |(row, _)| *row);
            let add = |args: &mut Args| {
                args.text(scope.project());
                args.text(model);
                args.count(after);
                args.count(through);
                args.count(VECTORS as u64);
            };
            self.read(&text, 5, add, |row| unpack(row, &mut vectors)).await?;
            vectors[before..].sort_unstable_by_key(|(row, _)| *row);
            if vectors.len() < before + VECTORS {
                return Ok(vectors);
            }
        }
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

    /// Memories for which `condition` holds, whose `count` values `add` adds.
    pub(crate) async fn select(
        &self,
        condition: &str,
        count: usize,
        add: impl FnOnce(&mut Args),
    ) -> Result<Vec<(u64, MemoryRecord)>, Error> {
        let text = format!(
            "SELECT {COLUMNS} FROM memories AS m LEFT JOIN texts AS t ON t.hash = m.text_hash WHERE {condition}"
        );
        let (mut found, mut words) = (Vec::new(), Recent::default());
        self.read(&text, count, add, |row| {
            found.push(memory(row, &mut words)?);
            Ok(())
        })
        .await?;
        Ok(found)
    }
}

/// A row of [`COLUMNS`].
fn memory(row: &Row, words: &mut Recent) -> Result<(u64, MemoryRecord), Error> {
    let id = memory_id(row.bytes(1)?)?;
    let text = row.text_or_null(8)?.ok_or_else(|| Error::corrupt("memories.text_hash", &id.to_string()))?;
    let (sources, rest) = row.bytes_or_null(9)?.unwrap_or_default().as_chunks::<16>();
    if !rest.is_empty() {
        return Err(Error::corrupt("memories.source_ids", &id.to_string()));
    }
    let record = MemoryRecord {
        id,
        project: words.word(row.text(2)?),
        run: opt("memories.run_id", row.text_or_null(3)?, |it| it.parse::<RunId>().ok())?,
        task: opt("memories.task_id", row.text_or_null(4)?, |it| it.parse::<TaskId>().ok())?,
        kind: MemoryType::from(row.text(5)?),
        agent: words.word(row.text(6)?),
        created_at: Timestamp(row.int(7)?),
        text: text.into(),
        source_ids: sources.iter().map(|it| MemoryId(u128::from_be_bytes(*it))).collect(),
        marks: MemoryMarks {
            importance: small("memories.importance", row.int(10)?)?,
            pinned: row.bool(11)?,
            superseded_by: row.bytes_or_null(12)?.map(memory_id).transpose()?,
            repeats: small("memories.repeats", row.int(13)?)?,
            stale: row.bool(14)?,
            metadata: opt("memories.metadata", row.text_or_null(15)?, |it| serde_json::from_str(it).ok())?
                .unwrap_or_default(),
        },
    };
    Ok((entity::unsigned(row.int(0)?), record))
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
    Ok((memory_id(&id)?, floats(&bytes)?))
}

/// Takes the vectors of one row apart: row numbers, lengths, and the bytes of all.
fn unpack(row: &Row, vectors: &mut Vec<(u64, Vec<f32>)>) -> Result<(), Error> {
    let (Some(rows), Some(lengths)) = (row.text_or_null(0)?, row.text_or_null(1)?) else { return Ok(()) };
    let mut rest = row.bytes_or_null(2)?.unwrap_or_default();
    let corrupt = || Error::corrupt("memory_vectors.vector", rows);
    for (row, length) in rows.split(',').zip(lengths.split(',')) {
        let (row, length) = (row.parse().map_err(|_| corrupt())?, length.parse().map_err(|_| corrupt())?);
        let (vector, others) = rest.split_at_checked(length).ok_or_else(corrupt)?;
        vectors.push((row, floats(vector)?));
        rest = others;
    }
    Ok(())
}

fn floats(bytes: &[u8]) -> Result<Vec<f32>, Error> {
    let (floats, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Error::corrupt("memory_vectors.vector", &format!("{} bytes", bytes.len())));
    }
    Ok(floats.iter().map(|it| f32::from_le_bytes(*it)).collect())
}
