//! What the plan gives to a task's context; memory is added by the attempt itself.
//!
//! **Invariant:** a manager, a worker, a replay and a person who looks are given the same: what follows from the tree is in
//! what a task needs, and all of them ask [`Web`] or the manager, which tells its workers.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use crewline_engine::{
    context::{Item, Place, Plan, Tier},
    graph::{Vertex, with_parents},
};
use crewline_types::{LinkKind, Task, TaskId, TaskStatus, Text, TextHash};

use crate::chapters;

/// INDEX.md.
pub fn index(text: Text) -> Item {
    Item { tier: Tier::Index, source: "index".into(), kind: "index".into(), title: "INDEX.md".into(), text, score: 1.0 }
}

/// INDEX.md with what it says of those tasks only that must be done before.
pub fn index_of(text: &Text, is_done: impl Fn(TaskId) -> bool) -> Item {
    match chapters::only(&text.body, is_done) {
        Cow::Borrowed(_) => index(text.clone()),
        Cow::Owned(told) => index(Text::from(told)),
    }
}

/// The result of a task that this one requires or refers to; `source` is `task:<id>`.
pub fn output(tier: Tier, source: Arc<str>, title: Arc<str>, text: Text) -> Item {
    Item { tier, source, kind: "task_output".into(), title, text, score: 1.0 }
}

/// The tasks of a run but its root, with what they need of each other.
#[derive(Debug)]
pub struct Web {
    /// By position.
    pub tasks: Vec<Task>,
    /// The place of each.
    pub places: HashMap<TaskId, u32>,
    /// What each requires, with what follows from the tree.
    pub needs: Vec<Vec<u32>>,
    /// What each refers to.
    pub refers: Vec<Vec<u32>>,
    /// Texts of results, as far as they were read.
    pub texts: HashMap<TextHash, Arc<str>>,
}

impl Web {
    /// The web of `tasks`.
    pub fn of(tasks: Vec<Task>, links: &[(TaskId, TaskId, LinkKind)]) -> Self {
        let places: HashMap<TaskId, u32> = tasks.iter().map(|task| task.id).zip(0..).collect();
        let mut refers = vec![Vec::new(); tasks.len()];
        let vertex = |task: &Task| Vertex {
            status: task.status,
            kind: task.kind,
            parent: task.parent.and_then(|parent| places.get(&parent).copied()),
            needs: Vec::new(),
        };
        let mut vertices: Vec<Vertex> = tasks.iter().map(vertex).collect();
        for (from, to, kind) in links {
            let (Some(from), Some(to)) = (places.get(from), places.get(to)) else { continue };
            match kind {
                LinkKind::Requires => vertices[*from as usize].needs.push(*to),
                LinkKind::Refers => refers[*from as usize].push(*to),
                LinkKind::Duplicates | LinkKind::RelatesTo => {}
            }
        }
        let needs = with_parents(&vertices);
        Self { tasks, places, needs, refers, texts: HashMap::new() }
    }
}

impl Web {
    fn result(&self, task: &Task) -> Option<&str> {
        let hash = task.result.filter(|_| task.status == TaskStatus::Completed)?;
        self.texts.get(&hash).map(|body| &**body)
    }
}

impl Plan for Web {
    fn place(&self, index: u32) -> Option<Place<'_>> {
        let at = index as usize;
        let task = self.tasks.get(at)?;
        Some(Place {
            key: &task.key,
            title: &task.title,
            description: &task.description,
            criteria: &task.success_criteria,
            parent: task.parent.and_then(|parent| self.places.get(&parent).copied()),
            needs: &self.needs[at],
            refers: &self.refers[at],
            result: self.result(task),
            is_cancelled: task.status == TaskStatus::Cancelled,
        })
    }

    fn needs(&self, index: u32) -> Option<&[u32]> {
        self.needs.get(index as usize).map(|needs| &**needs)
    }
}
