//! `crewline cost`: what calls cost, added up.

use clap::{Args, ValueEnum};
use crewline_store::{CostBy, CostRow};
use crewline_types::{MicroUsd, Usage};
use serde::Serialize;

use crate::{
    app::App,
    args::Output,
    console::Console,
    error::Error,
    exit::Exit,
    settings::Settings,
    view::{Align, Style, clean, cost, count, table, tokens},
};

/// What `crewline cost` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline cost                       by model, of all projects
  crewline cost --by day -o json
  crewline cost --by role --project research")]
pub(crate) struct CostArgs {
    /// What calls are added up by; days are in UTC
    #[arg(long, value_enum, value_name = "WHAT", default_value = "model")]
    by: By,
    /// Rows at most, the dearest first (with `--by day` the latest)
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// What calls are added up by.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    Model,
    Role,
    Run,
    Task,
    Day,
}

impl From<By> for CostBy {
    fn from(by: By) -> Self {
        match by {
            By::Model => Self::Model,
            By::Role => Self::Role,
            By::Run => Self::Run,
            By::Task => Self::Task,
            By::Day => Self::Day,
        }
    }
}

/// A row as JSON has it.
#[derive(Debug, Serialize)]
struct Row {
    by: String,
    key: String,
    calls: u64,
    unpriced_calls: u64,
    usage: Usage,
    cost_usd: MicroUsd,
    /// Copies of questions for candidates, which are in none of the figures above.
    shadow_calls: u64,
    shadow_cost_usd: MicroUsd,
}

/// Runs the command.
pub(crate) async fn run(args: CostArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let by = CostBy::from(args.by);
    let rows = app.store.costs(settings.project.as_deref(), by, args.limit).await;
    app.stop().await;
    let to_row = |row: CostRow| Row {
        by: by.to_string(),
        key: row.key,
        calls: row.calls,
        unpriced_calls: row.unpriced,
        usage: row.usage,
        cost_usd: row.cost,
        shadow_calls: row.shadow_calls,
        shadow_cost_usd: row.shadow_cost,
    };
    let rows: Vec<Row> = rows?.into_iter().map(to_row).collect();
    if rows.is_empty() && console.output == Output::Table {
        console.note("no calls");
    } else {
        console.list(&rows, |style| lines(by, &rows, style))?;
    }
    Ok(Exit::Ok)
}

fn lines(by: CostBy, rows: &[Row], style: Style) -> String {
    let key = by.to_string().to_uppercase();
    let mut columns =
        vec![(key.as_str(), Align::Left), ("CALLS", Align::Right), ("TOKENS", Align::Right), ("COST", Align::Right)];
    // Most have no candidates.
    let has_copies = rows.iter().any(|row| row.shadow_calls > 0);
    if has_copies {
        columns.extend([("COPIES", Align::Right), ("THEIR COST", Align::Right)]);
    }
    let cells = rows.iter().map(|row| {
        let name = clean(&row.key).into_owned();
        let mut cells = vec![name, count(row.calls), tokens(&row.usage), cost(row.cost_usd, row.unpriced_calls)];
        if has_copies {
            cells.extend([count(row.shadow_calls), cost(row.shadow_cost_usd, 0)]);
        }
        cells
    });
    table(style, &columns, &cells.collect::<Vec<_>>())
}
