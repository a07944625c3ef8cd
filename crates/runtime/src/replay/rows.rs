//! The rows of a run that is made from another.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crewline_engine::replay::{Verdict, with_names};
use crewline_store::{AttemptEnd, Change, Choice, ContextChoice, NewAttempt, NewContext, NewRun};
use crewline_types::{
    AttemptId, EventBody, IdSource, LinkKind, MicroUsd, RunId, Task, TaskId, TaskKind, TaskStatus, Text, TextHash,
    Timestamp, Usage, event::NewEvent,
};

use crate::{chapters, planning, settings::Settings};

use super::Recorded;

/// What is new about the run.
pub(super) struct New<'a> {
    pub(super) settings: &'a Settings,
    pub(super) registry: TextHash,
    pub(super) at: Timestamp,
    pub(super) ids: &'a mut IdSource,
}

/// The rows of a run.
pub(super) struct Made {
    pub(super) run: NewRun,
    pub(super) root: Task,
    pub(super) change: Change,
}

/// Makes the rows of a run with `tasks`: those of `recorded`, as they are wanted now.
pub(super) fn make(recorded: &Recorded, tasks: &[Task], verdicts: &[Verdict], new: New<'_>) -> Made {
    let New { settings, registry, at, ids } = new;
    let run = RunId::new(ids);
    let old = std::iter::once(&recorded.root).chain(tasks);
    let names: HashMap<TaskId, TaskId> = old.map(|task| (task.id, TaskId::new(ids))).collect();
    let renew = |task: &Task| {
        let id = names.get(&task.id).copied().unwrap_or(task.id);
        let Task { key, position, kind, title, description, role, priority, duration, success_criteria, .. } =
            task.clone();
        Task {
            parent: task.parent.and_then(|parent| names.get(&parent).copied()),
            position,
            kind,
            title,
            description,
            priority,
            duration,
            success_criteria,
            created_by: task.created_by.and_then(|author| names.get(&author).copied()),
            ..Task::new(id, run, key, role, at)
        }
    };
    let row = &recorded.row;
    let mut change = Change::new(run, 0, at);
    let started = EventBody::RunStarted { project: row.project.clone(), goal: row.goal.clone(), resumed: false };
    change.events.push(NewEvent::of_run(at, started));
    change.links = links(&recorded.links, &names);
    let renamed = |text: &str| Text::from(with_names(text, |id| names.get(&id).map(TaskId::as_str)).into_owned());
    let mut done = Vec::new();
    let mut taken = HashSet::new();
    for (task, verdict) in tasks.iter().zip(verdicts) {
        let mut copy = renew(task);
        if *verdict == Verdict::Reuse {
            take_over(recorded, task, &mut copy, &mut change);
            taken.insert(task.id);
            if task.kind == TaskKind::Composite
                && let Some(text) = recorded.texts.iter().find(|text| Some(text.hash) == task.result)
            {
                // It names the tasks below it.
                let text = renamed(&text.body);
                copy.result = Some(text.hash);
                change.texts.push(text);
            }
            done.push(completed(task, &copy, at));
        }
        change.tasks.push(copy);
    }
    let kept: HashSet<TextHash> = change.tasks.iter().filter_map(|task| task.result).collect();
    change.texts.extend(recorded.texts.iter().filter(|text| kept.contains(&text.hash)).cloned());
    if let Some(index) = &recorded.index {
        // What is done anew is told of when it is done.
        let index = renamed(&chapters::only(&index.body, |id| taken.contains(&id)));
        change.index = Some(index.hash);
        change.texts.push(index);
    }
    change.choices = choices(&recorded.choices, &names, at);
    let entries = planning::entries(&change.tasks, &change.links);
    change.events.push(NewEvent::of_run(at, EventBody::PlanReady { tasks: entries, repairs: Vec::new() }));
    change.events.extend(done);
    let root = Task { status: TaskStatus::InProgress, started_at: Some(at), ..renew(&recorded.root) };
    let run = NewRun {
        id: run,
        project: row.project.clone(),
        goal: row.goal.clone(),
        settings: settings.text(),
        registry,
        key: None,
        at,
    };
    Made { run, root, change }
}

/// What a person decided holds for the new run as well. A bundle that was approved is copied as it is. What was excluded
/// stays so under its old name, too: memory still knows it by that.
fn choices(choices: &[ContextChoice], names: &HashMap<TaskId, TaskId>, at: Timestamp) -> Vec<ContextChoice> {
    let mut made = Vec::new();
    for choice in choices {
        let Some(task) = names.get(&choice.task).copied() else { continue };
        let old = choice.item.strip_prefix("task:").and_then(|id| id.parse::<TaskId>().ok());
        let renamed = old.and_then(|old| names.get(&old)).map(|id| format!("task:{id}"));
        if choice.choice == Choice::Exclude || renamed.is_none() {
            made.push(ContextChoice { task, at, ..choice.clone() });
        }
        made.extend(renamed.map(|item| ContextChoice { task, item, at, ..choice.clone() }));
    }
    made
}

fn links(links: &[(TaskId, TaskId, LinkKind)], names: &HashMap<TaskId, TaskId>) -> Vec<(TaskId, TaskId, LinkKind)> {
    let renamed = links.iter().filter_map(|(from, to, kind)| Some((*names.get(from)?, *names.get(to)?, *kind)));
    renamed.collect()
}

/// Gives `copy` the result of `task`, with the attempt that made it and what that was told.
fn take_over(recorded: &Recorded, task: &Task, copy: &mut Task, change: &mut Change) {
    copy.status = TaskStatus::Completed;
    copy.result = task.result;
    copy.model.clone_from(&task.model);
    copy.started_at = Some(change.at);
    copy.finished_at = Some(change.at);
    change.copied.push((copy.id, task.id));
    let Some(attempt) = recorded.attempts.get(&task.id) else { return };
    copy.attempts = 1;
    let id = AttemptId { task: copy.id, number: 1 };
    change.attempts.push(NewAttempt {
        id,
        role: attempt.role.clone(),
        model: attempt.model.clone(),
        input_hash: attempt.input_hash,
    });
    change.attempts_ended.push(end_of_copy(id, attempt.model.clone()));
    if let Some(context) = recorded.contexts.get(&task.id) {
        change.contexts.push(NewContext {
            id,
            tokens: context.tokens,
            budget: context.budget,
            items: context.items.clone(),
            bundle: context.bundle,
            prompt: None,
            tokenizer: context.tokenizer.clone(),
        });
    }
}

/// The end of an attempt that took a result over: it cost nothing.
pub fn end_of_copy(id: AttemptId, model: String) -> AttemptEnd {
    AttemptEnd { id, ok: true, model, usage: Usage::default(), cost: MicroUsd::ZERO, error: None }
}

fn completed(task: &Task, copy: &Task, at: Timestamp) -> NewEvent {
    let body = EventBody::TaskCompleted {
        key: Arc::clone(&task.key),
        role: task.role.clone(),
        model: task.model.as_deref().unwrap_or_default().into(),
        usage: Usage::default(),
        cost_usd: MicroUsd::ZERO,
        elapsed_ms: 0,
        copied_from: Some(task.id),
    };
    NewEvent::of_task(at, copy.id, Some(copy.attempts), body)
}
