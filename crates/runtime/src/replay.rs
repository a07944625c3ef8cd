//! Making a new run from a recorded one: what is taken over, what is made anew.
//!
//! A replay takes over every result that was made from the same inputs; a fork takes what came before a task as it is.
//! What is taken over is in the new run from its first transaction. A task whose inputs depend on what runs anew is looked
//! at again when its turn comes (see `manager::reuse`).
//!
//! **Invariant:** the recorded run is only read.
//! **Invariant:** tasks are matched by their key; ids are new, and INDEX.md names the new ones.
//! **Invariant:** the name of an attempt's inputs is made in one place, for the attempt that runs and for the one that is
//! compared with it.

mod edit;
mod rows;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crewline_engine::{
    context::{Plan, Tier, above_hash, kept},
    replay::{self, Inputs, Node, Record, Rule, Verdict},
};
use crewline_models::Registry;
use crewline_store::{AttemptRow, AttemptStatus, ContextChoice, ContextRow, Lineage, Origin, RunRow, Store};
use crewline_types::{LinkKind, ModelAlias, RunId, Task, TaskId, TaskKind, TaskStatus, Text, TextHash};

use crate::{
    Error, Handle, Overrides, brief::TaskBrief, chapters, find::pick, handle::Why, settings::Settings, sources::Web,
};

pub use edit::Edit;
pub use rows::end_of_copy;

/// What tasks are given besides their own fields.
#[derive(Debug, Clone)]
pub struct Given<'a> {
    /// The run's goal.
    pub goal: &'a str,
    /// INDEX.md, named by [`replay::index_hash`].
    pub index: Option<TextHash>,
    /// What the tasks above it say, named by [`crewline_engine::context::above_hash`].
    pub above: Option<TextHash>,
    /// Keys and results of the tasks it requires.
    pub requires: Vec<(&'a str, TextHash)>,
    /// Keys and results of the tasks it refers to, as far as they are there.
    pub refers: Vec<(&'a str, TextHash)>,
}

/// Names everything an attempt of `task` depends on but what memory recalls.
pub fn input_hash(registry: &Registry, task: &TaskBrief, given: Given<'_>) -> TextHash {
    replay::input_hash(&Inputs {
        key: &task.key,
        kind: task.kind,
        role: &task.role,
        instructions: crate::attempt::instructions(registry, &task.role),
        title: &task.title,
        description: &task.description,
        criteria: &task.success_criteria,
        goal: given.goal,
        index: given.index,
        above: given.above,
        requires: given.requires,
        refers: given.refers,
    })
}

/// Names a result that is given to another task: what is put together from the tasks below one names these by their ids, which
/// are new in every run.
pub fn result_hash<'a>(
    kind: TaskKind,
    hash: TextHash,
    text: Option<&str>,
    name: impl Fn(TaskId) -> Option<&'a str>,
) -> TextHash {
    match (kind, text) {
        (TaskKind::Composite, Some(text)) => replay::index_hash(text, name),
        (TaskKind::Composite | TaskKind::Root | TaskKind::Atomic | TaskKind::Synthesis, _) => hash,
    }
}

/// What a new run takes over of a recorded one.
#[derive(Debug, Clone)]
pub struct ReplayRequest {
    /// Whether it is verified, or taken as it is.
    pub origin: Origin,
    /// The tasks from which on it may differ: keys, or the beginnings of ids.
    pub from: Vec<String>,
    /// What is changed of the one task of `from`.
    pub edits: Vec<Edit>,
    /// The only model that is asked for the tasks of `from`; they run anew in any case.
    pub model: Option<ModelAlias>,
    /// What else differs from the recorded run.
    pub overrides: Overrides,
}

/// A new run that was made from a recorded one.
#[derive(Debug, Clone, Copy)]
pub struct Replayed {
    /// The new run.
    pub run: RunId,
    /// Tasks whose results were taken over.
    pub reused: usize,
    /// Tasks that run, unless their inputs turn out to be the same.
    pub open: usize,
}

/// A task whose recorded inputs are others than it would be given now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Its name inside the plan.
    pub key: String,
    /// What differs.
    pub why: String,
}

impl Handle {
    /// Makes a new run from `parent` and starts it.
    pub async fn replay(&self, parent: RunId, request: &ReplayRequest) -> Result<Replayed, Error> {
        let place = self.admit()?;
        self.check_model(request.model.as_ref())?;
        let recorded = Recorded::read(self.store(), parent).await?;
        let settings = settings_of(&recorded, request)?;
        self.refuse_unpriced(&settings.limits)?;
        let from = recorded.places(&request.from)?;
        let mut tasks = recorded.tasks.clone();
        edit::apply(&request.edits, &from, &mut tasks)?;
        let deps = self.deps();
        let verdicts = recorded.decide(&deps.registry(), &tasks, &from, request)?;
        let made = rows::make(
            &recorded,
            &tasks,
            &verdicts,
            rows::New {
                settings: &settings,
                registry: deps.registry().hash(),
                at: deps.clock.now(),
                ids: &mut self.ids(),
            },
        );
        let lock = self.lock(made.run.id)?;
        let lineage = Lineage { parent, origin: request.origin };
        let owner = Some((&*self.node(), deps.limits.lease));
        let events = self.store().create_run_with(&made.run, &made.root, Some(lineage), owner, &made.change).await?;
        self.publish(events);
        self.start_manager(made.run.id, lock, Why::Admitted(place)).await?;
        let reused = verdicts.iter().filter(|it| **it == Verdict::Reuse).count();
        Ok(Replayed { run: made.run.id, reused, open: verdicts.len() - reused })
    }
}

fn settings_of(recorded: &Recorded, request: &ReplayRequest) -> Result<Settings, Error> {
    let mut settings = Settings::of(&recorded.row)?;
    settings.stop_after_plan = false;
    settings.change(&request.overrides);
    if let Some(model) = &request.model {
        let places = recorded.places(&request.from)?;
        settings.models.extend(places.iter().map(|place| (recorded.tasks[*place].key.to_string(), model.clone())));
    }
    Ok(settings)
}

/// What is recorded of a run.
struct Recorded {
    row: RunRow,
    root: Task,
    /// All others, by position.
    tasks: Vec<Task>,
    links: Vec<(TaskId, TaskId, LinkKind)>,
    index: Option<Text>,
    /// The results themselves: the new run writes them again, so that no pruning of this one takes them away.
    texts: Vec<Text>,
    /// The attempts that made results.
    attempts: HashMap<TaskId, AttemptRow>,
    /// What they were told.
    contexts: HashMap<TaskId, ContextRow>,
    /// What a person decided on what they are told.
    choices: Vec<ContextChoice>,
}

impl Recorded {
    async fn read(store: &Store, run: RunId) -> Result<Self, Error> {
        let row = store.run(run).await?.ok_or_else(|| Error::NotFound { what: "run", id: run.to_string() })?;
        let mut tasks = store.tasks(run).await?;
        let root = tasks.iter().position(|task| task.kind == TaskKind::Root).map(|place| tasks.remove(place));
        let Some(root) = root.filter(|_| !tasks.is_empty()) else { return Err(Error::NoPlan { run }) };
        tasks.retain(|task| !is_deleted(task));
        let links = store.links(run).await?;
        let index = match row.index {
            Some(hash) => store.texts(&[hash]).await?.remove(&hash).map(|body| Text { hash, body }),
            None => None,
        };
        let (attempts, contexts) = results(store, run).await?;
        let hashes: Vec<TextHash> = tasks.iter().filter_map(|task| task.result).collect();
        let texts = store.texts(&hashes).await?.into_iter().map(|(hash, body)| Text { hash, body }).collect();
        let choices = store.choices_of_run(run).await?;
        Ok(Self { row, root, tasks, links, index, texts, attempts, contexts, choices })
    }

    /// The places of the tasks that are named.
    fn places(&self, names: &[String]) -> Result<Vec<usize>, Error> {
        let mut places = Vec::with_capacity(names.len());
        for name in names {
            let text = name.trim();
            if text == &*self.root.key || (text.len() > 2 && self.root.id.as_str().starts_with(text)) {
                return Err(Error::NotReplayable { run: self.row.id });
            }
            let id = pick(&self.tasks, text)?;
            places.extend(self.tasks.iter().position(|task| task.id == id));
        }
        places.sort_unstable();
        places.dedup();
        Ok(places)
    }

    /// What becomes of each task; `tasks` are the recorded ones with what was edited.
    fn decide(
        &self,
        registry: &Registry,
        tasks: &[Task],
        from: &[usize],
        request: &ReplayRequest,
    ) -> Result<Vec<Verdict>, Error> {
        let web = Web::of(tasks.to_vec(), &self.links);
        let key = |id| web.places.get(&id).map(|place| &*self.tasks[*place as usize].key);
        let index = self.index.as_ref().map(|text| replay::index_hash(&chapters::without(&text.body), key));
        let texts: HashMap<TextHash, &str> = self.texts.iter().map(|text| (text.hash, &*text.body)).collect();
        let result = |place: &u32| {
            let made = &self.tasks[*place as usize];
            let hash = made.result?;
            Some((&*made.key, result_hash(made.kind, hash, texts.get(&hash).copied(), key)))
        };
        let was_told = |place: &u32, told: &Referred| {
            let made = &self.tasks[*place as usize];
            made.result.is_some_and(|hash| told.has(made.kind, &made.title, hash))
        };
        let mut nodes = Vec::with_capacity(tasks.len());
        for (place, task) in tasks.iter().enumerate() {
            let told = self.contexts.get(&task.id).map(Referred::of).unwrap_or_default();
            let given = Given {
                goal: &self.row.goal,
                index,
                above: u32::try_from(place).ok().and_then(|place| above_hash(&web, place)),
                requires: web.needs[place].iter().filter_map(result).collect(),
                // One that had no result yet when the task ran was not told of.
                refers: web.refers[place].iter().filter(|it| was_told(it, &told)).filter_map(result).collect(),
            };
            let record = match self.attempts.get(&task.id).filter(|_| task.status == TaskStatus::Completed) {
                // What was edited shows in what is put together from the tasks below: that is done again, which costs nothing.
                None if task.kind == TaskKind::Composite && !request.edits.is_empty() => Record::None,
                // What a person made, or let count as done, is as good as it was.
                None if task.status == TaskStatus::Completed => Record::Same,
                None => Record::None,
                Some(attempt) if is_curated_since(&self.choices, attempt) => Record::Other,
                Some(attempt) if attempt.input_hash == Some(input_hash(registry, &TaskBrief::of(task), given)) => {
                    Record::Same
                }
                Some(_) => Record::Other,
            };
            let is_forced = request.model.is_some() && from.contains(&place);
            nodes.push(Node { needs: [&*web.needs[place], &*web.refers[place]].concat(), record, is_forced });
        }
        let mut from: Vec<u32> = from.iter().filter_map(|place| u32::try_from(*place).ok()).collect();
        if !request.edits.is_empty() {
            // The tasks below one are told what it says, so they may differ when that is edited.
            let may_differ = |place: &u32| is_below(&web, *place, &from);
            let below: Vec<u32> = web.places.values().copied().filter(may_differ).collect();
            from.extend(below);
            from.sort_unstable();
            from.dedup();
        }
        let rule = match request.origin {
            Origin::Replay => Rule::Verify,
            Origin::Fork => Rule::Trust,
        };
        replay::decide(&nodes, &from, rule).map_err(|others| Error::Mismatch {
            run: self.row.id,
            tasks: others.iter().map(|place| self.mismatch(*place as usize, registry)).collect(),
        })
    }

    fn mismatch(&self, place: usize, registry: &Registry) -> Mismatch {
        let task = &self.tasks[place];
        if self.attempts.get(&task.id).is_some_and(|attempt| is_curated_since(&self.choices, attempt)) {
            let why = "what a person decided on its context has changed since".to_owned();
            return Mismatch { key: task.key.to_string(), why };
        }
        let has_hash = self.attempts.get(&task.id).is_some_and(|attempt| attempt.input_hash.is_some());
        let why = if !has_hash {
            "the version that made it did not record its inputs".to_owned()
        } else if self.row.registry == registry.hash() {
            "INDEX.md or a result that it was given has changed since".to_owned()
        } else {
            format!("the instructions of role `{}` in the registry have changed", task.role)
        };
        Mismatch { key: task.key.to_string(), why }
    }
}

/// Whether any of `above` is above the task, at whatever level.
fn is_below(web: &Web, place: u32, above: &[u32]) -> bool {
    let parent = |place: u32| web.place(place).and_then(|it| it.parent);
    // The tree is shallower than the list is long.
    std::iter::successors(parent(place), |at| parent(*at)).take(web.tasks.len()).any(|it| above.contains(&it))
}

/// Whether a person deleted the task: it is none of a new run. What was cancelled with its run is.
fn is_deleted(task: &Task) -> bool {
    task.status == TaskStatus::Cancelled && task.reason.as_deref().is_some_and(|it| it.starts_with("deleted by "))
}

/// Whether a person changed what the task is told after the attempt had begun.
fn is_curated_since(choices: &[ContextChoice], attempt: &AttemptRow) -> bool {
    choices.iter().any(|choice| choice.task == attempt.id.task && choice.at > attempt.started_at)
}

/// The attempts of `run` that made results, and what they were told.
async fn results(
    store: &Store,
    run: RunId,
) -> Result<(HashMap<TaskId, AttemptRow>, HashMap<TaskId, ContextRow>), Error> {
    // In the order of their numbers: the last one counts.
    let attempts: HashMap<TaskId, AttemptRow> = store
        .attempts(run)
        .await?
        .into_iter()
        .filter(|attempt| attempt.status == AttemptStatus::Succeeded)
        .map(|attempt| (attempt.id.task, attempt))
        .collect();
    let contexts = store.contexts_of_run(run).await?.into_iter();
    let contexts = contexts
        .filter(|context| attempts.get(&context.id.task).is_some_and(|attempt| attempt.id == context.id))
        .map(|context| (context.id.task, context))
        .collect();
    Ok((attempts, contexts))
}

/// A recorded result that a task of a replay may take over when its inputs are the same.
#[derive(Debug, Clone)]
pub struct Reusable {
    /// The task that made it.
    pub from: TaskId,
    /// Names what it was made from.
    pub input: TextHash,
    /// The result.
    pub text: Text,
    /// The model that made it.
    pub model: String,
    /// What its attempt was told.
    pub context: Option<ContextRow>,
    /// What of that its task refers to.
    pub referred: Referred,
}

/// The results of the run that a replay was made from, by key: only of tasks that are open in the replay.
pub async fn reusable(store: &Store, parent: RunId, open: &[&Task]) -> Result<HashMap<Arc<str>, Reusable>, Error> {
    let (attempts, mut contexts) = results(store, parent).await?;
    let choices = store.choices_of_run(parent).await?;
    let made: HashMap<Arc<str>, Task> =
        store.tasks(parent).await?.into_iter().map(|task| (Arc::clone(&task.key), task)).collect();
    let made: Vec<&Task> = open.iter().filter_map(|task| made.get(&task.key)).collect();
    let hashes: Vec<TextHash> = made.iter().filter_map(|task| task.result).collect();
    let texts = store.texts(&hashes).await?;
    let found = made.into_iter().filter_map(|task| {
        let attempt = attempts.get(&task.id).filter(|attempt| !is_curated_since(&choices, attempt))?;
        let hash = task.result.filter(|_| task.status == TaskStatus::Completed)?;
        let context = contexts.remove(&task.id);
        let found = Reusable {
            from: task.id,
            input: attempt.input_hash?,
            text: Text { hash, body: Arc::clone(texts.get(&hash)?) },
            model: attempt.model.clone(),
            referred: context.as_ref().map(Referred::of).unwrap_or_default(),
            context,
        };
        Some((Arc::clone(&task.key), found))
    });
    Ok(found.collect())
}

/// The results that an attempt was told of as ones that its task refers to: no order waits for these, so how many there
/// were depended on who was faster.
#[derive(Debug, Clone, Default)]
pub struct Referred {
    texts: HashSet<TextHash>,
    titles: HashSet<Arc<str>>,
}

impl Referred {
    fn of(context: &ContextRow) -> Self {
        // A context that can not be read names nothing; the inputs then do not match.
        let items = kept::read(&context.items).unwrap_or_default();
        let items = items.into_iter().filter(|item| item.tier == Tier::Refers);
        let (texts, titles) = items.map(|item| (item.text, item.title)).unzip();
        Self { texts, titles }
    }

    /// Whether a result is one of them. One that was put together names the tasks of its own run, so its text differs from run
    /// to run.
    pub fn has(&self, kind: TaskKind, title: &str, result: TextHash) -> bool {
        self.texts.contains(&result) || (kind == TaskKind::Composite && self.titles.contains(title))
    }
}
