//! `crewline index`: INDEX.md of a run, its versions, and a person's own.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use crewline_types::RunId;
use serde::Serialize;

use crate::{
    app::App,
    commands::task::PERSON,
    console::Console,
    edit::{edited, show_difference},
    error::Error,
    exit::Exit,
    settings::Settings,
    view::{Align, clean, fit, table},
};

/// What `crewline index` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline index show k3v9
  crewline index edit k3v9              add rules, a glossary, decisions
  crewline index history k3v9

INDEX.md is in every bundle, before everything else. The list of tasks in it follows the plan; what stands around the list stays
as you wrote it.")]
pub(crate) struct IndexArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print INDEX.md
    #[command(after_help = "Examples:
  crewline index show k3v9
  crewline index show k3v9 --version 1")]
    Show {
        /// The run
        #[arg(value_name = "RUN")]
        run: String,
        /// An earlier version
        #[arg(long, value_name = "N")]
        version: Option<u32>,
    },
    /// Change INDEX.md in your editor, or by a file
    #[command(after_help = "Examples:
  crewline index edit k3v9
  crewline index edit k3v9 --file INDEX.md --agent ada")]
    Edit {
        /// The run
        #[arg(value_name = "RUN")]
        run: String,
        /// The new text; `-` reads it from stdin
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Who does this
        #[arg(long, value_name = "NAME", default_value = PERSON)]
        agent: String,
    },
    /// List the versions of INDEX.md
    #[command(after_help = "Example:
  crewline index history k3v9")]
    History {
        /// The run
        #[arg(value_name = "RUN")]
        run: String,
    },
}

#[derive(Debug, Serialize)]
struct Edited {
    run: RunId,
    version: u32,
}

/// Runs the command.
pub(crate) async fn run(args: IndexArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let done = act(args.action, &app, console).await;
    app.stop().await;
    done
}

async fn act(action: Action, app: &App, console: &Console) -> Result<Exit, Error> {
    match action {
        Action::Show { run, version } => {
            let run = app.handle.find_run(&run).await?;
            let index = app.handle.index(run, version).await?;
            console.value(&index, |_| index.body.to_string())?;
        }
        Action::Edit { run, file, agent } => {
            let run = app.handle.find_run(&run).await?;
            let old = app.handle.index(run, None).await.map(|it| it.body.to_string()).unwrap_or_default();
            let new = edited(&old, file.as_deref(), ".md")?;
            let version = app.handle.edit_index(run, &new, &agent).await?;
            show_difference(&old, &new, console);
            console.value(&Edited { run, version }, |_| format!("version {version}"))?;
        }
        Action::History { run } => {
            let run = app.handle.find_run(&run).await?;
            let versions = app.handle.index_versions(run).await?;
            console.list(&versions, |style| {
                if versions.is_empty() {
                    return "there is no INDEX.md yet".into();
                }
                let columns =
                    [("VERSION", Align::Right), ("AT", Align::Left), ("BY", Align::Left), ("TEXT", Align::Left)];
                let rows: Vec<Vec<String>> = versions
                    .iter()
                    .map(|it| {
                        let agent = fit(&clean(&it.agent), 40).into_owned();
                        vec![it.version.to_string(), it.at.to_string(), agent, it.text.to_string()]
                    })
                    .collect();
                table(style, &columns, &rows)
            })?;
        }
    }
    Ok(Exit::Ok)
}
