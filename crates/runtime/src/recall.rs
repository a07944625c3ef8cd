//! What memory knows of a task; an attempt goes on without memory when it does not answer.

use std::sync::Arc;

use crewline_engine::context::{Item, Tier};
use crewline_memory::{Filter, Hit, Query};
use crewline_types::{ProjectScope, TaskId, Text, TextHash};

use crate::{actor::ask, attempt::Deps, memory};

/// What is asked of memory.
#[derive(Debug)]
pub struct Question<'a> {
    /// Whose memory.
    pub scope: &'a ProjectScope,
    /// The task that wants to know; what it made itself is not told.
    pub task: TaskId,
    /// What it is about.
    pub text: String,
    /// Memories at most.
    pub limit: usize,
}

/// Items of what memory knows; not of tasks that `known` names already.
pub async fn recall(deps: &Deps, question: Question<'_>, known: &[Item]) -> Vec<Item> {
    let Some(memory) = deps.rooms.memory.current().filter(|_| question.limit > 0) else { return Vec::new() };
    let mut tasks: Vec<TaskId> = known.iter().filter_map(|it| it.source.strip_prefix("task:")?.parse().ok()).collect();
    tasks.push(question.task);
    let query = Query {
        text: question.text,
        vector: None,
        filter: Filter { exclude_tasks: tasks, ..Filter::default() },
        limit: question.limit,
    };
    let scope = question.scope.clone();
    match ask(&memory, deps.limits.recall, |reply| memory::Message::Recall(scope, query, reply)).await {
        Ok(hits) => hits.into_iter().map(recalled).collect(),
        Err(error) => {
            tracing::warn!(task_id = %question.task, %error, "recall failed, going on without memory");
            Vec::new()
        }
    }
}

fn recalled(hit: Hit) -> Item {
    let record = hit.record;
    let source = match record.task {
        Some(task) => format!("task:{task}"),
        None => format!("memory:{}", record.id),
    };
    Item {
        tier: Tier::Retrieved,
        source: source.into(),
        kind: record.kind.as_str().into(),
        title: record.agent.clone(),
        text: Text { hash: TextHash::of(&record.text), body: Arc::clone(&record.text) },
        score: hit.score,
    }
}
