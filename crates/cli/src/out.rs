//! The output directory of a run: found writable before the run starts, made when it ends.
//!
//! **Invariant:** checking leaves nothing behind: a run that does not start has no directory.

use std::{
    fs::OpenOptions,
    io,
    path::{Path, PathBuf},
};

use crate::error::Error;

/// Where a run's documents go.
#[derive(Debug, Clone)]
pub(crate) enum OutDir {
    /// The person named it.
    Named(PathBuf),
    /// `crewline-out/<run>`.
    Default,
}

impl OutDir {
    /// Checks that documents can be written there.
    pub(crate) fn prepare(named: Option<PathBuf>) -> Result<Self, Error> {
        let dir = named.map_or(Self::Default, Self::Named);
        let path = dir.root();
        check_writable(path).map_err(|source| Error::Out { path: path.to_owned(), source })?;
        Ok(dir)
    }

    /// The directory of `run`.
    pub(crate) fn of(&self, run: impl std::fmt::Display) -> PathBuf {
        match self {
            Self::Named(path) => path.clone(),
            Self::Default => self.root().join(run.to_string()),
        }
    }

    /// What the person named, if anything.
    pub(crate) fn named(&self) -> Option<&Path> {
        match self {
            Self::Named(path) => Some(path),
            Self::Default => None,
        }
    }

    fn root(&self) -> &Path {
        match self {
            Self::Named(path) => path,
            Self::Default => Path::new("crewline-out"),
        }
    }
}

/// Whether a file can be made in `dir`, or in the nearest directory above it that exists.
pub(crate) fn check_writable(dir: &Path) -> io::Result<()> {
    let mut nearest = dir;
    let metadata = loop {
        let here = if nearest.as_os_str().is_empty() { Path::new(".") } else { nearest };
        match here.metadata() {
            Ok(metadata) => break metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => match nearest.parent() {
                Some(parent) => nearest = parent,
                None => return Err(error),
            },
            Err(error) => return Err(error),
        }
    };
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let probe = nearest.join(format!(".crewline-{}", std::process::id()));
    OpenOptions::new().write(true).create_new(true).open(&probe)?;
    std::fs::remove_file(&probe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("crewline-out-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_check_leaves_nothing_behind() {
        let folder = folder("clean");
        let out = OutDir::prepare(Some(folder.join("a/b"))).unwrap();
        assert_eq!(out.of("k3v9x0ab"), folder.join("a/b"));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_is_no_directory() {
        let folder = folder("file");
        std::fs::write(folder.join("file"), "").unwrap();
        for path in ["file", "file/below"] {
            assert!(matches!(OutDir::prepare(Some(folder.join(path))), Err(Error::Out { .. })), "{path}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_default_is_a_folder_per_run() {
        assert_eq!(OutDir::Default.of("k3v9x0ab"), Path::new("crewline-out/k3v9x0ab"));
    }
}
