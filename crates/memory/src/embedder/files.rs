//! The embedding model's files, and how they are loaded.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use fastembed::{InitOptionsUserDefined, Pooling, TextEmbedding, TokenizerFiles, UserDefinedEmbeddingModel};
use ort::ep::CPU;

use super::Model;
use crate::{
    Error, dense,
    onnx::{cut, environment, find_library, read},
};

/// The model's name, and its folder below `models`.
pub(super) const MODEL: &str = "all-MiniLM-L6-v2";
/// Floats of its vectors.
pub(super) const DIMENSIONS: usize = 384;
/// Word pieces of a text that count; the model was trained on as many.
const PIECES_MAX: usize = 256;

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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn finds_nothing_where_nothing_is() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Files::find(dir.path()).unwrap().is_none());
        let runtime = dir.path().join("runtime");
        fs::create_dir_all(&runtime).unwrap();
        fs::write(runtime.join("libonnxruntime.so.1.31.1"), "").unwrap();
        assert!(Files::find(dir.path()).unwrap().is_none(), "the model is missing");
    }
}
