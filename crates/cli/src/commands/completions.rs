//! `crewline completions`: completions for a shell.

use std::io::Write;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{args::Cli, exit::Exit};

/// What `crewline completions` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline completions bash > ~/.local/share/bash-completion/completions/crewline
  crewline completions zsh > ~/.zfunc/_crewline
  crewline completions fish > ~/.config/fish/completions/crewline.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs the command.
pub(crate) fn run(args: &CompletionsArgs) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "crewline", &mut script);
    match std::io::stdout().lock().write_all(&script) {
        Ok(()) => Exit::Ok,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Ok,
        Err(_) => Exit::Failed,
    }
}
