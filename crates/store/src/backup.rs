//! A copy of a SQLite database, made while others write.
//!
//! **Invariant:** a copy appears under its name when it is whole and on the disk, and replaces nothing.
//! **Invariant:** a part of a copy is locked while it is written; what a killed process left goes with the next copy beside it.

use std::{
    fs::{self, File},
    io,
    path::Path,
    time::Duration,
};

use sea_orm::sqlx::{
    self, Connection as _,
    sqlite::{SqliteConnectOptions, SqliteConnection},
};

use crate::{Error, Store};

/// How the name of a part begins.
const PART: &str = ".backup-";
/// A part that is younger may be about to be locked.
const PART_AGE: Duration = Duration::from_mins(1);

impl Store {
    /// Writes a copy of the database to the file `to`, which must not exist; its folder must. The copy is of one moment,
    /// without gaps and without the write-ahead log; others may write meanwhile.
    ///
    /// [`Error::BackupElsewhere`] for a database that is not a file: PostgreSQL has tools of its own.
    pub async fn backup(&self, to: &Path) -> Result<(), Error> {
        let Some(source) = self.file() else { return Err(Error::BackupElsewhere) };
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists { path: to.to_owned() },
            _ => Error::File { path: to.to_owned(), source },
        };
        if to.symlink_metadata().is_ok() {
            return Err(Error::Exists { path: to.to_owned() });
        }
        let folder = match to.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            Some(_) | None => Path::new("."),
        };
        if let Err(error) = remove_parts(folder) {
            tracing::debug!(folder = %folder.display(), %error, "what an earlier backup left is not removed");
        }
        let part = tempfile::Builder::new().prefix(PART).tempfile_in(folder).map_err(failed)?;
        part.as_file().lock().map_err(failed)?;
        copy(source, part.path()).await?;
        let folder = folder.to_owned();
        let target = to.to_owned();
        // The copy may be large: its way to the disk is not for this thread.
        let kept = tokio::task::spawn_blocking(move || {
            part.as_file().sync_all()?;
            part.persist_noclobber(&target).map_err(|error| error.error)?;
            File::open(folder)?.sync_all()
        });
        kept.await.map_err(|error| Error::internal(error.to_string()))?.map_err(failed)
    }
}

/// Removes what backups left in `folder` that were killed.
fn remove_parts(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_part =
            entry.file_name().to_str().is_some_and(|name| name.starts_with(PART)) && entry.file_type()?.is_file();
        if !is_part || !entry.metadata()?.modified()?.elapsed().is_ok_and(|age| age >= PART_AGE) {
            continue;
        }
        let part = File::open(entry.path())?;
        if part.try_lock().is_ok() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

async fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let Some(name) = to.to_str() else { return Err(Error::Invalid { what: "the name of a backup must be UTF-8" }) };
    let options = SqliteConnectOptions::new().filename(from).create_if_missing(false);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    // It takes an empty file for none.
    sqlx::query("VACUUM INTO ?").bind(name).execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}
