//! Results that a replay takes over when a task's turn comes: its inputs depended on what ran anew, and are the same after all.
//!
//! **Invariant:** a result is taken over only for the same key and the same inputs, and shows where it is from.

use std::sync::Arc;

use crewline_engine::replay::index_hash;
use crewline_models::Registry;
use crewline_store::{Change, NewAttempt, NewContext, Transition};
use crewline_types::{AttemptId, EventBody, MicroUsd, TaskStatus, Text, TextHash, Timestamp, Usage, event::NewEvent};

use crate::{
    brief::TaskBrief,
    chapters, metrics,
    replay::{self, Given},
};

use super::run::Running;

impl Running {
    /// Names everything that an attempt of a task depends on but what memory recalls.
    pub(super) fn input_hash(&self, node: u32, registry: &Registry) -> TextHash {
        self.input_hash_with(node, registry, |_, _| true)
    }

    /// The same, if of what it refers to only that were there which `is_told` names.
    fn input_hash_with(
        &self,
        node: u32,
        registry: &Registry,
        is_told: impl Fn(&TaskBrief, TextHash) -> bool,
    ) -> TextHash {
        let entry = &self.tasks[node as usize];
        let key = |id| self.by_id.get(&id).map(|node| &*self.tasks[*node as usize].brief.key);
        let named = |node: &u32| {
            let made = &self.tasks[*node as usize];
            let text = made.result.as_ref()?;
            Some((&*made.brief.key, replay::result_hash(made.brief.kind, text.hash, Some(&text.body), key)))
        };
        let is_told = |node: &&u32| {
            let made = &self.tasks[**node as usize];
            made.result.as_ref().is_some_and(|text| is_told(&made.brief, text.hash))
        };
        let given = Given {
            goal: &self.brief.goal,
            index: self.index_name,
            above: self.above(node),
            requires: entry.needs.iter().filter_map(named).collect(),
            refers: entry.refers.iter().filter(is_told).filter_map(named).collect(),
        };
        replay::input_hash(registry, &entry.brief, given)
    }

    /// Takes a new INDEX.md, once its tasks are known.
    pub(super) fn set_index(&mut self, index: Option<Text>) {
        let key = |id| self.by_id.get(&id).map(|node| &*self.tasks[*node as usize].brief.key);
        self.index_name = index.as_ref().map(|text| index_hash(&chapters::without(&text.body), key));
        self.index = index;
    }

    /// The change that takes a recorded result over for `attempt`, when there is one that was made from the same.
    pub(super) fn reuse(&mut self, node: u32, attempt: u32, registry: &Registry, at: Timestamp) -> Option<Change> {
        let brief = &self.tasks[node as usize].brief;
        // A text that is taken over leaves nothing in the workspace.
        if self.brief.workspace.is_some() && registry.tools(&brief.role).is_some() {
            return None;
        }
        let key = &brief.key;
        let found = self.reusable.get(key).filter(|_| !self.settings.models.contains_key(&**key))?;
        let was_told = |made: &TaskBrief, result| found.referred.has(made.kind, &made.title, result);
        if found.input != self.input_hash_with(node, registry, was_told) {
            return None;
        }
        let found = self.reusable.remove(&*Arc::clone(key))?;
        let mut change = self.change(at);
        let entry = &mut self.tasks[node as usize];
        let brief = Arc::clone(&entry.brief);
        let id = AttemptId { task: brief.id, number: attempt };
        change.transitions.push(Transition {
            attempts_from: attempt - 1,
            attempts_to: attempt,
            result: Some(found.text.hash),
            model: Some(found.model.clone()),
            ..Transition::new(brief.id, TaskStatus::Pending, TaskStatus::Completed)
        });
        change.attempts.push(NewAttempt {
            id,
            role: brief.role.clone(),
            model: found.model.clone(),
            input_hash: Some(found.input),
        });
        change.attempts_ended.push(replay::end_of_copy(id, found.model.clone()));
        if let Some(context) = found.context {
            change.contexts.push(NewContext {
                id,
                tokens: context.tokens,
                budget: context.budget,
                items: context.items,
                bundle: context.bundle,
                prompt: None,
                tokenizer: context.tokenizer,
            });
        }
        change.copied.push((brief.id, found.from));
        change.events.push(NewEvent::of_task(
            at,
            brief.id,
            Some(attempt),
            EventBody::TaskCompleted {
                key: Arc::clone(&brief.key),
                role: brief.role.clone(),
                model: found.model.into(),
                usage: Usage::default(),
                cost_usd: MicroUsd::ZERO,
                elapsed_ms: 0,
                copied_from: Some(found.from),
            },
        ));
        entry.started_at.get_or_insert(at);
        entry.result = Some(found.text);
        metrics::task_reused();
        Some(change)
    }
}
