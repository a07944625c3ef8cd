//! The policy on sets made here: several sizes, prices and verifiers.

use super::*;
use crate::schedule::simulation::Rng;

/// A model of a made-up set.
struct Model {
    skill: f64,
    /// Dollars for a usual question.
    price: f64,
}

struct World {
    models: Vec<Model>,
    /// Name, difficulty, how dear.
    tasks: Vec<(String, f64, f64)>,
    size: usize,
}

fn uniform(rng: &mut Rng) -> f64 {
    rng.below(1 << 30) as f64 / f64::from(1 << 30)
}

/// Roughly normal, mean 0, deviation 1.
fn normal(rng: &mut Rng) -> f64 {
    (0..12).map(|_| uniform(rng)).sum::<f64>() - 6.0
}

impl World {
    /// A weak and a strong model, many small tasks and a large one that is dear.
    fn two(size: usize) -> Self {
        let mut tasks = vec![("maths".to_owned(), 0.3, 3.0)];
        tasks.extend(
            (0..30).map(|it| (format!("exam:{it}"), f64::from(it % 10) / 5.0 - 1.3, 0.4 + f64::from(it % 4) / 2.0)),
        );
        let models = vec![Model { skill: 0.7, price: 8e-5 }, Model { skill: 1.6, price: 2e-3 }];
        Self { models, tasks, size }
    }

    /// Eleven models, prices spread over a factor of 100.
    fn eleven(size: usize) -> Self {
        let models = (0..11)
            .map(|it| {
                let rank = f64::from(it) / 10.0;
                // Some of them are dear for what they do.
                let skill = if it % 4 == 3 { rank - 0.6 } else { rank * 2.0 };
                Model { skill, price: 5e-5 * 100_f64.powf(rank) }
            })
            .collect();
        let tasks = (0..25).map(|it| (format!("set{}-{it}", it % 3), f64::from(it % 7) / 2.0 - 1.5, 1.0)).collect();
        Self { models, tasks, size }
    }

    fn set(&self, seed: u64) -> Set {
        let mut rng = Rng::new(seed);
        let names = (0..self.models.len()).map(|it| format!("model-{it:02}")).collect();
        // Each model has tasks it is good at.
        let bent: Vec<Vec<f64>> =
            self.tasks.iter().map(|_| self.models.iter().map(|_| 0.5 * normal(&mut rng)).collect()).collect();
        let questions = (0..self.size)
            .map(|id| {
                let place = if id % 3 == 0 { 0 } else { rng.index(self.tasks.len()) };
                let (task, hard, dear) = &self.tasks[place];
                let hard = hard + 1.2 * normal(&mut rng);
                let length = (1.0 + normal(&mut rng).abs()) * 100.0;
                let outcomes = self.models.iter().zip(&bent[place]).map(|(model, bent)| {
                    let chance = 1.0 / (1.0 + (-1.2 * (model.skill + bent - hard)).exp());
                    let cost = model.price * dear * length / 180.0 * (0.7 + 0.6 * uniform(&mut rng));
                    Some(Outcome { correct: f64::from(u8::from(uniform(&mut rng) < chance)), cost })
                });
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
                let chars = length as usize;
                Question { id: format!("q{id}"), task: task.clone(), chars, outcomes: outcomes.collect() }
            })
            .collect();
        Set { models: names, questions }
    }
}

/// Learns on three quarters and replays on the rest.
fn score(set: &Set, verifier: Option<Verifier>, seed: u64) -> Evaluation {
    let all: Vec<&Question> = set.questions.iter().collect();
    let (test, train): (Vec<_>, Vec<_>) = all.into_iter().partition(|it| draw(9, &it.id, "split") < 0.25);
    let policy = learn(set, &train, verifier, seed).unwrap();
    evaluate(set, &test, &policy, verifier, seed).unwrap()
}

fn saving(evaluation: &Evaluation) -> f64 {
    1.0 - evaluation.measure.cost / evaluation.best_single.measure.cost
}

#[test]
fn a_good_verifier_saves_most_of_the_money_at_the_best_quality() {
    for (world, at_least) in [(World::two(1_600), 0.5), (World::eleven(900), 0.7)] {
        for seed in 1..=2 {
            let evaluation = score(&world.set(seed), Verifier::new(0.9, 0.9), seed);
            let best = evaluation.best_single.measure.quality;
            println!(
                "seed {seed}: quality {:.3} of {best:.3}, saving {:.3}, at 100 {:?}, at 95 {:?}, aiq {:.3}",
                evaluation.measure.quality,
                saving(&evaluation),
                evaluation.mixed.saving_at_100,
                evaluation.mixed.saving_at_95,
                evaluation.mixed.aiq
            );
            // A test split of some hundred questions is right or wrong about this by a percent or two.
            assert!(evaluation.measure.quality >= 0.97 * best, "seed {seed}: quality is not kept");
            assert!(saving(&evaluation) > at_least, "seed {seed}: saves {}", saving(&evaluation));
            assert!(evaluation.mixed.saving_at_100.unwrap() > at_least, "seed {seed}");
            assert!(evaluation.mixed.saving_at_95 >= evaluation.mixed.saving_at_100, "seed {seed}");
            assert!(evaluation.mixed.aiq > evaluation.random_mixed.aiq, "seed {seed}");
            assert!(evaluation.oracle.quality >= evaluation.measure.quality, "seed {seed}");
        }
    }
}

#[test]
fn the_better_the_verifier_the_greater_the_saving() {
    let set = World::two(1_200).set(3);
    let at = |verifier| score(&set, verifier, 3).mixed.saving_at_100.unwrap();
    let rates = [Verifier::new(1.0, 1.0), Verifier::new(0.8, 0.8), None].map(at);
    assert!(rates[0] > rates[1] + 0.05 && rates[1] > rates[2], "{rates:?}");
    // A verifier that knows nothing is as good as none, and does not make the policy climb.
    let useless = score(&set, Verifier::new(0.5, 0.5), 3);
    assert!((useless.mixed.saving_at_100.unwrap() - rates[2]).abs() < 0.05, "{useless:?} {rates:?}");
}

#[test]
fn the_same_seed_gives_the_same_policy_and_another_gives_other_verdicts() {
    let set = World::two(600).set(4);
    let verifier = Verifier::new(0.9, 0.9);
    assert_eq!(score(&set, verifier, 1), score(&set, verifier, 1));
    assert_ne!(score(&set, verifier, 1).trails, score(&set, verifier, 2).trails);
}

#[test]
fn outcomes_of_new_questions_are_not_looked_at() {
    let set = World::two(600).set(5);
    let all: Vec<&Question> = set.questions.iter().collect();
    let policy = learn(&set, &all[..400], None, 1).unwrap();
    let chains = |set: &Set| -> Vec<Vec<usize>> {
        let chain = |it: &Question| policy.chain(&it.task, it.chars, policy.lambda()).to_vec();
        set.questions[400..].iter().map(chain).collect()
    };
    let mut turned = set.clone();
    for outcome in turned.questions[400..].iter_mut().flat_map(|it| it.outcomes.iter_mut().flatten()) {
        *outcome = Outcome { correct: 1.0 - outcome.correct, cost: 1.0 };
    }
    assert_eq!(chains(&set), chains(&turned));
}

#[test]
fn models_that_were_not_asked_are_passed_over() {
    let mut set = World::eleven(900).set(6);
    let mut rng = Rng::new(6);
    for question in &mut set.questions {
        for _ in 0..4 {
            let gap = rng.index(question.outcomes.len());
            question.outcomes[gap] = None;
        }
    }
    // One nobody answered, one of a task that was never seen, one that only the dearest model answered.
    set.questions.push(Question { id: "none".into(), task: "set0-1".into(), chars: 9, outcomes: vec![None; 11] });
    let mut lonely = set.questions[0].clone();
    lonely.id = "lonely".into();
    lonely.task = "elsewhere".into();
    lonely.outcomes = vec![None; 10];
    lonely.outcomes.push(Some(Outcome { correct: 1.0, cost: 0.1 }));
    set.questions.push(lonely);

    let all: Vec<&Question> = set.questions.iter().collect();
    let verifier = Verifier::new(0.9, 0.9);
    let policy = learn(&set, &all[..600], verifier, 1).unwrap();
    let evaluation = evaluate(&set, &all[600..], &policy, verifier, 1).unwrap();
    assert_eq!(evaluation.trails.len(), 301, "the one that nobody answered does not count");
    assert_eq!(evaluation.trails.last().unwrap().tried, [10]);
    for trail in &evaluation.trails {
        assert!(!trail.tried.is_empty());
        let question = all[600..][trail.question];
        assert_ne!(question.id, "none");
        assert!(trail.tried.iter().all(|it| question.outcome(*it).is_some()), "{trail:?}");
    }
}

#[test]
fn tiny_and_odd_sets_give_an_answer_or_none() {
    let free = Outcome { correct: 1.0, cost: 0.0 };
    let one = Question { id: "a".into(), task: String::new(), chars: 0, outcomes: vec![Some(free)] };
    let set = Set { models: vec!["only".into()], questions: vec![one] };
    let evaluation = {
        let known: Vec<&Question> = set.questions.iter().collect();
        let policy = learn(&set, &known, Verifier::new(0.9, 0.9), 1).unwrap();
        evaluate(&set, &known, &policy, Verifier::new(0.9, 0.9), 1).unwrap()
    };
    assert_eq!((evaluation.measure.quality.to_bits(), evaluation.mixed.saving_at_100), (1_f64.to_bits(), None));
    assert!(learn(&set, &[], None, 1).is_none());
    assert!(learn(&Set::default(), &[], None, 1).is_none());
}
