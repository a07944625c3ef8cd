//! Notes of edits, so that one that is made again after a crash is one edit.
//!
//! **Invariant:** a note is written before its file; it says what the file holds when the edit is done.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where the notes are; cheap to clone.
#[derive(Debug, Clone)]
pub struct Journal(Option<Arc<Path>>);

impl Journal {
    /// Notes in `dir`, which is outside of what tools can reach and made with the first one.
    pub fn new(dir: &Path) -> Self {
        Self(Some(dir.into()))
    }

    /// No notes: nothing is ever made again.
    pub fn none() -> Self {
        Self(None)
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        self.0.as_ref().map(|dir| dir.join(&blake3::hash(key.as_bytes()).to_hex()[..32]))
    }

    /// Whether the edit `key` has led to `content` already.
    pub(crate) fn is_done(&self, key: &str, content: &[u8]) -> bool {
        let note = self.path(key).and_then(|path| fs::read_to_string(path).ok());
        note.is_some_and(|note| note == *blake3::hash(content).to_hex())
    }

    /// Notes to what the edit `key` is about to lead.
    pub(crate) fn note(&self, key: &str, content: &[u8]) -> io::Result<()> {
        let (Some(dir), Some(path)) = (&self.0, self.path(key)) else { return Ok(()) };
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        fs::write(path, blake3::hash(content).to_hex().as_bytes())
    }
}
