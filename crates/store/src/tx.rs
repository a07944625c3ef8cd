//! The one writing connection, and transactions on it.
//!
//! The connection is kept between transactions: giving it back to a pool costs a round trip each time. An in-memory
//! database has a single connection, which is given back so that readers get it.
//!
//! **Invariant:** one transaction at a time; waiting for one's turn has a limit.
//! **Invariant:** a transaction that is dropped before its commit is rolled back before the next one begins.

use std::{sync::Arc, time::Duration};

use futures::TryStreamExt as _;
use sea_orm::sqlx::{
    self, AssertSqlSafe, PgPool, Postgres, Row as _, Sqlite, SqlitePool,
    pool::PoolConnection,
    postgres::PgRow,
    sqlite::{SqliteArguments, SqliteRow},
};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::{
    Backend,
    error::{Cause, Error},
    hints::CHANNEL,
    sql::{self, Args, Bulk, Group, Part, rows_max},
};

/// How long a writer waits for its turn.
const TURN_LIMIT: Duration = Duration::from_secs(30);

/// Where writing connections come from.
pub(crate) enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

enum Connection {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

/// A row of an answer.
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    pub(crate) fn int(&self, column: usize) -> Result<i64, Error> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    pub(crate) fn int_or_null(&self, column: usize) -> Result<Option<i64>, Error> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    pub(crate) fn text(&self, column: usize) -> Result<&str, Error> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    pub(crate) fn text_or_null(&self, column: usize) -> Result<Option<&str>, Error> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    pub(crate) fn bytes(&self, column: usize) -> Result<&[u8], Error> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    pub(crate) fn bytes_or_null(&self, column: usize) -> Result<Option<&[u8]>, Error> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }
}

#[derive(Default)]
struct Held {
    connection: Option<Connection>,
    /// A transaction may be open on it.
    is_dirty: bool,
}

/// How a transaction begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum By {
    /// By a statement of its own.
    Itself,
    /// On SQLite by its first statement, which says `BEGIN IMMEDIATE` and saves a trip to the driver's thread.
    FirstStatement,
    /// Not at all: there is one statement, which is a transaction by itself.
    Nothing,
}

/// Hands out transactions, one at a time.
pub(crate) struct Writer {
    pool: Pool,
    held: Arc<Mutex<Held>>,
    /// Readers need the same connection.
    is_shared: bool,
}

impl Writer {
    pub(crate) fn new(pool: Pool, is_shared: bool) -> Self {
        Self { pool, held: Arc::default(), is_shared }
    }

    /// Where its connections come from.
    #[cfg(test)]
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    async fn turn(&self) -> Result<OwnedMutexGuard<Held>, Error> {
        tokio::time::timeout(TURN_LIMIT, Arc::clone(&self.held).lock_owned())
            .await
            .map_err(|_| Error::Locked { source: Cause("another transaction of this process does not end".into()) })
    }

    /// Begins a transaction.
    pub(crate) async fn begin(&self) -> Result<Tx, Error> {
        self.begin_by(By::Itself).await
    }

    /// Begins a transaction in the way that `by` says.
    pub(crate) async fn begin_by(&self, by: By) -> Result<Tx, Error> {
        let mut held = self.turn().await?;
        if held.connection.is_some() {
            match Self::start(&mut held, by).await {
                Ok(()) => return Ok(self.tx(held, by)),
                // The server was restarted since; a new connection tells whether it is there.
                Err(error) if error.breaks_connection() => held.discard(),
                Err(error) => return Err(error),
            }
        }
        held.connection = Some(match &self.pool {
            Pool::Sqlite(pool) => Connection::Sqlite(pool.acquire().await?),
            Pool::Postgres(pool) => Connection::Postgres(pool.acquire().await?),
        });
        Self::start(&mut held, by).await?;
        Ok(self.tx(held, by))
    }

    fn tx(&self, held: OwnedMutexGuard<Held>, by: By) -> Tx {
        Tx { held, is_shared: self.is_shared, is_begun: matches!(by, By::Itself), news: String::new() }
    }

    async fn start(held: &mut Held, by: By) -> Result<(), Error> {
        held.clean().await?;
        let Some(connection) = held.connection.as_mut() else { return Err(sql::mismatch()) };
        held.is_dirty = true;
        let begin = match (&connection, by) {
            // Takes the write lock at once: a transaction that reads first could not be upgraded.
            (Connection::Sqlite(_), By::Itself) => "BEGIN IMMEDIATE",
            (Connection::Sqlite(_), By::FirstStatement | By::Nothing) | (Connection::Postgres(_), By::Nothing) => {
                return Ok(());
            }
            (Connection::Postgres(_), By::Itself | By::FirstStatement) => "BEGIN",
        };
        let begun = connection.control(begin).await;
        if begun.is_err() {
            held.is_dirty = false;
        }
        begun
    }

    /// Rolls back what a dropped transaction left, if readers share the connection.
    pub(crate) async fn settle(&self) -> Result<(), Error> {
        if self.is_shared {
            let mut held = self.turn().await?;
            held.clean().await?;
            held.connection = None;
        }
        Ok(())
    }
}

impl Writer {
    /// Closes the connection; nobody gets another one.
    pub(crate) async fn close(&self) -> Result<(), Error> {
        let mut held = self.turn().await?;
        let cleaned = held.clean().await;
        held.connection = None;
        match &self.pool {
            Pool::Sqlite(pool) => pool.close().await,
            Pool::Postgres(pool) => pool.close().await,
        }
        cleaned
    }
}

impl Held {
    async fn clean(&mut self) -> Result<(), Error> {
        if self.is_dirty {
            self.is_dirty = false;
            if let Some(connection) = &mut self.connection {
                match connection.control("ROLLBACK").await {
                    Err(error) if error.breaks_connection() => return Err(error),
                    // SQLite says so when it has rolled back by itself, as after a full disk.
                    Ok(()) | Err(_) => {}
                }
            }
        }
        Ok(())
    }

    fn discard(&mut self) {
        self.is_dirty = false;
        match self.connection.take() {
            Some(Connection::Sqlite(mut connection)) => connection.close_on_drop(),
            Some(Connection::Postgres(mut connection)) => connection.close_on_drop(),
            None => {}
        }
    }
}

impl Connection {
    async fn control(&mut self, statement: &'static str) -> Result<(), Error> {
        match self {
            Self::Sqlite(connection) => {
                sqlx::query_with(statement, SqliteArguments::default()).execute(&mut **connection).await?;
            }
            Self::Postgres(connection) => {
                sqlx::raw_sql(statement).execute(&mut **connection).await?;
            }
        }
        Ok(())
    }

    async fn commit(&mut self, news: &str) -> Result<(), Error> {
        match self {
            Self::Postgres(connection) if !news.is_empty() => {
                // In one trip; `news` holds letters and ids only. Who tells others within a transaction keeps all that
                // do from committing until its own commit is on the disk. What is not told is found by looking.
                let statement = format!("COMMIT; NOTIFY {CHANNEL}, '{news}'");
                let mut ends = sqlx::raw_sql(AssertSqlSafe(statement)).execute_many(&mut **connection);
                if ends.try_next().await?.is_none() {
                    return Err(Error::internal("COMMIT was not answered"));
                }
                if let Err(error) = ends.try_next().await {
                    tracing::debug!(%error, "other processes were not told");
                }
                Ok(())
            }
            Self::Sqlite(_) | Self::Postgres(_) => self.control("COMMIT").await,
        }
    }
}

/// A transaction. Dropping it without [`Tx::commit`] undoes it.
pub(crate) struct Tx {
    held: OwnedMutexGuard<Held>,
    is_shared: bool,
    /// Whether a statement of its own has begun it.
    is_begun: bool,
    /// What other processes are told with the commit, on PostgreSQL.
    news: String,
}

impl Tx {
    pub(crate) fn backend(&self) -> Backend {
        match self.held.connection {
            Some(Connection::Postgres(_)) => Backend::Postgres,
            Some(Connection::Sqlite(_)) | None => Backend::Sqlite,
        }
    }

    /// Whether a statement of its own has begun it.
    pub(crate) fn is_begun(&self) -> bool {
        self.is_begun
    }

    /// Tells other processes with the commit, on PostgreSQL; `news` holds letters, digits and blanks only.
    pub(crate) fn tell(&mut self, news: String) {
        debug_assert!(news.bytes().all(|it| it.is_ascii_alphanumeric() || it == b' ' || it == b'*'));
        self.news = news;
    }

    /// Begins a transaction that was to be begun by its first statement.
    pub(crate) async fn begin_now(&mut self) -> Result<(), Error> {
        self.is_begun = true;
        match self.held.connection.as_mut() {
            Some(connection) => connection.control("BEGIN IMMEDIATE").await,
            None => Err(sql::mismatch()),
        }
    }

    /// Runs the statement over `rows` and says how many rows of the table it touched.
    pub(crate) async fn write<T: Sync>(
        &mut self,
        bulk: &'static Bulk,
        rows: &[T],
        add: impl Fn(&mut Args, &T) + Sync,
    ) -> Result<u64, Error> {
        self.write_part(&Part { bulk, rows: rows.len(), add: &|args, row| add(args, &rows[row]) }).await
    }

    async fn write_part(&mut self, part: &Part<'_>) -> Result<u64, Error> {
        let mut touched = 0;
        let max = rows_max(self.backend());
        for begin in (0..part.rows).step_by(max) {
            let rows = begin..part.rows.min(begin + max);
            let (text, args) = part.bulk.fill(self.backend(), rows, part.add);
            touched += self.execute(text, args).await?;
        }
        Ok(touched)
    }

    async fn execute(&mut self, text: Arc<str>, args: Args) -> Result<u64, Error> {
        match (self.held.connection.as_mut(), args) {
            (Some(Connection::Sqlite(connection)), Args::Sqlite(args, _)) => {
                Ok(sqlx::query_with(AssertSqlSafe(text), args).execute(&mut **connection).await?.rows_affected())
            }
            (Some(Connection::Postgres(connection)), Args::Postgres(args)) => {
                Ok(sqlx::query_with(AssertSqlSafe(text), args).execute(&mut **connection).await?.rows_affected())
            }
            (Some(Connection::Sqlite(_) | Connection::Postgres(_)) | None, _) => Err(sql::mismatch()),
        }
    }

    /// Runs several statements, as one where the database and their sizes allow it.
    pub(crate) async fn write_group<const N: usize>(
        &mut self,
        group: &Group<N>,
        parts: &[Part<'_>; N],
    ) -> Result<(), Error> {
        if self.backend() == Backend::Sqlite
            && let Some((text, args)) = group.fill(parts)
        {
            self.execute(text, args).await?;
            return Ok(());
        }
        for part in parts {
            self.write_part(part).await?;
        }
        Ok(())
    }

    /// Runs the statement over `rows` and hands every row of the answer to `take`.
    pub(crate) async fn ask<T: Sync>(
        &mut self,
        bulk: &'static Bulk,
        rows: &[T],
        add: impl Fn(&mut Args, &T) + Sync,
        mut take: impl FnMut(&Row) -> Result<(), Error> + Send,
    ) -> Result<(), Error> {
        for chunk in rows.chunks(rows_max(self.backend())) {
            let (text, args) = bulk.fill(self.backend(), 0..chunk.len(), &|args, row| add(args, &chunk[row]));
            match (self.held.connection.as_mut(), args) {
                (Some(Connection::Sqlite(connection)), Args::Sqlite(args, _)) => {
                    for row in sqlx::query_with(AssertSqlSafe(text), args).fetch_all(&mut **connection).await? {
                        take(&Row::Sqlite(row))?;
                    }
                }
                (Some(Connection::Postgres(connection)), Args::Postgres(args)) => {
                    for row in sqlx::query_with(AssertSqlSafe(text), args).fetch_all(&mut **connection).await? {
                        take(&Row::Postgres(row))?;
                    }
                }
                (Some(Connection::Sqlite(_) | Connection::Postgres(_)) | None, _) => return Err(sql::mismatch()),
            }
        }
        Ok(())
    }

    /// Runs `plain` over the last rows and makes everything durable; on SQLite the last of them by `committing`, which does both.
    pub(crate) async fn commit_with<T: Sync>(
        mut self,
        plain: &'static Bulk,
        committing: &'static Bulk,
        rows: &[T],
        add: impl Fn(&mut Args, &T) + Sync,
    ) -> Result<(), Error> {
        let max = rows_max(self.backend());
        let (before, last) = match self.backend() {
            Backend::Sqlite => rows.split_at(rows.len().saturating_sub(1) / max * max),
            Backend::Postgres => (rows, &[][..]),
        };
        let mut written = self.write(plain, before, &add).await;
        if written.is_ok() {
            written = self.write(committing, last, &add).await;
        }
        match written {
            Ok(_) if last.is_empty() => self.commit().await,
            Ok(_) => {
                self.finished();
                Ok(())
            }
            Err(error) => {
                self.rollback(&error).await;
                Err(error)
            }
        }
    }

    /// Nothing is left to be done: its last statement has made everything durable.
    pub(crate) fn finished(mut self) {
        self.held.is_dirty = false;
        if self.is_shared {
            self.held.connection = None;
        }
    }

    /// Makes it durable.
    pub(crate) async fn commit(mut self) -> Result<(), Error> {
        let Some(connection) = self.held.connection.as_mut() else { return Err(sql::mismatch()) };
        match connection.commit(&self.news).await {
            Ok(()) => {
                self.finished();
                Ok(())
            }
            Err(Error::Unavailable { source }) if self.backend() == Backend::Postgres => {
                self.held.discard();
                Err(Error::CommitUnknown { source })
            }
            Err(error) => {
                self.rollback(&error).await;
                Err(error)
            }
        }
    }

    /// Undoes it; `because` tells whether the connection can still be used.
    pub(crate) async fn rollback(mut self, because: &Error) {
        if because.breaks_connection() && self.backend() == Backend::Postgres {
            return self.held.discard();
        }
        self.undo().await;
    }

    /// Undoes it.
    pub(crate) async fn undo(mut self) {
        if self.held.clean().await.is_err() {
            self.held.discard();
        }
        if self.is_shared {
            self.held.connection = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crewline_types::{IdSource, Role, RunId, Task, TaskKind, Text, Timestamp};

    use super::*;
    use crate::{Change, Claim, Committed, NewRun, Store};

    async fn crew(url: &str) -> (Store, RunId, u64) {
        let store = Store::open(url).await.unwrap();
        let mut ids = IdSource::seeded(1);
        let run = RunId::new(&mut ids);
        let id = crewline_types::TaskId::new(&mut ids);
        let root = Task { kind: TaskKind::Root, ..Task::new(id, run, "root", Role::manager(), Timestamp(0)) };
        let new = NewRun {
            id: run,
            project: "p".into(),
            goal: "g".into(),
            settings: "{}".into(),
            registry: crewline_types::TextHash::of(""),
            key: None,
            at: Timestamp(0),
        };
        store.create_run(&new, &root).await.unwrap();
        let epoch = store.claim_run(run, "me", Duration::from_mins(1), Claim::IfFree).await.unwrap();
        (store, run, epoch)
    }

    async fn pragma(store: &Store, statement: &'static str) {
        let mut held = store.inner.writer.turn().await.unwrap();
        held.connection.as_mut().unwrap().control(statement).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_disk_is_told_and_survived() {
        let folder = tempfile::tempdir().unwrap();
        let (store, run, epoch) = crew(&format!("sqlite:{}", folder.path().join("x.db").display())).await;
        pragma(&store, "PRAGMA max_page_count = 1").await;
        let mut change = Change::new(run, epoch, Timestamp(1));
        change.texts.push(Text::from("x".repeat(100_000)));
        let changes = [change];
        for _ in 0..2 {
            let error = store.commit(&changes).await.unwrap_err();
            assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
            assert_eq!(error.code(), "store.disk_full");
        }
        assert!(store.texts(&[changes[0].texts[0].hash]).await.unwrap().is_empty());
        pragma(&store, "PRAGMA max_page_count = 100000").await;
        assert!(matches!(store.commit(&changes).await.unwrap()[0], Committed::Done { .. }));
    }

    #[tokio::test]
    async fn another_writer_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("x.db").display());
        let (one, run, epoch) = crew(&url).await;
        let two = Store::open(&url).await.unwrap();
        let change = [Change::new(run, epoch, Timestamp(1))];
        assert!(matches!(two.commit(&change).await.unwrap()[0], Committed::Done { .. }));
        pragma(&two, "PRAGMA busy_timeout = 0").await;
        let tx = one.inner.writer.begin().await.unwrap();
        // A single statement is not worth a long wait, and says so.
        let error = two.renew_claims("w", Duration::from_mins(1)).await.unwrap_err();
        assert!(matches!(error, Error::Locked { .. }) && error.is_retryable(), "{error:?}");
        let mut waiting = std::pin::pin!(two.commit(&change));
        let early = tokio::time::timeout(Duration::from_millis(300), waiting.as_mut()).await;
        assert!(early.is_err(), "{early:?}");
        drop(tx);
        // The dropped transaction is undone when its store writes the next time.
        assert!(matches!(one.commit(&change).await.unwrap()[0], Committed::Done { .. }));
        assert!(matches!(waiting.await.unwrap()[0], Committed::Done { .. }));
    }
}
