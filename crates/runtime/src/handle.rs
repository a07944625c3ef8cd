//! The one door of the runtime: what the CLI and the API may ask for.
//!
//! **Invariant:** a launched run is a row before it is a message; whoever has its id can find it after a crash.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crewline_engine::{
    plan::{self, Document},
    route::Mode,
    schedule::Strategy,
};
use crewline_memory::{Embedded, Hybrid};
use crewline_models::Reloader;
use crewline_store::{Change, Claim, Committed, LaunchKey, NewRun, RunEnd, Store, Transition, Wished};
use crewline_types::{
    EventBody, IdSource, ModelAlias, Role, RunId, RunLimits, RunStatus, Task, TaskCounts, TaskId, TaskKind, TaskStatus,
    Usage, event::NewEvent,
};
use ractor::{Actor, ActorRef};
use tokio::sync::Semaphore;

use crate::{
    Config, Error, Limits, Report, RunSummary, TaskReport,
    actor::{ask, tell},
    attempt::Deps,
    choices::Choices,
    documents,
    experience::Experience,
    health::Health,
    hub::Hub,
    journal,
    library::Library,
    lock::{Locks, RunLock},
    manager, memory,
    planning::{self, Author, Below},
    prompt::Prompts,
    report,
    residence::Residence,
    rooms::Rooms,
    root::{self, Root},
    settings::{Approve, Settings},
    verify, warden,
    watch::Watch,
    workshop::Workshop,
};

/// Wait for an answer of the root.
const ROOT_LIMIT: Duration = Duration::from_secs(10);
/// How soon it is looked again whether a manager has let its run go.
const LET_GO: Duration = Duration::from_millis(10);

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
    /// Which of the tasks that are ready goes first.
    pub strategy: Strategy,
    /// Which hosts may be asked.
    pub mode: Mode,
    /// Refuse a plan that needs repair.
    pub strict_plan: bool,
    /// Stop when the plan is recorded; `resume` runs it.
    pub stop_after_plan: bool,
    /// What a person wants to be asked about.
    pub approve: Approve,
    /// The folder that its specialists work in, when they may.
    pub workspace: Option<PathBuf>,
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

/// How far a run that is continued goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// To its end: somebody asked for it.
    Done,
    /// As far as it was launched to go: it lost its process.
    AsLaunched,
}

/// What came of a launch that may have been asked for before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launched {
    /// The run is new.
    Now(RunId),
    /// The run is there since the first time.
    Before(RunId),
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
    locks: Locks,
    pub(crate) reloader: Option<Reloader>,
    /// Whether this process goes on with runs by itself.
    keeps_runs: Arc<AtomicBool>,
}

impl Handle {
    /// Starts the actors. The database is open and migrated already.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let Config { store, models, reloader, memory, clock, node, locks, prompts, tools, dispatch, limits } = config;
        let rooms = Rooms::default();
        let hub = Hub::default();
        let deps = Arc::new(Deps {
            rooms,
            rules: memory.rules.clone(),
            models,
            health: Health::default(),
            experience: Experience::default(),
            residence: Residence::default(),
            prompts: Prompts::load(prompts.as_deref())?,
            choices: Choices::new(store.clone()),
            store: store.clone(),
            clock,
            dispatch,
            workshop: Workshop::new(&tools.folder, tools.helper),
            preparing: Semaphore::new(limits.preparing_max),
            limits,
        });
        let args = root::Args {
            deps: Arc::clone(&deps),
            journal: journal::Args {
                store: store.clone(),
                hub: hub.clone(),
                scribe: deps.rooms.scribe.clone(),
                commit_limit: limits.commit,
            },
            memory: Library::new(
                store.clone(),
                Hybrid::new(Embedded::with_weights(memory.weights).ruled(memory.rules.clone()), memory.qdrant)
                    .reranked(memory.reranker),
                memory.embedder,
                Arc::clone(&deps.clock),
            ),
        };
        let (root, _) = Actor::spawn(None, Root, args).await.map_err(|error| Error::Spawn(error.to_string()))?;
        let ids = Arc::new(Mutex::new(IdSource::random()));
        let keeps_runs = Arc::default();
        let node: Arc<str> = node.into();
        let locks = Locks::new(Arc::clone(&node), locks);
        Ok(Self { root, deps, store, hub, ids, node, locks, reloader, keeps_runs })
    }

    /// Records a run and starts its manager.
    pub async fn launch(&self, request: RunRequest) -> Result<RunId, Error> {
        self.admit().await?;
        let owner = Some((&*self.node, self.deps.limits.lease));
        let recorded = self.record(&request, owner).await?;
        self.start_manager(recorded.id, recorded.lock, None).await?;
        Ok(recorded.id)
    }

    /// Like [`Self::launch`], but launches once: what is asked for again with the same key is the run that is there.
    pub async fn launch_once(&self, request: RunRequest, key: LaunchKey) -> Result<Launched, Error> {
        if let Some(run) = self.launched(&key).await? {
            return Ok(Launched::Before(run));
        }
        self.admit().await?;
        let owner = Some((&*self.node, self.deps.limits.lease));
        match self.record_as(&request, owner, Begin::Running, Some(key.clone())).await {
            Ok(recorded) => {
                self.start_manager(recorded.id, recorded.lock, None).await?;
                Ok(Launched::Now(recorded.id))
            }
            // Somebody with the same key was faster.
            Err(Error::Store(taken @ crewline_store::Error::LaunchKeyTaken)) => {
                self.launched(&key).await?.map(Launched::Before).ok_or(taken.into())
            }
            Err(error) => Err(error),
        }
    }

    /// The run that was launched with `key`; an error when something else was asked for then.
    async fn launched(&self, key: &LaunchKey) -> Result<Option<RunId>, Error> {
        match self.store.launched(&key.name).await? {
            Some((run, request)) if request != key.request => Err(Error::LaunchKeyReused { run }),
            found => Ok(found.map(|(run, _)| run)),
        }
    }

    /// Records a run and leaves it to whoever manages runs on this database.
    pub async fn submit(&self, request: RunRequest) -> Result<RunId, Error> {
        Ok(self.record(&request, None).await?.id)
    }

    /// Records a run with its plan, if there is one, and leaves it at rest: nobody plans or runs it until it is resumed.
    pub async fn propose(&self, request: RunRequest) -> Result<RunId, Error> {
        let request = RunRequest { stop_after_plan: true, ..request };
        Ok(self.record_as(&request, None, Begin::AtRest, None).await?.id)
    }

    async fn record(&self, request: &RunRequest, owner: Option<(&str, Duration)>) -> Result<RecordedRun, Error> {
        self.record_as(request, owner, Begin::Running, None).await
    }

    /// Records a run with its plan, if there is one, or not at all: a crash must not leave one that a model would plan.
    async fn record_as(
        &self,
        request: &RunRequest,
        owner: Option<(&str, Duration)>,
        begin: Begin,
        key: Option<LaunchKey>,
    ) -> Result<RecordedRun, Error> {
        let workspace = match (&request.workspace, begin) {
            (Some(_), _) => verify::Workspace::There,
            (None, Begin::Running) => verify::Workspace::Missing,
            // People and other agents may do its work.
            (None, Begin::AtRest) => verify::Workspace::Unknown,
        };
        let plan = match &request.plan {
            Some(document) => Some(self.checked(document, workspace)?),
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
            strategy: request.strategy,
            offline: matches!(request.mode, Mode::Offline),
            strict_plan: request.strict_plan,
            stop_after_plan: request.stop_after_plan,
            approve: request.approve,
            workspace: request.workspace.clone(),
            models: BTreeMap::new(),
        };
        let run = NewRun {
            id,
            project: request.project.as_str().into(),
            goal: request.goal.as_str().into(),
            settings: settings_text(&settings),
            registry: self.deps.registry().hash(),
            key,
            at,
        };
        let root = root_task(id, root_id, &request.goal, at);
        let mut change = Change::new(id, 0, at);
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
            change.details = rows.details;
            change.links = rows.links;
        }
        if begin == Begin::AtRest {
            end_at_once(&mut change);
        }
        let events = self.store.create_run_with(&run, &root, None, owner, &change).await?;
        self.hub.publish(events);
        Ok(RecordedRun { id, lock })
    }

    /// Continues a run that was interrupted, reached a limit or lost its process. Returns the `seq` to watch after.
    pub async fn resume(&self, id: RunId, overrides: Overrides) -> Result<u64, Error> {
        self.go_on(id, overrides, Wanted::Done).await
    }

    /// Continues a run. A run that is there for its plan only stops at it, unless a person wants it done.
    pub(crate) async fn go_on(&self, id: RunId, overrides: Overrides, wanted: Wanted) -> Result<u64, Error> {
        self.admit().await?;
        let lock = self.take(id).await?;
        let row = self.store.run(id).await?.ok_or_else(|| Error::NotFound { what: "run", id: id.to_string() })?;
        match row.status {
            RunStatus::Running | RunStatus::Interrupted | RunStatus::LimitReached => {}
            RunStatus::Completed | RunStatus::Failed | RunStatus::Cancelled => {
                return Err(Error::Finished { run: id, status: row.status });
            }
        }
        let mut settings = Settings::of(&row)?;
        let wished = match wanted {
            Wanted::Done => {
                settings.stop_after_plan = false;
                Wished::Forgotten
            }
            Wanted::AsLaunched => Wished::Kept,
        };
        settings.change(&overrides);
        self.refuse_unpriced(&settings.limits)?;
        let epoch = self.claim(id, lock.claim()).await?;
        self.store.configure_run(id, epoch, &settings_text(&settings), wished).await?;
        let at = self.deps.clock.now();
        let mut change = Change::new(id, epoch, at);
        change.events.push(NewEvent::of_run(
            at,
            EventBody::RunStarted { project: row.project.clone(), goal: row.goal.clone(), resumed: true },
        ));
        self.commit(id, change).await?;
        self.start_manager(id, lock, None).await?;
        Ok(row.last_seq)
    }

    /// The run's events after `after_seq`: from the database, then live; ends after `run_finished`.
    pub fn watch(&self, run: RunId, after_seq: u64) -> Watch {
        Watch::new(self.store.clone(), &self.hub, run, after_seq)
    }

    /// Starts nothing more, lets what runs end; the run ends as interrupted.
    pub async fn drain(&self, run: RunId) -> Result<(), Error> {
        self.to_manager(run, manager::Message::Drain).await
    }

    /// Like [`Self::drain`], but aborts what runs. `resume` continues the run.
    pub async fn abort(&self, run: RunId) -> Result<(), Error> {
        self.to_manager(run, manager::Message::Abort).await
    }

    /// All that is recorded of a run.
    pub async fn report(&self, run: RunId) -> Result<Report, Error> {
        report::report(&self.store, run).await
    }

    /// The runs, newest first.
    pub async fn runs(&self, project: Option<&str>, limit: u32) -> Result<Vec<RunSummary>, Error> {
        report::summaries(&self.store, self.store.runs(project, limit).await?).await
    }

    /// Writes `RESULT.md`, `INDEX.md`, `tasks/` and `report.json` of a run into `out`.
    pub async fn write_documents(&self, report: &Report, out: &Path) -> Result<(), Error> {
        documents::write(&self.store, report, out).await
    }

    /// What a task of a report made; none when it made nothing.
    pub async fn text(&self, task: &TaskReport) -> Result<Option<Arc<str>>, Error> {
        let Some(hash) = task.result else { return Ok(None) };
        Ok(self.store.texts(&[hash]).await?.remove(&hash))
    }

    /// Whether the database answers and the actors live.
    pub async fn is_ready(&self) -> Result<(), Error> {
        self.store.check().await?;
        ask(&self.root, ROOT_LIMIT, root::Message::Active).await?;
        Ok(())
    }

    /// Runs that a person's decision lets go on are gone on with here from now on: this process stays.
    pub fn keep_runs(&self) {
        self.keeps_runs.store(true, Ordering::Relaxed);
    }

    pub(crate) fn manages_runs(&self) -> bool {
        self.keeps_runs.load(Ordering::Relaxed)
    }

    /// Drains every run, empties the outbox as far as `limit` allows, and stops everything.
    pub async fn shutdown(&self, limit: Duration) {
        let until = tokio::time::Instant::now() + limit;
        tell(&self.root, root::Message::ToManagers(|| manager::Message::Drain));
        self.wind_down(until).await;
    }

    /// Like [`Self::shutdown`], but leaves the runs to whoever manages them next: another process on the same database, or
    /// this one when it is started again.
    pub async fn hand_over(&self, limit: Duration) {
        let until = tokio::time::Instant::now() + limit;
        tell(&self.root, root::Message::ToManagers(|| manager::Message::HandOver));
        self.wind_down(until).await;
    }

    async fn wind_down(&self, until: tokio::time::Instant) {
        self.deps.rooms.warden.tell(warden::Message::Drain);
        self.drain_worker(until).await;
        while tokio::time::Instant::now() < until {
            match ask(&self.root, ROOT_LIMIT, root::Message::Active).await {
                Ok(0) | Err(_) => break,
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        self.retire().await;
        self.close_shadow(until).await;
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

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn deps(&self) -> Arc<Deps> {
        Arc::clone(&self.deps)
    }

    pub(crate) fn has_lock_files(&self) -> bool {
        self.locks.have_files()
    }

    pub(crate) fn node(&self) -> Arc<str> {
        Arc::clone(&self.node)
    }

    pub(crate) fn root_actor(&self) -> &ActorRef<root::Message> {
        &self.root
    }

    pub(crate) fn hint_events(&self, run: RunId) {
        self.hub.hint(run);
    }

    pub(crate) fn ids(&self) -> std::sync::MutexGuard<'_, IdSource> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock(&self, run: RunId) -> Result<Arc<RunLock>, Error> {
        self.locks.take(run).map(Arc::new)
    }

    /// Takes the run. A manager of this process that has recorded its end is about to let it go.
    pub(crate) async fn take(&self, run: RunId) -> Result<Arc<RunLock>, Error> {
        let until = tokio::time::Instant::now() + ROOT_LIMIT;
        loop {
            let owner = match self.lock(run) {
                Err(Error::Held { owner, .. }) => owner,
                taken => return taken,
            };
            let is_ours = owner == *self.node && tokio::time::Instant::now() < until;
            if !is_ours || self.store.run(run).await?.is_none_or(|row| row.status == RunStatus::Running) {
                return Err(Error::Held { run, owner });
            }
            tokio::time::sleep(LET_GO).await;
        }
    }

    pub(crate) fn publish(&self, events: Vec<crewline_types::Event>) {
        self.hub.publish(events);
    }

    /// Takes a run for this process.
    pub(crate) async fn claim(&self, run: RunId, claim: Claim) -> Result<u64, Error> {
        match self.store.claim_run(run, &self.node, self.deps.limits.lease, claim).await {
            Ok(epoch) => Ok(epoch),
            Err(crewline_store::Error::Held { owner, .. }) => Err(Error::Held { run, owner }),
            Err(crewline_store::Error::Finished { status, .. }) => Err(Error::Finished { run, status }),
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses a model that the registry does not have.
    pub(crate) fn check_model(&self, model: Option<&ModelAlias>) -> Result<(), Error> {
        match model {
            Some(alias) if self.deps.registry().model(alias.as_str()).is_none() => {
                Err(Error::NotFound { what: "model", id: alias.as_str().chars().take(40).collect() })
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(crate) async fn admit(&self) -> Result<(), Error> {
        let active = ask(&self.root, ROOT_LIMIT, root::Message::Active).await?;
        if active >= self.deps.limits.runs_max {
            return Err(Error::Busy { active });
        }
        Ok(())
    }

    pub(crate) fn checked(&self, document: &Document, workspace: verify::Workspace) -> Result<plan::Plan, Error> {
        let registry = self.deps.registry();
        let rules = planning::file_rules(&registry);
        let plan = plan::check(document, &rules).map_err(|problems| Error::Plan { problems })?;
        let problems = verify::problems(&plan, &registry, workspace);
        if problems.is_empty() { Ok(plan) } else { Err(Error::Plan { problems }) }
    }

    /// A cap on cost can only hold where every model has a price.
    pub(crate) fn refuse_unpriced(&self, limits: &RunLimits) -> Result<(), Error> {
        if limits.cost_max.or(limits.task_cost_max).or(limits.project_cost_max).is_none() {
            return Ok(());
        }
        let registry = self.deps.registry();
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
    pub(crate) async fn commit(&self, run: RunId, change: Change) -> Result<(), Error> {
        match self.store.commit(&[change]).await?.pop() {
            Some(Committed::Done { events }) => {
                self.hub.publish(events);
                Ok(())
            }
            Some(Committed::Stale | Committed::OverBudget { .. }) | None => {
                Err(Error::Held { run, owner: "another process that was faster".into() })
            }
        }
    }

    /// Before the first attempt of this process: what came of earlier calls.
    pub(crate) async fn load_experience(&self) {
        self.deps.experience.load_once(&self.store).await;
    }

    pub(crate) async fn start_manager(
        &self,
        run: RunId,
        lock: Arc<RunLock>,
        halt: Option<manager::Halt>,
    ) -> Result<(), Error> {
        self.load_experience().await;
        let args = manager::Args {
            run,
            deps: Arc::clone(&self.deps),
            store: self.store.clone(),
            hub: self.hub.clone(),
            node: Arc::clone(&self.node),
            lock,
            ids: Arc::clone(&self.ids),
            halt,
            had: Arc::new(AtomicU64::new(if halt.is_some() { u64::MAX } else { 0 })),
        };
        self.hub.begin(run);
        ask(&self.root, ROOT_LIMIT, |reply| root::Message::Launch(Box::new(args), reply)).await?;
        Ok(())
    }

    pub(crate) async fn to_manager(&self, run: RunId, message: manager::Message) -> Result<(), Error> {
        let is_there = ask(&self.root, ROOT_LIMIT, |reply| root::Message::ToManager(run, message, reply)).await?;
        if is_there { Ok(()) } else { Err(Error::NotFound { what: "active run", id: run.to_string() }) }
    }
}

/// How a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// Somebody manages it, or will.
    Running,
    /// It waits to be resumed.
    AtRest,
}

/// The run is interrupted from its first transaction on.
fn end_at_once(change: &mut Change) {
    let mut tasks = TaskCounts::default();
    for task in &change.tasks {
        tasks.add(task.status);
    }
    let status = RunStatus::Interrupted;
    change.run_status = Some(RunEnd { status, finished_at: change.at, error: None });
    change.events.push(NewEvent::of_run(
        change.at,
        EventBody::RunFinished {
            status,
            tasks,
            cost_usd: crewline_types::MicroUsd::ZERO,
            unpriced_calls: 0,
            usage: Usage::default(),
            elapsed_ms: 0,
            error: None,
        },
    ));
}

/// A run that has a row, and whose manager is not started yet.
struct RecordedRun {
    id: RunId,
    lock: Arc<RunLock>,
}

pub(crate) fn settings_text(settings: &Settings) -> String {
    // Plain numbers and flags always serialise.
    serde_json::to_string(settings).unwrap_or_default()
}

pub(crate) fn root_task(run: RunId, id: TaskId, goal: &str, at: crewline_types::Timestamp) -> Task {
    Task {
        kind: TaskKind::Root,
        title: "Plan the work".into(),
        description: goal.into(),
        ..Task::new(id, run, "root", Role::manager(), at)
    }
}
