//! From an output back to all that it was made from.
//!
//! **Invariant:** everything told is recorded; what is not known, as parameters of a registry that changed since, is left out.

use std::{collections::HashMap, sync::Arc};

use crewline_engine::{
    citations::{self, Citations},
    context::{Provenance, kept},
};
use crewline_store::{AttemptRow, AttemptStatus, ContextRow, Store};
use crewline_types::{AttemptId, Role, RunId, TaskId, TaskKind, TaskStatus, TextHash, Timestamp};
use serde::Serialize;

use crate::{CallReport, Error, Handle, Snapshot};

/// What an output was made from.
#[derive(Debug, Clone, Serialize)]
pub struct Trace {
    /// The run.
    pub run: RunId,
    /// Its goal.
    pub goal: Arc<str>,
    /// The task that made it.
    pub task: TaskId,
    /// Its name inside the plan.
    pub key: Arc<str>,
    /// Its title.
    pub title: Arc<str>,
    /// Who did it.
    pub role: Role,
    /// What it is in the tree.
    pub kind: TaskKind,
    /// Where it is.
    pub status: TaskStatus,
    /// Names the output.
    pub output: Option<TextHash>,
    /// The task of another run whose result it took over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copied_from: Option<TaskId>,
    /// The attempt that made it; none when a person did.
    pub attempt: Option<TracedAttempt>,
    /// What the attempt was told, and why.
    pub context: Option<Snapshot>,
    /// The parameters of its calls, when the registry is still the one the run began with.
    pub parameters: Option<Parameters>,
    /// Names the registry that the run began with.
    pub registry: TextHash,
    /// What it cites.
    pub citations: Option<Citations>,
}

/// The attempt that made an output.
#[derive(Debug, Clone, Serialize)]
pub struct TracedAttempt {
    /// 1 for the first.
    pub number: u32,
    /// The model that answered.
    pub model: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Names all it was made from but memories.
    pub inputs: Option<TextHash>,
    /// Its calls with the hash of each prompt, oldest first.
    pub calls: Vec<TracedCall>,
}

/// A call of the attempt.
#[derive(Debug, Clone, Serialize)]
pub struct TracedCall {
    /// Names the prompt.
    pub prompt: TextHash,
    /// The call.
    #[serde(flatten)]
    pub call: CallReport,
}

/// What a call is sent with.
#[derive(Debug, Clone, Serialize)]
pub struct Parameters {
    /// The provider's name of the model.
    pub model: String,
    /// Tokens of the answer at most.
    pub output_tokens_max: u32,
    /// The temperature, when the registry sets one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// What the registry tells the role.
    pub instructions: String,
}

impl Handle {
    /// What the output of a task was made from.
    pub async fn trace(&self, run: RunId, task: TaskId) -> Result<Trace, Error> {
        let store = self.store();
        let row = self.row(run).await?;
        let made = store.work(&[task]).await?.pop();
        let made = made.ok_or_else(|| Error::NotFound { what: "task", id: task.to_string() })?.task;
        let attempts = store.attempts(run).await?;
        let maker = attempts
            .into_iter()
            .filter(|it| it.id.task == task && it.status == AttemptStatus::Succeeded)
            .max_by_key(|it| it.id.number);
        let context = match &maker {
            Some(attempt) => {
                let name = attempt.id.to_string();
                self.snapshots(run, task).await?.into_iter().find(|it| it.attempt == name)
            }
            None => None,
        };
        let text = match made.result {
            Some(hash) => store.texts(&[hash]).await?.remove(&hash),
            None => None,
        };
        let citations = match (&text, &context) {
            (Some(text), Some(context)) => Some(citations::check(text, &context.items)),
            (_, _) => None,
        };
        let copied_from = if row.lineage.is_some() { store.copies(run).await?.remove(&task) } else { None };
        let deps = self.deps();
        let alias = maker.as_ref().map(|it| it.model.clone());
        let registry = deps.registry();
        let parameters = alias.filter(|_| registry.hash() == row.registry).and_then(|alias| {
            let spec = registry.model(&alias)?;
            let role_max = registry.output_tokens_max(&made.role).unwrap_or(u32::MAX);
            Some(Parameters {
                model: spec.alias.as_str().into(),
                output_tokens_max: spec.output_tokens_max.min(role_max),
                temperature: registry.temperature(&made.role),
                instructions: crate::attempt::instructions(&registry, &made.role).to_owned(),
            })
        });
        let attempt = match maker {
            Some(attempt) => Some(traced(store, run, attempt).await?),
            None => None,
        };
        Ok(Trace {
            run,
            goal: row.goal,
            task,
            key: made.key,
            title: made.title,
            role: made.role,
            kind: made.kind,
            status: made.status,
            output: made.result,
            copied_from,
            attempt,
            context,
            parameters,
            registry: row.registry,
            citations,
        })
    }
}

async fn traced(store: &Store, run: RunId, attempt: AttemptRow) -> Result<TracedAttempt, Error> {
    let calls = store.calls(run).await?.into_iter().filter(|call| call.id.attempt == attempt.id);
    let calls = calls.map(|call| TracedCall { prompt: call.input_hash, call: crate::report::call_report(call) });
    Ok(TracedAttempt {
        number: attempt.id.number,
        model: attempt.model,
        started_at: attempt.started_at,
        finished_at: attempt.finished_at,
        inputs: attempt.input_hash,
        calls: calls.collect(),
    })
}

/// A task whose citations are not as they should be.
#[derive(Debug, Clone, Serialize)]
pub struct CitationReport {
    /// The task.
    pub task: TaskId,
    /// Its name inside the plan.
    pub key: Arc<str>,
    /// What is wrong.
    #[serde(flatten)]
    pub citations: Citations,
}

/// What attempts of a run were told, by attempt.
pub async fn contexts(store: &Store, run: RunId) -> Result<HashMap<AttemptId, Vec<Provenance>>, Error> {
    let rows: Vec<ContextRow> = store.contexts_of_run(run).await?;
    // What can not be read was written by another version: nothing is said of it then.
    Ok(rows.into_iter().filter_map(|row| Some((row.id, kept::read(&row.items).ok()?))).collect())
}
