//! Forgetting whole runs, and the texts nobody needs any more.
//!
//! A run goes in batches: its tasks with what hangs on them, at last its events and itself. Whoever is interrupted does
//! it again. Memories stay: they are the project's.
//!
//! Texts are shared, so they are swept: those that nothing refers to, and that nobody has written for a while. Writing a
//! text that is there already renews its time, so a text that is about to be referred to is not taken.
//!
//! **Invariant:** a run that is running is not touched; one that could be resumed is cancelled by its first batch.
//! **Invariant:** a text that anything refers to stays; contexts refer to texts by the hashes in their JSON.

use std::collections::HashSet;

use crewline_types::{RunId, TextHash};
use sea_orm::{ConnectionTrait as _, Statement};

use crate::{
    Error, Store,
    entity::hash,
    graph::DELETE_INDEX_VERSIONS,
    launch_keys::DELETE_LAUNCH_KEYS,
    sql::{Args, Bulk, dialect},
    statements as sql,
    traffic::DELETE_TRAFFIC,
    tx::Tx,
};

/// Tasks and texts of one transaction.
const BATCH: usize = 256;

/// Contexts that are read at once.
const CONTEXTS: i64 = 256;

/// A text that was written this short a time ago may be about to be referred to: longer than any transaction takes, and
/// than clocks of machines differ.
const YOUNG_US: i64 = 10 * 60 * 1_000_000;

/// Every column that holds the hash of a text; a migration that adds one adds it here, and a test reminds it.
pub(crate) const REFERENCES: &[(&str, &str)] = &[
    ("tasks", "result"),
    ("calls", "reply"),
    ("runs", "index_hash"),
    ("index_versions", "hash"),
    ("memories", "text_hash"),
    ("tool_calls", "arguments"),
    ("tool_calls", "output"),
    ("approvals", "detail"),
    ("task_contexts", "prompt"),
];

/// What went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Runs; fewer than asked for when some are running or not there.
    pub runs: u64,
    /// Their tasks.
    pub tasks: u64,
    /// Texts nothing referred to any more, of these runs and of earlier ones. Those of the last ten minutes stay until
    /// the next time.
    pub texts: u64,
    /// Bytes of these texts. A SQLite file does not get smaller, but what is free in it is used again.
    pub bytes: u64,
}

impl Store {
    /// Deletes runs that are not running, with all below them, and the texts nothing refers to any more. With no runs
    /// it only sweeps texts.
    ///
    /// A run must not be forked at the same time: the fork may refer to its texts.
    pub async fn delete_runs(&self, runs: &[RunId]) -> Result<Deleted, Error> {
        let mut deleted = Deleted::default();
        for run in runs {
            loop {
                match self.delete_some(*run).await? {
                    Some(0) => {
                        deleted.runs += 1;
                        break;
                    }
                    Some(tasks) => deleted.tasks += tasks,
                    None => break,
                }
            }
        }
        self.sweep_texts(&mut deleted).await?;
        Ok(deleted)
    }

    /// Deletes some tasks of a run, or the run when it has none; the answer is how many, or none when it is not to be
    /// deleted.
    async fn delete_some(&self, run: RunId) -> Result<Option<u64>, Error> {
        let mut tx = self.inner.writer.begin().await?;
        match delete_batch(&mut tx, run).await {
            Ok(count) => tx.commit().await.map(|()| count),
            Err(error) => {
                tx.rollback(&error).await;
                Err(error)
            }
        }
    }

    async fn sweep_texts(&self, deleted: &mut Deleted) -> Result<(), Error> {
        let before = self.now().await?.saturating_sub(YOUNG_US);
        let mut unused = self.unused_texts(before).await?;
        self.keep_in_contexts(&mut unused).await?;
        let unused: Vec<TextHash> = unused.into_iter().collect();
        for chunk in unused.chunks(BATCH) {
            let add = |args: &mut Args, hash: &TextHash| {
                args.bytes(&hash.0);
                args.int(before);
            };
            let sizes = self.ask_alone(&sql::DELETE_TEXTS, chunk, add, |row| Ok(row.int(0)?.unsigned_abs())).await?;
            deleted.texts += sizes.len() as u64;
            deleted.bytes += sizes.iter().sum::<u64>();
        }
        Ok(())
    }

    /// The database's clock, in microseconds.
    async fn now(&self) -> Result<i64, Error> {
        let reader = self.reader().await?;
        let query = dialect("SELECT NOW_MICROS", self.backend());
        let row = reader.query_one_raw(Statement::from_string(reader.get_database_backend(), query)).await?;
        Ok(row.ok_or_else(|| Error::internal("a clock without time"))?.try_get_by_index(0)?)
    }

    /// Texts that no column refers to and that were written before a time.
    async fn unused_texts(&self, before: i64) -> Result<HashSet<TextHash>, Error> {
        let used: Vec<String> =
            REFERENCES.iter().map(|(table, column)| format!("EXCEPT SELECT {column} FROM {table}")).collect();
        let query = format!("SELECT hash FROM texts WHERE touched_at < $1 {}", used.join(" "));
        let reader = self.reader().await?;
        let statement = Statement::from_sql_and_values(reader.get_database_backend(), query, [before.into()]);
        let rows = reader.query_all_raw(statement).await?;
        rows.iter().map(|row| hash("texts.hash", &row.try_get_by_index::<Vec<u8>>(0)?)).collect()
    }

    /// Takes the texts out of `unused` that a context names.
    async fn keep_in_contexts(&self, unused: &mut HashSet<TextHash>) -> Result<(), Error> {
        let reader = self.reader().await?;
        let mut last = (0, 0);
        while !unused.is_empty() {
            let statement = Statement::from_sql_and_values(
                reader.get_database_backend(),
                "SELECT task, attempt, items FROM task_contexts WHERE (task, attempt) > ($1, $2) \
                 ORDER BY task, attempt LIMIT $3",
                [last.0.into(), last.1.into(), CONTEXTS.into()],
            );
            let rows = reader.query_all_raw(statement).await?;
            let Some(row) = rows.last() else { break };
            last = (row.try_get_by_index::<i64>(0)?, row.try_get_by_index::<i64>(1)?);
            for row in &rows {
                for named in hashes_in(&row.try_get_by_index::<String>(2)?) {
                    unused.remove(&named);
                }
            }
        }
        Ok(())
    }
}

async fn delete_batch(tx: &mut Tx, run: RunId) -> Result<Option<u64>, Error> {
    let id = |args: &mut Args, run: &RunId| args.text(run.as_str());
    if tx.write(&sql::CLOSE_RUNS, &[run], id).await? == 0 {
        return Ok(None);
    }
    let mut tasks = Vec::with_capacity(BATCH);
    let add = |args: &mut Args, (run, most): &(RunId, usize)| {
        args.text(run.as_str());
        args.count(*most as u64);
    };
    tx.ask(&sql::SOME_TASKS, &[(run, BATCH)], add, |row| {
        tasks.push(row.int(0)?);
        Ok(())
    })
    .await?;
    if tasks.is_empty() {
        tx.write(&sql::DELETE_APPROVALS, &[run], id).await?;
        tx.write(&sql::DELETE_EVENTS, &[run], id).await?;
        tx.write(&DELETE_TRAFFIC, &[run], id).await?;
        tx.write(&DELETE_LAUNCH_KEYS, &[run], id).await?;
        tx.write(&DELETE_INDEX_VERSIONS, &[run], id).await?;
        tx.write(&sql::DELETE_RUNS, &[run], id).await?;
        return Ok(Some(0));
    }
    let below: [&'static Bulk; 9] = [
        &sql::DELETE_TOOL_CALLS_OF_TASKS,
        &sql::DELETE_LINKS_OF_TASKS,
        &sql::DELETE_OFFERS_OF_TASKS,
        &sql::DELETE_CONTEXTS_OF_TASKS,
        &sql::DELETE_CHOICES_OF_TASKS,
        &sql::DELETE_CALLS_OF_TASKS,
        &sql::DELETE_SHADOWS_OF_TASKS,
        &sql::DELETE_ATTEMPTS_OF_TASKS,
        &sql::DELETE_TASKS,
    ];
    for bulk in below {
        tx.write(bulk, &tasks, |args, number| args.int(*number)).await?;
    }
    Ok(Some(tasks.len() as u64))
}

/// The hashes a context names: 32 hexadecimal digits between quotes.
fn hashes_in(items: &str) -> impl Iterator<Item = TextHash> {
    items.split('"').filter(|word| word.len() == 32).filter_map(|word| {
        let number = u128::from_str_radix(word, 16).ok()?;
        Some(TextHash(number.to_be_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crewline_types::Text;

    #[test]
    fn contexts_name_texts() {
        let (one, two) = (Text::from("one").hash, Text::from("two").hash);
        let items =
            format!(r#"[{{"source":"task:x","text":"{one}"}},{{"text":"{two}","reason":"{}"}}]"#, "ü".repeat(16));
        assert_eq!(hashes_in(&items).collect::<Vec<_>>(), [one, two]);
    }

    /// A column of bytes either names a text, and then the sweep has to know it, or it does not.
    #[tokio::test]
    async fn every_column_that_names_a_text_is_known() {
        const OTHERS: &[(&str, &str)] = &[
            ("runs", "registry"),
            ("calls", "input_hash"),
            ("attempts", "input_hash"),
            ("task_contexts", "bundle"),
            ("texts", "hash"),
            ("memories", "id"),
            ("memories", "source_ids"),
            ("memories", "superseded_by"),
            ("memory_forgotten", "id"),
            ("memory_vectors", "vector"),
            ("memory_words", "words"),
            ("nodes", "registry"),
            ("tool_calls", "digest"),
            ("approvals", "digest"),
            ("api_keys", "hash"),
            ("launch_keys", "request"),
            ("tool_pins", "origin"),
            ("tool_pins", "hash"),
        ];
        let store = Store::open("sqlite::memory:").await.unwrap();
        let reader = store.reader().await.unwrap();
        let columns = "SELECT m.name, c.name FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c \
             WHERE m.type = 'table' AND c.type = 'BLOB'";
        let rows = reader.query_all_raw(Statement::from_string(reader.get_database_backend(), columns)).await.unwrap();
        assert!(rows.len() >= REFERENCES.len() + OTHERS.len());
        for row in rows {
            let (table, column): (String, String) =
                (row.try_get_by_index(0).unwrap(), row.try_get_by_index(1).unwrap());
            let is_known = REFERENCES.iter().chain(OTHERS).any(|it| *it == (table.as_str(), column.as_str()));
            assert!(is_known, "does `{table}.{column}` name a text? Then add it to `REFERENCES`, else to this list");
        }
    }
}
