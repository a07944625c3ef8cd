//! Leases: who manages a run, which attempts are offered, who has claimed them, and whose word counts.
//!
//! This is the reference for what the store does in SQL, slow and plain: the simulation below checks the rules under faults,
//! and writes down what it did; the store's tests do the same on SQLite and PostgreSQL and compare each answer.
//!
//! **Invariant:** what a manager writes counts while its epoch is the run's; each claim of the run raises it.
//! **Invariant:** what a worker writes counts while it holds its claim: not lost, not reported, not withdrawn. Who manages the
//! run does not matter.
//! **Invariant:** an attempt is begun once, and reported once; one that is lost is never claimed again.

#[cfg(test)]
mod simulation;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Names one start of one process.
pub type Who = u32;

/// Microseconds of the database's clock.
pub type Micros = i64;

/// One try of one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attempt {
    /// The task's place in the plan.
    pub task: u32,
    /// 1 for the first try.
    pub number: u32,
}

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits.
    Pending,
    /// An attempt was begun.
    InProgress,
    /// Has a result.
    Completed,
    /// Will never have one.
    Failed,
}

/// Where an offer is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nobody has claimed it.
    Free,
    /// Somebody works on it.
    Claimed(Who),
    /// The lease ran out before there was a report.
    Lost,
    /// There is a report.
    Reported(u64),
}

/// What becomes of a settled attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settled {
    /// Its report is the task's result.
    Completed(u64),
    /// The task failed for good.
    Failed,
    /// The task waits for another attempt.
    Again,
}

/// What somebody asks of the database; each is a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// The database's clock goes on, or jumps.
    Pass {
        /// Back, when negative.
        micros: Micros,
    },
    /// Takes the run, when nobody else holds it.
    Manage {
        /// Who.
        who: Who,
        /// For how long.
        lease: Micros,
    },
    /// Keeps the run.
    KeepRun {
        /// Of the manager.
        epoch: u64,
        /// For how long from now.
        lease: Micros,
    },
    /// Ends the run; nothing is offered any more.
    End {
        /// Of the manager.
        epoch: u64,
    },
    /// Offers an attempt.
    Offer {
        /// Of the manager.
        epoch: u64,
        /// Which.
        attempt: Attempt,
        /// Who can do it.
        role: u8,
        /// Lower ones are claimed first.
        rank: i64,
    },
    /// Claims free offers.
    Claim {
        /// Who.
        who: Who,
        /// Which roles; any, when there are none.
        roles: Option<Vec<u8>>,
        /// How many at most.
        max: u32,
        /// For how long.
        lease: Micros,
    },
    /// Begins a claimed attempt.
    Begin {
        /// Who.
        who: Who,
        /// Which.
        attempt: Attempt,
    },
    /// Reports a claimed attempt.
    Report {
        /// Who.
        who: Who,
        /// Which.
        attempt: Attempt,
        /// What.
        report: u64,
    },
    /// Keeps all claims.
    Renew {
        /// Whose.
        who: Who,
        /// For how long from now.
        lease: Micros,
    },
    /// Gives claims back: what was not begun is free again, what was is lost.
    Release {
        /// Who.
        who: Who,
        /// Which.
        attempts: Vec<Attempt>,
    },
    /// Marks claims whose lease has run out.
    Reap,
    /// Takes back what nobody has reported.
    Withdraw {
        /// Of the manager.
        epoch: u64,
        /// What nobody has claimed, only.
        is_free_only: bool,
    },
    /// Reads what is lost or reported.
    Answered,
    /// Records what became of an attempt and removes its offer.
    Settle {
        /// Of the manager.
        epoch: u64,
        /// Which.
        attempt: Attempt,
        /// Whether it was begun, as the manager has read it.
        was_begun: bool,
        /// What became of it.
        settled: Settled,
    },
    /// Reads everything.
    Load,
}

/// What the database answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is recorded, with what it found where it looks for something.
    Done(Found),
    /// It is not: somebody else was faster.
    Stale,
}

/// What an operation found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// Nothing to say.
    #[default]
    Nothing,
    /// The manager's epoch.
    Epoch(u64),
    /// So many.
    Count(u64),
    /// These attempts, in order.
    Attempts(Vec<Attempt>),
    /// These offers, in order.
    Offers(Vec<(Attempt, State)>),
    /// Status, attempts and result of each task, and all offers.
    All(Vec<(Status, u32, Option<u64>)>, Vec<(Attempt, State)>),
}

impl Answer {
    /// Whether it was recorded.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }
}

#[derive(Debug, Clone)]
struct Task {
    status: Status,
    attempts: u32,
    result: Option<u64>,
}

#[derive(Debug, Clone)]
struct Offer {
    role: u8,
    rank: i64,
    state: State,
    /// The end of the lease, while it is claimed.
    until: Micros,
}

/// The tasks, offers and leases of one run, as the database holds them.
#[derive(Debug, Clone)]
pub struct Queue {
    now: Micros,
    epoch: u64,
    owner: Option<(Who, Micros)>,
    has_ended: bool,
    tasks: Vec<Task>,
    offers: BTreeMap<Attempt, Offer>,
    begun: BTreeSet<Attempt>,
}

impl Queue {
    /// A run of so many tasks, which nobody manages yet.
    pub fn new(tasks: usize) -> Self {
        Self {
            now: 0,
            epoch: 0,
            owner: None,
            has_ended: false,
            tasks: vec![Task { status: Status::Pending, attempts: 0, result: None }; tasks],
            offers: BTreeMap::new(),
            begun: BTreeSet::new(),
        }
    }

    /// Does what is asked, at once and alone.
    pub fn apply(&mut self, op: &Op) -> Answer {
        let found = match op {
            Op::Pass { micros } => {
                self.now += micros;
                Some(Found::Nothing)
            }
            Op::Manage { who, lease } => self.manage(*who, *lease),
            Op::KeepRun { epoch, lease } => self.keep_run(*epoch, *lease),
            Op::End { epoch } => self.end(*epoch),
            Op::Offer { epoch, attempt, role, rank } => self.offer(*epoch, *attempt, *role, *rank),
            Op::Claim { who, roles, max, lease } => Some(self.claim(*who, roles.as_deref(), *max, *lease)),
            Op::Begin { who, attempt } => self.begin(*who, *attempt),
            Op::Report { who, attempt, report } => self.report(*who, *attempt, *report),
            Op::Renew { who, lease } => Some(self.renew(*who, *lease)),
            Op::Release { who, attempts } => Some(self.release(*who, attempts)),
            Op::Reap => Some(self.reap()),
            Op::Withdraw { epoch, is_free_only } => self.withdraw(*epoch, *is_free_only),
            Op::Answered => Some(Found::Offers(
                self.states().filter(|(_, state)| matches!(state, State::Lost | State::Reported(_))).collect(),
            )),
            Op::Settle { epoch, attempt, was_begun, settled } => self.settle(*epoch, *attempt, *was_begun, *settled),
            Op::Load => Some(Found::All(
                self.tasks.iter().map(|task| (task.status, task.attempts, task.result)).collect(),
                self.states().collect(),
            )),
        };
        found.map_or(Answer::Stale, Answer::Done)
    }

    /// Whether the run has ended.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    fn states(&self) -> impl Iterator<Item = (Attempt, State)> {
        self.offers.iter().map(|(attempt, offer)| (*attempt, offer.state))
    }

    fn manage(&mut self, who: Who, lease: Micros) -> Option<Found> {
        let is_held = self.owner.is_some_and(|(owner, until)| owner != who && until > self.now);
        if self.has_ended || is_held {
            return None;
        }
        self.epoch += 1;
        self.owner = Some((who, self.now + lease));
        Some(Found::Epoch(self.epoch))
    }

    fn keep_run(&mut self, epoch: u64, lease: Micros) -> Option<Found> {
        let (_, until) = self.owner.as_mut().filter(|_| epoch == self.epoch)?;
        *until = self.now + lease;
        Some(Found::Nothing)
    }

    fn end(&mut self, epoch: u64) -> Option<Found> {
        if epoch != self.epoch || self.has_ended {
            return None;
        }
        self.has_ended = true;
        self.owner = None;
        self.offers.clear();
        Some(Found::Nothing)
    }

    fn offer(&mut self, epoch: u64, attempt: Attempt, role: u8, rank: i64) -> Option<Found> {
        if epoch != self.epoch {
            return None;
        }
        debug_assert!(!self.offers.contains_key(&attempt), "{attempt:?} is offered twice");
        self.offers.insert(attempt, Offer { role, rank, state: State::Free, until: 0 });
        Some(Found::Nothing)
    }

    fn claim(&mut self, who: Who, roles: Option<&[u8]>, max: u32, lease: Micros) -> Found {
        let mut free: Vec<(i64, Attempt)> = self
            .offers
            .iter()
            .filter(|(_, offer)| offer.state == State::Free && roles.is_none_or(|roles| roles.contains(&offer.role)))
            .map(|(attempt, offer)| (offer.rank, *attempt))
            .collect();
        free.sort_unstable();
        free.truncate(max as usize);
        for (_, attempt) in &free {
            if let Some(offer) = self.offers.get_mut(attempt) {
                offer.state = State::Claimed(who);
                offer.until = self.now + lease;
            }
        }
        Found::Attempts(free.into_iter().map(|(_, attempt)| attempt).collect())
    }

    fn held(&mut self, who: Who, attempt: Attempt) -> Option<&mut Offer> {
        self.offers.get_mut(&attempt).filter(|offer| offer.state == State::Claimed(who))
    }

    fn begin(&mut self, who: Who, attempt: Attempt) -> Option<Found> {
        self.held(who, attempt)?;
        let task = self.tasks.get_mut(attempt.task as usize)?;
        if task.status != Status::Pending || task.attempts + 1 != attempt.number {
            return None;
        }
        task.status = Status::InProgress;
        task.attempts = attempt.number;
        self.begun.insert(attempt);
        Some(Found::Nothing)
    }

    fn report(&mut self, who: Who, attempt: Attempt, report: u64) -> Option<Found> {
        self.held(who, attempt)?.state = State::Reported(report);
        Some(Found::Nothing)
    }

    fn renew(&mut self, who: Who, lease: Micros) -> Found {
        let mut kept = Vec::new();
        for (attempt, offer) in self.offers.iter_mut().filter(|(_, offer)| offer.state == State::Claimed(who)) {
            offer.until = self.now + lease;
            kept.push(*attempt);
        }
        Found::Attempts(kept)
    }

    fn release(&mut self, who: Who, attempts: &[Attempt]) -> Found {
        let mut count = 0;
        for attempt in attempts {
            let was_begun = self.begun.contains(attempt);
            if let Some(offer) = self.held(who, *attempt) {
                offer.state = if was_begun { State::Lost } else { State::Free };
                count += 1;
            }
        }
        Found::Count(count)
    }

    fn reap(&mut self) -> Found {
        let mut count = 0;
        for offer in self.offers.values_mut() {
            if matches!(offer.state, State::Claimed(_)) && offer.until <= self.now {
                offer.state = State::Lost;
                count += 1;
            }
        }
        Found::Count(count)
    }

    fn withdraw(&mut self, epoch: u64, is_free_only: bool) -> Option<Found> {
        if epoch != self.epoch {
            return None;
        }
        let withdrawn: Vec<Attempt> = self
            .states()
            .filter(|(_, state)| match state {
                State::Free => true,
                State::Claimed(_) | State::Lost => !is_free_only,
                State::Reported(_) => false,
            })
            .map(|(attempt, _)| attempt)
            .collect();
        self.offers.retain(|attempt, _| !withdrawn.contains(attempt));
        Some(Found::Attempts(withdrawn))
    }

    fn settle(&mut self, epoch: u64, attempt: Attempt, was_begun: bool, settled: Settled) -> Option<Found> {
        if epoch != self.epoch {
            return None;
        }
        let task = self.tasks.get_mut(attempt.task as usize)?;
        let expected =
            if was_begun { (Status::InProgress, attempt.number) } else { (Status::Pending, attempt.number - 1) };
        if (task.status, task.attempts) != expected {
            return None;
        }
        task.attempts = attempt.number;
        match settled {
            Settled::Completed(report) => {
                task.status = Status::Completed;
                task.result = Some(report);
            }
            Settled::Failed => task.status = Status::Failed,
            Settled::Again => task.status = Status::Pending,
        }
        self.offers.remove(&attempt);
        Some(Found::Nothing)
    }
}
