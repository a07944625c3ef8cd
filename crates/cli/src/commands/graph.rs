//! `crewline graph`: a run's tasks and what they need of each other, as a drawing.

use clap::{Args, ValueEnum};

use crate::{app::App, args::Output, console::Console, error::Error, exit::Exit, settings::Settings};

/// What `crewline graph` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline graph k3v9x0ab                          Mermaid, for Markdown and wikis
  crewline graph k3v9 --format dot | dot -Tsvg > run.svg
  crewline graph k3v9 --format json")]
pub(crate) struct GraphArgs {
    /// The run, or the beginning of its id
    #[arg(value_name = "RUN")]
    run: String,
    /// How it is drawn [default: mermaid, or what `--output` says]
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
}

/// How a graph is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A Mermaid flow chart.
    Mermaid,
    /// A Graphviz graph.
    Dot,
    /// Nodes and edges.
    Json,
}

/// Runs the command.
pub(crate) async fn run(args: GraphArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let graph = async {
        let run = app.handle.find_run(&args.run).await?;
        app.handle.graph(run).await
    }
    .await;
    app.stop().await;
    let graph = graph?;
    match (args.format, console.output) {
        (Some(Format::Mermaid), _) | (None, Output::Table | Output::Mermaid) => {
            console.data(graph.mermaid().trim_end())?;
        }
        (Some(Format::Dot), _) | (None, Output::Dot) => console.data(graph.dot().trim_end())?,
        (Some(Format::Json), _) => {
            let text =
                serde_json::to_string_pretty(&graph).map_err(|error| Error::Encode { message: error.to_string() })?;
            console.data(&text)?;
        }
        (None, Output::Json | Output::Jsonl | Output::Yaml) => console.value(&graph, |_| String::new())?,
    }
    Ok(Exit::Ok)
}
