//! `crewline route eval`: learns on one part of recorded outcomes and replays the policy on another.

use std::{io, path::PathBuf, str::FromStr};

use clap::Args;
use crewline_engine::route::learn::{self, Evaluation, Measure, Mixed, Question, Set, Single, Verifier};
use serde::Serialize;

use crate::{
    console::Console,
    error::Error,
    exit::Exit,
    outcomes,
    view::{Align, Style, clean, table},
};

/// What `crewline route eval` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline route eval --outcomes outcomes.jsonl.gz
  crewline route eval --outcomes outcomes.jsonl --verifier 0.9,0.9 --policy-out policy.json -o json

FILE has a question a line: {\"id\", \"text\", \"task\", \"split\", \"outcomes\": {MODEL: {\"correct\": 0 to 1, \"cost\": DOLLARS}}}.")]
pub(crate) struct EvalArgs {
    /// Recorded outcomes: JSON lines, gzipped or not
    #[arg(long, value_name = "FILE")]
    outcomes: PathBuf,
    /// The questions to learn from
    #[arg(long, value_name = "NAME", default_value = "train")]
    train_split: String,
    /// The questions to replay
    #[arg(long, value_name = "NAME", default_value = "test")]
    test_split: String,
    /// Check answers with a verifier that accepts a right one with chance TPR and rejects a wrong one with chance TNR
    #[arg(long, value_name = "TPR,TNR")]
    verifier: Option<Rates>,
    /// Decides the verifier's verdicts and the folds of the cross-validation
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Where to write {ID: [MODEL, …]}: whom the policy asked, in order; `-` is stdout
    #[arg(long, value_name = "FILE")]
    policy_out: Option<PathBuf>,
}

/// A verifier as it is written: two chances and a comma.
#[derive(Debug, Clone, Copy)]
struct Rates(Verifier);

impl FromStr for Rates {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (accept, reject) = text.split_once(',')?;
            Verifier::new(accept.trim().parse().ok()?, reject.trim().parse().ok()?)
        };
        read().map(Self).ok_or_else(|| "it is two numbers from 0 to 1, such as 0.9,0.9".to_owned())
    }
}

/// Runs the command.
pub(crate) fn run(args: &EvalArgs, console: &Console) -> Result<Exit, Error> {
    let recorded = outcomes::read(&args.outcomes)?;
    let train = recorded.split(&args.train_split, &args.outcomes)?;
    let test = recorded.split(&args.test_split, &args.outcomes)?;
    let verifier = args.verifier.map(|it| it.0);
    let set = &recorded.set;
    let evaluation = learn::learn(set, &train, verifier, args.seed)
        .and_then(|policy| learn::evaluate(set, &test, &policy, verifier, args.seed));
    // Every question that was read has an answer, so there is something to learn and to replay.
    let evaluation = evaluation.ok_or_else(|| Error::Encode { message: "there are no answers".into() })?;
    let report = Report::of(&evaluation, set, train.len());
    match &args.policy_out {
        Some(path) if path.as_os_str() == "-" => console.data(&policy(&evaluation, set, &test)?)?,
        Some(path) => {
            let text = policy(&evaluation, set, &test)?;
            std::fs::write(path, text).map_err(|source| Error::Write { path: path.clone(), source })?;
            console.value(&report, |style| report.table(style))?;
        }
        None => console.value(&report, |style| report.table(style))?,
    }
    Ok(Exit::Ok)
}

/// Whom the policy asked, as JSON.
fn policy(evaluation: &Evaluation, set: &Set, test: &[&Question]) -> Result<String, Error> {
    let trails = evaluation.trails.iter().filter_map(|trail| {
        let models = trail.tried.iter().filter_map(|it| set.models.get(*it)).cloned().map(serde_json::Value::from);
        Some((test.get(trail.question)?.id.clone(), models.collect::<serde_json::Value>()))
    });
    let map: serde_json::Map<String, serde_json::Value> = trails.collect();
    let mut text = Vec::new();
    serde_json::to_writer(&mut text, &map)
        .map_err(io::Error::from)
        .map_err(|error| Error::Encode { message: error.to_string() })?;
    text.push(b'\n');
    String::from_utf8(text).map_err(|error| Error::Encode { message: error.to_string() })
}

/// What is printed; shares in percent, costs in dollars a question.
#[derive(Debug, Serialize)]
struct Report {
    questions: usize,
    learned_from: usize,
    models: usize,
    quality: f64,
    cost: f64,
    saving: Option<f64>,
    calls_per_question: f64,
    best_single: Named,
    saving_at_100: Option<f64>,
    saving_at_95: Option<f64>,
    aiq: f64,
    baselines: Baselines,
}

#[derive(Debug, Serialize)]
struct Baselines {
    always_cheapest: Named,
    always_best: Named,
    random_mix: Mix,
    oracle: Plain,
}

#[derive(Debug, Clone, Serialize)]
struct Named {
    model: String,
    #[serde(flatten)]
    plain: Plain,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Plain {
    quality: f64,
    cost: f64,
}

#[derive(Debug, Serialize)]
struct Mix {
    #[serde(flatten)]
    plain: Plain,
    saving_at_100: Option<f64>,
    saving_at_95: Option<f64>,
    aiq: f64,
}

/// A share in percent with three decimals.
fn percent(share: f64) -> f64 {
    (share * 1e5).round() / 1e3
}

impl From<Measure> for Plain {
    fn from(measure: Measure) -> Self {
        Self { quality: percent(measure.quality), cost: measure.cost }
    }
}

impl Mix {
    fn of(measure: Measure, mixed: &Mixed) -> Self {
        Self {
            plain: measure.into(),
            saving_at_100: mixed.saving_at_100.map(percent),
            saving_at_95: mixed.saving_at_95.map(percent),
            aiq: percent(mixed.aiq),
        }
    }
}

impl Report {
    fn of(evaluation: &Evaluation, set: &Set, learned_from: usize) -> Self {
        let named = |single: &Single| Named {
            model: set.models.get(single.model).cloned().unwrap_or_default(),
            plain: single.measure.into(),
        };
        let best = evaluation.best_single.measure.cost;
        let at = Mix::of(evaluation.measure, &evaluation.mixed);
        let calls: usize = evaluation.trails.iter().map(|it| it.tried.len()).sum();
        Self {
            questions: evaluation.trails.len(),
            learned_from,
            models: set.models.len(),
            quality: at.plain.quality,
            cost: at.plain.cost,
            saving: (best > 0.0).then(|| percent(1.0 - evaluation.measure.cost / best)),
            calls_per_question: calls as f64 / (evaluation.trails.len().max(1) as f64),
            best_single: named(&evaluation.best_single),
            saving_at_100: at.saving_at_100,
            saving_at_95: at.saving_at_95,
            aiq: at.aiq,
            baselines: Baselines {
                always_cheapest: named(&evaluation.cheapest),
                always_best: named(&evaluation.best_single),
                random_mix: Mix::of(evaluation.random_mix, &evaluation.random_mixed),
                oracle: evaluation.oracle.into(),
            },
        }
    }

    fn table(&self, style: Style) -> String {
        let columns = [
            ("POLICY", Align::Left),
            ("QUALITY %", Align::Right),
            ("$ PER 1000", Align::Right),
            ("SAVING AT 100 %", Align::Right),
            ("AT 95 %", Align::Right),
            ("AIQ %", Align::Right),
        ];
        let share = |it: Option<f64>| it.map_or_else(|| "-".to_owned(), |it| format!("{it:.1}"));
        let row = |name: String, plain: Plain, more: [Option<f64>; 3]| {
            let [at_100, at_95, aiq] = more.map(share);
            vec![name, format!("{:.1}", plain.quality), format!("{:.4}", plain.cost * 1e3), at_100, at_95, aiq]
        };
        let base = &self.baselines;
        let own = Plain { quality: self.quality, cost: self.cost };
        let mix = &base.random_mix;
        let rows = [
            row("learned".into(), own, [self.saving_at_100, self.saving_at_95, Some(self.aiq)]),
            row(
                format!("always cheapest: {}", clean(&base.always_cheapest.model)),
                base.always_cheapest.plain,
                [None; 3],
            ),
            row(format!("always best: {}", clean(&base.always_best.model)), base.always_best.plain, [None; 3]),
            row("random mix".into(), mix.plain, [mix.saving_at_100, mix.saving_at_95, Some(mix.aiq)]),
            row("oracle".into(), base.oracle, [None; 3]),
        ];
        format!(
            "{}\n\n{} questions, learned from {}: saves {} % at {:.1} % of the best single model's quality, {:.2} calls a question",
            table(style, &columns, &rows),
            self.questions,
            self.learned_from,
            share(self.saving),
            100.0 * self.quality / self.best_single.plain.quality.max(f64::MIN_POSITIVE),
            self.calls_per_question,
        )
    }
}
