//! Further tasks that specialists ask for: which of them enter the plan is decided when their author is done.
//!
//! **Invariant:** what enters the plan is in the change that completes its author: after a crash both are there, or neither.

use std::sync::Arc;

use crewline_engine::{
    plan::{self, Planned, Refusal, Room, Rules, Wish},
    schedule::{self, Action},
};
use crewline_models::Registry;
use crewline_store::Change;
use crewline_types::{
    AttemptId, IdSource, LinkKind, MicroUsd, Role, Task, TaskId, TaskKind, TaskStatus,
    event::{EventBody, NewEvent, TaskAction},
};

use super::run::{Entry, Running};
use crate::{metrics, planning};

/// A task that is done, and what it asked for.
pub(super) struct Asked<'a> {
    pub(super) node: u32,
    pub(super) attempt: AttemptId,
    pub(super) wishes: &'a [Wish],
}

impl Running {
    /// Decides on what a task asked for, and adds to `change` what follows from that.
    pub(super) fn grow(&mut self, asked: &Asked<'_>, registry: &Registry, ids: &mut IdSource, change: &mut Change) {
        let rules = self.rules(registry);
        let author = Arc::clone(&self.tasks[asked.node as usize].brief);
        for wish in asked.wishes {
            let key = self.free_key(&author.key);
            let known = |planned: &Planned| self.known(author.id, planned);
            let admitted = plan::admit(wish, &key, self.room(asked.node), &rules, known)
                .and_then(|planned| self.add(asked.node, &planned, wish.is_awaited, ids, change));
            let (task, attempt, body) = match admitted {
                Ok(task) => {
                    let detail = format!("asked for by `{}`: {}", author.key, task.title);
                    (task.id, None, changed(task.key, TaskAction::Added, &author.role, detail))
                }
                Err(refusal) => {
                    let detail = format!("`{}`: {refusal}", wish.title);
                    let key = Arc::clone(&author.key);
                    (author.id, Some(asked.attempt.number), changed(key, TaskAction::Refused, &Role::manager(), detail))
                }
            };
            change.events.push(NewEvent::of_task(change.at, task, attempt, body));
        }
    }

    /// What a plan may hold: that of a person is bounded otherwise than a model's.
    fn rules(&self, registry: &Registry) -> Rules {
        let rules = planning::planner_rules(registry);
        let is_by_person = self.root_attempt == 0;
        Rules { tasks_max: if is_by_person { plan::FILE_TASKS_MAX } else { rules.tasks_max }, ..rules }
    }

    fn room(&self, node: u32) -> Room {
        let author = &self.tasks[node as usize];
        let spent: MicroUsd = self.tasks.iter().chain([&self.root]).map(|it| it.spent.cost).sum();
        let limits = &self.settings.limits;
        let waits = |it: &&Entry| it.status == TaskStatus::Pending && it.brief.kind != TaskKind::Composite;
        let waiting = u32::try_from(self.tasks.iter().filter(waits).count()).unwrap_or(u32::MAX);
        Room {
            of_author: self.tasks.iter().filter(|it| it.created_by == Some(author.brief.id)).count(),
            of_run: self.tasks.iter().filter(|it| it.created_by.is_some()).count(),
            depth: self.depth(author),
            tasks: self.tasks.len(),
            attempts: limits.steps_max.map(|max| max.saturating_sub(self.steps).saturating_sub(waiting)),
            has_money: limits.cost_max.is_none_or(|max| spent < max),
            is_last: author.dependents.is_empty(),
        }
    }

    /// How far a task is from the plan.
    fn depth(&self, task: &Entry) -> u32 {
        let above = |it: &&Entry| Some(&self.tasks[*self.by_id.get(&it.created_by?)? as usize]);
        let authors = std::iter::successors(above(&task), above).take(self.tasks.len()).count();
        u32::try_from(authors).unwrap_or(u32::MAX)
    }

    /// The key of what the same author asked for in the same words.
    fn known(&self, author: TaskId, planned: &Planned) -> Option<Arc<str>> {
        let is_same = |it: &&Entry| {
            it.created_by == Some(author)
                && it.brief.role == planned.role
                && it.brief.title == planned.title
                && it.brief.description == planned.description
        };
        self.tasks.iter().find(is_same).map(|it| Arc::clone(&it.brief.key))
    }

    /// A key that the next run of the plan gives again, whatever else is asked for.
    fn free_key(&self, author: &str) -> String {
        let mut keys = (1..=self.tasks.len() + 1).map(|number| format!("{author}+{number}"));
        keys.find(|key| self.tasks.iter().all(|it| *it.brief.key != **key)).unwrap_or_default()
    }

    /// Puts a task behind its author, and before those that shall wait for it.
    fn add(
        &mut self,
        author: u32,
        planned: &Planned,
        is_awaited: bool,
        ids: &mut IdSource,
        change: &mut Change,
    ) -> Result<Task, Refusal> {
        let above = self.tasks[author as usize].parent;
        let parent = above.map_or(self.root.brief.id, |it| self.tasks[it as usize].brief.id);
        let position = self.tasks.iter().map(|it| it.position).max().unwrap_or_default().saturating_add(1);
        let task = planning::task(self.brief.run, parent, position, planned, change.at, ids);
        let task = Task { created_by: Some(self.tasks[author as usize].brief.id), ..task };
        let node = u32::try_from(self.tasks.len()).unwrap_or(u32::MAX);
        let invalid = |problem: String| Refusal::Invalid { problem };
        self.tasks.push(Entry { needs: vec![author], parent: above, ..Entry::of(&task) });
        let actions = self.urgencies().and_then(|urgencies| {
            let urgency = urgencies.get(node as usize).copied().unwrap_or_default();
            let new = schedule::Node {
                urgency,
                priority: task.priority,
                needs: vec![author],
                stage: schedule::Stage::Waiting,
                attempts: 0,
            };
            self.dag.as_mut().map_or(Ok(Vec::new()), |dag| dag.extend(vec![new]))
        });
        match actions {
            Ok(actions) => self.pending_actions.extend(actions),
            Err(cycle) => {
                self.tasks.pop();
                return Err(invalid(cycle.to_string()));
            }
        }
        self.by_id.insert(task.id, node);
        self.attempts.push(0);
        change.links.push((task.id, self.tasks[author as usize].brief.id, LinkKind::Requires));
        for waiting in self.waiting(author, is_awaited) {
            let made = self.dag.as_mut().and_then(|dag| dag.require(waiting, node));
            let Some(actions) = made else { continue };
            self.pending_actions.extend::<Vec<Action>>(actions);
            self.tasks[waiting as usize].needs.push(node);
            self.tasks[node as usize].dependents.push(waiting);
            if above == Some(waiting) {
                // What follows from the tree is no link.
                self.tasks[waiting as usize].below.push(node);
            } else {
                change.links.push((self.tasks[waiting as usize].brief.id, task.id, LinkKind::Requires));
            }
        }
        self.tasks[author as usize].dependents.push(node);
        change.tasks.push(task.clone());
        Ok(task)
    }

    /// Who waits for what `author` asked for: those that need it, when they shall; in any case the task above, and the one that writes
    /// the final document from what all others made.
    fn waiting(&self, author: u32, is_awaited: bool) -> Vec<u32> {
        let entry = &self.tasks[author as usize];
        let is_synthesis = |node: &u32| self.tasks[*node as usize].brief.kind == TaskKind::Synthesis;
        let nodes = (0_u32..).take(self.tasks.len());
        let mut waiting: Vec<u32> = nodes.filter(is_synthesis).chain(entry.parent).collect();
        if is_awaited {
            waiting.extend(&entry.dependents);
        }
        waiting.sort_unstable();
        waiting.dedup();
        waiting
    }
}

fn changed(key: Arc<str>, action: TaskAction, agent: &Role, detail: String) -> EventBody {
    metrics::task_asked_for(action);
    EventBody::TaskChanged { key, action, agent: agent.as_str().into(), detail: detail.into() }
}
