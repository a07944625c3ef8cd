//! Byte-pair encoding as OpenAI's models have it: counts exactly what `tiktoken` counts.
//!
//! `cl100k.z` and `o200k.z` are the vocabularies that OpenAI publishes under the licence in `LICENSE-tiktoken` (`cl100k_base.tiktoken`,
//! `o200k_base.tiktoken`), as zlib packs the lengths of all tokens followed by the tokens, in the order of their ranks.
//!
//! **Invariant:** the time grows with the text as n log n at most, whatever the text: there is no backtracking, and merges
//! come from a heap.

use std::{cmp::Reverse, collections::BinaryHeap, io::Read as _};

use flate2::read::ZlibDecoder;
use regex_automata::{Anchored, Input, meta::Regex};

/// What is published of one vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Published {
    packed: &'static [u8],
    tokens: usize,
    bytes: usize,
    /// How a text is cut into pieces, none of which a token crosses.
    pieces: &'static [&'static str],
}

pub(super) const CL100K: Published = Published {
    packed: include_bytes!("cl100k.z"),
    tokens: 100_256,
    bytes: 643_830,
    pieces: &[
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+$",
    ],
};

pub(super) const O200K: Published = Published {
    packed: include_bytes!("o200k.z"),
    tokens: 199_998,
    bytes: 1_397_670,
    pieces: &[
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+$",
    ],
};

/// Spaces before a word: the last one belongs to the word. `tiktoken` says `\s+(?!\S)`; here the character that must follow
/// is matched as well, and given back.
const SPACES_BEFORE: &str = r"\s+\s";
const SPACES: &str = r"\s+";
/// The place of [`SPACES_BEFORE`] among the patterns.
const GIVES_BACK: usize = 1;

/// Bits of a slot that hold a token; the others hold bits of its hash.
const TOKEN_BITS: u32 = 18;
const TOKEN_MASK: u32 = (1 << TOKEN_BITS) - 1;
const FREE: u32 = u32::MAX;

/// A vocabulary in memory.
#[derive(Debug)]
pub(super) struct Bpe {
    pieces: Regex,
    /// All tokens, by rank.
    bytes: Vec<u8>,
    /// Where each begins, and where the last ends.
    starts: Vec<u32>,
    /// Finds tokens by their bytes: open addressing.
    slots: Vec<u32>,
    longest: usize,
}

impl Bpe {
    /// Unpacks a vocabulary: some milliseconds. `None` when what was compiled in is damaged.
    pub(super) fn new(published: &Published) -> Option<Self> {
        let mut bytes = Vec::with_capacity(published.tokens + published.bytes);
        ZlibDecoder::new(published.packed).read_to_end(&mut bytes).ok()?;
        let lengths: Vec<u8> = bytes.drain(..published.tokens.min(bytes.len())).collect();
        bytes.shrink_to_fit();
        let mut starts = Vec::with_capacity(lengths.len() + 1);
        let mut end = 0_u32;
        starts.push(end);
        for length in &lengths {
            end += u32::from(*length);
            starts.push(end);
        }
        if lengths.len() != published.tokens || bytes.len() != published.bytes || end as usize != bytes.len() {
            return None;
        }
        let pieces = published.pieces.join("|");
        let pieces = Regex::new_many(&[&*pieces, SPACES_BEFORE, SPACES]).ok()?;
        let slots = vec![FREE; (2 * published.tokens).next_power_of_two()];
        let longest = usize::from(lengths.into_iter().max()?);
        let mut bpe = Self { pieces, bytes, starts, slots, longest };
        for token in 0..u32::try_from(published.tokens).ok()? {
            let hash = hash(bpe.token(token));
            let slot = bpe.probe(hash).find(|slot| bpe.slots[*slot] == FREE)?;
            bpe.slots[slot] = tag(hash) | token;
        }
        Some(bpe)
    }

    /// Tokens of `text`.
    pub(super) fn count(&self, text: &str) -> usize {
        let mut merger = Merger::default();
        let (mut at, mut tokens) = (0, 0);
        while let Some(found) = self.pieces.find(Input::new(&text[at..]).anchored(Anchored::Yes)) {
            let mut piece = &text[at..at + found.end()];
            if found.pattern().as_usize() == GIVES_BACK {
                let last = piece.chars().next_back().map_or(0, char::len_utf8);
                piece = &piece[..piece.len() - last];
            }
            if piece.is_empty() {
                break;
            }
            tokens += if self.rank(piece.as_bytes()).is_some() { 1 } else { merger.count(self, piece.as_bytes()) };
            at += piece.len();
        }
        tokens
    }

    /// The tokens by rank.
    #[cfg(test)]
    pub(super) fn tokens(&self) -> impl Iterator<Item = &[u8]> {
        self.starts.windows(2).map(|it| &self.bytes[it[0] as usize..it[1] as usize])
    }

    fn token(&self, token: u32) -> &[u8] {
        let at = token as usize;
        &self.bytes[self.starts[at] as usize..self.starts[at + 1] as usize]
    }

    /// The slots where a token may be, in order.
    fn probe(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let mask = self.slots.len() - 1;
        #[expect(clippy::cast_possible_truncation, reason = "the mask takes the lower bits")]
        let first = hash as usize;
        (0..=mask).map(move |step| first.wrapping_add(step) & mask)
    }

    /// The rank of the token with these bytes.
    fn rank(&self, bytes: &[u8]) -> Option<u32> {
        if bytes.len() > self.longest {
            return None;
        }
        let hash = hash(bytes);
        for slot in self.probe(hash) {
            let slot = self.slots[slot];
            if slot == FREE {
                return None;
            }
            if slot & !TOKEN_MASK == tag(hash) && self.token(slot & TOKEN_MASK) == bytes {
                return Some(slot & TOKEN_MASK);
            }
        }
        None
    }
}

fn hash(bytes: &[u8]) -> u64 {
    const MIX: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut hash = bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(MIX);
        hash ^= hash >> 32;
    }
    hash
}

/// The upper bits, which do not choose the slot.
fn tag(hash: u64) -> u32 {
    let upper = (hash >> 32) as u32;
    upper & !TOKEN_MASK
}

/// Merges the bytes of a piece, pair by pair: the pair whose token has the least rank first, of equals the first one.
#[derive(Default)]
struct Merger {
    /// Where the part that begins at each byte ends; 0 when none begins there.
    ends: Vec<u32>,
    /// Where the part that ends before each byte begins.
    begins: Vec<u32>,
    /// Pairs that may be merged, see [`Merger::pair`].
    pairs: BinaryHeap<Reverse<u64>>,
}

impl Merger {
    /// Tokens that are left of `piece`.
    fn count(&mut self, bpe: &Bpe, piece: &[u8]) -> usize {
        let Ok(len) = u32::try_from(piece.len()) else { return piece.len() };
        self.ends.clear();
        self.ends.extend(1..=len);
        self.begins.clear();
        self.begins.extend((0..=len).map(|it| it.saturating_sub(1)));
        // All at once, which is cheaper than one by one.
        let mut pairs = std::mem::take(&mut self.pairs).into_vec();
        pairs.clear();
        pairs.extend((1..len).filter_map(|at| Self::pair(bpe, piece, at - 1, at + 1)));
        self.pairs = pairs.into();
        let mut parts = piece.len();
        while let Some(Reverse(pair)) = self.pairs.pop() {
            let (at, size) = unpack(pair);
            let (middle, end) = (self.ends[at as usize], at + size);
            // One of the two was merged with another meanwhile.
            if middle == 0 || middle >= end || self.ends[middle as usize] != end {
                continue;
            }
            self.ends[at as usize] = end;
            self.ends[middle as usize] = 0;
            self.begins[end as usize] = at;
            parts -= 1;
            if end < len {
                self.pairs.extend(Self::pair(bpe, piece, at, self.ends[end as usize]));
            }
            if at > 0 {
                self.pairs.extend(Self::pair(bpe, piece, self.begins[at as usize], end));
            }
        }
        parts
    }

    /// What may be merged, as one number by which it is ordered: rank, place, length.
    fn pair(bpe: &Bpe, piece: &[u8], at: u32, end: u32) -> Option<Reverse<u64>> {
        let rank = bpe.rank(&piece[at as usize..end as usize])?;
        Some(Reverse(u64::from(rank) << 40 | u64::from(at) << 8 | u64::from(end - at)))
    }
}

/// Place and length of a pair.
fn unpack(pair: u64) -> (u32, u32) {
    #[expect(clippy::cast_possible_truncation, reason = "the place has the 32 bits above the lowest eight")]
    let at = (pair >> 8) as u32;
    (at, (pair & 0xFF) as u32)
}
