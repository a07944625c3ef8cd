//! The context of a task as a person wants it: items pinned and excluded, and the bundle that was approved.
//!
//! **Invariant:** an approved bundle is sent as it was approved, byte for byte, as long as every result that the task
//! requires is one that was looked at; a model whose window is smaller is sent what of it fits.
//! **Invariant:** what was excluded is sent to nobody: an attempt that can not read the decisions does not begin.

use std::{collections::HashSet, sync::Arc, time::Duration};

use crewline_engine::context::{self, Bundle, Form, Item, Tier};
use crewline_store::{BUNDLE, Choice, ContextChoice, Store};
use crewline_types::{TaskId, TaskStatus, Text, TextHash};
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    assignment::{Assignment, Failure, Work},
    attempt::Deps,
    recall::{Question, recall},
    tokens::Tokens,
};

/// Waits between tries to read the decisions.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(8)];

/// A bundle that a person approved, as its row keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Approved {
    /// Tokens it could have had.
    pub budget: u32,
    /// The bundle.
    pub bundle: Bundle,
    /// The tokenizer that counted; none for an estimate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<Arc<str>>,
}

/// Everything that may go into a bundle, and what a person decided on it.
#[derive(Debug, Default)]
pub struct Curated {
    items: Vec<Item>,
    /// Items that are pinned, as `task:<id>` or `memory:<id>`.
    pinned: HashSet<String>,
    excluded: HashSet<String>,
    /// Texts of memories that are excluded.
    excluded_texts: HashSet<TextHash>,
    approved: Option<Approved>,
}

/// What an attempt is told: its sources, what a person added, and what memory recalls.
pub async fn of_attempt(assignment: &Assignment, deps: &Deps, sources: Vec<Item>) -> Result<Curated, Failure> {
    let task = &assignment.task;
    let mut pauses = PAUSES.into_iter();
    let mut curated = loop {
        match decided(deps, task.id, &sources).await {
            Ok(curated) => break curated,
            Err(unread) => match pauses.next().filter(|_| unread.may_retry) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(unread.failure),
            },
        }
    };
    if !curated.is_approved() {
        let text = match assignment.work {
            Work::Plan { .. } => assignment.run.goal.to_string(),
            Work::Text => format!("{} {}", task.title, task.description),
        };
        let question = Question { scope: &assignment.run.scope, task: task.id, text, limit: deps.limits.recall_top };
        let found = recall(deps, question, curated.items()).await;
        curated.add(found);
    }
    Ok(curated)
}

/// Decisions that could not be read.
struct Unread {
    may_retry: bool,
    failure: Failure,
}

async fn decided(deps: &Deps, task: TaskId, sources: &[Item]) -> Result<Curated, Unread> {
    let unread = |may_retry, code, kind, message| Unread { may_retry, failure: Failure::Store { code, kind, message } };
    let choices = deps.choices.of(task).await;
    let choices = choices.map_err(|it| unread(it.is_retryable(), it.code(), it.kind(), it.to_string()))?;
    let curated = Curated::of(&deps.store, &choices, sources.to_vec(), Approval::Holds).await;
    curated.map_err(|it| unread(it.is_retryable(), it.code(), it.kind(), it.to_string()))
}

impl Curated {
    /// The sources of a task with what was decided on them; an approval may be left aside.
    pub async fn of(
        store: &Store,
        choices: &[ContextChoice],
        sources: Vec<Item>,
        approval: Approval,
    ) -> Result<Self, Error> {
        let mut curated = Self { items: sources, ..Self::default() };
        for choice in choices {
            match choice.choice {
                Choice::Pin => drop(curated.pinned.insert(choice.item.clone())),
                Choice::Exclude => {
                    curated.excluded.insert(choice.item.clone());
                    curated.excluded_texts.extend(choice.body.as_deref().map(TextHash::of));
                }
                Choice::None | Choice::Approved => {}
            }
        }
        if approval == Approval::Holds
            && let Some(approved) = approved(choices)?
            && approved.holds(&curated.items)
        {
            curated.approved = Some(approved);
            return Ok(curated);
        }
        let mut wanted = Vec::new();
        for choice in choices.iter().filter(|it| it.choice == Choice::Pin) {
            match choice.item.strip_prefix("task:").and_then(|id| id.parse::<TaskId>().ok()) {
                Some(task) if !curated.items.iter().any(|it| *it.source == *choice.item) => wanted.push(task),
                Some(_) => {}
                // It is among the sources, as long as the plan has it.
                None if of_plan(&choice.item) => {}
                None => curated.items.push(memory_item(choice)),
            }
        }
        let results = task_items(store, &wanted, Tier::Pinned).await?;
        curated.add(results);
        Ok(curated)
    }

    /// All items, in no order.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Whether the bundle is settled, so that nothing more needs to be found for it.
    pub fn is_approved(&self) -> bool {
        self.approved.is_some()
    }

    /// Whether a person decided anything on it.
    pub fn is_decided(&self) -> bool {
        self.approved.is_some() || !self.pinned.is_empty() || !self.excluded.is_empty()
    }

    /// More items.
    pub fn add(&mut self, items: Vec<Item>) {
        self.items.extend(items);
        for item in &mut self.items {
            // INDEX.md goes before everything anyway.
            if item.tier != Tier::Index && self.pinned.contains(&*item.source) {
                item.tier = Tier::Pinned;
            }
        }
    }

    /// The bundle for a budget in tokens as `tokens` counts them.
    pub fn bundle(&self, tokens_max: u32, tokens: &Tokens) -> Bundle {
        let Some(approved) = &self.approved else {
            return tokens.assemble(&self.items, &|item| self.excludes(item), tokens_max);
        };
        let bundle = approved.bundle.clone();
        let is_counted = approved.tokenizer.as_ref() == tokens.name();
        let bundle = if is_counted { bundle } else { tokens.recount(bundle) };
        if bundle.tokens <= tokens_max { bundle } else { tokens.assemble(&approved.items(), &|_| false, tokens_max) }
    }

    fn excludes(&self, item: &Item) -> bool {
        item.tier != Tier::Index
            && (self.excluded.contains(&*item.source) || self.excluded_texts.contains(&item.text.hash))
    }
}

/// Whether the item is what the plan says of the tasks above or beside.
pub fn of_plan(item: &str) -> bool {
    item == context::BESIDE || item.starts_with(ABOVE)
}

/// Names what the plan says of a task above: with its key behind.
pub const ABOVE: &str = "plan:";

/// Whether a bundle that was approved is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approval {
    /// As long as it holds.
    Holds,
    /// The bundle is made from what is there now.
    Aside,
}

impl Approved {
    /// Whether all that is required now was looked at.
    fn holds(&self, items: &[Item]) -> bool {
        let known = |item: &Item| self.bundle.provenance.iter().any(|it| it.text == item.text.hash);
        items.iter().filter(|it| it.tier == Tier::Requires).all(known)
    }

    /// What is in it, as items for a smaller budget.
    fn items(&self) -> Vec<Item> {
        let parts = self.bundle.parts.iter().map(|part| Item {
            tier: part.tier,
            source: Arc::clone(&part.source),
            kind: Arc::clone(&part.kind),
            title: Arc::clone(&part.title),
            text: Text { hash: TextHash::of(&part.text), body: Arc::clone(&part.text) },
            score: 1.0,
        });
        parts.collect()
    }
}

/// The approved bundle among `choices`.
pub fn approved(choices: &[ContextChoice]) -> Result<Option<Approved>, Error> {
    let Some(choice) = choices.iter().find(|it| it.item == BUNDLE && it.choice == Choice::Approved) else {
        return Ok(None);
    };
    let body = choice.body.as_deref().unwrap_or_default();
    serde_json::from_str(body)
        .map(Some)
        .map_err(|error| Error::Approved { task: choice.task.to_string(), message: error.to_string() })
}

/// The results of tasks; one that has none yet is an item without a text, so that its absence shows.
pub async fn task_items(store: &Store, tasks: &[TaskId], tier: Tier) -> Result<Vec<Item>, Error> {
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    let rows = store.work(tasks).await?;
    let hashes: Vec<TextHash> = rows.iter().filter_map(|row| row.task.result).collect();
    let texts = store.texts(&hashes).await?;
    let items = rows.into_iter().map(|row| {
        let hash = row.task.result.filter(|_| row.task.status == TaskStatus::Completed);
        let text = hash.and_then(|hash| Some(Text { hash, body: Arc::clone(texts.get(&hash)?) }));
        let source = format!("task:{}", row.task.id).into();
        crate::sources::output(tier, source, row.task.title, text.unwrap_or_else(|| Text::from("")))
    });
    Ok(items.collect())
}

fn memory_item(choice: &ContextChoice) -> Item {
    Item {
        tier: Tier::Pinned,
        source: choice.item.as_str().into(),
        kind: "memory".into(),
        title: choice.title.as_str().into(),
        text: choice.body.as_deref().unwrap_or_default().into(),
        score: 1.0,
    }
}

/// How much of a bundle is in and how much is not.
pub fn in_and_out(provenance: &[context::Provenance]) -> (usize, usize) {
    let out = provenance.iter().filter(|it| it.form == Form::LeftOut).count();
    (provenance.len() - out, out)
}
