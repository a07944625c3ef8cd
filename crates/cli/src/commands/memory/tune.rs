//! `crewline memory tune`: fits the weights of ranking to a data set; `cargo xtask tune-memory` calls it.
//!
//! One weight after the other, in an order drawn from the seed, tries the values of its grid. A value is taken when it
//! lifts the mean over all questions by [`MARGIN`] and makes at most one project worse, so that a weight the data say
//! nothing about stays where it is. Cross-validation begins without signals, fits on all projects but one, and measures on
//! that one.
//!
//! **Invariant:** the same files, weights and seed give the same result.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use crewline_memory::{Purpose, Weights};
use serde::Serialize;

use super::{
    Place,
    bench::{Bench, Parts},
    dataset::Question,
    score::{Means, Worth, worth},
};
use crate::{
    console::Console,
    error::Error,
    exit::Exit,
    settings::Settings,
    view::{Align, Style, table},
};

/// Memories a question is answered with.
const TOP: usize = 50;
/// Least gain of the objective, in shares, for which a weight is changed.
const MARGIN: f64 = 0.004;
/// Rounds over all weights.
const ROUNDS: usize = 2;
/// The share of the objective that a project may lose without counting as worse.
const SLACK: f64 = 0.002;

/// What `crewline memory tune` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  crewline memory tune --memories set.memories.jsonl.gz --queries set.queries.jsonl.gz --out weights.json")]
pub(crate) struct TuneArgs {
    /// The memories, JSON lines, plain or gzipped
    #[arg(long, value_name = "FILE")]
    memories: PathBuf,
    /// The questions, JSON lines, plain or gzipped
    #[arg(long, value_name = "FILE")]
    queries: PathBuf,
    /// Draws the order in which weights are tried
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Writes the weights that were found
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Keeps the scratch database in this folder
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Outcome {
    weights: Weights,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    what: &'static str,
    #[serde(flatten)]
    all: Means,
    headline: Means,
}

/// A question with its vector; its project is its fold.
struct Case {
    question: Question,
    vector: Option<Vec<f32>>,
}

/// A weight and the values it may have.
struct Knob {
    set: fn(&mut Weights, f32),
    values: &'static [f32],
}

const KNOBS: [Knob; 10] = [
    Knob { set: |weights, value| weights.dense = value, values: &[0.3, 0.4, 0.5, 0.6, 0.7] },
    Knob { set: |weights, value| weights.named = value, values: &[0.0, 0.2, 0.35, 0.5] },
    Knob { set: |weights, value| weights.asker = value, values: &[0.0, 0.2, 0.35, 0.5] },
    Knob { set: |weights, value| weights.person = value, values: &[0.0, 0.1, 0.2, 0.3] },
    Knob { set: |weights, value| weights.answerer = value, values: &[0.0, 0.1, 0.2, 0.3] },
    Knob { set: |weights, value| weights.previous = value, values: &[0.0, 0.15, 0.3] },
    Knob { set: |weights, value| weights.next = value, values: &[0.0, 0.1, 0.2, 0.3] },
    Knob { set: |weights, value| weights.task = value, values: &[0.0, 0.15, 0.3, 0.5] },
    Knob { set: |weights, value| weights.recency = value, values: &[0.0, 0.05, 0.1] },
    Knob { set: |weights, value| weights.repeats = value, values: &[0.0, -0.05, -0.1, -0.2] },
];

/// Runs the command.
pub(crate) async fn run(args: TuneArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let parts = super::parts(settings, Place::Database)?;
    let begin = parts.weights;
    let scratch = args.scratch.as_deref();
    // What a reranker says depends on its model, so it is left out: weights are fitted for everybody.
    let parts = Parts { embedder: parts.embedder, qdrant: None, reranker: None, weights: begin, scratch };
    let bench = Bench::load(&args.memories, &args.queries, parts, console).await?;
    let cases = cases(&bench).await?;
    super::close(&bench.library).await;
    let tuner = Tuner { bench: &bench, order: order(args.seed) };
    let all: Vec<&Case> = cases.iter().collect();
    let words: Vec<Case> = cases.iter().map(|case| Case { question: case.question.clone(), vector: None }).collect();
    let weights = tuner.fit(begin, &all);
    let mut held_out = Vec::new();
    for project in projects(&all) {
        let (own, others): (Vec<&Case>, Vec<&Case>) =
            all.iter().copied().partition(|case| case.question.project == project);
        // The weights it began with may have been fitted to this project.
        held_out.extend(tuner.worths(tuner.fit(Weights::plain(), &others), &own));
        console.note(&format!("`{project}` held out"));
    }
    let words: Vec<&Case> = words.iter().collect();
    let outcome = Outcome {
        weights,
        rows: vec![
            row("words alone, no signals", &tuner.worths(Weights::plain(), &words)),
            row("vectors and words, no signals", &tuner.worths(Weights::plain(), &all)),
            row("the weights it began with", &tuner.worths(begin, &all)),
            row("fitted on the other projects", &held_out),
            row("fitted on all projects", &tuner.worths(weights, &all)),
        ],
    };
    if let Some(path) = &args.out {
        let text =
            serde_json::to_string_pretty(&weights).map_err(|error| Error::Encode { message: error.to_string() })?;
        std::fs::write(path, text + "\n").map_err(|source| Error::Write { path: path.clone(), source })?;
    }
    console.value(&outcome, |style| table_of(&outcome, style))?;
    Ok(Exit::Ok)
}

async fn cases(bench: &Bench) -> Result<Vec<Case>, Error> {
    let mut cases = Vec::new();
    for question in bench.questions.iter().filter(|question| !question.relevant.is_empty()) {
        let vector = match bench.library.embedder() {
            Some(embedder) => {
                let texts = vec![question.text.as_str().into()];
                embedder.embed(texts, Purpose::Query).await?.into_iter().next()
            }
            None => None,
        };
        cases.push(Case { question: question.clone(), vector });
    }
    Ok(cases)
}

/// The places of [`KNOBS`] in the order of this seed (splitmix64, Steele and others, 2014).
fn order(seed: u64) -> Vec<usize> {
    let mut keys: Vec<(u64, usize)> = (0..KNOBS.len())
        .map(|at| {
            let mut mixed = seed.wrapping_add((at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31), at)
        })
        .collect();
    keys.sort_unstable();
    keys.into_iter().map(|(_, at)| at).collect()
}

fn projects(cases: &[&Case]) -> Vec<String> {
    let mut names: Vec<String> = cases.iter().map(|case| case.question.project.clone()).collect();
    names.sort();
    names.dedup();
    names
}

/// What fitting looks at: recall at 5 and the evidence in 1,024 tokens before all, the other depths beside them.
fn objective(worth: &Worth) -> f64 {
    let [recall_5, recall_10, _, _, ev_512, ev_1024, ev_2048] = worth;
    (2.0 * recall_5 + recall_10 + ev_512 + 2.0 * ev_1024 + ev_2048) / 7.0
}

struct Tuner<'a> {
    bench: &'a Bench,
    order: Vec<usize>,
}

impl Tuner<'_> {
    fn worths(&self, weights: Weights, cases: &[&Case]) -> Vec<(bool, Worth)> {
        cases
            .iter()
            .map(|case| {
                let ids = self.bench.rank(&case.question, case.vector.as_deref(), weights, TOP);
                (case.question.headline, worth(&case.question.relevant, &ids, &self.bench.tokens))
            })
            .collect()
    }

    /// The mean of the objective, and that of each project.
    fn judge(&self, weights: Weights, cases: &[&Case]) -> (f64, BTreeMap<String, f64>) {
        let mut by_project: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        let (mut sum, mut count) = (0.0, 0.0);
        for (case, (is_headline, worth)) in cases.iter().zip(self.worths(weights, cases)) {
            // What a release is judged by counts double.
            let share = if is_headline { 2.0 } else { 1.0 };
            let value = objective(&worth) * share;
            let of_project = by_project.entry(case.question.project.clone()).or_default();
            *of_project = (of_project.0 + value, of_project.1 + share);
            (sum, count) = (sum + value, count + share);
        }
        let means = by_project.into_iter().map(|(project, (sum, count))| (project, sum / count)).collect();
        (if count > 0.0 { sum / count } else { 0.0 }, means)
    }

    fn fit(&self, begin: Weights, cases: &[&Case]) -> Weights {
        let mut weights = begin;
        let mut best = self.judge(weights, cases);
        for _ in 0..ROUNDS {
            let before = weights;
            for at in &self.order {
                let knob = &KNOBS[*at];
                for value in knob.values {
                    let mut candidate = weights;
                    (knob.set)(&mut candidate, *value);
                    if candidate == weights {
                        continue;
                    }
                    let judged = self.judge(candidate, cases);
                    let worse = judged.1.iter().filter(|(project, mean)| **mean + SLACK < best.1[*project]).count();
                    if judged.0 > best.0 + MARGIN && worse <= 1 {
                        (weights, best) = (candidate, judged);
                    }
                }
            }
            if weights == before {
                break;
            }
        }
        weights
    }
}

fn row(what: &'static str, worths: &[(bool, Worth)]) -> Row {
    Row {
        what,
        all: Means::of(worths.iter().map(|(_, worth)| worth)),
        headline: Means::of(worths.iter().filter(|(is_headline, _)| *is_headline).map(|(_, worth)| worth)),
    }
}

fn table_of(outcome: &Outcome, style: Style) -> String {
    let columns = [
        ("WEIGHTS", Align::Left),
        ("EV@1024", Align::Right),
        ("RECALL@5", Align::Right),
        ("ALL EV@1024", Align::Right),
        ("ALL RECALL@5", Align::Right),
    ];
    let rows: Vec<Vec<String>> = outcome
        .rows
        .iter()
        .map(|row| {
            let values = [row.headline.ev_1024, row.headline.recall_5, row.all.ev_1024, row.all.recall_5];
            std::iter::once(row.what.to_owned()).chain(values.map(|value| format!("{value:.1}"))).collect()
        })
        .collect();
    table(style, &columns, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_holds_every_knob_once() {
        for seed in 0..20 {
            let mut sorted = order(seed);
            assert_eq!(sorted, order(seed));
            sorted.sort_unstable();
            assert_eq!(sorted, (0..KNOBS.len()).collect::<Vec<_>>(), "seed {seed}");
        }
        assert!((0..20).any(|seed| order(seed) != order(0)));
    }

    #[test]
    fn every_knob_turns_something() {
        for (at, knob) in KNOBS.iter().enumerate() {
            let (mut low, mut high) = (Weights::plain(), Weights::plain());
            (knob.set)(&mut low, knob.values[0]);
            (knob.set)(&mut high, knob.values[knob.values.len() - 1]);
            assert_ne!(low, high, "knob {at}");
        }
    }
}
