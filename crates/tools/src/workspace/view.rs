//! The view an attempt has of a workspace.
//!
//! **Invariant:** a view is whole before it is used: what a crash left of one is made anew.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::{
    Change, FileError, Git, Inner, Journal, Node, Snapshot, Tree, merge, read_json, scope_of, work, write_json,
};
use crate::Error;

/// The view of one attempt. Cheap to clone.
#[derive(Debug, Clone)]
pub struct View(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    attempt: String,
    dir: PathBuf,
    root: PathBuf,
    tree: Tree,
    base: Base,
    git: Option<Git>,
    workspace: Arc<Inner>,
}

/// What a view was at its beginning.
#[derive(Debug, Serialize, Deserialize)]
struct Base {
    files: Snapshot,
    /// Where the repository keeps the work tree's state, and the commit it began at.
    git: Option<(PathBuf, String)>,
}

impl View {
    pub(super) fn open(workspace: &Arc<Inner>, attempt: &str) -> Result<Self, Error> {
        let dir = workspace.view_dir(attempt)?;
        let base = match read_json::<Base>(&dir.join("base.json"))? {
            Some(base) => base,
            None => make(workspace, attempt, &dir)?,
        };
        let root = dir.join("tree");
        let tree = Tree::open(&root, workspace.limits).map_err(|source| Error::State { path: root.clone(), source })?;
        let git = match (&workspace.git, &base.git) {
            (Some(git), Some((dir, _))) => Some(git.at(dir, &root)),
            (_, _) => None,
        };
        let workspace = Arc::clone(workspace);
        Ok(Self(Arc::new(Parts { attempt: attempt.to_owned(), dir, root, tree, base, git, workspace })))
    }

    /// Whose it is.
    pub fn attempt(&self) -> &str {
        &self.0.attempt
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Its files.
    pub fn tree(&self) -> &Tree {
        &self.0.tree
    }

    /// Where homes of commands are made.
    pub fn scratch(&self) -> PathBuf {
        self.0.dir.join("scratch")
    }

    /// The notes of its edits.
    pub fn journal(&self) -> Journal {
        Journal::new(&self.0.dir.join("edits"))
    }

    /// The repository, with this view as its work tree.
    pub(crate) fn git(&self) -> Option<&Git> {
        self.0.git.as_ref()
    }

    /// What it has changed so far, as one unified diff.
    pub async fn diff(&self) -> Result<String, Error> {
        let view = self.clone();
        work(move || {
            let changes = view.changes()?;
            // The diff needs the contents; texts are kept by reading them.
            Ok(merge::diff(&changes, &view.0.workspace.blobs))
        })
        .await
    }

    /// What is different from its beginning.
    pub(crate) fn changes(&self) -> Result<Vec<Change>, Error> {
        let Parts { tree, base, git, workspace, .. } = &*self.0;
        let scope = scope_of(git.as_ref(), &base.files)?;
        let now = Snapshot::take(tree, &scope, &workspace.blobs)?;
        Ok(base.files.changes(&now))
    }

    /// The last commit that was made in it; `None` when it is where it began.
    pub(super) fn commit(&self) -> Result<Option<String>, Error> {
        let (Some(git), Some((_, began))) = (&self.0.git, &self.0.base.git) else { return Ok(None) };
        let head = git.head()?;
        Ok((head != *began).then_some(head))
    }

    /// Keeps a commit of the view in the repository, and moves the branch there when nothing else has moved since.
    pub(super) fn keep_commit(&self, workspace: &Inner, commit: &str) -> Result<(), Error> {
        let (Some(git), Some((_, began))) = (&workspace.git, &self.0.base.git) else { return Ok(()) };
        git.ask(&["update-ref", &format!("refs/crewline/{}", self.0.attempt), commit])?;
        let is_index_clean = git.ask(&["diff-index", "--cached", "--quiet", "--ignore-submodules=all", began]).is_ok();
        if git.head()? == *began && is_index_clean {
            git.ask(&["update-ref", "-m", "crewline: merge", "HEAD", commit, began])?;
            git.ask(&["read-tree", commit])?;
        }
        Ok(())
    }
}

/// Makes the view: the files of the workspace as they are now.
fn make(workspace: &Inner, attempt: &str, dir: &Path) -> Result<Base, Error> {
    // What is there is what a crash left.
    workspace.discard(attempt)?;
    let root = dir.join("tree");
    let failed = |source| Error::State { path: dir.to_owned(), source };
    fs::create_dir_all(dir).map_err(failed)?;
    let _merging = workspace.merging.lock().unwrap_or_else(PoisonError::into_inner);
    let began = if let Some(git) = &workspace.git {
        Some((git.add_tree(&root)?.dir().to_owned(), git.head()?))
    } else {
        fs::create_dir(&root).map_err(failed)?;
        None
    };
    let scope = scope_of(workspace.git.as_ref(), &Snapshot::default())?;
    let files = Snapshot::take(&workspace.tree, &scope, &workspace.blobs)?;
    let tree = Tree::open(&root, workspace.limits).map_err(failed)?;
    copy(&files, &workspace.tree, &tree)?;
    let base = Base { files, git: began };
    write_json(&dir.join("base.json"), &base)?;
    Ok(base)
}

fn copy(files: &Snapshot, from: &Tree, to: &Tree) -> Result<(), FileError> {
    for (path, node) in &files.0 {
        match node {
            Node::Link { target } => to.make_link(path, target)?,
            Node::File { is_executable, .. } => {
                let (mut reader, _) = from.reader(path)?;
                to.write_from(path, &mut reader, Some(*is_executable))?;
            }
        }
    }
    Ok(())
}
