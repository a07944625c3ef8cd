//! `crewline db`: bring a database up to date, back it up, check it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use crewline_store::Store;
use serde::Serialize;

use crate::{app, args::Output, console::Console, error::Error, exit::Exit, settings::Settings, view::count};

/// What `crewline db` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline db check
  crewline db backup /backups/crewline-$(date +%F).db
  crewline db migrate --database postgres://crew@db/crewline")]
pub(crate) struct DbArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Bring the schema up to date, as every command does when it opens the database
    #[command(after_help = "Example:
  crewline db migrate --database postgres://crew@db/crewline")]
    Migrate,
    /// Copy the database into a new file, while it is used
    #[command(after_help = "Example:
  crewline db backup /backups/crewline-$(date +%F).db

The copy holds one moment and is a database of its own (`--database sqlite:FILE`). A file that is there is not overwritten.
PostgreSQL has `pg_dump` for this.")]
    Backup {
        /// The new file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Check that the database holds what it promises; exits with 1 when it does not
    #[command(after_help = "Examples:
  crewline db check
  crewline db check -o jsonl

Only reads. Checks the file itself (SQLite), and that runs, tasks, attempts, calls, events and texts fit each other.")]
    Check,
}

/// Runs the command.
pub(crate) async fn run(args: DbArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    app::make_data_dir(&settings.data_dir)?;
    let store = Store::open(&settings.database_url()).await?;
    match args.action {
        Action::Migrate => migrate(&store, console),
        Action::Backup { file } => backup(&store, file, console).await,
        Action::Check => check(&store, console).await,
    }
}

#[derive(Debug, Serialize)]
struct Migrated<'a> {
    database: &'a str,
    schema: String,
}

fn migrate(store: &Store, console: &Console) -> Result<Exit, Error> {
    let migrated = Migrated { database: store.target(), schema: Store::schema() };
    console.value(&migrated, |_| format!("{} is at {}", migrated.database, migrated.schema))?;
    Ok(Exit::Ok)
}

#[derive(Debug, Serialize)]
struct BackedUp {
    file: PathBuf,
    bytes: u64,
}

async fn backup(store: &Store, file: PathBuf, console: &Console) -> Result<Exit, Error> {
    store.backup(&file).await?;
    let bytes = std::fs::metadata(&file).map_or(0, |it| it.len());
    let made = BackedUp { file, bytes };
    console.value(&made, |_| format!("{} ({} bytes)", made.file.display(), count(made.bytes)))?;
    Ok(Exit::Ok)
}

#[derive(Debug, Serialize)]
struct Found {
    rule: &'static str,
    meaning: &'static str,
    subject: String,
}

async fn check(store: &Store, console: &Console) -> Result<Exit, Error> {
    let problems = store.integrity().await?;
    let found: Vec<Found> =
        problems.into_iter().map(|it| Found { rule: it.rule, meaning: it.meaning, subject: it.subject }).collect();
    if found.is_empty() {
        if console.output != Output::Table {
            console.list(&found, |_| String::new())?;
        }
        console.note(&format!("{} is sound", store.target()));
        return Ok(Exit::Ok);
    }
    console.list(&found, |style| {
        let lines = found.iter().map(|it| format!("{} {}: {}", style.red(it.rule), it.meaning, it.subject));
        lines.collect::<Vec<_>>().join("\n")
    })?;
    console.hint("keep a copy of the database as it is (`crewline db backup FILE`) and report this");
    Ok(Exit::Failed)
}
