//! What happened in all rounds together.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::verify::Verdict;

/// Counts of everything; shared by the lanes.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Sums>);

#[derive(Debug, Default)]
struct Sums {
    counts: BTreeMap<&'static str, u64>,
    resumes: Vec<Duration>,
    violations: Vec<String>,
}

impl Tally {
    /// Counts one.
    pub fn count(&self, what: &'static str) {
        self.add(what, 1);
    }

    /// Counts several.
    pub fn add(&self, what: &'static str, number: u64) {
        *self.sums().counts.entry(what).or_default() += number;
    }

    /// How often it was counted.
    pub fn of(&self, what: &str) -> u64 {
        self.sums().counts.get(what).copied().unwrap_or(0)
    }

    /// Keeps how long a resume took.
    pub fn resumed(&self, time: Duration) {
        self.sums().resumes.push(time);
    }

    /// Keeps what a run came to.
    pub fn judge(&self, place: &str, verdict: Verdict) {
        self.count("runs");
        self.add("tasks", verdict.tasks);
        self.add("answers served", verdict.calls);
        self.add("answers served again", verdict.repeated);
        for violation in verdict.violations {
            self.violation(format!("{place}: {violation}"));
        }
    }

    /// Keeps what broke the promise.
    pub fn violation(&self, text: String) {
        println!("violation: {text}");
        self.sums().violations.push(text);
    }

    /// How often the promise was broken.
    pub fn violations(&self) -> usize {
        self.sums().violations.len()
    }

    /// Whether something that begins so was found.
    pub fn has(&self, beginning: &str) -> bool {
        self.sums().violations.iter().any(|it| it.starts_with(beginning))
    }

    /// The table of counts.
    pub fn table(&self) -> String {
        let mut sums = self.sums();
        let mut text = String::new();
        for (what, count) in &sums.counts {
            _ = writeln!(text, "{count:>9}  {what}");
        }
        sums.resumes.sort_unstable();
        if let Some(longest) = sums.resumes.last().copied() {
            let at = |share: usize| sums.resumes[(sums.resumes.len() * share / 100).min(sums.resumes.len() - 1)];
            let [half, most, nearly] = [at(50), at(90), at(99)].map(|it| it.as_millis());
            _ = writeln!(
                text,
                "{:>9}  resumes, to the first event: p50 {half} ms, p90 {most} ms, p99 {nearly} ms, longest {} ms",
                sums.resumes.len(),
                longest.as_millis()
            );
        }
        _ = writeln!(text, "{:>9}  violations", sums.violations.len());
        text
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
