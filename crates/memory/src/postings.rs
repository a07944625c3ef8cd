//! The documents of one term, packed: most take two bytes.
//!
//! A posting is the distance of its slot from the one before, doubled, and one more when a frequency follows; and the frequency,
//! when it is above one. Both are written seven bits a byte, the lowest first, with the eighth set where more follow.
//!
//! **Invariant:** what is read is what was written, in its order.

/// A document of a term. The frequency saturates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Posting {
    pub(crate) slot: u32,
    pub(crate) frequency: u16,
}

/// The documents of one term, mostly by ascending slot; never none.
#[derive(Debug)]
pub(crate) enum Postings {
    /// Most terms stand in one document.
    One(Posting),
    /// Further ones are packed.
    Many(Box<Packed>),
}

/// Packed postings.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    bytes: Vec<u8>,
    count: u32,
    /// The last slot.
    last: u32,
}

impl Postings {
    /// The first document of a term.
    pub(crate) fn new(posting: Posting) -> Self {
        Self::One(posting)
    }

    /// Adds a document; it takes least room when its slot is greater than all before.
    pub(crate) fn push(&mut self, posting: Posting) {
        match self {
            Self::One(first) => {
                let mut packed = Packed::default();
                packed.push(*first);
                packed.push(posting);
                *self = Self::Many(Box::new(packed));
            }
            Self::Many(packed) => packed.push(posting),
        }
    }

    /// Without the document of `slot`; none when nothing is left.
    pub(crate) fn without(&self, slot: u32) -> Option<Self> {
        let mut rest = self.iter().filter(|posting| posting.slot != slot);
        let mut left = Self::new(rest.next()?);
        rest.for_each(|posting| left.push(posting));
        Some(left)
    }

    /// Documents.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(packed) => packed.count as usize,
        }
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> Iter<'_> {
        match self {
            Self::One(posting) => Iter { one: Some(*posting), bytes: &[], slot: 0 },
            Self::Many(packed) => packed.iter(),
        }
    }
}

impl Packed {
    /// The same without room for more; none when there are none.
    pub(crate) fn kept(&self) -> Option<Postings> {
        if self.count == 1 {
            return self.iter().next().map(Postings::One);
        }
        let Self { bytes, count, last } = self;
        (*count > 0)
            .then(|| Postings::Many(Box::new(Self { bytes: bytes.as_slice().into(), count: *count, last: *last })))
    }

    /// Lets go of all, and keeps the room.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        (self.count, self.last) = (0, 0);
    }

    pub(crate) fn iter(&self) -> Iter<'_> {
        Iter { one: None, bytes: &self.bytes, slot: 0 }
    }

    pub(crate) fn push(&mut self, Posting { slot, frequency }: Posting) {
        // A list of thousands that doubles would hold a third of nothing on average.
        if self.bytes.capacity() - self.bytes.len() < NUMBERS_BYTES {
            self.bytes.reserve_exact(NUMBERS_BYTES + self.bytes.len() / 8);
        }
        let distance = u64::from(slot.wrapping_sub(self.last));
        self.write(distance << 1 | u64::from(frequency > 1));
        if frequency > 1 {
            self.write(frequency.into());
        }
        self.last = slot;
        self.count += 1;
    }

    fn write(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.bytes.push(number.to_le_bytes()[0]);
    }
}

/// The bytes of the longest posting: 33 bits, and 16.
const NUMBERS_BYTES: usize = 5 + 3;

/// Reads postings.
pub(crate) struct Iter<'a> {
    one: Option<Posting>,
    bytes: &'a [u8],
    slot: u32,
}

impl Iter<'_> {
    #[inline]
    fn number(&mut self) -> Option<u64> {
        let (&first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        if first < 0x80 {
            return Some(first.into());
        }
        let mut number = u64::from(first & 0x7f);
        let mut shift = 7;
        loop {
            let (&byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
            shift += 7;
        }
    }
}

impl Iterator for Iter<'_> {
    type Item = Posting;

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "what was written is 32 bits and a mark, and 16 bits")]
    fn next(&mut self) -> Option<Posting> {
        if let Some(one) = self.one.take() {
            return Some(one);
        }
        let head = self.number()?;
        self.slot = self.slot.wrapping_add((head >> 1) as u32);
        let frequency = if head & 1 == 1 { self.number()? as u16 } else { 1 };
        Some(Posting { slot: self.slot, frequency })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..200 {
            let mut slot = random.u32(..3);
            let all: Vec<Posting> = (0..random.usize(1..60))
                .map(|_| {
                    let posting =
                        Posting { slot, frequency: *random.choice(&[1, 1, 1, 2, 127, 128, u16::MAX]).unwrap_or(&1) };
                    slot += *random.choice(&[1, 2, 63, 64, 8_192, 40_000_000]).unwrap_or(&1);
                    posting
                })
                .collect();
            let mut packed = Postings::new(all[0]);
            all[1..].iter().for_each(|posting| packed.push(*posting));
            assert_eq!(packed.iter().collect::<Vec<_>>(), all);
            assert_eq!(packed.len(), all.len());
            let mut some = Packed::default();
            for _ in 0..2 {
                some.clear();
                assert!(some.kept().is_none());
                for posting in &all {
                    some.push(*posting);
                }
                assert_eq!(some.kept().unwrap().iter().collect::<Vec<_>>(), all);
            }
            let gone = random.usize(..all.len());
            let rest: Vec<Posting> = all.iter().copied().filter(|it| it.slot != all[gone].slot).collect();
            match packed.without(all[gone].slot) {
                Some(left) => assert_eq!(left.iter().collect::<Vec<_>>(), rest),
                None => assert!(rest.is_empty()),
            }
        }
    }

    #[test]
    fn the_greatest_numbers_fit() {
        let most = Posting { slot: u32::MAX, frequency: u16::MAX };
        let mut postings = Postings::new(Posting { slot: 0, frequency: 1 });
        postings.push(most);
        assert_eq!(postings.iter().last(), Some(most));
        assert_eq!(size_of::<Postings>(), 16, "a term that stands in one document needs no room elsewhere");
    }
}
