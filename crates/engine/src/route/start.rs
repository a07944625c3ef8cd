//! Where on its chain a role starts: learned from what came of earlier calls.
//!
//! For each (role, task kind) and model the table counts answers that were accepted and answers that were not. Asking from rung `s`
//! on costs `J(s) = c(s) + (1 − p(s)) · J(s + 1)` on average, where `c` is what a call costs, `p` how often its answer is
//! accepted, and `J` after the last rung a penalty for failing. Chosen is the `s` with the least `J`, computed with the optimistic
//! `p + sqrt(ln t / 2n)` after `n` of `t` calls, so that a model that was tried little is tried again.
//!
//! The regret after `T` tasks (what it cost more than always starting at the best rung) is at most
//! `J_max · K · (2 · sqrt(2 · T · ln(K · T)) + 4)` for `K` rungs of which none costs more than `J_max` together with the penalty: with
//! high probability the optimistic `J` is no more than the best one, so a task costs at most the widths
//! `sqrt(ln t / 2n)` of the rungs it asks, times `J_max`, more than that; `sqrt(1/n)` summed over the calls of a rung is at most
//! `2 · sqrt(T)`, and twice that covers both sides of the interval (as for UCB1, Auer et al. 2002, over the rungs of a cascade,
//! Kveton et al. 2015). A test compares.
//!
//! **Invariant:** deterministic: the same table gives the same start, so a replay decides the same.

use std::collections::HashMap;

use crewline_types::{ModelAlias, Role, TaskKind};

/// The penalty for a chain that fails, in costs of the whole chain.
const FAILURE_PENALTY: f64 = 2.0;

/// Pairs of role and kind that are learned about.
const PAIRS_MAX: usize = 4_096;

/// What came of the calls to one model for one role and kind of task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Answers that were accepted.
    pub accepted: u64,
    /// Answers that were rejected.
    pub rejected: u64,
}

impl Tally {
    /// All answers.
    pub fn answers(self) -> u64 {
        self.accepted.saturating_add(self.rejected)
    }
}

/// What came of the crew's calls, by role, kind of task and model.
#[derive(Debug, Clone, Default)]
pub struct Learned(HashMap<(Role, TaskKind), HashMap<ModelAlias, Tally>>);

impl Learned {
    /// Counts answers of a model.
    pub fn add(&mut self, role: &Role, kind: TaskKind, model: &ModelAlias, tally: Tally) {
        // Plans may invent roles without end; those beyond the limit are not learned about.
        if self.0.len() >= PAIRS_MAX && self.of(role, kind).is_none() {
            return;
        }
        let known = self.0.entry((role.clone(), kind)).or_default().entry(model.clone()).or_default();
        known.accepted = known.accepted.saturating_add(tally.accepted);
        known.rejected = known.rejected.saturating_add(tally.rejected);
    }

    /// One answer that counts as accepted was rejected after all.
    pub fn take_back(&mut self, role: &Role, kind: TaskKind, model: &ModelAlias) {
        let models = self.0.get_mut(&(role.clone(), kind));
        if let Some(tally) = models.and_then(|it| it.get_mut(model)).filter(|it| it.accepted > 0) {
            tally.accepted -= 1;
            tally.rejected = tally.rejected.saturating_add(1);
        }
    }

    /// What is known of the models for a role and kind of task.
    pub fn of(&self, role: &Role, kind: TaskKind) -> Option<&HashMap<ModelAlias, Tally>> {
        self.0.get(&(role.clone(), kind))
    }
}

/// A rung as the choice of the start sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Known {
    /// What a call costs, in any unit.
    pub(super) cost: f64,
    pub(super) tally: Tally,
}

/// The rung to start at.
pub(super) fn start(rungs: &[Known]) -> usize {
    let calls: u64 = rungs.iter().map(|it| it.tally.answers()).sum();
    // Without any answer everything is as good as the first, which is the cheapest.
    let log = (calls.max(1) as f64).ln();
    let mut after = FAILURE_PENALTY * rungs.iter().map(|it| it.cost).sum::<f64>();
    let mut best = (0, f64::INFINITY);
    for (place, rung) in rungs.iter().enumerate().rev() {
        let answers = rung.tally.answers() as f64;
        let accepts = if answers > 0.0 {
            (rung.tally.accepted as f64 / answers + (log / (2.0 * answers)).sqrt()).min(1.0)
        } else {
            1.0
        };
        after = rung.cost + (1.0 - accepts) * after;
        if after <= best.1 {
            best = (place, after);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::simulation::Rng;

    fn known(cost: f64, accepted: u64, rejected: u64) -> Known {
        Known { cost, tally: Tally { accepted, rejected } }
    }

    #[test]
    fn the_start_is_where_the_expected_cost_is_least() {
        assert_eq!(start(&[]), 0);
        assert_eq!(start(&[known(1.0, 0, 0), known(10.0, 0, 0)]), 0, "nothing known: cheapest first");
        assert_eq!(start(&[known(1.0, 60, 40), known(10.0, 100, 0)]), 0, "right often enough for its price");
        assert_eq!(start(&[known(1.0, 0, 500), known(10.0, 495, 5)]), 1, "never right: not worth its price");
        assert_eq!(start(&[known(1.0, 0, 3), known(10.0, 3, 0)]), 0, "three failures prove little");
        assert_eq!(start(&[known(1.0, 0, 900), known(2.0, 0, 900), known(10.0, 900, 0)]), 2);
    }

    /// What starting at each rung really costs, on average.
    fn costs(rungs: &[(f64, f64)]) -> Vec<f64> {
        let mut after = FAILURE_PENALTY * rungs.iter().map(|it| it.0).sum::<f64>();
        let mut costs: Vec<f64> = rungs
            .iter()
            .rev()
            .map(|(cost, accepts)| {
                after = cost + (1.0 - accepts) * after;
                after
            })
            .collect();
        costs.reverse();
        costs
    }

    #[test]
    fn regret_stays_below_its_bound_and_fades() {
        for seed in 1..=20 {
            let mut rng = Rng::new(seed);
            let mut chance = |low: f64, high: f64| low + (high - low) * (rng.below(1_000) as f64 / 1_000.0);
            let k = 2 + usize::try_from(seed % 3).unwrap();
            let rungs: Vec<(f64, f64)> = (0..k)
                .map(|it| (10_f64.powf(f64::from(u8::try_from(it).unwrap()) * 0.7), chance(0.05, 0.99)))
                .collect();
            let costs = costs(&rungs);
            let best = costs.iter().copied().fold(f64::INFINITY, f64::min);
            let worst = rungs.iter().map(|it| it.0).sum::<f64>() * (1.0 + FAILURE_PENALTY);
            let mut tallies: Vec<Known> = rungs.iter().map(|it| known(it.0, 0, 0)).collect();
            let (mut regret, mut early) = (0.0, 0.0);
            let tasks = 4_000;
            for task in 1..=tasks {
                let from = start(&tallies);
                regret += costs[from] - best;
                for place in from..k {
                    let accepted = rng.below(1_000_000) as f64 / 1e6 < rungs[place].1;
                    tallies[place].tally.accepted += u64::from(accepted);
                    tallies[place].tally.rejected += u64::from(!accepted);
                    if accepted {
                        break;
                    }
                }
                if task == tasks / 4 {
                    early = regret;
                }
                let (t, k) = (f64::from(task), f64::from(u8::try_from(k).unwrap()));
                let bound = worst * k * (2.0 * (2.0 * t * (k * t).ln()).sqrt() + 4.0);
                assert!(regret <= bound, "seed {seed}: {regret} > {bound} after {task}");
            }
            assert!(
                regret - early <= 1.5 * early + 0.02 * worst * f64::from(tasks),
                "seed {seed}: {early} then {regret}"
            );
        }
    }
}
