//! The workspaces of runs: opened once in a process, with what runs their commands; and where one attempt works in them.
//!
//! **Invariant:** one [`Workspace`] of a folder in a process: its merges happen one after the other.
//! **Invariant:** one process at a time works in a folder.
//! **Invariant:** what a workspace needs beside its files lies below the data directory, outside of it.
//! **Invariant:** a merge that was begun is done to its end before anything else is done in its name.

use std::{
    collections::HashMap,
    fmt,
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use crewline_engine::{act::Policy, route::Mode};
use crewline_models::{
    CommandNetwork, CommandUnconfined, Invalid, Registry, RoleCommands, RoleTools,
    web::{Web, WebLimits},
};
use crewline_tools::{
    CommandLimits, CommandPolicy, CommandRule, Error, Hosts, HttpFetch, Kit, Limits, Merge, Network, OutputStore,
    Rules, Runner, Toolbox, TreeLimits, Unconfined, View, Workspace,
};
use crewline_types::{ErrorKind, Role, RunId, event::ErrorNote};
use tokio::sync::{Mutex, OnceCell};

use crate::{
    assignment::{Assignment, Failure},
    attempt::{COMMAND, Deps},
    brief::Post,
    recorded::Recorded,
    web::WebFetch,
};

/// Workspaces that are kept open.
const OPEN_MAX: usize = 256;
/// Characters of a diff that a failure shows.
const DIFF_CHARS_MAX: usize = 8_000;
/// The code of an attempt whose changes do not fit what others did meanwhile; the next one is told what it had changed.
pub const CONFLICT: &str = "attempt.conflict";

/// The workspaces of a process.
pub struct Workshop {
    folder: Arc<Path>,
    helper: Option<PathBuf>,
    runner: OnceCell<Option<Runner>>,
    web: OnceCell<Option<Web>>,
    open: Mutex<HashMap<Arc<Path>, Workspace>>,
    /// By the folder's real path.
    held: Mutex<HashMap<PathBuf, Weak<File>>>,
}

impl fmt::Debug for Workshop {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Workshop").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Workshop {
    /// What workspaces need beside their files lies in `folder`; `helper` is the own program, which confines commands.
    pub fn new(folder: &Path, helper: Option<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            helper,
            runner: OnceCell::new(),
            web: OnceCell::new(),
            open: Mutex::default(),
            held: Mutex::default(),
        }
    }

    /// Where all of it lies.
    pub fn folder(&self) -> PathBuf {
        self.folder.to_path_buf()
    }

    /// Where what the workspace in `root` needs is kept: attempts have names that no other run uses.
    fn state_of(&self, root: &Path) -> PathBuf {
        let name = blake3::hash(root.as_os_str().as_encoded_bytes()).to_hex();
        self.folder.join(&name[..32])
    }

    /// Tools that need no folder: long outputs are kept, and nothing else is there yet.
    pub fn tools_without_place(&self, run: RunId) -> Result<Toolbox, Failure> {
        let outputs = self.folder.join("outputs").join(run.as_str());
        Toolbox::new(OutputStore::new(&outputs), Limits::default()).map_err(|error| unusable(&error))
    }

    /// What reads pages for an attempt: none offline, and where its role may read no host.
    pub async fn pages(
        &self,
        assignment: &Assignment,
        deps: &Deps,
        rules: &RoleTools,
        policy: &Policy,
    ) -> Result<Option<HttpFetch>, Failure> {
        let is_offline = assignment.run.mode == Mode::Offline || deps.models.mode() == crewline_models::Mode::Offline;
        if rules.hosts.is_empty() || is_offline || !policy.may_ever("http_fetch") {
            return Ok(None);
        }
        let make = || async {
            match Web::new(crewline_models::Mode::Online, WebLimits::default()) {
                Ok(web) => Some(web),
                Err(error) => {
                    tracing::warn!(%error, "no page can be read");
                    None
                }
            }
        };
        let Some(web) = self.web.get_or_init(make).await else { return Ok(None) };
        let hosts = Hosts::parse(&rules.hosts).map_err(|error| unusable(&error))?;
        let web = WebFetch(web.tallied(assignment.obligation.tally()));
        Ok(Some(HttpFetch::new(Arc::new(web), Arc::new(hosts))))
    }

    /// A workspace to look at: what was merged of it.
    pub async fn look(&self, root: &Path) -> Result<Workspace, Error> {
        Workspace::open(root, &self.state_of(root), TreeLimits::default()).await
    }

    /// A workspace to change, and what keeps other processes from working in it.
    pub async fn alone(&self, root: &Arc<Path>) -> Result<(Workspace, Arc<File>), Error> {
        let held = self.hold(root).await?;
        Ok((self.open(root).await?, held))
    }

    /// Keeps other processes from working in a folder, as long as the answer lives. The folder itself is locked: that holds
    /// whatever their data directories are, and ends with the process, however that ends.
    async fn hold(&self, root: &Path) -> Result<Arc<File>, Error> {
        let failed = |source| Error::Workspace { path: root.to_owned(), source };
        let real = root.canonicalize().map_err(failed)?;
        let mut held = self.held.lock().await;
        if let Some(file) = held.get(&real).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let file = File::open(&real).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { path: real }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let file = Arc::new(file);
        held.retain(|_, it| it.strong_count() > 0);
        held.insert(real, Arc::downgrade(&file));
        Ok(file)
    }

    async fn open(&self, root: &Arc<Path>) -> Result<Workspace, Error> {
        let mut open = self.open.lock().await;
        if let Some(workspace) = open.get(root) {
            return Ok(workspace.clone());
        }
        if open.len() >= OPEN_MAX {
            return Err(Error::Workspace {
                path: root.to_path_buf(),
                source: std::io::Error::other("this process has as many workspaces as it may"),
            });
        }
        let workspace = Workspace::open(root, &self.state_of(root), TreeLimits::default()).await?;
        open.insert(Arc::clone(root), workspace.clone());
        Ok(workspace)
    }

    /// What runs commands; `None` where the own program is not known.
    async fn runner(&self) -> Option<Runner> {
        let find = || async {
            match &self.helper {
                Some(helper) => Some(Runner::find(helper).await),
                None => None,
            }
        };
        self.runner.get_or_init(find).await.clone()
    }
}

/// Refuses a registry whose rules of commands or hosts can not be read, with the place of each.
pub fn check_rules(registry: &Registry) -> Result<(), Invalid> {
    let mut problems = Vec::new();
    for role in registry.roles() {
        let Some(tools) = registry.tools(&role) else { continue };
        let mut refuse = |place: &[&str], at: usize, message: String, help: &str| {
            let mut path = vec!["roles".to_owned(), role.to_string()];
            path.extend(place.iter().map(|it| (*it).to_owned()));
            path.push(at.to_string());
            problems.push((path, message, help.to_owned()));
        };
        if let Some(commands) = &tools.commands {
            for (key, rules) in [("allow", &commands.allow), ("ask", &commands.ask)] {
                for (at, rule) in rules.iter().enumerate() {
                    if let Err(error) = CommandRule::parse(rule) {
                        refuse(&["commands", key], at, error.to_string(), error.hint().unwrap_or_default());
                    }
                }
            }
        }
        for (at, host) in tools.hosts.iter().enumerate() {
            if Hosts::parse(&[host]).is_err() {
                let message = format!("`{host}` is no name of a host");
                refuse(&["hosts"], at, message, "as `docs.rs`, `*.python.org` (all below it) or `example.com:8080`");
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(registry.refused(&problems)) }
}

/// Why a command may not be run by a check of `role`; `None` when it may.
pub fn refuse_command(registry: &Registry, role: &Role, program: &str, args: &[String]) -> Option<String> {
    let Some(tools) = registry.tools(role) else {
        return Some(format!("role `{role}` has no tools: give it `tools: {{}}` and `commands` in the registry"));
    };
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let is_allowed = match tools.commands.as_ref().map(commands_of) {
        Some(Ok(policy)) => policy.allows(program, &args),
        Some(Err(error)) => return Some(error.to_string()),
        None => false,
    };
    (!is_allowed).then(|| format!("the `commands.allow` of role `{role}` has no rule for it"))
}

fn commands_of(commands: &RoleCommands) -> Result<CommandPolicy, Error> {
    let rules = |texts: &[String]| texts.iter().map(|text| CommandRule::parse(text)).collect::<Result<Vec<_>, _>>();
    let usual = CommandPolicy::default();
    Ok(CommandPolicy {
        allow: rules(&commands.allow)?,
        ask: rules(&commands.ask)?,
        limits: CommandLimits { time_max: commands.time_max.unwrap_or(usual.limits.time_max), ..usual.limits },
        network: match commands.network {
            CommandNetwork::None => Network::None,
            CommandNetwork::Loopback => Network::Loopback,
            CommandNetwork::Host => Network::Host,
        },
        unconfined: match commands.unconfined {
            CommandUnconfined::Ask => Unconfined::Ask,
            CommandUnconfined::Run => Unconfined::Run,
            CommandUnconfined::Refuse => Unconfined::Refuse,
        },
        path: commands.path.iter().cloned().chain(usual.path).collect(),
        readable: commands.readable.clone(),
        env: commands.env.clone(),
    })
}

/// Where an attempt works, and the tools it has there.
pub struct Place {
    workspace: Workspace,
    view: View,
    root: Arc<Path>,
    /// What runs the commands of its checks, when it has such.
    pub checks: Option<Toolbox>,
    _held: Arc<File>,
}

impl Place {
    /// The place of an attempt; none where its run has no workspace.
    pub async fn of(
        assignment: &Assignment,
        deps: &Deps,
        recorded: &Recorded,
        rules: &RoleTools,
    ) -> Result<Option<Self>, Failure> {
        let Some(root) = &assignment.run.workspace else { return Ok(None) };
        match assignment.run.post {
            Post::Manager { .. } => {}
            Post::Worker { .. } => {
                let message = "a run with a workspace is not made by workers: resume it with `crewline resume` where the folder is";
                return Err(failed("workspace.worker", ErrorKind::Invalid, message.to_owned(), false));
            }
        }
        let (workspace, held) = deps.workshop.alone(root).await.map_err(|error| unusable(&error))?;
        let view = view(&workspace, assignment, recorded).await?;
        let mut place = Self { workspace, view, root: Arc::clone(root), checks: None, _held: held };
        let criteria = &assignment.task.success_criteria;
        if criteria.iter().any(|it| it.check.as_ref().is_some_and(|check| check.command().is_some())) {
            // Whether the model itself may run commands is another question.
            let mut only = place.all_tools(assignment, deps, rules).await?;
            only.retain(|spec| &*spec.name == COMMAND);
            place.checks = Some(only);
        }
        Ok(Some(place))
    }

    async fn all_tools(&self, assignment: &Assignment, deps: &Deps, rules: &RoleTools) -> Result<Toolbox, Failure> {
        let made = toolbox(&self.view, &self.root, assignment, deps, rules).await;
        made.map_err(|error| unusable(&error))
    }

    /// The tools for what lies there, as far as a policy may ever allow them.
    pub async fn tools(
        &self,
        assignment: &Assignment,
        deps: &Deps,
        rules: &RoleTools,
        policy: &Policy,
    ) -> Result<Toolbox, Failure> {
        let mut tools = self.all_tools(assignment, deps, rules).await?;
        tools.retain(|spec| policy.may_ever(&spec.name));
        Ok(tools)
    }

    /// Brings what the attempt changed into the workspace, or fails with what it changed.
    pub async fn merge(&self) -> Result<(), Failure> {
        merge(&self.workspace, &self.view).await?;
        self.discard().await;
        Ok(())
    }

    /// Forgets what the attempt changed and has not merged.
    pub async fn discard(&self) {
        if let Err(error) = self.workspace.discard(self.view.attempt()).await {
            tracing::warn!(error.code = error.code(), %error, "a view is not removed");
        }
    }
}

/// The view of an attempt: that of the attempts it goes on with, unless it is merged already.
async fn view(workspace: &Workspace, assignment: &Assignment, recorded: &Recorded) -> Result<View, Failure> {
    let task = assignment.task.id;
    for number in recorded.views() {
        let name = format!("{task}-{number}");
        let is_merged = workspace.merged(&name).await.map_err(|error| unusable(&error))?.is_some();
        let has_view = workspace.has_view(&name).await.map_err(|error| unusable(&error))?;
        if has_view {
            let view = workspace.view(&name).await.map_err(|error| unusable(&error))?;
            if !is_merged {
                return Ok(view);
            }
            // Its merge was begun; whether it came to its end is not known.
            merge(workspace, &view).await?;
            workspace.discard(&name).await.map_err(|error| unusable(&error))?;
        }
    }
    let name = format!("{task}-{}", assignment.attempt.number);
    workspace.view(&name).await.map_err(|error| unusable(&error))
}

async fn toolbox(
    view: &View,
    root: &Path,
    assignment: &Assignment,
    deps: &Deps,
    rules: &RoleTools,
) -> Result<Toolbox, Error> {
    let outputs = deps.workshop.state_of(root).join("outputs").join(assignment.run.run.as_str());
    let commands = rules.commands.as_ref().map(commands_of).transpose()?.unwrap_or_default();
    let rules = Rules { commands: Arc::new(commands), ..Rules::default() };
    let kit = Kit { runner: deps.workshop.runner().await, ..Kit::default() };
    kit.toolbox(view, &OutputStore::new(&outputs), &rules)
}

async fn merge(workspace: &Workspace, view: &View) -> Result<(), Failure> {
    match workspace.merge(view).await.map_err(|error| unusable(&error))? {
        Merge::Merged(_) => Ok(()),
        Merge::Conflict { conflicts, diff } => {
            let files: Vec<String> = conflicts.iter().map(|it| it.path.to_string()).collect();
            let diff: String = diff.chars().take(DIFF_CHARS_MAX).collect();
            let message = format!(
                "others changed the same in {} meanwhile, so nothing was merged. What was changed:\n{diff}",
                files.join(", ")
            );
            Err(failed(CONFLICT, ErrorKind::Conflict, message, true))
        }
    }
}

/// Why an attempt can not work in its workspace.
fn unusable(error: &Error) -> Failure {
    let message = match error.hint() {
        Some(hint) => format!("{error}: {hint}"),
        None => error.to_string(),
    };
    failed(error.code(), error.kind(), message, error.is_retryable())
}

fn failed(code: &str, kind: ErrorKind, message: String, may_retry: bool) -> Failure {
    Failure::Models { error: ErrorNote { code: code.into(), kind, message: message.into() }, may_retry }
}
