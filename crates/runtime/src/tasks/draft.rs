//! A run's tasks as they shall be, and what was recorded of them.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use crewline_engine::graph::{Vertex, closing_path, with_parents};
use crewline_store::RunRow;
use crewline_types::{
    EventBody, LinkKind, RunId, Task, TaskDetails, TaskId, TaskKind, TaskStatus, Text, Timestamp,
    event::{NewEvent, TaskAction},
};

use crate::{Error, find::pick};

/// A link of the graph.
pub type Link = (TaskId, TaskId, LinkKind);

/// What is recorded of a run.
pub struct Recorded {
    pub row: RunRow,
    pub tasks: Vec<Task>,
    pub links: Vec<Link>,
    pub details: HashMap<TaskId, TaskDetails>,
    pub index: Option<Arc<str>>,
}

/// A run's tasks as they shall be.
pub struct Draft {
    pub(super) row: RunRow,
    pub(super) root: Task,
    /// All others, by position.
    pub(super) tasks: Vec<Task>,
    pub(super) links: Vec<Link>,
    pub(super) details: HashMap<TaskId, TaskDetails>,
    pub(super) index: Option<Arc<str>>,
    pub(super) before: HashMap<TaskId, Task>,
    pub(super) links_before: HashSet<Link>,
    pub(super) detailed: BTreeSet<TaskId>,
    /// Tasks whose status was changed by a command.
    pub(super) touched: Vec<TaskId>,
    pub(super) events: Vec<NewEvent>,
    pub(super) texts: Vec<Text>,
    pub(super) at: Timestamp,
    pub(super) agent: Arc<str>,
}

impl Draft {
    /// The draft in which nothing is changed yet.
    pub fn new(recorded: Recorded, at: Timestamp, agent: &str) -> Result<Self, Error> {
        let Recorded { row, mut tasks, links, details, index } = recorded;
        let root = tasks.iter().position(|task| task.kind == TaskKind::Root).map(|place| tasks.remove(place));
        let root = root.ok_or_else(|| Error::NotFound { what: "root task of run", id: row.id.to_string() })?;
        let before = tasks.iter().chain([&root]).map(|task| (task.id, task.clone())).collect();
        let links_before = links.iter().copied().collect();
        Ok(Self {
            row,
            root,
            tasks,
            links,
            details,
            index,
            before,
            links_before,
            detailed: BTreeSet::new(),
            touched: Vec::new(),
            events: Vec::new(),
            texts: Vec::new(),
            at,
            agent: agent.into(),
        })
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.row.id
    }

    /// The place of the task that `name` names.
    pub(super) fn place(&self, name: &str) -> Result<usize, Error> {
        let id = pick(&self.tasks, name)?;
        Ok(self.place_of(id).unwrap_or_default())
    }

    pub(super) fn place_of(&self, id: TaskId) -> Option<usize> {
        self.tasks.iter().position(|task| task.id == id)
    }

    /// An event that says what was done to a task.
    pub(super) fn tell(&mut self, place: usize, action: TaskAction, detail: impl Into<Arc<str>>) {
        let task = &self.tasks[place];
        let body = EventBody::TaskChanged {
            key: Arc::clone(&task.key),
            action,
            agent: Arc::clone(&self.agent),
            detail: detail.into(),
        };
        self.events.push(NewEvent::of_task(self.at, task.id, None, body));
        let agent = self.agent.to_string();
        self.detail(place).last_agent = Some(agent);
    }

    /// The details of a task, to be changed.
    pub(super) fn detail(&mut self, place: usize) -> &mut TaskDetails {
        let id = self.tasks[place].id;
        self.detailed.insert(id);
        self.details.entry(id).or_default()
    }

    /// Sets where a task is.
    pub(super) fn set(&mut self, place: usize, to: TaskStatus, reason: Option<String>) {
        let task = &mut self.tasks[place];
        task.status = to;
        task.reason = reason;
        self.touched.push(task.id);
    }

    /// The tasks as the engine sees them.
    pub(super) fn vertices(&self) -> Vec<Vertex> {
        let places: HashMap<TaskId, u32> = self.tasks.iter().map(|task| task.id).zip(0..).collect();
        let mut vertices: Vec<Vertex> = self
            .tasks
            .iter()
            .map(|task| Vertex {
                status: task.status,
                kind: task.kind,
                parent: task.parent.and_then(|parent| places.get(&parent).copied()),
                needs: Vec::new(),
            })
            .collect();
        for (from, to, kind) in &self.links {
            if let (LinkKind::Requires, Some(from), Some(to)) = (kind, places.get(from), places.get(to)) {
                vertices[*from as usize].needs.push(*to);
            }
        }
        vertices
    }

    /// Refuses that `from` requires `to` when that would close a circle.
    pub(super) fn refuse_circle(&self, from: usize, to: usize) -> Result<(), Error> {
        let needs = with_parents(&self.vertices());
        let index = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        match closing_path(&needs, index(from), index(to)) {
            None => Ok(()),
            Some(path) => Err(self.circle(&path)),
        }
    }

    /// Refuses a graph that is one already, after a change of the tree.
    pub(super) fn refuse_circles(&self) -> Result<(), Error> {
        let needs = with_parents(&self.vertices());
        let jobs = needs.into_iter().map(|needs| crewline_engine::schedule::Job {
            needs,
            priority: crewline_types::Priority::default(),
            duration: None,
        });
        match crewline_engine::schedule::Graph::new(jobs.collect()) {
            Ok(_) => Ok(()),
            Err(crewline_engine::schedule::Cycle::Closed { path }) => Err(self.circle(&path)),
            Err(error @ crewline_engine::schedule::Cycle::Dangling { .. }) => {
                Err(Error::TaskField { message: error.to_string() })
            }
        }
    }

    fn circle(&self, path: &[u32]) -> Error {
        let key = |place: &u32| self.tasks.get(*place as usize).map_or_else(String::new, |task| task.key.to_string());
        Error::Circle { path: path.iter().map(key).collect() }
    }

    /// Refuses what a task's status does not allow.
    pub(super) fn refuse_unless(&self, place: usize, what: &'static str, allowed: &[TaskStatus]) -> Result<(), Error> {
        let task = &self.tasks[place];
        if allowed.contains(&task.status) {
            return Ok(());
        }
        Err(Error::TaskState { run: self.row.id, task: task.key.to_string(), status: task.status, what })
    }
}
