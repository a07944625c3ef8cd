//! Counts the tokens of texts as a model's own tokenizer does, where that is known.
//!
//! `bpe` is OpenAI's, `file` reads a `tokenizer.json`; `cached` remembers counts of long texts.
//!
//! **Invariant:** nothing is in memory before the first count that needs it, and no count asks anybody.
//! **Invariant:** the same name counts the same text alike, in every process: a file is named by what is in it.

mod bpe;
mod cached;
mod file;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

pub(crate) use self::file::look;
use self::{bpe::Bpe, cached::Cached, file::Stamp};

/// Tokenizers of files that are kept in memory.
const FILES_MAX: usize = 4;

/// How a model's tokens are counted, as the registry says it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Tokenizer {
    /// Nothing better is known: estimated, rather too many than too few.
    Estimate,
    /// As GPT-4 and GPT-3.5 do.
    Cl100k,
    /// As GPT-4o and all later models of OpenAI do.
    O200k,
    /// As the `tokenizer.json` of the model says.
    File(PathBuf),
}

impl Tokenizer {
    /// The names that a registry may use instead of a path.
    pub(crate) const NAMES: [&str; 3] = ["o200k", "cl100k", "estimate"];

    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "estimate" => Some(Self::Estimate),
            "cl100k" => Some(Self::Cl100k),
            "o200k" => Some(Self::O200k),
            _ => None,
        }
    }

    /// What is known of a model by its identifier at the provider, as `openai/gpt-4.1-mini`.
    pub fn of_model(model: &str) -> Self {
        const O200K: [&str; 11] =
            ["gpt-4o", "gpt-4.1", "gpt-4.5", "gpt-5", "gpt-oss", "chatgpt-4o", "codex-mini", "o1", "o3", "o4", "o5"];
        const CL100K: [&str; 3] = ["gpt-4", "gpt-3.5", "gpt-35"];
        let name = model.rsplit('/').next().unwrap_or(model).to_ascii_lowercase();
        let name = name.strip_prefix("ft:").unwrap_or(&name);
        // `gpt-5` is the beginning of `gpt-5.1`, but neither of `gpt-50` nor is `gpt-4` that of `gpt-4o` or of what `gpt-4.2` may be.
        let ends = |known: &[&str], ends: fn(char) -> bool| {
            known.iter().filter_map(|it| name.strip_prefix(it)).any(|rest| rest.chars().next().is_none_or(ends))
        };
        if ends(&O200K, |it| !it.is_ascii_alphanumeric()) {
            Self::O200k
        } else if ends(&CL100K, |it| !it.is_ascii_alphanumeric() && it != '.') {
            Self::Cl100k
        } else {
            Self::Estimate
        }
    }

    /// Loads it; blocks for some milliseconds the first time, for a file up to a second.
    pub fn load(&self) -> Result<Counter, String> {
        static CL100K: LazyLock<Option<Counter>> = LazyLock::new(|| Counter::of_bpe("cl100k", &bpe::CL100K));
        static O200K: LazyLock<Option<Counter>> = LazyLock::new(|| Counter::of_bpe("o200k", &bpe::O200K));
        let shipped = |counter: &Option<Counter>| counter.clone().ok_or_else(|| "its vocabulary is damaged".to_owned());
        match self {
            Self::Estimate => Ok(Counter::estimate()),
            Self::Cl100k => shipped(&CL100K),
            Self::O200k => shipped(&O200K),
            Self::File(path) => of_file(path),
        }
    }
}

impl fmt::Display for Tokenizer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Estimate => out.pad("estimate"),
            Self::Cl100k => out.pad("cl100k"),
            Self::O200k => out.pad("o200k"),
            Self::File(path) => path.display().fmt(out),
        }
    }
}

fn of_file(path: &Path) -> Result<Counter, String> {
    static LOADED: Mutex<Vec<(PathBuf, Stamp, Counter)>> = Mutex::new(Vec::new());
    let stamp = Stamp::of(path)?;
    // Held while one is read: whoever else wants it waits instead of reading it again.
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((.., counter)) = loaded.iter().find(|(known, at, _)| known == path && *at == stamp) {
        return Ok(counter.clone());
    }
    let counter = Counter::of_file(path)?;
    loaded.retain(|(known, ..)| known != path);
    if loaded.len() >= FILES_MAX {
        loaded.remove(0);
    }
    loaded.push((path.to_owned(), stamp, counter.clone()));
    Ok(counter)
}

/// A tokenizer that is in memory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Counter {
    name: Arc<str>,
    how: How,
}

#[derive(Debug, Clone)]
enum How {
    Estimate,
    Bpe(Arc<Cached<Bpe>>),
    File(Arc<Cached<file::File>>),
}

impl Counter {
    /// The one that does not know.
    pub fn estimate() -> Self {
        Self { name: "estimate".into(), how: How::Estimate }
    }

    fn of_bpe(name: &str, published: &bpe::Published) -> Option<Self> {
        Some(Self { name: name.into(), how: How::Bpe(Arc::new(Cached::new(Bpe::new(published)?))) })
    }

    fn of_file(path: &Path) -> Result<Self, String> {
        let file = file::File::read(path)?;
        Ok(Self { name: format!("tokenizer:{}", file.hash).into(), how: How::File(Arc::new(Cached::new(file))) })
    }

    /// Names what it counts: `o200k`, `cl100k`, `estimate`, or `tokenizer:` and the hash of the file.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether it counts; what does not is to be estimated.
    pub fn is_exact(&self) -> bool {
        !matches!(self.how, How::Estimate)
    }

    /// Whether texts that end in a line break, put together, count what they count alone when each begins with a letter.
    pub fn adds_up(&self) -> bool {
        matches!(self.how, How::Bpe(_))
    }

    /// Tokens of `text`; none when it does not know. Takes time: 50 ns a byte, up to ten times that for texts made to be slow.
    pub fn count(&self, text: &str) -> Option<u32> {
        let tokens = match &self.how {
            How::Estimate => return None,
            How::Bpe(bpe) => bpe.count(text, Bpe::count),
            How::File(file) => file.count(text, file::File::count),
        };
        Some(tokens)
    }
}

#[cfg(test)]
mod tests;
