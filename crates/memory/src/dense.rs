//! Exact cosine similarity over unit vectors in one contiguous block.
//!
//! **Invariant:** every row has length one, so the cosine is a dot product.
//! **Invariant:** similarities are rounded before they are compared, wherever they were made.
//! **Invariant:** the sum of a dot product has a fixed order, so equal vectors give equal scores.

/// No row.
const NONE: u32 = u32::MAX;
/// Independent sums, so that the additions of one step do not wait for each other.
const LANES: usize = 16;

/// The vectors of one project, by slot.
#[derive(Default)]
pub(crate) struct Dense {
    dimensions: usize,
    rows: Vec<f32>,
    /// Row to slot.
    slots: Vec<u32>,
    /// Slot to row.
    row_of: Vec<u32>,
}

impl Dense {
    /// Floats of a row; zero while there is none.
    pub(crate) fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Vectors.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether a vector of `dimensions` fits beside the others.
    pub(crate) fn fits(&self, dimensions: usize) -> bool {
        dimensions > 0 && (self.slots.is_empty() || self.dimensions == dimensions)
    }

    /// Sets the vector of `slot`; `unit` must fit and have length one.
    pub(crate) fn set(&mut self, slot: u32, unit: &[f32]) {
        if self.slots.is_empty() {
            self.dimensions = unit.len();
        }
        if self.row_of.len() <= slot as usize {
            self.row_of.resize(slot as usize + 1, NONE);
        }
        let row = self.row_of[slot as usize];
        if row == NONE {
            // Rows are fewer than slots, which are u32.
            self.row_of[slot as usize] = u32::try_from(self.slots.len()).unwrap_or(NONE);
            self.slots.push(slot);
            self.rows.extend_from_slice(unit);
        } else {
            let start = row as usize * self.dimensions;
            self.rows[start..start + self.dimensions].copy_from_slice(unit);
        }
    }

    /// Drops the vector of `slot`; the last row moves into its place.
    pub(crate) fn remove(&mut self, slot: u32) {
        let Some(row) = self.row_of.get_mut(slot as usize).filter(|row| **row != NONE).map(|row| {
            let at = *row as usize;
            *row = NONE;
            at
        }) else {
            return;
        };
        let last = self.slots.len() - 1;
        self.rows.copy_within(last * self.dimensions.., row * self.dimensions);
        self.rows.truncate(last * self.dimensions);
        self.slots.swap_remove(row);
        if let Some(&moved) = self.slots.get(row) {
            self.row_of[moved as usize] = u32::try_from(row).unwrap_or(NONE);
        }
    }

    /// The vector of `slot`.
    pub(crate) fn row(&self, slot: u32) -> Option<&[f32]> {
        let row = *self.row_of.get(slot as usize).filter(|row| **row != NONE)? as usize;
        Some(&self.rows[row * self.dimensions..(row + 1) * self.dimensions])
    }

    /// Calls `each` with every slot and its similarity to `unit`, which must fit.
    pub(crate) fn scan(&self, unit: &[f32], mut each: impl FnMut(u32, f32)) {
        for (row, &slot) in self.rows.chunks_exact(self.dimensions.max(1)).zip(&self.slots) {
            each(slot, dot(row, unit));
        }
    }
}

/// Similarities are compared in steps of this: stores sum in another order, and what ties in one must tie in all.
const STEPS: f32 = 100_000.0;

/// The similarity as it is compared.
pub(crate) fn rounded(similarity: f32) -> f32 {
    // The cast cuts off, and saturates; a similarity lies between -1 and 1.
    #[expect(clippy::cast_possible_truncation, reason = "see above")]
    let steps = (similarity * STEPS + 0.5_f32.copysign(similarity)) as i32;
    steps as f32 / STEPS
}

/// The dot product of two vectors of the same length.
pub(crate) fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (mut left, mut right) = (left.chunks_exact(LANES), right.chunks_exact(LANES));
    for (left, right) in left.by_ref().zip(right.by_ref()) {
        for lane in 0..LANES {
            sums[lane] += left[lane] * right[lane];
        }
    }
    let tail: f32 = left.remainder().iter().zip(right.remainder()).map(|(left, right)| left * right).sum();
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0] + tail
}

/// `vector` with length one; `None` when it has no direction.
pub(crate) fn unit(mut vector: Vec<f32>) -> Option<Vec<f32>> {
    let norm = dot(&vector, &vector).sqrt();
    if !norm.is_finite() || norm < 1e-12 {
        return None;
    }
    for value in &mut vector {
        *value /= norm;
    }
    Some(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_products_of_any_length() {
        for length in [1, 7, 16, 17, 384] {
            let left: Vec<f32> = (0..length).map(|n| n as f32 / 7.0).collect();
            let right: Vec<f32> = (0..length).map(|n| 1.0 - n as f32 / 5.0).collect();
            let expect: f64 = left.iter().zip(&right).map(|(l, r)| f64::from(*l) * f64::from(*r)).sum();
            assert!((f64::from(dot(&left, &right)) - expect).abs() <= expect.abs() * 1e-5 + 1e-6);
        }
    }

    #[test]
    fn rows_move_and_stay_with_their_slot() {
        let mut dense = Dense::default();
        for slot in [0, 2, 5] {
            dense.set(slot, &[slot as f32, 1.0]);
        }
        dense.remove(0);
        dense.remove(0);
        dense.remove(1);
        dense.set(2, &[9.0, 9.0]);
        assert_eq!(dense.row(0), None);
        assert_eq!(dense.row(2), Some(&[9.0, 9.0][..]));
        assert_eq!(dense.row(5), Some(&[5.0, 1.0][..]));
        let mut seen = Vec::new();
        dense.scan(&[1.0, 0.0], |slot, score| seen.push((slot, score)));
        seen.sort_by_key(|(slot, _)| *slot);
        assert_eq!(seen, [(2, 9.0), (5, 5.0)]);
        dense.remove(5);
        dense.remove(2);
        assert_eq!(dense.len(), 0);
        assert!(dense.fits(3), "an empty index takes any dimension");
    }

    #[test]
    fn units() {
        assert_eq!(unit(vec![3.0, 4.0]), Some(vec![0.6, 0.8]));
        for bad in [vec![], vec![0.0, 0.0], vec![f32::NAN], vec![f32::INFINITY, 1.0]] {
            assert_eq!(unit(bad), None);
        }
    }
}
