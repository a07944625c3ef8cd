//! A registry file that may change while a process runs.
//!
//! The file is looked at, not subscribed to: that also works for links that are exchanged, for network drives and in containers,
//! and one look is one system call.
//!
//! **Invariant:** a file that can not be read or is not valid is told once, and again only when it has changed.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::Registry;
use crate::Error;

/// A registry file, and what was seen of it last.
#[derive(Debug)]
pub struct RegistryFile {
    path: PathBuf,
    /// What was read last.
    read: Option<Stamp>,
    /// What was seen at the last look.
    seen: Option<Stamp>,
}

/// What changes when a file does: inode, length, time of its last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp(u64, u64, i64, i64);

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self(metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
    }
}

impl RegistryFile {
    /// A file of which nothing was read yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, read: None, seen: None }
    }

    /// The registry, when the file has changed since it was read, and not since the last look: an editor may be writing it.
    /// A few milliseconds then, one system call otherwise.
    pub fn changed(&mut self, env: &dyn Fn(&str) -> Option<String>) -> Option<Result<Registry, Error>> {
        let now = Stamp::of(&self.path);
        let is_at_rest = std::mem::replace(&mut self.seen, now) == now;
        if !is_at_rest || now.is_none() || now == self.read {
            return None;
        }
        self.read = now;
        Some(Registry::load(&self.path, env))
    }

    /// The registry as the file is now, changed or not: keys and instructions may stand in other files.
    pub fn load(&mut self, env: &dyn Fn(&str) -> Option<String>) -> Result<Registry, Error> {
        self.read = Stamp::of(&self.path);
        Registry::load(&self.path, env)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(window: u32) -> String {
        format!(
            "version: 1\nproviders:\n  p: {{type: ollama}}\nmodels:\n  a: {{provider: p, model: a, context_window: {window}}}\n\
             roles:\n  default: {{chain: [a]}}\n"
        )
    }

    #[test]
    fn a_change_is_seen_once_and_a_bad_file_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("crewline.yaml");
        let write = |text: &str| {
            let draft = folder.path().join("draft");
            fs::write(&draft, text).unwrap();
            fs::rename(&draft, &path).unwrap();
        };
        write(&text(1_000));
        let mut file = RegistryFile::new(path.clone());
        assert!(file.changed(&|_| None).is_none(), "it may still be written");
        assert!(file.changed(&|_| None).unwrap().is_ok(), "nothing was read of it yet");
        assert!(file.changed(&|_| None).is_none());
        write(&text(20_000));
        assert!(file.changed(&|_| None).is_none());
        let registry = file.changed(&|_| None).unwrap().unwrap();
        assert_eq!(registry.model("a").unwrap().context_window, 20_000);
        assert!(file.changed(&|_| None).is_none());
        write("version: 1\nmodels: [");
        assert!(file.changed(&|_| None).is_none());
        assert_eq!(file.changed(&|_| None).unwrap().unwrap_err().code(), "registry.invalid");
        assert!(file.changed(&|_| None).is_none());
        fs::remove_file(&path).unwrap();
        assert!(file.changed(&|_| None).is_none());
        assert!(file.changed(&|_| None).is_none());
        write(&text(3_000));
        assert!(file.changed(&|_| None).is_none());
        assert!(file.changed(&|_| None).unwrap().is_ok());
        assert!(file.load(&|_| None).is_ok());
    }
}
