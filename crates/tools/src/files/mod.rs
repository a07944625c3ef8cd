//! The tools that read, write and search the files of a workspace.
//!
//! **Invariant:** files are reached through a [`Tree`] only.

mod edit;
mod list;
pub(crate) mod patch;
mod read;
mod search;
#[cfg(test)]
mod tests;
mod write;

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;

use crate::{
    Error, Observation, Tool, ToolCall, ToolSpec, Toolbox, Tree,
    toolbox::blocking,
    workspace::{FileError, FilePath, Journal},
};

/// Adds `read_file`, `list_files` and `search_files`.
pub fn add_reading(toolbox: &mut Toolbox, tree: &Tree) -> Result<(), Error> {
    for (spec, work) in
        [(read::spec(), read::call as Work), (list::spec(), list::call as Work), (search::spec(), search::call as Work)]
    {
        toolbox.add(FileTool { spec, work, place: Place { tree: tree.clone(), journal: Journal::none() } })?;
    }
    Ok(())
}

/// Adds `write_file` and `edit_file`. The journal makes an edit that is tried again one edit.
pub fn add_writing(toolbox: &mut Toolbox, tree: &Tree, journal: &Journal) -> Result<(), Error> {
    for (spec, work) in [(write::spec(), write::call as Work), (edit::spec(), edit::call as Work)] {
        toolbox.add(FileTool { spec, work, place: Place { tree: tree.clone(), journal: journal.clone() } })?;
    }
    Ok(())
}

/// The tools of this module.
pub(crate) fn specs() -> [Arc<ToolSpec>; 5] {
    [read::spec(), list::spec(), search::spec(), write::spec(), edit::spec()]
}

/// Where a tool works.
#[derive(Debug, Clone)]
struct Place {
    tree: Tree,
    journal: Journal,
}

/// What a tool does; it blocks.
type Work = fn(&Place, &str, &Value) -> Result<Observation, FileError>;

/// A tool that works on files.
struct FileTool {
    spec: Arc<ToolSpec>,
    work: Work,
    place: Place,
}

impl Tool for FileTool {
    fn spec(&self) -> &Arc<ToolSpec> {
        &self.spec
    }

    fn call<'a>(&'a self, call: ToolCall<'a>) -> BoxFuture<'a, Observation> {
        let (work, place) = (self.work, self.place.clone());
        let (key, arguments) = (call.key.to_owned(), call.arguments.clone());
        Box::pin(async move {
            match blocking(move || work(&place, &key, &arguments)).await {
                Some(Ok(observation)) => observation,
                Some(Err(error)) => told(&error),
                None => Observation::failed("the program is ending"),
            }
        })
    }
}

/// What a model is told of a file that can not be used so.
fn told(error: &FileError) -> Observation {
    match error {
        FileError::Path { .. } | FileError::Link { .. } | FileError::HardLink { .. } => {
            Observation::refused(error.to_string())
        }
        FileError::NotFound { .. } => Observation::failed(format!("{error}; `list_files` shows what there is")),
        FileError::Kind { .. } | FileError::TooLarge { .. } | FileError::TooMuch { .. } | FileError::Io { .. } => {
            Observation::failed(error.to_string())
        }
    }
}

/// The argument `path`; the root when there is none.
fn path_of(place: &Place, arguments: &Value) -> Result<FilePath, FileError> {
    place.tree.path(arguments["path"].as_str().unwrap_or("."))
}

/// A file as text, or that it is none.
fn text_of(path: &FilePath, bytes: Vec<u8>) -> Result<String, Observation> {
    String::from_utf8(bytes).map_err(|_| Observation::failed(format!("`{path}` is no text (it is not UTF-8)")))
}
