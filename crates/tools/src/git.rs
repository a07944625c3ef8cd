//! The tools `git_status`, `git_diff`, `git_log` and `git_commit`, in workspaces that are repositories.
//!
//! **Invariant:** a commit is made in the view; the branch of the workspace moves only when the view is merged.

use std::sync::{Arc, LazyLock};

use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::{
    Effect, Error, FilePath, Observation, Tool, ToolCall, ToolSpec, Toolbox, View,
    toolbox::blocking,
    workspace::{GitError, GitRead},
};

/// Commits that are listed unless the model asks for fewer.
const COMMITS_MAX: u64 = 100;

/// Adds `git_status`, `git_diff` and `git_log`; nothing when the workspace is no repository.
pub fn add_reading(toolbox: &mut Toolbox, view: &View) -> Result<(), Error> {
    add(toolbox, view, &[(&STATUS, status), (&DIFF, diff), (&LOG, log)])
}

/// Adds `git_commit`; nothing when the workspace is no repository.
pub fn add_writing(toolbox: &mut Toolbox, view: &View) -> Result<(), Error> {
    add(toolbox, view, &[(&COMMIT, commit)])
}

/// The tools of this module.
pub(crate) fn specs() -> [Arc<ToolSpec>; 4] {
    [&STATUS, &DIFF, &LOG, &COMMIT].map(|it| Arc::clone(it))
}

type Work = fn(&View, &Value) -> Result<Observation, Error>;
type Spec = LazyLock<Arc<ToolSpec>>;

fn add(toolbox: &mut Toolbox, view: &View, tools: &[(&Spec, Work)]) -> Result<(), Error> {
    if view.git().is_none() {
        return Ok(());
    }
    for (spec, work) in tools {
        toolbox.add(GitTool { spec: Arc::clone(spec), work: *work, view: view.clone() })?;
    }
    Ok(())
}

struct GitTool {
    spec: Arc<ToolSpec>,
    work: Work,
    view: View,
}

impl Tool for GitTool {
    fn spec(&self) -> &Arc<ToolSpec> {
        &self.spec
    }

    fn call<'a>(&'a self, call: ToolCall<'a>) -> BoxFuture<'a, Observation> {
        let (work, view, arguments) = (self.work, self.view.clone(), call.arguments.clone());
        Box::pin(async move {
            match blocking(move || work(&view, &arguments)).await {
                Some(Ok(observation)) => observation,
                Some(Err(error)) => Observation::failed(error.to_string()),
                None => Observation::failed("the program is ending"),
            }
        })
    }
}

fn path(arguments: &Value) -> Result<Option<FilePath>, Error> {
    let Some(text) = arguments["path"].as_str() else { return Ok(None) };
    let path = FilePath::parse(text);
    path.map(Some).map_err(|problem| GitError::Refused(format!("`path`: {problem}")).into())
}

fn shown(text: String, nothing: &str) -> Observation {
    if text.is_empty() { Observation::ok(nothing) } else { Observation::data(text) }
}

static STATUS: Spec = LazyLock::new(|| {
    let parameters = json!({"type": "object", "additionalProperties": false, "properties": {}});
    let description = "Shows which files of the workspace are changed and not committed.";
    Arc::new(ToolSpec::new("git_status", description, parameters, Effect::Read))
});

fn status(view: &View, _: &Value) -> Result<Observation, Error> {
    Ok(shown(view.git_read(&GitRead::Status)?, "nothing is changed"))
}

static DIFF: Spec = LazyLock::new(|| {
    let parameters = json!({
        "type": "object", "additionalProperties": false,
        "properties": {
            "revision": {"type": "string", "description": "Compare the files with this commit (default `HEAD`)."},
            "path": {"type": "string", "description": "Only this file or directory."}
        }
    });
    let description = "Shows how the files that git knows differ from a commit.";
    Arc::new(ToolSpec::new("git_diff", description, parameters, Effect::Read))
});

fn diff(view: &View, arguments: &Value) -> Result<Observation, Error> {
    let revision = arguments["revision"].as_str().map(str::to_owned);
    Ok(shown(view.git_read(&GitRead::Diff { revision, path: path(arguments)? })?, "there is no difference"))
}

static LOG: Spec = LazyLock::new(|| {
    let parameters = json!({
        "type": "object", "additionalProperties": false,
        "properties": {
            "count": {"type": "integer", "minimum": 1, "maximum": COMMITS_MAX, "description": "How many (default 20)."},
            "path": {"type": "string", "description": "Only commits that changed this file or directory."}
        }
    });
    Arc::new(ToolSpec::new("git_log", "Lists the latest commits.", parameters, Effect::Read))
});

fn log(view: &View, arguments: &Value) -> Result<Observation, Error> {
    let count = arguments["count"].as_u64().unwrap_or(20);
    Ok(shown(view.git_read(&GitRead::Log { count, path: path(arguments)? })?, "there is no such commit"))
}

static COMMIT: Spec = LazyLock::new(|| {
    let parameters = json!({
        "type": "object", "required": ["message"], "additionalProperties": false,
        "properties": {"message": {"type": "string", "minLength": 1, "maxLength": 10000}}
    });
    let description = "Commits everything that was changed in this view of the workspace.";
    // Made again after a crash, there is nothing left to commit.
    Arc::new(ToolSpec::new("git_commit", description, parameters, Effect::Repeatable))
});

fn commit(view: &View, arguments: &Value) -> Result<Observation, Error> {
    match view.commit_all(arguments["message"].as_str().unwrap_or_default())? {
        Some(commit) => Ok(Observation::ok(format!("commit {commit}"))),
        None => Ok(Observation::ok("there is nothing to commit")),
    }
}
