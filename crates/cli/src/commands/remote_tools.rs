//! The tools of other servers (MCP) that the registry names, for `crewline tools` and `doctor`.
//!
//! **Invariant:** looking changes nothing: a tool that is new or has changed is not agreed to by it.
//! **Invariant:** a server that can not be asked is said so, and hides nothing of the others.

use std::{sync::Arc, time::Duration};

use crewline_models::{Mode, Registry, mcp::McpError};
use crewline_runtime::Remote;
use crewline_tools::{Approval, Limits, Observation, OutputStore, Review, ToolCall, Toolbox};
use futures::future::join_all;
use serde_json::Value;

use crate::{
    app::{self, App},
    console::{self, Console},
    error::Error,
    settings::{RunDefaults, Settings, process_env},
    view::clean,
};

/// How long a call may take beyond the server's own limit.
const GRACE: Duration = Duration::from_mins(1);

/// What the servers of the registry offer, and what is wrong with them.
pub(super) struct Remotes {
    app: Option<App>,
    /// The tools, by server and name.
    pub(super) tools: Vec<Remote>,
    /// What can not be used, and why.
    pub(super) problems: Vec<String>,
}

impl Remotes {
    /// Asks the servers of the registry, or of one name only. Without a registry there are none.
    pub(super) async fn find(settings: &Settings, console: &Console, server: Option<&str>) -> Result<Self, Error> {
        let none = Self { app: None, tools: Vec::new(), problems: Vec::new() };
        let registry = match app::find_registry(settings) {
            Ok(path) if path.is_file() => app::load_registry(settings, console)?,
            Ok(_) | Err(Error::NoRegistry { .. }) => return Ok(none),
            Err(error) => return Err(error),
        };
        let is_wanted = |name: &str| server.is_none_or(|it| it == name);
        if !registry.mcp_servers().any(|it| is_wanted(&it.name)) {
            return Ok(none);
        }
        let mode = if RunDefaults::load(&process_env)?.offline { Mode::Offline } else { Mode::Online };
        let app = App::for_tools(settings, Arc::clone(&registry), mode).await?;
        let configs: Vec<_> = registry.mcp_servers().filter(|it| is_wanted(&it.name)).collect();
        let asked = join_all(configs.iter().map(|config| app.handle.tools_of_server(config))).await;
        let (mut tools, mut problems) = (Vec::new(), Vec::new());
        for (config, asked) in configs.iter().zip(asked) {
            match asked? {
                Ok((found, refused)) => {
                    tools.extend(found);
                    problems.extend(
                        refused
                            .into_iter()
                            .map(|(tool, why)| format!("`{tool}` of `{}` is left out: {why}", config.name)),
                    );
                }
                Err(error) => problems.push(format!("{error} ({})", error.hint())),
            }
        }
        Ok(Self { app: Some(app), tools, problems })
    }

    /// Calls a tool as a specialist would. One that was not agreed to as it is now is asked about.
    pub(super) async fn call(
        &mut self,
        name: &str,
        arguments: &Value,
        settings: &Settings,
    ) -> Result<Option<Observation>, Error> {
        let place = self.tools.iter().position(|it| *it.tool.name == *name);
        let (Some(place), Some(app)) = (place, &self.app) else { return Ok(None) };
        let remote = self.tools.swap_remove(place);
        let standing = remote.standing;
        let limits = Limits { time_max: remote.config.call_timeout + GRACE, ..Limits::default() };
        let outputs = OutputStore::new(&settings.data_dir.join("workspaces").join("outputs").join("by-hand"));
        let mut toolbox = Toolbox::new(outputs, limits)?;
        toolbox.add(remote.into_tool(&app.handle.tool_servers()))?;
        if standing.needs_a_yes() {
            let question = format!("`{name}` is {} since it was agreed to; call it all the same?", standing.as_str());
            if console::ask(settings, &question) != Some(true) {
                let text =
                    format!("`{name}` is {} since it was agreed to: a person must agree first", standing.as_str());
                return Ok(Some(Observation::refused(text)));
            }
        }
        let approval = match toolbox.review(name, arguments) {
            Review::Ask(_) => Approval::Given,
            Review::Ready | Review::Refuse(_) => Approval::Missing,
        };
        Ok(Some(toolbox.call(ToolCall { key: "call", name, arguments, approval }).await))
    }

    /// Says what is wrong, and ends the connections.
    pub(super) async fn close(self, console: &Console) {
        for problem in &self.problems {
            console.warn(&clean(problem));
        }
        if let Some(app) = self.app {
            app.stop().await;
        }
    }
}

/// A server for `doctor`: what it offers, or why it can not be asked.
pub(super) async fn look(
    registry: &Arc<Registry>,
    settings: &Settings,
) -> Vec<(String, Result<(usize, usize), McpError>)> {
    let options = crewline_models::Options {
        data_dir: settings.data_dir.clone(),
        guard: std::env::current_exe().ok(),
        env: Some(process_env),
        ..crewline_models::Options::default()
    };
    let servers = crewline_models::mcp::McpServers::new(&options);
    let asked = registry.mcp_servers().map(|config| async {
        let found = servers.tools(config).await.map(|it| (it.tools.len(), it.refused.len()));
        (format!("tools of {}", config.name), found)
    });
    let found = join_all(asked).await;
    servers.shutdown().await;
    found
}
