//! Why a model is asked or not, as events keep it and people read it.

use std::sync::Arc;

use crewline_engine::{
    context::estimate_tokens,
    route::{self, Decision, Health, Mode, Request, Traits, View},
};
use crewline_models::Registry;
use crewline_store::Store;
use crewline_types::{EventBody, MicroUsd, Role, RunId, TaskId, TaskKind, event::Candidate};
use serde::Serialize;

use crate::{Error, experience, find::CANDIDATES_MAX};

/// Every model of a chain and why it was or was not asked, in the order of asking.
pub(crate) fn candidates(decision: &Decision) -> Arc<[Candidate]> {
    let asked = decision.rungs.iter().map(|it| (&it.model.alias, true, it.reason.to_string()));
    let skipped = decision.skipped.iter().map(|it| (&it.alias, false, it.reason.to_string()));
    asked
        .chain(skipped)
        .map(|(alias, may_be_asked, reason)| Candidate {
            model: alias.as_str().into(),
            may_be_asked,
            reason: reason.into(),
        })
        .collect()
}

/// A task that could be asked.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// Who asks.
    pub role: Role,
    /// What the task is in the tree.
    pub kind: TaskKind,
    /// What is to be done.
    pub text: &'a str,
    /// Which models may be asked.
    pub mode: Mode,
    /// What may be spent.
    pub cost_max: Option<MicroUsd>,
}

/// One decision about an attempt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explained {
    /// The attempt; none for a task that was only imagined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Who asks.
    pub role: Role,
    /// How hard a task looks that was only imagined: 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complexity: Option<u8>,
    /// The tags of a task that was only imagined.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Every model of the chain, in the order of asking.
    pub candidates: Arc<[Candidate]>,
}

/// Whom the router would ask now. No model is asked; health is that of a process that has just started.
pub async fn explain(registry: &Registry, store: &Store, question: &Question<'_>) -> Result<Explained, Error> {
    let learned = experience::read(store).await?;
    let input_tokens = estimate_tokens(question.text);
    let traits = Traits::of("", question.text, input_tokens, 0, 0);
    let request =
        Request { role: &question.role, kind: question.kind, input_tokens, mode: question.mode, traits: &traits };
    let view = View {
        chain: registry.chain(&question.role),
        health: &|_| Health::Up,
        remaining: question.cost_max,
        learned: Some(&learned),
        rules: registry.routes(&question.role),
        is_loaded: route::NOBODY_KNOWS,
    };
    let candidates = candidates(&route::choose(&request, &view));
    let complexity = Some(traits.complexity.score());
    Ok(Explained { attempt: None, role: question.role.clone(), complexity, tags: traits.tags, candidates })
}

/// How the router decided about the attempts of a task; `prefix` is the beginning of its id.
pub async fn explain_task(store: &Store, prefix: &str) -> Result<(TaskId, Vec<Explained>), Error> {
    let found = store.find_tasks(prefix, CANDIDATES_MAX).await?;
    let (task, run): (TaskId, RunId) = match found.as_slice() {
        [] => return Err(Error::NotFound { what: "task", id: prefix.chars().take(40).collect() }),
        [one] => *one,
        several => {
            let candidates = several.iter().map(|(task, _)| task.to_string()).collect();
            return Err(Error::Ambiguous { prefix: prefix.into(), candidates });
        }
    };
    let mut decisions = Vec::new();
    for event in store.task_starts(run, task).await? {
        if let EventBody::TaskStarted { role, route, .. } = event.body {
            decisions.push(Explained {
                attempt: event.attempt,
                role,
                complexity: None,
                tags: Vec::new(),
                candidates: route,
            });
        }
    }
    Ok((task, decisions))
}
