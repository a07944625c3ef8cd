//! Trying failed tasks again, in the run they failed in.
//!
//! **Invariant:** a completed task is never touched; what is tried again is what failed, and what that blocked.

use std::collections::{BTreeSet, HashMap};

use crewline_store::{Change, Transition, Wished};
use crewline_types::{
    EventBody, LinkKind, ModelAlias, RunId, RunStatus, Task, TaskId, TaskKind, TaskStatus, event::NewEvent,
};

use crate::{Error, Found, Handle, Overrides, handle::Why, settings::Settings};

/// What is tried again.
#[derive(Debug, Clone)]
pub struct Retried {
    /// The run, which goes on.
    pub run: RunId,
    /// The keys of the tasks that failed and are tried again.
    pub failed: Vec<String>,
    /// The keys of the tasks that were blocked by them.
    pub unblocked: Vec<String>,
    /// Events up to here are known.
    pub after_seq: u64,
}

impl Handle {
    /// Tries a failed task, the failed tasks that block a blocked one, or all failed tasks of a run again; with `model`,
    /// only that model is asked for them. The run goes on with everything that this makes possible.
    pub async fn retry(
        &self,
        what: Found,
        model: Option<&ModelAlias>,
        overrides: &Overrides,
    ) -> Result<Retried, Error> {
        let place = self.admit()?;
        let run = what.run();
        self.check_model(model)?;
        let lock = self.take(run).await?;
        let row = self.row(run).await?;
        match (row.status, what) {
            (RunStatus::Cancelled, _) | (RunStatus::Completed, Found::Run(_)) => {
                return Err(Error::Finished { run, status: row.status });
            }
            (RunStatus::Running | RunStatus::Failed | RunStatus::Interrupted | RunStatus::LimitReached, _)
            | (RunStatus::Completed, Found::Task(..)) => {}
        }
        let tasks = self.store().tasks(run).await?;
        let links = self.store().links(run).await?;
        let chosen = choose(run, &tasks, &links, what.task())?;
        let mut settings = Settings::of(&row)?;
        settings.change(overrides);
        self.refuse_unpriced(&settings.limits)?;
        if let Some(model) = model {
            let keys = chosen.failed.iter().map(|place| tasks[*place].key.to_string());
            settings.models.extend(keys.map(|key| (key, model.clone())));
        }
        self.store().reopen_run(run).await?;
        let epoch = self.claim(run, lock.claim()).await?;
        self.store().configure_run(run, epoch, &settings.text(), Wished::Forgotten).await?;
        let at = self.deps().clock.now();
        let mut change = Change::new(run, epoch, at);
        let reset = |task: &Task, to: TaskStatus| Transition {
            attempts_from: task.attempts,
            attempts_to: task.attempts,
            ..Transition::new(task.id, task.status, to)
        };
        let open = chosen.failed.iter().chain(&chosen.blocked).map(|place| reset(&tasks[*place], TaskStatus::Pending));
        change.transitions.extend(open);
        if let Some(root) = tasks.iter().find(|task| task.kind == TaskKind::Root && task.status == TaskStatus::Failed)
            && !chosen.failed.iter().any(|place| tasks[*place].id == root.id)
        {
            change.transitions.push(reset(root, TaskStatus::InProgress));
        }
        let started = EventBody::RunStarted { project: row.project.clone(), goal: row.goal.clone(), resumed: true };
        change.events.push(NewEvent::of_run(at, started));
        self.commit(run, change).await?;
        self.start_manager(run, lock, Why::Admitted(place)).await?;
        let keys = |places: &[usize]| places.iter().map(|place| tasks[*place].key.to_string()).collect();
        Ok(Retried { run, failed: keys(&chosen.failed), unblocked: keys(&chosen.blocked), after_seq: row.last_seq })
    }
}

/// Places of the tasks that are tried again.
#[derive(Debug, PartialEq, Eq)]
struct Chosen {
    failed: Vec<usize>,
    blocked: Vec<usize>,
}

fn choose(
    run: RunId,
    tasks: &[Task],
    links: &[(TaskId, TaskId, LinkKind)],
    wanted: Option<TaskId>,
) -> Result<Chosen, Error> {
    let places: HashMap<TaskId, usize> = tasks.iter().enumerate().map(|(place, task)| (task.id, place)).collect();
    let mut needs = vec![Vec::new(); tasks.len()];
    let mut users = vec![Vec::new(); tasks.len()];
    for (from, to, kind) in links {
        if let (LinkKind::Requires, Some(from), Some(to)) = (kind, places.get(from), places.get(to)) {
            needs[*from].push(*to);
            users[*to].push(*from);
        }
    }
    let is = |place: usize, status: TaskStatus| tasks[place].status == status;
    // A run whose tasks failed has a failed root, too; only one that never got a plan is planned again.
    let is_planned = tasks.len() > 1;
    let may_try = |place: usize| is(place, TaskStatus::Failed) && !(is_planned && tasks[place].kind == TaskKind::Root);
    let failed: BTreeSet<usize> = match wanted {
        None => (0..tasks.len()).filter(|place| may_try(*place)).collect(),
        Some(id) => {
            let place = *places.get(&id).ok_or_else(|| Error::NotFound { what: "task", id: id.to_string() })?;
            match tasks[place].status {
                TaskStatus::Failed if may_try(place) => [place].into(),
                TaskStatus::Blocked => reach(&needs, [place]).into_iter().filter(|place| may_try(*place)).collect(),
                status => return Err(Error::NotFailed { run, task: tasks[place].key.to_string(), status }),
            }
        }
    };
    if failed.is_empty() {
        return Err(Error::NothingFailed { run });
    }
    let still_failed = (0..tasks.len()).filter(|place| may_try(*place) && !failed.contains(place));
    let still_blocked = reach(&users, still_failed);
    let blocked = reach(&users, failed.iter().copied())
        .into_iter()
        .filter(|place| is(*place, TaskStatus::Blocked) && !still_blocked.contains(place))
        .collect();
    Ok(Chosen { failed: failed.into_iter().collect(), blocked })
}

/// The places of `from` and all that can be reached from there.
fn reach(edges: &[Vec<usize>], from: impl IntoIterator<Item = usize>) -> BTreeSet<usize> {
    let mut open: Vec<usize> = from.into_iter().collect();
    let mut seen = BTreeSet::new();
    while let Some(place) = open.pop() {
        if seen.insert(place) {
            open.extend(&edges[place]);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use crewline_types::{Role, Timestamp};

    use super::*;

    const RUN: &str = "rrrrrrrr";

    fn id(place: usize) -> TaskId {
        format!("t{place:07}").parse().unwrap()
    }

    fn task(place: usize, status: TaskStatus) -> Task {
        let key = format!("t{place}");
        Task {
            position: u32::try_from(place).unwrap(),
            kind: if place == 0 { TaskKind::Root } else { TaskKind::Atomic },
            status,
            attempts: 3,
            ..Task::new(id(place), RUN.parse().unwrap(), key, Role::from("writer"), Timestamp(0))
        }
    }

    /// root, 1 failed, 2 needs 1, 3 failed, 4 needs 2 and 3, 5 done, 6 pending.
    fn crew() -> (Vec<Task>, Vec<(TaskId, TaskId, LinkKind)>) {
        use TaskStatus::{Blocked, Completed, Failed, Pending};
        let statuses = [Failed, Failed, Blocked, Failed, Blocked, Completed, Pending];
        let tasks = statuses.into_iter().enumerate().map(|(place, status)| task(place, status)).collect();
        let links = [(2, 1), (4, 2), (4, 3)];
        (tasks, links.into_iter().map(|(from, to)| (id(from), id(to), LinkKind::Requires)).collect())
    }

    fn chosen(wanted: Option<usize>) -> Result<Chosen, Error> {
        let (tasks, links) = crew();
        choose(RUN.parse().unwrap(), &tasks, &links, wanted.map(id))
    }

    #[test]
    fn a_failed_task_takes_along_what_only_it_blocked() {
        assert_eq!(chosen(Some(1)).unwrap(), Chosen { failed: vec![1], blocked: vec![2] });
        assert_eq!(chosen(Some(3)).unwrap(), Chosen { failed: vec![3], blocked: vec![] });
        assert_eq!(chosen(None).unwrap(), Chosen { failed: vec![1, 3], blocked: vec![2, 4] });
    }

    #[test]
    fn a_blocked_task_means_what_blocks_it() {
        assert_eq!(chosen(Some(2)).unwrap(), Chosen { failed: vec![1], blocked: vec![2] });
        assert_eq!(chosen(Some(4)).unwrap(), Chosen { failed: vec![1, 3], blocked: vec![2, 4] });
    }

    #[test]
    fn what_did_not_fail_is_refused() {
        for (place, status) in [(5, TaskStatus::Completed), (6, TaskStatus::Pending), (0, TaskStatus::Failed)] {
            match chosen(Some(place)) {
                Err(Error::NotFailed { status: found, .. }) => assert_eq!(found, status),
                other => panic!("{other:?}"),
            }
        }
        let (mut tasks, links) = crew();
        tasks[1].status = TaskStatus::Completed;
        tasks[3].status = TaskStatus::Completed;
        assert!(matches!(choose(RUN.parse().unwrap(), &tasks, &links, None), Err(Error::NothingFailed { .. })));
    }

    #[test]
    fn a_run_without_a_plan_is_planned_again() {
        let tasks = [task(0, TaskStatus::Failed)];
        let run = RUN.parse().unwrap();
        assert_eq!(choose(run, &tasks, &[], Some(id(0))).unwrap(), Chosen { failed: vec![0], blocked: vec![] });
        assert_eq!(choose(run, &tasks, &[], None).unwrap(), Chosen { failed: vec![0], blocked: vec![] });
    }
}
