//! What is known of questions that several models answered, and the verifier that judges answers.

/// How one model did on one question.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// How right the answer was, 0 to 1.
    pub correct: f64,
    /// Dollars.
    pub cost: f64,
}

/// A question and how the models did on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Names it.
    pub id: String,
    /// The task it belongs to; what stands before the first `:`, `/`, `-` or `.` is its family.
    pub task: String,
    /// The length of its text in characters.
    pub chars: usize,
    /// By the place of the model in [`Set::models`]; `None` when the model was not asked.
    pub outcomes: Vec<Option<Outcome>>,
}

impl Question {
    /// How `model` did.
    pub fn outcome(&self, model: usize) -> Option<Outcome> {
        self.outcomes.get(model).copied().flatten()
    }
}

/// The family of a task: what stands before the first separator.
pub fn family(task: &str) -> &str {
    task.split([':', '/', '-', '.']).next().unwrap_or(task)
}

/// Questions and the models that answered them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Set {
    /// The names of the models.
    pub models: Vec<String>,
    /// The questions.
    pub questions: Vec<Question>,
}

/// How well answers are checked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verifier {
    true_accept: f64,
    true_reject: f64,
}

impl Verifier {
    /// A verifier that accepts a right answer with chance `true_accept` and rejects a wrong one with chance `true_reject`;
    /// `None` unless both are 0 to 1.
    pub fn new(true_accept: f64, true_reject: f64) -> Option<Self> {
        let is_chance = |it: f64| (0.0..=1.0).contains(&it);
        (is_chance(true_accept) && is_chance(true_reject)).then_some(Self { true_accept, true_reject })
    }

    /// The chance that an answer that is `correct` right is accepted.
    pub fn accepts(self, correct: f64) -> f64 {
        correct * self.true_accept + (1.0 - correct) * (1.0 - self.true_reject)
    }
}

/// A number from 0 to 1 that depends on nothing but its arguments: the same draw in every order of asking.
pub fn draw(seed: u64, what: &str, of: &str) -> f64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(&(what.len() as u64).to_le_bytes());
    hasher.update(what.as_bytes());
    hasher.update(of.as_bytes());
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    f64::from(u32::from_le_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_judges_by_its_rates() {
        let verifier = Verifier::new(0.9, 0.8).unwrap();
        assert!((verifier.accepts(1.0) - 0.9).abs() < 1e-12);
        assert!((verifier.accepts(0.0) - 0.2).abs() < 1e-12);
        for (tpr, tnr) in [(1.1, 0.5), (0.5, -0.1), (f64::NAN, 0.5)] {
            assert_eq!(Verifier::new(tpr, tnr), None);
        }
    }

    #[test]
    fn draws_are_fair_and_depend_on_all_of_it() {
        let mean = (0..2_000).map(|it| draw(7, &it.to_string(), "m")).sum::<f64>() / 2_000.0;
        assert!((mean - 0.5).abs() < 0.03, "{mean}");
        assert_ne!(draw(1, "a", "bc").to_bits(), draw(1, "ab", "c").to_bits());
        assert_ne!(draw(1, "a", "b").to_bits(), draw(2, "a", "b").to_bits());
    }

    #[test]
    fn tasks_have_families() {
        assert_eq!([family("mmlu:law"), family("arc-easy"), family("gsm8k"), family("")], ["mmlu", "arc", "gsm8k", ""]);
    }
}
