//! One score from two: what the vectors say and what the words say.
//!
//! Each side is brought to 0 … 1 by its least and greatest value among the candidates, then both count half.
//!
//! **Invariant:** pure; the result depends on the candidates only, not on where they came from.

/// What is known of one candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The candidate's place in its index.
    pub slot: u32,
    /// Cosine similarity, −1 … 1; none when it has no vector.
    pub dense: Option<f32>,
    /// BM25, above zero; none when it shares no word with the query.
    pub sparse: Option<f32>,
}

/// Weight of the dense side.
const DENSE: f32 = 0.5;

/// The score of each candidate, 0 … 1, in the same order. With one side only, that side decides alone.
pub fn fuse(candidates: &[Candidate]) -> Vec<f32> {
    let dense = Span::of(candidates.iter().filter_map(|candidate| candidate.dense));
    // A candidate without a shared word has a BM25 of zero; one without a vector has an unknown cosine.
    let sparse =
        Span::of(candidates.iter().map(|candidate| candidate.sparse.unwrap_or(0.0))).filter(|span| span.high > 0.0);
    candidates
        .iter()
        .map(|candidate| match (dense, sparse) {
            (Some(dense), Some(sparse)) => {
                DENSE * dense.place(candidate.dense) + (1.0 - DENSE) * sparse.place(candidate.sparse)
            }
            (Some(dense), None) => dense.down_to_zero().place(candidate.dense),
            (None, Some(sparse)) => sparse.down_to_zero().place(candidate.sparse),
            (None, None) => 0.0,
        })
        .collect()
}

#[derive(Clone, Copy)]
struct Span {
    low: f32,
    high: f32,
}

impl Span {
    fn of(values: impl Iterator<Item = f32>) -> Option<Self> {
        values.fold(None, |span, value| {
            Some(span.map_or(Self { low: value, high: value }, |span: Self| Self {
                low: span.low.min(value),
                high: span.high.max(value),
            }))
        })
    }

    /// Alone, a side keeps its proportions: the last of a list is not worth nothing only because it is the last.
    fn down_to_zero(self) -> Self {
        Self { low: self.low.min(0.0), high: self.high }
    }

    fn place(self, value: Option<f32>) -> f32 {
        match value {
            None => 0.0,
            Some(_) if self.high <= self.low => 1.0,
            Some(value) => (value - self.low) / (self.high - self.low),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sides: &[(Option<f32>, Option<f32>)], expect: &[f32]) {
        let candidates: Vec<_> =
            (0..).zip(sides).map(|(slot, &(dense, sparse))| Candidate { slot, dense, sparse }).collect();
        assert_eq!(fuse(&candidates), expect, "{sides:?}");
    }

    #[test]
    fn both_sides_count_half() {
        check(
            &[(Some(0.75), None), (Some(0.25), Some(6.0)), (Some(0.5), Some(3.0)), (None, Some(6.0))],
            &[0.5, 0.5, 0.5, 0.5],
        );
        check(&[(Some(0.5), Some(2.0)), (Some(0.25), None)], &[1.0, 0.0]);
    }

    #[test]
    fn one_side_decides_alone() {
        check(&[(None, Some(4.0)), (None, Some(1.0))], &[1.0, 0.25]);
        check(&[(Some(0.5), None), (Some(0.25), None)], &[1.0, 0.5]);
        check(&[(Some(0.5), None), (Some(-0.5), None)], &[1.0, 0.0]);
    }

    #[test]
    fn equal_values_are_all_best() {
        check(&[(Some(0.5), None), (Some(0.5), None)], &[1.0, 1.0]);
        check(&[(None, Some(2.0))], &[1.0]);
        check(&[(Some(0.5), Some(2.0)), (Some(0.5), Some(2.0))], &[1.0, 1.0]);
        check(&[(None, None)], &[0.0]);
        check(&[], &[]);
    }
}
