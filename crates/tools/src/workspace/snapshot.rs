//! What a tree holds at a moment: its files by content.
//!
//! **Invariant:** two snapshots are equal exactly when their trees are, in what tools can see.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read as _},
};

use serde::{Deserialize, Serialize};

use super::{Blobs, FileError, FilePath, Kind, Tree, Visit};

/// Bytes of a text whose content is kept, so that changes to it can be merged.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// The hash of a content.
pub(crate) type Hash = String;

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Node {
    /// A file.
    File {
        /// Of its content.
        hash: Hash,
        /// Bytes.
        size: u64,
        /// Whether it may be run.
        is_executable: bool,
    },
    /// A symbolic link.
    Link {
        /// What it says.
        target: String,
    },
}

/// What a tree holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Snapshot(pub(crate) BTreeMap<FilePath, Node>);

/// Which files of a tree count.
#[derive(Debug, Clone)]
pub(crate) enum Scope {
    /// All of them.
    All,
    /// These.
    Named(BTreeSet<FilePath>),
}

impl Snapshot {
    /// Reads a tree. Texts that are small enough are kept in `blobs`. What is no file of one name is left out.
    pub(crate) fn take(tree: &Tree, scope: &Scope, blobs: &Blobs) -> Result<Self, FileError> {
        let mut found = BTreeMap::new();
        let mut add = |path: &FilePath| match Node::read(tree, path, blobs) {
            Ok(Some(node)) => {
                found.insert(path.clone(), node);
                Ok(())
            }
            // Gone since, or nothing that is taken along.
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        match scope {
            Scope::Named(paths) => {
                if paths.len() > tree.limits().entries_max {
                    return Err(FileError::TooMuch { what: "files", limit: tree.limits().entries_max as u64 });
                }
                paths.iter().try_for_each(&mut add)?;
            }
            Scope::All => {
                let mut failed = Ok(());
                tree.walk(&FilePath::root(), |entry| {
                    let is_taken = matches!(entry.kind, Kind::File | Kind::Link);
                    failed = if is_taken { add(&entry.path) } else { Ok(()) };
                    if failed.is_ok() { Visit::Go } else { Visit::Stop }
                })?;
                failed?;
            }
        }
        let snapshot = Self(found);
        if snapshot.bytes() > tree.limits().bytes_max {
            return Err(FileError::TooMuch { what: "bytes", limit: tree.limits().bytes_max });
        }
        Ok(snapshot)
    }

    fn bytes(&self) -> u64 {
        let size = |node: &Node| match node {
            Node::File { size, .. } => *size,
            Node::Link { .. } => 0,
        };
        self.0.values().map(size).sum()
    }

    /// The paths.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &FilePath> {
        self.0.keys()
    }

    /// What is different in `new`, by path.
    pub(crate) fn changes<'a>(&'a self, new: &'a Self) -> Vec<Change> {
        let paths: BTreeSet<&FilePath> = self.paths().chain(new.paths()).collect();
        let change = |path: &FilePath| Change {
            path: path.clone(),
            before: self.0.get(path).cloned(),
            after: new.0.get(path).cloned(),
        };
        paths.into_iter().map(change).filter(|it| it.before != it.after).collect()
    }
}

impl Node {
    /// What stands at a path now; `None` for nothing that is taken along.
    pub(crate) fn read(tree: &Tree, path: &FilePath, blobs: &Blobs) -> Result<Option<Self>, FileError> {
        let entry = match tree.entry(path) {
            Ok(entry) => entry,
            Err(error) if is_nothing(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        match entry.kind {
            Kind::Link => Ok(tree.link(path)?.map(|target| Self::Link { target })),
            Kind::Dir | Kind::Other => Ok(None),
            Kind::File => match Self::read_file(tree, path, blobs) {
                Err(error) if is_nothing(&error) => Ok(None),
                node => node.map(Some),
            },
        }
    }

    fn read_file(tree: &Tree, path: &FilePath, blobs: &Blobs) -> Result<Self, FileError> {
        let (mut reader, is_executable) = tree.reader(path)?;
        let io = |source: io::Error| FileError::Io { path: path.clone(), source };
        let mut start = Vec::new();
        reader.by_ref().take(TEXT_BYTES_MAX + 1).read_to_end(&mut start).map_err(io)?;
        if start.len() as u64 <= TEXT_BYTES_MAX {
            let hash = hash(&start);
            if str::from_utf8(&start).is_ok() {
                blobs.put(&hash, &start).map_err(io)?;
            }
            return Ok(Self::File { hash, size: start.len() as u64, is_executable });
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&start);
        let mut size = start.len() as u64;
        let mut block = vec![0; 256 << 10];
        loop {
            let length = reader.read(&mut block).map_err(io)?;
            if length == 0 {
                return Ok(Self::File { hash: hasher.finalize().to_hex().to_string(), size, is_executable });
            }
            size += length as u64;
            hasher.update(&block[..length]);
        }
    }
}

pub(crate) fn hash(bytes: &[u8]) -> Hash {
    blake3::hash(bytes).to_hex().to_string()
}

/// Whether there is nothing that is taken along.
fn is_nothing(error: &FileError) -> bool {
    match error {
        FileError::NotFound { .. } | FileError::Link { .. } | FileError::HardLink { .. } | FileError::Kind { .. } => {
            true
        }
        FileError::Path { .. } | FileError::TooLarge { .. } | FileError::TooMuch { .. } | FileError::Io { .. } => false,
    }
}

/// What became of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    /// Where.
    pub(crate) path: FilePath,
    /// What was there.
    pub(crate) before: Option<Node>,
    /// What is there.
    pub(crate) after: Option<Node>,
}
