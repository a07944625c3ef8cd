//! `crewline critical-path`: the longest way through a plan or a run, and how much time every other task has.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use clap::Args;
use crewline_engine::schedule::{CriticalPath, Graph, Job};
use crewline_runtime::Report;
use crewline_types::{Priority, TaskKind};
use serde::Serialize;

use crate::{
    app::App,
    args::Output,
    commands::schedule::{self, Keyed, note_unknown, seconds},
    console::Console,
    draw::{self, Node},
    error::Error,
    exit::Exit,
    settings::Settings,
    view::{Align, Style, clean, fit, table},
};

/// What `crewline critical-path` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline critical-path --plan plan.yaml
  crewline critical-path --plan plan.yaml -o dot | dot -Tsvg > plan.svg
  crewline critical-path k3v9 -o mermaid

A plan says how long its tasks take with `duration`, in seconds; one that does not counts as one second. Of a run's tasks
those that have ended count what they took.")]
pub(crate) struct CriticalPathArgs {
    /// The run, or the beginning of its id
    #[arg(value_name = "RUN", required_unless_present = "plan", conflicts_with = "plan")]
    run: Option<String>,
    /// A plan (JSON or YAML) instead; `-` reads it from stdin
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
}

/// Runs the command.
pub(crate) async fn run(args: CriticalPathArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let (tasks, graph) = match (&args.plan, &args.run) {
        (Some(plan), _) => of_plan(plan, console)?,
        (None, run) => {
            let app = App::read_only(settings).await?;
            let loaded = of_run(run.as_deref().unwrap_or_default(), &app).await;
            app.stop().await;
            loaded?
        }
    };
    let shown = Shown { path: graph.critical_path(), tasks };
    match console.output {
        Output::Dot => console.data(&draw::dot(&shown.nodes()))?,
        Output::Mermaid => console.data(&draw::mermaid(&shown.nodes()))?,
        Output::Table | Output::Json | Output::Jsonl | Output::Yaml => {
            console.value(&shown.wire(), |style| shown.table(style))?;
        }
    }
    note_unknown(&graph, console);
    Ok(Exit::Ok)
}

struct Task {
    name: String,
    title: String,
    needs: Vec<u32>,
    seconds: Option<f64>,
}

fn of_plan(path: &std::path::Path, console: &Console) -> Result<(Vec<Task>, Graph), Error> {
    let (plan, graph) = schedule::load(path, console)?;
    let tasks = plan.tasks.iter().map(|task| Task {
        name: task.key.to_string(),
        title: task.title.to_string(),
        needs: task.depends_on.clone(),
        seconds: task.duration,
    });
    Ok((tasks.collect(), graph))
}

async fn of_run(run: &str, app: &App) -> Result<(Vec<Task>, Graph), Error> {
    let report = app.handle.report(app.handle.find_run(run).await?).await?;
    let tasks = tasks_of(&report);
    let job = |it: &Task| Job { needs: it.needs.clone(), priority: Priority::default(), duration: it.seconds };
    let graph = Graph::new(tasks.iter().map(job).collect())?;
    Ok((tasks, graph))
}

fn tasks_of(report: &Report) -> Vec<Task> {
    let tasks = || report.tasks.iter().filter(|task| task.kind != TaskKind::Root);
    let places: HashMap<_, u32> = tasks().map(|task| task.id).zip(0..).collect();
    tasks()
        .map(|task| Task {
            name: task.key.to_string(),
            title: task.title.to_string(),
            needs: task.depends_on.iter().filter_map(|it| places.get(it).copied()).collect(),
            seconds: task.elapsed_ms.or(task.planned_ms).map(|it| Duration::from_millis(it).as_secs_f64()),
        })
        .collect()
}

struct Shown {
    path: CriticalPath,
    tasks: Vec<Task>,
}

/// What programs read.
#[derive(Debug, Serialize)]
struct Wire<'a> {
    length: f64,
    path: Vec<&'a str>,
    tasks: Keyed<'a, Times>,
}

#[derive(Debug, Serialize)]
struct Times {
    start: f64,
    end: f64,
    slack: f64,
}

impl Shown {
    fn wire(&self) -> Wire<'_> {
        let times = self.path.earliest.iter().zip(&self.path.seconds).zip(&self.path.slack);
        let times = times.map(|((start, seconds), slack)| Times { start: *start, end: start + seconds, slack: *slack });
        let tasks = Keyed(self.tasks.iter().map(|it| it.name.as_str()).zip(times).collect());
        Wire { length: self.path.length, path: self.path_names().collect(), tasks }
    }

    fn path_names(&self) -> impl Iterator<Item = &str> {
        self.path.path.iter().map(|it| self.tasks[*it as usize].name.as_str())
    }

    fn table(&self, style: Style) -> String {
        let columns = [("TASK", Align::Left), ("TITLE", Align::Left), ("START", Align::Right), ("SLACK", Align::Right)];
        let rows: Vec<Vec<String>> = self
            .tasks
            .iter()
            .zip(self.path.earliest.iter().zip(&self.path.slack))
            .map(|(task, (start, slack))| {
                vec![
                    clean(&task.name).into_owned(),
                    fit(&clean(&task.title), 60).into_owned(),
                    seconds(*start),
                    if *slack > 0.0 { seconds(*slack) } else { "-".to_owned() },
                ]
            })
            .collect();
        let path: Vec<_> = self.path_names().map(clean).collect();
        format!(
            "{}\n\n{} {} · {}",
            table(style, &columns, &rows),
            style.bold("critical path"),
            seconds(self.path.length),
            path.join(" → "),
        )
    }

    fn nodes(&self) -> Vec<Node<'_>> {
        let mut nodes: Vec<Node<'_>> = self
            .tasks
            .iter()
            .map(|task| Node {
                name: &task.name,
                title: &task.title,
                note: task.seconds.map(seconds),
                needs: &task.needs,
                is_marked: false,
            })
            .collect();
        for it in &self.path.path {
            nodes[*it as usize].is_marked = true;
        }
        nodes
    }
}
