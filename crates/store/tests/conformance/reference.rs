//! The store does what the engine's reference of leases did: operation by operation, answer by answer.
//!
//! `leases.jsonl` is what the simulation in the engine wrote down. Its clock runs a thousand times slower here, so that the time
//! the database needs does not matter, and goes on by moving the ends of leases back.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crewline_store::{Change, Claim, Committed, Error, Fence, NewAttempt, NewOffer, OfferState, RunEnd, Withdraw};
use crewline_types::{AttemptId, Role, RunStatus, TaskId, TaskStatus, Text, TextHash};
use serde::Deserialize;

use crate::common::{Crew, Place, at, step};

on_both! { the_store_answers_as_the_reference }

const LOG: &str = include_str!("../data/leases.jsonl");

/// How much slower the clock runs here.
const SLOWER: u64 = 1_000;

#[derive(Debug, Deserialize)]
struct Head {
    seed: u64,
    tasks: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Attempt {
    task: usize,
    number: u32,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Free,
    Claimed(u32),
    Lost,
    Reported(u64),
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Settled {
    Completed(u64),
    Failed,
    Again,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Op {
    Pass { micros: i64 },
    Manage { who: u32, lease: u64 },
    KeepRun { epoch: u64, lease: u64 },
    End { epoch: u64 },
    Offer { epoch: u64, attempt: Attempt, role: u8, rank: i64 },
    Claim { who: u32, roles: Option<Vec<u8>>, max: u32, lease: u64 },
    Begin { who: u32, attempt: Attempt },
    Report { who: u32, attempt: Attempt, report: u64 },
    Renew { who: u32, lease: u64 },
    Release { who: u32, attempts: Vec<Attempt> },
    Reap,
    Withdraw { epoch: u64, is_free_only: bool },
    Answered,
    Settle { epoch: u64, attempt: Attempt, was_begun: bool, settled: Settled },
    Load,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Done(Found),
    Stale,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Found {
    Nothing,
    Epoch(u64),
    Count(u64),
    Attempts(Vec<Attempt>),
    Offers(Vec<(Attempt, State)>),
    All(Vec<(String, u32, Option<u64>)>, Vec<(Attempt, State)>),
}

async fn the_store_answers_as_the_reference(place: &Place) {
    let mut side: Option<Side> = None;
    let mut compared = 0;
    for (number, line) in (1..).zip(LOG.lines()) {
        if let Ok(head) = serde_json::from_str::<Head>(line) {
            side = Some(Side::new(place, &head).await);
            continue;
        }
        let (op, expected): (Op, Answer) = serde_json::from_str(line).unwrap();
        let side = side.as_mut().unwrap();
        let answer = side.apply(place, &op).await;
        assert_eq!(answer, expected, "seed {}, line {number}: {op:?}", side.seed);
        compared += 1;
    }
    assert!(compared > 500, "{compared}");
}

/// A run of the log on a database.
struct Side {
    seed: u64,
    crew: Crew,
    tasks: Vec<TaskId>,
    /// The number of each report by the hash of its text.
    reports: BTreeMap<TextHash, u64>,
    /// What the clock has gone on since leases were last moved back.
    passed: i64,
}

impl Side {
    async fn new(place: &Place, head: &Head) -> Self {
        let mut crew = Crew::new(place, "p", head.seed).await;
        let tasks = crew.tasks(head.tasks).await;
        // Nobody manages the run yet, and the first epoch is 1.
        let free = format!("UPDATE runs SET epoch = 0, owner = NULL, lease_until = NULL WHERE id = '{}'", crew.run);
        place.execute(&free).await;
        Self { seed: head.seed, crew, tasks, reports: BTreeMap::new(), passed: 0 }
    }

    fn id(&self, attempt: Attempt) -> AttemptId {
        AttemptId { task: self.tasks[attempt.task], number: attempt.number }
    }

    fn attempt(&self, id: AttemptId) -> Attempt {
        Attempt { task: self.tasks.iter().position(|task| *task == id.task).unwrap(), number: id.number }
    }

    fn manager(&self, epoch: u64) -> Change {
        Change::new(self.crew.run, epoch, at(5))
    }

    fn worker(&self, who: u32, attempt: Attempt) -> Change {
        let (attempt, node) = (self.id(attempt), Arc::from(name(who)));
        Change::new(self.crew.run, Fence::Claim { attempt, node }, at(5))
    }

    async fn commit(&self, change: Change) -> Answer {
        match self.crew.commit(change).await {
            Committed::Done { .. } => Answer::Done(Found::Nothing),
            Committed::Stale => Answer::Stale,
            Committed::OverBudget { .. } => panic!("there is no budget"),
        }
    }

    fn sorted(&self, ids: impl IntoIterator<Item = AttemptId>) -> Answer {
        let mut attempts: Vec<Attempt> = ids.into_iter().map(|id| self.attempt(id)).collect();
        attempts.sort_unstable();
        Answer::Done(Found::Attempts(attempts))
    }

    /// Moves the ends of leases back, before somebody looks at them.
    async fn catch_up(&mut self, place: &Place) {
        let micros = std::mem::take(&mut self.passed) * i64::try_from(SLOWER).unwrap();
        for table in ["offers", "runs"] {
            place.execute(&format!("UPDATE {table} SET lease_until = lease_until - {micros}")).await;
        }
    }

    async fn apply(&mut self, place: &Place, op: &Op) -> Answer {
        match op {
            Op::Manage { .. } | Op::KeepRun { .. } | Op::Claim { .. } | Op::Renew { .. } | Op::Reap => {
                self.catch_up(place).await;
            }
            Op::Pass { .. }
            | Op::End { .. }
            | Op::Offer { .. }
            | Op::Begin { .. }
            | Op::Report { .. }
            | Op::Release { .. }
            | Op::Withdraw { .. }
            | Op::Answered
            | Op::Settle { .. }
            | Op::Load => {}
        }
        let (store, run) = (&self.crew.store, self.crew.run);
        match op {
            Op::Pass { micros } => {
                self.passed += micros;
                Answer::Done(Found::Nothing)
            }
            Op::Manage { who, lease } => match store.claim_run(run, &name(*who), long(*lease), Claim::IfFree).await {
                Ok(epoch) => Answer::Done(Found::Epoch(epoch)),
                Err(Error::Held { .. } | Error::Finished { .. }) => Answer::Stale,
                Err(error) => panic!("{error:?}"),
            },
            Op::KeepRun { epoch, lease } => match store.renew_run(run, *epoch, long(*lease)).await {
                Ok(()) => Answer::Done(Found::Nothing),
                Err(Error::Stale { .. }) => Answer::Stale,
                Err(error) => panic!("{error:?}"),
            },
            Op::End { epoch } => {
                let mut change = self.manager(*epoch);
                change.run_status = Some(RunEnd { status: RunStatus::Failed, finished_at: at(9), error: None });
                self.commit(change).await
            }
            Op::Offer { epoch, attempt, role, rank } => {
                let mut change = self.manager(*epoch);
                change.offers.push(NewOffer {
                    id: self.id(*attempt),
                    role: role_of(*role),
                    rank: *rank,
                    told: String::new(),
                });
                self.commit(change).await
            }
            Op::Claim { who, roles, max, lease } => {
                let roles: Option<Vec<Role>> = roles.as_ref().map(|it| it.iter().copied().map(role_of).collect());
                let claimed = store.claim_offers(&name(*who), roles.as_deref(), *max, long(*lease)).await.unwrap();
                Answer::Done(Found::Attempts(claimed.iter().map(|offer| self.attempt(offer.id)).collect()))
            }
            Op::Begin { who, attempt } => {
                let mut change = self.worker(*who, *attempt);
                let id = self.id(*attempt);
                change.transitions = self.crew.start(id.task, id.number).transitions;
                let (role, model) = (Role::from("r"), "m".into());
                change.attempts.push(NewAttempt { id, role, model, input_hash: None });
                self.commit(change).await
            }
            Op::Report { who, attempt, report } => {
                let mut change = self.worker(*who, *attempt);
                change.report = Some(report.to_string());
                self.commit(change).await
            }
            Op::Renew { who, lease } => self.sorted(store.renew_claims(&name(*who), long(*lease)).await.unwrap()),
            Op::Release { who, attempts } => {
                let ids: Vec<AttemptId> = attempts.iter().map(|it| self.id(*it)).collect();
                Answer::Done(Found::Count(store.release_claims(&name(*who), &ids).await.unwrap()))
            }
            Op::Reap => Answer::Done(Found::Count(store.reap_claims().await.unwrap())),
            Op::Withdraw { epoch, is_free_only } => {
                let which = if *is_free_only { Withdraw::Free } else { Withdraw::Unreported };
                match store.withdraw_offers(run, *epoch, which).await {
                    Ok(ids) => self.sorted(ids),
                    Err(Error::Stale { .. }) => Answer::Stale,
                    Err(error) => panic!("{error:?}"),
                }
            }
            Op::Answered => Answer::Done(Found::Offers(self.offers(true).await)),
            Op::Settle { epoch, attempt, was_begun, settled } => {
                self.settle(*epoch, *attempt, *was_begun, *settled).await
            }
            Op::Load => {
                let tasks = store.tasks(run).await.unwrap();
                let tasks = tasks.iter().filter(|task| self.tasks.contains(&task.id));
                let tasks = tasks.map(|task| {
                    (task.status.as_str().to_owned(), task.attempts, task.result.map(|hash| self.reports[&hash]))
                });
                Answer::Done(Found::All(tasks.collect(), self.offers(false).await))
            }
        }
    }

    async fn settle(&mut self, epoch: u64, attempt: Attempt, was_begun: bool, settled: Settled) -> Answer {
        let mut change = self.manager(epoch);
        let id = self.id(attempt);
        let (from, attempts_from) =
            if was_begun { (TaskStatus::InProgress, id.number) } else { (TaskStatus::Pending, id.number - 1) };
        let to = match settled {
            Settled::Completed(_) => TaskStatus::Completed,
            Settled::Failed => TaskStatus::Failed,
            Settled::Again => TaskStatus::Pending,
        };
        let mut transition = step(id.task, from, to);
        (transition.attempts_from, transition.attempts_to) = (attempts_from, id.number);
        if let Settled::Completed(report) = settled {
            let text = Text::from(report.to_string());
            self.reports.insert(text.hash, report);
            transition.result = Some(text.hash);
            change.texts.push(text);
        }
        change.transitions.push(transition);
        change.offers_settled.push(id);
        self.commit(change).await
    }

    async fn offers(&self, is_answered_only: bool) -> Vec<(Attempt, State)> {
        let store = &self.crew.store;
        let offers = if is_answered_only {
            store.offer_reports(self.crew.run).await.unwrap()
        } else {
            store.open_offers(self.crew.run).await.unwrap()
        };
        let state = |state| match state {
            OfferState::Free => State::Free,
            OfferState::Claimed { node } => State::Claimed(node.strip_prefix("node ").unwrap().parse().unwrap()),
            OfferState::Lost => State::Lost,
            OfferState::Reported(report) => State::Reported(report.parse().unwrap()),
        };
        offers.into_iter().map(|offer| (self.attempt(offer.id), state(offer.state))).collect()
    }
}

fn name(who: u32) -> String {
    format!("node {who}")
}

fn role_of(role: u8) -> Role {
    Role::from(format!("role {role}").as_str())
}

fn long(lease: u64) -> Duration {
    Duration::from_micros(lease * SLOWER)
}
