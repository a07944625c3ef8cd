//! The `tokenizer.json` that open models bring along.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use crewline_types::TextHash;

/// Bytes of a file at most: the largest known have 34 MB.
const FILE_MAX: u64 = 64 << 20;

/// What tells that a file is another one: length, time of its last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(u64, i64, i64);

impl Stamp {
    /// Looks at a file; an error when it can not be a tokenizer.
    pub(super) fn of(path: &Path) -> Result<Self, String> {
        let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
        if !metadata.is_file() {
            return Err("it is not a file".into());
        }
        if metadata.len() > FILE_MAX {
            return Err(format!("it is larger than {} MiB", FILE_MAX >> 20));
        }
        Ok(Self(metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
    }
}

/// A tokenizer that was read from a file.
#[derive(Debug)]
pub(super) struct File {
    tokenizer: tokenizers::Tokenizer,
    /// Names what was read.
    pub(super) hash: TextHash,
}

impl File {
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        let mut tokenizer: tokenizers::Tokenizer =
            text.parse().map_err(|error| format!("it is no tokenizer: {error}"))?;
        // What a model was trained with says nothing of how long a text is.
        tokenizer.with_truncation(None).map_err(|error| error.to_string())?;
        tokenizer.with_padding(None);
        Ok(Self { tokenizer, hash: TextHash::of(&text) })
    }

    /// Tokens of `text`, without those that a chat format adds. A text that the file's rules do not cover counts as its bytes.
    pub(super) fn count(&self, text: &str) -> usize {
        // Anybody may have written the file: what the library did not think of is no reason to end.
        let counted = catch_unwind(AssertUnwindSafe(|| self.tokenizer.encode_fast(text, false)));
        counted.ok().and_then(Result::ok).map_or(text.len(), |it| it.len())
    }
}

/// Whether a file may be a tokenizer, without reading it.
pub(crate) fn look(path: &Path) -> Result<(), String> {
    Stamp::of(path).map(|_| ())
}
