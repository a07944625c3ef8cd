//! What goes over the wire, and how it becomes or is made from the domain.
//!
//! **Invariant:** unknown fields of a request are refused by name: a misspelt limit must not be no limit.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use crewline_runtime::{
    Approve, Difference, Document, HostReport, Mode, ModelReport, Reloaded, Report, RunRequest, RunSummary,
    ShadowReport, Strategy, TaskReport,
};
use crewline_types::{
    ErrorKind, MicroUsd, Role, RunId, RunLimits, RunStatus, TaskCounts, TaskId, TaskKind, TaskStatus, Timestamp, Usage,
    event::ErrorNote,
};
use serde::{Deserialize, Serialize};

use crate::Problem;

/// Attempts of a run in flight when the client does not say.
const CONCURRENCY: NonZeroUsize = NonZeroUsize::new(16).unwrap();
/// Attempts of a run in flight at most.
const CONCURRENCY_MAX: usize = 1_024;

/// `POST /api/v1/runs`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewRun {
    /// What is to be reached; may be left out when the plan has a goal.
    #[serde(default)]
    pub goal: Option<String>,
    /// The project; `default` when left out.
    #[serde(default)]
    pub project: Option<String>,
    /// A task document instead of planning: `{"goal", "tasks": […]}`.
    #[serde(default)]
    pub plan: Option<Document>,
    /// Hard limits.
    #[serde(default)]
    pub limits: NewLimits,
    /// Attempts in flight at once.
    #[serde(default)]
    pub concurrency: Option<NonZeroUsize>,
    /// Which of the tasks that are ready goes first: `dag` (also when left out), `bfs` or `postorder`.
    #[serde(default)]
    pub strategy: Strategy,
    /// Use models of this machine or a private network only.
    #[serde(default)]
    pub offline: bool,
    /// Refuse a plan that would need repair.
    #[serde(default)]
    pub strict_plan: bool,
    /// What a person wants to be asked about: `plan`, `context`, `tools`.
    #[serde(default)]
    pub approve: Approve,
}

/// The limits of a new run; what is left out has no limit.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewLimits {
    /// US dollars.
    #[serde(default)]
    pub max_cost_usd: Option<MicroUsd>,
    /// US dollars for one task.
    #[serde(default)]
    pub max_task_cost_usd: Option<MicroUsd>,
    /// US dollars for all runs of the project, earlier ones included.
    #[serde(default)]
    pub max_project_cost_usd: Option<MicroUsd>,
    /// Attempts.
    #[serde(default)]
    pub max_steps: Option<u32>,
    /// Seconds.
    #[serde(default)]
    pub max_time_seconds: Option<f64>,
}

/// The answer of `POST /api/v1/registry/reload`.
#[derive(Debug, Serialize)]
pub struct RegistryReloaded {
    /// The hash of the registry that holds now.
    pub registry: String,
    /// What differs from the one before.
    pub differences: Vec<RegistryDifference>,
}

/// One value of a registry that differs.
#[derive(Debug, Serialize)]
pub struct RegistryDifference {
    /// Its place, as `models.cheap.price`.
    pub path: String,
    /// What it was; null when it is new.
    pub before: serde_json::Value,
    /// What it is; null when it is gone.
    pub after: serde_json::Value,
}

impl From<Reloaded> for RegistryReloaded {
    fn from(reloaded: Reloaded) -> Self {
        let of = |it: Difference| RegistryDifference { path: it.path, before: it.before, after: it.after };
        Self {
            registry: reloaded.registry.to_string(),
            differences: reloaded.differences.into_iter().map(of).collect(),
        }
    }
}

impl NewRun {
    /// What the runtime is asked for.
    pub fn into_request(mut self) -> Result<RunRequest, Problem> {
        let goal = self.goal.take().or_else(|| self.plan.as_ref().and_then(|plan| plan.goal.clone()));
        let goal = match goal {
            Some(goal) if !goal.trim().is_empty() => goal,
            Some(_) | None => return Err(invalid("`goal` is missing: give it, or a `plan` with a `goal`")),
        };
        let time_max = match self.limits.max_time_seconds {
            None => None,
            Some(seconds) => match Duration::try_from_secs_f64(seconds) {
                Ok(time) if !time.is_zero() => Some(time),
                Ok(_) | Err(_) => return Err(invalid("`limits.max_time_seconds` must be above zero")),
            },
        };
        let concurrency = self.concurrency.unwrap_or(CONCURRENCY);
        if concurrency.get() > CONCURRENCY_MAX {
            return Err(invalid(format!("`concurrency` must be at most {CONCURRENCY_MAX}")));
        }
        Ok(RunRequest {
            project: self.project.unwrap_or_else(|| "default".to_owned()),
            goal,
            plan: self.plan,
            limits: RunLimits {
                cost_max: self.limits.max_cost_usd,
                task_cost_max: self.limits.max_task_cost_usd,
                project_cost_max: self.limits.max_project_cost_usd,
                steps_max: self.limits.max_steps,
                time_max,
            },
            concurrency,
            strategy: self.strategy,
            mode: if self.offline { Mode::Offline } else { Mode::Online },
            strict_plan: self.strict_plan,
            stop_after_plan: false,
            approve: self.approve,
            // Folders of a server are for those who are on it.
            workspace: None,
        })
    }
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ErrorKind::Invalid, "api.invalid_body", detail)
}

/// The answer to a launch.
#[derive(Debug, Serialize)]
pub struct Launched {
    /// The new run.
    pub run: RunId,
    /// Where its events are.
    pub events: String,
}

/// `GET /api/v1/runs`.
#[derive(Debug, Serialize)]
pub struct RunList {
    /// Newest first.
    pub runs: Vec<RunItem>,
}

/// A run in a list.
#[derive(Debug, Serialize)]
pub struct RunItem {
    /// Its id.
    pub run: RunId,
    /// Its project.
    pub project: String,
    /// Its goal.
    pub goal: String,
    /// How it stands.
    pub status: RunStatus,
    /// The run it was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_run: Option<RunId>,
    /// When it was launched.
    pub created_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Tasks that wait because no model of their chain serves anybody now.
    pub parked: u64,
}

impl From<RunSummary> for RunItem {
    fn from(run: RunSummary) -> Self {
        let RunSummary { run, project, goal, status, parent_run, created_at, finished_at, parked } = run;
        Self { run, project, goal, status, parent_run, created_at, finished_at, parked }
    }
}

/// `GET /api/v1/runs/{id}`.
#[derive(Debug, Serialize)]
pub struct RunDetail {
    /// Its id.
    pub run: RunId,
    /// Its project.
    pub project: Arc<str>,
    /// Its goal.
    pub goal: Arc<str>,
    /// How it stands.
    pub status: RunStatus,
    /// When it was launched.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Wall time in milliseconds.
    pub elapsed_ms: u64,
    /// Cost of all priced calls.
    pub cost_usd: MicroUsd,
    /// Calls whose model has no price.
    pub unpriced_calls: u64,
    /// Calls.
    pub calls: u64,
    /// Copies of questions for candidates, which are in no other figure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowItem>,
    /// Tokens.
    #[serde(flatten)]
    pub usage: Usage,
    /// Where its tasks are.
    pub counts: TaskCounts,
    /// Its tasks, in plan order.
    pub tasks: Vec<TaskItem>,
    /// What each model did.
    pub models: Vec<ModelItem>,
    /// What its requests sent to which host, and received from there.
    pub hosts: Vec<HostItem>,
    /// What had to be repaired in the plan.
    pub repairs: Vec<String>,
    /// Why it did not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorNote>,
}

/// A task of a run.
#[derive(Debug, Serialize)]
pub struct TaskItem {
    /// Its id.
    pub id: TaskId,
    /// Its name inside the plan.
    pub key: Arc<str>,
    /// Its title.
    pub title: Arc<str>,
    /// Who does it.
    pub role: Role,
    /// What it is in the tree.
    pub kind: TaskKind,
    /// Where it is in its life.
    pub status: TaskStatus,
    /// What it requires.
    pub depends_on: Vec<TaskId>,
    /// Attempts so far.
    pub attempts: usize,
    /// The model that made the result.
    pub model: Option<String>,
    /// Tokens of all its attempts.
    #[serde(flatten)]
    pub usage: Usage,
    /// Cost of all its priced calls.
    pub cost_usd: MicroUsd,
    /// When its first attempt began.
    pub started_at: Option<Timestamp>,
    /// When it became final.
    pub finished_at: Option<Timestamp>,
    /// Wall time in milliseconds.
    pub elapsed_ms: Option<u64>,
    /// Why it failed or is blocked.
    pub reason: Option<String>,
}

/// What candidates were asked beside a run.
#[derive(Debug, Serialize)]
pub struct ShadowItem {
    /// Copies that were sent.
    pub calls: u64,
    /// Those whose end is not known.
    pub open: u64,
    /// Those whose answer was accepted.
    pub accepted: u64,
    /// What they cost; one whose end is not known counts with its worst case.
    pub cost_usd: MicroUsd,
}

impl From<ShadowReport> for ShadowItem {
    fn from(shadow: ShadowReport) -> Self {
        let ShadowReport { calls, open, accepted, cost_usd } = shadow;
        Self { calls, open, accepted, cost_usd }
    }
}

/// What one model did in a run.
#[derive(Debug, Serialize)]
pub struct ModelItem {
    /// Its name in the registry.
    pub model: String,
    /// The provider's name in the registry.
    pub provider: String,
    /// Calls.
    pub calls: u64,
    /// Calls that did not end well.
    pub failed_calls: u64,
    /// Tokens.
    #[serde(flatten)]
    pub usage: Usage,
    /// Cost of its priced calls.
    pub cost_usd: MicroUsd,
    /// Its calls without a price.
    pub unpriced_calls: u64,
}

/// What passed between a run and one host.
#[derive(Debug, Serialize)]
pub struct HostItem {
    /// Its name, without a port.
    pub host: Arc<str>,
    /// Where it is: `loopback`, `private` or `remote`.
    pub host_class: &'static str,
    /// Bytes that went there.
    pub sent_bytes: u64,
    /// Bytes that came back.
    pub received_bytes: u64,
}

impl From<HostReport> for HostItem {
    fn from(host: HostReport) -> Self {
        let HostReport { host, host_class, sent_bytes, received_bytes } = host;
        Self { host, host_class: host_class.as_str(), sent_bytes, received_bytes }
    }
}

impl From<Report> for RunDetail {
    fn from(report: Report) -> Self {
        Self {
            run: report.run,
            project: report.project,
            goal: report.goal,
            status: report.status,
            started_at: report.started_at,
            finished_at: report.finished_at,
            elapsed_ms: report.elapsed_ms,
            cost_usd: report.cost_usd,
            unpriced_calls: report.unpriced_calls,
            calls: report.calls,
            shadow: report.shadow.map(ShadowItem::from),
            usage: report.usage,
            counts: report.counts,
            tasks: report.tasks.into_iter().map(TaskItem::from).collect(),
            models: report.models.into_iter().map(ModelItem::from).collect(),
            hosts: report.hosts.into_iter().map(HostItem::from).collect(),
            repairs: report.repairs,
            error: report.error,
        }
    }
}

impl From<TaskReport> for TaskItem {
    fn from(task: TaskReport) -> Self {
        Self {
            id: task.id,
            key: task.key,
            title: task.title,
            role: task.role,
            kind: task.kind,
            status: task.status,
            depends_on: task.depends_on,
            attempts: task.attempts.len(),
            model: task.model,
            usage: task.usage,
            cost_usd: task.cost_usd,
            started_at: task.started_at,
            finished_at: task.finished_at,
            elapsed_ms: task.elapsed_ms,
            reason: task.reason,
        }
    }
}

impl From<ModelReport> for ModelItem {
    fn from(model: ModelReport) -> Self {
        Self {
            model: model.model,
            provider: model.provider,
            calls: model.calls,
            failed_calls: model.failed_calls,
            usage: model.usage,
            cost_usd: model.cost_usd,
            unpriced_calls: model.unpriced_calls,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &str) -> Result<RunRequest, String> {
        let new: NewRun = serde_json::from_str(body).map_err(|error| error.to_string())?;
        new.into_request().map_err(|problem| problem.detail.into())
    }

    #[test]
    fn a_goal_is_enough() {
        let request = request(r#"{"goal": "write a haiku"}"#).unwrap();
        assert_eq!(request.goal, "write a haiku");
        assert_eq!(request.project, "default");
        assert_eq!(request.concurrency.get(), 16);
        assert!(request.limits.cost_max.is_none());
    }

    #[test]
    fn limits_are_read_and_misspelt_ones_refused() {
        let limits =
            request(r#"{"goal": "g", "limits": {"max_cost_usd": 0.5, "max_time_seconds": 1.5}}"#).unwrap().limits;
        assert_eq!(limits.cost_max, Some(MicroUsd(500_000)));
        assert_eq!(limits.time_max, Some(Duration::from_millis(1_500)));
        assert!(request(r#"{"goal": "g", "limits": {"max_costs": 1}}"#).unwrap_err().contains("max_costs"));
        assert!(
            request(r#"{"goal": "g", "limits": {"max_time_seconds": -1}}"#).unwrap_err().contains("max_time_seconds")
        );
    }

    #[test]
    fn a_goal_is_needed() {
        assert!(request("{}").unwrap_err().contains("`goal` is missing"));
        assert!(request(r#"{"goal": "  "}"#).unwrap_err().contains("`goal` is missing"));
    }
}
