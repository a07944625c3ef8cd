//! `crewline logs`: what happened in a run, a line each; with `-f`, what happens.

use std::{borrow::Cow, collections::HashMap, sync::Arc, time::Duration};

use clap::Args;
use crewline_runtime::{Error as RuntimeError, Found};
use crewline_types::{Event, EventBody, RunId, TaskId, event::ErrorNote};

use crate::{
    app::App,
    args::Output,
    console::Console,
    error::Error,
    exit::Exit,
    settings::Settings,
    signals::Signals,
    summary,
    view::{Style, clean, cost, duration, pad, tokens},
};

/// Events of one page.
const PAGE: u32 = 512;
/// Columns of a key, a type.
const KEY: usize = 10;
const TYPE: usize = 14;

/// What `crewline logs` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline logs k3v9x0ab
  crewline logs k3v9 -f                      follow until the run ends, also when another process runs it
  crewline logs k3v9 --task t2 --tail 20
  crewline logs k3v9 --since 120 -o jsonl    events after number 120, one JSON object a line")]
pub(crate) struct LogsArgs {
    /// The run, or the beginning of its id; the id of a task shows that task only
    #[arg(value_name = "RUN")]
    run: String,
    /// Wait for more until the run ends
    #[arg(short, long)]
    follow: bool,
    /// Only this task (its key, or the beginning of its id)
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    /// Only events after this number
    #[arg(long, value_name = "SEQ", conflicts_with = "tail")]
    since: Option<u64>,
    /// Only the last events
    #[arg(short = 'n', long, value_name = "N")]
    tail: Option<u64>,
}

/// Runs the command.
pub(crate) async fn run(args: LogsArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    if args.follow && matches!(console.output, Output::Json | Output::Yaml) {
        return Err(Error::Usage {
            message: "events that are followed have no end, so they are no JSON or YAML document".into(),
            hint: "use `-o jsonl`: one JSON object a line",
        });
    }
    let app = App::read_only(settings).await?;
    let shown = show(&args, &app, console).await;
    app.stop().await;
    shown
}

async fn show(args: &LogsArgs, app: &App, console: &Console) -> Result<Exit, Error> {
    let (run, task) = place(args, app).await?;
    let tasks = app.store.tasks(run).await?;
    let mut printer =
        Printer { console, task, keys: tasks.into_iter().map(|task| (task.id, task.key)).collect(), kept: Vec::new() };
    let after = match (args.since, args.tail) {
        (Some(seq), _) => seq,
        (None, Some(last)) => {
            let row = app.store.run(run).await?;
            row.map_or(0, |row| row.last_seq.saturating_sub(last))
        }
        (None, None) => 0,
    };
    if args.follow { follow(app, run, after, &mut printer).await } else { past(app, run, after, printer).await }
}

/// The run, and the task when only its events are wanted.
async fn place(args: &LogsArgs, app: &App) -> Result<(RunId, Option<TaskId>), Error> {
    let found = match app.handle.find(&args.run).await {
        // A run goes before a task whose id begins alike.
        Err(RuntimeError::Ambiguous { .. }) => Found::Run(app.handle.find_run(&args.run).await?),
        found => found?,
    };
    match &args.task {
        Some(task) => Ok((found.run(), Some(app.handle.find_task(found.run(), task).await?))),
        None => Ok((found.run(), found.task())),
    }
}

async fn past(app: &App, run: RunId, mut after: u64, mut printer: Printer<'_>) -> Result<Exit, Error> {
    loop {
        let events = app.store.events(run, after, PAGE).await?;
        let is_last = events.len() < PAGE as usize;
        for event in events {
            after = event.seq;
            printer.event(event)?;
        }
        if is_last {
            printer.end()?;
            return Ok(Exit::Ok);
        }
    }
}

async fn follow(app: &App, run: RunId, after: u64, printer: &mut Printer<'_>) -> Result<Exit, Error> {
    let mut signals = Signals::listen()?;
    let watch = app.handle.watch(run, after);
    // As a stream, an event is never lost when another branch of the select is faster.
    let events = futures::stream::unfold(watch, |mut watch| async move {
        let event = watch.next().await?;
        Some((event, watch))
    });
    let mut events = std::pin::pin!(events);
    loop {
        let event = tokio::select! {
            biased;
            () = signals.next() => return Ok(Exit::Interrupted),
            event = futures::StreamExt::next(&mut events) => event,
        };
        match event {
            Some(event) => printer.event(event?)?,
            None => return Ok(Exit::Ok),
        }
    }
}

/// Prints events, or keeps them until all are there.
struct Printer<'a> {
    console: &'a Console,
    task: Option<TaskId>,
    keys: HashMap<TaskId, Arc<str>>,
    kept: Vec<Event>,
}

impl Printer<'_> {
    fn event(&mut self, event: Event) -> Result<(), Error> {
        if let EventBody::PlanReady { tasks, .. } = &event.body {
            self.keys.extend(tasks.iter().map(|task| (task.id, task.key.clone())));
        }
        if self.task.is_some() && event.task != self.task {
            return Ok(());
        }
        match self.console.output {
            Output::Json | Output::Yaml => self.kept.push(event),
            Output::Jsonl => {
                let line =
                    serde_json::to_string(&event).map_err(|error| Error::Encode { message: error.to_string() })?;
                self.console.data(&line)?;
            }
            Output::Table | Output::Dot | Output::Mermaid => {
                self.console.data(&line(&event, &self.keys, self.console.out))?;
            }
        }
        Ok(())
    }

    fn end(self) -> Result<(), Error> {
        match self.console.output {
            Output::Json | Output::Yaml => self.console.list(&self.kept, |_| String::new()),
            Output::Jsonl | Output::Table | Output::Dot | Output::Mermaid => Ok(()),
        }
    }
}

/// An event for people: when, number, task, type, what.
fn line(event: &Event, keys: &HashMap<TaskId, Arc<str>>, style: Style) -> String {
    let key = event.task.and_then(|task| keys.get(&task)).map_or("-", |key| key);
    let kind = pad(event.body.kind(), TYPE);
    let kind = match &event.body {
        EventBody::TaskCompleted { .. } => style.green(&kind),
        EventBody::TaskFailed { .. } | EventBody::TaskBlocked { .. } => style.red(&kind),
        EventBody::BudgetReached { .. }
        | EventBody::AwaitingApproval { .. }
        | EventBody::TaskParked { .. }
        | EventBody::TaskPlanned { .. }
        | EventBody::TaskOverdue { .. } => style.yellow(&kind),
        EventBody::RunStarted { .. }
        | EventBody::PlanReady { .. }
        | EventBody::TaskStarted { .. }
        | EventBody::TaskChanged { .. }
        | EventBody::IndexChanged { .. }
        | EventBody::ModelCall { .. }
        | EventBody::ToolCall { .. }
        | EventBody::MemoryStored { .. }
        | EventBody::SummaryReady { .. }
        | EventBody::RunFinished { .. } => kind,
    };
    let what = what(&event.body);
    let text = format!(
        "{} {:>5} {} {kind} {}",
        style.dim(&event.at.to_string()),
        event.seq,
        pad(&clean(key), KEY),
        clean(&what)
    );
    text.trim_end().to_owned()
}

fn what(body: &EventBody) -> Cow<'_, str> {
    let ms = |ms: u64| duration(Duration::from_millis(ms));
    let note = |note: &ErrorNote| format!("{} [{}]", note.message, note.code);
    match body {
        EventBody::RunStarted { goal, resumed: true, .. } => format!("again: {goal}").into(),
        EventBody::RunStarted { goal, .. } => Cow::Borrowed(goal),
        EventBody::PlanReady { tasks, repairs } if repairs.is_empty() => format!("{} tasks", tasks.len()).into(),
        EventBody::PlanReady { tasks, repairs } => {
            format!("{} tasks; repaired: {}", tasks.len(), repairs.join("; ")).into()
        }
        EventBody::TaskStarted { title, role, model, .. } => format!("{title} ({role}, {model})").into(),
        EventBody::ModelCall { model, outcome, usage, cost_usd, elapsed_ms, error, checks, .. } => {
            let spent = cost_usd.map_or_else(|| "unpriced".to_owned(), |amount| cost(amount, 0));
            let error = error.as_ref().map(|error| format!(": {}", note(error))).unwrap_or_default();
            let passed = checks.iter().filter(|it| it.passed).count();
            let checks = if checks.is_empty() { String::new() } else { format!(" {passed}/{} checks", checks.len()) };
            format!("{model} {} {} {spent} {}{checks}{error}", outcome.as_str(), tokens(usage), ms(*elapsed_ms)).into()
        }
        EventBody::TaskCompleted { copied_from: Some(task), .. } => format!("taken over from {task}").into(),
        EventBody::TaskCompleted { model, usage, cost_usd, elapsed_ms, .. } => {
            format!("{model} {} {} {}", tokens(usage), cost(*cost_usd, 0), ms(*elapsed_ms)).into()
        }
        EventBody::TaskFailed { error, will_retry, .. } => {
            format!("{}{}", note(error), if *will_retry { ", trying again" } else { "" }).into()
        }
        EventBody::TaskParked { error, until, .. } => format!("until {until} at least: {}", note(error)).into(),
        EventBody::TaskPlanned { until, .. } => format!("not before {until}").into(),
        EventBody::TaskOverdue { deadline, .. } => format!("its deadline was {deadline}").into(),
        EventBody::TaskBlocked { reason, .. } => Cow::Borrowed(reason),
        EventBody::TaskChanged { action, agent, detail, .. } => {
            format!("{} by {agent}: {detail}", action.as_str()).into()
        }
        EventBody::IndexChanged { version, agent } => format!("version {version} by {agent}").into(),
        EventBody::ToolCall { tool, outcome, elapsed_ms, .. } => {
            format!("{tool} {} {}", outcome.as_str(), ms(*elapsed_ms)).into()
        }
        EventBody::AwaitingApproval { what, approval, .. } => match approval {
            Some(id) => format!("{id}: {what}").into(),
            None => Cow::Borrowed(what),
        },
        EventBody::MemoryStored { memory, kind } => format!("{kind} {memory}").into(),
        EventBody::SummaryReady { memory, kind, version } => format!("{kind} {memory} (version {version})").into(),
        EventBody::BudgetReached { message, .. } => Cow::Borrowed(message),
        EventBody::RunFinished { status, tasks, cost_usd, unpriced_calls, elapsed_ms, error, .. } => {
            let error = error.as_ref().map(|error| format!(": {}", note(error))).unwrap_or_default();
            let counts = summary::tasks(tasks);
            let spent = cost(*cost_usd, *unpriced_calls);
            format!("{} · {counts} · {spent} · {}{error}", status.as_str(), ms(*elapsed_ms)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use crewline_types::{MicroUsd, Timestamp, Usage, event::CallOutcome};

    use super::*;

    #[test]
    fn an_event_is_one_tame_line() {
        let task: TaskId = "bbbbbbbb".parse().unwrap();
        let keys = HashMap::from([(task, Arc::from("t1"))]);
        let event = |body| Event {
            seq: 7,
            at: Timestamp(0),
            run: "aaaaaaaa".parse().unwrap(),
            task: Some(task),
            attempt: Some(1),
            body,
        };
        let call = event(EventBody::ModelCall {
            call: "bbbbbbbb.1.1".into(),
            role: "writer".into(),
            model: "cheap".into(),
            provider: "stub".into(),
            outcome: CallOutcome::Ok,
            usage: Usage { input_tokens: 340, output_tokens: 5, ..Usage::default() },
            cost_usd: Some(MicroUsd(1_500)),
            elapsed_ms: 1_200,
            error: None,
            checks: Vec::new(),
        });
        assert_eq!(
            line(&call, &keys, Style::PLAIN),
            format!("{}     7 t1         model_call     cheap ok 340→5 $0.0015 1.2 s", Timestamp(0))
        );
        let evil = event(EventBody::TaskBlocked { key: "t1".into(), reason: "a\u{1b}[2J\nb".into() });
        let text = line(&evil, &keys, Style::PLAIN);
        assert!(!text.contains('\u{1b}') && !text.contains('\n'), "{text}");
    }
}
