//! `crewline link`: what tasks are to each other.

use clap::{Args, Subcommand, ValueEnum};
use crewline_runtime::TaskCommand;
use crewline_types::LinkKind;
use serde::Serialize;

use crate::{
    app::App,
    commands::{
        context::find,
        task::{By, change, name},
    },
    console::Console,
    error::Error,
    exit::Exit,
    settings::Settings,
    view::{Align, clean, fit, table},
};

/// What `crewline link` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline link add k3v9/report compare             the report requires the comparison
  crewline link add k3v9/report history --kind refers
  crewline link rm k3v9/report compare
  crewline link ls k3v9

A link that would make tasks require each other in a circle is refused, with the way round.")]
pub(crate) struct LinkArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Link a task to another of its run
    #[command(after_help = "Example:
  crewline link add k3v9/report compare --kind requires")]
    Add {
        /// The task that requires, refers, …
        #[arg(value_name = "FROM")]
        from: String,
        /// The other task, by its key or id
        #[arg(value_name = "TO")]
        to: String,
        /// What the link means
        #[arg(long, value_enum, default_value_t = Kind::Requires)]
        kind: Kind,
        #[command(flatten)]
        by: By,
    },
    /// Take links away
    #[command(after_help = "Example:
  crewline link rm k3v9/report compare")]
    Rm {
        /// The task that requires, refers, …
        #[arg(value_name = "FROM")]
        from: String,
        /// The other task
        #[arg(value_name = "TO")]
        to: String,
        /// Only links that mean this
        #[arg(long, value_enum)]
        kind: Option<Kind>,
        #[command(flatten)]
        by: By,
    },
    /// List the links of a run or a task
    #[command(after_help = "Examples:
  crewline link ls k3v9
  crewline link ls k3v9/report -o json")]
    Ls {
        /// The run or the task
        #[arg(value_name = "RUN")]
        what: String,
    },
}

/// What a link means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Kind {
    /// FROM runs only after TO is done
    Requires,
    /// FROM should see what TO made
    Refers,
    /// FROM repeats TO
    Duplicates,
    /// They are worth knowing of each other
    RelatesTo,
}

impl From<Kind> for LinkKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Requires => Self::Requires,
            Kind::Refers => Self::Refers,
            Kind::Duplicates => Self::Duplicates,
            Kind::RelatesTo => Self::RelatesTo,
        }
    }
}

/// A link as it is listed.
#[derive(Debug, Serialize)]
struct Listed {
    from: String,
    kind: LinkKind,
    to: String,
}

/// Runs the command.
pub(crate) async fn run(args: LinkArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let done = act(args.action, &app, console).await;
    app.stop().await;
    done
}

async fn act(action: Action, app: &App, console: &Console) -> Result<Exit, Error> {
    match action {
        Action::Add { from, to, kind, by } => {
            let (run, from) = find(app, &from).await?;
            let command = TaskCommand::Link { from: from.to_string(), to: name(app, &to).await?, kind: kind.into() };
            change(app, run, command, &by, console).await
        }
        Action::Rm { from, to, kind, by } => {
            let (run, from) = find(app, &from).await?;
            let kind = kind.map(Into::into);
            let command = TaskCommand::Unlink { from: from.to_string(), to: name(app, &to).await?, kind };
            change(app, run, command, &by, console).await
        }
        Action::Ls { what } => {
            let found = app.handle.find(&what).await?;
            let views = app.handle.task_views(found.run()).await?;
            let only = found.task().and_then(|id| views.iter().find(|view| view.id == id)).map(|view| &view.key);
            let links: Vec<Listed> = views
                .iter()
                .flat_map(|view| view.links.iter().map(move |link| (view, link)))
                .filter(|(view, link)| only.is_none_or(|key| view.key == *key || link.to == *key))
                .map(|(view, link)| Listed { from: view.key.to_string(), kind: link.kind, to: link.to.to_string() })
                .collect();
            console.list(&links, |style| {
                if links.is_empty() {
                    return "no links".into();
                }
                let columns = [("FROM", Align::Left), ("KIND", Align::Left), ("TO", Align::Left)];
                let row = |it: &Listed| {
                    let key = |text: &str| fit(&clean(text), 40).into_owned();
                    vec![key(&it.from), it.kind.as_str().to_owned(), key(&it.to)]
                };
                table(style, &columns, &links.iter().map(row).collect::<Vec<_>>())
            })?;
            Ok(Exit::Ok)
        }
    }
}
