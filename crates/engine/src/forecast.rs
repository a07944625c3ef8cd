//! What a plan may cost and how long it may take: rounds of chance over what earlier tasks came to.
//!
//! In each round every task becomes one of the earlier ones of its role: it costs as much, takes as long, and fails when that one
//! failed; what requires a failed task is not done. The tasks are taken as a run takes them: whenever a place is free, the most
//! urgent of those that are ready. Over all rounds the median and the ninth decile are given.
//!
//! **Invariant:** the same tasks, samples and seed give the same forecast, on every machine.
//! **Invariant:** no round depends on the one before it, and a round is O(n log n).

use std::{cmp::Reverse, collections::BinaryHeap, num::NonZeroUsize, sync::Arc};

use crewline_types::MicroUsd;
use serde::Serialize;

/// Draws of tasks at most, in all rounds.
const DRAWS_MAX: usize = 4_000_000;
/// Rounds at most.
const ROUNDS_MAX: usize = 2_000;
/// Rounds at least.
const ROUNDS_MIN: usize = 20;

/// What an earlier task came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// What its calls cost.
    pub cost: MicroUsd,
    /// How long they took, in milliseconds.
    pub millis: u64,
    /// Whether it was completed.
    pub is_done: bool,
}

/// A task of the plan.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The tasks it requires, as indexes.
    pub needs: Vec<u32>,
    /// Among tasks that are ready the higher one goes first.
    pub urgency: u64,
    /// Earlier tasks like it, never empty.
    pub samples: Arc<[Sample]>,
}

/// The median and the ninth decile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Spread {
    /// Half of the rounds stay below it.
    pub p50: u64,
    /// Nine of ten rounds stay below it.
    pub p90: u64,
}

/// What the rounds say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Forecast {
    /// Rounds.
    pub rounds: usize,
    /// Micro-dollars.
    pub cost: Spread,
    /// Milliseconds from the first start to the last end.
    pub time: Spread,
    /// Milliseconds of the longest way: the time with a place for every task.
    pub path: Spread,
    /// The share of rounds in which every task is done.
    pub done: f64,
    /// For each task, the share of rounds in which it is on the longest way.
    pub critical: Vec<f64>,
}

/// Plays the plan; `needs` must have no circle, as in every plan that was checked.
pub fn forecast(tasks: &[Expected], workers: Option<NonZeroUsize>, seed: u64) -> Forecast {
    let Some(each) = DRAWS_MAX.checked_div(tasks.len()) else { return Forecast::default() };
    let rounds = each.clamp(ROUNDS_MIN, ROUNDS_MAX);
    let shape = Shape::of(tasks);
    let mut rng = Rng(seed);
    let (mut costs, mut times, mut paths) = (Vec::new(), Vec::new(), Vec::new());
    let (mut done, mut critical) = (0_usize, vec![0_usize; tasks.len()]);
    for _ in 0..rounds {
        let drawn: Vec<Sample> = tasks.iter().map(|task| rng.pick(&task.samples)).collect();
        let round = shape.play(tasks, &drawn, workers);
        costs.push(round.cost);
        times.push(round.time);
        paths.push(shape.longest_way(tasks, &drawn, &round.is_reached, &mut critical));
        done += usize::from(round.is_done);
    }
    let share = |count: usize| count as f64 / rounds as f64;
    Forecast {
        rounds,
        cost: spread(costs),
        time: spread(times),
        path: spread(paths),
        done: share(done),
        critical: critical.into_iter().map(share).collect(),
    }
}

fn spread(mut values: Vec<u64>) -> Spread {
    values.sort_unstable();
    let at = |part: usize| values.get((values.len() * part).div_ceil(10).saturating_sub(1)).copied().unwrap_or(0);
    Spread { p50: at(5), p90: at(9) }
}

/// Who requires whom.
struct Shape {
    dependents: Vec<Vec<usize>>,
    /// Every task after those it requires.
    order: Vec<usize>,
}

/// One round.
struct Round {
    cost: u64,
    time: u64,
    is_done: bool,
    /// Whether each task ran.
    is_reached: Vec<bool>,
}

impl Shape {
    fn of(tasks: &[Expected]) -> Self {
        let mut dependents = vec![Vec::new(); tasks.len()];
        for (place, task) in tasks.iter().enumerate() {
            for need in &task.needs {
                dependents[*need as usize].push(place);
            }
        }
        let mut waits: Vec<usize> = tasks.iter().map(|task| task.needs.len()).collect();
        let mut order: Vec<usize> = (0..tasks.len()).filter(|place| waits[*place] == 0).collect();
        let mut next = 0;
        while let Some(at) = order.get(next).copied() {
            next += 1;
            for place in &dependents[at] {
                waits[*place] -= 1;
                if waits[*place] == 0 {
                    order.push(*place);
                }
            }
        }
        Self { dependents, order }
    }

    /// Takes the tasks as a run does.
    fn play(&self, tasks: &[Expected], drawn: &[Sample], workers: Option<NonZeroUsize>) -> Round {
        let places = workers.map_or(usize::MAX, NonZeroUsize::get);
        let mut waits: Vec<usize> = tasks.iter().map(|task| task.needs.len()).collect();
        let first = self.order.iter().copied().filter(|place| waits[*place] == 0);
        // Of equals the one that stands first in the plan.
        let mut ready: BinaryHeap<(u64, Reverse<usize>)> =
            first.map(|place| (tasks[place].urgency, Reverse(place))).collect();
        let mut running: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
        let mut round = Round { cost: 0, time: 0, is_done: false, is_reached: vec![false; tasks.len()] };
        let mut done = 0;
        loop {
            while running.len() < places
                && let Some((_, Reverse(place))) = ready.pop()
            {
                round.is_reached[place] = true;
                round.cost = round.cost.saturating_add(drawn[place].cost.0);
                running.push(Reverse((round.time.saturating_add(drawn[place].millis), place)));
            }
            let Some(Reverse((now, place))) = running.pop() else { break };
            round.time = now;
            if !drawn[place].is_done {
                continue;
            }
            done += 1;
            for dependent in &self.dependents[place] {
                waits[*dependent] -= 1;
                if waits[*dependent] == 0 {
                    ready.push((tasks[*dependent].urgency, Reverse(*dependent)));
                }
            }
        }
        round.is_done = done == tasks.len();
        round
    }

    /// The length of the longest way through what ran, whose tasks are counted in `critical`. Of ways as long the one of more
    /// tasks: a task that takes no time is on it as well.
    fn longest_way(&self, tasks: &[Expected], drawn: &[Sample], is_reached: &[bool], critical: &mut [usize]) -> u64 {
        // When each task ends, and how many tasks lead there.
        let mut ends = vec![(0_u64, 0_usize); tasks.len()];
        let mut before: Vec<Option<usize>> = vec![None; tasks.len()];
        let mut last: Option<usize> = None;
        for place in self.order.iter().copied().filter(|place| is_reached[*place]) {
            let needs = tasks[place].needs.iter().map(|need| *need as usize);
            before[place] = needs.max_by_key(|need| (ends[*need], Reverse(*need)));
            let (start, steps) = before[place].map_or((0, 0), |need| ends[need]);
            ends[place] = (start.saturating_add(drawn[place].millis), steps + 1);
            if last.is_none_or(|it| ends[place] > ends[it]) {
                last = Some(place);
            }
        }
        let length = last.map_or(0, |place| ends[place].0);
        while let Some(place) = last {
            critical[place] += 1;
            last = before[place];
        }
        length
    }
}

/// `SplitMix64` (Steele, Lea, Flood 2014).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// One of `samples`; nothing at all when there is none.
    fn pick(&mut self, samples: &[Sample]) -> Sample {
        let drawn = self.next();
        let nothing = Sample { cost: MicroUsd::ZERO, millis: 0, is_done: true };
        let Some(place) = drawn.checked_rem(samples.len() as u64) else { return nothing };
        usize::try_from(place).ok().and_then(|place| samples.get(place)).copied().unwrap_or(nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(cost: u64, millis: u64) -> Sample {
        Sample { cost: MicroUsd(cost), millis, is_done: true }
    }

    fn task(needs: &[u32], samples: &[Sample]) -> Expected {
        Expected { needs: needs.to_vec(), urgency: 0, samples: samples.into() }
    }

    fn workers(count: usize) -> Option<NonZeroUsize> {
        NonZeroUsize::new(count)
    }

    #[test]
    fn what_is_certain_is_forecast_exactly() {
        // A diamond: 1 s, then 2 s and 4 s, then 1 s.
        let one = |millis| [sample(10, millis)];
        let tasks =
            [task(&[], &one(1_000)), task(&[0], &one(2_000)), task(&[0], &one(4_000)), task(&[1, 2], &one(1_000))];
        let wide = forecast(&tasks, None, 1);
        let both = |value| Spread { p50: value, p90: value };
        assert_eq!((wide.cost, wide.time, wide.path), (both(40), both(6_000), both(6_000)));
        assert_eq!((wide.done, wide.critical), (1.0, vec![1.0, 0.0, 1.0, 1.0]));
        let narrow = forecast(&tasks, workers(1), 1);
        assert_eq!((narrow.time, narrow.path), (both(8_000), both(6_000)));
        assert_eq!(forecast(&[], None, 1), Forecast::default());
    }

    #[test]
    fn what_takes_no_time_is_on_the_longest_way_too() {
        let (quick, slow) = ([sample(1, 0)], [sample(1, 5)]);
        let tasks = [task(&[], &slow), task(&[0], &quick), task(&[1], &quick), task(&[], &slow)];
        assert_eq!(forecast(&tasks, None, 1).critical, [1.0, 1.0, 1.0, 0.0]);
    }

    #[test]
    fn chance_is_spread_and_repeats_with_its_seed() {
        // One of ten is ten times as dear.
        let mut samples = vec![sample(100, 100); 9];
        samples.push(sample(1_000, 1_000));
        let tasks = vec![task(&[], &samples); 40];
        let found = forecast(&tasks, workers(4), 7);
        assert_eq!(found, forecast(&tasks, workers(4), 7));
        // 40 · 190 on average; the spread of 40 draws is about 1,700.
        assert!((6_500..=8_500).contains(&found.cost.p50), "{found:?}");
        assert!(found.cost.p90 > found.cost.p50 && found.cost.p90 <= 12_000, "{found:?}");
        assert!(found.time.p50 >= found.path.p50, "{found:?}");
    }

    #[test]
    fn a_failed_task_takes_what_requires_it_along() {
        let fails = Sample { is_done: false, ..sample(5, 1_000) };
        let tasks = [task(&[], &[fails]), task(&[0], &[sample(100, 9_000)])];
        let found = forecast(&tasks, None, 3);
        assert_eq!((found.cost.p90, found.time.p90, found.done), (5, 1_000, 0.0));
        assert_eq!(found.critical, [1.0, 0.0]);
    }

    #[test]
    fn a_large_plan_takes_fewer_rounds() {
        let tasks = vec![task(&[], &[sample(1, 1)]); 100_000];
        assert_eq!(forecast(&tasks, workers(8), 1).rounds, 40);
    }
}
