//! `crewline trace`: from a document or a task back to what it was made from.

use std::path::Path;

use clap::Args;
use crewline_models::Mode;
use crewline_runtime::Trace;
use crewline_types::{RunId, TaskId, TaskKind};

use crate::{
    app::{self, App},
    commands::context::{find, items},
    console::Console,
    document::read_file,
    error::Error,
    exit::Exit,
    settings::Settings,
    view::{Style, clean, count, fit},
};

/// What `crewline trace` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline trace k3v9/t2
  crewline trace crewline-out/k3v9x0ab/RESULT.md
  crewline trace out/tasks/t7c2m1xq-compare.md -o json | jq .context.items

Shows the run, the attempt, the model and its parameters, the hash of each prompt, and every item that the attempt was told or
not. Citations of what it was not told, and required results that it does not cite, are marked.")]
pub(crate) struct TraceArgs {
    /// A document that a run wrote, or a task (its id, the beginning of it, or RUN/KEY)
    #[arg(value_name = "OUTPUT")]
    made: String,
}

/// Runs the command.
pub(crate) async fn run(args: TraceArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    // Parameters are told when there is a registry, and it is the one of the run.
    let app = match app::find_registry(settings) {
        Ok(_) => App::start(settings, app::load_registry(settings, console)?, Mode::Offline).await?,
        Err(_) => App::read_only(settings).await?,
    };
    let done = async {
        let (run, task) = located(&args.made, &app).await?;
        let trace = app.handle.trace(run, task).await?;
        console.value(&trace, |style| shown(&trace, style))
    };
    let done = done.await;
    app.stop().await;
    done.map(|()| Exit::Ok)
}

/// The task that made what `output` names.
async fn located(output: &str, app: &App) -> Result<(RunId, TaskId), Error> {
    let path = Path::new(output);
    if !path.is_file() {
        return find(app, output).await;
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if let Some((id, _)) = name.split_once('-').filter(|(id, _)| id.parse::<TaskId>().is_ok()) {
        return find(app, id).await;
    }
    let unknown = || Error::Usage {
        message: format!("`{}` is no document that a run wrote", clean(&fit(output, 60))),
        hint: "name RESULT.md, a file of `tasks/`, or a task",
    };
    // Beside the final document is the report that says which run wrote it.
    let report = path.with_file_name("report.json");
    let report: serde_json::Value = serde_json::from_str(&read_file(&report)?).map_err(|_| unknown())?;
    let run = app.handle.find_run(report["run"].as_str().unwrap_or_default()).await?;
    let report = app.handle.report(run).await?;
    report.last_task().map(|task| (run, task.id)).ok_or_else(unknown)
}

fn shown(trace: &Trace, style: Style) -> String {
    let mut lines = vec![
        format!("{} {} ({}) · {}", style.bold("task"), trace.task, clean(&trace.key), clean(&trace.title)),
        format!("{} {} · {}", style.dim("run     "), trace.run, fit(&clean(&trace.goal), 90)),
    ];
    if let Some(hash) = trace.output {
        lines.push(format!("{} {hash}", style.dim("output  ")));
    }
    if let Some(from) = trace.copied_from {
        lines.push(format!("{} {from}", style.dim("taken from")));
    }
    match &trace.attempt {
        None if trace.kind == TaskKind::Composite => {
            lines.push("made from the tasks below it; no model was asked".into());
        }
        None => lines.push(format!("no attempt made it: the task is {}", trace.status)),
        Some(attempt) => {
            lines.push(format!(
                "{} {} by {} as {} at {}",
                style.dim("attempt "),
                attempt.number,
                clean(&attempt.model),
                clean(trace.role.as_str()),
                attempt.started_at
            ));
            for it in &attempt.calls {
                let outcome = it.call.outcome.map_or("under way", crewline_types::event::CallOutcome::as_str);
                lines.push(format!(
                    "{} {} · {} at {} · {outcome} · {} → {} tokens · prompt {}",
                    style.dim("call    "),
                    it.call.call,
                    clean(&it.call.model),
                    clean(&it.call.provider),
                    count(it.call.usage.input_tokens),
                    count(it.call.usage.output_tokens),
                    it.prompt
                ));
            }
        }
    }
    match &trace.parameters {
        Some(it) => {
            let temperature = it.temperature.map_or_else(|| "the provider's".to_owned(), |it| it.to_string());
            lines.push(format!(
                "{} at most {} tokens · temperature {temperature} · registry {}",
                style.dim("params  "),
                count(it.output_tokens_max.into()),
                trace.registry
            ));
        }
        None if trace.attempt.is_none() => {}
        None => lines.push(format!("{} registry {} (not the one of now)", style.dim("params  "), trace.registry)),
    }
    if let Some(citations) = &trace.citations {
        let list = |name: &str, ids: &[TaskId]| {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            (!ids.is_empty()).then(|| format!("{} {}", style.dim(name), ids.join(", ")))
        };
        lines.extend(list("cites   ", &citations.cited));
        lines.extend(list("cites what it was not told:", &citations.unknown).map(|it| style.yellow(&it)));
        lines.extend(list("requires and does not cite:", &citations.ignored).map(|it| style.yellow(&it)));
    }
    if let Some(context) = &trace.context {
        let hash = context.bundle.map_or_else(|| "not recorded".to_owned(), |it| it.to_string());
        lines.push(format!(
            "{} {} of {} tokens · bundle {hash}",
            style.dim("context "),
            count(context.tokens.into()),
            count(context.budget.into())
        ));
        lines.push(String::new());
        lines.push(items(&context.items, style));
    }
    lines.join("\n")
}
