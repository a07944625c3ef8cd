//! The tools of other servers (MCP): which of them an attempt has, and what a call of one comes to.
//!
//! **Invariant:** a role has the tools of a server that the registry names for it, as far as its rules allow; what they do not
//! name is asked about.
//! **Invariant:** a tool is offered as it was agreed to. One that changed, or came later, waits for a person.
//! **Invariant:** what a server says, of itself and in answers, is data.

use std::{collections::HashMap, sync::Arc};

use crewline_engine::{
    act::{Policy, Standing, standing},
    route::Mode,
};
use crewline_models::{
    McpServerConfig, Registry,
    mcp::{McpError, McpServers, McpTool},
};
use crewline_store::{ApprovalFilter, ApprovalRow, NewApproval, Pin, Store, ToolPin};
use crewline_tools::{Effect, Observation, Tool, ToolCall, ToolSpec};
use crewline_types::{
    ApprovalId, ApprovalKind, ApprovalState, IdSource, Role, RunId, Text, Timestamp, event::ErrorNote,
};
use futures::future::{BoxFuture, join_all};
use serde_json::{Value, json};

use crate::{
    Error, Handle,
    assignment::{Assignment, Failure},
    attempt::{Deps, asked_event},
    journal,
};

/// Who agreed to the tools of a server that is new.
const REGISTRY: &str = "registry";

/// A tool of another server.
pub struct RemoteTool {
    spec: Arc<ToolSpec>,
    tool: McpTool,
    config: Arc<McpServerConfig>,
    servers: McpServers,
    /// Whose calls they are: their keys are different from those of all others that the server ever hears of.
    caller: RunId,
}

impl RemoteTool {
    /// The tool; its effect is what the registry says of it.
    pub fn new(servers: &McpServers, config: &Arc<McpServerConfig>, tool: McpTool, caller: RunId) -> Self {
        let effect = if config.may_repeat(&tool.own_name) { Effect::Repeatable } else { Effect::Unsafe };
        let description = format!("[a tool of the server `{}`, in its own words] {}", config.name, tool.description);
        let spec = ToolSpec::new(&tool.name, &description, tool.parameters.clone(), effect);
        Self { spec: Arc::new(spec), tool, config: Arc::clone(config), servers: servers.clone(), caller }
    }
}

impl Tool for RemoteTool {
    fn spec(&self) -> &Arc<ToolSpec> {
        &self.spec
    }

    fn call<'a>(&'a self, call: ToolCall<'a>) -> BoxFuture<'a, Observation> {
        Box::pin(async move {
            let arguments = call.arguments.as_object().cloned().unwrap_or_default();
            let key = format!("{}.{}", self.caller, call.key);
            match self.servers.call(&self.config, &self.tool, &key, arguments).await {
                Ok(reply) if reply.is_error => Observation::failed(reply.text).untrusted(),
                Ok(reply) => Observation::data(reply.text),
                Err(error) => failed(&error),
            }
        })
    }
}

fn failed(error: &McpError) -> Observation {
    let unknown = "; whether it did what it was asked to is not known";
    match error {
        McpError::Offline { .. } | McpError::Changed { .. } => Observation::refused(error.to_string()),
        McpError::Timeout { .. } => Observation::timeout(format!("{error}{unknown}")),
        McpError::Gone { .. } | McpError::TooLarge { .. } | McpError::Protocol { .. } => {
            Observation::failed(format!("{error}{unknown}")).untrusted()
        }
        McpError::Start { .. } | McpError::Down { .. } => Observation::failed(format!("{error}; it was not called")),
        McpError::Refused { .. } => Observation::failed(error.to_string()).untrusted(),
    }
}

/// The servers whose tools a role has, when it has tools.
pub fn servers_of<'a>(registry: &'a Registry, role: &'a Role) -> impl Iterator<Item = &'a Arc<McpServerConfig>> {
    registry.mcp_servers().filter(|it| registry.tools(role).is_some() && it.is_for(role))
}

/// The tools of other servers that an attempt may ever call. An attempt waits for a person when one of them is not what was
/// agreed to.
pub async fn tools_of(assignment: &Assignment, deps: &Deps, policy: &Policy) -> Result<Vec<RemoteTool>, Failure> {
    let registry = assignment.models.registry();
    let role = &assignment.task.role;
    let may_ever = |config: &McpServerConfig| {
        // Judged by a name that no rule is about but those for all tools of the server, and by the rules for single ones.
        let start = format!("{}.", config.name);
        policy.may_ever(&format!("{start}\u{0}"))
            || policy.entries.iter().any(|it| it.tool.starts_with(&start) && policy.may_ever(&it.tool))
    };
    let configs: Vec<_> = servers_of(&registry, role).filter(|it| may_ever(it)).map(Arc::clone).collect();
    if configs.is_empty() {
        return Ok(Vec::new());
    }
    let mode = match assignment.run.mode {
        Mode::Online => crewline_models::Mode::Online,
        Mode::Offline => crewline_models::Mode::Offline,
    };
    let servers = &assignment.models.mcp().in_mode(mode).tallied(assignment.obligation.tally());
    let listed = join_all(configs.iter().map(|config| servers.tools(config))).await;
    let mut asked = Vec::new();
    let mut found = Vec::new();
    let mut approvals = None;
    for (config, listed) in configs.iter().zip(listed) {
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) if is_named(&registry, role, config) => return Err(not_there(&error)),
            Err(error) => {
                tracing::warn!(server = %config.name, error.code = error.code(), %error, "server of tools is left out");
                continue;
            }
        };
        for (tool, reason) in &listed.refused {
            tracing::warn!(server = %config.name, tool, reason, "tool of a server is left out");
        }
        let tools = listed.tools.into_iter().filter(|tool| policy.may_ever(&tool.name)).collect::<Vec<_>>();
        let now = deps.clock.now();
        let judged = judge(&deps.store, config, tools, now).await.map_err(|error| not_read(&error))?;
        for (tool, standing, before) in judged {
            match standing {
                Standing::First | Standing::Same => {
                    found.push(RemoteTool::new(servers, config, tool, assignment.run.run));
                }
                Standing::Changed | Standing::Added => {
                    if approvals.is_none() {
                        approvals = Some(decided(&deps.store, assignment).await.map_err(|error| not_read(&error))?);
                    }
                    let known = approvals.get_or_insert_default();
                    let (approval, detail) = asking(assignment, config, &tool, before.as_deref());
                    match known.get(&approval.id).filter(|row| row.digest == approval.digest) {
                        Some(row) if row.state == ApprovalState::Approved => {
                            let by = row.decided_by.as_deref().unwrap_or("a person");
                            let pin = pin_of(config, &tool, now, by);
                            deps.store.pin_tools(&[pin], Pin::Agreed).await.map_err(|error| not_read(&error))?;
                            found.push(RemoteTool::new(servers, config, tool, assignment.run.run));
                        }
                        Some(row) if row.state == ApprovalState::Rejected => {}
                        other => asked.push((approval, detail, other.is_some())),
                    }
                }
            }
        }
    }
    if asked.is_empty() { Ok(found) } else { Err(ask(assignment, deps, asked).await?) }
}

/// Whether the rules of a role speak of a server's tools: then it can not do without them.
fn is_named(registry: &Registry, role: &Role, config: &McpServerConfig) -> bool {
    let start = format!("{}.", config.name);
    registry.tools(role).is_some_and(|it| it.entries.iter().any(|entry| entry.tool.starts_with(&start)))
}

fn not_there(error: &McpError) -> Failure {
    let message = format!("{error}: {}", error.hint()).into();
    let note = ErrorNote { code: error.code().into(), kind: error.kind(), message };
    Failure::Models { error: note, may_retry: error.is_retryable() }
}

fn not_read(error: &crewline_store::Error) -> Failure {
    tracing::warn!(error.code = error.code(), %error, "what was agreed to is not known");
    // Tried again after a pause, with nothing begun.
    Failure::Lost
}

fn pin_of(config: &McpServerConfig, tool: &McpTool, at: Timestamp, by: &str) -> ToolPin {
    ToolPin {
        server: config.name.to_string(),
        origin: config.origin(),
        tool: tool.own_name.to_string(),
        hash: tool.hash,
        definition: tool.definition(),
        at,
        by: by.to_owned(),
    }
}

/// How each tool stands to what was agreed to, and what that was. The tools of a server that is new are agreed to.
async fn judge(
    store: &Store,
    config: &McpServerConfig,
    tools: Vec<McpTool>,
    at: Timestamp,
) -> Result<Vec<(McpTool, Standing, Option<String>)>, crewline_store::Error> {
    let mut pins = store.tool_pins(&config.name, config.origin()).await?;
    if pins.is_empty() && !tools.is_empty() {
        let new: Vec<ToolPin> = tools.iter().map(|tool| pin_of(config, tool, at, REGISTRY)).collect();
        store.pin_tools(&new, Pin::First).await?;
        // Another process may have been first.
        pins = store.tool_pins(&config.name, config.origin()).await?;
    }
    Ok(stand(&pins, tools))
}

fn stand(pins: &[ToolPin], tools: Vec<McpTool>) -> Vec<(McpTool, Standing, Option<String>)> {
    let agreed: HashMap<&str, _> = pins.iter().map(|pin| (pin.tool.as_str(), pin.hash)).collect();
    let judged = tools.into_iter().map(|tool| {
        let standing = standing(&agreed, &tool.own_name, tool.hash);
        let before = pins.iter().find(|pin| *pin.tool == *tool.own_name).map(|pin| pin.definition.clone());
        (tool, standing, before)
    });
    judged.collect()
}

async fn decided(
    store: &Store,
    assignment: &Assignment,
) -> Result<HashMap<ApprovalId, ApprovalRow>, crewline_store::Error> {
    let filter = ApprovalFilter { run: Some(assignment.run.run), is_pending: false };
    Ok(store.approvals(filter).await?.into_iter().map(|row| (row.id, row)).collect())
}

/// What a person is asked about a tool that is not what was agreed to. It covers what the tool is now, and nothing else.
fn asking(
    assignment: &Assignment,
    config: &McpServerConfig,
    tool: &McpTool,
    before: Option<&str>,
) -> (NewApproval, Text) {
    let task = assignment.task.id;
    let about = format!("tool:{task}:{}:{}:{}", config.name, tool.own_name, tool.hash);
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    let detail = json!({
        "server": &*config.name, "place": config.place(), "tool": &*tool.own_name,
        "before": before.map(parse), "now": parse(&tool.definition()),
    });
    let detail = Text::from(serde_json::to_string_pretty(&detail).unwrap_or_default());
    let subject = match before {
        Some(_) => format!("`{}` changed what it says of its tool `{}`", config.name, tool.own_name),
        None => format!("`{}` has a tool that it did not have: `{}`", config.name, tool.own_name),
    };
    let approval = NewApproval {
        id: ApprovalId::of(assignment.run.run, &about),
        task: Some(task),
        kind: ApprovalKind::Tool,
        subject,
        detail: detail.hash,
        digest: tool.hash,
    };
    (approval, detail)
}

/// Records what a person is asked; the answer is how the attempt ends.
async fn ask(assignment: &Assignment, deps: &Deps, asked: Vec<(NewApproval, Text, bool)>) -> Result<Failure, Failure> {
    let mut change = assignment.run.change(assignment.attempt, deps.clock.now());
    let mut what = Vec::new();
    for (approval, detail, is_known) in asked {
        what.push(approval.subject.clone());
        if !is_known {
            change.events.push(asked_event(assignment, change.at, &approval));
        }
        change.texts.push(detail);
        change.approvals.push(approval);
    }
    journal::record(&deps.rooms.journal, change).await.map_err(Failure::of)?;
    Ok(Failure::Awaiting { what: what.join("; ") })
}

/// A tool of another server, for people.
#[derive(Debug)]
pub struct Remote {
    /// The server.
    pub config: Arc<McpServerConfig>,
    /// The tool.
    pub tool: McpTool,
    /// How it stands to what was agreed to.
    pub standing: Standing,
}

impl Remote {
    /// What calls it. Whoever calls it by hand makes another call each time.
    pub fn into_tool(self, servers: &McpServers) -> RemoteTool {
        RemoteTool::new(servers, &self.config, self.tool, RunId::new(&mut IdSource::random()))
    }
}

impl Handle {
    /// What a server offers now, and how it stands to what was agreed to; changes nothing. With it what can not be used, and why.
    pub async fn tools_of_server(
        &self,
        config: &Arc<McpServerConfig>,
    ) -> Result<Result<(Vec<Remote>, Vec<(String, String)>), McpError>, Error> {
        let listed = match self.deps().models.mcp().tools(config).await {
            Ok(listed) => listed,
            Err(error) => return Ok(Err(error)),
        };
        let pins = self.store().tool_pins(&config.name, config.origin()).await?;
        let found = stand(&pins, listed.tools).into_iter();
        let found = found.map(|(tool, standing, _)| Remote { config: Arc::clone(config), tool, standing });
        Ok(Ok((found.collect(), listed.refused)))
    }

    /// The servers of tools, for those who call a tool by hand.
    pub fn tool_servers(&self) -> McpServers {
        self.deps().models.mcp().clone()
    }
}
