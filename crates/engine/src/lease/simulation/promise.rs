//! What must hold after every operation, read from the operations and their answers only.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Answer, Attempt, Found, Op, Settled, State, Status, Who};

/// What was promised so far.
#[derive(Debug)]
pub(super) struct Promise {
    needs: Vec<Vec<u32>>,
    epoch: u64,
    /// Who may begin and report an attempt.
    claims: BTreeMap<Attempt, Who>,
    begun: BTreeMap<Attempt, Who>,
    reports: BTreeMap<Attempt, u64>,
    results: BTreeMap<u32, (Attempt, u64)>,
    failed: BTreeSet<u32>,
    /// The last settled or begun attempt of each task.
    latest: BTreeMap<u32, u32>,
    /// Who is making an attempt at this moment, as the worker sees it.
    acting: BTreeMap<Who, BTreeSet<Attempt>>,
    /// Withdrawn: who makes one learns of it with the next renewal, and the manager does not wait for that.
    recalled: BTreeSet<Attempt>,
}

impl Promise {
    pub(super) fn new(needs: &[Vec<u32>]) -> Self {
        Self {
            needs: needs.to_vec(),
            epoch: 0,
            claims: BTreeMap::new(),
            begun: BTreeMap::new(),
            reports: BTreeMap::new(),
            results: BTreeMap::new(),
            failed: BTreeSet::new(),
            latest: BTreeMap::new(),
            acting: BTreeMap::new(),
            recalled: BTreeSet::new(),
        }
    }

    /// A worker makes an attempt from now on.
    pub(super) fn acts(&mut self, who: Who, attempt: Attempt) {
        self.acting.entry(who).or_default().insert(attempt);
    }

    /// It does not any more.
    pub(super) fn rests(&mut self, who: Who, attempt: Attempt) {
        if let Some(acting) = self.acting.get_mut(&who) {
            acting.remove(&attempt);
        }
    }

    /// A process is gone.
    pub(super) fn stops(&mut self, who: Who) {
        self.acting.remove(&who);
    }

    /// Checks one operation; where `may_overlap`, a frozen worker may not know yet that its claim is gone.
    pub(super) fn check(&mut self, op: &Op, answer: &Answer, may_overlap: bool) {
        let Answer::Done(found) = answer else { return };
        match op {
            Op::Manage { .. } => {
                let Found::Epoch(epoch) = found else { panic!("{found:?}") };
                assert!(*epoch > self.epoch, "an epoch is given twice");
                self.epoch = *epoch;
            }
            Op::Claim { who, max, .. } => {
                let Found::Attempts(attempts) = found else { panic!("{found:?}") };
                assert!(attempts.len() <= *max as usize, "more than was asked for");
                for attempt in attempts {
                    assert!(!self.results.contains_key(&attempt.task), "a completed task is claimed");
                    assert!(!self.begun.contains_key(attempt), "{attempt:?} is handed on");
                    let other = self.claims.insert(*attempt, *who);
                    assert_eq!(other, None, "{attempt:?} has two owners");
                }
            }
            Op::Release { who, attempts } => {
                let Found::Count(count) = found else { panic!("{found:?}") };
                assert!(*count <= attempts.len() as u64);
                // What was not begun may be claimed by others.
                let begun = &self.begun;
                self.claims.retain(|attempt, owner| {
                    owner != who || !attempts.contains(attempt) || begun.contains_key(attempt)
                });
            }
            Op::Begin { who, attempt } => self.begins(*who, *attempt, may_overlap),
            Op::Report { who, attempt, report } => {
                assert_eq!(self.claims.get(attempt), Some(who), "a stranger reports {attempt:?}");
                let before = self.reports.insert(*attempt, *report);
                assert_eq!(before, None, "{attempt:?} is reported twice");
            }
            Op::Settle { epoch, attempt, settled, .. } => {
                assert_eq!(*epoch, self.epoch, "a stale manager writes");
                assert!(!self.results.contains_key(&attempt.task), "a completed task is settled again");
                let latest = self.latest.insert(attempt.task, attempt.number).unwrap_or(0);
                assert!(attempt.number == latest || attempt.number == latest + 1, "{attempt:?} after {latest}");
                match settled {
                    Settled::Completed(result) => {
                        assert_eq!(self.reports.get(attempt), Some(result), "a result nobody reported");
                        assert!(self.begun.contains_key(attempt), "a result of an attempt that was not begun");
                        self.results.insert(attempt.task, (*attempt, *result));
                    }
                    Settled::Failed => assert!(self.failed.insert(attempt.task), "a task fails twice"),
                    Settled::Again => {}
                }
            }
            Op::KeepRun { epoch, .. } | Op::End { epoch } | Op::Offer { epoch, .. } => {
                assert_eq!(*epoch, self.epoch, "a stale manager writes");
            }
            Op::Withdraw { epoch, .. } => {
                assert_eq!(*epoch, self.epoch, "a stale manager writes");
                let Found::Attempts(attempts) = found else { panic!("{found:?}") };
                self.recalled.extend(attempts);
                // What was not begun may be offered again under its number, when the manager is replaced meanwhile.
                let begun = &self.begun;
                self.claims.retain(|attempt, _| !attempts.contains(attempt) || begun.contains_key(attempt));
            }
            Op::Load => {
                let Found::All(tasks, _) = found else { panic!("{found:?}") };
                self.check_tasks(tasks);
            }
            Op::Pass { .. } | Op::Renew { .. } | Op::Reap | Op::Answered => {}
        }
    }

    fn begins(&mut self, who: Who, attempt: Attempt, may_overlap: bool) {
        assert_eq!(self.claims.get(&attempt), Some(&who), "a stranger begins {attempt:?}");
        assert!(!self.reports.contains_key(&attempt), "{attempt:?} begins after its report");
        assert!(!self.results.contains_key(&attempt.task), "a completed task begins again");
        assert!(!self.failed.contains(&attempt.task), "a failed task begins again");
        assert_eq!(self.begun.insert(attempt, who), None, "{attempt:?} is begun twice");
        let latest = self.latest.insert(attempt.task, attempt.number).unwrap_or(0);
        assert_eq!(attempt.number, latest + 1, "an attempt is left out");
        for need in &self.needs[attempt.task as usize] {
            assert!(self.results.contains_key(need), "{attempt:?} begins before task {need} is done");
        }
        let is_other = |it: &&Attempt| it.task == attempt.task && !self.recalled.contains(it);
        let is_acting = self.acting.values().flatten().any(|it| is_other(&it));
        assert!(may_overlap || !is_acting, "two workers make task {} at once", attempt.task);
    }

    fn check_tasks(&self, tasks: &[(Status, u32, Option<u64>)]) {
        for (task, (status, _, result)) in (0_u32..).zip(tasks) {
            let expected = self.results.get(&task).map(|(_, result)| *result);
            assert_eq!(*result, expected, "the result of task {task} is lost or another");
            assert_eq!(*status == Status::Completed, expected.is_some(), "task {task}");
            assert_eq!(*status == Status::Failed, self.failed.contains(&task), "task {task}");
        }
    }

    /// Every task has a result, failed, or waits for one that failed; nothing is offered.
    pub(super) fn check_end(&self, tasks: &[(Status, u32, Option<u64>)], offers: &[(Attempt, State)]) {
        self.check_tasks(tasks);
        assert_eq!(offers, [], "something is offered after the end");
        for (task, (status, ..)) in (0_u32..).zip(tasks) {
            match status {
                Status::Completed | Status::Failed => {}
                Status::Pending => assert!(self.is_blocked(task), "task {task} is left over"),
                Status::InProgress => panic!("task {task} is under way after the end"),
            }
        }
    }

    fn is_blocked(&self, task: u32) -> bool {
        self.needs[task as usize].iter().any(|need| self.failed.contains(need) || self.is_blocked(*need))
    }
}
