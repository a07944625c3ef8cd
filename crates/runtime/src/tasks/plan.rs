//! A run as a plan: recorded without being run, shown as a document, changed by another document.

use std::{collections::HashMap, time::Duration};

use crewline_engine::plan::{Document, DocumentTask, Times};
use crewline_types::{LinkKind, RunId, TaskKind, TaskStatus};

use crate::{Error, Handle, verify};

use super::{Changed, TaskCommand, TaskFields, TaskView};

impl Handle {
    /// A run's plan as a document that can be run again.
    pub async fn plan_document(&self, run: RunId) -> Result<Document, Error> {
        let goal = self.row(run).await?.goal;
        Ok(document_of(&goal, &self.task_views(run).await?))
    }

    /// Makes the plan of a run the one that `document` says: tasks are matched by their ids.
    pub async fn edit_plan(&self, run: RunId, document: &Document, agent: &str) -> Result<Changed, Error> {
        self.checked(document, verify::Workspace::Unknown)?;
        if !document.preface.is_empty() {
            let message =
                "`rules`, `glossary` and `decisions` stand in INDEX.md now: change them with `crewline index edit`";
            return Err(Error::TaskField { message: message.into() });
        }
        let commands = changes(&self.task_views(run).await?, document);
        self.change_tasks(run, &commands, agent).await
    }
}

/// The document of a plan; tasks that were cancelled, and the one that is added for the final document, are not of it.
pub fn document_of(goal: &str, views: &[TaskView]) -> Document {
    let tasks = views.iter().filter(|view| is_of_document(view)).map(|view| DocumentTask {
        id: view.key.to_string(),
        title: view.title.to_string(),
        description: view.description.to_string(),
        role: Some(view.role.to_string()),
        depends_on: requires(view),
        success_criteria: view.success_criteria.clone(),
        priority: Some(view.priority),
        duration: view.duration,
        times: times_of(view),
        place: None,
    });
    Document { goal: Some(goal.to_owned()), tasks: tasks.collect(), ..Document::default() }
}

fn is_of_document(view: &TaskView) -> bool {
    view.status != TaskStatus::Cancelled && view.kind != TaskKind::Synthesis
}

fn requires(view: &TaskView) -> Vec<String> {
    let links = view.links.iter().filter(|link| link.kind == LinkKind::Requires);
    links.map(|link| link.to.to_string()).collect()
}

/// What makes the tasks of a run those of `document`: links go first, so that none closes a circle with one that goes too.
fn changes(views: &[TaskView], document: &Document) -> Vec<TaskCommand> {
    let old: HashMap<&str, &TaskView> =
        views.iter().filter(|view| is_of_document(view)).map(|view| (&*view.key, view)).collect();
    let new: HashMap<&str, &DocumentTask> = document.tasks.iter().map(|task| (task.id.trim(), task)).collect();
    let (mut unlinks, mut deletes, mut adds, mut updates, mut links) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for view in views.iter().filter(|view| is_of_document(view)) {
        match new.get(&*view.key) {
            None => deletes.push(TaskCommand::Delete { task: view.key.to_string(), unlink: true }),
            Some(task) => {
                let wanted: Vec<&str> = task.depends_on.iter().map(|it| it.trim()).collect();
                for need in requires(view).into_iter().filter(|need| !wanted.contains(&&**need)) {
                    let kind = Some(LinkKind::Requires);
                    unlinks.push(TaskCommand::Unlink { from: view.key.to_string(), to: need, kind });
                }
                let fields = differing(view, task);
                if fields != TaskFields::default() {
                    updates.push(TaskCommand::Update { task: view.key.to_string(), fields: Box::new(fields) });
                }
            }
        }
    }
    for task in &document.tasks {
        let key = task.id.trim();
        let has = old.get(key).map(|view| requires(view)).unwrap_or_default();
        if !old.contains_key(key) {
            adds.push(TaskCommand::Add {
                key: Some(key.to_owned()),
                fields: Box::new(fields_of(task)),
                parent: None,
                requires: Vec::new(),
                refers: Vec::new(),
            });
        }
        for need in task.depends_on.iter().map(|it| it.trim()).filter(|need| !has.iter().any(|it| it == need)) {
            links.push(TaskCommand::Link { from: key.to_owned(), to: need.to_owned(), kind: LinkKind::Requires });
        }
    }
    [unlinks, deletes, adds, updates, links].into_iter().flatten().collect()
}

fn fields_of(task: &DocumentTask) -> TaskFields {
    let filled = |text: &str| Some(text.trim().to_owned()).filter(|it| !it.is_empty());
    TaskFields {
        title: filled(&task.title).or_else(|| filled(&task.description)).map(|it| first_line(&it)),
        description: filled(&task.description),
        role: task.role.as_deref().map(Into::into),
        priority: task.priority,
        duration: Some(task.duration.and_then(|it| Duration::try_from_secs_f64(it).ok()).unwrap_or_default()),
        criteria: Some(task.success_criteria.clone()),
        planned_for: Some(task.times.planned_for),
        deadline: Some(task.times.deadline),
        ..TaskFields::default()
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(100).collect()
}

/// The fields of `task` that are other than those of `view`.
fn differing(view: &TaskView, task: &DocumentTask) -> TaskFields {
    let new = fields_of(task);
    TaskFields {
        title: new.title.filter(|it| **it != *view.title),
        description: new.description.filter(|it| **it != *view.description),
        role: new.role.filter(|it| *it != view.role),
        priority: Some(new.priority.unwrap_or_default()).filter(|it| *it != view.priority),
        duration: new.duration.filter(|it| *it != duration_of(view)),
        criteria: new.criteria.filter(|it| *it != view.success_criteria),
        planned_for: new.planned_for.filter(|it| *it != view.details.planned_for),
        deadline: new.deadline.filter(|it| *it != view.details.deadline),
        ..TaskFields::default()
    }
}

fn times_of(view: &TaskView) -> Times {
    Times { planned_for: view.details.planned_for, deadline: view.details.deadline }
}

fn duration_of(view: &TaskView) -> Duration {
    view.duration.and_then(|it| Duration::try_from_secs_f64(it).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crewline_types::{Priority, Role, TaskDetails};

    use super::{super::view::LinkView, *};

    fn view(key: &str, needs: &[&str]) -> TaskView {
        TaskView {
            run: "rrrrrrrr".parse().unwrap(),
            id: format!("task000{key}").parse().unwrap(),
            key: key.into(),
            title: key.into(),
            description: "Do it".into(),
            role: Role::from("writer"),
            kind: TaskKind::Atomic,
            status: TaskStatus::Pending,
            ready: false,
            priority: Priority::default(),
            parent: None,
            duration: None,
            success_criteria: Vec::new(),
            links: needs.iter().map(|to| LinkView { kind: LinkKind::Requires, to: Arc::from(*to) }).collect(),
            reason: None,
            overdue: false,
            details: TaskDetails::default(),
            finished_at: None,
            notes: Vec::new(),
        }
    }

    #[test]
    fn the_same_document_changes_nothing() {
        let views = [view("a", &[]), view("b", &["a"])];
        assert_eq!(changes(&views, &document_of("goal", &views)), []);
    }

    #[test]
    fn what_differs_is_what_is_done() {
        let views = [view("a", &[]), view("b", &["a"]), view("c", &[])];
        let mut document = document_of("goal", &views);
        document.tasks.remove(2);
        document.tasks[1].depends_on.clear();
        document.tasks[0].title = "New".into();
        document.tasks[0].depends_on.push("d".into());
        document.tasks.push(DocumentTask { id: "d".into(), title: "D".into(), ..DocumentTask::default() });
        let done: Vec<String> = changes(&views, &document)
            .iter()
            .map(|it| match it {
                TaskCommand::Unlink { from, to, .. } => format!("{from} no longer {to}"),
                TaskCommand::Delete { task, .. } => format!("delete {task}"),
                TaskCommand::Add { key, .. } => format!("add {}", key.as_deref().unwrap()),
                TaskCommand::Update { task, fields } => format!("update {task} {:?}", fields.title),
                TaskCommand::Link { from, to, .. } => format!("{from} requires {to}"),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(done, ["b no longer a", "delete c", "add d", "update a Some(\"New\")", "a requires d"]);
    }
}
