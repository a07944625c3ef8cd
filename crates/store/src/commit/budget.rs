//! What a run may cost, checked in the transaction that records its calls: several machines spend the same money.
//!
//! The first change with a limit adds up the calls of its run; from then on the run's row keeps the sum.
//!
//! What all runs of a project may cost is added up anew each time, from the sums of its runs.
//!
//! **Invariant:** whatever is begun under a limit, the run's calls (answered or ended: their cost, else their
//! reservation) do not exceed it.
//! **Invariant:** an end is never refused: what was spent is recorded.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crewline_types::{CallId, MicroUsd, RunId};

use super::{Batch, Fate, Numbers, Stop, run_id};
use crate::{
    Backend, Error,
    change::{Change, Payer, ProjectMax},
    sql::{Args, clamp},
    statements as sql,
    tx::Tx,
};

/// What calls without an end count with: what is reserved for them, or what they cost as soon as their answer is recorded.
type Open = HashMap<CallId, i64>;

/// A change that is refused.
struct Over {
    /// Which of the batch.
    place: usize,
    whose: Payer,
    /// How much too little there is.
    excess: i64,
}

/// What is reserved for open calls together, a million dollars for a call at most.
#[derive(Default)]
struct Held {
    runs: BTreeMap<RunId, i64>,
    projects: BTreeMap<Arc<str>, i64>,
}

impl Held {
    fn add(&mut self, change: &Change, reserved: i64) {
        *self.runs.entry(change.run).or_default() += reserved;
        if let Some(ProjectMax { project, .. }) = &change.project_max {
            *self.projects.entry(Arc::clone(project)).or_default() += reserved;
        }
    }

    fn of(&self, change: &Change, whose: Payer) -> i64 {
        let held = match (whose, &change.project_max) {
            (Payer::Run, _) => self.runs.get(&change.run),
            (Payer::Project, Some(ProjectMax { project, .. })) => self.projects.get(project),
            (Payer::Project, None) => None,
        };
        held.copied().unwrap_or_default()
    }
}

impl Batch<'_> {
    pub(super) async fn check_budgets(
        &mut self,
        tx: &mut Tx,
        numbers: &Numbers,
        charged: &BTreeMap<RunId, Option<i64>>,
    ) -> Result<(), Stop> {
        let (mut sums, unknown) = self.capped(charged);
        if sums.is_empty() && unknown.is_empty() {
            return Ok(());
        }
        for run in &unknown {
            sums.insert(*run, 0);
        }
        let add = |args: &mut Args, run: &RunId| args.text(run.as_str());
        tx.ask(&sql::SUM_CALLS, &unknown, add, |row| {
            sums.insert(run_id(row.text(0)?)?, row.int(1)?);
            Ok(())
        })
        .await?;
        let mut open = self.open(tx, numbers, &sums).await?;
        let mut projects = self.projects(tx).await?;
        let mut begun = Held::default();
        let mut refused = Vec::new();
        for (place, change) in self.live() {
            let Some(sum) = sums.get_mut(&change.run) else { continue };
            let difference = difference(change, &open);
            let after = sum.saturating_add(difference);
            let begins = change.calls.iter().any(|call| call.reserved.is_some_and(|it| it > MicroUsd::ZERO));
            if begins && let Some(excess) = excess(after, change.cost_max) {
                refused.push(Over { place, whose: Payer::Run, excess });
                continue;
            }
            if let Some(ProjectMax { project, max }) = &change.project_max
                && let Some(total) = projects.get_mut(project)
            {
                let after = total.saturating_add(difference);
                if begins && let Some(excess) = excess(after, Some(*max)) {
                    refused.push(Over { place, whose: Payer::Project, excess });
                    continue;
                }
                *total = after;
            }
            *sum = after;
            for call in &change.calls {
                open.insert(call.id, counted(call.reserved));
                begun.add(change, counted(call.reserved));
            }
            for answer in &change.calls_answered {
                open.entry(answer.id).and_modify(|it| *it = counted(answer.cost));
            }
            for end in &change.calls_ended {
                open.remove(&end.id);
            }
        }
        if !refused.is_empty() {
            let held = self.held(tx, &refused, begun).await?;
            for Over { place, whose, excess } in refused {
                let may_pass = held.of(&self.changes[place], whose) >= excess;
                self.fates[place] = Fate::OverBudget { whose, may_pass };
            }
            return Err(Stop::Again);
        }
        let sums: Vec<(RunId, i64)> = sums.into_iter().collect();
        tx.write(&sql::CHARGE_RUNS, &sums, |args, (run, sum)| {
            args.text(run.as_str());
            args.int(*sum);
        })
        .await?;
        Ok(())
    }

    /// What the projects with a limit have cost so far. Nobody else adds to them until the transaction ends.
    async fn projects(&self, tx: &mut Tx) -> Result<BTreeMap<Arc<str>, i64>, Error> {
        let begins = self.live().filter(|(_, change)| !change.calls.is_empty());
        let capped = begins.filter_map(|(_, change)| change.project_max.as_ref());
        let mut projects: BTreeMap<Arc<str>, i64> = capped.map(|it| (Arc::clone(&it.project), 0)).collect();
        // In one order everywhere, so that nobody waits in a circle. SQLite has one writer at a time anyway.
        let names: Vec<Arc<str>> = projects.keys().cloned().collect();
        let add = |args: &mut Args, name: &Arc<str>| args.text(name);
        if tx.backend() == Backend::Postgres {
            for name in &names {
                tx.ask(&sql::LOCK_PROJECT, std::slice::from_ref(name), add, |_| Ok(())).await?;
            }
        }
        tx.ask(&sql::SUM_PROJECTS, &names, add, |row| {
            projects.insert(row.text(0)?.into(), row.int(1)?);
            Ok(())
        })
        .await?;
        Ok(projects)
    }

    /// The runs whose sum is kept, and those where it has to be from now on.
    fn capped(&self, charged: &BTreeMap<RunId, Option<i64>>) -> (BTreeMap<RunId, i64>, Vec<RunId>) {
        let mut sums = BTreeMap::new();
        let mut unknown = Vec::new();
        for (_, change) in self.live() {
            if change.calls.is_empty() && change.calls_answered.is_empty() && change.calls_ended.is_empty() {
                continue;
            }
            match charged.get(&change.run) {
                Some(Some(sum)) => drop(sums.insert(change.run, *sum)),
                Some(None) if change.cost_max.is_some() || change.project_max.is_some() => unknown.push(change.run),
                Some(None) | None => {}
            }
        }
        unknown.sort_unstable();
        unknown.dedup();
        (sums, unknown)
    }

    /// What is reserved for open calls of those that are refused, beside `begun`. No more of it can come back.
    async fn held(&self, tx: &mut Tx, refused: &[Over], begun: Held) -> Result<Held, Error> {
        let mut held = begun;
        let of = |whose| refused.iter().filter(move |it| it.whose == whose).map(|it| &self.changes[it.place]);
        let runs: BTreeSet<RunId> = of(Payer::Run).map(|it| it.run).collect();
        let runs: Vec<RunId> = runs.into_iter().collect();
        tx.ask(
            &sql::OPEN_IN_RUNS,
            &runs,
            |args, run| args.text(run.as_str()),
            |row| {
                *held.runs.entry(run_id(row.text(0)?)?).or_default() += row.int(1)?;
                Ok(())
            },
        )
        .await?;
        let projects: BTreeSet<Arc<str>> =
            of(Payer::Project).filter_map(|it| Some(Arc::clone(&it.project_max.as_ref()?.project))).collect();
        let projects: Vec<Arc<str>> = projects.into_iter().collect();
        tx.ask(
            &sql::OPEN_IN_PROJECTS,
            &projects,
            |args, project| args.text(project),
            |row| {
                *held.projects.entry(row.text(0)?.into()).or_default() += row.int(1)?;
                Ok(())
            },
        )
        .await?;
        Ok(held)
    }

    /// What the calls count with that this batch answers or ends and an earlier one began.
    async fn open(&self, tx: &mut Tx, numbers: &Numbers, sums: &BTreeMap<RunId, i64>) -> Result<Open, Error> {
        let mut touched = HashMap::<(i64, i64, i64), CallId>::new();
        for (_, change) in self.live().filter(|(_, change)| sums.contains_key(&change.run)) {
            let answered = change.calls_answered.iter().map(|it| it.id);
            for CallId { attempt, number } in answered.chain(change.calls_ended.iter().map(|it| it.id)) {
                if let Some(task) = numbers.get(&attempt.task) {
                    touched.insert((*task, attempt.number.into(), number.into()), CallId { attempt, number });
                }
            }
        }
        let rows: Vec<(i64, i64, i64)> = touched.keys().copied().collect();
        let add = |args: &mut Args, (task, attempt, number): &(i64, i64, i64)| {
            args.int(*task);
            args.int(*attempt);
            args.int(*number);
        };
        let mut open = Open::new();
        tx.ask(&sql::OPEN_CALLS, &rows, add, |row| {
            if let Some(call) = touched.get(&(row.int(0)?, row.int(1)?, row.int(2)?)) {
                open.insert(*call, counted(row.int_or_null(3)?.map(|it| MicroUsd(it.unsigned_abs()))));
            }
            Ok(())
        })
        .await?;
        Ok(open)
    }
}

/// A call counts with a million dollars at most, so that a sum fits; the statement does the same.
const CALL_MAX: i64 = 1_000_000_000_000;

fn counted(cost: Option<MicroUsd>) -> i64 {
    cost.map_or(0, |cost| clamp(cost.0).min(CALL_MAX))
}

/// How much a sum is above a limit.
fn excess(sum: i64, max: Option<MicroUsd>) -> Option<i64> {
    max.map(|max| sum.saturating_sub(clamp(max.0))).filter(|it| *it > 0)
}

/// How much a change adds to what its run has cost, when calls without an end count with `open`.
fn difference(change: &Change, open: &Open) -> i64 {
    let mut sum = 0_i64;
    let mut now = HashMap::<CallId, i64>::new();
    for call in &change.calls {
        let reserved = counted(call.reserved);
        sum = sum.saturating_add(reserved);
        now.insert(call.id, reserved);
    }
    let answered = change.calls_answered.iter().map(|it| (it.id, it.cost));
    let ended = change.calls_ended.iter().map(|it| (it.id, it.cost));
    let mut seen = Vec::new();
    for (place, (call, cost)) in answered.chain(ended).enumerate() {
        // One that has ended already stays as it is.
        let before = now.get(&call).or_else(|| open.get(&call)).copied();
        if let (Some(before), false) = (before, seen.contains(&call)) {
            sum = sum.saturating_add(counted(cost)).saturating_sub(before);
            now.insert(call, counted(cost));
            if place >= change.calls_answered.len() {
                seen.push(call);
            }
        }
    }
    sum
}
