//! Who works on a run: one at a time within this process, and where runs have lock files one on the machine. There the operating
//! system knows best whether the holder still lives.
//!
//! **Invariant:** the lock goes with the process, however it ends; no stale lock survives a crash.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use crewline_store::Claim;
use crewline_types::RunId;

use crate::Error;

/// The locks of runs.
#[derive(Debug, Clone)]
pub struct Locks {
    node: Arc<str>,
    folder: Option<PathBuf>,
    held: Held,
}

/// The runs that this process holds.
type Held = Arc<Mutex<HashSet<RunId>>>;

impl Locks {
    /// Of the process `node`, with a file for each run where there is a folder for them.
    pub fn new(node: Arc<str>, folder: Option<PathBuf>) -> Self {
        Self { node, folder, held: Held::default() }
    }

    /// Whether a lock says that nobody else on this machine holds the run.
    pub fn have_files(&self) -> bool {
        self.folder.is_some()
    }

    /// Takes the run, or says who holds it.
    pub fn take(&self, run: RunId) -> Result<RunLock, Error> {
        let is_new = self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(run);
        if !is_new {
            return Err(Error::Held { run, owner: self.node.to_string() });
        }
        // From here on it is given back when anything fails.
        let mut lock = RunLock { run, held: Arc::clone(&self.held), file: None };
        if let Some(folder) = &self.folder {
            lock.file = Some(take_file(folder, run, &self.node)?);
        }
        Ok(lock)
    }
}

/// Holds a run for this process until dropped.
#[derive(Debug)]
pub struct RunLock {
    run: RunId,
    held: Held,
    file: Option<File>,
}

impl RunLock {
    /// How the run is claimed: a lock file says that no other process of this machine holds it; its lease may still look valid.
    pub fn claim(&self) -> Claim {
        if self.file.is_some() { Claim::Force } else { Claim::IfFree }
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // The file first: whoever finds the run free here finds it free there.
        self.file = None;
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.run);
    }
}

fn take_file(folder: &Path, run: RunId, node: &str) -> Result<File, Error> {
    let path = folder.join(format!("{run}.lock"));
    let io = |source| Error::Io { path: path.clone(), source };
    std::fs::create_dir_all(folder).map_err(io)?;
    let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0).map_err(io)?;
            file.rewind().map_err(io)?;
            file.write_all(node.as_bytes()).map_err(io)?;
            Ok(file)
        }
        // The control of `cargo xtask chaos`: beside whoever has it.
        Err(TryLockError::WouldBlock) if cfg!(feature = "unfenced") => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            file.take(256).read_to_string(&mut owner).ok();
            let owner = if owner.is_empty() { "another process".into() } else { owner };
            Err(Error::Held { run, owner })
        }
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_held_once() {
        let folder = tempfile::tempdir().unwrap();
        let run: RunId = "aaaaaaaa".parse().unwrap();
        let held_by = |locks: &Locks| match locks.take(run) {
            Err(Error::Held { owner, .. }) => owner,
            other => panic!("{other:?}"),
        };
        let processes = ["host:1", "host:2"].map(|node| Locks::new(node.into(), Some(folder.path().to_owned())));
        let held = processes[0].take(run).unwrap();
        assert!(processes.iter().all(|it| held_by(it) == "host:1"));
        drop(held);
        drop(processes[1].take(run).unwrap());
        processes[0].take(run).unwrap();

        let shared = Locks::new("host:3".into(), None);
        let held = shared.take(run).unwrap();
        assert_eq!(held_by(&shared), "host:3");
        drop(held);
        shared.take(run).unwrap();
    }
}
