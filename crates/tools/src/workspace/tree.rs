//! Files below one directory, and nothing else: the only way tools reach files.
//!
//! Every part of a path is opened by itself, from the directory before it, and no link is followed: what a name means can not
//! change between a check and its use.
//!
//! **Invariant:** no call opens, makes, changes or removes anything outside the root, whatever is swapped meanwhile.
//! **Invariant:** only regular files with one name are read: a second name (a hard link) may be a file from outside.
//! **Invariant:** a file is written beside its place and then moved there: it is old or new, never half, and another name of the
//! old one keeps the old content.

use std::{
    io::{self, Read as _, Write as _},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use cap_fs_ext::{DirExt as _, FollowSymlinks, OpenOptionsFollowExt as _};
use cap_std::{
    ambient_authority,
    fs::{Dir, File, Metadata, MetadataExt as _, OpenOptions, OpenOptionsExt as _, Permissions, PermissionsExt as _},
};

use super::{BadPath, FilePath};

/// What a tree may hold and give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeLimits {
    /// Bytes of one file that is read or written by a tool.
    pub file_bytes_max: u64,
    /// Files and directories of a tree.
    pub entries_max: usize,
    /// Bytes of all files of a tree.
    pub bytes_max: u64,
    /// Directories within each other.
    pub depth_max: usize,
}

impl Default for TreeLimits {
    fn default() -> Self {
        Self { file_bytes_max: 4 << 20, entries_max: 50_000, bytes_max: 2 << 30, depth_max: 64 }
    }
}

/// Why a file can not be used so.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is no path inside the workspace.
    #[error("`{path}`: {problem}")]
    Path {
        /// What was given.
        path: String,
        /// What is wrong.
        problem: BadPath,
    },
    /// There is no such file.
    #[error("there is no `{path}`")]
    NotFound {
        /// The file.
        path: FilePath,
    },
    /// It, or a directory above it, is a symbolic link.
    #[error("`{path}` is a symbolic link or lies behind one, and links are not followed")]
    Link {
        /// The file.
        path: FilePath,
    },
    /// It has a second name.
    #[error("`{path}` has another name (a hard link), which may be outside the workspace")]
    HardLink {
        /// The file.
        path: FilePath,
    },
    /// It is a directory, a device, a pipe or a socket; or a file where a directory should be.
    #[error("`{path}` is not {expected}")]
    Kind {
        /// The file.
        path: FilePath,
        /// What it should be.
        expected: &'static str,
    },
    /// It is too large.
    #[error("`{path}` is larger than {limit} bytes")]
    TooLarge {
        /// The file.
        path: FilePath,
        /// The limit.
        limit: u64,
    },
    /// There is too much below the root.
    #[error("there is too much in the workspace: {what} is more than {limit}")]
    TooMuch {
        /// What is counted.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The system says no.
    #[error("`{path}`: {source}")]
    Io {
        /// The file.
        path: FilePath,
        /// Why.
        source: io::Error,
    },
}

/// Files below one directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tree(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: Dir,
    limits: TreeLimits,
    /// Held by who reads a file to write it again: two edits beside each other must not lose one.
    editing: Mutex<()>,
    /// Makes names of files that are being written.
    counter: AtomicU64,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link; never followed.
    Link,
    /// A device, a pipe or a socket; never opened.
    Other,
}

/// A name in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub path: FilePath,
    /// What it is.
    pub kind: Kind,
    /// Bytes of a file.
    pub size: u64,
    /// Whether a file may be run.
    pub is_executable: bool,
    /// How many names a file has.
    pub names: u64,
}

impl Entry {
    fn new(path: FilePath, metadata: &Metadata) -> Self {
        let kind = kind_of(metadata);
        Self {
            path,
            kind,
            size: if kind == Kind::File { metadata.len() } else { 0 },
            is_executable: metadata.mode() & 0o111 != 0,
            names: metadata.nlink(),
        }
    }
}

impl Tree {
    /// The files below `root`. The root itself may be named through links.
    pub fn open(root: &Path, limits: TreeLimits) -> io::Result<Self> {
        let dir = Dir::open_ambient_dir(root, ambient_authority())?;
        Ok(Self(Arc::new(Inner { dir, limits, editing: Mutex::new(()), counter: AtomicU64::new(0) })))
    }

    /// What it may hold and give.
    pub fn limits(&self) -> TreeLimits {
        self.0.limits
    }

    /// Reads a path that a model wrote.
    pub fn path(&self, text: &str) -> Result<FilePath, FileError> {
        FilePath::parse(text)
            .map_err(|problem| FileError::Path { path: text.chars().take(200).collect::<String>(), problem })
    }

    /// The directory `path`.
    fn dir(&self, path: &FilePath) -> Result<Dir, FileError> {
        let mut dir = self.0.dir.try_clone().map_err(|error| why(path, error))?;
        for part in path.parts() {
            dir = dir.open_dir_nofollow(part).map_err(|error| why_dir(&dir, part, path, error))?;
        }
        Ok(dir)
    }

    /// Whether `path` is a directory that no link leads to.
    pub(crate) fn check_dir(&self, path: &FilePath) -> Result<(), FileError> {
        self.dir(path).map(|_| ())
    }

    /// The directory `path`, made where it is missing.
    fn make_dir(&self, path: &FilePath) -> Result<Dir, FileError> {
        let mut dir = self.0.dir.try_clone().map_err(|error| why(path, error))?;
        for part in path.parts() {
            match dir.create_dir(part) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(why(path, error)),
            }
            dir = dir.open_dir_nofollow(part).map_err(|error| why_dir(&dir, part, path, error))?;
        }
        Ok(dir)
    }

    /// Opens a regular file with one name to read it.
    fn open_file(&self, path: &FilePath) -> Result<(File, Metadata), FileError> {
        let Some((parent, name)) = path.split() else {
            return Err(FileError::Kind { path: path.clone(), expected: "a file" });
        };
        let dir = self.dir(&parent)?;
        let mut options = OpenOptions::new();
        // A pipe without a writer would never open.
        let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
        options.read(true).follow(FollowSymlinks::No).custom_flags(nonblocking);
        // Devices are not opened at all: some do things when they are.
        let kind = dir.symlink_metadata(name).map_err(|error| why(path, error))?;
        check_file(path, &kind)?;
        let file = dir.open_with(name, &options).map_err(|error| why_dir(&dir, name, path, error))?;
        let metadata = file.metadata().map_err(|error| why(path, error))?;
        check_file(path, &metadata)?;
        Ok((file, metadata))
    }

    /// The bytes of a file.
    pub fn read(&self, path: &FilePath) -> Result<Vec<u8>, FileError> {
        self.read_up_to(path, self.0.limits.file_bytes_max)
    }

    /// The bytes of a file that is at most `limit` long.
    pub(crate) fn read_up_to(&self, path: &FilePath, limit: u64) -> Result<Vec<u8>, FileError> {
        let too_large = || FileError::TooLarge { path: path.clone(), limit };
        let (file, metadata) = self.open_file(path)?;
        if metadata.len() > limit {
            return Err(too_large());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
        // It may grow while it is read.
        file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| why(path, error))?;
        if bytes.len() as u64 > limit { Err(too_large()) } else { Ok(bytes) }
    }

    /// A file to read from, and whether it may be run.
    pub(crate) fn reader(&self, path: &FilePath) -> Result<(impl io::Read, bool), FileError> {
        let (file, metadata) = self.open_file(path)?;
        Ok((file, metadata.mode() & 0o111 != 0))
    }

    /// Writes a file, with the directories above it. A file that is there keeps its mode.
    pub fn write(&self, path: &FilePath, bytes: &[u8]) -> Result<Written, FileError> {
        if bytes.len() as u64 > self.0.limits.file_bytes_max {
            return Err(FileError::TooLarge { path: path.clone(), limit: self.0.limits.file_bytes_max });
        }
        self.write_from(path, &mut &*bytes, None)
    }

    /// The same from a source of any length; `is_executable` sets the mode.
    pub(crate) fn write_from(
        &self,
        path: &FilePath,
        source: &mut dyn io::Read,
        is_executable: Option<bool>,
    ) -> Result<Written, FileError> {
        let Some((parent, name)) = path.split() else {
            return Err(FileError::Kind { path: path.clone(), expected: "a file" });
        };
        let dir = self.make_dir(&parent)?;
        let earlier = match dir.symlink_metadata(name) {
            Ok(metadata) if metadata.is_symlink() => return Err(FileError::Link { path: path.clone() }),
            Ok(metadata) if !metadata.is_file() => {
                return Err(FileError::Kind { path: path.clone(), expected: "a file" });
            }
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(why(path, error)),
        };
        let mode = match (is_executable, &earlier) {
            (Some(true), _) => 0o755,
            (Some(false), _) | (None, None) => 0o644,
            // Never more than a file of ours should have: no set-user-id.
            (None, Some(metadata)) => metadata.mode() & 0o777,
        };
        let beside = self.beside();
        let written = (|| {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).follow(FollowSymlinks::No);
            let mut file = dir.open_with(&beside, &options)?;
            let size = io::copy(source, &mut file)?;
            file.set_permissions(Permissions::from_mode(mode))?;
            file.flush()?;
            dir.rename(&beside, &dir, name)?;
            Ok(size)
        })();
        match written {
            Ok(size) => Ok(Written { size, is_new: earlier.is_none() }),
            Err(error) => {
                // It is ours and nobody's business.
                let _ = dir.remove_file(&beside);
                Err(why(path, error))
            }
        }
    }

    /// What a link says; `None` when that is no UTF-8.
    pub(crate) fn link(&self, path: &FilePath) -> Result<Option<String>, FileError> {
        let Some((parent, name)) = path.split() else {
            return Err(FileError::Kind { path: path.clone(), expected: "a link" });
        };
        let target = self.dir(&parent)?.read_link_contents(name).map_err(|error| why(path, error))?;
        Ok(target.into_os_string().into_string().ok())
    }

    /// Makes a link, in place of a file or a link that is there.
    pub(crate) fn make_link(&self, path: &FilePath, target: &str) -> Result<(), FileError> {
        let Some((parent, name)) = path.split() else {
            return Err(FileError::Kind { path: path.clone(), expected: "a link" });
        };
        let dir = self.make_dir(&parent)?;
        let beside = self.beside();
        let made = dir.symlink_contents(target, &beside).and_then(|()| dir.rename(&beside, &dir, name));
        made.map_err(|error| {
            let _ = dir.remove_file(&beside);
            why(path, error)
        })
    }

    /// A name for what is not yet in its place.
    fn beside(&self) -> String {
        let count = self.0.counter.fetch_add(1, Ordering::Relaxed);
        format!(".crewline-tmp-{}-{count}", std::process::id())
    }

    /// Reads a file, makes a new content of it, and writes it; no other edit of this tree comes between.
    pub fn edit<T, E: From<FileError>>(
        &self,
        path: &FilePath,
        change: impl FnOnce(&[u8]) -> Result<(Vec<u8>, T), E>,
    ) -> Result<T, E> {
        let _editing = self.0.editing.lock().unwrap_or_else(PoisonError::into_inner);
        let (bytes, told) = change(&self.read(path)?)?;
        self.write(path, &bytes)?;
        Ok(told)
    }

    /// Removes a file or a link, and the directories above it that are empty then.
    pub(crate) fn remove(&self, path: &FilePath) -> Result<(), FileError> {
        let Some((mut parent, name)) = path.split() else {
            return Err(FileError::Kind { path: path.clone(), expected: "a file" });
        };
        self.dir(&parent)?.remove_file(name).map_err(|error| why(path, error))?;
        while let Some((above, name)) = parent.split() {
            // One that is not empty stays.
            if self.dir(&above)?.remove_dir(name).is_err() {
                break;
            }
            parent = above;
        }
        Ok(())
    }

    /// What is in a directory, by name.
    pub(crate) fn entries(&self, path: &FilePath) -> Result<Vec<Entry>, FileError> {
        let dir = self.dir(path)?;
        let mut found = Vec::new();
        for entry in dir.entries().map_err(|error| why(path, error))? {
            let entry = entry.map_err(|error| why(path, error))?;
            if found.len() >= self.0.limits.entries_max {
                return Err(FileError::TooMuch { what: "entries", limit: self.0.limits.entries_max as u64 });
            }
            let name = entry.file_name();
            // A name that no path can have (not UTF-8, `.git`), and what is still being written, is as if it were not there.
            let Some(path) = name.to_str().filter(|it| !is_beside(it)).and_then(|it| path.join(it)) else { continue };
            // It may be gone since.
            let Ok(metadata) = entry.metadata() else { continue };
            found.push(Entry::new(path, &metadata));
        }
        found.sort_by(|one, two| one.path.cmp(&two.path));
        Ok(found)
    }

    /// What `path` is; the root is none.
    pub(crate) fn entry(&self, path: &FilePath) -> Result<Entry, FileError> {
        let Some((parent, name)) = path.split() else {
            return Err(FileError::Kind { path: path.clone(), expected: "a file" });
        };
        if is_beside(name) {
            return Err(FileError::NotFound { path: path.clone() });
        }
        let metadata = self.dir(&parent)?.symlink_metadata(name).map_err(|error| why(path, error))?;
        Ok(Entry::new(path.clone(), &metadata))
    }

    /// Visits everything below `path`, directories before what is in them, by name, until `visit` says stop. Of a file, only it.
    pub fn walk(&self, path: &FilePath, mut visit: impl FnMut(&Entry) -> Visit) -> Result<(), FileError> {
        let limits = self.0.limits;
        let mut ahead = match self.entries(path) {
            Err(FileError::Kind { .. }) => vec![self.entry(path)?],
            below => below?,
        };
        ahead.reverse();
        let (mut seen, mut bytes) = (0, 0_u64);
        while let Some(entry) = ahead.pop() {
            seen += 1;
            bytes = bytes.saturating_add(entry.size);
            if seen > limits.entries_max {
                return Err(FileError::TooMuch { what: "entries", limit: limits.entries_max as u64 });
            }
            if bytes > limits.bytes_max {
                return Err(FileError::TooMuch { what: "bytes", limit: limits.bytes_max });
            }
            match visit(&entry) {
                Visit::Stop => return Ok(()),
                Visit::Go if entry.kind == Kind::Dir && entry.path.parts().count() < limits.depth_max => {
                    match self.entries(&entry.path) {
                        Ok(mut below) => {
                            below.reverse();
                            ahead.append(&mut below);
                        }
                        // It was removed, or became something else, while we walked.
                        Err(FileError::NotFound { .. } | FileError::Link { .. } | FileError::Kind { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                Visit::Go | Visit::Skip => {}
            }
        }
        Ok(())
    }
}

/// What comes after an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visit {
    /// What is below it.
    Go,
    /// What is beside it.
    Skip,
    /// Nothing.
    Stop,
}

/// What came of writing a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes.
    pub size: u64,
    /// Whether there was none before.
    pub is_new: bool,
}

/// Whether a name is one of [`Tree::beside`]; a crash may have left it.
fn is_beside(name: &str) -> bool {
    name.starts_with(".crewline-tmp-")
}

fn kind_of(metadata: &Metadata) -> Kind {
    if metadata.is_symlink() {
        Kind::Link
    } else if metadata.is_dir() {
        Kind::Dir
    } else if metadata.is_file() {
        Kind::File
    } else {
        Kind::Other
    }
}

fn check_file(path: &FilePath, metadata: &Metadata) -> Result<(), FileError> {
    match kind_of(metadata) {
        Kind::File if metadata.nlink() > 1 => Err(FileError::HardLink { path: path.clone() }),
        Kind::File => Ok(()),
        Kind::Link => Err(FileError::Link { path: path.clone() }),
        Kind::Dir | Kind::Other => Err(FileError::Kind { path: path.clone(), expected: "a file" }),
    }
}

fn why(path: &FilePath, source: io::Error) -> FileError {
    if source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
        return FileError::Link { path: path.clone() };
    }
    match source.kind() {
        io::ErrorKind::NotFound => FileError::NotFound { path: path.clone() },
        io::ErrorKind::NotADirectory => FileError::Kind { path: path.clone(), expected: "a directory" },
        _ => FileError::Io { path: path.clone(), source },
    }
}

/// The same where the system does not say whether a link was in the way.
fn why_dir(dir: &Dir, name: &str, path: &FilePath, source: io::Error) -> FileError {
    match dir.symlink_metadata(name) {
        Ok(metadata) if metadata.is_symlink() => FileError::Link { path: path.clone() },
        Ok(_) | Err(_) => why(path, source),
    }
}
