//! JSON-lines files of memories and questions, plain or gzipped.
//!
//! **Invariant:** a line that can not be read is named by file and number, and nothing is done before all are read.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use serde::{Deserialize, de::DeserializeOwned};

use crate::error::Error;

/// Bytes of one line.
const LINE_MAX: u64 = 16 << 20;

/// A memory of a data set.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Memory {
    pub(super) id: String,
    pub(super) project: String,
    pub(super) task: Option<String>,
    #[serde(default, alias = "type")]
    pub(super) kind: Option<String>,
    #[serde(default)]
    pub(super) agent: Option<String>,
    #[serde(default)]
    pub(super) created_at: Option<String>,
    #[serde(default)]
    pub(super) seq: Option<u64>,
    #[serde(default)]
    pub(super) tokens: Option<u64>,
    pub(super) text: String,
}

/// A question of a data set.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Question {
    pub(super) id: String,
    pub(super) project: String,
    pub(super) text: String,
    /// Pieces of evidence; each is found when any of its ids is.
    #[serde(default)]
    pub(super) relevant: Vec<Vec<String>>,
    #[serde(default)]
    pub(super) headline: bool,
}

/// Reads one JSON document a line; empty lines are skipped. Gzip is known by its first bytes, not by the name.
pub(super) fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let is_gzip = file.fill_buf().map_err(failed)?.starts_with(&[0x1f, 0x8b]);
    let reader: Box<dyn Read> =
        if is_gzip { Box::new(flate2::bufread::MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut reader = BufReader::new(reader);
    let mut items = Vec::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line).map_err(failed)?;
        if read == 0 {
            break;
        }
        let bad = |message: String| Error::Line { path: path.to_owned(), line: number, message };
        if read as u64 == LINE_MAX && !line.ends_with(b"\n") {
            return Err(bad(format!("the line is longer than {} MiB", LINE_MAX >> 20)));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        items.push(serde_json::from_slice(&line).map_err(|error| bad(error.to_string()))?);
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn plain_and_gzipped_lines_read_alike() {
        let dir = tempfile::tempdir().unwrap();
        let text = b"{\"id\":\"a\",\"project\":\"p\",\"text\":\"t\"}\n\n{\"id\":\"b\",\"project\":\"p\",\"text\":\"t\",\"more\":1}";
        let plain = dir.path().join("plain");
        std::fs::write(&plain, text).unwrap();
        let zipped = dir.path().join("zipped");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        std::fs::write(&zipped, encoder.finish().unwrap()).unwrap();
        for path in [plain, zipped] {
            let found: Vec<Memory> = read_lines(&path).unwrap();
            assert_eq!(found.iter().map(|it| it.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bad");
        std::fs::write(&path, "{\"id\":\"a\",\"project\":\"p\",\"text\":\"t\"}\n{\"id\":1}\n").unwrap();
        let error = read_lines::<Memory>(&path).unwrap_err();
        assert!(matches!(error, Error::Line { line: 2, .. }), "{error}");
        assert!(matches!(read_lines::<Memory>(&dir.path().join("none")), Err(Error::Read { .. })));
    }
}
