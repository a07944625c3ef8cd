//! Loads a run for its manager: claims it, then reads what is recorded.
//!
//! **Invariant:** nothing is read before the claim, so no earlier manager can write what we have not seen.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use crewline_store::{CallRow, Lineage, OfferState, OpenOffer, Origin, RunRow, Withdraw};
use crewline_types::{
    AttemptId, LinkKind, MicroUsd, ModelAlias, Role, Task, TaskDetails, TaskId, TaskKind, TaskStatus, Text,
    event::CallOutcome,
};

use crate::{
    Error,
    config::Dispatch,
    manager::Args,
    replay::{self, Reusable},
    settings::Settings,
};

/// What is recorded of a run.
#[derive(Debug)]
pub struct Loaded {
    /// The run's row.
    pub row: RunRow,
    /// The lease epoch of this claim.
    pub epoch: u64,
    /// What it was launched with.
    pub settings: Settings,
    /// The root task.
    pub root: Task,
    /// All others, by position.
    pub tasks: Vec<Task>,
    /// The links among them.
    pub links: Vec<(TaskId, TaskId, LinkKind)>,
    /// What people said about tasks.
    pub details: HashMap<TaskId, TaskDetails>,
    /// The results of completed tasks.
    pub results: HashMap<TaskId, Text>,
    /// INDEX.md as prompts see it.
    pub index: Option<Text>,
    /// Results of the run that this one replays, for tasks that are still open; by key.
    pub reusable: HashMap<Arc<str>, Reusable>,
    /// Attempts that a crash ended.
    pub lost: Vec<LostAttempt>,
    /// Calls for summaries that a crash cut off.
    pub summaries: Vec<CallRow>,
    /// Attempts that are offered to workers, or were claimed by one; where workers are given nothing, those they reported.
    pub offers: Vec<OpenOffer>,
    /// What all calls cost so far; those without a recorded answer at their worst case.
    pub spent: MicroUsd,
    /// Whether any call of the run was answered.
    pub has_answer: bool,
    /// The models that answered a call of the run.
    pub answered: HashSet<ModelAlias>,
    /// Ended calls without a price.
    pub unpriced: u64,
    /// Attempts started.
    pub steps: u32,
}

/// An attempt that is recorded as running and runs nowhere.
#[derive(Debug)]
pub struct LostAttempt {
    /// Its id.
    pub id: AttemptId,
    /// Who tried.
    pub role: Role,
    /// All its calls.
    pub calls: Vec<CallRow>,
}

/// Claims and loads the run of `args`.
pub async fn load(args: Args) -> Result<Box<Loaded>, Error> {
    let store = &args.store;
    let epoch = claim(&args).await?;
    let offers = open_offers(&args, epoch).await?;
    let row = store.run(args.run).await?.ok_or_else(|| Error::NotFound { what: "run", id: args.run.to_string() })?;
    let settings = Settings::of(&row)?;
    let mut tasks = store.tasks(args.run).await?;
    let root = tasks
        .iter()
        .position(|task| task.kind == TaskKind::Root)
        .map(|index| tasks.remove(index))
        .ok_or_else(|| Error::NotFound { what: "root task of run", id: args.run.to_string() })?;
    let links = store.links(args.run).await?;
    let details = store.details(args.run).await?;
    let steps = tasks.iter().chain([&root]).map(|task| task.attempts).sum();
    let calls: Vec<CallRow> = if steps > 0 { store.calls(args.run).await? } else { Vec::new() };
    let offered: HashSet<AttemptId> = offers.iter().map(|it| it.id).collect();
    let (results, index) = texts(&args, &tasks, &row).await?;
    let lost = lost_attempts(&root, &tasks, &calls, &offered);
    let is_cut_off = |call: &&CallRow| call.id.attempt.task == root.id && call.outcome.is_none();
    // Before there is a plan they are those of the attempt that makes it.
    let summaries = calls.iter().filter(|_| !tasks.is_empty()).filter(is_cut_off).cloned().collect();
    let reusable = match row.lineage {
        Some(Lineage { parent, origin: Origin::Replay }) => {
            let open: Vec<&Task> = tasks.iter().filter(|task| !task.status.is_final()).collect();
            if open.is_empty() { HashMap::new() } else { replay::reusable(store, parent, &open).await? }
        }
        Some(Lineage { origin: Origin::Fork, .. }) | None => HashMap::new(),
    };
    let mut loaded = Loaded {
        row,
        epoch,
        settings,
        root,
        tasks,
        links,
        details,
        results,
        index,
        reusable,
        lost,
        summaries,
        offers,
        spent: MicroUsd::ZERO,
        has_answer: false,
        answered: HashSet::new(),
        unpriced: 0,
        steps,
    };
    for call in calls {
        let cost = if call.outcome.is_some() || call.reply.is_some() { call.cost } else { call.reserved };
        loaded.spent += cost.unwrap_or(MicroUsd::ZERO);
        if call.outcome == Some(CallOutcome::Ok) {
            loaded.has_answer = true;
            loaded.answered.insert(call.model.as_str().into());
        }
        // Those of an attempt that is still out come with its report.
        if !offered.contains(&call.id.attempt) {
            loaded.unpriced += u64::from(cost.is_none());
        }
    }
    Ok(Box::new(loaded))
}

/// Takes the run of `args`; answers its new epoch. A run that others have brought to rest meanwhile is left to them.
pub async fn claim(args: &Args) -> Result<u64, crewline_store::Error> {
    let (lease, had) = (args.deps.limits.lease, args.had.load(Ordering::Relaxed));
    let epoch = args.store.claim_again(args.run, &args.node, lease, args.lock.claim(), had).await?;
    args.had.store(epoch, Ordering::Relaxed);
    Ok(epoch)
}

/// What workers have of the run. Who works on it alone uses what they reported and takes the rest back: they may be gone,
/// and what they go on to write must not meet what is made here. Before tasks are read, as workers begin attempts.
async fn open_offers(args: &Args, epoch: u64) -> Result<Vec<OpenOffer>, Error> {
    let store = &args.store;
    let offers = store.open_offers(args.run).await?;
    let is_reported = |it: &OpenOffer| matches!(it.state, OfferState::Reported(_));
    match args.deps.dispatch {
        Dispatch::Local if !offers.iter().all(is_reported) => {
            store.withdraw_offers(args.run, epoch, Withdraw::Unreported).await?;
            Ok(store.open_offers(args.run).await?)
        }
        Dispatch::Local | Dispatch::Queue => Ok(offers),
    }
}

/// Attempts that are recorded as running although nobody has them.
fn lost_attempts(root: &Task, tasks: &[Task], calls: &[CallRow], offered: &HashSet<AttemptId>) -> Vec<LostAttempt> {
    let mut lost: Vec<LostAttempt> = std::iter::once(root)
        .chain(tasks)
        .filter(|task| task.status == TaskStatus::InProgress)
        // A root task whose plan is recorded waits for its tasks; no attempt of it runs.
        .filter(|task| task.kind != TaskKind::Root || tasks.is_empty())
        .map(|task| LostAttempt {
            id: AttemptId { task: task.id, number: task.attempts },
            role: task.role.clone(),
            calls: Vec::new(),
        })
        .filter(|it| !offered.contains(&it.id))
        .collect();
    let places: HashMap<AttemptId, usize> = lost.iter().enumerate().map(|(place, it)| (it.id, place)).collect();
    for call in calls {
        if let Some(place) = places.get(&call.id.attempt) {
            lost[*place].calls.push(call.clone());
        }
    }
    lost
}

async fn texts(args: &Args, tasks: &[Task], row: &RunRow) -> Result<(HashMap<TaskId, Text>, Option<Text>), Error> {
    let mut hashes: Vec<_> =
        tasks.iter().filter(|task| task.status == TaskStatus::Completed).filter_map(|task| task.result).collect();
    hashes.extend(row.index);
    if hashes.is_empty() {
        return Ok((HashMap::new(), None));
    }
    let texts = args.store.texts(&hashes).await?;
    let text = |hash| texts.get(&hash).map(|body| Text { hash, body: body.clone() });
    let results = tasks.iter().filter_map(|task| Some((task.id, text(task.result?)?))).collect();
    Ok((results, row.index.and_then(text)))
}
