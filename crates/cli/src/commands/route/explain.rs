//! `crewline route explain`: why which model is asked, for a task that ran or one that could.

use clap::{ArgGroup, Args};
use crewline_runtime::{Explained, Mode, Question};
use crewline_types::{MicroUsd, Role, TaskKind};
use serde::Serialize;

use crate::{
    app::{self, App},
    console::Console,
    document,
    error::Error,
    exit::Exit,
    settings::Settings,
    view::{Align, Style, clean, table},
};

/// What `crewline route explain` takes.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("subject").required(true).args(["task", "role"])))]
#[command(after_help = "Examples:
  crewline route explain k3v9x0ab
  crewline route explain --role writer --text \"Summarise the findings\" -o json
  crewline route explain --role coder --text - --offline < task.txt")]
pub(crate) struct ExplainArgs {
    /// A task that ran, or the beginning of its id
    #[arg(value_name = "TASK")]
    task: Option<String>,
    /// A role: whom would it ask now?
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
    /// What the role would have to do; `-` is stdin
    #[arg(long, value_name = "TEXT", requires = "role", default_value = "")]
    text: String,
    /// The task would write the final document
    #[arg(long, requires = "role")]
    synthesis: bool,
    /// Only models of this machine and its private network
    #[arg(long, requires = "role")]
    offline: bool,
    /// What may be spent, in US dollars
    #[arg(long, value_name = "USD", requires = "role", value_parser = parse_cost)]
    max_cost: Option<MicroUsd>,
}

fn parse_cost(text: &str) -> Result<MicroUsd, String> {
    let amount = text.trim().trim_start_matches('$').parse().ok().and_then(MicroUsd::from_usd);
    amount.ok_or_else(|| "an amount of dollars is written as 0.50".to_owned())
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<String>,
    decisions: Vec<Explained>,
}

/// Runs the command.
pub(crate) async fn run(args: &ExplainArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let registry = match &args.role {
        Some(_) => Some(app::load_registry(settings, console)?),
        None => None,
    };
    let text = match args.text.as_str() {
        "-" => document::read_stdin()?,
        text => text.to_owned(),
    };
    let app = App::read_only(settings).await?;
    let answer = match (registry, &args.role, &args.task) {
        (Some(registry), Some(role), _) => {
            let question = Question {
                role: Role::from(role.as_str()),
                kind: if args.synthesis { TaskKind::Synthesis } else { TaskKind::Atomic },
                text: &text,
                mode: if args.offline { Mode::Offline } else { Mode::Online },
                cost_max: args.max_cost,
            };
            let explained = crewline_runtime::explain(&registry, &app.store, &question).await;
            explained.map(|it| Answer { task: None, decisions: vec![it] })
        }
        (_, _, task) => {
            let task = task.as_deref().unwrap_or_default();
            let found = crewline_runtime::explain_task(&app.store, task).await;
            found.map(|(task, decisions)| Answer { task: Some(task.to_string()), decisions })
        }
    };
    app.stop().await;
    let answer = answer?;
    if answer.decisions.is_empty() {
        console.note("no attempt of the task has begun");
    }
    console.value(&answer, |style| rows(&answer, style))?;
    Ok(Exit::Ok)
}

fn rows(answer: &Answer, style: Style) -> String {
    let columns = [
        ("ATTEMPT", Align::Right),
        ("ROLE", Align::Left),
        ("ASKED", Align::Right),
        ("MODEL", Align::Left),
        ("WHY", Align::Left),
    ];
    let mut rows = Vec::new();
    for decision in &answer.decisions {
        let mut place = 0;
        for candidate in decision.candidates.iter() {
            place += usize::from(candidate.may_be_asked);
            rows.push(vec![
                decision.attempt.map_or_else(|| "-".to_owned(), |it| it.to_string()),
                clean(decision.role.as_str()).into_owned(),
                if candidate.may_be_asked { format!("{place}.") } else { "never".to_owned() },
                clean(&candidate.model).into_owned(),
                clean(&candidate.reason).into_owned(),
            ]);
        }
    }
    let notes = answer.decisions.iter().filter_map(|decision| {
        let tags: Vec<String> = decision.tags.iter().map(|tag| format!(", #{}", clean(tag))).collect();
        Some(format!("\ncomplexity {}{}", decision.complexity?, tags.concat()))
    });
    std::iter::once(table(style, &columns, &rows)).chain(notes).collect()
}
