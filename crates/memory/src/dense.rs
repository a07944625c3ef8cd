//! Exact cosine similarity over unit vectors: most rows are ruled out by the first bits of their numbers.
//!
//! **Invariant:** every row has length one, so the cosine is a dot product.
//! **Invariant:** similarities are rounded before they are compared, wherever they were made.
//! **Invariant:** the sum of a dot product has a fixed order, so equal vectors give equal scores.

use std::{cmp::Reverse, collections::BinaryHeap, fmt};

use crate::planes::{Planes, Probe};

/// No row.
const NONE: u32 = u32::MAX;
/// Independent sums, so that the additions of one step do not wait for each other.
pub(crate) const LANES: usize = 16;

/// Vectors of memories that are read from a database, by row.
#[derive(Default)]
pub struct Vectors {
    rows: Vec<u64>,
    planes: Planes,
    unit: Vec<f32>,
    unfit: usize,
}

impl fmt::Debug for Vectors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Vectors").field("rows", &self.rows.len()).finish_non_exhaustive()
    }
}

impl Vectors {
    /// Adds the vector of the memory in `row`, unless it has another length than the first, or no direction.
    pub fn push(&mut self, row: u64, vector: &[f32]) {
        self.unit.clear();
        self.unit.extend_from_slice(vector);
        let fits = !vector.is_empty() && (self.rows.is_empty() || self.planes.width() == vector.len());
        if fits && make_unit(&mut self.unit) {
            self.rows.push(row);
            self.planes.push(&self.unit);
        } else {
            self.unfit += 1;
        }
    }

    /// The vectors of those memories that have a slot, and how many did not fit.
    pub(crate) fn placed(mut self, slot_of: impl Fn(u64) -> Option<u32>) -> (Dense, usize) {
        let (mut slots, mut row_of) = (Vec::with_capacity(self.rows.len()), Vec::new());
        while let Some(row) = self.rows.get(slots.len()) {
            let Some(slot) = slot_of(*row) else {
                self.rows.swap_remove(slots.len());
                self.planes.swap_remove(slots.len());
                continue;
            };
            if row_of.len() <= slot as usize {
                row_of.resize(slot as usize + 1, NONE);
            }
            // Rows are fewer than slots, which are u32.
            row_of[slot as usize] = u32::try_from(slots.len()).unwrap_or(NONE);
            slots.push(slot);
        }
        self.planes.shrink();
        (Dense { rows: self.planes, slots, row_of }, self.unfit)
    }
}

/// The vectors of one project, by slot.
#[derive(Default)]
pub(crate) struct Dense {
    rows: Planes,
    /// Row to slot.
    slots: Vec<u32>,
    /// Slot to row.
    row_of: Vec<u32>,
}

impl Dense {
    /// Numbers of a vector; zero while there is none.
    pub(crate) fn dimensions(&self) -> usize {
        self.rows.width()
    }

    /// Vectors.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether a vector of `dimensions` fits beside the others.
    pub(crate) fn fits(&self, dimensions: usize) -> bool {
        dimensions > 0 && (self.slots.is_empty() || self.dimensions() == dimensions)
    }

    /// Sets the vector of `slot`; `unit` must fit and have length one.
    pub(crate) fn set(&mut self, slot: u32, unit: &[f32]) {
        if self.row_of.len() <= slot as usize {
            self.row_of.resize(slot as usize + 1, NONE);
        }
        let row = self.row_of[slot as usize];
        if row == NONE {
            // Rows are fewer than slots, which are u32.
            self.row_of[slot as usize] = u32::try_from(self.slots.len()).unwrap_or(NONE);
            self.slots.push(slot);
            self.rows.push(unit);
        } else {
            self.rows.set(row as usize, unit);
        }
    }

    /// Drops the vector of `slot`; the last row moves into its place.
    pub(crate) fn remove(&mut self, slot: u32) {
        let Some(row) = self.row(slot) else { return };
        self.row_of[slot as usize] = NONE;
        self.rows.swap_remove(row);
        self.slots.swap_remove(row);
        if let Some(&moved) = self.slots.get(row) {
            self.row_of[moved as usize] = u32::try_from(row).unwrap_or(NONE);
        }
    }

    /// The vector of `slot`.
    pub(crate) fn vector(&self, slot: u32) -> Option<Vec<f32>> {
        Some(self.rows.row(self.row(slot)?))
    }

    /// The similarity of `slot`, rounded; `probe` must fit.
    pub(crate) fn similarity(&self, slot: u32, probe: &Probe) -> Option<f32> {
        Some(rounded(self.rows.similarity(self.row(slot)?, probe)))
    }

    /// Calls `each` with the similarity, rounded, of the `depth` nearest slots of those that are admitted, and of some more
    /// of them. `probe` must fit.
    pub(crate) fn near(
        &self,
        probe: &Probe,
        depth: usize,
        admits: impl Fn(u32) -> bool,
        mut each: impl FnMut(u32, f32),
    ) {
        // The greatest of what similarities are at least, in steps.
        let mut surely = BinaryHeap::with_capacity(depth.min(self.len()));
        // What is below is below so many others, also when both are rounded.
        let mut enough = f32::NEG_INFINITY;
        let mut maybe = Vec::new();
        for (row, ((estimate, error), &slot)) in self.rows.estimates(probe).zip(&self.slots).enumerate() {
            let most = estimate + error;
            if most < enough || !admits(slot) {
                continue;
            }
            maybe.push((row, most));
            surely.push(Reverse(steps(estimate - error)));
            if surely.len() > depth {
                surely.pop();
            }
            if surely.len() == depth {
                enough = surely.peek().map_or(enough, |least| (least.0 - 1) as f32 / STEPS);
            }
        }
        for (row, most) in maybe {
            if most >= enough {
                each(self.slots[row], rounded(self.rows.similarity(row, probe)));
            }
        }
    }

    fn row(&self, slot: u32) -> Option<usize> {
        self.row_of.get(slot as usize).filter(|row| **row != NONE).map(|row| *row as usize)
    }
}

/// Similarities are compared in steps of this: stores sum in another order, and what ties in one must tie in all.
const STEPS: f32 = 100_000.0;

/// The similarity as it is compared.
pub(crate) fn rounded(similarity: f32) -> f32 {
    steps(similarity) as f32 / STEPS
}

/// The same in steps.
fn steps(similarity: f32) -> i32 {
    // The cast cuts off, and saturates; a similarity lies between -1 and 1.
    #[expect(clippy::cast_possible_truncation, reason = "see above")]
    let steps = (similarity * STEPS + 0.5_f32.copysign(similarity)) as i32;
    steps
}

/// The dot product of two vectors of the same length.
pub(crate) fn dot(left: &[f32], right: &[f32]) -> f32 {
    let ((left, left_rest), (right, right_rest)) = (left.as_chunks(), right.as_chunks());
    let mut sums = Sums::default();
    for (left, right) in left.iter().zip(right) {
        sums.add(left, right);
    }
    sums.total(left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum())
}

/// A dot product that is being added up.
#[derive(Default)]
pub(crate) struct Sums([f32; LANES]);

impl Sums {
    #[inline]
    pub(crate) fn add(&mut self, left: &[f32; LANES], right: &[f32; LANES]) {
        for lane in 0..LANES {
            self.0[lane] += left[lane] * right[lane];
        }
    }

    /// With `rest`, the products that did not fill the lanes.
    pub(crate) fn total(mut self, rest: f32) -> f32 {
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                self.0[lane] += self.0[lane + width];
            }
            width /= 2;
        }
        self.0[0] + rest
    }
}

/// `vector` with length one; `None` when it has no direction.
pub(crate) fn unit(mut vector: Vec<f32>) -> Option<Vec<f32>> {
    make_unit(&mut vector).then_some(vector)
}

/// Gives `vector` length one; false when it has no direction.
fn make_unit(vector: &mut [f32]) -> bool {
    let norm = dot(vector, vector).sqrt();
    if !norm.is_finite() || norm < 1e-12 {
        return false;
    }
    for value in vector {
        *value /= norm;
    }
    true
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
        let of = |slot: u16| unit(vec![f32::from(slot), 1.0]).unwrap();
        for slot in [0, 2, 5] {
            dense.set(slot.into(), &of(slot));
        }
        dense.remove(0);
        dense.remove(0);
        dense.remove(1);
        dense.set(2, &of(9));
        assert_eq!(dense.vector(0), None);
        assert_eq!(dense.vector(2), Some(of(9)));
        assert_eq!(dense.vector(5), Some(of(5)));
        let probe = Probe::new(vec![1.0, 0.0]);
        assert_eq!(dense.similarity(5, &probe), Some(rounded(of(5)[0])));
        dense.remove(5);
        dense.remove(2);
        assert_eq!(dense.len(), 0);
        assert!(dense.fits(3), "an empty index takes any dimension");
    }

    #[test]
    fn vectors_of_a_database_get_their_slots() {
        let of = |row: u16| vec![f32::from(row), 1.0];
        let mut vectors = Vectors::default();
        for row in [9, 3, 4, 8, 5] {
            vectors.push(row.into(), &of(row));
        }
        for unfit in [vec![], vec![1.0; 3], vec![0.0, 0.0], vec![f32::NAN, 1.0]] {
            vectors.push(6, &unfit);
        }
        // Rows 9 and 5 are of no memory.
        let (mut dense, unfit) = vectors.placed(|row| [8, 3, 4].iter().position(|it| *it == row)?.try_into().ok());
        assert_eq!((dense.len(), unfit), (3, 4));
        for (slot, row) in [(0, 8), (1, 3), (2, 4)] {
            assert_eq!(dense.vector(slot), unit(of(row)));
        }
        dense.remove(1);
        assert_eq!((dense.vector(1), dense.vector(2)), (None, unit(of(4))));
        assert_eq!(Vectors::default().placed(|_| None).0.len(), 0);
    }

    #[test]
    fn the_nearest_are_those_of_an_exact_search() {
        let mut random = fastrand::Rng::with_seed(4);
        let mut draw = |width: usize| unit((0..width).map(|_| random.f32() - 0.5).collect()).unwrap();
        for width in [3, 40] {
            let mut dense = Dense::default();
            let (base, slots) = (draw(width), 0..3_000);
            for slot in slots.clone() {
                // Every third is as another was, so that there are ties.
                let vector = if slot % 3 == 2 { dense.vector(slot - 2).unwrap() } else { draw(width) };
                let near = slot % 7 == 0;
                let vector =
                    if near { vector.iter().zip(&base).map(|(it, base)| it / 50.0 + base).collect() } else { vector };
                dense.set(slot, &unit(vector).unwrap());
            }
            for (depth, every) in [(0, 1), (1, 1), (20, 1), (20, 100), (200, 2), (4_000, 1)] {
                let admits = |slot: u32| slot.is_multiple_of(every);
                let probe = Probe::new(base.clone());
                let (mut found, mut asked) = (Vec::new(), 0);
                dense.near(&probe, depth, admits, |slot, similarity| {
                    found.push((Reverse(steps(similarity)), slot));
                    asked += 1;
                });
                found.sort_unstable();
                found.truncate(depth);
                let mut all: Vec<_> = slots.clone().filter(|slot| admits(*slot)).collect();
                all.sort_unstable_by_key(|slot| (Reverse(steps(dense.similarity(*slot, &probe).unwrap())), *slot));
                all.truncate(depth);
                assert_eq!(found.iter().map(|(_, slot)| *slot).collect::<Vec<_>>(), all, "{width} {depth} {every}");
                assert!(depth != 20 || asked < 1_000, "{asked} rows were read whole");
            }
        }
    }

    #[test]
    fn units() {
        assert_eq!(unit(vec![3.0, 4.0]), Some(vec![0.6, 0.8]));
        for bad in [vec![], vec![0.0, 0.0], vec![f32::NAN], vec![f32::INFINITY, 1.0]] {
            assert_eq!(unit(bad), None);
        }
    }
}
