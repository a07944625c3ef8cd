//! Cuts a stream of bytes into lines.
//!
//! **Invariant:** bytes may be cut anywhere, inside a character too; a line is the same for every cut.
//! **Invariant:** a line is at most [`LINE_MAX`] bytes, so a server that never ends one costs bounded memory.

use std::ops::Range;

/// Bytes of a line at most.
pub const LINE_MAX: usize = 1 << 20;

/// A line is too long.
#[derive(Debug, PartialEq, Eq)]
pub struct LineTooLong;

/// Bytes on their way to become lines.
#[derive(Debug, Default)]
pub struct LineBuffer {
    buffer: Vec<u8>,
    /// Where the first line begins that is not yet read.
    start: usize,
    /// Up to where the buffer has been searched for the end of that line.
    searched: usize,
}

impl LineBuffer {
    /// Adds bytes; what was read is forgotten.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            // At most the beginning of one line stays.
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Where the next whole line is, without its end; `None` until more bytes are there.
    pub fn next_line(&mut self) -> Result<Option<Range<usize>>, LineTooLong> {
        let found = self.buffer[self.searched..].iter().position(|it| *it == b'\n');
        let end = found.map_or(self.buffer.len(), |length| self.searched + length);
        if end - self.start > LINE_MAX {
            return Err(LineTooLong);
        }
        if found.is_none() {
            self.searched = end;
            return Ok(None);
        }
        let begin = std::mem::replace(&mut self.start, end + 1);
        self.searched = end + 1;
        Ok(Some(self.without_return(begin..end)))
    }

    /// What is left when the stream ends without the end of its last line.
    pub fn rest(&mut self) -> Range<usize> {
        let begin = std::mem::replace(&mut self.start, self.buffer.len());
        self.searched = self.start;
        self.without_return(begin..self.start)
    }

    /// The bytes of a line; valid until more bytes are fed.
    pub fn bytes(&self, line: &Range<usize>) -> &[u8] {
        &self.buffer[line.clone()]
    }

    fn without_return(&self, line: Range<usize>) -> Range<usize> {
        if self.buffer[line.clone()].ends_with(b"\r") { line.start..line.end - 1 } else { line }
    }

    /// Bytes of memory it holds.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut buffer = LineBuffer::default();
        let mut found = Vec::new();
        for piece in pieces {
            buffer.feed(piece);
            while let Some(line) = buffer.next_line().unwrap() {
                found.push(buffer.bytes(&line).to_vec());
            }
        }
        let rest = buffer.rest();
        found.push(buffer.bytes(&rest).to_vec());
        found
    }

    #[test]
    fn lines_end_with_line_feeds() {
        assert_eq!(lines(&[b"a\r", b"\n\nb", b"c\n", b"d\r"]), [&b"a"[..], b"", b"bc", b"d"]);
    }

    proptest! {
        #[test]
        fn every_cut_gives_the_same_lines(text in "[ab\\r\\n]{0,60}", cuts in prop::collection::vec(0_usize..60, 0..8)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|it| it.min(text.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([text.len()]) {
                pieces.push(&text.as_bytes()[from..cut]);
                from = cut;
            }
            prop_assert_eq!(lines(&pieces), lines(&[text.as_bytes()]));
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut buffer = LineBuffer::default();
        let block = vec![b'x'; 1 << 16];
        let taken = (0..100).take_while(|_| {
            buffer.feed(&block);
            buffer.next_line() == Ok(None)
        });
        assert_eq!(taken.count(), 16);
        assert!(buffer.capacity() <= 3 << 20);
    }
}
