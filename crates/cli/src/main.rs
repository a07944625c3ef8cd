//! The binary `crewline`: parse, run, exit.
//!
//! **Invariant:** nothing is opened, created or contacted before a command asks for it; `--version` and `--help` touch nothing.
//! **Invariant:** stdout carries data only; everything else goes to stderr.

mod app;
mod args;
mod commands;
mod console;
mod document;
mod draw;
mod edit;
mod error;
mod exit;
mod follow;
mod links;
mod live;
mod logging;
mod machine;
mod metrics;
mod out;
mod outcomes;
mod reload;
mod settings;
mod signals;
mod summary;
mod value;
mod view;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match args::Cli::try_parse() {
        Ok(cli) => commands::execute(cli),
        Err(error) => {
            // Help and version go to stdout and are a success; a broken pipe is not worth a word.
            let _ = error.print();
            if error.use_stderr() { exit::Exit::Usage.into() } else { exit::Exit::Ok.into() }
        }
    }
}
