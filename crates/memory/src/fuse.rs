//! One score from two: what the vectors say and what the words say.
//!
//! Each side is divided by its best among the candidates, so that it ends at 1 and unlike things stay near 0.
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

/// The score of each candidate, 0 … 1, in the same order; the vectors count `share`, the words the rest. With one side
/// only, that side decides alone.
pub fn fuse(candidates: &[Candidate], share: f32) -> Vec<f32> {
    let best = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0_f32, f32::max);
    let dense = best(&mut candidates.iter().filter_map(|candidate| candidate.dense));
    let sparse = best(&mut candidates.iter().filter_map(|candidate| candidate.sparse));
    let share = match (dense > 0.0, sparse > 0.0) {
        (true, true) => share,
        (true, false) => 1.0,
        (false, true) => 0.0,
        (false, false) => return vec![0.0; candidates.len()],
    };
    let part = |value: Option<f32>, best: f32| if best > 0.0 { value.unwrap_or(0.0).max(0.0) / best } else { 0.0 };
    candidates
        .iter()
        .map(|candidate| share * part(candidate.dense, dense) + (1.0 - share) * part(candidate.sparse, sparse))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(share: f32, sides: &[(Option<f32>, Option<f32>)], expect: &[f32]) {
        let candidates: Vec<_> =
            (0..).zip(sides).map(|(slot, &(dense, sparse))| Candidate { slot, dense, sparse }).collect();
        assert_eq!(fuse(&candidates, share), expect, "{sides:?}");
    }

    #[test]
    fn both_sides_count_their_share() {
        check(0.5, &[(Some(1.0), None), (Some(0.5), Some(6.0)), (None, Some(3.0))], &[0.5, 0.75, 0.25]);
        check(0.25, &[(Some(0.5), Some(2.0)), (Some(0.25), None)], &[1.0, 0.125]);
    }

    #[test]
    fn one_side_decides_alone() {
        check(0.5, &[(None, Some(4.0)), (None, Some(1.0))], &[1.0, 0.25]);
        check(0.5, &[(Some(0.5), None), (Some(0.25), None)], &[1.0, 0.5]);
        check(0.5, &[(Some(0.5), None), (Some(-0.5), None)], &[1.0, 0.0]);
    }

    #[test]
    fn nothing_is_worth_nothing() {
        check(0.5, &[(None, None), (Some(-0.5), None)], &[0.0, 0.0]);
        check(0.5, &[], &[]);
    }
}
