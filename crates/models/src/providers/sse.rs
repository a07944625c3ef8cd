//! Server-sent events, as far as chat completions use them (WHATWG HTML, section 9.2).
//!
//! **Invariant:** bytes may be cut anywhere, inside a character too; an event is the same for every cut.
//! **Invariant:** a line is at most [`LINE_MAX`] bytes, so a server that never ends one costs bounded memory.

/// Bytes of a line at most.
pub(super) const LINE_MAX: usize = 1 << 20;

/// A line is too long.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LineTooLong;

/// One event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SseEvent<'a> {
    /// Its data, lines joined by `\n`.
    pub(super) data: &'a [u8],
    /// It is named `error`.
    pub(super) is_error: bool,
}

/// Cuts a stream of bytes into events.
#[derive(Debug, Default)]
pub(super) struct SseParser {
    buffer: Vec<u8>,
    /// Where the first line begins that is not yet read.
    start: usize,
    /// Up to where the buffer has been searched for the end of that line.
    searched: usize,
    data: Vec<u8>,
    has_data: bool,
    is_error: bool,
    is_data_taken: bool,
}

impl SseParser {
    /// Adds bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            (self.start, self.searched) = (0, 0);
        } else if self.start > LINE_MAX {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole event.
    pub(super) fn next_event(&mut self) -> Result<Option<SseEvent<'_>>, LineTooLong> {
        self.drop_taken();
        while let Some(length) = self.buffer[self.searched..].iter().position(|it| *it == b'\n') {
            let end = self.searched + length;
            let mut line = &self.buffer[self.start..end];
            (self.start, self.searched) = (end + 1, end + 1);
            if line.len() > LINE_MAX {
                return Err(LineTooLong);
            }
            line = line.strip_suffix(b"\r").unwrap_or(line);
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
            if line.is_empty() {
                if self.has_data {
                    return Ok(Some(self.take()));
                }
                self.is_error = false;
                continue;
            }
            Self::field(line, &mut self.data, &mut self.has_data, &mut self.is_error);
            if self.data.len() > LINE_MAX {
                return Err(LineTooLong);
            }
        }
        self.searched = self.buffer.len();
        if self.buffer.len() - self.start > LINE_MAX {
            return Err(LineTooLong);
        }
        Ok(None)
    }

    /// What is left when the stream ends without an empty line.
    pub(super) fn last_event(&mut self) -> Option<SseEvent<'_>> {
        self.drop_taken();
        let line = self.buffer.split_off(self.start);
        self.buffer.clear();
        (self.start, self.searched) = (0, 0);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        Self::field(line, &mut self.data, &mut self.has_data, &mut self.is_error);
        self.has_data.then(|| self.take())
    }

    fn drop_taken(&mut self) {
        if self.is_data_taken {
            self.is_data_taken = false;
            self.data.clear();
            self.is_error = false;
        }
    }

    fn take(&mut self) -> SseEvent<'_> {
        self.has_data = false;
        self.is_data_taken = true;
        SseEvent { data: &self.data, is_error: self.is_error }
    }

    fn field(line: &[u8], data: &mut Vec<u8>, has_data: &mut bool, is_error: &mut bool) {
        // Comments begin with a colon: their name is empty.
        let (name, value) = match line.iter().position(|it| *it == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => {
                if *has_data {
                    data.push(b'\n');
                }
                data.extend_from_slice(value);
                *has_data = true;
            }
            b"event" => *is_error = value == b"error",
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<(String, bool)> {
        let mut parser = SseParser::default();
        let mut found = Vec::new();
        let own = |event: SseEvent<'_>| (String::from_utf8(event.data.to_vec()).unwrap(), event.is_error);
        for piece in pieces {
            parser.feed(piece);
            while let Some(event) = parser.next_event().unwrap() {
                found.push(own(event));
            }
        }
        found.extend(parser.last_event().map(own));
        found
    }

    #[test]
    fn every_cut_gives_the_same_events() {
        let stream = "\u{feff}: hello\ndata: {\"a\":\"ü日\"}\n\nevent: error\r\ndata: x\r\ndata:y\r\n\r\nid: 7\n\ndata\n\ndata: last";
        let expected = vec![
            ("{\"a\":\"ü日\"}".to_owned(), false),
            ("x\ny".to_owned(), true),
            (String::new(), false),
            ("last".to_owned(), false),
        ];
        assert_eq!(events(&[stream.as_bytes()]), expected);
        for at in 0..stream.len() {
            let (left, right) = stream.as_bytes().split_at(at);
            assert_eq!(events(&[left, right]), expected, "cut at {at}");
        }
        let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
        assert_eq!(events(&bytes), expected);
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
    fn memory_does_not_grow_with_the_stream() {
        let mut parser = SseParser::default();
        for _ in 0..10_000 {
            parser.feed(b"data: 0123456789\n\n");
            assert!(parser.next_event().unwrap().is_some());
            assert!(parser.next_event().unwrap().is_none());
        }
        assert!(parser.buffer.capacity() < 4_096 && parser.data.capacity() < 4_096);
    }
}
