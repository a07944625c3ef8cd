//! Reads: each statement takes a connection. On SQLite it gives it back before it answers.
//!
//! Dropped, a connection goes back a moment later: who reads in a row would open all that there may be, each with a thread,
//! a cache and the whole schema to read. On PostgreSQL giving it back is a question to the server, which nobody waits for.
//!
//! **Invariant:** nothing is written through it.

use std::sync::Arc;

use futures::TryStreamExt as _;
use sea_orm::{
    ConnAcquireErr, ConnectionTrait, DatabaseConnection, DbBackend, DbErr, ExecResult, QueryResult, RuntimeErr,
    Statement,
    sqlx::{self, AssertSqlSafe},
};
use sea_orm_migration::async_trait;
use sea_query_sqlx::SqlxValues;

use crate::{Backend, Error, sql::Args, tx::Row};

/// The connections for reading.
pub(crate) struct Reader(DatabaseConnection);

impl Reader {
    pub(crate) fn new(connections: DatabaseConnection) -> Self {
        Self(connections)
    }

    pub(crate) async fn close(&self) -> Result<(), Error> {
        Ok(self.0.close_by_ref().await?)
    }

    /// Hands every row of an answer to `take`, as it comes. `add` adds the `count` values of the question.
    pub(crate) async fn read(
        &self,
        text: &str,
        count: usize,
        add: impl FnOnce(&mut Args),
        mut take: impl FnMut(&Row) -> Result<(), Error> + Send,
    ) -> Result<(), Error> {
        let mut args = match self.0.get_database_backend() {
            DbBackend::Postgres => Args::new(Backend::Postgres, count),
            _ => Args::new(Backend::Sqlite, count),
        };
        add(&mut args);
        match args {
            Args::Sqlite(args, _) => {
                let mut connection = self.0.get_sqlite_connection_pool().acquire().await?;
                {
                    let mut rows = sqlx::query_with(AssertSqlSafe(text), args).fetch(&mut *connection);
                    while let Some(row) = rows.try_next().await? {
                        take(&Row::Sqlite(row))?;
                    }
                }
                connection.return_to_pool().await;
            }
            Args::Postgres(args) => {
                let mut connection = self.0.get_postgres_connection_pool().acquire().await?;
                let mut rows = sqlx::query_with(AssertSqlSafe(text), args).fetch(&mut *connection);
                while let Some(row) = rows.try_next().await? {
                    take(&Row::Postgres(row))?;
                }
            }
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl ConnectionTrait for Reader {
    fn get_database_backend(&self) -> DbBackend {
        self.0.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.0.execute_raw(statement).await
    }

    async fn execute_unprepared(&self, text: &str) -> Result<ExecResult, DbErr> {
        self.0.execute_unprepared(text).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        Ok(self.query_all_raw(statement).await?.into_iter().next())
    }

    async fn query_all_raw(&self, Statement { sql, values, db_backend }: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let values = SqlxValues(values.unwrap_or_else(|| sea_orm::Values(Vec::new())));
        if db_backend == DbBackend::Postgres {
            let mut connection = self.0.get_postgres_connection_pool().acquire().await.map_err(not_acquired)?;
            let rows = sqlx::query_with(AssertSqlSafe(sql), values).fetch_all(&mut *connection).await;
            Ok(rows.map_err(not_answered)?.into_iter().map(QueryResult::from).collect())
        } else {
            let mut connection = self.0.get_sqlite_connection_pool().acquire().await.map_err(not_acquired)?;
            let rows = sqlx::query_with(AssertSqlSafe(sql), values).fetch_all(&mut *connection).await;
            connection.return_to_pool().await;
            Ok(rows.map_err(not_answered)?.into_iter().map(QueryResult::from).collect())
        }
    }
}

fn not_acquired(error: sqlx::Error) -> DbErr {
    match error {
        sqlx::Error::PoolTimedOut => DbErr::ConnectionAcquire(ConnAcquireErr::Timeout),
        sqlx::Error::PoolClosed => DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed),
        other => DbErr::Conn(RuntimeErr::SqlxError(Arc::new(other))),
    }
}

fn not_answered(error: sqlx::Error) -> DbErr {
    DbErr::Query(RuntimeErr::SqlxError(Arc::new(error)))
}

#[cfg(test)]
mod tests {
    use crate::Store;

    #[tokio::test]
    async fn reads_in_a_row_need_one_connection() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("crewline.db").display());
        let store = Store::open(&url).await.unwrap();
        for _ in 0..20 {
            store.check().await.unwrap();
            assert!(store.memory_projects().await.unwrap().is_empty());
        }
        assert_eq!(store.inner.reader.0.get_sqlite_connection_pool().size(), 1);
    }
}
