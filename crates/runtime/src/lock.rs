//! Who works on a run: one at a time within this process, and where runs have lock files one on the machine. There the operating
//! system knows best whether the holder still lives.
//!
//! **Invariant:** the lock goes with the process, however it ends; no stale lock survives a crash.
//! **Invariant:** a lock counts only while its file is the one of that name: who lets a run go removes it.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::MetadataExt,
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
    file: Option<(File, PathBuf)>,
}

impl RunLock {
    /// How the run is claimed: a lock file says that no other process of this machine holds it; its lease may still look valid.
    pub fn claim(&self) -> Claim {
        if self.file.is_some() { Claim::Force } else { Claim::IfFree }
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // The file first: whoever finds the run free here finds it free there. It is removed while it is locked, so that it is
        // nobody else's; what a crash left is removed by the next one that has the run.
        if let Some((file, path)) = self.file.take() {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::debug!(path = %path.display(), %error, "a lock file is left");
            }
            drop(file);
        }
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.run);
    }
}

/// Times that somebody else may let the run go just while its file is opened.
const TRIES: u32 = 100;

fn take_file(folder: &Path, run: RunId, node: &str) -> Result<(File, PathBuf), Error> {
    let path = folder.join(format!("{run}.lock"));
    let io = |source| Error::Io { path: path.clone(), source };
    std::fs::create_dir_all(folder).map_err(io)?;
    for _ in 0..TRIES {
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            // The control of `cargo xtask chaos`: beside whoever has it.
            Err(TryLockError::WouldBlock) if cfg!(feature = "unfenced") => return Ok((file, path)),
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                file.take(256).read_to_string(&mut owner).ok();
                let owner = if owner.is_empty() { "another process".into() } else { owner };
                return Err(Error::Held { run, owner });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        if is_of(&file, &path).map_err(io)? {
            file.set_len(0).map_err(io)?;
            file.rewind().map_err(io)?;
            file.write_all(node.as_bytes()).map_err(io)?;
            return Ok((file, path));
        }
    }
    Err(Error::Held { run, owner: "one process after the other".into() })
}

/// Whether `path` still names `file`.
fn is_of(file: &File, path: &Path) -> std::io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

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
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "no file is left");
    }

    #[test]
    fn whoever_takes_a_run_while_others_let_it_go_has_it_alone() {
        let folder = tempfile::tempdir().unwrap();
        let run: RunId = "aaaaaaaa".parse().unwrap();
        let holders = std::sync::atomic::AtomicU32::new(0);
        let taken = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for process in 0..4 {
                let locks = Locks::new(format!("host:{process}").into(), Some(folder.path().to_owned()));
                let (holders, taken) = (&holders, &taken);
                scope.spawn(move || {
                    for _ in 0..2_000 {
                        let Ok(lock) = locks.take(run) else { continue };
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two have it");
                        taken.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        holders.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert!(taken.into_inner() > 4);
    }
}
