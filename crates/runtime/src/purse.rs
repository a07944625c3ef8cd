//! The money of a run in this process: what all of it may cost, and what each of its tasks may.
//!
//! What all runs of a project may cost together is counted by the database, in the transaction that records a call: other
//! processes spend it, too.
//!
//! **Invariant:** a call is reserved in the accounts of its task and of its run, or in none.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use crewline_engine::wallet::{AccountId, Accounts, Hold, Refused};
use crewline_types::{MicroUsd, TaskId};
use serde::{Deserialize, Serialize};

/// Whose money does not cover a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cap {
    /// The task's.
    Task,
    /// The run's.
    Run,
    /// The project's.
    Project,
}

impl Cap {
    /// The stable code of its limit.
    pub fn code(self) -> &'static str {
        match self {
            Self::Task => "budget.max_task_cost",
            Self::Run => "budget.max_cost",
            Self::Project => "budget.max_project_cost",
        }
    }

    /// The limit, as events name it.
    pub fn limit(self) -> &'static str {
        self.code().trim_start_matches("budget.")
    }
}

impl fmt::Display for Cap {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Task => "task",
            Self::Run => "run",
            Self::Project => "project",
        })
    }
}

/// The accounts of a run and its tasks; never locked across an await.
#[derive(Debug)]
pub struct Purse(Mutex<Books>);

#[derive(Debug)]
struct Books {
    accounts: Accounts,
    run: AccountId,
    task_max: Option<MicroUsd>,
    tasks: HashMap<TaskId, AccountId>,
}

impl Purse {
    /// A run that may cost `run_max`, of which `spent` is gone, and whose tasks may cost `task_max` each.
    pub fn new(run_max: Option<MicroUsd>, spent: MicroUsd, task_max: Option<MicroUsd>) -> Self {
        let mut accounts = Accounts::default();
        let run = accounts.open(None, run_max, spent);
        Self(Mutex::new(Books { accounts, run, task_max, tasks: HashMap::new() }))
    }

    fn with<R>(&self, work: impl FnOnce(&mut Books) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A task has spent so much, as far as is recorded; no attempt of it runs here.
    pub fn begin(&self, task: TaskId, spent: MicroUsd) {
        self.with(|books| {
            if books.task_max.is_some() {
                let account = books.accounts.open(Some(books.run), books.task_max, spent);
                books.tasks.insert(task, account);
            }
        });
    }

    /// What may still be reserved for a task; `None` without any cap.
    pub fn remaining(&self, task: TaskId) -> Option<MicroUsd> {
        self.with(|books| {
            let account = books.account(task);
            books.accounts.remaining(account)
        })
    }

    /// Sets aside the most that a call of a task may cost.
    pub fn reserve(&self, task: TaskId, worst: Option<MicroUsd>) -> Result<Hold, (Cap, Refused)> {
        self.with(|books| {
            let account = books.account(task);
            books.accounts.reserve(account, worst).map_err(|no_room| {
                let cap = if no_room.account == books.run { Cap::Run } else { Cap::Task };
                (cap, no_room.refused)
            })
        })
    }

    /// Records what a call cost.
    pub fn settle(&self, hold: Hold, actual: Option<MicroUsd>) {
        self.with(|books| books.accounts.settle(hold, actual));
    }

    /// Gives back what was reserved for a call that was never sent.
    pub fn refund(&self, hold: Hold) {
        self.with(|books| books.accounts.refund(hold));
    }
}

impl Books {
    fn account(&mut self, task: TaskId) -> AccountId {
        if self.task_max.is_none() {
            return self.run;
        }
        *self.tasks.entry(task).or_insert_with(|| self.accounts.open(Some(self.run), self.task_max, MicroUsd::ZERO))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use crewline_types::IdSource;

    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "the form that is asked for")]
    fn usd(micros: u64) -> Option<MicroUsd> {
        Some(MicroUsd(micros))
    }

    #[test]
    fn a_task_has_its_share_of_the_run() {
        let mut ids = IdSource::seeded(1);
        let [first, second] = [TaskId::new(&mut ids), TaskId::new(&mut ids)];
        let purse = Purse::new(usd(100), MicroUsd(10), usd(60));
        let hold = purse.reserve(first, usd(50)).unwrap();
        assert_eq!((purse.remaining(first), purse.remaining(second)), (usd(10), usd(40)));
        assert_eq!(purse.reserve(first, usd(11)).unwrap_err().0, Cap::Task);
        assert_eq!(purse.reserve(second, usd(41)).unwrap_err().0, Cap::Run);
        purse.settle(hold, usd(20));
        assert_eq!(purse.remaining(first), usd(40));
        purse.begin(second, MicroUsd(55));
        assert_eq!(purse.remaining(second), usd(5), "what earlier attempts spent counts");
        let open = Purse::new(None, MicroUsd::ZERO, None);
        assert_eq!(open.remaining(first), None);
        open.refund(open.reserve(first, None).unwrap());
    }

    #[test]
    fn many_at_once_overspend_neither_task_nor_run() {
        const RUN: u64 = 40_000;
        const TASK: u64 = 3_000;
        let mut ids = IdSource::seeded(2);
        let tasks: Vec<TaskId> = (0..20).map(|_| TaskId::new(&mut ids)).collect();
        let spent: Vec<AtomicU64> = tasks.iter().map(|_| AtomicU64::new(0)).collect();
        let purse = Purse::new(usd(RUN), MicroUsd::ZERO, usd(TASK));
        std::thread::scope(|scope| {
            for worker in 0..8_u64 {
                let (purse, tasks, spent) = (&purse, &tasks, &spent);
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(worker);
                    for _ in 0..2_000 {
                        let place = rng.usize(..tasks.len());
                        let worst = rng.u64(1..200);
                        let Ok(hold) = purse.reserve(tasks[place], usd(worst)) else { continue };
                        std::thread::yield_now();
                        let actual = rng.u64(..=worst);
                        if actual.is_multiple_of(5) {
                            purse.refund(hold);
                        } else {
                            spent[place].fetch_add(actual, Ordering::Relaxed);
                            purse.settle(hold, usd(actual));
                        }
                    }
                });
            }
        });
        let spent: Vec<u64> = spent.iter().map(|it| it.load(Ordering::Relaxed)).collect();
        assert!(spent.iter().all(|it| *it <= TASK), "{spent:?}");
        let all: u64 = spent.iter().sum();
        assert!(all <= RUN && all > RUN / 2, "{all}");
        for (task, spent) in tasks.iter().zip(spent) {
            assert_eq!(purse.remaining(*task), usd((TASK - spent).min(RUN - all)), "the books are right to the last");
        }
    }
}
