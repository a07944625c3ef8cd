//! What the checks of criteria are worth: how often each accepts, how often another one of the same answer does not, and how
//! often what came later shows that it was right.
//!
//! A cascade is only as good as its verifier. An answer that one check accepts and another rejects was accepted in vain by the first;
//! one that a single check rejects would have passed without it. What an answer turned out to be is told by [`later`].
//!
//! **Invariant:** only what was recorded counts; nothing is asked.

use std::collections::{BTreeMap, HashMap, HashSet};

use crewline_store::Store;
use crewline_types::{Event, EventBody, RunId, TaskId, event::CheckResult};
use serde::Serialize;

use crate::{
    Error,
    later::{self, Answer, Later, Seen},
};

/// Answers that are looked at, newest first.
const ANSWERS_MAX: u32 = 20_000;
/// Runs in which later outcomes are looked for, newest first.
const RUNS_MAX: usize = 500;
/// Runs among which those that were made from others are looked for, newest first.
const CHILDREN_MAX: u32 = 5_000;

/// What a kind of check did.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct VerifierReport {
    /// Verdicts.
    pub answers: u64,
    /// Answers it accepted.
    pub accepted: u64,
    /// Answers it accepted and another check rejected.
    pub accepted_in_vain: u64,
    /// Answers that it alone rejected.
    pub rejected_alone: u64,
    /// Verdicts whose answer turned out good or bad later.
    pub later: LaterReport,
    /// The share of the good answers that it accepted; none where none is known.
    pub true_accept_rate: Option<f64>,
    /// The share of the bad answers that it accepted; none where none is known.
    pub false_accept_rate: Option<f64>,
}

/// Verdicts beside what the answers turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct LaterReport {
    /// Good answers it accepted: true accepts.
    pub good_accepted: u64,
    /// Good answers it rejected: false rejects.
    pub good_rejected: u64,
    /// Bad answers it accepted: false accepts.
    pub bad_accepted: u64,
    /// Bad answers it rejected: true rejects.
    pub bad_rejected: u64,
}

fn share(part: u64, rest: u64) -> Option<f64> {
    let all = part + rest;
    (all > 0).then(|| part as f64 / all as f64)
}

/// What each kind of check did with the last answers, by its name.
pub async fn verifiers(store: &Store) -> Result<BTreeMap<String, VerifierReport>, Error> {
    let mut reports = BTreeMap::new();
    let mut runs: Vec<RunId> = Vec::new();
    let mut by_run: HashMap<RunId, Vec<Event>> = HashMap::new();
    for event in store.checked_answers(ANSWERS_MAX).await? {
        if let EventBody::ModelCall { checks, .. } = &event.body {
            add(&mut reports, checks);
        }
        if !by_run.contains_key(&event.run) {
            runs.push(event.run);
        }
        by_run.entry(event.run).or_default().push(event);
    }
    runs.truncate(RUNS_MAX);
    let mut children: HashMap<RunId, Vec<RunId>> = HashMap::new();
    if !runs.is_empty() {
        for row in store.runs(None, CHILDREN_MAX).await? {
            if let Some(lineage) = row.lineage {
                children.entry(lineage.parent).or_default().push(row.id);
            }
        }
    }
    for run in runs {
        let mut events = by_run.remove(&run).unwrap_or_default();
        events.sort_unstable_by_key(|event| event.seq);
        let children = children.get(&run).map_or(&[][..], Vec::as_slice);
        add_later(store, run, &events, children, &mut reports).await?;
    }
    for report in reports.values_mut() {
        let later = &report.later;
        report.true_accept_rate = share(later.good_accepted, later.good_rejected);
        report.false_accept_rate = share(later.bad_accepted, later.bad_rejected);
    }
    Ok(reports)
}

fn add(reports: &mut BTreeMap<String, VerifierReport>, checks: &[CheckResult]) {
    let rejections = checks.iter().filter(|it| !it.passed).count();
    for check in checks {
        let report = reports.entry(check.verifier.to_string()).or_default();
        report.answers += 1;
        report.accepted += u64::from(check.passed);
        report.accepted_in_vain += u64::from(check.passed && rejections > 0);
        report.rejected_alone += u64::from(!check.passed && rejections == 1);
    }
}

async fn add_later(
    store: &Store,
    run: RunId,
    events: &[Event],
    children: &[RunId],
    reports: &mut BTreeMap<String, VerifierReport>,
) -> Result<(), Error> {
    let replies: HashMap<String, _> =
        store.calls(run).await?.into_iter().map(|call| (call.id.to_string(), call.reply)).collect();
    let answers: Vec<Answer> = events
        .iter()
        .filter_map(|event| match &event.body {
            EventBody::ModelCall { call, checks, .. } => Some(Answer {
                task: event.task?,
                seq: event.seq,
                reply: replies.get(&**call).copied().flatten(),
                checks: checks.clone(),
            }),
            _ => None,
        })
        .collect();
    let tasks = store.tasks(run).await?;
    let seen = Seen {
        tasks: &tasks,
        links: &store.links(run).await?,
        answers: &answers,
        by_hand: &store.events_of_kind(run, "task_changed").await?,
        made_again: &made_again(store, run, children).await?,
    };
    for (answer, outcome) in answers.iter().zip(later::outcomes(&seen)) {
        let Some(outcome) = outcome else { continue };
        for check in &answer.checks {
            let later = &mut reports.entry(check.verifier.to_string()).or_default().later;
            match (outcome, check.passed) {
                (Later::Good, true) => later.good_accepted += 1,
                (Later::Good, false) => later.good_rejected += 1,
                (Later::Bad, true) => later.bad_accepted += 1,
                (Later::Bad, false) => later.bad_rejected += 1,
            }
        }
    }
    Ok(())
}

/// The tasks of `run` that were made again in one of `children` although nothing they were given had changed: somebody wanted
/// another answer.
async fn made_again(store: &Store, run: RunId, children: &[RunId]) -> Result<HashSet<TaskId>, Error> {
    let mut found = HashSet::new();
    if children.is_empty() {
        return Ok(found);
    }
    let mut inputs = HashSet::new();
    for attempt in store.attempts(run).await? {
        if let Some(hash) = attempt.input_hash {
            inputs.insert((attempt.id.task, hash));
        }
    }
    let keys = store.keys(run).await?;
    let by_key: HashMap<_, TaskId> = keys.iter().map(|(task, key)| (key.clone(), *task)).collect();
    for child in children {
        let keys = store.keys(*child).await?;
        for attempt in store.attempts(*child).await? {
            let original = keys.get(&attempt.id.task).and_then(|key| by_key.get(key));
            if let (Some(task), Some(hash)) = (original, attempt.input_hash)
                && inputs.contains(&(*task, hash))
            {
                found.insert(*task);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_counts_for_all_its_checks() {
        let check = |verifier: &str, passed| CheckResult {
            criterion: "c".into(),
            verifier: verifier.into(),
            passed,
            evidence: "e".into(),
        };
        let mut reports = BTreeMap::new();
        add(&mut reports, &[check("regex", true), check("length", false)]);
        add(&mut reports, &[check("regex", true), check("length", true)]);
        add(&mut reports, &[check("regex", false), check("length", false)]);
        let expected = VerifierReport {
            answers: 3,
            accepted: 2,
            accepted_in_vain: 1,
            rejected_alone: 0,
            ..VerifierReport::default()
        };
        assert_eq!(reports["regex"], expected);
        let expected = VerifierReport {
            answers: 3,
            accepted: 1,
            accepted_in_vain: 0,
            rejected_alone: 1,
            ..VerifierReport::default()
        };
        assert_eq!(reports["length"], expected);
    }
}
