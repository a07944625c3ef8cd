//! Pinning, excluding, and taking it back.

use std::sync::Arc;

use crewline_engine::context::BESIDE;
use crewline_store::{BUNDLE, Choice, ContextChoice};
use crewline_types::{MemoryId, ProjectScope, RunId, TaskId, TaskKind};

use crate::{Error, Found, Handle, curated::ABOVE, find::CANDIDATES_MAX, find::pick};

/// Memories of one page when one is looked for by the beginning of its id.
const PAGE: u32 = 1_024;
/// Characters of a memory's id that are needed at least.
const MEMORY_ID_MIN: usize = 4;
/// Characters of a memory that stand for its title.
const TITLE_MAX: usize = 60;

/// What a person named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextItem {
    /// The result of a task.
    Task {
        /// The task.
        id: TaskId,
        /// Its title.
        title: String,
    },
    /// What the plan says of a task above, or of the tasks beside.
    Plan {
        /// Its name in the bundle.
        name: String,
    },
    /// A memory.
    Memory {
        /// Its id.
        id: MemoryId,
        /// Its beginning.
        title: String,
        /// Its text.
        text: Arc<str>,
    },
}

impl Handle {
    /// Decides that the item is in the context of a task (`pin`), is not in it (`exclude`), or neither. Answers the item's
    /// name in the bundle.
    pub async fn curate(
        &self,
        run: RunId,
        task: TaskId,
        item: &str,
        choice: Choice,
        agent: &str,
    ) -> Result<String, Error> {
        let choices = self.store().choices(task).await?;
        if choices.iter().any(|it| it.choice == Choice::Approved) {
            let tasks = self.store().tasks(run).await?;
            let key = tasks.iter().find(|it| it.id == task).map_or_else(|| task.to_string(), |it| it.key.to_string());
            return Err(Error::ContextLocked { run, task: key });
        }
        // What is taken back may be gone by now.
        if choice == Choice::None
            && let Some(known) = choices.iter().find(|it| it.item == item.trim())
        {
            self.decide(task, &known.item, choice, (&known.title, None), agent).await?;
            return Ok(known.item.clone());
        }
        let (name, title, body) = match self.context_item(run, item).await? {
            ContextItem::Task { id, .. } if id == task => {
                return Err(Error::ContextItem { message: "a task is not told what it made itself".into() });
            }
            ContextItem::Task { id, title } => (format!("task:{id}"), title, None),
            ContextItem::Plan { name } => (name, "of the plan".to_owned(), None),
            ContextItem::Memory { id, title, text } => (format!("memory:{id}"), title, Some(text.to_string())),
        };
        let body = body.filter(|_| choice != Choice::None);
        self.decide(task, &name, choice, (&title, body), agent).await?;
        Ok(name)
    }

    /// Takes an approval back; `false` when there was none.
    pub async fn revoke_context(&self, task: TaskId, agent: &str) -> Result<bool, Error> {
        let is_approved = self.store().choices(task).await?.iter().any(|it| it.choice == Choice::Approved);
        if is_approved {
            self.decide(task, BUNDLE, Choice::None, ("the approved bundle", None), agent).await?;
        }
        Ok(is_approved)
    }

    /// What was decided on the context of a task, by item.
    pub async fn context_choices(&self, task: TaskId) -> Result<Vec<ContextChoice>, Error> {
        Ok(self.store().choices(task).await?)
    }

    pub(super) async fn decide(
        &self,
        task: TaskId,
        item: &str,
        choice: Choice,
        (title, body): (&str, Option<String>),
        agent: &str,
    ) -> Result<(), Error> {
        let row = ContextChoice {
            task,
            item: item.to_owned(),
            choice,
            title: title.to_owned(),
            body,
            agent: agent.to_owned(),
            at: self.deps().clock.now(),
        };
        match self.store().choose(&[row]).await? {
            0 => Err(Error::NotFound { what: "task", id: task.to_string() }),
            _ => Ok(()),
        }
    }

    /// The item that `text` names: a task of the run by key or id, a task of another run of the project, or a memory of the
    /// project by the beginning of its id.
    pub async fn context_item(&self, run: RunId, text: &str) -> Result<ContextItem, Error> {
        let text = text.trim();
        if matches!(text, "index" | "INDEX.md") {
            let message = "INDEX.md is in every bundle, before everything else".into();
            return Err(Error::ContextItem { message });
        }
        if let Some(id) = text.strip_prefix("memory:") {
            return self.memory_item(run, id).await?.ok_or_else(|| not_found("memory", text));
        }
        if text == BESIDE {
            return Ok(ContextItem::Plan { name: text.to_owned() });
        }
        let tasks = self.store().tasks(run).await?;
        if let Some(above) = text.strip_prefix(ABOVE) {
            let id = pick(&tasks, above)?;
            let key = tasks.iter().find(|it| it.id == id && it.kind == TaskKind::Composite).map(|it| &it.key);
            let key = key.ok_or_else(|| Error::ContextItem { message: format!("`{above}` has no task below it") })?;
            return Ok(ContextItem::Plan { name: format!("{ABOVE}{key}") });
        }
        let name = text.strip_prefix("task:").unwrap_or(text);
        match pick(&tasks, name) {
            Ok(id) => {
                let title = tasks.iter().find(|it| it.id == id).map(|it| it.title.to_string()).unwrap_or_default();
                return Ok(ContextItem::Task { id, title });
            }
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        match self.find(name).await {
            Ok(Found::Task(other, id)) if self.row(other).await?.project == self.row(run).await?.project => {
                let title = self.store().work(&[id]).await?.pop().map(|it| it.task.title.to_string());
                Ok(ContextItem::Task { id, title: title.unwrap_or_default() })
            }
            Ok(Found::Task(..) | Found::Run(_)) | Err(Error::NotFound { .. }) => {
                let memory = if name.len() == text.len() { self.memory_item(run, name).await? } else { None };
                memory.ok_or_else(|| not_found("task or memory", text))
            }
            Err(error) => Err(error),
        }
    }

    /// The memory of the run's project whose id begins like that.
    async fn memory_item(&self, run: RunId, prefix: &str) -> Result<Option<ContextItem>, Error> {
        let prefix = prefix.to_ascii_lowercase();
        if prefix.len() < MEMORY_ID_MIN || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(None);
        }
        let scope = ProjectScope::of(&self.row(run).await?.project);
        let mut found = Vec::new();
        let mut after = 0;
        loop {
            let page = self.store().memories(&scope, after, PAGE).await?;
            let is_last = page.len() < PAGE as usize;
            after = page.last().map_or(after, |(seq, _)| *seq);
            found.extend(page.into_iter().map(|(_, it)| it).filter(|it| it.id.to_string().starts_with(&prefix)));
            if is_last {
                break;
            }
        }
        if found.len() > 1 {
            let candidates = found.iter().take(CANDIDATES_MAX as usize).map(|it| it.id.to_string()).collect();
            return Err(Error::Ambiguous { prefix, candidates });
        }
        Ok(found.pop().map(|record| ContextItem::Memory {
            id: record.id,
            title: record.text.lines().next().unwrap_or_default().chars().take(TITLE_MAX).collect(),
            text: record.text,
        }))
    }
}

fn not_found(what: &'static str, text: &str) -> Error {
    Error::NotFound { what, id: text.chars().take(40).collect() }
}
