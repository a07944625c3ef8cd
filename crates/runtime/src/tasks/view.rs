//! Tasks as people and outside agents see them, and which of them is next.

use std::{collections::HashMap, sync::Arc};

use crewline_engine::{
    context::estimate_tokens,
    graph::{is_ready, with_parents},
    route::Traits,
    schedule::{Graph, Job},
};
use crewline_types::{
    Criterion, Event, EventBody, LinkKind, Priority, Role, RunId, RunStatus, TaskDetails, TaskId, TaskKind, TaskStatus,
    Timestamp, event::TaskAction,
};
use serde::Serialize;

use crate::{Error, Handle, settings::Settings};

use super::draft::Draft;

/// Runs that are looked through for the next task.
const RUNS_MAX: u32 = 200;
/// Events of one page.
const PAGE: u32 = 1_000;

/// A task.
#[derive(Debug, Clone, Serialize)]
pub struct TaskView {
    /// The run.
    pub run: RunId,
    /// Its id.
    pub id: TaskId,
    /// Its name inside the plan.
    pub key: Arc<str>,
    /// Its title.
    pub title: Arc<str>,
    /// What is to be done.
    pub description: Arc<str>,
    /// Who does it.
    pub role: Role,
    /// What it is in the tree.
    pub kind: TaskKind,
    /// Where it is.
    pub status: TaskStatus,
    /// Whether it can be worked on now.
    pub ready: bool,
    /// How much it matters.
    pub priority: Priority,
    /// The key of the task above it; none below the root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<Arc<str>>,
    /// How long it should take, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    /// How to tell that it is done.
    pub success_criteria: Vec<Criterion>,
    /// Its links: what they mean, and the key of the other task.
    pub links: Vec<LinkView>,
    /// Why it failed or is blocked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether its deadline has passed and it is not done.
    pub overdue: bool,
    /// What people say about it.
    #[serde(flatten)]
    pub details: TaskDetails,
    /// When it became final.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// What was noted, oldest first; only of a single task.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<NoteView>,
}

impl TaskView {
    /// How hard it looks, as the rules of a role see it.
    pub fn complexity(&self) -> u8 {
        let requires = self.links.iter().filter(|link| link.kind == LinkKind::Requires).count();
        let tokens = estimate_tokens(&self.description);
        Traits::of(&self.title, &self.description, tokens, self.success_criteria.len(), requires).complexity.score()
    }
}

/// A link of a task.
#[derive(Debug, Clone, Serialize)]
pub struct LinkView {
    /// What it means.
    pub kind: LinkKind,
    /// The key of the other task.
    pub to: Arc<str>,
}

/// A note.
#[derive(Debug, Clone, Serialize)]
pub struct NoteView {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub agent: Arc<str>,
    /// What.
    pub text: Arc<str>,
}

/// The next task of a project or a run.
#[derive(Debug, Clone, Serialize)]
pub struct Next {
    /// The task; none when nothing is ready.
    pub task: Option<TaskView>,
    /// Tasks that are ready.
    pub ready: usize,
    /// Tasks that would be, but are planned for later.
    pub planned: usize,
    /// When the first of them may begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planned_for: Option<Timestamp>,
    /// Tasks that somebody works on.
    pub in_progress: usize,
    /// Tasks that wait for others.
    pub waiting: usize,
    /// Tasks that are blocked.
    pub blocked: usize,
}

impl Handle {
    /// The tasks of a run, by their place in the plan, without the root.
    pub async fn task_views(&self, run: RunId) -> Result<Vec<TaskView>, Error> {
        // Seen as nobody: a look changes nothing.
        let row = self.row(run).await?;
        let recorded = super::draft::Recorded {
            tasks: self.store().tasks(run).await?,
            links: self.store().links(run).await?,
            details: self.store().details(run).await?,
            index: None,
            row,
        };
        let now = self.deps().clock.now();
        Ok(views(&Draft::new(recorded, now, "")?))
    }

    /// One task with what was noted on it.
    pub async fn task_view(&self, run: RunId, task: TaskId) -> Result<TaskView, Error> {
        let views = self.task_views(run).await?;
        let mut view = views
            .into_iter()
            .find(|it| it.id == task)
            .ok_or_else(|| Error::NotFound { what: "task", id: task.to_string() })?;
        let mut after = 0;
        loop {
            let events = self.store().events(run, after, PAGE).await?;
            after = events.last().map_or(after, |event| event.seq);
            let is_last = events.len() < PAGE as usize;
            view.notes.extend(events.into_iter().filter(|event| event.task == Some(task)).filter_map(note));
            if is_last {
                return Ok(view);
            }
        }
    }

    /// The task that can be worked on and goes first: of a run, or of a project's runs that are not over and that nobody works
    /// on, the newest first. One that is assigned to somebody else than `agent` is left to them.
    pub async fn next_task(&self, project: &str, run: Option<RunId>, agent: Option<&str>) -> Result<Next, Error> {
        let runs = if let Some(run) = run {
            vec![run]
        } else {
            let rows = self.store().runs(Some(project), RUNS_MAX).await?;
            let is_open = |status: RunStatus| match status {
                RunStatus::Interrupted | RunStatus::LimitReached => true,
                RunStatus::Running | RunStatus::Completed | RunStatus::Failed | RunStatus::Cancelled => false,
            };
            rows.into_iter().filter(|row| is_open(row.status)).map(|row| row.id).collect()
        };
        let mut next =
            Next { task: None, ready: 0, planned: 0, planned_for: None, in_progress: 0, waiting: 0, blocked: 0 };
        for run in runs {
            let strategy = Settings::of(&self.row(run).await?)?.strategy;
            let views = self.task_views(run).await?;
            let now = self.deps().clock.now();
            let is_for = |view: &TaskView| match (&view.details.assignee, agent) {
                (Some(assignee), Some(agent)) => assignee == agent,
                (Some(_) | None, _) => true,
            };
            let may_start = |view: &TaskView| view.details.planned_for.is_none_or(|at| at <= now);
            let order = order(&views, strategy);
            let ready: Vec<&TaskView> = order
                .into_iter()
                .filter_map(|place| views.get(place))
                .filter(|view| view.ready && is_for(view) && may_start(view))
                .collect();
            next.ready += ready.len();
            if next.task.is_none() {
                next.task = ready.first().map(|view| (*view).clone());
            }
            for view in views.iter().filter(|view| view.ready && !may_start(view)) {
                next.planned += 1;
                let at = view.details.planned_for;
                next.planned_for = next.planned_for.into_iter().chain(at).min();
            }
            for view in &views {
                match view.status {
                    TaskStatus::InProgress | TaskStatus::AwaitingApproval => next.in_progress += 1,
                    TaskStatus::Pending => next.waiting += usize::from(!view.ready),
                    TaskStatus::Blocked => next.blocked += 1,
                    TaskStatus::Completed | TaskStatus::Failed | TaskStatus::Cancelled => {}
                }
            }
        }
        Ok(next)
    }
}

fn note(event: Event) -> Option<NoteView> {
    match event.body {
        EventBody::TaskChanged { action: TaskAction::Noted | TaskAction::Refused, agent, detail, .. } => {
            Some(NoteView { at: event.at, agent, text: detail })
        }
        _ => None,
    }
}

/// The places of tasks in the order in which a run takes them: by urgency, then priority, then place.
fn order(views: &[TaskView], strategy: crewline_engine::schedule::Strategy) -> Vec<usize> {
    let places: HashMap<&str, u32> = views.iter().map(|view| &*view.key).zip(0..).collect();
    let needs = |view: &TaskView| {
        let requires = view.links.iter().filter(|link| link.kind == LinkKind::Requires);
        requires.filter_map(|link| places.get(&*link.to).copied()).collect()
    };
    let jobs =
        views.iter().map(|view| Job { needs: needs(view), priority: view.priority, duration: view.duration }).collect();
    let mut order: Vec<usize> = (0..views.len()).collect();
    if let Ok(graph) = Graph::new(jobs) {
        let urgencies = graph.urgencies(strategy);
        order.sort_by(|one, other| {
            urgencies[*other]
                .cmp(&urgencies[*one])
                .then(views[*other].priority.cmp(&views[*one].priority))
                .then(one.cmp(other))
        });
    }
    order
}

fn views(draft: &Draft) -> Vec<TaskView> {
    let vertices = draft.vertices();
    let needs = with_parents(&vertices);
    let keys: HashMap<TaskId, Arc<str>> = draft.tasks.iter().map(|task| (task.id, Arc::clone(&task.key))).collect();
    let mut links: HashMap<TaskId, Vec<LinkView>> = HashMap::new();
    for (from, to, kind) in &draft.links {
        if let Some(to) = keys.get(to) {
            links.entry(*from).or_default().push(LinkView { kind: *kind, to: Arc::clone(to) });
        }
    }
    draft
        .tasks
        .iter()
        .zip(vertices.iter().zip(&needs))
        .map(|(task, (vertex, needs))| {
            let details = draft.details.get(&task.id).cloned().unwrap_or_default();
            TaskView {
                run: task.run,
                id: task.id,
                key: Arc::clone(&task.key),
                title: Arc::clone(&task.title),
                description: Arc::clone(&task.description),
                role: task.role.clone(),
                kind: task.kind,
                status: task.status,
                ready: is_ready(vertex, needs, &vertices),
                priority: task.priority,
                parent: task.parent.and_then(|id| keys.get(&id).cloned()),
                duration: task.duration.map(|it| it.as_secs_f64()),
                success_criteria: task.success_criteria.clone(),
                links: links.remove(&task.id).unwrap_or_default(),
                reason: task.reason.clone(),
                overdue: details.deadline.is_some_and(|at| at < draft.at) && !task.status.is_final(),
                details,
                finished_at: task.finished_at,
                notes: Vec::new(),
            }
        })
        .collect()
}
