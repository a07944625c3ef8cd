//! What the database holds, read past the product: plain SQL on a connection of our own.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use sea_orm::{ConnectOptions, ConnectionTrait as _, Database as Sea, DbErr, QueryResult, Statement};

use crate::{ledger, plan};

/// How long a database may be away.
const PATIENCE: Duration = Duration::from_secs(30);

/// A database of the product.
#[derive(Debug, Clone)]
pub struct Database {
    url: String,
}

/// A run.
#[derive(Debug)]
pub struct Run {
    pub id: String,
    pub status: String,
    pub last_seq: i64,
}

/// A task and its result.
#[derive(Debug)]
pub struct Task {
    pub number: i64,
    pub id: String,
    /// The name in the plan, whatever the product called it.
    pub key: String,
    pub kind: String,
    pub status: String,
    pub attempts: i64,
    pub cost: i64,
    pub result: Option<String>,
}

/// An attempt.
#[derive(Debug)]
pub struct Attempt {
    pub task: i64,
    pub number: i64,
    pub status: String,
    /// It ended with whoever made it.
    pub is_lost: bool,
}

/// A call.
#[derive(Debug)]
pub struct Call {
    pub task: i64,
    pub attempt: i64,
    pub number: i64,
    pub outcome: Option<String>,
    pub cost: Option<i64>,
    pub reply: Option<String>,
}

/// An event.
#[derive(Debug)]
pub struct Event {
    pub seq: i64,
    pub kind: String,
    pub task: Option<String>,
    pub payload: String,
}

impl Database {
    /// The file of a data directory.
    pub fn sqlite(data: &Path) -> Self {
        // Never created here: a file that is not there is an answer, too.
        Self { url: format!("sqlite:{}?mode=rw", data.join("crewline.db").display()) }
    }

    /// A database of a server.
    pub fn postgres(url: &str) -> Self {
        Self { url: url.to_owned() }
    }

    /// Whether it is a file.
    pub fn is_sqlite(&self) -> bool {
        self.url.starts_with("sqlite:")
    }

    /// Runs one statement.
    pub fn execute(&self, sql: &str) -> Result<(), DbErr> {
        block_on(async {
            let connection = Sea::connect(self.options()).await?;
            let done = connection.execute_unprepared(sql).await.map(drop);
            connection.close().await?;
            done
        })
    }

    fn options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new(&self.url);
        options.max_connections(1).sqlx_logging(false);
        options
    }

    fn ask<T>(&self, sql: &str, of: impl Fn(&QueryResult) -> Result<T, DbErr>) -> Result<Vec<T>, DbErr> {
        block_on(async {
            let connection = Sea::connect(self.options()).await?;
            let rows = connection.query_all_raw(Statement::from_string(connection.get_database_backend(), sql)).await;
            connection.close().await?;
            rows?.iter().map(of).collect()
        })
    }

    /// Reads what another lane may have crashed a moment ago, or a process made a moment ago.
    pub fn patiently<T>(&self, read: impl Fn(&Self) -> Result<T, DbErr>) -> Result<T, String> {
        let from = Instant::now();
        loop {
            match read(self) {
                Ok(found) => return Ok(found),
                Err(error) if from.elapsed() > PATIENCE => {
                    return Err(format!("the database cannot be read: {error}"));
                }
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// The run with this tag in its goal; `None` when it was not recorded.
    pub fn run(&self, tag: &str) -> Result<Option<Run>, DbErr> {
        let sql = format!("SELECT id, status, last_seq FROM runs WHERE goal LIKE 'plan:{tag};%' ORDER BY created_at");
        let of = |row: &QueryResult| {
            Ok(Run { id: row.try_get_by(0)?, status: row.try_get_by(1)?, last_seq: row.try_get_by(2)? })
        };
        match self.ask(&sql, of) {
            Ok(mut runs) => Ok(runs.pop()),
            // Its process was killed before it made the tables.
            Err(error) if ["no such table", "does not exist"].iter().any(|it| error.to_string().contains(it)) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The tasks of a run.
    pub fn tasks(&self, run: &str) -> Result<Vec<Task>, DbErr> {
        let sql = format!(
            "SELECT t.number, t.id, t.kind, t.status, t.attempts, t.cost_micro_usd, t.description, x.body FROM tasks t \
             LEFT JOIN texts x ON x.hash = t.result WHERE t.run_id = '{run}' ORDER BY t.number"
        );
        self.ask(&sql, |row| {
            let kind: String = row.try_get_by(2)?;
            let description: String = row.try_get_by(6)?;
            let key = match kind.as_str() {
                "root" => ledger::PLANNING,
                _ => plan::key_in(&description).unwrap_or(ledger::SYNTHESIS),
            };
            Ok(Task {
                number: row.try_get_by(0)?,
                id: row.try_get_by(1)?,
                key: key.to_owned(),
                kind,
                status: row.try_get_by(3)?,
                attempts: row.try_get_by(4)?,
                cost: row.try_get_by(5)?,
                result: row.try_get_by(7)?,
            })
        })
    }

    /// The attempts of a run.
    pub fn attempts(&self, run: &str) -> Result<Vec<Attempt>, DbErr> {
        let sql = format!(
            "SELECT a.task, a.number, a.status, a.error FROM attempts a JOIN tasks t ON t.number = a.task \
             WHERE t.run_id = '{run}' ORDER BY a.task, a.number"
        );
        self.ask(&sql, |row| {
            let error: Option<String> = row.try_get_by(3)?;
            Ok(Attempt {
                task: row.try_get_by(0)?,
                number: row.try_get_by(1)?,
                status: row.try_get_by(2)?,
                is_lost: error.is_some_and(|it| it.contains("\"attempt.lost\"")),
            })
        })
    }

    /// The calls of a run.
    pub fn calls(&self, run: &str) -> Result<Vec<Call>, DbErr> {
        let sql = format!(
            "SELECT c.task, c.attempt, c.number, c.outcome, c.cost_micro_usd, x.body FROM calls c \
             JOIN tasks t ON t.number = c.task LEFT JOIN texts x ON x.hash = c.reply \
             WHERE t.run_id = '{run}' ORDER BY c.task, c.attempt, c.number"
        );
        self.ask(&sql, |row| {
            Ok(Call {
                task: row.try_get_by(0)?,
                attempt: row.try_get_by(1)?,
                number: row.try_get_by(2)?,
                outcome: row.try_get_by(3)?,
                cost: row.try_get_by(4)?,
                reply: row.try_get_by(5)?,
            })
        })
    }

    /// The events of a run.
    pub fn events(&self, run: &str) -> Result<Vec<Event>, DbErr> {
        let sql = format!("SELECT seq, kind, task_id, payload FROM events WHERE run_id = '{run}' ORDER BY seq");
        self.ask(&sql, |row| {
            Ok(Event {
                seq: row.try_get_by(0)?,
                kind: row.try_get_by(1)?,
                task: row.try_get_by(2)?,
                payload: row.try_get_by(3)?,
            })
        })
    }

    /// What the file's own checks find.
    pub fn damage(&self) -> Result<Vec<String>, DbErr> {
        if !self.is_sqlite() {
            return Ok(Vec::new());
        }
        let mut found = self.ask("PRAGMA integrity_check", |row| row.try_get_by::<String, _>(0))?;
        found.retain(|line| line != "ok");
        found.extend(self.ask("PRAGMA foreign_key_check", |row| {
            row.try_get_by::<String, _>(0).map(|table| format!("a row of `{table}` refers to nothing"))
        })?);
        Ok(found)
    }
}

/// Runs a future on this thread.
fn block_on<T>(work: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build();
    executor.map_err(|error| DbErr::Custom(error.to_string()))?.block_on(work)
}
