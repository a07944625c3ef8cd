//! `crewline setup`: put local models into the data directory, so that a crew runs without any key.

use std::path::Path;

use clap::Args;
use crewline_models::setup::{LocalParts, Part, Step, install};
use serde::Serialize;

use crate::{
    app,
    args::Output,
    console::{self, Console},
    error::Error,
    exit::Exit,
    settings::Settings,
    view::clean,
};

/// What `crewline setup` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline setup --local
  crewline setup --local --yes && crewline init && crewline run \"Write a haiku\"

Fetches an embedding model, ONNX Runtime, a small instruct model and a llama.cpp server (about 200 MB), each checked by
SHA-256. What is there already is kept.")]
pub(crate) struct SetupArgs {
    /// Set up models that run on this machine
    #[arg(long, required = true)]
    local: bool,
}

/// Runs the command.
pub(crate) fn run(args: &SetupArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    debug_assert!(args.local, "the flag is required");
    let there = LocalParts::find(&settings.data_dir);
    if !there.is_complete() {
        let question = format!("Fetch local models into {}?", settings.data_dir.display());
        match console::ask(settings, &question) {
            Some(true) => {}
            Some(false) => return Ok(Exit::Interrupted),
            None => return Err(Error::NeedsYes { what: "fetching local models" }),
        }
    }
    app::make_data_dir(&settings.data_dir)?;
    let parts = install(&settings.data_dir, &mut |step| console.note(&line(&step)))?;
    let installed = Installed {
        onnx_runtime: parts.onnx_runtime.as_deref(),
        embedding: parts.embedding.as_deref(),
        instruct: parts.instruct.as_deref(),
        server: parts.server.as_deref(),
    };
    if console.output != Output::Table {
        console.value(&installed, |_| String::new())?;
    }
    console.note("local models are ready");
    if app::find_registry(settings).is_err() {
        console.hint("`crewline init` writes a registry that uses them");
    }
    Ok(Exit::Ok)
}

#[derive(Serialize)]
struct Installed<'a> {
    onnx_runtime: Option<&'a Path>,
    embedding: Option<&'a Path>,
    instruct: Option<&'a Path>,
    server: Option<&'a [String]>,
}

fn line(step: &Step) -> String {
    let label = |part: &Part| part.label();
    match step {
        Step::Checking { part } => format!("checking  {}", label(part)),
        Step::Present { part, path } => format!("present   {} at {}", label(part), path.display()),
        Step::Fetching { part, from, bytes } => {
            format!("fetching  {} from {} ({} MB)", label(part), clean(from), bytes.div_ceil(1_000_000))
        }
        Step::SourceFailed { part, from, reason } => {
            format!("skipped   {} from {}: {}", label(part), clean(from), clean(reason))
        }
        Step::Installed { part, path } => format!("installed {} at {}", label(part), path.display()),
    }
}
