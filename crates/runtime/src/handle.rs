//! The one door of the runtime: what the CLI and the API may ask for.
//!
//! **Invariant:** a launched run is a row before it is a message; whoever has its id can find it after a crash.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crewline_engine::{
    plan::{self, Document},
    route::Mode,
};
use crewline_memory::{Embedded, Hybrid};
use crewline_store::{Change, Claim, Committed, NewRun, Store, Transition};
use crewline_types::{
    Event, EventBody, IdSource, Priority, Role, RunId, RunLimits, RunStatus, Task, TaskId, TaskKind, TaskStatus, Usage,
    event::NewEvent,
};
use ractor::{Actor, ActorRef};
use tokio::sync::broadcast;

use crate::{
    Config, Error, Limits, Report, RunSummary,
    actor::ask,
    attempt::Deps,
    documents,
    health::Health,
    hub::{Hub, News},
    journal,
    lock::RunLock,
    manager, memory,
    planning::{self, Author, Below},
    prompt::Prompts,
    report,
    rooms::Rooms,
    root::{self, Root},
    settings::Settings,
};

/// Wait for an answer of the root.
const ROOT_LIMIT: Duration = Duration::from_secs(10);
/// Events of one page read from the database.
const PAGE: u32 = 512;
/// How often a watcher looks into the database although nobody told it to.
const POLL: Duration = Duration::from_secs(1);

/// What a run is launched with.
#[derive(Debug, Clone)]
pub struct RunRequest {
    /// The namespace of its memory.
    pub project: String,
    /// What is wanted.
    pub goal: String,
    /// A plan, instead of planning.
    pub plan: Option<Document>,
    /// The hard limits.
    pub limits: RunLimits,
    /// Attempts at once.
    pub concurrency: NonZeroUsize,
    /// Which hosts may be asked.
    pub mode: Mode,
    /// Refuse a plan that needs repair.
    pub strict_plan: bool,
    /// Stop when the plan is recorded; `resume` runs it.
    pub stop_after_plan: bool,
}

/// What a resumed run changes of what it was launched with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overrides {
    /// New hard limits.
    pub limits: Option<RunLimits>,
    /// Attempts at once.
    pub concurrency: Option<NonZeroUsize>,
    /// Which hosts may be asked.
    pub mode: Option<Mode>,
}

/// The runtime. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    root: ActorRef<root::Message>,
    deps: Arc<Deps>,
    store: Store,
    hub: Hub,
    ids: Arc<Mutex<IdSource>>,
    node: Arc<str>,
    locks: Option<PathBuf>,
}

impl Handle {
    /// Starts the actors. The database is open and migrated already.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let Config { store, registry, models, memory, clock, node, locks, prompts, limits } = config;
        let rooms = Rooms::default();
        let hub = Hub::default();
        let deps = Arc::new(Deps {
            rooms,
            models,
            health: Health::new(&registry),
            roles: registry.roles().into_iter().collect(),
            registry,
            prompts: Prompts::load(prompts.as_deref())?,
            clock,
            limits,
        });
        let args = root::Args {
            deps: Arc::clone(&deps),
            journal: journal::Args { store: store.clone(), hub: hub.clone(), commit_limit: limits.commit },
            memory: memory::Args {
                store: store.clone(),
                index: Hybrid::new(Embedded::new(), memory.qdrant),
                embedder: memory.embedder,
            },
        };
        let (root, _) = Actor::spawn(None, Root, args).await.map_err(|error| Error::Spawn(error.to_string()))?;
        let ids = Arc::new(Mutex::new(IdSource::random()));
        Ok(Self { root, deps, store, hub, ids, node: node.into(), locks })
    }

    /// Records a run and starts its manager.
    pub async fn launch(&self, request: RunRequest) -> Result<RunId, Error> {
        self.admit().await?;
        let plan = match &request.plan {
            Some(document) => Some(self.checked(document)?),
            None => None,
        };
        self.refuse_unpriced(&request.limits)?;
        let at = self.deps.clock.now();
        let (id, root_id) = {
            let mut ids = self.ids();
            (RunId::new(&mut ids), TaskId::new(&mut ids))
        };
        let lock = self.lock(id)?;
        let settings = Settings {
            limits: request.limits,
            concurrency: request.concurrency,
            offline: matches!(request.mode, Mode::Offline),
            strict_plan: request.strict_plan,
            stop_after_plan: request.stop_after_plan,
        };
        let run = NewRun {
            id,
            project: request.project.as_str().into(),
            goal: request.goal.as_str().into(),
            settings: settings_text(&settings),
            registry: self.deps.registry.hash(),
            at,
        };
        self.store.create_run(&run, &root_task(id, root_id, &request.goal, at)).await?;
        let epoch = self.store.claim_run(id, &self.node, self.deps.limits.lease, Claim::IfFree).await?;
        let mut change = Change::new(id, epoch, at);
        change.events.push(NewEvent::of_run(
            at,
            EventBody::RunStarted { project: run.project.clone(), goal: run.goal.clone(), resumed: false },
        ));
        if let Some(plan) = plan {
            let below = Below { run: id, root: root_id, goal: &request.goal, at };
            let rows = planning::rows(below, &plan, Author::Person, &mut self.ids(), self.deps.limits.index_tokens);
            change.transitions.push(Transition::new(root_id, TaskStatus::Pending, TaskStatus::InProgress));
            change.index = Some(rows.index.hash);
            change.texts.push(rows.index);
            change.events.push(NewEvent::of_run(at, EventBody::PlanReady { tasks: rows.entries, repairs: Vec::new() }));
            change.tasks = rows.tasks;
            change.links = rows.links;
        }
        self.commit(id, change).await?;
        self.start_manager(id, lock).await?;
        Ok(id)
    }

    /// Continues a run that was interrupted, reached a limit or lost its process. Returns the `seq` to watch after.
    pub async fn resume(&self, id: RunId, overrides: Overrides) -> Result<u64, Error> {
        self.admit().await?;
        let lock = self.lock(id)?;
        let row = self.store.run(id).await?.ok_or_else(|| Error::NotFound { what: "run", id: id.to_string() })?;
        match row.status {
            RunStatus::Running | RunStatus::Interrupted | RunStatus::LimitReached => {}
            RunStatus::Completed | RunStatus::Failed | RunStatus::Cancelled => {
                return Err(Error::Finished { run: id, status: row.status });
            }
        }
        let mut settings: Settings = serde_json::from_str(&row.settings)
            .map_err(|error| Error::Settings { run: id, message: error.to_string() })?;
        settings.stop_after_plan = false;
        if let Some(limits) = overrides.limits {
            settings.limits = limits;
        }
        if let Some(concurrency) = overrides.concurrency {
            settings.concurrency = concurrency;
        }
        if let Some(mode) = overrides.mode {
            settings.offline = matches!(mode, Mode::Offline);
        }
        self.refuse_unpriced(&settings.limits)?;
        let claim = if lock.is_some() { Claim::Force } else { Claim::IfFree };
        let epoch = match self.store.claim_run(id, &self.node, self.deps.limits.lease, claim).await {
            Ok(epoch) => epoch,
            Err(crewline_store::Error::Held { owner, .. }) => return Err(Error::Held { run: id, owner }),
            Err(crewline_store::Error::Finished { status, .. }) => return Err(Error::Finished { run: id, status }),
            Err(error) => return Err(error.into()),
        };
        self.store.configure_run(id, epoch, &settings_text(&settings)).await?;
        let at = self.deps.clock.now();
        let mut change = Change::new(id, epoch, at);
        change.events.push(NewEvent::of_run(
            at,
            EventBody::RunStarted { project: row.project.clone(), goal: row.goal.clone(), resumed: true },
        ));
        self.commit(id, change).await?;
        self.start_manager(id, lock).await?;
        Ok(row.last_seq)
    }

    /// The run's events after `after_seq`: from the database, then live; ends after `run_finished`.
    pub fn watch(&self, run: RunId, after_seq: u64) -> Watch {
        Watch {
            store: self.store.clone(),
            live: self.hub.subscribe(run),
            run,
            after: after_seq,
            buffer: VecDeque::new(),
            must_read: true,
            is_over: false,
        }
    }

    /// Starts nothing more, lets what runs end; the run ends as interrupted.
    pub async fn drain(&self, run: RunId) -> Result<(), Error> {
        self.to_manager(run, manager::Message::Drain).await
    }

    /// Like [`Self::drain`], but aborts what runs. `resume` continues the run.
    pub async fn abort(&self, run: RunId) -> Result<(), Error> {
        self.to_manager(run, manager::Message::Abort).await
    }

    /// Aborts what runs and ends the run for good.
    pub async fn cancel(&self, run: RunId) -> Result<(), Error> {
        self.to_manager(run, manager::Message::Cancel).await
    }

    /// All that is recorded of a run.
    pub async fn report(&self, run: RunId) -> Result<Report, Error> {
        report::report(&self.store, run).await
    }

    /// The runs, newest first.
    pub async fn runs(&self, project: Option<&str>, limit: u32) -> Result<Vec<RunSummary>, Error> {
        Ok(self.store.runs(project, limit).await?.into_iter().map(RunSummary::from).collect())
    }

    /// The run whose id begins with `prefix`.
    pub async fn find_run(&self, prefix: &str) -> Result<RunId, Error> {
        if let Ok(id) = prefix.parse() {
            return Ok(id);
        }
        let not_found = || Error::NotFound { what: "run", id: prefix.chars().take(40).collect() };
        if prefix.is_empty() {
            return Err(not_found());
        }
        let runs = self.store.runs(None, 10_000).await?;
        let mut found = runs.iter().map(|row| row.id).filter(|id| id.as_str().starts_with(prefix));
        match (found.next(), found.next()) {
            (None, _) => Err(not_found()),
            (Some(id), None) => Ok(id),
            (Some(first), Some(second)) => Err(Error::Ambiguous {
                prefix: prefix.into(),
                candidates: [first, second].into_iter().chain(found.take(6)).map(|id| id.to_string()).collect(),
            }),
        }
    }

    /// Writes `RESULT.md`, `INDEX.md`, `tasks/` and `report.json` of a run into `out`.
    pub async fn write_documents(&self, report: &Report, out: &Path) -> Result<(), Error> {
        documents::write(&self.store, report, out).await
    }

    /// Whether the database answers and the actors live.
    pub async fn is_ready(&self) -> Result<(), Error> {
        self.store.check().await?;
        ask(&self.root, ROOT_LIMIT, root::Message::Active).await?;
        Ok(())
    }

    /// Drains every run, empties the outbox as far as `limit` allows, and stops everything.
    pub async fn shutdown(&self, limit: Duration) {
        let until = tokio::time::Instant::now() + limit;
        crate::actor::tell(&self.root, root::Message::DrainAll);
        while tokio::time::Instant::now() < until {
            match ask(&self.root, ROOT_LIMIT, root::Message::Active).await {
                Ok(0) | Err(_) => break,
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        if let Some(memory) = self.deps.rooms.memory.current() {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            if ask(&memory, left, memory::Message::Flush).await.is_err() {
                tracing::debug!("memories stay in the outbox until the next start");
            }
        }
        self.root.stop(None);
        self.deps.models.shutdown().await;
    }

    /// The bounds in force.
    pub fn limits(&self) -> Limits {
        self.deps.limits
    }

    #[cfg(test)]
    pub(crate) fn rooms(&self) -> Rooms {
        self.deps.rooms.clone()
    }

    #[cfg(test)]
    pub(crate) fn root(&self) -> &ActorRef<root::Message> {
        &self.root
    }

    fn ids(&self) -> std::sync::MutexGuard<'_, IdSource> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self, run: RunId) -> Result<Option<Arc<RunLock>>, Error> {
        self.locks.as_deref().map(|folder| RunLock::take(folder, run, &self.node).map(Arc::new)).transpose()
    }

    async fn admit(&self) -> Result<(), Error> {
        let active = ask(&self.root, ROOT_LIMIT, root::Message::Active).await?;
        if active >= self.deps.limits.runs_max {
            return Err(Error::Busy { active });
        }
        Ok(())
    }

    fn checked(&self, document: &Document) -> Result<plan::Plan, Error> {
        plan::check(document, &planning::file_rules(&self.deps.registry)).map_err(|problems| Error::Plan { problems })
    }

    /// A cap on cost can only hold where every model has a price.
    fn refuse_unpriced(&self, limits: &RunLimits) -> Result<(), Error> {
        if limits.cost_max.is_none() {
            return Ok(());
        }
        let registry = &self.deps.registry;
        let default = Role::from("default");
        let mut models: Vec<String> = registry
            .roles()
            .iter()
            .chain([&default])
            .flat_map(|role| registry.chain(role))
            .filter(|model| model.price.is_none())
            .map(|model| format!("`{}`", model.alias))
            .collect();
        models.sort_unstable();
        models.dedup();
        if models.is_empty() { Ok(()) } else { Err(Error::Unpriced { models }) }
    }

    /// A commit outside the journal: the run's manager does not exist yet.
    async fn commit(&self, run: RunId, change: Change) -> Result<(), Error> {
        match self.store.commit(&[change]).await?.pop() {
            Some(Committed::Done { events }) => {
                self.hub.publish(events);
                Ok(())
            }
            Some(Committed::Stale) | None => Err(Error::Held { run, owner: "another process that was faster".into() }),
        }
    }

    async fn start_manager(&self, run: RunId, lock: Option<Arc<RunLock>>) -> Result<(), Error> {
        let args = manager::Args {
            run,
            deps: Arc::clone(&self.deps),
            store: self.store.clone(),
            hub: self.hub.clone(),
            node: Arc::clone(&self.node),
            lock,
            ids: Arc::clone(&self.ids),
        };
        ask(&self.root, ROOT_LIMIT, |reply| root::Message::Launch(Box::new(args), reply)).await?;
        Ok(())
    }

    async fn to_manager(&self, run: RunId, message: manager::Message) -> Result<(), Error> {
        let is_there = ask(&self.root, ROOT_LIMIT, |reply| root::Message::ToManager(run, message, reply)).await?;
        if is_there { Ok(()) } else { Err(Error::NotFound { what: "active run", id: run.to_string() }) }
    }
}

fn settings_text(settings: &Settings) -> String {
    // Plain numbers and flags always serialise.
    serde_json::to_string(settings).unwrap_or_default()
}

fn root_task(run: RunId, id: TaskId, goal: &str, at: crewline_types::Timestamp) -> Task {
    Task {
        id,
        run,
        parent: None,
        key: "root".into(),
        position: 0,
        kind: TaskKind::Root,
        title: "Plan the work".into(),
        description: goal.into(),
        role: Role::manager(),
        priority: Priority::default(),
        status: TaskStatus::Pending,
        success_criteria: Vec::new(),
        attempts: 0,
        result: None,
        reason: None,
        model: None,
        usage: Usage::default(),
        cost: crewline_types::MicroUsd::ZERO,
        created_at: at,
        started_at: None,
        finished_at: None,
    }
}

/// The events of a run, one after the other, without gaps.
pub struct Watch {
    store: Store,
    live: broadcast::Receiver<News>,
    run: RunId,
    after: u64,
    buffer: VecDeque<Event>,
    must_read: bool,
    is_over: bool,
}

impl Watch {
    /// The next event; `None` after `run_finished`, or after the error that ended the watch.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        loop {
            if self.is_over {
                return None;
            }
            if let Some(event) = self.buffer.pop_front() {
                self.after = event.seq;
                // A run that was resumed has an end in the middle of its history.
                self.is_over = self.buffer.is_empty()
                    && matches!(event.body, EventBody::RunFinished { .. })
                    && self.live.is_empty();
                return Some(Ok(event));
            }
            if self.must_read {
                match self.store.events(self.run, self.after, PAGE).await {
                    Ok(events) => {
                        self.must_read = events.len() == PAGE as usize;
                        self.buffer.extend(events);
                    }
                    Err(error) => {
                        self.is_over = true;
                        return Some(Err(error.into()));
                    }
                }
                if !self.buffer.is_empty() {
                    continue;
                }
            }
            match tokio::time::timeout(POLL, self.live.recv()).await {
                Ok(Ok(News::Event(event))) if event.seq == self.after + 1 => self.buffer.push_back((*event).clone()),
                Ok(Ok(News::Event(event))) if event.seq <= self.after => {}
                Ok(Ok(News::GaveUp(note))) => {
                    self.is_over = true;
                    return Some(Err(Error::GaveUp { run: self.run, note: (*note).clone() }));
                }
                // A gap, an overrun, or silence: the database is the truth.
                Ok(Ok(News::Event(_)) | Err(broadcast::error::RecvError::Lagged(_))) | Err(_) => self.must_read = true,
                Ok(Err(broadcast::error::RecvError::Closed)) => {
                    tokio::time::sleep(POLL).await;
                    self.must_read = true;
                }
            }
        }
    }
}
