//! What the plan tells of a task, to an attempt here or to a worker elsewhere.
//!
//! **Invariant:** both are told the same: what the tree says follows from [`Running`] alone.

use std::sync::Arc;

use crewline_engine::context::{self, Item, Tier};
use crewline_store::NewOffer;
use crewline_types::{AttemptId, TaskId, TaskKind, TaskStatus, TextHash};

use super::run::Running;
use crate::{chapters, offer, sources};

impl Running {
    /// Offers an attempt to workers: the higher priority first, then whoever became ready first.
    pub(super) fn offer(&mut self, node: u32, id: AttemptId) {
        let entry = &self.tasks[node as usize];
        let rank = -i64::from(entry.priority.get());
        let told = offer::Told {
            requires: self.ids(&entry.needs),
            refers: self.ids(&entry.refers),
            around: self.neighbours(node),
            above: self.above(node),
            done: self.chapters_of(node),
        };
        self.offers.push(NewOffer { id, role: entry.brief.role.clone(), rank, told: told.write() });
    }

    fn ids(&self, nodes: &[u32]) -> Vec<TaskId> {
        nodes.iter().map(|node| self.tasks[*node as usize].brief.id).collect()
    }

    /// What a task is told of those above and beside it.
    fn neighbours(&self, node: u32) -> Vec<Item> {
        context::neighbours(self, node)
    }

    /// The tasks with others below them that are done before this one, of which INDEX.md tells it.
    fn chapters_of(&self, node: u32) -> Vec<TaskId> {
        if !self.index.as_ref().is_some_and(|index| chapters::has(&index.body)) {
            return Vec::new();
        }
        let done = context::done_before(self, node);
        let done = done.iter().map(|node| &self.tasks[node as usize].brief);
        done.filter(|brief| brief.kind == TaskKind::Composite).map(|brief| brief.id).collect()
    }

    /// Names what the tasks above it say.
    pub(super) fn above(&self, node: u32) -> Option<TextHash> {
        context::above_hash(self, node)
    }

    /// What the plan gives to a task's context.
    pub(super) fn sources(&self, node: u32) -> Vec<Item> {
        let entry = &self.tasks[node as usize];
        let mut items = Vec::with_capacity(1 + entry.needs.len() + entry.refers.len());
        items.extend(self.index.as_ref().map(|index| {
            let done = self.chapters_of(node);
            sources::index_of(index, |id| done.contains(&id))
        }));
        for (tier, nodes) in [(Tier::Requires, &entry.needs), (Tier::Refers, &entry.refers)] {
            for node in nodes {
                let made = &self.tasks[*node as usize];
                if let Some(text) = &made.result {
                    let (source, title) = (Arc::clone(&made.source), Arc::clone(&made.brief.title));
                    items.push(sources::output(tier, source, title, text.clone()));
                }
            }
        }
        items.extend(self.neighbours(node));
        items
    }
}

impl context::Plan for Running {
    fn place(&self, index: u32) -> Option<context::Place<'_>> {
        let entry = self.tasks.get(index as usize)?;
        Some(context::Place {
            key: &entry.brief.key,
            title: &entry.brief.title,
            description: &entry.brief.description,
            criteria: &entry.brief.success_criteria,
            parent: entry.parent,
            needs: &entry.needs,
            refers: &entry.refers,
            result: entry.result.as_ref().map(|text| &*text.body),
            is_cancelled: entry.status == TaskStatus::Cancelled,
        })
    }

    fn needs(&self, index: u32) -> Option<&[u32]> {
        self.tasks.get(index as usize).map(|entry| &*entry.needs)
    }
}
