//! Memories, their vectors, and the outbox: memories the vector store does not have yet.
//!
//! **Invariant:** every question about content takes a [`ProjectScope`]; the outbox is the one queue over all projects.
//! **Invariant:** the database holds the texts; any vector store can be rebuilt from it.

use std::{borrow::Cow, collections::HashMap};

use crewline_types::{MemoryId, MemoryMarks, MemoryRecord, MemoryType, ProjectScope, RunId, TaskId, Timestamp};
use sea_orm::{ConnectionTrait as _, QueryResult, Statement, Value};
use serde::Deserialize;

use crate::{
    Backend, Error, Store,
    entity::{self, opt, small},
    packed,
    sql::{Args, Recent, clean},
    statements as sql,
    tx::Row,
};

/// Ids in one statement.
const IDS_MAX: usize = 500;

/// Vectors in one row of an answer.
const VECTORS: u64 = 128;

/// Memories in one answer of a whole project.
const PAGE: u32 = 128;

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
        self.memory_page(scope, after, u64::MAX, limit).await?.records()
    }

    /// The memories of a project behind the row `after`, up to the row `through`, oldest first, each with its row number.
    pub async fn memories_through(
        &self,
        scope: &ProjectScope,
        after: u64,
        through: u64,
    ) -> Result<Vec<(u64, MemoryRecord)>, Error> {
        let (mut found, mut after) = (Vec::new(), after);
        loop {
            let page = self.memory_page(scope, after, through, PAGE).await?;
            let last = page.last();
            found.extend(page.records()?);
            match last {
                Some(last) => after = last,
                None => return Ok(found),
            }
        }
    }

    /// The first `limit` memories of a project behind the row `after`, up to the row `through`, oldest first, as the database
    /// packs them.
    pub async fn memory_page(
        &self,
        scope: &ProjectScope,
        after: u64,
        through: u64,
        limit: u32,
    ) -> Result<MemoryPage, Error> {
        let condition = "m.project = $1 AND m.seq > $2 AND m.seq <= $3 ORDER BY m.seq LIMIT $4";
        self.pack(condition, 4, |args| {
            args.text(scope.project());
            args.count(after);
            args.count(through);
            args.int(i64::from(limit));
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

    /// The first vectors by one embedding model of a project's memories behind the row `after`.
    pub async fn vector_page(&self, scope: &ProjectScope, model: &str, after: u64) -> Result<VectorPage, Error> {
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
             AND v.model = $2 WHERE m.project = $1 AND m.seq > $3 ORDER BY m.seq LIMIT $4) AS page"
        );
        let add = |args: &mut Args| {
            args.text(scope.project());
            args.text(model);
            args.count(after);
            args.count(VECTORS);
        };
        let mut page = VectorPage::default();
        self.read(&text, 4, add, |row| page.unpack(row)).await?;
        Ok(page)
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

    /// Memories for which `condition` holds, whose `count` values `add` adds, by ascending row.
    pub(crate) async fn select(
        &self,
        condition: &str,
        count: usize,
        add: impl FnOnce(&mut Args),
    ) -> Result<Vec<(u64, MemoryRecord)>, Error> {
        self.pack(condition, count, add).await?.records()
    }

    /// The same in one answer: a row of the driver costs more than a memory.
    async fn pack(&self, condition: &str, count: usize, add: impl FnOnce(&mut Args)) -> Result<MemoryPage, Error> {
        let hex = |column| self.digits_of(column);
        let (id, sources, newer) = (hex("id"), hex("source_ids"), hex("superseded_by"));
        let row = format!(
            "seq, {id}, project, run_id, task_id, kind, agent, created_at, text, {sources}, importance, pinned, {newer}, \
             repeats, stale, metadata"
        );
        let rows = match self.backend() {
            Backend::Sqlite => format!("json_group_array(json_array({row}))"),
            Backend::Postgres => format!("json_agg(json_build_array({row}))::TEXT"),
        };
        let text = format!(
            "SELECT COUNT(*), MAX(seq), {rows} FROM (SELECT m.seq, m.id, m.project, m.run_id, m.task_id, m.kind, m.agent, m.created_at, \
             COALESCE(m.text, t.body) AS text, m.source_ids, m.importance, m.pinned, m.superseded_by, m.repeats, m.stale, \
             m.metadata FROM memories AS m LEFT JOIN texts AS t ON t.hash = m.text_hash WHERE {condition}) AS page"
        );
        let mut page = MemoryPage::default();
        self.read(&text, count, add, |row| {
            page.count = small("memories", row.int(0)?)?;
            page.last = row.int_or_null(1)?.map(entity::unsigned);
            page.json = row.text_or_null(2)?.unwrap_or_default().into();
            Ok(())
        })
        .await?;
        Ok(page)
    }
}

/// Memories as the database packs them.
#[derive(Debug, Default)]
pub struct MemoryPage {
    count: usize,
    last: Option<u64>,
    json: String,
}

impl MemoryPage {
    /// The greatest row; none when there is no memory.
    pub fn last(&self) -> Option<u64> {
        self.last
    }

    /// How many memories there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The memories by ascending row, each with its row number. Takes a microsecond for each.
    pub fn records(&self) -> Result<Vec<(u64, MemoryRecord)>, Error> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let packed: Vec<Packed<'_>> =
            serde_json::from_str(&self.json).map_err(|error| Error::corrupt("json", &error.to_string()))?;
        let mut words = Recent::default();
        let mut records = Vec::with_capacity(packed.len());
        for row in packed {
            records.push(row.record(&mut words)?);
        }
        // Whoever asks without an order gets this one, and no database promises that what it packs is in order.
        records.sort_unstable_by_key(|(row, _)| *row);
        Ok(records)
    }
}

/// The columns of a memory, in the order in which [`Store::pack`] names them.
#[derive(Deserialize)]
struct Packed<'a> {
    seq: i64,
    id: &'a str,
    #[serde(borrow)]
    project: Words<'a>,
    run_id: Option<&'a str>,
    task_id: Option<&'a str>,
    #[serde(borrow)]
    kind: Words<'a>,
    #[serde(borrow)]
    agent: Words<'a>,
    created_at: i64,
    #[serde(borrow)]
    text: Option<Words<'a>>,
    source_ids: Option<&'a str>,
    importance: i64,
    #[serde(deserialize_with = "packed::bit")]
    pinned: bool,
    superseded_by: Option<&'a str>,
    repeats: i64,
    #[serde(deserialize_with = "packed::bit")]
    stale: bool,
    #[serde(borrow)]
    metadata: Option<Words<'a>>,
}

/// A text, which is copied only where JSON writes it in another way.
#[derive(Deserialize)]
#[serde(transparent)]
struct Words<'a>(#[serde(borrow)] Cow<'a, str>);

impl Packed<'_> {
    fn record(self, words: &mut Recent) -> Result<(u64, MemoryRecord), Error> {
        let ids = |column, digits| ids_of(digits).ok_or_else(|| Error::corrupt(column, digits));
        let [id] = ids("memories.id", self.id)?[..] else { return Err(Error::corrupt("memories.id", self.id)) };
        let text = self.text.ok_or_else(|| Error::corrupt("memories.text_hash", self.id))?;
        let newer = self.superseded_by.map(|it| ids("memories.superseded_by", it)).transpose()?;
        let record = MemoryRecord {
            id,
            project: words.word(&self.project.0),
            run: opt("memories.run_id", self.run_id, |it| it.parse::<RunId>().ok())?,
            task: opt("memories.task_id", self.task_id, |it| it.parse::<TaskId>().ok())?,
            kind: MemoryType::from(&*self.kind.0),
            agent: words.word(&self.agent.0),
            created_at: Timestamp(self.created_at),
            text: text.0.into(),
            source_ids: self.source_ids.map_or(Ok(Vec::new()), |it| ids("memories.source_ids", it))?,
            marks: MemoryMarks {
                importance: small("memories.importance", self.importance)?,
                pinned: self.pinned,
                superseded_by: newer.and_then(|it| it.first().copied()),
                repeats: small("memories.repeats", self.repeats)?,
                stale: self.stale,
                metadata: opt("memories.metadata", self.metadata.map(|it| it.0), |it| serde_json::from_str(it).ok())?
                    .unwrap_or_default(),
            },
        };
        Ok((entity::unsigned(self.seq), record))
    }
}

/// Ids that stand one after the other, in hexadecimal digits.
fn ids_of(digits: &str) -> Option<Vec<MemoryId>> {
    let bytes = packed::bytes_of(digits)?;
    let (ids, rest) = bytes.as_chunks::<16>();
    rest.is_empty().then(|| ids.iter().map(|it| MemoryId(u128::from_be_bytes(*it))).collect())
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

/// Vectors of memories, in no order.
#[derive(Debug, Default, PartialEq)]
pub struct VectorPage {
    rows: Vec<u64>,
    /// Where each vector ends.
    ends: Vec<usize>,
    floats: Vec<f32>,
}

impl VectorPage {
    /// The greatest row; none when there is no vector.
    pub fn last(&self) -> Option<u64> {
        self.rows.iter().copied().max()
    }

    /// The row of each memory, and its vector.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[f32])> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        self.rows.iter().zip(begins.zip(&self.ends)).map(|(row, (begin, end))| (*row, &self.floats[begin..*end]))
    }

    /// Takes the vectors of one row apart: row numbers, lengths, and the bytes of all.
    fn unpack(&mut self, row: &Row) -> Result<(), Error> {
        let (Some(rows), Some(lengths)) = (row.text_or_null(0)?, row.text_or_null(1)?) else { return Ok(()) };
        let corrupt = || Error::corrupt("memory_vectors.vector", rows);
        self.floats = floats(row.bytes_or_null(2)?.unwrap_or_default())?;
        let mut end = 0;
        for (row, length) in rows.split(',').zip(lengths.split(',')) {
            let (row, length): (u64, usize) =
                (row.parse().map_err(|_| corrupt())?, length.parse().map_err(|_| corrupt())?);
            end += length / size_of::<f32>();
            if !length.is_multiple_of(size_of::<f32>()) || end > self.floats.len() {
                return Err(corrupt());
            }
            self.rows.push(row);
            self.ends.push(end);
        }
        Ok(())
    }
}

fn floats(bytes: &[u8]) -> Result<Vec<f32>, Error> {
    let (floats, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Error::corrupt("memory_vectors.vector", &format!("{} bytes", bytes.len())));
    }
    Ok(floats.iter().map(|it| f32::from_le_bytes(*it)).collect())
}
