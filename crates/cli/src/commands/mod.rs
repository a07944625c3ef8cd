//! The commands, one file each, and what surrounds every one of them.
//!
//! **Invariant:** a command returns how the process ends; only [`execute`] prints its error.

pub(crate) mod approve;
pub(crate) mod changes;
pub(crate) mod completions;
pub(crate) mod confine;
pub(crate) mod context;
pub(crate) mod cost;
pub(crate) mod critical_path;
pub(crate) mod db;
pub(crate) mod decompose;
pub(crate) mod diff;
pub(crate) mod docs;
pub(crate) mod doctor;
pub(crate) mod extend;
pub(crate) mod graph;
pub(crate) mod guard;
pub(crate) mod index;
pub(crate) mod init;
pub(crate) mod keys;
pub(crate) mod link;
pub(crate) mod logs;
pub(crate) mod mcp;
pub(crate) mod memory;
pub(crate) mod models;
pub(crate) mod next;
pub(crate) mod nodes;
pub(crate) mod plan;
mod preview;
pub(crate) mod prompt;
pub(crate) mod prune;
pub(crate) mod ps;
pub(crate) mod rate;
pub(crate) mod registry;
mod remote_tools;
pub(crate) mod replay;
pub(crate) mod resume;
pub(crate) mod retry;
pub(crate) mod route;
pub(crate) mod run;
pub(crate) mod schedule;
pub(crate) mod serve;
pub(crate) mod setup;
pub(crate) mod show;
pub(crate) mod stop;
pub(crate) mod task;
pub(crate) mod template;
pub(crate) mod tools;
pub(crate) mod trace;
pub(crate) mod tree;
pub(crate) mod watch;
pub(crate) mod worker;

use std::{process::ExitCode, time::Duration};

use crate::{
    app,
    args::{Cli, Command, Output},
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
    match cli.command {
        // These are small processes between others: no settings, no log, no executor.
        Command::ManagedGuard(args) => guard::run(args),
        Command::Confine(args) => confine::run(args),
        _ => attempt(cli).into(),
    }
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
    let is_drawn = matches!(settings.output, Output::Dot | Output::Mermaid);
    if is_drawn && !matches!(command, Command::CriticalPath(_) | Command::Graph(_)) {
        return Err(Error::Usage {
            message: "only `critical-path` and `graph` draw a graph".into(),
            hint: "use `-o table`, `json`, `jsonl` or `yaml`",
        });
    }
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
        Command::Pause(args) => {
            let _log = log(LogFile::None);
            wait_for(stop::pause(args, settings, console))
        }
        Command::Cancel(args) => {
            let _log = log(LogFile::None);
            wait_for(stop::cancel(args, settings, console))
        }
        Command::Kill(args) => {
            let _log = log(LogFile::None);
            wait_for(stop::kill(args, settings, console))
        }
        Command::Approvals(args) => {
            let _log = log(LogFile::None);
            wait_for(approve::approvals(args, settings, console))
        }
        Command::Approve(args) => {
            let _log = log(LogFile::None);
            wait_for(approve::approve(args, settings, console))
        }
        Command::Reject(args) => {
            let _log = log(LogFile::None);
            wait_for(approve::reject(args, settings, console))
        }
        Command::Answer(args) => {
            let _log = log(LogFile::None);
            wait_for(approve::answer(args, settings, console))
        }
        Command::Retry(args) => {
            let _log = log(LogFile::Wanted);
            wait_for(retry::run(args, settings, console))
        }
        Command::Replay(args) => {
            let _log = log(LogFile::Wanted);
            wait_for(replay::replay(args, settings, console))
        }
        Command::Rerun(args) => {
            let _log = log(LogFile::Wanted);
            wait_for(replay::rerun(args, settings, console))
        }
        Command::Decompose(args) => {
            let _log = log(LogFile::Wanted);
            wait_for(decompose::run(args, settings, console))
        }
        Command::Fork(args) => {
            let _log = log(LogFile::Wanted);
            wait_for(replay::fork(args, settings, console))
        }
        Command::Serve(args) => {
            let _log = log(LogFile::Wanted);
            wait_for(serve::run(args, settings, console))
        }
        Command::Mcp(args) => {
            let _log = log(LogFile::Wanted);
            wait_for(mcp::run(args, settings, console))
        }
        Command::Keys(args) => {
            let _log = log(LogFile::None);
            wait_for(keys::run(args, settings, console))
        }
        Command::Worker(args) => {
            let _log = log(LogFile::Wanted);
            wait_for(worker::run(args, settings, console))
        }
        Command::Nodes(args) => {
            let _log = log(LogFile::None);
            wait_for(nodes::run(args, settings, console))
        }
        Command::Ps(args) => {
            let _log = log(LogFile::None);
            wait_for(ps::run(args, settings, console))
        }
        Command::Show(args) => {
            let _log = log(LogFile::None);
            wait_for(show::run(args, settings, console))
        }
        Command::Logs(args) => {
            let _log = log(LogFile::None);
            wait_for(logs::run(args, settings, console))
        }
        Command::Watch(args) => {
            let _log = log(LogFile::None);
            wait_for(watch::run(args, settings, console))
        }
        Command::Tree(args) => {
            let _log = log(LogFile::None);
            wait_for(tree::run(args, settings, console))
        }
        Command::Graph(args) => {
            let _log = log(LogFile::None);
            wait_for(graph::run(args, settings, console))
        }
        Command::Diff(args) => {
            let _log = log(LogFile::None);
            wait_for(diff::run(args, settings, console))
        }
        Command::Revert(args) => {
            let _log = log(LogFile::None);
            wait_for(changes::revert(args, settings, console))
        }
        Command::Artifacts(args) => {
            let _log = log(LogFile::None);
            wait_for(changes::artifacts(args, settings, console))
        }
        Command::Plan(args) => {
            let _log = log(LogFile::Wanted);
            wait_for(plan::run(args, settings, console))
        }
        Command::Task(args) => {
            let _log = log(LogFile::None);
            wait_for(task::run(args, settings, console))
        }
        Command::Link(args) => {
            let _log = log(LogFile::None);
            wait_for(link::run(args, settings, console))
        }
        Command::Next(args) => {
            let _log = log(LogFile::None);
            wait_for(next::next(args, settings, console))
        }
        Command::Mark(args) => {
            let _log = log(LogFile::None);
            wait_for(next::mark(args, settings, console))
        }
        Command::Note(args) => {
            let _log = log(LogFile::None);
            wait_for(next::note(args, settings, console))
        }
        Command::Index(args) => {
            let _log = log(LogFile::None);
            wait_for(index::run(args, settings, console))
        }
        Command::Trace(args) => {
            let _log = log(LogFile::None);
            wait_for(trace::run(args, settings, console))
        }
        Command::Context(args) => {
            let _log = log(LogFile::None);
            wait_for(context::run(args, settings, console))
        }
        Command::Prompt(args) => {
            let _log = log(LogFile::None);
            wait_for(prompt::run(args, settings, console))
        }
        Command::Prune(args) => {
            let _log = log(LogFile::None);
            wait_for(prune::run(args, settings, console))
        }
        Command::Db(args) => {
            let _log = log(LogFile::None);
            wait_for(db::run(args, settings, console))
        }
        Command::Template(args) => template::run(&args, settings, console),
        Command::Schedule(args) => schedule::run(&args, console),
        Command::CriticalPath(args) => {
            let _log = log(LogFile::None);
            wait_for(critical_path::run(args, settings, console))
        }
        Command::Init(args) => {
            let _log = log(LogFile::None);
            wait_for(init::run(args, settings, console))
        }
        Command::Models(args) => {
            let _log = log(LogFile::None);
            wait_for(models::run(args, settings, console))
        }
        Command::Doctor(args) => {
            let _log = log(LogFile::None);
            wait_for(doctor::run(args, settings, console))
        }
        Command::Memory(args) => {
            let _log = log(LogFile::None);
            wait_for(memory::run(args, settings, console))
        }
        Command::Setup(args) => setup::run(&args, settings, console),
        Command::Registry(args) => registry::run(&args, settings, console),
        Command::Route(args) => {
            let _log = log(LogFile::None);
            route::run(&args, settings, console)
        }
        Command::Cost(args) => {
            let _log = log(LogFile::None);
            wait_for(cost::run(args, settings, console))
        }
        Command::Completions(args) => Ok(completions::run(&args)),
        Command::Docs(args) => Ok(docs::run(&args)),
        Command::Tools(args) => {
            let _log = log(LogFile::None);
            wait_for(tools::run(args, settings, console))
        }
        // Answered in `execute`: these must be as small as a process can be.
        Command::ManagedGuard(_) | Command::Confine(_) => Ok(Exit::Usage),
    }
}

/// Runs a command that waits for something.
fn wait_for(work: impl Future<Output = Result<Exit, Error>>) -> Result<Exit, Error> {
    let executor = app::executor()?;
    let ended = executor.block_on(work);
    executor.shutdown_timeout(BLOCKING_TIME_MAX);
    ended
}
