//! `crewline route`: how questions find their model.

mod eval;
mod explain;
mod shadows;
mod verifiers;

use clap::{Args, Subcommand};

use crate::{commands::wait_for, console::Console, error::Error, exit::Exit, settings::Settings};

/// What `crewline route` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline route explain --role writer --text \"Summarise the findings\"
  crewline route verifiers
  crewline route shadows
  crewline route eval --outcomes outcomes.jsonl.gz --verifier 0.9,0.9")]
pub(crate) struct RouteArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show why which model is asked, for a task that ran or one that could
    Explain(explain::ExplainArgs),
    /// Show how often each kind of check accepts answers, and how often in vain
    Verifiers(verifiers::VerifiersArgs),
    /// Show how candidate models do on copies of the crew's questions
    Shadows(shadows::ShadowsArgs),
    /// Learn a policy from recorded outcomes, replay it on others, print what it saves
    Eval(eval::EvalArgs),
}

/// Runs the command.
pub(crate) fn run(args: &RouteArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    match &args.action {
        Action::Explain(args) => wait_for(explain::run(args, settings, console)),
        Action::Verifiers(_) => wait_for(verifiers::run(settings, console)),
        Action::Shadows(_) => wait_for(shadows::run(settings, console)),
        Action::Eval(args) => eval::run(args, console),
    }
}
