//! A person in charge of what a task is told: looking at a bundle before it is sent, deciding on it, approving it.
//!
//! **Invariant:** nothing here asks a model; a look changes nothing.
//! **Invariant:** an approved context is locked: decisions are refused until the approval is taken back.

mod choose;
mod look;
mod prompt;
mod snapshot;

pub use choose::ContextItem;
pub use look::{Preview, PreviewRequest};
pub use prompt::{PromptPart, RenderedPrompt};
pub use snapshot::{ContextChange, ContextDiff, Snapshot};

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crewline_engine::context::{Item, Tier};
use crewline_store::RunRow;
use crewline_types::{
    LinkKind, MicroUsd, ModelSpec, ProjectScope, RunId, Task, TaskId, TaskKind, TaskStatus, Text, TextHash,
};

use crate::{
    Error, Handle,
    assignment::{Post, RunBrief, TaskBrief, Work},
    planning,
    purse::Purse,
    settings::Settings,
    sources,
};

/// A task with everything its next attempt would be given.
struct Seen {
    task: Task,
    brief: TaskBrief,
    run: RunBrief,
    work: Work,
    sources: Vec<Item>,
    /// Keys of required tasks that have no result yet.
    missing: Vec<Arc<str>>,
    /// The model that is asked first.
    model: Option<Arc<ModelSpec>>,
}

impl Handle {
    async fn see(&self, run: RunId, task: TaskId) -> Result<Seen, Error> {
        let row = self.row(run).await?;
        let settings = Settings::of(&row)?;
        let work = self.store().work(&[task]).await?.pop();
        let work = work.ok_or_else(|| Error::NotFound { what: "task", id: task.to_string() })?;
        let (task, linked) = (work.task, work.linked);
        let hashes: Vec<TextHash> = linked.iter().filter_map(|(_, made)| made.result).chain(row.index).collect();
        let texts = self.store().texts(&hashes).await?;
        let text = |hash: TextHash| texts.get(&hash).map(|body| Text { hash, body: Arc::clone(body) });
        let mut items = Vec::new();
        if task.kind != TaskKind::Root {
            items.extend(row.index.and_then(text).map(sources::index));
        }
        let mut missing = Vec::new();
        for (kind, made) in &linked {
            let tier = match kind {
                LinkKind::Requires => Tier::Requires,
                LinkKind::Refers => Tier::Refers,
                LinkKind::Duplicates | LinkKind::RelatesTo => continue,
            };
            match made.result.filter(|_| made.status == TaskStatus::Completed).and_then(text) {
                Some(text) => {
                    let source = format!("task:{}", made.id).into();
                    items.push(sources::output(tier, source, Arc::clone(&made.title), text));
                }
                None if tier == Tier::Requires => missing.push(Arc::clone(&made.key)),
                None => {}
            }
        }
        let registry = self.deps().registry();
        let work = match task.kind {
            TaskKind::Root => {
                let rules = planning::planner_rules(&registry);
                let tasks_min = registry.policies().plan_tasks_min as usize;
                let schema = crewline_models::OutputSchema {
                    name: "plan".into(),
                    schema: crewline_engine::plan::schema(&rules, tasks_min),
                };
                Work::Plan { rules: Arc::new(rules), schema: Arc::new(schema), is_strict: settings.strict_plan }
            }
            TaskKind::Composite | TaskKind::Atomic | TaskKind::Synthesis => Work::Text,
        };
        let model = match settings.models.get(&*task.key) {
            Some(alias) => registry.model(alias.as_str()).cloned(),
            None => registry.chain(&task.role).first().cloned(),
        };
        let brief = TaskBrief::of(&task);
        Ok(Seen { brief, run: brief_of(&row, &settings), work, sources: items, missing, model, task })
    }
}

/// What attempts of the run share, for a look only: no money and no lease.
fn brief_of(row: &RunRow, settings: &Settings) -> RunBrief {
    RunBrief {
        run: row.id,
        post: Post::Manager { epoch: row.epoch },
        goal: Arc::clone(&row.goal),
        scope: ProjectScope::of(&row.project),
        mode: settings.mode(),
        models: BTreeMap::new(),
        approve: crate::Approve::default(),
        workspace: None,
        keys: HashMap::new(),
        purse: Purse::new(None, MicroUsd::ZERO, None),
        project_max: None,
        task_max: None,
    }
}
