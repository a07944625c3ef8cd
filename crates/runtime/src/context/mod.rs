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

use crewline_engine::context::{Item, Tier, done_before, neighbours, quoted};
use crewline_store::RunRow;
use crewline_types::{MicroUsd, ModelSpec, ProjectScope, RunId, Task, TaskId, TaskKind, TaskStatus, Text, TextHash};

use crate::{
    Error, Handle,
    assignment::Work,
    brief::{Post, RunBrief, TaskBrief},
    planning,
    purse::Purse,
    settings::Settings,
    sources::{self, Web},
    summary_call::SummaryCalls,
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
        let mut tasks = self.store().tasks(run).await?;
        let not_found = || Error::NotFound { what: "task", id: task.to_string() };
        let place = tasks.iter().position(|it| it.id == task).ok_or_else(not_found)?;
        let task = tasks[place].clone();
        tasks.retain(|it| it.kind != TaskKind::Root);
        let mut web = Web::of(tasks, &self.store().links(run).await?);
        let (mut items, mut missing) = (Vec::new(), Vec::new());
        if let Some(place) = web.places.get(&task.id).copied() {
            let linked = [(Tier::Requires, &web.needs), (Tier::Refers, &web.refers)];
            let linked = linked.map(|(tier, of)| of[place as usize].iter().map(move |it| (tier, *it)));
            let linked: Vec<(Tier, &Task)> =
                linked.into_iter().flatten().map(|(tier, it)| (tier, &web.tasks[it as usize])).collect();
            let beside = quoted(&web, place).into_iter().filter_map(|it| web.tasks[it as usize].result);
            let hashes = linked.iter().filter_map(|(_, made)| made.result).chain(row.index).chain(beside);
            let hashes: Vec<TextHash> = hashes.collect();
            let texts = self.store().texts(&hashes).await?;
            let text = |hash: TextHash| texts.get(&hash).map(|body| Text { hash, body: Arc::clone(body) });
            let done = done_before(&web, place);
            let is_told = |id: TaskId| web.places.get(&id).is_some_and(|it| done.contains(*it));
            items.extend(row.index.and_then(text).map(|index| sources::index_of(&index, is_told)));
            for (tier, made) in linked {
                match made.result.filter(|_| made.status == TaskStatus::Completed).and_then(text) {
                    Some(text) => {
                        let source = format!("task:{}", made.id).into();
                        items.push(sources::output(tier, source, Arc::clone(&made.title), text));
                    }
                    None if tier == Tier::Requires => missing.push(Arc::clone(&made.key)),
                    None => {}
                }
            }
            web.texts = texts;
            items.extend(neighbours(&web, place));
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
        cost_max: None,
        project_max: None,
        task_max: None,
        summaries: SummaryCalls::default(),
    }
}
