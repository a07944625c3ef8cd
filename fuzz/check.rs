//! What the fuzz target and the test of its corpus check: any bytes, cut anywhere, give the events of the same bytes in one piece.
//! The first byte says how they are cut.

use crewline_models::providers::sse::SseParser;

/// All events, or that a line was too long.
fn events<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Option<Vec<(Vec<u8>, bool)>> {
    let mut parser = SseParser::default();
    let mut found = Vec::new();
    for piece in pieces {
        parser.feed(piece);
        while let Some(event) = parser.next_event().ok()? {
            found.push((event.data.to_vec(), event.is_error));
        }
    }
    if let Some(event) = parser.last_event().ok()? {
        found.push((event.data.to_vec(), event.is_error));
    }
    Some(found)
}

/// Fails when the cut makes a difference.
pub(crate) fn check(bytes: &[u8]) {
    let Some((size, stream)) = bytes.split_first() else { return };
    let size = usize::from(*size).max(1);
    assert_eq!(events(stream.chunks(size)), events(std::iter::once(stream)));
}
