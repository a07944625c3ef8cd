//! Money in integer micro-dollars, and tokens.
//!
//! **Invariant:** an unknown price is `None`, never zero.

use std::{fmt, iter::Sum, ops};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Millionths of a US dollar. Serialises as dollars (`0.000123`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MicroUsd(pub u64);

impl MicroUsd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Dollars, rounded to the nearest millionth; `None` when negative, not finite or too large.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked before")]
    pub fn from_usd(usd: f64) -> Option<Self> {
        let micros = (usd * 1e6).round();
        (micros.is_finite() && (0.0..9e15).contains(&micros)).then_some(Self(micros as u64))
    }

    /// As dollars, for display.
    pub fn as_usd(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// The difference, at least zero.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl ops::Add for MicroUsd {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl ops::AddAssign for MicroUsd {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for MicroUsd {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, |sum, it| sum + it)
    }
}

impl fmt::Display for MicroUsd {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "${}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

impl Serialize for MicroUsd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.as_usd())
    }
}

impl<'de> Deserialize<'de> for MicroUsd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_usd(f64::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("not an amount of dollars"))
    }
}

/// What one call, attempt or run consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens sent.
    pub input_tokens: u64,
    /// Tokens received, reasoning included.
    pub output_tokens: u64,
    /// Part of the input that the provider read from its cache.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cached_tokens: u64,
    /// Part of the output that was reasoning.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reasoning_tokens: u64,
    /// The provider sent no usage; the figures are our estimate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form serde asks for")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
        self.reasoning_tokens = self.reasoning_tokens.saturating_add(other.reasoning_tokens);
        self.estimated = self.estimated || other.estimated;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_are_exact_to_the_millionth() {
        assert_eq!(MicroUsd::from_usd(0.1), Some(MicroUsd(100_000)));
        assert_eq!(MicroUsd(1_234_567).to_string(), "$1.234567");
        for bad in [-0.1, f64::NAN, f64::INFINITY, 1e30] {
            assert_eq!(MicroUsd::from_usd(bad), None);
        }
    }
}
