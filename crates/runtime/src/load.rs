//! Loads a run for its manager: claims it, then reads what is recorded.
//!
//! **Invariant:** nothing is read before the claim, so no earlier manager can write what we have not seen.

use std::collections::HashMap;

use crewline_store::{CallRow, Claim, RunRow};
use crewline_types::{CallId, LinkKind, MicroUsd, Task, TaskId, TaskKind, TaskStatus, Text};

use crate::{Error, manager::Args, settings::Settings};

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
    /// The results of completed tasks.
    pub results: HashMap<TaskId, Text>,
    /// INDEX.md as prompts see it.
    pub index: Option<Text>,
    /// Calls whose end is not recorded.
    pub open_calls: Vec<OpenCallRow>,
    /// Whether any call of the run was answered.
    pub has_answer: bool,
    /// Ended calls without a price.
    pub unpriced: u64,
    /// Attempts started.
    pub steps: u32,
}

/// A call whose end is not recorded.
#[derive(Debug)]
pub struct OpenCallRow {
    /// Names the call.
    pub id: CallId,
    /// The model that was asked.
    pub model: String,
    /// The provider that was asked.
    pub provider: String,
    /// What was reserved for it.
    pub reserved: Option<MicroUsd>,
}

impl Loaded {
    /// What the lost calls may have cost.
    pub fn lost_cost(&self) -> MicroUsd {
        self.open_calls.iter().filter_map(|it| it.reserved).sum()
    }
}

/// Claims and loads the run of `args`.
pub async fn load(args: Args) -> Result<Box<Loaded>, Error> {
    let store = &args.store;
    // The lock file says that no other process of this machine holds the run; its lease may still look valid.
    let claim = if args.lock.is_some() { Claim::Force } else { Claim::IfFree };
    let epoch = store.claim_run(args.run, &args.node, args.deps.limits.lease, claim).await?;
    let row = store.run(args.run).await?.ok_or_else(|| Error::NotFound { what: "run", id: args.run.to_string() })?;
    let settings: Settings = serde_json::from_str(&row.settings)
        .map_err(|error| Error::Settings { run: args.run, message: error.to_string() })?;
    let mut tasks = store.tasks(args.run).await?;
    let root = tasks
        .iter()
        .position(|task| task.kind == TaskKind::Root)
        .map(|index| tasks.remove(index))
        .ok_or_else(|| Error::NotFound { what: "root task of run", id: args.run.to_string() })?;
    let links = store.links(args.run).await?;
    let steps = tasks.iter().chain([&root]).map(|task| task.attempts).sum();
    let calls: Vec<CallRow> = if steps > 0 { store.calls(args.run).await? } else { Vec::new() };
    let (results, index) = texts(&args, &tasks, &row).await?;
    let mut loaded = Loaded {
        row,
        epoch,
        settings,
        root,
        tasks,
        links,
        results,
        index,
        open_calls: Vec::new(),
        has_answer: false,
        unpriced: 0,
        steps,
    };
    for call in calls {
        match call.outcome {
            None => loaded.open_calls.push(OpenCallRow {
                id: call.id,
                model: call.model,
                provider: call.provider,
                reserved: call.reserved,
            }),
            Some(outcome) => {
                loaded.has_answer |= outcome == crewline_types::event::CallOutcome::Ok;
                loaded.unpriced += u64::from(call.cost.is_none());
            }
        }
    }
    Ok(Box::new(loaded))
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
