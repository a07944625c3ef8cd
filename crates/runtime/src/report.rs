//! What a run made, tried and cost, as `report.json`, `show` and the API tell it.
//!
//! **Invariant:** every figure is summed from what is recorded; nothing is remembered beside the database.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use crewline_store::{AttemptStatus, CallRow, Origin, RunRow, ShadowSum, Store};
use crewline_types::{
    EventBody, HostBytes, LinkKind, MicroUsd, Role, RunId, RunStatus, Task, TaskCounts, TaskId, TaskKind, TaskStatus,
    Timestamp, Traffic, Usage,
    event::{CallOutcome, ErrorNote, TaskAction},
    model::Locality,
};
use serde::Serialize;

use crate::Error;

/// The kind of the event that tells the plan.
const PLAN_EVENT: &str = "plan_ready";
/// The kind of the events that tell what was done to a task.
const CHANGE_EVENT: &str = "task_changed";

/// A run in one line.
#[derive(Debug, Clone, Serialize)]
pub struct RunSummary {
    /// The run.
    pub run: RunId,
    /// Its project.
    pub project: String,
    /// Its goal.
    pub goal: String,
    /// Where it is in its life.
    pub status: RunStatus,
    /// The run it was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_run: Option<RunId>,
    /// When it was launched.
    pub created_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Tasks that wait because no model of their chain serves anybody now.
    #[serde(skip_serializing_if = "is_zero")]
    pub parked: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The runs in a line each.
pub async fn summaries(store: &Store, rows: Vec<RunRow>) -> Result<Vec<RunSummary>, Error> {
    let running: Vec<RunId> = rows.iter().filter(|row| row.status == RunStatus::Running).map(|row| row.id).collect();
    let parked = store.parked(&running).await?;
    let summary = |row: RunRow| RunSummary { parked: parked.get(&row.id).copied().unwrap_or(0), ..row.into() };
    Ok(rows.into_iter().map(summary).collect())
}

impl From<RunRow> for RunSummary {
    fn from(row: RunRow) -> Self {
        Self {
            parked: 0,
            run: row.id,
            project: row.project.to_string(),
            goal: row.goal.to_string(),
            status: row.status,
            parent_run: row.lineage.map(|it| it.parent),
            created_at: row.created_at,
            finished_at: row.finished_at,
        }
    }
}

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The run.
    pub run: RunId,
    /// Its project.
    pub project: Arc<str>,
    /// Its goal.
    pub goal: Arc<str>,
    /// Where it is in its life.
    pub status: RunStatus,
    /// The run it was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_run: Option<RunId>,
    /// How it was made from that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// When it was launched.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// From launch to end, or to its last recorded attempt.
    pub elapsed_ms: u64,
    /// Cost of all priced calls.
    pub cost_usd: MicroUsd,
    /// Calls whose model has no price.
    pub unpriced_calls: u64,
    /// Model calls.
    pub calls: u64,
    /// Copies of questions for candidates, which are in no other figure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowReport>,
    /// Tokens.
    #[serde(flatten)]
    pub usage: Usage,
    /// Where its tasks are; the root task is not counted.
    pub counts: TaskCounts,
    /// Its tasks, the root task first.
    pub tasks: Vec<TaskReport>,
    /// What each model did.
    pub models: Vec<ModelReport>,
    /// What its requests sent to which host, and received from there.
    pub hosts: Vec<HostReport>,
    /// What had to be repaired in the plan.
    pub repairs: Vec<String>,
    /// Further tasks that specialists asked for and that did not enter the plan, each with its author and the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
    /// Why it did not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorNote>,
}

impl Report {
    /// The task whose output is the final document: the first that no other requires, and that stands below none.
    pub fn last_task(&self) -> Option<&TaskReport> {
        let required: HashSet<TaskId> = self.tasks.iter().flat_map(|task| task.depends_on.iter().copied()).collect();
        let composite = self.tasks.iter().filter(|task| task.kind == TaskKind::Composite);
        let above: HashSet<TaskId> = composite.map(|task| task.id).collect();
        self.tasks.iter().find(|task| {
            task.kind != TaskKind::Root
                && task.status != TaskStatus::Cancelled
                && !required.contains(&task.id)
                && !task.parent.is_some_and(|parent| above.contains(&parent))
        })
    }
}

/// What candidates were asked beside a run, and what that cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ShadowReport {
    /// Copies that were sent.
    pub calls: u64,
    /// Those whose end is not known.
    pub open: u64,
    /// Those whose answer was accepted.
    pub accepted: u64,
    /// What they cost; one whose end is not known counts with its worst case.
    pub cost_usd: MicroUsd,
}

impl From<ShadowSum> for ShadowReport {
    fn from(sum: ShadowSum) -> Self {
        Self { calls: sum.calls, open: sum.open, accepted: sum.accepted, cost_usd: sum.cost }
    }
}

/// What passed between a run and one host: addresses and bodies of requests, bodies of answers, as far as it is recorded how
/// their calls ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostReport {
    /// Its name, without a port.
    pub host: Arc<str>,
    /// Where it is, as far as its name tells.
    pub host_class: Locality,
    /// Bytes that went there.
    pub sent_bytes: u64,
    /// Bytes that came back.
    pub received_bytes: u64,
}

fn host_reports(traffic: &Traffic) -> Vec<HostReport> {
    let report = |(host, bytes): (&Arc<str>, &HostBytes)| HostReport {
        host_class: Locality::of_host(host),
        host: Arc::clone(host),
        sent_bytes: bytes.sent,
        received_bytes: bytes.received,
    };
    traffic.iter().map(report).collect()
}

/// A task of a run.
#[derive(Debug, Clone, Serialize)]
pub struct TaskReport {
    /// Its id.
    pub id: TaskId,
    /// Its name inside the plan.
    pub key: Arc<str>,
    /// Its title.
    pub title: Arc<str>,
    /// Who did it.
    pub role: Role,
    /// What it is in the tree.
    pub kind: TaskKind,
    /// Where it is in its life.
    pub status: TaskStatus,
    /// The task above it; none for the root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    /// The tasks it requires.
    pub depends_on: Vec<TaskId>,
    /// How long it should take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planned_ms: Option<u64>,
    /// When it begins at the earliest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planned_for: Option<Timestamp>,
    /// When it shall be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// The model that made its result.
    #[serde(skip_serializing_if = "Option::is_none")]
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
    /// From start to end.
    pub elapsed_ms: Option<u64>,
    /// Why it failed or is blocked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The task of another run whose result it took over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copied_from: Option<TaskId>,
    /// The task whose specialist asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<TaskId>,
    /// Its document, relative to the output folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
    /// Its attempts, oldest first.
    pub attempts: Vec<AttemptReport>,
    /// The hash of its result.
    #[serde(skip)]
    pub result: Option<crewline_types::TextHash>,
}

/// One try of a task.
#[derive(Debug, Clone, Serialize)]
pub struct AttemptReport {
    /// 1 for the first.
    pub number: u32,
    /// Who tried.
    pub role: Role,
    /// The model that answered, or was asked first.
    pub model: String,
    /// `running`, `succeeded` or `failed`.
    pub status: AttemptStatus,
    /// Tokens.
    #[serde(flatten)]
    pub usage: Usage,
    /// Cost of its priced calls.
    pub cost_usd: MicroUsd,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// From start to end.
    pub elapsed_ms: Option<u64>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorNote>,
    /// Its calls, oldest first.
    pub calls: Vec<CallReport>,
}

/// One model call.
#[derive(Debug, Clone, Serialize)]
pub struct CallReport {
    /// Its id.
    pub call: String,
    /// What for: `plan`, `plan_again`, `task`, `synthesis` or `summary`.
    pub purpose: String,
    /// The model's name in the registry.
    pub model: String,
    /// The provider's name in the registry.
    pub provider: String,
    /// How it ended; none while it runs.
    pub outcome: Option<CallOutcome>,
    /// Tokens.
    #[serde(flatten)]
    pub usage: Usage,
    /// Cost; null when the model has no price.
    pub cost_usd: Option<MicroUsd>,
    /// Duration.
    pub elapsed_ms: u64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorNote>,
}

/// What a model did in a run.
#[derive(Debug, Clone, Serialize)]
pub struct ModelReport {
    /// Its name in the registry.
    pub model: String,
    /// The provider's name in the registry.
    pub provider: String,
    /// Calls.
    pub calls: u64,
    /// Calls that did not lead to an answer.
    pub failed_calls: u64,
    /// Tokens.
    #[serde(flatten)]
    pub usage: Usage,
    /// Cost of its calls.
    pub cost_usd: MicroUsd,
    /// Calls without a price.
    pub unpriced_calls: u64,
}

fn millis(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX)
}

/// Reads the report of `run`.
pub async fn report(store: &Store, run: RunId) -> Result<Report, Error> {
    let row = store.run(run).await?.ok_or_else(|| Error::NotFound { what: "run", id: run.to_string() })?;
    let tasks = store.tasks(run).await?;
    let mut copies = if row.lineage.is_some() { store.copies(run).await? } else { HashMap::new() };
    let details = store.details(run).await?;
    let links = store.links(run).await?;
    let attempts = store.attempts(run).await?;
    let calls = store.calls(run).await?;
    let asked_beside = store.shadow_sum(run).await?;
    let traffic = store.traffic(run).await?;
    let repairs = match store.first_event(run, PLAN_EVENT).await?.map(|event| event.body) {
        Some(EventBody::PlanReady { repairs, .. }) => repairs,
        Some(_) | None => Vec::new(),
    };
    let changes = store.events_of_kind(run, CHANGE_EVENT).await?;
    let refused = changes.into_iter().filter_map(|event| match event.body {
        EventBody::TaskChanged { key, action: TaskAction::Refused, detail, .. } => {
            Some(format!("{key} asked for {detail}"))
        }
        _ => None,
    });

    let mut needs: HashMap<TaskId, Vec<TaskId>> = HashMap::new();
    for (from, to, kind) in links {
        if kind == LinkKind::Requires {
            needs.entry(from).or_default().push(to);
        }
    }
    let mut usage = Usage::default();
    let mut cost_usd = MicroUsd::ZERO;
    let mut models: BTreeMap<(String, String), ModelReport> = BTreeMap::new();
    let mut by_attempt: HashMap<crewline_types::AttemptId, Vec<CallReport>> = HashMap::new();
    let call_count = calls.len() as u64;
    for call in calls {
        usage += call.usage;
        cost_usd += call.cost.unwrap_or_default();
        let model = models.entry((call.model.clone(), call.provider.clone())).or_insert_with(|| ModelReport {
            model: call.model.clone(),
            provider: call.provider.clone(),
            calls: 0,
            failed_calls: 0,
            usage: Usage::default(),
            cost_usd: MicroUsd::ZERO,
            unpriced_calls: 0,
        });
        model.calls += 1;
        model.failed_calls += u64::from(call.outcome.is_some_and(|outcome| outcome != CallOutcome::Ok));
        model.usage += call.usage;
        model.cost_usd += call.cost.unwrap_or_default();
        model.unpriced_calls += u64::from(call.outcome.is_some() && call.cost.is_none());
        by_attempt.entry(call.id.attempt).or_default().push(call_report(call));
    }
    let mut last_at = row.created_at;
    let mut by_task: HashMap<TaskId, Vec<AttemptReport>> = HashMap::new();
    for attempt in attempts {
        last_at = last_at.max(attempt.finished_at.unwrap_or(attempt.started_at));
        by_task.entry(attempt.id.task).or_default().push(AttemptReport {
            number: attempt.id.number,
            role: attempt.role,
            model: attempt.model,
            status: attempt.status,
            usage: attempt.usage,
            cost_usd: attempt.cost,
            started_at: attempt.started_at,
            finished_at: attempt.finished_at,
            elapsed_ms: attempt.finished_at.map(|at| millis(attempt.started_at, at)),
            error: attempt.error,
            calls: by_attempt.remove(&attempt.id).unwrap_or_default(),
        });
    }
    let mut counts = TaskCounts::default();
    for task in tasks.iter().filter(|task| task.kind != TaskKind::Root) {
        counts.add(task.status);
    }
    let tasks = tasks
        .into_iter()
        .map(|task| {
            let needs = needs.remove(&task.id).unwrap_or_default();
            let attempts = by_task.remove(&task.id).unwrap_or_default();
            let copied_from = copies.remove(&task.id);
            let said = details.get(&task.id);
            let (planned_for, deadline) = (said.and_then(|it| it.planned_for), said.and_then(|it| it.deadline));
            TaskReport { planned_for, deadline, copied_from, ..task_report(task, needs, attempts) }
        })
        .collect();
    Ok(Report {
        run,
        project: row.project,
        goal: row.goal,
        status: row.status,
        parent_run: row.lineage.map(|it| it.parent),
        origin: row.lineage.map(|it| it.origin),
        started_at: row.created_at,
        finished_at: row.finished_at,
        elapsed_ms: millis(row.created_at, row.finished_at.unwrap_or(last_at)),
        cost_usd,
        unpriced_calls: models.values().map(|model| model.unpriced_calls).sum(),
        calls: call_count,
        shadow: (asked_beside.calls > 0).then(|| asked_beside.into()),
        usage,
        counts,
        tasks,
        models: models.into_values().collect(),
        hosts: host_reports(&traffic),
        repairs,
        refused: refused.collect(),
        error: row.error.as_deref().and_then(|text| serde_json::from_str(text).ok()),
    })
}

pub(crate) fn call_report(call: CallRow) -> CallReport {
    CallReport {
        call: call.id.to_string(),
        purpose: call.purpose,
        model: call.model,
        provider: call.provider,
        outcome: call.outcome,
        usage: call.usage,
        cost_usd: call.cost,
        elapsed_ms: u64::try_from(call.elapsed.as_millis()).unwrap_or(u64::MAX),
        error: call.error,
    }
}

fn task_report(task: Task, depends_on: Vec<TaskId>, attempts: Vec<AttemptReport>) -> TaskReport {
    let document = task.result.filter(|_| task.kind != TaskKind::Root).map(|_| document_name(task.id, &task.title));
    TaskReport {
        document,
        id: task.id,
        key: task.key,
        title: task.title,
        role: task.role,
        kind: task.kind,
        status: task.status,
        parent: task.parent,
        depends_on,
        planned_for: None,
        deadline: None,
        planned_ms: task.duration.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX)),
        model: task.model,
        usage: task.usage,
        cost_usd: task.cost,
        started_at: task.started_at,
        finished_at: task.finished_at,
        elapsed_ms: task.started_at.zip(task.finished_at).map(|(from, to)| millis(from, to)),
        reason: task.reason,
        copied_from: None,
        created_by: task.created_by,
        attempts,
        result: task.result,
    }
}

/// `tasks/<id>-<slug>.md`; the slug has only characters that every file system takes.
fn document_name(id: TaskId, title: &str) -> String {
    let mut slug = String::new();
    for c in title.chars() {
        if slug.len() >= 48 {
            break;
        }
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.ends_with('-') && !slug.is_empty() {
            slug.push('-');
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() { format!("tasks/{id}.md") } else { format!("tasks/{id}-{slug}.md") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_names_are_plain() {
        let id: TaskId = "aaaaaaaa".parse().unwrap();
        assert_eq!(document_name(id, "Gather the Facts!"), "tasks/aaaaaaaa-gather-the-facts.md");
        assert_eq!(document_name(id, "../../etc/passwd"), "tasks/aaaaaaaa-etc-passwd.md");
        assert_eq!(document_name(id, "日本"), "tasks/aaaaaaaa.md");
        assert!(document_name(id, &"long ".repeat(100)).len() < 80);
    }
}
