//! Views of workspaces that no attempt goes on with: what a crash, or a run that was ended, left below the data directory.
//!
//! **Invariant:** a view is dead when its run is over or gone. What a run that can go on may still need stays.
//! **Invariant:** nothing is removed that does not lie among the views, and is not named like one.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crewline_types::{RunId, RunStatus, TaskId};
use serde::Serialize;

use crate::{Error, Handle, settings::Settings};

/// A view that no attempt goes on with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadView {
    /// Its attempt: the task's id and a number.
    pub attempt: String,
    /// Its run; none when that is gone.
    pub run: Option<RunId>,
    /// Where it is.
    pub path: PathBuf,
    /// What its files take.
    pub bytes: u64,
}

impl Handle {
    /// The dead views, as if `going` were gone already; by path.
    pub async fn dead_views(&self, going: &[RunId]) -> Result<Vec<DeadView>, Error> {
        let folder = self.deps().workshop.folder();
        let all = blocking(folder.clone(), move || views_below(&folder)).await?;
        let mut dead = Vec::new();
        for (attempt, task, path) in all {
            let found = self.store().find_tasks(task.as_str(), 1).await?;
            let run = found.first().map(|(_, run)| *run);
            let row = match run {
                Some(run) => self.store().run(run).await?,
                None => None,
            };
            let is_dead = row.as_ref().is_none_or(|row| going.contains(&row.id) || is_over(row.status));
            if is_dead {
                let place = path.clone();
                let bytes = blocking(path.clone(), move || size_of(&place)).await?;
                dead.push(DeadView { attempt, run: row.map(|row| row.id), path, bytes });
            }
        }
        dead.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(dead)
    }

    /// Removes dead views, and says which are gone. One whose workspace another process works in stays for the next time.
    pub async fn remove_views(&self, views: &[DeadView]) -> Result<Vec<DeadView>, Error> {
        let mut gone = Vec::new();
        for view in views {
            let root = match view.run {
                Some(run) => Settings::of(&self.row(run).await?)?.workspace,
                None => None,
            };
            if let Some(root) = root.filter(|root| root.is_dir()) {
                // Its repository forgets the work tree, too.
                match self.deps().workshop.alone(&Arc::from(root)).await {
                    Ok((workspace, _held)) => workspace.discard(&view.attempt).await?,
                    Err(error) => {
                        tracing::warn!(error.code = error.code(), %error, "a view is not removed");
                        continue;
                    }
                }
            } else {
                let path = view.path.clone();
                blocking(path.clone(), move || fs::remove_dir_all(&path)).await?;
            }
            gone.push(view.clone());
        }
        Ok(gone)
    }
}

fn is_over(status: RunStatus) -> bool {
    match status {
        RunStatus::Completed | RunStatus::Failed | RunStatus::Cancelled => true,
        RunStatus::Running | RunStatus::Interrupted | RunStatus::LimitReached => false,
    }
}

/// Runs work that blocks.
async fn blocking<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|source| Error::Io { path, source })
}

/// Every view below the folder of workspaces: its attempt, the task of that, and where it is.
fn views_below(folder: &Path) -> io::Result<Vec<(String, TaskId, PathBuf)>> {
    let mut views = Vec::new();
    for state in entries(folder)? {
        for path in entries(&state.join("views"))? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            let Some((task, number)) = name.split_once('-') else { continue };
            let is_number = !number.is_empty() && number.bytes().all(|it| it.is_ascii_digit());
            if let (Ok(task), true) = (task.parse(), is_number) {
                views.push((name, task, path));
            }
        }
    }
    Ok(views)
}

/// What is in a directory; nothing when it is not there.
fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| entry.map(|it| it.path())).collect(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The bytes of all files below `path`; links are not followed.
fn size_of(path: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            open.extend(entries(&path)?);
        } else {
            bytes += metadata.len();
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_like_a_view_is_one() {
        let folder = tempfile::tempdir().unwrap();
        for name in
            ["a/views/k3v9x0ab-1", "a/views/k3v9x0ab-12", "a/views/notes", "a/views/k3v9x0ab-x", "a/blobs/k3v9x0ab-1"]
        {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("file"), "x").unwrap();
        fs::write(folder.path().join("a/views/k3v9x0ab-1/tree"), "12345").unwrap();
        let mut names: Vec<String> = views_below(folder.path()).unwrap().into_iter().map(|it| it.0).collect();
        names.sort();
        assert_eq!(names, ["k3v9x0ab-1", "k3v9x0ab-12"]);
        assert_eq!(size_of(&folder.path().join("a/views/k3v9x0ab-1")).unwrap(), 5);
        assert!(views_below(&folder.path().join("nowhere")).unwrap().is_empty());
    }
}
