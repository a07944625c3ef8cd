//! The library and the model's files, and how they are loaded.
//!
//! **Invariant:** the library is loaded, or refused, before anything else of ONNX Runtime is touched: it would panic.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use fastembed::{InitOptionsUserDefined, Pooling, TextEmbedding, TokenizerFiles, UserDefinedEmbeddingModel};
use ort::{environment::Environment, ep::CPU};

use super::Model;
use crate::{Error, dense};

/// The model's name, and its folder below `models`.
pub(super) const MODEL: &str = "all-MiniLM-L6-v2";
/// Floats of its vectors.
pub(super) const DIMENSIONS: usize = 384;
/// Word pieces of a text that count; the model was trained on as many.
const PIECES_MAX: usize = 256;
/// Bytes of a text that are looked at; more can not hold fewer than `PIECES_MAX` word pieces of any ordinary text.
const TEXT_BYTES_MAX: usize = 8_192;

/// Where the files are.
pub(super) struct Files {
    library: PathBuf,
    folder: PathBuf,
    weights: PathBuf,
    tokenizer: PathBuf,
}

impl Files {
    /// `None` when one of them is not there.
    pub(super) fn find(dir: &Path) -> Result<Option<Self>, Error> {
        let folder = dir.join("models").join(MODEL);
        let (weights, tokenizer) = (folder.join("model.onnx"), folder.join("tokenizer.json"));
        let Some(library) = find_library(&dir.join("runtime"))? else { return Ok(None) };
        let are_there = weights.is_file() && tokenizer.is_file();
        Ok(are_there.then_some(Self { library, folder, weights, tokenizer }))
    }

    /// Loads the library and the model: some 300 ms and 180 MB.
    pub(super) fn load(&self) -> Result<Model, Error> {
        let begun = Instant::now();
        let environment = environment(&self.library)?;
        let broken = |reason: String| Error::Model { path: self.folder.clone(), reason };
        let tokenizer = TokenizerFiles {
            tokenizer_file: read(&self.tokenizer)?,
            config_file: br#"{"pad_token_id":0}"#.to_vec(),
            special_tokens_map_file: b"{}".to_vec(),
            tokenizer_config_file: br#"{"model_max_length":512,"pad_token":"[PAD]"}"#.to_vec(),
        };
        let model = UserDefinedEmbeddingModel::new(read(&self.weights)?, tokenizer).with_pooling(Pooling::Mean);
        let options = InitOptionsUserDefined::new()
            .with_environment(environment)
            // The arena keeps the room of the longest text for ever, and saves a text of 150 tokens nothing.
            .with_execution_providers(vec![CPU::default().with_arena_allocator(false).build()])
            .with_max_length(PIECES_MAX)
            .with_intra_threads(1);
        let mut model =
            TextEmbedding::try_new_from_user_defined(model, options).map_err(|error| broken(error.to_string()))?;
        let mut embed = move |text: &str| {
            let found =
                model.embed([cut(text)], Some(1)).map_err(|error| Error::Embedding { reason: error.to_string() })?;
            let vector = found.into_iter().next().and_then(dense::unit);
            vector.ok_or_else(|| Error::Embedding { reason: "it gave no vector".to_owned() })
        };
        let dimensions = embed("probe")?.len();
        if dimensions != DIMENSIONS {
            return Err(broken(format!("it makes vectors of {dimensions} dimensions, not {DIMENSIONS}")));
        }
        tracing::debug!(model = MODEL, elapsed_ms = begun.elapsed().as_millis(), "embedding model is loaded");
        Ok(Box::new(embed))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// A process has one ONNX Runtime environment; the first library that loads is the one that stays.
fn environment(library: &Path) -> Result<Environment, Error> {
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
fn find_library(folder: &Path) -> Result<Option<PathBuf>, Error> {
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
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_nothing_where_nothing_is() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Files::find(dir.path()).unwrap().is_none());
        let runtime = dir.path().join("runtime");
        fs::create_dir_all(&runtime).unwrap();
        fs::write(runtime.join("libonnxruntime_providers_shared.so"), "").unwrap();
        assert!(find_library(&runtime).unwrap().is_none());
        fs::write(runtime.join("libonnxruntime.so.1.31.1"), "").unwrap();
        assert!(find_library(&runtime).unwrap().is_some_and(|path| path.is_absolute()));
        assert!(Files::find(dir.path()).unwrap().is_none(), "the model is missing");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = "ä".repeat(TEXT_BYTES_MAX);
        assert_eq!(cut(&format!("x{long}")).len(), TEXT_BYTES_MAX - 1);
    }
}
