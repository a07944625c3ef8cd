//! Contents of files by their hash: what merges and diffs are made from.
//!
//! **Invariant:** what is read is what its name says, or is not there.

use std::{
    fs::{self, DirBuilder},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::snapshot::hash;

/// Contents by hash; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Blobs(Arc<Path>);

impl Blobs {
    /// Contents in `dir`.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        Ok(Self(dir.into()))
    }

    fn path(&self, hash: &str) -> PathBuf {
        self.0.join(hash)
    }

    /// Keeps a content, unless it is there.
    pub(crate) fn put(&self, hash: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(hash);
        if path.exists() {
            return Ok(());
        }
        // Whole or not at all: another process may be looking.
        let mut file = tempfile::NamedTempFile::new_in(&*self.0)?;
        file.write_all(bytes)?;
        file.persist(path)?;
        Ok(())
    }

    /// A content; `None` when it was not kept.
    pub(crate) fn get(&self, wanted: &str) -> Option<Vec<u8>> {
        let bytes = fs::read(self.path(wanted)).ok()?;
        (hash(&bytes) == wanted).then_some(bytes)
    }
}
