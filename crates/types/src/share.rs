//! A part of a whole, as people write it: `5%`.
//!
//! **Invariant:** above nothing, and all at most.

use std::{fmt, str::FromStr};

/// Hundredths of a percent in a whole.
const WHOLE: u32 = 10_000;

/// A share above 0 % and up to 100 %, in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(u32);

impl Share {
    /// All of it.
    pub const ALL: Self = Self(WHOLE);

    /// Whether a draw, evenly spread over all numbers, falls into the share.
    pub fn holds(self, draw: u64) -> bool {
        // The upper half of the product spreads the draw over the whole without a bias that counts.
        (u128::from(draw) * u128::from(WHOLE)) >> 64 < u128::from(self.0)
    }
}

impl FromStr for Share {
    type Err = ();

    /// Reads `5%` or `0.25%`: at most two digits after the point.
    fn from_str(text: &str) -> Result<Self, ()> {
        let number = text.strip_suffix('%').ok_or(())?;
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str, most: usize| {
            (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !digits(whole, 3) || !digits(part, 2) {
            return Err(());
        }
        let whole: u32 = whole.parse().map_err(drop)?;
        let part: u32 = format!("{part:0<2}").parse().map_err(drop)?;
        let share = whole * 100 + part;
        if (1..=WHOLE).contains(&share) { Ok(Self(share)) } else { Err(()) }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 100 {
            0 => write!(out, "{}%", self.0 / 100),
            part if part % 10 == 0 => write!(out, "{}.{}%", self.0 / 100, part / 10),
            part => write!(out, "{}.{part:02}%", self.0 / 100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_read_as_it_is_written() {
        for text in ["5%", "100%", "0.01%", "12.5%", "99.99%"] {
            assert_eq!(text.parse::<Share>().unwrap().to_string(), text);
        }
        for text in ["", "5", "0%", "0.00%", "100.01%", "-1%", "1e1%", "5 %", "1.234%", ".5%", "5.%", "999%", "٣%"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    #[test]
    fn it_holds_that_part_of_all_draws() {
        let five: Share = "5%".parse().unwrap();
        assert!(five.holds(0) && five.holds(u64::MAX / 100 * 4) && !five.holds(u64::MAX / 100 * 6));
        assert!(Share::ALL.holds(u64::MAX));
    }
}
