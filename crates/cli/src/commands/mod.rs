//! The commands, one file each, and what surrounds every one of them.
//!
//! **Invariant:** a command returns how the process ends; only [`execute`] prints its error.

pub(crate) mod completions;
pub(crate) mod docs;
pub(crate) mod doctor;
pub(crate) mod guard;
pub(crate) mod init;
pub(crate) mod ps;
pub(crate) mod registry;
pub(crate) mod resume;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod setup;
pub(crate) mod show;

use std::{process::ExitCode, time::Duration};

use crate::{
    app,
    args::{Cli, Command},
    console::Console,
    error::Error,
    exit::Exit,
    logging::{self, LogFile},
    settings::{Dirs, Settings, process_env},
};

/// How long blocking work may hold up the end of the process.
const BLOCKING_TIME_MAX: Duration = Duration::from_millis(500);

/// Does what the command line says.
pub(crate) fn execute(cli: Cli) -> ExitCode {
    if let Command::ManagedGuard(args) = cli.command {
        return guard::run(args);
    }
    attempt(cli).into()
}

fn attempt(cli: Cli) -> Exit {
    let settings = match Settings::load(&cli.global, &process_env, Dirs::of_user()) {
        Ok(settings) => settings,
        Err(error) => {
            Console::fallback().error(&error);
            return error.exit();
        }
    };
    let console = Console::new(&settings);
    match dispatch(cli.command, &settings, &console) {
        Ok(exit) => exit,
        Err(error) => {
            console.error(&error);
            error.exit()
        }
    }
}

fn dispatch(command: Command, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let log = |file| logging::start(settings, console, file);
    match command {
        Command::Run(args) => {
            let _log = log(if args.dry_run { LogFile::None } else { LogFile::Wanted });
            run::run(args, settings, console)
        }
        Command::Resume(args) => {
            let _log = log(LogFile::Wanted);
            wait_for(resume::run(args, settings, console))
        }
        Command::Serve(args) => {
            let _log = log(LogFile::Wanted);
            wait_for(serve::run(args, settings, console))
        }
        Command::Ps(args) => {
            let _log = log(LogFile::None);
            wait_for(ps::run(args, settings, console))
        }
        Command::Show(args) => {
            let _log = log(LogFile::None);
            wait_for(show::run(args, settings, console))
        }
        Command::Init(args) => {
            let _log = log(LogFile::None);
            wait_for(init::run(args, settings, console))
        }
        Command::Doctor(args) => {
            let _log = log(LogFile::None);
            wait_for(doctor::run(args, settings, console))
        }
        Command::Setup(args) => setup::run(&args, settings, console),
        Command::Registry(args) => registry::run(&args, settings, console),
        Command::Completions(args) => Ok(completions::run(&args)),
        Command::Docs(args) => Ok(docs::run(&args)),
        // Answered in `execute`: the guard must be as small as a process can be.
        Command::ManagedGuard(_) => Ok(Exit::Usage),
    }
}

/// Runs a command that waits for something.
fn wait_for(work: impl Future<Output = Result<Exit, Error>>) -> Result<Exit, Error> {
    let executor = app::executor()?;
    let ended = executor.block_on(work);
    executor.shutdown_timeout(BLOCKING_TIME_MAX);
    ended
}
