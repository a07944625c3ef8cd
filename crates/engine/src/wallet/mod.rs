//! The money of a run: reserved before a call, settled when its end is recorded, never overspent.
//!
//! Whoever goes on after a crash counts a call without a recorded end with its worst case. So the reservation stays until then;
//! what may come back of it is waited for.
//!
//! **Invariant:** with a cap, `spent + reserved ≤ cap` at every step, as long as no call costs more than was reserved for it.
//! **Invariant:** `returning ≤ reserved`.
//! **Invariant:** money is never under-reported: what a call really cost is recorded, even above its reservation or the cap.
//! **Invariant:** an unknown price is unknown, never zero: with a cap such a call is refused.

mod accounts;

use crewline_types::{ErrorKind, MicroUsd};

pub use accounts::{AccountId, Accounts, Hold, NoRoom};

/// Money set aside for one call. Give it back with [`Wallet::settle`] or [`Wallet::refund`]; when it is lost, the money
/// stays reserved, which is the safe side.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a reservation that is dropped stays reserved for ever"]
pub struct Reservation {
    worst: Option<MicroUsd>,
    /// What comes back of it.
    back: MicroUsd,
}

impl Reservation {
    /// The most the call may cost; `None` when its price is unknown.
    pub fn worst(&self) -> Option<MicroUsd> {
        self.worst
    }
}

/// Why a call may not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The call could cost more than is left.
    #[error("the call may cost {asked}, but of {cap} already {spent} are spent and {reserved} reserved")]
    OverBudget {
        /// The cap.
        cap: MicroUsd,
        /// Spent so far.
        spent: MicroUsd,
        /// Reserved by calls whose end is not recorded.
        reserved: MicroUsd,
        /// The most this call may cost.
        asked: MicroUsd,
    },
    /// There is a cap, and the model has no price.
    #[error("the model has no price, so a cap on cost can not be kept")]
    UnknownPrice,
}

impl Refused {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::OverBudget { .. } => ErrorKind::Limit,
            Self::UnknownPrice => ErrorKind::Invalid,
        }
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::OverBudget { .. } => "budget.over",
            Self::UnknownPrice => "budget.unknown_price",
        }
    }

    /// Whether the call may pass once the calls in flight have settled for less than they reserved.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::OverBudget { cap, spent, reserved, asked } => {
                *reserved > MicroUsd::ZERO && spent.0.checked_add(asked.0).is_some_and(|sum| sum <= cap.0)
            }
            Self::UnknownPrice => false,
        }
    }
}

/// The money of one run.
#[derive(Debug)]
pub struct Wallet {
    cap: Option<MicroUsd>,
    spent: MicroUsd,
    reserved: MicroUsd,
    returning: MicroUsd,
}

impl Wallet {
    /// A wallet that may spend `cap` in all, of which `spent` is gone already.
    pub fn new(cap: Option<MicroUsd>, spent: MicroUsd) -> Self {
        Self { cap, spent, reserved: MicroUsd::ZERO, returning: MicroUsd::ZERO }
    }

    /// Sets aside the most a call may cost. A call that costs nothing always passes.
    pub fn reserve(&mut self, worst: Option<MicroUsd>) -> Result<Reservation, Refused> {
        let asked = worst.unwrap_or_default();
        if let Some(cap) = self.cap {
            if worst.is_none() {
                return Err(Refused::UnknownPrice);
            }
            let total = self.spent.0.checked_add(self.reserved.0).and_then(|sum| sum.checked_add(asked.0));
            if asked > MicroUsd::ZERO && total.is_none_or(|total| total > cap.0) {
                let Self { spent, reserved, .. } = *self;
                return Err(Refused::OverBudget { cap, spent, reserved, asked });
            }
        }
        self.reserved += asked;
        Ok(Reservation { worst, back: MicroUsd::ZERO })
    }

    /// A call has ended: what it did not cost comes back when that is recorded. `None` as in [`Wallet::settle`].
    pub fn end(&mut self, reservation: &mut Reservation, actual: Option<MicroUsd>) {
        let worst = reservation.worst.unwrap_or_default();
        let back = worst.saturating_sub(actual.unwrap_or(worst));
        self.returning = self.returning.saturating_sub(reservation.back) + back;
        reservation.back = back;
    }

    /// What a call cost is recorded. With `None` (an answer without usage, a call that was cut off) the whole reservation is
    /// spent; a call whose price is unknown adds nothing, and the caller counts it as unpriced.
    pub fn settle(&mut self, reservation: Reservation, actual: Option<MicroUsd>) {
        let worst = reservation.worst;
        self.refund(reservation);
        self.spent += actual.or(worst).unwrap_or_default();
    }

    /// Gives back what a call reserved that was never sent.
    #[expect(clippy::needless_pass_by_value, reason = "a reservation is used up")]
    pub fn refund(&mut self, reservation: Reservation) {
        self.reserved = self.reserved.saturating_sub(reservation.worst.unwrap_or_default());
        self.returning = self.returning.saturating_sub(reservation.back);
    }

    /// Spent so far.
    pub fn spent(&self) -> MicroUsd {
        self.spent
    }

    /// Reserved by calls whose end is not recorded.
    pub fn reserved(&self) -> MicroUsd {
        self.reserved
    }

    /// The most that may be spent.
    pub fn cap(&self) -> Option<MicroUsd> {
        self.cap
    }

    /// What may still be reserved, with what comes back; `None` without a cap.
    pub fn remaining(&self) -> Option<MicroUsd> {
        let kept = self.reserved.saturating_sub(self.returning);
        self.cap.map(|cap| cap.saturating_sub(self.spent + kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::simulation::Rng;

    #[expect(clippy::unnecessary_wraps, reason = "the form that is asked for")]
    fn some(micros: u64) -> Option<MicroUsd> {
        Some(MicroUsd(micros))
    }

    /// A call of the simulation, with what it has cost if it has ended.
    struct Open {
        reservation: Reservation,
        actual: Option<u64>,
    }

    impl Open {
        fn worst(&self) -> u64 {
            self.reservation.worst().unwrap().0
        }

        fn back(&self) -> u64 {
            self.actual.map_or(0, |actual| self.worst() - actual)
        }
    }

    /// Many workers reserve, end, settle and refund in a random order; the books are kept twice and compared at each step.
    /// What a crash would leave in the database is spent and open calls at their worst case, whether they have ended or not.
    fn simulate(seed: u64) -> (u32, u32, u32) {
        let mut rng = Rng::new(seed);
        let cap = rng.below(5_000);
        let already = rng.below(cap + 1);
        let mut wallet = Wallet::new(some(cap), MicroUsd(already));
        let (mut spent, mut open, mut granted, mut refused, mut waiting) = (already, Vec::<Open>::new(), 0, 0, 0);
        for _ in 0..200 {
            let held: u64 = open.iter().map(Open::worst).sum();
            match rng.below(5) {
                0 | 1 => {
                    let asked = rng.below(400);
                    match wallet.reserve(some(asked)) {
                        Ok(reservation) => {
                            granted += 1;
                            open.push(Open { reservation, actual: None });
                        }
                        Err(error) => {
                            refused += 1;
                            assert!(spent + held + asked > cap, "seed {seed}: refused {asked} though it fits");
                            assert_eq!(error.is_retryable(), held > 0 && spent + asked <= cap, "seed {seed}");
                            waiting += u32::from(error.is_retryable());
                        }
                    }
                }
                2 if !open.is_empty() => {
                    let place = rng.index(open.len());
                    let it = &mut open[place];
                    let actual = (rng.below(5) > 0).then(|| rng.below(it.worst() + 1));
                    wallet.end(&mut it.reservation, actual.map(MicroUsd));
                    it.actual = Some(actual.unwrap_or(it.worst()));
                }
                3 if !open.is_empty() => {
                    let it = open.swap_remove(rng.index(open.len()));
                    spent += it.actual.unwrap_or(it.worst());
                    wallet.settle(it.reservation, it.actual.map(MicroUsd));
                }
                4 if !open.is_empty() => wallet.refund(open.swap_remove(rng.index(open.len())).reservation),
                _ => {}
            }
            let held: u64 = open.iter().map(Open::worst).sum();
            let back: u64 = open.iter().map(Open::back).sum();
            assert_eq!((wallet.spent().0, wallet.reserved().0), (spent, held), "seed {seed}");
            assert!(wallet.spent() + wallet.reserved() <= MicroUsd(cap), "seed {seed}: over the cap after a crash");
            assert_eq!(wallet.remaining(), some(cap - spent - held + back), "seed {seed}");
        }
        (granted, refused, waiting)
    }

    #[test]
    fn the_cap_holds_under_any_interleaving() {
        let (mut granted, mut refused, mut waiting) = (0, 0, 0);
        for seed in 0..5_000 {
            let (yes, no, soon) = simulate(seed);
            granted += yes;
            refused += no;
            waiting += soon;
        }
        assert!(
            granted > 50_000 && refused > 50_000 && waiting > 5_000,
            "{granted} granted, {refused} refused, {waiting} of them for a moment: one side is not tested"
        );
    }

    #[test]
    fn the_truth_is_recorded_even_above_the_cap() {
        let mut wallet = Wallet::new(some(100), MicroUsd::ZERO);
        let reservation = wallet.reserve(some(60)).unwrap();
        wallet.settle(reservation, some(150));
        assert_eq!((wallet.spent(), wallet.reserved()), (MicroUsd(150), MicroUsd::ZERO));
        let error = wallet.reserve(some(1)).unwrap_err();
        assert_eq!((error.code(), error.kind(), error.is_retryable()), ("budget.over", ErrorKind::Limit, false));
        assert!(wallet.reserve(some(0)).is_ok(), "a free call costs nothing");
    }

    #[test]
    fn an_unknown_price_is_not_zero() {
        let mut capped = Wallet::new(some(100), MicroUsd::ZERO);
        assert_eq!(capped.reserve(None), Err(Refused::UnknownPrice));
        let mut open = Wallet::new(None, MicroUsd::ZERO);
        let reservation = open.reserve(None).unwrap();
        open.settle(reservation, None);
        let reservation = open.reserve(some(7)).unwrap();
        open.settle(reservation, None);
        assert_eq!((open.spent(), open.remaining()), (MicroUsd(7), None));
    }

    #[test]
    fn sums_do_not_wrap() {
        let mut wallet = Wallet::new(some(u64::MAX), MicroUsd(u64::MAX - 1));
        assert!(wallet.reserve(some(u64::MAX)).is_err());
        let last = wallet.reserve(some(1)).unwrap();
        assert!(wallet.reserve(some(1)).is_err());
        wallet.refund(last);
        assert_eq!(wallet.reserved(), MicroUsd::ZERO);
    }
}
