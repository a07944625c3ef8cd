//! `crewline managed-guard` (hidden): runs a managed server and stops it when its parent goes, however it goes.

use std::{ffi::OsString, process::ExitCode};

use clap::Args;

/// What `crewline managed-guard` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  crewline managed-guard -- llama-server --port 9000")]
pub(crate) struct GuardArgs {
    /// The command of the server
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs the command.
pub(crate) fn run(args: GuardArgs) -> ExitCode {
    let code = crewline_models::managed_guard_main(args.command);
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
