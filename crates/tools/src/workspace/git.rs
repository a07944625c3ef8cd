//! The program `git`, as far as a workspace needs it.
//!
//! A repository's configuration can name programs, and files of a work tree can make git look for more of it. So the arguments are
//! fixed, the environment is our own, the directory of the repository is named and never looked for, and every setting that runs
//! a program is switched off, filters by their names.
//!
//! **Invariant:** no hook, filter, pager, editor, signer, helper or nested repository runs.
//! **Invariant:** nothing is fetched or sent.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
};

/// Settings that would run a program, reach a network or look into nested repositories.
const SAFE: [&str; 24] = [
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.pager=cat",
    "core.editor=false",
    "core.askPass=",
    "core.sshCommand=false",
    "core.gitProxy=",
    "core.alternateRefsCommand=",
    "core.untrackedCache=false",
    "core.quotePath=false",
    "credential.helper=",
    "diff.external=",
    "diff.ignoreSubmodules=all",
    "interactive.diffFilter=",
    "gpg.program=false",
    "commit.gpgSign=false",
    "tag.gpgSign=false",
    "log.showSignature=false",
    "protocol.allow=never",
    "submodule.recurse=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "color.ui=false",
    "advice.detachedHead=false",
];
/// Bytes of an answer that are taken.
const ANSWER_MAX: usize = 32 << 20;

/// A repository, and one of its work trees. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Git {
    /// Where the repository keeps this work tree's own state.
    dir: PathBuf,
    /// The work tree.
    tree: PathBuf,
    /// Settings that switch off filters and drivers the repository has.
    drivers: Arc<[String]>,
}

/// Why git did not do something.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// It can not be run.
    #[error("`git` cannot be run: {0}")]
    Run(#[from] io::Error),
    /// It says no.
    #[error("git: {0}")]
    Refused(String),
}

impl Git {
    /// The repository whose work tree is exactly `root`; `None` when there is none, or it has no commit yet.
    pub(crate) fn find(root: &Path) -> Result<Option<Self>, GitError> {
        if !root.join(".git").exists() {
            return Ok(None);
        }
        let look = |what: &str| {
            let output = command(&[]).args(["-C"]).arg(root).args(["rev-parse", what]).output()?;
            Ok::<_, GitError>(output.status.success().then(|| line(&output.stdout)))
        };
        let top = match look("--show-toplevel") {
            Err(GitError::Run(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            top => top?,
        };
        let (Some(top), Some(dir)) = (top, look("--absolute-git-dir")?) else { return Ok(None) };
        if Path::new(&top) != root || look("HEAD^{commit}")?.is_none() {
            return Ok(None);
        }
        let found = Self { dir: dir.into(), tree: root.to_owned(), drivers: Arc::new([]) };
        let drivers = found.drivers()?;
        Ok(Some(Self { drivers, ..found }))
    }

    /// The same repository with another work tree.
    pub(crate) fn at(&self, dir: &Path, tree: &Path) -> Self {
        Self { dir: dir.to_owned(), tree: tree.to_owned(), drivers: Arc::clone(&self.drivers) }
    }

    /// Where the repository keeps this work tree's own state.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Switches off every filter, merge driver and text conversion that the repository names.
    fn drivers(&self) -> Result<Arc<[String]>, GitError> {
        let pattern = r"^(filter|merge|diff)\..*\.(clean|smudge|process|required|driver|textconv|command)$";
        let output = self.command(&["config", "--null", "--name-only", "--get-regexp", pattern]).output()?;
        let names = String::from_utf8_lossy(&output.stdout).into_owned();
        let off = |name: &str| if name.ends_with(".required") { format!("{name}=false") } else { format!("{name}=") };
        Ok(names.split('\0').filter(|it| !it.is_empty()).map(off).collect())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = command(&self.drivers);
        command.env("GIT_DIR", &self.dir).env("GIT_WORK_TREE", &self.tree).current_dir(&self.tree).args(args);
        command
    }

    /// What git prints; an error when it says no.
    pub(crate) fn ask(&self, args: &[&str]) -> Result<Vec<u8>, GitError> {
        answer(self.command(args).output()?)
    }

    /// The same as text.
    pub(crate) fn text(&self, args: &[&str]) -> Result<String, GitError> {
        Ok(String::from_utf8_lossy(&self.ask(args)?).into_owned())
    }

    /// The same with a standard input.
    pub(crate) fn ask_with(&self, args: &[&str], input: &[u8]) -> Result<Vec<u8>, GitError> {
        let mut file = tempfile::tempfile()?;
        io::Write::write_all(&mut file, input)?;
        io::Seek::rewind(&mut file)?;
        answer(self.command(args).stdin(Stdio::from(file)).output()?)
    }

    /// The commit that is checked out.
    pub(crate) fn head(&self) -> Result<String, GitError> {
        Ok(line(&self.ask(&["rev-parse", "--verify", "HEAD^{commit}"])?))
    }

    /// The paths git knows, and those it would take up; not what it ignores.
    pub(crate) fn files(&self) -> Result<Vec<String>, GitError> {
        let output = self.ask(&["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
        let names = output.split(|it| *it == 0).filter_map(|it| str::from_utf8(it).ok());
        // A name that ends in `/` is a nested repository, which is not ours to look into.
        Ok(names.filter(|it| !it.is_empty() && !it.ends_with('/')).map(str::to_owned).collect())
    }

    /// A further work tree without files, whose index is that of the commit that is checked out.
    pub(crate) fn add_tree(&self, tree: &Path) -> Result<Self, GitError> {
        let name = tree.display().to_string();
        self.ask(&["worktree", "add", "--quiet", "--detach", "--no-checkout", "--lock", &name, "HEAD"])?;
        let link = std::fs::read_to_string(tree.join(".git"))?;
        let dir = link.strip_prefix("gitdir: ").map(str::trim);
        let Some(dir) = dir else { return Err(GitError::Refused("it made no work tree".to_owned())) };
        let view = self.at(Path::new(dir), tree);
        view.ask(&["read-tree", "HEAD"])?;
        Ok(view)
    }

    /// Forgets the work trees that were below `dir`, which is gone.
    pub(crate) fn forget_trees(&self, dir: &Path) -> Result<(), GitError> {
        let common = self.tree.join(line(&self.ask(&["rev-parse", "--git-common-dir"])?));
        let Ok(trees) = std::fs::read_dir(common.join("worktrees")) else { return Ok(()) };
        for tree in trees.flatten() {
            let place = std::fs::read_to_string(tree.path().join("gitdir")).unwrap_or_default();
            if Path::new(place.trim()).starts_with(dir) {
                // They are locked so that nobody prunes them while they are used.
                std::fs::remove_dir_all(tree.path())?;
            }
        }
        Ok(())
    }
}

fn command(drivers: &[String]) -> Command {
    let mut command = Command::new("git");
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", "/nonexistent")
        .env("LC_ALL", "C.UTF-8")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_LITERAL_PATHSPECS", "1")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_AUTHOR_NAME", "crewline")
        .env("GIT_AUTHOR_EMAIL", "crewline@localhost")
        .env("GIT_COMMITTER_NAME", "crewline")
        .env("GIT_COMMITTER_EMAIL", "crewline@localhost")
        .stdin(Stdio::null())
        .arg("--no-pager");
    for setting in SAFE.into_iter().chain(drivers.iter().map(String::as_str)) {
        command.args(["-c", setting]);
    }
    command
}

fn answer(output: Output) -> Result<Vec<u8>, GitError> {
    if output.status.success() {
        let mut answer = output.stdout;
        answer.truncate(ANSWER_MAX);
        return Ok(answer);
    }
    let said: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(2000).collect();
    Err(GitError::Refused(if said.is_empty() { format!("it ended with {}", output.status) } else { said }))
}

fn line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\n').to_owned()
}
