//! `crewline schedule`: when each task of a plan would run.
//!
//! **Invariant:** a plan that is not valid is refused with all its problems at once, on stdout as well when a program reads it.

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use crewline_engine::{
    plan::{self, Overdue, Plan, Problem, Rules},
    schedule::{Graph, Timetable},
};
use crewline_runtime::Strategy;
use crewline_types::{Clock as _, SystemClock, Timestamp};
use serde::{Serialize, Serializer};

use crate::{
    args::Output,
    commands::task::parse_at,
    console::Console,
    document,
    error::Error,
    exit::Exit,
    view::{Align, Style, clean, count, duration, fit, table},
};

/// Tasks that are warned of one by one.
const WARNINGS_MAX: usize = 20;

/// What `crewline schedule` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline schedule --plan plan.yaml --workers 3
  crewline schedule --plan plan.json --workers unbounded -o json | jq .makespan
  crewline schedule --plan plan.yaml --workers 2 --strategy postorder
  crewline schedule --plan plan.yaml --workers 2 --from 2026-12-01T08:00:00Z

A task says how long it takes with `duration`, in seconds; one that does not counts as one second. None begins before its
`planned_for`; one that ends after its `deadline` is warned of, and listed as `overdue` for programs.")]
pub(crate) struct ScheduleArgs {
    /// The plan (JSON or YAML); `-` reads it from stdin
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// Tasks at once, or `unbounded`
    #[arg(long, value_name = "N", value_parser = parse_workers)]
    workers: Workers,
    /// Which of the tasks that are ready goes first; `dag` looks for the shortest timetable
    #[arg(long, value_name = "STRATEGY", value_parser = strategies(), default_value = "dag")]
    strategy: Strategy,
    /// When the plan begins, as 2026-12-01T08:00:00Z; now by default
    #[arg(long, value_name = "TIMESTAMP", value_parser = parse_at)]
    from: Option<Timestamp>,
}

/// Tasks at once; `None` is no bound.
#[derive(Debug, Clone, Copy)]
struct Workers(Option<NonZeroUsize>);

fn parse_workers(text: &str) -> Result<Workers, String> {
    match text {
        "unbounded" => Ok(Workers(None)),
        number => {
            let number = number.parse().map_err(|_| "give a whole number above zero, or `unbounded`")?;
            Ok(Workers(Some(number)))
        }
    }
}

/// Reads the name of a strategy.
pub(crate) fn strategies() -> impl TypedValueParser<Value = Strategy> {
    PossibleValuesParser::new(Strategy::ALL.map(Strategy::as_str))
        .map(|name| Strategy::parse(&name).unwrap_or_default())
}

/// How tasks are put in order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    /// Tasks at once; `None` is no bound.
    pub(crate) workers: Option<NonZeroUsize>,
    /// What goes first.
    pub(crate) strategy: Strategy,
}

/// Runs the command.
pub(crate) fn run(args: &ScheduleArgs, console: &Console) -> Result<Exit, Error> {
    let (plan, _) = load(&args.plan, console)?;
    let from = args.from.unwrap_or_else(|| SystemClock.now());
    let graph = plan.graph_from(from)?;
    let order = Order { workers: args.workers.0, strategy: args.strategy };
    let times = graph.timetable(order.workers, order.strategy);
    let has_times = plan.tasks.iter().any(|task| task.times != plan::Times::default());
    let overdue = overdue(&plan, &times, from);
    let scheduled = Scheduled { plan: &plan, times, from: has_times.then_some(from), overdue };
    console.value(&scheduled.wire(), |style| scheduled.table(order, style))?;
    note_unknown(&graph, console);
    warn_overdue(&scheduled.overdue, console);
    Ok(Exit::Ok)
}

/// Reads, checks and links a plan; its problems are told to programs as well.
pub(crate) fn load(path: &std::path::Path, console: &Console) -> Result<(Plan, Graph), Error> {
    let read = || {
        let document = document::read_plan(path)?;
        let plan = plan::check(&document, &Rules::open())
            .map_err(|problems| Error::Plan { name: path.display().to_string(), problems })?;
        let graph = plan.graph()?;
        Ok((plan, graph))
    };
    read().inspect_err(|error| {
        if console.output != Output::Table {
            // The refusal itself is told in any case; a broken stdout must not hide it.
            let _ = console.value(&Refusal::of(error), |_| String::new());
        }
    })
}

/// Says on what the figures rest.
pub(crate) fn note_unknown(graph: &Graph, console: &Console) {
    match (graph.unknown(), graph.len()) {
        (0, _) => {}
        (unknown, all) if unknown == all => console.note("no task has a `duration`: each counts as one second"),
        (1, _) => console.note("one task without a `duration` counts as one second"),
        (unknown, _) => {
            console.note(&format!("{} tasks without a `duration` count as one second each", count(unknown as u64)));
        }
    }
}

/// A task that would end after its deadline.
#[derive(Debug, Serialize)]
pub(crate) struct Missed {
    task: Arc<str>,
    deadline: Timestamp,
    /// Seconds after it.
    late: f64,
}

/// The tasks that would end after their deadlines, when the plan begins at `from`.
pub(crate) fn overdue(plan: &Plan, times: &Timetable, from: Timestamp) -> Vec<Missed> {
    let late = |it: Overdue| {
        Some(Missed { task: Arc::clone(&plan.tasks.get(it.task as usize)?.key), deadline: it.deadline, late: it.late })
    };
    plan.overdue(&times.slots, from).into_iter().filter_map(late).collect()
}

/// Warns of tasks that would be late.
pub(crate) fn warn_overdue(overdue: &[Missed], console: &Console) {
    for Missed { task, deadline, late } in overdue.iter().take(WARNINGS_MAX) {
        console.warn(&format!("`{}` would end {} after its deadline, {deadline}", clean(task), seconds(*late)));
    }
    if let more @ 1.. = overdue.len().saturating_sub(WARNINGS_MAX) {
        console.warn(&format!("{} more would end after their deadlines", count(more as u64)));
    }
}

/// Why a plan was refused, for programs.
#[derive(Debug, Serialize)]
struct Refusal<'a> {
    errors: Vec<Refused<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Refused<'a> {
    Plan(&'a Problem),
    Other { code: &'static str, message: String },
}

impl<'a> Refusal<'a> {
    fn of(error: &'a Error) -> Self {
        let errors = match error.plan_problems() {
            [] => vec![Refused::Other { code: error.code(), message: error.to_string() }],
            problems => problems.iter().map(Refused::Plan).collect(),
        };
        Self { errors }
    }
}

/// When each task would run.
#[derive(Debug)]
struct Scheduled<'a> {
    plan: &'a Plan,
    times: Timetable,
    /// When it begins; none when no task says anything about time.
    from: Option<Timestamp>,
    overdue: Vec<Missed>,
}

/// What programs read.
#[derive(Debug, Serialize)]
struct Wire<'a> {
    makespan: f64,
    tasks: Keyed<'a, Times>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Timestamp>,
    #[serde(skip_serializing_if = "<[Missed]>::is_empty")]
    overdue: &'a [Missed],
}

#[derive(Debug, Serialize)]
struct Times {
    start: f64,
    end: f64,
}

/// An object whose keys keep their order.
#[derive(Debug)]
pub(crate) struct Keyed<'a, T>(pub(crate) Vec<(&'a str, T)>);

impl<T: Serialize> Serialize for Keyed<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl Scheduled<'_> {
    fn wire(&self) -> Wire<'_> {
        let tasks = self.plan.tasks.iter().zip(&self.times.slots);
        let tasks = tasks.map(|(task, slot)| (&*task.key, Times { start: slot.start, end: slot.end }));
        let tasks = Keyed(tasks.collect());
        Wire { makespan: self.times.makespan, tasks, from: self.from, overdue: &self.overdue }
    }

    fn table(&self, order: Order, style: Style) -> String {
        let columns = [("START", Align::Right), ("END", Align::Right), ("TASK", Align::Left), ("TITLE", Align::Left)];
        let mut rows: Vec<_> = self.plan.tasks.iter().zip(&self.times.slots).collect();
        rows.sort_by(|one, two| one.1.start.total_cmp(&two.1.start));
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|(task, slot)| {
                vec![
                    seconds(slot.start),
                    seconds(slot.end),
                    clean(&task.key).into_owned(),
                    fit(&clean(&task.title), 60).into_owned(),
                ]
            })
            .collect();
        let workers = order.workers.map_or_else(|| "unbounded".to_owned(), |it| count(it.get() as u64));
        format!(
            "{}\n\n{} tasks · {} · {workers} workers · {}{}",
            table(style, &columns, &rows),
            count(self.plan.tasks.len() as u64),
            seconds(self.times.makespan),
            order.strategy.as_str(),
            self.from.map(|at| format!(" · from {at}")).unwrap_or_default(),
        )
    }
}

/// Seconds for people.
pub(crate) fn seconds(seconds: f64) -> String {
    Duration::try_from_secs_f64(seconds).map_or_else(|_| format!("{seconds} s"), duration)
}
