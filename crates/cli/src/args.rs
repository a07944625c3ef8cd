//! The command line: options every command takes, and the list of commands.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::commands;

/// Give a crew of language-model agents a goal; get documents, an index and a cost report.
#[derive(Debug, Parser)]
#[command(name = "crewline", version, arg_required_else_help = true, max_term_width = 110)]
#[command(after_help = "Examples:
  crewline init                                   write a registry from what this machine has
  crewline run \"Compare three message brokers\"    plan, run and write the documents
  crewline run --plan plan.yaml -o jsonl          run a plan of your own, one event a line
  crewline ps --all                               see what ran

Exit codes:
  0 ok           1 run failed            2 usage        3 configuration or plan invalid
  4 key refused  5 not found             6 unavailable  7 budget or limit reached
  8 waits for a person                   9 conflict     130 interrupted")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options every command takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Global {
    /// Registry of providers, models and roles [default: ./crewline.yaml, then the user's]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) registry: Option<PathBuf>,
    /// Project whose memory the run shares [default: default]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) project: Option<String>,
    /// Where the database, models and logs live [default: the user's data directory]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Database: sqlite:PATH or postgres://… [default: crewline.db in the data directory]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) database: Option<String>,
    /// Qdrant server for memory, such as http://127.0.0.1:6334 [default: memory lives in the database]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) qdrant: Option<String>,
    /// Folder of a reranker for memory, or `none` [default: models/reranker in the data directory, if there]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) reranker: Option<PathBuf>,
    /// How stdout looks [default: table]
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<Output>,
    /// Same as `--output json`
    #[arg(long, global = true, conflicts_with = "output")]
    pub(crate) json: bool,
    /// Say less on stderr
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more on stderr (-vv, -vvv for even more)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Colours [default: auto]
    #[arg(long, global = true, value_enum, value_name = "WHEN")]
    pub(crate) color: Option<Color>,
    /// No live view; plain lines instead
    #[arg(long, global = true)]
    pub(crate) no_progress: bool,
    /// Never ask; fail where an answer would be needed
    #[arg(long, global = true)]
    pub(crate) no_input: bool,
    /// Answer every question with yes
    #[arg(short, long, global = true)]
    pub(crate) yes: bool,
}

/// How stdout looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    #[value(alias = "text")]
    Table,
    /// One JSON document.
    Json,
    /// One JSON object a line.
    Jsonl,
    /// One YAML document.
    Yaml,
    /// A graph for Graphviz; `critical-path` only.
    Dot,
    /// A graph for Mermaid; `critical-path` only.
    Mermaid,
}

/// Whether to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a crew against a goal
    Run(commands::run::RunArgs),
    /// Propose, show, edit or export a plan without running it
    Plan(commands::plan::PlanArgs),
    /// Continue a run that was interrupted or reached a limit
    Resume(commands::resume::ResumeArgs),
    /// Stop runs so that they can be resumed
    Pause(commands::stop::PauseArgs),
    /// End runs when what is running has ended
    Cancel(commands::stop::CancelArgs),
    /// End runs at once
    Kill(commands::stop::KillArgs),
    /// List what waits for a decision
    Approvals(commands::approve::ApprovalsArgs),
    /// Say yes to what a run waits for
    Approve(commands::approve::ApproveArgs),
    /// Say no to what a run waits for
    Reject(commands::approve::RejectArgs),
    /// Answer a specialist's question
    Answer(commands::approve::AnswerArgs),
    /// Try failed tasks again
    Retry(commands::retry::RetryArgs),
    /// Make a run again, and only call models for what has changed
    Replay(commands::replay::ReplayArgs),
    /// Make a run again from a task on
    Fork(commands::replay::ForkArgs),
    /// Make tasks of a run anew, in a new run
    Rerun(commands::replay::RerunArgs),
    /// Let a model break a task into smaller ones
    Decompose(commands::decompose::DecomposeArgs),
    /// List runs
    Ps(commands::ps::PsArgs),
    /// Show a run: its tasks, models, cost and result
    Show(commands::show::ShowArgs),
    /// Show what happened in a run, and with `-f` what happens
    Logs(commands::logs::LogsArgs),
    /// Watch a run that another process works on
    Watch(commands::watch::WatchArgs),
    /// Show a run's tasks as a tree
    Tree(commands::tree::TreeArgs),
    /// Draw a run's tasks and what they need of each other
    Graph(commands::graph::GraphArgs),
    /// Compare two runs task by task, or show what a task changed in its workspace
    Diff(commands::diff::DiffArgs),
    /// Take back what a task changed in its workspace
    Revert(commands::changes::RevertArgs),
    /// List the files that a run changed
    Artifacts(commands::changes::ArtifactsArgs),
    /// Add, change, move, skip and complete tasks
    Task(commands::task::TaskArgs),
    /// Link tasks, and take links away
    Link(commands::link::LinkArgs),
    /// Say which task can be worked on next
    Next(commands::next::NextArgs),
    /// Say where a task is, for outside agents
    Mark(commands::next::MarkArgs),
    /// Note something on a task
    Note(commands::next::NoteArgs),
    /// Show and change INDEX.md of a run
    Index(commands::index::IndexArgs),
    /// See what tasks are told and why, and decide on it
    Context(commands::context::ContextArgs),
    /// Show what an output was made from: context, prompts, model, parameters
    Trace(commands::trace::TraceArgs),
    /// Print what a model would be sent
    Prompt(commands::prompt::PromptArgs),
    /// Search, keep and measure what the crew remembers
    Memory(commands::memory::MemoryArgs),
    /// When each task of a plan would run
    Schedule(commands::schedule::ScheduleArgs),
    /// The longest way through a plan or a run
    CriticalPath(commands::critical_path::CriticalPathArgs),
    /// List, show, check and fill templates of plans
    Template(commands::template::TemplateArgs),
    /// Serve the HTTP API
    Serve(commands::serve::ServeArgs),
    /// Make, list and take back keys of the HTTP API
    Keys(commands::keys::KeysArgs),
    /// Offer the crew to other agents as MCP tools, on stdin and stdout
    Mcp(commands::mcp::McpArgs),
    /// Work on the runs that servers manage
    Worker(commands::worker::WorkerArgs),
    /// List the processes that share the database
    Nodes(commands::nodes::NodesArgs),
    /// Forget old runs
    Prune(commands::prune::PruneArgs),
    /// Bring a database up to date, back it up, check it
    Db(commands::db::DbArgs),
    /// Write a registry from what this machine has
    Init(commands::init::InitArgs),
    /// Put local models into the data directory
    Setup(commands::setup::SetupArgs),
    /// Check or show the registry, or print its schema
    Registry(commands::registry::RegistryArgs),
    /// Show what calls cost, by model, role, run, task or day
    Cost(commands::cost::CostArgs),
    /// Show why which model is asked, and evaluate what is learned
    #[command(visible_alias = "router")]
    Route(commands::route::RouteArgs),
    /// List, load and check models
    Models(commands::models::ModelsArgs),
    /// List the tools of specialists, and call one by hand
    Tools(commands::tools::ToolsArgs),
    /// Check that everything a run needs is there
    Doctor(commands::doctor::DoctorArgs),
    /// Print shell completions
    Completions(commands::completions::CompletionsArgs),
    /// Print generated reference pages
    #[command(hide = true)]
    Docs(commands::docs::DocsArgs),
    /// Stop a managed server with its parent
    #[command(hide = true)]
    ManagedGuard(commands::guard::GuardArgs),
    /// Stand between crewline and a command
    #[command(hide = true)]
    Confine(commands::confine::ConfineArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command) {
            if command.is_hide_set() {
                return;
            }
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "`{}` has no example", command.get_name());
            for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
                check(sub);
            }
        }
        check(&Cli::command());
    }

    #[test]
    fn global_options_may_stand_anywhere() {
        for line in [["crewline", "--data-dir", "/d", "ps"], ["crewline", "ps", "--data-dir", "/d"]] {
            assert_eq!(Cli::try_parse_from(line).unwrap().global.data_dir, Some(PathBuf::from("/d")));
        }
        assert!(Cli::try_parse_from(["crewline", "ps", "-o", "xml"]).is_err());
        assert!(Cli::try_parse_from(["crewline", "ps", "-q", "-v"]).is_err());
    }
}
