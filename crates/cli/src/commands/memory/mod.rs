//! `crewline memory`: what the crew remembers, and how well it is found.
//!
//! Where is what: [`look`] holds what only reads, [`change`] what writes, both on a [`session`]; [`eval`] measures retrieval and [`tune`] fits its weights, both on a [`bench`] made of a [`dataset`]
//! and judged by [`score`].

mod bench;
mod change;
mod dataset;
mod eval;
mod look;
mod score;
mod session;
mod tune;

use std::time::Duration;

use clap::{Args, Subcommand};
use crewline_memory::{Embedder, Qdrant, Reranker, Weights};
use crewline_runtime::Library;

use crate::{app, console::Console, error::Error, exit::Exit, settings::Settings};

/// How long a command waits for the reranker: nobody else waits for the command.
const RERANK_TIME_MAX: Duration = Duration::from_secs(30);

/// What `crewline memory` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline memory search \"why did we refuse the second broker\"
  crewline memory add \"The API speaks French to customers\" --pin
  crewline memory forget 3f9a1c --dry-run
  crewline memory eval --memories set.memories.jsonl.gz --queries set.queries.jsonl.gz -o json")]
pub(crate) struct MemoryArgs {
    #[command(subcommand)]
    command: MemoryCommand,
}

#[derive(Debug, Subcommand)]
enum MemoryCommand {
    /// Find memories
    Search(look::SearchArgs),
    /// List memories, newest first
    Ls(look::LsArgs),
    /// Show one memory whole
    Show(look::ShowArgs),
    /// Remember a text
    Add(change::AddArgs),
    /// Keep memories near the top
    Pin(change::PinArgs),
    /// No longer keep memories near the top
    Unpin(change::PinArgs),
    /// Forget memories for good, with what was made from them
    Forget(change::ForgetArgs),
    /// Write all memories, one a line
    Export(look::ExportArgs),
    /// Read memories that were exported
    Import(change::ImportArgs),
    /// Remember documents, cut into pieces
    Ingest(change::IngestArgs),
    /// Forget all memories of a project
    Reset(change::ResetArgs),
    /// Bring the summaries of a project up to date
    Rollup(change::RollupArgs),
    /// Carry the vectors to where they are configured to be
    Migrate(change::MigrateArgs),
    /// Count what is remembered
    Stats(look::StatsArgs),
    /// Show what is kept out of memory, and what counts as said before
    Rules(look::RulesArgs),
    /// Make all vectors of a project again
    Reindex(change::ReindexArgs),
    /// Measure how well memory finds what is known to be relevant
    Eval(eval::EvalArgs),
    /// Fit the weights of ranking to a data set
    #[command(hide = true)]
    Tune(tune::TuneArgs),
}

/// Runs the command.
pub(crate) async fn run(args: MemoryArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    match args.command {
        MemoryCommand::Search(args) => look::search(args, settings, console).await,
        MemoryCommand::Ls(args) => look::ls(args, settings, console).await,
        MemoryCommand::Show(args) => look::show(args, settings, console).await,
        MemoryCommand::Add(args) => change::add(args, settings, console).await,
        MemoryCommand::Pin(args) => change::pin(args, true, settings, console).await,
        MemoryCommand::Unpin(args) => change::pin(args, false, settings, console).await,
        MemoryCommand::Forget(args) => change::forget(args, settings, console).await,
        MemoryCommand::Export(args) => look::export(args, settings, console).await,
        MemoryCommand::Import(args) => change::import(args, settings, console).await,
        MemoryCommand::Ingest(args) => change::ingest(args, settings, console).await,
        MemoryCommand::Reset(args) => change::reset(args, settings, console).await,
        MemoryCommand::Rollup(args) => change::rollup(args, settings, console).await,
        MemoryCommand::Migrate(args) => change::migrate(args, settings, console).await,
        MemoryCommand::Stats(args) => look::stats(args, settings, console).await,
        MemoryCommand::Rules(args) => look::rules(&args, settings, console),
        MemoryCommand::Reindex(args) => change::reindex(args, settings, console).await,
        MemoryCommand::Eval(args) => eval::run(args, settings, console).await,
        MemoryCommand::Tune(args) => tune::run(args, settings, console).await,
    }
}

/// Where the vectors of a command are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the database, whatever is configured.
    Database,
    /// In Qdrant if a server is configured.
    Configured,
}

/// What memory is made of.
struct Parts {
    embedder: Option<Embedder>,
    qdrant: Option<Qdrant>,
    reranker: Option<Reranker>,
    weights: Weights,
}

fn parts(settings: &Settings, place: Place) -> Result<Parts, Error> {
    let embedder = Embedder::find(&settings.data_dir)?;
    let qdrant = match place {
        Place::Database => None,
        Place::Configured => app::qdrant(settings, embedder.as_ref())?,
    };
    let reranker = app::reranker(settings)?.map(|reranker| reranker.patient_for(RERANK_TIME_MAX));
    Ok(Parts { embedder, qdrant, reranker, weights: app::weights(settings)? })
}

/// Ends the threads of the models before the process ends.
async fn close(library: &Library) {
    app::close_models(library.embedder().cloned(), library.index().reranker().cloned()).await;
}
