//! Bringing changes into a tree that may have changed meanwhile: three-way, whole or not at all.
//!
//! **Invariant:** nothing is written unless everything fits: a conflict changes nothing.
//! **Invariant:** what somebody else has written is never overwritten: either the change fits around it, or it is a conflict.
//! **Invariant:** applying what was applied before, in part or whole, leads to the same.

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::{
    Blobs, FileError, FilePath, Tree,
    snapshot::{Change, Node, hash},
};
use crate::files::patch::{self, Side};

/// Where two changes do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The file.
    pub path: FilePath,
    /// Why they do not.
    pub reason: ConflictReason,
    /// Both changes, in a text with marks, where the file is one; else empty.
    pub marked: String,
}

/// Why two changes do not fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConflictReason {
    /// The same lines were changed.
    Lines,
    /// One side changed what the other removed.
    Removed,
    /// Both sides made a file of this name.
    Added,
    /// Both sides changed a file that is no text, or is too large to be merged.
    Binary,
    /// It is a link that leads out of the workspace.
    LeadsOut,
    /// The earlier content is not known any more.
    Forgotten,
}

/// What is to be written.
enum Step {
    Write { path: FilePath, bytes: Bytes, is_executable: bool },
    Link { path: FilePath, target: String },
    Remove { path: FilePath },
}

enum Bytes {
    /// These.
    Known(Vec<u8>),
    /// Those of the same file in the other tree.
    Copied,
}

/// How changes are brought into a tree.
pub(super) struct Plan {
    steps: Vec<Step>,
    /// What becomes of the tree, by path.
    pub(super) changes: Vec<Change>,
}

/// Plans to bring `changes`, made in `source`, into `target`, or says what does not fit. All texts are in `blobs`; without a
/// `source`, all other contents must be, too.
pub(super) fn plan(
    changes: &[Change],
    source: Option<&Tree>,
    target: &Tree,
    blobs: &Blobs,
) -> Result<Result<Plan, Vec<Conflict>>, FileError> {
    let mut plan = Plan { steps: Vec::new(), changes: Vec::new() };
    let mut conflicts = Vec::new();
    for change in changes {
        let current = Node::read(target, &change.path, blobs)?;
        match step(change, current.as_ref(), blobs, source) {
            Ok(Some((step, after))) => {
                plan.steps.push(step);
                plan.changes.push(Change { path: change.path.clone(), before: current, after });
            }
            // It is so already.
            Ok(None) => plan.changes.push(change.clone()),
            Err(conflict) => conflicts.push(*conflict),
        }
    }
    if !conflicts.is_empty() {
        return Ok(Err(conflicts));
    }
    // Files that go make room for directories of their name.
    plan.steps.sort_by_key(|step| !matches!(step, Step::Remove { .. }));
    Ok(Ok(plan))
}

impl Plan {
    /// Keeps the contents from before and after, so that a crash in between can be made good, and the changes taken back.
    pub(super) fn keep(&self, source: Option<&Tree>, target: &Tree, blobs: &Blobs) -> Result<(), FileError> {
        for step in &self.steps {
            if let Step::Write { path, bytes: Bytes::Known(bytes), .. } = step {
                blobs.put(&hash(bytes), bytes).map_err(|source| FileError::Io { path: path.clone(), source })?;
            }
        }
        for change in &self.changes {
            for (node, tree) in [(&change.before, Some(target)), (&change.after, source)] {
                let (Some(Node::File { hash: wanted, .. }), Some(tree)) = (node, tree) else { continue };
                // One that is too large to be kept can be merged, and not taken back.
                if blobs.get(wanted).is_none()
                    && let Ok(bytes) = tree.read(&change.path)
                    && hash(&bytes) == *wanted
                {
                    blobs.put(wanted, &bytes).map_err(|source| FileError::Io { path: change.path.clone(), source })?;
                }
            }
        }
        Ok(())
    }

    /// Does it.
    pub(super) fn perform(self, source: Option<&Tree>, target: &Tree) -> Result<(), FileError> {
        for step in self.steps {
            match step {
                Step::Remove { path } => target.remove(&path)?,
                Step::Link { path, target: to } => target.make_link(&path, &to)?,
                Step::Write { path, bytes: Bytes::Known(bytes), is_executable } => {
                    target.write_from(&path, &mut &*bytes, Some(is_executable))?;
                }
                Step::Write { path, bytes: Bytes::Copied, is_executable } => {
                    let Some(source) = source else { return Err(FileError::NotFound { path }) };
                    let (mut reader, _) = source.reader(&path)?;
                    target.write_from(&path, &mut reader, Some(is_executable))?;
                }
            }
        }
        Ok(())
    }
}

type Planned = Option<(Step, Option<Node>)>;

/// What a change means for what is there now.
fn step(
    change: &Change,
    current: Option<&Node>,
    blobs: &Blobs,
    source: Option<&Tree>,
) -> Result<Planned, Box<Conflict>> {
    let path = &change.path;
    let conflict = |reason| Box::new(Conflict { path: path.clone(), reason, marked: String::new() });
    if current == change.after.as_ref() {
        return Ok(None);
    }
    if let Some(Node::Link { target }) = &change.after
        && leads_out(path, target)
    {
        return Err(conflict(ConflictReason::LeadsOut));
    }
    if current == change.before.as_ref() {
        let step = match &change.after {
            None => Step::Remove { path: path.clone() },
            Some(Node::Link { target }) => Step::Link { path: path.clone(), target: target.clone() },
            Some(Node::File { hash, is_executable, .. }) => {
                let bytes = match (blobs.get(hash), source) {
                    (Some(bytes), _) => Bytes::Known(bytes),
                    (None, Some(_)) => Bytes::Copied,
                    (None, None) => return Err(conflict(ConflictReason::Forgotten)),
                };
                Step::Write { path: path.clone(), bytes, is_executable: *is_executable }
            }
        };
        return Ok(Some((step, change.after.clone())));
    }
    match (&change.before, current, &change.after) {
        (
            Some(Node::File { hash: base, is_executable: mode, .. }),
            Some(Node::File { hash: ours, is_executable: our_mode, .. }),
            Some(Node::File { hash: theirs, is_executable: their_mode, .. }),
        ) => {
            let is_executable = if their_mode == mode { *our_mode } else { *their_mode };
            let text = |hash: &str| blobs.get(hash).and_then(|it| String::from_utf8(it).ok());
            let (Some(base), Some(ours), Some(theirs)) = (text(base), text(ours), text(theirs)) else {
                return Err(conflict(ConflictReason::Binary));
            };
            match patch::merge(&base, &ours, &theirs) {
                Ok(merged) => {
                    let after = Node::File { hash: hash(merged.as_bytes()), size: merged.len() as u64, is_executable };
                    let bytes = Bytes::Known(merged.into_bytes());
                    Ok(Some((Step::Write { path: path.clone(), bytes, is_executable }, Some(after))))
                }
                Err(marked) => Err(Box::new(Conflict { path: path.clone(), reason: ConflictReason::Lines, marked })),
            }
        }
        (None, Some(_), Some(_)) => Err(conflict(ConflictReason::Added)),
        (Some(_), Some(_), Some(_)) => Err(conflict(ConflictReason::Binary)),
        // The last two are equal to what was before, or after; both are handled above.
        (Some(_), None, _) | (_, Some(_), None) | (None, None, Some(_) | None) => {
            Err(conflict(ConflictReason::Removed))
        }
    }
}

/// Whether a link at `path` would lead out of the workspace.
fn leads_out(path: &FilePath, target: &str) -> bool {
    let mut depth = path.parts().count().saturating_sub(1);
    for part in Path::new(target).components() {
        match part {
            Component::RootDir | Component::Prefix(_) => return true,
            Component::CurDir => {}
            Component::ParentDir if depth == 0 => return true,
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => depth += 1,
        }
    }
    target.split('/').any(|it| it.eq_ignore_ascii_case(".git"))
}

/// The changes as one unified diff, for people, models and reviews.
pub(super) fn diff(changes: &[Change], blobs: &Blobs) -> String {
    let side = |node: &Option<Node>| match node {
        None => Side::Nothing,
        Some(Node::Link { target }) => Side::Text(format!("link to {target}\n")),
        Some(Node::File { hash, size, .. }) => match blobs.get(hash).map(String::from_utf8) {
            Some(Ok(text)) => Side::Text(text),
            Some(Err(_)) | None => Side::Bytes(*size),
        },
    };
    changes.iter().map(|it| patch::file_diff(&it.path, &side(&it.before), &side(&it.after))).collect()
}
