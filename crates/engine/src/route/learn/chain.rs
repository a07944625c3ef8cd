//! Chains of models, what they are worth on known questions, and the search for those worth having.
//!
//! A chain is asked in its order: an answer that the verifier accepts is the result, and so is the answer of the last model,
//! whatever is said of it. Every model that was asked is paid.
//!
//! **Invariant:** the value of a chain on a question is exact: the mean over all verdicts, nothing is drawn.

use std::collections::HashSet;

use super::{
    frontier::{Point, upper_hull},
    group::Groups,
    outcome::{Question, Verifier},
};

/// Models of a chain at most.
const LENGTH_MAX: usize = 6;
/// Chains tried at most while every continuation is tried; above it only promising ones are continued.
const EXHAUSTIVE_MAX: usize = 5_000;
/// Chains continued at most.
const BEAM: usize = 160;

/// Models by their place in the set, in the order of asking.
pub(super) type Chain = Vec<usize>;

/// What a chain does on one question, the mean over all verdicts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Value {
    pub(super) quality: f64,
    pub(super) cost: f64,
}

/// The value of `chain` on `question`; `None` when one of its models was not asked.
pub(super) fn value(question: &Question, chain: &[usize], verifier: Option<Verifier>) -> Option<Value> {
    let mut value = Value { quality: 0.0, cost: 0.0 };
    let mut reach = 1.0;
    for (place, model) in chain.iter().enumerate() {
        let outcome = question.outcome(*model)?;
        value.cost += reach * outcome.cost;
        let is_last = place + 1 == chain.len();
        let accepts = if is_last { 1.0 } else { verifier.map_or(1.0, |it| it.accepts(outcome.correct)) };
        value.quality += reach * accepts * outcome.correct;
        reach *= 1.0 - accepts;
    }
    Some(value)
}

/// Sums over questions.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    count: f64,
    quality: f64,
    cost: f64,
    scale: f64,
}

impl Sum {
    pub(super) fn add(&mut self, value: Value, scale: f64) {
        self.count += 1.0;
        self.quality += value.quality;
        self.cost += value.cost;
        self.scale += scale;
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            quality: self.quality + other.quality,
            cost: self.cost + other.cost,
            scale: self.scale + other.scale,
        }
    }

    /// What is to be expected of the next question, of usual cost, when `prior` counts as `weight` questions.
    fn expect(self, prior: Option<Value>, weight: f64) -> Option<Value> {
        if self.count <= 0.0 {
            return prior;
        }
        let own = Value { quality: self.quality / self.count, cost: self.cost / self.scale };
        let Some(prior) = prior else { return Some(own) };
        let mix = |own: f64, prior: f64| (self.count * own + weight * prior) / (self.count + weight);
        Some(Value { quality: mix(own.quality, prior.quality), cost: mix(own.cost, prior.cost) })
    }
}

/// The chains worth having, cheapest first; `of` is the place of the chain.
pub(super) type Hull = Vec<Point<usize>>;

/// What is worth having for each task, each family, and for tasks of unknown family.
#[derive(Debug, Clone)]
pub(super) struct Hulls {
    pub(super) all: Hull,
    pub(super) families: Vec<Hull>,
    pub(super) tasks: Vec<Hull>,
}

impl Hulls {
    /// The hulls of `chains` chains; `sum` gives what is known of a chain on a task. What a family knows counts as `weight`
    /// questions of each of its tasks, what all know as `weight` questions of each family.
    pub(super) fn of(groups: &Groups, chains: usize, weight: f64, sum: impl Fn(usize, usize) -> Sum) -> Self {
        let mut all: Hull = Vec::new();
        let mut families = vec![Hull::new(); groups.families.len()];
        let mut tasks = vec![Hull::new(); groups.tasks.len()];
        for chain in 0..chains {
            let by_task: Vec<Sum> = (0..groups.tasks.len()).map(|task| sum(chain, task)).collect();
            let mut by_family = vec![Sum::default(); groups.families.len()];
            let mut total = Sum::default();
            for (task, sum) in by_task.iter().enumerate() {
                let family = &mut by_family[groups.family_of[task]];
                *family = family.plus(*sum);
                total = total.plus(*sum);
            }
            let point = |value: Value| Point { cost: value.cost, quality: value.quality, of: chain };
            let Some(usual) = total.expect(None, weight) else { continue };
            all.push(point(usual));
            let of_family: Vec<Option<Value>> = by_family.iter().map(|it| it.expect(Some(usual), weight)).collect();
            for (hull, value) in families.iter_mut().zip(&of_family) {
                hull.extend(value.map(point));
            }
            for (task, sum) in by_task.iter().enumerate() {
                let value = sum.expect(of_family[groups.family_of[task]], weight);
                tasks[task].extend(value.map(point));
            }
        }
        let sharpen = |hulls: Vec<Hull>| hulls.into_iter().map(upper_hull).collect();
        Self { all: upper_hull(all), families: sharpen(families), tasks: sharpen(tasks) }
    }

    fn all(&self) -> impl Iterator<Item = &Hull> {
        std::iter::once(&self.all).chain(&self.families).chain(&self.tasks)
    }
}

/// Searches for chains that are worth having for some task: all short ones, then continuations of the promising ones.
pub(super) fn search(
    models: usize,
    questions: &[&Question],
    groups: &Groups,
    scales: &[f64],
    verifier: Option<Verifier>,
    weight: f64,
) -> Vec<Chain> {
    let sums_of = |chain: &Chain| -> Vec<Sum> {
        let mut sums = vec![Sum::default(); groups.tasks.len()];
        for (index, question) in questions.iter().enumerate() {
            if let Some(value) = value(question, chain, verifier) {
                sums[groups.task_of[index]].add(value, scales[index]);
            }
        }
        sums
    };
    let mut kept: Vec<(Chain, Vec<Sum>)> =
        (0..models).map(|model| vec![model]).map(|it| (sums_of(&it), it)).map(swap).collect();
    // Without a verifier nobody can say when to go on.
    let length_max = if verifier.is_some() { LENGTH_MAX.min(models) } else { 1 };
    let mut parents: Vec<Chain> = kept.iter().map(|(chain, _)| chain.clone()).collect();
    for length in 2..=length_max {
        let tried = parents.len() * (models + 1 - length);
        let children: Vec<Chain> = parents
            .iter()
            .flat_map(|parent| {
                let further = (0..models).filter(|it| !parent.contains(it));
                further.map(|it| parent.iter().copied().chain([it]).collect())
            })
            .collect();
        kept.extend(children.iter().cloned().map(|it| (sums_of(&it), it)).map(swap));
        let hulls = Hulls::of(groups, kept.len(), weight, |chain, task| kept[chain].1[task]);
        // In how many hulls a chain is: what many tasks want is continued first.
        let mut wanted = vec![0_usize; kept.len()];
        hulls.all().flatten().for_each(|it| wanted[it.of] += 1);
        let mut promising: Vec<usize> = (0..kept.len()).filter(|it| wanted[*it] > 0).collect();
        promising.sort_by_key(|it| std::cmp::Reverse(wanted[*it]));
        let is_small = tried * models.saturating_sub(length) <= EXHAUSTIVE_MAX;
        let old = kept.len() - children.len();
        if !is_small && promising.iter().all(|it| *it < old) {
            break;
        }
        parents = if is_small {
            children
        } else {
            let fresh = promising.iter().filter(|it| kept[**it].0.len() == length).take(BEAM);
            fresh.map(|it| kept[*it].0.clone()).collect()
        };
        if !is_small {
            // Single models stay: what is missing on some questions may leave nothing else.
            let keep: HashSet<usize> = promising.into_iter().chain(0..models).collect();
            let mut place = 0;
            kept.retain(|_| {
                place += 1;
                keep.contains(&(place - 1))
            });
        }
    }
    let hulls = Hulls::of(groups, kept.len(), weight, |chain, task| kept[chain].1[task]);
    let keep: HashSet<usize> = hulls.all().flatten().map(|it| it.of).chain(0..models).collect();
    kept.into_iter().enumerate().filter(|(place, _)| keep.contains(place)).map(|(_, (chain, _))| chain).collect()
}

fn swap((sums, chain): (Vec<Sum>, Chain)) -> (Chain, Vec<Sum>) {
    (chain, sums)
}

#[cfg(test)]
mod tests {
    use super::{super::outcome::Outcome, *};

    fn question(id: usize, outcomes: &[(f64, f64)]) -> Question {
        let outcomes =
            outcomes.iter().map(|(correct, cost)| Some(Outcome { correct: *correct, cost: *cost })).collect();
        Question { id: id.to_string(), task: "t".into(), chars: 10, outcomes }
    }

    #[test]
    fn a_chain_pays_all_it_asks_and_gives_its_last_answer() {
        let verifier = Verifier::new(0.9, 0.8);
        let close = |value: Option<Value>, quality: f64, cost: f64| {
            let value = value.unwrap();
            assert!((value.quality - quality).abs() < 1e-12 && (value.cost - cost).abs() < 1e-12, "{value:?}");
        };
        // Wrong, then right: accepted by mistake in 2 of 10 cases.
        let wrong_right = question(0, &[(0.0, 1.0), (1.0, 10.0)]);
        close(value(&wrong_right, &[0, 1], verifier), 0.8, 9.0);
        // Right, then wrong: rejected by mistake in 1 of 10 cases, and the last answer counts.
        let right_wrong = question(1, &[(1.0, 1.0), (0.0, 10.0)]);
        close(value(&right_wrong, &[0, 1], verifier), 0.9, 2.0);
        close(value(&right_wrong, &[1], verifier), 0.0, 10.0);
        assert_eq!(value(&right_wrong, &[0, 2], verifier), None);
    }

    #[test]
    fn the_search_finds_the_cascade_of_the_three_that_pay() {
        // 0 cheap and right half of the time, 1 as dear as useless, 2 right on what 0 is not, 3 right on everything.
        let questions: Vec<Question> = (0..40)
            .map(|id| {
                let first = f64::from(u8::from(id % 2 == 0));
                let second = f64::from(u8::from(id % 4 != 0));
                question(id, &[(first, 1.0), (0.0, 50.0), (second, 4.0), (1.0, 100.0)])
            })
            .collect();
        let known: Vec<&Question> = questions.iter().collect();
        let groups = Groups::of(&known);
        let chains = search(4, &known, &groups, &[1.0; 40], Verifier::new(1.0, 1.0), 10.0);
        assert!(chains.contains(&vec![0, 2]), "{chains:?}");
        assert!(chains.iter().all(|it| it.len() == 1 || !it.contains(&1)), "{chains:?}");
        // Without a verifier there is nothing to go on from.
        let chains = search(4, &known, &groups, &[1.0; 40], None, 10.0);
        assert!(chains.iter().all(|it| it.len() == 1));
    }
}
