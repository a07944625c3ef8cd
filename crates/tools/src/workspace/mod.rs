//! The files a crew works on, and the view each attempt has of them.
//!
//! A *view* is a directory of its own that begins as the workspace is at that moment: a work tree of git when the workspace is a
//! repository, a copy otherwise. What an attempt changes there is *merged* into the workspace when its task is completed, and kept,
//! so that it can be shown and taken back.
//!
//! ```text
//! state/views/ATTEMPT/tree      the view's files
//! state/views/ATTEMPT/base.json what they were
//! state/changes/ATTEMPT.json    what the attempt changed in the workspace
//! state/blobs/                  contents, by hash
//! ```
//!
//! **Invariant:** nothing outside a workspace's root is read, made, changed or removed.
//! **Invariant:** merges of a workspace happen one after the other, each whole or not at all.
//! **Invariant:** a view that was merged can be merged again after a crash, to the same end.

mod blobs;
mod git;
mod history;
mod journal;
mod merge;
mod path;
mod snapshot;
#[cfg(test)]
mod tests;
mod tree;
mod view;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

pub(crate) use blobs::Blobs;
pub(crate) use git::Git;
pub use git::GitError;
pub(crate) use history::GitRead;
pub use journal::Journal;
pub use merge::{Conflict, ConflictReason};
pub use path::{BadPath, FilePath};
use serde::{Deserialize, Serialize};
use snapshot::{Change, Node, Scope, Snapshot};
pub use tree::{Entry, FileError, Kind, Tree, TreeLimits, Visit, Written};
pub use view::View;

use crate::{Error, toolbox::blocking};

/// The files a crew works on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Workspace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    state: PathBuf,
    tree: Tree,
    limits: TreeLimits,
    blobs: Blobs,
    git: Option<Git>,
    /// Held while the workspace is changed, or read as a whole.
    merging: Mutex<()>,
}

/// What came of merging a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merge {
    /// The workspace has the changes now.
    Merged(Merged),
    /// Somebody else changed the same; the workspace is as it was.
    Conflict {
        /// Where.
        conflicts: Vec<Conflict>,
        /// What the view changed.
        diff: String,
    },
}

/// Changes that the workspace has now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merged {
    /// The files, in order.
    pub files: Vec<FilePath>,
    /// The changes as one unified diff.
    pub diff: String,
    /// The last commit that was made in the view, if any. The branch has it when it could be moved there; in any case
    /// `refs/crewline/ATTEMPT` does.
    pub commit: Option<String>,
}

/// What is kept of a merge.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    changes: Vec<Change>,
    commit: Option<String>,
}

impl Workspace {
    /// Opens the workspace `root`, an existing directory. Views and what merges need are kept in `state`, outside of it.
    pub async fn open(root: &Path, state: &Path, limits: TreeLimits) -> Result<Self, Error> {
        let (root, state) = (root.to_owned(), state.to_owned());
        work(move || Self::open_now(&root, &state, limits)).await
    }

    fn open_now(root: &Path, state: &Path, limits: TreeLimits) -> Result<Self, Error> {
        let unusable = |source| Error::Workspace { path: root.to_owned(), source };
        let real = root.canonicalize().map_err(unusable)?;
        let tree = Tree::open(&real, limits).map_err(unusable)?;
        fs::create_dir_all(state).map_err(unusable)?;
        let state = state.canonicalize().map_err(unusable)?;
        if state.starts_with(&real) {
            let source = io::Error::other("the data directory lies in it; tools could reach what crewline keeps");
            return Err(unusable(source));
        }
        let blobs = Blobs::open(&state.join("blobs")).map_err(unusable)?;
        let git = Git::find(&real)?;
        Ok(Self(Arc::new(Inner { root: real, state, tree, limits, blobs, git, merging: Mutex::new(()) })))
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Its files.
    pub fn tree(&self) -> &Tree {
        &self.0.tree
    }

    /// Whether it is a repository of git.
    pub fn is_repository(&self) -> bool {
        self.0.git.is_some()
    }

    /// The view of an attempt: the one it has (after a crash), else a new one that begins as the workspace is now.
    pub async fn view(&self, attempt: &str) -> Result<View, Error> {
        let (inner, attempt) = (Arc::clone(&self.0), attempt.to_owned());
        work(move || View::open(&inner, &attempt)).await
    }

    /// Whether an attempt has a view.
    pub async fn has_view(&self, attempt: &str) -> Result<bool, Error> {
        let (inner, attempt) = (Arc::clone(&self.0), attempt.to_owned());
        work(move || Ok(inner.view_dir(&attempt)?.join("base.json").exists())).await
    }

    /// Brings what a view has changed into the workspace. Changes nothing when something does not fit.
    pub async fn merge(&self, view: &View) -> Result<Merge, Error> {
        let (inner, view) = (Arc::clone(&self.0), view.clone());
        work(move || inner.merge(&view)).await
    }

    /// Takes back what an attempt has changed, as far as later changes leave room for it.
    pub async fn revert(&self, attempt: &str) -> Result<Merge, Error> {
        let (inner, attempt) = (Arc::clone(&self.0), attempt.to_owned());
        work(move || inner.revert(&attempt)).await
    }

    /// What an attempt has changed in the workspace; `None` when it has merged nothing.
    pub async fn merged(&self, attempt: &str) -> Result<Option<Merged>, Error> {
        let (inner, attempt) = (Arc::clone(&self.0), attempt.to_owned());
        work(move || Ok(inner.record(&attempt)?.map(|it| inner.told(&it)))).await
    }

    /// Removes a view. What was merged of it stays known.
    pub async fn discard(&self, attempt: &str) -> Result<(), Error> {
        let (inner, attempt) = (Arc::clone(&self.0), attempt.to_owned());
        work(move || inner.discard(&attempt)).await
    }
}

/// Runs work that blocks.
async fn work<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match blocking(work).await {
        Some(done) => done,
        None => Err(Error::Ending),
    }
}

/// Which files of the workspace or of a view count; `known` always do.
fn scope_of(git: Option<&Git>, known: &Snapshot) -> Result<Scope, Error> {
    let Some(git) = git else { return Ok(Scope::All) };
    let mut paths: BTreeSet<FilePath> = known.paths().cloned().collect();
    paths.extend(git.files()?.iter().filter_map(|it| FilePath::parse(it).ok()));
    Ok(Scope::Named(paths))
}

impl Inner {
    fn merge(&self, view: &View) -> Result<Merge, Error> {
        let _merging = self.merging.lock().unwrap_or_else(PoisonError::into_inner);
        // An earlier try wrote down what it was about to do; it is done to its end, and no other way.
        let (changes, commit) = match self.record(view.attempt())? {
            Some(record) => (record.changes, record.commit),
            None => (view.changes()?, view.commit()?),
        };
        let merge = self.apply(&changes, Some(view), commit)?;
        if let Merge::Merged(Merged { commit: Some(commit), .. }) = &merge {
            view.keep_commit(self, commit)?;
        }
        Ok(merge)
    }

    fn revert(&self, attempt: &str) -> Result<Merge, Error> {
        let _merging = self.merging.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(record) = self.record(attempt)? else {
            return Err(Error::NothingMerged { attempt: attempt.to_owned() });
        };
        let back = |it: Change| Change { path: it.path, before: it.after, after: it.before };
        let changes: Vec<Change> = record.changes.into_iter().map(back).collect();
        self.apply(&changes, None, None)
    }

    /// Brings changes into the workspace. Those of a view are written down first.
    fn apply(&self, changes: &[Change], view: Option<&View>, commit: Option<String>) -> Result<Merge, Error> {
        let source = view.map(View::tree);
        let plan = match merge::plan(changes, source, &self.tree, &self.blobs)? {
            Ok(plan) => plan,
            Err(conflicts) => {
                return Ok(Merge::Conflict { conflicts, diff: merge::diff(changes, &self.blobs) });
            }
        };
        plan.keep(source, &self.tree, &self.blobs)?;
        let record = Record { changes: plan.changes.clone(), commit };
        if let Some(view) = view
            && self.record(view.attempt())?.is_none()
        {
            write_json(&self.record_path(view.attempt())?, &record)?;
        }
        plan.perform(source, &self.tree)?;
        Ok(Merge::Merged(self.told(&record)))
    }

    fn told(&self, record: &Record) -> Merged {
        Merged {
            files: record.changes.iter().map(|it| it.path.clone()).collect(),
            diff: merge::diff(&record.changes, &self.blobs),
            commit: record.commit.clone(),
        }
    }

    fn record_path(&self, attempt: &str) -> Result<PathBuf, Error> {
        check_name(attempt)?;
        Ok(self.state.join("changes").join(format!("{attempt}.json")))
    }

    fn record(&self, attempt: &str) -> Result<Option<Record>, Error> {
        read_json(&self.record_path(attempt)?)
    }

    fn view_dir(&self, attempt: &str) -> Result<PathBuf, Error> {
        check_name(attempt)?;
        Ok(self.state.join("views").join(attempt))
    }

    fn discard(&self, attempt: &str) -> Result<(), Error> {
        let dir = self.view_dir(attempt)?;
        match fs::remove_dir_all(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(Error::State { path: dir, source }),
        }
        if let Some(git) = &self.git {
            git.forget_trees(&dir)?;
        }
        Ok(())
    }
}

/// An attempt's name becomes a file's: it must be one.
fn check_name(attempt: &str) -> Result<(), Error> {
    let is_word = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_');
    if attempt.is_empty() || attempt.len() > 64 || !attempt.bytes().all(is_word) {
        return Err(Error::Attempt { attempt: attempt.chars().take(80).collect() });
    }
    Ok(())
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let failed = |source| Error::State { path: path.to_owned(), source };
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(source)),
    }
}

/// Writes beside the place, then moves: what is there is whole.
fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let failed = |source: io::Error| Error::State { path: path.to_owned(), source };
    let dir = path.parent().unwrap_or(path);
    let write = || {
        fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        serde_json::to_writer(&mut file, value)?;
        file.persist(path)?;
        io::Result::Ok(())
    };
    write().map_err(failed)
}
