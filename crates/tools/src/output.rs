//! Where long outputs of tools are kept whole, and how they are shortened for a model.
//!
//! **Invariant:** a handle is made from the key of its call and names a file of this store, whatever a model writes.
//! **Invariant:** an output takes at most [`OUTPUT_BYTES_MAX`] on disk; what is beyond is counted, not kept.

use std::{
    fmt,
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use crate::Error;

/// Bytes of one output that are kept.
pub const OUTPUT_BYTES_MAX: u64 = 64 << 20;

/// The name of an output that is kept whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Handle(Arc<str>);

impl Handle {
    /// The handle of a call's output: the same call has the same one after a crash.
    pub fn of(key: &str) -> Self {
        Self(blake3::hash(key.as_bytes()).to_hex()[..16].into())
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl FromStr for Handle {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_handle = text.len() == 16 && text.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
        if is_handle { Ok(Self(text.into())) } else { Err(()) }
    }
}

/// The outputs of a run. Cheap to clone.
#[derive(Debug, Clone)]
pub struct OutputStore {
    dir: Arc<Path>,
}

impl OutputStore {
    /// Outputs are kept in `dir`, which is made with the first one.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.into() }
    }

    fn path(&self, handle: &Handle) -> PathBuf {
        self.dir.join(format!("{handle}.out"))
    }

    /// An empty output of the call `key`; one of an earlier try is written anew.
    pub(crate) fn create(&self, key: &str) -> Result<Output, Error> {
        let handle = Handle::of(key);
        let path = self.path(&handle);
        let open = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)
        };
        match open() {
            Ok(file) => Ok(Output { handle, file, path, kept: 0, seen: 0 }),
            Err(source) => Err(Error::Output { path, source }),
        }
    }

    /// Keeps a whole text.
    pub fn put(&self, key: &str, text: &str) -> Result<Handle, Error> {
        let mut output = self.create(key)?;
        output.write(text.as_bytes())?;
        Ok(output.handle)
    }

    /// What is shown of an output: all of it, or its beginning and its end. Only these are read.
    pub(crate) fn head_and_tail(&self, handle: &Handle, bytes_max: usize) -> Result<String, Error> {
        let whole = self.read(handle, 0, bytes_max)?;
        if whole.next >= whole.bytes_all {
            return Ok(whole.text);
        }
        let head = self.read(handle, 0, bytes_max * 2 / 5)?;
        let tail_bytes = bytes_max - bytes_max * 2 / 5;
        let tail = self.read(handle, whole.bytes_all - tail_bytes as u64, tail_bytes)?;
        let left_out = whole.bytes_all - tail_bytes as u64 - head.next;
        Ok(note_gap(&head.text, tail.text.trim_start_matches('\u{FFFD}'), left_out, head.next, handle))
    }

    /// Forgets an output that nobody will ask for.
    pub(crate) fn remove(&self, handle: &Handle) {
        let _ = std::fs::remove_file(self.path(handle));
    }

    /// A piece of an output as text, the place after it, and how long the output is. Bytes that are no UTF-8 are replaced.
    pub fn read(&self, handle: &Handle, offset: u64, bytes_max: usize) -> Result<Part, Error> {
        let path = self.path(handle);
        let read = || {
            let mut file = File::open(&path)?;
            let bytes_all = file.metadata()?.len();
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::new();
            file.take(bytes_max as u64).read_to_end(&mut bytes)?;
            io::Result::Ok((bytes, bytes_all))
        };
        let (mut bytes, bytes_all) = read().map_err(|source| Error::Output { path: path.clone(), source })?;
        if offset + (bytes.len() as u64) < bytes_all {
            bytes.truncate(whole_chars(&bytes));
        }
        let next = offset + bytes.len() as u64;
        Ok(Part { text: String::from_utf8_lossy(&bytes).into_owned(), next, bytes_all })
    }
}

/// A piece of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The text.
    pub text: String,
    /// Where the next piece begins.
    pub next: u64,
    /// Bytes of the whole output that are kept.
    pub bytes_all: u64,
}

/// The length of what does not end within a character.
fn whole_chars(bytes: &[u8]) -> usize {
    let end = bytes.len();
    // A character has four bytes at most; its first one is no continuation.
    let start = (end.saturating_sub(4)..end).rev().find(|&at| bytes[at] & 0xC0 != 0x80);
    match start {
        Some(start) if start > 0 && str::from_utf8(&bytes[start..]).is_err() => start,
        _ => end,
    }
}

/// An output that is being written.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) handle: Handle,
    file: File,
    path: PathBuf,
    kept: u64,
    /// Bytes that came, kept or not.
    pub(crate) seen: u64,
}

impl Output {
    /// Bytes that are kept.
    pub(crate) fn kept(&self) -> u64 {
        self.kept
    }

    /// Adds bytes; what is beyond the limit is counted only.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.seen += bytes.len() as u64;
        let room = usize::try_from(OUTPUT_BYTES_MAX - self.kept).unwrap_or(usize::MAX);
        let kept = &bytes[..bytes.len().min(room)];
        self.kept += kept.len() as u64;
        self.file.write_all(kept).map_err(|source| Error::Output { path: self.path.clone(), source })
    }
}

/// The beginning and the end of a text that is longer than `bytes_max`, and what was left out between them.
///
/// The end gets more room: errors and summaries stand there.
pub(crate) fn shorten(text: &str, bytes_max: usize) -> Option<Shortened<'_>> {
    if text.len() <= bytes_max {
        return None;
    }
    let head = text.floor_char_boundary(bytes_max * 2 / 5);
    let tail = text.ceil_char_boundary(text.len() - (bytes_max - bytes_max * 2 / 5));
    // Whole lines, where one ends near by.
    let head = text[..head].rfind('\n').map_or(head, |at| if at + 200 > head { at + 1 } else { head });
    let tail = text[tail..].find('\n').map_or(tail, |at| if at < 200 { tail + at + 1 } else { tail });
    Some(Shortened { head: &text[..head], tail: &text[tail..], left_out: tail - head })
}

/// A text without its middle.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shortened<'a> {
    pub(crate) head: &'a str,
    pub(crate) tail: &'a str,
    /// Bytes.
    pub(crate) left_out: usize,
}

impl Shortened<'_> {
    /// What a model reads; `handle` is where the rest is.
    pub(crate) fn render(&self, handle: &Handle) -> String {
        note_gap(self.head, self.tail, self.left_out as u64, self.head.len() as u64, handle)
    }
}

fn note_gap(head: &str, tail: &str, left_out: u64, at: u64, handle: &Handle) -> String {
    let gap = if head.ends_with('\n') { "" } else { "\n" };
    format!(
        "{head}{gap}[{left_out} bytes are left out here; `read_output` with handle \"{handle}\" and offset {at} reads on]\n{tail}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_read_in_pieces_without_broken_characters() {
        let dir = tempfile::tempdir().unwrap();
        let store = OutputStore::new(&dir.path().join("outputs"));
        let text = "aäöü€𝄞".repeat(50);
        let handle = store.put("attempt/1/0", &text).unwrap();
        assert_eq!(handle, Handle::of("attempt/1/0"), "the same call has the same handle");
        for size in 8..20 {
            let (mut at, mut all) = (0, String::new());
            while at < text.len() as u64 {
                let part = store.read(&handle, at, size).unwrap();
                assert!(part.next > at);
                assert_eq!(part.bytes_all, text.len() as u64);
                all.push_str(&part.text);
                at = part.next;
            }
            assert_eq!(all, text, "{size}");
        }
    }

    #[test]
    fn an_output_is_kept_up_to_its_limit_and_counted_beyond() {
        let dir = tempfile::tempdir().unwrap();
        let store = OutputStore::new(dir.path());
        let mut output = store.create("k").unwrap();
        let block = vec![b'y'; 1 << 20];
        for _ in 0..70 {
            output.write(&block).unwrap();
        }
        assert_eq!(output.seen, 70 << 20);
        assert_eq!(std::fs::metadata(store.path(&output.handle)).unwrap().len(), OUTPUT_BYTES_MAX);
    }

    #[test]
    fn a_handle_is_never_a_path() {
        for text in ["", "../../etc/passwd", "0123456789abcdeF", "0123456789abcde/", "0123456789abcdef0"] {
            assert!(text.parse::<Handle>().is_err(), "{text}");
        }
        assert!("0123456789abcdef".parse::<Handle>().is_ok());
        let store = OutputStore::new(Path::new("/nowhere"));
        let missing = store.read(&Handle::of("k"), 0, 10).unwrap_err();
        assert_eq!(missing.kind(), crewline_types::ErrorKind::NotFound);
    }

    #[test]
    fn a_long_text_keeps_its_beginning_and_its_end() {
        assert_eq!(shorten("short", 5), None);
        let text = (0..1000).map(|line| format!("line {line}\n")).collect::<Vec<_>>().concat();
        let short = shorten(&text, 500).unwrap();
        assert!(short.head.starts_with("line 0\n") && short.head.ends_with('\n'));
        assert!(short.tail.starts_with("line ") && short.tail.ends_with("line 999\n"));
        assert_eq!(short.head.len() + short.left_out + short.tail.len(), text.len());
        let wide = "€".repeat(400);
        let short = shorten(&wide, 500).unwrap();
        assert_eq!(short.head.len() + short.left_out + short.tail.len(), wide.len());
    }
}
