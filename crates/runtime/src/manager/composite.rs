//! Tasks without work of their own: they are done when the tasks below them are.
//!
//! **Invariant:** no model is asked for one; its result is made from theirs, in the order of the plan.

use std::{fmt::Write as _, sync::Arc};

use crewline_engine::{
    context::summarise,
    graph::{Vertex, with_parents},
};
use crewline_store::{Change, Transition};
use crewline_types::{
    EventBody, MicroUsd, Task, TaskId, TaskKind, TaskStatus, Text, Timestamp, Usage, event::NewEvent,
};

use super::run::{Entry, Running};
use crate::chapters;

/// Tokens that the result of one child gets in that of the task above it.
const CHILD_TOKENS: u32 = 600;

/// Adds what follows from the tree to what tasks need, when there are tasks with children.
pub(super) fn add_needs(tasks: &[Task], entries: &mut [Entry]) {
    if !tasks.iter().any(|task| task.kind == TaskKind::Composite) {
        return;
    }
    let places: std::collections::HashMap<TaskId, u32> = tasks.iter().map(|task| task.id).zip(0..).collect();
    let vertices: Vec<Vertex> = tasks
        .iter()
        .zip(&*entries)
        .map(|(task, entry)| Vertex {
            status: task.status,
            kind: task.kind,
            parent: task.parent.and_then(|parent| places.get(&parent).copied()),
            needs: entry.needs.clone(),
        })
        .collect();
    for (place, needs) in (0_u32..).zip(with_parents(&vertices)) {
        for need in &needs {
            if !vertices[place as usize].needs.contains(need) {
                entries[*need as usize].dependents.push(place);
                if vertices[*need as usize].parent == Some(place) {
                    entries[place as usize].below.push(*need);
                }
            }
        }
        entries[place as usize].needs = needs;
    }
}

impl Running {
    /// The change that completes a task with children, once they are done; none for a task with work of its own.
    pub(super) fn complete_composite(&mut self, node: u32, attempt: u32, at: Timestamp) -> Option<Change> {
        let entry = &self.tasks[node as usize];
        if entry.brief.kind != TaskKind::Composite {
            return None;
        }
        let mut text = format!("# {}\n", entry.brief.title);
        for child in &entry.below {
            let made = &self.tasks[*child as usize];
            // Writing into memory can not fail.
            let _ = write!(text, "\n## {} [{}]\n", made.brief.title, made.source);
            if let Some(result) = &made.result {
                let _ = write!(text, "\n{}\n", summarise(&result.body, CHILD_TOKENS));
            }
        }
        let text = Text::from(text);
        let chapters =
            self.index.as_ref().map(|it| chapters::with(&it.body, entry.brief.id, &entry.brief.title, &text.body));
        let brief = Arc::clone(&entry.brief);
        let mut change = self.change(at);
        change.transitions.push(Transition {
            attempts_from: attempt - 1,
            attempts_to: attempt,
            result: Some(text.hash),
            ..Transition::new(brief.id, TaskStatus::Pending, TaskStatus::Completed)
        });
        change.texts.push(text.clone());
        let body = EventBody::TaskCompleted {
            key: Arc::clone(&brief.key),
            role: brief.role.clone(),
            model: "".into(),
            usage: Usage::default(),
            cost_usd: MicroUsd::ZERO,
            elapsed_ms: 0,
            copied_from: None,
        };
        change.events.push(NewEvent::of_task(at, brief.id, None, body));
        if let Some(index) = chapters.map(Text::from) {
            change.index = Some(index.hash);
            change.texts.push(index.clone());
            self.set_index(Some(index));
        }
        let entry = &mut self.tasks[node as usize];
        entry.started_at.get_or_insert(at);
        entry.result = Some(text);
        Some(change)
    }
}
