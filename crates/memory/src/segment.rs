//! The words of many memories in one piece of bytes, which the database keeps: a project that has them is opened without its texts
//! being taken apart again.
//!
//! A segment names the rows it is made from, each with the number of its terms, and then every term with the rows that hold it.
//! Rows and their places are distances from the one before, terms are in order and without the beginning that they share with
//! the one before. All numbers are written seven bits a byte, the lowest first, with the eighth set where more follow.
//!
//! **Invariant:** the same rows with the same texts give the same bytes, in every process.
//! **Invariant:** what is not read back to the last bit, or was written by a version with other terms, is no segment.

use std::{borrow::Cow, collections::HashMap, fmt};

use crate::text;

/// Raise it when [`text::terms`] finds other terms, or when the bytes mean something else: older segments are then made again.
const VERSION: u8 = 1;
/// Bytes of the hash that a segment begins with.
const HASH: usize = 16;

/// The words of many memories.
pub struct Segment<'a> {
    bytes: Cow<'a, [u8]>,
    documents: Vec<Document>,
    /// Where the terms begin.
    terms: usize,
}

/// A memory in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Document {
    /// Its row in the database.
    pub(crate) row: u64,
    /// Its terms.
    pub(crate) length: u32,
}

/// Where a term stands: the place of the document, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Occurrence {
    pub(crate) document: u32,
    pub(crate) frequency: u16,
}

impl fmt::Debug for Segment<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Segment").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl<'a> Segment<'a> {
    /// Takes texts apart. Their rows grow.
    pub fn of<'b>(texts: impl IntoIterator<Item = (u64, &'b str)>) -> Self {
        let mut documents = Vec::new();
        let mut terms: HashMap<String, Vec<Occurrence>> = HashMap::new();
        let mut buffer = String::new();
        for (document, (row, text)) in (0..).zip(texts) {
            let mut length: u32 = 0;
            text::terms(text, &mut buffer, |term| {
                length = length.saturating_add(1);
                let new = Occurrence { document, frequency: 1 };
                match terms.get_mut(term) {
                    None => drop(terms.insert(term.to_owned(), vec![new])),
                    Some(found) => match found.last_mut() {
                        Some(last) if last.document == document => last.frequency = last.frequency.saturating_add(1),
                        Some(_) | None => found.push(new),
                    },
                }
            });
            documents.push(Document { row, length });
        }
        let mut terms: Vec<(String, Vec<Occurrence>)> = terms.into_iter().collect();
        terms.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        Self::written(documents, &terms)
    }

    fn written(documents: Vec<Document>, all: &[(String, Vec<Occurrence>)]) -> Self {
        let mut bytes = vec![0; HASH];
        bytes.push(VERSION);
        write(&mut bytes, documents.len() as u64);
        let mut before = 0;
        for Document { row, length } in &documents {
            write(&mut bytes, row.wrapping_sub(before));
            write(&mut bytes, u64::from(*length));
            before = *row;
        }
        let terms = bytes.len();
        let (mut before, mut places) = ("", Vec::new());
        for (term, occurrences) in all {
            let shared = before.bytes().zip(term.bytes()).take_while(|(left, right)| left == right).count();
            write(&mut bytes, shared as u64);
            write(&mut bytes, (term.len() - shared) as u64);
            bytes.extend_from_slice(&term.as_bytes()[shared..]);
            places.clear();
            let mut last = 0;
            for Occurrence { document, frequency } in occurrences {
                write(&mut places, u64::from(document - last) << 1 | u64::from(*frequency > 1));
                if *frequency > 1 {
                    write(&mut places, u64::from(*frequency));
                }
                last = *document;
            }
            write(&mut bytes, places.len() as u64);
            bytes.extend_from_slice(&places);
            before = term;
        }
        let hash = hash_of(&bytes);
        bytes[..HASH].copy_from_slice(&hash);
        Self { bytes: bytes.into(), documents, terms }
    }

    /// Reads what [`Self::bytes`] gave; none when it is anything else, or of another version.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        if bytes.get(..HASH)? != hash_of(bytes) || bytes.get(HASH) != Some(&VERSION) {
            return None;
        }
        let mut rest = Bytes(&bytes[HASH + 1..]);
        let count = usize::try_from(rest.number()?).ok()?;
        let (mut documents, mut row) = (Vec::with_capacity(count.min(bytes.len())), 0_u64);
        for _ in 0..count {
            row = row.wrapping_add(rest.number()?);
            documents.push(Document { row, length: u32::try_from(rest.number()?).ok()? });
        }
        let terms = bytes.len() - rest.0.len();
        Some(Self { bytes: bytes.into(), documents, terms })
    }

    /// What is kept.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether it is made from nothing.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// The memories it is made from, by ascending row.
    pub(crate) fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// Calls `each` with every term, and what [`Self::occurrences`] wants to know of it.
    pub(crate) fn terms(&self, mut each: impl FnMut(&str, usize)) {
        let mut rest = Bytes(&self.bytes[self.terms..]);
        let mut term = Vec::new();
        // The hash says that it was written here, so it ends where a term ends.
        while let Some((shared, new)) = rest.term() {
            term.truncate(shared);
            term.extend_from_slice(new);
            let at = self.bytes.len() - rest.0.len();
            if rest.some().is_some()
                && let Ok(term) = str::from_utf8(&term)
            {
                each(term, at);
            }
        }
    }

    /// Where the term stands that [`Self::terms`] named with `at`.
    pub(crate) fn occurrences(&self, at: usize) -> Occurrences<'_> {
        let places = self.bytes.get(at..).and_then(|rest| Bytes(rest).some());
        Occurrences { rest: Bytes(places.unwrap_or_default()), document: 0 }
    }
}

/// Where one term stands, by ascending document.
pub(crate) struct Occurrences<'a> {
    rest: Bytes<'a>,
    document: u32,
}

impl Iterator for Occurrences<'_> {
    type Item = Occurrence;

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "what was written is 32 bits and a mark, and 16 bits")]
    fn next(&mut self) -> Option<Occurrence> {
        let head = self.rest.number()?;
        self.document = self.document.wrapping_add((head >> 1) as u32);
        let frequency = if head & 1 == 1 { self.rest.number()? as u16 } else { 1 };
        Some(Occurrence { document: self.document, frequency })
    }
}

/// Reads numbers.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    #[inline]
    fn number(&mut self) -> Option<u64> {
        let (mut number, mut shift) = (0, 0);
        loop {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(number);
            }
            shift += 7;
        }
    }

    fn some(&mut self) -> Option<&'a [u8]> {
        let count = usize::try_from(self.number()?).ok()?;
        let (some, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(some)
    }

    /// What a term shares with the one before, and what is new in it.
    fn term(&mut self) -> Option<(usize, &'a [u8])> {
        Some((usize::try_from(self.number()?).ok()?, self.some()?))
    }
}

fn write(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

/// The hash of what stands behind it.
fn hash_of(bytes: &[u8]) -> [u8; HASH] {
    let mut hash = [0; HASH];
    hash.copy_from_slice(&blake3::hash(&bytes[HASH..]).as_bytes()[..HASH]);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [&str; 6] =
        ["red fox and red dog, parse_reply", "", "blue fox 今日は", "red", "the queries' Straße", "red fox"];

    fn rows() -> impl Iterator<Item = (u64, &'static str)> {
        [3, 4, 9, 300, 70_000, u64::MAX].into_iter().zip(TEXTS)
    }

    fn listed(segment: &Segment<'_>) -> Vec<(String, Vec<(u32, u16)>)> {
        let mut listed = Vec::new();
        segment.terms(|term, at| {
            let places = segment.occurrences(at).map(|it| (it.document, it.frequency));
            listed.push((term.to_owned(), places.collect()));
        });
        listed
    }

    #[test]
    fn what_is_written_is_read() {
        let segment = Segment::of(rows());
        let again = Segment::read(segment.bytes()).unwrap();
        assert_eq!(again.documents(), segment.documents());
        let lengths: Vec<_> = again.documents().iter().map(|it| (it.row, it.length)).collect();
        assert_eq!(lengths[..3], [(3, 8), (4, 0), (9, 4)]);
        assert_eq!(listed(&again), listed(&segment));
        let of = |term: &str| listed(&again).into_iter().find(|(it, _)| it == term).unwrap().1;
        assert_eq!(of("red"), [(0, 2), (3, 1), (5, 1)]);
        assert_eq!(of("fox"), [(0, 1), (2, 1), (5, 1)]);
        assert_eq!(of("straße"), [(4, 1)]);
        assert!(Segment::of([]).is_empty() && Segment::read(Segment::of([]).bytes()).unwrap().is_empty());
    }

    #[test]
    fn the_same_texts_give_the_same_bytes_in_every_version() {
        // Other bytes need another `VERSION`: what older versions have kept would be misunderstood.
        let rules = "The queries' parseHTTPReply2 of parse_reply, 3 task IDs: Anna\u{2019}s __init__ doesn't; über 東 Rust言語 今日は";
        let data = "aB".repeat(40);
        let segment = Segment::of([(3, TEXTS[0]), (4, ""), (400, rules), (401, data.as_str())]);
        let hash = u128::from_be_bytes(hash_of(segment.bytes()));
        assert_eq!((VERSION, hash), (1, 0x632a_e3c6_7506_987a_aec0_b6e8_3cfe_01c8), "{hash:#034x}");
    }

    #[test]
    fn anything_else_is_no_segment() {
        let bytes = Segment::of(rows()).bytes().to_vec();
        for at in 0..bytes.len() {
            assert!(Segment::read(&bytes[..at]).is_none(), "cut at {at}");
            let mut turned = bytes.clone();
            turned[at] ^= 4;
            assert!(Segment::read(&turned).is_none(), "turned at {at}");
        }
        let mut older = bytes;
        older[HASH] = VERSION - 1;
        let hash = hash_of(&older);
        older[..HASH].copy_from_slice(&hash);
        assert!(Segment::read(&older).is_none(), "of another version");
    }

    #[test]
    fn numbers_of_any_size() {
        for number in [0, 1, 127, 128, u64::from(u32::MAX) << 1 | 1, u64::MAX] {
            let mut bytes = Vec::new();
            write(&mut bytes, number);
            assert_eq!(Bytes(&bytes).number(), Some(number));
        }
        assert_eq!(Bytes(&[0xff; 11]).number(), None, "longer than any");
        assert_eq!(Bytes(&[0x80]).number(), None, "cut off");
    }
}
