//! A cross-encoder's files, as Hugging Face ships them, and how they are loaded.

use std::{
    fs::File,
    io::Read,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    thread::available_parallelism,
    time::Instant,
};

use fastembed::{OnnxSource, RerankInitOptionsUserDefined, TextRerank, TokenizerFiles, UserDefinedRerankingModel};
use ort::ep::CPU;

use super::Model;
use crate::{
    Error,
    onnx::{cut, environment, read},
};

/// Word pieces of question and text together that are read, where the model takes no fewer.
const PIECES_MAX: u64 = 512;
/// Where the graph may be, below the model's folder.
const GRAPHS: [&str; 2] = ["model.onnx", "onnx/model.onnx"];
/// The first byte of a graph: the version of its format comes first. A page or a pointer of git-lfs begins otherwise.
const FIRST_BYTE: u8 = 0x08;
/// Threads that read, at most: a recall is waited for, but the crew works beside it.
const THREADS_MAX: usize = 4;

/// Where the files are.
pub(super) struct Files {
    library: PathBuf,
    folder: PathBuf,
    graph: PathBuf,
    tokenizer: PathBuf,
}

impl Files {
    /// Finds them, and looks at how they begin.
    pub(super) fn of(folder: &Path, library: PathBuf) -> Result<Self, Error> {
        let broken = |reason: &str| Error::Reranker { path: folder.to_owned(), reason: reason.to_owned() };
        if !folder.is_dir() {
            return Err(broken("there is no such folder"));
        }
        let graph = GRAPHS.iter().map(|name| folder.join(name)).find(|path| path.is_file());
        let graph = graph.ok_or_else(|| broken("neither `model.onnx` nor `onnx/model.onnx` is there"))?;
        let tokenizer = folder.join("tokenizer.json");
        if !tokenizer.is_file() {
            return Err(broken("`tokenizer.json` is not there"));
        }
        for (path, first, reason) in [
            (&graph, FIRST_BYTE, "its `model.onnx` is no ONNX model"),
            (&tokenizer, b'{', "its `tokenizer.json` is no tokenizer"),
        ] {
            if first_byte(path)? != Some(first) {
                return Err(broken(reason));
            }
        }
        Ok(Self { library, folder: folder.to_owned(), graph, tokenizer })
    }

    /// Loads the library and the model.
    pub(super) fn load(&self) -> Result<Model, Error> {
        let begun = Instant::now();
        let environment = environment(&self.library)?;
        let broken = |reason: String| Error::Reranker { path: self.folder.clone(), reason };
        let window = self.window()?;
        // Pairs are run one by one, so nothing is padded; the tokenizer knows its special tokens by itself.
        let tokenizer = TokenizerFiles {
            tokenizer_file: read(&self.tokenizer)?,
            config_file: br#"{"pad_token_id":0}"#.to_vec(),
            special_tokens_map_file: b"{}".to_vec(),
            tokenizer_config_file: format!(r#"{{"model_max_length":{window},"pad_token":"[PAD]"}}"#).into_bytes(),
        };
        // By its path: a large model has its weights in a second file beside it.
        let model = UserDefinedRerankingModel::new(OnnxSource::File(self.graph.clone()), tokenizer);
        let threads = available_parallelism().map_or(1, |cores| cores.get() / 2).clamp(1, THREADS_MAX);
        let options = RerankInitOptionsUserDefined::new()
            .with_environment(environment)
            .with_execution_providers(vec![CPU::default().with_arena_allocator(false).build()])
            .with_intra_threads(threads);
        let mut model = TextRerank::try_new_from_user_defined(model, options).map_err(|it| broken(it.to_string()))?;
        let mut score = move |question: &str, text: &str| {
            let found = model.rerank(cut(question), [cut(text)], false, Some(1));
            let found = found.map_err(|error| Error::Reranking { reason: error.to_string() })?;
            let score = found.first().map(|it| it.score);
            score.ok_or_else(|| Error::Reranking { reason: "it gave no score".to_owned() })
        };
        // Scores of another shape than a row for each pair are a panic inside the library.
        let probe = catch_unwind(AssertUnwindSafe(|| score("probe", "probe")));
        match probe {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(broken(error.to_string())),
            Err(_) => return Err(broken("it gives no score for each pair".to_owned())),
        }
        tracing::debug!(threads, elapsed_ms = begun.elapsed().as_millis(), "reranker is loaded");
        Ok(Box::new(score))
    }

    /// Word pieces that count, as `tokenizer_config.json` says if it is there.
    fn window(&self) -> Result<u64, Error> {
        let path = self.folder.join("tokenizer_config.json");
        if !path.is_file() {
            return Ok(PIECES_MAX);
        }
        let broken = |error: serde_json::Error| Error::Reranker {
            path: self.folder.clone(),
            reason: format!("its `tokenizer_config.json` can not be read: {error}"),
        };
        let config: serde_json::Value = serde_json::from_slice(&read(&path)?).map_err(broken)?;
        // Where a model has no bound, it says 10^30.
        Ok(config["model_max_length"].as_u64().filter(|it| *it > 0).map_or(PIECES_MAX, |it| it.min(PIECES_MAX)))
    }
}

fn first_byte(path: &Path) -> Result<Option<u8>, Error> {
    let mut first = [0];
    let read = File::open(path).and_then(|mut file| file.read(&mut first));
    let count = read.map_err(|source| Error::Io { path: path.to_owned(), source })?;
    Ok((count == 1).then_some(first[0]))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("reranker");
        let check = |reason: &str| {
            let error = Files::of(&folder, PathBuf::new()).map(|_| ()).unwrap_err();
            assert_eq!((error.code(), error.is_retryable()), ("memory.reranker", false));
            let text = error.to_string();
            assert!(text.contains(reason) && text.contains(&folder.display().to_string()), "{text}");
        };
        check("there is no such folder");
        fs::create_dir_all(folder.join("onnx")).unwrap();
        check("neither `model.onnx` nor `onnx/model.onnx` is there");
        fs::write(folder.join("onnx/model.onnx"), "version https://git-lfs.github.com/spec/v1").unwrap();
        check("`tokenizer.json` is not there");
        fs::write(folder.join("tokenizer.json"), "").unwrap();
        check("its `model.onnx` is no ONNX model");
        fs::write(folder.join("onnx/model.onnx"), [FIRST_BYTE, 7]).unwrap();
        check("its `tokenizer.json` is no tokenizer");
        fs::write(folder.join("tokenizer.json"), "{}").unwrap();
        let files = Files::of(&folder, PathBuf::new()).unwrap();
        assert_eq!(files.graph, folder.join("onnx/model.onnx"));
        fs::write(folder.join("model.onnx"), [FIRST_BYTE, 7]).unwrap();
        assert_eq!(Files::of(&folder, PathBuf::new()).unwrap().graph, folder.join("model.onnx"));
    }

    #[test]
    fn the_window_is_the_models_own_if_it_is_smaller() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let folder = dir.path().to_owned();
        let files = Files { library: PathBuf::new(), folder, graph: at("g"), tokenizer: at("t") };
        assert_eq!(files.window().unwrap(), PIECES_MAX);
        for (text, expect) in [
            (r#"{"model_max_length":128}"#, 128),
            (r#"{"model_max_length":8192}"#, PIECES_MAX),
            (r#"{"model_max_length":1000000000000000019884624838656}"#, PIECES_MAX),
            (r#"{"model_max_length":0}"#, PIECES_MAX),
            ("{}", PIECES_MAX),
        ] {
            fs::write(at("tokenizer_config.json"), text).unwrap();
            assert_eq!(files.window().unwrap(), expect, "{text}");
        }
        fs::write(at("tokenizer_config.json"), "no JSON").unwrap();
        assert_eq!(files.window().unwrap_err().code(), "memory.reranker");
    }
}
