//! Server-sent events, as far as model servers use them (WHATWG HTML, section 9.2).
//!
//! **Invariant:** bytes may be cut anywhere, inside a character too; an event is the same for every cut.
//! **Invariant:** a line, and the data of an event, is at most [`LINE_MAX`] bytes.

use std::ops::Range;

use super::lines::{LINE_MAX, LineBuffer, LineTooLong};

/// One event.
#[derive(Debug, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// Its data, lines joined by `\n`.
    pub data: &'a [u8],
    /// It is named `error`.
    pub is_error: bool,
}

/// The data of the event that is being read.
#[derive(Debug, Default)]
enum Data {
    #[default]
    None,
    /// One line, still in the buffer: the common case, which is not copied.
    One(Range<usize>),
    /// In `joined`.
    Joined,
}

/// Cuts a stream of bytes into events.
#[derive(Debug, Default)]
pub struct SseParser {
    lines: LineBuffer,
    data: Data,
    joined: Vec<u8>,
    is_error: bool,
    /// A byte order mark may stand before the first line only.
    is_begun: bool,
}

impl SseParser {
    /// Adds bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        if let Data::One(line) = &self.data {
            // The buffer moves: keep what was read of the event.
            self.joined.clear();
            self.joined.extend_from_slice(self.lines.bytes(line));
            self.data = Data::Joined;
        }
        self.lines.feed(bytes);
    }

    /// The next whole event.
    pub fn next_event(&mut self) -> Result<Option<SseEvent<'_>>, LineTooLong> {
        while let Some(line) = self.lines.next_line()? {
            if self.line(line)? {
                return Ok(Some(self.take()));
            }
        }
        Ok(None)
    }

    /// What is left when the stream ends without an empty line.
    pub fn last_event(&mut self) -> Result<Option<SseEvent<'_>>, LineTooLong> {
        let rest = self.lines.rest();
        let is_whole = self.line(rest)?;
        Ok((is_whole || !matches!(self.data, Data::None)).then(|| self.take()))
    }

    /// Reads a line; true when it ends an event.
    fn line(&mut self, mut line: Range<usize>) -> Result<bool, LineTooLong> {
        if !std::mem::replace(&mut self.is_begun, true) && self.lines.bytes(&line).starts_with(b"\xef\xbb\xbf") {
            line.start += 3;
        }
        let bytes = self.lines.bytes(&line);
        if bytes.is_empty() {
            if matches!(self.data, Data::None) {
                self.is_error = false;
                return Ok(false);
            }
            return Ok(true);
        }
        // Comments begin with a colon: their name is empty.
        let colon = bytes.iter().position(|it| *it == b':').unwrap_or(bytes.len());
        let name = &bytes[..colon];
        let mut value = (line.start + colon + 1).min(line.end)..line.end;
        if self.lines.bytes(&value).starts_with(b" ") {
            value.start += 1;
        }
        let (is_data, is_event) = (name == b"data", name == b"event");
        if is_data {
            self.data = self.with(value)?;
        } else if is_event {
            self.is_error = self.lines.bytes(&value) == b"error";
        }
        Ok(false)
    }

    /// The data with one more line.
    fn with(&mut self, line: Range<usize>) -> Result<Data, LineTooLong> {
        match &self.data {
            Data::None => return Ok(Data::One(line)),
            Data::One(first) => {
                self.joined.clear();
                self.joined.extend_from_slice(self.lines.bytes(first));
            }
            Data::Joined => {}
        }
        if self.joined.len() + line.len() >= LINE_MAX {
            return Err(LineTooLong);
        }
        self.joined.push(b'\n');
        self.joined.extend_from_slice(self.lines.bytes(&line));
        Ok(Data::Joined)
    }

    fn take(&mut self) -> SseEvent<'_> {
        let data = match std::mem::take(&mut self.data) {
            Data::None => &[],
            Data::One(line) => self.lines.bytes(&line),
            Data::Joined => self.joined.as_slice(),
        };
        SseEvent { data, is_error: std::mem::take(&mut self.is_error) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut parser = SseParser::default();
        let mut found = Vec::new();
        let own = |event: SseEvent<'_>| (event.data.to_vec(), event.is_error);
        for piece in pieces {
            parser.feed(piece);
            while let Some(event) = parser.next_event().unwrap() {
                found.push(own(event));
            }
        }
        found.extend(parser.last_event().unwrap().map(own));
        found
    }

    #[test]
    fn every_cut_gives_the_same_events() {
        let stream = "\u{feff}: hello\ndata: {\"a\":\"ü日\"}\n\nevent: error\r\ndata: x\r\ndata:y\r\n\r\nid: 7\n\ndata\n\ndata: last";
        let expected: Vec<(Vec<u8>, bool)> = [("{\"a\":\"ü日\"}", false), ("x\ny", true), ("", false), ("last", false)]
            .map(|(data, is_error)| (data.into(), is_error))
            .into();
        assert_eq!(events(&[stream.as_bytes()]), expected);
        for at in 0..stream.len() {
            let (left, right) = stream.as_bytes().split_at(at);
            assert_eq!(events(&[left, right]), expected, "cut at {at}");
        }
        let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
        assert_eq!(events(&bytes), expected);
    }

    proptest! {
        /// Any bytes, cut anywhere, give the events of the same bytes in one piece.
        #[test]
        fn cuts_do_not_matter(
            stream in prop::collection::vec(
                prop_oneof![
                    any::<Vec<u8>>().prop_map(|it| it.into_iter().take(6).collect::<Vec<u8>>()),
                    prop::sample::select(vec![
                        b"data:".to_vec(), b"data: x".to_vec(), b"event: error".to_vec(), b"\n".to_vec(), b"\r\n".to_vec(),
                        b"\n\n".to_vec(), b":".to_vec(), b"\xef\xbb\xbf".to_vec(), "ü".into(),
                    ]),
                ],
                0..40,
            ),
            sizes in prop::collection::vec(1_usize..9, 1..12),
        ) {
            let stream: Vec<u8> = stream.concat();
            let mut pieces = Vec::new();
            let mut rest = stream.as_slice();
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, tail) = rest.split_at((*size).min(rest.len()));
                pieces.push(piece);
                rest = tail;
            }
            prop_assert_eq!(events(&pieces), events(&[stream.as_slice()]));
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut parser = SseParser::default();
        parser.feed(b"data: ");
        for _ in 0..17 {
            parser.feed(&vec![b'x'; 1 << 16]);
            if parser.next_event() == Err(LineTooLong) {
                return;
            }
        }
        panic!("the line was taken");
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut parser = SseParser::default();
        let line = [b"data: ".to_vec(), vec![b'x'; 1 << 10], b"\n".to_vec()].concat();
        for _ in 0..1_100 {
            parser.feed(&line);
            if parser.next_event() == Err(LineTooLong) {
                return;
            }
        }
        panic!("the event was taken");
    }

    #[test]
    fn memory_does_not_grow_with_the_stream() {
        let mut parser = SseParser::default();
        for _ in 0..10_000 {
            parser.feed(b"data: 0123456789\n\n");
            assert!(parser.next_event().unwrap().is_some());
            assert!(parser.next_event().unwrap().is_none());
        }
        assert!(parser.lines.capacity() < 4_096 && parser.joined.capacity() < 4_096);
    }
}
