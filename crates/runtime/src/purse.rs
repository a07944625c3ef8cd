//! The money of a run in this process: what all of it may cost, and what each of its tasks may.
//!
//! What all runs of a project may cost together is counted by the database, in the transaction that records a call: other
//! processes spend it, too.
//!
//! **Invariant:** a call is reserved in the accounts of its task and of its run, or in none.
//! **Invariant:** what is reserved for a call stays until its end is recorded: whoever goes on after a crash counts it in full.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    ops::RangeInclusive,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crewline_engine::wallet::{AccountId, Accounts, Hold, Refused};
use crewline_types::{AttemptId, CallId, MicroUsd, TaskId};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, futures::Notified};

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

/// Whose money does not cover a call, and why.
#[derive(Debug, Clone, Copy)]
pub struct NoMoney {
    /// Whose.
    pub cap: Cap,
    /// Why.
    pub refused: Refused,
}

/// The accounts of a run and its tasks; never locked across an await.
#[derive(Debug)]
pub struct Purse {
    books: Mutex<Books>,
    returned: Notify,
    /// Wakes one of those whom the database refused: there may be room for one more.
    room: Notify,
    /// Nobody waits for money any more.
    is_closed: AtomicBool,
    closed: Notify,
}

#[derive(Debug)]
struct Books {
    accounts: Accounts,
    run: AccountId,
    task_max: Option<MicroUsd>,
    tasks: HashMap<TaskId, AccountId>,
    /// Calls whose end is not recorded.
    open: BTreeMap<CallId, Hold>,
}

impl Purse {
    /// A run that may cost `run_max`, of which `spent` is gone, and whose tasks may cost `task_max` each.
    pub fn new(run_max: Option<MicroUsd>, spent: MicroUsd, task_max: Option<MicroUsd>) -> Self {
        let mut accounts = Accounts::default();
        let run = accounts.open(None, run_max, spent);
        let books = Books { accounts, run, task_max, tasks: HashMap::new(), open: BTreeMap::new() };
        let is_closed = AtomicBool::new(false);
        Self {
            books: Mutex::new(books),
            returned: Notify::new(),
            room: Notify::new(),
            is_closed,
            closed: Notify::new(),
        }
    }

    fn with<R>(&self, work: impl FnOnce(&mut Books) -> R) -> R {
        work(&mut self.books.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A task has spent so much, as far as is recorded; no attempt of it runs here.
    pub fn begin(&self, task: TaskId, spent: MicroUsd) {
        self.with(|books| {
            // Of attempts that were taken away from this process: their calls are in `spent`.
            let attempt = |number| AttemptId { task, number };
            for hold in books.take_of(attempt(0)..=attempt(u32::MAX)) {
                books.accounts.refund(hold);
            }
            if books.task_max.is_some() {
                let account = books.accounts.open(Some(books.run), books.task_max, spent);
                books.tasks.insert(task, account);
            }
        });
        // Of what came back none is to come any more: who waits for it asks again.
        self.returned.notify_waiters();
    }

    /// What may still be reserved for a task, with what comes back; `None` without any cap.
    pub fn remaining(&self, task: TaskId) -> Option<MicroUsd> {
        self.with(|books| {
            let account = books.account(task);
            books.accounts.remaining(account)
        })
    }

    /// Sets aside the most that a call may cost.
    pub fn reserve(&self, call: CallId, worst: Option<MicroUsd>) -> Result<(), NoMoney> {
        self.with(|books| {
            let account = books.account(call.attempt.task);
            let hold = books.accounts.reserve(account, worst).map_err(|no_room| {
                let cap = if no_room.account == books.run { Cap::Run } else { Cap::Task };
                NoMoney { cap, refused: no_room.refused }
            })?;
            books.open.insert(call, hold);
            Ok(())
        })
    }

    /// A call has ended, and will have cost so much once that is recorded.
    pub fn ended(&self, call: CallId, cost: Option<MicroUsd>) {
        self.with(|books| {
            if let Some(hold) = books.open.get_mut(&call) {
                books.accounts.end(hold, cost);
            }
        });
    }

    /// What these calls cost is recorded, and that these attempts have ended.
    pub fn recorded(&self, ends: &[(CallId, Option<MicroUsd>)], attempts: &[AttemptId]) {
        self.with(|books| {
            for (call, cost) in ends {
                if let Some(hold) = books.open.remove(call) {
                    books.accounts.settle(hold, *cost);
                }
            }
            // Of which nobody knows whether their beginning or their end is recorded: the worst case is never too little.
            for attempt in attempts {
                for hold in books.take_of(*attempt..=*attempt) {
                    books.accounts.settle(hold, None);
                }
            }
        });
        self.returned.notify_waiters();
        self.room.notify_one();
    }

    /// Gives back what was reserved for a call that is not recorded, and so was never sent.
    pub fn refund(&self, call: CallId) {
        self.with(|books| {
            if let Some(hold) = books.open.remove(&call) {
                books.accounts.refund(hold);
            }
        });
        self.returned.notify_waiters();
    }

    /// Ends when money has come back since it was called, or when nobody is to wait.
    pub fn returned(&self) -> Notified<'_> {
        self.returned.notified()
    }

    /// Waits until the database may have money again that it did not have: so long at most, as others spend it, too.
    pub async fn room(&self, limit: Duration) {
        let closed = self.closed.notified();
        if self.may_wait() {
            tokio::select! {
                () = self.room.notified() => {}
                () = closed => {}
                () = tokio::time::sleep(limit) => {}
            }
        }
    }

    /// The run stops: who waits for money gives up, and nobody waits any more.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.closed.notify_waiters();
        self.returned.notify_waiters();
    }

    /// Whether money may be waited for.
    pub fn may_wait(&self) -> bool {
        !self.is_closed.load(Ordering::SeqCst)
    }
}

impl Books {
    /// What is held for the calls of these attempts, no longer in the list.
    fn take_of(&mut self, attempts: RangeInclusive<AttemptId>) -> Vec<Hold> {
        let first = CallId { attempt: *attempts.start(), number: 0 };
        let last = CallId { attempt: *attempts.end(), number: u32::MAX };
        self.open.extract_if(first..=last, |_, _| true).map(|(_, hold)| hold).collect()
    }

    fn account(&mut self, task: TaskId) -> AccountId {
        if self.task_max.is_none() {
            return self.run;
        }
        *self.tasks.entry(task).or_insert_with(|| self.accounts.open(Some(self.run), self.task_max, MicroUsd::ZERO))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use crewline_types::IdSource;

    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "the form that is asked for")]
    fn usd(micros: u64) -> Option<MicroUsd> {
        Some(MicroUsd(micros))
    }

    fn call(task: TaskId, number: u32) -> CallId {
        CallId { attempt: AttemptId { task, number: 1 }, number }
    }

    #[test]
    fn a_task_has_its_share_of_the_run() {
        let mut ids = IdSource::seeded(1);
        let [first, second] = [TaskId::new(&mut ids), TaskId::new(&mut ids)];
        let purse = Purse::new(usd(100), MicroUsd(10), usd(60));
        purse.reserve(call(first, 1), usd(50)).unwrap();
        assert_eq!((purse.remaining(first), purse.remaining(second)), (usd(10), usd(40)));
        assert_eq!(purse.reserve(call(first, 2), usd(11)).unwrap_err().cap, Cap::Task);
        assert_eq!(purse.reserve(call(second, 1), usd(41)).unwrap_err().cap, Cap::Run);
        purse.recorded(&[(call(first, 1), usd(20))], &[]);
        assert_eq!(purse.remaining(first), usd(40));
        purse.begin(second, MicroUsd(55));
        assert_eq!(purse.remaining(second), usd(5), "what earlier attempts spent counts");
        let open = Purse::new(None, MicroUsd::ZERO, None);
        assert_eq!(open.remaining(first), None);
        open.reserve(call(first, 1), None).unwrap();
        open.refund(call(first, 1));
    }

    #[test]
    fn what_a_call_did_not_cost_comes_back_when_its_end_is_recorded() {
        let task = TaskId::new(&mut IdSource::seeded(3));
        let purse = Purse::new(usd(100), MicroUsd::ZERO, None);
        purse.reserve(call(task, 1), usd(60)).unwrap();
        assert!(purse.reserve(call(task, 2), usd(50)).unwrap_err().refused.is_retryable());
        purse.ended(call(task, 1), usd(10));
        assert_eq!(purse.remaining(task), usd(90), "whoever chooses a model counts with it");
        assert!(purse.reserve(call(task, 2), usd(50)).is_err(), "it is not recorded yet");
        purse.recorded(&[(call(task, 1), usd(10))], &[]);
        purse.reserve(call(task, 2), usd(50)).unwrap();
        purse.begin(task, MicroUsd(60));
        assert_eq!(purse.remaining(task), usd(90), "nobody here ends the call any more");
    }

    #[test]
    fn an_attempt_that_ended_holds_nothing() {
        let mut ids = IdSource::seeded(4);
        let [first, second] = [TaskId::new(&mut ids), TaskId::new(&mut ids)];
        let purse = Purse::new(usd(100), MicroUsd::ZERO, None);
        for (task, number) in [(first, 1), (first, 2), (second, 1)] {
            purse.reserve(call(task, number), usd(30)).unwrap();
        }
        // Whether the first call's end is recorded is unknown.
        purse.ended(call(first, 1), usd(10));
        purse.recorded(&[(call(first, 2), usd(5))], &[call(first, 1).attempt]);
        let refused = purse.reserve(call(second, 2), usd(40)).unwrap_err().refused;
        let (spent, reserved) = (MicroUsd(35), MicroUsd(30));
        assert_eq!(refused, Refused::OverBudget { cap: MicroUsd(100), spent, reserved, asked: MicroUsd(40) });
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
            for worker in 0..8_u32 {
                let (purse, tasks, spent) = (&purse, &tasks, &spent);
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(worker.into());
                    for turn in 0..2_000 {
                        let place = rng.usize(..tasks.len());
                        let worst = rng.u64(1..200);
                        let call = call(tasks[place], worker * 2_000 + turn);
                        if purse.reserve(call, usd(worst)).is_err() {
                            continue;
                        }
                        std::thread::yield_now();
                        let actual = rng.u64(..=worst);
                        if actual.is_multiple_of(5) {
                            purse.refund(call);
                        } else {
                            spent[place].fetch_add(actual, Ordering::Relaxed);
                            purse.ended(call, usd(actual));
                            std::thread::yield_now();
                            purse.recorded(&[(call, usd(actual))], &[]);
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
