//! Two runs side by side, task by task.
//!
//! **Invariant:** tasks are matched by their key, never by place or id.

use std::collections::HashMap;

use crewline_types::{MicroUsd, RunId, RunStatus, TaskId, TaskKind, TaskStatus, TextHash, Usage};
use serde::Serialize;

use crate::{Error, Handle, Report, TaskReport};

/// Two runs side by side.
#[derive(Debug, Clone, Serialize)]
pub struct Diff {
    /// The first run.
    pub left: RunSide,
    /// The second run.
    pub right: RunSide,
    /// Whether goal, tasks and results are the same.
    pub is_same: bool,
    /// Their tasks, in the order of the first run.
    pub tasks: Vec<TaskDiff>,
}

/// A run as a whole.
#[derive(Debug, Clone, Serialize)]
pub struct RunSide {
    /// The run.
    pub run: RunId,
    /// Its goal.
    pub goal: String,
    /// Where it is in its life.
    pub status: RunStatus,
    /// Model calls.
    pub calls: u64,
    /// Tokens.
    #[serde(flatten)]
    pub usage: Usage,
    /// Cost of its priced calls.
    pub cost_usd: MicroUsd,
    /// From launch to end.
    pub elapsed_ms: u64,
}

/// A task in both runs.
#[derive(Debug, Clone, Serialize)]
pub struct TaskDiff {
    /// Its name inside the plans.
    pub key: String,
    /// How the two differ.
    pub result: Verdict,
    /// In the first run.
    pub left: Option<Side>,
    /// In the second run.
    pub right: Option<Side>,
}

/// How a task differs between two runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Status and result are the same.
    Same,
    /// Status or result differ.
    Different,
    /// Only the first run has it.
    OnlyLeft,
    /// Only the second run has it.
    OnlyRight,
}

impl Verdict {
    /// The name used in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Different => "different",
            Self::OnlyLeft => "only_left",
            Self::OnlyRight => "only_right",
        }
    }
}

/// A task in one run.
#[derive(Debug, Clone, Serialize)]
pub struct Side {
    /// Its title.
    pub title: String,
    /// Where it is in its life.
    pub status: TaskStatus,
    /// The model that made its result.
    pub model: Option<String>,
    /// The task whose result it took over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copied_from: Option<TaskId>,
    /// Attempts.
    pub attempts: usize,
    /// Names its result.
    pub result: Option<TextHash>,
    /// Tokens of all its attempts.
    #[serde(flatten)]
    pub usage: Usage,
    /// Cost of its priced calls.
    pub cost_usd: MicroUsd,
    /// From start to end.
    pub elapsed_ms: Option<u64>,
    /// Its result, when texts are wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Whether results are read, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Texts {
    /// Of tasks whose results differ.
    OfDifferent,
    /// None.
    None,
}

impl Handle {
    /// Compares two runs; with `key`, one task of them only.
    pub async fn diff(&self, left: RunId, right: RunId, key: Option<&str>, texts: Texts) -> Result<Diff, Error> {
        let mut diff = compare(&self.report(left).await?, &self.report(right).await?);
        if let Some(key) = key {
            diff.tasks.retain(|task| task.key == key);
            if diff.tasks.is_empty() {
                return Err(Error::NotFound { what: "task", id: key.chars().take(40).collect() });
            }
        }
        if texts == Texts::OfDifferent {
            for task in diff.tasks.iter_mut().filter(|task| task.result != Verdict::Same) {
                for side in [&mut task.left, &mut task.right].into_iter().flatten() {
                    let Some(hash) = side.result else { continue };
                    side.text = self.store().texts(&[hash]).await?.remove(&hash).map(|text| text.to_string());
                }
            }
        }
        Ok(diff)
    }
}

fn compare(left: &Report, right: &Report) -> Diff {
    let mut others: HashMap<&str, &TaskReport> = plan_of(right).map(|task| (&*task.key, task)).collect();
    let mut tasks: Vec<TaskDiff> = plan_of(left)
        .map(|task| {
            let other = others.remove(&*task.key);
            let is_same = |other: &TaskReport| other.status == task.status && other.result == task.result;
            TaskDiff {
                key: task.key.to_string(),
                result: match other {
                    Some(other) if is_same(other) => Verdict::Same,
                    Some(_) => Verdict::Different,
                    None => Verdict::OnlyLeft,
                },
                left: Some(side(task)),
                right: other.map(side),
            }
        })
        .collect();
    tasks.extend(plan_of(right).filter(|task| others.contains_key(&*task.key)).map(|task| TaskDiff {
        key: task.key.to_string(),
        result: Verdict::OnlyRight,
        left: None,
        right: Some(side(task)),
    }));
    Diff {
        is_same: left.goal == right.goal && tasks.iter().all(|task| task.result == Verdict::Same),
        left: run_side(left),
        right: run_side(right),
        tasks,
    }
}

fn plan_of(report: &Report) -> impl Iterator<Item = &TaskReport> {
    report.tasks.iter().filter(|task| task.kind != TaskKind::Root)
}

fn run_side(report: &Report) -> RunSide {
    RunSide {
        run: report.run,
        goal: report.goal.to_string(),
        status: report.status,
        calls: report.calls,
        usage: report.usage,
        cost_usd: report.cost_usd,
        elapsed_ms: report.elapsed_ms,
    }
}

fn side(task: &TaskReport) -> Side {
    Side {
        title: task.title.to_string(),
        status: task.status,
        model: task.model.clone(),
        copied_from: task.copied_from,
        attempts: task.attempts.len(),
        result: task.result,
        usage: task.usage,
        cost_usd: task.cost_usd,
        elapsed_ms: task.elapsed_ms,
        text: None,
    }
}
