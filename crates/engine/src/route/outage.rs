//! Tasks that wait because no model of their chain serves anybody at the moment.
//!
//! A model is down when its breaker lets no call pass, when it fails the one call that was let through to see, or when its
//! provider says itself that it serves nobody. A task whose whole chain is down parks: that is no failure of the task, and no
//! try of it is used up. It goes on when a model of its chain answers again, or may be asked to see.
//!
//! **Invariant:** no task wakes while every model of its chain lets no call pass, unless it has waited long enough to give up.
//! **Invariant:** of the tasks that wait for a half-open model one wakes to ask it; the others follow when it answered.
//! **Invariant:** a task that waits wakes within [`LOOK`] of the moment when a model of its chain is closed again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crewline_types::{ModelAlias, Timestamp};

use super::breaker::Pass;

/// How often the breakers are looked at while tasks wait: another run may have found that a model answers.
pub const LOOK: Duration = Duration::from_secs(2);

/// What asking one model led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// Its breaker let no call pass.
    Shut,
    /// It failed the call that was let through to see.
    Probed,
    /// Its provider says that it serves nobody now, or can not be reached.
    NoService,
    /// It failed otherwise, or answered and that was no good: it may be the question.
    Other,
}

/// Whether a chain is down as a whole, as far as it was asked.
pub fn is_down(signs: impl IntoIterator<Item = Sign>) -> bool {
    signs.into_iter().all(|sign| match sign {
        Sign::Shut | Sign::Probed | Sign::NoService => true,
        Sign::Other => false,
    })
}

/// The tasks of a run that wait for their models.
#[derive(Debug, Clone, Default)]
pub struct Lot {
    parked: BTreeMap<u32, Vec<ModelAlias>>,
    /// Since when each task has found its chain down, across its looks at half-open models.
    since: BTreeMap<u32, Timestamp>,
}

/// What a look at the breakers led to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Look {
    /// These go on now; they are no longer in the lot.
    pub wake: Vec<u32>,
    /// When to look again; `None` when nobody waits.
    pub next: Option<Timestamp>,
}

impl Lot {
    /// Takes in a task that found all of `models` down. False when it has waited for `outage_max` already: then it fails.
    pub fn park(&mut self, task: u32, models: Vec<ModelAlias>, now: Timestamp, outage_max: Duration) -> bool {
        let since = *self.since.entry(task).or_insert(now);
        if now.since(since) >= outage_max {
            self.since.remove(&task);
            return false;
        }
        self.parked.insert(task, models);
        true
    }

    /// A task found a model that serves, or waits no longer: its outage is over. Whether it was waiting.
    pub fn forget(&mut self, task: u32) -> bool {
        self.since.remove(&task);
        self.parked.remove(&task).is_some()
    }

    /// How many tasks wait.
    pub fn len(&self) -> usize {
        self.parked.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }

    /// Who goes on at `now`, by what `pass` says of a model's breaker without asking it for a call.
    pub fn look(&mut self, now: Timestamp, outage_max: Duration, pass: impl Fn(&ModelAlias) -> Pass) -> Look {
        let mut look = Look::default();
        let mut probed: BTreeSet<&ModelAlias> = BTreeSet::new();
        let mut next = now.after(LOOK);
        for (task, models) in &self.parked {
            let give_up = self.since.get(task).map_or(now, |since| since.after(outage_max));
            let mut probe = None;
            let mut may_pass = now >= give_up;
            for model in models {
                match pass(model) {
                    Pass::Yes => may_pass = true,
                    Pass::Probe if !probed.contains(model) => probe = probe.or(Some(model)),
                    Pass::Probe => {}
                    Pass::Not { until } => next = next.min(until.max(now.after(Duration::from_millis(1)))),
                }
            }
            if may_pass {
                look.wake.push(*task);
            } else if let Some(model) = probe {
                probed.insert(model);
                look.wake.push(*task);
            } else {
                next = next.min(give_up);
            }
        }
        for task in &look.wake {
            self.parked.remove(task);
        }
        look.next = (!self.parked.is_empty()).then_some(next);
        look
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{
        route::breaker::{Breaker, Rules},
        schedule::simulation::Rng,
    };

    const HOUR: Duration = Duration::from_hours(1);
    const SECOND: i64 = 1_000_000;

    fn chain(names: &[&str]) -> Vec<ModelAlias> {
        names.iter().map(|it| ModelAlias::from(*it)).collect()
    }

    #[test]
    fn a_chain_is_down_only_as_a_whole() {
        assert!(is_down([Sign::Shut, Sign::Probed, Sign::NoService]));
        assert!(!is_down([Sign::Shut, Sign::Other]));
        assert!(is_down([]), "nothing was found that serves");
    }

    #[test]
    fn one_task_asks_a_half_open_model_and_the_others_follow() {
        let mut lot = Lot::default();
        for task in 0..3 {
            assert!(lot.park(task, chain(&["a"]), Timestamp(0), HOUR));
        }
        let shut = lot.look(Timestamp(1), HOUR, |_| Pass::Not { until: Timestamp(SECOND) });
        assert_eq!(shut, Look { wake: Vec::new(), next: Some(Timestamp(SECOND)) });
        assert_eq!(lot.look(Timestamp(SECOND), HOUR, |_| Pass::Probe).wake, [0]);
        assert_eq!(lot.look(Timestamp(2 * SECOND), HOUR, |_| Pass::Yes), Look { wake: vec![1, 2], next: None });
        assert!(lot.is_empty());
    }

    #[test]
    fn who_waited_long_enough_gives_up() {
        let mut lot = Lot::default();
        let down = |_: &ModelAlias| Pass::Not { until: Timestamp(i64::MAX) };
        assert!(lot.park(7, chain(&["a"]), Timestamp(0), HOUR));
        assert!(lot.look(Timestamp(3_599 * SECOND), HOUR, down).wake.is_empty());
        assert_eq!(lot.look(Timestamp(3_600 * SECOND), HOUR, down).wake, [7]);
        assert!(!lot.park(7, chain(&["a"]), Timestamp(3_600 * SECOND), HOUR), "it fails now");
        assert!(lot.park(7, chain(&["a"]), Timestamp(3_601 * SECOND), HOUR), "and begins anew if it is tried again");
        lot.forget(7);
        assert!(lot.park(7, chain(&["a"]), Timestamp(9_000 * SECOND), HOUR), "an outage that is over does not count");
    }

    /// Models go down and come back at random; tasks of two chains ask them through breakers, park and wake.
    #[test]
    fn an_outage_is_waited_out_without_a_hot_loop() {
        for seed in 0..100 {
            let mut rng = Rng::new(seed);
            let names = ["a", "b", "c"];
            let mut breakers: HashMap<&str, Breaker> =
                names.iter().map(|it| (*it, Breaker::new(Rules::default()))).collect();
            let chains = [vec!["a", "b"], vec!["b", "c"]];
            // When each model is down; all of them come back after 20 minutes.
            let end = 1_200 * SECOND;
            let outage: HashMap<&str, (i64, i64)> =
                names.iter().map(|it| (*it, (0, i64::try_from(rng.below(1_200)).unwrap() * SECOND))).collect();
            let is_up = |model: &str, now: i64| now >= outage[model].1 || now >= end;
            let tasks: Vec<&Vec<&str>> = (0..40).map(|it| &chains[it % 2]).collect();
            let mut lot = Lot::default();
            let mut ready: Vec<u32> = (0..40).collect();
            let (mut now, mut calls, mut done) = (0_i64, Vec::<i64>::new(), BTreeMap::<u32, i64>::new());
            while done.len() < tasks.len() {
                assert!(now < 2 * end, "seed {seed}: {} of 40 never went on", 40 - done.len());
                for task in std::mem::take(&mut ready) {
                    let models = tasks[task as usize];
                    let mut signs = Vec::new();
                    for model in models {
                        let breaker = breakers.get_mut(model).unwrap();
                        let pass = breaker.admit(Timestamp(now));
                        if matches!(pass, Pass::Not { .. }) {
                            signs.push(Sign::Shut);
                            continue;
                        }
                        calls.push(now);
                        if is_up(model, now) {
                            breaker.succeeded();
                            lot.forget(task);
                            done.insert(task, now);
                            break;
                        }
                        breaker.failed(Timestamp(now), None);
                        signs.push(if pass == Pass::Probe { Sign::Probed } else { Sign::NoService });
                    }
                    if !done.contains_key(&task) {
                        assert!(is_down(signs), "seed {seed}");
                        for model in models {
                            breakers.get_mut(model).unwrap().trip(Timestamp(now), None);
                        }
                        let models = models.iter().map(|it| ModelAlias::from(*it)).collect();
                        assert!(lot.park(task, models, Timestamp(now), HOUR), "seed {seed}");
                    }
                }
                let look = lot.look(Timestamp(now), HOUR, |model| breakers[model.as_str()].look(Timestamp(now)));
                for task in &look.wake {
                    let shut = |it: &&str| matches!(breakers[*it].look(Timestamp(now)), Pass::Not { .. });
                    assert!(!tasks[*task as usize].iter().all(shut), "seed {seed}: woken for nothing");
                }
                ready = look.wake;
                if ready.is_empty() {
                    let Some(next) = look.next else { break };
                    assert!(next.0 > now, "seed {seed}: a hot loop");
                    now = next.0;
                }
            }
            // While every model is down: far below a call a second. What is asked at once at the beginning is not waited for.
            let all_down = outage.values().map(|it| it.1).min().unwrap();
            let during = calls.iter().filter(|at| **at > 0 && **at < all_down).count();
            let seconds = usize::try_from(all_down / SECOND).unwrap();
            assert!(during <= 3 + seconds / 3, "seed {seed}: {during} calls in {seconds} s");
            // Nobody waits longer than the longest pause after the last model came back.
            let last = outage.values().map(|it| it.1).max().unwrap().min(end);
            let slowest = *done.values().max().unwrap();
            assert!(slowest <= last + 160 * SECOND, "seed {seed}: {slowest} after {last}");
        }
    }
}
