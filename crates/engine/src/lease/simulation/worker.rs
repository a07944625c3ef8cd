//! A worker: claims, begins, makes and reports attempts, and stops by its own clock before its leases could end.

use std::collections::BTreeMap;

use super::{
    super::{Answer, Attempt, Found, Micros, Op},
    LEASE, Note, Outside, POLL, Rng, SECOND, Timer,
};

/// A report that says that the attempt was lost.
pub(super) const LOST: u64 = 0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Beginning,
    Making,
    Reporting(u64),
}

#[derive(Debug, Clone)]
enum Asked {
    Claim { sent: Micros },
    Begin(Attempt),
    Report(Attempt),
    Renew { sent: Micros, known: Vec<Attempt> },
    Other,
}

#[derive(Debug)]
pub(super) struct Worker {
    roles: Option<Vec<u8>>,
    slots: usize,
    claims: BTreeMap<Attempt, Phase>,
    asked: BTreeMap<u64, Asked>,
    is_claiming: bool,
    is_renewing: bool,
    /// No lease that is known ends before this, on the own clock.
    until: Micros,
}

impl Worker {
    /// One that does some roles of the three, or any.
    pub(super) fn new(is_for_any_role: bool, rng: &mut Rng) -> Self {
        let roles = (!is_for_any_role).then(|| [vec![0, 1], vec![1, 2], vec![2], vec![]][rng.index(4)].clone());
        let (slots, claims, asked) = (1 + rng.index(3), BTreeMap::new(), BTreeMap::new());
        Self { roles, slots, claims, asked, is_claiming: false, is_renewing: false, until: Micros::MAX }
    }

    pub(super) fn start(&mut self, outside: &mut Outside<'_>) {
        for timer in [Timer::Look, Timer::Keep, Timer::Reap] {
            self.on_timer(timer, outside);
        }
    }

    pub(super) fn on(&mut self, note: Note, outside: &mut Outside<'_>) {
        match note {
            Note::Timer(timer) => self.on_timer(timer, outside),
            Note::Answered(ticket, answer) => {
                // A second answer, or one that came too late.
                if let Some(asked) = self.asked.remove(&ticket) {
                    self.on_answer(asked, &answer, outside);
                }
            }
            Note::TimedOut(ticket) => match self.asked.remove(&ticket) {
                Some(Asked::Claim { .. }) => self.is_claiming = false,
                Some(Asked::Renew { .. }) => self.is_renewing = false,
                // Whether it has begun is not known: the attempt is given up.
                Some(Asked::Begin(attempt)) => self.report(attempt, LOST, outside),
                Some(Asked::Report(attempt)) => {
                    if let Some(Phase::Reporting(report)) = self.claims.get(&attempt).copied() {
                        self.report(attempt, report, outside);
                    }
                }
                Some(Asked::Other) | None => {}
            },
        }
    }

    fn on_timer(&mut self, timer: Timer, outside: &mut Outside<'_>) {
        match timer {
            Timer::Look => {
                outside.remind(POLL, Timer::Look);
                let free = self.slots.saturating_sub(self.claims.len());
                if free > 0 && !self.is_claiming {
                    self.is_claiming = true;
                    let op = Op::Claim {
                        who: outside.who,
                        roles: self.roles.clone(),
                        max: u32::try_from(free).unwrap(),
                        lease: LEASE,
                    };
                    self.ask(op, Asked::Claim { sent: outside.now }, outside);
                }
            }
            Timer::Keep => {
                outside.remind(LEASE / 3, Timer::Keep);
                if !self.is_renewing {
                    self.is_renewing = true;
                    let op = Op::Renew { who: outside.who, lease: LEASE };
                    // What is claimed after this may not be in the answer.
                    let known = self.unreported().collect();
                    self.ask(op, Asked::Renew { sent: outside.now, known }, outside);
                }
            }
            Timer::Reap => {
                outside.remind(LEASE / 2, Timer::Reap);
                self.ask(Op::Reap, Asked::Other, outside);
            }
            Timer::WorkEnds(attempt) => {
                if self.claims.get(&attempt) != Some(&Phase::Making) {
                    // It was given up.
                } else if outside.rng.below(50) == 0 {
                    // A defect makes it forget the attempt: the next renewal names it, and it is given back.
                    outside.promise.rests(outside.who, attempt);
                    self.claims.remove(&attempt);
                } else {
                    let report = 1 + outside.rng.below(1_000);
                    self.report(attempt, report, outside);
                }
            }
            Timer::Expire => {
                if outside.now >= self.until {
                    self.until = Micros::MAX;
                    let open: Vec<Attempt> = self.unreported().collect();
                    for attempt in open {
                        self.report(attempt, LOST, outside);
                    }
                }
            }
            Timer::RetryDue(_) => {}
        }
    }

    fn on_answer(&mut self, asked: Asked, answer: &Answer, outside: &mut Outside<'_>) {
        match (asked, answer) {
            (Asked::Claim { sent }, Answer::Done(Found::Attempts(attempts))) => {
                self.is_claiming = false;
                if !attempts.is_empty() {
                    self.expire(self.until.min(sent + LEASE * 9 / 10), outside);
                }
                for attempt in attempts {
                    self.claims.insert(*attempt, Phase::Beginning);
                    let op = Op::Begin { who: outside.who, attempt: *attempt };
                    self.ask(op, Asked::Begin(*attempt), outside);
                }
            }
            (Asked::Begin(attempt), answer) if self.claims.get(&attempt) == Some(&Phase::Beginning) => {
                if answer.is_done() {
                    self.claims.insert(attempt, Phase::Making);
                    outside.promise.acts(outside.who, attempt);
                    let long = outside.rng.below(20 * SECOND.unsigned_abs()).cast_signed();
                    outside.remind(long, Timer::WorkEnds(attempt));
                } else {
                    self.claims.remove(&attempt);
                }
            }
            // Recorded, or too late: both end it.
            (Asked::Report(attempt), _) => drop(self.claims.remove(&attempt)),
            (Asked::Renew { sent, known }, Answer::Done(Found::Attempts(kept))) => {
                self.is_renewing = false;
                let lost: Vec<Attempt> =
                    self.unreported().filter(|it| known.contains(it) && !kept.contains(it)).collect();
                for attempt in lost {
                    outside.promise.rests(outside.who, attempt);
                    self.claims.remove(&attempt);
                }
                let unknown: Vec<Attempt> = kept.iter().filter(|it| !self.claims.contains_key(it)).copied().collect();
                if !unknown.is_empty() && !self.is_claiming {
                    self.ask(Op::Release { who: outside.who, attempts: unknown }, Asked::Other, outside);
                }
                self.expire(sent + LEASE * 9 / 10, outside);
            }
            (Asked::Claim { .. } | Asked::Begin(_) | Asked::Renew { .. } | Asked::Other, _) => {}
        }
    }

    fn expire(&mut self, until: Micros, outside: &mut Outside<'_>) {
        self.until = until;
        outside.remind((until - outside.now).max(0), Timer::Expire);
    }

    fn unreported(&self) -> impl Iterator<Item = Attempt> {
        self.claims.iter().filter(|(_, phase)| !matches!(phase, Phase::Reporting(_))).map(|(attempt, _)| *attempt)
    }

    fn report(&mut self, attempt: Attempt, report: u64, outside: &mut Outside<'_>) {
        outside.promise.rests(outside.who, attempt);
        self.claims.insert(attempt, Phase::Reporting(report));
        let op = Op::Report { who: outside.who, attempt, report };
        self.ask(op, Asked::Report(attempt), outside);
    }

    fn ask(&mut self, op: Op, asked: Asked, outside: &mut Outside<'_>) {
        let ticket = outside.ask(op);
        self.asked.insert(ticket, asked);
    }
}
