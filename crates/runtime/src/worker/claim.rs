//! What a worker does before an attempt begins: it claims what is offered, and reads what is needed for it.
//!
//! **Invariant:** what is claimed is answered, or given back.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crewline_engine::{
    context::{Item, Tier},
    replay::index_hash,
};
use crewline_models::Models;
use crewline_store::{Offer, RunRow, WorkRow};
use crewline_types::{AttemptId, MicroUsd, ProjectScope, RunId, Task, TaskId, TaskStatus, Text, TextHash};

use super::Args;
use crate::{
    Error,
    brief::{Post, RunBrief, TaskBrief},
    chapters,
    offer::Told,
    purse::Purse,
    replay::{self, Given},
    settings::Settings,
    sources,
    summary_call::SummaryCalls,
};

/// A claimed attempt with all it needs.
pub struct Claimed {
    pub(super) offer: Offer,
    pub(super) run: Arc<RunBrief>,
    pub(super) task: TaskBrief,
    pub(super) sources: Vec<Item>,
    pub(super) input_hash: TextHash,
    pub(super) models: Models,
}

/// What came of a claim.
#[derive(Default)]
pub struct Claim {
    /// What can be begun.
    pub(super) claimed: Vec<Claimed>,
    /// Runs that can not be read here; others may be able to.
    pub(super) unreadable: Vec<RunId>,
}

/// Claims up to `max` attempts, of none of the runs `not_of`, and reads what they need. What can not be begun is given back:
/// nobody would renew it, and its lease would end as if it had been lost.
pub(super) async fn claim(
    args: &Args,
    runs: &HashMap<RunId, Arc<RunBrief>>,
    not_of: &[RunId],
    max: usize,
) -> Result<Claim, Error> {
    let store = &args.deps.store;
    let max = u32::try_from(max).unwrap_or(u32::MAX);
    let (roles, lease) = (args.roles.as_deref(), args.deps.limits.lease);
    let offers = store.claim_offers_not_of(not_of, &args.node, roles, max, lease).await?;
    if offers.is_empty() {
        return Ok(Claim::default());
    }
    let mut left: HashSet<AttemptId> = offers.iter().map(|offer| offer.id).collect();
    let claimed = read(args, runs, offers).await;
    for one in claimed.iter().flat_map(|it| &it.claimed) {
        left.remove(&one.offer.id);
    }
    if !left.is_empty() {
        let left: Vec<AttemptId> = left.into_iter().collect();
        if let Err(error) = store.put_back_claims(&args.node, &left).await {
            tracing::warn!(error.code = error.code(), %error, "claims are given back by the end of their leases");
        }
    }
    claimed
}

/// What the attempts that were claimed together need.
#[derive(Default)]
struct Known {
    /// The runs that can be read.
    runs: HashMap<RunId, KnownRun>,
    tasks: HashMap<TaskId, Task>,
    /// Results.
    texts: HashMap<TextHash, Arc<str>>,
}

struct KnownRun {
    brief: Arc<RunBrief>,
    /// INDEX.md, with its name.
    index: Option<(TextHash, Text)>,
}

/// Reads what claimed attempts need; those of a run that can not be read are left out.
async fn read(args: &Args, runs: &HashMap<RunId, Arc<RunBrief>>, mut offers: Vec<Offer>) -> Result<Claim, Error> {
    let mut known = Known::default();
    let mut unreadable = Vec::new();
    // Read each time: settings and INDEX.md change while the run goes on.
    for run in offers.iter().map(|offer| offer.run).collect::<HashSet<RunId>>() {
        match read_run(args, run, runs.get(&run)).await {
            Ok(read) => {
                known.runs.insert(run, read);
            }
            Err(error) if error.is_retryable() => return Err(error),
            Err(error) => {
                tracing::error!(run_id = %run, error.code = error.code(), %error, "the run is left to other workers");
                unreadable.push(run);
            }
        }
    }
    offers.retain(|offer| known.runs.contains_key(&offer.run));
    let mut told = known.read_tasks(args, &offers).await?;
    let models = args.deps.models.pinned();
    let claimed = offers.into_iter().filter_map(|offer| {
        let told = told.remove(&offer.id)?;
        known.claimed(offer, told, &models)
    });
    Ok(Claim { claimed: claimed.collect(), unreadable })
}

async fn read_run(args: &Args, run: RunId, known: Option<&Arc<RunBrief>>) -> Result<KnownRun, Error> {
    let store = &args.deps.store;
    let row = store.run(run).await?.ok_or_else(|| Error::NotFound { what: "run", id: run.to_string() })?;
    let brief = brief_of(args, &row, known).await?;
    let Some(hash) = row.index else { return Ok(KnownRun { brief, index: None }) };
    let index = store.texts(&[hash]).await?.remove(&hash).map(|body| {
        let name = index_hash(&chapters::without(&body), |id| brief.keys.get(&id).map(|key| &**key));
        (name, Text { hash, body })
    });
    Ok(KnownRun { brief, index })
}

impl Known {
    /// Reads the tasks of `offers`, those they are told of, and the results of these; answers what each is told.
    async fn read_tasks(&mut self, args: &Args, offers: &[Offer]) -> Result<HashMap<AttemptId, Told>, Error> {
        let store = &args.deps.store;
        let ids: Vec<TaskId> = offers.iter().map(|offer| offer.id.task).collect();
        let mut rows: HashMap<TaskId, WorkRow> =
            store.work(&ids).await?.into_iter().map(|row| (row.task.id, row)).collect();
        let mut told = HashMap::new();
        for offer in offers {
            let Some(row) = rows.remove(&offer.id.task) else { continue };
            // A manager of an older version leaves it to us to follow the links.
            told.insert(offer.id, Told::read(&offer.told).unwrap_or_else(|_| Told::of_links(&row)));
            self.tasks.extend(row.linked.into_iter().map(|(_, task)| (task.id, task)));
            self.tasks.insert(row.task.id, row.task);
        }
        let named: HashSet<TaskId> =
            told.values().flat_map(|it| it.requires.iter().chain(&it.refers)).copied().collect();
        // What follows from the tree is in no link of the task.
        let more: Vec<TaskId> = named.iter().filter(|id| !self.tasks.contains_key(*id)).copied().collect();
        if !more.is_empty() {
            self.tasks.extend(store.work(&more).await?.into_iter().map(|row| (row.task.id, row.task)));
        }
        let hashes: HashSet<TextHash> = named.iter().filter_map(|id| self.done(*id)?.result).collect();
        if !hashes.is_empty() {
            let hashes: Vec<TextHash> = hashes.into_iter().collect();
            self.texts = store.texts(&hashes).await?;
        }
        Ok(told)
    }

    fn done(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get(&id).filter(|task| task.status == TaskStatus::Completed)
    }

    fn claimed(&self, offer: Offer, told: Told, models: &Models) -> Option<Claimed> {
        let row = self.tasks.get(&offer.id.task)?;
        let KnownRun { brief: run, index } = self.runs.get(&offer.run)?;
        let index_item = index.as_ref().map(|(_, text)| sources::index_of(text, |id| told.done.contains(&id)));
        let mut sources: Vec<Item> = index_item.into_iter().collect();
        for (tier, made) in [(Tier::Requires, &told.requires), (Tier::Refers, &told.refers)] {
            sources.extend(made.iter().filter_map(|id| self.output(tier, *id)));
        }
        sources.extend(told.around);
        let task = TaskBrief::of(row);
        run.purse.begin(task.id, row.cost);
        let given = Given {
            goal: &run.goal,
            index: index.as_ref().map(|(name, _)| *name),
            above: told.above,
            requires: self.results(run, &told.requires),
            refers: self.results(run, &told.refers),
        };
        let input_hash = replay::input_hash(&models.registry(), &task, given);
        Some(Claimed { offer, run: Arc::clone(run), task, sources, input_hash, models: models.clone() })
    }

    fn output(&self, tier: Tier, id: TaskId) -> Option<Item> {
        let task = self.done(id)?;
        let hash = task.result?;
        let text = Text { hash, body: Arc::clone(self.texts.get(&hash)?) };
        Some(sources::output(tier, format!("task:{}", task.id).into(), Arc::clone(&task.title), text))
    }

    /// The results of tasks, by their keys.
    fn results(&self, run: &RunBrief, ids: &[TaskId]) -> Vec<(&str, TextHash)> {
        let name = |id: &TaskId| {
            let task = self.done(*id)?;
            let hash = task.result?;
            let text = self.texts.get(&hash).map(|body| &**body);
            let key = |id| run.keys.get(&id).map(|key| &**key);
            Some((&*task.key, replay::result_hash(task.kind, hash, text, key)))
        };
        ids.iter().filter_map(name).collect()
    }
}

async fn brief_of(args: &Args, row: &RunRow, known: Option<&Arc<RunBrief>>) -> Result<Arc<RunBrief>, Error> {
    let settings = Settings::of(row)?;
    let cost_max = settings.limits.cost_max;
    let project_max = settings.limits.project_cost_max;
    let task_max = settings.limits.task_cost_max;
    if let Some(known) = known
        && known.models == settings.models
        && known.approve == settings.approve
        && known.mode == settings.mode()
        && known.project_max == project_max
        && known.task_max == task_max
        && known.cost_max == cost_max
    {
        return Ok(Arc::clone(known));
    }
    if row.registry != args.deps.registry().hash() {
        tracing::warn!(run_id = %row.id, "the run began with another registry than this worker's");
    }
    Ok(Arc::new(RunBrief {
        run: row.id,
        post: Post::Worker { node: Arc::clone(&args.node) },
        goal: Arc::clone(&row.goal),
        scope: ProjectScope::of(&row.project),
        mode: settings.mode(),
        approve: settings.approve,
        workspace: settings.workspace.as_deref().map(Into::into),
        models: settings.models,
        keys: args.deps.store.keys(row.id).await?,
        // The database counts what all machines spend; this one has no limit of its own.
        purse: Purse::new(None, MicroUsd::ZERO, task_max),
        cost_max,
        project_max,
        task_max,
        summaries: SummaryCalls::default(),
    }))
}
