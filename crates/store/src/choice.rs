//! What a person decided on the contexts of tasks: pinned, excluded, approved.
//!
//! **Invariant:** a decision needs no claim on its run: it holds from the next attempt on, whoever makes it.
//! **Invariant:** one row per task and item; what is taken back stays as [`Choice::None`].

use std::collections::HashMap;

use crewline_types::{RunId, TaskId, Timestamp};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait as _};

use crate::{
    Error, Store,
    commit::task_id,
    entity,
    query::{id_of, numbers_of},
    sql::{Args, Bulk, Type},
};

/// Tasks in one statement.
const KEYS_MAX: usize = 512;

/// Records decisions: task id, item, choice, title, body, agent, time. The last one holds.
pub(crate) static INSERT_CHOICES: Bulk = Bulk::new(
    "INSERT INTO context_choices (task, item, choice, title, body, agent, created_at) \
     SELECT t.number, v.column2, v.column3, v.column4, v.column5, v.column6, v.column7 FROM ",
    &[Type::Text, Type::Text, Type::Text, Type::Text, Type::Text, Type::Text, Type::Int],
    " JOIN tasks AS t ON t.id = v.column1 WHERE v.column1 IS NOT NULL \
     ON CONFLICT (task, item) DO UPDATE SET choice = excluded.choice, title = excluded.title, body = excluded.body, \
     agent = excluded.agent, created_at = excluded.created_at",
);

/// What somebody decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// In the bundle, before all but INDEX.md.
    Pin,
    /// Never in the bundle.
    Exclude,
    /// An earlier decision is taken back.
    None,
    /// The bundle is as it shall be.
    Approved,
}

impl Choice {
    /// The name used in the database and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pin => "pin",
            Self::Exclude => "exclude",
            Self::None => "none",
            Self::Approved => "approved",
        }
    }

    /// The inverse of [`Self::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "pin" => Self::Pin,
            "exclude" => Self::Exclude,
            "none" => Self::None,
            "approved" => Self::Approved,
            _ => return None,
        })
    }
}

/// The item of [`Choice::Approved`].
pub const BUNDLE: &str = "bundle";

/// A decision on one item of a task's context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextChoice {
    /// The task.
    pub task: TaskId,
    /// `task:<id>`, `memory:<id>`, or [`BUNDLE`].
    pub item: String,
    /// What was decided.
    pub choice: Choice,
    /// What the item is, in a line.
    pub title: String,
    /// The text of a memory, or the JSON of an approved bundle.
    pub body: Option<String>,
    /// Who decided.
    pub agent: String,
    /// When.
    pub at: Timestamp,
}

pub(crate) fn add_choice(args: &mut Args, choice: &ContextChoice) {
    args.text(choice.task.as_str());
    args.text(&choice.item);
    args.word(choice.choice.as_str());
    args.text(&choice.title);
    args.text_or_null(choice.body.as_deref());
    args.word(&choice.agent);
    args.int(choice.at.0);
}

impl Store {
    /// Records decisions, each item of a task once, and says how many tasks were there.
    pub async fn choose(&self, choices: &[ContextChoice]) -> Result<u64, Error> {
        self.write_alone(&INSERT_CHOICES, choices, add_choice).await
    }

    /// What was decided on the context of a task, by item.
    pub async fn choices(&self, task: TaskId) -> Result<Vec<ContextChoice>, Error> {
        Ok(self.choices_of(&[task]).await?.remove(&task).unwrap_or_default())
    }

    /// What was decided on the contexts of these tasks, each by item; a task without decisions is left out.
    pub async fn choices_of(&self, tasks: &[TaskId]) -> Result<HashMap<TaskId, Vec<ContextChoice>>, Error> {
        let mut found = HashMap::<TaskId, Vec<ContextChoice>>::new();
        for chunk in tasks.chunks(KEYS_MAX) {
            // The last one again and again, so that a handful of statements serves any number of tasks.
            let padding = chunk.last().into_iter().cycle().take(chunk.len().next_power_of_two() - chunk.len());
            let tasks = entity::task::Entity::find()
                .select_only()
                .column(entity::task::Column::Number)
                .filter(entity::task::Column::Id.is_in(chunk.iter().chain(padding).map(TaskId::as_str)));
            let rows = entity::context_choice::Entity::find()
                .filter(entity::context_choice::Column::Task.in_subquery(tasks.clone().into_query()))
                .order_by_asc(entity::context_choice::Column::Item)
                .all(self.reader().await?)
                .await?;
            if rows.is_empty() {
                continue;
            }
            let named = tasks.column(entity::task::Column::Id);
            let named: Vec<(i64, String)> = named.into_tuple().all(self.reader().await?).await?;
            let ids: HashMap<i64, String> = named.into_iter().collect();
            for row in rows {
                let Some(id) = ids.get(&row.task) else { continue };
                let task = task_id(id)?;
                found.entry(task).or_default().push(row.into_domain(task)?);
            }
        }
        Ok(found)
    }

    /// What was decided on the contexts of a run, by task and item.
    pub async fn choices_of_run(&self, run: RunId) -> Result<Vec<ContextChoice>, Error> {
        let rows = entity::context_choice::Entity::find()
            .filter(entity::context_choice::Column::Task.in_subquery(numbers_of(run)))
            .order_by_asc(entity::context_choice::Column::Task)
            .order_by_asc(entity::context_choice::Column::Item)
            .all(self.reader().await?)
            .await?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let ids = self.ids(run).await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            let task = id_of(&ids, row.task)?;
            found.push(row.into_domain(task)?);
        }
        Ok(found)
    }
}
