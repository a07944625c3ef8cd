//! `crewline confine` (hidden): the processes between crewline and a command that a tool runs.

use std::{ffi::OsString, process::ExitCode};

use clap::Args;

/// What `crewline confine` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  crewline confine keeper")]
pub(crate) struct ConfineArgs {
    /// The part it plays
    #[arg(value_name = "STAGE")]
    stage: OsString,
}

/// Runs the command.
pub(crate) fn run(args: ConfineArgs) -> ExitCode {
    let code = crewline_tools::confine_main(&[args.stage]);
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
