//! A lock file per run: on one machine the operating system knows best whether the holder still lives.
//!
//! **Invariant:** the lock goes with the process, however it ends; no stale lock survives a crash.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::Path,
};

use crewline_types::RunId;

use crate::Error;

/// Holds a run for this process until dropped.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes the run, or says who holds it.
    pub fn take(folder: &Path, run: RunId, node: &str) -> Result<Self, Error> {
        let path = folder.join(format!("{run}.lock"));
        let io = |source| Error::Io { path: path.clone(), source };
        std::fs::create_dir_all(folder).map_err(io)?;
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0).map_err(io)?;
                file.rewind().map_err(io)?;
                file.write_all(node.as_bytes()).map_err(io)?;
                Ok(Self { _file: file })
            }
            // The control of `cargo xtask chaos`: beside whoever has it.
            Err(TryLockError::WouldBlock) if cfg!(feature = "unfenced") => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                file.take(256).read_to_string(&mut owner).ok();
                let owner = if owner.is_empty() { "another process".into() } else { owner };
                Err(Error::Held { run, owner })
            }
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_held_once() {
        let folder = tempfile::tempdir().unwrap();
        let run: RunId = "aaaaaaaa".parse().unwrap();
        let held = RunLock::take(folder.path(), run, "host:1").unwrap();
        match RunLock::take(folder.path(), run, "host:2") {
            Err(Error::Held { owner, .. }) => assert_eq!(owner, "host:1"),
            other => panic!("{other:?}"),
        }
        drop(held);
        RunLock::take(folder.path(), run, "host:2").unwrap();
    }
}
