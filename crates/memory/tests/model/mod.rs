//! The real embedding model. Needs its files in `CREWLINE_TEST_MODELS`, or where `cargo xtask test` puts them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crewline_memory::Embedder;

/// The model, or nothing with a note.
#[expect(clippy::unwrap_used, clippy::print_stdout, reason = "a helper of tests")]
pub fn embedder() -> Option<Embedder> {
    #[expect(clippy::disallowed_methods, reason = "tests have no settings")]
    let dir = std::env::var_os("CREWLINE_TEST_MODELS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/crewline-test-data"), PathBuf::from);
    let found = Embedder::find(&dir).unwrap();
    if found.is_none() {
        println!("skipped: no embedding model in {}", dir.display());
    }
    found
}

/// Texts as the embedder takes them.
pub fn texts(all: &[&str]) -> Vec<Arc<str>> {
    all.iter().map(|text| Arc::from(*text)).collect()
}
