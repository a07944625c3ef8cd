//! `crewline tools`: what specialists may do, and a call of one by hand.
//!
//! **Invariant:** a call by hand goes the way of a specialist's: a view of the workspace, the same checks and limits, a merge.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum};
use crewline_models::{
    Mode, SHIPPED_ROLES,
    web::{Web, WebLimits},
};
use crewline_runtime::{Remote, WebFetch};
use crewline_tools::{
    Approval, CommandLimits, CommandPolicy, CommandRule, Effect, Hosts, Kit, Limits, Merge, Network, Observation,
    Outcome, OutputStore, Review, Rules, Runner, ToolCall, ToolSpec, Toolbox, TreeLimits, Trust, Unconfined, View,
    Workspace,
};
use serde::Serialize;
use serde_json::Value;

use super::remote_tools::Remotes;
use crate::{
    app,
    console::{self, Console},
    error::Error,
    exit::Exit,
    settings::Settings,
    view::{Align, Style, clean, clean_lines, fit, table},
};

/// What `crewline tools` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline tools ls
  crewline tools show edit_file
  crewline tools call read_file --args '{\"path\": \"README.md\"}'
  crewline tools call run_command --args '{\"program\": \"cargo\", \"args\": [\"test\"]}' --allow 'cargo test **'")]
pub(crate) struct ToolsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the tools of this program, and of the servers in the registry
    #[command(after_help = "Example:
  crewline tools ls -o json")]
    Ls,
    /// Show a tool and its parameters
    #[command(after_help = "Example:
  crewline tools show run_command")]
    Show {
        /// Its name
        #[arg(value_name = "TOOL")]
        tool: String,
    },
    /// Call a tool in a workspace, as a specialist would
    #[command(after_help = "Examples:
  crewline tools call search_files --args '{\"pattern\": \"TODO\"}' --workspace ~/project
  crewline tools call http_fetch --args '{\"url\": \"https://docs.rs/serde\"}' --host docs.rs
  crewline tools call run_command --args '{\"program\": \"make\"}' --allow make --network loopback -o json
  crewline tools call github.search_issues --args '{\"query\": \"flaky\"}'

Changes are made in a view of the workspace, and merged when the call succeeds. What is too long is shown as a model sees it.
Exits with 0 when it is done, 3 when the arguments are not valid, 9 on a conflict or when it is not allowed, else with 1.")]
    Call(Box<CallArgs>),
}

#[derive(Debug, Args)]
struct CallArgs {
    /// Its name
    #[arg(value_name = "TOOL")]
    tool: String,
    /// Its arguments, a JSON object
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = parse_arguments)]
    args: Value,
    /// The workspace
    #[arg(long, value_name = "DIR", default_value = ".")]
    workspace: PathBuf,
    /// A command that may be run: a program and a pattern for each argument; `**` at the end is any
    #[arg(long, value_name = "RULE", value_parser = parse_rule)]
    allow: Vec<CommandRule>,
    /// A host that may be read: `docs.rs`, `*.python.org`, `example.com:8080`
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// What commands may reach
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = NetworkArg::None)]
    network: NetworkArg,
    /// What is done with commands that this machine cannot confine
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = UnconfinedArg::Ask)]
    unconfined: UnconfinedArg,
    /// A file or directory outside the workspace that commands may read and run
    #[arg(long, value_name = "PATH")]
    readable: Vec<PathBuf>,
    /// A directory where programs are looked for before the system's
    #[arg(long, value_name = "DIR")]
    path: Vec<PathBuf>,
    /// Seconds a command may take
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    time: u64,
    /// Megabytes of memory all processes of a command may take
    #[arg(long, value_name = "MB", default_value = "4096", value_parser = clap::value_parser!(u64).range(16..))]
    memory: u64,
    /// Processes and threads a command may have
    #[arg(long, value_name = "N", default_value = "512", value_parser = clap::value_parser!(u64).range(1..))]
    processes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum NetworkArg {
    /// Nothing
    None,
    /// Servers it starts itself
    Loopback,
    /// All this machine reaches
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum UnconfinedArg {
    /// Ask
    Ask,
    /// Run them all the same
    Run,
    /// Refuse them
    Refuse,
}

fn parse_arguments(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err("it is no JSON object".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_rule(text: &str) -> Result<CommandRule, String> {
    CommandRule::parse(text).map_err(|error| error.to_string())
}

/// Runs the command.
pub(crate) async fn run(args: ToolsArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    match args.action {
        Action::Ls => ls(settings, console).await,
        Action::Show { tool } => show(&tool, settings, console).await,
        Action::Call(args) => call(&args, settings, console).await,
    }
}

/// A tool, for programs.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    name: &'a str,
    description: &'a str,
    effect: &'static str,
    parallel: bool,
    parameters: &'a Value,
    /// The server it is of; none for those of this program.
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    /// How it stands to what was agreed to: `new`, `agreed`, `changed`, `added`.
    #[serde(skip_serializing_if = "Option::is_none")]
    standing: Option<&'static str>,
    /// Whether there is only something to be done with it in a run, so that it can not be called by hand.
    run_only: bool,
}

impl<'a> Shown<'a> {
    fn of(spec: &'a ToolSpec) -> Self {
        Self {
            name: &spec.name,
            description: &spec.description,
            effect: spec.effect.as_str(),
            parallel: spec.is_parallel,
            parameters: &spec.parameters,
            server: None,
            standing: None,
            run_only: false,
        }
    }

    fn of_run(spec: &'a ToolSpec) -> Self {
        Self { run_only: true, ..Self::of(spec) }
    }

    fn remote(it: &'a Remote) -> Self {
        Self {
            name: &it.tool.name,
            description: &it.tool.description,
            effect: if it.config.may_repeat(&it.tool.own_name) { Effect::Repeatable } else { Effect::Unsafe }.as_str(),
            parallel: false,
            parameters: &it.tool.parameters,
            server: Some(&it.config.name),
            standing: Some(it.standing.as_str()),
            run_only: false,
        }
    }
}

/// The tools of a run, which know the roles of the registry, or those that come with this program.
fn run_tools(settings: &Settings, console: &Console) -> Result<Vec<ToolSpec>, Error> {
    let roles = match app::find_registry(settings) {
        Ok(path) if path.is_file() => app::load_registry(settings, console)?.roles(),
        Ok(_) | Err(Error::NoRegistry { .. }) => SHIPPED_ROLES.iter().map(|role| (*role).into()).collect(),
        Err(error) => return Err(error),
    };
    Ok(crewline_runtime::run_tools(&roles))
}

async fn ls(settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let specs = crewline_tools::specs();
    let of_runs = run_tools(settings, console)?;
    let remotes = Remotes::find(settings, console, None).await?;
    let own = specs.iter().map(|it| Shown::of(it)).chain(of_runs.iter().map(Shown::of_run));
    let shown: Vec<Shown<'_>> = own.chain(remotes.tools.iter().map(Shown::remote)).collect();
    console.list(&shown, |style| {
        let columns = [("TOOL", Align::Left), ("EFFECT", Align::Left), ("DESCRIPTION", Align::Left)];
        let row = |it: &Shown<'_>| {
            let mark = match it.standing {
                Some(standing @ ("changed" | "added")) => format!("[{standing}] "),
                None if it.run_only => "[in a run] ".to_owned(),
                Some(_) | None => String::new(),
            };
            let description = format!("{mark}{}", it.description.lines().next().unwrap_or_default());
            vec![clean(it.name).into_owned(), it.effect.to_owned(), clean(&fit(&description, 80)).into_owned()]
        };
        let rows: Vec<_> = shown.iter().map(row).collect();
        table(style, &columns, &rows)
    })?;
    remotes.close(console).await;
    Ok(Exit::Ok)
}

async fn show(name: &str, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let print = |shown: &Shown<'_>| {
        console.value(shown, |style: Style| {
            let parameters = serde_json::to_string_pretty(shown.parameters).unwrap_or_default();
            let standing = shown.standing.map(|it| format!("  {it}")).unwrap_or_default();
            let head = format!("{}  {}{standing}", style.bold(&clean(shown.name)), shown.effect);
            format!("{head}\n\n{}\n\n{}", clean_lines(shown.description), clean_lines(&parameters))
        })
    };
    if let Some((server, _)) = name.split_once('.') {
        let remotes = Remotes::find(settings, console, Some(server)).await?;
        let printed = remotes.tools.iter().find(|it| *it.tool.name == *name).map(|it| print(&Shown::remote(it)));
        let known = names(&remotes);
        remotes.close(console).await;
        printed.ok_or_else(|| unknown(name, known))??;
        return Ok(Exit::Ok);
    }
    let specs = crewline_tools::specs();
    let of_runs = run_tools(settings, console)?;
    let own = specs.iter().map(|it| Shown::of(it)).chain(of_runs.iter().map(Shown::of_run));
    let Some(shown) = own.into_iter().find(|it| it.name == name) else {
        return Err(unknown(name, of_runs.iter().map(|it| it.name.to_string()).collect()));
    };
    print(&shown)?;
    Ok(Exit::Ok)
}

fn names(remotes: &Remotes) -> Vec<String> {
    remotes.tools.iter().map(|it| it.tool.name.to_string()).collect()
}

/// Calls a tool of another server.
async fn call_remote(args: &CallArgs, server: &str, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let mut remotes = Remotes::find(settings, console, Some(server)).await?;
    let known = names(&remotes);
    let made = remotes.call(&args.tool, &args.args, settings).await;
    remotes.close(console).await;
    let observation = made?.ok_or_else(|| unknown(&args.tool, known))?;
    let called = Called {
        tool: &args.tool,
        outcome: observation.outcome.as_str(),
        text: &observation.text,
        bytes_out: observation.bytes_out,
        untrusted: observation.trust == Trust::Untrusted,
        changed: Vec::new(),
        conflicts: Vec::new(),
    };
    console.value(&called, |_| clean_lines(&observation.text))?;
    Ok(exit(&observation, &called))
}

fn unknown(name: &str, more: Vec<String>) -> Error {
    let own = crewline_tools::specs().into_iter().map(|it| it.name.to_string());
    Error::NoTool { name: name.to_owned(), known: own.chain(more).collect() }
}

/// What came of a call, for programs.
#[derive(Debug, Serialize)]
struct Called<'a> {
    tool: &'a str,
    outcome: &'static str,
    text: &'a str,
    bytes_out: u64,
    untrusted: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changed: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    conflicts: Vec<String>,
}

async fn call(args: &CallArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    if let Some((server, _)) = args.tool.split_once('.') {
        return call_remote(args, server, settings, console).await;
    }
    if !crewline_tools::specs().iter().any(|it| *it.name == *args.tool) {
        let is_of_run = crewline_runtime::run_tools(&[]).iter().any(|it| *it.name == *args.tool);
        return Err(if is_of_run {
            Error::RunTool { name: args.tool.clone() }
        } else {
            unknown(&args.tool, Vec::new())
        });
    }
    app::make_data_dir(&settings.data_dir)?;
    let state = tempfile::Builder::new().prefix("tools-").tempdir_in(&settings.data_dir);
    let state = state.map_err(|source| Error::DataDir { path: settings.data_dir.clone(), source })?;
    let workspace = Workspace::open(&args.workspace, state.path(), TreeLimits::default()).await?;
    let view = workspace.view("call").await?;
    let toolbox = toolbox(args, &view, state.path()).await?;
    let approval = match toolbox.review(&args.tool, &args.args) {
        Review::Ask(why) if console::ask(settings, &format!("{why}?")) == Some(true) => Approval::Given,
        Review::Ask(_) | Review::Ready | Review::Refuse(_) => Approval::Missing,
    };
    let observation = toolbox.call(ToolCall { key: "call", name: &args.tool, arguments: &args.args, approval }).await;
    let merge = if observation.outcome == Outcome::Ok { Some(workspace.merge(&view).await?) } else { None };
    workspace.discard("call").await?;
    let (changed, conflicts) = match &merge {
        Some(Merge::Merged(merged)) => (merged.files.iter().map(ToString::to_string).collect(), Vec::new()),
        Some(Merge::Conflict { conflicts, .. }) => {
            (Vec::new(), conflicts.iter().map(|it| it.path.to_string()).collect())
        }
        None => (Vec::new(), Vec::new()),
    };
    let called = Called {
        tool: &args.tool,
        outcome: observation.outcome.as_str(),
        text: &observation.text,
        bytes_out: observation.bytes_out,
        untrusted: observation.trust == Trust::Untrusted,
        changed,
        conflicts,
    };
    console.value(&called, |_| clean_lines(&observation.text))?;
    for path in &called.conflicts {
        console.warn(&format!("`{path}` was changed meanwhile; nothing is merged"));
    }
    Ok(exit(&observation, &called))
}

fn exit(observation: &Observation, called: &Called<'_>) -> Exit {
    match observation.outcome {
        Outcome::Ok if called.conflicts.is_empty() => Exit::Ok,
        Outcome::Ok | Outcome::Refused => Exit::Conflict,
        Outcome::Invalid => Exit::Invalid,
        Outcome::Failed | Outcome::Timeout => Exit::Failed,
    }
}

async fn toolbox(args: &CallArgs, view: &View, state: &Path) -> Result<Toolbox, Error> {
    let mut kit =
        Kit { limits: Limits { time_max: Duration::from_secs(args.time + 60), ..Limits::default() }, ..Kit::default() };
    // Each is made only for its tool: one starts a process, the other reads the system's certificates.
    if args.tool == "run_command" {
        let helper = std::env::current_exe().map_err(|source| Error::System { what: "find this program", source })?;
        kit.runner = Some(Runner::find(&helper).await);
    }
    if args.tool == "http_fetch" {
        let web = Web::new(Mode::Online, WebLimits::default()).map_err(io::Error::other);
        let web = web.map_err(|source| Error::System { what: "make an HTTP client", source })?;
        kit.fetch = Some(Arc::new(WebFetch(web)));
    }
    let rules = Rules { commands: Arc::new(policy(args)), hosts: Arc::new(Hosts::parse(&args.host)?) };
    Ok(kit.toolbox(view, &OutputStore::new(&state.join("outputs")), &rules)?)
}

fn policy(args: &CallArgs) -> CommandPolicy {
    let usual = CommandPolicy::default();
    CommandPolicy {
        allow: args.allow.clone(),
        limits: CommandLimits {
            time_max: Duration::from_secs(args.time),
            memory_bytes_max: args.memory.saturating_mul(1_000_000),
            processes_max: args.processes,
            ..CommandLimits::default()
        },
        network: match args.network {
            NetworkArg::None => Network::None,
            NetworkArg::Loopback => Network::Loopback,
            NetworkArg::Host => Network::Host,
        },
        unconfined: match args.unconfined {
            UnconfinedArg::Ask => Unconfined::Ask,
            UnconfinedArg::Run => Unconfined::Run,
            UnconfinedArg::Refuse => Unconfined::Refuse,
        },
        path: args.path.iter().cloned().chain(usual.path.clone()).collect(),
        readable: args.readable.clone(),
        ..usual
    }
}
