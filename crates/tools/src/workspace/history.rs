//! What a specialist may see and do of a view's repository.
//!
//! **Invariant:** what a model writes is a revision, a path behind `--`, or a message on standard input; never an option.

use super::{FilePath, Git, GitError, View};
use crate::Error;

/// Characters of a revision at most.
const REVISION_MAX: usize = 200;

/// A look at the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GitRead {
    /// What is changed and not committed.
    Status,
    /// The difference between a revision (the commit that is checked out) and the files.
    Diff { revision: Option<String>, path: Option<FilePath> },
    /// The latest commits.
    Log { count: u64, path: Option<FilePath> },
}

impl View {
    /// What git says.
    pub(crate) fn git_read(&self, what: &GitRead) -> Result<String, Error> {
        let git = self.repository()?;
        let at = |path: &Option<FilePath>| path.as_ref().map_or(".".to_owned(), ToString::to_string);
        let text = match what {
            GitRead::Status => git.text(&[
                "status",
                "--short",
                "--branch",
                "--ignore-submodules=all",
                "--untracked-files=all",
                "--no-renames",
            ]),
            GitRead::Diff { revision, path } => {
                let revision = revision.as_deref().unwrap_or("HEAD");
                check_revision(revision)?;
                git.text(&[
                    "diff",
                    "--no-ext-diff",
                    "--no-textconv",
                    "--no-color",
                    "--ignore-submodules=all",
                    "--end-of-options",
                    revision,
                    "--",
                    &at(path),
                ])
            }
            GitRead::Log { count, path } => git.text(&[
                "log",
                "--no-color",
                "--no-show-signature",
                "--no-ext-diff",
                "--no-textconv",
                "--date=short",
                "--format=%h %ad %an: %s",
                &format!("--max-count={count}"),
                "HEAD",
                "--",
                &at(path),
            ]),
        };
        Ok(text?)
    }

    /// Commits all that the view has changed; `None` when there is nothing to commit.
    pub(crate) fn commit_all(&self, message: &str) -> Result<Option<String>, Error> {
        let git = self.repository()?;
        // By name, and only what we have seen ourselves: git is not to look around for nested repositories.
        let paths: Vec<u8> = self.changes()?.iter().flat_map(|it| format!("{}\0", it.path).into_bytes()).collect();
        git.ask_with(&["update-index", "-z", "--add", "--remove", "--replace", "--stdin"], &paths)?;
        let id = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        let tree = id(git.ask(&["write-tree"])?);
        let head = git.head()?;
        if tree == id(git.ask(&["rev-parse", "--verify", &format!("{head}^{{tree}}")])?) {
            return Ok(None);
        }
        let commit = id(git.ask_with(&["commit-tree", &tree, "-p", &head, "-F", "-"], message.as_bytes())?);
        git.ask(&["update-ref", "-m", "crewline: commit", "HEAD", &commit, &head])?;
        Ok(Some(commit))
    }

    fn repository(&self) -> Result<&Git, GitError> {
        self.git().ok_or_else(|| GitError::Refused("the workspace is not a repository".to_owned()))
    }
}

/// Whether a text can only be a revision.
fn check_revision(text: &str) -> Result<(), GitError> {
    let is_fine =
        |it: char| it.is_ascii_alphanumeric() || matches!(it, '_' | '-' | '.' | '/' | '~' | '^' | '@' | '{' | '}');
    if text.is_empty() || text.len() > REVISION_MAX || text.starts_with('-') || !text.chars().all(is_fine) {
        let shown: String = text.chars().take(80).collect();
        return Err(GitError::Refused(format!("`{shown}` is no revision")));
    }
    Ok(())
}
