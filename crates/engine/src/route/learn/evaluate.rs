//! Replays a policy on questions that were not learned from, beside what needs no learning.
//!
//! **Invariant:** the policy is told task, length and verdicts; outcomes only decide verdicts and the score.
//! **Invariant:** the verdict on a model's answer to a question is the same in every chain: drawn once, from the seed.

use super::{
    Policy, Set, best_single,
    frontier::{Point, cost_at, mean_quality, upper_hull},
    outcome::{Question, Verifier, draw},
};

/// What was reached, the mean over the questions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Measure {
    /// The share of right answers, 0 to 1.
    pub quality: f64,
    /// Dollars for one question.
    pub cost: f64,
}

/// Always the same model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Single {
    /// Its place in [`Set::models`].
    pub model: usize,
    /// What it reached.
    pub measure: Measure,
}

/// What a family of policies reaches at all its operating points, mixed at random where that helps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mixed {
    /// 1 − the least cost that reaches the quality of the best single model ÷ that model's cost; `None` when it is never reached.
    pub saving_at_100: Option<f64>,
    /// The same for 95 % of that quality.
    pub saving_at_95: Option<f64>,
    /// The mean quality over all budgets from the cheapest single model's cost to the dearest one's.
    pub aiq: f64,
}

/// Whom the policy asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trail {
    /// The place of the question among those given.
    pub question: usize,
    /// Models in the order of asking; the last one's answer is the result.
    pub tried: Vec<usize>,
}

/// The score of a policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// At the operating point.
    pub measure: Measure,
    /// At all operating points.
    pub mixed: Mixed,
    /// The single model with the best quality on these questions.
    pub best_single: Single,
    /// The single model with the least cost on these questions.
    pub cheapest: Single,
    /// Half cheapest, half best single model.
    pub random_mix: Measure,
    /// Mixes of single models.
    pub random_mixed: Mixed,
    /// The cheapest of the best answers to each question.
    pub oracle: Measure,
    /// Whom the policy asked at the operating point.
    pub trails: Vec<Trail>,
}

/// Replays `policy` on `questions` of `set`; `None` when no model answered any of them.
pub fn evaluate(
    set: &Set,
    questions: &[&Question],
    policy: &Policy,
    verifier: Option<Verifier>,
    seed: u64,
) -> Option<Evaluation> {
    let models = set.models.len();
    let answered = questions.iter().copied().enumerate().filter(|(_, it)| it.outcomes.iter().any(Option::is_some));
    let (places, questions): (Vec<usize>, Vec<&Question>) = answered.unzip();
    let best = best_single(models, &questions)?;
    let singles: Vec<Single> = (0..models).filter_map(|it| single(&questions, it)).collect();
    let best_single = *singles.iter().find(|it| it.model == best)?;
    let cheapest = *singles.iter().min_by(|a, b| a.measure.cost.total_cmp(&b.measure.cost))?;
    let dearest = singles.iter().map(|it| it.measure.cost).fold(0.0, f64::max);

    let replay = Replay { set, places: &places, questions: &questions, policy, verifier, seed };
    let (measure, trails) = replay.run(policy.lambda());
    let points = policy.lambdas().iter().map(|it| replay.run(*it).0).chain(singles.iter().map(|it| it.measure));
    let range = (cheapest.measure.cost, dearest);
    let mixed = mix(points, best_single.measure, range);
    let random_mixed = mix(singles.iter().map(|it| it.measure), best_single.measure, range);
    let half = |a: f64, b: f64| f64::midpoint(a, b);
    Some(Evaluation {
        measure,
        mixed,
        best_single,
        cheapest,
        random_mix: Measure {
            quality: half(cheapest.measure.quality, best_single.measure.quality),
            cost: half(cheapest.measure.cost, best_single.measure.cost),
        },
        random_mixed,
        oracle: mean(questions.iter().filter_map(|it| oracle(it))),
        trails,
    })
}

fn single(questions: &[&Question], model: usize) -> Option<Single> {
    let outcomes = || questions.iter().filter_map(|it| it.outcome(model));
    let measure = mean(outcomes().map(|it| Measure { quality: it.correct, cost: it.cost }));
    outcomes().next().map(|_| Single { model, measure })
}

fn oracle(question: &Question) -> Option<Measure> {
    let known = question.outcomes.iter().flatten();
    let best = known.max_by(|a, b| a.correct.total_cmp(&b.correct).then(b.cost.total_cmp(&a.cost)))?;
    Some(Measure { quality: best.correct, cost: best.cost })
}

fn mean(measures: impl Iterator<Item = Measure>) -> Measure {
    let (mut sum, mut count) = (Measure::default(), 0.0);
    for measure in measures {
        sum.quality += measure.quality;
        sum.cost += measure.cost;
        count += 1.0;
    }
    if count > 0.0 { Measure { quality: sum.quality / count, cost: sum.cost / count } } else { sum }
}

fn mix(points: impl Iterator<Item = Measure>, best: Measure, range: (f64, f64)) -> Mixed {
    let hull = upper_hull(points.map(|it| Point { cost: it.cost, quality: it.quality, of: () }).collect());
    let saving =
        |share: f64| cost_at(&hull, share * best.quality).filter(|_| best.cost > 0.0).map(|it| 1.0 - it / best.cost);
    Mixed { saving_at_100: saving(1.0), saving_at_95: saving(0.95), aiq: mean_quality(&hull, range.0, range.1) }
}

struct Replay<'a> {
    set: &'a Set,
    places: &'a [usize],
    questions: &'a [&'a Question],
    policy: &'a Policy,
    verifier: Option<Verifier>,
    seed: u64,
}

impl Replay<'_> {
    fn run(&self, lambda: f64) -> (Measure, Vec<Trail>) {
        let mut trails = Vec::with_capacity(self.questions.len());
        let measures = self.questions.iter().zip(self.places).map(|(question, place)| {
            let (tried, measure) = self.ask(question, lambda);
            trails.push(Trail { question: *place, tried });
            measure
        });
        (mean(measures), trails)
    }

    fn ask(&self, question: &Question, lambda: f64) -> (Vec<usize>, Measure) {
        let mut tried = Vec::new();
        let mut measure = Measure::default();
        let chain = self.policy.chain(&question.task, question.chars, lambda);
        let is_known = |model: &usize| question.outcome(*model).is_some();
        // A model that can not be asked this question is passed over; when none is left, the usual order is.
        let mut chain: Vec<usize> = chain.iter().copied().filter(is_known).collect();
        if chain.is_empty() {
            chain.extend(self.policy.usual_order().iter().copied().find(is_known));
        }
        for model in chain {
            let Some(outcome) = question.outcome(model) else { continue };
            tried.push(model);
            measure = Measure { quality: outcome.correct, cost: measure.cost + outcome.cost };
            let name = self.set.models.get(model).map_or("", String::as_str);
            let accepts = self.verifier.map_or(1.0, |it| it.accepts(outcome.correct));
            if draw(self.seed, &question.id, name) < accepts {
                break;
            }
        }
        (tried, measure)
    }
}
