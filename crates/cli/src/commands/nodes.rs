//! `crewline nodes`: the processes that share the database.

use clap::Args;
use crewline_runtime::NodeSummary;
use crewline_types::{Clock, SystemClock, Timestamp};

use crate::{
    app::App,
    args::Output,
    console::Console,
    error::Error,
    exit::Exit,
    settings::Settings,
    view::{Align, Style, clean, duration, table},
};

/// What `crewline nodes` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline nodes --database postgres://crew@db/crewline
  crewline nodes -o json

Shows servers and workers, what they work for, how many of their slots are taken and when they were last seen. One that
is silent for longer than its lease is `lost`: others take over what it had, and it is soon not shown any more.")]
pub(crate) struct NodesArgs {}

/// Runs the command.
pub(crate) async fn run(_args: NodesArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let nodes = app.handle.nodes().await;
    let is_shared = app.is_shared();
    app.stop().await;
    let nodes = nodes?;
    if nodes.is_empty() && console.output == Output::Table {
        console.note("no server or worker shares this database");
    } else {
        let now = SystemClock.now();
        console.list(&nodes, |style| rows(&nodes, now, style))?;
    }
    if !is_shared {
        console.hint("machines share a PostgreSQL database: name it with `--database URL`");
    }
    Ok(Exit::Ok)
}

fn rows(nodes: &[NodeSummary], now: Timestamp, style: Style) -> String {
    let columns = [
        ("NODE", Align::Left),
        ("KIND", Align::Left),
        ("VERSION", Align::Left),
        ("ROLES", Align::Left),
        ("BUSY", Align::Right),
        ("STATE", Align::Left),
        ("SEEN", Align::Right),
    ];
    let rows: Vec<Vec<String>> = nodes
        .iter()
        .map(|node| {
            vec![
                clean(&node.id).into_owned(),
                node.kind.as_str().to_owned(),
                node.version.clone(),
                node.roles.as_ref().map_or_else(|| "every".to_owned(), |roles| roles.join(",")),
                format!("{}/{}", node.busy, node.slots),
                node.state.to_owned(),
                format!("{} ago", duration(now.since(node.seen_at))),
            ]
        })
        .collect();
    table(style, &columns, &rows)
}
