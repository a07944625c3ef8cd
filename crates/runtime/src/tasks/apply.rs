//! What each command does to a draft.

use std::sync::Arc;

use crewline_types::{IdSource, LinkKind, Role, Task, TaskId, TaskKind, TaskStatus, Text, event::TaskAction};

use crate::Error;

use super::{
    command::{Place, TaskCommand, TaskFields},
    draft::Draft,
};

use TaskStatus::{AwaitingApproval, Blocked, Cancelled, Completed, Failed, InProgress, Pending};

/// Levels below the root.
pub const DEPTH_MAX: usize = 3;
/// Characters of a key, a title, a note.
const KEY_MAX: usize = 64;
const TITLE_MAX: usize = 200;
const NOTE_MAX: usize = 10_000;
/// Bytes of a result.
const RESULT_MAX: usize = 16 * 1024 * 1024;

impl Draft {
    /// Does one thing.
    pub fn apply(&mut self, command: &TaskCommand, ids: &mut IdSource) -> Result<(), Error> {
        match command {
            TaskCommand::Add { key, fields, parent, requires, refers } => {
                let place = self.add(key.as_deref(), fields, parent.as_deref(), ids)?;
                for (list, kind) in [(requires, LinkKind::Requires), (refers, LinkKind::Refers)] {
                    for name in list {
                        let to = self.place(name)?;
                        self.link(place, to, kind)?;
                    }
                }
                self.lead_to_document(place)
            }
            TaskCommand::Update { task, fields } => self.update(task, fields),
            TaskCommand::Move { task, to } => self.relocate(task, to),
            TaskCommand::Delete { task, unlink } => self.delete(task, *unlink),
            TaskCommand::Skip { task, why } => {
                let place = self.place(task)?;
                self.refuse_unless(place, "skipped", &[Pending, Blocked, InProgress, Failed])?;
                let why = line(why.as_deref().unwrap_or("no reason given"));
                self.set(place, Completed, Some(format!("skipped by {}: {why}", self.agent)));
                self.tell(place, TaskAction::Skipped, why);
                Ok(())
            }
            TaskCommand::Mark { task, to, result, note, metadata } => {
                let place = self.place(task)?;
                self.detail(place).metadata.extend(metadata.clone());
                self.mark(place, *to, result.as_deref(), note.as_deref())
            }
            TaskCommand::Note { task, text } => {
                let place = self.place(task)?;
                let text = text.trim();
                if text.is_empty() || text.chars().count() > NOTE_MAX {
                    return Err(field(format!("a note has 1 to {NOTE_MAX} characters")));
                }
                self.tell(place, TaskAction::Noted, text);
                Ok(())
            }
            TaskCommand::Progress { task, percent, text } => self.progress(task, *percent, text.as_deref()),
            TaskCommand::Feedback { task, quality, timeliness, text } => {
                self.feedback(task, (*quality, *timeliness), text.as_deref())
            }
            TaskCommand::Link { from, to, kind } => {
                let (from, to) = (self.place(from)?, self.place(to)?);
                self.link(from, to, *kind)?;
                let detail = format!("{} {}", kind.as_str(), self.tasks[to].key);
                self.tell(from, TaskAction::Linked, detail);
                self.touched.push(self.tasks[from].id);
                Ok(())
            }
            TaskCommand::Unlink { from, to, kind } => self.unlink(from, to, *kind),
        }
    }

    fn add(
        &mut self,
        key: Option<&str>,
        fields: &TaskFields,
        parent: Option<&str>,
        ids: &mut IdSource,
    ) -> Result<usize, Error> {
        let key = if let Some(key) = key {
            self.new_key(key)?
        } else {
            let mut keys = (self.tasks.len() + 1..).map(|number| format!("t{number}"));
            let is_free = |key: &String| self.tasks.iter().all(|task| *task.key != **key);
            keys.find(is_free).unwrap_or_default()
        };
        let title = fields.title.as_deref().unwrap_or_default();
        if title.trim().is_empty() {
            return Err(field("`title` must not be blank".into()));
        }
        let parent = self.above(parent)?;
        let position = self.tasks.iter().map(|task| task.position).max().unwrap_or(0).saturating_add(1);
        self.tasks.push(Task {
            parent: Some(parent),
            position,
            ..Task::new(TaskId::new(ids), self.row.id, key, Role::from("default"), self.at)
        });
        let place = self.tasks.len() - 1;
        self.set_fields(place, fields)?;
        if self.tasks[place].description.is_empty() {
            self.tasks[place].description = Arc::clone(&self.tasks[place].title);
        }
        self.touched.push(self.tasks[place].id);
        let title = Arc::clone(&self.tasks[place].title);
        self.tell(place, TaskAction::Added, title);
        Ok(place)
    }

    fn new_key(&self, key: &str) -> Result<String, Error> {
        let key = key.trim();
        let is_bad = |it: char| it.is_control() || it.is_whitespace() || it == '/';
        if key.is_empty() || key.chars().count() > KEY_MAX || key.contains(is_bad) || key == &*self.root.key {
            let shown: String = key.chars().take(KEY_MAX).collect();
            return Err(field(format!(
                "`{shown}` is no key: 1 to {KEY_MAX} characters, no blanks, no `/`, not `root`"
            )));
        }
        if self.tasks.iter().any(|task| *task.key == *key) {
            return Err(Error::KeyTaken { run: self.row.id, key: key.to_owned() });
        }
        Ok(key.to_owned())
    }

    /// The task that shall be above another; it becomes one with children.
    fn above(&mut self, name: Option<&str>) -> Result<TaskId, Error> {
        let Some(name) = name.filter(|name| *name != &*self.root.key) else { return Ok(self.root.id) };
        let place = self.place(name)?;
        let depth = self.depth(place) + 1;
        if depth > DEPTH_MAX {
            return Err(field(format!(
                "the tree has {DEPTH_MAX} levels below the root at most, and this would be level {depth}"
            )));
        }
        let task = &self.tasks[place];
        match task.kind {
            TaskKind::Composite => {
                self.refuse_unless(place, "given a task below it", &[Pending, Blocked, Completed, Failed])?;
            }
            TaskKind::Atomic if task.attempts == 0 => {
                self.refuse_unless(place, "given a task below it", &[Pending, Blocked])?;
            }
            TaskKind::Atomic | TaskKind::Root | TaskKind::Synthesis => {
                return Err(Error::TaskState {
                    run: self.row.id,
                    task: task.key.to_string(),
                    status: task.status,
                    what: "given a task below it: it has work of its own",
                });
            }
        }
        let task = &mut self.tasks[place];
        task.kind = TaskKind::Composite;
        let id = task.id;
        self.touched.push(id);
        Ok(id)
    }

    fn depth(&self, place: usize) -> usize {
        let mut depth = 1;
        let mut at = self.tasks[place].parent;
        while let Some(above) = at.and_then(|id| self.place_of(id)).filter(|_| depth <= self.tasks.len()) {
            depth += 1;
            at = self.tasks[above].parent;
        }
        depth
    }

    fn set_fields(&mut self, place: usize, fields: &TaskFields) -> Result<(), Error> {
        let task = &mut self.tasks[place];
        if let Some(title) = &fields.title {
            let title = title.trim();
            if title.is_empty() || title.lines().count() > 1 || title.chars().count() > TITLE_MAX {
                return Err(field(format!("`title` is one line of 1 to {TITLE_MAX} characters")));
            }
            task.title = title.into();
        }
        if let Some(description) = &fields.description {
            if description.trim().is_empty() {
                return Err(field("`description` must not be blank".into()));
            }
            task.description = description.trim().into();
        }
        if let Some(role) = &fields.role {
            if role.as_str().trim().is_empty() {
                return Err(field("`role` must not be blank".into()));
            }
            task.role = role.clone();
        }
        task.priority = fields.priority.unwrap_or(task.priority);
        if let Some(duration) = fields.duration {
            task.duration = Some(duration).filter(|it| !it.is_zero());
        }
        if let Some(criteria) = &fields.criteria {
            task.success_criteria.clone_from(criteria);
        }
        for (name, hours) in [("estimated_hours", fields.estimated_hours), ("actual_hours", fields.actual_hours)] {
            if hours.is_some_and(|it| !it.is_finite() || !(0.0..=100_000.0).contains(&it)) {
                return Err(field(format!("`{name}` is 0 to 100,000")));
            }
        }
        let details = self.detail(place);
        if fields.assignee.is_some() {
            details.assignee = fields.assignee.clone().filter(|it| !it.trim().is_empty());
        }
        details.planned_for = fields.planned_for.unwrap_or(details.planned_for);
        details.deadline = fields.deadline.unwrap_or(details.deadline);
        details.estimated_hours = fields.estimated_hours.or(details.estimated_hours);
        details.actual_hours = fields.actual_hours.or(details.actual_hours);
        Ok(())
    }

    fn update(&mut self, task: &str, fields: &TaskFields) -> Result<(), Error> {
        let place = self.place(task)?;
        if fields.has_work() {
            self.refuse_unless(place, "changed", &[Pending, Blocked, InProgress, Failed, AwaitingApproval])?;
        }
        let old = self.tasks[place].clone();
        self.set_fields(place, fields)?;
        let new = &self.tasks[place];
        let mut names = Vec::new();
        for (name, is_other) in [
            ("title", old.title != new.title),
            ("description", old.description != new.description),
            ("role", old.role != new.role),
            ("priority", old.priority != new.priority),
            ("duration", old.duration != new.duration),
            ("success_criteria", old.success_criteria != new.success_criteria),
            ("assignee", fields.assignee.is_some()),
            ("planned_for", fields.planned_for.is_some()),
            ("deadline", fields.deadline.is_some()),
            ("estimated_hours", fields.estimated_hours.is_some()),
            ("actual_hours", fields.actual_hours.is_some()),
        ] {
            if is_other {
                names.push(name);
            }
        }
        self.tell(place, TaskAction::Updated, names.join(", "));
        Ok(())
    }

    fn relocate(&mut self, task: &str, to: &Place) -> Result<(), Error> {
        let place = self.place(task)?;
        self.refuse_unless(place, "moved", &[Pending, Blocked, InProgress, Failed, Completed])?;
        let id = self.tasks[place].id;
        let old = self.tasks[place].parent;
        let (parent, beside) = match to {
            Place::Below(name) => (self.above(Some(name))?, None),
            Place::Before(name) | Place::After(name) => {
                let other = self.place(name)?;
                (self.tasks[other].parent.unwrap_or(self.root.id), Some(self.tasks[other].id))
            }
        };
        // A task can not stand below itself.
        let mut at = Some(parent);
        while let Some(above) = at {
            if above == id {
                return Err(field(format!("`{}` can not stand below itself", self.tasks[place].key)));
            }
            at = self.place_of(above).and_then(|it| self.tasks[it].parent);
        }
        self.tasks[place].parent = Some(parent);
        let below = self.tasks.iter().filter(|task| task.parent == Some(id)).count();
        if self.depth(place) + usize::from(below > 0) > DEPTH_MAX {
            return Err(field(format!("the tree has {DEPTH_MAX} levels below the root at most")));
        }
        if let Some(beside) = beside.filter(|beside| *beside != id) {
            let task = self.tasks.remove(place);
            let other = self.place_of(beside).unwrap_or_default();
            let at = if matches!(to, Place::After(_)) { other + 1 } else { other };
            self.tasks.insert(at, task);
            for (position, task) in (1_u32..).zip(&mut self.tasks) {
                task.position = position;
            }
        }
        self.refuse_circles()?;
        self.left_by_child(old.filter(|old| *old != parent));
        self.touched.extend([id, parent]);
        let place = self.place_of(id).unwrap_or_default();
        self.tell(place, TaskAction::Moved, where_to(to));
        Ok(())
    }

    fn delete(&mut self, task: &str, unlink: bool) -> Result<(), Error> {
        let place = self.place(task)?;
        let mut open = vec![self.tasks[place].id];
        let mut gone = Vec::new();
        while let Some(id) = open.pop() {
            open.extend(self.tasks.iter().filter(|task| task.parent == Some(id)).map(|task| task.id));
            gone.push(id);
        }
        for id in &gone {
            let Some(place) = self.place_of(*id) else { continue };
            if *id != gone[0] && self.tasks[place].status.is_final() {
                continue;
            }
            self.refuse_unless(place, "deleted", &[Pending, Blocked, InProgress, Failed, AwaitingApproval])?;
            self.set(place, Cancelled, Some(format!("deleted by {}", self.agent)));
            let title = Arc::clone(&self.tasks[place].title);
            self.tell(place, TaskAction::Deleted, title);
        }
        if unlink {
            let users: Vec<TaskId> = self.links.iter().filter(|(_, to, _)| gone.contains(to)).map(|it| it.0).collect();
            self.links.retain(|(_, to, _)| !gone.contains(to));
            self.touched.extend(users);
        } else if let Some(document) = self.tasks.iter().find(|task| task.kind == TaskKind::Synthesis) {
            // The final document is written from what there is.
            let document = document.id;
            self.links.retain(|(from, to, _)| *from != document || !gone.contains(to));
            self.touched.push(document);
        }
        let above = self.place_of(gone[0]).and_then(|place| self.tasks[place].parent);
        self.left_by_child(above);
        Ok(())
    }

    /// What follows for a task that has one less below it: with none left it has work of its own again.
    fn left_by_child(&mut self, above: Option<TaskId>) {
        let Some(above) = above else { return };
        self.touched.push(above);
        let has_more = self.tasks.iter().any(|task| task.parent == Some(above) && task.status != Cancelled);
        if let Some(place) = self.place_of(above)
            && !has_more
            && !self.tasks[place].status.is_final()
        {
            self.tasks[place].kind = TaskKind::Atomic;
        }
    }

    fn mark(&mut self, place: usize, to: TaskStatus, result: Option<&str>, note: Option<&str>) -> Result<(), Error> {
        let has_children = self.tasks[place].kind == TaskKind::Composite;
        if result.is_some() && to != Completed {
            return Err(field("a result belongs to a task that is completed".into()));
        }
        let note = note.map(str::trim).filter(|it| !it.is_empty()).map(line);
        let (allowed, action): (&[TaskStatus], TaskAction) = match to {
            InProgress => (&[Pending], TaskAction::Started),
            Completed => (&[Pending, InProgress, Blocked, Failed], TaskAction::Completed),
            Failed => (&[Pending, InProgress], TaskAction::Failed),
            Pending => (&[InProgress, Failed, Blocked, Cancelled], TaskAction::Reopened),
            Blocked => (&[Pending, InProgress], TaskAction::Blocked),
            Cancelled => {
                let key = self.tasks[place].key.to_string();
                return self.delete(&key, false);
            }
            AwaitingApproval => (&[], TaskAction::Blocked),
        };
        self.refuse_unless(place, marked(to), allowed)?;
        if has_children && to != Blocked && to != Pending {
            return Err(Error::TaskState {
                run: self.row.id,
                task: self.tasks[place].key.to_string(),
                status: self.tasks[place].status,
                what: "marked: it is done when the tasks below it are",
            });
        }
        if to == InProgress {
            self.refuse_unready(place)?;
        }
        let reason = match to {
            Failed | Blocked => Some(note.clone().unwrap_or_else(|| format!("marked by {}", self.agent))),
            Pending | InProgress | Completed | Cancelled | AwaitingApproval => None,
        };
        self.set(place, to, reason);
        if to == Completed {
            if let Some(result) = result {
                if result.trim().is_empty() || result.len() > RESULT_MAX {
                    return Err(field(format!("a result has text, and {RESULT_MAX} bytes at most")));
                }
                let text = Text::from(result.trim());
                self.tasks[place].result = Some(text.hash);
                self.texts.push(text);
            }
            if note.is_some() {
                self.detail(place).completion_summary.clone_from(&note);
            }
        }
        if to == InProgress {
            let agent = self.agent.to_string();
            self.detail(place).assignee = Some(agent);
        }
        self.tell(place, action, note.unwrap_or_default());
        Ok(())
    }

    /// Refuses to begin what still waits for something.
    fn refuse_unready(&self, place: usize) -> Result<(), Error> {
        let vertices = self.vertices();
        let needs = crewline_engine::graph::with_parents(&vertices);
        let open: Vec<String> = needs[place]
            .iter()
            .filter_map(|need| self.tasks.get(*need as usize))
            .filter(|task| task.status != Completed)
            .map(|task| task.key.to_string())
            .collect();
        if open.is_empty() {
            return Ok(());
        }
        Err(Error::NotReady { task: self.tasks[place].key.to_string(), open })
    }

    fn link(&mut self, from: usize, to: usize, kind: LinkKind) -> Result<(), Error> {
        let (one, other) = (&self.tasks[from], &self.tasks[to]);
        if kind == LinkKind::Requires {
            self.refuse_circle(from, to)?;
            // What is done was made without it.
            self.refuse_unless(from, "given a requirement", &[Pending, Blocked, InProgress, Failed])?;
        } else if from == to {
            return Err(field(format!("`{}` can not link to itself", one.key)));
        }
        let link = (one.id, other.id, kind);
        if !self.links.contains(&link) {
            self.links.push(link);
        }
        Ok(())
    }

    fn unlink(&mut self, from: &str, to: &str, kind: Option<LinkKind>) -> Result<(), Error> {
        let (from, to) = (self.place(from)?, self.place(to)?);
        let (one, other) = (self.tasks[from].id, self.tasks[to].id);
        let is_meant = |link: &(TaskId, TaskId, LinkKind)| {
            link.0 == one && link.1 == other && kind.is_none_or(|kind| kind == link.2)
        };
        let kinds: Vec<&str> = self.links.iter().filter(|it| is_meant(it)).map(|it| it.2.as_str()).collect();
        if kinds.is_empty() {
            let id = format!("{} → {}", self.tasks[from].key, self.tasks[to].key);
            return Err(Error::NotFound { what: "link", id });
        }
        let detail = format!("{} {}", kinds.join(", "), self.tasks[to].key);
        self.links.retain(|it| !is_meant(it));
        self.tell(from, TaskAction::Unlinked, detail);
        self.touched.push(one);
        Ok(())
    }

    /// A new task is part of what the final document is written from.
    fn lead_to_document(&mut self, place: usize) -> Result<(), Error> {
        let document = self.tasks.iter().position(|task| task.kind == TaskKind::Synthesis && !task.status.is_final());
        match document {
            Some(document) if self.refuse_circle(document, place).is_ok() => {
                self.link(document, place, LinkKind::Requires)
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn field(message: String) -> Error {
    Error::TaskField { message }
}

/// The text in one line.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(NOTE_MAX).collect()
}

fn where_to(place: &Place) -> String {
    match place {
        Place::Below(name) => format!("below {name}"),
        Place::Before(name) => format!("before {name}"),
        Place::After(name) => format!("after {name}"),
    }
}

fn marked(to: TaskStatus) -> &'static str {
    match to {
        Pending => "marked as pending",
        InProgress => "marked as in_progress",
        Blocked => "marked as blocked",
        AwaitingApproval => "marked as awaiting_approval: a run asks for that itself",
        Completed => "marked as completed",
        Failed => "marked as failed",
        Cancelled => "marked as cancelled",
    }
}
