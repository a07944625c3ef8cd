//! `crewline mcp`: the crew as tools for another agent, over standard input and output.
//!
//! **Invariant:** stdout carries the protocol and nothing else.

use clap::Args;
use crewline_api::mcp::{self, Mcp};
use crewline_models::Mode;

use super::serve::DRAIN_TIME_MAX;
use crate::{
    app::{self, App},
    console::Console,
    error::Error,
    exit::Exit,
    settings::{RunDefaults, Settings, process_env},
    signals::Signals,
};

/// The project when none is named.
const PROJECT: &str = "default";

/// What `crewline mcp` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline mcp                                        speak MCP on stdin and stdout
  crewline mcp --project notes --offline
  npx @modelcontextprotocol/inspector crewline mcp    look at it with the protocol's inspector

A client's configuration:
  {\"mcpServers\": {\"crewline\": {\"command\": \"crewline\", \"args\": [\"mcp\", \"--registry\", \"/home/me/crewline.yaml\"]}}}

When the client goes, runs that are not finished are left to `crewline resume` or a server.")]
pub(crate) struct McpArgs {
    /// Use models on this machine or a private network only
    #[arg(long)]
    offline: bool,
}

/// Runs the command.
pub(crate) async fn run(args: McpArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let registry = app::load_registry(settings, console)?;
    let offline = args.offline || RunDefaults::load(&process_env)?.offline;
    let mode = if offline { Mode::Offline } else { Mode::Online };
    let app = App::start(settings, registry, mode).await?;
    let mut signals = Signals::listen()?;
    let mcp = Mcp::new(app.handle.clone(), settings.project.as_deref().unwrap_or(PROJECT));
    let served = mcp::serve_stdio(mcp, signals.next()).await;
    tokio::select! {
        () = app.handle.hand_over(DRAIN_TIME_MAX) => {}
        () = signals.next() => {}
    }
    app.stop().await;
    served?;
    Ok(Exit::Ok)
}
