//! `/api/v1/runs/{id}/tasks`, `/links` and `/api/v1/next`: a run's tasks in the hands of people and outside agents.
//!
//! **Invariant:** what one request does is one transaction with what follows from it; a run that a process works on answers
//! with a conflict.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::StatusCode,
};
use crewline_runtime::{Changed, Next, Place, TaskCommand, TaskFields, TaskView};
use crewline_types::{Criterion, ErrorKind, LinkKind, Priority, RunId, TaskId, TaskStatus, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{App, Problem};

/// Who changes something, when the client does not say.
pub(crate) const AGENT: &str = "http";

/// Fields of a task.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Fields {
    title: Option<String>,
    description: Option<String>,
    role: Option<String>,
    priority: Option<Priority>,
    /// Seconds; zero takes it away.
    duration: Option<f64>,
    success_criteria: Option<Vec<Criterion>>,
    assignee: Option<String>,
    planned_for: Option<Timestamp>,
    deadline: Option<Timestamp>,
    estimated_hours: Option<f64>,
    actual_hours: Option<f64>,
}

impl Fields {
    fn fields(self) -> Result<Box<TaskFields>, Problem> {
        let duration = match self.duration.map(Duration::try_from_secs_f64) {
            Some(Err(_)) => return Err(invalid("`duration` is a number of seconds, not below zero")),
            Some(Ok(duration)) => Some(duration),
            None => None,
        };
        Ok(Box::new(TaskFields {
            title: self.title,
            description: self.description,
            role: self.role.map(Into::into),
            priority: self.priority,
            duration,
            criteria: self.success_criteria,
            assignee: self.assignee,
            planned_for: self.planned_for.map(Some),
            deadline: self.deadline.map(Some),
            estimated_hours: self.estimated_hours,
            actual_hours: self.actual_hours,
        }))
    }
}

/// `POST /api/v1/runs/{id}/tasks`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewTask {
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    fields: Fields,
    #[serde(default)]
    parent: Option<String>,
    #[serde(default)]
    requires: Vec<String>,
    #[serde(default)]
    refers: Vec<String>,
    #[serde(default)]
    by: Option<String>,
}

/// `PATCH /api/v1/runs/{id}/tasks/{task}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangedFields {
    fields: Fields,
    #[serde(default)]
    by: Option<String>,
}

/// `POST /api/v1/runs/{id}/tasks/{task}/move`: one of the three places.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPlace {
    #[serde(default)]
    below: Option<String>,
    #[serde(default)]
    before: Option<String>,
    #[serde(default)]
    after: Option<String>,
    #[serde(default)]
    by: Option<String>,
}

/// `POST /api/v1/runs/{id}/tasks/{task}/mark`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewMark {
    status: TaskStatus,
    #[serde(default)]
    result: Option<String>,
    #[serde(default)]
    note: Option<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    by: Option<String>,
}

/// `POST …/notes`, `…/skip`: a text, and who says it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Said {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    by: Option<String>,
}

/// `POST …/progress`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewProgress {
    /// 0 to 100.
    percent: u8,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    by: Option<String>,
}

/// `POST …/feedback`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewFeedback {
    /// 1 to 5.
    quality: u8,
    /// 1 to 5.
    timeliness: u8,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    by: Option<String>,
}

/// `DELETE /api/v1/runs/{id}/tasks/{task}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeleteQuery {
    /// Who required it requires it no longer; otherwise they are blocked.
    #[serde(default)]
    unlink: bool,
    #[serde(default)]
    by: Option<String>,
}

/// A link, in a body or a query.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewLink {
    from: String,
    to: String,
    /// `requires` when left out; all kinds when one is taken away.
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    by: Option<String>,
}

/// A link as it is answered.
#[derive(Debug, Serialize)]
pub(crate) struct LinkItem {
    from: std::sync::Arc<str>,
    to: std::sync::Arc<str>,
    kind: LinkKind,
}

/// `GET /api/v1/next`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NextQuery {
    #[serde(default)]
    project: Option<String>,
    #[serde(default)]
    run: Option<String>,
    #[serde(default)]
    agent: Option<String>,
}

/// The path of a task.
pub(crate) type TaskPath = Result<Path<(String, String)>, PathRejection>;
type RunPath = Result<Path<String>, PathRejection>;
type Body<T> = Result<Json<T>, JsonRejection>;

fn invalid(detail: &str) -> Problem {
    Problem::new(ErrorKind::Invalid, "api.invalid_body", detail)
}

/// The task that the path names: a run and a task of it, each by id, its beginning, or key.
pub(crate) async fn find(app: &App, path: TaskPath) -> Result<(RunId, TaskId), Problem> {
    let Path((run, task)) = path?;
    let run = app.handle.find_run(&run).await?;
    Ok((run, app.handle.find_task(run, &task).await?))
}

async fn change(app: &App, run: RunId, command: TaskCommand, by: Option<String>) -> Result<Json<Changed>, Problem> {
    Ok(Json(app.handle.change_tasks(run, &[command], by.as_deref().unwrap_or(AGENT)).await?))
}

fn kind_of(text: &str) -> Result<LinkKind, Problem> {
    LinkKind::parse(text).ok_or_else(|| invalid("`kind` is requires, refers, duplicates or relates_to"))
}

/// `GET /api/v1/runs/{id}/tasks`
pub(crate) async fn list(State(app): State<App>, run: RunPath) -> Result<Json<Vec<TaskView>>, Problem> {
    let run = super::runs::find(&app, run).await?;
    Ok(Json(app.handle.task_views(run).await?))
}

/// `POST /api/v1/runs/{id}/tasks`
pub(crate) async fn add(
    State(app): State<App>,
    run: RunPath,
    body: Body<NewTask>,
) -> Result<(StatusCode, Json<Changed>), Problem> {
    let (run, Json(body)) = (super::runs::find(&app, run).await?, body?);
    let NewTask { key, fields, parent, requires, refers, by } = body;
    let command = TaskCommand::Add { key, fields: fields.fields()?, parent, requires, refers };
    Ok((StatusCode::CREATED, change(&app, run, command, by).await?))
}

/// `GET /api/v1/runs/{id}/tasks/{task}`
pub(crate) async fn show(State(app): State<App>, path: TaskPath) -> Result<Json<TaskView>, Problem> {
    let (run, task) = find(&app, path).await?;
    Ok(Json(app.handle.task_view(run, task).await?))
}

/// `PATCH /api/v1/runs/{id}/tasks/{task}`
pub(crate) async fn update(
    State(app): State<App>,
    path: TaskPath,
    body: Body<ChangedFields>,
) -> Result<Json<Changed>, Problem> {
    let ((run, task), Json(body)) = (find(&app, path).await?, body?);
    let fields = body.fields.fields()?;
    if *fields == TaskFields::default() {
        return Err(invalid("`fields` names nothing that is to be changed"));
    }
    change(&app, run, TaskCommand::Update { task: task.to_string(), fields }, body.by).await
}

/// `DELETE /api/v1/runs/{id}/tasks/{task}`: the task is cancelled, nothing is deleted.
pub(crate) async fn delete(
    State(app): State<App>,
    path: TaskPath,
    query: Result<Query<DeleteQuery>, QueryRejection>,
) -> Result<Json<Changed>, Problem> {
    let ((run, task), Query(query)) = (find(&app, path).await?, query?);
    change(&app, run, TaskCommand::Delete { task: task.to_string(), unlink: query.unlink }, query.by).await
}

/// `POST /api/v1/runs/{id}/tasks/{task}/move`
pub(crate) async fn relocate(
    State(app): State<App>,
    path: TaskPath,
    body: Body<NewPlace>,
) -> Result<Json<Changed>, Problem> {
    let ((run, task), Json(body)) = (find(&app, path).await?, body?);
    let to = match (body.below, body.before, body.after) {
        (Some(name), None, None) => Place::Below(name),
        (None, Some(name), None) => Place::Before(name),
        (None, None, Some(name)) => Place::After(name),
        (_, _, _) => return Err(invalid("give one of `below`, `before` and `after`")),
    };
    change(&app, run, TaskCommand::Move { task: task.to_string(), to }, body.by).await
}

/// `POST /api/v1/runs/{id}/tasks/{task}/mark`
pub(crate) async fn mark(
    State(app): State<App>,
    path: TaskPath,
    body: Body<NewMark>,
) -> Result<Json<Changed>, Problem> {
    let ((run, task), Json(body)) = (find(&app, path).await?, body?);
    let NewMark { status, result, note, metadata, by } = body;
    let command = TaskCommand::Mark { task: task.to_string(), to: status, result, note, metadata };
    change(&app, run, command, by).await
}

/// `POST /api/v1/runs/{id}/tasks/{task}/skip`
pub(crate) async fn skip(State(app): State<App>, path: TaskPath, body: Body<Said>) -> Result<Json<Changed>, Problem> {
    let ((run, task), Json(body)) = (find(&app, path).await?, body?);
    change(&app, run, TaskCommand::Skip { task: task.to_string(), why: body.text }, body.by).await
}

/// `POST /api/v1/runs/{id}/tasks/{task}/notes`
pub(crate) async fn note(State(app): State<App>, path: TaskPath, body: Body<Said>) -> Result<Json<Changed>, Problem> {
    let ((run, task), Json(body)) = (find(&app, path).await?, body?);
    let text = body.text.ok_or_else(|| invalid("`text` is missing: what is noted"))?;
    change(&app, run, TaskCommand::Note { task: task.to_string(), text }, body.by).await
}

/// `POST /api/v1/runs/{id}/tasks/{task}/progress`
pub(crate) async fn progress(
    State(app): State<App>,
    path: TaskPath,
    body: Body<NewProgress>,
) -> Result<Json<Changed>, Problem> {
    let ((run, task), Json(NewProgress { percent, text, by })) = (find(&app, path).await?, body?);
    change(&app, run, TaskCommand::Progress { task: task.to_string(), percent, text }, by).await
}

/// `POST /api/v1/runs/{id}/tasks/{task}/feedback`
pub(crate) async fn feedback(
    State(app): State<App>,
    path: TaskPath,
    body: Body<NewFeedback>,
) -> Result<Json<Changed>, Problem> {
    let ((run, task), Json(body)) = (find(&app, path).await?, body?);
    let NewFeedback { quality, timeliness, text, by } = body;
    change(&app, run, TaskCommand::Feedback { task: task.to_string(), quality, timeliness, text }, by).await
}

/// `GET /api/v1/runs/{id}/links`
pub(crate) async fn links(State(app): State<App>, run: RunPath) -> Result<Json<Vec<LinkItem>>, Problem> {
    let run = super::runs::find(&app, run).await?;
    let views = app.handle.task_views(run).await?;
    let of = |view: TaskView| {
        let from = view.key;
        view.links.into_iter().map(move |link| LinkItem { from: from.clone(), to: link.to, kind: link.kind })
    };
    Ok(Json(views.into_iter().flat_map(of).collect()))
}

/// `POST /api/v1/runs/{id}/links`
pub(crate) async fn link(
    State(app): State<App>,
    run: RunPath,
    body: Body<NewLink>,
) -> Result<(StatusCode, Json<Changed>), Problem> {
    let (run, Json(NewLink { from, to, kind, by })) = (super::runs::find(&app, run).await?, body?);
    let kind = kind_of(kind.as_deref().unwrap_or("requires"))?;
    Ok((StatusCode::CREATED, change(&app, run, TaskCommand::Link { from, to, kind }, by).await?))
}

/// `DELETE /api/v1/runs/{id}/links?from=…&to=…`
pub(crate) async fn unlink(
    State(app): State<App>,
    run: RunPath,
    query: Result<Query<NewLink>, QueryRejection>,
) -> Result<Json<Changed>, Problem> {
    let (run, Query(NewLink { from, to, kind, by })) = (super::runs::find(&app, run).await?, query?);
    let kind = kind.as_deref().map(kind_of).transpose()?;
    change(&app, run, TaskCommand::Unlink { from, to, kind }, by).await
}

/// `GET /api/v1/next`
pub(crate) async fn next(
    State(app): State<App>,
    query: Result<Query<NextQuery>, QueryRejection>,
) -> Result<Json<Next>, Problem> {
    let Query(NextQuery { project, run, agent }) = query?;
    let run = match &run {
        Some(text) => Some(app.handle.find_run(text).await?),
        None => None,
    };
    let project = project.as_deref().unwrap_or("default");
    Ok(Json(app.handle.next_task(project, run, agent.as_deref()).await?))
}
