//! How dear a question is compared with others, told from its task and the length of its text before anyone is asked.
//!
//! A line `log cost = a + b · log length` for each family of tasks, and an offset for each task that is drawn towards zero while
//! the task has few questions.

use std::collections::HashMap;

use super::outcome::{Question, family};

/// Questions a family or task counts as having beside its own, all of them average.
const PRIOR: f64 = 5.0;

#[derive(Debug, Clone, Copy, Default)]
struct Line {
    at: f64,
    cost: f64,
    slope: f64,
}

impl Line {
    /// The least squares line through `points`, its slope drawn towards zero.
    fn through(points: &[(f64, f64)]) -> Self {
        let n = points.len().max(1) as f64;
        let at = points.iter().map(|it| it.0).sum::<f64>() / n;
        let cost = points.iter().map(|it| it.1).sum::<f64>() / n;
        let (mut xy, mut xx) = (0.0, PRIOR);
        for (x, y) in points {
            xy += (x - at) * (y - cost);
            xx += (x - at) * (x - at);
        }
        Self { at, cost, slope: xy / xx }
    }

    fn predict(self, log_length: f64) -> f64 {
        self.cost + self.slope * (log_length - self.at)
    }
}

/// Predicts how dear questions are.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    all: Line,
    families: HashMap<String, Line>,
    tasks: HashMap<String, f64>,
}

impl Scale {
    /// Learns from what questions cost.
    pub(super) fn learn(models: usize, questions: &[&Question]) -> Self {
        let usual = usual_costs(models, questions);
        let mut families: HashMap<&str, Vec<(f64, f64)>> = HashMap::new();
        let mut tasks: HashMap<&str, Vec<(f64, f64)>> = HashMap::new();
        let mut all = Vec::new();
        for question in questions {
            let Some(dearness) = dearness(question, &usual) else { continue };
            let point = (log_length(question.chars), dearness.ln());
            all.push(point);
            families.entry(family(&question.task)).or_default().push(point);
            tasks.entry(&question.task).or_default().push(point);
        }
        let all = Line::through(&all);
        let families: HashMap<String, Line> =
            families.into_iter().map(|(name, points)| (name.to_owned(), Line::through(&points))).collect();
        let mut scale = Self { all, families, tasks: HashMap::new() };
        let offsets = tasks.into_iter().map(|(task, points)| {
            let rest: f64 = points.iter().map(|(x, y)| y - scale.base(task, *x)).sum();
            (task.to_owned(), rest / (points.len() as f64 + PRIOR))
        });
        scale.tasks = offsets.collect();
        scale
    }

    fn base(&self, task: &str, log_length: f64) -> f64 {
        self.families.get(family(task)).copied().unwrap_or(self.all).predict(log_length)
    }

    /// How many times as dear as a usual question; never zero.
    pub(super) fn of(&self, task: &str, chars: usize) -> f64 {
        let offset = self.tasks.get(task).copied().unwrap_or_default();
        // Bounded, so that a text of another size than all known ones does not leave the world.
        (self.base(task, log_length(chars)) + offset).clamp(-7.0, 7.0).exp()
    }
}

fn log_length(chars: usize) -> f64 {
    (chars.max(1) as f64).ln()
}

/// What each model costs on average.
fn usual_costs(models: usize, questions: &[&Question]) -> Vec<f64> {
    let usual = |model| {
        let (mut sum, mut count) = (0.0, 0.0);
        for outcome in questions.iter().filter_map(|it| it.outcome(model)) {
            sum += outcome.cost;
            count += 1.0;
        }
        if count > 0.0 { sum / count } else { 0.0 }
    };
    (0..models).map(usual).collect()
}

/// The mean of cost ÷ usual cost over the models that were asked; `None` when nobody was, or all were free.
fn dearness(question: &Question, usual: &[f64]) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0.0);
    for (model, usual) in usual.iter().enumerate() {
        if let Some(outcome) = question.outcome(model)
            && *usual > 0.0
        {
            sum += outcome.cost / usual;
            count += 1.0;
        }
    }
    (sum > 0.0).then(|| sum / count)
}

#[cfg(test)]
mod tests {
    use super::{super::outcome::Outcome, *};

    fn question(task: &str, chars: usize, cost: f64) -> Question {
        let outcomes =
            vec![Some(Outcome { correct: 1.0, cost }), Some(Outcome { correct: 1.0, cost: cost / 10.0 }), None];
        Question { id: String::new(), task: task.into(), chars, outcomes }
    }

    #[test]
    fn long_texts_and_dear_tasks_are_told_beforehand() {
        let mut questions = Vec::new();
        for chars in [100, 200, 400, 800] {
            for _ in 0..25 {
                questions.push(question("a:long", chars, chars as f64 / 1e6));
                questions.push(question("a:talkative", chars, 3.0 * chars as f64 / 1e6));
            }
        }
        let scale = Scale::learn(3, &questions.iter().collect::<Vec<_>>());
        let ratio = scale.of("a:long", 800) / scale.of("a:long", 100);
        assert!((6.0..8.5).contains(&ratio), "{ratio}");
        let ratio = scale.of("a:talkative", 200) / scale.of("a:long", 200);
        assert!((2.5..3.1).contains(&ratio), "{ratio}");
        // What was never seen is usual, and absurd sizes stay finite.
        assert!((0.3..3.0).contains(&scale.of("b:new", 300)));
        assert!(scale.of("a:long", usize::MAX).is_finite() && scale.of("a:long", 0) > 0.0);
    }

    #[test]
    fn nothing_known_is_usual() {
        assert!((Scale::learn(1, &[]).of("any", 100) - 1.0).abs() < 1e-12);
        let free = question("a", 10, 0.0);
        assert!((Scale::learn(3, &[&free]).of("a", 100) - 1.0).abs() < 1e-12);
    }
}
