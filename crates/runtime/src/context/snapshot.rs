//! What attempts were told, and how two of them differ.

use std::{collections::BTreeMap, sync::Arc};

use crewline_engine::context::{Form, Provenance, kept};
use crewline_store::ContextRow;
use crewline_types::{AttemptId, RunId, TaskId, TextHash, Timestamp};
use serde::Serialize;

use crate::{Error, Handle, curated::in_and_out, tokens::Tokens};

/// What an attempt was told.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// The run.
    pub run: RunId,
    /// The attempt, as `<task>.<number>`.
    pub attempt: String,
    /// The task's name inside the plan.
    pub key: Arc<str>,
    /// When it was put together.
    pub at: Timestamp,
    /// Tokens it could have had.
    pub budget: u32,
    /// Tokens it had.
    pub tokens: u32,
    /// What counted them: `o200k`, `cl100k`, `estimate`, or `tokenizer:` and the hash of its file.
    pub tokenizer: Arc<str>,
    /// Whether these tokens are estimated, rather too many than too few.
    pub estimated: bool,
    /// Items that were in.
    pub items_in: usize,
    /// Items that were left out.
    pub items_out: usize,
    /// Names the bundle: the hash of its text. Older versions did not record it.
    pub bundle: Option<TextHash>,
    /// What was considered, in order, and why it was in or out.
    pub items: Vec<Provenance>,
}

/// How the bundles of two attempts differ.
#[derive(Debug, Clone, Serialize)]
pub struct ContextDiff {
    /// One attempt.
    pub a: String,
    /// The other.
    pub b: String,
    /// Whether both were sent the same bytes; unknown when a hash is.
    pub same: Option<bool>,
    /// What differs, in the order of the first.
    pub changes: Vec<ContextChange>,
}

/// An item that is not alike in two bundles.
#[derive(Debug, Clone, Serialize)]
pub struct ContextChange {
    /// Where it is from.
    pub source: Arc<str>,
    /// What it is.
    pub kind: Arc<str>,
    /// How much of it the first had; none when it was not considered.
    pub a: Option<Form>,
    /// The same of the second.
    pub b: Option<Form>,
    /// Its tokens in the first.
    pub a_tokens: u32,
    /// Its tokens in the second.
    pub b_tokens: u32,
    /// Why it is in the second as it is.
    pub reason: String,
    /// Whether the text behind it is another.
    pub other_text: bool,
}

impl Handle {
    /// What the attempts of a task were told, oldest first.
    pub async fn snapshots(&self, run: RunId, task: TaskId) -> Result<Vec<Snapshot>, Error> {
        let keys = self.store().keys(run).await?;
        let key = keys.get(&task).cloned().unwrap_or_else(|| "".into());
        let rows = self.store().contexts(task).await?;
        rows.iter().map(|row| snapshot(run, &key, row)).collect()
    }

    /// The snapshot that `text` names: `<task>.<attempt>`, or a task for its last attempt.
    pub async fn snapshot(&self, text: &str) -> Result<Snapshot, Error> {
        let text = text.trim();
        // A key may have dots as well, so the whole is looked for first.
        let (found, number) = match (self.find(text).await, text.rsplit_once('.')) {
            (Ok(found), _) => (found, None),
            (Err(error), Some((task, number))) => match number.parse::<u32>() {
                Ok(number) => (self.find(task).await?, Some(number)),
                Err(_) => return Err(error),
            },
            (Err(error), None) => return Err(error),
        };
        let not_found = |id: String| Error::NotFound { what: "attempt", id };
        let task = found.task().ok_or_else(|| Error::NotFound { what: "task", id: text.chars().take(40).collect() })?;
        let mut all = self.snapshots(found.run(), task).await?;
        match number {
            None => all.pop().ok_or_else(|| not_found(format!("of task {task}"))),
            Some(number) => {
                let wanted = AttemptId { task, number }.to_string();
                all.into_iter().find(|it| it.attempt == wanted).ok_or_else(|| not_found(wanted))
            }
        }
    }
}

fn snapshot(run: RunId, key: &Arc<str>, row: &ContextRow) -> Result<Snapshot, Error> {
    let items = kept::read(&row.items)
        .map_err(|error| Error::Approved { task: row.id.task.to_string(), message: error.to_string() })?;
    let (items_in, items_out) = in_and_out(&items);
    Ok(Snapshot {
        run,
        attempt: row.id.to_string(),
        key: Arc::clone(key),
        at: row.at,
        budget: row.budget,
        tokens: row.tokens,
        tokenizer: row.tokenizer.clone().unwrap_or_else(|| Tokens::estimate().label()),
        estimated: row.tokenizer.is_none(),
        items_in,
        items_out,
        bundle: row.bundle,
        items,
    })
}

impl ContextDiff {
    /// How `b` differs from `a`.
    pub fn of(a: &Snapshot, b: &Snapshot) -> Self {
        let keyed = |items: &[Provenance]| {
            let mut all: BTreeMap<(Arc<str>, Arc<str>), Vec<Provenance>> = BTreeMap::new();
            for item in items {
                all.entry((item.source.clone(), item.kind.clone())).or_default().push(item.clone());
            }
            all
        };
        let (mut left, mut right) = (keyed(&a.items), keyed(&b.items));
        let mut changes = Vec::new();
        for item in a.items.iter().chain(&b.items) {
            let key = (item.source.clone(), item.kind.clone());
            let (mut ones, mut others) =
                (left.remove(&key).unwrap_or_default(), right.remove(&key).unwrap_or_default());
            // The same text on both sides belongs together; what is left is paired in order.
            ones.retain(|one| match others.iter().position(|it| it == one) {
                Some(place) => {
                    others.remove(place);
                    false
                }
                None => true,
            });
            let (mut ones, mut others) = (ones.into_iter(), others.into_iter());
            loop {
                let (one, other) = (ones.next(), others.next());
                if one.is_none() && other.is_none() {
                    break;
                }
                changes.push(change(&key, one.as_ref(), other.as_ref()));
            }
        }
        let same = match (a.bundle, b.bundle) {
            (Some(a), Some(b)) => Some(a == b),
            (_, _) => None,
        };
        Self { a: a.attempt.clone(), b: b.attempt.clone(), same, changes }
    }
}

fn change(key: &(Arc<str>, Arc<str>), a: Option<&Provenance>, b: Option<&Provenance>) -> ContextChange {
    let reason = match (a, b) {
        (_, Some(b)) => b.reason.to_string(),
        (_, None) => "it was not considered".to_owned(),
    };
    ContextChange {
        source: Arc::clone(&key.0),
        kind: Arc::clone(&key.1),
        a: a.map(|it| it.form),
        b: b.map(|it| it.form),
        a_tokens: a.map_or(0, |it| it.tokens),
        b_tokens: b.map_or(0, |it| it.tokens),
        reason,
        other_text: matches!((a, b), (Some(a), Some(b)) if a.text != b.text),
    }
}
