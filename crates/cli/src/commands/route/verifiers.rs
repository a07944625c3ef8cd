//! `crewline route verifiers`: what the checks of criteria are worth.

use clap::Args;
use crewline_runtime::VerifierReport;

use crate::{
    app::App,
    args::Output,
    console::Console,
    error::Error,
    exit::Exit,
    settings::Settings,
    view::{Align, Style, clean, count, table},
};

/// What `crewline route verifiers` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline route verifiers
  crewline route verifiers -o json

Of the last 20,000 checked answers: how many each kind of check accepted, how many of those
another check of the same answer rejected, and how many answers it alone rejected. GOOD and BAD
show how many of the answers that turned out so later it accepted: true and false accepts.
`docs/routing.md` says what counts as a later outcome.")]
pub(crate) struct VerifiersArgs;

/// Runs the command.
pub(crate) async fn run(settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let reports = crewline_runtime::verifiers(&app.store).await;
    app.stop().await;
    let reports = reports?;
    if reports.is_empty() && console.output == Output::Table {
        console.note("no answer was checked yet: give the criteria of a plan a `check`");
        return Ok(Exit::Ok);
    }
    console.value(&reports, |style| rows(reports.iter(), style))?;
    Ok(Exit::Ok)
}

fn rows<'a>(reports: impl Iterator<Item = (&'a String, &'a VerifierReport)>, style: Style) -> String {
    let columns = [
        ("VERIFIER", Align::Left),
        ("ANSWERS", Align::Right),
        ("ACCEPTED", Align::Right),
        ("IN VAIN", Align::Right),
        ("REJECTED ALONE", Align::Right),
        ("GOOD", Align::Right),
        ("BAD", Align::Right),
    ];
    let rows: Vec<Vec<String>> = reports
        .map(|(name, report)| {
            let VerifierReport { answers, accepted, accepted_in_vain, rejected_alone, later, .. } = *report;
            let numbers = [answers, accepted, accepted_in_vain, rejected_alone];
            let rates = [
                of(later.good_accepted, later.good_accepted + later.good_rejected),
                of(later.bad_accepted, later.bad_accepted + later.bad_rejected),
            ];
            std::iter::once(clean(name).into_owned()).chain(numbers.map(count)).chain(rates).collect()
        })
        .collect();
    table(style, &columns, &rows)
}

/// So many of so many; a dash where nothing is known.
fn of(part: u64, all: u64) -> String {
    if all == 0 { "–".to_owned() } else { format!("{} of {}", count(part), count(all)) }
}
