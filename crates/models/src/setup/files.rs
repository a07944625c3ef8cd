//! Files of the data directory: hashing, checking, and putting them in place whole.
//!
//! **Invariant:** a final name appears by `rename` only, after the content was found right.
//! **Invariant:** one process at a time writes; the lock is the file `.setup.lock`, the workshop `.setup-tmp`.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs, io,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{
    SERVER_SCRIPT, SetupError,
    catalogue::{Artefact, Content},
};

const SCRIPT_NAME: &str = "llama_server.py";

/// The locked workshop inside the data directory; removed when it is dropped.
pub(super) struct Scratch {
    dir: PathBuf,
    // Held until the end; the system gives it back even after a crash.
    _lock: fs::File,
}

impl Scratch {
    /// Takes the lock and starts with an empty workshop; leftovers of a crash go.
    pub(super) fn lock(data_dir: &Path) -> Result<Self, SetupError> {
        let path = data_dir.join(".setup.lock");
        let lock = fs::File::create(&path).map_err(|error| SetupError::io("create", &path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(SetupError::Busy { path: data_dir.to_path_buf() }),
            Err(fs::TryLockError::Error(error)) => return Err(SetupError::io("lock", &path, error)),
        }
        let scratch = Self { dir: data_dir.join(".setup-tmp"), _lock: lock };
        scratch.remove()?;
        Ok(scratch)
    }

    /// A path in the workshop.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Creates an empty directory in the workshop.
    pub(super) fn fresh_dir(&self, name: &str) -> Result<PathBuf, SetupError> {
        let dir = self.dir.join(name);
        remove_all(&dir)?;
        create_dir(&dir)?;
        Ok(dir)
    }

    /// Removes what was fetched so far, so that the disk never holds two packages.
    pub(super) fn clear(&self) -> Result<(), SetupError> {
        self.remove()
    }

    fn remove(&self) -> Result<(), SetupError> {
        remove_all(&self.dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The next setup removes what could not be removed now.
        let _ = self.remove();
    }
}

/// Creates a directory and those above it.
pub(super) fn create_dir(dir: &Path) -> Result<(), SetupError> {
    fs::create_dir_all(dir).map_err(|error| SetupError::io("create", dir, error))
}

fn remove_all(path: &Path) -> Result<(), SetupError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(SetupError::io("remove", path, error)),
    }
}

/// The program's path, when one of the directories of `path` has it.
pub(super) fn program(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    std::env::split_paths(path?).map(|dir| dir.join(name)).find(|file| is_executable(file))
}

#[cfg(unix)]
fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(file: &Path) -> bool {
    file.with_extension("exe").is_file()
}

/// Whether the installed artefact is there and right.
pub(super) fn is_good(artefact: &Artefact, data_dir: &Path) -> Result<bool, SetupError> {
    let path = artefact.path(data_dir);
    match artefact.content {
        Content::File { sha256, .. } => Ok(hash(&path)?.is_some_and(|found| found == sha256)),
        Content::Tree { record, record_sha256, .. } => {
            Ok(is_script_current(&path) && wrong_file(&path, record, record_sha256)?.is_none())
        }
    }
}

/// A newer crewline brings a newer script for the same package: no reason to fetch the package again.
pub(super) fn only_script_differs(artefact: &Artefact, data_dir: &Path) -> Result<bool, SetupError> {
    let path = artefact.path(data_dir);
    match artefact.content {
        Content::File { .. } => Ok(false),
        Content::Tree { record, record_sha256, .. } => {
            Ok(!is_script_current(&path) && wrong_file(&path, record, record_sha256)?.is_none())
        }
    }
}

fn is_script_current(dir: &Path) -> bool {
    fs::read(dir.join(SCRIPT_NAME)).is_ok_and(|found| found == SERVER_SCRIPT.as_bytes())
}

/// Puts the server's script in `dir`, whole.
pub(super) fn write_script(dir: &Path, scratch: &Scratch) -> Result<(), SetupError> {
    create_dir(&scratch.dir)?;
    let draft = scratch.file(SCRIPT_NAME);
    write_synced(&draft, SERVER_SCRIPT.as_bytes())?;
    rename(&draft, &dir.join(SCRIPT_NAME))
}

/// Fails unless the file's SHA-256 is `expected`.
pub(super) fn check(file: &Path, expected: &str, from: &str) -> Result<(), SetupError> {
    match hash(file)? {
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(SetupError::Mismatch {
            path: file.file_name().map(PathBuf::from).unwrap_or_default(),
            from: from.into(),
            expected: expected.into(),
            found,
        }),
        None => Err(SetupError::EntryMissing {
            from: from.into(),
            path: file.file_name().map(PathBuf::from).unwrap_or_default(),
        }),
    }
}

/// Checks what was fetched and moves it to its final place.
pub(super) fn place(
    artefact: &Artefact,
    fetched: &Path,
    from: &str,
    data_dir: &Path,
    scratch: &Scratch,
) -> Result<(), SetupError> {
    let path = artefact.path(data_dir);
    if let Some(parent) = path.parent() {
        create_dir(parent)?;
    }
    match artefact.content {
        Content::File { sha256, .. } => {
            check(fetched, sha256, from)?;
            sync(fetched)?;
            rename(fetched, &path)
        }
        Content::Tree { record, record_sha256, .. } => {
            write_script(fetched, scratch)?;
            if let Some((file, expected, found)) = wrong_file(fetched, record, record_sha256)? {
                return Err(SetupError::Mismatch { path: file, from: from.into(), expected, found });
            }
            // A directory cannot replace another in one step: the old one leaves first.
            let old = scratch.fresh_dir("old")?.join("llama");
            match fs::rename(&path, &old) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(SetupError::io("replace", &path, error)),
            }
            rename(fetched, &path)
        }
    }
}

/// The first file of an unpacked wheel that is not as its `RECORD` says: name, expected hash, found hash.
///
/// `RECORD` is the wheel format's own list (PyPA binary distribution format): `path,sha256=<urlsafe base64>,size`.
fn wrong_file(dir: &Path, record: &str, record_sha256: &str) -> Result<Option<(PathBuf, String, String)>, SetupError> {
    let record_path = dir.join(record);
    let missing = || "nothing".to_owned();
    let found = hash(&record_path)?.unwrap_or_else(missing);
    if found != record_sha256 {
        return Ok(Some((record.into(), record_sha256.into(), found)));
    }
    let list = fs::read_to_string(&record_path).map_err(|error| SetupError::io("read", &record_path, error))?;
    for line in list.lines() {
        let mut fields = line.rsplitn(3, ',');
        let (_size, hash_field, name) = (fields.next(), fields.next(), fields.next());
        let (Some(name), Some(expected)) = (name, hash_field.and_then(|field| field.strip_prefix("sha256="))) else {
            continue; // RECORD itself has no hash.
        };
        let found = digest(&dir.join(name))?.map_or_else(missing, |digest| base64_url(&digest));
        if found != expected {
            return Ok(Some((name.into(), expected.into(), found)));
        }
    }
    Ok(None)
}

/// The file's SHA-256 in hexadecimal; `None` when there is no such file.
pub(super) fn hash(file: &Path) -> Result<Option<String>, SetupError> {
    Ok(digest(file)?.map(|digest| {
        digest.iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }))
}

fn digest(path: &Path) -> Result<Option<[u8; 32]>, SetupError> {
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(SetupError::io("read", path, error)),
    };
    let mut hasher = Sha256::new();
    let mut block = vec![0; 256 * 1024];
    loop {
        match file.read(&mut block) {
            Ok(0) => return Ok(Some(hasher.finalize().into())),
            Ok(read) => hasher.update(&block[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(SetupError::io("read", path, error)),
        }
    }
}

/// URL-safe base64 without padding (RFC 4648, section 5).
fn base64_url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(word >> (18 - 6 * position) & 63) as usize]));
        }
    }
    text
}

fn write_synced(path: &Path, content: &[u8]) -> Result<(), SetupError> {
    let write = || -> io::Result<()> {
        let mut file = fs::File::create(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|error| SetupError::io("write", path, error))
}

fn sync(path: &Path) -> Result<(), SetupError> {
    fs::File::open(path).and_then(|file| file.sync_all()).map_err(|error| SetupError::io("write", path, error))
}

fn rename(from: &Path, to: &Path) -> Result<(), SetupError> {
    fs::rename(from, to).map_err(|error| SetupError::io("create", to, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_matches_the_rfc() {
        for (bytes, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64_url(bytes.as_bytes()), text);
        }
        assert_eq!(base64_url(&[0xfb, 0xff]), "-_8");
    }
}
