//! From a draft to the rows that are written.

use std::{collections::BTreeSet, sync::Arc};

use crewline_engine::graph::settle;
use crewline_store::{Change, RunMove, Transition};
use crewline_types::{
    EventBody, MicroUsd, RunStatus, Task, TaskCounts, TaskId, TaskKind, TaskStatus, Text, Usage,
    event::{NewEvent, TaskAction},
};

use crate::{chapters, planning};

use super::{Changed, ChangedTask, draft::Draft};

impl Draft {
    /// What follows from the commands, and the rows; none when nothing changed.
    pub fn finish(mut self, index_tokens: u32) -> (Option<Change>, Changed) {
        self.settle();
        let run_status = self.run_status();
        let mut change = Change::new(self.row.id, self.row.epoch, self.at);
        change.last_seq = Some(self.row.last_seq);
        let mut changed = Vec::new();
        let mut edits = Vec::new();
        for task in &self.tasks {
            let Some(before) = self.before.get(&task.id) else {
                change.tasks.push(task.clone());
                changed.push(shown(task));
                continue;
            };
            if is_edited(before, task) {
                edits.push(task.clone());
            }
            if before.status != task.status || before.result != task.result {
                change.transitions.push(Transition {
                    attempts_from: before.attempts,
                    attempts_to: before.attempts,
                    result: task.result,
                    reason: task.reason.clone(),
                    model: task.model.clone(),
                    ..Transition::new(task.id, before.status, task.status)
                });
                changed.push(shown(task));
            }
        }
        self.end_new_tasks(&mut change);
        change.edits = edits;
        let links_now: std::collections::HashSet<_> = self.links.iter().copied().collect();
        change.links = self.links.iter().filter(|it| !self.links_before.contains(it)).copied().collect();
        change.links_removed = self.links_before.iter().filter(|it| !links_now.contains(it)).copied().collect();
        change.links_removed.sort_unstable_by_key(|(from, to, kind)| (*from, *to, kind.as_str()));
        let details: BTreeSet<TaskId> = std::mem::take(&mut self.detailed);
        change.details = details.into_iter().filter_map(|id| Some((id, self.details.get(&id)?.clone()))).collect();
        self.root_follows(run_status, &mut change);
        if change.events.is_empty() && self.events.is_empty() {
            let run = self.row.id;
            return (None, Changed { run, run_status: self.row.status, tasks: changed });
        }
        self.write_index(&mut change, index_tokens);
        let mut events = std::mem::take(&mut self.events);
        events.append(&mut change.events);
        change.events = events;
        change.texts.append(&mut self.texts);
        if self.row.status != RunStatus::Running {
            change.events.push(self.finished(run_status));
            if run_status != self.row.status {
                change.run_moved = Some(RunMove { from: self.row.status, to: run_status, at: self.at });
            }
        }
        (Some(change), Changed { run: self.row.id, run_status, tasks: changed })
    }

    /// Applies what follows from the new statuses.
    fn settle(&mut self) {
        let touched = std::mem::take(&mut self.touched);
        let places: Vec<u32> = touched.iter().filter_map(|id| u32::try_from(self.place_of(*id)?).ok()).collect();
        for it in settle(&self.vertices(), &places) {
            let because = &self.tasks[it.because as usize];
            let place = it.task as usize;
            let (reason, body) = match it.to {
                TaskStatus::Blocked => {
                    let state = match because.status {
                        TaskStatus::Cancelled => "was cancelled",
                        TaskStatus::Blocked => "is blocked",
                        TaskStatus::Failed
                        | TaskStatus::Pending
                        | TaskStatus::InProgress
                        | TaskStatus::AwaitingApproval
                        | TaskStatus::Completed => "failed",
                    };
                    let reason = format!("it requires `{}` ({}), which {state}", because.key, because.title);
                    let key = Arc::clone(&self.tasks[place].key);
                    (Some(reason.clone()), EventBody::TaskBlocked { key, reason: reason.into() })
                }
                TaskStatus::Completed => (None, self.completed(place)),
                TaskStatus::Pending
                | TaskStatus::InProgress
                | TaskStatus::AwaitingApproval
                | TaskStatus::Failed
                | TaskStatus::Cancelled => {
                    let body = EventBody::TaskChanged {
                        key: Arc::clone(&self.tasks[place].key),
                        action: TaskAction::Unblocked,
                        agent: Arc::clone(&self.agent),
                        detail: format!("{} is {}", because.key, because.status).into(),
                    };
                    (None, body)
                }
            };
            let task = &mut self.tasks[place];
            task.status = it.to;
            task.reason = reason;
            let event = NewEvent::of_task(self.at, task.id, None, body);
            self.events.push(event);
        }
        // What a person completed is told in the word that everybody waits for, too.
        for id in touched {
            if let Some(place) = self.place_of(id)
                && self.tasks[place].status == TaskStatus::Completed
                && self.before.get(&id).is_some_and(|before| before.status != TaskStatus::Completed)
                && self.tasks[place].kind != TaskKind::Composite
            {
                let body = self.completed(place);
                self.events.push(NewEvent::of_task(self.at, id, None, body));
            }
        }
    }

    fn completed(&self, place: usize) -> EventBody {
        let task = &self.tasks[place];
        let elapsed = task.started_at.map_or(0, |started| self.at.since(started).as_millis());
        EventBody::TaskCompleted {
            key: Arc::clone(&task.key),
            role: task.role.clone(),
            model: task.model.as_deref().unwrap_or_default().into(),
            usage: Usage::default(),
            cost_usd: MicroUsd::ZERO,
            elapsed_ms: u64::try_from(elapsed).unwrap_or(u64::MAX),
            copied_from: None,
        }
    }

    /// A new task that is final already has an end.
    fn end_new_tasks(&self, change: &mut Change) {
        for task in &mut change.tasks {
            if task.status.is_final() {
                task.finished_at = Some(self.at);
            }
            if task.status == TaskStatus::InProgress {
                task.started_at = Some(self.at);
            }
        }
    }

    /// Where the run is after this: done when all its tasks are, and open again when they are not.
    fn run_status(&self) -> RunStatus {
        if self.row.status == RunStatus::Running {
            return RunStatus::Running;
        }
        let open = |status: TaskStatus| match status {
            TaskStatus::Completed | TaskStatus::Cancelled => false,
            TaskStatus::Pending
            | TaskStatus::InProgress
            | TaskStatus::Blocked
            | TaskStatus::AwaitingApproval
            | TaskStatus::Failed => true,
        };
        let is_done = self.tasks.iter().any(|task| task.status == TaskStatus::Completed)
            && !self.tasks.iter().any(|task| open(task.status));
        match (is_done, self.row.status) {
            (true, _) => RunStatus::Completed,
            (false, RunStatus::LimitReached) => RunStatus::LimitReached,
            (false, _) => RunStatus::Interrupted,
        }
    }

    /// The root task is done with its run, and open again with it.
    fn root_follows(&self, run_status: RunStatus, change: &mut Change) {
        let to = match run_status {
            RunStatus::Completed => TaskStatus::Completed,
            RunStatus::Running | RunStatus::Interrupted | RunStatus::LimitReached => TaskStatus::InProgress,
            RunStatus::Failed | RunStatus::Cancelled => return,
        };
        if self.root.status != to && !self.tasks.is_empty() {
            change.transitions.push(Transition {
                attempts_from: self.root.attempts,
                attempts_to: self.root.attempts,
                result: self.root.result,
                model: self.root.model.clone(),
                ..Transition::new(self.root.id, self.root.status, to)
            });
        }
    }

    fn finished(&self, status: RunStatus) -> NewEvent {
        let (mut tasks, mut usage, mut cost) = (TaskCounts::default(), self.root.usage, self.root.cost);
        for task in &self.tasks {
            tasks.add(task.status);
            usage += task.usage;
            cost += task.cost;
        }
        let body = EventBody::RunFinished {
            status,
            tasks,
            cost_usd: cost,
            unpriced_calls: 0,
            usage,
            elapsed_ms: 0,
            error: None,
        };
        NewEvent::of_run(self.at, body)
    }

    /// The list of tasks in INDEX.md follows the graph, and it tells what came of tasks with others below them; what a person
    /// wrote around it stays.
    fn write_index(&self, change: &mut Change, tokens: u32) {
        let is_same_graph = change.tasks.is_empty()
            && change.edits.is_empty()
            && change.links.is_empty()
            && change.links_removed.is_empty()
            && change.transitions.iter().all(|it| it.to != TaskStatus::Cancelled);
        let done: Vec<&Task> = self.tasks.iter().filter(|task| self.is_done_now(task)).collect();
        let old = self.index.as_deref();
        let mut text = match old {
            _ if is_same_graph && done.is_empty() => return,
            Some(old) if is_same_graph => old.to_owned(),
            Some(_) | None => {
                let is_there = |task: &&Task| task.status != TaskStatus::Cancelled;
                let there: Vec<Task> = self.tasks.iter().filter(is_there).cloned().collect();
                planning::index_with(old, &self.row.goal, &planning::entries(&there, &self.links), tokens)
            }
        };
        for task in done {
            text = chapters::with(&text, task.id, &task.title, &self.came_of(task));
        }
        let text = Text::from(text);
        if self.row.index != Some(text.hash) {
            change.index = Some(text.hash);
            change.index_by = Some(Arc::clone(&self.agent));
            change.texts.push(text);
        }
    }
}

impl Draft {
    /// Whether a task with others below it is done by this change.
    fn is_done_now(&self, task: &Task) -> bool {
        let was = self.before.get(&task.id).map(|before| before.status);
        task.kind == TaskKind::Composite
            && task.status == TaskStatus::Completed
            && was.is_some_and(|status| status != TaskStatus::Completed)
    }

    /// What people said of the tasks below one that is done.
    fn came_of(&self, task: &Task) -> String {
        let below = self.tasks.iter().filter(|it| it.parent == Some(task.id) && it.status == TaskStatus::Completed);
        let said = below.map(|it| {
            let summary = self.details.get(&it.id).and_then(|it| it.completion_summary.as_deref());
            format!("{}: {}.", it.title, summary.unwrap_or("done").trim_end_matches('.'))
        });
        said.collect::<Vec<_>>().join("\n")
    }
}

fn is_edited(before: &Task, task: &Task) -> bool {
    before.parent != task.parent
        || before.position != task.position
        || before.kind != task.kind
        || before.title != task.title
        || before.description != task.description
        || before.role != task.role
        || before.priority != task.priority
        || before.success_criteria != task.success_criteria
        || before.duration != task.duration
}

fn shown(task: &Task) -> ChangedTask {
    ChangedTask { id: task.id, key: Arc::clone(&task.key), status: task.status, reason: task.reason.clone() }
}
