//! Learns which models to ask, in which order, from questions that several models answered.
//!
//! For each task the policy holds the chains worth having, from the cheapest to the best. What a dollar is worth (`lambda`, in
//! quality per dollar) picks one of them for each question: the same price everywhere is what spends a budget best. A task with
//! few questions is judged by its family as well, a family with few by all. How much that counts, and which `lambda` keeps
//! the quality wanted on questions that were not learned from, is decided by cross-validation.
//!
//! **Invariant:** the same questions and the same seed give the same policy.
//! **Invariant:** nothing but task, length and verdicts of a new question is looked at, never its outcomes.

mod chain;
mod evaluate;
mod frontier;
mod group;
mod outcome;
mod scale;

pub use evaluate::{Evaluation, Measure, Mixed, Single, Trail, evaluate};
pub use frontier::{Point, best_at, cost_at, mean_quality, upper_hull};
pub use outcome::{Outcome, Question, Set, Verifier, draw, family};

use chain::{Chain, Hull, Hulls, Sum, search, value};
use group::Groups;
use scale::Scale;

/// Parts of the cross-validation.
const FOLDS: usize = 5;
/// How many questions of its own outweigh what the family of a task knows: the candidates.
const WEIGHTS: [f64; 4] = [5.0, 15.0, 45.0, 135.0];
/// The weight during the search for chains.
const SEARCH_WEIGHT: f64 = 15.0;
/// What a second standard error of margin may cost, as a share of the best single model's cost.
const MORE_MARGIN_MAX: f64 = 0.005;
/// How many prices of a dollar are tried.
const LAMBDAS: i32 = 241;

/// What has been learned.
#[derive(Debug, Clone)]
pub struct Policy {
    groups: Groups,
    chains: Vec<Chain>,
    hulls: Hulls,
    scale: Scale,
    lambdas: Vec<f64>,
    lambda: f64,
    usual_order: Vec<usize>,
}

impl Policy {
    /// The models to ask a question of `task` with `chars` characters, when a dollar is worth `lambda` of quality.
    pub fn chain(&self, task: &str, chars: usize, lambda: f64) -> &[usize] {
        let hull = match self.groups.find(task) {
            (Some(task), _) => &self.hulls.tasks[task],
            (None, Some(family)) => &self.hulls.families[family],
            (None, None) => &self.hulls.all,
        };
        best_at(hull, lambda * self.scale.of(task, chars)).map_or(&[], |it| &self.chains[it.of])
    }

    /// All models, from the cheapest to the dearest, as far as known.
    pub fn usual_order(&self) -> &[usize] {
        &self.usual_order
    }

    /// The worth of a dollar at which the quality of the best single model is kept at the least cost.
    pub fn lambda(&self) -> f64 {
        self.lambda
    }

    /// Worths of a dollar from "quality at any cost" to "as cheap as can be".
    pub fn lambdas(&self) -> &[f64] {
        &self.lambdas
    }
}

/// The single model with the best quality, and the cheaper one of two as good. Only models that answered as many of `questions`
/// as the most diligent one take part.
pub(crate) fn best_single(models: usize, questions: &[&Question]) -> Option<usize> {
    let known = |model: usize| questions.iter().filter_map(move |it| it.outcome(model));
    let most = (0..models).map(|it| known(it).count()).max().filter(|it| *it > 0)?;
    (0..models).filter(|it| known(*it).count() == most).max_by(|a, b| {
        let sum = |model: usize| known(model).fold((0.0, 0.0), |sum, it| (sum.0 + it.correct, sum.1 + it.cost));
        let (a, b) = (sum(*a), sum(*b));
        a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1))
    })
}

/// Learns from `questions` of `set`; `None` when no model answered any.
pub fn learn(set: &Set, questions: &[&Question], verifier: Option<Verifier>, seed: u64) -> Option<Policy> {
    let best = best_single(set.models.len(), questions)?;
    let groups = Groups::of(questions);
    let scale = Scale::learn(set.models.len(), questions);
    let scales: Vec<f64> = questions.iter().map(|it| scale.of(&it.task, it.chars)).collect();
    let chains = search(set.models.len(), questions, &groups, &scales, verifier, SEARCH_WEIGHT);
    let lambdas = lambdas(questions, best);

    let fold_of = groups.folds(questions, FOLDS, seed);
    let mut sums = vec![[Sum::default(); FOLDS]; chains.len() * groups.tasks.len()];
    for (place, chain) in chains.iter().enumerate() {
        for (index, question) in questions.iter().enumerate() {
            if let Some(value) = value(question, chain, verifier) {
                sums[place * groups.tasks.len() + groups.task_of[index]][fold_of[index]].add(value, scales[index]);
            }
        }
    }
    let known = |chain: usize, task: usize, without: Option<usize>| {
        let folds = sums[chain * groups.tasks.len() + task].iter().enumerate();
        folds.filter(|(fold, _)| Some(*fold) != without).fold(Sum::default(), |sum, (_, it)| sum.plus(*it))
    };

    let trial =
        Trial { questions, groups: &groups, scales: &scales, chains: &chains, lambdas: &lambdas, verifier, best };
    let mut chosen: Option<(f64, f64, f64)> = None;
    for weight in WEIGHTS {
        let mut curve = Curve::new(lambdas.len());
        for fold in 0..FOLDS {
            let hulls = Hulls::of(&groups, chains.len(), weight, |chain, task| known(chain, task, Some(fold)));
            let held_out = (0..questions.len()).filter(|it| fold_of[*it] == fold);
            held_out.for_each(|it| trial.run(it, &hulls, &mut curve));
        }
        let (cost, lambda) = curve.operating_point(&lambdas);
        if chosen.is_none_or(|(least, ..)| cost < least) {
            chosen = Some((cost, weight, lambda));
        }
    }
    let (_, weight, lambda) = chosen?;
    let hulls = Hulls::of(&groups, chains.len(), weight, |chain, task| known(chain, task, None));
    let usual_order = usual_order(set.models.len(), questions);
    Some(Policy { groups, chains, hulls, scale, lambdas, lambda, usual_order })
}

fn usual_order(models: usize, questions: &[&Question]) -> Vec<usize> {
    let usual: Vec<f64> = (0..models)
        .map(|model| {
            let costs: Vec<f64> = questions.iter().filter_map(|it| it.outcome(model)).map(|it| it.cost).collect();
            if costs.is_empty() { f64::INFINITY } else { costs.iter().sum::<f64>() / (costs.len() as f64) }
        })
        .collect();
    let mut order: Vec<usize> = (0..models).collect();
    order.sort_by(|a, b| usual[*a].total_cmp(&usual[*b]));
    order
}

/// Worths of a dollar around one answer of the best model, evenly spread over their logarithm, and zero.
fn lambdas(questions: &[&Question], best: usize) -> Vec<f64> {
    let costs: Vec<f64> = questions.iter().filter_map(|it| it.outcome(best)).map(|it| it.cost).collect();
    let usual = costs.iter().sum::<f64>() / (costs.len().max(1) as f64);
    let unit = if usual > 0.0 { 1.0 / usual } else { 1.0 };
    let steps = (0..LAMBDAS - 1).map(|step| unit * 10_f64.powf(f64::from(step) / 40.0 - 3.0));
    std::iter::once(0.0).chain(steps).collect()
}

/// One question is asked as if it were new.
struct Trial<'a> {
    questions: &'a [&'a Question],
    groups: &'a Groups,
    scales: &'a [f64],
    chains: &'a [Chain],
    lambdas: &'a [f64],
    verifier: Option<Verifier>,
    best: usize,
}

impl Trial<'_> {
    fn run(&self, index: usize, hulls: &Hulls, curve: &mut Curve) {
        let question = self.questions[index];
        let hull: &Hull = &hulls.tasks[self.groups.task_of[index]];
        let Some(bar) = question.outcome(self.best) else { return };
        let values: Vec<Option<chain::Value>> =
            hull.iter().map(|it| value(question, &self.chains[it.of], self.verifier)).collect();
        if !hull.is_empty() {
            curve.bar_cost += bar.cost;
        }
        // Along the lambdas the choice only moves down the hull.
        let mut at = hull.len().saturating_sub(1);
        for (lambda, sums) in self.lambdas.iter().zip(&mut curve.by_lambda) {
            while let Some([low, high]) = at.checked_sub(1).and_then(|low| hull.get(low..=at))
                && high.quality - low.quality < lambda * self.scales[index] * (high.cost - low.cost)
            {
                at -= 1;
            }
            if let Some(Some(value)) = values.get(at) {
                let gain = value.quality - bar.correct;
                sums.count += 1.0;
                sums.total += gain;
                sums.squares += gain * gain;
                sums.cost += value.cost;
            }
        }
    }
}

/// What the cross-validation saw at each worth of a dollar.
struct Curve {
    by_lambda: Vec<Gain>,
    /// What the best single model cost on all questions together.
    bar_cost: f64,
}

/// Quality beyond the best single model's, and cost.
#[derive(Debug, Clone, Copy, Default)]
struct Gain {
    count: f64,
    total: f64,
    squares: f64,
    cost: f64,
}

impl Curve {
    fn new(lambdas: usize) -> Self {
        Self { by_lambda: vec![Gain::default(); lambdas], bar_cost: 0.0 }
    }

    fn count(&self) -> f64 {
        self.by_lambda.first().map_or(0.0, |it| it.count)
    }

    /// The least cost, and its lambda, at which the best single model's quality is kept by one standard error of the
    /// comparison (a new set differs from this one by about as much), and by up to two where that costs little.
    fn operating_point(&self, lambdas: &[f64]) -> (f64, f64) {
        let read: Vec<(f64, f64, f64, f64)> = self
            .by_lambda
            .iter()
            .zip(lambdas)
            .filter(|(it, _)| it.count > 0.0)
            .map(|(it, lambda)| {
                let mean = it.total / it.count;
                let variance = (it.squares / it.count - mean * mean).max(0.0);
                (it.cost / it.count, mean, (variance / it.count).sqrt(), *lambda)
            })
            .collect();
        let least = |margin: f64| {
            let good = read.iter().filter(|(_, mean, error, _)| *mean >= margin * error);
            good.min_by(|a, b| a.0.total_cmp(&b.0)).map(|it| (it.0, it.3))
        };
        let best = || read.iter().max_by(|a, b| a.1.total_cmp(&b.1)).map(|it| (it.0, it.3));
        let Some(one) = least(1.0) else { return least(0.0).or_else(best).unwrap_or((f64::INFINITY, 0.0)) };
        let is_cheap = |it: &(f64, f64)| it.0 <= one.0 + MORE_MARGIN_MAX * self.bar_cost / self.count().max(1.0);
        [2.0, 1.5].into_iter().filter_map(least).find(is_cheap).unwrap_or(one)
    }
}

#[cfg(test)]
mod tests;
