//! `crewline route shadows`: how candidate models do on copies of the crew's questions.

use clap::Args;
use crewline_store::ShadowRow;
use crewline_types::{MicroUsd, Usage};
use serde::Serialize;

use crate::{
    app::App,
    args::Output,
    console::Console,
    error::Error,
    exit::Exit,
    settings::Settings,
    view::{Align, Style, clean, cost, count, table},
};

/// Copies that are looked at, newest first.
const COPIES_MAX: u32 = 20_000;

/// What `crewline route shadows` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline route shadows
  crewline route shadows -o json

Of the last 20,000 copies: how many answers of the candidate and of the model of the chain the
checks accepted, and how many only one of them. NO ANSWER counts errors, limits on time, and
copies whose end is not known. The costs are of the same questions.")]
pub(crate) struct ShadowsArgs;

/// A row as JSON has it.
#[derive(Debug, Serialize)]
struct Row {
    role: String,
    model: String,
    candidate: String,
    copies: u64,
    open: u64,
    failed: u64,
    both_accepted: u64,
    only_candidate_accepted: u64,
    only_model_accepted: u64,
    neither_accepted: u64,
    /// The share of the answered copies that were accepted; null where none was answered.
    accept_rate: Option<f64>,
    /// The same of the answers of the chain to these questions.
    model_accept_rate: Option<f64>,
    usage: Usage,
    cost_usd: MicroUsd,
    model_cost_usd: MicroUsd,
    mean_ms: Option<u64>,
    model_mean_ms: Option<u64>,
}

impl From<ShadowRow> for Row {
    fn from(row: ShadowRow) -> Self {
        let answered = row.both + row.only_candidate + row.only_incumbent + row.neither;
        let rate = |accepted: u64| (answered > 0).then(|| accepted as f64 / answered as f64);
        let mean = |all: std::time::Duration| u64::try_from(all.as_millis()).unwrap_or(u64::MAX).checked_div(answered);
        Self {
            accept_rate: rate(row.both + row.only_candidate),
            model_accept_rate: rate(row.both + row.only_incumbent),
            mean_ms: mean(row.elapsed),
            model_mean_ms: mean(row.incumbent_elapsed),
            role: row.role,
            model: row.incumbent,
            candidate: row.model,
            copies: row.copies,
            open: row.open,
            failed: row.failed,
            both_accepted: row.both,
            only_candidate_accepted: row.only_candidate,
            only_model_accepted: row.only_incumbent,
            neither_accepted: row.neither,
            usage: row.usage,
            cost_usd: row.cost,
            model_cost_usd: row.incumbent_cost,
        }
    }
}

/// Runs the command.
pub(crate) async fn run(settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let rows = app.store.shadows(COPIES_MAX).await;
    app.stop().await;
    let rows: Vec<Row> = rows?.into_iter().map(Row::from).collect();
    if rows.is_empty() && console.output == Output::Table {
        console.note("no candidate was asked yet: give a role of the registry a `shadow`");
    } else {
        console.list(&rows, |style| lines(&rows, style))?;
    }
    Ok(Exit::Ok)
}

fn lines(rows: &[Row], style: Style) -> String {
    let columns = [
        ("ROLE", Align::Left),
        ("CANDIDATE", Align::Left),
        ("MODEL", Align::Left),
        ("COPIES", Align::Right),
        ("NO ANSWER", Align::Right),
        ("ACCEPTED", Align::Right),
        ("MODEL'S", Align::Right),
        ("ONLY CANDIDATE'S", Align::Right),
        ("ONLY MODEL'S", Align::Right),
        ("COST", Align::Right),
        ("MODEL'S COST", Align::Right),
    ];
    let cells = rows.iter().map(|row| {
        vec![
            clean(&row.role).into_owned(),
            clean(&row.candidate).into_owned(),
            clean(&row.model).into_owned(),
            count(row.copies),
            count(row.open + row.failed),
            percent(row.accept_rate),
            percent(row.model_accept_rate),
            count(row.only_candidate_accepted),
            count(row.only_model_accepted),
            cost(row.cost_usd, 0),
            cost(row.model_cost_usd, 0),
        ]
    });
    table(style, &columns, &cells.collect::<Vec<_>>())
}

/// A share; a dash where nothing is known.
fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.0} %", 100.0 * share))
}
