//! Unit vectors in planes of bits: what every question reads of every row lies together, the rest apart.
//!
//! A number of a row is a whole number of 32 bits, times a power of two that is the row's own. The first eight bits of all its
//! numbers tell how similar a row is, within a bound; only where that leaves it open are the other 24 read.
//!
//! **Invariant:** a row has the similarity of the numbers it was made of to the last bit, unless one is below a 256th of the
//! row's power of two: such a number may lose what is below a 2^31st of that, which the five digits of a similarity do not show.
//! **Invariant:** a similarity is no farther from its estimate than that says.

use crate::dense::{LANES, Sums};

/// Bits behind a head.
const TAIL_BITS: u32 = 24;
/// The bit that is turned, so that numbers have no sign.
const SIGN: u32 = 1 << 31;
/// The head that stands for zero: heads are cut off, not rounded, so each stands for half a step more.
const HEAD_ZERO: f32 = 127.5;

/// Rows of unit vectors of one length.
#[derive(Default)]
pub(crate) struct Planes {
    width: usize,
    /// Heads of a row: its numbers, and zeroes that fill the lanes.
    stride: usize,
    /// The first eight bits of each number, without a sign: 128 is zero.
    heads: Vec<u8>,
    /// The next sixteen.
    bodies: Vec<u16>,
    /// The last eight.
    tails: Vec<u8>,
    measures: Vec<Measure>,
}

/// What the numbers of a row are worth.
#[derive(Clone, Copy, Default)]
struct Measure {
    /// What a step of a number is worth: a power of two, so that it costs no bit.
    step: f32,
    /// The length of the difference between the row and what its heads say.
    error: f32,
}

/// A question's unit vector, made ready for many rows.
pub(crate) struct Probe {
    unit: Vec<f32>,
    /// The same in whole numbers, so small that no sum of products with heads overflows, and zeroes that fill the lanes.
    numbers: Vec<i16>,
    /// What a step of them is worth.
    step: f32,
    /// The length of the difference between the two.
    error: f32,
    /// What a sum of products with heads is when they all stand for zero.
    zero: f32,
}

impl Probe {
    pub(crate) fn new(unit: Vec<f32>) -> Self {
        let most = greatest(&unit);
        let sum_max = usize::try_from(i32::MAX).unwrap_or(0) / usize::from(u8::MAX);
        let per_number = sum_max / unit.len().max(1);
        let most_number = i16::try_from(per_number).unwrap_or(i16::MAX).max(1);
        let step = most / f32::from(most_number);
        #[expect(clippy::cast_possible_truncation, reason = "at most `most_number`")]
        let mut numbers: Vec<i16> = unit.iter().map(|it| (it / step).round() as i16).collect();
        let error = length(unit.iter().zip(&numbers).map(|(it, number)| it - f32::from(*number) * step));
        let zero = numbers.iter().map(|it| i32::from(*it)).sum::<i32>() as f32 * HEAD_ZERO;
        numbers.resize(unit.len().next_multiple_of(LANES), 0);
        Self { unit, numbers, step, error, zero }
    }
}

impl Planes {
    /// Numbers of a row; zero while there never was one.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub(crate) fn len(&self) -> usize {
        self.measures.len()
    }

    /// Adds a row of length one. The first says how long all are.
    pub(crate) fn push(&mut self, unit: &[f32]) {
        if self.measures.is_empty() {
            self.width = unit.len();
            self.stride = unit.len().next_multiple_of(LANES);
        }
        let row = self.len();
        self.heads.resize((row + 1) * self.stride, 0);
        self.bodies.resize((row + 1) * self.width, 0);
        self.tails.resize((row + 1) * self.width, 0);
        self.measures.push(Measure::default());
        self.set(row, unit);
    }

    /// Writes a row, which is there.
    pub(crate) fn set(&mut self, row: usize, unit: &[f32]) {
        let (start, end) = (row * self.width, (row + 1) * self.width);
        let heads = row * self.stride..row * self.stride + self.width;
        let step = power_above(greatest(unit)) / SIGN as f32;
        let steps = step.recip();
        let places =
            self.heads[heads.clone()].iter_mut().zip(&mut self.bodies[start..end]).zip(&mut self.tails[start..end]);
        for (((head, body), tail), number) in places.zip(unit) {
            // Cut off where it has more bits; a power of two leaves room for the greatest.
            #[expect(clippy::cast_possible_truncation, reason = "see above")]
            let [first, second, third, fourth] = (((number * steps) as i32).cast_unsigned() ^ SIGN).to_be_bytes();
            (*head, *body, *tail) = (first, u16::from_be_bytes([second, third]), fourth);
        }
        self.measures[row] = Measure { step, error: error_of(&self.heads[heads], unit, step) };
    }

    /// Gives back the room that no row takes.
    pub(crate) fn shrink(&mut self) {
        self.heads.shrink_to_fit();
        self.bodies.shrink_to_fit();
        self.tails.shrink_to_fit();
        self.measures.shrink_to_fit();
    }

    /// Drops a row; the last moves into its place.
    pub(crate) fn swap_remove(&mut self, row: usize) {
        self.measures.swap_remove(row);
        let last = self.measures.len();
        swap_remove(&mut self.heads, row * self.stride, last * self.stride);
        swap_remove(&mut self.bodies, row * self.width, last * self.width);
        swap_remove(&mut self.tails, row * self.width, last * self.width);
    }

    /// The numbers of a row.
    pub(crate) fn row(&self, row: usize) -> Vec<f32> {
        let step = self.measures[row].step;
        let (head, rest) = (row * self.stride, row * self.width);
        (0..self.width)
            .map(|at| whole(self.heads[head + at], self.bodies[rest + at], self.tails[rest + at]) as f32 * step)
            .collect()
    }

    /// What the heads say of the similarity of each row, row by row, and how far off that may be.
    pub(crate) fn estimates<'a>(&'a self, probe: &'a Probe) -> impl Iterator<Item = (f32, f32)> + 'a {
        // What sums of floats may be off, both here and in `similarity`.
        let slack = probe.error + (self.width + LANES) as f32 * f32::EPSILON;
        let head_steps = probe.step * (1_u32 << TAIL_BITS) as f32;
        self.heads.chunks_exact(self.stride.max(1)).zip(&self.measures).map(move |(heads, measure)| {
            let similarity = (products(heads, &probe.numbers) as f32 - probe.zero) * head_steps * measure.step;
            (similarity, measure.error * (1.0 + probe.error) + slack)
        })
    }

    /// The similarity of a row.
    pub(crate) fn similarity(&self, row: usize, probe: &Probe) -> f32 {
        let (start, end) = (row * self.width, (row + 1) * self.width);
        let (heads, head_rest) = self.heads[row * self.stride..row * self.stride + self.width].as_chunks::<LANES>();
        let (bodies, body_rest) = self.bodies[start..end].as_chunks::<LANES>();
        let (tails, tail_rest) = self.tails[start..end].as_chunks::<LANES>();
        let (unit, unit_rest) = probe.unit.as_chunks::<LANES>();
        let mut sums = Sums::default();
        for (((head, body), tail), unit) in heads.iter().zip(bodies).zip(tails).zip(unit) {
            let mut numbers = [0.0; LANES];
            for lane in 0..LANES {
                numbers[lane] = whole(head[lane], body[lane], tail[lane]) as f32;
            }
            sums.add(&numbers, unit);
        }
        let rest = head_rest.iter().zip(body_rest).zip(tail_rest).zip(unit_rest);
        let rest = rest.map(|(((head, body), tail), unit)| whole(*head, *body, *tail) as f32 * unit).sum();
        // All that was added up is a multiple of this power of two, so the bits are those of a sum of plain numbers.
        sums.total(rest) * self.measures[row].step
    }
}

/// The sum of the products of rows of whole chunks. Apart from its callers and in just this form, the compiler multiplies and
/// adds eight numbers with one instruction.
#[inline(never)]
fn products(heads: &[u8], numbers: &[i16]) -> i32 {
    let mut sums = [0; LANES];
    for (heads, numbers) in heads.as_chunks::<LANES>().0.iter().zip(numbers.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            sums[lane] += i32::from(heads[lane]) * i32::from(numbers[lane]);
        }
    }
    sums.iter().sum()
}

fn whole(head: u8, body: u16, tail: u8) -> i32 {
    ((u32::from(head) << TAIL_BITS | u32::from(body) << u8::BITS | u32::from(tail)) ^ SIGN).cast_signed()
}

/// The length of the difference between a row and what its heads say.
fn error_of(heads: &[u8], unit: &[f32], step: f32) -> f32 {
    let step = step * (1_u32 << TAIL_BITS) as f32;
    let off = |head: u8, number: f32| number - (f32::from(head) - HEAD_ZERO) * step;
    let ((heads, head_rest), (unit, unit_rest)) = (heads.as_chunks::<LANES>(), unit.as_chunks::<LANES>());
    let mut sums = Sums::default();
    for (heads, unit) in heads.iter().zip(unit) {
        let mut offs = [0.0; LANES];
        for lane in 0..LANES {
            offs[lane] = off(heads[lane], unit[lane]);
        }
        sums.add(&offs, &offs);
    }
    sums.total(head_rest.iter().zip(unit_rest).map(|(head, number)| off(*head, *number).powi(2)).sum()).sqrt()
}

/// The greatest of numbers without their signs.
fn greatest(numbers: &[f32]) -> f32 {
    // Bits without a sign are in the order of the numbers, and are compared many at once.
    f32::from_bits(numbers.iter().map(|it| it.abs().to_bits()).max().unwrap_or(0))
}

/// The least power of two above `number`, which is positive and far from the ends of what a float may be.
fn power_above(number: f32) -> f32 {
    let exponent = number.to_bits() >> (f32::MANTISSA_DIGITS - 1);
    f32::from_bits((exponent + 1) << (f32::MANTISSA_DIGITS - 1))
}

fn length(numbers: impl Iterator<Item = f32>) -> f32 {
    numbers.map(|it| it * it).sum::<f32>().sqrt()
}

fn swap_remove<T: Copy>(plane: &mut Vec<T>, to: usize, last: usize) {
    plane.copy_within(last.., to);
    plane.truncate(last);
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use crate::dense::{dot, unit};

    use super::*;

    /// Unit vectors of all kinds: even, flat, of one number, with numbers far below the others.
    fn units(width: usize, random: &mut Rng) -> Vec<Vec<f32>> {
        let mut kinds = vec![vec![1.0; width], vec![-1.0; width], vec![0.0; width]];
        kinds[2][width - 1] = -3.0;
        kinds.extend((0..8).map(|_| (0..width).map(|_| random.f32() - 0.5).collect()));
        kinds.extend((0..8).map(|_| (0..width).map(|_| (random.f32() - 0.5).powi(9)).collect()));
        kinds.into_iter().filter_map(unit).collect()
    }

    fn planes(rows: &[Vec<f32>]) -> Planes {
        let mut planes = Planes::default();
        for row in rows {
            planes.push(row);
        }
        planes
    }

    #[test]
    fn rows_read_back_as_they_were_written() {
        for width in [1, 7, 16, 17, 384] {
            let rows = units(width, &mut Rng::with_seed(1));
            let planes = planes(&rows);
            for (at, row) in rows.iter().enumerate() {
                let power = power_above(greatest(row));
                for (found, number) in planes.row(at).iter().zip(row) {
                    let is_whole = number.abs() >= power / 256.0;
                    assert!(!is_whole || found.to_bits() == number.to_bits(), "{found} {number}");
                    assert!((found - number).abs() < power / SIGN as f32, "{found} {number}");
                }
                let probe = Probe::new(rows[0].clone());
                assert_eq!(planes.similarity(at, &probe).to_bits(), dot(&planes.row(at), &rows[0]).to_bits());
            }
        }
    }

    #[test]
    fn a_similarity_is_within_the_error_of_its_estimate() {
        // At 2,048 a sum of flat vectors would overflow with greater numbers.
        for width in [1, 7, 16, 17, 384, 2_048] {
            let rows = units(width, &mut Rng::with_seed(2));
            let planes = planes(&rows);
            for probe in rows.iter().map(|row| Probe::new(row.clone())) {
                for (row, (estimate, error)) in planes.estimates(&probe).enumerate() {
                    let similarity = planes.similarity(row, &probe);
                    assert!((similarity - estimate).abs() <= error, "{width} {row} {similarity} {estimate} {error}");
                    // A number that stands out makes the steps of all coarse.
                    assert!(error < 0.02 || greatest(&rows[row]) >= 0.25, "{width} {row} {error}");
                }
            }
        }
    }

    #[test]
    fn the_last_row_moves_into_the_place_of_one_that_goes() {
        let rows = units(17, &mut Rng::with_seed(3));
        let (mut shorter, last) = (planes(&rows), rows.len() - 1);
        shorter.swap_remove(1);
        assert_eq!((shorter.len(), shorter.row(1)), (last, planes(&rows).row(last)));
        let probe = Probe::new(rows[3].clone());
        assert_eq!(shorter.estimates(&probe).nth(1), planes(&rows).estimates(&probe).nth(last));
        shorter.swap_remove(last - 1);
        assert_eq!(shorter.row(last - 2), planes(&rows).row(last - 2));
    }
}
