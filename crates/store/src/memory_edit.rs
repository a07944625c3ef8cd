//! Writing memories outside a run's commit: adding, marking, forgetting, and where their vectors are.
//!
//! **Invariant:** what is forgotten leaves a row in `memory_forgotten` until the vector store has forgotten it too.
//! **Invariant:** another target of the vectors puts every memory back into the outbox, in the same transaction.

use std::collections::{HashMap, HashSet};

use crewline_types::{MemoryId, MemoryMarks, MemoryRecord, ProjectScope, TaskId};
use sea_orm::{ConnectionTrait as _, Statement};

use crate::{
    Error, Store,
    memory::memory_id,
    memory_words,
    rows::add_memory,
    sql::{Args, Bulk, Type},
    statements as sql,
    summaries::Superseded,
    tx::Tx,
};

/// Sets all marks of memories.
pub(crate) static MARK_MEMORIES: Bulk = Bulk::new(
    "UPDATE memories AS m SET importance = v.column3, pinned = v.column4, superseded_by = v.column5, \
     repeats = v.column6, stale = v.column7, metadata = v.column8 FROM ",
    &[Type::Bytes, Type::Text, Type::Int, Type::Bool, Type::Bytes, Type::Int, Type::Bool, Type::Text],
    " WHERE m.id = v.column1 AND m.project = v.column2",
);

/// Says which memory has taken the place of which.
pub(crate) static SUPERSEDE_MEMORIES: Bulk = Bulk::new(
    "UPDATE memories AS m SET superseded_by = v.column3 FROM ",
    &[Type::Bytes, Type::Text, Type::Bytes],
    " WHERE m.id = v.column1 AND m.project = v.column2 AND m.id <> v.column3",
);

/// Takes memories out; their vectors go with them.
pub(crate) static FORGET_MEMORIES: Bulk = Bulk::new(
    "DELETE FROM memories WHERE (id, project) IN (SELECT column1, column2 FROM ",
    &[Type::Bytes, Type::Text],
    ")",
);

/// Remembers that the vector store must forget.
pub(crate) static INSERT_FORGOTTEN: Bulk = Bulk::new(
    "INSERT INTO memory_forgotten (id, project) SELECT column1, column2 FROM ",
    &[Type::Bytes, Type::Text],
    " WHERE column1 IS NOT NULL ON CONFLICT DO NOTHING",
);

/// The vector store has forgotten.
static DELETE_FORGOTTEN: Bulk = Bulk::new(
    "DELETE FROM memory_forgotten WHERE (id, project) IN (SELECT column1, column2 FROM ",
    &[Type::Bytes, Type::Text],
    ")",
);

/// Sets where the vectors are; touches no row when they are there already.
static SET_TARGET: Bulk = Bulk::new(
    "INSERT INTO memory_target (one, name) SELECT 1, column1 FROM ",
    &[Type::Text],
    " WHERE column1 IS NOT NULL ON CONFLICT (one) DO UPDATE SET name = excluded.name \
     WHERE memory_target.name <> excluded.name",
);

/// Puts every memory back into the outbox; the one row of values says nothing.
static REDRAIN_ALL: Bulk = Bulk::new(
    "UPDATE memories SET drained = FALSE WHERE drained AND EXISTS (SELECT 1 FROM ",
    &[Type::Text],
    " WHERE column1 IS NOT NULL)",
);

/// Drops the vectors of a project, by whatever model.
static DROP_VECTORS: Bulk = Bulk::new(
    "DELETE FROM memory_vectors WHERE memory IN (SELECT m.seq FROM memories AS m JOIN ",
    &[Type::Text],
    " ON m.project = v.column1)",
);

/// Puts the memories of a project back into the outbox.
static REDRAIN_PROJECT: Bulk = Bulk::new(
    "UPDATE memories AS m SET drained = FALSE FROM ",
    &[Type::Text],
    " WHERE m.project = v.column1 AND m.drained",
);

impl Store {
    /// Adds memories, all or none, and says which were new, in the same order. One that is there already is kept with
    /// its marks.
    pub async fn add_memories(&self, records: &[MemoryRecord]) -> Result<Vec<bool>, Error> {
        let mut known = self.known_memories(records).await?;
        let is_new: Vec<bool> = records.iter().map(|record| known.insert(record.id)).collect();
        let fresh: Vec<&MemoryRecord> =
            records.iter().zip(&is_new).filter_map(|(record, is_new)| is_new.then_some(record)).collect();
        if fresh.is_empty() {
            return Ok(is_new);
        }
        let marked: Vec<(MemoryId, &str, &MemoryMarks)> = fresh
            .iter()
            .filter(|record| record.marks != MemoryMarks::default())
            .map(|record| (record.id, &*record.project, &record.marks))
            .collect();
        let rows: Vec<_> = fresh.iter().map(|record| (*record, None)).collect();
        let mut tx = self.inner.writer.begin().await?;
        let done = async {
            tx.write(&sql::INSERT_MEMORIES, &rows, add_memory).await?;
            tx.write(&MARK_MEMORIES, &marked, add_marks).await?;
            Ok(())
        };
        let done = done.await;
        finish(tx, done).await?;
        Ok(is_new)
    }

    async fn known_memories(&self, records: &[MemoryRecord]) -> Result<HashSet<MemoryId>, Error> {
        let mut by_project: HashMap<&str, Vec<MemoryId>> = HashMap::new();
        for record in records {
            by_project.entry(&record.project).or_default().push(record.id);
        }
        let mut known = HashSet::new();
        for (project, ids) in by_project {
            let scope = ProjectScope::of(project);
            known.extend(self.memories_by_id(&scope, &ids).await?.into_iter().map(|(_, record)| record.id));
        }
        Ok(known)
    }

    /// Sets the marks of memories; ids that are not there are ignored. Says how many were set.
    pub async fn mark_memories(&self, scope: &ProjectScope, marks: &[(MemoryId, MemoryMarks)]) -> Result<u64, Error> {
        let rows: Vec<(MemoryId, &str, &MemoryMarks)> =
            marks.iter().map(|(id, marks)| (*id, scope.project(), marks)).collect();
        let mut tx = self.inner.writer.begin().await?;
        let done = tx.write(&MARK_MEMORIES, &rows, add_marks).await;
        finish(tx, done).await
    }

    /// Takes memories out for good, with their vectors, and says how many were there.
    pub async fn forget_memories(&self, scope: &ProjectScope, ids: &[MemoryId]) -> Result<u64, Error> {
        let mut tx = self.inner.writer.begin().await?;
        let done = memory_words::forget(&mut tx, scope.project(), ids).await;
        finish(tx, done).await
    }

    /// Memories the vector store must still forget.
    pub async fn memory_forgotten(&self, limit: u32) -> Result<Vec<(ProjectScope, MemoryId)>, Error> {
        let reader = self.reader().await?;
        let statement = Statement::from_sql_and_values(
            reader.get_database_backend(),
            "SELECT project, id FROM memory_forgotten ORDER BY project, id LIMIT $1",
            [i64::from(limit).into()],
        );
        let mut forgotten = Vec::new();
        for row in reader.query_all_raw(statement).await? {
            let (project, id): (String, Vec<u8>) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
            forgotten.push((ProjectScope::of(&project), memory_id(&id)?));
        }
        Ok(forgotten)
    }

    /// The vector store has forgotten these.
    pub async fn memory_forgotten_done(&self, done: &[(ProjectScope, MemoryId)]) -> Result<(), Error> {
        let mut tx = self.inner.writer.begin().await?;
        let written = tx.write(&DELETE_FORGOTTEN, done, |args, (scope, id)| add_key(args, *id, scope.project())).await;
        finish(tx, written).await.map(|_| ())
    }

    /// Says where the vectors are from now on. True when that is another place than before: every memory is then in
    /// the outbox again.
    pub async fn memory_target(&self, name: &str) -> Result<bool, Error> {
        let mut tx = self.inner.writer.begin().await?;
        let done = async {
            let add = |args: &mut Args, name: &&str| args.text(name);
            let is_other = tx.write(&SET_TARGET, &[name], add).await? > 0;
            if is_other {
                tx.write(&REDRAIN_ALL, &[name], add).await?;
            }
            Ok(is_other)
        };
        let done = done.await;
        finish(tx, done).await
    }

    /// Puts every memory back into the outbox, and says how many.
    pub async fn redrain_all(&self) -> Result<u64, Error> {
        let mut tx = self.inner.writer.begin().await?;
        let done = tx.write(&REDRAIN_ALL, &["all"], |args, word| args.word(word)).await;
        finish(tx, done).await
    }

    /// Drops the vectors of a project and puts its memories back into the outbox; says how many.
    pub async fn redrain_memories(&self, scope: &ProjectScope) -> Result<u64, Error> {
        let mut tx = self.inner.writer.begin().await?;
        let done = async {
            let add = |args: &mut Args, name: &&str| args.text(name);
            tx.write(&DROP_VECTORS, &[scope.project()], add).await?;
            tx.write(&REDRAIN_PROJECT, &[scope.project()], add).await
        };
        let done = done.await;
        finish(tx, done).await
    }

    /// The tasks whose recorded context held one of these memories, by their own id or as the output of their task.
    pub async fn tasks_that_read(&self, sources: &[String]) -> Result<Vec<(TaskId, String)>, Error> {
        let reader = self.reader().await?;
        let mut found = Vec::new();
        for source in sources {
            let statement = Statement::from_sql_and_values(
                reader.get_database_backend(),
                "SELECT DISTINCT t.id, t.title FROM task_contexts AS c JOIN tasks AS t ON t.number = c.task \
                 WHERE c.items LIKE $1 ORDER BY t.id",
                [format!("%\"{source}\"%").into()],
            );
            for row in reader.query_all_raw(statement).await? {
                let (id, title): (String, String) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
                found.push((crate::commit::task_id(&id)?, title));
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }
}

/// Makes the transaction durable, or undoes it.
pub(crate) async fn finish<T>(tx: Tx, done: Result<T, Error>) -> Result<T, Error> {
    match done {
        Ok(value) => tx.commit().await.map(|()| value),
        Err(error) => {
            tx.rollback(&error).await;
            Err(error)
        }
    }
}

pub(crate) fn add_key(args: &mut Args, id: MemoryId, project: &str) {
    args.bytes(&id.0.to_be_bytes());
    args.word(project);
}

pub(crate) fn add_superseded(args: &mut Args, it: &Superseded) {
    add_key(args, it.old, &it.project);
    args.bytes(&it.new.0.to_be_bytes());
}

pub(crate) fn add_marks(args: &mut Args, (id, project, marks): &(MemoryId, &str, &MemoryMarks)) {
    add_key(args, *id, project);
    args.int(marks.importance.into());
    args.bool(marks.pinned);
    args.bytes_or_null(marks.superseded_by.map(|id| id.0.to_be_bytes()).as_ref().map(<[u8; 16]>::as_slice));
    args.int(marks.repeats.into());
    args.bool(marks.stale);
    if marks.metadata.is_empty() {
        args.no_text();
    } else {
        // A map of texts can always be written.
        args.text(&serde_json::to_string(&marks.metadata).unwrap_or_default());
    }
}
