//! What a plan may cost and take, from what earlier tasks of the same roles came to, at today's prices.
//!
//! **Invariant:** only what was recorded counts; for a role that never did anything the guess is said to be one.

use std::{collections::HashMap, num::NonZeroUsize, sync::Arc};

use crewline_engine::{
    context::estimate_tokens,
    forecast::{Expected, Sample, Spread, forecast as play},
    plan::{self, Document, Problem},
    schedule::Strategy,
};
use crewline_models::Registry;
use crewline_store::{HistoryRow, Store};
use crewline_types::{MicroUsd, ModelSpec, Role};
use serde::Serialize;

use crate::{Error, verify};

/// Calls of earlier tasks that are looked at, newest first.
const ROWS_MAX: u32 = 20_000;
/// Earlier tasks of a role that are drawn from, newest first.
const SAMPLES_MAX: usize = 500;
/// Tokens of the prompt's own words and its index, where nothing is known.
const FRAME_TOKENS: u64 = 900;
/// Tokens of an answer, where nothing is known: short, middling, long.
const GUESSED_TOKENS: [u64; 3] = [200, 600, 1_500];
/// Tokens a second, where nothing is known.
const GUESSED_SPEED: u64 = 40;
/// Before the first token, where nothing is known.
const GUESSED_MILLIS: u64 = 1_000;

/// How a plan is played.
#[derive(Debug, Clone, Copy)]
pub struct Play {
    /// Attempts at once.
    pub workers: NonZeroUsize,
    /// Which of the tasks that are ready goes first.
    pub strategy: Strategy,
    /// The same seed gives the same forecast.
    pub seed: u64,
}

/// What a plan may cost and take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanForecast {
    /// Rounds of chance.
    pub rounds: usize,
    /// Their seed.
    pub seed: u64,
    /// Attempts at once.
    pub workers: usize,
    /// US dollars; none when a model has no price.
    pub cost_usd: Option<Range>,
    /// Seconds from the first start to the last end.
    pub time_s: Range,
    /// Seconds of the longest way: what more places at once could not shorten.
    pub critical_path_s: Range,
    /// The share of rounds in which every task is done at its first try.
    pub done: f64,
    /// The tasks, in the order of the plan.
    pub tasks: Vec<TaskForecast>,
    /// Roles without any earlier task, for which all is guessed from prices.
    pub without_history: Vec<Role>,
    /// Models without a price.
    pub unpriced: Vec<String>,
}

/// The median and the ninth decile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Range {
    /// Half of the rounds stay below it.
    pub p50: f64,
    /// Nine of ten rounds stay below it.
    pub p90: f64,
}

/// What a task may come to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskForecast {
    /// Its id in the plan.
    pub id: String,
    /// Who does it.
    pub role: Role,
    /// Earlier tasks that are drawn from; 0 where all is guessed.
    pub samples: usize,
    /// The share of rounds in which it is on the longest way.
    pub critical: f64,
}

/// Plays `document`; refuses it with all its problems when it is not valid.
pub async fn forecast(
    document: &Document,
    registry: &Registry,
    store: &Store,
    play: Play,
) -> Result<PlanForecast, Error> {
    let plan = plan::check(document, &crate::planning::file_rules(registry)).map_err(refused)?;
    let problems = verify::problems(&plan, registry, verify::Workspace::Unknown);
    if !problems.is_empty() {
        return Err(refused(problems));
    }
    let history = History::of(&store.history(ROWS_MAX).await?, registry);
    Ok(of_plan(&plan, registry, &history, play))
}

fn refused(problems: Vec<Problem>) -> Error {
    Error::Plan { problems }
}

/// What earlier tasks came to, by role.
#[derive(Debug, Default)]
struct History {
    by_role: HashMap<Role, Vec<Sample>>,
    unpriced: HashMap<Role, Vec<String>>,
}

impl History {
    /// From what the calls of each task to each model consumed; the rows of a task stand together.
    fn of(rows: &[HistoryRow], registry: &Registry) -> Self {
        let mut history = Self::default();
        for of_task in rows.chunk_by(|one, other| one.task == other.task) {
            let role = Role::from(of_task[0].role.as_str());
            let mut sample = Sample { cost: MicroUsd::ZERO, millis: 0, is_done: of_task[0].is_done };
            for row in of_task {
                sample.millis = sample.millis.saturating_add(row.millis);
                // What it would cost today; a model that is gone is taken as it was.
                let price = registry.model(&row.model).map(|model| model.price);
                match (price, row.cost) {
                    (Some(Some(price)), _) => sample.cost += price.of_tokens(row.input_tokens, row.output_tokens),
                    (None, Some(cost)) => sample.cost += cost,
                    (Some(None) | None, _) => {
                        let models = history.unpriced.entry(role.clone()).or_default();
                        if !models.contains(&row.model) {
                            models.push(row.model.clone());
                        }
                    }
                }
            }
            let samples = history.by_role.entry(role).or_default();
            if samples.len() < SAMPLES_MAX {
                samples.push(sample);
            }
        }
        history
    }
}

fn of_plan(plan: &plan::Plan, registry: &Registry, history: &History, play_as: Play) -> PlanForecast {
    let samples: HashMap<&Role, Arc<[Sample]>> =
        history.by_role.iter().map(|(role, samples)| (role, samples.as_slice().into())).collect();
    let urgencies = plan.graph().map(|graph| graph.urgencies(play_as.strategy)).unwrap_or_default();
    let (mut without_history, mut unpriced) = (Vec::new(), Vec::new());
    let mut note = |models: &[String]| {
        for model in models {
            if !unpriced.contains(model) {
                unpriced.push(model.clone());
            }
        }
    };
    let mut expected = Vec::with_capacity(plan.tasks.len());
    let mut known = Vec::with_capacity(plan.tasks.len());
    for (place, task) in plan.tasks.iter().enumerate() {
        let found = samples.get(&task.role);
        known.push(found.map_or(0, |it| it.len()));
        let samples = match (found, registry.chain(&task.role).first()) {
            (Some(found), _) => {
                note(history.unpriced.get(&task.role).map_or(&[][..], Vec::as_slice));
                Arc::clone(found)
            }
            (None, model) => {
                if !without_history.contains(&task.role) {
                    without_history.push(task.role.clone());
                }
                if let Some(model) = model.filter(|it| it.price.is_none()) {
                    note(&[model.alias.to_string()]);
                }
                // A chain is never empty.
                model.map_or_else(|| Arc::from([]), |it| guessed(it, &task.description, task.depends_on.len()))
            }
        };
        let urgency = urgencies.get(place).copied().unwrap_or(0);
        expected.push(Expected { needs: task.depends_on.clone(), urgency, samples });
    }
    let played = play(&expected, Some(play_as.workers), play_as.seed);
    let tasks = plan.tasks.iter().zip(known).zip(&played.critical);
    PlanForecast {
        rounds: played.rounds,
        seed: play_as.seed,
        workers: play_as.workers.get(),
        cost_usd: unpriced.is_empty().then(|| range(played.cost, 1e6)),
        time_s: range(played.time, 1e3),
        critical_path_s: range(played.path, 1e3),
        done: played.done,
        tasks: tasks
            .map(|((task, samples), critical)| TaskForecast {
                id: task.key.to_string(),
                role: task.role.clone(),
                samples,
                critical: *critical,
            })
            .collect(),
        without_history,
        unpriced,
    }
}

fn range(spread: Spread, unit: f64) -> Range {
    Range { p50: spread.p50 as f64 / unit, p90: spread.p90 as f64 / unit }
}

/// Answers of the chain's first model, of a few lengths.
fn guessed(model: &ModelSpec, description: &str, needs: usize) -> Arc<[Sample]> {
    let own = u64::from(estimate_tokens(description)) + FRAME_TOKENS;
    let read = GUESSED_TOKENS[1] * u64::try_from(needs).unwrap_or(0);
    let input = (own + read).min(model.input_tokens_max().into());
    let of = |tokens: u64| {
        let output = tokens.min(model.output_tokens_max.into());
        Sample {
            cost: model.price.map_or(MicroUsd::ZERO, |price| price.of_tokens(input, output)),
            millis: GUESSED_MILLIS + output * 1_000 / GUESSED_SPEED,
            is_done: true,
        }
    };
    GUESSED_TOKENS.map(of).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTRY: &str = "version: 1\nproviders: {p: {type: openai_compatible, base_url: \"http://127.0.0.1:1/v1\"}}\nmodels:\n  \
        m: {provider: p, model: m, context_window: 8000, price: {input_per_million: 1.0, output_per_million: 10.0}}\n  \
        free: {provider: p, model: f, context_window: 8000}\nroles:\n  default: {chain: [m]}\n  tester: {chain: [free]}\n";

    fn row(task: i64, role: &str, model: &str, cost: Option<u64>) -> HistoryRow {
        HistoryRow {
            task,
            role: role.into(),
            is_done: true,
            model: model.into(),
            input_tokens: 1_000,
            output_tokens: 100,
            cost: cost.map(MicroUsd),
            millis: 2_000,
        }
    }

    fn plan_of(roles: &[&str]) -> plan::Plan {
        let task =
            |(place, role): (usize, &&str)| serde_json::json!({"id": format!("t{place}"), "title": "T", "role": role});
        let tasks: Vec<_> = roles.iter().enumerate().map(task).collect();
        let document = plan::document_from_value(&serde_json::json!({"goal": "g", "tasks": tasks})).unwrap();
        plan::check(&document, &plan::Rules::open()).unwrap()
    }

    const PLAY: Play = Play { workers: NonZeroUsize::MIN, strategy: Strategy::Dag, seed: 1 };

    #[test]
    fn earlier_tasks_are_priced_as_of_today() {
        let registry = Registry::parse(REGISTRY, "r", &|_| None).unwrap();
        // One task with two models: one of the registry, one that is gone.
        let rows = [row(1, "coder", "m", Some(77)), row(1, "coder", "gone", Some(500)), row(2, "coder", "m", None)];
        let history = History::of(&rows, &registry);
        let coder = &history.by_role[&Role::from("coder")];
        assert_eq!(coder.iter().map(|it| (it.cost.0, it.millis)).collect::<Vec<_>>(), [(2_500, 4_000), (2_000, 2_000)]);
        let found = of_plan(&plan_of(&["coder", "coder"]), &registry, &history, PLAY);
        assert_eq!((found.tasks[0].samples, found.without_history.len()), (2, 0));
        let cost = found.cost_usd.unwrap();
        assert!((0.004..=0.005).contains(&cost.p50) && cost.p90 <= 0.005, "{found:?}");
    }

    #[test]
    fn what_is_guessed_or_unpriced_is_said() {
        let registry = Registry::parse(REGISTRY, "r", &|_| None).unwrap();
        let found = of_plan(&plan_of(&["coder", "tester"]), &registry, &History::default(), PLAY);
        assert_eq!(found.without_history, [Role::from("coder"), Role::from("tester")]);
        assert_eq!((found.cost_usd, &*found.unpriced), (None, &["free".to_owned()][..]));
        assert!(found.time_s.p50 >= 12.0 && found.tasks[0].samples == 0, "{found:?}");
    }
}
