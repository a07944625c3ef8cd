//! Wallets inside wallets: what a task may spend is part of what its run may, which is part of what the project may.
//!
//! **Invariant:** in every account with a cap `spent + reserved ≤ cap` at every step, as long as no call costs more than was
//! reserved for it; a call passes only when every account above it has room.
//! **Invariant:** a reservation that is refused changes nothing anywhere.

use crewline_types::MicroUsd;

use super::{Refused, Reservation, Wallet};

/// Names an account of [`Accounts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(usize);

#[derive(Debug)]
struct Account {
    wallet: Wallet,
    above: Option<AccountId>,
}

/// A tree of wallets. One lock around it makes every step atomic.
#[derive(Debug, Default)]
pub struct Accounts {
    all: Vec<Account>,
}

/// Money set aside in an account and in all above it. Give it back with [`Accounts::settle`] or [`Accounts::refund`]; when
/// it is lost, the money stays reserved, which is the safe side.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a hold that is dropped stays reserved for ever"]
pub struct Hold {
    account: AccountId,
    worst: Option<MicroUsd>,
    /// What comes back of it.
    back: MicroUsd,
}

impl Hold {
    /// The most the call may cost; `None` when its price is unknown.
    pub fn worst(&self) -> Option<MicroUsd> {
        self.worst
    }

    /// Its part in each of its accounts.
    fn reservation(&self) -> Reservation {
        Reservation { worst: self.worst, back: self.back }
    }
}

/// Why a call may not be made, and which account has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{refused}")]
pub struct NoRoom {
    /// The account.
    pub account: AccountId,
    /// Why.
    #[source]
    pub refused: Refused,
}

impl Accounts {
    /// An account below `above`, of which `spent` is gone already; the accounts above are opened with that counted in.
    pub fn open(&mut self, above: Option<AccountId>, cap: Option<MicroUsd>, spent: MicroUsd) -> AccountId {
        let id = AccountId(self.all.len());
        // An account of another tree is none of this one.
        let above = above.filter(|it| it.0 < id.0);
        self.all.push(Account { wallet: Wallet::new(cap, spent), above });
        id
    }

    /// The account's own wallet.
    pub fn wallet(&self, account: AccountId) -> Option<&Wallet> {
        self.all.get(account.0).map(|it| &it.wallet)
    }

    /// Sets aside the most a call may cost, in `account` and in all above it.
    pub fn reserve(&mut self, account: AccountId, worst: Option<MicroUsd>) -> Result<Hold, NoRoom> {
        let path: Vec<AccountId> = self.path(account).collect();
        for (place, at) in path.iter().enumerate() {
            let Some(found) = self.all.get_mut(at.0) else { continue };
            match found.wallet.reserve(worst) {
                // The hold speaks for the reservations of all its accounts.
                Ok(Reservation { .. }) => {}
                Err(refused) => {
                    for done in &path[..place] {
                        self.give_back(*done, Reservation { worst, back: MicroUsd::ZERO });
                    }
                    return Err(NoRoom { account: *at, refused });
                }
            }
        }
        Ok(Hold { account, worst, back: MicroUsd::ZERO })
    }

    /// A call has ended, in the account and in all above it; see [`Wallet::end`].
    pub fn end(&mut self, hold: &mut Hold, actual: Option<MicroUsd>) {
        let path: Vec<AccountId> = self.path(hold.account).collect();
        let before = hold.back;
        for at in path {
            if let Some(found) = self.all.get_mut(at.0) {
                let mut reservation = Reservation { worst: hold.worst, back: before };
                found.wallet.end(&mut reservation, actual);
                hold.back = reservation.back;
            }
        }
    }

    /// What a call cost is recorded, in the account and in all above it; see [`Wallet::settle`].
    #[expect(clippy::needless_pass_by_value, reason = "a hold is used up")]
    pub fn settle(&mut self, hold: Hold, actual: Option<MicroUsd>) {
        let path: Vec<AccountId> = self.path(hold.account).collect();
        for at in path {
            if let Some(found) = self.all.get_mut(at.0) {
                found.wallet.settle(hold.reservation(), actual);
            }
        }
    }

    /// Gives back what a call reserved that was never sent.
    #[expect(clippy::needless_pass_by_value, reason = "a hold is used up")]
    pub fn refund(&mut self, hold: Hold) {
        let path: Vec<AccountId> = self.path(hold.account).collect();
        for at in path {
            self.give_back(at, hold.reservation());
        }
    }

    /// What may still be reserved in `account`: the least of what it and all above it have left; `None` without any cap.
    pub fn remaining(&self, account: AccountId) -> Option<MicroUsd> {
        self.path(account).filter_map(|it| self.wallet(it)?.remaining()).min()
    }

    fn give_back(&mut self, account: AccountId, reservation: Reservation) {
        if let Some(found) = self.all.get_mut(account.0) {
            found.wallet.refund(reservation);
        }
    }

    /// The account and all above it.
    fn path(&self, account: AccountId) -> impl Iterator<Item = AccountId> + '_ {
        std::iter::successors(Some(account).filter(|it| it.0 < self.all.len()), |it| self.all.get(it.0)?.above)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    };

    use super::*;
    use crate::schedule::simulation::Rng;

    fn below(accounts: &mut Accounts, above: Option<AccountId>, cap: Option<u64>) -> AccountId {
        accounts.open(above, cap.map(MicroUsd), MicroUsd::ZERO)
    }

    #[test]
    fn every_account_above_must_have_room() {
        let mut accounts = Accounts::default();
        let project = below(&mut accounts, None, Some(100));
        let run = below(&mut accounts, Some(project), None);
        let [first, second] = [Some(80), Some(80)].map(|cap| below(&mut accounts, Some(run), cap));
        let hold = accounts.reserve(first, Some(MicroUsd(70))).unwrap();
        let refused = accounts.reserve(second, Some(MicroUsd(31))).unwrap_err();
        assert_eq!(refused.account, project);
        assert_eq!(accounts.wallet(second).unwrap().reserved(), MicroUsd::ZERO, "nothing is left behind");
        assert_eq!(accounts.remaining(second), Some(MicroUsd(30)));
        accounts.settle(hold, Some(MicroUsd(10)));
        assert_eq!(accounts.reserve(first, Some(MicroUsd(71))).unwrap_err().account, first);
        let hold = accounts.reserve(second, Some(MicroUsd(31))).unwrap();
        accounts.refund(hold);
        for account in [project, run, first] {
            assert_eq!(accounts.wallet(account).unwrap().spent(), MicroUsd(10));
        }
        assert_eq!(accounts.reserve(second, None).unwrap_err().refused, Refused::UnknownPrice);
    }

    /// A project, runs and tasks with random caps; the books are kept twice and compared at each step.
    #[test]
    fn no_account_is_ever_overspent_in_any_order() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut accounts = Accounts::default();
            let cap = |rng: &mut Rng, most: u64| (rng.below(4) > 0).then(|| rng.below(most));
            let most = cap(&mut rng, 3_000);
            let mut all = vec![(below(&mut accounts, None, most), most, None)];
            for place in 1..12 {
                let above = if place < 4 { 0 } else { 1 + rng.index(3) };
                let most = cap(&mut rng, if place < 4 { 2_000 } else { 900 });
                all.push((below(&mut accounts, Some(all[above].0), most), most, Some(above)));
            }
            let mut books = vec![(0_u64, 0_u64); all.len()];
            let mut open: Vec<(usize, Hold)> = Vec::new();
            for _ in 0..300 {
                let path = |from: usize| std::iter::successors(Some(from), |it| all[*it].2).collect::<Vec<_>>();
                if rng.below(2) == 0 || open.is_empty() {
                    let (from, asked) = (rng.index(all.len()), rng.below(300));
                    let fits = path(from).iter().all(|it| {
                        asked == 0 || all[*it].1.is_none_or(|cap| books[*it].0 + books[*it].1 + asked <= cap)
                    });
                    let answer = accounts.reserve(all[from].0, Some(MicroUsd(asked)));
                    assert_eq!(answer.is_ok(), fits, "seed {seed}");
                    if let Ok(hold) = answer {
                        for it in path(from) {
                            books[it].1 += asked;
                        }
                        open.push((from, hold));
                    }
                } else {
                    let (from, mut hold) = open.swap_remove(rng.index(open.len()));
                    let worst = hold.worst().unwrap().0;
                    let actual = rng.below(worst + 1);
                    let before = accounts.remaining(all[from].0);
                    if rng.below(2) == 0 {
                        accounts.end(&mut hold, Some(MicroUsd(actual)));
                        let after = accounts.remaining(all[from].0);
                        assert_eq!(
                            after.zip(before).map(|(it, before)| it.0 - before.0),
                            after.map(|_| worst - actual)
                        );
                        for it in path(from) {
                            assert_eq!(accounts.wallet(all[it].0).unwrap().reserved().0, books[it].1, "seed {seed}");
                        }
                    }
                    for it in path(from) {
                        books[it].1 -= worst;
                    }
                    if rng.below(4) == 0 {
                        accounts.refund(hold);
                    } else {
                        for it in path(from) {
                            books[it].0 += actual;
                        }
                        accounts.settle(hold, Some(MicroUsd(actual)));
                    }
                }
                for ((account, cap, _), book) in all.iter().zip(&books) {
                    let wallet = accounts.wallet(*account).unwrap();
                    assert_eq!((wallet.spent().0, wallet.reserved().0), *book, "seed {seed}");
                    assert!(cap.is_none_or(|cap| book.0 + book.1 <= cap), "seed {seed}: over the cap");
                }
            }
        }
    }

    #[test]
    fn a_thousand_at_once_do_not_overspend_by_a_micro_dollar() {
        const CAP: u64 = 20_000;
        let mut accounts = Accounts::default();
        let project = below(&mut accounts, None, Some(CAP));
        let runs: Vec<AccountId> = (0..4).map(|_| below(&mut accounts, Some(project), Some(CAP / 2))).collect();
        let accounts = Mutex::new(accounts);
        let (granted, spent) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for worker in 0..8_u64 {
                let (accounts, runs, granted, spent) = (&accounts, &runs, &granted, &spent);
                scope.spawn(move || {
                    let mut rng = Rng::new(worker);
                    for _ in 0..1_000 {
                        let (run, worst) = (runs[rng.index(runs.len())], rng.below(50) + 1);
                        let Ok(hold) = accounts.lock().unwrap().reserve(run, Some(MicroUsd(worst))) else { continue };
                        granted.fetch_add(1, Ordering::Relaxed);
                        let actual = rng.below(worst + 1);
                        std::thread::yield_now();
                        let mut accounts = accounts.lock().unwrap();
                        accounts.settle(hold, Some(MicroUsd(actual)));
                        spent.fetch_add(actual, Ordering::Relaxed);
                        let wallet = accounts.wallet(project).unwrap();
                        assert!(wallet.spent().0 + wallet.reserved().0 <= CAP);
                    }
                });
            }
        });
        let accounts = accounts.into_inner().unwrap();
        let wallet = accounts.wallet(project).unwrap();
        assert_eq!((wallet.spent().0, wallet.reserved()), (spent.load(Ordering::Relaxed), MicroUsd::ZERO));
        assert!(wallet.spent().0 <= CAP && granted.load(Ordering::Relaxed) > 100);
        for run in runs {
            assert!(accounts.wallet(run).unwrap().spent().0 <= CAP / 2);
        }
    }
}
