//! The file of a SQLite database. A process that has it open goes on writing to it when it is removed, and nobody will read that.
//!
//! **Invariant:** what is written to a file that no longer has its name is not acknowledged.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::Error;

/// A file that is open.
#[derive(Debug)]
pub(crate) struct DataFile {
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
}

impl DataFile {
    /// The file that has this name now.
    pub(crate) fn at(path: PathBuf) -> io::Result<Self> {
        Ok(Self { id: id(&path)?, path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it still has its name. Where that can not be told it counts as if it had.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let is_there = match id(&self.path) {
            Ok(id) => id == self.id,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        if is_there { Ok(()) } else { Err(Error::Removed { path: self.path.clone() }) }
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::metadata(path)?;
    Ok((file.dev(), file.ino()))
}
