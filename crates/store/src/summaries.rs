//! Summaries: what they are made from, which are current, and putting a newer one in the place of an older.
//!
//! **Invariant:** a summary and what it takes the place of change in one transaction.

use std::{collections::BTreeMap, sync::Arc};

use crewline_types::{CallId, MemoryId, MemoryRecord, MemoryType, ProjectScope, TaskId};
use sea_orm::{ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _};

use crate::{
    Error, Store, entity,
    memory_edit::{MARK_MEMORIES, SUPERSEDE_MEMORIES, add_key, add_marks, add_superseded, finish},
    memory_words,
    rows::add_memory,
    sql::{Args, Bulk, Type},
    statements as sql,
};

/// Counts what was said again.
static COUNT_REPEATS: Bulk = Bulk::new(
    "UPDATE memories AS m SET repeats = m.repeats + v.column3 FROM ",
    &[Type::Bytes, Type::Text, Type::Int],
    " WHERE m.id = v.column1 AND m.project = v.column2",
);

/// Sets what memories were made from.
static SET_SOURCES: Bulk = Bulk::new(
    "UPDATE memories AS m SET source_ids = v.column3 FROM ",
    &[Type::Bytes, Type::Text, Type::Bytes],
    " WHERE m.id = v.column1 AND m.project = v.column2",
);

/// A memory whose place a newer one takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superseded {
    /// The project of both.
    pub project: Arc<str>,
    /// The older one.
    pub old: MemoryId,
    /// The newer one.
    pub new: MemoryId,
}

/// What was said in a task so far.
#[derive(Debug, Clone)]
pub struct Said {
    /// The call.
    pub call: CallId,
    /// The answer.
    pub text: Arc<str>,
}

impl Store {
    /// The summaries of a project that nothing has taken the place of; one, unless two processes made one each.
    pub async fn project_summaries(&self, scope: &ProjectScope) -> Result<Vec<MemoryRecord>, Error> {
        // Word for word the condition of the partial index.
        let condition = "m.kind = 'project_summary' AND m.superseded_by IS NULL AND m.project = $1 ORDER BY m.seq";
        let found = self.select(condition, 1, |args| args.text(scope.project())).await?;
        Ok(found.into_iter().map(|(_, record)| record).collect())
    }

    /// The rolling summaries of a task that nothing has taken the place of.
    pub async fn rolling_summaries(&self, scope: &ProjectScope, task: TaskId) -> Result<Vec<MemoryRecord>, Error> {
        let condition = "m.kind = 'rolling_summary' AND m.superseded_by IS NULL AND m.task_id = $1 AND m.project = $2 \
                         ORDER BY m.seq";
        let add = |args: &mut Args| {
            args.text(task.as_str());
            args.text(scope.project());
        };
        Ok(self.select(condition, 2, add).await?.into_iter().map(|(_, record)| record).collect())
    }

    /// The memories of one type in a project after the row `after`, oldest first.
    pub async fn memories_of_kind(
        &self,
        scope: &ProjectScope,
        kind: &MemoryType,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(u64, MemoryRecord)>, Error> {
        let condition = "m.project = $1 AND m.seq > $2 AND m.kind = $3 ORDER BY m.seq LIMIT $4";
        self.select(condition, 4, |args| {
            args.text(scope.project());
            args.count(after);
            args.text(kind.as_str());
            args.int(i64::from(limit));
        })
        .await
    }

    /// The last call of a task.
    pub async fn last_call(&self, task: TaskId) -> Result<Option<CallId>, Error> {
        let numbers = self.numbers_of_tasks(&[task]).await?;
        let Some(number) = numbers.keys().next() else { return Ok(None) };
        let row = entity::call::Entity::find()
            .filter(entity::call::Column::Task.eq(*number))
            .order_by_desc(entity::call::Column::Attempt)
            .order_by_desc(entity::call::Column::Number)
            .one(self.reader().await?)
            .await?;
        row.map(|row| Ok(row.into_domain(task)?.id)).transpose()
    }

    /// What models said in a task, the last `limit` answers, oldest first.
    pub async fn said(&self, task: TaskId, limit: u64) -> Result<Vec<Said>, Error> {
        let numbers = self.numbers_of_tasks(&[task]).await?;
        let Some(number) = numbers.keys().next() else { return Ok(Vec::new()) };
        let rows = entity::call::Entity::find()
            .filter(entity::call::Column::Task.eq(*number))
            .filter(entity::call::Column::Reply.is_not_null())
            .order_by_desc(entity::call::Column::Attempt)
            .order_by_desc(entity::call::Column::Number)
            .limit(limit)
            .all(self.reader().await?)
            .await?;
        let mut calls = Vec::with_capacity(rows.len());
        for row in rows.into_iter().rev() {
            calls.push(row.into_domain(task)?);
        }
        let hashes: Vec<_> = calls.iter().filter_map(|call| call.reply).collect();
        let texts = self.texts(&hashes).await?;
        // The text of an answer that became a result is written with the result.
        let said = calls
            .into_iter()
            .filter_map(|call| Some(Said { call: call.id, text: Arc::clone(texts.get(&call.reply?)?) }));
        Ok(said.collect())
    }

    /// Takes memories out that repeat others: counts them there, and lets what was made from them point there. `repeats`
    /// names who goes and who stays; `repointed` what it was made from by now. All or none.
    pub async fn merge_memories(
        &self,
        scope: &ProjectScope,
        repeats: &[(MemoryId, MemoryId)],
        repointed: &[(MemoryId, Vec<MemoryId>)],
    ) -> Result<(), Error> {
        let mut counts: BTreeMap<MemoryId, i64> = BTreeMap::new();
        for (_, stays) in repeats {
            *counts.entry(*stays).or_default() += 1;
        }
        let counts: Vec<(MemoryId, i64)> = counts.into_iter().collect();
        let gone: Vec<MemoryId> = repeats.iter().map(|(goes, _)| *goes).collect();
        let project = scope.project();
        let mut tx = self.inner.writer.begin().await?;
        let done = async {
            // First, as whoever forgets does: two that go on in different orders would wait for each other.
            memory_words::forget(&mut tx, project, &gone).await?;
            tx.write(&COUNT_REPEATS, &counts, |args, (id, count)| {
                add_key(args, *id, project);
                args.int(*count);
            })
            .await?;
            tx.write(&SET_SOURCES, repointed, |args, (id, sources)| {
                add_key(args, *id, project);
                let bytes: Vec<u8> = sources.iter().flat_map(|it| it.0.to_be_bytes()).collect();
                args.bytes(&bytes);
            })
            .await?;
            Ok(())
        };
        let done = done.await;
        finish(tx, done).await
    }

    /// Writes summaries with their marks and takes others out of force, all or none. Outside a run's commit.
    pub async fn replace_memories(&self, records: &[MemoryRecord], superseded: &[Superseded]) -> Result<(), Error> {
        let rows: Vec<_> = records.iter().map(|record| (record, None)).collect();
        let marked: Vec<_> = records.iter().map(|record| (record.id, &*record.project, &record.marks)).collect();
        let mut tx = self.inner.writer.begin().await?;
        let done = async {
            tx.write(&sql::INSERT_MEMORIES, &rows, add_memory).await?;
            tx.write(&MARK_MEMORIES, &marked, add_marks).await?;
            tx.write(&SUPERSEDE_MEMORIES, superseded, add_superseded).await?;
            Ok(())
        };
        let done = done.await;
        finish(tx, done).await
    }
}
