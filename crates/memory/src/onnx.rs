//! ONNX Runtime as all models of memory use it: where it is, and the one environment of the process.
//!
//! **Invariant:** the library is loaded, or refused, before anything else of ONNX Runtime is touched: it would panic.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use ort::environment::Environment;

use crate::Error;

/// Bytes of a text that are looked at; more can not hold fewer word pieces of any ordinary text than a model reads.
const TEXT_BYTES_MAX: usize = 8_192;

/// A whole file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// A process has one ONNX Runtime environment; the first library that loads is the one that stays.
pub(crate) fn environment(library: &Path) -> Result<Environment, Error> {
    static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);
    let mut environment = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = &*environment {
        return Ok(environment.clone());
    }
    let broken = |reason: String| Error::Library { path: library.to_owned(), reason };
    // Without this call a missing library is a panic inside the first session.
    let builder = ort::init_from(library).map_err(|error| broken(error.to_string()))?;
    let built = builder.with_name("crewline").with_telemetry(false).build();
    Ok(environment.insert(built.map_err(|error| broken(error.to_string()))?).clone())
}

/// `libonnxruntime.so`, `libonnxruntime.so.1.31.1`, `libonnxruntime.dylib`, `onnxruntime.dll` and the like; of
/// several the last by name.
pub(crate) fn find_library(folder: &Path) -> Result<Option<PathBuf>, Error> {
    let failed = |source| Error::Io { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let mut found: Option<PathBuf> = None;
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if is_library(&path) && path.is_file() && found.as_ref().is_none_or(|best| *best < path) {
            found = Some(path);
        }
    }
    // A relative path would be looked for beside the executable.
    found.map(|path| std::path::absolute(&path).map_err(failed)).transpose()
}

fn is_library(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    name == "libonnxruntime.so"
        || name.starts_with("libonnxruntime.so.")
        || name == "onnxruntime.dll"
        || (name.starts_with("libonnxruntime.") && path.extension().is_some_and(|end| end == "dylib"))
}

/// The part of a text that can matter; the tokenizer would otherwise read all of a megabyte.
pub(crate) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_known_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = dir.path().join("runtime");
        assert!(find_library(&runtime).unwrap().is_none());
        fs::create_dir_all(&runtime).unwrap();
        fs::write(runtime.join("libonnxruntime_providers_shared.so"), "").unwrap();
        assert!(find_library(&runtime).unwrap().is_none());
        fs::write(runtime.join("libonnxruntime.so.1.31.1"), "").unwrap();
        assert!(find_library(&runtime).unwrap().is_some_and(|path| path.is_absolute()));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = "ä".repeat(TEXT_BYTES_MAX);
        assert_eq!(cut(&format!("x{long}")).len(), TEXT_BYTES_MAX - 1);
    }
}
