//! Opening a database: the URL, connection options, pools, migrations.
//!
//! SQLite: one file, write-ahead log, every commit reaches the disk (`synchronous=FULL`), one writing connection and a
//! few for reading. PostgreSQL: the database must exist; sessions plan writes as the point look-ups they are.
//!
//! **Invariant:** a database that a newer version has changed is not touched.
//! **Invariant:** migrations run in one transaction, and in one process at a time.
//! **Invariant:** a password never reaches a message.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use sea_orm::{
    AccessMode, ConnectionTrait, DatabaseConnection, DatabaseTransaction, IsolationLevel, SqliteTransactionMode,
    SqlxPostgresConnector, SqlxSqliteConnector, Statement, TransactionOptions, TransactionTrait,
    sqlx::{
        ConnectOptions as _, Connection as _, PgConnection,
        postgres::{PgConnectOptions, PgPoolOptions},
        sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
    },
};
use sea_orm_migration::MigratorTrait as _;

use crate::{
    Backend, Error, Inner, Store,
    data_file::DataFile,
    migration::{self, Migrator},
    nodelay,
    reader::Reader,
    tx::{Pool, Writer},
};

/// How long a connection may take to stand, and how long a reader waits for one.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long SQLite waits for another process's lock.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// Pause between tries while another process creates the same file.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Readers at once.
const READERS_MAX: u32 = 4;

/// Idle readers are closed after this long.
const READER_IDLE: Duration = Duration::from_mins(1);

/// The writer has some 40 statements in up to 9 sizes, most of them in one or two.
const STATEMENTS_MAX: usize = 256;

/// Pages in the write-ahead log before they are copied back: each is copied once however often it was written.
const CHECKPOINT_PAGES: &str = "1000";

/// Pages of a new SQLite file. A batch writes fewer of these than of the usual 4 KB, each a system call.
const PAGE_BYTES: u32 = 8_192;

/// Serialises migrations of one PostgreSQL database; any number that nobody else uses.
const MIGRATION_LOCK: i64 = 0x6372_6577_6c69_6e65;

enum Target {
    File(PathBuf),
    Memory,
    Postgres(Box<PgConnectOptions>),
}

impl Store {
    /// Opens `sqlite:PATH` (the file is created, its folder must exist), `sqlite::memory:` or
    /// `postgres://user@host:port/database` (which must exist) and brings its schema up to date.
    pub async fn open(url: &str) -> Result<Self, Error> {
        let target = parse(url)?;
        let name = describe(&target);
        let opened = async {
            let inner = match target {
                Target::File(path) => open_sqlite(Some(path), &name).await?,
                Target::Memory => open_sqlite(None, &name).await?,
                Target::Postgres(options) => open_postgres(*options, &name).await?,
            };
            Ok(Self { inner: Arc::new(inner) })
        };
        match opened.await {
            Err(error @ Error::NewerSchema { .. }) => Err(error),
            Err(source) => Err(Error::Open { target: name, source: Box::new(source) }),
            Ok(store) => Ok(store),
        }
    }

    /// The newest schema that this version knows; every database that it has opened has it.
    pub fn schema() -> String {
        Migrator::migrations().last().map(|it| it.name().to_owned()).unwrap_or_default()
    }

    /// Whether the database answers; for readiness.
    pub async fn check(&self) -> Result<(), Error> {
        self.check_file()?;
        let ask = async {
            let reader = self.reader().await?;
            reader.query_one_raw(Statement::from_string(reader.get_database_backend(), "SELECT 1")).await?;
            Ok(())
        };
        tokio::time::timeout(Duration::from_secs(2), ask)
            .await
            .map_err(|_| Error::unavailable("no answer within 2 seconds"))?
    }
}

fn parse(url: &str) -> Result<Target, Error> {
    const EXPECTED: &str = "`sqlite:PATH`, `sqlite::memory:` or `postgres://user@host:port/database`";
    if let Some(rest) = url.strip_prefix("sqlite:") {
        let path = rest.strip_prefix("//").unwrap_or(rest);
        let path = path.strip_suffix("?mode=rwc").unwrap_or(path);
        return match path {
            ":memory:" => Ok(Target::Memory),
            "" => Err(Error::Url { url: url.into(), expected: EXPECTED }),
            path => Ok(Target::File(path.into())),
        };
    }
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return match url.parse() {
            Ok(options) => Ok(Target::Postgres(Box::new(options))),
            Err(_) => Err(Error::Url { url: redact(url), expected: EXPECTED }),
        };
    }
    Err(Error::Url { url: redact(url), expected: EXPECTED })
}

/// The URL without what stands between the user's name and the host, and without its parameters.
fn redact(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let rest = rest.split('?').next().unwrap_or_default();
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    if scheme.is_empty() { host.into() } else { format!("{scheme}://{host}") }
}

fn describe(target: &Target) -> String {
    match target {
        Target::File(path) => format!("sqlite:{}", path.display()),
        Target::Memory => "sqlite::memory:".into(),
        Target::Postgres(options) => {
            let database = options.get_database().unwrap_or(options.get_username());
            match options.get_socket() {
                Some(socket) => format!("postgres://{}/{database}", socket.display()),
                None => format!("postgres://{}:{}/{database}", options.get_host(), options.get_port()),
            }
        }
    }
}

async fn open_sqlite(path: Option<PathBuf>, name: &str) -> Result<Inner, Error> {
    let is_memory = path.is_none();
    let base = match path.clone() {
        Some(path) => SqliteConnectOptions::new().filename(path).create_if_missing(true),
        None => SqliteConnectOptions::new().in_memory(true),
    }
    .page_size(PAGE_BYTES)
    .busy_timeout(BUSY_LIMIT)
    .synchronous(SqliteSynchronous::Full)
    .foreign_keys(true)
    .statement_cache_capacity(STATEMENTS_MAX)
    .disable_statement_logging();
    let writing = if is_memory { base.clone() } else { base.clone().journal_mode(SqliteJournalMode::Wal) }
        .pragma("cache_size", "-8000")
        // What a statement could have to undo would go to a file, through a buffer of 64 KiB for each statement.
        .pragma("temp_store", "MEMORY")
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
        .pragma("journal_size_limit", "33554432")
        .thread_name(|_| "store-writer".into());
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .acquire_timeout(CONNECT_LIMIT);
    let begun = Instant::now();
    let pool = loop {
        let tried = async {
            let pool = pool.clone().connect_with(writing.clone()).await?;
            let database = SqlxSqliteConnector::from_sqlx_sqlite_pool(pool.clone());
            migrate(&database, Backend::Sqlite, name).await?;
            Ok::<_, Error>(pool)
        };
        match tried.await {
            // Switching to the write-ahead log does not wait for a lock by itself.
            Err(Error::Locked { .. }) if begun.elapsed() < BUSY_LIMIT => tokio::time::sleep(BUSY_PAUSE).await,
            tried => break tried?,
        }
    };
    let readers = if is_memory {
        pool.clone()
    } else {
        SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .idle_timeout(READER_IDLE)
            .max_lifetime(None)
            .test_before_acquire(false)
            .acquire_timeout(CONNECT_LIMIT)
            .connect_lazy_with(base.pragma("query_only", "ON").thread_name(|n| format!("store-reader-{n}")))
    };
    let file =
        path.map(|path| DataFile::at(path.clone()).map_err(|source| Error::File { path, source })).transpose()?;
    Ok(Inner {
        backend: Backend::Sqlite,
        target: name.into(),
        writer: Writer::new(Pool::Sqlite(pool), is_memory),
        aside: None,
        reader: Reader::new(SqlxSqliteConnector::from_sqlx_sqlite_pool(readers)),
        numbers: std::sync::Mutex::default(),
        listening: None,
        file,
    })
}

async fn open_postgres(options: PgConnectOptions, name: &str) -> Result<Inner, Error> {
    let base =
        options.statement_cache_capacity(STATEMENTS_MAX).application_name("crewline").disable_statement_logging();
    // A pool tries again until its limit when nobody listens; one connection says at once what is wrong.
    match tokio::time::timeout(CONNECT_LIMIT, PgConnection::connect_with(&base)).await {
        Ok(connected) => connected?.close().await?,
        Err(_) => return Err(Error::unavailable(format!("no connection within {} seconds", CONNECT_LIMIT.as_secs()))),
    }
    // Writes are look-ups by key in tables that grow: a plan made while they are small must not stay a scan of them. A walk
    // along a whole index is one, too, and looks cheap as long as pages are what is counted: rows are.
    let given = base.get_options().unwrap_or_default().to_owned();
    let standard = [
        ("plan_cache_mode", "force_generic_plan"),
        ("cpu_tuple_cost", "1"),
        ("cpu_index_tuple_cost", "1"),
        ("random_page_cost", "0.001"),
        ("seq_page_cost", "0.001"),
        // The price of a plan that is switched off looks as if compiling it were worth while.
        ("jit", "off"),
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("statement_timeout", "30s"),
        ("lock_timeout", "10s"),
        // A process that is frozen, or cut off, in the middle of a transaction keeps its locks: less long than others wait for them.
        ("idle_in_transaction_session_timeout", "5s"),
    ];
    // What the URL says holds.
    let writing = base.clone().options(standard.into_iter().filter(|(name, _)| !given.contains(name)));
    let writing = || {
        at_once(&base)
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .acquire_timeout(CONNECT_LIMIT)
            .connect_lazy_with(writing.clone())
    };
    let pool = writing();
    migrate(&SqlxPostgresConnector::from_sqlx_postgres_pool(pool.clone()), Backend::Postgres, name).await?;
    let readers = at_once(&base)
        .max_connections(READERS_MAX)
        .idle_timeout(READER_IDLE)
        .acquire_timeout(CONNECT_LIMIT)
        .connect_lazy_with(base.clone().options([("statement_timeout", "30s")]));
    Ok(Inner {
        backend: Backend::Postgres,
        target: name.into(),
        writer: Writer::new(Pool::Postgres(pool), false),
        aside: Some(Writer::new(Pool::Postgres(writing()), false)),
        reader: Reader::new(SqlxPostgresConnector::from_sqlx_postgres_pool(readers)),
        numbers: std::sync::Mutex::default(),
        listening: Some(Box::new(base)),
        file: None,
    })
}

/// A pool whose connections send what they have at once.
fn at_once(options: &PgConnectOptions) -> PgPoolOptions {
    let port = options.get_port();
    let is_local = options.get_socket().is_some();
    PgPoolOptions::new().after_connect(move |_, _| {
        if !is_local {
            nodelay::set(port);
        }
        Box::pin(async { Ok(()) })
    })
}

/// Brings the schema up to date.
async fn migrate(database: &DatabaseConnection, backend: Backend, target: &str) -> Result<(), Error> {
    if is_current(database, backend, target).await? {
        return Ok(());
    }
    let options = TransactionOptions {
        isolation_level: None::<IsolationLevel>,
        access_mode: None::<AccessMode>,
        sqlite_transaction_mode: match backend {
            Backend::Sqlite => Some(SqliteTransactionMode::Immediate),
            Backend::Postgres => None,
        },
    };
    let tx: DatabaseTransaction = database.begin_with_options(options).await?;
    if backend == Backend::Postgres {
        tx.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")).await?;
    }
    // Somebody else may have been faster.
    if !is_current(&tx, backend, target).await? {
        if backend == Backend::Sqlite && is_empty(&tx).await? {
            migration::create(&tx).await?;
        } else {
            Migrator::up(&tx, None).await?;
        }
    }
    tx.commit().await?;
    Ok(())
}

/// Whether an SQLite file holds nothing yet.
async fn is_empty(database: &impl ConnectionTrait) -> Result<bool, Error> {
    let any = "SELECT name FROM sqlite_master LIMIT 1";
    Ok(database.query_one_raw(Statement::from_string(database.get_database_backend(), any)).await?.is_none())
}

/// Whether every migration is there; an error when there is one that nobody here knows.
async fn is_current(database: &impl ConnectionTrait, backend: Backend, target: &str) -> Result<bool, Error> {
    let exists = match backend {
        Backend::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'seaql_migrations'",
        Backend::Postgres => {
            "SELECT table_name FROM information_schema.tables \
             WHERE table_schema = current_schema() AND table_name = 'seaql_migrations'"
        }
    };
    let statement = |text: &str| Statement::from_string(database.get_database_backend(), text);
    if database.query_one_raw(statement(exists)).await?.is_none() {
        return Ok(false);
    }
    let known: Vec<String> = Migrator::migrations().iter().map(|it| it.name().to_owned()).collect();
    let mut applied = 0;
    for row in database.query_all_raw(statement("SELECT version FROM seaql_migrations ORDER BY version")).await? {
        let found: String = row.try_get_by_index(0)?;
        if !known.contains(&found) {
            let known = known.last().cloned().unwrap_or_default();
            return Err(Error::NewerSchema { target: target.into(), found, known });
        }
        applied += 1;
    }
    Ok(applied == known.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        assert!(matches!(parse("sqlite::memory:"), Ok(Target::Memory)));
        for (url, path) in
            [("sqlite:/a b/c%20d.db", "/a b/c%20d.db"), ("sqlite:///x.db", "/x.db"), ("sqlite:x.db?mode=rwc", "x.db")]
        {
            assert!(matches!(parse(url), Ok(Target::File(found)) if found.to_str() == Some(path)), "{url}");
        }
        for bad in ["", "sqlite:", "mysql://root@localhost/x", "/var/x.db", "postgres://h:notaport/db"] {
            assert!(matches!(parse(bad), Err(Error::Url { .. })), "{bad}");
        }
    }

    #[tokio::test]
    async fn passwords_are_not_shown() {
        for url in [
            "postgres://ann:s3cret@127.0.0.1:1/db",
            "postgres://ann:s3cret@127.0.0.1:nope/db",
            "mysql://ann:s3cret@h/db",
            "postgres://ann@127.0.0.1:1/db?password=s3cret",
        ] {
            let error = Store::open(url).await.unwrap_err();
            let mut words = format!("{error:?}");
            let mut cause: Option<&dyn std::error::Error> = Some(&error);
            while let Some(it) = cause {
                words += &it.to_string();
                cause = it.source();
            }
            assert!(!words.contains("s3cret"), "{words}");
        }
    }

    #[tokio::test]
    async fn an_unreachable_server_is_named() {
        let error = Store::open("postgres://ann:s3cret@127.0.0.1:1/crew").await.unwrap_err();
        assert_eq!(error.to_string(), "cannot open the database `postgres://127.0.0.1:1/crew`");
        assert_eq!(error.kind(), crewline_types::ErrorKind::Unavailable);
        assert_eq!(error.code(), "store.unavailable");
    }
}
