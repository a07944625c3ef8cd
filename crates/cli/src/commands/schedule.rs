//! `crewline schedule`: when each task of a plan would run.
//!
//! **Invariant:** a plan that is not valid is refused with all its problems at once, on stdout as well when a program reads it.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use crewline_engine::{
    plan::{self, Plan, Problem, Rules},
    schedule::{Graph, Timetable},
};
use crewline_runtime::Strategy;
use serde::{Serialize, Serializer};

use crate::{
    args::Output,
    console::Console,
    document,
    error::Error,
    exit::Exit,
    view::{Align, Style, clean, count, duration, fit, table},
};

/// What `crewline schedule` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline schedule --plan plan.yaml --workers 3
  crewline schedule --plan plan.json --workers unbounded -o json | jq .makespan
  crewline schedule --plan plan.yaml --workers 2 --strategy postorder

A task says how long it takes with `duration`, in seconds; one that does not counts as one second.")]
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
    let (plan, graph) = load(&args.plan, console)?;
    let order = Order { workers: args.workers.0, strategy: args.strategy };
    let scheduled = Scheduled { plan: &plan, times: graph.timetable(order.workers, order.strategy) };
    console.value(&scheduled.wire(), |style| scheduled.table(order, style))?;
    note_unknown(&graph, console);
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
}

/// What programs read.
#[derive(Debug, Serialize)]
struct Wire<'a> {
    makespan: f64,
    tasks: Keyed<'a, Times>,
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
        Wire { makespan: self.times.makespan, tasks: Keyed(tasks.collect()) }
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
            "{}\n\n{} tasks · {} · {workers} workers · {}",
            table(style, &columns, &rows),
            count(self.plan.tasks.len() as u64),
            seconds(self.times.makespan),
            order.strategy.as_str(),
        )
    }
}

/// Seconds for people.
pub(crate) fn seconds(seconds: f64) -> String {
    Duration::try_from_secs_f64(seconds).map_or_else(|_| format!("{seconds} s"), duration)
}
